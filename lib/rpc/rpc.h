/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lib/rpc/rpc.h — calls over frames: a server dispatches by method number, a client matches
 * answers, keeps deadlines, cancels, reconnects and retries by error class. Both live on one loop
 * each; all calls are made on it. The same code runs over TCP, a unix socket and a socketpair
 * inside one process.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "lib/base/buf.h"
#include "lib/base/err.h"
#include "lib/base/htab.h"
#include "lib/base/str.h"
#include "lib/net/net.h"
#include "lib/wire/tarn.pb-c.h"
#include "lib/wire/wire.h"

struct tarn_rng;

/* ---- server
 * ------------------------------------------------------------------------------------------ */

struct tarn_rpc_server;
struct tarn_rpc_session; /* one connection, after its handshake */
struct tarn_rpc_call;

/* Who is at the other end. */
struct tarn_principal {
    char name[64]; /* "token", "local" (socketpair or same uid) */
    int64_t uid;   /* as the kernel tells on unix sockets, -1 elsewhere */
    bool trusted;  /* inside this process: no capability needed */
};

/*
 * Handles one call. It must end in exactly one tarn_rpc_reply(), now or later, on the server's
 * loop, also after the peer has gone (the answer is dropped then). For a notice there is nothing to
 * reply.
 */
typedef void tarn_rpc_handler_fn(void *ctx, struct tarn_rpc_call *call);

struct tarn_rpc_call {
    const struct tarn_rpc_method *method;
    const ProtobufCMessage *request;  /* decoded; valid until the reply */
    const Tarn__Wire__CallMeta *meta; /* may be NULL */
    struct tarn_buf *payload;         /* NULL when there was none */
    struct tarn_principal principal;  /* copy */
    uint64_t deadline_ns;             /* loop time; UINT64_MAX when the peer gave none */
    uint64_t trace_id;
    struct tarn_rpc_session *session; /* NULL once the connection is gone */
    /* A handler that waits sets this; called at most once: deadline passed or peer cancelled or
     * gone. The handler must still reply (with any code). */
    void (*on_cancel)(struct tarn_rpc_call *call);
    void *state; /* the handler's */
};

/* resp may be NULL with rc < 0 (an answer with an error may still carry a message). buf:
 * referenced, not taken. */
void tarn_rpc_reply(struct tarn_rpc_call *call, int rc, const ProtobufCMessage *resp,
                    struct tarn_buf *buf, size_t off, size_t len);

struct tarn_rpc_server_args {
    struct tarn_loop *loop;
    struct tarn_rng *rng;
    const char *cluster_id; /* copied */
    const void *token;      /* secret shared with clients; copied; NULL: no authentication */
    size_t token_len;
    void *ctx;                                                 /* for the two below */
    void (*on_session)(void *ctx, struct tarn_rpc_session *s); /* may be NULL */
    void (*on_gone)(void *ctx, struct tarn_rpc_session *s);    /* may be NULL */
};
int tarn_rpc_server_new(const struct tarn_rpc_server_args *args, struct tarn_rpc_server **ret);
/* Another token for handshakes from now on (copied); the port, which names its file, may be known
 * only after listening. */
void tarn_rpc_server_set_token(struct tarn_rpc_server *s, const void *token, size_t len);
/* The number of the worker that serves here, which clients may ask for; 0: none (yet). */
void tarn_rpc_server_set_worker(struct tarn_rpc_server *s, uint64_t id);
void tarn_rpc_server_handle(struct tarn_rpc_server *s, uint32_t method, tarn_rpc_handler_fn *fn,
                            void *ctx);
/* Listens (may be called several times). Errors as tarn_listen(). */
int tarn_rpc_server_listen(struct tarn_rpc_server *s, const char *addr, const char **ret_addr);
/* Serves a connection that exists. trusted: no handshake proof needed (a pair inside this process).
 */
