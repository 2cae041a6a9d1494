/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Streams of the libuv loop.
 *
 * Writing: tarn_conn_write() appends to `pending` — small pieces are copied together into one
 * chunk, payloads are referenced — and marks the connection dirty. Before the loop waits, each
 * dirty connection hands everything to the kernel in one call (uv_try_write). Only what the kernel
 * does not take goes to libuv as a request (`flying`), one at a time, and the rest waits for its
 * callback. So many small messages of one turn leave in one packet, and a message that fits the
 * socket's buffer costs one system call. Where much is queued it is tried at once, so that the
 * socket is kept full.
 *
 * A failed write is not told at once: the connection stays for one more turn, in which the peer's
 * last words (why it closed) are still read. Then it is closed with the write's error.
 *
 * Reading: to where the user has room, else into one buffer per loop, whose bytes on_data has
 * during the call only.
 *
 * Life: closing is uv_close(); libuv cancels a flying request first, then conn_closed_cb() tells
 * the user and frees. Nothing else frees a connection, so that callbacks may close it at any time.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/assert.h"
#include "lib/base/buf.h"
#include "lib/base/mem.h"
#include "lib/net/net_uv_priv.h"

#define CONN_IOV         64u          /* chunks of one system call */
#define CONN_CHUNK_BYTES 4096u        /* least room of a chunk that small pieces share */
#define CONN_PIECE_BYTES (64u << 10)  /* of a pipe, written while the socket is full */
#define CONN_EAGER_BYTES (256u << 10) /* queued: do not wait for the end of the turn */
#define CONN_KEEPALIVE_S 60u          /* silence after which the kernel asks a TCP peer */
/*
 * What may be on its way at a time. By itself the kernel goes up to net.ipv4.tcp_wmem, 4 MiB, its
 * overhead counted: no more than 500 MiB/s where there and back takes 5 ms. More wants
 * CAP_NET_ADMIN; without, it stays at that.
 */
#define CONN_SEND_BYTES (8 << 20)

/* Bytes to be written: copied behind the struct, or a part of `buf`, or what is left in its pipe.
 */
struct uv_chunk {
    struct tarn_list node; /* pending or flying */
    struct tarn_buf *buf;  /* reference, or NULL: the bytes are in data */
    const uint8_t *p;      /* first byte not yet written; NULL: in the pipe */
    size_t len;            /* bytes not yet written */
    size_t room;           /* bytes free behind them in data */
    uint8_t data[];        /* copied bytes */
};

struct uv_conn {
    struct tarn_conn base; /* first */
    union {
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t pipe;
    } h;                      /* libuv's */
    struct tarn_uv_loop *u;   /* base.loop */
    struct tarn_list dirty;   /* u->dirty */
    struct tarn_list pending; /* chunks that libuv does not have */
    struct tarn_list flying;  /* chunks of req */
    size_t pending_bytes;     /* in pending */
    uv_write_t req;           /* the one request */
    bool writing;             /* req is under way */
    bool untold;              /* written to since the last on_drain */
    bool reading;             /* libuv reads */
    bool doomed;              /* a write failed, and this is the last turn */
    int write_rc;             /* why a write failed */
};

static struct uv_conn *uv_conn_of(struct tarn_conn *c)
{
    return TARN_CONTAINER(c, struct uv_conn, base);
}

/* ---- chunks ---------------------------------------------------------------------------------- */

static void chunk_free(struct uv_chunk *k)
{
    tarn_buf_unref(&k->buf);
    free(k);
}

static void conn_drop_chunks(struct tarn_list *list)
{
    TARN_LIST_FOREACH_SAFE(it, list)
    {
        chunk_free(TARN_LIST_ENTRY(it, struct uv_chunk, node));
    }
    tarn_list_init(list);
}

static void conn_drop_pending(struct uv_conn *c)
{
    conn_drop_chunks(&c->pending);
    c->pending_bytes = 0;
}

static struct uv_chunk *conn_chunk_new(size_t cap)
{
    struct uv_chunk *k = malloc(sizeof(*k) + cap);

    if (!k)
        return NULL;
    *k = (struct uv_chunk){.room = cap};
    k->p = k->data;
    tarn_list_init(&k->node);
    return k;
}

/* A chunk with room for `n` more bytes: the last one, or a new one that is not in the list yet. */
static struct uv_chunk *conn_room(const struct uv_conn *c, size_t n)
{
    if (!tarn_list_empty(&c->pending)) {
        struct uv_chunk *last = TARN_LIST_ENTRY(c->pending.prev, struct uv_chunk, node);

        if (!last->buf && last->room >= n)
            return last;
    }
    return conn_chunk_new(TARN_MAX(n, CONN_CHUNK_BYTES));
}

