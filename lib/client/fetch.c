/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One range of one segment, from whichever worker answers. A fetch goes through the workers that
 * tarn_peers_readers() names (one on this host that keeps copies comes first, then one that is
 * draining, for what it has still), in rounds:
 *
 *     asked -> verified                                            done
 *           -> the request is at fault, or the store, says an owner    done
 *           -> the store, says one that owns nothing: owners that are there are asked for what they
 *              have, and nobody for the store
 *           -> an owner is busy: it is asked again before others are
 *           -> damaged: the same worker once more, then the next; refused or gone: the next
 *           -> nothing for as long as that worker's answers may take: the next is asked too
 *              (a hedge); the first that verifies wins, the other call is cancelled
 *     the round is over -> nobody was reached: `direct`, where that may read the store
 *                       -> one of its failures may pass: another round after a pause
 *                       -> else done, with what an owner answered rather than others, or NO_WORKER
 *
 * A hedge costs a second worker's time, and the store's if that has not got the bytes: a part is
 * hedged once, few at a time are, unless the first worker is known not to answer, and as long as
 * it answers other calls the part waits for HEDGE_LATE_NS. Where both are silent for SILENT_NS, one
 * makes way for a third.
 *
 * Where there is no topology, or the one worker in it has no address, calls go to the server that
 * answers for names too.
 *
 * A fetch lives until its calls have ended; whoever started it is done with it at fn or drop.
 */
#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"
#include "lib/base/hash.h"
#include "lib/base/limits.h"
#include "lib/base/log.h"
#include "lib/client/client_priv.h"

#define FETCH_MAGIC     0x43465443u /* "CFTC" */
#define FETCH_TRIES     2u          /* calls at a time */
#define FETCH_ASKED_MAX (TARN_PLACE_PICK_MAX + 2u)
#define HEDGE_SHARE     20u /* one of so many fetches may be hedged, */
#define HEDGE_FREE      8u  /* and as many beside */
#define HEDGE_AGAIN_NS  (50 * TARN_NS_PER_MS)
#define HEDGE_LATE_NS   (3 * TARN_NS_PER_S)
#define SILENT_NS       (5 * TARN_NS_PER_S)
#define ROUND_PAUSE_NS  (20 * TARN_NS_PER_MS)
#define ROUND_SHIFTS    5u /* doublings of the pause */
#define NO_WORKER_NS    (5 * TARN_NS_PER_S)
#define NO_ATTACH_NS    TARN_NS_PER_S /* a worker hears of an attachment by then */

/* A call under way, or the place for one. */
struct fetch_try {
    struct client_fetch *fetch;
    struct tarn_rpc_req rpc;
    struct tarn_rpc_client *via;  /* that `rpc` was given to; only compared */
    struct tarn_local_read local; /* of `direct` */
    Tarn__Wire__Locator *locator; /* of `direct`: the handle may be gone before it has ended */
    void *file;                   /* of `direct`, while it reads */
    uint64_t worker;              /* 0: the server that answers for names, or `direct` */
    uint64_t sent_ns;             /* loop time */
    unsigned meta_gen;            /* capability that it was sent with */
    bool running;
    bool summed;  /* asked again since its answer was damaged */
    bool renewed; /* asked again since there was another capability */
};

/* Who answered: what an owner says counts more than the word of others. */
enum fetch_heard { HEARD_NOBODY, HEARD_OTHERS, HEARD_OWNER };

struct client_fetch {
    uint32_t magic;
    struct tarn_client *client;
    struct tarn_handle *handle; /* until it is done */
    tarn_cid_t cid;
    uint64_t ino, version; /* for the log */
    uint64_t off_bytes, deadline_ns, began_ns;
    uint32_t len_bytes, attachment, replicas;
    bool bare;           /* only what workers have: where else it comes from is not known */
    client_fetch_fn *fn; /* NULL: done */
    void *arg;
    struct tarn_list node; /* in client->fetches until it is done */
    struct fetch_try tries[FETCH_TRIES];
    uint64_t asked[FETCH_ASKED_MAX]; /* whom, in this round */
    unsigned n, at;                  /* of them; the next */
    uint64_t leaver;                 /* of them: draining; or 0 */
    unsigned rounds;
    enum fetch_heard heard;  /* in this round, best */
    bool passes;             /* the same: one of its failures may be over soon */
    bool owner_passes;       /* the same, what an owner answered */
    bool direct_tried;       /* in this round */
    bool hedged, hedger;     /* once; counts in client->hedging */
    int rc;                  /* the last failure, of the best that was heard */
    uint64_t rc_worker;      /* whose */
    int final_rc;            /* of one of two that were asked; or 0 */
    int store_rc;            /* of the store, from a worker that owns nothing; or 0 */
    int end_rc;              /* with which `task` ends it */
    struct tarn_timer timer; /* to look after the call, or the pause between rounds */
    struct tarn_task task;   /* ends it, out of start */
    bool starting, task_posted;
};

