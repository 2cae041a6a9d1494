/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lib/rpc/server_priv.h — what server.c (listening, stopping, calls) and session.c (one connection)
 * share. Owner: the server's loop.
 */
#pragma once

#include "lib/base/htab.h"
#include "lib/rpc/handshake_priv.h"
#include "lib/rpc/link_priv.h"
#include "lib/rpc/rpc.h"

struct server_handler {
    tarn_rpc_handler_fn *fn; /* NULL: not served */
    void *ctx;               /* for fn */
};

struct tarn_rpc_server {
    uint32_t magic;                                            /* SERVER_MAGIC */
    struct tarn_loop *loop;                                    /* whose thread owns all this */
    struct tarn_rng *rng;                                      /* for nonces */
    char *cluster_id;                                          /* told in the welcome */
    uint64_t worker;                                           /* the same; 0: none (yet) */
    uint8_t *token;                                            /* NULL: no authentication */
    size_t token_len;                                          /* bytes of token */
    void *ctx;                                                 /* for on_session and on_gone */
    void (*on_session)(void *ctx, struct tarn_rpc_session *s); /* or NULL */
    void (*on_gone)(void *ctx, struct tarn_rpc_session *s);    /* or NULL */
    struct server_handler handlers[TARN_RPC_NR_MAX];           /* by number */
    struct tarn_list listeners;                                /* server_listener.node */
    struct tarn_list sessions;                                 /* tarn_rpc_session.node */
    size_t calls;               /* not yet answered, of all sessions, also of those that are gone */
    bool stopping;              /* nothing new */
    void (*done)(void *arg);    /* after the stop */
    void *done_arg;             /* for done */
    bool done_posted;           /* done_task is under way */
    struct tarn_task done_task; /* calls done */
};

struct tarn_rpc_session {
    uint32_t magic;                   /* SESSION_MAGIC */
    struct tarn_rpc_server *server;   /* whose it is */
    struct tarn_list node;            /* tarn_rpc_server.sessions */
    struct tarn_link link;            /* the connection */
    unsigned state;                   /* session_state.def */
    bool trusted;                     /* needs no proof */
    struct tarn_timer timer;          /* until the handshake is over */
    struct tarn_handshake shake;      /* what was exchanged */
    struct tarn_principal principal;  /* who it is, once OPEN */
    struct tarn_htab calls;           /* server_call.hnode, by request id */
    size_t call_bytes;                /* memory of their requests */
    struct tarn_buf_account *account; /* of what is sent to it; NULL: nobody asked for one yet */
    void *ctx;                        /* the user's */
    bool announced;                   /* on_session was called */
};

/* One call, from its frame to its answer. */
struct server_call {
    struct tarn_rpc_call pub;       /* first: what the handler sees */
    uint32_t magic;                 /* CALL_MAGIC */
    struct tarn_rpc_server *server; /* counts it */
    struct tarn_hnode hnode;        /* tarn_rpc_session.calls */
    uint64_t id;                    /* of the request */
    size_t bytes;                   /* memory of the request */
    struct tarn_timer timer;        /* its deadline, if the handler wants to know */
    ProtobufCMessage *request;      /* pub.request */
    ProtobufCMessage *meta;         /* pub.meta */
    bool dispatching;               /* the handler is on the stack */
    bool replied;                   /* what is left is to free it */
};

/* Takes `conn`. */
void tarn_session_new(struct tarn_rpc_server *s, struct tarn_conn *conn, bool trusted);
void tarn_session_cut(struct tarn_rpc_session *s, int rc);

/*
 * Takes a request apart and hands it to its handler; *payload may be taken. Negative: what to
 * answer instead.
 */
int tarn_server_dispatch(struct tarn_rpc_server *s, struct tarn_rpc_session *session,
                         const struct tarn_frame *f, const uint8_t *meta, const uint8_t *body,
                         struct tarn_buf **payload);
/* The peer does not want the answer any more. */
void tarn_server_call_cancel(struct server_call *call);
struct server_call *tarn_server_call_find(const struct tarn_rpc_session *session, uint64_t id);
/* The session's calls go on without it. */
void tarn_server_orphan_calls(struct tarn_rpc_session *session);
/* Ends a stop when nothing is left; called whenever a session or a call has gone. */
void tarn_server_settle(struct tarn_rpc_server *s);
