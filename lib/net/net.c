/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The contract's functions: they check the arguments and the thread, keep what both implementations
 * keep alike (who owns a loop, which connections belong to a listener, who is told), and call the
 * vtable for the rest.
 *
 * A loop has an owner only while it runs. Before and after, whoever holds it may use it: that is
 * how one thread builds a loop, another runs it, and the first takes it down.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/buf.h"
#include "lib/base/limits.h"
#include "lib/net/net_priv.h"

/* ---- loops ----------------------------------------------------------------------------------- */

static uint64_t loop_self_thread(void)
{
    return (uint64_t)pthread_self();
}

void tarn_loop_init(struct tarn_loop *l, const struct tarn_loop_ops *ops)
{
    memset(l, 0, sizeof(*l));
    l->magic = TARN_LOOP_MAGIC;
    l->ops = ops;
    l->self = l;
    atomic_init(&l->owner, 0);
}

void tarn_loop_fini(struct tarn_loop *l)
{
    TARN_ASSERT(l->timers.count == 0);
    TARN_ASSERT(l->conns == 0);
    TARN_ASSERT(l->listeners == 0);
    TARN_ASSERT(l->connects == 0);
    TARN_ASSERT(l->polls == 0);
    free(l->timers.heap);
    l->timers = (struct tarn_timers){0};
    l->magic = 0;
}

void tarn_loop_enter(struct tarn_loop *l)
{
    TARN_ASSERT(l->magic == TARN_LOOP_MAGIC);
    TARN_ASSERT(atomic_exchange(&l->owner, loop_self_thread()) == 0);
}

void tarn_loop_leave(struct tarn_loop *l)
{
    TARN_ASSERT(tarn_loop_is_mine(l));
    atomic_store(&l->owner, 0);
}

bool tarn_loop_is_mine(const struct tarn_loop *l)
{
    return atomic_load_explicit(&l->owner, memory_order_relaxed) == loop_self_thread();
}

void tarn_loop_assert_mine(const struct tarn_loop *l)
{
    TARN_ASSERT(l->magic == TARN_LOOP_MAGIC);
    TARN_ASSERT(atomic_load_explicit(&l->owner, memory_order_relaxed) == 0 || tarn_loop_is_mine(l));
}

void tarn_loop_free(struct tarn_loop **pl)
{
    struct tarn_loop *l = *pl;

    if (!l)
        return;
    *pl = NULL;
    l->ops->free(l);
}

void tarn_loop_run(struct tarn_loop *l)
{
    tarn_loop_enter(l);
    l->ops->run(l);
    tarn_loop_leave(l);
}

void tarn_loop_stop(struct tarn_loop *l)
{
    TARN_ASSERT(l->magic == TARN_LOOP_MAGIC);
    l->ops->stop(l);
}

uint64_t tarn_loop_now_ns(const struct tarn_loop *l)
{
    tarn_loop_assert_mine(l);
    return l->ops->now_ns(l->self);
}

uint64_t tarn_loop_read_now_ns(const struct tarn_loop *l)
{
    tarn_loop_assert_mine(l);
    return l->ops->read_now_ns(l->self);
}

void tarn_loop_post(struct tarn_loop *l, struct tarn_task *t, tarn_task_fn *fn)
{
    TARN_ASSERT(l->magic == TARN_LOOP_MAGIC);
    TARN_ASSERT(fn != NULL);
    t->fn = fn;
    l->ops->post(l, t);
}

int tarn_poll_start(struct tarn_loop *l, int fd, unsigned events, tarn_poll_fn *fn, void *arg,
                    struct tarn_poll **p)
{
    tarn_loop_assert_mine(l);
    TARN_ASSERT(fn != NULL && fd >= 0);
    TARN_ASSERT((events & ~(TARN_POLL_READ | TARN_POLL_WRITE)) == 0);
    return l->ops->poll_start(l, fd, events, fn, arg, p);
}

