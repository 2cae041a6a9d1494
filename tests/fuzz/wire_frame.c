/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Headers of frames. The header's checksum is made to fit first, or the fuzzer would never get past
 * it; the input as it came is tried too. What is accepted is within all limits, and encodes to the
 * same bytes. What follows the header becomes meta and body of a whole frame, which reads back as
 * it was built.
 */
#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/err.h"
#include "lib/base/hash.h"
#include "lib/base/limits.h"
#include "lib/wire/tarn.pb-c.h"
#include "lib/wire/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Puts a frame together, and takes it apart. */
static void try_build(struct tarn_frame f, const uint8_t *meta, size_t meta_len, size_t body_len)
{
    ProtobufCMessage *m = tarn_msg_decode(&tarn__wire__call_meta__descriptor, meta, meta_len);
    uint32_t sum = tarn_frame_body_sum(meta, meta_len, meta + meta_len, body_len);
    struct tarn_str out = {0};
    struct tarn_frame got;
    int rc;

    rc = tarn_frame_build_packed(&f, meta, meta_len, meta + meta_len, body_len, &out);
    TARN_ASSERT(rc == 0 || (rc == -TARN_E_FRAME_TOO_BIG && meta_len > TARN_FRAME_META_MAX));
    if (rc == 0) {
        TARN_ASSERT(tarn_frame_decode((const uint8_t *)out.p, &got) == 0);
        TARN_ASSERT(got.meta_len == meta_len && got.body_len == body_len && got.body_sum == sum);
        TARN_ASSERT(out.len == TARN_FRAME_HDR_BYTES + meta_len + body_len);
    }
    tarn_str_reset(&out);
    if (m && tarn_frame_build(&f, m, m, &out) == 0) {
        TARN_ASSERT(tarn_frame_decode((const uint8_t *)out.p, &got) == 0);
        TARN_ASSERT(got.meta_len == got.body_len);
    }
    if (m)
        protobuf_c_message_free_unpacked(m, NULL);
    tarn_str_fini(&out);
}

static void try_header(const uint8_t *p, size_t rest)
{
    size_t meta_len = rest ? rest * p[TARN_FRAME_HDR_BYTES] / 256 : 0;
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
    try_build(f, p + TARN_FRAME_HDR_BYTES, meta_len, rest - meta_len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *copy;
    uint32_t sum;

    if (size < TARN_FRAME_HDR_BYTES)
        return 0;
    try_header(data, size - TARN_FRAME_HDR_BYTES);
    copy = malloc(size);
    TARN_ASSERT(copy != NULL);
    memcpy(copy, data, size);
    sum = (uint32_t)tarn_xxh3(copy, TARN_FRAME_HDR_BYTES - 4);
    for (unsigned i = 0; i < 4; i++)
        copy[TARN_FRAME_HDR_BYTES - 4 + i] = (uint8_t)(sum >> 8 * i);
    try_header(copy, size - TARN_FRAME_HDR_BYTES);
    free(copy);
    return 0;
}
