/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A tier: one directory of cache files with a byte budget. How the files of this folder share it:
 *
 *   tier_format  bytes of FORMAT               tier_op      stores; who may change a file when
 *   tier_record  bytes of the index            tier_remove  eviction, drop, repair, users' pins
 *   tier_dir     LOCK, FORMAT, ownership       tier_read    try_read, load, read
 *   tier_file    files, groups, descriptors    tier_quota   room, reservations, LRU
 *   tier_index   records through store/kv      tier_walk    data/ against the index after a start
 *   tier_scan    the index at start and end    tier_lend    files whose reads we do not see
 *
 * Threads. What decides is on the loop: presence, the LRU list, who may change a file,
 * reservations. What blocks is on the disk's pool, as steps of requests (tarn_tier_submit). Readers
 * are anywhere.
 *
 * Readers and the evictor agree without a lock:
 *
 *   reader:   pins++;  present and verified?  pread;  pins--, the last one wakes who waits
 *   evictor:  present = 0;  pins == 0?  then delete the record and punch;  else wait to be woken
 *
 * All four accesses are sequentially consistent: either the reader sees that presence is off, or
 * the evictor sees the pin (acquire and release alone would allow both to miss each other). The
 * same protects the descriptor and the file's name: they change only when nothing of the file is
 * present and nobody is in.
 *
 * Invariants.
 *  1. A bit of `verified` is set only after the bytes were written by a store of this process or
 *     compared with the record; it goes with the bit of `present`. try_read serves nothing else.
 *  2. Presence in memory implies a record, written before; a record does not imply the bytes
 *     (crashes, a power cut): its sums tell.
 *  3. Bytes below a set presence bit are never written: a store over a partly present group
 *     clears it first.
 *  4. used <= quota, unless the directory was opened with more in it; see tier_quota.c.
 *
 * Failures. An error that means a broken device (EIO and kin) drops the group; three in a row, or
 * one of the index, take the tier offline until it is opened anew: it then serves nothing, admits
 * nothing and deletes nothing. No space is not a failure: the store ends with TIER_FULL and leaves
 * nothing behind.
 */
#include "store/tier/tier.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "lib/base/assert.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/base/str.h"
#include "lib/base/units.h"
#include "store/kv/kv.h"
#include "store/tier/tier_priv.h"

const char *tarn_medium_name(enum tarn_medium m)
{
    static const char *const names[] = {"MEM", "SSD", "HDD"};

    TARN_ASSERT((unsigned)m < TARN_ARRAY_LEN(names));
    return names[m];
}

/* ---- steps of requests ------------------------------------------------------------------ */

void tarn_tier_ref(struct tarn_tier *t)
{
    TARN_ASSERT(atomic_fetch_add(&t->refs, 1) > 0);
}

void tarn_tier_unref(struct tarn_tier *t)
{
    if (atomic_fetch_sub(&t->refs, 1) != 1)
        return;
    TARN_ASSERT(t->closed);
    for (unsigned i = 0; i < TIER_SHARDS; i++)
        tarn_mtx_fini(&t->shards[i].mtx);
    tarn_mtx_fini(&t->fd_mtx);
    tarn_mtx_fini(&t->acct_mtx);
    tarn_mtx_fini(&t->job_mtx);
    tarn_cond_fini(&t->job_cond);
    t->magic = 0;
    free(t->path);
    free(t->owner);
    free(t);
}

bool tarn_tier_job_begin(struct tarn_tier *t)
{
    TARN_GUARD(&t->job_mtx);
    t->jobs += !t->closed;
    return !t->closed;
}

void tarn_tier_job_end(struct tarn_tier *t)
{
    TARN_GUARD(&t->job_mtx);
    TARN_ASSERT(t->jobs > 0);
    if (--t->jobs == 0)
        tarn_cond_broadcast(&t->job_cond);
}

