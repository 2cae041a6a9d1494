/* SPDX-License-Identifier: Apache-2.0 */
/* The contract of tier.h on a healthy disk: stores, reads, drops, and such that meet. */
#include "tests/unit/store/tier/rig.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/hash.h"
#include "store/tier/tier_format.h"

#define ODD (9 * MIB + 12345) /* three groups, the last granule short */

static void fill_read_reopen(void **state)
{
    struct rig *r = *state;
    struct tarn_tier_file *f;
    struct rig_found found;
    tarn_cid_t cid = rig_cid(1);
    uint8_t byte;

    rig_must_open(r, 256 * MIB);
    f = rig_file(r, 1, ODD);
    assert_int_equal(tarn_tier_try_read(f, 0, 1, &byte), -TARN_E_NOT_CACHED);
    assert_null(tarn_tier_file_find(r->tier, &cid));
    assert_int_equal(rig_fill(r, 1, ODD), 0);
    assert_int_equal(tarn_tier_file_cached(f), ODD);
    assert_true(tarn_tier_file_has(f, 0, ODD));
    assert_true(tarn_tier_file_verified(f, 0, ODD));
    found = rig_check_warm(r, 1, ODD); /* a store leaves it verified */
    assert_int_equal(found.served, ODD);
    assert_int_equal(found.wrong, 0);
    tarn_tier_file_put(&f);
    assert_int_equal(rig_info(r).files, 1);
    assert_int_equal(rig_info(r).data_bytes, ODD);
    tarn_tier_check(r->tier);
    rig_close(r);

    rig_must_open(r, 256 * MIB);
    f = tarn_tier_file_find(r->tier, &cid);
    assert_non_null(f);
    assert_int_equal(tarn_tier_file_length(f), ODD);
    assert_true(tarn_tier_file_has(f, 0, ODD));
    assert_false(tarn_tier_file_verified(f, 0, 1));
    assert_int_equal(tarn_tier_try_read(f, 0, 1, &byte),
                     -TARN_E_NOT_CACHED); /* not before it was compared */
    tarn_tier_file_put(&f);
    rig_assert_whole(r, 1, ODD);
    rig_settle(r);
    tarn_tier_check(r->tier);
}

static void read_edges(void **state)
{
    struct rig *r = *state;
    uint8_t *p = malloc(TARN_READ_MAX), *want = malloc(TARN_READ_MAX);
    struct tarn_tier_file *f;

    assert_true(p && want);
    rig_must_open(r, 256 * MIB);
    assert_int_equal(rig_fill(r, 1, ODD), 0);
    f = rig_file(r, 1, ODD);
    /* across two groups, at the end, behind it, and nothing */
    assert_int_equal(tarn_tier_try_read(f, TARN_UNIT_BYTES - 1000, TARN_READ_MAX, p),
                     TARN_READ_MAX);
    rig_bytes(1, TARN_UNIT_BYTES - 1000, want, TARN_READ_MAX);
    assert_memory_equal(p, want, TARN_READ_MAX);
    assert_int_equal(tarn_tier_try_read(f, ODD - 10, 100, p), 10);
    assert_int_equal(tarn_tier_try_read(f, ODD, 100, p), 0);
    assert_int_equal(tarn_tier_try_read(f, UINT64_MAX, 100, p), 0);
    assert_int_equal(tarn_tier_try_read(f, 0, 0, p), 0);
    assert_false(tarn_tier_file_has(f, 0, ODD) && !tarn_tier_file_has(f, 5, UINT64_MAX));
    assert_true(rig_info(r).hits > 0);
    tarn_tier_file_put(&f);
    free(p);
    free(want);
}

