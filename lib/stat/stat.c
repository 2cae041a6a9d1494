/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sets of values. A set has as many shards as the host has CPUs (rounded up to a power of two); a
 * shard holds a cell for every counter and bucket and is padded to whole cache lines. A thread
 * counts in the shard that its thread id names, with a relaxed atomic add: neighbours in time (the
 * threads of one pool) have neighbouring ids and so do not share lines, no thread needs to be
 * registered or outlived, and a shard that two threads share is merely slower. Readers add the
 * shards up. A gauge lives in shard 0 alone, because it can be set.
 */
#include "lib/stat/stat.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/base/assert.h"
#include "lib/base/mem.h"
#include "lib/stat/stat_priv.h"

#define STAT_SHARDS_MAX 32
#define STAT_LINE_CELLS 16 /* 128 bytes: two lines, which CPUs fetch in pairs */

#define US UINT64_C(1000)
#define MS (1000 * US)
#define S  (1000 * MS)

const uint64_t tarn_stat_bounds_ns[TARN_STAT_BUCKETS - 1] = {
    US,       2 * US,   5 * US, 10 * US, 20 * US, 50 * US, 100 * US, 200 * US,
    500 * US, MS,       2 * MS, 5 * MS,  10 * MS, 20 * MS, 50 * MS,  100 * MS,
    200 * MS, 500 * MS, S,      2 * S,   5 * S,   10 * S,  20 * S,   60 * S};

const char *const tarn_stat_bounds_text[TARN_STAT_BUCKETS - 1] = {
    "1e-06",  "2e-06", "5e-06", "1e-05", "2e-05", "5e-05", "0.0001", "0.0002",
    "0.0005", "0.001", "0.002", "0.005", "0.01",  "0.02",  "0.05",   "0.1",
    "0.2",    "0.5",   "1",     "2",     "5",     "10",    "20",     "60"};

#undef US
#undef MS
#undef S

/* Cells of a histogram: the buckets, then the sum in ns. */
#define STAT_HIST_WIDTH (TARN_STAT_BUCKETS + 1)

static const char stat_name_chars[] = "abcdefghijklmnopqrstuvwxyz0123456789_";

static bool stat_ends_with(const char *s, const char *suffix)
{
    size_t n = strlen(s), m = strlen(suffix);

    return n >= m && strcmp(s + n - m, suffix) == 0;
}

void tarn_stat_table_check(const struct tarn_stat_table *t)
{
    TARN_ASSERT(t->title[0] != 0);
    for (size_t i = 0; i < t->n; i++) {
        const struct tarn_stat_row *row = &t->rows[i];

        TARN_ASSERT(row->name[0] != 0 && strspn(row->name, stat_name_chars) == strlen(row->name));
        TARN_ASSERT(row->help[0] != 0);
        TARN_ASSERT(!stat_ends_with(row->name, "_total")); /* put there for counters */
        TARN_ASSERT(row->kind != TARN_STAT_HISTOGRAM || stat_ends_with(row->name, "_seconds"));
        for (size_t k = 0; k < i; k++)
            TARN_ASSERT(strcmp(t->rows[k].name, row->name) != 0);
    }
}

/* "op=read|write" of `n` bytes. */
static void stat_label_init(struct stat_label *l, const char *text, size_t n)
{
    const char *eq = memchr(text, '=', n), *end = text + n, *s;

    TARN_ASSERT(eq != NULL && eq > text);
    l->key = strndup(text, (size_t)(eq - text));
    TARN_ASSERT(l->key != NULL && strspn(l->key, stat_name_chars) == strlen(l->key));
    for (s = eq + 1; s <= end;) {
        const char *bar = memchr(s, '|', (size_t)(end - s));
        size_t len = (size_t)((bar ? bar : end) - s);

        TARN_ASSERT(len > 0);
        l->values = tarn_xrealloc(l->values, (l->n_values + 1) * sizeof(*l->values));
        l->values[l->n_values] = strndup(s, len);
        TARN_ASSERT(l->values[l->n_values] != NULL);
        l->n_values++;
        s += len + 1;
    }
}

