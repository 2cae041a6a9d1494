/* SPDX-License-Identifier: Apache-2.0 */
/* Reads of handles by RPC: one LOCATE for all, checksums, versions, cancels, closes. */
#include "tests/unit/lib/client/client_rig.h"

#include <string.h>

static struct tarn_handle *open_file(struct rig *r)
{
    struct tarn_attr a = rig_attr();

    return tarn_handle_open(r->client, &a);
}

static void one_locate_for_many(void **state)
{
    struct tarn_handle *h;
    struct rd rds[20];
    struct rig r;

    (void)state;
    rig_init(&r, NULL);
    h = open_file(&r);
    r.hold_locate = true;
    for (unsigned i = 0; i < 20; i++)
        rd_start(&rds[i], &r, h, i * 15000, 15000);
    rig_until(&r, &r.held_n, 1);
    rig_release(&r);
    for (unsigned i = 0; i < 20; i++) {
        assert_int_equal(rd_wait(&rds[i]), 0);
        assert_int_equal(rds[i].read.got_bytes, 15000);
    }
    assert_int_equal(r.locates, 1);
    tarn_handle_close(&h);
    rig_fini(&r);
}

static void ends_of_the_file(void **state)
{
    struct tarn_handle *h;
    struct rig r;
    struct rd rd;
    uint8_t b[8];

    (void)state;
    rig_init(&r, NULL);
    h = open_file(&r);
    rd_start(&rd, &r, h, RIG_SIZE - 10, 100);
    assert_int_equal(rd_wait(&rd), 0);
    assert_int_equal(rd.read.got_bytes, 10);
    rd_start(&rd, &r, h, RIG_SIZE, 100);
    assert_int_equal(rd_wait(&rd), 0);
    assert_int_equal(rd.read.got_bytes, 0);
    rd_start(&rd, &r, h, UINT64_MAX, 100);
    assert_int_equal(rd_wait(&rd), 0);
    rd_start(&rd, &r, h, 5, 0);
    assert_int_equal(rd_wait(&rd), 0);
    assert_int_equal(rd.read.got_bytes, 0);
    assert_int_equal(r.reads, 1);
    assert_int_equal(tarn_handle_try_read(h, 0, 8, b), -TARN_E_NOT_CACHED);
    assert_int_equal(tarn_handle_try_read(h, RIG_SIZE, 8, b), 0);
    assert_true(tarn_handle_cached(h) == UINT64_MAX);
    tarn_handle_close(&h);
    rig_fini(&r);
}

/* Turns the loop until no call of the session is under way. */
static void session_idle(struct rig *r)
{
    while (r->client->session_busy)
        rig_run_for(r, TARN_NS_PER_MS);
}

/* Each session tells what was read in it; the end tells what was not told yet. */
static void reads_are_told(void **state)
{
    struct tarn_handle *h;
    unsigned renewed;
    struct rig r;
    struct rd rd;

    (void)state;
    rig_init(&r, NULL);
    h = open_file(&r);
    rd_start(&rd, &r, h, 0, 70000);
    assert_int_equal(rd_wait(&rd), 0);
    renewed = r.renewed;
    rig_until(&r, &r.renewed, renewed + 2);
    assert_int_equal(r.told[1], 70000);
    session_idle(&r); /* that is answered */
    tarn_rpc_session_close(r.session);
    rig_until(&r, &r.opened, 2);
    session_idle(&r);
    rd_start(&rd, &r, h, 0, 5000);
    assert_int_equal(rd_wait(&rd), 0);
    tarn_handle_close(&h);
    rig_fini(&r);
    assert_int_equal(r.told[1], 70000);
    assert_int_equal(r.told[2], 5000);
}

/* The stop comes while a renewal is under way: the end is told by the same request, once more. */
static void stopped_while_it_tells(void **state)
{
    struct tarn_handle *h;
    struct rig r;
    struct rd rd;

    (void)state;
    rig_init(&r, NULL);
    h = open_file(&r);
    session_idle(&r);
    r.hold_renew = true;
    rig_until(&r, &r.held_n, 1);
    rd_start(&rd, &r, h, 0, 70000);
    assert_int_equal(rd_wait(&rd), 0);
    tarn_handle_close(&h);
    rig_fini(&r);
    assert_int_equal(r.told[1], 70000);
}