static void conn_consume(struct uv_conn *c, size_t n)
{
    TARN_ASSERT(n <= c->pending_bytes);
    c->pending_bytes -= n;
    TARN_LIST_FOREACH_SAFE(it, &c->pending)
    {
        struct uv_chunk *k = TARN_LIST_ENTRY(it, struct uv_chunk, node);
        size_t m = TARN_MIN(n, k->len);

        if (k->p)
            k->p += m;
        k->len -= m;
        n -= m;
        if (k->len > 0)
            break;
        tarn_list_del(&k->node);
        chunk_free(k);
    }
    TARN_ASSERT(n == 0);
}

static unsigned conn_gather(const struct uv_conn *c, uv_buf_t bufs[CONN_IOV], size_t *ret_bytes)
{
    unsigned n = 0;

    *ret_bytes = 0;
    TARN_LIST_FOREACH(it, &c->pending)
    {
        const struct uv_chunk *k = TARN_LIST_ENTRY(it, struct uv_chunk, node);

        if (n == CONN_IOV || !k->p)
            break;
        bufs[n].base = (char *)(uintptr_t)k->p; /* libuv does not write to it */
        bufs[n++].len = k->len;
        *ret_bytes += k->len;
    }
    return n;
}

/* ---- writing --------------------------------------------------------------------------------- */

static void conn_mark(struct uv_conn *c)
{
    if (tarn_list_empty(&c->dirty))
        tarn_list_push(&c->u->dirty, &c->dirty);
}

static void conn_write_cb(uv_write_t *req, int status)
{
    struct uv_conn *c = req->data;

    c->writing = false;
    conn_drop_chunks(&c->flying);
    if (c->base.closing)
        return;
    if (status < 0)
        c->write_rc = tarn_uv_err(status);
    conn_mark(c);
}

/* Gives what the kernel did not take to libuv. */
static void conn_fly(struct uv_conn *c)
{
    uv_buf_t bufs[CONN_IOV];
    size_t bytes;
    unsigned n = conn_gather(c, bufs, &bytes);
    int rc;

    TARN_ASSERT(!c->writing && n > 0);
    c->req.data = c;
    rc = uv_write(&c->req, &c->h.stream, bufs, n, conn_write_cb);
    if (rc < 0) {
        c->write_rc = tarn_uv_err(rc);
        return;
    }
    c->writing = true;
    c->pending_bytes -= bytes;
    while (n-- > 0)
        tarn_list_push(&c->flying, tarn_list_pop(&c->pending));
}

/*
 * The first chunk is in a pipe: moves from there what the socket takes. Where that is nothing, a
 * piece is read out of the pipe to be written as any other, since libuv tells of room in a socket
 * by the end of a write alone.
 */
static void conn_splice(struct uv_conn *c)
{
    struct uv_chunk *k = TARN_LIST_ENTRY(c->pending.next, struct uv_chunk, node), *piece;
    uv_os_fd_t fd = -1;
    ssize_t n;

    TARN_ASSERT(uv_fileno(&c->h.handle, &fd) == 0);
    n = splice(k->buf->pipe[0], NULL, fd, NULL, k->len, SPLICE_F_NONBLOCK | SPLICE_F_MORE);
    if (n > 0) {
        conn_consume(c, (size_t)n);
        return;
    }
    piece = n < 0 && errno == EAGAIN ? conn_chunk_new(TARN_MIN(k->len, CONN_PIECE_BYTES)) : NULL;
    if (piece)
        n = read(k->buf->pipe[0], piece->data, piece->room);
    if (!piece || n <= 0) { /* of a pipe that ends, or no memory */
        c->write_rc = n < 0 && errno != EAGAIN ? tarn_uv_err(-errno) : -TARN_E_NO_MEMORY;
        free(piece);
        return;
    }
    piece->len = (size_t)n;
    piece->room = 0;
    k->len -= (size_t)n;
    tarn_list_push_front(&c->pending, &piece->node);
    if (k->len == 0) {
        tarn_list_del(&k->node);
        chunk_free(k);
    }
}

static bool conn_in_pipe(const struct uv_conn *c)
{
    return !TARN_LIST_ENTRY(c->pending.next, struct uv_chunk, node)->p;
}

/* Hands as much as possible to the kernel. Calls nobody. */
static void conn_flush(struct uv_conn *c)
{
    while (!c->writing && c->write_rc == 0 && c->pending_bytes > 0) {
        uv_buf_t bufs[CONN_IOV];
        size_t bytes;
        unsigned n;
        int rc;

        if (conn_in_pipe(c)) {
            conn_splice(c);
            continue;
        }
        n = conn_gather(c, bufs, &bytes);
        rc = uv_try_write(&c->h.stream, bufs, n);
        if (rc >= 0)
            conn_consume(c, (size_t)rc);
        else if (rc != UV_EAGAIN)
            c->write_rc = tarn_uv_err(rc);
        if (rc == UV_EAGAIN || (rc >= 0 && (size_t)rc < bytes))
            conn_fly(c);
    }
}

