/* SPDX-License-Identifier: Apache-2.0 */
/* Loads from beginning to end: what they do, what they say, what they refuse. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/unit/master/jobs/jobs_fixture.h"

static int setup(void **state)
{
    *state = jfx_new();
    return 0;
}

static int teardown(void **state)
{
    struct jfx *fx = *state;

    jfx_free(&fx);
    return 0;
}

static void test_loads_a_tree(void **state)
{
    struct jfx *fx = *state;
    struct jfx_line *l;
    Tarn__Wire__Job *job;
    uint64_t id;
    size_t n;

    for (unsigned i = 0; i < 150; i++) {
        char path[64];

        (void)snprintf(path, sizeof(path), "/d%u/f%u.bin", i % 3, i);
        jfx_put(fx, path, 100 + i);
    }
    jfx_put(fx, "/d0/empty", 0);
    jfx_put(fx, "/d0/deep/er/x", 5);
    jfx_start(fx);
    id = jfx_load(fx, "/");
    job = jfx_wait(fx, id);
    assert_string_equal(job->state, "succeeded");
    assert_string_equal(job->kind, "load");
    assert_int_equal(job->files_total, 152);
    assert_int_equal(job->files_done, 152);
    assert_int_equal(job->files_failed, 0);
    assert_int_equal(job->bytes_total, 150 * 100 + 149 * 150 / 2 + 5);
    assert_int_equal(job->bytes_done, job->bytes_total);
    assert_int_equal(fx->fetched, job->bytes_total);
    assert_true(job->started_ns > 0 && job->finished_ns >= job->started_ns);
    assert_int_equal(job->error, 0);
    assert_int_equal(job->spec->n_paths, 1);
    tarn__wire__job__free_unpacked(job, NULL);
    assert_true(fx->largest_batch > 1 && fx->largest_batch <= 64);
    assert_true(fx->most_in_flight <= 8);

    n = jfx_manifest(fx, id, 7, &l);
    assert_int_equal(n, 152);
    assert_string_equal(jfx_find(l, n, "/d1/f1.bin")->state, "loaded");
    assert_int_equal(jfx_find(l, n, "/d1/f1.bin")->bytes, 101);
    assert_string_equal(jfx_find(l, n, "/d1/f1.bin")->checksum, "etag");
    assert_int_equal(jfx_find(l, n, "/d1/f1.bin")->worker, 1);
    assert_int_equal(jfx_find(l, n, "/d1/f1.bin")->replicas, 1);
    assert_string_equal(jfx_find(l, n, "/d0/empty")->state, "present");
    assert_string_equal(jfx_find(l, n, "/d0/deep/er/x")->state, "loaded");
    free(l);

    id = jfx_load(fx, "/"); /* again: nothing is fetched */
    jfx_expect(fx, id, "succeeded", 152, 0);
    assert_int_equal(fx->fetched, 150 * 100 + 149 * 150 / 2 + 5);
    n = jfx_manifest(fx, id, 0, &l);
    assert_string_equal(jfx_find(l, n, "/d1/f1.bin")->state, "present");
    free(l);
}

static void test_one_file_and_ranges_of_big_ones(void **state)
{
    struct jfx *fx = *state;

    jfx_put(fx, "/big", 100u << 20);
    jfx_start(fx);
    jfx_expect(fx, jfx_load(fx, "/big"), "succeeded", 1, 0);
    assert_true(fx->ranged);
    assert_int_equal(fx->fetched, 100u << 20);
    assert_int_equal(fx->fills, 7); /* pieces of 16 MiB */
}

