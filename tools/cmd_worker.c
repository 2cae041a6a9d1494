/* SPDX-License-Identifier: Apache-2.0 */
/* tarn worker: keeps bytes of a cluster. Without a word it serves; its words are about workers. */
#include <string.h>

#include "lib/base/mem.h"
#include "lib/conf/suggest.h"
#include "tools/worker_server.h"

#define TARN_CONF_STRUCT struct cli_worker
static const struct tarn_conf_param worker_rows[] = {
#define TARN_PARAM TARN_CONF_ROW
#include "tools/worker_params.def"
#undef TARN_PARAM
};
const struct tarn_conf_table cli_worker_table =
    TARN_CONF_TABLE("worker", "A worker (tarn worker)", worker_rows);

static const char *const drain_flags[] = {"undo", "wait", "force", NULL};
static const char *const remove_flags[] = {"force", NULL};
static const struct worker_word {
    const char *name;
    const char *const *flags;  /* that it takes beside those of every command; NULL: none */
    int (*all)(struct cli *c); /* of all workers */
    int (*one)(struct cli *c, const char *id);
} worker_words[] = {{"ls", NULL, worker_ls, NULL},
                    {"drain", drain_flags, NULL, worker_drain},
                    {"remove", remove_flags, NULL, worker_remove}};

/* A server takes none of the words' own flags. */
static int worker_start(struct cli *c)
{
    for (size_t i = 0; drain_flags[i]; i++)
        if (cli_given(c, drain_flags[i]))
            return tarn_err_set(&c->err, -TARN_E_USAGE, "--%s: is for `tarn worker drain%s`",
                                drain_flags[i],
                                strcmp(drain_flags[i], "force") == 0 ? "` and `remove" : "");
    return worker_serve(c);
}

static int worker_run(struct cli *c)
{
    const char *word = c->n_args ? c->args[0] : "";
    struct tarn_suggest near = {.word = word};
    int rc;

    if (c->n_args == 0)
        return worker_start(c);
    for (size_t i = 0; i < TARN_ARRAY_LEN(worker_words); i++) {
        const struct worker_word *w = &worker_words[i];

        tarn_suggest_offer(&near, w->name);
        if (strcmp(w->name, word) != 0)
            continue;
        if (c->n_args != (w->one ? 2u : 1u))
            return tarn_err_set(&c->err, -TARN_E_USAGE, "%s: %s", word,
                                w->one ? "ID is missing; `tarn worker ls` shows them"
                                       : "takes no ID");
        rc = cli_only_flags(c, word, w->flags);
        if (rc < 0)
            return rc;
        return w->one ? w->one(c, c->args[1]) : w->all(c);
    }
    return tarn_err_set(&c->err, -TARN_E_USAGE,
                        "\"%s\": a server takes no word; else it is ls, drain or remove%s%s%s",
                        word, near.best[0] ? "; did you mean " : "", near.best,
                        near.best[0] ? "?" : "");
}

static const struct tarn_conf_table *const worker_tables[] = {&cli_worker_table,
                                                              &cli_cache_table,
                                                              &cli_server_table,
                                                              &cli_listen_table,
                                                              &cli_remote_table,
                                                              &cli_common_table,
                                                              NULL};
static const struct tarn_flags_short worker_shorts[] = {{'d', "daemon"}};
static const struct tarn_flags_spec worker_spec = {
    .command = "tarn worker",
    .args = "[ls | drain ID | remove ID]",
    .summary = "Keep bytes for a cluster; or list, drain or remove who does.",
    .text =
        "A worker is known by the directory of its tier: with it, what it owns moves to another\n"
        "process or host. `drain` has it hand over what it has (--undo: no more) to workers that\n"
        "have room, `remove` takes it out of the cluster.\n\n"
        "  tarn worker --master 127.0.0.1:7100 --tier SSD:/data/tarn:500GiB -d",
    .tables = worker_tables,
    .shorts = worker_shorts,
    .n_shorts = TARN_ARRAY_LEN(worker_shorts),
    .max_args = 2};
const struct cli_command cmd_worker_command = {.name = "worker",
                                               .spec = &worker_spec,
                                               .run = worker_run,
                                               .own = &cli_worker_table,
                                               .server = true,
                                               .words = true};
