/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From a listing of keys to a page of a directory: names out of keys, in key order, those that
 * cannot be names left out, a file that has a directory beside it left out, what an earlier page
 * had left out. start-after on a common prefix brings that prefix again: whatever is not behind
 * `from_key` is dropped.
 */
#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/mem.h"
#include "lib/base/name.h"
#include "ufs/s3_priv.h"
#include "ufs/ufs_priv.h"

/* One key of the answer, relative to the directory; directories keep their '/'. Borrows the arena.
 */
struct page_row {
    const char *p;               /* text */
    size_t n;                    /* bytes */
    const struct tarn_s3_key *k; /* NULL: dropped */
};

static int page_compare(const char *a, size_t n, const char *b, size_t m)
{
    int c = memcmp(a, b, TARN_MIN(n, m));

    return c ? c : (n > m) - (n < m);
}

static int page_row_compare(const void *a, const void *b)
{
    const struct page_row *x = a, *y = b;

    return page_compare(x->p, x->n, y->p, y->n);
}

/* What to do with one row: keep, leave out silently, or count as skipped. */
enum page_verdict { PAGE_KEEP, PAGE_DROP, PAGE_SKIP };

static enum page_verdict page_judge(const struct tarn_ufs_list *l, const struct page_row *row)
{
    size_t n = row->n;

    if (n == 0 && !row->k->prefix)
        return PAGE_DROP; /* the directory's own marker */
    if (page_compare(row->p, n, l->from_key, strlen(l->from_key)) <= 0)
        return PAGE_DROP;
    if (row->k->prefix)
        n--;
    return tarn_name_ok(row->p, n) ? PAGE_KEEP : PAGE_SKIP;
}

/* Fills `rows` in key order; `ret_last` is the greatest row of all, also of those left out. */
static int page_rows(struct tarn_ufs_list *l, const char *full_dir, const struct tarn_s3_listing *x,
                     bool follows, struct page_row *rows, size_t *ret_count,
                     struct page_row *ret_last)
{
    size_t dir_len = strlen(full_dir), from_len = strlen(l->from_key), count = 0;
    bool sorted = true;

    for (size_t i = 0; i < x->count; i++) {
        const struct tarn_s3_key *k = &x->keys[i];
        struct page_row row = {x->arena + k->key_off + dir_len, k->key_len - dir_len, k};
        const char *slash;

        if (k->key_len < dir_len || memcmp(x->arena + k->key_off, full_dir, dir_len) != 0)
            return -TARN_E_UFS_LIED;
        slash = memchr(row.p, '/', row.n);
        if (slash ? slash != row.p + row.n - 1 || !k->prefix : k->prefix)
            return -TARN_E_UFS_LIED; /* the delimiter was not obeyed */
        if (follows && row.n && page_compare(row.p, row.n, l->from_key, from_len) < 0)
            return -TARN_E_UFS_LIED; /* its order is not ours: names would be missing */
        if (!ret_last->k || page_row_compare(&row, ret_last) > 0)
            *ret_last = row;
        switch (page_judge(l, &row)) {
        case PAGE_KEEP:
            sorted = sorted && (count == 0 || page_row_compare(&rows[count - 1], &row) < 0);
            rows[count++] = row;
            break;
        case PAGE_SKIP:
            tarn_ufs_list_skip(l, row.p, row.n);
            break;
        case PAGE_DROP:
        default:
            break;
        }
    }
    if (!sorted)
        qsort(rows, count, sizeof(*rows), page_row_compare);
    *ret_count = count;
    return 0;
}

/* Drops repeats, and a file `a` where there is a directory `a/`. Returns the bytes of the names
 * kept. */
static size_t page_thin(struct page_row *rows, size_t count)
{
    size_t bytes = 0;

    for (size_t i = 0; i < count; i++) {
        struct page_row file = {rows[i].p, rows[i].n - 1, NULL}, *twin;

        if (i && page_row_compare(&rows[i - 1], &rows[i]) == 0) {
            rows[i].k = NULL;
        } else if (rows[i].k->prefix) {
            twin = bsearch(&file, rows, i, sizeof(*rows), page_row_compare);
            if (twin)
                twin->k = NULL;
        }
    }
    for (size_t i = 0; i < count; i++)
        if (rows[i].k)
            bytes += rows[i].n + 1;
    return bytes;
}

