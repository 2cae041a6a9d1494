/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads of a handle from several workers: right bytes from whom they belong to, whoever of them is
 * dead, frozen, late or lying; what is final; the end in every state.
 */
#include "tests/unit/lib/client/cluster_rig.h"

#include <stdlib.h>
#include <string.h>

#include "lib/base/limits.h"
#include "tests/unit/turns.h"

#define LEN (100 * 1000u) /* of most reads */

static void owners_are_asked(void **state)
{
    struct tarn_handle *h;
    struct cluster c;

    (void)state;
    cluster_init(&c, 4, NULL);
    h = cluster_open(&c);
    for (unsigned i = 0; i < 60; i++) {
        struct cworker *w = cluster_owner(&c, scattered(i), 0);
        unsigned before = w->reads;

        assert_int_equal(cluster_read(&c, h, scattered(i), LEN), 0);
        assert_int_equal(w->reads, before + 1);
    }
    assert_int_equal(cluster_reads(&c), 60);
    assert_int_equal(c.rig.locates, 1);
    assert_int_equal(c.rig.reads, 0);
    for (unsigned i = 0; i < c.n; i++)
        assert_true(c.w[i].reads > 0);
    assert_int_equal(counts_of(&c).hedges, 0);
    tarn_handle_close(&h);
    cluster_fini(&c);
}

/* A read over the border of two segments is two calls. */
static void over_a_border(void **state)
{
    struct tarn_handle *h;
    struct cluster c;
    uint64_t border = 3 * TARN_SEGMENT_BYTES;

    (void)state;
    cluster_init(&c, 3, NULL);
    h = cluster_open(&c);
    assert_int_equal(cluster_read(&c, h, border - 50000, LEN), 0);
    assert_int_equal(cluster_reads(&c), 2);
    assert_int_equal(cluster_read(&c, h, CLUSTER_SIZE - 10, LEN), 0);
    assert_int_equal(cluster_read(&c, h, border - 512 * KIB, (uint32_t)MIB), 0);
    tarn_handle_close(&h);
    cluster_fini(&c);
}

/* Without a topology, and with one worker that has no address, the server answers itself. */
static void one_server(void **state)
{
    struct tarn_place *single = tarn_place_single(1);
    struct tarn_handle *h;
    struct cluster c;

    (void)state;
    cluster_init(&c, 0, NULL);
    assert_int_equal(tarn_place_count(tarn_peers_place(c.rig.client->peers)), 0);
    c.rig.size = RIG_SIZE;
    tarn_peers_set_place(c.rig.client->peers, single);
    h = cluster_open(&c);
    assert_int_equal(cluster_read(&c, h, 200000, LEN), 0);
    assert_int_equal(c.rig.reads, 1);
    tarn_handle_close(&h);
    cluster_fini(&c);
    tarn_place_unref(&single);
}

/* ---- dead, frozen, late ---------------------------------------------------------------------- */

static void dead_worker(void **state)
{
    struct tarn_handle *h;
    struct cworker *dead;
    struct cluster c;
    uint64_t began;

    (void)state;
    cluster_init(&c, 3, NULL);
    h = cluster_open(&c);
    dead = cluster_owner(&c, scattered(0), 0);
    assert_int_equal(cluster_read(&c, h, scattered(0), LEN), 0);
    cworker_stop(dead);
    began = now_ms();
    for (unsigned i = 0; i < 100; i++)
        assert_int_equal(cluster_read(&c, h, scattered(i), LEN), 0);
    assert_in_range(now_ms() - began, 0, 3000); /* a hundred reads: none of them waits */
    assert_int_equal(dead->reads, 1);
    assert_int_equal(counts_of(&c).hedges, 0);
    cworker_start(dead);
    for (unsigned i = 0; dead->reads == 1; i++) { /* it is taken up again by itself */
        rig_run_for(&c.rig, 20 * TARN_NS_PER_MS);
        assert_int_equal(cluster_read(&c, h, scattered(0) + i % 100, LEN), 0);
    }
    tarn_handle_close(&h);
    cluster_fini(&c);
}

