/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fill requests of a run. Small files go together in one request, big ones in pieces, so that
 * progress shows, a limit of bandwidth holds, and a cancel need not wait for the rest of a file.
 *
 *     todo -> [--force: free] -> fill -> filled
 *       ^          \______________/
 *       |                 | changed, or gone: ask for the name, once      worker or tier busy:
 * later
 *       +-----------------+------------------------------------------------------------+
 *
 * A request that failed as a whole is sent again while that is of use (mrun_retry).
 */
#include "master/jobs/jobs_priv.h"

#include <stdlib.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"

#define FILL_FILES       64u           /* files of one request */
#define FILL_BYTES       (16ull << 20) /* bytes of one request */
#define FILL_OUTSTANDING (64ull << 20) /* bytes asked for, above which no other request starts */
#define FILL_PARALLEL    8u            /* requests, unless the job says otherwise */
#define FILL_TIMEOUT_NS  (3600 * TARN_NS_PER_S)
#define FILL_WAITS       4u /* times that a busy worker is waited for, per file */
#define FILL_WAIT_NS     (500 * TARN_NS_PER_MS)

struct fill_op {
    struct tarn_list node;          /* fill->ops */
    struct mrun *run;               /* whose it is */
    struct tarn_rpc_req req;        /* under way unless `waiting` */
    struct ment *files[FILL_FILES]; /* what is asked for */
    size_t count;                   /* of files */
    uint64_t off, len;              /* the piece of files[0]; len 0: whole files */
    uint64_t cost;                  /* bytes that it may fetch */
    bool freeing;                   /* req is the free before the fill */
    bool waiting;                   /* timer runs */
    unsigned tries;                 /* that failed */
    struct tarn_timer timer;        /* the next try */
};

static void fill_task(struct tarn_task *t);

static void fill_poke(struct mrun *r)
{
    if (r->fill.posted || r->ended)
        return;
    r->fill.posted = true;
    tarn_loop_post(r->master->args.loop, &r->fill.task, fill_task);
}

void mfill_init(struct mrun *r)
{
    tarn_list_init(&r->fill.todo);
    tarn_list_init(&r->fill.ops);
    tarn_list_init(&r->fill.naming);
    r->fill.tokens_ns = tarn_loop_now_ns(r->master->args.loop);
}

bool mfill_idle(const struct mrun *r)
{
    return tarn_list_empty(&r->fill.todo) && tarn_list_empty(&r->fill.ops) &&
           tarn_list_empty(&r->fill.naming) && !r->fill.posted;
}

static void file_reset(struct ment *e)
{
    e->next = e->off;
    e->version = 0;
    e->fill_rc = 0;
    free(e->fill_text);
    e->fill_text = NULL;
    e->run->job->live.bytes_done -= e->shown;
    e->shown = 0;
}

void mfill_add(struct ment *e)
{
    TARN_ASSERT(e->len > 0);
    file_reset(e);
    tarn_list_push(&e->run->fill.todo, &e->work);
    fill_poke(e->run);
}

/* ---- the end of a file
 * --------------------------------------------------------------------------------------- */

static void file_again(struct ment *e)
{
    file_reset(e);
    tarn_list_push_front(&e->run->fill.todo, &e->work);
    fill_poke(e->run);
}

/* Fills the version that its name has now. */
static void file_changed(struct ment *e, tarn_ino_t ino, uint64_t size)
{
    e->ino = ino;
    if (e->ranged && e->off >= size) {
        e->run->ops->filled(e, -TARN_E_UFS_CHANGED, "the file ends before the range now");
        return;
    }
    e->len = e->ranged ? TARN_MIN(e->len, size - e->off) : size;
    if (e->len == 0)
        e->run->ops->filled(e, 0, NULL);
    else
        file_again(e);
}

/* What the store says about its name now. */
static void file_renamed(struct ment *e)
{
    struct tarn_kv *kv = e->run->master->args.kv;
    Tarn__Core__Inode *inode = NULL;
    tarn_ino_t ino;
    uint32_t type;
    int rc = tarn_core_dentry(kv, e->name.parent, e->name.name, e->name.len, &ino, &type);

    if (rc == 0)
        rc = tarn_core_inode(kv, ino, &inode);
    if (rc == 0 && inode->type != TARN_UFS_FILE)
        rc = -TARN_E_UFS_CHANGED;
    if (rc < 0) {
        e->run->ops->filled(e, rc,
                            rc == -TARN_E_NO_ENTRY ? "removed from the store meanwhile" : NULL);
    } else {
        file_changed(e, ino, inode->ufs ? inode->ufs->size : 0);
    }
    tarn__core__inode__free_unpacked(inode, NULL);
}

