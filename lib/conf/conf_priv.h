/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lib/conf/conf_priv.h — what the files of lib/conf share.
 */
#pragma once

#include "lib/base/err.h"
#include "lib/base/str.h"
#include "lib/conf/conf.h"

/* A checked value, as it goes into the field. */
union param_value {
    bool b;       /* BOOL */
    uint64_t u64; /* UINT SIZE DURATION RATE TTL */
    uint32_t u32; /* PERCENT */
    unsigned idx; /* ENUM */
};

/* One parameter of a loaded configuration. */
struct conf_entry {
    const struct tarn_conf_table *table; /* its table */
    const struct tarn_conf_param *p;     /* its row */
    const struct tarn_conf_bind *bind;   /* in struct tarn_conf */
    char *where;                         /* source, as tarn_conf_source gives it; owned */
    bool given;                          /* by a source other than the default */
    char *text;    /* the value as written, never NULL; "" for a LIST; owned */
    char **list;   /* LIST: n_list texts; owned */
    size_t n_list; /* elements */
};

struct tarn_conf {
    struct tarn_conf_bind *binds; /* n_binds */
    size_t n_binds;               /* tables */
    struct conf_entry *entries;   /* n_entries, in the tables' order */
    size_t n_entries;             /* parameters */
};

/* Values of the file, one call per key: `list` is NULL for a scalar. */
typedef int conf_file_fn(void *arg, const struct tarn_conf_table *t,
                         const struct tarn_conf_param *p, const char *shown, const char *scalar,
                         char *const *list, size_t n_list, struct tarn_errbuf *e);

/* What conf_file_read has to know. */
struct conf_file_args {
    const char *path;                   /* the file */
    const struct tarn_conf_bind *binds; /* their keys are reported */
    size_t n_binds;                     /* tables */
    const struct tarn_conf_table *const
        *others;      /* keys accepted and ignored; NULL-terminated or NULL */
    conf_file_fn *fn; /* runs once per key that is in the file */
    void *arg;        /* its first argument */
};
int tarn_conf_file_read(const struct conf_file_args *a, struct tarn_errbuf *e);

/*
 * Checks a scalar against its row. `shown` is the flag or key for the text of the error.
 * LIST rows: checks one element. Error: CONFIG
 */
int tarn_param_parse(const struct tarn_conf_param *p, const char *shown, const char *text,
                     union param_value *ret_v, struct tarn_errbuf *e);
/* LIST rows: checks the number of elements. Error: CONFIG */
int tarn_param_check_count(const struct tarn_conf_param *p, const char *shown, size_t n,
                           struct tarn_errbuf *e);
/* True if `text` is one of the row's names, '-' and '_' being equal. */
bool tarn_param_is(const struct tarn_conf_param *p, const char *text);
bool tarn_param_key_equal(const char *a, const char *b);
/* Whether an environment variable gives it. */
bool tarn_param_has_env(const struct tarn_conf_table *t, const struct tarn_conf_param *p);
/* TARN_CACHE_SIZE; returns buf. */
const char *tarn_param_env(const struct tarn_conf_param *p, char buf[72]);
/* "SIZE", or "a|b|c" of an ENUM; the placeholder in help. */
const char *tarn_param_meta(const struct tarn_conf_param *p);
bool tarn_param_is_text(const struct tarn_conf_param *p); /* STRING, PATH or LIST */
/* A value in an error text: printable, cut at 80 bytes; returns buf. */
const char *tarn_param_quote(const char *text, char buf[96]);
