/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests that need the loop.
 *
 *     FUSE thread: fop_new -> fop_start_*: the client's op is posted
 *     loop:        fop_ended: fn replies -> freed
 *
 * Cancelling (INTERRUPT, deadline, stop): any thread sets `why` and posts cancel_task, once. The
 * client's cancel works on calls that its loop has begun: the task goes round the loop until the
 * starter has posted the call, and once more, since the call may lie behind it in the queue.
 * The call then ends with CANCELLED (or with its result, if that was first) and is answered with
 * `why`.
 *
 * libfuse calls the interrupt function with the request's lock held, which setting it takes too:
 * so after it is set to NULL in fop_ended(), before the reply frees the request, nobody comes here
 * with this fop.
 */
#include "fuse/fuse_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"

void fop_reply_err(fuse_req_t req, enum fop_class cls, int rc)
{
    int e = tarn_err_errno(rc);

    TARN_ASSERT(rc < 0);
    if (rc != -TARN_E_CANCELLED && cls != FOP_EXACT) {
        bool told = e == EACCES;

        if (cls == FOP_NAME)
            told = told || rc == -TARN_E_NO_ENTRY || e == ESTALE || e == EROFS || e == ENOTDIR ||
                   e == ENAMETOOLONG || e == ENOMEM;
        if (cls == FOP_READ)
            told = false;
        if (!told)
            e = EIO;
    }
    (void)fuse_reply_err(req, e); /* a request that is gone needs no answer */
}

static void fop_unref(struct fop *o)
{
    if (atomic_fetch_sub(&o->refs, 1) > 1)
        return;
    TARN_ASSERT(o->done);
    o->magic = 0;
    free(o);
}

static void fop_cancel_task(struct tarn_task *t)
{
    struct fop *o = TARN_CONTAINER(t, struct fop, cancel_task);

    if (!o->done && !o->passed) {
        o->passed = atomic_load(&o->posted);
        tarn_loop_post(o->f->args.loop, &o->cancel_task, fop_cancel_task);
        return;
    }
    if (!o->done && o->is_read)
        tarn_handle_cancel(&o->read);
    else if (!o->done)
        tarn_client_cancel(&o->op);
    fop_unref(o);
}

/* Any thread that keeps `o` alive meanwhile. */
static void fop_cancel(struct fop *o, int rc)
{
    int none = 0;

    TARN_ASSERT(rc < 0);
    if (!atomic_compare_exchange_strong(&o->why, &none, rc))
        return;
    atomic_fetch_add(&o->refs, 1);
    tarn_loop_post(o->f->args.loop, &o->cancel_task, fop_cancel_task);
}

static void fop_interrupted(fuse_req_t req, void *data)
{
    struct fop *o;

    (void)req; /* o's */
    TARN_CAST(o, data, FOP_MAGIC);
    fop_cancel(o, -TARN_E_CANCELLED);
}

struct fop *fop_new(fuse_req_t req, enum fop_class cls, fop_fn *fn)
{
    struct tarn_fuse *f = fuse_of(req);
    struct fop *o = tarn_xnew(struct fop);
    bool stopping;

    o->magic = FOP_MAGIC;
    o->f = f;
    o->req = req;
    o->cls = cls;
    o->fn = fn;
    o->op_kind = fworker_self() ? fworker_self()->op : 0;
    o->start_ns = fworker_self() ? fworker_self()->start_ns : tarn_now_ns();
    o->deadline_ns = cls == FOP_READ || f->args.timeout_ns == 0
                         ? UINT64_MAX
                         : tarn_now_ns() + f->args.timeout_ns;
    atomic_init(&o->refs, 2); /* the call's and the starter's */
    tarn_list_init(&o->node);
    tarn_mtx_lock(&f->mtx);
    stopping = f->stopping;
    if (!stopping) {
        tarn_list_push(&f->ops, &o->node);
        f->under_way++;
    }
    tarn_mtx_unlock(&f->mtx);
    if (stopping) {
        free(o);
        fop_reply_err(req, cls, -TARN_E_SHUTDOWN);
        return NULL;
    }
    if (fworker_self())
        fworker_self()->went_async = true;
    return o;
}

/* On the loop: the call ended. */
static void fop_ended(struct fop *o, int rc)
{
    struct tarn_fuse *f = o->f;
    int why;

    fuse_req_interrupt_func(o->req, NULL, NULL);
    why = atomic_load(&o->why);
    if (rc < 0 && why < 0)
        rc = why;
    o->done = true;
    o->fn(o, rc);
    fstats_took(f, o->op_kind, tarn_now_ns() - o->start_ns);
    tarn_mtx_lock(&f->mtx);
    tarn_list_del(&o->node);
    if (--f->under_way == 0)
        tarn_cond_broadcast(&f->cond);
    tarn_mtx_unlock(&f->mtx);
    fop_unref(o);
}

static void fop_op_ended(struct tarn_client_op *op, int rc)
{
    struct fop *o;

    TARN_CAST(o, op->arg, FOP_MAGIC);
    fop_ended(o, rc);
}

static void fop_read_ended(struct tarn_read *r, int rc)
{
    struct fop *o;

    TARN_CAST(o, r->arg, FOP_MAGIC);
    fop_ended(o, rc);
}

static void fop_posted(struct fop *o)
{
    atomic_store(&o->posted, true);
    fop_unref(o);
}

void fop_start_op(struct fop *o)
{
    o->op.cb = fop_op_ended;
    o->op.arg = o;
    fuse_req_interrupt_func(o->req, fop_interrupted, o);
    tarn_client_start(o->f->args.client, &o->op);
    fop_posted(o);
}

void fop_start_read(struct fop *o)
{
    o->is_read = true;
    o->read.cb = fop_read_ended;
    o->read.arg = o;
    fuse_req_interrupt_func(o->req, fop_interrupted, o);
    tarn_handle_read(&o->read);
    fop_posted(o);
}

/* What ends, ends on this thread: the list only grows meanwhile. */
static void fop_cancel_where(struct tarn_fuse *f, uint64_t deadline_ns, int rc)
{
    tarn_loop_assert_mine(f->args.loop);
    tarn_mtx_lock(&f->mtx);
    TARN_LIST_FOREACH(n, &f->ops)
    {
        struct fop *o = TARN_LIST_ENTRY(n, struct fop, node);

        if (o->deadline_ns <= deadline_ns)
            fop_cancel(o, rc); /* posts only */
    }
    tarn_mtx_unlock(&f->mtx);
}

void fop_cancel_all(struct tarn_fuse *f, int rc)
{
    fop_cancel_where(f, UINT64_MAX, rc);
}

void fop_sweep(struct tarn_fuse *f, uint64_t now_ns)
{
    fop_cancel_where(f, TARN_MIN(now_ns, UINT64_MAX - 1), -TARN_E_DEADLINE);
}
