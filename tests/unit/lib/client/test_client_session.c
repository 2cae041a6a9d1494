/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Leases as a client sees them: what goes on without a master, what ends with the lease, and what a
 * session that is opened again may keep.
 */
#include "tests/unit/lib/client/client_rig.h"

#include <string.h>

#define LEASE_NS (600 * TARN_NS_PER_MS) /* of the rig's master */

/* The connection breaks, and the master does not answer session_open until rig_release(). */
static void lose(struct rig *r)
{
    r->hold_open = true;
    tarn_rpc_session_close(r->session);
    r->session = NULL;
    rig_until(r, &r->held_n, 1); /* it is connected again, and asks */
}

static void wait_cut_off(struct rig *r)
{
    for (unsigned i = 0; i < 300 && !tarn_client_cut_off(r->client); i++)
        rig_run_for(r, 10 * TARN_NS_PER_MS);
    assert_true(tarn_client_cut_off(r->client));
}

static void names_go_on_within_the_lease(void **state)
{
    struct rig r = {.resumed = true, .index = 7};

    (void)state;
    rig_init_with(&r, NULL, NULL);
    assert_int_equal(lookup(&r, "a"), 0);
    lose(&r);
    assert_int_equal(cached(&r, "a"), TARN_CACHED_HIT);
    assert_int_equal(r.everything, 0);
    assert_true(r.resume > 0);
    assert_int_equal(r.seen, 7);
    rig_release(&r);
    assert_int_equal(lookup(&r, "b"), 0);
    assert_int_equal(cached(&r, "a"), TARN_CACHED_HIT);
    assert_int_equal(r.everything, 0);
    assert_false(tarn_client_cut_off(r.client));
    rig_fini(&r);
}

static void what_was_missed_is_dropped(void **state)
{
    struct rig r = {.index = 7};

    (void)state;
    rig_init_with(&r, NULL, NULL);
    assert_int_equal(lookup(&r, "a"), 0);
    lose(&r);
    rig_release(&r);
    rig_until(&r, &r.everything, 1);
    assert_int_equal(cached(&r, "a"), TARN_CACHED_MISS);
    rig_fini(&r);
}

/* on-partition=fail: nothing is believed any more, and what must be asked fails at once. */
static void the_lease_ends_belief(void **state)
{
    struct rig r = {.resumed = true, .index = 7, .on_partition = TARN_PARTITION_FAIL};
    uint64_t begun;

    (void)state;
    rig_init_with(&r, NULL, NULL);
    assert_int_equal(lookup(&r, "a"), 0);
    assert_in_range(tarn_client_kernel_trust_ns(r.client), 1, LEASE_NS);
    lose(&r);
    wait_cut_off(&r);
    assert_int_equal(cached(&r, "a"), TARN_CACHED_MISS);
    assert_false(tarn_client_trusts(r.client, UINT64_MAX));
    begun = tarn_now_ns();
    assert_int_equal(lookup(&r, "a"), -TARN_E_LEASE_ENDED);
    assert_true(tarn_now_ns() - begun < 5 * TARN_NS_PER_S);
    assert_int_equal(r.lookups, 1);
    rig_release(&r);
    for (unsigned i = 0; i < 300 && tarn_client_cut_off(r.client); i++)
        rig_run_for(&r, 10 * TARN_NS_PER_MS);
    assert_int_equal(cached(&r, "a"), TARN_CACHED_HIT); /* it missed nothing */
    assert_int_equal(r.everything, 0);
    rig_fini(&r);
}

/* The default: what never changes is believed on. */
static void for_ever_goes_on(void **state)
{
    struct rig r = {.resumed = true, .index = 7};

    (void)state;
    rig_init_with(&r, NULL, NULL);
    assert_int_equal(lookup(&r, "a"), 0);
    r.trust_ms = UINT64_MAX;
    assert_int_equal(lookup(&r, "b"), 0);
    lose(&r);
    wait_cut_off(&r);
    assert_int_equal(cached(&r, "a"), TARN_CACHED_MISS);
    assert_int_equal(cached(&r, "b"), TARN_CACHED_HIT);
    rig_fini(&r);
}

