/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What commands share: tables of flags, the connection to a running server, paths, output.
 */
#include "tools/cli.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "fuse/fuse.h"
#include "lib/base/assert.h"
#include "lib/base/env.h"
#include "lib/base/hash.h"
#include "lib/base/limits.h"
#include "lib/base/mem.h"
#include "lib/base/name.h"
#include "tools/signals.h"
#include "ufs/ufs_opts.h"

#define TARN_CONF_STRUCT struct cli_common
static const struct tarn_conf_param common_rows[] = {
#define TARN_PARAM TARN_CONF_ROW
#include "tools/common_params.def"
#undef TARN_PARAM
};
const struct tarn_conf_table cli_common_table =
    TARN_CONF_TABLE("common", "Every command", common_rows);
#undef TARN_CONF_STRUCT

#define TARN_CONF_STRUCT struct cli_remote
static const struct tarn_conf_param remote_rows[] = {
#define TARN_PARAM TARN_CONF_ROW
#include "tools/remote_params.def"
#undef TARN_PARAM
};
const struct tarn_conf_table cli_remote_table =
    TARN_CONF_TABLE("remote", "Commands that talk to a server", remote_rows);
#undef TARN_CONF_STRUCT

#define TARN_CONF_STRUCT struct cli_server
static const struct tarn_conf_param server_rows[] = {
#define TARN_PARAM TARN_CONF_ROW
#include "tools/server_params.def"
#undef TARN_PARAM
};
const struct tarn_conf_table cli_server_table =
    TARN_CONF_TABLE("server", "Servers (tarn local, master, worker, mount)", server_rows);
#undef TARN_CONF_STRUCT

#define TARN_CONF_STRUCT struct cli_listen
static const struct tarn_conf_param listen_rows[] = {
#define TARN_PARAM TARN_CONF_ROW
#include "tools/listen_params.def"
#undef TARN_PARAM
};
const struct tarn_conf_table cli_listen_table = TARN_CONF_TABLE(
    "listen", "Servers that others talk to (tarn local, master, worker)", listen_rows);
#undef TARN_CONF_STRUCT

#define TARN_CONF_STRUCT struct cli_cache
static const struct tarn_conf_param cache_rows[] = {
#define TARN_PARAM TARN_CONF_ROW
#include "tools/cache_params.def"
#undef TARN_PARAM
};
const struct tarn_conf_table cli_cache_table =
    TARN_CONF_TABLE("cache", "What keeps bytes (tarn local, worker)", cache_rows);
#undef TARN_CONF_STRUCT

#define TARN_CONF_STRUCT struct cli_fuse
static const struct tarn_conf_param fuse_rows[] = {
#define TARN_PARAM TARN_CONF_ROW
#include "tools/fuse_params.def"
#undef TARN_PARAM
};
const struct tarn_conf_table cli_fuse_table =
    TARN_CONF_TABLE("fuse", "What mounts (tarn local, mount)", fuse_rows);
#undef TARN_CONF_STRUCT

#define TARN_CONF_STRUCT struct cli_store
static const struct tarn_conf_param store_rows[] = {
#define TARN_PARAM TARN_CONF_ROW
#include "tools/store_params.def"
#undef TARN_PARAM
};
const struct tarn_conf_table cli_store_table =
    TARN_CONF_TABLE("store", "What attaches a store (tarn local, attach)", store_rows);
#undef TARN_CONF_STRUCT

const struct tarn_conf_table *const cli_all_tables[] = {
    &cli_common_table, &cli_remote_table, &cli_server_table,    &cli_listen_table,
    &cli_cache_table,  &cli_fuse_table,   &cli_store_table,     &cli_local_table,
    &cli_master_table, &cli_worker_table, &cli_mount_table,     &cli_attach_table,
    &cli_load_table,   &cli_free_table,   &cli_ls_table,        &cli_cp_table,
    &cli_umount_table, &cli_wait_table,   &tarn_ufs_opts_table, NULL};

bool cli_given(const struct cli *c, const char *key)
{
    return strcmp(tarn_conf_source(c->conf, key), "default") != 0;
}

