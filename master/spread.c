/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The master's dealings with many workers: whom to give a segment to, and one question about files
 * that goes to all who can answer it.
 *
 * Who owns what is the topology's to say. A worker that does not answer is waited for a little (3
 * s: it may be restarted, or a cable plugged in again), then the next in the order stands in for
 * it, until it answers or the topology says otherwise. What one worker answers is laid over what
 * the others do, segment by segment, so that copies count once.
 *
 * Whoever drains is asked before the others: it drops what it has only once somebody else has it,
 * so bytes that change hands meanwhile are seen with the one or the other.
 */
#include "master/master_priv.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"
#include "lib/base/hash.h"

#define PATIENCE_NS     (3 * TARN_NS_PER_S)
#define CAP_LIFE_NS     (3600 * TARN_NS_PER_S)
#define CAP_EARLY_NS    (600 * TARN_NS_PER_S) /* made anew so long before its end */
#define TRY_NS          (250 * TARN_NS_PER_MS)
#define TRY_SHIFT_MAX   3u
#define TRIES_MAX       12u
#define CACHED_ASK_NS   (10 * TARN_NS_PER_S)
#define CACHED_LATE_NS  (3 * TARN_NS_PER_S) /* with nobody's patience */
#define FREE_TIMEOUT_NS (120 * TARN_NS_PER_S)
#define DEAL_SLICE      256u /* segments in one turn of the loop */

/* ---- workers
 * ---------------------------------------------------------------------------------------------------------
 */

/* A worker that does not answer. */
struct mdown {
    struct tarn_list node; /* master->downs */
    uint64_t id;
    uint64_t since_ns; /* loop time of the first call that failed */
};

static struct mdown *down_find(const struct tarn_master *m, uint64_t id)
{
    TARN_LIST_FOREACH(n, &m->downs)
    {
        struct mdown *d = TARN_LIST_ENTRY(n, struct mdown, node);

        if (d->id == id)
            return d;
    }
    return NULL;
}

static void down_free(struct mdown *d)
{
    tarn_list_del(&d->node);
    free(d);
}

void mworkers_fini(struct tarn_master *m)
{
    while (!tarn_list_empty(&m->downs))
        down_free(TARN_LIST_ENTRY(m->downs.next, struct mdown, node));
}

void mworker_note(struct tarn_master *m, uint64_t id, int rc)
{
    struct mdown *d = down_find(m, id);

    tarn_peers_note(m->peers, id, rc);
    if (rc == -TARN_E_CANCELLED)
        return;
    if (!tarn_peers_unreached(rc)) {
        if (d)
            down_free(d);
    } else if (!d) {
        d = tarn_xnew(struct mdown);
        d->id = id;
        d->since_ns = tarn_loop_now_ns(m->args.loop);
        tarn_list_push(&m->downs, &d->node);
    }
}

bool mworker_serves(const struct tarn_master *m, uint64_t id)
{
    const struct tarn_place *place = tarn_peers_place(m->peers);
    const struct tarn_place_worker *w = place ? tarn_place_find(place, id) : NULL;
    const struct mdown *d = down_find(m, id);

    if (!w || !w->alive)
        return false;
    return !d || tarn_loop_now_ns(m->args.loop) - d->since_ns < PATIENCE_NS ||
           tarn_peers_usable(m->peers, id);
}

bool mworker_unreached(const struct tarn_master *m, uint64_t id)
{
    return down_find(m, id) && (!mworker_serves(m, id) || tarn_peers_refused(m->peers, id));
}

bool mworkers_any(const struct tarn_master *m)
{
    const struct tarn_place *place = tarn_peers_place(m->peers);

    for (unsigned i = 0; place && i < tarn_place_count(place); i++)
        if (mworker_serves(m, tarn_place_at(place, i)->id))
            return true;
    return false;
}

unsigned mworkers_live(const struct tarn_master *m)
{
    const struct tarn_place *place = tarn_peers_place(m->peers);
    unsigned n = 0;

    for (unsigned i = 0; place && i < tarn_place_count(place); i++)
        n += tarn_place_at(place, i)->state == TARN_WORKER_LIVE &&
             tarn_place_at(place, i)->weight > 0;
    return n;
}

