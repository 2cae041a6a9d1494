/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an administrator does with workers: drain (it hands over what it has, and owns nothing any
 * more), remove, and the rows of status. Nothing that would have to be fetched from a store again
 * goes without `force`.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"
#include "lib/base/units.h"
#include "master/members_priv.h"

bool mmember_drained(const struct mmember *w)
{
    return w->rec->state == TARN_WORKER_DRAINING && w->settled >= w->state_version;
}

/* What it has of files in its tiers, as it said last. */
static uint64_t member_bytes(const struct mmember *w)
{
    uint64_t bytes = 0;

    for (size_t i = 0; w->beat && i < w->beat->n_tiers; i++)
        bytes += w->beat->tiers[i]->data; /* `used` has its index too, also of an empty one */
    return bytes;
}

static bool member_offline(const struct mmember *w)
{
    for (size_t i = 0; w->beat && i < w->beat->n_tiers; i++)
        if (w->beat->tiers[i]->offline)
            return true;
    return false;
}

uint64_t mmembers_silent_ns(const struct tarn_master *m, uint64_t id)
{
    const struct mmember *w = m->members ? mmember_by_id(m->members, id) : NULL;

    if (!w)
        return m->args.clock->mono_ns(m->args.clock) - m->started_ns;
    return tarn_loop_now_ns(m->args.loop) - (w->incarnation ? w->heard_ns : m->members->started_ns);
}

/* What would be fetched from stores again if it went now. */
static uint64_t member_left(const struct mmember *w)
{
    if (mmember_drained(w) || w->rec->state == TARN_WORKER_LOST ||
        w->rec->state == TARN_WORKER_REMOVED)
        return 0;
    if (w->rec->state == TARN_WORKER_DRAINING && w->beat && w->beat->topology >= w->state_version)
        return w->beat->left_bytes;
    return member_bytes(w);
}

static bool member_owns(const struct mmember *w)
{
    return w->rec->state == TARN_WORKER_LIVE && w->rec->weight > 0;
}

/*
 * Whether another one owns things, and could take those of `w`: one that is alive, if `w` is. 0;
 * -TARN_E_NO_WORKER; -TARN_E_BUSY: that is seen soon, a change of it is being committed, or we have
 * just started and it has not come yet.
 */
static int members_other(const struct mmembers *s, const struct mmember *w)
{
    bool there = w->alive || mmember_awaited(s, w);
    int rc = -TARN_E_NO_WORKER;

    TARN_LIST_FOREACH(n, &s->all)
    {
        const struct mmember *o = TARN_LIST_ENTRY(n, struct mmember, node);

        if (o == w || !member_owns(o))
            continue;
        if (!o->pending && (o->alive || !there))
            return 0;
        if (o->pending || mmember_awaited(s, o))
            rc = -TARN_E_BUSY;
    }
    return rc;
}

/* ---- calls ----------------------------------------------------------------------------------- */

static void admin_reply(struct tarn_rpc_call *call, int rc, const struct mmember *w,
                        const struct tarn_errbuf *err)
{
    Tarn__Wire__WorkerAdminResponse resp = TARN__WIRE__WORKER_ADMIN_RESPONSE__INIT;

    if (w)
        resp.left_bytes = member_left(w);
    if (rc < 0)
        resp.error_text = tarn_wire_text(tarn_err_text(err, rc));
    tarn_rpc_reply(call, rc, &resp.base, NULL, 0, 0);
}

static void admin_put(struct tarn_master *m, int rc, struct mmember *w, void *arg)
{
    (void)m;
    admin_reply(arg, rc, w, NULL);
}

/* The worker that is meant; it may be changed now. */
static int admin_find(struct tarn_master *m, const Tarn__Wire__WorkerAdmin *req,
                      struct mmember **ret, struct tarn_errbuf *err)
{
    struct mmember *w;

