/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tools/local.h — `tarn local` as its files see it:
 *
 *     cmd_local.c    the command: flags, fore- and background, signals, the loop's turns
 *     local_check.c  what is refused before anything is made
 *     local_parts.c  the parts of the process: made one after the other, taken away in reverse
 */
#pragma once

#include <limits.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "lib/base/str.h"
#include "lib/net/net.h"
#include "tools/cache_dir.h"
#include "tools/cli.h"
#include "tools/daemon.h"
#include "tools/meta_room.h"
#include "ufs/ufs_opts.h"

struct cli_local {
#define TARN_PARAM TARN_CONF_FIELD
#include "tools/daemon_params.def"
#include "tools/local_params.def"
#undef TARN_PARAM
};

/* Owner: the main thread, which runs the loop; what others touch is atomic. */
struct local {
    struct cli *cli;                   /* this run of the program */
    const struct cli_local *p;         /* its flags */
    char uri[4096];                    /* of the store, as given */
    char mountpoint[PATH_MAX];         /* canonical, or /dev/fd/N */
    struct tarn_ufs_opts opts;         /* of the store; borrows from opts_conf */
    struct tarn_conf *opts_conf;       /* where they came from */
    struct cache_dir dir;              /* held by its lock */
    struct daemon daemon;              /* tells the parent of the start */
    struct tarn_errbuf *err;           /* the command's */
    struct signals *signals;           /* while the loop is there */
    struct tarn_task stop_task;        /* stops the loop, once */
    _Atomic bool stop_wanted;          /* a signal, or the kernel ended the mount */
    _Atomic bool ended;                /* the kernel did: unmounted from outside */
    struct tarn_loop *loop;            /* the parts, in the order in which they are made */
    struct tarn_disk *disk;            /* threads for block I/O */
    struct tarn_kv *kv;                /* the names */
    struct tarn_master *master;        /* names, jobs, sessions */
    struct tarn_tier *tier;            /* the bytes */
    struct meta_room meta_room;        /* what the names take of the tier's room */
    struct tarn_worker *worker;        /* fetches and serves bytes */
    struct tarn_rpc_server *server;    /* the control port, and the socketpairs below */
    struct tarn_rpc_client *to_worker; /* the master's way to the worker */
    struct tarn_rpc_client *to_master; /* and back */
    struct tarn_client *client;        /* the mount's */
    struct tarn_fuse *fuse;            /* the mount */
    struct local_http *http;           /* metrics */
    uint8_t cap_key[32];               /* of capabilities */
    struct tarn_str token;             /* of the control port */
    struct tarn_str token_path;        /* its file */
    char listen_addr[280];             /* of the control port */
    bool attached;                     /* the attachment has ended */
    int attach_rc;                     /* how */
    bool step_done;                    /* the step under way has ended */
    int step_rc;                       /* how */
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

/*
 * Makes the parts, in order; when it returns 0 the mountpoint answers. CANCELLED: stop_wanted was
 * set meanwhile. Whatever it returns, local_parts_stop() follows.
 */
int local_parts_start(struct local *l);
/* Takes away what was made, in reverse, and wipes what was secret. */
void local_parts_stop(struct local *l);
/* The loop is to be left; any thread, any number of times. */
void local_want_stop(struct local *l);
/* What is caught from the start on: SIGTERM and SIGINT stop, SIGHUP reopens the log. 0-terminated.
 */
extern const int local_signals[];
