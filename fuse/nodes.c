/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The node table: shards by inode, each with a lock, a slab in chunks and a hash by inode. An entry
 * is 112 bytes: a million nodes take about 120 MB.
 *
 * An id is (generation of the slot, slot, shard), so finding a node by id is an array access, and
 * an id that is used after its node went (by the notifier, say) finds nothing.
 */
#include "fuse/nodes_priv.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/hash.h"
#include "lib/base/mem.h"
#include "lib/base/mtx.h"

#define NODES_SHARD_BITS 6u
#define NODES_SHARDS     (1u << NODES_SHARD_BITS)
#define NODES_CHUNK      1024u
#define NODES_HASH_MIN   64u

#define KIND_MODE     07777u
#define KIND_TYPE     0x3000u /* enum tarn_file_type */
#define KIND_SHIFT    12u
#define KIND_RETIRED  0x4000u
#define KIND_OUTDATED 0x8000u

struct fnode {
    uint64_t ino;
    uint64_t parent;
    uint64_t version;
    union {
        tarn_cid_t cid;         /* files */
        uint64_t list_until_ns; /* directories: fnode_list_until() */
    };
    uint64_t size_bytes;
    int64_t mtime_ns, ctime_ns;
    uint64_t trust_until_ns;
    uint64_t nlookup;           /* 0: the slot is free */
    struct tarn_object *object; /* fnode_object(); NULL until then */
    uint32_t uid, gid, nlink;
    uint32_t kind; /* KIND_* */
    uint32_t gen;  /* of the slot, > 0 */
    uint32_t next; /* slot + 1 of the next one of the chain, or of the next free one */
};
_Static_assert(sizeof(struct fnode) <= 112, "a million nodes fit 130 MB");

/* Lock: mtx. */
struct nodes_shard {
    struct tarn_mtx mtx;
    struct fnode **chunks;
    uint32_t chunk_count;
    uint32_t used;   /* slots ever used */
    uint32_t free;   /* slot + 1 */
    uint32_t count;  /* nodes */
    uint32_t *heads; /* slot + 1, by hash of ino */
    uint32_t mask;
};

struct tarn_fnodes {
    struct nodes_shard shards[NODES_SHARDS];
    _Atomic uint64_t gen;
    _Atomic uint64_t count;
    uint32_t root_slot;
    uint64_t root; /* its inode */
};

static uint64_t nodes_hash(uint64_t ino)
{
    return tarn_hash_u64(ino);
}

static unsigned nodes_shard_of(uint64_t ino)
{
    return (unsigned)(nodes_hash(ino) >> (64u - NODES_SHARD_BITS));
}

static struct fnode *nodes_slot(const struct nodes_shard *s, uint32_t slot)
{
    return &s->chunks[slot / NODES_CHUNK][slot % NODES_CHUNK];
}

static uint32_t fnode_type(const struct fnode *n)
{
    return (n->kind & KIND_TYPE) >> KIND_SHIFT;
}

/* The version that makes a node what it is. */
static uint64_t nodes_key(uint32_t type, uint64_t version)
{
    return type == TARN_TYPE_DIR ? 0 : version;
}

static bool fnode_matches(const struct fnode *n, const struct tarn_attr *a)
{
    return n->ino == a->ino.v && !(n->kind & KIND_RETIRED) &&
           (fnode_type(n) == TARN_TYPE_DIR) == (a->type == TARN_TYPE_DIR) &&
           nodes_key(fnode_type(n), n->version) == nodes_key(a->type, a->version);
}

static uint64_t nodes_id(const struct tarn_fnodes *t, unsigned shard, uint32_t slot,
                         const struct fnode *n)
{
    if (n->ino == t->root)
        return FNODE_ROOT;
    return ((uint64_t)n->gen << (32u + NODES_SHARD_BITS)) | ((uint64_t)slot << NODES_SHARD_BITS) |
           shard;
}

/* The shard of a node id, and the slot there if it is in use; the caller then locks and asks
 * nodes_find_id(). */
static struct nodes_shard *nodes_shard_of_id(struct tarn_fnodes *t, uint64_t id)
{
    return &t->shards[id == FNODE_ROOT ? nodes_shard_of(t->root) : id % NODES_SHARDS];
}

