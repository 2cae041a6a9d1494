/* SPDX-License-Identifier: Apache-2.0 */
/* Range reads and fetch units over a directory: every border, eviction, cancel, stop, budgets. */
#include "tests/unit/worker/worker_rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- bytes ---------------------------------------------------------------------------------- */

static void sizes_at_borders(void **state)
{
    static const uint64_t sizes[] = {1,       64 * KIB - 1, 64 * KIB, 64 * KIB + 1,   4 * MIB - 1,
                                     4 * MIB, 4 * MIB + 1,  8 * MIB,  8 * MIB + 70000};
    struct rig r;

    (void)state;
    rig_init(&r, &(struct rig_args){.quota = 128 * MIB});
    rig_open_dir(&r, 0);
    for (unsigned i = 0; i < TARN_ARRAY_LEN(sizes); i++) {
        char name[16];
        struct obj o;
        uint64_t fetches;

        (void)snprintf(name, sizeof(name), "f%u", i);
        rig_put(&r, name, i, sizes[i]);
        rig_find(&r, &o, 0, name, i);
        rig_read_all(&r, &o, 1 << 20);
        rig_stored(&r);
        fetches = r.worker->counts.fetches;
        rig_read_all(&r, &o, 700001);
        for (uint64_t at = 4 * MIB; at + 1 < sizes[i]; at += 4 * MIB) {
            assert_int_equal(rig_read(&r, &o, at - 1, 1), 0);
            assert_int_equal(rig_read(&r, &o, at - 1, 2), 0);
            assert_int_equal(rig_read(&r, &o, at, 1), 0);
        }
        assert_int_equal(r.worker->counts.fetches, fetches);
        assert_int_equal(rig_read(&r, &o, sizes[i], 1), -TARN_E_INVALID);
        assert_int_equal(rig_read(&r, &o, sizes[i] - 1, 2), -TARN_E_INVALID);
    }
    tarn_tier_check(r.tier);
    rig_fini(&r);
}

static void without_a_tier(void **state)
{
    struct rig r;
    struct obj o;

    (void)state;
    rig_init(&r, &(struct rig_args){0});
    rig_open_dir(&r, 0);
    rig_put(&r, "f", 1, 5 * MIB);
    rig_find(&r, &o, 0, "f", 1);
    rig_read_all(&r, &o, 1 << 20);
    assert_int_equal(r.worker->counts.local_bytes, 0);
    assert_int_equal(r.worker->counts.ufs_bytes, 5 * MIB);
    rig_fini(&r);
}

static void one_fetch_for_many(void **state)
{
    struct rig r;
    struct obj o;
    struct op *ops = tarn_xcalloc(100, sizeof(*ops));

    (void)state;
    rig_init(&r, &(struct rig_args){.quota = 64 * MIB});
    rig_open_dir(&r, 0);
    rig_put(&r, "f", 1, 4 * MIB);
    rig_find(&r, &o, 0, "f", 1);
    for (unsigned i = 0; i < 100; i++)
        op_start(&ops[i], &r, &o, i * 40000, 40000, 0);
    for (unsigned i = 0; i < 100; i++) {
        rig_until(&r, &ops[i].done, 1);
        assert_int_equal(ops[i].rc, 0);
        assert_false(ops[i].wrong);
    }
    assert_int_equal(r.worker->counts.fetches, 1);
    free(ops);
    rig_fini(&r);
}

static void many_waiters_small_budget(void **state)
{
    enum { N = 10000 };
    struct rig r;
    struct obj o;
    struct op *ops = tarn_xcalloc(N, sizeof(*ops));
    uint64_t peak = 0;

    (void)state;
    rig_init(&r, &(struct rig_args){.quota = 128 * MIB, .fetch_max = 8 * MIB});
    rig_open_dir(&r, 0);
    rig_put(&r, "f", 1, 40 * MIB + 5);
    rig_find(&r, &o, 0, "f", 1);
    for (unsigned i = 0; i < N; i++)
        op_start(&ops[i], &r, &o, (uint64_t)i * 4100, 2000, 0);
    for (unsigned i = 0; i < N; i++) {
        while (!ops[i].done) {
            rig_run_for(&r, TARN_NS_PER_MS / 4);
            peak = TARN_MAX(peak, r.worker->fetch_bytes);
        }
        assert_int_equal(ops[i].rc, 0);
        assert_false(ops[i].wrong);
    }
    assert_in_range(peak, 1, 8 * MIB);
    assert_int_equal(r.worker->counts.fetches, 10);
    free(ops);
    rig_fini(&r);
}

