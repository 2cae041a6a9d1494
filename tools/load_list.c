/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/load_list.h"

#include <inttypes.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/limits.h"
#include "lib/base/mem.h"
#include "lib/base/name.h"
#include "lib/base/units.h"

void load_list_init(struct load_list *l, const char *name, const char *base, load_list_fn *fn,
                    void *arg)
{
    TARN_ASSERT(base[0] == '/');
    *l = (struct load_list){.name = name, .base = base, .fn = fn, .arg = arg};
}

void load_list_fini(struct load_list *l)
{
    tarn_str_fini(&l->part);
}

static int list_bad(const struct load_list *l, struct tarn_errbuf *err, const char *what)
{
    return tarn_err_set(err, -TARN_E_USAGE, "%s:%" PRIu32 ": %s", l->name, l->line, what);
}

/* "OFFSET\tLENGTH" */
static int list_range(const struct load_list *l, char *text, struct load_list_item *item,
                      struct tarn_errbuf *err)
{
    char *tab = strchr(text, '\t');

    if (!tab)
        return list_bad(l, err, "must be PATH, or PATH<tab>OFFSET<tab>LENGTH");
    *tab = 0;
    if (tarn_parse_u64(text, &item->offset) < 0 || item->offset > TARN_FILE_MAX)
        return list_bad(l, err, "the offset must be a number of bytes");
    if (tarn_parse_u64(tab + 1, &item->length) < 0 || item->length > TARN_FILE_MAX)
        return list_bad(l, err, "the length must be a number of bytes");
    if (item->length == 0)
        return list_bad(l, err, "the length must not be 0");
    return 0;
}

static int list_path(const struct load_list *l, const char *text, char ret[TARN_PATH_MAX],
                     struct tarn_errbuf *err)
{
    struct tarn_str joined = {0};
    int rc;

    if (text[0] != '/') {
        tarn_str_adds(&joined, l->base);
        tarn_str_addc(&joined, '/');
    }
    tarn_str_adds(&joined, text);
    rc = tarn_path_normalize(tarn_str_z(&joined), ret);
    tarn_str_fini(&joined);
    if (rc == -TARN_E_NAME_BAD)
        return list_bad(l, err, "the path must not contain \"..\"");
    return rc < 0 ? list_bad(l, err, tarn_strerror(rc)) : 0;
}

/* A whole line, NUL-terminated and ours to change. */
static int list_line(struct load_list *l, char *text, size_t len, struct tarn_errbuf *err)
{
    struct load_list_item item = {0};
    char path[TARN_PATH_MAX];
    char *tab;
    int rc = 0;

    if (l->line == UINT32_MAX)
        return list_bad(l, err, "too many lines");
    item.line = ++l->line;
    if (len > 0 && text[len - 1] == '\r')
        text[--len] = 0;
    if (memchr(text, 0, len))
        return list_bad(l, err, "a NUL byte: this is no list of paths");
    if (text[0] == '#' || text[strspn(text, " \t")] == 0)
        return 0;
    tab = strchr(text, '\t');
    if (tab) {
        *tab = 0;
        rc = list_range(l, tab + 1, &item, err);
    }
    if (rc == 0 && !text[0])
        rc = list_bad(l, err, "the path is missing");
    if (rc == 0)
        rc = list_path(l, text, path, err);
    if (rc < 0)
        return rc;
    item.path = path;
    l->items++;
    return l->fn(l->arg, &item);
}

int load_list_feed(struct load_list *l, const void *p, size_t n, struct tarn_errbuf *err)
{
    const char *at = p, *end = at + n;

    while (at < end) {
        const char *nl = memchr(at, '\n', (size_t)(end - at));
        size_t len = (size_t)((nl ? nl : end) - at);
        int rc;

        if (l->part.len + len > TARN_LOAD_LIST_LINE_MAX) {
            l->line++;
            return list_bad(l, err, "the line is too long");
        }
        tarn_str_add(&l->part, at, len);
        if (!nl)
            return 0;
        at = nl + 1;
        tarn_str_addc(&l->part, 0); /* the buffer exists, also for an empty line */
        rc = list_line(l, l->part.p, l->part.len - 1, err);
        tarn_str_reset(&l->part);
        if (rc < 0)
            return rc;
    }
    return 0;
}

int load_list_end(struct load_list *l, struct tarn_errbuf *err)
{
    int rc = l->part.len > 0 ? load_list_feed(l, "\n", 1, err) : 0;

    if (rc == 0 && l->items == 0)
        return tarn_err_set(err, -TARN_E_USAGE, "%s: there is no path in it", l->name);
    return rc;
}
