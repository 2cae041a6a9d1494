/* SPDX-License-Identifier: Apache-2.0 */
/* Workers join, go, come back, are drained and removed: one story each, in virtual time. */
#include "tests/unit/master/members/mbx.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/fault.h"
#include "lib/base/limits.h"

#define DRAIN  TARN_RPC_worker_drain
#define REMOVE TARN_RPC_worker_remove
#define LEASE  (10 * MBX_S)

struct three {
    struct mbx fx;
    struct mbw w[3];
};

static void three_init(struct three *t)
{
    mbx_init(&t->fx, false);
    mbx_start(&t->fx);
    for (unsigned i = 0; i < 3; i++) {
        char uuid[32], addr[32];

        (void)snprintf(uuid, sizeof(uuid), "tier-uuid-%u", i + 1);
        (void)snprintf(addr, sizeof(addr), "10.0.0.%u:7110", i + 1);
        mbw_init(&t->fx, &t->w[i], uuid, addr);
    }
}

static void three_start(struct three *t)
{
    three_init(t);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(mbw_start(&t->w[i]), 0);
    mbx_run(&t->fx, 10 * MBX_MS);
}

static void three_fini(struct three *t)
{
    for (unsigned i = 0; i < 3; i++)
        mbw_fini(&t->w[i]);
    mbx_fini(&t->fx);
}

static size_t past_of(const struct mbw *w)
{
    return w->topology->n_past;
}

static void test_register(void **state)
{
    struct three t;
    struct mbx_row row;
    Tarn__Core__Worker *rec;
    struct tarn_master_counts counts;
    uint64_t version;

    (void)state;
    three_init(&t);
    version = mbx_version(&t.fx);
    t.w[0].data = 5;
    assert_false(t.fx.master->members->resumed);
    assert_int_equal(mbw_start(&t.w[0]), 0);
    mbx_run(&t.fx, MBX_MS);
    assert_true(t.fx.master->members->resumed); /* jobs have a worker */
    assert_int_equal(t.w[0].id, 1);
    assert_int_equal(t.w[0].beat_ms, 3333);
    assert_int_equal(tarn_core_worker(t.fx.kv, 1, &rec), 0); /* committed before the answer */
    assert_string_equal(rec->addr, "10.0.0.1:7110");
    assert_int_equal(rec->weight, 100); /* GiB */
    tarn__core__worker__free_unpacked(rec, NULL);
    assert_true(mbx_version(&t.fx) > version);
    assert_int_equal(t.w[0].topology->version, mbx_version(&t.fx));
    assert_int_equal(t.w[0].topology->n_workers, 1); /* the answer's topology has it already */
    assert_true(t.w[0].topology->workers[0]->alive);
    assert_int_equal(t.w[0].notices, 0); /* it was in the answer */
    assert_int_equal(past_of(&t.w[0]), 0);
    assert_int_equal(mbw_start(&t.w[1]), 0);
    assert_int_equal(t.w[1].id, 2);
    mbx_run(&t.fx, 10 * MBX_MS);
    assert_int_equal(t.w[0].notices, 1);
    assert_int_equal(t.w[0].topology->n_workers, 2);
    assert_int_equal(past_of(&t.w[0]), 1);
    assert_int_equal(t.w[0].topology->past[0]->n_ids, 1);
    version = mbx_version(&t.fx);
    assert_int_equal(mbw_register(&t.w[1]), 0); /* once more: nothing is new */
    assert_int_equal(t.w[1].id, 2);
    assert_int_equal(mbx_version(&t.fx), version);
    assert_true(mbx_status(&t.fx, 1, &row));
    assert_string_equal(row.state, "live");
    assert_string_equal(row.addr, "10.0.0.1:7110");
    assert_true(row.alive);
    assert_int_equal(row.weight, 100);
    assert_int_equal(row.used, 5); /* from the registration */
    t.w[0].data = 6;
    assert_int_equal(mbw_beat(&t.w[0]), 0);
    mbx_run(&t.fx, 100 * MBX_MS);
    assert_true(mbx_status(&t.fx, 1, &row));
    assert_int_equal(row.used, 6);
    assert_in_range(row.heard_ms, 90, 200);
    assert_false(mbx_status(&t.fx, 3, &row));
    tarn_master_counts(t.fx.master, &counts);
    assert_int_equal(counts.workers, 2);
    assert_int_equal(counts.workers_alive, 2);
    assert_int_equal(t.w[0].lists, 0);
    mmembers_push_attachments(t.fx.master);
    mbx_run(&t.fx, 10 * MBX_MS);
    assert_int_equal(t.w[0].lists, 1);
    assert_int_equal(t.w[1].lists, 1);
    three_fini(&t);
}

static void test_leave_and_kill(void **state)
{
    struct three t;
    unsigned notices;

    (void)state;
    three_start(&t);
    notices = t.w[0].notices;
    assert_int_equal(mbw_leave(&t.w[2]), 0);
    mbx_run(&t.fx, 10 * MBX_MS);
    assert_int_equal(t.w[0].notices, notices + 1);
    assert_false(mbx_alive(&t.fx, 3)); /* at once */
    assert_int_equal(mbx_placed(&t.fx, 3)->state, TARN_WORKER_LIVE);
    mbw_kill(&t.w[1]);
    mbx_run(&t.fx, 900 * MBX_MS);
    assert_true(mbx_alive(&t.fx, 2));
    mbx_run(&t.fx, 200 * MBX_MS);
    assert_false(mbx_alive(&t.fx, 2));
    assert_int_equal(mbw_start(&t.w[1]), 0); /* the same directory */
    assert_int_equal(t.w[1].id, 2);
    assert_true(mbx_alive(&t.fx, 2));
    mbw_kill(&t.w[1]);
    assert_int_equal(mbw_start(&t.w[1]), 0); /* within the second: it never went */
    mbx_run(&t.fx, 5 * MBX_S);
    assert_true(mbx_alive(&t.fx, 2));
    assert_int_equal(mbw_start(&t.w[2]), 0);
    mbx_run(&t.fx, 60 * MBX_S); /* beats keep all alive */
    for (uint64_t id = 1; id <= 3; id++)
        assert_true(mbx_alive(&t.fx, id));
    three_fini(&t);
}

