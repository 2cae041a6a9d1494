/* SPDX-License-Identifier: Apache-2.0 */
/* Starts and ends: closing with work under way, healing after crashes, many files, and the
 * simulated loop. */
#include "tests/unit/store/tier/rig.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/log.h"
#include "store/tier/tier_priv.h"

/* Leaves a mark: the request has ended. */
static void op_noted(struct tarn_tier_op *op, int rc)
{
    (void)rc; /* op->rc */
    op->arg = op;
}

/* The tier ends in the midst of evictions, walks and index writes; nothing is lost but cache. */
static void close_at_once(void **state)
{
    struct rig *r = *state;
    uint64_t served = 0;

    rig_must_open(r, 200 * MIB);
    for (unsigned nr = 0; nr < 30; nr++)
        assert_int_equal(rig_fill(r, nr, 5 * MIB), 0);
    rig_close(r);
    for (unsigned round = 0; round < 12; round++) {
        rig_must_open(r, (150 - 10 * round) * MIB);
        if (round % 3)
            rig_run_for(r, round % 3 * 2 * TARN_NS_PER_MS);
        rig_close(r);
    }
    rig_must_open(r, 64 * MIB);
    rig_settle(r);
    for (unsigned nr = 0; nr < 30; nr++) {
        struct rig_found found = rig_check(r, nr, 5 * MIB);

        assert_int_equal(found.wrong, 0);
        served += found.served;
    }
    assert_true(served > 8 * MIB);
    assert_true(rig_du(r->dir) <= 64 * MIB);
    rig_settle(r);
    tarn_tier_check(r->tier);
}

/* Blocks of a group without a record: a crash came between the record's deletion and the hole. */
static void dead_blocks_go(void **state)
{
    struct rig *r = *state;
    struct tarn_tier_file *f;
    char path[512];
    uint8_t *p = calloc(1, MIB);
    int fd;

    assert_non_null(p);
    rig_must_open(r, 200 * MIB);
    f = rig_file(r, 1, 100 * MIB);
    assert_int_equal(rig_store(r, f, 1, 3), 0);
    assert_int_equal(rig_store(r, f, 1, 24), 0);
    tarn_tier_file_put(&f);
    rig_close(r);
    rig_data_path(r, 1, path, sizeof(path));
    fd = open(path, O_RDWR);
    for (unsigned i = 30; i < 60; i++)
        assert_int_equal(pwrite(fd, p, MIB, (off_t)(i * MIB)), MIB);
    assert_int_equal(close(fd), 0);
    free(p);
    assert_true(rig_du(path) > 36 * MIB);
    rig_must_open(r, 200 * MIB);
    rig_settle(r);
    assert_true(rig_du(path) < 9 * MIB);
    f = rig_file(r, 1, 100 * MIB);
    assert_int_equal(rig_load(r, f, 3, false, NULL), 0);
    assert_int_equal(rig_load(r, f, 24, false, NULL), 0);
    assert_int_equal(tarn_tier_file_cached(f), 8 * MIB);
    tarn_tier_file_put(&f);
    tarn_tier_check(r->tier);
}

/* ---- reservations ----------------------------------------------------------------------- */

struct queue {
    struct rig *r;
    unsigned order[16], n, left;
};

static void queue_granted(struct tarn_tier_op *op, int rc)
{
    struct queue *q = op->arg;

    assert_int_equal(rc, 0);
    q->order[q->n++] = op->group;
    tarn_tier_unreserve(q->r->tier, op->reserved_bytes);
    if (--q->left == 0)
        tarn_loop_stop(q->r->loop);
}

/* Those that wait for evictions are served in their order, also a small one behind a big one. */
static void reservations_queue(void **state)
{
    struct rig *r = *state;
    struct queue q = {.r = r, .left = 8};
    struct tarn_tier_op ops[8] = {0};

    rig_must_open(r, 64 * MIB);
    for (unsigned nr = 0; nr < 12; nr++)
        assert_int_equal(rig_fill(r, nr, 4 * MIB), 0);
    for (unsigned i = 0; i < 8; i++) {
        ops[i] = (struct tarn_tier_op){.group = i,
                                       .reserved_bytes = i % 2 ? 4 * KIB : 8 * MIB,
                                       .cb = queue_granted,
                                       .arg = &q};
        tarn_tier_reserve(r->tier, &ops[i]);
        assert_int_equal(q.n, 0);
    }
    tarn_loop_run(r->loop);
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(q.order[i], i);
    rig_settle(r);
    tarn_tier_check(r->tier);
}