/* A damaged answer is asked for once more; one that stays damaged is an error, never bytes. */
static void damaged_answers(void **state)
{
    struct tarn_handle *h;
    struct rig r;
    struct rd rd;

    (void)state;
    rig_init(&r, NULL);
    h = open_file(&r);
    r.spoil = 1;
    rd_start(&rd, &r, h, 70000, 100000);
    assert_int_equal(rd_wait(&rd), 0);
    assert_int_equal(rd.read.got_bytes, 100000);
    assert_int_equal(r.reads, 2);
    r.spoil = 100;
    rd_start(&rd, &r, h, 0, 1000);
    assert_int_equal(rd_wait(&rd), -TARN_E_GRANULE_SUM);
    assert_int_equal(rd.read.slice_count, 0);
    assert_int_equal(r.reads, 4);
    assert_false(tarn_handle_stale(h));
    tarn_handle_close(&h);
    rig_fini(&r);
}

/* The bytes that the master names are not those of the version that was opened. */
static void located_another_version(void **state)
{
    struct tarn_handle *h;
    struct rig r;
    struct rd rd;

    (void)state;
    rig_init(&r, NULL);
    h = open_file(&r);
    r.locate_cid = 6;
    rd_start(&rd, &r, h, 0, 1000);
    assert_int_equal(rd_wait(&rd), -TARN_E_STALE);
    assert_int_equal(r.reads, 0);
    assert_true(tarn_handle_stale(h));
    tarn_handle_close(&h);
    rig_fini(&r);
}

static void locate_fails(void **state)
{
    struct tarn_handle *h;
    struct rd rds[3];
    struct rig r;

    (void)state;
    rig_init(&r, NULL);
    h = open_file(&r);
    r.locate_rc = -TARN_E_DENIED;
    for (unsigned i = 0; i < 3; i++)
        rd_start(&rds[i], &r, h, i, 1);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(rd_wait(&rds[i]), -TARN_E_DENIED);
    r.locate_rc = 0; /* not remembered */
    rd_start(&rds[0], &r, h, 0, 1);
    assert_int_equal(rd_wait(&rds[0]), 0);
    assert_int_equal(r.locates, 2);
    tarn_handle_close(&h);
    rig_fini(&r);
}

static void cancelled_reads(void **state)
{
    struct tarn_handle *h;
    struct rd rds[3];
    struct rig r;

    (void)state;
    rig_init(&r, NULL);
    h = open_file(&r);
    r.hold_locate = true;
    rd_start(&rds[0], &r, h, 0, 100); /* before the loop saw it */
    tarn_handle_cancel(&rds[0].read);
    assert_int_equal(rd_wait(&rds[0]), -TARN_E_CANCELLED);
    rd_start(&rds[1], &r, h, 0, 100);
    rd_start(&rds[2], &r, h, 100, 100);
    rig_until(&r, &r.held_n, 1);
    tarn_handle_cancel(&rds[1].read); /* while it is located */
    tarn_handle_cancel(&rds[1].read);
    assert_int_equal(rds[1].done, 0);
    assert_int_equal(rd_wait(&rds[1]), -TARN_E_CANCELLED);
    assert_int_equal(rds[2].done, 0);
    rig_release(&r);
    assert_int_equal(rd_wait(&rds[2]), 0);
    tarn_handle_close(&h);
    rig_fini(&r);
}

/* All readers gave up, the handle is closed, and only then comes the answer. */
static void closed_while_located(void **state)
{
    struct tarn_handle *h;
    struct rig r;
    struct rd rd;

    (void)state;
    for (int answered = 0; answered < 2; answered++) {
        rig_init(&r, NULL);
        h = open_file(&r);
        r.hold_locate = true;
        rd_start(&rd, &r, h, 0, 100);
        rig_until(&r, &r.held_n, 1);
        tarn_handle_cancel(&rd.read);
        assert_int_equal(rd_wait(&rd), -TARN_E_CANCELLED);
        tarn_handle_close(&h);
        rig_run_for(&r, 5 * TARN_NS_PER_MS);
        if (answered)
            rig_release(&r);
        rig_fini(&r);
    }
}

/* ---- the short circuit -------------------------------------------------------------------------
 */

