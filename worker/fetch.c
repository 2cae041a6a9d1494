/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Single flight: one struct wunit per group that is being fetched, found by (cid, group). A request
 * goes
 *
 *     wfetch -> QUEUED -> (memory budget) RESERVING room in the tier
 *            -> ASKING other workers, where some may have it (ask.c) -> FETCHING from the store
 *            -> waiters are served while the bytes arrive -> STORING in the tier -> DONE, gone
 *                                         (no room to keep it) -> LINGERING for a moment -> DONE
 *
 * Invariants: a unit is in worker->units exactly until DONE, so that a reader finds the bytes
 * either in the unit or in the tier and nobody fetches twice; a waiter that goes away never stops a
 * fetch; a failure is told to all waiters and not remembered.
 *
 * What others own is kept as far as `copies` says, in room that nothing of ours gives up for it,
 * and marked as a copy in the tier.
 *
 * Memory: units past QUEUED hold at most fetch_bytes_max bytes of buffers (one unit may always
 * run). Readers go before loads, and loads get three quarters at most, so that a reader never waits
 * for one. Stores take turns, and one gets seven eighths at most, so that a dead one, whose units
 * hold their memory until they time out, leaves room for the others.
 *
 * What others own, and a reader here wants, waits for them while they fetch. It has a queue of its
 * own, gets half of the memory at most, and takes none from the other half: else two workers that
 * are full of what they want from each other would wait for ever.
 *
 * A unit that had to queue has a timer: when for the store's `timeout` nothing came from the store
 * (nor, while it has nothing under way itself, from any other), the unit fails as the requests that
 * hold the memory do. The time counts from the queueing, so a dead store costs a reader one timeout
 * and not one for each turn.
 */
#include "worker/worker_priv.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"
#include "lib/base/hash.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"

#define LINGER_NS (2 * TARN_NS_PER_S)

static const struct tarn_sm_state unit_states[] = {
#define WUNIT_STATE(name, next) {#name, next},
#include "worker/unit_states.def"
#undef WUNIT_STATE
};

static uint64_t unit_hash(const tarn_cid_t *cid, uint32_t group)
{
    return tarn_hash_u64(tarn_cid_hash(cid) + group);
}

struct wunit *wfetch_find(struct tarn_worker *w, const tarn_cid_t *cid, uint32_t group)
{
    uint64_t h = unit_hash(cid, group);

    for (struct tarn_hnode *n = tarn_htab_first(&w->units, h); n; n = tarn_htab_next(n, h)) {
        struct wunit *u = TARN_CONTAINER(n, struct wunit, hnode);

        if (u->group == group && tarn_cid_eq(&u->loc->cid, cid))
            return u;
    }
    return NULL;
}

static bool unit_satisfies(const struct wunit *u, const struct wwait *wait)
{
    return !wait->whole && u->arrived >= wait->need && (!wait->end || u->complete);
}

/* Tells the waiters that can be told: all of them at the end, else those whose bytes are there. */
static void unit_wake(struct wunit *u, bool all, int rc)
{
    struct tarn_list ready;

    tarn_list_init(&ready);
    TARN_LIST_FOREACH_SAFE(n, &u->waiters)
    {
        struct wwait *wait = TARN_LIST_ENTRY(n, struct wwait, node);

        if (all || unit_satisfies(u, wait)) {
            tarn_list_del(n);
            tarn_list_push(&ready, n);
        }
    }
    for (struct tarn_list *n = tarn_list_pop(&ready); n; n = tarn_list_pop(&ready)) {
        struct wwait *wait = TARN_LIST_ENTRY(n, struct wwait, node);

        wait->fn(wait, u, rc);
    }
}

/* ---- stores
 * --------------------------------------------------------------------------------------------- */

static struct wstore *store_get(struct tarn_worker *w, uint32_t attachment)
{
    struct wstore *s;

