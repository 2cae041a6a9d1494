/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The worker: life cycle, locators, the local short circuit, and the handlers read, free, cached
 * and worker_status (fill is in fill.c, take in take.c). Everything under way counts in `busy`;
 * stop waits until it is 0.
 */
#include "worker/worker_priv.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"
#include "lib/base/hash.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/client/peers.h"

/* ---- life cycle
 * --------------------------------------------------------------------------------------- */

void worker_busy(struct tarn_worker *w)
{
    w->busy++;
}

static void worker_stop_run(struct tarn_task *t)
{
    struct tarn_worker *w = TARN_CONTAINER(t, struct tarn_worker, stop_task);

    w->stop_posted = false;
    if (w->busy == 0 && w->stopped) {
        void (*stopped)(void *) = w->stopped;

        w->stopped = NULL;
        stopped(w->stopped_arg);
    }
}

void worker_idle(struct tarn_worker *w)
{
    TARN_ASSERT(w->busy > 0);
    if (--w->busy > 0 || !w->stopped || w->stop_posted)
        return;
    w->stop_posted = true;
    tarn_loop_post(w->args.loop, &w->stop_task, worker_stop_run);
}

int tarn_worker_new(const struct tarn_worker_args *args, struct tarn_worker **ret)
{
    struct tarn_worker *w = tarn_xnew(struct tarn_worker);

    TARN_ASSERT((args->cap_key != NULL || args->id == 0) && args->ufs_of != NULL);
    w->args = *args;
    w->cluster_id = tarn_xstrdup(args->cluster_id);
    w->ready = args->id != 0;
    if (w->ready)
        memcpy(w->cap_key, args->cap_key, sizeof(w->cap_key));
    if (!w->args.fetch_bytes_max)
        w->args.fetch_bytes_max = 64ull << 20;
    w->bufs = tarn_buf_pool_new(TARN_UNIT_BYTES,
                                (unsigned)TARN_MIN(w->args.fetch_bytes_max / TARN_UNIT_BYTES, 16u));
    tarn_list_init(&w->stores);
    tarn_list_init(&w->lingering);
    tarn_list_init(&w->reports);
    tarn_list_init(&w->etags_fifo);
    *ret = w;
    return 0;
}

/* ---- a member of a cluster --------------------------------------------------------------------
 */

#define CAP_LIFE_NS  (3600 * TARN_NS_PER_S)
#define CAP_RENEW_NS (CAP_LIFE_NS / 4)

/* What other workers are shown: made with the key that all of them have. */
static void worker_show(struct tarn_worker *w)
{
    Tarn__Wire__CapabilityBody body = TARN__WIRE__CAPABILITY_BODY__INIT;
    Tarn__Wire__CallMeta meta = TARN__WIRE__CALL_META__INIT;
    struct tarn_str cap = {0};

    body.cluster_id = w->cluster_id;
    body.principal = tarn_wire_text(WORKER_PRINCIPAL);
    body.expires_ns = w->args.clock->real_ns(w->args.clock) + (int64_t)CAP_LIFE_NS;
    body.write = true;
    tarn_cap_make(w->cap_key, &body, &cap);
    meta.capability = (ProtobufCBinaryData){cap.len, (uint8_t *)cap.p};
    tarn_peers_set_meta(w->peers, &meta);
    tarn_str_fini(&cap);
}

static void worker_renew(struct tarn_timer *t, void *arg)
{
    struct tarn_worker *w = arg;

    if (!w->ready || !w->peers || w->stopping)
        return;
    worker_show(w);
    tarn_timer_start(w->args.loop, t, CAP_RENEW_NS, worker_renew, w);
}

void tarn_worker_set_identity(struct tarn_worker *w, uint64_t id, const uint8_t *cap_key)
{
    TARN_ASSERT(id != 0 && cap_key != NULL);
    w->args.id = id;
    memcpy(w->cap_key, cap_key, sizeof(w->cap_key));
    w->ready = true;
    worker_renew(&w->renew, w);
}

