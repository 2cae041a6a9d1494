/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The local journal: there is no log beside the store. An entry's effect and its index are one
 * batch, and the store's own log makes the batch durable; so a restart has nothing to replay.
 *
 *     loop: propose --> waiting --> [journal thread] taken --> apply ... apply, write --> group
 *                                                                                          |
 *     loop: <-------------------------------- one posted task per group, callbacks --------+
 *
 * While the thread waits for the disk, proposals gather and become the next group: the number of
 * synced writes follows the disk, not the number of proposals. A failed write fails its whole
 * group; where the next index goes on is then read from the store, because a write that reported
 * failure may be in it.
 *
 * A store without space is opened anew on the loop's thread, since readers live there and must not
 * be inside the store meanwhile; the journal thread waits for it, unless the journal is being
 * stopped.
 *
 * The inline journal is the same without the thread: a task on the loop takes one group.
 *
 * Lock: mtx guards `waiting`, its size, `stopping` and the hand-over of a reopen. The batch and the
 * index belong to the thread that commits, `outstanding` and `posted` to the loop.
 */
#include "master/core/journal.h"

#include <pthread.h>
#include <stdlib.h>

#include "lib/base/assert.h"
#include "lib/base/limits.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/base/mtx.h"

#define JOURNAL_MAGIC   0x4a4c4f43u
#define GROUP_ENTRIES   256u
#define GROUP_BYTES_MAX (4u << 20)

enum reopen { REOPEN_NONE, REOPEN_ASKED, REOPEN_DONE };

struct journal_local {
    struct tarn_journal base; /* first */
    uint32_t magic;           /* JOURNAL_MAGIC */
    struct tarn_loop *loop;   /* of the proposals */
    struct tarn_kv *kv;       /* the caller's */
    bool threaded;            /* false: inline */
    pthread_t thread;         /* while threaded and not stopped */

    struct tarn_mtx mtx;      /* see above */
    struct tarn_cond cond;    /* waiting, stopping or reopen changed */
    struct tarn_list waiting; /* proposals, oldest first */
    size_t waiting_bytes;     /* of their entries */
    bool stopping;            /* nothing more is taken in */
    enum reopen reopen;       /* of the store, by the loop */
    int reopen_rc;            /* its outcome */

    struct tarn_list taken;      /* proposals of the next group */
    unsigned taken_count;        /* of them */
    struct tarn_kv_batch *batch; /* NULL: to be made */
    uint64_t next_index;         /* 0: to be read */
    bool needs_reopen;           /* the store has no space */

    unsigned outstanding;         /* callbacks that are to come */
    bool posted;                  /* inline: the task is on its way */
    struct tarn_task task;        /* inline: takes a group */
    struct tarn_task reopen_task; /* threaded: opens the store anew */
};

/* Proposals whose outcome is known, on their way to the loop. */
struct journal_group {
    struct tarn_task task;   /* first */
    struct journal_local *j; /* theirs */
    struct tarn_list done;   /* proposals */
};

static struct journal_local *journal_of(struct tarn_journal *base)
{
    struct journal_local *j = TARN_CONTAINER(base, struct journal_local, base);

    TARN_ASSERT(j->magic == JOURNAL_MAGIC);
    return j;
}

/* ---- outcome: on the loop
 * -------------------------------------------------------------------------- */

static void journal_finish(struct journal_local *j, struct tarn_list *done)
{
    struct tarn_list *node;

    tarn_loop_assert_mine(j->loop);
    while ((node = tarn_list_pop(done))) {
        struct tarn_proposal *p = TARN_LIST_ENTRY(node, struct tarn_proposal, node);
        struct tarn_core_result result = p->result; /* cb may end the proposal's life */

        TARN_ASSERT(j->outstanding > 0);
        j->outstanding--;
        p->cb(p);
        tarn_core_result_fini(&result);
    }
}

static void journal_group_task(struct tarn_task *t)
{
    struct journal_group *g = TARN_CONTAINER(t, struct journal_group, task);

    journal_finish(g->j, &g->done);
    free(g);
}