static void test_failures_are_named(void **state)
{
    struct jfx *fx = *state;
    struct jfx_line *l;
    Tarn__Wire__Job *job;
    uint64_t id;
    size_t n;

    jfx_put(fx, "/a", 10);
    jfx_put(fx, "/b", 20);
    jfx_put(fx, "/c", 30);
    jfx_rule(fx, "b", -TARN_E_UFS_DENIED, 0);
    jfx_start(fx);
    id = jfx_load(fx, "/");
    job = jfx_wait(fx, id);
    assert_string_equal(job->state, "failed");
    assert_int_equal(job->error, TARN_E_JOB_PARTIAL);
    assert_string_equal(job->error_text, "1 of 3 files failed, first: /b: as the test wants");
    assert_int_equal(job->files_done, 2);
    assert_int_equal(job->bytes_done, 40);
    tarn__wire__job__free_unpacked(job, NULL);
    n = jfx_manifest(fx, id, 0, &l);
    assert_int_equal(n, 3);
    assert_string_equal(jfx_find(l, n, "/b")->state, "failed");
    assert_int_equal(jfx_find(l, n, "/b")->code, TARN_E_UFS_DENIED);
    assert_string_equal(jfx_find(l, n, "/b")->error, "as the test wants");
    free(l);
}

static void test_missing_paths_fail_and_the_rest_is_loaded(void **state)
{
    struct jfx *fx = *state;
    Tarn__Wire__LoadSpec spec;
    ProtobufCBinaryData paths[5];
    struct jfx_line *l;
    uint64_t id = 0;
    size_t n;

    jfx_put(fx, "/d/a", 10);
    jfx_put(fx, "/d/e/b", 10);
    jfx_start(fx);
    jfx_spec(&spec, paths, "/none/at/all");
    paths[1] = tarn_wire_bytes("d/e/", 4);
    paths[2] = tarn_wire_bytes("/d", 2);
    paths[3] = tarn_wire_bytes("//d//a", 6);
    paths[4] = tarn_wire_bytes("/d/nothing", 10); /* inside another, but not there */
    spec.n_paths = 5;
    assert_int_equal(jfx_create(fx, "load", &spec, &id), 0);
    jfx_expect(fx, id, "failed", 2, 2);
    n = jfx_manifest(fx, id, 0, &l);
    assert_int_equal(n, 4); /* what is inside another path is one line */
    assert_string_equal(jfx_find(l, n, "/none/at/all")->state, "failed");
    assert_int_equal(jfx_find(l, n, "/none/at/all")->code, TARN_E_NO_ENTRY);
    assert_int_equal(jfx_find(l, n, "/d/nothing")->code, TARN_E_NO_ENTRY);
    (void)jfx_find(l, n, "/d/a");
    (void)jfx_find(l, n, "/d/e/b");
    free(l);
}

static void test_no_room_fails_before_anything_is_fetched(void **state)
{
    struct jfx *fx = *state;
    Tarn__Wire__LoadSpec spec;
    ProtobufCBinaryData path;
    Tarn__Wire__Job *job;
    uint64_t id = 0;

    for (unsigned i = 0; i < 10; i++) {
        char name[16];

        (void)snprintf(name, sizeof(name), "/f%u", i);
        jfx_put(fx, name, 1u << 20);
    }
    fx->capacity = 5u << 20;
    jfx_start(fx);
    id = jfx_load(fx, "/");
    job = jfx_wait(fx, id);
    assert_string_equal(job->state, "failed");
    assert_int_equal(job->error, TARN_E_JOB_NO_ROOM);
    assert_non_null(strstr(job->error_text, "needs 10"));
    assert_non_null(strstr(job->error_text, "missing"));
    assert_int_equal(fx->fills, 0);
    tarn__wire__job__free_unpacked(job, NULL);

    jfx_spec(&spec, &path, "/");
    spec.allow_partial = true;
    assert_int_equal(jfx_create(fx, "load", &spec, &id), 0);
    jfx_expect(fx, id, "failed", 4, 6);
    assert_int_equal(fx->fetched, 4u << 20);
}