static void fetch_round(struct client_fetch *f);
static void fetch_step(struct client_fetch *f);
static void fetch_watch(struct client_fetch *f, uint64_t ns);

/* ---- the end -------------------------------------------------------------------------------- */

static struct fetch_try *fetch_running(struct client_fetch *f)
{
    for (unsigned i = 0; i < FETCH_TRIES; i++)
        if (f->tries[i].running)
            return &f->tries[i];
    return NULL;
}

/* Frees it once nothing of it is under way. */
static void fetch_settle(struct client_fetch *f)
{
    struct tarn_client *c = f->client;

    if (f->fn || f->task_posted || fetch_running(f))
        return;
    TARN_ASSERT(!tarn_timer_running(&f->timer) && c->fetch_count > 0);
    f->magic = 0;
    free(f);
    c->fetch_count--;
    client_stop_settle(c);
}

static void try_cancel(struct fetch_try *t)
{
    struct tarn_client *c = t->fetch->client;

    if (!t->running)
        return;
    if (t->file)
        c->direct.cancel(c->direct.ctx, &t->local);
    else
        tarn_rpc_cancel(&t->rpc);
}

/* Nobody waits for it any more: what it counts in, and its calls, end. */
static void fetch_done(struct client_fetch *f)
{
    struct tarn_client *c = f->client;

    TARN_ASSERT(f->fn && c->fetching > 0);
    f->fn = NULL;
    f->handle = NULL;
    tarn_timer_stop(&f->timer);
    tarn_list_del(&f->node);
    c->fetching--;
    c->hedging -= f->hedger;
    f->hedger = false;
    for (unsigned i = 0; i < FETCH_TRIES; i++)
        try_cancel(&f->tries[i]);
}

static void fetch_log(const struct client_fetch *f, int rc)
{
    const struct tarn_place *place = tarn_peers_place(f->client->peers);
    const struct tarn_place_worker *w =
        place && f->rc_worker ? tarn_place_find(place, f->rc_worker) : NULL;

    if (rc == -TARN_E_CANCELLED || f->client->stopping || (f->bare && rc == -TARN_E_NOT_CACHED))
        return;
    tarn_warn_limited("client",
                      "read: ino=%" PRIu64 " version=%" PRIu64 " offset=%" PRIu64
                      " length=%u: %s (worker=%" PRIu64 " addr=%s: %s)",
                      f->ino, f->version, f->off_bytes, f->len_bytes, tarn_strerror(rc),
                      f->rc_worker, w ? w->addr : "-", tarn_strerror(f->rc < 0 ? f->rc : rc));
}

static void fetch_tell(struct client_fetch *f, int rc, const struct client_bytes *bytes)
{
    client_fetch_fn *fn = f->fn;
    void *arg = f->arg;

    if (rc < 0)
        fetch_log(f, rc);
    else if (!f->bare)
        f->handle->detached = false;
    fetch_done(f);
    fn(arg, rc, bytes);
    fetch_settle(f);
}

static void fetch_end_run(struct tarn_task *t)
{
    struct client_fetch *f = TARN_CONTAINER(t, struct client_fetch, task);

    TARN_ASSERT(f->magic == FETCH_MAGIC);
    f->task_posted = false;
    if (f->fn)
        fetch_tell(f, f->end_rc, NULL);
    else
        fetch_settle(f);
}

static void fetch_end(struct client_fetch *f, int rc)
{
    if (!f->starting) {
        fetch_tell(f, rc, NULL);
        return;
    }
    f->end_rc = rc;
    f->task_posted = true;
    tarn_loop_post(f->client->args.loop, &f->task, fetch_end_run);
}

