/* SPDX-License-Identifier: Apache-2.0 */
/* Peers that do not keep to the rules, before and after the handshake, on either side. */
#include <stdlib.h>
#include <string.h>

#include "lib/base/hash.h"
#include "tests/unit/lib/rpc/raw_peer.h"

#define SOON (10 * TARN_NS_PER_MS)

static void start(struct fx *fx, struct raw *r, const char *token)
{
    fx_init_sim(fx, 3);
    fx_serve(fx, token);
    fx_listen(fx, "127.0.0.1:0");
    raw_connect(r, fx);
}

static void stop(struct fx *fx, struct raw *r)
{
    raw_fini(r, fx);
    fx_fini(fx);
}

/* Expects a welcome that says why not, and the end of the connection soon after. */
static void expect_refused(struct fx *fx, struct raw *r, int rc)
{
    fx_run(fx, SOON);
    assert_true(raw_next(r));
    assert_int_equal(r->f.type, TARN_FRAME_WELCOME);
    assert_int_equal(r->f.status, -rc);
    assert_int_equal(fx->sessions, 0);
    fx_run(fx, TARN_HANDSHAKE_MS * TARN_NS_PER_MS);
    assert_true(r->closed);
}

static void expect_cut(struct fx *fx, const struct raw *r)
{
    fx_run(fx, SOON);
    assert_true(r->closed);
}

/* ---- clients ------------------------------------------------------------------------------------
 */

static void test_rightful(void **state)
{
    struct fx fx;
    struct raw r;
    uint8_t mac[32];
    Tarn__Wire__Welcome *w;

    (void)state;
    start(&fx, &r, FX_TOKEN);
    raw_login(&r, &fx, FX_TOKEN);
    assert_int_equal(fx.sessions, 1);
    w = (Tarn__Wire__Welcome *)tarn_msg_decode(&tarn__wire__welcome__descriptor,
                                               (const uint8_t *)r.body.p, r.body.len);
    assert_non_null(w);
    raw_mac(&r, "tarn-server", FX_TOKEN, mac);
    assert_int_equal(w->mac.len, 32);
    assert_memory_equal(w->mac.data, mac, 32);
    assert_string_equal(w->cluster_id, FX_CLUSTER);
    assert_string_equal(w->principal, "token");
    protobuf_c_message_free_unpacked(&w->base, NULL);
    stop(&fx, &r);
}

static void test_wrong_token(void **state)
{
    struct fx fx;
    struct raw r;
    uint8_t mac[32];

    (void)state;
    start(&fx, &r, FX_TOKEN);
    raw_hello(&r, 1, 1);
    fx_run(&fx, SOON);
    raw_challenge(&r, true);
    raw_mac(&r, "tarn-client", FX_TOKEN "x", mac);
    raw_proof(&r, mac, 32);
    expect_refused(&fx, &r, -TARN_E_AUTH_BAD);
    stop(&fx, &r);
}

static void test_no_proof(void **state)
{
    struct fx fx;
    struct raw r;

    (void)state;
    start(&fx, &r, FX_TOKEN);
    raw_hello(&r, 1, 1);
    fx_run(&fx, SOON);
    raw_challenge(&r, true);
    raw_proof(&r, "", 0);
    expect_refused(&fx, &r, -TARN_E_AUTH_REQUIRED);
    stop(&fx, &r);
}

/* A right MAC that is cut, too long, of the other role, or with one bit changed. */
static void test_nearly_right(void **state)
{
    for (unsigned i = 0; i < 3 + 256; i++) {
        struct fx fx;
        struct raw r;
        uint8_t mac[33] = {0};
        size_t n = i == 0 ? 31 : i == 1 ? 33 : 32;

        (void)state;
        start(&fx, &r, FX_TOKEN);
        raw_hello(&r, 1, 1);
        fx_run(&fx, TARN_NS_PER_MS);
        raw_challenge(&r, true);
        raw_mac(&r, i == 2 ? "tarn-server" : "tarn-client", FX_TOKEN, mac);
        if (i >= 3)
            mac[(i - 3) / 8] ^= (uint8_t)(1u << (i - 3) % 8);
        raw_proof(&r, mac, n);
        expect_refused(&fx, &r, -TARN_E_AUTH_BAD);
        stop(&fx, &r);
    }
}

