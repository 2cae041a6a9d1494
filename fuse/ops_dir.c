/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Directories. A page of names is fetched on the loop and kept with the open directory; the
 * kernel's requests are cut out of it, on the FUSE thread. A listing that fails is EIO, never
 * short.
 *
 * The kernel may keep what it reads (FOPEN_CACHE_DIR), and an open goes on with what is kept
 * (FOPEN_KEEP_CACHE) while all its names are trusted. New names are not told to anyone, so that is
 * what bounds how long they can be missed.
 */
#include "fuse/fuse_priv.h"

#include <stdlib.h>
#include <sys/stat.h>

#include "lib/base/assert.h"
#include "lib/base/log.h"

#define CACHE_MIN_NS TARN_NS_PER_S /* a listing that is trusted for less is not worth keeping */

void fdir_put(struct fdir *dir)
{
    if (atomic_fetch_sub(&dir->refs, 1) > 1)
        return;
    tarn_mtx_lock(&dir->list->mtx);
    tarn_list_del(&dir->node);
    tarn_mtx_unlock(&dir->list->mtx);
    fpage_put(&dir->page);
    tarn_mtx_fini(&dir->mtx);
    dir->magic = 0;
    free(dir);
}

static struct fdir *fdir_new(struct tarn_fuse *f, tarn_ino_t ino, uint64_t id)
{
    struct fdir *dir = tarn_xnew(struct fdir);

    dir->magic = FDIR_MAGIC;
    dir->ino = ino;
    dir->id = id;
    atomic_init(&dir->refs, 1);
    tarn_mtx_init(&dir->mtx, TARN_RANK_LEAF);
    dir->list = fopen_list_mine(f);
    tarn_list_init(&dir->node);
    tarn_mtx_lock(&dir->list->mtx);
    tarn_list_push(&dir->list->dirs, &dir->node);
    tarn_mtx_unlock(&dir->list->mtx);
    return dir;
}

static struct fdir *fdir_of(const struct fuse_file_info *fi)
{
    struct fdir *dir;

    TARN_CAST(dir, (void *)(uintptr_t)fi->fh, FDIR_MAGIC); /* the kernel keeps what we gave it */
    return dir;
}

/* The page that has what follows `off`; NULL when it must be fetched. Referenced. */
static struct fpage *fdir_page(struct fdir *dir, uint64_t off)
{
    TARN_GUARD(&dir->mtx);

    if (off == 0 || !dir->page || !fpage_covers(dir->page, fpage_cookie(off)))
        return NULL; /* offset 0: rewinddir(3) wants to see what is new */
    return fpage_ref(dir->page);
}

static void fdir_set_page(struct fdir *dir, struct fpage *page)
{
    struct fpage *old;

    tarn_mtx_lock(&dir->mtx);
    old = dir->page;
    dir->page = fpage_ref(page);
    tarn_mtx_unlock(&dir->mtx);
    fpage_put(&old);
}

static void dir_opendir(fuse_req_t req, fuse_ino_t id, struct fuse_file_info *fi)
{
    struct tarn_fuse *f = fuse_of(req);
    uint64_t now = tarn_now_ns();
    struct tarn_attr attr;
    struct fdir *dir;
    bool outdated;

    if (!fnode_get(f->nodes, id, &attr, &outdated) || outdated) {
        fop_reply_err(req, FOP_NAME, -TARN_E_STALE);
        return;
    }
    if (attr.type != TARN_TYPE_DIR) {
        fop_reply_err(req, FOP_NAME, -TARN_E_NOT_DIR);
        return;
    }
    dir = fdir_new(f, attr.ino, id);
    dir->cached = !f->args.always_fresh &&
                  fuse_timeout(f, attr.trust_until_ns) >= (double)CACHE_MIN_NS / TARN_NS_PER_S;
    fi->fh = (uintptr_t)dir;
    fi->cache_readdir = dir->cached;
    fi->keep_cache = dir->cached && fnode_list_until(f->nodes, id) > now;
    if (fuse_reply_open(req, fi) < 0)
        fdir_put(dir); /* interrupted: the kernel will not release it */
}

static void dir_releasedir(fuse_req_t req, fuse_ino_t id, struct fuse_file_info *fi)
{
    (void)id;                     /* the handle knows */
    (void)fuse_reply_err(req, 0); /* nobody waits for it */
    fdir_put(fdir_of(fi));
}

/* ---- answers --------------------------------------------------------------------------------- */

/* An answer that is being filled. */
struct dir_answer {
    fuse_req_t req;
    struct fdir *dir;
    const struct fpage *page;
    bool plus;
    bool fresh; /* nothing was invalidated since the page came */
    char *buf;
    size_t size, used;
    uint64_t ids[TARN_READDIR_ENTRIES]; /* nodes that were counted */
    size_t id_count;
};

/* Adds "." or ".."; false when it does not fit. */
static bool answer_dot(struct dir_answer *a, const char *name, tarn_ino_t ino, uint64_t next)
{
    struct fuse_entry_param e = {.attr = {.st_ino = ino.v, .st_mode = S_IFDIR}};
    size_t left = a->size - a->used;
    size_t n = a->plus
                   ? fuse_add_direntry_plus(a->req, a->buf + a->used, left, name, &e, (off_t)next)
                   : fuse_add_direntry(a->req, a->buf + a->used, left, name, &e.attr, (off_t)next);

    if (n > left)
        return false;
    a->used += n;
    return true;
}

