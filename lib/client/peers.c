/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections to workers. A peer is made when it is first asked for and ends when the topology no
 * longer names it at that address; one that ends is freed once its connection is gone. Whether it
 * answers is remembered beside the connection: `quiet_ns` is until when it is not asked if somebody
 * else can be.
 */
#include "lib/client/peers.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"
#include "lib/base/hash.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"

#define PEERS_TIMEOUT_NS  (30 * TARN_NS_PER_S)
#define PEER_CONNECT_NS   TARN_NS_PER_S
#define PEER_QUIET_NS     TARN_NS_PER_S
#define PEER_QUIET_MAX_NS (30 * TARN_NS_PER_S)
#define PEER_QUIET_SHIFTS 5u

struct peer {
    struct tarn_list node; /* in peers->all, or leaving */
    struct tarn_peers *peers;
    uint64_t id;
    char *addrs;                 /* as connected to; NULL: preset */
    struct tarn_rpc_client *rpc; /* NULL: not made yet */
    bool preset;                 /* rpc is somebody else's */
    unsigned failures;           /* in a row */
    uint64_t quiet_ns;           /* loop time until which it is left alone; 0: it answers */
};

struct tarn_peers {
    struct tarn_peers_args args;
    char *cluster_id;
    uint8_t *token;
    struct tarn_place *place;
    struct tarn_list all;     /* struct peer */
    struct tarn_list leaving; /* the same: their connections end */
    Tarn__Wire__CallMeta meta;
    uint8_t *capability; /* meta.capability */
    bool have_meta;
    char host[256]; /* ours */
    void (*stopped)(void *arg);
    void *stopped_arg;
    struct tarn_task stop_task;
};

struct tarn_peers *tarn_peers_new(const struct tarn_peers_args *args)
{
    struct tarn_peers *p = tarn_xnew(struct tarn_peers);

    p->args = *args;
    p->cluster_id = tarn_xstrdup(args->cluster_id ? args->cluster_id : "");
    if (args->token) {
        p->token = tarn_xcalloc(1, args->token_len);
        memcpy(p->token, args->token, args->token_len);
    }
    tarn_list_init(&p->all);
    tarn_list_init(&p->leaving);
    tarn__wire__call_meta__init(&p->meta);
    (void)gethostname(p->host, sizeof(p->host) - 1); /* "": no socket is used */
    return p;
}

static void peer_free(struct peer *w)
{
    tarn_list_del(&w->node);
    if (w->rpc && !w->preset)
        tarn_rpc_client_free(&w->rpc);
    free(w->addrs);
    free(w);
}

static void peers_stop_run(struct tarn_task *t)
{
    struct tarn_peers *p = TARN_CONTAINER(t, struct tarn_peers, stop_task);
    void (*stopped)(void *) = p->stopped;

    p->stopped = NULL;
    stopped(p->stopped_arg);
}

static void peers_settle(struct tarn_peers *p)
{
    if (p->stopped && tarn_list_empty(&p->leaving))
        tarn_loop_post(p->args.loop, &p->stop_task, peers_stop_run);
}

static void peer_left(void *arg)
{
    struct peer *w = arg;
    struct tarn_peers *p = w->peers;

    peer_free(w);
    peers_settle(p);
}

static void peer_leave(struct peer *w)
{
    tarn_list_del(&w->node);
    tarn_list_push(&w->peers->leaving, &w->node);
    if (!w->rpc || w->preset)
        peer_free(w);
    else
        tarn_rpc_client_stop(w->rpc, peer_left, w);
}

void tarn_peers_stop(struct tarn_peers *p, void (*done)(void *arg), void *arg)
{
    TARN_ASSERT(!p->stopped);
    while (!tarn_list_empty(&p->all))
        peer_leave(TARN_LIST_ENTRY(p->all.next, struct peer, node));
    p->stopped = done;
    p->stopped_arg = arg;
    peers_settle(p);
}

void tarn_peers_free(struct tarn_peers **pp)
{
    struct tarn_peers *p = *pp;

    *pp = NULL;
    if (!p)
        return;
    TARN_ASSERT(tarn_list_empty(&p->leaving));
    while (!tarn_list_empty(&p->all))
        peer_free(TARN_LIST_ENTRY(p->all.next, struct peer, node));
    tarn_place_unref(&p->place);
    if (p->token)
        tarn_wipe(p->token, p->args.token_len);
    free(p->token);
    free(p->capability);
    free(p->cluster_id);
    free(p);
}