static void tier_smaller_than_the_file(void **state)
{
    enum { N = 300 };
    struct rig r;
    struct obj o;
    struct op *ops = tarn_xcalloc(N, sizeof(*ops));

    (void)state;
    rig_init(&r, &(struct rig_args){.quota = 20 * MIB, .fetch_max = 12 * MIB});
    rig_open_dir(&r, 0);
    rig_put(&r, "f", 1, 48 * MIB);
    rig_find(&r, &o, 0, "f", 1);
    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < N; i++)
            op_start(&ops[i], &r, &o, (uint64_t)i * 150000, 150000, i % 3);
        for (unsigned i = 0; i < N; i++) {
            rig_until(&r, &ops[i].done, 1);
            assert_int_equal(ops[i].rc, 0);
            assert_false(ops[i].wrong);
        }
    }
    free(ops);
    rig_fini(&r);
}

/* A file of more groups than a number of a group can name must not be served modulo that. */
static void too_long_for_groups(void **state)
{
    struct rig r;
    struct obj o;
    struct tarn_ufs_version v = {.size_bytes = (1ull << 54) + 4096, .mtime_ns = 1, .file_id = 9};

    (void)state;
    rig_init(&r, &(struct rig_args){.quota = 64 * MIB});
    rig_open_dir(&r, 0);
    rig_put(&r, "f", 1, 8192);
    rig_obj(&r, &o, 0, "f", 1, &v);
    assert_int_equal(rig_read(&r, &o, 1ull << 54, 100), -TARN_E_TOO_BIG);
    rig_fini(&r);
}

static void known_with_another_length(void **state)
{
    struct rig r;
    struct obj o;
    struct tarn_tier_file *f;

    (void)state;
    rig_init(&r, &(struct rig_args){.quota = 64 * MIB});
    rig_open_dir(&r, 0);
    rig_put(&r, "f", 1, 300000);
    rig_find(&r, &o, 0, "f", 1);
    f = tarn_tier_file_get(r.tier, &o.cid, 12345); /* as a peer made it up */
    assert_non_null(f);
    rig_read_all(&r, &o, 100000);
    assert_int_equal(tarn_tier_file_cached(f), 0);
    tarn_tier_file_put(&f);
    rig_fini(&r);
}

static void locators_are_checked(void **state)
{
    struct rig r;
    struct obj o, bad;

    (void)state;
    rig_init(&r, &(struct rig_args){.quota = 64 * MIB});
    rig_open_dir(&r, 0);
    rig_put(&r, "f", 1, 1000);
    rig_put(&r, "g", 2, 1000);
    rig_find(&r, &o, 0, "f", 1);
    rig_find(&r, &bad, 0, "g", 2);
    bad.msg.cid = o.msg.cid; /* g's bytes under f's name */
    assert_int_equal(rig_read(&r, &bad, 0, 10), -TARN_E_CAP_BAD);
    bad = o;
    bad.msg.attachment = 3;
    assert_int_equal(rig_read(&r, &bad, 0, 10), -TARN_E_NO_ATTACH);
    rig_find(&r, &bad, 0, "f", 1);
    bad.msg.key.len = 0;
    assert_int_equal(rig_read(&r, &bad, 0, 10), -TARN_E_MSG_BAD);
    rig_find(&r, &bad, 0, "f", 1);
    bad.msg.key.len = 2; /* with its NUL */
    assert_int_equal(rig_read(&r, &bad, 0, 10), -TARN_E_MSG_BAD);
    rig_find(&r, &bad, 0, "f", 1);
    bad.msg.cid.len = 15;
    assert_int_equal(rig_read(&r, &bad, 0, 10), -TARN_E_MSG_BAD);
    rig_find(&r, &bad, 0, "f", 1);
    bad.msg.ufs = NULL;
    assert_int_equal(rig_read(&r, &bad, 0, 10), -TARN_E_MSG_BAD);
    assert_int_equal(r.worker->counts.fetches, 0);
    assert_int_equal(rig_read(&r, &o, 0, 10), 0);
    rig_fini(&r);
}

