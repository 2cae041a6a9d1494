/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Names and attributes that are believed, in shards with a lock each, so that FUSE threads answer
 * from here. Each shard is bounded; the oldest entry goes first (second chance: an entry that was
 * used since is passed over once).
 */
#include "lib/client/client_priv.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/hash.h"

#define CACHE_SHARDS 64u

struct cache_entry {
    struct tarn_hnode hnode;
    struct tarn_list fifo;
    struct tarn_attr attr; /* attr.type 0: a negative answer */
    tarn_ino_t parent;
    uint64_t until_ns; /* monotonic */
    bool used;         /* since it came to the end of the queue */
    uint8_t len;
    char name[];
};

struct cache_shard {
    struct tarn_mtx mtx;
    struct tarn_htab tab;
    struct tarn_list fifo;
};

struct tarn_name_cache {
    size_t shard_max; /* entries of a shard */
    _Atomic uint64_t gen;
    struct cache_shard shards[CACHE_SHARDS];
};

static uint64_t cache_hash(tarn_ino_t parent, const char *name, size_t len)
{
    return tarn_xxh3_seed(name, len, parent.v);
}

static struct cache_shard *cache_shard(struct tarn_name_cache *c, uint64_t h)
{
    return &c->shards[(h >> 58) % CACHE_SHARDS];
}

struct tarn_name_cache *client_cache_new(size_t entries)
{
    struct tarn_name_cache *c = tarn_xnew(struct tarn_name_cache);

    c->shard_max = TARN_MAX(entries / CACHE_SHARDS, (size_t)16);
    for (unsigned i = 0; i < CACHE_SHARDS; i++) {
        tarn_mtx_init(&c->shards[i].mtx, TARN_RANK_CLIENT_META);
        tarn_list_init(&c->shards[i].fifo);
    }
    return c;
}

static void cache_remove(struct cache_shard *s, struct cache_entry *e)
{
    tarn_htab_remove(&s->tab, &e->hnode);
    tarn_list_del(&e->fifo);
    free(e);
}

void client_cache_clear(struct tarn_name_cache *c)
{
    atomic_fetch_add(&c->gen, 1);
    for (unsigned i = 0; i < CACHE_SHARDS; i++) {
        struct cache_shard *s = &c->shards[i];
        TARN_GUARD(&s->mtx);

        while (!tarn_list_empty(&s->fifo))
            cache_remove(s, TARN_LIST_ENTRY(s->fifo.next, struct cache_entry, fifo));
    }
}

void client_cache_free(struct tarn_name_cache **pc)
{
    struct tarn_name_cache *c = *pc;

    if (!c)
        return;
    client_cache_clear(c);
    for (unsigned i = 0; i < CACHE_SHARDS; i++) {
        tarn_htab_fini(&c->shards[i].tab);
        tarn_mtx_fini(&c->shards[i].mtx);
    }
    free(c);
    *pc = NULL;
}

static struct cache_entry *cache_find(const struct cache_shard *s, uint64_t h, tarn_ino_t parent,
                                      const char *name, size_t len)
{
    for (struct tarn_hnode *n = tarn_htab_first(&s->tab, h); n; n = tarn_htab_next(n, h)) {
        struct cache_entry *e = TARN_CONTAINER(n, struct cache_entry, hnode);

        if (e->parent.v == parent.v && e->len == len && memcmp(e->name, name, len) == 0)
            return e;
    }
    return NULL;
}

static void cache_make_room(struct tarn_name_cache *c, struct cache_shard *s)
{
    while (s->tab.count >= c->shard_max) {
        struct cache_entry *e = TARN_LIST_ENTRY(s->fifo.next, struct cache_entry, fifo);

        if (e->used) {
            e->used = false;
            tarn_list_del(&e->fifo);
            tarn_list_push(&s->fifo, &e->fifo);
        } else {
            cache_remove(s, e);
        }
    }
}

void client_cache_put(struct tarn_name_cache *c, tarn_ino_t parent, const char *name, size_t len,
                      const struct tarn_attr *attr, uint64_t until_ns, uint64_t gen)
{
    uint64_t h = cache_hash(parent, name, len);
    struct cache_shard *s = cache_shard(c, h);
    struct cache_entry *e;
    TARN_GUARD(&s->mtx);

    TARN_ASSERT(len <= TARN_NAME_MAX);
    e = cache_find(s, h, parent, name, len);
    if (atomic_load(&c->gen) != gen) {
        if (e)
            cache_remove(s, e);
        return;
    }
    if (!e) {
        cache_make_room(c, s);
        e = tarn_xcalloc(1, sizeof(*e) + len);
        e->parent = parent;
        e->len = (uint8_t)len;
        memcpy(e->name, name, len);
        tarn_list_init(&e->fifo);
        tarn_list_push(&s->fifo, &e->fifo);
        tarn_htab_insert(&s->tab, &e->hnode, h);
    }
    if (attr)
        e->attr = *attr;
    else
        e->attr = (struct tarn_attr){0};
    e->until_ns = until_ns;
}

enum tarn_cached client_cache_get(struct tarn_name_cache *c, tarn_ino_t parent, const char *name,
                                  size_t len, uint64_t now_ns, struct tarn_attr *ret_attr,
                                  uint64_t *ret_until_ns)
{
    uint64_t h = cache_hash(parent, name, len);
    struct cache_shard *s = cache_shard(c, h);
    struct cache_entry *e;
    TARN_GUARD(&s->mtx);

    e = cache_find(s, h, parent, name, len);
    if (!e || e->until_ns <= now_ns)
        return TARN_CACHED_MISS;
    e->used = true;
    *ret_until_ns = e->until_ns;
    if (e->attr.type == 0)
        return TARN_CACHED_NEGATIVE;
    *ret_attr = e->attr;
    return TARN_CACHED_HIT;
}

void client_cache_drop(struct tarn_name_cache *c, tarn_ino_t parent, const char *name, size_t len)
{
    uint64_t h = cache_hash(parent, name, len);
    struct cache_shard *s = cache_shard(c, h);
    struct cache_entry *e;
    TARN_GUARD(&s->mtx);

    atomic_fetch_add(&c->gen, 1);
    e = cache_find(s, h, parent, name, len);
    if (e)
        cache_remove(s, e);
}

uint64_t client_cache_gen(struct tarn_name_cache *c)
{
    return atomic_load(&c->gen);
}
