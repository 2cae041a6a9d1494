/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/lib/base/base_tests.h"

#include <signal.h>
#include <string.h>

#include "lib/base/env.h"
#include "lib/base/mtx.h"

static struct tarn_mtx low, high, equal;

static void init_all(void)
{
    tarn_mtx_init(&low, TARN_RANK_TIER);
    tarn_mtx_init(&high, TARN_RANK_DISK);
    tarn_mtx_init(&equal, TARN_RANK_TIER);
}

static void wrong_order(void)
{
    init_all();
    tarn_mtx_lock(&high);
    tarn_mtx_lock(&low);
}

static void same_rank(void)
{
    init_all();
    tarn_mtx_lock(&low);
    tarn_mtx_lock(&equal);
}

static void twice(void)
{
    init_all();
    tarn_mtx_lock(&low);
    tarn_mtx_lock(&low);
}

static void unlock_free(void)
{
    init_all();
    tarn_mtx_unlock(&low);
}

static void not_held(void)
{
    init_all();
    tarn_mtx_assert_held(&low);
}

static void *lock_low(void *arg)
{
    tarn_mtx_lock(&low);
    return arg;
}

static void held_by_another(void)
{
    pthread_t t;

    init_all();
    (void)pthread_create(&t, NULL, lock_low, NULL);
    (void)pthread_join(t, NULL);
    tarn_mtx_assert_held(&low);
}

static void fini_held(void)
{
    init_all();
    tarn_mtx_lock(&low);
    tarn_mtx_fini(&low);
}

/* Waiting on the outer of two locks would take it again inside the inner one. */
static void wait_on_outer(void)
{
    struct tarn_cond c;

    init_all();
    tarn_cond_init(&c);
    tarn_mtx_lock(&low);
    tarn_mtx_lock(&high);
    (void)tarn_cond_wait_ns(&c, &low, 1000);
}

static void wait_without_lock(void)
{
    struct tarn_cond c;

    init_all();
    tarn_cond_init(&c);
    (void)tarn_cond_wait_ns(&c, &low, 1000);
}

static void test_asserts(void **state)
{
    (void)state;
    assert_true(base_dies(wrong_order));
    assert_true(base_dies(same_rank));
    assert_true(base_dies(twice));
    assert_true(base_dies(unlock_free));
    assert_true(base_dies(not_held));
    assert_true(base_dies(held_by_another));
    assert_true(base_dies(fini_held));
    assert_true(base_dies(wait_on_outer));
    assert_true(base_dies(wait_without_lock));
}

static void good_order(void)
{
    init_all();
    tarn_mtx_lock(&low);
    tarn_mtx_lock(&high);
    tarn_mtx_assert_held(&low);
    tarn_mtx_unlock(&low); /* in another order than they were taken */
    tarn_mtx_unlock(&high);
    tarn_mtx_lock(&low);
    tarn_mtx_lock(&high);
    tarn_mtx_unlock(&high);
    tarn_mtx_unlock(&low);
    {
        TARN_GUARD(&low);
        TARN_GUARD(&high);

        tarn_mtx_assert_held(&low);
        tarn_mtx_assert_held(&high);
    }
    tarn_mtx_fini(&low);
    tarn_mtx_fini(&high);
    tarn_mtx_fini(&equal);
}

static void test_good_order(void **state)
{
    (void)state;
    assert_false(base_dies(good_order));
    good_order();
}

struct counter {
    struct tarn_mtx mtx;   /* of all below */
    struct tarn_cond cond; /* turn changed */
    int turn;              /* who may go on */
    int total;             /* steps */
};

static void *step(struct counter *c, int me)
{
    for (int i = 0; i < 200; i++) {
        TARN_GUARD(&c->mtx);

        while (c->turn != me)
            tarn_cond_wait(&c->cond, &c->mtx);
        c->turn = !me;
        c->total++;
        tarn_cond_broadcast(&c->cond);
    }
    return NULL;
}