/* ---- reading ahead -------------------------------------------------------------------------- */

static void ahead_within_the_file(void **state)
{
    struct rig r;
    struct obj o;
    struct op op;

    (void)state;
    rig_init(&r, &(struct rig_args){.quota = 128 * MIB});
    rig_open_dir(&r, 0);
    rig_put(&r, "f", 1, 10 * MIB);
    rig_find(&r, &o, 0, "f", 1);
    op_start(&op, &r, &o, 0, 1000, 8);
    rig_until(&r, &op.done, 1);
    rig_run_for(&r, 200 * TARN_NS_PER_MS);
    assert_int_equal(r.worker->counts.fetches, 3);
    assert_int_equal(rig_read(&r, &o, 9 * MIB, 1000), 0);
    assert_int_equal(r.worker->counts.fetches, 3);
    rig_fini(&r);
}

/* What cannot be kept is not fetched ahead of need: it would be thrown away. */
static void ahead_only_what_is_kept(void **state)
{
    struct rig r;
    struct obj o;
    struct op op;

    (void)state;
    rig_init(&r, &(struct rig_args){.quota = 2 * MIB}); /* no unit fits */
    rig_open_dir(&r, 0);
    rig_put(&r, "f", 1, 20 * MIB);
    rig_find(&r, &o, 0, "f", 1);
    op_start(&op, &r, &o, 0, 1000, 4);
    rig_until(&r, &op.done, 1);
    assert_int_equal(op.rc, 0);
    rig_run_for(&r, 100 * TARN_NS_PER_MS);
    assert_int_equal(r.worker->counts.fetches, 1);
    rig_fini(&r);
}

/* A unit that cannot be kept is fetched once for those who read it piece by piece. */
static void pieces_of_what_is_not_kept(void **state)
{
    struct rig r;
    struct obj o;

    (void)state;
    rig_init(&r, &(struct rig_args){.quota = 2 * MIB, .fetch_max = 8 * MIB});
    rig_open_dir(&r, 0);
    rig_put(&r, "f", 1, 16 * MIB);
    rig_find(&r, &o, 0, "f", 1);
    for (unsigned round = 1; round <= 2; round++) {
        rig_read_all(&r, &o, 128 * KIB);
        assert_in_range(r.worker->fetch_bytes, 4 * MIB, 8 * MIB);
        assert_int_equal(r.worker->counts.fetches, 4 * round);
    }
    rig_run_for(&r, 2200 * TARN_NS_PER_MS); /* a moment, not for ever */
    assert_int_equal(r.worker->fetch_bytes, 0);
    rig_fini(&r);
}

/* ---- ends ----------------------------------------------------------------------------------- */

static void stop_with_a_queue(void **state)
{
    enum { N = 2000 };
    struct rig r;
    struct obj o;
    struct op *ops = tarn_xcalloc(N, sizeof(*ops));

    (void)state;
    for (int tier = 0; tier < 2; tier++) {
        rig_init(&r, &(struct rig_args){.quota = tier ? 64 * MIB : 0, .fetch_max = 4 * MIB});
        rig_open_dir(&r, 0);
        rig_put(&r, "f", 1, 60 * MIB);
        rig_find(&r, &o, 0, "f", 1);
        for (unsigned i = 0; i < N; i++)
            op_start(&ops[i], &r, &o, (uint64_t)i * 30000, 3000, 0);
        rig_run_for(&r, 2 * TARN_NS_PER_MS);
        rig_fini(&r);
        for (unsigned i = 0; i < N; i++) {
            assert_int_equal(ops[i].done, 1);
            assert_true(ops[i].rc == 0 || ops[i].rc == -TARN_E_SHUTDOWN);
        }
    }
    free(ops);
}

