/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lib/stat/stat.h — metrics: a table per module, one row per metric; counting without locks;
 * Prometheus text on scrape.
 *
 * A module declares x_stats.def with rows
 *
 *   TARN_STAT(KIND, name, labels, unit, help)
 *   TARN_STAT(COUNTER,   read_bytes,      "source=local|remote|ufs", "bytes",   "Bytes read.")
 *   TARN_STAT(GAUGE,     open_files,      "",                        "files",   "Files open.")
 *   TARN_STAT(HISTOGRAM, fuse_op_seconds, "op=read|write;ok=yes|no", "seconds", "Time of each.")
 *
 * and makes ids and the table of it:
 *
 *   enum x_stat {                                      in x_stats.h
 *   #define TARN_STAT(kind, name, labels, unit, help) X_STAT_##name,
 *   #include "x/x_stats.def"
 *   #undef TARN_STAT
 *   };
 *   extern const struct tarn_stat_table tarn_x_stats_table;
 *
 *   static const struct tarn_stat_row rows[] = {       in x_stats.c
 *   #define TARN_STAT TARN_STAT_ROW
 *   #include "x/x_stats.def"
 *   #undef TARN_STAT
 *   };
 *   const struct tarn_stat_table tarn_x_stats_table = TARN_STAT_TABLE("What x does", rows);
 *
 * The metric's name is tarn_<name>, with "_total" behind a COUNTER's. A name ends in its base unit
 * (bytes, seconds); a HISTOGRAM's must end in "_seconds". Labels are at most TARN_STAT_LABELS_MAX,
 * each with all its values in the row, so the number of series is fixed; it is at most
 * TARN_STAT_SERIES_MAX.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct tarn_str;

#define TARN_STAT_LABELS_MAX 3
#define TARN_STAT_SERIES_MAX 1024
#define TARN_STAT_BUCKETS    25 /* 1, 2, 5, 10 … us to 20 s, 60 s; and more than that */

enum tarn_stat_kind { TARN_STAT_COUNTER, TARN_STAT_GAUGE, TARN_STAT_HISTOGRAM };

/* One row. Immutable. */
struct tarn_stat_row {
    enum tarn_stat_kind kind; /* what it is */
    const char *name;         /* without "tarn_" and "_total" */
    const char *labels;       /* "op=read|write;ok=yes|no", or "" */
    const char *unit;         /* for the docs */
    const char *help;         /* one sentence */
};

/* One module's metrics. Immutable. */
struct tarn_stat_table {
    const char *title;                /* heading in docs/metrics.md */
    const struct tarn_stat_row *rows; /* n rows */
    size_t n;                         /* rows */
};

#define TARN_STAT_ROW(kind, name, labels, unit, help) {TARN_STAT_##kind, #name, labels, unit, help},
#define TARN_STAT_TABLE(title, rows)                                                               \
    {                                                                                              \
        title, rows, sizeof(rows) / sizeof((rows)[0])                                              \
    }

/*
 * The values of one table. Atomic: any thread counts at any time. `series` is 0 for a row without
 * labels, the value's place for one label ("source=local|remote|ufs": 1 is remote), else from
 * tarn_stats_series().
 */
struct tarn_stats;

/* `const_labels` ("role=worker" or "") stand on every series of the set; copied. */
struct tarn_stats *tarn_stats_new(const struct tarn_stat_table *t, const char *const_labels);
/* Must be in no registry. Accepts NULL inside, sets it to NULL. */
void tarn_stats_free(struct tarn_stats **s);

/* COUNTER or GAUGE. A gauge may be lowered by a negative number cast to uint64_t: tarn_stats_sub.
 */
void tarn_stats_add(struct tarn_stats *s, unsigned id, unsigned series, uint64_t n);
static inline void tarn_stats_inc(struct tarn_stats *s, unsigned id, unsigned series)
{
    tarn_stats_add(s, id, series, 1);
}
/* GAUGE */
void tarn_stats_sub(struct tarn_stats *s, unsigned id, unsigned series, uint64_t n);
/* GAUGE */
void tarn_stats_set(struct tarn_stats *s, unsigned id, unsigned series, int64_t v);
/* HISTOGRAM: something took `ns`. */
void tarn_stats_observe_ns(struct tarn_stats *s, unsigned id, unsigned series, uint64_t ns);

/* The series of a row with two or three labels, by the places of their values (`c` is 0 for two).
 */
unsigned tarn_stats_series(const struct tarn_stats *s, unsigned id, unsigned a, unsigned b,
                           unsigned c);
/* The place of a label's value, or -1: label 0 is the row's first. */
int tarn_stats_label(const struct tarn_stats *s, unsigned id, unsigned label, const char *value);

/* The value now; of a gauge as int64_t, of a histogram the number of observations. */
uint64_t tarn_stats_get(const struct tarn_stats *s, unsigned id, unsigned series);

/* A histogram's state. */
struct tarn_stat_hist {
    uint64_t buckets[TARN_STAT_BUCKETS]; /* observations in each, not cumulated */
    uint64_t count;                      /* all of them */
    uint64_t sum_ns;                     /* added up */
};
void tarn_stats_hist(const struct tarn_stats *s, unsigned id, unsigned series,
                     struct tarn_stat_hist *ret);
/* Upper bound in ns of the bucket that holds the q-quantile (0..1); 0 without observations. */
uint64_t tarn_stat_hist_quantile(const struct tarn_stat_hist *h, double q);

/* All metrics of a process (or of one master or worker in it). Lock: its own. */
struct tarn_stat_reg;
struct tarn_stat_reg *tarn_stat_reg_new(void);
void tarn_stat_reg_free(struct tarn_stat_reg **r); /* sets and callbacks are left out, not freed */

/*
 * Adds a set, borrowed until removed. Sets that give the same series (same name and labels) are
 * summed. A name has one kind and one help everywhere. These, and the scrape, must be called
 * without locks.
 */
void tarn_stat_reg_add(struct tarn_stat_reg *r, struct tarn_stats *s);
void tarn_stat_reg_remove(struct tarn_stat_reg *r, struct tarn_stats *s);

/* A label of a callback. */
struct tarn_stat_label {
    const char *key;   /* NULL ends the list */
    const char *value; /* any text */
};

/*
 * A value that is computed at the scrape. Labels are copied; name and help are constants. An
 * initializer that gives .kind, .name and .help in this order is found by tools/dev/gen_docs.py.
 */
struct tarn_stat_callback {
    enum tarn_stat_kind kind;                            /* COUNTER or GAUGE */
    const char *name;                                    /* as in a row */
    const char *help;                                    /* one sentence */
    struct tarn_stat_label labels[TARN_STAT_LABELS_MAX]; /* up to the first NULL key */
    double (*fn)(void *arg); /* on the scraping thread; may take any lock */
    void *arg;               /* borrowed until removed */
};
struct tarn_stat_handle;
struct tarn_stat_handle *tarn_stat_reg_callback(struct tarn_stat_reg *r,
                                                const struct tarn_stat_callback *cb);
/* Returns when no scrape is inside the callback any more; sets *h to NULL. */
void tarn_stat_reg_drop(struct tarn_stat_reg *r, struct tarn_stat_handle **h);

/* Appends everything in Prometheus' text format 0.0.4, families in order of their names. */
void tarn_stat_reg_scrape(struct tarn_stat_reg *r, struct tarn_str *out);

/* Asserts that a table is well formed; tarn_stats_new does it too. */
void tarn_stat_table_check(const struct tarn_stat_table *t);
