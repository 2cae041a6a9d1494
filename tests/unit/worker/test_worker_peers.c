/* SPDX-License-Identifier: Apache-2.0 */
/* Several workers: who is asked before the store, what is kept, and what happens when one is gone,
 * slow, wrong, or of another opinion. */
#include "tests/unit/worker/cluster_rig.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/base/hash.h"

#define FIVE (5 * MIB) /* two groups */

static int node_read(struct cluster *c, unsigned i, struct obj *o, uint64_t off, uint32_t len,
                     uint32_t *ret_source)
{
    struct op op;

    op_start(&op, &c->nodes[i].rig, o, off, len, 0);
    turns_until(c->loop, &op.done, 1);
    assert_false(op.wrong);
    if (op.rc == 0)
        assert_int_equal(op.got, len);
    if (ret_source)
        *ret_source = op.read.source;
    return op.rc;
}

/* A new owner finds with the old one what it lacks. */
static void peer_before_store(void **state)
{
    struct tarn_worker_counts counts;
    struct cluster c;
    struct obj o;
    uint32_t source;

    (void)state;
    cl_init(&c, 2, FIVE, 0);
    cl_settled(&c);
    cl_object(&c, 1, 0, &o);
    c.nodes[1].state = 0;
    cl_topology(&c, 0, 1);
    assert_int_equal(node_read(&c, 0, &o, 0, MIB, NULL), 0);
    assert_int_equal(node_read(&c, 0, &o, 4 * MIB, MIB, NULL), 0);
    cl_stored(&c);
    assert_int_equal(cl_cached(&c, 0, &o), FIVE);
    c.nodes[1].state = TARN_WORKER_LIVE;
    c.nodes[0].was = true;
    cl_topology(&c, 0, 1);
    cl_forget(&c);
    assert_int_equal(node_read(&c, 1, &o, MIB, MIB, &source), 0);
    assert_int_equal(source, WSOURCE_REMOTE);
    assert_int_equal(node_read(&c, 1, &o, 4 * MIB, MIB, &source), 0);
    assert_int_equal(source, WSOURCE_REMOTE);
    cl_stored(&c);
    assert_int_equal(cl_gets(&c), 0);
    assert_int_equal(cl_cached(&c, 1, &o), FIVE);
    tarn_worker_counts(c.nodes[1].rig.worker, &counts);
    assert_int_equal(counts.peer_bytes, FIVE);
    assert_int_equal(counts.remote_bytes, 2 * MIB);
    assert_int_equal(counts.fetches, 0);
    assert_int_equal(node_read(&c, 1, &o, MIB, MIB, &source), 0);
    assert_int_equal(source, WSOURCE_LOCAL);
    cl_fini(&c);
}

/* Nobody else may have it: nobody is asked. */
static void settled_asks_nobody(void **state)
{
    struct tarn_worker_counts counts;
    struct cluster c;
    struct obj o;

    (void)state;
    cl_init(&c, 2, FIVE, 0);
    cl_settled(&c);
    cl_object(&c, 0, 0, &o);
    assert_int_equal(node_read(&c, 0, &o, 0, MIB, NULL), 0);
    tarn_worker_counts(c.nodes[0].rig.worker, &counts);
    assert_int_equal(counts.peer_asks, 0);
    assert_int_equal(counts.fetches, 1);
    cl_fini(&c);
}

/* Readers at two workers that do not own it: one fetch in the cluster, kept by the owner. */
static void owner_fetches(void **state)
{
    struct op a, b;
    struct cluster c;
    struct obj o;

    (void)state;
    cl_init(&c, 3, FIVE, 0);
    cl_settled(&c);
    cl_object(&c, 1, 0, &o);
    cl_forget(&c);
    op_start(&a, &c.nodes[0].rig, &o, 0, MIB, 0);
    op_start(&b, &c.nodes[2].rig, &o, 2 * MIB, MIB, 0);
    turns_until(c.loop, &a.done, 1);
    turns_until(c.loop, &b.done, 1);
    assert_true(a.rc == 0 && b.rc == 0 && !a.wrong && !b.wrong);
    assert_int_equal(cl_gets(&c), 1);
    rig_stored(&c.nodes[1].rig);
    assert_int_equal(cl_cached(&c, 1, &o), 4 * MIB);
    assert_int_equal(cl_cached(&c, 0, &o), 0); /* copies: 0 */
    assert_int_equal(cl_cached(&c, 2, &o), 0);
    cl_object(&c, 1, 1, &o); /* who reads on has the owner fetch on */
    cl_forget(&c);
    op_start(&a, &c.nodes[0].rig, &o, 0, MIB, 4);
    turns_until(c.loop, &a.done, 1);
    assert_int_equal(a.rc, 0);
    rig_stored(&c.nodes[1].rig);
    assert_int_equal(cl_cached(&c, 1, &o), FIVE);
    assert_int_equal(cl_gets(&c), 2);
    cl_fini(&c);
}

