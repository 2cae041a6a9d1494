/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tarn local: master, worker and mount for one machine in one process. The same parts as in a
 * cluster, wired over socketpairs (metadata, frames and all) and by the local-read vtable (bytes).
 *
 * Threads: this one runs the control loop (master, worker, RPC, curl); the disk pool; the journal;
 * FUSE's; the notifier; the HTTP listener's; one that waits for signals. With -d the process forks
 * before any of them starts, and the parent returns when the child says that the mountpoint
 * answers.
 *
 * Start, step by step (local_start), each step with the loop running until it is done; the stop is
 * the exact reverse.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fuse/fuse.h"
#include "lib/base/assert.h"
#include "lib/base/env.h"
#include "lib/base/hash.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/base/mtx.h"
#include "lib/base/units.h"
#include "lib/disk/disk.h"
#include "master/master.h"
#include "store/kv/kv.h"
#include "store/tier/tier.h"
#include "tools/cache_dir.h"
#include "tools/cli.h"
#include "tools/local_http.h"
#include "tools/meta_room.h"
#include "ufs/ufs_opts.h"
#include "worker/worker.h"

#define LOCAL_PORT       7100u
#define LOCAL_HTTP_PORT  7101u
#define LOCAL_PORTS      100u /* how many are tried */
#define CHECK_TIMEOUT_NS (8 * TARN_NS_PER_S)
#define NAME_TIMEOUT_NS  (30 * TARN_NS_PER_S)
#define STEP_TIMEOUT_NS  (20 * TARN_NS_PER_S)

struct cli_local {
#define TARN_PARAM TARN_CONF_FIELD
#include "tools/daemon_params.def"
#include "tools/local_params.def"
#undef TARN_PARAM
};

#define TARN_CONF_STRUCT struct cli_local
static const struct tarn_conf_param local_rows[] = {
#define TARN_PARAM TARN_CONF_ROW
#include "tools/daemon_params.def"
#include "tools/local_params.def"
#undef TARN_PARAM
};
const struct tarn_conf_table cli_local_table =
    TARN_CONF_TABLE("local", "One machine (tarn local)", local_rows);

struct local {
    struct cli *cli;
    struct cli_local *p;
    char uri[4096], mountpoint[PATH_MAX];
    struct tarn_ufs_opts opts;
    struct tarn_conf *opts_conf;
    struct cache_dir dir;
    struct tarn_loop *loop;
    struct tarn_disk *disk;
    struct tarn_kv *kv;
    struct tarn_master *master;
    struct tarn_tier *tier;
    struct meta_room meta_room;
    struct tarn_worker *worker;
    struct tarn_rpc_server *server;
    struct tarn_rpc_client *to_worker, *to_master;
    struct tarn_client *client;
    struct tarn_fuse *fuse;
    struct local_http *http;
    uint8_t cap_key[32];
    struct tarn_str token, token_path;
    struct tarn_str ready; /* what is said when it serves, in the background by the parent */
    char listen_addr[280];
    int ready_fd; /* -d: tells the parent; -1 otherwise */
    pthread_t signals;
    bool signals_started;
    struct tarn_task stop_task, end_task;
    _Atomic bool stop_wanted; /* a signal, or the kernel ended the mount */
    _Atomic bool ended;       /* unmounted from outside */
    /* the step under way */
    bool step_done;
    int step_rc;
    struct tarn_errbuf *err;
};

/* ---- steps that run the loop
 * ------------------------------------------------------------------------------------------ */

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

static void local_attached(void *arg, int rc, const struct tarn_errbuf *err)
{
    struct local *l = arg;

    if (rc < 0)
        *l->err = *err;
    step_end(l, rc);
}

/* ---- signals
 * -------------------------------------------------------------------------------------------------------------
 */

static void local_stop_task(struct tarn_task *t)
{
    struct local *l = TARN_CONTAINER(t, struct local, stop_task);

    tarn_loop_stop(l->loop);
}

