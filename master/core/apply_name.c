/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One name: what an object says about it, making, updating and removing it, and the entries that do
 * it to a single name (Found, Gone) or to all names below a detached directory (Collect).
 *
 * Ids of inodes only grow. Removing a directory takes its name and marks its inode detached; the
 * key `g` then leads Collect to what is below. Counts know no detached directory, but still what is
 * below.
 */
#include "lib/base/mem.h"
#include "master/core/core_priv.h"

#define COLLECT_MAX 4096u /* inodes of one entry: bounds its batch */

/* ---- objects
 * --------------------------------------------------------------------------------------- */

int core_object_check(const Tarn__Core__Object *o)
{
    if (!tarn_name_ok((const char *)o->name.data, o->name.len))
        return -TARN_E_ENTRY_BAD;
    if (o->type < CORE_TYPE_FILE || o->type > CORE_TYPE_SYMLINK)
        return -TARN_E_ENTRY_BAD;
    if (o->has_owner && o->mode > 07777)
        return -TARN_E_ENTRY_BAD;
    if (o->ufs && strlen(o->ufs->etag) > TARN_ETAG_MAX)
        return -TARN_E_ENTRY_BAD;
    if (o->type == CORE_TYPE_SYMLINK && o->target.len >= TARN_PATH_MAX)
        return -TARN_E_ENTRY_BAD;
    if (o->type != CORE_TYPE_FILE)
        return 0;
    if (!o->ufs || o->ufs->size > TARN_FILE_MAX)
        return -TARN_E_ENTRY_BAD;
    if (o->ufs->size > 0 && o->cid.len != sizeof(tarn_cid_t))
        return -TARN_E_ENTRY_BAD;
    return 0;
}

static bool bytes_same(ProtobufCBinaryData a, ProtobufCBinaryData b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}

/* What an inode keeps of a directory's version: the time alone. */
static Tarn__Core__Version object_dir_version(const Tarn__Core__Version *v)
{
    Tarn__Core__Version r;

    tarn__core__version__init(&r);
    r.mtime_ns = v->mtime_ns;
    return r;
}

static bool version_same(const Tarn__Core__Version *a, const Tarn__Core__Version *b)
{
    Tarn__Core__Version none;

    tarn__core__version__init(&none);
    a = a ? a : &none;
    b = b ? b : &none;
    return a->size == b->size && a->mtime_ns == b->mtime_ns && a->ctime_ns == b->ctime_ns &&
           a->file_id == b->file_id && strcmp(a->etag, b->etag) == 0;
}

/* The bytes, or the link's target, are the same. What an object does not tell is taken as
 * unchanged. */
static bool object_same_content(const Tarn__Core__Inode *inode, const Tarn__Core__Object *o)
{
    Tarn__Core__Version dir;

    switch (o->type) {
    case CORE_TYPE_DIR:
        if (!o->ufs || o->ufs->mtime_ns == 0)
            return true;
        dir = object_dir_version(o->ufs);
        return version_same(inode->ufs, &dir);
    case CORE_TYPE_SYMLINK:
        return version_same(inode->ufs, o->ufs) &&
               (o->target.len == 0 || bytes_same(inode->target, o->target));
    default:
        return version_same(inode->ufs, o->ufs) &&
               (o->ufs->size == 0 || bytes_same(inode->cid, o->cid));
    }
}

static bool object_same_owner(const Tarn__Core__Inode *inode, const Tarn__Core__Object *o)
{
    if (!inode->has_owner || !o->has_owner)
        return inode->has_owner == o->has_owner;
    return inode->mode == o->mode && inode->uid == o->uid && inode->gid == o->gid;
}

bool core_object_same(const struct core_tx *tx, const Tarn__Core__Inode *inode,
                      const Tarn__Core__Object *o)
{
    TARN_ASSERT(inode->type == o->type);
    return inode->attachment == tx->attachment && object_same_content(inode, o) &&
           object_same_owner(inode, o);
}

bool core_name_covered(const struct core_tx *tx, const Tarn__Core__Inode *inode,
                       const Tarn__Core__Object *o)
{
    if (!inode->held)
        return false;
    return !o || o->type != CORE_TYPE_DIR ||
           (inode->attachment != 0 && inode->attachment != tx->attachment);
}

static uint64_t inode_bytes(const Tarn__Core__Inode *inode)
{
    return inode->type == CORE_TYPE_FILE && inode->ufs ? inode->ufs->size : 0;
}

