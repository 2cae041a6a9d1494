/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The contract of kv.h above the implementations: arguments are checked, batches are counted, fault
 * points are passed and iterators keep their end state here, so that both implementations behave
 * the same in it.
 */
#include "store/kv/kv.h"

#include <errno.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/fault.h"
#include "lib/base/hash.h"
#include "lib/base/mem.h"
#include "store/kv/kv_priv.h"

#define ITER_FRESH     2  /* tarn_kv_iter.last: next was not called since new or seek */
#define BATCH_OP_BYTES 16 /* what an operation costs besides its key and value */

static void kv_check(const struct tarn_kv *kv, unsigned cf)
{
    TARN_ASSERT(kv != NULL && kv->magic == KV_MAGIC);
    TARN_ASSERT(cf < kv->cf_count);
}

static void kv_batch_check(const struct tarn_kv_batch *b, unsigned cf)
{
    TARN_ASSERT(b != NULL && b->magic == KV_BATCH_MAGIC);
    TARN_ASSERT(cf < b->kv->cf_count);
}

/* RocksDB does not take NULL, not even for no bytes. */
static struct tarn_kv_slice kv_some(struct tarn_kv_slice s)
{
    TARN_ASSERT(s.p != NULL || s.n == 0);
    return s.p ? s : tarn_kv_slice("", 0);
}

int kv_compare(struct tarn_kv_slice a, struct tarn_kv_slice b)
{
    size_t n = TARN_MIN(a.n, b.n);
    int c = n ? memcmp(a.p, b.p, n) : 0;

    return c ? c : (a.n > b.n) - (a.n < b.n);
}

void tarn_kv_close(struct tarn_kv **pkv)
{
    struct tarn_kv *kv = *pkv;

    *pkv = NULL;
    if (!kv)
        return;
    kv_check(kv, 0);
    TARN_ASSERT(atomic_load(&kv->users) == 0);
    kv->ops->close(kv);
}

int tarn_kv_get(struct tarn_kv *kv, unsigned cf, struct tarn_kv_slice key,
                struct tarn_str *ret_value)
{
    int rc;

    kv_check(kv, cf);
    tarn_str_reset(ret_value);
    rc = TARN_FAULT(kv_read);
    return rc < 0 ? rc : kv->ops->get(kv, cf, kv_some(key), ret_value);
}

struct tarn_kv_batch *tarn_kv_batch_new(struct tarn_kv *kv)
{
    struct tarn_kv_batch *b;

    kv_check(kv, 0);
    b = kv->ops->batch_new(kv);
    b->magic = KV_BATCH_MAGIC;
    b->kv = kv;
    atomic_fetch_add(&kv->users, 1);
    return b;
}

void tarn_kv_batch_free(struct tarn_kv_batch **pb)
{
    struct tarn_kv_batch *b = *pb;

    *pb = NULL;
    if (!b)
        return;
    kv_batch_check(b, 0);
    b->magic = 0;
    atomic_fetch_sub(&b->kv->users, 1);
    b->kv->ops->batch_free(b);
}

static void kv_batch_count(struct tarn_kv_batch *b, size_t bytes)
{
    b->count++;
    b->bytes += bytes + BATCH_OP_BYTES;
}

void tarn_kv_batch_put(struct tarn_kv_batch *b, unsigned cf, struct tarn_kv_slice key,
                       struct tarn_kv_slice value)
{
    kv_batch_check(b, cf);
    kv_batch_count(b, key.n + value.n);
    b->kv->ops->batch_put(b, cf, kv_some(key), kv_some(value));
}

void tarn_kv_batch_delete(struct tarn_kv_batch *b, unsigned cf, struct tarn_kv_slice key)
{
    kv_batch_check(b, cf);
    kv_batch_count(b, key.n);
    b->kv->ops->batch_delete(b, cf, kv_some(key));
}

int tarn_kv_batch_get(struct tarn_kv_batch *b, unsigned cf, struct tarn_kv_slice key,
                      struct tarn_str *ret_value)
{
    int rc;

    kv_batch_check(b, cf);
    tarn_str_reset(ret_value);
    rc = TARN_FAULT(kv_read);
    return rc < 0 ? rc : b->kv->ops->batch_get(b, cf, kv_some(key), ret_value);
}

size_t tarn_kv_batch_bytes(const struct tarn_kv_batch *b)
{
    kv_batch_check(b, 0);
    return b->bytes;
}

unsigned tarn_kv_batch_count(const struct tarn_kv_batch *b)
{
    kv_batch_check(b, 0);
    return b->count;
}

int tarn_kv_write(struct tarn_kv *kv, struct tarn_kv_batch *b, bool sync)
{
    int rc;

    kv_check(kv, 0);
    kv_batch_check(b, 0);
    TARN_ASSERT(b->kv == kv);
    rc = TARN_FAULT(kv_write);
    if (rc == 0)
        rc = kv->ops->write(kv, b, sync);
    if (rc < 0)
        return rc;
    b->count = 0;
    b->bytes = 0;
    return 0;
}