static void *local_signals(void *arg)
{
    struct local *l = arg;
    sigset_t set;
    int sig;

    (void)sigemptyset(&set); /* cannot fail, nor the next ones */
    (void)sigaddset(&set, SIGTERM);
    (void)sigaddset(&set, SIGINT);
    (void)sigaddset(&set, SIGHUP);
    (void)sigaddset(&set, SIGUSR2);
    while (sigwait(&set, &sig) == 0) {
        if (sig == SIGUSR2) /* ours: the process ends */
            return NULL;
        if (sig == SIGHUP) {
            tarn_log_reopen();
            continue;
        }
        if (!atomic_exchange(&l->stop_wanted, true))
            tarn_loop_post(l->loop, &l->stop_task, local_stop_task);
    }
    return NULL;
}

static void local_block_signals(void)
{
    sigset_t set;

    (void)sigemptyset(&set); /* cannot fail, nor the next ones */
    (void)sigaddset(&set, SIGTERM);
    (void)sigaddset(&set, SIGINT);
    (void)sigaddset(&set, SIGHUP);
    (void)sigaddset(&set, SIGUSR2);
    TARN_ASSERT(pthread_sigmask(SIG_BLOCK, &set, NULL) == 0);
    (void)signal(SIGPIPE, SIG_IGN);
}

static void local_mount_ended(void *ctx, int rc)
{
    struct local *l = ctx;

    (void)rc; /* the mount is gone either way */
    atomic_store(&l->ended, true);
    if (!atomic_exchange(&l->stop_wanted, true))
        tarn_loop_post(l->loop, &l->stop_task, local_stop_task);
}

/* ---- what the parts ask of each other
 * --------------------------------------------------------------------------------------- */

static struct tarn_ufs *local_ufs_of(void *ctx, uint32_t attachment, const char **ret_isolation)
{
    struct local *l = ctx;

    return tarn_master_ufs(l->master, attachment, ret_isolation);
}

static void local_session_gone(void *ctx, struct tarn_rpc_session *s)
{
    struct local *l = ctx;

    if (l->master)
        tarn_master_session_gone(l->master, s);
}

static void local_invalidate(void *ctx, const Tarn__Wire__Invalidate *inv)
{
    struct local *l = ctx;

    if (l->fuse)
        tarn_fuse_invalidate(l->fuse, inv);
}

/* ---- checks before anything is made
 * ---------------------------------------------------------------------------------------------- */

/* True when `path` is `dir` or below it. Both canonical. */
static bool path_inside(const char *path, const char *dir)
{
    size_t n = strlen(dir);

    return strncmp(path, dir, n) == 0 && (path[n] == 0 || path[n] == '/' || n == 1);
}

static int local_check_nesting(struct local *l, const char *cache_dir)
{
    char served[PATH_MAX], real[PATH_MAX];
    TARN_AUTO_FREE char *probe = NULL;

    if (!tarn_starts_with(l->uri, "file://") || !realpath(l->uri + 7, served))
        return 0; /* the store's own check says what is wrong with it */
    if (realpath(l->mountpoint, real) && (path_inside(real, served) || path_inside(served, real)))
        return tarn_err_set(l->err, -TARN_E_MOUNTPOINT,
                            "mountpoint %s: lies inside the served directory %s (or around it)",
                            real, served);
    /* The cache directory may not exist yet: its nearest existing ancestor decides. */
    probe = tarn_xstrdup(cache_dir);
    while (probe[0] && !realpath(probe, real)) {
        char *slash = strrchr(probe, '/');

        if (!slash || slash == probe)
            return 0;
        *slash = 0;
    }
    if (probe[0] && path_inside(real, served))
        return tarn_err_set(l->err, -TARN_E_CONFIG,
                            "--cache-dir %s: lies inside the served directory %s", cache_dir,
                            served);
    return 0;
}

static bool addr_is_loopback(const char *addr)
{
    return tarn_starts_with(addr, "127.") || tarn_starts_with(addr, "localhost:") ||
           tarn_starts_with(addr, "[::1]:") || tarn_starts_with(addr, "unix:");
}

static int local_check_addr(struct local *l, const char *flag, const char *addr)
{
    if (!addr[0] || strcmp(addr, "none") == 0 || l->p->insecure || addr_is_loopback(addr))
        return 0;
    return tarn_err_set(l->err, -TARN_E_CONFIG,
                        "--%s %s: listening beyond loopback needs --insecure", flag, addr);
}

