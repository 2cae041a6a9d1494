/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Timers of both loops: a binary heap of pointers to the callers' structs, so that a start or a
 * stop costs O(log n) and no allocation (but for the array, which doubles and never shrinks). A
 * timer knows its place, so that stopping needs no search.
 *
 * A run takes the timers out one by one before it calls them, so that a callback may start and stop
 * any timer, itself included. Timers that start during a run have a later sequence number and wait,
 * so that a timer that restarts itself with delay 0 cannot hold the loop.
 */
#include "lib/base/assert.h"
#include "lib/base/mem.h"
#include "lib/net/net_priv.h"

#define TIMERS_CAP_FIRST 64u

static bool timer_before(const struct tarn_timer *a, const struct tarn_timer *b)
{
    return a->due_ns != b->due_ns ? a->due_ns < b->due_ns : a->seq < b->seq;
}

static void timers_put(struct tarn_timers *h, uint32_t i, struct tarn_timer *t)
{
    h->heap[i] = t;
    t->heap_pos = i + 1;
}

static void timers_up(struct tarn_timers *h, uint32_t i, struct tarn_timer *t)
{
    while (i > 0 && timer_before(t, h->heap[(i - 1) / 2])) {
        timers_put(h, i, h->heap[(i - 1) / 2]);
        i = (i - 1) / 2;
    }
    timers_put(h, i, t);
}

static void timers_down(struct tarn_timers *h, uint32_t i, struct tarn_timer *t)
{
    for (;;) {
        uint32_t child = 2 * i + 1;

        if (child >= h->count)
            break;
        if (child + 1 < h->count && timer_before(h->heap[child + 1], h->heap[child]))
            child++;
        if (!timer_before(h->heap[child], t))
            break;
        timers_put(h, i, h->heap[child]);
        i = child;
    }
    timers_put(h, i, t);
}

static void timers_add(struct tarn_timers *h, struct tarn_timer *t)
{
    if (h->count == h->cap) {
        h->cap = h->cap ? h->cap * 2 : TIMERS_CAP_FIRST;
        h->heap = tarn_xrealloc(h->heap, h->cap * sizeof(struct tarn_timer *));
    }
    timers_up(h, h->count++, t);
}

static void timers_remove(struct tarn_timers *h, struct tarn_timer *t)
{
    uint32_t i = t->heap_pos - 1;
    struct tarn_timer *last;

    TARN_ASSERT(i < h->count && h->heap[i] == t);
    t->heap_pos = 0;
    last = h->heap[--h->count];
    if (last == t)
        return;
    if (i > 0 && timer_before(last, h->heap[(i - 1) / 2]))
        timers_up(h, i, last);
    else
        timers_down(h, i, last);
}

struct tarn_timer *tarn_timers_first(const struct tarn_timers *h)
{
    return h->count ? h->heap[0] : NULL;
}

void tarn_timers_run_first(struct tarn_loop *l)
{
    struct tarn_timer *t = tarn_timers_first(&l->timers);

    TARN_ASSERT(t != NULL);
    timers_remove(&l->timers, t);
    t->fn(t, t->arg);
}

void tarn_timers_run(struct tarn_loop *l, uint64_t now_ns)
{
    uint64_t last_seq = l->seq;

    for (;;) {
        const struct tarn_timer *t = tarn_timers_first(&l->timers);

        if (!t || t->due_ns > now_ns || t->seq > last_seq)
            return;
        tarn_timers_run_first(l);
    }
}

void tarn_timer_start(struct tarn_loop *l, struct tarn_timer *t, uint64_t delay_ns,
                      tarn_timer_fn *fn, void *arg)
{
    uint64_t now = tarn_loop_now_ns(l);

    TARN_ASSERT(fn != NULL);
    tarn_timer_stop(t);
    t->loop = l;
    t->due_ns = delay_ns < UINT64_MAX - now ? now + delay_ns : UINT64_MAX;
    t->seq = ++l->seq;
    t->fn = fn;
    t->arg = arg;
    timers_add(&l->timers, t);
    if (t->heap_pos == 1)
        l->ops->timer_first(l);
}

void tarn_timer_stop(struct tarn_timer *t)
{
    if (!tarn_timer_running(t))
        return;
    tarn_loop_assert_mine(t->loop);
    timers_remove(&t->loop->timers, t);
}

bool tarn_timer_running(const struct tarn_timer *t)
{
    return t->heap_pos != 0;
}
