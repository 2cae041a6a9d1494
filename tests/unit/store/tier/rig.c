/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/store/tier/rig.h"

#include <errno.h>
#include <fts.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/fault.h"
#include "lib/base/hash.h"
#include "store/tier/tier_priv.h"
#include "tests/unit/turns.h"

void rig_init(struct rig *r, unsigned threads, const char *parent)
{
    const char *tmp = getenv("TMPDIR");
    char base[240];

    memset(r, 0, sizeof(*r));
    assert_int_equal(tarn_loop_new(&r->loop), 0);
    assert_int_equal(tarn_disk_pool_new(threads, &r->disk), 0);
    (void)snprintf(base, sizeof(base), "%s/tarn-tier-XXXXXX", parent ? parent : tmp ? tmp : "/tmp");
    assert_non_null(mkdtemp(base));
    (void)snprintf(r->dir, sizeof(r->dir), "%s/tier", base);
    r->args = (struct tarn_tier_args){.loop = r->loop,
                                      .disk = r->disk,
                                      .clock = tarn_clock_system(),
                                      .path = r->dir,
                                      .owner_id = "c-test",
                                      .medium = TARN_MEDIUM_SSD,
                                      .quota_bytes = 256 * MIB,
                                      .high_bp = 9500,
                                      .low_bp = 9000,
                                      .disk_free_bp = 0,
                                      .fds_max = 64};
}

void rig_fini(struct rig *r)
{
    rig_close(r);
    tarn_disk_free(&r->disk);
    rig_run_for(r, TARN_NS_PER_MS); /* what was posted meanwhile frees its memory */
    tarn_loop_free(&r->loop);
    *strrchr(r->dir, '/') = '\0';
    assert_int_equal(rig_shell("rm -rf '%s'", r->dir), 0);
}

int rig_set_up(void **state)
{
    struct rig *r = tarn_xnew(struct rig);

    rig_init(r, 3, NULL);
    *state = r;
    return 0;
}

int rig_tear_down(void **state)
{
    tarn_fault_reset();
    rig_fini(*state);
    free(*state);
    return 0;
}

int rig_open(struct rig *r)
{
    r->err.text[0] = '\0';
    return tarn_tier_open(&r->args, &r->err, &r->tier);
}

void rig_must_open(struct rig *r, uint64_t quota)
{
    int rc;

    r->args.quota_bytes = quota;
    rc = rig_open(r);
    if (rc < 0)
        fail_msg("open: %s", tarn_err_text(&r->err, rc));
}

void rig_close(struct rig *r)
{
    tarn_tier_close(&r->tier);
}

void rig_run_for(struct rig *r, uint64_t ns)
{
    turns_for(r->loop, ns);
}

static bool rig_quiet(struct rig *r)
{
    return r->tier->evicting == 0 && !atomic_load(&r->tier->walking);
}

/* A reservation waits for the walk, and is granted at once otherwise; used stands still afterwards.
 */
void rig_settle(struct rig *r)
{
    struct tarn_tier_info a, b;

    if (rig_reserve(r, 1) == 0)
        tarn_tier_unreserve(r->tier, 1);
    for (int same = 0, i = 0; same < 5 && i < 2000; i++) {
        tarn_tier_info(r->tier, &a);
        rig_run_for(r, 4 * TARN_NS_PER_MS);
        tarn_tier_info(r->tier, &b);
        if (!rig_quiet(r) || a.used_bytes != b.used_bytes || a.evicted_bytes != b.evicted_bytes)
            same = 0;
        else
            same++;
    }
}

struct tarn_tier_info rig_info(struct rig *r)
{
    struct tarn_tier_info i;

    tarn_tier_info(r->tier, &i);
    return i;
}

tarn_cid_t rig_cid(unsigned nr)
{
    uint8_t digest[32];
    tarn_cid_t cid;

    tarn_sha256_of(&nr, sizeof(nr), digest);
    memcpy(cid.b, digest, sizeof(cid.b));
    return cid;
}

