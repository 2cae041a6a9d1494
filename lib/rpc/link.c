/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Receiving: a frame that lies whole in what one read brought is delivered where it lies, only its
 * payload is copied (into a buffer of its own, once). Of any other frame the header is gathered
 * first, judged, and only then is memory taken for the rest, to which the rest of a large payload
 * comes without a copy: at most one frame per connection, and little before the handshake is over.
 * An unfinished frame has a deadline, so that a slow sender cannot hold the memory.
 *
 * Sending: each frame is encoded into one scratch string and handed to the connection with a
 * reference to its payload; lib/net puts the frames of a turn into one system call. What the
 * connection's queue has no room for is held here, in order, up to LINK_HELD_MAX. A server stops
 * reading requests long before that (LINK_PAUSE_BYTES): a peer that reads slowly slows itself down.
 *
 * A peer that vanished without a word: every tick without progress a PING is sent, after
 * LINK_QUIET_MAX of them the connection is cut.
 */
#include "lib/rpc/link_priv.h"

#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/buf.h"
#include "lib/base/env.h"
#include "lib/base/err.h"
#include "lib/base/fault.h"
#include "lib/base/limits.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"

#define LINK_MAGIC          0x6c696e6bu
#define LINK_HANDSHAKE_MAX  1024u       /* bytes of a message before the handshake is over */
#define LINK_PAUSE_BYTES    (16u << 20) /* queued: a server stops reading */
#define LINK_HELD_MAX       (4ull * TARN_CONN_WRITE_MAX) /* held: the peer is cut */
#define LINK_ROOM_MIN       (16u << 10)  /* smaller rests are copied with what follows them */
#define LINK_ROOM_MAX       (512u << 10) /* libuv reads 32 times before it looks elsewhere */
#define LINK_QUIET_MAX      3u           /* ticks without a sign of life */
#define LINK_PROGRESS_BYTES 4096u        /* written: more than pings alone */

/* A frame that waits for room in the connection's queue. */
struct link_held {
    struct tarn_list node; /* tarn_link.held */
    struct tarn_str head;  /* header, meta, body */
    struct tarn_buf *buf;  /* reference, or NULL */
    size_t off;            /* of the payload in buf */
    size_t len;            /* of the payload */
};

/* ---- closing ------------------------------------------------------------------------------------
 */

static void link_drop_frame(struct tarn_link *l)
{
    free(l->head);
    l->head = NULL;
    tarn_buf_unref(&l->payload);
    l->hdr_have = 0;
    l->head_have = 0;
    tarn_timer_stop(&l->frame_timer);
}

static void link_held_free(struct link_held *h)
{
    tarn_list_del(&h->node);
    tarn_str_fini(&h->head);
    tarn_buf_unref(&h->buf);
    free(h);
}

void tarn_link_fini(struct tarn_link *l)
{
    struct tarn_list *n;

    TARN_ASSERT(l->conn == NULL);
    link_drop_frame(l);
    tarn_timer_stop(&l->tick);
    while ((n = tarn_list_pop(&l->held)))
        link_held_free(TARN_LIST_ENTRY(n, struct link_held, node));
    tarn_str_fini(&l->out);
    tarn_str_fini(&l->rest);
}

void tarn_link_cut(struct tarn_link *l, int rc)
{
    if (l->closing || !l->conn)
        return;
    l->closing = true;
    l->close_rc = rc;
    tarn_timer_stop(&l->tick);
    link_drop_frame(l);
    tarn_conn_close(l->conn);
}

void tarn_link_deafen(struct tarn_link *l)
{
    l->deaf = true;
    link_drop_frame(l);
}

static void link_close_cb(struct tarn_conn *c, void *arg, int rc)
{
    struct tarn_link *l;

    TARN_CAST(l, arg, LINK_MAGIC);
    TARN_ASSERT(l->conn == c);
    l->conn = NULL;
    l->closing = true;
    tarn_timer_stop(&l->tick);
    tarn_timer_stop(&l->frame_timer);
    l->ops->on_close(l, l->close_rc < 0 ? l->close_rc : rc);
}

