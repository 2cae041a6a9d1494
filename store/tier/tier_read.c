/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading: on the caller's thread where the bytes are known to be good (tarn_tier_try_read), and on
 * the pool where they must be compared with the index first (load, read).
 *
 * A load or read pins its group on the loop before it looks at presence, and unpins it on the loop
 * after what it found is in force: so the record that it compares with is the one of the bytes that
 * it reads, and a bad granule is off before a new store of the group can begin.
 */
#include "store/tier/tier_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/assert.h"
#include "lib/base/buf.h"
#include "lib/base/fault.h"
#include "lib/base/hash.h"
#include "lib/base/mem.h"

int64_t tarn_tier_pread(int fd, void *dst, size_t n, uint64_t off)
{
    size_t done = 0;
    int rc = TARN_FAULT(disk_read);

    if (rc < 0)
        return rc;
    while (done < n) {
        ssize_t k = pread(fd, (char *)dst + done, n - done, (off_t)(off + done));

        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return -errno;
        if (k == 0)
            break;
        done += (size_t)k;
    }
    return (int64_t)done;
}

/* ---- on the caller's thread ------------------------------------------------------------- */

/* Reads inside one group, which is pinned. */
static int64_t read_pinned(struct tarn_tier_file *f, const struct tier_group *g, uint64_t off,
                           uint32_t len, void *dst)
{
    uint64_t first = off % TARN_UNIT_BYTES / TARN_GRANULE_BYTES;
    uint64_t last = (off + len - 1) % TARN_UNIT_BYTES / TARN_GRANULE_BYTES;
    uint64_t want = (~0ull >> (63 - last)) & (~0ull << first);
    int64_t n;
    int fd;

    if (want & ~(atomic_load(&g->present) & atomic_load(&g->verified)))
        return -TARN_E_NOT_CACHED;
    fd = tarn_tier_file_open(f);
    n = fd < 0 ? fd : tarn_tier_pread(fd, dst, len, off);
    if (n >= 0 && n < len)
        n = -TARN_E_INDEX_CORRUPT; /* somebody cut the file */
    if (n >= 0) {
        (void)tarn_tier_note(f->tier, 0); /* 0 never counts */
        return n;
    }
    (void)tarn_tier_note(f->tier, (int)n); /* the report follows for any failure */
    tarn_tier_report(f, (uint32_t)(off / TARN_UNIT_BYTES), (int)n);
    return n == -TARN_E_INDEX_CORRUPT || n == -EMFILE || n == -ENFILE ? -TARN_E_NOT_CACHED
                                                                      : -TARN_E_TIER_OFFLINE;
}

void tarn_tier_group_touch(const struct tarn_tier *t, struct tier_group *g)
{
    uint32_t now = tarn_tier_now_s(t);

    /* Written only when they change: the line stays shared among readers. */
    if (!atomic_load_explicit(&g->touched, memory_order_relaxed))
        atomic_store_explicit(&g->touched, true, memory_order_relaxed);
    if (atomic_load_explicit(&g->atime_s, memory_order_relaxed) != now)
        atomic_store_explicit(&g->atime_s, now, memory_order_relaxed);
}

static int64_t read_group(struct tarn_tier_file *f, uint64_t off, uint32_t len, void *dst)
{
    struct tier_group *g = tarn_tier_group(f, off / TARN_UNIT_BYTES);
    int64_t n;

    if (!g)
        return -TARN_E_NOT_CACHED;
    tarn_tier_group_pin(g);
    n = read_pinned(f, g, off, len, dst);
    tarn_tier_group_unpin(f->tier, g);
    if (n >= 0)
        tarn_tier_group_touch(f->tier, g);
    return n;
}

int64_t tarn_tier_try_read(struct tarn_tier_file *f, uint64_t off, uint32_t len, void *dst)
{
    struct tier_shard *s = tarn_tier_shard(f->tier, &f->cid);
    uint32_t done = 0;

    TARN_ASSERT(len <= TARN_READ_MAX);
    if (tarn_tier_offline(f->tier))
        return -TARN_E_TIER_OFFLINE;
    if (off >= f->length)
        return 0;
    len = (uint32_t)TARN_MIN(len, f->length - off);
    while (done < len) {
        uint64_t at = off + done;
        uint32_t part = (uint32_t)TARN_MIN(len - done, TARN_UNIT_BYTES - at % TARN_UNIT_BYTES);
        int64_t n = read_group(f, at, part, (char *)dst + done);

        if (n < 0) {
            atomic_fetch_add_explicit(&s->misses, 1, memory_order_relaxed);
            return n;
        }
        done += (uint32_t)n;
    }
    atomic_fetch_add_explicit(&s->hits, 1, memory_order_relaxed);
    return done;
}

