/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tarn mount: a cluster's name space, or a part of it, as a file system of this host. Bytes come
 * from the workers; a worker inside this process, which keeps nothing, reads stores that allow it
 * when no other can be reached. serve.c has its life.
 */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/env.h"
#include "lib/base/hash.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/base/name.h"
#include "lib/base/units.h"
#include "tools/cli.h"
#include "tools/metrics.h"
#include "tools/roles.h"
#include "tools/serve.h"
#include "worker/stores.h"

#define MOUNT_HTTP_PORT 7120u
#define RETRY_NS        (200 * TARN_NS_PER_MS) /* until a master is looked for again */

struct cli_mount {
#define TARN_PARAM TARN_CONF_FIELD
#include "tools/mount_params.def"
#undef TARN_PARAM
};
#define TARN_CONF_STRUCT struct cli_mount
static const struct tarn_conf_param mount_rows[] = {
#define TARN_PARAM TARN_CONF_ROW
#include "tools/mount_params.def"
#undef TARN_PARAM
};
const struct tarn_conf_table cli_mount_table =
    TARN_CONF_TABLE("mount", "A mount of a cluster (tarn mount)", mount_rows);

struct mount {
    struct serve serve;               /* its life */
    const struct cli_mount *p;        /* its flags */
    char mountpoint[PATH_MAX];        /* canonical, or /dev/fd/N */
    char path[TARN_PATH_MAX];         /* of the name space, in normal form */
    char source[TARN_PATH_MAX + 300]; /* shown as the device */
    bool allow_other;
    struct tarn_stores *stores; /* that may be read from here */
    struct role_worker direct;  /* reads them; keeps nothing */
    struct role_mount mount;
    struct metrics_stores store_figures;
    struct metrics *metrics;
};

/* ---- parts ------------------------------------------------------------------------------------
 */

static int mount_open_direct(void *arg)
{
    struct mount *m = arg;
    struct tarn_worker_args args = {.cluster_id = "", .ufs_of = tarn_stores_of};

    args.ctx = m->stores = tarn_stores_new(m->serve.loop, m->serve.disk);
    return role_worker_open(&m->serve, &m->direct, &args);
}

static int mount_try(struct mount *m, uint64_t timeout_ns)
{
    struct cli *c = m->serve.cli;
    struct tarn_str token = {0};
    struct tarn_local_ops direct;
    struct tarn_client_args args = {.addrs = c->remote.master,
                                    .mountpoint = m->mountpoint,
                                    .direct = &direct,
                                    .host = m->p->host,
                                    .on_partition = (enum tarn_on_partition)m->p->on_partition};
    int rc = cli_token(c, &token);

    if (rc < 0)
        return rc;
    args.token = token.len ? token.p : NULL;
    args.token_len = token.len;
    tarn_worker_local_ops(m->direct.worker, &direct);
    m->mount.stores = m->stores;
    rc = role_mount_connect(&m->serve, &m->mount, &args, timeout_ns);
    if (token.p)
        tarn_wipe(token.p, token.cap);
    tarn_str_fini(&token);
    return rc < 0 ? cli_connect_error(c, rc) : 0;
}

/* Nobody answered there: a master may be about to start. */
static bool mount_absent(int rc)
{
    return tarn_err_exit(rc) == TARN_EXIT_UNREACH ||
           rc > -TARN_E_NO_MEMORY; /* the errno class: of connect(2) */
}

/* Waits for a master, too, for --timeout in all. */
static int mount_connect(void *arg)
{
    struct mount *m = arg;
    struct serve *s = &m->serve;
    const struct cli_remote *remote = &s->cli->remote;
    uint64_t now = tarn_loop_now_ns(s->loop), until = now + remote->timeout;
    char limit[32];
    int rc;

    while ((rc = mount_try(m, until - now)) < 0) {
        now = tarn_loop_now_ns(s->loop);
        if (!mount_absent(rc) || atomic_load(&s->stop_wanted))
            return rc;
        if (now + RETRY_NS >= until)
            return tarn_err_set(s->err, -TARN_E_ABSENT_DAEMON, "%s: no master within %s: %s",
                                remote->master, tarn_format_duration(remote->timeout, limit),
                                tarn_strerror(rc));
        tarn_warn_limited("mount", "waiting for a master: addr=%s: %s", remote->master,
                          tarn_strerror(rc));
        role_mount_stop(&m->mount);
        serve_sleep(s, RETRY_NS);
        if (atomic_load(&s->stop_wanted))
            return -TARN_E_CANCELLED;
        now = TARN_MIN(tarn_loop_now_ns(s->loop), until - 1);
        s->err->text[0] = 0;
    }
    return 0;
}

