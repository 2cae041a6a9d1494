/* SPDX-License-Identifier: Apache-2.0 */
/* The contract of tier.h on a healthy disk, and with each fault point failing in turn. */
#include "tests/unit/store/tier/rig.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/fault.h"
#include "lib/base/hash.h"
#include "store/tier/tier_format.h"

#define ODD (9 * MIB + 12345) /* three groups, the last granule short */

static int set_up(void **state)
{
    struct rig *r = calloc(1, sizeof(*r));

    assert_non_null(r);
    rig_init(r, 3, NULL);
    *state = r;
    return 0;
}

static int tear_down(void **state)
{
    tarn_fault_reset();
    rig_fini(*state);
    free(*state);
    return 0;
}

static struct tarn_tier_info info_of(struct rig *r)
{
    struct tarn_tier_info i;

    tarn_tier_info(r->tier, &i);
    return i;
}

static void assert_whole(struct rig *r, unsigned nr, uint64_t length)
{
    struct rig_found found = rig_check(r, nr, length);

    assert_int_equal(found.wrong, 0);
    assert_int_equal(found.absent, 0);
    assert_int_equal(found.served, length);
}

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
    assert_int_equal(info_of(r).files, 1);
    assert_int_equal(info_of(r).data_bytes, ODD);
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
    assert_whole(r, 1, ODD);
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
    assert_true(info_of(r).hits > 0);
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
        assert_whole(r, nr, nr - 9);
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
                             tarn_xxh3(buf->p + i * TARN_GRANULE_BYTES, TARN_GRANULE_BYTES));
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
    assert_int_equal(info_of(r).files, 0);
    assert_int_equal(info_of(r).data_bytes, 0);
    assert_int_equal(rig_drop(r, 1, ODD), 0); /* nothing is there: fine */
    tarn_tier_check(r->tier);
    assert_int_equal(rig_fill(r, 1, ODD), 0);
    assert_whole(r, 1, ODD);
    rig_close(r);
    rig_must_open(r, 256 * MIB);
    assert_int_equal(rig_drop(r, 1, ODD), 0);
    rig_close(r);
    rig_must_open(r, 256 * MIB);
    assert_int_equal(info_of(r).files, 0);
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
    assert_int_equal(info_of(r).data_bytes, ODD - 8 * MIB);
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

/* ---- eviction --------------------------------------------------------------------------- */

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
        assert_true(info_of(r).used_bytes <= 128 * MIB);
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
    assert_int_equal(info_of(r).evicted_bytes, 60 * 4 * MIB - kept);
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
    assert_int_equal(info_of(r).capacity_bytes, 96 * MIB);
    rig_settle(r);
    assert_true(info_of(r).used_bytes <= 96 * MIB / 10 * 9);
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
    assert_true(info_of(r).fds <= 8);
    for (unsigned nr = 0; nr < 20; nr++) { /* references keep theirs */
        held[nr] = rig_file(r, nr, 1000);
        assert_int_equal(tarn_tier_try_read(held[nr], 0, 1, &byte), 1);
    }
    assert_int_equal(info_of(r).fds, 20);
    for (unsigned nr = 0; nr < 20; nr++)
        tarn_tier_file_put(&held[nr]);
    assert_true(info_of(r).fds <= 8);
    for (unsigned nr = 0; nr < 200; nr++)
        assert_int_equal(rig_check(r, nr, 1000).served, 1000);
    assert_true(info_of(r).fds <= 8);
    tarn_tier_check(r->tier);
}

/* ---- whose directory -------------------------------------------------------------------- */

