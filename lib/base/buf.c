/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Large buffers are aligned to huge pages and ask for them (madvise(2), MADV_HUGEPAGE): one page
 * fault instead of 512. A pool lives until its owner freed it and the last buffer came back.
 */
#include "lib/base/buf.h"

#include <stdlib.h>
#include <sys/mman.h>

#include "lib/base/assert.h"
#include "lib/base/fault.h"
#include "lib/base/mem.h"
#include "lib/base/mtx.h"

#define BUF_ALIGN 4096
#define BUF_HUGE  (2u << 20)

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
    return b;
}

static void buf_free(struct tarn_buf *b)
{
    free(b->p);
    free(b);
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

static void pool_put(struct tarn_buf_pool *pool, struct tarn_buf *b);

void tarn_buf_unref(struct tarn_buf **pb)
{
    struct tarn_buf *b = *pb;

    *pb = NULL;
    if (!b || atomic_fetch_sub_explicit(&b->refs, 1, memory_order_acq_rel) != 1)
        return;
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
