/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The worker: its life, who it is among others, locators, and reports of changed objects.
 * Everything under way counts in `busy`; stop waits until it is 0.
 */
#include "worker/worker_priv.h"

#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"
#include "lib/base/hash.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/client/peers.h"

#define TRIM_NS         TARN_NS_PER_S /* spare buffers that nobody took for so long go back */
#define READS_SPARE_MAX 32u

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

static void bufs_trim(struct tarn_timer *t, void *arg)
{
    struct tarn_worker *w = arg;
    bool units = tarn_buf_pool_trim(w->bufs), reads = tarn_buf_pool_trim(w->reads);

    if (!units || !reads)
        tarn_timer_start(w->args.loop, t, TRIM_NS, bufs_trim, w);
}

struct tarn_buf *worker_buf(struct tarn_worker *w, size_t len)
{
    struct tarn_buf_pool *pool = NULL;

    if (len == TARN_UNIT_BYTES)
        pool = w->bufs;
    else if (len > TARN_READ_MAX / 2 && len <= TARN_READ_MAX)
        pool = w->reads;
    if (!pool)
        return tarn_buf_new(len);
    if (!tarn_timer_running(&w->trim))
        tarn_timer_start(w->args.loop, &w->trim, TRIM_NS, bufs_trim, w);
    return tarn_buf_pool_get(pool);
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
    w->reads = tarn_buf_pool_new(TARN_READ_MAX, READS_SPARE_MAX);
    w->serving = tarn_buf_account_new(NULL);
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
    if (w->server)
        tarn_rpc_server_set_worker(w->server, id);
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
    w->server = NULL;
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
    tarn_buf_pool_free(&w->reads);
    tarn_buf_account_unref(&w->serving); /* answers may be on their way still */
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

/*
 * A reader may know of fewer than a load asked for: it takes nothing back. Where bytes are cached
 * and nobody knows for how many, one reader's "one" is not known to be all.
 */
static void loc_replicas(struct wloc *loc)
{
    uint32_t known = tarn_tier_file_replicas(loc->file), wanted = TARN_MAX(loc->replicas, 1u);

    if (wanted > known && (wanted > 1 || tarn_tier_file_cached(loc->file) == 0))
        tarn_tier_file_set_replicas(loc->file, wanted);
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
        loc_replicas(loc);
    *ret = loc;
    return 0;
}

int wloc_cached(struct tarn_worker *w, const Tarn__Wire__Locator *l, struct wloc **ret)
{
    struct tarn_tier_file *file = NULL;
    struct wloc *loc;
    tarn_cid_t cid;

    if (!l || !l->ufs || l->cid.len != sizeof(cid.b) || l->ufs->size == 0)
        return -TARN_E_MSG_BAD;
    memcpy(cid.b, l->cid.data, sizeof(cid.b));
    if (w->args.tier)
        file = tarn_tier_file_find(w->args.tier, &cid);
    if (file && tarn_tier_file_length(file) != l->ufs->size)
        tarn_tier_file_put(&file);
    if (!file)
        return -TARN_E_NOT_CACHED;
    loc = tarn_xnew(struct wloc);
    loc->refs = 1;
    loc->ino = l->ino;
    loc->version = l->version;
    loc->key = tarn_xstrdup("");
    loc->cid = cid;
    loc->ufs.size_bytes = l->ufs->size;
    loc->file = file;
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
