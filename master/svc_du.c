/* SPDX-License-Identifier: Apache-2.0 */
/*
 * du: files, bytes and cached bytes below a path. What is known is walked (the store is asked for
 * nothing but the names on the way), and the workers are asked, in batches, how much of each file
 * they have: the figures are their own, not a guess (docs/decisions/0006). A worker that is not
 * reached is waited for once, not for each batch, and the answer says that it is partial, unless
 * all bytes were found without it.
 *
 *     du_call -> the run of its path that has not begun, or a new one
 *             -> its turn -> the path is resolved -> walk <-> ask the workers
 *             -> all calls of the run are answered
 *
 * A sum is made once for all who asked before it began. Who comes later waits for the next: the one
 * under way may have passed what was cached just before the question. DU_RUNS_MAX are made at a
 * time, one of a path, the others in the order they came; so however many ask, what the loop and
 * the workers have to do at once is bounded. A run whose callers have all gone is cancelled.
 */
#include "master/master_priv.h"

#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"

#define DU_BATCH    4096u
#define DU_SEGMENTS 16384u /* of the files of a batch */
#define DU_RUNS_MAX 4u     /* at a time */

struct du_run {
    struct tarn_list node; /* master->dus */
    struct tarn_master *master;
    struct tarn_list calls; /* struct du_call; empty: cancelled */
    char *text;             /* the path */
    bool begun;
    struct mpath_req path;
    struct mwalk walk;
    Tarn__Wire__DuResponse resp;
    struct mspread_item *items; /* files whose cached bytes are being asked for; DU_BATCH */
    size_t count;
    uint64_t segments; /* of them */
    struct mspread ask;
    struct mspread_away away;
    bool asking, walking, ended;
    int rc;
};

struct du_call {
    struct mreport report;
    struct tarn_list node; /* run->calls */
    struct du_run *run;
};

/* ---- runs ------------------------------------------------------------------------------------ */

static void du_begin_next(struct tarn_master *m);

static void run_free(struct du_run *d)
{
    struct tarn_master *m = d->master;

    TARN_ASSERT(tarn_list_empty(&d->calls) && !d->asking && !d->walking);
    tarn_list_del(&d->node);
    if (d->begun)
        mwalk_fini(&d->walk);
    mspread_away_fini(&d->away);
    free(d->items);
    free(d->text);
    free(d);
    du_begin_next(m);
    master_idle(m);
}

static void call_end(struct du_call *c, int rc, const ProtobufCMessage *resp)
{
    struct tarn_master *m = c->run->master;

    tarn_list_del(&c->node);
    mreport_reply(&c->report, rc, resp);
    free(c);
    master_idle(m);
}

static void run_end(struct du_run *d)
{
    TARN_AUTO_FREE char *reason = NULL;

    d->resp.partial = d->resp.partial && d->resp.cached_bytes < d->resp.bytes;
    if (d->rc == 0 && d->resp.partial) {
        reason = mspread_reason(d->master, &d->away);
        d->resp.reason = reason;
    }
    while (!tarn_list_empty(&d->calls))
        call_end(TARN_LIST_ENTRY(d->calls.next, struct du_call, node), d->rc, &d->resp.base);
    run_free(d);
}

static void run_cancel(struct du_run *d)
{
    if (!d->begun)
        run_free(d);
    else if (d->asking)
        mspread_cancel(&d->ask); /* then the walk */
    else if (d->walking)
        mwalk_cancel(&d->walk);
    else
        mpath_cancel(&d->path);
}

static bool run_is_of(const struct du_run *d, const char *path)
{
    return strcmp(d->text, path) == 0;
}

/* ---- one run --------------------------------------------------------------------------------- */

static void run_asked(struct mspread *s, int rc)
{
    struct du_run *d = s->arg;

    d->asking = false;
    for (size_t i = 0; i < d->count; i++) {
        d->resp.cached_bytes += d->items[i].bytes;
        d->resp.cached_files += d->items[i].bytes >= d->items[i].size;
        d->resp.partial = d->resp.partial || !d->items[i].sure;
    }
    d->resp.partial = d->resp.partial || d->away.n > 0;
    d->count = 0;
    d->segments = 0;
    if (rc == 0 && tarn_list_empty(&d->calls))
        rc = -TARN_E_CANCELLED; /* too late for the question */
    if (rc < 0 && d->rc == 0)
        d->rc = rc;
    if (d->ended)
        run_end(d);
    else if (d->rc < 0)
        mwalk_cancel(&d->walk);
    else
        mwalk_resume(&d->walk);
}

static void run_ask(struct du_run *d)
{
    d->asking = true;
    d->ask = (struct mspread){.master = d->master,
                              .items = d->items,
                              .count = d->count,
                              .away = &d->away,
                              .fn = run_asked,
                              .arg = d};
    mspread_start(&d->ask);
}

static int run_count(struct du_run *d, const Tarn__Core__Inode *inode)
{
    if (inode->type == TARN_UFS_DIR) {
        d->resp.dirs++;
        return 0;
    }
    d->resp.files++;
    if (inode->type == TARN_UFS_SYMLINK)
        d->resp.cached_files++; /* its target is a part of the names */
    if (inode->type != TARN_UFS_FILE || !inode->ufs)
        return 0;
    d->resp.bytes += inode->ufs->size;
    if (inode->ufs->size == 0)
        d->resp.cached_files++; /* nothing of it is missing */
    if (inode->ufs->size == 0 || inode->cid.len != sizeof(tarn_cid_t))
        return 0;
    d->items[d->count] = (struct mspread_item){.size = inode->ufs->size};
    memcpy(d->items[d->count].cid.b, inode->cid.data, sizeof(tarn_cid_t));
    d->count++;
    d->segments += mspread_segments(inode->ufs->size);
    if (d->count < DU_BATCH && d->segments < DU_SEGMENTS)
        return 0;
    run_ask(d);
    return 1;
}

