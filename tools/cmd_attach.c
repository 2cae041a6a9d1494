/* SPDX-License-Identifier: Apache-2.0 */
/*
 * attach, detach, mounts: which store is where in the name space of a cluster. Options are checked
 * here first; files with secrets are of this host, so their contents are sent, to be kept by the
 * master and given to whoever reads the store.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "lib/base/env.h"
#include "lib/base/mem.h"
#include "lib/base/name.h"
#include "lib/base/units.h"
#include "tools/cli.h"
#include "tools/report.h"
#include "tools/store_opts.h"

#define CHECK_NS (8 * TARN_NS_PER_S) /* a store has that long to answer */

struct cli_attach {
#define TARN_PARAM TARN_CONF_FIELD
#include "tools/attach_params.def"
#undef TARN_PARAM
};
#define TARN_CONF_STRUCT struct cli_attach
static const struct tarn_conf_param attach_rows[] = {
#define TARN_PARAM TARN_CONF_ROW
#include "tools/attach_params.def"
#undef TARN_PARAM
};
const struct tarn_conf_table cli_attach_table =
    TARN_CONF_TABLE("attach", "tarn attach", attach_rows);

/* ---- attach -----------------------------------------------------------------------------------
 */

static int attach_check(struct cli *c)
{
    const struct cli_attach *p = c->own;
    int rc = cli_refuse(c, "write", "not offered yet: what is attached takes no changes");

    if (rc == 0)
        rc = cli_refuse(c, "strict", "not offered yet");
    if (rc == 0 && !p->read_only)
        rc = tarn_err_set(&c->err, -TARN_E_CONFIG,
                          "--no-read-only: what is attached takes no changes yet");
    if (rc == 0 && !strstr(c->args[0], "://"))
        rc = tarn_err_set(
            &c->err, -TARN_E_USAGE,
            "%s: the URI of a store is needed, like s3://BUCKET/PREFIX or file:///DIR", c->args[0]);
    return rc;
}

static int attach_call(struct cli *c, const char *path, const struct store_texts *texts)
{
    const struct cli_attach *p = c->own;
    Tarn__Wire__AttachRequest msg = TARN__WIRE__ATTACH_REQUEST__INIT;
    struct tarn_rpc_req req;
    int rc;

    msg.path = tarn_wire_text(path);
    msg.uri = tarn_wire_text(c->args[0]);
    msg.options = texts->options;
    msg.n_options = texts->n_options;
    msg.secrets = texts->secrets;
    msg.n_secrets = texts->n_secrets;
    msg.ttl_ns = c->store.meta_ttl;
    msg.has_ttl = !p->update || cli_given(c, "meta-ttl");
    msg.read_only = p->read_only;
    msg.check = c->store.check;
    msg.check_ms = CHECK_NS / TARN_NS_PER_MS;
    msg.update = p->update;
    msg.replicas = (uint32_t)p->replicas;
    msg.direct = !cli_given(c, "direct") ? 0 : p->direct ? 2 : 1;
    rc = cli_call_waiting(c, &req, TARN_RPC_attach, &msg.base, CHECK_NS, path);
    if (rc < 0 && req.resp)
        rc = cli_told(c, rc, ((const Tarn__Wire__AttachResponse *)req.resp)->error_text);
    tarn_rpc_req_fini(&req);
    return rc;
}

static int attach_run(struct cli *c)
{
    const struct cli_attach *p = c->own;
    struct tarn_conf *conf = NULL;
    struct store_texts texts = {0};
    struct tarn_ufs_opts opts;
    char path[TARN_PATH_MAX];
    int rc = attach_check(c);

    if (rc == 0)
        rc = cli_path(c, c->args[1], path);
    if (rc == 0)
        rc = store_opts_load(c, &opts, &conf);
    if (rc == 0)
        rc = store_opts_texts(c, &opts, conf, &texts);
    if (rc == 0)
        rc = cli_connect(c);
    if (rc == 0)
        rc = attach_call(c, path, &texts);
    store_texts_fini(&texts);
    tarn_conf_free(&conf);
    if (rc == 0 && c->common.json)
        cli_json(json_pack("{s:o, s:b}", "path", cli_json_text(path), "updated", p->update));
    else if (rc == 0 && !c->common.quiet)
        (void)printf("%s: %s\n", path, p->update ? "changed" : "attached"); /* main() checks */
    return rc;
}

/* ---- detach -----------------------------------------------------------------------------------
 */

