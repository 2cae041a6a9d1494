/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/lib/rpc/rpc_fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/hash.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"

#define FX_WATCHDOG_NS (60 * TARN_NS_PER_S)

/* ---- payloads -----------------------------------------------------------------------------------
 */

struct tarn_buf *fx_payload(size_t n, uint64_t key)
{
    struct tarn_buf *b = tarn_buf_new(n);

    assert_non_null(b);
    for (size_t i = 0; i < n; i++)
        b->p[i] = (uint8_t)((i >> 8) + i + key);
    b->len = n;
    return b;
}

bool fx_payload_good(const struct tarn_buf *b, size_t n, uint64_t key)
{
    if (!b || b->len != n)
        return false;
    for (size_t i = 0; i < n; i++)
        if (b->p[i] != (uint8_t)((i >> 8) + i + key))
            return false;
    return true;
}

/* ---- handlers -----------------------------------------------------------------------------------
 */

static int fx_handled(struct fx *fx, struct tarn_rpc_call *call)
{
    fx->calls++;
    fx->principal = call->principal;
    fx->deadline_ns = call->deadline_ns;
    fx->meta_uid = call->meta ? call->meta->uid : 0;
    return fx->script_at < fx->script_n ? fx->script[fx->script_at++] : 0;
}

static void fx_lookup(void *ctx, struct tarn_rpc_call *call)
{
    const Tarn__Wire__LookupRequest *req = (const void *)call->request;
    Tarn__Wire__LookupResponse resp = TARN__WIRE__LOOKUP_RESPONSE__INIT;
    Tarn__Wire__Attr attr = TARN__WIRE__ATTR__INIT;
    struct fx *fx = ctx;
    int what = fx_handled(fx, call);

    if (what == FX_CUT)
        tarn_rpc_session_close(call->session);
    attr.ino = req->parent + 1;
    resp.attr = &attr;
    resp.negative_trust_ms = 77;
    if (what == -TARN_E_NO_ENTRY)
        resp.attr = NULL;
    tarn_rpc_reply(call, what < 0 ? what : 0, &resp.base, NULL, 0, 0);
}

static void fx_create(void *ctx, struct tarn_rpc_call *call)
{
    Tarn__Wire__Job resp = TARN__WIRE__JOB__INIT;
    struct fx *fx = ctx;
    int what = fx_handled(fx, call);

    if (what == FX_CUT)
        tarn_rpc_session_close(call->session);
    resp.id = fx->calls;
    tarn_rpc_reply(call, what < 0 ? what : 0, what < 0 ? NULL : &resp.base, NULL, 0, 0);
}

static void fx_cancelled(struct tarn_rpc_call *call)
{
    struct fx *fx = call->state;

    fx->cancels++;
    for (unsigned i = 0; i < fx->held_n; i++)
        if (fx->held[i] == call)
            fx->held[i] = NULL;
    tarn_rpc_reply(call, -TARN_E_CANCELLED, NULL, NULL, 0, 0);
}

static void fx_getattr(void *ctx, struct tarn_rpc_call *call)
{
    struct fx *fx = ctx;

    (void)fx_handled(fx, call);
    assert_true(fx->held_n < FX_HELD);
    fx->held[fx->held_n++] = call;
    call->state = fx;
    call->on_cancel = fx_cancelled;
}

void fx_release(struct fx *fx, int rc)
{
    for (unsigned i = 0; i < fx->held_n; i++)
        if (fx->held[i])
            tarn_rpc_reply(fx->held[i], rc, NULL, NULL, 0, 0);
    fx->held_n = 0;
}

static void fx_fill(void *ctx, struct tarn_rpc_call *call)
{
    const Tarn__Wire__FillRequest *req = (const void *)call->request;
    Tarn__Wire__FillResponse resp = TARN__WIRE__FILL_RESPONSE__INIT;
    Tarn__Wire__FillResult result = TARN__WIRE__FILL_RESULT__INIT;
    Tarn__Wire__FillResult *results[] = {&result};

    (void)fx_handled(ctx, call);
    result.bytes = fx_payload_good(call->payload, req->length, req->offset) ? req->length : 0;
    resp.n_results = 1;
    resp.results = results;
    tarn_rpc_reply(call, 0, &resp.base, NULL, 0, 0);
}

static void fx_read(void *ctx, struct tarn_rpc_call *call)
{
    const Tarn__Wire__ReadRequest *req = (const void *)call->request;
    Tarn__Wire__ReadResponse resp = TARN__WIRE__READ_RESPONSE__INIT;
    struct tarn_buf *b = fx_payload(req->length + 100, req->offset - 100);

    (void)fx_handled(ctx, call);
    for (size_t i = 0; i < req->length; i++) /* the part behind the first 100 bytes is sent */
        b->p[100 + i] = (uint8_t)((i >> 8) + i + req->offset);
    resp.offset = req->offset;
    tarn_rpc_reply(call, 0, &resp.base, b, 100, req->length);
    tarn_buf_unref(&b);
}

