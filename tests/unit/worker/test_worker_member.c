/* SPDX-License-Identifier: Apache-2.0 */
/* A worker and its master, which is played by a real RPC server. */
#include "tests/unit/worker/cluster_rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/member.h"
#include "worker/stores.h"

struct master {
    struct cluster c;
    struct tarn_rpc_server *server;
    const char *addr;
    char addr_kept[64];
    struct tarn_rpc_session *session;
    unsigned registered, beats, left;
    char uuid[64];
    uint64_t incarnation;
    Tarn__Wire__WorkerBeat last; /* scalars of it alone */
    int refuse, refuse_beat;     /* with this code, once; 0: not */
    bool for_good;               /* refuses every time */
    uint32_t state;              /* of the worker in the topology */
    uint64_t version, rate;
    const char *cluster_id;
    /* The worker's side. */
    struct tarn_rpc_client *client;
    struct tarn_stores *stores;
    struct tarn_member *member;
    unsigned first, refused, ended;
    int first_rc, refused_rc;
};

static void told_topology(struct master *m, Tarn__Wire__Topology *t, Tarn__Wire__WorkerInfo *w,
                          Tarn__Wire__WorkerInfo **ptrs)
{
    tarn__wire__topology__init(t);
    tarn__wire__worker_info__init(w);
    w->id = 42;
    w->addr = tarn_wire_text(m->c.nodes[0].addr);
    w->weight = 1;
    w->state = m->state;
    w->alive = true;
    ptrs[0] = w;
    t->version = m->version;
    t->n_workers = 1;
    t->workers = ptrs;
}

static void on_register(void *ctx, struct tarn_rpc_call *call)
{
    const Tarn__Wire__WorkerRegister *req = (const Tarn__Wire__WorkerRegister *)call->request;
    Tarn__Wire__WorkerRegistered resp = TARN__WIRE__WORKER_REGISTERED__INIT;
    Tarn__Wire__WorkerInfo w, *ptrs[1];
    struct master *m = ctx;
    Tarn__Wire__Topology t;
    int rc = m->refuse;

    m->registered++;
    m->session = call->session;
    (void)snprintf(m->uuid, sizeof(m->uuid), "%s", req->uuid);
    m->incarnation = req->incarnation;
    assert_int_equal(req->n_tiers, 1);
    assert_true(req->tiers[0]->capacity > 0);
    if (!m->for_good)
        m->refuse = 0;
    if (rc < 0) {
        resp.error_text = tarn_wire_text("because");
        tarn_rpc_reply(call, rc, &resp.base, NULL, 0, 0);
        return;
    }
    told_topology(m, &t, &w, ptrs);
    resp.id = 42;
    resp.cluster_id = tarn_wire_text(m->cluster_id);
    resp.cap_key = tarn_wire_bytes(m->c.nodes[0].rig.cap_key, 32);
    resp.beat_ms = 30;
    resp.topology = &t;
    resp.move_rate = m->rate;
    tarn_rpc_reply(call, 0, &resp.base, NULL, 0, 0);
}

static void on_beat(void *ctx, struct tarn_rpc_call *call)
{
    Tarn__Wire__WorkerBeaten resp = TARN__WIRE__WORKER_BEATEN__INIT;
    Tarn__Wire__WorkerInfo w, *ptrs[1];
    struct master *m = ctx;
    Tarn__Wire__Topology t;
    int rc = m->refuse_beat;

    m->refuse_beat = 0;
    m->last = *(const Tarn__Wire__WorkerBeat *)call->request;
    m->beats++;
    told_topology(m, &t, &w, ptrs);
    if (m->last.topology != m->version)
        resp.topology = &t;
    tarn_rpc_reply(call, rc, &resp.base, NULL, 0, 0);
}

static void on_leave(void *ctx, struct tarn_rpc_call *call)
{
    const Tarn__Wire__WorkerLeave *req = (const Tarn__Wire__WorkerLeave *)call->request;
    Tarn__Wire__Empty resp = TARN__WIRE__EMPTY__INIT;
    struct master *m = ctx;

    assert_int_equal(req->id, 42);
    assert_int_equal(req->incarnation, m->incarnation);
    m->left++;
    tarn_rpc_reply(call, 0, &resp.base, NULL, 0, 0);
}

static void master_start(struct master *m)
{
    struct tarn_rpc_server_args args = {
        .loop = m->c.loop, .rng = tarn_rng_system(), .cluster_id = RIG_TEXT};

    assert_int_equal(tarn_rpc_server_new(&args, &m->server), 0);
    tarn_rpc_server_handle(m->server, TARN_RPC_worker_register, on_register, m);
    tarn_rpc_server_handle(m->server, TARN_RPC_worker_beat, on_beat, m);
    tarn_rpc_server_handle(m->server, TARN_RPC_worker_leave, on_leave, m);
    assert_int_equal(
        tarn_rpc_server_listen(m->server, m->addr_kept[0] ? m->addr_kept : "127.0.0.1:0", &m->addr),
        0);
    (void)snprintf(m->addr_kept, sizeof(m->addr_kept), "%s", m->addr);
}

