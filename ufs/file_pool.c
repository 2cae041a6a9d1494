/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Threads of a file:// store: one queue, first in, first out, bounded by the requests that the
 * store runs at a time. A thread is started when a job finds none idle.
 *
 * Closing does not wait for a thread that has a job, since it may be stuck in a system call for
 * good. Such a thread is detached, gives its job to `drop` should it ever come back, and the last
 * one frees the pool. The loop may be gone by then, so it is not touched after the pool was closed.
 */
#include "ufs/file_pool_priv.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "lib/base/assert.h"
#include "lib/base/list.h"
#include "lib/base/mem.h"
#include "lib/base/mtx.h"

/* Lock: the pool's mtx. */
struct file_thread {
    struct tarn_file_pool *pool; /* its pool */
    pthread_t thread;            /* the pool's owner's */
    bool busy;                   /* it has a job */
};

/* Lock: mtx. */
struct tarn_file_pool {
    struct tarn_mtx mtx;    /* for what follows */
    struct tarn_cond wake;  /* the queue is not empty, or closed */
    struct tarn_loop *loop; /* where `done` runs; not to be touched once closed */
    struct tarn_list queue; /* of job->task.node */
    unsigned n_queued;      /* jobs in it */
    unsigned idle;          /* threads that wait */
    bool closed;            /* no job any more */
    unsigned refs;          /* the owner, and after the close each thread that had a job */
    unsigned max, count;    /* threads: at most, started; the owner's */
    struct file_thread threads[TARN_FILE_THREADS_MAX]; /* count */
};

struct tarn_file_pool *tarn_file_pool_new(struct tarn_loop *loop, unsigned threads)
{
    struct tarn_file_pool *p = tarn_xnew(struct tarn_file_pool);

    TARN_ASSERT(threads >= 1 && threads <= TARN_FILE_THREADS_MAX);
    tarn_mtx_init(&p->mtx, TARN_RANK_DISK);
    tarn_cond_init(&p->wake);
    tarn_list_init(&p->queue);
    p->loop = loop;
    p->max = threads;
    p->refs = 1;
    return p;
}

static void pool_unref(struct tarn_file_pool *p)
{
    unsigned refs;

    tarn_mtx_lock(&p->mtx);
    TARN_ASSERT(p->closed && p->refs > 0);
    refs = --p->refs;
    tarn_mtx_unlock(&p->mtx);
    if (refs)
        return;
    tarn_cond_fini(&p->wake);
    tarn_mtx_fini(&p->mtx);
    free(p);
}

static void pool_done_cb(struct tarn_task *t)
{
    struct tarn_file_job *job = TARN_CONTAINER(t, struct tarn_file_job, task);

    job->done(job);
}

/* The oldest job, NULL when there will be none. */
static struct tarn_file_job *pool_take(struct file_thread *t)
{
    struct tarn_file_pool *p = t->pool;
    struct tarn_file_job *job;
    struct tarn_list *n = NULL;

    TARN_GUARD(&p->mtx);
    while (!p->closed && !(n = tarn_list_pop(&p->queue))) {
        p->idle++;
        tarn_cond_wait(&p->wake, &p->mtx);
        p->idle--;
    }
    if (!n)
        return NULL;
    job = TARN_LIST_ENTRY(n, struct tarn_file_job, task.node);
    TARN_ASSERT(job->state == TARN_FILE_JOB_QUEUED && p->n_queued > 0 && !t->busy);
    p->n_queued--;
    job->state = TARN_FILE_JOB_RUNNING;
    t->busy = true;
    return job;
}

/* Gives the job back; false when the pool was closed meanwhile. */
static bool pool_give(struct file_thread *t, struct tarn_file_job *job)
{
    struct tarn_file_pool *p = t->pool;
    bool closed;

    tarn_mtx_lock(&p->mtx);
    TARN_ASSERT(job->state == TARN_FILE_JOB_RUNNING && t->busy);
    closed = p->closed;
    if (!closed) {
        /* Under the lock: who closes the pool afterwards knows that `done` is on its way. */
        t->busy = false;
        job->state = TARN_FILE_JOB_IDLE;
        tarn_loop_post(p->loop, &job->task, pool_done_cb);
    }
    tarn_mtx_unlock(&p->mtx);
    if (closed)
        job->drop(job);
    return !closed;
}

static void *pool_thread(void *arg)
{
    struct file_thread *t = arg;
    struct tarn_file_pool *p = t->pool;
    struct tarn_file_job *job;

    while ((job = pool_take(t)) != NULL) {
        job->work(job);
        if (!pool_give(t, job)) {
            pool_unref(p);
            break;
        }
    }
    return NULL;
}

static int pool_grow_locked(struct tarn_file_pool *p)
{
    struct file_thread *t = &p->threads[p->count];
    char name[32]; /* at most "tarn-file-15" */
    int rc;

    t->pool = p;
    (void)snprintf(name, sizeof(name), "tarn-file-%u", p->count);
    rc = tarn_thread_start(&t->thread, name, pool_thread, t);
    if (rc == 0)
        p->count++;
    return rc;
}

void tarn_file_pool_submit(struct tarn_file_pool *p, struct tarn_file_job *job)
{
    TARN_GUARD(&p->mtx);
    TARN_ASSERT(!p->closed && job->state == TARN_FILE_JOB_IDLE);
    TARN_ASSERT(job->work && job->done && job->drop);
    job->rc = 0;
    /* With no thread at all the job would wait for ever; with some it waits its turn. */
    if (p->n_queued >= p->idle && p->count < p->max && pool_grow_locked(p) < 0 && p->count == 0) {
        job->rc = -EAGAIN;
        tarn_loop_post(p->loop, &job->task, pool_done_cb);
        return;
    }
    job->state = TARN_FILE_JOB_QUEUED;
    tarn_list_push(&p->queue, &job->task.node);
    p->n_queued++;
    tarn_cond_signal(&p->wake);
}

bool tarn_file_pool_recall(struct tarn_file_pool *p, struct tarn_file_job *job)
{
    TARN_GUARD(&p->mtx);
    if (job->state != TARN_FILE_JOB_QUEUED)
        return false;
    tarn_list_del(&job->task.node);
    p->n_queued--;
    job->state = TARN_FILE_JOB_IDLE;
    return true;
}

unsigned tarn_file_pool_close(struct tarn_file_pool **pp)
{
    struct tarn_file_pool *p = *pp;
    bool join[TARN_FILE_THREADS_MAX] = {false};
    unsigned left = 0;

    *pp = NULL;
    if (!p)
        return 0;
    tarn_mtx_lock(&p->mtx);
    TARN_ASSERT(!p->closed && tarn_list_empty(&p->queue));
    p->closed = true;
    for (unsigned i = 0; i < p->count; i++) {
        join[i] = !p->threads[i].busy;
        left += p->threads[i].busy;
        if (p->threads[i].busy)
            TARN_ASSERT(pthread_detach(p->threads[i].thread) == 0);
    }
    p->refs += left;
    tarn_cond_broadcast(&p->wake);
    tarn_mtx_unlock(&p->mtx);
    for (unsigned i = 0; i < p->count; i++)
        if (join[i])
            TARN_ASSERT(pthread_join(p->threads[i].thread, NULL) == 0);
    pool_unref(p);
    return left;
}