    TARN_LIST_FOREACH(n, &w->stores)
    {
        s = TARN_LIST_ENTRY(n, struct wstore, node);
        if (s->attachment == attachment) {
            s->units++;
            return s;
        }
    }
    s = tarn_xnew(struct wstore);
    s->attachment = attachment;
    s->units = 1;
    for (int q = 0; q < WQUEUES; q++)
        tarn_list_init(&s->queue[q]);
    tarn_list_push(&w->stores, &s->node);
    return s;
}

static void store_put(struct wstore *s)
{
    TARN_ASSERT(s->units > 0);
    if (--s->units > 0)
        return;
    TARN_ASSERT(s->bytes == 0);
    tarn_list_del(&s->node);
    free(s);
}

static void unit_take_memory(struct wunit *u)
{
    struct tarn_worker *w = u->worker;

    u->background = u->cls == TARN_UFS_BACKGROUND;
    w->fetch_bytes += u->len_bytes;
    *(u->queue == WQUEUE_FORWARD ? &w->forward_bytes : &u->store->bytes) += u->len_bytes;
    if (u->background)
        w->background_bytes += u->len_bytes;
    w->counts.fetching++;
}

static void unit_give_memory(struct wunit *u)
{
    struct tarn_worker *w = u->worker;

    uint64_t *share = u->queue == WQUEUE_FORWARD ? &w->forward_bytes : &u->store->bytes;

    TARN_ASSERT(w->fetch_bytes >= u->len_bytes && *share >= u->len_bytes);
    w->fetch_bytes -= u->len_bytes;
    *share -= u->len_bytes;
    if (u->background)
        w->background_bytes -= u->len_bytes;
    w->counts.fetching--;
}

/* ---- units that could not be kept
 * ------------------------------------------------------------------------ */

static void unit_finish(struct wunit *u, int rc);

static void linger_end(struct tarn_timer *t, void *arg)
{
    (void)t; /* u's */
    unit_finish(arg, 0);
}

/* Without room in the tier a unit stays for a moment: its readers ask for it in pieces, and each
 * piece would cost a fetch of the whole. */
static void unit_linger(struct wunit *u)
{
    struct tarn_worker *w = u->worker;
    bool pumping;

    tarn_sm_move(unit_states, &u->state, WUNIT_LINGERING);
    tarn_list_push(&w->lingering, &u->node);
    tarn_timer_start(w->args.loop, &u->timer, LINGER_NS, linger_end, u);
    pumping = w->pumping;
    w->pumping = true;     /* who is told may ask for more: that must not drop u meanwhile */
    unit_wake(u, true, 0); /* those who want it kept hear that it is not */
    w->pumping = pumping;
    wfetch_pump(w); /* others may need its memory */
}

/* Makes room for a fetch; false when nothing lingers. */
static bool linger_drop(struct tarn_worker *w)
{
    if (tarn_list_empty(&w->lingering))
        return false;
    unit_finish(TARN_LIST_ENTRY(w->lingering.next, struct wunit, node), 0);
    return true;
}

/* ---- the end
 * -------------------------------------------------------------------------------------------- */

static void unit_finish(struct wunit *u, int rc)
{
    struct tarn_worker *w = u->worker;
    bool had_memory = u->state != WUNIT_QUEUED;

    if (rc < 0)
        w->counts.fetch_errors++;
    if (u->state == WUNIT_QUEUED || u->state == WUNIT_LINGERING)
        tarn_list_del(&u->node);
    tarn_sm_move(unit_states, &u->state, WUNIT_DONE);
    tarn_htab_remove(&w->units, &u->hnode);
    tarn_timer_stop(&u->timer);
    unit_wake(u, true, rc);
    if (had_memory)
        unit_give_memory(u);
    store_put(u->store);
    tarn_buf_unref(&u->buf);
    wloc_unref(w, &u->loc);
    u->magic = 0;
    free(u);
    wfetch_pump(w);
    worker_idle(w);
}

/* It is kept as if it were ours, and another worker owns it by now. */
static bool unit_is_stray(const struct wunit *u)
{
    return u->keep && (!u->copy || u->wanted) && !wask_owns(u->worker, u->loc, u->group);
}