/* Small files take whole blocks: what fits byte by byte would drive itself out. */
static void test_small_files_need_more_room_than_bytes(void **state)
{
    struct jfx *fx = *state;
    Tarn__Wire__Job *job;

    for (unsigned i = 0; i < 100; i++) {
        char name[16];

        (void)snprintf(name, sizeof(name), "/f%u", i);
        jfx_put(fx, name, 100);
    }
    fx->capacity = 350u << 10;
    jfx_start(fx);
    job = jfx_wait(fx, jfx_load(fx, "/"));
    assert_string_equal(job->state, "failed");
    assert_int_equal(job->error, TARN_E_JOB_NO_ROOM);
    assert_int_equal(job->bytes_total, 10000);
    assert_non_null(strstr(job->error_text, "needs 400"));
    assert_int_equal(fx->fills, 0);
    tarn__wire__job__free_unpacked(job, NULL);
    fx->capacity = 500u << 10;
    jfx_expect(fx, jfx_load(fx, "/"), "succeeded", 100, 0);
}

/* The store's object is another one than the listing said. */
static void test_a_changed_object_is_loaded_in_its_new_version(void **state)
{
    struct jfx *fx = *state;
    struct jfx_line *l;
    uint64_t id;
    size_t n;

    jfx_put(fx, "/a", 10);
    jfx_put(fx, "/b", 10);
    jfx_put(fx, "/gone", 10);
    jfx_start(fx);
    jfx_expect(fx, jfx_load(fx, "/"), "succeeded", 3, 0);
    jfx_put(fx, "/a", 25);
    jfx_unlink(fx, "/gone");
    jfx_rule(fx, "a", -TARN_E_UFS_CHANGED, 1);
    jfx_rule(fx, "b", -TARN_E_UFS_CHANGED, 0);
    jfx_rule(fx, "gone", -TARN_E_UFS_NOT_FOUND, 0);
    id = jfx_load(fx, "/");
    jfx_expect(fx, id, "failed", 1, 2);
    n = jfx_manifest(fx, id, 0, &l);
    assert_string_equal(jfx_find(l, n, "/a")->state, "loaded");
    assert_int_equal(jfx_find(l, n, "/a")->bytes, 25);
    assert_int_equal(jfx_find(l, n, "/b")->code, TARN_E_UFS_CHANGED);
    assert_int_equal(jfx_find(l, n, "/gone")->code, TARN_E_NO_ENTRY);
    free(l);
}

static void test_evicted_meanwhile(void **state)
{
    struct jfx *fx = *state;

    jfx_put(fx, "/a", 10);
    jfx_put(fx, "/b", 10);
    fx->evict_at_query = 1;
    jfx_start(fx);
    jfx_expect(fx, jfx_load(fx, "/"), "succeeded", 2, 0);
    assert_int_equal(fx->fetched, 40); /* both, twice */
}

static void test_evicted_and_no_room_to_load_again(void **state)
{
    struct jfx *fx = *state;
    struct jfx_line *l;
    Tarn__Wire__Job *job;
    uint64_t id;
    size_t n;

    jfx_put(fx, "/a", 10);
    jfx_put(fx, "/b", 10);
    fx->evict_at_query = 1;
    fx->evict_status = -TARN_E_TIER_FULL;
    jfx_start(fx);
    id = jfx_load(fx, "/");
    job = jfx_wait(fx, id);
    assert_string_equal(job->state, "failed");
    assert_int_equal(job->error, TARN_E_JOB_PARTIAL);
    assert_int_equal(job->files_done, 0);
    assert_int_equal(job->files_failed, 2);
    assert_int_equal(job->files_total, 2);
    assert_int_equal(job->bytes_done, 0);
    tarn__wire__job__free_unpacked(job, NULL);
    n = jfx_manifest(fx, id, 0, &l);
    assert_int_equal(n, 4); /* a later line says that an earlier one holds no more */
    assert_string_equal(l[0].state, "loaded");
    assert_string_equal(l[3].state, "evicted");
    assert_int_equal(l[3].code, TARN_E_TIER_FULL);
    free(l);
}

