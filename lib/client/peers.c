/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections to workers. A peer is made when it is first asked for and ends when the topology no
 * longer names it at that address; one that ends is freed once its connection is gone. Whether it
 * answers is remembered beside the connection: `quiet_ns` is until when it is not asked if somebody
 * else can be; `down` says that the RPC client tries to connect, which finds out by itself, and
 * costs no call, when the worker is back.
 *
 * Whoever answers at an address but belongs to another cluster gets no call, and is left alone for
 * the longest time. Another worker of this one gets no call either: the address changed hands, and
 * may do so again.
 */
#include "lib/client/peers.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"
#include "lib/base/hash.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/base/rendezvous.h"

#define PEERS_HOME_MAX 64u /* workers on one host that are looked at */

#define PEERS_TIMEOUT_NS  (30 * TARN_NS_PER_S)
#define PEER_CONNECT_NS   TARN_NS_PER_S
#define PEER_QUIET_NS     TARN_NS_PER_S
#define PEER_QUIET_MAX_NS (30 * TARN_NS_PER_S)
#define PEER_QUIET_SHIFTS 5u
#define PEER_SILENT_NS    (400 * TARN_NS_PER_MS) /* in vain: it does not answer */

struct peer {
    struct tarn_list node; /* in peers->all, or leaving */
    struct tarn_peers *peers;
    uint64_t id;
    char *addrs;                 /* as connected to; NULL: preset */
    struct tarn_rpc_client *rpc; /* NULL: not made yet */
    bool preset;                 /* rpc is somebody else's */
    bool down;                   /* no connection, and the RPC client tries to have one */
    bool refused;                /* no connection, and another try would end like the last */
    unsigned failures;           /* in a row */
    uint64_t quiet_ns;           /* loop time until which it is left alone; 0: it answers */
    uint64_t heard_ns;           /* loop time of its last answer */
    uint64_t silent_ns;          /* that calls waited in vain, together, since then */
    uint64_t latency_ns;         /* of answers: rises at once, falls slowly */
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
    bool stopping;
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
    if (args->host && args->host[0])
        (void)snprintf(p->host, sizeof(p->host), "%s", args->host); /* a cut one is nobody's */
    else
        (void)gethostname(p->host, sizeof(p->host) - 1); /* "": no socket is used */
    return p;
}

void tarn_peers_set_cluster(struct tarn_peers *p, const char *cluster_id)
{
    char *copy = tarn_xstrdup(cluster_id ? cluster_id : "");

    free(p->cluster_id);
    p->cluster_id = copy;
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
    TARN_ASSERT(!p->stopping);
    p->stopping = true;
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
    /* A comma would end the address. */
    if (w->socket[0] && !strchr(w->socket, ',') && p->host[0] && strcmp(w->host, p->host) == 0)
        return tarn_xasprintf("unix:%s,%s", w->socket, w->addr);
    return w->addr[0] ? tarn_xstrdup(w->addr) : NULL;
}

static void peer_answers(struct peer *w)
{
    w->quiet_ns = 0;
    w->failures = 0;
}

/* The master has heard of it: calls go to it at once, and wait for the connection. */
static void peer_back(struct peer *w)
{
    peer_answers(w);
    w->down = w->refused = false;
    if (w->rpc && !w->preset)
        tarn_rpc_client_hurry(w->rpc);
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

        if (now && now->alive && was && !was->alive)
            peer_back(w);
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
    uint8_t *capability = tarn_xcalloc(1, meta->capability.len + 1);

    if (meta->capability.len)
        memcpy(capability, meta->capability.data, meta->capability.len);
    p->meta = *meta;
    p->meta.n_groups = 0; /* workers ask for the capability alone */
    p->meta.groups = NULL;
    free(p->capability);
    p->capability = capability;
    p->meta.capability.data = p->capability;
    p->have_meta = true;
    TARN_LIST_FOREACH(n, &p->all)
    {
        struct peer *w = TARN_LIST_ENTRY(n, struct peer, node);

        if (w->rpc && !w->preset)
            tarn_rpc_client_set_meta(w->rpc, &p->meta);
    }
}

static bool peer_quiet(const struct peer *w)
{
    return w->quiet_ns > tarn_loop_now_ns(w->peers->args.loop);
}