bool wfetch_strays(struct tarn_worker *w)
{
    size_t slot = 0;

    for (struct tarn_hnode *n = tarn_htab_walk(&w->units, &slot, NULL); n;
         n = tarn_htab_walk(&w->units, &slot, n)) {
        const struct wunit *u = TARN_CONTAINER(n, struct wunit, hnode);

        if (u->state != WUNIT_LINGERING && unit_is_stray(u))
            return true;
    }
    return false;
}

static void unit_stored(struct tarn_tier_op *op, int rc)
{
    struct wunit *u;

    TARN_CAST(u, op->arg, WUNIT_MAGIC);
    if (rc < 0)
        tarn_warn_limited("worker", "not kept: key=%s offset=%llu: %s", u->loc->key,
                          (unsigned long long)u->off_bytes, tarn_strerror(rc));
    u->kept_rc = rc == -TARN_E_CANCELLED ? -TARN_E_NOT_CACHED : rc; /* freed meanwhile */
    if (rc == 0 && unit_is_stray(u) && u->worker->move)
        tarn_move_stray(u->worker->move);
    unit_finish(u, 0); /* the bytes are right: no error of the read */
}

/* What a fetch that the store, a detach or our timer ended means to readers. */
static int unit_code(const struct wunit *u, int rc)
{
    if (rc != -TARN_E_CANCELLED)
        return rc;
    if (u->worker->stopping)
        return -TARN_E_SHUTDOWN;
    return u->expired ? -TARN_E_UFS_STALLED : -TARN_E_NO_ATTACH;
}

static void unit_store(struct wunit *u)
{
    u->buf->len = u->len_bytes;
    u->tier_op = (struct tarn_tier_op){.file = u->loc->file,
                                       .group = u->group,
                                       .buf = u->buf,
                                       .level = u->level,
                                       .tag = u->tag,
                                       .copy = u->copy && !u->wanted,
                                       .reserved_bytes = u->len_bytes,
                                       .cb = unit_stored,
                                       .arg = u};
    tarn_tier_store(u->worker->args.tier, &u->tier_op);
}

static void unit_reserved_late(struct tarn_tier_op *op, int rc)
{
    struct wunit *u;

    TARN_CAST(u, op->arg, WUNIT_MAGIC);
    u->kept_rc = rc;
    u->keep = rc == 0;
    if (rc < 0)
        unit_finish(u, 0);
    else
        unit_store(u);
}

/* Not to be kept by itself, but somebody came who wants it kept; all its bytes are here. */
static void unit_keep_late(struct wunit *u)
{
    struct tarn_worker *w = u->worker;

    tarn_sm_move(unit_states, &u->state, WUNIT_STORING);
    u->copy = false;
    u->tier_op = (struct tarn_tier_op){.file = u->loc->file,
                                       .group = u->group,
                                       .reserved_bytes = u->len_bytes,
                                       .cb = unit_reserved_late,
                                       .arg = u};
    tarn_tier_reserve(w->args.tier, &u->tier_op);
}

/* It was not kept as a copy, and is wanted as ours. */
static bool unit_kept_late(const struct wunit *u)
{
    return u->wanted && u->copy && !u->keep && !u->worker->stopping;
}

void wunit_arrived(struct wunit *u)
{
    struct tarn_worker *w = u->worker;

    TARN_ASSERT(u->arrived == u->len_bytes && u->buf);
    w->progress_ns = tarn_loop_now_ns(w->args.loop);
    tarn_timer_stop(&u->timer);
    u->complete = true;
    unit_wake(u, false, 0);
    if (unit_kept_late(u)) {
        unit_keep_late(u);
        return;
    }
    if (!u->keep) {
        w->counts.uncached_bytes += u->len_bytes;
        if (w->stopping)
            unit_finish(u, 0);
        else
            unit_linger(u);
        return;
    }
    tarn_sm_move(unit_states, &u->state, WUNIT_STORING);
    unit_store(u);
}

