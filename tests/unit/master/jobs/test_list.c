/* SPDX-License-Identifier: Apache-2.0 */
/* Lists: in several parts, with ranges, errors and repetitions, over restarts. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/limits.h"
#include "lib/base/mem.h"
#include "tests/unit/master/jobs/jobs_fixture.h"

#define ITEMS_MAX 4096u

struct list { /* a specification with a list */
    Tarn__Wire__LoadSpec spec;
    ProtobufCBinaryData path;
    Tarn__Wire__LoadItem rows[ITEMS_MAX], *ptrs[ITEMS_MAX];
    char texts[ITEMS_MAX][40];
};

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

static struct list *list_new(const char *base)
{
    struct list *l = tarn_xnew(struct list);

    jfx_spec(&l->spec, &l->path, base);
    l->spec.items = l->ptrs;
    return l;
}

static void list_add(struct list *l, const char *path, uint64_t off, uint64_t len)
{
    size_t i = l->spec.n_items++;

    assert_true(i < ITEMS_MAX);
    (void)snprintf(l->texts[i], sizeof(l->texts[i]), "%s", path);
    tarn__wire__load_item__init(&l->rows[i]);
    l->rows[i].path = tarn_wire_bytes(l->texts[i], strlen(l->texts[i]));
    l->rows[i].offset = off;
    l->rows[i].length = len;
    l->rows[i].line = (uint32_t)i + 1;
    l->ptrs[i] = &l->rows[i];
}

static void test_list(void **state)
{
    struct jfx *fx = *state;
    struct list *list = list_new("/d");
    struct jfx_line *l;
    uint64_t id = 0;
    size_t n;

    jfx_put(fx, "/d/a", 10);
    jfx_put(fx, "/d/b", 20);
    jfx_put(fx, "/e/c", 30);
    jfx_put(fx, "/e/t/x", 40);
    jfx_put(fx, "/e/t/y", 50);
    jfx_put(fx, "/big", 64u << 20);
    list_add(list, "b", 0, 0);
    list_add(list, "/d/a", 0, 0);
    list_add(list, "none", 0, 0);
    list_add(list, "./a", 0, 0); /* the same file again */
    list_add(list, "../e/c", 0, 0);
    list_add(list, "/big", 8u << 20, 4u << 20);
    list_add(list, "/big", 8u << 20, 4u << 20);
    list_add(list, "/big", 32u << 20, 1u << 20);
    list_add(list, "/e/t", 0, 0);
    list_add(list, "/e/t/x", 0, 0);
    jfx_start(fx);
    assert_int_equal(jfx_create(fx, "load", &list->spec, &id), 0);
    jfx_expect(fx, id, "failed", 6, 2);
    n = jfx_manifest(fx, id, 0, &l);
    assert_int_equal(n, 8);
    assert_string_equal(l[0].path, "/d/b");
    assert_string_equal(l[1].path, "/d/a");
    assert_string_equal(jfx_find(l, n, "/d/none")->state, "failed");
    assert_int_equal(jfx_find(l, n, "/d/../e/c")->code, TARN_E_NAME_BAD);
    assert_string_equal(l[4].path, "/big");
    assert_int_equal(l[4].bytes, 4u << 20);
    assert_int_equal(l[5].bytes, 1u << 20);
    (void)jfx_find(l, n, "/e/t/x");
    (void)jfx_find(l, n, "/e/t/y");
    free(l);
    assert_int_equal(fx->fetched, 10 + 20 + 40 + 50 + (5u << 20));
    free(list);
}

/* Several calls make one list; nothing starts before the last one. */
static void test_list_in_parts(void **state)
{
    struct jfx *fx = *state;
    struct list *list = list_new("/");
    uint64_t id = 0, again = 0;
    Tarn__Wire__Job *job;

    for (unsigned i = 0; i < 1500; i++) {
        char path[64];

        (void)snprintf(path, sizeof(path), "/dir/file-%u", i);
        jfx_put(fx, path, 10);
    }
    jfx_start(fx);
    for (unsigned part = 0; part < 3; part++) {
        list->spec.n_items = 0;
        for (unsigned i = 0; i < 500; i++) {
            char path[64];

            (void)snprintf(path, sizeof(path), "dir/file-%u", part * 500 + i);
            list_add(list, path, 0, 0);
        }
        list->spec.more_items = part < 2;
        list->spec.id = id;
        assert_int_equal(jfx_create(fx, "load", &list->spec, &again), 0);
        assert_true(id == 0 || id == again);
        id = again;
        if (part == 1) {
            jfx_run_ms(fx, 30);
            assert_int_equal(fx->fills, 0);
        }
    }
    assert_int_equal(jfx_create(fx, "load", &list->spec, &again), -TARN_E_JOB_STATE);
    job = jfx_wait(fx, id);
    assert_string_equal(job->state, "succeeded");
    assert_int_equal(job->files_total, 1500);
    assert_int_equal(job->files_done, 1500);
    tarn__wire__job__free_unpacked(job, NULL);
    free(list);
}

