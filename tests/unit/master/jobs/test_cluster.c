/* SPDX-License-Identifier: Apache-2.0 */
/* Loads, frees and reports over three workers: what goes where, and how much room there is. */
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

    cfx_put_many(fx, "/d", FILES, 100000);
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

        cfx_name(path, "/d", i);
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

    cfx_put_many(fx, "/d", FILES, 100000);
    cfx_put(fx, "/big", 72 * MIB);
    cfx_spec(&spec, &p, "/");
    spec.replicas = 4;
    id = cfx_create(fx, "load", &spec);
    cfx_expect_text(fx, id, TARN_E_NO_WORKER, "4 replicas", "there are 3");
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

        cfx_name(path, "/d", i);
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

/* Ranges of a big file: what is cached of it is told to the group, and none of it is whole. */
static void test_part_of_a_file(void **state)
{
    struct cfx *fx = *state;
    Tarn__Wire__LoadItem rows[2], *items[2] = {&rows[0], &rows[1]};
    Tarn__Wire__WhereRequest ask = TARN__WIRE__WHERE_REQUEST__INIT;
    Tarn__Wire__WhereRequest of = TARN__WIRE__WHERE_REQUEST__INIT;
    Tarn__Wire__ResolveRequest named = TARN__WIRE__RESOLVE_REQUEST__INIT;
    Tarn__Wire__WhereResponse *where;
    Tarn__Wire__DuResponse du;
    Tarn__Wire__LoadSpec spec;
    ProtobufCMessage *resp = NULL;
    ProtobufCBinaryData p;

    cfx_put(fx, "/d/big", 130 * MIB);
    cfx_put(fx, "/d/empty", 0);
    cfx_spec(&spec, &p, "/");
    for (unsigned i = 0; i < 2; i++) { /* the end of one segment, the begin of the next */
        tarn__wire__load_item__init(&rows[i]);
        rows[i].path = tarn_wire_bytes("/d/big", 6);
    }
    rows[0].length = 10 * MIB;
    rows[1].offset = 60 * MIB;
    rows[1].length = 8 * MIB;
    spec.items = items;
    spec.n_items = 2;
    cfx_expect(fx, cfx_create(fx, "load", &spec), "succeeded", 2, 0);
    assert_int_equal(cfx_fetched_all(fx), 20 * MIB); /* whole groups of 4 MiB */
    where = cfx_where(fx, "/d/big");
    assert_int_equal(where->cached_bytes, 20 * MIB);
    assert_int_equal(where->replicas, 0);
    assert_true(where->n_workers == 1 || where->n_workers == 2);
    protobuf_c_message_free_unpacked(&where->base, NULL);
    du = cfx_du(fx, "/");
    assert_int_equal(du.cached_bytes, 20 * MIB);
    assert_int_equal(du.cached_files, 0);
    where = cfx_where(fx, "/d/empty");
    assert_int_equal(where->cached_bytes + where->n_workers, 0);
    protobuf_c_message_free_unpacked(&where->base, NULL);
    named.path = tarn_wire_bytes("/d/big", 6);
    assert_int_equal(cfx_call(fx, TARN_RPC_resolve, &named.base, &resp), 0);
    of.ino = ((Tarn__Wire__ResolveResponse *)resp)->attr->ino; /* as who has it open asks */
    of.version = ((Tarn__Wire__ResolveResponse *)resp)->attr->version;
    protobuf_c_message_free_unpacked(resp, NULL);
    assert_int_equal(cfx_call(fx, TARN_RPC_where, &of.base, &resp), 0);
    assert_int_equal(((Tarn__Wire__WhereResponse *)resp)->cached_bytes, 20 * MIB);
    protobuf_c_message_free_unpacked(resp, NULL);
    of.version += 1;
    assert_int_equal(cfx_call(fx, TARN_RPC_where, &of.base, &resp), -TARN_E_STALE);
    if (resp)
        protobuf_c_message_free_unpacked(resp, NULL);
    ask.path = tarn_wire_bytes("/d", 2);
    assert_int_equal(cfx_call(fx, TARN_RPC_where, &ask.base, &resp), -TARN_E_IS_DIR);
    if (resp)
        protobuf_c_message_free_unpacked(resp, NULL);
    ask.path = tarn_wire_bytes("/none", 5);
    assert_int_equal(cfx_call(fx, TARN_RPC_where, &ask.base, &resp), -TARN_E_NO_ENTRY);
    if (resp)
        protobuf_c_message_free_unpacked(resp, NULL);
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

    cfx_put_many(fx, "/d", TOO_MANY, MIB);
    cfx_spec(&spec, &p, "/");
    spec.data = false;
    cfx_expect(fx, cfx_create(fx, "load", &spec), "succeeded", TOO_MANY, 0); /* names */
    for (unsigned i = 0; i < TOO_MANY; i++) {
        const struct tarn_place_worker *o[TARN_PLACE_PICK_MAX];
        tarn_cid_t cid;
        char path[64];

        cfx_name(path, "/d", i);
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

    cfx_put_many(fx, "/a", TOO_MANY / 2, MIB);
    cfx_put_many(fx, "/b", TOO_MANY / 2, MIB);
    first = cfx_load_slowly(fx, "/a");
    cfx_until(fx, cfx_a_fourth_is_done, &first);
    second = cfx_load(fx, "/b");
    cfx_expect_text(fx, second, TARN_E_JOB_NO_ROOM, "of which other jobs need", "missing");
    cfx_stop_master(fx); /* what was reserved is known again afterwards */
    cfx_start_master(fx);
    second = cfx_load(fx, "/b");
    cfx_expect_text(fx, second, TARN_E_JOB_NO_ROOM, "of which other jobs need", "missing");
    cfx_cancel(fx, first);
    cfx_expect(fx, cfx_load(fx, "/b"), "succeeded", TOO_MANY / 2, 0);
}

/* The same files need their room once, whoever wants them. */
static void test_two_loads_of_the_same_files(void **state)
{
    struct cfx *fx = *state;
    uint64_t first, second;

    cfx_put_many(fx, "/a", TOO_MANY / 2, MIB);
    cfx_put_many(fx, "/b", 10, MIB);
    first = cfx_load_slowly(fx, "/a");
    cfx_until(fx, cfx_a_fourth_is_done, &first);
    second = cfx_load(fx, "/");
    cfx_expect(fx, second, "succeeded", TOO_MANY / 2 + 10, 0);
    cfx_expect(fx, first, "succeeded", TOO_MANY / 2, 0);
    assert_int_equal(cfx_fetched_all(fx), (TOO_MANY / 2 + 10) * MIB);
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

    cfx_put_many(fx, "/d", FILES, 100000);
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
    cfx_expect_text(fx, id, TARN_E_JOB_PARTIAL, worker, "its copies stay");
    job = cfx_show(fx, id);
    assert_int_equal(job->bytes_done, 2 * FILES * 100000 - held); /* the others' copies, all */
    tarn__wire__job__free_unpacked(job, NULL);
    fx->workers[0].lost = true; /* it has them when it is found again */
    fx->workers[0].alive = false;
    cfx_publish(fx);
    id = cfx_create(fx, "free", &spec);
    cfx_expect_text(fx, id, TARN_E_JOB_PARTIAL, worker, "its copies stay");

    fx->workers[0].lost = false;
    fx->workers[0].alive = true;
    cfx_publish(fx);
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

    cfx_put_many(fx, "/d", 32, MIB);
    cfx_put(fx, "/d/big", 80 * MIB);
    id = cfx_load_slowly(fx, "/");
    cfx_until(fx, cfx_a_fourth_is_done, &id);
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

    cfx_put_many(fx, "/d", FILES, 100000);
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
        T(test_part_of_a_file),
        SMALL(test_room_is_counted_per_worker),
        SMALL(test_of_two_loads_the_second_is_told_at_once),
        SMALL(test_two_loads_of_the_same_files),
        T(test_free_over_all),
        T(test_restart_in_the_middle),
        T(test_force),
    };

    if (argc > 1) /* only these */
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
