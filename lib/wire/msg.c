/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Decoding of messages. protobuf-c takes memory per element, and an element may be two bytes on the
 * wire: what one message may take is bounded by a multiple of its length, which ordinary messages
 * stay far below.
 */
#include "lib/wire/wire.h"

#include <stdlib.h>

#include "lib/base/assert.h"
#include "lib/base/err.h"
#include "lib/base/fault.h"
#include "lib/base/limits.h"

#define MSG_FACTOR 64u         /* bytes of memory per byte of a message */
#define MSG_SLACK  (16u << 10) /* and for a small one */

struct msg_budget {
    size_t left;  /* bytes that may still be taken */
    size_t taken; /* bytes taken, freed ones included */
    bool failed;  /* malloc said no */
};

static void *msg_alloc(void *arg, size_t size)
{
    struct msg_budget *b = arg;
    void *p;

    if (size > b->left)
        return NULL;
    p = TARN_FAULT(buf_alloc) < 0 ? NULL : malloc(size);
    if (!p) {
        b->failed = true;
        return NULL;
    }
    b->left -= size;
    b->taken += size;
    return p;
}

static void msg_free(void *arg, void *p)
{
    (void)arg; /* the budget is for one decoding, not a balance */
    free(p);
}

int tarn_msg_decode_sized(const ProtobufCMessageDescriptor *d, const uint8_t *p, size_t n,
                          ProtobufCMessage **ret_msg, size_t *ret_bytes)
{
    struct msg_budget budget = {.left = n * MSG_FACTOR + MSG_SLACK};
    ProtobufCAllocator a = {.alloc = msg_alloc, .free = msg_free, .allocator_data = &budget};
    ProtobufCMessage *m;

    if (n > TARN_FRAME_BODY_MAX)
        return -TARN_E_MSG_BAD;
    m = protobuf_c_message_unpack(d, &a, n, p);
    if (!m)
        return budget.failed ? -TARN_E_NO_MEMORY : -TARN_E_MSG_BAD;
    TARN_ASSERT(m->descriptor == d);
    *ret_msg = m;
    *ret_bytes = budget.taken;
    return 0;
}

ProtobufCMessage *tarn_msg_decode(const ProtobufCMessageDescriptor *d, const uint8_t *p, size_t n)
{
    ProtobufCMessage *m;
    size_t bytes;

    return tarn_msg_decode_sized(d, p, n, &m, &bytes) < 0 ? NULL : m;
}
