/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/worker/cluster_rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void cl_ended(void *arg)
{
    ++*(unsigned *)arg;
}

void cl_node_serve(struct cluster *c, unsigned i)
{
    struct tarn_rpc_server_args args = {
        .loop = c->loop, .rng = tarn_rng_system(), .cluster_id = RIG_TEXT};
    struct node *n = &c->nodes[i];

    assert_int_equal(tarn_rpc_server_new(&args, &n->server), 0);
    tarn_worker_serve(n->rig.worker, n->server);
    assert_int_equal(tarn_rpc_server_listen(n->server, "127.0.0.1:0", &n->addr), 0);
    tarn_worker_set_peers(n->rig.worker, n->peers);
    n->move = tarn_move_new(n->rig.worker, NULL, NULL);
    tarn_move_set_linger(n->move, CL_LINGER_NS);
}

static void node_start(struct cluster *c, struct node *n, uint64_t quota)
{
    struct tarn_peers_args pargs = {
        .loop = c->loop, .rng = tarn_rng_system(), .cluster_id = RIG_TEXT};
    struct rig_args args = {.quota = quota ? quota : 256 * MIB,
                            .fetch_max = c->fetch_max,
                            .loop = c->loop,
                            .disk = c->disk,
                            .id = (uint64_t)(n - c->nodes) + 1};

    rig_init(&n->rig, &args);
    rig_open_s3(&n->rig, 0, c->srv, ",timeout=5s,store-id=rig");
    n->peers = tarn_peers_new(&pargs);
    cl_node_serve(c, (unsigned)(n - c->nodes));
    n->state = TARN_WORKER_LIVE;
}

void cl_init(struct cluster *c, unsigned n, uint64_t size, uint64_t quota)
{
    cl_init_with(c, n, size, quota, 0);
}

void cl_init_with(struct cluster *c, unsigned n, uint64_t size, uint64_t quota, uint64_t fetch_max)
{
    *c = (struct cluster){.n = n, .version = 100, .fetch_max = fetch_max};
    assert_true(n <= NODES_MAX && size <= CL_SIZE_MAX);
    assert_int_equal(tarn_loop_new(&c->loop), 0);
    assert_int_equal(tarn_disk_pool_new(4, &c->disk), 0);
    c->body = tarn_xcalloc(1, size);
    pattern_fill(1, 0, c->body, size);
    for (unsigned i = 0; i < CL_OBJECTS; i++) {
        (void)snprintf(c->keys[i], sizeof(c->keys[i]), "k%02u", i);
        (void)snprintf(c->etags[i], sizeof(c->etags[i]), "e%u", i);
        c->objects[i] = (struct srv_object){
            .key = c->keys[i], .etag = c->etags[i], .body = c->body, .size = size};
    }
    c->srv = srv_start(c->objects, CL_OBJECTS);
    for (unsigned i = 0; i < n; i++)
        node_start(c, &c->nodes[i], quota);
}

void cl_stop_server(struct cluster *c, unsigned i)
{
    unsigned gone = 0;

    tarn_rpc_server_stop(c->nodes[i].server, cl_ended, &gone);
    turns_until(c->loop, &gone, 1);
    tarn_rpc_server_free(&c->nodes[i].server);
}

void cl_fini(struct cluster *c)
{
    for (unsigned i = 0; i < c->n; i++) {
        unsigned gone = 0;

        tarn_move_stop(c->nodes[i].move, cl_ended, &gone);
        turns_until(c->loop, &gone, 1);
        tarn_move_free(&c->nodes[i].move);
    }
    for (unsigned i = 0; i < c->n; i++) {
        struct rig *r = &c->nodes[i].rig;

        if (!r->worker->stopping)
            tarn_worker_stop(r->worker, cl_ended, &r->stopped);
    }
    for (unsigned i = 0; i < c->n; i++) {
        unsigned gone = 0;

        turns_until(c->loop, &c->nodes[i].rig.stopped, 1);
        tarn_peers_stop(c->nodes[i].peers, cl_ended, &gone);
        turns_until(c->loop, &gone, 1);
        tarn_peers_free(&c->nodes[i].peers);
        if (c->nodes[i].server)
            cl_stop_server(c, i);
    }
    for (unsigned i = 0; i < c->n; i++) {
        tarn_tier_check(c->nodes[i].rig.tier);
        rig_fini(&c->nodes[i].rig);
    }
    srv_stop(&c->srv);
    tarn_disk_free(&c->disk);
    tarn_loop_free(&c->loop);
    free(c->body);
}

