/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A master before a store that misbehaves on demand (tests/unit/ufs/server.h) or a temporary
 * directory, with metadata in memory that outlives it, a clock that stands still, and a client over
 * a trusted pair.
 */
#pragma once

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <setjmp.h>

#include <cmocka.h>

#include "lib/base/env.h"
#include "lib/rpc/rpc.h"
#include "master/master_priv.h"
#include "tests/unit/ufs/fixture.h"
#include "tests/unit/ufs/server.h"
#include "ufs/ufs_opts.h"

#define MFX_NAMES_MAX 8192

struct mfx {
    struct tarn_loop *loop;
    struct tarn_clock_fake clock; /* the master's: TTLs */
    struct tarn_kv_mem_disk kv_disk;
    struct tarn_kv *kv;
    struct srv *srv; /* or NULL: a directory */
    char *dir;
    char uri[128];
    char opts_text[512];
    struct tarn_ufs_opts opts;
    struct tarn_conf *conf;
    uint64_t ttl_ns;
    uint64_t refresh_wait_ns, probe_ns; /* 0: the master's own */
    bool cluster;                       /* in: of processes */
    uint64_t lease_ns;                  /* in: 0: the master's own */
    struct tarn_master *master;
    struct tarn_rpc_server *server, *worker_server;
    struct tarn_rpc_client *client, *to_worker;
    struct tarn_rpc_session *session; /* the client's, at the server */
    struct tarn_rpc_call *held;       /* a question to the worker that is not answered */
    bool hold;                        /* in: hold the next one */
    unsigned asked;                   /* questions to the worker how much it has */
    uint64_t cached;                  /* what the worker says it has of each file */
    /* notices */
    unsigned notices, items, everything;
    uint64_t last_seq;
    uint64_t inval_ino;
    char inval_name[64];
    /* waiting */
    bool done;
    int rc;
    struct tarn_errbuf err;
};

/* A call under way. */
struct mfx_op {
    struct tarn_rpc_req req;
    bool done;
    int rc;
    struct mfx *fx;
};

/* A listing as a client puts it together. */
struct mfx_dir {
    char *names[MFX_NAMES_MAX];
    uint64_t inos[MFX_NAMES_MAX];
    uint64_t trust_ms[MFX_NAMES_MAX];
    size_t count;
    unsigned pages;
};

struct mfx *mfx_new(const struct srv_object *objects, size_t n); /* NULL: a directory */
void mfx_free(struct mfx **fx);
void mfx_open(struct mfx *fx); /* metadata and master */
int mfx_attach(struct mfx *fx, bool check, uint64_t timeout_ns);
void mfx_start(struct mfx *fx); /* open, attach, serve */
void mfx_serve(struct mfx *fx);
void mfx_stop(struct mfx *fx);  /* and checks the metadata */
void mfx_halt(struct mfx *fx);  /* only tarn_master_stop, waited for */
void mfx_close(struct mfx *fx); /* the rest, after it */

void mfx_run_ms(struct mfx *fx, unsigned ms);
void mfx_wait(struct mfx *fx); /* for fx->done */
void mfx_done(void *arg);
unsigned mfx_requests(struct mfx *fx); /* at the store, since the last script */
void mfx_script(struct mfx *fx, enum srv_action action, size_t n);

void mfx_begin(struct mfx *fx, struct mfx_op *op, uint32_t method, const ProtobufCMessage *msg,
               unsigned timeout_ms);
int mfx_end(struct mfx_op *op); /* waits; the answer stays until mfx_op_fini */
void mfx_op_fini(struct mfx_op *op);
void mfx_begin_lookup(struct mfx *fx, struct mfx_op *op, uint64_t parent, const char *name,
                      unsigned timeout_ms);

struct mfx_attr {
    uint64_t ino, version, size, trust_ms, negative_ms;
    uint32_t type;
};
int mfx_lookup(struct mfx *fx, uint64_t parent, const char *name, struct mfx_attr *ret);
int mfx_getattr(struct mfx *fx, uint64_t ino, bool fresh, struct mfx_attr *ret);
int mfx_report(struct mfx *fx, uint64_t ino, uint64_t version);
int mfx_resolve(struct mfx *fx, const char *path, struct mfx_attr *ret);
/* All pages, or the first error (what came before it is in ret). */
int mfx_readdir(struct mfx *fx, uint64_t ino, unsigned page, struct mfx_dir *ret);
bool mfx_dir_has(const struct mfx_dir *d, const char *name);
void mfx_dir_fini(struct mfx_dir *d);
int mfx_du(struct mfx *fx, const char *path, Tarn__Wire__DuResponse *ret);
uint64_t mfx_stale(struct mfx *fx);
