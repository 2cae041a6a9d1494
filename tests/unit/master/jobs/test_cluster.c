/* SPDX-License-Identifier: Apache-2.0 */
/* Loads, frees and reports over three workers, and over what happens to them meanwhile. */
#include "tests/unit/master/jobs/cluster_fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILES 40u

static int setup(void **state)
{
    *state = cfx_new(512 * MIB);
    return 0;
}

static int setup_small(void **state)
{
    *state = cfx_new(64 * MIB);
    return 0;
}

static int teardown(void **state)
{
    struct cfx *fx = *state;

    cfx_free(&fx);
    return 0;
}

static void name_of(char ret[64], const char *dir, unsigned i)
{
    (void)snprintf(ret, 64, "%s/f%u", dir, i);
}

static void put_many(struct cfx *fx, const char *dir, unsigned n, size_t size)
{
    for (unsigned i = 0; i < n; i++) {
        char path[64];

        name_of(path, dir, i);
        cfx_put(fx, path, size);
    }
}

/* So slow that a test can do things meanwhile. */
static uint64_t load_slowly(struct cfx *fx, const char *path)
{
    Tarn__Wire__LoadSpec spec;
    ProtobufCBinaryData p;

    cfx_spec(&spec, &p, path);
    spec.bandwidth = 8 * MIB;
    return cfx_create(fx, "load", &spec);
}

static bool a_fourth_is_done(struct cfx *fx, void *arg)
{
    const uint64_t *id = arg;
    Tarn__Wire__Job *job = cfx_show(fx, *id);
    bool ret = job->bytes_total > 0 && job->bytes_done >= job->bytes_total / 4;

    assert_int_equal(job->finished_ns, 0);
    tarn__wire__job__free_unpacked(job, NULL);
    return ret;
}

static void expect_text(struct cfx *fx, uint64_t id, int error, const char *a, const char *b)
{
    Tarn__Wire__Job *job = cfx_wait(fx, id);

    assert_string_equal(job->state, "failed");
    assert_int_equal(job->error, error);
    if (!strstr(job->error_text, a) || !strstr(job->error_text, b))
        fail_msg("\"%s\" lacks \"%s\" or \"%s\"", job->error_text, a, b);
    tarn__wire__job__free_unpacked(job, NULL);
}

/* ---- where bytes go
 * ----------------------------------------------------------------------------- */

static void test_segments_are_spread_and_fetched_once(void **state)
{
    struct cfx *fx = *state;
    uint64_t bytes = FILES * 100000 + 136 * MIB, id;
    Tarn__Wire__ManifestResponse *lines;
    const Tarn__Wire__ManifestLine *line;
    Tarn__Wire__WhereResponse *where;
    Tarn__Wire__DuResponse du;
    const struct tarn_place_worker *owner[TARN_PLACE_PICK_MAX];
    Tarn__Wire__Job *job;
    tarn_cid_t cid;

    put_many(fx, "/d", FILES, 100000);
    cfx_put(fx, "/big", 136 * MIB);
    id = cfx_load(fx, "/");
    job = cfx_wait(fx, id);
    assert_string_equal(job->state, "succeeded");
    assert_int_equal(job->files_done, FILES + 1);
    assert_int_equal(job->bytes_done, bytes);
    assert_string_equal(job->error_text, "");
    tarn__wire__job__free_unpacked(job, NULL);
    assert_int_equal(cfx_fetched_all(fx), bytes);
    for (unsigned i = 0; i < CFX_WORKERS; i++)
        assert_true(cfx_fetched(fx, i) > 0);
    cfx_expect_placed(fx, "/big", 1);
    for (unsigned i = 0; i < FILES; i++) {
        char path[64];

        name_of(path, "/d", i);
        cfx_expect_placed(fx, path, 1);
    }

    cfx_file(fx, "/big", &cid);
    assert_int_equal(tarn_place_owners(tarn_peers_place(fx->master->peers), &cid, 0, 1, owner), 1);
    line = cfx_line(fx, id, "/big", &lines);
    assert_non_null(line);
    assert_string_equal(line->state, "loaded");
    assert_int_equal(line->replicas, 1);
    assert_int_equal(line->worker, owner[0]->id);
    protobuf_c_message_free_unpacked(&lines->base, NULL);

    du = cfx_du(fx, "/");
    assert_int_equal(du.cached_bytes, bytes);
    assert_int_equal(du.cached_files, FILES + 1);
    assert_false(du.partial);
    where = cfx_where(fx, "/big");
    assert_int_equal(where->cached_bytes, 136 * MIB);
    assert_int_equal(where->replicas, 1);
    for (uint32_t g = 0; g < 3; g++) {
        bool named = false;

        tarn_place_owners(tarn_peers_place(fx->master->peers), &cid, g, 1, owner);
        for (size_t i = 0; i < where->n_workers; i++)
            named |= where->workers[i] == owner[0]->id;
        assert_true(named);
    }
    protobuf_c_message_free_unpacked(&where->base, NULL);

    cfx_expect(fx, cfx_load(fx, "/"), "succeeded", FILES + 1, 0); /* nothing is fetched again */
    assert_int_equal(cfx_fetched_all(fx), bytes);
}

