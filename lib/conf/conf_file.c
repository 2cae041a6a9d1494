/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The YAML file. libcyaml maps it by a schema that is built from the tables at run time: a field
 * per key and spelling, every value a string (or a list of strings), so that the same checks as for
 * flags give the errors. A table's name is a field too: a map of the table's keys. Where a table is
 * named like a key of another one ("master"), the first reading takes the key and a second one,
 * after a failure only, takes the section.
 *
 * libcyaml reports errors through a log function: the first error line is the cause, the first
 * backtrace line below it has the position. The values of the file may be secrets: the text and all
 * that libcyaml allocates is wiped before it is freed, and log lines that could hold a value are
 * not used.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cyaml/cyaml.h>

#include "lib/base/assert.h"
#include "lib/base/mem.h"
#include "lib/conf/conf_priv.h"
#include "lib/conf/suggest.h"

/* The value of a key, as libcyaml fills it. */
struct yaml_slot {
    char *scalar;  /* when not a LIST */
    char **list;   /* of a LIST, n texts */
    uint32_t n;    /* elements */
    void *section; /* struct yaml_slot[] of a section */
};

/* A field of the schema and whom it belongs to. */
struct yaml_key {
    const struct tarn_conf_table *table; /* its table */
    const struct tarn_conf_param *p;     /* its row; NULL: a section */
    bool bound;                          /* reported; otherwise accepted and ignored */
    bool shared;                         /* of several tables: it does not say which one is meant */
    char key[64];                        /* spelling in the file */
    struct yaml_map *section;            /* of a section */
};

/* A map of the file: the root or a section. */
struct yaml_map {
    struct yaml_key *keys;        /* n keys, one slot each */
    cyaml_schema_field_t *fields; /* n fields and the end */
    size_t n;                     /* keys */
};

/* One reading of the file. */
struct yaml_load {
    const struct conf_file_args *a; /* what was asked */
    bool sections_first;            /* a section wins over a key of the same name */
    bool clash;                     /* there is such a name */
    struct yaml_map root;           /* schema */
    struct yaml_slot *slots;        /* the root's values, NULL for an empty file */
    char cause[200];                /* libcyaml's first error line */
    char field[64];                 /* innermost key of its backtrace, "" at the root */
    unsigned long line;             /* innermost line of its backtrace, 0 when unknown */
    char unknown[80];               /* the key of "unexpected key" */
    bool more;                      /* a second document was left unread */
};

/* Texts are wiped when freed, so each block remembers its size. */
struct yaml_block {
    size_t size;   /* bytes behind the head */
    size_t unused; /* keeps 16-byte alignment */
};

static void *yaml_mem(void *ctx, void *ptr, size_t size)
{
    struct yaml_block *old = ptr ? (struct yaml_block *)ptr - 1 : NULL, *b = NULL;

    (void)ctx;
    if (size > 0) {
        b = calloc(1, sizeof(*b) + size);
        if (!b)
            return NULL;
        b->size = size;
        if (old)
            memcpy(b + 1, old + 1, TARN_MIN(size, old->size));
    }
    if (old) {
        explicit_bzero(old + 1, old->size);
        free(old);
    }
    return b ? b + 1 : NULL;
}

static void yaml_log(cyaml_log_t level, void *ctx, const char *fmt, va_list ap)
    __attribute__((format(printf, 3, 0)));

static void yaml_log(cyaml_log_t level, void *ctx, const char *fmt, va_list ap)
{
    static const char unexpected[] = "Load: Unexpected key: ", field[] = "in mapping field '";
    struct yaml_load *y = ctx;
    char line[200];
    const char *at;
    size_t n;

    if (level < CYAML_LOG_WARNING)
        return;
    (void)vsnprintf(line, sizeof(line), fmt, ap); /* cut is fine */
    n = strcspn(line, "\n");
    line[n] = 0;
    if (level < CYAML_LOG_ERROR) {
        y->more |= strstr(line, "Ignoring documents") != NULL;
        return;
    }
    if (!y->cause[0] && !strstr(line, "Backtrace:")) {
        const char *text = tarn_starts_with(line, "Load: ") ? line + strlen("Load: ") : line;

        (void)tarn_param_quote(text, y->cause);
        if (tarn_starts_with(line, unexpected))
            (void)snprintf(y->unknown, sizeof(y->unknown), "%.79s", line + strlen(unexpected));
        return;
    }
    at = strstr(line, "(line: ");
    if (at && y->line == 0)
        y->line = strtoul(at + strlen("(line: "), NULL, 10);
    at = strstr(line, field);
    if (at && !y->field[0])
        (void)snprintf(y->field, sizeof(y->field), "%.*s", (int)strcspn(at + strlen(field), "'"),
                       at + strlen(field)); /* a key of ours: fits */
}

