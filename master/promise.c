/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What sessions were told to believe, and who must hear of a change before others do.
 *
 * A promise is made per directory: of some of its entries by number, or of all of them once a
 * session has been told of more than a handful (or has listed it). A change of a known name is
 * pushed to those who hold a promise on it. Until each of them has said that it forgot it, or its
 * lease is over, the inode is *held*: answers about it wait, so nobody sees the new version while
 * somebody still opens the old one.
 *
 * Bounded: directories of a session, and of all; who has too many is told to forget everything and
 * begins anew. Changes that nobody acknowledges are bounded too: beyond it every answer waits.
 */
#include "master/master_priv.h"

#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"
#include "lib/base/hash.h"

#define PROMISE_INOS     12u     /* entries of a directory that are counted one by one */
#define PROMISES_SESSION 65536u  /* directories of a session */
#define PROMISES_ALL     524288u /* of all sessions */
#define UNACKED_INOS     65536u  /* of a session; more: everything is held */
#define PROMISES_SWEEP   256u    /* looked at per session and tick */
#define RECENT_CHANGES   4096u   /* remembered for those who come back */
#define INVAL_ITEMS      1024u   /* of one message */

/* What a session believes of one directory. */
struct mpromise {
    struct tarn_hnode pair;   /* in m->promise_pairs, by directory and session */
    struct tarn_hnode by_dir; /* in m->promise_dirs */
    struct tarn_list node;    /* in the session's, those granted long ago first */
    struct msession *session;
    uint64_t dir;
    uint64_t until_ns; /* loop time; UINT64_MAX: for ever */
    bool whole;        /* of every entry */
    uint8_t n;
    uint64_t inos[PROMISE_INOS];
};

/* An inode that answers wait for. */
struct mheld {
    struct tarn_hnode hnode; /* in m->held, by ino */
    uint64_t ino;
    uint32_t refs; /* unacknowledged pushes that name it */
    struct tarn_list waiters;
};

/* A push that was not acknowledged yet. */
struct munacked {
    struct tarn_list node; /* in the session's, oldest first */
    uint64_t seq;          /* of its last message */
    uint64_t index;        /* of its first change */
    bool all;              /* too many: every inode is held */
    size_t n;
    uint64_t inos[];
};

/* ---- promises -------------------------------------------------------------------------------- */

static uint64_t pair_hash(uint64_t dir, const struct msession *s)
{
    return tarn_hash_u64(dir ^ tarn_hash_u64(s->id));
}

static struct mpromise *promise_find(struct tarn_master *m, const struct msession *s, uint64_t dir)
{
    uint64_t h = pair_hash(dir, s);

    for (struct tarn_hnode *n = tarn_htab_first(&m->promise_pairs, h); n;
         n = tarn_htab_next(n, h)) {
        struct mpromise *p = TARN_CONTAINER(n, struct mpromise, pair);

        if (p->dir == dir && p->session == s)
            return p;
    }
    return NULL;
}

static void promise_free(struct tarn_master *m, struct mpromise *p)
{
    tarn_htab_remove(&m->promise_pairs, &p->pair);
    tarn_htab_remove(&m->promise_dirs, &p->by_dir);
    tarn_list_del(&p->node);
    p->session->promise_count--;
    free(p);
}

void mpromise_drop_all(struct tarn_master *m, struct msession *s)
{
    while (!tarn_list_empty(&s->promises))
        promise_free(m, TARN_LIST_ENTRY(s->promises.next, struct mpromise, node));
}

void mpromise_epoch(struct tarn_master *m, struct msession *s)
{
    Tarn__Wire__Invalidate inv = TARN__WIRE__INVALIDATE__INIT;

    mpromise_drop_all(m, s);
    inv.everything = true;
    inv.index = m->told_index;
    inv.ack = m->args.cluster && !s->trusted && !s->transient;
    msession_send(s, &inv);
    s->forgets = inv.ack;
    if (!inv.ack || s->state == MSESSION_CUT_OFF)
        return;
    m->sessions_all +=
        s->epoch_seq == 0; /* until it has forgotten, nobody knows what it believes */
    s->epoch_seq = s->seq;
}

