/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Members: workers register, beat and leave; who is not heard of is first not alive, then lost.
 *
 *     register --> live <--> draining          (journalled: what owns segments)
 *                   |  ^        |
 *     worker_lost   v  | heard  v              remove: from any of them
 *                  lost --------+ (it is draining again when it was)
 *
 *     alive: heard of within the lease, and its connection is there, or went less than a second
 *     ago (not journalled: where reads go meanwhile)
 *
 * The same uuid is the same worker, whatever its address; two processes with it at a time are
 * refused (members_register.c). After a start of the master nobody is alive until he registers
 * again, and nobody is missed before the lease is over. Time in which this loop did not run (a
 * suspended host) counts for nobody.
 */
#include "master/members_priv.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"
#include "lib/base/limits.h"

_Static_assert(TARN_CORE_WORKERS_MAX == TARN_PLACE_WORKERS_MAX, "what is kept can be published");
_Static_assert(TARN_CORE_PAST_MAX == TARN_PLACE_PAST_MAX, "the same");

static void members_tick(struct tarn_timer *t, void *arg);

/* ---- the list of them ------------------------------------------------------------------------ */

struct mmember *mmember_by_id(struct mmembers *s, uint64_t id)
{
    TARN_LIST_FOREACH(n, &s->all)
    {
        struct mmember *w = TARN_LIST_ENTRY(n, struct mmember, node);

        if (w->rec->id == id)
            return w;
    }
    return NULL;
}

struct mmember *mmember_by_uuid(struct mmembers *s, const char *uuid)
{
    TARN_LIST_FOREACH(n, &s->all)
    {
        struct mmember *w = TARN_LIST_ENTRY(n, struct mmember, node);

        if (strcmp(w->rec->uuid, uuid) == 0)
            return w;
    }
    return NULL;
}

static void member_free(struct mmembers *s, struct mmember *w)
{
    tarn_list_del(&w->node);
    s->count--;
    tarn__core__worker__free_unpacked(w->rec, NULL);
    tarn__wire__worker_beat__free_unpacked(w->beat, NULL);
    free(w);
}

static struct mmember *member_add(struct mmembers *s, Tarn__Core__Worker *rec)
{
    struct mmember *w = tarn_xnew(struct mmember);

    w->rec = rec;
    w->heard_ns = mmembers_now(s);
    w->state_version = UINT64_MAX;
    tarn_list_push(&s->all, &w->node); /* ids grow */
    s->count++;
    return w;
}

/* Takes up what is committed of a worker; NULL when it is unknown or cannot be read. */
static struct mmember *member_reload(struct mmembers *s, uint64_t id)
{
    struct mmember *w = mmember_by_id(s, id);
    Tarn__Core__Worker *rec = NULL;

    if (tarn_core_worker(s->master->args.kv, id, &rec) < 0)
        return NULL;
    if (!w)
        return member_add(s, rec);
    if (w->rec->state != rec->state)
        w->state_version = UINT64_MAX;
    tarn__core__worker__free_unpacked(w->rec, NULL);
    w->rec = rec;
    return w;
}

/* A new one may have taken the place of one that was removed or lost. */
static void members_trim(struct mmembers *s)
{
    if (s->count <= TARN_CORE_WORKERS_MAX)
        return;
    TARN_LIST_FOREACH_SAFE(n, &s->all)
    {
        struct mmember *w = TARN_LIST_ENTRY(n, struct mmember, node);
        Tarn__Core__Worker *rec = NULL;

        if (tarn_core_worker(s->master->args.kv, w->rec->id, &rec) == -TARN_E_NO_ENTRY)
            member_free(s, w);
        else
            tarn__core__worker__free_unpacked(rec, NULL);
    }
}

/* ---- journalled changes ---------------------------------------------------------------------- */

