/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tools/job.h — jobs as commands see them: starting one, following it, telling how it ended.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "tools/cli.h"

/* What starts a job. Everything borrowed. */
struct job_request {
    const char *kind;                     /* "load", "free" */
    const Tarn__Wire__LoadSpec *spec;     /* flags; paths, filters and lists are filled here */
    const struct tarn_conf_list *filter;  /* globs */
    const struct tarn_conf_list *exclude; /* globs */
    const char *list;                     /* "", a file, "-", or "tarn:/path" */
};
/*
 * Makes the job from the request and the command's arguments (paths, or with a list at most the one
 * that its entries are relative to). A long list goes in several calls; when a part of it is
 * malformed the job is cancelled.
 */
int job_start(struct cli *c, const struct job_request *r, uint64_t *ret_id);
/* Makes a new job with the paths and flags of one that has ended. JOB_STATE, UNSUPPORTED. */
int job_repeat(struct cli *c, const Tarn__Wire__Job *job, uint64_t *ret_id);

/* The caller frees it: tarn__wire__job__free_unpacked(). */
int job_show(struct cli *c, uint64_t id, Tarn__Wire__Job **ret);
int job_cancel(struct cli *c, uint64_t id, Tarn__Wire__Job **ret);
/*
 * Waits for the end, showing progress on standard error. `interrupts`: the first Ctrl-C cancels the
 * job, and a second one leaves it. CANCELLED: left.
 */
int job_follow(struct cli *c, uint64_t id, bool interrupts, Tarn__Wire__Job **ret);
/*
 * Says how an ended job went: a summary or the JSON document on standard output; of a failed one
 * the first causes on standard error. 0 when it succeeded, else JOB_PARTIAL or CANCELLED, said.
 */
int job_report(struct cli *c, const Tarn__Wire__Job *job);
/* Follows and reports, as the request's flags say (--detach, --dry-run). */
int job_see_through(struct cli *c, uint64_t id, bool detach);

/* Calls `fn` for each line of the manifest that there is; non-zero ends it and is returned. */
typedef int job_line_fn(void *arg, const Tarn__Wire__ManifestLine *line);
int job_each_line(struct cli *c, uint64_t id, job_line_fn *fn, void *arg);
bool job_ended(const Tarn__Wire__Job *job);
/* What `tarn job show --json` prints; its keys are a contract. New reference. */
struct json_t *job_json(const Tarn__Wire__Job *job);