static void promise_make_room(struct tarn_master *m, struct msession *s)
{
    struct msession *most = s;

    if (s->promise_count >= PROMISES_SESSION)
        mpromise_epoch(m, s);
    if (m->promise_pairs.count < PROMISES_ALL)
        return;
    TARN_LIST_FOREACH(n, &m->sessions)
    {
        struct msession *x = TARN_LIST_ENTRY(n, struct msession, node);

        if (x->promise_count > most->promise_count)
            most = x;
    }
    mpromise_epoch(m, most);
}

static struct mpromise *promise_get(struct tarn_master *m, struct msession *s, uint64_t dir)
{
    struct mpromise *p = promise_find(m, s, dir);

    if (p)
        return p;
    promise_make_room(m, s);
    p = tarn_xnew(struct mpromise);
    p->session = s;
    p->dir = dir;
    tarn_list_init(&p->node);
    tarn_htab_insert(&m->promise_pairs, &p->pair, pair_hash(dir, s));
    tarn_htab_insert(&m->promise_dirs, &p->by_dir, tarn_hash_u64(dir));
    s->promise_count++;
    return p;
}

static bool promise_covers(const struct mpromise *p, uint64_t ino)
{
    bool has = p->whole;

    for (unsigned i = 0; i < p->n && !has; i++)
        has = p->inos[i] == ino;
    return has;
}

bool mpromise_nobody(const struct tarn_master *m, const struct tarn_rpc_call *call)
{
    return m->args.cluster && !msession_of(m, call);
}

uint64_t mpromise_grant(struct tarn_master *m, const struct tarn_rpc_call *call, uint64_t dir,
                        uint64_t ino, uint64_t trust_ms)
{
    struct msession *s = msession_of(m, call);
    struct mpromise *p;
    uint64_t until;

    if (!s)
        return m->args.cluster ? 0 : trust_ms;
    if (s->all || s->transient || trust_ms == 0)
        return trust_ms;
    /* A lease longer than it is believed: an answer may be long under way. */
    until = trust_ms >= UINT64_MAX / TARN_NS_PER_MS / 2
                ? UINT64_MAX
                : tarn_loop_now_ns(m->args.loop) + trust_ms * TARN_NS_PER_MS + master_lease_ns(m);
    p = promise_get(m, s, dir);
    p->until_ns = TARN_MAX(p->until_ns, until);
    tarn_list_del(&p->node);
    tarn_list_push(&s->promises, &p->node);
    if (ino == 0 || (!promise_covers(p, ino) && p->n == PROMISE_INOS))
        p->whole = true;
    else if (!promise_covers(p, ino))
        p->inos[p->n++] = ino;
    return trust_ms;
}

void mpromise_sweep(struct tarn_master *m, struct msession *s)
{
    uint64_t now = tarn_loop_now_ns(m->args.loop);

    for (unsigned i = 0; i < PROMISES_SWEEP && !tarn_list_empty(&s->promises); i++) {
        struct mpromise *p = TARN_LIST_ENTRY(s->promises.next, struct mpromise, node);

        if (p->until_ns < now) {
            promise_free(m, p);
        } else {
            tarn_list_del(&p->node);
            tarn_list_push(&s->promises, &p->node);
        }
    }
}

/* ---- held inodes ----------------------------------------------------------------------------- */

static struct mheld *held_find(const struct tarn_master *m, uint64_t ino)
{
    uint64_t h = tarn_hash_u64(ino);

    for (struct tarn_hnode *n = tarn_htab_first(&m->held, h); n; n = tarn_htab_next(n, h)) {
        struct mheld *x = TARN_CONTAINER(n, struct mheld, hnode);

        if (x->ino == ino)
            return x;
    }
    return NULL;
}

