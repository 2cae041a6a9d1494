/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads of committed state. Each call reads for itself: between two calls an entry may commit.
 * Names are found upwards from an inode by its parent and name, so that nothing but inodes is
 * needed.
 */
#include <stdlib.h>

#include "lib/base/mem.h"
#include "master/core/core_priv.h"

#define DEPTH_MAX 4096u /* directories above an inode; deeper is damage */

static struct core_src read_src(struct tarn_kv *kv)
{
    return (struct core_src){kv, NULL};
}

static int read_message(struct tarn_kv *kv, unsigned cf, const struct core_key *k,
                        const ProtobufCMessageDescriptor *d, void **ret)
{
    struct core_src s = read_src(kv);

    return core_get_message(&s, cf, k, d, NULL, ret);
}

int tarn_core_inode(struct tarn_kv *kv, tarn_ino_t ino, Tarn__Core__Inode **ret)
{
    struct core_key k;
    void *m;
    int rc;

    core_key_id(&k, CORE_TAG_INODE, ino.v);
    rc = read_message(kv, TARN_CF_META, &k, &tarn__core__inode__descriptor, &m);
    if (rc == 0)
        *ret = m;
    return rc;
}

/* 0 when names may be looked for in `dir`. What was attached at the root, and is being collected,
 * is not to be seen: only the root keeps its own name meanwhile. */
static int read_visible(struct tarn_kv *kv, tarn_ino_t dir)
{
    Tarn__Core__Inode *root;
    int rc;

    if (dir.v != TARN_INO_ROOT.v)
        return 0;
    rc = tarn_core_inode(kv, dir, &root);
    if (rc < 0)
        return rc;
    rc = root->detached ? -TARN_E_NO_ENTRY : 0;
    tarn__core__inode__free_unpacked(root, NULL);
    return rc;
}

int tarn_core_dentry(struct tarn_kv *kv, tarn_ino_t parent, const char *name, size_t len,
                     tarn_ino_t *ret_ino, uint32_t *ret_type)
{
    struct core_src s = read_src(kv);
    int rc = read_visible(kv, parent);

    return rc < 0 ? rc : core_get_dentry(&s, parent.v, name, len, NULL, ret_ino, ret_type);
}

int tarn_core_dir_state(struct tarn_kv *kv, tarn_ino_t dir, Tarn__Core__DirState **ret)
{
    Tarn__Core__DirState *zero;
    struct core_key k;
    void *m;
    int rc;

    core_key_id(&k, CORE_TAG_DIR, dir.v);
    rc = read_message(kv, TARN_CF_META, &k, &tarn__core__dir_state__descriptor, &m);
    if (rc == -TARN_E_NO_ENTRY) {
        zero = tarn_xcalloc(1, sizeof(*zero));
        tarn__core__dir_state__init(zero);
        *ret = zero;
        return 0;
    }
    if (rc == 0)
        *ret = m;
    return rc;
}

/* A value that is text behind its format byte. */
static int read_text(struct tarn_kv *kv, const struct core_key *k, struct tarn_str *ret)
{
    struct core_src s = read_src(kv);
    struct tarn_str value = {0};
    int rc;

    rc = core_get(&s, TARN_CF_META, k, &value);
    if (rc == 0 && (value.len < 1 || (uint8_t)value.p[0] != CORE_FORMAT))
        rc = -TARN_E_KV_CORRUPT;
    if (rc == 0) {
        tarn_str_reset(ret);
        tarn_str_add(ret, value.p + 1, value.len - 1);
    }
    tarn_str_fini(&value);
    return rc;
}

int tarn_core_skipped_names(struct tarn_kv *kv, tarn_ino_t dir, struct tarn_str *ret)
{
    struct core_key k;

    core_key_id(&k, CORE_TAG_SKIPPED, dir.v);
    return read_text(kv, &k, ret);
}