static struct peer *peer_find(const struct tarn_peers *p, uint64_t id)
{
    TARN_LIST_FOREACH(n, &p->all)
    {
        struct peer *w = TARN_LIST_ENTRY(n, struct peer, node);

        if (w->id == id)
            return w;
    }
    return NULL;
}

static struct peer *peer_new(struct tarn_peers *p, uint64_t id)
{
    struct peer *w = tarn_xnew(struct peer);

    w->peers = p;
    w->id = id;
    tarn_list_push(&p->all, &w->node);
    return w;
}

void tarn_peers_preset(struct tarn_peers *p, uint64_t id, struct tarn_rpc_client *rpc)
{
    struct peer *w = peer_find(p, id);

    if (!w)
        w = peer_new(p, id);
    TARN_ASSERT(!w->rpc || w->preset);
    w->rpc = rpc;
    w->preset = true;
}

/* Where a worker is reached from here; NULL: nowhere. The caller frees it. */
static char *peer_addrs(const struct tarn_peers *p, const struct tarn_place_worker *w)
{
    if (w->socket[0] && p->host[0] && strcmp(w->host, p->host) == 0)
        return tarn_xasprintf("unix:%s,%s", w->socket, w->addr);
    return w->addr[0] ? tarn_xstrdup(w->addr) : NULL;
}

void tarn_peers_set_place(struct tarn_peers *p, struct tarn_place *place)
{
    struct tarn_place *old = p->place;

    p->place = tarn_place_ref(place);
    TARN_LIST_FOREACH_SAFE(n, &p->all)
    {
        struct peer *w = TARN_LIST_ENTRY(n, struct peer, node);
        const struct tarn_place_worker *now = tarn_place_find(place, w->id);
        const struct tarn_place_worker *was = old ? tarn_place_find(old, w->id) : NULL;
        TARN_AUTO_FREE char *addrs = now ? peer_addrs(p, now) : NULL;

        if (now && now->alive && was && !was->alive) {
            w->quiet_ns = 0; /* it is back */
            w->failures = 0;
        }
        if (!w->preset && (!addrs || !w->addrs || strcmp(addrs, w->addrs) != 0))
            peer_leave(w);
    }
    tarn_place_unref(&old);
}

struct tarn_place *tarn_peers_place(const struct tarn_peers *p)
{
    return p->place;
}

void tarn_peers_set_meta(struct tarn_peers *p, const Tarn__Wire__CallMeta *meta)
{
    free(p->capability);
    p->meta = *meta;
    p->meta.n_groups = 0; /* workers ask for the capability alone */
    p->meta.groups = NULL;
    p->capability = tarn_xcalloc(1, meta->capability.len + 1);
    if (meta->capability.len)
        memcpy(p->capability, meta->capability.data, meta->capability.len);
    p->meta.capability.data = p->capability;
    p->have_meta = true;
    TARN_LIST_FOREACH(n, &p->all)
    {
        struct peer *w = TARN_LIST_ENTRY(n, struct peer, node);

        if (w->rpc && !w->preset)
            tarn_rpc_client_set_meta(w->rpc, &p->meta);
    }
}

static void peer_state(void *ctx, bool connected, int rc)
{
    struct peer *w = ctx;
    struct tarn_peers *p = w->peers;

    if (!connected) {
        tarn_peers_note(p, w->id, rc);
        return;
    }
    if (p->cluster_id[0] && strcmp(tarn_rpc_client_cluster_id(w->rpc), p->cluster_id) != 0) {
        tarn_warn_limited("peers", "the worker at %s belongs to another cluster: %s", w->addrs,
                          tarn_rpc_client_cluster_id(w->rpc));
        tarn_peers_note(p, w->id, -TARN_E_CONN_REFUSED);
        return;
    }
    w->quiet_ns = 0;
    w->failures = 0;
}

