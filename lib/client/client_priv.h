/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lib/client/client_priv.h — the parts of a client: name cache, session, handles.
 */
#pragma once

#include "lib/base/htab.h"
#include "lib/base/list.h"
#include "lib/base/mtx.h"
#include "lib/client/client.h"

/* ---- name cache (cache.c): any thread
 * ---------------------------------------------------------------------------- */

struct tarn_name_cache;
struct tarn_name_cache *client_cache_new(size_t entries);
void client_cache_free(struct tarn_name_cache **c);
/* attr NULL: a negative answer until `until_ns`. `gen`: client_cache_gen() from before the question
 * was sent. */
void client_cache_put(struct tarn_name_cache *c, tarn_ino_t parent, const char *name, size_t len,
                      const struct tarn_attr *attr, uint64_t until_ns, uint64_t gen);
enum tarn_cached client_cache_get(struct tarn_name_cache *c, tarn_ino_t parent, const char *name,
                                  size_t len, uint64_t now_ns, struct tarn_attr *ret_attr,
                                  uint64_t *ret_until_ns);
void client_cache_drop(struct tarn_name_cache *c, tarn_ino_t parent, const char *name, size_t len);
void client_cache_clear(struct tarn_name_cache *c);
/*
 * Grows with every drop: an answer that was asked for before a drop may be older than what caused
 * it, so it is used but not kept.
 */
uint64_t client_cache_gen(struct tarn_name_cache *c);

/* ---- the client
 * ------------------------------------------------------------------------------------------------------
 */

#define CLIENT_HANDLE_MAGIC 0x43484e44u /* "CHND" */
#define CLIENT_SOURCES      3u          /* local, remote, ufs */

struct tarn_client {
    struct tarn_client_args args;
    struct tarn_local_ops local; /* local.open NULL: none */
    char *kind, *mountpoint;
    struct tarn_rpc_client *rpc;
    struct tarn_name_cache *cache;
    uint64_t session;
    uint64_t lease_ms;
    uint64_t connect_timeout_ns; /* of each try to open the session */
    _Atomic uint64_t kernel_trust_ns;
    uint64_t seq; /* of the last Invalidate */
    bool have_seq;
    uint64_t seen;        /* index of the journal up to which every change was heard of */
    uint64_t attachments; /* version of the list that on_attachments got */
    uint64_t renew_sent_ns;
    bool renew_again;                /* an Invalidate wants to be acknowledged */
    bool leased;                     /* what is believed ends with the lease */
    _Atomic uint64_t lease_until_ns; /* monotonic; UINT64_MAX: no lease */
    _Atomic bool cut_off;            /* it is over */
    struct tarn_timer lease_timer;
    struct tarn_timer renew_timer;
    struct tarn_rpc_req session_req;
    bool session_busy, connected_once, stopping;
    void (*connect_cb)(void *arg, int rc);
    void *connect_arg;
    _Atomic uint64_t local_bytes, remote_bytes, ufs_bytes, local_reads;
    _Atomic uint64_t lent_opens;      /* tarn_handle_lent() */
    uint64_t told[CLIENT_SOURCES];    /* bytes by origin that the master has confirmed */
    uint64_t telling[CLIENT_SOURCES]; /* in the renewal under way */
    uint64_t base[CLIENT_SOURCES];    /* told in earlier sessions */
    bool connected;                   /* a connection is there, with this session */
    bool last_told;                   /* the last renewal of a stop was sent */
    bool disconnecting;               /* the last step of a stop */
    void (*stopped)(void *arg);
    void *stopped_arg;
};

struct tarn_handle {
    uint32_t magic;
    struct tarn_client *client;
    struct tarn_attr attr;
    void *file; /* the local worker's; NULL without one */
    _Atomic bool stale;
    _Atomic bool used_loop;    /* a read went to the loop: closing goes there too */
    _Atomic uint64_t next_off; /* where a sequential reader would go on */
    /* The client's loop: */
    Tarn__Wire__LocateResponse *located; /* once known */
    struct tarn_list waiting;            /* struct tarn_read that wait for it */
    struct tarn_client_op locate_op;
    bool locating;
    uint32_t ahead; /* units to fetch ahead, grows with a sequential reader */
    struct tarn_task close_task;
};

/* Where the workers are, as the master tells. */
void client_topology(struct tarn_client *c, const Tarn__Wire__Topology *t);
uint64_t client_topology_version(const struct tarn_client *c); /* 0: none yet */
void client_meta(struct tarn_client *c, const Tarn__Wire__CallMeta *meta);
void client_session_start(struct tarn_client *c);
/* Ends the session, then the connection; then `stopped` runs. */
void client_session_stop(struct tarn_client *c);
void client_notice(void *ctx, uint32_t method, const ProtobufCMessage *msg);
void client_state(void *ctx, bool connected, int rc);
