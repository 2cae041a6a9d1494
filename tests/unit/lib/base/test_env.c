/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/lib/base/base_tests.h"

#include <string.h>

#include "lib/base/env.h"
#include "lib/base/mem.h"

static void test_clock_system(void **state)
{
    struct tarn_clock *c = tarn_clock_system();
    uint64_t a = c->mono_ns(c), b = tarn_now_ns();

    (void)state;
    assert_true(b >= a);
    assert_true(c->real_ns(c) > 1600000000LL * 1000000000);
}

static void test_clock_fake(void **state)
{
    struct tarn_clock_fake fake;
    struct tarn_clock *c = &fake.base;
    uint64_t start;

    (void)state;
    tarn_clock_fake_init(&fake, 5000);
    start = c->mono_ns(c);
    assert_true(start > 0); /* 0 often means "never" */
    assert_int_equal(c->mono_ns(c), start);
    assert_int_equal(c->real_ns(c), 5000);
    tarn_clock_fake_advance(&fake, TARN_NS_PER_S);
    assert_int_equal(c->mono_ns(c), start + TARN_NS_PER_S);
    assert_int_equal(c->real_ns(c), 5000 + TARN_NS_PER_S);
}

/* The published generator, started from the state {1, 2, 3, 4}. */
static void test_rng_vector(void **state)
{
    static const uint64_t expected[] = {11520,
                                        0,
                                        1509978240,
                                        1215971899390074240ULL,
                                        1216172134540287360ULL,
                                        607988272756665600ULL,
                                        16172922978634559625ULL,
                                        8476171486693032832ULL};
    struct tarn_rng_seeded r;

    (void)state;
    tarn_rng_seeded_init(&r, 0);
    for (uint64_t i = 0; i < 4; i++)
        r.s[i] = i + 1;
    for (size_t i = 0; i < TARN_ARRAY_LEN(expected); i++)
        assert_int_equal(tarn_rng_u64(&r.base), expected[i]);
}

static void test_rng_seeded(void **state)
{
    struct tarn_rng_seeded a, b, c;
    uint8_t bytes[13], again[13];

    (void)state;
    tarn_rng_seeded_init(&a, 42);
    tarn_rng_seeded_init(&b, 42);
    tarn_rng_seeded_init(&c, 43);
    for (int i = 0; i < 100; i++)
        assert_int_equal(tarn_rng_u64(&a.base), tarn_rng_u64(&b.base));
    assert_true(tarn_rng_u64(&a.base) != tarn_rng_u64(&c.base));
    (void)tarn_rng_u64(&b.base);
    a.base.fill(&a.base, bytes, sizeof(bytes));
    b.base.fill(&b.base, again, sizeof(again));
    assert_memory_equal(bytes, again, sizeof(bytes));
}

static void test_rng_below(void **state)
{
    struct tarn_rng_seeded r;
    unsigned hits[7] = {0};

    (void)state;
    tarn_rng_seeded_init(&r, 1);
    for (int i = 0; i < 70000; i++)
        hits[tarn_rng_below(&r.base, 7)]++;
    for (size_t i = 0; i < TARN_ARRAY_LEN(hits); i++)
        assert_in_range(hits[i], 9500, 10500);
    for (int i = 0; i < 100; i++) {
        assert_int_equal(tarn_rng_below(&r.base, 1), 0);
        assert_true(tarn_rng_below(&r.base, UINT64_MAX) < UINT64_MAX);
        assert_true(tarn_rng_below(&r.base, (1ULL << 63) + 1) <= 1ULL << 63);
    }
}

static void rng_below_zero(void)
{
    (void)tarn_rng_below(tarn_rng_system(), 0);
}

static void test_rng_system(void **state)
{
    struct tarn_rng *r = tarn_rng_system();
    uint8_t a[1000], b[1000];

    (void)state;
    r->fill(r, a, sizeof(a));
    r->fill(r, b, sizeof(b));
    assert_memory_not_equal(a, b, sizeof(a));
    r->fill(r, a, 0);
    assert_true(base_dies(rng_below_zero));
}

int base_run_env(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_clock_system), cmocka_unit_test(test_clock_fake),
        cmocka_unit_test(test_rng_vector),   cmocka_unit_test(test_rng_seeded),
        cmocka_unit_test(test_rng_below),    cmocka_unit_test(test_rng_system),
    };

    return cmocka_run_group_tests_name("base/env", tests, NULL, NULL);
}