/* on-partition=stale: what is known goes on being believed, beyond its own time too. */
static void stale_goes_on(void **state)
{
    struct rig r = {.resumed = true, .index = 7, .on_partition = TARN_PARTITION_STALE};

    (void)state;
    rig_init_with(&r, NULL, NULL);
    r.trust_ms = 100;
    assert_int_equal(lookup(&r, "a"), 0);
    lose(&r);
    wait_cut_off(&r);
    assert_int_equal(r.everything, 0);
    assert_int_equal(cached(&r, "a"), TARN_CACHED_HIT);
    assert_true(tarn_client_trusts(r.client, 1));
    assert_int_equal(lookup(&r, "never seen"), -TARN_E_LEASE_ENDED);
    rig_release(&r);
    for (unsigned i = 0; i < 300 && tarn_client_cut_off(r.client); i++)
        rig_run_for(&r, 10 * TARN_NS_PER_MS);
    assert_int_equal(cached(&r, "a"), TARN_CACHED_MISS); /* its time is over, and it can be asked */
    assert_false(tarn_client_trusts(r.client, 1));
    assert_int_equal(r.everything, 0);
    rig_fini(&r);
}

/* A master that stops answering without breaking the connection. */
static void a_frozen_master(void **state)
{
    struct rig r = {.resumed = true, .index = 7};

    (void)state;
    rig_init_with(&r, NULL, NULL);
    assert_int_equal(lookup(&r, "a"), 0);
    r.mute_renew = true;
    wait_cut_off(&r);
    assert_int_equal(cached(&r, "a"), TARN_CACHED_MISS);
    rig_fini(&r);
}

/* After a sleep of the host the kernel asks again: its times stood still. */
static void the_host_slept(void **state)
{
    struct rig r = {.resumed = true, .index = 7};

    (void)state;
    rig_init_with(&r, NULL, NULL);
    assert_int_equal(lookup(&r, "a"), 0);
    rig_run_for(&r, LEASE_NS);
    assert_int_equal(r.everything, 0);
    r.client->slept_ns -= TARN_NS_PER_S; /* as if it had, since */
    rig_run_for(&r, LEASE_NS);
    assert_int_equal(r.everything, 1);
    assert_int_equal(cached(&r, "a"), TARN_CACHED_HIT); /* the lease knows of it */
    rig_fini(&r);
}

static void server_stopped(void *arg)
{
    ++*(unsigned *)arg;
}

/* Nobody is there any more: what must be asked waits as long as the lease, whatever its deadline.
 */
static void no_master_for_a_lease(void **state)
{
    struct tarn_rpc_server_args none = {.rng = tarn_rng_system(), .cluster_id = "c"};
    struct rig r = {.resumed = true, .index = 7};
    unsigned stopped = 0;
    struct op op;
    uint64_t begun;

    (void)state;
    rig_init_with(&r, NULL, NULL);
    tarn_rpc_server_stop(r.server, server_stopped, &stopped);
    rig_until(&r, &stopped, 1);
    tarn_rpc_server_free(&r.server);
    begun = tarn_now_ns();
    op_start(&op, &r, TARN_CLIENT_LOOKUP, "a"); /* of 20 s */
    assert_true(op_wait(&op) < 0);
    assert_in_range(tarn_now_ns() - begun, LEASE_NS / 2, 10 * LEASE_NS);
    none.loop = r.loop;
    assert_int_equal(tarn_rpc_server_new(&none, &r.server), 0);
    rig_fini(&r);
}

static void acknowledged_at_once(void **state)
{
    struct rig r = {.resumed = true, .index = 7};

    (void)state;
    rig_init_with(&r, NULL, NULL);
    assert_int_equal(lookup(&r, "a"), 0);
    for (unsigned i = 1; i <= 20; i++) {
        unsigned before = r.renewed;

        r.index = 7 + i;
        rig_push_ack(&r, "a");
        assert_int_equal(cached(&r, "a"), TARN_CACHED_MISS);
        rig_until(&r, &r.renewed, before + 1);
        for (unsigned k = 0; k < 100 && r.renew_seq < r.seq; k++)
            rig_run_for(&r, TARN_NS_PER_MS); /* the one under way was older */
        assert_int_equal(r.renew_seq, r.seq);
    }
    rig_fini(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_go_on_within_the_lease),
        cmocka_unit_test(what_was_missed_is_dropped),
        cmocka_unit_test(the_lease_ends_belief),
        cmocka_unit_test(for_ever_goes_on),
        cmocka_unit_test(stale_goes_on),
        cmocka_unit_test(a_frozen_master),
        cmocka_unit_test(the_host_slept),
        cmocka_unit_test(no_master_for_a_lease),
        cmocka_unit_test(acknowledged_at_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
