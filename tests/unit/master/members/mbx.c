/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/master/members/mbx.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"

#define STEPS_MAX       2000000u
#define FLOOD_AT_A_TIME 60u

static const char mbx_token[] = "a token of the cluster";

/* ---- time ------------------------------------------------------------------------------------ */

static void mbx_done(void *arg)
{
    struct mbx *fx = arg;

    fx->done = true;
}

static void mbx_turn_over(struct tarn_timer *t, void *arg)
{
    (void)t;
    tarn_loop_stop(((struct mbx *)arg)->loop);
}

/* A little further. */
static void mbx_step(struct mbx *fx)
{
    struct tarn_timer t = {0};

    if (!fx->real) {
        assert_true(tarn_loop_sim_step(fx->loop));
        return;
    }
    tarn_timer_start(fx->loop, &t, MBX_MS, mbx_turn_over, fx);
    tarn_loop_run(fx->loop);
    tarn_timer_stop(&t);
}

static void mbx_wait(struct mbx *fx, const bool *until)
{
    uint64_t begun = tarn_now_ns();

    for (unsigned i = 0; !*until; i++) {
        assert_true(i < STEPS_MAX && tarn_now_ns() - begun < 60 * MBX_S);
        mbx_step(fx);
    }
}

void mbx_run(struct mbx *fx, uint64_t ns)
{
    uint64_t until = tarn_loop_now_ns(fx->loop) + ns;

    if (!fx->real) {
        tarn_loop_sim_run(fx->loop, until);
        return;
    }
    while (tarn_loop_now_ns(fx->loop) < until)
        mbx_step(fx);
}

/* ---- the master ------------------------------------------------------------------------------ */

static void mbx_on_gone(void *ctx, struct tarn_rpc_session *s)
{
    struct mbx *fx = ctx;

    if (fx->master)
        tarn_master_session_gone(fx->master, s);
}

static struct mbx *mbx_current; /* the hook has no argument of ours */

static void mbx_on_topology(struct tarn_master *m)
{
    assert_ptr_equal(m, mbx_current->master);
    assert_int_equal(mmembers_topology(m)->version, tarn_place_version(tarn_peers_place(m->peers)));
    mbx_current->published++;
    if (mbx_current->watch)
        mbx_current->watch(mbx_current);
}

static struct tarn_rpc_client *mbx_client(struct mbx *fx, void *ctx,
                                          void (*on_notice)(void *ctx, uint32_t method,
                                                            const ProtobufCMessage *msg))
{
    struct tarn_rpc_client_args args = {
        .loop = fx->loop, .rng = tarn_rng_system(), .ctx = ctx, .on_notice = on_notice};
    struct tarn_rpc_client *c = NULL;
    struct tarn_conn *end;

    if (fx->real) {
        args.addrs = fx->addr;
        args.token = mbx_token;
        args.token_len = sizeof(mbx_token);
    } else {
        assert_int_equal(tarn_conn_pair(fx->loop, &args.conn, &end), 0);
        tarn_rpc_server_serve(fx->server, end, true);
    }
    assert_int_equal(tarn_rpc_client_new(&args, &c), 0);
    return c;
}

static void mbx_client_end(struct mbx *fx, struct tarn_rpc_client **c)
{
    if (!*c)
        return;
    fx->done = false;
    tarn_rpc_client_stop(*c, mbx_done, fx);
    mbx_wait(fx, &fx->done);
    tarn_rpc_client_free(c);
}

void mbx_init(struct mbx *fx, bool real)
{
    memset(fx, 0, sizeof(*fx));
    fx->real = real;
    tarn_clock_fake_init(&fx->clock, (int64_t)(1800000000 * MBX_S));
    if (real)
        assert_int_equal(tarn_loop_new(&fx->loop), 0);
    else
        fx->loop = tarn_loop_sim_new(MBX_S);
    fx->args = (struct tarn_master_args){.loop = fx->loop,
                                         .clock = &fx->clock.base,
                                         .rng = tarn_rng_system(),
                                         .cluster = true,
                                         .token = mbx_token,
                                         .token_len = sizeof(mbx_token),
                                         .journal_inline = !real,
                                         .move_rate = 77};
}

