/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a run has done, in walk order, and how it is committed.
 *
 *     window (not done, or behind one that is not) -> ready (done, and all before) -> sending
 *         -> gone
 *
 * An entry of the journal carries the lines of a prefix, the counters with them and the place
 * behind its last file, so that a run that goes on from a committed cursor neither repeats nor
 * leaves out a line. One is under way at a time; it is tried again until it is committed. Those of
 * a cancelled run carry all that is done, since it never goes on.
 */
#include "master/jobs/jobs_priv.h"

#include <inttypes.h>
#include <stdlib.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"
#include "lib/base/limits.h"
#include "lib/base/name.h"

#define LINE_BYTES 96u           /* of a line beside its texts */
#define RETRY_NS   TARN_NS_PER_S /* of a commit that failed */

struct ment *ment_new(struct mrun *r, const char *path)
{
    struct ment *e = tarn_xnew(struct ment);

    e->run = r;
    e->path = tarn_xstrdup(path);
    tarn_list_init(&e->work);
    e->total_files = r->job->live.files_total;
    e->total_bytes = r->job->live.bytes_total;
    e->noted = r->noted;
    e->admitted = r->admitted;
    mpass_place(&r->pass, &e->target, &e->walk);
    tarn_list_push(&r->window, &e->node);
    r->entries++;
    return e;
}

static void ment_free(struct ment *e)
{
    TARN_ASSERT(tarn_list_empty(&e->work));
    tarn__core__inode__free_unpacked(e->inode, NULL);
    tarn_str_fini(&e->walk);
    free(e->path);
    free(e->error_text);
    free(e->fill_text);
    free(e);
}

void ment_show(struct ment *e, uint64_t bytes)
{
    e->shown += bytes;
    e->run->job->live.bytes_done += bytes;
    mjob_changed(e->run->job, false);
}

/* The longest path is one of a list as it was written, below the path that it is relative to. */
_Static_assert(TARN_PATH_MAX + TARN_LOAD_LIST_LINE_MAX + JOB_ERROR_TEXT + LINE_BYTES <=
                   JOB_COMMIT_BYTES,
               "a line fits");
_Static_assert(JOB_SPEC_MAX + JOB_COMMIT_BYTES + TARN_PATH_MAX + JOB_FAILED_PATH + JOB_ERROR_TEXT +
                       JOB_RECORD_BYTES <=
                   TARN_JOURNAL_ENTRY_MAX,
               "specification, lines, place and first failure fit an entry");

static size_t ment_line_bytes(const struct ment *e)
{
    return e->state ? strlen(e->path) + (e->error_text ? strlen(e->error_text) : 0) + LINE_BYTES
                    : 0;
}

void ment_end(struct ment *e, const char *state, uint64_t bytes, int rc, const char *text)
{
    struct mrun *r = e->run;
    struct mjob_counts *live = &r->job->live;

    TARN_ASSERT(!e->done && tarn_list_empty(&e->work));
    e->done = true;
    e->state = state;
    e->bytes = bytes;
    e->rc = rc;
    if (rc < 0) {
        e->error_text =
            tarn_xasprintf("%.*s", (int)JOB_ERROR_TEXT, text ? text : tarn_strerror(rc));
        mrun_note_failure(r, e->path, rc, e->error_text);
    }
    live->files_done += (uint64_t)(int64_t)e->d_done;
    live->files_failed += (uint64_t)(int64_t)e->d_failed;
    live->bytes_done += (uint64_t)e->d_bytes - e->shown;
    live->files_skipped += e->d_skipped;
    e->shown = 0;
    mjob_changed(r->job, false);
    mwindow_poke(r, false);
}

/* ---- commit
 * --------------------------------------------------------------------------------------------------
 */

static void window_send(struct mrun *r);

static void window_try_again(struct tarn_timer *t, void *arg)
{
    struct mrun *r = arg;

    (void)t; /* the run's */
    r->commit_retry = false;
    r->committing = false;
    if (r->put_phase != MRUN_NONE)
        mwindow_put_phase(r, r->put_phase);
    else
        window_send(r);
}