/* Takes over what the object says; the inode then borrows from it. */
static void object_fill(struct core_tx *tx, Tarn__Core__Inode *inode, const Tarn__Core__Object *o)
{
    inode->has_owner = o->has_owner;
    inode->mode = o->has_owner ? o->mode : 0;
    inode->uid = o->has_owner ? o->uid : 0;
    inode->gid = o->has_owner ? o->gid : 0;
    switch (o->type) {
    case CORE_TYPE_DIR:
        if (o->ufs && o->ufs->mtime_ns != 0) {
            inode->ufs = core_arena_alloc(&tx->arena, sizeof(*inode->ufs));
            *inode->ufs = object_dir_version(o->ufs);
        }
        break;
    case CORE_TYPE_SYMLINK:
        if (o->target.len || !version_same(inode->ufs, o->ufs))
            inode->target = o->target;
        inode->ufs = o->ufs;
        break;
    default:
        inode->ufs = o->ufs;
        inode->cid = o->ufs->size ? o->cid : (ProtobufCBinaryData){0};
        break;
    }
}

/* ---- names
 * ------------------------------------------------------------------------------------------- */

static void counts_add(struct core_tx *tx, const Tarn__Core__Inode *inode, uint64_t sign)
{
    if (inode->type == CORE_TYPE_DIR)
        tx->counts.dirs += sign;
    else if (inode->type == CORE_TYPE_SYMLINK)
        tx->counts.symlinks += sign;
    else
        tx->counts.files += sign;
    tx->counts.bytes +=
        sign * inode_bytes(inode); /* modulo 2^64: what was added is taken away again */
    tx->counts_dirty = true;
}

void core_name_put(struct core_tx *tx, tarn_ino_t dir, const void *name, size_t len, tarn_ino_t ino,
                   uint32_t type)
{
    Tarn__Core__Dentry d = TARN__CORE__DENTRY__INIT;
    struct core_key k;

    d.ino = ino.v;
    d.type = type;
    core_key_name(&k, dir.v, name, len);
    core_tx_put(tx, TARN_CF_META, &k, &d.base);
    core_key_id2(&k, CORE_TAG_ORDER, dir.v, ino.v);
    tarn_kv_batch_put(tx->src.b, TARN_CF_META, core_slice(&k), tarn_kv_slice("", 0));
}

void core_name_delete(struct core_tx *tx, tarn_ino_t dir, const void *name, size_t len,
                      tarn_ino_t ino)
{
    struct core_key k;

    core_key_name(&k, dir.v, name, len);
    core_tx_delete(tx, TARN_CF_META, &k);
    core_key_id2(&k, CORE_TAG_ORDER, dir.v, ino.v);
    core_tx_delete(tx, TARN_CF_META, &k);
}

static void names_put_dentries(struct core_tx *tx, tarn_ino_t dir, tarn_ino_t first,
                               const Tarn__Core__Object *const *objects, size_t n)
{
    Tarn__Core__Dentry d = TARN__CORE__DENTRY__INIT;
    struct core_key k;

    for (size_t i = 0; i < n; i++) {
        d.ino = first.v + i;
        d.type = objects[i]->type;
        core_key_name(&k, dir.v, objects[i]->name.data, objects[i]->name.len);
        core_tx_put(tx, TARN_CF_META, &k, &d.base);
    }
}

static void name_create_inode(struct core_tx *tx, tarn_ino_t ino, tarn_ino_t dir,
                              const Tarn__Core__Object *o)
{
    Tarn__Core__Inode inode = TARN__CORE__INODE__INIT;

    inode.type = o->type;
    inode.parent = dir.v;
    inode.name = o->name;
    inode.version = tx->index;
    inode.changed = tx->index;
    inode.attachment = tx->attachment;
    object_fill(tx, &inode, o);
    core_tx_put_inode(tx, ino, &inode);
    counts_add(tx, &inode, 1);
}

