/* SPDX-License-Identifier: Apache-2.0 */
/* The local journal: order, groups, failures, and its end; inline on a simulated loop and with its
 * thread. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "lib/base/fault.h"
#include "lib/base/limits.h"
#include "lib/base/mem.h"
#include "master/core/journal.h"
#include "tests/unit/master/core/core_fixture.h"

#ifdef TARN_FAULTS
#define FAULTS_BUILT 1
#else
#define FAULTS_BUILT 0
#endif

/* Proposals that report in the order in which they end. */
struct jtest {
    struct core_fx fx;
    struct tarn_loop *loop;
    struct tarn_journal *j;
    unsigned proposed, ended;
    unsigned failed;     /* with rc */
    unsigned next_nr;    /* behind the last that was committed */
    int rc;              /* of the last failure */
    uint64_t last_index; /* of the last that was committed */
    unsigned stop_at;    /* number of ends after which the loop stops */
    struct tarn_task task;
};

struct jprop {
    struct tarn_proposal p; /* first */
    struct jtest *t;
    unsigned nr;
};

static void jtest_check_stop(struct jtest *t)
{
    if (t->ended == t->stop_at)
        tarn_loop_stop(t->loop);
}

static void jprop_done(struct tarn_proposal *p)
{
    struct jprop *jp = TARN_CONTAINER(p, struct jprop, p);
    struct jtest *t = jp->t;

    tarn_loop_assert_mine(t->loop);
    assert_null(p->entry.p);
    t->ended++;
    if (p->rc < 0) {
        t->failed++;
        t->rc = p->rc;
        assert_int_equal(p->result.change_count, 0);
    } else {
        assert_true(p->result.index > t->last_index &&
                    jp->nr >= t->next_nr); /* in the order of proposals */
        t->last_index = p->result.index;
        t->next_nr = jp->nr + 1;
    }
    jtest_check_stop(t);
    free(jp); /* the journal must not touch it afterwards */
}

static void jtest_propose(struct jtest *t, Tarn__Core__Entry *e)
{
    struct jprop *jp = tarn_xnew(struct jprop);

    jp->t = t;
    jp->nr = t->proposed++;
    jp->p.cb = jprop_done;
    jp->p.sync = tarn_core_entry_needs_sync(e);
    assert_int_equal(tarn_core_entry_encode(e, &jp->p.entry), 0);
    tarn_journal_propose(t->j, &jp->p);
}

static void jtest_propose_found(struct jtest *t, unsigned nr, uint64_t asked)
{
    Tarn__Core__Entry e = TARN__CORE__ENTRY__INIT;
    Tarn__Core__Found m = TARN__CORE__FOUND__INIT;
    struct fx_objects o;
    char text[32];

    snprintf(text, sizeof(text), "f%u=%u", nr % 50, nr);
    fx_objects_parse(&o, text);
    m.parent = 1;
    m.asked_index = asked;
    m.object = o.p[0];
    e.found = &m;
    jtest_propose(t, &e);
}

static void jtest_open_sim(struct jtest *t)
{
    memset(t, 0, sizeof(*t));
    fx_open_attached(&t->fx);
    t->loop = tarn_loop_sim_new(1);
    t->j = tarn_journal_local_inline_new(t->loop, t->fx.kv);
    t->stop_at = UINT32_MAX;
}

static void jtest_close_sim(struct jtest *t)
{
    t->j->ops->stop(t->j);
    while (tarn_loop_sim_step(t->loop))
        ;
    assert_int_equal(t->ended, t->proposed);
    t->j->ops->free(t->j);
    tarn_loop_free(&t->loop);
    fx_close(&t->fx);
}

/* ---- inline
 * ---------------------------------------------------------------------------------------------- */

static void inline_groups(void **state)
{
    struct jtest t;
    uint64_t applied;

    (void)state;
    jtest_open_sim(&t);
    for (unsigned i = 0; i < 600; i++)
        jtest_propose_found(&t, i, t.fx.index);
    assert_int_equal(t.ended, 0); /* never inside propose */
    assert_true(tarn_loop_sim_step(t.loop));
    assert_int_equal(t.ended, 256); /* one task, one group */
    while (tarn_loop_sim_step(t.loop))
        ;
    assert_int_equal(t.ended, 600);
    assert_int_equal(t.failed, 0);
    assert_int_equal(t.last_index, t.fx.index + 600);
    assert_int_equal(tarn_core_applied_index(t.fx.kv, &applied), 0);
    assert_int_equal(applied, t.last_index);
    jtest_close_sim(&t);
}

