/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/lib/base/base_tests.h"

#include <stdbool.h>
#include <string.h>

#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/base/units.h"

struct parse_row {
    const char *text; /* input */
    int rc;           /* expected, without the sign */
    uint64_t v;       /* expected when rc is 0 */
};

static void check_rows(const char *what, int (*parse)(const char *s, uint64_t *ret),
                       const struct parse_row *rows, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint64_t v = 0x5555;
        int rc = parse(rows[i].text, &v);

        if (rc != -rows[i].rc || v != (rc == 0 ? rows[i].v : 0x5555))
            fail_msg("%s(\"%s\"): rc=%d v=%llu", what, rows[i].text, rc, (unsigned long long)v);
    }
}

#define INV TARN_E_INVALID
#define BIG TARN_E_TOO_BIG

static void test_size(void **state)
{
    static const struct parse_row rows[] = {
        {"0", 0, 0},
        {"4096", 0, 4096},
        {"1B", 0, 1},
        {"64KiB", 0, 65536},
        {"64k", 0, 65536},
        {"64 KiB", 0, 65536},
        {"10GiB", 0, 10ULL << 30},
        {"1.5G", 0, 3ULL << 29},
        {"0.001KB", 0, 1},
        {"1KB", 0, 1000},
        {"2mb", 0, 2000000},
        {"3TB", 0, 3000000000000ULL},
        {"1PiB", 0, 1ULL << 50},
        {"5PB", 0, 5000000000000000ULL},
        {"18446744073709551615", 0, UINT64_MAX},
        {"18446744073709551610", 0, UINT64_MAX - 5},
        {"16383PiB", 0, 16383ULL << 50},
        {"16384PiB", BIG, 0},
        {"18446744073709551616", BIG, 0},
        {"99999999999999999999999", BIG, 0},
        {"18446744073709551615K", BIG, 0},
        {"", INV, 0},
        {" 1", INV, 0},
        {"-1", INV, 0},
        {"+1", INV, 0},
        {".5G", INV, 0},
        {"1.", INV, 0},
        {"1.G", INV, 0},
        {"1.5", INV, 0},
        {"1.5B", INV, 0},
        {"1..5G", INV, 0},
        {"1,5G", INV, 0},
        {"K", INV, 0},
        {"1KKiB", INV, 0},
        {"1Ki", INV, 0},
        {"1GiBs", INV, 0},
        {"1G/s", INV, 0},
        {"0x10", INV, 0},
        {"1e3", INV, 0},
        {"1KiBKiBKiB", INV, 0},
        {"1\n", INV, 0},
        {"unlimited", INV, 0},
    };

    (void)state;
    check_rows("size", tarn_parse_size, rows, TARN_ARRAY_LEN(rows));
}

static void test_rate(void **state)
{
    static const struct parse_row rows[] = {
        {"200MiB/s", 0, 200ULL << 20},
        {"1/s", 0, 1},
        {"1.5 GiB/s", 0, 3ULL << 29},
        {"200MiB", INV, 0},
        {"/s", INV, 0},
        {"1MiB/m", INV, 0},
        {"1MiB/s/s", INV, 0},
        {"1 s", INV, 0},
        {"16384PiB/s", BIG, 0},
    };

    (void)state;
    check_rows("rate", tarn_parse_rate, rows, TARN_ARRAY_LEN(rows));
}

static void test_duration(void **state)
{
    static const struct parse_row rows[] = {
        {"0", 0, 0},
        {"0s", 0, 0},
        {"1ns", 0, 1},
        {"2us", 0, 2000},
        {"500ms", 0, 500000000},
        {"30s", 0, 30000000000ULL},
        {"0.5s", 0, 500000000},
        {"1.000000001s", 0, 1000000001ULL},
        {"5m", 0, 300000000000ULL},
        {"5min", 0, 300000000000ULL},
        {"2h", 0, 7200000000000ULL},
        {"1d", 0, 86400000000000ULL},
        {"213503d", 0, 213503ULL * 86400 * 1000000000},
        {"213504d", BIG, 0},
        {"30", INV, 0},
        {"", INV, 0},
        {"s", INV, 0},
        {"1S", INV, 0},
        {"1 s", INV, 0},
        {"1h30m", INV, 0},
        {"-1s", INV, 0},
        {"1w", INV, 0},
        {"forever", INV, 0},
    };

    (void)state;
    check_rows("duration", tarn_parse_duration, rows, TARN_ARRAY_LEN(rows));
}