int cli_refuse(struct cli *c, const char *key, const char *why)
{
    return cli_given(c, key) ? tarn_err_set(&c->err, -TARN_E_CONFIG, "--%s: %s", key, why) : 0;
}

int cli_only_flags(struct cli *c, const char *word, const char *const *keys)
{
    size_t n;
    const struct tarn_conf_arg *args = tarn_flags_conf(c->flags, &n);

    for (size_t i = 0; i < n; i++) {
        bool taken = tarn_conf_find(&cli_remote_table, args[i].key) ||
                     tarn_conf_find(&cli_common_table, args[i].key);

        for (size_t k = 0; keys && keys[k]; k++)
            taken |= strcmp(keys[k], args[i].key) == 0;
        if (!taken)
            return tarn_err_set(&c->err, -TARN_E_USAGE, "%s: takes no %s", word, args[i].shown);
    }
    return 0;
}

/* ---- connection ------------------------------------------------------------------------------ */

#define CONNECT_NS (10 * TARN_NS_PER_S)
#define LOST_NS    (3 * TARN_NS_PER_S) /* a server that has gone may be back by then */

static void cli_signals_end(struct cli *c);

int cli_token(struct cli *c, struct tarn_str *ret)
{
    int rc;

    if (c->remote.token_file[0]) {
        rc = cli_token_read(c->remote.token_file, ret, &c->err);
        return rc == -ENOENT ? tarn_err_wrap(&c->err, -TARN_E_CONFIG, "--token-file") : rc;
    }
    rc = cli_token_find(cli_port(c->remote.master), ret, &c->err);
    if (rc == -ENOENT) { /* no server of this user: the connection itself says what is wrong */
        c->err.text[0] = 0;
        return 0;
    }
    return rc;
}

struct cli_wait {
    struct tarn_loop *loop;
    bool done;
    int rc;
};

static void cli_waited(void *arg, int rc)
{
    struct cli_wait *w = arg;

    w->done = true;
    w->rc = rc;
    tarn_loop_stop(w->loop);
}

static void cli_waited_plain(void *arg)
{
    cli_waited(arg, 0);
}

int cli_connect_error(struct cli *c, int rc)
{
    const char *at = c->remote.master;

    if (rc == -TARN_E_AUTH_REQUIRED && !c->remote.token_file[0])
        return tarn_err_set(&c->err, rc,
                            "%s: %s, and this user has no token of it (--token-file or "
                            "TARN_TOKEN_FILE names one)",
                            at, tarn_strerror(rc));
    if ((rc == -TARN_E_AUTH_BAD || rc == -TARN_E_AUTH_REQUIRED) && c->remote.token_file[0])
        return tarn_err_set(&c->err, rc, "%s: %s with the token of %s", at, tarn_strerror(rc),
                            c->remote.token_file);
    if (tarn_err_exit(rc) == TARN_EXIT_DENIED)
        return tarn_err_set(
            &c->err, rc, "%s: %s (the token is that of another user or server; see --token-file)",
            at, tarn_strerror(rc));
    if (rc == -TARN_E_FRAME_BAD || rc == -TARN_E_MSG_BAD || rc == -TARN_E_CONN_LOST)
        return tarn_err_set(&c->err, rc, "%s: %s: is it the control port of a tarn server?", at,
                            tarn_strerror(rc));
    if (rc == -TARN_E_NO_SUCH_RPC)
        return tarn_err_set(&c->err, rc, "%s: %s: is it the master, and as new as this?", at,
                            tarn_strerror(rc));
    if (rc == -TARN_E_INVALID)
        return tarn_err_set(&c->err, -TARN_E_USAGE, "--master %s: must be HOST:PORT[,HOST:PORT...]",
                            at);
    if (rc == -TARN_E_CONN_REFUSED)
        return tarn_err_set(&c->err, rc,
                            "no tarn serves at %s (--master or TARN_MASTER names another)", at);
    return tarn_err_set(&c->err, rc, "%s: %s", at, tarn_strerror(rc));
}

