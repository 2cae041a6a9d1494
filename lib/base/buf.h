/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lib/base/buf.h — reference-counted byte buffers, 4 KiB aligned; payloads and fetch units travel
 * in them without a copy. The counter is atomic: a reference may be dropped by any thread.
 */
#pragma once

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

struct tarn_buf {
    _Atomic uint32_t refs; /* references */
    size_t cap;            /* bytes at p */
    size_t len;            /* bytes valid, set by the filler */
    uint8_t *p;            /* 4 KiB aligned */
};

/* NULL when memory is out: sizes come from peers and stores. */
struct tarn_buf *tarn_buf_new(size_t cap);
struct tarn_buf *tarn_buf_ref(struct tarn_buf *b);
void tarn_buf_unref(struct tarn_buf **b); /* NULL inside is accepted; sets it to NULL */
