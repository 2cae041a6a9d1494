/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The registry and the scrape. A family is a name with its kind and help; it is written once, with
 * the series of all sets and callbacks that have it. Sets with the same series (two instances of a
 * module in one process) are summed: the first such set writes, the others only add.
 *
 * One lock covers the lists and is held over callbacks, so that a dropped callback never runs
 * again. Its rank is the lowest: callbacks may take any lock, and nobody may register while holding
 * one.
 */
#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/list.h"
#include "lib/base/mem.h"
#include "lib/base/mtx.h"
#include "lib/base/str.h"
#include "lib/stat/stat_priv.h"

struct tarn_stat_handle {
    struct tarn_list node;        /* in the registry's callbacks */
    struct tarn_stat_callback cb; /* its labels are owned */
};

struct tarn_stat_reg {
    struct tarn_mtx mtx;        /* rank SCRAPE, covers all below */
    struct tarn_stats **sets;   /* n_sets, borrowed */
    size_t n_sets;              /* sets */
    struct tarn_list callbacks; /* of struct tarn_stat_handle */
};

/* What is written above the series of a name. */
struct stat_family {
    const char *name;         /* without prefix and suffix */
    const char *help;         /* text of the HELP line */
    enum tarn_stat_kind kind; /* of all its series */
};

struct tarn_stat_reg *tarn_stat_reg_new(void)
{
    struct tarn_stat_reg *r = tarn_xnew(struct tarn_stat_reg);

    tarn_mtx_init(&r->mtx, TARN_RANK_SCRAPE);
    tarn_list_init(&r->callbacks);
    return r;
}

static void stat_handle_free(struct tarn_stat_handle *h)
{
    struct tarn_stat_callback *cb = &h->cb;

    for (size_t i = 0; i < TARN_STAT_LABELS_MAX && cb->labels[i].key; i++) {
        char *key, *value;

        memcpy(&key, &cb->labels[i].key, sizeof(key)); /* ours, though const for the reader */
        memcpy(&value, &cb->labels[i].value, sizeof(value));
        free(key);
        free(value);
    }
    free(h);
}

void tarn_stat_reg_free(struct tarn_stat_reg **reg)
{
    struct tarn_stat_reg *r = *reg;

    if (!r)
        return;
    TARN_LIST_FOREACH_SAFE(it, &r->callbacks)
    {
        stat_handle_free(TARN_LIST_ENTRY(it, struct tarn_stat_handle, node));
    }
    free(r->sets);
    tarn_mtx_fini(&r->mtx);
    free(r);
    *reg = NULL;
}

void tarn_stat_reg_add(struct tarn_stat_reg *r, struct tarn_stats *s)
{
    TARN_GUARD(&r->mtx);

    r->sets = tarn_xrealloc(r->sets, (r->n_sets + 1) * sizeof(struct tarn_stats *));
    r->sets[r->n_sets++] = s;
}

void tarn_stat_reg_remove(struct tarn_stat_reg *r, struct tarn_stats *s)
{
    TARN_GUARD(&r->mtx);

    for (size_t i = 0; i < r->n_sets; i++) {
        if (r->sets[i] != s)
            continue;
        r->sets[i] = r->sets[--r->n_sets];
        return;
    }
}

struct tarn_stat_handle *tarn_stat_reg_callback(struct tarn_stat_reg *r,
                                                const struct tarn_stat_callback *cb)
{
    struct tarn_stat_handle *h = tarn_xnew(struct tarn_stat_handle);

    TARN_ASSERT(cb->kind != TARN_STAT_HISTOGRAM && cb->fn != NULL);
    h->cb = *cb;
    for (size_t i = 0; i < TARN_STAT_LABELS_MAX && cb->labels[i].key; i++) {
        h->cb.labels[i].key = tarn_xstrdup(cb->labels[i].key);
        h->cb.labels[i].value = tarn_xstrdup(cb->labels[i].value);
    }
    TARN_GUARD(&r->mtx);
    tarn_list_push(&r->callbacks, &h->node);
    return h;
}

void tarn_stat_reg_drop(struct tarn_stat_reg *r, struct tarn_stat_handle **h)
{
    if (!*h)
        return;
    tarn_mtx_lock(&r->mtx);
    tarn_list_del(&(*h)->node);
    tarn_mtx_unlock(&r->mtx);
    stat_handle_free(*h);
    *h = NULL;
}

