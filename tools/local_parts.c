/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The parts of `tarn local`: master, worker and mount in one process, wired over socketpairs
 * (metadata, frames and all) and by the local-read vtable (bytes). They are made one after the
 * other, each with the loop running until it is there, and taken away in the exact reverse.
 *
 * Threads: the caller's runs the control loop (master, worker, RPC, curl); the disk pool; the
 * journal; FUSE's; the notifier; the HTTP listener's.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "fuse/fuse.h"
#include "lib/base/assert.h"
#include "lib/base/env.h"
#include "lib/base/hash.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/base/units.h"
#include "lib/disk/disk.h"
#include "master/master.h"
#include "store/kv/kv.h"
#include "store/tier/tier.h"
#include "tools/local.h"
#include "tools/local_http.h"
#include "tools/signals.h"
#include "worker/worker.h"

#define LOCAL_PORT       7100u
#define LOCAL_HTTP_PORT  7101u
#define LOCAL_PORTS      100u /* how many are tried */
#define CHECK_TIMEOUT_NS (8 * TARN_NS_PER_S)
#define FUSE_TIMEOUT_NS  (30 * TARN_NS_PER_S)
#define STEP_TIMEOUT_NS  (20 * TARN_NS_PER_S)

/* ---- steps that run the loop ------------------------------------------------------------------
 */

static void step_end(struct local *l, int rc)
{
    l->step_done = true;
    l->step_rc = rc;
    tarn_loop_stop(l->loop);
}

static void step_done(void *arg)
{
    step_end(arg, 0);
}

static void step_done_rc(void *arg, int rc)
{
    step_end(arg, rc);
}

/* Runs the loop until the step's callback; a signal does not cut a step short, each has its
 * deadline. */
static int step_wait(struct local *l)
{
    while (!l->step_done)
        tarn_loop_run(l->loop);
    l->step_done = false;
    return l->step_rc;
}

static void parts_attached(void *arg, int rc, const struct tarn_errbuf *err)
{
    struct local *l = arg;

    l->attached = true;
    l->attach_rc = rc;
    if (rc < 0 && !atomic_load(&l->stop_wanted))
        *l->err = *err;
    tarn_loop_stop(l->loop);
}

/* ---- what the parts ask of each other ---------------------------------------------------------
 */

static void stop_task_cb(struct tarn_task *t)
{
    tarn_loop_stop(TARN_CONTAINER(t, struct local, stop_task)->loop);
}

void local_want_stop(struct local *l)
{
    if (!atomic_exchange(&l->stop_wanted, true))
        tarn_loop_post(l->loop, &l->stop_task, stop_task_cb);
}

static void parts_mount_ended(void *ctx, int rc)
{
    struct local *l = ctx;

    (void)rc; /* the mount is gone either way */
    atomic_store(&l->ended, true);
    local_want_stop(l);
}

static struct tarn_ufs *parts_ufs_of(void *ctx, uint32_t attachment, const char **ret_isolation)
{
    struct local *l = ctx;

    return tarn_master_ufs(l->master, attachment, ret_isolation);
}

static void parts_session_gone(void *ctx, struct tarn_rpc_session *s)
{
    struct local *l = ctx;

    if (l->master)
        tarn_master_session_gone(l->master, s);
}

static void parts_invalidate(void *ctx, const Tarn__Wire__Invalidate *inv)
{
    struct local *l = ctx;

    if (l->fuse)
        tarn_fuse_invalidate(l->fuse, inv);
}

/* ---- start -------------------------------------------------------------------------------------
 */

static uint32_t parts_fds(const struct local *l)
{
    struct rlimit r;

    if (l->p->open_files)
        return (uint32_t)l->p->open_files;
    if (getrlimit(RLIMIT_NOFILE, &r) < 0)
        return 512;
    return (uint32_t)TARN_MAX((rlim_t)64, TARN_MIN(r.rlim_cur / 2, (rlim_t)65536));
}

static uint64_t parts_size(const struct local *l)
{
    return cache_dir_fits(&l->dir, cache_dir_size(&l->dir, l->p->cache_size), l->p->disk_free);
}