/* What one connection proved proves nothing on the next. */
static void test_replayed_proof(void **state)
{
    struct fx fx;
    struct raw r, again;
    uint8_t mac[32];

    (void)state;
    start(&fx, &r, FX_TOKEN);
    raw_login(&r, &fx, FX_TOKEN);
    raw_mac(&r, "tarn-client", FX_TOKEN, mac);
    raw_connect(&again, &fx);
    raw_hello(&again, 1, 1); /* with the same nonce */
    fx_run(&fx, SOON);
    raw_challenge(&again, true);
    assert_memory_not_equal(r.nonce_server, again.nonce_server, 32);
    raw_proof(&again, mac, 32);
    fx_run(&fx, SOON);
    assert_true(raw_next(&again));
    assert_int_equal(again.f.status, TARN_E_AUTH_BAD);
    assert_int_equal(fx.sessions, 1);
    raw_fini(&again, &fx);
    stop(&fx, &r);
}

/* Someone in between who lowers the offered versions spoils the proof. */
static void test_downgrade(void **state)
{
    struct fx fx;
    struct raw r;
    uint8_t mac[32];

    (void)state;
    start(&fx, &r, FX_TOKEN);
    raw_hello(&r, 1, 1);
    fx_run(&fx, SOON);
    raw_challenge(&r, true);
    r.max = 2; /* what the client meant */
    raw_mac(&r, "tarn-client", FX_TOKEN, mac);
    raw_proof(&r, mac, 32);
    expect_refused(&fx, &r, -TARN_E_AUTH_BAD);
    stop(&fx, &r);
}

static void test_versions(void **state)
{
    static const struct {
        uint32_t min, max;
        bool good;
    } rows[] = {{1, 1, true},  {0, 9, true},  {1, UINT32_MAX, true},
                {2, 9, false}, {0, 0, false}, {9, 1, false}};

    (void)state;
    for (size_t i = 0; i < TARN_ARRAY_LEN(rows); i++) {
        struct fx fx;
        struct raw r;

        start(&fx, &r, FX_TOKEN);
        raw_hello(&r, rows[i].min, rows[i].max);
        if (rows[i].good) {
            fx_run(&fx, SOON);
            raw_challenge(&r, true);
            assert_int_equal(r.version, 1);
        } else {
            expect_refused(&fx, &r, -TARN_E_FRAME_VERSION);
        }
        stop(&fx, &r);
    }
}

/* A peer so new that even its frames are of another version is told so. */
static void test_newer_frame(void **state)
{
    struct fx fx;
    struct raw r;

    (void)state;
    start(&fx, &r, FX_TOKEN);
    raw_send(&r, (struct tarn_frame){.type = TARN_FRAME_HELLO, .version = 200}, NULL);
    expect_refused(&fx, &r, -TARN_E_FRAME_VERSION);
    stop(&fx, &r);
}

/* Anything but the expected message before the handshake is over: no answer, no patience. */
static void test_not_a_handshake(void **state)
{
    (void)state;
    for (unsigned type = TARN_FRAME_REQUEST; type <= TARN_FRAME_PONG; type++) {
        for (unsigned after_hello = 0; after_hello < 2; after_hello++) {
            struct fx fx;
            struct raw r;

            if (type == (after_hello ? TARN_FRAME_PROOF : TARN_FRAME_HELLO))
                continue;
            start(&fx, &r, FX_TOKEN);
            if (after_hello) {
                raw_hello(&r, 1, 1);
                fx_run(&fx, SOON);
                raw_challenge(&r, true);
            }
            raw_send(&r, (struct tarn_frame){.type = (uint8_t)type, .method = TARN_RPC_job_create},
                     NULL);
            expect_cut(&fx, &r);
            assert_false(raw_next(&r));
            assert_int_equal(fx.calls, 0);
            assert_int_equal(fx.sessions, 0);
            stop(&fx, &r);
        }
    }
}

