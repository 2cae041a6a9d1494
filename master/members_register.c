/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Registration: a worker says who it is, is found by its uuid or gets a number, and is answered
 * when its entry is committed and the topology that has it is made. Nothing is journalled when
 * nothing is new, so that a master or a network that comes and goes moves nothing.
 */
#include "master/members_priv.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/env.h"
#include "lib/base/limits.h"

#define GIB               (1ull << 30)
#define MEMBER_COPIES_MAX 2u
#define JITTER            10u /* a change of capacity below its tenth part moves nothing */

/* A registration until its answer. The request stays the call's. */
struct mregister {
    struct tarn_list node; /* in mmembers.waiting */
    struct tarn_master *master;
    struct tarn_rpc_call *call;
    uint64_t id; /* of the worker, once it is known */
};

static void register_refuse(struct tarn_rpc_call *call, int rc, const struct tarn_errbuf *err)
{
    Tarn__Wire__WorkerRegistered resp = TARN__WIRE__WORKER_REGISTERED__INIT;

    resp.error_text = tarn_wire_text(tarn_err_text(err, rc));
    tarn_rpc_reply(call, rc, &resp.base, NULL, 0, 0);
}

static void register_answer(struct mregister *r)
{
    struct tarn_master *m = r->master;
    struct mmembers *s = m->members;
    Tarn__Wire__WorkerRegistered resp = TARN__WIRE__WORKER_REGISTERED__INIT;
    struct mmember *w = mmember_by_id(s, r->id);
    struct mattach_list attachments;

    mattach_list(m, false, &attachments);
    resp.id = r->id;
    resp.cluster_id = m->cluster_id;
    resp.cap_key = tarn_wire_bytes(m->cap_key, sizeof(m->cap_key));
    resp.beat_ms = TARN_MAX(s->lease_ns / MEMBERS_BEATS / TARN_NS_PER_MS, 1ull);
    resp.topology = s->topology;
    resp.attachments = &attachments.msg;
    resp.move_rate = m->args.move_rate;
    if (w)
        w->told = s->version;
    tarn_rpc_reply(r->call, 0, &resp.base, NULL, 0, 0);
    mattach_list_fini(&attachments);
    free(r);
}

void mmembers_answer_all(struct mmembers *s, int rc)
{
    struct tarn_list *n;

    while ((n = tarn_list_pop(&s->waiting))) {
        struct mregister *r = TARN_LIST_ENTRY(n, struct mregister, node);

        if (rc == 0) {
            register_answer(r);
            continue;
        }
        register_refuse(r->call, rc, NULL);
        free(r);
    }
}

/* Another process with this directory is at work. */
static int register_twice(struct mmembers *s, const struct mmember *w,
                          const struct tarn_rpc_call *call, struct tarn_errbuf *err)
{
    const Tarn__Wire__WorkerRegister *req = (const Tarn__Wire__WorkerRegister *)call->request;

    if (!w->rpc || w->rpc == call->session || w->incarnation == req->incarnation ||
        mmembers_now(s) - w->heard_ns >= s->lease_ns)
        return 0;
    return tarn_err_set(err, -TARN_E_WORKER_TWICE,
                        "worker %" PRIu64 " with this directory is alive at %s", w->rec->id,
                        w->rec->addr);
}

/* What is known of it before its first beat. */
static Tarn__Wire__WorkerBeat *register_beat(const Tarn__Wire__WorkerRegister *req)
{
    Tarn__Wire__WorkerBeat b = TARN__WIRE__WORKER_BEAT__INIT;

    b.n_tiers = req->n_tiers;
    b.tiers = req->tiers;
    return mmember_beat_copy(&b);
}

/* One connection is one worker: whoever was there before it is gone. */
static void session_release(struct mmembers *s, const struct mmember *w,
                            const struct tarn_rpc_session *rpc)
{
    TARN_LIST_FOREACH(n, &s->all)
    {
        struct mmember *other = TARN_LIST_ENTRY(n, struct mmember, node);

        if (other == w || other->rpc != rpc)
            continue;
        other->rpc = NULL;
        other->gone_ns = mmembers_now(s);
        mmembers_arm(s);
    }
}

/* The worker is in the journal as it wants to be. */
static void register_taken(struct mmembers *s, struct mregister *r, struct mmember *w)
{
    const Tarn__Wire__WorkerRegister *req = (const Tarn__Wire__WorkerRegister *)r->call->request;
    Tarn__Wire__WorkerBeat *beat = register_beat(req);

    r->id = w->rec->id;
    if (r->call->session) { /* else it went while the journal was written */
        w->incarnation = req->incarnation;
        w->settled = 0;
        tarn__wire__worker_beat__free_unpacked(w->beat, NULL);
        w->beat = beat;
        beat = NULL;
        session_release(s, w, r->call->session);
        mmember_heard(s, w, r->call->session);
    }
    tarn__wire__worker_beat__free_unpacked(beat, NULL);
    if (s->dirty)
        tarn_list_push(&s->waiting, &r->node);
    else
        register_answer(r);
}

