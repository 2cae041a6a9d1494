/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fill handler: makes files present and verified. The files of one request are worked on side
 * by side, their groups at most FILL_WINDOW at a time; each group goes
 *
 *     present? -> verified since the start (and no --verify)? -> done
 *              -> load: read back and compare -> all granules good -> done
 *              -> else fetch (single flight with readers) -> kept in the tier? -> done
 *                                                                              -> else TIER_FULL
 *
 * A file's result is negative as soon as one of its groups failed; the other files go on.
 */
#include "worker/worker_priv.h"

#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"

#define FILL_WINDOW    16u /* groups of one request under way */
#define FILL_FILES_MAX 4096u

struct fill;

struct fill_file {
    struct wloc *loc;   /* NULL: refused, rc says why */
    uint32_t next, end; /* groups still to start: [next, end) */
    uint32_t pending;   /* groups under way */
    int rc;
    uint64_t fetched; /* bytes asked of the store, or of other workers, for it */
    char *err;        /* text, NULL: none */
};

struct fill_step {
    struct fill *fill;
    struct fill_file *file;
    uint32_t group;
    struct tarn_tier_op op;
    struct wwait wait;
    bool waiting;
};

struct fill {
    struct tarn_worker *worker;
    struct tarn_rpc_call *call;
    bool verify; /* read the medium again */
    struct fill_file *files;
    size_t count, at; /* at: the first file that may have groups to start */
    uint32_t running;
    bool cancelled;
    bool pumping; /* steps that end at once must not recurse */
};

static void fill_pump(struct fill *f);

static void fill_step_end(struct fill_step *s, int rc, const struct tarn_errbuf *err)
{
    struct fill *f = s->fill;
    struct fill_file *file = s->file;

    if (rc < 0 && file->rc == 0) {
        file->rc = rc;
        file->err = tarn_xstrdup(tarn_err_text(err, rc));
        file->next = file->end; /* the rest of a failed file is not asked for */
    }
    file->pending--;
    f->running--;
    free(s);
    fill_pump(f);
}

static void fill_fetched(struct wwait *wait, struct wunit *u, int rc)
{
    struct fill_step *s = wait->arg;
    struct tarn_tier_file *tf = s->file->loc->file;
    uint64_t off = (uint64_t)s->group * TARN_UNIT_BYTES;

    s->waiting = false;
    if (rc == 0 &&
        (!tf || !tarn_tier_file_has(tf, off, wgroup_len(s->file->loc->ufs.size_bytes, s->group))))
        rc = u->kept_rc < 0 ? u->kept_rc : -TARN_E_TIER_FULL;
    else if (rc == 0)
        s->file->fetched += wgroup_len(s->file->loc->ufs.size_bytes, s->group);
    fill_step_end(s, rc, &u->err);
}

static void fill_fetch(struct fill_step *s)
{
    s->waiting = true;
    s->wait = (struct wwait){.whole = true, .fn = fill_fetched, .arg = s};
    wfetch(s->fill->worker, s->file->loc, s->group, TARN_UFS_BACKGROUND, true, &s->wait);
}

static void fill_loaded(struct tarn_tier_op *op, int rc)
{
    struct fill_step *s = op->arg;
    uint64_t off = (uint64_t)s->group * TARN_UNIT_BYTES;
    uint32_t len = wgroup_len(s->file->loc->ufs.size_bytes, s->group);

    if (s->fill->worker->stopping || s->fill->cancelled)
        fill_step_end(s, -TARN_E_CANCELLED, NULL);
    else if (rc == 0 && tarn_tier_file_verified(s->file->loc->file, off, len))
        fill_step_end(s, 0, NULL);
    else
        fill_fetch(s); /* damaged, evicted meanwhile, or the medium failed: from the store */
}

static void fill_step_start(struct fill *f, struct fill_file *file, uint32_t group)
{
    struct fill_step *s = tarn_xnew(struct fill_step);
    struct tarn_tier_file *tf = file->loc->file;
    uint64_t off = (uint64_t)group * TARN_UNIT_BYTES;
    uint32_t len = wgroup_len(file->loc->ufs.size_bytes, group);

    s->fill = f;
    s->file = file;
    s->group = group;
    file->pending++;
    f->running++;
    if (tf) /* whoever plans loads has us own it */
        tarn_tier_group_copy(f->worker->args.tier, tf, group, false);
    if (!tf) {
        fill_step_end(s, -TARN_E_TIER_FULL, NULL);
    } else if (!tarn_tier_file_has(tf, off, len)) {
        fill_fetch(s);
    } else if (tarn_tier_file_verified(tf, off, len) && !f->verify) {
        fill_step_end(s, 0, NULL);
    } else {
        s->op = (struct tarn_tier_op){
            .file = tf, .group = group, .medium = f->verify, .cb = fill_loaded, .arg = s};
        tarn_tier_load(f->worker->args.tier, &s->op);
    }
}

