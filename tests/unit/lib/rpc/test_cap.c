/* SPDX-License-Identifier: Apache-2.0 */
/* Capabilities: scope, expiry, and every altered bit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "lib/rpc/rpc.h"

#define NOW 1800000000000000000

static const uint8_t key[32] = {1, 2, 3};

static struct tarn_str cap_sample(bool write, size_t n, uint32_t *attachments)
{
    Tarn__Wire__CapabilityBody b = TARN__WIRE__CAPABILITY_BODY__INIT;
    struct tarn_str s;

    b.cluster_id = (char *)(uintptr_t) "c1";
    b.principal = (char *)(uintptr_t) "token";
    b.expires_ns = NOW;
    b.write = write;
    b.n_attachments = n;
    b.attachments = attachments;
    b.session = 9;
    tarn_cap_make(key, &b, &s);
    return s;
}

static int cap_try(const struct tarn_str *s, const char *cluster, int64_t now, uint32_t attachment,
                   bool write)
{
    ProtobufCBinaryData d = {s->len, (uint8_t *)s->p};

    return tarn_cap_check(key, cluster, now, attachment, write, &d);
}

static void test_scope(void **state)
{
    uint32_t some[] = {3, 5};
    struct tarn_str all = cap_sample(false, 0, NULL), two = cap_sample(true, 2, some);

    (void)state;
    assert_int_equal(cap_try(&all, "c1", NOW - 1, 1, false), 0);
    assert_int_equal(cap_try(&all, "c1", NOW - 1, 1, true), -TARN_E_CAP_BAD);
    assert_int_equal(cap_try(&two, "c1", NOW - 1, 5, true), 0);
    assert_int_equal(cap_try(&two, "c1", NOW - 1, 3, false), 0);
    assert_int_equal(cap_try(&two, "c1", NOW - 1, 4, false), -TARN_E_CAP_BAD);
    assert_int_equal(cap_try(&all, "c2", NOW - 1, 1, false), -TARN_E_CAP_BAD);
    assert_int_equal(cap_try(&all, "", NOW - 1, 1, false), -TARN_E_CAP_BAD);
    tarn_str_fini(&all);
    tarn_str_fini(&two);
}

static void test_expiry(void **state)
{
    struct tarn_str s = cap_sample(false, 0, NULL);

    (void)state;
    assert_int_equal(cap_try(&s, "c1", NOW - 1, 1, false), 0);
    assert_int_equal(cap_try(&s, "c1", NOW, 1, false), -TARN_E_CAP_EXPIRED);
    assert_int_equal(cap_try(&s, "c1", NOW + 1, 1, false), -TARN_E_CAP_EXPIRED);
    tarn_str_fini(&s);
}

static void test_other_key(void **state)
{
    struct tarn_str s = cap_sample(false, 0, NULL);
    ProtobufCBinaryData d = {s.len, (uint8_t *)s.p};
    uint8_t other[32];

    (void)state;
    memcpy(other, key, sizeof(other));
    other[31] ^= 1;
    assert_int_equal(tarn_cap_check(other, "c1", NOW - 1, 1, false, &d), -TARN_E_CAP_BAD);
    tarn_str_fini(&s);
}

static void test_every_bit_and_length(void **state)
{
    struct tarn_str s = cap_sample(true, 0, NULL);
    ProtobufCBinaryData d = {0, (uint8_t *)s.p};

    (void)state;
    for (size_t bit = 0; bit < s.len * 8; bit++) {
        s.p[bit / 8] ^= (char)(1u << bit % 8);
        assert_int_equal(cap_try(&s, "c1", NOW - 1, 1, true), -TARN_E_CAP_BAD);
        s.p[bit / 8] ^= (char)(1u << bit % 8);
    }
    for (; d.len < s.len; d.len++)
        assert_int_equal(tarn_cap_check(key, "c1", NOW - 1, 1, true, &d), -TARN_E_CAP_BAD);
    assert_int_equal(tarn_cap_check(key, "c1", NOW - 1, 1, true, &d), 0);
    assert_int_equal(tarn_cap_check(key, "c1", NOW - 1, 1, true, NULL), -TARN_E_CAP_BAD);
    tarn_str_fini(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scope),
        cmocka_unit_test(test_expiry),
        cmocka_unit_test(test_other_key),
        cmocka_unit_test(test_every_bit_and_length),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
