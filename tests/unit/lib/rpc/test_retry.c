/* SPDX-License-Identifier: Apache-2.0 */
/* What the client tries again by itself, as a table; connecting, losing, changing the address. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/rpc/client_priv.h"
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

struct row {
    bool idempotent;
    bool no_retry;
    int first, second; /* what the server does; then it answers */
    int rc;            /* what the caller sees */
    unsigned calls;    /* what the server saw */
};

static const struct row rows[] = {
    {true, false, 0, 0, 0, 1},
    {false, false, 0, 0, 0, 1},
    /* lost after it was sent */
    {true, false, FX_CUT, 0, 0, 2},
    {true, false, FX_CUT, FX_CUT, -TARN_E_CONN_LOST, 2},
    {true, true, FX_CUT, 0, -TARN_E_CONN_LOST, 1},
    {false, false, FX_CUT, 0, -TARN_E_CONN_LOST, 1},
    {false, true, FX_CUT, 0, -TARN_E_CONN_LOST, 1},
    /* not begun */
    {true, false, -TARN_E_BUSY, -TARN_E_BUSY, 0, 3},
    {false, false, -TARN_E_BUSY, -TARN_E_SHUTDOWN, 0, 3},
    {true, true, -TARN_E_BUSY, 0, -TARN_E_BUSY, 1},
    {false, true, -TARN_E_SHUTDOWN, 0, -TARN_E_SHUTDOWN, 1},
    {true, false, -TARN_E_NOT_LEADER, 0, 0, 2},
    {false, false, -TARN_E_NOT_LEADER, -TARN_E_NOT_LEADER, 0, 3},
    {true, true, -TARN_E_NOT_LEADER, 0, -TARN_E_NOT_LEADER, 1},
    /* other errors that may pass */
    {true, false, -TARN_E_KV_NO_SPACE, -TARN_E_TIER_FULL, 0, 3},
    {false, false, -TARN_E_KV_NO_SPACE, 0, -TARN_E_KV_NO_SPACE, 1},
    /* A store's failure was tried again where the store is asked. */
    {true, false, -TARN_E_UFS_SERVER, 0, -TARN_E_UFS_SERVER, 1},
    {false, false, -TARN_E_UFS_SERVER, 0, -TARN_E_UFS_SERVER, 1},
    {true, false, FX_CUT, -TARN_E_BUSY, 0, 3},
    {true, false, -TARN_E_BUSY, FX_CUT, 0, 3},
    /* errors that will not */
    {true, false, -TARN_E_NO_ENTRY, 0, -TARN_E_NO_ENTRY, 1},
    {true, false, -TARN_E_GRANULE_SUM, 0, -TARN_E_GRANULE_SUM, 1},
    {true, false, -TARN_E_CAP_EXPIRED, 0, -TARN_E_CAP_EXPIRED, 1}, /* with the same capability */
    {true, false, -TARN_E_INTERNAL, 0, -TARN_E_INTERNAL, 1},
    {true, false, -5, 0, -5, 1},
    {true, false, -999999, 0, -TARN_E_INTERNAL, 1}, /* of a newer peer */
};

static void test_table(void **state)
{
    (void)state;
    for (size_t i = 0; i < TARN_ARRAY_LEN(rows); i++) {
        const struct row *row = &rows[i];
        struct fx fx;
        struct op op;

        start(&fx);
        fx_script(&fx, 2, row->first, row->second);
        op_init(&op, &fx, row->idempotent ? TARN_RPC_lookup : TARN_RPC_job_create, 1);
        op.req.no_retry = row->no_retry;
        tarn_rpc_start(fx.client, &op.req);
        fx_run(&fx, 5 * TARN_NS_PER_S);
        if (op.done != 1 || op.rc != row->rc || fx.calls != row->calls)
            fprintf(stderr, "row %zu: done %u rc %d calls %u\n", i, op.done, op.rc, fx.calls);
        assert_int_equal(op.done, 1);
        assert_int_equal(op.rc, row->rc);
        assert_int_equal(fx.calls, row->calls);
        fx_fini(&fx);
    }
}