/* A worker that drains is asked for what it has before the owner, which would take it from there. */
static void leaver_before_owner(void **state)
{
    struct cluster c;
    struct obj o;
    unsigned owner;
    uint32_t source;

    (void)state;
    cl_init(&c, 3, FIVE, 0);
    cl_settled(&c);
    cl_object(&c, 1, 0, &o);
    assert_int_equal(node_read(&c, 1, &o, 0, MIB, NULL), 0);
    cl_stored(&c);
    c.nodes[1].state = TARN_WORKER_DRAINING;
    for (unsigned i = 0; i < 3; i++)
        c.nodes[i].was = true;
    cl_topology(&c, 0, 2);
    cl_forget(&c);
    owner = tarn_place_owns(tarn_peers_place(c.nodes[0].peers), &o.cid, 0, 1, 1) ? 0 : 2;
    assert_int_equal(node_read(&c, 2 - owner, &o, 0, MIB, &source), 0);
    assert_int_equal(source, WSOURCE_REMOTE);
    cl_stored(&c);
    assert_int_equal(cl_gets(&c), 0);
    assert_int_equal(cl_cached(&c, owner, &o), 0); /* nothing moved */
    assert_int_equal(node_read(&c, 2 - owner, &o, 4 * MIB, MIB, &source), 0);
    cl_stored(&c);
    assert_int_equal(cl_gets(&c), 1); /* of what it had not, by the owner */
    assert_int_equal(cl_cached(&c, owner, &o), MIB);
    cl_fini(&c);
}

/* The owner's error is the answer: the store is not asked a second time. */
static void owners_error(void **state)
{
    static const enum srv_action deny[] = {SRV_DENY};
    struct cluster c;
    struct obj o;

    (void)state;
    cl_init(&c, 2, FIVE, 0);
    cl_settled(&c);
    cl_object(&c, 1, 0, &o);
    srv_script(c.srv, deny, 1);
    assert_int_equal(node_read(&c, 0, &o, 0, MIB, NULL), -TARN_E_UFS_DENIED);
    assert_int_equal(cl_gets(&c), 1);
    cl_fini(&c);
}

static uint64_t timed_read(struct cluster *c, unsigned i, struct obj *o, uint64_t off)
{
    uint64_t before = tarn_now_ns();

    assert_int_equal(node_read(c, i, o, off, MIB, NULL), 0);
    return tarn_now_ns() - before;
}

static void owner_gone(void **state)
{
    struct cluster c;
    struct obj o;

    (void)state;
    cl_init(&c, 2, FIVE, 0);
    cl_settled(&c);
    cl_object(&c, 1, 0, &o);
    cl_stop_server(&c, 1);
    cl_forget(&c);
    assert_true(timed_read(&c, 0, &o, 0) < 4 * TARN_NS_PER_S);
    assert_int_equal(cl_gets(&c), 1);
    assert_true(timed_read(&c, 0, &o, 4 * MIB) < 4 * TARN_NS_PER_S);
    cl_fini(&c);
}

/* Connections are taken, and nothing is ever said. */
static void owner_frozen(void **state)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t len = sizeof(at);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const char *addr;
    struct cluster c;
    struct obj o;
    char text[32];

    (void)state;
    assert_true(fd >= 0 && bind(fd, (struct sockaddr *)&at, sizeof(at)) == 0 &&
                listen(fd, 8) == 0 && getsockname(fd, (struct sockaddr *)&at, &len) == 0);
    (void)snprintf(text, sizeof(text), "127.0.0.1:%u", ntohs(at.sin_port));
    cl_init(&c, 2, FIVE, 0);
    addr = c.nodes[1].addr;
    c.nodes[1].addr = text;
    cl_settled(&c);
    cl_object(&c, 1, 0, &o);
    assert_true(timed_read(&c, 0, &o, 0) < 4 * TARN_NS_PER_S);
    assert_int_equal(cl_cached(&c, 0, &o), 0);
    c.nodes[1].addr = addr;
    cl_fini(&c);
    (void)close(fd);
}

/* In an owner's place a worker keeps what it fetched, as a copy: the owner asks for it when it is
 * back. */
static void stands_in(void **state)
{
    struct tarn_tier_info info;
    struct cluster c;
    struct obj o;

    (void)state;
    cl_init(&c, 2, FIVE, 0);
    cl_settled(&c);
    cl_object(&c, 1, 0, &o);
    c.nodes[1].dead = true;
    cl_topology(&c, 0, 1);
    assert_int_equal(node_read(&c, 0, &o, 0, MIB, NULL), 0);
    rig_stored(&c.nodes[0].rig);
    assert_int_equal(cl_cached(&c, 0, &o), 4 * MIB);
    tarn_tier_info(c.nodes[0].rig.tier, &info);
    assert_int_equal(info.copy_bytes, 4 * MIB);
    cl_fini(&c);
}

