/* SPDX-License-Identifier: Apache-2.0 */
/* Every function of kv.h by example, on both back ends. */
#include "tests/unit/store/kv/kv_tests.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/fault.h"
#include "lib/base/mem.h"

static void test_get_put(void **state)
{
    struct kv_backend *be = *state;

    kv_assert_get(be->kv, 0, "a", NULL);
    kv_put(be->kv, 0, "a", "1");
    kv_put(be->kv, 1, "a", "other family");
    kv_assert_get(be->kv, 0, "a", "1");
    kv_assert_get(be->kv, 1, "a", "other family");
    kv_assert_get(be->kv, 2, "a", NULL);
    kv_put(be->kv, 0, "a", "22");
    kv_assert_get(be->kv, 0, "a", "22");
    kv_put(be->kv, 0, "empty", "");
    kv_assert_get(be->kv, 0, "empty", "");
    kv_assert_get(be->kv, 0, "aa", NULL);
    kv_assert_get(be->kv, 0, "", NULL);
}

static void test_get_resets(void **state)
{
    struct kv_backend *be = *state;
    struct tarn_str got = {0};

    kv_put(be->kv, 0, "a", "1");
    tarn_str_adds(&got, "before");
    assert_int_equal(tarn_kv_get(be->kv, 0, kv_z("a"), &got), 0);
    assert_string_equal(tarn_str_z(&got), "1");
    assert_int_equal(tarn_kv_get(be->kv, 0, kv_z("x"), &got), -ENOENT);
    assert_int_equal(got.len, 0);
    tarn_str_fini(&got);
}

static void test_binary(void **state)
{
    struct kv_backend *be = *state;
    struct tarn_kv_batch *b = tarn_kv_batch_new(be->kv);
    struct tarn_str got = {0};
    size_t big_n = 300000;
    TARN_AUTO_FREE char *big = tarn_xcalloc(1, big_n);

    for (size_t i = 0; i < big_n; i++)
        big[i] = (char)(i * 7);
    tarn_kv_batch_put(b, 0, tarn_kv_slice("\0", 1), tarn_kv_slice("\0\xff\0", 3));
    tarn_kv_batch_put(b, 0, tarn_kv_slice("\0\0", 2), kv_z("two"));
    tarn_kv_batch_put(b, 0, kv_z("big"), tarn_kv_slice(big, big_n));
    tarn_kv_batch_put(b, 0, tarn_kv_slice(NULL, 0), tarn_kv_slice(NULL, 0));
    assert_int_equal(tarn_kv_write(be->kv, b, false), 0);
    tarn_kv_batch_free(&b);
    assert_int_equal(tarn_kv_get(be->kv, 0, tarn_kv_slice("\0", 1), &got), 0);
    assert_int_equal(got.len, 3);
    assert_memory_equal(got.p, "\0\xff\0", 3);
    assert_int_equal(tarn_kv_get(be->kv, 0, kv_z("big"), &got), 0);
    assert_int_equal(got.len, big_n);
    assert_memory_equal(got.p, big, big_n);
    assert_int_equal(tarn_kv_get(be->kv, 0, tarn_kv_slice(NULL, 0), &got), 0);
    assert_int_equal(got.len, 0);
    tarn_str_fini(&got);
}

