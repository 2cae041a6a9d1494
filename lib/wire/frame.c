/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frame headers byte by byte, so that neither padding nor the host's byte order leaks in. A header
 * is believed only after its own checksum; lengths are bounded here, before a reader allocates
 * anything.
 */
#include "lib/wire/wire.h"

#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/err.h"
#include "lib/base/hash.h"
#include "lib/base/limits.h"
#include "lib/base/mem.h"

#define FRAME_SUM_AT 52u /* the header's checksum covers what is before it */

static void frame_put16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

static void frame_put32(uint8_t *p, uint32_t v)
{
    frame_put16(p, (uint16_t)v);
    frame_put16(p + 2, (uint16_t)(v >> 16));
}

static void frame_put64(uint8_t *p, uint64_t v)
{
    frame_put32(p, (uint32_t)v);
    frame_put32(p + 4, (uint32_t)(v >> 32));
}

static uint16_t frame_get16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static uint32_t frame_get32(const uint8_t *p)
{
    return frame_get16(p) | (uint32_t)frame_get16(p + 2) << 16;
}

static uint64_t frame_get64(const uint8_t *p)
{
    return frame_get32(p) | (uint64_t)frame_get32(p + 4) << 32;
}

void tarn_frame_encode(const struct tarn_frame *f, uint8_t *dst)
{
    TARN_ASSERT(f->meta_len <= TARN_FRAME_META_MAX && f->body_len <= TARN_FRAME_BODY_MAX);
    TARN_ASSERT(f->payload_len <= TARN_FRAME_PAYLOAD_MAX);
    frame_put32(dst, TARN_FRAME_MAGIC);
    dst[4] = f->version;
    dst[5] = f->type;
    frame_put16(dst + 6, f->flags);
    frame_put64(dst + 8, f->request_id);
    frame_put32(dst + 16, f->method);
    frame_put32(dst + 20, f->status);
    frame_put32(dst + 24, f->body_len);
    frame_put32(dst + 28, f->payload_len);
    frame_put32(dst + 32, f->remaining_ms);
    frame_put32(dst + 36, f->meta_len);
    frame_put64(dst + 40, f->trace_id);
    frame_put32(dst + 48, f->body_sum);
    frame_put32(dst + FRAME_SUM_AT, (uint32_t)tarn_xxh3(dst, FRAME_SUM_AT));
}

int tarn_frame_decode(const uint8_t *p, struct tarn_frame *ret)
{
    struct tarn_frame f;

    if (frame_get32(p) != TARN_FRAME_MAGIC)
        return -TARN_E_FRAME_BAD;
    if (frame_get32(p + FRAME_SUM_AT) != (uint32_t)tarn_xxh3(p, FRAME_SUM_AT))
        return -TARN_E_FRAME_BAD;
    f.version = p[4];
    f.type = p[5];
    f.flags = frame_get16(p + 6);
    f.request_id = frame_get64(p + 8);
    f.method = frame_get32(p + 16);
    f.status = frame_get32(p + 20);
    f.body_len = frame_get32(p + 24);
    f.payload_len = frame_get32(p + 28);
    f.remaining_ms = frame_get32(p + 32);
    f.meta_len = frame_get32(p + 36);
    f.trace_id = frame_get64(p + 40);
    f.body_sum = frame_get32(p + 48);
    if (f.version < TARN_FRAME_VERSION_MIN || f.version > TARN_FRAME_VERSION)
        return -TARN_E_FRAME_VERSION;
    if (f.type < TARN_FRAME_REQUEST || f.type > TARN_FRAME_PONG)
        return -TARN_E_FRAME_BAD;
    if (f.meta_len > TARN_FRAME_META_MAX || f.body_len > TARN_FRAME_BODY_MAX ||
        f.payload_len > TARN_FRAME_PAYLOAD_MAX)
        return -TARN_E_FRAME_TOO_BIG;
    *ret = f;
    return 0;
}

/* One pass where the two lie side by side, as in a frame; else over a copy. */
uint32_t tarn_frame_body_sum(const void *meta, size_t meta_len, const void *body, size_t body_len)
{
    const uint8_t *m = meta;
    uint8_t *both;
    uint32_t sum;

    if (meta_len == 0)
        return (uint32_t)tarn_xxh3(body_len ? body : "", body_len);
    if (body_len == 0 || m + meta_len == body)
        return (uint32_t)tarn_xxh3(meta, meta_len + body_len);
    both = tarn_xcalloc(1, meta_len + body_len);
    memcpy(both, meta, meta_len);
    memcpy(both + meta_len, body, body_len);
    sum = (uint32_t)tarn_xxh3(both, meta_len + body_len);
    free(both);
    return sum;
}

/* Checks and stores the lengths, and makes room for header and parts at the end of `out`. */
static int frame_room(struct tarn_frame *f, size_t meta_len, size_t body_len, struct tarn_str *out,
                      uint8_t **ret_head)
{
    if (meta_len > TARN_FRAME_META_MAX || body_len > TARN_FRAME_BODY_MAX ||
        f->payload_len > TARN_FRAME_PAYLOAD_MAX)
        return -TARN_E_FRAME_TOO_BIG;
    f->meta_len = (uint32_t)meta_len;
    f->body_len = (uint32_t)body_len;
    *ret_head = (uint8_t *)tarn_str_room(out, TARN_FRAME_HDR_BYTES + meta_len + body_len);
    return 0;
}

static void frame_finish(struct tarn_frame *f, uint8_t *head, struct tarn_str *out)
{
    const uint8_t *parts = head + TARN_FRAME_HDR_BYTES;

    f->body_sum = tarn_frame_body_sum(parts, f->meta_len, parts + f->meta_len, f->body_len);
    tarn_frame_encode(f, head);
    out->len += TARN_FRAME_HDR_BYTES + f->meta_len + f->body_len;
    out->p[out->len] = 0;
}

int tarn_frame_build(struct tarn_frame *f, const ProtobufCMessage *meta,
                     const ProtobufCMessage *msg, struct tarn_str *out)
{
    size_t meta_len = meta ? protobuf_c_message_get_packed_size(meta) : 0;
    size_t body_len = msg ? protobuf_c_message_get_packed_size(msg) : 0;
    uint8_t *head;
    int rc = frame_room(f, meta_len, body_len, out, &head);

    if (rc < 0)
        return rc;
    if (meta)
        TARN_ASSERT(protobuf_c_message_pack(meta, head + TARN_FRAME_HDR_BYTES) == meta_len);
    if (msg)
        TARN_ASSERT(protobuf_c_message_pack(msg, head + TARN_FRAME_HDR_BYTES + meta_len) ==
                    body_len);
    frame_finish(f, head, out);
    return 0;
}

int tarn_frame_build_packed(struct tarn_frame *f, const void *meta, size_t meta_len,
                            const void *body, size_t body_len, struct tarn_str *out)
{
    uint8_t *head;
    int rc = frame_room(f, meta_len, body_len, out, &head);

    if (rc < 0)
        return rc;
    if (meta_len)
        memcpy(head + TARN_FRAME_HDR_BYTES, meta, meta_len);
    if (body_len)
        memcpy(head + TARN_FRAME_HDR_BYTES + meta_len, body, body_len);
    frame_finish(f, head, out);
    return 0;
}
