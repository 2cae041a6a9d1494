/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Attaching a store, or changing what is attached:
 *
 *     resolve (a thread) -> open -> compare -> check (asks the store) -> commit -> in use
 *
 * An update that leaves the store as it is begins at commit. Nothing of it is in the table before
 * the entry is durable, so a failure leaves no trace. The commit is tried again while what was
 * attached at "/" is being collected (BUSY), and when another attach took the id (ENTRY_STALE).
 *
 * The process of its own directory (tarn_master_attach) starts without asking a store that the
 * directory knows already.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"
#include "lib/base/units.h"
#include "master/attach_priv.h"

#define COMMIT_AGAIN_NS (100 * TARN_NS_PER_MS)

struct mattach_op {
    struct tarn_list node; /* in master->attach_ops */
    struct tarn_master *master;
    Tarn__Core__Attachment *rec;   /* as it is to be */
    bool fresh;                    /* it gets an id when it is proposed */
    bool have_opts;                /* the store is opened; else only the record changes */
    struct tarn_ufs_opts opts;     /* a copy */
    char *known_uri, *known_store; /* what the store is to be; NULL: any */
    bool own_dir;                  /* for tarn_master_attach() */
    bool want_check;
    uint64_t check_timeout_ns;
    struct tarn_disk_io io; /* resolve */
    char resolved[PATH_MAX];
    struct tarn_ufs *ufs;
    struct tarn_ufs_check check;
    struct tarn_timer timer; /* of the check; until the next commit */
    struct mproposal proposal;
    struct tarn_task task;
    bool checking; /* the store is being asked */
    bool timed_out;
    bool waiting;   /* for the next commit */
    bool cancelled; /* nobody wants it any more, or the master stops */
    int rc;
    struct tarn_errbuf err;
    mattach_op_fn *fn;
    void *arg;
};

static void op_commit(struct mattach_op *op);

/* ---- the end -------------------------------------------------------------------------------- */

static void op_done(struct mattach_op *op)
{
    struct tarn_master *m = op->master;
    uint32_t id = op->rec->id;

    tarn_list_del(&op->node);
    op->fn(op->arg, op->rc, id, &op->err);
    if (op->have_opts)
        tarn_ufs_opts_fini(&op->opts);
    mattach_rec_free(op->rec);
    free(op->known_uri);
    free(op->known_store);
    free(op);
    master_idle(m);
}

static void op_closed(void *arg)
{
    op_done(arg);
}

static void op_end(struct mattach_op *op, int rc)
{
    tarn_timer_stop(&op->timer);
    if (rc == 0 && op->master->stopping)
        rc = -TARN_E_SHUTDOWN;
    op->rc = rc;
    if (op->ufs)
        tarn_ufs_close(&op->ufs, op_closed, op);
    else
        op_done(op);
}

/* True when it was to go no further. */
static bool op_stopped(struct mattach_op *op)
{
    if (!op->cancelled && !op->master->stopping)
        return false;
    op_end(op, op->master->stopping ? -TARN_E_SHUTDOWN : -TARN_E_CANCELLED);
    return true;
}

void mattach_cancel(struct mattach_op *op)
{
    op->cancelled = true;
    if (op->checking)
        tarn_ufs_cancel(&op->check.list.req);
    if (op->waiting) {
        op->waiting = false;
        op_end(op, op->master->stopping ? -TARN_E_SHUTDOWN : -TARN_E_CANCELLED);
    }
}

void mattach_ops_stop(struct tarn_master *m)
{
    TARN_LIST_FOREACH_SAFE(n, &m->attach_ops)
    mattach_cancel(TARN_LIST_ENTRY(n, struct mattach_op, node));
}

/* ---- commit --------------------------------------------------------------------------------- */

/* What is committed is in use from now on. */
static int op_take(struct mattach_op *op)
{
    const struct tarn_ufs_opts *opts = op->have_opts ? &op->opts : NULL;
    struct tarn_master *m = op->master;
    Tarn__Core__Attachment *rec = NULL;
    struct mattach *a = mattach_by_id(m, op->rec->id);
    int rc = tarn_core_attachment(m->args.kv, op->rec->id, &rec);

    if (rc < 0)
        return tarn_err_set(&op->err, rc, "attach %s: %s", op->rec->uri, tarn_strerror(rc));
    if (a)
        mattach_fill(a, rec, opts);
    else
        a = mattach_new(m, rec, opts);
    if (op->ufs && !m->stopping) {
        mattach_use(a, op->ufs);
        op->ufs = NULL;
    }
    return 0;
}

static void op_again(struct tarn_timer *t, void *arg)
{
    struct mattach_op *op = arg;

    (void)t; /* op's */
    op->waiting = false;
    op_commit(op);
}

