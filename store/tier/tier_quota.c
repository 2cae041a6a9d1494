/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Room: what the directory takes, reservations, and which groups go when there is none.
 *
 * The quota is a promise, so everything is counted before it is on the disk, and by what the file
 * system says afterwards:
 *
 *   used = data (st_blocks of each file, and a surcharge) + unlinked files that are lent +
 *          directories + index share + reservations + base + what the caller says is taken
 *          elsewhere
 *
 * A reservation is charged more than its bytes (tarn_tier_charge): a new file may need a directory
 * block and blocks for extents. When the store has written, its file is measured and the charge is
 * given back in that order, so that a reader of the sum never sees too little. The surcharge (a
 * thousandth and a block, for files above a granule) is for extent blocks that appear only when the
 * kernel writes dirty pages back. The index has a share of its own from the start (1/16 of the
 * quota, at most 64 MiB, at least what it takes and room to grow until it is measured again, after
 * each write).
 *
 * Eviction is LRU with lazy promotion: a read only sets a flag in its group; the evictor looks at
 * the coldest group, and one whose flag is set moves to the hot end instead (second chance). So a
 * read takes no lock. Groups of files that users pinned are not in the list; those under readers
 * are passed over.
 *
 * Copies (groups that belong to other workers) are in a list of their own, which is looked at
 * first, and which alone gives way to `spare` reservations: those never make the tier fuller than
 * the high watermark, so that what others hand over does not push out what is ours.
 *
 * Reservations are granted in the order they came. One that nothing can be evicted for fails at
 * once.
 */
#include "store/tier/tier_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "lib/base/assert.h"
#include "lib/base/fault.h"
#include "lib/base/mem.h"

#define UNIT_SURCHARGE (32u << 10)   /* of a reservation, per unit: directory, extents */
#define BASE_BYTES     (64u << 10)   /* LOCK, FORMAT, the directories above the buckets */
#define SCAN_MAX       1024u         /* groups looked at in one turn of the loop */
#define SCAN_WANT_MAX  (64ull << 20) /* freed ahead for waiting reservations */
#define STATVFS_NS     (100 * TARN_NS_PER_MS)

/* ---- what is taken ---------------------------------------------------------------------- */

uint64_t tarn_tier_charge(uint64_t bytes)
{
    return tarn_div_up(bytes, TIER_BLOCK) * TIER_BLOCK +
           tarn_div_up(bytes, TARN_UNIT_BYTES) * UNIT_SURCHARGE;
}

uint64_t tarn_tier_disk_bytes(uint64_t bytes)
{
    if (bytes <= TARN_GRANULE_BYTES)
        return bytes;
    return bytes + tarn_div_up(bytes >> 10, TIER_BLOCK) * TIER_BLOCK + TIER_BLOCK;
}

uint64_t tarn_tier_used(struct tarn_tier *t)
{
    /* Reservations first: a store measures its file before it gives the charge back. */
    uint64_t sum = atomic_load(&t->reserved_bytes);

    sum += atomic_load(&t->data_bytes_disk); /* before what moves from there to lent_bytes */
    sum += atomic_load(&t->lent_bytes) + atomic_load(&t->dir_bytes_disk);
    return sum + atomic_load(&t->index_bytes) + atomic_load(&t->foreign_bytes) + BASE_BYTES;
}

void tarn_tier_set_foreign(struct tarn_tier *t, uint64_t bytes)
{
    uint64_t old = atomic_exchange(&t->foreign_bytes, bytes);

    tarn_loop_assert_mine(t->loop);
    if (bytes == old)
        return;
    if (tarn_tier_used(t) > t->quota_bytes)
        t->shrinking = true;
    tarn_tier_pump(t);
}

void tarn_tier_account_bytes(struct tarn_tier_file *f, uint64_t disk_bytes)
{
    struct tarn_tier *t = f->tier;

    TARN_GUARD(&t->acct_mtx);
    atomic_fetch_add(&t->data_bytes_disk, disk_bytes - f->disk_bytes);
    atomic_fetch_add(&t->fs_delta, (int64_t)(disk_bytes - f->disk_bytes));
    f->disk_bytes = disk_bytes;
}

void tarn_tier_account_stat(struct tarn_tier_file *f, const struct stat *st)
{
    tarn_tier_account_bytes(f, tarn_tier_disk_bytes((uint64_t)st->st_blocks * 512));
}

