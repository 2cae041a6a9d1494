/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tools/roles.h — the parts of which servers consist, one struct per part with its steps: a master,
 * a worker, a mount. `tarn local` wires all three in one process (cmd_local.c); the commands of the
 * same names have one each. Everything runs on the loop's thread.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "fuse/fuse.h"
#include "master/master.h"
#include "store/tier/tier.h"
#include "tools/serve.h"
#include "worker/worker.h"

/* ---- master (role_master.c) -------------------------------------------------------------------
 */

struct role_master {
    struct tarn_kv *kv; /* the names */
    struct tarn_master *master;
};
/*
 * Opens the store of names in DIR/meta and the master upon it; its loop and generator are set here.
 * KV_CORRUPT: it is damaged.
 */
int role_master_open(struct serve *s, struct role_master *m, const char *dir,
                     uint64_t write_buffer_bytes, const struct tarn_master_args *args);
/* For on_gone of its RPC server. */
void role_master_gone(void *role_master, struct tarn_rpc_session *session);
void role_master_stop(struct serve *s, struct role_master *m);
/* After its RPC server has stopped. */
void role_master_close(struct role_master *m);

/* ---- worker (role_worker.c) -------------------------------------------------------------------
 */

struct role_worker {
    struct tarn_tier *tier; /* the bytes; NULL: it keeps none */
    struct tarn_worker *worker;
};
/* Opens the tier; loop, pool, clock, descriptors and the share that stays free are set here. */
int role_worker_open_tier(struct serve *s, struct role_worker *w, struct tarn_tier_args *args);
/* Loop, pool, clock and tier are set here. */
int role_worker_open(struct serve *s, struct role_worker *w, struct tarn_worker_args *args);
void role_worker_stop(struct serve *s, struct role_worker *w);
/* After its RPC server has stopped. */
void role_worker_close(struct role_worker *w);
/* Ends a connection, if there is one. */
void role_rpc_stop(struct serve *s, struct tarn_rpc_client **c);

/* ---- mount (role_mount.c) ---------------------------------------------------------------------
 */

struct role_mount {
    struct serve *serve;
    struct tarn_client *client;
    struct tarn_fuse *fuse;
    struct tarn_str record;     /* the file that names us for `tarn umount` */
    struct tarn_stores *stores; /* of attachments that may be read from here; or NULL */
    void *owner;                /* the two are the composing server's */
    void (*space)(void *owner, struct tarn_fuse_space *ret); /* as statfs of fuse.h; or NULL */
};
/* Makes the client and opens its session. Loop, generator and on_invalidate are set here. */
int role_mount_connect(struct serve *s, struct role_mount *m, struct tarn_client_args *args,
                       uint64_t timeout_ns);
/* Mounts; client, loop and the flags are set here. When it returns 0 the mountpoint answers. */
int role_mount_open(struct role_mount *m, struct tarn_fuse_args *args);
void role_mount_stop(struct role_mount *m);
