/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/lib/base/base_tests.h"

#include <errno.h>

#include "lib/base/err.h"
#include "lib/base/fault.h"
#include "lib/base/mem.h"

static int reset(void **state)
{
    (void)state;
    tarn_fault_reset();
    return 0;
}

static void test_arm(void **state)
{
    (void)state;
    assert_int_equal(tarn_fault_pass(TARN_FAULT_disk_read), 0);
    tarn_fault_arm(TARN_FAULT_disk_read, 2, 3, -EIO);
    assert_int_equal(tarn_fault_pass(TARN_FAULT_disk_write), 0); /* others are not touched */
    assert_int_equal(tarn_fault_pass(TARN_FAULT_disk_read), 0);
    assert_int_equal(tarn_fault_pass(TARN_FAULT_disk_read), 0);
    for (int i = 0; i < 3; i++)
        assert_int_equal(tarn_fault_pass(TARN_FAULT_disk_read), -EIO);
    assert_int_equal(tarn_fault_pass(TARN_FAULT_disk_read), 0);
}

static void test_disarm(void **state)
{
    (void)state;
    tarn_fault_arm(TARN_FAULT_disk_read, 0, 5, -EIO);
    tarn_fault_arm(TARN_FAULT_disk_read, 0, 0, 0);
    assert_int_equal(tarn_fault_pass(TARN_FAULT_disk_read), 0);
    tarn_fault_arm(TARN_FAULT_disk_read, 0, 5, -EIO);
    tarn_fault_arm(TARN_FAULT_kv_write, 0, 5, -EIO);
    tarn_fault_reset();
    assert_int_equal(tarn_fault_pass(TARN_FAULT_disk_read), 0);
    assert_int_equal(tarn_fault_pass(TARN_FAULT_kv_write), 0);
}

static void test_macro(void **state)
{
    (void)state;
    tarn_fault_arm(TARN_FAULT_disk_sync, 0, 1, -EIO);
#ifdef TARN_FAULTS
    assert_int_equal(TARN_FAULT(disk_sync), -EIO);
#endif
    assert_int_equal(TARN_FAULT(disk_open), 0);
}

static void test_parse(void **state)
{
    (void)state;
    assert_int_equal(tarn_fault_parse("disk_open:1:1:28,kv_read:0:2:1041"), 0);
    assert_int_equal(tarn_fault_pass(TARN_FAULT_disk_open), 0);
    assert_int_equal(tarn_fault_pass(TARN_FAULT_disk_open), -ENOSPC);
    assert_int_equal(tarn_fault_pass(TARN_FAULT_disk_open), 0);
    assert_int_equal(tarn_fault_pass(TARN_FAULT_kv_read), -TARN_E_KV_CORRUPT);
    assert_int_equal(tarn_fault_parse(""), 0);
}

static void test_parse_bad(void **state)
{
    static const char *const bad[] = {
        "disk_open",
        "disk_open:1",
        "disk_open:1:1",
        "nosuch:0:1:5",
        "disk_open:x:1:5",
        "disk_open:0:-1:5",
        "disk_open:0:1:0",
        "disk_open:0:1:999",
        "disk_open:0:1:5:7",
        "disk_open:0:9999999:5",
        ":0:1:5",
        "disk_open:0:1:EIO",
        "DISK_OPEN:0:1:5",
        "disk_open:0:1:900000",
        "kv_read:0:1:5,bad",
    };

    (void)state;
    for (size_t i = 0; i < TARN_ARRAY_LEN(bad); i++)
        if (tarn_fault_parse(bad[i]) != -TARN_E_INVALID)
            fail_msg("accepted: %s", bad[i]);
    assert_int_equal(tarn_fault_pass(TARN_FAULT_disk_open), 0);
}

int base_run_fault(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_arm, reset),
        cmocka_unit_test_teardown(test_disarm, reset),
        cmocka_unit_test_teardown(test_macro, reset),
        cmocka_unit_test_teardown(test_parse, reset),
        cmocka_unit_test_teardown(test_parse_bad, reset),
    };

    return cmocka_run_group_tests_name("base/fault", tests, NULL, NULL);
}
