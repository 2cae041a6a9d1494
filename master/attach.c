/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Attachments: a store at a place of the name space. Opening one costs the store at most one
 * question (the check), and none when the directory knows the attachment already: then it starts
 * without the store.
 *
 * `down`: the last question got no answer (DNS, refused, stalled, 5xx). Old metadata is in force
 * meanwhile, and a probe asks every MASTER_PROBE_NS; the first answer ends it. A 403 or 404 is an
 * answer. Reports tell the store's own health (ufs/health.c), which gets have a part in: one that
 * failed starts the probe too, and leaves metadata alone.
 */
#include "master/master_priv.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"
#include "lib/base/units.h"
#include "ufs/ufs_opts.h"

#define ATTACH_ID_ROOT 1u

static void attach_probe(struct tarn_timer *t, void *arg);

static bool attach_wants_probe(const struct mattach *a)
{
    return !a->master->stopping && a->ufs && (a->down || tarn_ufs_health(a->ufs)->rc < 0);
}

static void attach_probed(struct tarn_ufs_check *c, int rc)
{
    struct mattach *a = c->arg;

    a->checking = false;
    mattach_note(a, rc, &c->list.req.err);
    if (attach_wants_probe(a))
        tarn_timer_start(a->master->args.loop, &a->probe, a->master->probe_ns, attach_probe, a);
    master_idle(a->master);
}

static void attach_probe(struct tarn_timer *t, void *arg)
{
    struct mattach *a = arg;

    (void)t; /* a's */
    if (a->checking || !attach_wants_probe(a))
        return;
    a->checking = true;
    master_busy(a->master);
    a->check = (struct tarn_ufs_check){.cb = attach_probed, .arg = a};
    tarn_ufs_check(a->ufs, &a->check);
}

/* By a get, which may be the last request there is: somebody must learn when it is over. */
static void attach_went_down(void *arg)
{
    struct mattach *a = arg;

    if (!a->master->stopping && !a->checking)
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
    if (rc == -TARN_E_CANCELLED || a->master->stopping)
        return;
    if (tarn_ufs_answer(rc) || tarn_ufs_no_answer(rc))
        a->late_until_ns = 0;
    if (tarn_ufs_no_answer(rc)) {
        if (a->down)
            return;
        a->down = true;
        tarn_warn("attach",
                  "the store does not answer, metadata known before stays in force: uri=%s: %s",
                  a->uri, tarn_err_text(err, rc));
        tarn_timer_start(a->master->args.loop, &a->probe, a->master->probe_ns, attach_probe, a);
    } else if (a->down && tarn_ufs_answer(rc)) {
        a->down = false;
        tarn_timer_stop(&a->probe);
        tarn_info("attach", "the store answers again: uri=%s", a->uri);
    }
}

struct mattach *mattach_by_id(struct tarn_master *m, uint32_t id)
{
    return m->attach && m->attach->id == id ? m->attach : NULL;
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

int tarn_master_attached(struct tarn_master *m, const char *path, struct tarn_str *ret_uri,
                         struct tarn_str *ret_store_id)
{
    Tarn__Core__Attachment *rec = NULL;
    int rc = tarn_core_attachment(m->args.kv, ATTACH_ID_ROOT, &rec);

