/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The client's life and its metadata calls. A call is posted to the loop, encoded, sent; its answer
 * fills the name cache before the caller is told, unless something was invalidated while it was
 * under way.
 */
#include "lib/client/client_priv.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"
#include "lib/base/limits.h"
#include "lib/base/log.h"

#define CLIENT_CACHE_ENTRIES 262144u
#define CLIENT_AHEAD_BYTES   (64u << 20)

int tarn_client_new(const struct tarn_client_args *args, struct tarn_client **ret)
{
    struct tarn_client *c = tarn_xnew(struct tarn_client);
    struct tarn_rpc_client_args rpc = {.loop = args->loop,
                                       .rng = args->rng,
                                       .addrs = args->addrs,
                                       .conn = args->conn,
                                       .token = args->token,
                                       .token_len = args->token_len,
                                       .default_timeout_ns = args->timeout_ns,
                                       .lost_timeout_ns = args->lost_timeout_ns,
                                       .ctx = c,
                                       .on_notice = client_notice,
                                       .on_state = client_state};
    struct tarn_peers_args peers = {.loop = args->loop,
                                    .rng = args->rng,
                                    .token = args->token,
                                    .token_len = args->token_len,
                                    .timeout_ns = args->timeout_ns,
                                    .host = args->host};
    int rc;

    c->args = *args;
    c->kind = tarn_xstrdup(args->kind);
    c->mountpoint = tarn_xstrdup(args->mountpoint ? args->mountpoint : "");
    if (args->local)
        c->local = *args->local;
    if (args->direct)
        c->direct = *args->direct;
    tarn_list_init(&c->fetches);
    tarn_list_init(&c->reports);
    tarn_list_init(&c->windows);
    c->ahead_max = args->readahead_bytes ? args->readahead_bytes : CLIENT_AHEAD_BYTES;
    c->cache = client_cache_new(args->cache_entries ? args->cache_entries : CLIENT_CACHE_ENTRIES);
    rc = tarn_rpc_client_new(&rpc, &c->rpc);
    if (rc < 0) {
        client_cache_free(&c->cache);
        free(c->kind);
        free(c->mountpoint);
        free(c);
        return rc;
    }
    atomic_init(&c->lease_until_ns, UINT64_MAX);
    c->slept_ns = client_slept_ns();
    c->peers = tarn_peers_new(&peers);
    *ret = c;
    return 0;
}

void tarn_client_connect(struct tarn_client *c, uint64_t timeout_ns, void (*cb)(void *arg, int rc),
                         void *arg)
{
    TARN_ASSERT(!c->connect_cb && !c->session_busy);
    c->connect_cb = cb;
    c->connect_arg = arg;
    c->connect_timeout_ns = timeout_ns;
    client_session_start(c);
}

/* ---- the end: session and master, then workers, then what fetches have left ------------------
 */

static void client_stop_run(struct tarn_task *t)
{
    struct tarn_client *c = TARN_CONTAINER(t, struct tarn_client, stop_task);

    c->user_stopped(c->user_stopped_arg); /* may free the client */
}

void client_stop_settle(struct tarn_client *c)
{
    if (!c->rpc_stopped || !c->peers_stopped || c->fetch_count > 0 || c->stop_posted)
        return;
    c->stop_posted = true;
    tarn_loop_post(c->args.loop, &c->stop_task, client_stop_run);
}

static void client_peers_stopped(void *arg)
{
    struct tarn_client *c = arg;

    c->peers_stopped = true;
    client_stop_settle(c);
}

static void client_rpc_stopped(void *arg)
{
    struct tarn_client *c = arg;

    c->rpc_stopped = true;
    client_fetch_end_all(c);
    tarn_peers_stop(c->peers, client_peers_stopped, c);
}

void tarn_client_stop(struct tarn_client *c, void (*done)(void *arg), void *arg)
{
    c->stopping = true;
    c->user_stopped = done;
    c->user_stopped_arg = arg;
    c->stopped = client_rpc_stopped;
    c->stopped_arg = c;
    client_session_stop(c);
}

void tarn_client_free(struct tarn_client **pc)
{
    struct tarn_client *c = *pc;

    if (!c)
        return;
    TARN_ASSERT(c->fetch_count == 0 && c->report_count == 0);
    tarn_peers_free(&c->peers);
    tarn_rpc_client_free(&c->rpc);
    client_cache_free(&c->cache);
    free(c->kind);
    free(c->mountpoint);
    free(c);
    *pc = NULL;
}

