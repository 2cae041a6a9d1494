/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ls: names of a directory. Up to LS_SORT_MAX entries are kept and sorted by their bytes; a larger
 * directory is printed as it comes. With -R the directories found wait in a list of their own, so
 * that no page of an outer directory is kept meanwhile.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "lib/base/mem.h"
#include "lib/base/name.h"
#include "lib/base/units.h"
#include "tools/cli.h"

#define LS_SORT_MAX 100000u
#define LS_STREAM   1024u /* entries printed at a time, beyond that */

struct cli_ls {
#define TARN_PARAM TARN_CONF_FIELD
#include "tools/ls_params.def"
#undef TARN_PARAM
};
#define TARN_CONF_STRUCT struct cli_ls
static const struct tarn_conf_param ls_rows[] = {
#define TARN_PARAM TARN_CONF_ROW
#include "tools/ls_params.def"
#undef TARN_PARAM
};
const struct tarn_conf_table cli_ls_table = TARN_CONF_TABLE("ls", "tarn ls", ls_rows);

struct ls_entry {
    char *name;            /* owned */
    size_t len;            /* bytes of it */
    struct tarn_attr attr; /* as listed */
};

/* A directory that waits for its turn. */
struct ls_dir {
    struct ls_dir *next; /* after it */
    char *path;          /* owned */
    tarn_ino_t ino;      /* the directory */
};

struct ls {
    struct cli *c;
    const struct cli_ls *p;
    const char *path;         /* of the directory being listed */
    struct ls_entry *entries; /* n of them, cap allocated */
    size_t n, cap;
    bool streaming;       /* too many to sort: printed as they come */
    struct ls_dir *dirs;  /* that wait */
    struct ls_dir **tail; /* where the next one of this directory goes */
};

static void ls_join(struct tarn_str *out, const char *dir, const char *name, size_t len)
{
    tarn_str_reset(out);
    tarn_str_adds(out, dir[1] ? dir : "");
    if (len > 0 || !dir[1])
        tarn_str_addc(out, '/');
    tarn_str_add(out, name, len);
}

static void ls_mode(const struct tarn_attr *a, char buf[11])
{
    static const char bits[] = "rwxrwxrwx";

    buf[0] = a->type == TARN_TYPE_DIR ? 'd' : a->type == TARN_TYPE_SYMLINK ? 'l' : '-';
    for (unsigned i = 0; i < 9; i++)
        buf[i + 1] = a->mode & (0400u >> i) ? bits[i] : '-';
    buf[10] = 0;
}

static int ls_put_json(struct ls *l, const char *path, const char *name, size_t len,
                       const struct tarn_attr *a)
{
    static const char *const types[] = {"", "file", "directory", "symlink"};
    char mode[8], time[32];
    json_t *j = json_object();

    (void)snprintf(mode, sizeof(mode), "%04o", a->mode & 07777u); /* fits */
    cli_json_set(j, "path", path, strlen(path));
    cli_json_set(j, "name", name, len);
    (void)json_object_update_new(
        j, json_pack("{s:s, s:I, s:s, s:I, s:I, s:s, s:I, s:I}", "type", types[a->type], "size",
                     (json_int_t)a->size_bytes, "mode", mode, "uid", (json_int_t)a->uid, "gid",
                     (json_int_t)a->gid, "mtime", tarn_format_time(a->mtime_ns, time), "ino",
                     (json_int_t)a->ino.v, "version", (json_int_t)a->version));
    cli_json(j);
    return cli_out_check(l->c);
}

/* " -> TARGET" behind a symlink's name. */
static int ls_put_target(struct ls *l, const struct tarn_attr *a)
{
    struct tarn_client_op op = {.kind = TARN_CLIENT_READLINK, .ino = a->ino};
    const Tarn__Wire__ReadlinkResponse *resp;
    int rc = cli_op(l->c, &op, l->path);

    if (rc < 0)
        return rc;
    resp = (const Tarn__Wire__ReadlinkResponse *)op.resp;
    (void)fputs(" -> ", stdout); /* main() checks the stream */
    cli_print_name(l->c, (const char *)resp->target.data, resp->target.len);
    protobuf_c_message_free_unpacked(op.resp, NULL);
    return 0;
}

static int ls_put(struct ls *l, const char *name, size_t len, const struct tarn_attr *a)
{
    struct tarn_str path = {0};
    char mode[11], time[32];
    int rc = 0;

    if (l->c->common.json) {
        ls_join(&path, l->path, name, len);
        rc = ls_put_json(l, tarn_str_z(&path), name, len, a);
        tarn_str_fini(&path);
        return rc;
    }
    if (l->p->details) {
        ls_mode(a, mode);
        (void)printf("%s %6u %6u %14" PRIu64 " %s ", mode, a->uid, a->gid, a->size_bytes,
                     tarn_format_time(a->mtime_ns, time));
    }
    cli_print_name(l->c, name, len);
    if (l->p->details && a->type == TARN_TYPE_SYMLINK)
        rc = ls_put_target(l, a);
    (void)putchar('\n');
    return rc == 0 ? cli_out_check(l->c) : rc;
}

