/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Handlers of jobs. A call that waits is a struct job_waiter in the job's list; it is answered when
 * what is shown has changed since the number that the caller has seen, when the job ends, or when
 * its time is over.
 */
#include <stdlib.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"
#include "master/jobs/jobs_priv.h"

#define WAIT_MAX_MS    600000u
#define CANCEL_WAIT_MS 5000u
#define MANIFEST_BYTES (TARN_FRAME_BODY_MAX / 2)
#define MANIFEST_LINES 4096u

struct job_waiter {
    struct tarn_list node;      /* job->waiters */
    struct mjob *job;           /* whose change it waits for */
    struct tarn_rpc_call *call; /* to be answered */
    uint64_t seen_seq;          /* what the caller knows */
    struct tarn_timer timer;    /* its time */
};

void mjob_message(const struct mjob *job, bool with_spec, Tarn__Wire__Job *ret)
{
    const struct mjob_counts *c = &job->live;

    tarn__wire__job__init(ret);
    ret->id = job->id;
    ret->kind = tarn_wire_text(job->is_free ? "free" : "load");
    ret->state = tarn_wire_text(mjob_state_name(job->state));
    ret->files_total = TARN_MAX(c->files_total, c->files_done + c->files_failed);
    ret->files_done = c->files_done;
    ret->files_failed = c->files_failed;
    ret->files_skipped = c->files_skipped;
    ret->bytes_total = TARN_MAX(c->bytes_total, c->bytes_done);
    ret->bytes_done = c->bytes_done;
    ret->started_ns = job->started_ns;
    ret->finished_ns = job->finished_ns;
    ret->error = (uint32_t)job->error;
    if (job->error_text)
        ret->error_text = job->error_text;
    else if (job->waits_for)
        ret->error_text = job->waits_for;
    ret->seq = job->seq;
    if (with_spec)
        ret->spec = job->spec;
}

static void job_reply(struct mjob *job, struct tarn_rpc_call *call)
{
    Tarn__Wire__Job resp;

    mjob_message(job, true, &resp);
    tarn_rpc_reply(call, 0, &resp.base, NULL, 0, 0);
}

/* ---- waiting
 * -------------------------------------------------------------------------------------------------
 */

static void waiter_end(struct job_waiter *w)
{
    tarn_list_del(&w->node);
    tarn_timer_stop(&w->timer);
    w->call->on_cancel = NULL;
    job_reply(w->job, w->call);
    free(w);
}

static void waiter_late(struct tarn_timer *t, void *arg)
{
    (void)t; /* the waiter's */
    waiter_end(arg);
}

static void waiter_cancel(struct tarn_rpc_call *call)
{
    waiter_end(call->state);
}

static void waiter_new(struct mjob *job, struct tarn_rpc_call *call, uint64_t seen, uint32_t ms)
{
    struct job_waiter *w = tarn_xnew(struct job_waiter);

    w->job = job;
    w->call = call;
    w->seen_seq = seen;
    tarn_list_push(&job->waiters, &w->node);
    tarn_timer_start(job->jobs->master->args.loop, &w->timer,
                     (uint64_t)TARN_MIN(ms, WAIT_MAX_MS) * TARN_NS_PER_MS, waiter_late, w);
    call->state = w;
    call->on_cancel = waiter_cancel;
}

void mjob_wake(struct mjob *job, bool all)
{
    TARN_LIST_FOREACH_SAFE(n, &job->waiters)
    {
        struct job_waiter *w = TARN_LIST_ENTRY(n, struct job_waiter, node);

        if (all || mjob_ended(job) || job->seq > w->seen_seq)
            waiter_end(w);
    }
}

/* ---- handlers
 * ------------------------------------------------------------------------------------------------
 */

/* The job that a call names; answers the call when there is none. */
static struct mjob *svc_job(struct mjobs *j, struct tarn_rpc_call *call, uint64_t id)
{
    struct mjob *job = j->stopping ? NULL : mjob_find(j, id);

    if (!job)
        tarn_rpc_reply(call, j->stopping ? -TARN_E_SHUTDOWN : -TARN_E_NO_JOB, NULL, NULL, 0, 0);
    return job;
}

static void svc_job_show(void *ctx, struct tarn_rpc_call *call)
{
    const Tarn__Wire__JobRequest *req = (const Tarn__Wire__JobRequest *)call->request;
    struct mjob *job = svc_job(ctx, call, req->id);

    if (job)
        job_reply(job, call);
}

static void svc_job_wait(void *ctx, struct tarn_rpc_call *call)
{
    const Tarn__Wire__JobWaitRequest *req = (const Tarn__Wire__JobWaitRequest *)call->request;
    struct mjob *job = svc_job(ctx, call, req->id);

    if (!job)
        return;
    if (job->seq > req->seen_seq || mjob_ended(job) || req->max_wait_ms == 0)
        job_reply(job, call);
    else
        waiter_new(job, call, req->seen_seq, req->max_wait_ms);
}

