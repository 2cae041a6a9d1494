/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The parts of `tarn local`: master, worker and mount in one process, wired over socketpairs
 * (metadata, frames and all) and by the local-read vtable (bytes). They are made one after the
 * other, each with the loop running until it is there, and taken away in the exact reverse.
 *
 * Threads: the caller's runs the control loop (master, worker, RPC, curl); the disk pool; the
 * journal; FUSE's; the notifier; the HTTP listener's.
 */
#include "lib/base/env.h"
#include "lib/base/hash.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/base/units.h"
#include "tools/cache_dir.h"
#include "tools/local.h"

#define LOCAL_PORT       7100u
#define LOCAL_HTTP_PORT  7101u
#define CHECK_TIMEOUT_NS (8 * TARN_NS_PER_S)
#define STEP_TIMEOUT_NS  (20 * TARN_NS_PER_S)

/* ---- what the parts ask of each other ---------------------------------------------------------
 */

static struct tarn_ufs *parts_ufs_of(void *ctx, uint32_t attachment, const char **ret_isolation)
{
    struct local *l = ctx;

    return tarn_master_ufs(l->master.master, attachment, ret_isolation);
}

static void parts_space(void *owner, struct tarn_fuse_space *ret)
{
    struct local *l = owner;
    struct tarn_tier_info info;

    tarn_tier_info(l->worker.tier, &info);
    ret->capacity_bytes = info.capacity_bytes;
    tarn_master_space(l->master.master, &ret->files, &ret->bytes);
}

/* ---- start -------------------------------------------------------------------------------------
 */

static uint64_t parts_size(const struct local *l)
{
    return cache_dir_fits(&l->dir, cache_dir_size(&l->dir, l->p->cache_size),
                          l->serve.cli->cache.disk_free);
}

static int parts_open_names(struct local *l)
{
    struct tarn_master_args args = {.cap_key = l->cap_key};
    struct serve *s = &l->serve;
    uint64_t buffer = meta_room_write_buffer(parts_size(l));
    int rc;

    tarn_rng_system()->fill(tarn_rng_system(), l->cap_key, sizeof(l->cap_key));
    rc = role_master_open(s, &l->master, l->dir.path, buffer, &args);
    if (rc != -TARN_E_KV_CORRUPT || l->master.kv)
        return rc;
    /* Names of the store are learnt again, and cached bytes are found by what they are. */
    tarn_warn("local", "the metadata is damaged and is set aside: %s", tarn_err_text(s->err, rc));
    s->err->text[0] = 0;
    rc = cache_dir_set_meta_aside(&l->dir, s->err);
    return rc < 0 ? rc : role_master_open(s, &l->master, l->dir.path, buffer, &args);
}

static int parts_open_master(void *local)
{
    struct local *l = local;
    struct tarn_master_attach at = {.path = "/",
                                    .uri = l->uri,
                                    .opts = &l->opts,
                                    .ttl_ns = l->serve.cli->store.meta_ttl,
                                    .check = l->serve.cli->store.check,
                                    .check_timeout_ns = CHECK_TIMEOUT_NS};
    int rc = parts_open_names(l);

    if (rc < 0)
        return rc;
    l->attaching.serve = &l->serve;
    tarn_master_attach(l->master.master, &at, serve_done_err, &l->attaching);
    /* A store that does not answer takes its time; the master's stop would cut that short. */
    return serve_wait_or_stop(&l->attaching);
}

static int parts_open_tier(struct local *l)
{
    TARN_AUTO_FREE char *path = tarn_xasprintf("%s/tier0", l->dir.path);
    struct tarn_tier_args args = {.path = path,
                                  .owner_id = tarn_master_cluster_id(l->master.master),
                                  .replace = true,
                                  .ours = true,
                                  .medium = TARN_MEDIUM_SSD,
                                  .quota_bytes = parts_size(l),
                                  .high_bp = l->p->evict_high,
                                  .low_bp = l->p->evict_low};
    int rc = role_worker_open_tier(&l->serve, &l->worker, &args);
    uint64_t asked = cache_dir_size(&l->dir, l->p->cache_size);
    char held_text[32], asked_text[32];

    if (rc < 0)
        return rc;
    if (args.quota_bytes < asked)
        tarn_warn("local", "the file system of %s can hold %s of the %s that the cache may use",
                  l->dir.path, tarn_format_size(args.quota_bytes, held_text),
                  tarn_format_size(asked, asked_text));
    meta_room_start(&l->meta_room, l->serve.loop, l->worker.tier, &l->dir, args.quota_bytes);
    return 0;
}