static void connection_cut(void **state)
{
    struct tarn_handle *h;
    struct cworker *w;
    struct cluster c;

    (void)state;
    cluster_init(&c, 3, NULL);
    h = cluster_open(&c);
    w = cluster_owner(&c, scattered(5), 0);
    w->fault = CUT;
    w->faults = 1;
    assert_int_equal(cluster_read(&c, h, scattered(5), LEN), 0);
    assert_int_equal(w->reads, 1);
    assert_int_equal(cluster_owner(&c, scattered(5), 1)->reads, 1);
    tarn_handle_close(&h);
    cluster_fini(&c);
}

/* It takes calls and answers none: overtaken within a second, then left alone. */
static void frozen_worker(void **state)
{
    struct tarn_handle *h;
    struct cworker *w;
    struct cluster c;
    uint64_t began;
    unsigned asked;

    (void)state;
    cluster_init(&c, 3, NULL);
    h = cluster_open(&c);
    w = cluster_owner(&c, scattered(3), 0);
    w->fault = HANG;
    w->faults = 1000;
    began = now_ms();
    assert_int_equal(cluster_read(&c, h, scattered(3), LEN), 0);
    assert_in_range(now_ms() - began, 0, 1300); /* 800 ms, and a busy machine */
    assert_int_equal(counts_of(&c).hedges, 1);
    asked = w->reads;
    assert_int_equal(asked, 1);
    for (unsigned i = 0; i < 10; i++)
        assert_int_equal(cluster_read(&c, h, scattered(3) + i * 5 * 64 * KIB % (8 * MIB), LEN), 0);
    if (now_ms() - began < 1600)
        assert_int_equal(w->reads, asked);
    rig_run_for(&c.rig, 50 * TARN_NS_PER_MS);
    assert_int_equal(w->cancels, asked);
    cworker_release(w); /* late answers, of calls that were cancelled */
    for (unsigned i = 0; w->reads == asked; i++) {
        rig_run_for(&c.rig, 20 * TARN_NS_PER_MS);
        assert_int_equal(cluster_read(&c, h, scattered(3) + i % 100, LEN), 0);
    }
    tarn_handle_close(&h);
    cluster_fini(&c);
}

/* Its connection opens, and then nothing comes: as a process that is stopped. */
static void deaf_worker(void **state)
{
    struct tarn_handle *h;
    struct cworker *w;
    struct cluster c;
    uint64_t began;

    (void)state;
    cluster_init(&c, 3, NULL);
    h = cluster_open(&c);
    w = cluster_owner(&c, scattered(4), 0);
    cworker_deafen(w);
    began = now_ms();
    assert_int_equal(cluster_read(&c, h, scattered(4), LEN), 0);
    assert_in_range(now_ms() - began, 0, 1300);
    began = now_ms();
    for (unsigned i = 0; i < 10; i++)
        assert_int_equal(cluster_read(&c, h, scattered(4) + i * 300 * KIB, LEN), 0);
    assert_in_range(now_ms() - began, 0, 900); /* together */
    tarn_handle_close(&h);
    cluster_fini(&c);
}

/* Everybody is slow: a few reads ask twice, not all of them. */
static void hedges_are_bounded(void **state)
{
    enum { READS = 100 };
    struct tarn_handle *h;
    struct cluster c;
    struct rd *rds = tarn_xcalloc(READS, sizeof(*rds));
    uint64_t hedges;

    (void)state;
    cluster_init(&c, 3, NULL);
    h = cluster_open(&c);
    for (unsigned i = 0; i < c.n; i++) {
        c.w[i].fault = HANG;
        c.w[i].faults = 1000;
    }
    for (unsigned i = 0; i < READS; i++)
        rd_start(&rds[i], &c.rig, h, scattered(i), 4096);
    rig_run_for(&c.rig, 1500 * TARN_NS_PER_MS);
    hedges = counts_of(&c).hedges;
    assert_in_range(hedges, 1, READS / 20 + 8);
    assert_int_equal(cluster_reads(&c), READS + hedges);
    for (unsigned i = 0; i < c.n; i++)
        cworker_release(&c.w[i]);
    for (unsigned i = 0; i < READS; i++)
        assert_int_equal(rd_wait(&rds[i]), 0);
    assert_int_equal(c.rig.client->hedging, 0);
    assert_int_equal(c.rig.client->fetching, 0);
    tarn_handle_close(&h);
    cluster_fini(&c);
    free(rds);
}

