/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is read ahead from workers: many ranges in flight for a sequential reader, none for others,
 * bytes for any thread, memory within its bound, and the end in every state.
 */
#include "tests/unit/lib/client/cluster_rig.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/limits.h"
#include "tests/unit/turns.h"

#define PIECE (128 * 1024u) /* of most reads, as the kernel asks */

static uint64_t ahead_bytes(const struct cluster *c)
{
    struct tarn_client_counts n;

    tarn_client_counts(c->rig.client, &n);
    return n.ahead_bytes;
}

static uint64_t asked_bytes(const struct cluster *c)
{
    uint64_t n = 0;

    for (unsigned i = 0; i < c->n; i++)
        n += c->w[i].bytes;
    return n;
}

/* Copies what was read ahead; false: it is not all there. */
static bool take(struct tarn_handle *h, uint64_t off, uint32_t len, uint8_t *dst)
{
    struct tarn_slice slices[TARN_SLICES_MAX];
    unsigned n = tarn_handle_try_slices(h, off, len, slices);
    uint32_t got = 0;

    for (unsigned i = 0; i < n; i++) {
        assert_true(got + slices[i].len <= len);
        memcpy(dst + got, slices[i].buf->p + slices[i].off, slices[i].len);
        got += (uint32_t)slices[i].len;
        tarn_buf_unref(&slices[i].buf);
    }
    assert_true(n == 0 || got == len);
    return n > 0;
}

/* As a mount: out of the window if it is there, else by the loop. True: by the loop. */
static bool read_as_mount(struct cluster *c, struct tarn_handle *h, uint64_t off, uint32_t len)
{
    static uint8_t buf[TARN_READ_MAX];
    uint32_t want = (uint32_t)TARN_MIN((uint64_t)len, c->rig.size - off);

    if (!take(h, off, want, buf)) {
        assert_int_equal(cluster_read(c, h, off, len), 0);
        return true;
    }
    assert_true(rig_same(off, buf, want));
    return false;
}

/* A sequential reader of [from, to); returns how many reads went to the loop. */
static unsigned read_all(struct cluster *c, struct tarn_handle *h, uint64_t from, uint64_t to,
                         uint32_t piece)
{
    unsigned misses = 0;

    for (uint64_t off = from; off < to; off += piece) {
        misses += read_as_mount(c, h, off, piece);
        if ((off - from) % (4 * piece) == 0)
            rig_run_for(&c->rig, 1000); /* the loop has other things to do */
    }
    return misses;
}

static void slow_answers(struct cluster *c)
{
    for (unsigned i = 0; i < c->n; i++)
        c->w[i].delay_ns = 5 * TARN_NS_PER_MS;
}

static void sequential_reader(void **state)
{
    struct tarn_handle *h;
    struct cluster c;
    uint64_t from = 40 * MIB, to = 88 * MIB; /* over the border of two segments */

    (void)state;
    cluster_init(&c, 2, NULL);
    slow_answers(&c);
    h = cluster_open(&c);
    read_all(&c, h, from, to, PIECE);
    assert_in_range(c.most_in_flight, 8, 20);
    /* Each byte once, but for the beginning and what was ahead at the end. */
    assert_in_range(asked_bytes(&c), to - from, to - from + 20 * MIB);
    assert_true(cluster_owner(&c, from, 0)->reads > 0 && cluster_owner(&c, to, 0)->reads > 0);
    assert_in_range(ahead_bytes(&c), MIB, 17 * MIB);
    tarn_handle_close(&h);
    rig_run_for(&c.rig, 20 * TARN_NS_PER_MS);
    assert_int_equal(ahead_bytes(&c), 0);
    cluster_fini(&c);
}

/* As `tarn cat`: large reads, several at a time. */
static void large_reads(void **state)
{
    enum { DEPTH = 4 };
    struct tarn_handle *h;
    struct cluster c;
    struct rd rds[DEPTH];
    uint64_t next = 0;

    (void)state;
    cluster_init(&c, 3, NULL);
    slow_answers(&c);
    c.rig.size = 30 * MIB + 12345;
    h = cluster_open(&c);
    for (unsigned i = 0; i < DEPTH; i++, next += MIB)
        rd_start(&rds[i], &c.rig, h, next, (uint32_t)MIB);
    for (unsigned i = 0; next < c.rig.size + DEPTH * MIB; i = (i + 1) % DEPTH, next += MIB) {
        assert_int_equal(rd_wait(&rds[i]), 0);
        if (next < c.rig.size)
            rd_start(&rds[i], &c.rig, h, next, (uint32_t)MIB);
    }
    assert_in_range(c.most_in_flight, 8, 24);
    assert_int_equal(asked_bytes(&c), c.rig.size); /* each once, none beyond the end */
    assert_int_equal(ahead_bytes(&c), 0);
    tarn_handle_close(&h);
    cluster_fini(&c);
}

