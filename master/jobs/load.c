/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Loads.
 *
 *     PLAN   lists and counts; with names only, or dry, it writes the manifest and is all
 *     room   what each worker is to have must fit it (room.c), unless it may be partial
 *     DATA   fills file by file and writes the manifest
 *     CHECK  asks for every file once more, those who are to have it at that moment: what was
 *            evicted meanwhile, or is another worker's to have by now, is filled again, and then
 *            all are asked for again; the third time, what is missing has failed
 *
 * A pass of CHECK during which the topology changed is not counted, and not the last one.
 *
 * "Succeeded" is said only after a CHECK that found everything, and only if nothing failed; a job
 * in which something failed ends without it. Bytes that came before a restart are known by the
 * index alone, and a power cut may have taken them: the first CHECK of such a run fills, which
 * reads back what was not compared since the start. A path that fails counts and is told of in the
 * pass that writes the lines of files, a directory that cannot be listed in PLAN, which alone asks
 * for listings. A dry run lists like any other: what it would do depends on what there is.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "lib/base/assert.h"
#include "lib/base/units.h"
#include "master/jobs/jobs_priv.h"

#define CHECKS_MAX 3u /* the last one fills nothing */
#define MOVES_MAX  8u /* passes that a changing topology is waited for */

static bool load_meta_only(const struct mrun *r)
{
    return !r->job->spec->data;
}

/* PLAN is the only phase. */
static bool load_plan_only(const struct mrun *r)
{
    return load_meta_only(r) || r->job->spec->dry_run;
}

/* What a file takes of the room. */
static uint64_t load_room(const struct mpass_file *f)
{
    return tarn_div_up(f->len, ROOM_BLOCK) * ROOM_BLOCK;
}

static struct mroom_file load_room_file(struct mrun *r, const struct mpass_file *f)
{
    struct mroom_file ret = {.off = f->off, .len = f->len};

    ret.replicas = mrun_replicas(r, f->ino, f->inode->attachment);
    if (f->inode->cid.len == sizeof(ret.cid.b))
        memcpy(ret.cid.b, f->inode->cid.data, sizeof(ret.cid.b));
    return ret;
}

static struct ment *load_entry(struct mrun *r, const struct mpass_file *f)
{
    struct ment *e = ment_new(r, f->path);
    struct mroom_file room = load_room_file(r, f);

    e->cid = room.cid;
    e->replicas = room.replicas;
    e->whole = !f->ranged && f->len > 0 && f->inode->cid.len == sizeof(e->cid.b);
    e->ino = f->ino;
    e->off = f->off;
    e->len = f->len;
    e->ranged = f->ranged;
    return e;
}

static void load_failed_line(struct mrun *r, const char *path, int rc, const char *text)
{
    struct ment *e = ment_new(r, path);

    e->d_failed = 1;
    ment_end(e, "failed", 0, rc, text);
}

static void load_symlink(struct mrun *r, const struct mpass_file *f)
{
    ment_end(ment_new(r, f->path), "symlink", 0, 0, NULL);
}

/* ---- PLAN
 * ----------------------------------------------------------------------------------------------------
 */

static void plan_file(struct mrun *r, const struct mpass_file *f)
{
    struct mjob_counts *live = &r->job->live;
    bool symlink = f->inode->type == TARN_UFS_SYMLINK;
    struct ment *e;

    if (!symlink) {
        live->files_total++;
        live->bytes_total += f->len;
    }
    if (!symlink && !load_meta_only(r)) {
        struct mroom_file room = load_room_file(r, f);

        mroom_plan(r, &room);
        r->admitted += load_room(f);
    }
    if (!load_plan_only(r)) {
        mjob_changed(r->job, false);
        return;
    }
    if (symlink) {
        load_symlink(r, f);
        return;
    }
    e = load_entry(r, f);
    if (load_meta_only(r)) {
        e->d_done = !r->job->spec->dry_run;
        ment_end(e, r->job->spec->dry_run ? "would-list" : "listed", f->len, 0, NULL);
    } else if (f->len == 0) {
        e->d_done = 1;
        ment_end(e, "present", 0, 0, NULL);
    } else if (e->whole && !r->job->spec->force) {
        mquery_add(e);
    } else {
        ment_end(e, "would-load", f->len, 0, NULL);
    }
}

