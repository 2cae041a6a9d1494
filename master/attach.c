/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Attachments in memory: stores at places of the name space. The table has what is committed; a
 * store that cannot be opened is tried again every MASTER_PROBE_NS, and counts as down meanwhile.
 *
 * `down`: the last question got no answer (DNS, refused, stalled, 5xx). Old metadata is in force
 * meanwhile, and a probe asks every MASTER_PROBE_NS; the first answer ends it. A 403 or 404 is an
 * answer. Reports tell the store's own health (ufs/health.c), which gets have a part in: one that
 * failed starts the probe too, and leaves metadata alone.
 *
 * After a detach, and when an update brings another store object, requests may be under way: the
 * attachment lives until its last reference goes, a replaced store until it has nothing to do.
 */
#include "master/master_priv.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"
#include "lib/base/hash.h"
#include "master/attach_priv.h"

#define OPENER_THREADS 16u /* each may wait for a file server that does not answer */
#define RETIRED_NS     (TARN_NS_PER_S / 2)
#define UP_LONG_NS     (60 * TARN_NS_PER_S) /* longer than questions are tried again */

static void attach_probe(struct tarn_timer *t, void *arg);
static void attach_try_open(struct mattach *a);

/* ---- whether it answers --------------------------------------------------------------------- */

static bool attach_wants_probe(const struct mattach *a)
{
    return !a->master->stopping && !a->gone && a->ufs &&
           (a->down || tarn_ufs_health(a->ufs)->rc < 0);
}

static void attach_probed(struct tarn_ufs_check *c, int rc)
{
    struct mattach *a = c->arg;
    struct tarn_master *m = a->master;

    a->checking = false;
    if (a->ufs == a->checked) { /* else it was another one's */
        a->asked_again |= a->down;
        a->probe_failed = tarn_ufs_no_answer(rc);
        mattach_note(a, rc, &c->list.req.err);
    }
    if (attach_wants_probe(a))
        tarn_timer_start(m->args.loop, &a->probe, m->probe_ns, attach_probe, a);
    mattach_unref(&a);
    master_idle(m);
}

static void attach_probe(struct tarn_timer *t, void *arg)
{
    struct mattach *a = arg;

    (void)t; /* a's */
    if (!a->ufs && !a->gone && !a->master->stopping) {
        attach_try_open(a);
        return;
    }
    if (a->checking || !attach_wants_probe(a))
        return;
    a->checking = true;
    master_busy(a->master);
    a->check = (struct tarn_ufs_check){.cb = attach_probed, .arg = mattach_ref(a)};
    a->checked = a->ufs;
    tarn_ufs_check(a->ufs, &a->check);
}

/* By a get, which may be the last request there is: somebody must learn when it is over. */
static void attach_went_down(void *arg)
{
    struct mattach *a = arg;

    if (!a->master->stopping && !a->gone && !a->checking)
        tarn_timer_start(a->master->args.loop, &a->probe, a->master->probe_ns, attach_probe, a);
}

void mattach_late(struct mattach *a)
{
    a->late_until_ns = tarn_loop_now_ns(a->master->args.loop) + a->master->probe_ns;
}

bool mattach_in_force(const struct mattach *a)
{
    return a->down || a->late_until_ns > tarn_loop_now_ns(a->master->args.loop);
}

void mattach_note(struct mattach *a, int rc, const struct tarn_errbuf *err)
{
    if (rc == -TARN_E_CANCELLED || a->master->stopping || a->gone)
        return;
    if (tarn_ufs_answer(rc) || tarn_ufs_no_answer(rc))
        a->late_until_ns = 0;
    if (tarn_ufs_no_answer(rc)) {
        if (a->down)
            return;
        a->down = true;
        if (tarn_loop_now_ns(a->master->args.loop) - a->up_since_ns > UP_LONG_NS)
            a->asked_again = false;
        tarn_warn("attach",
                  "the store does not answer, metadata known before stays in force: uri=%s: %s",
                  a->uri, tarn_err_text(err, rc));
        tarn_timer_start(a->master->args.loop, &a->probe, a->master->probe_ns, attach_probe, a);
    } else if (a->down && tarn_ufs_answer(rc)) {
        a->down = a->probe_failed = false;
        a->up_since_ns = tarn_loop_now_ns(a->master->args.loop);
        tarn_timer_stop(&a->probe);
        tarn_info("attach", "the store answers again: uri=%s", a->uri);
    }
}