static struct fnode *nodes_find_id(const struct tarn_fnodes *t, const struct nodes_shard *s,
                                   uint64_t id)
{
    uint32_t slot = (uint32_t)(id >> NODES_SHARD_BITS);
    struct fnode *n;

    if (id == FNODE_ROOT)
        return nodes_slot(s, t->root_slot);
    if (slot >= s->used)
        return NULL;
    n = nodes_slot(s, slot);
    return n->nlookup > 0 && n->gen == id >> (32u + NODES_SHARD_BITS) ? n : NULL;
}

static uint32_t *nodes_head(const struct nodes_shard *s, uint64_t ino)
{
    return &s->heads[nodes_hash(ino) & s->mask];
}

static void nodes_grow_hash(struct nodes_shard *s)
{
    uint32_t n = s->heads ? (s->mask + 1) * 2 : NODES_HASH_MIN;

    free(s->heads);
    s->heads = tarn_xcalloc(n, sizeof(*s->heads));
    s->mask = n - 1;
    for (uint32_t slot = 0; slot < s->used; slot++) {
        struct fnode *node = nodes_slot(s, slot);
        uint32_t *head = nodes_head(s, node->ino);

        if (node->nlookup == 0)
            continue; /* its `next` is the free list's */
        node->next = *head;
        *head = slot + 1;
    }
}

static uint32_t nodes_take_slot(struct nodes_shard *s)
{
    uint32_t slot;

    if (s->free) {
        slot = s->free - 1;
        s->free = nodes_slot(s, slot)->next;
        return slot;
    }
    if (s->used == s->chunk_count * NODES_CHUNK) {
        s->chunks = tarn_xrealloc(s->chunks, (s->chunk_count + 1) * sizeof(*s->chunks));
        s->chunks[s->chunk_count++] = tarn_xcalloc(NODES_CHUNK, sizeof(struct fnode));
    }
    return s->used++;
}

static struct fnode *nodes_find(const struct nodes_shard *s, const struct tarn_attr *a,
                                uint32_t *ret_slot)
{
    for (uint32_t at = *nodes_head(s, a->ino.v); at;) {
        struct fnode *n = nodes_slot(s, at - 1);

        if (fnode_matches(n, a)) {
            *ret_slot = at - 1;
            return n;
        }
        at = n->next;
    }
    return NULL;
}

static void fnode_fill(struct fnode *n, const struct tarn_attr *a)
{
    n->ino = a->ino.v;
    n->parent = a->parent.v;
    n->version = a->version;
    if (a->type != TARN_TYPE_DIR)
        n->cid = a->cid;
    n->size_bytes = a->size_bytes;
    n->mtime_ns = a->mtime_ns;
    n->ctime_ns = a->ctime_ns;
    n->trust_until_ns = a->trust_until_ns;
    n->uid = a->uid;
    n->gid = a->gid;
    n->nlink = a->nlink;
    n->kind = (n->kind & KIND_OUTDATED) | (a->type << KIND_SHIFT) | (a->mode & KIND_MODE);
}

static struct fnode *nodes_add(struct tarn_fnodes *t, struct nodes_shard *s,
                               const struct tarn_attr *a, uint32_t *ret_slot)
{
    uint32_t slot, *head;
    struct fnode *n;

    if (s->count > s->mask)
        nodes_grow_hash(s);
    slot = nodes_take_slot(s);
    n = nodes_slot(s, slot);
    *n = (struct fnode){.gen = (n->gen + 1) & ((1u << (32u - NODES_SHARD_BITS)) - 1u)};
    if (n->gen == 0)
        n->gen = 1; /* so that no id is small */
    fnode_fill(n, a);
    head = nodes_head(s, a->ino.v);
    n->next = *head;
    *head = slot + 1;
    s->count++;
    atomic_fetch_add_explicit(&t->count, 1, memory_order_relaxed);
    *ret_slot = slot;
    return n;
}

