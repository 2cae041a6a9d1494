/* SPDX-License-Identifier: Apache-2.0 */
/* The worker's handlers over a connection: reads with checksums, fills, frees, capabilities. */
#include "tests/unit/worker/worker_rig.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/fault.h"
#include "lib/base/hash.h"
#include "lib/rpc/client_priv.h"

struct net {
    struct rig rig;
    struct tarn_rpc_server *server;
    struct tarn_rpc_client *client;
    unsigned ended;                /* of server and client */
    struct tarn_rpc_call *held[8]; /* report_changed */
    unsigned reports, cancels;
};

static void net_report(void *ctx, struct tarn_rpc_call *call);

static void net_init(struct net *n, const struct rig_args *args, bool trusted)
{
    struct tarn_rpc_server_args sargs = {.rng = tarn_rng_system(), .cluster_id = RIG_TEXT};
    struct tarn_rpc_client_args cargs = {.rng = tarn_rng_system()};
    struct tarn_conn *a, *b;

    *n = (struct net){0};
    rig_init(&n->rig, args);
    sargs.loop = cargs.loop = n->rig.loop;
    assert_int_equal(tarn_rpc_server_new(&sargs, &n->server), 0);
    tarn_worker_serve(n->rig.worker, n->server);
    tarn_rpc_server_handle(n->server, TARN_RPC_report_changed, net_report, n);
    assert_int_equal(tarn_conn_pair(n->rig.loop, &a, &b), 0);
    tarn_rpc_server_serve(n->server, a, trusted);
    cargs.conn = b;
    assert_int_equal(tarn_rpc_client_new(&cargs, &n->client), 0);
}

static void net_ended(void *arg)
{
    ++*(unsigned *)arg;
}

static void net_stopped(void *arg)
{
    struct rig *r = arg;

    r->stopped++;
}

static void net_fini(struct net *n)
{
    if (!n->rig.worker->stopping)
        tarn_worker_stop(n->rig.worker, net_stopped, &n->rig);
    rig_until(&n->rig, &n->rig.stopped, 1);
    tarn_rpc_client_stop(n->client, net_ended, &n->ended);
    rig_until(&n->rig, &n->ended, 1);
    tarn_rpc_client_free(&n->client);
    for (unsigned i = 0; i < n->reports; i++)
        tarn_rpc_reply(n->held[i], 0, NULL, NULL, 0, 0);
    tarn_rpc_server_stop(n->server, net_ended, &n->ended);
    rig_until(&n->rig, &n->ended, 2);
    tarn_rpc_server_free(&n->server);
    rig_fini(&n->rig);
}

struct call {
    struct tarn_rpc_req req;
    unsigned done;
    int rc;
};

static void call_done(struct tarn_rpc_req *req, int rc)
{
    struct call *c = req->arg;

    c->done++;
    c->rc = rc;
}

static void call_keep(struct tarn_rpc_req *req, int rc)
{
    struct call *c = req->arg;
    ProtobufCMessage *resp = req->resp;
    struct tarn_buf *payload = req->resp_payload;

    call_done(req, rc);
    req->resp = NULL;
    req->resp_payload = NULL;
    tarn_rpc_req_fini(req);
    c->req.resp = resp;
    c->req.resp_payload = payload;
}

static void call_start(struct call *c, struct net *n, uint32_t method, const ProtobufCMessage *msg)
{
    *c = (struct call){.req = {.method = method, .msg = msg, .no_retry = true, .cb = call_keep}};
    c->req.arg = c;
    tarn_rpc_start(n->client, &c->req);
}

static int call(struct call *c, struct net *n, uint32_t method, const ProtobufCMessage *msg)
{
    call_start(c, n, method, msg);
    rig_until(&n->rig, &c->done, 1);
    return c->rc;
}

static void call_fini(struct call *c)
{
    if (c->req.resp)
        protobuf_c_message_free_unpacked(c->req.resp, NULL);
    tarn_buf_unref(&c->req.resp_payload);
}