static int parts_open_worker(void *local)
{
    struct local *l = local;
    struct tarn_worker_args args = {.id = 1,
                                    .cluster_id = tarn_master_cluster_id(l->master.master),
                                    .cap_key = l->cap_key,
                                    .ctx = l,
                                    .ufs_of = parts_ufs_of};
    int rc = parts_open_tier(l);

    return rc < 0 ? rc : role_worker_open(&l->serve, &l->worker, &args);
}

static int parts_open_server(void *local)
{
    struct local *l = local;
    struct serve_rpc_args args = {.cluster_id = tarn_master_cluster_id(l->master.master),
                                  .port = LOCAL_PORT,
                                  .skip = LOCAL_HTTP_PORT,
                                  .ctx = &l->master,
                                  .on_gone = role_master_gone};
    int rc = serve_rpc_open(&l->serve, &args, &l->rpc);

    cli_token_new(&l->rpc.token);
    if (rc == 0)
        rc =
            cli_token_place(cli_port(l->rpc.addr), &l->rpc.token, &l->rpc.token_path, l->serve.err);
    if (rc < 0)
        return rc;
    serve_rpc_admit(&l->rpc);
    tarn_master_serve(l->master.master, l->rpc.server);
    tarn_worker_serve(l->worker.worker, l->rpc.server);
    return 0;
}

/* A client of our own server, over a socketpair. */
static int parts_pair(struct local *l, struct tarn_conn **ret)
{
    struct tarn_conn *ours, *theirs;
    int rc = tarn_conn_pair(l->serve.loop, &ours, &theirs);

    if (rc < 0)
        return rc;
    tarn_rpc_server_serve(l->rpc.server, theirs, true);
    *ret = ours;
    return 0;
}

static int parts_pair_rpc(struct local *l, struct tarn_rpc_client **ret)
{
    struct tarn_rpc_client_args args = {.loop = l->serve.loop,
                                        .rng = tarn_rng_system(),
                                        .default_timeout_ns = 3600 * TARN_NS_PER_S};
    int rc = parts_pair(l, &args.conn);

    return rc < 0 ? rc : tarn_rpc_client_new(&args, ret);
}

static int parts_open_clients(void *local)
{
    struct local *l = local;
    struct tarn_local_ops ops;
    struct tarn_client_args args = {.mountpoint = l->mountpoint, .local = &ops};
    int rc = parts_pair_rpc(l, &l->to_worker);

    if (rc == 0)
        rc = parts_pair_rpc(l, &l->to_master);
    if (rc == 0)
        rc = parts_pair(l, &args.conn);
    if (rc < 0)
        return rc;
    tarn_worker_set_master(l->worker.worker, l->to_master);
    tarn_master_set_worker(l->master.master, l->to_worker);
    tarn_worker_local_ops(l->worker.worker, &ops);
    return role_mount_connect(&l->serve, &l->mount, &args, STEP_TIMEOUT_NS);
}

static int parts_open_fuse(void *local)
{
    struct local *l = local;
    struct tarn_fuse_args args = {.mountpoint = l->mountpoint,
                                  .source = l->uri,
                                  .always_fresh = l->serve.cli->store.meta_ttl == TARN_TTL_ALWAYS};

    l->mount.owner = l;
    l->mount.space = parts_space;
    return role_mount_open(&l->mount, &args);
}

static int parts_open_metrics(void *local)
{
    struct local *l = local;
    struct metrics_args args = {
        .serve = &l->serve,
        .port = LOCAL_HTTP_PORT,
        .parts = {metrics_of_stores(&l->stores), metrics_of_master(&l->master),
                  metrics_of_worker(&l->worker), metrics_of_mount(&l->mount)},
        .own = tarn_fuse_stats(l->mount.fuse)};

    l->stores.master = &l->master;
    return metrics_start(&args, &l->metrics);
}

serve_step_fn *const local_steps[] = {parts_open_master,
                                      parts_open_worker,
                                      parts_open_server,
                                      parts_open_clients,
                                      parts_open_fuse,
                                      parts_open_metrics,
                                      NULL};

/* ---- stop: the reverse ------------------------------------------------------------------------
 */

void local_parts_stop(void *local)
{
    struct local *l = local;
    struct serve *s = &l->serve;

    metrics_stop(&l->metrics);
    metrics_stores_fini(&l->stores);
    role_mount_stop(&l->mount);
    role_worker_stop(s, &l->worker);
    role_master_stop(s, &l->master);
    role_rpc_stop(s, &l->to_worker);
    role_rpc_stop(s, &l->to_master);
    serve_rpc_stop(s, &l->rpc);
    meta_room_stop(&l->meta_room);
    role_worker_close(&l->worker);
    role_master_close(&l->master);
    tarn_wipe(l->cap_key, sizeof(l->cap_key));
}
