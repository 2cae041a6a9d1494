/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tarn local: one machine. With -d the process forks before it has threads, and the parent returns
 * when the child says that the mountpoint answers.
 *
 * From the moment that something is made, signals are events: SIGTERM and SIGINT end it, also
 * during the start, in order and with exit code 0. A start that is waited for (-d) tells its parent
 * that it was stopped.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/base/units.h"
#include "store/tier/tier.h"
#include "tools/local.h"
#include "tools/local_http.h"
#include "tools/signals.h"

#define MASTER_DEFAULT "127.0.0.1:7100" /* where commands look: remote_params.def */

const int local_signals[] = {SIGTERM, SIGINT, SIGHUP, 0};

#define TARN_CONF_STRUCT struct cli_local
static const struct tarn_conf_param local_rows[] = {
#define TARN_PARAM TARN_CONF_ROW
#include "tools/daemon_params.def"
#include "tools/local_params.def"
#undef TARN_PARAM
};

static int local_params_check(const void *params, struct tarn_errbuf *e)
{
    const struct cli_local *p = params;

    if (p->evict_low <= p->evict_high)
        return 0;
    return tarn_err_set(e, -TARN_E_CONFIG,
                        "evict-low (%.2f%%) is above evict-high (%.2f%%): give both",
                        p->evict_low / 100.0, p->evict_high / 100.0);
}

const struct tarn_conf_table cli_local_table = {.name = "local",
                                                .title = "One machine (tarn local)",
                                                .params = local_rows,
                                                .n = TARN_ARRAY_LEN(local_rows),
                                                .size = sizeof(struct cli_local),
                                                .check = local_params_check};

/* ---- life ------------------------------------------------------------------------------------ */

static void local_raise_fds(void)
{
    struct rlimit r;

    if (getrlimit(RLIMIT_NOFILE, &r) == 0 && r.rlim_cur < r.rlim_max) {
        r.rlim_cur = TARN_MIN(r.rlim_max, (rlim_t)1048576);
        (void)setrlimit(RLIMIT_NOFILE, &r); /* fewer cached descriptors then */
    }
}

static int local_open_log(struct local *l)
{
    TARN_AUTO_FREE char *own = NULL;
    const char *path = l->p->log_file[0] ? l->p->log_file : NULL;
    int rc;

    if (!path && l->p->daemon)
        path = own = tarn_xasprintf("%s/tarn.log", l->dir.path);
    if (!path)
        return 0;
    rc = tarn_log_open(path, (enum tarn_log_level)l->cli->common.log_level,
                       (enum tarn_log_format)l->cli->common.log_format);
    return rc < 0 ? tarn_err_set(l->err, daemon_path_code(-rc), "--log-file %s: %s", path,
                                 tarn_strerror(rc))
                  : 0;
}

static void local_ready_text(const struct local *l, struct tarn_str *ret)
{
    const char *http = local_http_addr(l->http);
    struct tarn_tier_info info;
    char size[32];

    tarn_tier_info(l->tier, &info);
    tarn_info("local", "ready: uri=%s mountpoint=%s master=%s http=%s cache=%s size=%s", l->uri,
              l->mountpoint, l->listen_addr, http, l->dir.path,
              tarn_format_size(info.capacity_bytes, size));
    tarn_str_addf(ret, "tarn local: %s is at %s (control %s, ", l->uri, l->mountpoint,
                  l->listen_addr);
    if (strcmp(http, "none") != 0)
        tarn_str_addf(ret, "metrics http://%s/metrics, ", http);
    tarn_str_addf(ret, "cache %s in %s)", size, l->dir.path);
    if (strcmp(l->listen_addr, MASTER_DEFAULT) != 0) /* commands would go elsewhere */
        tarn_str_addf(ret, "; commands: TARN_MASTER=%s tarn ...", l->listen_addr);
}

static void local_say(const struct local *l, const char *text)
{
    if (l->cli->common.quiet)
        return;
    cli_put_name(stderr, text, strlen(text)); /* there is nowhere else to say it */
    (void)fputc('\n', stderr);
}

/* From its start to its end. */
static int local_serve(struct local *l)
{
    struct tarn_str ready = {0};
    bool in_front = l->daemon.fd < 0;
    int rc = local_parts_start(l);

    if (rc == 0) {
        local_ready_text(l, &ready);
        if (in_front)
            local_say(l, tarn_str_z(&ready));
        if (!daemon_tell(&l->daemon, 0, tarn_str_z(&ready)))
            rc = tarn_err_set(l->err, -TARN_E_CANCELLED, "whoever started it went away");
    }
    while (rc == 0 && !atomic_load(&l->stop_wanted))
        tarn_loop_run(l->loop);
    if (rc == 0 || rc == -TARN_E_CANCELLED)
        tarn_info("local", "stopping: %s",
                  rc < 0                   ? l->err->text
                  : atomic_load(&l->ended) ? "unmounted"
                                           : "signal");
    local_parts_stop(l);
    tarn_str_fini(&ready);
    return rc;
}

