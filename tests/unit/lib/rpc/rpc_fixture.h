/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rpc_fixture.h — a server with a few methods and clients of it, on a simulated or a libuv loop.
 *
 *     lookup      idempotent; answers at once, or as the script says
 *     job_create  not idempotent; the same
 *     getattr     is held until fx_release()
 *     fill        checks the request's payload and answers its length
 *     read        answers `length` bytes
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "lib/base/env.h"
#include "lib/base/limits.h"
#include "lib/rpc/rpc.h"

#define FX_CUT     1 /* script: the connection is cut, no answer */
#define FX_MAX     64
#define FX_HELD    5000
#define FX_CLUSTER "cluster-1"
#define FX_START   (1000 * TARN_NS_PER_S)
#define FX_TOKEN   "a token that nobody guesses"

struct fx {
    struct tarn_loop *loop;
    bool sim;
    struct tarn_rng_seeded rng;
    struct tarn_rpc_server *server;
    struct tarn_rpc_client *client;
    const char *addr;   /* of the server */
    int script[FX_MAX]; /* what the next calls of lookup and job_create get */
    unsigned script_n;
    unsigned script_at;
    unsigned calls;                      /* handled */
    unsigned sessions, gone;             /* on_session, on_gone */
    struct tarn_rpc_session *session;    /* the last one */
    struct tarn_rpc_call *held[FX_HELD]; /* of getattr */
    unsigned held_n;
    unsigned cancels;                /* on_cancel */
    struct tarn_principal principal; /* of the last call */
    uint64_t deadline_ns;            /* of the last call */
    uint32_t meta_uid;               /* of the last call; 0: no meta */
    unsigned notices;                /* seen by the client */
    uint64_t notice_seq;             /* of the last */
    unsigned up, down;               /* on_state */
    int state_rc;                    /* of the last on_state(false) */
    bool server_stopped, client_stopped;
    struct tarn_timer watchdog; /* libuv: fails a test that hangs */
    unsigned *want;             /* libuv: stop when it is 0 */
};

struct op {
    struct tarn_rpc_req req;
    Tarn__Wire__LookupRequest lookup;
    Tarn__Wire__GetattrRequest getattr;
    Tarn__Wire__JobCreateRequest create;
    Tarn__Wire__FillRequest fill;
    Tarn__Wire__ReadRequest read;
    struct fx *fx;
    unsigned done;   /* callbacks */
    int rc;          /* of the callback */
    uint64_t answer; /* ino, id, length */
    size_t payload;  /* bytes of a good payload */
    uint64_t at_ns;  /* when it ended */
    unsigned *left;  /* counted down when it ends; may be NULL */
};

void fx_init_sim(struct fx *fx, uint64_t seed);
void fx_init_uv(struct fx *fx);
/* A server with these methods; token NULL: no authentication. */
void fx_serve(struct fx *fx, const char *token);
void fx_listen(struct fx *fx, const char *addr);
struct tarn_rpc_client *fx_client_new(struct fx *fx, const char *addrs, const char *token);
/* fx->client to fx->addr, or over a trusted pair. */
void fx_connect(struct fx *fx, const char *token);
void fx_connect_pair(struct fx *fx);
void fx_stop_client(struct fx *fx, struct tarn_rpc_client **c);
void fx_stop_server(struct fx *fx);
void fx_fini(struct fx *fx);
/* Runs the simulated loop for `ns`. */
void fx_run(struct fx *fx, uint64_t ns);
/* Answers every held call with `rc`. */
void fx_release(struct fx *fx, int rc);
void fx_script(struct fx *fx, unsigned n, ...);

void op_start(struct op *op, struct fx *fx, uint32_t method, uint64_t key);
void op_start_on(struct op *op, struct fx *fx, struct tarn_rpc_client *c, uint32_t method,
                 uint64_t key);
/* Prepares without starting, so that fields of req can be set. */
void op_init(struct op *op, struct fx *fx, uint32_t method, uint64_t key);

struct tarn_buf *fx_payload(size_t n, uint64_t key);
bool fx_payload_good(const struct tarn_buf *b, size_t n, uint64_t key);
