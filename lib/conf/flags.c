/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The command line. What is found is kept as (key, text) pairs that point into argv; tarn_conf_load
 * checks the texts later, together with those of the other sources, so that a bad value reads the
 * same wherever it stands.
 */
#include "lib/conf/flags.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/mem.h"
#include "lib/conf/conf_priv.h"
#include "lib/conf/suggest.h"

struct tarn_flags {
    struct tarn_conf_arg *conf; /* n_conf values; key and shown are owned, value is argv's */
    size_t n_conf;              /* values */
    const char **args;          /* n_args positionals, argv's */
    size_t n_args;              /* positionals */
    bool help;                  /* --help or -h */
};

/* The line being read. */
struct flags_line {
    struct tarn_flags *f;               /* result */
    const struct tarn_flags_spec *spec; /* the command */
    char **argv;                        /* arguments */
    int argc;                           /* their number */
    int i;                              /* the next one */
    struct tarn_errbuf *e;              /* the caller's */
};

/* A flag found in the tables. */
struct flags_row {
    const struct tarn_conf_table *table; /* its table */
    const struct tarn_conf_param *p;     /* its row, NULL when unknown */
};

struct tarn_flags *tarn_flags_new(void)
{
    return tarn_xnew(struct tarn_flags);
}

void tarn_flags_free(struct tarn_flags **flags)
{
    struct tarn_flags *f = *flags;

    if (!f)
        return;
    for (size_t i = 0; i < f->n_conf; i++) {
        char *key, *shown;

        memcpy(&key, &f->conf[i].key, sizeof(key)); /* ours, though const for the reader */
        memcpy(&shown, &f->conf[i].shown, sizeof(shown));
        free(key);
        free(shown);
    }
    free(f->conf);
    free(f->args);
    free(f);
    *flags = NULL;
}

static struct flags_row flags_find(const struct tarn_flags_spec *spec, const char *key)
{
    for (size_t i = 0; spec->tables[i]; i++) {
        const struct tarn_conf_param *p = tarn_conf_find(spec->tables[i], key);

        if (p)
            return (struct flags_row){spec->tables[i], p};
    }
    return (struct flags_row){0};
}

static bool flags_takes_value(const struct tarn_conf_param *p)
{
    return p->type != TARN_CONF_T_BOOL && !(p->flags & TARN_CONF_F_BARE);
}

static void flags_add(struct tarn_flags *f, const struct tarn_conf_param *p, const char *shown,
                      const char *value)
{
    char key[64];

    f->conf = tarn_xrealloc(f->conf, (f->n_conf + 1) * sizeof(*f->conf));
    f->conf[f->n_conf++] = (struct tarn_conf_arg){
        .key = tarn_xstrdup(tarn_conf_key(p, key)), .value = value, .shown = tarn_xstrdup(shown)};
}

static void flags_add_arg(struct tarn_flags *f, const char *arg)
{
    f->args = tarn_xrealloc(f->args, (f->n_args + 1) * sizeof(*f->args));
    f->args[f->n_args++] = arg;
}

/* Overwrites a secret that stands in argv, where ps and core dumps would show it. */
static void flags_hide(char *value)
{
    memset(value, '*', strlen(value));
}

/* What looking for secrets in an `-o` text needs and finds. */
struct flags_opt_ctx {
    const struct tarn_flags_spec *spec; /* the command */
    struct flags_row found;             /* the first secret */
};

static int flags_opt_part(void *arg, char *part)
{
    struct flags_opt_ctx *ctx = arg;

    part[strcspn(part, "=")] = 0;
    for (size_t i = 0; ctx->spec->opt_tables[i]; i++) {
        const struct tarn_conf_table *t = ctx->spec->opt_tables[i];
        const struct tarn_conf_param *p = tarn_conf_find(t, part);

        if (p && (p->flags & TARN_CONF_F_SECRET)) {
            ctx->found = (struct flags_row){t, p};
            return 1;
        }
    }
    return 0;
}

static int flags_check_opt(struct flags_line *l, char *value)
{
    struct flags_opt_ctx ctx = {.spec = l->spec};
    char key[64], shown[72];
    int rc = tarn_conf_split(value, flags_opt_part, &ctx);

    if (rc <= 0)
        return rc;
    (void)snprintf(shown, sizeof(shown), "-o %s", tarn_conf_key(ctx.found.p, key)); /* fits */
    flags_hide(value);
    return tarn_conf_refuse_secret(ctx.found.table, ctx.found.p, shown, l->e);
}

