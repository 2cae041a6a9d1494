/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading what a directory holds, before an entry changes it: names by a range scan, then their
 * inodes in the same order. A directory that was listed in one go has ids in the order of its
 * names, so the second step is a scan, too.
 */
#include "lib/base/mem.h"
#include "master/core/core_priv.h"

void core_scan_add(struct core_tx *tx, struct core_scan *s, const void *name, size_t len,
                   tarn_ino_t ino)
{
    void *copy = core_arena_alloc(&tx->arena, len + 1);

    if (s->count == s->cap) {
        size_t cap = s->cap ? 2 * s->cap : 64;
        struct core_name *names = core_arena_alloc(&tx->arena, cap * sizeof(*names));

        if (s->count)
            memcpy(names, s->names, s->count * sizeof(*names));
        s->names = names;
        s->cap = cap;
    }
    memcpy(copy, name, len);
    s->names[s->count++] = (struct core_name){.name = copy, .len = len, .ino = ino};
}

int core_scan_range(struct core_tx *tx, struct core_scan *s, tarn_ino_t dir,
                    ProtobufCBinaryData from, const ProtobufCBinaryData *to, size_t limit)
{
    struct tarn_kv_iter *it;
    struct core_key prefix, start;
    int rc;

    core_key_id(&prefix, CORE_TAG_DENTRY, dir.v);
    /* A name is at most TARN_NAME_MAX bytes: those behind a longer `from` are behind its beginning,
     * too. */
    core_key_name(&start, dir.v, from.data, TARN_MIN(from.len, (size_t)TARN_NAME_MAX));
    it = tarn_kv_iter_new(tx->src.kv, tx->src.b, TARN_CF_META, core_slice(&prefix));
    tarn_kv_iter_seek(it, core_slice(&start));
    while ((rc = tarn_kv_iter_next(it)) == 1) {
        struct tarn_kv_slice key = tarn_kv_iter_key(it);
        const uint8_t *name = (const uint8_t *)key.p + prefix.n;
        size_t len = key.n - prefix.n;
        tarn_ino_t ino;
        uint32_t type;

        if (to && core_compare(name, len, to->data, to->len) > 0)
            break;
        if (core_compare(name, len, from.data, from.len) < 0)
            continue;
        if (s->count >= limit) {
            s->cut = true;
            break;
        }
        rc = core_dentry_decode(tarn_kv_iter_value(it), &tx->al, &ino, &type);
        if (rc < 0)
            break;
        core_scan_add(tx, s, name, len, ino);
    }
    tarn_kv_iter_free(&it);
    return rc < 0 ? rc : 0;
}

static int scan_check_inode(const struct core_tx *tx, const struct core_name *n, tarn_ino_t dir)
{
    const Tarn__Core__Inode *i = n->inode;

    if (i->parent != dir.v || i->detached || (i->attachment != tx->attachment && !i->held) ||
        i->name.len != n->len || memcmp(i->name.data, n->name, n->len) != 0)
        return -TARN_E_KV_CORRUPT;
    return 0;
}

int core_scan_inodes(struct core_tx *tx, struct core_scan *s, tarn_ino_t dir)
{
    struct core_inodes c;
    int rc = 0;

    if (s->count == 0)
        return 0;
    core_inodes_init(&c, &tx->src);
    for (size_t i = 0; i < s->count && rc == 0; i++) {
        rc = core_inodes_get(&c, s->names[i].ino, &tx->al, &s->names[i].inode);
        if (rc == 0)
            rc = scan_check_inode(tx, &s->names[i], dir);
    }
    core_inodes_fini(&c);
    return rc == -TARN_E_NO_ENTRY ? -TARN_E_KV_CORRUPT : rc;
}

int core_scan_one(struct core_tx *tx, tarn_ino_t dir, ProtobufCBinaryData name,
                  struct core_name *ret)
{
    struct core_name n = {.name = name.data, .len = name.len};
    uint32_t type;
    int rc;

    rc = core_get_dentry(&tx->src, dir.v, name.data, name.len, &tx->al, &n.ino, &type);
    if (rc == -TARN_E_NO_ENTRY) {
        *ret = n;
        return 0;
    }
    if (rc < 0)
        return rc;
    rc = core_tx_inode(tx, n.ino, &n.inode);
    if (rc == 0)
        rc = scan_check_inode(tx, &n, dir);
    if (rc < 0)
        return rc == -TARN_E_NO_ENTRY ? -TARN_E_KV_CORRUPT : rc;
    *ret = n;
    return 0;
}