void wunit_failed(struct wunit *u, int rc)
{
    struct tarn_worker *w = u->worker;

    tarn_timer_stop(&u->timer);
    if (rc != -TARN_E_SHUTDOWN)
        tarn_warn_limited("worker", "fetch failed: key=%s offset=%llu: %s", u->loc->key,
                          (unsigned long long)u->off_bytes, tarn_err_text(&u->err, rc));
    if (rc == -TARN_E_UFS_CHANGED || rc == -TARN_E_UFS_NOT_FOUND)
        worker_report_changed(w, u->loc, rc);
    if (u->keep)
        tarn_tier_unreserve(w->args.tier, u->len_bytes);
    if (u->late && tarn_err_of_store(rc)) /* a worker may have it, and will have time */
        rc = -TARN_E_BUSY;
    unit_finish(u, rc);
}

static void unit_fetch(struct wunit *u);

/* Its store was closed under it, because another one took its place: what is missing is asked of
 * that one. */
static bool unit_again(struct wunit *u, int rc)
{
    struct tarn_ufs *now = wloc_store(u->worker, u->loc);

    if (rc != -TARN_E_CANCELLED || u->worker->stopping || u->expired || !now || now == u->ufs ||
        u->arrived == u->len_bytes)
        return false;
    unit_fetch(u);
    return true;
}

static void unit_fetched(struct tarn_ufs_get *g, int rc)
{
    struct wunit *u;

    TARN_CAST(u, g->arg, WUNIT_MAGIC);
    if (unit_again(u, rc))
        return;
    if (rc == 0 && u->arrived != u->len_bytes)
        rc = -TARN_E_UFS_SHORT;
    if (rc < 0) {
        if (rc != -TARN_E_CANCELLED)
            u->err = g->req.err;
        wunit_failed(u, unit_code(u, rc));
        return;
    }
    u->level = (uint32_t)g->verified;
    u->tag = wetag_tag(u->loc, g);
    wunit_arrived(u);
}

/* Whether an answer is of the object that the unit's other bytes are of, which may have come from
 * the store as it was opened before, and the cid's. */
static bool unit_fits(const struct wunit *u, const struct tarn_ufs_get *g)
{
    return (u->arrived == 0 || wetag_tag(u->loc, g) == u->tag) &&
           wetag_check(u->worker, u->loc, g) == 0;
}

static int unit_data(struct tarn_ufs_get *g, const uint8_t *p, size_t n)
{
    struct wunit *u;
    struct tarn_worker *w;

    TARN_CAST(u, g->arg, WUNIT_MAGIC);
    w = u->worker;
    if (n > u->len_bytes - u->arrived)
        return -TARN_E_UFS_LIED;
    if (!u->checked && !unit_fits(u, g))
        return -TARN_E_UFS_CHANGED;
    if (!u->checked)
        u->tag = wetag_tag(u->loc, g); /* readers compare it from the first byte on */
    u->checked = true;
    memcpy(u->buf->p + u->arrived, p, n);
    u->arrived += (uint32_t)n;
    w->counts.fetched_bytes += n;
    w->progress_ns = tarn_loop_now_ns(w->args.loop);
    unit_wake(u, false, 0);
    return 0;
}

static void unit_fail_reserved(struct wunit *u, int rc)
{
    if (u->keep)
        tarn_tier_unreserve(u->worker->args.tier, u->len_bytes);
    unit_finish(u, rc);
}

static void unit_fetch(struct wunit *u)
{
    struct tarn_worker *w = u->worker;
    struct tarn_ufs *ufs = wloc_store(w, u->loc);
    const char *etag = wetag_of(w, u->loc);
    struct tarn_ufs_version v = u->loc->ufs;

    if (!ufs) {
        unit_fail_reserved(u, -TARN_E_NO_ATTACH);
        return;
    }
    memcpy(v.etag, etag, strlen(etag) + 1);
    u->ufs = ufs;
    u->checked = false;
    u->get = (struct tarn_ufs_get){.off_bytes = u->off_bytes + u->arrived,
                                   .len_bytes = u->len_bytes - u->arrived,
                                   .on_data = unit_data,
                                   .cb = unit_fetched,
                                   .arg = u};
    u->get.req.cls = u->cls;
    tarn_ufs_get(ufs, &u->get, u->loc->key, &v);
}