static void test_silent_for_a_lease(void **state)
{
    struct three t;

    (void)state;
    three_start(&t);
    assert_int_equal(mbw_beat(&t.w[0]), 0);
    t.w[0].mute = true;
    mbx_run(&t.fx, LEASE - 100 * MBX_MS);
    assert_true(mbx_alive(&t.fx, 1));
    tarn_clock_fake_advance(&t.fx.clock, 600 * MBX_S); /* the wall clock says nothing */
    mbx_run(&t.fx, 50 * MBX_MS);
    assert_true(mbx_alive(&t.fx, 1));
    mbx_run(&t.fx, 100 * MBX_MS);
    assert_false(mbx_alive(&t.fx, 1));
    assert_true(mbx_alive(&t.fx, 2));
    assert_int_equal(mbw_beat(&t.w[0]), 0);
    mbx_run(&t.fx, 10 * MBX_MS);
    assert_true(mbx_alive(&t.fx, 1));
    three_fini(&t);
}

static void test_twice(void **state)
{
    struct three t;
    struct mbw other;

    (void)state;
    three_start(&t);
    mbw_init(&t.fx, &other, t.w[0].uuid, "10.0.0.9:7110");
    assert_int_equal(mbw_start(&other), -TARN_E_WORKER_TWICE);
    assert_non_null(strstr(other.error, "10.0.0.1:7110"));
    mbw_kill(&other);
    mbw_kill(&t.w[0]); /* its connection is gone: the other one may */
    assert_int_equal(mbw_start(&other), 0);
    assert_int_equal(other.id, 1);
    assert_string_equal(mbx_placed(&t.fx, 1)->addr, "10.0.0.9:7110");
    assert_int_equal(mbw_start(&t.w[0]), -TARN_E_WORKER_TWICE);
    mbw_kill(&t.w[0]);
    other.mute = true; /* hangs */
    mbx_run(&t.fx, LEASE + MBX_S);
    assert_int_equal(mbw_start(&t.w[0]), 0);
    assert_int_equal(t.w[0].id, 1);
    assert_int_equal(mbw_beat(&other), -TARN_E_UNKNOWN_WORKER); /* it is another's now */
    assert_int_equal(mbw_register(&other), -TARN_E_WORKER_TWICE);
    mbx_run(&t.fx, 3 * MBX_S);
    assert_true(mbx_alive(&t.fx, 1));
    mbw_fini(&other);
    three_fini(&t);
}

/* An address is one worker's, as long as that is heard of. */
static void test_address_twice(void **state)
{
    struct three t;
    struct mbw other;

    (void)state;
    three_start(&t);
    mbw_init(&t.fx, &other, "tier-uuid-9", t.w[0].addr);
    assert_int_equal(mbw_start(&other), -TARN_E_WORKER_ADDR);
    assert_non_null(strstr(other.error, "10.0.0.1:7110"));
    assert_non_null(strstr(other.error, "worker 1"));
    assert_non_null(strstr(other.error, "--advertise"));
    assert_null(mbx_placed(&t.fx, 4));
    (void)snprintf(t.w[1].addr, sizeof(t.w[1].addr), "%s",
                   t.w[0].addr); /* nor may one move there */
    assert_int_equal(mbw_register(&t.w[1]), -TARN_E_WORKER_ADDR);
    assert_string_equal(mbx_placed(&t.fx, 2)->addr, "10.0.0.2:7110");
    mbw_kill(&t.w[0]);
    assert_int_equal(mbw_register(&other), -TARN_E_BUSY); /* it may be back in a moment */
    mbx_run(&t.fx, 2 * MBX_S);
    assert_int_equal(mbw_register(&other), 0);
    assert_int_equal(other.id, 4);
    assert_int_equal(mbw_start(&t.w[0]), -TARN_E_WORKER_ADDR);
    /* After a start of the master, who had it comes first, for a lease. */
    mbw_kill(&other);
    mbw_kill(&t.w[0]);
    mbw_kill(&t.w[1]);
    mbw_kill(&t.w[2]);
    mbx_stop(&t.fx);
    mbx_start(&t.fx);
    (void)snprintf(t.w[0].addr, sizeof(t.w[0].addr), "10.0.0.3:7110");
    assert_int_equal(mbw_start(&t.w[0]), -TARN_E_BUSY);
    assert_int_equal(mbw_start(&t.w[2]), 0); /* its own */
    assert_int_equal(mbw_register(&t.w[0]), -TARN_E_WORKER_ADDR);
    (void)snprintf(t.w[0].addr, sizeof(t.w[0].addr), "%s", other.addr);
    mbx_run(&t.fx, LEASE + MBX_S);
    assert_int_equal(mbw_register(&t.w[0]), 0);
    mbw_fini(&other);
    three_fini(&t);
}

