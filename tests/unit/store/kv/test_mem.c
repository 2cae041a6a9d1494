/* SPDX-License-Identifier: Apache-2.0 */
/* Power cuts and threads: what only kv_mem can show. */
#include "tests/unit/store/kv/kv_tests.h"

#include <stdio.h>
#include <string.h>

#include "lib/base/env.h"
#include "lib/base/mem.h"
#include "lib/base/mtx.h"

static void write_n(struct tarn_kv *kv, unsigned i, bool sync)
{
    struct tarn_kv_batch *b = tarn_kv_batch_new(kv);
    char key[16], value[16];

    (void)snprintf(key, sizeof(key), "k%u", i % 5);
    (void)snprintf(value, sizeof(value), "%u", i);
    tarn_kv_batch_put(b, 0, kv_z(key), kv_z(value));
    tarn_kv_batch_put(b, 1, kv_z("last"), kv_z(value)); /* both or none */
    if (i % 4 == 3)
        tarn_kv_batch_delete(b, 0, kv_z("k1"));
    assert_int_equal(tarn_kv_write(kv, b, sync), 0);
    tarn_kv_batch_free(&b);
}

/* Ten writes, the fourth synced, power cut with each `keep`: the store after write 4 + keep. */
static void test_power_cut(void **state)
{
    uint64_t after[10];

    (void)state;
    for (unsigned keep = 0; keep <= 10; keep++) {
        struct tarn_kv_mem_disk disk = {0};
        struct tarn_kv *kv = tarn_kv_mem_open(&disk, 2);
        uint64_t hash;

        for (unsigned i = 0; i < 10; i++) {
            write_n(kv, i, i == 3);
            assert_int_equal(tarn_kv_dump_hash(kv, 3, &after[i]), 0);
        }
        tarn_kv_close(&kv);
        assert_int_equal(tarn_kv_mem_power_cut(&disk, keep), 6);
        kv = tarn_kv_mem_open(&disk, 2);
        assert_int_equal(tarn_kv_dump_hash(kv, 3, &hash), 0);
        assert_int_equal(hash, after[TARN_MIN(3 + keep, 9)]);
        tarn_kv_close(&kv);
        assert_int_equal(tarn_kv_mem_power_cut(&disk, 0), 0); /* what survived is on the disk */
        kv = tarn_kv_mem_open(&disk, 2);
        assert_int_equal(tarn_kv_dump_hash(kv, 3, &hash), 0);
        assert_int_equal(hash, after[TARN_MIN(3 + keep, 9)]);
        tarn_kv_close(&kv);
        tarn_kv_mem_disk_fini(&disk);
    }
}

static void test_power_cut_never_synced(void **state)
{
    struct tarn_kv_mem_disk disk = {0};
    struct tarn_kv *kv;

    (void)state;
    assert_int_equal(tarn_kv_mem_power_cut(&disk, 5), 0);
    kv = tarn_kv_mem_open(&disk, 2);
    write_n(kv, 0, false);
    tarn_kv_close(&kv);
    kv = tarn_kv_mem_open(&disk, 3); /* a close is no power cut; families may come */
    kv_assert_get(kv, 0, "k0", "0");
    kv_assert_get(kv, 2, "k0", NULL);
    tarn_kv_close(&kv);
    assert_int_equal(tarn_kv_mem_power_cut(&disk, 0), 1);
    kv = tarn_kv_mem_open(&disk, 3);
    kv_assert_get(kv, 0, "k0", NULL);
    tarn_kv_close(&kv);
    tarn_kv_mem_disk_fini(&disk);
    tarn_kv_mem_disk_fini(&disk);
}

