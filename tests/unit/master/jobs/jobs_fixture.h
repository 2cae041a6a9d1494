/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A master over a temporary directory, a store in memory that outlives it, and a worker that keeps
 * books instead of bytes: it fails, changes, holds or forgets what a test says.
 */
#pragma once

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <setjmp.h>

#include <cmocka.h>

#include "lib/base/env.h"
#include "lib/rpc/rpc.h"
#include "master/core/core.h"
#include "master/master.h"
#include "store/kv/kv.h"
#include "ufs/ufs.h"
#include "ufs/ufs_opts.h"

#define JFX_FILES_MAX 4096
#define JFX_RULES_MAX 16

struct jfx_file { /* what the worker has of a cid */
    tarn_cid_t cid;
    char key[64]; /* the beginning of it */
    uint64_t size, cached;
    bool damaged; /* a question is answered as before; a fill finds out */
};

struct jfx_rule { /* what it does with a key */
    char key[256];
    uint32_t status; /* answered instead of success */
    unsigned times;  /* so often; 0: always */
    unsigned used;
};

struct jfx {
    struct tarn_loop *loop;
    struct tarn_kv_mem_disk kv_disk;
    struct tarn_kv *kv;
    char dir[64];
    char uri[96];
    struct tarn_ufs_opts opts;
    struct tarn_conf *conf;
    uint64_t ttl_ns;
    struct tarn_master *master;
    struct tarn_rpc_server *server, *worker_server;
    struct tarn_rpc_client *client, *to_worker;
    /* the worker */
    struct jfx_file files[JFX_FILES_MAX];
    size_t file_count;
    uint64_t capacity;
    struct jfx_rule rules[JFX_RULES_MAX];
    size_t rule_count;
    unsigned fills, filled_files, frees, queries; /* requests answered; files filled */
    uint64_t fetched;
    unsigned largest_batch, in_flight, most_in_flight;
    unsigned hold_after; /* answer so many fills, hold the rest; UINT32_MAX: none */
    struct tarn_rpc_call *held[64];
    size_t held_count;
    unsigned evict_at_query; /* forget everything before this query (1: the first); 0: never */
    int evict_status;        /* what fills answer from then on; 0: they work */
    bool evicted;
    unsigned fail_fills;   /* answer so many fills with BUSY as a whole */
    unsigned fail_queries; /* the same with questions */
    unsigned files_max;    /* have so many files, forget others for a new one; 0: all */
    size_t next_forgotten; /* that one */
    bool hold_frees;       /* answer no request to free */
    struct tarn_rpc_call *held_frees[64];
    size_t held_free_count;
    bool verified, ranged;
    /* waiting */
    bool done;
    int rc;
};

struct jfx_line {
    char path[512], state[32], checksum[32], error[512];
    uint64_t bytes, worker;
    uint32_t code, replicas;
};

struct jfx *jfx_new(void);
void jfx_free(struct jfx **fx);
/* A file of `size` bytes in the store; directories are made. */
void jfx_put(struct jfx *fx, const char *path, size_t size);
void jfx_unlink(struct jfx *fx, const char *path);
void jfx_start(struct jfx *fx);
void jfx_stop(struct jfx *fx); /* the worker's books stay */
void jfx_run_until(struct jfx *fx, bool (*cond)(struct jfx *fx));
void jfx_run_ms(struct jfx *fx, unsigned ms);
void jfx_release(struct jfx *fx); /* answers what is held, holds nothing more */
/* What the worker has turns out to be garbage: a power cut took it. */
void jfx_damage(struct jfx *fx);
size_t jfx_damaged(const struct jfx *fx); /* files that still are */
/* Commits an entry, between a stop and a start. */
void jfx_apply(struct jfx *fx, Tarn__Core__Entry *e);
void jfx_rule(struct jfx *fx, const char *key, int status, unsigned times);

/* Calls; *ret_resp is to be freed. */
int jfx_call(struct jfx *fx, uint32_t method, const ProtobufCMessage *msg,
             ProtobufCMessage **ret_resp);
void jfx_spec(Tarn__Wire__LoadSpec *s, ProtobufCBinaryData *path, const char *z);
int jfx_create(struct jfx *fx, const char *kind, Tarn__Wire__LoadSpec *spec, uint64_t *ret_id);
/* Creates a load of one path. */
uint64_t jfx_load(struct jfx *fx, const char *path);
/* Waits for the end; the caller frees it. */
Tarn__Wire__Job *jfx_wait(struct jfx *fx, uint64_t id);
/* Waits and checks the state. */
void jfx_expect(struct jfx *fx, uint64_t id, const char *state, uint64_t done, uint64_t failed);
/* All lines, asked for in pages of `page`. */
size_t jfx_manifest(struct jfx *fx, uint64_t id, uint32_t page, struct jfx_line **ret);
const struct jfx_line *jfx_find(const struct jfx_line *l, size_t n, const char *path);