void tarn_worker_set_peers(struct tarn_worker *w, struct tarn_peers *peers)
{
    w->peers = peers;
    worker_renew(&w->renew, w);
}

void tarn_worker_set_copies(struct tarn_worker *w, uint32_t copies, uint64_t max_bytes)
{
    struct tarn_tier_info info;

    w->copies = copies;
    if (!w->args.tier)
        return;
    tarn_tier_info(w->args.tier, &info);
    tarn_tier_set_copies_max(w->args.tier, max_bytes ? max_bytes : info.capacity_bytes / 10);
}

int worker_refuses(const struct tarn_worker *w)
{
    if (w->stopping)
        return -TARN_E_SHUTDOWN;
    return w->ready ? 0 : -TARN_E_BUSY; /* nobody's capability can be checked yet */
}

void tarn_worker_set_master(struct tarn_worker *w, struct tarn_rpc_client *master)
{
    w->args.master = master;
}

static void reports_cancel(struct tarn_worker *w);

void tarn_worker_stop(struct tarn_worker *w, void (*done)(void *arg), void *arg)
{
    size_t slot = 0;

    TARN_ASSERT(!w->stopping);
    w->stopping = true;
    w->stopped = done;
    w->stopped_arg = arg;
    for (struct tarn_hnode *n = tarn_htab_walk(&w->units, &slot, NULL); n;
         n = tarn_htab_walk(&w->units, &slot, n)) {
        struct wunit *u = TARN_CONTAINER(n, struct wunit, hnode);

        if (u->state == WUNIT_FETCHING)
            tarn_ufs_cancel(&u->get.req); /* ends later, never inside this call */
        wask_cancel(u);                   /* the same */
    }
    tarn_timer_stop(&w->renew);
    worker_busy(w);
    wfetch_pump(w); /* what is queued ends */
    reports_cancel(w);
    worker_idle(w);
}

void tarn_worker_free(struct tarn_worker **pw)
{
    struct tarn_worker *w = *pw;

    if (!w)
        return;
    TARN_ASSERT(w->busy == 0 && tarn_list_empty(&w->stores));
    tarn_timer_stop(&w->trim);
    tarn_buf_pool_free(&w->bufs);
    tarn_htab_fini(&w->units);
    wetags_fini(w);
    tarn_wipe(w->cap_key, sizeof(w->cap_key));
    free(w->recent);
    free(w->cluster_id);
    free(w);
    *pw = NULL;
}

void tarn_worker_counts(const struct tarn_worker *w, struct tarn_worker_counts *ret)
{
    *ret = w->counts;
}

/* ---- locators
 * ----------------------------------------------------------------------------------------- */

static int loc_version(const Tarn__Wire__UfsVersion *v, struct tarn_ufs_version *ret)
{
    size_t n = v && v->etag ? strlen(v->etag) : 0;

    if (!v || n > TARN_ETAG_MAX || v->size > TARN_FILE_MAX)
        return -TARN_E_MSG_BAD;
    if (v->size > (uint64_t)UINT32_MAX * TARN_UNIT_BYTES) /* a group's number has 32 bits */
        return -TARN_E_TOO_BIG;
    *ret = (struct tarn_ufs_version){.size_bytes = v->size,
                                     .mtime_ns = v->mtime_ns,
                                     .ctime_ns = v->ctime_ns,
                                     .file_id = v->file_id};
    if (n)
        memcpy(ret->etag, v->etag, n);
    return 0;
}

