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

struct tarn_buf_account;
struct tarn_buf_pool;

struct tarn_buf {
    _Atomic uint32_t refs;            /* references */
    size_t cap;                       /* bytes at p */
    size_t len;                       /* bytes valid, set by the filler */
    uint8_t *p;                       /* 4 KiB aligned; NULL: the bytes are in a pipe */
    int pipe[2];                      /* its ends: read, write; -1: none */
    struct tarn_buf_pool *pool;       /* where it goes back to, or NULL */
    struct tarn_buf_account *account; /* that it counts in, or NULL */
};

/* NULL when memory is out: sizes come from peers and stores. */
struct tarn_buf *tarn_buf_new(size_t cap);
/*
 * One whose bytes are pages in a pipe, put there by splice(2) so that they need not be copied: they
 * can be sent once, from the first on, and nobody looks at them. A place for each page: what is put
 * in begins at the start of one. NULL: no pipe of that size is to be had (fcntl(2), F_SETPIPE_SZ);
 * use memory.
 */
struct tarn_buf *tarn_buf_pipe(size_t cap);
/* Puts `len` bytes of a file behind what is in it; waits for the disk. EOF: it ends before; errno
 * class. */
int tarn_buf_splice(struct tarn_buf *b, int fd, uint64_t off, size_t len);
struct tarn_buf *tarn_buf_ref(struct tarn_buf *b);
void tarn_buf_unref(struct tarn_buf **b); /* NULL inside is accepted; sets it to NULL */

/*
 * The memory of buffers that wait somewhere, until the last reference to each is gone. Counted by
 * reference: an account lives as long as a buffer or another account counts in it. Thread: any.
 */
struct tarn_buf_account *tarn_buf_account_new(struct tarn_buf_account *parent); /* or NULL */
struct tarn_buf_account *tarn_buf_account_ref(struct tarn_buf_account *a);
void tarn_buf_account_unref(struct tarn_buf_account **a); /* as tarn_buf_unref() */
/* Of its own buffers and of those of the accounts whose parent it is. */
size_t tarn_buf_account_bytes(const struct tarn_buf_account *a);
/* The buffer counts in `a` from now on, unless it counts in one already. The caller has a
 * reference, and no other thread charges the same buffer. */
void tarn_buf_charge(struct tarn_buf *b, struct tarn_buf_account *a);

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
