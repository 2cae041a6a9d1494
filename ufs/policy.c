/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One policy for all stores: who may start, what is tried again, and when a request has waited
 * enough.
 *
 * A request is in exactly one list of its store, named by its state (req_states.def). Everything
 * that starts attempts goes through one posted task, the pump, so that neither a submit nor a
 * callback of a back end ever starts another attempt from inside itself. Results that are known
 * without the store (a cancelled request, a root's stat) are delivered by a posted task; those of
 * attempts straight from the back end's own callback, which is a loop turn of its own already.
 *
 * Deadline: a request fails when for `timeout` neither a byte arrived for it nor, while it waits
 * for a slot, any sign of life came from the store. It covers retries too: a dead store costs one
 * timeout. An attempt that waits for a first byte on a connection that was used before is given up
 * after a third of it, once, since such a connection may be dead without either side knowing.
 *
 * Bandwidth: a bucket of tokens that may be overdrawn. A get takes its whole length when it starts
 * and returns what it did not receive, other requests pay on arrival; nothing starts while the
 * bucket is empty. So the average is exact and no transfer is paused half-way.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "lib/base/mem.h"
#include "lib/base/sm.h"
#include "lib/base/units.h"
#include "ufs/ufs_priv.h"

#define POLICY_BACKOFF_NS     (100 * TARN_NS_PER_MS) /* before the first retry; doubles */
#define POLICY_BACKOFF_SLOW   4u                     /* times longer when asked to slow down */
#define POLICY_BACKOFF_MAX_NS (5 * TARN_NS_PER_S)
#define POLICY_TICK_NS        (20 * TARN_NS_PER_MS) /* of the bandwidth limit */
#define POLICY_PROGRESS_BYTES (64u << 10) /* an attempt that brought these was no failure */

static const struct tarn_sm_state policy_states[] = {
#define TARN_UFS_STATE(name, next) {#name, (next)},
#include "ufs/req_states.def"
#undef TARN_UFS_STATE
};

static void policy_pump_cb(struct tarn_task *t);
static void policy_timer_cb(struct tarn_timer *t, void *arg);

void tarn_ufs_policy_init(struct tarn_ufs *u)
{
    uint64_t seed;
    struct tarn_rng *rng = tarn_rng_system();

    tarn_list_init(&u->queued[TARN_UFS_FOREGROUND]);
    tarn_list_init(&u->queued[TARN_UFS_BACKGROUND]);
    tarn_list_init(&u->running);
    tarn_list_init(&u->waiting);
    tarn_list_init(&u->done);
    rng->fill(rng, &seed, sizeof(seed));
    tarn_rng_seeded_init(&u->jitter, seed);
    u->progress_ns = tarn_loop_now_ns(u->loop);
    u->tokens_ns = u->progress_ns;
}

static void policy_pump(struct tarn_ufs *u)
{
    if (u->pump_posted)
        return;
    u->pump_posted = true;
    tarn_loop_post(u->loop, &u->pump, policy_pump_cb);
}

static void policy_queue(struct tarn_ufs *u, struct tarn_ufs_req *r, bool front)
{
    tarn_sm_move(policy_states, &r->state, UFS_REQ_QUEUED);
    if (front)
        tarn_list_push_front(&u->queued[r->cls], &r->node);
    else
        tarn_list_push(&u->queued[r->cls], &r->node);
    u->n_queued++;
}

/* Takes a request out of the list of its state; IDLE has none. */
static void policy_unlink(struct tarn_ufs *u, struct tarn_ufs_req *r)
{
    if (r->state == UFS_REQ_QUEUED)
        u->n_queued--;
    if (r->state != UFS_REQ_IDLE)
        tarn_list_del(&r->node);
}

/* ---- the end of a request ------------------------------------------------------------------- */

static void policy_count_end(struct tarn_ufs *u, struct tarn_ufs_req *r, int rc)
{
    size_t n = strlen(r->err.text);

    if (rc < 0 && rc != -TARN_E_UFS_NOT_FOUND && rc != -TARN_E_CANCELLED)
        u->counts.failures++;
    if (rc < 0 && !n)
        (void)tarn_err_set(&r->err, rc, "%s%s: %s", u->uri, u->where,
                           tarn_strerror(rc)); /* rc is known */
    else if (rc < 0 && r->attempt > 1)
        (void)snprintf(r->err.text + n, sizeof(r->err.text) - n, " (%u tries)",
                       r->attempt); /* cut is fine */
    else if (rc >= 0)
        r->err.text[0] = 0;
    if (r->attempt > 0 || rc == -TARN_E_UFS_STALLED) /* else nobody was asked */
        tarn_ufs_health_note(u, r->kind, rc, &r->err);
}

static void policy_deliver_cb(struct tarn_task *t)
{
    struct tarn_ufs_req *r = TARN_CONTAINER(t, struct tarn_ufs_req, task);
    struct tarn_ufs *u = r->ufs;

    TARN_ASSERT(u->magic == UFS_MAGIC);
    tarn_list_del(&r->node);
    tarn_sm_move(policy_states, &r->state, UFS_REQ_IDLE);
    policy_pump(u);
    tarn_ufs_req_end(r, r->last_rc);
}

/* Moves a request that has no attempt to `done`. */
static void policy_end_later(struct tarn_ufs *u, struct tarn_ufs_req *r, int rc)
{
    TARN_ASSERT(!r->back_end);
    tarn_timer_stop(&r->timer);
    policy_unlink(u, r);
    tarn_sm_move(policy_states, &r->state, UFS_REQ_DONE);
    tarn_list_push(&u->done, &r->node);
    r->last_rc = rc;
    policy_count_end(u, r, rc);
    tarn_loop_post(u->loop, &r->task, policy_deliver_cb);
}

/* ---- bandwidth ------------------------------------------------------------------------------ */

static void policy_bandwidth_cb(struct tarn_timer *t, void *arg)
{
    struct tarn_ufs *u = arg;

    (void)t;
    u->alive_ns = u->progress_ns =
        tarn_loop_now_ns(u->loop); /* it is us who hold the requests back */
    policy_pump(u);
}

/* True when the limit lets nothing start now; the pump will run again. */
static bool policy_held(struct tarn_ufs *u)
{
    uint64_t rate = u->opts.max_bandwidth, now = tarn_loop_now_ns(u->loop), gained;
    int64_t cap;

    if (!rate)
        return false;
    cap = (int64_t)TARN_MIN(rate / 4 + 1, (uint64_t)INT64_MAX / 2);
    gained = (uint64_t)((unsigned __int128)(now - u->tokens_ns) * rate / TARN_NS_PER_S);
    if (gained) {
        u->tokens_ns = now;
        u->tokens_bytes =
            TARN_MIN(u->tokens_bytes + (int64_t)TARN_MIN(gained, (uint64_t)INT64_MAX / 2), cap);
    }
    if (u->tokens_bytes > 0)
        return false;
    if (!tarn_timer_running(&u->bandwidth))
        tarn_timer_start(u->loop, &u->bandwidth, POLICY_TICK_NS, policy_bandwidth_cb, u);
    return true;
}

static void policy_charge(struct tarn_ufs *u, struct tarn_ufs_req *r)
{
    r->charged_bytes = 0;
    if (r->kind == UFS_KIND_GET)
        r->charged_bytes = ufs_req_get(r)->len_bytes - ufs_req_get(r)->done_bytes;
    u->tokens_bytes -= (int64_t)TARN_MIN(r->charged_bytes, (uint64_t)INT64_MAX / 4);
}

static void policy_refund(struct tarn_ufs *u, struct tarn_ufs_req *r)
{
    u->tokens_bytes += (int64_t)TARN_MIN(r->charged_bytes, (uint64_t)INT64_MAX / 4);
    r->charged_bytes = 0;
}

/* ---- starting ------------------------------------------------------------------------------- */

static unsigned policy_cost(const struct tarn_ufs *u, struct tarn_ufs_req *r)
{
    unsigned cost = 1;

    if (r->kind == UFS_KIND_STAT && !ufs_req_stat(r)->file_only)
        cost = 2; /* HEAD and LIST in parallel */
    return (unsigned)TARN_MIN((uint64_t)cost, u->opts.max_connections);
}

static void policy_start(struct tarn_ufs *u, struct tarn_ufs_req *r)
{
    policy_unlink(u, r);
    tarn_list_push(&u->running, &r->node);
    tarn_sm_move(policy_states, &r->state, UFS_REQ_RUNNING);
    if (r->attempt++)
        u->counts.retries++;
    r->cost = policy_cost(u, r);
    r->attempt_bytes = 0;
    r->retry_after_ns = 0;
    r->progress_ns = TARN_MAX(r->progress_ns, u->progress_ns);
    r->err.text[0] = 0;
    u->running_cost += r->cost;
    policy_charge(u, r);
    tarn_timer_start(u->loop, &r->timer, u->opts.timeout / 3, policy_timer_cb, r);
    u->ops->start(u, r);
    TARN_ASSERT(r->state == UFS_REQ_RUNNING && r->back_end);
}

static struct tarn_ufs_req *policy_next(struct tarn_ufs *u)
{
    for (int c = TARN_UFS_FOREGROUND; c <= TARN_UFS_BACKGROUND; c++)
        if (!tarn_list_empty(&u->queued[c]))
            return TARN_LIST_ENTRY(u->queued[c].next, struct tarn_ufs_req, node);
    return NULL;
}

static bool policy_idle(const struct tarn_ufs *u)
{
    return tarn_list_empty(&u->running) && tarn_list_empty(&u->waiting) &&
           tarn_list_empty(&u->done) && tarn_list_empty(&u->queued[0]) &&
           tarn_list_empty(&u->queued[1]);
}

bool tarn_ufs_idle(const struct tarn_ufs *u)
{
    return policy_idle(u);
}

static void policy_pump_cb(struct tarn_task *t)
{
    struct tarn_ufs *u = TARN_CONTAINER(t, struct tarn_ufs, pump);
    struct tarn_ufs_req *r;

    TARN_ASSERT(u->magic == UFS_MAGIC && u->pump_posted);
    u->pump_posted = false;
    while ((r = policy_next(u)) != NULL && !policy_held(u)) {
        if (u->running_cost + policy_cost(u, r) > u->opts.max_connections)
            break;
        policy_start(u, r);
    }
    if (u->closing && !u->back_end_closing && policy_idle(u)) {
        u->back_end_closing = true;
        tarn_timer_stop(&u->bandwidth);
        u->ops->close(u); /* u may be gone */
    }
}

/* ---- deadlines and retries ------------------------------------------------------------------ */

/* Takes a running request out of the running set; its attempt is over or was aborted. */
static void policy_stopped(struct tarn_ufs *u, struct tarn_ufs_req *r)
{
    TARN_ASSERT(r->state == UFS_REQ_RUNNING && u->running_cost >= r->cost);
    tarn_timer_stop(&r->timer);
    u->running_cost -= r->cost;
    r->back_end = NULL;
    policy_refund(u, r);
    if (r->attempt_bytes >= POLICY_PROGRESS_BYTES)
        r->attempt = 1;
    policy_pump(u);
}

static uint64_t policy_backoff_ns(struct tarn_ufs *u, const struct tarn_ufs_req *r, int rc)
{
    uint64_t d = POLICY_BACKOFF_NS;

    if (rc == -TARN_E_UFS_THROTTLED)
        d *= POLICY_BACKOFF_SLOW;
    d <<= TARN_MIN(r->attempt - 1, 10u);
    d = TARN_MIN(d, POLICY_BACKOFF_MAX_NS);
    d = d / 2 + tarn_rng_below(&u->jitter.base, d / 2 + 1);
    return TARN_MAX(d, r->retry_after_ns);
}

/* Puts a stopped request into backoff if `rc` and its budget allow it. */
static bool policy_retry(struct tarn_ufs *u, struct tarn_ufs_req *r, int rc)
{
    uint64_t now = tarn_loop_now_ns(u->loop), delay;

    if (rc >= 0 || tarn_err_retry(rc) != TARN_RETRY_BACKOFF || r->cancelled || r->stopped ||
        u->closing)
        return false;
    if (r->attempt > u->opts.retries)
        return false;
    delay = policy_backoff_ns(u, r, rc);
    if (now - r->progress_ns + delay >= u->opts.timeout)
        return false;
    r->last_rc = rc;
    tarn_list_del(&r->node);
    tarn_list_push(&u->waiting, &r->node);
    tarn_sm_move(policy_states, &r->state, UFS_REQ_WAITING);
    tarn_timer_start(u->loop, &r->timer, delay, policy_timer_cb, r);
    return true;
}

void tarn_ufs_policy_done(struct tarn_ufs_req *r, int rc)
{
    struct tarn_ufs *u = r->ufs;

    TARN_ASSERT(u->magic == UFS_MAGIC && !r->in_data);
    policy_stopped(u, r);
    if (r->cancelled)
        rc = -TARN_E_CANCELLED;
    if (policy_retry(u, r, rc))
        return;
    tarn_list_del(&r->node);
    tarn_sm_move(policy_states, &r->state, UFS_REQ_IDLE);
    policy_count_end(u, r, rc);
    tarn_ufs_req_end(r, rc);
}

static uint64_t policy_silent_ns(const struct tarn_ufs *u, const struct tarn_ufs_req *r)
{
    uint64_t from = r->progress_ns;

    if (r->state == UFS_REQ_QUEUED)
        from = TARN_MAX(from, u->progress_ns);
    return tarn_loop_now_ns(u->loop) - from;
}

uint64_t tarn_ufs_timeout_ns(const struct tarn_ufs *u)
{
    return u->opts.timeout;
}

uint64_t tarn_ufs_alive_ns(const struct tarn_ufs *u)
{
    return u->alive_ns;
}

static enum tarn_ufs_op policy_op(const struct tarn_ufs_req *r)
{
    return r->kind == UFS_KIND_GET    ? TARN_UFS_OP_GET
           : r->kind == UFS_KIND_STAT ? TARN_UFS_OP_STAT
                                      : TARN_UFS_OP_LIST;
}

static void policy_stalled(struct tarn_ufs *u, struct tarn_ufs_req *r, uint64_t silent_ns,
                           bool final)
{
    int rc = -TARN_E_UFS_STALLED;
    char text[32];

    (void)tarn_err_set(&r->err, rc, "%s%s: no progress for %s%s", u->uri, u->where,
                       tarn_format_duration(silent_ns, text),
                       r->state == UFS_REQ_QUEUED ? ", waiting for a free connection"
                                                  : ""); /* rc is known */
    if (r->state == UFS_REQ_RUNNING) {
        u->ops->abort(u, r);
        policy_stopped(u, r);
        if (!final && policy_retry(u, r, rc))
            return;
    } else if (r->attempt == 0) {
        u->counts.ended[policy_op(r)][TARN_UFS_STATUS_NONE]++;
    }
    policy_end_later(u, r, rc);
}

/* One timer per request: no progress (QUEUED, RUNNING) or the end of a backoff (WAITING). */
static void policy_timer_cb(struct tarn_timer *t, void *arg)
{
    struct tarn_ufs_req *r = arg;
    struct tarn_ufs *u = r->ufs;
    uint64_t timeout = u->opts.timeout, silent;

    TARN_ASSERT(u->magic == UFS_MAGIC && t == &r->timer);
    if (r->state == UFS_REQ_WAITING) {
        policy_unlink(u, r);
        policy_queue(u, r, true);
        policy_pump(u);
    } else if (r->state == UFS_REQ_RUNNING && u->ops->moved && u->ops->moved(r)) {
        r->progress_ns = u->progress_ns = u->alive_ns = tarn_loop_now_ns(u->loop);
        u->health.heard_ns = u->alive_ns;
    }
    silent = policy_silent_ns(u, r);
    if (silent >= timeout) {
        policy_stalled(u, r, silent, true);
        return;
    }
    if (r->state == UFS_REQ_RUNNING && r->attempt == 1 && silent >= timeout / 3 &&
        u->ops->suspect && u->ops->suspect(r)) {
        policy_stalled(u, r, silent, false);
        return;
    }
    tarn_timer_start(u->loop, t, TARN_MIN(timeout - silent, timeout / 3), policy_timer_cb, r);
}

/* ---- in and out ----------------------------------------------------------------------------- */

static void policy_take(struct tarn_ufs *u, struct tarn_ufs_req *r)
{
    TARN_ASSERT(u->magic == UFS_MAGIC && r->state == UFS_REQ_IDLE);
    TARN_ASSERT(r->cls == TARN_UFS_FOREGROUND || r->cls == TARN_UFS_BACKGROUND);
    tarn_loop_assert_mine(u->loop);
    r->ufs = u;
    r->attempt = 0;
    r->cancelled = false;
    r->in_data = false;
    r->stopped = false;
    r->back_end = NULL;
    r->last_rc = 0;
    r->progress_ns = tarn_loop_now_ns(u->loop);
    r->err.text[0] = 0;
    tarn_list_init(&r->node);
}

void tarn_ufs_policy_answer(struct tarn_ufs *u, struct tarn_ufs_req *r, int rc)
{
    struct tarn_errbuf text = r->err;

    policy_take(u, r);
    if (rc < 0)
        r->err = text;
    policy_end_later(u, r, rc);
}

void tarn_ufs_policy_submit(struct tarn_ufs *u, struct tarn_ufs_req *r)
{
    policy_take(u, r);
    if (u->closing) {
        policy_end_later(u, r, -TARN_E_CANCELLED);
        return;
    }
    if (u->n_queued >= TARN_UFS_QUEUE_MAX) {
        policy_end_later(u, r, -TARN_E_BUSY);
        return;
    }
    if (policy_idle(u))
        u->progress_ns = r->progress_ns;
    policy_queue(u, r, false);
    tarn_timer_start(u->loop, &r->timer, u->opts.timeout, policy_timer_cb, r);
    policy_pump(u);
}

void tarn_ufs_policy_cancel(struct tarn_ufs_req *r)
{
    struct tarn_ufs *u = r->ufs;

    if (r->state == UFS_REQ_IDLE || r->state == UFS_REQ_DONE || r->cancelled)
        return;
    tarn_loop_assert_mine(u->loop);
    r->cancelled = true;
    if (r->in_data)
        return; /* tarn_ufs_policy_data stops the attempt */
    if (r->state == UFS_REQ_RUNNING) {
        u->ops->abort(u, r);
        policy_stopped(u, r);
    }
    r->err.text[0] = 0;
    policy_end_later(u, r, -TARN_E_CANCELLED);
}

static void policy_cancel_all(struct tarn_list *l)
{
    TARN_LIST_FOREACH_SAFE(n, l)
    {
        tarn_ufs_policy_cancel(TARN_LIST_ENTRY(n, struct tarn_ufs_req, node));
    }
}

void tarn_ufs_policy_close(struct tarn_ufs *u)
{
    TARN_ASSERT(u->magic == UFS_MAGIC && !u->closing);
    tarn_loop_assert_mine(u->loop);
    u->closing = true;
    policy_cancel_all(&u->running);
    policy_cancel_all(&u->waiting);
    policy_cancel_all(&u->queued[TARN_UFS_FOREGROUND]);
    policy_cancel_all(&u->queued[TARN_UFS_BACKGROUND]);
    policy_pump(u);
}

void tarn_ufs_policy_progress(struct tarn_ufs_req *r, size_t n)
{
    struct tarn_ufs *u = r->ufs;

    TARN_ASSERT(r->state == UFS_REQ_RUNNING);
    r->progress_ns = u->progress_ns = u->alive_ns = tarn_loop_now_ns(u->loop);
    u->health.heard_ns = u->alive_ns;
    r->attempt_bytes += n;
    u->counts.read_bytes += n;
    if (r->charged_bytes >= n) {
        r->charged_bytes -= n;
    } else {
        u->tokens_bytes -= (int64_t)(n - r->charged_bytes);
        r->charged_bytes = 0;
    }
}

int tarn_ufs_policy_data(struct tarn_ufs_get *g, const uint8_t *p, size_t n)
{
    int rc;

    TARN_ASSERT(n > 0 && n <= g->len_bytes - g->done_bytes);
    g->req.in_data = true;
    rc = g->on_data(g, p, n);
    g->req.in_data = false;
    if (g->req.cancelled)
        return -TARN_E_CANCELLED;
    if (rc < 0) {
        g->req.stopped = true;
        return rc;
    }
    g->done_bytes += n;
    return 0;
}
