/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Names and attributes. What the client's name cache or the node table believes is answered on the
 * FUSE thread; the rest is asked. The kernel is never told to believe anything for longer than the
 * master trusts it.
 *
 * A name that the cache still knows in a version that is known to be outdated is asked again: that
 * is how an open that got ESTALE finds the new version.
 */
#include "fuse/fuse_priv.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "lib/base/assert.h"

#define TIMEOUT_MAX_S 1e9 /* "for ever": the kernel counts jiffies */
#define STATFS_BLOCK  4096u

struct tarn_fuse *fuse_of(fuse_req_t req)
{
    struct tarn_fuse *f;

    TARN_CAST(f, fuse_req_userdata(req), FUSE_MAGIC);
    return f;
}

/* How much longer the kernel may believe something, in ns. */
static uint64_t meta_trust_ns(const struct tarn_fuse *f, uint64_t until_ns)
{
    uint64_t now = tarn_now_ns();
    uint64_t left = until_ns == UINT64_MAX ? UINT64_MAX : until_ns > now ? until_ns - now : 0;

    return TARN_MIN(left, tarn_client_kernel_trust_ns(f->args.client));
}

double fuse_timeout(const struct tarn_fuse *f, uint64_t until_ns)
{
    return TARN_MIN((double)meta_trust_ns(f, until_ns) / (double)TARN_NS_PER_S, TIMEOUT_MAX_S);
}

static struct timespec meta_timespec(int64_t ns)
{
    int64_t s = ns / (int64_t)TARN_NS_PER_S;
    int64_t rest = ns % (int64_t)TARN_NS_PER_S;

    if (rest < 0) {
        rest += (int64_t)TARN_NS_PER_S;
        s--;
    }
    return (struct timespec){.tv_sec = s, .tv_nsec = rest};
}

void fuse_stat(const struct tarn_attr *a, struct stat *ret)
{
    static const mode_t types[] = {
        [TARN_TYPE_FILE] = S_IFREG, [TARN_TYPE_DIR] = S_IFDIR, [TARN_TYPE_SYMLINK] = S_IFLNK};

    TARN_ASSERT(a->type < TARN_ARRAY_LEN(types));
    *ret = (struct stat){.st_ino = a->ino.v,
                         .st_mode = types[a->type] | (a->mode & 07777u),
                         .st_nlink = a->nlink,
                         .st_uid = a->uid,
                         .st_gid = a->gid,
                         .st_size = (off_t)a->size_bytes,
                         .st_blocks = (blkcnt_t)tarn_div_up(a->size_bytes, 512),
                         .st_blksize = STATFS_BLOCK,
                         .st_mtim = meta_timespec(a->mtime_ns),
                         .st_atim = meta_timespec(a->mtime_ns),
                         .st_ctim = meta_timespec(a->ctime_ns)};
}

/* Names are bounded once more where a lost connection cannot be told to the kernel. */
static double meta_entry_timeout(const struct tarn_fuse *f, uint64_t until_ns)
{
    return TARN_MIN(fuse_timeout(f, until_ns), (double)f->entry_cap_ns / (double)TARN_NS_PER_S);
}

void fuse_entry(struct tarn_fuse *f, const struct tarn_attr *a, uint64_t gen,
                struct fuse_entry_param *ret)
{
    struct tarn_attr now;
    bool outdated = true;

    *ret = (struct fuse_entry_param){.ino = fnode_ref(f->nodes, a, gen), .generation = 1};
    fuse_stat(a, &ret->attr);
    /* What the table says now: an invalidation may have come meanwhile. */
    if (!fnode_get(f->nodes, ret->ino, &now, &outdated) || outdated)
        now.trust_until_ns = 0;
    ret->attr_timeout = fuse_timeout(f, now.trust_until_ns);
    ret->entry_timeout = meta_entry_timeout(f, now.trust_until_ns);
}

