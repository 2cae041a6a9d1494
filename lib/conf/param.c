/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rows of parameter tables: their names in each spelling, the check of a text against type and
 * bounds, and the check of the table itself. Values of SECRET rows never reach an error text.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/mem.h"
#include "lib/base/units.h"
#include "lib/conf/conf_priv.h"
#include "lib/conf/suggest.h"

/* In the order of enum tarn_conf_type. */
static const struct {
    const char *meta; /* placeholder in help */
    const char *what; /* "… is not <what>" */
} param_types[] = {
    [TARN_CONF_T_BOOL] = {"BOOL", "a switch (true or false)"},
    [TARN_CONF_T_UINT] = {"N", "a number (decimal digits)"},
    [TARN_CONF_T_SIZE] = {"SIZE", "a size (like 64KiB, 10GiB, 1.5G)"},
    [TARN_CONF_T_DURATION] = {"DURATION", "a duration (like 500ms, 30s, 2h)"},
    [TARN_CONF_T_RATE] = {"RATE", "a rate (like 200MiB/s)"},
    [TARN_CONF_T_PERCENT] = {"PERCENT", "a percentage (like 95% or 0.95)"},
    [TARN_CONF_T_STRING] = {"TEXT", "a text"},
    [TARN_CONF_T_PATH] = {"PATH", "a path"},
    [TARN_CONF_T_ENUM] = {"CHOICE", "a choice"},
    [TARN_CONF_T_LIST] = {"TEXT", "a text"},
    [TARN_CONF_T_TTL] = {"TTL", "a time to trust (a duration like 60s, or forever, or always)"},
};

static char key_fold(char c)
{
    return (char)(c == '_' ? '-' : c);
}

bool tarn_param_key_equal(const char *a, const char *b)
{
    for (; *a && key_fold(*a) == key_fold(*b); a++, b++)
        ;
    return *a == 0 && *b == 0;
}

bool tarn_param_is(const struct tarn_conf_param *p, const char *text)
{
    return tarn_param_key_equal(p->name, text);
}

bool tarn_param_has_env(const struct tarn_conf_table *t, const struct tarn_conf_param *p)
{
    return !t->no_env && !(p->flags & TARN_CONF_F_LINE);
}

const char *tarn_conf_key(const struct tarn_conf_param *p, char buf[64])
{
    size_t i;

    for (i = 0; p->name[i] && i < 63; i++)
        buf[i] = key_fold(p->name[i]);
    buf[i] = 0;
    return buf;
}

const char *tarn_param_env(const struct tarn_conf_param *p, char buf[72])
{
    size_t n = (size_t)snprintf(buf, 72, "TARN_");

    for (const char *s = p->name; *s && n < 71; s++)
        buf[n++] = (char)(*s >= 'a' && *s <= 'z' ? *s - ('a' - 'A') : *s);
    buf[n] = 0;
    return buf;
}

const struct tarn_conf_param *tarn_conf_find(const struct tarn_conf_table *t, const char *key)
{
    for (size_t i = 0; i < t->n; i++)
        if (tarn_param_is(&t->params[i], key))
            return &t->params[i];
    return NULL;
}

const char *tarn_param_meta(const struct tarn_conf_param *p)
{
    return p->type == TARN_CONF_T_ENUM ? p->min : param_types[p->type].meta;
}

bool tarn_param_is_text(const struct tarn_conf_param *p)
{
    return p->type == TARN_CONF_T_STRING || p->type == TARN_CONF_T_PATH ||
           p->type == TARN_CONF_T_LIST;
}

const char *tarn_param_quote(const char *text, char buf[96])
{
    size_t n = 0;

    for (; text[n] && n < 80; n++)
        buf[n] = (char)((unsigned char)text[n] < 0x20 || text[n] == 0x7f ? '?' : text[n]);
    (void)snprintf(buf + n, 96 - n, "%s", text[n] ? "..." : ""); /* fits */
    return buf;
}

/* The value in quotes for an error, or what stands for a secret. */
static const char *param_shown_value(const struct tarn_conf_param *p, const char *text,
                                     char buf[100])
{
    char quoted[96];

    if (p->flags & TARN_CONF_F_SECRET)
        return "the value (a secret, not shown)";
    (void)snprintf(buf, 100, "\"%s\"", tarn_param_quote(text, quoted)); /* fits */
    return buf;
}

