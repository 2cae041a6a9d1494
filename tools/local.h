/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tools/local.h — `tarn local` as its files see it:
 *
 *     cmd_local.c    the command: flags, what it says
 *     local_check.c  what is refused before anything is made
 *     local_parts.c  master, worker and mount wired in one process
 */
#pragma once

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include "tools/cli.h"
#include "tools/dir.h"
#include "tools/meta_room.h"
#include "tools/metrics.h"
#include "tools/roles.h"
#include "tools/serve.h"
#include "ufs/ufs_opts.h"

struct cli_local {
#define TARN_PARAM TARN_CONF_FIELD
#include "tools/local_params.def"
#undef TARN_PARAM
};

struct local {
    struct serve serve;                /* its life */
    const struct cli_local *p;         /* its flags */
    struct tarn_str cache_dir;         /* as told, or the default */
    char uri[4096];                    /* of the store, as given */
    char mountpoint[PATH_MAX];         /* canonical, or /dev/fd/N */
    struct tarn_ufs_opts opts;         /* of the store; borrows from opts_conf */
    struct tarn_conf *opts_conf;       /* where they came from */
    struct dir dir;                    /* the cache directory, held */
    struct serve_step attaching;       /* the attachment */
    struct role_master master;         /* the parts, in the order in which they are made */
    struct role_worker worker;         /* of the bytes */
    struct meta_room meta_room;        /* what the names take of the tier's room */
    struct serve_rpc rpc;              /* the control port, and the socketpairs below */
    struct tarn_rpc_client *to_worker; /* the master's way to the worker */
    struct tarn_rpc_client *to_master; /* and back */
    struct role_mount mount;
    struct metrics_stores stores; /* figures of the store */
    struct metrics *metrics;
    uint8_t cap_key[32]; /* of capabilities */
};

/* ---- local_check.c ----------------------------------------------------------------------------
 */

/*
 * Flags that cannot be, a mountpoint that cannot be used (it becomes canonical; a dead mount there
 * is detached), and then local_check_places(). CONFIG, MOUNTPOINT, SECRET_ARGV, with a text.
 */
int local_check(struct local *l, const char *cache_dir);
/*
 * Files of ours where they would be served, or be reached through the mount. `cache_dir` need not
 * exist. CONFIG, MOUNTPOINT, with a text.
 */
int local_check_places(struct local *l, const char *cache_dir);

/* ---- local_parts.c ----------------------------------------------------------------------------
 */

/* The steps of its start; behind the last one the mountpoint answers. */
extern serve_step_fn *const local_steps[];
/* Takes away what was made, in reverse, and wipes what was secret. */
void local_parts_stop(void *local);
