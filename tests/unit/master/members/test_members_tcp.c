/* SPDX-License-Identifier: Apache-2.0 */
/* Members over TCP with a token, the journal on its thread, and the clock of the machine. */
#include "tests/unit/master/members/mbx.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#define LEASE (600 * MBX_MS)

/* What a worker serves: it answers only to whom the master lets. */
struct served {
    struct mbx *fx;
    const struct mbw *w;
    struct tarn_rpc_server *server;
    const char *addr;
    unsigned calls;
    bool done;
};

static void served_status(void *ctx, struct tarn_rpc_call *call)
{
    Tarn__Wire__WorkerStatus resp = TARN__WIRE__WORKER_STATUS__INIT;
    struct served *s = ctx;
    int rc = -TARN_E_CAP_BAD;

    if (call->meta)
        rc = tarn_cap_check(s->w->cap_key, tarn_master_cluster_id(s->fx->master), s->fx->clock.real,
                            0, true, &call->meta->capability);
    s->calls++;
    resp.id = s->w->id;
    tarn_rpc_reply(call, rc, rc == 0 ? &resp.base : NULL, NULL, 0, 0);
}

static void served_start(struct served *s, struct mbx *fx, const struct mbw *w)
{
    struct tarn_rpc_server_args args = {.loop = fx->loop, .rng = tarn_rng_system(), .ctx = s};

    *s = (struct served){.fx = fx, .w = w};
    args.cluster_id = tarn_master_cluster_id(fx->master);
    args.token = fx->args.token;
    args.token_len = fx->args.token_len;
    assert_int_equal(tarn_rpc_server_new(&args, &s->server), 0);
    tarn_rpc_server_handle(s->server, TARN_RPC_worker_status, served_status, s);
    assert_int_equal(tarn_rpc_server_listen(s->server, "127.0.0.1:0", &s->addr), 0);
}

static void served_stopped(void *arg)
{
    ((struct served *)arg)->done = true;
}

static void served_stop(struct served *s)
{
    tarn_rpc_server_stop(s->server, served_stopped, s);
    while (!s->done)
        mbx_run(s->fx, MBX_MS);
    tarn_rpc_server_free(&s->server);
}

struct asked {
    struct tarn_rpc_req req;
    bool done;
    int rc;
    uint64_t id;
};

static void asked(struct tarn_rpc_req *req, int rc)
{
    struct asked *a = req->arg;

    a->done = true;
    a->rc = rc;
    if (rc == 0)
        a->id = ((const Tarn__Wire__WorkerStatus *)req->resp)->id;
}

/* The master calls a worker where the topology says that it is. */
static void ask(struct mbx *fx, uint64_t id)
{
    Tarn__Wire__Empty msg = TARN__WIRE__EMPTY__INIT;
    struct tarn_rpc_client *c = tarn_peers_get(fx->master->peers, id);
    struct asked a = {.req = {.method = TARN_RPC_worker_status, .msg = &msg.base, .cb = asked}};

    assert_non_null(c);
    a.req.arg = &a;
    tarn_rpc_start(c, &a.req);
    while (!a.done)
        mbx_run(fx, MBX_MS);
    assert_int_equal(a.rc, 0);
    assert_int_equal(a.id, id);
}

static void until_alive(struct mbx *fx, uint64_t id, bool alive, uint64_t at_most_ns)
{
    uint64_t begun = tarn_loop_now_ns(fx->loop);

    while (mbx_alive(fx, id) != alive) {
        assert_true(tarn_loop_now_ns(fx->loop) - begun < at_most_ns);
        mbx_run(fx, 5 * MBX_MS);
    }
}

