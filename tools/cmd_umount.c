/* SPDX-License-Identifier: Apache-2.0 */
/*
 * umount: takes a mount away and waits until the process that served it has ended, so that its
 * cache directory is free when the command returns. That process is known from the record
 * that it wrote (mount_record.h); whose mount is another user's is not waited for.
 */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fuse/fuse.h"
#include "lib/base/mem.h"
#include "tools/cli.h"
#include "tools/mount_record.h"

#define END_MS 30000

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
        server = mount_record_open(real);
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
const struct cli_command cmd_umount_command = {
    .name = "umount", .spec = &umount_spec, .run = umount_run, .own = &cli_umount_table};
