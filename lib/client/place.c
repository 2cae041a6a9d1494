/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The topology: checked and copied once, then only read. Nodes of each membership are kept in the
 * form that rendezvous hashing takes; a membership of the past names its own weights, since weights
 * change too.
 */
#include "lib/client/place.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/err.h"
#include "lib/base/limits.h"
#include "lib/base/mem.h"
#include "lib/base/rendezvous.h"

_Static_assert(TARN_SEGMENT_BYTES == 64ull << 20, "tarn_segment_of()");
_Static_assert(TARN_PLACE_PICK_MAX == TARN_RENDEZVOUS_PICK_MAX, "one limit");

/* One set of owners. */
struct place_set {
    struct tarn_rendezvous_node *nodes;
    unsigned n;
};

struct tarn_place {
    _Atomic uint32_t refs;
    uint64_t version;
    struct tarn_place_worker *workers; /* by id */
    unsigned n;
    struct place_set live;  /* who owns now */
    struct place_set *past; /* newest first */
    unsigned past_n;
    bool draining; /* a worker that is alive */
};

const char *tarn_worker_state_name(uint32_t state)
{
    static const char *const names[] = {"unknown", "live", "draining", "lost", "removed"};

    return names[state <= TARN_WORKER_REMOVED ? state : 0];
}

static int worker_cmp(const void *a, const void *b)
{
    const struct tarn_place_worker *x = a, *y = b;

    return (x->id > y->id) - (x->id < y->id);
}

static void place_free(struct tarn_place *p)
{
    for (unsigned i = 0; i < p->n; i++) {
        free(p->workers[i].addr);
        free(p->workers[i].host);
        free(p->workers[i].socket);
    }
    for (unsigned i = 0; i < p->past_n; i++)
        free(p->past[i].nodes);
    free(p->past);
    free(p->live.nodes);
    free(p->workers);
    free(p);
}

static void place_live(struct tarn_place *p)
{
    p->live.nodes = tarn_xcalloc(p->n + 1, sizeof(*p->live.nodes));
    for (unsigned i = 0; i < p->n; i++)
        if (p->workers[i].state == TARN_WORKER_LIVE && p->workers[i].weight > 0)
            p->live.nodes[p->live.n++] =
                (struct tarn_rendezvous_node){p->workers[i].id, p->workers[i].weight};
}

static int place_workers(struct tarn_place *p, const Tarn__Wire__Topology *t)
{
    p->workers = tarn_xcalloc(t->n_workers + 1, sizeof(*p->workers));
    for (; p->n < t->n_workers; p->n++) {
        const Tarn__Wire__WorkerInfo *w = t->workers[p->n];

        p->workers[p->n] = (struct tarn_place_worker){.id = w->id,
                                                      .addr = tarn_xstrdup(w->addr),
                                                      .host = tarn_xstrdup(w->host),
                                                      .socket = tarn_xstrdup(w->socket),
                                                      .weight = w->weight,
                                                      .state = w->state,
                                                      .alive = w->alive,
                                                      .copies = w->copies};
        if (w->id == 0 || w->state < TARN_WORKER_LIVE || w->state > TARN_WORKER_REMOVED) {
            p->n++;
            return -TARN_E_MSG_BAD;
        }
        p->draining |= w->state == TARN_WORKER_DRAINING && w->alive;
    }
    qsort(p->workers, p->n, sizeof(*p->workers), worker_cmp);
    for (unsigned i = 1; i < p->n; i++)
        if (p->workers[i].id == p->workers[i - 1].id)
            return -TARN_E_MSG_BAD;
    return 0;
}

static int node_cmp(const void *a, const void *b)
{
    const struct tarn_rendezvous_node *x = a, *y = b;

    return (x->id > y->id) - (x->id < y->id);
}

/* Each id once; the order of nodes has no influence. */
static int place_set_check(struct place_set *s)
{
    if (s->n == 0)
        return 0;
    qsort(s->nodes, s->n, sizeof(*s->nodes), node_cmp);
    for (unsigned i = 1; i < s->n; i++)
        if (s->nodes[i].id == s->nodes[i - 1].id)
            return -TARN_E_MSG_BAD;
    return s->nodes[0].id ? 0 : -TARN_E_MSG_BAD;
}