static void odd_lengths(void **state)
{
    struct rig *r = *state;
    tarn_cid_t cid = rig_cid(9);
    struct tarn_tier_file *f;

    rig_must_open(r, 256 * MIB);
    f = tarn_tier_file_get(r->tier, &cid, 0);
    assert_non_null(f);
    assert_true(tarn_tier_file_has(f, 0, 0));
    assert_null(tarn_tier_file_get(r->tier, &cid, 1)); /* known with another length */
    assert_int_equal(rig_load(r, f, 0, false, NULL), -TARN_E_NOT_CACHED);
    tarn_tier_file_put(&f);
    assert_null(tarn_tier_file_get(r->tier, &cid, TARN_TIER_FILE_MAX + 1));
    f = tarn_tier_file_get(r->tier, &cid, TARN_TIER_FILE_MAX); /* costs what is used of it */
    assert_non_null(f);
    assert_false(tarn_tier_file_has(f, TARN_TIER_FILE_MAX - 1, 1));
    tarn_tier_file_put(&f);
    for (unsigned nr = 10; nr < 20; nr++)
        assert_int_equal(rig_fill(r, nr, nr - 9), 0);
    for (unsigned nr = 10; nr < 20; nr++)
        rig_assert_whole(r, nr, nr - 9);
}

/* A file of a TiB of which three distant groups are cached: sparse on the disk and in memory. */
static void huge_sparse(void **state)
{
    const uint32_t groups[] = {0, 63, 64, 4095, 4096, 262143};
    struct rig *r = *state;
    struct tarn_tier_file *f;
    uint64_t length = 1024ull * 1024 * MIB;

    rig_must_open(r, 256 * MIB);
    f = rig_file(r, 3, length);
    for (size_t i = 0; i < TARN_ARRAY_LEN(groups); i++)
        assert_int_equal(rig_store(r, f, 3, groups[i]), 0);
    tarn_tier_check(r->tier);
    tarn_tier_file_put(&f);
    assert_true(rig_du(r->dir) < 64 * MIB);
    rig_close(r);
    rig_must_open(r, 256 * MIB);
    f = rig_file(r, 3, length);
    for (size_t i = 0; i < TARN_ARRAY_LEN(groups); i++) {
        uint64_t good = 0;

        assert_int_equal(rig_load(r, f, groups[i], false, &good), 0);
        assert_int_equal(good, ~0ull);
    }
    assert_int_equal(tarn_tier_file_cached(f), TARN_ARRAY_LEN(groups) * TARN_UNIT_BYTES);
    rig_settle(r);
    tarn_tier_check(r->tier);
    tarn_tier_file_put(&f);
}

static void read_gives_sums(void **state)
{
    struct rig *r = *state;
    struct tarn_buf *buf = tarn_buf_new(TARN_UNIT_BYTES);
    struct tarn_tier_file *f;
    struct tarn_tier_op op;

    assert_non_null(buf);
    rig_must_open(r, 256 * MIB);
    assert_int_equal(rig_fill(r, 1, ODD), 0);
    for (int again = 0; again < 2; again++) { /* warm, and after a restart */
        f = rig_file(r, 1, ODD);
        memset(buf->p, 0, TARN_UNIT_BYTES);
        assert_int_equal(rig_read(r, f, 1, 0x30, &op, buf), 0);
        assert_int_equal(op.granules, 0x30);
        for (unsigned i = 4; i < 6; i++)
            assert_int_equal(op.sums[i],
                             tarn_xxh3(buf->p + (i - 4) * TARN_GRANULE_BYTES, TARN_GRANULE_BYTES));
        assert_int_equal(op.sums[3], 0);
        assert_true(tarn_tier_file_verified(f, TARN_UNIT_BYTES + 4ull * TARN_GRANULE_BYTES,
                                            2 * TARN_GRANULE_BYTES));
        assert_int_equal(rig_read(r, f, 7, 1, &op, buf), -TARN_E_NOT_CACHED);
        tarn_tier_file_put(&f);
        rig_close(r);
        rig_must_open(r, 256 * MIB);
    }
    tarn_buf_unref(&buf);
}