/*
 * readdirplus: with its attributes, counted as a lookup, while they may be believed; else the entry
 * has no node, and the kernel looks it up if it needs it.
 */
static bool answer_entry(struct dir_answer *a, const struct fpage_entry *x)
{
    struct tarn_fuse *f = fuse_of(a->req);
    const char *name = a->page->names + x->name_off;
    char *at = a->buf + a->used;
    size_t left = a->size - a->used;
    off_t next = (off_t)fpage_offset(x->cookie);
    struct fuse_entry_param e = {0};
    size_t n;

    fuse_stat(&x->attr, &e.attr);
    if (!a->plus) {
        n = fuse_add_direntry(a->req, at, left, name, &e.attr, next);
    } else {
        n = fuse_add_direntry_plus(a->req, NULL, 0, name, &e, next);
        if (n <= left && a->fresh && x->attr.trust_until_ns > tarn_now_ns() &&
            !fnode_is_outdated(f->nodes, &x->attr)) {
            fuse_entry(f, &x->attr, a->page->gen, &e);
            a->ids[a->id_count++] = e.ino;
        }
        if (n <= left)
            (void)fuse_add_direntry_plus(a->req, at, left, name, &e, next); /* it fits */
    }
    if (n > left)
        return false;
    a->used += n;
    return true;
}

/* Answers a request at `off`, which the page covers. */
static void answer(fuse_req_t req, struct fdir *dir, const struct fpage *page, uint64_t off,
                   size_t size, bool plus)
{
    struct tarn_fuse *f = fuse_of(req);
    struct fworker *self = fworker_self();
    struct dir_answer a = {.req = req, .dir = dir, .page = page, .plus = plus};
    TARN_AUTO_FREE char *own = NULL;

    a.size = TARN_MIN(size, (size_t)TARN_READ_MAX);
    if (!self)
        own = tarn_xcalloc(1, a.size);
    a.buf = self ? (char *)self->data : own;
    a.fresh = page->gen == fnodes_gen(f->nodes);
    if (off == 0 && answer_dot(&a, ".", dir->ino, 1))
        off = 1;
    if (off == 1 && answer_dot(&a, "..", page->parent, 2))
        off = 2;
    if (off >= 2)
        for (size_t i = fpage_after(page, fpage_cookie(off)); i < page->count; i++)
            if (!answer_entry(&a, &page->entries[i]))
                break;
    if (fuse_reply_buf(req, a.buf, a.used) < 0)
        for (size_t i = 0; i < a.id_count; i++)
            fnode_forget(f->nodes, a.ids[i], 1);
}

static void dir_fetched(struct fop *o, int rc)
{
    struct tarn_fuse *f = o->f;
    uint64_t gen = fnodes_gen(f->nodes), now = tarn_now_ns();
    struct fpage *page = NULL;

    if (rc == 0)
        rc = fpage_new((const Tarn__Wire__ReaddirResponse *)o->op.resp, fpage_cookie(o->off), now,
                       gen, &page);
    if (o->op.resp)
        protobuf_c_message_free_unpacked(o->op.resp, NULL);
    if (rc == 0) {
        fdir_set_page(o->dir, page);
        if (o->dir->cached)
            fnode_set_list_until(f->nodes, o->dir->id, page->until_ns, o->off < 3, gen);
        answer(o->req, o->dir, page, o->off, o->size, o->plus);
        fpage_put(&page);
    } else {
        if (rc != -TARN_E_CANCELLED)
            tarn_warn_limited("fuse", "readdir: ino=%llu: %s", (unsigned long long)o->dir->ino.v,
                              tarn_strerror(rc));
        fop_reply_err(o->req, o->cls, rc);
    }
    fdir_put(o->dir);
}

static void dir_read(fuse_req_t req, size_t size, off_t off, const struct fuse_file_info *fi,
                     bool plus)
{
    struct fdir *dir = fdir_of(fi);
    struct fpage *page;
    struct fop *o;

    if (off < 0) {
        fop_reply_err(req, FOP_DIR, -TARN_E_INVALID);
        return;
    }
    page = fdir_page(dir, (uint64_t)off);
    if (page) {
        answer(req, dir, page, (uint64_t)off, size, plus);
        fpage_put(&page);
        return;
    }
    o = fop_new(req, FOP_DIR, dir_fetched);
    if (!o)
        return;
    atomic_fetch_add(&dir->refs, 1);
    o->dir = dir;
    o->off = (uint64_t)off;
    o->size = size;
    o->plus = plus;
    o->op = (struct tarn_client_op){.kind = TARN_CLIENT_READDIR,
                                    .ino = dir->ino,
                                    .cookie = fpage_cookie((uint64_t)off),
                                    .max = TARN_READDIR_ENTRIES};
    fop_start_op(o);
}

static void dir_readdir(fuse_req_t req, fuse_ino_t id, size_t size, off_t off,
                        struct fuse_file_info *fi)
{
    (void)id; /* the handle knows */
    dir_read(req, size, off, fi, false);
}

static void dir_readdirplus(fuse_req_t req, fuse_ino_t id, size_t size, off_t off,
                            struct fuse_file_info *fi)
{
    (void)id; /* the handle knows */
    dir_read(req, size, off, fi, true);
}

void fuse_ops_dir(struct fuse_lowlevel_ops *ops)
{
    ops->opendir = dir_opendir;
    ops->releasedir = dir_releasedir;
    ops->readdir = dir_readdir;
    ops->readdirplus = dir_readdirplus;
}