/* ---- the table ------------------------------------------------------------------------------ */

struct mattach *mattach_by_id(struct tarn_master *m, uint32_t id)
{
    TARN_LIST_FOREACH(n, &m->attachments)
    {
        struct mattach *a = TARN_LIST_ENTRY(n, struct mattach, node);

        if (a->id == id)
            return a;
    }
    return NULL;
}

struct mattach *mattach_by_root(struct tarn_master *m, tarn_ino_t ino)
{
    TARN_LIST_FOREACH(n, &m->attachments)
    {
        struct mattach *a = TARN_LIST_ENTRY(n, struct mattach, node);

        if (a->root.v == ino.v)
            return a;
    }
    return NULL;
}

struct mattach *mattach_by_path(struct tarn_master *m, const char *path)
{
    TARN_LIST_FOREACH(n, &m->attachments)
    {
        struct mattach *a = TARN_LIST_ENTRY(n, struct mattach, node);

        if (strcmp(a->path, path) == 0)
            return a;
    }
    return NULL;
}

struct mattach *mattach_below(struct tarn_master *m, const char *path)
{
    TARN_LIST_FOREACH(n, &m->attachments)
    {
        struct mattach *a = TARN_LIST_ENTRY(n, struct mattach, node);

        if (tarn_core_path_below(a->path, path, strlen(path)))
            return a;
    }
    return NULL;
}

struct tarn_ufs *tarn_master_ufs(struct tarn_master *m, uint32_t attachment,
                                 const char **ret_isolation)
{
    struct mattach *a = mattach_by_id(m, attachment);

    if (!a)
        return NULL;
    *ret_isolation = a->isolation;
    return a->ufs;
}

struct attached_find {
    const char *path;
    struct tarn_str *uri, *store_id;
};

static int attached_found(void *arg, const Tarn__Core__Attachment *rec)
{
    struct attached_find *f = arg;

    if (strcmp(rec->path, f->path) != 0)
        return 0;
    tarn_str_reset(f->uri);
    tarn_str_adds(f->uri, rec->uri);
    tarn_str_reset(f->store_id);
    tarn_str_adds(f->store_id, rec->store_id);
    return 1;
}

int tarn_master_attached(struct tarn_master *m, const char *path, struct tarn_str *ret_uri,
                         struct tarn_str *ret_store_id)
{
    struct attached_find f = {.path = path, .uri = ret_uri, .store_id = ret_store_id};
    int rc = tarn_core_attachments(m->args.kv, attached_found, &f);

    if (rc == 0)
        return -TARN_E_NO_ATTACH;
    return rc > 0 ? 0 : rc;
}

void mattach_changed(struct tarn_master *m, uint64_t index)
{
    m->attach_version = index + 1;
    if (m->on_attachments)
        m->on_attachments(m);
}

/* ---- life ----------------------------------------------------------------------------------- */

void mattach_rec_free(Tarn__Core__Attachment *rec)
{
    if (!rec)
        return;
    for (size_t i = 0; i < rec->n_secrets; i++)
        tarn_wipe(rec->secrets[i], strlen(rec->secrets[i]));
    tarn__core__attachment__free_unpacked(rec, NULL);
}

