/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Membership: the workers that are known, the sets of owners that were, and the key of
 * capabilities.
 *
 * A set of owners is the live workers with a weight, by id. Whatever entry ends one, the set that
 * it ended goes into Placement with that entry's index; a set is kept once, with the index of the
 * last entry that ended it, so that workers which come and go do not push out the others. There are
 * never more than TARN_CORE_WORKERS_MAX workers: a new one takes the place of one that was removed
 * or, after those, lost, the one that is so for longest.
 */
#include <stdlib.h>

#include "master/core/core_priv.h"

/* All workers, read once. */
struct members {
    Tarn__Core__Worker **w; /* by id */
    size_t n;
};

/* ---- reading
 * ------------------------------------------------------------------------------------------ */

static int members_load(struct core_tx *tx, struct members *ret)
{
    const uint8_t tag = CORE_TAG_WORKER;
    struct tarn_kv_iter *it =
        tarn_kv_iter_new(tx->src.kv, tx->src.b, TARN_CF_META, tarn_kv_slice(&tag, 1));
    int rc;

    *ret = (struct members){0};
    ret->w = core_arena_alloc(&tx->arena, TARN_CORE_WORKERS_MAX * sizeof(Tarn__Core__Worker *));
    while ((rc = tarn_kv_iter_next(it)) == 1) {
        void *m;

        rc = ret->n == TARN_CORE_WORKERS_MAX ? -TARN_E_KV_CORRUPT
                                             : core_decode(&tarn__core__worker__descriptor,
                                                           tarn_kv_iter_value(it), &tx->al, &m);
        if (rc < 0)
            break;
        ret->w[ret->n++] = m;
    }
    tarn_kv_iter_free(&it);
    return rc;
}

static int members_placement(struct core_tx *tx, Tarn__Core__Placement **ret)
{
    struct core_key k;
    void *m;
    int rc;

    core_key_single(&k, CORE_X_PLACEMENT);
    rc = core_get_message(&tx->src, TARN_CF_META, &k, &tarn__core__placement__descriptor, &tx->al,
                          &m);
    if (rc == -TARN_E_NO_ENTRY) {
        m = core_arena_alloc(&tx->arena, sizeof(**ret));
        tarn__core__placement__init(m);
        rc = 0;
    }
    if (rc == 0)
        *ret = m;
    return rc;
}

static Tarn__Core__Worker *members_by_id(const struct members *all, uint64_t id)
{
    for (size_t i = 0; i < all->n; i++)
        if (all->w[i]->id == id)
            return all->w[i];
    return NULL;
}

static Tarn__Core__Worker *members_by_uuid(const struct members *all, const char *uuid)
{
    for (size_t i = 0; i < all->n; i++)
        if (strcmp(all->w[i]->uuid, uuid) == 0)
            return all->w[i];
    return NULL;
}

/* ---- sets of owners
 * ----------------------------------------------------------------------------------- */

static Tarn__Core__Members *members_owners(struct core_tx *tx, const struct members *all)
{
    Tarn__Core__Members *set = core_arena_alloc(&tx->arena, sizeof(*set));

    tarn__core__members__init(set);
    set->ids = core_arena_alloc(&tx->arena, (all->n + 1) * sizeof(*set->ids));
    set->weights = core_arena_alloc(&tx->arena, (all->n + 1) * sizeof(*set->weights));
    for (size_t i = 0; i < all->n; i++) {
        if (all->w[i]->state != CORE_WORKER_LIVE || all->w[i]->weight == 0)
            continue;
        set->ids[set->n_ids++] = all->w[i]->id;
        set->weights[set->n_weights++] = all->w[i]->weight;
    }
    set->index = tx->index;
    return set;
}

static bool members_same(const Tarn__Core__Members *a, const Tarn__Core__Members *b)
{
    return a->n_ids == b->n_ids && memcmp(a->ids, b->ids, a->n_ids * sizeof(*a->ids)) == 0 &&
           memcmp(a->weights, b->weights, a->n_ids * sizeof(*a->weights)) == 0;
}

static void members_put_placement(struct core_tx *tx, const Tarn__Core__Placement *p)
{
    struct core_key k;

    core_key_single(&k, CORE_X_PLACEMENT);
    core_tx_put(tx, TARN_CF_META, &k, &p->base);
}

/* `set` has ended. */
static void members_past_add(struct core_tx *tx, const Tarn__Core__Placement *old,
                             Tarn__Core__Members *set)
{
    Tarn__Core__Placement p = TARN__CORE__PLACEMENT__INIT;
    size_t ids = set->n_ids, first = 0;

    p.past = core_arena_alloc(&tx->arena, (old->n_past + 1) * sizeof(*p.past));
    for (size_t i = 0; i < old->n_past; i++) {
        if (members_same(old->past[i], set))
            continue;
        p.past[p.n_past++] = old->past[i];
        ids += old->past[i]->n_ids;
    }
    p.past[p.n_past++] = set;
    while (p.n_past - first > TARN_CORE_PAST_MAX ||
           (ids > TARN_CORE_PAST_IDS_MAX && p.n_past - first > 1))
        ids -= p.past[first++]->n_ids;
    p.past += first;
    p.n_past -= first;
    members_put_placement(tx, &p);
}

/* ---- entries
 * ------------------------------------------------------------------------------------------ */

/* Printable, without spaces; a path is only free of control characters. */
static bool member_text_ok(const char *s, size_t min, size_t max, bool path)
{
    size_t n = strlen(s);

    for (size_t i = 0; i < n; i++)
        if (path ? (uint8_t)s[i] < ' ' : s[i] <= ' ' || s[i] > '~')
            return false;
    return n >= min && n <= max;
}

