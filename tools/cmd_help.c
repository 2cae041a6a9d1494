/* SPDX-License-Identifier: Apache-2.0 */
/* help, version: what the program says of itself. */
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "lib/base/mem.h"
#include "tools/cli.h"
#include "tools/completion.h"
#include "tools/man.h"

struct cli_help {
#define TARN_PARAM TARN_CONF_FIELD
#include "tools/help_params.def"
#undef TARN_PARAM
};
#define TARN_CONF_STRUCT struct cli_help
static const struct tarn_conf_param help_rows[] = {
#define TARN_PARAM TARN_CONF_ROW
#include "tools/help_params.def"
#undef TARN_PARAM
};
/* On the command line only: no section of a configuration file, no variable. */
static const struct tarn_conf_table help_table = {.name = "help",
                                                  .title = "tarn help",
                                                  .params = help_rows,
                                                  .n = TARN_ARRAY_LEN(help_rows),
                                                  .size = sizeof(struct cli_help),
                                                  .no_env = true};

static int help_run(struct cli *c)
{
    const struct cli_command *cmd;
    const struct cli_help *p = c->own;
    struct tarn_str out = {0};

    if (p->completion) {
        completion_bash(&out);
        (void)fputs(tarn_str_z(&out), stdout); /* main() checks the stream at the end */
        tarn_str_fini(&out);
        return 0;
    }
    if (c->n_args == 0 && !p->man) {
        cli_usage(stdout);
        return 0;
    }
    cmd = c->n_args ? cli_find(c->args[0]) : NULL;
    if (c->n_args && !cmd)
        return tarn_err_set(&c->err, -TARN_E_USAGE,
                            "\"%s\" is not a command; `tarn help` lists them", c->args[0]);
    if (p->man)
        man_page(cmd, &out);
    else
        tarn_flags_usage(cmd->spec, &out);
    (void)fputs(tarn_str_z(&out), stdout); /* main() checks the stream at the end */
    tarn_str_fini(&out);
    return 0;
}

static int version_run(struct cli *c)
{
    if (c->common.json)
        cli_json(
            json_pack("{s:s, s:i}", "version", TARN_VERSION, "protocol", (int)TARN_FRAME_VERSION));
    else
        (void)printf("tarn %s (protocol %u)\n", TARN_VERSION, TARN_FRAME_VERSION);
    return 0;
}

static const struct tarn_conf_table *const help_tables[] = {&help_table, &cli_common_table, NULL};
static const struct tarn_conf_table *const common_only[] = {&cli_common_table, NULL};
static const struct tarn_flags_spec help_spec = {.command = "tarn help",
                                                 .args = "[COMMAND]",
                                                 .summary = "Say what a command does and takes.",
                                                 .tables = help_tables,
                                                 .max_args = 1};
static const struct tarn_flags_spec version_spec = {.command = "tarn version",
                                                    .args = "",
                                                    .summary = "Say which tarn this is.",
                                                    .tables = common_only};
const struct cli_command cmd_help_command = {
    .name = "help", .spec = &help_spec, .run = help_run, .own = &help_table};
const struct cli_command cmd_version_command = {
    .name = "version", .spec = &version_spec, .run = version_run};