/* ---- start
 * --------------------------------------------------------------------------------------------------------------------------
 */

static void local_raise_fds(void)
{
    struct rlimit r;

    if (getrlimit(RLIMIT_NOFILE, &r) == 0 && r.rlim_cur < r.rlim_max) {
        r.rlim_cur = TARN_MIN(r.rlim_max, (rlim_t)1048576);
        (void)setrlimit(RLIMIT_NOFILE, &r); /* fewer cached descriptors then */
    }
}

static uint32_t local_fds(const struct local *l)
{
    struct rlimit r;

    if (l->p->open_files)
        return (uint32_t)l->p->open_files;
    if (getrlimit(RLIMIT_NOFILE, &r) < 0)
        return 512;
    return (uint32_t)TARN_MAX((rlim_t)64, TARN_MIN(r.rlim_cur / 2, (rlim_t)65536));
}

static uint64_t local_size(const struct local *l)
{
    return l->p->cache_size ? l->p->cache_size : cache_dir_default_size(&l->dir);
}

static int local_open_meta(struct local *l)
{
    TARN_AUTO_FREE char *path = tarn_xasprintf("%s/meta", l->dir.path);
    extern const char *const tarn_core_cf_names[];
    struct tarn_kv_args args = {.path = path,
                                .cfs = tarn_core_cf_names,
                                .cf_count = 3,
                                .cache_bytes = 32ull << 20,
                                .write_buffer_bytes = meta_room_write_buffer(local_size(l))};
    int rc = tarn_kv_rocksdb_open(&args, l->err, &l->kv);

    if (rc != -TARN_E_KV_CORRUPT)
        return rc;
    /* Names of the store are learnt again, and cached bytes are found by what they are. */
    tarn_warn("local", "the metadata is damaged and is set aside: %s", tarn_err_text(l->err, rc));
    l->err->text[0] = 0;
    rc = cache_dir_set_meta_aside(&l->dir, l->err);
    return rc < 0 ? rc : tarn_kv_rocksdb_open(&args, l->err, &l->kv);
}

static int local_open_master(struct local *l)
{
    struct tarn_master_args args = {.loop = l->loop,
                                    .disk = l->disk,
                                    .clock = tarn_clock_system(),
                                    .rng = tarn_rng_system(),
                                    .cap_key = l->cap_key,
                                    .name_timeout_ns = NAME_TIMEOUT_NS};
    struct tarn_master_attach at = {.path = "/",
                                    .uri = l->uri,
                                    .opts = &l->opts,
                                    .ttl_ns = l->p->meta_ttl,
                                    .check = l->p->check,
                                    .check_timeout_ns = CHECK_TIMEOUT_NS};
    int rc = local_open_meta(l);

    if (rc < 0)
        return rc;
    args.kv = l->kv;
    rc = tarn_master_new(&args, l->err, &l->master);
    if (rc < 0)
        return rc;
    tarn_master_attach(l->master, &at, local_attached, l);
    return step_wait(l);
}

static int local_open_tier(struct local *l)
{
    TARN_AUTO_FREE char *path = tarn_xasprintf("%s/tier0", l->dir.path);
    struct tarn_tier_args args = {.loop = l->loop,
                                  .disk = l->disk,
                                  .clock = tarn_clock_system(),
                                  .path = path,
                                  .owner_id = tarn_master_cluster_id(l->master),
                                  .replace = true,
                                  .medium = TARN_MEDIUM_SSD,
                                  .quota_bytes = local_size(l),
                                  .high_bp = l->p->evict_high,
                                  .low_bp = l->p->evict_low,
                                  .disk_free_bp = l->p->disk_free,
                                  .fds_max = local_fds(l)};

    int rc = tarn_tier_open(&args, l->err, &l->tier);

    if (rc == 0)
        meta_room_start(&l->meta_room, l->loop, l->tier, &l->dir, args.quota_bytes);
    return rc;
}