struct tarn_tier_op *tarn_tier_op_new(struct tarn_tier *t, enum tier_kind kind,
                                      struct tarn_tier_file *f, uint32_t group)
{
    struct tarn_tier_op *op = tarn_xnew(struct tarn_tier_op);

    if (f)
        tarn_tier_file_use(f);
    op->tier = t;
    op->kind = (uint8_t)kind;
    op->file = f;
    op->group = group;
    tarn_list_init(&op->node);
    return op;
}

void tarn_tier_op_free(struct tarn_tier_op *op)
{
    TARN_ASSERT(op->kind > TIER_DROP);
    tarn_tier_file_put(&op->file);
    free(op);
}

static void op_step(struct tarn_tier_op *op)
{
    struct tarn_tier *t = op->tier;

    if (!t->closed)
        op->done(op);
    else
        free(op); /* the tier's own; its file is gone */
    tarn_tier_unref(t);
}

static void op_work(struct tarn_disk_io *io)
{
    struct tarn_tier_op *op = io->arg;

    /* Walks and reopening ask by themselves: they are whole without it. */
    if (op->kind == TIER_WALK || op->kind == TIER_REOPEN) {
        op->work(op);
    } else if (tarn_tier_job_begin(op->tier)) {
        op->work(op);
        tarn_tier_job_end(op->tier);
    }
}

static void op_worked(struct tarn_disk_io *io)
{
    op_step(io->arg);
}

static void op_posted(struct tarn_task *task)
{
    op_step(TARN_CONTAINER(task, struct tarn_tier_op, io.task));
}

void tarn_tier_submit(struct tarn_tier_op *op, tarn_tier_step_fn *work, tarn_tier_step_fn *done)
{
    struct tarn_tier *t = op->tier;

    op->work = work;
    op->done = done;
    op->io = (struct tarn_disk_io){
        .loop = t->loop, .op = TARN_DISK_CALL, .work = op_work, .cb = op_worked, .arg = op};
    tarn_tier_ref(t);
    tarn_disk_submit(t->disk, &op->io);
}

void tarn_tier_post(struct tarn_tier_op *op, tarn_tier_step_fn *done)
{
    op->done = done;
    tarn_tier_ref(op->tier);
    tarn_loop_post(op->tier->loop, &op->io.task, op_posted);
}

void tarn_tier_end(struct tarn_tier_op *op, int rc)
{
    TARN_ASSERT(op->kind <= TIER_DROP);
    op->rc = rc;
    op->cb(op, rc);
}

static void op_ended(struct tarn_tier_op *op)
{
    tarn_tier_end(op, op->rc);
}

void tarn_tier_end_later(struct tarn_tier_op *op, int rc)
{
    op->rc = rc;
    tarn_tier_post(op, op_ended);
}

/* ---- health ----------------------------------------------------------------------------- */

bool tarn_tier_offline(const struct tarn_tier *t)
{
    return atomic_load_explicit(&t->offline, memory_order_relaxed);
}

/* Errors that a working directory on a working disk does not give. */
static bool errno_is_device(int rc)
{
    switch (-rc) {
    case EIO:
    case EROFS:
    case ENODEV:
    case ENXIO:
    case ESTALE:
    case EBADF:
    case ENOTCONN:
    case EUCLEAN:
    case EACCES:
    case EPERM:
        return true;
    default:
        return false;
    }
}

bool tarn_tier_note(struct tarn_tier *t, int rc)
{
    if (!errno_is_device(rc)) {
        if (rc >= 0 && atomic_load_explicit(&t->eio_streak, memory_order_relaxed) != 0)
            atomic_store_explicit(&t->eio_streak, 0, memory_order_relaxed);
        return false;
    }
    if (atomic_fetch_add(&t->eio_streak, 1) + 1 >= TIER_EIO_STREAK &&
        !atomic_exchange(&t->offline, true))
        tarn_error("tier", "path=%s offline: %s", t->path, tarn_strerror(rc));
    return true;
}

