/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lib/net/net_priv.h — what both loops share: the vtable, the heads of their objects, the timer
 * heap and the address parser. An implementation embeds each head as its struct's first member.
 */
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "lib/net/net.h"

#define TARN_LOOP_MAGIC     0x6c6f6f70u
#define TARN_CONN_MAGIC     0x636f6e6eu
#define TARN_LISTENER_MAGIC 0x6c73746eu
#define TARN_CONNECT_MAGIC  0x636e6374u
#define TARN_POLL_MAGIC     0x706f6c6cu

#define TARN_ADDR_TEXT_MAX 320 /* bytes of an address as text, with its NUL */

/* What an implementation does. net.c has checked the arguments and the thread. */
struct tarn_loop_ops {
    void (*free)(struct tarn_loop *l);
    void (*run)(struct tarn_loop *l);
    void (*stop)(struct tarn_loop *l); /* any thread */
    uint64_t (*now_ns)(struct tarn_loop *l);
    uint64_t (*read_now_ns)(struct tarn_loop *l);
    void (*post)(struct tarn_loop *l, struct tarn_task *t); /* any thread */
    void (*timer_first)(struct tarn_loop *l);               /* the earliest timer is a new one */
    int (*poll_start)(struct tarn_loop *l, int fd, unsigned events, tarn_poll_fn *fn, void *arg,
                      struct tarn_poll **p);
    void (*poll_stop)(struct tarn_poll *p);
    void (*conn_start)(struct tarn_conn *c);
    int (*conn_write)(struct tarn_conn *c, const void *p, size_t n, struct tarn_buf *payload,
                      size_t off, size_t len);
    size_t (*conn_queued)(const struct tarn_conn *c);
    void (*conn_pause)(struct tarn_conn *c); /* c->paused has changed */
    void (*conn_close)(struct tarn_conn *c);
    int (*conn_pair)(struct tarn_loop *l, struct tarn_conn **ret_a, struct tarn_conn **ret_b);
    struct tarn_connect *(*connect)(struct tarn_loop *l, const char *addr, uint64_t timeout_ns,
                                    tarn_connect_fn *fn, void *arg);
    void (*connect_cancel)(struct tarn_connect *a);
    int (*listen)(struct tarn_loop *l, const char *addr, tarn_accept_fn *fn, void *arg,
                  struct tarn_listener **ret);
    void (*listener_close)(struct tarn_listener *s);
};

/* A binary heap of timers, ordered by (due_ns, seq). Owner: its loop. */
struct tarn_timers {
    struct tarn_timer **heap; /* heap[0] is the earliest; t->heap_pos - 1 is t's index */
    uint32_t count;           /* running timers */
    uint32_t cap;             /* places at heap */
};

/* Owner: the thread that runs it; `owner` is atomic. */
struct tarn_loop {
    uint32_t magic;                  /* TARN_LOOP_MAGIC */
    const struct tarn_loop_ops *ops; /* the implementation */
    struct tarn_loop *self;          /* this, without const: reading the time may refresh it */
    struct tarn_timers timers;       /* running */
    uint64_t seq;                    /* last number given to a timer or an event */
    _Atomic uint64_t owner;          /* the thread that runs it; 0 while it does not run */
    unsigned conns;                  /* connections handed out and not closed */
    unsigned listeners;              /* not closed */
    unsigned connects;               /* attempts whose fn has not run */
    unsigned polls;                  /* not stopped */
};

void tarn_loop_init(struct tarn_loop *l, const struct tarn_loop_ops *ops);
/* Asserts that nothing is left, frees the heap. */
void tarn_loop_fini(struct tarn_loop *l);
/* Between these two the caller is the loop's thread. */
void tarn_loop_enter(struct tarn_loop *l);
void tarn_loop_leave(struct tarn_loop *l);
bool tarn_loop_is_mine(const struct tarn_loop *l); /* it runs, and on this thread */