static void write_file(const char *dir, const char *name, const void *p, size_t n)
{
    char path[512];
    FILE *f;

    (void)snprintf(path, sizeof(path), "%s/%s", dir, name);
    f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(p, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static void two_opens(void **state)
{
    struct rig *r = *state;
    struct tarn_tier *other = NULL;
    struct tarn_errbuf err = {0};

    rig_must_open(r, 256 * MIB);
    assert_int_equal(tarn_tier_open(&r->args, &err, &other), -TARN_E_DIR_LOCKED);
    assert_null(other);
    assert_non_null(strstr(err.text, r->dir));
    assert_int_equal(rig_fill(r, 1, MIB), 0);
}

static void other_owner(void **state)
{
    struct rig *r = *state;

    rig_must_open(r, 256 * MIB);
    assert_int_equal(rig_fill(r, 1, MIB), 0);
    rig_close(r);
    r->args.owner_id = "c-other";
    assert_int_equal(rig_open(r), -TARN_E_DIR_FOREIGN);
    assert_non_null(strstr(r->err.text, "c-test"));
    r->args.replace = true;
    rig_must_open(r, 256 * MIB);
    assert_whole(r, 1, MIB); /* a cid says the same in every cluster */
    rig_close(r);
    r->args.replace = false;
    rig_must_open(r, 256 * MIB);
    rig_close(r);
    r->args.owner_id =
        "an-owner-id-that-is-much-longer-than-any-cluster-id-has-a-reason-to-be-and-does-not-fit";
    assert_int_equal(rig_open(r), -TARN_E_INVALID);
}

static void newer_format(void **state)
{
    struct rig *r = *state;
    uint8_t b[136] = {0};
    struct tarn_tier_format f = {.owner = "c-test"};
    uint64_t sum;
    char before[64], cmd[600];
    FILE *p;

    rig_must_open(r, 256 * MIB);
    assert_int_equal(rig_fill(r, 1, MIB), 0);
    rig_close(r);
    tarn_tier_format_encode(&f, b);
    b[8] = 2;
    b[12] = sizeof(b);
    sum = tarn_xxh3(b, sizeof(b) - 8);
    memcpy(b + sizeof(b) - 8, &sum, 8);
    write_file(r->dir, "FORMAT", b, sizeof(b));
    (void)snprintf(cmd, sizeof(cmd), "cd %s && find . -type f | sort | xargs sha256sum | sha256sum",
                   r->dir);
    p = popen(cmd, "r");
    assert_true(p && fgets(before, sizeof(before), p));
    (void)pclose(p);
    assert_int_equal(rig_open(r), -TARN_E_FORMAT_NEWER);
    p = popen(cmd, "r");
    assert_true(p && fgets((char *)b, 65, p));
    (void)pclose(p);
    assert_memory_equal(b, before, 60); /* nothing was touched */
}

static void foreign_directory(void **state)
{
    struct rig *r = *state;
    char other[300];

    assert_int_equal(mkdir(r->dir, 0700), 0);
    write_file(r->dir, "thesis.txt", "x", 1);
    assert_int_equal(rig_open(r), -TARN_E_DIR_FOREIGN);
    write_file(r->dir, "LOCK", "", 0); /* as RocksDB's */
    assert_int_equal(rig_open(r), -TARN_E_DIR_FOREIGN);
    assert_int_equal(
        rig_shell("cd '%s' && test -f thesis.txt && test ! -e FORMAT && rm -f *", r->dir), 0);
    assert_int_equal(chmod(r->dir, 0777), 0);
    assert_int_equal(rig_open(r), -TARN_E_DIR_FOREIGN); /* others may write there */
    assert_int_equal(chmod(r->dir, 0700), 0);
    (void)snprintf(other, sizeof(other), "%s-link", r->dir);
    assert_int_equal(symlink(r->dir, other), 0);
    r->args.path = other;
    rig_must_open(r, 256 * MIB); /* our own link is fine */
    rig_close(r);
    if (geteuid() == 0) {
        assert_int_equal(lchown(other, 65534, 65534), 0);
        assert_int_equal(rig_open(r), -TARN_E_DIR_FOREIGN);
        assert_int_equal(lchown(r->dir, 65534, 65534), 0);
        r->args.path = r->dir;
        assert_int_equal(rig_open(r), -TARN_E_DIR_FOREIGN);
    }
}

static void modes(void **state)
{
    struct rig *r = *state;

    rig_must_open(r, 256 * MIB);
    assert_int_equal(rig_fill(r, 1, MIB), 0);
    assert_int_equal(
        rig_shell("test -z \"$(find '%s' -maxdepth 0 -perm /077; find '%s/data' -perm /077)\"",
                  r->dir, r->dir),
        0);
}

/* A link with a cache file's name, planted before its first use and in place of a cached file. */
static void planted_links(void **state)
{
    struct rig *r = *state;
    char path[512], victim[512];
    uint8_t *precious = malloc(MIB);

    (void)snprintf(victim, sizeof(victim), "%s-victim", r->dir);
    r->args.fds_max = 0; /* every read opens */
    rig_must_open(r, 256 * MIB);
    memset(precious, 'x', MIB);
    write_file("/", victim + 1, precious, MIB); /* as long as the cache file */
    for (int round = 0; round < 3; round++) {   /* never cached, before a start, while it runs */
        rig_data_path(r, 1, path, sizeof(path));
        if (round == 0)
            assert_int_equal(rig_shell("mkdir -p \"$(dirname '%s')\"", path), 0);
        else
            assert_int_equal(unlink(path), 0);
        assert_int_equal(symlink(victim, path), 0);
        if (round == 1) {
            rig_close(r);
            rig_must_open(r, 256 * MIB);
            assert_int_equal(rig_check(r, 1, MIB).served, 0);
            rig_settle(r);
        }
        if (round == 2) {
            assert_int_equal(rig_check(r, 1, MIB).served, 0);
            rig_settle(r);
        }
        assert_int_equal(rig_fill(r, 1, MIB), 0);
        assert_whole(r, 1, MIB);
    }
    assert_int_equal(rig_shell("test \"$(tr -d x < '%s' | wc -c)\" = 0", victim), 0);
    free(precious);
}

/* ---- the directory changes behind our back ---------------------------------------------- */

static void orphans_and_lost_files(void **state)
{
    struct rig *r = *state;
    char path[512], orphan[512];

    rig_must_open(r, 256 * MIB);
    for (unsigned nr = 1; nr <= 4; nr++)
        assert_int_equal(rig_fill(r, nr, 5 * MIB), 0);
    rig_close(r);
    rig_data_path(r, 77, orphan, sizeof(orphan));
    assert_int_equal(rig_shell("mkdir -p \"$(dirname '%s')\" && head -c 3000000 /dev/zero > '%s'",
                               orphan, orphan),
                     0);
    rig_data_path(r, 1, path, sizeof(path));
    assert_int_equal(unlink(path), 0);
    rig_data_path(r, 2, path, sizeof(path));
    assert_int_equal(truncate(path, 4 * MIB), 0);
    rig_must_open(r, 256 * MIB);
    rig_settle(r);
    assert_int_equal(access(orphan, F_OK), -1);
    assert_int_equal(info_of(r).files, 2);
    assert_int_equal(rig_check(r, 1, 5 * MIB).served, 0);
    assert_int_equal(rig_check(r, 2, 5 * MIB).served, 0);
    assert_whole(r, 3, 5 * MIB);
    tarn_tier_check(r->tier);
    for (unsigned nr = 1; nr <= 2; nr++)
        assert_int_equal(rig_fill(r, nr, 5 * MIB), 0);
    assert_whole(r, 1, 5 * MIB);
    /* while it runs: a file vanishes, another is cut */
    rig_close(r);
    rig_must_open(r, 256 * MIB);
    rig_settle(r);
    rig_data_path(r, 3, path, sizeof(path));
    assert_int_equal(unlink(path), 0);
    rig_data_path(r, 4, path, sizeof(path));
    assert_int_equal(truncate(path, 100), 0);
    assert_int_equal(rig_check(r, 3, 5 * MIB).served, 0);
    assert_int_equal(rig_check(r, 4, 5 * MIB).served, 0);
    rig_settle(r);
    tarn_tier_check(r->tier);
    assert_int_equal(rig_fill(r, 3, 5 * MIB), 0);
    assert_whole(r, 3, 5 * MIB);
    assert_whole(r, 1, 5 * MIB);
}

static void directory_removed(void **state)
{
    struct rig *r = *state;
    int rc = 0;

    rig_must_open(r, 256 * MIB);
    assert_int_equal(rig_fill(r, 1, MIB), 0);
    assert_int_equal(rig_shell("rm -rf '%s'", r->dir), 0);
    for (unsigned nr = 2; nr < 10; nr++)
        rc = rig_fill(r, nr, MIB);
    assert_int_equal(rc, -TARN_E_TIER_OFFLINE);
    assert_true(info_of(r).offline);
    assert_int_equal(rig_reserve(r, 1), -TARN_E_TIER_OFFLINE);
    assert_int_equal(rig_check(r, 1, MIB).wrong, 0);
}

/* ---- faults ----------------------------------------------------------------------------- */

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
    assert_true(rig_du(r->dir) <= info_of(r).used_bytes);
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
        assert_false(info_of(r).offline); /* one failure is no pattern */
        for (unsigned nr = base + 1; nr < base + 6; nr++)
            assert_int_equal(rig_fill(r, nr, 300 * KIB), 0);
        rig_close(r);
    }
    rig_must_open(r, 64 * MIB);
    faulty_life(r, 500, point, 3, 1000, rc);
    assert_int_equal(info_of(r).offline, offline_after);
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
    assert_true(info_of(r).offline);
    assert_int_equal(rig_fill(r, 3, MIB), -TARN_E_TIER_OFFLINE);
    assert_int_equal(rig_check(r, 1, MIB).served, 0);
    tarn_fault_reset();
    rig_close(r);
    rig_must_open(r, 64 * MIB); /* a restart tries again */
    assert_whole(r, 1, MIB);
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
    assert_int_equal(info_of(r).evicted_bytes, 0); /* lost, not evicted */
    assert_false(info_of(r).offline);
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
    assert_true(info_of(r).offline);
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
    assert_whole(r, 0, MIB);
}