static void peer_failed(struct peer *w)
{
    uint64_t quiet = PEER_QUIET_NS << TARN_MIN(w->failures, PEER_QUIET_SHIFTS);

    if (peer_quiet(w))
        return; /* calls that failed together count once */
    w->failures++;
    w->quiet_ns = tarn_loop_now_ns(w->peers->args.loop) + TARN_MIN(quiet, PEER_QUIET_MAX_NS);
}

static void peer_state(void *ctx, bool connected, int rc)
{
    struct peer *w = ctx;

    w->refused = !connected && tarn_rpc_refused(rc); /* the RPC client does not try again */
    w->down = !connected && !w->refused;
    w->silent_ns = 0;
    if (rc == -TARN_E_OTHER_CLUSTER)
        w->failures = PEER_QUIET_SHIFTS; /* that does not pass */
    if (connected)
        peer_answers(w);
    else
        peer_failed(w);
}

static int peer_connect(struct peer *w, const struct tarn_place_worker *info)
{
    struct tarn_peers *p = w->peers;
    struct tarn_rpc_client_args args = {
        .loop = p->args.loop,
        .rng = p->args.rng,
        .token = p->token,
        .token_len = p->args.token_len,
        .cluster_id = p->cluster_id,
        .worker = w->id,
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
    w->down = false;
    rc = tarn_rpc_client_new(&args, &w->rpc);
    if (rc == 0 && p->have_meta)
        tarn_rpc_client_set_meta(w->rpc, &p->meta);
    if (rc < 0) {
        tarn_warn_limited("peers", "worker=%llu: not an address: %s", (unsigned long long)w->id,
                          w->addrs);
        peer_failed(w);
    }
    return rc;
}

struct tarn_rpc_client *tarn_peers_get(struct tarn_peers *p, uint64_t id)
{
    struct peer *w = peer_find(p, id);
    const struct tarn_place_worker *info;

    if (w && w->rpc)
        return w->rpc;
    info = p->place ? tarn_place_find(p->place, id) : NULL;
    if (!info || p->stopping)
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
    case TARN_E_OTHER_CLUSTER:
    case TARN_E_OTHER_WORKER:
    /* What connecting fails with; no worker answers a call with these. */
    case ENETDOWN:
    case ENETUNREACH:
    case EHOSTDOWN:
    case EHOSTUNREACH:
    case ETIMEDOUT:
    case ECONNREFUSED:
    case ECONNRESET:
    case ECONNABORTED:
    case EADDRNOTAVAIL:
    case EPIPE:
    case ENOENT: /* of a socket's path */
    case EACCES:
        return true;
    default:
        return false;
    }
}

bool tarn_peers_usable(const struct tarn_peers *p, uint64_t id)
{
    const struct tarn_place_worker *info = p->place ? tarn_place_find(p->place, id) : NULL;
    const struct peer *w = info && info->alive ? peer_find(p, id) : NULL;

    return info && info->alive && !(w && (w->down || peer_quiet(w)));
}

bool tarn_peers_refused(const struct tarn_peers *p, uint64_t id)
{
    const struct peer *w = peer_find(p, id);

    return w && w->refused;
}

void tarn_peers_note(struct tarn_peers *p, uint64_t id, int rc)
{
    struct peer *w = peer_find(p, id);

    if (!w || rc == -TARN_E_CANCELLED)
        return;
    if (tarn_peers_unreached(rc)) {
        peer_failed(w);
        return;
    }
    w->heard_ns = tarn_loop_now_ns(p->args.loop);
    w->silent_ns = 0;
    peer_answers(w);
}

/* ---- readers that do not wait -----------------------------------------------------------------
 */

void tarn_peers_took(struct tarn_peers *p, uint64_t id, uint64_t ns)
{
    struct peer *w = peer_find(p, id);

    if (!w)
        return;
    /* A slow answer is a reason to wait at once: asking twice costs the store. */
    if (ns >= w->latency_ns)
        w->latency_ns = ns;
    else
        w->latency_ns -= (w->latency_ns - ns) / 16;
}

void tarn_peers_overtaken(struct tarn_peers *p, uint64_t id, uint64_t sent_ns)
{
    struct peer *w = peer_find(p, id);
    uint64_t waited = tarn_loop_now_ns(p->args.loop) - sent_ns;

    if (!w || w->heard_ns > sent_ns || waited < tarn_peers_patience_ns(p, id))
        return; /* it does answer, or had no time to */
    w->silent_ns += waited;
    if (w->silent_ns >= PEER_SILENT_NS)
        peer_failed(w);
}

