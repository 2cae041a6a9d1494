/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tarn master: the names of a cluster. Without a word it serves; `master ls` asks a running one.
 *
 * Its directory has LOCK, FORMAT, meta/ (the store of names) and token: workers and mounts of the
 * cluster outlive a restart of the master, so its token does too. docs/formats/master-dir.md.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/conf/suggest.h"
#include "tools/cli.h"
#include "tools/dir.h"
#include "tools/metrics.h"
#include "tools/roles.h"
#include "tools/serve.h"

#define MASTER_PORT         7100u
#define MASTER_HTTP_PORT    7101u
#define MASTER_WRITE_BUFFER (8ull << 20)

struct cli_master {
#define TARN_PARAM TARN_CONF_FIELD
#include "tools/master_params.def"
#undef TARN_PARAM
};
#define TARN_CONF_STRUCT struct cli_master
static const struct tarn_conf_param master_rows[] = {
#define TARN_PARAM TARN_CONF_ROW
#include "tools/master_params.def"
#undef TARN_PARAM
};
const struct tarn_conf_table cli_master_table =
    TARN_CONF_TABLE("master", "A master (tarn master)", master_rows);

struct master {
    struct serve serve;         /* its life */
    const struct cli_master *p; /* its flags */
    struct dir dir;             /* held */
    struct role_master master;
    struct serve_rpc rpc;
    struct metrics_stores stores;
    struct metrics *metrics;
};

/* ---- life ------------------------------------------------------------------------------------ */

static int master_hold(void *arg)
{
    struct master *m = arg;
    int rc = dir_open(&dir_master, m->p->dir, &m->dir, m->serve.err);

    if (rc == 0)
        tarn_str_addf(&m->serve.log_path, "%s/tarn.log", m->dir.path);
    return rc;
}

static void master_let_go(void *arg)
{
    dir_close(&((struct master *)arg)->dir);
}

/* The file that was named, or one in the directory: made once. */
static int master_token(struct master *m)
{
    const char *given = m->serve.cli->remote.token_file;
    TARN_AUTO_FREE char *own = tarn_xasprintf("%s/token", m->dir.path);
    int rc = cli_token_keep(given[0] ? given : own, &m->rpc.token, m->serve.err);

    return rc < 0 && given[0] ? tarn_err_wrap(m->serve.err, rc, "--token-file") : rc;
}

static int master_open_names(void *arg)
{
    struct master *m = arg;
    struct tarn_master_args args = {.cluster = true,
                                    .worker_lost_ns = m->p->worker_lost,
                                    .lease_ns = m->p->lease,
                                    .move_rate = m->p->move_rate};
    int rc = master_token(m);

    if (rc < 0)
        return rc;
    args.token = m->rpc.token.p;
    args.token_len = m->rpc.token.len;
    rc = role_master_open(&m->serve, &m->master, m->dir.path, MASTER_WRITE_BUFFER, &args);
    if (rc == -TARN_E_KV_CORRUPT)
        return tarn_err_wrap(m->serve.err, rc,
                             "%s: damaged; move it away, and a new cluster begins: its stores are "
                             "to be attached again, and its workers started with --replace",
                             m->dir.path);
    return rc;
}

static int master_open_server(void *arg)
{
    struct master *m = arg;
    struct serve_rpc_args args = {.cluster_id = tarn_master_cluster_id(m->master.master),
                                  .port = MASTER_PORT,
                                  .skip = MASTER_HTTP_PORT,
                                  .ctx = &m->master,
                                  .on_gone = role_master_gone};
    int rc = serve_rpc_open(&m->serve, &args, &m->rpc);

    if (rc == 0 && !m->serve.cli->remote.token_file[0])
        rc =
            cli_token_place(cli_port(m->rpc.addr), &m->rpc.token, &m->rpc.token_path, m->serve.err);
    if (rc < 0)
        return rc;
    tarn_master_open_attachments(m->master.master);
    tarn_master_serve(m->master.master, m->rpc.server);
    serve_rpc_admit(&m->rpc);
    return 0;
}