static int detach_run(struct cli *c)
{
    Tarn__Wire__DetachRequest msg = TARN__WIRE__DETACH_REQUEST__INIT;
    struct tarn_rpc_req req;
    char path[TARN_PATH_MAX];
    int rc = cli_path(c, c->args[0], path);

    if (rc == 0)
        rc = cli_connect(c);
    if (rc < 0)
        return rc;
    msg.path = tarn_wire_text(path);
    rc = cli_call(c, &req, TARN_RPC_detach, &msg.base, path);
    if (rc < 0 && req.resp)
        rc = cli_told(c, rc, ((const Tarn__Wire__DetachResponse *)req.resp)->error_text);
    tarn_rpc_req_fini(&req);
    if (rc == 0 && c->common.json)
        cli_json(json_pack("{s:o}", "path", cli_json_text(path)));
    else if (rc == 0 && !c->common.quiet)
        (void)printf("%s: detached\n", path); /* main() checks the stream */
    return rc;
}

/* ---- mounts -----------------------------------------------------------------------------------
 */

static void put_column(const char *text, int width)
{
    int n = (int)strlen(text);

    cli_put_name(stdout, text, strlen(text)); /* main() checks the stream at the end */
    (void)printf("%*s ", n < width ? width - n : 0, "");
}

static void mounts_text(const Tarn__Wire__StatusResponse *st)
{
    if (st->n_mounts > 0)
        (void)printf("%-16s %-32s %-8s %10s %10s %-8s %s\n", "PATH", "URI", "TTL", "FILES", "BYTES",
                     "COMPLETE", "STATE");
    for (size_t i = 0; i < st->n_mounts; i++) {
        const Tarn__Wire__MountStatus *m = st->mounts[i];
        char ttl[32], size[32];

        put_column(m->path, 16);
        put_column(m->ufs, 32);
        (void)printf("%-8s %10" PRIu64 " %10s %-8s ", report_ttl(m->ttl_ns, ttl), m->files,
                     tarn_format_size(m->bytes, size), m->complete ? "yes" : "no");
        (void)fputs(m->state, stdout);
        if (m->error[0]) {
            (void)fputs(": ", stdout);
            cli_put_name(stdout, m->error, strlen(m->error));
        }
        (void)putchar('\n');
    }
}

static int mounts_run(struct cli *c)
{
    Tarn__Wire__StatusResponse *st;
    int rc = cli_connect(c);

    if (rc == 0)
        rc = cli_status(c, &st);
    if (rc < 0)
        return rc;
    if (c->common.json)
        cli_json(report_mounts(st));
    else
        mounts_text(st);
    tarn__wire__status_response__free_unpacked(st, NULL);
    return 0;
}

/* ---- the commands -----------------------------------------------------------------------------
 */

static const struct tarn_conf_table *const attach_tables[] = {
    &cli_attach_table, &cli_store_table, &cli_remote_table, &cli_common_table, NULL};
static const struct tarn_conf_table *const remote_tables[] = {&cli_remote_table, &cli_common_table,
                                                              NULL};
static const struct tarn_conf_table *const attach_opt_tables[] = {&tarn_ufs_opts_table, NULL};
static const struct tarn_flags_short attach_shorts[] = {{'o', "option"}};
static const struct tarn_flags_spec attach_spec = {
    .command = "tarn attach",
    .args = "UFS_URI PATH",
    .summary = "Show a store at a path of a cluster's name space.",
    .text =
        "UFS_URI is s3://BUCKET[/PREFIX] or file:///DIR; PATH need not exist. Files with keys\n"
        "(-o key-file, secret-file, token-file) are read here, and the master keeps what is in\n"
        "them; other paths (tls-ca) and a file:// are of the hosts of master and workers.\n\n"
        "  tarn attach s3://bucket/data / -o endpoint=http://10.0.0.9:9000,key-file=/etc/key,"
        "secret-file=/etc/secret",
    .tables = attach_tables,
    .shorts = attach_shorts,
    .n_shorts = TARN_ARRAY_LEN(attach_shorts),
    .opt_key = "option",
    .opt_tables = attach_opt_tables,
    .min_args = 2,
    .max_args = 2};
const struct cli_command cmd_attach_command = {
    .name = "attach", .spec = &attach_spec, .run = attach_run, .own = &cli_attach_table};

static const struct tarn_flags_spec detach_spec = {
    .command = "tarn detach",
    .args = "PATH",
    .summary = "Take a store out of the name space; its cached bytes stay for when it comes back.",
    .tables = remote_tables,
    .min_args = 1,
    .max_args = 1};
const struct cli_command cmd_detach_command = {
    .name = "detach", .spec = &detach_spec, .run = detach_run};

static const struct tarn_flags_spec mounts_spec = {.command = "tarn mounts",
                                                   .args = "",
                                                   .summary = "Show which stores are attached, and "
                                                              "where.",
                                                   .tables = remote_tables};
const struct cli_command cmd_mounts_command = {
    .name = "mounts", .spec = &mounts_spec, .run = mounts_run};