struct mchange {
    struct mproposal p;
    struct tarn_list node; /* in mmembers.changes */
    uint64_t id;           /* 0: a new one */
    char uuid[TARN_WORKER_UUID_MAX + 1];
    char addr[TARN_WORKER_ADDR_MAX + 1];
    mmember_fn *fn;
    void *arg;
};

bool mmember_joining(const struct mmembers *s, const char *uuid)
{
    TARN_LIST_FOREACH(n, &s->changes)
    {
        const struct mchange *c = TARN_LIST_ENTRY(n, struct mchange, node);

        if (c->id == 0 && strcmp(c->uuid, uuid) == 0)
            return true;
    }
    return false;
}

bool mmember_moving(const struct mmembers *s, const char *addr)
{
    TARN_LIST_FOREACH(n, &s->changes)
    {
        if (strcmp(TARN_LIST_ENTRY(n, const struct mchange, node)->addr, addr) == 0)
            return true;
    }
    return false;
}

static void change_done(struct mproposal *p)
{
    struct mchange *c = TARN_CONTAINER(p, struct mchange, p);
    struct tarn_master *m = p->master;
    struct mmembers *s = m->members;
    struct mmember *w = c->id ? mmember_by_id(s, c->id) : NULL;
    int rc = mproposal_rc(p);

    if (w)
        w->pending = false;
    if (rc == 0) {
        struct mmember *now = member_reload(s, p->p.result.worker);

        rc = now ? mtopology_load_past(s) : -TARN_E_KV;
        w = now ? now : w; /* what cannot be read now is asked for again */
        members_trim(s);
        mtopology_dirty(s);
        mmembers_arm(s);
    }
    tarn_list_del(&c->node);
    c->fn(m, rc, w, c->arg);
    free(c);
}

int mmember_propose(struct mmembers *s, struct mmember *w, const Tarn__Core__Worker *rec,
                    mmember_fn *fn, void *arg)
{
    Tarn__Core__Entry e = TARN__CORE__ENTRY__INIT;
    Tarn__Core__Worker put = *rec;
    struct mchange *c = tarn_xnew(struct mchange);
    int rc;

    TARN_ASSERT(!w || !w->pending);
    put.id = w ? w->rec->id : 0;
    e.worker_put = &put;
    c->id = put.id;
    (void)snprintf(c->uuid, sizeof(c->uuid), "%s", put.uuid); /* checked: it fits */
    (void)snprintf(c->addr, sizeof(c->addr), "%s", put.addr); /* the same */
    c->fn = fn;
    c->arg = arg;
    rc = mpropose(s->master, &c->p, &e, change_done, c);
    if (rc < 0) {
        free(c);
        return rc;
    }
    tarn_list_push(&s->changes, &c->node);
    if (w)
        w->pending = true;
    return 0;
}

/* ---- beats ----------------------------------------------------------------------------------- */

uint32_t mmember_state_back(const Tarn__Core__Worker *rec)
{
    if (rec->state == TARN_WORKER_REMOVED)
        return TARN_WORKER_LIVE;
    if (rec->state == TARN_WORKER_LOST)
        return rec->draining ? TARN_WORKER_DRAINING : TARN_WORKER_LIVE;
    return rec->state;
}

Tarn__Wire__WorkerBeat *mmember_beat_copy(const Tarn__Wire__WorkerBeat *b)
{
    size_t n = tarn__wire__worker_beat__get_packed_size(b);
    TARN_AUTO_FREE uint8_t *buf = NULL;

    if (n > MEMBERS_BEAT_MAX || b->n_tiers > MEMBER_TIERS_MAX || b->n_reads > MEMBER_READS_MAX)
        return NULL;
    buf = tarn_xcalloc(1, n + 1);
    tarn__wire__worker_beat__pack(b, buf);
    return tarn__wire__worker_beat__unpack(NULL, n, buf);
}

