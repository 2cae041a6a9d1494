/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What takes bytes away: eviction of a group, drop of a file, files that were lost or emptied, bad
 * granules; and the pins of users, which keep groups from it. tier_op.c explains the order of the
 * steps.
 */
#include "store/tier/tier_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "lib/base/assert.h"
#include "lib/base/fault.h"
#include "lib/base/mem.h"

/* ---- removals --------------------------------------------------------------------------- */

static void unlink_work(struct tarn_tier_op *op)
{
    struct tarn_tier_file *f = op->file;
    char name[TIER_NAME_MAX];

    tarn_tier_file_name(f, name);
    tarn_tier_file_close(f); /* before it stops counting: unlinked but open takes room */
    op->rc = TARN_FAULT(disk_write);
    if (op->rc == 0 && unlinkat(op->tier->data_fd, name, 0) < 0 && errno != ENOENT)
        op->rc = -errno;
    tarn_tier_lend_unlinked(f); /* also if it failed: the next store makes another inode */
    if (op->rc == 0)
        tarn_tier_account_bytes(f, 0);
}

static void punch_work(struct tarn_tier_op *op)
{
    int fd = tarn_tier_file_open(op->file);

    op->rc = TARN_MIN(fd, 0);
    if (fd < 0)
        return;
    if (tarn_tier_lent(op->file)) { /* before the start: opening it told */
        op->flags |= TIER_OP_LENT;
        return;
    }
    op->rc = TARN_FAULT(disk_write);
    if (op->rc == 0 && fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                 (off_t)op->group * TARN_UNIT_BYTES,
                                 tarn_tier_group_bytes(op->file->length, op->group)) < 0)
        op->rc = -errno;
    tarn_tier_account(op->file, fd);
}

static void removal_end(struct tarn_tier_op *op)
{
    struct tarn_tier *t = op->tier;
    struct tarn_tier_file *f = op->file;
    struct tier_group *g = op->kind == TIER_EVICT ? tarn_tier_group(f, op->group) : NULL;

    if (op->flags & TIER_OP_LENT)
        tarn_tier_lose_file(f);
    if (op->rc < 0) /* a success says nothing: names go from a disk whose data cannot be read */
        (void)tarn_tier_note(t, op->rc);
    if (op->flags & TIER_OP_ROOM) {
        t->evicting_bytes -= op->reserved_bytes;
        t->evicting--;
        if (op->flags & TIER_OP_EVICTED)
            atomic_fetch_add(&t->evicted_bytes, op->reserved_bytes);
    }
    if (op->kind != TIER_EVICT || (op->flags & TIER_OP_UNLINK)) {
        atomic_store(&f->on_disk, false); /* even if it failed: a new one replaces it */
        if (op->rc >= 0)
            tarn_tier_account_bytes(f, 0); /* once more: the walk may have counted it meanwhile */
    }
    tarn_tier_turn_end(f, g);
    tarn_tier_pump(t);
    if (op->kind == TIER_DROP)
        tarn_tier_end(op, op->rc); /* last: the caller may close the tier */
    else
        tarn_tier_op_free(op);
}

/* The record is deleted: what is left of the group, or the file when that was all, goes. */
static void removal_indexed(struct tarn_tier_op *op)
{
    struct tarn_tier_file *f = op->file;
    struct tier_busy *b = f->busy;
    bool last = f->present_n == 0 && b->active == 1 && tarn_list_empty(&b->waiting);

    if (op->kind == TIER_EVICT && last) {
        op->flags |= TIER_OP_UNLINK;
        b->exclusive = true;
    }
    if (op->kind != TIER_EVICT || last) {
        tarn_tier_submit(op, unlink_work, removal_end);
    } else if (tarn_tier_lent(f)) { /* since this began */
        tarn_tier_lose_file(f);
        tarn_tier_post(op, removal_end);
    } else {
        tarn_tier_submit(op, punch_work, removal_end);
    }
}

