/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Listings of local directories in key order, page by page. The kernel gives names in any order, so
 * a directory is read once, the names sorted and kept (a snap); pages then stat what they show.
 * Names of directories are kept with their '/', which makes key order plain byte order.
 *
 * A snap has a size limit. When a directory does not fit, the larger half of the names collected so
 * far is dropped whenever the limit is reached, so that the smallest ones remain; the snap then
 * covers keys up to `bound` and the directory is read again for those behind it. Each reading
 * yields at least half a limit of names, so paging is not quadratic.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/assert.h"
#include "lib/base/limits.h"
#include "lib/base/mem.h"
#include "lib/base/name.h"
#include "ufs/file_priv.h"
#include "ufs/ufs.h"

#define LIST_BEAT 512u /* names between two signs of life */

struct snap_row {
    uint32_t off; /* of the name in the arena, NUL-terminated, '/' behind a directory's */
    uint16_t len; /* its bytes */
    uint16_t dir; /* 1 for a directory */
};

struct tarn_file_snap {
    char *arena;           /* names; arena_len of arena_cap */
    size_t arena_len;      /* bytes used */
    size_t arena_cap;      /* bytes allocated */
    struct snap_row *rows; /* count of cap, sorted once the scan is over */
    size_t count, cap;     /* rows */
    size_t pos;            /* next row to show */
    bool complete;         /* nothing follows the last row */
    char *bound;           /* last key kept, once something was dropped; NULL before */
};

void tarn_file_snap_free(struct tarn_file_snap **sp)
{
    struct tarn_file_snap *s = *sp;

    *sp = NULL;
    if (!s)
        return;
    free(s->arena);
    free(s->rows);
    free(s->bound);
    free(s);
}

void tarn_file_page_fini(struct tarn_file_page *p)
{
    free(p->entries);
    free(p->to_key);
    tarn_str_fini(&p->skipped);
    *p = (struct tarn_file_page){0};
}

/* ---- scanning ------------------------------------------------------------------------------- */

static int snap_compare(const void *a, const void *b, void *arena)
{
    const struct snap_row *x = a, *y = b;

    return strcmp((const char *)arena + x->off, (const char *)arena + y->off);
}

static void snap_sort(struct tarn_file_snap *s)
{
    if (s->count > 1)
        qsort_r(s->rows, s->count, sizeof(*s->rows), snap_compare, s->arena);
}

/* Keeps the smaller half. */
static int snap_halve(struct tarn_file_snap *s)
{
    size_t keep = s->count / 2, len = 0;
    char *arena;

    TARN_ASSERT(keep > 0);
    arena = malloc(s->arena_cap);
    if (!arena)
        return -TARN_E_NO_MEMORY;
    snap_sort(s);
    for (size_t i = 0; i < keep; i++) {
        memcpy(arena + len, s->arena + s->rows[i].off, (size_t)s->rows[i].len + 1);
        s->rows[i].off = (uint32_t)len;
        len += (size_t)s->rows[i].len + 1;
    }
    free(s->arena);
    s->arena = arena;
    s->arena_len = len;
    s->count = keep;
    free(s->bound);
    s->bound = tarn_xstrdup(arena + s->rows[keep - 1].off);
    return 0;
}

static int snap_grow(void **p, size_t *cap, size_t size, size_t need)
{
    size_t more = *cap ? *cap : 256;
    void *q;

    while (more < need)
        more *= 2;
    q = realloc(*p, more * size);
    if (!q)
        return -TARN_E_NO_MEMORY;
    *p = q;
    *cap = more;
    return 0;
}

/* Adds `key` ('/'-terminated for a directory) if it lies in what is still wanted. */
static int snap_add(struct tarn_file_snap *s, const struct tarn_file_list_args *a, const char *key,
                    size_t n, bool dir)
{
    int rc = 0;

    if (strcmp(key, a->from_key) <= 0 || (s->bound && strcmp(key, s->bound) > 0))
        return 0;
    if (s->arena_len + n + 1 + (s->count + 1) * sizeof(*s->rows) > a->max_bytes && s->count >= 2) {
        rc = snap_halve(s);
        if (rc < 0 || strcmp(key, s->bound) > 0)
            return rc;
    }
    if (s->arena_len + n + 1 > s->arena_cap) {
        void *p = s->arena;

        rc = snap_grow(&p, &s->arena_cap, 1, s->arena_len + n + 1);
        s->arena = p;
    }
    if (rc == 0 && s->count == s->cap) {
        void *p = s->rows;

        rc = snap_grow(&p, &s->cap, sizeof(*s->rows), s->count + 1);
        s->rows = p;
    }
    if (rc < 0)
        return rc;
    memcpy(s->arena + s->arena_len, key, n + 1);
    s->rows[s->count++] = (struct snap_row){(uint32_t)s->arena_len, (uint16_t)n, dir};
    s->arena_len += n + 1;
    return 0;
}

