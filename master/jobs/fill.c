/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fill requests of a run. A file is cut into pieces: a small one is one, a big one is cut so that
 * none crosses a segment, progress shows, a limit of bandwidth holds, and a cancel need not wait
 * for the rest of a file. Each piece goes to every worker that is to hold its segment, one after
 * the other, so that only the first one asks the store: it queues in the lane of that worker, from
 * which small files leave together in one request.
 *
 *     todo -> [--force: dropped everywhere] -> pieces -> lane of a worker -> request -> filled
 *       ^                                        |  ^            |               |
 *       |                                     homeless <---------+---------------+ not reached
 *       +-------- changed, or gone: ask for the name, once; worker or tier busy: later
 *
 * A worker that cannot be reached is asked again; when it does not serve any more, or the topology
 * changes, all that is queued is given out anew, to whoever is to have it then. A piece that nobody
 * can take waits until somebody can. Only what a worker answers fails a file.
 */
#include "master/jobs/jobs_priv.h"

#include <inttypes.h>
#include <stdlib.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"

#define FILL_FILES 64u           /* files of one request */
#define FILL_BYTES (16ull << 20) /* bytes of one request */
#define FILL_OUTSTANDING                                                                           \
    (64ull << 20)                      /* bytes asked of a worker, above which no request starts   \
                                        */
#define FILL_PARALLEL   8u             /* requests to a worker */
#define FILL_QUEUED     (512ull << 20) /* bytes that are queued for workers */
#define FILL_PIECES     8192u          /* pieces of them */
#define FILL_TIMEOUT_NS (3600 * TARN_NS_PER_S)
#define LANE_WAIT_NS    (250 * TARN_NS_PER_MS) /* after a request that failed; doubled each time */
#define LANE_SHIFT_MAX  3u
#define OFFLINE_TRIES   20u /* of a piece, at a worker whose cache failed */

/* A range of a file, or all of it, that one worker is to have. */
struct fill_part {
    struct tarn_list node; /* fill->homeless, lane->queue, or none: in a request */
    struct ment *e;        /* whose it is */
    uint64_t off, len;     /* bytes of the file */
    bool whole;            /* the file, not a range */
    unsigned copy;         /* 0: the owner's, then the replicas' */
    unsigned tries;        /* requests that failed */
};

struct fill_lane {
    struct tarn_list node;  /* fill->lanes */
    uint64_t worker;        /* id */
    struct tarn_list queue; /* struct fill_part */
    struct tarn_list ops;   /* struct fill_op */
    unsigned ops_count;     /* of them */
    uint64_t outstanding;   /* bytes of them */
    uint64_t not_before_ns; /* loop time: it failed just now */
    unsigned failures;      /* in a row */
};

struct fill_op {
    struct tarn_list node; /* lane->ops */
    struct mrun *run;      /* whose it is */
    struct fill_lane *lane;
    struct tarn_rpc_req req;
    struct fill_part *parts[FILL_FILES]; /* what is asked for */
    size_t count;                        /* of parts */
    uint64_t cost;                       /* bytes that it may fetch */
    bool left;                           /* cancelled: the worker is not alive any more */
};

static void fill_task(struct tarn_task *t);

void mfill_poke(struct mrun *r)
{
    if (r->fill.posted || r->ended)
        return;
    r->fill.posted = true;
    tarn_loop_post(r->master->args.loop, &r->fill.task, fill_task);
}

void mfill_init(struct mrun *r)
{
    tarn_list_init(&r->fill.todo);
    tarn_list_init(&r->fill.homeless);
    tarn_list_init(&r->fill.lanes);
    tarn_list_init(&r->fill.forces);
    tarn_list_init(&r->fill.naming);
    r->fill.tokens_ns = tarn_loop_now_ns(r->master->args.loop);
}

bool mfill_idle(const struct mrun *r)
{
    const struct mfill *f = &r->fill;

    return tarn_list_empty(&f->todo) && f->queued == 0 && f->ops_count == 0 &&
           f->forces_count == 0 && tarn_list_empty(&f->naming) && !f->posted;
}

