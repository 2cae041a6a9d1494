/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuse/dirpage_priv.h — a page of a directory as the client fetched it, from which the kernel's
 * smaller requests are answered. Pure; a page does not change and is shared by reference.
 *
 * Offsets of the kernel: 0 is the start ("."), 1 is after ".", 2 after "..", and an entry's is its
 * inode id + 1: the ids of a directory's entries grow and are never reused, so an offset stays good
 * whatever changes.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/client/client.h"

struct fpage_entry {
    struct tarn_attr attr;
    uint64_t cookie;
    uint32_t name_off; /* in names */
    uint8_t len;
};

/* Immutable but for refs. */
struct fpage {
    _Atomic uint32_t refs;
    uint64_t gen;      /* fnodes_gen() when it came */
    uint64_t from;     /* the cookie that was asked for */
    uint64_t until_ns; /* until when all its names are trusted; of an empty directory: not beyond
                          this answer */
    tarn_ino_t parent; /* ".." */
    bool eof;          /* nothing follows its last entry */
    size_t count;
    struct fpage_entry *entries;
    char *names; /* NUL-terminated ones */
};

static inline uint64_t fpage_offset(uint64_t cookie)
{
    return cookie + 1;
}

/* The cookie behind which a request at `off` goes on. */
static inline uint64_t fpage_cookie(uint64_t off)
{
    return off < 3 ? 0 : off - 1;
}

/*
 * A page out of the answer to a request for what is behind cookie `from`. -TARN_E_MSG_BAD: names,
 * order or attributes that cannot be, or no entry without the end.
 */
int fpage_new(const Tarn__Wire__ReaddirResponse *resp, uint64_t from, uint64_t now_ns, uint64_t gen,
              struct fpage **ret);
struct fpage *fpage_ref(struct fpage *p);
void fpage_put(struct fpage **p); /* NULL inside is accepted */
/* True when what follows `cookie` is told by this page (perhaps that nothing does). */
bool fpage_covers(const struct fpage *p, uint64_t cookie);
/* Index of the first entry behind `cookie`; `count` when there is none. */
size_t fpage_after(const struct fpage *p, uint64_t cookie);