/* ---- the start
 * ------------------------------------------------------------------------------------------ */

static void unit_reserved(struct tarn_tier_op *op, int rc)
{
    struct wunit *u;

    TARN_CAST(u, op->arg, WUNIT_MAGIC);
    u->keep = rc == 0; /* no room: serve without keeping */
    u->kept_rc = rc;
    if (u->worker->stopping)
        unit_fail_reserved(u, -TARN_E_SHUTDOWN);
    else if (!u->keep && tarn_list_empty(&u->waiters)) /* ahead of need, and nothing would stay */
        unit_finish(u, 0);
    else if (!wask_start(u))
        wunit_from_store(u);
}

void wunit_asking(struct wunit *u)
{
    tarn_sm_move(unit_states, &u->state, WUNIT_ASKING);
}

void wunit_from_store(struct wunit *u)
{
    u->buf = worker_buf(u->worker, u->len_bytes);
    if (!u->buf) {
        unit_fail_reserved(u, -TARN_E_NO_MEMORY);
        return;
    }
    tarn_sm_move(unit_states, &u->state, WUNIT_FETCHING);
    u->source = WSOURCE_UFS;
    u->worker->counts.fetches++;
    unit_fetch(u);
}

/* Whether the tier is to keep it, and as what: sets `copy`. */
static bool unit_to_keep(struct wunit *u)
{
    struct tarn_worker *w = u->worker;
    uint32_t copies = w->copies;

    if (!u->loc->file)
        return false;
    if (!u->forward || wask_owns(w, u->loc, u->group))
        return true;
    if (!wask_owner_usable(w, u->loc, u->group))
        copies = 2; /* in an owner's place, which asks for it when it is back */
    u->copy = true;
    if (copies == 1 && !tarn_list_empty(&u->waiters)) /* ahead of need is not asked for */
        return wrecent_seen(w, &u->loc->cid, u->group);
    return copies >= 2;
}

static void unit_start(struct wunit *u)
{
    struct tarn_worker *w = u->worker;
    bool keep;

    tarn_list_del(&u->node);
    tarn_sm_move(unit_states, &u->state, WUNIT_RESERVING);
    if (u->queued_ns == tarn_loop_now_ns(w->args.loop))
        tarn_timer_stop(&u->timer); /* it did not wait: the store's own deadline is enough */
    unit_take_memory(u);
    keep = unit_to_keep(u);
    u->tier_op = (struct tarn_tier_op){.file = u->loc->file,
                                       .group = u->group,
                                       .reserved_bytes = u->len_bytes,
                                       .spare = u->copy,
                                       .cb = unit_reserved,
                                       .arg = u};
    if (keep)
        tarn_tier_reserve(w->args.tier, &u->tier_op);
    else
        unit_reserved(&u->tier_op, u->loc->file ? -TARN_E_NOT_CACHED : -TARN_E_TIER_FULL);
}

/* Whether `used` and the unit are within `max`; one may always run. */
static bool fits(const struct wunit *u, uint64_t used, uint64_t max)
{
    return used == 0 || used + u->len_bytes <= max;
}

/* Whether all that is under way leaves room for the unit. */
static bool fits_all(const struct tarn_worker *w, const struct wunit *u)
{
    uint64_t max = w->args.fetch_bytes_max, forward = w->forward_bytes;

    if (u->queue == WQUEUE_FORWARD)
        return fits(u, w->fetch_bytes, max) && fits(u, forward, max / 2);
    return fits(u, w->fetch_bytes - forward, max - TARN_MIN(forward, max));
}