/* key="value", after a comma if it is not the first; backslash, quote and newline are escaped. */
static void scrape_pair(struct tarn_str *labels, const char *key, size_t key_len, const char *value,
                        size_t value_len)
{
    if (labels->len)
        tarn_str_addc(labels, ',');
    tarn_str_add(labels, key, key_len);
    tarn_str_adds(labels, "=\"");
    for (size_t i = 0; i < value_len; i++) {
        if (value[i] == '\\' || value[i] == '"')
            tarn_str_addf(labels, "\\%c", value[i]);
        else if (value[i] == '\n')
            tarn_str_adds(labels, "\\n");
        else
            tarn_str_addc(labels, value[i]);
    }
    tarn_str_addc(labels, '"');
}

static void scrape_label(struct tarn_str *labels, const char *key, const char *value)
{
    scrape_pair(labels, key, strlen(key), value, strlen(value));
}

/* The set's own labels ("role=worker;x=y"). */
static void scrape_const_labels(struct tarn_str *labels, const char *text)
{
    while (*text) {
        size_t n = strcspn(text, ";"), k = strcspn(text, "=");

        TARN_ASSERT(k < n);
        scrape_pair(labels, text, k, text + k + 1, n - k - 1);
        text += n + (text[n] == ';');
    }
}

/* All labels of a series, without braces. */
static void scrape_labels(struct tarn_str *labels, const struct tarn_stats *s,
                          const struct stat_slot *slot, unsigned series)
{
    unsigned step = slot->series;

    tarn_str_reset(labels);
    scrape_const_labels(labels, s->const_labels);
    for (unsigned i = 0; i < slot->n_labels; i++) {
        const struct stat_label *l = &slot->labels[i];

        step /= l->n_values;
        scrape_label(labels, l->key, l->values[series / step % l->n_values]);
    }
}

static void scrape_line(struct tarn_str *out, const struct stat_family *f, const char *suffix,
                        const struct tarn_str *labels)
{
    tarn_str_addf(out, "tarn_%s%s", f->name, suffix);
    if (labels->len)
        tarn_str_addf(out, "{%s}", tarn_str_z(labels));
    tarn_str_addc(out, ' ');
}

static void scrape_hist(struct tarn_str *out, const struct stat_family *f,
                        const struct tarn_str *labels, const struct tarn_stat_hist *h)
{
    uint64_t seen = 0;

    for (size_t i = 0; i < TARN_STAT_BUCKETS; i++) {
        seen += h->buckets[i];
        tarn_str_addf(out, "tarn_%s_bucket{%s%sle=\"%s\"} %" PRIu64 "\n", f->name,
                      tarn_str_z(labels), labels->len ? "," : "",
                      i < TARN_STAT_BUCKETS - 1 ? tarn_stat_bounds_text[i] : "+Inf", seen);
    }
    scrape_line(out, f, "_sum", labels);
    tarn_str_addf(out, "%" PRIu64 ".%09" PRIu64 "\n", h->sum_ns / 1000000000,
                  h->sum_ns % 1000000000);
    scrape_line(out, f, "_count", labels);
    tarn_str_addf(out, "%" PRIu64 "\n", seen);
}

static int scrape_row_of(const struct tarn_stats *s, const char *name)
{
    for (size_t i = 0; i < s->table->n; i++)
        if (strcmp(s->table->rows[i].name, name) == 0)
            return (int)i;
    return -1;
}

static bool scrape_same_series(const struct tarn_stats *a, const struct tarn_stats *b)
{
    return a->table == b->table && strcmp(a->const_labels, b->const_labels) == 0;
}

/* One series, summed over this set and the later ones that have the same. */
static void scrape_series(const struct tarn_stat_reg *r, size_t set, unsigned id, unsigned series,
                          const struct stat_family *f, const struct tarn_str *labels,
                          struct tarn_str *out)
{
    struct tarn_stat_hist sum = {{0}, 0, 0}, h;
    uint64_t v = 0;

    for (size_t i = set; i < r->n_sets; i++) {
        const struct tarn_stats *s = r->sets[i];

        if (!scrape_same_series(s, r->sets[set]))
            continue;
        if (f->kind != TARN_STAT_HISTOGRAM) {
            v += tarn_stats_get(s, id, series);
            continue;
        }
        tarn_stats_hist(s, id, series, &h);
        for (size_t k = 0; k < TARN_STAT_BUCKETS; k++)
            sum.buckets[k] += h.buckets[k];
        sum.sum_ns += h.sum_ns;
    }
    if (f->kind == TARN_STAT_HISTOGRAM) {
        scrape_hist(out, f, labels, &sum);
        return;
    }
    scrape_line(out, f, f->kind == TARN_STAT_COUNTER ? "_total" : "", labels);
    if (f->kind == TARN_STAT_COUNTER)
        tarn_str_addf(out, "%" PRIu64 "\n", v);
    else
        tarn_str_addf(out, "%" PRId64 "\n", (int64_t)v);
}