/* A peer that is always busy: the last answer, not "deadline", and with pauses. */
static void test_busy_until_deadline(void **state)
{
    struct fx fx;
    struct op op;
    uint64_t t0;

    (void)state;
    start(&fx);
    fx.script_n = FX_MAX;
    for (unsigned i = 0; i < FX_MAX; i++)
        fx.script[i] = -TARN_E_BUSY;
    t0 = tarn_loop_now_ns(fx.loop);
    op_init(&op, &fx, TARN_RPC_lookup, 1);
    op.req.timeout_ns = 3 * TARN_NS_PER_S;
    tarn_rpc_start(fx.client, &op.req);
    fx_run(&fx, 10 * TARN_NS_PER_S);
    assert_int_equal(op.done, 1);
    assert_int_equal(op.rc, -TARN_E_BUSY);
    assert_true(op.at_ns - t0 <= 3 * TARN_NS_PER_S);
    assert_in_range(fx.calls, 4, 20);
    fx_fini(&fx);
}

/* An expired capability is worth another try once a new one has come. */
static void test_new_capability(void **state)
{
    Tarn__Wire__CallMeta meta = TARN__WIRE__CALL_META__INIT;
    struct fx fx;
    struct op op;

    (void)state;
    start(&fx);
    fx_script(&fx, 2, -TARN_E_CAP_EXPIRED, 0);
    op_start(&op, &fx, TARN_RPC_lookup, 1);
    meta.uid = 7;
    tarn_rpc_client_set_meta(fx.client, &meta); /* while it is under way */
    fx_run(&fx, TARN_NS_PER_S);
    assert_int_equal(op.rc, 0);
    assert_int_equal(fx.calls, 2);
    assert_int_equal(fx.meta_uid, 7);
    fx_script(&fx, 2, -TARN_E_CAP_EXPIRED, -TARN_E_CAP_EXPIRED);
    op_start(&op, &fx, TARN_RPC_lookup, 1);
    tarn_rpc_client_set_meta(fx.client, &meta);
    fx_run(&fx, TARN_NS_PER_S);
    assert_int_equal(op.rc, -TARN_E_CAP_EXPIRED); /* only once */
    fx_fini(&fx);
}

/* Nobody listens: waiting requests end by their deadline, and say why. */
static void test_nobody_there(void **state)
{
    struct fx fx;
    struct op patient, hasty;

    (void)state;
    fx_init_sim(&fx, 5);
    fx.client = fx_client_new(&fx, "127.0.0.1:9,127.0.0.1:10", FX_TOKEN);
    op_init(&patient, &fx, TARN_RPC_lookup, 1);
    patient.req.timeout_ns = 2 * TARN_NS_PER_S;
    tarn_rpc_start(fx.client, &patient.req);
    op_init(&hasty, &fx, TARN_RPC_lookup, 1);
    hasty.req.no_retry = true;
    tarn_rpc_start(fx.client, &hasty.req);
    fx_run(&fx, 100 * TARN_NS_PER_MS);
    assert_int_equal(hasty.done, 1);
    assert_int_equal(hasty.rc, -TARN_E_CONN_REFUSED);
    assert_int_equal(patient.done, 0);
    fx_run(&fx, 3 * TARN_NS_PER_S);
    assert_int_equal(patient.rc, -TARN_E_CONN_REFUSED);
    assert_int_equal(fx.up, 0);
    assert_in_range(fx.down, 4, 30); /* pauses between the rounds */
    assert_int_equal(fx.state_rc, -TARN_E_CONN_REFUSED);
    fx_fini(&fx);
}