static void random_reader(void **state)
{
    struct tarn_handle *h;
    struct cluster c;

    (void)state;
    cluster_init(&c, 3, NULL);
    slow_answers(&c);
    h = cluster_open(&c);
    for (unsigned i = 0; i < 50; i++) {
        read_as_mount(&c, h, (uint64_t)(i * 7919 % 997 + 1) * MIB - 4096, 4096);
        assert_int_equal(ahead_bytes(&c), 0);
    }
    assert_int_equal(asked_bytes(&c), 50 * 4096);
    assert_int_equal(c.most_in_flight, 1);
    assert_int_equal(c.w[0].ahead + c.w[1].ahead + c.w[2].ahead, 0);
    /* A window ends with the first read elsewhere, and what is under way with it. */
    read_all(&c, h, 200 * MIB, 206 * MIB, PIECE);
    assert_true(ahead_bytes(&c) > 0);
    read_as_mount(&c, h, 700 * MIB, 4096);
    assert_int_equal(ahead_bytes(&c), 0);
    tarn_handle_close(&h);
    cluster_fini(&c);
}

/* Requests of the kernel come a little out of order; the window stays. */
static void out_of_order(void **state)
{
    struct tarn_handle *h;
    struct cluster c;
    unsigned misses = 0;

    (void)state;
    cluster_init(&c, 2, NULL);
    h = cluster_open(&c);
    for (uint64_t off = 0; off < 32 * MIB; off += 4 * PIECE) {
        static const unsigned order[] = {1, 0, 3, 2};

        for (unsigned k = 0; k < 4; k++)
            misses += read_as_mount(&c, h, off + order[k] * PIECE, PIECE);
        rig_run_for(&c.rig, 3 * TARN_NS_PER_MS);
    }
    assert_in_range(misses, 1, 60); /* of 256 */
    assert_in_range(asked_bytes(&c), 32 * MIB, 52 * MIB);
    tarn_handle_close(&h);
    cluster_fini(&c);
}

/*
 * The kernel's read-ahead for a program that said POSIX_FADV_SEQUENTIAL: four at a time, which pass
 * each other.
 */
static void large_out_of_order(void **state)
{
    static const unsigned order[] = {1, 2, 3, 0};
    uint64_t from = 8 * MIB, to = 40 * MIB;
    struct tarn_handle *h;
    struct cluster c;

    (void)state;
    cluster_init(&c, 2, NULL);
    slow_answers(&c);
    h = cluster_open(&c);
    read_as_mount(&c, h, from - MIB, (uint32_t)MIB);
    for (uint64_t off = from; off < to; off += 4 * MIB)
        for (unsigned i = 0; i < 4; i++) {
            read_as_mount(&c, h, off + order[i] * MIB, (uint32_t)MIB);
            rig_run_for(&c.rig, 1000); /* the loop has other things to do */
        }
    assert_in_range(asked_bytes(&c), to - from, to - from + 18 * MIB);
    tarn_handle_close(&h);
    cluster_fini(&c);
}

static void small_file(void **state)
{
    struct tarn_handle *h;
    struct cluster c;
    struct rd rds[3];
    unsigned asked;

    (void)state;
    cluster_init(&c, 2, NULL);
    slow_answers(&c);
    c.rig.size = MIB - 5;
    h = cluster_open(&c);
    rd_start(&rds[0], &c.rig, h, 300000, 1000); /* anywhere in it */
    rd_start(&rds[1], &c.rig, h, 5, 100000);
    rd_start(&rds[2], &c.rig, h, MIB - 1000, 5000);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(rd_wait(&rds[i]), 0);
    assert_int_equal(rds[2].read.got_bytes, 995);
    assert_int_equal(cluster_reads(&c), 1);
    assert_false(read_as_mount(&c, h, 700000, PIECE));
    assert_int_equal(cluster_reads(&c), 1);
    assert_int_equal(ahead_bytes(&c), MIB - 5);
    tarn_handle_close(&h);
    rig_run_for(&c.rig, 5 * TARN_NS_PER_MS);
    assert_int_equal(ahead_bytes(&c), 0);
    h = cluster_open(&c);
    asked = cluster_reads(&c);
    assert_int_equal(read_all(&c, h, 0, MIB - 5, PIECE), 1);
    assert_int_equal(cluster_reads(&c), asked + 1);
    rig_run_for(&c.rig, 5 * TARN_NS_PER_MS);
    assert_int_equal(ahead_bytes(&c), 0); /* it was read to its end */
    tarn_handle_close(&h);
    cluster_fini(&c);
}