/* Before the handshake nobody gets memory for large frames. */
static void test_large_hello(void **state)
{
    static const struct tarn_frame rows[] = {
        {.version = 1, .type = TARN_FRAME_HELLO, .body_len = 1025},
        {.version = 1, .type = TARN_FRAME_HELLO, .body_len = TARN_FRAME_BODY_MAX},
        {.version = 1, .type = TARN_FRAME_HELLO, .payload_len = 1},
        {.version = 1, .type = TARN_FRAME_HELLO, .meta_len = 1},
    };

    (void)state;
    for (size_t i = 0; i < TARN_ARRAY_LEN(rows); i++) {
        uint8_t hdr[TARN_FRAME_HDR_BYTES];
        struct fx fx;
        struct raw r;

        start(&fx, &r, FX_TOKEN);
        tarn_frame_encode(&rows[i], hdr);
        raw_send_bytes(&r, hdr, sizeof(hdr));
        expect_cut(&fx, &r);
        stop(&fx, &r);
    }
}

static void test_malformed_hello(void **state)
{
    static const uint8_t bad[] = {0x0a, 0x7f};
    Tarn__Wire__Hello hello = TARN__WIRE__HELLO__INIT;
    uint8_t nonce[31] = {0};
    struct fx fx;
    struct raw r;
    struct tarn_frame f = {.version = 1, .type = TARN_FRAME_HELLO};
    struct tarn_str out = {0};

    (void)state;
    start(&fx, &r, FX_TOKEN);
    assert_int_equal(tarn_frame_build_packed(&f, NULL, 0, bad, sizeof(bad), &out), 0);
    raw_send_bytes(&r, out.p, out.len);
    tarn_str_fini(&out);
    expect_cut(&fx, &r);
    stop(&fx, &r);

    start(&fx, &r, FX_TOKEN);
    hello.version_max = 1;
    hello.nonce = (ProtobufCBinaryData){sizeof(nonce), nonce}; /* one byte short */
    raw_send(&r, f, &hello.base);
    expect_cut(&fx, &r);
    stop(&fx, &r);
}

/* A byte a second: the deadline is for the handshake, not for the last byte. */
static void test_slow_handshake(void **state)
{
    struct fx fx;
    struct raw r;
    uint64_t t0;

    (void)state;
    start(&fx, &r, FX_TOKEN);
    t0 = tarn_loop_now_ns(fx.loop);
    for (unsigned i = 0; i < 4; i++) {
        raw_send_bytes(&r, &"TARN"[i], 1);
        fx_run(&fx, TARN_NS_PER_S);
        assert_false(r.closed);
    }
    fx_run(&fx, 2 * TARN_NS_PER_S);
    assert_true(r.closed);
    assert_in_range(r.closed_ns - t0, 4900 * TARN_NS_PER_MS, 5 * TARN_NS_PER_S);
    stop(&fx, &r);

    start(&fx, &r, FX_TOKEN); /* says nothing at all after the challenge */
    raw_hello(&r, 1, 1);
    fx_run(&fx, 4900 * TARN_NS_PER_MS);
    assert_false(r.closed);
    fx_run(&fx, 200 * TARN_NS_PER_MS);
    assert_true(r.closed);
    stop(&fx, &r);
}

/* ---- after the handshake
 * -------------------------------------------------------------------------- */

/* Every bit of a request changed: refused or harmless, never another call. */
static void test_altered_frames(void **state)
{
    Tarn__Wire__LookupRequest msg = TARN__WIRE__LOOKUP_REQUEST__INIT;
    struct tarn_frame f = {
        .version = 1, .type = TARN_FRAME_REQUEST, .method = TARN_RPC_lookup, .request_id = 1};
    struct tarn_str out = {0};

    (void)state;
    msg.parent = 5;
    assert_int_equal(tarn_frame_build(&f, NULL, &msg.base, &out), 0);
    for (size_t bit = 0; bit < out.len * 8; bit++) {
        struct fx fx;
        struct raw r;

        start(&fx, &r, NULL);
        raw_login(&r, &fx, NULL);
        out.p[bit / 8] ^= (char)(1u << bit % 8);
        raw_send_bytes(&r, out.p, out.len);
        out.p[bit / 8] ^= (char)(1u << bit % 8);
        fx_run(&fx, TARN_NS_PER_MS);
        assert_true(r.closed);
        assert_int_equal(fx.calls, 0);
        stop(&fx, &r);
    }
    tarn_str_fini(&out);
}

