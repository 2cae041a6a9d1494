/* SPDX-License-Identifier: Apache-2.0 */
/* job ls | show | wait | cancel | retry | manifest: what became of loads and frees. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "lib/base/mem.h"
#include "lib/base/units.h"
#include "lib/conf/suggest.h"
#include "tools/cli.h"
#include "tools/job.h"

static int verb_ls(struct cli *c, uint64_t id)
{
    Tarn__Wire__Empty msg = TARN__WIRE__EMPTY__INIT;
    const Tarn__Wire__JobListResponse *list;
    json_t *array = json_array();
    struct tarn_rpc_req req;
    char size[32], time[32];
    int rc = cli_call(c, &req, TARN_RPC_job_list, &msg.base, "list the jobs");

    (void)id; /* of all jobs */
    list = (const Tarn__Wire__JobListResponse *)req.resp;
    if (rc == 0 && !c->common.json && list->n_jobs > 0)
        (void)printf("%-14s %-4s %-9s %15s %12s  %s\n", "ID", "KIND", "STATE", "FILES", "BYTES",
                     "STARTED");
    for (size_t i = 0; rc == 0 && i < list->n_jobs; i++) {
        const Tarn__Wire__Job *job = list->jobs[i];
        char files[48];

        if (c->common.json) {
            (void)json_array_append_new(array, job_json(job));
            continue;
        }
        (void)snprintf(files, sizeof(files), "%" PRIu64 "/%" PRIu64, job->files_done,
                       job->files_total);
        (void)printf("%-14" PRIu64 " %-4s %-9s %15s %12s  %s\n", job->id, job->kind, job->state,
                     files, tarn_format_size(job->bytes_done, size),
                     job->started_ns ? tarn_format_time(job->started_ns, time) : "-");
    }
    tarn_rpc_req_fini(&req);
    if (rc == 0 && c->common.json)
        cli_json(array);
    else
        json_decref(array);
    return rc;
}

static void job_print(const Tarn__Wire__Job *job)
{
    char a[32], b[32];

    (void)printf("id        %" PRIu64 "\nkind      %s%s\nstate     %s\n", job->id, job->kind,
                 job->spec && job->spec->dry_run ? ", a dry run" : "", job->state);
    (void)printf("files     %" PRIu64 " of %" PRIu64 " done, %" PRIu64 " failed, %" PRIu64
                 " skipped\n",
                 job->files_done, job->files_total, job->files_failed, job->files_skipped);
    (void)printf("bytes     %s of %s\n", tarn_format_size(job->bytes_done, a),
                 tarn_format_size(job->bytes_total, b));
    (void)printf("started   %s\n", job->started_ns ? tarn_format_time(job->started_ns, a) : "-");
    (void)printf("finished  %s\n", job->finished_ns ? tarn_format_time(job->finished_ns, a) : "-");
    if (job->error != 0) {
        const char *text = job->error_text[0] ? job->error_text : tarn_strerror((int)job->error);

        (void)fputs("error     ", stdout); /* main() checks the stream at the end */
        cli_put_name(stdout, text, strlen(text));
        (void)putchar('\n');
    }
}

static int print_and_free(struct cli *c, Tarn__Wire__Job *job)
{
    if (c->common.json)
        cli_json(job_json(job));
    else
        job_print(job);
    tarn__wire__job__free_unpacked(job, NULL);
    return 0;
}

static int verb_show(struct cli *c, uint64_t id)
{
    Tarn__Wire__Job *job;
    int rc = job_show(c, id, &job);

    return rc < 0 ? rc : print_and_free(c, job);
}

static int verb_cancel(struct cli *c, uint64_t id)
{
    Tarn__Wire__Job *job;
    int rc = job_cancel(c, id, &job);

    if (rc < 0)
        return rc;
    if (strcmp(job->state, "cancelled") != 0 && job->finished_ns && !c->common.quiet)
        (void)fprintf(stderr, "tarn job: %" PRIu64 " had %s before: nothing was cancelled\n", id,
                      job->state); /* a remark */
    return print_and_free(c, job);
}

static int verb_retry(struct cli *c, uint64_t id)
{
    Tarn__Wire__Job *job;
    uint64_t again = 0;
    int rc = job_show(c, id, &job);

    if (rc < 0)
        return rc;
    rc = job_repeat(c, job, &again);
    tarn__wire__job__free_unpacked(job, NULL);
    return rc < 0 ? rc : job_see_through(c, again, false);
}

static int verb_wait(struct cli *c, uint64_t id)
{
    Tarn__Wire__Job *job;
    int rc = job_follow(c, id, false, &job);

    if (rc < 0)
        return rc;
    rc = job_report(c, job);
    tarn__wire__job__free_unpacked(job, NULL);
    return rc;
}