int cli_connect(struct cli *c)
{
    struct tarn_str token = {0};
    struct tarn_client_args args = {.rng = tarn_rng_system(),
                                    .addrs = c->remote.master,
                                    .kind = "cli",
                                    .transient = true,
                                    .cache_entries = 1024,
                                    .timeout_ns = c->remote.timeout,
                                    .lost_timeout_ns = LOST_NS};
    struct cli_wait wait = {0};
    int rc = cli_token(c, &token);

    if (rc == 0)
        rc = tarn_loop_new(&c->loop);
    if (rc < 0)
        return rc;
    (void)signal(SIGPIPE, SIG_IGN); /* a peer that is gone is an error, not our end */
    args.loop = wait.loop = c->loop;
    args.token = token.len ? token.p : NULL;
    args.token_len = token.len;
    rc = tarn_client_new(&args, &c->client);
    if (token.p)
        tarn_wipe(token.p, token.cap);
    tarn_str_fini(&token);
    if (rc < 0)
        return tarn_err_set(&c->err, rc == -TARN_E_INVALID ? -TARN_E_USAGE : rc, "--master %s: %s",
                            c->remote.master,
                            rc == -TARN_E_INVALID ? "must be HOST:PORT[,HOST:PORT...]"
                                                  : tarn_strerror(rc));
    tarn_client_connect(c->client, TARN_MIN(c->remote.timeout, CONNECT_NS), cli_waited, &wait);
    while (!wait.done)
        tarn_loop_run(c->loop);
    return wait.rc < 0 ? cli_connect_error(c, wait.rc) : 0;
}

void cli_disconnect(struct cli *c)
{
    struct cli_wait wait = {.loop = c->loop};

    cli_signals_end(c);
    if (c->client) {
        tarn_client_stop(c->client, cli_waited_plain, &wait);
        while (!wait.done)
            tarn_loop_run(c->loop);
        tarn_client_free(&c->client);
    }
    if (c->loop)
        tarn_loop_free(&c->loop);
}

int cli_failed(struct cli *c, int rc, const char *what)
{
    switch (-rc) {
    case TARN_E_CONN_LOST:
    case TARN_E_CONN_REFUSED:
    case TARN_E_SHUTDOWN:
        return tarn_err_set(&c->err, rc, "%s: the server at %s went away", what, c->remote.master);
    case TARN_E_AUTH_BAD: /* it took us before: this is not the same process */
    case TARN_E_AUTH_REQUIRED:
        return tarn_err_set(&c->err, -TARN_E_CONN_LOST,
                            "%s: the server at %s was started anew meanwhile", what,
                            c->remote.master);
    default:
        return c->err.text[0] ? rc : tarn_err_set(&c->err, rc, "%s: %s", what, tarn_strerror(rc));
    }
}

int cli_told(struct cli *c, int rc, const char *text)
{
    return text[0] ? tarn_err_set(&c->err, rc, "%s", text) : rc;
}

int cli_call_waiting(struct cli *c, struct tarn_rpc_req *req, uint32_t method,
                     const ProtobufCMessage *msg, uint64_t wait_ns, const char *what)
{
    int rc;

    memset(req, 0, sizeof(*req));
    req->method = method;
    req->msg = msg;
    req->timeout_ns = c->remote.timeout + wait_ns;
    rc = tarn_rpc_call_sync(tarn_client_rpc(c->client), req);
    if (rc == 0 && !req->resp)
        rc = -TARN_E_MSG_BAD;
    return rc < 0 ? cli_failed(c, rc, what) : 0;
}

int cli_call(struct cli *c, struct tarn_rpc_req *req, uint32_t method, const ProtobufCMessage *msg,
             const char *what)
{
    return cli_call_waiting(c, req, method, msg, 0, what);
}

int cli_status(struct cli *c, Tarn__Wire__StatusResponse **ret)
{
    Tarn__Wire__Empty msg = TARN__WIRE__EMPTY__INIT;
    struct tarn_rpc_req req;
    int rc = cli_call(c, &req, TARN_RPC_status, &msg.base, "status");

    if (rc == 0) {
        *ret = (Tarn__Wire__StatusResponse *)req.resp;
        req.resp = NULL;
    }
    tarn_rpc_req_fini(&req);
    return rc;
}