    if (rc < 0)
        return rc == -TARN_E_NO_ENTRY ? -TARN_E_NO_ATTACH : rc;
    rc = strcmp(rec->path, path) == 0 ? 0 : -TARN_E_NO_ATTACH;
    if (rc == 0) {
        tarn_str_reset(ret_uri);
        tarn_str_adds(ret_uri, rec->uri);
        tarn_str_reset(ret_store_id);
        tarn_str_adds(ret_store_id, rec->store_id);
    }
    tarn__core__attachment__free_unpacked(rec, NULL);
    return rc;
}

/* ---- attach
 * ---------------------------------------------------------------------------------------------------
 */

struct attach_op {
    struct tarn_master *master;
    struct mattach *a;
    struct mproposal proposal;
    struct tarn_ufs_check check;
    struct tarn_timer timer;
    struct tarn_task task;
    uint64_t check_timeout_ns;
    bool checking; /* the store is being asked */
    bool timed_out;
    bool known; /* attached before, in this directory */
    int rc;
    struct tarn_errbuf err;
    void (*cb)(void *arg, int rc, const struct tarn_errbuf *err);
    void *arg;
};

void mattach_free(struct mattach **pa)
{
    struct mattach *a = *pa;

    if (!a)
        return;
    TARN_ASSERT(a->ufs == NULL && !a->checking);
    free(a->path);
    free(a->uri);
    free(a->isolation);
    free(a);
    *pa = NULL;
}

static void attach_closed(void *arg)
{
    struct attach_op *op = arg;
    struct tarn_master *m = op->master;

    mattach_free(&op->a);
    op->cb(op->arg, op->rc, &op->err);
    free(op);
    master_idle(m);
}

static void attach_end(struct attach_op *op, int rc)
{
    struct tarn_master *m = op->master;

    tarn_timer_stop(&op->timer);
    m->attaching = NULL;
    if (rc == 0 && m->stopping)
        rc = -TARN_E_SHUTDOWN;
    op->rc = rc;
    if (rc < 0 && op->a) {
        tarn_ufs_close(&op->a->ufs, attach_closed, op);
        return;
    }
    m->attach = op->a;
    if (op->a)
        tarn_ufs_watch(op->a->ufs, attach_went_down, op->a);
    master_space(m);
    op->cb(op->arg, rc, &op->err);
    free(op);
    master_idle(m);
}

static void attach_committed(struct mproposal *p)
{
    struct attach_op *op = p->arg;
    int rc = mproposal_rc(p);

    if (rc < 0)
        (void)tarn_err_set(&op->err, rc, "attach %s: %s", op->a->uri, tarn_strerror(rc));
    attach_end(op, rc);
}

static void attach_commit(struct attach_op *op)
{
    Tarn__Core__Entry e = TARN__CORE__ENTRY__INIT;
    Tarn__Core__Attachment rec;
    TARN_AUTO_FREE char *store_id = tarn_xstrdup(tarn_ufs_store_id(op->a->ufs));
    char ttl[32];

    tarn__core__attachment__init(&rec);
    rec.id = op->a->id;
    rec.path = op->a->path;
    rec.uri = op->a->uri;
    rec.store_id = store_id;
    rec.isolation = op->a->isolation;
    rec.root = op->a->root.v;
    rec.read_only = true;
    rec.since_ns = op->a->since_ns;
    (void)snprintf(ttl, sizeof(ttl), "%" PRIu64 "ns", op->a->ttl_ns); /* fits */
    rec.ttl = ttl;
    e.attach = &rec;
    if (mpropose(op->master, &op->proposal, &e, attach_committed, op) < 0)
        attach_end(op, tarn_err_set(&op->err, -TARN_E_TOO_BIG,
                                    "attach %s: the options are too long", op->a->uri));
}

static void attach_checked(struct tarn_ufs_check *c, int rc)
{
    struct attach_op *op = c->arg;

    tarn_timer_stop(&op->timer);
    op->checking = false;
    if (rc == 0 && op->master->stopping)
        rc = -TARN_E_SHUTDOWN;
    if (rc < 0) {
        op->err = c->list.req.err;
        if (op->timed_out) {
            char limit[32];

            rc = tarn_err_set(&op->err, -TARN_E_UFS_STALLED, "%s: no answer within %s", op->a->uri,
                              tarn_format_duration(op->check_timeout_ns, limit));
        }
        attach_end(op, rc);
        return;
    }
    attach_commit(op);
}

static void attach_timeout(struct tarn_timer *t, void *arg)
{
    struct attach_op *op = arg;

    (void)t; /* op's */
    op->timed_out = true;
    tarn_ufs_cancel(&op->check.list.req);
}

static void attach_failed(struct tarn_task *t)
{
    struct attach_op *op = TARN_CONTAINER(t, struct attach_op, task);

    attach_end(op, op->rc);
}

void mattach_stop(struct tarn_master *m)
{
    if (m->attaching && m->attaching->checking)
        tarn_ufs_cancel(&m->attaching->check.list.req);
    if (m->attach)
        tarn_timer_stop(&m->attach->probe);
}

/* When it was attached first, where that is known. */
static int attach_since(struct attach_op *op)
{
    Tarn__Core__Attachment *rec = NULL;
    int rc = tarn_core_attachment(op->master->args.kv, op->a->id, &rec);

    if (rc < 0)
        return rc;
    if (rec->since_ns)
        op->a->since_ns = rec->since_ns;
    tarn__core__attachment__free_unpacked(rec, NULL);
    return 0;
}

/* A directory that was used for another store is refused; for this one, the store need not be
 * asked. */
static int attach_compare(struct attach_op *op)
{
    struct tarn_str uri = {0}, store_id = {0};
    int rc = tarn_master_attached(op->master, op->a->path, &uri, &store_id);

    if (rc == 0 && (strcmp(tarn_str_z(&uri), op->a->uri) != 0 ||
                    strcmp(tarn_str_z(&store_id), tarn_ufs_store_id(op->a->ufs)) != 0))
        rc = tarn_err_set(&op->err, -TARN_E_DIR_FOREIGN,
                          "the cache directory was made for %s (%s), not for %s (%s)",
                          tarn_str_z(&uri), tarn_str_z(&store_id), op->a->uri,
                          tarn_ufs_store_id(op->a->ufs));
    op->known = rc == 0;
    if (rc == 0)
        rc = attach_since(op);
    tarn_str_fini(&uri);
    tarn_str_fini(&store_id);
    return rc == -TARN_E_NO_ATTACH ? 0 : rc;
}

void tarn_master_attach(struct tarn_master *m, const struct tarn_master_attach *args,
                        void (*cb)(void *arg, int rc, const struct tarn_errbuf *err), void *arg)
{
    struct attach_op *op = tarn_xnew(struct attach_op);
    struct tarn_ufs_args ufs_args = {.loop = m->args.loop, .uri = args->uri, .opts = args->opts};
    struct tarn_ufs *ufs = NULL;
    struct mattach *a;

    TARN_ASSERT(!m->attach && !m->attaching && !m->stopping && strcmp(args->path, "/") == 0);
    master_busy(m);
    m->attaching = op;
    op->master = m;
    op->cb = cb;
    op->arg = arg;
    op->rc = tarn_ufs_open(&ufs_args, &op->err, &ufs);
    if (op->rc < 0) {
        tarn_loop_post(m->args.loop, &op->task, attach_failed);
        return;
    }
    a = tarn_xnew(struct mattach);
    a->master = m;
    a->id = ATTACH_ID_ROOT;
    a->root = TARN_INO_ROOT;
    a->path = tarn_xstrdup(args->path);
    a->uri = tarn_xstrdup(tarn_ufs_uri(ufs));
    a->isolation = tarn_xstrdup(args->opts->isolation);
    a->ufs = ufs;
    a->ttl_ns = args->ttl_ns;
    a->uid = args->opts->uid == TARN_UFS_OWNER_UNSET ? getuid() : (uint32_t)args->opts->uid;
    a->gid = args->opts->gid == TARN_UFS_OWNER_UNSET ? getgid() : (uint32_t)args->opts->gid;
    a->file_mode = tarn_ufs_opts_mode(args->opts->file_mode);
    a->dir_mode = tarn_ufs_opts_mode(args->opts->dir_mode);
    a->since_ns = master_real_ns(m);
    op->a = a;
    op->rc = attach_compare(op);
    if (op->rc < 0) {
        tarn_loop_post(m->args.loop, &op->task, attach_failed);
        return;
    }
    if (!args->check || op->known) {
        attach_commit(op);
        return;
    }
    op->check_timeout_ns = args->check_timeout_ns;
    tarn_timer_start(m->args.loop, &op->timer, args->check_timeout_ns, attach_timeout, op);
    op->checking = true;
    op->check = (struct tarn_ufs_check){.cb = attach_checked, .arg = op};
    tarn_ufs_check(ufs, &op->check);
}