static bool member_ok(const Tarn__Core__Worker *w)
{
    return member_text_ok(w->uuid, TARN_WORKER_UUID_MIN, TARN_WORKER_UUID_MAX, false) &&
           member_text_ok(w->addr, 1, TARN_WORKER_ADDR_MAX, false) &&
           member_text_ok(w->host, 0, TARN_WORKER_HOST_MAX, false) &&
           member_text_ok(w->socket, 0, TARN_WORKER_SOCKET_MAX, true) &&
           w->state >= CORE_WORKER_LIVE && w->state <= CORE_WORKER_REMOVED;
}

/* The one that gives its place to a new worker: removed before lost, then the oldest. */
static Tarn__Core__Worker *members_victim(const struct members *all)
{
    Tarn__Core__Worker *v = NULL;

    for (size_t i = 0; i < all->n; i++) {
        Tarn__Core__Worker *w = all->w[i];

        if (w->state != CORE_WORKER_LOST && w->state != CORE_WORKER_REMOVED)
            continue;
        if (!v || w->state > v->state || (w->state == v->state && w->since_ns < v->since_ns))
            v = w;
    }
    return v;
}

/* Makes room for one more and gives it the next id. */
static int member_new(struct core_tx *tx, struct members *all, Tarn__Core__Worker *w)
{
    Tarn__Core__Worker *victim = NULL;
    struct core_key k;
    uint64_t next = 1;
    int rc;

    rc = core_get_u64(&tx->src, CORE_X_NEXT_WORKER, &next);
    if (rc < 0 && rc != -TARN_E_NO_ENTRY)
        return rc;
    if (all->n == TARN_CORE_WORKERS_MAX) {
        victim = members_victim(all);
        if (!victim)
            return -TARN_E_TOO_BIG;
        core_key_id(&k, CORE_TAG_WORKER, victim->id);
        core_tx_delete(tx, TARN_CF_META, &k);
        for (size_t i = 0, out = 0; i < TARN_CORE_WORKERS_MAX; i++)
            if (all->w[i] != victim)
                all->w[out++] = all->w[i];
        all->n--;
    }
    w->id = next;
    core_tx_put_u64(tx, CORE_X_NEXT_WORKER, next + 1);
    all->w[all->n++] = w; /* ids grow, so the order holds */
    return 0;
}

/* In the place of what is known of it. */
static void member_replace(struct members *all, Tarn__Core__Worker *old, Tarn__Core__Worker *w)
{
    w->id = old->id;
    if (w->state == old->state)
        w->since_ns = old->since_ns;
    for (size_t i = 0; i < all->n; i++)
        if (all->w[i] == old)
            all->w[i] = w;
}

int core_apply_worker_put(struct core_tx *tx, const Tarn__Core__Worker *m)
{
    Tarn__Core__Worker *w = core_arena_alloc(&tx->arena, sizeof(*w)), *old;
    Tarn__Core__Placement *placement;
    Tarn__Core__Members *before;
    struct members all;
    struct core_key k;
    int rc;

    if (!member_ok(m))
        return -TARN_E_ENTRY_BAD;
    rc = members_load(tx, &all);
    if (rc == 0)
        rc = members_placement(tx, &placement);
    if (rc < 0)
        return rc;
    *w = *m;
    w->since_ns = tx->time_ns;
    before = members_owners(tx, &all);
    old = m->id ? members_by_id(&all, m->id) : members_by_uuid(&all, m->uuid);
    if (m->id && !old)
        return -TARN_E_UNKNOWN_WORKER;
    if (old && strcmp(old->uuid, m->uuid) != 0)
        return -TARN_E_ENTRY_BAD;
    if (old)
        member_replace(&all, old, w);
    else
        rc = member_new(tx, &all, w);
    if (rc < 0)
        return rc;
    core_key_id(&k, CORE_TAG_WORKER, w->id);
    core_tx_put(tx, TARN_CF_META, &k, &w->base);
    if (before->n_ids > 0 && !members_same(before, members_owners(tx, &all)))
        members_past_add(tx, placement, before);
    tx->res->worker = w->id;
    return 0;
}

int core_apply_past_drop(struct core_tx *tx, const Tarn__Core__PastDrop *m)
{
    Tarn__Core__Placement *p;
    size_t drop = 0;
    int rc;

    if (m->upto >= tx->index)
        return -TARN_E_ENTRY_BAD;
    rc = members_placement(tx, &p);
    if (rc < 0)
        return rc;
    while (drop < p->n_past && p->past[drop]->index <= m->upto)
        drop++;
    if (drop == 0)
        return 0;
    p->past += drop;
    p->n_past -= drop;
    members_put_placement(tx, p);
    return 0;
}

int core_apply_cap_key(struct core_tx *tx, const Tarn__Core__CapKey *m)
{
    struct tarn_str have = {0};
    struct core_key k;
    int rc;

    if (m->key.len != TARN_CORE_CAP_KEY_BYTES)
        return -TARN_E_ENTRY_BAD;
    core_key_single(&k, CORE_X_CAP_KEY);
    rc = core_get(&tx->src, TARN_CF_META, &k, &have);
    tarn_str_fini(&have);
    if (rc == 0)
        return -TARN_E_EXISTS;
    if (rc != -TARN_E_NO_ENTRY)
        return rc;
    core_tx_put_bytes(tx, &k, m->key.data, m->key.len);
    return 0;
}
