/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests that change a file: store, drop, eviction, and the repair of a record. All steps that
 * decide something run on the loop; only open, read, write, punch, unlink and the index run on the
 * pool.
 *
 *   store:  [presence off, readers gone] -> data written (pool) -> record written (index)
 *               -> presence on
 *   evict:  presence off -> readers gone -> record deleted (index)
 *               -> hole punched or file unlinked (pool)
 *   drop:   presence off for all groups -> requests under way end -> readers gone
 *               -> records deleted -> unlinked
 *
 * Several stores of one file run at a time, one per group; the first one makes the file alone. A
 * drop and the removal of a file's last group are exclusive: what comes later waits in
 * tier_busy.waiting. So a descriptor or a name never changes under a request. A store that a drop
 * overtakes (generation) ends as cancelled and leaves its bytes and its record to the drop, which
 * removes all of the file's.
 *
 * A deletion in the index that fails does not stop the removal: a record without its bytes fails
 * its checksums after the next start. The other order would serve a hole as zeros; it cannot
 * happen.
 */
#include "store/tier/tier_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "lib/base/assert.h"
#include "lib/base/buf.h"
#include "lib/base/fault.h"
#include "lib/base/hash.h"
#include "lib/base/mem.h"

static void file_kick(struct tarn_tier_file *f);
static void store_begin(struct tarn_tier_op *op);

int tarn_tier_pwrite(int fd, const void *src, size_t n, uint64_t off)
{
    size_t done = 0;
    int rc = TARN_FAULT(disk_write);

    if (rc < 0)
        return rc;
    while (done < n) {
        ssize_t k = pwrite(fd, (const char *)src + done, n - done, (off_t)(off + done));

        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return -errno;
        if (k == 0)
            return -EIO;
        done += (size_t)k;
    }
    return 0;
}

/* ---- presence --------------------------------------------------------------------------- */

/* Adds `n` (which may be "negative") to what is counted for the file's present bytes. */
static void file_count_bytes(struct tarn_tier_file *f, uint64_t n)
{
    atomic_fetch_add(&f->cached, n);
    atomic_fetch_add(&f->tier->data_bytes, n);
    if (f->pins)
        f->tier->pinned_bytes += n;
}

static void file_count_groups(struct tarn_tier_file *f, int add)
{
    TARN_GUARD(&tarn_tier_shard(f->tier, &f->cid)->mtx);
    TARN_ASSERT(add > 0 || f->present_n > 0);
    if (f->present_n == (add > 0 ? 0 : 1))
        atomic_fetch_add(&f->tier->files, (uint64_t)add);
    f->present_n += (uint32_t)add;
}

void tarn_tier_group_set(struct tarn_tier_file *f, uint32_t group, uint64_t present,
                         uint64_t verified)
{
    struct tier_group *g = tarn_tier_group_make(f, group);

    TARN_ASSERT(present != 0 && atomic_load(&g->present) == 0);
    atomic_store(&g->verified, verified);
    atomic_store(&g->present, present);
    file_count_bytes(f, tarn_tier_mask_bytes(f->length, group, present));
    if (g->copy)
        f->tier->copy_bytes += tarn_tier_mask_bytes(f->length, group, present);
    file_count_groups(f, 1);
}

void tarn_tier_group_clear(struct tarn_tier_file *f, uint32_t group, uint64_t mask)
{
    struct tier_group *g = tarn_tier_group(f, group);
    uint64_t old = g ? atomic_load(&g->present) : 0;

    mask &= old;
    if (mask == 0)
        return;
    atomic_store(&g->present, old & ~mask); /* first: readers look at it after they pinned */
    atomic_store(&g->verified, atomic_load(&g->verified) & ~mask);
    file_count_bytes(f, 0 - tarn_tier_mask_bytes(f->length, group, mask));
    if (g->copy)
        f->tier->copy_bytes -= tarn_tier_mask_bytes(f->length, group, mask);
    if (old == mask) {
        tarn_tier_lru_del(f->tier, g);
        file_count_groups(f, -1);
    }
}

/* ---- taking turns on a file ------------------------------------------------------------- */

static struct tier_busy *file_busy(struct tarn_tier_file *f)
{
    if (!f->busy) {
        f->busy = tarn_xnew(struct tier_busy);
        tarn_list_init(&f->busy->waiting);
    }
    return f->busy;
}

void tarn_tier_turn_begin(struct tarn_tier_file *f, struct tier_group *g, bool exclusive)
{
    struct tier_busy *b = file_busy(f);

    TARN_ASSERT(!b->exclusive && (!exclusive || b->active == 0));
    TARN_ASSERT(!g || !g->busy);
    b->active++;
    b->exclusive = exclusive;
    if (g) {
        g->busy = true;
        tarn_tier_lru_del(f->tier, g);
    }
}

/* The caller holds a reference; afterwards others may have begun, or the removal of an empty file.
 */
