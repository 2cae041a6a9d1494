/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table of jobs. A job is its record in the store; the table holds all records that the store
 * has: those that have not ended, and the last TARN_JOBS_KEPT that have.
 *
 * A state counts once it is committed: `planned` when the last entry of its list is, `running`
 * before the run begins, an end when its record is on the disk. A stop leaves the records as they
 * are; the next start goes on from their cursors.
 */
#include "master/jobs/jobs_priv.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"

#define RETRY_NS TARN_NS_PER_S /* of a commit that failed */
#define DROP_MAX 2048u         /* lines removed by one entry */

static const struct tarn_sm_state job_states[] = {
#define MJOB_STATE(name, text, next) [MJOB_##name] = {(text), (next)},
#include "master/jobs/job_states.def"
#undef MJOB_STATE
};

const char *mjob_state_name(unsigned state)
{
    return job_states[state].name;
}

bool mjob_ended(const struct mjob *job)
{
    return job->state >= MJOB_SUCCEEDED;
}

/* ---- the table
 * -----------------------------------------------------------------------------------------------
 */

struct mjob *mjob_find(struct mjobs *j, uint64_t id)
{
    TARN_LIST_FOREACH(n, &j->all)
    {
        struct mjob *job = TARN_LIST_ENTRY(n, struct mjob, node);

        if (job->id == id)
            return job->dropping ? NULL : job;
    }
    return NULL;
}

struct mjob *mjob_new(struct mjobs *j, uint64_t id, bool is_free, Tarn__Wire__LoadSpec *spec)
{
    struct mjob *job = tarn_xnew(struct mjob);
    size_t n = tarn__wire__load_spec__get_packed_size(spec);

    TARN_ASSERT(id > j->last_id);
    j->last_id = id;
    job->jobs = j;
    job->id = id;
    job->is_free = is_free;
    job->spec = spec;
    tarn__wire__load_spec__pack(spec, (uint8_t *)tarn_str_room(&job->spec_bytes, n));
    job->spec_bytes.len = n;
    tarn_sm_move(job_states, &job->state, MJOB_PLANNED);
    /* Grows over restarts, so that whoever waits for a change is not kept by an older number. */
    job->seq = (uint64_t)(master_real_ns(j->master) / (int64_t)TARN_NS_PER_MS);
    tarn_list_init(&job->waiters);
    tarn_list_push(&j->all, &job->node);
    return job;
}

void mjob_free(struct mjob *job)
{
    TARN_ASSERT(!job->run && !job->putting && tarn_list_empty(&job->waiters));
    tarn_timer_stop(&job->tick);
    tarn_timer_stop(&job->retry);
    tarn_list_del(&job->node);
    tarn__wire__load_spec__free_unpacked(job->spec, NULL);
    tarn_str_fini(&job->spec_bytes);
    tarn_str_fini(&job->cursor);
    free(job->error_text);
    free(job->waits_for);
    free(job->end_text);
    free(job);
}

void mjob_record(struct mjob *job, Tarn__Core__JobRecord *ret)
{
    tarn__core__job_record__init(ret);
    ret->id = job->id;
    ret->kind = tarn_wire_text(job->is_free ? "free" : "load");
    ret->state = job->state;
    ret->spec = tarn_wire_bytes(job->spec_bytes.p, job->spec_bytes.len);
    ret->files_total = job->durable.files_total;
    ret->files_done = job->durable.files_done;
    ret->files_failed = job->durable.files_failed;
    ret->files_skipped = job->durable.files_skipped;
    ret->bytes_total = job->durable.bytes_total;
    ret->bytes_done = job->durable.bytes_done;
    ret->started_ns = job->started_ns;
    ret->finished_ns = job->finished_ns;
    ret->error = (uint32_t)job->error;
    if (job->error_text)
        ret->error_text = job->error_text;
    ret->cursor = tarn_wire_bytes(job->cursor.p, job->cursor.len);
    ret->cancel = job->cancel;
    ret->open = job->open;
}

void mjob_waits(struct mjob *job, const char *text)
{
    if (job->waits_for ? text && strcmp(text, job->waits_for) == 0 : !text)
        return;
    free(job->waits_for);
    job->waits_for = text ? tarn_xstrdup(text) : NULL;
    if (text)
        tarn_info("job", "id=%" PRIu64 " waits: %s", job->id, text);
    mjob_changed(job, true);
}

static void job_ticked(struct tarn_timer *t, void *arg)
{
    (void)t; /* the job's */
    mjob_changed(arg, true);
}