static int peer_connect(struct peer *w, const struct tarn_place_worker *info)
{
    struct tarn_peers *p = w->peers;
    struct tarn_rpc_client_args args = {
        .loop = p->args.loop,
        .rng = p->args.rng,
        .token = p->token,
        .token_len = p->args.token_len,
        .connect_timeout_ns = PEER_CONNECT_NS,
        .default_timeout_ns = p->args.timeout_ns ? p->args.timeout_ns : PEERS_TIMEOUT_NS,
        .ctx = w,
        .on_state = peer_state};
    int rc;

    free(w->addrs);
    w->addrs = peer_addrs(p, info);
    if (!w->addrs)
        return -TARN_E_CONN_REFUSED;
    args.addrs = w->addrs;
    rc = tarn_rpc_client_new(&args, &w->rpc);
    if (rc == 0 && p->have_meta)
        tarn_rpc_client_set_meta(w->rpc, &p->meta);
    return rc;
}

struct tarn_rpc_client *tarn_peers_get(struct tarn_peers *p, uint64_t id)
{
    struct peer *w = peer_find(p, id);
    const struct tarn_place_worker *info;

    if (w && w->rpc)
        return w->rpc;
    info = p->place ? tarn_place_find(p->place, id) : NULL;
    if (!info || p->stopped)
        return NULL;
    if (!w)
        w = peer_new(p, id);
    return peer_connect(w, info) == 0 ? w->rpc : NULL;
}

bool tarn_peers_unreached(int rc)
{
    switch (-rc) {
    case TARN_E_CONN_LOST:
    case TARN_E_CONN_REFUSED:
    case TARN_E_DNS:
    case TARN_E_FRAME_BAD:
    case TARN_E_FRAME_VERSION:
    case TARN_E_DEADLINE:
    case TARN_E_SHUTDOWN:
    case TARN_E_AUTH_BAD:
    case TARN_E_AUTH_REQUIRED:
        return true;
    default:
        return false;
    }
}

static bool peer_quiet(const struct tarn_peers *p, uint64_t id)
{
    const struct peer *w = peer_find(p, id);

    return w && w->quiet_ns > tarn_loop_now_ns(p->args.loop);
}

bool tarn_peers_usable(const struct tarn_peers *p, uint64_t id)
{
    const struct tarn_place_worker *info = p->place ? tarn_place_find(p->place, id) : NULL;

    return info && info->alive && !peer_quiet(p, id);
}

void tarn_peers_note(struct tarn_peers *p, uint64_t id, int rc)
{
    struct peer *w = peer_find(p, id);
    uint64_t quiet;

    if (!w || rc == -TARN_E_CANCELLED)
        return;
    if (!tarn_peers_unreached(rc)) {
        w->quiet_ns = 0;
        w->failures = 0;
        return;
    }
    if (peer_quiet(p, id))
        return; /* calls that failed together count once */
    quiet = PEER_QUIET_NS << TARN_MIN(w->failures, PEER_QUIET_SHIFTS);
    w->failures++;
    w->quiet_ns = tarn_loop_now_ns(p->args.loop) + TARN_MIN(quiet, PEER_QUIET_MAX_NS);
}

unsigned tarn_peers_readers(const struct tarn_peers *p, const tarn_cid_t *cid, uint32_t segment,
                            uint32_t replicas, unsigned k, uint64_t *ret_ids)
{
    const struct tarn_place_worker *owners[TARN_PLACE_PICK_MAX], *order[TARN_PLACE_PICK_MAX];
    unsigned n, m, out = 0, usable;

    if (!p->place)
        return 0;
    k = TARN_MIN(k, TARN_PLACE_PICK_MAX);
    n = tarn_place_owners(p->place, cid, segment, replicas, owners);
    for (unsigned i = 0; i < n && out < k; i++)
        if (tarn_peers_usable(p, owners[i]->id))
            ret_ids[out++] = owners[i]->id;
    m = tarn_place_order(p->place, cid, segment, TARN_PLACE_PICK_MAX, order);
    for (unsigned i = 0; i < m && out < k; i++) {
        bool is_owner = false;

        for (unsigned o = 0; o < n; o++)
            is_owner |= owners[o] == order[i];
        if (!is_owner && tarn_peers_usable(p, order[i]->id))
            ret_ids[out++] = order[i]->id;
    }
    usable = out;
    for (unsigned i = 0; i < n && out < k; i++) {
        bool have = false;

        for (unsigned o = 0; o < usable; o++)
            have |= ret_ids[o] == owners[i]->id;
        if (!have)
            ret_ids[out++] = owners[i]->id;
    }
    return out;
}
