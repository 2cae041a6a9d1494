/* SPDX-License-Identifier: Apache-2.0 */
/*
 * umount: takes a mount away and waits until the process that served it has ended, so that its
 * cache directory is free when the command returns.
 */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "fuse/fuse.h"
#include "lib/base/mem.h"
#include "tools/cli.h"

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
static const struct tarn_conf_table umount_table =
    TARN_CONF_TABLE("umount", "tarn umount", umount_rows);

static int umount_run(struct cli *c)
{
    const struct cli_umount *p = c->own;
    char path[PATH_MAX];

    if (strlen(c->args[0]) >= sizeof(path))
        return tarn_err_set(&c->err, -ENAMETOOLONG, "%s: too long", c->args[0]);
    /* A dead mount cannot be resolved: the text as given is good enough then. */
    if (c->args[0][0] == '/' || !realpath(c->args[0], path))
        memcpy(path, c->args[0], strlen(c->args[0]) + 1);
    return tarn_fuse_umount(path, p->lazy, &c->err);
}

static const struct tarn_conf_table *const umount_tables[] = {&umount_table, &cli_common_table,
                                                              NULL};
static const struct tarn_flags_short umount_shorts[] = {{'l', "lazy"}};
static const struct tarn_flags_spec umount_spec = {
    .command = "tarn umount",
    .args = "MOUNTPOINT",
    .summary = "Take a mount away; the process that serves it ends.",
    .tables = umount_tables,
    .shorts = umount_shorts,
    .n_shorts = TARN_ARRAY_LEN(umount_shorts),
    .min_args = 1,
    .max_args = 1};
const struct cli_command cmd_umount_command = {.name = "umount",
                                               .spec = &umount_spec,
                                               .run = umount_run,
                                               .own = &umount_table,
                                               .own_size = sizeof(struct cli_umount)};
