/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reports: resolve, where, status, store_ask (du: svc_du.c). `where` asks the workers what they
 * have of a file: the figures are their own, not a guess. A worker that does not answer is left
 * out, and the answer says so.
 */
#include "master/master_priv.h"

#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"
#include "lib/base/name.h"
#include "lib/base/units.h"

#define ASK_WAIT_MAX_MS 60000u

/* ---- reports that wait
 * --------------------------------------------------------------------------------------------------
 */

static void report_cancelled(struct tarn_rpc_call *call)
{
    struct mreport *r = call->state;

    r->cancelled = true;
    r->cancel(r);
}

static void report_begin(struct mreport *r, struct tarn_master *m, struct tarn_rpc_call *call,
                         void (*cancel)(struct mreport *r))
{
    master_busy(m);
    r->master = m;
    r->call = call;
    r->cancel = cancel;
    tarn_list_push(&m->reports, &r->node);
    call->state = r;
    call->on_cancel = report_cancelled;
}

void mreport_begin(struct mreport *r, struct tarn_master *m, struct tarn_rpc_call *call,
                   void (*cancel)(struct mreport *r))
{
    report_begin(r, m, call, cancel);
}

static void report_reply(struct mreport *r, int rc, const ProtobufCMessage *resp)
{
    tarn_list_del(&r->node);
    if (rc == -TARN_E_CANCELLED)
        rc = r->master->stopping ? -TARN_E_SHUTDOWN : -TARN_E_DEADLINE;
    tarn_rpc_reply(r->call, rc, resp, NULL, 0, 0);
}

void mreport_reply(struct mreport *r, int rc, const ProtobufCMessage *resp)
{
    report_reply(r, rc, resp);
}

void mreport_stop_all(struct tarn_master *m)
{
    struct tarn_list all;

    tarn_list_init(&all);
    tarn_list_splice(&all, &m->reports);
    for (struct tarn_list *n = tarn_list_pop(&all); n; n = tarn_list_pop(&all)) {
        struct mreport *r = TARN_LIST_ENTRY(n, struct mreport, node);

        tarn_list_push(&m->reports, n); /* most end later, from the loop; some, or others, here */
        r->call->on_cancel = NULL;
        r->cancelled = true;
        r->cancel(r);
    }
}

/* ---- resolve
 * --------------------------------------------------------------------------------------------------------
 */

struct resolve_call {
    struct mreport report;
    struct tarn_master *master;
    struct mpath_req path;
    struct mhold hold;
    bool holding;
    char text[TARN_PATH_MAX];
};

int mreport_path(const ProtobufCBinaryData *in, char *ret)
{
    TARN_AUTO_FREE char *z = NULL;

    if (in->len >= TARN_PATH_MAX)
        return -TARN_E_NAME_TOO_LONG;
    if (in->len && memchr(in->data, 0, in->len))
        return -TARN_E_NAME_BAD;
    z = tarn_xcalloc(1, in->len + 1);
    if (in->len)
        memcpy(z, in->data, in->len);
    return tarn_path_normalize(z, ret);
}

static void resolve_answer(struct resolve_call *r, int rc);

static void resolve_hold_over(struct mhold *w)
{
    struct resolve_call *r = TARN_CONTAINER(w, struct resolve_call, hold);

    r->holding = false;
    resolve_answer(r, r->master->stopping ? -TARN_E_SHUTDOWN : 0);
}

static void resolve_answer(struct resolve_call *r, int rc)
{
    struct tarn_master *m = r->master;
    Tarn__Wire__ResolveResponse resp = TARN__WIRE__RESOLVE_RESPONSE__INIT;
    Tarn__Wire__Attr attr;
    Tarn__Core__Inode *inode = NULL;

    if (rc == 0)
        rc = tarn_core_inode(m->args.kv, r->path.ino, &inode);
    if (rc == 0 && mhold_wanted(m, r->path.ino, inode->changed)) {
        r->hold = (struct mhold){.fn = resolve_hold_over};
        r->holding = true;
        mhold_start(m, &r->hold, r->path.ino, inode->changed);
        tarn__core__inode__free_unpacked(inode, NULL);
        return;
    }
    if (rc == 0) {
        mname_attr(m, r->path.ino, inode, &attr);
        resp.attr = &attr;
        attr.trust_ms = mpromise_grant(m, r->report.call, attr.parent, attr.ino, attr.trust_ms);
    }
    report_reply(&r->report, rc == -TARN_E_UFS_NOT_FOUND ? -TARN_E_NO_ENTRY : rc, &resp.base);
    tarn__core__inode__free_unpacked(inode, NULL);
    free(r);
    master_idle(m);
}