static void cli_op_done(struct tarn_client_op *op, int rc)
{
    cli_waited(op->arg, rc);
}

int cli_op(struct cli *c, struct tarn_client_op *op, const char *what)
{
    struct cli_wait wait = {.loop = c->loop};
    bool cancelled = false;

    op->cb = cli_op_done;
    op->arg = &wait;
    tarn_client_start(c->client, op);
    while (!wait.done) {
        tarn_loop_run(c->loop);
        if (!wait.done && !cancelled && cli_interrupts(c) > 0) {
            tarn_client_cancel(op); /* the callback follows */
            cancelled = true;
        }
    }
    return wait.rc < 0 ? cli_failed(c, wait.rc, what) : 0;
}

int cli_resolve(struct cli *c, const char *path, struct tarn_attr *ret)
{
    struct tarn_client_op op = {
        .kind = TARN_CLIENT_RESOLVE, .name = path, .name_len = strlen(path)};
    int rc = cli_op(c, &op, path);

    if (rc == 0)
        *ret = op.attr;
    return rc;
}

/* One page. *ret_cookie: where the next one starts; 0 behind the last. */
static int cli_entries_page(struct cli *c, const Tarn__Wire__ReaddirResponse *page,
                            cli_entry_fn *fn, void *arg, uint64_t *ret_cookie)
{
    struct tarn_attr attr;
    int rc = 0;

    for (size_t i = 0; i < page->n_entries && rc == 0; i++) {
        const Tarn__Wire__Dirent *d = page->entries[i];

        rc = tarn_client_attr_decode(d->attr, tarn_now_ns(), &attr);
        if (rc == 0)
            rc = fn(arg, (const char *)d->name.data, d->name.len, &attr);
        *ret_cookie = d->cookie;
    }
    if (page->eof)
        *ret_cookie = 0;
    else if (rc == 0 && page->n_entries == 0)
        rc = tarn_err_set(&c->err, -TARN_E_MSG_BAD, "an empty page of a listing");
    return rc;
}

int cli_each_entry(struct cli *c, tarn_ino_t dir, const char *what, cli_entry_fn *fn, void *arg)
{
    uint64_t cookie = 0;
    int rc;

    do {
        struct tarn_client_op op = {
            .kind = TARN_CLIENT_READDIR, .ino = dir, .cookie = cookie, .max = TARN_READDIR_ENTRIES};

        rc = cli_op(c, &op, what);
        if (rc < 0)
            return rc;
        rc = cli_entries_page(c, (const Tarn__Wire__ReaddirResponse *)op.resp, fn, arg, &cookie);
        protobuf_c_message_free_unpacked(op.resp, NULL);
    } while (rc == 0 && cookie != 0);
    return rc;
}

static void cli_slept(struct tarn_timer *t, void *arg)
{
    (void)t; /* the sleeper's */
    cli_waited(arg, 0);
}

void cli_sleep(struct cli *c, uint64_t ns)
{
    struct cli_wait wait = {.loop = c->loop};
    struct tarn_timer timer = {0};

    tarn_timer_start(c->loop, &timer, ns, cli_slept, &wait);
    while (!wait.done && cli_interrupts(c) == 0)
        tarn_loop_run(c->loop);
    tarn_timer_stop(&timer);
}

/* ---- interrupts ------------------------------------------------------------------------------ */

/* Lock: none. The thread of signals.c counts and posts to the loop. */
struct cli_signals {
    struct tarn_loop *loop;
    struct signals *signals;
    struct tarn_task task; /* the loop's while `posted` */
    _Atomic bool posted;
    _Atomic unsigned caught; /* by the thread */
    unsigned count;          /* as the loop knows it */
};

static void cli_signals_task(struct tarn_task *t)
{
    struct cli_signals *s = TARN_CONTAINER(t, struct cli_signals, task);

    atomic_store(&s->posted, false);
    s->count = atomic_load(&s->caught);
    tarn_loop_stop(s->loop);
}