/*
 * fstatat(2) of a name: 0, or negative errno. -ENXIO when it is this name alone that cannot be had,
 * like a dead file system that is mounted there: it must not make its whole directory unreadable.
 */
static int list_stat(int dir_fd, const char *name, struct stat *ret)
{
    struct stat here;
    int rc;

    if (fstatat(dir_fd, name, ret, AT_SYMLINK_NOFOLLOW) == 0)
        return 0;
    rc = -errno;
    if ((rc == -EACCES || rc == -ENOTCONN) && fstatat(dir_fd, ".", &here, 0) == 0)
        return -ENXIO;
    return rc;
}

/* 1 for a directory, 0 for another entry, negative errno; ENOENT when it vanished. */
static int snap_is_dir(int dir_fd, const struct dirent *d)
{
    struct stat st;
    int rc;

    if (d->d_type != DT_UNKNOWN)
        return d->d_type == DT_DIR;
    rc = list_stat(dir_fd, d->d_name, &st);
    if (rc < 0)
        return rc == -ENXIO ? 0 : rc; /* told of when it is its turn */
    return S_ISDIR(st.st_mode);
}

static int snap_read(struct tarn_file_snap *s, const struct tarn_file_list_args *a, DIR *d)
{
    char key[TARN_NAME_MAX + 2];
    unsigned seen = 0;

    for (;;) {
        struct dirent *e;
        size_t n;
        int dir, rc;

        errno = 0;
        e = readdir(d); /* a stream of our own */
        if (!e)
            return -errno;
        n = strlen(e->d_name);
        if (++seen % LIST_BEAT == 0) {
            atomic_fetch_add_explicit(a->beats, 1, memory_order_relaxed);
            if (atomic_load_explicit(a->stop, memory_order_relaxed))
                return -TARN_E_CANCELLED;
        }
        if (!tarn_name_ok(e->d_name, n))
            continue; /* "." and ".." */
        dir = snap_is_dir(dirfd(d), e);
        if (dir == -ENOENT)
            continue;
        if (dir < 0)
            return dir;
        memcpy(key, e->d_name, n);
        if (dir)
            key[n++] = '/';
        key[n] = 0;
        rc = snap_add(s, a, key, n, dir);
        if (rc < 0)
            return rc;
    }
}

/* Reads the directory behind `dir_fd` from a->from_key on. */
static int snap_scan(const struct tarn_file_list_args *a, int dir_fd, struct tarn_file_snap **ret)
{
    struct tarn_file_snap *s = tarn_xnew(struct tarn_file_snap);
    int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), rc;
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;

    if (!d) {
        rc = -errno;
        if (fd >= 0)
            (void)close(fd); /* read only */
        free(s);
        return rc;
    }
    rc = snap_read(s, a, d);
    (void)closedir(d); /* read only */
    if (rc < 0) {
        tarn_file_snap_free(&s);
        return rc;
    }
    snap_sort(s);
    s->complete = !s->bound;
    *ret = s;
    return 0;
}

/* ---- pages ---------------------------------------------------------------------------------- */

/* An entry in the making: its texts are offsets until their memory stops moving. */
struct build_entry {
    struct tarn_ufs_entry e; /* all but name and target */
    size_t name_off;         /* in texts */
    size_t target_off;       /* in texts; SIZE_MAX for none */
};

struct page_build {
    const struct tarn_file_list_args *a; /* what was asked */
    int dir_fd;                          /* the directory */
    struct build_entry *entries;         /* a->max_entries */
    size_t count;                        /* filled */
    struct tarn_str texts;               /* names and targets */
    struct tarn_str skipped;             /* names left out */
};

static size_t build_text(struct page_build *b, const char *p, size_t n)
{
    size_t off = b->texts.len;

    tarn_str_add(&b->texts, p, n);
    tarn_str_addc(&b->texts, 0);
    return off;
}

static void build_skip(struct page_build *b, const char *name)
{
    tarn_str_add(&b->skipped, name, strlen(name) + 1);
}

/* The text of a symlink; SIZE_MAX when it vanished or is too long. */
static size_t build_target(struct page_build *b, const char *name)
{
    char target[PATH_MAX];
    ssize_t n = readlinkat(b->dir_fd, name, target, sizeof(target));

    return n > 0 && n < (ssize_t)sizeof(target) ? build_text(b, target, (size_t)n) : SIZE_MAX;
}

/* One row of the snap as it is now. What vanished, or is of another kind now, is left to the next
 * listing. */