/* ---- sending ------------------------------------------------------------------------------------
 */

size_t tarn_link_queued(const struct tarn_link *l)
{
    return (l->conn ? tarn_conn_queued(l->conn) : 0) + l->held_bytes;
}

static void link_pause(struct tarn_link *l)
{
    if (!l->server || l->closing || l->paused || tarn_link_queued(l) <= LINK_PAUSE_BYTES)
        return;
    l->paused = true;
    tarn_conn_pause(l->conn, true);
}

static int link_hold(struct tarn_link *l, struct tarn_buf *buf, size_t off, size_t len)
{
    struct link_held *h;

    if (l->held_bytes + l->out.len + len > LINK_HELD_MAX) {
        if (len > 0)
            return -TARN_E_BUSY;
        tarn_warn_limited("rpc", "peer=%s does not read; cut", tarn_conn_peer(l->conn));
        tarn_link_cut(l, -TARN_E_BUSY);
        return -TARN_E_BUSY;
    }
    h = tarn_xnew(struct link_held);
    h->head = l->out;
    l->out = (struct tarn_str){0};
    h->buf = buf && len ? tarn_buf_ref(buf) : NULL;
    h->off = off;
    h->len = len;
    tarn_list_push(&l->held, &h->node);
    l->held_bytes += h->head.len + len;
    return 0;
}

/* Gives `head` and the payload to the connection. BUSY: its queue is full. */
static int link_give(struct tarn_link *l, const struct tarn_str *head, struct tarn_buf *buf,
                     size_t off, size_t len)
{
    int rc = tarn_conn_write(l->conn, head->p, head->len, len ? buf : NULL, off, len);

    if (rc == 0)
        l->sent += head->len + len;
    else if (rc != -TARN_E_BUSY)
        tarn_link_cut(l, rc);
    return rc;
}

/* Sends what is in l->out. */
static int link_write(struct tarn_link *l, struct tarn_buf *buf, size_t off, size_t len)
{
    int rc;

    TARN_ASSERT(len == 0 || (buf && off <= buf->cap && len <= buf->cap - off));
    TARN_ASSERT(len == 0 || buf->p || (off == 0 && len == buf->len));
    if (l->closing)
        return 0; /* as if lost on the way */
    rc = tarn_list_empty(&l->held) ? link_give(l, &l->out, buf, off, len) : -TARN_E_BUSY;
    if (rc == -TARN_E_BUSY)
        rc = link_hold(l, buf, off, len);
    link_pause(l);
    return rc == -TARN_E_BUSY ? rc : 0;
}

int tarn_link_send(struct tarn_link *l, struct tarn_frame *f, const ProtobufCMessage *msg,
                   struct tarn_buf *payload, size_t off, size_t len)
{
    int rc;

    if (len > TARN_FRAME_PAYLOAD_MAX)
        return -TARN_E_FRAME_TOO_BIG;
    f->version = l->version;
    f->payload_len = (uint32_t)len;
    tarn_str_reset(&l->out);
    rc = tarn_frame_build(f, NULL, msg, &l->out);
    if (rc < 0)
        return rc;
    return link_write(l, payload, off, len);
}

int tarn_link_send_packed(struct tarn_link *l, struct tarn_frame *f, const struct tarn_str *meta,
                          const struct tarn_str *body, struct tarn_buf *payload)
{
    int rc;

    f->version = l->version;
    f->payload_len = payload ? (uint32_t)payload->len : 0;
    tarn_str_reset(&l->out);
    rc = tarn_frame_build_packed(f, meta->p, meta->len, body->p, body->len, &l->out);
    if (rc < 0)
        return rc;
    return link_write(l, payload, 0, f->payload_len);
}

/* ---- is the peer there?
 * -------------------------------------------------------------------------- */

