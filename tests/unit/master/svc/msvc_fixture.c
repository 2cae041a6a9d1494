/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/master/svc/msvc_fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"

static const uint8_t mfx_key[32] = "a key of thirty-two bytes, no le";

/* ---- waiting
 * --------------------------------------------------------------------------------- */

void mfx_done(void *arg)
{
    struct mfx *fx = arg;

    fx->done = true;
    tarn_loop_stop(fx->loop);
}

static void mfx_late(struct tarn_timer *t, void *arg)
{
    (void)t;
    (void)arg;
    fail_msg("nothing happened for too long");
}

void mfx_wait(struct mfx *fx)
{
    struct tarn_timer t = {0};

    tarn_timer_start(fx->loop, &t, 60 * TARN_NS_PER_S, mfx_late, fx);
    while (!fx->done)
        tarn_loop_run(fx->loop);
    fx->done = false;
    tarn_timer_stop(&t);
}

static void mfx_tick(struct tarn_timer *t, void *arg)
{
    (void)t;
    *(bool *)arg = true;
}

struct mfx_pause {
    struct tarn_timer timer;
    struct mfx *fx;
    bool over;
};

static void mfx_pause_over(struct tarn_timer *t, void *arg)
{
    struct mfx_pause *p = arg;

    mfx_tick(t, &p->over);
    tarn_loop_stop(p->fx->loop);
}

void mfx_run_ms(struct mfx *fx, unsigned ms)
{
    struct mfx_pause p = {.fx = fx};

    tarn_timer_start(fx->loop, &p.timer, ms * TARN_NS_PER_MS, mfx_pause_over, &p);
    while (!p.over)
        tarn_loop_run(fx->loop);
}

unsigned mfx_requests(struct mfx *fx)
{
    struct srv_counts c;

    srv_counts(fx->srv, &c);
    return c.requests;
}

void mfx_script(struct mfx *fx, enum srv_action action, size_t n)
{
    enum srv_action script[64];

    assert_true(n <= 64);
    for (size_t i = 0; i < n; i++)
        script[i] = action;
    srv_script(fx->srv, script, n);
}

/* ---- the worker and the client's notices
 * ----------------------------------------------------- */

static void mfx_held_cancel(struct tarn_rpc_call *call)
{
    struct mfx *fx = call->state;

    fx->held = NULL;
    tarn_rpc_reply(call, -TARN_E_CANCELLED, NULL, NULL, 0, 0);
}

static bool mfx_hold(struct mfx *fx, struct tarn_rpc_call *call)
{
    if (!fx->hold)
        return false;
    fx->hold = false;
    fx->held = call;
    call->state = fx;
    call->on_cancel = mfx_held_cancel;
    return true;
}

static void mfx_cached(void *ctx, struct tarn_rpc_call *call)
{
    const Tarn__Wire__CachedRequest *req = (const void *)call->request;
    Tarn__Wire__CachedResponse resp = TARN__WIRE__CACHED_RESPONSE__INIT;
    struct mfx *fx = ctx;
    uint64_t *bytes;

    fx->asked++;
    if (mfx_hold(fx, call))
        return;
    bytes = tarn_xcalloc(req->n_cids, sizeof(*bytes));
    for (size_t i = 0; i < req->n_cids; i++)
        bytes[i] = fx->cached;
    resp.n_bytes = req->n_cids;
    resp.bytes = bytes;
    tarn_rpc_reply(call, 0, &resp.base, NULL, 0, 0);
    free(bytes);
}

static void mfx_worker_status(void *ctx, struct tarn_rpc_call *call)
{
    Tarn__Wire__WorkerStatus resp = TARN__WIRE__WORKER_STATUS__INIT;

    if (mfx_hold(ctx, call))
        return;
    resp.id = 7;
    tarn_rpc_reply(call, 0, &resp.base, NULL, 0, 0);
}

static void mfx_notice(void *ctx, uint32_t method, const ProtobufCMessage *msg)
{
    const Tarn__Wire__Invalidate *inv = (const Tarn__Wire__Invalidate *)msg;
    struct mfx *fx = ctx;

    assert_int_equal(method, TARN_RPC_invalidate);
    assert_int_equal(inv->seq, fx->last_seq + 1);
    fx->last_seq = inv->seq;
    fx->notices++;
    fx->items += (unsigned)inv->n_items;
    fx->everything += inv->everything;
    for (size_t i = 0; i < inv->n_items; i++) {
        const Tarn__Wire__InvalItem *item = inv->items[i];

        fx->inval_ino = item->ino;
        (void)snprintf(fx->inval_name, sizeof(fx->inval_name), "%.*s", (int)item->name.len,
                       (const char *)item->name.data);
    }
}