static void test_replicas(void **state)
{
    struct cfx *fx = *state;
    Tarn__Wire__LoadSpec spec;
    ProtobufCBinaryData p;
    Tarn__Wire__ManifestResponse *lines;
    const Tarn__Wire__ManifestLine *line;
    Tarn__Wire__WhereResponse *where;
    Tarn__Wire__DuResponse du;
    Tarn__Wire__Job *job;
    uint64_t bytes = FILES * 100000 + 72 * MIB, id;

    put_many(fx, "/d", FILES, 100000);
    cfx_put(fx, "/big", 72 * MIB);
    cfx_spec(&spec, &p, "/");
    spec.replicas = 4;
    id = cfx_create(fx, "load", &spec);
    expect_text(fx, id, TARN_E_NO_WORKER, "4 replicas", "there are 3");
    assert_int_equal(cfx_fetched_all(fx), 0);

    spec.replicas = 2;
    id = cfx_create(fx, "load", &spec);
    job = cfx_wait(fx, id);
    assert_string_equal(job->state, "succeeded");
    assert_int_equal(job->bytes_total, bytes);
    assert_int_equal(job->bytes_done, bytes); /* a file's bytes count once */
    tarn__wire__job__free_unpacked(job, NULL);
    cfx_expect_placed(fx, "/big", 2);
    for (unsigned i = 0; i < FILES; i++) {
        char path[64];

        name_of(path, "/d", i);
        cfx_expect_placed(fx, path, 2);
    }
    line = cfx_line(fx, id, "/d/f7", &lines);
    assert_non_null(line);
    assert_int_equal(line->replicas, 2);
    protobuf_c_message_free_unpacked(&lines->base, NULL);
    du = cfx_du(fx, "/");
    assert_int_equal(du.cached_bytes, bytes);
    where = cfx_where(fx, "/d/f7");
    assert_int_equal(where->replicas, 2);
    assert_int_equal(where->n_workers, 2);
    assert_int_equal(where->cached_bytes, 100000);
    protobuf_c_message_free_unpacked(&where->base, NULL);
}

/* ---- room
 * --------------------------------------------------------------------------------------- */

#define TOO_MANY 192u /* files of 1 MiB: one of three workers is to have 64 of them at least */
#define FITS     62u  /* in a tier of 64 MiB */

/* Lines of the manifest with that error. */
static unsigned lines_with(struct cfx *fx, uint64_t id, uint32_t error)
{
    Tarn__Wire__ManifestResponse *lines;
    unsigned n = 0;

    (void)cfx_line(fx, id, "/", &lines);
    assert_true(lines->eof);
    for (size_t i = 0; i < lines->n_lines; i++)
        n += lines->lines[i]->error == error;
    protobuf_c_message_free_unpacked(&lines->base, NULL);
    return n;
}

static void test_room_is_counted_per_worker(void **state)
{
    struct cfx *fx = *state;
    Tarn__Wire__LoadSpec spec;
    ProtobufCBinaryData p;
    Tarn__Wire__Job *job;
    unsigned owned[CFX_WORKERS] = {0}, most = 0, left_out = 0, named = 0;
    uint64_t id;

    put_many(fx, "/d", TOO_MANY, MIB);
    cfx_spec(&spec, &p, "/");
    spec.data = false;
    cfx_expect(fx, cfx_create(fx, "load", &spec), "succeeded", TOO_MANY, 0); /* names */
    for (unsigned i = 0; i < TOO_MANY; i++) {
        const struct tarn_place_worker *o[TARN_PLACE_PICK_MAX];
        tarn_cid_t cid;
        char path[64];

        name_of(path, "/d", i);
        cfx_file(fx, path, &cid);
        tarn_place_owners(tarn_peers_place(fx->master->peers), &cid, 0, 1, o);
        owned[o[0]->id - 101]++;
    }
    for (unsigned i = 0; i < CFX_WORKERS; i++) {
        most = TARN_MAX(most, owned[i]);
        left_out += owned[i] - TARN_MIN(owned[i], FITS);
    }
    job = cfx_wait(fx, cfx_load(fx, "/"));
    assert_int_equal(job->error, TARN_E_JOB_NO_ROOM);
    for (unsigned i = 0; i < CFX_WORKERS; i++) {
        char want[128];

        (void)snprintf(want, sizeof(want), "needs %u.0 MiB at worker %u (%s)", most, 101 + i,
                       fx->workers[i].addr);
        named += owned[i] == most && strstr(job->error_text, want);
    }
    if (named != 1 || !strstr(job->error_text, "missing"))
        fail_msg("%s", job->error_text);
    tarn__wire__job__free_unpacked(job, NULL);
    assert_int_equal(cfx_fetched_all(fx), 0);

    spec.data = true;
    spec.allow_partial = true;
    id = cfx_create(fx, "load", &spec);
    job = cfx_wait(fx, id);
    assert_string_equal(job->state, "failed");
    assert_int_equal(lines_with(fx, id, TARN_E_JOB_NO_ROOM), left_out);
    assert_int_equal(lines_with(fx, id, 0), job->files_done);
    assert_int_equal(job->bytes_done, job->files_done * MIB);
    assert_true(job->files_done > TOO_MANY / 2);
    tarn__wire__job__free_unpacked(job, NULL);
}