static void link_send_plain(struct tarn_link *l, enum tarn_frame_type type, uint64_t id)
{
    struct tarn_frame f = {.type = (uint8_t)type, .request_id = id};

    (void)tarn_link_send(l, &f, NULL, NULL, 0, 0); /* a full queue cuts the link */
}

static void link_tick_cb(struct tarn_timer *t, void *arg)
{
    struct tarn_link *l;
    uint64_t written;

    TARN_CAST(l, arg, LINK_MAGIC);
    written = l->sent - tarn_conn_queued(l->conn);
    if (l->received != l->tick_received || written - l->tick_written >= LINK_PROGRESS_BYTES)
        l->quiet = 0;
    else
        l->quiet++;
    l->tick_received = l->received;
    l->tick_written = written;
    if (l->quiet >= LINK_QUIET_MAX) {
        tarn_warn_limited("rpc", "peer=%s does not answer; cut", tarn_conn_peer(l->conn));
        tarn_link_cut(l, -TARN_E_CONN_LOST);
        return;
    }
    tarn_timer_start(l->loop, t, l->tick_ns, link_tick_cb, l);
    if (l->quiet > 0 && !l->paused)
        link_send_plain(l, TARN_FRAME_PING, 0);
}

/* ---- receiving
 * ----------------------------------------------------------------------------------- */

static void link_bad(struct tarn_link *l, int rc)
{
    if (l->ops->on_bad)
        l->ops->on_bad(l, rc);
    if (l->deaf || l->closing)
        return;
    tarn_warn_limited("rpc", "peer=%s cut: %s", tarn_conn_peer(l->conn), tarn_strerror(rc));
    tarn_link_cut(l, rc);
}

static void link_frame_timer_cb(struct tarn_timer *t, void *arg)
{
    struct tarn_link *l;

    (void)t; /* the link's */
    TARN_CAST(l, arg, LINK_MAGIC);
    if (l->paused) { /* it is us who does not read */
        tarn_timer_start(l->loop, &l->frame_timer, TARN_FRAME_RECV_MS * TARN_NS_PER_MS,
                         link_frame_timer_cb, l);
        return;
    }
    tarn_warn_limited("rpc", "peer=%s is too slow with a frame; cut", tarn_conn_peer(l->conn));
    tarn_link_cut(l, -TARN_E_DEADLINE);
}

/* Judges a header whose bytes are all there. */
static int link_admit(struct tarn_link *l)
{
    int rc = tarn_frame_decode(l->hdr, &l->f);

    if (rc < 0)
        return rc;
    if (l->open)
        return 0;
    if (l->f.type < TARN_FRAME_HELLO || l->f.type > TARN_FRAME_WELCOME)
        return l->server ? -TARN_E_AUTH_REQUIRED : -TARN_E_FRAME_BAD;
    if (l->f.payload_len > 0 || l->f.meta_len > 0 || l->f.body_len > LINK_HANDSHAKE_MAX)
        return -TARN_E_FRAME_TOO_BIG;
    return 0;
}

/* Memory for a frame of which only the header is there. */
static int link_reserve(struct tarn_link *l)
{
    size_t head = l->f.meta_len + l->f.body_len;

    if (TARN_FAULT(buf_alloc))
        return -TARN_E_NO_MEMORY;
    l->head = malloc(head ? head : 1);
    l->payload = l->f.payload_len ? tarn_buf_new(l->f.payload_len) : NULL;
    if (!l->head || (l->f.payload_len && !l->payload))
        return -TARN_E_NO_MEMORY;
    tarn_timer_start(l->loop, &l->frame_timer, TARN_FRAME_RECV_MS * TARN_NS_PER_MS,
                     link_frame_timer_cb, l);
    return 0;
}

