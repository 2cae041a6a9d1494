/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the worker has of files, asked (or freed) in batches: one request at a time, the next one
 * gathers meanwhile. A batch that is not full is sent when its run has nothing else to do.
 */
#include "master/jobs/jobs_priv.h"

#include <stdlib.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"

#define QUERY_TIMEOUT_NS (120 * TARN_NS_PER_S)

static void query_send(struct mrun *r);

bool mquery_idle(const struct mrun *r)
{
    return r->query.batch_count == 0 && !r->query.asking;
}

static void query_again(struct tarn_timer *t, void *arg)
{
    (void)t; /* the run's */
    query_send(arg);
}

/* All of the request have the same outcome, or `bytes` each. */
static void query_end(struct mrun *r, int rc, const uint64_t *bytes)
{
    size_t i = 0;

    r->query.asking = false;
    r->query.tries = 0;
    for (struct tarn_list *n = tarn_list_pop(&r->query.asked); n;
         n = tarn_list_pop(&r->query.asked)) {
        struct ment *e = TARN_LIST_ENTRY(n, struct ment, work);

        if (!r->aborting)
            r->ops->answered(e, rc, rc == 0 ? bytes[i] : 0);
        i++;
    }
    mrun_poke(r);
}

static void query_done(struct tarn_rpc_req *req, int rc)
{
    struct mrun *r = req->arg;
    ProtobufCMessage *resp = req->resp;
    const uint64_t *bytes = NULL;
    size_t n = 0, wanted = 0;
    uint64_t wait;

    req->resp = NULL;
    tarn_rpc_req_fini(req);
    TARN_LIST_FOREACH(it, &r->query.asked)
    wanted++;
    if (rc == 0 && r->query.free) {
        n = ((const Tarn__Wire__FreeResponse *)resp)->n_bytes;
        bytes = ((const Tarn__Wire__FreeResponse *)resp)->bytes;
    } else if (rc == 0) {
        n = ((const Tarn__Wire__CachedResponse *)resp)->n_bytes;
        bytes = ((const Tarn__Wire__CachedResponse *)resp)->bytes;
    }
    if (rc == 0 && n != wanted)
        rc = -TARN_E_MSG_BAD;
    if (rc < 0 && !r->aborting && mrun_retry(rc, r->query.tries, &wait)) {
        r->query.tries++;
        tarn_timer_start(r->master->args.loop, &r->query.timer, wait, query_again, r);
    } else {
        query_end(r, rc, bytes);
    }
    if (resp)
        protobuf_c_message_free_unpacked(resp, NULL);
}

/* Sends what is in `asked`. */
static void query_send(struct mrun *r)
{
    struct mquery *q = &r->query;
    Tarn__Wire__CachedRequest cached = TARN__WIRE__CACHED_REQUEST__INIT;
    Tarn__Wire__FreeRequest drop = TARN__WIRE__FREE_REQUEST__INIT;
    ProtobufCBinaryData *cids = tarn_xcalloc(MQUERY_BATCH, sizeof(*cids));
    size_t n = 0;

    TARN_LIST_FOREACH(it, &q->asked)
    {
        struct ment *e = TARN_LIST_ENTRY(it, struct ment, work);

        cids[n++] = (ProtobufCBinaryData){sizeof(e->cid.b), e->cid.b};
    }
    cached.n_cids = drop.n_cids = n;
    cached.cids = drop.cids = cids;
    q->req = (struct tarn_rpc_req){.method = q->free ? TARN_RPC_free : TARN_RPC_cached,
                                   .msg = q->free ? &drop.base : &cached.base,
                                   .timeout_ns = QUERY_TIMEOUT_NS,
                                   .cb = query_done,
                                   .arg = r};
    tarn_rpc_start(r->master->worker, &q->req);
    free(cids);
}

void mquery_flush(struct mrun *r)
{
    struct mquery *q = &r->query;

    if (q->asking || q->batch_count == 0)
        return;
    for (size_t i = 0; i < MQUERY_BATCH && q->batch_count > 0; i++, q->batch_count--) {
        struct tarn_list *n = tarn_list_pop(&q->batch);

        tarn_list_push(&q->asked, n);
    }
    q->asking = true;
    query_send(r);
}

void mquery_add(struct ment *e)
{
    struct mquery *q = &e->run->query;

    tarn_list_push(&q->batch, &e->work);
    if (++q->batch_count >= MQUERY_BATCH)
        mquery_flush(e->run);
}

void mquery_cancel(struct mrun *r)
{
    struct mquery *q = &r->query;

    while (tarn_list_pop(&q->batch))
        ;
    q->batch_count = 0;
    if (!q->asking)
        return;
    if (tarn_timer_running(&q->timer)) {
        tarn_timer_stop(&q->timer);
        query_end(r, -TARN_E_CANCELLED, NULL);
    } else {
        tarn_rpc_cancel(&q->req);
    }
}