/* Only a worker may have another keep what it does not own: a client that says so is forwarded. */
static void who_says_that_it_is_a_worker(void **state)
{
    static const char *const who[] = {"token", "worker"};
    struct cluster c;
    struct obj o;

    (void)state;
    cl_init(&c, 2, MIB, 0);
    cl_settled(&c);
    for (unsigned i = 0; i < 2; i++) {
        Tarn__Wire__ReadRequest msg = TARN__WIRE__READ_REQUEST__INIT;
        struct cl_call call;

        cl_object(&c, 1, i, &o);
        msg.locator = &o.msg;
        msg.length = MIB;
        msg.peer = true;
        assert_int_equal(cl_call(&c, &call, 0, who[i], TARN_RPC_read, &msg.base, NULL), 0);
        cl_call_fini(&c, &call);
        cl_stored(&c);
        assert_int_equal(cl_cached(&c, 0, &o), i == 1 ? MIB : 0);
        assert_int_equal(cl_cached(&c, 1, &o), i == 1 ? 0 : MIB);
    }
    cl_fini(&c);
}

/* A reader that knows of fewer copies than a load asked for takes none of them back. */
static void a_reader_lowers_nothing(void **state)
{
    struct tarn_tier_file *f;
    struct cluster c;
    tarn_cid_t cid;
    struct obj o;

    (void)state;
    cl_init(&c, 1, MIB, 0);
    cl_settled(&c);
    cl_object(&c, 0, 0, &o);
    o.msg.replicas = 2;
    assert_int_equal(node_read(&c, 0, &o, 0, 1000, NULL), 0);
    cl_stored(&c);
    o.msg.replicas = 0;
    assert_int_equal(node_read(&c, 0, &o, 0, 1000, NULL), 0);
    memcpy(cid.b, o.msg.cid.data, sizeof(cid.b));
    f = tarn_tier_file_find(c.nodes[0].rig.tier, &cid);
    assert_non_null(f);
    assert_int_equal(tarn_tier_file_replicas(f), 2);
    tarn_tier_file_put(&f);
    cl_fini(&c);
}

static int ask(struct cluster *c, unsigned to, struct obj *o, uint64_t off, uint32_t len)
{
    Tarn__Wire__ReadRequest msg = TARN__WIRE__READ_REQUEST__INIT;
    struct cl_call call;
    int rc;

    msg.locator = &o->msg;
    msg.offset = off;
    msg.length = len;
    msg.cached_only = true;
    msg.peer = true;
    rc = cl_call(c, &call, to, "worker", TARN_RPC_read, &msg.base, NULL);
    if (rc == 0) {
        const Tarn__Wire__ReadResponse *resp = (const Tarn__Wire__ReadResponse *)call.req.resp;

        assert_true(call.req.resp_payload && call.req.resp_payload->len == len);
        assert_true(pattern_same(1, off, call.req.resp_payload->p, len));
        assert_string_equal(resp->source, "local");
        assert_int_equal(resp->level, TARN_VERIFIED_ETAG);
    }
    cl_call_fini(c, &call);
    return rc;
}

static void cached_only_never_fetches(void **state)
{
    struct cluster c;
    struct obj o;

    (void)state;
    cl_init(&c, 1, FIVE, 0);
    cl_settled(&c);
    cl_object(&c, 0, 0, &o);
    cl_forget(&c);
    assert_int_equal(ask(&c, 0, &o, 0, 4 * MIB), -TARN_E_NOT_CACHED);
    rig_run_for(&c.nodes[0].rig, 20 * TARN_NS_PER_MS);
    assert_int_equal(cl_gets(&c), 0);
    assert_int_equal(node_read(&c, 0, &o, 0, MIB, NULL), 0);
    cl_stored(&c);
    assert_int_equal(ask(&c, 0, &o, 0, 4 * MIB), 0);
    assert_int_equal(ask(&c, 0, &o, 4 * MIB, MIB), -TARN_E_NOT_CACHED);
    assert_int_equal(ask(&c, 0, &o, 3 * MIB, 2 * MIB), -TARN_E_NOT_CACHED); /* not half of it */
    assert_int_equal(cl_gets(&c), 1);
    cl_fini(&c);
}

