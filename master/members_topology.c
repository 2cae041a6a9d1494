/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is published of the members: the topology, with the sets of owners that were.
 *
 * Two kinds of sets make up the past. The journal keeps those that owned segments by registration;
 * beside them, in memory, are those that served in their place: live and alive, as published before
 * somebody went or came back. Both are merged by age, each set once, its youngest end counts.
 *
 * A set is needed until everybody has handed over what he holds by it. Each worker tells for which
 * version of the topology nothing is left; once all that are registered have settled at or after
 * the version that changed owners or servers last, all sets that were known then are dropped.
 *
 * A version is younger than all before, also those of an earlier start of the master: it begins at
 * the real time in ns, and where a peer has a greater one (the clock was set back), above that.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"
#include "lib/base/limits.h"
#include "master/members_priv.h"

#define VERSION_MAX (1ull << 62) /* a peer that has a greater one is broken */

static void topology_publish(struct tarn_timer *t, void *arg);

/* ---- sets ------------------------------------------------------------------------------------ */

static void set_fini(struct mowners *set)
{
    free(set->ids);
    free(set->weights);
    *set = (struct mowners){0};
}

static bool set_same(const struct mowners *a, size_t n, const uint64_t *ids,
                     const uint32_t *weights)
{
    return a->n == n && (n == 0 || (memcmp(a->ids, ids, n * sizeof(*ids)) == 0 &&
                                    memcmp(a->weights, weights, n * sizeof(*weights)) == 0));
}

/* The live workers; with `alive` only those that are. */
static void set_now(const struct mmembers *s, bool alive, struct mowners *ret)
{
    *ret = (struct mowners){.ids = tarn_xcalloc(s->count + 1, sizeof(*ret->ids)),
                            .weights = tarn_xcalloc(s->count + 1, sizeof(*ret->weights))};
    TARN_LIST_FOREACH(n, &s->all)
    {
        const struct mmember *w = TARN_LIST_ENTRY(n, struct mmember, node);

        if (w->rec->state != TARN_WORKER_LIVE || w->rec->weight == 0 || (alive && !w->alive))
            continue;
        ret->ids[ret->n] = w->rec->id;
        ret->weights[ret->n++] = w->rec->weight;
    }
}

static void soft_remove(struct mmembers *s, unsigned i)
{
    set_fini(&s->soft[i]);
    s->soft_n--;
    memmove(&s->soft[i], &s->soft[i + 1], (s->soft_n - i) * sizeof(s->soft[0]));
    s->soft[s->soft_n] = (struct mowners){0};
}

/* `set` has ended; taken. */
static void soft_add(struct mmembers *s, struct mowners *set)
{
    for (unsigned i = 0; i < s->soft_n; i++)
        if (set_same(&s->soft[i], set->n, set->ids, set->weights)) {
            soft_remove(s, i);
            break;
        }
    if (s->soft_n == TARN_PLACE_PAST_MAX)
        soft_remove(s, 0);
    set->index = s->last_index;
    set->version = s->version + 1;
    s->soft[s->soft_n++] = *set;
    *set = (struct mowners){0};
}

static void soft_drop(struct mmembers *s, uint64_t version)
{
    while (s->soft_n > 0 && s->soft[0].version <= version)
        soft_remove(s, 0);
}

/* What is published of a set from now on; true: it is another one. Takes `now`. */
static bool set_replace(struct mowners *old, struct mowners *now)
{
    bool other = !set_same(now, old->n, old->ids, old->weights);

    set_fini(other ? old : now);
    if (other)
        *old = *now;
    return other;
}

/* It is published as alive: most are, and who reads finds out by himself, while bytes of one that
 * is told not to be alive are fetched again. */
bool mmember_awaited(const struct mmembers *s, const struct mmember *w)
{
    return s->grace_ns && w->incarnation == 0 &&
           (w->rec->state == TARN_WORKER_LIVE || w->rec->state == TARN_WORKER_DRAINING);
}

static bool any_awaited(const struct mmembers *s)
{
    TARN_LIST_FOREACH(n, &s->all)
    {
        if (mmember_awaited(s, TARN_LIST_ENTRY(n, struct mmember, node)))
            return true;
    }
    return false;
}

/* Who owns and who serves changes with the topology that is made now. */
static void topology_sets(struct mmembers *s)
{
    struct mowners owners, now;

    set_now(s, false, &owners);
    s->sets_changed |= set_replace(&s->owners, &owners);
    set_now(s, true, &now);
    if (!any_awaited(s))
        s->grace_ns = 0; /* all are here */
    if (s->grace_ns || set_same(&now, s->effective.n, s->effective.ids, s->effective.weights)) {
        set_fini(&now);
        return;
    }
    if (s->effective.n > 0)
        soft_add(s, &s->effective);
    (void)set_replace(&s->effective, &now); /* it is another one, or was taken just now */
    s->sets_changed = true;
}

