/* SPDX-License-Identifier: Apache-2.0 */
/* The text of --tier. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "lib/base/mem.h"
#include "tools/tier_spec.h"

static void good(const char *text, enum tarn_medium medium, const char *path, uint64_t quota,
                 uint32_t high, uint32_t low)
{
    struct tarn_errbuf err = {{0}};
    struct tier_spec s = {0};

    assert_int_equal(tier_spec_parse(text, &s, &err), 0);
    assert_int_equal(s.medium, medium);
    assert_string_equal(s.path, path);
    assert_int_equal(s.quota_bytes, quota);
    assert_int_equal(s.high_bp, high);
    assert_int_equal(s.low_bp, low);
    free(s.path);
}

static void bad(const char *text, const char *word)
{
    struct tarn_errbuf err = {{0}};
    struct tier_spec s = {0};

    assert_int_equal(tier_spec_parse(text, &s, &err), -TARN_E_CONFIG);
    assert_non_null(strstr(err.text, text));
    assert_non_null(strstr(err.text, word));
    assert_null(s.path);
}

static void forms(void **state)
{
    (void)state;
    good("SSD:/data/tier:100GiB", TARN_MEDIUM_SSD, "/data/tier", 100ull << 30, 9800, 9500);
    good("MEM:/dev/shm/t:1.5G:90:80", TARN_MEDIUM_MEM, "/dev/shm/t", 3ull << 29, 9000, 8000);
    good("HDD:rel:64MiB:95%:0.5", TARN_MEDIUM_HDD, "rel", 64ull << 20, 9500, 5000);
    good("SSD:/t:1GiB:1:1.0", TARN_MEDIUM_SSD, "/t", 1ull << 30, 10000, 10000);
    good("SSD:/with:colon:1GiB", TARN_MEDIUM_SSD, "/with:colon", 1ull << 30, 9800, 9500);
    good("SSD:/with:1:1GiB", TARN_MEDIUM_SSD, "/with:1", 1ull << 30, 9800, 9500);
}

static void refused(void **state)
{
    (void)state;
    bad("", "MEDIUM");
    bad("SSD", "MEDIUM");
    bad("ssd:/t:1GiB", "MEM, SSD or HDD");
    bad("SSD:/t", "QUOTA");
    bad("SSD::1GiB", "PATH");
    bad("SSD:/t:lots", "QUOTA");
    bad("SSD:/t:1MiB", "16 MiB");
    bad("SSD:/t:1GiB:80:90", "HIGH");
    bad("SSD:/t:1GiB:101:90", "QUOTA");
    bad("SSD:/t:1GiB:5:5", "HIGH");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(forms), cmocka_unit_test(refused)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
