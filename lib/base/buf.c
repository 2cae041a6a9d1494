/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Large buffers are aligned to huge pages and ask for them (madvise(2), MADV_HUGEPAGE): one page
 * fault instead of 512. A pool lives until its owner freed it and the last buffer came back.
 */
#include "lib/base/buf.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "lib/base/assert.h"
#include "lib/base/err.h"
#include "lib/base/fault.h"
#include "lib/base/mem.h"
#include "lib/base/mtx.h"

#define BUF_ALIGN    4096
#define BUF_HUGE     (2u << 20)
#define BUF_PIPE_MAX (1u << 20) /* /proc/sys/fs/pipe-max-size, as it is by default */

struct tarn_buf_pool {
    struct tarn_mtx mtx; /* over all below */
    size_t cap;
    struct tarn_buf **spare; /* spare_max of room */
    unsigned spares, spare_max;
    unsigned out; /* buffers in use */
    bool used;    /* since the last trim */
    bool closed;  /* the owner has freed it */
};

static struct tarn_buf *buf_alloc(size_t cap)
{
    struct tarn_buf *b;
    size_t align = cap >= BUF_HUGE ? BUF_HUGE : BUF_ALIGN;
    size_t size;

    if (cap > SIZE_MAX - BUF_HUGE || TARN_FAULT(buf_alloc) < 0)
        return NULL;
    size = (TARN_MAX(cap, (size_t)1) + align - 1) / align * align;
    b = calloc(1, sizeof(*b));
    if (!b)
        return NULL;
    b->p = aligned_alloc(align, size);
    if (!b->p) {
        free(b);
        return NULL;
    }
    if (align == BUF_HUGE)
        (void)madvise(b->p, size, MADV_HUGEPAGE); /* slower without */
    b->cap = cap;
    b->pipe[0] = b->pipe[1] = -1;
    return b;
}

static void buf_free(struct tarn_buf *b)
{
    if (b->pipe[0] >= 0) {
        (void)close(b->pipe[0]); /* nothing is kept in it */
        (void)close(b->pipe[1]); /* the same */
    }
    free(b->p);
    free(b);
}

struct tarn_buf *tarn_buf_pipe(size_t cap)
{
    size_t pages = tarn_div_up(cap, BUF_ALIGN);
    struct tarn_buf *b;
    int fd[2];

    if (cap == 0 || cap > BUF_PIPE_MAX || pipe2(fd, O_CLOEXEC | O_NONBLOCK) < 0)
        return NULL;
    if (fcntl(fd[1], F_SETPIPE_SZ, (int)(pages * BUF_ALIGN)) < 0) {
        (void)close(fd[0]); /* nothing was written to it */
        (void)close(fd[1]); /* the same */
        return NULL;
    }
    b = tarn_xnew(struct tarn_buf);
    b->cap = cap;
    b->pipe[0] = fd[0];
    b->pipe[1] = fd[1];
    atomic_init(&b->refs, 1);
    return b;
}

int tarn_buf_splice(struct tarn_buf *b, int fd, uint64_t off, size_t len)
{
    loff_t at = (loff_t)off;

    TARN_ASSERT(b->pipe[1] >= 0 && len <= b->cap - b->len);
    while (len > 0) {
        ssize_t n = splice(fd, &at, b->pipe[1], NULL, len, 0);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -TARN_E_EOF;
        b->len += (size_t)n;
        len -= (size_t)n;
    }
    return 0;
}

struct tarn_buf *tarn_buf_new(size_t cap)
{
    struct tarn_buf *b = buf_alloc(cap);

    if (b)
        atomic_init(&b->refs, 1);
    return b;
}

struct tarn_buf *tarn_buf_ref(struct tarn_buf *b)
{
    TARN_ASSERT(atomic_fetch_add_explicit(&b->refs, 1, memory_order_relaxed) > 0);
    return b;
}

/* ---- accounts -------------------------------------------------------------------------------- */

struct tarn_buf_account {
    _Atomic uint32_t refs;
    _Atomic size_t bytes;
    struct tarn_buf_account *parent; /* referenced; NULL: none */
};

struct tarn_buf_account *tarn_buf_account_new(struct tarn_buf_account *parent)
{
    struct tarn_buf_account *a = tarn_xnew(struct tarn_buf_account);

    atomic_init(&a->refs, 1);
    atomic_init(&a->bytes, 0);
    a->parent = parent ? tarn_buf_account_ref(parent) : NULL;
    return a;
}

struct tarn_buf_account *tarn_buf_account_ref(struct tarn_buf_account *a)
{
    TARN_ASSERT(atomic_fetch_add_explicit(&a->refs, 1, memory_order_relaxed) > 0);
    return a;
}

