/* SPDX-License-Identifier: Apache-2.0 */
/* Calls over real sockets: a pair, TCP and a unix socket, one loop or a loop per side. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "lib/base/mtx.h"
#include "tests/unit/lib/rpc/rpc_fixture.h"

enum how { PAIR, TCP, UNIX };

static char socket_path[64];

static void start(struct fx *fx, enum how how)
{
    fx_init_uv(fx);
    fx_serve(fx, FX_TOKEN);
    if (how == TCP)
        fx_listen(fx, "127.0.0.1:0");
    if (how == UNIX)
        fx_listen(fx, socket_path);
    if (how == PAIR)
        fx_connect_pair(fx);
    else
        fx_connect(fx, FX_TOKEN);
}

static void run_all(struct fx *fx, const unsigned *left)
{
    while (*left > 0)
        tarn_loop_run(fx->loop);
}

static void many(enum how how)
{
    enum { N = 10000 };
    struct op *ops = calloc(N, sizeof(*ops));
    unsigned left = N;
    struct fx fx;

    assert_non_null(ops);
    start(&fx, how);
    for (unsigned i = 0; i < N; i++) {
        op_start(&ops[i], &fx, TARN_RPC_lookup, i);
        ops[i].left = &left;
    }
    run_all(&fx, &left);
    for (unsigned i = 0; i < N; i++) {
        assert_int_equal(ops[i].rc, 0);
        assert_int_equal(ops[i].answer, i + 1);
    }
    assert_int_equal(fx.calls, N);
    assert_int_equal(fx.principal.trusted, how == PAIR);
    assert_string_equal(fx.principal.name, how == TCP ? "token" : "local");
    assert_int_equal(fx.principal.uid, how == TCP ? -1 : (int64_t)geteuid());
    fx_fini(&fx);
    free(ops);
}

static void test_many_pair(void **state)
{
    (void)state;
    many(PAIR);
}

static void test_many_tcp(void **state)
{
    (void)state;
    many(TCP);
}

static void test_many_unix(void **state)
{
    (void)state;
    many(UNIX);
}

/* Large payloads both ways at once, through small socket buffers. */
static void payloads(enum how how)
{
    enum { N = 6 };
    struct op ops[2 * N];
    unsigned left = 2 * N;
    struct fx fx;

    start(&fx, how);
    for (unsigned i = 0; i < N; i++) {
        size_t bytes = (4u << 20) - i * 4097;
        struct tarn_buf *b = fx_payload(bytes, i);

        op_init(&ops[2 * i], &fx, TARN_RPC_fill, i);
        ops[2 * i].left = &left;
        ops[2 * i].fill.length = bytes;
        ops[2 * i].req.payload = b;
        tarn_rpc_start(fx.client, &ops[2 * i].req);
        tarn_buf_unref(&b);
        op_init(&ops[2 * i + 1], &fx, TARN_RPC_read, i);
        ops[2 * i + 1].left = &left;
        ops[2 * i + 1].read.length = (uint32_t)bytes;
        tarn_rpc_start(fx.client, &ops[2 * i + 1].req);
    }
    run_all(&fx, &left);
    for (unsigned i = 0; i < N; i++) {
        assert_int_equal(ops[2 * i].rc, 0);
        assert_int_equal(ops[2 * i].answer, ops[2 * i].fill.length);
        assert_int_equal(ops[2 * i + 1].rc, 0);
        assert_int_equal(ops[2 * i + 1].payload, ops[2 * i + 1].read.length);
    }
    fx_fini(&fx);
}

static void test_payloads(void **state)
{
    (void)state;
    payloads(PAIR);
    payloads(TCP);
    payloads(UNIX);
}

static void test_wrong_token(void **state)
{
    struct fx fx;
    struct op op;
    unsigned left = 1;

    (void)state;
    fx_init_uv(&fx);
    fx_serve(&fx, FX_TOKEN);
    fx_listen(&fx, "127.0.0.1:0");
    fx_connect(&fx, "no");
    op_start(&op, &fx, TARN_RPC_lookup, 1);
    op.left = &left;
    run_all(&fx, &left);
    assert_int_equal(op.rc, -TARN_E_AUTH_BAD);
    fx_fini(&fx);
}

