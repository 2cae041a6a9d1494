/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages: the first byte chooses which. What decodes takes no more memory than allowed, encodes,
 * and decodes from that to what encodes to the same bytes.
 */
#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/wire/tarn.pb-c.h"
#include "lib/wire/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const ProtobufCMessageDescriptor *const messages[] = {
#define TARN_MSG(name, descriptor) &descriptor,
#include "lib/wire/messages.def"
#undef TARN_MSG
};

static uint8_t *encode(const ProtobufCMessage *m, size_t *ret_n)
{
    uint8_t *p;

    *ret_n = protobuf_c_message_get_packed_size(m);
    p = malloc(*ret_n + 1);
    TARN_ASSERT(p != NULL);
    TARN_ASSERT(protobuf_c_message_pack(m, p) == *ret_n);
    return p;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const ProtobufCMessageDescriptor *d;
    ProtobufCMessage *m, *again;
    size_t bytes, n, n_again;
    uint8_t *p, *p_again;
    int rc;

    if (size == 0)
        return 0;
    d = messages[data[0] % TARN_ARRAY_LEN(messages)];
    rc = tarn_msg_decode_sized(d, data + 1, size - 1, &m, &bytes);
    if (rc < 0) {
        TARN_ASSERT(rc == -TARN_E_MSG_BAD);
        return 0;
    }
    TARN_ASSERT(bytes <= (size - 1) * 64 + (16u << 10));
    p = encode(m, &n);
    again = protobuf_c_message_unpack(d, NULL, n, p); /* without our bound: it may be longer now */
    if (again) {
        ProtobufCMessage *third = tarn_msg_decode(d, p, n); /* under our bound: maybe not */

        if (third)
            protobuf_c_message_free_unpacked(third, NULL);
        p_again = encode(again, &n_again);
        TARN_ASSERT(n == n_again && memcmp(p, p_again, n) == 0);
        free(p_again);
        protobuf_c_message_free_unpacked(again, NULL);
    }
    free(p);
    protobuf_c_message_free_unpacked(m, NULL);
    return 0;
}