static int param_bad(const struct tarn_conf_param *p, const char *shown, const char *text,
                     struct tarn_errbuf *e)
{
    char buf[100];

    return tarn_err_set(e, -TARN_E_CONFIG, "%s: %s is not %s", shown,
                        param_shown_value(p, text, buf), param_types[p->type].what);
}

/* Offers each choice of "a|b|c"; returns the index of `text` or -1. */
static int param_choice_index(const char *choices, const char *text, struct tarn_suggest *near)
{
    int found = -1, i = 0;
    char one[64];

    for (const char *s = choices; *s; i++) {
        size_t n = strcspn(s, "|");

        TARN_ASSERT(n > 0 && n < sizeof(one));
        memcpy(one, s, n);
        one[n] = 0;
        if (strcmp(one, text) == 0)
            found = i;
        tarn_suggest_offer(near, one);
        s += n + (s[n] == '|');
    }
    return found;
}

const char *tarn_conf_choice(const struct tarn_conf_param *p, unsigned index, char buf[64])
{
    const char *s = p->min;
    size_t n;

    TARN_ASSERT(p->type == TARN_CONF_T_ENUM);
    for (; index > 0; index--) {
        s = strchr(s, '|');
        TARN_ASSERT(s != NULL);
        s++;
    }
    n = strcspn(s, "|");
    TARN_ASSERT(n < 64);
    memcpy(buf, s, n);
    buf[n] = 0;
    return buf;
}

static int param_parse_enum(const struct tarn_conf_param *p, const char *shown, const char *text,
                            unsigned *ret_idx, struct tarn_errbuf *e)
{
    struct tarn_suggest near = {.word = text};
    int i = param_choice_index(p->min, text, &near), on;
    char list[256], buf[100];
    size_t n = 0;

    if (i < 0 && (p->flags & TARN_CONF_F_BARE) && tarn_parse_bool(text, &on) == 0)
        i = on;
    if (i >= 0) {
        *ret_idx = (unsigned)i;
        return 0;
    }
    for (const char *s = p->min; *s && n + 3 < sizeof(list); s++) {
        if (*s == '|')
            list[n++] = ',';
        list[n++] = (char)(*s == '|' ? ' ' : *s);
    }
    list[n] = 0;
    return tarn_err_set(
        e, -TARN_E_CONFIG, "%s: %s is none of %s%s%s%s", shown, param_shown_value(p, text, buf),
        list, near.best[0] ? "; did you mean \"" : "", near.best, near.best[0] ? "\"?" : "");
}

static int param_parse_text(const struct tarn_conf_param *p, const char *shown, const char *text,
                            struct tarn_errbuf *e)
{
    size_t n = strlen(text);
    uint64_t min = 0, max = p->type == TARN_CONF_T_PATH ? 4095 : TARN_CONF_VALUE_MAX;

    for (const char *s = text; *s; s++)
        if ((unsigned char)*s < 0x20 || *s == 0x7f)
            return tarn_err_set(e, -TARN_E_CONFIG,
                                "%s: the value has a control character (byte %zu)", shown,
                                (size_t)(s - text) + 1);
    if (p->type == TARN_CONF_T_STRING && p->min[0])
        TARN_ASSERT(tarn_parse_u64(p->min, &min) == 0);
    if (p->type == TARN_CONF_T_STRING && p->max[0])
        TARN_ASSERT(tarn_parse_u64(p->max, &max) == 0);
    if (n < min)
        return tarn_err_set(e, -TARN_E_CONFIG,
                            "%s: the value has %zu bytes, fewer than the minimum %s", shown, n,
                            p->min);
    if (n > max)
        return tarn_err_set(e, -TARN_E_CONFIG,
                            "%s: the value has %zu bytes, more than the maximum %llu", shown, n,
                            (unsigned long long)max);
    return 0;
}

static int param_parse_ttl(const char *text, uint64_t *ret_ns)
{
    int rc = 0;

    if (strcmp(text, "always") == 0)
        *ret_ns = TARN_TTL_ALWAYS;
    else if (strcmp(text, "forever") == 0)
        *ret_ns = TARN_TTL_FOREVER;
    else
        rc = tarn_parse_duration(text, ret_ns);
    return rc;
}

