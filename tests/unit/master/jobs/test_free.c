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

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {T(test_free_of_a_tree), T(test_free_of_what_is_not_there)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