bool mworker_lone(const struct tarn_master *m, uint64_t id)
{
    return !m->args.cluster && id == MASTER_LONE_WORKER;
}

char *mworker_text(const struct tarn_master *m, uint64_t id)
{
    const struct tarn_place *place = tarn_peers_place(m->peers);
    const struct tarn_place_worker *w = place ? tarn_place_find(place, id) : NULL;

    if (mworker_lone(m, id))
        return tarn_xstrdup("the cache");
    if (!w || !w->addr[0])
        return tarn_xasprintf("worker %" PRIu64, id);
    return tarn_xasprintf("worker %" PRIu64 " (%s)", id, w->addr);
}

/* Workers do what their caller may: the master may all of it. */
static void worker_cap(struct tarn_master *m)
{
    Tarn__Wire__CapabilityBody body = TARN__WIRE__CAPABILITY_BODY__INIT;
    Tarn__Wire__CallMeta meta = TARN__WIRE__CALL_META__INIT;
    int64_t now = master_real_ns(m);
    struct tarn_str cap = {0};

    if (m->cap_until_ns - now > (int64_t)CAP_EARLY_NS &&
        m->cap_until_ns - now <= (int64_t)CAP_LIFE_NS)
        return;
    m->cap_until_ns = now + (int64_t)CAP_LIFE_NS;
    body.cluster_id = m->cluster_id;
    body.principal = tarn_wire_text("master");
    body.expires_ns = m->cap_until_ns;
    body.write = true;
    tarn_cap_make(m->cap_key, &body, &cap);
    meta.capability = tarn_wire_bytes(cap.p, cap.len);
    tarn_peers_set_meta(m->peers, &meta);
    tarn_str_fini(&cap);
}

struct tarn_rpc_client *mworker_rpc(struct tarn_master *m, uint64_t id)
{
    worker_cap(m);
    return tarn_peers_get(m->peers, id);
}

static bool has_id(const uint64_t *ids, unsigned n, uint64_t id)
{
    for (unsigned i = 0; i < n; i++)
        if (ids[i] == id)
            return true;
    return false;
}

unsigned mtargets(const struct tarn_master *m, const tarn_cid_t *cid, uint32_t segment,
                  uint32_t replicas, uint64_t *ret_ids)
{
    const struct tarn_place_worker *owners[TARN_PLACE_PICK_MAX], *order[TARN_PLACE_PICK_MAX];
    const struct tarn_place *place = tarn_peers_place(m->peers);
    unsigned n = place ? tarn_place_owners(place, cid, segment, replicas, owners) : 0;
    unsigned o = 0, others = 0, missing = 0;

    for (unsigned i = 0; i < n; i++) {
        ret_ids[i] = mworker_serves(m, owners[i]->id) ? owners[i]->id : 0;
        missing += ret_ids[i] == 0;
    }
    if (missing > 0)
        others = tarn_place_order(place, cid, segment, TARN_PLACE_PICK_MAX, order);
    for (unsigned i = 0; i < n && missing > 0; i++) {
        for (; ret_ids[i] == 0 && o < others; o++)
            if (!has_id(ret_ids, n, order[o]->id) && mworker_serves(m, order[o]->id))
                ret_ids[i] = order[o]->id;
    }
    return n;
}

/* ---- one question to many
 * --------------------------------------------------------------------------------------------
 */

struct spread_op {
    struct tarn_list node;   /* spread->ops */
    struct tarn_hnode hnode; /* spread->table, while items are dealt out */
    struct mspread *spread;
    uint64_t worker;
    uint32_t *items; /* what it is asked about */
    size_t count;
    bool early;              /* it hands over to others */
    struct tarn_rpc_req req; /* under way unless `waiting` */
    bool waiting;            /* not sent yet, or timer runs */
    unsigned tries;
    uint64_t failed_ns; /* loop time of the first failure */
    struct tarn_timer timer;
};

uint64_t mspread_segments(uint64_t size)
{
    return tarn_div_up(size, TARN_SEGMENT_BYTES);
}

/* Segments of an item that are told apart; 0: only its bytes are known. */
static uint64_t item_segments(const struct mspread *s, const struct mspread_item *it)
{
    uint64_t n = mspread_segments(it->size);

    return s->free || n > MSPREAD_SEGMENTS_MAX ? 0 : n;
}

