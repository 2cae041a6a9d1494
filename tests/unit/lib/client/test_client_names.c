/* SPDX-License-Identifier: Apache-2.0 */
/* What a client believes about names, and when it stops to: bounds, races, gaps, reconnects. */
#include "tests/unit/lib/client/client_rig.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

static void answers_are_kept(void **state)
{
    struct rig r;

    (void)state;
    rig_init(&r, NULL);
    assert_int_equal(cached(&r, "a"), TARN_CACHED_MISS);
    assert_int_equal(lookup(&r, "a"), 0);
    assert_int_equal(cached(&r, "a"), TARN_CACHED_HIT);
    assert_int_equal(cached(&r, "b"), TARN_CACHED_MISS);
    r.lookup_rc = -TARN_E_NO_ENTRY;
    assert_int_equal(lookup(&r, "b"), -TARN_E_NO_ENTRY);
    assert_int_equal(cached(&r, "b"), TARN_CACHED_NEGATIVE);
    r.lookup_rc = -TARN_E_UFS_DOWN; /* an error is no negative answer */
    assert_int_equal(lookup(&r, "c"), -TARN_E_UFS_DOWN);
    assert_int_equal(cached(&r, "c"), TARN_CACHED_MISS);
    rig_push(&r, "a", 0);
    assert_int_equal(cached(&r, "a"), TARN_CACHED_MISS);
    assert_int_equal(cached(&r, "b"), TARN_CACHED_NEGATIVE);
    rig_push(&r, "b", 0);
    assert_int_equal(cached(&r, "b"), TARN_CACHED_MISS);
    assert_int_equal(r.everything, 0);
    rig_fini(&r);
}

static void answers_expire(void **state)
{
    struct rig r;

    (void)state;
    rig_init(&r, NULL);
    r.trust_ms = 30;
    assert_int_equal(lookup(&r, "a"), 0);
    r.lookup_rc = -TARN_E_NO_ENTRY;
    assert_int_equal(lookup(&r, "b"), -TARN_E_NO_ENTRY);
    rig_run_for(&r, 40 * TARN_NS_PER_MS);
    assert_int_equal(cached(&r, "a"), TARN_CACHED_MISS);
    assert_int_equal(cached(&r, "b"), TARN_CACHED_MISS);
    r.lookup_rc = 0;
    r.trust_ms = UINT64_MAX; /* for ever */
    assert_int_equal(lookup(&r, "a"), 0);
    assert_int_equal(cached(&r, "a"), TARN_CACHED_HIT);
    rig_fini(&r);
}

/* The answer may be older than what the invalidation tells of: used, not kept. */
static void invalidated_meanwhile(void **state)
{
    struct rig r;
    struct op op;

    (void)state;
    rig_init(&r, NULL);
    r.hold_lookup = true;
    op_start(&op, &r, TARN_CLIENT_LOOKUP, "a");
    rig_until(&r, &r.held_n, 1);
    rig_push(&r, "a", 0);
    rig_release(&r);
    assert_int_equal(op_wait(&op), 0);
    assert_int_equal(op.op.attr.ino.v, 10);
    assert_int_equal(cached(&r, "a"), TARN_CACHED_MISS);
    rig_fini(&r);
}

static void gap_drops_everything(void **state)
{
    struct rig r;

    (void)state;
    rig_init(&r, NULL);
    rig_push(&r, "x", 0);
    assert_int_equal(lookup(&r, "a"), 0);
    rig_push(&r, "y", 1);
    assert_int_equal(r.everything, 1);
    assert_int_equal(cached(&r, "a"), TARN_CACHED_MISS);
    assert_int_equal(lookup(&r, "a"), 0);
    rig_push(&r, "z", 0);
    assert_int_equal(r.everything, 1);
    assert_int_equal(cached(&r, "a"), TARN_CACHED_HIT);
    rig_fini(&r);
}

/* Invalidations that were lost before the first one came show at a renewal. */
static void gap_before_the_first(void **state)
{
    struct rig r;

    (void)state;
    rig_init(&r, NULL);
    rig_until(&r, &r.renewed, 1);
    rig_run_for(&r, 10 * TARN_NS_PER_MS);
    assert_int_equal(lookup(&r, "a"), 0);
    assert_int_equal(r.everything, 0);
    r.seq = 3; /* told by the next renewal */
    rig_until(&r, &r.renewed, r.renewed + 2);
    assert_int_equal(r.everything, 1);
    assert_int_equal(cached(&r, "a"), TARN_CACHED_MISS);
    rig_fini(&r);
}

static void reconnect_drops_everything(void **state)
{
    struct rig r;
    unsigned opened;

    (void)state;
    rig_init(&r, NULL);
    assert_int_equal(lookup(&r, "a"), 0);
    opened = r.opened;
    tarn_rpc_session_close(r.session);
    rig_until(&r, &r.opened, opened + 1);
    rig_run_for(&r, 10 * TARN_NS_PER_MS);
    assert_true(r.everything >= 1);
    assert_int_equal(cached(&r, "a"), TARN_CACHED_MISS);
    assert_int_equal(lookup(&r, "a"), 0);
    rig_push(&r, "a", 0);
    assert_int_equal(cached(&r, "a"), TARN_CACHED_MISS);
    rig_fini(&r);
}