void client_fetch_drop(struct client_fetch **pf)
{
    struct client_fetch *f = *pf;

    *pf = NULL;
    if (!f)
        return;
    TARN_ASSERT(f->magic == FETCH_MAGIC);
    fetch_done(f);
    fetch_settle(f);
}

void client_fetch_end_all(struct tarn_client *c)
{
    while (!tarn_list_empty(&c->fetches))
        fetch_tell(TARN_LIST_ENTRY(c->fetches.next, struct client_fetch, node), -TARN_E_SHUTDOWN,
                   NULL);
}

/* ---- answers -------------------------------------------------------------------------------- */

/* Bytes that an answer's words for their origin mean here. */
static enum client_source try_source(const struct fetch_try *t, const char *source)
{
    if (source && strcmp(source, "ufs") == 0)
        return CLIENT_UFS;
    if (t->worker && source && strcmp(source, "local") == 0 &&
        tarn_peers_at_home(t->fetch->client->peers, t->worker))
        return CLIENT_LOCAL;
    return CLIENT_REMOTE;
}

/* Compares the granules of an answer with their checksums; the bytes stay the answer's. */
static int try_take(const struct fetch_try *t, struct client_bytes *ret)
{
    const struct client_fetch *f = t->fetch;
    const Tarn__Wire__ReadResponse *resp = (const Tarn__Wire__ReadResponse *)t->rpc.resp;
    struct tarn_buf *buf = t->rpc.resp_payload;

    if (!resp || !buf || resp->offset > f->off_bytes || resp->offset % TARN_GRANULE_BYTES ||
        resp->offset + buf->len < f->off_bytes + f->len_bytes ||
        resp->n_sums != tarn_div_up(buf->len, TARN_GRANULE_BYTES))
        return -TARN_E_MSG_BAD;
    for (size_t i = 0; i < resp->n_sums; i++) {
        size_t at = i * TARN_GRANULE_BYTES;

        if (tarn_xxh3(buf->p + at, TARN_MIN(buf->len - at, (size_t)TARN_GRANULE_BYTES)) !=
            resp->sums[i])
            return -TARN_E_GRANULE_SUM;
    }
    *ret = (struct client_bytes){.buf = buf,
                                 .off = (size_t)(f->off_bytes - resp->offset),
                                 .source = try_source(t, resp->source)};
    return client_object_take(f->handle, resp->tag);
}

/* The answer is about the request itself: it would be the same everywhere. */
static bool fetch_final(int rc)
{
    switch (-rc) {
    case TARN_E_DENIED:
    case TARN_E_INVALID:
    case TARN_E_STALE:
    case TARN_E_TOO_BIG:
        return true;
    default:
        return false;
    }
}

static bool fetch_capability(int rc)
{
    return rc == -TARN_E_CAP_BAD || rc == -TARN_E_CAP_EXPIRED;
}

/* A round that ended with this may end otherwise a little later. */
static bool fetch_passes(int rc)
{
    switch (-rc) {
    case TARN_E_BUSY:
    case TARN_E_SHUTDOWN:
    case TARN_E_CANCELLED:
    case TARN_E_NO_ATTACH: /* it has not heard of it yet */
    case TARN_E_NO_MEMORY:
    case TARN_E_TIER_FULL:
        return true;
    default:
        return fetch_capability(rc) || tarn_peers_unreached(rc);
    }
}

/* `worker` should have the bytes: it owns them, or there is nobody who does. */
static bool fetch_owns(const struct client_fetch *f, uint64_t worker)
{
    const struct tarn_place_worker *owners[TARN_PLACE_PICK_MAX];
    const struct tarn_place *place = tarn_peers_place(f->client->peers);
    unsigned n = 0;

    if (worker && place)
        n = tarn_place_owners(place, &f->cid, tarn_segment_of(f->off_bytes), f->replicas, owners);
    for (unsigned i = 0; i < n; i++)
        if (owners[i]->id == worker)
            return true;
    return n == 0;
}

/* Asked only for what it has still: what else it says is nobody's word. */
static bool fetch_leaves(const struct client_fetch *f, uint64_t worker)
{
    return worker && worker == f->leaver;
}

static int try_send(struct fetch_try *t);

