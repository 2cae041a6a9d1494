/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Open files. A node is one version, so its pages are kept between opens; once it turned out that
 * not all of it can be read as one object, the next open gets another node. Opening asks nobody
 * while the attributes are trusted; else the store or master is asked, and another version is
 * ESTALE, upon which the kernel looks the name up again and finds the new node.
 *
 * Large files that are whole in the cache are read by the kernel itself (pass.c). Else a read of
 * cached bytes is a pread on the FUSE thread. What was read ahead from workers is answered there
 * too, from the buffers it came in; everything else is read on the loop, and answered likewise.
 */
#include "fuse/fuse_priv.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/uio.h>

#include "lib/base/assert.h"
#include "lib/base/log.h"

static struct ffile *ffile_new(struct tarn_fuse *f, const struct tarn_attr *attr)
{
    struct ffile *file = tarn_xnew(struct ffile);

    file->magic = FFILE_MAGIC;
    file->f = f;
    file->list = fopen_list_mine(f);
    tarn_list_init(&file->node);
    atomic_init(&file->refs, 1);
    file->handle = tarn_handle_open(f->args.client, attr);
    atomic_fetch_add_explicit(&f->open_files, 1, memory_order_relaxed);
    tarn_mtx_lock(&file->list->mtx);
    tarn_list_push(&file->list->files, &file->node);
    tarn_mtx_unlock(&file->list->mtx);
    return file;
}

void ffile_put(struct ffile *file)
{
    if (atomic_fetch_sub(&file->refs, 1) > 1)
        return;
    tarn_mtx_lock(&file->list->mtx);
    tarn_list_del(&file->node);
    tarn_mtx_unlock(&file->list->mtx);
    atomic_fetch_sub_explicit(&file->f->open_files, 1, memory_order_relaxed);
    fpass_release(file);
    tarn_handle_close(&file->handle);
    file->magic = 0;
    free(file);
}

struct fopen_list *fopen_list_mine(struct tarn_fuse *f)
{
    const struct fworker *self = fworker_self();

    return &f->opens[self ? self->index % FUSE_OPEN_LISTS : 0];
}

void fopen_close_all(struct tarn_fuse *f)
{
    for (unsigned i = 0; i < FUSE_OPEN_LISTS; i++) {
        struct fopen_list *l = &f->opens[i];

        while (!tarn_list_empty(&l->files))
            ffile_put(TARN_LIST_ENTRY(l->files.next, struct ffile, node));
        while (!tarn_list_empty(&l->dirs))
            fdir_put(TARN_LIST_ENTRY(l->dirs.next, struct fdir, node));
    }
}

static struct ffile *ffile_of(const struct fuse_file_info *fi)
{
    struct ffile *file;

    TARN_CAST(file, (void *)(uintptr_t)fi->fh, FFILE_MAGIC); /* the kernel keeps what we gave it */
    return file;
}

/*
 * The kernel keeps pages of a node while nobody has it open: what is read later is of the same
 * object. False: of this node nobody can read all.
 */
static bool ffile_share(struct ffile *file, uint64_t id)
{
    struct tarn_object *o =
        tarn_handle_remote(file->handle) ? fnode_object(file->f->nodes, id) : NULL;
    bool mixed = o && tarn_object_mixed(o);

    if (o && !mixed)
        tarn_handle_share(file->handle, o);
    tarn_object_unref(&o);
    return !mixed;
}

void ffile_open(struct tarn_fuse *f, fuse_req_t req, uint64_t id, const struct tarn_attr *attr,
                struct fuse_file_info *fi)
{
    struct ffile *file = ffile_new(f, attr);

    fi->fh = (uintptr_t)file;
    fi->noflush = 1;
    if (!ffile_share(file, id) || !fpass_open(file, id, fi)) {
        fnode_retire(f->nodes, id);
        ffile_put(file);
        fop_reply_err(req, FOP_NAME, -TARN_E_STALE);
        return;
    }
    if (fuse_reply_open(req, fi) < 0)
        ffile_put(file); /* interrupted: the kernel will not release it */
}

static void open_checked(struct fop *o, int rc)
{
    struct tarn_attr attr;
    bool outdated = false;

    if (rc == 0 && !fnode_refresh(o->f->nodes, o->id, &o->op.attr))
        rc = -TARN_E_STALE;
    if (rc == -TARN_E_NO_ENTRY)
        rc = -TARN_E_STALE; /* looked up again, it is ENOENT */
    if (rc == -TARN_E_STALE)
        fnode_outdate(o->f->nodes, o->id);
    if (rc == 0 && (!fnode_get(o->f->nodes, o->id, &attr, &outdated) || outdated))
        rc = -TARN_E_STALE;
    if (rc < 0)
        fop_reply_err(o->req, o->cls, rc);
    else
        fpass_open_later(o->f, o->req, o->id, &attr, &o->fi);
}

