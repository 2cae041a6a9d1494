/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/ufs/fixture.h"

#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/assert.h"
#include "lib/base/mem.h"
#include "ufs/ufs_opts.h"

int fx_open(struct fx *f, const char *uri, const char *opts)
{
    struct tarn_ufs_opts o;
    struct tarn_conf *conf;
    const char *const texts[] = {opts};
    int rc;

    *f = (struct fx){0};
    rc = tarn_ufs_opts_parse(texts, *opts ? 1 : 0, true, &o, &conf, &f->err);
    if (rc < 0)
        return rc;
    TARN_ASSERT(tarn_loop_new(&f->loop) == 0);
    rc = tarn_ufs_open(&(struct tarn_ufs_args){.loop = f->loop, .uri = uri, .opts = &o}, &f->err,
                       &f->ufs);
    tarn_conf_free(&conf);
    if (rc < 0)
        fx_close(f);
    return rc;
}

static void fx_stop(void *arg)
{
    struct fx *f = arg;

    tarn_loop_stop(f->loop);
}

void fx_close(struct fx *f)
{
    struct tarn_errbuf err = f->err;

    if (f->ufs) {
        tarn_ufs_close(&f->ufs, fx_stop, f);
        tarn_loop_run(f->loop);
    }
    if (f->loop)
        tarn_loop_free(&f->loop);
    free(f->target);
    *f = (struct fx){0};
    f->err = err;
}

struct fx_wait {
    struct fx *f; /* whose loop stops */
    int rc;       /* result */
};

static void fx_stat_cb(struct tarn_ufs_stat *s, int rc)
{
    struct fx_wait *w = s->arg;

    w->rc = rc;
    free(w->f->target);
    w->f->target = s->target ? tarn_xstrdup(s->target) : NULL;
    fx_stop(w->f);
}

static int fx_stat_any(struct fx *f, const char *key, bool file_only)
{
    struct fx_wait w = {f, 1};
    struct tarn_ufs_stat s = {.cb = fx_stat_cb, .arg = &w, .file_only = file_only};

    tarn_ufs_stat(f->ufs, &s, key);
    tarn_loop_run(f->loop);
    f->attr = s.attr;
    f->err = s.req.err;
    return w.rc;
}

int fx_stat(struct fx *f, const char *key)
{
    return fx_stat_any(f, key, false);
}

int fx_stat_file(struct fx *f, const char *key)
{
    return fx_stat_any(f, key, true);
}

static void fx_check_cb(struct tarn_ufs_check *c, int rc)
{
    struct fx_wait *w = c->arg;

    w->rc = rc;
    fx_stop(w->f);
}

int fx_check(struct fx *f)
{
    struct fx_wait w = {f, 1};
    struct tarn_ufs_check c = {.cb = fx_check_cb, .arg = &w};

    tarn_ufs_check(f->ufs, &c);
    tarn_loop_run(f->loop);
    f->err = c.list.req.err;
    return w.rc;
}

struct fx_list_wait {
    struct fx_wait w;       /* first */
    struct fx_listing *out; /* result */
    char *last;             /* key before, for the order */
};

static void fx_list_entry(struct fx_list_wait *w, const struct tarn_ufs_entry *e)
{
    bool dir = e->attr.type == TARN_UFS_DIR;
    char *key = tarn_xasprintf("%s%s", e->name, dir ? "/" : "");

    TARN_ASSERT(strlen(e->name) == e->name_len);
    TARN_ASSERT(strcmp(w->last, key) < 0);
    free(w->last);
    w->last = key;
    w->out->entries++;
    if (w->out->quiet)
        return;
    if (dir)
        tarn_str_addf(&w->out->out, "%s\n", key);
    else if (e->attr.type == TARN_UFS_SYMLINK)
        tarn_str_addf(&w->out->out, "%s -> %s\n", key, e->target);
    else
        tarn_str_addf(&w->out->out, "%s %" PRIu64 "\n", key, e->attr.version.size_bytes);
}

