/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Single flight: one struct wunit per group that is being fetched, found by (cid, group). A request
 * goes
 *
 *     wfetch -> QUEUED -> (memory budget) RESERVING room in the tier -> FETCHING from the store
 *            -> waiters are served while the bytes arrive -> STORING in the tier -> DONE, gone
 *
 * Invariants: a unit is in worker->units exactly until DONE, so that a reader finds the bytes
 * either in the unit or in the tier and nobody fetches twice; a waiter that goes away never stops a
 * fetch; a failure is told to all waiters and not remembered. Memory: units past QUEUED hold at
 * most fetch_bytes_max bytes of buffers (one unit may always run).
 */
#include "worker/worker_priv.h"

#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/hash.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"

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
    return !wait->whole && u->arrived >= wait->need;
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

static void unit_finish(struct wunit *u, int rc)
{
    struct tarn_worker *w = u->worker;
    bool had_memory = u->state != WUNIT_QUEUED;

    if (rc < 0)
        w->counts.fetch_errors++;
    if (u->state == WUNIT_QUEUED)
        tarn_list_del(&u->node);
    tarn_sm_move(unit_states, &u->state, WUNIT_DONE);
    tarn_htab_remove(&w->units, &u->hnode);
    u->rc = rc;
    unit_wake(u, true, rc);
    if (had_memory) {
        TARN_ASSERT(w->fetch_bytes >= u->len_bytes);
        w->fetch_bytes -= u->len_bytes;
        w->counts.fetching--;
    }
    tarn_buf_unref(&u->buf);
    wloc_unref(w, &u->loc);
    u->magic = 0;
    free(u);
    wfetch_pump(w);
    worker_idle(w);
}

static void unit_stored(struct tarn_tier_op *op, int rc)
{
    struct wunit *u;

    TARN_CAST(u, op->arg, WUNIT_MAGIC);
    if (rc < 0)
        tarn_warn_limited("worker", "not kept: key=%s offset=%llu: %s", u->loc->key,
                          (unsigned long long)u->off_bytes, tarn_strerror(rc));
    unit_finish(u,
                0); /* the bytes are right; that they could not be kept is no error of the read */
}

static void unit_fetched(struct tarn_ufs_get *g, int rc)
{
    struct wunit *u;
    struct tarn_worker *w;

    TARN_CAST(u, g->arg, WUNIT_MAGIC);
    w = u->worker;
    if (rc == 0 && u->arrived != u->len_bytes)
        rc = -TARN_E_UFS_SHORT;
    if (rc < 0) {
        u->err = g->req.err;
        if (rc != -TARN_E_CANCELLED)
            tarn_warn_limited("worker", "fetch failed: key=%s offset=%llu: %s", u->loc->key,
                              (unsigned long long)u->off_bytes, tarn_err_text(&u->err, rc));
        if (rc == -TARN_E_UFS_CHANGED || rc == -TARN_E_UFS_NOT_FOUND)
            worker_report_changed(w, u->loc, rc);
        if (u->keep)
            tarn_tier_unreserve(w->args.tier, u->len_bytes);
        unit_finish(u, rc);
        return;
    }
    if (!u->keep) {
        w->counts.uncached_bytes += u->len_bytes;
        unit_finish(u, 0);
        return;
    }
    tarn_sm_move(unit_states, &u->state, WUNIT_STORING);
    u->buf->len = u->len_bytes;
    u->tier_op = (struct tarn_tier_op){.file = u->loc->file,
                                       .group = u->group,
                                       .buf = u->buf,
                                       .level = (uint32_t)g->verified,
                                       .reserved_bytes = u->len_bytes,
                                       .cb = unit_stored,
                                       .arg = u};
    tarn_tier_store(w->args.tier, &u->tier_op);
}

static int unit_data(struct tarn_ufs_get *g, const uint8_t *p, size_t n)
{
    struct wunit *u;

    TARN_CAST(u, g->arg, WUNIT_MAGIC);
    if (n > u->len_bytes - u->arrived)
        return -TARN_E_UFS_LIED;
    memcpy(u->buf->p + u->arrived, p, n);
    u->arrived += (uint32_t)n;
    u->worker->counts.fetched_bytes += n;
    unit_wake(u, false, 0);
    return 0;
}