static void fetch_failed(struct client_fetch *f, struct fetch_try *t, int rc)
{
    bool owner = fetch_owns(f, t->worker), of_store = tarn_err_of_store(rc);
    enum fetch_heard heard = owner ? HEARD_OWNER : HEARD_OTHERS;

    if (tarn_peers_unreached(rc) || rc == -TARN_E_CANCELLED)
        heard = HEARD_NOBODY;
    tarn_debug("client", "read: ino=%" PRIu64 " offset=%" PRIu64 " worker=%" PRIu64 ": %s", f->ino,
               f->off_bytes, t->worker, tarn_strerror(rc));
    if (heard >= f->heard && !fetch_leaves(f, t->worker)) {
        f->heard = heard;
        f->rc = rc;
        f->rc_worker = t->worker;
    }
    f->passes |= fetch_passes(rc) && !fetch_leaves(f, t->worker);
    f->owner_passes |= heard == HEARD_OWNER && fetch_passes(rc);
    if ((fetch_final(rc) || (of_store && owner && !f->owner_passes)) && f->final_rc == 0)
        f->final_rc = rc;
    else if (of_store && f->store_rc == 0)
        f->store_rc = rc;
    if (f->final_rc < 0) {
        /* Of two that were asked, the other may have the bytes that this one asked the store for.
         */
        if (!fetch_running(f))
            fetch_end(f, f->final_rc);
        return;
    }
    if (rc == -TARN_E_GRANULE_SUM && !t->summed && !t->file) {
        t->summed = true;
        if (try_send(t) == 0)
            return;
    }
    if (fetch_capability(rc) && !t->renewed && t->meta_gen != f->client->meta_gen) {
        t->renewed = true;
        if (try_send(t) == 0)
            return;
    }
    if (f->store_rc < 0 && fetch_running(f))
        fetch_watch(f, SILENT_NS / 10);
    fetch_step(f);
}

static void fetch_won(struct client_fetch *f, const struct client_bytes *bytes)
{
    for (unsigned i = 0; i < FETCH_TRIES; i++)
        if (f->tries[i].running && f->tries[i].worker)
            tarn_peers_overtaken(f->client->peers, f->tries[i].worker, f->tries[i].sent_ns);
    fetch_tell(f, 0, bytes);
}

static void try_answered(struct tarn_rpc_req *req, int rc)
{
    struct fetch_try *t = req->arg;
    struct client_fetch *f = t->fetch;
    struct tarn_client *c = f->client;
    struct client_bytes bytes;

    TARN_ASSERT(f->magic == FETCH_MAGIC && t->running);
    t->running = false;
    if (!f->fn) { /* nobody waits */
        tarn_rpc_req_fini(req);
        fetch_settle(f);
        return;
    }
    if (rc == 0)
        rc = try_take(t, &bytes);
    /* What a connection that was given up ends with says nothing about its successor. */
    if (t->worker && tarn_peers_get(c->peers, t->worker) == t->via) {
        tarn_peers_note(c->peers, t->worker, rc);
        if (rc == 0)
            tarn_peers_took(c->peers, t->worker, tarn_loop_now_ns(c->args.loop) - t->sent_ns);
    }
    if (rc == 0) {
        struct tarn_buf *buf = tarn_buf_ref(bytes.buf);

        tarn_rpc_req_fini(req);
        fetch_won(f, &bytes);
        tarn_buf_unref(&buf);
    } else {
        tarn_rpc_req_fini(req);
        fetch_failed(f, t, rc);
    }
}

/* ---- calls ---------------------------------------------------------------------------------- */

/* The server that answers for names serves bytes too: there is nobody else. */
static bool fetch_one_server(const struct client_fetch *f)
{
    struct tarn_place *place = tarn_peers_place(f->client->peers);
    const struct tarn_place_worker *only =
        place && tarn_place_count(place) == 1 ? tarn_place_at(place, 0) : NULL;

    if (!place)
        return true;
    return only && !only->addr[0] && !only->socket[0] &&
           !tarn_peers_get(f->client->peers, only->id);
}

/* Units to fetch ahead of the store: those of this segment, since the next one has another owner.
 */
static uint32_t fetch_ahead(const struct client_fetch *f)
{
    uint64_t end = f->off_bytes + f->len_bytes;
    uint64_t segment_end = tarn_div_up(end, TARN_SEGMENT_BYTES) * TARN_SEGMENT_BYTES;

    return (uint32_t)TARN_MIN((uint64_t)f->handle->ahead,
                              segment_end / TARN_UNIT_BYTES - tarn_div_up(end, TARN_UNIT_BYTES));
}