/* The same process does not come back, also when the master was started anew meanwhile. */
static void test_removed_while_away(void **state)
{
    struct three t;

    (void)state;
    three_start(&t);
    mbw_kill(&t.w[0]);
    mbw_kill(&t.w[1]);
    mbx_run(&t.fx, 2 * MBX_S);
    assert_int_equal(mbx_admin(&t.fx, REMOVE, 1, false, true, NULL, NULL), 0);
    mbw_kill(&t.w[2]);
    mbx_stop(&t.fx);
    mbx_start(&t.fx);
    assert_int_equal(mbx_admin(&t.fx, REMOVE, 2, false, true, NULL, NULL), 0); /* not seen since */
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(mbw_back(&t.w[i]), -TARN_E_UNKNOWN_WORKER);
        assert_non_null(strstr(t.w[i].error, "was removed"));
        mbw_kill(&t.w[i]);
        assert_int_equal(mbw_start(&t.w[i]), 0); /* another process may */
        assert_int_equal(mbx_placed(&t.fx, i + 1)->state, TARN_WORKER_LIVE);
    }
    three_fini(&t);
}

static void settle_all(struct three *t)
{
    for (unsigned i = 0; i < 3; i++)
        if (t->w[i].client)
            t->w[i].settle = MBX_SETTLE;
    for (unsigned i = 0; i < 3; i++)
        if (t->w[i].client)
            assert_int_equal(mbw_beat(&t->w[i]), 0);
    mbx_run(&t->fx, 10 * MBX_MS);
    for (unsigned i = 0; i < 3; i++)
        t->w[i].settle = 0;
}

static void test_past_is_forgotten_when_all_settled(void **state)
{
    struct three t;
    Tarn__Core__Placement *p;
    struct mbx_row row;

    (void)state;
    three_start(&t);
    assert_int_equal(past_of(&t.w[0]), 2); /* {1} {1,2} */
    t.w[0].settle = t.w[1].settle = MBX_SETTLE;
    mbx_run(&t.fx, LEASE);
    assert_int_equal(past_of(&t.w[0]), 2); /* the third has not */
    assert_true(mbx_status(&t.fx, 1, &row));
    assert_true(row.settled);
    assert_true(mbx_status(&t.fx, 3, &row));
    assert_false(row.settled);
    t.w[2].settle = t.w[2].topology->version - 1;
    mbx_run(&t.fx, LEASE);
    assert_int_equal(past_of(&t.w[0]), 2); /* for an older one */
    settle_all(&t);
    assert_int_equal(past_of(&t.w[0]), 0);
    assert_int_equal(tarn_core_placement(t.fx.kv, &p), 0);
    assert_int_equal(p->n_past, 0);
    tarn__core__placement__free_unpacked(p, NULL);
    assert_int_equal(mbw_leave(&t.w[2]), 0);
    mbx_run(&t.fx, 10 * MBX_MS);
    settle_all(&t); /* who is away has not settled: it is remembered who served */
    assert_int_equal(mbw_start(&t.w[2]), 0);
    mbx_run(&t.fx, 10 * MBX_MS);
    assert_int_equal(past_of(&t.w[2]), 1);
    assert_int_equal(t.w[2].topology->past[0]->n_ids, 2); /* those who stood in for it */
    settle_all(&t);
    assert_int_equal(past_of(&t.w[2]), 0);
    three_fini(&t);
}

static void test_drain(void **state)
{
    struct three t;
    struct mbx_row row;
    char text[512];
    uint64_t left = 0;

    (void)state;
    three_start(&t);
    t.w[1].index = MBX_GIB; /* room of an empty tier, which nobody would fetch again */
    assert_int_equal(mbw_beat(&t.w[1]), 0);
    assert_int_equal(mbx_admin(&t.fx, REMOVE, 2, false, false, &left, NULL), -TARN_E_NOT_DRAINED);
    assert_int_equal(left, 0);
    t.w[1].data = 3 * MBX_GIB;
    assert_int_equal(mbw_beat(&t.w[1]), 0);
    assert_int_equal(mbx_admin(&t.fx, REMOVE, 2, false, false, &left, text), -TARN_E_NOT_DRAINED);
    assert_non_null(strstr(text, "3")); /* so much would be fetched again */
    assert_non_null(strstr(text, "fetched from the store again"));
    assert_int_equal(left, 3 * MBX_GIB);
    assert_int_equal(mbx_admin(&t.fx, DRAIN, 2, false, false, &left, NULL), 0);
    assert_int_equal(left, 3 * MBX_GIB);
    assert_true(mbx_status(&t.fx, 2, &row));
    assert_string_equal(row.state, "draining");
    assert_false(row.settled);
    mbx_run(&t.fx, 10 * MBX_MS);
    assert_int_equal(mbx_placed(&t.fx, 2)->state, TARN_WORKER_DRAINING);
    assert_int_equal(mbx_admin(&t.fx, DRAIN, 2, true, false, NULL, NULL), 0); /* undo */
    assert_int_equal(mbx_admin(&t.fx, DRAIN, 2, true, false, NULL, NULL), 0); /* it is */
    mbx_run(&t.fx, 10 * MBX_MS);
    assert_int_equal(mbx_placed(&t.fx, 2)->state, TARN_WORKER_LIVE);
    assert_int_equal(mbx_admin(&t.fx, DRAIN, 2, false, false, NULL, NULL), 0);
    mbx_run(&t.fx, 10 * MBX_MS);
    t.w[1].left_bytes = MBX_GIB;
    assert_int_equal(mbw_beat(&t.w[1]), 0);
    assert_true(mbx_status(&t.fx, 2, &row));
    assert_int_equal(row.left_bytes, MBX_GIB);
    assert_int_equal(mbx_admin(&t.fx, REMOVE, 2, false, false, &left, text), -TARN_E_NOT_DRAINED);
    assert_int_equal(left, MBX_GIB);
    t.w[1].left_bytes = 0;
    t.w[1].settle = MBX_SETTLE;
    assert_int_equal(mbw_beat(&t.w[1]), 0);
    assert_true(mbx_status(&t.fx, 2, &row));
    assert_true(row.settled);
    assert_int_equal(row.left_bytes, 0);
    assert_int_equal(mbx_admin(&t.fx, REMOVE, 2, false, false, &left, NULL), 0);
    assert_int_equal(left, 0);
    assert_int_equal(mbx_admin(&t.fx, REMOVE, 2, false, false, NULL, NULL), 0); /* it is */
    mbx_run(&t.fx, 10 * MBX_MS);
    assert_int_equal(mbx_placed(&t.fx, 2)->state, TARN_WORKER_REMOVED); /* it is told, and ends */
    assert_int_equal(t.w[1].topology->version, mbx_version(&t.fx));
    assert_int_equal(mbw_register(&t.w[1]), -TARN_E_UNKNOWN_WORKER); /* not by itself */
    assert_int_equal(mbx_admin(&t.fx, DRAIN, 2, false, false, NULL, text), -TARN_E_INVALID);
    assert_non_null(strstr(text, "removed"));
    assert_int_equal(mbx_admin(&t.fx, DRAIN, 9, false, false, NULL, text), -TARN_E_UNKNOWN_WORKER);
    assert_non_null(strstr(text, "9"));
    mbw_kill(&t.w[1]);
    mbx_run(&t.fx, 10 * MBX_MS);
    assert_null(mbx_placed(&t.fx, 2));
    assert_true(mbx_status(&t.fx, 2, &row));
    assert_string_equal(row.state, "removed");
    tarn_clock_fake_advance(&t.fx.clock, 25 * 3600 * MBX_S);
    assert_false(mbx_status(&t.fx, 2, &row));
    assert_int_equal(mbw_start(&t.w[1]), 0); /* started again: joins anew */
    assert_int_equal(t.w[1].id, 2);
    assert_int_equal(mbx_placed(&t.fx, 2)->state, TARN_WORKER_LIVE);
    three_fini(&t);
}

