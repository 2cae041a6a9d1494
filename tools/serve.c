/* SPDX-License-Identifier: Apache-2.0 */
/*
 * With -d the process forks before it has threads, and the parent returns when the child says that
 * it serves. From the moment that something is made, signals are events: SIGTERM and SIGINT end it,
 * also during the start, in order and with exit code 0; SIGHUP opens the log anew. A start that is
 * waited for (-d) tells its parent that it was stopped.
 */
#include "tools/serve.h"

#include <arpa/inet.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"
#include "lib/base/hash.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/disk/disk.h"
#include "tools/signals.h"

#define SERVE_PORTS        100u /* how many are tried */
#define SERVE_DISK_THREADS 4u   /* of a server that keeps no bytes */

static const int serve_signals[] = {SIGTERM, SIGINT, SIGHUP, 0};

/* ---- stop -------------------------------------------------------------------------------------
 */

static void stop_task_cb(struct tarn_task *t)
{
    tarn_loop_stop(TARN_CONTAINER(t, struct serve, stop_task)->loop);
}

void serve_want_stop(struct serve *s)
{
    if (!atomic_exchange(&s->stop_wanted, true))
        tarn_loop_post(s->loop, &s->stop_task, stop_task_cb);
}

void serve_fail(struct serve *s, int rc, const char *text)
{
    if (s->end_rc == 0)
        s->end_rc = tarn_err_set(&s->end_err, rc, "%s", text);
    serve_want_stop(s);
}

static void serve_signal(void *arg, int sig)
{
    if (sig == SIGHUP)
        tarn_log_reopen();
    else
        serve_want_stop(arg);
}

/* ---- steps ------------------------------------------------------------------------------------
 */

void serve_done_rc(void *step, int rc)
{
    struct serve_step *st = step;

    st->done = true;
    st->rc = rc;
    tarn_loop_stop(st->serve->loop);
}

void serve_done(void *step)
{
    serve_done_rc(step, 0);
}

void serve_done_err(void *step, int rc, const struct tarn_errbuf *err)
{
    struct serve *s = ((struct serve_step *)step)->serve;

    if (rc < 0 && err && !atomic_load(&s->stop_wanted))
        *s->err = *err;
    serve_done_rc(step, rc);
}

int serve_wait(struct serve_step *st)
{
    while (!st->done)
        tarn_loop_run(st->serve->loop);
    return st->rc;
}

int serve_wait_or_stop(struct serve_step *st)
{
    while (!st->done && !atomic_load(&st->serve->stop_wanted))
        tarn_loop_run(st->serve->loop);
    return st->done ? st->rc : -TARN_E_CANCELLED;
}

static void sleep_cb(struct tarn_timer *t, void *arg)
{
    (void)t; /* the sleeper's */
    serve_done(arg);
}

void serve_sleep(struct serve *s, uint64_t ns)
{
    struct serve_step st = {.serve = s};
    struct tarn_timer timer = {0};

    tarn_timer_start(s->loop, &timer, ns, sleep_cb, &st);
    (void)serve_wait_or_stop(&st); /* either is good */
    tarn_timer_stop(&timer);
}

/* ---- life ------------------------------------------------------------------------------------ */

static void serve_raise_fds(void)
{
    struct rlimit r;

    if (getrlimit(RLIMIT_NOFILE, &r) == 0 && r.rlim_cur < r.rlim_max) {
        r.rlim_cur = TARN_MIN(r.rlim_max, (rlim_t)1048576);
        (void)setrlimit(RLIMIT_NOFILE, &r); /* fewer cached descriptors then */
    }
}

uint32_t serve_open_files(const struct cli *c)
{
    struct rlimit r;

    if (c->cache.open_files)
        return (uint32_t)c->cache.open_files;
    if (getrlimit(RLIMIT_NOFILE, &r) < 0)
        return 512;
    return (uint32_t)TARN_MAX((rlim_t)64, TARN_MIN(r.rlim_cur / 2, (rlim_t)65536));
}

static void serve_log_dir(const char *path)
{
    if (mkdir(path, 0755) < 0 && errno != EEXIST)
        tarn_debug("serve", "%s: %s", path, strerrordesc_np(errno)); /* opening the log tells */
}

void serve_log_path(struct serve *s, const char *what)
{
    const char *xdg = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    struct tarn_str *path = &s->log_path;
    uint8_t digest[32];
    char hex[17];

    if (!s->cli->server.daemon || s->cli->server.log_file[0])
        return;
    tarn_sha256_of(what, strlen(what), digest);
    tarn_hex(digest, 8, hex);
    if (getuid() == 0)
        tarn_str_adds(path, "/var/log");
    else if (xdg && xdg[0] == '/')
        tarn_str_adds(path, xdg);
    else if (home && home[0] == '/')
        tarn_str_addf(path, "%s/.local/state", home);
    else
        return; /* nowhere */
    serve_log_dir(tarn_str_z(path));
    tarn_str_adds(path, "/tarn");
    serve_log_dir(tarn_str_z(path));
    tarn_str_addf(path, "/%s-%s.log", s->role->name, hex);
}