/* Sends what is in `done` to the loop; any thread. */
static void journal_post(struct journal_local *j, struct tarn_list *done)
{
    struct journal_group *g = tarn_xnew(struct journal_group);

    g->j = j;
    tarn_list_init(&g->done);
    tarn_list_splice(&g->done, done);
    tarn_loop_post(j->loop, &g->task, journal_group_task);
}

static void journal_set_outcome(struct tarn_proposal *p, int rc)
{
    p->rc = rc;
    if (rc < 0)
        tarn_core_result_fini(&p->result);
    tarn_str_fini(&p->entry);
}

/* ---- commit: on the journal thread, or inline
 * --------------------------------------------------------- */

static int journal_open_batch(struct journal_local *j)
{
    uint64_t applied;
    int rc;

    if (!j->next_index) {
        rc = tarn_core_applied_index(j->kv, &applied);
        if (rc < 0)
            return rc;
        j->next_index = applied + 1;
    }
    if (!j->batch)
        j->batch = tarn_kv_batch_new(j->kv);
    return 0;
}

/* Applies what was taken, until the batch is large; what was applied moves to `done`. */
static int journal_apply_taken(struct journal_local *j, struct tarn_list *done, bool *ret_sync)
{
    struct tarn_list *node;
    bool sync = false;
    int rc = 0;

    while (rc == 0 && tarn_kv_batch_bytes(j->batch) < GROUP_BYTES_MAX &&
           (node = tarn_list_pop(&j->taken))) {
        struct tarn_proposal *p = TARN_LIST_ENTRY(node, struct tarn_proposal, node);

        j->taken_count--;
        tarn_list_push(done, &p->node);
        rc = tarn_core_apply(j->kv, j->batch, j->next_index, (const uint8_t *)p->entry.p,
                             p->entry.len, &p->result);
        j->next_index++;
        sync |= p->sync;
    }
    *ret_sync = sync;
    return rc;
}

static void journal_commit(struct journal_local *j, struct tarn_list *done)
{
    bool sync = false;
    int rc;

    rc = journal_open_batch(j);
    if (rc == 0)
        rc = journal_apply_taken(j, done, &sync);
    if (rc == 0)
        rc = tarn_kv_write(j->kv, j->batch, sync);
    if (rc < 0) {
        tarn_warn_limited("journal", "commit failed: %s", tarn_strerror(rc));
        tarn_kv_batch_free(&j->batch);
        j->next_index = 0;
        j->needs_reopen = rc == -TARN_E_KV_NO_SPACE;
        if (tarn_list_empty(done)) { /* not even begun: all that was taken fails */
            tarn_list_splice(done, &j->taken);
            j->taken_count = 0;
        }
    }
    TARN_LIST_FOREACH(it, done)
    {
        journal_set_outcome(TARN_LIST_ENTRY(it, struct tarn_proposal, node), rc);
    }
}

/* Fails all that was taken. */
static void journal_fail_taken(struct journal_local *j, struct tarn_list *done, int rc)
{
    tarn_list_splice(done, &j->taken);
    j->taken_count = 0;
    TARN_LIST_FOREACH(it, done)
    {
        journal_set_outcome(TARN_LIST_ENTRY(it, struct tarn_proposal, node), rc);
    }
}

static int journal_reopen_now(struct journal_local *j)
{
    struct tarn_errbuf err = {0};
    int rc;

    rc = tarn_kv_reopen(j->kv, &err);
    if (rc < 0)
        tarn_warn_limited("journal", "the store cannot be opened again: %s",
                          tarn_err_text(&err, rc));
    return rc;
}

/* Takes waiting proposals over; the lock is held. */
static void journal_take_locked(struct journal_local *j)
{
    struct tarn_list *node;

    tarn_mtx_assert_held(&j->mtx);
    while (j->taken_count < GROUP_ENTRIES && (node = tarn_list_pop(&j->waiting))) {
        struct tarn_proposal *p = TARN_LIST_ENTRY(node, struct tarn_proposal, node);

        TARN_ASSERT(j->waiting_bytes >= p->entry.len);
        j->waiting_bytes -= p->entry.len;
        j->taken_count++;
        tarn_list_push(&j->taken, &p->node);
    }
}