void mfill_fini(struct mrun *r)
{
    tarn_timer_stop(&r->fill.timer);
    for (struct tarn_list *n = tarn_list_pop(&r->fill.lanes); n; n = tarn_list_pop(&r->fill.lanes))
        free(TARN_LIST_ENTRY(n, struct fill_lane, node));
}

/* ---- pieces
 * --------------------------------------------------------------------------------------------------
 */

static struct fill_lane *fill_lane(struct mrun *r, uint64_t worker)
{
    struct fill_lane *lane;

    TARN_LIST_FOREACH(n, &r->fill.lanes)
    {
        lane = TARN_LIST_ENTRY(n, struct fill_lane, node);
        if (lane->worker == worker)
            return lane;
    }
    lane = tarn_xnew(struct fill_lane);
    lane->worker = worker;
    tarn_list_init(&lane->queue);
    tarn_list_init(&lane->ops);
    tarn_list_push(&r->fill.lanes, &lane->node);
    return lane;
}

static void part_queue(struct mrun *r, struct fill_part *p, struct tarn_list *where)
{
    tarn_list_push(where, &p->node);
    r->fill.queued++;
    r->fill.queued_bytes += p->len;
}

static void part_unqueue(struct mrun *r, struct fill_part *p)
{
    tarn_list_del(&p->node);
    r->fill.queued--;
    r->fill.queued_bytes -= p->len;
}

/* A piece that is in no queue any more is over; the file may be, too. */
static void part_end(struct fill_part *p, int rc, const char *text)
{
    struct ment *e = p->e;

    free(p);
    TARN_ASSERT(e->pending > 0);
    e->pending--;
    if (rc < 0 && e->fill_rc == 0) {
        e->fill_rc = rc;
        e->fill_text = text && text[0] ? tarn_xstrdup(text) : NULL;
    }
    if (rc < 0 && e->next != e->off + e->len) { /* the rest is not asked for */
        e->next = e->off + e->len;
        tarn_list_del(&e->work);
    }
    if (e->pending == 0 && e->next == e->off + e->len)
        mfile_done(e);
}

/* Queues it for whoever is to have it now. */
static void part_place(struct mrun *r, struct fill_part *p)
{
    uint64_t ids[TARN_PLACE_PICK_MAX];
    unsigned n;

    if (p->e->fill_rc < 0 || r->aborting) {
        part_end(p, r->aborting ? -TARN_E_CANCELLED : 0, NULL);
        return;
    }
    n = mtargets(r->master, &p->e->cid, tarn_segment_of(p->off), p->e->replicas, ids);
    if (n > 0 && p->copy >= n) {
        TARN_AUTO_FREE char *few = mroom_few(r, p->e->replicas);

        part_end(p, -TARN_E_NO_WORKER, few);
    } else if (n == 0 || ids[p->copy] == 0) {
        part_queue(r, p, &r->fill.homeless);
    } else {
        part_queue(r, p, &fill_lane(r, ids[p->copy])->queue);
    }
}

static void part_new(struct ment *e, uint64_t off, uint64_t len, bool whole, unsigned copy)
{
    struct fill_part *p = tarn_xnew(struct fill_part);

    tarn_list_init(&p->node);
    p->e = e;
    p->off = off;
    p->len = len;
    p->whole = whole;
    p->copy = copy;
    e->pending++;
    part_place(e->run, p);
}

/* Gives out anew what is queued. */
static void fill_place_all(struct mrun *r)
{
    struct mfill *f = &r->fill;
    struct tarn_list all;

    tarn_list_init(&all);
    tarn_list_splice(&all, &f->homeless);
    TARN_LIST_FOREACH(n, &f->lanes)
    {
        tarn_list_splice(&all, &TARN_LIST_ENTRY(n, struct fill_lane, node)->queue);
    }
    f->queued = 0;
    f->queued_bytes = 0;
    f->place_version = mrun_place_version(r);
    for (struct tarn_list *n = tarn_list_pop(&all); n; n = tarn_list_pop(&all))
        part_place(r, TARN_LIST_ENTRY(n, struct fill_part, node));
}