static void reads_after_stop(void **state)
{
    struct rig r;
    struct obj o;

    (void)state;
    rig_init(&r, &(struct rig_args){.quota = 64 * MIB});
    rig_open_dir(&r, 0);
    rig_put(&r, "f", 1, 1000);
    rig_find(&r, &o, 0, "f", 1);
    r.worker->stopping = true;
    assert_int_equal(rig_read(&r, &o, 0, 1000), -TARN_E_SHUTDOWN);
    r.worker->stopping = false;
    rig_fini(&r);
}

/* Reads that nobody waits for any more do not cost fetches that had not begun. */
static void forgotten_in_the_queue(void **state)
{
    struct rig r;
    struct obj o;
    struct op ops[14];

    (void)state;
    rig_init(&r, &(struct rig_args){.quota = 128 * MIB, .fetch_max = 4 * MIB});
    rig_open_dir(&r, 0);
    rig_put(&r, "f", 1, 56 * MIB);
    rig_find(&r, &o, 0, "f", 1);
    for (unsigned i = 0; i < 14; i++)
        op_start(&ops[i], &r, &o, i * 4 * MIB, 3000, 0);
    for (unsigned i = 0; i < 14; i++)
        r.ops.cancel(r.ops.ctx, &ops[i].read);
    for (unsigned i = 0; i < 14; i++)
        assert_int_equal(ops[i].done, 0); /* never inside */
    for (unsigned i = 0; i < 14; i++) {
        rig_until(&r, &ops[i].done, 1);
        assert_int_equal(ops[i].rc, -TARN_E_CANCELLED);
    }
    rig_run_for(&r, 50 * TARN_NS_PER_MS);
    assert_int_equal(r.worker->counts.fetches, 1);
    assert_int_equal(rig_read(&r, &o, 50 * MIB, 1000), 0);
    rig_fini(&r);
}

/* The store of queued units goes away: they end, and nothing touches it. */
static void detached_under_a_queue(void **state)
{
    struct rig r;
    struct obj o;
    struct op ops[10];

    (void)state;
    rig_init(&r, &(struct rig_args){.quota = 128 * MIB, .fetch_max = 4 * MIB});
    rig_open_dir(&r, 0);
    rig_put(&r, "f", 1, 40 * MIB);
    rig_find(&r, &o, 0, "f", 1);
    for (unsigned i = 0; i < 10; i++)
        op_start(&ops[i], &r, &o, i * 4 * MIB, 3000, 0);
    rig_run_for(&r, TARN_NS_PER_MS);
    rig_close_store(&r, 0);
    for (unsigned i = 0; i < 10; i++) {
        rig_until(&r, &ops[i].done, 1);
        assert_true(ops[i].rc == 0 || ops[i].rc == -TARN_E_NO_ATTACH);
    }
    assert_int_equal(ops[9].rc, -TARN_E_NO_ATTACH);
    rig_fini(&r);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_at_borders),           cmocka_unit_test(without_a_tier),
        cmocka_unit_test(one_fetch_for_many),         cmocka_unit_test(many_waiters_small_budget),
        cmocka_unit_test(tier_smaller_than_the_file), cmocka_unit_test(too_long_for_groups),
        cmocka_unit_test(known_with_another_length),  cmocka_unit_test(locators_are_checked),
        cmocka_unit_test(ahead_within_the_file),      cmocka_unit_test(ahead_only_what_is_kept),
        cmocka_unit_test(pieces_of_what_is_not_kept), cmocka_unit_test(stop_with_a_queue),
        cmocka_unit_test(reads_after_stop),           cmocka_unit_test(forgotten_in_the_queue),
        cmocka_unit_test(detached_under_a_queue),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