static void test_a_life(void **state)
{
    struct mbx fx;
    struct mbw w[2];
    struct served served;
    struct mbx_row row;
    uint8_t key[32];
    uint64_t left = 1;

    (void)state;
    mbx_init(&fx, true);
    fx.args.lease_ns = 20 * MBX_S; /* nobody is too slow for it */
    mbx_start(&fx);
    mbw_init(&fx, &w[0], "tier-uuid-1", "");
    mbw_init(&fx, &w[1], "tier-uuid-2", "127.0.0.1:1");
    served_start(&served, &fx, &w[0]);
    (void)snprintf(w[0].addr, sizeof(w[0].addr), "%s", served.addr);
    assert_int_equal(mbw_start(&w[0]), 0);
    tarn_rpc_server_set_worker(served.server, w[0].id);
    ask(&fx, 1);
    assert_int_equal(served.calls, 1);
    assert_int_equal(mbw_start(&w[1]), 0);
    while (w[0].topology->version != mbx_version(&fx))
        mbx_run(&fx, MBX_MS); /* pushed */
    assert_int_equal(w[0].topology->n_workers, 2);
    mbw_kill(&w[1]);
    assert_true(mbx_alive(&fx, 2));
    until_alive(&fx, 2, false, 10 * MBX_S); /* after a second, long before the lease */
    assert_int_equal(mbw_start(&w[1]), 0);
    assert_int_equal(w[1].id, 2);
    assert_true(mbx_alive(&fx, 2));
    assert_int_equal(mbx_admin(&fx, TARN_RPC_worker_drain, 2, false, false, &left, NULL), 0);
    while (w[1].topology->version != mbx_version(&fx))
        mbx_run(&fx, MBX_MS);
    w[1].settle = MBX_SETTLE;
    assert_int_equal(mbw_beat(&w[1]), 0);
    assert_int_equal(mbx_admin(&fx, TARN_RPC_worker_remove, 2, false, false, &left, NULL), 0);
    assert_int_equal(left, 0);
    assert_true(mbx_status(&fx, 2, &row));
    assert_string_equal(row.state, "removed");
    memcpy(key, w[0].cap_key, sizeof(key));
    mbw_kill(&w[0]);
    mbw_kill(&w[1]);
    mbx_stop(&fx);
    mbx_start(&fx); /* another master on what was journalled */
    assert_int_equal(mbw_start(&w[0]), 0);
    assert_int_equal(w[0].id, 1);
    assert_memory_equal(w[0].cap_key, key, sizeof(key));
    ask(&fx, 1);
    mbw_fini(&w[0]);
    mbw_fini(&w[1]);
    mbx_stop(&fx);
    served_stop(&served);
    mbx_fini(&fx);
}

/* A host that was suspended wakes up: nobody was silent, we did not listen. */
static void test_a_master_that_slept(void **state)
{
    struct timespec sleep = {.tv_sec = 2};
    struct mbx fx;
    struct mbw w;

    (void)state;
    mbx_init(&fx, true);
    fx.args.lease_ns = LEASE;
    fx.args.worker_lost_ns = MBX_S;
    mbx_start(&fx);
    mbw_init(&fx, &w, "tier-uuid-1", "127.0.0.1:1");
    assert_int_equal(mbw_start(&w), 0);
    mbx_run(&fx, LEASE);
    for (unsigned i = 0; i < 2; i++) {
        unsigned published = fx.published;

        assert_int_equal(nanosleep(&sleep, NULL), 0);
        mbx_run(&fx, LEASE / 2);
        assert_int_equal(fx.published, published); /* nothing was concluded */
        assert_true(mbx_alive(&fx, 1));
    }
    w.mute = true;
    until_alive(&fx, 1, false, 10 * MBX_S); /* it is missed all the same */
    while (mbx_placed(&fx, 1)->state != TARN_WORKER_LOST)
        mbx_run(&fx, 5 * MBX_MS);
    mbw_fini(&w);
    mbx_fini(&fx);
}

/* Stopped at every moment of a registration. */
static void test_stop_at_every_moment(void **state)
{
    (void)state;
    for (unsigned k = 0; k < 25; k++) {
        struct mbx fx;
        struct mbw w;

        mbx_init(&fx, true);
        mbx_start(&fx);
        mbw_init(&fx, &w, "tier-uuid-1", "127.0.0.1:1");
        assert_int_equal(mbw_start(&w), 0);
        w.weight = 7;
        mbw_begin_register(&w);
        for (unsigned i = 0; i < k % 5; i++)
            mbx_run(&fx, k / 5 * 200000);
        mbx_stop(&fx);
        mbw_end_register(&w);
        mbw_fini(&w);
        mbx_fini(&fx);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_life),
        cmocka_unit_test(test_a_master_that_slept),
        cmocka_unit_test(test_stop_at_every_moment),
    };

    return cmocka_run_group_tests_name("members over TCP", tests, NULL, NULL);
}