int tarn_core_attachment(struct tarn_kv *kv, uint32_t id, Tarn__Core__Attachment **ret)
{
    struct core_key k;
    void *m;
    int rc;

    core_key_id32(&k, CORE_TAG_ATTACHMENT, id);
    rc = read_message(kv, TARN_CF_META, &k, &tarn__core__attachment__descriptor, &m);
    if (rc == 0)
        *ret = m;
    return rc;
}

int tarn_core_attachments(struct tarn_kv *kv, tarn_core_attachment_fn *fn, void *arg)
{
    const char tag = CORE_TAG_ATTACHMENT;
    struct tarn_kv_iter *it = tarn_kv_iter_new(kv, NULL, TARN_CF_META, tarn_kv_slice(&tag, 1));
    void *m;
    int rc;

    while ((rc = tarn_kv_iter_next(it)) == 1) {
        rc = core_decode(&tarn__core__attachment__descriptor, tarn_kv_iter_value(it), NULL, &m);
        if (rc < 0)
            break;
        rc = fn(arg, m);
        protobuf_c_message_free_unpacked(m, NULL);
        if (rc != 0)
            break;
    }
    tarn_kv_iter_free(&it);
    return rc;
}

static int read_last_id(void *arg, const Tarn__Core__Attachment *a)
{
    *(uint32_t *)arg = a->id;
    return 0;
}

int tarn_core_next_attachment(struct tarn_kv *kv, uint32_t *ret)
{
    struct core_src s = read_src(kv);
    uint64_t next;
    uint32_t last = 0;
    int rc = core_get_u64(&s, CORE_X_NEXT_ATT, &next);

    if (rc == -TARN_E_NO_ENTRY) {
        rc = tarn_core_attachments(kv, read_last_id, &last);
        next = last + 1ull;
    }
    if (rc == 0 && next > UINT32_MAX)
        rc = -TARN_E_TOO_BIG;
    if (rc == 0)
        *ret = (uint32_t)next;
    return rc;
}

/* A number that is 0 when it is absent. */
static int read_number(struct tarn_kv *kv, const char *single, uint64_t *ret)
{
    struct core_src s = read_src(kv);
    int rc = core_get_u64(&s, single, ret);

    if (rc != -TARN_E_NO_ENTRY)
        return rc;
    *ret = 0;
    return 0;
}

int tarn_core_attached_index(struct tarn_kv *kv, uint64_t *ret)
{
    return read_number(kv, CORE_X_ATTACHED, ret);
}

int tarn_core_counts(struct tarn_kv *kv, uint32_t attachment, Tarn__Core__Counts **ret)
{
    struct core_key k;
    void *m;
    int rc;

    core_key_id32(&k, CORE_TAG_COUNTS, attachment);
    rc = read_message(kv, TARN_CF_META, &k, &tarn__core__counts__descriptor, &m);
    if (rc == 0)
        *ret = m;
    return rc;
}

int tarn_core_cluster_id(struct tarn_kv *kv, char ret[37])
{
    struct tarn_str id = {0};
    struct core_key k;
    int rc;

    core_key_single(&k, CORE_X_CLUSTER);
    rc = read_text(kv, &k, &id);
    if (rc == 0 && id.len > 36)
        rc = -TARN_E_KV_CORRUPT;
    if (rc == 0)
        memcpy(ret, tarn_str_z(&id), id.len + 1);
    tarn_str_fini(&id);
    return rc;
}

int tarn_core_last_change(struct tarn_kv *kv, uint64_t *ret)
{
    return read_number(kv, CORE_X_CHANGE, ret);
}

int tarn_core_untold(struct tarn_kv *kv, uint64_t *ret)
{
    return read_number(kv, CORE_X_UNTOLD, ret);
}

int tarn_core_applied_index(struct tarn_kv *kv, uint64_t *ret)
{
    struct core_src s = read_src(kv);
    uint64_t format;
    int rc;

    rc = core_get_u64(&s, CORE_X_FORMAT, &format);
    if (rc == 0 && format > CORE_FORMAT_MANY)
        return -TARN_E_FORMAT_NEWER;
    if (rc < 0 && rc != -TARN_E_NO_ENTRY)
        return rc;
    rc = core_get_u64(&s, CORE_X_APPLIED, ret);
    if (rc == -TARN_E_NO_ENTRY) {
        *ret = 0;
        return 0;
    }
    return rc;
}

