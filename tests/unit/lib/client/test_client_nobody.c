/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads when those who own the bytes cannot be asked: all of them dead or away, draining, past the
 * deadline; and the worker inside the client, that reads the store then.
 */
#include "tests/unit/lib/client/cluster_rig.h"

#include <stdlib.h>
#include <string.h>

#include "lib/base/limits.h"
#include "tests/unit/turns.h"

#define LEN (100 * 1000u) /* of most reads */

static void all_dead(void **state)
{
    struct tarn_handle *h;
    struct cluster c;
    uint64_t began;

    (void)state;
    cluster_init(&c, 3, soon);
    h = cluster_open(&c);
    for (unsigned i = 0; i < c.n; i++)
        cworker_stop(&c.w[i]);
    began = now_ms();
    assert_int_equal(cluster_read(&c, h, scattered(1), LEN), -TARN_E_NO_WORKER);
    assert_in_range(now_ms() - began, 0, 4000);
    assert_false(tarn_handle_stale(h));
    for (unsigned i = 0; i < c.n; i++)
        c.w[i].state = TARN_WORKER_LOST;
    cluster_publish(&c);
    assert_int_equal(cluster_read(&c, h, scattered(1), LEN), -TARN_E_NO_WORKER);
    for (unsigned i = 0; i < c.n; i++) {
        c.w[i].state = TARN_WORKER_LIVE;
        cworker_start(&c.w[i]);
    }
    cluster_publish(&c);
    for (int rc = -1; rc < 0; rig_run_for(&c.rig, 20 * TARN_NS_PER_MS))
        rc = cluster_read(&c, h, scattered(1), LEN);
    tarn_handle_close(&h);
    cluster_fini(&c);
}

/* A worker that comes back within the time that a read waits for it. */
static void waits_for_a_restart(void **state)
{
    struct tarn_handle *h;
    struct cluster c;
    struct rd rd;

    (void)state;
    cluster_init(&c, 1, NULL);
    h = cluster_open(&c);
    assert_int_equal(cluster_read(&c, h, scattered(1), LEN), 0);
    cworker_stop(&c.w[0]);
    rd_start(&rd, &c.rig, h, scattered(2), LEN);
    rig_run_for(&c.rig, 300 * TARN_NS_PER_MS);
    assert_int_equal(rd.done, 0);
    cworker_start(&c.w[0]);
    assert_int_equal(rd_wait(&rd), 0);
    tarn_handle_close(&h);
    cluster_fini(&c);
}

/* Draining workers still serve when nobody owns anything. */
static void all_draining(void **state)
{
    struct tarn_handle *h;
    struct cluster c;

    (void)state;
    cluster_init(&c, 1, soon);
    h = cluster_open(&c);
    c.w[0].state = TARN_WORKER_DRAINING;
    cluster_publish(&c);
    assert_int_equal(cluster_read(&c, h, scattered(1), LEN), 0);
    tarn_handle_close(&h);
    cluster_fini(&c);
}

/* A worker that drains is asked for what it has before the owner, and for nothing else. */
static void draining_has_it_still(void **state)
{
    struct cworker *leaver, *owner;
    struct cluster c;

    (void)state;
    cluster_init(&c, 3, NULL);
    leaver = cluster_owner(&c, scattered(1), 0);
    leaver->state = TARN_WORKER_DRAINING;
    c.all_owned = true;
    cluster_publish(&c);
    owner = cluster_owner(&c, scattered(1), 0);
    assert_ptr_not_equal(owner, leaver);
    assert_int_equal(read_once(&c, scattered(1), LEN), 0);
    assert_int_equal(leaver->held_only, 1);
    assert_int_equal(owner->reads, 0);
    leaver->uncached = true; /* it has handed that over */
    assert_int_equal(read_once(&c, scattered(1), LEN), 0);
    assert_int_equal(leaver->held_only, 2);
    assert_int_equal(leaver->reads, 2);
    assert_int_equal(owner->reads, 1);
    assert_int_equal(owner->held_only, 0);
    c.all_owned = false; /* all of it */
    cluster_publish(&c);
    assert_int_equal(read_once(&c, scattered(1), LEN), 0);
    assert_int_equal(leaver->reads, 2);
    assert_int_equal(owner->reads, 2);
    cluster_fini(&c);
}