static void scrape_sets(const struct tarn_stat_reg *r, const struct stat_family *f,
                        struct tarn_str *out)
{
    struct tarn_str labels = {0};

    for (size_t i = 0; i < r->n_sets; i++) {
        const struct tarn_stats *s = r->sets[i];
        int id = scrape_row_of(s, f->name);
        bool written = false;

        for (size_t k = 0; k < i; k++)
            written |= scrape_same_series(r->sets[k], s);
        for (unsigned n = 0; id >= 0 && !written && n < s->slots[id].series; n++) {
            scrape_labels(&labels, s, &s->slots[id], n);
            scrape_series(r, i, (unsigned)id, n, f, &labels, out);
        }
    }
    tarn_str_fini(&labels);
}

static void scrape_callbacks(const struct tarn_stat_reg *r, const struct stat_family *f,
                             struct tarn_str *out)
{
    struct tarn_str labels = {0};

    TARN_LIST_FOREACH(it, &r->callbacks)
    {
        const struct tarn_stat_callback *cb =
            &TARN_LIST_ENTRY(it, struct tarn_stat_handle, node)->cb;
        double v;

        if (strcmp(cb->name, f->name) != 0)
            continue;
        v = cb->fn(cb->arg);
        tarn_str_reset(&labels);
        for (size_t i = 0; i < TARN_STAT_LABELS_MAX && cb->labels[i].key; i++)
            scrape_label(&labels, cb->labels[i].key, cb->labels[i].value);
        scrape_line(out, f, f->kind == TARN_STAT_COUNTER ? "_total" : "", &labels);
        if (isnan(v) || isinf(v))
            tarn_str_addf(out, "%s\n", isnan(v) ? "NaN" : v > 0 ? "+Inf" : "-Inf");
        else
            tarn_str_addf(out, "%.16g\n", v);
    }
    tarn_str_fini(&labels);
}

static int family_compare(const void *a, const void *b)
{
    const struct stat_family *x = a, *y = b;

    return strcmp(x->name, y->name);
}

/* Every name once, in order; the array is the caller's. */
static struct stat_family *scrape_families(const struct tarn_stat_reg *r, size_t *ret_n)
{
    struct stat_family *fs;
    size_t n = 0, unique = 0;

    for (size_t i = 0; i < r->n_sets; i++)
        n += r->sets[i]->table->n;
    TARN_LIST_FOREACH(it, &r->callbacks)
    {
        n++;
    }
    fs = tarn_xcalloc(n, sizeof(*fs));
    n = 0;
    for (size_t i = 0; i < r->n_sets; i++) {
        for (size_t k = 0; k < r->sets[i]->table->n; k++) {
            const struct tarn_stat_row *row = &r->sets[i]->table->rows[k];

            fs[n++] = (struct stat_family){row->name, row->help, row->kind};
        }
    }
    TARN_LIST_FOREACH(it, &r->callbacks)
    {
        const struct tarn_stat_callback *cb =
            &TARN_LIST_ENTRY(it, struct tarn_stat_handle, node)->cb;

        fs[n++] = (struct stat_family){cb->name, cb->help, cb->kind};
    }
    qsort(fs, n, sizeof(*fs), family_compare);
    for (size_t i = 0; i < n; i++) {
        if (unique > 0 && strcmp(fs[unique - 1].name, fs[i].name) == 0)
            TARN_ASSERT(fs[unique - 1].kind == fs[i].kind);
        else
            fs[unique++] = fs[i];
    }
    *ret_n = unique;
    return fs;
}

static void scrape_head(struct tarn_str *out, const struct stat_family *f)
{
    static const char *const kinds[] = {"counter", "gauge", "histogram"};
    const char *suffix = f->kind == TARN_STAT_COUNTER ? "_total" : "";

    tarn_str_addf(out, "# HELP tarn_%s%s ", f->name, suffix);
    for (const char *s = f->help; *s; s++) {
        if (*s == '\\')
            tarn_str_adds(out, "\\\\");
        else if (*s == '\n')
            tarn_str_adds(out, "\\n");
        else
            tarn_str_addc(out, *s);
    }
    tarn_str_addf(out, "\n# TYPE tarn_%s%s %s\n", f->name, suffix, kinds[f->kind]);
}

void tarn_stat_reg_scrape(struct tarn_stat_reg *r, struct tarn_str *out)
{
    struct stat_family *fs;
    size_t n;

    TARN_GUARD(&r->mtx);
    fs = scrape_families(r, &n);
    for (size_t i = 0; i < n; i++) {
        scrape_head(out, &fs[i]);
        scrape_sets(r, &fs[i], out);
        scrape_callbacks(r, &fs[i], out);
    }
    free(fs);
}