static int run_visit(struct mwalk *w, tarn_ino_t ino, const Tarn__Core__Inode *inode,
                     const char *path)
{
    struct du_run *d = w->arg;

    (void)path; /* only counted */
    if (inode->type == TARN_UFS_DIR) {
        struct mdir *dir;

        if (mdir_get(d->master, ino, &dir) == 0) {
            if (dir->listed_ns == 0)
                d->resp.complete = false;
            mdir_put(&dir);
        }
    }
    return run_count(d, inode);
}

static void run_walked(struct mwalk *w, int rc)
{
    struct du_run *d = w->arg;

    d->ended = true;
    d->walking = false;
    if (rc < 0 && d->rc == 0)
        d->rc = rc;
    if (d->rc == 0 && d->count > 0)
        run_ask(d);
    else if (!d->asking)
        run_end(d);
}

static const struct mwalk_ops run_ops = {.visit = run_visit, .end = run_walked};

static void run_walk(struct du_run *d)
{
    struct mdir *dir;

    if (mdir_get(d->master, d->path.ino, &dir) == 0) {
        d->resp.complete = dir->listed_ns != 0;
        mdir_put(&dir);
    }
    d->walking = true;
    d->walk = (struct mwalk){.master = d->master, .ops = &run_ops, .recursive = true, .arg = d};
    mwalk_start(&d->walk, d->path.ino, d->text, NULL, 0);
}

static void run_resolved(struct mpath_req *p, int rc)
{
    struct du_run *d = p->arg;
    Tarn__Core__Inode *inode = NULL;

    if (rc == 0 && tarn_list_empty(&d->calls))
        rc = -TARN_E_CANCELLED;
    if (rc == 0)
        rc = tarn_core_inode(d->master->args.kv, p->ino, &inode);
    if (rc < 0) {
        d->rc = rc == -TARN_E_UFS_NOT_FOUND ? -TARN_E_NO_ENTRY : rc;
        run_end(d);
        return;
    }
    d->resp.complete = true;
    if (inode->type == TARN_UFS_DIR) {
        run_walk(d);
    } else {
        d->ended = true;
        (void)run_count(d, inode); /* of one file: asks if it is a batch by itself */
        if (!d->asking && d->count > 0)
            run_ask(d);
        else if (!d->asking)
            run_end(d);
    }
    tarn__core__inode__free_unpacked(inode, NULL);
}

static void run_begin(struct du_run *d)
{
    d->begun = true;
    d->items = tarn_xcalloc(DU_BATCH, sizeof(*d->items));
    d->path = (struct mpath_req){.path = d->text, .fn = run_resolved, .arg = d};
    mpath_start(d->master, &d->path);
}

/* ---- turns ----------------------------------------------------------------------------------- */

/* Another run of its path is under way. */
static bool run_must_wait(const struct du_run *d)
{
    TARN_LIST_FOREACH(n, &d->master->dus)
    {
        const struct du_run *o = TARN_LIST_ENTRY(n, struct du_run, node);

        if (o->begun && run_is_of(o, d->text))
            return true;
    }
    return false;
}

static void du_begin_next(struct tarn_master *m)
{
    unsigned begun = 0;

    TARN_LIST_FOREACH(n, &m->dus)
    {
        begun += TARN_LIST_ENTRY(n, struct du_run, node)->begun;
    }
    TARN_LIST_FOREACH(n, &m->dus)
    {
        struct du_run *d = TARN_LIST_ENTRY(n, struct du_run, node);

        if (begun >= DU_RUNS_MAX)
            return;
        if (d->begun || run_must_wait(d))
            continue;
        begun++;
        run_begin(d); /* it ends later, from the loop */
    }
}

/* The run that a question about a path may share. */
static struct du_run *run_for(struct tarn_master *m, const char *path)
{
    struct du_run *d;

    TARN_LIST_FOREACH(n, &m->dus)
    {
        d = TARN_LIST_ENTRY(n, struct du_run, node);
        if (!d->begun && run_is_of(d, path))
            return d;
    }
    d = tarn_xnew(struct du_run);
    master_busy(m);
    d->master = m;
    d->text = tarn_xstrdup(path);
    tarn_list_init(&d->calls);
    tarn__wire__du_response__init(&d->resp);
    tarn_list_push(&m->dus, &d->node);
    return d;
}

static void du_cancel(struct mreport *report)
{
    struct du_call *c = TARN_CONTAINER(report, struct du_call, report);
    struct du_run *d = c->run;

    call_end(c, -TARN_E_CANCELLED, NULL);
    if (tarn_list_empty(&d->calls))
        run_cancel(d);
}

static void svc_du(void *ctx, struct tarn_rpc_call *call)
{
    const Tarn__Wire__DuRequest *req = (const Tarn__Wire__DuRequest *)call->request;
    struct tarn_master *m = ctx;
    char path[TARN_PATH_MAX];
    struct du_call *c;
    int rc = mreport_path(&req->path, path);

    if (rc < 0) {
        tarn_rpc_reply(call, rc, NULL, NULL, 0, 0);
        return;
    }
    c = tarn_xnew(struct du_call);
    mreport_begin(&c->report, m, call, du_cancel);
    c->run = run_for(m, path);
    tarn_list_push(&c->run->calls, &c->node);
    du_begin_next(m);
}

void msvc_du_handlers(struct tarn_master *m, struct tarn_rpc_server *s)
{
    tarn_rpc_server_handle(s, TARN_RPC_du, svc_du, m);
}
