/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections to workers: who is not asked for how long, addresses that change, sockets on this
 * host, connections that are somebody else's, and workers of another cluster.
 */
#include "tests/unit/lib/client/cluster_rig.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/unit/turns.h"

static struct tarn_peers *peers_of(struct cluster *c)
{
    return c->rig.client->peers;
}

/* How long worker `id` stays unusable from now on, in ms; looks every 10 ms. */
static unsigned quiet_ms(struct cluster *c, uint64_t id)
{
    uint64_t began = tarn_now_ns();

    while (!tarn_peers_usable(peers_of(c), id))
        rig_run_for(&c->rig, 10 * TARN_NS_PER_MS);
    return (unsigned)((tarn_now_ns() - began) / TARN_NS_PER_MS);
}

static void connected_all(struct cluster *c)
{
    struct tarn_handle *h = cluster_open(c);

    for (unsigned i = 0; i < 40; i++)
        assert_int_equal(cluster_read(c, h, (uint64_t)(i * 7919 % 997 + 1) * MIB - 100, 100), 0);
    tarn_handle_close(&h);
    for (unsigned i = 0; i < c->n; i++)
        assert_true(c->w[i].reads > 0);
}

static void quiet_times(void **state)
{
    struct cluster c;

    (void)state;
    cluster_init(&c, 2, NULL);
    tarn_peers_note(peers_of(&c), 1, -TARN_E_DEADLINE); /* not known yet: nothing happens */
    assert_true(tarn_peers_usable(peers_of(&c), 1));
    assert_false(tarn_peers_usable(peers_of(&c), 77));
    connected_all(&c);
    tarn_peers_note(peers_of(&c), 1, -TARN_E_UFS_DOWN);  /* an answer */
    tarn_peers_note(peers_of(&c), 1, -TARN_E_CANCELLED); /* our own doing */
    assert_true(tarn_peers_usable(peers_of(&c), 1));
    for (unsigned i = 0; i < 10; i++) /* calls that failed together count once */
        tarn_peers_note(peers_of(&c), 1, -TARN_E_DEADLINE);
    assert_true(tarn_peers_usable(peers_of(&c), 2));
    assert_int_equal(tarn_peers_patience_ns(peers_of(&c), 1), TARN_PEERS_PATIENCE_MIN_NS);
    assert_in_range(quiet_ms(&c, 1), 950, 1900);
    tarn_peers_note(peers_of(&c), 1, -TARN_E_DEADLINE);
    assert_in_range(quiet_ms(&c, 1), 1900, 3500); /* twice as long */
    tarn_peers_note(peers_of(&c), 1, 0);
    tarn_peers_note(peers_of(&c), 1, -EHOSTUNREACH);
    assert_in_range(quiet_ms(&c, 1), 950, 1900); /* it had answered meanwhile */
    tarn_peers_note(peers_of(&c), 1, -TARN_E_CONN_LOST);
    assert_false(tarn_peers_usable(peers_of(&c), 1));
    c.w[0].not_alive = true;
    cluster_publish(&c);
    c.w[0].not_alive = false; /* the master has heard of it again */
    cluster_publish(&c);
    assert_true(tarn_peers_usable(peers_of(&c), 1));
    cluster_fini(&c);
}

static void what_is_unreached(void **state)
{
    static const int yes[] = {-TARN_E_CONN_LOST, -TARN_E_CONN_REFUSED, -TARN_E_DNS,
                              -TARN_E_DEADLINE,  -TARN_E_SHUTDOWN,     -TARN_E_AUTH_BAD,
                              -EHOSTUNREACH,     -ENETUNREACH,         -ENOENT};
    static const int no[] = {0,
                             -TARN_E_BUSY,
                             -TARN_E_NOT_CACHED,
                             -TARN_E_UFS_DOWN,
                             -TARN_E_CAP_EXPIRED,
                             -TARN_E_GRANULE_SUM,
                             -EIO};

    (void)state;
    for (unsigned i = 0; i < TARN_ARRAY_LEN(yes); i++)
        assert_true(tarn_peers_unreached(yes[i]));
    for (unsigned i = 0; i < TARN_ARRAY_LEN(no); i++)
        assert_false(tarn_peers_unreached(no[i]));
}