/* ---- many files ------------------------------------------------------------------------- */

#define MANY 3000u

static void many_small_files(void **state)
{
    struct rig *r = *state;
    struct tarn_tier_info info;
    uint64_t start;

    rig_must_open(r, 512 * MIB);
    for (unsigned nr = 0; nr < MANY; nr++)
        assert_int_equal(rig_fill(r, nr, 200 + nr % 1000), 0);
    rig_close(r);
    start = tarn_now_ns();
    rig_must_open(r, 512 * MIB);
    print_message("%u files opened in %llu us\n", MANY,
                  (unsigned long long)(tarn_now_ns() - start) / 1000);
    tarn_tier_info(r->tier, &info);
    assert_int_equal(info.files, MANY);
    rig_settle(r);
    for (unsigned nr = 0; nr < MANY; nr += 97)
        assert_int_equal(rig_check(r, nr, 200 + nr % 1000).served, 200 + nr % 1000);
    tarn_tier_info(r->tier, &info);
    assert_true(rig_du(r->dir) <= info.used_bytes);
    tarn_tier_check(r->tier);
}

/* ---- the simulated loop ----------------------------------------------------------------- */

static void on_sim(void **state)
{
    const struct tarn_disk_sim_args sim = {.seed = 7, .delay_ns_max = 3 * TARN_NS_PER_MS};
    struct rig *r = *state;
    struct tarn_loop *loop = r->loop;
    struct tarn_disk *disk = r->disk;

    r->args.loop = r->loop = tarn_loop_sim_new(TARN_NS_PER_S);
    r->args.disk = r->disk = tarn_disk_sim_new(r->loop, &sim);
    for (int round = 0; round < 2; round++) {
        rig_must_open(r, 64 * MIB);
        for (unsigned nr = 0; nr < 20; nr++)
            assert_int_equal(rig_fill(r, nr, 4 * MIB), 0);
        for (unsigned nr = 0; nr < 20; nr++)
            assert_int_equal(rig_check(r, nr, 4 * MIB).wrong, 0);
        assert_int_equal(rig_check(r, 19, 4 * MIB).served, 4 * MIB);
        rig_settle(r);
        tarn_tier_check(r->tier);
        rig_close(r);
    }
    rig_must_open(r, 40 * MIB);
    rig_close(r); /* with evictions and the walk in the simulated disk */
    rig_run_for(r, TARN_NS_PER_S);
    tarn_disk_free(&r->disk);
    rig_run_for(r, TARN_NS_PER_S);
    tarn_loop_free(&r->loop);
    r->loop = loop;
    r->disk = disk;
}

/* A drop comes after each possible number of events of a store: afterwards nothing is cached, ever.
 */
static void drop_at_each_step(void **state)
{
    const struct tarn_disk_sim_args sim = {.seed = 1};
    struct rig *r = *state;
    struct tarn_loop *loop = r->loop;
    struct tarn_disk *disk = r->disk;
    struct tarn_tier_file *f;
    unsigned cancelled = 0, stored = 0;

    r->args.loop = r->loop = tarn_loop_sim_new(TARN_NS_PER_S);
    r->args.disk = r->disk = tarn_disk_sim_new(r->loop, &sim);
    rig_must_open(r, 64 * MIB);
    for (unsigned steps = 0; steps < 12; steps++) {
        struct tarn_tier_op op = {.reserved_bytes = 5 * MIB, .buf = tarn_buf_new(4 * MIB)};

        op.buf->len = 4 * MIB;
        op.file = f = rig_file(r, steps, 4 * MIB);
        rig_bytes(steps, 0, op.buf->p, 4 * MIB);
        assert_int_equal(rig_reserve(r, op.reserved_bytes), 0);
        op.cb = op_noted;
        tarn_tier_store(r->tier, &op);
        for (unsigned i = 0; i < steps; i++)
            (void)tarn_loop_sim_step(r->loop);
        assert_int_equal(rig_drop(r, steps, 4 * MIB), 0);
        rig_run_for(r, TARN_NS_PER_S);
        assert_true(op.rc == 0 || op.rc == -TARN_E_CANCELLED);
        cancelled += op.rc != 0;
        stored += op.rc == 0;
        assert_int_equal(tarn_tier_file_cached(f), 0);
        tarn_tier_file_put(&f);
        tarn_buf_unref(&op.buf);
        tarn_tier_check(r->tier);
    }
    assert_true(cancelled >= 2 && stored >= 2); /* both orders were met */
    rig_close(r);
    rig_must_open(r, 64 * MIB);
    for (unsigned nr = 0; nr < 12; nr++)
        assert_int_equal(rig_check(r, nr, 4 * MIB).served, 0);
    rig_close(r);
    rig_run_for(r, TARN_NS_PER_S);
    tarn_disk_free(&r->disk);
    rig_run_for(r, TARN_NS_PER_S);
    tarn_loop_free(&r->loop);
    r->loop = loop;
    r->disk = disk;
}

