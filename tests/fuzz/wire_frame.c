/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Headers of frames. The header's checksum is made to fit first, or the fuzzer would never get past
 * it; the input as it came is tried too. What is accepted is within all limits, and encodes to the
 * same bytes.
 */
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/err.h"
#include "lib/base/hash.h"
#include "lib/base/limits.h"
#include "lib/wire/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_header(const uint8_t *p)
{
    uint8_t again[TARN_FRAME_HDR_BYTES];
    struct tarn_frame f;
    int rc = tarn_frame_decode(p, &f);

    if (rc < 0) {
        TARN_ASSERT(rc == -TARN_E_FRAME_BAD || rc == -TARN_E_FRAME_VERSION ||
                    rc == -TARN_E_FRAME_TOO_BIG);
        return;
    }
    TARN_ASSERT(f.version >= TARN_FRAME_VERSION_MIN && f.version <= TARN_FRAME_VERSION);
    TARN_ASSERT(f.type >= TARN_FRAME_REQUEST && f.type <= TARN_FRAME_PONG);
    TARN_ASSERT(f.body_len <= TARN_FRAME_BODY_MAX && f.payload_len <= TARN_FRAME_PAYLOAD_MAX &&
                f.meta_len <= TARN_FRAME_META_MAX);
    tarn_frame_encode(&f, again);
    TARN_ASSERT(memcmp(p, again, sizeof(again)) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t hdr[TARN_FRAME_HDR_BYTES];
    uint32_t sum;

    if (size < sizeof(hdr))
        return 0;
    try_header(data);
    memcpy(hdr, data, sizeof(hdr));
    sum = (uint32_t)tarn_xxh3(hdr, sizeof(hdr) - 4);
    for (unsigned i = 0; i < 4; i++)
        hdr[sizeof(hdr) - 4 + i] = (uint8_t)(sum >> 8 * i);
    try_header(hdr);
    return 0;
}