/* ---- on the pool ------------------------------------------------------------------------ */

/*
 * A descriptor that reads past the page cache, or -1 where the file system has none of that; then
 * the cache's pages are dropped, which works as long as nobody maps them.
 */
static int medium_open(const struct tarn_tier_op *op, int fd, uint64_t off, uint32_t len)
{
    char name[TIER_NAME_MAX];
    int direct;

    (void)fdatasync(fd); /* dirty pages would be kept; a failure shows when they are read */
    tarn_tier_file_name(op->file, name);
    direct = openat(op->tier->data_fd, name, O_RDONLY | O_DIRECT | O_NOFOLLOW | O_CLOEXEC);
    if (direct < 0)
        (void)posix_fadvise(fd, (off_t)off, len, POSIX_FADV_DONTNEED); /* a hint */
    return direct;
}

/* Reads granule `i` to `dst` and compares. 1 good, 0 bad, or negative. */
static int granule_check(const struct tarn_tier_op *op, int fd, unsigned i, void *dst, uint64_t sum,
                         bool aligned)
{
    uint32_t start = i * TARN_GRANULE_BYTES;
    uint32_t group_len = tarn_tier_group_bytes(op->file->length, op->group);
    uint32_t len = TARN_MIN(group_len - start, TARN_GRANULE_BYTES);
    uint32_t ask = aligned ? (len + TIER_BLOCK - 1) / TIER_BLOCK * TIER_BLOCK : len;
    int64_t n = tarn_tier_pread(fd, dst, ask, (uint64_t)op->group * TARN_UNIT_BYTES + start);

    if (n < 0)
        return (int)n;
    if (n < len)
        return 0;
    return tarn_xxh3(dst, len) == sum;
}

/* Goes through the granules in `want` for a load; sets op->granules (good) and op->bad. */
static int load_granules(struct tarn_tier_op *op, const struct tarn_tier_record *rec, uint64_t want,
                         int fd, int direct)
{
    const struct tier_group *g = tarn_tier_group(op->file, op->group);
    uint64_t trusted = op->medium ? 0 : atomic_load(&g->verified);
    uint8_t *scratch = aligned_alloc(TIER_BLOCK, TARN_GRANULE_BYTES);
    int rc = 0;

    if (!scratch)
        return -TARN_E_NO_MEMORY;
    op->granules = op->bad = 0;
    for (unsigned i = 0; i < TARN_GROUP_GRANULES && rc >= 0; i++) {
        uint64_t bit = 1ull << i;

        if (!(want & bit))
            continue;
        if (trusted & bit)
            rc = 1;
        else if (!(rec->present & bit))
            rc = 0;
        else
            rc =
                granule_check(op, direct >= 0 ? direct : fd, i, scratch, rec->sums[i], direct >= 0);
        op->granules |= rc == 1 ? bit : 0;
        op->bad |= rc == 0 ? bit : 0;
    }
    free(scratch);
    return rc < 0 ? rc : 0;
}

/* Granule `i` is to be compared before it goes out. */
static bool granule_doubted(const struct tarn_tier_op *op, unsigned i)
{
    const struct tier_group *g = tarn_tier_group(op->file, op->group);

    return !op->unchecked || !(atomic_load(&g->verified) & (1ull << i));
}