static void fx_session(void *ctx, struct tarn_rpc_session *s)
{
    struct fx *fx = ctx;

    fx->sessions++;
    fx->session = s;
    tarn_rpc_session_set_ctx(s, fx);
}

static void fx_gone(void *ctx, struct tarn_rpc_session *s)
{
    struct fx *fx = ctx;

    assert_ptr_equal(tarn_rpc_session_ctx(s), fx);
    fx->gone++;
    if (fx->session == s)
        fx->session = NULL;
}

/* ---- client's callbacks -------------------------------------------------------------------------
 */

static void fx_notice(void *ctx, uint32_t method, const ProtobufCMessage *msg)
{
    struct fx *fx = ctx;

    assert_int_equal(method, TARN_RPC_invalidate);
    fx->notices++;
    fx->notice_seq = ((const Tarn__Wire__Invalidate *)msg)->seq;
}

static void fx_state(void *ctx, bool connected, int rc)
{
    struct fx *fx = ctx;

    if (connected) {
        fx->up++;
    } else {
        assert_true(rc < 0);
        fx->down++;
        fx->state_rc = rc;
    }
}

/* ---- life ---------------------------------------------------------------------------------------
 */

static void fx_init(struct fx *fx, uint64_t seed)
{
    tarn_log_set_level(TARN_LOG_ERROR);
    *fx = (struct fx){0};
    tarn_rng_seeded_init(&fx->rng, seed);
}

void fx_init_sim(struct fx *fx, uint64_t seed)
{
    fx_init(fx, seed);
    fx->sim = true;
    fx->loop = tarn_loop_sim_new(FX_START);
}

static void fx_hangs(struct tarn_timer *t, void *arg)
{
    (void)t;
    (void)arg;
    fprintf(stderr, "the test hangs\n");
    abort();
}

void fx_init_uv(struct fx *fx)
{
    fx_init(fx, 1);
    assert_int_equal(tarn_loop_new(&fx->loop), 0);
    tarn_timer_start(fx->loop, &fx->watchdog, FX_WATCHDOG_NS, fx_hangs, NULL);
}

void fx_serve(struct fx *fx, const char *token)
{
    struct tarn_rpc_server_args args = {
        .loop = fx->loop,
        .rng = &fx->rng.base,
        .cluster_id = FX_CLUSTER,
        .token = token,
        .token_len = token ? strlen(token) : 0,
        .ctx = fx,
        .on_session = fx_session,
        .on_gone = fx_gone,
    };

    assert_int_equal(tarn_rpc_server_new(&args, &fx->server), 0);
    tarn_rpc_server_handle(fx->server, TARN_RPC_lookup, fx_lookup, fx);
    tarn_rpc_server_handle(fx->server, TARN_RPC_job_create, fx_create, fx);
    tarn_rpc_server_handle(fx->server, TARN_RPC_getattr, fx_getattr, fx);
    tarn_rpc_server_handle(fx->server, TARN_RPC_fill, fx_fill, fx);
    tarn_rpc_server_handle(fx->server, TARN_RPC_read, fx_read, fx);
    fx->server_stopped = false;
}

void fx_listen(struct fx *fx, const char *addr)
{
    assert_int_equal(tarn_rpc_server_listen(fx->server, addr, &fx->addr), 0);
}

static void fx_client_args(struct fx *fx, struct tarn_rpc_client_args *args)
{
    *args = (struct tarn_rpc_client_args){
        .loop = fx->loop,
        .rng = &fx->rng.base,
        .ctx = fx,
        .on_notice = fx_notice,
        .on_state = fx_state,
    };
}

struct tarn_rpc_client *fx_client_new(struct fx *fx, const char *addrs, const char *token)
{
    struct tarn_rpc_client_args args;
    struct tarn_rpc_client *c;

    fx_client_args(fx, &args);
    args.addrs = addrs;
    args.token = token;
    args.token_len = token ? strlen(token) : 0;
    assert_int_equal(tarn_rpc_client_new(&args, &c), 0);
    return c;
}

void fx_connect(struct fx *fx, const char *token)
{
    fx->client = fx_client_new(fx, fx->addr, token);
}

void fx_connect_pair(struct fx *fx)
{
    struct tarn_rpc_client_args args;
    struct tarn_conn *a, *b;

    assert_int_equal(tarn_conn_pair(fx->loop, &a, &b), 0);
    tarn_rpc_server_serve(fx->server, a, true);
    fx_client_args(fx, &args);
    args.conn = b;
    assert_int_equal(tarn_rpc_client_new(&args, &fx->client), 0);
}

static void fx_client_done(void *arg)
{
    struct fx *fx = arg;

    fx->client_stopped = true;
    if (!fx->sim)
        tarn_loop_stop(fx->loop);
}