static void file_named(struct mname_req *name, int rc)
{
    struct ment *e = name->arg;
    struct mrun *r = e->run;

    tarn_list_del(&e->work);
    if (rc < 0)
        r->ops->filled(e, rc, tarn_err_text(&name->err, rc));
    else if (name->stale)
        r->ops->filled(e, e->fill_rc, e->fill_text);
    else
        file_renamed(e);
    mrun_poke(r);
}

/* Its object is another one, or gone: asks the store for the name. */
static void file_ask(struct ment *e)
{
    struct tarn_master *m = e->run->master;
    int rc;

    e->tries++;
    tarn__core__inode__free_unpacked(e->inode, NULL);
    e->inode = NULL;
    rc = tarn_core_inode(m->args.kv, e->ino, &e->inode);
    if (rc < 0) {
        e->run->ops->filled(e, rc,
                            rc == -TARN_E_NO_ENTRY ? "removed from the store meanwhile" : NULL);
        return;
    }
    e->name = (struct mname_req){.parent = {e->inode->parent},
                                 .name = (const char *)e->inode->name.data,
                                 .len = e->inode->name.len,
                                 .fresh = true,
                                 .fn = file_named,
                                 .arg = e};
    mname_distrust(m, e->name.parent, e->name.name, e->name.len);
    tarn_list_push(&e->run->fill.naming, &e->work);
    rc = mname_refresh(m, &e->name);
    if (rc != 0)
        file_named(&e->name, rc < 0 ? rc : 0);
}

/* The worker could not just now. */
static bool file_may_wait(struct ment *e, int rc)
{
    struct mrun *r = e->run;
    unsigned max = FILL_WAITS;

    switch (-rc) {
    case TARN_E_TIER_FULL: /* what is in use may be evicted a moment later */
        max = 1;
        break;
    case TARN_E_CANCELLED:
    case TARN_E_SHUTDOWN:
    case TARN_E_BUSY:
    case TARN_E_CONN_LOST:
    case TARN_E_CAP_EXPIRED:
        break;
    default:
        return false;
    }
    if (e->waits >= max)
        return false;
    r->fill.not_before_ns = tarn_loop_now_ns(r->master->args.loop) + (FILL_WAIT_NS << e->waits++);
    return true;
}

static void file_done(struct ment *e)
{
    int rc = e->fill_rc;

    if (!tarn_list_empty(&e->work))
        tarn_list_del(&e->work);
    if (e->run->aborting)
        return; /* it is done after the next start, or never */
    if (rc < 0 && file_may_wait(e, rc))
        file_again(e);
    else if ((rc == -TARN_E_UFS_CHANGED || rc == -TARN_E_UFS_NOT_FOUND) && e->tries == 0)
        file_ask(e);
    else
        e->run->ops->filled(e, rc, e->fill_text);
}

static void file_piece_done(struct ment *e, int rc, const char *text)
{
    TARN_ASSERT(e->pending > 0);
    e->pending--;
    if (rc < 0 && e->fill_rc == 0) {
        e->fill_rc = rc;
        e->fill_text = text && text[0] ? tarn_xstrdup(text) : NULL;
    }
    if (rc < 0) { /* the rest is not asked for */
        e->next = e->off + e->len;
        tarn_list_del(&e->work);
    }
    if (e->pending == 0 && e->next == e->off + e->len)
        file_done(e);
}

/* ---- requests
 * ------------------------------------------------------------------------------------------------
 */

static void op_send(struct fill_op *op);

static void op_free(struct fill_op *op)
{
    struct mrun *r = op->run;

    tarn_list_del(&op->node);
    r->fill.ops_count--;
    r->fill.outstanding -= op->cost;
    tarn_timer_stop(&op->timer);
    free(op);
    fill_poke(r);
    mrun_poke(r);
}

static void op_fail(struct fill_op *op, int rc)
{
    for (size_t i = 0; i < op->count; i++) {
        op->files[i]->freeing = false;
        file_piece_done(op->files[i], rc, NULL);
    }
    op_free(op);
}

