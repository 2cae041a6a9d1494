/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What workers have of files, asked or freed in batches: a load asks those who are to have a file,
 * a free everybody. Questions are answered from memory: one at a time, the next one gathers
 * meanwhile. A worker frees the files of one request one after the other, so frees are small
 * requests, several at a time. A batch that is not full is sent when its run has nothing else to
 * do; without any worker it waits for one.
 */
#include "master/jobs/jobs_priv.h"

#include <stdlib.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"

#define QUERY_BATCH   1024u  /* entries of a question */
#define QUERY_SEGS    16384u /* segments of their files, above which no other joins them */
#define FREE_BATCH    64u    /* entries of a request to free */
#define FREE_PARALLEL 16u    /* such requests at a time */

struct query_op {
    struct tarn_list node;       /* query->ops */
    struct mrun *run;            /* whose it is */
    struct tarn_list asked;      /* ment.work: its entries */
    struct mspread spread;       /* the request */
    struct mspread_item items[]; /* in the order of `asked` */
};

void mquery_init(struct mrun *r)
{
    tarn_list_init(&r->query.batch);
    tarn_list_init(&r->query.ops);
}

bool mquery_idle(const struct mrun *r)
{
    return r->query.batch_count == 0 && r->query.ops_count == 0;
}

bool mquery_stuck(const struct mrun *r)
{
    return r->query.batch_count > 0 && r->query.ops_count == 0 && !mworkers_any(r->master);
}

static size_t query_batch_max(const struct mquery *q)
{
    return q->free ? FREE_BATCH : QUERY_BATCH;
}

static uint64_t query_segs(const struct mquery *q, const struct ment *e)
{
    return q->free ? 0 : mspread_segments(e->len);
}

/* A free whose worker was not reached leaves that one's copies where they are. */
static void query_missed(struct mrun *r, const struct mspread *s)
{
    TARN_AUTO_FREE char *name = mworker_text(r->master, s->missed);
    TARN_AUTO_FREE char *text =
        tarn_xasprintf("was not reached, so that its copies stay: %s", tarn_strerror(s->missed_rc));

    mrun_note_failure(r, name, -TARN_E_JOB_PARTIAL, text);
}

static void query_pump(struct mrun *r, bool flush);

static void query_ended(struct mspread *s, int rc)
{
    struct query_op *op = s->arg;
    struct mrun *r = op->run;
    size_t i = 0;

    tarn_list_del(&op->node);
    r->query.ops_count--;
    if (s->free && s->missed && !r->aborting)
        query_missed(r, s);
    for (struct tarn_list *n = tarn_list_pop(&op->asked); n; n = tarn_list_pop(&op->asked), i++) {
        struct ment *e = TARN_LIST_ENTRY(n, struct ment, work);
        const struct mspread_item *it = &op->items[i];

        if (r->aborting)
            continue;
        e->copies = it->copies;
        e->worker = it->worker;
        r->ops->answered(e, rc < 0 || s->free || it->sure ? rc : -TARN_E_NO_WORKER, it);
    }
    free(op);
    query_pump(r, false);
    mrun_poke(r);
}

static void query_start(struct mrun *r)
{
    struct mquery *q = &r->query;
    size_t n = TARN_MIN(q->batch_count, query_batch_max(q));
    struct query_op *op = tarn_xcalloc(1, sizeof(*op) + n * sizeof(op->items[0]));

    op->run = r;
    tarn_list_init(&op->asked);
    for (size_t i = 0; i < n; i++) {
        struct ment *e = TARN_LIST_ENTRY(q->batch.next, struct ment, work);

        tarn_list_del(&e->work);
        tarn_list_push(&op->asked, &e->work);
        op->items[i] = (struct mspread_item){
            .cid = e->cid, .size = q->free ? 0 : e->len, .replicas = e->replicas};
        q->batch_count--;
        q->batch_segs -= query_segs(q, e);
    }
    tarn_list_push(&q->ops, &op->node);
    q->ops_count++;
    op->spread = (struct mspread){.master = r->master,
                                  .items = op->items,
                                  .count = n,
                                  .free = q->free,
                                  .owners = !r->job->is_free,
                                  .patient = true,
                                  .fn = query_ended,
                                  .arg = op};
    mspread_start(&op->spread);
}

/* Starts requests that are full (or of any size) while more may be under way. */
static void query_pump(struct mrun *r, bool flush)
{
    struct mquery *q = &r->query;

    while (!r->aborting && q->batch_count > 0 &&
           (flush || q->batch_count >= query_batch_max(q) || q->batch_segs >= QUERY_SEGS) &&
           q->ops_count < (q->free ? FREE_PARALLEL : 1) && mworkers_any(r->master))
        query_start(r);
}

void mquery_flush(struct mrun *r)
{
    query_pump(r, true);
}

void mquery_flush_stuck(struct mrun *r)
{
    if (r->query.ops_count == 0)
        query_pump(r, !r->pass.active || r->pass.paused);
}

void mquery_add(struct ment *e)
{
    struct mquery *q = &e->run->query;

    tarn_list_push(&q->batch, &e->work);
    q->batch_count++;
    q->batch_segs += query_segs(q, e);
    query_pump(e->run, false);
}

void mquery_cancel(struct mrun *r)
{
    struct mquery *q = &r->query;

    while (tarn_list_pop(&q->batch))
        ;
    q->batch_count = 0;
    q->batch_segs = 0;
    TARN_LIST_FOREACH_SAFE(n, &q->ops)
    {
        mspread_cancel(&TARN_LIST_ENTRY(n, struct query_op, node)->spread);
    }
}