/* A flag with its value, which is in argv and writable. */
static int flags_take(struct flags_line *l, struct flags_row row, const char *shown, char *value)
{
    TARN_ASSERT(value != NULL);
    if (row.p->flags & TARN_CONF_F_SECRET) {
        flags_hide(value);
        return tarn_conf_refuse_secret(row.table, row.p, shown, l->e);
    }
    if (l->spec->opt_key && l->spec->opt_tables && tarn_param_is(row.p, l->spec->opt_key)) {
        int rc = flags_check_opt(l, value);

        if (rc < 0)
            return rc;
    }
    flags_add(l->f, row.p, shown, value);
    return 0;
}

/* The value that follows as the next argument. */
static int flags_next_value(struct flags_line *l, const struct tarn_conf_param *p,
                            const char *shown, char **ret_value)
{
    if (l->i >= l->argc ||
        (tarn_starts_with(l->argv[l->i], "--") && flags_find(l->spec, l->argv[l->i] + 2).p))
        return tarn_err_set(l->e, -TARN_E_USAGE, "%s: needs a value (%s %s)", shown, shown,
                            tarn_param_meta(p));
    *ret_value = l->argv[l->i++];
    return 0;
}

static int flags_unknown(const struct flags_line *l, const char *key)
{
    struct tarn_suggest near = {.word = key};
    const struct tarn_flags_spec *spec = l->spec;
    char quoted[96], name[64];

    tarn_suggest_offer(&near, "help");
    for (size_t i = 0; spec->tables[i]; i++) {
        for (size_t k = 0; k < spec->tables[i]->n; k++) {
            const struct tarn_conf_param *p = &spec->tables[i]->params[k];

            if (!(p->flags & (TARN_CONF_F_HIDDEN | TARN_CONF_F_SECRET)))
                tarn_suggest_offer(&near, tarn_conf_key(p, name));
        }
    }
    return tarn_err_set(l->e, -TARN_E_USAGE, "%s: there is no flag --%s%s%s%s", spec->command,
                        tarn_param_quote(key, quoted), near.best[0] ? "; did you mean --" : "",
                        near.best, near.best[0] ? "?" : "");
}

/* "--key", "--key=value" or "--no-key"; `text` is behind the dashes. */
static int flags_long(struct flags_line *l, char *text)
{
    char *eq = strchr(text, '='), *value = eq ? eq + 1 : NULL;
    struct flags_row row;
    const char *off = NULL;
    char key[80], shown[72],
        name[64]; /* no name of a row is longer than 63: a cut key is unknown */
    int rc;

    (void)snprintf(key, sizeof(key), "%.*s", (int)strcspn(text, "="), text);
    if (strcmp(key, "help") == 0) {
        l->f->help = true;
        return 0;
    }
    row = flags_find(l->spec, key);
    if (!row.p && tarn_starts_with(key, "no-")) {
        row = flags_find(l->spec, key + 3);
        off = row.p && !flags_takes_value(row.p) ? "false" : NULL;
        if (!off)
            row.p = NULL;
    }
    if (!row.p)
        return flags_unknown(l, key);
    (void)snprintf(shown, sizeof(shown), "--%s%s", off ? "no-" : "",
                   tarn_conf_key(row.p, name)); /* fits */
    if (off && value)
        return tarn_err_set(l->e, -TARN_E_USAGE, "%s: takes no value", shown);
    if (!value && !flags_takes_value(row.p)) {
        flags_add(l->f, row.p, shown, off ? off : "true");
        return 0;
    }
    if (!value) {
        rc = flags_next_value(l, row.p, shown, &value);
        if (rc < 0)
            return rc;
    }
    return flags_take(l, row, shown, value);
}

static const char *flags_short_key(const struct tarn_flags_spec *spec, char letter)
{
    for (size_t i = 0; i < spec->n_shorts; i++)
        if (spec->shorts[i].letter == letter)
            return spec->shorts[i].key;
    return NULL;
}

/* "-d", "-lR", "-oK=V" or "-o K=V"; `text` is behind the dash. */
static int flags_shorts(struct flags_line *l, char *text)
{
    for (; *text; text++) {
        const char *key = flags_short_key(l->spec, *text);
        char shown[3] = {'-', *text, 0}, quoted[96];
        struct flags_row row;
        char *value;
        int rc;

        if (!key && *text == 'h') {
            l->f->help = true;
            continue;
        }
        if (!key)
            return tarn_err_set(l->e, -TARN_E_USAGE, "%s: there is no flag %s", l->spec->command,
                                tarn_param_quote(shown, quoted));
        row = flags_find(l->spec, key);
        TARN_ASSERT(row.p != NULL); /* the command's own table of short flags */
        if (!flags_takes_value(row.p)) {
            flags_add(l->f, row.p, shown, "true");
            continue;
        }
        value = text + 1;
        if (!*value) {
            rc = flags_next_value(l, row.p, shown, &value);
            if (rc < 0)
                return rc;
        }
        return flags_take(l, row, shown, value);
    }
    return 0;
}

