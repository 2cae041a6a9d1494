/* SPDX-License-Identifier: Apache-2.0 */
/* What a server lets one connection do: numbers, memory, speed. */
#include <stdlib.h>
#include <string.h>

#include "lib/base/fault.h"
#include "tests/unit/lib/rpc/raw_peer.h"

#define SOON (10 * TARN_NS_PER_MS)

static void start(struct fx *fx, struct raw *r)
{
    fx_init_sim(fx, 3);
    fx_serve(fx, FX_TOKEN);
    fx_listen(fx, "127.0.0.1:0");
    raw_connect(r, fx);
    raw_login(r, fx, FX_TOKEN);
}

static void stop(struct fx *fx, struct raw *r)
{
    raw_fini(r, fx);
    fx_fini(fx);
}

static void request(struct raw *r, uint64_t id, uint32_t method, const ProtobufCMessage *msg)
{
    raw_send(r, (struct tarn_frame){.type = TARN_FRAME_REQUEST, .request_id = id, .method = method},
             msg);
}

static void expect_answer(struct raw *r, uint64_t id, uint32_t status)
{
    assert_true(raw_next(r));
    assert_int_equal(r->f.type, TARN_FRAME_RESPONSE);
    assert_int_equal(r->f.request_id, id);
    assert_int_equal(r->f.status, status);
}

static void test_unknown_method(void **state)
{
    static const uint32_t nrs[] = {0,
                                   1,
                                   19,
                                   255,
                                   256,
                                   100000,
                                   UINT32_MAX,
                                   TARN_RPC_du,         /* known, but not served here */
                                   TARN_RPC_invalidate, /* a notice */
                                   TARN_RPC_lookup};
    struct fx fx;
    struct raw r;

    (void)state;
    start(&fx, &r);
    for (size_t i = 0; i < TARN_ARRAY_LEN(nrs); i++)
        request(&r, i, nrs[i], NULL);
    fx_run(&fx, SOON);
    for (size_t i = 0; i + 1 < TARN_ARRAY_LEN(nrs); i++)
        expect_answer(&r, i, TARN_E_NO_SUCH_RPC);
    expect_answer(&r, TARN_ARRAY_LEN(nrs) - 1, 0);
    stop(&fx, &r);
}

static void test_malformed(void **state)
{
    static const uint8_t bad[] = {0x0a, 0x7f};
    struct tarn_frame f = {
        .version = 1, .type = TARN_FRAME_REQUEST, .method = TARN_RPC_lookup, .request_id = 7};
    struct tarn_str out = {0};
    struct fx fx;
    struct raw r;

    (void)state;
    start(&fx, &r);
    assert_int_equal(tarn_frame_build_packed(&f, NULL, 0, bad, sizeof(bad), &out), 0);
    f.request_id = 8; /* the meta */
    assert_int_equal(tarn_frame_build_packed(&f, bad, sizeof(bad), NULL, 0, &out), 0);
    raw_send_bytes(&r, out.p, out.len);
    tarn_str_fini(&out);
    request(&r, 9, TARN_RPC_lookup, NULL);
    fx_run(&fx, SOON);
    expect_answer(&r, 7, TARN_E_MSG_BAD);
    expect_answer(&r, 8, TARN_E_MSG_BAD);
    expect_answer(&r, 9, 0);
    assert_int_equal(fx.calls, 1);
    stop(&fx, &r);
}

static void test_notice_to_server(void **state)
{
    struct fx fx;
    struct raw r;

    (void)state;
    start(&fx, &r);
    raw_send(&r, (struct tarn_frame){.type = TARN_FRAME_NOTICE, .method = TARN_RPC_invalidate},
             NULL);
    raw_send(&r, (struct tarn_frame){.type = TARN_FRAME_NOTICE, .method = TARN_RPC_lookup}, NULL);
    raw_send(&r, (struct tarn_frame){.type = TARN_FRAME_NOTICE, .method = 9999}, NULL);
    request(&r, 9, TARN_RPC_lookup, NULL);
    fx_run(&fx, SOON);
    expect_answer(&r, 9, 0); /* and nothing for the notices */
    assert_int_equal(fx.calls, 1);
    stop(&fx, &r);
}

/* Frames that only a client gets, or that belong to the handshake, cut the connection. */
static void test_out_of_place(void **state)
{
    static const uint8_t types[] = {TARN_FRAME_RESPONSE, TARN_FRAME_HELLO, TARN_FRAME_CHALLENGE,
                                    TARN_FRAME_PROOF, TARN_FRAME_WELCOME};

    (void)state;
    for (size_t i = 0; i < sizeof(types); i++) {
        struct fx fx;
        struct raw r;

        start(&fx, &r);
        raw_send(&r, (struct tarn_frame){.type = types[i]}, NULL);
        fx_run(&fx, SOON);
        assert_true(r.closed);
        stop(&fx, &r);
    }
}