static int serve_open_log(struct serve *s)
{
    const struct cli_server *p = &s->cli->server;
    const char *path = p->log_file[0] ? p->log_file : NULL;
    int rc;

    if (!path && p->daemon && s->log_path.len)
        path = tarn_str_z(&s->log_path);
    if (!path)
        return 0;
    rc = tarn_log_open(path, (enum tarn_log_level)s->cli->common.log_level,
                       (enum tarn_log_format)s->cli->common.log_format);
    if (rc == 0)
        daemon_tell_log(&s->daemon, path);
    return rc < 0 ? tarn_err_set(s->err, daemon_path_code(-rc), "--log-file %s: %s", path,
                                 tarn_strerror(rc))
                  : 0;
}

/* A line, by one write: threads log already. */
static void serve_say(const struct serve *s, const char *text)
{
    char *line = NULL;
    size_t len = 0;
    FILE *f = s->cli->common.quiet ? NULL : open_memstream(&line, &len);

    if (!f)
        return;
    cli_put_name(f, text, strlen(text));
    (void)fputc('\n', f);
    if (fclose(f) == 0)
        (void)fwrite(line, 1, len, stderr); /* there is nowhere else to say it */
    free(line);
}

/* What serve_fail() said. */
static int serve_end(struct serve *s)
{
    *s->err = s->end_err;
    return s->end_rc;
}

static int serve_start(struct serve *s)
{
    int rc = tarn_loop_new(&s->loop);

    if (rc == 0)
        rc = tarn_disk_pool_new(s->cli->cache.disk_threads ? (unsigned)s->cli->cache.disk_threads
                                                           : SERVE_DISK_THREADS,
                                &s->disk);
    if (rc == 0)
        rc = signals_start(serve_signals, serve_signal, s, &s->signals);
    for (size_t i = 0; rc == 0 && s->role->steps[i]; i++) {
        rc = s->role->steps[i](s->ctx);
        if (rc == 0 && atomic_load(&s->stop_wanted))
            rc = -TARN_E_CANCELLED;
    }
    if (rc == 0)
        rc = daemon_pid_write(s->cli->server.pid_file, s->err);
    if (s->end_rc < 0)
        return serve_end(s);
    if (rc < 0 && atomic_load(&s->stop_wanted)) /* whatever failed, that was asked for */
        rc = tarn_err_set(s->err, -TARN_E_CANCELLED, "stopped while starting");
    return rc;
}

static void serve_stop(struct serve *s)
{
    if (s->loop)
        s->role->stop(s->ctx);
    if (s->disk)
        tarn_disk_free(&s->disk);
    signals_stop(&s->signals);
    if (s->loop)
        tarn_loop_free(&s->loop);
    daemon_pid_remove(s->cli->server.pid_file);
}

/* From its start to its end. */
static int serve_parts(struct serve *s)
{
    struct tarn_str ready = {0};
    bool in_front = s->daemon.fd < 0;
    int rc = serve_start(s);

    if (rc == 0) {
        s->role->ready(s->ctx, &ready);
        if (in_front)
            serve_say(s, tarn_str_z(&ready));
        if (!daemon_tell(&s->daemon, 0, tarn_str_z(&ready)))
            rc = tarn_err_set(s->err, -TARN_E_CANCELLED, "whoever started it went away");
    }
    while (rc == 0 && !atomic_load(&s->stop_wanted))
        tarn_loop_run(s->loop);
    if (rc == 0 && s->end_rc < 0)
        rc = serve_end(s);
    if (rc == 0 || rc == -TARN_E_CANCELLED)
        tarn_info(s->role->name, "stopping: %s",
                  rc < 0                   ? s->err->text
                  : atomic_load(&s->ended) ? "unmounted"
                                           : "signal");
    else if (rc == s->end_rc) /* after its start, when nobody waits for its word */
        tarn_error(s->role->name, "stopping: %s", tarn_err_text(s->err, rc));
    serve_stop(s);
    tarn_str_fini(&ready);
    return rc;
}

/* In the background or in front. */
static int serve_life(struct serve *s)
{
    int rc = 0;

    signals_block(serve_signals);
    (void)signal(SIGPIPE, SIG_IGN); /* a peer that is gone is an error, not our end */
    serve_raise_fds();
    if (s->role->hold)
        rc = s->role->hold(s->ctx);
    if (rc == 0)
        rc = serve_open_log(s);
    if (rc == 0)
        rc = serve_parts(s);
    if (s->role->let_go)
        s->role->let_go(s->ctx);
    /* Of a failure only now: who hears of it may start another at once. */
    (void)daemon_tell(&s->daemon, rc, tarn_err_text(s->err, rc));
    return rc == -TARN_E_CANCELLED ? 0 : rc; /* it was told to stop, and did */
}

int serve_run(struct serve *s)
{
    struct tarn_str said = {0};
    int rc = 0, forked = 0;

    s->err = &s->cli->err;
    s->daemon.fd = -1;
    if (s->cli->server.daemon)
        forked = daemon_fork(&s->daemon, s->cli->common.quiet, &said, &rc, s->err);
    if (forked < 0)
        rc = forked;
    else if (forked > 0 && rc == 0)
        serve_say(s, tarn_str_z(&said));
    else if (forked == 0)
        rc = serve_life(s);
    tarn_str_fini(&said);
    tarn_str_fini(&s->log_path);
    return rc;
}