static int net_read(struct net *n, struct obj *o, uint64_t off, uint32_t len)
{
    Tarn__Wire__ReadRequest msg = TARN__WIRE__READ_REQUEST__INIT;
    const Tarn__Wire__ReadResponse *resp;
    struct tarn_buf *b;
    struct call c;
    int rc;

    msg.locator = &o->msg;
    msg.offset = off;
    msg.length = len;
    rc = call(&c, n, TARN_RPC_read, &msg.base);
    resp = (const Tarn__Wire__ReadResponse *)c.req.resp;
    b = c.req.resp_payload;
    if (rc == 0) {
        uint64_t end = TARN_MIN(off + len, o->version.size);

        assert_non_null(b);
        assert_true(resp->offset <= off && resp->offset + b->len >= end);
        assert_int_equal(resp->offset % TARN_GRANULE_BYTES, 0);
        assert_int_equal(resp->n_sums, tarn_div_up(b->len, TARN_GRANULE_BYTES));
        for (size_t at = 0, i = 0; at < b->len; at += TARN_GRANULE_BYTES, i++)
            assert_int_equal(
                tarn_xxh3(b->p + at, TARN_MIN(b->len - at, (size_t)TARN_GRANULE_BYTES)),
                resp->sums[i]);
        assert_true(pattern_same(o->seed, resp->offset, b->p, b->len));
    }
    call_fini(&c);
    return rc;
}

static void read_ranges(struct net *n, struct obj *o)
{
    static const struct {
        uint64_t off;
        uint32_t len;
    } ranges[] = {{0, 1},         {0, 4 << 20},      {65535, 2},
                  {65536, 65536}, {4194303, 2},      {4194304 - 1, 4 << 20},
                  {4194304, 1},   {8388607, 70000},  {8458606, 100000},
                  {8458606, 1},   {3 << 20, 3 << 20}};

    for (unsigned i = 0; i < TARN_ARRAY_LEN(ranges); i++)
        assert_int_equal(net_read(n, o, ranges[i].off, ranges[i].len), 0);
    assert_int_equal(net_read(n, o, o->version.size, 1), -TARN_E_INVALID);
    assert_int_equal(net_read(n, o, UINT64_MAX, 1), -TARN_E_INVALID);
    assert_int_equal(net_read(n, o, 0, 0), -TARN_E_INVALID);
    assert_int_equal(net_read(n, o, 0, (4u << 20) + 1), -TARN_E_INVALID);
}

static void reads_with_sums(void **state)
{
    struct net n;
    struct obj o;

    (void)state;
    net_init(&n, &(struct rig_args){.quota = 64 * MIB}, true);
    rig_open_dir(&n.rig, 0);
    rig_put(&n.rig, "f", 4, 8 * MIB + 70000);
    rig_find(&n.rig, &o, 0, "f", 4);
    read_ranges(&n, &o); /* from the store */
    rig_stored(&n.rig);
    read_ranges(&n, &o); /* from the tier */
    assert_int_equal(n.rig.worker->counts.fetches, 3);
    while (tarn_buf_account_bytes(n.rig.worker->serving) > 0) /* until it is written */
        rig_run_for(&n.rig, TARN_NS_PER_MS);
    net_fini(&n);
}

#define READS 300u /* of a MiB */

/* Who asks for much and reads nothing takes a bounded share of the memory, until his connection
 * goes, and the others are served meanwhile. */