static void fx_list_cb(struct tarn_ufs_list *l, int rc)
{
    struct fx_list_wait *w = l->arg;

    w->w.rc = rc;
    w->out->pages++;
    if (rc == 0) {
        TARN_ASSERT(l->count <= l->max_entries && l->complete == !l->to_key);
        for (size_t i = 0; i < l->count; i++)
            fx_list_entry(w, &l->entries[i]);
        TARN_ASSERT(!l->to_key ||
                    strcmp(w->last, l->to_key) <= 0); /* the page covers what it shows */
        if (l->to_key) {
            free(w->last);
            w->last = tarn_xstrdup(l->to_key);
        }
        w->out->skipped += l->skipped;
        tarn_str_add(&w->out->skipped_names, tarn_str_z(&l->skipped_names), l->skipped_names.len);
    }
    if (rc == 0 && !l->complete && !w->out->restart)
        tarn_ufs_list(w->w.f->ufs, l, l->dir);
    else
        fx_stop(w->w.f);
}

int fx_list(struct fx *f, const char *dir, unsigned max, struct fx_listing *ret)
{
    struct fx_list_wait w = {{f, 1}, ret, tarn_xstrdup("")};
    struct tarn_ufs_list l = {.max_entries = max, .cb = fx_list_cb, .arg = &w};

    do {
        tarn_ufs_list(f->ufs, &l, dir);
        tarn_loop_run(f->loop);
        f->err = l.req.err;
        free(l.token);
        l.token = NULL;
    } while (w.w.rc == 0 && !l.complete);
    tarn_ufs_list_fini(&l);
    free(w.last);
    return w.w.rc;
}

void fx_listing_fini(struct fx_listing *l)
{
    tarn_str_fini(&l->out);
    tarn_str_fini(&l->skipped_names);
    *l = (struct fx_listing){0};
}

struct fx_get_wait {
    struct fx_wait w; /* first */
    uint8_t *dst;     /* or NULL */
    size_t n;         /* bytes so far */
};

static int fx_data_cb(struct tarn_ufs_get *g, const uint8_t *p, size_t n)
{
    struct fx_get_wait *w = g->arg;

    TARN_ASSERT(g->done_bytes == w->n);
    if (w->dst)
        memcpy(w->dst + w->n, p, n);
    w->n += n;
    return 0;
}

static void fx_get_cb(struct tarn_ufs_get *g, int rc)
{
    struct fx_get_wait *w = g->arg;

    w->w.rc = rc;
    fx_stop(w->w.f);
}

int fx_get(struct fx *f, const char *key, const struct tarn_ufs_version *v, uint64_t off,
           uint64_t len, void *dst, size_t *ret_n)
{
    struct fx_get_wait w = {{f, 1}, dst, 0};
    struct tarn_ufs_get g = {
        .on_data = fx_data_cb, .cb = fx_get_cb, .arg = &w, .off_bytes = off, .len_bytes = len};

    tarn_ufs_get(f->ufs, &g, key, v);
    tarn_loop_run(f->loop);
    f->err = g.req.err;
    f->verified = g.verified;
    f->adopted = g.adopted;
    f->version = g.version;
    if (ret_n)
        *ret_n = w.n;
    return w.w.rc;
}

char *fx_tmp(void)
{
    const char *base = getenv("TMPDIR");
    char *dir;

    if (!base || !*base)
        base = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp"; /* many small files */
    dir = tarn_xasprintf("%s/tarn-ufs-XXXXXX", base);

    TARN_ASSERT(mkdtemp(dir) != NULL);
    return dir;
}

static int fx_remove(const char *path, const struct stat *st, int flag, struct FTW *at)
{
    (void)st;
    (void)flag;
    (void)at;
    return remove(path);
}

void fx_tmp_fini(char *dir)
{
    TARN_ASSERT(nftw(dir, fx_remove, 16, FTW_DEPTH | FTW_PHYS) == 0);
    free(dir);
}

void fx_write(const char *dir, const char *name, const void *p, size_t n)
{
    char *path = tarn_xasprintf("%s/%s", dir, name);
    FILE *file = fopen(path, "we");

    TARN_ASSERT(file && fwrite(p, 1, n, file) == n && fclose(file) == 0);
    free(path);
}