/* The store is asked ahead, but not for what another worker owns. */
static void ahead_of_the_store(void **state)
{
    struct tarn_handle *h;
    struct cluster c;
    struct cworker *w;
    uint64_t end = 3 * TARN_SEGMENT_BYTES;

    (void)state;
    cluster_init(&c, 1, NULL);
    w = &c.w[0];
    h = cluster_open(&c);
    read_all(&c, h, end - 60 * MIB, end - 57 * MIB, PIECE);
    assert_int_equal(w->ahead, 8);
    tarn_handle_close(&h);
    h = cluster_open(&c);
    for (uint64_t off = end - 10 * MIB; off < end; off += 64 * KIB) {
        unsigned before = w->reads;

        assert_int_equal(cluster_read(&c, h, off, 64 * KIB), 0);
        if (w->reads > before && off + 2 * MIB < end) {
            uint64_t last = c.served[c.served_n - 1] / MIB * MIB + MIB; /* its chunk's end */
            uint64_t of = tarn_div_up(last, TARN_SEGMENT_BYTES) * TARN_SEGMENT_BYTES;

            assert_in_range(w->ahead, 0, (of - last) / TARN_UNIT_BYTES);
        }
    }
    tarn_handle_close(&h);
    cluster_fini(&c);
}

/* ---- memory ---------------------------------------------------------------------------------- */

static void small_memory(struct rig *r, struct tarn_client_args *args)
{
    (void)r;
    args->readahead_bytes = 16 * MIB;
}

static void many_handles(void **state)
{
    enum { HANDLES = 64 };
    struct tarn_handle *h[HANDLES];
    struct cluster c;
    uint64_t most = 0;

    (void)state;
    cluster_init(&c, 2, small_memory);
    for (unsigned i = 0; i < HANDLES; i++)
        h[i] = cluster_open(&c);
    for (uint64_t off = 0; off < 2 * MIB; off += 512 * KIB)
        for (unsigned i = 0; i < HANDLES; i++) {
            read_as_mount(&c, h[i], i * 15 * MIB + off, 512 * KIB);
            assert_in_range(ahead_bytes(&c), 0, 16 * MIB);
            most = TARN_MAX(most, ahead_bytes(&c));
        }
    assert_in_range(most, 8 * MIB, 16 * MIB); /* it is made use of */
    for (unsigned i = 0; i < HANDLES; i++)
        tarn_handle_close(&h[i]);
    rig_run_for(&c.rig, 20 * TARN_NS_PER_MS);
    assert_int_equal(ahead_bytes(&c), 0);
    cluster_fini(&c);
}

/* A reader that paused does not keep the memory from another one. */
static void idle_window(void **state)
{
    struct tarn_handle *a, *b;
    struct cluster c;
    unsigned misses;

    (void)state;
    cluster_init(&c, 2, small_memory);
    a = cluster_open(&c);
    b = cluster_open(&c);
    read_all(&c, a, 0, 12 * MIB, PIECE);
    rig_run_for(&c.rig, 20 * TARN_NS_PER_MS);
    assert_int_equal(ahead_bytes(&c), 16 * MIB);
    misses = read_all(&c, b, 100 * MIB, 102 * MIB, PIECE);
    assert_int_equal(misses, 16); /* no room yet */
    rig_run_for(&c.rig, 1100 * TARN_NS_PER_MS);
    misses = read_all(&c, b, 102 * MIB, 118 * MIB, PIECE);
    assert_in_range(misses, 0, 40); /* of 128 */
    assert_in_range(ahead_bytes(&c), 1, 16 * MIB);
    read_all(&c, a, 12 * MIB, 14 * MIB, PIECE); /* it goes on all the same */
    tarn_handle_close(&a);
    tarn_handle_close(&b);
    cluster_fini(&c);
}

/* ---- other threads --------------------------------------------------------------------------- */

struct reader {
    pthread_t thread;
    struct cluster *c;
    struct tarn_handle *h;
    uint64_t from, to, step; /* several readers of one handle take turns */
    struct tarn_mtx mtx;
    struct tarn_cond cond;
    bool answered;
    int rc;
    bool wrong;
    unsigned hits, misses;
    _Atomic unsigned *done;
};