static void test_batch(void **state)
{
    struct kv_backend *be = *state;
    struct tarn_kv_batch *b = tarn_kv_batch_new(be->kv);
    struct tarn_str got = {0};

    kv_put(be->kv, 0, "a", "old");
    kv_put(be->kv, 0, "b", "old");
    assert_int_equal(tarn_kv_batch_count(b), 0);
    assert_int_equal(tarn_kv_batch_bytes(b), 0);
    tarn_kv_batch_put(b, 0, kv_z("a"), kv_z("new"));
    tarn_kv_batch_delete(b, 0, kv_z("b"));
    tarn_kv_batch_put(b, 1, kv_z("c"), kv_z("1"));
    tarn_kv_batch_put(b, 1, kv_z("c"), kv_z("2"));
    tarn_kv_batch_put(b, 1, kv_z("d"), kv_z("1"));
    tarn_kv_batch_delete(b, 1, kv_z("d"));
    tarn_kv_batch_delete(b, 2, kv_z("never"));
    assert_int_equal(tarn_kv_batch_count(b), 7);
    assert_true(tarn_kv_batch_bytes(b) >= 18);

    kv_assert_get(be->kv, 0, "a", "old"); /* nothing is committed yet */
    kv_assert_get(be->kv, 1, "c", NULL);
    assert_int_equal(tarn_kv_batch_get(b, 0, kv_z("a"), &got), 0);
    assert_string_equal(got.p, "new");
    assert_int_equal(tarn_kv_batch_get(b, 0, kv_z("b"), &got), -ENOENT);
    assert_int_equal(got.len, 0);
    assert_int_equal(tarn_kv_batch_get(b, 1, kv_z("c"), &got), 0);
    assert_string_equal(got.p, "2");
    assert_int_equal(tarn_kv_batch_get(b, 1, kv_z("d"), &got), -ENOENT);
    assert_int_equal(tarn_kv_batch_get(b, 1, kv_z("a"), &got), -ENOENT);

    assert_int_equal(tarn_kv_write(be->kv, b, true), 0);
    assert_int_equal(tarn_kv_batch_count(b), 0);
    assert_int_equal(tarn_kv_batch_bytes(b), 0);
    kv_assert_scan(be->kv, NULL, 0, "", "a=new");
    kv_assert_scan(be->kv, NULL, 1, "", "c=2");

    tarn_kv_batch_put(b, 0, kv_z("again"), kv_z("1")); /* it can be used again */
    assert_int_equal(tarn_kv_write(be->kv, b, false), 0);
    kv_assert_scan(be->kv, b, 0, "", "a=new again=1");
    assert_int_equal(tarn_kv_write(be->kv, b, true), 0); /* an empty one is fine */
    tarn_kv_batch_put(b, 0, kv_z("dropped"), kv_z("1"));
    tarn_kv_batch_free(&b);
    assert_null(b);
    tarn_kv_batch_free(&b);
    kv_assert_get(be->kv, 0, "dropped", NULL);
    tarn_str_fini(&got);
}

/* A batch sees what is committed after it was begun; reads are of now. */
static void test_batch_sees_store(void **state)
{
    struct kv_backend *be = *state;
    struct tarn_kv_batch *b = tarn_kv_batch_new(be->kv);
    struct tarn_str got = {0};

    kv_put(be->kv, 0, "k", "later");
    assert_int_equal(tarn_kv_batch_get(b, 0, kv_z("k"), &got), 0);
    assert_string_equal(got.p, "later");
    tarn_str_fini(&got);
    tarn_kv_batch_free(&b);
}

static void test_iter_prefix(void **state)
{
    struct kv_backend *be = *state;

    kv_put(be->kv, 1, "d1", "x");
    kv_put(be->kv, 1, "a", "1");
    kv_put(be->kv, 1, "ab", "2");
    kv_put(be->kv, 1, "abc", "3");
    kv_put(be->kv, 1, "abd", "4");
    kv_put(be->kv, 1, "ac", "5");
    kv_put(be->kv, 1, "\xff", "6");
    kv_put(be->kv, 1, "\xff\xff", "7");
    kv_put(be->kv, 1,
           "\xff\xff"
           "a",
           "8");
    kv_put(be->kv, 0, "abz", "other");
    kv_assert_scan(be->kv, NULL, 1, "ab", "ab=2 abc=3 abd=4");
    kv_assert_scan(be->kv, NULL, 1, "abc", "abc=3");
    kv_assert_scan(be->kv, NULL, 1, "abe", "");
    kv_assert_scan(be->kv, NULL, 1, "b", "");
    kv_assert_scan(be->kv, NULL, 1, "\xff\xff",
                   "\xff\xff=7 \xff\xff"
                   "a=8");
    kv_assert_scan(be->kv, NULL, 1, "\xff",
                   "\xff=6 \xff\xff=7 \xff\xff"
                   "a=8");
    kv_assert_scan(be->kv, NULL, 1, "",
                   "a=1 ab=2 abc=3 abd=4 ac=5 d1=x \xff=6 \xff\xff=7 \xff\xff"
                   "a=8");
    kv_assert_scan(be->kv, NULL, 2, "", "");
}

