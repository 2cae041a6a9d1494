/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lib/conf/conf.h — parameters: a table per module, one row per parameter, and one loader that
 * fills the module's struct from flags, `-o` options, the environment, a YAML file and defaults.
 *
 * A module declares x_params.def with rows
 *
 *   TARN_PARAM(name, TYPE, default, min, max, unit, flags, help)
 *   TARN_PARAM(cache_size, SIZE, "10GiB", "64MiB", "", "bytes", RUNTIME, "Bytes that it may use.")
 *
 * and makes the struct and the table of it:
 *
 *   struct tarn_x_params {                             in x_params.h
 *   #define TARN_PARAM TARN_CONF_FIELD
 *   #include "x/x_params.def"
 *   #undef TARN_PARAM
 *   };
 *   extern const struct tarn_conf_table tarn_x_params_table;
 *
 *   #define TARN_CONF_STRUCT struct tarn_x_params      in x_params.c
 *   static const struct tarn_conf_param rows[] = {
 *   #define TARN_PARAM TARN_CONF_ROW
 *   #include "x/x_params.def"
 *   #undef TARN_PARAM
 *   };
 *   const struct tarn_conf_table tarn_x_params_table = TARN_CONF_TABLE("x", "What x does", rows);
 *
 * A row yields the struct's field, the validator, the flag with its help line, the environment
 * variable, the YAML key, a line of `tarn config` and a row of docs/config.md. Spellings of
 * `cache_size`: flag --cache-size, environment TARN_CACHE_SIZE, YAML and -o cache-size or
 * cache_size.
 *
 * TYPE      C type of the field     texts, and what min and max mean ("" = no bound)
 * BOOL      bool                    true false yes no on off 1 0
 * UINT      uint64_t                decimal digits
 * SIZE      uint64_t (bytes)        64KiB 10GiB 1.5G 4096
 * DURATION  uint64_t (ns)           500ms 30s 2h
 * RATE      uint64_t (bytes/s)      200MiB/s
 * PERCENT   uint32_t (1/10,000)     95% or 0.95
 * STRING    const char *            without control characters; min, max: bytes
 * PATH      const char *            as STRING, at most 4095 bytes; kept as written
 * ENUM      unsigned (index)        one of min, which is "a|b|c"; max is ""
 * LIST      struct tarn_conf_list   repeatable; min, max: number of elements. The environment and
 *                                   the default separate elements by commas ("\," is a comma)
 * TTL       uint64_t (ns)           a duration, or "always" (TARN_TTL_ALWAYS) or "forever"
 *                                   (TARN_TTL_FOREVER); bounds hold for durations
 *
 * A default of "" means "not set": 0, "", an empty list or the first choice; tarn_conf_is_set()
 * tells.
 *
 * flags     0 or NONE; SECRET (never shown; refused on a command line); RUNTIME (tarn_conf_set may
 *           change it; not for STRING, PATH, LIST); HIDDEN (not in help and docs); BARE (ENUM only:
 *           the flag may stand without a value and then means the second choice; "false" is the
 *           first). Pairs are spelled SECRET_HIDDEN, RUNTIME_HIDDEN, BARE_RUNTIME, BARE_HIDDEN.
 *
 * Precedence: flag > -o option > environment > file > default. Every value that is given is
 * checked, also one that a stronger source overrides.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tarn_errbuf;
struct tarn_str;

#define TARN_TTL_ALWAYS  UINT64_C(0) /* ask every time */
#define TARN_TTL_FOREVER UINT64_MAX  /* never ask again */

#define TARN_CONF_FILE_MAX  (1u << 20)  /* bytes of a config file */
#define TARN_CONF_VALUE_MAX (64u << 10) /* bytes of one value */
#define TARN_CONF_LIST_MAX  1024u       /* elements of a LIST */

enum tarn_conf_type {
    TARN_CONF_T_BOOL,
    TARN_CONF_T_UINT,
    TARN_CONF_T_SIZE,
    TARN_CONF_T_DURATION,
    TARN_CONF_T_RATE,
    TARN_CONF_T_PERCENT,
    TARN_CONF_T_STRING,
    TARN_CONF_T_PATH,
    TARN_CONF_T_ENUM,
    TARN_CONF_T_LIST,
    TARN_CONF_T_TTL
};

enum tarn_conf_flag {
    TARN_CONF_F_0 = 0,
    TARN_CONF_F_NONE = 0,
    TARN_CONF_F_SECRET = 1,
    TARN_CONF_F_RUNTIME = 2,
    TARN_CONF_F_HIDDEN = 4,
    TARN_CONF_F_BARE = 8,
    TARN_CONF_F_LINE = 16, /* given on the command line alone: it is about one run */
    TARN_CONF_F_SECRET_HIDDEN = 1 | 4,
    TARN_CONF_F_RUNTIME_HIDDEN = 2 | 4,
    TARN_CONF_F_BARE_RUNTIME = 8 | 2,
    TARN_CONF_F_BARE_HIDDEN = 8 | 4,
    TARN_CONF_F_LINE_HIDDEN = 16 | 4
};

