/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Index records of a tier: any bytes decode or are refused; what decodes encodes to the same bytes.
 * The input is a key and a record; a second try repairs the record's sum, so that the checks behind
 * it are reached.
 */
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/hash.h"
#include "store/tier/tier_format.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fuzz_decode(const uint8_t *key, const uint8_t *p, size_t n)
{
    uint8_t again[TARN_TIER_RECORD_MAX];
    struct tarn_tier_record r;
    tarn_cid_t cid;
    uint32_t group;

    if (tarn_tier_record_decode(key, p, n, &r) < 0)
        return;
    TARN_ASSERT(tarn_tier_key_decode(key, TARN_TIER_KEY_BYTES, &cid, &group) == 0);
    TARN_ASSERT(tarn_tier_record_encode(key, &r, again) == n && memcmp(again, p, n) == 0);
    TARN_ASSERT(tarn_tier_mask_bytes(r.length, group, r.present) <= TARN_UNIT_BYTES);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t copy[TARN_TIER_RECORD_MAX];
    const uint8_t *p;
    uint64_t sum;
    size_t n;

    if (size < TARN_TIER_KEY_BYTES)
        return 0;
    p = data + TARN_TIER_KEY_BYTES;
    n = size - TARN_TIER_KEY_BYTES;
    fuzz_decode(data, p, n);
    if (n < 8 || n > sizeof(copy))
        return 0;
    memcpy(copy, p, n);
    sum = tarn_xxh3_seed(copy, n - 8, tarn_xxh3(data, TARN_TIER_KEY_BYTES));
    for (unsigned i = 0; i < 8; i++)
        copy[n - 8 + i] = (uint8_t)(sum >> (8 * i));
    fuzz_decode(data, copy, n);
    return 0;
}
