/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is missing here may be at another worker: a unit that has memory asks them one after the
 * other, and then the store.
 *
 *     wask_start -> if the segment is not ours and a reader here wants it:
 *                     one that owned it and drains: "what is in your cache"
 *                     its owners: "what is in your cache" -> NOT_CACHED: "then fetch it" (they keep
 *                     it)
 *                -> whoever owns or owned it: "what is in your cache"
 *                -> nobody has it: the store
 *
 * Who sends nothing at all for a second, whatever it is asked, does not answer. Who sends others
 * what they asked for, or says that it is busy, is waited for and asked again for half of the
 * store's timeout: many readers of the same bytes must not turn to the store because their owner
 * has much to do. When the store then fails, the bytes may still be there: the unit fails as BUSY,
 * which passes. A fetch at the owner has the deadline of the store, and ends as soon as the
 * topology says that the owner is not alive any more. Each answer is compared with its checksums,
 * and its tag with what is known of the file, before anybody sees a byte of it.
 *
 * No loops: what comes from another worker, or from a load, is never passed on (unit->forward is
 * off), and a unit that waits for an owner stops doing so when such a request joins it. Questions
 * are answered from tiers alone.
 */
#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"
#include "lib/base/hash.h"
#include "lib/base/log.h"
#include "lib/client/peers.h"
#include "worker/worker_priv.h"

#define ASK_NS         TARN_NS_PER_S        /* the least time of a question */
#define ASK_STORE_NS   (30 * TARN_NS_PER_S) /* of a fetch there, when the store is not known here */
#define ASK_MORE_NS    (5 * TARN_NS_PER_S)  /* for the way */
#define ASK_WATCH_NS   (250 * TARN_NS_PER_MS)
#define ASK_SILENT_MAX 4u                    /* looks without a byte of it: it does not answer */
#define ASK_PAUSE_NS   (40 * TARN_NS_PER_MS) /* after BUSY; doubled for each one that follows */
#define ASK_PAUSES_MAX 4u
#define ASK_LEVEL_MAX  TARN_VERIFIED_STORE_CHECKSUM

struct wask {
    struct wunit *unit;
    struct tarn_rpc_req req;
    struct tarn_timer watch;                   /* of the answer, or of the pause */
    uint64_t until_ns;                         /* loop time: who is busy until then is given up */
    uint64_t received;                         /* at the last look */
    unsigned silent;                           /* looks without a byte of it */
    unsigned busy;                             /* answers in a row that said so */
    bool paused;                               /* it is asked again when `watch` is due */
    uint64_t ids[2 * TARN_PLACE_PICK_MAX + 1]; /* workers, in order */
    unsigned n, at;                            /* of them; the one being asked */
    unsigned from, owners; /* [from, owners) are owners: they may be asked to fetch it */
    bool plain;            /* it was */
};

static struct tarn_place *ask_place(const struct tarn_worker *w)
{
    return w->peers ? tarn_peers_place(w->peers) : NULL;
}

/* ---- who owns ---------------------------------------------------------------------------------
 */

bool wask_owns(const struct tarn_worker *w, const struct wloc *loc, uint32_t group)
{
    struct tarn_place *place = ask_place(w);

    return !place ||
           tarn_place_owns(place, &loc->cid, tarn_segment_of((uint64_t)group * TARN_UNIT_BYTES),
                           loc->replicas, w->args.id);
}

bool wask_owner_usable(const struct tarn_worker *w, const struct wloc *loc, uint32_t group)
{
    const struct tarn_place_worker *owners[TARN_PLACE_PICK_MAX];
    struct tarn_place *place = ask_place(w);
    unsigned n = place ? tarn_place_owners(place, &loc->cid,
                                           tarn_segment_of((uint64_t)group * TARN_UNIT_BYTES),
                                           loc->replicas, owners)
                       : 0;

    for (unsigned i = 0; i < n; i++)
        if (tarn_peers_usable(w->peers, owners[i]->id))
            return true;
    return false;
}

static void ask_add(struct wask *a, uint64_t id)
{
    for (unsigned i = 0; i < a->n; i++)
        if (a->ids[i] == id)
            return;
    a->ids[a->n++] = id;
}