static const cyaml_schema_value_t yaml_text = {
    .type = CYAML_STRING,
    .flags = CYAML_FLAG_POINTER,
    .data_size = sizeof(char),
    .string = {.min = 0, .max = CYAML_UNLIMITED},
};

static void yaml_map_fini(struct yaml_map *m)
{
    for (size_t i = 0; i < m->n; i++) {
        if (m->keys[i].section) {
            yaml_map_fini(m->keys[i].section);
            free(m->keys[i].section);
        }
    }
    free(m->keys);
    free(m->fields);
    *m = (struct yaml_map){0};
}

static struct yaml_key *yaml_map_find(const struct yaml_map *m, const char *key)
{
    for (size_t i = 0; i < m->n; i++)
        if (strcmp(m->keys[i].key, key) == 0)
            return &m->keys[i];
    return NULL;
}

static struct yaml_key *yaml_map_add(struct yaml_map *m, const char *key)
{
    struct yaml_key *k;

    m->keys = tarn_xrealloc(m->keys, (m->n + 1) * sizeof(*m->keys));
    k = &m->keys[m->n++];
    memset(k, 0, sizeof(*k));
    (void)snprintf(k->key, sizeof(k->key), "%s", key); /* names are checked to fit */
    return k;
}

/* Both spellings of each row. A key that another table of `others` has too is there once. */
static void yaml_map_add_table(struct yaml_map *m, const struct tarn_conf_table *t, bool bound)
{
    for (size_t i = 0; i < t->n; i++) {
        char dashed[64];
        const char *names[2] = {tarn_conf_key(&t->params[i], dashed), t->params[i].name};

        if (t->params[i].flags & TARN_CONF_F_LINE)
            continue;
        for (size_t k = 0; k < 2; k++) {
            struct yaml_key *key;

            key = yaml_map_find(m, names[k]);
            if (key) {
                key->shared |= key->p && key->table != t;
                continue;
            }
            key = yaml_map_add(m, names[k]);
            key->table = t;
            key->p = &t->params[i];
            key->bound = bound;
        }
    }
}

static void yaml_map_add_section(struct yaml_load *y, const struct tarn_conf_table *t, bool bound)
{
    struct yaml_key *key = yaml_map_find(&y->root, t->name);

    if (key) {
        y->clash |= key->p != NULL;
        return;
    }
    key = yaml_map_add(&y->root, t->name);
    key->table = t;
    key->bound = bound;
    key->section = tarn_xnew(struct yaml_map);
    yaml_map_add_table(key->section, t, bound);
}

/* The schema's fields from the keys; key i fills slot i. */
static void yaml_map_seal(struct yaml_map *m)
{
    m->fields = tarn_xcalloc(m->n + 1, sizeof(*m->fields)); /* the last one, zeroed, is the end */
    for (size_t i = 0; i < m->n; i++) {
        uint32_t base = (uint32_t)(i * sizeof(struct yaml_slot));
        cyaml_schema_field_t *f = &m->fields[i];
        cyaml_schema_value_t v = yaml_text;

        f->data_offset = base + (uint32_t)offsetof(struct yaml_slot, scalar);
        if (m->keys[i].section) {
            yaml_map_seal(m->keys[i].section);
            v = (cyaml_schema_value_t){
                .type = CYAML_MAPPING,
                .data_size = (uint32_t)(m->keys[i].section->n * sizeof(struct yaml_slot)),
                .mapping = {.fields = m->keys[i].section->fields}};
            f->data_offset = base + (uint32_t)offsetof(struct yaml_slot, section);
        } else if (m->keys[i].p->type == TARN_CONF_T_LIST) {
            v = (cyaml_schema_value_t){
                .type = CYAML_SEQUENCE,
                .data_size = sizeof(char *),
                .sequence = {.entry = &yaml_text, .min = 0, .max = TARN_CONF_LIST_MAX}};
            f->data_offset = base + (uint32_t)offsetof(struct yaml_slot, list);
            f->count_offset = base + (uint32_t)offsetof(struct yaml_slot, n);
            f->count_size = sizeof(uint32_t);
        }
        v.flags = CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL;
        f->key = m->keys[i].key;
        f->value = v;
    }
}