void tarn_tier_turn_end(struct tarn_tier_file *f, struct tier_group *g)
{
    struct tier_busy *b = f->busy;

    TARN_ASSERT(b && b->active > 0);
    b->active--;
    b->exclusive = false;
    if (g) {
        TARN_ASSERT(g->busy);
        g->busy = false;
        if (atomic_load(&g->present) && f->pins == 0)
            tarn_tier_lru_add(f->tier, g);
    }
    file_kick(f);
    if (f->busy && f->busy->active == 0) {
        free(f->busy);
        f->busy = NULL;
        if (f->present_n == 0 && atomic_load(&f->on_disk) && !tarn_tier_offline(f->tier))
            tarn_tier_clean(f);
    }
}

static bool turn_may_begin(const struct tarn_tier_op *op)
{
    struct tarn_tier_file *f = op->file;
    const struct tier_busy *b = f->busy;

    if (!b || b->active == 0)
        return true;
    if (b->exclusive || op->kind != TIER_STORE || !atomic_load(&f->on_disk))
        return false;
    return !tarn_tier_group_make(f, op->group)->busy;
}

/* Begins what waits, in order, as far as it may. */
static void file_kick(struct tarn_tier_file *f)
{
    while (f->busy && !tarn_list_empty(&f->busy->waiting)) {
        struct tarn_tier_op *op = TARN_LIST_ENTRY(f->busy->waiting.next, struct tarn_tier_op, node);

        if (!turn_may_begin(op))
            return;
        tarn_list_del(&op->node);
        if (op->kind == TIER_STORE)
            store_begin(op);
        else
            tarn_tier_drop_begin(op);
    }
}

void tarn_tier_turn_take(struct tarn_tier_op *op)
{
    tarn_list_init(&op->node);
    tarn_list_push(&file_busy(op->file)->waiting, &op->node);
    file_kick(op->file);
    if (op->file->busy && op->file->busy->active == 0 &&
        tarn_list_empty(&op->file->busy->waiting)) {
        free(op->file->busy); /* it ended without a turn */
        op->file->busy = NULL;
    }
}

/* ---- store ------------------------------------------------------------------------------ */

/* ENOSPC and its kin are one thing to the caller: serve without caching. */
static int store_code(const struct tarn_tier *t, int rc)
{
    if (rc == -ENOSPC || rc == -EDQUOT || rc == -TARN_E_KV_NO_SPACE || rc == -EFBIG)
        return -TARN_E_TIER_FULL;
    return rc < 0 && tarn_tier_offline(t) && rc != -TARN_E_CANCELLED ? -TARN_E_TIER_OFFLINE : rc;
}

static void store_end(struct tarn_tier_op *op, int rc)
{
    struct tarn_tier *t = op->tier;
    struct tarn_tier_file *f = op->file;

    tarn_tier_turn_end(f, tarn_tier_group(f, op->group));
    tarn_tier_pump(t);
    tarn_tier_end(op, store_code(t, rc)); /* last: the caller may close the tier */
}

static void store_punch(struct tarn_tier_op *op, int fd)
{
    if (tarn_tier_lent(op->file))
        return; /* what was there and what was written are both bytes of this version */
    (void)fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                    (off_t)op->group * TARN_UNIT_BYTES,
                    tarn_tier_group_bytes(op->file->length, op->group)); /* or it stays counted */
}

/* Takes back what a failed store wrote. */
static void store_undo_work(struct tarn_tier_op *op)
{
    int fd = tarn_tier_file_open(op->file);

    if (fd < 0)
        return;
    store_punch(op, fd);
    tarn_tier_account(op->file, fd);
}

static void store_undone(struct tarn_tier_op *op)
{
    store_end(op, op->rc);
}

static void store_indexed(struct tarn_tier_op *op)
{
    struct tarn_tier_file *f = op->file;
    struct tier_group *g = tarn_tier_group(f, op->group);
    uint64_t all = tarn_tier_group_mask(f->length, op->group);

    if (op->generation != f->generation) {
        store_end(op, -TARN_E_CANCELLED); /* the drop that waits removes the rest */
        return;
    }
    if (op->rc < 0) {
        tarn_tier_submit(op, store_undo_work, store_undone);
        return;
    }
    atomic_store(&g->atime_s, op->atime_s);
    atomic_store(&g->touched, false);
    g->copy = (op->flags & TIER_OP_COPY) != 0;
    tarn_tier_group_set(f, op->group, all, all);
    tarn_tier_file_note_level(f, op->level);
    store_end(op, 0);
}