static void register_committed(struct tarn_master *m, int rc, struct mmember *w, void *arg)
{
    struct mregister *r = arg;
    struct tarn_errbuf err = {0};

    if (m->stopping)
        rc = -TARN_E_SHUTDOWN;
    else if (rc == -TARN_E_TOO_BIG)
        (void)tarn_err_set(&err, rc, "there are %u workers already; remove some",
                           TARN_CORE_WORKERS_MAX); /* rc is known */
    else if (rc == -TARN_E_UNKNOWN_WORKER)
        rc = -TARN_E_BUSY; /* forgotten just now: it is a new one the next time */
    else if (rc == 0)
        rc = register_twice(m->members, w, r->call, &err);
    if (rc < 0) {
        register_refuse(r->call, rc, &err);
        free(r);
        return;
    }
    register_taken(m->members, r, w);
}

/* By capacity, in GiB. */
static uint32_t weight_of(uint64_t capacity)
{
    return (uint32_t)TARN_MAX(TARN_MIN(capacity / GIB, (uint64_t)UINT32_MAX), 1ull);
}

static bool capacity_same(uint64_t was, uint64_t now)
{
    uint64_t diff = was > now ? was - now : now - was;

    return was == now || diff < was / JITTER;
}

/* The record as the request wants it; texts are the request's. True: it differs from `old`. */
static bool register_record(const Tarn__Core__Worker *old, const Tarn__Wire__WorkerRegister *req,
                            Tarn__Core__Worker *ret)
{
    size_t offline = 0;

    tarn__core__worker__init(ret);
    ret->uuid = req->uuid;
    ret->addr = req->addr;
    ret->host = req->host;
    ret->socket = req->socket;
    ret->copies = req->copies;
    ret->incarnation = req->incarnation; /* alone it is nothing new */
    ret->state = TARN_WORKER_LIVE;
    for (size_t i = 0; i < req->n_tiers; i++) {
        if (!req->tiers[i]->offline)
            ret->capacity += TARN_MIN(req->tiers[i]->capacity, UINT64_MAX / MEMBER_TIERS_MAX);
        offline += req->tiers[i]->offline;
    }
    if (old && capacity_same(old->capacity, ret->capacity))
        ret->capacity = old->capacity;
    if (offline == 0 || offline < req->n_tiers) /* else nothing that it is given would stay */
        ret->weight = req->weight ? req->weight : weight_of(ret->capacity);
    if (!old)
        return true;
    ret->state = mmember_state_back(old);
    return strcmp(old->addr, ret->addr) != 0 || strcmp(old->host, ret->host) != 0 ||
           strcmp(old->socket, ret->socket) != 0 || old->weight != ret->weight ||
           old->capacity != ret->capacity || old->copies != ret->copies ||
           old->state != ret->state || old->draining;
}

/* The same as the core asks for, said so that a person can mend it. */
static int text_check(const char *what, const char *s, size_t min, size_t max, bool path,
                      struct tarn_errbuf *err)
{
    size_t n = strlen(s);

    if (n < min || n > max)
        return tarn_err_set(err, -TARN_E_INVALID, "%s: %zu bytes, not %zu to %zu", what, n, min,
                            max);
    for (size_t i = 0; i < n; i++)
        if (path ? (uint8_t)s[i] < ' ' : s[i] <= ' ' || s[i] > '~')
            return tarn_err_set(err, -TARN_E_INVALID, "%s: a character that is not printable",
                                what);
    return 0;
}

static int register_check(const Tarn__Wire__WorkerRegister *req, struct tarn_errbuf *err)
{
    int rc;

    rc = text_check("uuid", req->uuid, TARN_WORKER_UUID_MIN, TARN_WORKER_UUID_MAX, false, err);
    if (rc == 0)
        rc = text_check("address", req->addr, 1, TARN_WORKER_ADDR_MAX, false, err);
    if (rc == 0)
        rc = text_check("host", req->host, 0, TARN_WORKER_HOST_MAX, false, err);
    if (rc == 0)
        rc = text_check("socket", req->socket, 0, TARN_WORKER_SOCKET_MAX, true, err);
    if (rc < 0)
        return rc;
    if (req->incarnation == 0 || req->copies > MEMBER_COPIES_MAX)
        return tarn_err_set(err, -TARN_E_INVALID, "incarnation %" PRIu64 ", copies %u",
                            req->incarnation, req->copies);
    if (req->n_tiers > MEMBER_TIERS_MAX)
        return tarn_err_set(err, -TARN_E_INVALID, "%zu tiers, at most %u", req->n_tiers,
                            MEMBER_TIERS_MAX);
    return 0;
}