static void test_u64(void **state)
{
    static const struct parse_row rows[] = {
        {"0", 0, 0},
        {"007", 0, 7},
        {"18446744073709551615", 0, UINT64_MAX},
        {"18446744073709551616", BIG, 0},
        {"28446744073709551615", BIG, 0},
        {"", INV, 0},
        {"1.0", INV, 0},
        {"1.5", INV, 0},
        {"1.00000000009", INV, 0},
        {"1K", INV, 0},
        {"-1", INV, 0},
        {" 1", INV, 0},
        {"1 ", INV, 0},
        {"0x1", INV, 0},
    };

    (void)state;
    check_rows("u64", tarn_parse_u64, rows, TARN_ARRAY_LEN(rows));
}

static int parse_percent(const char *s, uint64_t *ret)
{
    uint32_t bp;
    int rc = tarn_parse_percent(s, &bp);

    if (rc == 0)
        *ret = bp;
    return rc;
}

static int parse_bool(const char *s, uint64_t *ret)
{
    int v;
    int rc = tarn_parse_bool(s, &v);

    if (rc == 0)
        *ret = (uint64_t)v;
    return rc;
}

static void test_percent(void **state)
{
    static const struct parse_row rows[] = {
        {"95%", 0, 9500},
        {"0%", 0, 0},
        {"100%", 0, 10000},
        {"12.34%", 0, 1234},
        {"0.95", 0, 9500},
        {"0", 0, 0},
        {"1", 0, 10000},
        {"0.00005", 0, 0},
        {"100.01%", INV, 0},
        {"1.01", INV, 0},
        {"95", INV, 0},
        {"%", INV, 0},
        {"", INV, 0},
        {"-1%", INV, 0},
        {"5%%", INV, 0},
        {"99999999999999999999%", BIG, 0},
        {"9999999999%", INV, 0},
    };

    (void)state;
    check_rows("percent", parse_percent, rows, TARN_ARRAY_LEN(rows));
}

static void test_bool(void **state)
{
    static const struct parse_row rows[] = {
        {"true", 0, 1},  {"YES", 0, 1},    {"on", 0, 1},  {"1", 0, 1},
        {"false", 0, 0}, {"No", 0, 0},     {"off", 0, 0}, {"0", 0, 0},
        {"", INV, 0},    {"yess", INV, 0}, {"2", INV, 0}, {" on", INV, 0},
    };

    (void)state;
    check_rows("bool", parse_bool, rows, TARN_ARRAY_LEN(rows));
}

static void test_format_size(void **state)
{
    static const struct {
        uint64_t v;
        const char *text;
    } rows[] = {
        {0, "0 B"},
        {1023, "1023 B"},
        {1024, "1.0 KiB"},
        {1536, "1.5 KiB"},
        {1048524, "1023.9 KiB"},
        {1048575, "1.0 MiB"},
        {1048576, "1.0 MiB"},
        {10ULL << 30, "10.0 GiB"},
        {(1ULL << 40) - 1, "1.0 TiB"},
        {3ULL << 49, "1.5 PiB"},
        {1ULL << 60, "1.0 EiB"},
        {UINT64_MAX, "16.0 EiB"},
    };
    char buf[32];

    (void)state;
    for (size_t i = 0; i < TARN_ARRAY_LEN(rows); i++)
        assert_string_equal(tarn_format_size(rows[i].v, buf), rows[i].text);
}

static void test_format_duration(void **state)
{
    static const struct {
        uint64_t v;
        const char *text;
    } rows[] = {
        {0, "0ms"},
        {999999, "0ms"},
        {35000000, "35ms"},
        {999999999, "999ms"},
        {1200000000, "1.2s"},
        {59999999999ULL, "59.9s"},
        {61000000000ULL, "1m01s"},
        {7800000000000ULL, "2h10m"},
        {UINT64_MAX, "5124095h34m"},
    };
    char buf[32];

    (void)state;
    for (size_t i = 0; i < TARN_ARRAY_LEN(rows); i++)
        assert_string_equal(tarn_format_duration(rows[i].v, buf), rows[i].text);
}

static void test_format_time(void **state)
{
    char buf[32];

    (void)state;
    assert_string_equal(tarn_format_time(0, buf), "1970-01-01T00:00:00Z");
    assert_string_equal(tarn_format_time(1795310625999999999, buf), "2026-11-22T01:23:45Z");
    assert_string_equal(tarn_format_time(1709210096000000000, buf), "2024-02-29T12:34:56Z");
    assert_string_equal(tarn_format_time(-1000000000, buf), "1969-12-31T23:59:59Z");
    assert_string_equal(tarn_format_time(-1, buf), "1969-12-31T23:59:59Z");
}

int base_run_units(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_size),        cmocka_unit_test(test_rate),
        cmocka_unit_test(test_duration),    cmocka_unit_test(test_u64),
        cmocka_unit_test(test_percent),     cmocka_unit_test(test_bool),
        cmocka_unit_test(test_format_size), cmocka_unit_test(test_format_duration),
        cmocka_unit_test(test_format_time),
    };

    return cmocka_run_group_tests_name("base/units", tests, NULL, NULL);
}