size_t tarn_uv_conn_queued(const struct tarn_conn *base)
{
    const struct uv_conn *c = (const void *)base;

    return c->pending_bytes + uv_stream_get_write_queue_size(&c->h.stream);
}

int tarn_uv_conn_write(struct tarn_conn *base, const void *p, size_t n, struct tarn_buf *payload,
                       size_t off, size_t len)
{
    struct uv_conn *c = uv_conn_of(base);
    struct uv_chunk *head = NULL, *tail = NULL;

    if (c->write_rc < 0)
        return 0; /* on_close follows */
    if (n > 0) {
        head = conn_room(c, n);
        if (!head)
            return -TARN_E_NO_MEMORY;
    }
    if (len > 0) {
        tail = conn_chunk_new(0);
        if (!tail) {
            if (head && head->len == 0)
                free(head);
            return -TARN_E_NO_MEMORY;
        }
        tail->buf = tarn_buf_ref(payload);
        tail->p = payload->p ? payload->p + off : NULL;
        tail->len = len;
    }
    if (head) {
        memcpy(head->data + (head->p - head->data) + head->len, p, n);
        head->room -= n;
        head->len += n;
        if (tarn_list_empty(&head->node))
            tarn_list_push(&c->pending, &head->node);
    }
    if (tail)
        tarn_list_push(&c->pending, &tail->node);
    c->pending_bytes += n + len;
    c->untold = true;
    conn_mark(c);
    if (c->pending_bytes >= CONN_EAGER_BYTES && tarn_loop_is_mine(base->loop))
        conn_flush(c);
    return 0;
}

/* ---- closing --------------------------------------------------------------------------------- */

static void conn_closed_cb(uv_handle_t *h)
{
    struct uv_conn *c = h->data;

    TARN_ASSERT(!c->writing);
    conn_drop_pending(c);
    tarn_conn_tell_close(&c->base);
    free(c);
}

static void conn_end(struct uv_conn *c, int rc)
{
    tarn_conn_set_closing(&c->base, rc);
    tarn_list_del(&c->dirty);
    uv_close(&c->h.handle, conn_closed_cb);
}

void tarn_uv_conn_close(struct tarn_conn *base)
{
    struct uv_conn *c = uv_conn_of(base);

    if (tarn_loop_is_mine(base->loop))
        conn_flush(c); /* what the kernel takes at once is not lost */
    conn_end(c, 0);
}

/* ---- the turn -------------------------------------------------------------------------------- */

static void conn_turn(struct uv_conn *c)
{
    if (c->doomed) {
        conn_end(c, c->write_rc);
        return;
    }
    conn_flush(c);
    if (c->write_rc < 0) {
        conn_drop_pending(c);
        c->doomed = true;
        conn_mark(c);
        return;
    }
    if (!c->untold || c->writing || !c->base.ops)
        return;
    TARN_ASSERT(c->pending_bytes == 0);
    c->untold = false;
    if (c->base.ops->on_drain)
        c->base.ops->on_drain(&c->base, c->base.arg);
}

void tarn_uv_conns_turn(struct tarn_uv_loop *u)
{
    struct tarn_list now, *n;

    tarn_list_init(&now);
    tarn_list_splice(&now, &u->dirty);
    while ((n = tarn_list_pop(&now)))
        conn_turn(TARN_LIST_ENTRY(n, struct uv_conn, dirty));
    if (!tarn_list_empty(&u->dirty))
        tarn_uv_kick(u);
}

/* ---- reading --------------------------------------------------------------------------------- */

static void conn_alloc_cb(uv_handle_t *h, size_t hint, uv_buf_t *ret)
{
    struct uv_conn *c = h->data;
    size_t n = TARN_UV_READ_BYTES;

    (void)hint; /* libuv's guess is no better than our buffer */
    ret->base = (char *)tarn_conn_room(&c->base, c->u->read_buf, &n);
    ret->len = n;
}

static void conn_read_cb(uv_stream_t *s, ssize_t n, const uv_buf_t *buf)
{
    struct uv_conn *c = s->data;

    if (c->base.closing)
        return;
    if (n > 0) {
        c->base.ops->on_data(&c->base, c->base.arg, (const uint8_t *)buf->base, (size_t)n);
        return;
    }
    if (n == 0)
        return; /* nothing there after all */
    if (n == UV_EOF)
        conn_end(c, c->write_rc);
    else
        conn_end(c, n == -ETIMEDOUT ? -TARN_E_CONN_LOST : tarn_uv_err((int)n));
}

