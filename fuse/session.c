/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The session with the kernel: its start, its threads, what the kernel and we agree upon.
 *
 * The threads are ours and as many all the time; each reads a request from the device (a
 * cancellation point: that is how stop.c ends a thread that waits for the kernel) and hands it to
 * libfuse, which calls ops_*.c. The first one that ends because the kernel ended the mount tells
 * the user (on_end).
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fuse/fuse_priv.h"
#include "lib/base/assert.h"
#include "lib/base/log.h"

#define THREADS_MAX    256u
#define INIT_WAIT_NS   (10 * TARN_NS_PER_S)
#define SWEEP_NS       TARN_NS_PER_S
#define ENTRY_CAP_NS   (10 * TARN_NS_PER_S) /* trust of names on kernels without the epoch */
#define BACKGROUND_MAX 128u                 /* read-ahead and asynchronous requests at a time */
#define READ_AHEAD_KIB (TARN_READ_MAX >> 10)

static _Thread_local struct fworker *worker_self;

struct fworker *fworker_self(void)
{
    return worker_self;
}

/* ---- threads --------------------------------------------------------------------------------- */

static void worker_count(struct fworker *w)
{
    uint64_t n = atomic_load_explicit(&w->requests, memory_order_relaxed);
    uint64_t sync = atomic_load_explicit(&w->sync, memory_order_relaxed);

    atomic_store_explicit(&w->requests, n + 1, memory_order_relaxed);
    if (!w->went_async)
        atomic_store_explicit(&w->sync, sync + 1, memory_order_relaxed);
}

/* This thread found that the session is over: tells whoever waits, the first time. */
static void worker_ended(struct fworker *w, int rc)
{
    struct tarn_fuse *f = w->f;
    bool inited;

    if (rc == 0) /* ENODEV, says libfuse */
        atomic_store(&f->kernel_ended, true);
    tarn_mtx_lock(&f->mtx);
    inited = f->inited;
    f->failed = true;
    tarn_cond_broadcast(&f->cond);
    tarn_mtx_unlock(&f->mtx);
    if (!inited || atomic_exchange(&f->ended, true))
        return;
    tarn_info("fuse", "the kernel ended the mount: %s",
              rc < 0 ? strerrordesc_np(-rc) : "unmounted");
    if (f->args.on_end)
        f->args.on_end(f->args.ctx, rc);
}

static void *worker_run(void *arg)
{
    struct fworker *w = arg;
    struct fuse_session *se = w->f->se;
    int n = 0;

    TARN_ASSERT(pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL) == 0);
    worker_self = w;
    while (!fuse_session_exited(se)) {
        TARN_ASSERT(pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, NULL) == 0);
        n = fuse_session_receive_buf(se, &w->buf);
        TARN_ASSERT(pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL) == 0);
        if (n == -EINTR || n == -EAGAIN)
            continue;
        if (n <= 0)
            break;
        w->went_async = false;
        w->start_ns = tarn_now_ns();
        w->op = fstats_op(w->buf.mem);
        fuse_session_process_buf(se, &w->buf);
        if (!w->went_async)
            fstats_took(w->f, w->op, tarn_now_ns() - w->start_ns);
        worker_count(w);
    }
    worker_ended(w, TARN_MIN(n, 0));
    return NULL;
}

static unsigned session_threads(unsigned asked)
{
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);

    if (asked)
        return TARN_MIN(asked, THREADS_MAX);
    return TARN_MIN(16u, 2u * (unsigned)TARN_MAX(cpus, 1L)) + 2;
}

static int session_start_threads(struct tarn_fuse *f)
{
    f->worker_count = session_threads(f->args.threads);
    f->workers = tarn_xcalloc(f->worker_count, sizeof(*f->workers));
    for (unsigned i = 0; i < f->worker_count; i++) {
        struct fworker *w = &f->workers[i];
        char name[16];
        int rc;

        w->f = f;
        w->index = i;
        w->data = aligned_alloc(4096, TARN_READ_MAX);
        if (!w->data)
            return -TARN_E_NO_MEMORY;
        (void)snprintf(name, sizeof(name), "fuse-%u", i % 1000); /* it fits */
        rc = tarn_thread_start(&w->thread, name, worker_run, w);
        if (rc < 0)
            return rc;
        w->started = true;
    }
    return 0;
}

/* ---- INIT ------------------------------------------------------------------------------------ */

static void session_want(struct fuse_conn_info *conn, uint64_t flag, bool want)
{
    if (want)
        (void)fuse_set_feature_flag(conn, flag); /* older kernels do without */
    else
        fuse_unset_feature_flag(conn, flag);
}

