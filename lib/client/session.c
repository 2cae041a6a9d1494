/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The session: opened at the start and after each reconnect, renewed three times per lease (with
 * what was read since it began, for reports). A connection that broke may have lost invalidations:
 * everything that is believed is dropped, and the user is told so. A client without a local worker
 * is a command that ends soon: its stop tells first what was read since the last renewal.
 */
#include "lib/client/client_priv.h"

#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"
#include "lib/base/log.h"

#define LAST_WORD_NS TARN_NS_PER_S

static void session_everything(struct tarn_client *c)
{
    Tarn__Wire__Invalidate inv = TARN__WIRE__INVALIDATE__INIT;

    client_cache_clear(c->cache);
    inv.everything = true;
    if (c->args.on_invalidate)
        c->args.on_invalidate(c->args.ctx, &inv);
}

void client_notice(void *ctx, uint32_t method, const ProtobufCMessage *msg)
{
    struct tarn_client *c = ctx;
    const Tarn__Wire__Invalidate *inv = (const Tarn__Wire__Invalidate *)msg;

    if (method != TARN_RPC_invalidate)
        return;
    if ((c->have_seq && inv->seq != c->seq + 1) || inv->everything) {
        tarn_warn("client",
                  "invalidations were missed (seq=%llu after %llu): everything is asked again",
                  (unsigned long long)inv->seq, (unsigned long long)c->seq);
        session_everything(c);
    }
    c->have_seq = true;
    c->seq = inv->seq;
    for (size_t i = 0; i < inv->n_items; i++) {
        const Tarn__Wire__InvalItem *it = inv->items[i];

        if (it->name.len > 0 && it->name.len <= TARN_NAME_MAX)
            client_cache_drop(c->cache, (tarn_ino_t){it->parent}, (const char *)it->name.data,
                              it->name.len);
    }
    if (c->args.on_invalidate)
        c->args.on_invalidate(c->args.ctx, inv);
}

static void session_renew_later(struct tarn_client *c);
static void session_end(struct tarn_client *c);

static void session_renewed(struct tarn_rpc_req *req, int rc)
{
    struct tarn_client *c = req->arg;
    const Tarn__Wire__RenewResponse *resp = (const Tarn__Wire__RenewResponse *)req->resp;

    c->session_busy = false;
    if (rc == 0)
        memcpy(c->told, c->telling, sizeof(c->told));
    if (c->stopping) {
        session_end(c);
        return;
    }
    if (rc == 0) {
        client_meta(c, resp->capability);
        if (c->have_seq && resp->seq > c->seq) { /* the connection keeps order: a gap is a loss */
            session_everything(c);
            c->seq = resp->seq;
        }
        if (!c->have_seq) { /* none came yet: from here on none may be missing */
            c->have_seq = true;
            c->seq = resp->seq;
        }
        session_renew_later(c);
    } else if (rc == -TARN_E_STALE || rc == -TARN_E_CAP_EXPIRED) {
        session_everything(c);
        client_session_start(c);
    } else {
        session_renew_later(c);
    }
}

static void session_reads(struct tarn_client *c, uint64_t ret[CLIENT_SOURCES])
{
    ret[0] = atomic_load(&c->local_bytes);
    ret[1] = atomic_load(&c->remote_bytes);
    ret[2] = atomic_load(&c->ufs_bytes);
}

static void session_tell(struct tarn_client *c, uint64_t timeout_ns, bool no_retry)
{
    Tarn__Wire__RenewRequest msg = TARN__WIRE__RENEW_REQUEST__INIT;
    static const char *const names[CLIENT_SOURCES] = {"local", "remote", "ufs"};
    Tarn__Wire__ReadCount rows[CLIENT_SOURCES], *reads[CLIENT_SOURCES];

    session_reads(c, c->telling);
    for (unsigned i = 0; i < CLIENT_SOURCES; i++) {
        tarn__wire__read_count__init(&rows[i]);
        rows[i].source = tarn_wire_text(names[i]);
        rows[i].bytes = c->telling[i] - c->base[i];
        reads[i] = &rows[i];
    }
    msg.session = c->session;
    msg.seq = c->seq;
    msg.n_reads = CLIENT_SOURCES;
    msg.reads = reads;
    msg.passthrough_opens = atomic_load(&c->lent_opens);
    c->session_busy = true;
    tarn_rpc_req_fini(&c->session_req); /* this may be its callback */
    c->session_req = (struct tarn_rpc_req){.method = TARN_RPC_session_renew,
                                           .msg = &msg.base,
                                           .cb = session_renewed,
                                           .arg = c,
                                           .timeout_ns = timeout_ns,
                                           .no_retry = no_retry};
    tarn_rpc_start(c->rpc, &c->session_req);
}