/* A worker whose connection is lost is not asked before there is another. */
static void down_until_connected(void **state)
{
    struct cluster c;

    (void)state;
    cluster_init(&c, 2, NULL);
    connected_all(&c);
    cworker_stop(&c.w[0]);
    while (tarn_peers_usable(peers_of(&c), 1))
        rig_run_for(&c.rig, TARN_NS_PER_MS);
    rig_run_for(&c.rig, 2500 * TARN_NS_PER_MS); /* longer than it is left alone for failing */
    assert_false(tarn_peers_usable(peers_of(&c), 1));
    cworker_start(&c.w[0]);
    assert_in_range(quiet_ms(&c, 1), 0, 2500); /* found out by itself, without a call */
    cluster_fini(&c);
}

/* The master has heard of it: it is asked before the next try to connect would have come. */
static void back_at_once(void **state)
{
    struct tarn_handle *h;
    struct cluster c;
    uint64_t off = 0;

    (void)state;
    cluster_init(&c, 2, NULL);
    connected_all(&c);
    while (cluster_owner(&c, off, 0) != &c.w[0])
        off += 64 * MIB;
    h = cluster_open(&c);
    cworker_stop(&c.w[0]);
    c.w[0].not_alive = true;
    cluster_publish(&c);
    rig_run_for(&c.rig, 2000 * TARN_NS_PER_MS); /* the pause between tries is a long one by now */
    assert_false(tarn_peers_usable(peers_of(&c), 1));
    c.w[0].reads = c.w[1].reads = 0;
    cworker_start(&c.w[0]);
    c.w[0].not_alive = false;
    cluster_publish(&c);
    assert_true(tarn_peers_usable(peers_of(&c), 1));
    assert_int_equal(cluster_read(&c, h, off, 100), 0);
    assert_true(c.w[0].reads == 1 && c.w[1].reads == 0);
    tarn_handle_close(&h);
    cluster_fini(&c);
}

static void address_changes(void **state)
{
    struct tarn_rpc_client *before, *other;
    struct tarn_handle *h;
    struct cluster c;
    struct rd rd;
    uint64_t off = 65 * MIB;
    struct cworker *w;

    (void)state;
    cluster_init(&c, 2, NULL);
    connected_all(&c);
    w = cluster_owner(&c, off, 0);
    before = tarn_peers_get(peers_of(&c), w->id);
    other = tarn_peers_get(peers_of(&c), 3 - w->id);
    assert_ptr_equal(tarn_peers_get(peers_of(&c), w->id), before);
    h = cluster_open(&c);
    w->fault = HANG;
    w->faults = 1;
    w->reads = 0;
    rd_start(&rd, &c.rig, h, off, 1000);
    rig_until(&c.rig, &w->reads, 1);
    cworker_stop(w); /* it moves to another port, with a call under way */
    w->addr[0] = 0;
    cworker_start(w);
    cluster_publish(&c);
    assert_int_equal(rd_wait(&rd), 0);
    while (!tarn_peers_usable(peers_of(&c), w->id))
        rig_run_for(&c.rig, TARN_NS_PER_MS);
    w->reads = 0;
    while (w->reads == 0)
        assert_int_equal(cluster_read(&c, h, off, 1000), 0);
    assert_ptr_equal(tarn_peers_get(peers_of(&c), 3 - w->id), other);
    w->absent = true;
    cluster_publish(&c);
    assert_null(tarn_peers_get(peers_of(&c), w->id));
    tarn_handle_close(&h);
    cluster_fini(&c);
}