static void fx_server_done(void *arg)
{
    struct fx *fx = arg;

    fx->server_stopped = true;
    if (!fx->sim)
        tarn_loop_stop(fx->loop);
}

/* Runs until *done; the simulated loop for a minute at most. */
static void fx_run_until(struct fx *fx, const bool *done)
{
    for (unsigned i = 0; i < 6000 && !*done; i++) {
        if (fx->sim)
            fx_run(fx, 10 * TARN_NS_PER_MS);
        else
            tarn_loop_run(fx->loop);
    }
    assert_true(*done);
}

void fx_stop_client(struct fx *fx, struct tarn_rpc_client **c)
{
    if (!*c)
        return;
    fx->client_stopped = false;
    tarn_rpc_client_stop(*c, fx_client_done, fx);
    fx_run_until(fx, &fx->client_stopped);
    tarn_rpc_client_free(c);
}

void fx_stop_server(struct fx *fx)
{
    if (!fx->server)
        return;
    tarn_rpc_server_stop(fx->server, fx_server_done, fx);
    fx_run_until(fx, &fx->server_stopped);
    tarn_rpc_server_free(&fx->server);
}

void fx_fini(struct fx *fx)
{
    fx_stop_client(fx, &fx->client);
    fx_release(fx, -TARN_E_CANCELLED);
    fx_stop_server(fx);
    assert_int_equal(fx->sessions, fx->gone);
    tarn_timer_stop(&fx->watchdog);
    tarn_loop_free(&fx->loop);
}

void fx_run(struct fx *fx, uint64_t ns)
{
    tarn_loop_sim_run(fx->loop, tarn_loop_now_ns(fx->loop) + ns);
}

void fx_script(struct fx *fx, unsigned n, ...)
{
    va_list ap;

    assert_true(n <= FX_MAX);
    va_start(ap, n);
    for (unsigned i = 0; i < n; i++)
        fx->script[i] = va_arg(ap, int);
    va_end(ap);
    fx->script_n = n;
    fx->script_at = 0;
}

/* ---- requests -----------------------------------------------------------------------------------
 */

static void op_read_answer(struct op *op, struct tarn_rpc_req *req)
{
    switch (req->method) {
    case TARN_RPC_lookup: {
        const Tarn__Wire__LookupResponse *r = (const void *)req->resp;

        op->answer = r->attr ? r->attr->ino : r->negative_trust_ms;
        break;
    }
    case TARN_RPC_job_create:
        op->answer = ((const Tarn__Wire__Job *)req->resp)->id;
        break;
    case TARN_RPC_fill:
        op->answer = ((const Tarn__Wire__FillResponse *)req->resp)->results[0]->bytes;
        break;
    case TARN_RPC_read:
        op->answer = ((const Tarn__Wire__ReadResponse *)req->resp)->offset;
        if (fx_payload_good(req->resp_payload, op->read.length, op->read.offset))
            op->payload = req->resp_payload->len;
        break;
    default:
        break;
    }
}

static void op_cb(struct tarn_rpc_req *req, int rc)
{
    struct op *op = req->arg;

    assert_ptr_equal(req, &op->req);
    op->done++;
    op->rc = rc;
    op->at_ns = tarn_loop_now_ns(op->fx->loop);
    if (rc == 0)
        assert_non_null(req->resp);
    if (req->resp)
        op_read_answer(op, req);
    if (op->left && --*op->left == 0 && !op->fx->sim)
        tarn_loop_stop(op->fx->loop);
}

void op_init(struct op *op, struct fx *fx, uint32_t method, uint64_t key)
{
    *op = (struct op){.fx = fx};
    tarn__wire__lookup_request__init(&op->lookup);
    tarn__wire__getattr_request__init(&op->getattr);
    tarn__wire__job_create_request__init(&op->create);
    tarn__wire__fill_request__init(&op->fill);
    tarn__wire__read_request__init(&op->read);
    op->lookup.parent = key;
    op->getattr.ino = key;
    op->read.offset = key;
    op->fill.offset = key;
    op->req.method = method;
    op->req.msg = method == TARN_RPC_lookup       ? &op->lookup.base
                  : method == TARN_RPC_getattr    ? &op->getattr.base
                  : method == TARN_RPC_job_create ? &op->create.base
                  : method == TARN_RPC_fill       ? &op->fill.base
                                                  : &op->read.base;
    op->req.cb = op_cb;
    op->req.arg = op;
}

void op_start_on(struct op *op, struct fx *fx, struct tarn_rpc_client *c, uint32_t method,
                 uint64_t key)
{
    op_init(op, fx, method, key);
    tarn_rpc_start(c, &op->req);
    assert_int_equal(op->done, 0); /* never inside start */
}

void op_start(struct op *op, struct fx *fx, uint32_t method, uint64_t key)
{
    op_start_on(op, fx, fx->client, method, key);
}