/* The fields of a message are not const; encoding changes nothing. */
static Tarn__Wire__Locator *locator_text(const struct client_fetch *f, struct client_locator *hold)
{
    const Tarn__Wire__Locator *l =
        f->bare ? client_bare_locator(f->handle, hold) : f->handle->located->locator;
    Tarn__Wire__Locator *ret;

    memcpy(&ret, &l, sizeof(ret));
    return ret;
}

/* CONN_REFUSED: there is no way to that worker. */
static int try_send(struct fetch_try *t)
{
    struct client_fetch *f = t->fetch;
    struct tarn_client *c = f->client;
    struct tarn_rpc_client *rpc = t->worker ? tarn_peers_get(c->peers, t->worker) : c->rpc;
    uint64_t now = tarn_loop_now_ns(c->args.loop);
    Tarn__Wire__ReadRequest msg = TARN__WIRE__READ_REQUEST__INIT;
    struct client_locator bare;

    if (!rpc || now >= f->deadline_ns)
        return -TARN_E_CONN_REFUSED;
    msg.locator = locator_text(f, &bare);
    msg.cached_only = f->bare || f->store_rc < 0 || fetch_leaves(f, t->worker);
    msg.offset = f->off_bytes;
    msg.length = f->len_bytes;
    msg.ahead = fetch_ahead(f);
    msg.unchecked = !t->summed;
    t->sent_ns = now;
    t->via = rpc;
    t->meta_gen = c->meta_gen;
    t->running = true;
    t->rpc = (struct tarn_rpc_req){.method = TARN_RPC_read,
                                   .msg = &msg.base,
                                   .timeout_ns = f->deadline_ns - now,
                                   .no_retry = t->worker != 0,
                                   .cb = try_answered,
                                   .arg = t};
    tarn_rpc_start(rpc, &t->rpc);
    if (t->worker)
        fetch_watch(f, tarn_peers_patience_ns(c->peers, t->worker));
    return 0;
}

static struct fetch_try *fetch_free_try(struct client_fetch *f)
{
    for (unsigned i = 0; i < FETCH_TRIES; i++)
        if (!f->tries[i].running)
            return &f->tries[i];
    TARN_UNREACHABLE("a call more than there may be");
}

/* The store is known to be at fault: only who may have the bytes is asked. */
static bool fetch_skips(const struct client_fetch *f, uint64_t worker)
{
    return f->store_rc < 0 && !((fetch_owns(f, worker) || fetch_leaves(f, worker)) &&
                                tarn_peers_usable(f->client->peers, worker));
}

/* An owner that is busy will soon have time; who has not got the bytes would ask the store. */
static bool fetch_waits(struct client_fetch *f)
{
    return f->rounds == 0 && f->heard == HEARD_OWNER && f->rc == -TARN_E_BUSY &&
           !fetch_running(f) && f->at < f->n && !fetch_owns(f, f->asked[f->at]);
}

/* Asks the next worker that there is a way to; false when there is none. */
static bool fetch_ask_next(struct client_fetch *f)
{
    while (f->at < f->n) {
        struct fetch_try *t = fetch_free_try(f);

        t->worker = f->asked[f->at++];
        if (fetch_skips(f, t->worker))
            continue;
        t->summed = t->renewed = false;
        if (try_send(t) == 0)
            return true;
        f->passes = true;
        if (f->heard == HEARD_NOBODY) {
            f->rc = -TARN_E_CONN_REFUSED;
            f->rc_worker = t->worker;
        }
    }
    return false;
}

/* ---- the worker inside ---------------------------------------------------------------------- */

/* One buffer of what came in several. */
static struct tarn_buf *direct_join(const struct tarn_local_read *lr, uint32_t len)
{
    struct tarn_buf *b = tarn_buf_new(len);
    size_t n = 0;

    for (unsigned i = 0; b && i < lr->slice_count; i++) {
        memcpy(b->p + n, lr->slices[i].buf->p + lr->slices[i].off, lr->slices[i].len);
        n += lr->slices[i].len;
    }
    if (b)
        b->len = n;
    return b;
}

static int direct_take(const struct client_fetch *f, struct tarn_local_read *lr,
                       struct client_bytes *ret)
{
    uint32_t len = f->len_bytes;
    size_t n = 0;

