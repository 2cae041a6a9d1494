/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The take handler: another worker hands over a group that we own. Without a payload it asks
 * whether we want it.
 *
 *     had already (read back first, unless verified since the start) -> had
 *     our bytes of the file came under another tag                   -> useless
 *     asked                                                          -> none of them: wanted
 *     checksums, room that nothing of ours gives up, store           -> kept; none of them: no room
 *     the tier cannot be written, the file was dropped meanwhile     -> an error
 *
 * The bytes come with a bare cid, which nothing here can prove: so only workers may (their
 * capability says that they are).
 */
#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/hash.h"
#include "lib/base/mem.h"
#include "lib/client/peers.h"
#include "worker/worker_priv.h"

#define TAKE_BYTES_MAX (64ull << 20) /* handed over at a time; more are BUSY */

struct take {
    struct tarn_worker *worker;
    struct tarn_rpc_call *call;
    const Tarn__Wire__TakeRequest *req;
    struct tarn_tier_file *file;
    uint64_t off_bytes;
    uint32_t len_bytes;
    uint64_t memory; /* counted in worker->take_bytes */
    struct tarn_tier_op op;
};

enum take_answer { TAKE_NONE, TAKE_KEPT, TAKE_HAD, TAKE_USELESS };

static void take_end(struct take *t, int rc, enum take_answer what)
{
    Tarn__Wire__TakeResponse resp = TARN__WIRE__TAKE_RESPONSE__INIT;
    struct tarn_worker *w = t->worker;

    resp.kept = what == TAKE_KEPT;
    resp.had = what == TAKE_HAD;
    resp.useless = what == TAKE_USELESS;
    if (what == TAKE_KEPT)
        w->counts.taken_bytes += t->len_bytes;
    w->take_bytes -= t->memory;
    tarn_rpc_reply(t->call, rc, rc == 0 ? &resp.base : NULL, NULL, 0, 0);
    tarn_tier_file_put(&t->file);
    free(t);
    worker_idle(w);
}

static bool take_owns(const struct tarn_worker *w, const struct tarn_tier_file *file,
                      uint32_t group)
{
    const struct tarn_place *place = w->peers ? tarn_peers_place(w->peers) : NULL;

    return !place || tarn_place_owns(place, tarn_tier_file_cid(file),
                                     tarn_segment_of((uint64_t)group * TARN_UNIT_BYTES),
                                     tarn_tier_file_replicas(file), w->args.id);
}

static void take_stored(struct tarn_tier_op *op, int rc)
{
    struct take *t = op->arg;

    tarn_buf_unref(&op->buf);
    if (rc == 0 && t->worker->move && !take_owns(t->worker, t->file, t->req->group))
        tarn_move_stray(t->worker->move); /* another owns it by now */
    take_end(t, rc == -TARN_E_TIER_FULL ? 0 : rc, rc == 0 ? TAKE_KEPT : TAKE_NONE);
}

static void take_reserved(struct tarn_tier_op *op, int rc)
{
    struct take *t = op->arg;

    if (rc == 0 && t->worker->stopping) {
        tarn_tier_unreserve(t->worker->args.tier, t->len_bytes);
        rc = -TARN_E_SHUTDOWN;
    }
    if (rc < 0) {
        take_end(t, rc == -TARN_E_TIER_FULL ? 0 : rc, TAKE_NONE);
        return;
    }
    t->op = (struct tarn_tier_op){.file = t->file,
                                  .group = t->req->group,
                                  .buf = tarn_buf_ref(t->call->payload),
                                  .level = t->req->level,
                                  .tag = t->req->tag,
                                  .reserved_bytes = t->len_bytes,
                                  .cb = take_stored,
                                  .arg = t};
    tarn_tier_store(t->worker->args.tier, &t->op);
}

/* What is offered is not here, or not whole. */
static void take_offered(struct take *t)
{
    struct tarn_worker *w = t->worker;

    if (!wetag_fits(w, tarn_tier_file_cid(t->file), t->file, t->req->tag)) {
        take_end(t, 0, TAKE_USELESS);
        return;
    }
    if (!t->call->payload) {
        take_end(t, 0, TAKE_NONE);
        return;
    }
    t->op = (struct tarn_tier_op){.file = t->file,
                                  .group = t->req->group,
                                  .reserved_bytes = t->len_bytes,
                                  .spare = true,
                                  .cb = take_reserved,
                                  .arg = t};
    tarn_tier_reserve(w->args.tier, &t->op);
}

