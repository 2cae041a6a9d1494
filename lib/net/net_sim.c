/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The simulated loop: a heap of events ordered by (time, sequence), and a clock that jumps from one
 * to the next. Timers live in the heap that both loops share, and draw their sequence numbers from
 * the same counter, so that events and timers of one time happen in the order in which they were
 * made. Every random choice comes from one seeded generator: the same calls with the same seed give
 * the same run.
 */
#include <stdlib.h>

#include "lib/base/assert.h"
#include "lib/base/mem.h"
#include "lib/net/net_sim_priv.h"

#define SIM_EVENTS_FIRST 256u
#define SIM_PORT_FIRST   40000u

/* ---- events ---------------------------------------------------------------------------------- */

static bool sim_before(const struct tarn_sim_event *a, const struct tarn_sim_event *b)
{
    return a->at_ns != b->at_ns ? a->at_ns < b->at_ns : a->seq < b->seq;
}

void tarn_sim_event(struct tarn_sim_loop *s, uint64_t delay_ns, tarn_sim_fn *fn, void *arg)
{
    struct tarn_sim_event e = {.seq = ++s->base.seq, .fn = fn, .arg = arg};
    size_t i;

    e.at_ns = delay_ns < UINT64_MAX - s->now_ns ? s->now_ns + delay_ns : UINT64_MAX;
    if (s->count == s->cap) {
        s->cap = s->cap ? s->cap * 2 : SIM_EVENTS_FIRST;
        s->heap = tarn_xrealloc(s->heap, s->cap * sizeof(*s->heap));
    }
    for (i = s->count++; i > 0 && sim_before(&e, &s->heap[(i - 1) / 2]); i = (i - 1) / 2)
        s->heap[i] = s->heap[(i - 1) / 2];
    s->heap[i] = e;
}

static struct tarn_sim_event sim_take(struct tarn_sim_loop *s)
{
    struct tarn_sim_event first = s->heap[0], last;
    size_t i = 0;

    TARN_ASSERT(s->count > 0);
    last = s->heap[--s->count];
    for (;;) {
        size_t child = 2 * i + 1;

        if (child >= s->count)
            break;
        if (child + 1 < s->count && sim_before(&s->heap[child + 1], &s->heap[child]))
            child++;
        if (!sim_before(&s->heap[child], &last))
            break;
        s->heap[i] = s->heap[child];
        i = child;
    }
    s->heap[i] = last;
    return first;
}

uint64_t tarn_sim_delay(struct tarn_sim_loop *s)
{
    return s->delay_ns_max ? tarn_rng_below(&s->rng.base, s->delay_ns_max + 1) : 0;
}

/* ---- running --------------------------------------------------------------------------------- */

/* True if the next thing to happen is a timer; its time is in *ret_at (UINT64_MAX: nothing). */
static bool sim_next(const struct tarn_sim_loop *s, uint64_t *ret_at, bool *ret_any)
{
    const struct tarn_timer *t = tarn_timers_first(&s->base.timers);
    const struct tarn_sim_event *e = s->count ? &s->heap[0] : NULL;
    bool timer = t && (!e || t->due_ns < e->at_ns || (t->due_ns == e->at_ns && t->seq < e->seq));

    *ret_any = t || e;
    *ret_at = timer ? t->due_ns : e ? e->at_ns : UINT64_MAX;
    return timer;
}

static bool sim_step(struct tarn_sim_loop *s, uint64_t until_ns)
{
    uint64_t at;
    bool any, timer = sim_next(s, &at, &any);

    if (!any || at > until_ns)
        return false;
    TARN_ASSERT(at >= s->now_ns);
    s->now_ns = at;
    if (timer) {
        tarn_timers_run_first(&s->base);
    } else {
        struct tarn_sim_event e = sim_take(s);

        e.fn(s, e.arg);
    }
    return true;
}

static void sim_loop_run(struct tarn_loop *l)
{
    struct tarn_sim_loop *s = tarn_sim_of(l);

    while (!s->stop && sim_step(s, UINT64_MAX))
        continue;
    s->stop = false;
}

static void sim_loop_stop(struct tarn_loop *l)
{
    tarn_loop_assert_mine(l);
    tarn_sim_of(l)->stop = true;
}

static uint64_t sim_loop_now(struct tarn_loop *l)
{
    return tarn_sim_of(l)->now_ns;
}

static void sim_run_task(struct tarn_sim_loop *s, void *arg)
{
    struct tarn_task *t = arg;

    (void)s;
    t->fn(t);
}

