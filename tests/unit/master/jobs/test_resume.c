/* SPDX-License-Identifier: Apache-2.0 */
/* Jobs over restarts, cancels, and the table of jobs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/master/jobs/jobs_fixture.h"

#define FILES 900u

static int setup(void **state)
{
    struct jfx *fx = jfx_new();

    for (unsigned i = 0; i < FILES; i++) {
        char path[64];

        (void)snprintf(path, sizeof(path), "/d%u/f%u", i % 7, i);
        jfx_put(fx, path, 1000);
    }
    *state = fx;
    return 0;
}

static int teardown(void **state)
{
    struct jfx *fx = *state;

    jfx_free(&fx);
    return 0;
}

static bool holds(struct jfx *fx)
{
    return fx->held_count > 0;
}

static Tarn__Wire__Job *show(struct jfx *fx, uint64_t id)
{
    Tarn__Wire__JobRequest msg = TARN__WIRE__JOB_REQUEST__INIT;
    ProtobufCMessage *resp = NULL;

    msg.id = id;
    assert_int_equal(jfx_call(fx, TARN_RPC_job_show, &msg.base, &resp), 0);
    return (Tarn__Wire__Job *)resp;
}

/* Every file once, whatever was interrupted where. */
static void expect_whole(struct jfx *fx, uint64_t id)
{
    struct jfx_line *l;
    Tarn__Wire__Job *job = jfx_wait(fx, id);
    size_t n;

    assert_string_equal(job->state, "succeeded");
    assert_int_equal(job->files_total, FILES);
    assert_int_equal(job->files_done, FILES);
    assert_int_equal(job->bytes_done, FILES * 1000);
    assert_int_equal(job->bytes_total, FILES * 1000);
    tarn__wire__job__free_unpacked(job, NULL);
    n = jfx_manifest(fx, id, 100, &l);
    assert_int_equal(n, FILES);
    for (unsigned i = 0; i < FILES; i += 37) {
        char path[64];

        (void)snprintf(path, sizeof(path), "/d%u/f%u", i % 7, i);
        (void)jfx_find(l, n, path);
    }
    for (size_t i = 1; i < n; i++)
        assert_string_not_equal(l[i].path, l[i - 1].path);
    free(l);
}

static void test_goes_on_after_a_stop(void **state)
{
    struct jfx *fx = *state;
    uint64_t id;

    fx->hold_after = 6;
    jfx_start(fx);
    id = jfx_load(fx, "/");
    jfx_run_until(fx, holds);
    jfx_stop(fx);
    fx->hold_after = fx->fills + 5;
    jfx_start(fx);
    jfx_run_until(fx, holds);
    jfx_stop(fx);
    fx->hold_after = UINT32_MAX;
    jfx_start(fx);
    expect_whole(fx, id);
    assert_int_equal(fx->fetched, FILES * 1000);
}

/* Stops at many places: in the plan, after every few requests, in the check; of one path, of many.
 */
static void stop_often(struct jfx *fx, uint64_t id)
{
    unsigned between = 0;

    /* A busy machine gets nowhere in these times: it gets longer ones. */
    for (unsigned i = 0; i < 24 || (between <= 3 && i < 240); i++) {
        Tarn__Wire__Job *job;

        fx->hold_after = fx->fills + i % 3;
        jfx_run_ms(fx, 1 + i % 20 + i / 24 * 20);
        jfx_stop(fx);
        jfx_start(fx);
        job = show(fx, id);
        between += job->files_done > 0 && job->files_done < FILES;
        tarn__wire__job__free_unpacked(job, NULL);
    }
    assert_true(between > 3);
    fx->hold_after = UINT32_MAX;
    jfx_release(fx);
    expect_whole(fx, id);
}

static void test_goes_on_wherever_it_was_stopped(void **state)
{
    struct jfx *fx = *state;

    jfx_start(fx);
    stop_often(fx, jfx_load(fx, "/"));
}

static void test_goes_on_in_the_path_where_it_was_stopped(void **state)
{
    struct jfx *fx = *state;
    Tarn__Wire__LoadSpec spec;
    ProtobufCBinaryData paths[7];
    char texts[7][8];
    uint64_t id = 0;

    jfx_spec(&spec, paths, "/");
    for (unsigned i = 0; i < 7; i++) {
        (void)snprintf(texts[i], sizeof(texts[i]), "/d%u", i);
        paths[i] = tarn_wire_bytes(texts[i], strlen(texts[i]));
    }
    spec.n_paths = 7;
    spec.parallel = 1;
    jfx_start(fx);
    assert_int_equal(jfx_create(fx, "load", &spec, &id), 0);
    stop_often(fx, id);
}

/* What was not synced is lost: the job goes on from what was. */
static void test_goes_on_after_a_power_cut(void **state)
{
    struct jfx *fx = *state;
    uint64_t id;

    fx->hold_after = 12;
    jfx_start(fx);
    id = jfx_load(fx, "/");
    jfx_run_until(fx, holds);
    jfx_stop(fx);
    (void)tarn_kv_mem_power_cut(&fx->kv_disk, 0);
    fx->hold_after = UINT32_MAX;
    jfx_start(fx);
    expect_whole(fx, id);
}