int wloc_new(struct tarn_worker *w, const Tarn__Wire__Locator *l, struct wloc **ret)
{
    const char *isolation = NULL;
    struct tarn_ufs *store;
    struct wloc *loc;
    tarn_cid_t cid;
    int rc;

    if (!l || l->cid.len != sizeof(cid.b) || l->key.len == 0 || l->key.len > TARN_KEY_MAX * 4 ||
        memchr(l->key.data, 0, l->key.len))
        return -TARN_E_MSG_BAD;
    store = w->args.ufs_of(w->args.ctx, l->attachment, &isolation);
    if (!store)
        return -TARN_E_NO_ATTACH;
    loc = tarn_xnew(struct wloc);
    loc->refs = 1;
    loc->ino = l->ino;
    loc->version = l->version;
    loc->attachment = l->attachment;
    loc->replicas = l->replicas;
    loc->key = tarn_xcalloc(1, l->key.len + 1);
    memcpy(loc->key, l->key.data, l->key.len);
    memcpy(loc->cid.b, l->cid.data, sizeof(loc->cid.b));
    rc = loc_version(l->ufs, &loc->ufs);
    if (rc == 0) {
        cid = tarn_ufs_cid_of(store, isolation, loc->key, &loc->ufs);
        if (!tarn_cid_eq(&cid, &loc->cid) || loc->ufs.size_bytes == 0)
            rc = -TARN_E_CAP_BAD;
    }
    if (rc < 0) {
        free(loc->key);
        free(loc);
        return rc;
    }
    if (w->args.tier)
        loc->file = tarn_tier_file_get(w->args.tier, &loc->cid, loc->ufs.size_bytes);
    if (loc->file)
        tarn_tier_file_set_replicas(loc->file, TARN_MAX(loc->replicas, 1u));
    *ret = loc;
    return 0;
}

void wloc_tell(const struct wloc *l, Tarn__Wire__Locator *ret, Tarn__Wire__UfsVersion *ret_version)
{
    tarn__wire__ufs_version__init(ret_version);
    ret_version->size = l->ufs.size_bytes;
    ret_version->mtime_ns = l->ufs.mtime_ns;
    ret_version->ctime_ns = l->ufs.ctime_ns;
    ret_version->file_id = l->ufs.file_id;
    ret_version->etag = tarn_wire_text(l->ufs.etag);
    tarn__wire__locator__init(ret);
    ret->ino = l->ino;
    ret->version = l->version;
    ret->cid = tarn_wire_bytes(l->cid.b, sizeof(l->cid.b));
    ret->attachment = l->attachment;
    ret->key = tarn_wire_bytes(l->key, strlen(l->key));
    ret->ufs = ret_version;
    ret->replicas = l->replicas;
}

struct tarn_ufs *wloc_store(struct tarn_worker *w, const struct wloc *l)
{
    const char *isolation = NULL;
    struct tarn_ufs *store = w->args.ufs_of(w->args.ctx, l->attachment, &isolation);
    tarn_cid_t cid;

    if (!store)
        return NULL;
    cid = tarn_ufs_cid_of(store, isolation, l->key, &l->ufs);
    return tarn_cid_eq(&cid, &l->cid) ? store : NULL;
}

struct wloc *wloc_ref(struct wloc *l)
{
    l->refs++;
    return l;
}

void wloc_unref(struct tarn_worker *w, struct wloc **pl)
{
    struct wloc *l = *pl;

    *pl = NULL;
    if (!l || --l->refs > 0)
        return;
    (void)w;
    if (l->file)
        tarn_tier_file_put(&l->file);
    free(l->key);
    free(l);
}

#define REPORTS_MAX 256u /* reports under way: the next reader reports again */

struct changed_report {
    struct tarn_rpc_req req;
    struct tarn_list node; /* in worker->reports */
    struct tarn_worker *worker;
    uint64_t ino, version;
};

static void changed_reported(struct tarn_rpc_req *req, int rc)
{
    struct changed_report *rep = req->arg;
    struct tarn_worker *w = rep->worker;

    if (rc < 0 && !w->stopping)
        tarn_warn_limited("worker", "the master did not take a report of a changed object: %s",
                          tarn_strerror(rc));
    tarn_list_del(&rep->node);
    w->report_count--;
    tarn_rpc_req_fini(req);
    free(rep);
    worker_idle(w);
}