/* Once one read has found out that a worker is frozen, all of them leave it. */
static void many_leave_a_frozen_one(void **state)
{
    enum { READS = 60 };
    struct tarn_handle *h;
    struct cworker *w;
    struct cluster c;
    struct rd *rds = tarn_xcalloc(READS, sizeof(*rds));
    uint64_t began;

    (void)state;
    cluster_init(&c, 3, NULL);
    h = cluster_open(&c);
    w = cluster_owner(&c, 0, 0);
    w->fault = HANG;
    w->faults = 1000;
    began = now_ms();
    for (unsigned i = 0; i < READS; i++)
        rd_start(&rds[i], &c.rig, h, (uint64_t)(i * 37 % READS) * MIB, 4096);
    for (unsigned i = 0; i < READS; i++)
        assert_int_equal(rd_wait(&rds[i]), 0);
    assert_in_range(now_ms() - began, 0, 1800);
    assert_true(counts_of(&c).hedges > 11); /* more than as long as it might only be slow */
    tarn_handle_close(&h);
    cluster_fini(&c);
    free(rds);
}

/* Both that were asked are frozen: the third is. */
static void two_frozen_workers(void **state)
{
    struct tarn_handle *h;
    struct cluster c;
    uint64_t began;

    (void)state;
    cluster_init(&c, 3, NULL);
    h = cluster_open(&c);
    for (unsigned k = 0; k < 2; k++) {
        struct cworker *w = cluster_owner(&c, scattered(3), k);

        w->fault = HANG;
        w->faults = 1000;
    }
    began = now_ms();
    assert_int_equal(cluster_read(&c, h, scattered(3), LEN), 0);
    assert_in_range(now_ms() - began, 1000, 9000);
    began = now_ms();
    assert_int_equal(cluster_read(&c, h, scattered(3) + 300 * KIB, LEN), 0);
    assert_in_range(now_ms() - began, 0, 1300); /* the first is known by now */
    tarn_handle_close(&h);
    cluster_fini(&c);
}

/* As long as it answers others, a late answer is waited for. */
static void busy_is_not_frozen(void **state)
{
    struct tarn_handle *h;
    struct cworker *w;
    struct cluster c;
    struct rd late;
    uint64_t start = 5 * TARN_SEGMENT_BYTES;

    (void)state;
    cluster_init(&c, 2, NULL);
    h = cluster_open(&c);
    w = cluster_owner(&c, start, 0);
    w->fault = HANG;
    w->faults = 1;
    rd_start(&late, &c.rig, h, start, 4096);
    for (unsigned i = 0; i < 30; i++) {
        assert_int_equal(cluster_read(&c, h, start + i * 7 % 23 * 2 * MIB, 4096), 0);
        rig_run_for(&c.rig, 40 * TARN_NS_PER_MS);
    }
    assert_int_equal(late.done, 0);
    assert_int_equal(counts_of(&c).hedges, 0);
    assert_true(tarn_peers_usable(c.rig.client->peers, w->id));
    cworker_release(w);
    assert_int_equal(rd_wait(&late), 0);
    tarn_handle_close(&h);
    cluster_fini(&c);
}

/* The second has to ask a store that is down; the first is late, but has the bytes. */
static void store_error_of_a_hedge(void **state)
{
    struct tarn_handle *h;
    struct cworker *w, *next;
    struct cluster c;
    struct rd rd;

    (void)state;
    cluster_init(&c, 3, NULL);
    h = cluster_open(&c);
    w = cluster_owner(&c, scattered(2), 0);
    next = cluster_owner(&c, scattered(2), 1);
    w->fault = HANG;
    w->faults = 2;
    next->fault = FAIL;
    next->faults = 2;
    next->rc = -TARN_E_UFS_DOWN;
    rd_start(&rd, &c.rig, h, scattered(2), LEN);
    rig_until(&c.rig, &next->reads, 1);
    rig_run_for(&c.rig, 50 * TARN_NS_PER_MS);
    assert_int_equal(rd.done, 0);
    cworker_release(w);
    assert_int_equal(rd_wait(&rd), 0);
    w->faults = 1; /* and when it fails as well, the store's word stands */
    rd_start(&rd, &c.rig, h, scattered(2) + 5 * MIB, LEN);
    rig_until(&c.rig, &next->reads, 2);
    cworker_stop(w);
    assert_int_equal(rd_wait(&rd), -TARN_E_UFS_DOWN);
    tarn_handle_close(&h);
    cluster_fini(&c);
}