void tarn_rpc_server_serve(struct tarn_rpc_server *s, struct tarn_conn *c, bool trusted);
/* Stops listening and closes sessions; `done` runs when the last one is gone and no call is
 * unanswered. */
void tarn_rpc_server_stop(struct tarn_rpc_server *s, void (*done)(void *arg), void *arg);
void tarn_rpc_server_free(struct tarn_rpc_server **s);

/* A one-way message to a peer. -TARN_E_BUSY when its queue is full (the session is cut then),
 * CONN_LOST. */
int tarn_rpc_notify(struct tarn_rpc_session *s, uint32_t method, const ProtobufCMessage *msg);
/* Borrowed: for the buffers of answers, which wait as long as the peer does not read. Made on the
 * first call, below `parent`. */
struct tarn_buf_account *tarn_rpc_session_account(struct tarn_rpc_session *s,
                                                  struct tarn_buf_account *parent);
void *tarn_rpc_session_ctx(struct tarn_rpc_session *s);
void tarn_rpc_session_set_ctx(struct tarn_rpc_session *s, void *ctx);
void tarn_rpc_session_close(struct tarn_rpc_session *s);

/* ---- client
 * ------------------------------------------------------------------------------------------- */

struct tarn_rpc_client;
struct tarn_rpc_req;
typedef void tarn_rpc_fn(struct tarn_rpc_req *req, int rc);

/*
 * Embedded by the caller and zeroed before its first use; valid until cb, which runs exactly once,
 * never inside start, has returned. A cb that frees the memory of `req` calls tarn_rpc_req_fini()
 * first; a cb may start the same `req` again.
 */
struct tarn_rpc_req {
    uint32_t method;             /* in */
    const ProtobufCMessage *msg; /* in: encoded during start, not kept */
    struct tarn_buf *payload;    /* in: referenced; may be NULL */
    uint64_t timeout_ns;         /* in: from now; 0: the client's default (30 s) */
    bool no_retry;               /* in: sent at most once; fails as soon as no address answers */
    tarn_rpc_fn *cb;             /* in */
    void *arg;                   /* in */
    ProtobufCMessage
        *resp; /* out: may be set with rc < 0 too; freed after cb unless taken (set NULL) */
    struct tarn_buf *resp_payload; /* out: unref'd after cb unless taken (set NULL) */
    /* the client's */
    struct tarn_list node;          /* in the list of its state */
    struct tarn_hnode hnode;        /* by id, while sent */
    uint64_t id;                    /* of the last time it was sent */
    uint64_t deadline_ns;           /* loop time; UINT64_MAX: none */
    struct tarn_timer timer;        /* the deadline, or the next try if that comes first */
    struct tarn_str frame;          /* encoded message, kept for a retry */
    struct tarn_buf *sent_payload;  /* our reference to `payload` */
    unsigned attempt;               /* answers that asked for another try */
    unsigned lost;                  /* connections lost while it was sent */
    uint32_t meta_gen;              /* of the meta last sent */
    struct tarn_rpc_client *client; /* whose it is */
    struct tarn_task task;          /* brings cb onto the loop */
    int rc;                         /* how it ended, or the last answer that led to another try */
    unsigned state;                 /* req_state.def */
};

