/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Streams of the simulated loop. Bytes take the way they take in a kernel: what the user wrote
 * waits in `out`; as long as the other end holds less than SIM_WINDOW undelivered bytes, sim_send()
 * moves pieces to its `in`; sim_deliver() shows them to its user, in chunks and after delays as the
 * faults say, or cuts the connection. Order within a connection is kept, whatever the delays.
 *
 * Each end has at most one send and one delivery under way as events. An event keeps its end alive
 * (`events`), so that an end is freed by the last of them after it was closed.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/assert.h"
#include "lib/base/buf.h"
#include "lib/base/mem.h"
#include "lib/net/net_sim_priv.h"

#define SIM_WINDOW (256u << 10) /* undelivered bytes that one end takes */
#define SIM_PIECE  (64u << 10)  /* most bytes that move at once */

/* Bytes under way: copied behind the struct, or a part of `buf`. */
struct sim_piece {
    struct tarn_list node; /* out or in */
    struct tarn_buf *buf;  /* reference, or NULL */
    const uint8_t *p;      /* first byte not delivered */
    size_t len;            /* bytes not delivered */
    uint8_t data[];        /* copied bytes */
};

struct sim_conn {
    struct tarn_conn base;   /* first */
    struct tarn_sim_loop *s; /* base.loop */
    struct sim_conn *peer;   /* the other end; NULL when either is over */
    struct tarn_list out;    /* pieces that the user wrote */
    size_t out_bytes;        /* in out */
    struct tarn_list in;     /* pieces that arrived */
    size_t in_bytes;         /* in in */
    bool in_end;             /* nothing more comes */
    int in_rc;               /* why, for on_close */
    bool untold;             /* written to since the last on_drain */
    bool sending;            /* a send is due */
    bool delivering;         /* a delivery is due */
    unsigned events;         /* that hold this end */
    bool told;               /* on_close has run */
};

static struct sim_conn *sim_conn_of(struct tarn_conn *c)
{
    return TARN_CONTAINER(c, struct sim_conn, base);
}

/* ---- pieces ---------------------------------------------------------------------------------- */

static void piece_free(struct sim_piece *p)
{
    tarn_buf_unref(&p->buf);
    free(p);
}

static void pieces_drop(struct tarn_list *list, size_t *bytes)
{
    TARN_LIST_FOREACH_SAFE(it, list)
    {
        piece_free(TARN_LIST_ENTRY(it, struct sim_piece, node));
    }
    tarn_list_init(list);
    *bytes = 0;
}

/* Takes up to `n` bytes of what arrived. */
static size_t pieces_take(struct sim_conn *c, uint8_t *dst, size_t n)
{
    size_t got = 0;

    TARN_LIST_FOREACH_SAFE(it, &c->in)
    {
        struct sim_piece *p = TARN_LIST_ENTRY(it, struct sim_piece, node);
        size_t m = TARN_MIN(n - got, p->len);

        memcpy(dst + got, p->p, m);
        got += m;
        p->p += m;
        p->len -= m;
        if (p->len > 0)
            break;
        tarn_list_del(&p->node);
        piece_free(p);
    }
    TARN_ASSERT(got <= c->in_bytes);
    c->in_bytes -= got;
    return got;
}

/* ---- life ------------------------------------------------------------------------------------ */

static void sim_event_for(struct sim_conn *c, uint64_t delay_ns, tarn_sim_fn *fn)
{
    c->events++;
    tarn_sim_event(c->s, delay_ns, fn, c);
}

static void sim_event_over(struct sim_conn *c)
{
    TARN_ASSERT(c->events > 0);
    if (--c->events == 0 && c->told)
        free(c);
}

static void sim_deliver(struct tarn_sim_loop *s, void *arg);
static void sim_send(struct tarn_sim_loop *s, void *arg);