static void session_init(void *userdata, struct fuse_conn_info *conn)
{
    struct tarn_fuse *f;

    TARN_CAST(f, userdata, FUSE_MAGIC);
    session_want(conn, FUSE_CAP_READDIRPLUS, true);
    session_want(conn, FUSE_CAP_READDIRPLUS_AUTO, false); /* ls gains, find -size loses more */
    session_want(conn, FUSE_CAP_CACHE_SYMLINKS, true);
    session_want(conn, FUSE_CAP_PARALLEL_DIROPS, true);
    session_want(conn, FUSE_CAP_ASYNC_READ, true);
    session_want(conn, FUSE_CAP_ASYNC_DIO, true);
    session_want(conn, FUSE_CAP_WRITEBACK_CACHE, false);
    session_want(conn, FUSE_CAP_AUTO_INVAL_DATA, false); /* a node is one version */
    session_want(conn, FUSE_CAP_SPLICE_READ, false);
    session_want(conn, FUSE_CAP_SPLICE_WRITE, false);
    session_want(conn, FUSE_CAP_SPLICE_MOVE, false);
    session_want(conn, FUSE_CAP_PASSTHROUGH, f->args.passthrough);
    fpass_offer(f->pass, f->args.passthrough && fuse_get_feature_flag(conn, FUSE_CAP_PASSTHROUGH));
    conn->max_backing_stack_depth = 0; /* so that the mount may be a layer of an overlay */
    conn->max_read = TARN_READ_MAX;
    conn->max_write = TARN_READ_MAX; /* also sets how many pages a request has */
    conn->max_readahead = TARN_READ_MAX;
    conn->max_background = BACKGROUND_MAX;
    conn->congestion_threshold = BACKGROUND_MAX * 3 / 4;
    tarn_mtx_lock(&f->mtx);
    f->proto_minor = conn->proto_minor;
    f->entry_cap_ns = conn->proto_minor >= FUSE_EPOCH_MINOR ? UINT64_MAX : ENTRY_CAP_NS;
    f->inited = true;
    tarn_cond_broadcast(&f->cond);
    tarn_mtx_unlock(&f->mtx);
}

static int session_wait_init(struct tarn_fuse *f)
{
    uint64_t end = tarn_now_ns() + INIT_WAIT_NS;
    TARN_GUARD(&f->mtx);

    while (!f->inited && !f->failed) {
        uint64_t now = tarn_now_ns();

        if (now >= end) {
            f->stopping = true; /* nobody runs the loop meanwhile: nothing may go there */
            return -TARN_E_DEADLINE;
        }
        (void)tarn_cond_wait_ns(&f->cond, &f->mtx, end - now); /* the loop looks at the time */
    }
    return f->inited ? 0 : -TARN_E_FUSE;
}

/* ---- start ----------------------------------------------------------------------------------- */

static int session_new(struct tarn_fuse *f)
{
    struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
    struct fuse_lowlevel_ops ops = {.init = session_init};
    char max_read[48];
    int rc;

    (void)snprintf(max_read, sizeof(max_read), "-omax_read=%u", TARN_READ_MAX); /* it fits */
    fuse_ops_meta(&ops);
    fuse_ops_dir(&ops);
    fuse_ops_file(&ops);
    fuse_ops_xattr(&ops);
    rc = fuse_opt_add_arg(&args, "tarn");
    if (rc == 0)
        rc = fuse_opt_add_arg(&args, max_read);
    if (rc == 0)
        f->se = fuse_session_new(&args, &ops, sizeof(ops), f);
    fuse_opt_free_args(&args);
    return f->se ? 0 : -TARN_E_FUSE;
}

/* Hands libfuse the descriptor: that of our mount, or the one that was passed to us. */
static int session_mount(struct tarn_fuse *f, struct tarn_errbuf *err)
{
    struct fmount_args args = {.path = f->args.mountpoint,
                               .source = f->source,
                               .allow_other = f->args.allow_other,
                               .max_read = TARN_READ_MAX};
    int fd = fmount_fd_of(f->args.mountpoint);
    char dev[32];
    int rc;

    if (fd < 0) {
        rc = fmount_start(&args, err, &f->mount, &fd);
        if (rc < 0)
            return rc;
    }
    (void)snprintf(dev, sizeof(dev), "/dev/fd/%d", fd); /* it fits */
    if (fuse_session_mount(f->se, dev) == 0)
        return 0;
    if (f->mount.path[0])
        (void)close(fd); /* the mount is detached by the caller */
    return tarn_err_set(err, -TARN_E_FUSE, "mountpoint %s: libfuse refused the descriptor",
                        f->args.mountpoint);
}