static int parts_open_meta(struct local *l)
{
    TARN_AUTO_FREE char *path = tarn_xasprintf("%s/meta", l->dir.path);
    extern const char *const tarn_core_cf_names[];
    struct tarn_kv_args args = {.path = path,
                                .cfs = tarn_core_cf_names,
                                .cf_count = 3,
                                .cache_bytes = 32ull << 20,
                                .write_buffer_bytes = meta_room_write_buffer(parts_size(l))};
    int rc = tarn_kv_rocksdb_open(&args, l->err, &l->kv);

    if (rc != -TARN_E_KV_CORRUPT)
        return rc;
    /* Names of the store are learnt again, and cached bytes are found by what they are. */
    tarn_warn("local", "the metadata is damaged and is set aside: %s", tarn_err_text(l->err, rc));
    l->err->text[0] = 0;
    rc = cache_dir_set_meta_aside(&l->dir, l->err);
    return rc < 0 ? rc : tarn_kv_rocksdb_open(&args, l->err, &l->kv);
}

static int parts_open_master(struct local *l)
{
    struct tarn_master_args args = {.loop = l->loop,
                                    .clock = tarn_clock_system(),
                                    .rng = tarn_rng_system(),
                                    .cap_key = l->cap_key};
    struct tarn_master_attach at = {.path = "/",
                                    .uri = l->uri,
                                    .opts = &l->opts,
                                    .ttl_ns = l->p->meta_ttl,
                                    .check = l->p->check,
                                    .check_timeout_ns = CHECK_TIMEOUT_NS};
    int rc = parts_open_meta(l);

    if (rc < 0)
        return rc;
    args.kv = l->kv;
    rc = tarn_master_new(&args, l->err, &l->master);
    if (rc < 0)
        return rc;
    tarn_master_attach(l->master, &at, parts_attached, l);
    /* A store that does not answer takes its time; the master's stop would cut that short. */
    while (!l->attached && !atomic_load(&l->stop_wanted))
        tarn_loop_run(l->loop);
    return l->attached ? l->attach_rc : -TARN_E_CANCELLED;
}

static int parts_open_tier(struct local *l)
{
    TARN_AUTO_FREE char *path = tarn_xasprintf("%s/tier0", l->dir.path);
    struct tarn_tier_args args = {.loop = l->loop,
                                  .disk = l->disk,
                                  .clock = tarn_clock_system(),
                                  .path = path,
                                  .owner_id = tarn_master_cluster_id(l->master),
                                  .replace = true,
                                  .ours = true,
                                  .medium = TARN_MEDIUM_SSD,
                                  .quota_bytes = parts_size(l),
                                  .high_bp = l->p->evict_high,
                                  .low_bp = l->p->evict_low,
                                  .disk_free_bp = l->p->disk_free,
                                  .fds_max = parts_fds(l)};
    int rc = tarn_tier_open(&args, l->err, &l->tier);
    uint64_t asked = cache_dir_size(&l->dir, l->p->cache_size);
    char held_text[32], asked_text[32];

    if (rc < 0)
        return rc;
    if (args.quota_bytes < asked)
        tarn_warn("local", "the file system of %s can hold %s of the %s that the cache may use",
                  l->dir.path, tarn_format_size(args.quota_bytes, held_text),
                  tarn_format_size(asked, asked_text));
    meta_room_start(&l->meta_room, l->loop, l->tier, &l->dir, args.quota_bytes);
    return 0;
}

static int parts_open_worker(struct local *l)
{
    struct tarn_worker_args args = {.loop = l->loop,
                                    .disk = l->disk,
                                    .clock = tarn_clock_system(),
                                    .tier = l->tier,
                                    .id = 1,
                                    .cluster_id = tarn_master_cluster_id(l->master),
                                    .cap_key = l->cap_key,
                                    .fetch_bytes_max = l->p->fetch_memory,
                                    .ctx = l,
                                    .ufs_of = parts_ufs_of};

    return tarn_worker_new(&args, &l->worker);
}