void tarn_buf_account_unref(struct tarn_buf_account **pa)
{
    struct tarn_buf_account *a = *pa;

    *pa = NULL;
    while (a && atomic_fetch_sub_explicit(&a->refs, 1, memory_order_acq_rel) == 1) {
        struct tarn_buf_account *parent = a->parent;

        TARN_ASSERT(atomic_load(&a->bytes) == 0);
        free(a);
        a = parent;
    }
}

size_t tarn_buf_account_bytes(const struct tarn_buf_account *a)
{
    return atomic_load_explicit(&a->bytes, memory_order_relaxed);
}

void tarn_buf_charge(struct tarn_buf *b, struct tarn_buf_account *a)
{
    if (b->account)
        return;
    b->account = tarn_buf_account_ref(a);
    for (; a; a = a->parent)
        atomic_fetch_add_explicit(&a->bytes, b->cap, memory_order_relaxed);
}

static void buf_discharge(struct tarn_buf *b)
{
    for (struct tarn_buf_account *a = b->account; a; a = a->parent)
        TARN_ASSERT(atomic_fetch_sub_explicit(&a->bytes, b->cap, memory_order_relaxed) >= b->cap);
    tarn_buf_account_unref(&b->account);
}

/* ---- the end of a buffer --------------------------------------------------------------------- */

static void pool_put(struct tarn_buf_pool *pool, struct tarn_buf *b);

void tarn_buf_unref(struct tarn_buf **pb)
{
    struct tarn_buf *b = *pb;

    *pb = NULL;
    if (!b || atomic_fetch_sub_explicit(&b->refs, 1, memory_order_acq_rel) != 1)
        return;
    buf_discharge(b);
    if (b->pool)
        pool_put(b->pool, b);
    else
        buf_free(b);
}

/* ---- pools ----------------------------------------------------------------------------------- */

struct tarn_buf_pool *tarn_buf_pool_new(size_t cap, unsigned spare_max)
{
    struct tarn_buf_pool *pool = tarn_xnew(struct tarn_buf_pool);

    tarn_mtx_init(&pool->mtx, TARN_RANK_LEAF);
    pool->cap = cap;
    pool->spare = tarn_xcalloc(spare_max, sizeof(*pool->spare));
    pool->spare_max = spare_max;
    return pool;
}

static void pool_fini(struct tarn_buf_pool *pool)
{
    tarn_mtx_fini(&pool->mtx);
    free(pool->spare);
    free(pool);
}

struct tarn_buf *tarn_buf_pool_get(struct tarn_buf_pool *pool)
{
    struct tarn_buf *b = NULL;

    tarn_mtx_lock(&pool->mtx);
    pool->used = true;
    pool->out++;
    if (pool->spares)
        b = pool->spare[--pool->spares];
    tarn_mtx_unlock(&pool->mtx);
    if (!b)
        b = buf_alloc(pool->cap);
    if (!b) {
        tarn_mtx_lock(&pool->mtx);
        pool->out--;
        tarn_mtx_unlock(&pool->mtx);
        return NULL;
    }
    atomic_init(&b->refs, 1);
    b->len = 0;
    b->pool = pool;
    return b;
}

static void pool_put(struct tarn_buf_pool *pool, struct tarn_buf *b)
{
    bool last;

    tarn_mtx_lock(&pool->mtx);
    TARN_ASSERT(pool->out > 0);
    pool->out--;
    last = pool->closed && pool->out == 0;
    if (!pool->closed && pool->spares < pool->spare_max) {
        pool->spare[pool->spares++] = b;
        b = NULL;
    }
    tarn_mtx_unlock(&pool->mtx);
    if (b)
        buf_free(b);
    if (last)
        pool_fini(pool);
}

static void pool_drop_spares(struct tarn_buf_pool *pool)
{
    struct tarn_buf *b = NULL;

    do {
        tarn_mtx_lock(&pool->mtx);
        b = pool->spares ? pool->spare[--pool->spares] : NULL;
        tarn_mtx_unlock(&pool->mtx);
        if (b)
            buf_free(b);
    } while (b);
}

bool tarn_buf_pool_trim(struct tarn_buf_pool *pool)
{
    bool used, empty;

    tarn_mtx_lock(&pool->mtx);
    used = pool->used || pool->out > 0;
    pool->used = false;
    tarn_mtx_unlock(&pool->mtx);
    if (!used)
        pool_drop_spares(pool);
    tarn_mtx_lock(&pool->mtx);
    empty = pool->spares == 0 && pool->out == 0;
    tarn_mtx_unlock(&pool->mtx);
    return empty;
}

void tarn_buf_pool_free(struct tarn_buf_pool **ppool)
{
    struct tarn_buf_pool *pool = *ppool;
    bool last;

    *ppool = NULL;
    if (!pool)
        return;
    pool_drop_spares(pool);
    tarn_mtx_lock(&pool->mtx);
    pool->closed = true;
    last = pool->out == 0;
    tarn_mtx_unlock(&pool->mtx);
    if (last)
        pool_fini(pool);
}