static void sim_wake_reader(struct sim_conn *c)
{
    if (c->delivering || c->base.closing || c->base.paused || !c->base.ops)
        return;
    if (c->in_bytes == 0 && !c->in_end)
        return;
    c->delivering = true;
    sim_event_for(c, tarn_sim_delay(c->s), sim_deliver);
}

static void sim_wake_writer(struct sim_conn *c)
{
    if (c->sending || c->base.closing)
        return;
    c->sending = true;
    sim_event_for(c, 0, sim_send);
}

static void sim_closed(struct tarn_sim_loop *s, void *arg)
{
    struct sim_conn *c = arg;

    (void)s;
    tarn_conn_tell_close(&c->base);
    c->told = true;
    sim_event_over(c);
}

/* Moves what the other end has room for. */
static void sim_move(struct sim_conn *c)
{
    struct tarn_list *n;

    while (c->peer && c->peer->in_bytes < SIM_WINDOW && (n = tarn_list_pop(&c->out))) {
        struct sim_piece *p = TARN_LIST_ENTRY(n, struct sim_piece, node);

        c->out_bytes -= p->len;
        c->peer->in_bytes += p->len;
        tarn_list_push(&c->peer->in, n);
    }
    if (c->peer)
        sim_wake_reader(c->peer);
}

/* This end is over with `rc`; the other reads what was sent, and then ends with `peer_rc`. */
static void sim_end(struct sim_conn *c, int rc, int peer_rc)
{
    struct sim_conn *peer = c->peer;

    tarn_conn_set_closing(&c->base, rc);
    if (peer) {
        sim_move(c);
        peer->in_end = true;
        peer->in_rc = peer_rc;
        peer->peer = NULL;
        c->peer = NULL;
        sim_wake_reader(peer);
    }
    pieces_drop(&c->out, &c->out_bytes);
    pieces_drop(&c->in, &c->in_bytes);
    sim_event_for(c, 0, sim_closed);
}

static struct sim_conn *sim_conn_new(struct tarn_sim_loop *s, const char *peer)
{
    struct sim_conn *c = tarn_xnew(struct sim_conn);

    tarn_conn_init(&c->base, &s->base, peer, -1);
    c->s = s;
    tarn_list_init(&c->out);
    tarn_list_init(&c->in);
    return c;
}

void tarn_sim_conn_link(struct tarn_sim_loop *s, const char *peer_of_a, const char *peer_of_b,
                        struct tarn_conn **ret_a, struct tarn_conn **ret_b)
{
    struct sim_conn *a = sim_conn_new(s, peer_of_a), *b = sim_conn_new(s, peer_of_b);

    a->peer = b;
    b->peer = a;
    *ret_a = &a->base;
    *ret_b = &b->base;
}

int tarn_sim_conn_pair(struct tarn_loop *l, struct tarn_conn **ret_a, struct tarn_conn **ret_b)
{
    tarn_sim_conn_link(tarn_sim_of(l), "pair", "pair", ret_a, ret_b);
    return 0;
}

/* ---- events ---------------------------------------------------------------------------------- */

static void sim_send_now(struct sim_conn *c)
{
    if (c->base.closing)
        return;
    if (!c->peer)
        pieces_drop(&c->out, &c->out_bytes); /* on_close follows */
    sim_move(c);
    if (!tarn_list_empty(&c->out) || !c->untold || !c->base.ops || !c->peer)
        return;
    c->untold = false;
    if (c->base.ops->on_drain)
        c->base.ops->on_drain(&c->base, c->base.arg);
}

static void sim_send(struct tarn_sim_loop *s, void *arg)
{
    struct sim_conn *c = arg;

    (void)s;
    c->sending = false;
    sim_send_now(c);
    sim_event_over(c);
}

static size_t sim_chunk(struct tarn_sim_loop *s)
{
    if (s->chunk_max == 0)
        return TARN_SIM_READ_BYTES;
    return 1 + (size_t)tarn_rng_below(&s->rng.base, s->chunk_max);
}