/* The next unit of a queue that may start; the store that it is of goes to the end of the line. */
static struct wunit *pump_next(struct tarn_worker *w, enum wqueue q, bool *ret_full)
{
    uint64_t max = w->args.fetch_bytes_max;

    TARN_LIST_FOREACH(n, &w->stores)
    {
        struct wstore *s = TARN_LIST_ENTRY(n, struct wstore, node);
        struct wunit *u;

        if (tarn_list_empty(&s->queue[q]))
            continue;
        u = TARN_LIST_ENTRY(s->queue[q].next, struct wunit, node);
        if (!fits_all(w, u)) {
            *ret_full = true; /* smaller ones must not pass it for ever */
            return NULL;
        }
        if ((q != WQUEUE_FORWARD && !fits(u, s->bytes, max / 8 * 7)) ||
            (u->cls == TARN_UFS_BACKGROUND && !fits(u, w->background_bytes, max / 4 * 3)))
            continue;
        tarn_list_del(&s->node);
        tarn_list_push(&w->stores, &s->node);
        return u;
    }
    return NULL;
}

static bool pump_waits(const struct tarn_worker *w, enum wqueue q)
{
    TARN_LIST_FOREACH(n, &w->stores)
    {
        if (!tarn_list_empty(&TARN_LIST_ENTRY(n, struct wstore, node)->queue[q]))
            return true;
    }
    return false;
}

static void pump_stop(struct tarn_worker *w)
{
    bool found = true;

    while (linger_drop(w))
        ;

    while (found) {
        found = false;
        TARN_LIST_FOREACH(n, &w->stores)
        {
            struct wstore *s = TARN_LIST_ENTRY(n, struct wstore, node);
            int q = 0;

            while (q < WQUEUES && tarn_list_empty(&s->queue[q]))
                q++;
            if (q == WQUEUES)
                continue;
            unit_finish(TARN_LIST_ENTRY(s->queue[q].next, struct wunit, node),
                        -TARN_E_SHUTDOWN); /* s may be gone */
            found = true;
            break;
        }
    }
}

/* Starts what the memory budget allows: readers before loads. */
void wfetch_pump(struct tarn_worker *w)
{
    static const enum wqueue order[WQUEUES] = {WQUEUE_FOREGROUND, WQUEUE_FORWARD,
                                               WQUEUE_BACKGROUND};
    bool full = false;
    struct wunit *u;

    if (w->pumping)
        return; /* the one that is at it looks again */
    w->pumping = true;
    for (int i = 0; i < WQUEUES && !full && !w->stopping; i++)
        do {
            full = false;
            while ((u = pump_next(w, order[i], &full)) != NULL)
                unit_start(u);
        } while (pump_waits(w, order[i]) && linger_drop(w));
    if (w->stopping)
        pump_stop(w);
    w->pumping = false;
}

/* ---- units that had to queue
 * ---------------------------------------------------------------------------- */

static void unit_timer(struct tarn_timer *t, void *arg)
{
    struct wunit *u = arg;
    struct tarn_worker *w = u->worker;
    struct tarn_ufs *ufs = wloc_store(w, u->loc);
    uint64_t from = TARN_MAX(u->queued_ns, ufs ? tarn_ufs_alive_ns(ufs) : 0);
    uint64_t now = tarn_loop_now_ns(w->args.loop), timeout = ufs ? tarn_ufs_timeout_ns(ufs) : 0;

    TARN_ASSERT(u->magic == WUNIT_MAGIC && t == &u->timer);
    if (u->store->bytes == 0)
        from = TARN_MAX(from, w->progress_ns);
    if (u->state == WUNIT_RESERVING || u->state == WUNIT_ASKING || now - from < timeout) {
        uint64_t left = now - from < timeout ? timeout - (now - from) : 50 * TARN_NS_PER_MS;

        tarn_timer_start(w->args.loop, t, left, unit_timer, u);
        return;
    }
    (void)tarn_err_set(&u->err, -TARN_E_UFS_STALLED, "%s: no progress, waiting for memory",
                       ufs ? tarn_ufs_uri(ufs) : u->loc->key); /* rc is known */
    u->expired = true;
    if (u->state == WUNIT_FETCHING)
        tarn_ufs_cancel(&u->get.req);
    else
        unit_finish(u, ufs ? -TARN_E_UFS_STALLED : -TARN_E_NO_ATTACH);
}