static void test_the_last_one_stays(void **state)
{
    struct three t;
    char text[512];

    (void)state;
    three_start(&t);
    assert_int_equal(mbx_admin(&t.fx, DRAIN, 1, false, false, NULL, NULL), 0);
    assert_int_equal(mbx_admin(&t.fx, REMOVE, 2, false, true, NULL, NULL), 0);
    assert_int_equal(mbx_admin(&t.fx, DRAIN, 3, false, false, NULL, text), -TARN_E_NOT_DRAINED);
    assert_non_null(strstr(text, "last"));
    assert_int_equal(mbx_admin(&t.fx, REMOVE, 3, false, false, NULL, text), -TARN_E_NOT_DRAINED);
    assert_non_null(strstr(text, "last"));
    assert_int_equal(mbx_admin(&t.fx, DRAIN, 3, false, true, NULL, NULL), 0);
    mbx_run(&t.fx, 10 * MBX_MS);
    assert_int_equal(mbx_placed(&t.fx, 3)->state, TARN_WORKER_DRAINING);
    three_fini(&t);
}

static void test_lost_and_back(void **state)
{
    struct three t;
    struct mbx_row row;

    (void)state;
    three_start(&t);
    assert_int_equal(mbx_admin(&t.fx, DRAIN, 3, false, false, NULL, NULL), 0);
    mbw_kill(&t.w[1]);
    mbw_kill(&t.w[2]);
    mbx_run(&t.fx, 590 * MBX_S);
    assert_int_equal(mbx_placed(&t.fx, 2)->state, TARN_WORKER_LIVE);
    mbx_run(&t.fx, 15 * MBX_S);
    assert_int_equal(mbx_placed(&t.fx, 2)->state, TARN_WORKER_LOST);
    assert_int_equal(mbx_placed(&t.fx, 3)->state, TARN_WORKER_LOST);
    assert_int_equal(mbx_placed(&t.fx, 1)->state, TARN_WORKER_LIVE);
    assert_true(mbx_status(&t.fx, 2, &row));
    assert_string_equal(row.state, "lost");
    settle_all(&t); /* nobody waits for the lost */
    assert_int_equal(past_of(&t.w[0]), 0);
    assert_int_equal(mbx_admin(&t.fx, DRAIN, 2, false, false, NULL, NULL), -TARN_E_INVALID);
    assert_int_equal(mbw_start(&t.w[1]), 0);
    assert_int_equal(mbx_placed(&t.fx, 2)->state, TARN_WORKER_LIVE);
    assert_int_equal(mbw_start(&t.w[2]), 0);
    assert_int_equal(mbx_placed(&t.fx, 3)->state, TARN_WORKER_DRAINING); /* that was not undone */
    mbw_kill(&t.w[2]);
    mbx_run(&t.fx, 605 * MBX_S);
    assert_int_equal(mbx_admin(&t.fx, REMOVE, 3, false, false, NULL, NULL), 0); /* lost: may */
    three_fini(&t);
}

/* It hung for longer than it may, its connection still there: found again by its beat. */
static void test_lost_and_heard(void **state)
{
    struct three t;

    (void)state;
    three_start(&t);
    t.w[1].mute = true;
    mbx_run(&t.fx, 605 * MBX_S);
    assert_int_equal(mbx_placed(&t.fx, 2)->state, TARN_WORKER_LOST);
    assert_int_equal(mbw_beat(&t.w[1]), 0);
    mbx_run(&t.fx, 10 * MBX_MS);
    assert_int_equal(mbx_placed(&t.fx, 2)->state, TARN_WORKER_LIVE);
    assert_true(mbx_alive(&t.fx, 2));
    three_fini(&t);
}

