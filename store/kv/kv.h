/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store/kv/kv.h — an ordered key-value store with column families and atomic batches, behind a
 * vtable: kv_rocksdb.c (the only user of RocksDB) and kv_mem.c (tests; models synced and unsynced
 * writes).
 *
 * Reads see what was committed. A batch also reads its own writes, which is what apply needs.
 * Thread: reads from any thread; one thread at a time builds and writes a given batch.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/base/err.h"
#include "lib/base/str.h"

struct tarn_kv;
struct tarn_kv_batch;
struct tarn_kv_iter;
struct tarn_kv_snap;

#define TARN_KV_CF_MAX 8

struct tarn_kv_slice {
    const void *p; /* borrowed */
    size_t n;      /* bytes */
};

struct tarn_kv_args {
    const char *path;            /* directory; made when missing (mode 0700) */
    const char *const *cfs;      /* names of the column families; index 0 is "default" */
    unsigned cf_count;           /* 1..TARN_KV_CF_MAX */
    uint64_t cache_bytes;        /* block cache */
    uint64_t write_buffer_bytes; /* per column family */
    bool read_only_if_exists;    /* fail with -ENOENT instead of making one */
};

/*
 * Opens or makes the store. Errors: -TARN_E_KV_CORRUPT (damaged: nothing was changed),
 * -TARN_E_DIR_LOCKED, -TARN_E_KV_NO_SPACE, errno class; `err` names path and cause.
 */
int tarn_kv_rocksdb_open(const struct tarn_kv_args *args, struct tarn_errbuf *err,
                         struct tarn_kv **ret_kv);
/*
 * A store in memory with `cf_count` families. It survives tarn_kv_close() in *disk, which the
 * caller owns: open again with the same disk to restart. A zeroed disk is empty.
 */
struct tarn_kv_mem_disk {
    void *state; /* kv_mem's */
};
struct tarn_kv *tarn_kv_mem_open(struct tarn_kv_mem_disk *disk, unsigned cf_count);
void tarn_kv_mem_disk_fini(struct tarn_kv_mem_disk *disk);
/*
 * Power cut: drops writes since the last synced one, but keeps the first `keep` of them (a batch is
 * kept whole or not at all). The store must be closed. Returns how many could have been kept.
 */
unsigned tarn_kv_mem_power_cut(struct tarn_kv_mem_disk *disk, unsigned keep);

void tarn_kv_close(struct tarn_kv **kv); /* iterators and batches must be gone; NULL accepted */

/* Appends the value to `ret_value` (reset first). -ENOENT; -TARN_E_KV_CORRUPT; -TARN_E_KV. */
int tarn_kv_get(struct tarn_kv *kv, unsigned cf, struct tarn_kv_slice key,
                struct tarn_str *ret_value);

struct tarn_kv_batch *tarn_kv_batch_new(struct tarn_kv *kv);
void tarn_kv_batch_free(struct tarn_kv_batch **b);
void tarn_kv_batch_put(struct tarn_kv_batch *b, unsigned cf, struct tarn_kv_slice key,
                       struct tarn_kv_slice value);
void tarn_kv_batch_delete(struct tarn_kv_batch *b, unsigned cf, struct tarn_kv_slice key);
/* Sees the batch's own writes before the store's. */
int tarn_kv_batch_get(struct tarn_kv_batch *b, unsigned cf, struct tarn_kv_slice key,
                      struct tarn_str *ret_value);
size_t tarn_kv_batch_bytes(const struct tarn_kv_batch *b);
unsigned tarn_kv_batch_count(const struct tarn_kv_batch *b); /* operations */
/*
 * Commits the batch, whole or not at all, and empties it. With `sync` it and everything before it
 * is on the disk when this returns 0. -TARN_E_KV_NO_SPACE: see tarn_kv_reopen(); -TARN_E_KV. After
 * an error the batch keeps its operations; which of both happened may only be known after a reopen.
 */
int tarn_kv_write(struct tarn_kv *kv, struct tarn_kv_batch *b, bool sync);

/*
 * Iterates keys of one family that start with `prefix`, ascending. With `b` it sees that batch's
 * writes too (the batch must not change meanwhile). A new iterator stands before the first key.
 */
struct tarn_kv_iter *tarn_kv_iter_new(struct tarn_kv *kv, struct tarn_kv_batch *b, unsigned cf,
                                      struct tarn_kv_slice prefix);
void tarn_kv_iter_free(struct tarn_kv_iter **it);
/* Places it so that the next key is the first >= `key` (within the prefix). */
void tarn_kv_iter_seek(struct tarn_kv_iter *it, struct tarn_kv_slice key);
/* Moves to the next key: 1 there is one (key and value valid until the next move), 0 end, or an
 * error. */
int tarn_kv_iter_next(struct tarn_kv_iter *it);
struct tarn_kv_slice tarn_kv_iter_key(const struct tarn_kv_iter *it);
struct tarn_kv_slice tarn_kv_iter_value(const struct tarn_kv_iter *it);

/*
 * After -TARN_E_KV_NO_SPACE: frees the ballast file, closes and opens again. 0 when writes work
 * again. No iterator, batch or other thread may use the store meanwhile.
 */
int tarn_kv_reopen(struct tarn_kv *kv, struct tarn_errbuf *err);
/* Bytes on the disk (log, tables, ballast), for quotas. */
uint64_t tarn_kv_disk_bytes(struct tarn_kv *kv);
/* XXH3 over all keys and values of the families in `cf_mask`, in order: two stores compare equal.
 */
int tarn_kv_dump_hash(struct tarn_kv *kv, uint32_t cf_mask, uint64_t *ret_hash);

static inline struct tarn_kv_slice tarn_kv_slice(const void *p, size_t n)
{
    return (struct tarn_kv_slice){p, n};
}