/* Every unit of a file finds out that it changed: one report is enough. */
static bool report_known(const struct tarn_worker *w, const struct wloc *loc)
{
    TARN_LIST_FOREACH(n, &w->reports)
    {
        const struct changed_report *rep = TARN_LIST_ENTRY(n, struct changed_report, node);

        if (rep->ino == loc->ino && rep->version == loc->version)
            return true;
    }
    return false;
}

static void reports_cancel(struct tarn_worker *w)
{
    TARN_LIST_FOREACH(n, &w->reports)
    {
        tarn_rpc_cancel(&TARN_LIST_ENTRY(n, struct changed_report, node)->req);
    }
}

void worker_report_changed(struct tarn_worker *w, const struct wloc *loc, int rc)
{
    Tarn__Wire__ChangedRequest msg = TARN__WIRE__CHANGED_REQUEST__INIT;
    struct changed_report *rep;

    if (!w->args.master || w->stopping || w->report_count >= REPORTS_MAX || report_known(w, loc))
        return;
    worker_busy(w);
    rep = tarn_xnew(struct changed_report);
    rep->worker = w;
    rep->ino = loc->ino;
    rep->version = loc->version;
    tarn_list_push(&w->reports, &rep->node);
    w->report_count++;
    msg.ino = loc->ino;
    msg.version = loc->version;
    msg.reason = (uint32_t)-rc;
    rep->req.method = TARN_RPC_report_changed;
    rep->req.msg = &msg.base;
    rep->req.cb = changed_reported;
    rep->req.arg = rep;
    tarn_rpc_start(w->args.master, &rep->req);
}

int worker_check_cap(struct tarn_worker *w, const struct tarn_rpc_call *call, uint32_t attachment,
                     bool write)
{
    int rc = worker_refuses(w);

    if (rc < 0 || call->principal.trusted)
        return rc;
    if (!call->meta)
        return -TARN_E_CAP_BAD;
    return tarn_cap_check(w->cap_key, w->cluster_id, w->args.clock->real_ns(w->args.clock),
                          attachment, write, &call->meta->capability);
}

/* ---- the short circuit: lib/client's vtable
 * --------------------------------------------------------------- */

#define LOCAL_FILE_MAGIC 0x574c4f43u /* "WLOC" */

/* What a client's handle holds: the tier's file and, after the first read that needed one, the
 * locator. */
struct local_file {
    uint32_t magic;
    struct tarn_worker *worker;
    struct tarn_tier_file *file;
};

struct local_read {
    struct wread read;
    struct wloc *loc;
    struct tarn_local_read *user;
    struct tarn_task task; /* an error found at once */
    int rc;
};

static void *local_open(void *ctx, const tarn_cid_t *cid, uint64_t length)
{
    struct tarn_worker *w = ctx;
    struct local_file *lf = tarn_xnew(struct local_file);

    lf->magic = LOCAL_FILE_MAGIC;
    lf->worker = w;
    if (w->args.tier)
        lf->file = tarn_tier_file_get(w->args.tier, cid, length);
    return lf;
}

static void local_close(void *ctx, void *file)
{
    struct local_file *lf;

    (void)ctx; /* in the file */
    TARN_CAST(lf, file, LOCAL_FILE_MAGIC);
    if (lf->file)
        tarn_tier_file_put(&lf->file);
    lf->magic = 0;
    free(lf);
}

static int64_t local_try_read(void *ctx, void *file, uint64_t off, uint32_t len, void *dst)
{
    struct local_file *lf;

    (void)ctx; /* in the file */
    TARN_CAST(lf, file, LOCAL_FILE_MAGIC);
    return lf->file ? tarn_tier_try_read(lf->file, off, len, dst) : -TARN_E_NOT_CACHED;
}

static uint64_t local_cached(void *ctx, void *file)
{
    struct local_file *lf;

    (void)ctx; /* in the file */
    TARN_CAST(lf, file, LOCAL_FILE_MAGIC);
    return lf->file ? tarn_tier_file_cached(lf->file) : 0;
}

