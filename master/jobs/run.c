/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One run of a job: from the commit of `running` to that of its end, or to a stop, after which the
 * next start of the master makes another that goes on from the cursor.
 *
 * A phase is one pass over the files. It is over when the pass has ended, no request is under way
 * and everything is committed; that is looked at in a task (mrun_poke), never inside whatever
 * brought it about.
 */
#include "master/jobs/jobs_priv.h"

#include <inttypes.h>
#include <stdlib.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"

#define HELLO_TIMEOUT_NS (10 * TARN_NS_PER_S)
#define HELLO_WAIT_NS    (500 * TARN_NS_PER_MS) /* until a worker is looked for again */
#define HELLO_ABSENT_NS  (8 * TARN_NS_PER_S)    /* members heard of so lately are waited for */
#define TICK_NS          (250 * TARN_NS_PER_MS)
#define TRIES_MAX        12u
#define TRY_NS           (250 * TARN_NS_PER_MS) /* before the second try; doubled each time */
#define TRY_SHIFT_MAX    6u

static const struct tarn_sm_state run_phases[] = {
#define MRUN_PHASE(name, next) [MRUN_##name] = {#name, (next)},
#include "master/jobs/job_phases.def"
#undef MRUN_PHASE
};

bool mrun_retry(int rc, unsigned tries, uint64_t *ret_ns)
{
    enum tarn_retry how = tarn_err_retry(rc);

    if (how != TARN_RETRY_SAME && how != TARN_RETRY_BACKOFF && rc != -TARN_E_DEADLINE)
        return false;
    *ret_ns = TRY_NS << TARN_MIN(tries, TRY_SHIFT_MAX);
    return tries < TRIES_MAX;
}

void mrun_note_failure(struct mrun *r, const char *path, int rc, const char *text)
{
    if (r->first_failed)
        return;
    r->first_failed = tarn_xasprintf("%.*s", (int)JOB_FAILED_PATH, path);
    r->first_text = tarn_xasprintf("%.*s", (int)JOB_ERROR_TEXT, text ? text : tarn_strerror(rc));
}

/* ---- phases
 * --------------------------------------------------------------------------------------------------
 */

void mrun_enter(struct mrun *r, unsigned phase)
{
    tarn_sm_move(run_phases, &r->phase, phase);
    tarn_debug("job", "id=%" PRIu64 " phase=%s", r->job->id, run_phases[phase].name);
    r->attachment = 0; /* what it wants may be another number now */
    r->place_version = mrun_place_version(r);
    r->ops->phase(r);
}

void mrun_next(struct mrun *r, unsigned phase)
{
    tarn__core__job_cursor__free_unpacked(r->cursor, NULL);
    r->cursor = tarn_xnew(Tarn__Core__JobCursor);
    tarn__core__job_cursor__init(r->cursor);
    r->noted = (struct mnoted){0};
    r->admitted = 0;
    mwindow_put_phase(r, phase);
}

static bool run_idle(const struct mrun *r)
{
    return !r->pass.active && mfill_idle(r) && mquery_idle(r) && !r->greeting;
}

/* Nothing is under way any more: what is done is kept, then it is over. */
static void run_aborted(struct mrun *r)
{
    if (tarn_list_empty(&r->sending)) { /* else a commit failed */
        if (r->job->cancel && !r->master->stopping)
            mwindow_take_done(r);
        mwindow_poke(r, true);
    }
    if (r->committing)
        return;
    r->ended = true;
    if (r->job->cancel && !r->master->stopping)
        mjob_finish(r->job, MJOB_CANCELLED, -TARN_E_CANCELLED, NULL);
    else
        mjob_release(r->job);
}

static void run_step(struct tarn_task *t)
{
    struct mrun *r = TARN_CONTAINER(t, struct mrun, task);

    r->posted = false;
    if (r->ended || r->committing)
        return;
    if (r->aborting) {
        if (run_idle(r))
            run_aborted(r);
        return;
    }
    if (!r->pass.active || r->pass.paused)
        mquery_flush(r);
    if (r->phase == MRUN_WORKER || !run_idle(r))
        return;
    if (r->entries > 0) {
        mwindow_poke(r, true);
        TARN_ASSERT(r->committing); /* nothing is under way, so all of them are done */
        return;
    }
    if (r->pass.rc < 0)
        mrun_end(r, r->pass.rc, NULL);
    else
        r->ops->phase_done(r);
}