static void conn_read_switch(struct uv_conn *c)
{
    bool want = c->base.ops && !c->base.paused;
    int rc;

    if (want == c->reading)
        return;
    rc = want ? uv_read_start(&c->h.stream, conn_alloc_cb, conn_read_cb)
              : uv_read_stop(&c->h.stream);
    if (rc < 0) {
        conn_end(c, tarn_uv_err(rc));
        return;
    }
    c->reading = want;
}

void tarn_uv_conn_start(struct tarn_conn *base)
{
    conn_read_switch(uv_conn_of(base));
}

void tarn_uv_conn_pause(struct tarn_conn *base)
{
    conn_read_switch(uv_conn_of(base));
}

/* ---- making ---------------------------------------------------------------------------------- */

static void conn_discard_cb(uv_handle_t *h)
{
    free(h->data);
}

static int64_t conn_ask_uid(int fd)
{
    struct ucred cred;
    socklen_t n = sizeof(cred);

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &n) < 0 || n != sizeof(cred))
        return -1;
    return (int64_t)cred.uid;
}

static void conn_ask_peer(int fd, bool tcp, int64_t uid, char buf[TARN_ADDR_TEXT_MAX])
{
    struct tarn_sockaddr a = {.len = sizeof(a.u)};

    if (!tcp)
        (void)snprintf(buf, TARN_ADDR_TEXT_MAX, "unix:uid=%" PRId64, uid); /* fits */
    else if (getpeername(fd, &a.u.sa, &a.len) == 0)
        (void)tarn_addr_text(&a, buf);
    else
        (void)snprintf(buf, TARN_ADDR_TEXT_MAX, "gone"); /* fits */
}

/* Opens c's handle on fd. On failure the handle may be half open, and is to be closed. */
static int conn_open_handle(struct uv_conn *c, int fd, bool tcp)
{
    const int send_bytes = CONN_SEND_BYTES;
    int rc;

    if (!tcp)
        return uv_pipe_open(&c->h.pipe, fd);
    rc = uv_tcp_open(&c->h.tcp, fd);
    if (rc < 0)
        return rc;
    /* A peer that is gone already makes these fail; the first read will tell. */
    (void)uv_tcp_nodelay(&c->h.tcp, 1);
    (void)uv_tcp_keepalive(&c->h.tcp, 1, CONN_KEEPALIVE_S);
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &send_bytes, sizeof(send_bytes));
    return 0;
}

int tarn_uv_conn_open(struct tarn_uv_loop *u, int fd, const char *peer, struct tarn_conn **ret)
{
    struct tarn_sockaddr local = {.len = sizeof(local.u)};
    char text[TARN_ADDR_TEXT_MAX];
    struct uv_conn *c;
    int64_t uid = -1;
    bool tcp;
    int rc;

    if (getsockname(fd, &local.u.sa, &local.len) < 0) {
        rc = -errno;
        (void)close(fd); /* nothing was written to it */
        return rc;
    }
    tcp = local.u.sa.sa_family != AF_UNIX;
    if (!tcp)
        uid = conn_ask_uid(fd);
    conn_ask_peer(fd, tcp, uid, text);
    c = tarn_xnew(struct uv_conn);
    rc = tcp ? uv_tcp_init(&u->uv, &c->h.tcp) : uv_pipe_init(&u->uv, &c->h.pipe, 0);
    TARN_ASSERT(rc == 0);
    rc = conn_open_handle(c, fd, tcp);
    c->h.handle.data = c;
    if (rc < 0) {
        (void)close(fd); /* as above; the handle does not have it */
        uv_close(&c->h.handle, conn_discard_cb);
        return tarn_uv_err(rc);
    }
    c->u = u;
    tarn_list_init(&c->dirty);
    tarn_list_init(&c->pending);
    tarn_list_init(&c->flying);
    tarn_conn_init(&c->base, &u->base, peer ? peer : text, uid);
    *ret = &c->base;
    return 0;
}

int tarn_uv_conn_pair(struct tarn_loop *l, struct tarn_conn **ret_a, struct tarn_conn **ret_b)
{
    struct tarn_uv_loop *u = TARN_CONTAINER(l, struct tarn_uv_loop, base);
    struct tarn_conn *a = NULL, *b = NULL;
    int fd[2], rc;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd) < 0)
        return -errno;
    rc = tarn_uv_conn_open(u, fd[0], "pair", &a);
    if (rc < 0) {
        (void)close(fd[1]); /* as above */
        return rc;
    }
    rc = tarn_uv_conn_open(u, fd[1], "pair", &b);
    if (rc < 0) {
        tarn_conn_close(a);
        return rc;
    }
    *ret_a = a;
    *ret_b = b;
    return 0;
}
