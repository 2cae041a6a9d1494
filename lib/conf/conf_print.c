/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What people and tools read of a configuration: `tarn config`, --help and docs/config.md. The
 * columns of tarn_conf_markdown are those of tools/dev/gen_docs.py; a unit test keeps them equal.
 */
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/units.h"
#include "lib/conf/conf_priv.h"

#define HELP_COLUMN 34 /* where help texts start */
#define HELP_WIDTH  100

/* Bytes of the UTF-8 sequence at s, 0 if it is none. */
static size_t utf8_len(const unsigned char *s)
{
    size_t n = s[0] < 0x80 ? 1 : (s[0] >= 0xc2 && s[0] < 0xe0) ? 2 : (s[0] & 0xf0) == 0xe0 ? 3 : 4;

    if (s[0] >= 0xf5 || (s[0] >= 0x80 && s[0] < 0xc2))
        return 0;
    for (size_t i = 1; i < n; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] >= 0xa0))
        return 0;
    if ((s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] >= 0x90))
        return 0;
    return n;
}

static void json_text(struct tarn_str *out, const char *text)
{
    const unsigned char *s = (const unsigned char *)text;

    tarn_str_addc(out, '"');
    while (*s) {
        size_t n = utf8_len(s);

        if (*s == '"' || *s == '\\')
            tarn_str_addf(out, "\\%c", *s);
        else if (*s < 0x20)
            tarn_str_addf(out, "\\u%04x", *s);
        else if (n > 0)
            tarn_str_add(out, s, n);
        else
            tarn_str_adds(out, "\\ufffd");
        s += n ? n : 1;
    }
    tarn_str_addc(out, '"');
}

static bool entry_hidden(const struct conf_entry *en)
{
    return (en->p->flags & TARN_CONF_F_HIDDEN) && !en->given;
}

static bool entry_secret(const struct conf_entry *en)
{
    return (en->p->flags & TARN_CONF_F_SECRET) && en->text[0];
}

/* A text as it is, but for a password in a URL: what stands between "://" and the last '@'. It may
 * hold slashes. */
static void add_shown(struct tarn_str *out, const char *text)
{
    const char *scheme = strstr(text, "://");
    const char *at = scheme && !tarn_starts_with(text, "file://") ? strrchr(scheme, '@') : NULL;

    if (at) {
        tarn_str_add(out, text, (size_t)(scheme + 3 - text));
        tarn_str_adds(out, "(set)");
        text = at;
    }
    tarn_str_adds(out, text);
}

/* An element of a LIST being copied. */
struct element {
    const struct tarn_conf *c; /* whose tables know the secrets */
    struct tarn_str *out;      /* the copy */
    const char *sep;           /* before the next part */
};

/* True for the key of a SECRET, also of a table that is not bound here. */
static bool element_secret(const struct tarn_conf *c, const char *key)
{
    for (size_t i = 0; i < c->n_entries; i++)
        if (tarn_param_is(c->entries[i].p, key))
            return (c->entries[i].p->flags & TARN_CONF_F_SECRET) != 0;
    return !tarn_ends_with(key, "file") &&
           (strstr(key, "secret") || strstr(key, "token") || strstr(key, "password"));
}

static int element_part(void *arg, char *part)
{
    struct element *el = arg;
    char *eq = strchr(part, '=');

    tarn_str_adds(el->out, el->sep);
    el->sep = ",";
    if (eq)
        *eq = 0;
    if (!eq) {
        add_shown(el->out, part);
        return 0;
    }
    tarn_str_addf(el->out, "%s=", part);
    if (element_secret(el->c, part))
        tarn_str_adds(el->out, "(set)");
    else
        add_shown(el->out, eq + 1);
    return 0;
}

/* Replaces `out` by the element, with secrets inside "K=V,K=V" (store options) left out. */
static const char *element_text(const struct tarn_conf *c, const char *text, struct tarn_str *out)
{
    struct element el = {c, out, ""};

    tarn_str_reset(out);
    if (!strchr(text, '='))
        add_shown(out, text);
    else if (tarn_conf_split(text, element_part, &el) < 0)
        tarn_str_adds(out, "(out of memory)");
    return tarn_str_z(out);
}

void tarn_conf_print_text(const struct tarn_conf *c, struct tarn_str *out)
{
    const struct tarn_conf_table *last = NULL;
    struct tarn_str element = {0};
    char key[64];

    for (size_t i = 0; i < c->n_entries; i++) {
        const struct conf_entry *en = &c->entries[i];

        if (entry_hidden(en))
            continue;
        if (en->table != last)
            tarn_str_addf(out, "%s# %s\n", last ? "\n" : "", en->table->title);
        last = en->table;
        tarn_str_addf(out, "%s:", tarn_conf_key(en->p, key));
        if (entry_secret(en))
            tarn_str_adds(out, " (set)");
        else if (en->text[0])
            tarn_str_addc(out, ' ');
        if (en->text[0] && !entry_secret(en))
            add_shown(out, en->text);
        for (size_t k = 0; k < en->n_list; k++)
            tarn_str_addf(out, "%s%s", k ? ", " : " ", element_text(c, en->list[k], &element));
        tarn_str_addf(out, "  # %s\n", en->where);
    }
    tarn_str_fini(&element);
}