static void held_take(struct tarn_master *m, uint64_t ino)
{
    struct mheld *x = held_find(m, ino);

    if (!x) {
        x = tarn_xnew(struct mheld);
        x->ino = ino;
        tarn_list_init(&x->waiters);
        tarn_htab_insert(&m->held, &x->hnode, tarn_hash_u64(ino));
    }
    x->refs++;
}

/* Each of them asks again whether it may answer. */
static void held_wake(struct tarn_list *waiters)
{
    struct tarn_list run;

    tarn_list_init(&run);
    tarn_list_splice(&run, waiters);
    for (struct tarn_list *n = tarn_list_pop(&run); n; n = tarn_list_pop(&run)) {
        struct mhold *w = TARN_LIST_ENTRY(n, struct mhold, node);

        tarn_list_init(&w->node);
        w->fn(w);
    }
}

static void held_give(struct tarn_master *m, uint64_t ino, struct tarn_list *ret_wake)
{
    struct mheld *x = held_find(m, ino);

    TARN_ASSERT(x && x->refs > 0);
    if (--x->refs > 0)
        return;
    tarn_list_splice(ret_wake, &x->waiters);
    tarn_htab_remove(&m->held, &x->hnode);
    free(x);
}

/* Beyond all inodes. */
tarn_ino_t mhold_name(tarn_ino_t parent, const char *name, size_t len)
{
    return (tarn_ino_t){tarn_xxh3_seed(name, len, parent.v) | 1ull << 63};
}

bool mhold_name_wanted(const struct tarn_master *m, tarn_ino_t parent, const char *name, size_t len)
{
    return m->args.cluster && !m->stopping &&
           (m->held_all > 0 ||
            (m->held.count > 0 && held_find(m, mhold_name(parent, name, len).v)));
}

uint64_t mhold_removed(const struct tarn_master *m, tarn_ino_t parent)
{
    Tarn__Core__DirState *st = NULL;
    uint64_t at = 0;

    if (!m->args.cluster || m->stopping)
        return 0;
    if (tarn_core_dir_state(m->args.kv, parent, &st) == 0 && st->removed_index > m->told_index)
        at = st->removed_index;
    tarn__core__dir_state__free_unpacked(st, NULL);
    return at;
}

bool mhold_wanted(const struct tarn_master *m, tarn_ino_t ino, uint64_t changed)
{
    return m->args.cluster && !m->stopping &&
           (m->held_all > 0 || changed > m->told_index || held_find(m, ino.v) ||
            mtold_wanted(m, changed));
}

void mhold_start(struct tarn_master *m, struct mhold *w, tarn_ino_t ino, uint64_t changed)
{
    struct mheld *x = m->held_all ? NULL : held_find(m, ino.v);

    if (x) {
        tarn_list_push(&x->waiters, &w->node);
    } else if (m->held_all || changed > m->told_index) {
        tarn_list_push(&m->held_waiters, &w->node);
    } else {
        TARN_ASSERT(m->grace_until_ns);
        tarn_list_push(&m->grace_waiters, &w->node);
    }
}

void mhold_forget(struct mhold *w)
{
    tarn_list_del(&w->node);
}

void mhold_told(struct tarn_master *m)
{
    if (m->held_all == 0)
        held_wake(&m->held_waiters);
}

static void unacked_free(struct tarn_master *m, struct munacked *u, struct tarn_list *wake)
{
    tarn_list_del(&u->node);
    for (size_t i = 0; i < u->n; i++)
        held_give(m, u->inos[i], wake);
    if (u->all && --m->held_all == 0)
        tarn_list_splice(wake, &m->held_waiters);
    free(u);
}

void mpromise_acked(struct tarn_master *m, struct msession *s, uint64_t seq)
{
    struct tarn_list wake;

    if (s->epoch_seq && seq >= s->epoch_seq) {
        s->epoch_seq = 0;
        m->sessions_all--;
    }
    tarn_list_init(&wake);
    while (!tarn_list_empty(&s->unacked)) {
        struct munacked *u = TARN_LIST_ENTRY(s->unacked.next, struct munacked, node);

        if (u->seq > seq)
            break;
        s->unacked_inos -= u->n;
        unacked_free(m, u, &wake);
    }
    held_wake(&wake);
}