static int local_open_worker(struct local *l)
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
                                    .ufs_of = local_ufs_of};

    return tarn_worker_new(&args, &l->worker);
}

/* Listens at the address given, or at the first free port from the default on. */
static int local_listen(struct local *l)
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

static int local_open_server(struct local *l)
{
    struct tarn_rpc_server_args args = {.loop = l->loop,
                                        .rng = tarn_rng_system(),
                                        .cluster_id = tarn_master_cluster_id(l->master),
                                        .ctx = l,
                                        .on_gone = local_session_gone};
    uint8_t first[32];
    int rc;

    /* The token's file is named by the port, which is known only after listening; nobody is served
     * before set_token. */
    tarn_rng_system()->fill(tarn_rng_system(), first, sizeof(first));
    args.token = first;
    args.token_len = sizeof(first);
    rc = tarn_rpc_server_new(&args, &l->server);
    if (rc == 0)
        rc = local_listen(l);
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
static int local_pair(struct local *l, struct tarn_conn **ret)
{
    struct tarn_conn *ours, *theirs;
    int rc = tarn_conn_pair(l->loop, &ours, &theirs);

    if (rc < 0)
        return rc;
    tarn_rpc_server_serve(l->server, theirs, true);
    *ret = ours;
    return 0;
}

static int local_open_clients(struct local *l)
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
                                    .on_invalidate = local_invalidate};
    int rc = local_pair(l, &rpc.conn);

    if (rc == 0)
        rc = tarn_rpc_client_new(&rpc, &l->to_worker);
    if (rc == 0)
        rc = local_pair(l, &rpc.conn);
    if (rc == 0)
        rc = tarn_rpc_client_new(&rpc, &l->to_master);
    if (rc == 0)
        rc = local_pair(l, &args.conn);
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

static void local_statfs(void *ctx, uint64_t *ret_bytes, uint64_t *ret_files)
{
    struct local *l = ctx;
    struct tarn_tier_info info;

    tarn_tier_info(l->tier, &info);
    *ret_bytes = info.capacity_bytes;
    *ret_files = 0;
}

static int local_open_fuse(struct local *l)
{
    struct tarn_fuse_args args = {.client = l->client,
                                  .loop = l->loop,
                                  .mountpoint = l->mountpoint,
                                  .source = l->uri,
                                  .allow_other = l->p->allow_other,
                                  .threads = (unsigned)l->p->fuse_threads,
                                  .timeout_ns = NAME_TIMEOUT_NS,
                                  .always_fresh = l->p->meta_ttl == TARN_TTL_ALWAYS,
                                  .ctx = l,
                                  .on_end = local_mount_ended,
                                  .statfs = local_statfs};

    return tarn_fuse_start(&args, l->err, &l->fuse);
}

static int local_open_http(struct local *l)
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

static int local_write_pid(struct local *l)
{
    FILE *f;

    if (!l->p->pid_file[0])
        return 0;
    f = fopen(l->p->pid_file, "we");
    if (!f || fprintf(f, "%d\n", (int)getpid()) < 0 || fclose(f) != 0)
        return tarn_err_set(l->err, -errno, "--pid-file %s: %s", l->p->pid_file,
                            strerrordesc_np(errno));
    return 0;
}

static int local_start(struct local *l)
{
    static int (*const steps[])(struct local * l) = {
        local_open_master,  local_open_tier, local_open_worker, local_open_server,
        local_open_clients, local_open_fuse, local_open_http,   local_write_pid};
    int rc = tarn_loop_new(&l->loop);

    if (rc == 0)
        rc = tarn_disk_pool_new((unsigned)l->p->disk_threads, &l->disk);
    if (rc == 0)
        rc = tarn_thread_start(&l->signals, "signals", local_signals, l);
    l->signals_started = rc == 0;
    for (size_t i = 0; rc == 0 && i < TARN_ARRAY_LEN(steps); i++) {
        rc = steps[i](l);
        if (rc == 0 && atomic_load(&l->stop_wanted))
            rc = tarn_err_set(l->err, -TARN_E_CANCELLED, "stopped while starting");
    }
    return rc;
}

/* ---- stop: the reverse
 * -------------------------------------------------------------------------------------------------------------------
 */