struct tarn_rpc_client *tarn_client_rpc(struct tarn_client *c)
{
    return c->rpc;
}

struct tarn_loop *tarn_client_loop(struct tarn_client *c)
{
    return c->args.loop;
}

uint64_t tarn_client_kernel_trust_ns(const struct tarn_client *c)
{
    uint64_t most = atomic_load(&c->kernel_trust_ns), until = atomic_load(&c->lease_until_ns);
    uint64_t now;

    if (until == UINT64_MAX)
        return most;
    now = client_lease_clock(); /* what is believed when cut off is looked at again soon */
    return TARN_MIN(most, until > now ? until - now : TARN_NS_PER_S);
}

void tarn_client_counts(struct tarn_client *c, struct tarn_client_counts *ret)
{
    ret->local_bytes = atomic_load(&c->local_bytes);
    ret->local_reads = atomic_load(&c->local_reads);
    ret->remote_bytes = atomic_load(&c->remote_bytes);
    ret->ufs_bytes = atomic_load(&c->ufs_bytes);
    ret->ahead_bytes = atomic_load(&c->ahead_bytes);
    ret->hedges = atomic_load(&c->hedges);
}

void client_count(struct tarn_client *c, enum client_source source, uint64_t bytes)
{
    _Atomic uint64_t *const counts[CLIENT_SOURCES] = {&c->local_bytes, &c->remote_bytes,
                                                      &c->ufs_bytes};

    atomic_fetch_add_explicit(counts[source], bytes, memory_order_relaxed);
}

void client_meta(struct tarn_client *c, ProtobufCBinaryData capability)
{
    Tarn__Wire__CallMeta meta = TARN__WIRE__CALL_META__INIT;

    meta.uid = (uint32_t)getuid();
    meta.gid = (uint32_t)getgid();
    meta.capability = capability;
    tarn_rpc_client_set_meta(c->rpc, &meta);
    tarn_peers_set_meta(c->peers, &meta);
    c->meta_gen++;
}

void client_topology(struct tarn_client *c, const Tarn__Wire__Topology *t)
{
    struct tarn_place *now = tarn_peers_place(c->peers), *place = NULL;
    int rc;

    if (!t || c->stopping)
        return;
    if (now && c->place_session == c->session && t->version <= tarn_place_version(now))
        return;
    rc = tarn_place_new(t, &place);
    if (rc < 0) {
        tarn_warn_limited("client", "a topology of %zu workers is not used: %s", t->n_workers,
                          tarn_strerror(rc));
        return;
    }
    c->place_session = c->session;
    tarn_peers_set_cluster(c->peers, tarn_rpc_client_cluster_id(c->rpc));
    tarn_peers_set_place(c->peers, place);
    tarn_place_unref(&place);
}

uint64_t client_topology_version(const struct tarn_client *c)
{
    const struct tarn_place *place = tarn_peers_place(c->peers);

    return place ? tarn_place_version(place) : 0;
}

enum tarn_cached tarn_client_cached(struct tarn_client *c, tarn_ino_t parent, const char *name,
                                    size_t len, struct tarn_attr *ret_attr, uint64_t *ret_until_ns)
{
    uint64_t now = tarn_now_ns();
    enum tarn_cached known;

    if (!tarn_client_cut_off(c))
        return client_cache_get(c->cache, parent, name, len, now, ret_attr, ret_until_ns);
    known = client_cache_get(c->cache, parent, name, len, 0, ret_attr, ret_until_ns);
    if (known == TARN_CACHED_MISS || !tarn_client_trusts(c, *ret_until_ns))
        return TARN_CACHED_MISS;
    *ret_until_ns = TARN_MAX(*ret_until_ns, now + TARN_NS_PER_S);
    if (known == TARN_CACHED_HIT)
        ret_attr->trust_until_ns = *ret_until_ns;
    return known;
}

static uint64_t client_until(uint64_t now_ns, uint64_t trust_ms)
{
    return trust_ms >= (UINT64_MAX - now_ns) / TARN_NS_PER_MS ? UINT64_MAX
                                                              : now_ns + trust_ms * TARN_NS_PER_MS;
}

