/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The libuv loop: turns, time, posted tasks, timers and descriptors. Streams are in net_uv_conn.c.
 *
 * One turn: the uv_timer runs our timers; `kick` runs tasks posted by the loop itself; `prepare`
 * sends what was queued on connections; then libuv waits and calls back for sockets, and `wake`
 * runs tasks posted by other threads.
 *
 * Posting is lock-free, so it is allowed under any mutex: a task is pushed on a list that only the
 * loop empties, all at once, and reverses. Only the push that finds the list empty wakes the loop;
 * later ones find it woken. The loop's own posts set `kick` and cost no system call. `posters`
 * counts threads inside a post, because the task may run, and end in freeing the loop, before the
 * poster has returned: free waits for them.
 *
 * All timers share one uv_timer. It is never moved later, only earlier: a deadline that is started
 * and stopped for every call costs nothing but the heap, and a firing for nothing arms it anew.
 */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"
#include "lib/base/mem.h"
#include "lib/net/net_uv_priv.h"

/* A watched descriptor. */
struct uv_fd {
    struct tarn_poll base; /* first */
    uv_poll_t h;           /* libuv's */
    int fd;                /* the caller's */
    bool stopped;          /* being closed */
    tarn_poll_fn *fn;      /* who is told */
    void *arg;             /* for fn */
};

static struct tarn_uv_loop *uv_of(struct tarn_loop *l)
{
    return TARN_CONTAINER(l, struct tarn_uv_loop, base);
}

int tarn_uv_err(int rc)
{
    switch (rc) {
    case UV_EOF:
        return 0;
    case -ECONNREFUSED:
        return -TARN_E_CONN_REFUSED;
    case -ECONNRESET:
    case -EPIPE:
        return -TARN_E_CONN_LOST;
    case -ETIMEDOUT:
        return -TARN_E_DEADLINE;
    case -EADDRINUSE:
        return -TARN_E_ADDR_IN_USE;
    case -ECANCELED:
        return -TARN_E_CANCELLED;
    case -ENOMEM:
    case UV_EAI_MEMORY:
        return -TARN_E_NO_MEMORY;
    default:
        if (rc <= UV_EAI_ADDRFAMILY && rc >= UV_EAI_PROTOCOL)
            return -TARN_E_DNS;
        return rc > -1000 ? rc : -EIO;
    }
}

/* ---- time and timers ------------------------------------------------------------------------- */

static uint64_t uv_loop_now(struct tarn_loop *l)
{
    struct tarn_uv_loop *u = uv_of(l);

    if (!u->now_valid || !tarn_loop_is_mine(l)) {
        u->now_ns = uv_hrtime();
        u->now_valid = true;
    }
    return u->now_ns;
}

static uint64_t uv_loop_read_now(struct tarn_loop *l)
{
    uv_of(l)->now_valid = false;
    return uv_loop_now(l);
}

static void uv_loop_timer_cb(uv_timer_t *h);

static void uv_loop_arm(struct tarn_uv_loop *u)
{
    const struct tarn_timer *t = tarn_timers_first(&u->base.timers);
    uint64_t due_ms, now_ms = uv_now(&u->uv);

    if (!t)
        return;
    if (t->due_ns <= uv_loop_now(&u->base)) {
        tarn_uv_kick(u);
        return;
    }
    due_ms = TARN_MAX(tarn_div_up(t->due_ns, TARN_NS_PER_MS), now_ms + 1);
    if (u->armed && due_ms >= u->armed_ms)
        return;
    TARN_ASSERT(uv_timer_start(&u->timer, uv_loop_timer_cb, due_ms - now_ms, 0) == 0);
    u->armed = true;
    u->armed_ms = due_ms;
}

static void uv_loop_run_timers(struct tarn_uv_loop *u)
{
    u->now_valid = false;
    tarn_timers_run(&u->base, uv_loop_now(&u->base));
    uv_loop_arm(u);
}

static void uv_loop_timer_cb(uv_timer_t *h)
{
    struct tarn_uv_loop *u = h->data;

    u->armed = false;
    uv_loop_run_timers(u);
}

static void uv_loop_timer_first(struct tarn_loop *l)
{
    uv_loop_arm(uv_of(l));
}

/* ---- tasks ----------------------------------------------------------------------------------- */

static void uv_loop_post(struct tarn_loop *l, struct tarn_task *t)
{
    struct tarn_uv_loop *u = uv_of(l);
    struct tarn_list *head;

    atomic_fetch_add(&u->posters, 1);
    head = atomic_load_explicit(&u->posted, memory_order_relaxed);
    do
        t->node.next = head;
    while (!atomic_compare_exchange_weak(&u->posted, &head, &t->node));
    if (!head) {
        if (tarn_loop_is_mine(l))
            tarn_uv_kick(u);
        else
            TARN_ASSERT(uv_async_send(&u->wake) == 0);
    }
    atomic_fetch_sub(&u->posters, 1);
}