void rig_bytes(unsigned nr, uint64_t off, void *dst, size_t n)
{
    pattern_fill(nr, off, dst, n);
}

struct tarn_tier_file *rig_file(struct rig *r, unsigned nr, uint64_t length)
{
    tarn_cid_t cid = rig_cid(nr);
    struct tarn_tier_file *f = tarn_tier_file_get(r->tier, &cid, length);

    assert_non_null(f);
    return f;
}

static void rig_done(struct tarn_tier_op *op, int rc)
{
    struct rig *r = op->arg;

    (void)rc; /* op->rc */
    assert_true(r->waiting > 0);
    if (--r->waiting == 0)
        tarn_loop_stop(r->loop);
}

static void rig_begin(struct rig *r, struct tarn_tier_op *op)
{
    op->cb = rig_done;
    op->arg = r;
    r->waiting++;
}

int rig_reserve(struct rig *r, uint64_t bytes)
{
    struct tarn_tier_op op = {.reserved_bytes = bytes, .spare = r->spare};

    rig_begin(r, &op);
    tarn_tier_reserve(r->tier, &op);
    assert_int_equal(r->waiting, 1); /* never inside the call */
    tarn_loop_run(r->loop);
    return op.rc;
}

int rig_submit_store(struct rig *r, struct tarn_tier_op *op)
{
    rig_begin(r, op);
    tarn_tier_store(r->tier, op);
    assert_int_equal(r->waiting, 1);
    tarn_loop_run(r->loop);
    return op->rc;
}

int rig_store(struct rig *r, struct tarn_tier_file *f, unsigned nr, uint32_t group)
{
    uint64_t off = group * TARN_UNIT_BYTES * 1ull;
    uint64_t n = TARN_MIN(tarn_tier_file_length(f) - off, TARN_UNIT_BYTES);
    struct tarn_tier_op op = {.file = f, .group = group, .reserved_bytes = n, .level = 2};
    int rc = rig_reserve(r, n);

    if (rc < 0)
        return rc;
    op.buf = tarn_buf_new(n);
    assert_non_null(op.buf);
    op.buf->len = n;
    rig_bytes(nr, off, op.buf->p, n);
    rc = rig_submit_store(r, &op);
    tarn_buf_unref(&op.buf);
    return rc;
}

int rig_fill(struct rig *r, unsigned nr, uint64_t length)
{
    struct tarn_tier_file *f = rig_file(r, nr, length);
    int rc = 0;

    for (uint32_t g = 0; (uint64_t)g * TARN_UNIT_BYTES < length; g++)
        TARN_KEEP(rc, rig_store(r, f, nr, g));
    tarn_tier_file_put(&f);
    return rc;
}

int rig_load(struct rig *r, struct tarn_tier_file *f, uint32_t group, bool medium,
             uint64_t *ret_granules)
{
    struct tarn_tier_op op = {.file = f, .group = group, .medium = medium};

    rig_begin(r, &op);
    tarn_tier_load(r->tier, &op);
    assert_int_equal(r->waiting, 1);
    tarn_loop_run(r->loop);
    if (ret_granules)
        *ret_granules = op.granules;
    return op.rc;
}

static int read_as(struct rig *r, struct tarn_tier_op *op)
{
    rig_begin(r, op);
    tarn_tier_read(r->tier, op);
    assert_int_equal(r->waiting, 1);
    tarn_loop_run(r->loop);
    return op->rc;
}

int rig_read(struct rig *r, struct tarn_tier_file *f, uint32_t group, uint64_t granules,
             struct tarn_tier_op *op, struct tarn_buf *buf)
{
    *op = (struct tarn_tier_op){.file = f, .group = group, .granules = granules, .buf = buf};
    return read_as(r, op);
}

