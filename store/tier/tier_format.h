/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store/tier/tier_format.h — the bytes of a tier directory: the FORMAT file, index keys and index
 * records. docs/formats/tier.md is the same for people. Integers are little-endian unless said
 * otherwise; the structs consist of bytes, so they have no padding and any address is aligned. Pure
 * functions.
 *
 * Rule for every version: FORMAT starts with magic, version and its length, and its last eight
 * bytes are the XXH3-64 of what stands before them. So a newer version can be told from a damaged
 * one.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "lib/base/err.h"
#include "lib/base/ids.h"
#include "lib/base/limits.h"

#define TARN_TIER_FORMAT_VERSION 1u
#define TARN_TIER_FORMAT_BYTES   128u
#define TARN_TIER_FORMAT_MAX     4096u /* bytes of FORMAT in any version */
#define TARN_TIER_OWNER_MAX      80u   /* bytes of an owner id with its NUL */
#define TARN_TIER_KEY_BYTES      20u
#define TARN_TIER_RECORD_HEAD    24u
#define TARN_TIER_RECORD_MAX     (TARN_TIER_RECORD_HEAD + 8 + 8 * TARN_GROUP_GRANULES + 8)
#define TARN_TIER_RECORD_PINNED  1u /* a flag */
#define TARN_TIER_REPLICAS_MAX   8u
/* Groups have 32-bit numbers. */
#define TARN_TIER_FILE_MAX ((1ull << 32) * TARN_UNIT_BYTES)

/* The file FORMAT. */
struct tarn_tier_format_bytes {
    uint8_t magic[8];   /* "TARNTIER" */
    uint8_t version[4]; /* u32, 1 */
    uint8_t length[4];  /* u32, bytes of the file */
    uint8_t granule[4]; /* u32, bytes of a granule */
    uint8_t group[4];   /* u32, granules of a group */
    uint8_t created[8]; /* u64, seconds since 1970 */
    uint8_t owner[80];  /* cluster id, padded with NUL, at least one */
    uint8_t id[8];      /* u64, random; 0: made by a tarn that had none */
    uint8_t sum[8];     /* u64, XXH3-64 of the 120 bytes before */
};
_Static_assert(sizeof(struct tarn_tier_format_bytes) == TARN_TIER_FORMAT_BYTES, "FORMAT");
_Static_assert(offsetof(struct tarn_tier_format_bytes, granule) == 16, "FORMAT");
_Static_assert(offsetof(struct tarn_tier_format_bytes, owner) == 32, "FORMAT");
_Static_assert(offsetof(struct tarn_tier_format_bytes, sum) == 120, "FORMAT");

/* An index key: ordered by file, then by place. */
struct tarn_tier_key_bytes {
    uint8_t cid[16];
    uint8_t group[4]; /* u32, big-endian */
};
_Static_assert(sizeof(struct tarn_tier_key_bytes) == TARN_TIER_KEY_BYTES, "key");

/* The fixed part of an index record; the tag (format 2), the sums of the present granules and the
 * record's own sum follow. */
struct tarn_tier_record_bytes {
    uint8_t format;     /* 1: without a tag, 2: with one */
    uint8_t flags;      /* TARN_TIER_RECORD_*, and `replicas` above the lowest bit */
    uint8_t level;      /* enum tarn_verified: how far the store vouches for the bytes */
    uint8_t count;      /* sums that follow: bits set in `present` */
    uint8_t atime[4];   /* u32, seconds since 1970, of the last use known */
    uint8_t length[8];  /* u64, bytes of the whole file */
    uint8_t present[8]; /* u64, bit n: granule n of the group is there */
};
_Static_assert(sizeof(struct tarn_tier_record_bytes) == TARN_TIER_RECORD_HEAD, "record");
_Static_assert(offsetof(struct tarn_tier_record_bytes, length) == 8, "record");
_Static_assert(offsetof(struct tarn_tier_record_bytes, present) == 16, "record");
_Static_assert(TARN_TIER_RECORD_MAX == 552, "record");

struct tarn_tier_format {
    uint64_t created_s;              /* seconds since 1970 */
    char owner[TARN_TIER_OWNER_MAX]; /* NUL-terminated */
    uint64_t id;                     /* of the directory; 0: none yet */
};

struct tarn_tier_record {
    uint8_t flags;                      /* TARN_TIER_RECORD_* */
    uint8_t replicas;                   /* workers that are to hold the file; 0: nobody said */
    uint8_t level;                      /* enum tarn_verified */
    uint32_t atime_s;                   /* seconds since 1970 */
    uint64_t length;                    /* bytes of the file */
    uint64_t present;                   /* granules */
    uint64_t tag;                       /* which source the bytes are of; 0: the cid tells */
    uint64_t sums[TARN_GROUP_GRANULES]; /* by granule; 0 where not present */
};

/* The owner must be shorter than TARN_TIER_OWNER_MAX. */
void tarn_tier_format_encode(const struct tarn_tier_format *f, uint8_t ret[TARN_TIER_FORMAT_BYTES]);
/* -TARN_E_FORMAT_BAD: damaged; -TARN_E_FORMAT_NEWER: whole, of a later version. */
int tarn_tier_format_decode(const void *p, size_t n, struct tarn_tier_format *ret);

void tarn_tier_key_encode(const tarn_cid_t *cid, uint32_t group, uint8_t ret[TARN_TIER_KEY_BYTES]);
/* -TARN_E_INDEX_CORRUPT unless it has the length of a key. */
int tarn_tier_key_decode(const void *p, size_t n, tarn_cid_t *ret_cid, uint32_t *ret_group);

/* Returns the record's bytes (at most TARN_TIER_RECORD_MAX). `present` must not be 0. */
size_t tarn_tier_record_encode(const uint8_t key[TARN_TIER_KEY_BYTES],
                               const struct tarn_tier_record *r, uint8_t ret[TARN_TIER_RECORD_MAX]);
/* -TARN_E_INDEX_CORRUPT unless every byte is as tarn_tier_record_encode() would write it for this
 * key. */
int tarn_tier_record_decode(const uint8_t key[TARN_TIER_KEY_BYTES], const void *p, size_t n,
                            struct tarn_tier_record *ret);

/* ---- geometry: files of at most TARN_TIER_FILE_MAX bytes -------------------------------- */

/* Groups of a file of `length` bytes. */
uint64_t tarn_tier_groups(uint64_t length);
/* Bytes of group `group` (which must be one of the file's). */
uint32_t tarn_tier_group_bytes(uint64_t length, uint32_t group);
/* A bit for each granule that the group has. */
uint64_t tarn_tier_group_mask(uint64_t length, uint32_t group);
/* Bytes of the granules in `mask`. */
uint64_t tarn_tier_mask_bytes(uint64_t length, uint32_t group, uint64_t mask);

/* ---- little-endian integers of 1 to 8 bytes --------------------------------------------- */

static inline void tarn_tier_le_put(uint8_t *p, unsigned bytes, uint64_t v)
{
    for (unsigned i = 0; i < bytes; i++)
        p[i] = (uint8_t)(v >> (8 * i));
}

static inline uint64_t tarn_tier_le_take(const uint8_t *p, unsigned bytes)
{
    uint64_t v = 0;

    for (unsigned i = 0; i < bytes; i++)
        v |= (uint64_t)p[i] << (8 * i);
    return v;
}