/* What is on the disk since before the start is read back first; a bad granule is never sent. */
static void cached_only_verifies(void **state)
{
    char hex[TARN_CID_HEX], *path;
    struct cluster c;
    struct obj o;
    int fd;

    (void)state;
    cl_init(&c, 1, FIVE, 0);
    cl_settled(&c);
    cl_object(&c, 0, 0, &o);
    assert_int_equal(node_read(&c, 0, &o, 0, MIB, NULL), 0);
    assert_int_equal(node_read(&c, 0, &o, 4 * MIB, MIB, NULL), 0);
    cl_stored(&c);
    (void)tarn_cid_text(&o.cid, hex);
    path = tarn_xasprintf("%s/tier/data/%.2s/%s", c.nodes[0].rig.dir, hex, hex);
    tarn_move_free(&c.nodes[0].move);
    cl_stop_server(&c, 0); /* handlers of the worker that goes */
    fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0 && pwrite(fd, "x", 1, 70000) == 1);
    rig_restart(&c.nodes[0].rig);
    assert_int_equal(close(fd), 0);
    free(path);
    cl_node_serve(&c, 0);
    assert_int_equal(ask(&c, 0, &o, 4 * MIB, MIB), 0);
    assert_int_equal(ask(&c, 0, &o, 0, 4 * MIB), -TARN_E_NOT_CACHED);
    cl_fini(&c);
}

/* ---- a peer that says what is not so ----------------------------------------------------------
 */

struct liar {
    struct tarn_rpc_server *server;
    const char *addr;
    unsigned how; /* what is wrong */
    unsigned asked;
};

static void liar_read(void *ctx, struct tarn_rpc_call *call)
{
    const Tarn__Wire__ReadRequest *req = (const Tarn__Wire__ReadRequest *)call->request;
    struct liar *l = ctx;
    struct tarn_buf *b = tarn_buf_new(req->length);
    Tarn__Wire__ReadResponse resp = TARN__WIRE__READ_RESPONSE__INIT;
    uint64_t sums[TARN_GROUP_GRANULES];

    l->asked++;
    assert_true(req->peer && req->cached_only);
    pattern_fill(1, req->offset, b->p, req->length);
    b->len = req->length;
    for (uint32_t at = 0; at < req->length; at += TARN_GRANULE_BYTES)
        sums[resp.n_sums++] = tarn_xxh3(b->p + at, TARN_MIN(TARN_GRANULE_BYTES, req->length - at));
    resp.sums = sums;
    resp.offset = req->offset;
    resp.level = TARN_VERIFIED_ETAG;
    resp.source = tarn_wire_text("local");
    if (l->how == 0)
        b->p[req->length - 1] ^= 1; /* damaged on the way */
    else if (l->how == 1)
        resp.n_sums--;
    else if (l->how == 2)
        b->len = req->length - 1;
    else if (l->how == 3)
        resp.offset += TARN_UNIT_BYTES;
    tarn_rpc_reply(call, 0, &resp.base, b, 0, b->len);
    tarn_buf_unref(&b);
}

static void count(void *arg)
{
    ++*(unsigned *)arg;
}

static void damaged_answer(void **state)
{
    struct liar l = {0};
    struct tarn_rpc_server_args args = {.rng = tarn_rng_system(), .cluster_id = RIG_TEXT};
    struct tarn_worker_counts counts;
    const char *addr;
    struct cluster c;
    unsigned gone = 0;
    struct obj o;

    (void)state;
    cl_init(&c, 2, FIVE, 0);
    cl_settled(&c);
    args.loop = c.loop;
    assert_int_equal(tarn_rpc_server_new(&args, &l.server), 0);
    tarn_rpc_server_set_worker(l.server, 2);
    tarn_rpc_server_handle(l.server, TARN_RPC_read, liar_read, &l);
    assert_int_equal(tarn_rpc_server_listen(l.server, "127.0.0.1:0", &l.addr), 0);
    addr = c.nodes[1].addr;
    c.nodes[1].addr = l.addr;
    c.nodes[1].was = true; /* so that it is asked for what node 0 owns */
    cl_topology(&c, 0, 1);
    for (l.how = 0; l.how < 4; l.how++) {
        cl_object(&c, 0, l.how, &o);
        cl_forget(&c);
        assert_int_equal(node_read(&c, 0, &o, 0, MIB, NULL), 0);
        assert_int_equal(l.asked, l.how + 1);
        assert_int_equal(cl_gets(&c), 1);
        tarn_worker_counts(c.nodes[0].rig.worker, &counts);
        assert_int_equal(counts.peer_bad, l.how + 1);
        assert_int_equal(counts.peer_bytes, 0);
    }
    cl_object(&c, 0, 4, &o); /* the truth is taken */
    cl_forget(&c);
    assert_int_equal(node_read(&c, 0, &o, 0, MIB, NULL), 0);
    assert_int_equal(cl_gets(&c), 0);
    c.nodes[1].addr = addr;
    cl_settled(&c);
    tarn_rpc_server_stop(l.server, count, &gone);
    turns_until(c.loop, &gone, 1);
    tarn_rpc_server_free(&l.server);
    cl_fini(&c);
}

/* ---- an owner that stops in the middle --------------------------------------------------------
 */

struct held {
    struct tarn_rpc_call *call;
    unsigned plain;
};