static void spread_end_task(struct tarn_task *t)
{
    struct mspread *s = TARN_CONTAINER(t, struct mspread, task);

    free(s->best);
    free(s->whole);
    free(s->first);
    s->best = NULL;
    s->whole = NULL;
    s->first = NULL;
    s->fn(s, s->cancelled ? -TARN_E_CANCELLED : s->rc);
}

/* What all answers together say. */
static void spread_sum(struct mspread *s)
{
    for (size_t i = 0; i < s->count && !s->free; i++) {
        struct mspread_item *it = &s->items[i];
        uint64_t n = item_segments(s, it), bytes = 0;
        uint32_t least = UINT32_MAX;

        for (uint64_t g = 0; g < n; g++) {
            bytes += s->best[s->first[i] + g];
            least = TARN_MIN(least, (uint32_t)s->whole[s->first[i] + g]);
        }
        it->bytes = TARN_MIN(TARN_MAX(bytes, it->bytes), it->size);
        if (n > 0)
            it->copies += least;
        else
            it->sure = it->sure && (it->copies > 0 || it->bytes == 0);
    }
}

static void spread_settle(struct mspread *s)
{
    if (s->pending > 0)
        return;
    spread_sum(s);
    tarn_loop_post(s->master->args.loop, &s->task, spread_end_task);
}

static void op_send(struct spread_op *op);

static void spread_send(struct mspread *s, bool early)
{
    TARN_LIST_FOREACH(n, &s->ops)
    {
        struct spread_op *op = TARN_LIST_ENTRY(n, struct spread_op, node);

        if (op->early != early)
            continue;
        op->waiting = false;
        op_send(op);
    }
}

static void op_free(struct spread_op *op)
{
    struct mspread *s = op->spread;
    bool early = op->early;

    tarn_list_del(&op->node);
    tarn_timer_stop(&op->timer);
    free(op->items);
    free(op);
    s->pending--;
    if (early && --s->early == 0 && !s->cancelled)
        spread_send(s, false);
    spread_settle(s);
}

/* ---- who was not reached ---- */

static bool away_has(const struct mspread_away *a, uint64_t id)
{
    for (size_t i = 0; a && i < a->n; i++)
        if (a->who[i].id == id)
            return true;
    return false;
}

static void spread_missed(struct mspread *s, uint64_t id, int rc)
{
    struct mspread_away *a = s->away;

    s->missed = id;
    s->missed_rc = rc;
    if (!a || away_has(a, id))
        return;
    a->who = tarn_xrealloc(a->who, (a->n + 1) * sizeof(*a->who));
    a->who[a->n].id = id;
    a->who[a->n++].rc = rc;
}

void mspread_away_fini(struct mspread_away *a)
{
    free(a->who);
    *a = (struct mspread_away){0};
}

char *mspread_reason(const struct tarn_master *m, const struct mspread_away *a)
{
    TARN_AUTO_FREE char *who = a->n > 0 ? mworker_text(m, a->who[0].id) : NULL;
    char more[48] = "";

    if (!who)
        return tarn_xstrdup("the parts of a very large file are not told apart");
    if (a->n > 1)
        (void)snprintf(more, sizeof(more), ", and %zu more", a->n - 1); /* it fits */
    if (a->who[0].rc == -TARN_E_NO_WORKER)
        return tarn_xasprintf("%s is away%s", who, more);
    return tarn_xasprintf("%s did not answer (%s)%s", who, tarn_strerror(a->who[0].rc), more);
}

static void op_failed(struct spread_op *op, int rc)
{
    struct mspread *s = op->spread;

    for (size_t i = 0; i < op->count; i++)
        s->items[op->items[i]].sure = false;
    if (!s->cancelled && tarn_peers_unreached(rc)) {
        spread_missed(s, op->worker, rc);
    } else if (!s->cancelled && s->rc == 0) {
        s->rc = rc;
    }
    op_free(op);
}

static bool op_is_target(const struct spread_op *op, const struct mspread_item *it, uint32_t seg)
{
    uint64_t ids[TARN_PLACE_PICK_MAX];
    unsigned n;

    if (!op->spread->owners)
        return true;
    n = mtargets(op->spread->master, &it->cid, seg, it->replicas, ids);
    return has_id(ids, n, op->worker);
}

