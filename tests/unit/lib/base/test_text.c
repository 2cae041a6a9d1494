/* SPDX-License-Identifier: Apache-2.0 */
/* Strings, names and paths. */
#include "tests/unit/lib/base/base_tests.h"

#include <stdlib.h>
#include <string.h>

#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/base/name.h"
#include "lib/base/str.h"

static void test_str_empty(void **state)
{
    struct tarn_str s = {0};
    char *p;

    (void)state;
    assert_string_equal(tarn_str_z(&s), "");
    tarn_str_reset(&s);
    assert_null(s.p);
    p = tarn_str_detach(&s);
    assert_string_equal(p, "");
    free(p);
    tarn_str_add(&s, NULL, 0);
    assert_int_equal(s.len, 0);
    assert_string_equal(tarn_str_z(&s), "");
    tarn_str_fini(&s);
    tarn_str_fini(&s);
    assert_null(s.p);
}

static void test_str_build(void **state)
{
    struct tarn_str s = {0};
    char *p;

    (void)state;
    tarn_str_adds(&s, "ab");
    tarn_str_addc(&s, 'c');
    tarn_str_addf(&s, "-%d-%s", 42, "x");
    tarn_str_add(&s, "\0y", 2);
    assert_int_equal(s.len, 10);
    assert_memory_equal(s.p, "abc-42-x\0y", 11);
    tarn_str_reset(&s);
    assert_string_equal(tarn_str_z(&s), "");
    tarn_str_adds(&s, "again");
    p = tarn_str_detach(&s);
    assert_null(s.p);
    assert_int_equal(s.len + s.cap, 0);
    assert_string_equal(p, "again");
    free(p);
}

static void test_str_grow(void **state)
{
    struct tarn_str s = {0};

    (void)state;
    for (int i = 0; i < 5000; i++) {
        tarn_str_addf(&s, "%03d", i % 1000);
        assert_true(s.cap > s.len);
    }
    assert_int_equal(s.len, 15000);
    for (int i = 0; i < 5000; i++)
        assert_int_equal((s.p[3 * i] - '0') * 100 + (s.p[3 * i + 1] - '0') * 10 + s.p[3 * i + 2] -
                             '0',
                         i % 1000);
    assert_int_equal(s.p[s.len], 0);
    tarn_str_fini(&s);
}

static void test_str_room(void **state)
{
    struct tarn_str s = {0};

    (void)state;
    tarn_str_adds(&s, "ab");
    memcpy(tarn_str_room(&s, 1000), "cd", 2);
    s.len += 2;
    assert_true(s.cap >= 1003);
    tarn_str_addc(&s, 'e');
    assert_string_equal(s.p, "abcde");
    tarn_str_fini(&s);
}

static void str_overflow(void)
{
    struct tarn_str s = {0};

    tarn_str_adds(&s, "x");
    (void)tarn_str_room(&s, SIZE_MAX - 1);
}

static void str_huge(void)
{
    struct tarn_str s = {0};

    (void)tarn_str_room(&s, SIZE_MAX / 2 + 5);
}

static void test_str_overflow(void **state)
{
    (void)state;
    assert_true(base_dies(str_overflow));
    assert_true(base_dies(str_huge));
}

static void test_starts_ends(void **state)
{
    (void)state;
    assert_true(tarn_starts_with("s3://b", "s3://"));
    assert_true(tarn_starts_with("x", ""));
    assert_false(tarn_starts_with("s3:/", "s3://"));
    assert_true(tarn_ends_with("a.sst", ".sst"));
    assert_true(tarn_ends_with("", ""));
    assert_false(tarn_ends_with("sst", ".sst"));
    assert_false(tarn_ends_with("a.sst2", ".sst"));
}

static void test_mem(void **state)
{
    TARN_AUTO_FREE char *s = tarn_xasprintf("%d-%s", 7, "x");
    TARN_AUTO_FREE char *z = tarn_xcalloc(0, 0);
    struct {
        int a;
        int b;
    } pair = {1, 2};

    (void)state;
    assert_string_equal(s, "7-x");
    assert_non_null(z);
    assert_ptr_equal(TARN_CONTAINER(&pair.b, __typeof__(pair), b), &pair);
    assert_int_equal(tarn_div_up(0, 4), 0);
    assert_int_equal(tarn_div_up(8, 4), 2);
    assert_int_equal(tarn_div_up(9, 4), 3);
    assert_int_equal(tarn_div_up(UINT64_MAX, 2), 1ULL << 63);
}