static void ended(void *arg)
{
    ++*(unsigned *)arg;
}

static void master_stop(struct master *m)
{
    unsigned gone = 0;

    tarn_rpc_server_stop(m->server, ended, &gone);
    turns_until(m->c.loop, &gone, 1);
    tarn_rpc_server_free(&m->server);
}

static void on_refused(void *ctx, int rc, const struct tarn_errbuf *err)
{
    struct master *m = ctx;

    assert_true(err->text[0] != '\0');
    m->refused_rc = rc;
    m->refused++;
}

static void on_notice(void *ctx, uint32_t method, const ProtobufCMessage *msg)
{
    struct master *m = ctx;

    if (m->member)
        tarn_member_notice(m->member, method, msg);
}

static void on_state(void *ctx, bool connected, int rc)
{
    struct master *m = ctx;

    if (m->member)
        tarn_member_state(m->member, connected, rc);
}

static void on_first(void *arg, int rc, const struct tarn_errbuf *err)
{
    struct master *m = arg;

    (void)err;
    m->first_rc = rc;
    m->first++;
}

static void fix_init(struct master *m)
{
    struct tarn_rpc_client_args cargs = {
        .rng = tarn_rng_system(), .ctx = m, .on_notice = on_notice, .on_state = on_state};
    struct tarn_member_args args = {.rng = tarn_rng_system(), .ctx = m, .on_refused = on_refused};

    *m = (struct master){
        .version = 1000, .state = TARN_WORKER_LIVE, .cluster_id = RIG_TEXT, .rate = 1};
    cl_init(&m->c, 1, MIB, 0);
    master_start(m);
    cargs.loop = args.loop = m->c.loop;
    cargs.addrs = m->addr;
    assert_int_equal(tarn_rpc_client_new(&cargs, &m->client), 0);
    m->stores = tarn_stores_new(m->c.loop, m->c.disk);
    args.master = m->client;
    args.worker = m->c.nodes[0].rig.worker;
    args.tier = m->c.nodes[0].rig.tier;
    args.stores = m->stores;
    args.peers = m->c.nodes[0].peers;
    args.addr = m->c.nodes[0].addr;
    args.host = "here";
    m->member = tarn_member_new(&args);
    tarn_member_start(m->member, on_first, m);
}

static void fix_fini(struct master *m)
{
    unsigned done = 0;

    tarn_member_stop(m->member, ended, &done);
    turns_until(m->c.loop, &done, 1);
    tarn_member_free(&m->member);
    done = 0;
    tarn_stores_stop(m->stores, ended, &done);
    turns_until(m->c.loop, &done, 1);
    tarn_stores_free(&m->stores);
    done = 0;
    tarn_rpc_client_stop(m->client, ended, &done);
    turns_until(m->c.loop, &done, 1);
    tarn_rpc_client_free(&m->client);
    if (m->server)
        master_stop(m);
    cl_fini(&m->c);
}

static void registers_and_beats(void **state)
{
    struct tarn_member_counts counts;
    char uuid[TARN_TIER_UUID_TEXT];
    struct master m;

    (void)state;
    fix_init(&m);
    assert_false(tarn_member_registered(m.member));
    turns_until(m.c.loop, &m.first, 1);
    assert_int_equal(m.first_rc, 0);
    assert_true(tarn_member_registered(m.member));
    assert_int_equal(tarn_member_id(m.member), 42);
    assert_int_equal(m.c.nodes[0].rig.worker->args.id, 42);
    assert_string_equal(m.uuid, tarn_tier_uuid(m.c.nodes[0].rig.tier, uuid));
    assert_int_equal(strlen(uuid), 16);
    turns_until(m.c.loop, &m.beats, 3);
    assert_int_equal(m.last.id, 42);
    assert_int_equal(m.last.incarnation, m.incarnation);
    assert_int_equal(m.last.topology, 1000);
    assert_int_equal(m.last.settled, 1000); /* nothing is cached: nothing to hand over */
    m.version = 1001;                       /* a beat's answer */
    while (m.last.settled != 1001)
        turns_for(m.c.loop, TARN_NS_PER_MS);
    tarn_member_counts(m.member, &counts);
    assert_int_equal(counts.topology, 1001);
    assert_true(counts.settled);
    fix_fini(&m);
    assert_int_equal(m.left, 1);
}