static void ask_list(const struct wunit *u, struct wask *a)
{
    const struct tarn_place_worker *found[TARN_PLACE_PICK_MAX];
    const struct tarn_worker *w = u->worker;
    struct tarn_place *place = ask_place(w);
    uint32_t segment = tarn_segment_of(u->off_bytes);
    unsigned n;

    if (!place)
        return;
    if (u->forward && !wask_owns(w, u->loc, u->group)) {
        const struct tarn_place_worker *leaver = tarn_place_leaver(place, &u->loc->cid, segment);

        /* Else the owner would take it from there, whatever the limit of the drain is. */
        if (leaver && leaver->id != w->args.id && tarn_peers_usable(w->peers, leaver->id))
            ask_add(a, leaver->id);
        a->from = a->n;
        n = tarn_place_owners(place, &u->loc->cid, segment, u->loc->replicas, found);
        for (unsigned i = 0; i < n; i++)
            if (tarn_peers_usable(w->peers, found[i]->id))
                ask_add(a, found[i]->id);
        a->owners = a->n;
    }
    n = tarn_place_before(place, &u->loc->cid, segment, u->loc->replicas, w->args.id, found);
    for (unsigned i = 0; i < n; i++)
        ask_add(a, found[i]->id);
}

/* ---- the answer -------------------------------------------------------------------------------
 */

/* Bytes that are what they should be become the unit's; negative: nothing was taken. */
static int ask_take(struct wunit *u, const Tarn__Wire__ReadResponse *resp,
                    struct tarn_buf **payload)
{
    const struct tarn_buf *b = *payload;
    uint32_t at = 0;

    if (!resp || !b || b->len != u->len_bytes || resp->offset != u->off_bytes ||
        resp->n_sums != tarn_div_up(u->len_bytes, TARN_GRANULE_BYTES))
        return -TARN_E_MSG_BAD;
    for (size_t i = 0; i < resp->n_sums; i++, at += TARN_GRANULE_BYTES)
        if (tarn_xxh3(b->p + at, TARN_MIN(TARN_GRANULE_BYTES, u->len_bytes - at)) != resp->sums[i])
            return -TARN_E_GRANULE_SUM;
    if (wetag_check_tag(u->worker, u->loc, resp->tag) < 0)
        return -TARN_E_NOT_CACHED; /* of another object, which took its place: the store decides */
    tarn_buf_unref(&u->buf);
    u->buf = *payload;
    *payload = NULL;
    u->arrived = u->len_bytes;
    u->level = TARN_MIN(resp->level, (uint32_t)ASK_LEVEL_MAX);
    u->tag = resp->tag;
    u->source = resp->source && strcmp(resp->source, "ufs") == 0 ? WSOURCE_UFS : WSOURCE_REMOTE;
    u->worker->counts.peer_bytes += u->len_bytes;
    return 0;
}

static void ask_next(struct wunit *u);

static void ask_free(struct wunit *u)
{
    struct wask *a = u->ask;

    u->ask = NULL;
    tarn_timer_stop(&a->watch);
    free(a);
}

static void ask_send(struct wunit *u, struct tarn_rpc_client *rpc);

static void ask_again(struct tarn_timer *t, void *arg)
{
    struct wunit *u = arg;

    TARN_ASSERT(u->magic == WUNIT_MAGIC && t == &u->ask->watch);
    u->ask->paused = false;
    if (!u->worker->stopping) {
        ask_next(u);
        return;
    }
    ask_free(u);
    wunit_failed(u, -TARN_E_SHUTDOWN);
}

/* It has much to do, and is asked again after a pause; false: for too long. */
static bool ask_pause(struct wunit *u)
{
    struct wask *a = u->ask;
    struct tarn_loop *loop = u->worker->args.loop;
    uint64_t pause = ASK_PAUSE_NS << TARN_MIN(a->busy, ASK_PAUSES_MAX);

    if (tarn_loop_now_ns(loop) + pause >= a->until_ns)
        return false;
    a->busy++;
    a->plain = false;
    a->paused = true;
    pause = pause / 2 + tarn_rng_below(tarn_rng_system(), pause / 2);
    tarn_timer_start(loop, &a->watch, pause, ask_again, u);
    return true;
}

