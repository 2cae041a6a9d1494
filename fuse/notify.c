/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tells the kernel what to forget. One thread, since such a call waits for the directory's lock,
 * which a lookup under way there holds: it must not be a thread that answers lookups, nor hold a
 * lock that they take.
 *
 * The queue is bounded; when it is full, or when a connection lost what it should have told, the
 * kernel is told to ask for every name again (FUSE_NOTIFY_INC_EPOCH). Kernels that do not know that
 * forget all attributes, and trust names for ENTRY_CAP_NS at most (session.c).
 */
#include "fuse/fuse_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "lib/base/assert.h"
#include "lib/base/log.h"

#define WALK_IDS 1024u

struct fnote {
    struct tarn_list node;
    tarn_ino_t parent, ino;
    bool gone; /* the name went */
    uint8_t len;
    char name[];
};

struct fnotify {
    struct tarn_fuse *f;
    pthread_t thread;
    struct tarn_mtx mtx;
    struct tarn_cond cond;
    /* Lock: mtx. */
    struct tarn_list queue;
    size_t count;
    bool everything;
    bool stop;
};

/* The kernel's protocol: a notification that libfuse 3.17 has no call for (7.44). */
struct notify_epoch {
    uint32_t len;
    int32_t code;
    uint64_t unique; /* 0: not an answer */
};
_Static_assert(sizeof(struct notify_epoch) == 16, "as struct fuse_out_header");

#define NOTIFY_INC_EPOCH 8

static bool notify_epoch(const struct tarn_fuse *f)
{
    struct notify_epoch msg = {.len = sizeof(msg), .code = NOTIFY_INC_EPOCH};

    if (f->proto_minor < FUSE_EPOCH_MINOR)
        return false;
    if (write(fuse_session_fd(f->se), &msg, sizeof(msg)) == (ssize_t)sizeof(msg))
        return true;
    tarn_debug("fuse", "epoch: %s", strerrordesc_np(errno));
    return false;
}

static void notify_forget_attrs(const struct tarn_fuse *f)
{
    uint64_t ids[WALK_IDS], pos = 0;
    size_t n;

    while ((n = fnodes_walk(f->nodes, &pos, ids, WALK_IDS)) > 0)
        for (size_t i = 0; i < n; i++)
            (void)fuse_lowlevel_notify_inval_inode(f->se, ids[i], -1, 0); /* it may be gone */
}

/*
 * A name that goes on leads to another version: it is only looked up again, which keeps working
 * directories below it. Results are not looked at: what the kernel does not hold, it does not
 * trust.
 */
static void notify_note(const struct tarn_fuse *f, const struct fnote *note)
{
    uint64_t ids[FNODE_IDS_MAX];
    unsigned n = fnodes_ids_of(f->nodes, note->ino, ids);

    for (unsigned i = 0; i < n; i++)
        (void)fuse_lowlevel_notify_inval_inode(f->se, ids[i], -1, 0);
    n = note->len ? fnodes_ids_of(f->nodes, note->parent, ids) : 0;
    for (unsigned i = 0; i < n; i++) {
        if (!note->gone &&
            fuse_lowlevel_notify_expire_entry(f->se, ids[i], note->name, note->len) != -ENOSYS)
            continue;
        (void)fuse_lowlevel_notify_inval_entry(f->se, ids[i], note->name, note->len);
    }
}

static void notify_drop(struct tarn_list *queue)
{
    for (struct tarn_list *n = tarn_list_pop(queue); n; n = tarn_list_pop(queue))
        free(TARN_LIST_ENTRY(n, struct fnote, node));
}

static void *notify_run(void *arg)
{
    struct fnotify *n = arg;
    struct tarn_list batch;

    tarn_list_init(&batch);
    tarn_mtx_lock(&n->mtx);
    while (!n->stop) {
        struct tarn_list *first;
        bool everything = n->everything;

        if (!everything && n->count == 0) {
            tarn_cond_wait(&n->cond, &n->mtx);
            continue;
        }
        n->everything = false;
        first = everything ? NULL : tarn_list_pop(&n->queue);
        if (everything) {
            tarn_list_splice(&batch, &n->queue);
            n->count = 0;
        } else {
            n->count--;
        }
        tarn_mtx_unlock(&n->mtx);
        if (everything && !notify_epoch(n->f))
            notify_forget_attrs(n->f);
        if (first)
            notify_note(n->f, TARN_LIST_ENTRY(first, struct fnote, node));
        free(first ? TARN_LIST_ENTRY(first, struct fnote, node) : NULL);
        notify_drop(&batch);
        tarn_mtx_lock(&n->mtx);
    }
    tarn_mtx_unlock(&n->mtx);
    return NULL;
}

int fnotify_new(struct tarn_fuse *f, struct fnotify **ret)
{
    struct fnotify *n = tarn_xnew(struct fnotify);
    int rc;

    n->f = f;
    tarn_mtx_init(&n->mtx, TARN_RANK_LEAF);
    tarn_cond_init(&n->cond);
    tarn_list_init(&n->queue);
    rc = tarn_thread_start(&n->thread, "notify", notify_run, n);
    if (rc < 0) {
        tarn_cond_fini(&n->cond);
        tarn_mtx_fini(&n->mtx);
        free(n);
        return rc;
    }
    *ret = n;
    return 0;
}

void fnotify_stop(struct fnotify *n)
{
    bool before;

    tarn_mtx_lock(&n->mtx);
    before = n->stop;
    n->stop = true;
    tarn_cond_signal(&n->cond);
    tarn_mtx_unlock(&n->mtx);
    if (!before)
        TARN_ASSERT(pthread_join(n->thread, NULL) == 0);
}

void fnotify_free(struct fnotify **pn)
{
    struct fnotify *n = *pn;

    *pn = NULL;
    if (!n)
        return;
    fnotify_stop(n);
    notify_drop(&n->queue);
    tarn_cond_fini(&n->cond);
    tarn_mtx_fini(&n->mtx);
    free(n);
}

void fnotify_everything(struct fnotify *n)
{
    TARN_GUARD(&n->mtx);

    n->everything = true;
    tarn_cond_signal(&n->cond);
}

void fnotify_push(struct fnotify *n, tarn_ino_t parent, const char *name, size_t len,
                  tarn_ino_t ino, bool gone)
{
    struct fnote *note;
    bool full;

    TARN_ASSERT(len <= TARN_NAME_MAX);
    note = tarn_xcalloc(1, sizeof(*note) + len + 1);
    note->parent = parent;
    note->ino = ino;
    note->gone = gone;
    note->len = (uint8_t)len;
    if (len) /* the root of the name space has no name */
        memcpy(note->name, name, len);
    tarn_list_init(&note->node);
    tarn_mtx_lock(&n->mtx);
    full = n->stop || n->count >= TARN_FUSE_NOTES_MAX;
    if (!full) {
        tarn_list_push(&n->queue, &note->node);
        n->count++;
        tarn_cond_signal(&n->cond);
    }
    tarn_mtx_unlock(&n->mtx);
    if (!full)
        return;
    free(note);
    fnodes_distrust_all(n->f->nodes);
    fnotify_everything(n);
}