struct fake {
    uint64_t have; /* bytes that try_read has, from the front */
    uint32_t ahead[64];
    unsigned reads, opened;
    struct tarn_local_read *last;
    struct tarn_task task;
    struct tarn_loop *loop;
};

static void *fake_open(void *ctx, const tarn_cid_t *cid, uint64_t length)
{
    struct fake *f = ctx;

    assert_int_equal(cid->b[3], 5);
    assert_int_equal(length, RIG_SIZE);
    f->opened++;
    return f;
}

static void fake_close(void *ctx, void *file)
{
    struct fake *f = ctx;

    assert_ptr_equal(f, file);
    f->opened--;
}

static int64_t fake_try_read(void *ctx, void *file, uint64_t off, uint32_t len, void *dst)
{
    struct fake *f = ctx;

    (void)file;
    if (off + len > f->have)
        return -TARN_E_NOT_CACHED;
    for (uint32_t i = 0; i < len; i++)
        ((uint8_t *)dst)[i] = rig_byte(off + i);
    return len;
}

static uint64_t fake_cached(void *ctx, void *file)
{
    (void)file;
    return ((struct fake *)ctx)->have;
}

static void fake_answer(struct tarn_task *t)
{
    struct fake *f = TARN_CONTAINER(t, struct fake, task);
    struct tarn_local_read *lr = f->last;

    lr->slices[0].buf = tarn_buf_new(lr->len_bytes);
    lr->slices[0].off = 0;
    lr->slices[0].len = lr->len_bytes;
    for (uint32_t i = 0; i < lr->len_bytes; i++)
        lr->slices[0].buf->p[i] = rig_byte(lr->off_bytes + i);
    lr->slice_count = 1;
    lr->source = 2;
    lr->cb(lr, 0);
}

static void fake_read(void *ctx, struct tarn_local_read *lr)
{
    struct fake *f = ctx;

    f->ahead[f->reads++ % 64] = lr->ahead_units;
    f->last = lr;
    tarn_loop_post(f->loop, &f->task, fake_answer);
}

static void fake_cancel(void *ctx, struct tarn_local_read *lr)
{
    (void)ctx;
    (void)lr;
}

/* Reading ahead grows although most reads of a sequential reader are hits. */
static void ahead_over_hits(void **state)
{
    struct fake f = {0};
    struct tarn_local_ops ops = {.ctx = &f,
                                 .open = fake_open,
                                 .close = fake_close,
                                 .try_read = fake_try_read,
                                 .cached = fake_cached,
                                 .read = fake_read,
                                 .cancel = fake_cancel};
    struct tarn_client_counts counts;
    struct tarn_handle *h;
    uint8_t buf[1000];
    struct rig r;
    struct rd rd;

    (void)state;
    rig_init(&r, &ops);
    f.loop = r.loop;
    h = open_file(&r);
    for (uint64_t off = 0; off < 200000; off += 1000) {
        int64_t n = tarn_handle_try_read(h, off, 1000, buf);

        if (n == -TARN_E_NOT_CACHED) {
            rd_start(&rd, &r, h, off, 1000);
            assert_int_equal(rd_wait(&rd), 0);
            f.have = off + 50000;
        } else {
            assert_int_equal(n, 1000);
            assert_int_equal(buf[999], rig_byte(off + 999));
        }
    }
    assert_int_equal(f.reads, 4);
    for (unsigned i = 1; i < 4; i++)
        assert_int_equal(f.ahead[i], 2 * f.ahead[i - 1]);
    rd_start(&rd, &r, h, 2000000, 1000); /* elsewhere */
    assert_int_equal(rd_wait(&rd), 0);
    assert_int_equal(f.ahead[4], 0);
    tarn_client_counts(r.client, &counts);
    assert_int_equal(counts.ufs_bytes, 5000);
    assert_int_equal(counts.local_bytes, 196000);
    tarn_handle_close(&h);
    rig_fini(&r);
    assert_int_equal(f.opened, 0);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_locate_for_many), cmocka_unit_test(ends_of_the_file),
        cmocka_unit_test(damaged_answers),     cmocka_unit_test(located_another_version),
        cmocka_unit_test(locate_fails),        cmocka_unit_test(cancelled_reads),
        cmocka_unit_test(reads_are_told),      cmocka_unit_test(closed_while_located),
        cmocka_unit_test(ahead_over_hits),     cmocka_unit_test(stopped_while_it_tells),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
