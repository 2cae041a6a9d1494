/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A worker that serves, step by step: connection to the master (whose cluster the tier must be of),
 * tier, stores and peers, listeners with the cluster's token, registration. In front it waits for a
 * master as long as it takes; in the background (-d) for --timeout. serve.c has its life.
 */
#include "tools/worker_server.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/env.h"
#include "lib/base/hash.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/base/units.h"
#include "lib/client/peers.h"
#include "tools/metrics.h"
#include "tools/roles.h"
#include "tools/serve.h"
#include "tools/tier_spec.h"
#include "worker/member.h"
#include "worker/stores.h"

#define WORKER_PORT      7110u
#define WORKER_HTTP_PORT 7111u
#define RETRY_NS         (200 * TARN_NS_PER_MS) /* until a master is looked for again */

struct worker_server {
    struct serve serve; /* its life */
    struct cli *cli;
    const struct cli_worker *p; /* its flags */
    struct tier_spec tier;
    struct tarn_timer patience;     /* of a start in the background */
    struct serve_step link;         /* the connection, until it is there */
    bool tried;                     /* it was, in this attempt */
    int link_rc;                    /* why it was not, last */
    struct tarn_rpc_client *master; /* keeps connected from then on */
    struct role_worker worker;
    struct tarn_stores *stores;         /* of the attachments */
    struct tarn_peers *peers;           /* the other workers */
    struct serve_rpc rpc;               /* listens; its token is the cluster's */
    struct tarn_str addr, host, socket; /* as others are told */
    struct serve_step registering;
    struct tarn_member *member;
    struct metrics_stores store_figures;
    struct metrics_member member_figures;
    struct metrics *metrics;
};

/* ---- the master -------------------------------------------------------------------------------
 */

static void link_state(void *ctx, bool connected, int rc)
{
    struct worker_server *w = ctx;

    if (w->member)
        tarn_member_state(w->member, connected, rc);
    else
        serve_done_rc(&w->link, connected ? 0 : rc);
}

static void link_notice(void *ctx, uint32_t method, const ProtobufCMessage *msg)
{
    struct worker_server *w = ctx;

    if (w->member)
        tarn_member_notice(w->member, method, msg);
}

static void patience_over(struct tarn_timer *t, void *arg)
{
    struct worker_server *w = arg;
    TARN_AUTO_FREE char *text = NULL;
    char limit[32];

    (void)t; /* the server's */
    text =
        tarn_xasprintf("%s: no master took this worker within %s%s%s", w->cli->remote.master,
                       tarn_format_duration(w->cli->remote.timeout, limit),
                       w->link_rc < 0 ? ": " : "", w->link_rc < 0 ? tarn_strerror(w->link_rc) : "");
    serve_fail(&w->serve, -TARN_E_ABSENT_DAEMON, text);
}

/* One attempt, with the token as it is now. CANCELLED: to be stopped. */
static int link_try(struct worker_server *w)
{
    struct tarn_rpc_client_args args = {.loop = w->serve.loop,
                                        .rng = tarn_rng_system(),
                                        .addrs = w->cli->remote.master,
                                        .ctx = w,
                                        .on_notice = link_notice,
                                        .on_state = link_state};
    int rc;

    w->tried = false;
    rc = cli_token(w->cli, &w->rpc.token);
    if (rc < 0)
        return rc;
    args.token = w->rpc.token.len ? w->rpc.token.p : NULL;
    args.token_len = w->rpc.token.len;
    w->link = (struct serve_step){.serve = &w->serve};
    rc = tarn_rpc_client_new(&args, &w->master);
    if (rc < 0)
        return tarn_err_set(w->serve.err, -TARN_E_USAGE,
                            "--master %s: must be HOST:PORT[,HOST:PORT...]", args.addrs);
    w->tried = true;
    w->link_rc = serve_wait_or_stop(&w->link);
    return w->link_rc;
}