#define TIER_TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TIER_TEST(fill_read_reopen),
        TIER_TEST(read_edges),
        TIER_TEST(odd_lengths),
        TIER_TEST(huge_sparse),
        TIER_TEST(read_gives_sums),
        TIER_TEST(drop_removes),
        TIER_TEST(drop_overtakes_store),
        TIER_TEST(same_group_at_once),
        TIER_TEST(evicts_cold_first),
        TIER_TEST(evicts_by_holes),
        TIER_TEST(too_big),
        TIER_TEST(pins_keep),
        TIER_TEST(pins_are_bounded),
        TIER_TEST(smaller_quota),
        TIER_TEST(order_outlives_restart),
        TIER_TEST(descriptors_are_bounded),
        TIER_TEST(two_opens),
        TIER_TEST(other_owner),
        TIER_TEST(newer_format),
        TIER_TEST(foreign_directory),
        TIER_TEST(modes),
        TIER_TEST(planted_links),
        TIER_TEST(orphans_and_lost_files),
        TIER_TEST(directory_removed),
        TIER_TEST(fault_write_eio),
        TIER_TEST(fault_write_enospc),
        TIER_TEST(fault_open),
        TIER_TEST(fault_reserve),
        TIER_TEST(fault_kv_space),
        TIER_TEST(fault_kv_broken),
        TIER_TEST(fault_read),
        TIER_TEST(fault_kv_read),
    };

    return cmocka_run_group_tests_name("tier", tests, NULL, NULL);
}