static void test_capacity_jitter(void **state)
{
    struct three t;
    uint64_t version;

    (void)state;
    three_start(&t);
    settle_all(&t);
    version = mbx_version(&t.fx);
    t.w[0].capacity = 109 * MBX_GIB;
    assert_int_equal(mbw_register(&t.w[0]), 0);
    t.w[0].capacity = 91 * MBX_GIB;
    assert_int_equal(mbw_register(&t.w[0]), 0);
    assert_int_equal(mbx_version(&t.fx), version);
    assert_int_equal(mbx_placed(&t.fx, 1)->weight, 100);
    t.w[0].capacity = 110 * MBX_GIB;
    assert_int_equal(mbw_register(&t.w[0]), 0);
    assert_int_equal(mbx_placed(&t.fx, 1)->weight, 110);
    assert_int_equal(past_of(&t.w[0]), 1);
    t.w[0].weight = 7; /* given */
    assert_int_equal(mbw_register(&t.w[0]), 0);
    assert_int_equal(mbx_placed(&t.fx, 1)->weight, 7);
    t.w[0].weight = 0;
    t.w[0].capacity = 111 * MBX_GIB;
    assert_int_equal(mbw_register(&t.w[0]), 0);
    assert_int_equal(mbx_placed(&t.fx, 1)->weight, 110); /* by the capacity that is remembered */
    t.w[0].capacity = 1000;
    assert_int_equal(mbw_register(&t.w[0]), 0);
    assert_int_equal(mbx_placed(&t.fx, 1)->weight, 1);
    three_fini(&t);
}

static void test_master_restart(void **state)
{
    struct three t;
    struct mbx_row row;
    uint8_t key[32];
    uint64_t version;
    size_t past;

    (void)state;
    three_start(&t);
    assert_int_equal(mbx_admin(&t.fx, DRAIN, 3, false, false, NULL, NULL), 0);
    mbx_run(&t.fx, 10 * MBX_MS);
    memcpy(key, t.w[0].cap_key, 32);
    past = past_of(&t.w[0]);
    assert_int_equal(past, 2); /* {1} and {1,2,3}; {1,2} owns now */
    version = mbx_version(&t.fx);
    for (unsigned i = 0; i < 3; i++)
        mbw_kill(&t.w[i]);
    mbx_stop(&t.fx);
    t.fx.clock.real -= 3600 * (int64_t)MBX_S; /* the clock was set back meanwhile */
    mbx_start(&t.fx);
    assert_int_equal(tarn_peers_place(t.fx.master->peers) != NULL, true);
    for (uint64_t id = 1; id <= 3; id++) {
        assert_true(mbx_status(&t.fx, id, &row));
        assert_false(row.alive);
        assert_true(mbx_alive(&t.fx, id)); /* as published: nobody is to fetch again what it has */
    }
    assert_int_equal(mbx_placed(&t.fx, 3)->state, TARN_WORKER_DRAINING);
    mbx_run(&t.fx, MBX_S);
    assert_true(mbx_status(&t.fx, 3, &row));
    assert_in_range(row.heard_ms, 900, 1500); /* not since the start, at least */
    assert_int_equal(mbw_start(&t.w[1]), 0);
    assert_int_equal(t.w[1].id, 2);
    assert_true(mbx_version(&t.fx) > version);
    assert_memory_equal(t.w[1].cap_key, key, 32);
    assert_memory_equal(t.fx.master->cap_key, key, 32);
    assert_int_equal(past_of(&t.w[1]), past);
    t.w[1].settle = MBX_SETTLE;
    assert_int_equal(mbw_beat(&t.w[1]), 0);
    assert_true(mbx_alive(&t.fx, 1));
    mbx_run(&t.fx, LEASE + MBX_S); /* it is time for conclusions: two are missed */
    assert_false(mbx_alive(&t.fx, 1));
    assert_false(mbx_alive(&t.fx, 3));
    assert_int_equal(past_of(&t.w[1]), past);
    assert_int_equal(mbw_start(&t.w[0]), 0);
    assert_int_equal(mbw_start(&t.w[2]), 0);
    assert_int_equal(t.w[0].id, 1);
    assert_int_equal(t.w[2].id, 3);
    mbx_run(&t.fx, 10 * MBX_MS);
    settle_all(&t);
    assert_int_equal(past_of(&t.w[0]), 0);
    assert_true(mbx_status(&t.fx, 3, &row));
    assert_string_equal(row.state, "draining");
    assert_true(row.settled);
    three_fini(&t);
}

/* What was settled before the drain is no drain, whatever the clock made of the versions. */
static void test_a_clock_set_back(void **state)
{
    struct three t;
    struct mbx_row row;

    (void)state;
    three_start(&t);
    t.w[2].settle = mbx_version(&t.fx); /* while it is live */
    assert_int_equal(mbx_admin(&t.fx, DRAIN, 3, false, false, NULL, NULL), 0);
    mbx_run(&t.fx, 10 * MBX_MS);
    assert_int_equal(mbw_beat(&t.w[2]), 0);
    assert_true(mbx_status(&t.fx, 3, &row));
    assert_false(row.settled);
    for (unsigned i = 0; i < 3; i++)
        mbw_kill(&t.w[i]);
    mbx_stop(&t.fx);
    t.fx.clock.real -= 3600 * (int64_t)MBX_S;
    mbx_start(&t.fx);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(mbw_start(&t.w[i]), 0);
        assert_int_equal(mbw_beat(&t.w[i]), 0);
    }
    mbx_run(&t.fx, 10 * MBX_MS);
    assert_true(mbx_status(&t.fx, 3, &row));
    assert_string_equal(row.state, "draining");
    assert_false(row.settled);
    assert_int_equal(mbx_admin(&t.fx, REMOVE, 3, false, false, NULL, NULL), -TARN_E_NOT_DRAINED);
    t.w[2].settle = MBX_SETTLE;
    assert_int_equal(mbw_beat(&t.w[2]), 0);
    assert_int_equal(mbx_admin(&t.fx, REMOVE, 3, false, false, NULL, NULL), 0);
    three_fini(&t);
}