static void file_open(fuse_req_t req, fuse_ino_t id, struct fuse_file_info *fi)
{
    struct tarn_fuse *f = fuse_of(req);
    struct tarn_attr attr;
    bool outdated;
    struct fop *o;

    if ((fi->flags & O_ACCMODE) != O_RDONLY || (fi->flags & O_TRUNC)) {
        fop_reply_err(req, FOP_NAME, -TARN_E_READ_ONLY);
        return;
    }
    if (!fnode_get(f->nodes, id, &attr, &outdated) || outdated || attr.type != TARN_TYPE_FILE) {
        fop_reply_err(req, FOP_NAME, -TARN_E_STALE);
        return;
    }
    if (!f->args.always_fresh && tarn_client_trusts(f->args.client, attr.trust_until_ns)) {
        ffile_open(f, req, id, &attr, fi);
        return;
    }
    o = fop_new(req, FOP_NAME, open_checked);
    if (!o)
        return;
    o->id = id;
    o->fi = *fi;
    o->op = (struct tarn_client_op){.kind = TARN_CLIENT_GETATTR, .ino = attr.ino, .fresh = true};
    fop_start_op(o);
}

static void file_release(fuse_req_t req, fuse_ino_t id, struct fuse_file_info *fi)
{
    (void)id;                     /* the handle knows */
    (void)fuse_reply_err(req, 0); /* nobody waits for it */
    fpass_release(ffile_of(fi));
    ffile_put(ffile_of(fi));
}

/* ---- reads ----------------------------------------------------------------------------------- */

static void read_reply(fuse_req_t req, const struct tarn_slice *slices, unsigned n)
{
    struct iovec iov[TARN_SLICES_MAX];

    TARN_ASSERT(n <= TARN_SLICES_MAX);
    for (unsigned i = 0; i < n; i++)
        iov[i] =
            (struct iovec){.iov_base = slices[i].buf->p + slices[i].off, .iov_len = slices[i].len};
    (void)fuse_reply_iov(req, iov, (int)n); /* a request that is gone needs none */
}

/* What can be had at once. False: nothing was answered. */
static bool read_now(fuse_req_t req, struct tarn_handle *h, uint64_t off, uint32_t len)
{
    struct tarn_slice slices[TARN_SLICES_MAX];
    void *data = fworker_self()->data;
    unsigned n;

    if (tarn_handle_try_read(h, off, len, data) == (int64_t)len) {
        (void)fuse_reply_buf(req, data, len); /* a request that is gone needs no answer */
        return true;
    }
    n = tarn_handle_try_slices(h, off, len, slices);
    if (n > 0)
        read_reply(req, slices, n);
    for (unsigned i = 0; i < n; i++)
        tarn_buf_unref(&slices[i].buf);
    return n > 0;
}

static void read_done(struct fop *o, int rc)
{
    const struct tarn_attr *attr = tarn_handle_attr(o->file->handle);

    /* A short answer would look like the end of the file, or like zeros. */
    if (rc == 0 &&
        o->read.got_bytes != TARN_MIN((uint64_t)o->size, attr->size_bytes - (uint64_t)o->off))
        rc = -TARN_E_EOF;
    if (rc < 0 && rc != -TARN_E_CANCELLED)
        tarn_warn_limited("fuse", "read: ino=%llu version=%llu offset=%llu length=%zu: %s",
                          (unsigned long long)attr->ino.v, (unsigned long long)attr->version,
                          (unsigned long long)o->off, o->size, tarn_strerror(rc));
    if (rc < 0)
        fop_reply_err(o->req, o->cls, rc);
    else
        read_reply(o->req, o->read.slices, o->read.slice_count);
    ffile_put(o->file);
}

static void file_read(fuse_req_t req, fuse_ino_t id, size_t size, off_t off,
                      struct fuse_file_info *fi)
{
    struct ffile *file = ffile_of(fi);
    const struct tarn_attr *attr = tarn_handle_attr(file->handle);
    uint64_t want;
    struct fop *o;

    (void)id; /* the handle knows */
    if (off < 0 || size > TARN_READ_MAX) {
        fop_reply_err(req, FOP_READ, -TARN_E_TOO_BIG);
        return;
    }
    if (size == 0 || (uint64_t)off >= attr->size_bytes) {
        (void)fuse_reply_buf(req, NULL, 0); /* a request that is gone needs no answer */
        return;
    }
    want = TARN_MIN((uint64_t)size, attr->size_bytes - (uint64_t)off);
    if (read_now(req, file->handle, (uint64_t)off, (uint32_t)want))
        return;
    o = fop_new(req, FOP_READ, read_done);
    if (!o)
        return;
    atomic_fetch_add(&file->refs, 1);
    o->file = file;
    o->off = (uint64_t)off;
    o->size = size;
    o->read = (struct tarn_read){
        .handle = file->handle, .off_bytes = (uint64_t)off, .len_bytes = (uint32_t)want};
    fop_start_read(o);
}

void fuse_ops_file(struct fuse_lowlevel_ops *ops)
{
    ops->open = file_open;
    ops->release = file_release;
    ops->read = file_read;
}