/* A value of a numeric type as a number, without bounds. */
static int param_parse_number(const struct tarn_conf_param *p, const char *text, uint64_t *ret_n)
{
    uint32_t bp = 0;
    int rc = -TARN_E_INVALID;

    switch (p->type) {
    case TARN_CONF_T_UINT:
        return tarn_parse_u64(text, ret_n);
    case TARN_CONF_T_SIZE:
        return tarn_parse_size(text, ret_n);
    case TARN_CONF_T_DURATION:
        return tarn_parse_duration(text, ret_n);
    case TARN_CONF_T_RATE:
        return tarn_parse_rate(text, ret_n);
    case TARN_CONF_T_TTL:
        return param_parse_ttl(text, ret_n);
    case TARN_CONF_T_PERCENT:
        rc = tarn_parse_percent(text, &bp);
        if (rc == 0)
            *ret_n = bp;
        return rc;
    case TARN_CONF_T_BOOL:
    case TARN_CONF_T_STRING:
    case TARN_CONF_T_PATH:
    case TARN_CONF_T_ENUM:
    case TARN_CONF_T_LIST:
    default:
        TARN_UNREACHABLE("not a numeric type");
    }
}

static int param_parse_bounded(const struct tarn_conf_param *p, const char *shown, const char *text,
                               uint64_t *ret_n, struct tarn_errbuf *e)
{
    uint64_t n = 0, bound = 0;
    char buf[100];
    int rc = param_parse_number(p, text, &n);

    if (rc < 0)
        return param_bad(p, shown, text, e);
    if (p->type == TARN_CONF_T_TTL && (n == TARN_TTL_ALWAYS || n == TARN_TTL_FOREVER)) {
        *ret_n = n;
        return 0;
    }
    if (p->min[0]) {
        TARN_ASSERT(param_parse_number(p, p->min, &bound) == 0);
        if (n < bound)
            return tarn_err_set(e, -TARN_E_CONFIG, "%s: %s is below the minimum %s", shown,
                                param_shown_value(p, text, buf), p->min);
    }
    if (p->max[0]) {
        TARN_ASSERT(param_parse_number(p, p->max, &bound) == 0);
        if (n > bound)
            return tarn_err_set(e, -TARN_E_CONFIG, "%s: %s is above the maximum %s", shown,
                                param_shown_value(p, text, buf), p->max);
    }
    *ret_n = n;
    return 0;
}

int tarn_param_parse(const struct tarn_conf_param *p, const char *shown, const char *text,
                     union param_value *ret_v, struct tarn_errbuf *e)
{
    uint64_t n = 0;
    int rc, on;

    switch (p->type) {
    case TARN_CONF_T_BOOL:
        if (tarn_parse_bool(text, &on) < 0)
            return param_bad(p, shown, text, e);
        ret_v->b = on != 0;
        return 0;
    case TARN_CONF_T_ENUM:
        return param_parse_enum(p, shown, text, &ret_v->idx, e);
    case TARN_CONF_T_STRING:
    case TARN_CONF_T_PATH:
    case TARN_CONF_T_LIST:
        return param_parse_text(p, shown, text, e);
    case TARN_CONF_T_UINT:
    case TARN_CONF_T_SIZE:
    case TARN_CONF_T_DURATION:
    case TARN_CONF_T_RATE:
    case TARN_CONF_T_PERCENT:
    case TARN_CONF_T_TTL:
    default:
        rc = param_parse_bounded(p, shown, text, &n, e);
        if (rc < 0)
            return rc;
        if (p->type == TARN_CONF_T_PERCENT)
            ret_v->u32 = (uint32_t)n;
        else
            ret_v->u64 = n;
        return 0;
    }
}

int tarn_param_check_count(const struct tarn_conf_param *p, const char *shown, size_t n,
                           struct tarn_errbuf *e)
{
    uint64_t min = 0, max = TARN_CONF_LIST_MAX;

