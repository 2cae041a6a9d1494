/* SPDX-License-Identifier: Apache-2.0 */
/* Loads and frees over three workers that die, are away, come back or join meanwhile. */
#include "tests/unit/master/jobs/cluster_fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int setup(void **state)
{
    *state = cfx_new(512 * MIB);
    return 0;
}

static int teardown(void **state)
{
    struct cfx *fx = *state;

    cfx_free(&fx);
    return 0;
}

static void test_a_connection_that_breaks(void **state)
{
    struct cfx *fx = *state;
    uint64_t id;

    cfx_put_many(fx, "/d", 48, MIB);
    id = cfx_load_slowly(fx, "/");
    cfx_until(fx, cfx_a_fourth_is_done, &id);
    cfx_cut(fx, 1);
    cfx_run_ms(fx, 300);
    cfx_back(fx, 1);
    cfx_expect(fx, id, "succeeded", 48, 0);
    for (unsigned i = 0; i < 48; i++) { /* it was waited for */
        char path[64];

        cfx_name(path, "/d", i);
        cfx_expect_placed(fx, path, 1);
    }
}

/* Every file is at its owner or, where that is the one that died, at who stands in for it. */
static void expect_stand_ins(struct cfx *fx, unsigned dead, unsigned files)
{
    unsigned stood_in = 0;

    for (unsigned i = 0; i < files; i++) {
        const struct tarn_place_worker *order[TARN_PLACE_PICK_MAX];
        tarn_cid_t cid;
        char path[64];
        bool was_dead;

        cfx_name(path, "/d", i);
        cfx_file(fx, path, &cid);
        tarn_place_order(tarn_peers_place(fx->master->peers), &cid, 0, 2, order);
        was_dead = order[0]->id == fx->workers[dead].id;
        assert_true(cfx_has(fx, (unsigned)(order[was_dead]->id - 101), path, 0));
        stood_in += was_dead;
    }
    assert_true(stood_in > 0);
}

static void test_a_worker_that_does_not_come_back(void **state)
{
    struct cfx *fx = *state;
    Tarn__Wire__DuResponse du;
    Tarn__Wire__Job *job;
    uint64_t id;

    cfx_put_many(fx, "/d", 48, MIB);
    id = cfx_load_slowly(fx, "/");
    cfx_until(fx, cfx_a_fourth_is_done, &id);
    cfx_cut(fx, 1);
    cfx_run_ms(fx, 500);
    fx->workers[1].alive = false;
    cfx_publish(fx);
    job = cfx_wait(fx, id);
    assert_string_equal(job->state, "succeeded");
    assert_int_equal(job->files_done, 48);
    assert_int_equal(job->bytes_done, 48 * MIB);
    tarn__wire__job__free_unpacked(job, NULL);
    expect_stand_ins(fx, 1, 48);
    du = cfx_du(fx, "/");
    assert_int_equal(du.cached_bytes, 48 * MIB);
    assert_false(du.partial); /* whatever it has, it is no more than all */
    assert_string_equal(du.reason, "");
}

/* What is away may have more; what is lost has nothing. */
static void test_what_is_cached_without_a_worker(void **state)
{
    struct cfx *fx = *state;
    Tarn__Wire__WhereResponse *where;
    Tarn__Wire__DuResponse du;
    uint64_t began;

    cfx_put_many(fx, "/d", 48, 100000);
    cfx_expect(fx, cfx_load(fx, "/"), "succeeded", 48, 0);
    du = cfx_du(fx, "/");
    assert_int_equal(du.cached_bytes, 4800000);
    assert_false(du.partial);

    cfx_cut(fx, 1); /* nobody has noticed */
    began = tarn_now_ns();
    du = cfx_du(fx, "/");
    assert_true(tarn_now_ns() - began < 5 * TARN_NS_PER_S);
    assert_true(du.partial && du.cached_bytes > 0 && du.cached_bytes < 4800000);
    assert_non_null(strstr(du.reason, "worker 102"));
    assert_non_null(strstr(du.reason, "did not answer"));

    fx->workers[1].alive = false;
    fx->workers[2].alive = false;
    cfx_publish(fx);
    du = cfx_du(fx, "/");
    assert_true(du.partial);
    assert_non_null(strstr(du.reason, "is away, and 1 more"));
    where = cfx_where(fx, "/d/f0");
    assert_true(where->partial);
    assert_non_null(strstr(where->reason, "is away, and 1 more"));
    protobuf_c_message_free_unpacked(&where->base, NULL);

    fx->workers[1].member = fx->workers[2].member = false;
    cfx_publish(fx);
    du = cfx_du(fx, "/");
    assert_false(du.partial);
    assert_true(du.cached_bytes < 4800000);
}