static void yaml_schema(struct yaml_load *y)
{
    const struct conf_file_args *a = y->a;

    for (int pass = 0; pass < 2; pass++) {
        bool sections = (pass == 0) == y->sections_first;

        for (size_t i = 0; i < a->n_binds; i++) {
            bool bound = (a->binds[i].from & TARN_CONF_FROM_FILE) != 0;

            if (sections)
                yaml_map_add_section(y, a->binds[i].table, bound);
            else
                yaml_map_add_table(&y->root, a->binds[i].table, bound);
        }
        for (size_t i = 0; a->others && a->others[i]; i++) {
            if (sections)
                yaml_map_add_section(y, a->others[i], false);
            else
                yaml_map_add_table(&y->root, a->others[i], false);
        }
    }
    yaml_map_seal(&y->root);
}

/* " (line 3)", or nothing where libcyaml did not say; returns buf. */
static const char *yaml_line(const struct yaml_load *y, char buf[40])
{
    buf[0] = 0;
    if (y->line > 0)
        (void)snprintf(buf, 40, " (line %lu)", y->line); /* fits */
    return buf;
}

static int yaml_unknown(const struct yaml_load *y, struct tarn_errbuf *e)
{
    struct tarn_suggest near = {.word = y->unknown};
    const struct yaml_map *m = &y->root;
    char quoted[96], key[64], line[40];

    for (size_t i = 0; i < y->root.n; i++)
        if (y->root.keys[i].section && strcmp(y->root.keys[i].key, y->field) == 0)
            m = y->root.keys[i].section;
    for (size_t i = 0; i < m->n; i++) {
        const struct yaml_key *k = &m->keys[i];

        if (!k->p || !(k->p->flags & TARN_CONF_F_HIDDEN))
            tarn_suggest_offer(&near, k->p ? tarn_conf_key(k->p, key) : k->key);
    }
    return tarn_err_set(e, -TARN_E_CONFIG, "%s: there is no key \"%s%s%s\"%s%s%s%s", y->a->path,
                        m == &y->root ? "" : y->field, m == &y->root ? "" : ".",
                        tarn_param_quote(y->unknown, quoted),
                        near.best[0] ? "; did you mean \"" : "", near.best,
                        near.best[0] ? "\"?" : "", yaml_line(y, line));
}

/* libcyaml's words for a value of the wrong form, in ours. */
static const char *yaml_cause(const struct yaml_load *y)
{
    if (strstr(y->cause, "Expecting STRING"))
        return "takes one value, not a list or a map";
    if (strstr(y->cause, "Expecting SEQUENCE"))
        return "takes a list (lines of \"- value\")";
    if (strstr(y->cause, "Expecting MAPPING"))
        return "must be a map of keys (lines of \"key: value\")";
    if (strstr(y->cause, "already seen"))
        return "is given twice";
    return y->cause;
}

static int yaml_failed(const struct yaml_load *y, cyaml_err_t err, struct tarn_errbuf *e)
{
    char line[40];

    if (err == CYAML_ERR_OOM)
        return -TARN_E_NO_MEMORY;
    if (y->unknown[0])
        return yaml_unknown(y, e);
    if (err == CYAML_ERR_ALIAS)
        return tarn_err_set(e, -TARN_E_CONFIG, "%s: anchors and aliases are not taken%s",
                            y->a->path, yaml_line(y, line));
    if (err == CYAML_ERR_LIBYAML_PARSER || !y->cause[0])
        return tarn_err_set(e, -TARN_E_CONFIG, "%s: not YAML: %s%s%s%s", y->a->path,
                            y->cause[0] ? y->cause : cyaml_strerror(err),
                            y->field[0] ? " near " : "", y->field, yaml_line(y, line));
    return tarn_err_set(e, -TARN_E_CONFIG, "%s: %s%s%s%s", y->a->path, y->field,
                        y->field[0] ? ": " : "", yaml_cause(y), yaml_line(y, line));
}

