/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The store in memory. Each family is a treap whose nodes are shared between versions: a node with
 * one reference is changed in place, one with more is copied first (and so is the path to it).
 * Keeping a reference to a root therefore keeps that version: iterators and the last synced state
 * are such references. A node's priority is the hash of its key, so that equal contents have equal
 * trees.
 *
 * A batch is a treap per family, too, in which a deletion is an item of its own. What was written
 * since the last sync is the list of those batches; a power cut starts again from the synced roots
 * and replays some of them.
 *
 * Lock: mem.mtx guards the roots and every reference counter of nodes that the store has seen.
 * Those of a batch under construction are its thread's until it is written. Contents of a node that
 * is reachable from a kept root never change, so that iterators read without the lock.
 */
#include "store/kv/kv_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/hash.h"
#include "lib/base/list.h"
#include "lib/base/mem.h"
#include "lib/base/mtx.h"

/* A key with its value; immutable. */
struct mem_item {
    unsigned refs;  /* nodes that name it */
    bool deleted;   /* in a batch: the key goes */
    size_t key_n;   /* bytes of the key, at data */
    size_t value_n; /* bytes of the value, behind the key */
    uint8_t data[]; /* key, value */
};

struct mem_node {
    unsigned refs;          /* parents, roots and iterators that name it */
    uint64_t prio;          /* of the key; greatest at the top */
    struct mem_item *item;  /* one reference */
    struct mem_node *left;  /* smaller keys, one reference */
    struct mem_node *right; /* greater keys, one reference */
};

typedef struct mem_node *mem_roots[TARN_KV_CF_MAX];

/* An unsynced write. */
struct mem_redo {
    struct tarn_list link; /* in mem_disk.redo */
    mem_roots ops;         /* what the batch did, by family */
};

/* What survives a close. */
struct mem_disk {
    mem_roots live;        /* what reads see */
    mem_roots synced;      /* what a power cut leaves at least */
    struct tarn_list redo; /* unsynced writes, oldest first */
    unsigned redo_count;   /* entries there */
    unsigned cf_count;     /* families */
    bool open;             /* a store uses it */
};

struct mem {
    struct tarn_kv kv;     /* first */
    struct tarn_mtx mtx;   /* see above */
    struct mem_disk *disk; /* the caller's */
};

struct mem_batch {
    struct tarn_kv_batch b; /* first */
    mem_roots ops;          /* last operation on each key, by family */
};

struct mem_iter {
    struct tarn_kv_iter it; /* first */
    struct mem_node *base;  /* the store when the iterator was made, one reference */
    struct mem_node *delta; /* borrowed from the batch, which must not change meanwhile */
    struct tarn_str from;   /* where next continues */
    bool after;             /* behind `from`, not at it */
};

static struct tarn_kv_slice item_key(const struct mem_item *i)
{
    return tarn_kv_slice(i->data, i->key_n);
}

static struct tarn_kv_slice item_value(const struct mem_item *i)
{
    return tarn_kv_slice(i->data + i->key_n, i->value_n);
}

static struct mem_item *item_new(struct tarn_kv_slice key, struct tarn_kv_slice value, bool deleted)
{
    struct mem_item *i = tarn_xcalloc(1, sizeof(*i) + key.n + value.n);

    i->deleted = deleted;
    i->key_n = key.n;
    i->value_n = value.n;
    if (key.n)
        memcpy(i->data, key.p, key.n);
    if (value.n)
        memcpy(i->data + key.n, value.p, value.n);
    return i;
}

static void item_unref(struct mem_item *i)
{
    TARN_ASSERT(i->refs > 0);
    if (--i->refs == 0)
        free(i);
}

static struct mem_node *node_ref(struct mem_node *n)
{
    if (n)
        n->refs++;
    return n;
}

static void node_unref(struct mem_node *n)
{
    if (!n)
        return;
    TARN_ASSERT(n->refs > 0);
    if (--n->refs > 0)
        return;
    node_unref(n->left);
    node_unref(n->right);
    item_unref(n->item);
    free(n);
}

static struct mem_node *node_new(struct mem_item *item, struct mem_node *left,
                                 struct mem_node *right, uint64_t prio)
{
    struct mem_node *n = tarn_xnew(struct mem_node);

    item->refs++;
    *n = (struct mem_node){.refs = 1, .prio = prio, .item = item, .left = left, .right = right};
    return n;
}