static void test_oversized(void **state)
{
    static const struct {
        size_t off;
        uint32_t v;
    } rows[] = {{24, TARN_FRAME_BODY_MAX + 1},
                {28, TARN_FRAME_PAYLOAD_MAX + 1},
                {28, 0xffffffff},
                {36, TARN_FRAME_META_MAX + 1}};

    (void)state;
    for (size_t i = 0; i < TARN_ARRAY_LEN(rows); i++) {
        struct tarn_frame f = {.version = 1, .type = TARN_FRAME_REQUEST};
        uint8_t hdr[TARN_FRAME_HDR_BYTES];
        uint32_t sum;
        struct fx fx;
        struct raw r;

        start(&fx, &r, NULL);
        raw_login(&r, &fx, NULL);
        tarn_frame_encode(&f, hdr);
        memcpy(hdr + rows[i].off, &rows[i].v, 4); /* on a little-endian host */
        sum = (uint32_t)tarn_xxh3(hdr, 52);
        memcpy(hdr + 52, &sum, 4);
        raw_send_bytes(&r, hdr, sizeof(hdr));
        expect_cut(&fx, &r);
        stop(&fx, &r);
    }
}

/* A frame that never ends, or a header that never ends, is cut after its own deadline. */
static void test_slow_frame(void **state)
{
    struct tarn_frame f = {.version = 1,
                           .type = TARN_FRAME_REQUEST,
                           .method = TARN_RPC_fill,
                           .body_len = 100,
                           .payload_len = TARN_FRAME_PAYLOAD_MAX};
    uint8_t hdr[TARN_FRAME_HDR_BYTES];

    (void)state;
    for (unsigned whole = 0; whole < 2; whole++) {
        struct fx fx;
        struct raw r;
        uint64_t t0;

        start(&fx, &r, FX_TOKEN);
        raw_login(&r, &fx, FX_TOKEN);
        tarn_frame_encode(&f, hdr);
        t0 = tarn_loop_now_ns(fx.loop);
        raw_send_bytes(&r, hdr, whole ? sizeof(hdr) : 1);
        for (unsigned i = 0; i < 29; i++) {
            fx_run(&fx, TARN_NS_PER_S);
            raw_send_bytes(&r, whole ? "x" : (const char *)hdr + i + 1, 1);
        }
        assert_false(r.closed);
        fx_run(&fx, 2 * TARN_NS_PER_S);
        assert_true(r.closed);
        assert_in_range(r.closed_ns - t0, 30 * TARN_NS_PER_S, 30 * TARN_NS_PER_S + SOON);
        stop(&fx, &r);
    }
}

static void test_truncated(void **state)
{
    Tarn__Wire__LookupRequest msg = TARN__WIRE__LOOKUP_REQUEST__INIT;
    struct tarn_frame f = {
        .version = 1, .type = TARN_FRAME_REQUEST, .method = TARN_RPC_lookup, .payload_len = 1000};
    struct tarn_str out = {0};

    (void)state;
    msg.parent = 5;
    assert_int_equal(tarn_frame_build(&f, NULL, &msg.base, &out), 0);
    for (size_t n = 1; n < out.len + 1000; n += n < out.len ? 1 : 333) {
        struct fx fx;
        struct raw r;
        static const char zeros[1000];

        start(&fx, &r, NULL);
        raw_login(&r, &fx, NULL);
        raw_send_bytes(&r, out.p, TARN_MIN(n, out.len));
        if (n > out.len)
            raw_send_bytes(&r, zeros, n - out.len);
        tarn_conn_close(r.conn);
        fx_run(&fx, SOON);
        assert_int_equal(fx.calls, 0);
        assert_int_equal(fx.gone, 1);
        stop(&fx, &r);
    }
    tarn_str_fini(&out);
}

