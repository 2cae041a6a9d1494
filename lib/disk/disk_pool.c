/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Block I/O on a pool of threads: one queue, first in, first out, without a bound of its own — each
 * request is the memory of somebody who has one. A thread holds the lock only to take a request.
 *
 * Freeing lets the threads empty the queue first: every request that was accepted is answered.
 */
#include <stdio.h>
#include <stdlib.h>

#include "lib/base/assert.h"
#include "lib/base/mem.h"
#include "lib/base/mtx.h"
#include "lib/disk/disk_priv.h"

#define POOL_THREADS_MAX 64u

/* Lock: mtx. */
struct disk_pool {
    struct tarn_disk base;               /* first */
    struct tarn_mtx mtx;                 /* for what follows */
    struct tarn_cond wake;               /* the queue is not empty, or stop */
    struct tarn_list queue;              /* of io->task.node */
    unsigned idle;                       /* threads that wait */
    bool stop;                           /* end when the queue is empty */
    unsigned count;                      /* threads started; the owner's */
    pthread_t threads[POOL_THREADS_MAX]; /* the owner's */
};

static struct disk_pool *pool_of(struct tarn_disk *d)
{
    return TARN_CONTAINER(d, struct disk_pool, base);
}

/* The oldest request, NULL when there will be none. */
static struct tarn_disk_io *pool_take(struct disk_pool *p)
{
    struct tarn_list *n;

    TARN_GUARD(&p->mtx);
    while (!(n = tarn_list_pop(&p->queue)) && !p->stop) {
        p->idle++;
        tarn_cond_wait(&p->wake, &p->mtx);
        p->idle--;
    }
    return n ? TARN_LIST_ENTRY(n, struct tarn_disk_io, task.node) : NULL;
}

static void *pool_thread(void *arg)
{
    struct disk_pool *p = arg;
    struct tarn_disk_io *io;

    while ((io = pool_take(p))) {
        tarn_disk_do(io);
        tarn_disk_complete(io);
    }
    return NULL;
}

static void pool_submit(struct tarn_disk *d, struct tarn_disk_io *io)
{
    struct disk_pool *p = pool_of(d);

    TARN_GUARD(&p->mtx);
    TARN_ASSERT(!p->stop);
    tarn_list_push(&p->queue, &io->task.node);
    if (p->idle > 0)
        tarn_cond_signal(&p->wake);
}

static void pool_free(struct tarn_disk *d)
{
    struct disk_pool *p = pool_of(d);

    tarn_mtx_lock(&p->mtx);
    p->stop = true;
    tarn_cond_broadcast(&p->wake);
    tarn_mtx_unlock(&p->mtx);
    for (unsigned i = 0; i < p->count; i++)
        TARN_ASSERT(pthread_join(p->threads[i], NULL) == 0);
    TARN_ASSERT(tarn_list_empty(&p->queue));
    tarn_cond_fini(&p->wake);
    tarn_mtx_fini(&p->mtx);
    d->magic = 0;
    free(p);
}

static const struct tarn_disk_ops pool_ops = {.submit = pool_submit, .free = pool_free};

int tarn_disk_pool_new(unsigned threads, struct tarn_disk **ret_disk)
{
    struct disk_pool *p = tarn_xnew(struct disk_pool);

    TARN_ASSERT(threads >= 1 && threads <= POOL_THREADS_MAX);
    p->base.magic = TARN_DISK_MAGIC;
    p->base.ops = &pool_ops;
    tarn_mtx_init(&p->mtx, TARN_RANK_DISK);
    tarn_cond_init(&p->wake);
    tarn_list_init(&p->queue);
    while (p->count < threads) {
        char name[32]; /* at most "tarn-disk-63" */
        int rc;

        (void)snprintf(name, sizeof(name), "tarn-disk-%u", p->count);
        rc = tarn_thread_start(&p->threads[p->count], name, pool_thread, p);
        if (rc < 0) {
            pool_free(&p->base);
            return rc;
        }
        p->count++;
    }
    *ret_disk = &p->base;
    return 0;
}
