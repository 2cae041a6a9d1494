/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connecting on the libuv loop: look the name up (libuv's threads; numbers and paths need none),
 * try the addresses in order, hand out the first connection that comes up.
 *
 * The time left is shared among the addresses that are left, so that one that swallows packets does
 * not take the time of the others. A unix socket whose backlog is full is tried again a little
 * later.
 *
 * Every way out goes through connect_finish(), which gives up what is held and posts `done`; fn
 * runs from there, so never inside a call of the user, and a cancel until then still wins. A lookup
 * that cannot be taken back from its thread keeps the struct alive behind fn.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"
#include "lib/base/mem.h"
#include "lib/net/net_uv_priv.h"

#define CONNECT_ADDRS_MAX 8u                   /* addresses tried of one name */
#define CONNECT_RETRY_NS  (5 * TARN_NS_PER_MS) /* until a full unix backlog is tried again */

/* Owner: loop. */
struct uv_connect {
    struct tarn_connect base;   /* first */
    struct tarn_uv_loop *u;     /* base.loop */
    struct tarn_task done;      /* runs fn */
    struct tarn_timer deadline; /* of the whole */
    struct tarn_timer share;    /* of the address being tried, or until a retry */
    uv_getaddrinfo_t req;       /* the lookup */
    bool resolving;             /* req is under way */
    bool finished;              /* rc and conn are final, done is posted */
    bool told;                  /* fn has run */
    struct tarn_sockaddr addrs[CONNECT_ADDRS_MAX]; /* to try */
    unsigned count;                                /* of addrs */
    unsigned next;                                 /* the one to try next */
    int fd;                                        /* being connected, or -1 */
    struct tarn_poll *poll;                        /* of fd */
    int rc;                                        /* why the last attempt failed, or the result */
    struct tarn_conn *conn;                        /* the result */
};

static void connect_next(struct uv_connect *a);

static void connect_done(struct tarn_task *t)
{
    struct uv_connect *a = TARN_CONTAINER(t, struct uv_connect, done);

    TARN_ASSERT(a->finished && !a->told);
    a->told = true;
    tarn_connect_tell(&a->base, a->rc, a->conn);
    if (!a->resolving)
        free(a);
}

static void connect_give_up_fd(struct uv_connect *a)
{
    tarn_timer_stop(&a->share);
    tarn_poll_stop(&a->poll);
    if (a->fd >= 0)
        (void)close(a->fd); /* nothing was written to it */
    a->fd = -1;
}

static void connect_finish(struct uv_connect *a, int rc)
{
    TARN_ASSERT(!a->finished);
    a->finished = true;
    a->rc = rc;
    connect_give_up_fd(a);
    tarn_timer_stop(&a->deadline);
    if (a->resolving)
        (void)uv_cancel(
            (uv_req_t *)&a->req); /* fails when a thread has it: then it ends by itself */
    tarn_loop_post(a->base.loop, &a->done, connect_done);
}

/*
 * Without a listener the kernel may pick the very port it connects to as the local one: a socket
 * that is connected to itself.
 */
static bool connect_is_self(int fd)
{
    struct tarn_sockaddr here = {.len = sizeof(here.u)}, there = {.len = sizeof(there.u)};

    if (getsockname(fd, &here.u.sa, &here.len) < 0 || here.u.sa.sa_family == AF_UNIX)
        return false;
    if (getpeername(fd, &there.u.sa, &there.len) < 0)
        return false;
    return here.len == there.len && memcmp(&here.u, &there.u, here.len) == 0;
}

static void connect_up(struct uv_connect *a)
{
    int fd = a->fd, rc;

    if (connect_is_self(fd)) {
        a->rc = -TARN_E_CONN_REFUSED;
        connect_give_up_fd(a);
        connect_next(a);
        return;
    }
    a->fd = -1;
    connect_give_up_fd(a);
    rc = tarn_uv_conn_open(a->u, fd, NULL, &a->conn);
    connect_finish(a, rc);
}

static void connect_poll_cb(void *arg, int fd, unsigned events)
{
    struct uv_connect *a = arg;
    socklen_t n = sizeof(int);
    int err = 0;

    (void)events; /* SO_ERROR tells */
    TARN_ASSERT(fd == a->fd);
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &n) < 0)
        err = errno;
    if (err == 0) {
        connect_up(a);
        return;
    }
    a->rc = tarn_uv_err(-err);
    connect_give_up_fd(a);
    connect_next(a);
}

static void connect_share_cb(struct tarn_timer *t, void *arg)
{
    struct uv_connect *a = arg;

    (void)t;
    a->rc = -TARN_E_DEADLINE;
    connect_give_up_fd(a);
    connect_next(a);
}

static void connect_again_cb(struct tarn_timer *t, void *arg)
{
    (void)t;
    connect_next(arg);
}