/* True when another try may end otherwise. */
static bool link_again(struct worker_server *w, const struct tarn_str *tried)
{
    struct tarn_str now = {0};
    bool again;

    if (tarn_err_exit(w->link_rc) != TARN_EXIT_DENIED)
        return tarn_err_exit(w->link_rc) == TARN_EXIT_UNREACH || w->link_rc == -TARN_E_DEADLINE ||
               w->link_rc > -TARN_E_NO_MEMORY; /* the errno class: of connect(2) */
    /* A master that has just started may have made its token meanwhile. */
    again = cli_token(w->cli, &now) == 0 &&
            (now.len != tried->len || (now.len && memcmp(now.p, tried->p, now.len) != 0));
    if (now.p)
        tarn_wipe(now.p, now.cap);
    tarn_str_fini(&now);
    w->serve.err->text[0] = 0;
    return again;
}

static int worker_link(void *arg)
{
    struct worker_server *w = arg;
    struct serve *s = &w->serve;
    int rc;

    if (w->cli->server.daemon)
        tarn_timer_start(s->loop, &w->patience, w->cli->remote.timeout, patience_over, w);
    while ((rc = link_try(w)) < 0) {
        role_rpc_stop(s, &w->master);
        if (!w->tried || atomic_load(&s->stop_wanted))
            return rc;
        if (!link_again(w, &w->rpc.token))
            return cli_connect_error(w->cli, rc);
        tarn_warn_limited("worker", "waiting for a master: addr=%s: %s", w->cli->remote.master,
                          tarn_strerror(rc));
        serve_sleep(s, RETRY_NS);
        if (atomic_load(&s->stop_wanted))
            return -TARN_E_CANCELLED;
    }
    return 0;
}

/* ---- parts ------------------------------------------------------------------------------------
 */

static int worker_open_tier(void *arg)
{
    struct worker_server *w = arg;
    struct tarn_tier_args args = {.path = w->tier.path,
                                  .owner_id = tarn_rpc_client_cluster_id(w->master),
                                  .replace = w->p->replace,
                                  .medium = w->tier.medium,
                                  .quota_bytes = w->tier.quota_bytes,
                                  .high_bp = w->tier.high_bp,
                                  .low_bp = w->tier.low_bp};
    int rc = role_worker_open_tier(&w->serve, &w->worker, &args);

    if (rc == -TARN_E_DIR_FOREIGN)
        return tarn_err_wrap(w->serve.err, rc, "--tier (--replace adopts one of another cluster)");
    if (rc == -ENOENT || rc == -ENOTDIR || rc == -EACCES || rc == -EROFS)
        rc = -TARN_E_CONFIG; /* the text says which */
    return rc < 0 ? tarn_err_wrap(w->serve.err, rc, "--tier") : 0;
}

static int worker_open(void *arg)
{
    struct worker_server *w = arg;
    struct tarn_peers_args peers = {.loop = w->serve.loop,
                                    .rng = tarn_rng_system(),
                                    .token = w->rpc.token.len ? w->rpc.token.p : NULL,
                                    .token_len = w->rpc.token.len,
                                    .cluster_id = tarn_rpc_client_cluster_id(w->master),
                                    .host = w->p->host};
    struct tarn_worker_args args = {.cluster_id = peers.cluster_id, .ufs_of = tarn_stores_of};
    int rc;

    args.ctx = w->stores = tarn_stores_new(w->serve.loop, w->serve.disk);
    w->peers = tarn_peers_new(&peers);
    rc = role_worker_open(&w->serve, &w->worker, &args);
    if (rc < 0)
        return rc;
    tarn_worker_set_peers(w->worker.worker, w->peers);
    tarn_worker_set_master(w->worker.worker, w->master);
    return 0;
}

/* A connection that is gone just now tells nothing; the master refuses an address told twice. */
static bool master_on_loopback(const struct worker_server *w)
{
    const char *peer = tarn_rpc_client_peer(w->master);

    return !peer[0] || serve_addr_is_loopback(peer);
}

/*
 * The address that others are told. One on loopback is another process for each host: only a
 * cluster on one host can use it.
 */
