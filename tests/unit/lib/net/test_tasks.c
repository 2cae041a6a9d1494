/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/lib/net/net_test.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/mtx.h"

#define THREADS  4
#define PER_EACH 20000

struct flood;
struct flood_task {
    struct tarn_task task; /* first */
    struct flood *f;       /* whose */
    unsigned thread;       /* who posted it */
    unsigned nr;           /* as which */
};

struct flood {
    struct tarn_loop *l;      /* where the tasks run */
    unsigned next[THREADS];   /* nr expected of each thread */
    unsigned left;            /* tasks to come */
    pthread_t t[THREADS];     /* the posters */
    _Atomic unsigned started; /* numbers them */
};

static void flood_cb(struct tarn_task *t)
{
    struct flood_task *ft = TARN_CONTAINER(t, struct flood_task, task);
    struct flood *f = ft->f;

    tarn_loop_assert_mine(f->l);
    assert_int_equal(f->next[ft->thread], ft->nr);
    f->next[ft->thread]++;
    free(ft);
    if (--f->left == 0)
        tarn_loop_stop(f->l);
}

static void *flood_thread(void *arg)
{
    struct flood *f = arg;
    unsigned me = atomic_fetch_add(&f->started, 1);

    for (unsigned i = 0; i < PER_EACH; i++) {
        struct flood_task *ft = tarn_xnew(struct flood_task);

        *ft = (struct flood_task){.f = f, .thread = me, .nr = i};
        tarn_loop_post(f->l, &ft->task, flood_cb);
    }
    return NULL;
}

static void test_posts_of_four_threads(void **state)
{
    struct flood f = {.l = *state, .left = THREADS * PER_EACH};

    for (int i = 0; i < THREADS; i++)
        assert_int_equal(tarn_thread_start(&f.t[i], "poster", flood_thread, &f), 0);
    net_run(f.l);
    for (int i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_join(f.t[i], NULL), 0);
        assert_int_equal(f.next[i], PER_EACH);
    }
}

struct own {
    struct tarn_task a, b;  /* posted together */
    struct tarn_timer poll; /* shows that the loop lives */
    struct tarn_loop *l;    /* where */
    unsigned runs;          /* of a */
    unsigned ticks;         /* of poll */
    bool inside;            /* a is in its fn */
    bool b_ran;             /* b ran */
};

static void own_tick(struct tarn_timer *t, void *arg)
{
    struct own *o = arg;

    (void)t;
    o->ticks++;
    if (o->runs > 100)
        tarn_loop_stop(o->l);
    else
        tarn_timer_start(o->l, &o->poll, NET_MS, own_tick, o);
}

static void own_a(struct tarn_task *t)
{
    struct own *o = TARN_CONTAINER(t, struct own, a);

    assert_false(o->inside);
    o->inside = true;
    if (o->runs++ == 0)
        assert_false(o->b_ran); /* first in, first out */
    if (o->ticks == 0 || o->runs <= 100)
        tarn_loop_post(o->l, &o->a, own_a); /* does not hold the loop */
    o->inside = false;
}

static void own_b(struct tarn_task *t)
{
    TARN_CONTAINER(t, struct own, b)->b_ran = true;
}

static void test_own_posts_run_later_in_order(void **state)
{
    struct own o = {.l = *state};

    tarn_loop_post(o.l, &o.a, own_a);
    tarn_loop_post(o.l, &o.b, own_b);
    assert_int_equal(o.runs, 0);
    tarn_timer_start(o.l, &o.poll, NET_MS, own_tick, &o);
    net_run(o.l);
    assert_true(o.b_ran);
    assert_true(o.runs > 100);
    assert_int_equal(o.ticks >= 1, 1);
}

static void own_count(struct tarn_task *t)
{
    TARN_CONTAINER(t, struct own, a)->runs++;
}

static void test_stop_before_run(void **state)
{
    struct own o = {.l = *state};

    tarn_loop_stop(o.l);
    tarn_loop_run(o.l);
    tarn_loop_post(o.l, &o.a, own_count);
    net_run_for(o.l, NET_MS);
    assert_int_equal(o.runs, 1);
}

static void own_again(struct tarn_task *t)
{
    struct own *o = TARN_CONTAINER(t, struct own, a);

    if (++o->runs < 3)
        tarn_loop_post(o->l, &o->a, own_again);
}

static void test_free_runs_what_was_posted(void **state)
{
    struct own o = {.l = NULL};

    assert_int_equal(
        net_is_sim(*state) ? net_setup_sim((void **)&o.l) : net_setup_uv((void **)&o.l), 0);
    tarn_loop_post(o.l, &o.a, own_again);
    assert_int_equal(net_teardown((void **)&o.l), 0);
    assert_int_equal(o.runs, 3);
}

/* A loop on its own thread, started and stopped from here, freed while the poster may still return.
 */
static void *spin_thread(void *arg)
{
    tarn_loop_run(arg);
    return NULL;
}

struct last {
    struct tarn_task task; /* stops the loop */
    struct tarn_loop *l;   /* that */
};

static void last_cb(struct tarn_task *t)
{
    tarn_loop_stop(TARN_CONTAINER(t, struct last, task)->l);
}

static void *last_thread(void *arg)
{
    struct last *x = arg;

    tarn_loop_post(x->l, &x->task, last_cb);
    return NULL;
}

static void test_stop_and_free_beside_a_poster(void **state)
{
    (void)state;
    for (int i = 0; i < 200; i++) {
        struct last x = {0};
        pthread_t loop, poster;

        assert_int_equal(tarn_loop_new(&x.l), 0);
        assert_int_equal(tarn_thread_start(&loop, "loop", spin_thread, x.l), 0);
        assert_int_equal(tarn_thread_start(&poster, "poster", last_thread, &x), 0);
        assert_int_equal(pthread_join(loop, NULL), 0);
        tarn_loop_free(&x.l);
        assert_int_equal(pthread_join(poster, NULL), 0);
    }
}

static void test_stop_from_another_thread(void **state)
{
    struct tarn_loop *l = *state;
    pthread_t loop;

    for (int i = 0; i < 50; i++) {
        assert_int_equal(tarn_thread_start(&loop, "loop", spin_thread, l), 0);
        tarn_loop_stop(l);
        assert_int_equal(pthread_join(loop, NULL), 0);
    }
}

int net_test_tasks(void)
{
    const struct CMUnitTest tests[] = {
        NET_TEST_UV(test_posts_of_four_threads),
        NET_TEST_UV(test_own_posts_run_later_in_order),
        NET_TEST_SIM(test_stop_before_run),
        NET_TEST_UV(test_stop_before_run),
        NET_TEST_BOTH(test_free_runs_what_was_posted),
        NET_TEST_UV(test_stop_from_another_thread),
        cmocka_unit_test(test_stop_and_free_beside_a_poster),
    };

    return cmocka_run_group_tests_name("tasks", tests, NULL, NULL);
}
