/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The index: one record per group, in a store of its own (store/kv) below index/.
 *
 * All changes go through one queue: requests gather on the loop while a write is under way; a pool
 * thread then makes one batch of all that came (stores that finish close together share it) and
 * writes it, not synced. So changes of one record keep the order in which the loop decided them,
 * and only one thread writes. Reads (load, read) are on pool threads at any time.
 *
 * After KV_NO_SPACE the store must be opened again, with nobody in it: new readers wait, the last
 * one out has a pool thread reopen it. Should that fail, or become needed again within a second,
 * the index is DOWN until a timer tries again: stores end with TIER_FULL, loads with TIER_OFFLINE,
 * and try_read goes on. Any other failure of a write takes the tier offline: a cache whose index
 * cannot be written to has no future.
 */
#include "store/tier/tier_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/buf.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/base/str.h"
#include "store/kv/kv.h"

#define WRITE_BUFFER_MIN (256ull << 10) /* of RocksDB, by the quota */
#define WRITE_BUFFER_MAX (4ull << 20)
#define REOPEN_NS        TARN_NS_PER_S

static void index_next(struct tarn_tier *t);
static void index_drained(struct tarn_tier *t);

uint64_t tarn_tier_index_buffer(const struct tarn_tier *t)
{
    return TARN_MAX(WRITE_BUFFER_MIN, TARN_MIN(t->quota_bytes / 1024, WRITE_BUFFER_MAX));
}

/* Pool threads, or nobody else: what the index may take until it is asked again. */
void tarn_tier_index_measure(struct tarn_tier *t)
{
    uint64_t bytes = tarn_kv_disk_bytes(t->kv) + 3 * tarn_tier_index_buffer(t);

    atomic_store(&t->index_bytes, TARN_MAX(bytes, t->index_floor));
}

/* ---- writing ---------------------------------------------------------------------------- */

void tarn_tier_index_put(struct tarn_kv_batch *b, const uint8_t *key,
                         const struct tarn_tier_record *rec)
{
    uint8_t value[TARN_TIER_RECORD_MAX];
    size_t n = tarn_tier_record_encode(key, rec, value);

    tarn_kv_batch_put(b, 0, tarn_kv_slice(key, TARN_TIER_KEY_BYTES), tarn_kv_slice(value, n));
}

static void batch_store(struct tarn_kv_batch *b, const struct tarn_tier_op *op, const uint8_t *key)
{
    struct tarn_tier_record rec = {
        .flags = op->flags & TIER_OP_PINNED ? TARN_TIER_RECORD_PINNED : 0,
        .replicas = op->replicas,
        .level = (uint8_t)op->level,
        .atime_s = op->atime_s,
        .length = op->file->length,
        .present = tarn_tier_group_mask(op->file->length, op->group),
        .tag = op->tag,
    };

    memcpy(rec.sums, op->sums, sizeof(rec.sums));
    tarn_tier_index_put(b, key, &rec);
}

/* Takes the bad granules out of a record; one that cannot be read goes whole. */
static void batch_fix(struct tarn_kv_batch *b, const struct tarn_tier_op *op, const uint8_t *key)
{
    struct tarn_kv_slice k = tarn_kv_slice(key, TARN_TIER_KEY_BYTES);
    struct tarn_tier_record rec;
    struct tarn_str value = {0};
    int rc = tarn_kv_batch_get(b, 0, k, &value);

    if (rc == 0)
        rc = tarn_tier_record_decode(key, value.p, value.len, &rec);
    if (rc == 0 && (rec.present & ~op->bad) != 0) {
        rec.present &= ~op->bad;
        tarn_tier_index_put(b, key, &rec);
    } else if (rc != -ENOENT) {
        tarn_kv_batch_delete(b, 0, k);
    }
    tarn_str_fini(&value);
}

/* The keys of all records of op's file, one after the other. */
static int batch_keys(struct tarn_tier *t, struct tarn_kv_batch *b, const tarn_cid_t *cid,
                      struct tarn_str *ret_keys)
{
    struct tarn_kv_iter *it = tarn_kv_iter_new(t->kv, b, 0, tarn_kv_slice(cid->b, sizeof(cid->b)));
    int rc;

    while ((rc = tarn_kv_iter_next(it)) > 0)
        if (tarn_kv_iter_key(it).n == TARN_TIER_KEY_BYTES)
            tarn_str_add(ret_keys, tarn_kv_iter_key(it).p, TARN_TIER_KEY_BYTES);
    tarn_kv_iter_free(&it);
    return rc;
}