static void note_cached(void *ctx, struct tarn_rpc_call *call)
{
    struct cfx_worker *w = ctx;
    const Tarn__Wire__CachedRequest *req = (const void *)call->request;
    Tarn__Wire__CachedResponse resp = TARN__WIRE__CACHED_RESPONSE__INIT;
    uint64_t *bytes = tarn_xcalloc(req->n_cids, sizeof(*bytes));

    if (w->fx->first_asked == 0)
        w->fx->first_asked = w->id;
    resp.n_bytes = req->n_cids;
    resp.bytes = bytes;
    tarn_rpc_reply(call, 0, &resp.base, NULL, 0, 0);
    free(bytes);
}

/* It drops what it has once another one has it: asked the other way round, both may say no. */
static void test_who_drains_is_asked_first(void **state)
{
    struct cfx *fx = *state;

    cfx_put(fx, "/f", 100000);
    cfx_expect(fx, cfx_load(fx, "/"), "succeeded", 1, 0);
    for (unsigned i = 0; i < CFX_WORKERS; i++)
        tarn_rpc_server_handle(fx->workers[i].server, TARN_RPC_cached, note_cached,
                               &fx->workers[i]);
    for (unsigned i = 0; i < CFX_WORKERS; i++) {
        for (unsigned k = 0; k < CFX_WORKERS; k++)
            fx->workers[k].drains = k == i;
        cfx_publish(fx);
        fx->first_asked = 0;
        assert_int_equal(cfx_du(fx, "/").cached_bytes, 0);
        assert_int_equal(fx->first_asked, fx->workers[i].id);
    }
}

/* The topology has not noticed yet: the job finds out by itself. */
static void test_a_worker_that_is_thought_to_be_alive(void **state)
{
    struct cfx *fx = *state;
    uint64_t id;

    cfx_put_many(fx, "/d", 24, MIB);
    cfx_expect(fx, cfx_load(fx, "/d/f0"), "succeeded", 1, 0); /* connected */
    id = cfx_load_slowly(fx, "/");
    cfx_until(fx, cfx_a_fourth_is_done, &id);
    cfx_cut(fx, 1);
    cfx_expect(fx, id, "succeeded", 24, 0);
    expect_stand_ins(fx, 1, 24);
}

static bool holds_fills(struct cfx *fx, void *arg)
{
    (void)arg; /* one for all */
    return fx->workers[1].held > 0;
}

/* It is connected, and says nothing: once it is not heard of any more, others get its share. */
static void test_a_worker_that_hangs(void **state)
{
    struct cfx *fx = *state;
    uint64_t id;

    cfx_put_many(fx, "/d", 48, 100000);
    cfx_cut(fx, 1);
    fx->workers[1].hangs = true;
    cfx_back(fx, 1);
    id = cfx_load(fx, "/");
    cfx_until(fx, holds_fills, NULL);
    fx->workers[1].alive = false;
    cfx_publish(fx);
    cfx_expect(fx, id, "succeeded", 48, 0);
    assert_int_equal(fx->workers[1].held, 0); /* it was told */
    expect_stand_ins(fx, 1, 48);

    fx->workers[1].alive = true; /* a job that is cancelled while it hangs */
    cfx_publish(fx);
    id = cfx_load(fx, "/d");
    cfx_until(fx, holds_fills, NULL);
    cfx_cancel(fx, id);
}

/* Two replicas, two of three workers: the third's share waits for nobody. */
static void test_replicas_while_a_worker_is_away(void **state)
{
    struct cfx *fx = *state;
    Tarn__Wire__LoadSpec spec;
    ProtobufCBinaryData p;
    uint64_t id;

    cfx_put_many(fx, "/d", 20, 100000);
    cfx_cut(fx, 2);
    fx->workers[2].alive = false;
    cfx_publish(fx);
    cfx_spec(&spec, &p, "/");
    spec.replicas = 2;
    id = cfx_create(fx, "load", &spec);
    cfx_run_ms(fx, 700);
    {
        Tarn__Wire__Job *job = cfx_show(fx, id);

        assert_string_equal(job->state, "running"); /* it is waited for, before anything starts */
        assert_non_null(strstr(job->error_text, "worker 103"));
        assert_non_null(strstr(job->error_text, "is not there"));
        tarn__wire__job__free_unpacked(job, NULL);
    }
    cfx_expect(fx, id, "succeeded", 20, 0);
    for (unsigned i = 0; i < 20; i++) {
        char path[64];

        cfx_name(path, "/d", i);
        assert_true(cfx_has(fx, 0, path, 0) && cfx_has(fx, 1, path, 0));
    }
}