static void one_that_does_not_read(void **state)
{
    Tarn__Wire__ReadRequest msg = TARN__WIRE__READ_REQUEST__INIT;
    struct call *calls = tarn_xcalloc(READS, sizeof(*calls));
    struct tarn_rpc_client_args cargs = {.rng = tarn_rng_system()};
    struct tarn_rpc_client *other;
    unsigned busy = 0, ended = 0;
    struct tarn_conn *a, *b;
    struct net n;
    struct obj o;

    (void)state;
    net_init(&n, &(struct rig_args){.quota = 64 * MIB}, true);
    rig_open_dir(&n.rig, 0);
    rig_put(&n.rig, "f", 4, 8 * MIB);
    rig_find(&n.rig, &o, 0, "f", 4);
    rig_read_all(&n.rig, &o, MIB);
    rig_stored(&n.rig);
    msg.locator = &o.msg;
    msg.length = MIB;
    tarn_conn_pause(n.client->link.conn, true);
    for (unsigned i = 0; i < READS; i++)
        call_start(&calls[i], &n, TARN_RPC_read, &msg.base);
    rig_run_for(&n.rig, 2 * TARN_NS_PER_S);
    assert_in_range(tarn_buf_account_bytes(n.rig.worker->serving), 64 * MIB, 130 * MIB);
    cargs.loop = n.rig.loop;
    assert_int_equal(tarn_conn_pair(n.rig.loop, &a, &b), 0);
    tarn_rpc_server_serve(n.server, a, true);
    cargs.conn = b;
    assert_int_equal(tarn_rpc_client_new(&cargs, &other), 0);
    for (unsigned i = 0; i < 8; i++) {
        struct tarn_rpc_client *first = n.client;

        n.client = other;
        assert_int_equal(net_read(&n, &o, i * MIB, MIB), 0);
        n.client = first;
    }
    tarn_conn_pause(n.client->link.conn, false);
    for (unsigned i = 0; i < READS; i++) {
        rig_until(&n.rig, &calls[i].done, 1);
        assert_true(calls[i].rc == 0 || calls[i].rc == -TARN_E_BUSY);
        busy += calls[i].rc == -TARN_E_BUSY;
        call_fini(&calls[i]);
    }
    assert_in_range(busy, 100, READS - 100);
    assert_int_equal(net_read(&n, &o, 0, MIB), 0);
    tarn_rpc_client_stop(other, net_ended, &ended);
    rig_until(&n.rig, &ended, 1);
    tarn_rpc_client_free(&other);
    net_fini(&n);
    free(calls);
}

/* Two groups of an object that was replaced between their fetches, and nothing remembers the first
 * one's ETag: not half of each. */
static void parts_of_two_objects(void **state)
{
    static const enum srv_action late[] = {SRV_OK, SRV_SLOW_DOWN, SRV_SLOW_DOWN};
    static uint8_t bytes[8 * MIB];
    const struct srv_object first[] = {{"f", "elist", NULL, bytes, sizeof(bytes)}};
    const struct srv_object second[] = {{"f", "elist2", "ehead2", bytes, sizeof(bytes)}};
    struct tarn_ufs_version v = {.size_bytes = sizeof(bytes), .mtime_ns = 1795309323000000000};
    Tarn__Wire__ReadRequest msg = TARN__WIRE__READ_REQUEST__INIT;
    struct srv *s = srv_start(first, 1);
    struct call c;
    struct net n;
    struct obj o;

    (void)state;
    pattern_fill(4, 0, bytes, sizeof(bytes));
    net_init(&n, &(struct rig_args){0}, true);
    rig_open_s3(&n.rig, 0, s, "");
    (void)snprintf(v.etag, sizeof(v.etag), "elist");
    rig_obj(&n.rig, &o, 0, "f", 4, &v);
    srv_script(s, late, TARN_ARRAY_LEN(late));
    msg.locator = &o.msg;
    msg.offset = 3 * MIB;
    msg.length = 2 * MIB;
    call_start(&c, &n, TARN_RPC_read, &msg.base);
    while (n.rig.worker->counts.fetched_bytes < 4 * MIB)
        rig_run_for(&n.rig, TARN_NS_PER_MS);
    assert_int_equal(c.done, 0);
    srv_objects(s, second, 1);
    wetags_fini(n.rig.worker); /* as if many others had come since */
    rig_until(&n.rig, &c.done, 1);
    assert_int_equal(c.rc, -TARN_E_UFS_CHANGED);
    call_fini(&c);
    net_fini(&n);
    srv_stop(&s);
}