static void window_committed(struct mproposal *p)
{
    struct mrun *r = p->arg;
    unsigned phase = r->put_phase;
    int rc = mproposal_rc(p);

    if (rc < 0 && r->aborting) {
        tarn_warn("job", "id=%" PRIu64 ": the last progress is lost: %s", r->job->id,
                  tarn_strerror(rc));
        r->committing = false; /* `sending` stays: what is behind it must not be committed */
        mrun_poke(r);
        return;
    }
    if (rc < 0) {
        tarn_warn_limited("job", "id=%" PRIu64 ": progress cannot be committed: %s", r->job->id,
                          tarn_strerror(rc));
        r->commit_retry = true;
        tarn_timer_start(r->master->args.loop, &r->commit_timer, RETRY_NS, window_try_again, r);
        return;
    }
    r->committing = false;
    r->put_phase = MRUN_NONE;
    for (struct tarn_list *n = tarn_list_pop(&r->sending); n; n = tarn_list_pop(&r->sending)) {
        r->entries--;
        ment_free(TARN_LIST_ENTRY(n, struct ment, node));
    }
    if (phase != MRUN_NONE && !r->aborting) {
        mrun_enter(r, phase);
        return;
    }
    mwindow_poke(r, !r->pass.active);
    mpass_resume(r);
    mrun_poke(r);
}

static void window_cursor(struct mrun *r, const Tarn__Core__JobCursor *c)
{
    struct mjob *job = r->job;
    Tarn__Core__JobCursor cursor = *c;
    size_t n;

    if (r->first_failed) {
        cursor.first_failed = tarn_wire_bytes(r->first_failed, strlen(r->first_failed));
        cursor.first_error = r->first_text;
    }
    n = tarn__core__job_cursor__get_packed_size(&cursor);
    tarn_str_reset(&job->cursor);
    tarn__core__job_cursor__pack(&cursor, (uint8_t *)tarn_str_room(&job->cursor, n));
    job->cursor.len = n;
}

static void window_propose(struct mrun *r, Tarn__Core__JobLine **lines, size_t n)
{
    Tarn__Core__Entry e = TARN__CORE__ENTRY__INIT;
    Tarn__Core__JobLines msg = TARN__CORE__JOB_LINES__INIT;
    Tarn__Core__JobRecord rec;

    mjob_record(r->job, &rec);
    msg.job = &rec;
    msg.n_lines = n;
    msg.lines = lines;
    e.job_lines = &msg;
    tarn_timer_stop(&r->commit_timer);
    r->committing = true;
    /* Lines, specification and cursor have their bounds, see above. */
    TARN_ASSERT(mpropose(r->master, &r->proposal, &e, window_committed, r) == 0);
}

/* Takes a prefix of what is ready and counts it. */
static void window_take(struct mrun *r)
{
    struct mjob_counts *d = &r->job->durable;
    size_t lines = 0, bytes = 0;

    while (!tarn_list_empty(&r->ready)) {
        struct ment *e = TARN_LIST_ENTRY(r->ready.next, struct ment, node);
        size_t n = ment_line_bytes(e);

        if (lines == JOB_COMMIT_LINES || (lines > 0 && bytes + n > JOB_COMMIT_BYTES))
            break;
        lines += e->state != NULL;
        bytes += n;
        r->ready_lines -= e->state != NULL;
        r->ready_bytes -= n;
        tarn_list_del(&e->node);
        tarn_list_push(&r->sending, &e->node);
        r->ready_count--;
        d->files_total = e->total_files;
        d->bytes_total = e->total_bytes;
        d->files_done += (uint64_t)(int64_t)e->d_done;
        d->files_failed += (uint64_t)(int64_t)e->d_failed;
        d->bytes_done += (uint64_t)e->d_bytes;
        d->files_skipped += e->d_skipped;
    }
}

static const char *level_text(uint32_t level)
{
    switch (level) {
    case TARN_VERIFIED_LENGTH:
        return "length";
    case TARN_VERIFIED_ETAG:
        return "etag";
    case TARN_VERIFIED_STORE_CHECKSUM:
        return "store-checksum";
    default:
        return "";
    }
}