int tarn_core_cap_key(struct tarn_kv *kv, uint8_t ret[TARN_CORE_CAP_KEY_BYTES])
{
    struct tarn_str key = {0};
    struct core_key k;
    int rc;

    core_key_single(&k, CORE_X_CAP_KEY);
    rc = read_text(kv, &k, &key);
    if (rc == 0 && key.len != TARN_CORE_CAP_KEY_BYTES)
        rc = -TARN_E_KV_CORRUPT;
    if (rc == 0)
        memcpy(ret, key.p, key.len);
    tarn_str_fini(&key);
    return rc;
}

int tarn_core_placement(struct tarn_kv *kv, Tarn__Core__Placement **ret)
{
    Tarn__Core__Placement *none;
    struct core_key k;
    void *m;
    int rc;

    core_key_single(&k, CORE_X_PLACEMENT);
    rc = read_message(kv, TARN_CF_META, &k, &tarn__core__placement__descriptor, &m);
    if (rc == -TARN_E_NO_ENTRY) {
        none = tarn_xcalloc(1, sizeof(*none));
        tarn__core__placement__init(none);
        *ret = none;
        return 0;
    }
    if (rc == 0)
        *ret = m;
    return rc;
}

int tarn_core_worker(struct tarn_kv *kv, uint64_t id, Tarn__Core__Worker **ret)
{
    struct core_key k;
    void *m;
    int rc;

    core_key_id(&k, CORE_TAG_WORKER, id);
    rc = read_message(kv, TARN_CF_META, &k, &tarn__core__worker__descriptor, &m);
    if (rc == 0)
        *ret = m;
    return rc;
}

int tarn_core_workers(struct tarn_kv *kv, tarn_core_worker_fn *fn, void *arg)
{
    const uint8_t tag = CORE_TAG_WORKER;
    struct tarn_kv_iter *it = tarn_kv_iter_new(kv, NULL, TARN_CF_META, tarn_kv_slice(&tag, 1));
    int rc;

    while ((rc = tarn_kv_iter_next(it)) == 1) {
        void *m;

        rc = core_decode(&tarn__core__worker__descriptor, tarn_kv_iter_value(it), NULL, &m);
        if (rc == 0) {
            rc = fn(arg, m);
            tarn__core__worker__free_unpacked(m, NULL);
        }
        if (rc != 0)
            break;
    }
    tarn_kv_iter_free(&it);
    return rc;
}

/* ---- names upwards
 * ------------------------------------------------------------------------------------- */

/* Puts "/<name>" before what is in `path`, which grows to the left inside `buf`. */
static int read_prepend(char *buf, size_t *at, ProtobufCBinaryData name)
{
    if (name.len + 1 > *at)
        return -TARN_E_NAME_TOO_LONG;
    *at -= name.len + 1;
    buf[*at] = '/';
    if (name.len)
        memcpy(buf + *at + 1, name.data, name.len);
    return 0;
}

/* "/a/b" from the root down to `ino`, "" for the root itself. */
static int read_path_to_root(struct tarn_kv *kv, tarn_ino_t ino, char *buf, size_t cap,
                             size_t *ret_at)
{
    size_t at = cap;
    int rc = 0;

    for (unsigned depth = 0; rc == 0 && ino.v != TARN_INO_ROOT.v; depth++) {
        Tarn__Core__Inode *inode;

        if (depth == DEPTH_MAX)
            return -TARN_E_KV_CORRUPT;
        rc = tarn_core_inode(kv, ino, &inode);
        if (rc < 0)
            return rc;
        ino.v = inode->parent;
        rc = inode->detached ? -TARN_E_NO_ENTRY : read_prepend(buf, &at, inode->name);
        tarn__core__inode__free_unpacked(inode, NULL);
    }
    if (rc == 0 && at < cap)
        rc = read_visible(kv, TARN_INO_ROOT);
    if (rc == 0)
        *ret_at = at;
    return rc;
}

