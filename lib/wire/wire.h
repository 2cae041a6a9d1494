/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lib/wire/wire.h — encode and decode frames and messages. Pure functions, fuzzed; no sockets.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <protobuf-c/protobuf-c.h>

#include "lib/base/str.h"
#include "lib/wire/frame_format.h"

/* One row of rpc.def. */
struct tarn_rpc_method {
    uint32_t nr;
    const char *name;
    const ProtobufCMessageDescriptor *request;
    const ProtobufCMessageDescriptor *response; /* NULL: a notice */
    bool idempotent;                            /* may be sent again after a lost connection */
    bool leader_only;
    const char *group; /* "meta", "data", "job", "admin", "push" */
};

enum tarn_rpc_nr {
#define TARN_RPC(nr, name, req, resp, idem, leader, group) TARN_RPC_##name = (nr),
#define TARN_RPC_NOTICE(nr, name, msg, group)              TARN_RPC_##name = (nr),
#include "lib/wire/rpc.def"
#undef TARN_RPC
#undef TARN_RPC_NOTICE
};

#define TARN_RPC_NR_MAX 256u /* numbers are below */

/* NULL when this build does not know `nr`. */
const struct tarn_rpc_method *tarn_rpc_method(uint32_t nr);

/* Writes TARN_FRAME_HDR_BYTES to dst, with the header's checksum. */
void tarn_frame_encode(const struct tarn_frame *f, uint8_t *dst);
/*
 * Reads a header from TARN_FRAME_HDR_BYTES at p. FRAME_BAD (magic, checksum, type), FRAME_VERSION,
 * FRAME_TOO_BIG (a length over its limit).
 */
int tarn_frame_decode(const uint8_t *p, struct tarn_frame *ret);
uint32_t tarn_frame_body_sum(const void *meta, size_t meta_len, const void *body, size_t body_len);

/*
 * Appends a whole frame but the payload to `out`: header, meta (may be NULL), message (may be
 * NULL). FRAME_TOO_BIG when a part is over its limit.
 */
int tarn_frame_build(struct tarn_frame *f, const ProtobufCMessage *meta,
                     const ProtobufCMessage *msg, struct tarn_str *out);
/* The same from encoded parts: `body` and `meta` may be NULL when empty. */
int tarn_frame_build_packed(struct tarn_frame *f, const void *meta, size_t meta_len,
                            const void *body, size_t body_len, struct tarn_str *out);
/*
 * Decodes a message; bounds memory by the body's length (a repeated field cannot claim more
 * elements than bytes). NULL when malformed. Free with protobuf_c_message_free_unpacked(m, NULL).
 */
ProtobufCMessage *tarn_msg_decode(const ProtobufCMessageDescriptor *d, const uint8_t *p, size_t n);
/* The same; *ret_bytes is the memory that it takes. Errors: MSG_BAD, NO_MEMORY. */
int tarn_msg_decode_sized(const ProtobufCMessageDescriptor *d, const uint8_t *p, size_t n,
                          ProtobufCMessage **ret_msg, size_t *ret_bytes);

/*
 * A constant text for a field of a message that is only encoded: protobuf-c has no const in its
 * structs, and packing writes nothing.
 */
static inline char *tarn_wire_text(const char *s)
{
    return (char *)(uintptr_t)s;
}

/* The same for a bytes field. */
static inline ProtobufCBinaryData tarn_wire_bytes(const void *p, size_t n)
{
    return (ProtobufCBinaryData){n, (uint8_t *)(uintptr_t)p};
}