static int worker_address(struct worker_server *w)
{
    const char *told = w->p->advertise, *colon = strrchr(w->rpc.addr, ':');
    size_t n = colon ? (size_t)(colon - w->rpc.addr) : 0;
    char name[256] = "";

    tarn_str_reset(&w->addr);
    (void)gethostname(name, sizeof(name) - 1); /* "" is told then, and nobody finds it */
    if (told[0])
        tarn_str_addf(&w->addr, "%s%s", told, cli_port(told) ? "" : colon);
    else if (strncmp(w->rpc.addr, "0.0.0.0", n) == 0 || strncmp(w->rpc.addr, "[::]", n) == 0)
        tarn_str_addf(&w->addr, "%s%s", name, colon);
    else
        tarn_str_adds(&w->addr, w->rpc.addr);
    tarn_str_adds(&w->host, w->p->host[0] ? w->p->host : name);
    if (!serve_addr_is_loopback(tarn_str_z(&w->addr)) || master_on_loopback(w))
        return 0;
    return tarn_err_set(w->serve.err, -TARN_E_CONFIG,
                        "the address of this worker is %s, which only this host reaches, and the "
                        "master (%s) is reached over the network: give an address that all others "
                        "reach with --listen HOST:PORT (or --advertise HOST[:PORT])",
                        tarn_str_z(&w->addr), w->cli->remote.master);
}

static int worker_listen_socket(struct worker_server *w)
{
    TARN_AUTO_FREE char *addr = NULL;
    char cwd[PATH_MAX];
    const char *got;
    int rc;

    if (!w->p->socket[0])
        return 0;
    if (w->p->socket[0] != '/' && getcwd(cwd, sizeof(cwd)))
        tarn_str_addf(&w->socket, "%s/", cwd);
    tarn_str_adds(&w->socket, w->p->socket);
    addr = tarn_xasprintf("unix:%s", tarn_str_z(&w->socket));
    rc = tarn_rpc_server_listen(w->rpc.server, addr, &got);
    if (rc < 0)
        return tarn_err_set(w->serve.err, rc == -TARN_E_ADDR_IN_USE ? rc : -TARN_E_CONFIG,
                            "--socket %s: %s", w->p->socket, tarn_strerror(rc));
    return 0;
}

static int worker_listen(void *arg)
{
    struct worker_server *w = arg;
    struct serve_rpc_args args = {.cluster_id = tarn_rpc_client_cluster_id(w->master),
                                  .port = WORKER_PORT,
                                  .skip = WORKER_HTTP_PORT};
    int rc = serve_rpc_open(&w->serve, &args, &w->rpc);

    if (rc == 0)
        rc = worker_listen_socket(w);
    if (rc < 0)
        return rc;
    rc = worker_address(w);
    if (rc < 0)
        return rc;
    tarn_worker_serve(w->worker.worker, w->rpc.server);
    serve_rpc_admit(&w->rpc);
    return 0;
}

static const char *worker_not_ready(void *arg)
{
    const struct worker_server *w = arg;
    struct tarn_tier_info tier;

    if (!w->member || !tarn_member_registered(w->member))
        return "not registered with a master";
    tarn_tier_info(w->worker.tier, &tier);
    return tier.offline ? "its cache directory failed" : NULL;
}

static int worker_open_metrics(void *arg)
{
    struct worker_server *w = arg;
    struct metrics_args args = {.serve = &w->serve,
                                .port = WORKER_HTTP_PORT,
                                .parts = {metrics_of_stores(&w->store_figures),
                                          metrics_of_worker(&w->worker),
                                          metrics_of_member(&w->member_figures)},
                                .not_ready = worker_not_ready,
                                .ready_arg = w};

    w->store_figures.stores = w->stores;
    w->member_figures.worker = &w->worker;
    return metrics_start(&args, &w->metrics);
}

static void worker_refused(void *ctx, int rc, const struct tarn_errbuf *err)
{
    struct worker_server *w = ctx;

    serve_fail(&w->serve, rc, tarn_err_text(err, rc));
}

static int worker_register(void *arg)
{
    struct worker_server *w = arg;
    struct tarn_member_args args = {.loop = w->serve.loop,
                                    .rng = tarn_rng_system(),
                                    .master = w->master,
                                    .worker = w->worker.worker,
                                    .tier = w->worker.tier,
                                    .stores = w->stores,
                                    .peers = w->peers,
                                    .addr = tarn_str_z(&w->addr),
                                    .host = tarn_str_z(&w->host),
                                    .socket = tarn_str_z(&w->socket),
                                    .weight = (uint32_t)w->p->weight,
                                    .copies = w->p->copies,
                                    .ctx = w,
                                    .on_refused = worker_refused};
    int rc;

    w->member = w->member_figures.member = tarn_member_new(&args);
    w->registering.serve = &w->serve;
    tarn_member_start(w->member, serve_done_err, &w->registering);
    rc = serve_wait_or_stop(&w->registering);
    tarn_timer_stop(&w->patience);
    return rc;
}

