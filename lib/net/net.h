/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lib/net/net.h — event loops: timers, tasks posted from other threads, byte streams, descriptors.
 *
 * `struct tarn_loop` is a vtable with two implementations: net_uv.c (libuv, one thread, real
 * sockets) and net_sim.c (no thread, no socket, virtual time: events run in order of (time,
 * sequence)). All calls but tarn_loop_post() and tarn_loop_stop() are made on the loop's own
 * thread, and assert it.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/base/err.h"
#include "lib/base/list.h"

struct tarn_loop;
struct tarn_conn;
struct tarn_listener;
struct tarn_buf;
struct sockaddr;

/* ---- loops ----------------------------------------------------------------------------------- */

/* A libuv loop. Errors: errno class. */
int tarn_loop_new(struct tarn_loop **ret_loop);
/* A simulated loop; `start_ns` is its first time (> 0). */
struct tarn_loop *tarn_loop_sim_new(uint64_t start_ns);
/*
 * The loop must not be running; connections, listeners, attempts and timers must be closed.
 * Callbacks that are still due (on_close, posted tasks) run first. Sets *l to NULL.
 */
void tarn_loop_free(struct tarn_loop **l);

/* Runs until tarn_loop_stop() (sim: or nothing is left). The caller is its thread meanwhile. */
void tarn_loop_run(struct tarn_loop *l);
/* Any thread (sim: its own). This tarn_loop_run(), or the next, returns after the events at hand.
 */
void tarn_loop_stop(struct tarn_loop *l);
/* sim only: runs events until none is due by `until_ns`, then sets the time to it. */
void tarn_loop_sim_run(struct tarn_loop *l, uint64_t until_ns);
/* sim only: runs the next event, moving the time to it; false when there is none. */
bool tarn_loop_sim_step(struct tarn_loop *l);
/*
 * sim only: seeds every choice, and from now on shows data in chunks of 1..chunk_max bytes (0: as
 * it comes), after 0..delay_ns_max each, and cuts that many of a million deliveries off (both ends
 * get -TARN_E_CONN_LOST).
 */
void tarn_loop_sim_faults(struct tarn_loop *l, uint64_t seed, size_t chunk_max,
                          uint64_t delay_ns_max, uint32_t drop_conn_per_million);

/* Monotonic time in ns, read once per loop turn on libuv (virtual on sim). Loop's thread. */
uint64_t tarn_loop_now_ns(const struct tarn_loop *l);
/* The same, read now: it is later where the turn has taken long. */
uint64_t tarn_loop_read_now_ns(const struct tarn_loop *l);
/* Asserts that the caller is the loop's thread (always true while it does not run). */
void tarn_loop_assert_mine(const struct tarn_loop *l);

/* ---- tasks: the only way onto a loop from another thread ------------------------------------- */

struct tarn_task;
typedef void tarn_task_fn(struct tarn_task *t);

/* Embedded by the caller; the loop's from post until `fn` runs, which may free or re-post it. */
struct tarn_task {
    struct tarn_list node; /* the loop's */
    tarn_task_fn *fn;      /* runs on the loop's thread, exactly once per post */
};

/* Any thread, also the loop's own (runs later, never inside). FIFO. Never fails, takes no lock. */
void tarn_loop_post(struct tarn_loop *l, struct tarn_task *t, tarn_task_fn *fn);

/* ---- timers ---------------------------------------------------------------------------------- */

struct tarn_timer;
typedef void tarn_timer_fn(struct tarn_timer *t, void *arg);

/* Embedded by the caller. Zeroed is "not running". Owner: the loop given to start. */
struct tarn_timer {
    struct tarn_loop *loop; /* while running */
    uint64_t due_ns;        /* loop time */
    uint64_t seq;           /* keeps equal times in order of start */
    uint32_t heap_pos;      /* 1-based place in the loop's heap; 0 = not running */
    tarn_timer_fn *fn;      /* runs once */
    void *arg;              /* for fn */
};

/* (Re)starts: fn runs once, `delay_ns` from now. Cheap: O(log n), no allocation per timer. */
void tarn_timer_start(struct tarn_loop *l, struct tarn_timer *t, uint64_t delay_ns,
                      tarn_timer_fn *fn, void *arg);
void tarn_timer_stop(struct tarn_timer *t); /* not running: nothing happens */
bool tarn_timer_running(const struct tarn_timer *t);

/* ---- descriptors (libuv loops only; curl's sockets) ------------------------------------------ */

#define TARN_POLL_READ  1u
#define TARN_POLL_WRITE 2u

struct tarn_poll; /* heap, freed by stop */
typedef void tarn_poll_fn(void *arg, int fd, unsigned events /* TARN_POLL_*; both on error */);