static void op_filled(struct fill_op *op, const Tarn__Wire__FillResponse *resp)
{
    struct mrun *r = op->run;
    uint64_t fetched = 0;

    for (size_t i = 0; i < op->count; i++) {
        const Tarn__Wire__FillResult *res = resp->results[i];
        struct ment *e = op->files[i];

        fetched += res->fetched;
        e->fetched += res->fetched;
        e->level = res->level;
        if (res->status == 0)
            ment_show(e, op->len ? op->len : e->len);
        file_piece_done(e, res->status ? -(int)res->status : 0, res->error_text);
    }
    if (r->job->spec->bandwidth)
        r->fill.tokens += (int64_t)(op->cost - TARN_MIN(fetched, op->cost));
    op_free(op);
}

static void op_again(struct tarn_timer *t, void *arg)
{
    struct fill_op *op = arg;

    (void)t; /* the request's */
    op->waiting = false;
    op_send(op);
}

static void op_done(struct tarn_rpc_req *req, int rc)
{
    struct fill_op *op = req->arg;
    struct mrun *r = op->run;
    const Tarn__Wire__FillResponse *resp = (const Tarn__Wire__FillResponse *)req->resp;
    bool was_freeing = op->freeing;
    uint64_t wait;

    if (rc == 0 && !was_freeing && (!resp || resp->n_results != op->count))
        rc = -TARN_E_MSG_BAD;
    if (rc == 0 && !was_freeing) {
        ProtobufCMessage *taken = req->resp;

        req->resp = NULL; /* the answer outlives `op` here */
        tarn_rpc_req_fini(req);
        op_filled(op, (const Tarn__Wire__FillResponse *)taken);
        protobuf_c_message_free_unpacked(taken, NULL);
        return;
    }
    tarn_rpc_req_fini(req);
    if (r->aborting) {
        op_fail(op, -TARN_E_CANCELLED);
    } else if (rc == 0) {
        op->freeing = false;
        for (size_t i = 0; i < op->count; i++) {
            op->files[i]->freed = true;
            op->files[i]->freeing = false;
        }
        op_send(op);
    } else if (mrun_retry(rc, op->tries++, &wait)) {
        op->waiting = true;
        tarn_timer_start(r->master->args.loop, &op->timer, wait, op_again, op);
    } else {
        op_fail(op, rc);
    }
}

/* The file's locator, if the piece still is one of the same version. */
static int op_locate(struct fill_op *op, struct ment *e, struct mlocator *loc)
{
    int rc = mlocator_fill(op->run->master, e->ino, loc);

    if (rc < 0)
        return rc == -TARN_E_NO_ENTRY ? -TARN_E_UFS_NOT_FOUND : -TARN_E_UFS_CHANGED;
    if (e->version == 0)
        e->version = loc->loc.version;
    if (e->version != loc->loc.version || loc->ufs.size == 0 ||
        (e->ranged ? e->off + e->len > loc->ufs.size : e->len != loc->ufs.size)) {
        mlocator_fini(loc);
        return -TARN_E_UFS_CHANGED;
    }
    return 0;
}

/* Finds the locators; files without one leave the request. */
static void op_locate_all(struct fill_op *op, struct mlocator *locs)
{
    size_t kept = 0;

    for (size_t i = 0; i < op->count; i++) {
        struct ment *e = op->files[i];
        int rc = op_locate(op, e, &locs[kept]);

        if (rc == 0) {
            op->files[kept++] = e;
            continue;
        }
        e->freeing = false;
        file_piece_done(e, rc, NULL);
    }
    op->count = kept;
}

static bool op_wants_free(const struct fill_op *op)
{
    const struct mrun *r = op->run;

    return r->job->spec->force && r->phase == MRUN_DATA && !op->files[0]->freed;
}

static void op_start(struct fill_op *op, uint32_t method, const ProtobufCMessage *msg)
{
    op->req = (struct tarn_rpc_req){
        .method = method, .msg = msg, .timeout_ns = FILL_TIMEOUT_NS, .cb = op_done, .arg = op};
    tarn_rpc_start(op->run->master->worker, &op->req);
}

static void op_send_free(struct fill_op *op, const struct mlocator *locs)
{
    Tarn__Wire__FreeRequest msg = TARN__WIRE__FREE_REQUEST__INIT;
    ProtobufCBinaryData cids[FILL_FILES];

    for (size_t i = 0; i < op->count; i++) {
        cids[i] = locs[i].loc.cid;
        op->files[i]->freeing = true;
    }
    msg.n_cids = op->count;
    msg.cids = cids;
    op->freeing = true;
    op_start(op, TARN_RPC_free, &msg.base);
}

static void op_send_fill(struct fill_op *op, struct mlocator *locs)
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
    msg.offset = op->off;
    msg.length = op->len;
    op_start(op, TARN_RPC_fill, &msg.base);
}