static void reader_cb(struct tarn_read *r, int rc)
{
    struct reader *rd = r->arg;
    uint64_t at = r->off_bytes;

    for (unsigned i = 0; i < r->slice_count; i++) {
        const struct tarn_slice *slice = &r->slices[i];

        rd->wrong |= !rig_same(at, slice->buf->p + slice->off, slice->len);
        at += slice->len;
    }
    tarn_mtx_lock(&rd->mtx);
    rd->answered = true;
    rd->rc = rc;
    tarn_cond_signal(&rd->cond);
    tarn_mtx_unlock(&rd->mtx);
}

static void *reader_run(void *arg)
{
    struct reader *rd = arg;
    uint8_t *buf = malloc(PIECE);

    for (uint64_t off = rd->from; off < rd->to && rd->rc == 0; off += rd->step) {
        if (take(rd->h, off, PIECE, buf)) {
            rd->hits++;
            rd->wrong |= !rig_same(off, buf, PIECE);
        } else {
            struct tarn_read r = {
                .handle = rd->h, .off_bytes = off, .len_bytes = PIECE, .cb = reader_cb, .arg = rd};

            rd->misses++;
            rd->answered = false;
            tarn_handle_read(&r);
            tarn_mtx_lock(&rd->mtx);
            while (!rd->answered)
                tarn_cond_wait(&rd->cond, &rd->mtx);
            tarn_mtx_unlock(&rd->mtx);
        }
    }
    free(buf);
    if (rd->step == PIECE)
        tarn_handle_close(&rd->h);
    atomic_fetch_add(rd->done, 1);
    return NULL;
}

/* Four readers with handles of their own, closed on their threads, and two that share one. */
static void threads(void **state)
{
    enum { READERS = 6 };
    struct reader rd[READERS] = {0};
    struct tarn_handle *shared;
    _Atomic unsigned done = 0;
    unsigned hits = 0;
    struct cluster c;

    (void)state;
    cluster_init(&c, 3, NULL);
    shared = cluster_open(&c);
    for (unsigned i = 0; i < READERS; i++) {
        bool share = i >= 4;

        rd[i].c = &c;
        rd[i].h = share ? shared : cluster_open(&c);
        rd[i].from = share ? 500 * MIB + (i - 4) * PIECE : i * 50 * MIB;
        rd[i].to = rd[i].from + 10 * MIB;
        rd[i].step = share ? 2 * PIECE : PIECE;
        rd[i].done = &done;
        tarn_mtx_init(&rd[i].mtx, TARN_RANK_LEAF);
        tarn_cond_init(&rd[i].cond);
        assert_int_equal(pthread_create(&rd[i].thread, NULL, reader_run, &rd[i]), 0);
    }
    while (atomic_load(&done) < READERS)
        rig_run_for(&c.rig, TARN_NS_PER_MS);
    for (unsigned i = 0; i < READERS; i++) {
        assert_int_equal(pthread_join(rd[i].thread, NULL), 0);
        assert_int_equal(rd[i].rc, 0);
        assert_false(rd[i].wrong);
        hits += rd[i].hits;
        tarn_mtx_fini(&rd[i].mtx);
        tarn_cond_fini(&rd[i].cond);
    }
    assert_true(hits > 50);
    tarn_handle_close(&shared);
    cluster_fini(&c);
}

/* ---- the end, in every state ----------------------------------------------------------------- */

static void hang_all(struct cluster *c)
{
    for (unsigned i = 0; i < c->n; i++) {
        c->w[i].fault = HANG;
        c->w[i].faults = 1000;
    }
}

static void release_all(struct cluster *c)
{
    for (unsigned i = 0; i < c->n; i++)
        cworker_release(&c->w[i]);
}

