/* SPDX-License-Identifier: Apache-2.0 */
/* Frames and messages: vectors, bounds, damage. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "lib/base/env.h"
#include "lib/base/err.h"
#include "lib/base/hash.h"
#include "lib/base/limits.h"
#include "lib/base/mem.h"
#include "lib/wire/tarn.pb-c.h"
#include "lib/wire/wire.h"

#define HDR TARN_FRAME_HDR_BYTES

static const struct tarn_frame sample = {
    .version = 1,
    .type = TARN_FRAME_REQUEST,
    .flags = 0x0201,
    .request_id = 0x1122334455667788,
    .method = 100,
    .status = 0,
    .body_len = 0x012345,
    .payload_len = 0x400000,
    .remaining_ms = 30000,
    .meta_len = 0x0102,
    .trace_id = 0x99aabbccddeeff00,
    .body_sum = 0xdeadbeef,
};

/* The format's definition says these bytes (docs/formats/frame.md); the sum is XXH3's. */
static void test_header_vector(void **state)
{
    static const uint8_t want[52] = {
        'T',  'A',  'R',  'N',  1,    1,    0x01, 0x02, 0x88, 0x77, 0x66, 0x55, 0x44,
        0x33, 0x22, 0x11, 100,  0,    0,    0,    0,    0,    0,    0,    0x45, 0x23,
        0x01, 0,    0,    0,    0x40, 0,    0x30, 0x75, 0,    0,    0x02, 0x01, 0,
        0,    0x00, 0xff, 0xee, 0xdd, 0xcc, 0xbb, 0xaa, 0x99, 0xef, 0xbe, 0xad, 0xde};
    uint8_t p[HDR];
    uint32_t sum;

    (void)state;
    tarn_frame_encode(&sample, p);
    assert_memory_equal(p, want, sizeof(want));
    sum = p[52] | (uint32_t)p[53] << 8 | (uint32_t)p[54] << 16 | (uint32_t)p[55] << 24;
    assert_int_equal(sum, (uint32_t)tarn_xxh3(want, sizeof(want)));
    assert_int_equal(sum, 0x86aa5ac4);
}

static void test_header_round_trip(void **state)
{
    struct tarn_frame got = {0};
    uint8_t p[HDR], again[HDR];

    (void)state;
    tarn_frame_encode(&sample, p);
    assert_int_equal(tarn_frame_decode(p, &got), 0);
    assert_int_equal(got.request_id, sample.request_id);
    assert_int_equal(got.trace_id, sample.trace_id);
    tarn_frame_encode(&got, again);
    assert_memory_equal(p, again, HDR);
}