static uint64_t fill_bytes_max(const struct mrun *r)
{
    uint64_t rate = r->job->spec->bandwidth;

    if (rate == 0 || rate >= FILL_BYTES)
        return FILL_BYTES;
    return TARN_MAX(rate, (uint64_t)TARN_UNIT_BYTES);
}

/* Cuts the next piece of a file. */
static void file_cut(struct ment *e)
{
    const struct mrun *r = e->run;
    uint64_t end = e->off + e->len, max = fill_bytes_max(r), off = e->next, stop = end;
    bool whole = !e->ranged && e->len <= max;

    if (!whole) {
        stop = TARN_MIN((off + max) / TARN_UNIT_BYTES * TARN_UNIT_BYTES,
                        (off / TARN_SEGMENT_BYTES + 1) * TARN_SEGMENT_BYTES);
        stop = TARN_MIN(stop, end);
    }
    e->next = stop;
    if (stop == end)
        tarn_list_del(&e->work);
    part_new(e, off, stop - off, whole, 0);
}

/* ---- requests
 * ------------------------------------------------------------------------------------------------
 */

static void op_free(struct fill_op *op)
{
    struct mrun *r = op->run;

    tarn_list_del(&op->node);
    op->lane->ops_count--;
    op->lane->outstanding -= op->cost;
    r->fill.ops_count--;
    free(op);
    mfill_poke(r);
    mrun_poke(r);
}

static void lane_pause(struct mrun *r, struct fill_lane *lane)
{
    uint64_t wait = LANE_WAIT_NS << TARN_MIN(lane->failures, LANE_SHIFT_MAX);

    lane->failures++;
    lane->not_before_ns = tarn_loop_now_ns(r->master->args.loop) + wait;
}

/* One piece of an answer. */
static void op_part_filled(struct fill_op *op, struct fill_part *p,
                           const Tarn__Wire__FillResult *res)
{
    struct mrun *r = op->run;
    struct ment *e = p->e;

    e->fetched += res->fetched;
    if (res->status == TARN_E_SHUTDOWN || /* it stops: as if it had not been reached */
        (res->status == TARN_E_TIER_OFFLINE && r->master->args.cluster &&
         p->tries++ < OFFLINE_TRIES)) { /* it owns nothing a moment later */
        lane_pause(r, op->lane);
        part_place(r, p);
        return;
    }
    if (res->status == 0 && p->copy == 0) {
        e->level = res->level;
        if (p->off == e->off)
            e->worker = op->lane->worker;
        ment_show(e, p->len);
    }
    if (res->status == 0 && p->copy + 1 < e->replicas) /* it comes from the one before */
        part_new(e, p->off, p->len, p->whole, p->copy + 1);
    part_end(p,
             res->status == 0           ? 0
             : res->status <= INT32_MAX ? -(int)res->status
                                        : -TARN_E_MSG_BAD,
             res->error_text);
}

static void op_filled(struct fill_op *op, const Tarn__Wire__FillResponse *resp)
{
    struct mrun *r = op->run;
    uint64_t fetched = 0;

    op->lane->failures = 0;
    for (size_t i = 0; i < op->count; i++) {
        fetched += resp->results[i]->fetched;
        op_part_filled(op, op->parts[i], resp->results[i]);
    }
    if (r->job->spec->bandwidth)
        r->fill.tokens += (int64_t)(op->cost - TARN_MIN(fetched, op->cost));
    op_free(op);
}

/* All of the request failed. */
static void op_failed(struct fill_op *op, int rc)
{
    struct mrun *r = op->run;
    bool unreached = tarn_peers_unreached(rc) || rc == -TARN_E_CANCELLED;

    if (r->job->spec->bandwidth)
        r->fill.tokens += (int64_t)op->cost;
    if (!r->aborting)
        lane_pause(r, op->lane);
    for (size_t i = 0; i < op->count; i++) {
        struct fill_part *p = op->parts[i];
        uint64_t wait;

        if (r->aborting)
            part_end(p, -TARN_E_CANCELLED, NULL);
        else if (unreached || mrun_retry(rc, p->tries++, &wait))
            part_place(r, p);
        else
            part_end(p, rc, NULL);
    }
    op_free(op);
}