static void fill_reply(struct fill *f)
{
    struct tarn_worker *w = f->worker;
    Tarn__Wire__FillResponse resp = TARN__WIRE__FILL_RESPONSE__INIT;
    Tarn__Wire__FillResult *rows = tarn_xcalloc(f->count, sizeof(*rows));
    Tarn__Wire__FillResult **ptrs = tarn_xcalloc(f->count, sizeof(Tarn__Wire__FillResult *));

    for (size_t i = 0; i < f->count; i++) {
        struct fill_file *file = &f->files[i];

        tarn__wire__fill_result__init(&rows[i]);
        ptrs[i] = &rows[i];
        rows[i].status = (uint32_t)-file->rc;
        rows[i].fetched = file->fetched;
        if (file->loc) {
            rows[i].bytes = file->loc->ufs.size_bytes;
            rows[i].cached = file->loc->file ? tarn_tier_file_cached(file->loc->file) : 0;
            rows[i].level = file->loc->file ? tarn_tier_file_level(file->loc->file) : 0;
        }
        if (file->err)
            rows[i].error_text = file->err;
    }
    resp.n_results = f->count;
    resp.results = ptrs;
    tarn_rpc_reply(f->call, f->cancelled ? -TARN_E_CANCELLED : 0, &resp.base, NULL, 0, 0);
    for (size_t i = 0; i < f->count; i++) {
        wloc_unref(w, &f->files[i].loc);
        free(f->files[i].err);
    }
    free(ptrs);
    free(rows);
    free(f->files);
    free(f);
    if (w->changed)
        w->changed(w->changed_arg);
    worker_idle(w);
}

static void fill_pump(struct fill *f)
{
    if (f->pumping)
        return;
    f->pumping = true;
    while (f->at < f->count && f->running < FILL_WINDOW) {
        struct fill_file *file = &f->files[f->at];

        if (f->cancelled || f->worker->stopping) {
            if (file->rc == 0 && file->next < file->end)
                file->rc = -TARN_E_CANCELLED;
            file->next = file->end;
        }
        if (file->next < file->end)
            fill_step_start(f, file, file->next++);
        else
            f->at++;
    }
    f->pumping = false;
    if (f->running == 0 && f->at == f->count)
        fill_reply(f);
}

static void fill_cancel(struct tarn_rpc_call *call)
{
    struct fill *f = call->state;

    f->cancelled = true; /* fetches under way go on to their end: readers may wait for them */
}

void worker_fill_handler(void *ctx, struct tarn_rpc_call *call)
{
    struct tarn_worker *w = ctx;
    const Tarn__Wire__FillRequest *req = (const Tarn__Wire__FillRequest *)call->request;
    struct fill *f;
    int rc = worker_refuses(w);

    if (rc == 0 && req->n_locators > FILL_FILES_MAX)
        rc = -TARN_E_TOO_BIG;
    if (rc < 0) {
        tarn_rpc_reply(call, rc, NULL, NULL, 0, 0);
        return;
    }
    worker_busy(w);
    f = tarn_xnew(struct fill);
    f->worker = w;
    f->call = call;
    f->verify = req->verify;
    f->count = req->n_locators;
    f->files = tarn_xcalloc(f->count, sizeof(*f->files));
    for (size_t i = 0; i < f->count; i++) {
        struct fill_file *file = &f->files[i];
        uint64_t end;

        file->rc = worker_check_cap(w, call, req->locators[i]->attachment, false);
        if (file->rc == 0)
            file->rc = wloc_new(w, req->locators[i], &file->loc);
        if (file->rc < 0)
            continue;
        end = file->loc->ufs.size_bytes;
        if (req->offset >= end)
            continue; /* nothing of it was asked for */
        if (req->length)
            end = TARN_MIN(end, req->offset + TARN_MIN(req->length, TARN_FILE_MAX));
        file->next = wgroup_of(req->offset);
        file->end = wgroup_count(end);
    }
    call->state = f;
    call->on_cancel = fill_cancel;
    fill_pump(f);
}