void tarn_poll_stop(struct tarn_poll **pp)
{
    struct tarn_poll *p = *pp;

    if (!p)
        return;
    TARN_ASSERT(p->magic == TARN_POLL_MAGIC);
    tarn_loop_assert_mine(p->loop);
    *pp = NULL;
    p->loop->ops->poll_stop(p);
}

/* ---- connections ----------------------------------------------------------------------------- */

static void conn_check(const struct tarn_conn *c)
{
    TARN_ASSERT(c != NULL && c->magic == TARN_CONN_MAGIC);
    tarn_loop_assert_mine(c->loop);
}

uint8_t *tarn_conn_room(struct tarn_conn *c, uint8_t *buf, size_t *ret_n)
{
    size_t n = 0;
    uint8_t *room = c->ops->room ? c->ops->room(c, c->arg, &n) : NULL;

    if (!room)
        return buf;
    TARN_ASSERT(n > 0);
    *ret_n = n;
    return room;
}

void tarn_conn_init(struct tarn_conn *c, struct tarn_loop *l, const char *peer, int64_t uid)
{
    memset(c, 0, sizeof(*c));
    c->magic = TARN_CONN_MAGIC;
    c->loop = l;
    c->uid = uid;
    tarn_list_init(&c->node);
    (void)snprintf(c->peer, sizeof(c->peer), "%s", peer); /* for logs: may be cut */
    l->conns++;
}

static void conn_leave_listener(struct tarn_conn *c)
{
    if (!c->listener)
        return;
    TARN_ASSERT(c->listener->count > 0);
    c->listener->count--;
    tarn_list_del(&c->node);
    c->listener = NULL;
}

void tarn_conn_set_closing(struct tarn_conn *c, int rc)
{
    TARN_ASSERT(!c->closing && rc <= 0);
    TARN_ASSERT(c->loop->conns > 0);
    c->closing = true;
    c->close_rc = rc;
    c->loop->conns--;
    conn_leave_listener(c);
}

void tarn_conn_tell_close(struct tarn_conn *c)
{
    TARN_ASSERT(c->closing);
    if (c->ops)
        c->ops->on_close(c, c->arg, c->close_rc);
    c->magic = 0;
}

void tarn_conn_start(struct tarn_conn *c, const struct tarn_conn_ops *ops, void *arg)
{
    conn_check(c);
    TARN_ASSERT(ops && ops->on_data && ops->on_close);
    c->ops = ops;
    c->arg = arg;
    if (!c->closing)
        c->loop->ops->conn_start(c);
}

int tarn_conn_write(struct tarn_conn *c, const void *p, size_t n, struct tarn_buf *payload,
                    size_t off, size_t len)
{
    size_t queued;

    conn_check(c);
    TARN_ASSERT(p || n == 0);
    if (payload)
        TARN_ASSERT(off <= payload->cap && len <= payload->cap - off);
    else
        TARN_ASSERT(len == 0);
    if (c->closing)
        return 0;
    queued = c->loop->ops->conn_queued(c);
    if (queued > TARN_CONN_WRITE_MAX || n > TARN_CONN_WRITE_MAX - queued ||
        len > TARN_CONN_WRITE_MAX - queued - n)
        return -TARN_E_BUSY;
    if (n == 0 && len == 0)
        return 0;
    return c->loop->ops->conn_write(c, p, n, payload, off, len);
}

size_t tarn_conn_queued(const struct tarn_conn *c)
{
    conn_check(c);
    return c->closing ? 0 : c->loop->ops->conn_queued(c);
}

void tarn_conn_pause(struct tarn_conn *c, bool paused)
{
    conn_check(c);
    if (c->paused == paused)
        return;
    c->paused = paused;
    if (!c->closing && c->ops)
        c->loop->ops->conn_pause(c);
}

void tarn_conn_close(struct tarn_conn *c)
{
    conn_check(c);
    if (!c->closing)
        c->loop->ops->conn_close(c);
}

const char *tarn_conn_peer(const struct tarn_conn *c)
{
    conn_check(c);
    return c->peer;
}

int64_t tarn_conn_peer_uid(const struct tarn_conn *c)
{
    conn_check(c);
    return c->uid;
}

