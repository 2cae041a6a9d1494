/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The loader. Sources are applied from the weakest to the strongest (default, file, environment,
 * options, flags); each applied value is checked, kept as text in its entry together with where it
 * came from, and written into the module's struct. So the last writer wins and no value goes
 * unchecked.
 *
 * An entry owns its texts; the structs borrow them. A replaced text is freed at once, because
 * nobody has seen the structs before the load returns; afterwards only RUNTIME rows change, which
 * hold no text.
 */
#include "lib/conf/conf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/mem.h"
#include "lib/base/units.h"
#include "lib/conf/conf_priv.h"
#include "lib/conf/suggest.h"

static void conf_free_text(char **text)
{
    if (*text)
        explicit_bzero(*text, strlen(*text));
    free(*text);
    *text = NULL;
}

static void conf_entry_clear(struct conf_entry *en)
{
    conf_free_text(&en->text);
    for (size_t i = 0; i < en->n_list; i++)
        conf_free_text(&en->list[i]);
    free(en->list);
    en->list = NULL;
    en->n_list = 0;
    free(en->where);
    en->where = NULL;
}

void tarn_conf_free(struct tarn_conf **conf)
{
    struct tarn_conf *c = *conf;

    if (!c)
        return;
    for (size_t i = 0; i < c->n_entries; i++)
        conf_entry_clear(&c->entries[i]);
    free(c->entries);
    free(c->binds);
    free(c);
    *conf = NULL;
}

static struct conf_entry *conf_entry_find(const struct tarn_conf *c, const char *key)
{
    for (size_t i = 0; i < c->n_entries; i++)
        if (tarn_param_is(c->entries[i].p, key))
            return &c->entries[i];
    return NULL;
}

static void *conf_field(const struct conf_entry *en)
{
    return (char *)en->bind->dst + en->p->offset;
}

/* Writes a checked scalar (or the entry's texts) into the module's struct. */
static void conf_store(const struct conf_entry *en, const union param_value *v)
{
    struct tarn_conf_list list = {(const char *const *)en->list, en->n_list};
    void *dst = conf_field(en);
    const char *text = en->text;

    switch (en->p->type) {
    case TARN_CONF_T_BOOL:
        memcpy(dst, &v->b, sizeof(v->b));
        break;
    case TARN_CONF_T_PERCENT:
        memcpy(dst, &v->u32, sizeof(v->u32));
        break;
    case TARN_CONF_T_ENUM:
        memcpy(dst, &v->idx, sizeof(v->idx));
        break;
    case TARN_CONF_T_STRING:
    case TARN_CONF_T_PATH:
        memcpy(dst, &text, sizeof(text));
        break;
    case TARN_CONF_T_LIST:
        memcpy(dst, &list, sizeof(list));
        break;
    case TARN_CONF_T_UINT:
    case TARN_CONF_T_SIZE:
    case TARN_CONF_T_DURATION:
    case TARN_CONF_T_RATE:
    case TARN_CONF_T_TTL:
    default:
        memcpy(dst, &v->u64, sizeof(v->u64));
        break;
    }
}

/* Takes `where` (heap). A scalar that is checked and stored. */
static int conf_apply(struct conf_entry *en, const char *shown, const char *text, char *where,
                      bool given, struct tarn_errbuf *e)
{
    union param_value v = {0};
    char *copy = NULL;
    int rc = 0;

    TARN_ASSERT(en->p->type != TARN_CONF_T_LIST);
    if (strlen(text) > TARN_CONF_VALUE_MAX) {
        rc = tarn_err_set(e, -TARN_E_CONFIG, "%s: the value is longer than %u bytes", shown,
                          TARN_CONF_VALUE_MAX);
        goto err;
    }
    if (given || text[0])
        rc = tarn_param_parse(en->p, shown, text, &v, e);
    if (rc < 0)
        goto err;
    copy = strdup(text);
    if (!copy) {
        rc = -TARN_E_NO_MEMORY;
        goto err;
    }
    conf_entry_clear(en);
    en->text = copy;
    en->where = where;
    en->given = given;
    conf_store(en, &v);
    return 0;

err:
    free(where);
    return rc;
}