/* The n-th word of "UFS_URI MOUNTPOINT"; the last one where there are fewer. */
static const char *flags_arg_name(const char *args, size_t n, char buf[64])
{
    const char *s = args;
    size_t len = strcspn(s, " ");

    for (; n > 0 && s[len]; n--) {
        s += len + strspn(s + len, " ");
        len = strcspn(s, " ");
    }
    (void)snprintf(buf, 64, "%.*s", (int)TARN_MIN(len, 63u), s); /* fits */
    return buf;
}

static int flags_check_args(const struct flags_line *l)
{
    const struct tarn_flags_spec *spec = l->spec;
    const struct tarn_flags *f = l->f;
    char name[96];

    if (f->help || spec->stop_at_first)
        return 0;
    if (f->n_args < spec->min_args)
        return tarn_err_set(l->e, -TARN_E_USAGE, "%s: %s is missing (usage: %s [flags] %s)",
                            spec->command, flags_arg_name(spec->args, f->n_args, name),
                            spec->command, spec->args);
    if (f->n_args > spec->max_args)
        return tarn_err_set(l->e, -TARN_E_USAGE,
                            "%s: unexpected argument \"%s\" (usage: %s [flags]%s%s)", spec->command,
                            tarn_param_quote(f->args[spec->max_args], name), spec->command,
                            spec->args[0] ? " " : "", spec->args);
    return 0;
}

int tarn_flags_parse(struct tarn_flags *f, const struct tarn_flags_spec *spec, int argc,
                     char **argv, int *ret_used, struct tarn_errbuf *e)
{
    struct flags_line l = {.f = f, .spec = spec, .argv = argv, .argc = argc, .e = e};
    bool only_args = false;
    int rc = 0;

    while (l.i < argc && rc == 0) {
        char *arg = argv[l.i];

        if (!only_args && arg[0] == '-' && arg[1]) {
            l.i++;
            if (strcmp(arg, "--") == 0)
                only_args = true;
            else if (arg[1] == '-')
                rc = flags_long(&l, arg + 2);
            else
                rc = flags_shorts(&l, arg + 1);
            continue;
        }
        if (spec->stop_at_first)
            break;
        flags_add_arg(f, arg);
        l.i++;
    }
    if (rc == 0)
        rc = flags_check_args(&l);
    if (rc == 0)
        *ret_used = l.i;
    return rc;
}

bool tarn_flags_help_wanted(const struct tarn_flags *f)
{
    return f->help;
}

const char *const *tarn_flags_args(const struct tarn_flags *f, size_t *ret_n)
{
    *ret_n = f->n_args;
    return f->args;
}

const struct tarn_conf_arg *tarn_flags_conf(const struct tarn_flags *f, size_t *ret_n)
{
    *ret_n = f->n_conf;
    return f->conf;
}

const char *tarn_flags_get(const struct tarn_flags *f, const char *key)
{
    for (size_t i = f->n_conf; i > 0; i--)
        if (tarn_param_key_equal(f->conf[i - 1].key, key))
            return f->conf[i - 1].value;
    return NULL;
}

const char **tarn_flags_values(const struct tarn_flags *f, const char *key, size_t *ret_n)
{
    const char **v = NULL;

    *ret_n = 0;
    for (size_t i = 0; i < f->n_conf; i++) {
        if (!tarn_param_key_equal(f->conf[i].key, key))
            continue;
        v = tarn_xrealloc(v, (*ret_n + 1) * sizeof(*v));
        v[(*ret_n)++] = f->conf[i].value;
    }
    return v;
}

char tarn_flags_letter(const void *arg, const char *key)
{
    const struct tarn_flags_spec *spec = arg;

    for (size_t i = 0; i < spec->n_shorts; i++)
        if (tarn_param_key_equal(spec->shorts[i].key, key))
            return spec->shorts[i].letter;
    return 0;
}

void tarn_flags_usage(const struct tarn_flags_spec *spec, struct tarn_str *out)
{
    tarn_str_addf(out, "Usage: %s [flags]%s%s\n\n%s\n", spec->command, spec->args[0] ? " " : "",
                  spec->args, spec->summary);
    if (spec->text)
        tarn_str_addf(out, "\n%s\n", spec->text);
    for (size_t i = 0; spec->tables[i]; i++) {
        tarn_str_addf(out, "\n%s:\n", spec->tables[i]->title);
        tarn_conf_help(spec->tables[i], tarn_flags_letter, spec, out);
    }
}
