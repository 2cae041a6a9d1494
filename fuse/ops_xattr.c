/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A file's cache state as extended attributes:
 *
 *     user.tarn.cached    part of its bytes that workers have, "0.0000" to "1.0000" (files);
 *                         "" where that is not known, since one of them is away
 *     user.tarn.version   the version that this node stands for (files, directories)
 *     user.tarn.workers   ids of those that have any, as far as they answer: "1,3", "" (files)
 *
 * A local worker is asked at once (its id is 1), those of a cluster through the master.
 */
#include "fuse/fuse_priv.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define XATTR_CACHED  "user.tarn.cached"
#define XATTR_VERSION "user.tarn.version"
#define XATTR_WORKERS "user.tarn.workers"

/* Answers with `len` bytes, or with their number when the caller asks for it (size 0). */
static void xattr_reply(fuse_req_t req, const char *value, size_t len, size_t size)
{
    if (size == 0)
        (void)fuse_reply_xattr(req, len); /* a request that is gone needs no answer */
    else if (size < len)
        fop_reply_err(req, FOP_EXACT, -ERANGE);
    else
        (void)fuse_reply_buf(req, value, len); /* as above */
}

/* Of a cluster that is to be asked. */
static bool xattr_remote(struct tarn_fuse *f, const struct tarn_attr *attr, const char *name)
{
    struct tarn_handle *h;
    bool remote;

    if (attr->type != TARN_TYPE_FILE ||
        (strcmp(name, XATTR_CACHED) != 0 && strcmp(name, XATTR_WORKERS) != 0))
        return false;
    h = tarn_handle_open(f->args.client, attr);
    remote = tarn_handle_cached(h) == UINT64_MAX;
    tarn_handle_close(&h);
    return remote;
}

/* Bytes of the file that are cached here; UINT64_MAX when there is no local worker. */
static uint64_t xattr_cached_bytes(struct tarn_fuse *f, const struct tarn_attr *attr)
{
    struct tarn_handle *h = tarn_handle_open(f->args.client, attr);
    uint64_t bytes = tarn_handle_cached(h);

    tarn_handle_close(&h);
    return bytes;
}

/* Rounded down: only a whole file is "1.0000". */
static void xattr_ratio(uint64_t part, uint64_t whole, char *ret, size_t size)
{
    uint64_t bp = 10000;

    if (part < whole)
        bp = (uint64_t)((unsigned __int128)part * 10000 / whole);
    (void)snprintf(ret, size, "%" PRIu64 ".%04" PRIu64, bp / 10000, bp % 10000); /* it fits */
}

/* What the workers said; NULL: nothing is known. */
static void xattr_told(const struct tarn_attr *attr, const Tarn__Wire__WhereResponse *where,
                       const char *name, struct tarn_str *ret)
{
    uint64_t bytes = where ? TARN_MIN(where->cached_bytes, attr->size_bytes) : 0;
    bool exact = where && (!where->partial || bytes == attr->size_bytes);
    char ratio[32];

    if (strcmp(name, XATTR_CACHED) == 0 && exact) {
        xattr_ratio(bytes, attr->size_bytes, ratio, sizeof(ratio));
        tarn_str_adds(ret, ratio);
    }
    for (size_t i = 0; where && strcmp(name, XATTR_WORKERS) == 0 && i < where->n_workers; i++)
        tarn_str_addf(ret, "%s%" PRIu64, i > 0 ? "," : "", where->workers[i]);
}

/* What is listed can be read, also while the master is away: copying programs stop at what is not.
 */
static void xattr_where(struct fop *o, int rc)
{
    const Tarn__Wire__WhereResponse *where = (const Tarn__Wire__WhereResponse *)o->op.resp;
    struct tarn_str value = {0};

    if (rc == -TARN_E_STALE || rc == -TARN_E_CANCELLED || rc == -TARN_E_SHUTDOWN) {
        fop_reply_err(o->req, o->cls, rc);
    } else {
        xattr_told(&o->op.attr, rc == 0 ? where : NULL, o->name, &value);
        xattr_reply(o->req, tarn_str_z(&value), value.len, o->size);
    }
    tarn_str_fini(&value);
    if (o->op.resp)
        protobuf_c_message_free_unpacked(o->op.resp, NULL);
}

