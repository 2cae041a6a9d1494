/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The handlers read, free, cached and worker_status, and what a worker says of itself. (fill is in
 * fill.c, take in take.c.)
 */
#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/mem.h"
#include "worker/worker_priv.h"

void worker_count_source(struct tarn_worker *w, const struct wpart *p)
{
    uint64_t *const to[] = {&w->counts.local_bytes, &w->counts.remote_bytes, &w->counts.ufs_bytes};

    *to[p->source] += p->len_bytes;
}

#define READ_AHEAD_MAX 16u /* groups */

struct rpc_read {
    struct wread read;
    struct wloc *loc;
    struct tarn_rpc_call *call;
    uint64_t sums[TARN_FRAME_PAYLOAD_MAX / TARN_GRANULE_BYTES];
};

static const char *const source_names[] = {"local", "remote", "ufs"};

/* The bytes of all parts in one buffer, referenced. NULL: no memory. */
static struct tarn_buf *read_payload(const struct wread *r, size_t *ret_off)
{
    const struct wpart *only = r->part_count == 1 ? &r->parts[0] : NULL;
    struct tarn_buf *out;
    size_t n = 0;

    /* While a slow peer takes it, a small part must not hold a large buffer. */
    if (only && only->buf->cap <= 2 * (size_t)only->len_bytes) {
        *ret_off = only->buf_off;
        return tarn_buf_ref(only->buf);
    }
    *ret_off = 0;
    out = tarn_buf_new(r->len_bytes);
    for (unsigned i = 0; out && i < r->part_count; i++) {
        const struct wpart *p = &r->parts[i];

        memcpy(out->p + n, p->buf->p + p->buf_off, p->len_bytes);
        n += p->len_bytes;
    }
    return out;
}

/* Whether all parts are of one object: one may have come from the tier before it was dropped, and
 * another from what the store has now. */
static bool read_is_one(const struct wread *r)
{
    for (unsigned i = 1; i < r->part_count; i++)
        if (r->parts[i].tag != r->parts[0].tag)
            return false;
    return true;
}

static void rpc_read_done(struct wread *r, int rc)
{
    struct rpc_read *rr = r->arg;
    struct tarn_worker *w = r->worker;
    Tarn__Wire__ReadResponse resp = TARN__WIRE__READ_RESPONSE__INIT;
    enum wsource source = WSOURCE_LOCAL;
    struct tarn_buf *out = NULL;
    size_t off = 0;

    if (rc == 0 && !read_is_one(r))
        rc = -TARN_E_UFS_CHANGED;
    if (rc == 0) {
        out = read_payload(r, &off);
        rc = out ? 0 : -TARN_E_NO_MEMORY;
    }
    if (out)
        tarn_buf_charge(out, r->account);
    for (unsigned i = 0; rc == 0 && i < r->part_count; i++) {
        struct wpart *p = &r->parts[i];

        source = TARN_MAX(source, p->source);
        resp.level = i ? TARN_MIN(resp.level, p->level) : p->level;
        resp.tag = p->tag;
        if (r->own || r->cached_only)
            w->counts.served_bytes += p->len_bytes;
        else
            worker_count_source(w, p);
    }
    resp.offset = r->off_bytes;
    resp.source = tarn_wire_text(source_names[source]);
    resp.n_sums = rc == 0 ? (size_t)tarn_div_up(r->len_bytes, TARN_GRANULE_BYTES) : 0;
    resp.sums = rr->sums;
    tarn_rpc_reply(rr->call, rc, &resp.base, out, off, rc == 0 ? r->len_bytes : 0);
    tarn_buf_unref(&out);
    wread_fini(r);
    wloc_unref(w, &rr->loc);
    free(rr);
}

static void rpc_read_cancel(struct tarn_rpc_call *call)
{
    struct rpc_read *rr = call->state;

    wread_cancel(&rr->read);
}