void mbx_start(struct mbx *fx)
{
    struct tarn_rpc_server_args server = {
        .loop = fx->loop, .rng = tarn_rng_system(), .ctx = fx, .on_gone = mbx_on_gone};
    struct tarn_errbuf err = {0};

    fx->kv = tarn_kv_mem_open(&fx->disk, TARN_CF_COUNT);
    fx->args.kv = fx->kv;
    if (tarn_master_new(&fx->args, &err, &fx->master) < 0)
        fail_msg("%s", err.text);
    mbx_current = fx;
    fx->master->on_topology = mbx_on_topology;
    server.cluster_id = tarn_master_cluster_id(fx->master);
    server.token = mbx_token;
    server.token_len = sizeof(mbx_token);
    assert_int_equal(tarn_rpc_server_new(&server, &fx->server), 0);
    tarn_master_serve(fx->master, fx->server);
    if (fx->real)
        assert_int_equal(tarn_rpc_server_listen(fx->server, "127.0.0.1:0", &fx->addr), 0);
    fx->admin = mbx_client(fx, NULL, NULL);
}

void mbx_stop(struct mbx *fx)
{
    struct tarn_errbuf err = {0};

    fx->done = false;
    tarn_master_stop(fx->master, mbx_done, fx);
    mbx_wait(fx, &fx->done);
    mbx_client_end(fx, &fx->admin);
    fx->done = false;
    tarn_rpc_server_stop(fx->server, mbx_done, fx);
    mbx_wait(fx, &fx->done);
    tarn_rpc_server_free(&fx->server);
    tarn_master_free(&fx->master);
    if (tarn_core_check(fx->kv, &err) != 0)
        fail_msg("%s", err.text);
    tarn_kv_close(&fx->kv);
}

void mbx_fini(struct mbx *fx)
{
    if (fx->master)
        mbx_stop(fx);
    tarn_loop_free(&fx->loop);
    tarn_kv_mem_disk_fini(&fx->disk);
}

/* ---- workers --------------------------------------------------------------------------------- */

static void mbw_take_topology(struct mbw *w, const Tarn__Wire__Topology *t)
{
    size_t n = tarn__wire__topology__get_packed_size(t);
    TARN_AUTO_FREE uint8_t *buf = tarn_xcalloc(1, n + 1);

    if (w->topology && t->version <= w->topology->version)
        return;
    tarn__wire__topology__pack(t, buf);
    if (w->topology)
        tarn__wire__topology__free_unpacked(w->topology, NULL);
    w->topology = tarn__wire__topology__unpack(NULL, n, buf);
    assert_non_null(w->topology);
}

static void mbw_notice(void *ctx, uint32_t method, const ProtobufCMessage *msg)
{
    struct mbw *w = ctx;

    if (method == TARN_RPC_attachments) {
        w->lists++;
        return;
    }
    assert_int_equal(method, TARN_RPC_topology);
    w->notices++;
    mbw_take_topology(w, (const Tarn__Wire__Topology *)msg);
}

static void mbw_beat_due(struct tarn_timer *t, void *arg);

static void mbw_beaten(struct tarn_rpc_req *req, int rc)
{
    struct mbw *w = req->arg;
    const Tarn__Wire__WorkerBeaten *resp = (const Tarn__Wire__WorkerBeaten *)req->resp;

    w->beating = false;
    w->beat_rc = rc;
    if (rc == 0 && resp->topology)
        mbw_take_topology(w, resp->topology);
    if (rc == 0)
        assert_int_equal(resp->move_rate, 77);
}