static void deadline_tweak(struct rig *r, struct tarn_client_args *args)
{
    (void)r;
    args->timeout_ns = 600 * TARN_NS_PER_MS;
}

static void ends_by_its_deadline(void **state)
{
    struct tarn_handle *h;
    struct cluster c;
    uint64_t began;

    (void)state;
    cluster_init(&c, 1, deadline_tweak);
    h = cluster_open(&c);
    c.w[0].fault = HANG;
    c.w[0].faults = 100;
    began = now_ms();
    assert_int_equal(cluster_read(&c, h, scattered(1), LEN), -TARN_E_DEADLINE);
    assert_in_range(now_ms() - began, 500, 2500);
    tarn_handle_close(&h);
    cluster_fini(&c);
}

/* ---- the worker inside ----------------------------------------------------------------------- */

struct inside {
    struct tarn_local_ops ops;
    struct tarn_loop *loop;
    bool allowed, hang, cancelled;
    int rc;
    unsigned opened, reads;
    struct tarn_local_read *read;
    struct tarn_task task;
    bool posted;
};

static struct inside inside;

static void *inside_open(void *ctx, const tarn_cid_t *cid, uint64_t length)
{
    struct inside *in = ctx;

    assert_int_equal(cid->b[0], 5);
    assert_int_equal(length, CLUSTER_SIZE);
    in->opened++;
    return in;
}

static void inside_close(void *ctx, void *file)
{
    struct inside *in = ctx;

    assert_ptr_equal(ctx, file);
    in->opened--;
}

static void inside_answer(struct tarn_task *t)
{
    struct inside *in = TARN_CONTAINER(t, struct inside, task);
    struct tarn_local_read *lr = in->read;
    uint32_t half = lr->len_bytes / 2;

    in->posted = false;
    assert_int_equal(lr->locator->cid.data[3], 5); /* still there */
    lr->slice_count = 0;
    for (uint32_t at = 0; in->rc == 0 && !in->cancelled && at < lr->len_bytes;) {
        struct tarn_slice *s = &lr->slices[lr->slice_count++];
        uint32_t n = at == 0 ? half : lr->len_bytes - at;

        *s = (struct tarn_slice){.buf = tarn_buf_new(n + 5), .off = 5, .len = n};
        rig_fill(lr->off_bytes + at, s->buf->p + 5, n);
        at += n;
    }
    lr->source = 2;
    lr->cb(lr, in->cancelled ? -TARN_E_CANCELLED : in->rc);
}

static void inside_post(struct inside *in)
{
    if (!in->posted) {
        in->posted = true;
        tarn_loop_post(in->loop, &in->task, inside_answer);
    }
}

static void inside_read(void *ctx, struct tarn_local_read *lr)
{
    struct inside *in = ctx;

    in->reads++;
    in->read = lr;
    in->cancelled = false;
    if (!in->hang)
        inside_post(in);
}

static void inside_cancel(void *ctx, struct tarn_local_read *lr)
{
    struct inside *in = ctx;

    assert_ptr_equal(in->read, lr);
    in->cancelled = true;
    inside_post(in);
}

static bool inside_ok(void *ctx, uint32_t attachment)
{
    (void)ctx;
    assert_int_equal(attachment, 0);
    return inside.allowed;
}

static void inside_tweak(struct rig *r, struct tarn_client_args *args)
{
    inside = (struct inside){.allowed = true, .loop = r->loop};
    inside.ops = (struct tarn_local_ops){.ctx = &inside,
                                         .open = inside_open,
                                         .close = inside_close,
                                         .read = inside_read,
                                         .cancel = inside_cancel};
    args->direct = &inside.ops;
    args->direct_ok = inside_ok;
    args->no_worker_ns = 300 * TARN_NS_PER_MS;
}