/* Bytes are not synced: what came before a power cut is there only if it still compares well. */
static void test_what_a_power_cut_took_is_loaded_again(void **state)
{
    struct jfx *fx = *state;
    uint64_t id;

    fx->hold_after = 8;
    jfx_start(fx);
    id = jfx_load(fx, "/");
    jfx_run_until(fx, holds);
    jfx_run_ms(fx, 700); /* some of it is committed */
    jfx_stop(fx);
    jfx_damage(fx);
    assert_true(jfx_damaged(fx) > 0);
    fx->hold_after = UINT32_MAX;
    jfx_start(fx);
    expect_whole(fx, id);
    assert_int_equal(jfx_damaged(fx), 0);
}

static bool has_no_answer(struct jfx *fx)
{
    return fx->fail_queries < 1000;
}

static void test_what_a_power_cut_took_in_the_check_is_loaded_again(void **state)
{
    struct jfx *fx = *state;
    uint64_t id;

    fx->fail_queries = 1000;
    jfx_start(fx);
    id = jfx_load(fx, "/");
    jfx_run_until(fx, has_no_answer);
    jfx_stop(fx);
    jfx_damage(fx);
    assert_int_equal(jfx_damaged(fx), FILES);
    fx->fail_queries = 0;
    jfx_start(fx);
    expect_whole(fx, id);
    assert_int_equal(jfx_damaged(fx), 0);
}

/*
 * The manifest told of names left out in a directory; then, after a restart, it cannot be listed.
 * That is told, too.
 */
static void test_a_listing_that_fails_after_a_restart_is_a_failure(void **state)
{
    struct jfx *fx = *state;
    Tarn__Core__Entry e = TARN__CORE__ENTRY__INIT;
    Tarn__Core__JobPut put = TARN__CORE__JOB_PUT__INIT;
    Tarn__Core__JobRecord rec = TARN__CORE__JOB_RECORD__INIT;
    Tarn__Core__JobCursor cursor = TARN__CORE__JOB_CURSOR__INIT;
    uint64_t place[2] = {TARN_INO_ROOT.v, 0};
    uint8_t spec_bytes[256], cursor_bytes[256];
    Tarn__Wire__LoadSpec spec;
    ProtobufCBinaryData path;
    char aside[128];

    fx->ttl_ns = TARN_TTL_ALWAYS;
    jfx_start(fx);
    jfx_stop(fx);
    jfx_spec(&spec, &path, "/");
    cursor.phase = 1; /* PLAN */
    cursor.walk = tarn_wire_bytes(place, sizeof(place));
    cursor.noted_dir = TARN_INO_ROOT.v;
    rec.id = 12345;
    rec.kind = tarn_wire_text("load");
    rec.state = 2; /* running */
    rec.started_ns = 1;
    rec.spec = tarn_wire_bytes(spec_bytes, tarn__wire__load_spec__pack(&spec, spec_bytes));
    rec.cursor = tarn_wire_bytes(cursor_bytes, tarn__core__job_cursor__pack(&cursor, cursor_bytes));
    put.job = &rec;
    e.job_put = &put;
    jfx_apply(fx, &e);
    (void)snprintf(aside, sizeof(aside), "%s.aside", fx->dir);
    jfx_start(fx);
    assert_int_equal(rename(fx->dir, aside), 0);
    jfx_expect(fx, rec.id, "failed", 0, 1);
    assert_int_equal(rename(aside, fx->dir), 0);
}

static void test_cancel(void **state)
{
    struct jfx *fx = *state;
    Tarn__Wire__JobRequest msg = TARN__WIRE__JOB_REQUEST__INIT;
    ProtobufCMessage *resp = NULL;
    Tarn__Wire__Job *job;

    fx->hold_after = 2;
    jfx_start(fx);
    msg.id = jfx_load(fx, "/");
    jfx_run_until(fx, holds);
    job = show(fx, msg.id);
    assert_string_equal(job->state, "running");
    tarn__wire__job__free_unpacked(job, NULL);
    assert_int_equal(jfx_call(fx, TARN_RPC_job_cancel, &msg.base, &resp), 0);
    job = (Tarn__Wire__Job *)resp;
    assert_string_equal(job->state, "cancelled");
    assert_int_equal(job->error, TARN_E_CANCELLED);
    tarn__wire__job__free_unpacked(job, NULL);
    assert_int_equal(fx->held_count, 0); /* the worker was told */
    jfx_stop(fx);
    jfx_start(fx);
    job = show(fx, msg.id);
    assert_string_equal(job->state, "cancelled");
    tarn__wire__job__free_unpacked(job, NULL);
}

static bool four_run(struct jfx *fx)
{
    struct tarn_master_counts counts;

    tarn_master_counts(fx->master, &counts);
    return counts.jobs_running == 4;
}