/* A client may be told not to wait for ever: what waits ends soon after the server did. */
static void test_nobody_there_any_more(void **state)
{
    struct op held, waiting, late;
    struct fx fx;
    char addr[64];

    (void)state;
    start(&fx);
    fx.client->lost_timeout_ns = 2 * TARN_NS_PER_S;
    assert_true(strlen(fx.addr) < sizeof(addr));
    memcpy(addr, fx.addr, strlen(fx.addr) + 1);
    op_start(&held, &fx, TARN_RPC_getattr, 1);
    fx_run(&fx, 10 * TARN_NS_PER_MS);
    fx_stop_server(&fx);
    fx.held_n = 0;
    op_start(&waiting, &fx, TARN_RPC_lookup, 1);
    fx_run(&fx, TARN_NS_PER_S);
    assert_int_equal(held.done + waiting.done, 0); /* it may come back */
    fx_run(&fx, 3 * TARN_NS_PER_S);
    assert_int_equal(held.rc, -TARN_E_CONN_REFUSED);
    assert_int_equal(waiting.rc, -TARN_E_CONN_REFUSED);
    op_start(&late, &fx, TARN_RPC_lookup, 1);
    fx_run(&fx, 2 * TARN_NS_PER_S);
    assert_int_equal(late.rc, -TARN_E_CONN_REFUSED);
    fx_serve(&fx, FX_TOKEN);
    fx_listen(&fx, addr);
    fx_run(&fx, 2 * TARN_NS_PER_S);
    op_start(&late, &fx, TARN_RPC_lookup, 1);
    fx_run(&fx, 10 * TARN_NS_PER_MS);
    assert_int_equal(late.rc, 0);
    fx_fini(&fx);
}

/* A request that began before the server did. */
static void test_server_comes_late(void **state)
{
    struct fx fx;
    struct op op;

    (void)state;
    fx_init_sim(&fx, 5);
    fx.client = fx_client_new(&fx, "127.0.0.1:7100", FX_TOKEN);
    op_start(&op, &fx, TARN_RPC_job_create, 1);
    fx_run(&fx, 5 * TARN_NS_PER_S);
    assert_int_equal(op.done, 0);
    fx_serve(&fx, FX_TOKEN);
    fx_listen(&fx, "127.0.0.1:7100");
    fx_run(&fx, 2 * TARN_NS_PER_S);
    assert_int_equal(op.done, 1);
    assert_int_equal(op.rc, 0);
    fx_fini(&fx);
}

/* A server that restarts: calls under way are sent again, later ones wait. */
static void test_restart(void **state)
{
    struct op ops[8];
    struct fx fx;
    char addr[64];

    (void)state;
    start(&fx);
    assert_true(strlen(fx.addr) < sizeof(addr));
    memcpy(addr, fx.addr, strlen(fx.addr) + 1);
    for (unsigned i = 0; i < 4; i++)
        op_start(&ops[i], &fx, TARN_RPC_getattr, i);
    fx_run(&fx, 10 * TARN_NS_PER_MS);
    assert_int_equal(fx.held_n, 4);
    fx_stop_server(&fx); /* on_cancel answers them all, to nobody */
    assert_int_equal(fx.cancels, 4);
    fx.held_n = 0;
    for (unsigned i = 4; i < 8; i++)
        op_start(&ops[i], &fx, TARN_RPC_lookup, i);
    fx_run(&fx, 2 * TARN_NS_PER_S);
    fx_serve(&fx, FX_TOKEN);
    fx_listen(&fx, addr);
    fx_run(&fx, 2 * TARN_NS_PER_S);
    assert_int_equal(fx.held_n, 4);
    fx_release(&fx, 0);
    fx_run(&fx, 10 * TARN_NS_PER_MS);
    for (unsigned i = 0; i < 8; i++) {
        assert_int_equal(ops[i].done, 1);
        assert_int_equal(ops[i].rc, 0);
    }
    assert_int_equal(fx.up, 2);
    fx_fini(&fx);
}