static void capability(struct net *n, const Tarn__Wire__CapabilityBody *body, const uint8_t *key,
                       int spoil)
{
    Tarn__Wire__CallMeta meta = TARN__WIRE__CALL_META__INIT;
    struct tarn_str cap = {0};

    tarn_cap_make(key, body, &cap);
    if (spoil >= 0)
        cap.p[(size_t)spoil % cap.len] ^= 1;
    meta.capability = (ProtobufCBinaryData){cap.len, (uint8_t *)cap.p};
    tarn_rpc_client_set_meta(n->client, &meta);
    tarn_str_fini(&cap);
}

static int net_free(struct net *n, struct obj *o)
{
    Tarn__Wire__FreeRequest msg = TARN__WIRE__FREE_REQUEST__INIT;
    /* the second one nobody has */
    ProtobufCBinaryData cids[2] = {{16, o->cid.b}, {16, n->rig.cap_key}};
    struct call c;
    int rc;

    msg.n_cids = 2;
    msg.cids = cids;
    rc = call(&c, n, TARN_RPC_free, &msg.base);
    call_fini(&c);
    return rc;
}

static void capabilities(void **state)
{
    Tarn__Wire__CapabilityBody body = TARN__WIRE__CAPABILITY_BODY__INIT;
    uint8_t other[32] = {1};
    uint32_t atts[1] = {1}, wrong[1] = {2};
    struct net n;
    struct obj o;

    (void)state;
    net_init(&n, &(struct rig_args){.quota = 64 * MIB}, false);
    rig_open_dir(&n.rig, 0);
    rig_put(&n.rig, "f", 4, 70000);
    rig_find(&n.rig, &o, 0, "f", 4);
    assert_int_equal(net_read(&n, &o, 0, 10), -TARN_E_CAP_BAD); /* absent */
    body.cluster_id = (char *)(uintptr_t)RIG_TEXT;
    body.principal = (char *)(uintptr_t) "p";
    body.expires_ns = INT64_MAX;
    capability(&n, &body, other, -1);
    assert_int_equal(net_read(&n, &o, 0, 10), -TARN_E_CAP_BAD);
    for (int i = 0; i < 40; i += 3) {
        capability(&n, &body, n.rig.cap_key, i);
        assert_int_not_equal(net_read(&n, &o, 0, 10), 0);
    }
    body.attachments = wrong;
    body.n_attachments = 1;
    capability(&n, &body, n.rig.cap_key, -1);
    assert_int_equal(net_read(&n, &o, 0, 10), -TARN_E_CAP_BAD);
    body.attachments = atts;
    body.expires_ns = 1;
    capability(&n, &body, n.rig.cap_key, -1);
    assert_int_equal(net_read(&n, &o, 0, 10), -TARN_E_CAP_EXPIRED);
    body.expires_ns = INT64_MAX;
    capability(&n, &body, n.rig.cap_key, -1);
    assert_int_equal(net_read(&n, &o, 0, 10), 0);
    body.n_attachments = 0;
    capability(&n, &body, n.rig.cap_key, -1);
    assert_int_equal(net_read(&n, &o, 0, 10), 0);
    assert_int_equal(net_free(&n, &o), -TARN_E_CAP_BAD); /* a reader's does not free */
    body.write = true;
    capability(&n, &body, n.rig.cap_key, -1);
    assert_int_equal(net_free(&n, &o), 0);
    net_fini(&n);
}

/* ---- fills ----------------------------------------------------------------------------------- */

static void fill_fields(struct call *c, unsigned i, uint32_t *status, uint64_t *cached,
                        uint64_t *fetched)
{
    const Tarn__Wire__FillResponse *resp = (const Tarn__Wire__FillResponse *)c->req.resp;

    assert_true(resp && i < resp->n_results);
    *status = resp->results[i]->status;
    *cached = resp->results[i]->cached;
    *fetched = resp->results[i]->fetched;
}