tarn_ino_t core_names_create(struct core_tx *tx, tarn_ino_t dir,
                             const Tarn__Core__Object *const *objects, size_t n)
{
    tarn_ino_t first = {tx->next_ino};
    struct core_key k;

    if (n == 0)
        return (tarn_ino_t){0};
    TARN_ASSERT(first.v > TARN_INO_ROOT.v && first.v + n <= CORE_INO_END && tx->attachment != 0);
    tx->next_ino += n;
    tx->next_ino_dirty = true;
    tx->res->created += (uint32_t)n;
    /* One kind of key after the other: stores take keys that follow each other at half the cost. */
    names_put_dentries(tx, dir, first, objects, n);
    for (size_t i = 0; i < n; i++) {
        core_key_id2(&k, CORE_TAG_ORDER, dir.v, first.v + i);
        tarn_kv_batch_put(tx->src.b, TARN_CF_META, core_slice(&k), tarn_kv_slice("", 0));
    }
    for (size_t i = 0; i < n; i++)
        name_create_inode(tx, (tarn_ino_t){first.v + i}, dir, objects[i]);
    return first;
}

void core_name_update(struct core_tx *tx, const struct core_name *n, const Tarn__Core__Object *o)
{
    Tarn__Core__Inode *inode = n->inode;

    if (o->type != CORE_TYPE_DIR && !object_same_content(inode, o))
        inode->version = tx->index;
    inode->changed = tx->index;
    if (inode->attachment == tx->attachment)
        counts_add(tx, inode, -1ull);
    inode->attachment = tx->attachment;
    object_fill(tx, inode, o);
    counts_add(tx, inode, 1);
    core_tx_put_inode(tx, n->ino, inode);
    core_tx_change(tx, n->ino, (tarn_ino_t){inode->parent}, inode->version, n->name, n->len);
    tx->res->updated++;
}

int core_dir_detach(struct core_tx *tx, tarn_ino_t ino, Tarn__Core__Inode *inode)
{
    Tarn__Core__DirState *st;
    struct core_key k;
    int rc;

    rc = core_tx_dir_state(tx, ino, &st);
    if (rc < 0)
        return rc;
    if (st->listed_ns != 0)
        tx->counts.dirs_listed--;
    inode->detached = true;
    inode->held = false;
    inode->changed = tx->index;
    core_tx_put_inode(tx, ino, inode);
    core_key_id(&k, CORE_TAG_GARBAGE, ino.v);
    tarn_kv_batch_put(tx->src.b, TARN_CF_META, core_slice(&k), tarn_kv_slice("", 0));
    return 0;
}

int core_names_remove(struct core_tx *tx, const struct core_name *const *names, size_t n)
{
    struct core_key k;
    int rc = 0;

    for (size_t i = 0; i < n; i++) {
        core_key_name(&k, names[i]->inode->parent, names[i]->name, names[i]->len);
        core_tx_delete(tx, TARN_CF_META, &k);
    }
    for (size_t i = 0; i < n; i++) {
        core_key_id2(&k, CORE_TAG_ORDER, names[i]->inode->parent, names[i]->ino.v);
        core_tx_delete(tx, TARN_CF_META, &k);
    }
    for (size_t i = 0; i < n && rc == 0; i++) {
        if (names[i]->inode->type == CORE_TYPE_DIR) {
            rc = core_dir_detach(tx, names[i]->ino, names[i]->inode);
        } else {
            core_key_id(&k, CORE_TAG_INODE, names[i]->ino.v);
            core_tx_delete(tx, TARN_CF_META, &k);
        }
        counts_add(tx, names[i]->inode, -1ull);
        core_tx_change(tx, names[i]->ino, (tarn_ino_t){names[i]->inode->parent}, 0, names[i]->name,
                       names[i]->len);
        tx->res->removed++;
    }
    return rc;
}

int core_name_remove(struct core_tx *tx, const struct core_name *n)
{
    return core_names_remove(tx, &n, 1);
}

/* ---- entries
 * ----------------------------------------------------------------------------------------- */

/* What the name has already; *ret_done when nothing is left to write. */
static int found_check(struct core_tx *tx, const struct core_name *n, const Tarn__Core__Found *m,
                       bool *ret_done)
{
    const Tarn__Core__Object *o = m->object;

    *ret_done = false;
    if (!n->ino.v)
        return 0;
    tx->res->ino = n->ino;
    if (core_name_covered(tx, n->inode, o) ||
        (n->inode->type == o->type && core_object_same(tx, n->inode, o))) {
        *ret_done = true;
        return 0;
    }
    if (n->inode->changed > m->asked_index)
        return -TARN_E_ENTRY_STALE;
    return 0;
}