static void the_worker_inside(void **state)
{
    struct tarn_client_counts before;
    struct tarn_handle *h;
    struct cluster c;
    uint64_t began;

    (void)state;
    cluster_init(&c, 2, inside_tweak);
    h = cluster_open(&c);
    assert_int_equal(cluster_read(&c, h, scattered(1), LEN), 0);
    assert_int_equal(inside.reads, 0); /* not while a worker can be reached */
    for (unsigned i = 0; i < c.n; i++)
        cworker_stop(&c.w[i]);
    before = counts_of(&c);
    began = now_ms();
    for (unsigned i = 0; i < 20; i++)
        assert_int_equal(cluster_read(&c, h, scattered(i), LEN), 0);
    assert_in_range(now_ms() - began, 0, 3000);
    assert_int_equal(inside.reads, 20);
    assert_int_equal(counts_of(&c).ufs_bytes - before.ufs_bytes, 20 * LEN);
    assert_int_equal(counts_of(&c).local_reads, before.local_reads);
    inside.rc = -TARN_E_UFS_CHANGED;
    assert_int_equal(cluster_read(&c, h, scattered(1), LEN), -TARN_E_UFS_CHANGED);
    assert_true(tarn_handle_stale(h));
    inside.rc = 0;
    inside.allowed = false;
    assert_int_equal(cluster_read(&c, h, scattered(1), LEN), -TARN_E_NO_WORKER);
    tarn_handle_close(&h);
    cluster_fini(&c);
    assert_int_equal(inside.opened, 0);
}

/* The handle is closed before the worker inside has let go of its read. */
/* A worker that leaves and has it not is nobody who could be asked for it: the store is read. */
static void inside_although_one_leaves(void **state)
{
    struct cworker *leaver;
    struct tarn_handle *h;
    struct cluster c;

    (void)state;
    cluster_init(&c, 3, inside_tweak);
    h = cluster_open(&c);
    leaver = cluster_owner(&c, scattered(1), 0);
    leaver->state = TARN_WORKER_DRAINING;
    leaver->uncached = true;
    c.all_owned = true;
    cluster_publish(&c);
    for (unsigned i = 0; i < c.n; i++)
        if (&c.w[i] != leaver)
            cworker_stop(&c.w[i]);
    assert_int_equal(read_once(&c, scattered(1), LEN), 0);
    assert_int_equal(inside.reads, 1);
    assert_int_equal(leaver->held_only, 1);
    assert_int_equal(read_once(&c, scattered(1), LEN), 0); /* the others are known to be away */
    assert_int_equal(inside.reads, 2);
    assert_int_equal(leaver->held_only, 2);
    inside.allowed = false;
    assert_int_equal(read_once(&c, scattered(1), LEN), -TARN_E_NO_WORKER);
    leaver->uncached = false;
    assert_int_equal(read_once(&c, scattered(1), LEN), 0);
    assert_int_equal(inside.reads, 2);
    tarn_handle_close(&h);
    cluster_fini(&c);
}

static void inside_cancelled(void **state)
{
    struct tarn_handle *h;
    struct cluster c;
    struct rd rd;

    (void)state;
    cluster_init(&c, 1, inside_tweak);
    h = cluster_open(&c);
    cworker_stop(&c.w[0]);
    inside.hang = true;
    rd_start(&rd, &c.rig, h, scattered(1), LEN);
    rig_until(&c.rig, &inside.reads, 1);
    tarn_handle_cancel(&rd.read);
    assert_int_equal(rd_wait(&rd), -TARN_E_CANCELLED);
    tarn_handle_close(&h);
    cluster_fini(&c);
    assert_int_equal(inside.opened, 0);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_dead),
        cmocka_unit_test(waits_for_a_restart),
        cmocka_unit_test(all_draining),
        cmocka_unit_test(draining_has_it_still),
        cmocka_unit_test(ends_by_its_deadline),
        cmocka_unit_test(the_worker_inside),
        cmocka_unit_test(inside_although_one_leaves),
        cmocka_unit_test(inside_cancelled),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
