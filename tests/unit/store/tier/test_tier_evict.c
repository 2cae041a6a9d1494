/* SPDX-License-Identifier: Apache-2.0 */
/* Who goes when there is no room, and who stays; descriptors are room, too. */
#include "tests/unit/store/tier/rig.h"

#include <stdlib.h>
#include <unistd.h>

#include "store/tier/tier_format.h"

static void evicts_cold_first(void **state)
{
    struct rig *r = *state;
    uint8_t byte;
    uint64_t kept = 0;

    rig_must_open(r, 128 * MIB);
    for (unsigned nr = 0; nr < 60; nr++) {
        assert_int_equal(rig_fill(r, nr, 4 * MIB), 0);
        for (unsigned hot = 0; hot < 4 && hot <= nr; hot++) { /* used again and again */
            struct tarn_tier_file *f = rig_file(r, hot, 4 * MIB);

            assert_int_equal(tarn_tier_try_read(f, 77, 1, &byte), 1);
            tarn_tier_file_put(&f);
        }
        assert_true(rig_info(r).used_bytes <= 128 * MIB);
    }
    rig_settle(r);
    tarn_tier_check(r->tier);
    for (unsigned nr = 0; nr < 60; nr++) {
        struct rig_found found = rig_check(r, nr, 4 * MIB);

        assert_int_equal(found.wrong, 0);
        assert_true(found.served == 0 || found.absent == 0); /* evicted whole */
        kept += found.served;
        if (nr < 4 || nr == 59)
            assert_int_equal(found.served, 4 * MIB);
    }
    assert_true(kept >= 64 * MIB);
    assert_int_equal(rig_info(r).evicted_bytes, 60 * 4 * MIB - kept);
    assert_true(rig_du(r->dir) <= 128 * MIB);
}

/* A big file loses groups by holes, and the file with the last one. */
static void evicts_by_holes(void **state)
{
    struct rig *r = *state;
    struct tarn_tier_file *f;
    char path[512];

    rig_must_open(r, 96 * MIB);
    assert_int_equal(rig_fill(r, 1, 64 * MIB), 0);
    for (unsigned nr = 2; nr < 30; nr++)
        assert_int_equal(rig_fill(r, nr, 4 * MIB), 0);
    rig_settle(r);
    f = rig_file(r, 1, 64 * MIB);
    rig_data_path(r, 1, path, sizeof(path));
    assert_int_equal(tarn_tier_file_cached(f), 0);
    assert_int_equal(access(path, F_OK), -1);
    tarn_tier_file_put(&f);
    assert_true(rig_du(r->dir) <= 96 * MIB);
    tarn_tier_check(r->tier);
}

static void too_big(void **state)
{
    struct rig *r = *state;

    rig_must_open(r, 64 * MIB);
    assert_int_equal(rig_reserve(r, 65 * MIB), -TARN_E_TIER_FULL);
    assert_int_equal(rig_reserve(r, 20 * MIB), 0);
    assert_int_equal(rig_reserve(r, 45 * MIB), -TARN_E_TIER_FULL);
    tarn_tier_unreserve(r->tier, 20 * MIB);
    rig_close(r);
    r->args.disk_free_bp = 9999; /* no disk is as empty as that */
    rig_must_open(r, 64 * MIB);
    assert_int_equal(rig_reserve(r, 4 * MIB), -TARN_E_TIER_FULL);
}

static void pins_keep(void **state)
{
    struct rig *r = *state;
    struct tarn_tier_file *f;

    rig_must_open(r, 96 * MIB);
    assert_int_equal(rig_fill(r, 1, 12 * MIB), 0);
    f = rig_file(r, 1, 12 * MIB);
    assert_int_equal(tarn_tier_pin(r->tier, f, true), 0);
    assert_int_equal(tarn_tier_pin(r->tier, f, true), 0);
    assert_int_equal(tarn_tier_pin(r->tier, f, false), 0); /* counted: still pinned */
    tarn_tier_file_put(&f);
    for (unsigned nr = 2; nr < 40; nr++)
        assert_int_equal(rig_fill(r, nr, 4 * MIB), 0);
    assert_int_equal(rig_check(r, 1, 12 * MIB).served, 12 * MIB);
    rig_settle(r);
    tarn_tier_check(r->tier);
    rig_close(r);

    rig_must_open(r, 96 * MIB); /* the index kept it */
    for (unsigned nr = 40; nr < 80; nr++)
        assert_int_equal(rig_fill(r, nr, 4 * MIB), 0);
    assert_int_equal(rig_check(r, 1, 12 * MIB).served, 12 * MIB);
    rig_settle(r);
    tarn_tier_check(r->tier);
    f = rig_file(r, 1, 12 * MIB);
    assert_int_equal(tarn_tier_pin(r->tier, f, false), 0);
    tarn_tier_file_put(&f);
    for (unsigned nr = 80; nr < 120; nr++)
        assert_int_equal(rig_fill(r, nr, 4 * MIB), 0);
    assert_int_equal(rig_check(r, 1, 12 * MIB).served, 0);
}