/* ---- lies and errors ------------------------------------------------------------------------- */

static void damaged_answers(void **state)
{
    static const enum fault lies[] = {TRUNCATED, EMPTY, SHIFTED};
    struct tarn_handle *h;
    struct cworker *w, *next;
    struct cluster c;

    (void)state;
    cluster_init(&c, 3, NULL);
    h = cluster_open(&c);
    w = cluster_owner(&c, scattered(1), 0);
    next = cluster_owner(&c, scattered(1), 1);
    w->fault = SUMS;
    w->faults = 1; /* once more at the same */
    assert_int_equal(read_once(&c, scattered(1), LEN), 0);
    assert_int_equal(w->reads, 2);
    assert_int_equal(next->reads, 0);
    w->faults = 100; /* then at the next */
    assert_int_equal(read_once(&c, scattered(1), LEN), 0);
    assert_int_equal(w->reads, 4);
    assert_int_equal(next->reads, 1);
    for (unsigned i = 0; i < TARN_ARRAY_LEN(lies); i++) {
        w->fault = lies[i];
        w->faults = 1;
        assert_int_equal(read_once(&c, scattered(1) + 7, 10 * 64 * KIB), 0);
        assert_int_equal(next->reads, 2 + i);
    }
    for (unsigned i = 0; i < c.n; i++) {
        c.w[i].fault = SUMS;
        c.w[i].faults = 100;
    }
    assert_int_equal(read_once(&c, scattered(1), LEN), -TARN_E_GRANULE_SUM);
    assert_false(tarn_handle_stale(h));
    tarn_handle_close(&h);
    cluster_fini(&c);
}

static void others_are_asked(void **state)
{
    static const int rcs[] = {-TARN_E_NOT_CACHED, -TARN_E_TIER_OFFLINE, -TARN_E_NO_SUCH_RPC,
                              -TARN_E_NO_ATTACH,  -TARN_E_CANCELLED,    -TARN_E_NO_MEMORY,
                              -TARN_E_CAP_BAD,    -TARN_E_CAP_EXPIRED,  -TARN_E_INTERNAL,
                              -TARN_E_SHUTDOWN};
    struct cworker *w;
    struct cluster c;

    (void)state;
    cluster_init(&c, 2, NULL);
    w = cluster_owner(&c, scattered(9), 0);
    for (unsigned i = 0; i < TARN_ARRAY_LEN(rcs); i++) {
        unsigned before = w->reads, next = cluster_owner(&c, scattered(9), 1)->reads;

        w->fault = FAIL;
        w->faults = 1;
        w->rc = rcs[i];
        assert_int_equal(read_once(&c, scattered(9), LEN), 0);
        assert_int_equal(w->reads, before + 1);
        assert_int_equal(cluster_owner(&c, scattered(9), 1)->reads, next + 1);
    }
    cluster_fini(&c);
}

/* All are too busy: asked again after a pause, in rounds (of which the first is the owner's alone),
 * until one has time. */
static void busy_passes(void **state)
{
    struct tarn_handle *h;
    struct cluster c;

    (void)state;
    cluster_init(&c, 2, NULL);
    h = cluster_open(&c);
    for (unsigned i = 0; i < c.n; i++) {
        c.w[i].fault = FAIL;
        c.w[i].faults = 4;
        c.w[i].rc = -TARN_E_BUSY;
    }
    assert_int_equal(cluster_read(&c, h, scattered(1), LEN), 0);
    assert_int_equal(cluster_reads(&c), 4 + 3 + 1);
    tarn_handle_close(&h);
    cluster_fini(&c);
}

