/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Listening on the libuv loop. The socket is ours and libuv only watches it: so the mode of a unix
 * socket is right from its first moment, and when descriptors run out accepting stops for a while
 * (connections wait in the kernel) instead of spinning or throwing peers out.
 *
 * A turn accepts at most LISTEN_BURST, so that a flood of peers leaves time for those that are in.
 */
#include <errno.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/net/net_uv_priv.h"

#define LISTEN_BACKLOG  1024                   /* peers that wait in the kernel */
#define LISTEN_BURST    64                     /* accepted in one turn */
#define LISTEN_PAUSE_NS (100 * TARN_NS_PER_MS) /* after descriptors ran out */

/* Owner: loop. */
struct uv_listener {
    struct tarn_listener base; /* first */
    struct tarn_uv_loop *u;    /* base.loop */
    int fd;                    /* listening */
    struct tarn_poll *poll;    /* of fd */
    struct tarn_timer resume;  /* accept again */
    bool accepting;            /* in the accept loop: a close leaves the struct to it */
    bool closed;               /* closed meanwhile */
    struct tarn_sockaddr addr; /* bound to */
    dev_t dev;                 /* of a unix socket's file */
    ino_t ino;                 /* likewise */
};

/* ---- accepting ------------------------------------------------------------------------------- */

static void listener_watch(struct uv_listener *s, unsigned events);

static void listener_free(struct uv_listener *s)
{
    TARN_ASSERT(!s->poll && s->fd < 0);
    free(s);
}

static void listener_resume_cb(struct tarn_timer *t, void *arg)
{
    (void)t;
    listener_watch(arg, TARN_POLL_READ);
}

static void listener_rest(struct uv_listener *s, int err)
{
    tarn_warn_limited("net", "listen=%s accept: %s", s->base.addr, tarn_strerror(-err));
    listener_watch(s, 0);
    tarn_timer_start(s->base.loop, &s->resume, LISTEN_PAUSE_NS, listener_resume_cb, s);
}

static void listener_take(struct uv_listener *s, int fd)
{
    struct tarn_conn *c;
    int rc;

    if (tarn_listener_full(&s->base)) {
        tarn_warn_limited("net", "listen=%s too many connections", s->base.addr);
        (void)close(fd); /* nothing was written to it */
        return;
    }
    rc = tarn_uv_conn_open(s->u, fd, NULL, &c);
    if (rc < 0) {
        tarn_warn_limited("net", "listen=%s accept: %s", s->base.addr, tarn_strerror(rc));
        return;
    }
    tarn_listener_accept(&s->base, c);
}

