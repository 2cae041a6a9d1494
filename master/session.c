/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sessions: clients that hold names and attributes. Each has a lease, a capability for workers, and
 * a stream of numbered invalidations on its connection; a client that missed a number drops what it
 * trusts.
 *
 *     LIVE -> AWAY     the connection broke
 *     AWAY -> LIVE     it came back within its lease: what it missed is told, the rest still holds
 *     any  -> CUT_OFF  its lease is over: others need not wait for it any more
 *     CUT_OFF -> gone  it opened another session, or its connection ended, or room is needed
 *     both    -> gone  another session has its mountpoint: it was killed, and is mounted anew
 *     any  -> gone     it said that it ends, and its connection or its lease did
 *
 * A client that comes back names the index of the journal up to which it had heard of every change.
 * If all changes behind it are known still, it misses nothing, unless it was told to forget
 * everything and has not said that it did: then it begins anew. That holds over a restart of the
 * master too, since the journal knows its last change. For one lease after a restart, inodes that
 * change are held as if every session of the process before held a promise on them, and so is what
 * that process had not told all of them (told.c).
 */
#include "master/master_priv.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"
#include "lib/base/hash.h"

#define LEASE_NS     (10 * TARN_NS_PER_S)
#define TEXT_MAX     256u /* of what a session tells of itself, but for its mountpoint */
#define CAP_LIFE_NS  (24 * 3600 * TARN_NS_PER_S) /* so long workers serve without a master */
#define CUT_OFF_KEPT 1024u                       /* sessions whose lease is over, for reports */
#define CUT_OFF_NS   (3600 * TARN_NS_PER_S)

uint64_t master_lease_ns(const struct tarn_master *m)
{
    return m->args.lease_ns ? m->args.lease_ns : LEASE_NS;
}

uint64_t msession_lease_ns(const struct tarn_master *m)
{
    return master_lease_ns(m) + master_lease_ns(m) / 10;
}

const char *msession_state_name(enum msession_state s)
{
    static const char *const names[] = {"live", "away", "cut off"};

    return names[s];
}

static uint64_t session_now(const struct tarn_master *m)
{
    return tarn_loop_now_ns(m->args.loop);
}

static struct msession *session_by_rpc(const struct tarn_master *m,
                                       const struct tarn_rpc_session *rpc)
{
    uint64_t h = tarn_hash_u64((uintptr_t)rpc);

    for (struct tarn_hnode *n = rpc ? tarn_htab_first(&m->sessions_by_rpc, h) : NULL; n;
         n = tarn_htab_next(n, h)) {
        struct msession *s = TARN_CONTAINER(n, struct msession, by_rpc);

        if (s->rpc == rpc)
            return s;
    }
    return NULL;
}

static struct msession *session_by_id(const struct tarn_master *m, uint64_t id)
{
    uint64_t h = tarn_hash_u64(id);

    for (struct tarn_hnode *n = tarn_htab_first(&m->sessions_by_id, h); n;
         n = tarn_htab_next(n, h)) {
        struct msession *s = TARN_CONTAINER(n, struct msession, by_id);

        if (s->id == id)
            return s;
    }
    return NULL;
}

struct msession *msession_of(const struct tarn_master *m, const struct tarn_rpc_call *call)
{
    return session_by_rpc(m, call->session);
}

/* ---- life ------------------------------------------------------------------------------------ */

static void session_unlink(struct tarn_master *m, struct msession *s)
{
    if (!s->rpc)
        return;
    tarn_htab_remove(&m->sessions_by_rpc, &s->by_rpc);
    s->rpc = NULL;
}

static void session_link(struct tarn_master *m, struct msession *s, struct tarn_rpc_session *rpc)
{
    session_unlink(m, s);
    s->rpc = rpc;
    tarn_htab_insert(&m->sessions_by_rpc, &s->by_rpc, tarn_hash_u64((uintptr_t)rpc));
}

static void session_forget_promises(struct tarn_master *m, struct msession *s)
{
    mpromise_drop_all(m, s);
    if (s->all)
        m->sessions_all--;
    s->all = false;
    mpromise_acked(m, s, UINT64_MAX);
}