static void xattr_ask(fuse_req_t req, fuse_ino_t id, const struct tarn_attr *attr, const char *name,
                      size_t size)
{
    struct fop *o = fop_new(req, FOP_NAME, xattr_where);

    if (!o)
        return;
    o->id = id;
    o->size = size;
    (void)snprintf(o->name, sizeof(o->name), "%s", name); /* one of ours */
    o->op = (struct tarn_client_op){
        .kind = TARN_CLIENT_WHERE, .ino = attr->ino, .version = attr->version, .attr = *attr};
    fop_start_op(o);
}

static int xattr_value(struct tarn_fuse *f, const struct tarn_attr *attr, const char *name,
                       char *ret, size_t size)
{
    bool ratio = strcmp(name, XATTR_CACHED) == 0;
    uint64_t bytes;

    if (!tarn_starts_with(name, "user."))
        return -EOPNOTSUPP; /* ls -l asks for ACLs and labels: so it does once, not for each file */
    if (strcmp(name, XATTR_VERSION) == 0) {
        (void)snprintf(ret, size, "%" PRIu64, attr->version); /* it fits */
        return 0;
    }
    if ((!ratio && strcmp(name, XATTR_WORKERS) != 0) || attr->type != TARN_TYPE_FILE)
        return -ENODATA;
    bytes = attr->size_bytes > 0 ? xattr_cached_bytes(f, attr) : 0;
    if (ratio)
        xattr_ratio(bytes, attr->size_bytes, ret, size);
    else
        (void)snprintf(ret, size, "%s", bytes > 0 ? "1" : ""); /* it fits */
    return 0;
}

static void xattr_get(fuse_req_t req, fuse_ino_t id, const char *name, size_t size)
{
    struct tarn_fuse *f = fuse_of(req);
    struct tarn_attr attr;
    char value[32];
    bool outdated;
    int rc;

    if (!fnode_get(f->nodes, id, &attr, &outdated)) {
        fop_reply_err(req, FOP_NAME, -TARN_E_STALE);
        return;
    }
    if (attr.size_bytes > 0 && xattr_remote(f, &attr, name)) {
        xattr_ask(req, id, &attr, name, size);
        return;
    }
    rc = xattr_value(f, &attr, name, value, sizeof(value));
    if (rc < 0)
        fop_reply_err(req, FOP_EXACT, rc);
    else
        xattr_reply(req, value, strlen(value), size);
}

static void xattr_list(fuse_req_t req, fuse_ino_t id, size_t size)
{
    static const char names[] = XATTR_VERSION "\0" XATTR_CACHED "\0" XATTR_WORKERS;
    struct tarn_fuse *f = fuse_of(req);
    struct tarn_attr attr;
    bool outdated;

    if (!fnode_get(f->nodes, id, &attr, &outdated))
        fop_reply_err(req, FOP_NAME, -TARN_E_STALE);
    else if (attr.type == TARN_TYPE_SYMLINK) /* Linux lets nobody read those of a symlink */
        xattr_reply(req, names, 0, size);
    else if (attr.type == TARN_TYPE_FILE)
        xattr_reply(req, names, sizeof(names), size);
    else
        xattr_reply(req, names, sizeof(XATTR_VERSION), size);
}

static void xattr_set(fuse_req_t req, fuse_ino_t id, const char *name, const char *value,
                      size_t size, int flags)
{
    (void)id, (void)name, (void)value, (void)size, (void)flags; /* whatever it is */
    fop_reply_err(req, FOP_NAME, -TARN_E_READ_ONLY);
}

static void xattr_remove(fuse_req_t req, fuse_ino_t id, const char *name)
{
    (void)id, (void)name; /* whatever it is */
    fop_reply_err(req, FOP_NAME, -TARN_E_READ_ONLY);
}

void fuse_ops_xattr(struct fuse_lowlevel_ops *ops)
{
    ops->getxattr = xattr_get;
    ops->listxattr = xattr_list;
    ops->setxattr = xattr_set;
    ops->removexattr = xattr_remove;
}
