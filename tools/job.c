/* SPDX-License-Identifier: Apache-2.0 */
/* Jobs as commands see them: see job.h. Starting one is in job_start.c. */
#include "tools/job.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"
#include "lib/base/mem.h"
#include "lib/base/units.h"
#include "tools/progress.h"

#define WAIT_MS        2000u                /* a call waits so long for a change */
#define CANCEL_NS      (10 * TARN_NS_PER_S) /* and so long for the end of a cancelled job */
#define MANIFEST_PAGE  1000u
#define FAILURES_SHOWN 5u

#define U(x) ((json_int_t)(x))

/* ---- calls ------------------------------------------------------------------------------------
 */

/* Takes the answer out of `req`. */
static void job_take(struct tarn_rpc_req *req, Tarn__Wire__Job **ret)
{
    *ret = (Tarn__Wire__Job *)req->resp;
    req->resp = NULL;
}

static void job_what(uint64_t id, char buf[40])
{
    (void)snprintf(buf, 40, "job %" PRIu64, id); /* fits */
}

static int job_call(struct cli *c, uint32_t method, uint64_t id, uint64_t wait_ns,
                    Tarn__Wire__Job **ret)
{
    Tarn__Wire__JobRequest msg = TARN__WIRE__JOB_REQUEST__INIT;
    struct tarn_rpc_req req;
    char what[40];
    int rc;

    job_what(id, what);
    msg.id = id;
    rc = cli_call_waiting(c, &req, method, &msg.base, wait_ns, what);
    if (rc == 0)
        job_take(&req, ret);
    tarn_rpc_req_fini(&req);
    return rc;
}

int job_show(struct cli *c, uint64_t id, Tarn__Wire__Job **ret)
{
    return job_call(c, TARN_RPC_job_show, id, 0, ret);
}

int job_cancel(struct cli *c, uint64_t id, Tarn__Wire__Job **ret)
{
    return job_call(c, TARN_RPC_job_cancel, id, CANCEL_NS, ret);
}

int job_each_line(struct cli *c, uint64_t id, job_line_fn *fn, void *arg)
{
    Tarn__Wire__ManifestRequest msg = TARN__WIRE__MANIFEST_REQUEST__INIT;
    struct tarn_rpc_req req;
    bool more = true;
    char what[40];
    int rc = 0;

    job_what(id, what);
    msg.id = id;
    msg.max_lines = MANIFEST_PAGE;
    while (rc == 0 && more) {
        const Tarn__Wire__ManifestResponse *page;

        rc = cli_call(c, &req, TARN_RPC_job_manifest, &msg.base, what);
        page = (const Tarn__Wire__ManifestResponse *)req.resp;
        for (size_t i = 0; rc == 0 && i < page->n_lines; i++)
            rc = fn(arg, page->lines[i]);
        if (rc == 0) {
            more = !page->eof && page->n_lines > 0; /* a job that runs has no end yet */
            msg.from = page->next;
        }
        tarn_rpc_req_fini(&req);
    }
    return rc;
}

/* ---- following ---------------------------------------------------------------------------------
 */

bool job_ended(const Tarn__Wire__Job *job)
{
    return strcmp(job->state, "planned") != 0 && strcmp(job->state, "running") != 0;
}

/* One wait for a change. *job is replaced. */
static int job_wait_once(struct cli *c, uint64_t id, Tarn__Wire__Job **job)
{
    Tarn__Wire__JobWaitRequest msg = TARN__WIRE__JOB_WAIT_REQUEST__INIT;
    struct tarn_rpc_req req;
    char what[40];
    int rc;

    job_what(id, what);
    msg.id = id;
    msg.seen_seq = *job ? (*job)->seq : 0;
    msg.max_wait_ms = WAIT_MS;
    rc = cli_call_waiting(c, &req, TARN_RPC_job_wait, &msg.base, WAIT_MS * TARN_NS_PER_MS, what);
    if (rc == 0) {
        if (*job)
            tarn__wire__job__free_unpacked(*job, NULL);
        job_take(&req, job);
    }
    tarn_rpc_req_fini(&req);
    return rc;
}