static void session_free(struct tarn_master *m, struct msession *s)
{
    session_unlink(m, s); /* its own answers that waited find no session any more */
    session_forget_promises(m, s);
    TARN_ASSERT(tarn_list_empty(&s->promises) && tarn_list_empty(&s->unacked));
    m->gone_reads[0] += s->local_bytes;
    m->gone_reads[1] += s->remote_bytes;
    m->gone_reads[2] += s->ufs_bytes;
    if (s->state == MSESSION_CUT_OFF)
        m->sessions_cut--;
    else
        m->counts.sessions--;
    tarn_list_del(&s->node);
    tarn_htab_remove(&m->sessions_by_id, &s->by_id);
    free(s->hear);
    free(s->kind);
    free(s->mountpoint);
    free(s->host);
    free(s);
}

/* Another session of the same mountpoint in `state`: one of the two has taken the other's place. */
static struct msession *session_same(struct tarn_master *m, const struct msession *s,
                                     enum msession_state state)
{
    TARN_LIST_FOREACH(n, &m->sessions)
    {
        struct msession *o = TARN_LIST_ENTRY(n, struct msession, node);

        if (o != s && o->state == state && !o->rpc == (state != MSESSION_LIVE) &&
            o->mountpoint[0] && strcmp(o->mountpoint, s->mountpoint) == 0 &&
            strcmp(o->host, s->host) == 0)
            return o;
    }
    return NULL;
}

static void session_cut_off(struct tarn_master *m, struct msession *s)
{
    if (session_same(m, s, MSESSION_LIVE)) { /* it was killed, and is mounted anew */
        session_free(m, s);
        return;
    }
    tarn_info("session", "cut off: session=%llu host=%s mountpoint=%s", (unsigned long long)s->id,
              s->host, s->mountpoint);
    s->state = MSESSION_CUT_OFF;
    m->counts.sessions--;
    m->sessions_cut++;
    session_forget_promises(m, s);
}

void tarn_master_session_gone(struct tarn_master *m, struct tarn_rpc_session *rpc)
{
    struct msession *s = session_by_rpc(m, rpc);

    mmembers_session_gone(m, rpc);
    if (!s)
        return;
    if (s->trusted || s->transient || s->state == MSESSION_CUT_OFF || m->stopping) {
        session_free(m, s);
        return;
    }
    session_unlink(m, s);
    s->state = MSESSION_AWAY;
}

void msession_free_all(struct tarn_master *m)
{
    while (!tarn_list_empty(&m->sessions))
        session_free(m, TARN_LIST_ENTRY(m->sessions.next, struct msession, node));
    tarn_htab_fini(&m->sessions_by_id);
    tarn_htab_fini(&m->sessions_by_rpc);
}

/* ---- leases ---------------------------------------------------------------------------------- */

/* Its lease is over. What waits to be read when that is first seen, after a turn that took long, is
 * read before the next look. */
static bool session_over(struct msession *s, uint64_t now)
{
    bool over = s->overdue;

    if (s->state == MSESSION_CUT_OFF || s->lease_until_ns >= now)
        return false;
    s->overdue = true;
    return over;
}

static void sessions_tick(struct tarn_timer *t, void *arg)
{
    struct tarn_master *m = arg;
    uint64_t now = session_now(m);

    TARN_LIST_FOREACH_SAFE(n, &m->sessions)
    {
        struct msession *s = TARN_LIST_ENTRY(n, struct msession, node);

        bool over = session_over(s, now);

        if (over && s->transient)
            session_free(m, s); /* its process has gone */
        else if (over)
            session_cut_off(m, s);
        else if (s->state == MSESSION_CUT_OFF && !s->rpc &&
                 (now - s->heard_ns > CUT_OFF_NS || m->sessions_cut > CUT_OFF_KEPT))
            session_free(m, s);
        else
            mpromise_sweep(m, s);
    }
    if (m->grace_until_ns && m->grace_until_ns < now)
        mpromise_grace_end(m);
    mtold_tick(m);
    tarn_timer_start(m->args.loop, t, master_lease_ns(m) / 10, sessions_tick, m);
}

void msession_start(struct tarn_master *m)
{
    if (m->args.cluster) /* never one that a process before us gave */
        m->session_next = (uint64_t)master_real_ns(m) / 1000;
    tarn_timer_start(m->args.loop, &m->session_timer, master_lease_ns(m) / 10, sessions_tick, m);
}

void msession_stop(struct tarn_master *m)
{
    mtold_tick(m); /* connections end, and with them who was waited for */
    tarn_timer_stop(&m->session_timer);
    mpromise_stop(m);
}