static int yaml_twice(const struct yaml_load *y, const char *key, struct tarn_errbuf *e)
{
    return tarn_err_set(e, -TARN_E_CONFIG, "%s: %s is given twice", y->a->path, key);
}

/* Appends "a, b, c": the tables that have the key. */
static void yaml_add_owners(const struct conf_file_args *a, const char *key, struct tarn_str *out)
{
    size_t n = a->n_binds;

    while (a->others && a->others[n - a->n_binds])
        n++;
    for (size_t i = 0; i < n; i++) {
        const struct tarn_conf_table *t =
            i < a->n_binds ? a->binds[i].table : a->others[i - a->n_binds];
        bool seen = !tarn_conf_find(t, key);

        for (size_t k = 0; k < a->n_binds && k < i; k++)
            seen |= a->binds[k].table == t;
        if (!seen)
            tarn_str_addf(out, "%s%s", out->len ? ", " : "", t->name);
    }
}

/* A key at the top that belongs to several tables. */
static int yaml_shared(const struct yaml_load *y, const struct yaml_key *k, struct tarn_errbuf *e)
{
    struct tarn_str owners = {0};
    int rc;

    yaml_add_owners(y->a, k->key, &owners);
    rc = tarn_err_set(e, -TARN_E_CONFIG,
                      "%s: %s: means several things: write it in the section that is meant, one "
                      "of %s (like \"%s: {%s: ...}\")",
                      y->a->path, k->key, tarn_str_z(&owners), k->table->name, k->key);
    tarn_str_fini(&owners);
    return rc;
}

/* True if a second slot holds the same row: the other spelling, or root and section. */
static bool yaml_given(const struct yaml_slot *s)
{
    return s->scalar || s->list;
}

static bool yaml_row_seen(const struct yaml_map *m, const struct yaml_slot *slots, size_t limit,
                          const struct yaml_key *k)
{
    for (size_t i = 0; i < limit; i++)
        if (m->keys[i].p && m->keys[i].bound && yaml_given(&slots[i]) &&
            tarn_param_is(k->p, m->keys[i].p->name))
            return true;
    return false;
}

/* Hands the keys of one map to the loader. `prefix` is "" or "section.". */
static int yaml_report(struct yaml_load *y, const struct yaml_map *m, const struct yaml_slot *slots,
                       const char *prefix, struct tarn_errbuf *e)
{
    for (size_t i = 0; i < m->n; i++) {
        const struct yaml_key *k = &m->keys[i];
        const struct yaml_slot *s = &slots[i];
        char shown[132], inner[66];
        int rc = 0;

        if (k->shared && yaml_given(s))
            return yaml_shared(y, k, e);
        if (k->section && s->section) {
            (void)snprintf(inner, sizeof(inner), "%s.", k->key); /* fits */
            rc = yaml_report(y, k->section, s->section, inner, e);
        } else if (k->p && k->bound && yaml_given(s)) {
            (void)snprintf(shown, sizeof(shown), "%s%s", prefix, k->key); /* fits */
            if (yaml_row_seen(m, slots, i, k) ||
                (prefix[0] && yaml_row_seen(&y->root, y->slots, y->root.n, k)))
                return yaml_twice(y, shown, e);
            rc = y->a->fn(y->a->arg, k->table, k->p, shown, s->scalar, s->list, s->n, e);
        }
        if (rc < 0)
            return rc;
    }
    return 0;
}

static bool yaml_has_secret(const struct yaml_map *m, const struct yaml_slot *slots)
{
    for (size_t i = 0; i < m->n; i++) {
        if (m->keys[i].section && slots[i].section &&
            yaml_has_secret(m->keys[i].section, slots[i].section))
            return true;
        if (m->keys[i].p && (m->keys[i].p->flags & TARN_CONF_F_SECRET) && yaml_given(&slots[i]))
            return true;
    }
    return false;
}