/* ---- listeners ---------------------------------------------------------------------------------
 */

static int rpc_listen(struct serve *s, const struct serve_rpc_args *args, struct serve_rpc *r)
{
    const char *asked = s->cli->listen.listen, *got = NULL;
    int rc = -TARN_E_ADDR_IN_USE;

    if (asked[0]) {
        rc = tarn_rpc_server_listen(r->server, asked, &got);
        if (rc < 0)
            return tarn_err_set(s->err, rc == -TARN_E_ADDR_IN_USE ? rc : -TARN_E_CONFIG,
                                "--listen %s: %s", asked,
                                rc == -TARN_E_INVALID || rc == -EINVAL
                                    ? "must be HOST:PORT, with a PORT up to 65535"
                                    : tarn_strerror(rc));
    }
    for (unsigned i = 0; !got && i < SERVE_PORTS && rc == -TARN_E_ADDR_IN_USE; i++) {
        char addr[32];

        if (args->port + i == args->skip)
            continue;
        (void)snprintf(addr, sizeof(addr), "127.0.0.1:%u", args->port + i); /* fits */
        rc = tarn_rpc_server_listen(r->server, addr, &got);
    }
    if (!got)
        return tarn_err_set(s->err, rc, "no free control port from %u on: %s", args->port,
                            tarn_strerror(rc));
    (void)snprintf(r->addr, sizeof(r->addr), "%s", got); /* an address is short */
    return 0;
}

int serve_rpc_open(struct serve *s, const struct serve_rpc_args *args, struct serve_rpc *r)
{
    struct tarn_rpc_server_args server = {.loop = s->loop,
                                          .rng = tarn_rng_system(),
                                          .cluster_id = args->cluster_id,
                                          .ctx = args->ctx,
                                          .on_gone = args->on_gone};
    uint8_t nobody[32]; /* the token's file may be named by the port, known after listening only */
    int rc;

    tarn_rng_system()->fill(tarn_rng_system(), nobody, sizeof(nobody));
    server.token = nobody;
    server.token_len = sizeof(nobody);
    rc = tarn_rpc_server_new(&server, &r->server);
    return rc < 0 ? rc : rpc_listen(s, args, r);
}

void serve_rpc_admit(struct serve_rpc *r)
{
    TARN_ASSERT(r->token.len > 0);
    tarn_rpc_server_set_token(r->server, r->token.p, r->token.len);
}

void serve_rpc_stop(struct serve *s, struct serve_rpc *r)
{
    if (r->token_path.len) /* while the port is ours: the next one there has a token of its own */
        (void)unlink(tarn_str_z(&r->token_path)); /* a stale one only fails to authenticate */
    if (r->server) {
        struct serve_step st = {.serve = s};

        tarn_rpc_server_stop(r->server, serve_done, &st);
        (void)serve_wait(&st);
        tarn_rpc_server_free(&r->server);
    }
    if (r->token.p)
        tarn_wipe(r->token.p, r->token.cap);
    tarn_str_fini(&r->token);
    tarn_str_fini(&r->token_path);
}

/* ---- addresses --------------------------------------------------------------------------------
 */

bool serve_addr_is_loopback(const char *addr)
{
    const char *end = addr[0] == '[' ? strchr(addr, ']') : strrchr(addr, ':');
    struct in6_addr six;
    struct in_addr four;
    char host[64];
    size_t n;

    if (tarn_starts_with(addr, "unix:"))
        return true;
    addr += addr[0] == '[';
    n = end ? (size_t)(end - addr) : strlen(addr);
    if (n >= sizeof(host))
        return false;
    memcpy(host, addr, n);
    host[n] = 0;
    if (inet_pton(AF_INET, host, &four) == 1)
        return ntohl(four.s_addr) >> 24 == 127;
    if (inet_pton(AF_INET6, host, &six) == 1)
        return IN6_IS_ADDR_LOOPBACK(&six);
    return strcmp(host, "localhost") == 0;
}

static int check_addr(struct cli *c, const char *flag, const char *addr, const char *needs)
{
    if (!addr[0] || strcmp(addr, "none") == 0 || c->server.insecure || serve_addr_is_loopback(addr))
        return 0;
    if (!strchr(addr, ':'))
        return tarn_err_set(&c->err, -TARN_E_CONFIG, "--%s %s: must be HOST:PORT", flag, addr);
    return tarn_err_set(&c->err, -TARN_E_CONFIG, "--%s %s: listening beyond loopback needs %s",
                        flag, addr, needs);
}

int serve_check_addrs(struct cli *c, bool has_token)
{
    int rc = 0;

    if (c->listen.listen && !has_token)
        rc = check_addr(c, "listen", c->listen.listen,
                        c->remote.token_file ? "--token-file or --insecure" : "--insecure");
    return rc < 0 ? rc : check_addr(c, "http-listen", c->server.http_listen, "--insecure");
}