/* Lays what one worker has of a file over what is known. */
static void item_segments_add(struct spread_op *op, size_t item, const uint64_t *bytes)
{
    struct mspread *s = op->spread;
    struct mspread_item *it = &s->items[item];
    uint64_t n = item_segments(s, it);

    for (uint64_t g = 0; g < n; g++) {
        uint64_t len = TARN_MIN(TARN_SEGMENT_BYTES, it->size - g * TARN_SEGMENT_BYTES);
        size_t at = s->first[item] + g;

        s->best[at] = TARN_MAX(s->best[at], TARN_MIN(bytes[g], len));
        if (bytes[g] >= len && s->whole[at] < UINT8_MAX && op_is_target(op, it, (uint32_t)g))
            s->whole[at]++;
    }
}

static void op_cached(struct spread_op *op, const Tarn__Wire__CachedResponse *resp)
{
    struct mspread *s = op->spread;
    size_t at = 0;

    for (size_t i = 0; i < op->count; i++) {
        struct mspread_item *it = &s->items[op->items[i]];
        uint64_t n = item_segments(s, it);
        size_t count = i < resp->n_segment_counts ? resp->segment_counts[i] : 0;

        if (resp->bytes[i] > 0 && it->worker == 0)
            it->worker = op->worker;
        if (resp->bytes[i] > 0 && s->holds)
            s->holds(s, op->items[i], op->worker);
        if (n > 0 && count == n && at + n <= resp->n_segment_bytes)
            item_segments_add(op, op->items[i], resp->segment_bytes + at);
        else
            it->bytes = TARN_MAX(it->bytes, TARN_MIN(resp->bytes[i], it->size));
        if ((n == 0 || count != n) && it->size > 0 && resp->bytes[i] >= it->size)
            it->copies++; /* all of it is here, whatever its segments */
        at += count;
    }
}

static void op_freed(struct spread_op *op, const Tarn__Wire__FreeResponse *resp)
{
    for (size_t i = 0; i < op->count; i++)
        op->spread->items[op->items[i]].bytes += resp->bytes[i];
}

static bool op_answered(const struct spread_op *op, const ProtobufCMessage *resp)
{
    if (!resp)
        return false;
    if (op->spread->free)
        return ((const Tarn__Wire__FreeResponse *)resp)->n_bytes == op->count;
    return ((const Tarn__Wire__CachedResponse *)resp)->n_bytes == op->count;
}

static bool op_may_retry(struct spread_op *op, int rc, uint64_t *ret_wait)
{
    const struct mspread *s = op->spread;
    uint64_t now = tarn_loop_now_ns(s->master->args.loop);
    enum tarn_retry how = tarn_err_retry(rc);

    if (s->cancelled || !s->patient)
        return false;
    if (op->failed_ns == 0)
        op->failed_ns = now;
    *ret_wait = TRY_NS << TARN_MIN(op->tries, TRY_SHIFT_MAX);
    if (tarn_peers_unreached(rc) || rc == -TARN_E_CANCELLED)
        return now - op->failed_ns + *ret_wait < PATIENCE_NS &&
               mworker_serves(s->master, op->worker);
    return (how == TARN_RETRY_SAME || how == TARN_RETRY_BACKOFF) && op->tries < TRIES_MAX;
}

static void op_again(struct tarn_timer *t, void *arg)
{
    struct spread_op *op = arg;

    (void)t; /* the request's */
    op->waiting = false;
    op_send(op);
}

static void op_over(struct spread_op *op, int rc)
{
    uint64_t wait;

    if (op_may_retry(op, rc, &wait)) {
        op->tries++;
        op->waiting = true;
        tarn_timer_start(op->spread->master->args.loop, &op->timer, wait, op_again, op);
        return;
    }
    /* The connection went with the topology that named it. */
    op_failed(op, rc == -TARN_E_CANCELLED ? -TARN_E_CONN_LOST : rc);
}