static void test_deadline_and_cancel(void **state)
{
    struct fx fx;
    struct op late, off;
    unsigned left = 2;

    (void)state;
    start(&fx, UNIX);
    op_init(&late, &fx, TARN_RPC_getattr, 1);
    late.left = &left;
    late.req.timeout_ns = 20 * TARN_NS_PER_MS;
    tarn_rpc_start(fx.client, &late.req);
    op_start(&off, &fx, TARN_RPC_getattr, 1);
    off.left = &left;
    tarn_rpc_cancel(&off.req);
    run_all(&fx, &left);
    assert_int_equal(late.rc, -TARN_E_DEADLINE);
    assert_int_equal(off.rc, -TARN_E_CANCELLED);
    fx_fini(&fx);
}

static void test_sync(void **state)
{
    struct fx fx;
    struct op op;

    (void)state;
    start(&fx, TCP);
    for (unsigned i = 0; i < 10; i++) {
        op_init(&op, &fx, TARN_RPC_read, i);
        op.read.length = 100000;
        assert_int_equal(tarn_rpc_call_sync(fx.client, &op.req), 0);
        assert_true(fx_payload_good(op.req.resp_payload, 100000, i));
        tarn_rpc_req_fini(&op.req);
    }
    op_init(&op, &fx, TARN_RPC_getattr, 1);
    op.req.timeout_ns = 10 * TARN_NS_PER_MS;
    assert_int_equal(tarn_rpc_call_sync(fx.client, &op.req), -TARN_E_DEADLINE);
    op_init(&op, &fx, TARN_RPC_getattr, 1);
    tarn_loop_stop(fx.loop); /* as a signal would, while nobody else answers */
    assert_int_equal(tarn_rpc_call_sync(fx.client, &op.req), -TARN_E_CANCELLED);
    fx_fini(&fx);
}

/* ---- a thread for the server, another for the client
 * ---------------------------------------------- */

struct service {
    struct fx fx;          /* the server's side */
    struct tarn_task stop; /* posted by the client's thread */
    char addr[64];
    pthread_t thread;
};

static void service_done(void *arg)
{
    struct service *s = arg;

    tarn_loop_stop(s->fx.loop);
}

static void service_stop_cb(struct tarn_task *t)
{
    struct service *s = TARN_CONTAINER(t, struct service, stop);

    tarn_rpc_server_stop(s->fx.server, service_done, s);
}

static void *service_main(void *arg)
{
    struct service *s = arg;

    tarn_loop_run(s->fx.loop);
    return NULL;
}

static void test_two_threads(void **state)
{
    enum { N = 2000 };
    struct op *ops = calloc(N, sizeof(*ops));
    struct service s;
    struct fx fx;
    unsigned left = N;

    (void)state;
    assert_non_null(ops);
    fx_init_uv(&s.fx);
    fx_serve(&s.fx, FX_TOKEN);
    fx_listen(&s.fx, "127.0.0.1:0");
    (void)snprintf(s.addr, sizeof(s.addr), "%s", s.fx.addr);
    assert_int_equal(tarn_thread_start(&s.thread, "server", service_main, &s), 0);

    fx_init_uv(&fx);
    fx.client = fx_client_new(&fx, s.addr, FX_TOKEN);
    for (unsigned i = 0; i < N; i++) {
        op_start(&ops[i], &fx, TARN_RPC_lookup, i);
        ops[i].left = &left;
    }
    run_all(&fx, &left);
    for (unsigned i = 0; i < N; i++)
        assert_int_equal(ops[i].rc, 0);
    fx_fini(&fx);
    tarn_loop_post(s.fx.loop, &s.stop, service_stop_cb);
    assert_int_equal(pthread_join(s.thread, NULL), 0);
    tarn_rpc_server_free(&s.fx.server);
    fx_fini(&s.fx);
    free(ops);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_many_pair),   cmocka_unit_test(test_many_tcp),
        cmocka_unit_test(test_many_unix),   cmocka_unit_test(test_payloads),
        cmocka_unit_test(test_wrong_token), cmocka_unit_test(test_deadline_and_cancel),
        cmocka_unit_test(test_sync),        cmocka_unit_test(test_two_threads),
    };
    int rc;

    (void)snprintf(socket_path, sizeof(socket_path), "unix:/tmp/tarn-test-rpc-%d", (int)getpid());
    rc = cmocka_run_group_tests(tests, NULL, NULL);
    (void)unlink(socket_path + sizeof("unix:") - 1); /* usually gone with its listener */
    return rc;
}