static void cli_signals_caught(void *arg, int sig)
{
    struct cli_signals *s = arg;

    (void)sig; /* both mean the same */
    atomic_fetch_add(&s->caught, 1);
    if (!atomic_exchange(&s->posted, true))
        tarn_loop_post(s->loop, &s->task, cli_signals_task);
}

int cli_catch_interrupts(struct cli *c)
{
    static const int caught[] = {SIGINT, SIGTERM, 0};
    struct cli_signals *s = tarn_xnew(struct cli_signals);
    int rc;

    TARN_ASSERT(c->loop && !c->signals);
    s->loop = c->loop;
    rc = signals_start(caught, cli_signals_caught, s, &s->signals);
    if (rc < 0) {
        free(s);
        return rc;
    }
    c->signals = s;
    return 0;
}

unsigned cli_interrupts(const struct cli *c)
{
    return c->signals ? c->signals->count : 0;
}

static void cli_signals_end(struct cli *c)
{
    if (!c->signals)
        return;
    signals_stop(&c->signals->signals);
    while (atomic_load(&c->signals->posted))
        tarn_loop_run(c->loop);
    free(c->signals);
    c->signals = NULL;
}

/* ---- paths and output ------------------------------------------------------------------------ */

/* What of `path` is below `dir`: "" or "/..."; NULL: it is not. */
static const char *path_below(const char *path, const char *dir)
{
    size_t n = strlen(dir);

    return tarn_starts_with(path, dir) && (path[n] == 0 || path[n] == '/') ? path + n : NULL;
}

/* `path` is absolute and lies on this machine; `norm` is its normal form. */
static int path_of_mount(struct cli *c, const char *arg, const char *path, const char *norm)
{
    char mnt[PATH_MAX], real[PATH_MAX];
    struct tarn_str shown = {0};
    const char *inside;
    int rc;

    if (!tarn_fuse_find_mount(path, mnt, &shown))
        return 0;
    inside = path_below(norm, mnt);
    if (!inside && realpath(path, real))
        inside = path_below(real, mnt);
    if (inside)
        tarn_str_adds(&shown, inside);
    rc = tarn_err_set(&c->err, -TARN_E_UNDER_MOUNT,
                      "%s: is a path below the mountpoint %s; the path of the name space is %s",
                      arg, mnt, shown.len ? tarn_str_z(&shown) : "/");
    tarn_str_fini(&shown);
    return rc;
}

/* Whoever stands in a mount means what is there, not the root of the name space. */
static int path_from_here(struct cli *c, const char *arg, const char *norm)
{
    TARN_AUTO_FREE char *at = NULL, *joined = NULL;
    char cwd[PATH_MAX];

    if (!getcwd(cwd, sizeof(cwd)))
        return 0; /* it is nowhere */
    at = tarn_xasprintf("%s/%s", cwd, arg);
    joined = tarn_xasprintf("%s%s", cwd, norm[1] ? norm : "");
    return path_of_mount(c, arg, at, joined);
}

int cli_path(struct cli *c, const char *arg, char *ret)
{
    bool told = tarn_starts_with(arg, "tarn:");
    int rc;

    if (told)
        arg += 5;
    if (!arg[0]) /* a variable that is not set must not mean everything */
        return tarn_err_set(&c->err, -TARN_E_USAGE, "a path is empty (/ is all there is)");
    rc = tarn_path_normalize(arg, ret);
    if (rc == -TARN_E_NAME_BAD)
        return tarn_err_set(&c->err, -TARN_E_USAGE, "%s: a path must not contain \"..\"", arg);
    if (rc < 0)
        return tarn_err_set(&c->err, rc, "%s: %s", arg, tarn_strerror(rc));
    if (arg[0] == '/')
        return ret[1] ? path_of_mount(c, arg, arg, ret) : 0;
    return told ? 0 : path_from_here(c, arg, ret);
}