static void fills(void **state)
{
    Tarn__Wire__FillRequest msg = TARN__WIRE__FILL_REQUEST__INIT;
    Tarn__Wire__Locator *locs[3];
    struct obj a, b, gone;
    uint64_t cached, fetched;
    uint32_t status;
    struct call c;
    struct net n;

    (void)state;
    net_init(&n, &(struct rig_args){.quota = 128 * MIB}, true);
    rig_open_dir(&n.rig, 0);
    rig_put(&n.rig, "a", 1, 8 * MIB);
    rig_put(&n.rig, "b", 2, 9 * MIB + 1);
    rig_put(&n.rig, "gone", 3, 1000);
    rig_find(&n.rig, &a, 0, "a", 1);
    rig_find(&n.rig, &b, 0, "b", 2);
    rig_find(&n.rig, &gone, 0, "gone", 3);
    rig_put(&n.rig, "gone", 4, 2000);
    locs[0] = &a.msg;
    locs[1] = &gone.msg;
    locs[2] = &b.msg;
    msg.n_locators = 3;
    msg.locators = locs;
    for (int round = 0; round < 2; round++) {
        assert_int_equal(call(&c, &n, TARN_RPC_fill, &msg.base), 0);
        fill_fields(&c, 0, &status, &cached, &fetched);
        assert_int_equal(status, 0);
        assert_int_equal(cached, 8 * MIB);
        assert_int_equal(fetched, round ? 0 : 8 * MIB);
        fill_fields(&c, 1, &status, &cached, &fetched);
        assert_int_equal(status, TARN_E_UFS_CHANGED);
        assert_int_equal(fetched, 0);
        fill_fields(&c, 2, &status, &cached, &fetched);
        assert_int_equal(status, 0);
        assert_int_equal(cached, 9 * MIB + 1);
        call_fini(&c);
        msg.verify = true;
    }
    assert_int_equal(net_free(&n, &a), 0);
    msg.n_locators = 1;
    msg.offset = 4 * MIB;
    msg.length = 1;
    assert_int_equal(call(&c, &n, TARN_RPC_fill, &msg.base), 0);
    fill_fields(&c, 0, &status, &cached, &fetched);
    assert_int_equal(cached, 4 * MIB);
    call_fini(&c);
    msg.offset = UINT64_MAX; /* behind the end: nothing, not a wrapped range */
    msg.length = 2;
    assert_int_equal(call(&c, &n, TARN_RPC_fill, &msg.base), 0);
    fill_fields(&c, 0, &status, &cached, &fetched);
    assert_int_equal(status, 0);
    assert_int_equal(cached, 4 * MIB);
    call_fini(&c);
    net_fini(&n);
}

static void fill_without_room(void **state)
{
    Tarn__Wire__FillRequest msg = TARN__WIRE__FILL_REQUEST__INIT;
    Tarn__Wire__Locator *locs[1];
    uint64_t cached, fetched;
    uint32_t status;
    struct call c;
    struct net n;
    struct obj a;

    (void)state;
    net_init(&n, &(struct rig_args){.quota = 64 * MIB}, true);
    rig_open_dir(&n.rig, 0);
    rig_put(&n.rig, "a", 1, 8 * MIB);
    rig_find(&n.rig, &a, 0, "a", 1);
    locs[0] = &a.msg;
    msg.n_locators = 1;
    msg.locators = locs;
    tarn_fault_arm(TARN_FAULT_tier_reserve, 0, 100, -TARN_E_TIER_FULL);
    assert_int_equal(call(&c, &n, TARN_RPC_fill, &msg.base), 0);
    tarn_fault_reset();
    fill_fields(&c, 0, &status, &cached, &fetched);
    assert_int_equal(status, TARN_E_TIER_FULL);
    assert_int_equal(cached, 0);
    call_fini(&c);
    net_fini(&n);
}

