/* SPDX-License-Identifier: Apache-2.0 */
/* Counting from many threads, buckets, labels and the text of a scrape. */
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "lib/base/mtx.h"
#include "lib/base/str.h"
#include "lib/stat/stat.h"

enum test_stat {
#define TARN_STAT(kind, name, labels, unit, help) TEST_STAT_##name,
#include "tests/unit/lib/stat/test_stats.def"
#undef TARN_STAT
};

static const struct tarn_stat_row rows[] = {
#define TARN_STAT TARN_STAT_ROW
#include "tests/unit/lib/stat/test_stats.def"
#undef TARN_STAT
};
static const struct tarn_stat_table table = TARN_STAT_TABLE("Test", rows);

#define US  1000ULL
#define SEC 1000000000ULL

static void test_values(void **state)
{
    struct tarn_stats *s = tarn_stats_new(&table, "");

    (void)state;
    tarn_stats_add(s, TEST_STAT_read_bytes, 2, 100);
    tarn_stats_inc(s, TEST_STAT_read_bytes, 2);
    assert_int_equal(tarn_stats_get(s, TEST_STAT_read_bytes, 2), 101);
    assert_int_equal(tarn_stats_get(s, TEST_STAT_read_bytes, 0), 0);
    tarn_stats_set(s, TEST_STAT_open_files, 0, 5);
    tarn_stats_sub(s, TEST_STAT_open_files, 0, 7);
    tarn_stats_add(s, TEST_STAT_open_files, 0, 1);
    assert_int_equal((int64_t)tarn_stats_get(s, TEST_STAT_open_files, 0), -1);
    assert_int_equal(tarn_stats_label(s, TEST_STAT_read_bytes, 0, "ufs"), 2);
    assert_int_equal(tarn_stats_label(s, TEST_STAT_read_bytes, 0, "tape"), -1);
    assert_int_equal(tarn_stats_label(s, TEST_STAT_op_seconds, 1, "no"), 1);
    tarn_stats_free(&s);
    assert_null(s);
    tarn_stats_free(&s);
}

/* Each triple of places has its own series, and the last one is the row's last cell. */
static void test_series(void **state)
{
    struct tarn_stats *s = tarn_stats_new(&table, "");
    unsigned want = 0;

    (void)state;
    for (unsigned a = 0; a < 2; a++)
        for (unsigned b = 0; b < 3; b++)
            for (unsigned c = 0; c < 2; c++)
                assert_int_equal(tarn_stats_series(s, TEST_STAT_cube, a, b, c), want++);
    assert_int_equal(tarn_stats_series(s, TEST_STAT_op_seconds, 1, 0, 0), 2);
    tarn_stats_free(&s);
}

static const struct {
    uint64_t ns;
    size_t bucket;
} observed[] = {
    {0, 0},         {US, 0},        {US + 1, 1},        {2 * US, 1},
    {5 * US, 2},    {1000 * US, 9}, {SEC, 18},          {SEC + 1, 19},
    {20 * SEC, 22}, {60 * SEC, 23}, {60 * SEC + 1, 24}, {UINT64_MAX / 4, 24},
};

static void test_buckets(void **state)
{
    struct tarn_stat_hist h;

    (void)state;
    for (size_t i = 0; i < sizeof(observed) / sizeof(observed[0]); i++) {
        struct tarn_stats *s = tarn_stats_new(&table, "");

        tarn_stats_observe_ns(s, TEST_STAT_op_seconds, 3, observed[i].ns);
        tarn_stats_hist(s, TEST_STAT_op_seconds, 3, &h);
        assert_int_equal(h.count, 1);
        assert_int_equal(h.sum_ns, observed[i].ns);
        assert_int_equal(h.buckets[observed[i].bucket], 1);
        tarn_stats_free(&s);
    }
}

static void test_quantile(void **state)
{
    struct tarn_stats *s = tarn_stats_new(&table, "");
    struct tarn_stat_hist h;

    (void)state;
    tarn_stats_hist(s, TEST_STAT_op_seconds, 0, &h);
    assert_int_equal(tarn_stat_hist_quantile(&h, 0.5), 0);
    for (int i = 0; i < 99; i++)
        tarn_stats_observe_ns(s, TEST_STAT_op_seconds, 0, 3 * US);
    tarn_stats_observe_ns(s, TEST_STAT_op_seconds, 0, SEC);
    tarn_stats_hist(s, TEST_STAT_op_seconds, 0, &h);
    assert_int_equal(tarn_stat_hist_quantile(&h, 0.0), 5 * US);
    assert_int_equal(tarn_stat_hist_quantile(&h, 0.99), 5 * US);
    assert_int_equal(tarn_stat_hist_quantile(&h, 1.0), SEC);
    tarn_stats_free(&s);
}