static int place_past(struct tarn_place *p, const Tarn__Wire__Topology *t)
{
    p->past = tarn_xcalloc(t->n_past + 1, sizeof(*p->past));
    for (size_t i = t->n_past; i > 0; i--) { /* they come oldest first */
        const Tarn__Wire__Membership *m = t->past[i - 1];
        struct place_set *s = &p->past[p->past_n];

        if (m->n_ids != m->n_weights || m->n_ids > TARN_PLACE_WORKERS_MAX)
            return -TARN_E_MSG_BAD;
        p->past_n++;
        s->nodes = tarn_xcalloc(m->n_ids + 1, sizeof(*s->nodes));
        for (size_t k = 0; k < m->n_ids; k++)
            s->nodes[s->n++] = (struct tarn_rendezvous_node){m->ids[k], m->weights[k]};
        if (place_set_check(s) < 0)
            return -TARN_E_MSG_BAD;
    }
    return 0;
}

int tarn_place_new(const Tarn__Wire__Topology *t, struct tarn_place **ret)
{
    struct tarn_place *p;
    int rc;

    if (!t || t->n_workers > TARN_PLACE_WORKERS_MAX || t->n_past > TARN_PLACE_PAST_MAX)
        return -TARN_E_MSG_BAD;
    p = tarn_xnew(struct tarn_place);
    atomic_init(&p->refs, 1);
    p->version = t->version;
    rc = place_workers(p, t);
    if (rc == 0)
        rc = place_past(p, t);
    if (rc < 0) {
        place_free(p);
        return rc;
    }
    place_live(p);
    *ret = p;
    return 0;
}

struct tarn_place *tarn_place_single(uint64_t id)
{
    Tarn__Wire__WorkerInfo w = TARN__WIRE__WORKER_INFO__INIT, *workers[] = {&w};
    Tarn__Wire__Topology t = TARN__WIRE__TOPOLOGY__INIT;
    struct tarn_place *p = NULL;
    int rc;

    w.id = id;
    w.weight = 1;
    w.state = TARN_WORKER_LIVE;
    w.alive = true;
    t.version = 1;
    t.n_workers = 1;
    t.workers = workers;
    rc = tarn_place_new(&t, &p);
    TARN_ASSERT(rc == 0);
    return p;
}

struct tarn_place *tarn_place_ref(struct tarn_place *p)
{
    atomic_fetch_add(&p->refs, 1);
    return p;
}

void tarn_place_unref(struct tarn_place **pp)
{
    struct tarn_place *p = *pp;

    *pp = NULL;
    if (p && atomic_fetch_sub(&p->refs, 1) == 1)
        place_free(p);
}

uint64_t tarn_place_version(const struct tarn_place *p)
{
    return p->version;
}

unsigned tarn_place_count(const struct tarn_place *p)
{
    return p->n;
}

const struct tarn_place_worker *tarn_place_at(const struct tarn_place *p, unsigned i)
{
    return i < p->n ? &p->workers[i] : NULL;
}

const struct tarn_place_worker *tarn_place_find(const struct tarn_place *p, uint64_t id)
{
    struct tarn_place_worker key = {.id = id};

    return p->n ? bsearch(&key, p->workers, p->n, sizeof(*p->workers), worker_cmp) : NULL;
}

bool tarn_place_settled(const struct tarn_place *p)
{
    return p->past_n == 0;
}

/* ---- who owns -------------------------------------------------------------------------------- */

/* The first k of a set that the snapshot still knows. */
static unsigned set_order(const struct tarn_place *p, const struct place_set *s,
                          const tarn_cid_t *cid, uint32_t segment, unsigned k,
                          const struct tarn_place_worker **ret)
{
    uint64_t ids[TARN_PLACE_PICK_MAX];
    unsigned n = tarn_rendezvous_pick(s->nodes, s->n, cid, segment, k, ids), out = 0;

    for (unsigned i = 0; i < n; i++) {
        const struct tarn_place_worker *w = tarn_place_find(p, ids[i]);

        if (w)
            ret[out++] = w;
    }
    return out;
}

static bool known_host(const struct tarn_place_worker *w, const struct tarn_place_worker **have,
                       unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        if (w->host[0] && strcmp(w->host, have[i]->host) == 0)
            return true;
    return false;
}

static bool picked(const struct tarn_place_worker *w, const struct tarn_place_worker **have,
                   unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        if (have[i] == w)
            return true;
    return false;
}