/* True when no reader is in any of the groups that op removes. */
static bool removal_is_quiet(const struct tarn_tier_op *op)
{
    struct tier_group *g;

    if (op->kind == TIER_EVICT || op->kind == TIER_STORE)
        return tarn_tier_group_quiet(tarn_tier_group(op->file, op->group));
    for (uint64_t i = 0; (g = tarn_tier_group_next(op->file, &i)) != NULL; i++)
        if (!tarn_tier_group_quiet(g))
            return false;
    return true;
}

static void removal_quiet(struct tarn_tier_op *op)
{
    if (op->kind == TIER_STORE)
        tarn_tier_store_go(op);
    else
        tarn_tier_index_enqueue(op, removal_indexed);
}

static void removal_begin(struct tarn_tier_op *op)
{
    if (removal_is_quiet(op))
        removal_quiet(op);
    else
        tarn_list_push(&op->tier->pin_wait, &op->node);
}

void tarn_tier_unpin_wake(struct tarn_task *task)
{
    struct tarn_tier *t = TARN_CONTAINER(task, struct tarn_tier, unpin_task);
    struct tarn_list all;

    tarn_list_init(&all);
    atomic_store(&t->unpin_posted, false); /* before looking: a later unpin posts again */
    if (!t->closed)
        tarn_list_splice(&all, &t->pin_wait);
    while (!tarn_list_empty(&all))
        removal_begin(TARN_LIST_ENTRY(tarn_list_pop(&all), struct tarn_tier_op, node));
    tarn_tier_unref(t);
}

static void drop_all(struct tarn_tier_file *f)
{
    struct tier_group *g;

    f->generation++;
    for (uint64_t i = 0; (g = tarn_tier_group_next(f, &i)) != NULL; i++)
        tarn_tier_group_clear(f, (uint32_t)i, ~0ull);
}

/* Makes `op` an eviction of so many bytes. */
static void evict_count(struct tarn_tier_op *op, uint64_t bytes, bool counted)
{
    op->flags |= TIER_OP_ROOM | (counted ? TIER_OP_EVICTED : 0);
    op->reserved_bytes = bytes;
    op->tier->evicting_bytes += bytes;
    op->tier->evicting++;
}

/* A file that was lent goes as a whole. */
static void evict_file(struct tarn_tier_file *f, bool counted)
{
    struct tarn_tier_op *op = tarn_tier_op_new(f->tier, TIER_LOST, f, 0);

    evict_count(op, atomic_load(&f->cached), counted);
    drop_all(f);
    tarn_tier_turn_take(op);
}

bool tarn_tier_evict(struct tarn_tier_file *f, uint32_t group, bool counted)
{
    struct tarn_tier *t = f->tier;
    struct tier_group *g = tarn_tier_group(f, group);
    uint64_t present = g ? atomic_load(&g->present) : 0;
    struct tarn_tier_op *op;

    if (present == 0 || g->busy)
        return false;
    if (f->busy && (f->busy->exclusive || !tarn_list_empty(&f->busy->waiting)))
        return false;
    if (tarn_tier_lent(f)) {
        evict_file(f, counted);
        return true;
    }
    op = tarn_tier_op_new(t, TIER_EVICT, f, group);
    evict_count(op, tarn_tier_mask_bytes(f->length, group, present), counted);
    tarn_tier_turn_begin(f, g, false);
    tarn_tier_group_clear(f, group, present);
    removal_begin(op);
    return true;
}

/* It is the file's turn to be dropped. Stores asked for since wait; earlier ones were overtaken. */
void tarn_tier_drop_begin(struct tarn_tier_op *op)
{
    TARN_ASSERT(op->file->present_n == 0);
    tarn_tier_turn_begin(op->file, NULL, true);
    removal_begin(op);
}

void tarn_tier_drop(struct tarn_tier *t, struct tarn_tier_op *op)
{
    tarn_loop_assert_mine(t->loop);
    TARN_ASSERT(op->file && op->file->tier == t && op->cb);
    op->tier = t;
    op->kind = TIER_DROP;
    op->flags = 0;
    op->rc = 0;
    drop_all(op->file);
    tarn_tier_turn_take(op);
}