Tarn__Core__Attachment *mattach_rec_copy(const Tarn__Core__Attachment *rec)
{
    size_t n = tarn__core__attachment__get_packed_size(rec);
    uint8_t *p = tarn_xcalloc(1, n + 1);
    Tarn__Core__Attachment *copy;

    (void)tarn__core__attachment__pack(rec, p); /* n bytes */
    copy = tarn__core__attachment__unpack(NULL, n, p);
    TARN_ASSERT(copy != NULL);
    tarn_wipe(p, n);
    free(p);
    return copy;
}

static void attach_free(struct mattach *a)
{
    struct tarn_master *m = a->master;

    TARN_ASSERT(a->refs == 0 && a->ufs == NULL && !a->checking);
    tarn_timer_stop(&a->probe);
    tarn_list_del(&a->node);
    m->counts.stale_answers += a->stale_answers;
    mattach_rec_free(a->rec);
    free(a);
}

static void attach_closed(void *arg)
{
    struct mattach *a = arg;
    struct tarn_master *m = a->master;

    attach_free(a);
    master_idle(m);
}

struct mattach *mattach_ref(struct mattach *a)
{
    a->refs++;
    return a;
}

void mattach_unref(struct mattach **pa)
{
    struct mattach *a = *pa;

    *pa = NULL;
    if (!a)
        return;
    TARN_ASSERT(a->refs > 0);
    if (--a->refs > 0)
        return;
    if (!a->ufs) {
        attach_free(a);
        return;
    }
    master_busy(a->master);
    mattach_close(a, attach_closed, a);
}

static void ufs_counts_add(struct tarn_ufs_counts *to, const struct tarn_ufs *u)
{
    struct tarn_ufs_counts c;

    tarn_ufs_counts(u, &c);
    for (unsigned op = 0; op < TARN_UFS_OP_COUNT; op++)
        for (unsigned st = 0; st < TARN_UFS_STATUS_COUNT; st++)
            to->ended[op][st] += c.ended[op][st];
    to->requests += c.requests;
    to->read_bytes += c.read_bytes;
    to->retries += c.retries;
    to->failures += c.failures;
    to->running += c.running;
    to->queued += c.queued;
}

/* A closed one keeps what it has counted. */
static void ufs_close(struct tarn_master *m, struct tarn_ufs **u, void (*closed)(void *), void *arg)
{
    ufs_counts_add(&m->ufs_gone, *u);
    m->ufs_gone.running = m->ufs_gone.queued = 0;
    tarn_ufs_watch(*u, NULL, NULL);
    tarn_ufs_close(u, closed, arg);
}

void mattach_close(struct mattach *a, void (*closed)(void *arg), void *arg)
{
    ufs_close(a->master, &a->ufs, closed, arg);
}

/* Of what has none in the store. */
static void attach_owner(struct mattach *a, const struct tarn_ufs_opts *opts)
{
    a->uid = opts->uid == TARN_UFS_OWNER_UNSET ? getuid() : (uint32_t)opts->uid;
    a->gid = opts->gid == TARN_UFS_OWNER_UNSET ? getgid() : (uint32_t)opts->gid;
    a->file_mode = tarn_ufs_opts_mode(opts->file_mode);
    a->dir_mode = tarn_ufs_opts_mode(opts->dir_mode);
}

void mattach_fill(struct mattach *a, Tarn__Core__Attachment *rec, const struct tarn_ufs_opts *opts)
{
    mattach_rec_free(a->rec);
    a->rec = rec;
    a->id = rec->id;
    a->root.v = rec->root;
    a->path = rec->path;
    a->uri = rec->uri;
    a->isolation = rec->isolation;
    a->since_ns = rec->since_ns;
    a->ttl_ns = strtoull(rec->ttl, NULL, 10); /* digits and "ns", as we wrote it */
    if (opts)
        attach_owner(a, opts);
}