/* What was cached on a disk that died meanwhile is not there. */
static void fill_on_a_dead_disk(void **state)
{
    Tarn__Wire__FillRequest msg = TARN__WIRE__FILL_REQUEST__INIT;
    Tarn__Wire__Locator *locs[1];
    uint64_t cached, fetched;
    struct tarn_tier_info info;
    uint32_t status;
    struct call c;
    struct net n;
    struct obj o[2];

    (void)state;
    net_init(&n, &(struct rig_args){.quota = 64 * MIB}, true);
    rig_open_dir(&n.rig, 0);
    rig_put(&n.rig, "a", 1, 5 * MIB);
    rig_put(&n.rig, "b", 2, 17 * MIB);
    rig_find(&n.rig, &o[0], 0, "a", 1);
    rig_find(&n.rig, &o[1], 0, "b", 2);
    msg.n_locators = 1;
    msg.locators = locs;
    for (unsigned i = 0; i < 4; i++) { /* a, then b on the disk that dies, then both once more */
        if (i == 1)
            tarn_fault_arm(TARN_FAULT_disk_write, 0, 100, -EIO);
        locs[0] = &o[i % 2].msg;
        assert_int_equal(call(&c, &n, TARN_RPC_fill, &msg.base), 0);
        fill_fields(&c, 0, &status, &cached, &fetched);
        call_fini(&c);
        assert_int_equal(status == 0, i == 0);
        assert_int_equal(cached, i == 0 ? 5 * MIB : 0);
    }
    tarn_fault_reset();
    tarn_tier_info(n.rig.tier, &info);
    assert_true(info.offline);
    assert_int_equal(rig_read(&n.rig, &o[0], 0, 1000), 0); /* the store has them */
    assert_int_equal(rig_read(&n.rig, &o[1], 9 * MIB, 1000), 0);
    net_fini(&n);
}

/* ---- frees under readers, ends -----------------------------------------------------------------
 */

static void free_under_readers(void **state)
{
    enum { N = 60 };
    struct op *ops = tarn_xcalloc(N, sizeof(*ops));
    struct net n;
    struct obj o;

    (void)state;
    net_init(&n, &(struct rig_args){.quota = 64 * MIB}, true);
    rig_open_dir(&n.rig, 0);
    rig_put(&n.rig, "f", 1, 16 * MIB);
    rig_find(&n.rig, &o, 0, "f", 1);
    for (unsigned round = 0; round < 10; round++) {
        for (unsigned i = 0; i < N; i++)
            op_start(&ops[i], &n.rig, &o, i * 250000, 250000, 0);
        assert_int_equal(net_free(&n, &o), 0);
        for (unsigned i = 0; i < N; i++) {
            rig_until(&n.rig, &ops[i].done, 1);
            assert_int_equal(ops[i].rc, 0);
            assert_false(ops[i].wrong);
        }
    }
    free(ops);
    net_fini(&n);
}

struct reader {
    pthread_t thread;
    struct net *net;
    struct obj *obj;
    _Atomic bool *stop;
    uint64_t hits, wrong;
};

static void *reader_run(void *arg)
{
    struct reader *rd = arg;
    struct rig *r = &rd->net->rig;
    uint8_t buf[5000];

    for (unsigned i = 0; !atomic_load(rd->stop); i++) {
        uint64_t off = tarn_hash_u64(i) % (16 * MIB - sizeof(buf));
        void *file = r->ops.open(r->ops.ctx, &rd->obj->cid, rd->obj->version.size);
        int64_t n = r->ops.try_read(r->ops.ctx, file, off, sizeof(buf), buf);

        rd->wrong += n > 0 && !pattern_same(rd->obj->seed, off, buf, (size_t)n);
        rd->hits += n > 0;
        r->ops.close(r->ops.ctx, file);
    }
    return NULL;
}

/* Reads in place on threads, while the loop reads and frees. */
static void threads_in_place(void **state)
{
    struct reader rds[3];
    _Atomic bool stop = false;
    uint64_t hits = 0;
    struct net n;
    struct obj o;

    (void)state;
    net_init(&n, &(struct rig_args){.quota = 64 * MIB}, true);
    rig_open_dir(&n.rig, 0);
    rig_put(&n.rig, "f", 1, 16 * MIB);
    rig_find(&n.rig, &o, 0, "f", 1);
    for (unsigned i = 0; i < 3; i++) {
        rds[i] = (struct reader){.net = &n, .obj = &o, .stop = &stop};
        assert_int_equal(pthread_create(&rds[i].thread, NULL, reader_run, &rds[i]), 0);
    }
    for (unsigned round = 0; round < 6; round++) {
        rig_read_all(&n.rig, &o, 1 << 20);
        rig_run_for(&n.rig, 20 * TARN_NS_PER_MS);
        assert_int_equal(net_free(&n, &o), 0);
    }
    atomic_store(&stop, true);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(pthread_join(rds[i].thread, NULL), 0);
        assert_int_equal(rds[i].wrong, 0);
        hits += rds[i].hits;
    }
    assert_true(hits > 0);
    net_fini(&n);
}