/* ---- readers ------------------------------------------------------------------------------- */

static bool disk_has(const struct rig *r, unsigned nr, uint64_t off)
{
    uint8_t got[64] = {0}, want[64];
    char path[512];
    int fd;

    rig_data_path(r, nr, path, sizeof(path));
    fd = open(path, O_RDONLY);
    if (fd < 0)
        return false;
    assert_int_equal(pread(fd, got, sizeof(got), (off_t)off), sizeof(got));
    (void)close(fd);
    rig_bytes(nr, off, want, sizeof(want));
    return memcmp(got, want, sizeof(got)) == 0;
}

/* A group under a reader is off at once, and its bytes stay until the reader is out. */
static void removal_waits_for_readers(void **state)
{
    struct rig *r = *state;
    struct tarn_tier_op drop = {0}, store = {.reserved_bytes = 4 * MIB};
    struct tarn_tier_file *f;
    struct tier_group *g;
    uint8_t byte;

    rig_must_open(r, 64 * MIB);
    assert_int_equal(rig_fill(r, 1, 8 * MIB), 0);
    f = rig_file(r, 1, 8 * MIB);
    g = tarn_tier_group(f, 0);
    tarn_tier_group_pin(g);
    assert_true(tarn_tier_evict(f, 0, true));
    assert_int_equal(tarn_tier_try_read(f, 0, 1, &byte), -TARN_E_NOT_CACHED);
    rig_run_for(r, 20 * TARN_NS_PER_MS);
    assert_true(disk_has(r, 1, 0));
    tarn_tier_group_unpin(r->tier, g);
    while (disk_has(r, 1, 0)) /* until it is a hole */
        rig_run_for(r, TARN_NS_PER_MS);
    assert_true(disk_has(r, 1, 4 * MIB));

    assert_int_equal(rig_store(r, f, 1, 0), 0);
    tarn_tier_group_pin(g);
    drop.file = store.file = f;
    drop.rc = store.rc = 1;
    drop.cb = store.cb = op_noted;
    store.buf = tarn_buf_new(4 * MIB);
    store.buf->len = 4 * MIB;
    rig_bytes(1, 0, store.buf->p, 4 * MIB);
    assert_int_equal(rig_reserve(r, 4 * MIB), 0);
    tarn_tier_drop(r->tier, &drop);
    tarn_tier_store(r->tier, &store); /* waits for the drop, which waits for the reader */
    rig_run_for(r, 20 * TARN_NS_PER_MS);
    assert_true(disk_has(r, 1, 0));
    assert_int_equal(drop.rc, 0);
    assert_false(drop.arg != NULL || store.arg != NULL);
    tarn_tier_group_unpin(r->tier, g);
    while (drop.arg == NULL || store.arg == NULL)
        rig_run_for(r, TARN_NS_PER_MS);
    assert_int_equal(drop.rc, 0);
    assert_int_equal(store.rc, 0);
    assert_int_equal(tarn_tier_file_cached(f), 4 * MIB);
    tarn_buf_unref(&store.buf);
    tarn_tier_file_put(&f);
    rig_settle(r);
    tarn_tier_check(r->tier);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        RIG_TEST(close_at_once),
        RIG_TEST(dead_blocks_go),
        RIG_TEST(reservations_queue),
        RIG_TEST(many_small_files),
        RIG_TEST(on_sim),
        RIG_TEST(drop_at_each_step),
        RIG_TEST(removal_waits_for_readers),
    };

    tarn_log_set_level(TARN_LOG_ERROR);
    return cmocka_run_group_tests_name("tier_life", tests, NULL, NULL);
}