/* What was answered between the connection and the session: nobody would tell when it changes. */
static void before_the_session_is_open(void **state)
{
    struct rig r;
    unsigned opened;

    (void)state;
    rig_init(&r, NULL);
    opened = r.opened;
    r.hold_open = true;
    tarn_rpc_session_close(r.session);
    rig_until(&r, &r.opened, opened + 1);
    r.trust_ms = UINT64_MAX;
    assert_int_equal(lookup(&r, "a"), 0);
    rig_release(&r);
    rig_run_for(&r, 20 * TARN_NS_PER_MS);
    assert_int_equal(cached(&r, "a"), TARN_CACHED_MISS);
    rig_fini(&r);
}

static void cancelled_calls(void **state)
{
    struct rig r;
    struct op op;

    (void)state;
    rig_init(&r, NULL);
    r.hold_lookup = true;
    op_start(&op, &r, TARN_CLIENT_LOOKUP, "a"); /* not on the loop yet */
    tarn_client_cancel(&op.op);
    assert_int_equal(op_wait(&op), -TARN_E_CANCELLED);
    assert_int_equal(r.lookups, 0);
    op_start(&op, &r, TARN_CLIENT_LOOKUP, "a");
    rig_until(&r, &r.held_n, 1);
    tarn_client_cancel(&op.op);
    tarn_client_cancel(&op.op);
    assert_int_equal(op_wait(&op), -TARN_E_CANCELLED);
    rig_until(&r, &r.cancels, 1);
    rig_fini(&r);
}

static void names_too_long(void **state)
{
    struct rig r;
    char name[300];

    (void)state;
    rig_init(&r, NULL);
    memset(name, 'n', sizeof(name));
    name[299] = 0;
    r.lookup_rc = -TARN_E_NO_ENTRY;
    assert_int_equal(lookup(&r, name), -TARN_E_NAME_TOO_LONG);
    assert_int_equal(r.lookups, 0);
    name[255] = 0;
    assert_int_equal(lookup(&r, name), -TARN_E_NO_ENTRY);
    assert_int_equal(cached(&r, name), TARN_CACHED_NEGATIVE);
    rig_fini(&r);
}

struct looker {
    pthread_t thread;
    struct tarn_name_cache *c;
    unsigned nr;
    uint64_t bad;
};

static void *looker_run(void *arg)
{
    struct looker *l = arg;
    struct tarn_attr attr, got;
    uint64_t until;
    char name[16];

    for (unsigned i = 0; i < 20000; i++) {
        uint64_t ino = (i * 7 + l->nr) % 300 + 1;
        int n = snprintf(name, sizeof(name), "n%u", (unsigned)ino);

        attr = (struct tarn_attr){.type = TARN_TYPE_FILE, .ino = {ino}};
        if (i % 3 == 0)
            client_cache_put(l->c, (tarn_ino_t){1}, name, (size_t)n, &attr, UINT64_MAX,
                             client_cache_gen(l->c));
        else if (i % 31 == 0)
            client_cache_drop(l->c, (tarn_ino_t){1}, name, (size_t)n);
        else if (i % 5003 == 0)
            client_cache_clear(l->c);
        else if (client_cache_get(l->c, (tarn_ino_t){1}, name, (size_t)n, 1, &got, &until) ==
                 TARN_CACHED_HIT)
            l->bad += got.ino.v != ino;
    }
    return NULL;
}

static void any_thread(void **state)
{
    struct tarn_name_cache *c = client_cache_new(100);
    struct looker ls[4];

    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        ls[i] = (struct looker){.c = c, .nr = i};
        assert_int_equal(pthread_create(&ls[i].thread, NULL, looker_run, &ls[i]), 0);
    }
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(pthread_join(ls[i].thread, NULL), 0);
        assert_int_equal(ls[i].bad, 0);
    }
    client_cache_free(&c);
}

static void bounded_with_second_chance(void **state)
{
    struct tarn_name_cache *c = client_cache_new(6400);
    struct tarn_attr attr = {.type = TARN_TYPE_FILE, .ino = {7}}, got;
    uint64_t until, hits = 0;
    char name[32];

    (void)state;
    client_cache_put(c, (tarn_ino_t){1}, "hot", 3, &attr, UINT64_MAX, client_cache_gen(c));
    for (unsigned i = 0; i < 100000; i++) {
        int n = snprintf(name, sizeof(name), "f%u", i);

        client_cache_put(c, (tarn_ino_t){1}, name, (size_t)n, &attr, UINT64_MAX,
                         client_cache_gen(c));
        assert_int_equal(client_cache_get(c, (tarn_ino_t){1}, "hot", 3, 1, &got, &until),
                         TARN_CACHED_HIT);
    }
    for (unsigned i = 0; i < 100000; i++) {
        int n = snprintf(name, sizeof(name), "f%u", i);

        hits += client_cache_get(c, (tarn_ino_t){1}, name, (size_t)n, 1, &got, &until) ==
                TARN_CACHED_HIT;
    }
    assert_in_range(hits, 5000, 6400);
    client_cache_clear(c);
    assert_int_equal(client_cache_get(c, (tarn_ino_t){1}, "hot", 3, 1, &got, &until),
                     TARN_CACHED_MISS);
    client_cache_free(&c);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_are_kept),
        cmocka_unit_test(answers_expire),
        cmocka_unit_test(invalidated_meanwhile),
        cmocka_unit_test(gap_drops_everything),
        cmocka_unit_test(gap_before_the_first),
        cmocka_unit_test(reconnect_drops_everything),
        cmocka_unit_test(before_the_session_is_open),
        cmocka_unit_test(cancelled_calls),
        cmocka_unit_test(names_too_long),
        cmocka_unit_test(bounded_with_second_chance),
        cmocka_unit_test(any_thread),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