/* The owner is too busy for a while, and nobody else is of any use: it is waited for. */
static void a_busy_owner(void **state)
{
    static const int rcs[] = {-TARN_E_TIER_OFFLINE, -TARN_E_NOT_CACHED, -TARN_E_MSG_BAD,
                              -TARN_E_NO_SUCH_RPC, -TARN_E_INTERNAL};
    struct tarn_handle *h;
    struct cluster c;

    (void)state;
    cluster_init(&c, 3, NULL);
    h = cluster_open(&c);
    for (unsigned i = 0; i < TARN_ARRAY_LEN(rcs); i++) {
        struct cworker *owner = cluster_owner(&c, scattered(3 * i), 0);
        unsigned before = owner->reads;

        for (unsigned k = 0; k < c.n; k++) {
            c.w[k].fault = FAIL;
            c.w[k].faults = 100;
            c.w[k].rc = rcs[i];
        }
        owner->faults = 4;
        owner->rc = -TARN_E_BUSY;
        assert_int_equal(cluster_read(&c, h, scattered(3 * i), LEN), 0);
        assert_int_equal(owner->reads, before + 5);
    }
    tarn_handle_close(&h);
    cluster_fini(&c);
}

/* It is asked again before those who would have to ask the store. */
static void a_busy_owner_first(void **state)
{
    struct cworker *owner;
    struct tarn_handle *h;
    struct cluster c;

    (void)state;
    cluster_init(&c, 3, NULL);
    h = cluster_open(&c);
    owner = cluster_owner(&c, scattered(1), 0);
    owner->fault = FAIL;
    owner->faults = 1;
    owner->rc = -TARN_E_BUSY;
    assert_int_equal(cluster_read(&c, h, scattered(1), LEN), 0);
    assert_int_equal(owner->reads, 2);
    assert_int_equal(cluster_reads(&c), 2);
    tarn_handle_close(&h);
    cluster_fini(&c);
}

/* What a store does says nothing of the bytes that an owner has, once it has time. */
static void store_error_of_another(void **state)
{
    struct cworker *owner, *next, *home;
    struct tarn_handle *h;
    struct cluster c;

    (void)state;
    cluster_init(&c, 3, NULL);
    h = cluster_open(&c);
    owner = cluster_owner(&c, scattered(1), 0);
    next = cluster_owner(&c, scattered(1), 1);
    home = cluster_owner(&c, scattered(1), 2);
    next->fault = home->fault = FAIL;
    next->faults = home->faults = 1000;
    next->rc = home->rc = -TARN_E_UFS_DOWN;
    owner->fault = FAIL;
    owner->faults = 5;
    owner->rc = -TARN_E_BUSY;
    assert_int_equal(cluster_read(&c, h, scattered(1), LEN), 0);
    assert_int_equal(owner->reads, 6);
    assert_int_equal(owner->held_only, 4); /* all but the first two: the store is not asked again */
    assert_int_equal(next->reads, 1);
    assert_int_equal(home->reads, 0);

    home->at_home = true; /* it comes first now */
    home->copies = 2;
    cluster_publish(&c);
    owner->held_only = 0;
    assert_int_equal(cluster_read(&c, h, scattered(1) + 3 * MIB, LEN), 0);
    assert_int_equal(home->reads, 1);
    assert_int_equal(owner->reads, 7);
    assert_int_equal(owner->held_only, 1);

    owner->faults = 1; /* it has not got them, and the store's word stands */
    owner->rc = -TARN_E_NOT_CACHED;
    assert_int_equal(cluster_read(&c, h, scattered(1) + 5 * MIB, LEN), -TARN_E_UFS_DOWN);
    assert_int_equal(owner->reads, 8);
    assert_int_equal(next->reads, 1);
    cworker_stop(owner); /* nobody can have them */
    assert_int_equal(cluster_read(&c, h, scattered(1) + 5 * MIB, LEN), -TARN_E_UFS_DOWN);
    assert_int_equal(next->reads, 1);
    tarn_handle_close(&h);
    cluster_fini(&c);
}

/* Nor does it wait long for an owner that answers nothing at all. */
static void store_error_and_a_frozen_owner(void **state)
{
    struct cworker *owner, *home;
    struct tarn_handle *h;
    struct cluster c;
    uint64_t began;

    (void)state;
    cluster_init(&c, 2, NULL);
    h = cluster_open(&c);
    owner = cluster_owner(&c, scattered(1), 0);
    home = cluster_owner(&c, scattered(1), 1);
    home->at_home = true;
    home->copies = 2;
    cluster_publish(&c);
    home->fault = FAIL;
    home->rc = -TARN_E_UFS_DOWN;
    owner->fault = HANG;
    owner->faults = home->faults = 1000;
    began = now_ms();
    assert_int_equal(cluster_read(&c, h, scattered(1), LEN), -TARN_E_UFS_DOWN);
    assert_in_range(now_ms() - began, 4000, 9000);
    tarn_handle_close(&h);
    cluster_fini(&c);
}

