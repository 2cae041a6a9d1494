/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/base/buf.h"

#include <stdlib.h>

#include "lib/base/assert.h"
#include "lib/base/fault.h"

#define BUF_ALIGN 4096

struct tarn_buf *tarn_buf_new(size_t cap)
{
    struct tarn_buf *b;
    size_t size;

    if (cap > SIZE_MAX - BUF_ALIGN || TARN_FAULT(buf_alloc) < 0)
        return NULL;
    size = (cap + BUF_ALIGN - 1) / BUF_ALIGN * BUF_ALIGN;
    b = calloc(1, sizeof(*b));
    if (!b)
        return NULL;
    b->p = aligned_alloc(BUF_ALIGN, size ? size : BUF_ALIGN);
    if (!b->p) {
        free(b);
        return NULL;
    }
    b->cap = cap;
    atomic_init(&b->refs, 1);
    return b;
}

struct tarn_buf *tarn_buf_ref(struct tarn_buf *b)
{
    TARN_ASSERT(atomic_fetch_add_explicit(&b->refs, 1, memory_order_relaxed) > 0);
    return b;
}

void tarn_buf_unref(struct tarn_buf **pb)
{
    struct tarn_buf *b = *pb;

    *pb = NULL;
    if (!b || atomic_fetch_sub_explicit(&b->refs, 1, memory_order_acq_rel) != 1)
        return;
    free(b->p);
    free(b);
}