    for (unsigned i = 0; i < lr->slice_count; i++)
        n += lr->slices[i].len;
    if (n != len)
        return -TARN_E_EOF;
    *ret = (struct client_bytes){.source = lr->source == 2 ? CLIENT_UFS : CLIENT_LOCAL};
    if (lr->slice_count == 1) {
        ret->buf = tarn_buf_ref(lr->slices[0].buf);
        ret->off = lr->slices[0].off;
    } else {
        ret->buf = direct_join(lr, len);
    }
    return ret->buf ? client_object_take(f->handle, lr->tag) : -TARN_E_NO_MEMORY;
}

static void direct_done(struct tarn_local_read *lr, int rc)
{
    struct fetch_try *t = lr->arg;
    struct client_fetch *f = t->fetch;
    struct tarn_client *c = f->client;
    struct client_bytes bytes = {0};

    TARN_ASSERT(f->magic == FETCH_MAGIC && t->running);
    t->running = false;
    c->direct.close(c->direct.ctx, t->file);
    t->file = NULL;
    tarn__wire__locator__free_unpacked(t->locator, NULL);
    t->locator = NULL;
    if (rc == 0)
        rc = f->fn ? direct_take(f, lr, &bytes) : -TARN_E_CANCELLED;
    for (unsigned i = 0; i < lr->slice_count; i++)
        tarn_buf_unref(&lr->slices[i].buf);
    if (!f->fn)
        fetch_settle(f);
    else if (rc == 0)
        fetch_won(f, &bytes);
    else
        fetch_failed(f, t, rc);
    tarn_buf_unref(&bytes.buf);
}

static bool direct_allowed(const struct client_fetch *f)
{
    const struct tarn_client *c = f->client;

    return c->direct.open && !f->bare && !f->direct_tried && c->args.direct_ok &&
           c->args.direct_ok(c->args.ctx, f->attachment);
}

static Tarn__Wire__Locator *locator_copy(const Tarn__Wire__Locator *l)
{
    size_t n = tarn__wire__locator__get_packed_size(l);
    TARN_AUTO_FREE uint8_t *packed = tarn_xcalloc(1, n + 1);
    Tarn__Wire__Locator *copy;

    tarn__wire__locator__pack(l, packed);
    copy = tarn__wire__locator__unpack(NULL, n, packed);
    TARN_ASSERT(copy); /* it came off the wire like that */
    return copy;
}

static void direct_start(struct client_fetch *f)
{
    struct tarn_client *c = f->client;
    struct fetch_try *t = fetch_free_try(f);

    f->direct_tried = true;
    tarn_warn_limited("client", "no worker can be reached (%s): the store is read from here",
                      tarn_strerror(f->rc < 0 ? f->rc : -TARN_E_NO_WORKER));
    t->worker = 0;
    t->running = true;
    t->locator = locator_copy(f->handle->located->locator);
    t->file = c->direct.open(c->direct.ctx, &f->cid, f->handle->attr.size_bytes);
    t->local = (struct tarn_local_read){.file = t->file,
                                        .locator = t->locator,
                                        .off_bytes = f->off_bytes,
                                        .len_bytes = f->len_bytes,
                                        .cb = direct_done,
                                        .arg = t};
    fetch_watch(f, f->deadline_ns - tarn_loop_now_ns(c->args.loop));
    c->direct.read(c->direct.ctx, &t->local);
}

/* ---- rounds --------------------------------------------------------------------------------- */

/* Whether another round is worth it, and after which pause. */
static bool fetch_again(struct client_fetch *f, uint64_t *ret_pause_ns)
{
    struct tarn_client *c = f->client;
    uint64_t now = tarn_loop_now_ns(c->args.loop);
    uint64_t grace = c->args.no_worker_ns ? c->args.no_worker_ns : NO_WORKER_NS;
    uint64_t until = f->rc == -TARN_E_BUSY ? f->deadline_ns : f->began_ns + grace;

    *ret_pause_ns = ROUND_PAUSE_NS << TARN_MIN(f->rounds, ROUND_SHIFTS);
    /* Who is silent may have what others have not; but that can be asked of the master as well. */
    if (f->bare && f->rc == -TARN_E_NOT_CACHED)
        return false;
    return !c->stopping && f->n > 0 && f->asked[0] != 0 && f->passes &&
           now + *ret_pause_ns < TARN_MIN(until, f->deadline_ns);
}