/* Listens at the address given, or at the first free port from the default on. */
static int parts_listen(struct local *l)
{
    const char *got = NULL;
    int rc = -TARN_E_ADDR_IN_USE;

    if (l->p->listen[0]) {
        rc = tarn_rpc_server_listen(l->server, l->p->listen, &got);
        if (rc < 0)
            return tarn_err_set(l->err, rc == -TARN_E_ADDR_IN_USE ? rc : -TARN_E_CONFIG,
                                "--listen %s: %s", l->p->listen, tarn_strerror(rc));
    }
    for (unsigned i = 0; !got && i < LOCAL_PORTS && rc == -TARN_E_ADDR_IN_USE; i++) {
        char addr[32];

        if (LOCAL_PORT + i == LOCAL_HTTP_PORT)
            continue; /* the other listener's default */
        (void)snprintf(addr, sizeof(addr), "127.0.0.1:%u", LOCAL_PORT + i); /* fits */
        rc = tarn_rpc_server_listen(l->server, addr, &got);
    }
    if (!got)
        return tarn_err_set(l->err, rc, "no free control port from %u on: %s", LOCAL_PORT,
                            tarn_strerror(rc));
    (void)snprintf(l->listen_addr, sizeof(l->listen_addr), "%s", got); /* an address is short */
    return 0;
}

static int parts_open_server(struct local *l)
{
    struct tarn_rpc_server_args args = {.loop = l->loop,
                                        .rng = tarn_rng_system(),
                                        .cluster_id = tarn_master_cluster_id(l->master),
                                        .ctx = l,
                                        .on_gone = parts_session_gone};
    uint8_t first[32];
    int rc;

    /* The token's file is named by the port, which is known only after listening; nobody is served
     * before set_token. */
    tarn_rng_system()->fill(tarn_rng_system(), first, sizeof(first));
    args.token = first;
    args.token_len = sizeof(first);
    rc = tarn_rpc_server_new(&args, &l->server);
    if (rc == 0)
        rc = parts_listen(l);
    if (rc == 0)
        rc = cli_token_make(NULL, cli_port(l->listen_addr), &l->token, &l->token_path, l->err);
    if (rc < 0)
        return rc;
    tarn_rpc_server_set_token(l->server, l->token.p, l->token.len);
    tarn_master_serve(l->master, l->server);
    tarn_worker_serve(l->worker, l->server);
    return 0;
}

/* A client of our own server, over a socketpair. */
static int parts_pair(struct local *l, struct tarn_conn **ret)
{
    struct tarn_conn *ours, *theirs;
    int rc = tarn_conn_pair(l->loop, &ours, &theirs);

    if (rc < 0)
        return rc;
    tarn_rpc_server_serve(l->server, theirs, true);
    *ret = ours;
    return 0;
}

static int parts_open_clients(struct local *l)
{
    struct tarn_rpc_client_args rpc = {
        .loop = l->loop, .rng = tarn_rng_system(), .default_timeout_ns = 3600 * TARN_NS_PER_S};
    struct tarn_local_ops local_ops;
    struct tarn_client_args args = {.loop = l->loop,
                                    .rng = tarn_rng_system(),
                                    .kind = "mount",
                                    .mountpoint = l->mountpoint,
                                    .local = &local_ops,
                                    .ctx = l,
                                    .on_invalidate = parts_invalidate};
    int rc = parts_pair(l, &rpc.conn);

    if (rc == 0)
        rc = tarn_rpc_client_new(&rpc, &l->to_worker);
    if (rc == 0)
        rc = parts_pair(l, &rpc.conn);
    if (rc == 0)
        rc = tarn_rpc_client_new(&rpc, &l->to_master);
    if (rc == 0)
        rc = parts_pair(l, &args.conn);
    if (rc < 0)
        return rc;
    tarn_worker_set_master(l->worker, l->to_master);
    tarn_master_set_worker(l->master, l->to_worker);
    tarn_worker_local_ops(l->worker, &local_ops);
    rc = tarn_client_new(&args, &l->client);
    if (rc < 0)
        return rc;
    tarn_client_connect(l->client, STEP_TIMEOUT_NS, step_done_rc, l);
    return step_wait(l);
}

static void parts_statfs(void *ctx, struct tarn_fuse_space *ret)
{
    struct local *l = ctx;
    struct tarn_tier_info info;

    tarn_tier_info(l->tier, &info);
    ret->capacity_bytes = info.capacity_bytes;
    tarn_master_space(l->master, &ret->files, &ret->bytes);
}

static int parts_open_fuse(struct local *l)
{
    struct tarn_fuse_args args = {.client = l->client,
                                  .loop = l->loop,
                                  .mountpoint = l->mountpoint,
                                  .source = l->uri,
                                  .allow_other = l->p->allow_other,
                                  .threads = (unsigned)l->p->fuse_threads,
                                  .timeout_ns = FUSE_TIMEOUT_NS,
                                  .always_fresh = l->p->meta_ttl == TARN_TTL_ALWAYS,
                                  .passthrough = l->p->passthrough,
                                  .ctx = l,
                                  .on_end = parts_mount_ended,
                                  .statfs = parts_statfs};

    return tarn_fuse_start(&args, l->err, &l->fuse);
}