/* Watches `fd`; repeated calls on the same `*p` change the events. Errors: errno class. */
int tarn_poll_start(struct tarn_loop *l, int fd, unsigned events, tarn_poll_fn *fn, void *arg,
                    struct tarn_poll **p);
/* No call of fn after this; sets NULL; does not close fd. */
void tarn_poll_stop(struct tarn_poll **p);

/* ---- byte streams ---------------------------------------------------------------------------- */

/* Callbacks of a connection, on its loop. After on_close nothing more is called and `c` is gone. */
struct tarn_conn_ops {
    /* `n` bytes arrived; they are valid during the call only, or lie where `room` said. */
    void (*on_data)(struct tarn_conn *c, void *arg, const uint8_t *p, size_t n);
    /*
     * Where the next bytes are to go, so that they need not be copied: at most *ret_n of them.
     * on_data tells of them, or nothing came. NULL: anywhere. May be NULL.
     */
    uint8_t *(*room)(struct tarn_conn *c, void *arg, size_t *ret_n);
    /* Everything queued was written (called each time the queue becomes empty). May be NULL. */
    void (*on_drain)(struct tarn_conn *c, void *arg);
    /* It is over: 0 after our close or the peer's orderly end, else -TARN_E_CONN_LOST or errno. */
    void (*on_close)(struct tarn_conn *c, void *arg, int rc);
};

/* Sets who is told; first before the loop turns after `c` was handed out, again to tell others. */
void tarn_conn_start(struct tarn_conn *c, const struct tarn_conn_ops *ops, void *arg);
/*
 * Queues the `n` bytes at `p` (copied), then, if `payload` is not NULL, `len` bytes at `off` of it
 * (a reference is taken, not a copy; of a pipe all of it, once). -TARN_E_BUSY when more than
 * TARN_CONN_WRITE_MAX would be queued: nothing was taken. After a failure of the peer the bytes are
 * dropped and on_close follows.
 */
int tarn_conn_write(struct tarn_conn *c, const void *p, size_t n, struct tarn_buf *payload,
                    size_t off, size_t len);
size_t tarn_conn_queued(const struct tarn_conn *c); /* bytes not yet written */
/* Stops (true) or resumes reading from the peer: back pressure. */
void tarn_conn_pause(struct tarn_conn *c, bool paused);
/* on_close(0) follows from the loop, never inside; what cannot be written at once is dropped. */
void tarn_conn_close(struct tarn_conn *c);
/* "127.0.0.1:4711", "unix:uid=1000", "pair", for logs; valid while `c` is. */
const char *tarn_conn_peer(const struct tarn_conn *c);
/* The peer's uid where the kernel tells it (unix sockets); -1 elsewhere. */
int64_t tarn_conn_peer_uid(const struct tarn_conn *c);

/* Two connected ends on one loop (socketpair on libuv, memory on sim). Errors: errno class. */
int tarn_conn_pair(struct tarn_loop *l, struct tarn_conn **ret_a, struct tarn_conn **ret_b);

typedef void tarn_connect_fn(void *arg, int rc, struct tarn_conn *c /* NULL on failure */);
struct tarn_connect; /* an attempt under way */
/*
 * Connects to "HOST:PORT", "[v6]:PORT" or "unix:/path"; resolves names off the loop. fn runs
 * exactly once, never inside this call; after cancel with -TARN_E_CANCELLED. On sim the address is
 * that of a listener on the same loop. fn must tarn_conn_start() the connection or close it. Errors
 * given to fn: -TARN_E_DEADLINE, CONN_REFUSED, DNS, INVALID (not an address), errno class.
 */
struct tarn_connect *tarn_connect(struct tarn_loop *l, const char *addr, uint64_t timeout_ns,
                                  tarn_connect_fn *fn, void *arg);
void tarn_connect_cancel(struct tarn_connect *a);

typedef void tarn_accept_fn(void *arg, struct tarn_conn *c);
/*
 * Listens on "HOST:PORT" (port 0: any) or "unix:/path" (an unused socket file is replaced; mode
 * 0600). fn gets each accepted connection and must tarn_conn_start() it or close it. At most
 * TARN_LISTENER_CONNS_MAX are open at a time; more are closed at once.
 * Errors: -TARN_E_ADDR_IN_USE, -TARN_E_INVALID (not an address), -TARN_E_DNS, errno class.
 */
int tarn_listen(struct tarn_loop *l, const char *addr, tarn_accept_fn *fn, void *arg,
                struct tarn_listener **ret);
/* The address with the port that was chosen. */
const char *tarn_listener_addr(const struct tarn_listener *s);
void tarn_listener_close(struct tarn_listener **s); /* accepted connections stay */