static void held_read(void *ctx, struct tarn_rpc_call *call)
{
    const Tarn__Wire__ReadRequest *req = (const Tarn__Wire__ReadRequest *)call->request;
    struct held *h = ctx;

    if (req->cached_only) {
        tarn_rpc_reply(call, -TARN_E_NOT_CACHED, NULL, NULL, 0, 0);
        return;
    }
    h->plain++;
    h->call = call; /* and nothing more */
}

/* It was asked to fetch, and is not alive any more: the store is asked. */
static void owner_dies(void **state)
{
    struct held h = {0};
    struct tarn_rpc_server_args args = {.rng = tarn_rng_system(), .cluster_id = RIG_TEXT};
    struct tarn_rpc_server *server;
    const char *addr;
    struct cluster c;
    unsigned gone = 0;
    struct obj o;
    struct op op;

    (void)state;
    cl_init(&c, 2, FIVE, 0);
    args.loop = c.loop;
    assert_int_equal(tarn_rpc_server_new(&args, &server), 0);
    tarn_rpc_server_set_worker(server, 2);
    tarn_rpc_server_handle(server, TARN_RPC_read, held_read, &h);
    addr = c.nodes[1].addr;
    assert_int_equal(tarn_rpc_server_listen(server, "127.0.0.1:0", &c.nodes[1].addr), 0);
    cl_settled(&c);
    cl_object(&c, 1, 0, &o);
    cl_forget(&c);
    op_start(&op, &c.nodes[0].rig, &o, 0, MIB, 0);
    turns_until(c.loop, &h.plain, 1);
    turns_for(c.loop, 700 * TARN_NS_PER_MS); /* it may take as long as a store takes */
    assert_int_equal(op.done, 0);
    c.nodes[1].dead = true;
    cl_topology(&c, 0, 0);
    turns_until(c.loop, &op.done, 1);
    assert_true(op.rc == 0 && !op.wrong);
    assert_int_equal(cl_gets(&c), 1);
    tarn_rpc_reply(h.call, -TARN_E_CANCELLED, NULL, NULL, 0, 0);
    c.nodes[1].addr = addr;
    c.nodes[1].dead = false;
    cl_settled(&c);
    tarn_rpc_server_stop(server, count, &gone);
    turns_until(c.loop, &gone, 1);
    tarn_rpc_server_free(&server);
    cl_fini(&c);
}

/* ---- an owner that has much to do -------------------------------------------------------------
 */

struct slow {
    struct tarn_rpc_server *server;
    const char *addr;           /* that of the worker in whose place it is */
    struct liar truth;          /* what it says when it has time */
    unsigned busy;              /* questions that are answered with BUSY */
    bool hold;                  /* the next question waits */
    struct tarn_rpc_call *held; /* that does */
};

static void slow_read(void *ctx, struct tarn_rpc_call *call)
{
    struct slow *s = ctx;

    if (s->hold) {
        s->hold = false;
        s->held = call;
    } else if (s->busy > 0) {
        s->busy--;
        tarn_rpc_reply(call, -TARN_E_BUSY, NULL, NULL, 0, 0);
    } else {
        liar_read(&s->truth, call);
    }
}

/* In the place of nodes[1]. */
static void slow_init(struct cluster *c, struct slow *s)
{
    struct tarn_rpc_server_args args = {.rng = tarn_rng_system(), .cluster_id = RIG_TEXT};

    *s = (struct slow){.truth.how = 4};
    cl_init(c, 2, FIVE, 0);
    args.loop = c->loop;
    assert_int_equal(tarn_rpc_server_new(&args, &s->server), 0);
    tarn_rpc_server_handle(s->server, TARN_RPC_read, slow_read, s);
    tarn_rpc_server_set_worker(s->server, 2);
    s->addr = c->nodes[1].addr;
    assert_int_equal(tarn_rpc_server_listen(s->server, "127.0.0.1:0", &c->nodes[1].addr), 0);
    cl_settled(c);
}

static void slow_fini(struct cluster *c, struct slow *s)
{
    unsigned gone = 0;

    c->nodes[1].addr = s->addr;
    cl_settled(c);
    tarn_rpc_server_stop(s->server, count, &gone);
    turns_until(c->loop, &gone, 1);
    tarn_rpc_server_free(&s->server);
    cl_fini(c);
}

/* It is asked again until it has time: the store is not asked. */
static void owner_busy(void **state)
{
    struct cluster c;
    struct slow s;
    struct obj o;

    (void)state;
    slow_init(&c, &s);
    cl_object(&c, 1, 0, &o);
    cl_forget(&c);
    s.busy = 3;
    assert_int_equal(node_read(&c, 0, &o, 0, MIB, NULL), 0);
    assert_int_equal(s.busy, 0);
    assert_int_equal(s.truth.asked, 1);
    assert_int_equal(cl_gets(&c), 0);
    slow_fini(&c, &s);
}