int tarn_core_path(struct tarn_kv *kv, tarn_ino_t ino, struct tarn_str *ret_path)
{
    char buf[2 * TARN_PATH_MAX];
    size_t at;
    int rc;

    rc = read_path_to_root(kv, ino, buf, sizeof(buf), &at);
    if (rc < 0)
        return rc;
    tarn_str_reset(ret_path);
    if (at == sizeof(buf))
        tarn_str_addc(ret_path, '/');
    else
        tarn_str_add(ret_path, buf + at, sizeof(buf) - at);
    return 0;
}

int tarn_core_key(struct tarn_kv *kv, tarn_ino_t ino, struct tarn_str *ret_key)
{
    Tarn__Core__Attachment *a = NULL;
    Tarn__Core__Inode *inode = NULL;
    char buf[2 * TARN_PATH_MAX];
    size_t at, skip = 0;
    int rc;

    rc = tarn_core_inode(kv, ino, &inode);
    if (rc < 0)
        return rc;
    rc = read_path_to_root(kv, ino, buf, sizeof(buf), &at);
    if (rc == 0 && inode->attachment != 0) {
        rc = tarn_core_attachment(kv, inode->attachment, &a);
        if (rc == -TARN_E_NO_ENTRY)
            rc = -TARN_E_NO_ATTACH;
    }
    if (rc == 0) {
        skip = !a ? sizeof(buf) - at : strcmp(a->path, "/") == 0 ? 0 : strlen(a->path);
        tarn_str_reset(ret_key);
        if (at + skip < sizeof(buf)) /* behind the attachment's path and a '/' */
            tarn_str_add(ret_key, buf + at + skip + 1, sizeof(buf) - at - skip - 1);
    }
    tarn__core__attachment__free_unpacked(a, NULL);
    tarn__core__inode__free_unpacked(inode, NULL);
    return rc;
}

/* ---- walks
 * --------------------------------------------------------------------------------------------- */

int tarn_core_readdir(struct tarn_kv *kv, tarn_ino_t dir, uint64_t cookie, tarn_core_dirent_fn *fn,
                      void *arg)
{
    struct core_src s = read_src(kv);
    struct core_inodes inodes;
    struct tarn_kv_iter *it;
    struct core_key prefix, start;
    int rc;

    if (cookie == UINT64_MAX)
        return 0;
    rc = read_visible(kv, dir);
    if (rc < 0)
        return rc == -TARN_E_NO_ENTRY ? 0 : rc;
    core_key_id(&prefix, CORE_TAG_ORDER, dir.v);
    core_key_id2(&start, CORE_TAG_ORDER, dir.v, cookie + 1);
    it = tarn_kv_iter_new(kv, NULL, TARN_CF_META, core_slice(&prefix));
    core_inodes_init(&inodes, &s);
    tarn_kv_iter_seek(it, core_slice(&start));
    while ((rc = tarn_kv_iter_next(it)) == 1) {
        struct tarn_kv_slice key = tarn_kv_iter_key(it);
        Tarn__Core__Inode *inode;
        tarn_ino_t ino;

        if (key.n != start.n) {
            rc = -TARN_E_KV_CORRUPT;
            break;
        }
        ino.v = core_get_be64((const uint8_t *)key.p + 9);
        rc = core_inodes_get(&inodes, ino, NULL, &inode);
        if (rc == -TARN_E_NO_ENTRY)
            continue; /* it went between the two scans' beginnings */
        if (rc < 0)
            break;
        rc = fn(arg, ino, inode);
        tarn__core__inode__free_unpacked(inode, NULL);
        if (rc != 0)
            break;
    }
    core_inodes_fini(&inodes);
    tarn_kv_iter_free(&it);
    return rc;
}

int tarn_core_job(struct tarn_kv *kv, uint64_t id, Tarn__Core__JobRecord **ret)
{
    struct core_key k;
    void *m;
    int rc;

    core_key_id(&k, CORE_TAG_JOB, id);
    rc = read_message(kv, TARN_CF_JOBS, &k, &tarn__core__job_record__descriptor, &m);
    if (rc == 0)
        *ret = m;
    return rc;
}

