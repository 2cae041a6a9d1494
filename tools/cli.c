/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What commands share: tables of flags, the connection to a running server, paths, output.
 */
#include "tools/cli.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "fuse/fuse.h"
#include "lib/base/assert.h"
#include "lib/base/env.h"
#include "lib/base/hash.h"
#include "lib/base/mem.h"
#include "lib/base/name.h"

#define TARN_CONF_STRUCT struct cli_common
static const struct tarn_conf_param common_rows[] = {
#define TARN_PARAM TARN_CONF_ROW
#include "tools/common_params.def"
#undef TARN_PARAM
};
const struct tarn_conf_table cli_common_table = TARN_CONF_TABLE("common", "Every command", common_rows);
#undef TARN_CONF_STRUCT

#define TARN_CONF_STRUCT struct cli_remote
static const struct tarn_conf_param remote_rows[] = {
#define TARN_PARAM TARN_CONF_ROW
#include "tools/remote_params.def"
#undef TARN_PARAM
};
const struct tarn_conf_table cli_remote_table = TARN_CONF_TABLE("remote", "Commands that talk to a server", remote_rows);
#undef TARN_CONF_STRUCT

const struct tarn_conf_table *const cli_all_tables[] = {&cli_common_table, &cli_remote_table, &cli_local_table, NULL};

/* ---- connection ------------------------------------------------------------------------------------------------------- */

static int cli_token(struct cli *c, struct tarn_str *ret)
{
    struct tarn_str path = {0};
    int rc;

    if (c->remote.token_file[0])
        return cli_token_read(c->remote.token_file, ret, &c->err);
    cli_token_dir(&path);
    tarn_str_addf(&path, "/%u.token", cli_port(c->remote.master));
    rc = cli_token_read(tarn_str_z(&path), ret, &c->err);
    tarn_str_fini(&path);
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

int cli_connect(struct cli *c)
{
    struct tarn_str token = {0};
    struct tarn_client_args args = {.rng = tarn_rng_system(), .addrs = c->remote.master, .kind = "cli", .cache_entries = 1024};
    struct cli_wait wait = {0};
    int rc = cli_token(c, &token);

    if (rc == 0)
        rc = tarn_loop_new(&c->loop);
    if (rc < 0)
        return rc;
    args.loop = wait.loop = c->loop;
    args.token = token.len ? token.p : NULL;
    args.token_len = token.len;
    rc = tarn_client_new(&args, &c->client);
    if (token.p)
        tarn_wipe(token.p, token.cap);
    tarn_str_fini(&token);
    if (rc < 0)
        return tarn_err_set(&c->err, rc, "--master %s: %s", c->remote.master, tarn_strerror(rc));
    tarn_client_connect(c->client, TARN_MIN(c->remote.timeout, 10 * TARN_NS_PER_S), cli_waited, &wait);
    while (!wait.done)
        tarn_loop_run(c->loop);
    if (wait.rc < 0)
        return tarn_err_set(&c->err, wait.rc, "no tarn that serves this user at %s: %s", c->remote.master, tarn_strerror(wait.rc));
    return 0;
}

void cli_disconnect(struct cli *c)
{
    struct cli_wait wait = {.loop = c->loop};

    if (c->client) {
        tarn_client_stop(c->client, cli_waited_plain, &wait);
        while (!wait.done)
            tarn_loop_run(c->loop);
        tarn_client_free(&c->client);
    }
    if (c->loop)
        tarn_loop_free(&c->loop);
}

int cli_call(struct cli *c, struct tarn_rpc_req *req, uint32_t method, const ProtobufCMessage *msg, const char *what)
{
    int rc;

    memset(req, 0, sizeof(*req));
    req->method = method;
    req->msg = msg;
    req->timeout_ns = c->remote.timeout;
    rc = tarn_rpc_call_sync(tarn_client_rpc(c->client), req);
    if (rc == 0 && !req->resp)
        rc = -TARN_E_MSG_BAD;
    if (rc < 0 && !c->err.text[0])
        (void)tarn_err_set(&c->err, rc, "%s: %s", what, tarn_strerror(rc));
    return rc;
}

/* ---- paths and output --------------------------------------------------------------------------------------------------- */

int cli_path(struct cli *c, const char *arg, char *ret)
{
    char mnt[PATH_MAX], real[PATH_MAX];
    int rc;

    if (tarn_starts_with(arg, "tarn:"))
        arg += 5;
    rc = tarn_path_normalize(arg, ret);
    if (rc < 0)
        return tarn_err_set(&c->err, rc, "%s: %s", arg, tarn_strerror(rc));
    if (arg[0] == '/' && ret[1] && tarn_fuse_find_mount(arg, mnt)) {
        const char *inside = tarn_starts_with(ret, mnt) ? ret + strlen(mnt) : realpath(arg, real) ? real + strlen(mnt) : "";

        return tarn_err_set(&c->err, -TARN_E_UNDER_MOUNT, "%s: is a path below the mountpoint %s; the path of the name space is %s", arg,
                            mnt, inside[0] ? inside : "/");
    }
    return 0;
}

void cli_json(json_t *doc)
{
    char *text = json_dumps(doc, JSON_COMPACT | JSON_PRESERVE_ORDER);

    TARN_ASSERT(text != NULL);
    (void)puts(text); /* main() checks the stream at the end */
    free(text);
    json_decref(doc);
}

void cli_put_name(FILE *out, const char *name, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        unsigned char ch = (unsigned char)name[i];

        if (ch < 0x20 || ch == 0x7f)
            (void)fprintf(out, "\\x%02x", ch); /* main() checks the stream at the end */
        else
            (void)putc(ch, out);
    }
}