/* Owner: loop. */
struct tarn_conn {
    uint32_t magic;                  /* TARN_CONN_MAGIC */
    struct tarn_loop *loop;          /* where it lives */
    const struct tarn_conn_ops *ops; /* who is told; NULL before the start */
    void *arg;                       /* for ops */
    struct tarn_listener *listener;  /* that accepted it and is still open, or NULL */
    struct tarn_list node;           /* listener->conns */
    int64_t uid;                     /* the peer's, or -1 */
    int close_rc;                    /* for on_close */
    bool paused;                     /* the user wants no data */
    bool closing;                    /* on_close will follow, nothing else */
    char peer[TARN_ADDR_TEXT_MAX];   /* for logs */
};

/* Where the next bytes go: the user's room, else the *ret_n bytes at `buf`. */
uint8_t *tarn_conn_room(struct tarn_conn *c, uint8_t *buf, size_t *ret_n);
void tarn_conn_init(struct tarn_conn *c, struct tarn_loop *l, const char *peer, int64_t uid);
/* Notes that `c` is over with `rc`: leaves its listener. The implementation tells the user later.
 */
void tarn_conn_set_closing(struct tarn_conn *c, int rc);
/* The last call for `c`: on_close, if anybody was to be told. */
void tarn_conn_tell_close(struct tarn_conn *c);

/* Owner: loop. */
struct tarn_listener {
    uint32_t magic;                /* TARN_LISTENER_MAGIC */
    struct tarn_loop *loop;        /* where it lives */
    tarn_accept_fn *fn;            /* gets the connections */
    void *arg;                     /* for fn */
    struct tarn_list conns;        /* accepted and not closed */
    unsigned count;                /* of conns */
    char addr[TARN_ADDR_TEXT_MAX]; /* with the port that was chosen */
};

void tarn_listener_init(struct tarn_listener *s, struct tarn_loop *l, tarn_accept_fn *fn,
                        void *arg);
void tarn_listener_fini(struct tarn_listener *s); /* lets its connections go */
bool tarn_listener_full(const struct tarn_listener *s);
/* Counts `c` as one of s, hands it out and asserts that it was started or closed. */
void tarn_listener_accept(struct tarn_listener *s, struct tarn_conn *c);

/* Owner: loop. */
struct tarn_connect {
    uint32_t magic;         /* TARN_CONNECT_MAGIC */
    struct tarn_loop *loop; /* where it lives */
    tarn_connect_fn *fn;    /* gets the result */
    void *arg;              /* for fn */
    bool cancelled;         /* fn gets -TARN_E_CANCELLED whatever happened */
};

void tarn_connect_init(struct tarn_connect *a, struct tarn_loop *l, tarn_connect_fn *fn, void *arg);
/* Runs fn; `c` is closed instead of handed out when the attempt was cancelled. */
void tarn_connect_tell(struct tarn_connect *a, int rc, struct tarn_conn *c);

/* The earliest timer, NULL when none runs. */
struct tarn_timer *tarn_timers_first(const struct tarn_timers *h);
/* Runs what is due at `now_ns`; timers that start meanwhile wait for the next call. */
void tarn_timers_run(struct tarn_loop *l, uint64_t now_ns);
/* Runs the earliest timer, whatever its time. */
void tarn_timers_run_first(struct tarn_loop *l);

/* Owner: loop. */
struct tarn_poll {
    uint32_t magic;         /* TARN_POLL_MAGIC */
    struct tarn_loop *loop; /* where it lives */
};

/* One socket address. */
struct tarn_sockaddr {
    socklen_t len; /* bytes used; 0 = not resolved */
    union {
        struct sockaddr sa;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
        struct sockaddr_un un;
        struct sockaddr_storage storage;
    } u;
};

/* "HOST:PORT", "[v6]:PORT" or "unix:/path", taken apart. */
struct tarn_addr {
    struct tarn_sockaddr sock; /* where the text was numeric or a path; else len == 0 */
    char host[256];            /* name or number, without brackets; empty for a path */
    char port[6];              /* decimal; empty for a path */
};

/* Errors: -TARN_E_INVALID, -ENAMETOOLONG (a path longer than the kernel takes). */
int tarn_addr_parse(const char *text, struct tarn_addr *ret);
/* "127.0.0.1:4711", "[::1]:4711", "unix:/path"; returns buf. */
const char *tarn_addr_text(const struct tarn_sockaddr *a, char buf[TARN_ADDR_TEXT_MAX]);