static void session_sweep(struct tarn_timer *t, void *arg)
{
    struct tarn_fuse *f = arg;

    (void)t; /* f's */
    fop_sweep(f, tarn_now_ns());
    tarn_timer_start(f->args.loop, &f->sweep, SWEEP_NS, session_sweep, f);
}

static int session_start(struct tarn_fuse *f, struct tarn_errbuf *err)
{
    int rc = session_new(f);

    if (rc == 0)
        rc = fnotify_new(f, &f->notify);
    if (rc == 0)
        rc = fpass_new(f, &f->pass);
    if (rc < 0)
        return tarn_err_set(err, rc, "fuse: %s", tarn_strerror(rc));
    rc = session_mount(f, err);
    if (rc < 0)
        return rc;
    rc = session_start_threads(f);
    if (rc == 0)
        rc = session_wait_init(f);
    if (rc < 0)
        return tarn_err_set(err, -TARN_E_FUSE,
                            "mountpoint %s: the kernel did not accept the mount: %s",
                            f->args.mountpoint, tarn_strerror(rc));
    return 0;
}

int tarn_fuse_start(const struct tarn_fuse_args *args, struct tarn_errbuf *err,
                    struct tarn_fuse **ret)
{
    struct tarn_fuse *f = tarn_xnew(struct tarn_fuse);
    int rc;

    TARN_ASSERT(args->client && args->loop && args->mountpoint && args->source);
    f->magic = FUSE_MAGIC;
    f->args = *args;
    f->stats = fstats_new();
    f->mountpoint = tarn_xstrdup(args->mountpoint);
    f->args.mountpoint = f->mountpoint;
    f->source = tarn_xstrdup(args->source);
    f->args.source = f->source;
    f->nodes = fnodes_new(args->root.v ? args->root : TARN_INO_ROOT);
    tarn_mtx_init(&f->mtx, TARN_RANK_LEAF);
    tarn_cond_init(&f->cond);
    tarn_list_init(&f->ops);
    for (unsigned i = 0; i < FUSE_OPEN_LISTS; i++) {
        tarn_mtx_init(&f->opens[i].mtx, TARN_RANK_LEAF);
        tarn_list_init(&f->opens[i].files);
        tarn_list_init(&f->opens[i].dirs);
    }
    rc = session_start(f, err);
    if (rc < 0) {
        atomic_store(&f->ended, true);
        (void)fmount_detach(&f->mount, false); /* what it was not is gone */
        fuse_threads_end(f);
        tarn_fuse_free(&f);
        return rc;
    }
    fmount_set_read_ahead(&f->mount, READ_AHEAD_KIB);
    tarn_timer_start(f->args.loop, &f->sweep, SWEEP_NS, session_sweep, f);
    tarn_info("fuse", "mounted: mountpoint=%s threads=%u protocol=7.%u epoch=%s",
              f->args.mountpoint, f->worker_count, f->proto_minor,
              f->proto_minor >= FUSE_EPOCH_MINOR ? "yes" : "no");
    *ret = f;
    return 0;
}

void tarn_fuse_info(struct tarn_fuse *f, struct tarn_fuse_info *ret)
{
    *ret = (struct tarn_fuse_info){.nodes = fnodes_count(f->nodes),
                                   .open_files =
                                       atomic_load_explicit(&f->open_files, memory_order_relaxed)};
    for (unsigned i = 0; i < f->worker_count; i++) {
        ret->requests += atomic_load_explicit(&f->workers[i].requests, memory_order_relaxed);
        ret->sync_replies += atomic_load_explicit(&f->workers[i].sync, memory_order_relaxed);
    }
}

void tarn_fuse_invalidate(struct tarn_fuse *f, const struct Tarn__Wire__Invalidate *inv)
{
    tarn_loop_assert_mine(f->args.loop);
    if (inv->everything) {
        fnodes_distrust_all(f->nodes);
        fnotify_everything(f->notify);
    }
    for (size_t i = 0; i < inv->n_items; i++) {
        const Tarn__Wire__InvalItem *it = inv->items[i];
        size_t len = it->name.len <= TARN_NAME_MAX ? it->name.len : 0;

        fnodes_invalidate(f->nodes, (tarn_ino_t){it->ino}, it->version);
        fnodes_invalidate_listing(f->nodes, (tarn_ino_t){it->parent});
        fnotify_push(f->notify, (tarn_ino_t){it->parent}, (const char *)it->name.data, len,
                     (tarn_ino_t){it->ino}, it->version == 0);
    }
}