/* Takes rec. */
struct mattach *mattach_new(struct tarn_master *m, Tarn__Core__Attachment *rec,
                            const struct tarn_ufs_opts *opts)
{
    struct mattach *a = tarn_xnew(struct mattach);

    a->master = m;
    a->refs = 1;
    mattach_fill(a, rec, opts);
    tarn_list_push(&m->attachments, &a->node);
    return a;
}

void mattach_use(struct mattach *a, struct tarn_ufs *ufs)
{
    if (a->ufs)
        mattach_retire(a);
    a->ufs = ufs;
    a->down = a->asked_again = a->probe_failed = false;
    a->up_since_ns = tarn_loop_now_ns(a->master->args.loop);
    a->late_until_ns = 0;
    tarn_timer_stop(&a->probe);
    tarn_ufs_watch(ufs, attach_went_down, a);
}

void mattach_drop(struct mattach *a)
{
    struct tarn_master *m = a->master;

    a->gone = true;
    tarn_list_del(&a->node);
    tarn_list_push(&m->gone_attachments, &a->node);
    tarn_timer_stop(&a->probe);
    if (a->checking)
        tarn_ufs_cancel(&a->check.list.req);
    mlist_stop_of(a);
    mnames_stop_of(a);
    mdirs_drop_of(a);
    master_space(m);
    mattach_unref(&a);
}

/* ---- stores that were replaced -------------------------------------------------------------- */

struct mretired {
    struct tarn_list node; /* in master->retired */
    struct tarn_master *master;
    struct tarn_ufs *ufs;
    struct tarn_timer timer;
};

static void retired_closed(void *arg)
{
    struct mretired *r = arg;
    struct tarn_master *m = r->master;

    free(r);
    master_idle(m);
}

static void retired_close(struct mretired *r)
{
    tarn_timer_stop(&r->timer);
    tarn_list_del(&r->node);
    master_busy(r->master);
    ufs_close(r->master, &r->ufs, retired_closed, r);
}

static void retired_look(struct tarn_timer *t, void *arg)
{
    struct mretired *r = arg;

    if (tarn_ufs_idle(r->ufs))
        retired_close(r);
    else
        tarn_timer_start(r->master->args.loop, t, RETIRED_NS, retired_look, r);
}

void mattach_retire(struct mattach *a)
{
    struct mretired *r = tarn_xnew(struct mretired);

    r->master = a->master;
    r->ufs = a->ufs;
    a->ufs = NULL;
    tarn_ufs_watch(r->ufs, NULL, NULL);
    tarn_list_push(&r->master->retired, &r->node);
    tarn_timer_start(r->master->args.loop, &r->timer, RETIRED_NS, retired_look, r);
}

/* ---- opening what is committed --------------------------------------------------------------- */

struct mopen {
    struct tarn_disk_io io;
    struct mattach *a; /* referenced */
    char *uri;
    char resolved[PATH_MAX];
    struct tarn_errbuf err;
};

void mattach_resolve(struct tarn_master *m, struct tarn_disk_io *io)
{
    io->loop = m->args.loop;
    io->op = TARN_DISK_CALL;
    if (!m->opener) {
        int rc = tarn_disk_pool_new(OPENER_THREADS, &m->opener);

        TARN_ASSERT(rc == 0); /* as any other thread of ours at the start */
    }
    tarn_disk_submit(m->opener, io);
}

static void open_work(struct tarn_disk_io *io)
{
    struct mopen *o = TARN_CONTAINER(io, struct mopen, io);

    io->rc = tarn_ufs_resolve(o->uri, o->resolved, &o->err);
}

/* Options and secrets as they are recorded. */
int mattach_parse(const Tarn__Core__Attachment *rec, struct tarn_ufs_opts *ret,
                  struct tarn_conf **ret_conf, struct tarn_errbuf *err)
{
    const char **texts = tarn_xcalloc(rec->n_options + rec->n_secrets + 1, sizeof(char *));
    size_t n = 0;
    int rc;