/* Takes `where` (heap). A list replaces what a weaker source gave. */
static int conf_apply_list(struct conf_entry *en, const char *shown, const char *const *list,
                           size_t n, char *where, bool given, struct tarn_errbuf *e)
{
    union param_value unused;
    char **copy = NULL;
    size_t done = 0;
    int rc = 0;

    TARN_ASSERT(en->p->type == TARN_CONF_T_LIST);
    if (given)
        rc = tarn_param_check_count(en->p, shown, n, e);
    for (size_t i = 0; i < n && rc == 0; i++)
        rc = tarn_param_parse(en->p, shown, list[i], &unused, e);
    if (rc < 0)
        goto err;
    if (n > 0)
        copy = calloc(n, sizeof(*copy));
    for (; copy && done < n; done++) {
        copy[done] = strdup(list[done]);
        if (!copy[done])
            break;
    }
    if (done < n) {
        rc = -TARN_E_NO_MEMORY;
        goto err;
    }
    conf_entry_clear(en);
    en->text = tarn_xstrdup("");
    en->list = copy;
    en->n_list = n;
    en->where = where;
    en->given = given;
    conf_store(en, NULL);
    return 0;

err:
    for (size_t i = 0; i < done; i++)
        free(copy[i]);
    free(copy);
    free(where);
    return rc;
}

/* The parts of a comma-separated list. */
struct conf_parts {
    char **v; /* n texts, owned */
    size_t n; /* so far */
};

static int conf_parts_add(void *arg, char *part)
{
    struct conf_parts *ps = arg;
    char **v;

    if (!part[0])
        return 0;
    if (ps->n >= TARN_CONF_LIST_MAX)
        return -TARN_E_TOO_BIG;
    v = reallocarray(ps->v, ps->n + 1, sizeof(*v));
    if (!v)
        return -TARN_E_NO_MEMORY;
    ps->v = v;
    v[ps->n] = strdup(part);
    if (!v[ps->n])
        return -TARN_E_NO_MEMORY;
    ps->n++;
    return 0;
}

static void conf_parts_fini(struct conf_parts *ps)
{
    for (size_t i = 0; i < ps->n; i++)
        free(ps->v[i]);
    free(ps->v);
}

/* A text from a source that has no lists of its own: environment and defaults. Takes `where`. */
static int conf_apply_text(struct conf_entry *en, const char *shown, const char *text, char *where,
                           bool given, struct tarn_errbuf *e)
{
    struct conf_parts ps = {0};
    int rc;

    if (en->p->type != TARN_CONF_T_LIST)
        return conf_apply(en, shown, text, where, given, e);
    rc = tarn_conf_split(text, conf_parts_add, &ps);
    if (rc == -TARN_E_TOO_BIG)
        rc =
            tarn_err_set(e, -TARN_E_CONFIG, "%s: more than %u elements", shown, TARN_CONF_LIST_MAX);
    if (rc == 0)
        rc = conf_apply_list(en, shown, (const char *const *)ps.v, ps.n, where, given, e);
    else
        free(where);
    conf_parts_fini(&ps);
    return rc;
}

static int conf_apply_defaults(struct tarn_conf *c)
{
    for (size_t i = 0; i < c->n_entries; i++) {
        struct conf_entry *en = &c->entries[i];
        int rc = conf_apply_text(en, en->p->name, en->p->def, tarn_xstrdup("default"), false, NULL);

        if (rc < 0)
            return rc;
    }
    return 0;
}

/* What the file's reader hands back to. */
struct conf_file_ctx {
    struct tarn_conf *c; /* being loaded */
    const char *path;    /* of the file */
};