static uint64_t connect_time_share(const struct uv_connect *a)
{
    uint64_t now = tarn_loop_now_ns(a->base.loop);
    uint64_t left = a->deadline.due_ns > now ? a->deadline.due_ns - now : 0;

    return left / (a->count - a->next + 1);
}

/* 0: it goes on by itself. Else why the address cannot be tried. */
static int connect_try(struct uv_connect *a, const struct tarn_sockaddr *to)
{
    int rc;

    a->fd = socket(to->u.sa.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (a->fd < 0)
        return -errno;
    do
        rc = connect(a->fd, &to->u.sa, to->len);
    while (rc < 0 && errno == EINTR);
    if (rc == 0) {
        connect_up(a);
        return 0;
    }
    if (errno == EAGAIN) { /* a unix socket's backlog is full */
        connect_give_up_fd(a);
        a->next--;
        tarn_timer_start(a->base.loop, &a->share, CONNECT_RETRY_NS, connect_again_cb, a);
        return 0;
    }
    if (errno != EINPROGRESS)
        return -errno;
    rc = tarn_poll_start(a->base.loop, a->fd, TARN_POLL_WRITE, connect_poll_cb, a, &a->poll);
    if (rc < 0)
        return rc;
    tarn_timer_start(a->base.loop, &a->share, connect_time_share(a), connect_share_cb, a);
    return 0;
}

static void connect_next(struct uv_connect *a)
{
    int rc;

    while (a->next < a->count) {
        rc = connect_try(a, &a->addrs[a->next++]);
        if (rc == 0)
            return;
        a->rc = tarn_uv_err(rc);
        connect_give_up_fd(a);
    }
    TARN_ASSERT(a->rc < 0);
    connect_finish(a, a->rc);
}

static void connect_resolved_cb(uv_getaddrinfo_t *req, int status, struct addrinfo *list)
{
    struct uv_connect *a = req->data;

    a->resolving = false;
    if (a->finished) {
        uv_freeaddrinfo(list);
        if (a->told)
            free(a);
        return;
    }
    for (const struct addrinfo *it = list; it && a->count < CONNECT_ADDRS_MAX; it = it->ai_next) {
        struct tarn_sockaddr *to = &a->addrs[a->count++];

        TARN_ASSERT(it->ai_addrlen <= sizeof(to->u));
        to->len = it->ai_addrlen;
        memcpy(&to->u, it->ai_addr, it->ai_addrlen);
    }
    uv_freeaddrinfo(list);
    a->rc = status < 0 ? tarn_uv_err(status) : -TARN_E_DNS;
    connect_next(a);
}

static int connect_resolve(struct uv_connect *a, const struct tarn_addr *addr)
{
    const struct addrinfo hints = {.ai_family = AF_UNSPEC,
                                   .ai_socktype = SOCK_STREAM,
                                   .ai_flags = AI_NUMERICSERV | AI_ADDRCONFIG};
    sigset_t all, old;
    int rc;

    a->req.data = a;
    /* The first lookup of the process starts libuv's threads: signals are for ours. */
    (void)sigfillset(&all); /* cannot fail */
    TARN_ASSERT(pthread_sigmask(SIG_SETMASK, &all, &old) == 0);
    rc = uv_getaddrinfo(&a->u->uv, &a->req, connect_resolved_cb, addr->host, addr->port, &hints);
    TARN_ASSERT(pthread_sigmask(SIG_SETMASK, &old, NULL) == 0);
    a->resolving = rc == 0;
    return tarn_uv_err(rc);
}

static void connect_deadline_cb(struct tarn_timer *t, void *arg)
{
    (void)t;
    connect_finish(arg, -TARN_E_DEADLINE);
}

struct tarn_connect *tarn_uv_connect(struct tarn_loop *l, const char *text, uint64_t timeout_ns,
                                     tarn_connect_fn *fn, void *arg)
{
    struct uv_connect *a = tarn_xnew(struct uv_connect);
    struct tarn_addr addr;
    int rc;

    tarn_connect_init(&a->base, l, fn, arg);
    a->u = TARN_CONTAINER(l, struct tarn_uv_loop, base);
    a->fd = -1;
    rc = tarn_addr_parse(text, &addr);
    if (rc < 0) {
        connect_finish(a, rc);
        return &a->base;
    }
    tarn_timer_start(l, &a->deadline, timeout_ns, connect_deadline_cb, a);
    if (addr.sock.len > 0) {
        a->addrs[a->count++] = addr.sock;
        connect_next(a);
        return &a->base;
    }
    rc = connect_resolve(a, &addr);
    if (rc < 0)
        connect_finish(a, rc);
    return &a->base;
}

void tarn_uv_connect_cancel(struct tarn_connect *base)
{
    struct uv_connect *a = TARN_CONTAINER(base, struct uv_connect, base);

    if (!a->finished)
        connect_finish(a, -TARN_E_CANCELLED);
}