static int local_lend(void *ctx, void *file, void **ret_loan)
{
    struct local_file *lf;
    struct tarn_tier_loan *loan;
    int fd;

    (void)ctx; /* in the file */
    TARN_CAST(lf, file, LOCAL_FILE_MAGIC);
    fd = lf->file ? tarn_tier_lend(lf->file, &loan) : -TARN_E_NOT_CACHED;
    if (fd >= 0)
        *ret_loan = loan;
    return fd;
}

static bool local_loan_bad(void *ctx, void *file, void *loan)
{
    (void)ctx;
    (void)file; /* both in the loan */
    return tarn_tier_loan_bad(loan);
}

static void local_give_back(void *ctx, void *file, void *loan)
{
    struct local_file *lf;
    struct tarn_tier_loan *l = loan;

    (void)ctx; /* in the file */
    TARN_CAST(lf, file, LOCAL_FILE_MAGIC);
    tarn_tier_give_back(lf->file, &l);
}

static void count_source(struct tarn_worker *w, const struct wpart *p)
{
    uint64_t *const to[] = {&w->counts.local_bytes, &w->counts.remote_bytes, &w->counts.ufs_bytes};

    *to[p->source] += p->len_bytes;
}

static void local_read_done(struct wread *r, int rc)
{
    struct local_read *lr = r->arg;
    struct tarn_local_read *user = lr->user;
    struct tarn_worker *w = r->worker;

    user->slice_count = 0;
    user->source = 0;
    for (unsigned i = 0; rc == 0 && i < r->part_count; i++) {
        struct wpart *p = &r->parts[i];

        user->slices[user->slice_count++] = (struct tarn_slice){
            .buf = tarn_buf_ref(p->buf), .off = p->buf_off, .len = p->len_bytes};
        user->source = TARN_MAX(user->source, (uint32_t)p->source);
        count_source(w, p);
    }
    wread_fini(r);
    wloc_unref(w, &lr->loc);
    free(lr);
    user->state = NULL;
    user->cb(user, rc);
}

static void local_read_failed(struct tarn_task *t)
{
    struct local_read *lr = TARN_CONTAINER(t, struct local_read, task);
    struct tarn_local_read *user = lr->user;
    int rc = lr->rc;

    free(lr);
    user->state = NULL;
    user->slice_count = 0;
    user->cb(user, rc);
}

static void local_read(void *ctx, struct tarn_local_read *user)
{
    struct tarn_worker *w = ctx;
    struct local_read *lr = tarn_xnew(struct local_read);

    TARN_ASSERT(user->len_bytes > 0 && user->len_bytes <= TARN_READ_MAX);
    lr->user = user;
    user->state = lr;
    lr->rc = w->stopping ? -TARN_E_SHUTDOWN : wloc_new(w, user->locator, &lr->loc);
    if (lr->rc == 0 && user->off_bytes + user->len_bytes > lr->loc->ufs.size_bytes) {
        wloc_unref(w, &lr->loc);
        lr->rc = -TARN_E_INVALID;
    }
    if (lr->rc < 0) {
        tarn_loop_post(w->args.loop, &lr->task, local_read_failed);
        return;
    }
    lr->read.loc = lr->loc;
    lr->read.off_bytes = user->off_bytes;
    lr->read.len_bytes = user->len_bytes;
    lr->read.ahead_units = user->ahead_units;
    lr->read.cls = TARN_UFS_FOREGROUND;
    lr->read.cb = local_read_done;
    lr->read.arg = lr;
    wread_start(w, &lr->read);
}

static void local_cancel(void *ctx, struct tarn_local_read *user)
{
    struct local_read *lr = user->state;

    (void)ctx; /* in the read */
    if (lr && lr->loc)
        wread_cancel(&lr->read);
}

void tarn_worker_local_ops(struct tarn_worker *w, struct tarn_local_ops *ret)
{
    *ret = (struct tarn_local_ops){.ctx = w,
                                   .open = local_open,
                                   .close = local_close,
                                   .try_read = local_try_read,
                                   .cached = local_cached,
                                   .lend = local_lend,
                                   .loan_bad = local_loan_bad,
                                   .give_back = local_give_back,
                                   .read = local_read,
                                   .cancel = local_cancel};
}