void mjob_changed(struct mjob *job, bool now)
{
    if (job->jobs->stopping)
        return;
    if (!now) {
        if (!tarn_timer_running(&job->tick))
            tarn_timer_start(job->jobs->master->args.loop, &job->tick, JOB_TICK_NS, job_ticked,
                             job);
        return;
    }
    job->seq++;
    mjob_wake(job, false);
}

static void job_put(struct mjob *job, Tarn__Core__JobRecord *rec, mproposal_fn *fn)
{
    Tarn__Core__Entry e = TARN__CORE__ENTRY__INIT;
    Tarn__Core__JobPut put = TARN__CORE__JOB_PUT__INIT;

    TARN_ASSERT(!job->putting);
    job->putting = true;
    put.job = rec;
    e.job_put = &put;
    /* Specification, cursor and texts are bounded, so that it fits. */
    TARN_ASSERT(mpropose(job->jobs->master, &job->proposal, &e, fn, job) == 0);
}

/* ---- start
 * ---------------------------------------------------------------------------------------------------
 */

static void job_begin(struct mjob *job);

void mjob_release(struct mjob *job)
{
    struct mjobs *j = job->jobs;

    TARN_ASSERT(job->holds_slot && j->running > 0);
    job->holds_slot = false;
    j->running--;
    if (job->run)
        mrun_free(job->run);
    job->run = NULL;
    mjobs_pump(j);
}

static void job_begin_again(struct tarn_timer *t, void *arg)
{
    (void)t; /* the job's */
    job_begin(arg);
}

static void job_begun(struct mproposal *p)
{
    struct mjob *job = p->arg;
    struct mjobs *j = job->jobs;
    int rc = mproposal_rc(p);

    job->putting = false;
    if (j->stopping) {
        mjob_release(job);
    } else if (job->cancel) {
        mjob_finish(job, MJOB_CANCELLED, -TARN_E_CANCELLED, NULL);
    } else if (rc < 0) {
        tarn_warn_limited("job", "id=%" PRIu64 " cannot be started: %s", job->id,
                          tarn_strerror(rc));
        tarn_timer_start(j->master->args.loop, &job->retry, RETRY_NS, job_begin_again, job);
    } else {
        tarn_sm_move(job_states, &job->state, MJOB_RUNNING);
        mjob_changed(job, true);
        mrun_start(job);
    }
}

/* Commits that it runs, then runs it. It counts as running already. */
static void job_begin(struct mjob *job)
{
    Tarn__Core__JobRecord rec;

    if (!job->started_ns)
        job->started_ns = master_real_ns(job->jobs->master);
    mjob_record(job, &rec);
    rec.state = MJOB_RUNNING;
    job_put(job, &rec, job_begun);
}

static bool job_may_begin(const struct mjob *job)
{
    return !mjob_ended(job) && !job->open && !job->creating && !job->run && !job->putting &&
           !job->ending && !tarn_timer_running(&job->retry);
}

static void jobs_pump_task(struct tarn_task *t)
{
    struct mjobs *j = TARN_CONTAINER(t, struct mjobs, pump);

    j->pump_posted = false;
    if (j->stopping || !j->ready || !j->master->attached)
        return;
    TARN_LIST_FOREACH_SAFE(n, &j->all)
    {
        struct mjob *job = TARN_LIST_ENTRY(n, struct mjob, node);

        if (j->running >= JOBS_RUNNING_MAX)
            break;
        if (!job_may_begin(job))
            continue;
        j->running++;
        job->holds_slot = true;
        if (job->cancel)
            mjob_finish(job, MJOB_CANCELLED, -TARN_E_CANCELLED, NULL);
        else if (job->state == MJOB_RUNNING) /* since before a restart */
            mrun_start(job);
        else
            job_begin(job);
    }
}

void mjobs_pump(struct mjobs *j)
{
    if (j->pump_posted || j->stopping)
        return;
    j->pump_posted = true;
    tarn_loop_post(j->master->args.loop, &j->pump, jobs_pump_task);
}

/* ---- end
 * -----------------------------------------------------------------------------------------------------
 */

static void jobs_trim(struct mjobs *j);

static void job_end_put(struct mjob *job);

static void job_end_again(struct tarn_timer *t, void *arg)
{
    (void)t; /* the job's */
    job_end_put(arg);
}