/* False: this process was not run for so long that the owner seemed silent. */
static bool late_once(void)
{
    struct op op, other[7];
    struct cluster c;
    struct slow s;
    struct obj o, p;
    uint64_t heard, longest = 0;

    slow_init(&c, &s);
    cl_object(&c, 1, 0, &o);
    cl_forget(&c);
    s.hold = true;
    op_start(&op, &c.nodes[0].rig, &o, 0, MIB, 0);
    heard = tarn_now_ns();
    for (unsigned i = 0; i < 7; i++) {
        turns_for(c.loop, 200 * TARN_NS_PER_MS);
        cl_object(&c, 1, 1 + i / 2, &p); /* another group each time: what came lingers */
        op_start(&other[i], &c.nodes[0].rig, &p, i % 2 ? 4 * MIB : 0, MIB, 0);
        turns_until(c.loop, &other[i].done, 1);
        assert_int_equal(other[i].rc, 0);
        longest = TARN_MAX(longest, tarn_now_ns() - heard);
        heard = tarn_now_ns();
    }
    if (longest < 500 * TARN_NS_PER_MS)
        assert_int_equal(op.done, 0);
    liar_read(&s.truth, s.held);
    turns_until(c.loop, &op.done, 1);
    assert_true(op.rc == 0 && !op.wrong);
    if (longest < 500 * TARN_NS_PER_MS)
        assert_int_equal(cl_gets(&c), 0);
    slow_fini(&c, &s);
    return longest < 500 * TARN_NS_PER_MS;
}

/* Its answer takes long, and it sends others meanwhile: it is waited for, and nobody leaves it
 * alone. */
static void owner_late(void **state)
{
    unsigned n = 1;

    (void)state;
    while (!late_once())
        assert_true(++n < 20);
}

/* It has no time at all, and the store fails: that passes. */
static void owner_busy_and_no_store(void **state)
{
    static const enum srv_action deny[] = {SRV_DENY, SRV_DENY, SRV_DENY, SRV_DENY};
    struct cluster c;
    struct slow s;
    struct obj o;

    (void)state;
    slow_init(&c, &s);
    cl_object(&c, 1, 0, &o);
    cl_forget(&c);
    srv_script(c.srv, deny, TARN_ARRAY_LEN(deny));
    s.busy = 1000;
    assert_int_equal(node_read(&c, 0, &o, 0, MIB, NULL), -TARN_E_BUSY);
    assert_true(cl_gets(&c) >= 1 && s.busy < 998);
    s.busy = 0; /* who answered is asked */
    assert_int_equal(node_read(&c, 0, &o, 0, MIB, NULL), 0);
    slow_fini(&c, &s);
}

/* A pause is no reason to wait at the end. */
static void owner_busy_at_the_end(void **state)
{
    struct cluster c;
    struct slow s;
    struct obj o;
    struct op op;

    (void)state;
    slow_init(&c, &s);
    cl_object(&c, 1, 0, &o);
    s.busy = 1000;
    op_start(&op, &c.nodes[0].rig, &o, 0, MIB, 0);
    turns_for(c.loop, 100 * TARN_NS_PER_MS);
    tarn_worker_stop(c.nodes[0].rig.worker, count, &c.nodes[0].rig.stopped);
    turns_until(c.loop, &op.done, 1);
    assert_int_equal(op.rc, -TARN_E_SHUTDOWN);
    slow_fini(&c, &s);
}

/* ---- loads ------------------------------------------------------------------------------------
 */

static int fill(struct cluster *c, unsigned to, struct obj *o, uint64_t *ret_fetched)
{
    Tarn__Wire__FillRequest msg = TARN__WIRE__FILL_REQUEST__INIT;
    Tarn__Wire__Locator *locators[] = {&o->msg};
    struct cl_call call;
    int rc;

    msg.locators = locators;
    msg.n_locators = 1;
    rc = cl_call(c, &call, to, "master", TARN_RPC_fill, &msg.base, NULL);
    if (rc == 0) {
        const Tarn__Wire__FillResponse *resp = (const Tarn__Wire__FillResponse *)call.req.resp;

        rc = -(int)resp->results[0]->status;
        *ret_fetched = resp->results[0]->fetched;
    }
    cl_call_fini(c, &call);
    return rc;
}