static void readers_in_order(void **state)
{
    struct tarn_attr a;
    uint64_t ids[TARN_PLACE_PICK_MAX], want[4];
    struct cluster c;

    (void)state;
    cluster_init(&c, 4, NULL);
    a = cluster_attr(&c);
    connected_all(&c);
    for (unsigned k = 0; k < 4; k++)
        want[k] = cluster_owner(&c, 0, k)->id;
    assert_int_equal(tarn_peers_readers(peers_of(&c), &a.cid, 0, 2, 8, ids), 4);
    assert_memory_equal(ids, want, sizeof(want));
    assert_int_equal(tarn_peers_readers(peers_of(&c), &a.cid, 0, 1, 2, ids), 2);
    assert_memory_equal(ids, want, 2 * sizeof(want[0]));
    tarn_peers_note(peers_of(&c), want[0], -TARN_E_CONN_LOST);
    tarn_peers_note(peers_of(&c), want[2], -TARN_E_CONN_LOST);
    /* The other owner, who stands in, the owner that does not answer, the rest. */
    assert_int_equal(tarn_peers_readers(peers_of(&c), &a.cid, 0, 2, 8, ids), 4);
    assert_int_equal(ids[0], want[1]);
    assert_int_equal(ids[1], want[3]);
    assert_int_equal(ids[2], want[0]);
    assert_int_equal(ids[3], want[2]);
    assert_int_equal(tarn_peers_readers(peers_of(&c), &a.cid, 0, 1, 0, ids), 0);
    cluster_fini(&c);
}

static void patience(void **state)
{
    struct cluster c;
    struct tarn_peers *p;

    (void)state;
    cluster_init(&c, 2, NULL);
    p = peers_of(&c);
    assert_int_equal(tarn_peers_patience_ns(p, 1), TARN_PEERS_PATIENCE_MAX_NS);
    connected_all(&c);
    assert_int_equal(tarn_peers_patience_ns(p, 1), TARN_PEERS_PATIENCE_MIN_NS);
    tarn_peers_took(p, 1, 50 * TARN_NS_PER_MS);
    assert_int_equal(tarn_peers_patience_ns(p, 1), 200 * TARN_NS_PER_MS);
    for (unsigned i = 0; i < 100; i++)
        tarn_peers_took(p, 1, TARN_NS_PER_MS);
    assert_int_equal(tarn_peers_patience_ns(p, 1), TARN_PEERS_PATIENCE_MIN_NS);
    tarn_peers_took(p, 1, UINT64_MAX);
    assert_int_equal(tarn_peers_patience_ns(p, 1), TARN_PEERS_PATIENCE_MAX_NS);
    /* Overtaken: only who was given its time, and has answered nothing else. */
    for (unsigned i = 0; i < 100; i++)
        tarn_peers_overtaken(p, 2, tarn_loop_now_ns(c.rig.loop));
    assert_true(tarn_peers_usable(p, 2));
    tarn_peers_overtaken(p, 2, tarn_peers_heard_ns(p, 2) - 1);
    assert_true(tarn_peers_usable(p, 2));
    rig_run_for(&c.rig, 450 * TARN_NS_PER_MS);
    tarn_peers_overtaken(p, 2, tarn_peers_heard_ns(p, 2) + 1);
    assert_false(tarn_peers_usable(p, 2));
    cluster_fini(&c);
}

/* ---- topologies of their own ------------------------------------------------------------------
 */

static void stopped(void *arg)
{
    ++*(unsigned *)arg;
}

static struct tarn_peers *own_peers(struct cluster *c, const char *cluster_id)
{
    struct tarn_peers_args args = {
        .loop = c->rig.loop, .rng = tarn_rng_system(), .cluster_id = cluster_id};

    return tarn_peers_new(&args);
}

static void own_end(struct cluster *c, struct tarn_peers **p)
{
    unsigned n = 0;

    tarn_peers_stop(*p, stopped, &n);
    assert_int_equal(n, 0);
    rig_until(&c->rig, &n, 1);
    assert_null(tarn_peers_get(*p, 1));
    tarn_peers_free(p);
}

static void own_place(struct tarn_peers *p, const char *addr, const char *socket, bool home)
{
    Tarn__Wire__Topology t = TARN__WIRE__TOPOLOGY__INIT;
    Tarn__Wire__WorkerInfo w = TARN__WIRE__WORKER_INFO__INIT, *ws[] = {&w};
    struct tarn_place *place;
    char host[256] = "";

    (void)gethostname(host, sizeof(host) - 1);
    w.id = 1;
    w.weight = 1;
    w.state = TARN_WORKER_LIVE;
    w.alive = true;
    w.addr = tarn_wire_text(addr);
    w.socket = tarn_wire_text(socket);
    w.host = tarn_wire_text(home ? host : "elsewhere");
    t.n_workers = 1;
    t.workers = ws;
    assert_int_equal(tarn_place_new(&t, &place), 0);
    tarn_peers_set_place(p, place);
    tarn_place_unref(&place);
}

