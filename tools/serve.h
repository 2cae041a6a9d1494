/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tools/serve.h — the life of a server process, whatever it serves: to the background (-d) and the
 * word to whoever waits, log, signals, the loop, the steps of the start, the stop in reverse, the
 * pid file. What it consists of is its role's: `tarn local`, master, worker, mount.
 *
 * Owner of everything: the main thread, which runs the loop; what others touch is atomic.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "lib/base/str.h"
#include "lib/net/net.h"
#include "lib/rpc/rpc.h"
#include "tools/cli.h"
#include "tools/daemon.h"

struct serve;
struct tarn_disk;

typedef int serve_step_fn(void *role);

/* What a kind of server does. Immutable. Its functions get the role's own struct. */
struct serve_role {
    const char *name;            /* of the command, and of its lines in the log: "worker" */
    serve_step_fn *hold;         /* takes its directories, in the background already; or NULL */
    serve_step_fn *const *steps; /* NULL-terminated: make its parts in order, the loop turning */
    void (*ready)(void *role, struct tarn_str *ret); /* logs it, and says where it serves */
    void (*stop)(void *role);   /* takes its parts away in reverse, those that are there */
    void (*let_go)(void *role); /* of its directories, when all else has ended; or NULL */
};

struct serve {
    struct cli *cli;               /* this run of the program */
    const struct serve_role *role; /* what it serves */
    void *ctx;                     /* the role's */
    struct tarn_errbuf *err;       /* the command's */
    struct tarn_str log_path;      /* where a log in the background goes, unless told; the role's */
    struct daemon daemon;          /* tells the parent of the start */
    struct signals *signals;       /* while the loop is there */
    struct tarn_task stop_task;    /* stops the loop, once */
    _Atomic bool stop_wanted;      /* a signal, or a part ended */
    struct tarn_loop *loop;        /* of all parts */
    struct tarn_disk *disk;        /* threads for block I/O */
    _Atomic bool ended;            /* it stops because the kernel ended its mount */
    int end_rc;                    /* how it ends after an orderly stop, */
    struct tarn_errbuf end_err;    /* and why */
};

/* From the flags, checked, to the end. Returns the command's code. */
int serve_run(struct serve *s);
/* The loop is to be left; any thread, any number of times. */
void serve_want_stop(struct serve *s);
/* The same, and with this code and text in the end. Loop's thread. */
void serve_fail(struct serve *s, int rc, const char *text);

/* ---- steps that wait --------------------------------------------------------------------------
 */

/* Valid until its callback; one that may outlive the wait for it lies in the role's struct. */
struct serve_step {
    struct serve *serve;
    bool done; /* the callback ran */
    int rc;    /* how it ended */
};
/* For callbacks, of which `step` is the argument. */
void serve_done(void *step);
void serve_done_rc(void *step, int rc);
void serve_done_err(void *step, int rc, const struct tarn_errbuf *err); /* err is kept */
/*
 * Runs the loop until one of them was called; for what has a deadline of its own, since a signal
 * does not cut it short. Returns its code.
 */
int serve_wait(struct serve_step *st);
/* The same, but not when a stop is wanted: then CANCELLED, and the callback is still to come. */
int serve_wait_or_stop(struct serve_step *st);
/* Runs the loop for a while, or until a stop is wanted. */
void serve_sleep(struct serve *s, uint64_t ns);

/* ---- listeners --------------------------------------------------------------------------------
 */

/* An RPC listener. */
struct serve_rpc {
    struct tarn_rpc_server *server;
    struct tarn_str token;      /* of its handshakes */
    struct tarn_str token_path; /* the token's file, which goes with the server; "": none */
    char addr[280];             /* where it listens */
};
struct serve_rpc_args {
    const char *cluster_id;
    unsigned port, skip; /* default, and one behind it that is another listener's default */
    void *ctx;
    void (*on_gone)(void *ctx, struct tarn_rpc_session *s);
};
/*
 * Listens at --listen, or at the first free port from the default on; nobody is served before
 * serve_rpc_admit(). Errors: ADDR_IN_USE, CONFIG, with a text
 */
int serve_rpc_open(struct serve *s, const struct serve_rpc_args *args, struct serve_rpc *r);
/* From now on whoever knows r->token is served. */
void serve_rpc_admit(struct serve_rpc *r);
/* Also of one that was never opened. */
void serve_rpc_stop(struct serve *s, struct serve_rpc *r);

/* ---- checks before anything is made -----------------------------------------------------------
 */

/*
 * --listen and --http-listen: beyond loopback only with --insecure; the control port also with a
 * token file that was given.
 */
int serve_check_addrs(struct cli *c, bool has_token);
bool serve_addr_is_loopback(const char *addr);
/* Where the log of a server without a directory goes, if it needs a place: by what it serves. */
void serve_log_path(struct serve *s, const char *what);
/* Descriptors of cache files that may be kept open. */
uint32_t serve_open_files(const struct cli *c);