int core_apply_found(struct core_tx *tx, const Tarn__Core__Found *m)
{
    tarn_ino_t parent = {m->parent};
    const Tarn__Core__Object *object;
    Tarn__Core__Inode *dir;
    struct core_name n;
    bool done;
    int rc;

    if (!m->object || core_object_check(m->object) < 0 || !core_asked_ok(tx, m->asked_index))
        return -TARN_E_ENTRY_BAD;
    rc = core_tx_dir(tx, parent, &dir);
    if (rc < 0)
        return rc;
    rc = core_scan_one(tx, parent, m->object->name, &n);
    if (rc < 0)
        return rc;
    rc = found_check(tx, &n, m, &done);
    if (rc < 0 || done)
        return rc;
    rc = core_tx_reserve_inos(tx, 1);
    if (rc < 0)
        return rc;

    if (n.ino.v && n.inode->type == m->object->type) {
        core_name_update(tx, &n, m->object);
        return 0;
    }
    if (n.ino.v)
        rc = core_name_remove(tx, &n);
    object = m->object;
    tx->res->ino = core_names_create(tx, parent, &object, 1);
    return rc;
}

int core_apply_gone(struct core_tx *tx, const Tarn__Core__Gone *m)
{
    tarn_ino_t parent = {m->parent};
    Tarn__Core__Inode *dir;
    struct core_name n;
    int rc;

    if (!tarn_name_ok((const char *)m->name.data, m->name.len) ||
        !core_asked_ok(tx, m->asked_index))
        return -TARN_E_ENTRY_BAD;
    rc = core_tx_dir(tx, parent, &dir);
    if (rc < 0)
        return rc;
    rc = core_scan_one(tx, parent, m->name, &n);
    if (rc < 0 || !n.ino.v)
        return rc;
    if (core_name_covered(tx, n.inode, NULL)) {
        tx->res->ino = n.ino;
        return 0;
    }
    if (n.inode->changed > m->asked_index) {
        tx->res->ino = n.ino;
        return -TARN_E_ENTRY_STALE;
    }
    return core_name_remove(tx, &n);
}

/* The root of the name space cannot go: it becomes what it was before anything was attached there.
 */
static void collect_root(struct core_tx *tx)
{
    Tarn__Core__Inode root = TARN__CORE__INODE__INIT;

    root.type = CORE_TYPE_DIR;
    root.parent = TARN_INO_ROOT.v;
    root.version = tx->index;
    root.changed = tx->index;
    core_tx_put_inode(tx, TARN_INO_ROOT, &root);
    core_tx_change(tx, TARN_INO_ROOT, TARN_INO_ROOT, root.version, "", 0);
}

static void collect_self(struct core_tx *tx, tarn_ino_t ino)
{
    static const char tags[] = {CORE_TAG_INODE, CORE_TAG_DIR, CORE_TAG_SKIPPED, CORE_TAG_GARBAGE};
    struct core_key k;

    for (size_t i = 0; i < TARN_ARRAY_LEN(tags); i++) {
        core_key_id(&k, tags[i], ino.v);
        core_tx_delete(tx, TARN_CF_META, &k);
    }
    if (ino.v == TARN_INO_ROOT.v)
        collect_root(tx);
}

int core_apply_collect(struct core_tx *tx, const Tarn__Core__Collect *m)
{
    tarn_ino_t ino = {m->ino};
    const struct core_name **names;
    struct core_scan below = {0};
    Tarn__Core__Inode *inode;
    int rc;

    if (m->max == 0)
        return -TARN_E_ENTRY_BAD;
    rc = core_tx_inode(tx, ino, &inode);
    if (rc < 0)
        return rc;
    if (!inode->detached)
        return -TARN_E_INVALID;
    rc = core_tx_open_counts(tx, inode->attachment);
    if (rc == 0)
        rc = core_scan_range(tx, &below, ino, (ProtobufCBinaryData){0}, NULL,
                             TARN_MIN(m->max, COLLECT_MAX));
    if (rc == 0)
        rc = core_scan_inodes(tx, &below, ino);
    if (rc < 0)
        return rc;
    names = core_arena_alloc(&tx->arena, (below.count + 1) * sizeof(struct core_name *));
    for (size_t i = 0; i < below.count; i++)
        names[i] = &below.names[i];
    rc = core_names_remove(tx, names, below.count);
    if (!below.cut)
        collect_self(tx, ino);
    tx->res->more = below.cut;
    return rc;
}