static void assert_next(struct tarn_kv_iter *it, const char *key)
{
    struct tarn_kv_slice k;

    if (!key) {
        assert_int_equal(tarn_kv_iter_next(it), 0);
        return;
    }
    assert_int_equal(tarn_kv_iter_next(it), 1);
    k = tarn_kv_iter_key(it);
    assert_int_equal(k.n, strlen(key));
    assert_memory_equal(k.p, key, k.n);
}

static void test_iter_seek(void **state)
{
    struct kv_backend *be = *state;
    struct tarn_kv_iter *it;

    kv_put(be->kv, 0, "a9", "");
    kv_put(be->kv, 0, "b1", "");
    kv_put(be->kv, 0, "b3", "");
    kv_put(be->kv, 0, "b5", "");
    kv_put(be->kv, 0, "c1", "");
    it = tarn_kv_iter_new(be->kv, NULL, 0, kv_z("b"));
    tarn_kv_iter_seek(it, kv_z("b3"));
    assert_next(it, "b3");
    assert_next(it, "b5");
    assert_next(it, NULL);
    tarn_kv_iter_seek(it, kv_z("b2")); /* also after the end, and backwards */
    assert_next(it, "b3");
    tarn_kv_iter_seek(it, kv_z("a")); /* before the prefix: its first key */
    assert_next(it, "b1");
    tarn_kv_iter_seek(it, kv_z(""));
    assert_next(it, "b1");
    tarn_kv_iter_seek(it, kv_z("b6"));
    assert_next(it, NULL);
    tarn_kv_iter_seek(it, kv_z("c")); /* behind the prefix */
    assert_next(it, NULL);
    tarn_kv_iter_free(&it);
    tarn_kv_iter_free(&it);
}

/* An iterator shows the store as it was when it was made. */
static void test_iter_snapshot(void **state)
{
    struct kv_backend *be = *state;
    struct tarn_kv_batch *b = tarn_kv_batch_new(be->kv);
    struct tarn_kv_iter *it;

    kv_put(be->kv, 0, "a", "1");
    kv_put(be->kv, 0, "c", "1");
    it = tarn_kv_iter_new(be->kv, NULL, 0, kv_z(""));
    kv_put(be->kv, 0, "b", "1");
    assert_next(it, "a");
    tarn_kv_batch_delete(b, 0, kv_z("c"));
    tarn_kv_batch_put(b, 0, kv_z("a"), kv_z("2"));
    assert_int_equal(tarn_kv_write(be->kv, b, true), 0);
    tarn_kv_batch_free(&b);
    assert_next(it, "c");
    assert_next(it, NULL);
    tarn_kv_iter_seek(it, kv_z(""));
    assert_next(it, "a");
    assert_memory_equal(tarn_kv_iter_value(it).p, "1", 1);
    tarn_kv_iter_free(&it);
    kv_assert_scan(be->kv, NULL, 0, "", "a=2 b=1");
}