static void svc_job_cancel(void *ctx, struct tarn_rpc_call *call)
{
    const Tarn__Wire__JobRequest *req = (const Tarn__Wire__JobRequest *)call->request;
    struct mjob *job = svc_job(ctx, call, req->id);

    if (!job)
        return;
    if (mjob_ended(job)) {
        job_reply(job, call);
        return;
    }
    waiter_new(job, call, UINT64_MAX, CANCEL_WAIT_MS); /* answered when it has ended */
    if (job->cancel)
        return;
    job->cancel = true;
    if (job->run)
        mrun_abort(job->run);
    else if (!job->putting && !job->ending)
        mjob_finish(job, MJOB_CANCELLED, -TARN_E_CANCELLED, NULL);
}

static void svc_job_list(void *ctx, struct tarn_rpc_call *call)
{
    struct mjobs *j = ctx;
    Tarn__Wire__JobListResponse resp = TARN__WIRE__JOB_LIST_RESPONSE__INIT;
    Tarn__Wire__Job *rows, **ptrs;
    size_t n = 0;

    TARN_LIST_FOREACH(node, &j->all)
    n++;
    rows = tarn_xcalloc(n, sizeof(*rows));
    ptrs = tarn_xcalloc(n, sizeof(Tarn__Wire__Job *));
    TARN_LIST_FOREACH(node, &j->all)
    {
        const struct mjob *job = TARN_LIST_ENTRY(node, struct mjob, node);

        if (job->dropping)
            continue;
        ptrs[resp.n_jobs] = &rows[resp.n_jobs];
        mjob_message(job, false, &rows[resp.n_jobs++]);
    }
    resp.jobs = ptrs;
    tarn_rpc_reply(call, 0, &resp.base, NULL, 0, 0);
    free(ptrs);
    free(rows);
}

/* ---- manifests
 * -----------------------------------------------------------------------------------------------
 */

struct manifest_page {
    Tarn__Wire__ManifestLine **lines; /* copies on the heap */
    size_t count, max, bytes;
    uint64_t next;
};

static char *text_copy(const char *s)
{
    return s && s[0] ? tarn_xstrdup(s) : (char *)(uintptr_t)protobuf_c_empty_string;
}

static int manifest_line(void *arg, uint64_t seq, const Tarn__Core__JobLine *line)
{
    struct manifest_page *p = arg;
    Tarn__Wire__ManifestLine *l;

    if (p->count == p->max || p->bytes > MANIFEST_BYTES)
        return 1;
    l = tarn_xnew(Tarn__Wire__ManifestLine);
    tarn__wire__manifest_line__init(l);
    l->path.data = tarn_xcalloc(1, line->path.len + 1);
    l->path.len = line->path.len;
    if (line->path.len)
        memcpy(l->path.data, line->path.data, line->path.len);
    l->bytes = line->bytes;
    l->state = text_copy(line->state);
    l->replicas = line->replicas;
    l->checksum = text_copy(line->checksum);
    l->worker = line->worker;
    l->error = line->error;
    l->error_text = text_copy(line->error_text);
    l->seq = seq;
    p->lines[p->count++] = l;
    p->bytes += line->path.len + strlen(l->error_text) + 128;
    p->next = seq + 1;
    return 0;
}

static void svc_job_manifest(void *ctx, struct tarn_rpc_call *call)
{
    const Tarn__Wire__ManifestRequest *req = (const Tarn__Wire__ManifestRequest *)call->request;
    struct mjob *job = svc_job(ctx, call, req->id);
    Tarn__Wire__ManifestResponse resp = TARN__WIRE__MANIFEST_RESPONSE__INIT;
    struct manifest_page p = {.next = req->from, .max = MANIFEST_LINES};
    int rc;

    if (!job)
        return;
    if (req->max_lines)
        p.max = TARN_MIN(req->max_lines, MANIFEST_LINES);
    p.lines = tarn_xcalloc(p.max, sizeof(Tarn__Wire__ManifestLine *));
    rc = tarn_core_manifest(job->jobs->master->args.kv, req->id, req->from, manifest_line, &p);
    resp.n_lines = p.count;
    resp.lines = p.lines;
    resp.next = p.next;
    resp.eof = rc == 0 && mjob_ended(job);
    tarn_rpc_reply(call, rc < 0 ? rc : 0, &resp.base, NULL, 0, 0);
    for (size_t i = 0; i < p.count; i++)
        tarn__wire__manifest_line__free_unpacked(p.lines[i], NULL);
    free(p.lines);
}

void mjobs_handlers(struct mjobs *j, struct tarn_rpc_server *s)
{
    tarn_rpc_server_handle(s, TARN_RPC_job_create, mjob_create_handler, j);
    tarn_rpc_server_handle(s, TARN_RPC_job_show, svc_job_show, j);
    tarn_rpc_server_handle(s, TARN_RPC_job_list, svc_job_list, j);
    tarn_rpc_server_handle(s, TARN_RPC_job_cancel, svc_job_cancel, j);
    tarn_rpc_server_handle(s, TARN_RPC_job_manifest, svc_job_manifest, j);
    tarn_rpc_server_handle(s, TARN_RPC_job_wait, svc_job_wait, j);
}
