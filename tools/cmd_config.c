/* SPDX-License-Identifier: Apache-2.0 */
/*
 * config: the parameters of `tarn local` and of commands that talk to a server, as a start with the
 * same flags, environment and file would see them, each with where it comes from.
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "lib/base/mem.h"
#include "tools/cli.h"

static int config_run(struct cli *c)
{
    TARN_AUTO_FREE void *local = tarn_xcalloc(1, cli_local_table.size);
    struct cli_common common;
    struct cli_remote remote;
    const struct tarn_conf_bind binds[] = {{&cli_common_table, &common, TARN_CONF_FROM_COMMAND},
                                           {&cli_remote_table, &remote, TARN_CONF_FROM_COMMAND},
                                           {&cli_local_table, local, TARN_CONF_FROM_COMMAND}};
    struct tarn_conf_input in = {
        .env = (const char *const *)environ, .file_key = "config", .others = cli_all_tables};
    struct tarn_conf *conf = NULL;
    struct tarn_str out = {0};
    int rc;

    in.args = tarn_flags_conf(c->flags, &in.n_args);
    rc = tarn_conf_load(binds, TARN_ARRAY_LEN(binds), &in, &conf, &c->err);
    if (rc < 0)
        return rc;
    if (c->common.json)
        tarn_conf_print_json(conf, &out);
    else
        tarn_conf_print_text(conf, &out);
    (void)fputs(tarn_str_z(&out), stdout); /* main() checks the stream at the end */
    tarn_str_fini(&out);
    tarn_conf_free(&conf);
    return 0;
}

static const struct tarn_conf_table *const config_tables[] = {&cli_common_table, &cli_remote_table,
                                                              &cli_local_table, NULL};
static const struct tarn_flags_spec config_spec = {
    .command = "tarn config",
    .args = "",
    .summary = "Show the effective configuration and where each value comes from.",
    .text =
        "A flag is stronger than the environment (TARN_KEY), that than the file of --config, that\n"
        "than the default. The flags are those of `tarn local` and of commands that talk to a\n"
        "server: what stands here is what they would see. Secrets are shown as \"(set)\".",
    .tables = config_tables};
const struct cli_command cmd_config_command = {
    .name = "config", .spec = &config_spec, .run = config_run};