/* ---- life ------------------------------------------------------------------------------------ */

static int worker_hold(void *arg)
{
    struct worker_server *w = arg;

    serve_log_path(&w->serve, w->tier.path);
    return 0;
}

static void worker_ready(void *arg, struct tarn_str *ret)
{
    const struct worker_server *w = arg;
    const char *http = metrics_addr(w->metrics), *addr = tarn_str_z(&w->addr);
    unsigned long long id = tarn_member_id(w->member);
    struct tarn_tier_info info;
    char size[32];

    tarn_tier_info(w->worker.tier, &info);
    tarn_info("worker", "ready: id=%llu addr=%s host=%s listen=%s http=%s tier=%s size=%s", id,
              addr, tarn_str_z(&w->host), w->rpc.addr, http, w->tier.path,
              tarn_format_size(info.capacity_bytes, size));
    tarn_str_addf(ret, "tarn worker: %llu of cluster %s at %s (", id,
                  tarn_rpc_client_cluster_id(w->master), addr);
    if (strcmp(http, "none") != 0)
        tarn_str_addf(ret, "metrics http://%s/metrics, ", http);
    tarn_str_addf(ret, "%s in %s)", size, w->tier.path);
}

static void worker_stop(void *arg)
{
    struct worker_server *w = arg;
    struct serve *s = &w->serve;
    struct serve_step leave = {.serve = s}, stores = {.serve = s}, peers = {.serve = s};

    tarn_timer_stop(&w->patience);
    metrics_stop(&w->metrics);
    metrics_stores_fini(&w->store_figures);
    if (w->member) {
        tarn_member_stop(w->member, serve_done, &leave);
        (void)serve_wait(&leave);
    }
    role_worker_stop(s, &w->worker);
    serve_rpc_stop(s, &w->rpc);
    if (w->stores) {
        tarn_stores_stop(w->stores, serve_done, &stores);
        (void)serve_wait(&stores);
    }
    if (w->peers) {
        tarn_peers_stop(w->peers, serve_done, &peers);
        (void)serve_wait(&peers);
    }
    role_rpc_stop(s, &w->master);
    tarn_member_free(&w->member);
    role_worker_close(&w->worker);
    tarn_stores_free(&w->stores);
    tarn_peers_free(&w->peers);
    tarn_str_fini(&w->addr);
    tarn_str_fini(&w->host);
    tarn_str_fini(&w->socket);
}

static serve_step_fn *const worker_steps[] = {worker_link,   worker_open_tier,    worker_open,
                                              worker_listen, worker_open_metrics, worker_register,
                                              NULL};
static const struct serve_role worker_role = {.name = "worker",
                                              .hold = worker_hold,
                                              .steps = worker_steps,
                                              .ready = worker_ready,
                                              .stop = worker_stop};

static int worker_check(struct worker_server *w)
{
    struct cli *c = w->cli;
    int rc = serve_check_addrs(c, c->remote.token_file[0] != 0);

    if (rc == 0 && w->p->tier.n == 0)
        rc = tarn_err_set(&c->err, -TARN_E_USAGE,
                          "--tier is needed: MEDIUM:PATH:QUOTA, like SSD:/data/tarn:100GiB");
    return rc < 0 ? rc : tier_spec_parse(w->p->tier.v[0], &w->tier, &c->err);
}

int worker_serve(struct cli *c)
{
    struct worker_server *w = tarn_xnew(struct worker_server);
    int rc;

    w->cli = w->serve.cli = c;
    w->p = c->own;
    w->serve.role = &worker_role;
    w->serve.ctx = w;
    rc = worker_check(w);
    if (rc == 0)
        rc = serve_run(&w->serve);
    free(w->tier.path);
    free(w);
    return rc;
}
