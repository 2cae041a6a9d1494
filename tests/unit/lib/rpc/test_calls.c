/* SPDX-License-Identifier: Apache-2.0 */
/* Calls over a simulated loop: answers, deadlines, cancelling, notices, stopping. */
#include <stdlib.h>
#include <string.h>

#include "tests/unit/lib/rpc/raw_peer.h"

static void start(struct fx *fx)
{
    fx_init_sim(fx, 3);
    fx_serve(fx, FX_TOKEN);
    fx_listen(fx, "127.0.0.1:0");
    fx_connect(fx, FX_TOKEN);
    fx_run(fx, 10 * TARN_NS_PER_MS);
    assert_int_equal(fx->up, 1);
}

static void test_one_call(void **state)
{
    struct fx fx;
    struct op op;

    (void)state;
    start(&fx);
    assert_string_equal(tarn_rpc_client_cluster_id(fx.client), FX_CLUSTER);
    op_start(&op, &fx, TARN_RPC_lookup, 41);
    fx_run(&fx, TARN_NS_PER_MS);
    assert_int_equal(op.done, 1);
    assert_int_equal(op.rc, 0);
    assert_int_equal(op.answer, 42);
    assert_string_equal(fx.principal.name, "token");
    assert_int_equal(fx.principal.uid, -1);
    assert_false(fx.principal.trusted);
    assert_int_equal(fx.deadline_ns, op.at_ns + 30 * TARN_NS_PER_S);
    fx_fini(&fx);
}

static void test_trusted_pair(void **state)
{
    struct fx fx;
    struct op op;

    (void)state;
    fx_init_sim(&fx, 3);
    fx_serve(&fx, FX_TOKEN);
    fx_connect_pair(&fx);
    op_start(&op, &fx, TARN_RPC_lookup, 1);
    fx_run(&fx, TARN_NS_PER_MS);
    assert_int_equal(op.rc, 0);
    assert_int_equal(op.answer, 2);
    assert_true(fx.principal.trusted);
    assert_string_equal(fx.principal.name, "local");
    fx_fini(&fx);
}

/* An error may carry a message. */
static void test_error_with_message(void **state)
{
    struct fx fx;
    struct op op;

    (void)state;
    start(&fx);
    fx_script(&fx, 1, -TARN_E_NO_ENTRY);
    op_start(&op, &fx, TARN_RPC_lookup, 1);
    fx_run(&fx, TARN_NS_PER_MS);
    assert_int_equal(op.rc, -TARN_E_NO_ENTRY);
    assert_int_equal(op.answer, 77);
    fx_fini(&fx);
}

static void test_many(void **state)
{
    enum { N = 10000 };
    struct op *ops = calloc(N, sizeof(*ops));
    struct fx fx;

    (void)state;
    start(&fx);
    for (unsigned i = 0; i < N; i++)
        op_start(&ops[i], &fx, TARN_RPC_lookup, i);
    fx_run(&fx, 100 * TARN_NS_PER_MS);
    for (unsigned i = 0; i < N; i++) {
        assert_int_equal(ops[i].done, 1);
        assert_int_equal(ops[i].rc, 0);
        assert_int_equal(ops[i].answer, i + 1);
    }
    assert_int_equal(fx.calls, N);
    fx_fini(&fx);
    free(ops);
}

static void test_payloads(void **state)
{
    static const size_t sizes[] = {
        1, 100, 65536, 65537, 1u << 20, 4u << 20, TARN_FRAME_PAYLOAD_MAX};
    struct op ops[2 * TARN_ARRAY_LEN(sizes)];
    struct fx fx;
    size_t n = 0;

    (void)state;
    start(&fx);
    for (size_t i = 0; i < TARN_ARRAY_LEN(sizes); i++) {
        struct tarn_buf *b = fx_payload(sizes[i], i);

        op_init(&ops[n], &fx, TARN_RPC_fill, i);
        ops[n].fill.length = sizes[i];
        ops[n].req.payload = b;
        tarn_rpc_start(fx.client, &ops[n++].req);
        tarn_buf_unref(&b); /* the request has its own reference */
        op_init(&ops[n], &fx, TARN_RPC_read, i);
        ops[n].read.length = (uint32_t)sizes[i];
        tarn_rpc_start(fx.client, &ops[n++].req);
    }
    fx_run(&fx, TARN_NS_PER_S);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(ops[i].done, 1);
        assert_int_equal(ops[i].rc, 0);
        if (i % 2 == 0)
            assert_int_equal(ops[i].answer, sizes[i / 2]);
        else
            assert_int_equal(ops[i].payload, sizes[i / 2]);
    }
    fx_fini(&fx);
}