struct call {
    struct tarn_rpc_req req;
    unsigned done;
    int rc;
};

static void call_done(struct tarn_rpc_req *req, int rc)
{
    struct call *call = req->arg;

    call->rc = rc;
    call->done++;
}

/* One read of the first bytes; how it ended. */
static int call_read(struct cluster *c, struct tarn_rpc_client *rpc)
{
    Tarn__Wire__ReadRequest msg = TARN__WIRE__READ_REQUEST__INIT;
    Tarn__Wire__Locator l = TARN__WIRE__LOCATOR__INIT;
    uint8_t cid[16] = {5, 5, 5, 5, 5, 5, 5, 5};
    struct call call = {.done = 0};

    l.cid = (ProtobufCBinaryData){sizeof(cid), cid};
    msg.locator = &l;
    msg.length = 10;
    msg.cached_only = true; /* of a bare cid */
    call.req.method = TARN_RPC_read;
    call.req.msg = &msg.base;
    call.req.cb = call_done;
    call.req.arg = &call;
    call.req.timeout_ns = 3 * TARN_NS_PER_S;
    call.req.no_retry = true;
    assert_non_null(rpc);
    tarn_rpc_start(rpc, &call.req);
    rig_until(&c->rig, &call.done, 1);
    return call.rc;
}

/* On this host by the socket; without it, and elsewhere, by the address. */
static void sockets(void **state)
{
    char dir[] = "/tmp/tarn-peers-XXXXXX", path[64], at[80], comma[64];
    const char *bound;
    struct tarn_peers *p;
    struct cluster c;

    (void)state;
    assert_non_null(mkdtemp(dir));
    (void)snprintf(path, sizeof(path), "%s/sock", dir);
    (void)snprintf(comma, sizeof(comma), "%s/so,ck", dir);
    (void)snprintf(at, sizeof(at), "unix:%s", path);
    cluster_init(&c, 1, NULL);
    p = own_peers(&c, "c");
    assert_null(tarn_peers_get(p, 1));
    assert_int_equal(tarn_rpc_server_listen(c.w[0].server, at, &bound), 0);
    own_place(p, "127.0.0.1:1", path, true); /* nobody is at the address */
    assert_int_equal(call_read(&c, tarn_peers_get(p, 1)), 0);
    assert_true(tarn_peers_at_home(p, 1));
    own_place(p, "127.0.0.1:1", path, false);
    assert_false(tarn_peers_at_home(p, 1));
    assert_int_equal(call_read(&c, tarn_peers_get(p, 1)), -TARN_E_CONN_REFUSED);
    own_place(p, c.w[0].addr, "/nowhere/sock", true); /* the address helps */
    assert_int_equal(call_read(&c, tarn_peers_get(p, 1)), 0);
    own_place(p, c.w[0].addr, comma, true); /* not a part of addresses */
    assert_int_equal(call_read(&c, tarn_peers_get(p, 1)), 0);
    own_place(p, "", "", true);
    assert_null(tarn_peers_get(p, 1));
    own_place(p, "not an address", "", true);
    (void)tarn_peers_get(p, 1);
    own_end(&c, &p);
    cluster_fini(&c);
    (void)unlink(path);
    assert_int_equal(rmdir(dir), 0);
}

/* A connection that is the caller's: kept over topologies, not stopped, not told of meta. */
static void presets(void **state)
{
    struct tarn_rpc_client_args args = {.rng = tarn_rng_system()};
    struct tarn_rpc_client *rpc;
    struct tarn_conn *a, *b;
    struct tarn_peers *p;
    struct cluster c;
    unsigned n = 0;

    (void)state;
    cluster_init(&c, 1, NULL);
    assert_int_equal(tarn_conn_pair(c.rig.loop, &a, &b), 0);
    tarn_rpc_server_serve(c.w[0].server, a, true);
    args.loop = c.rig.loop;
    args.conn = b;
    assert_int_equal(tarn_rpc_client_new(&args, &rpc), 0);
    p = own_peers(&c, NULL);
    tarn_peers_preset(p, 1, rpc);
    assert_ptr_equal(tarn_peers_get(p, 1), rpc);
    own_place(p, "127.0.0.1:1", "", true);
    own_place(p, "", "", false);
    assert_ptr_equal(tarn_peers_get(p, 1), rpc);
    assert_int_equal(call_read(&c, tarn_peers_get(p, 1)), 0);
    tarn_peers_note(p, 1, -TARN_E_DEADLINE);
    assert_false(tarn_peers_usable(p, 1));
    own_end(&c, &p);
    tarn_rpc_client_stop(rpc, stopped, &n);
    rig_until(&c.rig, &n, 1);
    tarn_rpc_client_free(&rpc);
    cluster_fini(&c);
}