static int master_open_metrics(void *arg)
{
    struct master *m = arg;
    struct metrics_args args = {
        .serve = &m->serve,
        .port = MASTER_HTTP_PORT,
        .parts = {metrics_of_stores(&m->stores), metrics_of_master(&m->master)}};

    m->stores.master = &m->master;
    return metrics_start(&args, &m->metrics);
}

static void master_stop(void *arg)
{
    struct master *m = arg;

    metrics_stop(&m->metrics);
    metrics_stores_fini(&m->stores);
    role_master_stop(&m->serve, &m->master);
    serve_rpc_stop(&m->serve, &m->rpc);
    role_master_close(&m->master);
}

/* What commands on this host need beside their defaults. */
static void master_say_commands(const struct master *m, struct tarn_str *ret)
{
    const char *token = m->serve.cli->remote.token_file, *addr = m->rpc.addr;
    unsigned port = cli_port(addr);

    if (port == MASTER_PORT && !token[0])
        return;
    tarn_str_adds(ret, "; commands:");
    if (port != MASTER_PORT &&
        (tarn_starts_with(addr, "0.0.0.0:") || tarn_starts_with(addr, "[::]:")))
        tarn_str_addf(ret, " TARN_MASTER=127.0.0.1:%u", port);
    else if (port != MASTER_PORT)
        tarn_str_addf(ret, " TARN_MASTER=%s", addr);
    if (token[0])
        tarn_str_addf(ret, " TARN_TOKEN_FILE=%s", token);
    tarn_str_adds(ret, " tarn ...");
}

static void master_ready(void *arg, struct tarn_str *ret)
{
    const struct master *m = arg;
    const char *http = metrics_addr(m->metrics), *id = tarn_master_cluster_id(m->master.master);

    tarn_info("master", "ready: cluster=%s addr=%s http=%s dir=%s", id, m->rpc.addr, http,
              m->dir.path);
    tarn_str_addf(ret, "tarn master: cluster %s at %s (", id, m->rpc.addr);
    if (strcmp(http, "none") != 0)
        tarn_str_addf(ret, "metrics http://%s/metrics, ", http);
    tarn_str_addf(ret, "directory %s)", m->dir.path);
    master_say_commands(m, ret);
}

static serve_step_fn *const master_steps[] = {master_open_names, master_open_server,
                                              master_open_metrics, NULL};
static const struct serve_role master_role = {.name = "master",
                                              .hold = master_hold,
                                              .steps = master_steps,
                                              .ready = master_ready,
                                              .stop = master_stop,
                                              .let_go = master_let_go};

/* ---- the server -------------------------------------------------------------------------------
 */

/* --init: the directory and the cluster's id in it, and no more. */
static int master_init(struct master *m)
{
    int rc = tarn_loop_new(&m->serve.loop);

    if (rc == 0)
        rc = master_hold(m);
    if (rc == 0)
        rc = master_open_names(m);
    if (rc == 0 && m->serve.cli->common.json)
        cli_json(json_pack("{s:s}", "cluster_id", tarn_master_cluster_id(m->master.master)));
    else if (rc == 0)
        (void)puts(tarn_master_cluster_id(m->master.master)); /* main() checks the stream */
    master_stop(m);
    master_let_go(m);
    if (m->serve.loop)
        tarn_loop_free(&m->serve.loop);
    tarn_str_fini(&m->serve.log_path);
    return rc;
}