/* After a Ctrl-C. 0: go on waiting; CANCELLED: leave it. */
static int job_interrupted(struct cli *c, uint64_t id, struct progress *p, bool *cancelled)
{
    Tarn__Wire__Job *job = NULL;
    int rc;

    progress_clear(p);
    c->err.text[0] = 0;
    if (*cancelled || cli_interrupts(c) > 1)
        return tarn_err_set(
            &c->err, -TARN_E_CANCELLED,
            "left job %" PRIu64 " as it is; `tarn job show %" PRIu64 "` tells how it goes", id, id);
    *cancelled = true;
    (void)fprintf(stderr, "cancelling job %" PRIu64 " (Ctrl-C again leaves it)\n",
                  id); /* a remark */
    rc = job_cancel(c, id, &job);
    if (job)
        tarn__wire__job__free_unpacked(job, NULL);
    if (rc == -TARN_E_CANCELLED) { /* the second Ctrl-C */
        c->err.text[0] = 0;
        return job_interrupted(c, id, p, cancelled);
    }
    return rc;
}

/* What a running job waits for; NULL: nothing. */
static const char *job_waits(const Tarn__Wire__Job *job)
{
    return job->error == 0 && job->error_text[0] && !job_ended(job) ? job->error_text : NULL;
}

static void job_figures(const Tarn__Wire__Job *job, struct progress_at *at)
{
    *at = (struct progress_at){.files = job->files_done + job->files_failed,
                               .files_total = job->files_total,
                               .bytes = job->bytes_done,
                               .bytes_total = job->bytes_total,
                               .failed = job->files_failed,
                               .waits = job_waits(job)};
}

/* Once each time. */
static void job_say_waits(struct cli *c, const Tarn__Wire__Job *job, struct progress *p, bool *said)
{
    const char *waits = job_waits(job);

    if (waits && !*said && !c->common.quiet) {
        progress_clear(p);
        (void)fprintf(stderr, "%s: waiting: %s\n", c->cmd->name, waits); /* a remark */
    }
    *said = waits != NULL;
}

int job_follow(struct cli *c, uint64_t id, bool interrupts, Tarn__Wire__Job **ret)
{
    Tarn__Wire__Job *job = NULL;
    struct progress_at at;
    struct progress p;
    bool cancelled = false, said = false;
    int rc = interrupts ? cli_catch_interrupts(c) : 0;

    progress_init(&p, c->cmd->name, c->common.quiet, tarn_now_ns());
    while (rc == 0 && !(job && job_ended(job))) {
        rc = job_wait_once(c, id, &job);
        if (rc == -TARN_E_CANCELLED && cli_interrupts(c) > 0)
            rc = job_interrupted(c, id, &p, &cancelled);
        if (rc == 0 && job) {
            job_say_waits(c, job, &p, &said);
            job_figures(job, &at);
            progress_show(&p, &at, tarn_now_ns());
        }
    }
    progress_clear(&p);
    if (rc == 0) {
        *ret = job;
        return 0;
    }
    if (job)
        tarn__wire__job__free_unpacked(job, NULL);
    if (tarn_err_exit(rc) == TARN_EXIT_UNREACH) {
        struct tarn_errbuf why = c->err;

        (void)tarn_err_set(&c->err, rc,
                           "%s; the job goes on where it is back: tarn job wait %" PRIu64,
                           tarn_err_text(&why, rc), id);
    }
    return rc;
}

/* ---- telling
 * ------------------------------------------------------------------------------------- */

static json_t *job_time(int64_t ns)
{
    char buf[32];

    return ns ? json_string(tarn_format_time(ns, buf)) : json_null();
}

/* NULL: it did not fail. */
static const char *job_error(const Tarn__Wire__Job *job)
{
    if (job->error == 0)
        return NULL;
    return job->error_text[0] ? job->error_text : tarn_strerror((int)job->error);
}