/* A call has failed, or none was made yet. */
static void fetch_step(struct client_fetch *f)
{
    uint64_t now = tarn_loop_now_ns(f->client->args.loop), pause;

    if (now < f->deadline_ns && !fetch_waits(f) && fetch_ask_next(f))
        return;
    if (fetch_running(f))
        return;
    tarn_timer_stop(&f->timer);
    if (f->store_rc < 0 && !f->owner_passes) {
        fetch_end(f, f->store_rc);
    } else if (f->heard == HEARD_NOBODY && now < f->deadline_ns && direct_allowed(f)) {
        direct_start(f);
    } else if (f->rc == -TARN_E_NO_ATTACH && !f->bare &&
               (f->handle->detached || now >= f->began_ns + NO_ATTACH_NS)) {
        f->bare = true; /* detached: what is cached of it can be read all the same */
        f->handle->detached = true;
        fetch_round(f);
    } else if (fetch_again(f, &pause)) {
        f->rounds++;
        fetch_watch(f, pause);
    } else if (now >= f->deadline_ns) {
        fetch_end(f, f->heard ? f->rc : -TARN_E_DEADLINE);
    } else {
        fetch_end(f, f->heard || (f->n > 0 && f->asked[0] == 0) ? f->rc : -TARN_E_NO_WORKER);
    }
}

/* Who may have it although it is another's now: the way there costs less than having it moved. */
static uint64_t fetch_leaver(const struct client_fetch *f)
{
    struct tarn_peers *peers = f->client->peers;
    const struct tarn_place_worker *w =
        tarn_place_leaver(tarn_peers_place(peers), &f->cid, tarn_segment_of(f->off_bytes));

    return w && tarn_peers_usable(peers, w->id) ? w->id : 0;
}

/* Whom to ask, best first. */
static void fetch_candidates(struct client_fetch *f)
{
    struct tarn_peers *peers = f->client->peers;
    uint32_t segment = tarn_segment_of(f->off_bytes);
    uint64_t ids[TARN_PLACE_PICK_MAX], home;
    unsigned n, first;

    f->n = f->at = 0;
    f->leaver = 0;
    if (fetch_one_server(f)) {
        f->asked[f->n++] = 0;
        return;
    }
    home = tarn_peers_home(peers, &f->cid, segment);
    n = tarn_peers_readers(peers, &f->cid, segment, f->replicas, TARN_PLACE_PICK_MAX, ids);
    f->leaver = fetch_leaver(f);
    if (home)
        f->asked[f->n++] = home;
    if (f->leaver && f->leaver != home)
        f->asked[f->n++] = f->leaver;
    for (unsigned i = 0; i < n; i++)
        if (ids[i] != home && ids[i] != f->leaver)
            f->asked[f->n++] = ids[i];
    /* Nobody is there as far as is known: those who are not would only cost time. */
    first = f->n > 1 && fetch_leaves(f, f->asked[0]);
    if (f->n == 0 || tarn_peers_usable(peers, f->asked[first]) || !direct_allowed(f))
        return;
    if (first)
        f->n = first;
    else
        f->at = f->n;
}

static void fetch_round(struct client_fetch *f)
{
    f->heard = HEARD_NOBODY;
    f->passes = f->owner_passes = false;
    f->direct_tried = false;
    f->rc = -TARN_E_NO_WORKER;
    f->rc_worker = 0;
    fetch_candidates(f);
    if (f->n > 0)
        f->rc_worker = f->asked[0];
    fetch_step(f);
}

/* ---- looking after a call ------------------------------------------------------------------- */

/* How long to wait before the next look; 0: ask another worker now. */
static uint64_t hedge_wait_ns(struct client_fetch *f, const struct fetch_try *first)
{
    const struct tarn_client *c = f->client;
    uint64_t now = tarn_loop_now_ns(c->args.loop), heard, patience;

    if (!tarn_peers_usable(c->peers, f->asked[f->at]))
        return HEDGE_AGAIN_NS;
    if (!tarn_peers_usable(c->peers, first->worker))
        return 0;
    patience = tarn_peers_patience_ns(c->peers, first->worker);
    heard = tarn_peers_heard_ns(c->peers, first->worker);
    if (heard > first->sent_ns && now < heard + patience && now < first->sent_ns + HEDGE_LATE_NS)
        return heard + patience - now;
    return c->hedging < c->fetching / HEDGE_SHARE + HEDGE_FREE ? 0 : HEDGE_AGAIN_NS;
}

