/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tools/metrics.h — metrics and health of a server, whatever it consists of: each part brings a
 * table and what fills it. Figures of objects that belong to the loop are copied on it whenever
 * somebody asks for them.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "lib/base/err.h"
#include "lib/stat/stat.h"

struct metrics;
struct role_master;
struct role_mount;
struct role_worker;
struct serve;
struct tarn_member;
struct tarn_stores;

#define METRICS_PARTS 5u

struct metrics_part {
    const struct tarn_stat_table *table;
    void (*copy)(struct tarn_stats *stats, void *arg); /* on the loop */
    void *arg;
};
/* Counters only grow: adds what is new. Gauges are set. `id` is a row of the part's table. */
void metrics_copy(const struct tarn_stat_table *t, struct tarn_stats *stats, unsigned id,
                  unsigned series, uint64_t v);

struct metrics_args {
    struct serve *serve;
    unsigned port;                            /* default; --http-listen: another, or none */
    struct metrics_part parts[METRICS_PARTS]; /* up to the first without a table */
    struct tarn_stats *own;                   /* a set that its owner fills; may be NULL */
    /* For /readyz; on the loop: why it is not ready, in words that live on, or NULL. May be NULL: it
     * always is. */
    const char *(*not_ready)(void *arg);
    void *ready_arg;
};
/* Errors: ADDR_IN_USE, CONFIG, with a text */
int metrics_start(const struct metrics_args *args, struct metrics **ret);
const char *metrics_addr(const struct metrics *m); /* "none" without a listener */
/* Accepts NULL inside. Thread: the loop's, which must turn once more (tarn_loop_free does). */
void metrics_stop(struct metrics **m);

/* ---- parts (metrics_parts.c) ------------------------------------------------------------------
 */

/* Stores: one attachment's counters in a process begin anew when its store is opened anew. */
struct metrics_stores {
    struct role_master *master; /* whose stores they are: this, */
    struct tarn_stores *stores; /* or these */
    struct metrics_store *seen; /* as they were last; NULL at first */
    uint32_t n_seen;
};
struct metrics_part metrics_of_stores(struct metrics_stores *s);
void metrics_stores_fini(struct metrics_stores *s);
struct metrics_part metrics_of_master(struct role_master *m);
struct metrics_part metrics_of_worker(struct role_worker *w); /* its cache */
struct metrics_part metrics_of_mount(struct role_mount *m);
/* What a worker of a cluster has besides. */
struct metrics_member {
    struct role_worker *worker;
    struct tarn_member *member;
};
struct metrics_part metrics_of_member(struct metrics_member *m);
