/* SPDX-License-Identifier: Apache-2.0 */
/*
 * umount: takes a mount away and waits until the process that served it has ended, so that its
 * cache directory is free when the command returns. That process is found by asking this user's
 * servers, which their token files name; whose mount is another user's is not waited for.
 */
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "fuse/fuse.h"
#include "lib/base/env.h"
#include "lib/base/mem.h"
#include "lib/base/units.h"
#include "tools/cli.h"

#define ASK_NS  TARN_NS_PER_S       /* a server that does not answer is not waited for */
#define FIND_NS (5 * TARN_NS_PER_S) /* of all of them: what died left its token file */
#define END_MS  30000

struct cli_umount {
#define TARN_PARAM TARN_CONF_FIELD
#include "tools/umount_params.def"
#undef TARN_PARAM
};
#define TARN_CONF_STRUCT struct cli_umount
static const struct tarn_conf_param umount_rows[] = {
#define TARN_PARAM TARN_CONF_ROW
#include "tools/umount_params.def"
#undef TARN_PARAM
};
const struct tarn_conf_table cli_umount_table =
    TARN_CONF_TABLE("umount", "tarn umount", umount_rows);

/* The process that serves a mountpoint, as the server at a port says; 0: it does not. */
static pid_t server_pid(unsigned port, const char *mountpoint)
{
    Tarn__Wire__Empty msg = TARN__WIRE__EMPTY__INIT;
    const Tarn__Wire__StatusResponse *st;
    struct cli probe = {.remote.token_file = "", .remote.timeout = ASK_NS};
    struct tarn_rpc_req req = {0};
    pid_t pid = 0;
    char addr[32];

    (void)snprintf(addr, sizeof(addr), "127.0.0.1:%u", port); /* fits */
    probe.remote.master = addr;
    if (cli_connect(&probe) == 0 && cli_call(&probe, &req, TARN_RPC_status, &msg.base, addr) == 0) {
        st = (const Tarn__Wire__StatusResponse *)req.resp;
        for (size_t i = 0; i < st->n_sessions; i++)
            if (strcmp(st->sessions[i]->mountpoint, mountpoint) == 0)
                pid = (pid_t)st->sessions[i]->pid;
    }
    tarn_rpc_req_fini(&req);
    cli_disconnect(&probe);
    return pid;
}

/* In another PID name space its number means another process. */
static bool pid_is_tarn(pid_t pid)
{
    TARN_AUTO_FREE char *path = tarn_xasprintf("/proc/%d/comm", (int)pid);
    FILE *f = fopen(path, "re");
    char name[16] = "";
    bool is;

    if (!f)
        return false;
    is = fgets(name, sizeof(name), f) && tarn_starts_with(name, "tarn");
    (void)fclose(f); /* only read from */
    return is;
}

/* Asks the servers whose token files are in `dir`. 0: none of them serves it. */
static pid_t server_find(const char *dir, const char *mountpoint)
{
    uint64_t end = tarn_now_ns() + FIND_NS;
    const struct dirent *e;
    pid_t pid = 0;
    DIR *d = opendir(dir);

    while (d && pid == 0 && tarn_now_ns() < end && (e = readdir(d)) != NULL) {
        TARN_AUTO_FREE char *name = tarn_xstrdup(e->d_name);
        uint64_t port;

        if (!tarn_ends_with(name, ".token"))
            continue;
        *strrchr(name, '.') = 0;
        if (tarn_parse_u64(name, &port) == 0 && port > 0 && port < 65536)
            pid = server_pid((unsigned)port, mountpoint);
    }
    if (d)
        (void)closedir(d);
    return pid;
}

/* A descriptor of the process that serves `mountpoint`; -1: not known. */
static int server_open(const char *mountpoint)
{
    struct tarn_str dirs[CLI_TOKEN_DIRS] = {0};
    unsigned n = cli_token_dirs(dirs);
    pid_t pid = 0;

    for (unsigned i = 0; i < n; i++) {
        if (pid == 0)
            pid = server_find(tarn_str_z(&dirs[i]), mountpoint);
        tarn_str_fini(&dirs[i]);
    }
    return pid > 0 && pid_is_tarn(pid) ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
}

static int server_wait(struct cli *c, const char *mountpoint, int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    int n;

    do {
        n = poll(&p, 1, END_MS);
    } while (n < 0 && errno == EINTR);
    if (n == 0)
        return tarn_err_set(&c->err, -TARN_E_DEADLINE,
                            "%s: unmounted, but the process that served it has not ended yet",
                            mountpoint);
    return 0;
}

static int umount_run(struct cli *c)
{
    const struct cli_umount *p = c->own;
    char path[PATH_MAX], real[PATH_MAX];
    TARN_AUTO_FD int server = -1;
    int rc;

    if (strlen(c->args[0]) >= sizeof(path))
        return tarn_err_set(&c->err, -ENAMETOOLONG, "%s: too long", c->args[0]);
    /* A dead mount cannot be resolved: the text as given is good enough then. */
    if (c->args[0][0] == '/' || !realpath(c->args[0], path))
        memcpy(path, c->args[0], strlen(c->args[0]) + 1);
    if (!p->lazy && realpath(path, real)) /* a dead mount has no server */
        server = server_open(real);
    rc = tarn_fuse_umount(path, p->lazy, &c->err);
    return rc == 0 && server >= 0 ? server_wait(c, path, server) : rc;
}

static const struct tarn_conf_table *const umount_tables[] = {&cli_umount_table, &cli_common_table,
                                                              NULL};
static const struct tarn_flags_short umount_shorts[] = {{'l', "lazy"}};
static const struct tarn_flags_spec umount_spec = {
    .command = "tarn umount",
    .args = "MOUNTPOINT",
    .summary = "Take a mount away; the process that serves it ends.",
    .text = "Returns when that process has ended, if it is this user's; with --lazy at once.",
    .tables = umount_tables,
    .shorts = umount_shorts,
    .n_shorts = TARN_ARRAY_LEN(umount_shorts),
    .min_args = 1,
    .max_args = 1};
const struct cli_command cmd_umount_command = {.name = "umount",
                                               .spec = &umount_spec,
                                               .run = umount_run,
                                               .own = &cli_umount_table,
                                               .own_size = sizeof(struct cli_umount)};
