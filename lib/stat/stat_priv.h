/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lib/stat/stat_priv.h — a set of values, as the scrape reads it.
 */
#pragma once

#include <stdatomic.h>

#include "lib/stat/stat.h"

/* A label of a row, taken apart. */
struct stat_label {
    char *key;     /* owned */
    char **values; /* n_values, owned */
    unsigned n_values;
};

/* Where a row's cells are. */
struct stat_slot {
    struct stat_label labels[TARN_STAT_LABELS_MAX]; /* n_labels */
    unsigned n_labels;                              /* labels of the row */
    unsigned series;                                /* product of their n_values */
    size_t first;                                   /* cell of series 0 */
    size_t width;                                   /* cells of a series */
};

struct tarn_stats {
    const struct tarn_stat_table *table; /* its table */
    struct stat_slot *slots;             /* one per row */
    char *const_labels;                  /* "k=v;k=v" */
    _Atomic uint64_t *cells;             /* shards * stride, 128-byte aligned */
    size_t stride;                       /* cells of a shard, whole cache lines */
    unsigned shards;                     /* a power of two */
};

/* Upper bounds of the buckets but the last, in ns and as Prometheus writes them. */
extern const uint64_t tarn_stat_bounds_ns[TARN_STAT_BUCKETS - 1];
extern const char *const tarn_stat_bounds_text[TARN_STAT_BUCKETS - 1];
