/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Readers on many threads while the loop stores, evicts, drops, loads and pins: what they get is
 * right, whatever they meet; the descriptor cache is small, so descriptors come and go under them.
 * Meant for TSan, too.
 */
#include "tests/unit/store/tier/rig.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/log.h"

#define READERS 4u
#define FILES   24u
#define STORES  200u

static uint64_t length_of(unsigned nr)
{
    return nr % 4 == 0 ? 9 * MIB : nr % 4 == 1 ? 4 * MIB : nr % 4 == 2 ? 300 * KIB : 5000;
}

struct reader {
    struct rig *r;
    unsigned id;
    _Atomic bool *stop;
    uint64_t served, absent, wrong; /* reads */
    pthread_t thread;
};

static void reader_once(struct reader *rd, struct tarn_rng *rng, uint8_t *got, uint8_t *want)
{
    unsigned nr = (unsigned)tarn_rng_below(rng, FILES);
    uint64_t length = length_of(nr), off = tarn_rng_below(rng, length);
    uint32_t n = (uint32_t)(1 + tarn_rng_below(rng, 100 * KIB));
    tarn_cid_t cid = rig_cid(nr);
    struct tarn_tier_file *f = nr % 2 ? tarn_tier_file_get(rd->r->tier, &cid, length)
                                      : tarn_tier_file_find(rd->r->tier, &cid);
    int64_t rc;

    if (!f) {
        rd->absent++;
        return;
    }
    (void)tarn_tier_file_has(f, off, n);
    (void)tarn_tier_file_verified(f, off, n);
    rc = tarn_tier_try_read(f, off, n, got);
    if (rc >= 0) {
        rig_bytes(nr, off, want, (size_t)rc);
        rd->served++;
        rd->wrong += rc == 0 || memcmp(got, want, (size_t)rc) != 0;
    } else {
        rd->absent++;
        rd->wrong += rc != -TARN_E_NOT_CACHED; /* no other error has a cause here */
    }
    tarn_tier_file_put(&f);
}

static void *reader_main(void *arg)
{
    uint8_t *got = malloc(TARN_READ_MAX), *want = malloc(TARN_READ_MAX);
    struct reader *rd = arg;
    struct tarn_rng_seeded rng;
    struct tarn_tier_info info;

    tarn_rng_seeded_init(&rng, rd->id);
    while (got && want && !atomic_load(rd->stop)) {
        reader_once(rd, &rng.base, got, want);
        if (tarn_rng_below(&rng.base, 64) == 0)
            tarn_tier_info(rd->r->tier, &info);
    }
    free(got);
    free(want);
    return NULL;
}

static void loop_once(struct rig *r, struct tarn_rng *rng)
{
    unsigned nr = (unsigned)tarn_rng_below(rng, FILES);
    uint64_t length = length_of(nr);
    uint32_t group = (uint32_t)tarn_rng_below(rng, tarn_div_up(length, TARN_UNIT_BYTES));
    struct tarn_tier_file *f = rig_file(r, nr, length);
    int rc;

    switch (tarn_rng_below(rng, 12)) {
    case 0:
        rc = rig_drop(r, nr, length);
        break;
    case 1:
    case 2:
        rc = rig_load(r, f, group, nr % 2, NULL);
        rc = rc == -TARN_E_NOT_CACHED ? 0 : rc;
        break;
    case 3:
        rc = tarn_tier_pin(r->tier, f, true);
        if (rc == 0)
            rc = tarn_tier_pin(r->tier, f, false);
        break;
    default:
        rc = rig_store(r, f, nr, group);
        break;
    }
    assert_true(rc == 0 || rc == -TARN_E_TIER_FULL);
    tarn_tier_file_put(&f);
}

static void readers_and_evictor(void **state)
{
    struct reader readers[READERS] = {0};
    struct rig *r = *state;
    struct tarn_rng_seeded rng;
    struct tarn_tier_info info;
    uint64_t served = 0;
    _Atomic bool stop = false;

    tarn_rng_seeded_init(&rng, 4711);
    r->args.fds_max = 4;
    rig_must_open(r, 40 * MIB); /* a third of what the files hold */
    for (unsigned i = 0; i < READERS; i++) {
        readers[i] = (struct reader){.r = r, .id = i, .stop = &stop};
        assert_int_equal(pthread_create(&readers[i].thread, NULL, reader_main, &readers[i]), 0);
    }
    for (unsigned i = 0; i < STORES; i++)
        loop_once(r, &rng.base);
    atomic_store(&stop, true);
    for (unsigned i = 0; i < READERS; i++) {
        assert_int_equal(pthread_join(readers[i].thread, NULL), 0);
        assert_int_equal(readers[i].wrong, 0);
        served += readers[i].served;
    }
    rig_settle(r);
    tarn_tier_check(r->tier);
    tarn_tier_info(r->tier, &info);
    print_message("%llu reads served, %llu MiB evicted, %llu descriptors\n",
                  (unsigned long long)served, (unsigned long long)(info.evicted_bytes / MIB),
                  (unsigned long long)info.fds);
    assert_true(served > 100 && info.evicted_bytes > 20 * MIB);
    assert_true(info.fds <= 4 && info.checksum_errors == 0);
}

/* A reader inside its pread keeps the bytes: the eviction waits for it. Many readers of one hot
 * group. */
static void *hot_main(void *arg)
{
    struct reader *rd = arg;
    tarn_cid_t cid = rig_cid(1);
    struct tarn_tier_file *f = tarn_tier_file_get(rd->r->tier, &cid, 4 * MIB);
    uint8_t *got = malloc(TARN_READ_MAX), *want = malloc(TARN_READ_MAX);

    rig_bytes(1, MIB, want, TARN_READ_MAX);
    while (!atomic_load(rd->stop)) {
        int64_t rc = tarn_tier_try_read(f, MIB, TARN_READ_MAX, got);

        if (rc < 0)
            (void)sched_yield();
        else
            rd->served++;
        rd->wrong += rc >= 0 && memcmp(got, want, TARN_READ_MAX) != 0;
    }
    free(got);
    free(want);
    tarn_tier_file_put(&f);
    return NULL;
}

static void drop_under_readers(void **state)
{
    struct reader readers[READERS] = {0};
    struct rig *r = *state;
    uint64_t served = 0;
    _Atomic bool stop = false;

    rig_must_open(r, 64 * MIB);
    for (unsigned i = 0; i < READERS; i++) {
        readers[i] = (struct reader){.r = r, .id = i, .stop = &stop};
        assert_int_equal(pthread_create(&readers[i].thread, NULL, hot_main, &readers[i]), 0);
    }
    for (unsigned i = 0; i < 30; i++) {
        assert_int_equal(rig_fill(r, 1, 4 * MIB), 0);
        rig_run_for(r, TARN_NS_PER_MS);
        assert_int_equal(rig_drop(r, 1, 4 * MIB), 0);
    }
    atomic_store(&stop, true);
    for (unsigned i = 0; i < READERS; i++) {
        assert_int_equal(pthread_join(readers[i].thread, NULL), 0);
        assert_int_equal(readers[i].wrong, 0);
        served += readers[i].served;
    }
    assert_true(served > 0);
    rig_settle(r);
    tarn_tier_check(r->tier);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        RIG_TEST(readers_and_evictor),
        RIG_TEST(drop_under_readers),
    };

    tarn_log_set_level(TARN_LOG_ERROR);
    return cmocka_run_group_tests_name("tier_threads", tests, NULL, NULL);
}
