/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/master/svc/peers.h"

#include <stdlib.h>
#include <string.h>

uint8_t peers_body[64];
const struct srv_object peers_before[PEERS_OBJECTS] = {
    {"d/one", "e1", NULL, peers_body, 1},
    {"d/two", "e2", NULL, peers_body, 2},
    {"f", "ef", NULL, peers_body, 10},
    {"g", "eg", NULL, peers_body, 11},
};
const struct srv_object peers_after[PEERS_OBJECTS] = {
    {"d/one", "e1", NULL, peers_body, 1},
    {"d/two", "e2b", NULL, peers_body, 22},
    {"f", "ef2", NULL, peers_body, 20},
    {"g", "eg", NULL, peers_body, 11},
};

static void peer_notice(void *ctx, uint32_t method, const ProtobufCMessage *msg)
{
    const Tarn__Wire__Invalidate *inv = (const Tarn__Wire__Invalidate *)msg;
    struct peer *p = ctx;

    if (method != TARN_RPC_invalidate)
        return;
    assert_int_equal(inv->seq, p->seq + 1); /* none is lost on one connection */
    p->seq = inv->seq;
    if (inv->index) {
        assert_true(inv->index >= p->index);
        p->index = inv->index;
    }
    p->everything += inv->everything;
    for (size_t i = 0; i < inv->n_items; i++)
        p->inos[p->items++ % PEERS_ITEMS] = inv->items[i]->ino;
    p->ack_wanted |= inv->ack;
}

void peer_connect(struct mfx *fx, struct peer *p, const char *addr)
{
    struct tarn_rpc_client_args args = {.loop = fx->loop,
                                        .rng = tarn_rng_system(),
                                        .addrs = addr,
                                        .ctx = p,
                                        .on_notice = peer_notice};

    p->fx = fx;
    assert_int_equal(tarn_rpc_client_new(&args, &p->rpc), 0);
}

void peer_cut(struct peer *p)
{
    tarn_rpc_client_stop(p->rpc, mfx_done, p->fx);
    mfx_wait(p->fx);
    tarn_rpc_client_free(&p->rpc);
}

void peer_begin(struct peer *p, struct mfx_op *op, uint32_t method, const ProtobufCMessage *msg)
{
    struct tarn_rpc_client *own = p->fx->client;

    p->fx->client = p->rpc;
    mfx_begin(p->fx, op, method, msg, 20000);
    p->fx->client = own;
}

void peer_open(struct peer *p)
{
    Tarn__Wire__SessionRequest msg = TARN__WIRE__SESSION_REQUEST__INIT;
    const Tarn__Wire__SessionResponse *resp;
    struct mfx_op op;

    msg.kind = tarn_wire_text("mount");
    msg.resume = p->session;
    msg.seen = p->index;
    peer_begin(p, &op, TARN_RPC_session_open, &msg.base);
    assert_int_equal(mfx_end(&op), 0);
    resp = (const void *)op.req.resp;
    p->session = resp->session;
    p->resumed = resp->resumed;
    if (!resp->resumed)
        p->index = resp->index;
    mfx_op_fini(&op);
}

int peer_renew(struct peer *p)
{
    Tarn__Wire__RenewRequest msg = TARN__WIRE__RENEW_REQUEST__INIT;
    struct mfx_op op;
    int rc;

    msg.session = p->session;
    msg.seq = p->seq;
    p->ack_wanted = false;
    peer_begin(p, &op, TARN_RPC_session_renew, &msg.base);
    rc = mfx_end(&op);
    mfx_op_fini(&op);
    return rc;
}

void peer_begin_lookup(struct peer *p, struct mfx_op *op, uint64_t parent, const char *name)
{
    struct tarn_rpc_client *own = p->fx->client;

    p->fx->client = p->rpc;
    mfx_begin_lookup(p->fx, op, parent, name, 20000);
    p->fx->client = own;
}

void peer_begin_resolve(struct peer *p, struct mfx_op *op, const char *path)
{
    Tarn__Wire__ResolveRequest msg = TARN__WIRE__RESOLVE_REQUEST__INIT;

    msg.path = tarn_wire_bytes(path, strlen(path));
    peer_begin(p, op, TARN_RPC_resolve, &msg.base);
}

uint64_t peer_lookup_end(struct mfx_op *op, uint64_t *ret_ino)
{
    const Tarn__Wire__LookupResponse *resp;
    uint64_t size;

    assert_int_equal(mfx_end(op), 0);
    resp = (const void *)op->req.resp;
    size = resp->attr->size;
    if (ret_ino)
        *ret_ino = resp->attr->ino;
    mfx_op_fini(op);
    return size;
}

uint64_t peer_lookup(struct peer *p, uint64_t parent, const char *name, uint64_t *ret_ino)
{
    struct mfx_op op;

    peer_begin_lookup(p, &op, parent, name);
    return peer_lookup_end(&op, ret_ino);
}

const char *peers_listen(struct mfx *fx)
{
    const char *addr = NULL;

    assert_int_equal(tarn_rpc_server_listen(fx->server, "127.0.0.1:0", &addr), 0);
    return addr;
}

struct mfx *peers_start(const char **ret_addr)
{
    struct mfx *fx = mfx_new(peers_before, PEERS_OBJECTS);

    fx->cluster = true;
    fx->lease_ns = PEERS_LEASE;
    fx->ttl_ns = TARN_TTL_FOREVER;
    mfx_start(fx);
    mfx_script(fx, SRV_OK, 0);
    *ret_addr = peers_listen(fx);
    return fx;
}

struct msession *peers_session(struct mfx *fx, uint64_t id)
{
    TARN_LIST_FOREACH(n, &fx->master->sessions)
    {
        struct msession *s = TARN_LIST_ENTRY(n, struct msession, node);

        if (s->id == id)
            return s;
    }
    return NULL;
}

void peers_change(struct mfx *fx, uint64_t ino, uint64_t version)
{
    srv_objects(fx->srv, peers_after, PEERS_OBJECTS);
    assert_int_equal(mfx_report(fx, ino, version), 0);
}

uint64_t peers_version(struct mfx *fx, uint64_t ino)
{
    Tarn__Core__Inode *inode = NULL;
    uint64_t v;

    assert_int_equal(tarn_core_inode(fx->kv, (tarn_ino_t){ino}, &inode), 0);
    v = inode->version;
    tarn__core__inode__free_unpacked(inode, NULL);
    return v;
}

void peer_until_told(struct peer *p, unsigned items)
{
    for (unsigned i = 0; i < 500 && p->items < items; i++)
        mfx_run_ms(p->fx, 10);
    assert_int_equal(p->items, items);
}

uint64_t peers_untold(struct mfx *fx)
{
    uint64_t at;

    assert_int_equal(tarn_core_untold(fx->kv, &at), 0);
    return at;
}

void peers_until_all_told(struct mfx *fx)
{
    for (unsigned i = 0; i < 400 && peers_untold(fx); i++)
        mfx_run_ms(fx, 10);
    assert_int_equal(peers_untold(fx), 0);
    mfx_run_ms(fx, 20); /* the loop knows, too */
    assert_int_equal(fx->master->untold, 0);
}
