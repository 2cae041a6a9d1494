/* SPDX-License-Identifier: Apache-2.0 */
#include "store/tier/tier_format.h"

#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/hash.h"
#include "lib/base/mem.h"

#define FORMAT_HEAD  16 /* magic, version, length: the same in every version */
#define RECORD_V1    1
#define RECORD_FLAGS TARN_TIER_RECORD_PINNED

static const char format_magic[8] = {'T', 'A', 'R', 'N', 'T', 'I', 'E', 'R'};

static void format_put(uint8_t *p, unsigned bytes, uint64_t v)
{
    for (unsigned i = 0; i < bytes; i++)
        p[i] = (uint8_t)(v >> (8 * i));
}

static uint64_t format_take(const uint8_t *p, unsigned bytes)
{
    uint64_t v = 0;

    for (unsigned i = 0; i < bytes; i++)
        v |= (uint64_t)p[i] << (8 * i);
    return v;
}

void tarn_tier_format_encode(const struct tarn_tier_format *f, uint8_t ret[TARN_TIER_FORMAT_BYTES])
{
    struct tarn_tier_format_bytes b = {0};
    size_t n = strnlen(f->owner, sizeof(f->owner));

    TARN_ASSERT(n < sizeof(b.owner));
    memcpy(b.magic, format_magic, sizeof(b.magic));
    format_put(b.version, sizeof(b.version), TARN_TIER_FORMAT_VERSION);
    format_put(b.length, sizeof(b.length), TARN_TIER_FORMAT_BYTES);
    format_put(b.granule, sizeof(b.granule), TARN_GRANULE_BYTES);
    format_put(b.group, sizeof(b.group), TARN_GROUP_GRANULES);
    format_put(b.created, sizeof(b.created), f->created_s);
    memcpy(b.owner, f->owner, n);
    format_put(b.sum, sizeof(b.sum), tarn_xxh3(&b, offsetof(struct tarn_tier_format_bytes, sum)));
    memcpy(ret, &b, sizeof(b));
}

/* The parts that all versions share; the sum covers them. */
static int format_check(const uint8_t *p, size_t n, uint32_t *ret_version)
{
    uint64_t length;

    if (n < FORMAT_HEAD + 8 || n > TARN_TIER_FORMAT_MAX)
        return -TARN_E_FORMAT_BAD;
    length = format_take(p + 12, 4);
    if (memcmp(p, format_magic, sizeof(format_magic)) != 0 || length != n)
        return -TARN_E_FORMAT_BAD;
    if (format_take(p + n - 8, 8) != tarn_xxh3(p, n - 8))
        return -TARN_E_FORMAT_BAD;
    *ret_version = (uint32_t)format_take(p + 8, 4);
    return 0;
}

int tarn_tier_format_decode(const void *p, size_t n, struct tarn_tier_format *ret)
{
    static const uint8_t zero[sizeof(((struct tarn_tier_format_bytes *)NULL)->zero)];
    struct tarn_tier_format_bytes b;
    uint32_t version;
    size_t len;
    int rc = format_check(p, n, &version);

    if (rc < 0)
        return rc;
    if (version > TARN_TIER_FORMAT_VERSION)
        return -TARN_E_FORMAT_NEWER;
    if (version != TARN_TIER_FORMAT_VERSION || n != sizeof(b))
        return -TARN_E_FORMAT_BAD;
    memcpy(&b, p, sizeof(b));
    len = strnlen((const char *)b.owner, sizeof(b.owner));
    if (format_take(b.granule, 4) != TARN_GRANULE_BYTES ||
        format_take(b.group, 4) != TARN_GROUP_GRANULES || len == sizeof(b.owner) ||
        memcmp(b.zero, zero, sizeof(zero)) != 0)
        return -TARN_E_FORMAT_BAD;
    for (size_t i = len; i < sizeof(b.owner); i++)
        if (b.owner[i] != 0)
            return -TARN_E_FORMAT_BAD;
    ret->created_s = format_take(b.created, sizeof(b.created));
    memcpy(ret->owner, b.owner, sizeof(ret->owner));
    return 0;
}

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
        .format = RECORD_V1,
        .flags = r->flags,
        .level = r->level,
        .count = (uint8_t)__builtin_popcountll(r->present),
    };
    size_t n = sizeof(b);

    TARN_ASSERT(r->present != 0 && (r->flags & ~RECORD_FLAGS) == 0);
    format_put(b.atime, sizeof(b.atime), r->atime_s);
    format_put(b.length, sizeof(b.length), r->length);
    format_put(b.present, sizeof(b.present), r->present);
    memcpy(ret, &b, sizeof(b));
    for (unsigned i = 0; i < TARN_GROUP_GRANULES; i++) {
        if (r->present & (1ull << i)) {
            format_put(ret + n, 8, r->sums[i]);
            n += 8;
        }
    }
    format_put(ret + n, 8, record_sum(key, ret, n));
    TARN_ASSERT(n + 8 <= TARN_TIER_RECORD_MAX);
    return n + 8;
}

/* What must hold among the fixed fields, beyond the sum: nothing that indexes memory may be wild.
 */
static int record_check(const struct tarn_tier_record_bytes *b, uint32_t group,
                        struct tarn_tier_record *r)
{
    r->flags = b->flags;
    r->level = b->level;
    r->atime_s = (uint32_t)format_take(b->atime, sizeof(b->atime));
    r->length = format_take(b->length, sizeof(b->length));
    r->present = format_take(b->present, sizeof(b->present));
    if (b->format != RECORD_V1 || (b->flags & ~RECORD_FLAGS) || r->length > TARN_TIER_FILE_MAX ||
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
    size_t at = sizeof(b);
    int rc;

    if (n < sizeof(b) + 16 || n > TARN_TIER_RECORD_MAX)
        return -TARN_E_INDEX_CORRUPT;
    memcpy(&b, src, sizeof(b));
    if (n != sizeof(b) + 8u * b.count + 8u ||
        format_take(src + n - 8, 8) != record_sum(key, src, n - 8))
        return -TARN_E_INDEX_CORRUPT;
    rc = tarn_tier_key_decode(key, TARN_TIER_KEY_BYTES, &cid, &group);
    TARN_KEEP(rc, record_check(&b, group, &r));
    if (rc < 0 || __builtin_popcountll(r.present) != b.count)
        return -TARN_E_INDEX_CORRUPT;
    for (unsigned i = 0; i < TARN_GROUP_GRANULES; i++) {
        if (r.present & (1ull << i)) {
            r.sums[i] = format_take(src + at, 8);
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