static void page_entry(const struct tarn_s3_listing *x, const struct page_row *row, char *name,
                       struct tarn_ufs_entry *e)
{
    size_t n = row->n - row->k->prefix;

    memcpy(name, row->p, n);
    name[n] = 0;
    *e = (struct tarn_ufs_entry){.name = name, .name_len = n};
    e->attr.type = row->k->prefix ? TARN_UFS_DIR : TARN_UFS_FILE;
    if (row->k->prefix)
        return;
    TARN_ASSERT(row->k->etag_len <= TARN_ETAG_MAX);
    e->attr.version.size_bytes = row->k->size_bytes;
    e->attr.version.mtime_ns = row->k->mtime_ns;
    memcpy(e->attr.version.etag, x->arena + row->k->etag_off, row->k->etag_len);
}

/* One block: the entries, then their names. */
static int page_fill(struct tarn_ufs_list *l, const struct tarn_s3_listing *x,
                     struct page_row *rows, size_t count)
{
    size_t bytes = page_thin(rows, count);
    char *names;

    l->entries = malloc(count * sizeof(*l->entries) + bytes + 1);
    if (!l->entries)
        return -TARN_E_NO_MEMORY;
    names = (char *)(l->entries + count);
    for (size_t i = 0; i < count; i++) {
        if (!rows[i].k)
            continue;
        page_entry(x, &rows[i], names, &l->entries[l->count++]);
        names += rows[i].n + 1;
    }
    return 0;
}

static int page_position(struct tarn_ufs_list *l, const struct tarn_s3_listing *x,
                         const struct page_row *last)
{
    bool moved = last->k && page_compare(last->p, last->n, l->from_key, strlen(l->from_key)) > 0;
    bool fresh = *x->token && (!l->token || strcmp(l->token, x->token) != 0);

    free(l->to_key);
    l->to_key = NULL;
    l->complete = !x->truncated;
    if (x->truncated && !moved && !fresh)
        return -TARN_E_UFS_LIED; /* an answer that leads nowhere */
    free(l->token);
    l->token = x->truncated && *x->token ? tarn_xstrdup(x->token) : NULL;
    if (x->truncated)
        l->to_key =
            moved ? tarn_xasprintf("%.*s", (int)last->n, last->p) : tarn_xstrdup(l->from_key);
    return 0;
}

bool tarn_s3_listing_has_prefix(const struct tarn_s3_listing *x, const char *prefix)
{
    size_t n = strlen(prefix);

    for (size_t i = 0; i < x->count; i++)
        if (x->keys[i].key_len < n || memcmp(x->arena + x->keys[i].key_off, prefix, n) != 0)
            return false;
    return true;
}

int tarn_s3_page(struct tarn_ufs_list *l, const char *full_dir, const struct tarn_s3_listing *x,
                 bool follows, struct tarn_errbuf *err)
{
    struct page_row last = {0}, *rows = calloc(x->count + 1, sizeof(*rows));
    size_t count = 0;
    int rc;

    TARN_ASSERT(l->from_key && !l->entries && l->count == 0);
    if (!rows)
        return tarn_err_set(err, -TARN_E_NO_MEMORY, "no memory for a listing of %zu keys",
                            x->count);
    rc = page_rows(l, full_dir, x, follows, rows, &count, &last);
    if (rc == 0)
        rc = page_position(l, x, &last);
    if (rc == 0)
        rc = page_fill(l, x, rows, count);
    free(rows);
    if (rc == -TARN_E_UFS_LIED)
        (void)tarn_err_set(err, rc,
                           "the listing has keys that were not asked for, is not in the order of "
                           "keys, or does not advance"); /* rc is known */
    return rc;
}
