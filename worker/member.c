/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A worker as a member: registers, then beats. One timer drives both:
 *
 *     start, a new connection, UNKNOWN_WORKER or STALE to a beat -> register
 *                                 -> taken: beat every beat_ms
 *                                 -> refused for good: on_refused
 *                                 -> no answer: again in a moment, for ever
 *
 * Without a master everything stays as it was told last: topology, attachments, key. What the
 * master says is taken up from answers and notices alike; a topology or a list that is older than
 * the one in force is dropped, since a notice may overtake an answer.
 */
#include "worker/member.h"

#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/client/peers.h"
#include "lib/rpc/rpc.h"
#include "worker/stores.h"
#include "worker/worker_priv.h"

#define MEMBER_REGISTER_NS (5 * TARN_NS_PER_S) /* without an answer */
#define MEMBER_AGAIN_NS    TARN_NS_PER_S
#define MEMBER_LEAVE_NS    TARN_NS_PER_S
#define MEMBER_SOON_NS     (50 * TARN_NS_PER_MS)
#define MEMBER_CHANGED_NS  (250 * TARN_NS_PER_MS) /* a load or free is told, at most so often */
#define BEAT_MS            3000u
#define BEATS_LINGER       4u /* more than a lease */
#define BEAT_MS_MIN        20u
#define BEAT_MS_MAX        60000u

struct call {
    struct tarn_rpc_req req;
    bool busy; /* under way */
};

struct tarn_member {
    struct tarn_member_args args;
    char *addr, *host, *socket;
    struct tarn_move *move;
    uint64_t id; /* 0: not registered yet */
    uint64_t incarnation;
    uint64_t beat_ns;
    uint64_t beaten_ns; /* loop time of the last one */
    bool wanted;        /* registration: instead of the next beat */
    bool refused;       /* for good: silent from now on */
    bool soon;          /* the next beat tells what a load or a free changed */
    bool told_offline;  /* the master knows that the cache failed */
    bool started, stopping, moving_stopped, posted;
    struct call reg, beat, leave;
    struct tarn_timer timer;
    void (*first)(void *arg, int rc, const struct tarn_errbuf *err);
    void *first_arg;
    void (*stopped)(void *arg);
    void *stopped_arg;
    struct tarn_task task;
};

static void member_register(struct tarn_member *m);
static void member_settled(void *arg);
static void member_changed(void *arg);

struct tarn_member *tarn_member_new(const struct tarn_member_args *args)
{
    struct tarn_member *m = tarn_xnew(struct tarn_member);

    TARN_ASSERT(args->master && args->worker && args->peers && args->stores);
    m->args = *args;
    m->addr = tarn_xstrdup(args->addr ? args->addr : "");
    m->host = tarn_xstrdup(args->host ? args->host : "");
    m->socket = tarn_xstrdup(args->socket ? args->socket : "");
    m->incarnation = tarn_rng_u64(args->rng);
    m->beat_ns = BEAT_MS * TARN_NS_PER_MS;
    m->move = tarn_move_new(args->worker, member_settled, m);
    args->worker->changed = member_changed;
    args->worker->changed_arg = m;
    tarn_worker_set_peers(args->worker, args->peers);
    tarn_worker_set_copies(args->worker, args->copies, args->copies_bytes);
    return m;
}

/* ---- the end ----------------------------------------------------------------------------------
 */

static void member_ended(struct tarn_task *t)
{
    struct tarn_member *m = TARN_CONTAINER(t, struct tarn_member, task);

    m->posted = false;
    m->stopped(m->stopped_arg);
}

static void member_settle(struct tarn_member *m)
{
    if (!m->stopping || m->posted || !m->moving_stopped || m->reg.busy || m->beat.busy ||
        m->leave.busy)
        return;
    m->posted = true;
    tarn_loop_post(m->args.loop, &m->task, member_ended);
}