static void test_same_id_twice(void **state)
{
    struct fx fx;
    struct raw r;

    (void)state;
    start(&fx, &r);
    request(&r, 1, TARN_RPC_lookup, NULL);
    request(&r, 1, TARN_RPC_lookup, NULL); /* one after the other is no harm */
    fx_run(&fx, SOON);
    assert_int_equal(fx.calls, 2);
    request(&r, 2, TARN_RPC_getattr, NULL);
    request(&r, 2, TARN_RPC_getattr, NULL);
    fx_run(&fx, SOON);
    assert_true(r.closed);
    assert_int_equal(fx.calls, 3);
    assert_int_equal(fx.cancels, 1); /* its connection is gone */
    stop(&fx, &r);
}

static void test_too_many(void **state)
{
    struct fx fx;
    struct raw r;

    (void)state;
    start(&fx, &r);
    for (unsigned i = 0; i < TARN_CONN_CALLS_MAX + 3; i++)
        request(&r, i, TARN_RPC_getattr, NULL);
    fx_run(&fx, SOON);
    assert_int_equal(fx.held_n, TARN_CONN_CALLS_MAX);
    for (unsigned i = 0; i < 3; i++)
        expect_answer(&r, TARN_CONN_CALLS_MAX + i, TARN_E_BUSY);
    assert_false(raw_next(&r));
    fx_release(&fx, 0);
    fx_run(&fx, SOON);
    for (unsigned i = 0; i < TARN_CONN_CALLS_MAX; i++)
        expect_answer(&r, i, 0);
    request(&r, 1, TARN_RPC_lookup, NULL);
    fx_run(&fx, SOON);
    expect_answer(&r, 1, 0);
    stop(&fx, &r);
}

/* Few requests, but large ones: their memory is bounded too. */
static void test_too_large_together(void **state)
{
    static uint8_t zeros[4u << 20];
    struct fx fx;
    struct raw r;
    unsigned busy = 0;

    (void)state;
    start(&fx, &r);
    for (unsigned i = 0; i < 20; i++) {
        raw_send(&r,
                 (struct tarn_frame){.type = TARN_FRAME_REQUEST,
                                     .request_id = i,
                                     .method = TARN_RPC_getattr,
                                     .payload_len = sizeof(zeros)},
                 NULL);
        raw_send_bytes(&r, zeros, sizeof(zeros));
        fx_run(&fx, SOON);
    }
    while (raw_next(&r))
        busy += r.f.status == TARN_E_BUSY;
    assert_in_range(busy, 3, 5);
    assert_int_equal(fx.held_n, 20 - busy);
    stop(&fx, &r);
}

static void read_requests(struct raw *r, unsigned n, uint32_t length)
{
    Tarn__Wire__ReadRequest msg = TARN__WIRE__READ_REQUEST__INIT;

    msg.length = length;
    for (unsigned i = 0; i < n; i++)
        request(r, i, TARN_RPC_read, &msg.base);
}

/* A peer that asks for much and reads slowly is served at its own speed, whole and in order. */
static void test_slow_reader(void **state)
{
    enum { N = 30, BYTES = 2u << 20 };
    struct fx fx;
    struct raw r;
    unsigned served;

    (void)state;
    start(&fx, &r);
    tarn_conn_pause(r.conn, true);
    read_requests(&r, N, BYTES);
    fx_run(&fx, TARN_NS_PER_S);
    served = fx.calls;
    assert_in_range(served, 8, 12); /* about 16 MiB, although all requests have arrived */
    tarn_conn_pause(r.conn, false);
    for (unsigned i = 0; i < N; i++) {
        while (!raw_next(&r)) {
            assert_false(r.closed);
            fx_run(&fx, 100 * TARN_NS_PER_MS);
        }
        assert_int_equal(r.f.request_id, i);
        assert_int_equal(r.f.payload_len, BYTES);
    }
    assert_int_equal(fx.calls, N);
    stop(&fx, &r);
}

/* One that does not read at all is cut, though it goes on asking. */
static void test_no_reader(void **state)
{
    struct fx fx;
    struct raw r;
    uint64_t t0;

    (void)state;
    start(&fx, &r);
    t0 = tarn_loop_now_ns(fx.loop);
    tarn_conn_pause(r.conn, true);
    read_requests(&r, 60, 2u << 20);
    for (unsigned i = 0; i < 60 && fx.gone == 0; i++) {
        fx_run(&fx, TARN_NS_PER_S);
        if (r.conn && fx.gone == 0)
            request(&r, 1000 + i, TARN_RPC_lookup, NULL);
    }
    assert_int_equal(fx.gone, 1);
    assert_in_range(tarn_loop_now_ns(fx.loop) - t0, 29 * TARN_NS_PER_S, 41 * TARN_NS_PER_S);
    assert_in_range(fx.calls, 8, 12);
    stop(&fx, &r);
}