/* A load takes from others what they have, keeps what others own too, and passes nothing on. */
static void fills(void **state)
{
    struct cluster c;
    struct obj o, p;
    uint64_t fetched = 0;
    struct op op;

    (void)state;
    cl_init(&c, 2, FIVE, 0);
    cl_settled(&c);
    cl_object(&c, 1, 0, &o);
    assert_int_equal(node_read(&c, 1, &o, 0, MIB, NULL), 0);
    rig_stored(&c.nodes[1].rig);
    cl_forget(&c);
    assert_int_equal(fill(&c, 0, &o, &fetched), 0);
    assert_int_equal(fetched, FIVE);
    assert_int_equal(cl_gets(&c), 1); /* the second group alone */
    assert_int_equal(cl_cached(&c, 0, &o), FIVE);
    assert_int_equal(cl_cached(&c, 1, &o), 4 * MIB);
    cl_object(&c, 1, 1, &p); /* while a reader's unit that would not be kept is there */
    op_start(&op, &c.nodes[0].rig, &p, 0, MIB, 0);
    turns_until(c.loop, &op.done, 1);
    assert_int_equal(op.rc, 0);
    assert_int_equal(c.nodes[0].rig.worker->units.count, 1); /* it lingers */
    assert_int_equal(fill(&c, 0, &p, &fetched), 0);
    assert_int_equal(cl_cached(&c, 0, &p), FIVE);
    cl_fini(&c);
}

/* ---- a store that is opened anew --------------------------------------------------------------
 */

static void store_replaced(void **state)
{
    static const enum srv_action stall[] = {SRV_STALL_BODY};
    struct tarn_ufs *old;
    unsigned closed = 0;
    struct cluster c;
    struct obj o;
    struct op op;

    (void)state;
    cl_init(&c, 1, FIVE, 0);
    cl_settled(&c);
    cl_object(&c, 0, 0, &o);
    srv_script(c.srv, stall, 1);
    op_start(&op, &c.nodes[0].rig, &o, 3 * MIB, MIB, 0); /* in the half that does not come */
    turns_for(c.loop, 200 * TARN_NS_PER_MS);
    assert_int_equal(op.done, 0);
    old = c.nodes[0].rig.store[0];
    rig_open_s3(&c.nodes[0].rig, 0, c.srv, ",timeout=6s,store-id=rig");
    tarn_ufs_close(&old, count, &closed);
    turns_until(c.loop, &op.done, 1);
    assert_true(op.rc == 0 && !op.wrong);
    turns_until(c.loop, &closed, 1);
    cl_stored(&c);
    assert_int_equal(node_read(&c, 0, &o, 0, MIB, NULL), 0);
    cl_fini(&c);
}

/* ---- copies -----------------------------------------------------------------------------------
 */

static void copies(void **state)
{
    struct tarn_tier_info info;
    struct cluster c;
    struct obj o, p;

    (void)state;
    cl_init(&c, 2, FIVE, 0);
    cl_settled(&c);
    cl_object(&c, 1, 0, &o);
    cl_object(&c, 1, 1, &p);
    tarn_worker_set_copies(c.nodes[0].rig.worker, 1, 0);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(cl_cached(&c, 0, &o), 0);
        assert_int_equal(node_read(&c, 0, &o, 0, MIB, NULL), 0);
        rig_stored(&c.nodes[0].rig); /* a piece of a unit that lingers is not asked for again */
    }
    assert_int_equal(cl_cached(&c, 0, &o), 4 * MIB);
    tarn_tier_info(c.nodes[0].rig.tier, &info);
    assert_int_equal(info.copy_bytes, 4 * MIB);
    tarn_worker_set_copies(c.nodes[0].rig.worker, 2, 5 * MIB);
    assert_int_equal(node_read(&c, 0, &p, 0, MIB, NULL), 0);
    rig_stored(&c.nodes[0].rig);
    assert_int_equal(cl_cached(&c, 0, &p), 4 * MIB);
    tarn_tier_info(c.nodes[0].rig.tier, &info);
    assert_true(info.copy_bytes <= 5 * MIB); /* the older one went */
    assert_int_equal(cl_cached(&c, 0, &o), 0);
    cl_fini(&c);
}

/* ---- no loops ---------------------------------------------------------------------------------
 */

/* Each of two thinks that the other one owns it, and both are asked at once. */
static void two_opinions(void **state)
{
    struct op a, b;
    struct cluster c;
    struct obj o;

    (void)state;
    cl_init(&c, 2, FIVE, 0);
    cl_settled(&c);
    cl_object(&c, 1, 0, &o);
    c.nodes[0].state = TARN_WORKER_DRAINING;
    cl_topology(&c, 0, 0);
    c.nodes[0].state = TARN_WORKER_LIVE;
    c.nodes[1].state = TARN_WORKER_DRAINING;
    cl_topology(&c, 1, 1);
    for (unsigned i = 0; i < 2; i++) {
        uint64_t before = tarn_now_ns();

        cl_forget(&c);
        op_start(&a, &c.nodes[0].rig, &o, i * 4 * MIB, MIB, 0);
        op_start(&b, &c.nodes[1].rig, &o, i * 4 * MIB, MIB, 0);
        turns_until(c.loop, &a.done, 1);
        turns_until(c.loop, &b.done, 1);
        assert_true(a.rc == 0 && b.rc == 0 && !a.wrong && !b.wrong);
        assert_in_range(cl_gets(&c), 1, 2);
        assert_true(tarn_now_ns() - before < 3 * TARN_NS_PER_S); /* no deadline ended it */
    }
    cl_stored(&c);
    cl_object(&c, 1, 1, &o); /* and one after the other */
    cl_forget(&c);
    assert_int_equal(node_read(&c, 0, &o, 0, MIB, NULL), 0);
    assert_int_equal(cl_gets(&c), 1);
    cl_fini(&c);
}