uint64_t mpromise_acked_upto(const struct tarn_master *m)
{
    uint64_t upto = m->told_index;

    TARN_LIST_FOREACH(n, &m->sessions)
    {
        struct msession *s = TARN_LIST_ENTRY(n, struct msession, node);

        if (!tarn_list_empty(&s->unacked))
            upto =
                TARN_MIN(upto, TARN_LIST_ENTRY(s->unacked.next, struct munacked, node)->index - 1);
    }
    return upto;
}

/* The inode, and where it lost its name, that too. */
static void unacked_take(struct tarn_master *m, struct munacked *u,
                         const struct tarn_core_change *c)
{
    u->inos[u->n] = c->ino.v;
    held_take(m, u->inos[u->n++]);
    if (c->version != 0 || !c->name)
        return;
    u->inos[u->n] = mhold_name(c->parent, c->name, strlen(c->name)).v;
    held_take(m, u->inos[u->n++]);
}

static struct munacked *unacked_new(struct tarn_master *m, struct tarn_list *list, uint64_t seq,
                                    size_t n, bool all)
{
    struct munacked *u = tarn_xcalloc(1, sizeof(*u) + (all ? 0 : 2 * n) * sizeof(u->inos[0]));

    u->seq = seq;
    u->index = m->told_index;
    u->all = all;
    m->held_all += all;
    tarn_list_init(&u->node);
    tarn_list_push(list, &u->node);
    return u;
}

static void unacked_add(struct tarn_master *m, struct tarn_list *list, uint64_t seq,
                        const struct tarn_core_change *changes, const uint32_t *which, size_t n,
                        bool all, size_t *count)
{
    struct munacked *u = unacked_new(m, list, seq, n, all);

    for (size_t i = 0; i < n && !all; i++)
        unacked_take(m, u, &changes[which ? which[i] : i]);
    if (count)
        *count += u->n;
}

/* ---- pushes ---------------------------------------------------------------------------------- */

static void push_items(struct tarn_master *m, struct msession *s, Tarn__Wire__InvalItem **ptrs,
                       size_t n, bool ack)
{
    for (size_t at = 0; at < n; at += INVAL_ITEMS) {
        Tarn__Wire__Invalidate inv = TARN__WIRE__INVALIDATE__INIT;

        inv.n_items = TARN_MIN(n - at, (size_t)INVAL_ITEMS);
        inv.items = ptrs + at;
        inv.index = at + inv.n_items == n ? m->told_index : 0;
        inv.ack = ack && inv.index;
        msession_send(s, &inv);
    }
}

static void item_of(const struct tarn_core_change *c, Tarn__Wire__InvalItem *ret)
{
    tarn__wire__inval_item__init(ret);
    ret->ino = c->ino.v;
    ret->parent = c->parent.v;
    ret->version = c->version;
    if (c->name)
        ret->name = (ProtobufCBinaryData){strlen(c->name), (uint8_t *)c->name};
}

/* Adds what `s` must hear of; the numbers of the changes are in s->hear. */
static void hear(struct msession *s, uint32_t change)
{
    if (s->hear_n > 0 && s->hear[s->hear_n - 1] == change)
        return;
    if (s->hear_n == s->hear_cap) {
        s->hear_cap = s->hear_cap ? 2 * s->hear_cap : 16;
        s->hear = tarn_xrealloc(s->hear, s->hear_cap * sizeof(*s->hear));
    }
    s->hear[s->hear_n++] = change;
}