static int parts_open_http(struct local *l)
{
    struct local_http_args args = {.loop = l->loop,
                                   .addr = l->p->http_listen,
                                   .first_port = LOCAL_HTTP_PORT,
                                   .ports = LOCAL_PORTS,
                                   .master = l->master,
                                   .worker = l->worker,
                                   .tier = l->tier,
                                   .client = l->client,
                                   .fuse = l->fuse};

    return local_http_start(&args, l->err, &l->http);
}

static int parts_write_pid(struct local *l)
{
    return daemon_pid_write(l->p->pid_file, l->err);
}

static void parts_signal(void *arg, int sig)
{
    if (sig == SIGHUP)
        tarn_log_reopen();
    else
        local_want_stop(arg);
}

int local_parts_start(struct local *l)
{
    static int (*const steps[])(struct local * l) = {
        parts_open_master,  parts_open_tier, parts_open_worker, parts_open_server,
        parts_open_clients, parts_open_fuse, parts_open_http,   parts_write_pid};
    int rc = tarn_loop_new(&l->loop);

    tarn_rng_system()->fill(tarn_rng_system(), l->cap_key, sizeof(l->cap_key));
    if (rc == 0)
        rc = tarn_disk_pool_new((unsigned)l->p->disk_threads, &l->disk);
    if (rc == 0)
        rc = signals_start(local_signals, parts_signal, l, &l->signals);
    for (size_t i = 0; rc == 0 && i < TARN_ARRAY_LEN(steps); i++) {
        rc = steps[i](l);
        if (rc == 0 && atomic_load(&l->stop_wanted))
            rc = -TARN_E_CANCELLED;
    }
    if (rc < 0 && atomic_load(&l->stop_wanted)) /* whatever failed, that was asked for */
        rc = tarn_err_set(l->err, -TARN_E_CANCELLED, "stopped while starting");
    return rc;
}

/* ---- stop: the reverse ------------------------------------------------------------------------
 */

static void parts_stop(struct local *l)
{
    if (l->http)
        local_http_stop(&l->http);
    if (l->fuse) {
        tarn_fuse_stop(l->fuse, step_done, l);
        (void)step_wait(l);
        tarn_fuse_free(&l->fuse);
    }
    if (l->client) {
        tarn_client_stop(l->client, step_done, l);
        (void)step_wait(l);
        tarn_client_free(&l->client);
    }
    if (l->worker) {
        tarn_worker_stop(l->worker, step_done, l);
        (void)step_wait(l);
    }
    if (l->master) {
        tarn_master_stop(l->master, step_done, l);
        (void)step_wait(l);
    }
    if (l->to_worker) {
        tarn_rpc_client_stop(l->to_worker, step_done, l);
        (void)step_wait(l);
        tarn_rpc_client_free(&l->to_worker);
    }
    if (l->to_master) {
        tarn_rpc_client_stop(l->to_master, step_done, l);
        (void)step_wait(l);
        tarn_rpc_client_free(&l->to_master);
    }
    if (l->token_path.len) /* while the port is ours: the next one there has a token of its own */
        (void)unlink(tarn_str_z(&l->token_path)); /* a stale one only fails to authenticate */
    if (l->server) {
        tarn_rpc_server_stop(l->server, step_done, l);
        (void)step_wait(l);
        tarn_rpc_server_free(&l->server);
    }
    tarn_worker_free(&l->worker);
    tarn_master_free(&l->master);
}

void local_parts_stop(struct local *l)
{
    parts_stop(l);
    meta_room_stop(&l->meta_room);
    if (l->tier)
        tarn_tier_close(&l->tier);
    tarn_kv_close(&l->kv);
    if (l->disk)
        tarn_disk_free(&l->disk);
    signals_stop(&l->signals);
    if (l->loop)
        tarn_loop_free(&l->loop);
    daemon_pid_remove(l->p->pid_file);
    if (l->token.p)
        tarn_wipe(l->token.p, l->token.cap);
    tarn_str_fini(&l->token);
    tarn_str_fini(&l->token_path);
    tarn_wipe(l->cap_key, sizeof(l->cap_key));
}