void mmember_heard(struct mmembers *s, struct mmember *w, struct tarn_rpc_session *rpc)
{
    w->heard_ns = mmembers_now(s);
    w->rpc = rpc;
    if (w->alive)
        return;
    w->alive = true;
    tarn_info("members", "worker=%" PRIu64 " addr=%s: alive", w->rec->id, w->rec->addr);
    mtopology_dirty(s);
    mmembers_arm(s);
}

static void lost_put(struct tarn_master *m, int rc, struct mmember *w, void *arg)
{
    struct mmembers *s = m->members;

    (void)arg;
    if (rc == 0 || !w)
        return;
    w->retry_ns = mmembers_now(s) + s->lease_ns;
    tarn_warn_limited("members", "worker=%" PRIu64 ": its state cannot be written: %s", w->rec->id,
                      tarn_strerror(rc));
    mmembers_arm(s);
}

/* Lost, or found again. Tried again when it fails. */
static void member_set_state(struct mmembers *s, struct mmember *w, uint32_t state)
{
    Tarn__Core__Worker rec = *w->rec;

    if (w->pending || mmembers_now(s) < w->retry_ns || s->master->stopping)
        return;
    rec.draining = state == TARN_WORKER_LOST && rec.state == TARN_WORKER_DRAINING;
    rec.state = state;
    rec.incarnation = mmember_incarnation(w);
    tarn_info("members", "worker=%" PRIu64 " addr=%s: %s", rec.id, rec.addr,
              tarn_worker_state_name(state));
    TARN_ASSERT(mmember_propose(s, w, &rec, lost_put, NULL) == 0); /* as large as it was */
}

static int beat_check(struct tarn_master *m, const struct tarn_rpc_call *call, uint64_t id,
                      uint64_t incarnation, struct mmember **ret)
{
    if (!m->members)
        return -TARN_E_UNSUPPORTED;
    if (m->stopping || !call->session)
        return -TARN_E_SHUTDOWN;
    *ret = mmember_by_id(m->members, id);
    if (!*ret || (*ret)->incarnation != incarnation || incarnation == 0)
        return -TARN_E_UNKNOWN_WORKER; /* it registers again */
    return 0;
}

static void beat_answer(struct tarn_master *m, struct tarn_rpc_call *call)
{
    const Tarn__Wire__WorkerBeat *req = (const Tarn__Wire__WorkerBeat *)call->request;
    Tarn__Wire__WorkerBeaten resp = TARN__WIRE__WORKER_BEATEN__INIT;
    struct mattach_list list;

    mattach_list(m, false, &list);
    if (req->topology != m->members->version)
        resp.topology = m->members->topology;
    if (req->attachments != list.msg.version)
        resp.attachments = &list.msg;
    resp.move_rate = m->args.move_rate;
    tarn_rpc_reply(call, 0, &resp.base, NULL, 0, 0);
    mattach_list_fini(&list);
}

static void svc_beat(void *ctx, struct tarn_rpc_call *call)
{
    struct tarn_master *m = ctx;
    const Tarn__Wire__WorkerBeat *req = (const Tarn__Wire__WorkerBeat *)call->request;
    Tarn__Wire__WorkerBeat *copy;
    struct mmember *w = NULL;
    int rc;

    rc = beat_check(m, call, req->id, req->incarnation, &w);
    copy = rc == 0 ? mmember_beat_copy(req) : NULL;
    if (rc == 0 && !copy)
        rc = -TARN_E_TOO_BIG;
    if (rc < 0) {
        tarn_rpc_reply(call, rc, NULL, NULL, 0, 0);
        return;
    }
    tarn__wire__worker_beat__free_unpacked(w->beat, NULL);
    w->beat = copy;
    w->settled = req->settled;
    mmember_heard(m->members, w, call->session);
    if (w->rec->state == TARN_WORKER_LOST)
        member_set_state(m->members, w, mmember_state_back(w->rec));
    mtopology_seen(m->members, req->topology);
    mtopology_settle(m->members);
    beat_answer(m, call);
}