static int build_row(struct page_build *b, const struct tarn_file_snap *s,
                     const struct snap_row *row)
{
    struct build_entry *e = &b->entries[b->count];
    size_t n = (size_t)row->len - row->dir;
    char name[TARN_NAME_MAX + 1];
    struct stat st;
    int rc;

    TARN_ASSERT(n <= TARN_NAME_MAX && b->count < b->a->max_entries);
    memcpy(name, s->arena + row->off, n);
    name[n] = 0;
    if (strlen(b->a->dir) + n + 1 > TARN_KEY_MAX) {
        build_skip(b, name);
        return 0;
    }
    rc = list_stat(b->dir_fd, name, &st);
    if (rc == -ENXIO)
        build_skip(b, name);
    if (rc < 0)
        return rc == -ENXIO || rc == -ENOENT ? 0 : rc;
    if (!S_ISDIR(st.st_mode) != !row->dir)
        return 0;
    *e = (struct build_entry){.e = {.name_len = n}, .target_off = SIZE_MAX};
    if (!tarn_file_attr(&st, &e->e.attr)) {
        build_skip(b, name);
        return 0;
    }
    if (e->e.attr.type == TARN_UFS_SYMLINK) {
        e->target_off = build_target(b, name);
        if (e->target_off == SIZE_MAX)
            return 0;
    }
    e->name_off = build_text(b, name, n);
    b->count++;
    return 0;
}

/* Makes one block of entries and texts. */
static int build_finish(struct page_build *b, struct tarn_file_page *ret)
{
    size_t head = b->count * sizeof(struct tarn_ufs_entry);
    char *block = malloc(head + b->texts.len + 1), *texts;
    struct tarn_ufs_entry *entries = (struct tarn_ufs_entry *)(void *)block;

    if (!block)
        return -TARN_E_NO_MEMORY;
    texts = block + head;
    if (b->texts.len)
        memcpy(texts, b->texts.p, b->texts.len);
    for (size_t i = 0; i < b->count; i++) {
        entries[i] = b->entries[i].e;
        entries[i].name = texts + b->entries[i].name_off;
        if (b->entries[i].target_off != SIZE_MAX)
            entries[i].target = texts + b->entries[i].target_off;
    }
    ret->entries = entries;
    ret->count = b->count;
    ret->skipped = b->skipped;
    b->skipped = (struct tarn_str){0};
    return 0;
}

/* Shows rows until the page is full or the snap is used up; *ret_last is the last row looked at. */
static int build_rows(struct page_build *b, struct tarn_file_snap *s, const char **ret_last)
{
    unsigned looked = 0;
    int rc = 0;

    TARN_ASSERT(s != NULL);
    while (rc == 0 && s->pos < s->count && b->count < b->a->max_entries) {
        const struct snap_row *row = &s->rows[s->pos++];

        rc = build_row(b, s, row);
        *ret_last = s->arena + row->off;
        if (++looked % LIST_BEAT == 0) {
            atomic_fetch_add_explicit(b->a->beats, 1, memory_order_relaxed);
            if (atomic_load_explicit(b->a->stop, memory_order_relaxed))
                rc = -TARN_E_CANCELLED;
        }
    }
    return rc;
}

static int list_page(const struct tarn_file_list_args *a, int dir_fd, struct tarn_file_snap **snap,
                     struct tarn_file_page *ret)
{
    struct page_build b = {.a = a, .dir_fd = dir_fd};
    const char *last = NULL;
    int rc = 0;

    if (!*snap || (*snap)->pos == (*snap)->count) {
        tarn_file_snap_free(snap);
        rc = snap_scan(a, dir_fd, snap);
    }
    if (rc == 0) {
        b.entries = calloc(a->max_entries, sizeof(*b.entries));
        rc = b.entries ? build_rows(&b, *snap, &last) : -TARN_E_NO_MEMORY;
    }
    if (rc == 0)
        rc = build_finish(&b, ret);
    if (rc == 0 && (!(*snap)->complete || (*snap)->pos < (*snap)->count))
        ret->to_key = tarn_xstrdup(last ? last : a->from_key);
    if (rc < 0 || !ret->to_key)
        tarn_file_snap_free(snap);
    free(b.entries);
    tarn_str_fini(&b.texts);
    tarn_str_fini(&b.skipped);
    return rc;
}

int tarn_file_list(const struct tarn_file_list_args *a, struct tarn_file_snap **snap,
                   struct tarn_file_page *ret)
{
    char *rel = tarn_xstrdup(a->dir);
    TARN_AUTO_FD int fd = -1;
    size_t n = strlen(rel);
    int rc;

    TARN_ASSERT(a->max_entries > 0 && a->max_bytes >= 4096 && a->max_bytes <= UINT32_MAX);
    *ret = (struct tarn_file_page){0};
    if (n && rel[n - 1] == '/')
        rel[n - 1] = 0;
    rc = tarn_file_open(a->root, rel, O_RDONLY | O_DIRECTORY, &fd);
    free(rel);
    if (rc == 0)
        rc = list_page(a, fd, snap, ret);
    else
        tarn_file_snap_free(snap);
    if (rc < 0)
        tarn_file_page_fini(ret);
    return rc;
}
