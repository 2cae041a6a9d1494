/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A cluster's master with metadata in memory that outlives it, and workers that only speak: they
 * register, beat by themselves, and leave or die on demand. On a simulated loop (time is virtual,
 * connections are pairs), or on a real one with TCP and a token.
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "lib/base/env.h"
#include "lib/rpc/rpc.h"
#include "master/members_priv.h"

#define MBX_S      TARN_NS_PER_S
#define MBX_MS     TARN_NS_PER_MS
#define MBX_GIB    (1ull << 30)
#define MBX_SETTLE UINT64_MAX /* mbw.settle: whatever it has */

struct mbx;

/* A worker. Zeroed but for what is marked (in); from mbw_init on it must not move. */
struct mbw {
    struct mbx *fx;
    char uuid[80];
    char addr[256];              /* in */
    char host[256], socket[256]; /* in */
    uint64_t capacity, data;     /* in: of its one tier */
    uint64_t index;              /* in: what is used there beside the data */
    uint32_t weight;             /* in */
    uint64_t incarnation;        /* of the process that runs */
    uint64_t settle;             /* in: reported with each beat */
    uint64_t left_bytes;         /* in: the same */
    uint64_t sent_settled;       /* the greatest that was reported */
    bool mute;                   /* in: sends no beats */
    struct tarn_rpc_client *client;
    struct tarn_timer beat_timer;
    struct tarn_rpc_req beat, call;
    bool beating, calling;
    int rc, beat_rc;
    uint64_t id, beat_ms;
    uint8_t cap_key[32];
    char error[512];
    Tarn__Wire__Topology *topology; /* the youngest that it got */
    unsigned notices, lists;        /* topologies and attachments pushed to it */
};

struct mbx {
    bool real;
    struct tarn_loop *loop;
    struct tarn_clock_fake clock; /* the wall clock of the master */
    struct tarn_kv_mem_disk disk;
    struct tarn_kv *kv;
    struct tarn_master_args args; /* lease and the like may be changed before mbx_start */
    struct tarn_master *master;
    struct tarn_rpc_server *server;
    const char *addr; /* of the server, when real */
    struct tarn_rpc_client *admin;
    unsigned published;
    void (*watch)(struct mbx *fx); /* in: called for each topology; may be NULL */
    void *watch_arg;
    bool done;
};

void mbx_init(struct mbx *fx, bool real);
void mbx_start(struct mbx *fx);
void mbx_stop(struct mbx *fx); /* the master and its connections; checks the metadata */
void mbx_fini(struct mbx *fx);
void mbx_run(struct mbx *fx, uint64_t ns); /* lets time go on */

void mbw_init(struct mbx *fx, struct mbw *w, const char *uuid, const char *addr);
/* A new process with it connects and registers: 0, or why not (w->error). It beats from then on. */
int mbw_start(struct mbw *w);
int mbw_back(struct mbw *w); /* the same process as before connects and registers */
/* Many registrations at a time, each with a uuid of its own: how many were refused (TOO_BIG). */
unsigned mbw_flood(struct mbw *w, unsigned n);
int mbw_register(struct mbw *w);        /* once more, over its connection */
void mbw_begin_register(struct mbw *w); /* the same without waiting */
void mbw_end_register(struct mbw *w);   /* however it ended */
int mbw_beat(struct mbw *w);            /* one at once */
int mbw_leave(struct mbw *w);           /* and its process ends */
void mbw_kill(struct mbw *w);           /* the connection ends without a word */
void mbw_fini(struct mbw *w);

/* worker_drain or worker_remove; w->error has the text. */
int mbx_admin(struct mbx *fx, uint32_t method, uint64_t id, bool undo, bool force,
              uint64_t *ret_left, char ret_text[512]);
/* The row of a worker in status: false when there is none. Texts are in `ret`'s memory. */
struct mbx_row {
    char state[16], addr[64];
    bool alive, settled;
    uint32_t weight;
    uint64_t heard_ms, left_bytes, used;
    size_t tiers;
};
bool mbx_status(struct mbx *fx, uint64_t id, struct mbx_row *ret);
/* As published: NULL when the worker is not in it. */
const struct tarn_place_worker *mbx_placed(struct mbx *fx, uint64_t id);
bool mbx_alive(struct mbx *fx, uint64_t id);
uint64_t mbx_version(struct mbx *fx);