static int manifest_line(void *arg, const Tarn__Wire__ManifestLine *line)
{
    struct cli *c = arg;
    const char *error = line->error == 0      ? ""
                        : line->error_text[0] ? line->error_text
                                              : tarn_strerror((int)line->error);
    char size[32];

    if (c->common.json) {
        json_t *j = json_object();

        cli_json_set(j, "path", line->path.data, line->path.len);
        (void)json_object_update_new(
            j,
            json_pack("{s:I, s:o, s:I, s:o, s:o, s:o}", "bytes", (json_int_t)line->bytes, "state",
                      cli_json_text(line->state), "replicas", (json_int_t)line->replicas,
                      "checksum", line->checksum[0] ? cli_json_text(line->checksum) : json_null(),
                      "worker", line->worker ? json_integer((json_int_t)line->worker) : json_null(),
                      "error", error[0] ? cli_json_text(error) : json_null()));
        cli_json(j);
        return cli_out_check(c);
    }
    (void)printf("%-9s %10s  ", line->state, tarn_format_size(line->bytes, size));
    cli_print_name(c, (const char *)line->path.data, line->path.len);
    (void)fputs(error[0] ? ": " : "", stdout); /* checked below */
    cli_put_name(stdout, error, strlen(error));
    (void)putchar('\n');
    return cli_out_check(c);
}

static int verb_manifest(struct cli *c, uint64_t id)
{
    return job_each_line(c, id, manifest_line, c);
}

static const struct job_verb {
    const char *name;
    int (*run)(struct cli *c, uint64_t id);
    bool takes_id;
} job_verbs[] = {{"ls", verb_ls, false},      {"show", verb_show, true},
                 {"wait", verb_wait, true},   {"cancel", verb_cancel, true},
                 {"retry", verb_retry, true}, {"manifest", verb_manifest, true}};

static int job_unknown(struct cli *c)
{
    const char *word = c->n_args ? c->args[0] : "";
    struct tarn_suggest near = {.word = word};

    if (c->n_args == 0)
        return tarn_err_set(&c->err, -TARN_E_USAGE,
                            "a word is missing: ls, show, wait, cancel, retry or manifest");
    for (size_t i = 0; i < TARN_ARRAY_LEN(job_verbs); i++)
        tarn_suggest_offer(&near, job_verbs[i].name);
    return tarn_err_set(&c->err, -TARN_E_USAGE,
                        "\"%s\": must be ls, show, wait, cancel, retry or manifest%s%s%s", word,
                        near.best[0] ? "; did you mean " : "", near.best, near.best[0] ? "?" : "");
}

static int job_run(struct cli *c)
{
    const struct job_verb *verb = NULL;
    uint64_t id = 0;
    int rc;

    for (size_t i = 0; c->n_args && i < TARN_ARRAY_LEN(job_verbs); i++)
        if (strcmp(job_verbs[i].name, c->args[0]) == 0)
            verb = &job_verbs[i];
    if (!verb)
        return job_unknown(c);
    if (verb->takes_id != (c->n_args == 2))
        return tarn_err_set(&c->err, -TARN_E_USAGE, "%s: %s", verb->name,
                            verb->takes_id ? "ID is missing; `tarn job ls` shows them"
                                           : "takes no ID");
    if (verb->takes_id && (tarn_parse_u64(c->args[1], &id) < 0 || id == 0))
        return tarn_err_set(&c->err, -TARN_E_USAGE,
                            "\"%s\": the id of a job is a number; `tarn job ls` shows them",
                            c->args[1]);
    rc = cli_connect(c);
    return rc < 0 ? rc : verb->run(c, id);
}

static const struct tarn_conf_table *const job_tables[] = {&cli_remote_table, &cli_common_table,
                                                           NULL};
static const struct tarn_flags_spec job_spec = {
    .command = "tarn job",
    .args = "ls | show ID | wait ID | cancel ID | retry ID | manifest ID",
    .summary = "Show, await, cancel or repeat loads and frees.",
    .text = "`wait` ends when the job does, with its exit code. `retry` makes a new job with the "
            "paths and\n"
            "flags of one that has ended, and awaits it: what is cached is not fetched again,\n"
            "but by a load with --force. `manifest` names every file with what became of it (of a "
            "cancelled\n"
            "job, those that it was done with); with --json one document per line.",
    .tables = job_tables,
    .max_args = 2};
const struct cli_command cmd_job_command = {.name = "job", .spec = &job_spec, .run = job_run};