/* ---- handlers
 * ------------------------------------------------------------------------------------------- */

#define READ_AHEAD_MAX 16u /* groups */

struct rpc_read {
    struct wread read;
    struct wloc *loc;
    struct tarn_rpc_call *call;
    uint64_t sums[TARN_FRAME_PAYLOAD_MAX / TARN_GRANULE_BYTES];
};

static const char *const source_names[] = {"local", "remote", "ufs"};

static void rpc_read_done(struct wread *r, int rc)
{
    struct rpc_read *rr = r->arg;
    struct tarn_worker *w = r->worker;
    Tarn__Wire__ReadResponse resp = TARN__WIRE__READ_RESPONSE__INIT;
    enum wsource source = WSOURCE_LOCAL;
    struct tarn_buf *out = NULL;
    size_t n = 0;

    if (rc == 0) {
        out = tarn_buf_new(r->len_bytes);
        rc = out ? 0 : -TARN_E_NO_MEMORY;
    }
    for (unsigned i = 0; rc == 0 && i < r->part_count; i++) {
        struct wpart *p = &r->parts[i];

        memcpy(out->p + n, p->buf->p + p->buf_off, p->len_bytes);
        n += p->len_bytes;
        source = TARN_MAX(source, p->source);
        resp.level = i ? TARN_MIN(resp.level, p->level) : p->level;
        resp.tag = p->tag; /* of one file: the same for all */
        if (r->own || r->cached_only)
            w->counts.served_bytes += p->len_bytes;
        else
            count_source(w, p);
    }
    resp.offset = r->off_bytes;
    resp.source = tarn_wire_text(source_names[source]);
    resp.n_sums = rc == 0 ? (size_t)tarn_div_up(r->len_bytes, TARN_GRANULE_BYTES) : 0;
    resp.sums = rr->sums;
    tarn_rpc_reply(rr->call, rc, &resp.base, out, 0, n);
    tarn_buf_unref(&out);
    wread_fini(r);
    wloc_unref(w, &rr->loc);
    free(rr);
}

static void rpc_read_cancel(struct tarn_rpc_call *call)
{
    struct rpc_read *rr = call->state;

    wread_cancel(&rr->read);
}

static void worker_read_handler(void *ctx, struct tarn_rpc_call *call)
{
    struct tarn_worker *w = ctx;
    const Tarn__Wire__ReadRequest *req = (const Tarn__Wire__ReadRequest *)call->request;
    struct wloc *loc = NULL;
    struct rpc_read *rr;
    uint64_t end;
    int rc = worker_check_cap(w, call, req->locator ? req->locator->attachment : 0, false);

    if (rc == 0)
        rc = wloc_new(w, req->locator, &loc);
    if (rc == 0 && (req->length == 0 || req->length > TARN_FRAME_PAYLOAD_MAX / 2 ||
                    req->offset >= loc->ufs.size_bytes)) {
        wloc_unref(w, &loc);
        rc = -TARN_E_INVALID;
    }
    if (rc < 0) {
        tarn_rpc_reply(call, rc, NULL, NULL, 0, 0);
        return;
    }
    rr = tarn_xnew(struct rpc_read);
    rr->call = call;
    rr->loc = loc;
    end = TARN_MIN(req->offset + req->length, loc->ufs.size_bytes);
    end = TARN_MIN(tarn_div_up(end, TARN_GRANULE_BYTES) * TARN_GRANULE_BYTES, loc->ufs.size_bytes);
    rr->read.loc = loc;
    rr->read.off_bytes = req->offset / TARN_GRANULE_BYTES * TARN_GRANULE_BYTES;
    rr->read.len_bytes = (uint32_t)(end - rr->read.off_bytes);
    rr->read.sums = true;
    rr->read.sum = rr->sums;
    rr->read.cached_only = req->cached_only;
    rr->read.own = req->peer;
    rr->read.ahead_units = req->cached_only ? 0 : TARN_MIN(req->ahead, READ_AHEAD_MAX);
    rr->read.cls = req->background ? TARN_UFS_BACKGROUND : TARN_UFS_FOREGROUND;
    rr->read.cb = rpc_read_done;
    rr->read.arg = rr;
    call->state = rr;
    call->on_cancel = rpc_read_cancel;
    wread_start(w, &rr->read);
}