/* What is not there because other files drove it out is not "done". */
static void test_what_does_not_stay_has_failed(void **state)
{
    struct jfx *fx = *state;
    struct jfx_line *l;
    Tarn__Wire__Job *job;
    uint64_t id;
    size_t n, evicted = 0;

    for (unsigned i = 0; i < 6; i++) {
        char path[16];

        (void)snprintf(path, sizeof(path), "/f%u", i);
        jfx_put(fx, path, 10);
    }
    fx->files_max = 5;
    jfx_start(fx);
    id = jfx_load(fx, "/");
    job = jfx_wait(fx, id);
    assert_string_equal(job->state, "failed");
    assert_int_equal(job->error, TARN_E_JOB_PARTIAL);
    assert_int_equal(job->files_total, 6);
    assert_int_equal(job->files_done + job->files_failed, 6);
    assert_int_equal(job->bytes_done, 10 * job->files_done);
    n = jfx_manifest(fx, id, 0, &l);
    for (size_t i = 0; i < n; i++)
        evicted += strcmp(l[i].state, "evicted") == 0;
    assert_int_equal(evicted, job->files_failed);
    assert_true(evicted > 0);
    assert_string_equal(l[n - 1].error, "evicted each time it was loaded");
    tarn__wire__job__free_unpacked(job, NULL);
    free(l);
    fx->files_max = 6; /* room for all: nothing has to go again */
    jfx_expect(fx, jfx_load(fx, "/"), "succeeded", 6, 0);
}

static uint64_t dry_run(struct jfx *fx, const char *path)
{
    Tarn__Wire__LoadSpec spec;
    ProtobufCBinaryData p;
    uint64_t id = 0;

    jfx_spec(&spec, &p, path);
    spec.dry_run = true;
    assert_int_equal(jfx_create(fx, "load", &spec, &id), 0);
    return id;
}

/* What a load would do depends on what there is: it lists, and fetches nothing. */
static void test_dry_run(void **state)
{
    struct jfx *fx = *state;
    struct jfx_line *l;
    Tarn__Wire__Job *job;
    uint64_t id;
    size_t n;

    jfx_put(fx, "/d/a", 10);
    jfx_put(fx, "/d/b", 10);
    jfx_put(fx, "/c", 10);
    jfx_start(fx);
    id = dry_run(fx, "/"); /* nothing is known */
    jfx_expect(fx, id, "succeeded", 0, 0);
    n = jfx_manifest(fx, id, 0, &l);
    assert_int_equal(n, 3);
    assert_string_equal(jfx_find(l, n, "/d/a")->state, "would-load");
    assert_int_equal(jfx_find(l, n, "/d/a")->bytes, 10);
    free(l);
    assert_int_equal(fx->fills, 0);
    jfx_expect(fx, dry_run(fx, "/none"), "failed", 0, 1);

    jfx_expect(fx, jfx_load(fx, "/d/a"), "succeeded", 1, 0);
    id = dry_run(fx, "/");
    jfx_expect(fx, id, "succeeded", 1, 0);
    n = jfx_manifest(fx, id, 0, &l);
    assert_int_equal(n, 3);
    assert_string_equal(jfx_find(l, n, "/d/a")->state, "present");
    assert_string_equal(jfx_find(l, n, "/d/b")->state, "would-load");
    free(l);
    assert_int_equal(fx->fills, 1);

    fx->capacity = 20; /* a load would be refused */
    id = dry_run(fx, "/");
    job = jfx_wait(fx, id);
    assert_string_equal(job->state, "failed");
    assert_int_equal(job->error, TARN_E_JOB_NO_ROOM);
    tarn__wire__job__free_unpacked(job, NULL);
    assert_int_equal(fx->fills, 1);
}

static void test_names_only(void **state)
{
    struct jfx *fx = *state;
    Tarn__Wire__LoadSpec spec;
    ProtobufCBinaryData path;
    struct jfx_line *l;
    uint64_t id = 0;
    size_t n;

    jfx_put(fx, "/a", 10);
    jfx_put(fx, "/d/b", 10);
    jfx_start(fx);
    jfx_spec(&spec, &path, "/");
    spec.meta = true;
    spec.data = false;
    assert_int_equal(jfx_create(fx, "load", &spec, &id), 0);
    jfx_expect(fx, id, "succeeded", 2, 0);
    n = jfx_manifest(fx, id, 0, &l);
    assert_int_equal(n, 2);
    assert_string_equal(jfx_find(l, n, "/d/b")->state, "listed");
    assert_int_equal(jfx_find(l, n, "/d/b")->bytes, 10);
    free(l);
    spec.dry_run = true;
    assert_int_equal(jfx_create(fx, "load", &spec, &id), 0);
    jfx_expect(fx, id, "succeeded", 0, 0);
    n = jfx_manifest(fx, id, 0, &l);
    assert_string_equal(jfx_find(l, n, "/a")->state, "would-list");
    free(l);
    assert_int_equal(fx->fills, 0);
}

