/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the worker has of files, asked or freed in batches. Questions are answered from memory: one
 * at a time, the next one gathers meanwhile. A worker frees the files of one request one after the
 * other, so frees are small requests, several at a time. A batch that is not full is sent when its
 * run has nothing else to do.
 */
#include "master/jobs/jobs_priv.h"

#include <stdlib.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"

#define QUERY_BATCH      1024u /* entries of a question */
#define FREE_BATCH       64u   /* entries of a request to free */
#define FREE_PARALLEL    16u   /* such requests at a time */
#define QUERY_TIMEOUT_NS (120 * TARN_NS_PER_S)

struct query_op {
    struct tarn_list node;   /* query->ops */
    struct mrun *run;        /* whose it is */
    struct tarn_list asked;  /* ment.work: its entries */
    size_t count;            /* of them */
    struct tarn_rpc_req req; /* under way unless `waiting` */
    bool waiting;            /* timer runs */
    unsigned tries;          /* that failed */
    struct tarn_timer timer; /* the next try */
};

static void query_send(struct query_op *op);

void mquery_init(struct mrun *r)
{
    tarn_list_init(&r->query.batch);
    tarn_list_init(&r->query.ops);
}

bool mquery_idle(const struct mrun *r)
{
    return r->query.batch_count == 0 && r->query.ops_count == 0;
}

static size_t query_batch_max(const struct mquery *q)
{
    return q->free ? FREE_BATCH : QUERY_BATCH;
}

static void query_start(struct mrun *r)
{
    struct mquery *q = &r->query;
    struct query_op *op = tarn_xnew(struct query_op);

    op->run = r;
    tarn_list_init(&op->asked);
    for (; op->count < query_batch_max(q) && q->batch_count > 0; q->batch_count--, op->count++)
        tarn_list_push(&op->asked, tarn_list_pop(&q->batch));
    tarn_list_push(&q->ops, &op->node);
    q->ops_count++;
    query_send(op);
}

/* Starts requests of at least `min` entries while more may be under way. */
static void query_pump(struct mrun *r, size_t min)
{
    struct mquery *q = &r->query;

    while (!r->aborting && q->batch_count >= min && q->ops_count < (q->free ? FREE_PARALLEL : 1))
        query_start(r);
}

void mquery_flush(struct mrun *r)
{
    query_pump(r, 1);
}

void mquery_add(struct ment *e)
{
    struct mquery *q = &e->run->query;

    tarn_list_push(&q->batch, &e->work);
    q->batch_count++;
    query_pump(e->run, query_batch_max(q));
}

/* All of the request have the same outcome, or `bytes` each. */
static void query_end(struct query_op *op, int rc, const uint64_t *bytes)
{
    struct mrun *r = op->run;
    size_t i = 0;

    tarn_list_del(&op->node);
    r->query.ops_count--;
    for (struct tarn_list *n = tarn_list_pop(&op->asked); n; n = tarn_list_pop(&op->asked)) {
        struct ment *e = TARN_LIST_ENTRY(n, struct ment, work);

        if (!r->aborting)
            r->ops->answered(e, rc, rc == 0 ? bytes[i] : 0);
        i++;
    }
    free(op);
    query_pump(r, query_batch_max(&r->query));
    mrun_poke(r);
}

static void query_again(struct tarn_timer *t, void *arg)
{
    struct query_op *op = arg;

    (void)t; /* the request's */
    op->waiting = false;
    query_send(op);
}

static void query_done(struct tarn_rpc_req *req, int rc)
{
    struct query_op *op = req->arg;
    struct mrun *r = op->run;
    ProtobufCMessage *resp = req->resp;
    const uint64_t *bytes = NULL;
    size_t n = 0;
    uint64_t wait;

    req->resp = NULL; /* the answer outlives `op` here */
    tarn_rpc_req_fini(req);
    if (rc == 0 && r->query.free) {
        n = ((const Tarn__Wire__FreeResponse *)resp)->n_bytes;
        bytes = ((const Tarn__Wire__FreeResponse *)resp)->bytes;
    } else if (rc == 0) {
        n = ((const Tarn__Wire__CachedResponse *)resp)->n_bytes;
        bytes = ((const Tarn__Wire__CachedResponse *)resp)->bytes;
    }
    if (rc == 0 && n != op->count)
        rc = -TARN_E_MSG_BAD;
    if (rc < 0 && !r->aborting && mrun_retry(rc, op->tries, &wait)) {
        op->tries++;
        op->waiting = true;
        tarn_timer_start(r->master->args.loop, &op->timer, wait, query_again, op);
    } else {
        query_end(op, rc, bytes);
    }
    if (resp)
        protobuf_c_message_free_unpacked(resp, NULL);
}

static void query_send(struct query_op *op)
{
    struct mrun *r = op->run;
    Tarn__Wire__CachedRequest cached = TARN__WIRE__CACHED_REQUEST__INIT;
    Tarn__Wire__FreeRequest drop = TARN__WIRE__FREE_REQUEST__INIT;
    ProtobufCBinaryData *cids = tarn_xcalloc(op->count, sizeof(*cids));
    size_t n = 0;

    TARN_LIST_FOREACH(it, &op->asked)
    {
        struct ment *e = TARN_LIST_ENTRY(it, struct ment, work);

        cids[n++] = (ProtobufCBinaryData){sizeof(e->cid.b), e->cid.b};
    }
    cached.n_cids = drop.n_cids = n;
    cached.cids = drop.cids = cids;
    op->req = (struct tarn_rpc_req){.method = r->query.free ? TARN_RPC_free : TARN_RPC_cached,
                                    .msg = r->query.free ? &drop.base : &cached.base,
                                    .timeout_ns = QUERY_TIMEOUT_NS,
                                    .cb = query_done,
                                    .arg = op};
    tarn_rpc_start(r->master->worker, &op->req);
    free(cids);
}

void mquery_cancel(struct mrun *r)
{
    struct mquery *q = &r->query;

    while (tarn_list_pop(&q->batch))
        ;
    q->batch_count = 0;
    TARN_LIST_FOREACH_SAFE(n, &q->ops)
    {
        struct query_op *op = TARN_LIST_ENTRY(n, struct query_op, node);

        if (op->waiting) {
            tarn_timer_stop(&op->timer);
            query_end(op, -TARN_E_CANCELLED, NULL);
        } else {
            tarn_rpc_cancel(&op->req);
        }
    }
}
