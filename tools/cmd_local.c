/* SPDX-License-Identifier: Apache-2.0 */
/* tarn local: one machine. serve.c has its life, local_parts.c its parts. */
#include <stdlib.h>
#include <string.h>

#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/base/units.h"
#include "tools/cache_dir.h"
#include "tools/local.h"
#include "tools/store_opts.h"

#define MASTER_DEFAULT "127.0.0.1:7100" /* where commands look: remote_params.def */

#define TARN_CONF_STRUCT struct cli_local
static const struct tarn_conf_param local_rows[] = {
#define TARN_PARAM TARN_CONF_ROW
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

static int local_hold(void *local)
{
    struct local *l = local;
    int rc = dir_open(&dir_cache, tarn_str_z(&l->cache_dir), &l->dir, l->serve.err);

    if (rc == 0)
        rc = local_check_places(l, l->dir.path); /* as it is, whatever led there */
    if (rc == 0)
        tarn_str_addf(&l->serve.log_path, "%s/tarn.log", l->dir.path);
    return rc;
}

static void local_let_go(void *local)
{
    dir_close(&((struct local *)local)->dir);
}

static void local_ready(void *local, struct tarn_str *ret)
{
    const struct local *l = local;
    const char *http = metrics_addr(l->metrics), *control = l->rpc.addr;
    struct tarn_tier_info info;
    char size[32];

    tarn_tier_info(l->worker.tier, &info);
    tarn_info("local", "ready: uri=%s mountpoint=%s master=%s http=%s cache=%s size=%s", l->uri,
              l->mountpoint, control, http, l->dir.path,
              tarn_format_size(info.capacity_bytes, size));
    tarn_str_addf(ret, "tarn local: %s is at %s (control %s, ", l->uri, l->mountpoint, control);
    if (strcmp(http, "none") != 0)
        tarn_str_addf(ret, "metrics http://%s/metrics, ", http);
    tarn_str_addf(ret, "cache %s in %s)", size, l->dir.path);
    if (strcmp(control, MASTER_DEFAULT) != 0) /* commands would go elsewhere */
        tarn_str_addf(ret, "; commands: TARN_MASTER=%s tarn ...", control);
}

static const struct serve_role local_role = {.name = "local",
                                             .hold = local_hold,
                                             .steps = local_steps,
                                             .ready = local_ready,
                                             .stop = local_parts_stop,
                                             .let_go = local_let_go};

/* ---- the command ------------------------------------------------------------------------------
 */

/* Where the cache is, and the store's options; everything is checked that can be. */
static int local_prepare(struct local *l)
{
    const char *const *args = l->serve.cli->args;
    struct tarn_errbuf *err = &l->serve.cli->err;
    int rc;

    if (strlen(args[0]) >= sizeof(l->uri) || strlen(args[1]) >= sizeof(l->mountpoint))
        return tarn_err_set(err, -TARN_E_USAGE, "the URI or the mountpoint is too long");
    memcpy(l->uri, args[0], strlen(args[0]) + 1);
    memcpy(l->mountpoint, args[1], strlen(args[1]) + 1);
    rc = store_opts_load(l->serve.cli, &l->opts, &l->opts_conf);
    if (rc == 0 && l->p->cache_dir[0])
        tarn_str_adds(&l->cache_dir, l->p->cache_dir);
    else if (rc == 0)
        rc = cache_dir_default(l->uri, &l->cache_dir, err);
    return rc < 0 ? rc : local_check(l, tarn_str_z(&l->cache_dir));
}

static int local_run(struct cli *c)
{
    struct local *l = tarn_xnew(struct local);
    int rc;

    l->serve.cli = c;
    l->serve.err = &c->err;
    l->serve.role = &local_role;
    l->serve.ctx = l;
    l->p = c->own;
    rc = local_prepare(l);
    if (rc == 0)
        rc = serve_run(&l->serve);
    tarn_str_fini(&l->cache_dir);
    tarn_conf_free(&l->opts_conf);
    free(l);
    return rc;
}

static const struct tarn_conf_table *const local_tables[] = {
    &cli_local_table,  &cli_store_table,  &cli_cache_table,  &cli_fuse_table,
    &cli_server_table, &cli_listen_table, &cli_common_table, NULL};
static const struct tarn_conf_table *const local_opt_tables[] = {&tarn_ufs_opts_table, NULL};
static const struct tarn_flags_short local_shorts[] = {{'d', "daemon"}, {'o', "option"}};
static const struct tarn_flags_spec local_spec = {
    .command = "tarn local",
    .args = "UFS_URI MOUNTPOINT",
    .summary = "Mount a bucket or a directory on this machine, with a cache.",
    .text = "UFS_URI is s3://BUCKET[/PREFIX] or file:///DIR. MOUNTPOINT is a directory. The "
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
                                              .server = true};