static void session_renew(struct tarn_timer *t, void *arg)
{
    struct tarn_client *c = arg;

    (void)t; /* c's */
    if (!c->session_busy && !c->stopping)
        session_tell(c, c->lease_ms * TARN_NS_PER_MS, false);
}

static void session_renew_later(struct tarn_client *c)
{
    /* Often enough that `status` is a second old at most inside one process; a third of the lease
     * elsewhere. */
    uint64_t every = c->local.open ? TARN_NS_PER_S : c->lease_ms * TARN_NS_PER_MS / 3;

    tarn_timer_start(c->args.loop, &c->renew_timer, every, session_renew, c);
}

static void session_opened(struct tarn_rpc_req *req, int rc)
{
    struct tarn_client *c = req->arg;
    const Tarn__Wire__SessionResponse *resp = (const Tarn__Wire__SessionResponse *)req->resp;
    void (*cb)(void *, int) = c->connect_cb;

    c->session_busy = false;
    if (rc == 0) {
        c->connected = true;
        memcpy(c->base, c->told, sizeof(c->base));
        c->session = resp->session;
        c->lease_ms = TARN_MAX(resp->lease_ms, (uint64_t)100);
        c->have_seq = false;
        if (c->connected_once) /* of what was answered before it, nobody would tell the end */
            session_everything(c);
        c->connected_once = true;
        atomic_store(&c->kernel_trust_ns, resp->kernel_trust_ms >= UINT64_MAX / TARN_NS_PER_MS
                                              ? UINT64_MAX
                                              : resp->kernel_trust_ms * TARN_NS_PER_MS);
        client_meta(c, resp->capability);
        if (!c->stopping)
            session_renew_later(c);
    } else if (!cb && !c->stopping) {
        tarn_warn_limited("client", "no session: %s", tarn_strerror(rc));
        session_renew_later(c);
    }
    c->connect_cb = NULL;
    if (cb)
        cb(c->connect_arg, rc);
    if (c->stopping)
        session_end(c);
}

void client_session_start(struct tarn_client *c)
{
    Tarn__Wire__SessionRequest msg = TARN__WIRE__SESSION_REQUEST__INIT;
    char host[256] = "";

    if (c->session_busy || c->stopping)
        return;
    (void)gethostname(host, sizeof(host) - 1); /* only shown */
    msg.kind = c->kind;
    msg.mountpoint = c->mountpoint;
    msg.host = host;
    msg.pid = (uint64_t)getpid();
    c->session_busy = true;
    tarn_rpc_req_fini(&c->session_req); /* this may be its callback */
    c->session_req = (struct tarn_rpc_req){
        .method = TARN_RPC_session_open, .msg = &msg.base, .cb = session_opened, .arg = c};
    if (c->connect_cb) { /* somebody waits to hear whether there is a server at all */
        c->session_req.timeout_ns = c->connect_timeout_ns;
        c->session_req.no_retry = true;
    }
    tarn_rpc_start(c->rpc, &c->session_req);
}

/* Of a stop, once no call of the session is under way: tells what is untold, then disconnects. */
static void session_end(struct tarn_client *c)
{
    uint64_t reads[CLIENT_SOURCES];

    if (c->disconnecting)
        return;
    session_reads(c, reads);
    if (c->connected && !c->last_told && !c->local.open &&
        memcmp(reads, c->told, sizeof(reads)) != 0) {
        c->last_told = true;
        session_tell(c, LAST_WORD_NS, true);
        return;
    }
    c->disconnecting = true;
    tarn_rpc_client_stop(c->rpc, c->stopped, c->stopped_arg);
}

void client_session_stop(struct tarn_client *c)
{
    tarn_timer_stop(&c->renew_timer);
    if (c->session_busy && c->connected && !c->local.open)
        tarn_rpc_cancel(&c->session_req); /* its callback goes on from here */
    else
        session_end(c);
}

void client_state(void *ctx, bool connected, int rc)
{
    struct tarn_client *c = ctx;

    (void)rc; /* the requests' own callbacks report it */
    if (!c->connected_once || c->stopping)
        return;
    c->connected = false; /* until the next session */
    if (!connected) {
        session_everything(c);
        return;
    }
    client_session_start(c);
}