static void nodes_remove(struct tarn_fnodes *t, struct nodes_shard *s, struct fnode *n)
{
    uint32_t *p = nodes_head(s, n->ino);
    uint32_t slot;

    while (nodes_slot(s, *p - 1) != n)
        p = &nodes_slot(s, *p - 1)->next;
    slot = *p - 1;
    tarn_object_unref(&n->object);
    *p = n->next;
    n->next = s->free;
    s->free = slot + 1;
    s->count--;
    atomic_fetch_sub_explicit(&t->count, 1, memory_order_relaxed);
}

struct tarn_fnodes *fnodes_new(tarn_ino_t ino)
{
    struct tarn_fnodes *t = tarn_xnew(struct tarn_fnodes);
    struct tarn_attr root = {
        .ino = ino, .parent = ino, .type = TARN_TYPE_DIR, .mode = 0755, .nlink = 2};
    struct nodes_shard *s = &t->shards[nodes_shard_of(ino.v)];

    for (unsigned i = 0; i < NODES_SHARDS; i++) {
        tarn_mtx_init(&t->shards[i].mtx, TARN_RANK_FUSE_NODE);
        nodes_grow_hash(&t->shards[i]);
    }
    t->root = ino.v;
    nodes_add(t, s, &root, &t->root_slot)->nlookup = 1;
    return t;
}

void fnodes_free(struct tarn_fnodes **pt)
{
    struct tarn_fnodes *t = *pt;

    *pt = NULL;
    if (!t)
        return;
    for (unsigned i = 0; i < NODES_SHARDS; i++) {
        struct nodes_shard *s = &t->shards[i];

        for (uint32_t slot = 0; slot < s->used; slot++)
            tarn_object_unref(&nodes_slot(s, slot)->object);
        for (uint32_t c = 0; c < s->chunk_count; c++)
            free(s->chunks[c]);
        free(s->chunks);
        free(s->heads);
        tarn_mtx_fini(&s->mtx);
    }
    free(t);
}

uint64_t fnodes_count(const struct tarn_fnodes *t)
{
    return atomic_load_explicit(&t->count, memory_order_relaxed);
}

uint64_t fnodes_gen(const struct tarn_fnodes *t)
{
    return atomic_load(&t->gen);
}

/*
 * Versions only grow: the greatest one that was seen is the current one. True if that is `n`; the
 * others are outdated then.
 */
static bool nodes_order_versions(const struct nodes_shard *s, struct fnode *n)
{
    bool current = true;

    for (uint32_t at = *nodes_head(s, n->ino); at;) {
        struct fnode *o = nodes_slot(s, at - 1);

        if (o->ino == n->ino && o != n && !(o->kind & KIND_RETIRED)) {
            if (o->version < n->version)
                o->kind |= KIND_OUTDATED;
            else
                current = false;
        }
        at = o->next;
    }
    return current;
}

uint64_t fnode_ref(struct tarn_fnodes *t, const struct tarn_attr *attr, uint64_t gen)
{
    unsigned shard = nodes_shard_of(attr->ino.v);
    struct nodes_shard *s = &t->shards[shard];
    struct fnode *n;
    uint32_t slot = 0;
    TARN_GUARD(&s->mtx);

    TARN_ASSERT(attr->ino.v != 0 && attr->type >= TARN_TYPE_FILE &&
                attr->type <= TARN_TYPE_SYMLINK);
    n = nodes_find(s, attr, &slot);
    if (n)
        fnode_fill(n, attr);
    else
        n = nodes_add(t, s, attr, &slot);
    if (!nodes_order_versions(s, n))
        n->kind |= KIND_OUTDATED;
    else if (atomic_load(&t->gen) == gen)
        n->kind &= ~KIND_OUTDATED; /* it was found under a name, after whatever outdated it */
    if (atomic_load(&t->gen) != gen)
        n->trust_until_ns = 0;
    n->nlookup++;
    return nodes_id(t, shard, slot, n);
}

void fnode_forget(struct tarn_fnodes *t, uint64_t id, uint64_t count)
{
    struct nodes_shard *s = nodes_shard_of_id(t, id);
    struct fnode *n;
    TARN_GUARD(&s->mtx);

    n = nodes_find_id(t, s, id);
    if (!n || id == FNODE_ROOT)
        return;
    n->nlookup = count < n->nlookup ? n->nlookup - count : 0;
    if (n->nlookup == 0)
        nodes_remove(t, s, n);
}