static void op_done(struct tarn_rpc_req *req, int rc)
{
    struct fill_op *op = req->arg;
    ProtobufCMessage *taken = req->resp;
    const Tarn__Wire__FillResponse *resp = (const Tarn__Wire__FillResponse *)taken;

    req->resp = NULL; /* the answer outlives `op` here */
    tarn_rpc_req_fini(req);
    if (rc == 0 && (!resp || resp->n_results != op->count))
        rc = -TARN_E_MSG_BAD;
    mworker_note(op->run->master, op->lane->worker, rc);
    if (rc == 0)
        op_filled(op, resp);
    else
        op_failed(op, rc);
    if (taken)
        protobuf_c_message_free_unpacked(taken, NULL);
}

/* The file's locator, if the piece still is one of the same version. */
static int part_locate(struct mrun *r, struct ment *e, struct mlocator *loc)
{
    int rc = mlocator_fill(r->master, e->ino, loc);

    if (rc < 0)
        return rc == -TARN_E_NO_ENTRY ? -TARN_E_UFS_NOT_FOUND : -TARN_E_UFS_CHANGED;
    if (e->version == 0)
        e->version = loc->loc.version;
    if (e->version != loc->loc.version || loc->ufs.size == 0 ||
        loc->loc.cid.len != sizeof(e->cid.b) ||
        memcmp(loc->loc.cid.data, e->cid.b, sizeof(e->cid.b)) != 0 ||
        (e->ranged ? e->off + e->len > loc->ufs.size : e->len != loc->ufs.size)) {
        mlocator_fini(loc);
        return -TARN_E_UFS_CHANGED;
    }
    loc->loc.replicas = e->replicas;
    return 0;
}

/* Finds the locators; files without one leave the request. */
static void op_locate_all(struct fill_op *op, struct mlocator *locs)
{
    size_t kept = 0;

    for (size_t i = 0; i < op->count; i++) {
        struct fill_part *p = op->parts[i];
        int rc = part_locate(op->run, p->e, &locs[kept]);

        if (rc == 0)
            op->parts[kept++] = p;
        else
            part_end(p, rc, NULL);
    }
    op->count = kept;
}

static void op_send_fill(struct fill_op *op, struct tarn_rpc_client *rpc, struct mlocator *locs)
{
    const Tarn__Wire__LoadSpec *spec = op->run->job->spec;
    Tarn__Wire__FillRequest msg = TARN__WIRE__FILL_REQUEST__INIT;
    Tarn__Wire__Locator *ptrs[FILL_FILES];

    for (size_t i = 0; i < op->count; i++)
        ptrs[i] = &locs[i].loc;
    msg.n_locators = op->count;
    msg.locators = ptrs;
    msg.verify = spec->verify;
    msg.force = spec->force && op->run->phase == MRUN_DATA;
    msg.offset = op->parts[0]->whole ? 0 : op->parts[0]->off;
    msg.length = op->parts[0]->whole ? 0 : op->parts[0]->len;
    op->req = (struct tarn_rpc_req){.method = TARN_RPC_fill,
                                    .msg = &msg.base,
                                    .timeout_ns = FILL_TIMEOUT_NS,
                                    .no_retry = true,
                                    .cb = op_done,
                                    .arg = op};
    tarn_rpc_start(rpc, &op->req);
}

static void op_send(struct fill_op *op, struct tarn_rpc_client *rpc)
{
    struct mlocator *locs = tarn_xcalloc(FILL_FILES, sizeof(*locs));

    op_locate_all(op, locs);
    if (op->count > 0)
        op_send_fill(op, rpc, locs);
    for (size_t i = 0; i < op->count; i++)
        mlocator_fini(&locs[i]);
    free(locs);
    if (op->count == 0)
        op_free(op);
}