/* Trades a reference to `n` for one to a node that the caller alone holds. */
static struct mem_node *node_own(struct mem_node *n)
{
    struct mem_node *copy;

    if (n->refs == 1)
        return n;
    copy = node_new(n->item, node_ref(n->left), node_ref(n->right), n->prio);
    node_unref(n);
    return copy;
}

/* Below, `root` is a reference that the function takes; it returns the new one. */
static struct mem_node *tree_put(struct mem_node *root, struct mem_item *item, uint64_t prio)
{
    struct mem_node *child;
    int c;

    if (!root)
        return node_new(item, NULL, NULL, prio);
    root = node_own(root);
    c = kv_compare(item_key(item), item_key(root->item));
    if (c == 0) {
        item->refs++;
        item_unref(root->item);
        root->item = item;
    } else if (c < 0) {
        child = root->left = tree_put(root->left, item, prio);
        if (child->prio > root->prio) {
            root->left = child->right;
            child->right = root;
            return child;
        }
    } else {
        child = root->right = tree_put(root->right, item, prio);
        if (child->prio > root->prio) {
            root->right = child->left;
            child->left = root;
            return child;
        }
    }
    return root;
}

/* All keys of `left` are smaller than those of `right`. */
static struct mem_node *tree_join(struct mem_node *left, struct mem_node *right)
{
    if (!left || !right)
        return left ? left : right;
    if (left->prio >= right->prio) {
        left = node_own(left);
        left->right = tree_join(left->right, right);
        return left;
    }
    right = node_own(right);
    right->left = tree_join(left, right->left);
    return right;
}

static struct mem_node *tree_delete(struct mem_node *root, struct tarn_kv_slice key)
{
    struct mem_node *joined;
    int c;

    if (!root)
        return NULL;
    root = node_own(root);
    c = kv_compare(key, item_key(root->item));
    if (c < 0) {
        root->left = tree_delete(root->left, key);
        return root;
    }
    if (c > 0) {
        root->right = tree_delete(root->right, key);
        return root;
    }
    joined = tree_join(root->left, root->right);
    root->left = root->right = NULL;
    node_unref(root);
    return joined;
}

/* The item of the first key >= `key`, or > `key` with `after`; NULL when there is none. */
static const struct mem_item *tree_seek(const struct mem_node *n, struct tarn_kv_slice key,
                                        bool after)
{
    const struct mem_item *best = NULL;

    while (n) {
        int c = kv_compare(item_key(n->item), key);

        if (c > 0 || (c == 0 && !after)) {
            best = n->item;
            n = n->left;
        } else {
            n = n->right;
        }
    }
    return best;
}

static const struct mem_item *tree_find(const struct mem_node *n, struct tarn_kv_slice key)
{
    const struct mem_item *i = tree_seek(n, key, false);

    return i && kv_compare(item_key(i), key) == 0 ? i : NULL;
}

static struct mem_node *tree_apply(struct mem_node *root, const struct mem_node *ops)
{
    if (!ops)
        return root;
    root = tree_apply(root, ops->left);
    root = ops->item->deleted ? tree_delete(root, item_key(ops->item))
                              : tree_put(root, ops->item, ops->prio);
    return tree_apply(root, ops->right);
}

static uint64_t tree_bytes(const struct mem_node *n)
{
    return n ? n->item->key_n + n->item->value_n + tree_bytes(n->left) + tree_bytes(n->right) : 0;
}

static void roots_drop(mem_roots roots)
{
    for (unsigned i = 0; i < TARN_KV_CF_MAX; i++) {
        node_unref(roots[i]);
        roots[i] = NULL;
    }
}

static void roots_copy(mem_roots to, mem_roots from)
{
    roots_drop(to);
    for (unsigned i = 0; i < TARN_KV_CF_MAX; i++)
        to[i] = node_ref(from[i]);
}

static void roots_apply(mem_roots roots, mem_roots ops)
{
    for (unsigned i = 0; i < TARN_KV_CF_MAX; i++)
        roots[i] = tree_apply(roots[i], ops[i]);
}

static void disk_drop_redo(struct mem_disk *d)
{
    TARN_LIST_FOREACH_SAFE(it, &d->redo)
    {
        struct mem_redo *r = TARN_LIST_ENTRY(it, struct mem_redo, link);

        roots_drop(r->ops);
        free(r);
    }
    tarn_list_init(&d->redo);
    d->redo_count = 0;
}