/* A reader waits for a chunk while another read ends the window. */
static void waits_through_the_end(void **state)
{
    struct tarn_handle *h;
    struct cluster c;
    struct rd waits, gives_up, elsewhere;

    (void)state;
    for (unsigned answered = 0; answered < 2; answered++) {
        cluster_init(&c, 1, NULL);
        h = cluster_open(&c);
        read_all(&c, h, 0, MIB / 2, PIECE);
        rig_run_for(&c.rig, 20 * TARN_NS_PER_MS);
        hang_all(&c);
        read_all(&c, h, MIB / 2, 2 * MIB, PIECE); /* those that came already */
        rd_start(&waits, &c.rig, h, 2 * MIB + MIB / 2, PIECE);
        rd_start(&gives_up, &c.rig, h, 2 * MIB + MIB / 2 + PIECE, PIECE);
        rig_run_for(&c.rig, 20 * TARN_NS_PER_MS);
        assert_int_equal(waits.done, 0);
        rd_start(&elsewhere, &c.rig, h, 800 * MIB, PIECE);
        rig_run_for(&c.rig, 20 * TARN_NS_PER_MS);
        tarn_handle_cancel(&gives_up.read);
        assert_int_equal(rd_wait(&gives_up), -TARN_E_CANCELLED);
        assert_int_equal(waits.done, 0);
        if (answered) {
            release_all(&c);
            assert_int_equal(rd_wait(&waits), 0);
            assert_int_equal(rd_wait(&elsewhere), 0);
        } else {
            tarn_handle_cancel(&elsewhere.read);
            tarn_handle_cancel(&waits.read);
            assert_int_equal(rd_wait(&waits), -TARN_E_CANCELLED);
            assert_int_equal(rd_wait(&elsewhere), -TARN_E_CANCELLED);
        }
        assert_int_equal(ahead_bytes(&c), 0);
        tarn_handle_close(&h);
        cluster_fini(&c);
    }
}

/* Closed, or the client stopped, after any number of reads and turns. */
static void closed_anywhere(void **state)
{
    struct tarn_handle *h;
    struct cluster c;
    struct rd rd;

    (void)state;
    for (unsigned i = 0; i < 40; i++) {
        bool stop = i % 4 == 3;

        cluster_init(&c, 2, NULL);
        c.w[i % 2].delay_ns = i % 3 * 2 * TARN_NS_PER_MS;
        h = cluster_open(&c);
        for (uint64_t off = 0; off < i % 9 * PIECE; off += PIECE)
            read_as_mount(&c, h, off, PIECE);
        if (i % 5 == 0)
            hang_all(&c);
        rd_start(&rd, &c.rig, h, i % 9 * PIECE, PIECE);
        for (unsigned k = 0; k < i % 7; k++)
            rig_run_for(&c.rig, 200 * 1000);
        if (stop) {
            cluster_stop_client(&c);
        } else if (!rd.done) {
            tarn_handle_cancel(&rd.read);
            (void)rd_wait(&rd);
        }
        assert_int_equal(rd.done, 1);
        assert_false(rd.wrong);
        tarn_handle_close(&h);
        if (i % 2)
            rig_run_for(&c.rig, 3 * TARN_NS_PER_MS);
        cluster_fini(&c);
    }
}

/* What fails ahead of the reader is its own matter when it comes there. */
static void failures_ahead(void **state)
{
    struct tarn_handle *h;
    struct cluster c;

    (void)state;
    cluster_init(&c, 1, NULL);
    h = cluster_open(&c);
    read_all(&c, h, 0, MIB / 2, PIECE);
    rig_run_for(&c.rig, 20 * TARN_NS_PER_MS);
    c.w[0].fault = FAIL;
    c.w[0].faults = 1000;
    c.w[0].rc = -TARN_E_UFS_STALLED;
    read_all(&c, h, MIB / 2, 2 * MIB, PIECE); /* came before */
    rig_run_for(&c.rig, 20 * TARN_NS_PER_MS);
    assert_int_equal(cluster_read(&c, h, 4 * MIB - PIECE, PIECE), -TARN_E_UFS_STALLED);
    c.w[0].faults = 0;
    read_all(&c, h, 4 * MIB - PIECE, 10 * MIB, PIECE);
    assert_false(tarn_handle_stale(h));
    c.w[0].fault = FAIL;
    c.w[0].faults = 1000;
    c.w[0].rc = -TARN_E_UFS_CHANGED;
    c.w[0].reads = 0;
    for (uint64_t off = 10 * MIB; !tarn_handle_stale(h); off += PIECE) {
        struct rd rd;

        rd_start(&rd, &c.rig, h, off, PIECE);
        (void)rd_wait(&rd);
        assert_true(rd.rc == 0 || rd.rc == -TARN_E_UFS_CHANGED);
    }
    assert_in_range(c.w[0].reads, 1, 100); /* what failed was not asked for with each read */
    tarn_handle_close(&h);
    cluster_fini(&c);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sequential_reader),     cmocka_unit_test(large_reads),
        cmocka_unit_test(random_reader),         cmocka_unit_test(out_of_order),
        cmocka_unit_test(large_out_of_order),    cmocka_unit_test(small_file),
        cmocka_unit_test(ahead_of_the_store),    cmocka_unit_test(many_handles),
        cmocka_unit_test(idle_window),           cmocka_unit_test(threads),
        cmocka_unit_test(waits_through_the_end), cmocka_unit_test(closed_anywhere),
        cmocka_unit_test(failures_ahead),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