static void json_list(struct tarn_str *out, const struct tarn_conf *c, const struct conf_entry *en)
{
    struct tarn_str element = {0};

    tarn_str_addc(out, '[');
    for (size_t i = 0; i < en->n_list; i++) {
        tarn_str_adds(out, i ? "," : "");
        json_text(out, element_text(c, en->list[i], &element));
    }
    tarn_str_addc(out, ']');
    tarn_str_fini(&element);
}

static void json_value(struct tarn_str *out, const struct tarn_conf *c, const struct conf_entry *en)
{
    struct tarn_str shown = {0};
    uint64_t n;
    int on;

    if (entry_secret(en)) {
        tarn_str_adds(out, "\"(set)\"");
    } else if (en->p->type == TARN_CONF_T_LIST) {
        json_list(out, c, en);
    } else if (en->p->type == TARN_CONF_T_BOOL) {
        tarn_str_adds(out, tarn_parse_bool(en->text, &on) == 0 && on ? "true" : "false");
    } else if (en->p->type == TARN_CONF_T_UINT && tarn_parse_u64(en->text, &n) == 0) {
        tarn_str_addf(out, "%llu", (unsigned long long)n);
    } else if (!en->text[0] && !tarn_param_is_text(en->p)) {
        tarn_str_adds(out, "null");
    } else {
        add_shown(&shown, en->text);
        json_text(out, tarn_str_z(&shown));
        tarn_str_fini(&shown);
    }
}

void tarn_conf_print_json(const struct tarn_conf *c, struct tarn_str *out)
{
    const char *sep = "";
    char key[64];

    tarn_str_adds(out, "{\"parameters\":[");
    for (size_t i = 0; i < c->n_entries; i++) {
        const struct conf_entry *en = &c->entries[i];

        if (entry_hidden(en))
            continue;
        tarn_str_addf(out, "%s{\"key\":\"%s\",\"table\":\"%s\",\"value\":", sep,
                      tarn_conf_key(en->p, key), en->table->name);
        json_value(out, c, en);
        tarn_str_adds(out, ",\"source\":");
        json_text(out, en->where);
        tarn_str_addc(out, '}');
        sep = ",";
    }
    tarn_str_adds(out, "]}\n");
}

/* Appends `text` in lines up to HELP_WIDTH, indented to HELP_COLUMN; `column` is where the line is.
 */
static void help_wrap(struct tarn_str *out, size_t column, const char *text)
{
    while (*text) {
        size_t n = strcspn(text, " ");

        if (column > HELP_COLUMN && column + 1 + n > HELP_WIDTH) {
            tarn_str_addf(out, "\n%*s", HELP_COLUMN, "");
            column = HELP_COLUMN;
        } else if (column > HELP_COLUMN) {
            tarn_str_addc(out, ' ');
            column++;
        }
        tarn_str_add(out, text, n);
        column += n;
        text += n + strspn(text + n, " ");
    }
    tarn_str_addc(out, '\n');
}

static bool param_repeats(const struct tarn_conf_param *p)
{
    return p->type == TARN_CONF_T_LIST && strcmp(p->max, "1") != 0;
}

static void help_row(struct tarn_str *out, const struct tarn_conf_param *p, char letter)
{
    struct tarn_str text = {0};
    size_t start = out->len, column;
    char key[64];

    if (letter)
        tarn_str_addf(out, "  -%c, ", letter);
    else
        tarn_str_adds(out, "      ");
    tarn_str_addf(out, "--%s", tarn_conf_key(p, key));
    if (p->flags & TARN_CONF_F_BARE)
        tarn_str_addf(out, "[=%s]", tarn_param_meta(p));
    else if (p->type != TARN_CONF_T_BOOL)
        tarn_str_addf(out, " %s", tarn_param_meta(p));
    column = out->len - start;
    if (column + 1 >= HELP_COLUMN) {
        tarn_str_addc(out, '\n');
        column = 0;
    }
    tarn_str_addf(out, "%*s", (int)(HELP_COLUMN - column), "");
    tarn_str_adds(&text, p->help);
    if (param_repeats(p))
        tarn_str_adds(&text, " May be repeated.");
    if (p->def[0] && strcmp(p->def, "false") != 0)
        tarn_str_addf(&text, " [default: %s]", p->def);
    help_wrap(out, HELP_COLUMN, tarn_str_z(&text));
    tarn_str_fini(&text);
}

void tarn_conf_help(const struct tarn_conf_table *t,
                    char (*letter)(const void *arg, const char *key), const void *arg,
                    struct tarn_str *out)
{
    char key[64];

    for (size_t i = 0; i < t->n; i++) {
        const struct tarn_conf_param *p = &t->params[i];

        if (p->flags & (TARN_CONF_F_HIDDEN | TARN_CONF_F_SECRET))
            continue;
        help_row(out, p, letter ? letter(arg, tarn_conf_key(p, key)) : (char)0);
    }
}

/* ---- manual pages -----------------------------------------------------------------------------
 */