/* The directory of --path, which is the root of what is mounted. */
static int mount_root(struct mount *m, tarn_ino_t *ret)
{
    struct tarn_client_op op = {
        .kind = TARN_CLIENT_RESOLVE, .name = m->path, .name_len = strlen(m->path)};
    int rc = tarn_client_sync(m->mount.client, &op);

    if (rc < 0)
        return tarn_err_set(m->serve.err, rc, "--path %s: %s", m->path, tarn_strerror(rc));
    if (op.attr.type != TARN_TYPE_DIR)
        return tarn_err_set(m->serve.err, -TARN_E_NOT_DIR, "--path %s: not a directory", m->path);
    *ret = op.attr.ino;
    return 0;
}

static int mount_open(void *arg)
{
    struct mount *m = arg;
    struct tarn_fuse_args args = {
        .mountpoint = m->mountpoint, .source = m->source, .allow_other = m->allow_other};
    int rc = 0;

    (void)snprintf(m->source, sizeof(m->source), "tarn://%s%s", m->serve.cli->remote.master,
                   m->path); /* cut is fine: it is shown */
    if (strcmp(m->path, "/") != 0)
        rc = mount_root(m, &args.root);
    return rc < 0 ? rc : role_mount_open(&m->mount, &args);
}

static int mount_open_metrics(void *arg)
{
    struct mount *m = arg;
    struct metrics_args args = {
        .serve = &m->serve,
        .port = MOUNT_HTTP_PORT,
        .parts = {metrics_of_stores(&m->store_figures), metrics_of_mount(&m->mount)},
        .own = tarn_fuse_stats(m->mount.fuse)};

    m->store_figures.stores = m->stores;
    return metrics_start(&args, &m->metrics);
}

static void mount_stop(void *arg)
{
    struct mount *m = arg;
    struct serve_step stores = {.serve = &m->serve};

    metrics_stop(&m->metrics);
    metrics_stores_fini(&m->store_figures);
    role_mount_stop(&m->mount);
    role_worker_stop(&m->serve, &m->direct);
    if (m->stores) {
        tarn_stores_stop(m->stores, serve_done, &stores);
        (void)serve_wait(&stores);
    }
    role_worker_close(&m->direct);
    tarn_stores_free(&m->stores);
}

/* ---- life ------------------------------------------------------------------------------------ */

static int mount_hold(void *arg)
{
    struct mount *m = arg;

    serve_log_path(&m->serve, m->mountpoint);
    return 0;
}

static void mount_ready(void *arg, struct tarn_str *ret)
{
    const struct mount *m = arg;
    const char *http = metrics_addr(m->metrics);

    tarn_info("mount", "ready: path=%s mountpoint=%s master=%s http=%s", m->path, m->mountpoint,
              m->serve.cli->remote.master, http);
    tarn_str_addf(ret, "tarn mount: %s is at %s", m->source, m->mountpoint);
    if (strcmp(http, "none") != 0)
        tarn_str_addf(ret, " (metrics http://%s/metrics)", http);
}

static serve_step_fn *const mount_steps[] = {mount_open_direct, mount_connect, mount_open,
                                             mount_open_metrics, NULL};
static const struct serve_role mount_role = {.name = "mount",
                                             .hold = mount_hold,
                                             .steps = mount_steps,
                                             .ready = mount_ready,
                                             .stop = mount_stop};

/* ---- checks ------------------------------------------------------------------------------------
 */