/* ---- servers ------------------------------------------------------------------------------------
 */

static void client_start(struct fx *fx, struct raw *r, struct op *op, const char *token)
{
    fx_init_sim(fx, 3);
    fx->client = fx_client_new(fx, raw_listen(r, fx), token);
    op_start(op, fx, TARN_RPC_lookup, 1);
    fx_run(fx, SOON);
    assert_non_null(r->conn);
    assert_true(raw_next(r));
    assert_int_equal(r->f.type, TARN_FRAME_HELLO);
}

static void client_stop(struct fx *fx, struct raw *r)
{
    fx_stop_client(fx, &fx->client);
    raw_fini(r, fx);
    fx_fini(fx);
}

static void answer_challenge(struct raw *r, bool auth, uint32_t version)
{
    Tarn__Wire__Challenge m = TARN__WIRE__CHALLENGE__INIT;
    uint8_t nonce[32] = {9};

    m.version = version;
    m.auth = auth;
    m.nonce = (ProtobufCBinaryData){sizeof(nonce), nonce};
    raw_send(r, (struct tarn_frame){.type = TARN_FRAME_CHALLENGE}, &m.base);
}

/* A wrong token ends the requests at once, and does not make the client try for ever. */
static void test_client_wrong_token(void **state)
{
    struct fx fx;
    struct op op, next;

    (void)state;
    fx_init_sim(&fx, 3);
    fx_serve(&fx, FX_TOKEN);
    fx_listen(&fx, "127.0.0.1:0");
    fx_connect(&fx, "another token");
    op_start(&op, &fx, TARN_RPC_lookup, 1);
    fx_run(&fx, SOON);
    assert_int_equal(op.done, 1);
    assert_int_equal(op.rc, -TARN_E_AUTH_BAD);
    assert_int_equal(fx.state_rc, -TARN_E_AUTH_BAD);
    fx_run(&fx, 60 * TARN_NS_PER_S);
    assert_int_equal(fx.down, 1);
    op_start(&next, &fx, TARN_RPC_lookup, 1);
    fx_run(&fx, SOON);
    assert_int_equal(next.rc, -TARN_E_AUTH_BAD);
    assert_int_equal(fx.down, 2);
    op_start(&next, &fx, TARN_RPC_lookup, 1); /* the next attempt waits */
    fx_run(&fx, 100 * TARN_NS_PER_MS);
    assert_int_equal(fx.down, 2);
    fx_run(&fx, 2 * TARN_NS_PER_S);
    assert_int_equal(fx.down, 3);
    assert_int_equal(fx.sessions, 0);
    fx_fini(&fx);
}

static void test_client_no_token(void **state)
{
    struct fx fx;
    struct op op;

    (void)state;
    fx_init_sim(&fx, 3);
    fx_serve(&fx, FX_TOKEN);
    fx_listen(&fx, "127.0.0.1:0");
    fx_connect(&fx, NULL);
    op_start(&op, &fx, TARN_RPC_lookup, 1);
    fx_run(&fx, SOON);
    assert_int_equal(op.rc, -TARN_E_AUTH_REQUIRED);
    fx_fini(&fx);
}

/* One address refuses us, another takes us. */
static void test_client_other_address(void **state)
{
    struct fx fx;
    struct raw r;
    struct op op;
    struct tarn_str both = {0};

    (void)state;
    fx_init_sim(&fx, 3);
    fx_serve(&fx, FX_TOKEN);
    fx_listen(&fx, "127.0.0.1:0");
    tarn_str_addf(&both, "%s,127.0.0.1:9,%s", raw_listen(&r, &fx), fx.addr);
    fx.client = fx_client_new(&fx, both.p, FX_TOKEN);
    op_start(&op, &fx, TARN_RPC_lookup, 1);
    fx_run(&fx, SOON);
    answer_challenge(&r, false, 1);
    fx_run(&fx, SOON);
    assert_int_equal(op.rc, 0);
    assert_int_equal(op.done, 1);
    tarn_str_fini(&both);
    client_stop(&fx, &r);
}

