/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The end of a session, on a thread of its own, since nothing of it may wait on the loop:
 *
 *     1. the mountpoint is detached: nobody new comes in
 *     2. calls under way are waited for, DRAIN_NS, then cancelled; new ones are refused at once
 *     3. the notifier ends: what its call into the kernel may wait for (a lookup under way) was
 *        answered in 2, since the FUSE threads still run
 *     4. the FUSE threads end, and with the session's descriptor the connection: who still has a
 *        file open gets errors, and what is open is closed here
 *     5. `done` is posted
 */
#include <stdlib.h>

#include "fuse/fuse_priv.h"
#include "lib/base/assert.h"
#include "lib/base/log.h"
#include "lib/stat/stat.h"

#define DRAIN_NS (5 * TARN_NS_PER_S)

void fuse_threads_end(struct tarn_fuse *f)
{
    if (f->notify)
        fnotify_stop(f->notify);
    if (f->pass)
        fpass_stop(f->pass);
    if (f->se)
        fuse_session_exit(f->se);
    for (unsigned i = 0; i < f->worker_count; i++)
        if (f->workers[i].started)
            (void)pthread_cancel(f->workers[i].thread); /* it may have ended */
    for (unsigned i = 0; i < f->worker_count; i++) {
        struct fworker *w = &f->workers[i];

        if (w->started)
            TARN_ASSERT(pthread_join(w->thread, NULL) == 0);
        w->started = false;
        free(w->buf.mem);
        free(w->data);
        w->buf.mem = NULL;
        w->data = NULL;
    }
    if (f->se)
        fuse_session_destroy(f->se); /* closes the device */
    f->se = NULL;
    fopen_close_all(f);
}

/* False when `ns` passed and calls are still under way. */
static bool stop_drained(struct tarn_fuse *f, uint64_t ns)
{
    uint64_t end = tarn_now_ns() + ns;
    TARN_GUARD(&f->mtx);

    while (f->under_way > 0) {
        uint64_t now = tarn_now_ns();

        if (now >= end)
            return false;
        (void)tarn_cond_wait_ns(&f->cond, &f->mtx, end - now); /* the loop looks at the time */
    }
    return true;
}

static void stop_cancel_task(struct tarn_task *t)
{
    fop_cancel_all(TARN_CONTAINER(t, struct tarn_fuse, cancel_task), -TARN_E_SHUTDOWN);
}

static void stop_done_task(struct tarn_task *t)
{
    struct tarn_fuse *f = TARN_CONTAINER(t, struct tarn_fuse, stop_task);

    TARN_ASSERT(pthread_join(f->stopper, NULL) == 0);
    f->stopper_started = false;
    f->stop_done(f->stop_arg); /* may free f */
}

static void *stop_run(void *arg)
{
    struct tarn_fuse *f = arg;
    int rc = fmount_detach(&f->mount, atomic_load(&f->kernel_ended));

    if (rc < 0)
        tarn_warn("fuse", "mountpoint %s: not detached: %s", f->args.mountpoint, tarn_strerror(rc));
    if (!stop_drained(f, DRAIN_NS)) {
        tarn_warn("fuse", "mountpoint %s: calls under way are cancelled", f->args.mountpoint);
        tarn_loop_post(f->args.loop, &f->cancel_task, stop_cancel_task);
        while (!stop_drained(f, DRAIN_NS))
            tarn_warn("fuse", "mountpoint %s: cancelled calls have not ended yet",
                      f->args.mountpoint);
    }
    fuse_threads_end(f);
    tarn_loop_post(f->args.loop, &f->stop_task, stop_done_task);
    return NULL;
}

void tarn_fuse_stop(struct tarn_fuse *f, void (*done)(void *arg), void *arg)
{
    TARN_ASSERT(f->magic == FUSE_MAGIC && !f->stopper_started && f->se);
    tarn_loop_assert_mine(f->args.loop);
    atomic_store(&f->ended, true); /* we end it */
    tarn_timer_stop(&f->sweep);
    tarn_mtx_lock(&f->mtx);
    f->stopping = true;
    tarn_mtx_unlock(&f->mtx);
    f->stop_done = done;
    f->stop_arg = arg;
    f->stopper_started = true;
    TARN_ASSERT(tarn_thread_start(&f->stopper, "fuse-stop", stop_run, f) == 0);
}

void tarn_fuse_free(struct tarn_fuse **pf)
{
    struct tarn_fuse *f = *pf;

    *pf = NULL;
    if (!f)
        return;
    TARN_ASSERT(!f->se && !f->stopper_started && f->under_way == 0);
    fnotify_free(&f->notify);
    fnodes_free(&f->nodes);
    fpass_free(&f->pass);
    for (unsigned i = 0; i < FUSE_OPEN_LISTS; i++)
        tarn_mtx_fini(&f->opens[i].mtx);
    tarn_cond_fini(&f->cond);
    tarn_mtx_fini(&f->mtx);
    free(f->workers);
    tarn_stats_free(&f->stats);
    free(f->source);
    free(f->mountpoint);
    f->magic = 0;
    free(f);
}