int mtopology_load_past(struct mmembers *s)
{
    Tarn__Core__Placement *p = NULL;
    int rc;

    rc = tarn_core_placement(s->master->args.kv, &p);
    s->past_stale = rc < 0;
    if (rc < 0)
        return rc;
    tarn__core__placement__free_unpacked(s->past, NULL);
    s->past = p;
    if (p->n_past > 0 && p->past[p->n_past - 1]->index > s->last_index) {
        s->last_index = p->past[p->n_past - 1]->index;
        s->sets_changed = true;
    }
    return 0;
}

bool mtopology_has_past(const struct mmembers *s)
{
    return s->past->n_past > 0 || s->soft_n > 0;
}

/* ---- the message ----------------------------------------------------------------------------- */

static void topology_workers(const struct mmembers *s, Tarn__Wire__Topology *t)
{
    t->workers = tarn_xcalloc(s->count + 1, sizeof(Tarn__Wire__WorkerInfo *));
    TARN_LIST_FOREACH(n, &s->all)
    {
        const struct mmember *w = TARN_LIST_ENTRY(n, struct mmember, node);
        Tarn__Wire__WorkerInfo *i;

        if (w->rec->state == TARN_WORKER_REMOVED && !w->alive && !w->rpc)
            continue;
        i = tarn_xnew(Tarn__Wire__WorkerInfo);
        tarn__wire__worker_info__init(i);
        i->id = w->rec->id;
        i->addr = tarn_xstrdup(w->rec->addr);
        i->host = tarn_xstrdup(w->rec->host);
        i->socket = tarn_xstrdup(w->rec->socket);
        i->weight = w->rec->weight;
        i->state = w->rec->state;
        i->alive = w->alive || mmember_awaited(s, w);
        i->copies = w->rec->copies;
        t->workers[t->n_workers++] = i;
    }
}

/* Ids and weights of a set, borrowed. */
struct past_set {
    size_t n;
    const uint64_t *ids;
    const uint32_t *weights;
};

static bool past_same(const struct past_set *a, const struct past_set *b)
{
    return a->n == b->n && memcmp(a->ids, b->ids, a->n * sizeof(*a->ids)) == 0 &&
           memcmp(a->weights, b->weights, a->n * sizeof(*a->weights)) == 0;
}

/* Both kinds in one order, oldest first. Returns how many there are. */
static size_t past_merge(const struct mmembers *s, struct past_set *ret)
{
    size_t n = 0, soft = 0;

    for (size_t i = 0; i <= s->past->n_past; i++) {
        const Tarn__Core__Members *j = i < s->past->n_past ? s->past->past[i] : NULL;

        for (; soft < s->soft_n && (!j || s->soft[soft].index < j->index); soft++)
            ret[n++] = (struct past_set){s->soft[soft].n, s->soft[soft].ids, s->soft[soft].weights};
        if (j)
            ret[n++] = (struct past_set){j->n_ids, j->ids, j->weights};
    }
    return n;
}

static void past_publish(Tarn__Wire__Topology *t, const struct past_set *set)
{
    Tarn__Wire__Membership *m = tarn_xnew(Tarn__Wire__Membership);

    tarn__wire__membership__init(m);
    m->n_ids = m->n_weights = set->n;
    m->ids = tarn_xcalloc(set->n, sizeof(*m->ids));
    m->weights = tarn_xcalloc(set->n, sizeof(*m->weights));
    memcpy(m->ids, set->ids, set->n * sizeof(*m->ids));
    memcpy(m->weights, set->weights, set->n * sizeof(*m->weights));
    t->past[t->n_past++] = m;
}

/* Each set once, the youngest ones, as many as fit; not the one that owns now. */
static void topology_past(const struct mmembers *s, Tarn__Wire__Topology *t)
{
    struct past_set all[2 * TARN_PLACE_PAST_MAX], chosen[TARN_PLACE_PAST_MAX];
    size_t n = past_merge(s, all), kept = 0, ids = 0;

    TARN_ASSERT(n <= TARN_ARRAY_LEN(all));
    for (size_t i = n; i > 0 && kept < TARN_PLACE_PAST_MAX; i--) {
        const struct past_set *set = &all[i - 1];
        bool known = set_same(&s->owners, set->n, set->ids, set->weights);

        for (size_t k = 0; k < kept && !known; k++)
            known = past_same(&chosen[k], set);
        if (known)
            continue;
        ids += set->n;
        if (ids > TARN_CORE_PAST_IDS_MAX)
            break;
        chosen[kept++] = *set;
    }
    t->past = tarn_xcalloc(kept + 1, sizeof(Tarn__Wire__Membership *));
    while (kept > 0)
        past_publish(t, &chosen[--kept]);
}

