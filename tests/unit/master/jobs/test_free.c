/* SPDX-License-Identifier: Apache-2.0 */
/* Frees: what is known is dropped at the worker, nothing is asked of the store. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/master/jobs/jobs_fixture.h"

static int setup(void **state)
{
    struct jfx *fx = jfx_new();

    jfx_put(fx, "/a/x", 10);
    jfx_put(fx, "/a/y", 20);
    jfx_put(fx, "/b/z", 30);
    jfx_start(fx);
    jfx_expect(fx, jfx_load(fx, "/"), "succeeded", 3, 0);
    *state = fx;
    return 0;
}

static int teardown(void **state)
{
    struct jfx *fx = *state;

    jfx_free(&fx);
    return 0;
}

static void test_free_of_a_tree(void **state)
{
    struct jfx *fx = *state;
    Tarn__Wire__LoadSpec spec;
    ProtobufCBinaryData path;
    struct jfx_line *l;
    Tarn__Wire__Job *job;
    uint64_t id = 0;
    size_t n;

    jfx_spec(&spec, &path, "/a");
    spec.meta = false;
    spec.dry_run = true;
    assert_int_equal(jfx_create(fx, "free", &spec, &id), 0);
    jfx_expect(fx, id, "succeeded", 0, 0);
    assert_int_equal(fx->frees, 0);
    n = jfx_manifest(fx, id, 0, &l);
    assert_int_equal(n, 2);
    assert_string_equal(jfx_find(l, n, "/a/y")->state, "would-free");
    free(l);

    spec.dry_run = false;
    assert_int_equal(jfx_create(fx, "free", &spec, &id), 0);
    job = jfx_wait(fx, id);
    assert_string_equal(job->state, "succeeded");
    assert_string_equal(job->kind, "free");
    assert_int_equal(job->files_done, 2);
    assert_int_equal(job->files_total, 2);
    assert_int_equal(job->bytes_done, 30);
    tarn__wire__job__free_unpacked(job, NULL);
    n = jfx_manifest(fx, id, 0, &l);
    assert_int_equal(n, 2);
    assert_string_equal(jfx_find(l, n, "/a/x")->state, "freed");
    assert_int_equal(jfx_find(l, n, "/a/x")->bytes, 10);
    free(l);

    assert_int_equal(jfx_create(fx, "free", &spec, &id), 0); /* nothing is left */
    jfx_expect(fx, id, "succeeded", 0, 0);
    jfx_expect(fx, jfx_load(fx, "/"), "succeeded", 3, 0);
    assert_int_equal(fx->fetched, 90);
}

static void test_free_of_what_is_not_there(void **state)
{
    struct jfx *fx = *state;
    Tarn__Wire__LoadSpec spec;
    ProtobufCBinaryData path;
    uint64_t id = 0;

    jfx_spec(&spec, &path, "/none");
    assert_int_equal(jfx_create(fx, "free", &spec, &id), -TARN_E_UNSUPPORTED); /* names */
    spec.meta = false;
    assert_int_equal(jfx_create(fx, "free", &spec, &id), 0);
    jfx_expect(fx, id, "failed", 0, 1);
}

static bool two_frees(struct jfx *fx)
{
    return fx->held_free_count > 1;
}

/* The worker frees the files of a request one after the other: several are under way. */
static void test_frees_go_side_by_side(void **state)
{
    struct jfx *fx = *state;
    Tarn__Wire__LoadSpec spec;
    ProtobufCBinaryData path;
    struct jfx_line *l;
    uint64_t id = 0;
    size_t n;

    jfx_stop(fx);
    fx->ttl_ns = TARN_TTL_ALWAYS; /* to see what comes now */
    for (unsigned i = 0; i < 2000; i++) {
        char name[32];

        (void)snprintf(name, sizeof(name), "/many/f%u", i);
        jfx_put(fx, name, 10);
    }
    jfx_start(fx);
    jfx_expect(fx, jfx_load(fx, "/many"), "succeeded", 2000, 0);
    jfx_spec(&spec, &path, "/");
    spec.meta = false;
    fx->hold_frees = true;
    assert_int_equal(jfx_create(fx, "free", &spec, &id), 0);
    jfx_run_until(fx, two_frees);
    assert_true(fx->held_free_count <= 16);
    jfx_release(fx);
    jfx_expect(fx, id, "succeeded", 2003, 0);
    n = jfx_manifest(fx, id, 0, &l);
    assert_int_equal(n, 2003);
    assert_string_equal(jfx_find(l, n, "/many/f1999")->state, "freed");
    free(l);
}

/* Ranges of a list are those of a load: a free takes the whole file, also when it is shorter now.
 */
static void test_free_of_a_list_with_ranges(void **state)
{
    struct jfx *fx = *state;
    Tarn__Wire__LoadItem rows[2], *items[2] = {&rows[0], &rows[1]};
    Tarn__Wire__LoadSpec spec;
    ProtobufCBinaryData path;
    uint64_t id = 0;

    jfx_spec(&spec, &path, "/");
    spec.meta = false;
    for (unsigned i = 0; i < 2; i++) {
        tarn__wire__load_item__init(&rows[i]);
        rows[i].path = tarn_wire_bytes(i ? "/a/y" : "/a/x", 4);
        rows[i].offset = i ? 1000 : 5;
        rows[i].length = 5;
    }
    spec.items = items;
    spec.n_items = 2;
    assert_int_equal(jfx_create(fx, "free", &spec, &id), 0);
    jfx_expect(fx, id, "succeeded", 2, 0);
}

static void test_cancel_of_a_free(void **state)
{
    struct jfx *fx = *state;
    Tarn__Wire__JobRequest msg = TARN__WIRE__JOB_REQUEST__INIT;
    ProtobufCMessage *resp = NULL;
    Tarn__Wire__LoadSpec spec;
    ProtobufCBinaryData path;

    jfx_spec(&spec, &path, "/");
    spec.meta = false;
    fx->hold_frees = true;
    assert_int_equal(jfx_create(fx, "free", &spec, &msg.id), 0);
    jfx_run_ms(fx, 30);
    assert_int_equal(jfx_call(fx, TARN_RPC_job_cancel, &msg.base, &resp), 0);
    assert_string_equal(((Tarn__Wire__Job *)resp)->state, "cancelled");
    protobuf_c_message_free_unpacked(resp, NULL);
    assert_int_equal(fx->held_free_count, 0); /* the worker was told */
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_free_of_a_tree),        T(test_free_of_what_is_not_there),
        T(test_frees_go_side_by_side), T(test_free_of_a_list_with_ranges),
        T(test_cancel_of_a_free),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
