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
#define TRIES_MAX        12u
#define TRY_NS           (250 * TARN_NS_PER_MS) /* before the second try; doubled each time */
#define TRY_SHIFT_MAX    6u
#define ROOM_PERCENT     97u /* of the capacity: the rest is the index's and the evictor's */

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
    r->first_failed = tarn_xstrdup(path);
    r->first_text = tarn_xstrdup(text ? text : tarn_strerror(rc));
}

/* ---- phases
 * --------------------------------------------------------------------------------------------------
 */

void mrun_enter(struct mrun *r, unsigned phase)
{
    tarn_sm_move(run_phases, &r->phase, phase);
    tarn_debug("job", "id=%" PRIu64 " phase=%s", r->job->id, run_phases[phase].name);
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
    if (tarn_list_empty(&r->sending)) /* else a commit failed */
        mwindow_poke(r, true);
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

/* ---- the worker
 * ---------------------------------------------------------------------------------------------- */

static void run_hello(struct mrun *r);

static void run_hello_again(struct tarn_timer *t, void *arg)
{
    (void)t; /* the run's */
    run_hello(arg);
}

static void run_greeted(struct mrun *r, const Tarn__Wire__WorkerStatus *w)
{
    r->worker_id = w->id;
    for (size_t i = 0; i < w->n_tiers; i++)
        if (!w->tiers[i]->offline)
            r->capacity += w->tiers[i]->capacity;
    r->room = r->capacity / 100 * ROOM_PERCENT;
    mrun_enter(r, r->resume);
}

static void run_hello_done(struct tarn_rpc_req *req, int rc)
{
    struct mrun *r = req->arg;
    uint64_t wait;

    r->greeting = false;
    if (r->aborting) {
        mrun_poke(r);
    } else if (rc == 0) {
        run_greeted(r, (const Tarn__Wire__WorkerStatus *)req->resp);
    } else if (mrun_retry(rc, r->greetings++, &wait)) {
        r->greeting = true;
        tarn_timer_start(r->master->args.loop, &r->hello_timer, wait, run_hello_again, r);
    } else {
        TARN_AUTO_FREE char *text =
            tarn_xasprintf("the worker does not answer: %s", tarn_strerror(rc));

        mrun_end(r, rc, text);
    }
}

static void run_hello(struct mrun *r)
{
    Tarn__Wire__Empty msg = TARN__WIRE__EMPTY__INIT;

    r->greeting = true;
    r->hello = (struct tarn_rpc_req){.method = TARN_RPC_worker_status,
                                     .msg = &msg.base,
                                     .timeout_ns = HELLO_TIMEOUT_NS,
                                     .cb = run_hello_done,
                                     .arg = r};
    tarn_rpc_start(r->master->worker, &r->hello);
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
        r->first_failed =
            tarn_xasprintf("%.*s", (int)c->first_failed.len, (const char *)c->first_failed.data);
        r->first_text = tarn_xstrdup(c->first_error);
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
    mfill_init(r);
    mquery_init(r);
    run_load_cursor(r);
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
    } else if (r->greeting) {
        tarn_rpc_cancel(&r->hello);
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
    tarn_timer_stop(&r->fill.timer);
    tarn_rpc_req_fini(&r->hello);
    tarn__core__job_cursor__free_unpacked(r->cursor, NULL);
    free(r->first_failed);
    free(r->first_text);
    free(r);
    master_idle(m);
}
