/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "lib/base/env.h"
#include "tools/progress.h"

#define S  TARN_NS_PER_S
#define T0 (1000 * S) /* when it starts */

static void expect(const struct progress *p, const struct progress_at *at, unsigned width,
                   uint64_t now_ns, const char *want)
{
    struct tarn_str text = {0};

    progress_text(p, at, width, now_ns, &text);
    assert_string_equal(tarn_str_z(&text), want);
    tarn_str_fini(&text);
}

static void test_texts(void **state)
{
    struct progress_at at = {.files = 3};
    struct progress p;

    (void)state;
    progress_init(&p, "load", true, T0);
    expect(&p, &at, 0, T0 + 10 * S, "load  3 files  0 B  0 B/s  after 10.0s");
    at = (struct progress_at){
        .files = 3, .files_total = 12, .bytes = 1 << 20, .bytes_total = 4 << 20};
    progress_feed(&p, &at, T0 + S);
    expect(&p, &at, 0, T0 + S,
           "load  3/12 files  1.0 MiB of 4.0 MiB  1.0 MiB/s  ETA 3.0s  after 1.0s");
    at.failed = 2;
    expect(
        &p, &at, 12, T0 + S,
        "load  [###.........]  25%  3/12 files  1.0 MiB of 4.0 MiB  1.0 MiB/s  ETA 3.0s  2 FAILED");
}

static void test_bar(void **state)
{
    struct progress_at at = {.files = 1, .files_total = 4}; /* files where bytes are not known */
    struct progress p;

    (void)state;
    progress_init(&p, "load", true, T0);
    expect(&p, &at, 1, T0, "load  [##........]  25%  1/4 files  0 B  0 B/s");
    at = (struct progress_at){.files = 4, .files_total = 4, .bytes = 10, .bytes_total = 10};
    expect(&p, &at, 10, T0, "load  [##########] 100%  4/4 files  10 B of 10 B  0 B/s");
    at.bytes = 20; /* more than was announced */
    expect(&p, &at, 10, T0, "load  [##########] 100%  4/4 files  20 B of 10 B  0 B/s");
    at = (struct progress_at){0};
    expect(&p, &at, 10, T0, "load  0 files  0 B  0 B/s");
}

static void test_rate_is_smooth(void **state)
{
    struct progress_at at = {0};
    struct progress p;

    (void)state;
    progress_init(&p, "load", true, T0);
    at.bytes = 100;
    progress_feed(&p, &at, T0 + S / 10); /* too soon to say anything */
    assert_true(p.rate == 0.0);
    for (unsigned i = 1; i <= 10; i++) {
        at.bytes = i * 1000000;
        progress_feed(&p, &at, T0 + i * S);
        assert_true(p.rate > 999000.0 && p.rate < 1001000.0);
    }
    progress_feed(&p, &at, T0 + 11 * S); /* a second without anything: less, but not nothing */
    assert_true(p.rate > 700000.0 && p.rate < 900000.0);
    at.bytes = 0; /* a job that starts over */
    progress_feed(&p, &at, T0 + 12 * S);
    assert_true(p.rate > 0.0 && p.rate < 900000.0);
    for (unsigned i = 0; i < 200; i++)
        progress_feed(&p, &at, T0 + (20 + i) * S);
    assert_true(p.rate < 1.0);
}

static void test_no_estimate_without_ground(void **state)
{
    struct progress_at at = {.files = 1, .files_total = 2, .bytes = 1, .bytes_total = 1ull << 50};
    struct progress p;

    (void)state;
    progress_init(&p, "load", true, T0);
    progress_feed(&p, &at, T0 + S);
    expect(&p, &at, 0, T0 + S, "load  1/2 files  1 B of 1.0 PiB  1 B/s  after 1.0s");
    at.bytes = at.bytes_total;
    p.rate = 1e9;
    expect(&p, &at, 0, T0 + S, "load  1/2 files  1.0 PiB of 1.0 PiB  953.7 MiB/s  after 1.0s");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_texts),
        cmocka_unit_test(test_bar),
        cmocka_unit_test(test_rate_is_smooth),
        cmocka_unit_test(test_no_estimate_without_ground),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