/* ---- who is not heard of --------------------------------------------------------------------- */

static void member_silent(struct mmembers *s, struct mmember *w, const char *why)
{
    w->alive = false;
    tarn_info("members", "worker=%" PRIu64 " addr=%s: not alive: %s", w->rec->id, w->rec->addr,
              why);
    mtopology_dirty(s);
    mmembers_arm(s);
}

static void svc_leave(void *ctx, struct tarn_rpc_call *call)
{
    struct tarn_master *m = ctx;
    const Tarn__Wire__WorkerLeave *req = (const Tarn__Wire__WorkerLeave *)call->request;
    Tarn__Wire__Empty resp = TARN__WIRE__EMPTY__INIT;
    struct mmember *w = NULL;
    int rc;

    rc = beat_check(m, call, req->id, req->incarnation, &w);
    if (rc == 0) {
        w->heard_ns = mmembers_now(m->members);
        w->rpc = NULL; /* it listens no more, and a new process may take its place at once */
        if (w->alive)
            member_silent(m->members, w, "it left");
    }
    tarn_rpc_reply(call, rc, rc == 0 ? &resp.base : NULL, NULL, 0, 0);
}

void mmembers_session_gone(struct tarn_master *m, struct tarn_rpc_session *rpc)
{
    struct mmembers *s = m->members;

    if (!s)
        return;
    TARN_LIST_FOREACH(n, &s->all)
    {
        struct mmember *w = TARN_LIST_ENTRY(n, struct mmember, node);

        if (w->rpc != rpc)
            continue;
        w->rpc = NULL;
        w->gone_ns = mmembers_now(s);
        if (w->rec->state == TARN_WORKER_REMOVED) {
            w->alive = false; /* it does not come back by itself */
            mtopology_dirty(s);
        }
    }
    mmembers_arm(s);
}

/* When the next conclusion is drawn about it; UINT64_MAX: none. */
static uint64_t member_due(const struct mmembers *s, const struct mmember *w)
{
    bool member = w->rec->state == TARN_WORKER_LIVE || w->rec->state == TARN_WORKER_DRAINING;
    uint64_t due = w->heard_ns + s->lease_ns;

    if (w->alive && !w->rpc)
        return TARN_MIN(due, w->gone_ns + MEMBERS_GONE_NS);
    if (w->alive)
        return due;
    if (member && !w->pending)
        return TARN_MAX(w->heard_ns + s->lost_ns, w->retry_ns);
    return UINT64_MAX;
}

void mmembers_arm(struct mmembers *s)
{
    uint64_t now = mmembers_now(s), due = s->grace_ns ? s->grace_ns : UINT64_MAX;

    if (s->master->stopping)
        return;
    TARN_LIST_FOREACH(n, &s->all)
    {
        due = TARN_MIN(due, member_due(s, TARN_LIST_ENTRY(n, struct mmember, node)));
    }
    s->tick_due_ns = TARN_MAX(due, now);
    if (due == UINT64_MAX)
        tarn_timer_stop(&s->tick_timer);
    else
        tarn_timer_start(s->master->args.loop, &s->tick_timer, due > now ? due - now : 0,
                         members_tick, s);
}

static uint64_t later(uint64_t at, uint64_t by, uint64_t now)
{
    return TARN_MAX(at, TARN_MIN(at + by, now));
}

/* This loop did not run: nobody could be heard of. Everybody has the time for two more beats. */
static void members_slept(struct mmembers *s, uint64_t ns)
{
    uint64_t now = mmembers_now(s), by = ns + s->lease_ns / MEMBERS_BEATS * 2;

    tarn_warn("members", "the master did not run for %" PRIu64 " ms",
              (uint64_t)(ns / TARN_NS_PER_MS));
    TARN_LIST_FOREACH(n, &s->all)
    {
        struct mmember *w = TARN_LIST_ENTRY(n, struct mmember, node);

        w->heard_ns = later(w->heard_ns, by, now);
        w->gone_ns = later(w->gone_ns, by, now);
    }
    if (s->grace_ns)
        s->grace_ns += ns;
}