/* ---- lookup ---------------------------------------------------------------------------------- */

static void lookup_reply(fuse_req_t req, const struct tarn_attr *attr, uint64_t gen)
{
    struct tarn_fuse *f = fuse_of(req);
    struct fuse_entry_param e;

    fuse_entry(f, attr, gen, &e);
    if (fuse_reply_entry(req, &e) < 0)
        fnode_forget(f->nodes, e.ino, 1);
}

static void lookup_reply_negative(fuse_req_t req, uint64_t until_ns)
{
    struct tarn_fuse *f = fuse_of(req);
    struct fuse_entry_param e = {.entry_timeout = meta_entry_timeout(f, until_ns)};

    if (e.entry_timeout > 0)
        (void)fuse_reply_entry(req, &e); /* a request that is gone needs no answer */
    else
        fop_reply_err(req, FOP_NAME, -TARN_E_NO_ENTRY);
}

static void lookup_done(struct fop *o, int rc)
{
    if (rc == 0)
        lookup_reply(o->req, &o->op.attr, fnodes_gen(o->f->nodes));
    else if (rc == -TARN_E_NO_ENTRY)
        lookup_reply_negative(o->req, o->op.until_ns);
    else
        fop_reply_err(o->req, o->cls, rc);
}

static void meta_lookup(fuse_req_t req, fuse_ino_t parent_id, const char *name)
{
    struct tarn_fuse *f = fuse_of(req);
    size_t len = strlen(name);
    uint64_t gen = fnodes_gen(f->nodes), until = 0;
    struct tarn_attr parent, attr;
    enum tarn_cached cached;
    bool outdated;
    struct fop *o;

    if (!fnode_get(f->nodes, parent_id, &parent, &outdated)) {
        fop_reply_err(req, FOP_NAME, -TARN_E_STALE);
        return;
    }
    if (len > TARN_NAME_MAX) {
        fop_reply_err(req, FOP_NAME, -TARN_E_NAME_TOO_LONG);
        return;
    }
    cached = tarn_client_cached(f->args.client, parent.ino, name, len, &attr, &until);
    if (cached == TARN_CACHED_HIT && !fnode_is_outdated(f->nodes, &attr)) {
        lookup_reply(req, &attr, gen);
        /* An invalidation may have overtaken the answer to a revalidation, which has no lock. */
        if (fnodes_gen(f->nodes) != gen)
            fnotify_push(f->notify, parent.ino, name, len, attr.ino, false);
        return;
    }
    if (cached == TARN_CACHED_NEGATIVE) {
        lookup_reply_negative(req, until);
        return;
    }
    o = fop_new(req, FOP_NAME, lookup_done);
    if (!o)
        return;
    memcpy(o->name, name, len);
    o->op = (struct tarn_client_op){.kind = TARN_CLIENT_LOOKUP,
                                    .ino = parent.ino,
                                    .name = o->name,
                                    .name_len = len,
                                    .fresh = true};
    fop_start_op(o);
}

/* ---- getattr --------------------------------------------------------------------------------- */

static void getattr_reply(fuse_req_t req, const struct tarn_attr *a, bool outdated)
{
    struct stat st;

    fuse_stat(a, &st);
    /* What an old version is does not change any more. A request that is gone needs no answer. */
    (void)fuse_reply_attr(req, &st,
                          outdated ? TIMEOUT_MAX_S : fuse_timeout(fuse_of(req), a->trust_until_ns));
}

static void getattr_done(struct fop *o, int rc)
{
    struct tarn_attr attr;
    bool outdated = false;

    if (rc == 0)
        (void)fnode_refresh(o->f->nodes, o->id, &o->op.attr); /* another version: outdated now */
    else if (rc == -TARN_E_STALE || rc == -TARN_E_NO_ENTRY)
        fnode_outdate(o->f->nodes, o->id);
    else {
        fop_reply_err(o->req, o->cls, rc);
        return;
    }
    if (!fnode_get(o->f->nodes, o->id, &attr, &outdated) ||
        (outdated && attr.type == TARN_TYPE_DIR))
        fop_reply_err(o->req, o->cls, -TARN_E_STALE);
    else
        getattr_reply(o->req, &attr, outdated);
}