/* The elements of a LIST, borrowed from the struct tarn_conf that loaded them. */
struct tarn_conf_list {
    const char *const *v; /* n texts; NULL when n is 0 */
    size_t n;             /* elements */
};

/* One row. Immutable. */
struct tarn_conf_param {
    const char *name;         /* the field: "cache_size" */
    enum tarn_conf_type type; /* of the value */
    unsigned flags;           /* of enum tarn_conf_flag */
    size_t offset;            /* of the field in the module's struct */
    const char *def;          /* default, as text; "" = not set */
    const char *min;          /* lower bound as text, or the choices of an ENUM */
    const char *max;          /* upper bound as text */
    const char *unit;         /* for the docs: "bytes", "seconds" or "" */
    const char *help;         /* one sentence or two */
};

/* One module's parameters. Immutable. */
struct tarn_conf_table {
    const char *name;                     /* also the section of a config file: "worker" */
    const char *title;                    /* heading in help and docs */
    const struct tarn_conf_param *params; /* n rows */
    size_t n;                             /* rows */
    size_t size;                          /* bytes of the module's struct */
    /* Relations between values, after all are in; NULL: none. Returns -TARN_E_CONFIG with a text.
     */
    int (*check)(const void *params, struct tarn_errbuf *e);
    bool no_env; /* no environment variable gives its values */
};

#define TARN_CONF_C_BOOL     bool
#define TARN_CONF_C_UINT     uint64_t
#define TARN_CONF_C_SIZE     uint64_t
#define TARN_CONF_C_DURATION uint64_t
#define TARN_CONF_C_RATE     uint64_t
#define TARN_CONF_C_PERCENT  uint32_t
#define TARN_CONF_C_STRING   const char *
#define TARN_CONF_C_PATH     const char *
#define TARN_CONF_C_ENUM     unsigned
#define TARN_CONF_C_LIST     struct tarn_conf_list
#define TARN_CONF_C_TTL      uint64_t

#define TARN_CONF_FIELD(name, TYPE, def, min, max, unit, flags, help) TARN_CONF_C_##TYPE name;
#define TARN_CONF_ROW(name, TYPE, def, min, max, unit, flags, help)                                \
    {#name,                                                                                        \
     TARN_CONF_T_##TYPE,                                                                           \
     TARN_CONF_F_##flags,                                                                          \
     offsetof(TARN_CONF_STRUCT, name),                                                             \
     def,                                                                                          \
     min,                                                                                          \
     max,                                                                                          \
     unit,                                                                                         \
     help},
/* A table without a check; a module with one writes the initializer out. */
#define TARN_CONF_TABLE(name, title, rows)                                                         \
    {                                                                                              \
        name, title, rows, sizeof(rows) / sizeof((rows)[0]), sizeof(TARN_CONF_STRUCT), NULL, false \
    }

/* Where a bound table's values may come from. */
enum tarn_conf_from {
    TARN_CONF_FROM_FLAG = 1, /* input.args */
    TARN_CONF_FROM_OPT = 2,  /* input.opts */
    TARN_CONF_FROM_ENV = 4,  /* input.env */
    TARN_CONF_FROM_FILE = 8, /* the config file */
    /* A command's own parameters. */
    TARN_CONF_FROM_COMMAND = TARN_CONF_FROM_FLAG | TARN_CONF_FROM_ENV | TARN_CONF_FROM_FILE
};

/* A table and the struct that it fills. */
struct tarn_conf_bind {
    const struct tarn_conf_table *table; /* keys are unique over all binds of one load */
    void *dst;                           /* table->size bytes; must outlive the struct tarn_conf */
    unsigned from;                       /* of enum tarn_conf_from */
};

/* A parameter given by flag; lib/conf/flags.h makes them. */
struct tarn_conf_arg {
    const char *key;   /* "cache-size" */
    const char *value; /* its text */
    const char *shown; /* for errors: "--cache-size" or "-d" */
};

/* Everything borrowed, only during the call. A zeroed input loads the defaults. */
struct tarn_conf_input {
    const struct tarn_conf_arg *args; /* n_args; keys of no bound table are left alone */
    size_t n_args;                    /* flags on the command line */
    const char *const *opts;          /* n_opts texts "K=V[,K=V...]"; unknown keys are errors */
    size_t n_opts;                    /* `-o` arguments */
    bool opts_trusted;                /* false: from a command line, so secrets are refused */
    const char *const *env;           /* like environ(7), or NULL */
    const char *file;                 /* path of the YAML file, or NULL */
    const char *file_key; /* when file is NULL: a key of args or env that names it, or NULL */
    /* NULL-terminated: tables of other commands, whose keys in the file are accepted and ignored.
     */
    const struct tarn_conf_table *const *others;
};