static void sim_loop_post(struct tarn_loop *l, struct tarn_task *t)
{
    tarn_loop_assert_mine(l);
    tarn_sim_event(tarn_sim_of(l), 0, sim_run_task, t);
}

static void sim_loop_timer_first(struct tarn_loop *l)
{
    (void)l; /* each step looks at the timers */
}

static int sim_loop_poll_start(struct tarn_loop *l, int fd, unsigned events, tarn_poll_fn *fn,
                               void *arg, struct tarn_poll **p)
{
    (void)l, (void)fd, (void)events, (void)fn, (void)arg, (void)p;
    return -TARN_E_UNSUPPORTED;
}

static void sim_loop_poll_stop(struct tarn_poll *p)
{
    (void)p;
    TARN_UNREACHABLE("a simulated loop starts none");
}

/* ---- life ------------------------------------------------------------------------------------ */

static void sim_loop_free(struct tarn_loop *l)
{
    struct tarn_sim_loop *s = tarn_sim_of(l);

    while (s->count > 0) { /* the last callbacks of what was closed */
        struct tarn_sim_event e = sim_take(s);

        s->now_ns = e.at_ns;
        e.fn(s, e.arg);
    }
    TARN_ASSERT(tarn_list_empty(&s->listeners));
    tarn_loop_fini(l);
    free(s->heap);
    free(s);
}

static const struct tarn_loop_ops sim_loop_ops = {
    .free = sim_loop_free,
    .run = sim_loop_run,
    .stop = sim_loop_stop,
    .now_ns = sim_loop_now,
    .read_now_ns = sim_loop_now,
    .post = sim_loop_post,
    .timer_first = sim_loop_timer_first,
    .poll_start = sim_loop_poll_start,
    .poll_stop = sim_loop_poll_stop,
    .conn_start = tarn_sim_conn_start,
    .conn_write = tarn_sim_conn_write,
    .conn_queued = tarn_sim_conn_queued,
    .conn_pause = tarn_sim_conn_pause,
    .conn_close = tarn_sim_conn_close,
    .conn_pair = tarn_sim_conn_pair,
    .connect = tarn_sim_connect,
    .connect_cancel = tarn_sim_connect_cancel,
    .listen = tarn_sim_listen,
    .listener_close = tarn_sim_listener_close,
};

static struct tarn_sim_loop *sim_check(struct tarn_loop *l)
{
    TARN_ASSERT(l->magic == TARN_LOOP_MAGIC && l->ops == &sim_loop_ops);
    return tarn_sim_of(l);
}

struct tarn_loop *tarn_loop_sim_new(uint64_t start_ns)
{
    struct tarn_sim_loop *s = tarn_xnew(struct tarn_sim_loop);

    TARN_ASSERT(start_ns > 0);
    tarn_loop_init(&s->base, &sim_loop_ops);
    tarn_list_init(&s->listeners);
    s->now_ns = start_ns;
    s->next_port = SIM_PORT_FIRST;
    tarn_loop_sim_faults(&s->base, 0, 0, 0, 0);
    return &s->base;
}

void tarn_loop_sim_faults(struct tarn_loop *l, uint64_t seed, size_t chunk_max,
                          uint64_t delay_ns_max, uint32_t drop_conn_per_million)
{
    struct tarn_sim_loop *s = sim_check(l);

    tarn_loop_assert_mine(l);
    TARN_ASSERT(delay_ns_max < UINT64_MAX && drop_conn_per_million <= 1000000);
    tarn_rng_seeded_init(&s->rng, seed);
    s->chunk_max = chunk_max ? TARN_MIN(chunk_max, TARN_SIM_READ_BYTES) : 0;
    s->delay_ns_max = delay_ns_max;
    s->drop_per_million = drop_conn_per_million;
}

void tarn_loop_sim_run(struct tarn_loop *l, uint64_t until_ns)
{
    struct tarn_sim_loop *s = sim_check(l);

    tarn_loop_enter(l);
    while (!s->stop && sim_step(s, until_ns))
        continue;
    if (!s->stop)
        s->now_ns = TARN_MAX(s->now_ns, until_ns);
    s->stop = false;
    tarn_loop_leave(l);
}

bool tarn_loop_sim_step(struct tarn_loop *l)
{
    struct tarn_sim_loop *s = sim_check(l);
    bool any;

    tarn_loop_enter(l);
    any = sim_step(s, UINT64_MAX);
    tarn_loop_leave(l);
    return any;
}