/* In the background or in front, with the cache directory locked. */
static int local_life(struct local *l, const char *cache_dir)
{
    int rc;

    signals_block(local_signals);
    (void)signal(SIGPIPE, SIG_IGN); /* a peer that is gone is an error, not our end */
    local_raise_fds();
    rc = cache_dir_open(cache_dir, &l->dir, l->err);
    if (rc == 0)
        rc = local_check_places(l, l->dir.path); /* as it is, whatever led there */
    if (rc == 0)
        rc = local_open_log(l);
    if (rc == 0)
        rc = local_serve(l);
    cache_dir_close(&l->dir);
    /* Of a failure only now: who hears of it may start another at once. */
    (void)daemon_tell(&l->daemon, rc, tarn_err_text(l->err, rc));
    return rc == -TARN_E_CANCELLED ? 0 : rc; /* it was told to stop, and did */
}

/* ---- the command ------------------------------------------------------------------------------
 */

/*
 * Options of the store: -o, then the section `ufs` of the configuration file (secrets only there,
 * and only when its mode is 0600).
 */
static int local_store_options(struct local *l)
{
    struct tarn_conf_bind bind = {&tarn_ufs_opts_table, &l->opts,
                                  TARN_CONF_FROM_OPT | TARN_CONF_FROM_FILE};
    struct tarn_conf_input in = {.opts = l->p->option.v,
                                 .n_opts = l->p->option.n,
                                 .file = l->cli->common.config[0] ? l->cli->common.config : NULL,
                                 .others = cli_all_tables};

    return tarn_conf_load(&bind, 1, &in, &l->opts_conf, l->err);
}

/* Where the cache is, and the store's options; everything is checked that can be. */
static int local_prepare(struct local *l, struct tarn_str *cache_dir)
{
    const char *const *args = l->cli->args;
    int rc;

    if (strlen(args[0]) >= sizeof(l->uri) || strlen(args[1]) >= sizeof(l->mountpoint))
        return tarn_err_set(l->err, -TARN_E_USAGE, "the URI or the mountpoint is too long");
    memcpy(l->uri, args[0], strlen(args[0]) + 1);
    memcpy(l->mountpoint, args[1], strlen(args[1]) + 1);
    rc = local_store_options(l);
    if (rc == 0 && l->p->cache_dir[0])
        tarn_str_adds(cache_dir, l->p->cache_dir);
    else if (rc == 0)
        rc = cache_dir_default(l->uri, cache_dir, l->err);
    return rc < 0 ? rc : local_check(l, tarn_str_z(cache_dir));
}

static int local_run(struct cli *c)
{
    struct local *l = tarn_xnew(struct local);
    struct tarn_str cache_dir = {0}, said = {0};
    int rc, forked = 0;

    l->cli = c;
    l->p = c->own;
    l->err = &c->err;
    l->daemon.fd = -1;
    l->dir.lock_fd = -1;
    rc = local_prepare(l, &cache_dir);
    if (rc == 0 && l->p->daemon)
        forked = daemon_fork(&l->daemon, &said, &rc, l->err);
    if (forked < 0)
        rc = forked;
    else if (forked > 0 && rc == 0)
        local_say(l, tarn_str_z(&said));
    else if (forked == 0 && rc == 0)
        rc = local_life(l, tarn_str_z(&cache_dir));
    tarn_str_fini(&cache_dir);
    tarn_str_fini(&said);
    tarn_conf_free(&l->opts_conf);
    free(l);
    return rc;
}

static const struct tarn_conf_table *const local_tables[] = {&cli_local_table, &cli_common_table,
                                                             NULL};
static const struct tarn_conf_table *const local_opt_tables[] = {&tarn_ufs_opts_table, NULL};
static const struct tarn_flags_short local_shorts[] = {{'d', "daemon"}, {'o', "option"}};
static const struct tarn_flags_spec local_spec = {
    .command = "tarn local",
    .args = "UFS_URI MOUNTPOINT",
    .summary = "Mount a bucket or a directory on this machine, with a cache.",
    .text = "UFS_URI is s3://BUCKET[/PREFIX] or file:///DIR. MOUNTPOINT is an empty directory. The "
            "cache directory of an earlier\n"
            "start with the same URI is used again: the second start is warm.\n\n"
            "  tarn local s3://bucket/data /mnt/data -o endpoint=http://127.0.0.1:9000 -d",
    .tables = local_tables,
    .shorts = local_shorts,
    .n_shorts = TARN_ARRAY_LEN(local_shorts),
    .opt_key = "option",
    .opt_tables = local_opt_tables,
    .min_args = 2,
    .max_args = 2,
};
const struct cli_command cmd_local_command = {.name = "local",
                                              .spec = &local_spec,
                                              .run = local_run,
                                              .own = &cli_local_table,
                                              .own_size = sizeof(struct cli_local),
                                              .server = true};