/* A server that does not prove that it knows the token is not ours. */
static void test_impostor(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        Tarn__Wire__Welcome w = TARN__WIRE__WELCOME__INIT;
        uint8_t mac[32];
        struct fx fx;
        struct raw r;
        struct op op;

        client_start(&fx, &r, &op, FX_TOKEN);
        answer_challenge(&r, i != 0, 1); /* 0: says that no proof is needed */
        fx_run(&fx, SOON);
        if (i > 0) {
            assert_true(raw_next(&r));
            assert_int_equal(r.f.type, TARN_FRAME_PROOF);
            if (i == 2) { /* sends back what it got */
                Tarn__Wire__Proof *p = (Tarn__Wire__Proof *)tarn_msg_decode(
                    &tarn__wire__proof__descriptor, (const uint8_t *)r.body.p, r.body.len);

                memcpy(mac, p->mac.data, 32);
                protobuf_c_message_free_unpacked(&p->base, NULL);
            } else {
                memset(mac, 7, sizeof(mac));
            }
            if (i < 3)
                w.mac = (ProtobufCBinaryData){32, mac}; /* 3: none */
            raw_send(&r, (struct tarn_frame){.type = TARN_FRAME_WELCOME}, &w.base);
            fx_run(&fx, SOON);
        }
        assert_int_equal(op.done, 1);
        assert_int_equal(op.rc, -TARN_E_AUTH_BAD);
        assert_int_equal(fx.up, 0);
        client_stop(&fx, &r);
    }
}

static void test_server_versions(void **state)
{
    static const uint32_t bad[] = {0, 2, 255, 257, UINT32_MAX};

    (void)state;
    for (size_t i = 0; i < TARN_ARRAY_LEN(bad); i++) {
        struct fx fx;
        struct raw r;
        struct op op;

        client_start(&fx, &r, &op, NULL);
        answer_challenge(&r, false, bad[i]);
        fx_run(&fx, SOON);
        assert_int_equal(op.rc, -TARN_E_FRAME_VERSION);
        client_stop(&fx, &r);
    }
}

static void client_login(struct fx *fx, struct raw *r, struct op *op)
{
    Tarn__Wire__Welcome w = TARN__WIRE__WELCOME__INIT;

    client_start(fx, r, op, NULL);
    answer_challenge(r, false, 1);
    fx_run(fx, SOON);
    assert_true(raw_next(r));
    raw_send(r, (struct tarn_frame){.type = TARN_FRAME_WELCOME}, &w.base);
    fx_run(fx, SOON);
    assert_int_equal(fx->up, 1);
    assert_true(raw_next(r));
    assert_int_equal(r->f.type, TARN_FRAME_REQUEST);
    assert_int_equal(r->f.method, TARN_RPC_lookup);
    assert_in_range(r->f.remaining_ms, 29900, 30000);
}

/* Answers that make no sense. */
static void test_odd_answers(void **state)
{
    struct fx fx;
    struct raw r;
    struct op op;
    struct tarn_frame f = {.version = 1, .type = TARN_FRAME_RESPONSE, .method = TARN_RPC_lookup};
    static const uint8_t bad[] = {0x0a, 0x7f};
    struct tarn_str out = {0};

    (void)state;
    client_login(&fx, &r, &op);
    f.request_id = r.f.request_id + 1000; /* nobody asked: dropped */
    raw_send(&r, f, NULL);
    fx_run(&fx, SOON);
    assert_int_equal(op.done, 0);
    f.request_id = r.f.request_id; /* a malformed message ends the request only */
    assert_int_equal(tarn_frame_build_packed(&f, NULL, 0, bad, sizeof(bad), &out), 0);
    raw_send_bytes(&r, out.p, out.len);
    tarn_str_fini(&out);
    fx_run(&fx, SOON);
    assert_int_equal(op.rc, -TARN_E_MSG_BAD);
    assert_false(r.closed);
    op_start(&op, &fx, TARN_RPC_job_create, 1);
    fx_run(&fx, SOON);
    assert_true(raw_next(&r));
    f.request_id = r.f.request_id; /* of another method: the peer is confused */
    f.body_len = 0;
    raw_send(&r, f, NULL);
    fx_run(&fx, 4 * TARN_NS_PER_MS);
    assert_int_equal(op.done, 1);
    assert_int_equal(op.rc, -TARN_E_CONN_LOST);
    client_stop(&fx, &r);
}