static void *step_0(void *arg)
{
    return step(arg, 0);
}

static void *step_1(void *arg)
{
    return step(arg, 1);
}

static void test_cond(void **state)
{
    struct counter c = {.turn = 0};
    pthread_t a, b;

    (void)state;
    tarn_mtx_init(&c.mtx, TARN_RANK_LEAF);
    tarn_cond_init(&c.cond);
    assert_int_equal(tarn_thread_start(&a, "step-0", step_0, &c), 0);
    assert_int_equal(tarn_thread_start(&b, "step-1", step_1, &c), 0);
    assert_int_equal(pthread_join(a, NULL), 0);
    assert_int_equal(pthread_join(b, NULL), 0);
    assert_int_equal(c.total, 400);
    tarn_cond_fini(&c.cond);
    tarn_mtx_fini(&c.mtx);
}

static void test_cond_timeout(void **state)
{
    struct tarn_cond cond;
    struct tarn_mtx m;
    uint64_t start;

    (void)state;
    tarn_mtx_init(&m, TARN_RANK_LEAF);
    tarn_cond_init(&cond);
    tarn_mtx_lock(&m);
    start = tarn_now_ns();
    while (
        tarn_cond_wait_ns(&cond, &m, 5 * TARN_NS_PER_MS)) /* wake-ups without cause are allowed */
        ;
    assert_true(tarn_now_ns() - start >= 5 * TARN_NS_PER_MS);
    tarn_mtx_assert_held(&m);
    tarn_mtx_unlock(&m);
    tarn_cond_fini(&cond);
    tarn_mtx_fini(&m);
}

static void *wake(void *arg)
{
    struct counter *c = arg;
    TARN_GUARD(&c->mtx);

    c->turn = 1;
    tarn_cond_signal(&c->cond);
    return NULL;
}

/* A wait "for ever" is one, though now + UINT64_MAX is in the past. */
static void test_cond_forever(void **state)
{
    struct counter c = {.turn = 0};
    bool timed_out = false;
    pthread_t t;

    (void)state;
    tarn_mtx_init(&c.mtx, TARN_RANK_LEAF);
    tarn_cond_init(&c.cond);
    tarn_mtx_lock(&c.mtx);
    assert_int_equal(tarn_thread_start(&t, "wake", wake, &c), 0);
    while (c.turn == 0 && !timed_out)
        timed_out = !tarn_cond_wait_ns(&c.cond, &c.mtx, UINT64_MAX);
    assert_false(timed_out);
    tarn_mtx_unlock(&c.mtx);
    assert_int_equal(pthread_join(t, NULL), 0);
    tarn_cond_fini(&c.cond);
    tarn_mtx_fini(&c.mtx);
}

static void *look_at_thread(void *arg)
{
    char *name = arg;
    sigset_t set;

    (void)pthread_getname_np(pthread_self(), name, 16);
    (void)pthread_sigmask(SIG_SETMASK, NULL, &set);
    return sigismember(&set, SIGTERM) == 1 && sigismember(&set, SIGUSR1) == 1 ? arg : NULL;
}

static void test_thread_start(void **state)
{
    char name[16] = "";
    void *ok = NULL;
    sigset_t set;
    pthread_t t;

    (void)state;
    assert_int_equal(tarn_thread_start(&t, "tarn-notifier", look_at_thread, name), 0);
    assert_int_equal(pthread_join(t, &ok), 0);
    assert_ptr_equal(ok, name); /* signals were blocked */
    (void)pthread_sigmask(SIG_SETMASK, NULL, &set);
    assert_int_equal(sigismember(&set, SIGTERM), 0); /* and are not here */
}

int base_run_mtx(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_asserts),      cmocka_unit_test(test_good_order),
        cmocka_unit_test(test_cond),         cmocka_unit_test(test_cond_timeout),
        cmocka_unit_test(test_cond_forever), cmocka_unit_test(test_thread_start),
    };

    return cmocka_run_group_tests_name("base/mtx", tests, NULL, NULL);
}