static void mbw_send_beat(struct mbw *w)
{
    Tarn__Wire__WorkerBeat msg = TARN__WIRE__WORKER_BEAT__INIT;
    Tarn__Wire__Tier tier = TARN__WIRE__TIER__INIT, *tiers[] = {&tier};

    assert_false(w->beating);
    tier.medium = tarn_wire_text("SSD");
    tier.capacity = w->capacity;
    tier.data = w->data;
    tier.used = w->data + w->index;
    msg.id = w->id;
    msg.incarnation = w->incarnation;
    msg.topology = w->topology ? w->topology->version : 0;
    msg.settled = w->settle == MBX_SETTLE ? msg.topology : w->settle;
    w->sent_settled = TARN_MAX(w->sent_settled, msg.settled);
    msg.left_bytes = w->left_bytes;
    msg.n_tiers = 1;
    msg.tiers = tiers;
    w->beating = true;
    w->beat = (struct tarn_rpc_req){.method = TARN_RPC_worker_beat,
                                    .msg = &msg.base,
                                    .no_retry = true,
                                    .timeout_ns = 5 * MBX_S,
                                    .cb = mbw_beaten,
                                    .arg = w};
    tarn_rpc_start(w->client, &w->beat);
}

static void mbw_beat_due(struct tarn_timer *t, void *arg)
{
    struct mbw *w = arg;

    if (!w->mute && !w->beating)
        mbw_send_beat(w);
    tarn_timer_start(w->fx->loop, t, w->beat_ms * MBX_MS, mbw_beat_due, w);
}

void mbw_init(struct mbx *fx, struct mbw *w, const char *uuid, const char *addr)
{
    memset(w, 0, sizeof(*w));
    w->fx = fx;
    (void)snprintf(w->uuid, sizeof(w->uuid), "%s", uuid);
    (void)snprintf(w->addr, sizeof(w->addr), "%s", addr);
    (void)snprintf(w->host, sizeof(w->host), "host");
    w->capacity = 100 * MBX_GIB;
}

static void mbw_called(struct tarn_rpc_req *req, int rc)
{
    struct mbw *w = req->arg;
    const Tarn__Wire__WorkerRegistered *resp = (const Tarn__Wire__WorkerRegistered *)req->resp;

    w->calling = true;
    w->rc = rc;
    if (req->method != TARN_RPC_worker_register || !resp)
        return;
    (void)snprintf(w->error, sizeof(w->error), "%s", resp->error_text);
    if (rc < 0)
        return;
    assert_string_equal(resp->cluster_id, tarn_master_cluster_id(w->fx->master));
    assert_int_equal(resp->cap_key.len, 32);
    assert_non_null(resp->attachments);
    assert_int_equal(resp->move_rate, 77);
    memcpy(w->cap_key, resp->cap_key.data, 32);
    w->id = resp->id;
    w->beat_ms = resp->beat_ms;
    if (w->topology && resp->topology->version < w->topology->version)
        fail_msg("the topology became older");
    mbw_take_topology(w, resp->topology);
}

struct mbw_flooded {
    struct tarn_rpc_req req;
    bool done;
    int rc;
};

static void mbw_flooded(struct tarn_rpc_req *req, int rc)
{
    struct mbw_flooded *f = req->arg;

    f->done = true;
    f->rc = rc;
}

static void mbw_flood_one(struct mbw *w, struct mbw_flooded *f, unsigned i)
{
    Tarn__Wire__WorkerRegister msg = TARN__WIRE__WORKER_REGISTER__INIT;
    size_t n = strlen(w->addr);
    char uuid[32], addr[256];

    (void)snprintf(uuid, sizeof(uuid), "flood-%05u", i);
    assert_true(n >= 5);
    (void)snprintf(addr, sizeof(addr), "%.*s%05u", (int)(n - 5), w->addr,
                   i); /* as long as it was */
    msg.uuid = uuid;
    msg.addr = addr;
    msg.host = w->host;
    msg.socket = w->socket;
    msg.weight = UINT32_MAX;
    msg.incarnation = 1;
    *f = (struct mbw_flooded){.req = {.method = TARN_RPC_worker_register,
                                      .msg = &msg.base,
                                      .no_retry = true,
                                      .cb = mbw_flooded,
                                      .arg = f}};
    tarn_rpc_start(w->client, &f->req);
}