static void op_committed(struct mproposal *p)
{
    struct mattach_op *op = p->arg;
    struct tarn_master *m = op->master;
    int rc = mproposal_rc(p);

    if (p->p.rc == 0 && (rc == -TARN_E_BUSY || (rc == -TARN_E_ENTRY_STALE && op->fresh))) {
        if (op_stopped(op))
            return;
        op->waiting = true;
        tarn_timer_start(m->args.loop, &op->timer, rc == -TARN_E_BUSY ? COMMIT_AGAIN_NS : 1,
                         op_again, op);
        return;
    }
    if (rc == -TARN_E_ENTRY_STALE) /* its id is of the past: it was detached meanwhile */
        rc = -TARN_E_NO_ATTACH;
    if (rc < 0) {
        (void)tarn_err_set(&op->err, rc, "attach %s: %s", op->rec->uri, tarn_strerror(rc));
        op_end(op, rc);
        return;
    }
    if (p->p.result.created == 0 && op->fresh)
        msession_everything(m); /* a directory that was another's: its names are all others */
    rc = op_take(op);
    master_space(m);
    mattach_changed(m, p->p.result.index);
    op_end(op, rc);
}

static void op_commit(struct mattach_op *op)
{
    Tarn__Core__Entry e = TARN__CORE__ENTRY__INIT;
    int rc = 0;

    if (op_stopped(op))
        return;
    if (op->fresh)
        rc = tarn_core_next_attachment(op->master->args.kv, &op->rec->id);
    if (rc < 0) {
        op_end(op, tarn_err_set(&op->err, rc, "attach %s: %s", op->rec->uri, tarn_strerror(rc)));
        return;
    }
    e.attach = op->rec;
    if (mpropose(op->master, &op->proposal, &e, op_committed, op) < 0)
        op_end(op, tarn_err_set(&op->err, -TARN_E_TOO_BIG, "attach %s: the options are too long",
                                op->rec->uri));
}

/* ---- the store ------------------------------------------------------------------------------ */

static void op_checked(struct tarn_ufs_check *c, int rc)
{
    struct mattach_op *op = c->arg;

    tarn_timer_stop(&op->timer);
    op->checking = false;
    if (rc == 0) {
        op_commit(op);
        return;
    }
    if (op_stopped(op))
        return;
    op->err = c->list.req.err;
    if (op->timed_out) {
        char limit[32];

        rc = tarn_err_set(&op->err, -TARN_E_UFS_STALLED, "%s: no answer within %s", op->rec->uri,
                          tarn_format_duration(op->check_timeout_ns, limit));
    }
    op_end(op, rc);
}

static void op_timeout(struct tarn_timer *t, void *arg)
{
    struct mattach_op *op = arg;

    (void)t; /* op's */
    op->timed_out = true;
    tarn_ufs_cancel(&op->check.list.req);
}

static void op_set(char **field, const char *text)
{
    if (*field != (char *)(uintptr_t)protobuf_c_empty_string)
        free(*field);
    *field = tarn_xstrdup(text);
}

/* What is attached already keeps its store: cached bytes are known by its identity. */
static int op_compare(struct mattach_op *op)
{
    const char *store_id = tarn_ufs_store_id(op->ufs), *uri = tarn_ufs_uri(op->ufs);

    op_set(&op->rec->store_id, store_id);
    op_set(&op->rec->uri, uri);
    if (!op->known_uri ||
        (strcmp(op->known_uri, uri) == 0 && strcmp(op->known_store, store_id) == 0))
        return 0;
    if (op->own_dir)
        return tarn_err_set(&op->err, -TARN_E_DIR_FOREIGN,
                            "the cache directory was made for %s (%s), not for %s (%s)",
                            op->known_uri, op->known_store, uri, store_id);
    return tarn_err_set(&op->err, -TARN_E_EXISTS,
                        "%s: %s (%s) is attached there, and %s (%s) is another store: detach it, "
                        "then attach the other",
                        op->rec->path, op->known_uri, op->known_store, uri, store_id);
}

static void op_open(struct mattach_op *op)
{
    struct tarn_ufs_args args = {.loop = op->master->args.loop,
                                 .uri = op->rec->uri,
                                 .opts = &op->opts,
                                 .resolved = op->resolved};
    int rc;

    if (op_stopped(op))
        return;
    rc = tarn_ufs_open(&args, &op->err, &op->ufs);
    if (rc == 0)
        rc = op_compare(op);
    if (rc < 0) {
        op_end(op, rc);
        return;
    }
    if (!op->want_check) {
        op_commit(op);
        return;
    }
    tarn_timer_start(op->master->args.loop, &op->timer, op->check_timeout_ns, op_timeout, op);
    op->checking = true;
    op->check = (struct tarn_ufs_check){.cb = op_checked, .arg = op};
    tarn_ufs_check(op->ufs, &op->check);
}