/* Writes anew what holds for the whole file. */
static void batch_pin(struct tarn_kv_batch *b, const struct tarn_tier_op *op, const uint8_t *key)
{
    struct tarn_str value = {0};
    struct tarn_tier_record rec;
    int rc = tarn_kv_batch_get(b, 0, tarn_kv_slice(key, TARN_TIER_KEY_BYTES), &value);

    if (rc == 0 && tarn_tier_record_decode(key, value.p, value.len, &rec) == 0) {
        rec.flags = op->flags & TIER_OP_PINNED ? TARN_TIER_RECORD_PINNED : 0;
        rec.replicas = op->replicas;
        tarn_tier_index_put(b, key, &rec);
    }
    tarn_str_fini(&value);
}

static void batch_file(struct tarn_kv_batch *b, const struct tarn_tier_op *op)
{
    struct tarn_str keys = {0};

    (void)batch_keys(op->tier, b, &op->file->cid, &keys); /* what it found; sums catch the rest */
    for (size_t i = 0; i < keys.len; i += TARN_TIER_KEY_BYTES) {
        const uint8_t *key = (const uint8_t *)keys.p + i;

        if (op->kind == TIER_PIN)
            batch_pin(b, op, key);
        else
            tarn_kv_batch_delete(b, 0, tarn_kv_slice(key, TARN_TIER_KEY_BYTES));
    }
    tarn_str_fini(&keys);
}

static void batch_add(struct tarn_kv_batch *b, const struct tarn_tier_op *op)
{
    uint8_t key[TARN_TIER_KEY_BYTES];

    tarn_tier_key_encode(&op->file->cid, op->group, key);
    switch ((enum tier_kind)op->kind) {
    case TIER_STORE:
        batch_store(b, op, key);
        break;
    case TIER_EVICT:
        tarn_kv_batch_delete(b, 0, tarn_kv_slice(key, sizeof(key)));
        break;
    case TIER_FIX:
        batch_fix(b, op, key);
        break;
    case TIER_PIN:
    case TIER_DROP:
    case TIER_LOST:
    case TIER_CLEAN:
        batch_file(b, op);
        break;
    case TIER_RESERVE:
    case TIER_LOAD:
    case TIER_READ:
    case TIER_WALK:
    case TIER_REOPEN:
        TARN_UNREACHABLE("has no record");
    }
}

void tarn_tier_index_write(struct tarn_tier *t)
{
    struct tarn_kv_batch *b;

    if (tarn_tier_offline(t)) {
        t->index_rc = -TARN_E_TIER_OFFLINE;
        return;
    }
    b = tarn_kv_batch_new(t->kv);
    TARN_LIST_FOREACH(n, &t->index_batch)
    batch_add(b, TARN_LIST_ENTRY(n, struct tarn_tier_op, node));
    t->index_rc = tarn_kv_batch_count(b) ? tarn_kv_write(t->kv, b, false) : 0;
    tarn_kv_batch_free(&b);
    tarn_tier_index_measure(t);
}

static void index_work(struct tarn_disk_io *io)
{
    struct tarn_tier *t = io->arg;

    if (!tarn_tier_job_begin(t))
        return;
    tarn_tier_index_write(t);
    tarn_tier_job_end(t);
}

static void index_failed(struct tarn_tier *t, int rc)
{
    if (rc == -TARN_E_KV_NO_SPACE) {
        if (t->kv_state == TIER_KV_OPEN)
            t->kv_state = TIER_KV_DRAIN;
        return;
    }
    if (atomic_exchange(&t->offline, true))
        return;
    tarn_error("tier", "path=%s offline: the index cannot be written: %s", t->path,
               tarn_strerror(rc));
}

static void index_written(struct tarn_disk_io *io)
{
    struct tarn_tier *t = io->arg;
    struct tarn_list all;
    int rc = t->index_rc;

    tarn_list_init(&all);
    if (!t->closed)
        tarn_list_splice(&all, &t->index_batch);
    t->index_writing = false;
    if (rc < 0)
        index_failed(t, rc);
    while (!tarn_list_empty(&all)) {
        struct tarn_tier_op *op = TARN_LIST_ENTRY(tarn_list_pop(&all), struct tarn_tier_op, node);

        op->rc = op->kind == TIER_STORE ? rc : 0;
        op->done(op);
    }
    index_next(t);
    tarn_tier_unref(t);
}

/* Fails what is queued, while the index is down. */
static void index_refuse(struct tarn_tier *t)
{
    struct tarn_list all;

    tarn_list_init(&all);
    tarn_list_splice(&all, &t->index_queue);
    while (!tarn_list_empty(&all)) {
        struct tarn_tier_op *op = TARN_LIST_ENTRY(tarn_list_pop(&all), struct tarn_tier_op, node);

        op->rc = op->kind == TIER_STORE ? -TARN_E_KV_NO_SPACE : 0;
        tarn_tier_post(op, op->done);
    }
}