static void final_answers(void **state)
{
    static const struct {
        int rc;
        bool stale;
    } rows[] = {{-TARN_E_UFS_STALLED, false}, {-TARN_E_UFS_DOWN, false},
                {-TARN_E_DENIED, false},      {-TARN_E_UFS_DENIED, false},
                {-TARN_E_INVALID, false},     {-TARN_E_UFS_CHANGED, true},
                {-TARN_E_UFS_NOT_FOUND, true}};
    struct tarn_handle *h;
    struct cworker *w;
    struct cluster c;

    (void)state;
    cluster_init(&c, 3, NULL);
    w = cluster_owner(&c, scattered(1), 0);
    for (unsigned i = 0; i < TARN_ARRAY_LEN(rows); i++) {
        h = cluster_open(&c);
        w->fault = FAIL;
        w->faults = 1;
        w->rc = rows[i].rc;
        assert_int_equal(cluster_read(&c, h, scattered(1), LEN), rows[i].rc);
        assert_int_equal(tarn_handle_stale(h), rows[i].stale);
        tarn_handle_close(&h);
    }
    assert_int_equal(w->reads, TARN_ARRAY_LEN(rows));
    assert_int_equal(cluster_reads(&c), w->reads); /* nobody else was asked */
    cluster_fini(&c);
}

struct renewal {
    struct tarn_timer timer;
    struct cluster *c;
    uint8_t capability;
};

static void renewal_due(struct tarn_timer *t, void *arg)
{
    struct renewal *n = arg;

    (void)t;
    client_meta(n->c->rig.client, (ProtobufCBinaryData){1, &n->capability});
}

/* A capability that has expired: the read goes on with the next one. */
static void capability_renewed(void **state)
{
    static const uint8_t wanted = 77;
    struct renewal renewal = {.capability = 77};
    struct tarn_handle *h;
    struct cluster c;

    (void)state;
    cluster_init(&c, 2, NULL);
    renewal.c = &c;
    tarn_timer_stop(&c.rig.client->renew_timer); /* the session would give its own */
    while (c.rig.client->session_busy)
        rig_run_for(&c.rig, TARN_NS_PER_MS);
    tarn_timer_stop(&c.rig.client->renew_timer);
    h = cluster_open(&c);
    for (unsigned i = 0; i < c.n; i++)
        c.w[i].wanted = &wanted;
    tarn_timer_start(c.rig.loop, &renewal.timer, 200 * TARN_NS_PER_MS, renewal_due, &renewal);
    assert_int_equal(cluster_read(&c, h, scattered(1), LEN), 0);
    assert_true(cluster_reads(&c) > 2);
    tarn_handle_close(&h);
    cluster_fini(&c);
}

/* ---- who is near, what is counted ------------------------------------------------------------ */

static void home_first(void **state)
{
    struct tarn_client_counts n;
    struct tarn_handle *h;
    struct cluster c;

    (void)state;
    cluster_init(&c, 3, NULL);
    h = cluster_open(&c);
    c.w[1].at_home = true; /* keeps nothing for us */
    cluster_publish(&c);
    for (unsigned i = 0; i < 30; i++)
        assert_int_equal(cluster_read(&c, h, scattered(i), 1000), 0);
    assert_in_range(c.w[1].reads, 1, 29);
    n = counts_of(&c);
    assert_int_equal(n.local_bytes, c.w[1].reads * 1000);
    assert_int_equal(n.local_bytes + n.remote_bytes, 30000);
    assert_int_equal(n.local_reads, 30);
    c.w[1].copies = 2;
    cluster_publish(&c);
    c.w[1].reads = 0;
    for (unsigned i = 0; i < 30; i++)
        assert_int_equal(cluster_read(&c, h, scattered(i), 1000), 0);
    assert_int_equal(c.w[1].reads, 30);
    n = counts_of(&c);
    c.w[1].source = "remote";
    assert_int_equal(cluster_read(&c, h, scattered(1), 1000), 0);
    assert_int_equal(counts_of(&c).remote_bytes, n.remote_bytes + 1000);
    c.w[1].source = "ufs";
    assert_int_equal(cluster_read(&c, h, scattered(2), 1000), 0);
    assert_int_equal(counts_of(&c).ufs_bytes, 1000);
    assert_int_equal(counts_of(&c).local_reads, 61);
    cworker_stop(&c.w[1]); /* then the owners */
    assert_int_equal(cluster_read(&c, h, scattered(3), 1000), 0);
    tarn_handle_close(&h);
    cluster_fini(&c);
}