static void test_too_big(void **state)
{
    struct fx fx;
    struct op op;
    struct tarn_buf *b = tarn_buf_new(TARN_FRAME_PAYLOAD_MAX + 1);

    (void)state;
    start(&fx);
    b->len = b->cap;
    op_init(&op, &fx, TARN_RPC_fill, 1);
    op.req.payload = b;
    tarn_rpc_start(fx.client, &op.req);
    fx_run(&fx, TARN_NS_PER_MS);
    assert_int_equal(op.rc, -TARN_E_FRAME_TOO_BIG);
    tarn_buf_unref(&b);

    op_init(&op, &fx, TARN_RPC_lookup, 1);
    op.lookup.name.len = TARN_FRAME_BODY_MAX;
    op.lookup.name.data = calloc(1, op.lookup.name.len);
    tarn_rpc_start(fx.client, &op.req);
    fx_run(&fx, TARN_NS_PER_MS);
    assert_int_equal(op.rc, -TARN_E_FRAME_TOO_BIG);
    free(op.lookup.name.data);

    op_init(&op, &fx, TARN_RPC_read, 1); /* an answer that is too big */
    op.read.length = TARN_FRAME_PAYLOAD_MAX + 1;
    tarn_rpc_start(fx.client, &op.req);
    fx_run(&fx, TARN_NS_PER_MS);
    assert_int_equal(op.rc, -TARN_E_FRAME_TOO_BIG);
    assert_int_equal(fx.up, 1); /* none of this costs the connection */
    assert_int_equal(fx.down, 0);
    fx_fini(&fx);
}

static void test_meta(void **state)
{
    Tarn__Wire__CallMeta meta = TARN__WIRE__CALL_META__INIT;
    uint32_t *groups = calloc(65536, sizeof(*groups));
    struct fx fx;
    struct op op;

    (void)state;
    start(&fx);
    meta.uid = 4711;
    tarn_rpc_client_set_meta(fx.client, &meta);
    op_start(&op, &fx, TARN_RPC_lookup, 1);
    fx_run(&fx, TARN_NS_PER_MS);
    assert_int_equal(fx.meta_uid, 4711);
    for (unsigned i = 0; i < 65536; i++)
        groups[i] = 1000000 + i;
    meta.uid = 4712;
    meta.n_groups = 65536; /* more than fit */
    meta.groups = groups;
    tarn_rpc_client_set_meta(fx.client, &meta);
    op_start(&op, &fx, TARN_RPC_lookup, 1);
    fx_run(&fx, TARN_NS_PER_MS);
    assert_int_equal(op.rc, 0);
    assert_int_equal(fx.meta_uid, 4712);
    fx_fini(&fx);
    free(groups);
}

static void test_deadline(void **state)
{
    struct fx fx;
    struct op op;
    uint64_t t0;

    (void)state;
    start(&fx);
    t0 = tarn_loop_now_ns(fx.loop);
    op_init(&op, &fx, TARN_RPC_getattr, 1);
    op.req.timeout_ns = 250 * TARN_NS_PER_MS;
    tarn_rpc_start(fx.client, &op.req);
    fx_run(&fx, 200 * TARN_NS_PER_MS);
    assert_int_equal(op.done, 0);
    assert_int_equal(fx.cancels, 0);
    fx_run(&fx, 100 * TARN_NS_PER_MS);
    assert_int_equal(op.done, 1);
    assert_int_equal(op.rc, -TARN_E_DEADLINE);
    assert_int_equal(op.at_ns, t0 + 250 * TARN_NS_PER_MS);
    assert_int_equal(fx.cancels, 1); /* the server knew the deadline by itself */
    assert_int_equal(fx.up, 1);
    op_start(&op, &fx, TARN_RPC_lookup, 1); /* the late answer harmed nobody */
    fx_run(&fx, TARN_NS_PER_MS);
    assert_int_equal(op.rc, 0);
    fx_fini(&fx);
}

static void test_cancel(void **state)
{
    struct fx fx;
    struct op op;

    (void)state;
    start(&fx);
    op_start(&op, &fx, TARN_RPC_getattr, 1);
    fx_run(&fx, 10 * TARN_NS_PER_MS);
    assert_int_equal(fx.calls, 1);
    tarn_rpc_cancel(&op.req);
    tarn_rpc_cancel(&op.req); /* twice does no harm */
    assert_int_equal(op.done, 0);
    fx_run(&fx, 10 * TARN_NS_PER_MS);
    assert_int_equal(op.done, 1);
    assert_int_equal(op.rc, -TARN_E_CANCELLED);
    assert_int_equal(fx.cancels, 1);
    tarn_rpc_cancel(&op.req); /* after its end neither */
    fx_fini(&fx);
}