static void net_report_cancel(struct tarn_rpc_call *c)
{
    struct net *n = c->state;

    n->cancels++;
}

static void net_report(void *ctx, struct tarn_rpc_call *call)
{
    struct net *n = ctx;

    assert_in_range(n->reports, 0, 7);
    call->state = n;
    call->on_cancel = net_report_cancel;
    n->held[n->reports++] = call;
}

/* Every unit of a changed file fails: one report goes out, and stop does not wait for its answer.
 */
static void one_report_of_a_change(void **state)
{
    struct op ops[6];
    struct net n;
    struct obj o;
    uint64_t begun;

    (void)state;
    net_init(&n, &(struct rig_args){.quota = 64 * MIB}, true);
    tarn_worker_set_master(n.rig.worker, n.client);
    rig_open_dir(&n.rig, 0);
    rig_put(&n.rig, "f", 1, 24 * MIB);
    rig_find(&n.rig, &o, 0, "f", 1);
    rig_put(&n.rig, "f", 2, 23 * MIB);
    for (unsigned i = 0; i < 6; i++)
        op_start(&ops[i], &n.rig, &o, i * 4 * MIB, 100, 0);
    for (unsigned i = 0; i < 6; i++) {
        rig_until(&n.rig, &ops[i].done, 1);
        assert_int_equal(ops[i].rc, -TARN_E_UFS_CHANGED);
    }
    rig_until(&n.rig, &n.reports, 1);
    rig_run_for(&n.rig, 20 * TARN_NS_PER_MS);
    assert_int_equal(n.reports, 1);
    begun = tarn_loop_now_ns(n.rig.loop);
    tarn_worker_stop(n.rig.worker, net_stopped, &n.rig);
    rig_until(&n.rig, &n.rig.stopped, 1);
    assert_true(tarn_loop_now_ns(n.rig.loop) - begun < 10 * TARN_NS_PER_S); /* no timeout */
    net_fini(&n);
}

/* Calls that come after stop began are refused, and stop is told once. */
static void calls_after_stop(void **state)
{
    struct net n;
    struct obj o;

    (void)state;
    net_init(&n, &(struct rig_args){.quota = 64 * MIB}, true);
    rig_open_dir(&n.rig, 0);
    rig_put(&n.rig, "f", 1, 100000);
    rig_find(&n.rig, &o, 0, "f", 1);
    assert_int_equal(net_read(&n, &o, 0, 10), 0);
    rig_stored(&n.rig);
    tarn_worker_stop(n.rig.worker, net_stopped, &n.rig);
    assert_int_equal(net_free(&n, &o), -TARN_E_SHUTDOWN);
    assert_int_equal(net_read(&n, &o, 0, 10), -TARN_E_SHUTDOWN);
    rig_until(&n.rig, &n.rig.stopped, 1);
    rig_run_for(&n.rig, 10 * TARN_NS_PER_MS);
    assert_int_equal(n.rig.stopped, 1);
    net_fini(&n);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_with_sums),
        cmocka_unit_test(one_that_does_not_read),
        cmocka_unit_test(parts_of_two_objects),
        cmocka_unit_test(capabilities),
        cmocka_unit_test(fills),
        cmocka_unit_test(fill_without_room),
        cmocka_unit_test(fill_on_a_dead_disk),
        cmocka_unit_test(free_under_readers),
        cmocka_unit_test(one_report_of_a_change),
        cmocka_unit_test(calls_after_stop),
        cmocka_unit_test(threads_in_place),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