static void test_iter_batch(void **state)
{
    struct kv_backend *be = *state;
    struct tarn_kv_batch *b = tarn_kv_batch_new(be->kv);

    kv_put(be->kv, 0, "p1", "s");
    kv_put(be->kv, 0, "p3", "s");
    kv_put(be->kv, 0, "p5", "s");
    kv_put(be->kv, 0, "q1", "s");
    kv_assert_scan(be->kv, b, 0, "p", "p1=s p3=s p5=s");
    tarn_kv_batch_put(b, 0, kv_z("p0"), kv_z("b"));
    tarn_kv_batch_put(b, 0, kv_z("p3"), kv_z("b"));
    tarn_kv_batch_delete(b, 0, kv_z("p1"));
    tarn_kv_batch_put(b, 0, kv_z("p7"), kv_z("b"));
    tarn_kv_batch_put(b, 0, kv_z("p8"), kv_z("b"));
    tarn_kv_batch_delete(b, 0, kv_z("p8"));
    tarn_kv_batch_put(b, 0, kv_z("o"), kv_z("b"));
    tarn_kv_batch_put(b, 0, kv_z("q0"), kv_z("b")); /* behind the prefix: the bound is not obeyed */
    tarn_kv_batch_put(b, 1, kv_z("p2"), kv_z("b"));
    kv_assert_scan(be->kv, b, 0, "p", "p0=b p3=b p5=s p7=b");
    kv_assert_scan(be->kv, b, 1, "p", "p2=b");
    kv_assert_scan(be->kv, b, 0, "", "o=b p0=b p3=b p5=s p7=b q0=b q1=s");
    tarn_kv_batch_delete(b, 0, kv_z("p0"));
    tarn_kv_batch_delete(b, 0, kv_z("p3"));
    tarn_kv_batch_delete(b, 0, kv_z("p5"));
    tarn_kv_batch_delete(b, 0, kv_z("p7"));
    kv_assert_scan(be->kv, b, 0, "p", "");
    kv_assert_scan(be->kv, NULL, 0, "p", "p1=s p3=s p5=s");
    tarn_kv_batch_free(&b);
}

static void test_restart(void **state)
{
    struct kv_backend *be = *state;
    uint64_t before, after;

    kv_put(be->kv, 0, "a", "1");
    kv_put(be->kv, 2, "b", "2");
    assert_int_equal(tarn_kv_dump_hash(be->kv, ~0u, &before), 0);
    kv_backend_restart(be);
    kv_assert_get(be->kv, 0, "a", "1");
    kv_assert_get(be->kv, 2, "b", "2");
    assert_int_equal(tarn_kv_dump_hash(be->kv, ~0u, &after), 0);
    assert_int_equal(before, after);
}

static void test_reopen(void **state)
{
    struct kv_backend *be = *state;
    struct tarn_errbuf err = {{0}};

    kv_put(be->kv, 0, "a", "1");
    for (int i = 0; i < 3; i++)
        assert_int_equal(tarn_kv_reopen(be->kv, &err), 0);
    kv_assert_get(be->kv, 0, "a", "1");
    kv_put(be->kv, 0, "a", "2");
    kv_backend_restart(be);
    kv_assert_get(be->kv, 0, "a", "2");
}

static void test_disk_bytes(void **state)
{
    struct kv_backend *be = *state;
    uint64_t before = tarn_kv_disk_bytes(be->kv);
    TARN_AUTO_FREE char *value = tarn_xcalloc(1, 2000001);

    for (size_t i = 0; i < 2000000; i++)
        value[i] = (char)('a' + i * i % 23);
    kv_put(be->kv, 0, "a", value);
    assert_true(tarn_kv_disk_bytes(be->kv) >= before + 1000000);
}