/* Where it is to wait, while it is QUEUED. */
static void unit_queue(struct wunit *u)
{
    if (u->forward && !wask_owns(u->worker, u->loc, u->group))
        u->queue = WQUEUE_FORWARD;
    else
        u->queue = u->cls == TARN_UFS_BACKGROUND ? WQUEUE_BACKGROUND : WQUEUE_FOREGROUND;
    tarn_list_del(&u->node);
    tarn_list_push(&u->store->queue[u->queue], &u->node);
}

static struct wunit *unit_new(struct tarn_worker *w, struct wloc *loc, uint32_t group,
                              enum tarn_ufs_class cls, bool own)
{
    struct wunit *u = tarn_xnew(struct wunit);

    worker_busy(w);
    u->magic = WUNIT_MAGIC;
    u->worker = w;
    u->store = store_get(w, loc->attachment);
    u->loc = wloc_ref(loc);
    u->group = group;
    u->off_bytes = (uint64_t)group * TARN_UNIT_BYTES;
    u->len_bytes = wgroup_len(loc->ufs.size_bytes, group);
    u->cls = cls;
    u->state = WUNIT_QUEUED;
    u->queued_ns = tarn_loop_now_ns(w->args.loop);
    tarn_list_init(&u->waiters);
    tarn_htab_insert(&w->units, &u->hnode, unit_hash(&loc->cid, group));
    u->forward = !own;
    tarn_list_init(&u->node);
    unit_queue(u);
    return u;
}

/* Somebody joins who wants it kept here, and who may be the one that we would ask. */
static void unit_join_own(struct wunit *u)
{
    u->wanted = true;
    if (u->state == WUNIT_QUEUED && u->forward) {
        u->forward = false;
        unit_queue(u);
    }
    wask_keep_here(u);
    if (u->state != WUNIT_LINGERING || !unit_kept_late(u))
        return;
    tarn_list_del(&u->node);
    tarn_timer_stop(&u->timer);
    unit_keep_late(u);
}

void wfetch(struct tarn_worker *w, struct wloc *loc, uint32_t group, enum tarn_ufs_class cls,
            bool own, struct wwait *wait)
{
    struct wunit *u = wfetch_find(w, &loc->cid, group);
    struct tarn_ufs *ufs;

    TARN_ASSERT((uint64_t)group * TARN_UNIT_BYTES < loc->ufs.size_bytes);
    if (u && own)
        unit_join_own(u);
    if (!u) {
        u = unit_new(w, loc, group, cls, own);
    } else if (cls < u->cls && u->state <= WUNIT_RESERVING) {
        u->cls = cls; /* a reader wants what a load had asked for */
        if (u->state == WUNIT_QUEUED)
            unit_queue(u);
    }
    if (wait) {
        wait->unit = u;
        tarn_list_push(&u->waiters, &wait->node);
    }
    if (u->state != WUNIT_QUEUED) {
        if (wait && (u->state == WUNIT_LINGERING || unit_satisfies(u, wait)))
            unit_wake(u, u->state == WUNIT_LINGERING, 0);
        return;
    }
    if (!tarn_timer_running(&u->timer) && (ufs = wloc_store(w, loc)) != NULL)
        tarn_timer_start(w->args.loop, &u->timer, tarn_ufs_timeout_ns(ufs), unit_timer, u);
    wfetch_pump(w); /* u may be gone */
}

void wfetch_forget(struct wwait *wait)
{
    struct wunit *u = wait->unit;

    tarn_list_del(&wait->node);
    if (u->state == WUNIT_QUEUED && tarn_list_empty(&u->waiters))
        unit_finish(u, -TARN_E_CANCELLED);
}