static void stat_slot_init(struct stat_slot *slot, const struct tarn_stat_row *row, size_t first)
{
    slot->first = first;
    slot->width = row->kind == TARN_STAT_HISTOGRAM ? STAT_HIST_WIDTH : 1;
    slot->series = 1;
    for (const char *s = row->labels; *s;) {
        size_t n = strcspn(s, ";");

        TARN_ASSERT(slot->n_labels < TARN_STAT_LABELS_MAX);
        stat_label_init(&slot->labels[slot->n_labels], s, n);
        slot->series *= slot->labels[slot->n_labels].n_values;
        TARN_ASSERT(slot->series <= TARN_STAT_SERIES_MAX);
        slot->n_labels++;
        s += n + (s[n] == ';');
    }
}

static unsigned stat_shard_count(void)
{
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    unsigned n = 1;

    while (n < STAT_SHARDS_MAX && (long)n < cpus)
        n *= 2;
    return n;
}

struct tarn_stats *tarn_stats_new(const struct tarn_stat_table *t, const char *const_labels)
{
    struct tarn_stats *s = tarn_xnew(struct tarn_stats);
    size_t cells = 0, bytes;

    tarn_stat_table_check(t);
    s->table = t;
    s->const_labels = tarn_xstrdup(const_labels);
    s->slots = tarn_xcalloc(t->n, sizeof(*s->slots));
    for (size_t i = 0; i < t->n; i++) {
        stat_slot_init(&s->slots[i], &t->rows[i], cells);
        cells += s->slots[i].series * s->slots[i].width;
    }
    s->shards = stat_shard_count();
    s->stride = tarn_div_up(cells + 1, STAT_LINE_CELLS) * STAT_LINE_CELLS;
    bytes = s->shards * s->stride * sizeof(*s->cells);
    s->cells = aligned_alloc(STAT_LINE_CELLS * sizeof(*s->cells), bytes);
    TARN_ASSERT(s->cells != NULL);
    for (size_t i = 0; i < s->shards * s->stride; i++)
        atomic_init(&s->cells[i], 0);
    return s;
}

void tarn_stats_free(struct tarn_stats **stats)
{
    struct tarn_stats *s = *stats;

    if (!s)
        return;
    for (size_t i = 0; i < s->table->n; i++) {
        for (unsigned l = 0; l < s->slots[i].n_labels; l++) {
            for (unsigned v = 0; v < s->slots[i].labels[l].n_values; v++)
                free(s->slots[i].labels[l].values[v]);
            free(s->slots[i].labels[l].values);
            free(s->slots[i].labels[l].key);
        }
    }
    free(s->slots);
    free(s->const_labels);
    free(s->cells);
    free(s);
    *stats = NULL;
}

static unsigned stat_my_shard(const struct tarn_stats *s)
{
    static _Thread_local unsigned tid; /* what the kernel calls this thread; 0: not asked yet */

    if (tid == 0)
        tid = (unsigned)syscall(SYS_gettid);
    return tid & (s->shards - 1);
}

/* Index of a series' first cell inside a shard; asserts the kind and the range. */
static size_t stat_cell(const struct tarn_stats *s, unsigned id, unsigned series)
{
    TARN_ASSERT(id < s->table->n);
    TARN_ASSERT(series < s->slots[id].series);
    return s->slots[id].first + series * s->slots[id].width;
}

void tarn_stats_add(struct tarn_stats *s, unsigned id, unsigned series, uint64_t n)
{
    size_t cell = stat_cell(s, id, series);
    enum tarn_stat_kind kind = s->table->rows[id].kind;

    TARN_ASSERT(kind != TARN_STAT_HISTOGRAM);
    if (kind == TARN_STAT_COUNTER)
        cell += stat_my_shard(s) * s->stride;
    atomic_fetch_add_explicit(&s->cells[cell], n, memory_order_relaxed);
}

void tarn_stats_sub(struct tarn_stats *s, unsigned id, unsigned series, uint64_t n)
{
    size_t cell = stat_cell(s, id, series);

    TARN_ASSERT(s->table->rows[id].kind == TARN_STAT_GAUGE);
    atomic_fetch_sub_explicit(&s->cells[cell], n, memory_order_relaxed);
}

