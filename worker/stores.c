/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The stores of the attachments. A store is opened from its URI, options and secrets as the master
 * publishes them; when any of these changes, the new one is opened first and takes the old one's
 * place, which then closes: what was under way there goes on in the new one (worker/fetch.c).
 *
 * The canonical path of a file:// store is part of every cid, and asking for it may take seconds
 * where a file server does not answer: a thread of the disk's pool asks. Without an answer the path
 * is taken as it stands, so that what is cached of it is served, and asked for again every 5 s.
 */
#include "worker/stores.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"
#include "lib/base/hash.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/disk/disk.h"
#include "lib/disk/probe.h"
#include "ufs/ufs.h"
#include "ufs/ufs_opts.h"

#define STORE_RETRY_NS (5 * TARN_NS_PER_S)

struct probe;

struct store {
    struct tarn_list node; /* in tarn_stores.all */
    struct tarn_stores *stores;
    uint32_t id;
    char *uri;
    char *store_id; /* as the master has it; "": not known */
    char **texts;   /* options, then secrets */
    size_t n;
    struct tarn_ufs *ufs; /* NULL: not open */
    char *isolation;      /* of ufs */
    struct probe *probe;  /* under way; NULL: none */
    bool unresolved;      /* open, but its path was not asked for with success */
    bool listed;          /* in the list that is being applied */
};

/* A question for a canonical path. The pool thread's between submit and callback, but for store. */
struct probe {
    struct tarn_disk_io io;
    struct tarn_stores *stores;
    struct store *store; /* NULL: nobody waits for it any more */
    char path[TARN_PATH_MAX];
    char real[PATH_MAX];
};

struct tarn_stores {
    struct tarn_loop *loop;
    struct tarn_disk *disk;
    struct tarn_list all; /* struct store */
    uint64_t version;     /* of the last list */
    unsigned busy;        /* stores that close, probes under way */
    struct tarn_timer retry;
    void (*stopped)(void *arg);
    void *stopped_arg;
    struct tarn_task stop_task;
    bool stopping, posted;
};

static void store_open(struct store *st);

struct tarn_stores *tarn_stores_new(struct tarn_loop *loop, struct tarn_disk *disk)
{
    struct tarn_stores *s = tarn_xnew(struct tarn_stores);

    s->loop = loop;
    s->disk = disk;
    tarn_list_init(&s->all);
    return s;
}

/* ---- the end of things ------------------------------------------------------------------------
 */

static void stores_stopped(struct tarn_task *t)
{
    struct tarn_stores *s = TARN_CONTAINER(t, struct tarn_stores, stop_task);

    s->posted = false;
    s->stopped(s->stopped_arg);
}

static void stores_idle(struct tarn_stores *s)
{
    TARN_ASSERT(s->busy > 0);
    if (--s->busy > 0 || !s->stopping || s->posted)
        return;
    s->posted = true;
    tarn_loop_post(s->loop, &s->stop_task, stores_stopped);
}

static void store_closed(void *arg)
{
    stores_idle(arg);
}

static void store_close(struct store *st)
{
    st->unresolved = false;
    if (!st->ufs)
        return;
    st->stores->busy++;
    tarn_ufs_close(&st->ufs, store_closed, st->stores);
}

static void store_forget_texts(struct store *st)
{
    for (size_t i = 0; i < st->n; i++) {
        tarn_wipe(st->texts[i], strlen(st->texts[i])); /* some are secrets */
        free(st->texts[i]);
    }
    free(st->texts);
    free(st->uri);
    free(st->store_id);
    st->texts = NULL;
    st->uri = st->store_id = NULL;
    st->n = 0;
}

static void store_free(struct store *st)
{
    if (st->probe)
        st->probe->store = NULL;
    store_close(st);
    store_forget_texts(st);
    tarn_list_del(&st->node);
    free(st->isolation);
    free(st);
}

void tarn_stores_stop(struct tarn_stores *s, void (*done)(void *arg), void *arg)
{
    TARN_ASSERT(!s->stopping && done);
    s->stopped = done;
    s->stopped_arg = arg;
    s->stopping = true;
    s->busy++;
    tarn_timer_stop(&s->retry);
    while (!tarn_list_empty(&s->all))
        store_free(TARN_LIST_ENTRY(s->all.next, struct store, node));
    stores_idle(s);
}