static void member_left(struct tarn_rpc_req *req, int rc)
{
    struct tarn_member *m = req->arg;

    (void)rc; /* it will find out by itself */
    m->leave.busy = false;
    tarn_rpc_req_fini(req);
    member_settle(m);
}

static void member_moved(void *arg)
{
    struct tarn_member *m = arg;

    m->moving_stopped = true;
    member_settle(m);
}

static void call_start(struct tarn_member *m, struct call *c, uint32_t method,
                       const ProtobufCMessage *msg, uint64_t timeout_ns, tarn_rpc_fn *cb)
{
    c->req = (struct tarn_rpc_req){
        .method = method, .msg = msg, .timeout_ns = timeout_ns, .cb = cb, .arg = m};
    c->busy = true;
    tarn_rpc_start(m->args.master, &c->req);
}

void tarn_member_stop(struct tarn_member *m, void (*done)(void *arg), void *arg)
{
    Tarn__Wire__WorkerLeave msg = TARN__WIRE__WORKER_LEAVE__INIT;

    TARN_ASSERT(!m->stopping && done);
    m->stopping = true;
    m->stopped = done;
    m->stopped_arg = arg;
    m->args.worker->changed = NULL;
    tarn_timer_stop(&m->timer);
    if (m->reg.busy)
        tarn_rpc_cancel(&m->reg.req);
    if (m->beat.busy)
        tarn_rpc_cancel(&m->beat.req);
    if (m->id && !m->refused) {
        msg.id = m->id;
        msg.incarnation = m->incarnation;
        call_start(m, &m->leave, TARN_RPC_worker_leave, &msg.base, MEMBER_LEAVE_NS, member_left);
    }
    tarn_move_stop(m->move, member_moved, m);
}

void tarn_member_free(struct tarn_member **pm)
{
    struct tarn_member *m = *pm;

    *pm = NULL;
    if (!m)
        return;
    TARN_ASSERT(!m->reg.busy && !m->beat.busy && !m->leave.busy && !m->posted);
    tarn_timer_stop(&m->timer);
    tarn_move_free(&m->move);
    free(m->addr);
    free(m->host);
    free(m->socket);
    free(m);
}

static void member_told(struct tarn_member *m, int rc, const struct tarn_errbuf *err)
{
    void (*first)(void *, int, const struct tarn_errbuf *) = m->first;

    m->first = NULL;
    if (first)
        first(m->first_arg, rc, err);
}

static void member_refuse(struct tarn_member *m, int rc, const char *text)
{
    struct tarn_errbuf err = {0};

    if (m->refused)
        return;
    m->refused = true;
    tarn_timer_stop(&m->timer);
    (void)tarn_err_set(&err, rc, "%s%s", text && *text ? text : tarn_strerror(rc),
                       rc == -TARN_E_NO_SUCH_RPC ? ": is it the master, and as new as this?"
                                                 : ""); /* rc is known */
    tarn_error("member", "refused by the master: %s", err.text);
    member_told(m, rc, &err);
    if (m->args.on_refused)
        m->args.on_refused(m->args.ctx, rc, &err);
}

/* ---- what the master says ---------------------------------------------------------------------
 */

/* `anew`: the master's first word after a registration, which counts whatever came before. */
static void member_topology(struct tarn_member *m, const Tarn__Wire__Topology *t, bool anew)
{
    struct tarn_place *have = tarn_peers_place(m->args.peers), *place = NULL;
    const struct tarn_place_worker *self;
    int rc;

    if (!t || (have && (anew ? t->version == tarn_place_version(have)
                             : t->version <= tarn_place_version(have))))
        return;
    rc = tarn_place_new(t, &place);
    if (rc < 0) {
        tarn_warn_limited("member", "the topology cannot be used: %s", tarn_strerror(rc));
        return;
    }
    tarn_peers_set_place(m->args.peers, place);
    self = tarn_place_find(place, m->id);
    if (self && self->state == TARN_WORKER_REMOVED)
        member_refuse(m, -TARN_E_UNKNOWN_WORKER, "this worker was removed from the cluster");
    tarn_place_unref(&place);
    if (!m->stopping && m->id)
        tarn_move_topology(m->move);
}