    for (size_t i = 0; i < rec->n_options; i++)
        texts[n++] = rec->options[i];
    for (size_t i = 0; i < rec->n_secrets; i++)
        texts[n++] = rec->secrets[i];
    rc = tarn_ufs_opts_parse(texts, n, true, ret, ret_conf, err);
    free(texts);
    return rc;
}

static int attach_open(struct mattach *a, const char *resolved, struct tarn_errbuf *err)
{
    struct tarn_ufs_args args = {.loop = a->master->args.loop, .uri = a->uri, .resolved = resolved};
    struct tarn_conf *conf = NULL;
    struct tarn_ufs_opts opts;
    struct tarn_ufs *ufs = NULL;
    int rc = mattach_parse(a->rec, &opts, &conf, err);

    args.opts = &opts;
    if (rc == 0)
        rc = tarn_ufs_open(&args, err, &ufs);
    if (rc == 0 && strcmp(tarn_ufs_store_id(ufs), a->rec->store_id) != 0) {
        rc = tarn_err_set(err, -TARN_E_CONFIG, "%s is another store now (%s, and was %s)", a->uri,
                          tarn_ufs_store_id(ufs), a->rec->store_id);
        mattach_use(a, ufs);
        mattach_retire(a);
    } else if (rc == 0) {
        mattach_use(a, ufs);
    }
    tarn_conf_free(&conf);
    return rc;
}

static void opened(struct tarn_disk_io *io)
{
    struct mopen *o = TARN_CONTAINER(io, struct mopen, io);
    struct mattach *a = o->a;
    struct tarn_master *m = a->master;
    int rc = (int)io->rc;

    if (!a->gone && !a->ufs && !m->stopping) {
        if (rc == 0)
            rc = attach_open(a, o->resolved, &o->err);
        if (rc < 0) {
            a->down = a->asked_again = a->probe_failed = true;
            a->open_err = o->err;
            tarn_warn_limited("attach", "path=%s uri=%s cannot be opened: %s", a->path, a->uri,
                              tarn_err_text(&o->err, rc));
            tarn_timer_start(m->args.loop, &a->probe, m->probe_ns, attach_probe, a);
        } else {
            tarn_info("attach", "opened path=%s uri=%s", a->path, a->uri);
        }
    }
    mattach_unref(&o->a);
    free(o->uri);
    free(o);
    master_idle(m);
}

static void attach_try_open(struct mattach *a)
{
    struct mopen *o = tarn_xnew(struct mopen);

    master_busy(a->master);
    o->a = mattach_ref(a);
    o->uri = tarn_xstrdup(a->uri);
    o->io.work = open_work;
    o->io.cb = opened;
    mattach_resolve(a->master, &o->io);
}

static int open_one(void *arg, const Tarn__Core__Attachment *rec)
{
    struct tarn_master *m = arg;
    struct tarn_conf *conf = NULL;
    struct tarn_ufs_opts opts;
    struct mattach *a;
    int rc;

    if (mattach_by_id(m, rec->id))
        return 0;
    a = mattach_new(m, mattach_rec_copy(rec), NULL);
    a->down = true; /* until it is open */
    a->file_mode = 0644;
    a->dir_mode = 0755;
    rc = mattach_parse(rec, &opts, &conf, &a->open_err);
    if (rc == 0)
        attach_owner(a, &opts); /* also without a store */
    tarn_conf_free(&conf);
    attach_try_open(a);
    return 0;
}

void mattach_open_all(struct tarn_master *m)
{
    int rc = tarn_core_attachments(m->args.kv, open_one, m);

    if (rc < 0)
        tarn_error("attach", "the attachments could not be read: %s", tarn_strerror(rc));
    m->attached = true;
    master_space(m);
}

void tarn_master_open_attachments(struct tarn_master *m)
{
    uint64_t index = 0;

    mattach_open_all(m);
    if (tarn_core_attached_index(m->args.kv, &index) == 0) /* else it has been logged */
        mattach_changed(m, index);
}