bool tarn_tier_gone(struct tarn_tier *t)
{
    struct stat st;

    if (fstat(t->data_fd, &st) < 0 || st.st_nlink != 0)
        return tarn_tier_offline(t);
    if (!atomic_exchange(&t->offline, true))
        tarn_error("tier", "path=%s offline: the directory was removed under the running server",
                   t->path);
    return true;
}

uint32_t tarn_tier_now_s(const struct tarn_tier *t)
{
    int64_t ns = t->clock->real_ns(t->clock);

    return ns > 0 ? (uint32_t)TARN_MIN((uint64_t)ns / TARN_NS_PER_S, UINT32_MAX) : 0;
}

/* ---- open and close --------------------------------------------------------------------- */

static struct tarn_tier *tier_new(const struct tarn_tier_args *args)
{
    struct tarn_tier *t = aligned_alloc(64, (sizeof(*t) + 63) / 64 * 64);

    TARN_ASSERT(t != NULL);
    memset(t, 0, sizeof(*t));
    t->magic = TIER_MAGIC;
    t->loop = args->loop;
    t->disk = args->disk;
    t->clock = args->clock;
    t->path = tarn_xstrdup(args->path);
    t->owner = tarn_xstrdup(args->owner_id);
    t->medium = args->medium;
    t->disk_free_bp = args->disk_free_bp;
    t->fds_max = args->fds_max;
    t->dir_fd = t->lock_fd = t->data_fd = -1;
    for (unsigned i = 0; i < TIER_SHARDS; i++)
        tarn_mtx_init(&t->shards[i].mtx, TARN_RANK_TIER);
    tarn_mtx_init(&t->fd_mtx, TARN_RANK_TIER_FD);
    tarn_mtx_init(&t->acct_mtx, TARN_RANK_LEAF);
    tarn_mtx_init(&t->job_mtx, TARN_RANK_LEAF);
    tarn_cond_init(&t->job_cond);
    tarn_list_init(&t->fd_idle);
    tarn_list_init(&t->lru);
    tarn_list_init(&t->copies);
    tarn_list_init(&t->reservers);
    tarn_list_init(&t->pin_wait);
    tarn_list_init(&t->kv_wait);
    tarn_list_init(&t->index_queue);
    tarn_list_init(&t->index_batch);
    atomic_init(&t->refs, 1);
    return t;
}

/* What was given, or what the file system can hold of it: a larger one would be promised in vain. */
static void tier_set_quota(struct tarn_tier *t, const struct tarn_tier_args *args)
{
    uint64_t quota = args->quota_bytes, most = 0;
    char given_text[32], most_text[32];
    struct statvfs v;

    if (t->dir_fd >= 0 && fstatvfs(t->dir_fd, &v) == 0)
        most = (uint64_t)v.f_blocks * v.f_frsize / 10000 * (10000 - args->disk_free_bp);
    if (most > 0 && most < quota) {
        tarn_warn("tier", "path=%s: its file system can hold %s of the %s that it may use", t->path,
                  tarn_format_size(most, most_text), tarn_format_size(quota, given_text));
        quota = most;
    }
    t->quota_bytes = quota;
    t->high_bytes = quota / 10000 * args->high_bp;
    t->low_bytes = quota / 10000 * args->low_bp;
    t->copies_max = quota / 10;
}

/* Everything but the memory, which later turns of the loop may still look at. */
static void tier_shut(struct tarn_tier *t)
{
    tarn_mtx_lock(&t->job_mtx);
    t->closed = true;
    while (t->jobs > 0)
        tarn_cond_wait(&t->job_cond, &t->job_mtx);
    tarn_mtx_unlock(&t->job_mtx);
    tarn_timer_stop(&t->walk_timer);
    tarn_timer_stop(&t->index_timer);
    tarn_tier_index_close(t);
    while (!tarn_list_empty(&t->pin_wait))
        free(TARN_LIST_ENTRY(tarn_list_pop(&t->pin_wait), struct tarn_tier_op, node));
    tarn_tier_files_free(t);
    tarn_tier_dir_close(t);
}