/* The pair has no second chance. */
static void test_pair_lost(void **state)
{
    struct fx fx;
    struct op op, later;

    (void)state;
    fx_init_sim(&fx, 3);
    fx_serve(&fx, NULL);
    fx_connect_pair(&fx);
    fx_run(&fx, TARN_NS_PER_MS);
    fx_script(&fx, 1, FX_CUT);
    op_start(&op, &fx, TARN_RPC_lookup, 1);
    fx_run(&fx, TARN_NS_PER_S);
    assert_int_equal(op.rc, -TARN_E_CONN_LOST);
    op_start(&later, &fx, TARN_RPC_lookup, 1);
    fx_run(&fx, TARN_NS_PER_S);
    assert_int_equal(later.rc, -TARN_E_CONN_LOST);
    fx_fini(&fx);
}

/* Two masters; the first does not lead. What else is under way there still gets its answer. */
static void test_not_leader(void **state)
{
    struct fx follower, leader;
    struct op ops[6], slow;
    char both[128];

    (void)state;
    fx_init_sim(&leader, 3);
    fx_serve(&leader, FX_TOKEN);
    fx_listen(&leader, "127.0.0.1:7101");
    follower = (struct fx){.loop = leader.loop, .sim = true};
    tarn_rng_seeded_init(&follower.rng, 4);
    fx_serve(&follower, FX_TOKEN);
    fx_listen(&follower, "127.0.0.1:7100");
    for (unsigned i = 0; i < FX_MAX; i++)
        follower.script[i] = -TARN_E_NOT_LEADER;
    follower.script_n = FX_MAX;
    (void)snprintf(both, sizeof(both), "%s,%s", follower.addr, leader.addr);
    leader.client = fx_client_new(&leader, both, FX_TOKEN);
    fx_run(&leader, 10 * TARN_NS_PER_MS);
    op_start(&slow, &leader, TARN_RPC_getattr, 1);
    for (unsigned i = 0; i < 6; i++)
        op_start(&ops[i], &leader, i % 2 ? TARN_RPC_lookup : TARN_RPC_job_create, i);
    fx_run(&leader, 100 * TARN_NS_PER_MS);
    assert_int_equal(follower.calls, 7);
    assert_int_equal(ops[0].done, 0);
    fx_release(&follower, 0);
    fx_run(&leader, TARN_NS_PER_S);
    assert_int_equal(slow.rc, 0);
    for (unsigned i = 0; i < 6; i++) {
        assert_int_equal(ops[i].done, 1);
        assert_int_equal(ops[i].rc, 0);
    }
    assert_int_equal(leader.calls, 6);
    assert_int_equal(follower.gone, 1);
    fx_stop_client(&leader, &leader.client);
    fx_stop_server(&follower);
    fx_fini(&leader);
}

/* A call that stays there does not keep the others from the leader for long. */
static void test_not_leader_hangs(void **state)
{
    struct fx follower, leader;
    struct op op, slow;

    (void)state;
    fx_init_sim(&leader, 3);
    fx_serve(&leader, FX_TOKEN);
    fx_listen(&leader, "127.0.0.1:7101");
    follower = (struct fx){.loop = leader.loop, .sim = true};
    tarn_rng_seeded_init(&follower.rng, 4);
    fx_serve(&follower, FX_TOKEN);
    fx_listen(&follower, "127.0.0.1:7100");
    fx_script(&follower, 2, 0, -TARN_E_NOT_LEADER);
    leader.client = fx_client_new(&leader, "127.0.0.1:7100,127.0.0.1:7101", FX_TOKEN);
    op_start(&slow, &leader, TARN_RPC_getattr, 1);
    op_start(&op, &leader, TARN_RPC_lookup, 1);
    fx_run(&leader, 2 * TARN_NS_PER_S);
    assert_int_equal(op.rc, 0);
    assert_int_equal(leader.calls, 2); /* the slow one was sent again */
    assert_int_equal(leader.held_n, 1);
    fx_release(&leader, 0);
    fx_run(&leader, TARN_NS_PER_MS);
    assert_int_equal(slow.rc, 0);
    fx_stop_client(&leader, &leader.client);
    fx_stop_server(&follower);
    fx_fini(&leader);
}