void mrun_poke(struct mrun *r)
{
    if (r->posted || r->ended)
        return;
    r->posted = true;
    tarn_loop_post(r->master->args.loop, &r->task, run_step);
}

void mrun_end(struct mrun *r, int rc, const char *text)
{
    struct mjob *job = r->job;
    struct mjob_counts *c = &job->live;
    TARN_AUTO_FREE char *partial = NULL;

    TARN_ASSERT(!r->committing && r->entries == 0 && !r->ended);
    r->ended = true;
    if (rc == 0 && c->files_failed > 0) {
        rc = -TARN_E_JOB_PARTIAL;
        partial = tarn_xasprintf("%" PRIu64 " of %" PRIu64 " files failed, first: %.*s: %s",
                                 c->files_failed, c->files_total, (int)JOB_ERROR_TEXT,
                                 r->first_failed ? r->first_failed : "?",
                                 r->first_text ? r->first_text : "?");
        text = partial;
    }
    job->durable = job->live;
    mjob_finish(job, rc < 0 ? MJOB_FAILED : MJOB_SUCCEEDED, rc, text);
}

uint64_t mrun_place_version(const struct mrun *r)
{
    const struct tarn_place *place = tarn_peers_place(r->master->peers);

    return place ? tarn_place_version(place) : 0;
}

uint32_t mrun_replicas(struct mrun *r, tarn_ino_t ino, uint32_t attachment)
{
    struct mlocator loc;

    if (attachment != r->attachment) {
        r->replicas = 0;
        if (mlocator_fill(r->master, ino, &loc) == 0) {
            r->replicas = loc.loc.replicas;
            mlocator_fini(&loc);
        }
        r->attachment = attachment;
    }
    return TARN_MAX(TARN_MAX(r->replicas, r->job->spec->replicas), 1u);
}

/* ---- the workers
 * ---------------------------------------------------------------------------------------------- */

static void run_hello(struct mrun *r);

static void run_hello_again(struct tarn_timer *t, void *arg)
{
    (void)t; /* the run's */
    run_hello(arg);
}

static void run_hello_later(struct mrun *r, uint64_t ns, const char *text)
{
    mjob_waits(r->job, text);
    tarn_timer_start(r->master->args.loop, &r->hello_timer, ns, run_hello_again, r);
}

/* All that were asked have answered, or not. */
static void run_greeted(struct mrun *r)
{
    TARN_AUTO_FREE char *name = NULL, *text = NULL;
    uint64_t wait = TRY_NS;
    bool again;

    r->greeting = false;
    if (r->aborting) {
        mrun_poke(r);
        return;
    }
    if (!r->hello_failed) {
        mjob_waits(r->job, NULL);
        text = mroom_few(r, r->job->spec->replicas);
        if (text)
            mrun_end(r, -TARN_E_NO_WORKER, text);
        else
            mrun_enter(r, r->rebuild ? MRUN_ROOM : r->resume);
        return;
    }
    name = mworker_text(r->master, r->hello_failed);
    text = tarn_xasprintf("%s does not answer: %s", name, tarn_strerror(r->hello_rc));
    again = mrun_retry(r->hello_rc, r->greetings, &wait);
    if (r->hellos_good > 0 && r->greetings < TRIES_MAX && tarn_peers_unreached(r->hello_rc))
        again = true; /* it is left out once it has not answered for a while */
    r->greetings++;
    if (again) {
        r->greeting = true;
        run_hello_later(r, wait, text);
    } else {
        mrun_end(r, r->hello_rc, text);
    }
}

