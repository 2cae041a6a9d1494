/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lib/conf/flags.h — the command line by table: the flags of a command are the rows of its
 * parameter tables (conf.h). Understands `--flag value`, `--flag=value`, `--flag` and `--no-flag`
 * for BOOL, a lone `--flag` for BARE, short flags alone, bundled (`-lR`) or with their value
 * attached (`-oK=V`),
 * `--` as the end of flags, and repeated flags: a LIST collects, of others the last one counts.
 * `--help` and `-h` are known to every command.
 *
 * A program with commands parses twice with one struct tarn_flags: first with `stop_at_first`,
 * which leaves the command's name and the rest alone, then the rest with the command's own spec.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct tarn_conf_arg;
struct tarn_conf_table;
struct tarn_errbuf;
struct tarn_str;

/* A short flag. Immutable. */
struct tarn_flags_short {
    char letter;     /* 'd' */
    const char *key; /* "daemon": a row of one of the tables */
};

/* A command's line. Immutable; tables must not share keys. */
struct tarn_flags_spec {
    const char *command; /* "tarn load" */
    const char *args; /* its positionals for usage and errors: "UFS_URI MOUNTPOINT"; "" for none */
    const char *summary;                         /* one sentence */
    const char *text;                            /* more paragraphs for --help, or NULL */
    const struct tarn_conf_table *const *tables; /* NULL-terminated; the command's own first */
    const struct tarn_flags_short *shorts;       /* n_shorts, or NULL */
    size_t n_shorts;                             /* short flags */
    const char *opt_key; /* LIST that holds `-o` texts ("option"), or NULL */
    /* NULL-terminated, or NULL: whose SECRET keys are refused inside `-o` already here. */
    const struct tarn_conf_table *const *opt_tables;
    unsigned min_args;  /* positionals needed */
    unsigned max_args;  /* positionals taken; 0 with a min of 0 is none */
    bool stop_at_first; /* end before the first positional */
};

struct tarn_flags; /* what was on the line. Lock: none, one thread. Texts are borrowed from argv */

struct tarn_flags *tarn_flags_new(void);
void tarn_flags_free(struct tarn_flags **f); /* accepts NULL inside */

/*
 * Reads argv[0..argc) — without the program's name — and adds what it finds to `f`. *ret_used is
 * the number of arguments read. A secret on the line is overwritten in argv and refused.
 *
 * Errors: USAGE (unknown flag, with the nearest known one; a value missing or too much; positionals
 * missing or too many), SECRET_ARGV. Values are checked by tarn_conf_load, not here.
 */
int tarn_flags_parse(struct tarn_flags *f, const struct tarn_flags_spec *spec, int argc,
                     char **argv, int *ret_used, struct tarn_errbuf *e);

/* True once --help or -h was read (missing positionals are no error then). */
bool tarn_flags_help_wanted(const struct tarn_flags *f);
/* The positionals, in order. */
const char *const *tarn_flags_args(const struct tarn_flags *f, size_t *ret_n);
/* What tarn_conf_input.args wants. */
const struct tarn_conf_arg *tarn_flags_conf(const struct tarn_flags *f, size_t *ret_n);
/* The last value of a key ("true" and "false" for BOOL), NULL when not on the line. */
const char *tarn_flags_get(const struct tarn_flags *f, const char *key);
/* All values of a key, in order; the array is the caller's to free (NULL when n is 0), the texts
 * not. */
const char **tarn_flags_values(const struct tarn_flags *f, const char *key, size_t *ret_n);

/* The short flag of a key, 0: none; `spec` is a struct tarn_flags_spec. */
char tarn_flags_letter(const void *spec, const char *key);
/* The command's --help text. */
void tarn_flags_usage(const struct tarn_flags_spec *spec, struct tarn_str *out);