static void member_attachments(struct tarn_member *m, const Tarn__Wire__AttachmentList *l)
{
    if (l && !m->stopping)
        tarn_stores_apply(m->args.stores, l);
}

void tarn_member_notice(struct tarn_member *m, uint32_t method, const ProtobufCMessage *msg)
{
    if (method == TARN_RPC_topology)
        member_topology(m, (const Tarn__Wire__Topology *)msg, false);
    else if (method == TARN_RPC_attachments)
        member_attachments(m, (const Tarn__Wire__AttachmentList *)msg);
}

/* ---- beats ------------------------------------------------------------------------------------
 */

static void member_due(struct tarn_timer *t, void *arg);

static void member_wait(struct tarn_member *m, uint64_t ns)
{
    if (!m->stopping && !m->refused)
        tarn_timer_start(m->args.loop, &m->timer, ns, member_due, m);
}

static void member_beaten(struct tarn_rpc_req *req, int rc)
{
    struct tarn_member *m = req->arg;
    const Tarn__Wire__WorkerBeaten *resp = (const Tarn__Wire__WorkerBeaten *)req->resp;

    m->beat.busy = false;
    if (rc == 0 && resp && !m->stopping) {
        member_topology(m, resp->topology, true);
        member_attachments(m, resp->attachments);
        tarn_move_set_rate(m->move, resp->move_rate);
    }
    tarn_rpc_req_fini(req);
    if (!m->stopping && (rc == -TARN_E_UNKNOWN_WORKER || rc == -TARN_E_STALE))
        member_register(m);
    member_settle(m);
}

/* What both messages say of the tier; rows of it borrow. */
struct tier_row {
    Tarn__Wire__Tier row, *ptr;
    struct tarn_tier_info info;
    char uuid[TARN_TIER_UUID_TEXT];
};

static size_t member_tier(const struct tarn_member *m, struct tier_row *ret)
{
    if (!m->args.tier)
        return 0;
    tarn__wire__tier__init(&ret->row);
    tarn_tier_info(m->args.tier, &ret->info);
    worker_tell_tier(&ret->info, &ret->row);
    ret->row.uuid = tarn_wire_text(tarn_tier_uuid(m->args.tier, ret->uuid));
    ret->ptr = &ret->row;
    return 1;
}

static void member_beat(struct tarn_member *m)
{
    Tarn__Wire__WorkerBeat msg = TARN__WIRE__WORKER_BEAT__INIT;
    const struct tarn_worker *w = m->args.worker;
    struct tarn_place *place = tarn_peers_place(m->args.peers);
    Tarn__Wire__ReadCount rows[3], *reads[3];
    struct tarn_move_counts moved;
    struct tier_row tier;
    size_t n_tiers = member_tier(m, &tier);

    if (n_tiers && tier.info.offline && !m->told_offline) {
        member_register(m); /* its weight is that of what it can hold: nothing */
        return;
    }
    m->beaten_ns = tarn_loop_now_ns(m->args.loop);
    tarn_move_counts(m->move, &moved);
    worker_tell_reads(w, rows, reads);
    msg.id = m->id;
    msg.incarnation = m->incarnation;
    msg.topology = place ? tarn_place_version(place) : 0;
    msg.attachments = tarn_stores_version(m->args.stores);
    msg.n_tiers = n_tiers;
    msg.tiers = &tier.ptr;
    msg.n_reads = TARN_ARRAY_LEN(rows);
    msg.reads = reads;
    msg.settled = moved.settled ? moved.version : 0;
    msg.left_bytes = moved.left_bytes;
    msg.refused_bytes = moved.refused_bytes;
    msg.refused_by = moved.refused_by;
    msg.moved_bytes = moved.moved_bytes;
    msg.fetching = w->counts.fetching;
    msg.peer_bytes = w->counts.peer_bytes;
    call_start(m, &m->beat, TARN_RPC_worker_beat, &msg.base,
               TARN_MAX(2 * m->beat_ns, 2 * TARN_NS_PER_S), member_beaten);
}