/* Answers that were held back all come at once, and are more than may wait for one peer. */
static void test_answers_pile_up(void **state)
{
    enum { N = 50 };
    struct tarn_buf *b = fx_payload(TARN_FRAME_PAYLOAD_MAX, 0);
    unsigned good = 0, busy = 0;
    struct fx fx;
    struct raw r;

    (void)state;
    start(&fx, &r);
    tarn_conn_pause(r.conn, true);
    for (unsigned i = 0; i < N; i++)
        request(&r, i, TARN_RPC_getattr, NULL);
    fx_run(&fx, SOON);
    assert_int_equal(fx.held_n, N);
    for (unsigned i = 0; i < N; i++)
        tarn_rpc_reply(fx.held[i], 0, NULL, b, 0, b->len);
    fx.held_n = 0;
    tarn_buf_unref(&b);
    tarn_conn_pause(r.conn, false);
    while (good + busy < N) {
        while (!raw_next(&r)) {
            assert_false(r.closed);
            fx_run(&fx, 100 * TARN_NS_PER_MS);
        }
        if (r.f.status == 0)
            assert_int_equal(r.f.payload_len, TARN_FRAME_PAYLOAD_MAX);
        else
            assert_int_equal(r.f.status, TARN_E_BUSY);
        good += r.f.status == 0;
        busy += r.f.status != 0;
    }
    assert_in_range(good, 38, 40); /* 320 MiB */
    stop(&fx, &r);
}

static void test_cancel_unknown(void **state)
{
    struct fx fx;
    struct raw r;

    (void)state;
    start(&fx, &r);
    raw_send(&r, (struct tarn_frame){.type = TARN_FRAME_CANCEL, .request_id = 77}, NULL);
    raw_send(&r, (struct tarn_frame){.type = TARN_FRAME_PING, .request_id = 5}, NULL);
    raw_send(&r, (struct tarn_frame){.type = TARN_FRAME_PONG, .request_id = 5}, NULL);
    fx_run(&fx, SOON);
    assert_true(raw_next(&r));
    assert_int_equal(r.f.type, TARN_FRAME_PONG);
    assert_int_equal(r.f.request_id, 5);
    assert_false(r.closed);
    stop(&fx, &r);
}

/* An idle peer is asked whether it is there, and cut when it does not answer. */
static void test_idle_peer(void **state)
{
    struct fx fx;
    struct raw r;

    (void)state;
    start(&fx, &r);
    for (unsigned i = 0; i < 10; i++) {
        fx_run(&fx, 15 * TARN_NS_PER_S);
        assert_false(r.closed);
        while (raw_next(&r))
            assert_int_equal(r.f.type, TARN_FRAME_PING);
        raw_send(&r, (struct tarn_frame){.type = TARN_FRAME_PONG}, NULL);
    }
    fx_run(&fx, 41 * TARN_NS_PER_S);
    assert_true(r.closed);
    stop(&fx, &r);
}

/* No memory for what a peer sends: an error or a cut connection, nothing worse. */
static void test_no_memory(void **state)
{
#ifdef TARN_FAULTS
    static uint8_t zeros[100];
    struct fx fx;
    struct raw r;

    (void)state;
    for (unsigned skip = 0; skip < 12; skip++) {
        start(&fx, &r);
        tarn_fault_arm(TARN_FAULT_buf_alloc, skip, 1, -TARN_E_NO_MEMORY);
        request(&r, 1, TARN_RPC_lookup, NULL);
        raw_send(&r,
                 (struct tarn_frame){.type = TARN_FRAME_REQUEST,
                                     .request_id = 2,
                                     .method = TARN_RPC_fill,
                                     .payload_len = sizeof(zeros)},
                 NULL);
        raw_send_bytes(&r, zeros, 50);
        fx_run(&fx, SOON);
        if (r.conn)
            raw_send_bytes(&r, zeros, 50);
        fx_run(&fx, SOON);
        tarn_fault_reset();
        stop(&fx, &r);
    }
#else
    (void)state;
    skip();
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unknown_method),     cmocka_unit_test(test_malformed),
        cmocka_unit_test(test_notice_to_server),   cmocka_unit_test(test_out_of_place),
        cmocka_unit_test(test_same_id_twice),      cmocka_unit_test(test_too_many),
        cmocka_unit_test(test_too_large_together), cmocka_unit_test(test_slow_reader),
        cmocka_unit_test(test_no_reader),          cmocka_unit_test(test_answers_pile_up),
        cmocka_unit_test(test_cancel_unknown),     cmocka_unit_test(test_idle_peer),
        cmocka_unit_test(test_no_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