/* Compares granules [first, end) in a place of their own, then puts their pages into the pipe. */
static int splice_run(struct tarn_tier_op *op, const struct tarn_tier_record *rec, int fd,
                      unsigned first, unsigned end)
{
    uint64_t start = (uint64_t)first * TARN_GRANULE_BYTES;
    uint64_t len = TARN_MIN((uint64_t)end * TARN_GRANULE_BYTES,
                            tarn_tier_group_bytes(op->file->length, op->group)) -
                   start;
    uint8_t *scratch = NULL;
    bool doubted = false;
    int rc = 1;

    for (unsigned i = first; i < end && rc >= 0; i++) {
        rc = 1;
        if (granule_doubted(op, i)) {
            doubted = true;
            if (!scratch)
                scratch = aligned_alloc(TIER_BLOCK, TARN_GRANULE_BYTES);
            rc = scratch ? granule_check(op, fd, i, scratch, rec->sums[i], false)
                         : -TARN_E_NO_MEMORY;
        }
        op->sums[i] = rc == 1 ? rec->sums[i] : 0;
        if (rc >= 0)
            *(rc == 1 ? &op->granules : &op->bad) |= 1ull << i;
    }
    free(scratch);
    if (rc < 0 || op->bad)
        return TARN_MIN(rc, 0);
    rc = tarn_buf_splice(op->buf, fd, (uint64_t)op->group * TARN_UNIT_BYTES + start, len);
    /* No way into a pipe is no fault of the disk, and nobody has looked at what was not compared:
     * who asks again, into memory, hears what is wrong. */
    if (rc < 0 && (rc != -EIO || !doubted)) {
        op->granules = 0;
        rc = 0;
    }
    return rc;
}

/* Reads granules [first, end) to `dst` in one call and compares each. */
static int read_run(struct tarn_tier_op *op, const struct tarn_tier_record *rec, int fd,
                    unsigned first, unsigned end, uint8_t *dst)
{
    uint64_t start = (uint64_t)first * TARN_GRANULE_BYTES;
    uint32_t group_len = tarn_tier_group_bytes(op->file->length, op->group);
    uint64_t len = TARN_MIN((uint64_t)end * TARN_GRANULE_BYTES, group_len) - start, at = 0;
    int64_t n = tarn_tier_pread(fd, dst, len, (uint64_t)op->group * TARN_UNIT_BYTES + start);

    if (n < 0)
        return (int)n;
    for (unsigned i = first; i < end; i++, at += TARN_GRANULE_BYTES) {
        uint64_t part = TARN_MIN(len - at, TARN_GRANULE_BYTES);
        bool good = at + part <= (uint64_t)n &&
                    (!granule_doubted(op, i) || tarn_xxh3(dst + at, part) == rec->sums[i]);

        op->sums[i] = good ? rec->sums[i] : 0;
        *(good ? &op->granules : &op->bad) |= 1ull << i;
    }
    return 0;
}

/* The same for a read, whose buffer begins with the first granule asked for. */
static int read_granules(struct tarn_tier_op *op, const struct tarn_tier_record *rec, uint64_t want,
                         int fd)
{
    uint64_t left = want & rec->present;
    int rc = 0;

    op->granules = 0;
    op->bad = want & ~rec->present;
    while (left && rc == 0) {
        unsigned first = (unsigned)__builtin_ctzll(left);
        uint64_t after = ~left & (~0ull << first);
        unsigned end = after ? (unsigned)__builtin_ctzll(after) : TARN_GROUP_GRANULES;

        if (op->buf->p)
            rc = read_run(op, rec, fd, first, end,
                          op->buf->p + (size_t)(first - op->first) * TARN_GRANULE_BYTES);
        else
            rc = splice_run(op, rec, fd, first, end);
        left &= after ? ~0ull << end : 0;
    }
    return rc;
}

static void check_work(struct tarn_tier_op *op)
{
    struct tarn_tier_record rec = {0};
    uint64_t off = (uint64_t)op->group * TARN_UNIT_BYTES, want = op->granules;
    int direct = -1, fd, rc;

    op->rc = rc = tarn_tier_index_get(op, &rec);
    if (rc == -ENOENT || rc == -TARN_E_INDEX_CORRUPT) { /* nothing vouches for the bytes */
        op->bad = want;
        op->granules = 0;
        op->rc = 0;
        return;
    }
    if (rc < 0)
        return;
    op->rc = fd = tarn_tier_file_open(op->file);
    if (fd < 0)
        return;
    if (op->kind == TIER_READ) {
        op->rc = read_granules(op, &rec, want, fd);
        return;
    }
    if (op->medium)
        direct = medium_open(op, fd, off, tarn_tier_group_bytes(op->file->length, op->group));
    op->rc = load_granules(op, &rec, want, fd, direct);
    if (direct >= 0 && op->rc == -EINVAL) /* the file system wants it aligned otherwise */
        op->rc = load_granules(op, &rec, want, fd, -1);
    if (direct >= 0)
        (void)close(direct); /* only read */
}