static void ask_refused(struct wunit *u, int rc)
{
    struct wask *a = u->ask;
    uint64_t id = a->ids[a->at];
    struct tarn_rpc_client *rpc;

    if (rc == -TARN_E_GRANULE_SUM || rc == -TARN_E_MSG_BAD) {
        u->worker->counts.peer_bad++;
        tarn_warn_limited("worker", "worker %llu sent what cannot be used: key=%s offset=%llu: %s",
                          (unsigned long long)id, u->loc->key, (unsigned long long)u->off_bytes,
                          tarn_strerror(rc));
    }
    if (a->plain && tarn_err_of_store(rc)) { /* it has asked the store: so it is */
        (void)tarn_err_set(&u->err, rc, "worker %llu, %s: %s", (unsigned long long)id, u->loc->key,
                           tarn_strerror(rc));
        ask_free(u);
        wunit_failed(u, rc);
        return;
    }
    if (rc == -TARN_E_BUSY && ask_pause(u))
        return;
    u->late |= rc == -TARN_E_BUSY || rc == -TARN_E_DEADLINE;
    tarn_debug("worker", "worker %llu has not: key=%s offset=%llu: %s", (unsigned long long)id,
               u->loc->key, (unsigned long long)u->off_bytes, tarn_strerror(rc));
    rpc =
        rc == -TARN_E_NOT_CACHED && !a->plain && u->forward && a->at >= a->from && a->at < a->owners
            ? tarn_peers_get(u->worker->peers, id)
            : NULL;
    if (rpc) {
        a->plain = true;
        ask_send(u, rpc);
        return;
    }
    a->plain = false;
    a->busy = 0;
    a->at++;
    ask_next(u);
}

/* To a question it would have said something by now; while it fetches it may have nothing to say.
 */
static bool ask_silent(const struct wask *a)
{
    return !a->plain && a->silent >= ASK_SILENT_MAX;
}

static void ask_done(struct tarn_rpc_req *req, int rc)
{
    struct wunit *u = req->arg;
    struct wask *a = u->ask;
    struct tarn_worker *w = u->worker;

    TARN_ASSERT(u->magic == WUNIT_MAGIC && u->state == WUNIT_ASKING && a);
    tarn_timer_stop(&a->watch);
    if (rc == -TARN_E_CANCELLED && ask_silent(a))
        rc = -TARN_E_DEADLINE;
    if (rc != -TARN_E_DEADLINE || a->silent >= ASK_SILENT_MAX) /* else it has told others */
        tarn_peers_note(w->peers, a->ids[a->at], rc);
    if (rc == 0)
        rc = ask_take(u, (const Tarn__Wire__ReadResponse *)req->resp, &req->resp_payload);
    tarn_rpc_req_fini(req);
    if (w->stopping && rc < 0) {
        ask_free(u);
        wunit_failed(u, -TARN_E_SHUTDOWN);
    } else if (rc == 0) {
        ask_free(u);
        wunit_arrived(u);
    } else {
        ask_refused(u, rc);
    }
}

/* ---- the question -----------------------------------------------------------------------------
 */

static void ask_watch(struct tarn_timer *t, void *arg)
{
    struct wunit *u = arg;
    struct wask *a = u->ask;
    const struct tarn_place_worker *owner = tarn_place_find(ask_place(u->worker), a->ids[a->at]);
    uint64_t received = tarn_rpc_received(&a->req);

    a->silent = received == a->received ? a->silent + 1 : 0;
    a->received = received;
    if (owner && owner->alive && !ask_silent(a))
        tarn_timer_start(u->worker->args.loop, t, ASK_WATCH_NS, ask_watch, u);
    else
        tarn_rpc_cancel(&a->req);
}

/* Readers here read on: the owner may as well fetch what comes next. */
static uint32_t ask_ahead(const struct wunit *u)
{
    uint32_t ahead = 0;

    TARN_LIST_FOREACH(n, &u->waiters)
    {
        ahead = TARN_MAX(ahead, TARN_LIST_ENTRY(n, struct wwait, node)->ahead);
    }
    return ahead;
}