static void test_name_ok(void **state)
{
    char name[300];

    (void)state;
    memset(name, 'n', sizeof(name));
    assert_true(tarn_name_ok("a", 1));
    assert_true(tarn_name_ok("...", 3));
    assert_true(tarn_name_ok(".a", 2));
    assert_true(tarn_name_ok("\xff\n ", 3));
    assert_true(tarn_name_ok(name, 255));
    assert_false(tarn_name_ok(name, 256));
    assert_false(tarn_name_ok("", 0));
    assert_false(tarn_name_ok(".", 1));
    assert_false(tarn_name_ok("..", 2));
    assert_false(tarn_name_ok("a/b", 3));
    assert_false(tarn_name_ok("/", 1));
    assert_false(tarn_name_ok("a\0b", 3));
}

static void test_path_normalize(void **state)
{
    static const struct {
        const char *in;
        int rc;
        const char *out;
    } rows[] = {
        {"/", 0, "/"},
        {"", 0, "/"},
        {"//", 0, "/"},
        {"a", 0, "/a"},
        {"/a/b", 0, "/a/b"},
        {"//a///b//", 0, "/a/b"},
        {"/./a/./b/.", 0, "/a/b"},
        {".", 0, "/"},
        {"/...", 0, "/..."},
        {"/a /b\t", 0, "/a /b\t"},
        {"..", TARN_E_NAME_BAD, NULL},
        {"/a/..", TARN_E_NAME_BAD, NULL},
        {"/a/../b", TARN_E_NAME_BAD, NULL},
        {"/../", TARN_E_NAME_BAD, NULL},
    };
    char out[TARN_PATH_MAX];

    (void)state;
    for (size_t i = 0; i < TARN_ARRAY_LEN(rows); i++) {
        memset(out, '?', sizeof(out));
        assert_int_equal(tarn_path_normalize(rows[i].in, out), -rows[i].rc);
        if (rows[i].out)
            assert_string_equal(out, rows[i].out);
        else
            assert_int_equal(out[0], '?'); /* written only on success */
    }
}

static void test_path_limits(void **state)
{
    char in[2 * TARN_PATH_MAX], out[TARN_PATH_MAX];
    size_t n = 0;

    (void)state;
    in[0] = '/';
    memset(in + 1, 'n', 255);
    in[256] = 0;
    assert_int_equal(tarn_path_normalize(in, out), 0);
    assert_int_equal(strlen(out), 256);
    in[256] = 'n';
    in[257] = 0;
    assert_int_equal(tarn_path_normalize(in, out), -TARN_E_NAME_TOO_LONG);

    for (int i = 0; i < TARN_PATH_MAX / 2; i++) { /* "/a" 2048 times: one byte more than fits */
        in[n++] = '/';
        in[n++] = 'a';
    }
    in[n] = 0;
    assert_int_equal(tarn_path_normalize(in, out), -TARN_E_NAME_TOO_LONG);
    in[n - 2] = 0;
    assert_int_equal(tarn_path_normalize(in, out), 0);
    assert_int_equal(strlen(out), TARN_PATH_MAX - 2);
    memcpy(in + n - 2, "////", 5); /* what is dropped does not count */
    assert_int_equal(tarn_path_normalize(in, out), 0);
    assert_int_equal(tarn_path_normalize(out, out), 0);
}

static void test_path_next(void **state)
{
    const char *p = "/a/bcd";
    const char *name;
    size_t n;

    (void)state;
    name = tarn_path_next(&p, &n);
    assert_int_equal(n, 1);
    assert_memory_equal(name, "a", 1);
    name = tarn_path_next(&p, &n);
    assert_int_equal(n, 3);
    assert_memory_equal(name, "bcd", 3);
    assert_null(tarn_path_next(&p, &n));
    assert_null(tarn_path_next(&p, &n));
    p = "/";
    assert_null(tarn_path_next(&p, &n));
}

int base_run_text(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_str_empty),
        cmocka_unit_test(test_str_build),
        cmocka_unit_test(test_str_grow),
        cmocka_unit_test(test_str_room),
        cmocka_unit_test(test_str_overflow),
        cmocka_unit_test(test_starts_ends),
        cmocka_unit_test(test_mem),
        cmocka_unit_test(test_name_ok),
        cmocka_unit_test(test_path_normalize),
        cmocka_unit_test(test_path_limits),
        cmocka_unit_test(test_path_next),
    };

    return cmocka_run_group_tests_name("base/text", tests, NULL, NULL);
}
