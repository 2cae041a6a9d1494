/* SPDX-License-Identifier: Apache-2.0 */
/*
 * config: the parameters of `tarn local` and of commands that talk to a server, as a start with the
 * same flags, environment and file would see them, each with where it comes from.
 */
#include <stdio.h>
#include <stdlib.h>
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

static int config_run(struct cli *c)
{
    struct tarn_ufs_opts opts;
    struct tarn_conf *store = NULL;
    json_t *given, *doc;
    int rc = config_store(c, &opts, &store);

    if (rc == 0) {
        given = config_given(store);
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

static const struct tarn_conf_table *const config_tables[] = {
    &cli_common_table, &cli_remote_table, &cli_local_table,
    &cli_server_table, &cli_listen_table, &cli_cache_table,
    &cli_fuse_table,   &cli_store_table,  NULL};
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
    .name = "config", .spec = &config_spec, .run = config_run, .own = &cli_local_table};