/* ---- which request is next
 * ----------------------------------------------------------------------------------- */

/* Small files go together, a range alone. */
static void op_take(struct fill_op *op, uint64_t max)
{
    struct tarn_list *queue = &op->lane->queue;

    while (!tarn_list_empty(queue) && op->count < FILL_FILES) {
        struct fill_part *p = TARN_LIST_ENTRY(queue->next, struct fill_part, node);

        if (p->e->fill_rc < 0) { /* another piece has failed */
            part_unqueue(op->run, p);
            part_end(p, 0, NULL);
            continue;
        }
        if (op->count > 0 && (!p->whole || op->cost + p->len > max))
            break;
        part_unqueue(op->run, p);
        op->parts[op->count++] = p;
        op->cost += p->len;
        if (!p->whole)
            break;
    }
}

static void lane_start_one(struct mrun *r, struct fill_lane *lane)
{
    struct tarn_rpc_client *rpc = mworker_rpc(r->master, lane->worker);
    struct fill_op *op;

    if (!rpc) {
        mworker_note(r->master, lane->worker, -TARN_E_CONN_REFUSED);
        lane_pause(r, lane);
        return;
    }
    op = tarn_xnew(struct fill_op);
    op->run = r;
    op->lane = lane;
    op_take(op, fill_bytes_max(r));
    if (op->count == 0) {
        free(op);
        return;
    }
    tarn_list_push(&lane->ops, &op->node);
    lane->ops_count++;
    lane->outstanding += op->cost;
    r->fill.ops_count++;
    if (r->job->spec->bandwidth)
        r->fill.tokens -= (int64_t)op->cost;
    op_send(op, rpc);
}

/* 0: a request may start; else after how many ns. */
static uint64_t fill_pause_ns(struct mrun *r)
{
    struct mfill *f = &r->fill;
    uint64_t rate = r->job->spec->bandwidth, now = tarn_loop_now_ns(r->master->args.loop);
    uint64_t passed_us;

    if (now < f->not_before_ns)
        return f->not_before_ns - now;
    if (rate == 0)
        return 0;
    rate = TARN_MIN(rate, (uint64_t)1 << 40);
    passed_us = TARN_MIN((now - f->tokens_ns) / 1000, (uint64_t)1000000);
    f->tokens_ns += now - f->tokens_ns >= TARN_NS_PER_S ? now - f->tokens_ns : passed_us * 1000;
    f->tokens = TARN_MIN(f->tokens + (int64_t)(rate * passed_us / 1000000), (int64_t)rate);
    if (f->tokens > 0)
        return 0;
    return ((uint64_t)-f->tokens + 1) * 1000 / rate * 1000000 + TARN_NS_PER_MS;
}

static void fill_timer(struct tarn_timer *t, void *arg)
{
    (void)t; /* the run's */
    mfill_poke(arg);
}

/* 0: the lane may send; else after how many ns. UINT64_MAX: something else comes first. */
static uint64_t lane_pause_ns(struct mrun *r, const struct fill_lane *lane)
{
    uint32_t parallel = r->job->spec->parallel;
    uint64_t now = tarn_loop_now_ns(r->master->args.loop);

    if (tarn_list_empty(&lane->queue) || lane->outstanding >= FILL_OUTSTANDING ||
        (parallel ? r->fill.ops_count >= parallel : lane->ops_count >= FILL_PARALLEL))
        return UINT64_MAX;
    return now < lane->not_before_ns ? lane->not_before_ns - now : fill_pause_ns(r);
}

/* Starts what may start, a request of each worker in turn. */
static void fill_send(struct mrun *r)
{
    struct mfill *f = &r->fill;
    uint64_t soonest = UINT64_MAX;
    bool more = true;

    while (more && !r->aborting) {
        more = false;
        soonest = UINT64_MAX;
        TARN_LIST_FOREACH(n, &f->lanes)
        {
            struct fill_lane *lane = TARN_LIST_ENTRY(n, struct fill_lane, node);
            uint64_t pause = lane_pause_ns(r, lane);

            if (pause == 0) {
                lane_start_one(r, lane);
                more = true;
            }
            soonest = TARN_MIN(soonest, pause ? pause : UINT64_MAX);
        }
    }
    if (soonest != UINT64_MAX && !r->aborting)
        tarn_timer_start(r->master->args.loop, &f->timer, soonest, fill_timer, r);
}