void tarn_stores_free(struct tarn_stores **ps)
{
    struct tarn_stores *s = *ps;

    *ps = NULL;
    if (!s)
        return;
    TARN_ASSERT(s->busy == 0 && !s->posted && tarn_list_empty(&s->all));
    tarn_timer_stop(&s->retry);
    free(s);
}

/* ---- opening ----------------------------------------------------------------------------------
 */

static void stores_retry(struct tarn_timer *t, void *arg)
{
    struct tarn_stores *s = arg;

    (void)t; /* s->retry */
    TARN_LIST_FOREACH(n, &s->all)
    {
        struct store *st = TARN_LIST_ENTRY(n, struct store, node);

        if ((!st->ufs || st->unresolved) && !st->probe)
            store_open(st);
    }
}

static void store_later(struct store *st)
{
    struct tarn_stores *s = st->stores;

    if (!tarn_timer_running(&s->retry))
        tarn_timer_start(s->loop, &s->retry, STORE_RETRY_NS, stores_retry, s);
}

static void store_failed(struct store *st, int rc, const struct tarn_errbuf *err)
{
    tarn_warn_limited("stores", "the store of attachment %u cannot be opened: %s", st->id,
                      tarn_err_text(err, rc));
    store_close(st); /* what it was before is not what is attached */
    store_later(st);
}

/* real: the canonical path of a file:// URI; NULL for other stores. */
static void store_open_now(struct store *st, const char *real)
{
    struct tarn_ufs *before = st->ufs, *now = NULL;
    struct tarn_errbuf err = {0};
    struct tarn_conf *conf = NULL;
    struct tarn_ufs_opts opts;
    struct tarn_ufs_args args = {
        .loop = st->stores->loop, .uri = st->uri, .opts = &opts, .resolved = real};
    int rc = tarn_ufs_opts_parse((const char *const *)st->texts, st->n, true, &opts, &conf, &err);

    if (rc == 0)
        rc = tarn_ufs_open(&args, &err, &now);
    if (rc == 0 && st->store_id[0] && strcmp(st->store_id, tarn_ufs_store_id(now)) != 0) {
        rc = tarn_err_set(&err, -TARN_E_CONFIG,
                          "%s is another store on this host (%s) than on the master's (%s)",
                          st->uri, tarn_ufs_store_id(now), st->store_id);
        st->stores->busy++;
        tarn_ufs_close(&now, store_closed, st->stores);
    }
    if (rc == 0) {
        free(st->isolation);
        st->isolation = tarn_xstrdup(opts.isolation);
        st->ufs = now;
    }
    tarn_conf_free(&conf);
    if (rc < 0) {
        store_failed(st, rc, &err);
    } else if (before) {
        st->stores->busy++;
        tarn_ufs_close(&before, store_closed, st->stores);
    }
}

static void probe_work(struct tarn_disk_io *io)
{
    struct probe *p = io->arg;

    io->rc = tarn_probe_realpath(p->path, p->real);
}

static void store_probed(struct store *st, const struct probe *p)
{
    struct tarn_errbuf err = {0};
    int rc = (int)p->io.rc;
    bool later = rc < 0 && tarn_ufs_file_later(-rc);

    if (rc < 0 && !later) {
        store_failed(st, tarn_err_set(&err, rc, "file://%s: %s", p->path, tarn_strerror(rc)), &err);
        return;
    }
    if (!later || !st->ufs || !st->unresolved) /* else it is open as it stands, and still unknown */
        store_open_now(st, later ? p->path : p->real);
    st->unresolved = later && st->ufs;
    if (later) {
        tarn_warn_limited("stores", "file://%s does not answer yet: %s", p->path,
                          tarn_strerror(rc));
        store_later(st);
    }
}

static void probe_done(struct tarn_disk_io *io)
{
    struct probe *p = io->arg;
    struct tarn_stores *s = p->stores;

    if (p->store) {
        p->store->probe = NULL;
        store_probed(p->store, p);
    }
    free(p);
    stores_idle(s);
}