static void pins_are_bounded(void **state)
{
    struct rig *r = *state;
    struct tarn_tier_file *f = NULL;
    uint64_t pinned = 0;
    int rc = 0;

    r->args.high_bp = r->args.low_bp = 10000;
    rig_must_open(r, 64 * MIB);
    for (unsigned nr = 0; nr < 30 && rc == 0; nr++) {
        f = rig_file(r, nr, 4 * MIB);
        assert_int_equal(tarn_tier_pin(r->tier, f, true), 0);
        rc = rig_fill(r, nr, 4 * MIB);
        pinned += rc == 0 ? 4 * MIB : 0;
        tarn_tier_file_put(&f);
    }
    assert_int_equal(rc, -TARN_E_TIER_FULL); /* nothing left that may go, or above nine tenths */
    assert_true(pinned <= 64 * MIB / 10 * 9 && pinned >= 32 * MIB);
    rig_settle(r);
    tarn_tier_check(r->tier);
}

static void smaller_quota(void **state)
{
    struct rig *r = *state;
    unsigned left = 0;

    rig_must_open(r, 256 * MIB);
    for (unsigned nr = 0; nr < 40; nr++)
        assert_int_equal(rig_fill(r, nr, 4 * MIB), 0);
    rig_close(r);
    rig_must_open(r, 96 * MIB); /* ready at once, evicts by itself */
    assert_int_equal(rig_info(r).capacity_bytes, 96 * MIB);
    rig_settle(r);
    assert_true(rig_info(r).used_bytes <= 96 * MIB / 10 * 9);
    assert_true(rig_du(r->dir) <= 96 * MIB / 10 * 9);
    for (unsigned nr = 0; nr < 40; nr++) {
        struct rig_found found = rig_check(r, nr, 4 * MIB);

        assert_int_equal(found.wrong, 0);
        left += found.served > 0;
    }
    assert_true(left > 5 && left < 24);
    assert_int_equal(rig_fill(r, 50, 4 * MIB), 0);
    tarn_tier_check(r->tier);
}

/* Access times outlive a restart: what was used last stays longest. */
static void order_outlives_restart(void **state)
{
    struct rig *r = *state;
    struct tarn_clock_fake clock;
    struct tarn_tier_file *f;
    uint8_t byte;

    tarn_clock_fake_init(&clock, 1700000000ll * (int64_t)TARN_NS_PER_S);
    r->args.clock = &clock.base;
    rig_must_open(r, 256 * MIB);
    for (unsigned nr = 0; nr < 20; nr++) {
        assert_int_equal(rig_fill(r, nr, 4 * MIB), 0);
        tarn_clock_fake_advance(&clock, 5 * TARN_NS_PER_S);
    }
    f = rig_file(r, 0, 4 * MIB);
    assert_int_equal(tarn_tier_try_read(f, 0, 1, &byte), 1);
    tarn_tier_file_put(&f);
    rig_close(r);
    rig_must_open(r, 60 * MIB);
    rig_settle(r);
    assert_int_equal(rig_check(r, 0, 4 * MIB).served, 4 * MIB);
    assert_int_equal(rig_check(r, 1, 4 * MIB).served, 0);
    assert_int_equal(rig_check(r, 19, 4 * MIB).served, 4 * MIB);
}