    if (p->min[0])
        TARN_ASSERT(tarn_parse_u64(p->min, &min) == 0);
    if (p->max[0])
        TARN_ASSERT(tarn_parse_u64(p->max, &max) == 0);
    if (n > max && max == 1)
        return tarn_err_set(e, -TARN_E_CONFIG, "%s: given %zu times, but one is allowed", shown, n);
    if (n < min || n > max)
        return tarn_err_set(e, -TARN_E_CONFIG, "%s: given %zu times, but %llu to %llu are allowed",
                            shown, n, (unsigned long long)min, (unsigned long long)max);
    return 0;
}

int tarn_conf_refuse_secret(const struct tarn_conf_table *t, const struct tarn_conf_param *p,
                            const char *shown, struct tarn_errbuf *e)
{
    char key[64], env[72], file[80], hint[240] = "";
    size_t n;

    (void)tarn_conf_key(p, key);
    n = strlen(key);
    if (tarn_ends_with(key, "-key"))
        n -= strlen("-key");
    (void)snprintf(file, sizeof(file), "%.*s-file", (int)n,
                   key);                              /* fits: a key has at most 63 bytes */
    if (!tarn_conf_find(t, file) && strchr(key, '-')) /* session-token: token-file */
        (void)snprintf(file, sizeof(file), "%s-file", strrchr(key, '-') + 1); /* fits */
    if (tarn_conf_find(t, file))
        (void)snprintf(hint, sizeof(hint), "%s=FILE, ", file); /* fits */
    if (tarn_param_has_env(t, p)) {
        n = strlen(hint);
        (void)snprintf(hint + n, sizeof(hint) - n, "the environment variable %s, ",
                       tarn_param_env(p, env)); /* fits */
    }
    return tarn_err_set(
        e, -TARN_E_SECRET_ARGV,
        "%s: secrets are not taken on the command line, where others can read them; "
        "use %sor \"%s:\" in a config file of mode 0600",
        shown, hint, key);
}

int tarn_conf_split(const char *text, int (*fn)(void *arg, char *part), void *arg)
{
    char *buf = calloc(1, strlen(text) + 1), *dst = buf;
    int rc = 0;

    if (!buf)
        return -TARN_E_NO_MEMORY;
    for (const char *s = text;; s++) {
        if (*s == '\\' && (s[1] == ',' || s[1] == '\\')) {
            *dst++ = *++s;
        } else if (*s == ',' || *s == 0) {
            *dst = 0;
            rc = fn(arg, buf);
            dst = buf;
            if (rc != 0 || *s == 0)
                break;
        } else {
            *dst++ = *s;
        }
    }
    explicit_bzero(buf, strlen(text));
    free(buf);
    return rc;
}

static void param_check_row(const struct tarn_conf_param *p)
{
    static const unsigned bare = TARN_CONF_F_BARE;
    union param_value v;
    char choice[64];
    size_t n = strlen(p->name);

    TARN_ASSERT(n > 0 && n < 64);
    TARN_ASSERT(strspn(p->name, "abcdefghijklmnopqrstuvwxyz0123456789_") == n);
    TARN_ASSERT(p->help[0] != 0);
    TARN_ASSERT(!(p->flags & bare) || p->type == TARN_CONF_T_ENUM);
    TARN_ASSERT(!(p->flags & TARN_CONF_F_RUNTIME) || !tarn_param_is_text(p));
    TARN_ASSERT(!(p->flags & TARN_CONF_F_SECRET) || p->type == TARN_CONF_T_STRING);
    if (p->type == TARN_CONF_T_ENUM) {
        TARN_ASSERT(p->min[0] != 0 && p->max[0] == 0);
        (void)tarn_conf_choice(p, p->flags & bare ? 1 : 0, choice);
    }
    if (p->def[0] && p->type != TARN_CONF_T_LIST)
        TARN_ASSERT(tarn_param_parse(p, p->name, p->def, &v, NULL) == 0);
}

void tarn_conf_table_check(const struct tarn_conf_table *t)
{
    TARN_ASSERT(t->name[0] != 0 && t->title[0] != 0 && t->size > 0);
    for (size_t i = 0; i < t->n; i++) {
        param_check_row(&t->params[i]);
        TARN_ASSERT(t->params[i].offset < t->size);
        for (size_t k = 0; k < i; k++)
            TARN_ASSERT(!tarn_param_is(&t->params[k], t->params[i].name));
    }
}