/*
 * A listing was interrupted long ago, when /b was not there: its first half is not taken for what
 * the store has now.
 */
static void test_an_old_half_of_a_listing_is_not_believed(void **state)
{
    struct jfx *fx = *state;
    Tarn__Core__Entry e = TARN__CORE__ENTRY__INIT;
    Tarn__Core__ListBegin begin = TARN__CORE__LIST_BEGIN__INIT;
    Tarn__Core__ListPage page = TARN__CORE__LIST_PAGE__INIT;

    jfx_put(fx, "/b", 10);
    jfx_put(fx, "/z", 10);
    fx->ttl_ns = 60 * TARN_NS_PER_S;
    jfx_start(fx);
    jfx_stop(fx);
    e.time_ns = tarn_clock_system()->real_ns(tarn_clock_system()) - 3600ll * TARN_NS_PER_S;
    begin.dir = TARN_INO_ROOT.v;
    e.list_begin = &begin;
    jfx_apply(fx, &e);
    e.list_begin = NULL;
    page.dir = TARN_INO_ROOT.v;
    page.to_key = tarn_wire_bytes("m", 1);
    e.list_page = &page;
    jfx_apply(fx, &e);
    jfx_start(fx);
    jfx_expect(fx, jfx_load(fx, "/"), "succeeded", 2, 0);
}

static void test_filters_and_options(void **state)
{
    struct jfx *fx = *state;
    Tarn__Wire__LoadSpec spec;
    ProtobufCBinaryData path, filter = tarn_wire_bytes("*.tar", 5);
    ProtobufCBinaryData exclude = tarn_wire_bytes("old", 3);
    struct jfx_line *l;
    uint64_t id = 0;
    size_t n;

    jfx_put(fx, "/d/a.tar", 10);
    jfx_put(fx, "/d/a.txt", 10);
    jfx_put(fx, "/d/old/b.tar", 10);
    jfx_put(fx, "/d/new/c.tar", 10);
    jfx_start(fx);
    jfx_spec(&spec, &path, "/d");
    spec.filter = &filter;
    spec.n_filter = 1;
    spec.exclude = &exclude;
    spec.n_exclude = 1;
    spec.verify = true;
    assert_int_equal(jfx_create(fx, "load", &spec, &id), 0);
    jfx_expect(fx, id, "succeeded", 2, 0);
    n = jfx_manifest(fx, id, 0, &l);
    assert_int_equal(n, 2);
    (void)jfx_find(l, n, "/d/a.tar");
    (void)jfx_find(l, n, "/d/new/c.tar");
    free(l);
    assert_true(fx->verified);

    jfx_spec(&spec, &path, "/d");
    spec.recursive = false;
    spec.force = true;
    assert_int_equal(jfx_create(fx, "load", &spec, &id), 0);
    jfx_expect(fx, id, "succeeded", 2, 0);
    assert_true(fx->frees > 0);
    assert_int_equal(fx->fetched, 40); /* a.tar twice */
}

static void test_symlinks_are_shown(void **state)
{
    struct jfx *fx = *state;
    struct jfx_line *l;
    char link[128];
    uint64_t id;
    size_t n;

    jfx_put(fx, "/a", 10);
    (void)snprintf(link, sizeof(link), "%s/link", fx->dir);
    assert_int_equal(symlink("a", link), 0);
    jfx_start(fx);
    id = jfx_load(fx, "/");
    jfx_expect(fx, id, "succeeded", 1, 0);
    n = jfx_manifest(fx, id, 0, &l);
    assert_int_equal(n, 2);
    assert_string_equal(jfx_find(l, n, "/link")->state, "symlink");
    free(l);
}