static bool holds(struct jfx *fx)
{
    return fx->held_count > 0;
}

static void test_list_goes_on_after_a_restart(void **state)
{
    struct jfx *fx = *state;
    struct list *list = list_new("/");
    struct jfx_line *l;
    uint64_t id = 0;
    size_t n;

    for (unsigned i = 0; i < 500; i++) {
        char path[64];

        (void)snprintf(path, sizeof(path), "/dir/file-%u", i);
        jfx_put(fx, path, 10);
        list_add(list, path, 0, 0);
        list_add(list, "/dir/file-1", 0, 0);
    }
    jfx_put(fx, "/dir/file-1", 10);
    fx->hold_after = 5;
    jfx_start(fx);
    assert_int_equal(jfx_create(fx, "load", &list->spec, &id), 0);
    jfx_run_until(fx, holds);
    jfx_stop(fx);
    fx->hold_after = UINT32_MAX;
    jfx_start(fx);
    jfx_expect(fx, id, "succeeded", 500, 0);
    n = jfx_manifest(fx, id, 0, &l);
    assert_int_equal(n, 500);
    (void)jfx_find(l, n, "/dir/file-1");
    free(l);
    free(list);
}

static void test_unfinished_list_ends_with_the_master(void **state)
{
    struct jfx *fx = *state;
    struct list *list = list_new("/");
    Tarn__Wire__Job *job;
    uint64_t id = 0;

    jfx_start(fx);
    list_add(list, "/a", 0, 0);
    list->spec.more_items = true;
    assert_int_equal(jfx_create(fx, "load", &list->spec, &id), 0);
    jfx_stop(fx);
    jfx_start(fx);
    job = jfx_wait(fx, id);
    assert_string_equal(job->state, "failed");
    assert_non_null(strstr(job->error_text, "before the list was complete"));
    tarn__wire__job__free_unpacked(job, NULL);
    free(list);
}

static void test_bad_items_are_refused(void **state)
{
    struct jfx *fx = *state;
    struct list *list = list_new("/");
    uint64_t id = 0;

    jfx_start(fx);
    list_add(list, "", 0, 0);
    assert_int_equal(jfx_create(fx, "load", &list->spec, &id), -TARN_E_JOB_LIST_BAD);
    list->spec.n_items = 0;
    list_add(list, "x", UINT64_MAX, 0);
    assert_int_equal(jfx_create(fx, "load", &list->spec, &id), -TARN_E_JOB_LIST_BAD);
    free(list);
}

/* A promise about bytes that no file has is not kept by doing nothing. */
static void test_ranges_that_are_not_there(void **state)
{
    struct jfx *fx = *state;
    struct list *list = list_new("/");
    struct jfx_line *l;
    uint64_t id = 0;
    size_t n;

    jfx_put(fx, "/d/a", 100);
    jfx_put(fx, "/d/b", 100);
    jfx_put(fx, "/d/c", 100);
    jfx_put(fx, "/d/empty", 0);
    list_add(list, "/d/a", 100, 10);
    list_add(list, "/d/b", 90, 100);
    list_add(list, "/d/empty", 0, 10);
    list_add(list, "/d", 0, 10);
    jfx_start(fx);
    assert_int_equal(jfx_create(fx, "load", &list->spec, &id), 0);
    jfx_expect(fx, id, "failed", 2, 2);
    n = jfx_manifest(fx, id, 0, &l);
    assert_int_equal(n, 4);
    assert_int_equal(jfx_find(l, n, "/d/a")->code, TARN_E_JOB_LIST_BAD);
    assert_non_null(strstr(jfx_find(l, n, "/d/a")->error, "behind the end"));
    assert_int_equal(jfx_find(l, n, "/d/b")->bytes, 10);
    assert_string_equal(jfx_find(l, n, "/d/empty")->state, "present");
    assert_int_equal(jfx_find(l, n, "/d")->code, TARN_E_IS_DIR);
    free(l);
    free(list);
}