void cl_topology(struct cluster *c, unsigned first, unsigned last)
{
    Tarn__Wire__Topology t = TARN__WIRE__TOPOLOGY__INIT;
    Tarn__Wire__Membership past = TARN__WIRE__MEMBERSHIP__INIT, *pasts[] = {&past};
    Tarn__Wire__WorkerInfo w[NODES_MAX], *ptrs[NODES_MAX];
    uint64_t ids[NODES_MAX];
    uint32_t weights[NODES_MAX];
    struct tarn_place *place;

    t.version = ++c->version;
    t.workers = ptrs;
    past.ids = ids;
    past.weights = weights;
    for (unsigned i = 0; i < c->n; i++) {
        const struct node *n = &c->nodes[i];

        if (n->was) {
            ids[past.n_ids++] = i + 1;
            weights[past.n_weights++] = 100;
        }
        if (!n->state)
            continue;
        tarn__wire__worker_info__init(&w[i]);
        w[i].id = i + 1;
        w[i].addr = tarn_wire_text(n->addr);
        w[i].weight = 100;
        w[i].state = n->state;
        w[i].alive = !n->dead;
        ptrs[t.n_workers++] = &w[i];
    }
    t.past = pasts;
    t.n_past = past.n_ids > 0;
    assert_int_equal(tarn_place_new(&t, &place), 0);
    for (unsigned i = first; i <= last; i++)
        tarn_peers_set_place(c->nodes[i].peers, place);
    tarn_place_unref(&place);
}

void cl_settled(struct cluster *c)
{
    for (unsigned i = 0; i < c->n; i++) {
        c->nodes[i].state = TARN_WORKER_LIVE;
        c->nodes[i].was = false;
    }
    cl_topology(c, 0, c->n - 1);
}

void cl_object(struct cluster *c, unsigned owner, unsigned k, struct obj *o)
{
    struct tarn_place *place = tarn_peers_place(c->nodes[0].peers);

    for (unsigned i = 0; i < CL_OBJECTS; i++) {
        const struct tarn_place_worker *w[TARN_PLACE_PICK_MAX];

        rig_find(&c->nodes[0].rig, o, 0, c->keys[i], 1);
        /* The locator points into the object. */
        o->msg.cid.data = o->cid.b;
        if (tarn_place_owners(place, &o->cid, 0, 1, w) == 1 && w[0]->id == owner + 1 && k-- == 0)
            return;
    }
    fail_msg("no object of worker %u: a matter of luck with %d of them", owner + 1, CL_OBJECTS);
}

unsigned cl_gets(struct cluster *c)
{
    struct srv_counts counts;
    unsigned gets = 0;

    srv_counts(c->srv, &counts);
    for (unsigned i = 0; i < counts.requests; i++)
        gets += strncmp(srv_line(c->srv, i), "GET ", 4) == 0;
    return gets;
}

void cl_forget(struct cluster *c)
{
    srv_script(c->srv, NULL, 0);
}

uint64_t cl_cached(struct cluster *c, unsigned i, struct obj *o)
{
    struct tarn_tier_file *f = tarn_tier_file_find(c->nodes[i].rig.tier, &o->cid);
    uint64_t bytes = f ? tarn_tier_file_cached(f) : 0;

    tarn_tier_file_put(&f);
    return bytes;
}

void cl_stored(struct cluster *c)
{
    for (unsigned i = 0; i < c->n; i++)
        rig_stored(&c->nodes[i].rig);
}

static void cl_called(struct tarn_rpc_req *req, int rc)
{
    struct cl_call *call = req->arg;
    ProtobufCMessage *resp = req->resp;
    struct tarn_buf *payload = req->resp_payload;

    req->resp = NULL;
    req->resp_payload = NULL;
    tarn_rpc_req_fini(req);
    req->resp = resp;
    req->resp_payload = payload;
    call->rc = rc;
    call->done++;
}

int cl_call(struct cluster *c, struct cl_call *call, unsigned to, const char *principal,
            uint32_t method, const ProtobufCMessage *msg, struct tarn_buf *payload)
{
    struct tarn_rpc_client_args args = {
        .loop = c->loop, .rng = tarn_rng_system(), .addrs = c->nodes[to].addr};
    Tarn__Wire__CapabilityBody body = TARN__WIRE__CAPABILITY_BODY__INIT;
    Tarn__Wire__CallMeta meta = TARN__WIRE__CALL_META__INIT;
    struct tarn_clock *clock = tarn_clock_system();
    struct tarn_str cap = {0};

    *call = (struct cl_call){0};
    assert_int_equal(tarn_rpc_client_new(&args, &call->client), 0);
    body.cluster_id = tarn_wire_text(RIG_TEXT);
    body.principal = tarn_wire_text(principal);
    body.write = true;
    body.expires_ns = clock->real_ns(clock) + (int64_t)(60 * TARN_NS_PER_S);
    tarn_cap_make(c->nodes[to].rig.cap_key, &body, &cap);
    meta.capability = tarn_wire_bytes(cap.p, cap.len);
    tarn_rpc_client_set_meta(call->client, &meta);
    tarn_str_fini(&cap);
    call->req = (struct tarn_rpc_req){
        .method = method, .msg = msg, .payload = payload, .no_retry = true, .cb = cl_called};
    call->req.arg = call;
    tarn_rpc_start(call->client, &call->req);
    turns_until(c->loop, &call->done, 1);
    return call->rc;
}

void cl_call_fini(struct cluster *c, struct cl_call *call)
{
    if (call->req.resp)
        protobuf_c_message_free_unpacked(call->req.resp, NULL);
    tarn_buf_unref(&call->req.resp_payload);
    tarn_rpc_client_stop(call->client, cl_ended, &call->gone);
    turns_until(c->loop, &call->gone, 1);
    tarn_rpc_client_free(&call->client);
}