static void local_stop_parts(struct local *l)
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
    if (l->server) {
        tarn_rpc_server_stop(l->server, step_done, l);
        (void)step_wait(l);
        tarn_rpc_server_free(&l->server);
    }
    tarn_worker_free(&l->worker);
    tarn_master_free(&l->master);
}

static void local_stop(struct local *l)
{
    local_stop_parts(l);
    if (l->token_path.len)
        (void)unlink(tarn_str_z(&l->token_path)); /* a stale one only fails to authenticate */
    meta_room_stop(&l->meta_room);
    if (l->tier)
        tarn_tier_close(&l->tier);
    tarn_kv_close(&l->kv);
    if (l->disk)
        tarn_disk_free(&l->disk);
    if (l->signals_started) {
        (void)pthread_kill(l->signals, SIGUSR2);
        (void)pthread_join(l->signals, NULL);
    }
    if (l->loop)
        tarn_loop_free(&l->loop);
    if (l->p->pid_file[0])
        (void)unlink(l->p->pid_file); /* may never have been written */
    cache_dir_close(&l->dir);
    if (l->token.p)
        tarn_wipe(l->token.p, l->token.cap);
    tarn_str_fini(&l->token);
    tarn_str_fini(&l->token_path);
    tarn_wipe(l->cap_key, sizeof(l->cap_key));
}

/* ---- the background
 * --------------------------------------------------------------------------------------------------------------------------
 */

struct local_ready {
    int32_t rc;
    char text[2048];
};

/* Tells the parent how the start went. */
static void local_tell(struct local *l, int rc)
{
    struct local_ready msg = {.rc = rc};

    if (l->ready_fd < 0)
        return;
    (void)snprintf(msg.text, sizeof(msg.text), "%s",
                   rc < 0 ? tarn_err_text(l->err, rc) : tarn_str_z(&l->ready)); /* cut is fine */
    (void)!write(l->ready_fd, &msg, sizeof(msg)); /* a parent that is gone does not want to know */
    (void)close(l->ready_fd);
    l->ready_fd = -1;
}

/* In the parent: waits for the child's word. Returns its code, with the text. */
static int local_parent(struct local *l, int fd, pid_t child)
{
    struct local_ready msg;
    size_t got = 0;
    ssize_t n;

    while (got < sizeof(msg) && (n = read(fd, (char *)&msg + got, sizeof(msg) - got)) != 0) {
        if (n < 0 && errno != EINTR)
            break;
        got += n > 0 ? (size_t)n : 0;
    }
    (void)close(fd); /* only read from */
    if (got < sizeof(msg)) {
        int status = 0;

        (void)waitpid(child, &status, 0); /* for the message only */
        return tarn_err_set(
            l->err, -TARN_E_INTERNAL,
            "the background process ended while starting (wait status %d); see its log", status);
    }
    msg.text[sizeof(msg.text) - 1] = 0;
    if (msg.rc < 0)
        return tarn_err_set(l->err, msg.rc, "%s", msg.text);
    if (!l->cli->common.quiet)
        (void)fprintf(stderr, "%s\n", msg.text);
    return 0;
}

/* 1 in the parent (rc in *ret_rc), 0 in the child. */
static int local_fork(struct local *l, int *ret_rc)
{
    int fds[2], null_fd;
    pid_t pid;

    if (pipe2(fds, O_CLOEXEC) < 0) {
        *ret_rc = tarn_err_set(l->err, -errno, "pipe: %s", strerrordesc_np(errno));
        return 1;
    }
    pid = fork();
    if (pid < 0) {
        *ret_rc = tarn_err_set(l->err, -errno, "fork: %s", strerrordesc_np(errno));
        return 1;
    }
    if (pid > 0) {
        (void)close(fds[1]); /* the child's end */
        *ret_rc = local_parent(l, fds[0], pid);
        return 1;
    }
    (void)close(fds[0]); /* the parent's end */
    l->ready_fd = fds[1];
    (void)setsid(); /* a fresh child is no group leader: cannot fail */
    null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null_fd >= 0) {
        (void)dup2(null_fd, STDIN_FILENO);
        (void)dup2(null_fd, STDOUT_FILENO);
        (void)dup2(null_fd, STDERR_FILENO);
        (void)close(null_fd);
    }
    return 0;
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
    return rc < 0 ? tarn_err_set(l->err, rc, "--log-file %s: %s", path, tarn_strerror(rc)) : 0;
}