static void worker_read_handler(void *ctx, struct tarn_rpc_call *call)
{
    struct tarn_worker *w = ctx;
    const Tarn__Wire__ReadRequest *req = (const Tarn__Wire__ReadRequest *)call->request;
    struct wloc *loc = NULL;
    struct rpc_read *rr;
    uint64_t end;
    int rc = worker_check_cap(w, call, req->locator ? req->locator->attachment : 0, false);

    if (rc == 0 && req->cached_only && req->locator && req->locator->key.len == 0)
        rc = wloc_cached(w, req->locator, &loc);
    else if (rc == 0)
        rc = wloc_new(w, req->locator, &loc);
    if (rc == 0 && (req->length == 0 || req->length > TARN_FRAME_PAYLOAD_MAX / 2 ||
                    req->offset >= loc->ufs.size_bytes)) {
        wloc_unref(w, &loc);
        rc = -TARN_E_INVALID;
    }
    if (rc < 0) {
        tarn_rpc_reply(call, rc, NULL, NULL, 0, 0);
        return;
    }
    rr = tarn_xnew(struct rpc_read);
    rr->call = call;
    rr->loc = loc;
    end = TARN_MIN(req->offset + req->length, loc->ufs.size_bytes);
    end = TARN_MIN(tarn_div_up(end, TARN_GRANULE_BYTES) * TARN_GRANULE_BYTES, loc->ufs.size_bytes);
    rr->read.loc = loc;
    rr->read.off_bytes = req->offset / TARN_GRANULE_BYTES * TARN_GRANULE_BYTES;
    rr->read.len_bytes = (uint32_t)(end - rr->read.off_bytes);
    rr->read.sums = true;
    rr->read.unchecked = req->unchecked;
    rr->read.account = tarn_buf_account_ref(tarn_rpc_session_account(call->session, w->serving));
    rr->read.sum = rr->sums;
    rr->read.cached_only = req->cached_only;
    rr->read.own = req->peer && (call->principal.trusted ||
                                 tarn_cap_is(&call->meta->capability, WORKER_PRINCIPAL));
    rr->read.ahead_units = req->cached_only ? 0 : TARN_MIN(req->ahead, READ_AHEAD_MAX);
    rr->read.cls = req->background ? TARN_UFS_BACKGROUND : TARN_UFS_FOREGROUND;
    rr->read.cb = rpc_read_done;
    rr->read.arg = rr;
    call->state = rr;
    call->on_cancel = rpc_read_cancel;
    wread_start(w, &rr->read);
}

/* Lists of cids. Frees end one after the other; `cached` is answered at once, for a look at each
 * file, or at each group of SEGMENTS_MAX segments at most. */
struct cid_job {
    struct tarn_worker *worker;
    struct tarn_rpc_call *call;
    const ProtobufCBinaryData *cids;
    size_t count, at;
    uint64_t *bytes;
    struct tarn_tier_op op;
    struct tarn_tier_file *file;
    bool free;
};

static int cid_of(const ProtobufCBinaryData *d, tarn_cid_t *ret)
{
    if (d->len != sizeof(ret->b))
        return -TARN_E_MSG_BAD;
    memcpy(ret->b, d->data, sizeof(ret->b));
    return 0;
}

static void cid_job_end(struct cid_job *j, int rc)
{
    struct tarn_worker *w = j->worker;

    if (j->free) {
        Tarn__Wire__FreeResponse resp = TARN__WIRE__FREE_RESPONSE__INIT;

        resp.n_bytes = j->count;
        resp.bytes = j->bytes;
        tarn_rpc_reply(j->call, rc, &resp.base, NULL, 0, 0);
    } else {
        Tarn__Wire__CachedResponse resp = TARN__WIRE__CACHED_RESPONSE__INIT;

        resp.n_bytes = j->count;
        resp.bytes = j->bytes;
        tarn_rpc_reply(j->call, rc, &resp.base, NULL, 0, 0);
    }
    if (j->free && w->changed)
        w->changed(w->changed_arg);
    free(j->bytes);
    free(j);
    worker_idle(w);
}

static void free_next(struct cid_job *j);

static void free_dropped(struct tarn_tier_op *op, int rc)
{
    struct cid_job *j = op->arg;

    tarn_tier_file_put(&j->file);
    if (rc < 0) {
        cid_job_end(j, rc);
        return;
    }
    j->at++;
    free_next(j);
}