/* A peer that accepts, and says nothing more, is found out and left. */
static void test_silent_peer(void **state)
{
    struct fx fx;
    struct raw r;
    struct op op;

    (void)state;
    fx_init_sim(&fx, 3);
    fx.client = fx_client_new(&fx, raw_listen(&r, &fx), FX_TOKEN);
    op_init(&op, &fx, TARN_RPC_lookup, 1);
    op.req.no_retry = true;
    tarn_rpc_start(fx.client, &op.req);
    fx_run(&fx, 4 * TARN_NS_PER_S);
    assert_int_equal(op.done, 0);
    fx_run(&fx, 2 * TARN_NS_PER_S);
    assert_int_equal(op.done, 1);
    assert_int_equal(op.rc, -TARN_E_DEADLINE);
    fx_stop_client(&fx, &fx.client);
    raw_fini(&r, &fx);
    fx_fini(&fx);
}

/* A peer that was there and vanished without closing: pings find out within 12 s. */
static void test_vanished_peer(void **state)
{
    struct fx fx;
    struct op op;
    uint64_t t0;

    (void)state;
    start(&fx);
    fx_run(&fx, 60 * TARN_NS_PER_S); /* idle, but pings are answered */
    assert_int_equal(fx.down, 0);
    assert_int_equal(fx.gone, 0);
    t0 = tarn_loop_now_ns(fx.loop);
    tarn_loop_sim_faults(fx.loop, 1, 0, 3600 * TARN_NS_PER_S, 0); /* as good as never */
    op_init(&op, &fx, TARN_RPC_job_create, 1);
    op.req.timeout_ns = 100 * TARN_NS_PER_S;
    tarn_rpc_start(fx.client, &op.req);
    fx_run(&fx, 13 * TARN_NS_PER_S);
    assert_int_equal(op.done, 1);
    assert_int_equal(op.rc, -TARN_E_CONN_LOST);
    assert_in_range(op.at_ns - t0, 6 * TARN_NS_PER_S, 12 * TARN_NS_PER_S);
    tarn_loop_sim_faults(fx.loop, 1, 0, 0, 0);
    fx_fini(&fx);
}

static void test_bad_addresses(void **state)
{
    static const char seventeen[] = "a:1,a:1,a:1,a:1,a:1,a:1,a:1,a:1,a:1,a:1,a:1,a:1,a:1,a:1,a:1,"
                                    "a:1,a:1";
    static const char *const bad[] = {"", ",", "a:1,,b:2", seventeen};
    struct fx fx;

    (void)state;
    fx_init_sim(&fx, 3);
    for (size_t i = 0; i < TARN_ARRAY_LEN(bad); i++) {
        struct tarn_rpc_client_args args = {.loop = fx.loop, .rng = &fx.rng.base, .addrs = bad[i]};
        struct tarn_rpc_client *c = NULL;

        assert_int_equal(tarn_rpc_client_new(&args, &c), -TARN_E_INVALID);
        assert_null(c);
    }
    fx_fini(&fx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_busy_until_deadline),
        cmocka_unit_test(test_new_capability),
        cmocka_unit_test(test_nobody_there),
        cmocka_unit_test(test_nobody_there_any_more),
        cmocka_unit_test(test_server_comes_late),
        cmocka_unit_test(test_restart),
        cmocka_unit_test(test_pair_lost),
        cmocka_unit_test(test_not_leader),
        cmocka_unit_test(test_not_leader_hangs),
        cmocka_unit_test(test_silent_peer),
        cmocka_unit_test(test_vanished_peer),
        cmocka_unit_test(test_bad_addresses),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