/* Another cluster's worker got the port: it gets no call, and is left alone. */
static void another_cluster(void **state)
{
    struct tarn_peers *p;
    struct cluster c;

    (void)state;
    cluster_init(&c, 1, NULL);
    p = own_peers(&c, "mine");
    own_place(p, c.w[0].addr, "", true);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(call_read(&c, tarn_peers_get(p, 1)), -TARN_E_OTHER_CLUSTER);
    assert_true(tarn_peers_unreached(-TARN_E_OTHER_CLUSTER));
    assert_int_equal(c.w[0].reads, 0); /* nothing was sent there */
    rig_run_for(&c.rig, 2 * TARN_NS_PER_S);
    assert_false(tarn_peers_usable(p, 1));
    own_end(&c, &p);
    /* As it became known later. */
    p = own_peers(&c, NULL);
    tarn_peers_set_cluster(p, "c");
    own_place(p, c.w[0].addr, "", true);
    assert_int_equal(call_read(&c, tarn_peers_get(p, 1)), 0);
    own_end(&c, &p);
    cluster_fini(&c);
}

/* Another worker's address by now, or still without a number: neither is asked for its bytes. */
static void another_worker(void **state)
{
    struct tarn_peers *p;
    struct cluster c;

    (void)state;
    cluster_init(&c, 1, NULL);
    tarn_rpc_server_set_worker(c.w[0].server, 7);
    p = own_peers(&c, NULL);
    own_place(p, c.w[0].addr, "", true);
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(call_read(&c, tarn_peers_get(p, 1)), -TARN_E_OTHER_WORKER);
    assert_true(tarn_peers_unreached(-TARN_E_OTHER_WORKER));
    assert_false(tarn_peers_usable(p, 1));
    assert_true(tarn_peers_refused(p, 1));
    assert_int_equal(c.w[0].reads, 0);
    tarn_rpc_server_set_worker(c.w[0].server, 0);
    assert_int_equal(call_read(&c, tarn_peers_get(p, 1)), -TARN_E_CONN_REFUSED);
    assert_int_equal(c.w[0].reads, 0);
    tarn_rpc_server_set_worker(c.w[0].server, 1); /* it has registered: found without a call */
    rig_run_for(&c.rig, 2 * TARN_NS_PER_S);
    assert_true(tarn_peers_usable(p, 1));
    assert_false(tarn_peers_refused(p, 1));
    assert_int_equal(call_read(&c, tarn_peers_get(p, 1)), 0);
    assert_int_equal(c.w[0].reads, 1);
    own_end(&c, &p);
    cluster_fini(&c);
}

/* Stopped at any time: before, while and after it connects. */
static void stopped_anywhere(void **state)
{
    struct cluster c;

    (void)state;
    cluster_init(&c, 1, NULL);
    for (unsigned i = 0; i < 20; i++) {
        struct tarn_peers *p = own_peers(&c, i % 2 ? "mine" : "c");

        own_place(p, i % 5 == 4 ? "127.0.0.1:1" : c.w[0].addr, "", true);
        (void)tarn_peers_get(p, 1);
        for (unsigned k = 0; k < i; k++)
            rig_run_for(&c.rig, 50 * 1000);
        own_end(&c, &p);
    }
    cluster_fini(&c);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(quiet_times),
        cmocka_unit_test(what_is_unreached),
        cmocka_unit_test(down_until_connected),
        cmocka_unit_test(back_at_once),
        cmocka_unit_test(address_changes),
        cmocka_unit_test(readers_in_order),
        cmocka_unit_test(patience),
        cmocka_unit_test(sockets),
        cmocka_unit_test(presets),
        cmocka_unit_test(another_cluster),
        cmocka_unit_test(another_worker),
        cmocka_unit_test(stopped_anywhere),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