/* All of it is where it is to be. */
static bool load_complete(const struct ment *e, const struct mspread_item *it)
{
    return it->copies >= TARN_MAX(e->replicas, 1u);
}

static void plan_answered(struct ment *e, const struct mspread_item *it)
{
    if (load_complete(e, it)) {
        e->d_done = 1;
        e->d_bytes = (int64_t)e->len;
        ment_end(e, "present", e->len, 0, NULL);
    } else {
        ment_end(e, "would-load", e->len, 0, NULL);
    }
}

static void plan_target_failed(struct mrun *r, const char *path, int rc, const char *text)
{
    r->job->live.files_total++;
    if (load_plan_only(r))
        load_failed_line(r, path, rc, text);
}

static void plan_dir_failed(struct mrun *r, const char *path, int rc, const char *text)
{
    r->job->live.files_total++;
    load_failed_line(r, path, rc, text);
}

/* One line per key that cannot be a name, as far as they are kept. */
static void plan_skipped(struct mrun *r, tarn_ino_t dir, const char *path, uint64_t count)
{
    struct tarn_str names = {0};
    uint64_t lines = 0;
    char *at, *save = NULL;

    if (tarn_core_skipped_names(r->master->args.kv, dir, &names) == 0 && names.len > 0)
        for (at = strtok_r(names.p, "\n", &save); at && lines < count;
             at = strtok_r(NULL, "\n", &save)) {
            TARN_AUTO_FREE char *full = tarn_xasprintf("%s/%s", path[1] ? path : "", at);
            struct ment *e = ment_new(r, full);

            e->d_skipped = 1;
            ment_end(e, "skipped", 0, 0, NULL);
            lines++;
        }
    tarn_str_fini(&names);
    if (lines < count) {
        struct ment *e = ment_new(r, path);

        e->d_skipped = count - lines;
        ment_end(e, NULL, 0, 0, NULL);
    }
}

static const struct mpass_ops plan_ops = {.file = plan_file,
                                          .target_failed = plan_target_failed,
                                          .dir_failed = plan_dir_failed,
                                          .skipped = plan_skipped};

/* The job must fit before it begins: half a data set evicts itself. */
static void plan_done(struct mrun *r)
{
    bool partial = r->job->spec->allow_partial;
    TARN_AUTO_FREE char *few = NULL, *missing = NULL;

    if (load_meta_only(r)) {
        mrun_end(r, 0, NULL);
        return;
    }
    if (mroom_pending(r))
        return; /* looked at again soon */
    few = mroom_few(r, r->room.most_replicas);
    missing = few || partial ? NULL : mroom_missing(r);
    if (few) {
        mrun_end(r, -TARN_E_NO_WORKER, few);
    } else if (missing) {
        mrun_end(r, -TARN_E_JOB_NO_ROOM, missing);
    } else if (r->job->spec->dry_run) {
        mrun_end(r, 0, NULL);
    } else {
        r->room.reserved = true;
        mrun_next(r, MRUN_DATA);
    }
}

/* ---- ROOM
 * ----------------------------------------------------------------------------------------------------
 */

/* What was planned before a restart: bytes tell how far that was. */
static void room_file(struct mrun *r, const struct mpass_file *f)
{
    struct mroom_file room;
    bool before = r->room.seen < r->admitted;

    if (f->inode->type == TARN_UFS_SYMLINK)
        return;
    room = load_room_file(r, f);
    if (r->resume == MRUN_PLAN) {
        if (before)
            mroom_plan(r, &room);
        r->room.seen += load_room(f);
        return;
    }
    mroom_plan(r, &room);
    if (r->job->spec->allow_partial && before && mroom_admit(r, &room))
        r->room.seen += load_room(f);
}

static void room_failed(struct mrun *r, const char *path, int rc, const char *text)
{
    (void)r; /* the phase that goes on tells of it */
    (void)path;
    (void)rc;
    (void)text;
}

