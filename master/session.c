/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sessions: clients that hold names and attributes. Each has a lease, a capability for workers, and
 * a stream of numbered invalidations on its connection; a client that missed a number drops what it
 * trusts.
 */
#include "master/master_priv.h"

#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"

#define LEASE_MS    10000u
#define CAP_LIFE_NS (3600 * TARN_NS_PER_S)
#define INVAL_ITEMS 1024u

static struct msession *session_of(struct tarn_master *m, struct tarn_rpc_session *rpc)
{
    TARN_LIST_FOREACH(n, &m->sessions)
    {
        struct msession *s = TARN_LIST_ENTRY(n, struct msession, node);

        if (s->rpc == rpc)
            return s;
    }
    return NULL;
}

static void session_free(struct msession *s)
{
    tarn_list_del(&s->node);
    free(s->kind);
    free(s->mountpoint);
    free(s->host);
    free(s);
}

void tarn_master_session_gone(struct tarn_master *m, struct tarn_rpc_session *rpc)
{
    struct msession *s = session_of(m, rpc);

    mmembers_session_gone(m, rpc);
    if (!s)
        return;
    m->counts.sessions--;
    m->gone_reads[0] += s->local_bytes;
    m->gone_reads[1] += s->remote_bytes;
    m->gone_reads[2] += s->ufs_bytes;
    session_free(s);
}

void msession_free_all(struct tarn_master *m)
{
    while (!tarn_list_empty(&m->sessions))
        session_free(TARN_LIST_ENTRY(m->sessions.next, struct msession, node));
}

static void session_cap(struct tarn_master *m, const struct tarn_rpc_call *call, uint64_t session,
                        struct tarn_str *ret)
{
    Tarn__Wire__CapabilityBody body = TARN__WIRE__CAPABILITY_BODY__INIT;
    char principal[sizeof(call->principal.name)];

    memcpy(principal, call->principal.name, sizeof(principal));
    body.cluster_id = m->cluster_id;
    body.principal = principal;
    body.expires_ns = master_real_ns(m) + (int64_t)CAP_LIFE_NS;
    body.session = session;
    tarn_cap_make(m->cap_key, &body, ret);
}

static char *session_text(const char *s)
{
    return strndup(s ? s : "", 256);
}

static void session_open(void *ctx, struct tarn_rpc_call *call)
{
    struct tarn_master *m = ctx;
    const Tarn__Wire__SessionRequest *req = (const Tarn__Wire__SessionRequest *)call->request;
    Tarn__Wire__SessionResponse resp = TARN__WIRE__SESSION_RESPONSE__INIT;
    struct msession *s = session_of(m, call->session);
    struct tarn_str cap = {0};

    if (!call->session) { /* it went while the call waited */
        tarn_rpc_reply(call, -TARN_E_CONN_LOST, NULL, NULL, 0, 0);
        return;
    }
    if (!s) {
        s = tarn_xnew(struct msession);
        s->rpc = call->session;
        s->id = ++m->session_next;
        s->kind = session_text(req->kind);
        s->mountpoint = session_text(req->mountpoint);
        s->host = session_text(req->host);
        s->pid = req->pid;
        tarn_list_push(&m->sessions, &s->node);
        m->counts.sessions++;
    }
    session_cap(m, call, s->id, &cap);
    resp.session = s->id;
    resp.capability = (ProtobufCBinaryData){cap.len, (uint8_t *)cap.p};
    resp.lease_ms = LEASE_MS;
    resp.cluster_id = m->cluster_id;
    /* Inside one process nothing can be cut off: kernel caches may live as long as the names are
     * believed. */
    resp.kernel_trust_ms = call->principal.trusted ? UINT64_MAX : LEASE_MS;
    tarn_rpc_reply(call, 0, &resp.base, NULL, 0, 0);
    tarn_str_fini(&cap);
}

static void session_renew(void *ctx, struct tarn_rpc_call *call)
{
    struct tarn_master *m = ctx;
    const Tarn__Wire__RenewRequest *req = (const Tarn__Wire__RenewRequest *)call->request;
    Tarn__Wire__RenewResponse resp = TARN__WIRE__RENEW_RESPONSE__INIT;
    struct msession *s = session_of(m, call->session);
    struct tarn_str cap = {0};

    if (!s || s->id != req->session) {
        tarn_rpc_reply(call, -TARN_E_STALE, NULL, NULL, 0, 0);
        return;
    }
    s->passthrough_opens = req->passthrough_opens;
    for (size_t i = 0; i < req->n_reads; i++) {
        const Tarn__Wire__ReadCount *r = req->reads[i];

        if (strcmp(r->source, "local") == 0)
            s->local_bytes = r->bytes;
        else if (strcmp(r->source, "remote") == 0)
            s->remote_bytes = r->bytes;
        else if (strcmp(r->source, "ufs") == 0)
            s->ufs_bytes = r->bytes;
    }
    session_cap(m, call, s->id, &cap);
    resp.capability = (ProtobufCBinaryData){cap.len, (uint8_t *)cap.p};
    resp.seq = s->seq;
    tarn_rpc_reply(call, 0, &resp.base, NULL, 0, 0);
    tarn_str_fini(&cap);
}

void msession_handlers(struct tarn_master *m, struct tarn_rpc_server *srv)
{
    tarn_rpc_server_handle(srv, TARN_RPC_session_open, session_open, m);
    tarn_rpc_server_handle(srv, TARN_RPC_session_renew, session_renew, m);
}

static void session_push(struct tarn_master *m, Tarn__Wire__Invalidate *inv)
{
    TARN_LIST_FOREACH_SAFE(n, &m->sessions)
    {
        struct msession *s = TARN_LIST_ENTRY(n, struct msession, node);

        inv->seq = ++s->seq;
        (void)tarn_rpc_notify(s->rpc, TARN_RPC_invalidate,
                              &inv->base); /* a session that cannot take it is cut */
    }
}

void msession_invalidate(struct tarn_master *m, const struct tarn_core_change *changes,
                         size_t count)
{
    Tarn__Wire__InvalItem *items, **ptrs;

    if (tarn_list_empty(&m->sessions))
        return;
    items = tarn_xcalloc(INVAL_ITEMS, sizeof(*items));
    ptrs = tarn_xcalloc(INVAL_ITEMS, sizeof(Tarn__Wire__InvalItem *));
    for (size_t at = 0; at < count;) {
        Tarn__Wire__Invalidate inv = TARN__WIRE__INVALIDATE__INIT;
        size_t n = TARN_MIN(count - at, (size_t)INVAL_ITEMS);

        for (size_t i = 0; i < n; i++, at++) {
            tarn__wire__inval_item__init(&items[i]);
            ptrs[i] = &items[i];
            items[i].ino = changes[at].ino.v;
            items[i].parent = changes[at].parent.v;
            items[i].version = changes[at].version;
            if (changes[at].name)
                items[i].name =
                    (ProtobufCBinaryData){strlen(changes[at].name), (uint8_t *)changes[at].name};
        }
        inv.n_items = n;
        inv.items = ptrs;
        session_push(m, &inv);
    }
    free(items);
    free(ptrs);
}

void msession_everything(struct tarn_master *m)
{
    Tarn__Wire__Invalidate inv = TARN__WIRE__INVALIDATE__INIT;

    inv.everything = true;
    session_push(m, &inv);
}