static void resolve_done(struct mpath_req *p, int rc)
{
    resolve_answer(p->arg, rc);
}

static void resolve_cancel(struct mreport *report)
{
    struct resolve_call *r = TARN_CONTAINER(report, struct resolve_call, report);

    if (r->holding) {
        mhold_forget(&r->hold);
        resolve_answer(r, -TARN_E_CANCELLED);
    } else {
        mpath_cancel(&r->path);
    }
}

static void svc_resolve(void *ctx, struct tarn_rpc_call *call)
{
    const Tarn__Wire__ResolveRequest *req = (const Tarn__Wire__ResolveRequest *)call->request;
    struct resolve_call *r = tarn_xnew(struct resolve_call);
    int rc = mreport_path(&req->path, r->text);

    r->master = ctx;
    if (rc < 0) {
        tarn_rpc_reply(call, rc, NULL, NULL, 0, 0);
        free(r);
        return;
    }
    report_begin(&r->report, r->master, call, resolve_cancel);
    r->path = (struct mpath_req){.path = r->text, .fn = resolve_done, .arg = r};
    mpath_start(r->master, &r->path);
}

/* ---- where
 * ----------------------------------------------------------------------------------------------------------
 */

struct where_call {
    struct mreport report;
    struct tarn_master *master;
    struct mpath_req path;
    char text[TARN_PATH_MAX];
    struct mspread ask;
    struct mspread_item item;
    bool asking;
    struct mspread_away away;
    uint64_t *workers;
    size_t worker_count;
};

static void where_reply(struct where_call *w, int rc)
{
    struct tarn_master *m = w->master;
    Tarn__Wire__WhereResponse resp = TARN__WIRE__WHERE_RESPONSE__INIT;
    TARN_AUTO_FREE char *reason = NULL;

    resp.cached_bytes = w->item.bytes;
    resp.replicas = w->item.copies;
    resp.n_workers = w->worker_count;
    resp.workers = w->workers;
    resp.partial = w->asking && (w->away.n > 0 || !w->item.sure);
    if (resp.partial) {
        reason = mspread_reason(m, &w->away);
        resp.reason = reason;
    }
    report_reply(&w->report, rc, &resp.base);
    mspread_away_fini(&w->away);
    free(w->workers);
    free(w);
    master_idle(m);
}

static void where_cancel(struct mreport *report)
{
    struct where_call *w = TARN_CONTAINER(report, struct where_call, report);

    if (w->asking)
        mspread_cancel(&w->ask);
    else
        mpath_cancel(&w->path);
}

static void where_holds(struct mspread *s, size_t item, uint64_t worker)
{
    struct where_call *w = s->arg;
    size_t at = w->worker_count++;

    (void)item; /* there is one */
    w->workers = tarn_xrealloc(w->workers, w->worker_count * sizeof(*w->workers));
    for (; at > 0 && w->workers[at - 1] > worker; at--) /* in whatever order they answer */
        w->workers[at] = w->workers[at - 1];
    w->workers[at] = worker;
}

static void where_asked(struct mspread *s, int rc)
{
    where_reply(s->arg, rc);
}

/* version 0: any. */
static void where_ask(struct where_call *w, tarn_ino_t ino, uint64_t version, int rc)
{
    Tarn__Core__Inode *inode = NULL;

    if (rc == 0)
        rc = tarn_core_inode(w->master->args.kv, ino, &inode);
    if (rc == 0 && version && inode->version != version)
        rc = -TARN_E_STALE;
    if (rc == 0 && inode->type == TARN_UFS_DIR)
        rc = -TARN_E_IS_DIR;
    if (rc == 0 && inode->ufs && inode->ufs->size > 0 && inode->cid.len == sizeof(tarn_cid_t)) {
        w->item.size = inode->ufs->size;
        memcpy(w->item.cid.b, inode->cid.data, sizeof(tarn_cid_t));
        w->asking = true;
        w->ask = (struct mspread){.master = w->master,
                                  .items = &w->item,
                                  .count = 1,
                                  .away = &w->away,
                                  .holds = where_holds,
                                  .fn = where_asked,
                                  .arg = w};
        mspread_start(&w->ask);
    } else {
        where_reply(w, rc == -TARN_E_UFS_NOT_FOUND ? -TARN_E_NO_ENTRY : rc);
    }
    tarn__core__inode__free_unpacked(inode, NULL);
}