static void meta_getattr(fuse_req_t req, fuse_ino_t id, struct fuse_file_info *fi)
{
    struct tarn_fuse *f = fuse_of(req);
    struct tarn_attr attr;
    bool outdated;
    struct fop *o;

    if (!fnode_get(f->nodes, id, &attr, &outdated)) {
        fop_reply_err(req, FOP_NAME, -TARN_E_STALE);
        return;
    }
    /* A node is one version: of an open file (the kernel asks before a read, too) nothing changes
     * until it is looked up again. */
    if (tarn_client_trusts(f->args.client, attr.trust_until_ns) || fi ||
        (outdated && attr.type != TARN_TYPE_DIR)) {
        getattr_reply(req, &attr, outdated);
        return;
    }
    o = fop_new(req, FOP_NAME, getattr_done);
    if (!o)
        return;
    o->id = id;
    o->op = (struct tarn_client_op){.kind = TARN_CLIENT_GETATTR, .ino = attr.ino};
    fop_start_op(o);
}

/* ---- the rest -------------------------------------------------------------------------------- */

static void readlink_done(struct fop *o, int rc)
{
    const Tarn__Wire__ReadlinkResponse *resp = (const Tarn__Wire__ReadlinkResponse *)o->op.resp;
    char target[PATH_MAX];

    if (rc == 0 && (!resp || resp->target.len == 0 || resp->target.len >= sizeof(target) ||
                    memchr(resp->target.data, 0, resp->target.len)))
        rc = -TARN_E_MSG_BAD;
    if (rc == 0) {
        memcpy(target, resp->target.data, resp->target.len);
        target[resp->target.len] = 0;
        (void)fuse_reply_readlink(o->req, target); /* a request that is gone needs no answer */
    } else {
        fop_reply_err(o->req, o->cls, rc);
    }
    if (o->op.resp)
        protobuf_c_message_free_unpacked(o->op.resp, NULL);
}

static void meta_readlink(fuse_req_t req, fuse_ino_t id)
{
    struct tarn_fuse *f = fuse_of(req);
    struct tarn_attr attr;
    bool outdated;
    struct fop *o;

    if (!fnode_get(f->nodes, id, &attr, &outdated) || outdated) {
        fop_reply_err(req, FOP_NAME, -TARN_E_STALE);
        return;
    }
    o = fop_new(req, FOP_NAME, readlink_done);
    if (!o)
        return;
    o->op = (struct tarn_client_op){.kind = TARN_CLIENT_READLINK, .ino = attr.ino};
    fop_start_op(o);
}

static void meta_statfs(fuse_req_t req, fuse_ino_t id)
{
    struct tarn_fuse *f = fuse_of(req);
    struct tarn_fuse_space space = {.capacity_bytes = f->args.capacity_bytes};
    struct statvfs st = {
        .f_bsize = STATFS_BLOCK, .f_frsize = STATFS_BLOCK, .f_namemax = TARN_NAME_MAX};
    uint64_t used;

    (void)id; /* one answer for the whole mount */
    if (f->args.statfs)
        f->args.statfs(f->args.ctx, &space);
    used = tarn_div_up(space.bytes, STATFS_BLOCK);
    st.f_blocks = TARN_MAX(space.capacity_bytes / STATFS_BLOCK, used);
    st.f_bfree = st.f_bavail = st.f_blocks - used;
    st.f_files = space.files;
    (void)fuse_reply_statfs(req, &st); /* a request that is gone needs no answer */
}

static void meta_forget(fuse_req_t req, fuse_ino_t id, uint64_t nlookup)
{
    fnode_forget(fuse_of(req)->nodes, id, nlookup);
    fuse_reply_none(req);
}