/* All come back within the lease: nothing has changed, and nothing is to be asked or moved. */
static void test_master_restart_is_no_change(void **state)
{
    struct three t;

    (void)state;
    three_start(&t);
    settle_all(&t);
    for (unsigned i = 0; i < 3; i++)
        mbw_kill(&t.w[i]);
    mbx_stop(&t.fx);
    mbx_start(&t.fx);
    for (unsigned i = 0; i < 3; i++) {
        mbx_run(&t.fx, 3 * MBX_S);
        assert_int_equal(mbw_start(&t.w[i]), 0);
    }
    mbx_run(&t.fx, 2 * LEASE);
    assert_int_equal(past_of(&t.w[0]), 0);
    for (uint64_t id = 1; id <= 3; id++)
        assert_true(mbx_alive(&t.fx, id));
    three_fini(&t);
}

/* Absent since a restart of the master: lost in the end, and not before. */
static void test_lost_after_a_restart(void **state)
{
    struct three t;

    (void)state;
    three_start(&t);
    for (unsigned i = 0; i < 3; i++)
        mbw_kill(&t.w[i]);
    mbx_run(&t.fx, 500 * MBX_S);
    mbx_stop(&t.fx);
    mbx_start(&t.fx);
    assert_int_equal(mbw_start(&t.w[0]), 0);
    mbx_run(&t.fx, 605 * MBX_S);
    assert_int_equal(mbx_placed(&t.fx, 2)->state, TARN_WORKER_LIVE);
    mbx_run(&t.fx, 10 * MBX_S);
    assert_int_equal(mbx_placed(&t.fx, 2)->state, TARN_WORKER_LOST);
    assert_int_equal(mbx_placed(&t.fx, 1)->state, TARN_WORKER_LIVE);
    three_fini(&t);
}

static void test_no_cluster(void **state)
{
    static const uint8_t key[32] = {1};
    struct three t;
    char text[512];

    (void)state;
    mbx_init(&t.fx, false);
    t.fx.args.cluster = false;
    t.fx.args.cap_key = key;
    mbx_start(&t.fx);
    mbw_init(&t.fx, &t.w[0], "tier-uuid-1", "10.0.0.1:7110");
    assert_int_equal(mbw_start(&t.w[0]), -TARN_E_UNSUPPORTED);
    assert_int_equal(mbw_beat(&t.w[0]), -TARN_E_UNSUPPORTED);
    assert_int_equal(mbx_admin(&t.fx, DRAIN, 1, false, false, NULL, text), -TARN_E_UNSUPPORTED);
    assert_int_equal(mbx_admin(&t.fx, REMOVE, 1, false, false, NULL, text), -TARN_E_UNSUPPORTED);
    assert_memory_equal(t.fx.master->cap_key, key, 32);
    assert_null(mmembers_topology(t.fx.master));
    mbw_fini(&t.w[0]);
    mbx_fini(&t.fx);
}

/* Every worker with texts as long as they may be: the topology still fits a message. */
static void test_the_largest_topology(void **state)
{
    struct three t;
    struct mbw *w, *other;

    (void)state;
    three_init(&t);
    w = &t.w[0];
    other = &t.w[1];
    memset(w->addr, 'a', TARN_WORKER_ADDR_MAX);
    w->addr[TARN_WORKER_ADDR_MAX] = 0;
    memset(w->host, 'h', TARN_WORKER_HOST_MAX);
    memset(w->socket, 's', TARN_WORKER_SOCKET_MAX);
    assert_int_equal(mbw_start(w), 0);
    w->mute = true;
    assert_int_equal(mbw_flood(w, TARN_PLACE_WORKERS_MAX - 2), 0);
    for (uint32_t i = 0; i < 30; i++) { /* each a set of its own */
        other->weight = UINT32_MAX - i;
        assert_int_equal(other->client ? mbw_register(other) : mbw_start(other), 0);
    }
    assert_int_equal(other->topology->n_workers, TARN_PLACE_WORKERS_MAX);
    assert_int_equal(other->topology->version, mbx_version(&t.fx));
    assert_true(tarn__wire__topology__get_packed_size(other->topology) <
                TARN_FRAME_BODY_MAX * 3 / 4);
    assert_true(past_of(other) >= 20);
    three_fini(&t);
}

/* ---- a question to many ---- */

#define MANY_WORKERS 128u
#define MANY_FILES   512u
#define MANY_SEGS    16u

static void many_ended(struct mspread *s, int rc)
{
    *(int *)s->arg = rc;
}

/*
 * Whom many large files concern is found out once for each segment, and not in one turn of the
 * loop: that holds up the beats of all.
 */