/* ---- the thread
 * ------------------------------------------------------------------------------------ */

static void journal_reopen_task(struct tarn_task *t)
{
    struct journal_local *j = TARN_CONTAINER(t, struct journal_local, reopen_task);
    int rc = -TARN_E_KV_NO_SPACE;
    bool stopping;

    TARN_ASSERT(j->magic == JOURNAL_MAGIC);
    tarn_mtx_lock(&j->mtx);
    stopping = j->stopping;
    tarn_mtx_unlock(&j->mtx);
    if (!stopping) /* the journal thread waits and holds no batch */
        rc = journal_reopen_now(j);
    tarn_mtx_lock(&j->mtx);
    j->reopen_rc = rc;
    j->reopen = REOPEN_DONE;
    tarn_cond_broadcast(&j->cond);
    tarn_mtx_unlock(&j->mtx);
}

/* Has the loop open the store again, and waits for it. */
static int journal_reopen_by_loop(struct journal_local *j)
{
    int rc = -TARN_E_KV_NO_SPACE;

    tarn_mtx_lock(&j->mtx);
    if (!j->stopping) {
        j->reopen = REOPEN_ASKED;
        tarn_loop_post(j->loop, &j->reopen_task, journal_reopen_task);
    }
    while (j->reopen == REOPEN_ASKED && !j->stopping)
        tarn_cond_wait(&j->cond, &j->mtx);
    if (j->reopen == REOPEN_DONE) {
        j->reopen = REOPEN_NONE;
        rc = j->reopen_rc;
    }
    tarn_mtx_unlock(&j->mtx);
    return rc;
}

/* Waits for proposals; false when there are none and none will come. */
static bool journal_wait(struct journal_local *j)
{
    bool any;

    tarn_mtx_lock(&j->mtx);
    while (tarn_list_empty(&j->waiting) && tarn_list_empty(&j->taken) && !j->stopping)
        tarn_cond_wait(&j->cond, &j->mtx);
    journal_take_locked(j);
    any = !tarn_list_empty(&j->taken);
    tarn_mtx_unlock(&j->mtx);
    return any;
}

static void *journal_thread(void *arg)
{
    struct journal_local *j;

    TARN_CAST(j, arg, JOURNAL_MAGIC);
    while (journal_wait(j)) {
        struct tarn_list done;
        int rc = 0;

        tarn_list_init(&done);
        if (j->needs_reopen)
            rc = journal_reopen_by_loop(j);
        if (rc == 0) {
            j->needs_reopen = false;
            journal_commit(j, &done);
        } else {
            journal_fail_taken(j, &done, rc);
        }
        journal_post(j, &done);
    }
    tarn_kv_batch_free(&j->batch);
    return NULL;
}

/* ---- inline
 * ------------------------------------------------------------------------------------------ */

static void journal_inline_task(struct tarn_task *t);

static void journal_inline_post(struct journal_local *j)
{
    if (j->posted)
        return;
    j->posted = true;
    tarn_loop_post(j->loop, &j->task, journal_inline_task);
}

static void journal_inline_task(struct tarn_task *t)
{
    struct journal_local *j = TARN_CONTAINER(t, struct journal_local, task);
    struct tarn_list done;
    bool more;
    int rc = 0;

    TARN_ASSERT(j->magic == JOURNAL_MAGIC && j->posted);
    j->posted = false;
    tarn_list_init(&done);
    tarn_mtx_lock(&j->mtx);
    journal_take_locked(j);
    tarn_mtx_unlock(&j->mtx);
    if (j->needs_reopen)
        rc = journal_reopen_now(j);
    if (rc == 0) {
        j->needs_reopen = false;
        journal_commit(j, &done);
    } else {
        journal_fail_taken(j, &done, rc);
    }
    tarn_kv_batch_free(&j->batch); /* the test may close the store between tasks */
    tarn_mtx_lock(&j->mtx);
    more = !tarn_list_empty(&j->waiting) || !tarn_list_empty(&j->taken);
    tarn_mtx_unlock(&j->mtx);
    if (more)
        journal_inline_post(j);
    journal_finish(j, &done);
}

