/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lib/net/net_sim_priv.h — what the files of the simulated loop share.
 */
#pragma once

#include "lib/base/env.h"
#include "lib/net/net_priv.h"

#define TARN_SIM_READ_BYTES (64u << 10) /* most bytes of one on_data */

struct tarn_sim_loop;
typedef void tarn_sim_fn(struct tarn_sim_loop *s, void *arg);

/* Something that will happen. Events of one time happen in the order in which they were made. */
struct tarn_sim_event {
    uint64_t at_ns;  /* virtual time */
    uint64_t seq;    /* from the loop's counter, which timers share */
    tarn_sim_fn *fn; /* what happens */
    void *arg;       /* for fn */
};

/* Owner: one thread. */
struct tarn_sim_loop {
    struct tarn_loop base;                 /* first */
    uint64_t now_ns;                       /* virtual time */
    bool stop;                             /* asked to stop */
    struct tarn_sim_event *heap;           /* ordered by (at_ns, seq) */
    size_t count;                          /* events */
    size_t cap;                            /* places at heap */
    struct tarn_rng_seeded rng;            /* every choice */
    size_t chunk_max;                      /* most bytes of one on_data */
    uint64_t delay_ns_max;                 /* of a delivery or a connection */
    uint32_t drop_per_million;             /* chance that a delivery cuts the connection */
    struct tarn_list listeners;            /* open ones */
    unsigned next_port;                    /* for port 0 */
    uint8_t read_buf[TARN_SIM_READ_BYTES]; /* what on_data shows */
};

static inline struct tarn_sim_loop *tarn_sim_of(struct tarn_loop *l)
{
    return TARN_CONTAINER(l, struct tarn_sim_loop, base);
}

/* fn happens `delay_ns` from now, after everything that was made for that time before. */
void tarn_sim_event(struct tarn_sim_loop *s, uint64_t delay_ns, tarn_sim_fn *fn, void *arg);
/* A random delay within the bound that tarn_loop_sim_faults() set. */
uint64_t tarn_sim_delay(struct tarn_sim_loop *s);

void tarn_sim_conn_start(struct tarn_conn *c);
int tarn_sim_conn_write(struct tarn_conn *c, const void *p, size_t n, struct tarn_buf *payload,
                        size_t off, size_t len);
size_t tarn_sim_conn_queued(const struct tarn_conn *c);
void tarn_sim_conn_pause(struct tarn_conn *c);
void tarn_sim_conn_close(struct tarn_conn *c);
int tarn_sim_conn_pair(struct tarn_loop *l, struct tarn_conn **ret_a, struct tarn_conn **ret_b);
/* Two connected ends that say they talk to `peer_of_a` and `peer_of_b`. */
void tarn_sim_conn_link(struct tarn_sim_loop *s, const char *peer_of_a, const char *peer_of_b,
                        struct tarn_conn **ret_a, struct tarn_conn **ret_b);

struct tarn_connect *tarn_sim_connect(struct tarn_loop *l, const char *addr, uint64_t timeout_ns,
                                      tarn_connect_fn *fn, void *arg);
void tarn_sim_connect_cancel(struct tarn_connect *a);
int tarn_sim_listen(struct tarn_loop *l, const char *addr, tarn_accept_fn *fn, void *arg,
                    struct tarn_listener **ret);
void tarn_sim_listener_close(struct tarn_listener *s);
