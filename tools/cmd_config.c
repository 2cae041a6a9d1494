/* SPDX-License-Identifier: Apache-2.0 */
/*
 * config: the parameters of a role (`tarn local` unless another is named) and of commands that talk
 * to a server, as a start with the same flags, environment and file would see them, each with where
 * it comes from. Each role is a row of its own here, with the tables of that command.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "lib/base/assert.h"
#include "lib/base/mem.h"
#include "tools/cli.h"
#include "ufs/ufs_opts.h"

/*
 * The options of a store that the configuration file gives. They are a load of their own, as in
 * `tarn local`: some have the names of parameters of commands.
 */
static int config_store(struct cli *c, struct tarn_ufs_opts *opts, struct tarn_conf **ret)
{
    struct tarn_conf_bind bind = {&tarn_ufs_opts_table, opts, TARN_CONF_FROM_FILE};
    struct tarn_conf_input in = {.file = c->common.config[0] ? c->common.config : NULL,
                                 .others = cli_all_tables};

    return tarn_conf_load(&bind, 1, &in, ret, &c->err);
}

/* A printed configuration as JSON. New reference. */
static json_t *config_document(const struct tarn_conf *conf)
{
    struct tarn_str text = {0};
    json_t *doc;

    tarn_conf_print_json(conf, &text);
    doc = json_loads(tarn_str_z(&text), 0, NULL);
    TARN_ASSERT(doc != NULL); /* we have just written it */
    tarn_str_fini(&text);
    return doc;
}

/* Those of the store's options that the file gives, as an array. New reference. */
static json_t *config_given(const struct tarn_conf *store)
{
    json_t *doc = config_document(store), *given = json_array(), *row;
    size_t i;

    json_array_foreach(json_object_get(doc, "parameters"), i, row)
    {
        if (tarn_starts_with(json_string_value(json_object_get(row, "source")), "file "))
            (void)json_array_append(given, row);
    }
    json_decref(doc);
    return given;
}

static void config_text(const struct tarn_conf *conf, const json_t *given)
{
    struct tarn_str out = {0};
    json_t *row;
    size_t i;

    tarn_conf_print_text(conf, &out);
    if (json_array_size(given))
        tarn_str_addf(&out, "\n# %s\n", tarn_ufs_opts_table.title);
    json_array_foreach(given, i, row)
    {
        TARN_AUTO_FREE char *value = json_dumps(json_object_get(row, "value"), JSON_ENCODE_ANY);

        tarn_str_addf(&out, "%s: %s  # %s\n", json_string_value(json_object_get(row, "key")), value,
                      json_string_value(json_object_get(row, "source")));
    }
    (void)fputs(tarn_str_z(&out), stdout); /* main() checks the stream at the end */
    tarn_str_fini(&out);
}

/* The options of a store are of those who open one by themselves: a mount is told them. */
static int config_show(struct cli *c, bool with_store)
{
    struct tarn_ufs_opts opts;
    struct tarn_conf *store = NULL;
    json_t *given = NULL, *doc;
    int rc = with_store ? config_store(c, &opts, &store) : 0;

    if (rc == 0) {
        given = with_store ? config_given(store) : json_array();
        if (c->common.json) {
            doc = config_document(c->conf);
            (void)json_array_extend(json_object_get(doc, "parameters"), given);
            cli_json(doc);
        } else {
            config_text(c->conf, given);
        }
        json_decref(given);
    }
    tarn_conf_free(&store);
    return rc;
}

static int config_run(struct cli *c);

/* The tables of a role, in the order in which they are shown. */
static const struct tarn_conf_table *const local_tables[] = {
    &cli_common_table, &cli_remote_table, &cli_local_table,
    &cli_server_table, &cli_listen_table, &cli_cache_table,
    &cli_fuse_table,   &cli_store_table,  NULL};
static const struct tarn_conf_table *const master_tables[] = {&cli_common_table, &cli_remote_table,
                                                              &cli_master_table, &cli_server_table,
                                                              &cli_listen_table, NULL};
static const struct tarn_conf_table *const worker_tables[] = {&cli_common_table,
                                                              &cli_remote_table,
                                                              &cli_worker_table,
                                                              &cli_server_table,
                                                              &cli_listen_table,
                                                              &cli_cache_table,
                                                              NULL};
static const struct tarn_conf_table *const mount_tables[] = {&cli_common_table, &cli_remote_table,
                                                             &cli_mount_table,  &cli_server_table,
                                                             &cli_fuse_table,   NULL};

static const char config_about[] =
    "A flag is stronger than the environment (TARN_KEY), that than the file of --config, that\n"
    "than the default. The flags are those of the command that is named, of `tarn local` where\n"
    "none is (`tarn help COMMAND` lists them), and of commands that talk to a server: what stands\n"
    "here is what they would see. Secrets are shown as \"(set)\".\n\n"
    "  tarn config worker --config /etc/tarn.yaml";

#define CONFIG_SPEC(of)                                                                            \
    {                                                                                              \
        .command = "tarn config", .args = "[local|master|worker|mount]",                           \
        .summary = "Show the effective configuration and where each value comes from.",            \
        .text = config_about, .tables = of, .max_args = 1                                          \
    }
static const struct tarn_flags_spec local_spec = CONFIG_SPEC(local_tables),
                                    master_spec = CONFIG_SPEC(master_tables),
                                    worker_spec = CONFIG_SPEC(worker_tables),
                                    mount_spec = CONFIG_SPEC(mount_tables);

static const struct config_role {
    const char *name;
    struct cli_command cmd;
} config_roles[] = {
    {"local", {"config", .spec = &local_spec, .run = config_run, .own = &cli_local_table}},
    {"master", {"config", .spec = &master_spec, .run = config_run, .own = &cli_master_table}},
    {"worker", {"config", .spec = &worker_spec, .run = config_run, .own = &cli_worker_table}},
    {"mount", {"config", .spec = &mount_spec, .run = config_run, .own = &cli_mount_table}}};

/* Whether the line, read with the flags of a role, names it. */
static bool config_names(const struct config_role *role, int argc, char **argv)
{
    struct tarn_flags *flags = tarn_flags_new();
    struct tarn_errbuf err = {0};
    const char *const *args;
    size_t n = 0;
    int used = 0;
    bool named = false;

    if (tarn_flags_parse(flags, role->cmd.spec, argc, argv, &used, &err) == 0) {
        args = tarn_flags_args(flags, &n);
        named = n == 1 && strcmp(args[0], role->name) == 0;
    }
    tarn_flags_free(&flags);
    return named;
}

static const struct cli_command *config_as(int argc, char **argv)
{
    for (size_t i = 0; i < TARN_ARRAY_LEN(config_roles); i++)
        if ((argc > 0 && strcmp(argv[0], config_roles[i].name) == 0) ||
            config_names(&config_roles[i], argc, argv))
            return &config_roles[i].cmd;
    return &config_roles[0].cmd;
}

static int config_run(struct cli *c)
{
    const struct config_role *role = config_roles;

    while (&role->cmd != c->cmd) /* as config_as() has found it */
        role++;
    if (c->n_args && strcmp(c->args[0], role->name) != 0)
        return tarn_err_set(&c->err, -TARN_E_USAGE,
                            "\"%s\": must be local, master, worker or mount", c->args[0]);
    return config_show(c, role == &config_roles[0]);
}

const struct cli_command cmd_config_command = {.name = "config",
                                               .spec = &local_spec,
                                               .run = config_run,
                                               .own = &cli_local_table,
                                               .as = config_as};