/* ---- the list for workers and direct clients ------------------------------------------------- */

void mattach_list(struct tarn_master *m, bool only_direct, struct mattach_list *ret)
{
    size_t max = 1;

    memset(ret, 0, sizeof(*ret));
    tarn__wire__attachment_list__init(&ret->msg);
    TARN_LIST_FOREACH(n, &m->attachments)
    max++;
    ret->rows = tarn_xcalloc(max, sizeof(*ret->rows));
    ret->ptrs = tarn_xcalloc(max, sizeof(Tarn__Wire__AttachmentInfo *));
    ret->msg.version = m->attach_version;
    ret->msg.attachments = ret->ptrs;
    TARN_LIST_FOREACH(n, &m->attachments)
    {
        const Tarn__Core__Attachment *rec = TARN_LIST_ENTRY(n, struct mattach, node)->rec;
        Tarn__Wire__AttachmentInfo *row = &ret->rows[ret->msg.n_attachments];

        if (only_direct && !rec->direct)
            continue;
        tarn__wire__attachment_info__init(row);
        row->id = rec->id;
        row->path = rec->path;
        row->uri = rec->uri;
        row->n_options = rec->n_options;
        row->options = rec->options;
        row->n_secrets = rec->n_secrets;
        row->secrets = rec->secrets;
        row->direct = rec->direct;
        row->store_id = rec->store_id;
        ret->ptrs[ret->msg.n_attachments++] = row;
    }
}

void mattach_list_fini(struct mattach_list *l)
{
    free(l->rows);
    free(l->ptrs);
    memset(l, 0, sizeof(*l));
}

/* ---- figures, and the end ---------------------------------------------------------------------
 */

void tarn_master_ufs_counts(struct tarn_master *m, struct tarn_ufs_counts *ret)
{
    *ret = m->ufs_gone;
    TARN_LIST_FOREACH(n, &m->retired)
    ufs_counts_add(ret, TARN_LIST_ENTRY(n, struct mretired, node)->ufs);
    for (int gone = 0; gone < 2; gone++)
        TARN_LIST_FOREACH(n, gone ? &m->gone_attachments : &m->attachments)
        {
            struct mattach *a = TARN_LIST_ENTRY(n, struct mattach, node);

            if (a->ufs)
                ufs_counts_add(ret, a->ufs);
        }
}

static void attach_stopped(void *arg)
{
    struct mattach *a = arg;
    struct tarn_master *m = a->master;

    mattach_unref(&a);
    master_idle(m);
}

static void attach_stop(struct mattach *a)
{
    tarn_timer_stop(&a->probe);
    if (!a->ufs)
        return;
    master_busy(a->master);
    mattach_close(a, attach_stopped, mattach_ref(a));
}

void mattach_stop(struct tarn_master *m)
{
    mattach_ops_stop(m);
    TARN_LIST_FOREACH_SAFE(n, &m->attachments)
    attach_stop(TARN_LIST_ENTRY(n, struct mattach, node));
    TARN_LIST_FOREACH_SAFE(n, &m->gone_attachments)
    {
        struct mattach *a = TARN_LIST_ENTRY(n, struct mattach, node);

        if (a->refs > 0) /* else its store is being closed */
            attach_stop(a);
    }
    TARN_LIST_FOREACH_SAFE(n, &m->retired)
    retired_close(TARN_LIST_ENTRY(n, struct mretired, node));
}

void mattach_free_all(struct tarn_master *m)
{
    while (!tarn_list_empty(&m->attachments)) {
        struct mattach *a = TARN_LIST_ENTRY(m->attachments.next, struct mattach, node);

        TARN_ASSERT(a->refs == 1);
        mattach_unref(&a);
    }
    TARN_ASSERT(tarn_list_empty(&m->gone_attachments) && tarn_list_empty(&m->retired));
}