json_t *job_json(const Tarn__Wire__Job *job)
{
    const char *error = job_error(job);

    return json_pack(
        "{s:I, s:o, s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:o, s:o}", "id", U(job->id),
        "kind", cli_json_text(job->kind), "state", cli_json_text(job->state), "files_total",
        U(job->files_total), "files_done", U(job->files_done), "files_failed", U(job->files_failed),
        "files_skipped", U(job->files_skipped), "bytes_total", U(job->bytes_total), "bytes_done",
        U(job->bytes_done), "started_at", job_time(job->started_ns), "finished_at",
        job_time(job->finished_ns), "error", error ? cli_json_text(error) : json_null(),
        "waits_for", !error && job->error_text[0] ? cli_json_text(job->error_text) : json_null());
}

struct job_failures {
    struct cli *c;
    unsigned shown; /* lines */
};

static int job_failure(void *arg, const Tarn__Wire__ManifestLine *line)
{
    struct job_failures *f = arg;
    const char *why = line->error_text[0] ? line->error_text : tarn_strerror((int)line->error);

    if (line->error == 0)
        return 0;
    (void)fputs("  ", stderr); /* there is nowhere else to say it, here and below */
    cli_put_name(stderr, (const char *)line->path.data, line->path.len);
    (void)fputs(": ", stderr);
    cli_put_name(stderr, why, strlen(why));
    (void)fputc('\n', stderr);
    return ++f->shown == FAILURES_SHOWN ? 1 : 0;
}

static int job_report_failed(struct cli *c, const Tarn__Wire__Job *job)
{
    struct job_failures f = {.c = c};
    const char *error = job_error(job);
    bool cancelled = strcmp(job->state, "cancelled") == 0;

    (void)fprintf(stderr, "tarn %s: job %" PRIu64 " %s", c->cmd->name, job->id,
                  cancelled ? "was cancelled" : job->state);
    if (cancelled || !error) {
        (void)fprintf(stderr, ", %" PRIu64 " of %" PRIu64 " files were done", job->files_done,
                      job->files_total);
    } else {
        (void)fputs(": ", stderr);
        cli_put_name(stderr, error, strlen(error));
    }
    (void)fputc('\n', stderr);
    if (job->files_failed > 0) {
        /* A manifest that cannot be read now is no news beside the failure. */
        (void)job_each_line(c, job->id, job_failure, &f);
        (void)fprintf(stderr, "  all of them: tarn job manifest %" PRIu64 "\n", job->id);
    }
    c->failed_quietly = true;
    return cancelled ? -TARN_E_CANCELLED : -TARN_E_JOB_PARTIAL;
}

static const char *plural(uint64_t n)
{
    return n == 1 ? "" : "s";
}

/*
 * `before` and the URI of the server's store: who meant another server sees it. Nothing where there
 * is no answer; how the job ended is known.
 */
static void job_put_store(struct cli *c, const char *before)
{
    struct tarn_errbuf err = c->err;
    Tarn__Wire__StatusResponse *st;

    if (cli_status(c, &st) < 0) {
        c->err = err;
        return;
    }
    if (st->n_mounts > 0) {
        (void)fputs(before, stdout); /* main() checks the stream */
        cli_put_name(stdout, st->mounts[0]->ufs, strlen(st->mounts[0]->ufs));
    }
    tarn__wire__status_response__free_unpacked(st, NULL);
}