/* Whether one that answers nothing at all is waited for no longer than SILENT_NS. */
static bool fetch_replaces(const struct client_fetch *f)
{
    if (f->store_rc < 0)
        return true; /* there is an answer already */
    return f->at < f->n && tarn_peers_usable(f->client->peers, f->asked[f->at]);
}

/* Of two that were asked, one that answers nothing at all makes way for the next. */
static void fetch_replace(struct client_fetch *f)
{
    struct tarn_client *c = f->client;
    uint64_t now = tarn_loop_now_ns(c->args.loop);

    if ((f->at >= f->n && f->store_rc == 0) || f->final_rc < 0)
        return; /* the calls end by their deadlines, or with their connections */
    for (unsigned i = 0; i < FETCH_TRIES; i++) {
        struct fetch_try *t = &f->tries[i];

        if (!t->running || now < t->sent_ns + SILENT_NS ||
            tarn_peers_heard_ns(c->peers, t->worker) > t->sent_ns || !fetch_replaces(f))
            continue;
        tarn_peers_overtaken(c->peers, t->worker, t->sent_ns);
        try_cancel(t); /* its end asks the next */
        return;
    }
    fetch_watch(f, SILENT_NS / 10);
}

static void fetch_look(struct client_fetch *f, struct fetch_try *first)
{
    uint64_t wait;

    if (!first->worker) { /* `direct`: its time is over */
        f->rc = -TARN_E_DEADLINE;
        fetch_end(f, f->rc);
        return;
    }
    if (f->hedged || f->at >= f->n || f->final_rc < 0 || f->store_rc < 0) {
        fetch_replace(f);
        return;
    }
    wait = hedge_wait_ns(f, first);
    if (wait) {
        fetch_watch(f, wait);
        return;
    }
    f->hedged = f->hedger = true;
    f->client->hedging++;
    atomic_fetch_add_explicit(&f->client->hedges, 1, memory_order_relaxed);
    if (!fetch_ask_next(f)) {
        f->hedger = false;
        f->client->hedging--;
    }
}

static void fetch_timer_cb(struct tarn_timer *t, void *arg)
{
    struct client_fetch *f = arg;
    struct fetch_try *running;

    TARN_ASSERT(f->magic == FETCH_MAGIC && t == &f->timer && f->fn);
    running = fetch_running(f);
    if (running)
        fetch_look(f, running);
    else
        fetch_round(f);
}

static void fetch_watch(struct client_fetch *f, uint64_t ns)
{
    tarn_timer_start(f->client->args.loop, &f->timer, ns, fetch_timer_cb, f);
}

struct client_fetch *client_fetch_start(const struct client_fetch_args *args)
{
    struct client_fetch *f = tarn_xnew(struct client_fetch);
    struct tarn_handle *h = args->handle;
    struct tarn_client *c = h->client;

    TARN_ASSERT((h->located || h->bare) && args->len_bytes > 0 && args->fn);
    TARN_ASSERT(args->off_bytes + args->len_bytes <= h->attr.size_bytes &&
                tarn_segment_of(args->off_bytes) ==
                    tarn_segment_of(args->off_bytes + args->len_bytes - 1));
    f->magic = FETCH_MAGIC;
    f->client = c;
    f->handle = h;
    f->cid = h->attr.cid;
    f->ino = h->attr.ino.v;
    f->version = h->attr.version;
    f->bare = !h->located;
    f->attachment = h->located ? h->located->locator->attachment : 0;
    f->replicas = h->located ? h->located->locator->replicas : 0;
    f->off_bytes = args->off_bytes;
    f->len_bytes = args->len_bytes;
    f->deadline_ns = args->deadline_ns;
    f->began_ns = tarn_loop_now_ns(c->args.loop);
    f->fn = args->fn;
    f->arg = args->arg;
    for (unsigned i = 0; i < FETCH_TRIES; i++)
        f->tries[i].fetch = f;
    tarn_list_push(&c->fetches, &f->node);
    c->fetching++;
    c->fetch_count++;
    f->starting = true;
    if (c->rpc_stopped)
        fetch_end(f, -TARN_E_SHUTDOWN);
    else
        fetch_round(f);
    f->starting = false;
    return f;
}