static void test_dump_hash(void **state)
{
    struct kv_backend *be = *state;
    uint64_t empty, a, all, meta;

    assert_int_equal(tarn_kv_dump_hash(be->kv, ~0u, &empty), 0);
    kv_put(be->kv, 0, "k", "v");
    assert_int_equal(tarn_kv_dump_hash(be->kv, 1, &a), 0);
    assert_true(a != empty);
    kv_put(be->kv, 1, "k", "v");
    assert_int_equal(tarn_kv_dump_hash(be->kv, 1, &all), 0);
    assert_int_equal(all, a); /* the family is not in the mask */
    assert_int_equal(tarn_kv_dump_hash(be->kv, 2, &meta), 0);
    assert_true(meta != a); /* the same record in another family */
    kv_put(be->kv, 0, "k", "w");
    assert_int_equal(tarn_kv_dump_hash(be->kv, 1, &all), 0);
    assert_true(all != a);
    kv_put(be->kv, 0, "k", "v");
    assert_int_equal(tarn_kv_dump_hash(be->kv, 1, &all), 0);
    assert_int_equal(all, a);
    assert_int_equal(tarn_kv_dump_hash(be->kv, 0, &all), 0);
    assert_int_equal(all, empty);
}

static void test_faults(void **state)
{
#ifdef TARN_FAULTS
    struct kv_backend *be = *state;
    struct tarn_kv_batch *b = tarn_kv_batch_new(be->kv);
    struct tarn_kv_iter *it;
    struct tarn_str got = {0};
    uint64_t hash = 5;

    tarn_kv_batch_put(b, 0, kv_z("a"), kv_z("1"));
    tarn_fault_arm(TARN_FAULT_kv_write, 0, 1, -TARN_E_KV_NO_SPACE);
    assert_int_equal(tarn_kv_write(be->kv, b, true), -TARN_E_KV_NO_SPACE);
    kv_assert_get(be->kv, 0, "a", NULL);
    assert_int_equal(tarn_kv_batch_count(b), 1); /* it can be written later */
    assert_int_equal(tarn_kv_write(be->kv, b, true), 0);
    kv_assert_get(be->kv, 0, "a", "1");

    tarn_fault_arm(TARN_FAULT_kv_read, 0, 2, -TARN_E_KV);
    assert_int_equal(tarn_kv_get(be->kv, 0, kv_z("a"), &got), -TARN_E_KV);
    assert_int_equal(tarn_kv_batch_get(b, 0, kv_z("a"), &got), -TARN_E_KV);
    kv_put(be->kv, 0, "b", "1");
    it = tarn_kv_iter_new(be->kv, NULL, 0, kv_z(""));
    tarn_fault_arm(TARN_FAULT_kv_read, 1, 1, -TARN_E_KV_CORRUPT);
    assert_next(it, "a");
    assert_int_equal(tarn_kv_iter_next(it), -TARN_E_KV_CORRUPT);
    assert_int_equal(tarn_kv_iter_next(it), -TARN_E_KV_CORRUPT); /* it is no end */
    tarn_kv_iter_seek(it, kv_z("b"));
    assert_next(it, "b");
    tarn_kv_iter_free(&it);
    tarn_fault_arm(TARN_FAULT_kv_read, 1, 1, -TARN_E_KV);
    assert_int_equal(tarn_kv_dump_hash(be->kv, ~0u, &hash), -TARN_E_KV);
    assert_int_equal(hash, 5);
    tarn_kv_batch_free(&b);
    tarn_str_fini(&got);
#else
    (void)state;
    skip();
#endif
}

static void test_close_null(void **state)
{
    struct tarn_kv *kv = NULL;

    (void)state;
    tarn_kv_close(&kv);
}

int kv_run_calls(void)
{
    const struct CMUnitTest tests[] = {
        KV_TEST(test_get_put),   KV_TEST(test_get_resets),       KV_TEST(test_binary),
        KV_TEST(test_batch),     KV_TEST(test_batch_sees_store), KV_TEST(test_iter_prefix),
        KV_TEST(test_iter_seek), KV_TEST(test_iter_snapshot),    KV_TEST(test_iter_batch),
        KV_TEST(test_restart),   KV_TEST(test_reopen),           KV_TEST(test_disk_bytes),
        KV_TEST(test_dump_hash), KV_TEST(test_faults),           cmocka_unit_test(test_close_null),
    };

    return cmocka_run_group_tests_name("kv/calls", tests, NULL, NULL);
}