static void window_line(const struct ment *e, Tarn__Core__JobLine *l)
{
    bool present = strcmp(e->state, "loaded") == 0 || strcmp(e->state, "present") == 0;

    tarn__core__job_line__init(l);
    l->path = tarn_wire_bytes(e->path, strlen(e->path));
    l->bytes = e->bytes;
    l->state = tarn_wire_text(e->state);
    l->replicas = present ? e->copies : 0;
    l->worker = present ? e->worker : 0;
    l->checksum = tarn_wire_text(level_text(e->level));
    l->error = (uint32_t)-e->rc;
    if (e->error_text)
        l->error_text = e->error_text;
}

/* Proposes what is in `sending`. */
static void window_send(struct mrun *r)
{
    Tarn__Core__JobCursor cursor;
    Tarn__Core__JobLine *rows = tarn_xcalloc(JOB_COMMIT_LINES, sizeof(*rows));
    Tarn__Core__JobLine **ptrs = tarn_xcalloc(JOB_COMMIT_LINES, sizeof(Tarn__Core__JobLine *));
    const struct ment *last = TARN_LIST_ENTRY(r->sending.prev, struct ment, node);
    size_t n = 0;

    TARN_ASSERT(!r->committing && !tarn_list_empty(&r->sending));
    TARN_LIST_FOREACH(it, &r->sending)
    {
        const struct ment *e = TARN_LIST_ENTRY(it, struct ment, node);

        if (!e->state)
            continue;
        window_line(e, &rows[n]);
        ptrs[n] = &rows[n];
        n++;
    }
    tarn__core__job_cursor__init(&cursor);
    cursor.phase = r->phase;
    cursor.target = last->target;
    cursor.walk = tarn_wire_bytes(last->walk.p, last->walk.len);
    cursor.noted_dir = last->noted.ino.v;
    cursor.noted_what = last->noted.what;
    cursor.admitted = last->admitted;
    window_cursor(r, &cursor);
    window_propose(r, ptrs, n);
    free(ptrs);
    free(rows);
}

static void window_timer(struct tarn_timer *t, void *arg)
{
    (void)t; /* the run's */
    mwindow_poke(arg, true);
}

static void window_is_ready(struct mrun *r, struct ment *e)
{
    tarn_list_del(&e->node);
    tarn_list_push(&r->ready, &e->node);
    r->ready_count++;
    r->ready_lines += e->state != NULL;
    r->ready_bytes += ment_line_bytes(e);
}

void mwindow_poke(struct mrun *r, bool flush)
{
    while (!tarn_list_empty(&r->window)) {
        struct ment *e = TARN_LIST_ENTRY(r->window.next, struct ment, node);

        if (!e->done)
            break;
        window_is_ready(r, e);
    }
    if (r->committing || tarn_list_empty(&r->ready))
        return;
    if (flush || r->ready_lines >= JOB_COMMIT_LINES || r->ready_bytes >= JOB_COMMIT_BYTES ||
        r->ready_count >= JOB_WINDOW / 8) {
        window_take(r);
        window_send(r);
    } else if (!tarn_timer_running(&r->commit_timer)) {
        tarn_timer_start(r->master->args.loop, &r->commit_timer, JOB_COMMIT_NS, window_timer, r);
    }
}

void mwindow_take_done(struct mrun *r)
{
    TARN_LIST_FOREACH_SAFE(n, &r->window)
    {
        struct ment *e = TARN_LIST_ENTRY(n, struct ment, node);

        if (e->done)
            window_is_ready(r, e);
    }
}

void mwindow_put_phase(struct mrun *r, unsigned phase)
{
    Tarn__Core__JobCursor cursor;

    TARN_ASSERT(!r->committing && r->entries == 0);
    r->put_phase = phase;
    r->job->durable = r->job->live;
    tarn__core__job_cursor__init(&cursor);
    cursor.phase = phase;
    window_cursor(r, &cursor);
    window_propose(r, NULL, 0);
}

static void window_free_list(struct tarn_list *l)
{
    for (struct tarn_list *n = tarn_list_pop(l); n; n = tarn_list_pop(l))
        ment_free(TARN_LIST_ENTRY(n, struct ment, node));
}

void mwindow_clear(struct mrun *r)
{
    tarn_timer_stop(&r->commit_timer);
    window_free_list(&r->window);
    window_free_list(&r->ready);
    window_free_list(&r->sending);
    r->entries = 0;
}