struct tarn_rpc_client_args {
    struct tarn_loop *loop;
    struct tarn_rng *rng;
    const char *addrs; /* "HOST:PORT[,HOST:PORT...]" or "unix:/path"; copied; NULL with `conn` */
    struct tarn_conn *conn; /* an existing connection (a pair): taken; no reconnect */
    const void *token;      /* copied; NULL: none */
    size_t token_len;
    const char
        *cluster_id; /* copied; a server of another one is not used: OTHER_CLUSTER. NULL: any */
    /* A server that is another worker is not used: OTHER_WORKER; none (yet): CONN_REFUSED. 0: any.
     */
    uint64_t worker;
    uint64_t connect_timeout_ns; /* 0: 5 s */
    uint64_t default_timeout_ns; /* 0: 30 s */
    /* Once no address has answered for so long, requests that wait end with the last one's reason;
     * 0: each waits for its deadline. */
    uint64_t lost_timeout_ns;
    void *ctx;
    void (*on_notice)(void *ctx, uint32_t method, const ProtobufCMessage *msg); /* may be NULL */
    /* Connected; lost (rc: why); or no address answered (rc: the last one's reason). May be NULL.
     */
    void (*on_state)(void *ctx, bool connected, int rc);
};
int tarn_rpc_client_new(const struct tarn_rpc_client_args *args, struct tarn_rpc_client **ret);
/* Sent at once when connected, else as soon as it is, within the deadline. */
void tarn_rpc_start(struct tarn_rpc_client *c, struct tarn_rpc_req *req);
void tarn_rpc_cancel(struct tarn_rpc_req *req); /* cb follows with CANCELLED; the peer is told */
/* Bytes that ever came on the connection of a request under way, of whatever; another connection
 * counts anew. Who waits for a large answer learns whether the peer sends anything at all. */
uint64_t tarn_rpc_received(const struct tarn_rpc_req *req);
/*
 * Frees what the answer left in a `req` that is not under way; inside cb it also says that `req`
 * may be gone when cb returns.
 */
void tarn_rpc_req_fini(struct tarn_rpc_req *req);
/*
 * Credentials and capability sent beside each later request, retries too (copied). Groups that do
 * not fit TARN_FRAME_META_MAX are left out.
 */
void tarn_rpc_client_set_meta(struct tarn_rpc_client *c, const Tarn__Wire__CallMeta *meta);
/* What a peer refused a connection with will be the same next time: a client tries no more. */
bool tarn_rpc_refused(int rc);
/* Somebody knows that the peer is back: it is tried now, where the next try was waited for. */
void tarn_rpc_client_hurry(struct tarn_rpc_client *c);
/* tarn_rpc_client_args.lost_timeout_ns from now on. */
void tarn_rpc_client_set_lost_timeout(struct tarn_rpc_client *c, uint64_t ns);
const char *
tarn_rpc_client_cluster_id(const struct tarn_rpc_client *c); /* "" before the first welcome */
/* Of `addrs`, the one that is connected, or tried now; "" with `conn`. */
const char *tarn_rpc_client_addr(const struct tarn_rpc_client *c);
/* "HOST:PORT", "unix:..." or "pair" of the other end, valid until the next event; "" without one.
 */
const char *tarn_rpc_client_peer(const struct tarn_rpc_client *c);
/* Requests end with -TARN_E_SHUTDOWN; `done` runs when the connection is gone. Then free. */
void tarn_rpc_client_stop(struct tarn_rpc_client *c, void (*done)(void *arg), void *arg);
void tarn_rpc_client_free(struct tarn_rpc_client **c);

/*
 * For commands: starts `req` and runs the loop until its callback (the caller's own cb is not
 * used). Returns rc. The answer stays in `req` until tarn_rpc_req_fini(). A tarn_loop_stop() from
 * elsewhere cancels the call.
 */
int tarn_rpc_call_sync(struct tarn_rpc_client *c, struct tarn_rpc_req *req);

/* ---- capabilities
 * ------------------------------------------------------------------------------- */

/* Encodes and MACs `body` with `key`. The caller frees *ret (tarn_str_fini). */
void tarn_cap_make(const uint8_t key[32], const Tarn__Wire__CapabilityBody *body,
                   struct tarn_str *ret);
/*
 * Checks MAC, cluster, expiry (real_ns) and scope. CAP_BAD, CAP_EXPIRED. Constant time in the MAC.
 */
int tarn_cap_check(const uint8_t key[32], const char *cluster_id, int64_t real_ns,
                   uint32_t attachment, bool write, const ProtobufCBinaryData *cap);
/* Whose a capability is that was checked. */
bool tarn_cap_is(const ProtobufCBinaryData *cap, const char *principal);