static void run_hello_done(struct tarn_rpc_req *req, int rc)
{
    struct mhello *h = req->arg;
    struct mrun *r = h->run;
    const Tarn__Wire__WorkerStatus *w = (const Tarn__Wire__WorkerStatus *)req->resp;
    uint64_t capacity = 0;

    mworker_note(r->master, h->worker, rc);
    if (rc == 0) {
        r->hellos_good++;
        for (size_t i = 0; i < w->n_tiers; i++)
            if (!w->tiers[i]->offline)
                capacity += w->tiers[i]->capacity;
        mroom_capacity(r, h->worker, capacity);
    } else {
        r->hello_failed = h->worker;
        r->hello_rc = rc == -TARN_E_CANCELLED ? -TARN_E_CONN_LOST : rc; /* the topology changed */
    }
    tarn_rpc_req_fini(req);
    tarn_list_del(&h->node);
    free(h);
    if (--r->hellos_count == 0)
        run_greeted(r);
}

static void run_hello_to(struct mrun *r, uint64_t worker)
{
    Tarn__Wire__Empty msg = TARN__WIRE__EMPTY__INIT;
    struct tarn_rpc_client *rpc = mworker_rpc(r->master, worker);
    struct mhello *h;

    if (!rpc) {
        mworker_note(r->master, worker, -TARN_E_CONN_REFUSED);
        r->hello_failed = worker;
        r->hello_rc = -TARN_E_CONN_REFUSED;
        return;
    }
    h = tarn_xnew(struct mhello);
    h->run = r;
    h->worker = worker;
    h->req = (struct tarn_rpc_req){.method = TARN_RPC_worker_status,
                                   .msg = &msg.base,
                                   .timeout_ns = HELLO_TIMEOUT_NS,
                                   .no_retry = true,
                                   .cb = run_hello_done,
                                   .arg = h};
    tarn_list_push(&r->hellos, &h->node);
    r->hellos_count++;
    tarn_rpc_start(rpc, &h->req);
}

/* Owners that are alive; *ret_serving: those that answer, too; *ret_absent: one that is not alive,
 * and may just be starting anew. */
static unsigned run_members(const struct mrun *r, unsigned *ret_serving, uint64_t *ret_absent)
{
    const struct tarn_place *place = tarn_peers_place(r->master->peers);
    unsigned alive = 0;

    *ret_serving = 0;
    *ret_absent = 0;
    for (unsigned i = 0; place && i < tarn_place_count(place); i++) {
        const struct tarn_place_worker *w = tarn_place_at(place, i);

        if (w->state != TARN_WORKER_LIVE || w->weight == 0)
            continue;
        alive += w->alive;
        *ret_serving += mworker_serves(r->master, w->id);
        if (!w->alive && mmembers_silent_ns(r->master, w->id) < HELLO_ABSENT_NS)
            *ret_absent = w->id;
    }
    return alive;
}

/* No owner is alive. Loads wait for one; what only asks how much there is room for is told. */
static void run_nobody(struct mrun *r)
{
    static const char others[] =
        "no worker that owns anything is alive; others drain, or their caches failed";

    if (!mworkers_any(r->master)) {
        run_hello_later(r, HELLO_WAIT_NS, "no worker");
    } else if (!r->job->spec->dry_run) {
        run_hello_later(r, HELLO_WAIT_NS, others);
    } else {
        r->greeting = false;
        mrun_end(r, -TARN_E_NO_WORKER, others);
    }
}

static void run_hello(struct mrun *r)
{
    const struct tarn_place *place = tarn_peers_place(r->master->peers);
    unsigned serving;
    uint64_t absent;

    r->greeting = true;
    mroom_clear_rows(r);
    r->hello_failed = 0;
    r->hellos_good = 0;
    if (run_members(r, &serving, &absent) == 0 && !absent) {
        run_nobody(r);
        return;
    }
    if (absent) {
        TARN_AUTO_FREE char *name = mworker_text(r->master, absent);
        TARN_AUTO_FREE char *text = tarn_xasprintf("%s is not there", name);

        run_hello_later(r, HELLO_WAIT_NS, text);
        return;
    }
    for (unsigned i = 0; i < tarn_place_count(place); i++) {
        const struct tarn_place_worker *w = tarn_place_at(place, i);

        /* Others stand in for one that has not answered for a while (mtargets()). */
        if (w->state == TARN_WORKER_LIVE && w->weight > 0 &&
            (serving > 0 ? mworker_serves(r->master, w->id) : w->alive))
            run_hello_to(r, w->id);
    }
    if (r->hellos_count == 0)
        run_greeted(r); /* nobody has an address */
}