static void test_of_two_loads_the_second_is_told_at_once(void **state)
{
    struct cfx *fx = *state;
    uint64_t first, second;

    put_many(fx, "/a", TOO_MANY / 2, MIB);
    put_many(fx, "/b", TOO_MANY / 2, MIB);
    first = load_slowly(fx, "/a");
    cfx_until(fx, a_fourth_is_done, &first);
    second = cfx_load(fx, "/b");
    expect_text(fx, second, TARN_E_JOB_NO_ROOM, "of which other jobs need", "missing");
    cfx_stop_master(fx); /* what was reserved is known again afterwards */
    cfx_start_master(fx);
    second = cfx_load(fx, "/b");
    expect_text(fx, second, TARN_E_JOB_NO_ROOM, "of which other jobs need", "missing");
    cfx_cancel(fx, first);
    cfx_expect(fx, cfx_load(fx, "/b"), "succeeded", TOO_MANY / 2, 0);
}

/* ---- workers that come and go
 * ------------------------------------------------------------------- */

static void test_a_connection_that_breaks(void **state)
{
    struct cfx *fx = *state;
    uint64_t id;

    put_many(fx, "/d", 48, MIB);
    id = load_slowly(fx, "/");
    cfx_until(fx, a_fourth_is_done, &id);
    cfx_cut(fx, 1);
    cfx_run_ms(fx, 300);
    cfx_back(fx, 1);
    cfx_expect(fx, id, "succeeded", 48, 0);
    for (unsigned i = 0; i < 48; i++) { /* it was waited for */
        char path[64];

        name_of(path, "/d", i);
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

        name_of(path, "/d", i);
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

    put_many(fx, "/d", 48, MIB);
    id = load_slowly(fx, "/");
    cfx_until(fx, a_fourth_is_done, &id);
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
    assert_true(du.partial);
}

/* The topology has not noticed yet: the job finds out by itself. */
static void test_a_worker_that_is_thought_to_be_alive(void **state)
{
    struct cfx *fx = *state;
    uint64_t id;

    put_many(fx, "/d", 24, MIB);
    cfx_expect(fx, cfx_load(fx, "/d/f0"), "succeeded", 1, 0); /* connected */
    id = load_slowly(fx, "/");
    cfx_until(fx, a_fourth_is_done, &id);
    cfx_cut(fx, 1);
    cfx_expect(fx, id, "succeeded", 24, 0);
    expect_stand_ins(fx, 1, 24);
}

/* Two replicas, two of three workers: the third's share waits for nobody. */
static void test_replicas_while_a_worker_is_away(void **state)
{
    struct cfx *fx = *state;
    Tarn__Wire__LoadSpec spec;
    ProtobufCBinaryData p;
    uint64_t id;

    put_many(fx, "/d", 20, 100000);
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

        name_of(path, "/d", i);
        assert_true(cfx_has(fx, 0, path, 0) && cfx_has(fx, 1, path, 0));
    }
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

    put_many(fx, "/d", 20, 100000);
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

    put_many(fx, "/d", 32, MIB);
    id = load_slowly(fx, "/");
    cfx_until(fx, a_fourth_is_done, &id);
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

        name_of(path, "/d", i);
        assert_true(cfx_has(fx, 2, path, 0)); /* what the others have cannot be read now */
    }
}

/* A member more: what is queued goes to its new owners, what was loaded before is checked there. */
static void test_a_worker_joins_in_the_middle(void **state)
{
    struct cfx *fx = *state;
    uint64_t id;

    put_many(fx, "/d", 48, MIB);
    fx->workers[2].member = false;
    cfx_publish(fx);
    id = load_slowly(fx, "/");
    cfx_until(fx, a_fourth_is_done, &id);
    fx->workers[2].member = true;
    cfx_publish(fx);
    cfx_expect(fx, id, "succeeded", 48, 0);
    for (unsigned i = 0; i < 48; i++) {
        const struct tarn_place_worker *o[TARN_PLACE_PICK_MAX];
        tarn_cid_t cid;
        char path[64];

        name_of(path, "/d", i);
        cfx_file(fx, path, &cid);
        tarn_place_owners(tarn_peers_place(fx->master->peers), &cid, 0, 1, o);
        assert_true(cfx_has(fx, (unsigned)(o[0]->id - 101), path, 0));
    }
    assert_true(cfx_fetched(fx, 2) > 0);
}