static int ls_compare(const void *a, const void *b)
{
    const struct ls_entry *x = a, *y = b;
    int d = memcmp(x->name, y->name, TARN_MIN(x->len, y->len));

    return d ? d : (x->len > y->len) - (x->len < y->len);
}

static void ls_later(struct ls *l, const char *name, size_t len, tarn_ino_t ino)
{
    struct ls_dir *d = tarn_xnew(struct ls_dir);
    struct tarn_str path = {0};

    ls_join(&path, l->path, name, len);
    d->path = tarn_str_detach(&path);
    d->ino = ino;
    d->next = *l->tail;
    *l->tail = d;
    l->tail = &d->next;
}

/* Prints what was kept, in order. */
static int ls_flush(struct ls *l)
{
    int rc = 0;

    if (!l->streaming && l->n > 1)
        qsort(l->entries, l->n, sizeof(*l->entries), ls_compare);
    for (size_t i = 0; i < l->n; i++) {
        struct ls_entry *e = &l->entries[i];

        if (rc == 0)
            rc = ls_put(l, e->name, e->len, &e->attr);
        if (l->p->recursive && e->attr.type == TARN_TYPE_DIR)
            ls_later(l, e->name, e->len, e->attr.ino);
        free(e->name);
    }
    l->n = 0;
    return rc;
}

static int ls_take(void *arg, const char *name, size_t len, const struct tarn_attr *attr)
{
    struct ls *l = arg;
    struct ls_entry *e;
    int rc;

    if (!l->streaming && l->n == LS_SORT_MAX) {
        l->streaming = true;
        rc = ls_flush(l);
        if (rc < 0)
            return rc;
    }
    if (l->n == l->cap) {
        l->cap = l->cap ? l->cap * 2 : 256;
        l->entries = tarn_xrealloc(l->entries, l->cap * sizeof(*l->entries));
    }
    e = &l->entries[l->n++];
    e->name = tarn_xcalloc(1, len + 1);
    memcpy(e->name, name, len);
    e->len = len;
    e->attr = *attr;
    return l->streaming && l->n == LS_STREAM ? ls_flush(l) : 0;
}

static int ls_dir(struct ls *l, const char *path, tarn_ino_t ino)
{
    int rc;

    l->path = path;
    l->tail = &l->dirs;
    l->streaming = false;
    rc = cli_each_entry(l->c, ino, path, ls_take, l);
    if (rc == 0)
        return ls_flush(l);
    for (size_t i = 0; i < l->n; i++)
        free(l->entries[i].name);
    l->n = 0;
    return rc;
}

static int ls_tree(struct ls *l, const char *path, tarn_ino_t ino)
{
    bool headed = l->p->recursive && !l->c->common.json;
    int rc;

    if (headed)
        (void)printf("%s:\n", path); /* main() checks the stream, here and below */
    rc = ls_dir(l, path, ino);
    while (l->dirs) {
        struct ls_dir *d = l->dirs;

        l->dirs = d->next;
        if (rc == 0) {
            if (headed) {
                (void)putchar('\n');
                cli_print_name(l->c, d->path, strlen(d->path));
                (void)fputs(":\n", stdout);
            }
            rc = ls_dir(l, d->path, d->ino);
        }
        free(d->path);
        free(d);
    }
    return rc;
}

static int ls_run(struct cli *c)
{
    struct ls l = {.c = c, .p = c->own};
    struct tarn_attr attr;
    char path[TARN_PATH_MAX];
    int rc = cli_path(c, c->n_args ? c->args[0] : "/", path);

    if (rc == 0)
        rc = cli_connect(c);
    if (rc == 0)
        rc = cli_resolve(c, path, &attr);
    if (rc < 0)
        return rc;
    if (attr.type == TARN_TYPE_DIR) {
        rc = ls_tree(&l, path, attr.ino);
    } else if (c->common.json) {
        const char *name = strrchr(path, '/') + 1;

        rc = ls_put_json(&l, path, name, strlen(name), &attr);
    } else {
        l.path = path;
        rc = ls_put(&l, path, strlen(path), &attr);
    }
    free(l.entries);
    return rc;
}

static const struct tarn_conf_table *const ls_tables[] = {&cli_ls_table, &cli_remote_table,
                                                          &cli_common_table, NULL};
static const struct tarn_flags_short ls_shorts[] = {{'l', "details"}, {'R', "recursive"}};
static const struct tarn_flags_spec ls_spec = {
    .command = "tarn ls",
    .args = "[PATH]",
    .summary = "List a directory of the name space.",
    .text =
        "PATH is a path of the name space, not of a mount; \"/\" without one. Names are sorted by\n"
        "their bytes, but for directories of more than 100,000 names. On a terminal, control\n"
        "characters in names are shown as \\xNN.",
    .tables = ls_tables,
    .shorts = ls_shorts,
    .n_shorts = TARN_ARRAY_LEN(ls_shorts),
    .max_args = 1};
const struct cli_command cmd_ls_command = {
    .name = "ls", .spec = &ls_spec, .run = ls_run, .own = &cli_ls_table};