static int conf_apply_file_key(void *arg, const struct tarn_conf_table *t,
                               const struct tarn_conf_param *p, const char *key, const char *scalar,
                               char *const *list, size_t n_list, struct tarn_errbuf *e)
{
    struct conf_file_ctx *ctx = arg;
    struct conf_entry *en = conf_entry_find(ctx->c, p->name);
    char *where = tarn_xasprintf("file %s:%s", ctx->path, key);
    TARN_AUTO_FREE char *shown = tarn_xasprintf("%s: %s", ctx->path, key);

    TARN_ASSERT(en != NULL && en->table == t);
    if (list || !scalar)
        return conf_apply_list(en, shown, (const char *const *)list, n_list, where, true, e);
    return conf_apply(en, shown, scalar, where, true, e);
}

static const char *conf_env_get(const char *const *env, const char *name)
{
    size_t n = strlen(name);

    for (; env && *env; env++)
        if (strncmp(*env, name, n) == 0 && (*env)[n] == '=')
            return *env + n + 1;
    return NULL;
}

/* The path given in the input, or by the flag or variable that the input names. NULL: no file. */
static const char *conf_file_path(const struct tarn_conf_input *in)
{
    struct tarn_conf_param as_param = {.name = in->file_key};
    char name[72];

    if (in->file || !in->file_key)
        return in->file;
    for (size_t i = in->n_args; i > 0; i--)
        if (tarn_param_key_equal(in->args[i - 1].key, in->file_key))
            return in->args[i - 1].value;
    (void)tarn_param_env(&as_param, name);
    for (char *s = name; *s; s++)
        if (*s == '-')
            *s = '_';
    return conf_env_get(in->env, name);
}

static int conf_apply_file(struct tarn_conf *c, const struct tarn_conf_input *in,
                           struct tarn_errbuf *e)
{
    struct conf_file_ctx ctx = {c, conf_file_path(in)};
    struct conf_file_args a = {.path = ctx.path,
                               .binds = c->binds,
                               .n_binds = c->n_binds,
                               .others = in->others,
                               .fn = conf_apply_file_key,
                               .arg = &ctx};

    if (!ctx.path || !ctx.path[0])
        return 0;
    return tarn_conf_file_read(&a, e);
}

static int conf_apply_env(struct tarn_conf *c, const struct tarn_conf_input *in,
                          struct tarn_errbuf *e)
{
    for (size_t i = 0; i < c->n_entries; i++) {
        struct conf_entry *en = &c->entries[i];
        const char *text;
        char name[72];
        int rc;

        if (!(en->bind->from & TARN_CONF_FROM_ENV) || !tarn_param_has_env(en->table, en->p))
            continue;
        text = conf_env_get(in->env, tarn_param_env(en->p, name));
        if (!text || !text[0]) /* empty is unset, as shells leave it */
            continue;
        rc = conf_apply_text(en, name, text, tarn_xasprintf("env %s", name), true, e);
        if (rc < 0)
            return rc;
    }
    return 0;
}

/* One `-o` text being read. */
struct conf_opt_ctx {
    struct tarn_conf *c;   /* being loaded */
    struct tarn_errbuf *e; /* the caller's */
    bool trusted;          /* secrets are allowed */
};

static int conf_opt_unknown(struct conf_opt_ctx *ctx, const char *key)
{
    struct tarn_suggest near = {.word = key};
    char quoted[96], name[64];

    for (size_t i = 0; i < ctx->c->n_entries; i++) {
        const struct conf_entry *en = &ctx->c->entries[i];

        if ((en->bind->from & TARN_CONF_FROM_OPT) && !(en->p->flags & TARN_CONF_F_HIDDEN))
            tarn_suggest_offer(&near, tarn_conf_key(en->p, name));
    }
    return tarn_err_set(ctx->e, -TARN_E_CONFIG, "-o %s: there is no such option%s%s%s",
                        tarn_param_quote(key, quoted), near.best[0] ? "; did you mean " : "",
                        near.best, near.best[0] ? "?" : "");
}