static void store_written(struct tarn_tier_op *op)
{
    struct tarn_tier *t = op->tier;
    struct tarn_tier_file *f = op->file;

    (void)tarn_tier_note(t, op->rc); /* store_code() asks what it led to */
    if (op->rc >= 0 && (op->flags & TIER_OP_MADE))
        atomic_store(&f->on_disk, true);
    if (op->rc < 0) {
        if (op->rc == -TARN_E_INDEX_CORRUPT) /* the file is gone or was cut: all of it */
            tarn_tier_lose_file(f);
        store_end(op, op->rc == -TARN_E_INDEX_CORRUPT ? -EIO : op->rc);
        return;
    }
    if (op->generation != f->generation) {
        store_end(op, -TARN_E_CANCELLED);
        return;
    }
    op->atime_s = tarn_tier_now_s(t);
    if (f->pins)
        op->flags |= TIER_OP_PINNED;
    op->replicas = f->replicas;
    tarn_tier_index_enqueue(op, store_indexed);
}

static void store_sums(struct tarn_tier_op *op)
{
    uint32_t len = (uint32_t)op->buf->len;

    for (uint32_t i = 0; i < TARN_GROUP_GRANULES; i++) {
        uint32_t off = i * TARN_GRANULE_BYTES;

        op->sums[i] = 0;
        if (off < len)
            op->sums[i] = tarn_xxh3(op->buf->p + off, TARN_MIN(len - off, TARN_GRANULE_BYTES));
    }
}

static void store_work(struct tarn_tier_op *op)
{
    struct tarn_tier_file *f = op->file;
    bool make = op->flags & TIER_OP_MADE;
    char name[TIER_NAME_MAX];
    int fd = make ? tarn_tier_file_make(f) : tarn_tier_file_open(f);

    store_sums(op);
    op->rc = fd;
    if (fd >= 0) {
        op->rc =
            tarn_tier_pwrite(fd, op->buf->p, op->buf->len, (uint64_t)op->group * TARN_UNIT_BYTES);
        if (op->rc < 0 && make) { /* nobody else knows the file */
            tarn_tier_file_name(f, name);
            tarn_tier_file_close(f);
            (void)unlinkat(op->tier->data_fd, name, 0); /* else the next start does it */
            fd = -1;
        } else if (op->rc < 0) {
            store_punch(op, fd);
        }
    }
    if (fd >= 0)
        tarn_tier_account(f, fd);
    if (make)
        tarn_tier_account_bucket(op->tier, f->cid.b[0]);
    tarn_tier_release(op->tier, tarn_tier_charge(op->reserved_bytes));
}

/* No reader is in, the group's bytes may be written. */
void tarn_tier_store_go(struct tarn_tier_op *op)
{
    if (!atomic_load(&op->file->on_disk))
        op->flags |= TIER_OP_MADE;
    tarn_tier_submit(op, store_work, store_written);
}

/* Ends a store that has not begun. */
static void store_refuse(struct tarn_tier_op *op, int rc)
{
    tarn_tier_release(op->tier, tarn_tier_charge(op->reserved_bytes));
    tarn_tier_end_later(op, store_code(op->tier, rc));
    tarn_tier_pump(op->tier);
}

static bool store_pinned_full(const struct tarn_tier_op *op)
{
    const struct tarn_tier *t = op->tier;

    return op->file->pins > 0 && t->pinned_bytes + op->buf->len > t->quota_bytes / 10 * 9;
}

static void store_begin(struct tarn_tier_op *op)
{
    struct tarn_tier *t = op->tier;
    struct tarn_tier_file *f = op->file;
    struct tier_group *g = tarn_tier_group_make(f, op->group);
    uint64_t all = tarn_tier_group_mask(f->length, op->group), tag;

    if (tarn_tier_offline(t)) {
        store_refuse(op, -TARN_E_TIER_OFFLINE);
    } else if (op->generation != f->generation || (tarn_tier_file_tag(f, &tag) && tag != op->tag)) {
        store_refuse(op, -TARN_E_CANCELLED);
    } else if ((atomic_load(&g->present) & atomic_load(&g->verified)) == all) {
        store_refuse(op, 0); /* another one was faster */
    } else if (store_pinned_full(op) || t->kv_state == TIER_KV_DOWN) {
        store_refuse(op, -TARN_E_TIER_FULL);
    } else {
        f->tag = op->tag;
        f->used = true; /* its readers have the bytes before we do */
        tarn_tier_turn_begin(f, g, false);
        tarn_tier_group_clear(f, op->group, all);
        if (tarn_tier_group_quiet(g))
            tarn_tier_store_go(op);
        else
            tarn_list_push(&t->pin_wait, &op->node);
    }
}

void tarn_tier_store(struct tarn_tier *t, struct tarn_tier_op *op)
{
    tarn_loop_assert_mine(t->loop);
    TARN_ASSERT(op->file && op->file->tier == t && op->cb && op->buf);
    TARN_ASSERT(op->buf->len == tarn_tier_group_bytes(op->file->length, op->group));
    TARN_ASSERT(op->reserved_bytes >= op->buf->len && op->level <= UINT8_MAX);
    op->tier = t;
    op->kind = TIER_STORE;
    op->flags = op->copy ? TIER_OP_COPY : 0;
    op->rc = 0;
    op->generation = op->file->generation;
    tarn_tier_turn_take(op);
}