/* False when there is nothing more to accept for now. */
static bool listener_accept_one(struct uv_listener *s)
{
    int fd = accept4(s->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

    if (fd >= 0) {
        listener_take(s, fd);
        return true;
    }
    switch (errno) {
    case EAGAIN:
        return false;
    case EMFILE:
    case ENFILE:
    case ENOBUFS:
    case ENOMEM:
        listener_rest(s, errno);
        return false;
    default:
        return true; /* accept(2): errors of the peer's network; the next one may be fine */
    }
}

static void listener_poll_cb(void *arg, int fd, unsigned events)
{
    struct uv_listener *s = arg;

    (void)events; /* only readable is asked for */
    TARN_ASSERT(fd == s->fd && !s->accepting);
    s->accepting = true;
    for (int i = 0; i < LISTEN_BURST && !s->closed; i++)
        if (!listener_accept_one(s))
            break;
    s->accepting = false;
    if (s->closed)
        listener_free(s);
}

static void listener_watch(struct uv_listener *s, unsigned events)
{
    int rc = tarn_poll_start(s->base.loop, s->fd, events, listener_poll_cb, s, &s->poll);

    TARN_ASSERT(rc == 0); /* it was watched before */
}

/* ---- opening --------------------------------------------------------------------------------- */

/* True if nobody listens at the socket file any more. */
static bool listen_is_stale(const struct tarn_sockaddr *a)
{
    struct stat st;
    int fd, rc;

    if (lstat(a->u.un.sun_path, &st) < 0 || !S_ISSOCK(st.st_mode))
        return false;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return false;
    rc = connect(fd, &a->u.sa, a->len) < 0 ? -errno : 0;
    (void)close(fd); /* nothing was written to it */
    return rc == -ECONNREFUSED;
}

static int listen_bind_unix(struct uv_listener *s)
{
    const char *path = s->addr.u.un.sun_path;
    struct stat st;
    int rc;

    /* The file takes its mode from the socket: it is never open to others, not for a moment. */
    if (fchmod(s->fd, S_IRUSR | S_IWUSR) < 0)
        return -errno;
    rc = bind(s->fd, &s->addr.u.sa, s->addr.len) < 0 ? -errno : 0;
    if (rc == -EADDRINUSE && listen_is_stale(&s->addr) && unlink(path) == 0)
        rc = bind(s->fd, &s->addr.u.sa, s->addr.len) < 0 ? -errno : 0;
    if (rc < 0)
        return rc;
    if (lstat(path, &st) < 0)
        return -errno;
    s->dev = st.st_dev;
    s->ino = st.st_ino;
    return 0;
}

static int listen_bind_inet(struct uv_listener *s)
{
    const int one = 1;

    if (setsockopt(s->fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0)
        return -errno;
    if (bind(s->fd, &s->addr.u.sa, s->addr.len) < 0)
        return -errno;
    s->addr.len = sizeof(s->addr.u);
    return getsockname(s->fd, &s->addr.u.sa, &s->addr.len) < 0 ? -errno : 0;
}

/* Names are looked up at once: whoever listens is starting. */
static int listen_resolve(const char *text, struct tarn_sockaddr *ret)
{
    const struct addrinfo hints = {.ai_family = AF_UNSPEC,
                                   .ai_socktype = SOCK_STREAM,
                                   .ai_flags = AI_NUMERICSERV | AI_PASSIVE};
    struct addrinfo *list = NULL;
    struct tarn_addr a;
    int rc = tarn_addr_parse(text, &a);

    if (rc < 0)
        return rc;
    *ret = a.sock;
    if (a.sock.len > 0)
        return 0;
    if (getaddrinfo(a.host, a.port, &hints, &list) != 0)
        return -TARN_E_DNS;
    TARN_ASSERT(list && list->ai_addrlen <= sizeof(ret->u));
    ret->len = list->ai_addrlen;
    memcpy(&ret->u, list->ai_addr, list->ai_addrlen);
    freeaddrinfo(list);
    return 0;
}

/* Removes the file of a unix socket, if it is still this one's. */
static void listen_unlink(const struct uv_listener *s)
{
    struct stat st;

    if (s->addr.u.sa.sa_family != AF_UNIX || s->ino == 0)
        return;
    if (lstat(s->addr.u.un.sun_path, &st) == 0 && st.st_dev == s->dev && st.st_ino == s->ino)
        (void)unlink(s->addr.u.un.sun_path); /* what stays is replaced by the next one */
}

static int listen_open(struct uv_listener *s)
{
    int family = s->addr.u.sa.sa_family, rc;

    s->fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (s->fd < 0)
        return -errno;
    rc = family == AF_UNIX ? listen_bind_unix(s) : listen_bind_inet(s);
    if (rc < 0)
        return rc;
    if (listen(s->fd, LISTEN_BACKLOG) < 0)
        return -errno;
    return tarn_poll_start(s->base.loop, s->fd, TARN_POLL_READ, listener_poll_cb, s, &s->poll);
}

static void listen_shut(struct uv_listener *s)
{
    tarn_timer_stop(&s->resume);
    tarn_poll_stop(&s->poll);
    listen_unlink(s);
    if (s->fd >= 0)
        (void)close(s->fd); /* nothing was written to it */
    s->fd = -1;
    tarn_listener_fini(&s->base);
}

int tarn_uv_listen(struct tarn_loop *l, const char *text, tarn_accept_fn *fn, void *arg,
                   struct tarn_listener **ret)
{
    struct tarn_sockaddr addr;
    struct uv_listener *s;
    int rc = listen_resolve(text, &addr);

    if (rc < 0)
        return rc;
    s = tarn_xnew(struct uv_listener);
    s->u = TARN_CONTAINER(l, struct tarn_uv_loop, base);
    s->addr = addr;
    tarn_listener_init(&s->base, l, fn, arg);
    rc = listen_open(s);
    if (rc < 0) {
        listen_shut(s);
        listener_free(s);
        return tarn_uv_err(rc);
    }
    (void)tarn_addr_text(&s->addr, s->base.addr);
    *ret = &s->base;
    return 0;
}

void tarn_uv_listener_close(struct tarn_listener *base)
{
    struct uv_listener *s = TARN_CONTAINER(base, struct uv_listener, base);

    listen_shut(s);
    s->closed = true;
    if (!s->accepting)
        listener_free(s);
}