void tarn_tier_account(struct tarn_tier_file *f, int fd)
{
    struct tarn_tier *t = f->tier;
    struct stat st;
    uint64_t now;

    /* Measured under the lock: of two that measure one file, the later one's answer stays. */
    TARN_GUARD(&t->acct_mtx);
    if (fstat(fd, &st) < 0)
        return;
    now = tarn_tier_disk_bytes((uint64_t)st.st_blocks * 512);
    atomic_fetch_add(&t->data_bytes_disk, now - f->disk_bytes);
    atomic_fetch_add(&t->fs_delta, (int64_t)(now - f->disk_bytes));
    f->disk_bytes = now;
}

void tarn_tier_account_bucket(struct tarn_tier *t, unsigned bucket)
{
    char name[3] = {"0123456789abcdef"[bucket >> 4], "0123456789abcdef"[bucket & 15], 0};
    struct stat st;
    uint32_t now;

    TARN_ASSERT(bucket < TIER_BUCKETS);
    TARN_GUARD(&t->acct_mtx);
    if (fstatat(t->data_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return;
    now = (uint32_t)(st.st_blocks * 512);
    atomic_fetch_add(&t->dir_bytes_disk, (uint64_t)now - t->bucket_bytes[bucket]);
    t->bucket_bytes[bucket] = now;
}

void tarn_tier_release(struct tarn_tier *t, uint64_t charge)
{
    uint64_t old = atomic_fetch_sub(&t->reserved_bytes, charge);

    TARN_ASSERT(old >= charge); /* given back more than was reserved */
}

/* ---- the list --------------------------------------------------------------------------- */

void tarn_tier_lru_add(struct tarn_tier *t, struct tier_group *g)
{
    TARN_ASSERT(tarn_list_empty(&g->lru));
    tarn_list_push(g->copy ? &t->copies : &t->lru, &g->lru);
    t->copies_len += g->copy;
    t->lru_len++;
    t->lru_scanned = 0;
}

void tarn_tier_lru_del(struct tarn_tier *t, struct tier_group *g)
{
    if (tarn_list_empty(&g->lru))
        return;
    TARN_ASSERT(t->lru_len > 0 && t->copies_len >= g->copy);
    tarn_list_del(&g->lru);
    t->copies_len -= g->copy;
    t->lru_len--;
}

void tarn_tier_copy_mark(struct tarn_tier_file *f, uint32_t group, struct tier_group *g, bool copy)
{
    struct tarn_tier *t = f->tier;
    uint64_t bytes = tarn_tier_mask_bytes(f->length, group, atomic_load(&g->present));
    bool listed = !tarn_list_empty(&g->lru);

    if (g->copy == copy)
        return;
    if (listed)
        tarn_tier_lru_del(t, g);
    g->copy = copy;
    t->copy_bytes += copy ? bytes : 0 - bytes;
    if (listed)
        tarn_tier_lru_add(t, g);
}

void tarn_tier_group_copy(struct tarn_tier *t, struct tarn_tier_file *f, uint32_t group, bool copy)
{
    struct tier_group *g = tarn_tier_group(f, group);

    tarn_loop_assert_mine(t->loop);
    if (!g || atomic_load(&g->present) == 0 || g->copy == copy)
        return;
    tarn_tier_copy_mark(f, group, g, copy);
    tarn_tier_pump(t);
}

void tarn_tier_set_copies_max(struct tarn_tier *t, uint64_t max_bytes)
{
    tarn_loop_assert_mine(t->loop);
    t->copies_max = max_bytes;
    tarn_tier_pump(t);
}

/* Evicts the coldest group of a list, or moves it to the hot end: bytes on their way out. */
static uint64_t evict_coldest(struct tarn_tier *t, struct tarn_list *list)
{
    struct tier_group *g = TARN_LIST_ENTRY(list->next, struct tier_group, lru);
    uint64_t before = t->evicting_bytes;
    struct tarn_tier_file *f;
    uint32_t group;

    tarn_list_del(&g->lru);
    tarn_list_push(list, &g->lru);
    if (atomic_exchange_explicit(&g->touched, false, memory_order_relaxed) ||
        (atomic_load(&g->pins) & ~TIER_PIN_WANT))
        return 0;
    f = tarn_tier_group_file(g, &group);
    if (tarn_tier_lent(f) == TIER_LENT_NOW || !tarn_tier_evict(f, group, true))
        return 0;
    return t->evicting_bytes - before;
}

/* Starts the eviction of one copy: its bytes; 0 when none can go. */
static uint64_t evict_copy(struct tarn_tier *t, unsigned *budget)
{
    uint64_t bytes = 0;

    for (uint64_t n = 2 * t->copies_len;
         n > 0 && bytes == 0 && *budget > 0 && !tarn_list_empty(&t->copies); n--) {
        (*budget)--;
        bytes = evict_coldest(t, &t->copies);
    }
    return bytes;
}

void tarn_tier_copies_trim(struct tarn_tier *t)
{
    unsigned budget = SCAN_MAX;

    while (t->copy_bytes > t->copies_max && t->evicting < TIER_EVICT_MAX)
        if (evict_copy(t, &budget) == 0)
            return; /* in use: looked at again with the next one */
}

/* Starts one eviction: its bytes; 0 when `budget` is used up or nothing can go. */
static uint64_t evict_one(struct tarn_tier *t, unsigned *budget)
{
    uint64_t bytes = evict_copy(t, budget);

    while (bytes == 0 && *budget > 0 && !tarn_list_empty(&t->lru) &&
           t->lru_scanned <= 2 * t->lru_len) {
        (*budget)--;
        t->lru_scanned++;
        bytes = evict_coldest(t, &t->lru);
        if (bytes)
            t->lru_scanned = 0;
    }
    return bytes;
}

/* ---- room ------------------------------------------------------------------------------- */

static void statvfs_refresh(struct tarn_tier *t)
{
    uint64_t now = t->clock->mono_ns(t->clock);
    struct statvfs v;

    if (t->fs_time && now - t->fs_time < STATVFS_NS)
        return;
    t->fs_time = now;
    atomic_store(&t->fs_delta, 0);
    if (fstatvfs(t->dir_fd, &v) < 0) {
        (void)tarn_tier_note(t, -EIO); /* a file system that does not answer */
        return;
    }
    t->fs_free = (uint64_t)v.f_bavail * v.f_frsize;
    t->fs_total = (uint64_t)v.f_blocks * v.f_frsize;
}

/* Bytes that must go before `charge` more may come. */
static uint64_t room_short(struct tarn_tier *t, uint64_t charge)
{
    uint64_t used = tarn_tier_used(t), by_quota = 0, need, have;
    int64_t delta;

    if (used + charge > t->quota_bytes)
        by_quota = used + charge - t->quota_bytes;
    statvfs_refresh(t);
    delta = atomic_load(&t->fs_delta);
    need = t->fs_total / 10000 * t->disk_free_bp + charge + atomic_load(&t->reserved_bytes);
    have = t->fs_free;
    if (delta > 0)
        need += (uint64_t)delta;
    else
        have += (uint64_t)-delta;
    return TARN_MAX(by_quota, need > have ? need - have : 0);
}

uint64_t tarn_tier_free_bytes(struct tarn_tier *t)
{
    uint64_t used = tarn_tier_used(t);

    return used < t->quota_bytes ? t->quota_bytes - used : 0;
}

/* Evicts until `want` bytes are on their way out; false when nothing more can go. */
static bool evict_bytes(struct tarn_tier *t, uint64_t want)
{
    unsigned budget = SCAN_MAX;

    while (want > t->evicting_bytes && t->evicting < TIER_EVICT_MAX) {
        if (evict_one(t, &budget) > 0)
            continue;
        if (budget == 0)
            return true; /* goes on in the next turn */
        t->lru_scanned = 0;
        return false;
    }
    return true;
}

static void pump_later_cb(struct tarn_task *task)
{
    struct tarn_tier *t = TARN_CONTAINER(task, struct tarn_tier, pump_task);

    t->pump_posted = false;
    tarn_tier_pump(t);
    tarn_tier_unref(t);
}

static void pump_later(struct tarn_tier *t)
{
    if (t->pump_posted)
        return;
    t->pump_posted = true;
    tarn_tier_ref(t);
    tarn_loop_post(t->loop, &t->pump_task, pump_later_cb);
}

/* Room without taking any from what is ours. 0 granted, 1 wait, or why not. */
static int reserve_spare(struct tarn_tier *t, uint64_t charge)
{
    uint64_t used = tarn_tier_used(t), shortage = room_short(t, charge);
    unsigned budget = SCAN_MAX;

    if (used + charge > t->high_bytes)
        shortage = TARN_MAX(shortage, used + charge - t->high_bytes);
    if (shortage == 0) {
        atomic_fetch_add(&t->reserved_bytes, charge);
        return 0;
    }
    while (t->evicting_bytes < shortage && t->evicting < TIER_EVICT_MAX)
        if (evict_copy(t, &budget) == 0)
            break;
    return t->evicting > 0 ? 1 : -TARN_E_TIER_FULL;
}

/* 0 granted, 1 wait, or why not. */
static int reserve_try(struct tarn_tier *t, uint64_t charge, bool spare)
{
    uint64_t shortage;

    if (tarn_tier_gone(t))
        return -TARN_E_TIER_OFFLINE;
    if (t->walking)
        return t->walk_late ? -TARN_E_TIER_FULL : 1;
    if (t->shrinking ||
        charge + atomic_load(&t->index_bytes) + atomic_load(&t->foreign_bytes) + BASE_BYTES >
            t->quota_bytes)
        return -TARN_E_TIER_FULL;
    if (spare)
        return reserve_spare(t, charge);
    shortage = room_short(t, charge);
    if (shortage == 0) {
        atomic_fetch_add(&t->reserved_bytes, charge);
        return 0;
    }
    shortage = TARN_MAX(shortage, room_short(t, TARN_MIN(t->waiting_bytes, SCAN_WANT_MAX)));
    if (!evict_bytes(t, shortage) && t->evicting == 0)
        return -TARN_E_TIER_FULL;
    if (t->evicting == 0)
        pump_later(t); /* the scan goes on */
    return 1;
}

static void reservers_serve(struct tarn_tier *t)
{
    while (!tarn_list_empty(&t->reservers)) {
        struct tarn_tier_op *op = TARN_LIST_ENTRY(t->reservers.next, struct tarn_tier_op, node);
        uint64_t charge = tarn_tier_charge(op->reserved_bytes);
        int rc = reserve_try(t, charge, op->spare);

        if (rc > 0)
            return;
        tarn_list_del(&op->node);
        t->waiting_bytes -= charge;
        tarn_tier_end_later(op, rc);
    }
}

/* Above high: down to low, in the background. */
static void watermarks(struct tarn_tier *t)
{
    uint64_t used = tarn_tier_used(t);

    if (used > t->high_bytes)
        t->to_low = true;
    if (used <= t->low_bytes)
        t->to_low = t->shrinking = false;
    if (!t->to_low || tarn_tier_offline(t))
        return;
    if (!evict_bytes(t, used - t->low_bytes) && t->evicting == 0) {
        t->to_low = false; /* all that is left is pinned or reserved: the next store asks again */
        if (used <= t->quota_bytes)
            t->shrinking = false;
    } else if (t->evicting == 0) {
        pump_later(t);
    }
}

void tarn_tier_pump(struct tarn_tier *t)
{
    if (t->pumping || t->closed)
        return;
    t->pumping = true;
    tarn_tier_copies_trim(t);
    watermarks(t);
    reservers_serve(t);
    t->pumping = false;
}

void tarn_tier_reserve(struct tarn_tier *t, struct tarn_tier_op *op)
{
    int rc = TARN_FAULT(tier_reserve);

    tarn_loop_assert_mine(t->loop);
    TARN_ASSERT(op->cb);
    op->tier = t;
    op->kind = TIER_RESERVE;
    if (rc < 0 || op->reserved_bytes > t->quota_bytes) {
        tarn_tier_end_later(op, rc < 0 ? rc : -TARN_E_TIER_FULL);
        return;
    }
    tarn_list_push(&t->reservers, &op->node);
    t->waiting_bytes += tarn_tier_charge(op->reserved_bytes);
    tarn_tier_pump(t);
}

void tarn_tier_unreserve(struct tarn_tier *t, uint64_t reserved_bytes)
{
    tarn_loop_assert_mine(t->loop);
    tarn_tier_release(t, tarn_tier_charge(reserved_bytes));
    tarn_tier_pump(t);
}