int tarn_client_attr_decode(const Tarn__Wire__Attr *w, uint64_t now_ns, struct tarn_attr *ret)
{
    if (!w || w->ino == 0 || w->type < TARN_TYPE_FILE || w->type > TARN_TYPE_SYMLINK ||
        w->size > TARN_FILE_MAX || (w->cid.len != 0 && w->cid.len != sizeof(ret->cid.b)))
        return -TARN_E_MSG_BAD;
    *ret = (struct tarn_attr){.ino = {w->ino},
                              .parent = {w->parent},
                              .version = w->version,
                              .size_bytes = w->size,
                              .mtime_ns = w->mtime_ns,
                              .ctime_ns = w->ctime_ns,
                              .type = w->type,
                              .mode = w->mode & 07777,
                              .uid = w->uid,
                              .gid = w->gid,
                              .nlink = w->nlink,
                              .trust_until_ns = client_until(now_ns, w->trust_ms)};
    if (w->cid.len)
        memcpy(ret->cid.b, w->cid.data, sizeof(ret->cid.b));
    if (ret->type == TARN_TYPE_FILE && ret->size_bytes > 0 && w->cid.len == 0)
        return -TARN_E_MSG_BAD;
    return 0;
}

/* ---- calls
 * ---------------------------------------------------------------------------------------------------------
 */

static int client_take_lookup(struct tarn_client_op *op, int rc, uint64_t now)
{
    const Tarn__Wire__LookupResponse *resp = (const Tarn__Wire__LookupResponse *)op->rpc.resp;

    if (rc == 0) {
        rc = resp ? tarn_client_attr_decode(resp->attr, now, &op->attr) : -TARN_E_MSG_BAD;
        if (rc == 0)
            client_cache_put(op->client->cache, op->ino, op->name, op->name_len, &op->attr,
                             op->attr.trust_until_ns, op->cookie);
    } else if (rc == -TARN_E_NO_ENTRY && resp) {
        op->until_ns = client_until(now, resp->negative_trust_ms);
        client_cache_put(op->client->cache, op->ino, op->name, op->name_len, NULL, op->until_ns,
                         op->cookie);
    }
    return rc;
}

static int client_take_readdir(struct tarn_client_op *op, uint64_t now, uint64_t gen)
{
    const Tarn__Wire__ReaddirResponse *resp = (const Tarn__Wire__ReaddirResponse *)op->rpc.resp;

    for (size_t i = 0; i < resp->n_entries; i++) {
        const Tarn__Wire__Dirent *d = resp->entries[i];
        struct tarn_attr attr;

        if (!tarn_name_ok((const char *)d->name.data, d->name.len) ||
            tarn_client_attr_decode(d->attr, now, &attr) < 0)
            return -TARN_E_MSG_BAD;
        client_cache_put(op->client->cache, op->ino, (const char *)d->name.data, d->name.len, &attr,
                         attr.trust_until_ns, gen);
    }
    return 0;
}

/* Trust counts from when the question was sent: its answer may have been long under way. */
static int client_take(struct tarn_client_op *op, int rc)
{
    uint64_t now = op->sent_ns;

    if (op->kind == TARN_CLIENT_LOOKUP)
        return client_take_lookup(op, rc, now);
    if (rc < 0)
        return rc;
    if (!op->rpc.resp)
        return -TARN_E_MSG_BAD;
    switch (op->kind) {
    case TARN_CLIENT_GETATTR:
        return tarn_client_attr_decode(((const Tarn__Wire__GetattrResponse *)op->rpc.resp)->attr,
                                       now, &op->attr);
    case TARN_CLIENT_RESOLVE:
        return tarn_client_attr_decode(((const Tarn__Wire__ResolveResponse *)op->rpc.resp)->attr,
                                       now, &op->attr);
    case TARN_CLIENT_READDIR:
        return client_take_readdir(op, now, op->version);
    case TARN_CLIENT_LOCATE:
        return tarn_client_attr_decode(((const Tarn__Wire__LocateResponse *)op->rpc.resp)->attr,
                                       now, &op->attr);
    case TARN_CLIENT_READLINK:
    case TARN_CLIENT_WHERE:
    case TARN_CLIENT_LOOKUP:
        break;
    }
    return 0;
}

static bool client_gives_message(enum tarn_client_kind kind)
{
    return kind == TARN_CLIENT_READDIR || kind == TARN_CLIENT_READLINK ||
           kind == TARN_CLIENT_LOCATE || kind == TARN_CLIENT_WHERE;
}

static void client_answered(struct tarn_rpc_req *req, int rc)
{
    struct tarn_client_op *op = req->arg;

    rc = client_take(op, rc);
    if (rc == 0 && client_gives_message(op->kind)) {
        op->resp = req->resp;
        req->resp = NULL;
    }
    tarn_rpc_req_fini(req); /* the callback may free op */
    op->cb(op, rc);
}