static bool sim_cuts(struct tarn_sim_loop *s)
{
    return s->drop_per_million && tarn_rng_below(&s->rng.base, 1000000) < s->drop_per_million;
}

static void sim_deliver_now(struct sim_conn *c)
{
    size_t n, room = TARN_SIM_READ_BYTES;
    uint8_t *dst;

    if (c->base.closing || c->base.paused)
        return;
    if (c->in_bytes > 0 && c->peer && sim_cuts(c->s)) {
        pieces_drop(&c->peer->in, &c->peer->in_bytes);
        pieces_drop(&c->out, &c->out_bytes);
        sim_end(c, -TARN_E_CONN_LOST, -TARN_E_CONN_LOST);
        return;
    }
    dst = tarn_conn_room(&c->base, c->s->read_buf, &room);
    n = sim_chunk(c->s);
    n = pieces_take(c, dst, TARN_MIN(room, n));
    if (n > 0)
        c->base.ops->on_data(&c->base, c->base.arg, dst, n);
    if (c->base.closing)
        return;
    if (c->peer && !tarn_list_empty(&c->peer->out))
        sim_wake_writer(c->peer);
    if (n == 0 && c->in_end)
        sim_end(c, c->in_rc, 0);
    else
        sim_wake_reader(c);
}

static void sim_deliver(struct tarn_sim_loop *s, void *arg)
{
    struct sim_conn *c = arg;

    (void)s;
    c->delivering = false;
    sim_deliver_now(c);
    sim_event_over(c);
}

/* ---- the vtable's part ----------------------------------------------------------------------- */

void tarn_sim_conn_start(struct tarn_conn *base)
{
    sim_wake_reader(sim_conn_of(base));
}

void tarn_sim_conn_pause(struct tarn_conn *base)
{
    sim_wake_reader(sim_conn_of(base));
}

size_t tarn_sim_conn_queued(const struct tarn_conn *base)
{
    const struct sim_conn *c = (const void *)base;

    return c->out_bytes;
}

/* Queues bytes in pieces of at most SIM_PIECE: a copy of `p`, or, with `buf`, references. */
static void sim_queue(struct sim_conn *c, const uint8_t *p, size_t n, struct tarn_buf *buf)
{
    while (n > 0) {
        size_t m = TARN_MIN(n, SIM_PIECE);
        struct sim_piece *k = tarn_xcalloc(1, sizeof(*k) + (buf ? 0 : m));

        if (buf) {
            k->buf = tarn_buf_ref(buf);
            k->p = p;
        } else {
            memcpy(k->data, p, m);
            k->p = k->data;
        }
        k->len = m;
        tarn_list_push(&c->out, &k->node);
        c->out_bytes += m;
        p += m;
        n -= m;
    }
}

/* What is in a pipe, in memory. */
static void sim_queue_pipe(struct sim_conn *c, const struct tarn_buf *buf, size_t len)
{
    TARN_AUTO_FREE uint8_t *bytes = tarn_xcalloc(1, len);
    size_t got = 0;

    while (got < len) {
        ssize_t k = read(buf->pipe[0], bytes + got, len - got);

        TARN_ASSERT(k > 0);
        got += (size_t)k;
    }
    sim_queue(c, bytes, len, NULL);
}

int tarn_sim_conn_write(struct tarn_conn *base, const void *p, size_t n, struct tarn_buf *payload,
                        size_t off, size_t len)
{
    struct sim_conn *c = sim_conn_of(base);

    sim_queue(c, p, n, NULL);
    if (len > 0 && !payload->p)
        sim_queue_pipe(c, payload, len);
    else if (len > 0)
        sim_queue(c, payload->p + off, len, payload);
    c->untold = true;
    sim_wake_writer(c);
    return 0;
}

void tarn_sim_conn_close(struct tarn_conn *base)
{
    sim_end(sim_conn_of(base), 0, 0);
}