int tarn_tier_open(const struct tarn_tier_args *args, struct tarn_errbuf *err,
                   struct tarn_tier **ret_tier)
{
    struct tarn_tier *t;
    bool fresh = true;
    int rc;

    TARN_ASSERT(args->loop && args->disk && args->clock && args->path && args->owner_id);
    TARN_ASSERT(args->low_bp <= args->high_bp && args->high_bp <= 10000 &&
                args->disk_free_bp <= 10000);
    if (strlen(args->owner_id) >= TARN_TIER_OWNER_MAX)
        return tarn_err_set(err, -TARN_E_INVALID, "%s: the cluster id is too long", args->path);
    t = tier_new(args);
    rc = tarn_tier_dir_open(t, args, err, &fresh);
    tier_set_quota(t, args);
    if (rc == 0)
        rc = tarn_tier_index_open(t, err);
    if (rc < 0) {
        tier_shut(t);
        tarn_tier_unref(t);
        return rc;
    }
    t->shrinking = tarn_tier_used(t) > t->quota_bytes;
    if (!fresh)
        tarn_tier_walk_start(t);
    tarn_tier_pump(t);
    *ret_tier = t;
    return 0;
}

static void tier_assert_unused(struct tarn_tier *t)
{
    TARN_ASSERT(tarn_list_empty(&t->reservers) && tarn_list_empty(&t->kv_wait) && t->kv_users == 0);
    for (unsigned i = 0; i < TIER_SHARDS; i++) {
        struct tarn_hnode *n = NULL;
        size_t slot = 0;

        TARN_GUARD(&t->shards[i].mtx);
        while ((n = tarn_htab_walk(&t->shards[i].files, &slot, n)) != NULL) {
            const struct tarn_tier_file *f = TARN_CONTAINER(n, struct tarn_tier_file, node);

            TARN_ASSERT(f->users == 0 || f->busy || t->walking ||
                        !tarn_list_empty(&t->index_queue) || t->index_writing ||
                        atomic_load(&t->refs) > 1);
        }
    }
}

void tarn_tier_close(struct tarn_tier **pt)
{
    struct tarn_tier *t = *pt;

    *pt = NULL;
    if (!t)
        return;
    TARN_ASSERT(t->magic == TIER_MAGIC && !t->closed);
    tarn_loop_assert_mine(t->loop);
    tier_assert_unused(t);
    tier_shut(t);
    tarn_tier_unref(t);
}

/* ---- reports ---------------------------------------------------------------------------- */

const char *tarn_tier_uuid(const struct tarn_tier *t, char ret[TARN_TIER_UUID_TEXT])
{
    ret[0] = '\0';
    if (t->id)
        (void)snprintf(ret, TARN_TIER_UUID_TEXT, "%016llx", (unsigned long long)t->id); /* fits */
    return ret;
}

void tarn_tier_info(struct tarn_tier *t, struct tarn_tier_info *ret)
{
    *ret = (struct tarn_tier_info){
        .medium = t->medium,
        .path = t->path,
        .capacity_bytes = t->quota_bytes,
        .used_bytes = tarn_tier_used(t),
        .data_bytes = atomic_load(&t->data_bytes),
        .files = atomic_load(&t->files),
        .evicted_bytes = atomic_load(&t->evicted_bytes),
        .copy_bytes = atomic_load_explicit(&t->copy_bytes, memory_order_relaxed),
        .checksum_errors = atomic_load(&t->checksum_errors),
        .fds = atomic_load(&t->fds),
        .offline = tarn_tier_gone(t),
    };
    for (unsigned i = 0; i < TIER_SHARDS; i++) {
        ret->hits += atomic_load_explicit(&t->shards[i].hits, memory_order_relaxed);
        ret->misses += atomic_load_explicit(&t->shards[i].misses, memory_order_relaxed);
    }
}