unsigned mbw_flood(struct mbw *w, unsigned n)
{
    struct mbw_flooded all[FLOOD_AT_A_TIME];
    unsigned refused = 0;

    for (unsigned at = 0; at < n; at += FLOOD_AT_A_TIME) {
        unsigned some = TARN_MIN(n - at, FLOOD_AT_A_TIME);

        for (unsigned i = 0; i < some; i++)
            mbw_flood_one(w, &all[i], at + i);
        for (unsigned i = 0; i < some; i++) {
            mbx_wait(w->fx, &all[i].done);
            assert_true(all[i].rc == 0 || all[i].rc == -TARN_E_TOO_BIG);
            refused += all[i].rc < 0;
        }
    }
    return refused;
}

static void mbw_begin(struct mbw *w, uint32_t method, const ProtobufCMessage *msg)
{
    w->calling = false;
    w->call = (struct tarn_rpc_req){.method = method,
                                    .msg = msg,
                                    .no_retry = true,
                                    .timeout_ns = 20 * MBX_S,
                                    .cb = mbw_called,
                                    .arg = w};
    tarn_rpc_start(w->client, &w->call);
}

static int mbw_call(struct mbw *w, uint32_t method, const ProtobufCMessage *msg)
{
    mbw_begin(w, method, msg);
    mbx_wait(w->fx, &w->calling);
    return w->rc;
}

void mbw_begin_register(struct mbw *w)
{
    Tarn__Wire__WorkerRegister msg = TARN__WIRE__WORKER_REGISTER__INIT;
    Tarn__Wire__Tier tier = TARN__WIRE__TIER__INIT, *tiers[] = {&tier};

    tier.medium = tarn_wire_text("SSD");
    tier.capacity = w->capacity;
    tier.data = w->data;
    tier.used = w->data + w->index;
    msg.uuid = w->uuid;
    msg.addr = w->addr;
    msg.host = w->host;
    msg.socket = w->socket;
    msg.weight = w->weight;
    msg.n_tiers = 1;
    msg.tiers = tiers;
    msg.incarnation = w->incarnation;
    msg.topology = w->topology ? w->topology->version : 0;
    mbw_begin(w, TARN_RPC_worker_register, &msg.base);
}

void mbw_end_register(struct mbw *w)
{
    mbx_wait(w->fx, &w->calling);
}

int mbw_register(struct mbw *w)
{
    mbw_begin_register(w);
    mbw_end_register(w);
    return w->rc;
}

int mbw_start(struct mbw *w)
{
    w->incarnation = 1 + tarn_rng_u64(tarn_rng_system()) / 2;
    return mbw_back(w);
}

int mbw_back(struct mbw *w)
{
    int rc;

    assert_null(w->client);
    w->client = mbx_client(w->fx, w, mbw_notice);
    rc = mbw_register(w);
    if (rc == 0)
        tarn_timer_start(w->fx->loop, &w->beat_timer, w->beat_ms * MBX_MS, mbw_beat_due, w);
    return rc;
}

int mbw_beat(struct mbw *w)
{
    bool sent = false;

    for (unsigned i = 0; w->beating; i++) {
        assert_true(i < STEPS_MAX);
        mbx_step(w->fx);
    }
    mbw_send_beat(w);
    while (!sent) {
        mbx_step(w->fx);
        sent = !w->beating;
    }
    return w->beat_rc;
}

void mbw_kill(struct mbw *w)
{
    tarn_timer_stop(&w->beat_timer);
    mbx_client_end(w->fx, &w->client);
    mbx_run(w->fx, MBX_MS); /* the master has seen it */
}

int mbw_leave(struct mbw *w)
{
    Tarn__Wire__WorkerLeave msg = TARN__WIRE__WORKER_LEAVE__INIT;
    int rc;

    msg.id = w->id;
    msg.incarnation = w->incarnation;
    tarn_timer_stop(&w->beat_timer);
    rc = mbw_call(w, TARN_RPC_worker_leave, &msg.base);
    mbw_kill(w);
    return rc;
}