bool fnode_get(struct tarn_fnodes *t, uint64_t id, struct tarn_attr *ret, bool *ret_outdated)
{
    struct nodes_shard *s = nodes_shard_of_id(t, id);
    const struct fnode *n;
    TARN_GUARD(&s->mtx);

    n = nodes_find_id(t, s, id);
    if (!n)
        return false;
    *ret = (struct tarn_attr){.ino = {n->ino},
                              .parent = {n->parent},
                              .version = n->version,
                              .size_bytes = n->size_bytes,
                              .mtime_ns = n->mtime_ns,
                              .ctime_ns = n->ctime_ns,
                              .type = fnode_type(n),
                              .mode = n->kind & KIND_MODE,
                              .uid = n->uid,
                              .gid = n->gid,
                              .nlink = n->nlink,
                              .trust_until_ns = n->trust_until_ns};
    if (ret->type != TARN_TYPE_DIR)
        ret->cid = n->cid;
    *ret_outdated = (n->kind & KIND_OUTDATED) != 0;
    return true;
}

bool fnode_is_outdated(struct tarn_fnodes *t, const struct tarn_attr *attr)
{
    struct nodes_shard *s = &t->shards[nodes_shard_of(attr->ino.v)];
    const struct fnode *n;
    uint32_t slot;
    TARN_GUARD(&s->mtx);

    n = nodes_find(s, attr, &slot);
    return n && (n->kind & KIND_OUTDATED);
}

/* Attributes that were read before are from before that, too. */
static void nodes_outdate(struct tarn_fnodes *t, struct fnode *n)
{
    if (!(n->kind & KIND_OUTDATED))
        atomic_fetch_add(&t->gen, 1);
    n->kind |= KIND_OUTDATED;
}

bool fnode_refresh(struct tarn_fnodes *t, uint64_t id, const struct tarn_attr *attr)
{
    struct nodes_shard *s = nodes_shard_of_id(t, id);
    struct fnode *n;
    TARN_GUARD(&s->mtx);

    n = nodes_find_id(t, s, id);
    if (!n)
        return false;
    if (!fnode_matches(n, attr)) {
        nodes_outdate(t, n);
        return false;
    }
    fnode_fill(n, attr);
    n->kind &= ~KIND_OUTDATED;
    return true;
}

/* `kind`: KIND_* to add. */
static void nodes_outdate_id(struct tarn_fnodes *t, uint64_t id, uint32_t kind)
{
    struct nodes_shard *s = nodes_shard_of_id(t, id);
    struct fnode *n;
    TARN_GUARD(&s->mtx);

    n = nodes_find_id(t, s, id);
    if (!n)
        return;
    nodes_outdate(t, n);
    n->kind |= kind;
}

void fnode_outdate(struct tarn_fnodes *t, uint64_t id)
{
    nodes_outdate_id(t, id, 0);
}

void fnode_retire(struct tarn_fnodes *t, uint64_t id)
{
    if (id != FNODE_ROOT)
        nodes_outdate_id(t, id, KIND_RETIRED);
}

struct tarn_object *fnode_object(struct tarn_fnodes *t, uint64_t id)
{
    struct nodes_shard *s = nodes_shard_of_id(t, id);
    struct fnode *n;
    TARN_GUARD(&s->mtx);

    n = nodes_find_id(t, s, id);
    if (!n || fnode_type(n) != TARN_TYPE_FILE)
        return NULL;
    if (!n->object)
        n->object = tarn_object_new();
    return tarn_object_ref(n->object);
}

/* ---- invalidation ---------------------------------------------------------------------------- */

void fnodes_invalidate(struct tarn_fnodes *t, tarn_ino_t ino, uint64_t version)
{
    struct nodes_shard *s = &t->shards[nodes_shard_of(ino.v)];

    atomic_fetch_add(&t->gen, 1); /* before the lock: see fnode_ref */
    TARN_GUARD(&s->mtx);
    for (uint32_t at = *nodes_head(s, ino.v); at;) {
        struct fnode *n = nodes_slot(s, at - 1);

        at = n->next;
        if (n->ino != ino.v)
            continue;
        n->trust_until_ns = 0;
        if (fnode_type(n) == TARN_TYPE_DIR)
            n->list_until_ns = 0;
        if (ino.v != t->root &&
            (version == 0 || (fnode_type(n) != TARN_TYPE_DIR && n->version < version)))
            n->kind |= KIND_OUTDATED;
    }
}

