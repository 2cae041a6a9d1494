/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lib/disk/disk.h — block I/O and blocking work off the loops, behind a vtable. Implemented by a
 * thread pool (disk_pool.c) and, for deterministic tests, by one that runs everything on a
 * simulated loop (disk_sim.c: delays, EIO and torn writes by seed).
 *
 * A request is embedded by the caller and valid until its callback, which runs exactly once on the
 * loop named in it, never inside submit.
 */
#pragma once

#include <stdint.h>

#include "lib/net/net.h"

struct tarn_disk;
struct tarn_disk_io;

typedef void tarn_disk_fn(struct tarn_disk_io *io);

enum tarn_disk_op {
    TARN_DISK_READ,  /* pread until len or end of file; rc = bytes */
    TARN_DISK_WRITE, /* pwrite of all of len; rc = 0 */
    TARN_DISK_SYNC,  /* fdatasync; rc = 0 */
    TARN_DISK_CALL   /* work(io) on a pool thread; it sets rc */
};

struct tarn_disk_io {
    struct tarn_task task;  /* the disk's */
    struct tarn_loop *loop; /* in: where cb runs */
    enum tarn_disk_op op;   /* in */
    int fd;                 /* in: READ, WRITE, SYNC */
    uint64_t off_bytes;     /* in: READ, WRITE */
    void *data;             /* in: READ, WRITE; borrowed until cb */
    uint32_t len_bytes;     /* in: READ, WRITE */
    int64_t rc;             /* out: result or negative code */
    tarn_disk_fn
        *work; /* in: CALL; runs on a pool thread, may block, must not touch loops but by post */
    tarn_disk_fn *cb; /* in */
    void *arg;        /* in: the caller's */
};

/* A pool of `threads` (1..64) named threads. Errors: errno class. */
int tarn_disk_pool_new(unsigned threads, struct tarn_disk **ret_disk);

struct tarn_disk_sim_args {
    uint64_t seed;          /* of every choice below */
    uint64_t delay_ns_max;  /* completions come after 0..this, virtual time */
    uint32_t eio_per_mille; /* chance that a READ, WRITE (torn) or SYNC fails with EIO */
};
/* Runs work inline on `l`'s virtual time. */
struct tarn_disk *tarn_disk_sim_new(struct tarn_loop *l, const struct tarn_disk_sim_args *args);

/* Any thread. Never fails: errors come with the callback. Requests of one fd are not ordered. */
void tarn_disk_submit(struct tarn_disk *d, struct tarn_disk_io *io);
/* Waits for requests under way (their callbacks are still posted); sets NULL. Not on a pool thread.
 */
void tarn_disk_free(struct tarn_disk **d);