static Tarn__Wire__Topology *topology_build(const struct mmembers *s)
{
    Tarn__Wire__Topology *t = tarn_xnew(Tarn__Wire__Topology);

    tarn__wire__topology__init(t);
    t->version = s->version;
    topology_workers(s, t);
    topology_past(s, t);
    return t;
}

const Tarn__Wire__Topology *mmembers_topology(const struct tarn_master *m)
{
    return m->members ? m->members->topology : NULL;
}

/* ---- publishing ------------------------------------------------------------------------------ */

static void topology_make(struct mmembers *s)
{
    struct tarn_place *place = NULL;
    int rc;

    topology_sets(s);
    s->version++;
    if (s->sets_changed)
        s->past_version = s->version;
    s->sets_changed = false;
    s->dirty = false;
    TARN_LIST_FOREACH(n, &s->all)
    {
        struct mmember *w = TARN_LIST_ENTRY(n, struct mmember, node);

        if (w->state_version == UINT64_MAX)
            w->state_version = s->version;
    }
    tarn__wire__topology__free_unpacked(s->topology, NULL);
    s->topology = topology_build(s);
    s->published_ns = tarn_loop_now_ns(s->master->args.loop);
    rc = tarn_place_new(s->topology, &place);
    TARN_ASSERT(rc == 0); /* it is ours */
    tarn_peers_set_place(s->master->peers, place);
    tarn_place_unref(&place);
}

static void topology_push(struct mmembers *s)
{
    TARN_LIST_FOREACH(n, &s->all)
    {
        struct mmember *w = TARN_LIST_ENTRY(n, struct mmember, node);

        if (!w->rpc || w->told == s->version)
            continue;
        w->told = s->version;
        /* One that cannot take it is cut, and gets it when it registers again. */
        (void)tarn_rpc_notify(w->rpc, TARN_RPC_topology, &s->topology->base);
    }
}

static void topology_resume_jobs(struct mmembers *s)
{
    bool alive = false;

    TARN_LIST_FOREACH(n, &s->all)
    {
        const struct mmember *w = TARN_LIST_ENTRY(n, struct mmember, node);

        alive |= w->alive && w->rec->state == TARN_WORKER_LIVE;
    }
    if (!alive || s->resumed)
        return;
    s->resumed = true;
    mjobs_resume(s->master->jobs);
}

static void topology_publish(struct tarn_timer *t, void *arg)
{
    struct mmembers *s = arg;

    (void)t; /* s's */
    topology_make(s);
    mmembers_answer_all(s, 0);
    topology_push(s);
    if (s->master->on_topology)
        s->master->on_topology(s->master);
    topology_resume_jobs(s);
    mtopology_settle(s);
}

void mtopology_dirty(struct mmembers *s)
{
    uint64_t now = tarn_loop_now_ns(s->master->args.loop);
    uint64_t due = s->published_ns + s->count * MEMBERS_PUBLISH_NS;

    if (s->master->stopping || s->dirty)
        return;
    s->dirty = true; /* what else changes in this turn goes with it */
    tarn_timer_start(s->master->args.loop, &s->publish_timer, due > now ? due - now : 0,
                     topology_publish, s);
}

void mtopology_seen(struct mmembers *s, uint64_t version)
{
    if (version <= s->version || version >= VERSION_MAX)
        return;
    tarn_warn_limited(
        "members", "a peer has topology %" PRIu64 ", ours is %" PRIu64 ": was the clock set back?",
        version, s->version);
    s->version = version;
    for (unsigned i = 0; i < s->soft_n; i++)
        s->soft[i].version = version + 1;
    s->sets_changed = true; /* who settled did so for another topology */
    TARN_LIST_FOREACH(n, &s->all)
    {
        TARN_LIST_ENTRY(n, struct mmember, node)->state_version = UINT64_MAX;
    }
    mtopology_dirty(s);
}

void mmembers_seen(struct tarn_master *m, uint64_t version)
{
    if (m->members)
        mtopology_seen(m->members, version);
}

/* ---- attachments ----------------------------------------------------------------------------- */