static void members_tick(struct tarn_timer *t, void *arg)
{
    struct mmembers *s = arg;
    uint64_t now = mmembers_now(s);

    (void)t; /* s's */
    if (now - s->tick_due_ns > s->lease_ns / MEMBERS_BEATS)
        members_slept(s, now - s->tick_due_ns);
    if (s->grace_ns && now >= s->grace_ns) {
        s->grace_ns = 0;
        mtopology_dirty(s);
    }
    TARN_LIST_FOREACH(n, &s->all)
    {
        struct mmember *w = TARN_LIST_ENTRY(n, struct mmember, node);

        if (now < member_due(s, w))
            continue;
        if (w->alive)
            member_silent(s, w, w->rpc ? "it does not answer" : "its connection is gone");
        else
            member_set_state(s, w, TARN_WORKER_LOST);
    }
    mmembers_arm(s);
}

/* ---- life ------------------------------------------------------------------------------------ */

static int members_load_one(void *arg, const Tarn__Core__Worker *w)
{
    struct mmembers *s = arg;
    struct mmember *loaded = member_reload(s, w->id);

    if (!loaded)
        return -TARN_E_KV;
    if (loaded->rec->state == TARN_WORKER_LIVE || loaded->rec->state == TARN_WORKER_DRAINING) {
        s->grace_ns = mmembers_now(s) + s->lease_ns;
        loaded->heard_ns = s->grace_ns;
    }
    return 0;
}

int mmembers_new(struct tarn_master *m)
{
    struct mmembers *s;
    int rc;

    if (!m->args.cluster)
        return 0;
    s = tarn_xnew(struct mmembers);
    m->members = s;
    s->master = m;
    s->lease_ns = m->args.lease_ns ? m->args.lease_ns : MEMBERS_LEASE_NS;
    s->lost_ns = m->args.worker_lost_ns ? m->args.worker_lost_ns : MEMBERS_LOST_NS;
    tarn_list_init(&s->all);
    tarn_list_init(&s->waiting);
    tarn_list_init(&s->changes);
    rc = tarn_core_workers(m->args.kv, members_load_one, s);
    if (rc == 0)
        rc = mtopology_load_past(s);
    if (rc < 0)
        return rc;
    mtopology_start(s);
    mmembers_arm(s);
    return 0;
}

void mmembers_handlers(struct tarn_master *m, struct tarn_rpc_server *srv)
{
    tarn_rpc_server_handle(srv, TARN_RPC_worker_register, mregister_call, m);
    tarn_rpc_server_handle(srv, TARN_RPC_worker_beat, svc_beat, m);
    tarn_rpc_server_handle(srv, TARN_RPC_worker_leave, svc_leave, m);
    tarn_rpc_server_handle(srv, TARN_RPC_worker_drain, madmin_drain, m);
    tarn_rpc_server_handle(srv, TARN_RPC_worker_remove, madmin_remove, m);
}

void mmembers_stop(struct tarn_master *m)
{
    struct mmembers *s = m->members;

    if (!s)
        return;
    tarn_timer_stop(&s->tick_timer);
    mtopology_stop(s);
    mmembers_answer_all(s, -TARN_E_SHUTDOWN);
}

void mmembers_free(struct tarn_master *m)
{
    struct mmembers *s = m->members;

    m->members = NULL;
    if (!s)
        return;
    TARN_ASSERT(tarn_list_empty(&s->waiting) && tarn_list_empty(&s->changes));
    tarn_timer_stop(&s->tick_timer);
    while (!tarn_list_empty(&s->all))
        member_free(s, TARN_LIST_ENTRY(s->all.next, struct mmember, node));
    mtopology_fini(s);
    free(s);
}