static void mem_close(struct tarn_kv *kv)
{
    struct mem *m = TARN_CONTAINER(kv, struct mem, kv);

    m->disk->open = false;
    tarn_mtx_fini(&m->mtx);
    free(m);
}

static int item_give(const struct mem_item *i, struct tarn_str *ret)
{
    if (!i || i->deleted)
        return -ENOENT;
    tarn_str_add(ret, i->data + i->key_n, i->value_n);
    return 0;
}

static int mem_get(struct tarn_kv *kv, unsigned cf, struct tarn_kv_slice key, struct tarn_str *ret)
{
    struct mem *m = TARN_CONTAINER(kv, struct mem, kv);
    TARN_GUARD(&m->mtx);

    return item_give(tree_find(m->disk->live[cf], key), ret);
}

static struct tarn_kv_batch *mem_batch_new(struct tarn_kv *kv)
{
    struct mem_batch *mb = tarn_xnew(struct mem_batch);

    (void)kv; /* a batch stands alone until it is written */
    return &mb->b;
}

static void mem_batch_free(struct tarn_kv_batch *b)
{
    struct mem_batch *mb = TARN_CONTAINER(b, struct mem_batch, b);

    roots_drop(mb->ops);
    free(mb);
}

static void mem_batch_add(struct tarn_kv_batch *b, unsigned cf, struct mem_item *item)
{
    struct mem_batch *mb = TARN_CONTAINER(b, struct mem_batch, b);

    mb->ops[cf] = tree_put(mb->ops[cf], item, tarn_xxh3(item->data, item->key_n));
}

static void mem_batch_put(struct tarn_kv_batch *b, unsigned cf, struct tarn_kv_slice key,
                          struct tarn_kv_slice value)
{
    mem_batch_add(b, cf, item_new(key, value, false));
}

static void mem_batch_delete(struct tarn_kv_batch *b, unsigned cf, struct tarn_kv_slice key)
{
    mem_batch_add(b, cf, item_new(key, tarn_kv_slice("", 0), true));
}

static int mem_batch_get(struct tarn_kv_batch *b, unsigned cf, struct tarn_kv_slice key,
                         struct tarn_str *ret)
{
    struct mem_batch *mb = TARN_CONTAINER(b, struct mem_batch, b);
    const struct mem_item *i = tree_find(mb->ops[cf], key);

    return i ? item_give(i, ret) : mem_get(b->kv, cf, key, ret);
}

static int mem_write(struct tarn_kv *kv, struct tarn_kv_batch *b, bool sync)
{
    struct mem *m = TARN_CONTAINER(kv, struct mem, kv);
    struct mem_batch *mb = TARN_CONTAINER(b, struct mem_batch, b);
    struct mem_disk *d = m->disk;
    TARN_GUARD(&m->mtx);

    roots_apply(d->live, mb->ops);
    if (sync) {
        roots_drop(mb->ops);
        disk_drop_redo(d);
        roots_copy(d->synced, d->live);
    } else {
        struct mem_redo *r = tarn_xnew(struct mem_redo);

        memcpy(r->ops, mb->ops, sizeof(mem_roots)); /* the references move */
        memset(mb->ops, 0, sizeof(mem_roots));
        tarn_list_push(&d->redo, &r->link);
        d->redo_count++;
    }
    return 0;
}

static struct tarn_kv_iter *mem_iter_new(struct tarn_kv *kv, struct tarn_kv_batch *b, unsigned cf,
                                         struct tarn_kv_slice prefix)
{
    struct mem *m = TARN_CONTAINER(kv, struct mem, kv);
    struct mem_iter *mi = tarn_xnew(struct mem_iter);
    TARN_GUARD(&m->mtx);

    (void)prefix; /* kv.c seeks to it and ends behind it */
    mi->base = node_ref(m->disk->live[cf]);
    mi->delta = b ? TARN_CONTAINER(b, struct mem_batch, b)->ops[cf] : NULL;
    return &mi->it;
}

static void mem_iter_free(struct tarn_kv_iter *it)
{
    struct mem_iter *mi = TARN_CONTAINER(it, struct mem_iter, it);
    struct mem *m = TARN_CONTAINER(it->kv, struct mem, kv);

    tarn_mtx_lock(&m->mtx);
    node_unref(mi->base);
    tarn_mtx_unlock(&m->mtx);
    tarn_str_fini(&mi->from);
    free(mi);
}