static void unit_fetch(struct wunit *u)
{
    struct tarn_worker *w = u->worker;

    tarn_sm_move(unit_states, &u->state, WUNIT_FETCHING);
    w->counts.fetches++;
    u->get = (struct tarn_ufs_get){.off_bytes = u->off_bytes,
                                   .len_bytes = u->len_bytes,
                                   .on_data = unit_data,
                                   .cb = unit_fetched,
                                   .arg = u};
    u->get.req.cls = u->cls;
    tarn_ufs_get(u->loc->store, &u->get, u->loc->key, &u->loc->ufs);
}

static void unit_reserved(struct tarn_tier_op *op, int rc)
{
    struct wunit *u;

    TARN_CAST(u, op->arg, WUNIT_MAGIC);
    u->keep = rc == 0; /* no room: serve without keeping */
    if (u->worker->stopping) {
        if (u->keep)
            tarn_tier_unreserve(u->worker->args.tier, u->len_bytes);
        unit_finish(u, -TARN_E_SHUTDOWN);
        return;
    }
    u->buf = tarn_buf_new(u->len_bytes);
    if (!u->buf) {
        if (u->keep)
            tarn_tier_unreserve(u->worker->args.tier, u->len_bytes);
        unit_finish(u, -TARN_E_NO_MEMORY);
        return;
    }
    unit_fetch(u);
}

static void unit_start(struct wunit *u)
{
    struct tarn_worker *w = u->worker;

    tarn_list_del(&u->node);
    tarn_sm_move(unit_states, &u->state, WUNIT_RESERVING);
    w->fetch_bytes += u->len_bytes;
    w->counts.fetching++;
    u->tier_op = (struct tarn_tier_op){.file = u->loc->file,
                                       .group = u->group,
                                       .reserved_bytes = u->len_bytes,
                                       .cb = unit_reserved,
                                       .arg = u};
    if (w->args.tier)
        tarn_tier_reserve(w->args.tier, &u->tier_op);
    else
        unit_reserved(&u->tier_op, -TARN_E_TIER_FULL);
}

/* Starts what the memory budget allows: readers before loads. */
void wfetch_pump(struct tarn_worker *w)
{
    for (int cls = 0; cls < 2; cls++) {
        while (!tarn_list_empty(&w->queue[cls])) {
            struct wunit *u = TARN_LIST_ENTRY(w->queue[cls].next, struct wunit, node);

            if (w->fetch_bytes > 0 && w->fetch_bytes + u->len_bytes > w->args.fetch_bytes_max)
                return;
            unit_start(u);
        }
    }
}

void wfetch(struct tarn_worker *w, struct wloc *loc, uint32_t group, enum tarn_ufs_class cls,
            struct wwait *wait)
{
    struct wunit *u = wfetch_find(w, &loc->cid, group);

    TARN_ASSERT((uint64_t)group * TARN_UNIT_BYTES < loc->ufs.size_bytes);
    if (!u) {
        worker_busy(w);
        u = tarn_xnew(struct wunit);
        u->magic = WUNIT_MAGIC;
        u->worker = w;
        u->loc = wloc_ref(loc);
        u->group = group;
        u->off_bytes = (uint64_t)group * TARN_UNIT_BYTES;
        u->len_bytes = wgroup_len(loc->ufs.size_bytes, group);
        u->cls = cls;
        u->state = WUNIT_QUEUED;
        tarn_list_init(&u->waiters);
        tarn_htab_insert(&w->units, &u->hnode, unit_hash(&loc->cid, group));
        tarn_list_push(&w->queue[cls], &u->node);
    } else if (cls < u->cls && u->state == WUNIT_QUEUED) {
        u->cls = cls; /* a reader wants what a load had queued */
        tarn_list_del(&u->node);
        tarn_list_push(&w->queue[cls], &u->node);
    }
    if (wait)
        tarn_list_push(&u->waiters, &wait->node);
    if (u->state == WUNIT_QUEUED)
        wfetch_pump(w);
    else if (wait && unit_satisfies(u, wait))
        unit_wake(u, false, 0);
}

void wfetch_forget(struct wwait *wait)
{
    tarn_list_del(&wait->node);
}