void tarn_conf_man_text(const char *text, struct tarn_str *out)
{
    for (bool first = true; *text; first = *text++ == '\n') {
        if (first && (*text == '.' || *text == '\''))
            tarn_str_adds(out, "\\&"); /* no request */
        if (*text == '\\')
            tarn_str_adds(out, "\\e");
        else if (*text == '-')
            tarn_str_adds(out, "\\-");
        else
            tarn_str_addc(out, *text);
    }
}

static void man_row(struct tarn_str *out, const struct tarn_conf_param *p, char letter)
{
    char key[64];

    tarn_str_adds(out, ".TP\n\\fB");
    if (letter)
        tarn_str_addf(out, "\\-%c\\fR, \\fB", letter);
    tarn_str_adds(out, "\\-\\-");
    tarn_conf_man_text(tarn_conf_key(p, key), out);
    tarn_str_adds(out, "\\fR");
    if (p->flags & TARN_CONF_F_BARE)
        tarn_str_addf(out, "[=%s]", tarn_param_meta(p));
    else if (p->type != TARN_CONF_T_BOOL)
        tarn_str_addf(out, " \\fI%s\\fR", tarn_param_meta(p));
    tarn_str_addc(out, '\n');
    tarn_conf_man_text(p->help, out);
    if (param_repeats(p))
        tarn_str_adds(out, " May be repeated.");
    if (p->def[0] && strcmp(p->def, "false") != 0) {
        tarn_str_adds(out, " Default: ");
        tarn_conf_man_text(p->def, out);
        tarn_str_addc(out, '.');
    }
    tarn_str_addc(out, '\n');
}

void tarn_conf_man(const struct tarn_conf_table *t,
                   char (*letter)(const void *arg, const char *key), const void *arg,
                   struct tarn_str *out)
{
    char key[64];

    for (size_t i = 0; i < t->n; i++) {
        const struct tarn_conf_param *p = &t->params[i];

        if (!(p->flags & (TARN_CONF_F_HIDDEN | TARN_CONF_F_SECRET)))
            man_row(out, p, letter ? letter(arg, tarn_conf_key(p, key)) : (char)0);
    }
}

/* Text inside a cell: '|' ends one. */
static void markdown_cell(struct tarn_str *out, const char *text)
{
    for (; *text; text++) {
        if (*text == '|')
            tarn_str_addc(out, '\\');
        tarn_str_addc(out, *text);
    }
}

static void markdown_allowed(struct tarn_str *out, const struct tarn_conf_param *p)
{
    if (p->type == TARN_CONF_T_ENUM) {
        markdown_cell(out, p->min);
        return;
    }
    if (p->min[0])
        tarn_str_addf(out, "from %s", p->min);
    if (p->max[0])
        tarn_str_addf(out, "%sto %s", p->min[0] ? " " : "", p->max);
}

static const char *const type_names[] = {
    [TARN_CONF_T_BOOL] = "bool",     [TARN_CONF_T_UINT] = "uint",
    [TARN_CONF_T_SIZE] = "size",     [TARN_CONF_T_DURATION] = "duration",
    [TARN_CONF_T_RATE] = "rate",     [TARN_CONF_T_PERCENT] = "percent",
    [TARN_CONF_T_STRING] = "string", [TARN_CONF_T_PATH] = "path",
    [TARN_CONF_T_ENUM] = "enum",     [TARN_CONF_T_LIST] = "list",
    [TARN_CONF_T_TTL] = "ttl",
};

void tarn_conf_markdown(const struct tarn_conf_table *t, struct tarn_str *out)
{
    char key[64], env[72];

    tarn_str_addf(out,
                  "## %s\n\nSection `%s` of the config file.\n\n"
                  "| key | environment | type | default | allowed | unit | notes | meaning |\n"
                  "|---|---|---|---|---|---|---|---|\n",
                  t->title, t->name);
    for (size_t i = 0; i < t->n; i++) {
        const struct tarn_conf_param *p = &t->params[i];

        if (p->flags & TARN_CONF_F_HIDDEN)
            continue;
        tarn_str_addf(out, "| `%s` | ", tarn_conf_key(p, key));
        if (tarn_param_has_env(t, p))
            tarn_str_addf(out, "`%s`", tarn_param_env(p, env));
        tarn_str_addf(out, " | %s | ", type_names[p->type]);
        if (p->def[0]) {
            tarn_str_addc(out, '`');
            markdown_cell(out, p->def);
            tarn_str_addc(out, '`');
        }
        tarn_str_adds(out, " | ");
        markdown_allowed(out, p);
        tarn_str_addf(out, " | %s | ", p->unit);
        if (p->flags & TARN_CONF_F_SECRET)
            tarn_str_adds(out, "secret: not on a command line");
        if (p->flags & TARN_CONF_F_RUNTIME)
            tarn_str_adds(out, "changeable while running");
        if (p->flags & TARN_CONF_F_LINE)
            tarn_str_adds(out, "on the command line alone");
        tarn_str_adds(out, " | ");
        markdown_cell(out, p->help);
        tarn_str_adds(out, " |\n");
    }
}