struct tarn_conf; /* the texts, and where each came from. Lock: the caller's */

/*
 * Fills the structs of `binds` and then runs the tables' checks. Texts and lists in the structs are
 * borrowed from *ret_conf. On error the structs are zeroed.
 *
 * The file: a YAML map of scalars and lists, at most TARN_CONF_FILE_MAX bytes. A map below a
 * table's name holds keys of that table ("ufs: {timeout: 10s}"); a key of several tables (of
 * `binds` and `others`) may stand only there. No anchors. Must be a regular
 * file; one that gives a SECRET must not be readable by group or others (mode 0600 or stricter).
 *
 * Errors, each with a text that names the flag or key, the value and what is allowed:
 *   CONFIG        a value, an unknown key, the file's form, its mode or absence, or a check
 *   SECRET_ARGV   a SECRET in args or in untrusted opts
 *   TOO_BIG       the file
 *   (errno class) the file cannot be read
 */
int tarn_conf_load(const struct tarn_conf_bind *binds, size_t n_binds,
                   const struct tarn_conf_input *in, struct tarn_conf **ret_conf,
                   struct tarn_errbuf *e);
/* Wipes secrets; accepts NULL inside, sets it to NULL. The structs' texts are gone then. */
void tarn_conf_free(struct tarn_conf **c);

/* True if some source but the default, or a default other than "", gave it. The key must be bound.
 */
bool tarn_conf_is_set(const struct tarn_conf *c, const char *key);
/* "flag --x", "option x", "env TARN_X", "file /path:x", "set" or "default". The key must be bound.
 */
const char *tarn_conf_source(const struct tarn_conf *c, const char *key);
/*
 * Changes a RUNTIME parameter in its struct. The caller keeps readers of the struct out meanwhile.
 * Errors: CONFIG (unknown key, not RUNTIME, bad value, a table's check; nothing was changed)
 */
int tarn_conf_set(struct tarn_conf *c, const char *key, const char *value, struct tarn_errbuf *e);

/* The effective configuration, a line per parameter with its source; secrets, also inside a list of
 * store options and in front of the '@' of a URL, as "(set)". */
void tarn_conf_print_text(const struct tarn_conf *c, struct tarn_str *out);
/* The same as {"parameters":[{"key","table","value","source"}]}; a value is text, number, bool or
 * array. */
void tarn_conf_print_json(const struct tarn_conf *c, struct tarn_str *out);

/* One line per parameter, for --help; `letters` (or NULL) is asked for a short flag, 0 for none. */
void tarn_conf_help(const struct tarn_conf_table *t,
                    char (*letter)(const void *arg, const char *key), const void *arg,
                    struct tarn_str *out);
/* The same as paragraphs of a manual page, for man(7). */
void tarn_conf_man(const struct tarn_conf_table *t,
                   char (*letter)(const void *arg, const char *key), const void *arg,
                   struct tarn_str *out);
/* Text for man(7): what would be a request, or an escape, is none. */
void tarn_conf_man_text(const char *text, struct tarn_str *out);
/* A heading and a Markdown table with a row per parameter: what docs/config.md holds. */
void tarn_conf_markdown(const struct tarn_conf_table *t, struct tarn_str *out);

/* The key in kebab-case; returns buf. */
const char *tarn_conf_key(const struct tarn_conf_param *p, char buf[64]);
/* The row of `key` (either spelling) in `t`, or NULL. */
const struct tarn_conf_param *tarn_conf_find(const struct tarn_conf_table *t, const char *key);
/* The choice of an ENUM's field as text; returns buf. */
const char *tarn_conf_choice(const struct tarn_conf_param *p, unsigned index, char buf[64]);
/*
 * Asserts that the table is well formed: names, defaults inside bounds, flags that fit types, help.
 * Every load does it for its binds; a module's test may do it alone.
 */
void tarn_conf_table_check(const struct tarn_conf_table *t);
/* Refuses a secret on a command line: -TARN_E_SECRET_ARGV with the ways to give it. */
int tarn_conf_refuse_secret(const struct tarn_conf_table *t, const struct tarn_conf_param *p,
                            const char *shown, struct tarn_errbuf *e);

/*
 * Splits "a,b\,c" at commas that have no backslash before them; `fn` gets each part with "\," and
 * "\\" resolved (NUL-terminated, valid during the call) until it returns non-zero, which is
 * returned.
 */
int tarn_conf_split(const char *text, int (*fn)(void *arg, char *part), void *arg);