static void room_noted(struct mrun *r)
{
    r->noted.ino.v = r->cursor->noted_dir;
    r->noted.what = r->cursor->noted_what ? r->cursor->noted_what : MNOTED_SKIPPED;
}

static void room_done(struct mrun *r)
{
    room_noted(r);
    r->room.rebuilding = false;
    r->room.reserved = r->resume != MRUN_PLAN;
    mrun_enter(r, r->resume);
}

/* ---- DATA
 * ----------------------------------------------------------------------------------------------------
 */

static void data_present(struct ment *e)
{
    e->d_done = 1;
    e->d_bytes = (int64_t)e->len;
    e->copies = e->replicas;
    ment_end(e, e->fetched ? "loaded" : "present", e->len, 0, NULL);
}

static void data_file(struct mrun *r, const struct mpass_file *f)
{
    struct mroom_file room;
    struct ment *e;

    if (f->inode->type == TARN_UFS_SYMLINK) {
        load_symlink(r, f);
        return;
    }
    room = load_room_file(r, f);
    if (r->job->spec->allow_partial && !mroom_admit(r, &room)) {
        load_failed_line(r, f->path, -TARN_E_JOB_NO_ROOM, NULL);
        return;
    }
    r->admitted += load_room(f);
    e = load_entry(r, f);
    if (f->len == 0)
        data_present(e); /* nothing of it is missing */
    else
        mfill_add(e);
}

static void data_filled(struct ment *e, int rc, const char *text)
{
    if (rc == 0) {
        data_present(e);
        return;
    }
    e->d_failed = 1;
    ment_end(e, "failed", e->len, rc, text);
}

/* PLAN has told of these. */
static void data_skipped(struct mrun *r, tarn_ino_t dir, const char *path, uint64_t count)
{
    (void)r;
    (void)dir;
    (void)path;
    (void)count;
}

static const struct mpass_ops room_ops = {.file = room_file,
                                          .target_failed = room_failed,
                                          .dir_failed = room_failed,
                                          .skipped = data_skipped};

static const struct mpass_ops data_ops = {.file = data_file,
                                          .target_failed = load_failed_line,
                                          .dir_failed = load_failed_line,
                                          .skipped = data_skipped};

/* Files may have come and gone since they were counted. */
static void data_done(struct mrun *r)
{
    struct mjob_counts *c = &r->job->live;

    c->files_total = c->files_done + c->files_failed;
    if (c->files_failed > 0) {
        mrun_end(r, 0, NULL);
        return;
    }
    c->bytes_total = c->bytes_done;
    mrun_next(r, MRUN_CHECK);
}

/* ---- CHECK
 * ---------------------------------------------------------------------------------------------------
 */

/* What is missing was looked for where it was to be. */
static bool check_settled(const struct mrun *r)
{
    return r->moves == MOVES_MAX || r->place_version == mrun_place_version(r);
}

static bool check_last(const struct mrun *r)
{
    return r->checks == CHECKS_MAX - 1 && check_settled(r);
}

static void check_file(struct mrun *r, const struct mpass_file *f)
{
    struct ment *e;

    if (f->inode->type == TARN_UFS_SYMLINK || f->len == 0)
        return;
    e = load_entry(r, f);
    if (e->whole && !r->restarted)
        mquery_add(e);
    else
        mfill_add(e); /* also of a range: what is there is not fetched again */
}

/* It is not there, whatever its line says. It may have come after its turn, and was not counted. */
static void check_lost(struct ment *e, int rc, const char *text)
{
    const struct mjob_counts *live = &e->run->job->live;
    uint64_t counted = live->bytes_done - e->shown;

    e->d_done = live->files_done > 0 ? -1 : 0;
    e->d_failed = 1;
    e->d_bytes = -(int64_t)TARN_MIN(e->len, counted);
    ment_end(e, "evicted", e->len, rc, text);
}