static void test_four_run_at_a_time(void **state)
{
    struct jfx *fx = *state;
    Tarn__Wire__Empty msg = TARN__WIRE__EMPTY__INIT;
    Tarn__Wire__JobRequest cancel = TARN__WIRE__JOB_REQUEST__INIT;
    struct tarn_master_counts counts;
    ProtobufCMessage *resp = NULL;
    Tarn__Wire__JobListResponse *list;
    uint64_t ids[6];
    unsigned running = 0;

    fx->hold_after = 0;
    jfx_start(fx);
    for (unsigned i = 0; i < 6; i++) {
        char path[8];

        (void)snprintf(path, sizeof(path), "/d%u", i);
        ids[i] = jfx_load(fx, path);
        assert_true(i == 0 || ids[i] > ids[i - 1]);
    }
    jfx_run_until(fx, four_run);
    jfx_run_ms(fx, 100); /* and no more */
    assert_int_equal(jfx_call(fx, TARN_RPC_job_list, &msg.base, &resp), 0);
    list = (Tarn__Wire__JobListResponse *)resp;
    assert_int_equal(list->n_jobs, 6);
    for (unsigned i = 0; i < 6; i++) {
        assert_int_equal(list->jobs[i]->id, ids[i]);
        running += strcmp(list->jobs[i]->state, "running") == 0;
    }
    assert_int_equal(running, 4);
    assert_string_equal(list->jobs[5]->state, "planned");
    protobuf_c_message_free_unpacked(resp, NULL);
    tarn_master_counts(fx->master, &counts);
    assert_int_equal(counts.jobs_running, 4);

    cancel.id = ids[5];
    assert_int_equal(jfx_call(fx, TARN_RPC_job_cancel, &cancel.base, &resp), 0);
    assert_string_equal(((Tarn__Wire__Job *)resp)->state, "cancelled");
    protobuf_c_message_free_unpacked(resp, NULL);
    jfx_release(fx);
    for (unsigned i = 0; i < 5; i++)
        tarn__wire__job__free_unpacked(jfx_wait(fx, ids[i]), NULL);
}

static bool so_many_are_listed(struct jfx *fx)
{
    Tarn__Wire__Empty msg = TARN__WIRE__EMPTY__INIT;
    ProtobufCMessage *resp = NULL;
    size_t n;

    assert_int_equal(jfx_call(fx, TARN_RPC_job_list, &msg.base, &resp), 0);
    n = ((Tarn__Wire__JobListResponse *)resp)->n_jobs;
    protobuf_c_message_free_unpacked(resp, NULL);
    return n == TARN_JOBS_KEPT;
}

/* Old jobs are forgotten, with their lines. */
static void test_only_so_many_are_kept(void **state)
{
    struct jfx *fx = *state;
    Tarn__Wire__ManifestRequest lines = TARN__WIRE__MANIFEST_REQUEST__INIT;
    ProtobufCMessage *resp = NULL;
    uint64_t first = 0, last = 0;

    jfx_start(fx);
    for (unsigned i = 0; i < TARN_JOBS_KEPT + 3; i++) {
        last = jfx_load(fx, "/d1/f1");
        tarn__wire__job__free_unpacked(jfx_wait(fx, last), NULL);
        first = first ? first : last;
    }
    jfx_run_until(fx, so_many_are_listed);
    lines.id = first;
    assert_int_equal(jfx_call(fx, TARN_RPC_job_manifest, &lines.base, &resp), -TARN_E_NO_JOB);
    if (resp)
        protobuf_c_message_free_unpacked(resp, NULL);
}

static void test_wait_returns_when_its_time_is_over(void **state)
{
    struct jfx *fx = *state;
    Tarn__Wire__JobWaitRequest msg = TARN__WIRE__JOB_WAIT_REQUEST__INIT;
    ProtobufCMessage *resp = NULL;

    fx->hold_after = 0;
    jfx_start(fx);
    msg.id = jfx_load(fx, "/d1");
    jfx_run_until(fx, holds);
    jfx_run_ms(fx, 300);
    msg.seen_seq = UINT64_MAX;
    msg.max_wait_ms = 30;
    assert_int_equal(jfx_call(fx, TARN_RPC_job_wait, &msg.base, &resp), 0);
    assert_string_equal(((Tarn__Wire__Job *)resp)->state, "running");
    protobuf_c_message_free_unpacked(resp, NULL);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_goes_on_after_a_stop),
        T(test_goes_on_wherever_it_was_stopped),
        T(test_goes_on_in_the_path_where_it_was_stopped),
        T(test_goes_on_after_a_power_cut),
        T(test_what_a_power_cut_took_is_loaded_again),
        T(test_what_a_power_cut_took_in_the_check_is_loaded_again),
        T(test_a_listing_that_fails_after_a_restart_is_a_failure),
        T(test_cancel),
        T(test_four_run_at_a_time),
        T(test_only_so_many_are_kept),
        T(test_wait_returns_when_its_time_is_over),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