static bool take_here(const struct take *t)
{
    return tarn_tier_file_verified(t->file, t->off_bytes, t->len_bytes);
}

static void take_loaded(struct tarn_tier_op *op, int rc)
{
    struct take *t = op->arg;

    (void)rc; /* whether it is verified now is what counts */
    if (t->worker->stopping)
        take_end(t, -TARN_E_SHUTDOWN, TAKE_NONE);
    else if (take_here(t))
        take_end(t, 0, TAKE_HAD);
    else
        take_offered(t);
}

static void take_start(struct take *t)
{
    if (take_here(t)) {
        tarn_tier_group_copy(t->worker->args.tier, t->file, t->req->group, false);
        take_end(t, 0, TAKE_HAD);
    } else if (tarn_tier_file_has(t->file, t->off_bytes, t->len_bytes)) {
        t->op = (struct tarn_tier_op){
            .file = t->file, .group = t->req->group, .cb = take_loaded, .arg = t};
        tarn_tier_load(t->worker->args.tier, &t->op);
    } else {
        take_offered(t);
    }
}

/* Everything that does not depend on what is here; *ret_len: bytes of the group. */
static int take_check(const Tarn__Wire__TakeRequest *req, const struct tarn_buf *b,
                      uint32_t *ret_len)
{
    uint32_t len, at = 0;
    size_t n;

    if (req->cid.len != sizeof(tarn_cid_t) || req->length == 0 || req->length > TARN_FILE_MAX ||
        req->group >= tarn_div_up(req->length, TARN_UNIT_BYTES) ||
        req->level > TARN_VERIFIED_STORE_CHECKSUM)
        return -TARN_E_MSG_BAD;
    len = wgroup_len(req->length, req->group);
    n = tarn_div_up(len, TARN_GRANULE_BYTES);
    *ret_len = len;
    if (!b)
        return 0;
    if (b->len != len || req->n_sums != n || req->granules != ~0ull >> (TARN_GROUP_GRANULES - n))
        return -TARN_E_MSG_BAD; /* whole groups alone: others are fetched anew */
    for (size_t i = 0; i < n; i++, at += TARN_GRANULE_BYTES)
        if (tarn_xxh3(b->p + at, TARN_MIN(TARN_GRANULE_BYTES, len - at)) != req->sums[i])
            return -TARN_E_GRANULE_SUM;
    return 0;
}

static int take_may(struct tarn_worker *w, const struct tarn_rpc_call *call)
{
    int rc = worker_check_cap(w, call, 0, true);

    if (rc == 0 && !call->principal.trusted &&
        !tarn_cap_is(&call->meta->capability, WORKER_PRINCIPAL))
        rc = -TARN_E_CAP_BAD;
    if (rc == 0 && !w->args.tier)
        rc = -TARN_E_TIER_FULL;
    return rc;
}

void worker_take_handler(void *ctx, struct tarn_rpc_call *call)
{
    struct tarn_worker *w = ctx;
    const Tarn__Wire__TakeRequest *req = (const Tarn__Wire__TakeRequest *)call->request;
    struct tarn_tier_file *file = NULL;
    uint32_t len = 0;
    struct take *t;
    int rc = take_may(w, call);

    if (rc == 0)
        rc = take_check(req, call->payload, &len);
    if (rc == 0 && call->payload && w->take_bytes + len > TAKE_BYTES_MAX)
        rc = -TARN_E_BUSY;
    if (rc == 0) {
        tarn_cid_t cid;

        memcpy(cid.b, req->cid.data, sizeof(cid.b));
        file = tarn_tier_file_get(w->args.tier, &cid, req->length);
        rc = file ? 0 : -TARN_E_MSG_BAD;
    }
    if (rc < 0) {
        tarn_rpc_reply(call, rc, NULL, NULL, 0, 0);
        return;
    }
    tarn_tier_file_set_replicas(file, TARN_MAX(req->replicas, tarn_tier_file_replicas(file)));
    if (!take_owns(w, file, req->group)) { /* one of us has an older topology: later */
        tarn_tier_file_put(&file);
        tarn_rpc_reply(call, -TARN_E_STALE, NULL, NULL, 0, 0);
        return;
    }
    worker_busy(w);
    t = tarn_xnew(struct take);
    t->worker = w;
    t->call = call;
    t->req = req;
    t->file = file;
    t->off_bytes = (uint64_t)req->group * TARN_UNIT_BYTES;
    t->len_bytes = len;
    t->memory = call->payload ? len : 0;
    w->take_bytes += t->memory;
    take_start(t);
}