int rig_read_unchecked(struct rig *r, struct tarn_tier_file *f, uint64_t granules,
                       struct tarn_tier_op *op, struct tarn_buf *buf)
{
    *op = (struct tarn_tier_op){.file = f, .granules = granules, .buf = buf, .unchecked = true};
    return read_as(r, op);
}

int rig_drop(struct rig *r, unsigned nr, uint64_t length)
{
    struct tarn_tier_file *f = rig_file(r, nr, length);
    struct tarn_tier_op op = {.file = f};

    rig_begin(r, &op);
    tarn_tier_drop(r->tier, &op);
    assert_int_equal(r->waiting, 1);
    tarn_loop_run(r->loop);
    tarn_tier_file_put(&f);
    return op.rc;
}

static void found_compare(struct rig_found *found, unsigned nr, uint64_t off, const uint8_t *p,
                          size_t n)
{
    uint8_t *want = malloc(n);

    assert_non_null(want);
    rig_bytes(nr, off, want, n);
    found->served += n;
    for (size_t i = 0; memcmp(p, want, n) != 0 && i < n; i++)
        found->wrong += p[i] != want[i];
    free(want);
}

static struct rig_found check_file(struct rig *r, unsigned nr, uint64_t length, bool load)
{
    struct tarn_tier_file *f = rig_file(r, nr, length);
    struct rig_found found = {0};
    uint8_t *p = malloc(TARN_GRANULE_BYTES);

    assert_non_null(p);
    for (uint64_t off = 0; off < length; off += TARN_GRANULE_BYTES) {
        uint32_t n = (uint32_t)TARN_MIN(length - off, TARN_GRANULE_BYTES);
        int64_t got;

        if (load && off % TARN_UNIT_BYTES == 0)
            (void)rig_load(r, f, (uint32_t)(off / TARN_UNIT_BYTES), false, NULL);
        got = tarn_tier_try_read(f, off, n, p);
        if (got < 0)
            found.absent += n;
        else
            found_compare(&found, nr, off, p, (size_t)got);
    }
    free(p);
    tarn_tier_file_put(&f);
    return found;
}

struct rig_found rig_check(struct rig *r, unsigned nr, uint64_t length)
{
    return check_file(r, nr, length, true);
}

struct rig_found rig_check_warm(struct rig *r, unsigned nr, uint64_t length)
{
    return check_file(r, nr, length, false);
}

void rig_assert_whole(struct rig *r, unsigned nr, uint64_t length)
{
    struct rig_found found = rig_check(r, nr, length);

    assert_int_equal(found.wrong, 0);
    assert_int_equal(found.absent, 0);
    assert_int_equal(found.served, length);
}

uint64_t rig_du(const char *path)
{
    char *const roots[] = {tarn_xstrdup(path), NULL};
    FTS *fts = fts_open(roots, FTS_PHYSICAL | FTS_NOCHDIR, NULL);
    uint64_t sum = 0;
    FTSENT *e;

    assert_non_null(fts);
    while ((e = fts_read(fts)) != NULL)
        if (e->fts_info != FTS_DP && e->fts_info != FTS_NS && e->fts_info != FTS_ERR)
            sum += (uint64_t)e->fts_statp->st_blocks * 512;
    (void)fts_close(fts);
    free(roots[0]);
    return sum;
}

int rig_shell(const char *fmt, ...)
{
    char *cmd;
    va_list ap;
    int rc;

    va_start(ap, fmt);
    rc = vasprintf(&cmd, fmt, ap);
    va_end(ap);
    assert_true(rc > 0);
    rc = system(cmd);
    free(cmd);
    return rc;
}

void rig_data_path(const struct rig *r, unsigned nr, char *dst, size_t n)
{
    tarn_cid_t cid = rig_cid(nr);
    char hex[TARN_CID_HEX];

    (void)tarn_cid_text(&cid, hex);
    (void)snprintf(dst, n, "%s/data/%.2s/%s", r->dir, hex, hex);
}