static void free_next(struct cid_job *j)
{
    tarn_cid_t cid;

    for (; j->at < j->count; j->at++) {
        if (cid_of(&j->cids[j->at], &cid) < 0) {
            cid_job_end(j, -TARN_E_MSG_BAD);
            return;
        }
        j->file = j->worker->args.tier ? tarn_tier_file_find(j->worker->args.tier, &cid) : NULL;
        if (!j->file)
            continue;
        j->bytes[j->at] = tarn_tier_file_cached(j->file);
        j->op = (struct tarn_tier_op){.file = j->file, .cb = free_dropped, .arg = j};
        tarn_tier_drop(j->worker->args.tier, &j->op);
        return;
    }
    cid_job_end(j, 0);
}

static struct cid_job *cid_job_new(struct tarn_worker *w, struct tarn_rpc_call *call, bool is_free,
                                   size_t count, const ProtobufCBinaryData *cids)
{
    struct cid_job *j = tarn_xnew(struct cid_job);

    worker_busy(w);
    j->worker = w;
    j->call = call;
    j->free = is_free;
    j->count = count;
    j->cids = cids;
    j->bytes = tarn_xcalloc(count, sizeof(*j->bytes));
    return j;
}

static void worker_free_handler(void *ctx, struct tarn_rpc_call *call)
{
    struct tarn_worker *w = ctx;
    const Tarn__Wire__FreeRequest *req = (const Tarn__Wire__FreeRequest *)call->request;
    int rc = worker_check_cap(w, call, 0, true);

    if (rc < 0)
        tarn_rpc_reply(call, rc, NULL, NULL, 0, 0);
    else
        free_next(cid_job_new(w, call, true, req->n_cids, req->cids));
}

#define SEGMENTS_MAX 65536u /* of one answer */

/* The segments of all files of a question; false when they are too many for an answer. */
static bool cached_segments(struct tarn_worker *w, const Tarn__Wire__CachedRequest *req,
                            uint32_t *counts, struct tarn_str *ret)
{
    size_t n = 0;

    for (size_t i = 0; i < req->n_cids; i++) {
        struct tarn_tier_file *f;
        uint64_t length;
        tarn_cid_t cid;

        if (cid_of(&req->cids[i], &cid) < 0 || !w->args.tier)
            continue; /* the caller has refused, or there is nothing */
        f = tarn_tier_file_find(w->args.tier, &cid);
        if (!f)
            continue;
        length = tarn_tier_file_cached(f) > 0 ? tarn_tier_file_length(f) : 0;
        for (uint64_t off = 0; off < length && n <= SEGMENTS_MAX; off += TARN_SEGMENT_BYTES, n++) {
            uint64_t b =
                tarn_tier_file_cached_in(f, off, TARN_MIN(TARN_SEGMENT_BYTES, length - off));

            counts[i]++;
            tarn_str_add(ret, &b, sizeof(b));
        }
        tarn_tier_file_put(&f);
    }
    return n <= SEGMENTS_MAX;
}

static void cached_reply_segments(struct cid_job *j, const Tarn__Wire__CachedRequest *req)
{
    struct tarn_worker *w = j->worker;
    Tarn__Wire__CachedResponse resp = TARN__WIRE__CACHED_RESPONSE__INIT;
    uint32_t *counts = tarn_xcalloc(j->count, sizeof(*counts));
    struct tarn_str bytes = {0};

    resp.n_bytes = j->count;
    resp.bytes = j->bytes;
    if (cached_segments(w, req, counts, &bytes)) {
        resp.n_segment_counts = j->count;
        resp.segment_counts = counts;
        resp.n_segment_bytes = bytes.len / sizeof(uint64_t);
        resp.segment_bytes = (uint64_t *)(void *)bytes.p;
    }
    tarn_rpc_reply(j->call, 0, &resp.base, NULL, 0, 0);
    tarn_str_fini(&bytes);
    free(counts);
    free(j->bytes);
    free(j);
    worker_idle(w);
}