/* Distinct hosts first, then the rest in order. */
static unsigned set_owners(const struct tarn_place *p, const struct place_set *s,
                           const tarn_cid_t *cid, uint32_t segment, uint32_t replicas,
                           const struct tarn_place_worker **ret)
{
    const struct tarn_place_worker *all[TARN_PLACE_PICK_MAX];
    unsigned want = TARN_MIN(replicas ? replicas : 1u, TARN_PLACE_PICK_MAX), out = 0;
    unsigned n = set_order(p, s, cid, segment, want == 1 ? 1 : TARN_PLACE_PICK_MAX, all);

    for (unsigned i = 0; i < n && out < want; i++)
        if (!known_host(all[i], ret, out))
            ret[out++] = all[i];
    for (unsigned i = 0; i < n && out < want; i++)
        if (!picked(all[i], ret, out))
            ret[out++] = all[i];
    return out;
}

unsigned tarn_place_order(const struct tarn_place *p, const tarn_cid_t *cid, uint32_t segment,
                          unsigned k, const struct tarn_place_worker **ret)
{
    return set_order(p, &p->live, cid, segment, TARN_MIN(k, TARN_PLACE_PICK_MAX), ret);
}

unsigned tarn_place_owners(const struct tarn_place *p, const tarn_cid_t *cid, uint32_t segment,
                           uint32_t replicas, const struct tarn_place_worker **ret)
{
    return set_owners(p, &p->live, cid, segment, replicas, ret);
}

bool tarn_place_owns(const struct tarn_place *p, const tarn_cid_t *cid, uint32_t segment,
                     uint32_t replicas, uint64_t id)
{
    const struct tarn_place_worker *owners[TARN_PLACE_PICK_MAX];
    unsigned n = tarn_place_owners(p, cid, segment, replicas, owners);

    for (unsigned i = 0; i < n; i++)
        if (owners[i]->id == id)
            return true;
    return false;
}

static unsigned before_add(const struct tarn_place_worker *const *from, unsigned n, uint64_t self,
                           const struct tarn_place_worker **ret, unsigned have)
{
    for (unsigned i = 0; i < n && have < TARN_PLACE_PICK_MAX; i++)
        if (from[i]->id != self && from[i]->alive && !picked(from[i], ret, have))
            ret[have++] = from[i];
    return have;
}

/* Owners of a set, and for each that is not alive whoever is asked in its place. */
static unsigned before_set(const struct tarn_place *p, const struct place_set *s,
                           const tarn_cid_t *cid, uint32_t segment, uint32_t replicas,
                           uint64_t self, const struct tarn_place_worker **ret, unsigned have)
{
    const struct tarn_place_worker *owners[TARN_PLACE_PICK_MAX], *order[TARN_PLACE_PICK_MAX];
    unsigned n = set_owners(p, s, cid, segment, replicas, owners), m, absent = 0;

    have = before_add(owners, n, self, ret, have);
    for (unsigned i = 0; i < n; i++)
        absent += !owners[i]->alive;
    if (absent == 0)
        return have;
    m = set_order(p, s, cid, segment, TARN_PLACE_PICK_MAX, order);
    for (unsigned i = 0; i < m && absent > 0; i++) {
        if (!order[i]->alive || picked(order[i], owners, n))
            continue;
        have = before_add(&order[i], 1, self, ret, have);
        absent--;
    }
    return have;
}

unsigned tarn_place_before(const struct tarn_place *p, const tarn_cid_t *cid, uint32_t segment,
                           uint32_t replicas, uint64_t self, const struct tarn_place_worker **ret)
{
    unsigned have = before_set(p, &p->live, cid, segment, replicas, self, ret, 0);

    for (unsigned i = 0; i < p->past_n; i++)
        have = before_set(p, &p->past[i], cid, segment, replicas, self, ret, have);
    return have;
}

const struct tarn_place_worker *tarn_place_leaver(const struct tarn_place *p, const tarn_cid_t *cid,
                                                  uint32_t segment)
{
    if (!p->draining || p->live.n == 0)
        return NULL;
    for (unsigned i = 0; i < p->past_n; i++) {
        const struct tarn_place_worker *w;

        if (set_order(p, &p->past[i], cid, segment, 1, &w) == 1 &&
            w->state == TARN_WORKER_DRAINING && w->alive)
            return w;
    }
    return NULL;
}