int tarn_core_jobs(struct tarn_kv *kv, tarn_core_job_fn *fn, void *arg)
{
    const uint8_t tag = CORE_TAG_JOB;
    struct tarn_kv_iter *it = tarn_kv_iter_new(kv, NULL, TARN_CF_JOBS, tarn_kv_slice(&tag, 1));
    int rc;

    while ((rc = tarn_kv_iter_next(it)) == 1) {
        void *m;

        rc = core_decode(&tarn__core__job_record__descriptor, tarn_kv_iter_value(it), NULL, &m);
        if (rc == 0) {
            rc = fn(arg, m);
            tarn__core__job_record__free_unpacked(m, NULL);
        }
        if (rc != 0)
            break;
    }
    tarn_kv_iter_free(&it);
    return rc;
}

/* Who gets the rows of one job: one of the two. */
struct read_rows {
    tarn_core_line_fn *line;
    tarn_core_item_fn *item;
    void *arg;
};

static int read_row(const struct read_rows *r, uint64_t seq, const void *m)
{
    return r->line ? r->line(r->arg, seq, m) : r->item(r->arg, seq, m);
}

/* Lines or items of a job, from a number on. */
static int read_job_rows(struct tarn_kv *kv, char tag, uint64_t id, uint64_t from_seq,
                         const struct read_rows *rows)
{
    const ProtobufCMessageDescriptor *d =
        rows->line ? &tarn__core__job_line__descriptor : &tarn__core__job_item__descriptor;
    struct tarn_kv_iter *it;
    struct core_key prefix, start;
    int rc;

    core_key_id(&prefix, tag, id);
    core_key_id2(&start, tag, id, from_seq);
    it = tarn_kv_iter_new(kv, NULL, TARN_CF_JOBS, core_slice(&prefix));
    tarn_kv_iter_seek(it, core_slice(&start));
    while ((rc = tarn_kv_iter_next(it)) == 1) {
        struct tarn_kv_slice key = tarn_kv_iter_key(it);
        void *m;

        rc = key.n == start.n ? 0 : -TARN_E_KV_CORRUPT;
        if (rc == 0)
            rc = core_decode(d, tarn_kv_iter_value(it), NULL, &m);
        if (rc < 0)
            break;
        rc = read_row(rows, core_get_be64((const uint8_t *)key.p + 9), m);
        protobuf_c_message_free_unpacked(m, NULL);
        if (rc != 0)
            break;
    }
    tarn_kv_iter_free(&it);
    return rc;
}

int tarn_core_manifest(struct tarn_kv *kv, uint64_t id, uint64_t from_seq, tarn_core_line_fn *fn,
                       void *arg)
{
    const struct read_rows rows = {.line = fn, .arg = arg};

    return read_job_rows(kv, CORE_TAG_LINE, id, from_seq, &rows);
}

int tarn_core_job_items(struct tarn_kv *kv, uint64_t id, uint64_t from_seq, tarn_core_item_fn *fn,
                        void *arg)
{
    const struct read_rows rows = {.item = fn, .arg = arg};

    return read_job_rows(kv, CORE_TAG_ITEM, id, from_seq, &rows);
}

int tarn_core_garbage(struct tarn_kv *kv, tarn_ino_t *ret_ino)
{
    const uint8_t tag = CORE_TAG_GARBAGE;
    struct tarn_kv_iter *it = tarn_kv_iter_new(kv, NULL, TARN_CF_META, tarn_kv_slice(&tag, 1));
    int rc;

    rc = tarn_kv_iter_next(it);
    if (rc == 1) {
        struct tarn_kv_slice key = tarn_kv_iter_key(it);

        rc = key.n == 9 ? 0 : -TARN_E_KV_CORRUPT;
        if (rc == 0)
            ret_ino->v = core_get_be64((const uint8_t *)key.p + 1);
    } else if (rc == 0) {
        ret_ino->v = 0;
    }
    tarn_kv_iter_free(&it);
    return rc;
}