static void local_say_ready(struct local *l)
{
    struct tarn_tier_info info;
    char size[32];

    tarn_tier_info(l->tier, &info);
    tarn_info("local", "ready: uri=%s mountpoint=%s master=%s http=%s cache=%s size=%s", l->uri,
              l->mountpoint, l->listen_addr, local_http_addr(l->http), l->dir.path,
              tarn_format_size(info.capacity_bytes, size));
    tarn_str_reset(&l->ready);
    tarn_str_addf(&l->ready,
                  "tarn local: %s is at %s (control %s, metrics http://%s/metrics, cache %s in %s)",
                  l->uri, l->mountpoint, l->listen_addr, local_http_addr(l->http), size,
                  l->dir.path);
    if (l->ready_fd < 0 && !l->cli->common.quiet)
        (void)fprintf(stderr, "%s\n", tarn_str_z(&l->ready));
}

static int local_serve(struct local *l)
{
    int rc;

    local_block_signals();
    local_raise_fds();
    tarn_rng_system()->fill(tarn_rng_system(), l->cap_key, sizeof(l->cap_key));
    rc = local_start(l);
    if (rc == 0) {
        local_say_ready(l);
        local_tell(l, 0);
    }
    while (rc == 0 && !atomic_load(&l->stop_wanted))
        tarn_loop_run(l->loop);
    if (rc == 0)
        tarn_info("local", "stopping: %s", atomic_load(&l->ended) ? "unmounted" : "signal");
    local_stop(l);
    tarn_str_fini(&l->ready);
    return rc;
}

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

static int local_prepare(struct local *l, struct tarn_str *cache_dir)
{
    int rc;

    if (strlen(l->cli->args[0]) >= sizeof(l->uri) ||
        strlen(l->cli->args[1]) >= sizeof(l->mountpoint))
        return tarn_err_set(l->err, -TARN_E_USAGE, "the URI or the mountpoint is too long");
    memcpy(l->uri, l->cli->args[0], strlen(l->cli->args[0]) + 1);
    if (l->cli->args[1][0] == '/' || !realpath(l->cli->args[1], l->mountpoint))
        memcpy(l->mountpoint, l->cli->args[1], strlen(l->cli->args[1]) + 1);
    rc = local_store_options(l);
    if (rc == 0)
        rc = local_check_addr(l, "listen", l->p->listen);
    if (rc == 0)
        rc = local_check_addr(l, "http-listen", l->p->http_listen);
    if (rc < 0)
        return rc;
    if (l->p->cache_dir[0])
        tarn_str_adds(cache_dir, l->p->cache_dir);
    else
        cache_dir_default(l->uri, cache_dir);
    rc = tarn_fuse_mountpoint_prepare(l->mountpoint, l->err);
    if (rc == 0)
        rc = local_check_nesting(l, tarn_str_z(cache_dir));
    return rc;
}

static int local_run(struct cli *c)
{
    struct local *l = tarn_xnew(struct local);
    struct tarn_str cache_dir = {0};
    int rc;

    l->cli = c;
    l->p = c->own;
    l->err = &c->err;
    l->ready_fd = -1;
    l->dir.lock_fd = -1;
    rc = local_prepare(l, &cache_dir);
    if (rc == 0 && l->p->daemon && local_fork(l, &rc) == 1)
        goto out;
    if (rc == 0)
        rc = cache_dir_open(tarn_str_z(&cache_dir), &l->dir, l->err);
    if (rc == 0)
        rc = local_open_log(l);
    if (rc == 0)
        rc = local_serve(l);
    cache_dir_close(&l->dir);
    local_tell(l, rc); /* of a failure only now: who hears of it may start another at once */
out:
    tarn_str_fini(&cache_dir);
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
                                              .own_size = sizeof(struct cli_local)};