static void job_summary(struct cli *c, const Tarn__Wire__Job *job)
{
    const Tarn__Wire__LoadSpec *spec = job->spec;
    bool is_free = strcmp(job->kind, "free") == 0;
    bool names_only = !is_free && spec && spec->meta && !spec->data;
    char size[32], time[32];

    (void)printf("%s %" PRIu64 " file%s",
                 is_free      ? "freed"
                 : names_only ? "listed"
                              : "loaded",
                 job->files_done, plural(job->files_done)); /* main() checks the stream */
    if (!names_only)
        (void)printf(", %s", tarn_format_size(job->bytes_done, size));
    (void)printf(" in %s", tarn_format_duration(
                               (uint64_t)TARN_MAX(job->finished_ns - job->started_ns, 0), time));
    if (job->files_skipped > 0)
        (void)printf("; %" PRIu64 " key%s of the store cannot be names: skipped",
                     job->files_skipped, plural(job->files_skipped));
    (void)printf(" (job %" PRIu64, job->id);
    job_put_store(c, ", ");
    (void)puts(")");
}

/* What a dry run found, summed up. */
struct job_dry {
    struct cli *c;
    uint64_t files, bytes; /* that would be loaded or freed */
    uint64_t others;       /* files that are as they should be */
};

static int job_dry_line(void *arg, const Tarn__Wire__ManifestLine *line)
{
    struct job_dry *d = arg;
    char size[32];

    if (line->error != 0)
        return 0;
    if (!tarn_starts_with(line->state, "would-")) {
        d->others++;
        return 0;
    }
    d->files++;
    d->bytes += line->bytes;
    (void)printf("%10s  ", tarn_format_size(line->bytes, size)); /* checked below */
    cli_print_name(d->c, (const char *)line->path.data, line->path.len);
    (void)putchar('\n');
    return cli_out_check(d->c);
}

static int job_dry_summary(struct cli *c, const Tarn__Wire__Job *job)
{
    bool is_free = strcmp(job->kind, "free") == 0;
    struct job_dry d = {.c = c};
    char size[32];
    int rc = job_each_line(c, job->id, job_dry_line, &d);

    if (rc < 0)
        return rc;
    (void)printf("would %s %" PRIu64 " file%s, %s", is_free ? "free" : "load", d.files,
                 plural(d.files), tarn_format_size(d.bytes, size)); /* main() checks the stream */
    if (d.others > 0)
        (void)printf("; %" PRIu64 " other%s need%s nothing", d.others, plural(d.others),
                     d.others == 1 ? "s" : "");
    (void)fputs(" (", stdout);
    job_put_store(c, "");
    (void)puts(")");
    return 0;
}

/* Nothing was asked for that is there: a typing error in a glob looks like that. */
static void job_warn_empty(const struct cli *c, const Tarn__Wire__Job *job)
{
    const Tarn__Wire__LoadSpec *spec = job->spec;

    if (job->files_total > 0 || !spec || spec->n_filter + spec->n_exclude == 0)
        return;
    (void)fprintf(stderr, "tarn %s: warning: no %sfile %s\n", c->cmd->name,
                  strcmp(job->kind, "free") == 0 ? "cached " : "",
                  spec->n_exclude == 0 ? "matches --filter"
                  : spec->n_filter == 0
                      ? "is left by --exclude"
                      : "that matches --filter is left by --exclude"); /* a remark */
}

int job_report(struct cli *c, const Tarn__Wire__Job *job)
{
    bool succeeded = strcmp(job->state, "succeeded") == 0;
    int rc = 0;

    if (c->common.json)
        cli_json(job_json(job));
    else if (succeeded && job->spec && job->spec->dry_run)
        rc = job_dry_summary(c, job);
    else if (succeeded)
        job_summary(c, job);
    if (succeeded)
        job_warn_empty(c, job);
    return succeeded ? rc : job_report_failed(c, job);
}

int job_see_through(struct cli *c, uint64_t id, bool detach)
{
    Tarn__Wire__Job *job = NULL;
    int rc = detach ? job_show(c, id, &job) : job_follow(c, id, true, &job);

    if (rc < 0)
        return rc;
    if (!detach)
        rc = job_report(c, job);
    else if (c->common.json)
        cli_json(job_json(job));
    else
        (void)printf("%" PRIu64 "\n", id); /* main() checks the stream */
    tarn__wire__job__free_unpacked(job, NULL);
    return rc;
}