#define THREADS 8
#define ROUNDS  20000

static void *counting_main(void *arg)
{
    struct tarn_stats *s = arg;

    for (unsigned i = 0; i < ROUNDS; i++) {
        tarn_stats_inc(s, TEST_STAT_read_bytes, i % 3);
        tarn_stats_observe_ns(s, TEST_STAT_op_seconds, i % 4, 7 * US);
        tarn_stats_add(s, TEST_STAT_open_files, 0, 2);
        tarn_stats_sub(s, TEST_STAT_open_files, 0, 1);
    }
    return NULL;
}

/* Nothing is lost, and scrapes meanwhile are harmless. */
static void test_threads(void **state)
{
    struct tarn_stats *s = tarn_stats_new(&table, "");
    struct tarn_stat_reg *r = tarn_stat_reg_new();
    struct tarn_str out = {0};
    pthread_t threads[THREADS];
    uint64_t bytes = 0, ops = 0;

    (void)state;
    tarn_stat_reg_add(r, s);
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(tarn_thread_start(&threads[i], "count", counting_main, s), 0);
    for (int i = 0; i < 20; i++) {
        tarn_str_reset(&out);
        tarn_stat_reg_scrape(r, &out);
    }
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    for (unsigned i = 0; i < 3; i++)
        bytes += tarn_stats_get(s, TEST_STAT_read_bytes, i);
    for (unsigned i = 0; i < 4; i++)
        ops += tarn_stats_get(s, TEST_STAT_op_seconds, i);
    assert_int_equal(bytes, THREADS * ROUNDS);
    assert_int_equal(ops, THREADS * ROUNDS);
    assert_int_equal(tarn_stats_get(s, TEST_STAT_open_files, 0), THREADS * ROUNDS);
    tarn_str_fini(&out);
    tarn_stat_reg_free(&r);
    tarn_stats_free(&s);
}

static const char *scrape(struct tarn_stat_reg *r, struct tarn_str *out)
{
    tarn_str_reset(out);
    tarn_stat_reg_scrape(r, out);
    return tarn_str_z(out);
}

static unsigned occurrences(const char *text, const char *what)
{
    unsigned n = 0;

    for (; (text = strstr(text, what)); text++)
        n++;
    return n;
}

static void test_text(void **state)
{
    struct tarn_stats *s = tarn_stats_new(&table, "role=worker;zone=a\"b");
    struct tarn_stat_reg *r = tarn_stat_reg_new();
    struct tarn_str out = {0};
    const char *text;

    (void)state;
    tarn_stat_reg_add(r, s);
    tarn_stats_add(s, TEST_STAT_read_bytes, 1, 18446744073709551615ULL);
    tarn_stats_set(s, TEST_STAT_open_files, 0, -3);
    tarn_stats_observe_ns(s, TEST_STAT_op_seconds, 1, 1500000000);
    text = scrape(r, &out);
    assert_non_null(strstr(
        text, "# HELP tarn_read_bytes_total Bytes read.\n# TYPE tarn_read_bytes_total counter\n"
              "tarn_read_bytes_total{role=\"worker\",zone=\"a\\\"b\",source=\"local\"} 0\n"
              "tarn_read_bytes_total{role=\"worker\",zone=\"a\\\"b\",source=\"remote\"} "
              "18446744073709551615\n"));
    assert_non_null(strstr(text, "# HELP tarn_ops_total Calls with a \\\\ and a\\nline.\n"));
    assert_non_null(strstr(
        text,
        "# TYPE tarn_open_files gauge\ntarn_open_files{role=\"worker\",zone=\"a\\\"b\"} -3\n"));
    assert_non_null(strstr(text, "op=\"read\",ok=\"no\",le=\"1\"} 0\n"));
    assert_non_null(strstr(text, "op=\"read\",ok=\"no\",le=\"2\"} 1\n"));
    assert_non_null(strstr(text, "op=\"read\",ok=\"no\",le=\"+Inf\"} 1\n"));
    assert_non_null(strstr(text, "op=\"read\",ok=\"no\"} 1.500000000\n"));
    assert_non_null(strstr(
        text, "tarn_op_seconds_count{role=\"worker\",zone=\"a\\\"b\",op=\"read\",ok=\"no\"} 1\n"));
    assert_int_equal(occurrences(text, "tarn_op_seconds_bucket"), 4 * TARN_STAT_BUCKETS);
    assert_int_equal(occurrences(text, "# TYPE"), 5);
    tarn_stat_reg_free(&r);
    tarn_stats_free(&s);
    tarn_str_fini(&out);
}