static void index_next(struct tarn_tier *t)
{
    if (t->index_writing || t->closed)
        return;
    if (t->kv_state == TIER_KV_DRAIN)
        index_drained(t);
    if (t->kv_state == TIER_KV_DOWN)
        index_refuse(t);
    if (t->kv_state != TIER_KV_OPEN || tarn_list_empty(&t->index_queue))
        return;
    for (unsigned n = 0; n < TIER_BATCH_MAX && !tarn_list_empty(&t->index_queue); n++)
        tarn_list_push(&t->index_batch, tarn_list_pop(&t->index_queue));
    t->index_writing = true;
    t->index_io = (struct tarn_disk_io){
        .loop = t->loop, .op = TARN_DISK_CALL, .work = index_work, .cb = index_written, .arg = t};
    tarn_tier_ref(t);
    tarn_disk_submit(t->disk, &t->index_io);
}

void tarn_tier_index_enqueue(struct tarn_tier_op *op, tarn_tier_step_fn *done)
{
    struct tarn_tier *t = op->tier;

    op->done = done;
    tarn_list_init(&op->node);
    tarn_list_push(&t->index_queue, &op->node);
    index_next(t);
}

/* ---- reading, and opening again --------------------------------------------------------- */

bool tarn_tier_index_enter(struct tarn_tier_op *op, tarn_tier_step_fn *done)
{
    struct tarn_tier *t = op->tier;

    if (t->kv_state == TIER_KV_OPEN) {
        t->kv_users++;
        return true;
    }
    if (t->kv_state == TIER_KV_DOWN) {
        tarn_tier_end_later(op, -TARN_E_TIER_OFFLINE);
        return false;
    }
    op->done = done;
    tarn_list_init(&op->node);
    tarn_list_push(&t->kv_wait, &op->node);
    return false;
}

void tarn_tier_index_leave(struct tarn_tier *t)
{
    TARN_ASSERT(t->kv_users > 0);
    if (--t->kv_users == 0 && t->kv_state == TIER_KV_DRAIN)
        index_next(t);
}

int tarn_tier_index_get(const struct tarn_tier_op *op, struct tarn_tier_record *ret)
{
    uint8_t key[TARN_TIER_KEY_BYTES];
    struct tarn_str value = {0};
    int rc;

    tarn_tier_key_encode(&op->file->cid, op->group, key);
    rc = tarn_kv_get(op->tier->kv, 0, tarn_kv_slice(key, sizeof(key)), &value);
    if (rc == 0)
        rc = tarn_tier_record_decode(key, value.p, value.len, ret);
    if (rc == 0 && ret->length != op->file->length)
        rc = -TARN_E_INDEX_CORRUPT;
    tarn_str_fini(&value);
    return rc;
}

static void index_again(struct tarn_timer *timer, void *arg)
{
    struct tarn_tier *t = arg;

    (void)timer; /* t->index_timer */
    t->kv_state = TIER_KV_DRAIN;
    index_next(t);
}

static void index_go(struct tarn_tier *t, enum tier_kv_state state)
{
    struct tarn_list all;

    tarn_list_init(&all);
    tarn_list_splice(&all, &t->kv_wait);
    t->kv_state = state;
    if (state == TIER_KV_DOWN)
        tarn_timer_start(t->loop, &t->index_timer, REOPEN_NS, index_again, t);
    while (!tarn_list_empty(&all)) {
        struct tarn_tier_op *op = TARN_LIST_ENTRY(tarn_list_pop(&all), struct tarn_tier_op, node);

        op->done(op);
    }
    index_next(t);
}

static void reopen_work(struct tarn_tier_op *op)
{
    struct tarn_tier *t = op->tier;

    if (!tarn_tier_job_begin(t))
        return;
    op->rc = tarn_kv_reopen(t->kv, NULL);
    tarn_tier_index_measure(t);
    tarn_tier_job_end(t);
}

static void reopen_done(struct tarn_tier_op *op)
{
    struct tarn_tier *t = op->tier;
    int rc = op->rc;

    tarn_tier_op_free(op);
    t->index_reopened_ns = t->clock->mono_ns(t->clock);
    if (rc < 0)
        tarn_warn_limited("tier", "path=%s: the index has no room: %s", t->path, tarn_strerror(rc));
    index_go(t, rc < 0 ? TIER_KV_DOWN : TIER_KV_OPEN);
}

/* Nobody writes; opens the store again once nobody reads, or waits for its time. */
static void index_drained(struct tarn_tier *t)
{
    uint64_t now = t->clock->mono_ns(t->clock);

    if (t->kv_users > 0)
        return;
    if (t->index_reopened_ns && now - t->index_reopened_ns < REOPEN_NS) {
        index_go(t, TIER_KV_DOWN);
        return;
    }
    t->kv_state = TIER_KV_REOPEN;
    tarn_tier_submit(tarn_tier_op_new(t, TIER_REOPEN, NULL, 0), reopen_work, reopen_done);
}
