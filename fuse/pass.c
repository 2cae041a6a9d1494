/* SPDX-License-Identifier: Apache-2.0 */
/*
 * FUSE passthrough: a large file that is whole in the cache of this machine is read by the kernel
 * straight from its cache file, at the speed of the disk and of its page cache.
 *
 * The kernel reads all open files of a node in one way (mixing them is EIO), so a node with open
 * large files has an entry here that says how; the first open decides: passthrough if the file can
 * be lent, else through us, until the last one is closed. The kernel ends its side of that before
 * it sends RELEASE, so what is counted here never ends too early.
 *
 * The kernel's numbers of backing files: FUSE_DEV_IOC_BACKING_OPEN and _CLOSE of
 * include/uapi/linux/fuse.h (Linux 6.9), which older headers lack. It wants CAP_SYS_ADMIN, and a
 * file system that is not stacked. Where it refuses for such a reason, nothing is tried again.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "fuse/fuse_priv.h"
#include "lib/base/assert.h"
#include "lib/base/hash.h"
#include "lib/base/htab.h"
#include "lib/base/log.h"

#define PASS_BYTES_MIN (4ull << 20) /* below, opening costs more than reading gains */

struct pass_map {
    int32_t fd;
    uint32_t flags;
    uint64_t padding;
};
_Static_assert(sizeof(struct pass_map) == 16, "struct fuse_backing_map");
#define PASS_IOC_OPEN  _IOW(229, 1, struct pass_map)
#define PASS_IOC_CLOSE _IOW(229, 2, uint32_t)

/* A node with open large files. Lock: fpass.mtx */
struct pass_node {
    struct tarn_hnode hnode; /* in fpass.nodes, by id */
    uint64_t id;             /* the kernel's */
    uint32_t opens;
    int32_t backing;            /* the kernel's number of the cache file; 0: reads come to us */
    struct tarn_handle *handle; /* of the loan */
    void *loan;
};

struct fpass {
    struct tarn_mtx mtx; /* TARN_RANK_FUSE_PASS */
    struct tarn_htab nodes;
    _Atomic bool usable; /* the kernel offers it and has not refused */
};

struct fpass *fpass_new(void)
{
    struct fpass *p = tarn_xnew(struct fpass);

    tarn_mtx_init(&p->mtx, TARN_RANK_FUSE_PASS);
    return p;
}

void fpass_free(struct fpass **pp)
{
    struct fpass *p = *pp;

    *pp = NULL;
    if (!p)
        return;
    TARN_ASSERT(p->nodes.count == 0);
    tarn_htab_fini(&p->nodes);
    tarn_mtx_fini(&p->mtx);
    free(p);
}

void fpass_offer(struct fpass *p, bool usable)
{
    atomic_store(&p->usable, usable);
}

static struct pass_node *pass_find(struct fpass *p, uint64_t id)
{
    uint64_t h = tarn_hash_u64(id);

    for (struct tarn_hnode *n = tarn_htab_first(&p->nodes, h); n; n = tarn_htab_next(n, h)) {
        struct pass_node *node = TARN_CONTAINER(n, struct pass_node, hnode);

        if (node->id == id)
            return node;
    }
    return NULL;
}

/* The kernel said no: for good, unless only this file or this moment is the cause. */
static void pass_refused(struct fpass *p, int e)
{
    if (e == ENOMEM || e == EMFILE || e == ENFILE || e == EINTR || e == EIO)
        return;
    if (atomic_exchange(&p->usable, false))
        tarn_info("fuse", "no passthrough, the kernel reads all files through this process: %s",
                  e == EPERM   ? "it needs CAP_SYS_ADMIN"
                  : e == ELOOP ? "the cache lies on a stacked file system"
                               : strerrordesc_np(e));
}

/* Has the kernel take the cache file, where it is there. */
static void pass_try(struct tarn_fuse *f, struct pass_node *node, const struct tarn_attr *attr)
{
    struct pass_map map = {0};
    int backing;

    if (!atomic_load(&f->pass->usable))
        return;
    node->handle = tarn_handle_open(f->args.client, attr);
    map.fd = tarn_handle_lend(node->handle, &node->loan);
    if (map.fd >= 0) {
        backing = ioctl(fuse_session_fd(f->se), PASS_IOC_OPEN, &map);
        (void)close(map.fd); /* the kernel has its own */
        if (backing > 0) {
            node->backing = backing;
            return;
        }
        pass_refused(f->pass, backing < 0 ? errno : EINVAL);
        tarn_handle_give_back(node->handle, node->loan);
    }
    tarn_handle_close(&node->handle);
}

void fpass_open(struct ffile *file, uint64_t id, struct fuse_file_info *fi)
{
    const struct tarn_attr *attr = tarn_handle_attr(file->handle);
    struct tarn_fuse *f = file->f;
    struct pass_node *node;

    fi->keep_cache = 1;
    if (attr->size_bytes >= PASS_BYTES_MIN) {
        TARN_GUARD(&f->pass->mtx);
        node = pass_find(f->pass, id);
        if (!node) {
            node = tarn_xnew(struct pass_node);
            node->id = id;
            tarn_htab_insert(&f->pass->nodes, &node->hnode, tarn_hash_u64(id));
            pass_try(f, node, attr);
        }
        node->opens++;
        file->pass_id = id;
        if (node->backing) {
            fi->keep_cache = 0; /* the kernel refuses both */
            fi->backing_id = node->backing;
        }
    }
    fstats_opened(f, fi->keep_cache == 0);
}

void fpass_release(struct ffile *file)
{
    struct tarn_fuse *f = file->f;
    struct pass_node *node;
    uint32_t backing;

    if (!file->pass_id)
        return;
    TARN_GUARD(&f->pass->mtx);
    node = pass_find(f->pass, file->pass_id);
    TARN_ASSERT(node && node->opens > 0);
    file->pass_id = 0;
    if (--node->opens > 0)
        return;
    tarn_htab_remove(&f->pass->nodes, &node->hnode);
    if (node->backing) {
        backing = (uint32_t)node->backing;
        if (f->se) /* else the connection and its backing files are gone */
            (void)ioctl(fuse_session_fd(f->se), PASS_IOC_CLOSE, &backing); /* or they go with it */
        tarn_handle_give_back(node->handle, node->loan);
        tarn_handle_close(&node->handle);
    }
    free(node);
}