static void fill_task(struct tarn_task *t)
{
    struct mfill *f = TARN_CONTAINER(t, struct mfill, task);
    struct mrun *r = TARN_CONTAINER(f, struct mrun, fill);

    f->posted = false;
    while (!r->aborting && !tarn_list_empty(&f->todo) && tarn_list_empty(&f->homeless) &&
           f->queued < FILL_PIECES && f->queued_bytes < FILL_QUEUED) {
        struct ment *e = TARN_LIST_ENTRY(f->todo.next, struct ment, work);

        if (!mfile_wants_force(e))
            file_cut(e);
        else if (!mfile_force_next(r))
            break;
    }
    fill_send(r);
    mrun_poke(r);
}

/* ---- workers that come and go
 * -------------------------------------------------------------------------------- */

static bool worker_alive(const struct mrun *r, uint64_t id)
{
    const struct tarn_place *place = tarn_peers_place(r->master->peers);
    const struct tarn_place_worker *w = place ? tarn_place_find(place, id) : NULL;

    return w && w->alive;
}

/* What it was asked for is asked of others. */
static void lane_leave(struct fill_lane *lane)
{
    TARN_LIST_FOREACH_SAFE(n, &lane->ops)
    {
        struct fill_op *op = TARN_LIST_ENTRY(n, struct fill_op, node);

        if (!op->left)
            tarn_rpc_cancel(&op->req);
        op->left = true;
    }
}

void mfill_tick(struct mrun *r)
{
    struct mfill *f = &r->fill;
    bool anew = !tarn_list_empty(&f->homeless) || f->place_version != mrun_place_version(r);

    TARN_LIST_FOREACH(n, &f->lanes)
    {
        struct fill_lane *lane = TARN_LIST_ENTRY(n, struct fill_lane, node);

        if (!worker_alive(r, lane->worker))
            lane_leave(lane);
        anew |= !tarn_list_empty(&lane->queue) && !mworker_serves(r->master, lane->worker);
    }
    if (anew)
        fill_place_all(r);
    mfill_poke(r);
}

char *mfill_waits_for(const struct mrun *r)
{
    const struct tarn_list *homeless = &r->fill.homeless;
    const struct tarn_place_worker *owners[TARN_PLACE_PICK_MAX];
    const struct tarn_place *place = tarn_peers_place(r->master->peers);
    const struct fill_part *p;
    TARN_AUTO_FREE char *name = NULL;
    unsigned n;

    if (!tarn_list_empty(&r->fill.todo) && !mworkers_any(r->master))
        return tarn_xstrdup("no worker");
    if (tarn_list_empty(homeless))
        return NULL;
    p = TARN_LIST_ENTRY(homeless->next, struct fill_part, node);
    n = place
            ? tarn_place_owners(place, &p->e->cid, tarn_segment_of(p->off), p->e->replicas, owners)
            : 0;
    if (!mworkers_any(r->master))
        return tarn_xstrdup("no worker");
    if (p->copy >= n)
        return tarn_xstrdup("no worker owns anything: all drain, or their caches failed");
    name = mworker_text(r->master, owners[p->copy]->id);
    return tarn_xasprintf("%s does not answer", name);
}

void mfill_cancel(struct mrun *r)
{
    struct mfill *f = &r->fill;

    tarn_timer_stop(&f->timer);
    while (tarn_list_pop(&f->todo))
        ;
    mfile_cancel(r);
    fill_place_all(r); /* ends all pieces: the run is aborting */
    TARN_LIST_FOREACH(n, &f->lanes)
    {
        lane_leave(TARN_LIST_ENTRY(n, struct fill_lane, node));
    }
}
