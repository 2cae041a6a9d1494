/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ufs/file_pool_priv.h — the threads of one file:// store. They are its own, because a dead file
 * server keeps a thread for as long as it likes: who reads something else must not wait for it, nor
 * the end of the process.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "lib/net/net.h"

struct tarn_file_job;
struct tarn_file_pool;

typedef void tarn_file_job_fn(struct tarn_file_job *job);

enum tarn_file_job_state { TARN_FILE_JOB_IDLE, TARN_FILE_JOB_QUEUED, TARN_FILE_JOB_RUNNING };

/* Embedded by the caller, valid until `done` or `drop`. Zeroed is idle. */
struct tarn_file_job {
    struct tarn_task task;          /* the pool's */
    enum tarn_file_job_state state; /* the pool's; IDLE too while `done` is on its way */
    tarn_file_job_fn *work;         /* in: on a thread of the pool; may block */
    tarn_file_job_fn *done;         /* in: afterwards, on the loop; never inside submit */
    tarn_file_job_fn
        *drop;  /* in: instead of `done`, on the thread, when the pool has been closed */
    int64_t rc; /* out: `work` sets it; -EAGAIN when there is no thread to be had */
};

/* At most `threads` threads (1..TARN_FILE_THREADS_MAX), started when there is work for them. The
 * calls below are the loop's. */
#define TARN_FILE_THREADS_MAX 16u
struct tarn_file_pool *tarn_file_pool_new(struct tarn_loop *loop, unsigned threads);
void tarn_file_pool_submit(struct tarn_file_pool *p, struct tarn_file_job *job);
/* Takes back a job that no thread has begun: true. False: `done` or `drop` will come. */
bool tarn_file_pool_recall(struct tarn_file_pool *p, struct tarn_file_job *job);
/*
 * Waits for nothing but threads that have no job. Returns how many jobs are under way, which end
 * with `drop`; each other one that was submitted is `done`, or will be. None may be queued. NULL
 * inside is accepted.
 */
unsigned tarn_file_pool_close(struct tarn_file_pool **p);
