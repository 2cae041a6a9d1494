/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Helpers of the tests of lib/net. A test takes its loop from *state: each runs on both loops
 * unless its table says otherwise.
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "lib/base/env.h"
#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/net/net.h"

#define NET_MS TARN_NS_PER_MS

int net_setup_uv(void **state);
int net_setup_sim(void **state);
int net_setup_sim_faults(void **state); /* chunks of 1..1000 bytes, delays up to 1 ms */
int net_teardown(void **state);
bool net_is_sim(struct tarn_loop *l);

#define NET_TEST_UV(f)                                                                             \
    {                                                                                              \
#f " on libuv", f, net_setup_uv, net_teardown, NULL                                        \
    }
#define NET_TEST_SIM(f)                                                                            \
    {                                                                                              \
#f " on sim", f, net_setup_sim, net_teardown, NULL                                         \
    }
#define NET_TEST_BOTH(f)                                                                           \
    NET_TEST_UV(f), NET_TEST_SIM(f),                                                               \
    {                                                                                              \
#f " on sim with faults", f, net_setup_sim_faults, net_teardown, NULL                      \
    }

/* Runs until tarn_loop_stop(); fails the test if that does not come. */
void net_run(struct tarn_loop *l);
/* Runs for a while. */
void net_run_for(struct tarn_loop *l, uint64_t ns);

/* What one end has seen. Closes nothing by itself. */
struct net_end {
    struct tarn_loop *l;      /* stopped when something is reached */
    struct tarn_conn *c;      /* NULL after on_close */
    struct tarn_connect *try; /* under way */
    size_t got;               /* bytes */
    size_t stop_at;           /* stop the loop at that many; 0: never */
    char text[64];            /* the first of them */
    unsigned drains;          /* on_drain calls */
    unsigned closes;          /* on_close calls */
    unsigned connects;        /* connect fn calls */
    int rc;                   /* of on_close or of the connect */
    unsigned say_in_drain;    /* bytes to write there, one at a time */
    bool stop_on_drain;       /* stop the loop then */
    bool stop_on_close;       /* likewise */
    bool stop_on_connect;     /* likewise */
    bool close_in_data;       /* close the connection there */
    bool close_in_drain;      /* likewise */
    bool close_in_open;       /* in the accept or connect callback */
};

extern const struct tarn_conn_ops net_end_ops;
void net_end_start(struct net_end *e, struct tarn_conn *c);
void net_end_accept(void *arg, struct tarn_conn *c);            /* arg: struct net_end */
void net_end_connected(void *arg, int rc, struct tarn_conn *c); /* arg: struct net_end */

/* Closes what is open and waits for on_close. */
void net_close(struct net_end *e);

/* A connected pair: over a socket pair or memory. */
void net_link(struct tarn_loop *l, struct net_end *a, struct net_end *b);
/* A path for a unix socket in a new directory; net_path_gone() removes both. */
const char *net_path(char buf[64]);
void net_path_gone(const char *addr);

int net_test_timers(void);
int net_test_tasks(void);
int net_test_conn(void);
int net_test_connect(void);
int net_test_listen(void);
int net_test_sim(void);
int net_test_poll(void);