static void test_a_range_of_a_file_that_got_shorter(void **state)
{
    struct jfx *fx = *state;
    struct list *list = list_new("/");
    struct jfx_line *l;
    uint64_t id = 0;
    size_t n;

    jfx_put(fx, "/cut", 40u << 20);
    jfx_put(fx, "/short", 40u << 20);
    jfx_start(fx);
    jfx_expect(fx, jfx_load(fx, "/"), "succeeded", 2, 0); /* names are known now */
    jfx_put(fx, "/cut", 10u << 20);
    jfx_put(fx, "/short", 10u << 20);
    jfx_rule(fx, "cut", -TARN_E_UFS_CHANGED, 1);
    jfx_rule(fx, "short", -TARN_E_UFS_CHANGED, 1);
    list_add(list, "/cut", 8u << 20, 4u << 20);
    list_add(list, "/short", 32u << 20, 4u << 20);
    assert_int_equal(jfx_create(fx, "load", &list->spec, &id), 0);
    jfx_expect(fx, id, "failed", 1, 1);
    n = jfx_manifest(fx, id, 0, &l);
    assert_int_equal(jfx_find(l, n, "/cut")->bytes, 2u << 20);
    assert_int_equal(jfx_find(l, n, "/short")->code, TARN_E_UFS_CHANGED);
    free(l);
    free(list);
}

/* Everything that an entry of the journal carries for a job is as long as it may be. */
static void test_the_longest_texts(void **state)
{
    struct jfx *fx = *state;
    struct list *list;
    ProtobufCBinaryData excludes[12];
    Tarn__Core__JobRecord *rec;
    Tarn__Wire__Job *job;
    char base[4096] = "/", deep[1024] = "/d", line[TARN_LOAD_LIST_LINE_MAX], glob[1019];
    uint64_t id = 0;

    for (unsigned i = 0; i < 4; i++) {
        size_t at = strlen(deep);

        deep[at] = '/';
        memset(deep + at + 1, 'a', 250);
    }
    for (unsigned i = 0; i < 20; i++) {
        char path[1100];

        (void)snprintf(path, sizeof(path), "%s/%03u", deep, i);
        jfx_put(fx, path, 1);
    }
    for (size_t at = 1; at + 1 < sizeof(base); at++)
        base[at] = at % 200 ? 'b' : '/';
    memset(line, 'x', sizeof(line));
    memset(glob, 'g', sizeof(glob));
    for (unsigned i = 0; i < 12; i++)
        excludes[i] = tarn_wire_bytes(glob, sizeof(glob));
    list = list_new(base);
    list->spec.n_exclude = 12;
    list->spec.exclude = excludes;
    for (unsigned i = 0; i < 5; i++) { /* the first is told of; two lines make an entry, or three */
        list_add(list, "x", 0, 0);
        list->rows[i].path = tarn_wire_bytes(line, i ? 8072 : sizeof(line));
    }
    list_add(list, "/d", 0, 0);
    fx->hold_after = 0;
    jfx_start(fx);
    assert_int_equal(jfx_create(fx, "load", &list->spec, &id), 0);
    jfx_run_until(fx, holds);
    jfx_run_ms(fx, 800); /* what is done is committed after 500 */
    assert_int_equal(tarn_core_job(fx->kv, id, &rec), 0);
    assert_in_range(rec->cursor.len, 500, 2000); /* of the first failure, not all of it */
    tarn__core__job_record__free_unpacked(rec, NULL);
    jfx_stop(fx);
    fx->hold_after = UINT32_MAX;
    jfx_start(fx);
    job = jfx_wait(fx, id);
    assert_string_equal(job->state, "failed");
    assert_int_equal(job->files_failed, 5);
    assert_int_equal(job->files_done, 20);
    tarn__wire__job__free_unpacked(job, NULL);
    free(list);
}

/* Without entries it would be a job of the paths, which nobody asked for. */
static void test_an_empty_list_is_not_a_job_of_the_paths(void **state)
{
    struct jfx *fx = *state;
    struct list *list = list_new("/");
    Tarn__Wire__Job *job;
    uint64_t id = 0, again = 0;

    jfx_put(fx, "/a", 10);
    jfx_start(fx);
    list->spec.more_items = true;
    assert_int_equal(jfx_create(fx, "load", &list->spec, &id), 0);
    list->spec.more_items = false;
    list->spec.id = id;
    assert_int_equal(jfx_create(fx, "load", &list->spec, &again), -TARN_E_JOB_LIST_BAD);
    job = jfx_wait(fx, id);
    assert_string_equal(job->state, "failed");
    assert_string_equal(job->error_text, "the list is empty");
    tarn__wire__job__free_unpacked(job, NULL);
    assert_int_equal(fx->fills, 0);
    free(list);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_list),
        T(test_list_in_parts),
        T(test_list_goes_on_after_a_restart),
        T(test_unfinished_list_ends_with_the_master),
        T(test_bad_items_are_refused),
        T(test_ranges_that_are_not_there),
        T(test_a_range_of_a_file_that_got_shorter),
        T(test_the_longest_texts),
        T(test_an_empty_list_is_not_a_job_of_the_paths),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