static void mfx_on_session(void *ctx, struct tarn_rpc_session *s)
{
    ((struct mfx *)ctx)->session = s;
}

static void mfx_on_gone(void *ctx, struct tarn_rpc_session *s)
{
    struct mfx *fx = ctx;

    if (fx->session == s)
        fx->session = NULL;
    if (fx->master)
        tarn_master_session_gone(fx->master, s);
}

/* ---- life
 * ------------------------------------------------------------------------------------ */

struct mfx *mfx_new(const struct srv_object *objects, size_t n)
{
    struct mfx *fx = tarn_xnew(struct mfx);

    tarn_clock_fake_init(&fx->clock, (int64_t)(1800000000 * TARN_NS_PER_S));
    fx->ttl_ns = 60 * TARN_NS_PER_S;
    assert_int_equal(tarn_loop_new(&fx->loop), 0);
    if (!objects) {
        fx->dir = fx_tmp();
        (void)snprintf(fx->uri, sizeof(fx->uri), "file://%s", fx->dir);
        return fx;
    }
    fx->srv = srv_start(objects, n);
    (void)snprintf(fx->uri, sizeof(fx->uri), "s3://bkt");
    (void)snprintf(fx->opts_text, sizeof(fx->opts_text),
                   "endpoint=http://127.0.0.1:%u,access-key=ak,secret-key=sk,timeout=10s,retries=0",
                   srv_port(fx->srv));
    return fx;
}

static struct tarn_rpc_client *mfx_pair(struct mfx *fx, struct tarn_rpc_server *s)
{
    struct tarn_rpc_client_args args = {
        .loop = fx->loop, .rng = tarn_rng_system(), .ctx = fx, .on_notice = mfx_notice};
    struct tarn_rpc_client *c = NULL;
    struct tarn_conn *end;

    assert_int_equal(tarn_conn_pair(fx->loop, &args.conn, &end), 0);
    tarn_rpc_server_serve(s, end, true);
    assert_int_equal(tarn_rpc_client_new(&args, &c), 0);
    return c;
}

void mfx_open(struct mfx *fx)
{
    struct tarn_master_args args = {
        .loop = fx->loop, .clock = &fx->clock.base, .rng = tarn_rng_system(), .cap_key = mfx_key};
    const char *const texts[] = {fx->opts_text};

    fx->kv = tarn_kv_mem_open(&fx->kv_disk, TARN_CF_COUNT);
    args.kv = fx->kv;
    args.cluster = fx->cluster;
    args.lease_ns = fx->lease_ns;
    assert_int_equal(
        tarn_ufs_opts_parse(texts, *fx->opts_text ? 1 : 0, true, &fx->opts, &fx->conf, &fx->err),
        0);
    assert_int_equal(tarn_master_new(&args, &fx->err, &fx->master), 0);
    if (fx->refresh_wait_ns)
        fx->master->refresh_wait_ns = fx->refresh_wait_ns;
    if (fx->probe_ns)
        fx->master->probe_ns = fx->probe_ns;
}

static void mfx_attached(void *arg, int rc, const struct tarn_errbuf *err)
{
    struct mfx *fx = arg;

    fx->rc = rc;
    fx->err = *err;
    mfx_done(fx);
}

int mfx_attach(struct mfx *fx, bool check, uint64_t timeout_ns)
{
    struct tarn_master_attach at = {.path = "/",
                                    .uri = fx->uri,
                                    .opts = &fx->opts,
                                    .ttl_ns = fx->ttl_ns,
                                    .check = check,
                                    .check_timeout_ns = timeout_ns};

    tarn_master_attach(fx->master, &at, mfx_attached, fx);
    if (!timeout_ns)
        return 0; /* the test waits itself */
    mfx_wait(fx);
    return fx->rc;
}

void mfx_serve(struct mfx *fx)
{
    struct tarn_rpc_server_args server = {.loop = fx->loop,
                                          .rng = tarn_rng_system(),
                                          .ctx = fx,
                                          .on_session = mfx_on_session,
                                          .on_gone = mfx_on_gone};

    server.cluster_id = tarn_master_cluster_id(fx->master);
    assert_int_equal(tarn_rpc_server_new(&server, &fx->server), 0);
    server.on_session = NULL;
    server.on_gone = NULL;
    assert_int_equal(tarn_rpc_server_new(&server, &fx->worker_server), 0);
    tarn_master_serve(fx->master, fx->server);
    tarn_rpc_server_handle(fx->worker_server, TARN_RPC_cached, mfx_cached, fx);
    tarn_rpc_server_handle(fx->worker_server, TARN_RPC_worker_status, mfx_worker_status, fx);
    fx->last_seq = 0;
    fx->client = mfx_pair(fx, fx->server);
    fx->to_worker = mfx_pair(fx, fx->worker_server);
    tarn_master_set_worker(fx->master, fx->to_worker);
}

