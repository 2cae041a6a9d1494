/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/lib/base/base_tests.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

#include "lib/base/err.h"

static void test_rows(void **state)
{
    (void)state;
#define TARN_ERR(name, nr, err, retry, exit_class, text)                                           \
    assert_in_range(nr, 1000, 9999);                                                               \
    assert_true((err) > 0 && (err) < 1000);                                                        \
    assert_string_equal(tarn_err_name(-(nr)), #name);                                              \
    assert_string_equal(tarn_err_name(nr), #name);                                                 \
    assert_string_equal(tarn_strerror(-(nr)), text);                                               \
    assert_int_equal(tarn_err_errno(-(nr)), err);                                                  \
    assert_int_equal(tarn_err_retry(-(nr)), TARN_RETRY_##retry);                                   \
    assert_int_equal(tarn_err_exit(-(nr)), TARN_EXIT_##exit_class);                                \
    assert_true(tarn_err_known(nr));
#include "lib/base/err.def"
#undef TARN_ERR
}

/* Numbers cross the wire: each is used once, and the table is sorted so that one can see it. */
static void test_numbers_unique(void **state)
{
    static const int nr[] = {
#define TARN_ERR(name, nr, err, retry, exit_class, text) nr,
#include "lib/base/err.def"
#undef TARN_ERR
    };

    (void)state;
    for (size_t i = 1; i < sizeof(nr) / sizeof(nr[0]); i++)
        assert_true(nr[i] > nr[i - 1]);
}

static void test_errno_class(void **state)
{
    (void)state;
    assert_string_equal(tarn_strerror(-ENOENT), "No such file or directory");
    assert_string_equal(tarn_err_name(-ENOENT), "ENOENT");
    assert_int_equal(tarn_err_errno(-ENOENT), ENOENT);
    assert_int_equal(tarn_err_retry(-ENOENT), TARN_RETRY_NEVER);
    assert_int_equal(tarn_err_exit(-ENOENT), TARN_EXIT_FAIL);
    assert_int_equal(tarn_err_exit(-EACCES), TARN_EXIT_DENIED);
    assert_int_equal(tarn_err_exit(-EPERM), TARN_EXIT_DENIED);
    assert_int_equal(tarn_err_exit(-ETIMEDOUT), TARN_EXIT_TIMEOUT);
    assert_int_equal(tarn_err_exit(-ECONNREFUSED), TARN_EXIT_UNREACH);
    assert_int_equal(tarn_err_exit(-EHOSTUNREACH), TARN_EXIT_UNREACH);
    assert_true(tarn_err_known(EIO));
}

static void test_zero_and_unknown(void **state)
{
    (void)state;
    assert_string_equal(tarn_strerror(0), "success");
    assert_string_equal(tarn_err_name(0), "OK");
    assert_int_equal(tarn_err_exit(0), TARN_EXIT_DONE);
    assert_int_equal(tarn_err_errno(0), 0);
    for (size_t i = 0; i < 4; i++) {
        static const int unknown[] = {-999, -1999999, INT_MAX, INT_MIN};

        assert_string_equal(tarn_err_name(unknown[i]), "UNKNOWN");
        assert_string_equal(tarn_strerror(unknown[i]), "unknown error");
        assert_int_equal(tarn_err_exit(unknown[i]), TARN_EXIT_FAIL);
    }
    assert_int_equal(tarn_err_errno(-1999999), EIO);
    assert_int_equal(tarn_err_errno(INT_MIN), EIO);
    assert_false(tarn_err_known(0));
    assert_false(tarn_err_known(-EIO));
    assert_false(tarn_err_known(999));
    assert_false(tarn_err_known(TARN_E_LAST + 100000));
}

static void test_errbuf(void **state)
{
    struct tarn_errbuf e = {{0}};

    (void)state;
    assert_string_equal(tarn_err_text(&e, -ENOENT), tarn_strerror(-ENOENT));
    assert_int_equal(tarn_err_set(&e, -TARN_E_CONFIG, "bad %s", "unit"), -TARN_E_CONFIG);
    assert_string_equal(e.text, "bad unit");
    assert_int_equal(tarn_err_wrap(&e, -TARN_E_CONFIG, "tier[%d].path", 2), -TARN_E_CONFIG);
    assert_int_equal(tarn_err_wrap(&e, -TARN_E_CONFIG, "load /etc/x"), -TARN_E_CONFIG);
    assert_string_equal(tarn_err_text(&e, -1), "load /etc/x: tier[2].path: bad unit");
    tarn_err_set(&e, -1, "again");
    assert_string_equal(e.text, "again");
}

static void test_errbuf_empty_and_null(void **state)
{
    struct tarn_errbuf e = {{0}};

    (void)state;
    tarn_err_wrap(&e, -ENOENT, "open x");
    assert_string_equal(e.text, "open x: No such file or directory");
    assert_int_equal(tarn_err_set(NULL, -5, "x"), -5);
    assert_int_equal(tarn_err_wrap(NULL, -5, "x"), -5);
    assert_string_equal(tarn_err_text(NULL, -EIO), tarn_strerror(-EIO));
}

static void test_errbuf_cut(void **state)
{
    struct tarn_errbuf e = {{0}};
    char big[1000];

    (void)state;
    memset(big, 'x', sizeof(big) - 1);
    big[sizeof(big) - 1] = 0;
    tarn_err_set(&e, -1, "%s", big);
    assert_int_equal(strlen(e.text), sizeof(e.text) - 1);
    tarn_err_wrap(&e, -1, "where");
    assert_int_equal(strlen(e.text), sizeof(e.text) - 1);
    assert_memory_equal(e.text, "where: xxx", 10);
    tarn_err_wrap(&e, -1, "%s", big);
    assert_int_equal(strlen(e.text), sizeof(e.text) - 1);
    assert_memory_equal(e.text, big, sizeof(e.text) - 1);
}

static int count_call(int *calls, int rc)
{
    ++*calls;
    return rc;
}

static void test_keep(void **state)
{
    int calls = 0, rc = 0;

    (void)state;
    TARN_KEEP(rc, count_call(&calls, 0));
    assert_int_equal(rc, 0);
    TARN_KEEP(rc, count_call(&calls, -EIO));
    TARN_KEEP(rc, count_call(&calls, -ENOENT));
    assert_int_equal(rc, -EIO);
    assert_int_equal(calls, 3);
}

int base_run_err(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),        cmocka_unit_test(test_numbers_unique),
        cmocka_unit_test(test_errno_class), cmocka_unit_test(test_zero_and_unknown),
        cmocka_unit_test(test_errbuf),      cmocka_unit_test(test_errbuf_empty_and_null),
        cmocka_unit_test(test_errbuf_cut),  cmocka_unit_test(test_keep),
    };

    return cmocka_run_group_tests_name("base/err", tests, NULL, NULL);
}
