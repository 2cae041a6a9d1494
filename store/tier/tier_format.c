/* SPDX-License-Identifier: Apache-2.0 */
#include "store/tier/tier_format.h"

#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/hash.h"

#define FORMAT_HEAD 16 /* magic, version, length: the same in every version */

static const char format_magic[8] = {'T', 'A', 'R', 'N', 'T', 'I', 'E', 'R'};

void tarn_tier_format_encode(const struct tarn_tier_format *f, uint8_t ret[TARN_TIER_FORMAT_BYTES])
{
    struct tarn_tier_format_bytes b = {0};
    size_t n = strnlen(f->owner, sizeof(f->owner));

    TARN_ASSERT(n < sizeof(b.owner));
    memcpy(b.magic, format_magic, sizeof(b.magic));
    tarn_tier_le_put(b.version, sizeof(b.version), TARN_TIER_FORMAT_VERSION);
    tarn_tier_le_put(b.length, sizeof(b.length), TARN_TIER_FORMAT_BYTES);
    tarn_tier_le_put(b.granule, sizeof(b.granule), TARN_GRANULE_BYTES);
    tarn_tier_le_put(b.group, sizeof(b.group), TARN_GROUP_GRANULES);
    tarn_tier_le_put(b.created, sizeof(b.created), f->created_s);
    memcpy(b.owner, f->owner, n);
    tarn_tier_le_put(b.id, sizeof(b.id), f->id);
    tarn_tier_le_put(b.sum, sizeof(b.sum),
                     tarn_xxh3(&b, offsetof(struct tarn_tier_format_bytes, sum)));
    memcpy(ret, &b, sizeof(b));
}

/* The parts that all versions share; the sum covers them. */
static int format_check(const uint8_t *p, size_t n, uint32_t *ret_version)
{
    uint64_t length;

    if (n < FORMAT_HEAD + 8 || n > TARN_TIER_FORMAT_MAX)
        return -TARN_E_FORMAT_BAD;
    length = tarn_tier_le_take(p + 12, 4);
    if (memcmp(p, format_magic, sizeof(format_magic)) != 0 || length != n)
        return -TARN_E_FORMAT_BAD;
    if (tarn_tier_le_take(p + n - 8, 8) != tarn_xxh3(p, n - 8))
        return -TARN_E_FORMAT_BAD;
    *ret_version = (uint32_t)tarn_tier_le_take(p + 8, 4);
    return 0;
}

int tarn_tier_format_decode(const void *p, size_t n, struct tarn_tier_format *ret)
{
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
    if (tarn_tier_le_take(b.granule, 4) != TARN_GRANULE_BYTES ||
        tarn_tier_le_take(b.group, 4) != TARN_GROUP_GRANULES || len == sizeof(b.owner))
        return -TARN_E_FORMAT_BAD;
    for (size_t i = len; i < sizeof(b.owner); i++)
        if (b.owner[i] != 0)
            return -TARN_E_FORMAT_BAD;
    ret->created_s = tarn_tier_le_take(b.created, sizeof(b.created));
    memcpy(ret->owner, b.owner, sizeof(ret->owner));
    ret->id = tarn_tier_le_take(b.id, sizeof(b.id));
    return 0;
}
