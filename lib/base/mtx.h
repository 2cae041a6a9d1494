/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lib/base/mtx.h — mutexes with a class and a rank. A thread takes them in ascending rank; the
 * wrapper asserts that and the holder. Ranks are one table here and in ARCHITECTURE.md.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

enum tarn_rank {
    TARN_RANK_SCRAPE = 5,     /* lib/stat: a scrape, held over callbacks, which may take any lock */
    TARN_RANK_FUSE_NODE = 10, /* fuse: a shard of the node table */
    TARN_RANK_FUSE_PASS = 15, /* fuse: how large files are open; held over tarn_handle_lend() */
    TARN_RANK_CLIENT_META = 20,   /* lib/client: a shard of the attribute and name caches */
    TARN_RANK_CLIENT_WINDOW = 25, /* lib/client: what one handle has read ahead */
    TARN_RANK_TIER = 40,          /* store/tier: a shard of the files */
    TARN_RANK_TIER_FD = 45,       /* store/tier: cache of open files */
    TARN_RANK_JOURNAL = 50,       /* master: proposals that wait for the journal thread */
    TARN_RANK_KV = 60,            /* store/kv: kv_mem */
    TARN_RANK_DISK = 70,          /* lib/disk: the pool's queue */
    TARN_RANK_LEAF = 90           /* held for a few instructions, takes nothing */
};

struct tarn_mtx {
    pthread_mutex_t m;      /* the lock */
    enum tarn_rank rank;    /* place in the order */
    _Atomic uint64_t owner; /* thread id of the holder, 0 when free; for asserts only */
};

void tarn_mtx_init(struct tarn_mtx *m, enum tarn_rank rank);
void tarn_mtx_fini(struct tarn_mtx *m);
void tarn_mtx_lock(struct tarn_mtx *m);
void tarn_mtx_unlock(struct tarn_mtx *m);
void tarn_mtx_assert_held(const struct tarn_mtx *m);

struct tarn_cond {
    pthread_cond_t c; /* waits on the monotonic clock */
};
void tarn_cond_init(struct tarn_cond *c);
void tarn_cond_fini(struct tarn_cond *c);
void tarn_cond_wait(struct tarn_cond *c, struct tarn_mtx *m);
/* False when `ns` (relative) passed first. */
bool tarn_cond_wait_ns(struct tarn_cond *c, struct tarn_mtx *m, uint64_t ns);
void tarn_cond_signal(struct tarn_cond *c);
void tarn_cond_broadcast(struct tarn_cond *c);

void tarn_cleanup_unlock(struct tarn_mtx *const *m);
static inline struct tarn_mtx *tarn_guard_take(struct tarn_mtx *m)
{
    tarn_mtx_lock(m);
    return m;
}
/* Locks until the end of the scope. */
#define TARN_GUARD_NAME2(l) guard_##l##_
#define TARN_GUARD_NAME(l)  TARN_GUARD_NAME2(l)
#define TARN_GUARD(m)                                                                              \
    struct tarn_mtx *const TARN_GUARD_NAME(__LINE__)                                               \
        __attribute__((cleanup(tarn_cleanup_unlock), unused)) = tarn_guard_take(m)

/* Starts a named thread (at most 15 characters) with every signal blocked. Errors: errno class. */
int tarn_thread_start(pthread_t *ret_thread, const char *name, void *(*fn)(void *), void *arg);