/* Two instances of a module are summed; with labels of their own they stay apart. */
static void test_several_sets(void **state)
{
    struct tarn_stats *a = tarn_stats_new(&table, ""), *b = tarn_stats_new(&table, ""),
                      *c = tarn_stats_new(&table, "role=x");
    struct tarn_stat_reg *r = tarn_stat_reg_new();
    struct tarn_str out = {0};

    (void)state;
    tarn_stat_reg_add(r, a);
    tarn_stat_reg_add(r, b);
    tarn_stat_reg_add(r, c);
    tarn_stats_add(a, TEST_STAT_ops, 0, 1);
    tarn_stats_add(b, TEST_STAT_ops, 0, 2);
    tarn_stats_add(c, TEST_STAT_ops, 0, 4);
    tarn_stats_observe_ns(a, TEST_STAT_op_seconds, 0, 1);
    tarn_stats_observe_ns(b, TEST_STAT_op_seconds, 0, 1);
    assert_non_null(
        strstr(scrape(r, &out), "counter\ntarn_ops_total 3\ntarn_ops_total{role=\"x\"} 4\n"));
    assert_non_null(strstr(tarn_str_z(&out), "tarn_op_seconds_count{op=\"read\",ok=\"yes\"} 2\n"));
    assert_int_equal(occurrences(tarn_str_z(&out), "# TYPE tarn_ops_total"), 1);
    tarn_stat_reg_remove(r, a);
    assert_non_null(strstr(scrape(r, &out), "\ntarn_ops_total 2\n"));
    tarn_stat_reg_free(&r);
    tarn_stats_free(&a);
    tarn_stats_free(&b);
    tarn_stats_free(&c);
    tarn_str_fini(&out);
}

static double callback_value(void *arg)
{
    struct tarn_mtx m;
    double v = *(double *)arg;

    tarn_mtx_init(&m, TARN_RANK_FUSE_NODE); /* a callback may take any lock */
    tarn_mtx_lock(&m);
    tarn_mtx_unlock(&m);
    tarn_mtx_fini(&m);
    return v;
}

static void test_callbacks(void **state)
{
    double used = 1e15 + 1, free_bytes = nan("");
    struct tarn_stat_callback cb = {TARN_STAT_GAUGE, "cache_used_bytes",
                                    "Bytes in use.", {{"medium", "MEM"}, {"path", "/a\\b\n\"c\""}},
                                    callback_value,  &used};
    struct tarn_stat_reg *r = tarn_stat_reg_new();
    struct tarn_stat_handle *h1 = tarn_stat_reg_callback(r, &cb), *h2;
    struct tarn_str out = {0};

    (void)state;
    cb.labels[0].value = "SSD";
    cb.labels[1].key = NULL;
    cb.arg = &free_bytes;
    h2 = tarn_stat_reg_callback(r, &cb);
    assert_string_equal(
        scrape(r, &out),
        "# HELP tarn_cache_used_bytes Bytes in use.\n# TYPE tarn_cache_used_bytes gauge\n"
        "tarn_cache_used_bytes{medium=\"MEM\",path=\"/a\\\\b\\n\\\"c\\\"\"} 1000000000000001\n"
        "tarn_cache_used_bytes{medium=\"SSD\"} NaN\n");
    tarn_stat_reg_drop(r, &h1);
    assert_null(h1);
    assert_null(strstr(scrape(r, &out), "MEM"));
    tarn_stat_reg_drop(r, &h2);
    assert_string_equal(scrape(r, &out), "");
    h1 = tarn_stat_reg_callback(r, &cb);
    tarn_stat_reg_free(&r); /* with a callback in it */
    tarn_str_fini(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),       cmocka_unit_test(test_series),
        cmocka_unit_test(test_buckets),      cmocka_unit_test(test_quantile),
        cmocka_unit_test(test_threads),      cmocka_unit_test(test_text),
        cmocka_unit_test(test_several_sets), cmocka_unit_test(test_callbacks),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