static void where_resolved(struct mpath_req *p, int rc)
{
    struct where_call *w = p->arg;

    where_ask(w, p->ino, 0, rc == 0 && w->report.cancelled ? -TARN_E_CANCELLED : rc);
}

static void svc_where(void *ctx, struct tarn_rpc_call *call)
{
    const Tarn__Wire__WhereRequest *req = (const Tarn__Wire__WhereRequest *)call->request;
    struct where_call *w = tarn_xnew(struct where_call);
    int rc;

    w->master = ctx;
    report_begin(&w->report, w->master, call, where_cancel);
    if (req->ino) {
        where_ask(w, (tarn_ino_t){req->ino}, req->version,
                  w->master->stopping ? -TARN_E_SHUTDOWN : 0);
        return;
    }
    rc = mreport_path(&req->path, w->text);
    if (rc < 0) {
        where_reply(w, rc);
        return;
    }
    w->path = (struct mpath_req){.path = w->text, .fn = where_resolved, .arg = w};
    mpath_start(w->master, &w->path);
}

/* ---- status
 * ------------------------------------------------------------------------------------------------------------
 */

struct status_call {
    struct mreport report;
    struct tarn_master *master;
    struct tarn_rpc_req ask;
};

static void status_mount(struct mattach *a, Tarn__Wire__MountStatus *row,
                         Tarn__Wire__StatusResponse *resp)
{
    struct tarn_master *m = a->master;
    Tarn__Core__Counts *c = NULL;
    struct tarn_ufs_counts ufs = {0};
    const struct tarn_ufs_health *health = a->ufs ? tarn_ufs_health(a->ufs) : NULL;

    tarn__wire__mount_status__init(row);
    row->path = a->rec->path;
    row->ufs = a->rec->uri;
    row->id = a->id;
    row->n_options = a->rec->n_options; /* never the secrets */
    row->options = a->rec->options;
    row->ttl_ns = a->ttl_ns;
    row->read_only = a->rec->read_only;
    row->replicas = TARN_MAX(a->rec->replicas, 1u);
    row->direct = a->rec->direct;
    row->state = tarn_wire_text("up");
    if (!a->ufs) {
        row->state = tarn_wire_text("down");
        row->error = tarn_wire_text(a->open_err.text[0] ? a->open_err.text : "being opened");
    } else if (health->rc < 0) {
        row->state = tarn_wire_text("down");
        row->error = tarn_wire_text(tarn_err_text(&health->err, health->rc));
        row->down_ms = (tarn_loop_now_ns(m->args.loop) - health->down_since_ns) / TARN_NS_PER_MS;
    }
    row->stale_answers = a->stale_answers;
    if (tarn_core_counts(m->args.kv, a->id, &c) == 0) {
        row->files = c->files + c->symlinks;
        row->bytes = c->bytes;
        row->complete = c->dirs > 0 && c->dirs_listed == c->dirs;
        resp->inodes += c->files + c->dirs + c->symlinks;
    }
    tarn__core__counts__free_unpacked(c, NULL);
    if (a->ufs)
        tarn_ufs_counts(a->ufs, &ufs);
    row->ufs_requests = ufs.requests;
    row->ufs_read_bytes = ufs.read_bytes;
}

/* The rows live as long as *ret_rows. */
static void status_mounts(struct tarn_master *m, Tarn__Wire__StatusResponse *resp,
                          Tarn__Wire__MountStatus **ret_rows)
{
    size_t max = 1;

    TARN_LIST_FOREACH(n, &m->attachments)
    max++;
    *ret_rows = tarn_xcalloc(max, sizeof(**ret_rows));
    resp->mounts = tarn_xcalloc(max, sizeof(Tarn__Wire__MountStatus *));
    TARN_LIST_FOREACH(n, &m->attachments)
    {
        Tarn__Wire__MountStatus *row = &(*ret_rows)[resp->n_mounts];

        status_mount(TARN_LIST_ENTRY(n, struct mattach, node), row, resp);
        resp->mounts[resp->n_mounts++] = row;
    }
}

