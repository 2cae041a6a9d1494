/* SPDX-License-Identifier: Apache-2.0 */
/* Each fault point failing in turn, once and for long. */
#include "tests/unit/store/tier/rig.h"

#include <errno.h>

#include "lib/base/fault.h"

/* Stores, reads, restarts, with pass `skip` of a point failing `count` times. Nothing wrong is ever
 * served. */
static void faulty_life(struct rig *r, unsigned base, enum tarn_fault_point point, unsigned skip,
                        unsigned count, int rc)
{
    struct rig_found found;
    int got;

    tarn_fault_arm(point, skip, count, rc);
    for (unsigned nr = base; nr < base + 6; nr++) {
        got = rig_fill(r, nr, 300 * KIB);
        assert_true(got == 0 || got == rc || got == -TARN_E_TIER_FULL ||
                    got == -TARN_E_TIER_OFFLINE);
        found = rig_check(r, nr, 300 * KIB);
        assert_int_equal(found.wrong, 0);
        assert_true(got == 0 || found.served == 0); /* a failed store leaves nothing */
    }
    (void)rig_drop(r, base, 300 * KIB); /* its result may be the fault */
    found = rig_check(r, base, 300 * KIB);
    assert_int_equal(found.served, 0);
    tarn_fault_reset();
    rig_settle(r);
    tarn_tier_check(r->tier);
    assert_true(rig_du(r->dir) <= rig_info(r).used_bytes);
}

static void fault_each(void **state, enum tarn_fault_point point, int rc, bool offline_after)
{
    struct rig *r = *state;
    struct rig_found found;

#ifndef TARN_FAULTS
    skip();
#endif
    for (unsigned nth = 0; nth < 10; nth++) {
        unsigned base = nth * 10;

        rig_must_open(r, 64 * MIB);
        for (unsigned nr = base - 9; nth > 0 && nr < base - 4; nr++) { /* of the round before */
            found = rig_check(r, nr, 300 * KIB);
            assert_int_equal(found.wrong, 0);
            assert_int_equal(found.served, 300 * KIB);
        }
        faulty_life(r, base, point, nth, 1, rc);
        assert_false(rig_info(r).offline); /* one failure is no pattern */
        for (unsigned nr = base + 1; nr < base + 6; nr++)
            assert_int_equal(rig_fill(r, nr, 300 * KIB), 0);
        rig_close(r);
    }
    rig_must_open(r, 64 * MIB);
    faulty_life(r, 500, point, 3, 1000, rc);
    assert_int_equal(rig_info(r).offline, offline_after);
}

static void fault_write_eio(void **state)
{
    fault_each(state, TARN_FAULT_disk_write, -EIO, true);
}

static void fault_write_enospc(void **state)
{
    fault_each(state, TARN_FAULT_disk_write, -ENOSPC, false);
}

static void fault_open(void **state)
{
    fault_each(state, TARN_FAULT_disk_open, -EMFILE, false);
}

static void fault_reserve(void **state)
{
    fault_each(state, TARN_FAULT_tier_reserve, -TARN_E_TIER_FULL, false);
}

static void fault_kv_space(void **state)
{
    fault_each(state, TARN_FAULT_kv_write, -TARN_E_KV_NO_SPACE, false);
}

static void fault_kv_broken(void **state)
{
    struct rig *r = *state;

#ifndef TARN_FAULTS
    skip();
#endif
    rig_must_open(r, 64 * MIB);
    assert_int_equal(rig_fill(r, 1, MIB), 0);
    tarn_fault_arm(TARN_FAULT_kv_write, 0, 1, -TARN_E_KV);
    assert_int_equal(rig_fill(r, 2, MIB), -TARN_E_TIER_OFFLINE);
    assert_true(rig_info(r).offline);
    assert_int_equal(rig_fill(r, 3, MIB), -TARN_E_TIER_OFFLINE);
    assert_int_equal(rig_check(r, 1, MIB).served, 0);
    tarn_fault_reset();
    rig_close(r);
    rig_must_open(r, 64 * MIB); /* a restart tries again */
    rig_assert_whole(r, 1, MIB);
    assert_int_equal(rig_check(r, 2, MIB).served, 0);
}

/* Failed reads drop what could not be read; three in a row and the tier is offline. */
static void fault_read(void **state)
{
    struct rig *r = *state;
    struct tarn_tier_file *f;
    uint8_t byte;

#ifndef TARN_FAULTS
    skip();
#endif
    rig_must_open(r, 64 * MIB);
    for (unsigned nr = 0; nr < 6; nr++)
        assert_int_equal(rig_fill(r, nr, MIB), 0);
    f = rig_file(r, 0, MIB);
    tarn_fault_arm(TARN_FAULT_disk_read, 0, 1, -EIO);
    assert_int_equal(tarn_tier_try_read(f, 0, 1, &byte), -TARN_E_TIER_OFFLINE);
    rig_settle(r);
    assert_false(tarn_tier_file_has(f, 0, 1));
    assert_int_equal(rig_info(r).evicted_bytes, 0); /* lost, not evicted */
    assert_false(rig_info(r).offline);
    tarn_tier_file_put(&f);
    tarn_tier_check(r->tier);
    assert_int_equal(rig_fill(r, 0, MIB), 0);
    rig_close(r);
    rig_must_open(r, 64 * MIB);
    tarn_fault_arm(TARN_FAULT_disk_read, 0, 3, -EIO);
    for (unsigned nr = 0; nr < 3; nr++) {
        f = rig_file(r, nr, MIB);
        assert_true(rig_load(r, f, 0, false, NULL) < 0);
        tarn_tier_file_put(&f);
        rig_settle(r); /* that the group could be removed does not make up for it */
    }
    assert_true(rig_info(r).offline);
}

static void fault_kv_read(void **state)
{
    struct rig *r = *state;
    struct tarn_tier_file *f;

#ifndef TARN_FAULTS
    skip();
#endif
    rig_must_open(r, 64 * MIB);
    assert_int_equal(rig_fill(r, 0, MIB), 0);
    rig_close(r);
    rig_must_open(r, 64 * MIB);
    rig_settle(r);
    f = rig_file(r, 0, MIB);
    tarn_fault_arm(TARN_FAULT_kv_read, 0, 1, -TARN_E_KV);
    assert_true(rig_load(r, f, 0, false, NULL) < 0);
    tarn_tier_file_put(&f);
    rig_settle(r);
    tarn_tier_check(r->tier);
    assert_int_equal(rig_fill(r, 0, MIB), 0);
    rig_assert_whole(r, 0, MIB);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        RIG_TEST(fault_write_eio), RIG_TEST(fault_write_enospc), RIG_TEST(fault_open),
        RIG_TEST(fault_reserve),   RIG_TEST(fault_kv_space),     RIG_TEST(fault_kv_broken),
        RIG_TEST(fault_read),      RIG_TEST(fault_kv_read),
    };

    return cmocka_run_group_tests_name("tier_faults", tests, NULL, NULL);
}
