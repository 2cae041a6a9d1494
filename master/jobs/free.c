/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frees: one pass over what is known, asking the store for nothing; all workers drop the bytes in
 * batches, since any may have copies. The manifest has a line per file that had any, with the bytes
 * of all copies. A dry one asks what there is. Copies of a worker that was not reached stay, so
 * that the job is done in part only, and names it.
 */
#include <stdlib.h>

#include "lib/base/assert.h"
#include "master/jobs/jobs_priv.h"

static void free_file(struct mrun *r, const struct mpass_file *f)
{
    struct ment *e;

    if (f->inode->cid.len != sizeof(e->cid.b) || f->inode->type != TARN_UFS_FILE)
        return;
    e = ment_new(r, f->path);
    memcpy(e->cid.b, f->inode->cid.data, sizeof(e->cid.b));
    e->len = f->inode->ufs ? f->inode->ufs->size : 0;
    mquery_add(e);
}

static void free_answered(struct ment *e, int rc, const struct mspread_item *it)
{
    struct mjob_counts *live = &e->run->job->live;
    uint64_t bytes = it->bytes;

    if (rc == 0 && bytes == 0) {
        ment_end(e, NULL, 0, 0, NULL);
        return;
    }
    live->files_total++;
    live->bytes_total += bytes;
    e->total_files = live->files_total;
    e->total_bytes = live->bytes_total;
    if (rc < 0) {
        e->d_failed = 1;
        ment_end(e, "failed", 0, rc, NULL);
        return;
    }
    e->d_done = !e->run->job->spec->dry_run;
    e->d_bytes = e->run->job->spec->dry_run ? 0 : (int64_t)bytes;
    ment_end(e, e->run->job->spec->dry_run ? "would-free" : "freed", bytes, 0, NULL);
}

static void free_target_failed(struct mrun *r, const char *path, int rc, const char *text)
{
    struct ment *e;

    r->job->live.files_total++;
    e = ment_new(r, path);
    e->d_failed = 1;
    ment_end(e, "failed", 0, rc, text);
}

static void free_skipped(struct mrun *r, tarn_ino_t dir, const char *path, uint64_t count)
{
    (void)r; /* what has no name has no bytes here */
    (void)dir;
    (void)path;
    (void)count;
}

static const struct mpass_ops free_pass_ops = {.file = free_file,
                                               .target_failed = free_target_failed,
                                               .dir_failed = free_target_failed,
                                               .skipped = free_skipped};

static void free_start(struct mrun *r)
{
    if (r->resume == MRUN_NONE)
        r->job->live = r->job->durable = (struct mjob_counts){0};
    r->query.free = !r->job->spec->dry_run;
    mrun_enter(r, MRUN_FREE);
}

static void free_phase(struct mrun *r)
{
    mpass_start(r, &free_pass_ops, false, true);
}

static void free_phase_done(struct mrun *r)
{
    TARN_AUTO_FREE char *text = NULL;

    if (r->job->live.files_failed == 0 && r->first_failed) { /* a worker */
        text = tarn_xasprintf("%s %s", r->first_failed, r->first_text);
        mrun_end(r, -TARN_E_JOB_PARTIAL, text);
    } else {
        mrun_end(r, 0, NULL);
    }
}

static void free_filled(struct ment *e, int rc, const char *text)
{
    (void)e;
    (void)rc;
    (void)text;
    TARN_UNREACHABLE("a free fills nothing");
}

const struct mrun_ops mfree_ops = {.start = free_start,
                                   .phase = free_phase,
                                   .phase_done = free_phase_done,
                                   .filled = free_filled,
                                   .answered = free_answered};
