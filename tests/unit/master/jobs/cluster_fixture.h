/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A master and real workers, each with a tier of its own, behind TCP on loopback; the test says who
 * is a member and who is alive, cuts workers off and brings them back. What each fetched from the
 * store is counted, so that bytes fetched twice show.
 */
#pragma once

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <setjmp.h>

#include <cmocka.h>

#include "lib/base/env.h"
#include "lib/base/mem.h"
#include "lib/disk/disk.h"
#include "master/master_priv.h"
#include "store/kv/kv.h"
#include "store/tier/tier.h"
#include "ufs/ufs_opts.h"
#include "worker/worker.h"

#define CFX_WORKERS 3u
#define MIB         (1ull << 20)

struct cfx_worker {
    struct cfx *fx;
    uint64_t id;
    struct tarn_tier *tier;
    struct tarn_ufs *ufs; /* its own, so that its requests count for it */
    struct tarn_worker *worker;
    struct tarn_rpc_server *server; /* NULL: cut off */
    char addr[64];                  /* the same each time */
    bool member, alive;             /* in the topology */
    bool drains, lost;              /* the same */
    uint64_t quota;                 /* of the tier */
    bool hangs;                     /* answers no fill */
    unsigned held;                  /* fills */
};

struct cfx {
    struct tarn_loop *loop;
    struct tarn_disk *disk;
    struct tarn_kv_mem_disk kv_disk;
    struct tarn_kv *kv;
    char *dir; /* store/, tierN/ */
    char *uri;
    struct tarn_ufs_opts opts;
    struct tarn_conf *conf;
    struct tarn_master *master;
    struct tarn_rpc_server *server;
    struct tarn_rpc_client *client;
    struct cfx_worker workers[CFX_WORKERS];
    uint64_t version; /* of the topology */
    struct tarn_timer watchdog;
    unsigned done;
    int rc;
    char reason[256];     /* of the last cfx_du */
    uint64_t first_asked; /* for tests: a worker */
};

/* `quota` bytes in each tier; all three are members and alive. */
struct cfx *cfx_new(uint64_t quota);
void cfx_free(struct cfx **fx);
void cfx_put(struct cfx *fx, const char *path, size_t size); /* directories are made */
/* The master and its connections end, workers go on; then another one over the same store. */
void cfx_stop_master(struct cfx *fx);
void cfx_start_master(struct cfx *fx);
/* Nobody reaches the worker any more; it can be brought back at the same address. */
void cfx_cut(struct cfx *fx, unsigned worker);
void cfx_back(struct cfx *fx, unsigned worker);
/* Publishes who is a member and alive, as a new topology. */
void cfx_publish(struct cfx *fx);
void cfx_run_ms(struct cfx *fx, unsigned ms);
/* Turns the loop until it is true, 30 s at most. */
void cfx_until(struct cfx *fx, bool (*cond)(struct cfx *fx, void *arg), void *arg);

int cfx_call(struct cfx *fx, uint32_t method, const ProtobufCMessage *msg,
             ProtobufCMessage **ret_resp);
void cfx_spec(Tarn__Wire__LoadSpec *s, ProtobufCBinaryData *path, const char *z);
uint64_t cfx_create(struct cfx *fx, const char *kind, Tarn__Wire__LoadSpec *spec);
uint64_t cfx_load(struct cfx *fx, const char *path);
Tarn__Wire__Job *cfx_show(struct cfx *fx, uint64_t id); /* the caller frees it */
Tarn__Wire__Job *cfx_wait(struct cfx *fx, uint64_t id); /* for the end; the same */
void cfx_expect(struct cfx *fx, uint64_t id, const char *state, uint64_t done, uint64_t failed);
void cfx_cancel(struct cfx *fx, uint64_t id);
Tarn__Wire__DuResponse cfx_du(struct cfx *fx, const char *path);
/* The caller frees it. */
Tarn__Wire__WhereResponse *cfx_where(struct cfx *fx, const char *path);
/* The first line of a path; the caller frees *ret_resp. NULL: none. */
const Tarn__Wire__ManifestLine *cfx_line(struct cfx *fx, uint64_t id, const char *path,
                                         Tarn__Wire__ManifestResponse **ret_resp);

void cfx_name(char ret[64], const char *dir, unsigned i); /* "dir/f<i>" */
void cfx_put_many(struct cfx *fx, const char *dir, unsigned n, size_t size);
/* A load that is so slow that a test can do things meanwhile: 16 MiB/s. */
uint64_t cfx_load_slowly(struct cfx *fx, const char *path);
/* For cfx_until: of the job *(uint64_t *)arg, which must not have ended. */
bool cfx_a_fourth_is_done(struct cfx *fx, void *arg);
/* Waits for the end, a failure whose text has both. */
void cfx_expect_text(struct cfx *fx, uint64_t id, int error, const char *a, const char *b);

uint64_t cfx_fetched(const struct cfx *fx, unsigned worker); /* bytes from the store */
uint64_t cfx_fetched_all(const struct cfx *fx);
/* All of a segment is in the worker's tier. */
bool cfx_has(struct cfx *fx, unsigned worker, const char *path, uint32_t segment);
/* The cid and size of a file that the master knows. */
uint64_t cfx_file(struct cfx *fx, const char *path, tarn_cid_t *ret_cid);
/* Fails unless each segment is where the topology wants it `replicas` times. */
void cfx_expect_placed(struct cfx *fx, const char *path, uint32_t replicas);