/*
 * An address says where one worker is: asked there for another's bytes, it would answer for both.
 * Who is not heard of loses it to whoever comes; who has just gone, or has had no time yet to come
 * back after our start, may still be there.
 */
static int register_addr(const struct mmembers *s, const struct mmember *w,
                         const struct tarn_rpc_call *call, struct tarn_errbuf *err)
{
    const Tarn__Wire__WorkerRegister *req = (const Tarn__Wire__WorkerRegister *)call->request;
    bool moves = !w || strcmp(w->rec->addr, req->addr) != 0;

    TARN_LIST_FOREACH(n, &s->all)
    {
        const struct mmember *o = TARN_LIST_ENTRY(n, struct mmember, node);
        bool missed = s->grace_ns && !o->incarnation &&
                      (o->rec->state == TARN_WORKER_LIVE || o->rec->state == TARN_WORKER_DRAINING);

        if (o == w || strcmp(o->rec->addr, req->addr) != 0 || o->rpc == call->session)
            continue; /* one connection is one worker: it was that one before */
        if (o->alive && o->rpc)
            return tarn_err_set(err, -TARN_E_WORKER_ADDR,
                                "address %s is that of worker %" PRIu64 " (host %s), which is "
                                "alive: each needs one of its own that all others reach "
                                "(--listen, --advertise)",
                                req->addr, o->rec->id, o->rec->host);
        if (moves && (missed || o->alive))
            return -TARN_E_BUSY;
    }
    return moves && mmember_moving(s, req->addr) ? -TARN_E_BUSY : 0;
}

/* One that is known. */
static int register_worker(struct mmembers *s, const struct mmember *w,
                           const struct tarn_rpc_call *call, struct tarn_errbuf *err)
{
    const Tarn__Wire__WorkerRegister *req = (const Tarn__Wire__WorkerRegister *)call->request;

    if (w->rec->state == TARN_WORKER_REMOVED && mmember_incarnation(w) == req->incarnation)
        return tarn_err_set(err, -TARN_E_UNKNOWN_WORKER,
                            "worker %" PRIu64 " was removed; it joins anew when it is started anew",
                            w->rec->id);
    if (w->pending)
        return -TARN_E_BUSY;
    return register_twice(s, w, call, err);
}

/* May it join now, as far as is known before the journal? */
static int register_admit(struct tarn_master *m, const struct mmember *w,
                          const struct tarn_rpc_call *call, struct tarn_errbuf *err)
{
    const Tarn__Wire__WorkerRegister *req = (const Tarn__Wire__WorkerRegister *)call->request;
    int rc;

    if (!m->members)
        return tarn_err_set(err, -TARN_E_UNSUPPORTED, "this master serves one process, no cluster");
    if (m->stopping || !call->session)
        return -TARN_E_SHUTDOWN;
    rc = register_check(req, err);
    if (rc == 0 && !w && mmember_joining(m->members, req->uuid))
        return -TARN_E_BUSY; /* by then it is known who has the directory */
    if (rc == 0 && w)
        rc = register_worker(m->members, w, call, err);
    return rc < 0 ? rc : register_addr(m->members, w, call, err);
}

void mregister_call(void *ctx, struct tarn_rpc_call *call)
{
    struct tarn_master *m = ctx;
    const Tarn__Wire__WorkerRegister *req = (const Tarn__Wire__WorkerRegister *)call->request;
    struct mmember *w = m->members ? mmember_by_uuid(m->members, req->uuid) : NULL;
    struct tarn_errbuf err = {0};
    struct mregister *r;
    Tarn__Core__Worker rec;
    int rc;

    rc = register_admit(m, w, call, &err);
    if (rc < 0) {
        register_refuse(call, rc, &err);
        return;
    }
    mtopology_seen(m->members, req->topology);
    r = tarn_xnew(struct mregister);
    r->master = m;
    r->call = call;
    if (!register_record(w ? w->rec : NULL, req, &rec)) {
        register_taken(m->members, r, w);
        return;
    }
    rc = mmember_propose(m->members, w, &rec, register_committed, r);
    if (rc < 0) {
        register_refuse(call, rc, NULL);
        free(r);
    }
}
