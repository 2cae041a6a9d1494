/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The FORMAT file of a tier: any bytes decode or are refused; what decodes encodes to the same
 * bytes. A second try repairs the sum, so that the checks behind it are reached.
 */
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/hash.h"
#include "store/tier/tier_format.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fuzz_decode(const uint8_t *p, size_t n)
{
    uint8_t again[TARN_TIER_FORMAT_BYTES];
    struct tarn_tier_format f;
    int rc = tarn_tier_format_decode(p, n, &f);

    TARN_ASSERT(rc == 0 || rc == -TARN_E_FORMAT_BAD || rc == -TARN_E_FORMAT_NEWER);
    if (rc < 0)
        return;
    TARN_ASSERT(strnlen(f.owner, sizeof(f.owner)) < sizeof(f.owner));
    tarn_tier_format_encode(&f, again);
    TARN_ASSERT(n == sizeof(again) && memcmp(again, p, n) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t copy[TARN_TIER_FORMAT_MAX];
    uint64_t sum;

    fuzz_decode(data, size);
    if (size < 8 || size > sizeof(copy))
        return 0;
    memcpy(copy, data, size);
    sum = tarn_xxh3(copy, size - 8);
    for (unsigned i = 0; i < 8; i++)
        copy[size - 8 + i] = (uint8_t)(sum >> (8 * i));
    fuzz_decode(copy, size);
    return 0;
}