static void test_cancel_before_sent(void **state)
{
    struct fx fx;
    struct op op;

    (void)state;
    fx_init_sim(&fx, 1);
    fx.client = fx_client_new(&fx, "127.0.0.1:9", NULL);
    op_start(&op, &fx, TARN_RPC_lookup, 1);
    fx_run(&fx, 100 * TARN_NS_PER_MS);
    tarn_rpc_cancel(&op.req);
    fx_run(&fx, TARN_NS_PER_MS);
    assert_int_equal(op.rc, -TARN_E_CANCELLED);
    fx_fini(&fx);
}

static void test_notices(void **state)
{
    Tarn__Wire__Invalidate msg = TARN__WIRE__INVALIDATE__INIT;
    struct fx fx;

    (void)state;
    start(&fx);
    for (msg.seq = 1; msg.seq <= 100; msg.seq++)
        assert_int_equal(tarn_rpc_notify(fx.session, TARN_RPC_invalidate, &msg.base), 0);
    fx_run(&fx, 10 * TARN_NS_PER_MS);
    assert_int_equal(fx.notices, 100);
    assert_int_equal(fx.notice_seq, 100);
    fx_fini(&fx);
}

/* A peer that never reads its notices is cut, and what is queued for it is bounded. */
static void test_notices_unread(void **state)
{
    Tarn__Wire__Invalidate msg = TARN__WIRE__INVALIDATE__INIT;
    Tarn__Wire__InvalItem item = TARN__WIRE__INVAL_ITEM__INIT, *items[] = {&item};
    struct raw r;
    struct fx fx;
    int rc = 0;
    unsigned n;

    (void)state;
    fx_init_sim(&fx, 1);
    fx_serve(&fx, FX_TOKEN);
    fx_listen(&fx, "127.0.0.1:0");
    raw_connect(&r, &fx);
    raw_login(&r, &fx, FX_TOKEN);
    tarn_conn_pause(r.conn, true);
    msg.n_items = 1;
    msg.items = items;
    item.name.len = 1u << 19;
    item.name.data = calloc(1, item.name.len);
    for (n = 0; n < 1000 && rc == 0; n++) {
        fx_run(&fx, TARN_NS_PER_MS);
        rc = tarn_rpc_notify(fx.session, TARN_RPC_invalidate, &msg.base);
    }
    assert_int_equal(rc, -TARN_E_BUSY);
    assert_in_range(n, 100, 150); /* about TARN_CONN_WRITE_MAX */
    assert_int_equal(tarn_rpc_notify(fx.session, TARN_RPC_invalidate, &msg.base),
                     -TARN_E_CONN_LOST);
    fx_run(&fx, TARN_NS_PER_MS);
    assert_int_equal(fx.gone, 1);
    free(item.name.data);
    raw_fini(&r, &fx);
    fx_fini(&fx);
}

static void test_server_stop_with_calls(void **state)
{
    struct fx fx;
    struct op ops[4];

    (void)state;
    start(&fx);
    for (unsigned i = 0; i < 4; i++) {
        op_init(&ops[i], &fx, TARN_RPC_getattr, i);
        ops[i].req.no_retry = true;
        tarn_rpc_start(fx.client, &ops[i].req);
    }
    fx_run(&fx, 10 * TARN_NS_PER_MS);
    assert_int_equal(fx.held_n, 4);
    fx.held[1]->on_cancel = NULL; /* one does not want to know, and answers later */
    tarn_rpc_server_stop(fx.server, free, NULL);
    fx_run(&fx, 100 * TARN_NS_PER_MS);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(ops[i].rc, -TARN_E_CONN_LOST);
    assert_int_equal(fx.cancels, 3);
    assert_int_equal(fx.gone, 1);
    assert_null(fx.held[1]->session);
    fx_release(&fx, 0);
    fx_run(&fx, TARN_NS_PER_MS);
    tarn_rpc_server_free(&fx.server);
    fx_fini(&fx);
}