static void inline_write_failure(void **state)
{
    struct jtest t;

    (void)state;
    if (!FAULTS_BUILT)
        skip();
    jtest_open_sim(&t);
    tarn_fault_arm(TARN_FAULT_kv_write, 0, 1, -TARN_E_KV);
    jtest_propose_found(&t, 0, 2);
    jtest_propose_found(&t, 1, 2);
    assert_true(tarn_loop_sim_step(t.loop));
    assert_int_equal(t.failed, 2); /* the group as a whole */
    assert_int_equal(t.rc, -TARN_E_KV);
    assert_string_equal(fx_ls(&t.fx, 1), "");
    t.failed = 0;
    jtest_propose_found(&t, 2, 2); /* and the next goes on with the same index */
    assert_true(tarn_loop_sim_step(t.loop));
    assert_int_equal(t.failed, 0);
    assert_int_equal(t.last_index, 3);
    tarn_fault_arm(TARN_FAULT_kv_read, 0, 1, -TARN_E_KV);
    jtest_propose_found(&t, 3, 2);
    assert_true(tarn_loop_sim_step(t.loop));
    assert_int_equal(t.failed, 1);
    tarn_fault_reset();
    jtest_close_sim(&t);
}

/* Every read and write of a store fails once, at each place: an entry is in as a whole or not at
 * all. */
static void inline_fail_nth(void **state)
{
    struct jtest t;
    unsigned nth = 0;

    (void)state;
    if (!FAULTS_BUILT)
        skip();
    jtest_open_sim(&t);
    fx_list(&t.fx, 1, "f0 f1/ f2");
    do {
        uint64_t before, after;

        assert_int_equal(tarn_kv_dump_hash(t.fx.kv, 7, &before), 0);
        t.failed = 0;
        tarn_fault_arm(TARN_FAULT_kv_read, nth++, 1, -TARN_E_KV);
        jtest_propose_found(&t, 1, t.fx.index); /* a file where a directory is: the most reads */
        while (tarn_loop_sim_step(t.loop))
            ;
        tarn_fault_reset();
        assert_int_equal(tarn_kv_dump_hash(t.fx.kv, 7, &after), 0);
        assert_true((before == after) == (t.failed == 1));
    } while (t.failed);
    assert_true(nth > 5);
    jtest_close_sim(&t);
}

static void inline_no_space(void **state)
{
    struct jtest t;

    (void)state;
    if (!FAULTS_BUILT)
        skip();
    jtest_open_sim(&t);
    tarn_fault_arm(TARN_FAULT_kv_write, 0, 1, -TARN_E_KV_NO_SPACE);
    jtest_propose_found(&t, 0, 2);
    assert_true(tarn_loop_sim_step(t.loop));
    assert_int_equal(t.rc, -TARN_E_KV_NO_SPACE);
    jtest_propose_found(&t, 1, 2); /* after a reopen */
    assert_true(tarn_loop_sim_step(t.loop));
    assert_int_equal(t.failed, 1);
    assert_string_equal(fx_ls(&t.fx, 1), "f1");
    tarn_fault_reset();
    jtest_close_sim(&t);
}

static void bounded_queue(void **state)
{
    Tarn__Core__Entry e = TARN__CORE__ENTRY__INIT;
    Tarn__Core__ListPage m = TARN__CORE__LIST_PAGE__INIT;
    unsigned admitted = TARN_JOURNAL_QUEUE_MAX / TARN_JOURNAL_ENTRY_MAX + 1, full = admitted + 40;
    char *big = tarn_xcalloc(1, TARN_JOURNAL_ENTRY_MAX);
    struct jtest t;

    (void)state;
    jtest_open_sim(&t);
    m.skipped_names = (ProtobufCBinaryData){TARN_JOURNAL_ENTRY_MAX - 64, (uint8_t *)big};
    e.list_page = &m;
    for (unsigned i = 0; i < full; i++)
        jtest_propose(&t, &e);
    free(big);
    while (tarn_loop_sim_step(t.loop))
        ;
    assert_int_equal(t.rc, -TARN_E_BUSY);
    assert_int_equal(t.failed, full - admitted);
    jtest_close_sim(&t);
}

/* ---- with the thread
 * --------------------------------------------------------------------------------------- */