static void op_resolve(struct tarn_disk_io *io)
{
    struct mattach_op *op = TARN_CONTAINER(io, struct mattach_op, io);

    io->rc = tarn_ufs_resolve(op->rec->uri, op->resolved, &op->err);
}

static void op_resolved(struct tarn_disk_io *io)
{
    struct mattach_op *op = TARN_CONTAINER(io, struct mattach_op, io);

    if (io->rc < 0)
        op_end(op, (int)io->rc);
    else
        op_open(op);
}

static void op_begin(struct tarn_task *t)
{
    struct mattach_op *op = TARN_CONTAINER(t, struct mattach_op, task);

    if (op->have_opts)
        op_open(op);
    else
        op_commit(op);
}

struct mattach_op *mattach_start(struct tarn_master *m, const struct mattach_want *w,
                                 mattach_op_fn *fn, void *arg)
{
    struct mattach_op *op = tarn_xnew(struct mattach_op);

    master_busy(m);
    op->master = m;
    op->fn = fn;
    op->arg = arg;
    op->rec = mattach_rec_copy(w->rec);
    op->fresh = w->rec->id == 0;
    if (w->known) {
        op->known_uri = tarn_xstrdup(w->known->uri);
        op->known_store = tarn_xstrdup(w->known->store_id);
    }
    op->own_dir = w->own_dir;
    op->want_check = w->check;
    op->check_timeout_ns = w->check_timeout_ns;
    op->have_opts = w->opts != NULL;
    if (w->opts)
        tarn_ufs_opts_copy(w->opts, &op->opts);
    tarn_list_push(&m->attach_ops, &op->node);
    if (w->opts && w->resolve) {
        op->io.work = op_resolve;
        op->io.cb = op_resolved;
        mattach_resolve(m, &op->io);
    } else {
        tarn_loop_post(m->args.loop, &op->task, op_begin);
    }
    return op;
}

/* ---- a process of its own directory --------------------------------------------------------- */

struct local_attach {
    struct tarn_master *master;
    void (*cb)(void *arg, int rc, const struct tarn_errbuf *err);
    void *arg;
};

static void local_attached(void *arg, int rc, uint32_t id, const struct tarn_errbuf *err)
{
    struct local_attach *l = arg;

    (void)id; /* found by its path */
    if (rc == 0)
        mattach_open_all(l->master);
    l->cb(l->arg, rc, err);
    free(l);
}

struct local_known {
    const char *path;
    Tarn__Core__Attachment *rec; /* NULL: nothing is attached there */
};

static int local_find(void *arg, const Tarn__Core__Attachment *rec)
{
    struct local_known *k = arg;

    if (strcmp(rec->path, k->path) != 0)
        return 0;
    k->rec = mattach_rec_copy(rec);
    return 1;
}

void tarn_master_attach(struct tarn_master *m, const struct tarn_master_attach *args,
                        void (*cb)(void *arg, int rc, const struct tarn_errbuf *err), void *arg)
{
    struct local_attach *l = tarn_xnew(struct local_attach);
    struct local_known known = {.path = args->path};
    Tarn__Core__Attachment rec = TARN__CORE__ATTACHMENT__INIT;
    struct mattach_want w = {.rec = &rec,
                             .opts = args->opts,
                             .own_dir = true,
                             .check = args->check,
                             .check_timeout_ns = args->check_timeout_ns};
    char ttl[32];

    TARN_ASSERT(tarn_list_empty(&m->attach_ops) && !m->stopping);
    (void)tarn_core_attachments(m->args.kv, local_find, &known); /* an error: the commit fails */
    *l = (struct local_attach){.master = m, .cb = cb, .arg = arg};
    (void)snprintf(ttl, sizeof(ttl), "%" PRIu64 "ns", args->ttl_ns); /* fits */
    rec.path = (char *)(uintptr_t)args->path;
    rec.uri = (char *)(uintptr_t)args->uri;
    rec.isolation = (char *)(uintptr_t)args->opts->isolation;
    rec.ttl = ttl;
    rec.read_only = true;
    rec.replicas = 1;
    rec.since_ns = master_real_ns(m);
    if (known.rec) {
        w.check = false; /* it starts without the store */
        w.known = known.rec;
        rec.id = known.rec->id;
    }
    (void)mattach_start(m, &w, local_attached, l); /* a stop ends it */
    mattach_rec_free(known.rec);
}