/* `head` has meta and body; takes *payload. */
static int link_deliver(struct tarn_link *l, const uint8_t *head, struct tarn_buf **payload)
{
    struct tarn_frame f = l->f;
    const uint8_t *body = head + f.meta_len;
    int rc = 0;

    if (tarn_frame_body_sum(head, f.meta_len, body, f.body_len) != f.body_sum)
        rc = -TARN_E_FRAME_BAD;
    else if (f.type == TARN_FRAME_PING && l->open)
        link_send_plain(l, TARN_FRAME_PONG, f.request_id);
    else if (f.type != TARN_FRAME_PONG || !l->open)
        rc = l->ops->on_frame(l, &f, head, body, payload);
    tarn_buf_unref(payload);
    return rc;
}

/* The frame whose header is in l->f lies whole at p. */
static int link_deliver_in_place(struct tarn_link *l, const uint8_t *p)
{
    size_t head = l->f.meta_len + l->f.body_len;
    struct tarn_buf *payload = NULL;

    tarn_timer_stop(&l->frame_timer);
    l->hdr_have = 0;
    if (l->f.payload_len) {
        payload = TARN_FAULT(buf_alloc) ? NULL : tarn_buf_new(l->f.payload_len);
        if (!payload)
            return -TARN_E_NO_MEMORY;
        memcpy(payload->p, p + head, l->f.payload_len);
        payload->len = l->f.payload_len;
    }
    return link_deliver(l, p, &payload);
}

static int link_deliver_gathered(struct tarn_link *l)
{
    struct tarn_buf *payload = l->payload;
    uint8_t *head = l->head;
    int rc;

    l->head = NULL;
    l->payload = NULL;
    link_drop_frame(l);
    rc = link_deliver(l, head, &payload);
    free(head);
    return rc;
}

/* The rest of a large payload is received to where it belongs. */
static uint8_t *link_room_cb(struct tarn_conn *c, void *arg, size_t *ret_n)
{
    struct tarn_link *l;

    (void)c; /* the link's */
    TARN_CAST(l, arg, LINK_MAGIC);
    if (!l->payload || l->head_have < l->f.meta_len + l->f.body_len || l->deaf || l->closing ||
        l->f.payload_len - l->payload->len < LINK_ROOM_MIN)
        return NULL;
    *ret_n = TARN_MIN(l->f.payload_len - l->payload->len, LINK_ROOM_MAX);
    return l->payload->p + l->payload->len;
}

/* Adds to the frame for which there is memory. Returns the bytes used. */
static size_t link_gather(struct tarn_link *l, const uint8_t *p, size_t n)
{
    uint32_t head = l->f.meta_len + l->f.body_len;
    size_t k = TARN_MIN(n, head - l->head_have), m;
    uint8_t *to;

    memcpy(l->head + l->head_have, p, k);
    l->head_have += (uint32_t)k;
    if (!l->payload)
        return k;
    m = TARN_MIN(n - k, l->f.payload_len - l->payload->len);
    to = l->payload->p + l->payload->len;
    if (p + k != to) /* else it is there already: link_room_cb() */
        memcpy(to, p + k, m);
    l->payload->len += m;
    return k + m;
}

static bool link_gathered(const struct tarn_link *l)
{
    return l->head_have == l->f.meta_len + l->f.body_len &&
           (!l->payload || l->payload->len == l->f.payload_len);
}

/* Uses some of the `n` bytes at `p`, at least one. Negative: the connection is to be cut. */
static int link_feed(struct tarn_link *l, const uint8_t *p, size_t n, size_t *ret_used)
{
    size_t used = 0, rest;
    int rc;

    if (l->hdr_have < TARN_FRAME_HDR_BYTES) {
        used = TARN_MIN(n, TARN_FRAME_HDR_BYTES - l->hdr_have);
        memcpy(l->hdr + l->hdr_have, p, used);
        l->hdr_have += (uint32_t)used;
        *ret_used = used;
        if (l->hdr_have < TARN_FRAME_HDR_BYTES)
            return 0;
        rc = link_admit(l);
        if (rc < 0)
            return rc;
        rest = (size_t)l->f.meta_len + l->f.body_len + l->f.payload_len;
        if (n - used >= rest) {
            *ret_used = used + rest;
            return link_deliver_in_place(l, p + used);
        }
        rc = link_reserve(l);
        if (rc < 0)
            return rc;
    }
    used += link_gather(l, p + used, n - used);
    *ret_used = used;
    return link_gathered(l) ? link_deliver_gathered(l) : 0;
}

