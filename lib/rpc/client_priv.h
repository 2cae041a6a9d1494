/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lib/rpc/client_priv.h — what client.c (requests) and client_conn.c (the connection) share.
 * Owner: the client's loop.
 */
#pragma once

#include "lib/base/htab.h"
#include "lib/base/limits.h"
#include "lib/rpc/handshake_priv.h"
#include "lib/rpc/link_priv.h"
#include "lib/rpc/rpc.h"

#define CLIENT_MAGIC 0x636c6e74u

enum {
#define CLIENT_STATE(name, next) CLIENT_##name,
#include "lib/rpc/client_state.def"
#undef CLIENT_STATE
    CLIENT_STATES
};

struct tarn_rpc_client {
    uint32_t magic;                     /* CLIENT_MAGIC */
    struct tarn_loop *loop;             /* whose thread owns all this */
    struct tarn_rng *rng;               /* nonces and jitter */
    char *addrs[TARN_CLIENT_ADDRS_MAX]; /* where to connect */
    unsigned addrs_n;                   /* 0: only the connection that it was given */
    unsigned addr;                      /* the one in use or to be tried next */
    uint8_t *token;                     /* NULL: none */
    size_t token_len;                   /* bytes of token */
    char *wanted_cluster;               /* "": any */
    uint64_t wanted_worker;             /* 0: any */
    uint64_t connect_timeout_ns;        /* of one attempt */
    uint64_t default_timeout_ns;        /* of a request */
    uint64_t lost_timeout_ns;           /* without any address; 0: no limit */
    void *ctx;                          /* for the two below */
    void (*on_notice)(void *ctx, uint32_t method, const ProtobufCMessage *msg); /* or NULL */
    void (*on_state)(void *ctx, bool connected, int rc);                        /* or NULL */

    /* the connection */
    unsigned state;               /* client_state.def */
    struct tarn_connect *attempt; /* while CONNECTING */
    bool linked;                  /* link is in use */
    struct tarn_link link;        /* from HELLO to READY, and until its end in STOPPING */
    struct tarn_handshake shake;  /* what was exchanged */
    struct tarn_timer timer;      /* of the handshake, of WAITING, of leaving */
    unsigned tried;               /* addresses tried in this round */
    int round_rc;                 /* why the last address failed; 0 while connected */
    int refused_rc;               /* an address of this round answered that trying is of no use */
    unsigned backoff;             /* rounds that failed */
    uint64_t ready_ns;            /* since when READY */
    uint64_t lost_ns;             /* since when not, or since the beginning */
    uint64_t not_before_ns;       /* when the next attempt may begin, after a refusal */
    bool leaving;                 /* READY, but the next address is wanted */

    /* requests */
    struct tarn_list queued;         /* tarn_rpc_req.node, wait for the connection */
    struct tarn_list delayed;        /* tarn_rpc_req.node, wait for another try */
    struct tarn_htab sent;           /* tarn_rpc_req.hnode, by id */
    size_t reqs;                     /* whose callback has not returned */
    uint64_t next_id;                /* of a request */
    uint64_t trace;                  /* random; added to ids for trace ids */
    struct tarn_str meta;            /* encoded CallMeta */
    uint32_t meta_gen;               /* grows with each change of meta */
    char *cluster_id;                /* from the last welcome, or "" */
    struct tarn_rpc_req *delivering; /* whose callback runs, unless it was finished there */

    /* stopping */
    void (*done)(void *arg);    /* after the stop */
    void *done_arg;             /* for done */
    bool done_posted;           /* done_task is under way */
    struct tarn_task done_task; /* calls done */
};

/* ---- client_conn.c: the connection
 * ---------------------------------------------------------------- */

/* Begins to connect, unless that is under way or of no use. */
void tarn_client_kick(struct tarn_rpc_client *c);
/* Begins the handshake on a connection that exists. */
void tarn_client_adopt(struct tarn_rpc_client *c, struct tarn_conn *conn);
/* Goes on to the next address once nothing waits for this one. */
void tarn_client_leave(struct tarn_rpc_client *c);
void tarn_client_shut(struct tarn_rpc_client *c);
/* READY and fit for sending. */
bool tarn_client_writable(const struct tarn_rpc_client *c);
/* A pause before try number `n`: grows, and is random. */
uint64_t tarn_client_pause_ns(struct tarn_rpc_client *c, unsigned n);

/* ---- client.c: requests
 * ---------------------------------------------------------------------------- */

void tarn_client_send_queued(struct tarn_rpc_client *c);
int tarn_client_response(struct tarn_rpc_client *c, const struct tarn_frame *f, const uint8_t *body,
                         struct tarn_buf **payload);
/* The connection is gone: what may be sent again waits for the next one. */
void tarn_client_lost(struct tarn_rpc_client *c, bool left);
/* Ends what waits for a connection; `only_no_retry`: what does not want to wait. */
void tarn_client_fail_queued(struct tarn_rpc_client *c, int rc, bool only_no_retry);
/* Ends a stop when nothing is left. */
void tarn_client_settle(struct tarn_rpc_client *c);