static void session_heard(struct tarn_master *m, struct msession *s)
{
    s->heard_ns = tarn_loop_read_now_ns(m->args.loop);
    s->lease_until_ns = s->trusted ? UINT64_MAX : s->heard_ns + msession_lease_ns(m);
    s->overdue = false;
}

/* ---- what is sent ---------------------------------------------------------------------------- */

void msession_send(struct msession *s, Tarn__Wire__Invalidate *inv)
{
    inv->seq = ++s->seq;
    if (s->rpc) /* one that cannot take it is cut */
        (void)tarn_rpc_notify(s->rpc, TARN_RPC_invalidate, &inv->base);
}

void msession_notify_all(struct tarn_master *m, uint32_t method, const ProtobufCMessage *msg,
                         bool direct)
{
    TARN_LIST_FOREACH_SAFE(n, &m->sessions)
    {
        struct msession *s = TARN_LIST_ENTRY(n, struct msession, node);

        if (s->rpc && !s->trusted && (s->direct || !direct))
            (void)tarn_rpc_notify(s->rpc, method, msg); /* a renewal brings it else */
    }
}

void msession_everything(struct tarn_master *m)
{
    mpromise_forget_recent(m);
    TARN_LIST_FOREACH_SAFE(n, &m->sessions)
    mpromise_epoch(m, TARN_LIST_ENTRY(n, struct msession, node));
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

static char *session_text(const char *s, size_t max)
{
    return strndup(s ? s : "", max);
}

/* ---- open ------------------------------------------------------------------------------------ */

static struct msession *session_new(struct tarn_master *m, const struct tarn_rpc_call *call,
                                    const Tarn__Wire__SessionRequest *req)
{
    struct msession *s = tarn_xnew(struct msession), *old;

    s->id = ++m->session_next;
    s->kind = session_text(req->kind, TEXT_MAX);
    s->mountpoint = session_text(req->mountpoint, PATH_MAX);
    s->host = session_text(req->host, TEXT_MAX);
    s->pid = req->pid;
    s->trusted = call->principal.trusted;
    s->all = s->trusted;
    s->transient = req->transient;
    s->direct = req->direct;
    s->on_partition_stale = req->on_partition_stale;
    tarn_list_init(&s->promises);
    tarn_list_init(&s->unacked);
    tarn_list_init(&s->node);
    tarn_list_push(&m->sessions, &s->node);
    tarn_htab_insert(&m->sessions_by_id, &s->by_id, tarn_hash_u64(s->id));
    m->sessions_all += s->all;
    m->counts.sessions++;
    while ((old = session_same(m, s, MSESSION_CUT_OFF)) != NULL)
        session_free(m, old);
    return s;
}

/* The session that a client had and whose lease is not over; else NULL. */
static struct msession *session_held(struct tarn_master *m, const Tarn__Wire__SessionRequest *req)
{
    struct msession *s = req->resume ? session_by_id(m, req->resume) : NULL;

    return s && !s->trusted && !s->transient && s->state != MSESSION_CUT_OFF ? s : NULL;
}

/*
 * A session that takes over what the client believed, or one that begins with nothing. While the
 * lease of the one that it had runs, others wait for it until it has said that it forgot all that.
 */
static struct msession *session_begin(struct tarn_master *m, const struct tarn_rpc_call *call,
                                      const Tarn__Wire__SessionRequest *req, bool *ret_resumed)
{
    struct msession *s = session_held(m, req);
    bool known, forgets;

    if (s) {
        *ret_resumed = !s->forgets && mpromise_replayable(m, req->seen);
        s->state = MSESSION_LIVE;
        return s;
    }
    s = req->resume ? session_by_id(m, req->resume) : NULL;
    known = s != NULL;
    forgets = known && s->forgets;
    if (s && !s->trusted) /* it goes on as another one */
        session_free(m, s);
    s = session_new(m, call, req);
    /* What it saw of the process before must be in the journal still: a power cut loses its end. */
    *ret_resumed = req->resume && !s->transient && !s->trusted && m->args.cluster && !forgets &&
                   mpromise_replayable(m, req->seen) && (known || req->seen <= m->start_index);
    if (*ret_resumed && !s->all) { /* what it was promised is not known (any more) */
        s->all = true;
        m->sessions_all++;
    }
    return s;
}

static void session_open_reply(struct tarn_master *m, struct tarn_rpc_call *call,
                               struct msession *s, bool resumed)
{
    Tarn__Wire__SessionResponse resp = TARN__WIRE__SESSION_RESPONSE__INIT;
    struct mcluster_view view;
    struct tarn_str cap = {0};

    session_cap(m, call, s->id, &cap);
    mcluster_view(m, s->trusted ? UINT64_MAX : 0, s->direct ? 0 : UINT64_MAX, &view);
    resp.topology = view.topology;
    resp.attachments = view.attachments;
    resp.session = s->id;
    resp.capability = (ProtobufCBinaryData){cap.len, (uint8_t *)cap.p};
    resp.lease_ms = master_lease_ns(m) / TARN_NS_PER_MS;
    resp.cluster_id = m->cluster_id;
    /* Inside one process nothing can be cut off: kernel caches may live as long as the names are
     * believed. */
    resp.kernel_trust_ms = s->trusted ? UINT64_MAX : resp.lease_ms;
    resp.resumed = resumed;
    resp.seq = s->seq;
    resp.index = m->told_index;
    tarn_rpc_reply(call, 0, &resp.base, NULL, 0, 0);
    mcluster_view_fini(&view);
    tarn_str_fini(&cap);
}

static void session_open(void *ctx, struct tarn_rpc_call *call)
{
    struct tarn_master *m = ctx;
    const Tarn__Wire__SessionRequest *req = (const Tarn__Wire__SessionRequest *)call->request;
    struct tarn_rpc_session *rpc = call->session;
    struct msession *s = session_by_rpc(m, rpc);
    uint64_t seen = req->seen;
    bool resumed = false;

    if (!rpc || m->stopping) { /* it went while the call waited */
        tarn_rpc_reply(call, m->stopping ? -TARN_E_SHUTDOWN : -TARN_E_CONN_LOST, NULL, NULL, 0, 0);
        return;
    }
    if (!s || s->state == MSESSION_CUT_OFF) {
        if (s)
            session_unlink(m, s);
        s = session_begin(m, call, req, &resumed);
        session_link(m, s, rpc);
    }
    session_heard(m, s);
    session_open_reply(m, call, s, resumed);
    if (resumed)
        mpromise_replay(m, s, seen);
    else if (req->resume == s->id)
        mpromise_start_over(m, s);
}

/* ---- renew ----------------------------------------------------------------------------------- */

static void session_take_reads(struct msession *s, const Tarn__Wire__RenewRequest *req)
{
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
}

static void session_renew(void *ctx, struct tarn_rpc_call *call)
{
    struct tarn_master *m = ctx;
    const Tarn__Wire__RenewRequest *req = (const Tarn__Wire__RenewRequest *)call->request;
    Tarn__Wire__RenewResponse resp = TARN__WIRE__RENEW_RESPONSE__INIT;
    struct msession *s = session_by_rpc(m, call->session);
    struct mcluster_view view;
    struct tarn_str cap = {0};
    uint64_t seq = req->seq;

    if (!s || s->id != req->session || s->state == MSESSION_CUT_OFF) {
        tarn_rpc_reply(call, -TARN_E_STALE, NULL, NULL, 0, 0);
        return;
    }
    mmembers_seen(m, req->topology);
    session_take_reads(s, req);
    session_heard(m, s);
    s->transient |= req->last;
    session_cap(m, call, s->id, &cap);
    mcluster_view(m, s->trusted ? UINT64_MAX : req->topology,
                  s->direct ? req->attachments : UINT64_MAX, &view);
    resp.topology = view.topology;
    resp.attachments = view.attachments;
    resp.capability = (ProtobufCBinaryData){cap.len, (uint8_t *)cap.p};
    resp.seq = s->seq;
    resp.index = m->told_index;
    tarn_rpc_reply(call, 0, &resp.base, NULL, 0, 0);
    mcluster_view_fini(&view);
    tarn_str_fini(&cap);
    mpromise_acked(m, s, seq);
    s->forgets = s->epoch_seq != 0;
}

void msession_handlers(struct tarn_master *m, struct tarn_rpc_server *srv)
{
    tarn_rpc_server_handle(srv, TARN_RPC_session_open, session_open, m);
    tarn_rpc_server_handle(srv, TARN_RPC_session_renew, session_renew, m);
}