static void test_refusals(void **state)
{
    struct jfx *fx = *state;
    Tarn__Wire__LoadSpec spec;
    Tarn__Wire__JobRequest show = TARN__WIRE__JOB_REQUEST__INIT;
    ProtobufCMessage *resp = NULL;
    ProtobufCBinaryData path;
    uint64_t id = 0;

    jfx_start(fx);
    jfx_spec(&spec, &path, "/../x");
    assert_int_equal(jfx_create(fx, "load", &spec, &id), -TARN_E_NAME_BAD);
    jfx_spec(&spec, &path, "/");
    assert_int_equal(jfx_create(fx, "move", &spec, &id), -TARN_E_UNSUPPORTED);
    spec.older_than_ms = 1;
    assert_int_equal(jfx_create(fx, "free", &spec, &id), -TARN_E_UNSUPPORTED);
    spec.older_than_ms = 0;
    spec.pin = true; /* nothing could take the pins away again */
    assert_int_equal(jfx_create(fx, "load", &spec, &id), -TARN_E_UNSUPPORTED);
    spec.pin = false;
    spec.n_paths = 0;
    assert_int_equal(jfx_create(fx, "load", &spec, &id), -TARN_E_INVALID);
    spec.id = 4711;
    assert_int_equal(jfx_create(fx, "load", &spec, &id), -TARN_E_NO_JOB);
    show.id = 4711;
    assert_int_equal(jfx_call(fx, TARN_RPC_job_show, &show.base, &resp), -TARN_E_NO_JOB);
    if (resp)
        protobuf_c_message_free_unpacked(resp, NULL);
}

static void test_a_busy_worker_is_waited_for(void **state)
{
    struct jfx *fx = *state;

    jfx_put(fx, "/a", 10);
    jfx_put(fx, "/b", 10);
    fx->fail_fills = 1;
    jfx_rule(fx, "b", -TARN_E_BUSY, 1);
    jfx_start(fx);
    jfx_expect(fx, jfx_load(fx, "/"), "succeeded", 2, 0);
}

static void test_bandwidth(void **state)
{
    struct jfx *fx = *state;
    Tarn__Wire__LoadSpec spec;
    ProtobufCBinaryData path;
    uint64_t id = 0, began;

    jfx_put(fx, "/big", 24u << 20);
    jfx_start(fx);
    jfx_spec(&spec, &path, "/big");
    spec.bandwidth = 16u << 20;
    began = tarn_now_ns();
    assert_int_equal(jfx_create(fx, "load", &spec, &id), 0);
    jfx_expect(fx, id, "succeeded", 1, 0);
    /* The first piece goes at once, the rest waits until it is paid for. */
    assert_true(tarn_now_ns() - began >= 900 * TARN_NS_PER_MS);
    began = tarn_now_ns();
    assert_int_equal(jfx_create(fx, "load", &spec, &id), 0); /* nothing to fetch, nothing to pay */
    jfx_expect(fx, id, "succeeded", 1, 0);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_loads_a_tree),
        T(test_one_file_and_ranges_of_big_ones),
        T(test_failures_are_named),
        T(test_missing_paths_fail_and_the_rest_is_loaded),
        T(test_no_room_fails_before_anything_is_fetched),
        T(test_small_files_need_more_room_than_bytes),
        T(test_a_changed_object_is_loaded_in_its_new_version),
        T(test_evicted_meanwhile),
        T(test_evicted_and_no_room_to_load_again),
        T(test_what_does_not_stay_has_failed),
        T(test_dry_run),
        T(test_names_only),
        T(test_an_old_half_of_a_listing_is_not_believed),
        T(test_filters_and_options),
        T(test_symlinks_are_shown),
        T(test_refusals),
        T(test_a_busy_worker_is_waited_for),
        T(test_bandwidth),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