/* Both are full of what they want from each other. */
static void memory_of_both(void **state)
{
    static const uint64_t sizes[] = {16 * MIB, 4 * MIB};
    struct op ops[2][12];
    struct cluster c;
    struct obj o[2][6];
    struct tarn_worker_counts counts;

    (void)state;
    for (unsigned k = 0; k < TARN_ARRAY_LEN(sizes); k++) {
        cl_init_with(&c, 2, FIVE, 0, sizes[k]);
        cl_settled(&c);
        for (unsigned i = 0; i < 12; i++)
            cl_object(&c, 1 - i / 6, i % 6, &o[i / 6][i % 6]);
        cl_forget(&c);
        for (unsigned i = 0; i < 24; i++) /* at 0 what 1 owns, and the other way round */
            op_start(&ops[i % 2][i / 2], &c.nodes[i % 2].rig, &o[i % 2][i / 4], i / 2 % 2 * 4 * MIB,
                     MIB, 0);
        for (unsigned i = 0; i < 24; i++) {
            turns_until(c.loop, &ops[i % 2][i / 2].done, 1);
            assert_int_equal(ops[i % 2][i / 2].rc, 0);
            assert_false(ops[i % 2][i / 2].wrong);
        }
        assert_int_equal(cl_gets(&c), 24);
        for (unsigned i = 0; i < 2; i++) { /* no deadline ended it: else the store would be asked */
            tarn_worker_counts(c.nodes[i].rig.worker, &counts);
            assert_int_equal(counts.peer_bytes, 6 * FIVE);
        }
        cl_fini(&c);
    }
}

/* A worker that is none yet. */
static void without_identity(void **state)
{
    Tarn__Wire__ReadRequest msg = TARN__WIRE__READ_REQUEST__INIT;
    Tarn__Wire__Empty empty = TARN__WIRE__EMPTY__INIT;
    struct cl_call call;
    struct cluster c;
    struct obj o;

    (void)state;
    cl_init(&c, 1, FIVE, 0);
    cl_settled(&c);
    cl_object(&c, 0, 0, &o);
    tarn_move_free(&c.nodes[0].move);
    cl_stop_server(&c, 0);
    c.nodes[0].rig.args.unnamed = true;
    rig_restart(&c.nodes[0].rig);
    cl_node_serve(&c, 0);
    msg.locator = &o.msg;
    msg.length = MIB;
    assert_int_equal(cl_call(&c, &call, 0, "client", TARN_RPC_read, &msg.base, NULL), -TARN_E_BUSY);
    cl_call_fini(&c, &call);
    assert_int_equal(cl_call(&c, &call, 0, "client", TARN_RPC_worker_status, &empty.base, NULL),
                     -TARN_E_BUSY);
    cl_call_fini(&c, &call);
    tarn_worker_set_identity(c.nodes[0].rig.worker, 1, c.nodes[0].rig.cap_key);
    assert_int_equal(cl_call(&c, &call, 0, "client", TARN_RPC_read, &msg.base, NULL), 0);
    cl_call_fini(&c, &call);
    cl_fini(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(peer_before_store),
        cmocka_unit_test(settled_asks_nobody),
        cmocka_unit_test(owner_fetches),
        cmocka_unit_test(leaver_before_owner),
        cmocka_unit_test(owners_error),
        cmocka_unit_test(owner_gone),
        cmocka_unit_test(owner_frozen),
        cmocka_unit_test(stands_in),
        cmocka_unit_test(who_says_that_it_is_a_worker),
        cmocka_unit_test(a_reader_lowers_nothing),
        cmocka_unit_test(cached_only_never_fetches),
        cmocka_unit_test(cached_only_verifies),
        cmocka_unit_test(damaged_answer),
        cmocka_unit_test(owner_dies),
        cmocka_unit_test(owner_busy),
        cmocka_unit_test(owner_late),
        cmocka_unit_test(owner_busy_and_no_store),
        cmocka_unit_test(owner_busy_at_the_end),
        cmocka_unit_test(fills),
        cmocka_unit_test(store_replaced),
        cmocka_unit_test(copies),
        cmocka_unit_test(two_opinions),
        cmocka_unit_test(memory_of_both),
        cmocka_unit_test(without_identity),
    };

    return cmocka_run_group_tests_name("worker_peers", tests, NULL, NULL);
}