/* An answer without a body is a message of defaults. */
static void test_empty_answer(void **state)
{
    struct fx fx;
    struct raw r;
    struct op op;

    (void)state;
    client_login(&fx, &r, &op);
    raw_send(&r,
             (struct tarn_frame){.type = TARN_FRAME_RESPONSE,
                                 .method = TARN_RPC_lookup,
                                 .request_id = r.f.request_id},
             NULL);
    fx_run(&fx, SOON);
    assert_int_equal(op.done, 1);
    assert_int_equal(op.rc, 0);
    client_stop(&fx, &r);
}

/* Cancelling is told; pings are answered. */
static void test_cancel_and_ping_frames(void **state)
{
    struct fx fx;
    struct raw r;
    struct op op;
    uint64_t id;

    (void)state;
    client_login(&fx, &r, &op);
    id = r.f.request_id;
    raw_send(&r, (struct tarn_frame){.type = TARN_FRAME_PING, .request_id = 99}, NULL);
    tarn_rpc_cancel(&op.req);
    fx_run(&fx, SOON);
    assert_true(raw_next(&r));
    assert_int_equal(r.f.type, TARN_FRAME_CANCEL);
    assert_int_equal(r.f.request_id, id);
    assert_true(raw_next(&r));
    assert_int_equal(r.f.type, TARN_FRAME_PONG);
    assert_int_equal(r.f.request_id, 99);
    client_stop(&fx, &r);
}

/* Garbage of every length, before and after the handshake, on both sides. */
static void test_garbage(void **state)
{
    (void)state;
    for (unsigned seed = 0; seed < 200; seed++) {
        struct tarn_rng_seeded rng;
        uint8_t junk[4096];
        struct fx fx;
        struct raw r;

        tarn_rng_seeded_init(&rng, seed);
        start(&fx, &r, NULL);
        if (seed % 2)
            raw_login(&r, &fx, NULL);
        rng.base.fill(&rng.base, junk, sizeof(junk));
        if (seed % 4 >= 2)
            memcpy(junk, "TARN\1\1", 6);
        raw_send_bytes(&r, junk, 56 + tarn_rng_below(&rng.base, sizeof(junk) - 56));
        expect_cut(&fx, &r);
        assert_int_equal(fx.calls, 0);
        stop(&fx, &r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rightful),
        cmocka_unit_test(test_wrong_token),
        cmocka_unit_test(test_no_proof),
        cmocka_unit_test(test_nearly_right),
        cmocka_unit_test(test_replayed_proof),
        cmocka_unit_test(test_downgrade),
        cmocka_unit_test(test_versions),
        cmocka_unit_test(test_newer_frame),
        cmocka_unit_test(test_not_a_handshake),
        cmocka_unit_test(test_large_hello),
        cmocka_unit_test(test_malformed_hello),
        cmocka_unit_test(test_slow_handshake),
        cmocka_unit_test(test_altered_frames),
        cmocka_unit_test(test_oversized),
        cmocka_unit_test(test_slow_frame),
        cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_client_wrong_token),
        cmocka_unit_test(test_client_no_token),
        cmocka_unit_test(test_client_other_address),
        cmocka_unit_test(test_impostor),
        cmocka_unit_test(test_server_versions),
        cmocka_unit_test(test_odd_answers),
        cmocka_unit_test(test_empty_answer),
        cmocka_unit_test(test_cancel_and_ping_frames),
        cmocka_unit_test(test_garbage),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