void mfx_start(struct mfx *fx)
{
    mfx_open(fx);
    assert_int_equal(mfx_attach(fx, true, 8 * TARN_NS_PER_S), 0);
    mfx_serve(fx);
}

void mfx_halt(struct mfx *fx)
{
    tarn_master_stop(fx->master, mfx_done, fx);
    mfx_wait(fx);
}

void mfx_close(struct mfx *fx)
{
    if (fx->server) {
        tarn_rpc_client_stop(fx->to_worker, mfx_done, fx);
        mfx_wait(fx);
        tarn_rpc_client_stop(fx->client, mfx_done, fx);
        mfx_wait(fx);
        tarn_rpc_server_stop(fx->server, mfx_done, fx);
        mfx_wait(fx);
        tarn_rpc_server_stop(fx->worker_server, mfx_done, fx);
        mfx_wait(fx);
        tarn_rpc_client_free(&fx->to_worker);
        tarn_rpc_client_free(&fx->client);
        tarn_rpc_server_free(&fx->server);
        tarn_rpc_server_free(&fx->worker_server);
    }
    assert_null(fx->held);
    tarn_master_free(&fx->master);
    if (tarn_core_check(fx->kv, &fx->err) != 0)
        fail_msg("%s", fx->err.text);
    tarn_kv_close(&fx->kv);
    tarn_conf_free(&fx->conf);
}

void mfx_stop(struct mfx *fx)
{
    mfx_halt(fx);
    mfx_close(fx);
}

void mfx_free(struct mfx **pfx)
{
    struct mfx *fx = *pfx;

    if (fx->master)
        mfx_stop(fx);
    if (fx->srv)
        srv_stop(&fx->srv);
    tarn_loop_free(&fx->loop);
    tarn_kv_mem_disk_fini(&fx->kv_disk);
    if (fx->dir)
        fx_tmp_fini(fx->dir);
    free(fx);
    *pfx = NULL;
}

/* ---- calls
 * ----------------------------------------------------------------------------------- */

static void mfx_op_cb(struct tarn_rpc_req *req, int rc)
{
    struct mfx_op *op = req->arg;
    ProtobufCMessage *resp = req->resp;

    req->resp = NULL;
    tarn_rpc_req_fini(req);
    req->resp = resp;
    op->done = true;
    op->rc = rc;
    tarn_loop_stop(op->fx->loop);
}

void mfx_begin(struct mfx *fx, struct mfx_op *op, uint32_t method, const ProtobufCMessage *msg,
               unsigned timeout_ms)
{
    *op = (struct mfx_op){.fx = fx};
    op->req = (struct tarn_rpc_req){.method = method,
                                    .msg = msg,
                                    .timeout_ns = timeout_ms * TARN_NS_PER_MS,
                                    .no_retry = true,
                                    .cb = mfx_op_cb,
                                    .arg = op};
    tarn_rpc_start(fx->client, &op->req);
}

int mfx_end(struct mfx_op *op)
{
    struct tarn_timer t = {0};

    tarn_timer_start(op->fx->loop, &t, 60 * TARN_NS_PER_S, mfx_late, op);
    while (!op->done)
        tarn_loop_run(op->fx->loop);
    tarn_timer_stop(&t);
    return op->rc;
}

void mfx_op_fini(struct mfx_op *op)
{
    if (op->req.resp)
        protobuf_c_message_free_unpacked(op->req.resp, NULL);
    op->req.resp = NULL;
}

void mfx_begin_lookup(struct mfx *fx, struct mfx_op *op, uint64_t parent, const char *name,
                      unsigned timeout_ms)
{
    Tarn__Wire__LookupRequest msg = TARN__WIRE__LOOKUP_REQUEST__INIT;

    msg.parent = parent;
    msg.name = tarn_wire_bytes(name, strlen(name));
    msg.fresh = true;
    mfx_begin(fx, op, TARN_RPC_lookup, &msg.base, timeout_ms);
}

static void mfx_attr_copy(const Tarn__Wire__Attr *a, struct mfx_attr *ret)
{
    if (!a || !ret)
        return;
    ret->ino = a->ino;
    ret->version = a->version;
    ret->size = a->size;
    ret->type = a->type;
    ret->trust_ms = a->trust_ms;
}

int mfx_lookup(struct mfx *fx, uint64_t parent, const char *name, struct mfx_attr *ret)
{
    const Tarn__Wire__LookupResponse *resp;
    struct mfx_op op;
    int rc;

    if (ret)
        *ret = (struct mfx_attr){0};
    mfx_begin_lookup(fx, &op, parent, name, 30000);
    rc = mfx_end(&op);
    resp = (const void *)op.req.resp;
    if (resp && ret)
        ret->negative_ms = resp->negative_trust_ms;
    if (rc == 0)
        mfx_attr_copy(resp->attr, ret);
    mfx_op_fini(&op);
    return rc;
}