/* A newer topology takes effect at once, an older one never; calls to who left go elsewhere. */
static void topology_changes(void **state)
{
    struct tarn_handle *h;
    struct cworker *w;
    struct cluster c;
    struct rd rd;

    (void)state;
    cluster_init(&c, 3, NULL);
    h = cluster_open(&c);
    w = cluster_owner(&c, scattered(1), 0);
    w->fault = HANG;
    w->faults = 1;
    rd_start(&rd, &c.rig, h, scattered(1), LEN);
    rig_until(&c.rig, &w->reads, 1);
    w->absent = true;
    cluster_publish(&c);
    assert_int_equal(rd_wait(&rd), 0);
    assert_int_equal(counts_of(&c).hedges, 0);
    w->absent = false;
    c.version -= 2; /* the next is as old as the last */
    cluster_publish(&c);
    assert_int_equal(tarn_place_count(tarn_peers_place(c.rig.client->peers)), 2);
    c.version = 100;
    cluster_publish(&c);
    assert_int_equal(tarn_place_count(tarn_peers_place(c.rig.client->peers)), 3);
    c.rig.client->session++; /* another master may count anew */
    c.version = 3;
    w->absent = true;
    cluster_publish(&c);
    assert_int_equal(tarn_place_count(tarn_peers_place(c.rig.client->peers)), 2);
    c.w[w->id % 3].state = 77; /* nonsense is not taken up */
    c.version = 200;
    cluster_publish(&c);
    assert_int_equal(tarn_place_version(tarn_peers_place(c.rig.client->peers)), 4);
    tarn_handle_close(&h);
    cluster_fini(&c);
}

/* ---- the end, in every state ----------------------------------------------------------------- */

static void turns(struct cluster *c, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        rig_run_for(&c->rig, 100 * 1000);
}

/* Cancels after any number of turns, with workers that answer, hang, lie or are gone. */
static void cancelled_anywhere(void **state)
{
    static const enum fault faults[] = {GOOD, HANG, SUMS, CUT, FAIL};
    struct tarn_handle *h;
    struct cluster c;
    struct rd rds[4];

    (void)state;
    cluster_init(&c, 2, soon);
    for (unsigned i = 0; i < 60; i++) {
        h = cluster_open(&c);
        for (unsigned k = 0; k < c.n; k++) {
            c.w[k].fault = faults[i % TARN_ARRAY_LEN(faults)];
            c.w[k].faults = 1000;
            c.w[k].rc = -TARN_E_BUSY;
            c.w[k].delay_ns = i % 3 * TARN_NS_PER_MS;
        }
        for (unsigned k = 0; k < 4; k++)
            rd_start(&rds[k], &c.rig, h, scattered(i * 4 + k), LEN);
        turns(&c, i % 11);
        for (unsigned k = 0; k < 4; k++) {
            if (rds[k].done)
                continue;
            tarn_handle_cancel(&rds[k].read);
            assert_int_equal(rds[k].done, 0);
            assert_int_equal(rd_wait(&rds[k]), -TARN_E_CANCELLED);
        }
        tarn_handle_close(&h);
        for (unsigned k = 0; k < c.n; k++)
            cworker_release(&c.w[k]);
        for (unsigned k = 0; k < 4; k++)
            assert_int_equal(rds[k].done, 1);
    }
    turns(&c, 3);
    assert_int_equal(c.rig.client->fetching, 0);
    assert_int_equal(c.rig.client->hedging, 0);
    cluster_fini(&c);
}

