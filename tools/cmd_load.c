/* SPDX-License-Identifier: Apache-2.0 */
/* load, free: jobs that bring bytes into the cache, or drop them. */
#include "lib/base/mem.h"
#include "tools/cli.h"
#include "tools/job.h"

#define PATHS_MAX 100000u

/* From its request to its report. */
static int run_job(struct cli *c, const struct job_request *r, bool detach)
{
    uint64_t id;
    int rc = cli_connect(c);

    if (rc == 0)
        rc = job_start(c, r, &id);
    return rc < 0 ? rc : job_see_through(c, id, detach);
}

/* Short flags of both. */
static const struct tarn_flags_short job_shorts[] = {{'R', "recursive"}, {'f', "list"}};

/* ---- load -------------------------------------------------------------------------------------
 */

struct cli_load {
#define TARN_PARAM TARN_CONF_FIELD
#include "tools/load_params.def"
#undef TARN_PARAM
};
#define TARN_CONF_STRUCT struct cli_load
static const struct tarn_conf_param load_rows[] = {
#define TARN_PARAM TARN_CONF_ROW
#include "tools/load_params.def"
#undef TARN_PARAM
};
const struct tarn_conf_table cli_load_table = TARN_CONF_TABLE("load", "tarn load", load_rows);
#undef TARN_CONF_STRUCT

static int load_run(struct cli *c)
{
    const struct cli_load *p = c->own;
    Tarn__Wire__LoadSpec spec = TARN__WIRE__LOAD_SPEC__INIT;
    const struct job_request request = {.kind = "load",
                                        .spec = &spec,
                                        .filter = &p->filter,
                                        .exclude = &p->exclude,
                                        .list = p->list};

    spec.meta = p->meta || !p->data;
    spec.data = p->data || !p->meta;
    spec.recursive = p->recursive;
    spec.verify = p->verify;
    spec.force = p->force;
    spec.dry_run = p->dry_run;
    spec.allow_partial = p->allow_partial;
    spec.bandwidth = p->bandwidth;
    spec.replicas = (uint32_t)p->replicas;
    spec.parallel = (uint32_t)p->parallel;
    return run_job(c, &request, p->detach);
}

static const struct tarn_conf_table *const load_tables[] = {&cli_load_table, &cli_remote_table,
                                                            &cli_common_table, NULL};
static const struct tarn_flags_spec load_spec = {
    .command = "tarn load",
    .args = "PATH...",
    .summary = "Bring names and bytes into the cache, and say whether all of it is there.",
    .text = "Exit code 0 means that every selected file is cached and verified. What is cached "
            "already is\n"
            "not fetched again. Ctrl-C cancels the job.\n\n"
            "A list has one path per line, absolute in the name space or relative to PATH; lines "
            "that begin\n"
            "with # are comments; PATH<tab>OFFSET<tab>LENGTH names a range of bytes.\n\n"
            "Globs: * and ? match any characters (also /), [a-z] one of a set.\n\n"
            "  tarn load /train --filter '*.tar'\n"
            "  tarn load /train -f tarn:/lists/epoch1.txt",
    .tables = load_tables,
    .shorts = job_shorts,
    .n_shorts = TARN_ARRAY_LEN(job_shorts),
    .max_args = PATHS_MAX};
const struct cli_command cmd_load_command = {
    .name = "load", .spec = &load_spec, .run = load_run, .own = &cli_load_table};

/* ---- free -------------------------------------------------------------------------------------
 */

struct cli_free {
#define TARN_PARAM TARN_CONF_FIELD
#include "tools/free_params.def"
#undef TARN_PARAM
};
#define TARN_CONF_STRUCT struct cli_free
static const struct tarn_conf_param free_rows[] = {
#define TARN_PARAM TARN_CONF_ROW
#include "tools/free_params.def"
#undef TARN_PARAM
};
const struct tarn_conf_table cli_free_table = TARN_CONF_TABLE("free", "tarn free", free_rows);
#undef TARN_CONF_STRUCT

static int free_run(struct cli *c)
{
    const struct cli_free *p = c->own;
    Tarn__Wire__LoadSpec spec = TARN__WIRE__LOAD_SPEC__INIT;
    const struct job_request request = {.kind = "free",
                                        .spec = &spec,
                                        .filter = &p->filter,
                                        .exclude = &p->exclude,
                                        .list = p->list};

    if (!p->data)
        return tarn_err_set(&c->err, -TARN_E_USAGE, "--no-data: there is nothing else to free");
    spec.data = true;
    spec.recursive = p->recursive;
    spec.dry_run = p->dry_run;
    return run_job(c, &request, p->detach);
}

static const struct tarn_conf_table *const free_tables[] = {&cli_free_table, &cli_remote_table,
                                                            &cli_common_table, NULL};
static const struct tarn_flags_spec free_spec = {
    .command = "tarn free",
    .args = "PATH...",
    .summary = "Drop cached bytes; the files themselves stay as they are.",
    .text =
        "A later read fetches from the store again. A list has the form of that of `tarn load`.",
    .tables = free_tables,
    .shorts = job_shorts,
    .n_shorts = TARN_ARRAY_LEN(job_shorts),
    .max_args = PATHS_MAX};
const struct cli_command cmd_free_command = {
    .name = "free", .spec = &free_spec, .run = free_run, .own = &cli_free_table};