/* Frees and `cached` answer lists of cids in slices, so that the loop is never held for long. */
struct cid_job {
    struct tarn_worker *worker;
    struct tarn_rpc_call *call;
    const ProtobufCBinaryData *cids;
    size_t count, at;
    uint64_t *bytes;
    struct tarn_tier_op op;
    struct tarn_tier_file *file;
    bool free;
};

static int cid_of(const ProtobufCBinaryData *d, tarn_cid_t *ret)
{
    if (d->len != sizeof(ret->b))
        return -TARN_E_MSG_BAD;
    memcpy(ret->b, d->data, sizeof(ret->b));
    return 0;
}

static void cid_job_end(struct cid_job *j, int rc)
{
    struct tarn_worker *w = j->worker;

    if (j->free) {
        Tarn__Wire__FreeResponse resp = TARN__WIRE__FREE_RESPONSE__INIT;

        resp.n_bytes = j->count;
        resp.bytes = j->bytes;
        tarn_rpc_reply(j->call, rc, &resp.base, NULL, 0, 0);
    } else {
        Tarn__Wire__CachedResponse resp = TARN__WIRE__CACHED_RESPONSE__INIT;

        resp.n_bytes = j->count;
        resp.bytes = j->bytes;
        tarn_rpc_reply(j->call, rc, &resp.base, NULL, 0, 0);
    }
    free(j->bytes);
    free(j);
    worker_idle(w);
}

static void free_next(struct cid_job *j);

static void free_dropped(struct tarn_tier_op *op, int rc)
{
    struct cid_job *j = op->arg;

    tarn_tier_file_put(&j->file);
    if (rc < 0) {
        cid_job_end(j, rc);
        return;
    }
    j->at++;
    free_next(j);
}

static void free_next(struct cid_job *j)
{
    tarn_cid_t cid;

    for (; j->at < j->count; j->at++) {
        if (cid_of(&j->cids[j->at], &cid) < 0) {
            cid_job_end(j, -TARN_E_MSG_BAD);
            return;
        }
        j->file = j->worker->args.tier ? tarn_tier_file_find(j->worker->args.tier, &cid) : NULL;
        if (!j->file)
            continue;
        j->bytes[j->at] = tarn_tier_file_cached(j->file);
        j->op = (struct tarn_tier_op){.file = j->file, .cb = free_dropped, .arg = j};
        tarn_tier_drop(j->worker->args.tier, &j->op);
        return;
    }
    cid_job_end(j, 0);
}

static struct cid_job *cid_job_new(struct tarn_worker *w, struct tarn_rpc_call *call, bool is_free,
                                   size_t count, const ProtobufCBinaryData *cids)
{
    struct cid_job *j = tarn_xnew(struct cid_job);

    worker_busy(w);
    j->worker = w;
    j->call = call;
    j->free = is_free;
    j->count = count;
    j->cids = cids;
    j->bytes = tarn_xcalloc(count, sizeof(*j->bytes));
    return j;
}

static void worker_free_handler(void *ctx, struct tarn_rpc_call *call)
{
    struct tarn_worker *w = ctx;
    const Tarn__Wire__FreeRequest *req = (const Tarn__Wire__FreeRequest *)call->request;
    int rc = worker_check_cap(w, call, 0, true);

    if (rc < 0)
        tarn_rpc_reply(call, rc, NULL, NULL, 0, 0);
    else
        free_next(cid_job_new(w, call, true, req->n_cids, req->cids));
}