/* What tarn_tier_check() adds up. */
struct tier_sums {
    uint64_t data, files, disk, pinned, listed, open, copies;
};

static void check_group(struct tarn_tier *t, struct tarn_tier_file *f, uint32_t group,
                        const struct tier_group *g, struct tier_sums *sums)
{
    uint64_t present = atomic_load(&g->present), bytes;
    bool listed = !tarn_list_empty(&g->lru);
    struct tarn_tier_op key = {.file = f, .group = group, .tier = t};
    struct tarn_tier_record rec;
    uint32_t nr;

    TARN_ASSERT(tarn_tier_group_file(g, &nr) == f && nr == group);
    TARN_ASSERT((present & ~tarn_tier_group_mask(f->length, group)) == 0);
    TARN_ASSERT((atomic_load(&g->verified) & ~present) == 0);
    TARN_ASSERT(listed == (present != 0 && !g->busy && f->pins == 0));
    sums->listed += listed;
    if (present == 0)
        return;
    bytes = tarn_tier_mask_bytes(f->length, group, present);
    sums->data += bytes;
    sums->copies += g->copy ? bytes : 0;
    sums->pinned += f->pins ? bytes : 0;
    if (t->kv_state == TIER_KV_OPEN && !tarn_tier_offline(t)) {
        TARN_ASSERT(tarn_tier_index_get(&key, &rec) == 0);
        TARN_ASSERT((present & ~rec.present) == 0);
    }
}

static void check_file(struct tarn_tier *t, struct tarn_tier_file *f, struct tier_sums *sums)
{
    uint64_t before = sums->data, present = 0;
    const struct tier_group *g;

    for (uint64_t i = 0; (g = tarn_tier_group_next(f, &i)) != NULL; i++) {
        check_group(t, f, (uint32_t)i, g, sums);
        present += atomic_load(&g->present) != 0;
    }
    TARN_ASSERT(present == f->present_n && sums->data - before == atomic_load(&f->cached));
    TARN_ASSERT(present == 0 || atomic_load(&f->on_disk));
    TARN_ASSERT(f->users > 0 || f->present_n > 0 || f->pins > 0);
    TARN_ASSERT(f->users > 0 || atomic_load(&f->fd) < 0 || !tarn_list_empty(&f->idle));
    sums->files += present > 0;
    sums->disk += f->disk_bytes;
    sums->open += atomic_load(&f->fd) >= 0;
}

void tarn_tier_check(struct tarn_tier *t)
{
    struct tier_sums sums = {0};
    bool quiet =
        t->evicting == 0 && !t->index_writing && tarn_list_empty(&t->index_queue) && !t->walking;

    tarn_loop_assert_mine(t->loop);
    TARN_ASSERT(t->magic == TIER_MAGIC && !t->closed);
    if (!quiet) /* the index runs ahead or behind */
        return;
    for (unsigned i = 0; i < TIER_SHARDS; i++) {
        struct tarn_hnode *n = NULL;
        size_t slot = 0;

        TARN_GUARD(&t->shards[i].mtx);
        while ((n = tarn_htab_walk(&t->shards[i].files, &slot, n)) != NULL)
            check_file(t, TARN_CONTAINER(n, struct tarn_tier_file, node), &sums);
    }
    TARN_ASSERT(sums.data == atomic_load(&t->data_bytes) && sums.files == atomic_load(&t->files));
    TARN_ASSERT(sums.copies == t->copy_bytes);
    TARN_ASSERT(sums.pinned == t->pinned_bytes && sums.listed == t->lru_len);
    TARN_ASSERT(sums.disk <=
                atomic_load(&t->data_bytes_disk)); /* more: files that could not be unlinked */
    TARN_ASSERT(sums.open <= atomic_load(&t->fds));
}