static void member_due(struct tarn_timer *t, void *arg)
{
    struct tarn_member *m = arg;
    bool soon = m->soon;

    (void)t; /* m->timer */
    m->soon = false;
    if (m->wanted) {
        member_register(m);
    } else if (m->beat.busy) {
        m->soon = soon;
        member_wait(m, soon ? TARN_MIN(m->beat_ns, MEMBER_CHANGED_NS) : m->beat_ns);
    } else {
        member_beat(m);
        member_wait(m, m->beat_ns);
    }
}

/* The master waits for that: it hears of it soon. */
static void member_settled(void *arg)
{
    struct tarn_member *m = arg;

    if (m->id && !m->wanted)
        member_wait(m, TARN_MIN(m->beat_ns, MEMBER_SOON_NS));
}

/* Who looks right after a load sees what it brought. */
static void member_changed(void *arg)
{
    struct tarn_member *m = arg;
    uint64_t now = tarn_loop_now_ns(m->args.loop), next = m->beaten_ns + MEMBER_CHANGED_NS;

    if (m->soon || m->wanted || !m->id)
        return;
    m->soon = true;
    member_wait(m, TARN_MIN(m->beat_ns, next > now ? next - now : 0));
}

/* ---- registration -----------------------------------------------------------------------------
 */

/* Will not be different the next time. */
static bool member_final(const struct tarn_member *m, int rc)
{
    switch (-rc) {
    case TARN_E_WORKER_TWICE:
    case TARN_E_WORKER_ADDR:
    case TARN_E_OTHER_CLUSTER:
    case TARN_E_UNKNOWN_WORKER: /* removed */
    case TARN_E_DENIED:
    case TARN_E_INVALID:
    case TARN_E_NO_SUCH_RPC:
    case TARN_E_UNSUPPORTED:
        return true;
    case TARN_E_AUTH_BAD:
    case TARN_E_AUTH_REQUIRED:
    case TARN_E_FRAME_VERSION:
        return m->id == 0; /* whoever answers later is not the one that took us */
    default:
        return false;
    }
}

static int member_take(struct tarn_member *m, const Tarn__Wire__WorkerRegistered *resp)
{
    struct tarn_worker *w = m->args.worker;

    if (!resp || resp->id == 0 || resp->cap_key.len != sizeof(w->cap_key))
        return -TARN_E_MSG_BAD;
    if (w->cluster_id[0] && strcmp(resp->cluster_id, w->cluster_id) != 0)
        return -TARN_E_OTHER_CLUSTER;
    if (m->id && m->id != resp->id)
        tarn_warn("member", "has another number now: %llu, was %llu", (unsigned long long)resp->id,
                  (unsigned long long)m->id);
    m->id = resp->id;
    if (resp->beat_ms)
        m->beat_ns = TARN_MIN(TARN_MAX(resp->beat_ms, BEAT_MS_MIN), BEAT_MS_MAX) * TARN_NS_PER_MS;
    tarn_worker_set_identity(w, m->id, resp->cap_key.data);
    tarn_move_set_rate(m->move, resp->move_rate);
    tarn_move_set_linger(m->move, BEATS_LINGER * m->beat_ns);
    member_attachments(m, resp->attachments);
    member_topology(m, resp->topology, false);
    return 0;
}