/* An iterator's view does not change under power cuts' bookkeeping: many versions at a time. */
static void test_many_versions(void **state)
{
    struct tarn_kv_mem_disk disk = {0};
    struct tarn_kv *kv = tarn_kv_mem_open(&disk, 2);
    struct tarn_kv_iter *its[50];

    (void)state;
    for (unsigned i = 0; i < TARN_ARRAY_LEN(its); i++) {
        write_n(kv, i, i % 7 == 0);
        its[i] = tarn_kv_iter_new(kv, NULL, 1, kv_z(""));
    }
    for (unsigned n = 0; n < TARN_ARRAY_LEN(its); n++) {
        size_t i = n * 17ul % TARN_ARRAY_LEN(its);
        char want[16];

        (void)snprintf(want, sizeof(want), "%zu", i);
        assert_int_equal(tarn_kv_iter_next(its[i]), 1);
        assert_int_equal(tarn_kv_iter_value(its[i]).n, strlen(want));
        assert_memory_equal(tarn_kv_iter_value(its[i]).p, want, strlen(want));
        tarn_kv_iter_free(&its[i]);
    }
    tarn_kv_close(&kv);
    tarn_kv_mem_disk_fini(&disk);
}

struct shared {
    struct tarn_kv *kv;    /* of all threads */
    _Atomic bool stop;     /* the writers are done */
    _Atomic unsigned bad;  /* things seen that must not be */
    _Atomic unsigned seen; /* scans done */
};

/* Each write sets a and b to the same value: a scan or a get must never see two. */
static void *writer(void *arg)
{
    struct shared *s = arg;
    struct tarn_kv_batch *b = tarn_kv_batch_new(s->kv);

    for (unsigned i = 0; i < 400; i++) {
        char value[16];

        (void)snprintf(value, sizeof(value), "%08u", i);
        tarn_kv_batch_put(b, 0, kv_z("a"), kv_z(value));
        tarn_kv_batch_put(b, 0, kv_z("b"), kv_z(value));
        tarn_kv_batch_put(b, 0, kv_z(value), kv_z(value));
        if (i % 3 == 0)
            tarn_kv_batch_delete(b, 0, kv_z("00000001"));
        if (tarn_kv_write(s->kv, b, i % 16 == 0) < 0)
            s->bad++;
    }
    tarn_kv_batch_free(&b);
    s->stop = true;
    return NULL;
}

static void *reader(void *arg)
{
    struct shared *s = arg;
    struct tarn_str got = {0};

    do {
        struct tarn_kv_iter *it = tarn_kv_iter_new(s->kv, NULL, 0, kv_z(""));
        char a[16] = "";

        while (tarn_kv_iter_next(it) == 1) {
            struct tarn_kv_slice k = tarn_kv_iter_key(it), v = tarn_kv_iter_value(it);

            if (k.n == 1 && memcmp(k.p, "a", 1) == 0)
                memcpy(a, v.p, 8);
            if (k.n == 1 && memcmp(k.p, "b", 1) == 0 && memcmp(a, v.p, 8) != 0)
                s->bad++;
        }
        tarn_kv_iter_free(&it);
        if (tarn_kv_get(s->kv, 0, kv_z("a"), &got) == 0 && memcmp(got.p, a, 8) < 0)
            s->bad++; /* older than the scan before it */
        s->seen++;
    } while (!s->stop);
    tarn_str_fini(&got);
    return NULL;
}

static void test_threads(void **state)
{
    struct kv_backend *be = *state;
    struct shared s = {.kv = be->kv};
    pthread_t w, r[2];

    for (int i = 0; i < 2; i++)
        assert_int_equal(tarn_thread_start(&r[i], "kv-reader", reader, &s), 0);
    assert_int_equal(tarn_thread_start(&w, "kv-writer", writer, &s), 0);
    assert_int_equal(pthread_join(w, NULL), 0);
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_join(r[i], NULL), 0);
    assert_int_equal(s.bad, 0);
    assert_true(s.seen >= 2);
}

int kv_run_mem(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_power_cut),
        cmocka_unit_test(test_power_cut_never_synced),
        cmocka_unit_test(test_many_versions),
        KV_TEST(test_threads),
    };

    return cmocka_run_group_tests_name("kv/mem", tests, NULL, NULL);
}
