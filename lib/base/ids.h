/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lib/base/ids.h — strong ids: structs, so that mixing two kinds does not compile.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* An inode. The upper 16 bits are reserved for shards; 1 is the root; 0 is "none"; never reused. */
typedef struct {
    uint64_t v;
} tarn_ino_t;

/*
 * Content id: 128 bits of SHA-256 over what makes a file's bytes what they are (isolation
 * domain, store identity, object key, version). Names the cache file. All zero is "none".
 */
typedef struct {
    uint8_t b[16];
} tarn_cid_t;

#define TARN_INO_ROOT ((tarn_ino_t){1})
#define TARN_CID_HEX  33 /* bytes for the text form with its NUL */

static inline bool tarn_cid_eq(const tarn_cid_t *a, const tarn_cid_t *b)
{
    return memcmp(a->b, b->b, sizeof(a->b)) == 0;
}

static inline bool tarn_cid_none(const tarn_cid_t *a)
{
    static const tarn_cid_t none;

    return tarn_cid_eq(a, &none);
}

/* A cid is uniform already: its first 8 bytes are the hash. */
static inline uint64_t tarn_cid_hash(const tarn_cid_t *a)
{
    uint64_t h;

    memcpy(&h, a->b, sizeof(h));
    return h;
}

/* 32 lower-case hex digits and a NUL. */
const char *tarn_cid_text(const tarn_cid_t *a, char buf[TARN_CID_HEX]);
/* -TARN_E_INVALID unless exactly 32 lower-case hex digits. */
int tarn_cid_parse(const char *hex, tarn_cid_t *ret_cid);