struct tarn_kv_iter *tarn_kv_iter_new(struct tarn_kv *kv, struct tarn_kv_batch *b, unsigned cf,
                                      struct tarn_kv_slice prefix)
{
    struct tarn_kv_iter *it;

    kv_check(kv, cf);
    if (b) {
        kv_batch_check(b, cf);
        TARN_ASSERT(b->kv == kv);
    }
    it = kv->ops->iter_new(kv, b, cf, kv_some(prefix));
    it->magic = KV_ITER_MAGIC;
    it->kv = kv;
    tarn_str_add(&it->prefix, prefix.p, prefix.n);
    atomic_fetch_add(&kv->users, 1);
    tarn_kv_iter_seek(it, prefix);
    return it;
}

void tarn_kv_iter_free(struct tarn_kv_iter **pit)
{
    struct tarn_kv_iter *it = *pit;

    *pit = NULL;
    if (!it)
        return;
    TARN_ASSERT(it->magic == KV_ITER_MAGIC);
    it->magic = 0;
    tarn_str_fini(&it->prefix);
    atomic_fetch_sub(&it->kv->users, 1);
    it->kv->ops->iter_free(it);
}

void tarn_kv_iter_seek(struct tarn_kv_iter *it, struct tarn_kv_slice key)
{
    struct tarn_kv_slice prefix;

    TARN_ASSERT(it->magic == KV_ITER_MAGIC);
    prefix = kv_some(tarn_kv_slice(it->prefix.p, it->prefix.len));
    it->last = ITER_FRESH;
    it->kv->ops->iter_seek(it, kv_compare(key, prefix) < 0 ? prefix : kv_some(key));
}

int tarn_kv_iter_next(struct tarn_kv_iter *it)
{
    TARN_ASSERT(it->magic == KV_ITER_MAGIC);
    if (it->last <= 0)
        return it->last; /* the end and an error stay until the next seek */
    it->last = TARN_FAULT(kv_read);
    if (it->last == 0)
        it->last = it->kv->ops->iter_next(it);
    if (it->last == 1 && (it->key.n < it->prefix.len ||
                          (it->prefix.len && memcmp(it->key.p, it->prefix.p, it->prefix.len) != 0)))
        it->last = 0;
    return it->last;
}

struct tarn_kv_slice tarn_kv_iter_key(const struct tarn_kv_iter *it)
{
    TARN_ASSERT(it->magic == KV_ITER_MAGIC && it->last == 1);
    return it->key;
}

struct tarn_kv_slice tarn_kv_iter_value(const struct tarn_kv_iter *it)
{
    TARN_ASSERT(it->magic == KV_ITER_MAGIC && it->last == 1);
    return it->value;
}

int tarn_kv_reopen(struct tarn_kv *kv, struct tarn_errbuf *err)
{
    kv_check(kv, 0);
    return kv->ops->reopen(kv, err);
}

uint64_t tarn_kv_disk_bytes(struct tarn_kv *kv)
{
    kv_check(kv, 0);
    return kv->ops->disk_bytes(kv);
}

/* One record as bytes that cannot be confused with another's: lengths first. */
static void kv_dump_record(struct tarn_str *s, unsigned cf, struct tarn_kv_slice key,
                           struct tarn_kv_slice value)
{
    uint8_t head[12];
    uint32_t field[3] = {cf, (uint32_t)key.n, (uint32_t)value.n};

    for (unsigned i = 0; i < sizeof(head); i++)
        head[i] = (uint8_t)(field[i / 4] >> (8 * (i % 4)));
    tarn_str_reset(s);
    tarn_str_add(s, head, sizeof(head));
    tarn_str_add(s, key.p, key.n);
    tarn_str_add(s, value.p, value.n);
}

int tarn_kv_dump_hash(struct tarn_kv *kv, uint32_t cf_mask, uint64_t *ret_hash)
{
    struct tarn_str record = {0};
    uint64_t h = 0;
    int rc = 0;

    kv_check(kv, 0);
    for (unsigned cf = 0; rc == 0 && cf < kv->cf_count; cf++) {
        struct tarn_kv_iter *it;

        if (!(cf_mask >> cf & 1))
            continue;
        it = tarn_kv_iter_new(kv, NULL, cf, tarn_kv_slice("", 0));
        while ((rc = tarn_kv_iter_next(it)) == 1) {
            kv_dump_record(&record, cf, tarn_kv_iter_key(it), tarn_kv_iter_value(it));
            h = tarn_xxh3_seed(record.p, record.len, h);
        }
        tarn_kv_iter_free(&it);
    }
    tarn_str_fini(&record);
    if (rc == 0)
        *ret_hash = h;
    return rc;
}