static void status_reply(struct status_call *s, const Tarn__Wire__WorkerStatus *worker)
{
    struct tarn_master *m = s->master;
    Tarn__Wire__StatusResponse resp = TARN__WIRE__STATUS_RESPONSE__INIT;
    Tarn__Wire__MasterStatus master = TARN__WIRE__MASTER_STATUS__INIT, *masters[] = {&master};
    Tarn__Wire__MountStatus *mounts = NULL;
    Tarn__Wire__WorkerStatus *workers[1], **members = NULL;
    Tarn__Wire__ReadCount rows[3], *reads[3];
    Tarn__Wire__SessionStatus *sessions = NULL, **session_ptrs = NULL;
    uint64_t bytes[3] = {m->gone_reads[0], m->gone_reads[1], m->gone_reads[2]};
    static const char *const names[] = {"local", "remote", "ufs"};
    size_t n = 0;

    resp.cluster_id = m->cluster_id;
    master.role = tarn_wire_text("leader");
    master.healthy = true;
    resp.n_masters = 1;
    resp.masters = masters;
    status_mounts(m, &resp, &mounts);
    if (worker) {
        memcpy(&workers[0], &worker,
               sizeof(worker)); /* the response is only encoded, never changed */
        resp.n_workers = 1;
        resp.workers = workers;
    }
    if (m->members) {
        members = mmembers_status(m, &resp.n_workers);
        resp.workers = members;
    }
    TARN_LIST_FOREACH(node, &m->sessions)
    n++;
    sessions = tarn_xcalloc(n, sizeof(*sessions));
    session_ptrs = tarn_xcalloc(n, sizeof(Tarn__Wire__SessionStatus *));
    n = 0;
    TARN_LIST_FOREACH(node, &m->sessions)
    {
        struct msession *ses = TARN_LIST_ENTRY(node, struct msession, node);

        tarn__wire__session_status__init(&sessions[n]);
        session_ptrs[n] = &sessions[n];
        sessions[n].id = ses->id;
        sessions[n].kind = ses->kind;
        sessions[n].mountpoint = ses->mountpoint;
        sessions[n].host = ses->host;
        sessions[n].passthrough_opens = ses->passthrough_opens;
        sessions[n].state = tarn_wire_text(msession_state_name(ses->state));
        sessions[n].heard_ms = (tarn_loop_now_ns(m->args.loop) - ses->heard_ns) / TARN_NS_PER_MS;
        sessions[n].on_partition_stale = ses->on_partition_stale;
        sessions[n].promises = ses->promise_count;
        sessions[n++].pid = ses->pid;
        bytes[0] += ses->local_bytes;
        bytes[1] += ses->remote_bytes;
        bytes[2] += ses->ufs_bytes;
    }
    resp.n_sessions = n;
    resp.sessions = session_ptrs;
    for (int i = 0; i < 3; i++) {
        tarn__wire__read_count__init(&rows[i]);
        rows[i].source = tarn_wire_text(names[i]);
        rows[i].bytes = bytes[i];
        reads[i] = &rows[i];
    }
    resp.n_reads = 3;
    resp.reads = reads;
    mjobs_counts(m->jobs, &resp.jobs_running, &resp.jobs_failed);
    resp.software = tarn_wire_text("tarn " TARN_VERSION);
    resp.uptime_ms = (m->args.clock->mono_ns(m->args.clock) - m->started_ns) / TARN_NS_PER_MS;
    report_reply(&s->report, 0, &resp.base);
    free(mounts);
    free(resp.mounts);
    free(sessions);
    free(session_ptrs);
    free(members);
    tarn_rpc_req_fini(&s->ask);
    free(s);
    master_idle(m);
}

static void status_cancel(struct mreport *report)
{
    tarn_rpc_cancel(&TARN_CONTAINER(report, struct status_call, report)->ask);
}

static void status_asked(struct tarn_rpc_req *req, int rc)
{
    status_reply(req->arg, rc == 0 ? (const Tarn__Wire__WorkerStatus *)req->resp : NULL);
}

static void svc_status(void *ctx, struct tarn_rpc_call *call)
{
    Tarn__Wire__Empty msg = TARN__WIRE__EMPTY__INIT;
    struct status_call *s = tarn_xnew(struct status_call);

    s->master = ctx;
    report_begin(&s->report, s->master, call, status_cancel);
    if (!s->master->worker || s->master->stopping) {
        status_reply(s, NULL);
        return;
    }
    s->ask = (struct tarn_rpc_req){.method = TARN_RPC_worker_status,
                                   .msg = &msg.base,
                                   .cb = status_asked,
                                   .arg = s,
                                   .timeout_ns = 2 * TARN_NS_PER_S};
    tarn_rpc_start(s->master->worker, &s->ask);
}