/* Of the store. */
static uint64_t ask_timeout_ns(const struct wunit *u)
{
    struct tarn_ufs *ufs = wloc_store(u->worker, u->loc);

    return ufs ? tarn_ufs_timeout_ns(ufs) : ASK_STORE_NS;
}

static void ask_send(struct wunit *u, struct tarn_rpc_client *rpc)
{
    Tarn__Wire__UfsVersion version = TARN__WIRE__UFS_VERSION__INIT;
    Tarn__Wire__Locator locator = TARN__WIRE__LOCATOR__INIT;
    Tarn__Wire__ReadRequest msg = TARN__WIRE__READ_REQUEST__INIT;
    struct wask *a = u->ask;
    struct tarn_loop *loop = u->worker->args.loop;
    uint64_t now = tarn_loop_now_ns(loop);

    wloc_tell(u->loc, &locator, &version);
    msg.locator = &locator;
    msg.offset = u->off_bytes;
    msg.length = u->len_bytes;
    msg.background = u->cls == TARN_UFS_BACKGROUND;
    msg.cached_only = !a->plain;
    msg.peer = true;
    a->req = (struct tarn_rpc_req){.method = TARN_RPC_read,
                                   .msg = &msg.base,
                                   .no_retry = true,
                                   .timeout_ns = TARN_MAX(a->until_ns, now + ASK_NS) - now,
                                   .cb = ask_done,
                                   .arg = u};
    if (a->plain) {
        msg.ahead = ask_ahead(u);
        a->req.timeout_ns = ask_timeout_ns(u) + ASK_MORE_NS;
    }
    u->worker->counts.peer_asks++;
    tarn_rpc_start(rpc, &a->req);
    a->silent = 0;
    a->received = tarn_rpc_received(&a->req);
    tarn_timer_start(loop, &a->watch, ASK_WATCH_NS, ask_watch, u);
}

static void ask_next(struct wunit *u)
{
    struct wask *a = u->ask;
    char cid[TARN_CID_HEX];

    for (; a->at < a->n; a->at++) {
        struct tarn_rpc_client *rpc = tarn_peers_usable(u->worker->peers, a->ids[a->at])
                                          ? tarn_peers_get(u->worker->peers, a->ids[a->at])
                                          : NULL;

        if (rpc) {
            ask_send(u, rpc);
            return;
        }
    }
    tarn_debug("worker", "nobody has it: key=%s cid=%s offset=%llu asked=%u topology=%llu",
               u->loc->key, tarn_cid_text(&u->loc->cid, cid), (unsigned long long)u->off_bytes,
               a->n, (unsigned long long)tarn_place_version(ask_place(u->worker)));
    ask_free(u);
    wunit_from_store(u);
}

bool wask_start(struct wunit *u)
{
    struct wask a = {.unit = u};

    ask_list(u, &a);
    if (a.n == 0)
        return false;
    /* From when it began to wait on, so that the store has the other half. */
    a.until_ns = u->queued_ns + ask_timeout_ns(u) / 2;
    u->ask = tarn_xnew(struct wask);
    *u->ask = a;
    wunit_asking(u);
    ask_next(u);
    return true;
}

void wask_cancel(struct wunit *u)
{
    if (u->ask && u->ask->paused)
        tarn_timer_start(u->worker->args.loop, &u->ask->watch, 0, ask_again, u);
    else if (u->ask)
        tarn_rpc_cancel(&u->ask->req);
}

void wask_keep_here(struct wunit *u)
{
    u->forward = false;
    if (u->ask && u->ask->plain)
        tarn_rpc_cancel(&u->ask->req); /* who asks us may be the one that we wait for */
}

/* ---- what was asked for before ----------------------------------------------------------------
 */

#define RECENT_MAX 65536u

bool wrecent_seen(struct tarn_worker *w, const tarn_cid_t *cid, uint32_t group)
{
    uint64_t h = tarn_hash_u64(tarn_cid_hash(cid) + group), *at;

    h += h == 0;
    if (!w->recent)
        w->recent = tarn_xcalloc(RECENT_MAX, sizeof(*w->recent));
    at = &w->recent[h % RECENT_MAX];
    if (*at == h)
        return true;
    *at = h;
    return false;
}