static void drop_removes(void **state)
{
    struct rig *r = *state;
    char path[512];

    rig_must_open(r, 256 * MIB);
    assert_int_equal(rig_fill(r, 1, ODD), 0);
    rig_data_path(r, 1, path, sizeof(path));
    assert_int_equal(access(path, F_OK), 0);
    assert_int_equal(rig_drop(r, 1, ODD), 0);
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(rig_info(r).files, 0);
    assert_int_equal(rig_info(r).data_bytes, 0);
    assert_int_equal(rig_drop(r, 1, ODD), 0); /* nothing is there: fine */
    tarn_tier_check(r->tier);
    assert_int_equal(rig_fill(r, 1, ODD), 0);
    rig_assert_whole(r, 1, ODD);
    rig_close(r);
    rig_must_open(r, 256 * MIB);
    assert_int_equal(rig_drop(r, 1, ODD), 0);
    rig_close(r);
    rig_must_open(r, 256 * MIB);
    assert_int_equal(rig_info(r).files, 0);
}

/* ---- bytes of several sources ----------------------------------------------------------- */

static int store_tagged(struct rig *r, struct tarn_tier_file *f, unsigned nr, uint32_t group,
                        uint64_t tag)
{
    uint64_t off = group * (uint64_t)TARN_UNIT_BYTES;
    uint64_t n = TARN_MIN(tarn_tier_file_length(f) - off, TARN_UNIT_BYTES);
    struct tarn_tier_op op = {.file = f, .group = group, .reserved_bytes = n, .tag = tag};
    int rc;

    assert_int_equal(rig_reserve(r, n), 0);
    op.buf = tarn_buf_new(n);
    assert_non_null(op.buf);
    op.buf->len = n;
    rig_bytes(nr, off, op.buf->p, n);
    rc = rig_submit_store(r, &op);
    tarn_buf_unref(&op.buf);
    return rc;
}

static void one_tag(void **state)
{
    struct rig *r = *state;
    struct tarn_tier_file *f;
    uint64_t tag;

    rig_must_open(r, 256 * MIB);
    f = rig_file(r, 1, ODD);
    assert_false(tarn_tier_file_tag(f, &tag));
    assert_int_equal(store_tagged(r, f, 1, 0, 5), 0);
    assert_true(tarn_tier_file_tag(f, &tag));
    assert_int_equal(tag, 5);
    assert_int_equal(store_tagged(r, f, 1, 1, 6), -TARN_E_CANCELLED);
    assert_int_equal(store_tagged(r, f, 1, 1, 0), -TARN_E_CANCELLED);
    assert_int_equal(store_tagged(r, f, 1, 1, 5), 0);
    assert_true(tarn_tier_file_used(f));
    assert_int_equal(rig_info(r).data_bytes, 8 * MIB);
    tarn_tier_file_put(&f);
    rig_close(r);

    rig_must_open(r, 256 * MIB);
    rig_settle(r);
    f = rig_file(r, 1, ODD);
    assert_true(tarn_tier_file_tag(f, &tag));
    assert_int_equal(tag, 5);
    assert_false(tarn_tier_file_used(f));
    assert_int_equal(store_tagged(r, f, 1, 2, 0), -TARN_E_CANCELLED);
    assert_false(tarn_tier_file_used(f));
    assert_int_equal(rig_load(r, f, 0, false, NULL), 0);
    assert_true(tarn_tier_file_used(f));
    assert_int_equal(rig_drop(r, 1, ODD), 0);
    assert_false(tarn_tier_file_tag(f, &tag));
    assert_int_equal(store_tagged(r, f, 1, 2, 0), 0);
    assert_true(tarn_tier_file_tag(f, &tag));
    assert_int_equal(tag, 0);
    tarn_tier_file_put(&f);
    assert_int_equal(rig_check(r, 1, ODD).wrong, 0);
    tarn_tier_check(r->tier);
}

/* ---- requests that meet ----------------------------------------------------------------- */

struct meeting {
    struct rig *r;
    unsigned left;
    int order[8], ended;
};

static void met(struct tarn_tier_op *op, int rc)
{
    struct meeting *m = op->arg;

    (void)rc; /* op->rc */
    m->order[m->ended++] = (int)op->group;
    if (--m->left == 0)
        tarn_loop_stop(m->r->loop);
}

