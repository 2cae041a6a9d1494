/* SPDX-License-Identifier: Apache-2.0 */
/*
 * FUSE passthrough: a large file that is whole in the cache of this machine is read by the kernel
 * straight from its cache file, at the speed of the disk and of its page cache.
 *
 * The kernel reads all open files of a node in one way (mixing them is EIO), so a node with open
 * large files has an entry here that says how; the first open decides: passthrough if the file can
 * be lent, else through us, until the last one is closed. The kernel ends its side of that before
 * it sends RELEASE, so what is counted here never ends too early. When what was lent turns out to
 * have a bad byte, who has it open keeps it, and the node is opened no more: the next one gets
 * another node, with the mended file.
 *
 * Lending a file opens it, which a disk may make last. So an open that was decided on the loop goes
 * to a thread of its own ("fuse-open"); the loop never takes the lock.
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

/* An open that comes from the loop. */
struct pass_open {
    struct tarn_list node; /* in fpass.queue */
    fuse_req_t req;
    uint64_t id;
    struct tarn_attr attr;
    struct fuse_file_info fi;
};

struct fpass {
    struct tarn_fuse *f;
    struct tarn_mtx mtx; /* TARN_RANK_FUSE_PASS */
    struct tarn_htab nodes;
    _Atomic bool usable; /* the kernel offers it and has not refused */

    pthread_t thread;
    bool started;              /* thread is to be joined */
    struct tarn_mtx queue_mtx; /* LEAF; of the next three */
    struct tarn_cond queued;
    struct tarn_list queue; /* struct pass_open */
    bool ending;            /* what is queued is still answered */
};

static struct pass_open *pass_next(struct fpass *p)
{
    TARN_GUARD(&p->queue_mtx);

    while (tarn_list_empty(&p->queue) && !p->ending)
        tarn_cond_wait(&p->queued, &p->queue_mtx);
    return tarn_list_empty(&p->queue)
               ? NULL
               : TARN_LIST_ENTRY(tarn_list_pop(&p->queue), struct pass_open, node);
}

static void *pass_run(void *arg)
{
    struct fpass *p = arg;
    struct pass_open *o;

    while ((o = pass_next(p)) != NULL) {
        ffile_open(p->f, o->req, o->id, &o->attr, &o->fi);
        free(o);
    }
    return NULL;
}

int fpass_new(struct tarn_fuse *f, struct fpass **ret)
{
    struct fpass *p = tarn_xnew(struct fpass);
    int rc;

    p->f = f;
    tarn_mtx_init(&p->mtx, TARN_RANK_FUSE_PASS);
    tarn_mtx_init(&p->queue_mtx, TARN_RANK_LEAF);
    tarn_cond_init(&p->queued);
    tarn_list_init(&p->queue);
    *ret = p;
    rc = tarn_thread_start(&p->thread, "fuse-open", pass_run, p);
    p->started = rc == 0;
    return rc;
}

void fpass_stop(struct fpass *p)
{
    tarn_mtx_lock(&p->queue_mtx);
    p->ending = true;
    tarn_cond_signal(&p->queued);
    tarn_mtx_unlock(&p->queue_mtx);
    if (p->started)
        TARN_ASSERT(pthread_join(p->thread, NULL) == 0);
    p->started = false;
}

void fpass_free(struct fpass **pp)
{
    struct fpass *p = *pp;

    *pp = NULL;
    if (!p)
        return;
    TARN_ASSERT(p->nodes.count == 0 && tarn_list_empty(&p->queue) && !p->started);
    tarn_htab_fini(&p->nodes);
    tarn_cond_fini(&p->queued);
    tarn_mtx_fini(&p->queue_mtx);
    tarn_mtx_fini(&p->mtx);
    free(p);
}

void fpass_open_later(struct tarn_fuse *f, fuse_req_t req, uint64_t id,
                      const struct tarn_attr *attr, const struct fuse_file_info *fi)
{
    struct fpass *p = f->pass;
    struct pass_open *o;

    if (attr->size_bytes < PASS_BYTES_MIN) {
        struct fuse_file_info copy = *fi;

        ffile_open(f, req, id, attr, &copy);
        return;
    }
    o = tarn_xnew(struct pass_open);
    *o = (struct pass_open){.req = req, .id = id, .attr = *attr, .fi = *fi};
    tarn_list_init(&o->node);
    TARN_GUARD(&p->queue_mtx);
    TARN_ASSERT(!p->ending); /* nothing is under way any more then */
    tarn_list_push(&p->queue, &o->node);
    tarn_cond_signal(&p->queued);
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
        tarn_info("fuse",
                  "mountpoint %s: no passthrough, the kernel reads all files through us: %s",
                  p->f->args.mountpoint,
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

bool fpass_open(struct ffile *file, uint64_t id, struct fuse_file_info *fi)
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
        } else if (node->backing && tarn_handle_loan_bad(node->handle, node->loan)) {
            return false;
        }
        node->opens++;
        file->pass_id = id;
        if (node->backing) {
            fi->keep_cache = 0; /* the kernel refuses both */
            fi->backing_id = node->backing;
            tarn_handle_lent(file->handle);
        }
    }
    fstats_opened(f, fi->keep_cache == 0);
    return true;
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