/* "key=value", "key" or "no-key". */
static int conf_apply_opt(void *arg, char *part)
{
    struct conf_opt_ctx *ctx = arg;
    char *value = strchr(part, '='), key[64], shown[80];
    const char *text = value ? value + 1 : "true";
    struct conf_entry *en;

    if (!part[0])
        return 0;
    if (value)
        *value = 0;
    en = conf_entry_find(ctx->c, part);
    if (!en && !value && tarn_starts_with(part, "no-")) {
        en = conf_entry_find(ctx->c, part + 3);
        text = "false";
        if (en && en->p->type != TARN_CONF_T_BOOL && !(en->p->flags & TARN_CONF_F_BARE))
            en = NULL;
    }
    if (!en || !(en->bind->from & TARN_CONF_FROM_OPT))
        return conf_opt_unknown(ctx, part);
    (void)tarn_conf_key(en->p, key);
    (void)snprintf(shown, sizeof(shown), "-o %s", key); /* fits */
    if (!value && en->p->type != TARN_CONF_T_BOOL && !(en->p->flags & TARN_CONF_F_BARE))
        return tarn_err_set(ctx->e, -TARN_E_CONFIG, "%s: needs a value (%s=%s)", shown, key,
                            tarn_param_meta(en->p));
    if (!ctx->trusted && (en->p->flags & TARN_CONF_F_SECRET))
        return tarn_conf_refuse_secret(en->table, en->p, shown, ctx->e);
    if (en->p->type == TARN_CONF_T_LIST)
        return tarn_err_set(ctx->e, -TARN_E_CONFIG, "%s: takes a list, which an option cannot give",
                            shown);
    return conf_apply(en, shown, text, tarn_xasprintf("option %s", key), true, ctx->e);
}

static int conf_apply_opts(struct tarn_conf *c, const struct tarn_conf_input *in,
                           struct tarn_errbuf *e)
{
    struct conf_opt_ctx ctx = {c, e, in->opts_trusted};
    int rc = 0;

    for (size_t i = 0; i < in->n_opts && rc == 0; i++) {
        if (strlen(in->opts[i]) > TARN_CONF_VALUE_MAX)
            return tarn_err_set(e, -TARN_E_CONFIG, "-o: longer than %u bytes", TARN_CONF_VALUE_MAX);
        rc = tarn_conf_split(in->opts[i], conf_apply_opt, &ctx);
    }
    return rc;
}

/* All values that the arguments give to one LIST. */
static int conf_apply_arg_list(struct conf_entry *en, const struct tarn_conf_input *in,
                               const char *shown, struct tarn_errbuf *e)
{
    const char **v = calloc(in->n_args, sizeof(*v));
    char key[64];
    size_t n = 0;
    int rc;

    if (!v)
        return -TARN_E_NO_MEMORY;
    for (size_t i = 0; i < in->n_args; i++)
        if (tarn_param_is(en->p, in->args[i].key))
            v[n++] = in->args[i].value;
    rc = conf_apply_list(en, shown, v, n, tarn_xasprintf("flag --%s", tarn_conf_key(en->p, key)),
                         true, e);
    free(v);
    return rc;
}

