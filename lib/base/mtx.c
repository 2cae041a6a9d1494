/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/base/mtx.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"
#include "lib/base/mem.h"

#define HELD_MAX 8

/* The ranks that this thread holds, innermost last. Thread-local, so not shared state. */
static _Thread_local int held_ranks[HELD_MAX];
static _Thread_local int held_count;
static _Thread_local uint64_t self_id;

static uint64_t mtx_self(void)
{
    if (!self_id)
        self_id = (uint64_t)syscall(SYS_gettid);
    return self_id;
}

static void mtx_note_locked(struct tarn_mtx *m)
{
    TARN_ASSERT(held_count < HELD_MAX);
    held_ranks[held_count++] = (int)m->rank;
    atomic_store_explicit(&m->owner, mtx_self(), memory_order_relaxed);
}

static void mtx_note_unlocked(struct tarn_mtx *m)
{
    int i = held_count - 1;

    tarn_mtx_assert_held(m);
    atomic_store_explicit(&m->owner, 0, memory_order_relaxed);
    while (i >= 0 && held_ranks[i] != (int)m->rank)
        i--;
    TARN_ASSERT(i >= 0);
    for (; i + 1 < held_count; i++)
        held_ranks[i] = held_ranks[i + 1];
    held_count--;
}

void tarn_mtx_init(struct tarn_mtx *m, enum tarn_rank rank)
{
    TARN_ASSERT(pthread_mutex_init(&m->m, NULL) == 0);
    m->rank = rank;
    atomic_init(&m->owner, 0);
}

void tarn_mtx_fini(struct tarn_mtx *m)
{
    TARN_ASSERT(atomic_load(&m->owner) == 0);
    TARN_ASSERT(pthread_mutex_destroy(&m->m) == 0);
}

void tarn_mtx_lock(struct tarn_mtx *m)
{
    TARN_ASSERT(held_count == 0 || held_ranks[held_count - 1] < (int)m->rank);
    TARN_ASSERT(pthread_mutex_lock(&m->m) == 0);
    mtx_note_locked(m);
}

void tarn_mtx_unlock(struct tarn_mtx *m)
{
    mtx_note_unlocked(m);
    TARN_ASSERT(pthread_mutex_unlock(&m->m) == 0);
}

void tarn_mtx_assert_held(const struct tarn_mtx *m)
{
    TARN_ASSERT(atomic_load_explicit(&m->owner, memory_order_relaxed) == mtx_self());
}

void tarn_cond_init(struct tarn_cond *c)
{
    pthread_condattr_t a;

    TARN_ASSERT(pthread_condattr_init(&a) == 0);
    TARN_ASSERT(pthread_condattr_setclock(&a, CLOCK_MONOTONIC) == 0);
    TARN_ASSERT(pthread_cond_init(&c->c, &a) == 0);
    TARN_ASSERT(pthread_condattr_destroy(&a) == 0);
}

void tarn_cond_fini(struct tarn_cond *c)
{
    TARN_ASSERT(pthread_cond_destroy(&c->c) == 0);
}

/* A wait takes the lock again: that keeps the order only if none was taken after it. */
static void mtx_assert_innermost(const struct tarn_mtx *m)
{
    TARN_ASSERT(held_count > 0 && held_ranks[held_count - 1] == (int)m->rank);
}

void tarn_cond_wait(struct tarn_cond *c, struct tarn_mtx *m)
{
    mtx_assert_innermost(m);
    mtx_note_unlocked(m);
    TARN_ASSERT(pthread_cond_wait(&c->c, &m->m) == 0);
    mtx_note_locked(m);
}

bool tarn_cond_wait_ns(struct tarn_cond *c, struct tarn_mtx *m, uint64_t ns)
{
    uint64_t end = tarn_now_ns() + TARN_MIN(ns, (uint64_t)INT64_MAX); /* "for ever" is fine */
    struct timespec ts = {.tv_sec = (time_t)(end / TARN_NS_PER_S),
                          .tv_nsec = (long)(end % TARN_NS_PER_S)};
    int rc;

    mtx_assert_innermost(m);
    mtx_note_unlocked(m);
    rc = pthread_cond_timedwait(&c->c, &m->m, &ts);
    mtx_note_locked(m);
    TARN_ASSERT(rc == 0 || rc == ETIMEDOUT);
    return rc == 0;
}

void tarn_cond_signal(struct tarn_cond *c)
{
    TARN_ASSERT(pthread_cond_signal(&c->c) == 0);
}

void tarn_cond_broadcast(struct tarn_cond *c)
{
    TARN_ASSERT(pthread_cond_broadcast(&c->c) == 0);
}

void tarn_cleanup_unlock(struct tarn_mtx *const *m)
{
    tarn_mtx_unlock(*m);
}

int tarn_thread_start(pthread_t *ret_thread, const char *name, void *(*fn)(void *), void *arg)
{
    sigset_t all, old;
    int rc;

    (void)sigfillset(&all); /* cannot fail */
    TARN_ASSERT(pthread_sigmask(SIG_SETMASK, &all, &old) == 0);
    rc = pthread_create(ret_thread, NULL, fn, arg);
    TARN_ASSERT(pthread_sigmask(SIG_SETMASK, &old, NULL) == 0);
    if (rc)
        return -rc;
    (void)pthread_setname_np(*ret_thread, name); /* a name too long only costs the name */
    return 0;
}