static void job_ended(struct mproposal *p)
{
    struct mjob *job = p->arg;
    struct mjobs *j = job->jobs;
    int rc = mproposal_rc(p);

    job->putting = false;
    if (rc < 0 && !j->stopping) {
        tarn_warn_limited("job", "id=%" PRIu64 ": its end cannot be committed: %s", job->id,
                          tarn_strerror(rc));
        tarn_timer_start(j->master->args.loop, &job->retry, RETRY_NS, job_end_again, job);
        return;
    }
    if (rc == 0) {
        tarn_sm_move(job_states, &job->state, job->end_state);
        job->finished_ns = job->end_ns;
        job->error = -job->end_rc;
        job->error_text = job->end_text;
        job->end_text = NULL;
        job->live = job->durable;
        tarn_str_fini(&job->cursor);
        tarn_info("job", "id=%" PRIu64 " %s: files=%" PRIu64 "/%" PRIu64 " failed=%" PRIu64 "%s%s",
                  job->id, mjob_state_name(job->state), job->live.files_done, job->live.files_total,
                  job->live.files_failed, job->error_text ? ": " : "",
                  job->error_text ? job->error_text : "");
    }
    job->ending = false;
    tarn_timer_stop(&job->tick);
    if (job->holds_slot)
        mjob_release(job);
    mjob_changed(job, true);
    jobs_trim(j);
}

static void job_end_put(struct mjob *job)
{
    Tarn__Core__JobRecord rec;

    mjob_record(job, &rec);
    rec.state = job->end_state;
    rec.finished_ns = job->end_ns;
    rec.error = (uint32_t)-job->end_rc;
    rec.error_text = job->end_text ? job->end_text : tarn_wire_text("");
    rec.cursor.len = 0;
    rec.open = false;
    job_put(job, &rec, job_ended);
}

void mjob_finish(struct mjob *job, unsigned state, int rc, const char *text)
{
    TARN_ASSERT(!job->ending && !job->putting);
    TARN_ASSERT((job_states[job->state].next & TARN_SM_BIT(state)) != 0);
    tarn_timer_stop(&job->retry);
    job->ending = true;
    job->end_state = state;
    job->end_rc = rc;
    free(job->end_text);
    job->end_text = rc < 0 ? tarn_xstrdup(text ? text : tarn_strerror(rc)) : NULL;
    job->end_ns = master_real_ns(job->jobs->master);
    job_end_put(job);
}

/* ---- forgetting
 * ---------------------------------------------------------------------------------------------- */

static void job_drop_step(struct mjob *job);

static void job_dropped(struct mproposal *p)
{
    struct mjob *job = p->arg;
    struct mjobs *j = job->jobs;
    int rc = mproposal_rc(p);
    bool more = rc == 0 && p->p.result.more;

    j->dropping = false;
    if (j->stopping)
        return;
    if (more) {
        job_drop_step(job);
        return;
    }
    if (rc < 0 && rc != -TARN_E_NO_JOB) /* its record stays; the next start drops it */
        tarn_warn_limited("job", "id=%" PRIu64 " cannot be forgotten: %s", job->id,
                          tarn_strerror(rc));
    mjob_free(job);
    jobs_trim(j);
}

static void job_drop_step(struct mjob *job)
{
    struct mjobs *j = job->jobs;
    Tarn__Core__Entry e = TARN__CORE__ENTRY__INIT;
    Tarn__Core__JobDrop drop = TARN__CORE__JOB_DROP__INIT;

    drop.id = job->id;
    drop.max = DROP_MAX;
    e.job_drop = &drop;
    j->dropping = true;
    TARN_ASSERT(mpropose(j->master, &j->drop, &e, job_dropped, job) == 0); /* it is small */
}

void mjob_drop(struct mjob *job)
{
    job->dropping = true;
    mjob_wake(job, true);
    tarn_timer_stop(&job->tick);
    jobs_trim(job->jobs);
}

/* One job at a time, one bounded entry after the other. */
static void jobs_trim(struct mjobs *j)
{
    struct mjob *oldest = NULL;
    size_t ended = 0;

    if (j->dropping || j->stopping)
        return;
    TARN_LIST_FOREACH(n, &j->all)
    {
        struct mjob *job = TARN_LIST_ENTRY(n, struct mjob, node);

        if (job->dropping && !job->creating) {
            job_drop_step(job);
            return;
        }
        if (!mjob_ended(job) || job->creating)
            continue;
        if (!oldest)
            oldest = job;
        ended++;
    }
    if (ended > TARN_JOBS_KEPT)
        mjob_drop(oldest);
}

/* ---- life
 * ----------------------------------------------------------------------------------------------------
 */