static void test_client_stop_with_calls(void **state)
{
    struct fx fx;
    struct op ops[3], late;

    (void)state;
    start(&fx);
    op_start(&ops[0], &fx, TARN_RPC_getattr, 1);
    fx_run(&fx, TARN_NS_PER_MS);
    fx_script(&fx, 1, -TARN_E_BUSY);
    op_start(&ops[1], &fx, TARN_RPC_lookup, 1); /* is waiting for its next try */
    fx_run(&fx, TARN_NS_PER_MS);
    op_start(&ops[2], &fx, TARN_RPC_getattr, 1);
    tarn_rpc_client_stop(fx.client, free, NULL);
    op_start(&late, &fx, TARN_RPC_lookup, 1);
    fx_run(&fx, TARN_NS_PER_MS);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(ops[i].done, 1);
        assert_int_equal(ops[i].rc, -TARN_E_SHUTDOWN);
    }
    assert_int_equal(late.rc, -TARN_E_SHUTDOWN);
    tarn_rpc_client_free(&fx.client);
    fx_fini(&fx);
}

struct chain {
    struct tarn_rpc_req req;
    Tarn__Wire__LookupRequest msg;
    struct fx *fx;
    unsigned left;
};

static unsigned chains_freed;

/* Starts itself again, and in the end frees itself. */
static void chain_cb(struct tarn_rpc_req *req, int rc)
{
    struct chain *ch = req->arg;

    assert_int_equal(rc, 0);
    assert_non_null(req->resp);
    if (ch->left-- > 0) {
        tarn_rpc_start(ch->fx->client, req);
        return;
    }
    tarn_rpc_req_fini(req);
    free(ch);
    chains_freed++;
}

static void test_chain(void **state)
{
    struct fx fx;

    (void)state;
    start(&fx);
    chains_freed = 0;
    for (unsigned i = 0; i < 10; i++) {
        struct chain *ch = calloc(1, sizeof(*ch));

        tarn__wire__lookup_request__init(&ch->msg);
        ch->fx = &fx;
        ch->left = i;
        ch->req.method = TARN_RPC_lookup;
        ch->req.msg = &ch->msg.base;
        ch->req.cb = chain_cb;
        ch->req.arg = ch;
        tarn_rpc_start(fx.client, &ch->req);
    }
    fx_run(&fx, 10 * TARN_NS_PER_MS);
    assert_int_equal(chains_freed, 10);
    assert_int_equal(fx.calls, 55);
    fx_fini(&fx);
}

static ProtobufCMessage *taken;
static struct tarn_buf *taken_payload;

static void take_cb(struct tarn_rpc_req *req, int rc)
{
    assert_int_equal(rc, 0);
    taken = req->resp;
    taken_payload = req->resp_payload;
    req->resp = NULL;
    req->resp_payload = NULL;
}

static void test_take(void **state)
{
    struct fx fx;
    struct op op;

    (void)state;
    start(&fx);
    op_init(&op, &fx, TARN_RPC_read, 5);
    op.read.length = 1000;
    op.req.cb = take_cb;
    tarn_rpc_start(fx.client, &op.req);
    fx_run(&fx, TARN_NS_PER_MS);
    fx_fini(&fx);
    assert_int_equal(((Tarn__Wire__ReadResponse *)taken)->offset, 5);
    assert_true(fx_payload_good(taken_payload, 1000, 5));
    protobuf_c_message_free_unpacked(taken, NULL);
    tarn_buf_unref(&taken_payload);
}

static void test_sync(void **state)
{
    struct fx fx;
    struct op op;

    (void)state;
    start(&fx);
    op_init(&op, &fx, TARN_RPC_read, 8);
    op.read.length = 5000;
    assert_int_equal(tarn_rpc_call_sync(fx.client, &op.req), 0);
    assert_int_equal(op.done, 0); /* its own callback is not used */
    assert_true(fx_payload_good(op.req.resp_payload, 5000, 8));
    tarn_rpc_req_fini(&op.req);
    assert_null(op.req.resp);
    fx_script(&fx, 1, -TARN_E_NO_ENTRY);
    op_init(&op, &fx, TARN_RPC_lookup, 8);
    assert_int_equal(tarn_rpc_call_sync(fx.client, &op.req), -TARN_E_NO_ENTRY);
    tarn_rpc_req_fini(&op.req);
    fx_fini(&fx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_call),
        cmocka_unit_test(test_trusted_pair),
        cmocka_unit_test(test_error_with_message),
        cmocka_unit_test(test_many),
        cmocka_unit_test(test_payloads),
        cmocka_unit_test(test_too_big),
        cmocka_unit_test(test_meta),
        cmocka_unit_test(test_deadline),
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_cancel_before_sent),
        cmocka_unit_test(test_notices),
        cmocka_unit_test(test_notices_unread),
        cmocka_unit_test(test_server_stop_with_calls),
        cmocka_unit_test(test_client_stop_with_calls),
        cmocka_unit_test(test_chain),
        cmocka_unit_test(test_take),
        cmocka_unit_test(test_sync),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
