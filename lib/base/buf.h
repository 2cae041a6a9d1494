/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lib/base/buf.h — reference-counted byte buffers, 4 KiB aligned; payloads and fetch units travel
 * in them without a copy. The counter is atomic: a reference may be dropped by any thread.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tarn_buf_pool;

struct tarn_buf {
    _Atomic uint32_t refs;      /* references */
    size_t cap;                 /* bytes at p */
    size_t len;                 /* bytes valid, set by the filler */
    uint8_t *p;                 /* 4 KiB aligned */
    struct tarn_buf_pool *pool; /* where it goes back to, or NULL */
};

/* NULL when memory is out: sizes come from peers and stores. */
struct tarn_buf *tarn_buf_new(size_t cap);
struct tarn_buf *tarn_buf_ref(struct tarn_buf *b);
void tarn_buf_unref(struct tarn_buf **b); /* NULL inside is accepted; sets it to NULL */

/*
 * Buffers of one large size that are used over and over: fresh memory of that size costs a page
 * fault per 4 KiB each time. Thread: any, but new, trim and free the owner's.
 */
struct tarn_buf_pool *tarn_buf_pool_new(size_t cap, unsigned spare_max);
/* As tarn_buf_new(cap); its bytes are those of an earlier use. */
struct tarn_buf *tarn_buf_pool_get(struct tarn_buf_pool *pool);
/* Gives the spare memory back when no buffer was taken since the last call; true if there is none
 * left. To be called now and then, so that an idle process is small. */
bool tarn_buf_pool_trim(struct tarn_buf_pool *pool);
/* Buffers in use stay good. Accepts NULL inside, sets it to NULL. */
void tarn_buf_pool_free(struct tarn_buf_pool **pool);