static void test_header_every_bit(void **state)
{
    struct tarn_frame got;
    uint8_t p[HDR];

    (void)state;
    tarn_frame_encode(&sample, p);
    for (unsigned bit = 0; bit < HDR * 8; bit++) {
        p[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_equal(tarn_frame_decode(p, &got), -TARN_E_FRAME_BAD);
        p[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    assert_int_equal(tarn_frame_decode(p, &got), 0);
}

/* Writes `v` at `off` and makes the checksum fit again. */
static void header_set(uint8_t p[HDR], size_t off, uint32_t v, size_t n)
{
    uint32_t sum;

    tarn_frame_encode(&sample, p);
    for (size_t i = 0; i < n; i++)
        p[off + i] = (uint8_t)(v >> 8 * i);
    sum = (uint32_t)tarn_xxh3(p, 52);
    for (size_t i = 0; i < 4; i++)
        p[52 + i] = (uint8_t)(sum >> 8 * i);
}

static void test_header_fields(void **state)
{
    static const struct {
        size_t off;
        uint32_t v;
        size_t n;
        int rc;
    } rows[] = {
        {0, 0x4e524155, 4, -TARN_E_FRAME_BAD},
        {4, 0, 1, -TARN_E_FRAME_VERSION},
        {4, TARN_FRAME_VERSION + 1, 1, -TARN_E_FRAME_VERSION},
        {4, 255, 1, -TARN_E_FRAME_VERSION},
        {5, 0, 1, -TARN_E_FRAME_BAD},
        {5, 11, 1, -TARN_E_FRAME_BAD},
        {6, 0xffff, 2, 0}, /* unknown flags are ignored */
        {24, TARN_FRAME_BODY_MAX, 4, 0},
        {24, TARN_FRAME_BODY_MAX + 1, 4, -TARN_E_FRAME_TOO_BIG},
        {24, 0xffffffff, 4, -TARN_E_FRAME_TOO_BIG},
        {28, TARN_FRAME_PAYLOAD_MAX, 4, 0},
        {28, TARN_FRAME_PAYLOAD_MAX + 1, 4, -TARN_E_FRAME_TOO_BIG},
        {28, 0xffffffff, 4, -TARN_E_FRAME_TOO_BIG},
        {36, TARN_FRAME_META_MAX, 4, 0},
        {36, TARN_FRAME_META_MAX + 1, 4, -TARN_E_FRAME_TOO_BIG},
        {36, 0xffffffff, 4, -TARN_E_FRAME_TOO_BIG},
    };
    uint8_t p[HDR];

    (void)state;
    for (size_t i = 0; i < TARN_ARRAY_LEN(rows); i++) {
        struct tarn_frame got;

        header_set(p, rows[i].off, rows[i].v, rows[i].n);
        assert_int_equal(tarn_frame_decode(p, &got), rows[i].rc);
    }
}

static void test_body_sum(void **state)
{
    const char text[] = "meta and body";

    (void)state;
    assert_int_equal(tarn_frame_body_sum(NULL, 0, NULL, 0), (uint32_t)tarn_xxh3("", 0));
    for (size_t cut = 0; cut <= strlen(text); cut++) {
        char *body = tarn_xstrdup(text + cut); /* elsewhere */

        assert_int_equal(tarn_frame_body_sum(text, cut, text + cut, strlen(text) - cut),
                         (uint32_t)tarn_xxh3(text, strlen(text)));
        assert_int_equal(tarn_frame_body_sum(text, cut, body, strlen(body)),
                         (uint32_t)tarn_xxh3(text, strlen(text)));
        free(body);
    }
}

static void test_build(void **state)
{
    Tarn__Wire__LookupRequest msg = TARN__WIRE__LOOKUP_REQUEST__INIT;
    Tarn__Wire__CallMeta meta = TARN__WIRE__CALL_META__INIT;
    struct tarn_frame f = {.version = 1, .type = TARN_FRAME_REQUEST, .method = TARN_RPC_lookup};
    struct tarn_frame got;
    struct tarn_str out = {0}, packed = {0};
    Tarn__Wire__LookupRequest *back;

    (void)state;
    meta.uid = 1000;
    msg.parent = 1;
    msg.name = (ProtobufCBinaryData){5, (uint8_t *)(uintptr_t) "hello"};
    tarn_str_adds(&out, "x"); /* appends */
    assert_int_equal(tarn_frame_build(&f, &meta.base, &msg.base, &out), 0);
    assert_int_equal(out.len, 1 + HDR + f.meta_len + f.body_len);
    assert_int_equal(tarn_frame_decode((const uint8_t *)out.p + 1, &got), 0);
    assert_int_equal(got.body_sum,
                     (uint32_t)tarn_xxh3(out.p + 1 + HDR, (size_t)got.meta_len + got.body_len));
    back = (Tarn__Wire__LookupRequest *)tarn_msg_decode(
        tarn_rpc_method(TARN_RPC_lookup)->request, (const uint8_t *)out.p + 1 + HDR + got.meta_len,
        got.body_len);
    assert_non_null(back);
    assert_int_equal(back->parent, 1);
    assert_int_equal(back->name.len, 5);
    protobuf_c_message_free_unpacked(&back->base, NULL);
    assert_int_equal(tarn_frame_build_packed(&f, out.p + 1 + HDR, got.meta_len,
                                             out.p + 1 + HDR + got.meta_len, got.body_len, &packed),
                     0);
    assert_int_equal(packed.len, out.len - 1);
    assert_memory_equal(packed.p, out.p + 1, packed.len);
    tarn_str_fini(&out);
    tarn_str_fini(&packed);
}

static void test_build_too_big(void **state)
{
    Tarn__Wire__ReadlinkResponse msg = TARN__WIRE__READLINK_RESPONSE__INIT;
    struct tarn_frame f = {.version = 1, .type = TARN_FRAME_RESPONSE};
    struct tarn_str out = {0};

    (void)state;
    msg.target.len = TARN_FRAME_BODY_MAX;
    msg.target.data = calloc(1, msg.target.len);
    assert_int_equal(tarn_frame_build(&f, NULL, &msg.base, &out), -TARN_E_FRAME_TOO_BIG);
    assert_int_equal(out.len, 0);
    msg.target.len -= 4; /* tag and length */
    assert_int_equal(tarn_frame_build(&f, NULL, &msg.base, &out), 0);
    assert_int_equal(f.body_len, TARN_FRAME_BODY_MAX);
    tarn_str_reset(&out);
    assert_int_equal(tarn_frame_build_packed(&f, NULL, TARN_FRAME_META_MAX + 1, NULL, 0, &out),
                     -TARN_E_FRAME_TOO_BIG);
    f.payload_len = TARN_FRAME_PAYLOAD_MAX + 1;
    assert_int_equal(tarn_frame_build(&f, NULL, NULL, &out), -TARN_E_FRAME_TOO_BIG);
    free(msg.target.data);
    tarn_str_fini(&out);
}

static void test_methods(void **state)
{
    unsigned count = 0;

    (void)state;
    for (uint32_t nr = 0; nr < TARN_RPC_NR_MAX + 10; nr++) {
        const struct tarn_rpc_method *m = tarn_rpc_method(nr);

        if (!m)
            continue;
        count++;
        assert_int_equal(m->nr, nr);
        assert_non_null(m->name);
        assert_non_null(m->request);
        assert_int_equal(m->request->magic, PROTOBUF_C__MESSAGE_DESCRIPTOR_MAGIC);
        if (m->response)
            assert_int_equal(m->response->magic, PROTOBUF_C__MESSAGE_DESCRIPTOR_MAGIC);
    }
    assert_true(count >= 20);
    assert_null(tarn_rpc_method(0));
    assert_null(tarn_rpc_method(UINT32_MAX));
    assert_string_equal(tarn_rpc_method(TARN_RPC_free)->name, "free");
    assert_ptr_equal(tarn_rpc_method(TARN_RPC_status)->request, &tarn__wire__empty__descriptor);
    assert_null(tarn_rpc_method(TARN_RPC_invalidate)->response);
    assert_true(tarn_rpc_method(TARN_RPC_read)->idempotent);
    assert_false(tarn_rpc_method(TARN_RPC_job_create)->idempotent);
}

/* Two bytes on the wire may cost more than a hundred in memory: the decoder stops that. */
static void test_decode_bounds(void **state)
{
    size_t n = TARN_FRAME_BODY_MAX, bytes = 0;
    uint8_t *p = malloc(n);
    ProtobufCMessage *m = NULL;
    int rc;

    (void)state;
    assert_non_null(p);
    for (size_t i = 0; i < n; i += 2) { /* ManifestResponse.lines: empty messages */
        p[i] = 0x0a;
        p[i + 1] = 0;
    }
    rc = tarn_msg_decode_sized(&tarn__wire__manifest_response__descriptor, p, n, &m, &bytes);
    assert_int_equal(rc, -TARN_E_MSG_BAD);
    rc = tarn_msg_decode_sized(&tarn__wire__manifest_response__descriptor, p, 64, &m, &bytes);
    assert_int_equal(rc, 0); /* a small one may */
    assert_int_equal(((Tarn__Wire__ManifestResponse *)m)->n_lines, 32);
    assert_true(bytes >= 32 * sizeof(Tarn__Wire__ManifestLine) && bytes <= 64 * 64 + (16u << 10));
    protobuf_c_message_free_unpacked(m, NULL);
    assert_null(tarn_msg_decode(&tarn__wire__manifest_response__descriptor, p, n + 1));
    free(p);
}

static void test_decode_malformed(void **state)
{
    static const uint8_t rows[][8] = {
        {0x0a, 0x7f},                                     /* longer than there is */
        {0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, /* length without end */
        {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, /* tag without end */
        {0x0b},                                           /* group */
        {0x00, 0x00},                                     /* field 0 */
        {0x08},                                           /* varint missing */
    };

    (void)state;
    for (size_t i = 0; i < TARN_ARRAY_LEN(rows); i++) {
        size_t n = sizeof(rows[i]);

        while (n > 1 && rows[i][n - 1] == 0)
            n--;
        assert_null(tarn_msg_decode(&tarn__wire__readdir_response__descriptor, rows[i], n));
    }
}

/* Unknown fields of a newer peer do no harm. */
static void test_decode_unknown(void **state)
{
    static const uint8_t p[] = {0x09, 1,    0, 0,   0,   0,    0,    0, 0,
                                0xa2, 0x06, 2, 'h', 'i', 0xa8, 0x06, 7};
    ProtobufCMessage *m = tarn_msg_decode(&tarn__wire__getattr_request__descriptor, p, sizeof(p));

    (void)state;
    assert_non_null(m);
    assert_int_equal(((Tarn__Wire__GetattrRequest *)m)->ino, 1);
    protobuf_c_message_free_unpacked(m, NULL);
}

/* Random damage to real messages: never a crash, never more memory than the bound. */
static void test_decode_damaged(void **state)
{
    struct tarn_rng_seeded r;
    Tarn__Wire__Job job = TARN__WIRE__JOB__INIT;
    Tarn__Wire__LoadSpec spec = TARN__WIRE__LOAD_SPEC__INIT;
    ProtobufCBinaryData paths[3] = {{1, (uint8_t[]){'/'}}, {0, NULL}, {3, (uint8_t[]){1, 2, 3}}};
    uint8_t good[256], bad[256];
    size_t n, decoded = 0;

    (void)state;
    tarn_rng_seeded_init(&r, 7);
    spec.n_paths = 3;
    spec.paths = paths;
    job.spec = &spec;
    job.id = 5;
    job.error_text = (char *)(uintptr_t) "some error";
    n = protobuf_c_message_pack(&job.base, good);
    for (unsigned i = 0; i < 20000; i++) {
        ProtobufCMessage *m = NULL;
        size_t bytes = 0, len = n - tarn_rng_below(&r.base, 3);

        memcpy(bad, good, n);
        for (unsigned k = 0; k < 1 + i % 4; k++)
            bad[tarn_rng_below(&r.base, n)] ^= (uint8_t)(1u << tarn_rng_below(&r.base, 8));
        if (tarn_msg_decode_sized(&tarn__wire__job__descriptor, bad, len, &m, &bytes) < 0)
            continue;
        decoded++;
        assert_true(bytes <= len * 64 + (16u << 10));
        protobuf_c_message_free_unpacked(m, NULL);
    }
    assert_true(decoded > 100 && decoded < 19900);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_header_vector),    cmocka_unit_test(test_header_round_trip),
        cmocka_unit_test(test_header_every_bit), cmocka_unit_test(test_header_fields),
        cmocka_unit_test(test_body_sum),         cmocka_unit_test(test_build),
        cmocka_unit_test(test_build_too_big),    cmocka_unit_test(test_methods),
        cmocka_unit_test(test_decode_bounds),    cmocka_unit_test(test_decode_malformed),
        cmocka_unit_test(test_decode_unknown),   cmocka_unit_test(test_decode_damaged),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