/* -o, as mount(8) hands it to helpers. */
static int check_options(struct mount *m)
{
    static const char *const ignored[] = {"ro",         "_netdev",
                                          "noauto",     "auto",
                                          "user",       "nouser",
                                          "users",      "nosuid",
                                          "nodev",      "noatime",
                                          "nofail",     "defaults",
                                          "exec",       "default_permissions",
                                          "async",      "relatime",
                                          "norelatime", "lazytime",
                                          "nodiratime", "nolazytime"};

    for (size_t i = 0; i < m->p->mount_option.n; i++) {
        TARN_AUTO_FREE char *text = tarn_xstrdup(m->p->mount_option.v[i]);
        char *rest = text, *word;

        while ((word = strsep(&rest, ",")) != NULL) {
            bool known = strcmp(word, "allow_other") == 0 || !word[0];

            m->allow_other |= strcmp(word, "allow_other") == 0;
            for (size_t k = 0; k < TARN_ARRAY_LEN(ignored) && !known; k++)
                known = strcmp(word, ignored[k]) == 0;
            if (!known)
                return tarn_err_set(m->serve.err, -TARN_E_CONFIG,
                                    "-o %s: must be allow_other or ro (a mount takes no changes "
                                    "yet), or one of mount(8) that changes nothing here",
                                    word);
        }
    }
    return 0;
}

static int mount_check(struct mount *m)
{
    struct cli *c = m->serve.cli;
    char real[PATH_MAX];
    int rc = serve_check_addrs(c, true); /* it has no control port */

    if (rc == 0)
        rc = cli_refuse(c, "strict", "not offered yet");
    if (rc == 0 && !c->fuse.read_only)
        rc = tarn_err_set(&c->err, -TARN_E_CONFIG,
                          "--no-read-only: there is no mount that takes changes yet");
    if (rc == 0)
        rc = check_options(m);
    if (rc == 0 && tarn_path_normalize(m->p->path, m->path) < 0)
        rc =
            tarn_err_set(&c->err, -TARN_E_USAGE,
                         "--path %s: must be a path of the name space, without \"..\"", m->p->path);
    if (rc == 0 && strlen(c->args[0]) >= sizeof(m->mountpoint))
        rc = tarn_err_set(&c->err, -TARN_E_USAGE, "the mountpoint is too long");
    if (rc < 0)
        return rc;
    memcpy(m->mountpoint, c->args[0], strlen(c->args[0]) + 1);
    rc = tarn_fuse_mountpoint_prepare(m->mountpoint, &c->err);
    if (rc == 0 && !tarn_starts_with(m->mountpoint, "/dev/fd/") && realpath(m->mountpoint, real))
        memcpy(m->mountpoint, real, strlen(real) + 1);
    return rc;
}

static int mount_run(struct cli *c)
{
    struct mount *m = tarn_xnew(struct mount);
    int rc;

    m->serve.cli = c;
    m->serve.err = &c->err;
    m->serve.role = &mount_role;
    m->serve.ctx = m;
    m->p = c->own;
    rc = mount_check(m);
    if (rc == 0)
        rc = serve_run(&m->serve);
    free(m);
    return rc;
}

static const struct tarn_conf_table *const mount_tables[] = {&cli_mount_table,  &cli_fuse_table,
                                                             &cli_server_table, &cli_remote_table,
                                                             &cli_common_table, NULL};
static const struct tarn_flags_short mount_shorts[] = {{'d', "daemon"}, {'o', "mount-option"}};
static const struct tarn_flags_spec mount_spec = {
    .command = "tarn mount",
    .args = "MOUNTPOINT",
    .summary = "Mount the name space of a cluster, or a directory of it.",
    .text =
        "MOUNTPOINT is a directory, whose own files are not seen meanwhile; a dead mount there is\n"
        "replaced. No cache directory is needed: bytes are kept by the cluster's workers, one of\n"
        "which may be on this host. A start waits for a master for --timeout. Later, without one\n"
        "for longer than its --lease, names fail (--on-partition) until it answers again.\n"
        "\n  tarn mount /mnt/data --master 10.0.0.1:7100 --token-file /etc/tarn/token -d",
    .tables = mount_tables,
    .shorts = mount_shorts,
    .n_shorts = TARN_ARRAY_LEN(mount_shorts),
    .min_args = 1,
    .max_args = 1};
const struct cli_command cmd_mount_command = {.name = "mount",
                                              .spec = &mount_spec,
                                              .run = mount_run,
                                              .own = &cli_mount_table,
                                              .server = true};