static int master_serve(struct cli *c)
{
    struct master *m;
    int rc = serve_check_addrs(c, c->remote.token_file[0] != 0);

    if (rc == 0)
        rc = cli_refuse(c, "peers", "groups of masters are not offered yet");
    if (rc == 0)
        rc = cli_refuse(c, "advertise", "groups of masters are not offered yet");
    if (rc < 0)
        return rc;
    m = tarn_xnew(struct master);
    m->p = c->own;
    m->serve.cli = c;
    m->serve.err = &c->err;
    m->serve.role = &master_role;
    m->serve.ctx = m;
    if (!m->p->dir[0])
        rc = tarn_err_set(&c->err, -TARN_E_USAGE, "--dir is needed: the directory of the master");
    else if (m->p->init && c->server.daemon)
        rc = tarn_err_set(&c->err, -TARN_E_USAGE, "--init serves nothing: it takes no --daemon");
    else if (strncmp(tarn_conf_source(c->conf, "master"), "flag", 4) == 0)
        rc = tarn_err_set(&c->err, -TARN_E_USAGE, "--master: is for `tarn master ls`");
    else
        rc = m->p->init ? master_init(m) : serve_run(&m->serve);
    free(m);
    return rc;
}

/* ---- master ls --------------------------------------------------------------------------------
 */

static int master_ls(struct cli *c)
{
    Tarn__Wire__StatusResponse *st;
    json_t *list = json_array();
    const char *at;
    int rc = cli_connect(c);

    if (rc == 0)
        rc = cli_status(c, &st);
    if (rc < 0) {
        json_decref(list);
        return rc;
    }
    at = tarn_rpc_client_addr(tarn_client_rpc(c->client));
    for (size_t i = 0; i < st->n_masters; i++) {
        const Tarn__Wire__MasterStatus *m = st->masters[i];
        const char *addr = m->addr[0] ? m->addr : at;

        if (c->common.json)
            (void)json_array_append_new(list,
                                        json_pack("{s:o, s:o, s:b}", "addr", cli_json_text(addr),
                                                  "role", cli_json_text(m->role), "healthy",
                                                  m->healthy)); /* out of memory only */
        else
            (void)printf("%-24s %-9s %s\n", addr, m->role, m->healthy ? "healthy" : "not healthy");
    }
    if (c->common.json)
        cli_json(list);
    else
        json_decref(list);
    tarn__wire__status_response__free_unpacked(st, NULL);
    return 0;
}

static int master_run(struct cli *c)
{
    const char *word = c->n_args ? c->args[0] : "";

    if (!word[0])
        return master_serve(c);
    if (strcmp(word, "ls") == 0) {
        int rc = cli_only_flags(c, word, NULL);

        return rc < 0 ? rc : master_ls(c);
    }
    if (strcmp(word, "add") == 0 || strcmp(word, "remove") == 0)
        return tarn_err_set(&c->err, -TARN_E_USAGE, "%s: groups of masters are not offered yet",
                            word);
    return tarn_err_set(&c->err, -TARN_E_USAGE,
                        "\"%s\": a server takes no word; the only one is ls", word);
}

static const struct tarn_conf_table *const master_tables[] = {&cli_master_table, &cli_server_table,
                                                              &cli_listen_table, &cli_remote_table,
                                                              &cli_common_table, NULL};
static const struct tarn_flags_short master_shorts[] = {{'d', "daemon"}};
static const struct tarn_flags_spec master_spec = {
    .command = "tarn master",
    .args = "[ls]",
    .summary = "Serve the names of a cluster; `master ls` shows who does.",
    .text = "The directory keeps the cluster: its id, what is attached, its names, its token. A\n"
            "missing or empty one is made. The token is the file of --token-file, else a file of\n"
            "the directory, which this user's commands, workers and mounts on this host find by\n"
            "the port.\n\n"
            "  tarn master --dir /var/lib/tarn -d",
    .tables = master_tables,
    .shorts = master_shorts,
    .n_shorts = TARN_ARRAY_LEN(master_shorts),
    .max_args = 1};
const struct cli_command cmd_master_command = {.name = "master",
                                               .spec = &master_spec,
                                               .run = master_run,
                                               .own = &cli_master_table,
                                               .server = true,
                                               .words = true};
