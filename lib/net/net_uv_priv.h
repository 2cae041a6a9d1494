/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lib/net/net_uv_priv.h — what the files of the libuv loop share. Only they include uv.h.
 */
#pragma once

#include <stdatomic.h>
#include <uv.h>

#include "lib/net/net_priv.h"

#define TARN_UV_READ_BYTES (64u << 10) /* the loop's read buffer */

/* Owner: loop, but for the atomics. */
struct tarn_uv_loop {
    struct tarn_loop base;              /* first */
    uv_loop_t uv;                       /* libuv's */
    uv_async_t wake;                    /* another thread posted or stopped */
    uv_timer_t timer;                   /* for the earliest of base.timers */
    uv_prepare_t prepare;               /* before each wait: writes leave, the time is forgotten */
    uv_idle_t kick;                     /* active: there is work, so do not wait */
    _Atomic(struct tarn_list *) posted; /* tasks, newest first, linked by next */
    _Atomic unsigned posters;           /* threads inside post or stop */
    _Atomic bool stop;                  /* asked to stop */
    uint64_t now_ns;                    /* the time, while now_valid */
    bool now_valid;                     /* read since the turn began */
    bool armed;                         /* timer runs */
    uint64_t armed_ms;                  /* when it fires, on libuv's clock */
    struct tarn_list dirty;             /* connections that have something to write or to tell */
    uint8_t *read_buf; /* TARN_UV_READ_BYTES, shared: data is valid in on_data only */
};

/* The next turn does not wait for events. */
void tarn_uv_kick(struct tarn_uv_loop *u);
/* libuv's or the kernel's negative number as one of ours; UV_EOF is 0. */
int tarn_uv_err(int rc);

/*
 * Makes a connection of a connected stream socket and takes `fd`: it is closed on failure too.
 * `peer` NULL: asks the kernel.
 */
int tarn_uv_conn_open(struct tarn_uv_loop *u, int fd, const char *peer, struct tarn_conn **ret);
/* Before the loop waits: writes what was queued since and tells who is drained or failed. */
void tarn_uv_conns_turn(struct tarn_uv_loop *u);

void tarn_uv_conn_start(struct tarn_conn *c);
int tarn_uv_conn_write(struct tarn_conn *c, const void *p, size_t n, struct tarn_buf *payload,
                       size_t off, size_t len);
size_t tarn_uv_conn_queued(const struct tarn_conn *c);
void tarn_uv_conn_pause(struct tarn_conn *c);
void tarn_uv_conn_close(struct tarn_conn *c);
int tarn_uv_conn_pair(struct tarn_loop *l, struct tarn_conn **ret_a, struct tarn_conn **ret_b);

struct tarn_connect *tarn_uv_connect(struct tarn_loop *l, const char *addr, uint64_t timeout_ns,
                                     tarn_connect_fn *fn, void *arg);
void tarn_uv_connect_cancel(struct tarn_connect *a);

int tarn_uv_listen(struct tarn_loop *l, const char *addr, tarn_accept_fn *fn, void *arg,
                   struct tarn_listener **ret);
void tarn_uv_listener_close(struct tarn_listener *s);