    if (!m->members)
        return tarn_err_set(err, -TARN_E_UNSUPPORTED, "this master serves one process, no cluster");
    if (m->stopping)
        return -TARN_E_SHUTDOWN;
    w = mmember_by_id(m->members, req->id);
    if (!w)
        return tarn_err_set(err, -TARN_E_UNKNOWN_WORKER, "no worker %" PRIu64, req->id);
    if (w->pending)
        return -TARN_E_BUSY;
    *ret = w;
    return 0;
}

/* The last one that owns anything stays, unless somebody insists. */
static int admin_last(const struct mmembers *s, const struct mmember *w, bool force,
                      struct tarn_errbuf *err)
{
    char bytes[32];
    int rc = force || !member_owns(w) ? 0 : members_other(s, w);

    if (rc == 0)
        return 0;
    if (rc == -TARN_E_BUSY)
        return tarn_err_set(err, rc,
                            "who could take what worker %" PRIu64 " has is not known yet: the "
                            "master has just started, or another worker is being changed; try "
                            "again",
                            w->rec->id);
    return tarn_err_set(err, -TARN_E_NOT_DRAINED,
                        "worker %" PRIu64 " is the last one%s: no other that owns anything could "
                        "take its %s (start another one first; --force gives it up)",
                        w->rec->id, w->alive ? " that is alive" : "",
                        tarn_format_size(member_bytes(w), bytes));
}

/* To another state, or, when it is in it, only the answer. */
static void admin_state(struct tarn_master *m, struct tarn_rpc_call *call, struct mmember *w,
                        uint32_t state)
{
    Tarn__Core__Worker rec = *w->rec;
    int rc;

    if (rec.state == state) {
        admin_reply(call, 0, w, NULL);
        return;
    }
    rec.state = state;
    rec.draining = false;
    rec.incarnation = mmember_incarnation(w);
    tarn_info("members", "worker=%" PRIu64 " addr=%s: %s, as asked", rec.id, rec.addr,
              tarn_worker_state_name(state));
    rc = mmember_propose(m->members, w, &rec, admin_put, call);
    if (rc < 0)
        admin_reply(call, rc, w, NULL);
}

void madmin_drain(void *ctx, struct tarn_rpc_call *call)
{
    struct tarn_master *m = ctx;
    const Tarn__Wire__WorkerAdmin *req = (const Tarn__Wire__WorkerAdmin *)call->request;
    struct tarn_errbuf err = {0};
    struct mmember *w = NULL;
    int rc;

    rc = admin_find(m, req, &w, &err);
    if (rc == 0 && w->rec->state != TARN_WORKER_LIVE && w->rec->state != TARN_WORKER_DRAINING)
        rc = tarn_err_set(&err, -TARN_E_INVALID, "worker %" PRIu64 " is %s", req->id,
                          tarn_worker_state_name(w->rec->state));
    if (rc == 0 && !req->undo)
        rc = admin_last(m->members, w, req->force, &err);
    if (rc < 0)
        admin_reply(call, rc, w, &err);
    else
        admin_state(m, call, w, req->undo ? TARN_WORKER_LIVE : TARN_WORKER_DRAINING);
}

static int admin_may_remove(const struct mmember *w, bool force, struct tarn_errbuf *err)
{
    char bytes[32];

    if (force || mmember_drained(w) || w->rec->state == TARN_WORKER_LOST ||
        w->rec->state == TARN_WORKER_REMOVED)
        return 0;
    if (!w->beat || member_offline(w))
        return tarn_err_set(err, -TARN_E_NOT_DRAINED,
                            "worker %" PRIu64 " at %s %s: what it has is known once it is started "
                            "again; --force gives it up",
                            w->rec->id, w->rec->addr,
                            w->beat ? "has a cache that failed" : "was not heard of yet");
    return tarn_err_set(
        err, -TARN_E_NOT_DRAINED,
        "worker %" PRIu64 " at %s is %s: %s would be fetched from the store again "
        "(%s`tarn worker drain %" PRIu64 " --wait` hands it over first; --force gives it up)",
        w->rec->id, w->rec->addr, w->alive ? tarn_worker_state_name(w->rec->state) : "not alive",
        tarn_format_size(member_left(w), bytes), w->alive ? "" : "once it is back, ", w->rec->id);
}

