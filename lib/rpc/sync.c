/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A call for commands that have nothing else to do. The request is started from within the loop:
 * its deadline then counts from now, not from the last time the loop turned.
 */
#include "lib/base/assert.h"
#include "lib/base/buf.h"
#include "lib/base/mem.h"
#include "lib/rpc/client_priv.h"

struct sync_call {
    struct tarn_task task;          /* starts it */
    struct tarn_rpc_client *client; /* what it goes through */
    struct tarn_rpc_req *req;       /* the caller's */
    ProtobufCMessage *resp;         /* taken from req */
    struct tarn_buf *payload;       /* taken from req */
    struct tarn_loop *loop;         /* that runs meanwhile */
    bool started;                   /* by the task */
    bool stopped;                   /* somebody else stopped the loop: no more waiting */
    bool ended;                     /* the callback has run */
    int rc;                         /* how */
};

static void sync_start_cb(struct tarn_task *t)
{
    struct sync_call *s = TARN_CONTAINER(t, struct sync_call, task);

    s->started = true;
    tarn_rpc_start(s->client, s->req);
    if (s->stopped)
        tarn_rpc_cancel(s->req);
}

static void sync_end_cb(struct tarn_rpc_req *req, int rc)
{
    struct sync_call *s = req->arg;

    s->resp = req->resp;
    s->payload = req->resp_payload;
    req->resp = NULL;
    req->resp_payload = NULL;
    s->rc = rc;
    s->ended = true;
    tarn_loop_stop(s->loop);
}

int tarn_rpc_call_sync(struct tarn_rpc_client *c, struct tarn_rpc_req *req)
{
    struct sync_call s = {.client = c, .req = req, .loop = c->loop};
    tarn_rpc_fn *cb = req->cb;
    void *arg = req->arg;

    req->cb = sync_end_cb;
    req->arg = &s;
    tarn_loop_post(s.loop, &s.task, sync_start_cb);
    while (!s.ended) {
        tarn_loop_run(s.loop);
        if (s.ended)
            break;
        s.stopped = true;
        if (s.started)
            tarn_rpc_cancel(req);
    }
    req->cb = cb;
    req->arg = arg;
    req->resp = s.resp;
    req->resp_payload = s.payload;
    return s.rc;
}