static void descriptors_are_bounded(void **state)
{
    struct tarn_tier_file *held[20];
    struct rig *r = *state;
    uint8_t byte;

    r->args.fds_max = 8;
    rig_must_open(r, 256 * MIB);
    for (unsigned nr = 0; nr < 200; nr++)
        assert_int_equal(rig_fill(r, nr, 1000), 0);
    assert_true(rig_info(r).fds <= 8);
    for (unsigned nr = 0; nr < 20; nr++) { /* references keep theirs */
        held[nr] = rig_file(r, nr, 1000);
        assert_int_equal(tarn_tier_try_read(held[nr], 0, 1, &byte), 1);
    }
    assert_int_equal(rig_info(r).fds, 20);
    for (unsigned nr = 0; nr < 20; nr++)
        tarn_tier_file_put(&held[nr]);
    assert_true(rig_info(r).fds <= 8);
    for (unsigned nr = 0; nr < 200; nr++)
        assert_int_equal(rig_check(r, nr, 1000).served, 1000);
    assert_true(rig_info(r).fds <= 8);
    tarn_tier_check(r->tier);
}

/* A group of file `nr` that belongs to another worker. */
static void copy_fill(struct rig *r, unsigned nr)
{
    struct tarn_tier_file *f = rig_file(r, nr, 4 * MIB);

    assert_int_equal(rig_store(r, f, nr, 0), 0);
    tarn_tier_group_copy(r->tier, f, 0, true);
    tarn_tier_file_put(&f);
}

/* Copies go first, though they are used more. */
static void copies_go_first(void **state)
{
    struct rig *r = *state;

    rig_must_open(r, 128 * MIB);
    tarn_tier_set_copies_max(r->tier, 64 * MIB);
    for (unsigned nr = 0; nr < 12; nr++)
        assert_int_equal(rig_fill(r, nr, 4 * MIB), 0);
    for (unsigned nr = 100; nr < 108; nr++)
        copy_fill(r, nr);
    assert_int_equal(rig_info(r).copy_bytes, 32 * MIB);
    tarn_tier_check(r->tier);
    for (unsigned nr = 100; nr < 108; nr++)
        rig_assert_whole(r, nr, 4 * MIB);
    for (unsigned nr = 12; nr < 22; nr++)
        assert_int_equal(rig_fill(r, nr, 4 * MIB), 0);
    rig_settle(r);
    tarn_tier_check(r->tier);
    assert_in_range(rig_info(r).evicted_bytes, 4 * MIB, 32 * MIB);
    assert_int_equal(rig_info(r).copy_bytes, 32 * MIB - rig_info(r).evicted_bytes);
    for (unsigned nr = 0; nr < 22; nr++)
        rig_assert_whole(r, nr, 4 * MIB);
    rig_close(r);
    rig_must_open(r, 128 * MIB); /* only memory knew */
    assert_int_equal(rig_info(r).copy_bytes, 0);
    tarn_tier_check(r->tier);
}

static void copies_are_bounded(void **state)
{
    struct rig *r = *state;
    struct tarn_tier_file *f;

    rig_must_open(r, 256 * MIB);
    tarn_tier_set_copies_max(r->tier, 10 * MIB);
    assert_int_equal(rig_fill(r, 1, 4 * MIB), 0);
    for (unsigned nr = 100; nr < 110; nr++) {
        copy_fill(r, nr);
        assert_true(rig_info(r).copy_bytes <= 10 * MIB);
    }
    rig_settle(r);
    tarn_tier_check(r->tier);
    assert_int_equal(rig_info(r).copy_bytes, 8 * MIB);
    rig_assert_whole(r, 109, 4 * MIB);
    rig_assert_whole(r, 1, 4 * MIB);
    f = rig_file(r, 109, 4 * MIB); /* it is ours from now on */
    tarn_tier_group_copy(r->tier, f, 0, false);
    tarn_tier_file_put(&f);
    tarn_tier_set_copies_max(r->tier, 0);
    rig_settle(r);
    tarn_tier_check(r->tier);
    assert_int_equal(rig_info(r).copy_bytes, 0);
    assert_int_equal(rig_info(r).data_bytes, 8 * MIB);
    rig_assert_whole(r, 109, 4 * MIB);
}

static int spare_reserve(struct rig *r, uint64_t bytes)
{
    int rc;

    r->spare = true;
    rc = rig_reserve(r, bytes);
    r->spare = false;
    return rc;
}