static void op_send(struct fill_op *op)
{
    struct mlocator *locs = tarn_xcalloc(FILL_FILES, sizeof(*locs));

    op_locate_all(op, locs);
    if (op->count == 0)
        op_free(op);
    else if (op_wants_free(op))
        op_send_free(op, locs);
    else
        op_send_fill(op, locs);
    for (size_t i = 0; i < FILL_FILES; i++)
        if (locs[i].inode)
            mlocator_fini(&locs[i]);
    free(locs);
}

/* ---- which request is next
 * ----------------------------------------------------------------------------------- */

static uint64_t fill_bytes_max(const struct mrun *r)
{
    uint64_t rate = r->job->spec->bandwidth;

    if (rate == 0 || rate >= FILL_BYTES)
        return FILL_BYTES;
    return TARN_MAX(rate, (uint64_t)TARN_UNIT_BYTES);
}

/* Takes small files from the head of the queue. */
static void op_take_files(struct fill_op *op, uint64_t max)
{
    struct tarn_list *todo = &op->run->fill.todo;

    while (!tarn_list_empty(todo) && op->count < FILL_FILES) {
        struct ment *e = TARN_LIST_ENTRY(todo->next, struct ment, work);

        if (e->ranged || e->len > max || (op->count > 0 && op->cost + e->len > max))
            break;
        if (op->count > 0 && e->freed != op->files[0]->freed)
            break;
        tarn_list_del(&e->work);
        e->pending = 1;
        e->next = e->off + e->len;
        op->files[op->count++] = e;
        op->cost += e->len;
    }
}

static void op_take_piece(struct fill_op *op, struct ment *e, uint64_t max)
{
    uint64_t end = e->off + e->len;
    uint64_t stop = (e->next + max) / TARN_UNIT_BYTES * TARN_UNIT_BYTES;

    op->off = e->next;
    op->len = TARN_MIN(stop, end) - e->next;
    op->cost = op->len;
    op->files[op->count++] = e;
    e->next += op->len;
    e->pending++;
    if (e->next == end)
        tarn_list_del(&e->work);
}

static void fill_start_one(struct mrun *r)
{
    struct mfill *f = &r->fill;
    struct ment *e = TARN_LIST_ENTRY(f->todo.next, struct ment, work);
    uint64_t max = fill_bytes_max(r);
    struct fill_op *op = tarn_xnew(struct fill_op);

    op->run = r;
    if (e->ranged || e->len > max)
        op_take_piece(op, e, max);
    else
        op_take_files(op, max);
    TARN_ASSERT(op->count > 0 && op->cost > 0);
    tarn_list_push(&f->ops, &op->node);
    f->ops_count++;
    f->outstanding += op->cost;
    if (r->job->spec->bandwidth)
        f->tokens -= (int64_t)op->cost;
    op_send(op);
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
    fill_poke(arg);
}

static void fill_task(struct tarn_task *t)
{
    struct mfill *f = TARN_CONTAINER(t, struct mfill, task);
    struct mrun *r = TARN_CONTAINER(f, struct mrun, fill);
    unsigned parallel = r->job->spec->parallel ? r->job->spec->parallel : FILL_PARALLEL;

    f->posted = false;
    while (!r->aborting && !tarn_list_empty(&f->todo) && f->ops_count < parallel &&
           f->outstanding < FILL_OUTSTANDING) {
        uint64_t pause;

        if (TARN_LIST_ENTRY(f->todo.next, struct ment, work)->freeing)
            break; /* the rest of a big file, after what is there is gone */
        pause = fill_pause_ns(r);
        if (pause) {
            tarn_timer_start(r->master->args.loop, &f->timer, pause, fill_timer, r);
            break;
        }
        fill_start_one(r);
    }
    mrun_poke(r);
}

void mfill_cancel(struct mrun *r)
{
    struct mfill *f = &r->fill;

    tarn_timer_stop(&f->timer);
    while (tarn_list_pop(&f->todo))
        ;
    while (!tarn_list_empty(&f->naming)) {
        struct ment *e = TARN_LIST_ENTRY(f->naming.next, struct ment, work);

        mname_cancel(&e->name);
        tarn_list_del(&e->work);
    }
    TARN_LIST_FOREACH_SAFE(n, &f->ops)
    {
        struct fill_op *op = TARN_LIST_ENTRY(n, struct fill_op, node);

        if (op->waiting)
            op_fail(op, -TARN_E_CANCELLED);
        else
            tarn_rpc_cancel(&op->req);
    }
}