/* ---- the vtable
 * ---------------------------------------------------------------------------------------- */

static int journal_admit(struct journal_local *j, struct tarn_proposal *p)
{
    int rc = 0;

    tarn_mtx_lock(&j->mtx);
    if (j->stopping) {
        rc = -TARN_E_SHUTDOWN;
    } else if (j->waiting_bytes >= TARN_JOURNAL_QUEUE_MAX) {
        rc = -TARN_E_BUSY;
    } else {
        tarn_list_push(&j->waiting, &p->node);
        j->waiting_bytes += p->entry.len;
        tarn_cond_signal(&j->cond);
    }
    tarn_mtx_unlock(&j->mtx);
    return rc;
}

static void journal_propose(struct tarn_journal *base, struct tarn_proposal *p)
{
    struct journal_local *j = journal_of(base);
    int rc;

    tarn_loop_assert_mine(j->loop);
    TARN_ASSERT(p->cb != NULL && p->entry.len > 0);
    p->rc = 0;
    p->result = (struct tarn_core_result){0};
    j->outstanding++;
    rc = journal_admit(j, p);
    if (rc < 0) {
        struct tarn_list done;

        tarn_list_init(&done);
        tarn_list_push(&done, &p->node);
        journal_set_outcome(p, rc);
        journal_post(j, &done);
    } else if (!j->threaded) {
        journal_inline_post(j);
    }
}

static void journal_stop(struct tarn_journal *base)
{
    struct journal_local *j = journal_of(base);
    bool first;

    tarn_loop_assert_mine(j->loop);
    tarn_mtx_lock(&j->mtx);
    first = !j->stopping;
    j->stopping = true;
    tarn_cond_broadcast(&j->cond);
    tarn_mtx_unlock(&j->mtx);
    if (first && j->threaded)
        TARN_ASSERT(pthread_join(j->thread, NULL) == 0);
}

static void journal_free(struct tarn_journal *base)
{
    struct journal_local *j = journal_of(base);

    TARN_ASSERT(j->stopping && j->outstanding == 0 && !j->posted && !j->batch);
    TARN_ASSERT(j->reopen != REOPEN_ASKED);
    TARN_ASSERT(tarn_list_empty(&j->waiting) && tarn_list_empty(&j->taken));
    tarn_cond_fini(&j->cond);
    tarn_mtx_fini(&j->mtx);
    j->magic = 0;
    free(j);
}

static const struct tarn_journal_ops journal_ops = {
    .propose = journal_propose,
    .stop = journal_stop,
    .free = journal_free,
};

static struct journal_local *journal_new(struct tarn_loop *loop, struct tarn_kv *kv, bool threaded)
{
    struct journal_local *j = tarn_xnew(struct journal_local);

    j->base.ops = &journal_ops;
    j->magic = JOURNAL_MAGIC;
    j->loop = loop;
    j->kv = kv;
    j->threaded = threaded;
    tarn_mtx_init(&j->mtx, TARN_RANK_JOURNAL);
    tarn_cond_init(&j->cond);
    tarn_list_init(&j->waiting);
    tarn_list_init(&j->taken);
    return j;
}

int tarn_journal_local_new(struct tarn_loop *loop, struct tarn_kv *kv, struct tarn_journal **ret)
{
    struct journal_local *j;
    uint64_t applied;
    int rc;

    rc = tarn_core_applied_index(kv, &applied);
    if (rc < 0)
        return rc;
    j = journal_new(loop, kv, true);
    j->next_index = applied + 1;
    rc = tarn_thread_start(&j->thread, "journal", journal_thread, j);
    if (rc < 0) {
        j->stopping = true;
        journal_free(&j->base);
        return rc;
    }
    *ret = &j->base;
    return 0;
}

struct tarn_journal *tarn_journal_local_inline_new(struct tarn_loop *loop, struct tarn_kv *kv)
{
    return &journal_new(loop, kv, false)->base;
}