bool tarn_tier_drop_group(struct tarn_tier *t, struct tarn_tier_file *f, uint32_t group)
{
    tarn_loop_assert_mine(t->loop);
    TARN_ASSERT(f->tier == t);
    return !tarn_tier_lent(f) && tarn_tier_evict(f, group, false);
}

void tarn_tier_lose_file(struct tarn_tier_file *f)
{
    if (f->present_n == 0 && !atomic_load(&f->on_disk))
        return;
    drop_all(f);
    tarn_tier_turn_take(tarn_tier_op_new(f->tier, TIER_LOST, f, 0));
}

/* Removes a file that has nothing present: what a failed store or the last punch left. */
void tarn_tier_clean(struct tarn_tier_file *f)
{
    struct tarn_tier_op *op = tarn_tier_op_new(f->tier, TIER_CLEAN, f, 0);

    tarn_tier_turn_begin(f, NULL, true);
    removal_begin(op);
}

/* ---- repair ----------------------------------------------------------------------------- */

static void fix_done(struct tarn_tier_op *op)
{
    tarn_tier_op_free(op);
}

void tarn_tier_fix(struct tarn_tier_file *f, uint32_t group, uint64_t bad)
{
    struct tier_group *g = tarn_tier_group(f, group);
    struct tarn_tier_op *op;

    TARN_ASSERT(bad && (bad & ~atomic_load(&g->present)) == 0);
    if (tarn_tier_lent(f)) {
        tarn_tier_lend_bad(f);
        evict_file(f, false);
        return;
    }
    if (bad == atomic_load(&g->present) && tarn_tier_evict(f, group, false))
        return;
    tarn_tier_group_clear(f, group, bad);
    op = tarn_tier_op_new(f->tier, TIER_FIX, f, group);
    op->bad = bad;
    tarn_tier_index_enqueue(op, fix_done);
}

/* What holds for the whole file goes into all its records; those to come have it anyway. */
static void file_record(struct tarn_tier_file *f)
{
    struct tarn_tier_op *op = tarn_tier_op_new(f->tier, TIER_PIN, f, 0);

    op->flags = f->pins ? TIER_OP_PINNED : 0;
    op->replicas = f->replicas;
    tarn_tier_index_enqueue(op, fix_done);
}

int tarn_tier_pin(struct tarn_tier *t, struct tarn_tier_file *f, bool pin)
{
    uint64_t bytes = atomic_load(&f->cached);
    uint32_t pins = f->pins;
    struct tier_group *g;

    tarn_loop_assert_mine(t->loop);
    TARN_ASSERT(pin || pins > 0);
    if (pin && pins == 0 && t->pinned_bytes + bytes > t->quota_bytes / 10 * 9)
        return -TARN_E_TIER_FULL;
    tarn_mtx_lock(&tarn_tier_shard(t, &f->cid)->mtx);
    f->pins = pin ? pins + 1 : pins - 1;
    tarn_mtx_unlock(&tarn_tier_shard(t, &f->cid)->mtx);
    if (pins + f->pins != 1) /* neither the first nor the last */
        return 0;
    t->pinned_bytes += pin ? bytes : 0 - bytes;
    for (uint64_t i = 0; (g = tarn_tier_group_next(f, &i)) != NULL; i++) {
        if (pin)
            tarn_tier_lru_del(t, g);
        else if (atomic_load(&g->present) && !g->busy)
            tarn_tier_lru_add(t, g);
    }
    file_record(f);
    return 0;
}

void tarn_tier_file_set_replicas(struct tarn_tier_file *f, uint32_t replicas)
{
    uint8_t n = (uint8_t)TARN_MIN(replicas, TARN_TIER_REPLICAS_MAX);

    tarn_loop_assert_mine(f->tier->loop);
    if (f->replicas == n)
        return;
    f->replicas = n;
    if (atomic_load(&f->cached) > 0)
        file_record(f);
}