static void notices(void **state)
{
    Tarn__Wire__AttachmentList l = TARN__WIRE__ATTACHMENT_LIST__INIT;
    Tarn__Wire__AttachmentInfo a = TARN__WIRE__ATTACHMENT_INFO__INIT, *all[] = {&a};
    struct tarn_member_counts counts;
    Tarn__Wire__WorkerInfo w, *ptrs[1];
    const char *isolation = NULL;
    Tarn__Wire__Topology t;
    struct master m;

    (void)state;
    fix_init(&m);
    turns_until(m.c.loop, &m.first, 1);
    a.id = 9;
    a.uri = tarn_wire_text("file:///");
    l.version = 5;
    l.n_attachments = 1;
    l.attachments = all;
    assert_int_equal(tarn_rpc_notify(m.session, TARN_RPC_attachments, &l.base), 0);
    m.version = 2000;
    told_topology(&m, &t, &w, ptrs);
    assert_int_equal(tarn_rpc_notify(m.session, TARN_RPC_topology, &t.base), 0);
    while (!tarn_stores_of(m.stores, 9, &isolation))
        turns_for(m.c.loop, TARN_NS_PER_MS);
    tarn_member_counts(m.member, &counts);
    assert_int_equal(counts.topology, 2000);
    t.version = 1500; /* late: dropped */
    assert_int_equal(tarn_rpc_notify(m.session, TARN_RPC_topology, &t.base), 0);
    turns_for(m.c.loop, 20 * TARN_NS_PER_MS);
    tarn_member_counts(m.member, &counts);
    assert_int_equal(counts.topology, 2000);
    while (m.last.attachments != 5)
        turns_for(m.c.loop, TARN_NS_PER_MS);
    fix_fini(&m);
}

static void registers_again(void **state)
{
    static const int codes[] = {-TARN_E_UNKNOWN_WORKER, -TARN_E_STALE};
    unsigned before;
    struct master m;
    struct obj o;

    (void)state;
    fix_init(&m);
    turns_until(m.c.loop, &m.first, 1);
    for (unsigned i = 0; i < 2; i++) {
        before = m.registered;
        m.refuse_beat = codes[i];
        turns_until(m.c.loop, &m.registered, before + 1);
    }
    before = m.registered;
    master_stop(&m); /* it goes on without one */
    turns_for(m.c.loop, 200 * TARN_NS_PER_MS);
    assert_true(tarn_member_registered(m.member));
    rig_find(&m.c.nodes[0].rig, &o, 0, "k00", 1);
    assert_int_equal(rig_read(&m.c.nodes[0].rig, &o, 0, MIB), 0);
    master_start(&m);
    turns_until(m.c.loop, &m.registered, before + 1);
    before = m.beats;
    turns_until(m.c.loop, &m.beats, before + 2);
    assert_int_equal(m.first, 1);
    assert_int_equal(m.refused, 0);
    fix_fini(&m);
}

/* A master that cannot yet. */
static void tries_again(void **state)
{
    struct master m;

    (void)state;
    fix_init(&m);
    m.refuse = -TARN_E_INTERNAL;
    turns_until(m.c.loop, &m.first, 1);
    assert_int_equal(m.first_rc, 0);
    assert_int_equal(m.registered, 2);
    assert_int_equal(m.refused, 0);
    fix_fini(&m);
}

static void refused(void **state)
{
    static const int codes[] = {-TARN_E_WORKER_TWICE, -TARN_E_OTHER_CLUSTER,
                                -TARN_E_UNKNOWN_WORKER};
    struct master m;

    (void)state;
    for (unsigned i = 0; i < TARN_ARRAY_LEN(codes); i++) {
        fix_init(&m);
        m.refuse = codes[i];
        m.for_good = true;
        turns_until(m.c.loop, &m.refused, 1);
        assert_int_equal(m.refused_rc, codes[i]);
        assert_int_equal(m.first_rc, codes[i]);
        turns_for(m.c.loop, 50 * TARN_NS_PER_MS);
        assert_int_equal(m.registered, 1); /* and is silent then */
        assert_int_equal(m.refused, 1);
        fix_fini(&m);
    }
    fix_init(&m);
    m.cluster_id = "cluster-2";
    turns_until(m.c.loop, &m.refused, 1);
    assert_int_equal(m.refused_rc, -TARN_E_OTHER_CLUSTER);
    assert_false(tarn_member_registered(m.member));
    fix_fini(&m);
}

static void removed(void **state)
{
    struct master m;

    (void)state;
    fix_init(&m);
    turns_until(m.c.loop, &m.beats, 1);
    m.state = TARN_WORKER_REMOVED;
    m.version++;
    turns_until(m.c.loop, &m.refused, 1);
    assert_int_equal(m.refused_rc, -TARN_E_UNKNOWN_WORKER);
    fix_fini(&m);
}

/* Ends before anybody answered. */
static void stops_early(void **state)
{
    struct master m;

    (void)state;
    fix_init(&m);
    master_stop(&m);
    turns_for(m.c.loop, 20 * TARN_NS_PER_MS);
    fix_fini(&m);
    fix_init(&m);
    fix_fini(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(registers_and_beats),
        cmocka_unit_test(notices),
        cmocka_unit_test(registers_again),
        cmocka_unit_test(tries_again),
        cmocka_unit_test(refused),
        cmocka_unit_test(removed),
        cmocka_unit_test(stops_early),
    };

    return cmocka_run_group_tests_name("worker_member", tests, NULL, NULL);
}
