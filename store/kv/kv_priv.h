/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store/kv/kv_priv.h — what an implementation provides: it embeds these structs as its first member
 * and fills the table. kv.c checks arguments, counts users and passes fault points before a call
 * arrives here.
 */
#pragma once

#include <stdatomic.h>

#include "store/kv/kv.h"

#define KV_MAGIC       0x4b564d4eu
#define KV_BATCH_MAGIC 0x4b564254u
#define KV_ITER_MAGIC  0x4b564954u

/* All errors as in kv.h. */
struct kv_ops {
    void (*close)(struct tarn_kv *kv); /* frees it */
    int (*get)(struct tarn_kv *kv, unsigned cf, struct tarn_kv_slice key, struct tarn_str *ret);
    struct tarn_kv_batch *(*batch_new)(struct tarn_kv *kv); /* kv.c fills the common part */
    void (*batch_free)(struct tarn_kv_batch *b);
    void (*batch_put)(struct tarn_kv_batch *b, unsigned cf, struct tarn_kv_slice key,
                      struct tarn_kv_slice value);
    void (*batch_delete)(struct tarn_kv_batch *b, unsigned cf, struct tarn_kv_slice key);
    int (*batch_get)(struct tarn_kv_batch *b, unsigned cf, struct tarn_kv_slice key,
                     struct tarn_str *ret);
    int (*write)(struct tarn_kv *kv, struct tarn_kv_batch *b,
                 bool sync); /* empties it on success */
    struct tarn_kv_iter *(*iter_new)(struct tarn_kv *kv, struct tarn_kv_batch *b, unsigned cf,
                                     struct tarn_kv_slice prefix);
    void (*iter_free)(struct tarn_kv_iter *it);
    void (*iter_seek)(struct tarn_kv_iter *it, struct tarn_kv_slice key); /* key >= the prefix */
    /* Sets it->key and it->value when it returns 1; not called again after 0 or an error. */
    int (*iter_next)(struct tarn_kv_iter *it);
    int (*reopen)(struct tarn_kv *kv, struct tarn_errbuf *err);
    uint64_t (*disk_bytes)(struct tarn_kv *kv);
};

/* Immutable after init, but for the counter. */
struct tarn_kv {
    uint32_t magic;           /* KV_MAGIC */
    unsigned cf_count;        /* families */
    const struct kv_ops *ops; /* the implementation */
    _Atomic unsigned users;   /* batches and iterators alive, for asserts */
};

/* Lock: none, one thread at a time. */
struct tarn_kv_batch {
    uint32_t magic;     /* KV_BATCH_MAGIC */
    unsigned count;     /* operations */
    size_t bytes;       /* of their keys and values, and a little for each */
    struct tarn_kv *kv; /* the store it belongs to */
};

/* Lock: none, one thread at a time. */
struct tarn_kv_iter {
    uint32_t magic;         /* KV_ITER_MAGIC */
    int last;               /* what next returned: 1 at a key, 0 end, negative; 2 not yet called */
    struct tarn_kv *kv;     /* the store it belongs to */
    struct tarn_str prefix; /* of every key that it gives */
    struct tarn_kv_slice key;   /* where it stands; valid while last is 1 */
    struct tarn_kv_slice value; /* the same */
};

static inline void kv_init(struct tarn_kv *kv, const struct kv_ops *ops, unsigned cf_count)
{
    kv->magic = KV_MAGIC;
    kv->ops = ops;
    kv->cf_count = cf_count;
}

/* Order of keys: bytewise, a prefix before what it begins. */
int kv_compare(struct tarn_kv_slice a, struct tarn_kv_slice b);