static void hear_change(struct tarn_master *m, const struct tarn_core_change *c, uint32_t i)
{
    uint64_t h = tarn_hash_u64(c->parent.v), now = tarn_loop_now_ns(m->args.loop);

    for (struct tarn_hnode *n = tarn_htab_first(&m->promise_dirs, h); n; n = tarn_htab_next(n, h)) {
        struct mpromise *p = TARN_CONTAINER(n, struct mpromise, by_dir);

        if (p->dir == c->parent.v && p->until_ns >= now && promise_covers(p, c->ino.v))
            hear(p->session, i);
    }
    if (m->sessions_all == 0)
        return;
    TARN_LIST_FOREACH(n, &m->sessions)
    {
        struct msession *s = TARN_LIST_ENTRY(n, struct msession, node);

        if (s->all || s->epoch_seq)
            hear(s, i);
    }
}

/* Sends what one session is to hear, and remembers that it must be acknowledged. */
static void hear_send(struct tarn_master *m, struct msession *s,
                      const struct tarn_core_change *changes, Tarn__Wire__InvalItem *items)
{
    Tarn__Wire__InvalItem **ptrs;
    bool ack = !s->trusted && s->state != MSESSION_CUT_OFF;

    if (s->hear_n == 0)
        return;
    ptrs = tarn_xcalloc(s->hear_n, sizeof(Tarn__Wire__InvalItem *));
    for (size_t i = 0; i < s->hear_n; i++)
        ptrs[i] = &items[s->hear[i]];
    push_items(m, s, ptrs, s->hear_n, ack);
    if (ack && m->args.cluster) {
        bool all = s->unacked_inos + s->hear_n > UNACKED_INOS;

        unacked_add(m, &s->unacked, s->seq, changes, s->hear, s->hear_n, all, &s->unacked_inos);
    }
    s->hear_n = 0;
    free(ptrs);
}

/* ---- what changed lately --------------------------------------------------------------------- */

struct mrecent {
    struct tarn_list node; /* in m->recent, oldest first */
    uint64_t index;
    struct tarn_core_change change; /* owns its name */
};

static void recent_pop(struct tarn_master *m)
{
    struct mrecent *r = TARN_LIST_ENTRY(m->recent.next, struct mrecent, node);

    m->recent_base = TARN_MAX(m->recent_base, r->index);
    tarn_list_del(&r->node);
    free(r->change.name);
    free(r);
    m->recent_n--;
}

static void recent_add(struct tarn_master *m, uint64_t index, const struct tarn_core_change *c,
                       size_t n)
{
    if (n > RECENT_CHANGES) {
        m->recent_base = TARN_MAX(m->recent_base, index);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        struct mrecent *r = tarn_xnew(struct mrecent);

        r->index = index;
        r->change = c[i];
        r->change.name = c[i].name ? tarn_xstrdup(c[i].name) : NULL;
        tarn_list_init(&r->node);
        tarn_list_push(&m->recent, &r->node);
        m->recent_n++;
    }
    while (m->recent_n > RECENT_CHANGES)
        recent_pop(m);
}

void mpromise_forget_recent(struct tarn_master *m)
{
    while (m->recent_n > 0)
        recent_pop(m);
    m->recent_base = TARN_MAX(m->recent_base, m->told_index);
}

bool mpromise_replayable(const struct tarn_master *m, uint64_t seen)
{
    return seen > 0 && seen >= m->recent_base && seen <= m->told_index;
}

void mpromise_start_over(struct tarn_master *m, struct msession *s)
{
    mpromise_epoch(m, s);
    TARN_LIST_FOREACH(node, &s->unacked)
    {
        TARN_LIST_ENTRY(node, struct munacked, node)->seq = s->seq;
    }
}