static void op_done(struct tarn_rpc_req *req, int rc)
{
    struct spread_op *op = req->arg;
    ProtobufCMessage *resp = req->resp;

    req->resp = NULL; /* the answer outlives `op` here */
    tarn_rpc_req_fini(req);
    if (rc == 0 && !op_answered(op, resp))
        rc = -TARN_E_MSG_BAD;
    mworker_note(op->spread->master, op->worker, rc);
    if (rc < 0) {
        op_over(op, rc);
    } else {
        if (op->spread->free)
            op_freed(op, (const Tarn__Wire__FreeResponse *)resp);
        else
            op_cached(op, (const Tarn__Wire__CachedResponse *)resp);
        op_free(op);
    }
    if (resp)
        protobuf_c_message_free_unpacked(resp, NULL);
}

static void op_no_address(struct tarn_timer *t, void *arg)
{
    struct spread_op *op = arg;

    (void)t; /* the request's */
    op->waiting = false;
    mworker_note(op->spread->master, op->worker, -TARN_E_CONN_REFUSED);
    op_over(op, -TARN_E_CONN_REFUSED);
}

static void op_send(struct spread_op *op)
{
    struct mspread *s = op->spread;
    struct tarn_rpc_client *rpc = mworker_rpc(s->master, op->worker);
    Tarn__Wire__CachedRequest cached = TARN__WIRE__CACHED_REQUEST__INIT;
    Tarn__Wire__FreeRequest drop = TARN__WIRE__FREE_REQUEST__INIT;
    ProtobufCBinaryData *cids;

    if (!rpc) { /* told later, as an answer is */
        op->waiting = true;
        tarn_timer_start(s->master->args.loop, &op->timer, 0, op_no_address, op);
        return;
    }
    cids = tarn_xcalloc(op->count, sizeof(*cids));
    for (size_t i = 0; i < op->count; i++)
        cids[i] = (ProtobufCBinaryData){sizeof(tarn_cid_t), s->items[op->items[i]].cid.b};
    cached.n_cids = drop.n_cids = op->count;
    cached.cids = drop.cids = cids;
    cached.segments = true;
    op->req = (struct tarn_rpc_req){.method = s->free ? TARN_RPC_free : TARN_RPC_cached,
                                    .msg = s->free ? &drop.base : &cached.base,
                                    .timeout_ns = s->free      ? FREE_TIMEOUT_NS
                                                  : s->patient ? CACHED_ASK_NS
                                                               : CACHED_LATE_NS,
                                    .no_retry = true,
                                    .cb = op_done,
                                    .arg = op};
    tarn_rpc_start(rpc, &op->req);
    free(cids);
}

static void spread_to(struct mspread *s, const struct tarn_place_worker *w)
{
    struct spread_op *op = tarn_xnew(struct spread_op);

    op->spread = s;
    op->worker = w->id;
    op->early = w->state == TARN_WORKER_DRAINING;
    op->waiting = true;
    op->items = tarn_xcalloc(s->count, sizeof(*op->items));
    tarn_list_push(&s->ops, &op->node);
    tarn_htab_insert(&s->table, &op->hnode, tarn_hash_u64(op->worker));
    s->pending++;
    s->early += op->early;
}

static struct spread_op *op_of(const struct mspread *s, uint64_t worker)
{
    uint64_t h = tarn_hash_u64(worker);

    for (struct tarn_hnode *n = tarn_htab_first(&s->table, h); n; n = tarn_htab_next(n, h)) {
        struct spread_op *op = TARN_CONTAINER(n, struct spread_op, hnode);

        if (op->worker == worker)
            return op;
    }
    return NULL;
}

/* Items come in order. */
static void op_add(struct spread_op *op, size_t item)
{
    if (op->count == 0 || op->items[op->count - 1] != item)
        op->items[op->count++] = (uint32_t)item;
}

static void deal_segment(struct mspread *s, size_t item, uint32_t segment)
{
    struct mspread_item *it = &s->items[item];
    uint64_t ids[TARN_PLACE_PICK_MAX];
    unsigned n = mtargets(s->master, &it->cid, segment, it->replicas, ids);

    if (n < TARN_MAX(it->replicas, 1u))
        it->sure = false;
    for (unsigned i = 0; i < n; i++) {
        struct spread_op *op = op_of(s, ids[i]);

        if (op)
            op_add(op, item);
        else
            it->sure = false; /* nobody can be asked, or it came meanwhile */
    }
}