void mmembers_push_attachments(struct tarn_master *m)
{
    struct mattach_list list;

    if (!m->members || m->stopping)
        return;
    mattach_list(m, false, &list);
    TARN_LIST_FOREACH(n, &m->members->all)
    {
        struct mmember *w = TARN_LIST_ENTRY(n, struct mmember, node);

        if (w->rpc) /* who cannot take it is cut, and gets it when it registers again */
            (void)tarn_rpc_notify(w->rpc, TARN_RPC_attachments, &list.msg.base);
    }
    mattach_list_fini(&list);
}

/* ---- the end of the past --------------------------------------------------------------------- */

struct past_drop {
    struct mproposal p;
    uint64_t version; /* soft sets up to it go, too */
};

static void past_dropped(struct mproposal *p)
{
    struct past_drop *d = TARN_CONTAINER(p, struct past_drop, p);
    struct mmembers *s = p->master->members;

    s->dropping = false;
    if (mproposal_rc(p) == 0 && mtopology_load_past(s) == 0) {
        soft_drop(s, d->version);
        mtopology_dirty(s);
    } /* else the next beat tries again */
    free(d);
}

static void past_forget(struct mmembers *s)
{
    Tarn__Core__Entry e = TARN__CORE__ENTRY__INIT;
    Tarn__Core__PastDrop drop = TARN__CORE__PAST_DROP__INIT;
    struct past_drop *d;

    if (s->past->n_past == 0) {
        soft_drop(s, s->version);
        mtopology_dirty(s);
        return;
    }
    d = tarn_xnew(struct past_drop);
    d->version = s->version;
    drop.upto = s->past->past[s->past->n_past - 1]->index;
    e.past_drop = &drop;
    s->dropping = true;
    TARN_ASSERT(mpropose(s->master, &d->p, &e, past_dropped, d) == 0); /* it is small */
}

void mtopology_settle(struct mmembers *s)
{
    bool any = false;

    if (s->past_stale && mtopology_load_past(s) == 0)
        mtopology_dirty(s);
    if (s->past_stale || s->dropping || s->dirty || s->master->stopping || !mtopology_has_past(s))
        return;
    if (s->owners.n == 0)
        return; /* there is nobody to hand over to */
    TARN_LIST_FOREACH(n, &s->all)
    {
        const struct mmember *w = TARN_LIST_ENTRY(n, struct mmember, node);

        if (w->rec->state != TARN_WORKER_LIVE && w->rec->state != TARN_WORKER_DRAINING)
            continue;
        if (w->settled < s->past_version)
            return;
        any = true;
    }
    if (any)
        past_forget(s);
}

/* ---- our own capability ---------------------------------------------------------------------- */

static void topology_cap(struct tarn_timer *t, void *arg)
{
    struct mmembers *s = arg;
    struct tarn_master *m = s->master;
    Tarn__Wire__CapabilityBody body = TARN__WIRE__CAPABILITY_BODY__INIT;
    Tarn__Wire__CallMeta meta = TARN__WIRE__CALL_META__INIT;
    struct tarn_str cap = {0};

    body.cluster_id = m->cluster_id;
    body.principal = tarn_wire_text("master");
    body.expires_ns = master_real_ns(m) + (int64_t)MEMBERS_CAP_LIFE_NS;
    body.write = true;
    tarn_cap_make(m->cap_key, &body, &cap);
    meta.uid = (uint32_t)getuid();
    meta.gid = (uint32_t)getgid();
    meta.capability = (ProtobufCBinaryData){cap.len, (uint8_t *)cap.p};
    tarn_peers_set_meta(m->peers, &meta);
    tarn_str_fini(&cap);
    tarn_timer_start(m->args.loop, t, MEMBERS_CAP_RENEW_NS, topology_cap, s);
}

/* ---- life ------------------------------------------------------------------------------------ */

void mtopology_start(struct mmembers *s)
{
    int64_t real = master_real_ns(s->master);

    s->version = real > 0 ? (uint64_t)real : 1;
    s->started_ns = tarn_loop_now_ns(s->master->args.loop);
    set_now(s, false, &s->owners);
    set_now(s, false, &s->effective); /* as it was before, as far as we know */
    topology_make(s);
    topology_cap(&s->cap_timer, s);
}

void mtopology_stop(struct mmembers *s)
{
    tarn_timer_stop(&s->publish_timer);
    tarn_timer_stop(&s->cap_timer);
}

void mtopology_fini(struct mmembers *s)
{
    mtopology_stop(s);
    for (unsigned i = 0; i < s->soft_n; i++)
        set_fini(&s->soft[i]);
    set_fini(&s->owners);
    set_fini(&s->effective);
    tarn__core__placement__free_unpacked(s->past, NULL);
    tarn__wire__topology__free_unpacked(s->topology, NULL);
}