static void check_answered(struct ment *e, int rc, const struct mspread_item *it)
{
    if (load_complete(e, it)) {
        ment_end(e, NULL, 0, 0, NULL);
    } else if (rc == 0 && check_last(e->run)) {
        check_lost(e, -TARN_E_TIER_FULL, "evicted each time it was loaded");
    } else {
        e->missing = rc == 0;
        mfill_add(e);
    }
}

static void check_filled(struct ment *e, int rc, const char *text)
{
    TARN_AUTO_FREE char *why = NULL;
    bool again = e->fetched > 0 || e->missing;

    if (rc == 0 && again && check_last(e->run)) {
        check_lost(e, -TARN_E_TIER_FULL, "evicted each time it was loaded");
    } else if (rc == 0) {
        e->run->refilled += again;
        ment_end(e, NULL, 0, 0, NULL);
    } else {
        why = tarn_xasprintf("evicted, and not loaded again: %s", text ? text : tarn_strerror(rc));
        check_lost(e, rc, why);
    }
}

/* What was filled again may have driven out what was there already. */
static void check_done(struct mrun *r)
{
    bool settled = check_settled(r);

    if (r->job->live.files_failed > 0 || (settled && r->refilled == 0)) {
        mrun_end(r, 0, NULL);
        return;
    }
    if (settled)
        r->checks++;
    else
        r->moves++;
    r->refilled = 0;
    r->restarted = false;
    mrun_next(r, MRUN_CHECK);
}

static const struct mpass_ops check_ops = {.file = check_file,
                                           .target_failed = load_failed_line,
                                           .dir_failed = load_failed_line,
                                           .skipped = data_skipped};

/* ---- phases
 * --------------------------------------------------------------------------------------------------
 */

static void load_start(struct mrun *r)
{
    if (r->resume == MRUN_NONE) {
        r->resume = MRUN_PLAN;
        r->job->live = r->job->durable = (struct mjob_counts){0};
    } else {
        r->rebuild = true;
    }
    r->restarted = r->resume == MRUN_DATA || r->resume == MRUN_CHECK;
    if (r->resume == MRUN_CHECK && r->job->live.files_failed == 0) { /* all of it once more */
        r->cursor->target = 0;
        r->cursor->walk.len = 0;
    }
    r->room.rebuilding = r->restarted && !load_plan_only(r);
    if (load_meta_only(r))
        mrun_enter(r, MRUN_PLAN);
    else
        mrun_greet(r);
}

/* From the beginning, wherever the cursor is. */
static void load_room_pass(struct mrun *r)
{
    Tarn__Core__JobCursor *c = r->cursor, first = TARN__CORE__JOB_CURSOR__INIT;

    r->cursor = &first;
    r->noted = (struct mnoted){0};
    mpass_start(r, &room_ops, false, true);
    r->cursor = c;
}

static void load_phase(struct mrun *r)
{
    switch (r->phase) {
    case MRUN_ROOM:
        load_room_pass(r);
        break;
    case MRUN_PLAN:
        mpass_start(r, &plan_ops, true, false);
        break;
    case MRUN_DATA:
        mpass_start(r, &data_ops, false, false);
        break;
    case MRUN_CHECK:
        mpass_start(r, &check_ops, false, true);
        break;
    default:
        TARN_UNREACHABLE("a phase of another kind");
    }
}

static void load_phase_done(struct mrun *r)
{
    if (r->phase == MRUN_ROOM)
        room_done(r);
    else if (r->phase == MRUN_PLAN)
        plan_done(r);
    else if (r->phase == MRUN_DATA)
        data_done(r);
    else
        check_done(r);
}

static void load_filled(struct ment *e, int rc, const char *text)
{
    if (e->run->phase == MRUN_CHECK)
        check_filled(e, rc, text);
    else
        data_filled(e, rc, text);
}

static void load_answered(struct ment *e, int rc, const struct mspread_item *it)
{
    if (e->run->phase == MRUN_CHECK)
        check_answered(e, rc, it);
    else
        plan_answered(e, it);
}

const struct mrun_ops mload_ops = {.start = load_start,
                                   .phase = load_phase,
                                   .phase_done = load_phase_done,
                                   .filled = load_filled,
                                   .answered = load_answered};