/* ---- time
 * ----------------------------------------------------------------------------------------------------
 */

static void run_tick(struct tarn_timer *t, void *arg)
{
    struct mrun *r = arg;

    if (r->ended || r->aborting)
        return;
    mfill_tick(r);
    mquery_flush_stuck(r);
    if (!r->greeting) {
        TARN_AUTO_FREE char *text = mfill_waits_for(r);

        mjob_waits(r->job, mquery_stuck(r) ? "no worker" : text);
    }
    mrun_poke(r);
    tarn_timer_start(r->master->args.loop, t, TICK_NS, run_tick, r);
}

void mrun_greet(struct mrun *r)
{
    tarn_sm_move(run_phases, &r->phase, MRUN_WORKER);
    run_hello(r);
}

/* ---- life
 * ----------------------------------------------------------------------------------------------------
 */

/* Where the job was; a cursor that cannot be read is the beginning (the manifest then has lines
 * twice). */
static void run_load_cursor(struct mrun *r)
{
    const struct mjob *job = r->job;
    Tarn__Core__JobCursor *c = (Tarn__Core__JobCursor *)tarn_msg_decode(
        &tarn__core__job_cursor__descriptor, (const uint8_t *)job->cursor.p, job->cursor.len);

    if (!c || c->phase >= MRUN_END) {
        tarn__core__job_cursor__free_unpacked(c, NULL);
        c = tarn_xnew(Tarn__Core__JobCursor);
        tarn__core__job_cursor__init(c);
    }
    r->cursor = c;
    r->resume = c->phase;
    r->noted.ino.v = c->noted_dir;
    r->noted.what = c->noted_what ? c->noted_what : MNOTED_SKIPPED; /* 0: from before it was kept */
    r->admitted = c->admitted;
    if (c->first_failed.len) {
        TARN_AUTO_FREE char *path =
            tarn_xasprintf("%.*s", (int)c->first_failed.len, (const char *)c->first_failed.data);

        mrun_note_failure(r, path, 0, c->first_error);
    }
}

void mrun_start(struct mjob *job)
{
    struct mrun *r = tarn_xnew(struct mrun);

    master_busy(job->jobs->master);
    r->job = job;
    r->master = job->jobs->master;
    r->ops = job->is_free ? &mfree_ops : &mload_ops;
    job->run = r;
    job->live = job->durable;
    r->pass.run = r;
    tarn_list_init(&r->window);
    tarn_list_init(&r->ready);
    tarn_list_init(&r->sending);
    tarn_list_init(&r->hellos);
    mfill_init(r);
    mquery_init(r);
    run_load_cursor(r);
    tarn_timer_start(r->master->args.loop, &r->tick, TICK_NS, run_tick, r);
    r->ops->start(r);
}

void mrun_abort(struct mrun *r)
{
    if (r->aborting || r->ended)
        return;
    r->aborting = true;
    mpass_cancel(r);
    mfill_cancel(r);
    mquery_cancel(r);
    if (tarn_timer_running(&r->hello_timer)) {
        tarn_timer_stop(&r->hello_timer);
        r->greeting = false;
    }
    TARN_LIST_FOREACH_SAFE(n, &r->hellos)
    {
        tarn_rpc_cancel(&TARN_LIST_ENTRY(n, struct mhello, node)->req);
    }
    if (r->commit_retry) { /* it will not be tried again */
        r->commit_retry = r->committing = false;
        tarn_timer_stop(&r->commit_timer);
    }
    mrun_poke(r);
}

void mrun_free(struct mrun *r)
{
    struct tarn_master *m = r->master;

    TARN_ASSERT(r->ended && !r->posted && !r->committing && run_idle(r));
    mwindow_clear(r);
    mpass_fini(&r->pass);
    tarn_timer_stop(&r->tick);
    mfill_fini(r);
    mroom_clear(r);
    mjob_waits(r->job, NULL);
    tarn__core__job_cursor__free_unpacked(r->cursor, NULL);
    free(r->first_failed);
    free(r->first_text);
    free(r);
    master_idle(m);
}