int tarn_conn_pair(struct tarn_loop *l, struct tarn_conn **ret_a, struct tarn_conn **ret_b)
{
    tarn_loop_assert_mine(l);
    return l->ops->conn_pair(l, ret_a, ret_b);
}

/* ---- connecting ------------------------------------------------------------------------------ */

void tarn_connect_init(struct tarn_connect *a, struct tarn_loop *l, tarn_connect_fn *fn, void *arg)
{
    a->magic = TARN_CONNECT_MAGIC;
    a->loop = l;
    a->fn = fn;
    a->arg = arg;
    l->connects++;
}

void tarn_connect_tell(struct tarn_connect *a, int rc, struct tarn_conn *c)
{
    TARN_ASSERT((rc == 0) == (c != NULL));
    TARN_ASSERT(a->loop->connects > 0);
    a->loop->connects--;
    a->magic = 0;
    if (a->cancelled && c)
        tarn_conn_close(c);
    if (a->cancelled) {
        a->fn(a->arg, -TARN_E_CANCELLED, NULL);
        return;
    }
    a->fn(a->arg, rc, c);
    if (c)
        TARN_ASSERT(c->ops || c->closing); /* fn must start it or close it */
}

struct tarn_connect *tarn_connect(struct tarn_loop *l, const char *addr, uint64_t timeout_ns,
                                  tarn_connect_fn *fn, void *arg)
{
    tarn_loop_assert_mine(l);
    TARN_ASSERT(addr && fn);
    return l->ops->connect(l, addr, timeout_ns, fn, arg);
}

void tarn_connect_cancel(struct tarn_connect *a)
{
    TARN_ASSERT(a && a->magic == TARN_CONNECT_MAGIC);
    tarn_loop_assert_mine(a->loop);
    if (a->cancelled)
        return;
    a->cancelled = true;
    a->loop->ops->connect_cancel(a);
}

/* ---- listening ------------------------------------------------------------------------------- */

void tarn_listener_init(struct tarn_listener *s, struct tarn_loop *l, tarn_accept_fn *fn, void *arg)
{
    memset(s, 0, sizeof(*s));
    s->magic = TARN_LISTENER_MAGIC;
    s->loop = l;
    s->fn = fn;
    s->arg = arg;
    tarn_list_init(&s->conns);
    l->listeners++;
}

void tarn_listener_fini(struct tarn_listener *s)
{
    struct tarn_list *n;

    while ((n = s->conns.next) != &s->conns)
        conn_leave_listener(TARN_LIST_ENTRY(n, struct tarn_conn, node));
    TARN_ASSERT(s->count == 0);
    TARN_ASSERT(s->loop->listeners > 0);
    s->loop->listeners--;
    s->magic = 0;
}

bool tarn_listener_full(const struct tarn_listener *s)
{
    return s->count >= TARN_LISTENER_CONNS_MAX;
}

void tarn_listener_accept(struct tarn_listener *s, struct tarn_conn *c)
{
    c->listener = s;
    s->count++;
    tarn_list_push(&s->conns, &c->node);
    s->fn(s->arg, c);
    TARN_ASSERT(c->ops || c->closing); /* fn must start it or close it */
}

int tarn_listen(struct tarn_loop *l, const char *addr, tarn_accept_fn *fn, void *arg,
                struct tarn_listener **ret)
{
    tarn_loop_assert_mine(l);
    TARN_ASSERT(addr && fn && ret);
    return l->ops->listen(l, addr, fn, arg, ret);
}

const char *tarn_listener_addr(const struct tarn_listener *s)
{
    TARN_ASSERT(s->magic == TARN_LISTENER_MAGIC);
    return s->addr;
}

void tarn_listener_close(struct tarn_listener **ps)
{
    struct tarn_listener *s = *ps;

    if (!s)
        return;
    TARN_ASSERT(s->magic == TARN_LISTENER_MAGIC);
    tarn_loop_assert_mine(s->loop);
    *ps = NULL;
    s->loop->ops->listener_close(s);
}