/* ---- free and restarts
 * -------------------------------------------------------------------------- */

static void test_free_over_all(void **state)
{
    struct cfx *fx = *state;
    Tarn__Wire__LoadSpec spec;
    ProtobufCBinaryData p;
    Tarn__Wire__Job *job;
    Tarn__Wire__DuResponse du;
    char worker[64];
    uint64_t id, held;

    put_many(fx, "/d", FILES, 100000);
    cfx_spec(&spec, &p, "/");
    spec.replicas = 2;
    cfx_expect(fx, cfx_create(fx, "load", &spec), "succeeded", FILES, 0);
    cfx_cut(fx, 0);
    held = cfx_fetched(fx, 0);
    assert_true(held > 0);
    cfx_spec(&spec, &p, "/");
    spec.meta = false;
    id = cfx_create(fx, "free", &spec);
    (void)snprintf(worker, sizeof(worker), "worker 101 (%s)", fx->workers[0].addr);
    expect_text(fx, id, TARN_E_JOB_PARTIAL, worker, "its copies stay");
    job = cfx_show(fx, id);
    assert_int_equal(job->bytes_done, 2 * FILES * 100000 - held); /* the others' copies, all */
    tarn__wire__job__free_unpacked(job, NULL);

    cfx_back(fx, 0);
    du = cfx_du(fx, "/");
    while (du.partial) { /* it was not asked for a moment */
        cfx_run_ms(fx, 50);
        du = cfx_du(fx, "/");
    }
    assert_int_equal(du.cached_bytes, held);
    id = cfx_create(fx, "free", &spec);
    job = cfx_wait(fx, id);
    assert_string_equal(job->state, "succeeded");
    assert_int_equal(job->bytes_done, held);
    tarn__wire__job__free_unpacked(job, NULL);
    du = cfx_du(fx, "/");
    assert_int_equal(du.cached_bytes, 0);
    assert_false(du.partial);
}

static void test_restart_in_the_middle(void **state)
{
    struct cfx *fx = *state;
    uint64_t id;

    put_many(fx, "/d", 32, MIB);
    cfx_put(fx, "/d/big", 80 * MIB);
    id = load_slowly(fx, "/");
    cfx_until(fx, a_fourth_is_done, &id);
    cfx_stop_master(fx);
    cfx_run_ms(fx, 200); /* what the workers were asked for comes to its end */
    cfx_start_master(fx);
    cfx_expect(fx, id, "succeeded", 33, 0);
    assert_int_equal(cfx_fetched_all(fx), 112 * MIB);
    cfx_expect_placed(fx, "/d/big", 1);
}

/* What is there is dropped everywhere before it is loaded anew. */
static void test_force(void **state)
{
    struct cfx *fx = *state;
    Tarn__Wire__LoadSpec spec;
    ProtobufCBinaryData p;

    put_many(fx, "/d", FILES, 100000);
    cfx_put(fx, "/d/big", 80 * MIB);
    cfx_expect(fx, cfx_load(fx, "/"), "succeeded", FILES + 1, 0);
    cfx_spec(&spec, &p, "/");
    spec.force = true;
    cfx_expect(fx, cfx_create(fx, "load", &spec), "succeeded", FILES + 1, 0);
    assert_int_equal(cfx_fetched_all(fx), 2 * (FILES * 100000 + 80 * MIB));
    cfx_expect_placed(fx, "/d/big", 1);
}

#define T(f)     cmocka_unit_test_setup_teardown(f, setup, teardown)
#define SMALL(f) cmocka_unit_test_setup_teardown(f, setup_small, teardown)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        T(test_segments_are_spread_and_fetched_once),
        T(test_replicas),
        SMALL(test_room_is_counted_per_worker),
        SMALL(test_of_two_loads_the_second_is_told_at_once),
        T(test_a_connection_that_breaks),
        T(test_a_worker_that_does_not_come_back),
        T(test_a_worker_that_is_thought_to_be_alive),
        T(test_replicas_while_a_worker_is_away),
        T(test_no_worker_then_one),
        T(test_the_last_worker_goes_in_the_middle),
        T(test_a_worker_joins_in_the_middle),
        T(test_free_over_all),
        T(test_restart_in_the_middle),
        T(test_force),
    };

    if (argc > 1) /* only these */
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