static void worker_cached_handler(void *ctx, struct tarn_rpc_call *call)
{
    struct tarn_worker *w = ctx;
    const Tarn__Wire__CachedRequest *req = (const Tarn__Wire__CachedRequest *)call->request;
    struct cid_job *j;
    tarn_cid_t cid;
    int rc = worker_check_cap(w, call, 0, false);

    if (rc < 0) {
        tarn_rpc_reply(call, rc, NULL, NULL, 0, 0);
        return;
    }
    j = cid_job_new(w, call, false, req->n_cids, req->cids);
    for (; rc == 0 && j->at < j->count; j->at++) {
        struct tarn_tier_file *f;

        rc = cid_of(&j->cids[j->at], &cid);
        f = rc == 0 && w->args.tier ? tarn_tier_file_find(w->args.tier, &cid) : NULL;
        if (f) {
            j->bytes[j->at] = tarn_tier_file_cached(f);
            tarn_tier_file_put(&f);
        }
    }
    cid_job_end(j, rc);
}

void worker_tell_tier(const struct tarn_tier_info *info, Tarn__Wire__Tier *ret)
{
    ret->medium = tarn_wire_text(tarn_medium_name(info->medium));
    ret->path = tarn_wire_text(info->path);
    ret->capacity = info->capacity_bytes;
    ret->used = info->used_bytes;
    ret->data = info->data_bytes;
    ret->files = info->files;
    ret->evicted = info->evicted_bytes;
    ret->checksum_errors = info->checksum_errors;
    ret->offline = info->offline;
}

void worker_tell_reads(const struct tarn_worker *w, Tarn__Wire__ReadCount rows[3],
                       Tarn__Wire__ReadCount *ptrs[3])
{
    const uint64_t bytes[] = {w->counts.local_bytes, w->counts.remote_bytes, w->counts.ufs_bytes};

    for (unsigned i = 0; i < 3; i++) {
        tarn__wire__read_count__init(&rows[i]);
        rows[i].source = tarn_wire_text(source_names[i]);
        rows[i].bytes = bytes[i];
        ptrs[i] = &rows[i];
    }
}

static void worker_status_handler(void *ctx, struct tarn_rpc_call *call)
{
    struct tarn_worker *w = ctx;
    Tarn__Wire__WorkerStatus resp = TARN__WIRE__WORKER_STATUS__INIT;
    Tarn__Wire__Tier tier = TARN__WIRE__TIER__INIT, *tiers[1] = {&tier};
    char uuid[TARN_TIER_UUID_TEXT];
    Tarn__Wire__ReadCount rows[3], *reads[3];
    struct tarn_tier_info info;

    if (!w->ready) {
        tarn_rpc_reply(call, -TARN_E_BUSY, NULL, NULL, 0, 0);
        return;
    }
    worker_tell_reads(w, rows, reads);
    resp.id = w->args.id;
    resp.state = tarn_wire_text("live");
    resp.peer_bytes = w->counts.peer_bytes;
    resp.n_reads = TARN_ARRAY_LEN(rows);
    resp.reads = reads;
    if (w->args.tier) {
        tarn_tier_info(w->args.tier, &info);
        worker_tell_tier(&info, &tier);
        tier.uuid = tarn_wire_text(tarn_tier_uuid(w->args.tier, uuid));
        resp.n_tiers = 1;
        resp.tiers = tiers;
    }
    tarn_rpc_reply(call, 0, &resp.base, NULL, 0, 0);
}

void tarn_worker_serve(struct tarn_worker *w, struct tarn_rpc_server *s)
{
    tarn_rpc_server_handle(s, TARN_RPC_read, worker_read_handler, w);
    tarn_rpc_server_handle(s, TARN_RPC_fill, worker_fill_handler, w);
    tarn_rpc_server_handle(s, TARN_RPC_free, worker_free_handler, w);
    tarn_rpc_server_handle(s, TARN_RPC_cached, worker_cached_handler, w);
    tarn_rpc_server_handle(s, TARN_RPC_take, worker_take_handler, w);
    tarn_rpc_server_handle(s, TARN_RPC_worker_status, worker_status_handler, w);
}
