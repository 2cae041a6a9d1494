/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/lib/net/net_test.h"

#include <stdlib.h>
#include <unistd.h>

#define MANY 5000

struct many {
    struct tarn_loop *l;        /* stopped by the last */
    struct tarn_timer t[MANY];  /* all of them */
    struct tarn_timer *last;    /* that fired */
    unsigned left;              /* to fire */
    struct tarn_rng_seeded rng; /* choices */
};

static void many_cb(struct tarn_timer *t, void *arg)
{
    struct many *m = arg;

    assert_false(tarn_timer_running(t));
    assert_true(tarn_loop_now_ns(m->l) >= t->due_ns);
    if (m->last) {
        assert_true(m->last->due_ns <= t->due_ns);
        if (m->last->due_ns == t->due_ns)
            assert_true(m->last->seq < t->seq);
    }
    m->last = t;
    if (--m->left == 0)
        tarn_loop_stop(m->l);
}

static void test_thousands_in_order(void **state)
{
    struct many *m = tarn_xnew(struct many);

    m->l = *state;
    tarn_rng_seeded_init(&m->rng, 1);
    for (unsigned i = 0; i < MANY; i++) {
        uint64_t ms = tarn_rng_below(&m->rng.base, 30);

        tarn_timer_start(m->l, &m->t[i], ms * NET_MS, many_cb, m);
    }
    m->left = MANY;
    for (unsigned i = 0; i < MANY; i += 3) { /* a third stops, a third of these starts again */
        tarn_timer_stop(&m->t[i]);
        tarn_timer_stop(&m->t[i]);
        assert_false(tarn_timer_running(&m->t[i]));
        m->left--;
        if (i % 9 == 0) {
            tarn_timer_start(m->l, &m->t[i], 5 * NET_MS, many_cb, m);
            m->left++;
        }
    }
    net_run(m->l);
    assert_int_equal(m->left, 0);
    for (unsigned i = 0; i < MANY; i++)
        assert_false(tarn_timer_running(&m->t[i]));
    free(m);
}

struct trio {
    struct tarn_timer t[3]; /* started together */
    struct tarn_loop *l;    /* where */
    unsigned fired[3];      /* how often */
    unsigned again;         /* restarts left */
};

static void trio_first(struct tarn_timer *t, void *arg)
{
    struct trio *r = arg;

    (void)t;
    r->fired[0]++;
    tarn_timer_stop(&r->t[0]); /* itself: not running, nothing happens */
    tarn_timer_stop(&r->t[1]); /* due at the same time */
}

static void trio_never(struct tarn_timer *t, void *arg)
{
    (void)t;
    ((struct trio *)arg)->fired[1]++;
}

static void trio_again(struct tarn_timer *t, void *arg)
{
    struct trio *r = arg;

    r->fired[2]++;
    if (r->again-- > 0)
        tarn_timer_start(r->l, t, 0, trio_again, r);
    else
        tarn_loop_stop(r->l);
}

static void test_stop_and_restart_in_callbacks(void **state)
{
    struct trio r = {.l = *state, .again = 50};

    tarn_timer_start(r.l, &r.t[0], NET_MS, trio_first, &r);
    r.t[1].due_ns = 0;
    tarn_timer_start(r.l, &r.t[1], NET_MS, trio_never, &r);
    tarn_timer_start(r.l, &r.t[2], 2 * NET_MS, trio_again, &r);
    net_run(r.l);
    assert_int_equal(r.fired[0], 1);
    assert_int_equal(r.fired[2], 51);
    if (net_is_sim(r.l))
        assert_int_equal(r.fired[1], 0); /* virtual time: both were due together */
}

static void test_stop_of_one_due_together(void **state)
{
    struct tarn_loop *l = *state;
    struct trio r = {.l = l};

    /* Both are due in the past, so one run of the heap takes them. */
    tarn_timer_start(l, &r.t[0], 0, trio_first, &r);
    tarn_timer_start(l, &r.t[1], 0, trio_never, &r);
    net_run_for(l, 3 * NET_MS);
    assert_int_equal(r.fired[0], 1);
    assert_int_equal(r.fired[1], 0);
}

static void test_restart_moves(void **state)
{
    struct tarn_loop *l = *state;
    struct trio r = {.l = l};

    tarn_timer_start(l, &r.t[1], NET_MS, trio_never, &r);
    tarn_timer_start(l, &r.t[1], 3600 * TARN_NS_PER_S, trio_never, &r); /* later */
    tarn_timer_start(l, &r.t[0], UINT64_MAX, trio_first, &r);
    tarn_timer_start(l, &r.t[0], 2 * NET_MS, trio_first, &r); /* earlier */
    net_run_for(l, 10 * NET_MS);
    assert_int_equal(r.fired[0], 1);
    assert_int_equal(r.fired[1], 0);
    assert_false(tarn_timer_running(&r.t[1])); /* the first one stopped it */
}

static void test_time_advances(void **state)
{
    struct tarn_loop *l = *state;
    uint64_t before = tarn_loop_now_ns(l);

    net_run_for(l, 5 * NET_MS);
    assert_true(tarn_loop_now_ns(l) >= before + 5 * NET_MS);
    if (net_is_sim(l))
        assert_int_equal(tarn_loop_now_ns(l), before + 5 * NET_MS);
}

static void slow_turn(struct tarn_timer *t, void *arg)
{
    struct tarn_loop *l = t->loop;
    uint64_t before = tarn_loop_now_ns(l), ms = net_is_sim(l) ? 0 : 3 * NET_MS;

    usleep((useconds_t)(ms / 1000));
    assert_int_equal(tarn_loop_now_ns(l), before);
    assert_true(tarn_loop_read_now_ns(l) >= before + ms);
    assert_true(tarn_loop_now_ns(l) >= before + ms);
    *(bool *)arg = true;
}

/* One time in a turn, unless it is read anew. */
static void test_time_of_a_turn(void **state)
{
    struct tarn_loop *l = *state;
    struct tarn_timer t = {0};
    bool ran = false;

    tarn_timer_start(l, &t, 1, slow_turn, &ran);
    net_run_for(l, 5 * NET_MS);
    assert_true(ran);
}

int net_test_timers(void)
{
    const struct CMUnitTest tests[] = {
        NET_TEST_UV(test_thousands_in_order),
        NET_TEST_SIM(test_thousands_in_order),
        NET_TEST_UV(test_stop_and_restart_in_callbacks),
        NET_TEST_SIM(test_stop_and_restart_in_callbacks),
        NET_TEST_SIM(test_stop_of_one_due_together),
        NET_TEST_UV(test_restart_moves),
        NET_TEST_SIM(test_restart_moves),
        NET_TEST_UV(test_time_advances),
        NET_TEST_SIM(test_time_advances),
        NET_TEST_UV(test_time_of_a_turn),
        NET_TEST_SIM(test_time_of_a_turn),
    };

    return cmocka_run_group_tests_name("timers", tests, NULL, NULL);
}