void cli_json(json_t *doc)
{
    char *text = json_dumps(doc, JSON_COMPACT | JSON_PRESERVE_ORDER);

    TARN_ASSERT(text != NULL);
    (void)puts(text); /* main() checks the stream at the end */
    free(text);
    json_decref(doc);
}

/* Bytes of the UTF-8 sequence at p[0..n), 0 if there is none. */
static size_t utf8_len(const unsigned char *p, size_t n)
{
    size_t len = p[0] < 0x80 ? 1 : p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;

    if (len > n || p[0] > 0xf4 || (p[0] >= 0x80 && p[0] < 0xc2))
        return 0;
    for (size_t i = 1; i < len; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) ||
        (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f))
        return 0; /* overlong, a surrogate, or beyond U+10FFFF */
    return len;
}

json_t *cli_json_bytes(const void *p, size_t len)
{
    const unsigned char *s = p;
    struct tarn_str text = {0};
    json_t *j = json_stringn(p, len);

    if (j)
        return j;
    for (size_t i = 0; i < len;) {
        size_t n = utf8_len(s + i, len - i);

        tarn_str_add(&text, n ? (const char *)s + i : "\xef\xbf\xbd", n ? n : 3);
        i += n ? n : 1;
    }
    j = json_stringn(tarn_str_z(&text), text.len);
    tarn_str_fini(&text);
    TARN_ASSERT(j != NULL);
    return j;
}

json_t *cli_json_text(const char *z)
{
    return cli_json_bytes(z, strlen(z));
}

json_t *cli_json_count(uint64_t n, bool known)
{
    return known ? json_integer((json_int_t)n) : json_null();
}

json_t *cli_json_reason(bool unknown, const char *reason)
{
    return unknown ? cli_json_text(reason) : json_null();
}

void cli_json_set(json_t *object, const char *key, const void *p, size_t len)
{
    json_t *j = json_stringn(p, len);
    TARN_AUTO_FREE char *hex = NULL, *hex_key = NULL;

    if (!j) {
        hex = tarn_xcalloc(2, len + 1);
        hex_key = tarn_xasprintf("%s_hex", key);
        tarn_hex(p, len, hex);
        (void)json_object_set_new(object, hex_key, json_string(hex)); /* out of memory only */
        j = cli_json_bytes(p, len);
    }
    (void)json_object_set_new(object, key, j); /* out of memory only */
}

void cli_put_name(FILE *out, const char *name, size_t len)
{
    const unsigned char *s = (const unsigned char *)name;

    for (size_t i = 0; i < len;) {
        size_t n = utf8_len(s + i, len - i);
        bool control =
            n == 1 ? s[i] < 0x20 || s[i] == 0x7f : n == 2 && s[i] == 0xc2 && s[i + 1] < 0xa0;

        if (n == 0 || control) {
            (void)fprintf(out, "\\x%02x", s[i]); /* whoever owns the stream checks it */
            n = 1;
            if (control && s[i] == 0xc2)
                (void)fprintf(out, "\\x%02x", s[i + n++]);
        } else {
            (void)fwrite(s + i, 1, n, out);
        }
        i += n;
    }
}

void cli_print_name(const struct cli *c, const char *name, size_t len)
{
    if (c->terminal)
        cli_put_name(stdout, name, len);
    else
        (void)fwrite(name, 1, len, stdout); /* main() checks the stream at the end */
}

int cli_out_check(struct cli *c)
{
    return ferror(stdout) ? tarn_err_set(&c->err, -EIO, "standard output: write failed") : 0;
}

void cli_usage(FILE *out)
{
    const struct cli_command *cmd;

    (void)fprintf(out, "usage: tarn COMMAND [FLAGS] [ARGUMENTS]\n\ncommands:\n"); /* only help */
    for (size_t i = 0; (cmd = cli_at(i)) != NULL; i++)
        (void)fprintf(out, "  %-10s %s\n", cmd->name, cmd->spec->summary);
    (void)fprintf(out, "\n`tarn help COMMAND` (or `tarn COMMAND --help`) tells more;\n"
                       "`tarn help --man COMMAND | man -l -` is its manual page, and\n"
                       "`tarn help --completion bash` a script for the shell.\n");
}
