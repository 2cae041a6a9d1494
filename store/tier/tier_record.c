/* SPDX-License-Identifier: Apache-2.0 */
/* Keys and records of the index, and the geometry of files. */
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/hash.h"
#include "lib/base/mem.h"
#include "store/tier/tier_format.h"

#define RECORD_PLAIN          1 /* no tag */
#define RECORD_TAGGED         2
#define RECORD_FLAGS          TARN_TIER_RECORD_PINNED
#define RECORD_REPLICAS_SHIFT 1

void tarn_tier_key_encode(const tarn_cid_t *cid, uint32_t group, uint8_t ret[TARN_TIER_KEY_BYTES])
{
    memcpy(ret, cid->b, sizeof(cid->b));
    for (unsigned i = 0; i < 4; i++)
        ret[16 + i] = (uint8_t)(group >> (24 - 8 * i));
}

int tarn_tier_key_decode(const void *p, size_t n, tarn_cid_t *ret_cid, uint32_t *ret_group)
{
    const uint8_t *b = p;

    if (n != TARN_TIER_KEY_BYTES)
        return -TARN_E_INDEX_CORRUPT;
    memcpy(ret_cid->b, b, sizeof(ret_cid->b));
    *ret_group = (uint32_t)b[16] << 24 | (uint32_t)b[17] << 16 | (uint32_t)b[18] << 8 | b[19];
    return 0;
}

/* Over the key, then the record before its sum: a record under another's key is noticed too. */
static uint64_t record_sum(const uint8_t key[TARN_TIER_KEY_BYTES], const uint8_t *p, size_t n)
{
    return tarn_xxh3_seed(p, n, tarn_xxh3(key, TARN_TIER_KEY_BYTES));
}

size_t tarn_tier_record_encode(const uint8_t key[TARN_TIER_KEY_BYTES],
                               const struct tarn_tier_record *r, uint8_t ret[TARN_TIER_RECORD_MAX])
{
    struct tarn_tier_record_bytes b = {
        .format = r->tag ? RECORD_TAGGED : RECORD_PLAIN,
        .flags = (uint8_t)(r->flags | r->replicas << RECORD_REPLICAS_SHIFT),
        .level = r->level,
        .count = (uint8_t)__builtin_popcountll(r->present),
    };
    size_t n = sizeof(b);

    TARN_ASSERT(r->present != 0 && (r->flags & ~RECORD_FLAGS) == 0);
    TARN_ASSERT(r->replicas <= TARN_TIER_REPLICAS_MAX);
    tarn_tier_le_put(b.atime, sizeof(b.atime), r->atime_s);
    tarn_tier_le_put(b.length, sizeof(b.length), r->length);
    tarn_tier_le_put(b.present, sizeof(b.present), r->present);
    memcpy(ret, &b, sizeof(b));
    if (r->tag) {
        tarn_tier_le_put(ret + n, 8, r->tag);
        n += 8;
    }
    for (unsigned i = 0; i < TARN_GROUP_GRANULES; i++) {
        if (r->present & (1ull << i)) {
            tarn_tier_le_put(ret + n, 8, r->sums[i]);
            n += 8;
        }
    }
    tarn_tier_le_put(ret + n, 8, record_sum(key, ret, n));
    TARN_ASSERT(n + 8 <= TARN_TIER_RECORD_MAX);
    return n + 8;
}

/* What must hold among the fixed fields, beyond the sum: nothing that indexes memory may be wild.
 */
static int record_check(const struct tarn_tier_record_bytes *b, uint32_t group,
                        struct tarn_tier_record *r)
{
    r->flags = b->flags & RECORD_FLAGS;
    r->replicas = b->flags >> RECORD_REPLICAS_SHIFT;
    r->level = b->level;
    r->atime_s = (uint32_t)tarn_tier_le_take(b->atime, sizeof(b->atime));
    r->length = tarn_tier_le_take(b->length, sizeof(b->length));
    r->present = tarn_tier_le_take(b->present, sizeof(b->present));
    if (r->replicas > TARN_TIER_REPLICAS_MAX || r->length > TARN_TIER_FILE_MAX ||
        group >= tarn_tier_groups(r->length))
        return -TARN_E_INDEX_CORRUPT;
    if (r->present == 0 || (r->present & ~tarn_tier_group_mask(r->length, group)))
        return -TARN_E_INDEX_CORRUPT;
    return 0;
}

int tarn_tier_record_decode(const uint8_t key[TARN_TIER_KEY_BYTES], const void *p, size_t n,
                            struct tarn_tier_record *ret)
{
    const uint8_t *src = p;
    struct tarn_tier_record_bytes b;
    struct tarn_tier_record r = {0};
    tarn_cid_t cid;
    uint32_t group;
    size_t at = sizeof(b), tag;
    int rc;

    if (n < sizeof(b) + 16 || n > TARN_TIER_RECORD_MAX)
        return -TARN_E_INDEX_CORRUPT;
    memcpy(&b, src, sizeof(b));
    if (b.format != RECORD_PLAIN && b.format != RECORD_TAGGED)
        return -TARN_E_INDEX_CORRUPT;
    tag = b.format == RECORD_TAGGED ? 8 : 0;
    if (n != sizeof(b) + tag + 8u * b.count + 8u ||
        tarn_tier_le_take(src + n - 8, 8) != record_sum(key, src, n - 8))
        return -TARN_E_INDEX_CORRUPT;
    rc = tarn_tier_key_decode(key, TARN_TIER_KEY_BYTES, &cid, &group);
    TARN_KEEP(rc, record_check(&b, group, &r));
    if (rc < 0 || __builtin_popcountll(r.present) != b.count)
        return -TARN_E_INDEX_CORRUPT;
    if (tag) {
        r.tag = tarn_tier_le_take(src + at, 8);
        at += 8;
        if (r.tag == 0) /* it would have been written without */
            return -TARN_E_INDEX_CORRUPT;
    }
    for (unsigned i = 0; i < TARN_GROUP_GRANULES; i++) {
        if (r.present & (1ull << i)) {
            r.sums[i] = tarn_tier_le_take(src + at, 8);
            at += 8;
        }
    }
    TARN_ASSERT(at + 8 == n);
    *ret = r;
    return 0;
}

uint64_t tarn_tier_groups(uint64_t length)
{
    return tarn_div_up(length, TARN_UNIT_BYTES);
}

uint32_t tarn_tier_group_bytes(uint64_t length, uint32_t group)
{
    uint64_t off = (uint64_t)group * TARN_UNIT_BYTES;

    TARN_ASSERT(off < length);
    return (uint32_t)TARN_MIN(length - off, TARN_UNIT_BYTES);
}

uint64_t tarn_tier_group_mask(uint64_t length, uint32_t group)
{
    uint64_t n = tarn_div_up(tarn_tier_group_bytes(length, group), TARN_GRANULE_BYTES);

    TARN_ASSERT(n >= 1 && n <= TARN_GROUP_GRANULES);
    return ~0ull >> (TARN_GROUP_GRANULES - n);
}

uint64_t tarn_tier_mask_bytes(uint64_t length, uint32_t group, uint64_t mask)
{
    uint32_t bytes = tarn_tier_group_bytes(length, group);
    uint64_t last = (bytes - 1) / TARN_GRANULE_BYTES;
    uint64_t sum = (uint64_t)__builtin_popcountll(mask) * TARN_GRANULE_BYTES;

    TARN_ASSERT((mask & ~tarn_tier_group_mask(length, group)) == 0);
    if (mask & (1ull << last))
        sum -= (last + 1) * TARN_GRANULE_BYTES - bytes;
    return sum;
}