static void mem_iter_place(struct mem_iter *mi, struct tarn_kv_slice key, bool after)
{
    tarn_str_reset(&mi->from);
    tarn_str_add(&mi->from, key.p, key.n);
    mi->after = after;
}

static void mem_iter_seek(struct tarn_kv_iter *it, struct tarn_kv_slice key)
{
    mem_iter_place(TARN_CONTAINER(it, struct mem_iter, it), key, false);
}

static int mem_iter_next(struct tarn_kv_iter *it)
{
    struct mem_iter *mi = TARN_CONTAINER(it, struct mem_iter, it);
    const struct mem_item *i;

    do {
        struct tarn_kv_slice from = tarn_kv_slice(mi->from.p, mi->from.len);
        const struct mem_item *delta = tree_seek(mi->delta, from, mi->after);

        i = tree_seek(mi->base, from, mi->after);
        if (!i || (delta && kv_compare(item_key(delta), item_key(i)) <= 0))
            i = delta; /* the batch's operation hides the store's value */
        if (!i)
            return 0;
        mem_iter_place(mi, item_key(i), true);
    } while (i->deleted);
    it->key = item_key(i);
    it->value = item_value(i);
    return 1;
}

static int mem_reopen(struct tarn_kv *kv, struct tarn_errbuf *err)
{
    (void)kv; /* memory does not get stuck */
    (void)err;
    return 0;
}

static uint64_t mem_disk_bytes(struct tarn_kv *kv)
{
    struct mem *m = TARN_CONTAINER(kv, struct mem, kv);
    uint64_t sum = 0;
    TARN_GUARD(&m->mtx);

    for (unsigned i = 0; i < kv->cf_count; i++)
        sum += tree_bytes(m->disk->live[i]);
    return sum;
}

static const struct kv_ops mem_ops = {
    .close = mem_close,
    .get = mem_get,
    .batch_new = mem_batch_new,
    .batch_free = mem_batch_free,
    .batch_put = mem_batch_put,
    .batch_delete = mem_batch_delete,
    .batch_get = mem_batch_get,
    .write = mem_write,
    .iter_new = mem_iter_new,
    .iter_free = mem_iter_free,
    .iter_seek = mem_iter_seek,
    .iter_next = mem_iter_next,
    .reopen = mem_reopen,
    .disk_bytes = mem_disk_bytes,
};

struct tarn_kv *tarn_kv_mem_open(struct tarn_kv_mem_disk *disk, unsigned cf_count)
{
    struct mem *m = tarn_xnew(struct mem);
    struct mem_disk *d = disk->state;

    TARN_ASSERT(cf_count >= 1 && cf_count <= TARN_KV_CF_MAX);
    if (!d) {
        d = disk->state = tarn_xnew(struct mem_disk);
        tarn_list_init(&d->redo);
    }
    TARN_ASSERT(!d->open && cf_count >= d->cf_count);
    d->open = true;
    d->cf_count = cf_count;
    m->disk = d;
    tarn_mtx_init(&m->mtx, TARN_RANK_KV);
    kv_init(&m->kv, &mem_ops, cf_count);
    return &m->kv;
}

void tarn_kv_mem_disk_fini(struct tarn_kv_mem_disk *disk)
{
    struct mem_disk *d = disk->state;

    disk->state = NULL;
    if (!d)
        return;
    TARN_ASSERT(!d->open);
    disk_drop_redo(d);
    roots_drop(d->live);
    roots_drop(d->synced);
    free(d);
}

unsigned tarn_kv_mem_power_cut(struct tarn_kv_mem_disk *disk, unsigned keep)
{
    struct mem_disk *d = disk->state;
    unsigned could, i = 0;

    if (!d)
        return 0;
    TARN_ASSERT(!d->open);
    could = d->redo_count;
    roots_copy(d->live, d->synced);
    TARN_LIST_FOREACH(it, &d->redo)
    {
        if (i++ == keep)
            break;
        roots_apply(d->live, TARN_LIST_ENTRY(it, struct mem_redo, link)->ops);
    }
    disk_drop_redo(d);
    roots_copy(d->synced, d->live);
    return could;
}