static void store_open(struct store *st)
{
    struct tarn_stores *s = st->stores;
    struct probe *p = tarn_xnew(struct probe);

    if (!tarn_ufs_file_path(st->uri, p->path)) {
        free(p);
        store_open_now(st, NULL);
        return;
    }
    p->stores = s;
    p->store = st;
    p->io = (struct tarn_disk_io){
        .loop = s->loop, .op = TARN_DISK_CALL, .work = probe_work, .cb = probe_done, .arg = p};
    st->probe = p;
    s->busy++;
    tarn_disk_submit(s->disk, &p->io);
}

/* ---- the list ---------------------------------------------------------------------------------
 */

static const char *info_text(const Tarn__Wire__AttachmentInfo *a, size_t i)
{
    return i < a->n_options ? a->options[i] : a->secrets[i - a->n_options];
}

static bool store_is(const struct store *st, const Tarn__Wire__AttachmentInfo *a)
{
    if (st->n != a->n_options + a->n_secrets || strcmp(st->uri, a->uri) != 0 ||
        strcmp(st->store_id, a->store_id) != 0)
        return false;
    for (size_t i = 0; i < st->n; i++)
        if (strcmp(st->texts[i], info_text(a, i)) != 0)
            return false;
    return true;
}

static struct store *store_find(const struct tarn_stores *s, uint32_t id)
{
    TARN_LIST_FOREACH(n, &s->all)
    {
        struct store *st = TARN_LIST_ENTRY(n, struct store, node);

        if (st->id == id)
            return st;
    }
    return NULL;
}

static void store_set(struct store *st, const Tarn__Wire__AttachmentInfo *a)
{
    store_forget_texts(st);
    st->uri = tarn_xstrdup(a->uri);
    st->store_id = tarn_xstrdup(a->store_id);
    st->n = a->n_options + a->n_secrets;
    st->texts = tarn_xcalloc(st->n + 1, sizeof(*st->texts));
    for (size_t i = 0; i < st->n; i++)
        st->texts[i] = tarn_xstrdup(info_text(a, i));
    if (st->probe)
        st->probe->store = NULL; /* of what it was before */
    st->probe = NULL;
    st->unresolved = false;
    store_open(st);
}

static void store_apply(struct tarn_stores *s, const Tarn__Wire__AttachmentInfo *a)
{
    struct store *st = store_find(s, a->id);

    if (st && store_is(st, a)) {
        st->listed = true;
        if (!st->ufs && !st->probe)
            store_open(st); /* what kept it from being opened may be better now */
        return;
    }
    if (!st) {
        st = tarn_xnew(struct store);
        st->stores = s;
        st->id = a->id;
        tarn_list_push(&s->all, &st->node);
    }
    st->listed = true;
    store_set(st, a);
}

void tarn_stores_apply(struct tarn_stores *s, const Tarn__Wire__AttachmentList *l)
{
    if (s->stopping || l->version <= s->version)
        return;
    s->version = l->version;
    TARN_LIST_FOREACH(n, &s->all)
    {
        TARN_LIST_ENTRY(n, struct store, node)->listed = false;
    }
    for (size_t i = 0; i < l->n_attachments; i++)
        store_apply(s, l->attachments[i]);
    TARN_LIST_FOREACH_SAFE(n, &s->all)
    {
        struct store *st = TARN_LIST_ENTRY(n, struct store, node);

        if (!st->listed)
            store_free(st);
    }
}

uint64_t tarn_stores_version(const struct tarn_stores *s)
{
    return s->version;
}

struct tarn_ufs *tarn_stores_of(void *ctx, uint32_t attachment, const char **ret_isolation)
{
    struct store *st = store_find(ctx, attachment);

    if (!st || !st->ufs)
        return NULL;
    *ret_isolation = st->isolation;
    return st->ufs;
}

void tarn_stores_each(struct tarn_stores *s, void (*fn)(void *arg, uint32_t id, struct tarn_ufs *u),
                      void *arg)
{
    TARN_LIST_FOREACH(n, &s->all)
    {
        const struct store *st = TARN_LIST_ENTRY(n, struct store, node);

        if (st->ufs)
            fn(arg, st->id, st->ufs);
    }
}