static int yaml_load_once(const struct conf_file_args *a, const char *text, size_t len, mode_t mode,
                          bool sections_first, bool *ret_retry, struct tarn_errbuf *e)
{
    struct yaml_load y = {.a = a, .sections_first = sections_first};
    cyaml_config_t config = {.log_fn = yaml_log,
                             .log_ctx = &y,
                             .mem_fn = yaml_mem,
                             .log_level = CYAML_LOG_WARNING,
                             .flags = CYAML_CFG_NO_ALIAS};
    cyaml_schema_value_t root;
    cyaml_data_t *data = NULL;
    cyaml_err_t err;
    int rc = 0;

    yaml_schema(&y);
    root = (cyaml_schema_value_t){.type = CYAML_MAPPING,
                                  .flags = CYAML_FLAG_POINTER_NULL,
                                  .data_size = (uint32_t)(y.root.n * sizeof(struct yaml_slot)),
                                  .mapping = {.fields = y.root.fields}};
    err = cyaml_load_data((const uint8_t *)text, len, &config, &root, &data, NULL);
    y.slots = data;
    *ret_retry = err != CYAML_OK && y.clash;
    if (err != CYAML_OK)
        rc = yaml_failed(&y, err, e);
    else if (y.more)
        rc = tarn_err_set(e, -TARN_E_CONFIG, "%s: holds more than one document", a->path);
    else if (y.slots && (mode & 0177) && yaml_has_secret(&y.root, y.slots))
        rc = tarn_err_set(e, -TARN_E_CONFIG,
                          "%s: holds a secret but has mode %04o; it must be 0600 (chmod 600)",
                          a->path, (unsigned)(mode & 07777));
    else if (y.slots)
        rc = yaml_report(&y, &y.root, y.slots, "", e);
    if (data)
        (void)cyaml_free(&config, &root, data, 0); /* fails only for bad arguments */
    yaml_map_fini(&y.root);
    return rc;
}

/* The whole file; *ret_text is the caller's. */
static int yaml_slurp(const char *path, char **ret_text, size_t *ret_len, mode_t *ret_mode,
                      struct tarn_errbuf *e)
{
    TARN_AUTO_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat st;
    char *text;
    size_t n = 0;

    if (fd < 0 || fstat(fd, &st) < 0)
        return tarn_err_set(e, errno == ENOENT || errno == ENOTDIR ? -TARN_E_CONFIG : -errno,
                            "%s: %s", path, tarn_strerror(errno));
    if (!S_ISREG(st.st_mode))
        return tarn_err_set(e, -TARN_E_CONFIG, "%s: not a regular file", path);
    text = malloc(TARN_CONF_FILE_MAX + 1);
    if (!text)
        return -TARN_E_NO_MEMORY;
    while (n <= TARN_CONF_FILE_MAX) {
        ssize_t got = read(fd, text + n, TARN_CONF_FILE_MAX + 1 - n);

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            int rc = tarn_err_set(e, -errno, "%s: %s", path, tarn_strerror(errno));

            free(text);
            return rc;
        }
        if (got == 0)
            break;
        n += (size_t)got;
    }
    if (n > TARN_CONF_FILE_MAX) {
        free(text);
        return tarn_err_set(e, -TARN_E_TOO_BIG, "%s: larger than %u bytes", path,
                            TARN_CONF_FILE_MAX);
    }
    *ret_text = text;
    *ret_len = n;
    *ret_mode = st.st_mode;
    return 0;
}

int tarn_conf_file_read(const struct conf_file_args *a, struct tarn_errbuf *e)
{
    struct tarn_errbuf second = {{0}};
    char *text = NULL;
    size_t len = 0;
    mode_t mode = 0;
    bool retry;
    int rc = yaml_slurp(a->path, &text, &len, &mode, e);

    if (rc < 0)
        return rc;
    TARN_ASSERT(text != NULL);
    rc = yaml_load_once(a, text, len, mode, false, &retry, e);
    if (rc < 0 && retry) {
        int again = yaml_load_once(a, text, len, mode, true, &retry, &second);

        /* The second reading counts if it got further than the file's form. */
        if (again == 0 || !retry) {
            rc = again;
            if (rc < 0 && e)
                *e = second;
        }
    }
    explicit_bzero(text, len);
    free(text);
    return rc;
}