void tarn_stats_set(struct tarn_stats *s, unsigned id, unsigned series, int64_t v)
{
    size_t cell = stat_cell(s, id, series);

    TARN_ASSERT(s->table->rows[id].kind == TARN_STAT_GAUGE);
    atomic_store_explicit(&s->cells[cell], (uint64_t)v, memory_order_relaxed);
}

/* The first bucket whose bound is not below ns. */
static size_t stat_bucket(uint64_t ns)
{
    size_t lo = 0, hi = TARN_STAT_BUCKETS - 1;

    while (lo < hi) {
        size_t mid = (lo + hi) / 2;

        if (ns <= tarn_stat_bounds_ns[mid])
            hi = mid;
        else
            lo = mid + 1;
    }
    return lo;
}

void tarn_stats_observe_ns(struct tarn_stats *s, unsigned id, unsigned series, uint64_t ns)
{
    size_t cell = stat_cell(s, id, series) + stat_my_shard(s) * s->stride;

    TARN_ASSERT(s->table->rows[id].kind == TARN_STAT_HISTOGRAM);
    atomic_fetch_add_explicit(&s->cells[cell + stat_bucket(ns)], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&s->cells[cell + TARN_STAT_BUCKETS], ns, memory_order_relaxed);
}

unsigned tarn_stats_series(const struct tarn_stats *s, unsigned id, unsigned a, unsigned b,
                           unsigned c)
{
    const unsigned place[TARN_STAT_LABELS_MAX] = {a, b, c};
    const struct stat_slot *slot;
    unsigned series = 0;

    TARN_ASSERT(id < s->table->n);
    slot = &s->slots[id];
    for (unsigned i = 0; i < TARN_STAT_LABELS_MAX; i++) {
        TARN_ASSERT(place[i] < (i < slot->n_labels ? slot->labels[i].n_values : 1));
        if (i < slot->n_labels)
            series = series * slot->labels[i].n_values + place[i];
    }
    return series;
}

int tarn_stats_label(const struct tarn_stats *s, unsigned id, unsigned label, const char *value)
{
    TARN_ASSERT(id < s->table->n && label < s->slots[id].n_labels);
    for (unsigned i = 0; i < s->slots[id].labels[label].n_values; i++)
        if (strcmp(s->slots[id].labels[label].values[i], value) == 0)
            return (int)i;
    return -1;
}

static uint64_t stat_sum(const struct tarn_stats *s, size_t cell)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < s->shards; i++)
        sum += atomic_load_explicit(&s->cells[i * s->stride + cell], memory_order_relaxed);
    return sum;
}

void tarn_stats_hist(const struct tarn_stats *s, unsigned id, unsigned series,
                     struct tarn_stat_hist *ret)
{
    size_t cell = stat_cell(s, id, series);

    TARN_ASSERT(s->table->rows[id].kind == TARN_STAT_HISTOGRAM);
    ret->count = 0;
    for (size_t i = 0; i < TARN_STAT_BUCKETS; i++) {
        ret->buckets[i] = stat_sum(s, cell + i);
        ret->count += ret->buckets[i];
    }
    ret->sum_ns = stat_sum(s, cell + TARN_STAT_BUCKETS);
}

uint64_t tarn_stats_get(const struct tarn_stats *s, unsigned id, unsigned series)
{
    size_t cell = stat_cell(s, id, series);
    struct tarn_stat_hist h;

    if (s->table->rows[id].kind != TARN_STAT_HISTOGRAM)
        return stat_sum(s, cell);
    tarn_stats_hist(s, id, series, &h);
    return h.count;
}

uint64_t tarn_stat_hist_quantile(const struct tarn_stat_hist *h, double q)
{
    uint64_t seen = 0;
    double want = q * (double)h->count;

    TARN_ASSERT(q >= 0 && q <= 1);
    for (size_t i = 0; i < TARN_STAT_BUCKETS; i++) {
        seen += h->buckets[i];
        if (seen > 0 && (double)seen >= want)
            return tarn_stat_bounds_ns[TARN_MIN(i, (size_t)TARN_STAT_BUCKETS - 2)];
    }
    return 0;
}