void fnodes_invalidate_listing(struct tarn_fnodes *t, tarn_ino_t ino)
{
    struct nodes_shard *s = &t->shards[nodes_shard_of(ino.v)];

    atomic_fetch_add(&t->gen, 1);
    TARN_GUARD(&s->mtx);
    for (uint32_t at = *nodes_head(s, ino.v); at;) {
        struct fnode *n = nodes_slot(s, at - 1);

        at = n->next;
        if (n->ino == ino.v && fnode_type(n) == TARN_TYPE_DIR)
            n->list_until_ns = 0;
    }
}

void fnodes_distrust_all(struct tarn_fnodes *t)
{
    atomic_fetch_add(&t->gen, 1);
    for (unsigned i = 0; i < NODES_SHARDS; i++) {
        struct nodes_shard *s = &t->shards[i];
        TARN_GUARD(&s->mtx);

        for (uint32_t slot = 0; slot < s->used; slot++) {
            struct fnode *n = nodes_slot(s, slot);

            n->trust_until_ns = 0;
            if (fnode_type(n) == TARN_TYPE_DIR)
                n->list_until_ns = 0;
        }
    }
}

unsigned fnodes_ids_of(struct tarn_fnodes *t, tarn_ino_t ino, uint64_t ret_ids[FNODE_IDS_MAX])
{
    unsigned shard = nodes_shard_of(ino.v);
    struct nodes_shard *s = &t->shards[shard];
    unsigned count = 0;
    TARN_GUARD(&s->mtx);

    for (uint32_t at = *nodes_head(s, ino.v); at && count < FNODE_IDS_MAX;) {
        const struct fnode *n = nodes_slot(s, at - 1);

        if (n->ino == ino.v)
            ret_ids[count++] = nodes_id(t, shard, at - 1, n);
        at = n->next;
    }
    return count;
}

size_t fnodes_walk(struct tarn_fnodes *t, uint64_t *pos, uint64_t *ret_ids, size_t max)
{
    size_t count = 0;

    while (count == 0 && *pos >> 32 < NODES_SHARDS) {
        unsigned shard = (unsigned)(*pos >> 32);
        struct nodes_shard *s = &t->shards[shard];
        uint32_t slot = (uint32_t)*pos;
        TARN_GUARD(&s->mtx);

        for (; slot < s->used && count < max; slot++) {
            const struct fnode *n = nodes_slot(s, slot);

            if (n->nlookup > 0)
                ret_ids[count++] = nodes_id(t, shard, slot, n);
        }
        *pos = slot < s->used ? ((uint64_t)shard << 32) | slot : (uint64_t)(shard + 1) << 32;
    }
    return count;
}

/* ---- listings that the kernel keeps ---------------------------------------------------------- */

uint64_t fnode_list_until(struct tarn_fnodes *t, uint64_t id)
{
    struct nodes_shard *s = nodes_shard_of_id(t, id);
    const struct fnode *n;
    TARN_GUARD(&s->mtx);

    n = nodes_find_id(t, s, id);
    return n && fnode_type(n) == TARN_TYPE_DIR ? n->list_until_ns : 0;
}

void fnode_set_list_until(struct tarn_fnodes *t, uint64_t id, uint64_t until_ns, bool first,
                          uint64_t gen)
{
    struct nodes_shard *s = nodes_shard_of_id(t, id);
    struct fnode *n;
    TARN_GUARD(&s->mtx);

    n = nodes_find_id(t, s, id);
    if (!n || fnode_type(n) != TARN_TYPE_DIR)
        return;
    if (atomic_load(&t->gen) != gen)
        n->list_until_ns = 0;
    else if (first || until_ns < n->list_until_ns)
        n->list_until_ns = until_ns;
}