void mbw_fini(struct mbw *w)
{
    mbw_kill(w);
    if (w->topology)
        tarn__wire__topology__free_unpacked(w->topology, NULL);
    w->topology = NULL;
}

/* ---- calls ----------------------------------------------------------------------------------- */

struct mbx_call {
    struct tarn_rpc_req req;
    bool done;
    int rc;
    ProtobufCMessage *resp;
};

static void mbx_called(struct tarn_rpc_req *req, int rc)
{
    struct mbx_call *c = req->arg;

    c->rc = rc;
    c->resp = req->resp;
    req->resp = NULL;
    c->done = true;
}

static int mbx_call(struct mbx *fx, uint32_t method, const ProtobufCMessage *msg,
                    ProtobufCMessage **ret)
{
    struct mbx_call c = {.req = {.method = method,
                                 .msg = msg,
                                 .no_retry = true,
                                 .timeout_ns = 20 * MBX_S,
                                 .cb = mbx_called}};

    c.req.arg = &c;
    tarn_rpc_start(fx->admin, &c.req);
    mbx_wait(fx, &c.done);
    *ret = c.resp;
    return c.rc;
}

int mbx_admin(struct mbx *fx, uint32_t method, uint64_t id, bool undo, bool force,
              uint64_t *ret_left, char ret_text[512])
{
    Tarn__Wire__WorkerAdmin msg = TARN__WIRE__WORKER_ADMIN__INIT;
    ProtobufCMessage *m;
    const Tarn__Wire__WorkerAdminResponse *resp;
    int rc;

    msg.id = id;
    msg.undo = undo;
    msg.force = force;
    rc = mbx_call(fx, method, &msg.base, &m);
    resp = (const void *)m;
    assert_non_null(resp);
    if (ret_left)
        *ret_left = resp->left_bytes;
    if (ret_text)
        (void)snprintf(ret_text, 512, "%s", resp->error_text);
    assert_int_equal(rc < 0, *resp->error_text != 0);
    protobuf_c_message_free_unpacked(m, NULL);
    return rc;
}

bool mbx_status(struct mbx *fx, uint64_t id, struct mbx_row *ret)
{
    Tarn__Wire__Empty msg = TARN__WIRE__EMPTY__INIT;
    const Tarn__Wire__StatusResponse *resp;
    ProtobufCMessage *m;
    bool found = false;

    assert_int_equal(mbx_call(fx, TARN_RPC_status, &msg.base, &m), 0);
    resp = (const void *)m;
    *ret = (struct mbx_row){0};
    for (size_t i = 0; i < resp->n_workers; i++) {
        const Tarn__Wire__WorkerStatus *w = resp->workers[i];

        if (w->id != id)
            continue;
        assert_false(found);
        found = true;
        (void)snprintf(ret->state, sizeof(ret->state), "%s", w->state);
        (void)snprintf(ret->addr, sizeof(ret->addr), "%s", w->addr);
        assert_string_equal(w->host, "host");
        ret->alive = w->alive;
        ret->settled = w->settled;
        ret->weight = w->weight;
        ret->heard_ms = w->heard_ms;
        ret->left_bytes = w->left_bytes;
        ret->tiers = w->n_tiers;
        ret->used = w->n_tiers ? w->tiers[0]->used : 0;
    }
    protobuf_c_message_free_unpacked(m, NULL);
    return found;
}

const struct tarn_place_worker *mbx_placed(struct mbx *fx, uint64_t id)
{
    return tarn_place_find(tarn_peers_place(fx->master->peers), id);
}

bool mbx_alive(struct mbx *fx, uint64_t id)
{
    const struct tarn_place_worker *w = mbx_placed(fx, id);

    assert_non_null(w);
    return w->alive;
}

uint64_t mbx_version(struct mbx *fx)
{
    return tarn_place_version(tarn_peers_place(fx->master->peers));
}