static void test_a_question_about_many_files_to_many(void **state)
{
    struct mspread_item *items = tarn_xcalloc(MANY_FILES, sizeof(*items));
    struct mspread s = {
        .items = items, .count = MANY_FILES, .owners = true, .patient = true, .fn = many_ended};
    uint64_t begun, longest = 0, until;
    unsigned turns = 0, asked = 0;
    struct three t;
    int rc = 1;

    (void)state;
    three_init(&t);
    assert_int_equal(mbw_start(&t.w[0]), 0);
    assert_int_equal(mbw_flood(&t.w[0], MANY_WORKERS - 1), 0);
    mbx_run(&t.fx, 100 * MBX_MS);
    assert_true(mbx_alive(&t.fx, MANY_WORKERS)); /* for a second yet */
    for (size_t i = 0; i < MANY_FILES; i++) {
        items[i] = (struct mspread_item){.size = MANY_SEGS * TARN_SEGMENT_BYTES, .replicas = 2};
        memcpy(items[i].cid.b, &i, sizeof(i));
    }
    s.master = t.fx.master;
    s.arg = &rc;
    begun = tarn_now_ns();
    mspread_start(&s);
    assert_true(s.dealing && tarn_now_ns() - begun < MBX_S / 2);
    for (until = tarn_loop_now_ns(t.fx.loop); s.dealing; turns++) {
        begun = tarn_now_ns();
        assert_true(tarn_loop_sim_step(t.fx.loop));
        longest = TARN_MAX(longest, tarn_now_ns() - begun);
    }
    assert_true(longest < MBX_S / 2);
    assert_true(turns >= MANY_FILES * MANY_SEGS / 256);
    assert_int_equal(tarn_loop_now_ns(t.fx.loop), until);
    TARN_LIST_FOREACH(n, &s.ops)
    {
        asked++;
    }
    assert_int_equal(asked, MANY_WORKERS - 1); /* the first is too small to own anything */
    mspread_cancel(&s);
    mbx_run(&t.fx, 10 * MBX_MS);
    assert_int_equal(rc, -TARN_E_CANCELLED);
    /* Given up before anybody is asked. */
    s = (struct mspread){.master = t.fx.master,
                         .items = items,
                         .count = MANY_FILES,
                         .owners = true,
                         .fn = many_ended,
                         .arg = &rc};
    rc = 1;
    mspread_start(&s);
    mspread_cancel(&s);
    assert_int_equal(rc, 1);
    mbx_run(&t.fx, MBX_MS);
    assert_int_equal(rc, -TARN_E_CANCELLED);
    three_fini(&t);
    free(items);
}

static void test_malformed(void **state)
{
    struct three t;
    struct mbw *w;

    (void)state;
    three_init(&t);
    w = &t.w[0];
    (void)snprintf(w->uuid, sizeof(w->uuid), "seven77");
    assert_int_equal(mbw_start(w), -TARN_E_INVALID);
    assert_non_null(strstr(w->error, "uuid"));
    memset(w->uuid, 'x', 65);
    w->uuid[65] = 0;
    assert_int_equal(mbw_register(w), -TARN_E_INVALID);
    (void)snprintf(w->uuid, sizeof(w->uuid), "with space");
    assert_int_equal(mbw_register(w), -TARN_E_INVALID);
    (void)snprintf(w->uuid, sizeof(w->uuid), "tier-uuid-1");
    w->addr[0] = 0;
    assert_int_equal(mbw_register(w), -TARN_E_INVALID);
    assert_non_null(strstr(w->error, "address"));
    memset(w->addr, 'a', TARN_WORKER_ADDR_MAX + 1);
    w->addr[TARN_WORKER_ADDR_MAX + 1] = 0;
    assert_int_equal(mbw_register(w), -TARN_E_INVALID);
    (void)snprintf(w->addr, sizeof(w->addr), "h:1");
    w->incarnation = 0;
    assert_int_equal(mbw_register(w), -TARN_E_INVALID);
    w->incarnation = 1;
    assert_int_equal(mbw_register(w), 0);
    w->id = 2;
    assert_int_equal(mbw_beat(w), -TARN_E_UNKNOWN_WORKER);
    w->id = 1;
    w->incarnation = 2;
    assert_int_equal(mbw_beat(w), -TARN_E_UNKNOWN_WORKER);
    three_fini(&t);
}

static void test_flood(void **state)
{
    struct three t;
    struct mbw *w;

    (void)state;
    three_init(&t);
    w = &t.w[0];
    assert_int_equal(mbw_start(w), 0);
    w->mute = true;
    assert_int_equal(mbw_flood(w, TARN_PLACE_WORKERS_MAX - 1 + 50), 50);
    for (unsigned i = 0; i < 10; i++) {
        (void)snprintf(w->uuid, sizeof(w->uuid), "too-many-%u", i);
        (void)snprintf(w->addr, sizeof(w->addr), "too-many-%u:7110", i);
        assert_int_equal(mbw_register(w), -TARN_E_TOO_BIG);
    }
    assert_non_null(strstr(w->error, "1024"));
    assert_int_equal(t.fx.master->members->count, TARN_PLACE_WORKERS_MAX);
    assert_int_equal(mbx_admin(&t.fx, REMOVE, 5, false, true, NULL, NULL), 0);
    assert_int_equal(mbw_register(w), 0); /* in its place */
    assert_int_equal(w->id, TARN_PLACE_WORKERS_MAX + 1);
    assert_int_equal(t.fx.master->members->count, TARN_PLACE_WORKERS_MAX);
    assert_null(mbx_placed(&t.fx, 5));
    three_fini(&t);
}

/* Each read and write of the store fails once, whatever is under way: told, and mended by the next.
 */
static void fail_nth(enum tarn_fault_point point, void (*step)(struct three *t, int *ret_rc),
                     void (*check)(struct three *t))
{
    unsigned failed = 0;

    for (unsigned nth = 0; nth < 20; nth++) {
        struct three t;
        int rc;

        three_start(&t);
        tarn_fault_arm(point, nth, 1, -TARN_E_KV);
        step(&t, &rc);
        tarn_fault_reset();
        if (rc != 0) {
            failed++;
            assert_int_equal(rc, -TARN_E_KV);
            step(&t, &rc);
            assert_int_equal(rc, 0);
        }
        mbx_run(&t.fx, MBX_S);
        check(&t);
        three_fini(&t);
    }
    assert_in_range(failed, 1, 19);
}