/* A member leaves for good: what is left cannot have as many replicas as it was to have. */
static void test_too_few_workers_for_the_replicas(void **state)
{
    struct cfx *fx = *state;
    Tarn__Wire__LoadSpec spec;
    ProtobufCBinaryData p;
    Tarn__Wire__Job *job;
    uint64_t id;

    cfx_put_many(fx, "/d", 32, MIB);
    cfx_spec(&spec, &p, "/");
    spec.replicas = 3;
    spec.bandwidth = 16 * MIB;
    id = cfx_create(fx, "load", &spec);
    cfx_until(fx, cfx_a_fourth_is_done, &id);
    fx->workers[0].member = false;
    cfx_publish(fx);
    cfx_expect_text(fx, id, TARN_E_JOB_PARTIAL, "3 replicas need as many workers", "there are 2");
    job = cfx_show(fx, id);
    assert_int_equal(job->files_done + job->files_failed, 32);
    assert_int_equal(job->bytes_done, job->files_done * MIB);
    tarn__wire__job__free_unpacked(job, NULL);
}

static bool waits_for_a_worker(struct cfx *fx, void *arg)
{
    const uint64_t *id = arg;
    Tarn__Wire__Job *job = cfx_show(fx, *id);
    bool ret = strcmp(job->state, "running") == 0 && strcmp(job->error_text, "no worker") == 0;

    assert_int_equal(job->finished_ns, 0);
    tarn__wire__job__free_unpacked(job, NULL);
    return ret;
}

static void test_no_worker_then_one(void **state)
{
    struct cfx *fx = *state;
    Tarn__Wire__LoadSpec spec;
    ProtobufCBinaryData p;
    uint64_t id, cancelled, drop;

    cfx_put_many(fx, "/d", 20, 100000);
    for (unsigned i = 0; i < CFX_WORKERS; i++)
        fx->workers[i].member = false;
    cfx_publish(fx);
    id = cfx_load(fx, "/");
    cancelled = cfx_load(fx, "/");
    cfx_until(fx, waits_for_a_worker, &id);
    cfx_until(fx, waits_for_a_worker, &cancelled);
    cfx_cancel(fx, cancelled);
    fx->workers[0].member = true;
    cfx_publish(fx);
    cfx_expect(fx, id, "succeeded", 20, 0);
    assert_int_equal(cfx_fetched(fx, 0), 20 * 100000);

    fx->workers[0].member = false; /* and in the middle */
    cfx_publish(fx);
    cfx_spec(&spec, &p, "/");
    spec.meta = false;
    drop = cfx_create(fx, "free", &spec);
    cfx_until(fx, waits_for_a_worker, &drop);
    fx->workers[0].member = true;
    cfx_publish(fx);
    cfx_expect(fx, drop, "succeeded", 20, 0);
}

static void test_the_last_worker_goes_in_the_middle(void **state)
{
    struct cfx *fx = *state;
    uint64_t id;

    cfx_put_many(fx, "/d", 32, MIB);
    id = cfx_load_slowly(fx, "/");
    cfx_until(fx, cfx_a_fourth_is_done, &id);
    for (unsigned i = 0; i < CFX_WORKERS; i++) {
        cfx_cut(fx, i);
        fx->workers[i].alive = false;
    }
    cfx_publish(fx);
    cfx_until(fx, waits_for_a_worker, &id);
    cfx_back(fx, 2);
    fx->workers[2].alive = true;
    cfx_publish(fx);
    cfx_expect(fx, id, "succeeded", 32, 0);
    for (unsigned i = 0; i < 32; i++) {
        char path[64];

        cfx_name(path, "/d", i);
        assert_true(cfx_has(fx, 2, path, 0)); /* what the others have cannot be read now */
    }
}

/* A member more: what is queued goes to its new owners, what was loaded before is checked there. */
static void test_a_worker_joins_in_the_middle(void **state)
{
    struct cfx *fx = *state;
    uint64_t id;

    cfx_put_many(fx, "/d", 48, MIB);
    fx->workers[2].member = false;
    cfx_publish(fx);
    id = cfx_load_slowly(fx, "/");
    cfx_until(fx, cfx_a_fourth_is_done, &id);
    fx->workers[2].member = true;
    cfx_publish(fx);
    cfx_expect(fx, id, "succeeded", 48, 0);
    for (unsigned i = 0; i < 48; i++) {
        const struct tarn_place_worker *o[TARN_PLACE_PICK_MAX];
        tarn_cid_t cid;
        char path[64];

        cfx_name(path, "/d", i);
        cfx_file(fx, path, &cid);
        tarn_place_owners(tarn_peers_place(fx->master->peers), &cid, 0, 1, o);
        assert_true(cfx_has(fx, (unsigned)(o[0]->id - 101), path, 0));
    }
    assert_true(cfx_fetched(fx, 2) > 0);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        T(test_a_connection_that_breaks),
        T(test_a_worker_that_does_not_come_back),
        T(test_what_is_cached_without_a_worker),
        T(test_who_drains_is_asked_first),
        T(test_a_worker_that_is_thought_to_be_alive),
        T(test_a_worker_that_hangs),
        T(test_replicas_while_a_worker_is_away),
        T(test_too_few_workers_for_the_replicas),
        T(test_no_worker_then_one),
        T(test_the_last_worker_goes_in_the_middle),
        T(test_a_worker_joins_in_the_middle),
    };

    if (argc > 1) /* only these */
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