static void check_failed(struct tarn_tier_op *op)
{
    int rc = op->rc;

    op->granules = 0;
    if (rc == -TARN_E_KV_CORRUPT) { /* the index cannot tell; the record goes with the group */
        atomic_fetch_add(&op->tier->checksum_errors, 1);
        (void)tarn_tier_evict(op->file, op->group, false); /* else it is being removed */
        return;
    }
    if (rc == -TARN_E_KV || rc == -TARN_E_KV_NO_SPACE)
        rc = -EIO;
    if (tarn_tier_note(op->tier, rc) || rc == -TARN_E_INDEX_CORRUPT)
        tarn_tier_report(op->file, op->group, rc);
}

static void check_done(struct tarn_tier_op *op)
{
    struct tarn_tier *t = op->tier;
    struct tier_group *g = tarn_tier_group(op->file, op->group);
    uint64_t present = atomic_load(&g->present);

    tarn_tier_index_leave(t);
    if (op->rc < 0) {
        check_failed(op);
    } else {
        (void)tarn_tier_note(t, 0); /* 0 never counts */
        atomic_fetch_add(&t->checksum_errors, (uint64_t)__builtin_popcountll(op->bad & present));
        op->granules &= present;
        op->file->used |= op->granules != 0;
        atomic_fetch_or(&g->verified, op->granules);
        if (op->bad & present)
            tarn_tier_fix(op->file, op->group, op->bad & present);
        tarn_tier_group_touch(t, g);
    }
    tarn_tier_group_unpin(t, g);
    tarn_tier_end(op, op->rc == -TARN_E_INDEX_CORRUPT ? -TARN_E_NOT_CACHED : op->rc);
}

/* Also runs again after the index was opened anew. */
static void check_start(struct tarn_tier_op *op)
{
    struct tarn_tier *t = op->tier;
    struct tier_group *g = tarn_tier_group(op->file, op->group);

    if (tarn_tier_offline(t)) {
        tarn_tier_end_later(op, -TARN_E_TIER_OFFLINE);
        return;
    }
    if (!g) {
        tarn_tier_end_later(op, -TARN_E_NOT_CACHED);
        return;
    }
    if (!tarn_tier_index_enter(op, check_start))
        return;
    tarn_tier_group_pin(g);
    op->granules &= atomic_load(&g->present);
    if (op->granules == 0 || (op->kind == TIER_LOAD && !op->medium &&
                              (op->granules & ~atomic_load(&g->verified)) == 0)) {
        tarn_tier_group_unpin(t, g);
        tarn_tier_index_leave(t);
        tarn_tier_end_later(op, op->granules ? 0 : -TARN_E_NOT_CACHED);
        return;
    }
    tarn_tier_submit(op, check_work, check_done);
}

static void check_submit(struct tarn_tier *t, struct tarn_tier_op *op, enum tier_kind kind)
{
    tarn_loop_assert_mine(t->loop);
    TARN_ASSERT(op->file && op->file->tier == t && op->cb);
    op->tier = t;
    op->kind = (uint8_t)kind;
    op->bad = 0;
    op->rc = 0;
    check_start(op);
}

/* From the first granule asked for to the end of the last. */
static uint64_t read_bytes(const struct tarn_tier_op *op)
{
    unsigned end = op->granules ? 64 - (unsigned)__builtin_clzll(op->granules) : 0;
    uint64_t upto = TARN_MIN((uint64_t)end * TARN_GRANULE_BYTES,
                             tarn_tier_group_bytes(op->file->length, op->group));

    return upto - TARN_MIN((uint64_t)op->first * TARN_GRANULE_BYTES, upto);
}

void tarn_tier_load(struct tarn_tier *t, struct tarn_tier_op *op)
{
    op->granules = ~0ull;
    check_submit(t, op, TIER_LOAD);
}

void tarn_tier_read(struct tarn_tier *t, struct tarn_tier_op *op)
{
    TARN_ASSERT(op->buf);
    op->first = 0;
    if (op->group < tarn_tier_groups(op->file->length)) {
        op->granules &= tarn_tier_group_mask(op->file->length, op->group);
        op->first = op->granules ? (uint8_t)__builtin_ctzll(op->granules) : 0;
        TARN_ASSERT(op->buf->cap >= read_bytes(op));
    }
    memset(op->sums, 0, sizeof(op->sums));
    check_submit(t, op, TIER_READ);
}