static void meta_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
    for (size_t i = 0; i < count; i++)
        fnode_forget(fuse_of(req)->nodes, forgets[i].ino, forgets[i].nlookup);
    fuse_reply_none(req);
}

/* ---- changes: none --------------------------------------------------------------------------- */

static void refuse(fuse_req_t req)
{
    fop_reply_err(req, FOP_NAME, -TARN_E_READ_ONLY);
}

static void refuse_setattr(fuse_req_t req, fuse_ino_t id, struct stat *attr, int to_set,
                           struct fuse_file_info *fi)
{
    (void)id, (void)attr, (void)to_set, (void)fi; /* whatever it is */
    refuse(req);
}

static void refuse_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
                         dev_t rdev)
{
    (void)parent, (void)name, (void)mode, (void)rdev; /* whatever it is */
    refuse(req);
}

static void refuse_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
    (void)parent, (void)name, (void)mode; /* whatever it is */
    refuse(req);
}

static void refuse_name(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    (void)parent, (void)name; /* whatever it is */
    refuse(req);
}

static void refuse_symlink(fuse_req_t req, const char *link, fuse_ino_t parent, const char *name)
{
    (void)link, (void)parent, (void)name; /* whatever it is */
    refuse(req);
}

static void refuse_rename(fuse_req_t req, fuse_ino_t parent, const char *name,
                          fuse_ino_t new_parent, const char *new_name, unsigned flags)
{
    (void)parent, (void)name, (void)new_parent, (void)new_name, (void)flags; /* whatever it is */
    refuse(req);
}

static void refuse_link(fuse_req_t req, fuse_ino_t id, fuse_ino_t new_parent, const char *new_name)
{
    (void)id, (void)new_parent, (void)new_name; /* whatever it is */
    refuse(req);
}

static void refuse_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
                          struct fuse_file_info *fi)
{
    (void)parent, (void)name, (void)mode, (void)fi; /* whatever it is */
    refuse(req);
}

static void refuse_write(fuse_req_t req, fuse_ino_t id, const char *buf, size_t size, off_t off,
                         struct fuse_file_info *fi)
{
    (void)id, (void)buf, (void)size, (void)off, (void)fi; /* whatever it is */
    refuse(req);
}

static void refuse_fallocate(fuse_req_t req, fuse_ino_t id, int mode, off_t off, off_t length,
                             struct fuse_file_info *fi)
{
    (void)id, (void)mode, (void)off, (void)length, (void)fi; /* whatever it is */
    refuse(req);
}

static void refuse_copy_file_range(fuse_req_t req, fuse_ino_t id_in, off_t off_in,
                                   struct fuse_file_info *fi_in, fuse_ino_t id_out, off_t off_out,
                                   struct fuse_file_info *fi_out, size_t len, int flags)
{
    (void)id_in, (void)off_in, (void)fi_in, (void)id_out; /* whatever it is */
    (void)off_out, (void)fi_out, (void)len, (void)flags;
    refuse(req);
}

void fuse_ops_meta(struct fuse_lowlevel_ops *ops)
{
    ops->lookup = meta_lookup;
    ops->getattr = meta_getattr;
    ops->readlink = meta_readlink;
    ops->statfs = meta_statfs;
    ops->forget = meta_forget;
    ops->forget_multi = meta_forget_multi;
    ops->setattr = refuse_setattr;
    ops->mknod = refuse_mknod;
    ops->mkdir = refuse_mkdir;
    ops->unlink = refuse_name;
    ops->rmdir = refuse_name;
    ops->symlink = refuse_symlink;
    ops->rename = refuse_rename;
    ops->link = refuse_link;
    ops->create = refuse_create;
    ops->write = refuse_write;
    ops->fallocate = refuse_fallocate;
    ops->copy_file_range = refuse_copy_file_range;
}