static void jtest_open_uv(struct jtest *t)
{
    memset(t, 0, sizeof(*t));
    fx_open_attached(&t->fx);
    assert_int_equal(tarn_loop_new(&t->loop), 0);
    assert_int_equal(tarn_journal_local_new(t->loop, t->fx.kv, &t->j), 0);
    t->stop_at = UINT32_MAX;
}

static void jtest_close_uv(struct jtest *t)
{
    assert_int_equal(t->ended, t->proposed);
    t->j->ops->free(t->j);
    tarn_loop_free(&t->loop);
    fx_close(&t->fx);
}

static void jtest_propose_task(struct tarn_task *task)
{
    struct jtest *t = TARN_CONTAINER(task, struct jtest, task);

    for (unsigned i = 0; i < 100 && t->proposed < t->stop_at; i++)
        jtest_propose_found(t, t->proposed, t->fx.index + t->proposed);
    if (t->proposed < t->stop_at)
        tarn_loop_post(t->loop, task, jtest_propose_task);
}

static void thread_commits(void **state)
{
    struct jtest t;

    (void)state;
    jtest_open_uv(&t);
    t.stop_at = 5000;
    tarn_loop_post(t.loop, &t.task, jtest_propose_task);
    tarn_loop_run(t.loop);
    assert_int_equal(t.ended, 5000);
    assert_int_equal(t.failed, 0);
    assert_int_equal(t.last_index, t.fx.index + 5000);
    t.j->ops->stop(t.j);
    jtest_close_uv(&t);
}

static void jtest_stop_task(struct tarn_task *task)
{
    struct jtest *t = TARN_CONTAINER(task, struct jtest, task);

    for (unsigned i = 0; i < 1000; i++)
        jtest_propose_found(t, i, t->fx.index + i);
    t->j->ops->stop(t->j);
    jtest_propose_found(t, 1000, 2); /* too late */
}

static void thread_drains(void **state)
{
    struct jtest t;

    (void)state;
    jtest_open_uv(&t);
    t.stop_at = 1001;
    tarn_loop_post(t.loop, &t.task, jtest_stop_task);
    tarn_loop_run(t.loop);
    assert_int_equal(t.failed, 1);
    assert_int_equal(t.rc, -TARN_E_SHUTDOWN);
    assert_int_equal(t.last_index, t.fx.index + 1000);
    jtest_close_uv(&t);
}

static void thread_no_space(void **state)
{
    struct jtest t;

    (void)state;
    if (!FAULTS_BUILT)
        skip();
    jtest_open_uv(&t);
    t.stop_at = 3000;
    tarn_fault_arm(TARN_FAULT_kv_write, 1, 2, -TARN_E_KV_NO_SPACE);
    tarn_loop_post(t.loop, &t.task, jtest_propose_task);
    tarn_loop_run(t.loop);
    tarn_fault_reset();
    assert_true(t.failed >= 2 && t.failed <= 512);
    assert_int_equal(t.last_index, t.fx.index + 3000 - t.failed);
    t.j->ops->stop(t.j);
    jtest_close_uv(&t);
}

static void jtest_stop_full_task(struct tarn_task *task)
{
    struct jtest *t = TARN_CONTAINER(task, struct jtest, task);

    for (unsigned i = 0; i < 1000; i++)
        jtest_propose_found(t, i, t->fx.index + i);
    t->j->ops->stop(
        t->j); /* the thread may wait for this loop to open the store again: it must not */
}

static void thread_stops_without_space(void **state)
{
    struct jtest t;

    (void)state;
    if (!FAULTS_BUILT)
        skip();
    jtest_open_uv(&t);
    t.stop_at = 1000;
    tarn_fault_arm(TARN_FAULT_kv_write, 0, 1000, -TARN_E_KV_NO_SPACE);
    tarn_loop_post(t.loop, &t.task, jtest_stop_full_task);
    tarn_loop_run(t.loop);
    tarn_fault_reset();
    assert_int_equal(t.failed, 1000);
    assert_int_equal(t.rc, -TARN_E_KV_NO_SPACE);
    jtest_close_uv(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(inline_groups),
        cmocka_unit_test(inline_write_failure),
        cmocka_unit_test(inline_fail_nth),
        cmocka_unit_test(inline_no_space),
        cmocka_unit_test(bounded_queue),
        cmocka_unit_test(thread_commits),
        cmocka_unit_test(thread_drains),
        cmocka_unit_test(thread_no_space),
        cmocka_unit_test(thread_stops_without_space),
    };

    return cmocka_run_group_tests_name("journal", tests, NULL, NULL);
}