int mfx_getattr(struct mfx *fx, uint64_t ino, bool fresh, struct mfx_attr *ret)
{
    Tarn__Wire__GetattrRequest msg = TARN__WIRE__GETATTR_REQUEST__INIT;
    struct mfx_op op;
    int rc;

    msg.ino = ino;
    msg.fresh = fresh;
    mfx_begin(fx, &op, TARN_RPC_getattr, &msg.base, 30000);
    rc = mfx_end(&op);
    if (rc == 0)
        mfx_attr_copy(((const Tarn__Wire__GetattrResponse *)op.req.resp)->attr, ret);
    mfx_op_fini(&op);
    return rc;
}

int mfx_report(struct mfx *fx, uint64_t ino, uint64_t version)
{
    Tarn__Wire__ChangedRequest msg = TARN__WIRE__CHANGED_REQUEST__INIT;
    struct mfx_op op;
    int rc;

    msg.ino = ino;
    msg.version = version;
    mfx_begin(fx, &op, TARN_RPC_report_changed, &msg.base, 30000);
    rc = mfx_end(&op);
    mfx_op_fini(&op);
    return rc;
}

int mfx_resolve(struct mfx *fx, const char *path, struct mfx_attr *ret)
{
    Tarn__Wire__ResolveRequest msg = TARN__WIRE__RESOLVE_REQUEST__INIT;
    struct mfx_op op;
    int rc;

    msg.path = tarn_wire_bytes(path, strlen(path));
    mfx_begin(fx, &op, TARN_RPC_resolve, &msg.base, 30000);
    rc = mfx_end(&op);
    if (rc == 0)
        mfx_attr_copy(((const Tarn__Wire__ResolveResponse *)op.req.resp)->attr, ret);
    mfx_op_fini(&op);
    return rc;
}

int mfx_readdir(struct mfx *fx, uint64_t ino, unsigned page, struct mfx_dir *ret)
{
    uint64_t cookie = 0;
    bool eof = false;
    int rc = 0;

    *ret = (struct mfx_dir){0};
    while (rc == 0 && !eof) {
        Tarn__Wire__ReaddirRequest msg = TARN__WIRE__READDIR_REQUEST__INIT;
        const Tarn__Wire__ReaddirResponse *resp;
        struct mfx_op op;

        msg.ino = ino;
        msg.cookie = cookie;
        msg.max_entries = page;
        mfx_begin(fx, &op, TARN_RPC_readdir, &msg.base, 30000);
        rc = mfx_end(&op);
        resp = (const void *)op.req.resp;
        if (rc == 0) {
            ret->pages++;
            eof = resp->eof;
            assert_true(resp->n_entries <= page);
            assert_true(eof || resp->n_entries > 0);
            for (size_t i = 0; i < resp->n_entries; i++) {
                const Tarn__Wire__Dirent *d = resp->entries[i];

                assert_true(ret->count < MFX_NAMES_MAX && d->cookie > cookie);
                cookie = d->cookie;
                ret->names[ret->count] =
                    tarn_xasprintf("%.*s", (int)d->name.len, (const char *)d->name.data);
                ret->trust_ms[ret->count] = d->attr->trust_ms;
                ret->inos[ret->count++] = d->attr->ino;
            }
        }
        mfx_op_fini(&op);
    }
    return rc;
}

bool mfx_dir_has(const struct mfx_dir *d, const char *name)
{
    for (size_t i = 0; i < d->count; i++)
        if (strcmp(d->names[i], name) == 0)
            return true;
    return false;
}

void mfx_dir_fini(struct mfx_dir *d)
{
    for (size_t i = 0; i < d->count; i++)
        free(d->names[i]);
    d->count = 0;
}

int mfx_du(struct mfx *fx, const char *path, Tarn__Wire__DuResponse *ret)
{
    Tarn__Wire__DuRequest msg = TARN__WIRE__DU_REQUEST__INIT;
    struct mfx_op op;
    int rc;

    msg.path = tarn_wire_bytes(path, strlen(path));
    mfx_begin(fx, &op, TARN_RPC_du, &msg.base, 30000);
    rc = mfx_end(&op);
    if (rc == 0) {
        *ret = *(const Tarn__Wire__DuResponse *)op.req.resp;
        ret->reason = NULL; /* it goes with the answer */
    }
    mfx_op_fini(&op);
    return rc;
}

uint64_t mfx_stale(struct mfx *fx)
{
    struct tarn_master_counts c;

    tarn_master_counts(fx->master, &c);
    return c.stale_answers;
}