static void deal_to_all(struct mspread *s, size_t item)
{
    TARN_LIST_FOREACH(n, &s->ops)
    {
        op_add(TARN_LIST_ENTRY(n, struct spread_op, node), item);
    }
}

/* False: there is more. Whom a segment concerns takes as many steps as there are workers. */
static bool deal_some(struct mspread *s)
{
    unsigned budget = DEAL_SLICE;

    for (; s->dealt < s->count; s->dealt++, s->dealt_segments = 0) {
        uint64_t segments = mspread_segments(s->items[s->dealt].size);

        if (!s->owners || segments > MSPREAD_SEGMENTS_MAX) {
            deal_to_all(s, s->dealt);
            continue;
        }
        for (; s->dealt_segments < segments; s->dealt_segments++) {
            if (budget-- == 0)
                return false;
            deal_segment(s, s->dealt, (uint32_t)s->dealt_segments);
        }
    }
    return true;
}

static void spread_deal(struct tarn_task *t)
{
    struct mspread *s = TARN_CONTAINER(t, struct mspread, task);

    if (!s->cancelled && !deal_some(s)) {
        tarn_loop_post(s->master->args.loop, t, spread_deal);
        return;
    }
    s->dealing = false;
    tarn_htab_fini(&s->table);
    s->pending++; /* nothing ends or is sent before all of them were looked at */
    s->early++;
    TARN_LIST_FOREACH_SAFE(n, &s->ops)
    {
        struct spread_op *op = TARN_LIST_ENTRY(n, struct spread_op, node);

        if (s->cancelled)
            op_failed(op, -TARN_E_CANCELLED);
        else if (op->count == 0)
            op_free(op);
    }
    s->pending--;
    s->early--;
    if (s->pending == 0)
        spread_settle(s);
    else
        spread_send(s, s->early > 0);
}

static void spread_room(struct mspread *s)
{
    size_t n = 0;

    s->first = tarn_xcalloc(s->count + 1, sizeof(*s->first));
    for (size_t i = 0; i < s->count; i++) {
        s->first[i] = n;
        n += item_segments(s, &s->items[i]);
        s->items[i].bytes = 0;
        s->items[i].copies = 0;
        s->items[i].worker = 0;
        s->items[i].sure = true;
    }
    s->best = tarn_xcalloc(n + 1, sizeof(*s->best));
    s->whole = tarn_xcalloc(n + 1, sizeof(*s->whole));
}

void mspread_start(struct mspread *s)
{
    const struct tarn_place *place = tarn_peers_place(s->master->peers);

    TARN_ASSERT(s->count > 0 && s->pending == 0 && s->early == 0);
    tarn_list_init(&s->ops);
    s->table = (struct tarn_htab){0};
    s->dealt = 0;
    s->dealt_segments = 0;
    spread_room(s);
    for (unsigned i = 0; place && i < tarn_place_count(place); i++) {
        const struct tarn_place_worker *w = tarn_place_at(place, i);
        /* Bytes of a lost one do not count, but it comes back with them. */
        bool member = w->state == TARN_WORKER_LIVE || w->state == TARN_WORKER_DRAINING ||
                      (s->free && w->state == TARN_WORKER_LOST);

        if (away_has(s->away, w->id))
            s->missed = w->id; /* not waited for again */
        else if (mworker_serves(s->master, w->id))
            spread_to(s, w);
        else if (member) /* it may have what nobody else has */
            spread_missed(s, w->id, -TARN_E_NO_WORKER);
    }
    if (s->pending == 0) {
        tarn_htab_fini(&s->table);
        spread_settle(s);
        return;
    }
    s->dealing = true;
    tarn_loop_post(s->master->args.loop, &s->task, spread_deal);
}

void mspread_cancel(struct mspread *s)
{
    if (s->cancelled || s->pending == 0)
        return; /* its end is on its way */
    s->cancelled = true;
    if (s->dealing)
        return; /* they end with it */
    TARN_LIST_FOREACH_SAFE(n, &s->ops)
    {
        struct spread_op *op = TARN_LIST_ENTRY(n, struct spread_op, node);

        if (op->waiting)
            op_failed(op, -TARN_E_CANCELLED);
        else
            tarn_rpc_cancel(&op->req);
    }
}