void mpromise_replay(struct tarn_master *m, struct msession *s, uint64_t seen)
{
    Tarn__Wire__InvalItem *items = tarn_xcalloc(m->recent_n + 1, sizeof(*items)), **ptrs;
    struct munacked *u = unacked_new(m, &s->unacked, 0, m->recent_n, false);
    size_t n = 0;

    TARN_ASSERT(!s->forgets && s->epoch_seq == 0);
    ptrs = tarn_xcalloc(m->recent_n + 1, sizeof(Tarn__Wire__InvalItem *));
    TARN_LIST_FOREACH(node, &m->recent)
    {
        struct mrecent *r = TARN_LIST_ENTRY(node, struct mrecent, node);

        if (r->index <= seen)
            continue;
        item_of(&r->change, &items[n]);
        ptrs[n] = &items[n];
        n++;
        unacked_take(m, u, &r->change);
    }
    s->unacked_inos += u->n;
    push_items(m, s, ptrs, n, true);
    if (n == 0) { /* that this was all is told too */
        Tarn__Wire__Invalidate inv = TARN__WIRE__INVALIDATE__INIT;

        inv.index = m->told_index;
        inv.ack = true;
        msession_send(s, &inv);
    }
    /* What was pushed before, and missed, is told again by this. */
    TARN_LIST_FOREACH(node, &s->unacked)
    {
        struct munacked *told = TARN_LIST_ENTRY(node, struct munacked, node);

        told->seq = s->seq;
        told->index = TARN_MIN(told->index, seen + 1);
    }
    free(ptrs);
    free(items);
}

/* ---- a commit -------------------------------------------------------------------------------- */

void msession_invalidate(struct tarn_master *m, uint64_t index,
                         const struct tarn_core_change *changes, size_t count)
{
    Tarn__Wire__InvalItem *items;

    if (m->args.cluster)
        recent_add(m, index, changes, count);
    else
        m->recent_base = TARN_MAX(m->recent_base, index);
    /* Who held promises of the process before us has not come back yet, or never will. */
    if (m->grace_until_ns)
        unacked_add(m, &m->grace, 0, changes, NULL, count, count > UNACKED_INOS, NULL);
    if (tarn_list_empty(&m->sessions))
        return;
    items = tarn_xcalloc(count, sizeof(*items));
    for (size_t i = 0; i < count; i++) {
        item_of(&changes[i], &items[i]);
        hear_change(m, &changes[i], (uint32_t)i);
    }
    TARN_LIST_FOREACH_SAFE(n, &m->sessions)
    hear_send(m, TARN_LIST_ENTRY(n, struct msession, node), changes, items);
    free(items);
}

void mpromise_grace_end(struct tarn_master *m)
{
    struct tarn_list wake;

    tarn_list_init(&wake);
    m->grace_until_ns = 0;
    while (!tarn_list_empty(&m->grace))
        unacked_free(m, TARN_LIST_ENTRY(m->grace.next, struct munacked, node), &wake);
    tarn_list_splice(&wake, &m->grace_waiters);
    held_wake(&wake);
}

void mpromise_stop(struct tarn_master *m)
{
    struct tarn_list wake;
    size_t slot = 0;

    TARN_ASSERT(m->stopping); /* nothing is held any more */
    tarn_list_init(&wake);
    for (struct tarn_hnode *n = tarn_htab_walk(&m->held, &slot, NULL); n;
         n = tarn_htab_walk(&m->held, &slot, n))
        tarn_list_splice(&wake, &TARN_CONTAINER(n, struct mheld, hnode)->waiters);
    tarn_list_splice(&wake, &m->held_waiters);
    tarn_list_splice(&wake, &m->grace_waiters);
    held_wake(&wake);
}

void mpromise_init(struct tarn_master *m)
{
    tarn_list_init(&m->held_waiters);
    tarn_list_init(&m->grace_waiters);
    tarn_list_init(&m->recent);
    tarn_list_init(&m->grace);
}

void mpromise_fini(struct tarn_master *m)
{
    mpromise_grace_end(m);
    TARN_ASSERT(tarn_list_empty(&m->held_waiters) && tarn_list_empty(&m->grace_waiters) &&
                m->held.count == 0);
    while (m->recent_n > 0)
        recent_pop(m);
    tarn_htab_fini(&m->held);
    tarn_htab_fini(&m->promise_pairs);
    tarn_htab_fini(&m->promise_dirs);
}