/* Runs what is posted by now; true if there was any. */
static bool uv_loop_run_tasks(struct tarn_uv_loop *u)
{
    struct tarn_list *n = atomic_exchange(&u->posted, NULL), *first = NULL;

    while (n) {
        struct tarn_list *older = n->next;

        n->next = first;
        first = n;
        n = older;
    }
    if (!first)
        return false;
    while (first) {
        struct tarn_task *t = TARN_LIST_ENTRY(first, struct tarn_task, node);

        first = first->next;
        t->fn(t);
    }
    return true;
}

static void uv_loop_wake_cb(uv_async_t *h)
{
    struct tarn_uv_loop *u = h->data;

    (void)uv_loop_run_tasks(u);
    if (atomic_load(&u->stop))
        uv_stop(&u->uv);
}

static void uv_loop_kick_cb(uv_idle_t *h)
{
    struct tarn_uv_loop *u = h->data;

    TARN_ASSERT(uv_idle_stop(h) == 0);
    uv_loop_run_timers(u);
    (void)uv_loop_run_tasks(u);
}

void tarn_uv_kick(struct tarn_uv_loop *u)
{
    TARN_ASSERT(uv_idle_start(&u->kick, uv_loop_kick_cb) == 0);
}

static void uv_loop_prepare_cb(uv_prepare_t *h)
{
    struct tarn_uv_loop *u = h->data;

    tarn_uv_conns_turn(u);
    u->now_valid = false;
}

/* ---- running --------------------------------------------------------------------------------- */

/*
 * libuv writes with write(2), so a peer that is gone raises SIGPIPE. It is blocked on this thread
 * while the loop runs, and one that was raised meanwhile is taken away.
 */
static void uv_loop_pipe_block(sigset_t *old)
{
    sigset_t set;

    TARN_ASSERT(sigemptyset(&set) == 0 && sigaddset(&set, SIGPIPE) == 0);
    TARN_ASSERT(pthread_sigmask(SIG_BLOCK, &set, old) == 0);
}

static void uv_loop_pipe_restore(const sigset_t *old)
{
    const struct timespec at_once = {0};
    sigset_t set;

    if (sigismember(old, SIGPIPE))
        return;
    TARN_ASSERT(sigemptyset(&set) == 0 && sigaddset(&set, SIGPIPE) == 0);
    while (sigtimedwait(&set, NULL, &at_once) > 0 || errno == EINTR)
        continue;
    TARN_ASSERT(pthread_sigmask(SIG_SETMASK, old, NULL) == 0);
}

static void uv_loop_run(struct tarn_loop *l)
{
    struct tarn_uv_loop *u = uv_of(l);
    sigset_t old;

    uv_loop_pipe_block(&old);
    u->now_valid = false;
    do
        (void)uv_run(&u->uv, atomic_load(&u->stop) ? UV_RUN_NOWAIT : UV_RUN_DEFAULT);
    while (!atomic_load(&u->stop));
    atomic_store(&u->stop, false);
    tarn_uv_conns_turn(u); /* what the last events wrote leaves too */
    uv_loop_pipe_restore(&old);
}

static void uv_loop_stop(struct tarn_loop *l)
{
    struct tarn_uv_loop *u = uv_of(l);

    atomic_fetch_add(&u->posters, 1);
    atomic_store(&u->stop, true);
    if (tarn_loop_is_mine(l))
        uv_stop(&u->uv);
    else
        TARN_ASSERT(uv_async_send(&u->wake) == 0);
    atomic_fetch_sub(&u->posters, 1);
}

/* ---- descriptors ----------------------------------------------------------------------------- */

static void uv_fd_cb(uv_poll_t *h, int status, int events)
{
    struct uv_fd *f = h->data;
    unsigned out = 0;

    if (status < 0)
        out = TARN_POLL_READ | TARN_POLL_WRITE;
    if (events & (UV_READABLE | UV_DISCONNECT))
        out |= TARN_POLL_READ;
    if (events & UV_WRITABLE)
        out |= TARN_POLL_WRITE;
    if (out)
        f->fn(f->arg, f->fd, out);
}

static void uv_fd_closed(uv_handle_t *h)
{
    free(h->data);
}

static void uv_loop_poll_stop(struct tarn_poll *p)
{
    struct uv_fd *f = TARN_CONTAINER(p, struct uv_fd, base);

    TARN_ASSERT(p->loop->polls > 0);
    p->loop->polls--;
    p->magic = 0;
    uv_close((uv_handle_t *)&f->h, uv_fd_closed);
}

static int uv_fd_watch(struct uv_fd *f, unsigned events)
{
    int e = 0;

    if (events & TARN_POLL_READ)
        e |= UV_READABLE;
    if (events & TARN_POLL_WRITE)
        e |= UV_WRITABLE;
    return tarn_uv_err(e ? uv_poll_start(&f->h, e, uv_fd_cb) : uv_poll_stop(&f->h));
}