static void worker_cached_handler(void *ctx, struct tarn_rpc_call *call)
{
    struct tarn_worker *w = ctx;
    const Tarn__Wire__CachedRequest *req = (const Tarn__Wire__CachedRequest *)call->request;
    struct cid_job *j;
    tarn_cid_t cid;
    int rc = worker_check_cap(w, call, 0, false);

    if (rc < 0) {
        tarn_rpc_reply(call, rc, NULL, NULL, 0, 0);
        return;
    }
    j = cid_job_new(w, call, false, req->n_cids, req->cids);
    for (; rc == 0 && j->at < j->count; j->at++) {
        struct tarn_tier_file *f;

        rc = cid_of(&j->cids[j->at], &cid);
        f = rc == 0 && w->args.tier ? tarn_tier_file_find(w->args.tier, &cid) : NULL;
        if (f) {
            j->bytes[j->at] = tarn_tier_file_cached(f);
            tarn_tier_file_put(&f);
        }
    }
    if (rc == 0 && req->segments)
        cached_reply_segments(j, req);
    else
        cid_job_end(j, rc);
}

void worker_tell_tier(const struct tarn_tier_info *info, Tarn__Wire__Tier *ret)
{
    ret->medium = tarn_wire_text(tarn_medium_name(info->medium));
    ret->path = tarn_wire_text(info->path);
    ret->capacity = info->capacity_bytes;
    ret->used = info->used_bytes;
    ret->data = info->data_bytes;
    ret->files = info->files;
    ret->evicted = info->evicted_bytes;
    ret->checksum_errors = info->checksum_errors;
    ret->offline = info->offline;
}

void worker_tell_reads(const struct tarn_worker *w, Tarn__Wire__ReadCount rows[3],
                       Tarn__Wire__ReadCount *ptrs[3])
{
    const uint64_t bytes[] = {w->counts.local_bytes, w->counts.remote_bytes, w->counts.ufs_bytes};

    for (unsigned i = 0; i < 3; i++) {
        tarn__wire__read_count__init(&rows[i]);
        rows[i].source = tarn_wire_text(source_names[i]);
        rows[i].bytes = bytes[i];
        ptrs[i] = &rows[i];
    }
}

static void worker_status_handler(void *ctx, struct tarn_rpc_call *call)
{
    struct tarn_worker *w = ctx;
    Tarn__Wire__WorkerStatus resp = TARN__WIRE__WORKER_STATUS__INIT;
    Tarn__Wire__Tier tier = TARN__WIRE__TIER__INIT, *tiers[1] = {&tier};
    char uuid[TARN_TIER_UUID_TEXT];
    Tarn__Wire__ReadCount rows[3], *reads[3];
    struct tarn_tier_info info;

    if (!w->ready) {
        tarn_rpc_reply(call, -TARN_E_BUSY, NULL, NULL, 0, 0);
        return;
    }
    worker_tell_reads(w, rows, reads);
    resp.id = w->args.id;
    resp.state = tarn_wire_text("live");
    resp.alive = true; /* it answers */
    resp.peer_bytes = w->counts.peer_bytes;
    resp.n_reads = TARN_ARRAY_LEN(rows);
    resp.reads = reads;
    if (w->args.tier) {
        tarn_tier_info(w->args.tier, &info);
        worker_tell_tier(&info, &tier);
        tier.uuid = tarn_wire_text(tarn_tier_uuid(w->args.tier, uuid));
        resp.n_tiers = 1;
        resp.tiers = tiers;
    }
    tarn_rpc_reply(call, 0, &resp.base, NULL, 0, 0);
}

void tarn_worker_serve(struct tarn_worker *w, struct tarn_rpc_server *s)
{
    w->server = s;
    tarn_rpc_server_set_worker(s, w->args.id);
    tarn_rpc_server_handle(s, TARN_RPC_read, worker_read_handler, w);
    tarn_rpc_server_handle(s, TARN_RPC_fill, worker_fill_handler, w);
    tarn_rpc_server_handle(s, TARN_RPC_free, worker_free_handler, w);
    tarn_rpc_server_handle(s, TARN_RPC_cached, worker_cached_handler, w);
    tarn_rpc_server_handle(s, TARN_RPC_take, worker_take_handler, w);
    tarn_rpc_server_handle(s, TARN_RPC_worker_status, worker_status_handler, w);
}