static void step_move(struct three *t, int *ret_rc)
{
    (void)snprintf(t->w[1].addr, sizeof(t->w[1].addr), "10.0.0.99:7110");
    *ret_rc = mbw_register(&t->w[1]);
}

static void check_move(struct three *t)
{
    assert_string_equal(mbx_placed(&t->fx, 2)->addr, "10.0.0.99:7110");
    assert_int_equal(past_of(&t->w[1]), 2);
}

static void step_join(struct three *t, int *ret_rc)
{
    (void)snprintf(t->w[2].uuid, sizeof(t->w[2].uuid), "tier-uuid-4");
    *ret_rc = mbw_register(&t->w[2]);
}

static void check_join(struct three *t)
{
    assert_int_equal(t->w[2].id, 4);
    assert_true(mbx_alive(&t->fx, 4));
    assert_int_equal(mbw_beat(&t->w[0]), 0);
    mbx_run(&t->fx, MBX_S);
    assert_int_equal(past_of(&t->w[2]), 3);
}

static void step_drain(struct three *t, int *ret_rc)
{
    *ret_rc = mbx_admin(&t->fx, DRAIN, 2, false, false, NULL, NULL);
}

static void check_drain(struct three *t)
{
    assert_int_equal(mbx_placed(&t->fx, 2)->state, TARN_WORKER_DRAINING);
    assert_int_equal(mbw_beat(&t->w[0]), 0);
    mbx_run(&t->fx, MBX_S);
    assert_int_equal(past_of(&t->w[0]), 3);
}

static void test_a_store_that_fails(void **state)
{
    (void)state;
    fail_nth(TARN_FAULT_kv_write, step_move, check_move);
    fail_nth(TARN_FAULT_kv_read, step_move, check_move);
    fail_nth(TARN_FAULT_kv_write, step_join, check_join);
    fail_nth(TARN_FAULT_kv_read, step_join, check_join);
    fail_nth(TARN_FAULT_kv_write, step_drain, check_drain);
    fail_nth(TARN_FAULT_kv_read, step_drain, check_drain);
}

/* What the master does by itself is tried again. */
static void test_a_store_that_fails_us(void **state)
{
    struct three t;

    (void)state;
    three_start(&t);
    mbw_kill(&t.w[1]);
    mbx_run(&t.fx, 590 * MBX_S);
    tarn_fault_arm(TARN_FAULT_kv_write, 0, 2, -TARN_E_KV);
    mbx_run(&t.fx, 15 * MBX_S);
    assert_int_equal(mbx_placed(&t.fx, 2)->state, TARN_WORKER_LIVE); /* it could not be written */
    mbx_run(&t.fx, 15 * MBX_S);
    tarn_fault_reset();
    assert_int_equal(mbx_placed(&t.fx, 2)->state, TARN_WORKER_LOST);
    mbx_run(&t.fx, MBX_S);
    t.w[0].settle = t.w[2].settle = MBX_SETTLE;
    tarn_fault_arm(TARN_FAULT_kv_write, 0, 1, -TARN_E_KV);
    assert_int_equal(mbw_beat(&t.w[0]), 0);
    assert_int_equal(mbw_beat(&t.w[2]), 0);
    mbx_run(&t.fx, 100 * MBX_MS);
    assert_true(past_of(&t.w[0]) > 0);
    mbx_run(&t.fx, 10 * MBX_S);
    tarn_fault_reset();
    assert_int_equal(past_of(&t.w[0]), 0); /* the next beat did it */
    three_fini(&t);
}

/* Stopped while registrations wait for the journal: all are answered. */
static void test_stop_under_way(void **state)
{
    (void)state;
    for (unsigned k = 0; k < 12; k++) {
        struct three t;

        three_init(&t);
        for (unsigned i = 0; i < 3; i++) {
            assert_int_equal(mbw_start(&t.w[i]), 0);
            t.w[i].weight = 5 + k;
        }
        for (unsigned i = 0; i < 3; i++)
            mbw_kill(&t.w[i]); /* a change that comes due in a second */
        mbx_run(&t.fx, 990 * MBX_MS + k * 2 * MBX_MS);
        mbx_stop(&t.fx);
        three_fini(&t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_register),
        cmocka_unit_test(test_leave_and_kill),
        cmocka_unit_test(test_silent_for_a_lease),
        cmocka_unit_test(test_twice),
        cmocka_unit_test(test_address_twice),
        cmocka_unit_test(test_removed_while_away),
        cmocka_unit_test(test_past_is_forgotten_when_all_settled),
        cmocka_unit_test(test_drain),
        cmocka_unit_test(test_the_last_one_stays),
        cmocka_unit_test(test_lost_and_back),
        cmocka_unit_test(test_lost_and_heard),
        cmocka_unit_test(test_capacity_jitter),
        cmocka_unit_test(test_master_restart),
        cmocka_unit_test(test_a_clock_set_back),
        cmocka_unit_test(test_master_restart_is_no_change),
        cmocka_unit_test(test_lost_after_a_restart),
        cmocka_unit_test(test_no_cluster),
        cmocka_unit_test(test_a_question_about_many_files_to_many),
        cmocka_unit_test(test_malformed),
        cmocka_unit_test(test_the_largest_topology),
        cmocka_unit_test(test_flood),
        cmocka_unit_test(test_a_store_that_fails),
        cmocka_unit_test(test_a_store_that_fails_us),
        cmocka_unit_test(test_stop_under_way),
    };

    return cmocka_run_group_tests_name("members", tests, NULL, NULL);
}