void madmin_remove(void *ctx, struct tarn_rpc_call *call)
{
    struct tarn_master *m = ctx;
    const Tarn__Wire__WorkerAdmin *req = (const Tarn__Wire__WorkerAdmin *)call->request;
    struct tarn_errbuf err = {0};
    struct mmember *w = NULL;
    int rc;

    rc = admin_find(m, req, &w, &err);
    if (rc == 0)
        rc = admin_last(m->members, w, req->force, &err);
    if (rc == 0)
        rc = admin_may_remove(w, req->force, &err);
    if (rc < 0)
        admin_reply(call, rc, w, &err);
    else
        admin_state(m, call, w, TARN_WORKER_REMOVED);
}

/* ---- status ---------------------------------------------------------------------------------- */

static void status_row(const struct mmembers *s, const struct mmember *w,
                       Tarn__Wire__WorkerStatus *row)
{
    tarn__wire__worker_status__init(row);
    row->id = w->rec->id;
    row->addr = w->rec->addr;
    row->host = w->rec->host;
    row->state = tarn_wire_text(tarn_worker_state_name(w->rec->state));
    row->alive = w->alive;
    row->weight = w->rec->weight;
    row->left_bytes = w->rec->state == TARN_WORKER_DRAINING ? member_left(w) : 0;
    row->settled = w->settled >= (w->rec->state == TARN_WORKER_DRAINING ? w->state_version
                                                                        : s->past_version) ||
                   (w->rec->state == TARN_WORKER_LIVE && !mtopology_has_past(s));
    row->heard_ms = mmembers_silent_ns(s->master, w->rec->id) / TARN_NS_PER_MS;
    row->unreached = w->alive && mworker_unreached(s->master, w->rec->id);
    if (!w->beat)
        return;
    if (w->rec->state == TARN_WORKER_LIVE && !row->settled)
        row->left_bytes = w->beat->left_bytes;
    row->n_tiers = w->beat->n_tiers;
    row->tiers = w->beat->tiers;
    row->n_reads = w->beat->n_reads;
    row->reads = w->beat->reads;
    if (w->alive) {
        row->refused_bytes = w->beat->refused_bytes;
        row->refused_by = w->beat->refused_by;
    }
    row->moved_bytes = w->beat->moved_bytes;
    row->peer_bytes = w->beat->peer_bytes;
}

Tarn__Wire__WorkerStatus **mmembers_status(struct tarn_master *m, size_t *ret_n)
{
    struct mmembers *s = m->members;
    Tarn__Wire__WorkerStatus **rows, *row;
    size_t n = 0;

    rows = tarn_xcalloc(s->count + 1, sizeof(*rows) + sizeof(*row));
    row = (void *)(rows + s->count + 1);
    TARN_LIST_FOREACH(node, &s->all)
    {
        const struct mmember *w = TARN_LIST_ENTRY(node, struct mmember, node);

        if (w->rec->state == TARN_WORKER_REMOVED &&
            master_real_ns(m) - w->rec->since_ns > (int64_t)MEMBERS_REPORTED_NS)
            continue;
        status_row(s, w, &row[n]);
        rows[n] = &row[n];
        n++;
    }
    *ret_n = n;
    return rows;
}

void mmembers_counts(const struct tarn_master *m, uint64_t *ret_alive, uint64_t *ret_registered)
{
    *ret_alive = *ret_registered = 0;
    if (!m->members)
        return;
    TARN_LIST_FOREACH(n, &m->members->all)
    {
        const struct mmember *w = TARN_LIST_ENTRY(n, struct mmember, node);
        bool member = w->rec->state == TARN_WORKER_LIVE || w->rec->state == TARN_WORKER_DRAINING;

        *ret_registered += member;
        *ret_alive += member && w->alive;
    }
}