static void meeting_store(struct meeting *m, struct tarn_tier_op *op, struct tarn_tier_file *f,
                          unsigned nr, uint32_t group)
{
    uint64_t n =
        TARN_MIN(tarn_tier_file_length(f) - group * (uint64_t)TARN_UNIT_BYTES, TARN_UNIT_BYTES);

    assert_int_equal(rig_reserve(m->r, n), 0);
    *op =
        (struct tarn_tier_op){.file = f, .group = group, .reserved_bytes = n, .cb = met, .arg = m};
    op->buf = tarn_buf_new(n);
    assert_non_null(op->buf);
    op->buf->len = n;
    rig_bytes(nr, group * (uint64_t)TARN_UNIT_BYTES, op->buf->p, n);
}

static void drop_overtakes_store(void **state)
{
    struct rig *r = *state;
    struct meeting m = {.r = r, .left = 4};
    struct tarn_tier_op a, b, late, drop;
    struct tarn_tier_file *f;

    rig_must_open(r, 256 * MIB);
    f = rig_file(r, 1, ODD);
    meeting_store(&m, &a, f, 1, 0);
    meeting_store(&m, &b, f, 1, 1);
    meeting_store(&m, &late, f, 1, 2);
    drop = (struct tarn_tier_op){.file = f, .group = 99, .cb = met, .arg = &m};
    tarn_tier_store(r->tier, &a);
    tarn_tier_store(r->tier, &b);
    tarn_tier_drop(r->tier, &drop);
    tarn_tier_store(r->tier, &late); /* asked for after the drop: stays */
    tarn_loop_run(r->loop);
    assert_int_equal(a.rc, -TARN_E_CANCELLED);
    assert_int_equal(b.rc, -TARN_E_CANCELLED);
    assert_int_equal(drop.rc, 0);
    assert_int_equal(late.rc, 0);
    assert_false(tarn_tier_file_has(f, 0, 1));
    assert_true(tarn_tier_file_has(f, 8 * MIB, MIB));
    assert_int_equal(tarn_tier_file_cached(f), ODD - 8 * MIB);
    tarn_tier_file_put(&f);
    tarn_buf_unref(&a.buf);
    tarn_buf_unref(&b.buf);
    tarn_buf_unref(&late.buf);
    rig_settle(r);
    tarn_tier_check(r->tier);
    rig_close(r);
    rig_must_open(r, 256 * MIB);
    assert_int_equal(rig_info(r).data_bytes, ODD - 8 * MIB);
}

/* Two stores of one group and loads of it at the same time: one of them writes, all end well. */
static void same_group_at_once(void **state)
{
    struct rig *r = *state;
    struct meeting m = {.r = r, .left = 5};
    struct tarn_tier_op a, b, c, load, load2;
    struct tarn_tier_file *f;

    rig_must_open(r, 256 * MIB);
    f = rig_file(r, 1, ODD);
    meeting_store(&m, &a, f, 1, 0);
    meeting_store(&m, &b, f, 1, 0);
    meeting_store(&m, &c, f, 1, 1);
    load = load2 = (struct tarn_tier_op){.file = f, .cb = met, .arg = &m};
    tarn_tier_store(r->tier, &a);
    tarn_tier_store(r->tier, &b);
    tarn_tier_store(r->tier, &c);
    tarn_tier_load(r->tier, &load);
    tarn_tier_load(r->tier, &load2);
    tarn_loop_run(r->loop);
    assert_int_equal(a.rc, 0);
    assert_int_equal(b.rc, 0);
    assert_int_equal(c.rc, 0);
    assert_int_equal(load.rc, -TARN_E_NOT_CACHED);
    tarn_tier_file_put(&f);
    tarn_buf_unref(&a.buf);
    tarn_buf_unref(&b.buf);
    tarn_buf_unref(&c.buf);
    assert_int_equal(rig_check_warm(r, 1, ODD).served, 8 * MIB);
    tarn_tier_check(r->tier);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        RIG_TEST(fill_read_reopen), RIG_TEST(read_edges),           RIG_TEST(odd_lengths),
        RIG_TEST(huge_sparse),      RIG_TEST(read_gives_sums),      RIG_TEST(drop_removes),
        RIG_TEST(one_tag),          RIG_TEST(drop_overtakes_store), RIG_TEST(same_group_at_once),
    };

    return cmocka_run_group_tests_name("tier", tests, NULL, NULL);
}