static void client_run(struct tarn_task *t)
{
    struct tarn_client_op *op = TARN_CONTAINER(t, struct tarn_client_op, task);
    Tarn__Wire__LookupRequest lookup = TARN__WIRE__LOOKUP_REQUEST__INIT;
    Tarn__Wire__GetattrRequest getattr = TARN__WIRE__GETATTR_REQUEST__INIT;
    Tarn__Wire__ReaddirRequest readdir = TARN__WIRE__READDIR_REQUEST__INIT;
    Tarn__Wire__ReadlinkRequest readlink = TARN__WIRE__READLINK_REQUEST__INIT;
    Tarn__Wire__ResolveRequest resolve = TARN__WIRE__RESOLVE_REQUEST__INIT;
    Tarn__Wire__LocateRequest locate = TARN__WIRE__LOCATE_REQUEST__INIT;
    Tarn__Wire__WhereRequest where = TARN__WIRE__WHERE_REQUEST__INIT;
    struct tarn_rpc_req *req = &op->rpc;

    if (op->cancelled || (op->kind == TARN_CLIENT_LOOKUP && op->name_len > TARN_NAME_MAX)) {
        op->cb(op, op->cancelled ? -TARN_E_CANCELLED : -TARN_E_NAME_TOO_LONG);
        return;
    }
    if (tarn_client_cut_off(op->client)) {
        op->cb(op, -TARN_E_LEASE_ENDED);
        return;
    }
    op->sent = true;
    op->sent_ns = tarn_now_ns();
    *req = (struct tarn_rpc_req){.cb = client_answered, .arg = op};
    switch (op->kind) {
    case TARN_CLIENT_LOOKUP:
        op->cookie = client_cache_gen(op->client->cache);
        lookup.parent = op->ino.v;
        lookup.name = tarn_wire_bytes(op->name, op->name_len);
        lookup.fresh = op->fresh;
        req->method = TARN_RPC_lookup;
        req->msg = &lookup.base;
        break;
    case TARN_CLIENT_GETATTR:
        getattr.ino = op->ino.v;
        getattr.fresh = op->fresh;
        req->method = TARN_RPC_getattr;
        req->msg = &getattr.base;
        break;
    case TARN_CLIENT_READDIR:
        op->version = client_cache_gen(op->client->cache);
        readdir.ino = op->ino.v;
        readdir.cookie = op->cookie;
        readdir.max_entries = op->max;
        readdir.attrs = true;
        req->method = TARN_RPC_readdir;
        req->msg = &readdir.base;
        break;
    case TARN_CLIENT_READLINK:
        readlink.ino = op->ino.v;
        req->method = TARN_RPC_readlink;
        req->msg = &readlink.base;
        break;
    case TARN_CLIENT_RESOLVE:
        resolve.path = tarn_wire_bytes(op->name, op->name_len);
        req->method = TARN_RPC_resolve;
        req->msg = &resolve.base;
        break;
    case TARN_CLIENT_LOCATE:
        locate.ino = op->ino.v;
        locate.version = op->version;
        req->method = TARN_RPC_locate;
        req->msg = &locate.base;
        break;
    case TARN_CLIENT_WHERE:
        where.ino = op->ino.v;
        where.version = op->version;
        req->method = TARN_RPC_where;
        req->msg = &where.base;
        break;
    }
    tarn_rpc_start(op->client->rpc, req);
}

void tarn_client_start(struct tarn_client *c, struct tarn_client_op *op)
{
    op->client = c;
    op->resp = NULL;
    op->until_ns = 0;
    op->sent = false;
    op->cancelled = false;
    tarn_loop_post(c->args.loop, &op->task, client_run);
}

void tarn_client_cancel(struct tarn_client_op *op)
{
    op->cancelled = true;
    if (op->sent) /* else client_run sees it */
        tarn_rpc_cancel(&op->rpc);
}

struct client_sync {
    struct tarn_loop *loop;
    bool done;
    int rc;
};

static void client_sync_done(struct tarn_client_op *op, int rc)
{
    struct client_sync *s = op->arg;

    s->done = true;
    s->rc = rc;
    tarn_loop_stop(s->loop);
}

int tarn_client_sync(struct tarn_client *c, struct tarn_client_op *op)
{
    struct client_sync s = {.loop = c->args.loop};

    op->cb = client_sync_done;
    op->arg = &s;
    tarn_client_start(c, op);
    while (!s.done)
        tarn_loop_run(c->args.loop);
    return s.rc;
}