/* Takes whole frames out of what arrived; what comes after a pause is kept for later. */
static void link_take(struct tarn_link *l, const uint8_t *p, size_t n)
{
    while (n > 0 && !l->deaf && !l->closing) {
        size_t used = 0;
        int rc;

        if (l->paused) {
            tarn_str_add(&l->rest, p, n);
            return;
        }
        rc = link_feed(l, p, n, &used);
        if (rc < 0) {
            link_bad(l, rc);
            return;
        }
        p += used;
        n -= used;
    }
    if (l->hdr_have > 0 && !l->closing && !tarn_timer_running(&l->frame_timer))
        tarn_timer_start(l->loop, &l->frame_timer, TARN_FRAME_RECV_MS * TARN_NS_PER_MS,
                         link_frame_timer_cb, l);
}

static void link_data_cb(struct tarn_conn *c, void *arg, const uint8_t *p, size_t n)
{
    struct tarn_link *l;

    (void)c; /* the link's */
    TARN_CAST(l, arg, LINK_MAGIC);
    l->received += n;
    link_take(l, p, n);
}

static void link_resume(struct tarn_link *l)
{
    struct tarn_str rest = l->rest;

    l->rest = (struct tarn_str){0};
    l->paused = false;
    tarn_conn_pause(l->conn, false);
    link_take(l, (const uint8_t *)rest.p, rest.len);
    tarn_str_fini(&rest);
}

static void link_drain_cb(struct tarn_conn *c, void *arg)
{
    struct tarn_link *l;

    (void)c; /* the link's */
    TARN_CAST(l, arg, LINK_MAGIC);
    while (!l->closing && !tarn_list_empty(&l->held)) {
        struct link_held *h = TARN_LIST_ENTRY(l->held.next, struct link_held, node);

        if (link_give(l, &h->head, h->buf, h->off, h->len) < 0)
            break;
        l->held_bytes -= h->head.len + h->len;
        link_held_free(h);
    }
    if (l->paused && !l->closing && tarn_link_queued(l) <= LINK_PAUSE_BYTES)
        link_resume(l);
    if (!l->closing && l->ops->on_drain && tarn_link_queued(l) == 0)
        l->ops->on_drain(l);
}

/* ---- life
 * ---------------------------------------------------------------------------------------- */

static const struct tarn_conn_ops link_conn_ops = {
    .on_data = link_data_cb,
    .room = link_room_cb,
    .on_drain = link_drain_cb,
    .on_close = link_close_cb,
};

void tarn_link_init(struct tarn_link *l, struct tarn_loop *loop, struct tarn_conn *conn,
                    bool server, const struct tarn_link_ops *ops)
{
    *l = (struct tarn_link){
        .magic = LINK_MAGIC,
        .loop = loop,
        .conn = conn,
        .ops = ops,
        .server = server,
        .version = TARN_FRAME_VERSION_MIN,
    };
    tarn_list_init(&l->held);
    tarn_conn_start(conn, &link_conn_ops, l);
}

void tarn_link_open(struct tarn_link *l, uint8_t version, uint64_t tick_ns)
{
    TARN_ASSERT(!l->open && version >= TARN_FRAME_VERSION_MIN && version <= TARN_FRAME_VERSION);
    l->open = true;
    l->version = version;
    l->tick_ns = tick_ns;
    l->tick_received = l->received;
    l->tick_written = l->sent - tarn_conn_queued(l->conn);
    if (tick_ns)
        tarn_timer_start(l->loop, &l->tick, tick_ns, link_tick_cb, l);
}