static int uv_loop_poll_start(struct tarn_loop *l, int fd, unsigned events, tarn_poll_fn *fn,
                              void *arg, struct tarn_poll **p)
{
    struct uv_fd *f = *p ? TARN_CONTAINER(*p, struct uv_fd, base) : NULL;
    int rc;

    if (f) {
        TARN_ASSERT((*p)->magic == TARN_POLL_MAGIC && f->fd == fd);
        f->fn = fn;
        f->arg = arg;
        return uv_fd_watch(f, events);
    }
    f = tarn_xnew(struct uv_fd);
    rc = uv_poll_init(&uv_of(l)->uv, &f->h, fd);
    if (rc < 0) {
        free(f);
        return tarn_uv_err(rc);
    }
    f->h.data = f;
    f->base.magic = TARN_POLL_MAGIC;
    f->base.loop = l;
    f->fd = fd;
    f->fn = fn;
    f->arg = arg;
    l->polls++;
    rc = uv_fd_watch(f, events);
    if (rc < 0) {
        uv_loop_poll_stop(&f->base);
        return rc;
    }
    *p = &f->base;
    return 0;
}

/* ---- life ------------------------------------------------------------------------------------ */

static void uv_loop_free(struct tarn_loop *l)
{
    struct tarn_uv_loop *u = uv_of(l);
    sigset_t old;

    while (atomic_load(&u->posters) > 0)
        (void)sched_yield(); /* cannot fail on Linux */
    tarn_loop_enter(l);
    uv_loop_pipe_block(&old);
    do /* the last callbacks of what was closed, and what they post */
        (void)uv_run(&u->uv, UV_RUN_NOWAIT);
    while (uv_loop_run_tasks(u));
    tarn_loop_fini(l);
    uv_close((uv_handle_t *)&u->wake, NULL);
    uv_close((uv_handle_t *)&u->timer, NULL);
    uv_close((uv_handle_t *)&u->prepare, NULL);
    uv_close((uv_handle_t *)&u->kick, NULL);
    while (uv_run(&u->uv, UV_RUN_DEFAULT) != 0)
        continue; /* a name that is still being looked up */
    uv_loop_pipe_restore(&old);
    TARN_ASSERT(uv_loop_close(&u->uv) == 0);
    TARN_ASSERT(atomic_load(&u->posted) == NULL);
    free(u->read_buf);
    free(u);
}

static const struct tarn_loop_ops uv_loop_ops = {
    .free = uv_loop_free,
    .run = uv_loop_run,
    .stop = uv_loop_stop,
    .now_ns = uv_loop_now,
    .read_now_ns = uv_loop_read_now,
    .post = uv_loop_post,
    .timer_first = uv_loop_timer_first,
    .poll_start = uv_loop_poll_start,
    .poll_stop = uv_loop_poll_stop,
    .conn_start = tarn_uv_conn_start,
    .conn_write = tarn_uv_conn_write,
    .conn_queued = tarn_uv_conn_queued,
    .conn_pause = tarn_uv_conn_pause,
    .conn_close = tarn_uv_conn_close,
    .conn_pair = tarn_uv_conn_pair,
    .connect = tarn_uv_connect,
    .connect_cancel = tarn_uv_connect_cancel,
    .listen = tarn_uv_listen,
    .listener_close = tarn_uv_listener_close,
};

int tarn_loop_new(struct tarn_loop **ret_loop)
{
    struct tarn_uv_loop *u = tarn_xnew(struct tarn_uv_loop);
    int rc;

    tarn_loop_init(&u->base, &uv_loop_ops);
    tarn_list_init(&u->dirty);
    atomic_init(&u->posted, NULL);
    rc = uv_loop_init(&u->uv);
    if (rc < 0)
        goto err_free;
    rc = uv_async_init(&u->uv, &u->wake, uv_loop_wake_cb); /* the only one that opens anything */
    if (rc < 0)
        goto err_loop;
    TARN_ASSERT(uv_timer_init(&u->uv, &u->timer) == 0);
    TARN_ASSERT(uv_idle_init(&u->uv, &u->kick) == 0);
    TARN_ASSERT(uv_prepare_init(&u->uv, &u->prepare) == 0);
    TARN_ASSERT(uv_prepare_start(&u->prepare, uv_loop_prepare_cb) == 0);
    u->wake.data = u->timer.data = u->kick.data = u->prepare.data = u;
    u->read_buf = tarn_xcalloc(1, TARN_UV_READ_BYTES);
    *ret_loop = &u->base;
    return 0;

err_loop:
    TARN_ASSERT(uv_loop_close(&u->uv) == 0);
err_free:
    TARN_ASSERT(rc < 0);
    free(u);
    return tarn_uv_err(rc);
}