static void member_registered(struct tarn_rpc_req *req, int rc)
{
    struct tarn_member *m = req->arg;
    Tarn__Wire__WorkerRegistered *resp = (Tarn__Wire__WorkerRegistered *)req->resp;

    m->reg.busy = false;
    req->resp = NULL;
    tarn_rpc_req_fini(req);
    if (m->stopping)
        rc = -TARN_E_CANCELLED;
    if (rc == 0)
        rc = member_take(m, resp);
    if (m->refused) {
        m->wanted = false; /* what it was told says that it was removed */
    } else if (rc == 0) {
        m->wanted = false;
        tarn_info("member", "registered: worker=%llu", (unsigned long long)m->id);
        member_told(m, 0, NULL);
        member_wait(m, m->beat_ns);
    } else if (!m->stopping && member_final(m, rc)) {
        member_refuse(m, rc, resp ? resp->error_text : NULL);
    } else if (!m->stopping) {
        tarn_warn_limited("member", "not registered yet: %s",
                          resp && resp->error_text[0] ? resp->error_text : tarn_strerror(rc));
        member_wait(m, MEMBER_AGAIN_NS);
    }
    if (resp)
        protobuf_c_message_free_unpacked(&resp->base, NULL);
    member_settle(m);
}

static void member_register(struct tarn_member *m)
{
    Tarn__Wire__WorkerRegister msg = TARN__WIRE__WORKER_REGISTER__INIT;
    struct tier_row tier = {.uuid = ""};

    m->wanted = true;
    m->soon = false;
    if (m->reg.busy || m->stopping || m->refused)
        return;
    tarn_timer_stop(&m->timer);
    msg.n_tiers = member_tier(m, &tier);
    msg.tiers = &tier.ptr;
    if (!tier.uuid[0]) {
        member_refuse(m, -TARN_E_FORMAT_BAD,
                      "the cache directory has no id, and none could be written");
        return;
    }
    m->told_offline = tier.info.offline;
    msg.uuid = tier.uuid;
    msg.addr = m->addr;
    msg.host = m->host;
    msg.socket = m->socket;
    msg.weight = m->args.weight;
    msg.incarnation = m->incarnation;
    msg.copies = m->args.copies;
    call_start(m, &m->reg, TARN_RPC_worker_register, &msg.base, MEMBER_REGISTER_NS,
               member_registered);
}

static void member_begin(struct tarn_task *t)
{
    struct tarn_member *m = TARN_CONTAINER(t, struct tarn_member, task);

    m->posted = false;
    if (m->stopping)
        member_settle(m);
    else
        member_register(m);
}

void tarn_member_start(struct tarn_member *m,
                       void (*cb)(void *arg, int rc, const struct tarn_errbuf *err), void *arg)
{
    TARN_ASSERT(!m->started);
    m->started = true;
    m->first = cb;
    m->first_arg = arg;
    m->posted = true;
    tarn_loop_post(m->args.loop, &m->task, member_begin); /* cb never runs inside */
}

void tarn_member_state(struct tarn_member *m, bool connected, int rc)
{
    (void)rc; /* the RPC client logs why */
    if (connected && m->started && !m->posted)
        member_register(m);
    else if (!connected && m->id == 0 && m->started && member_final(m, rc))
        member_refuse(m, rc, NULL);
}

bool tarn_member_registered(const struct tarn_member *m)
{
    return m->id != 0;
}

uint64_t tarn_member_id(const struct tarn_member *m)
{
    return m->id;
}

void tarn_member_counts(const struct tarn_member *m, struct tarn_member_counts *ret)
{
    struct tarn_place *place = tarn_peers_place(m->args.peers);
    struct tarn_move_counts moved;

    tarn_move_counts(m->move, &moved);
    *ret = (struct tarn_member_counts){.left_bytes = moved.left_bytes,
                                       .moved_bytes = moved.moved_bytes,
                                       .refused_bytes = moved.refused_bytes,
                                       .topology = place ? tarn_place_version(place) : 0,
                                       .settled = moved.settled};
}