/* ---- store_ask
 * ---------------------------------------------------------------------------------------------------------
 */

/* A question of its own, since one that is under way may hang on a connection that is dead. */
struct ask_call {
    struct mreport report;
    struct tarn_master *master;
    struct mattach *at; /* referenced */
    struct tarn_ufs_check check;
    struct tarn_timer timer;
    uint64_t begun_ns, wait_ns;
    bool late;
    struct tarn_errbuf err;
};

static void store_ask_reply(struct ask_call *c, int rc)
{
    struct tarn_master *m = c->master;
    Tarn__Wire__StoreAskResponse resp = TARN__WIRE__STORE_ASK_RESPONSE__INIT;

    if (rc < 0 && rc != -TARN_E_CANCELLED && rc != -TARN_E_SHUTDOWN && rc != -TARN_E_NO_ATTACH) {
        resp.error_text = tarn_wire_text(tarn_err_text(&c->err, rc));
        rc = 0;
    }
    report_reply(&c->report, rc, &resp.base);
    mattach_unref(&c->at);
    free(c);
    master_idle(m);
}

static void store_asked(struct tarn_ufs_check *check, int rc)
{
    struct ask_call *c = check->arg;
    struct mattach *a = c->at;

    tarn_timer_stop(&c->timer);
    if (c->master->stopping) {
        rc = -TARN_E_SHUTDOWN;
    } else if (a->gone) {
        rc = -TARN_E_NO_ATTACH;
    } else if (rc == -TARN_E_CANCELLED && c->late && !c->report.cancelled) {
        char limit[32];

        rc = 0;
        if (a->ufs && tarn_ufs_health(a->ufs)->heard_ns < c->begun_ns) { /* else it is only busy */
            rc = -TARN_E_UFS_STALLED;
            if (!c->err.text[0])
                (void)tarn_err_set(&c->err, rc, "%s: no answer within %s", a->uri,
                                   tarn_format_duration(c->wait_ns, limit)); /* rc is known */
            tarn_ufs_unanswered(a->ufs, rc, &c->err);
        }
    } else {
        c->err = check->list.req.err;
        mattach_note(a, rc, &c->err);
    }
    store_ask_reply(c, rc);
}

static void store_ask_late(struct tarn_timer *t, void *arg)
{
    struct ask_call *c = arg;

    (void)t; /* c's */
    c->late = true;
    c->err = c->check.list.req.err; /* of the last try, if there was one */
    tarn_ufs_cancel(&c->check.list.req);
}

static void store_ask_cancel(struct mreport *report)
{
    tarn_ufs_cancel(&TARN_CONTAINER(report, struct ask_call, report)->check.list.req);
}

static void svc_store_ask(void *ctx, struct tarn_rpc_call *call)
{
    const Tarn__Wire__StoreAskRequest *req = (const Tarn__Wire__StoreAskRequest *)call->request;
    struct ask_call *c = tarn_xnew(struct ask_call);
    struct mattach *a;

    c->master = ctx;
    report_begin(&c->report, c->master, call, store_ask_cancel);
    a = mattach_by_id(c->master, req->id);
    if (!a || c->master->stopping) {
        store_ask_reply(c, a ? -TARN_E_SHUTDOWN : -TARN_E_NO_ATTACH);
        return;
    }
    if (!a->ufs) {
        c->err = a->open_err;
        c->report.call->on_cancel = NULL;
        store_ask_reply(c, -TARN_E_UFS_DOWN);
        return;
    }
    c->at = mattach_ref(a);
    c->begun_ns = tarn_loop_now_ns(c->master->args.loop);
    c->wait_ns = (uint64_t)TARN_MIN(req->wait_ms, ASK_WAIT_MAX_MS) * TARN_NS_PER_MS;
    c->check = (struct tarn_ufs_check){.cb = store_asked, .arg = c};
    tarn_ufs_check(a->ufs, &c->check);
    tarn_timer_start(c->master->args.loop, &c->timer, c->wait_ns, store_ask_late, c);
}

void msvc_report_handlers(struct tarn_master *m, struct tarn_rpc_server *s)
{
    tarn_rpc_server_handle(s, TARN_RPC_resolve, svc_resolve, m);
    tarn_rpc_server_handle(s, TARN_RPC_where, svc_where, m);
    tarn_rpc_server_handle(s, TARN_RPC_status, svc_status, m);
    tarn_rpc_server_handle(s, TARN_RPC_store_ask, svc_store_ask, m);
}