/* The client stops with reads in every state: each ends once. */
static void stopped_anywhere(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 12; i++) {
        struct tarn_handle *h;
        struct cluster c;
        struct rd rds[6];

        cluster_init(&c, 2, NULL);
        h = cluster_open(&c);
        c.rig.hold_locate = i % 4 == 3;
        c.w[0].fault = HANG;
        c.w[0].faults = 100;
        c.w[1].delay_ns = i % 3 * 2 * TARN_NS_PER_MS;
        if (i % 5 == 4)
            cworker_stop(&c.w[1]);
        for (unsigned k = 0; k < 6; k++)
            rd_start(&rds[k], &c.rig, h, scattered(i * 6 + k), LEN);
        turns(&c, i);
        if (i % 4 == 3)
            rig_until(&c.rig, &c.rig.held_n, 1);
        cluster_stop_client(&c);
        for (unsigned k = 0; k < 6; k++) {
            assert_int_equal(rds[k].done, 1);
            assert_false(rds[k].wrong);
        }
        tarn_handle_close(&h);
        cluster_fini(&c);
    }
}

/* ---- nobody to ask where it is ---------------------------------------------- */

/* While the master does not answer, what workers have is read by cid; the rest waits for it. */
static void without_the_master(void **state)
{
    struct tarn_handle *h;
    struct cluster c;
    struct rd rd;

    (void)state;
    cluster_init(&c, 1, NULL);
    c.rig.hold_locate = true;
    h = cluster_open(&c);
    assert_int_equal(cluster_read(&c, h, scattered(0), LEN), 0);
    assert_int_equal(c.w[0].bare, 1);
    assert_int_equal(c.rig.locates, 1);
    c.w[0].uncached = true;
    rd_start(&rd, &c.rig, h, scattered(1), LEN);
    rig_run_for(&c.rig, 300 * TARN_NS_PER_MS);
    assert_int_equal(rd.done, 0);
    assert_true(c.w[0].bare >= 2);
    rig_release(&c.rig);
    assert_int_equal(rd_wait(&rd), 0);
    assert_true(c.w[0].reads > c.w[0].bare);
    tarn_handle_close(&h);
    cluster_fini(&c);
}

/* A chunk that was asked for by cid alone fails nobody who came when more was known. */
static void located_meanwhile(void **state)
{
    struct rd early, late;
    struct tarn_handle *h;
    struct cluster c;

    (void)state;
    cluster_init(&c, 1, NULL);
    c.rig.size = 700 * KIB; /* one chunk */
    c.rig.hold_locate = true;
    c.w[0].uncached = true;
    c.w[0].delay_ns = 500 * TARN_NS_PER_MS;
    h = cluster_open(&c);
    rd_start(&early, &c.rig, h, 0, LEN);
    for (unsigned i = 0; i < 300 && c.w[0].bare == 0; i++)
        rig_run_for(&c.rig, 10 * TARN_NS_PER_MS);
    assert_int_equal(c.w[0].bare, 1);
    rig_release(&c.rig);
    rig_run_for(&c.rig, 50 * TARN_NS_PER_MS);
    rd_start(&late, &c.rig, h, 200 * KIB, LEN);
    assert_int_equal(rd_wait(&late), 0);
    assert_int_equal(rd_wait(&early), 0);
    tarn_handle_close(&h);
    cluster_fini(&c);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(owners_are_asked),
        cmocka_unit_test(without_the_master),
        cmocka_unit_test(located_meanwhile),
        cmocka_unit_test(over_a_border),
        cmocka_unit_test(one_server),
        cmocka_unit_test(dead_worker),
        cmocka_unit_test(connection_cut),
        cmocka_unit_test(frozen_worker),
        cmocka_unit_test(deaf_worker),
        cmocka_unit_test(hedges_are_bounded),
        cmocka_unit_test(many_leave_a_frozen_one),
        cmocka_unit_test(two_frozen_workers),
        cmocka_unit_test(busy_is_not_frozen),
        cmocka_unit_test(store_error_of_a_hedge),
        cmocka_unit_test(damaged_answers),
        cmocka_unit_test(others_are_asked),
        cmocka_unit_test(busy_passes),
        cmocka_unit_test(a_busy_owner),
        cmocka_unit_test(a_busy_owner_first),
        cmocka_unit_test(store_error_of_another),
        cmocka_unit_test(store_error_and_a_frozen_owner),
        cmocka_unit_test(final_answers),
        cmocka_unit_test(capability_renewed),
        cmocka_unit_test(home_first),
        cmocka_unit_test(topology_changes),
        cmocka_unit_test(cancelled_anywhere),
        cmocka_unit_test(stopped_anywhere),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