uint64_t tarn_peers_patience_ns(const struct tarn_peers *p, uint64_t id)
{
    const struct peer *w = peer_find(p, id);

    if (w && w->failures)
        return TARN_PEERS_PATIENCE_MIN_NS; /* it has to show first that it answers again */
    if (!w || !w->latency_ns)
        return TARN_PEERS_PATIENCE_MAX_NS;
    return TARN_MIN(
        TARN_MAX(TARN_MIN(w->latency_ns, TARN_NS_PER_S) * 4, (uint64_t)TARN_PEERS_PATIENCE_MIN_NS),
        (uint64_t)TARN_PEERS_PATIENCE_MAX_NS);
}

uint64_t tarn_peers_heard_ns(const struct tarn_peers *p, uint64_t id)
{
    const struct peer *w = peer_find(p, id);

    return w ? w->heard_ns : 0;
}

/* ---- whom to ask ------------------------------------------------------------------------------
 */

static bool at_home(const struct tarn_peers *p, const struct tarn_place_worker *w)
{
    return p->host[0] && strcmp(w->host, p->host) == 0;
}

bool tarn_peers_at_home(const struct tarn_peers *p, uint64_t id)
{
    const struct tarn_place_worker *w = p->place ? tarn_place_find(p->place, id) : NULL;

    return w && at_home(p, w);
}

uint64_t tarn_peers_home(const struct tarn_peers *p, const tarn_cid_t *cid, uint32_t segment)
{
    struct tarn_rendezvous_node home[PEERS_HOME_MAX];
    unsigned n = 0, all = p->place ? tarn_place_count(p->place) : 0;
    uint64_t id;

    for (unsigned i = 0; i < all && n < PEERS_HOME_MAX; i++) {
        const struct tarn_place_worker *w = tarn_place_at(p->place, i);

        if (w->copies > 0 && w->weight > 0 && w->state == TARN_WORKER_LIVE && at_home(p, w) &&
            tarn_peers_usable(p, w->id))
            home[n++] = (struct tarn_rendezvous_node){w->id, w->weight};
    }
    return tarn_rendezvous_pick(home, n, cid, segment, 1, &id) ? id : 0;
}

/* Adds those of `from` that are (or are not) usable and not there yet. */
static unsigned readers_add(const struct tarn_peers *p, const struct tarn_place_worker *const *from,
                            unsigned n, bool usable, unsigned k, uint64_t *ret_ids, unsigned have)
{
    for (unsigned i = 0; i < n && have < k; i++) {
        bool known = false;

        for (unsigned o = 0; o < have; o++)
            known |= ret_ids[o] == from[i]->id;
        if (!known && tarn_peers_usable(p, from[i]->id) == usable)
            ret_ids[have++] = from[i]->id;
    }
    return have;
}

unsigned tarn_peers_readers(const struct tarn_peers *p, const tarn_cid_t *cid, uint32_t segment,
                            uint32_t replicas, unsigned k, uint64_t *ret_ids)
{
    const struct tarn_place_worker *owners[TARN_PLACE_PICK_MAX], *order[TARN_PLACE_PICK_MAX];
    unsigned n, m, out = 0;

    if (!p->place)
        return 0;
    k = TARN_MIN(k, TARN_PLACE_PICK_MAX);
    n = tarn_place_owners(p->place, cid, segment, replicas, owners);
    m = tarn_place_order(p->place, cid, segment, TARN_PLACE_PICK_MAX, order);
    for (unsigned i = 0; n == 0 && i < tarn_place_count(p->place) && m < k; i++) {
        const struct tarn_place_worker *w = tarn_place_at(p->place, i);

        if (w->state == TARN_WORKER_DRAINING || w->state == TARN_WORKER_LIVE)
            order[m++] = w; /* one that can keep nothing still reads the store */
    }
    out = readers_add(p, owners, n, true, k, ret_ids, out);
    out = readers_add(p, order, m, true, k, ret_ids, out);
    out = readers_add(p, owners, n, false, k, ret_ids, out);
    return readers_add(p, order, m, false, k, ret_ids, out);
}