static int jobs_load_one(void *arg, const Tarn__Core__JobRecord *rec)
{
    struct mjobs *j = arg;
    ProtobufCMessage *spec =
        tarn_msg_decode(&tarn__wire__load_spec__descriptor, rec->spec.data, rec->spec.len);
    struct mjob *job;

    if (!spec || rec->id <= j->last_id || rec->state <= MJOB_NONE || rec->state >= MJOB_STATES) {
        tarn_error("job", "id=%" PRIu64 ": its record is damaged; left out", rec->id);
        if (spec)
            protobuf_c_message_free_unpacked(spec, NULL);
        return 0;
    }
    job = mjob_new(j, rec->id, strcmp(rec->kind, "free") == 0, (Tarn__Wire__LoadSpec *)spec);
    job->state = rec->state;
    job->durable = (struct mjob_counts){.files_total = rec->files_total,
                                        .bytes_total = rec->bytes_total,
                                        .files_done = rec->files_done,
                                        .bytes_done = rec->bytes_done,
                                        .files_failed = rec->files_failed,
                                        .files_skipped = rec->files_skipped};
    job->live = job->durable;
    job->started_ns = rec->started_ns;
    job->finished_ns = rec->finished_ns;
    job->error = (int)rec->error;
    if (rec->error_text[0])
        job->error_text = tarn_xstrdup(rec->error_text);
    tarn_str_add(&job->cursor, rec->cursor.data, rec->cursor.len);
    job->items = rec->items_next;
    job->open = rec->open && !mjob_ended(job);
    job->cancel = rec->cancel;
    return 0;
}

struct mjobs *mjobs_new(struct tarn_master *m)
{
    struct mjobs *j = tarn_xnew(struct mjobs);
    int rc;

    j->master = m;
    tarn_list_init(&j->all);
    rc = tarn_core_jobs(m->args.kv, jobs_load_one, j);
    if (rc < 0)
        tarn_error("job", "jobs cannot be read, the rest is left out: %s", tarn_strerror(rc));
    return j;
}

void mjobs_resume(struct mjobs *j)
{
    if (j->ready) { /* lists that are open now are this run's */
        mjobs_pump(j);
        return;
    }
    j->ready = true;
    TARN_LIST_FOREACH_SAFE(n, &j->all)
    {
        struct mjob *job = TARN_LIST_ENTRY(n, struct mjob, node);

        if (job->open && !job->creating && !job->ending && !job->putting) {
            job->open = false;
            mjob_finish(job, MJOB_FAILED, -TARN_E_CANCELLED,
                        "the master was restarted before the list was complete");
        }
    }
    jobs_trim(j);
    mjobs_pump(j);
}

void mjobs_stop(struct mjobs *j)
{
    j->stopping = true;
    TARN_LIST_FOREACH_SAFE(n, &j->all)
    {
        struct mjob *job = TARN_LIST_ENTRY(n, struct mjob, node);

        tarn_timer_stop(&job->tick);
        mjob_wake(job, true);
        if (job->holds_slot && !job->putting && (!job->run || tarn_timer_running(&job->retry)))
            mjob_release(job); /* it waited to try a commit again */
        else if (job->run && !job->ending)
            mrun_abort(job->run);
        tarn_timer_stop(&job->retry);
    }
}

void mjobs_free(struct mjobs **pj)
{
    struct mjobs *j = *pj;

    if (!j)
        return;
    TARN_ASSERT(j->running == 0 && !j->dropping);
    TARN_LIST_FOREACH_SAFE(n, &j->all)
    {
        mjob_free(TARN_LIST_ENTRY(n, struct mjob, node));
    }
    free(j);
    *pj = NULL;
}

void mjobs_files(struct mjobs *j, uint64_t *ret_done, uint64_t *ret_failed, uint64_t *ret_waiting)
{
    *ret_done = *ret_failed = *ret_waiting = 0;
    TARN_LIST_FOREACH(n, &j->all)
    {
        const struct mjob *job = TARN_LIST_ENTRY(n, struct mjob, node);
        uint64_t ended = job->live.files_done + job->live.files_failed;

        *ret_done += job->live.files_done;
        *ret_failed += job->live.files_failed;
        if (job->state == MJOB_RUNNING && job->live.files_total > ended)
            *ret_waiting += job->live.files_total - ended;
    }
}

void mjobs_counts(struct mjobs *j, uint32_t *ret_running, uint32_t *ret_failed)
{
    uint32_t running = 0, failed = 0;

    TARN_LIST_FOREACH(n, &j->all)
    {
        const struct mjob *job = TARN_LIST_ENTRY(n, struct mjob, node);

        running += job->state == MJOB_RUNNING;
        failed += job->state == MJOB_FAILED;
    }
    *ret_running = running;
    *ret_failed = failed;
}