/* A reservation of spare room pushes out copies, and nothing else. */
static void spare_room(void **state)
{
    struct rig *r = *state;
    unsigned nr = 0, got = 0;

    rig_must_open(r, 128 * MIB);
    tarn_tier_set_copies_max(r->tier, 64 * MIB);
    copy_fill(r, 100);
    copy_fill(r, 101);
    while (rig_info(r).used_bytes < 128 * MIB / 100 * 89)
        assert_int_equal(rig_fill(r, nr++, 4 * MIB), 0);
    rig_settle(r);
    assert_int_equal(rig_info(r).evicted_bytes, 0);
    for (; spare_reserve(r, 4 * MIB) == 0; got++)
        assert_true(rig_info(r).used_bytes <= 128 * MIB / 100 * 95);
    assert_in_range(got, 2, 4);
    rig_settle(r);
    tarn_tier_check(r->tier);
    assert_int_equal(rig_info(r).evicted_bytes, 8 * MIB); /* both copies */
    for (unsigned i = 0; i < nr; i++)
        rig_assert_whole(r, i, 4 * MIB);
    while (got-- > 0)
        tarn_tier_unreserve(r->tier, 4 * MIB);
}

/* All files once, by their groups. */
static void lists_all(void **state)
{
    struct rig *r = *state;
    unsigned files = 0, groups = 0, part_groups = 0;

    rig_must_open(r, 256 * MIB);
    for (unsigned nr = 0; nr < 200; nr++)
        assert_int_equal(rig_fill(r, nr, 100), 0);
    assert_int_equal(rig_fill(r, 300, 9 * MIB), 0);
    for (unsigned part = 0; part < TARN_TIER_LISTS; part++) {
        tarn_cid_t *cids;
        size_t n = tarn_tier_list(r->tier, part, &cids);

        for (size_t i = 0; i < n; i++) {
            struct tarn_tier_file *f = tarn_tier_file_find(r->tier, &cids[i]);
            uint32_t group = 0;
            bool whole;

            assert_non_null(f);
            files++;
            for (; tarn_tier_next_group(f, &group, &whole); group++) {
                assert_true(whole);
                groups++;
            }
            assert_int_equal(
                tarn_tier_file_cached_in(f, 0, TARN_MIN(tarn_tier_file_length(f), 8 * MIB)),
                TARN_MIN(tarn_tier_file_length(f), 8 * MIB));
            tarn_tier_file_set_replicas(f, 3);
            assert_int_equal(tarn_tier_file_replicas(f), 3);
            if (tarn_tier_file_length(f) > 100) {
                assert_true(tarn_tier_drop_group(r->tier, f, 1));
                assert_false(tarn_tier_drop_group(r->tier, f, 1));
                rig_settle(r);
                for (group = 0; tarn_tier_next_group(f, &group, &whole); group++)
                    part_groups += 10 * group + 1;
                assert_int_equal(tarn_tier_file_cached_in(f, 0, 8 * MIB), 4 * MIB);
                assert_int_equal(tarn_tier_file_cached_in(f, 4 * MIB, 4 * MIB), 0);
                assert_int_equal(tarn_tier_file_cached_in(f, 4 * MIB, 5 * MIB), MIB);
            }
            tarn_tier_file_put(&f);
        }
        free(cids);
    }
    assert_int_equal(files, 201);
    assert_int_equal(groups, 203);
    assert_int_equal(part_groups, 22); /* 0 and 2 */
    tarn_tier_check(r->tier);
    rig_settle(r);
    rig_close(r);
    rig_must_open(r, 256 * MIB);
    for (unsigned nr = 0; nr < 200; nr++) { /* what somebody said outlives a restart */
        struct tarn_tier_file *f = rig_file(r, nr, 100);

        assert_int_equal(tarn_tier_file_replicas(f), 3);
        tarn_tier_file_set_replicas(f, 255);
        assert_int_equal(tarn_tier_file_replicas(f), TARN_TIER_REPLICAS_MAX);
        tarn_tier_file_put(&f);
    }
    rig_settle(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        RIG_TEST(evicts_cold_first),
        RIG_TEST(evicts_by_holes),
        RIG_TEST(too_big),
        RIG_TEST(pins_keep),
        RIG_TEST(pins_are_bounded),
        RIG_TEST(smaller_quota),
        RIG_TEST(copies_go_first),
        RIG_TEST(copies_are_bounded),
        RIG_TEST(spare_room),
        RIG_TEST(lists_all),
        RIG_TEST(order_outlives_restart),
        RIG_TEST(descriptors_are_bounded),
    };

    return cmocka_run_group_tests_name("tier_evict", tests, NULL, NULL);
}
