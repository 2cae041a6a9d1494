/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lib/wire/frame_format.h — bytes of a frame: header, meta, body, payload. All integers
 * little-endian.
 *
 *      0  u32  magic "TARN"
 *      4  u8   version
 *      5  u8   type
 *      6  u16  flags
 *      8  u64  request id
 *     16  u32  method (rpc.def)
 *     20  u32  status (responses; 0 or an error number)
 *     24  u32  body bytes
 *     28  u32  payload bytes
 *     32  u32  remaining ms (requests; 0: no deadline)
 *     36  u32  meta bytes
 *     40  u64  trace id
 *     48  u32  XXH3 (low half) over meta and body
 *     52  u32  XXH3 (low half) over bytes 0..51
 *
 * Meta is a CallMeta (who asks, capability), body the method's message, payload raw bytes whose
 * integrity the message carries (granule checksums). Lengths are bounded before anything is
 * allocated (limits.h).
 */
#pragma once

#include <stdint.h>

#define TARN_FRAME_MAGIC       0x4e524154u /* "TARN" */
#define TARN_FRAME_VERSION     1u          /* newest spoken */
#define TARN_FRAME_VERSION_MIN 1u          /* oldest spoken: one release back keeps working */
#define TARN_FRAME_HDR_BYTES   56u
#define TARN_FRAME_META_MAX    4096u

enum tarn_frame_type {
    TARN_FRAME_REQUEST = 1,
    TARN_FRAME_RESPONSE = 2,
    TARN_FRAME_NOTICE = 3,    /* one way, no answer */
    TARN_FRAME_CANCEL = 4,    /* of the request with the same id; no body */
    TARN_FRAME_HELLO = 5,     /* handshake: Hello */
    TARN_FRAME_CHALLENGE = 6, /* handshake: Challenge */
    TARN_FRAME_PROOF = 7,     /* handshake: Proof */
    TARN_FRAME_WELCOME = 8,   /* handshake: Welcome; status says why not */
    TARN_FRAME_PING = 9,      /* answered by PONG with the same id; no body */
    TARN_FRAME_PONG = 10
};

/* A decoded header. */
struct tarn_frame {
    uint8_t version;
    uint8_t type;   /* enum tarn_frame_type */
    uint16_t flags; /* none yet; unknown ones are ignored */
    uint64_t request_id;
    uint32_t method;
    uint32_t status;
    uint32_t body_len;
    uint32_t payload_len;
    uint32_t remaining_ms;
    uint32_t meta_len;
    uint64_t trace_id;
    uint32_t body_sum;
};
