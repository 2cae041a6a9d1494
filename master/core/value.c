/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Values of the store: one format byte and a packed message. Decoding goes to an arena during
 * apply, because one entry brings up to some thousand small messages, and to the heap for readers.
 */
#include "master/core/core_priv.h"

#include <errno.h>
#include <stdlib.h>

#include "lib/base/mem.h"

#define ARENA_BLOCK (64u << 10)

struct core_block {
    struct core_block *next; /* older */
    size_t cap;              /* bytes of data */
    _Alignas(16) uint8_t data[];
};

void *core_arena_alloc(struct core_arena *a, size_t n)
{
    struct core_block *b = a->blocks;
    void *p;

    n = (n + 15) & ~(size_t)15;
    if (!b || b->cap - a->used < n) {
        size_t cap = TARN_MAX(n, (size_t)ARENA_BLOCK);

        b = tarn_xrealloc(NULL, sizeof(*b) + cap);
        b->next = a->blocks;
        b->cap = cap;
        a->blocks = b;
        a->used = 0;
    }
    p = b->data + a->used;
    a->used += n;
    return p;
}

void core_arena_fini(struct core_arena *a)
{
    while (a->blocks) {
        struct core_block *b = a->blocks;

        a->blocks = b->next;
        free(b);
    }
    a->used = 0;
}

static void *arena_pb_alloc(void *arg, size_t n)
{
    return core_arena_alloc(arg, n);
}

static void arena_pb_free(void *arg, void *p)
{
    (void)arg; /* freed with the arena */
    (void)p;
}

ProtobufCAllocator core_arena_allocator(struct core_arena *a)
{
    return (ProtobufCAllocator){
        .alloc = arena_pb_alloc, .free = arena_pb_free, .allocator_data = a};
}

int core_get(const struct core_src *s, unsigned cf, const struct core_key *k, struct tarn_str *ret)
{
    int rc;

    if (s->b)
        rc = tarn_kv_batch_get(s->b, cf, core_slice(k), ret);
    else
        rc = tarn_kv_get(s->kv, cf, core_slice(k), ret);
    return rc == -ENOENT ? -TARN_E_NO_ENTRY : rc;
}

int core_decode(const ProtobufCMessageDescriptor *d, struct tarn_kv_slice value,
                ProtobufCAllocator *al, void **ret)
{
    const uint8_t *p = value.p;
    ProtobufCMessage *m;

    if (value.n < 1 || p[0] != CORE_FORMAT)
        return -TARN_E_KV_CORRUPT;
    m = protobuf_c_message_unpack(d, al, value.n - 1, p + 1);
    if (!m)
        return -TARN_E_KV_CORRUPT;
    *ret = m;
    return 0;
}

int core_get_message(const struct core_src *s, unsigned cf, const struct core_key *k,
                     const ProtobufCMessageDescriptor *d, ProtobufCAllocator *al, void **ret)
{
    struct tarn_str value = {0};
    int rc;

    rc = core_get(s, cf, k, &value);
    if (rc == 0)
        rc = core_decode(d, tarn_kv_slice(value.p, value.len), al, ret);
    tarn_str_fini(&value);
    return rc;
}

int core_get_u64(const struct core_src *s, const char *single, uint64_t *ret)
{
    struct tarn_str value = {0};
    struct core_key k;
    int rc;

    core_key_single(&k, single);
    rc = core_get(s, TARN_CF_META, &k, &value);
    if (rc == 0 && (value.len != 9 || (uint8_t)value.p[0] != CORE_FORMAT))
        rc = -TARN_E_KV_CORRUPT;
    if (rc == 0)
        *ret = core_get_be64((const uint8_t *)value.p + 1);
    tarn_str_fini(&value);
    return rc;
}

int core_dentry_decode(struct tarn_kv_slice value, ProtobufCAllocator *al, tarn_ino_t *ret_ino,
                       uint32_t *ret_type)
{
    Tarn__Core__Dentry *d;
    void *m;
    int rc;

    rc = core_decode(&tarn__core__dentry__descriptor, value, al, &m);
    if (rc < 0)
        return rc;
    d = m;
    if (d->ino == 0 || d->type < CORE_TYPE_FILE || d->type > CORE_TYPE_SYMLINK) {
        rc = -TARN_E_KV_CORRUPT;
    } else {
        ret_ino->v = d->ino;
        *ret_type = d->type;
    }
    tarn__core__dentry__free_unpacked(d, al);
    return rc;
}

int core_get_dentry(const struct core_src *s, uint64_t parent, const void *name, size_t len,
                    ProtobufCAllocator *al, tarn_ino_t *ret_ino, uint32_t *ret_type)
{
    struct tarn_str value = {0};
    struct core_key k;
    int rc;

    if (len > TARN_NAME_MAX)
        return -TARN_E_NO_ENTRY;
    core_key_name(&k, parent, name, len);
    rc = core_get(s, TARN_CF_META, &k, &value);
    if (rc == 0)
        rc = core_dentry_decode(tarn_kv_slice(value.p, value.len), al, ret_ino, ret_type);
    tarn_str_fini(&value);
    return rc;
}

void core_inodes_init(struct core_inodes *c, const struct core_src *s)
{
    const uint8_t tag = CORE_TAG_INODE;

    c->it = tarn_kv_iter_new(s->kv, s->b, TARN_CF_META, tarn_kv_slice(&tag, 1));
    c->at = 0;
}

void core_inodes_fini(struct core_inodes *c)
{
    tarn_kv_iter_free(&c->it);
}

int core_inodes_get(struct core_inodes *c, tarn_ino_t ino, ProtobufCAllocator *al,
                    Tarn__Core__Inode **ret)
{
    struct core_key k;
    struct tarn_kv_slice at;
    void *m;
    int rc;

    core_key_id(&k, CORE_TAG_INODE, ino.v);
    if (c->at == 0 || ino.v != c->at + 1)
        tarn_kv_iter_seek(c->it, core_slice(&k));
    rc = tarn_kv_iter_next(c->it);
    c->at = 0;
    if (rc < 0)
        return rc;
    if (rc == 0)
        return -TARN_E_NO_ENTRY;
    at = tarn_kv_iter_key(c->it);
    if (at.n != k.n || memcmp(at.p, k.b, k.n) != 0)
        return -TARN_E_NO_ENTRY;
    c->at = ino.v;
    rc = core_decode(&tarn__core__inode__descriptor, tarn_kv_iter_value(c->it), al, &m);
    if (rc == 0)
        *ret = m;
    return rc;
}

int core_compare(const void *a, size_t a_n, const void *b, size_t b_n)
{
    size_t n = TARN_MIN(a_n, b_n);
    int c = n ? memcmp(a, b, n) : 0;

    return c ? c : (a_n > b_n) - (a_n < b_n);
}