static int conf_apply_args(struct tarn_conf *c, const struct tarn_conf_input *in,
                           struct tarn_errbuf *e)
{
    for (size_t i = 0; i < in->n_args; i++) {
        const struct tarn_conf_arg *arg = &in->args[i];
        struct conf_entry *en = conf_entry_find(c, arg->key);
        char key[64];
        int rc;

        if (!en || !(en->bind->from & TARN_CONF_FROM_FLAG))
            continue;
        if (en->p->flags & TARN_CONF_F_SECRET)
            return tarn_conf_refuse_secret(en->table, en->p, arg->shown, e);
        if (en->p->type == TARN_CONF_T_LIST)
            rc = conf_apply_arg_list(en, in, arg->shown, e);
        else
            rc = conf_apply(en, arg->shown, arg->value,
                            tarn_xasprintf("flag --%s", tarn_conf_key(en->p, key)), true, e);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static int conf_run_checks(const struct tarn_conf *c, struct tarn_errbuf *e)
{
    for (size_t i = 0; i < c->n_binds; i++) {
        int rc = c->binds[i].table->check ? c->binds[i].table->check(c->binds[i].dst, e) : 0;

        if (rc < 0)
            return rc;
    }
    return 0;
}

static struct tarn_conf *conf_new(const struct tarn_conf_bind *binds, size_t n_binds)
{
    struct tarn_conf *c = tarn_xnew(struct tarn_conf);

    c->n_binds = n_binds;
    c->binds = tarn_xcalloc(n_binds, sizeof(*binds));
    for (size_t i = 0; i < n_binds; i++) {
        tarn_conf_table_check(binds[i].table);
        c->binds[i] = binds[i];
        memset(binds[i].dst, 0, binds[i].table->size);
        c->n_entries += binds[i].table->n;
    }
    c->entries = tarn_xcalloc(c->n_entries, sizeof(*c->entries));
    c->n_entries = 0;
    for (size_t i = 0; i < n_binds; i++) {
        for (size_t k = 0; k < binds[i].table->n; k++) {
            const struct tarn_conf_param *p = &binds[i].table->params[k];

            TARN_ASSERT(!conf_entry_find(c, p->name)); /* keys are unique over the binds */
            c->entries[c->n_entries++] =
                (struct conf_entry){.table = binds[i].table, .p = p, .bind = &c->binds[i]};
        }
    }
    return c;
}

int tarn_conf_load(const struct tarn_conf_bind *binds, size_t n_binds,
                   const struct tarn_conf_input *in, struct tarn_conf **ret_conf,
                   struct tarn_errbuf *e)
{
    struct tarn_conf *c = conf_new(binds, n_binds);
    int rc = conf_apply_defaults(c);

    if (rc == 0)
        rc = conf_apply_file(c, in, e);
    if (rc == 0)
        rc = conf_apply_env(c, in, e);
    if (rc == 0)
        rc = conf_apply_opts(c, in, e);
    if (rc == 0)
        rc = conf_apply_args(c, in, e);
    if (rc == 0)
        rc = conf_run_checks(c, e);
    if (rc < 0) {
        for (size_t i = 0; i < n_binds; i++)
            memset(binds[i].dst, 0, binds[i].table->size);
        tarn_conf_free(&c);
        return rc;
    }
    *ret_conf = c;
    return 0;
}

bool tarn_conf_is_set(const struct tarn_conf *c, const char *key)
{
    const struct conf_entry *en = conf_entry_find(c, key);

    TARN_ASSERT(en != NULL);
    return en->given || en->p->def[0];
}

const char *tarn_conf_source(const struct tarn_conf *c, const char *key)
{
    const struct conf_entry *en = conf_entry_find(c, key);

    TARN_ASSERT(en != NULL);
    return en->where;
}

int tarn_conf_set(struct tarn_conf *c, const char *key, const char *value, struct tarn_errbuf *e)
{
    struct conf_entry *en = conf_entry_find(c, key);
    union param_value before, v;
    char quoted[96];
    int rc;

    if (!en)
        return tarn_err_set(e, -TARN_E_CONFIG, "%s: there is no such parameter",
                            tarn_param_quote(key, quoted));
    if (!(en->p->flags & TARN_CONF_F_RUNTIME))
        return tarn_err_set(e, -TARN_E_CONFIG, "%s: cannot be changed while running", en->p->name);
    rc = tarn_param_parse(en->p, en->p->name, value, &v, e);
    if (rc < 0)
        return rc;
    if (!en->text[0])
        memset(&before, 0, sizeof(before));
    else
        TARN_ASSERT(tarn_param_parse(en->p, en->p->name, en->text, &before, NULL) == 0);
    conf_store(en, &v);
    rc = conf_run_checks(c, e);
    if (rc < 0) {
        conf_store(en, &before);
        return rc;
    }
    return conf_apply(en, en->p->name, value, tarn_xstrdup("set"), true, e);
}
