/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "lib/base/env.h"
#include "lib/base/err.h"
#include "lib/base/fault.h"
#include "lib/base/mem.h"
#include "lib/disk/disk.h"
#include "lib/disk/probe.h"

#define MIB (1u << 20)

/* Each test runs on the pool and on the simulated disk, unless its table says otherwise. */
struct fix {
    struct tarn_loop *l; /* where callbacks run */
    struct tarn_disk *d; /* under test */
    bool sim;            /* which */
    int fd;              /* an empty file without a name */
    unsigned left;       /* callbacks to come; the last stops the loop */
    unsigned order;      /* callbacks so far */
};

static struct fix *fix_new(bool sim)
{
    char path[] = "/tmp/tarn-disk-XXXXXX";
    struct fix *f = tarn_xnew(struct fix);

    f->sim = sim;
    f->fd = mkstemp(path);
    assert_true(f->fd >= 0);
    assert_int_equal(unlink(path), 0);
    return f;
}

static int setup_pool(void **state)
{
    struct fix *f = fix_new(false);

    assert_int_equal(tarn_loop_new(&f->l), 0);
    assert_int_equal(tarn_disk_pool_new(4, &f->d), 0);
    *state = f;
    return 0;
}

static int setup_sim(void **state)
{
    const struct tarn_disk_sim_args args = {.seed = 3, .delay_ns_max = TARN_NS_PER_MS};
    struct fix *f = fix_new(true);

    f->l = tarn_loop_sim_new(1);
    f->d = tarn_disk_sim_new(f->l, &args);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fix *f = *state;

    tarn_fault_reset();
    tarn_disk_free(&f->d);
    assert_null(f->d);
    tarn_disk_free(&f->d);
    tarn_loop_free(&f->l);
    assert_int_equal(close(f->fd), 0);
    free(f);
    return 0;
}

#define TEST_POOL(t)                                                                               \
    {                                                                                              \
#t " on the pool", t, setup_pool, teardown, NULL                                           \
    }
#define TEST_SIM(t)                                                                                \
    {                                                                                              \
#t " on sim", t, setup_sim, teardown, NULL                                                 \
    }
#define TEST_BOTH(t) TEST_POOL(t), TEST_SIM(t)

static void done_cb(struct tarn_disk_io *io)
{
    struct fix *f = io->arg;

    tarn_loop_assert_mine(f->l);
    assert_true(f->left > 0);
    f->order++;
    if (--f->left == 0)
        tarn_loop_stop(f->l);
}

static struct tarn_disk_io io_of(struct fix *f, enum tarn_disk_op op, void *data, uint32_t len,
                                 uint64_t off)
{
    return (struct tarn_disk_io){.loop = f->l,
                                 .op = op,
                                 .fd = f->fd,
                                 .off_bytes = off,
                                 .data = data,
                                 .len_bytes = len,
                                 .rc = 1,
                                 .cb = done_cb,
                                 .arg = f};
}

static int64_t run_one(struct fix *f, struct tarn_disk_io *io)
{
    f->left = 1;
    tarn_disk_submit(f->d, io);
    assert_int_equal(f->left, 1); /* never inside */
    tarn_loop_run(f->l);
    assert_int_equal(f->left, 0);
    return io->rc;
}

static int64_t run_op(struct fix *f, enum tarn_disk_op op, void *data, uint32_t len, uint64_t off)
{
    struct tarn_disk_io io = io_of(f, op, data, len, off);

    return run_one(f, &io);
}

static void test_write_sync_read(void **state)
{
    struct fix *f = *state;
    uint8_t *out = tarn_xcalloc(1, MIB), *in = tarn_xcalloc(1, MIB);

    for (size_t i = 0; i < MIB; i++)
        out[i] = (uint8_t)(i % 253);
    assert_int_equal(run_op(f, TARN_DISK_WRITE, out, MIB, 4096), 0);
    assert_int_equal(run_op(f, TARN_DISK_SYNC, NULL, 0, 0), 0);
    assert_int_equal(run_op(f, TARN_DISK_READ, in, MIB, 4096), MIB);
    assert_memory_equal(in, out, MIB);
    assert_int_equal(run_op(f, TARN_DISK_READ, in, MIB, MIB), 4096); /* up to the end */
    assert_memory_equal(in, out + MIB - 4096, 4096);
    assert_int_equal(run_op(f, TARN_DISK_READ, in, 10, 8 * MIB), 0); /* behind it */
    assert_int_equal(run_op(f, TARN_DISK_READ, NULL, 0, 0), 0);
    assert_int_equal(run_op(f, TARN_DISK_WRITE, NULL, 0, 0), 0);
    free(out);
    free(in);
}

static void test_errors(void **state)
{
    struct fix *f = *state;
    int fd = open("/dev/full", O_RDWR), good = f->fd;
    char b[8] = {0};

    assert_true(fd >= 0);
    f->fd = fd;
    assert_int_equal(run_op(f, TARN_DISK_WRITE, b, 8, 0), -ENOSPC);
    assert_int_equal(run_op(f, TARN_DISK_SYNC, NULL, 0, 0), -EINVAL);
    f->fd = -1;
    assert_int_equal(run_op(f, TARN_DISK_READ, b, 8, 0), -EBADF);
    assert_int_equal(run_op(f, TARN_DISK_WRITE, b, 8, 0), -EBADF);
    assert_int_equal(run_op(f, TARN_DISK_SYNC, NULL, 0, 0), -EBADF);
    f->fd = good;
    assert_int_equal(close(fd), 0);
}

static void test_faults(void **state)
{
    struct fix *f = *state;
    char b[8] = "abcdefg";

    tarn_fault_arm(TARN_FAULT_disk_write, 1, 1, -EIO);
    assert_int_equal(run_op(f, TARN_DISK_WRITE, b, 8, 0), 0);
    assert_int_equal(run_op(f, TARN_DISK_WRITE, b, 8, 0), -EIO);
    assert_int_equal(run_op(f, TARN_DISK_WRITE, b, 8, 0), 0);
    tarn_fault_arm(TARN_FAULT_disk_read, 0, 1, -TARN_E_NO_MEMORY);
    assert_int_equal(run_op(f, TARN_DISK_READ, b, 8, 0), -TARN_E_NO_MEMORY);
    assert_int_equal(run_op(f, TARN_DISK_READ, b, 8, 0), 8);
    tarn_fault_arm(TARN_FAULT_disk_sync, 0, 1, -EIO);
    assert_int_equal(run_op(f, TARN_DISK_SYNC, NULL, 0, 0), -EIO);
    assert_int_equal(run_op(f, TARN_DISK_SYNC, NULL, 0, 0), 0);
}

/* ---- work ------------------------------------------------------------------------------------ */

struct job {
    struct tarn_disk_io io; /* first */
    unsigned nr;            /* in order of submitting */
    pthread_t who;          /* ran it */
};

static _Atomic unsigned jobs_run;

static void job_work(struct tarn_disk_io *io)
{
    struct job *j = TARN_CONTAINER(io, struct job, io);

    j->who = pthread_self();
    io->rc = (int64_t)atomic_fetch_add(&jobs_run, 1);
}

static void job_slow_work(struct tarn_disk_io *io)
{
    const struct timespec ms = {.tv_nsec = 1000000};

    (void)nanosleep(&ms, NULL);
    job_work(io);
}

static struct job *jobs_submit(struct fix *f, unsigned n, tarn_disk_fn *work)
{
    struct job *j = tarn_xcalloc(n, sizeof(*j));

    atomic_store(&jobs_run, 0);
    f->left = n;
    for (unsigned i = 0; i < n; i++) {
        j[i].io = io_of(f, TARN_DISK_CALL, NULL, 0, 0);
        j[i].io.work = work;
        j[i].nr = i;
        tarn_disk_submit(f->d, &j[i].io);
    }
    return j;
}

static void test_calls(void **state)
{
    struct fix *f = *state;
    struct job *j = jobs_submit(f, 1000, job_work);
    bool seen[1000] = {false};

    tarn_loop_run(f->l);
    assert_int_equal(f->left, 0);
    for (unsigned i = 0; i < 1000; i++) {
        assert_in_range(j[i].io.rc, 0, 999);
        assert_false(seen[j[i].io.rc]); /* each ran once */
        seen[j[i].io.rc] = true;
        assert_int_equal(pthread_equal(j[i].who, pthread_self()) != 0, f->sim);
    }
    free(j);
}

static void test_one_thread_is_first_in_first_out(void **state)
{
    struct fix *f = *state;
    struct job *j;

    tarn_disk_free(&f->d);
    assert_int_equal(tarn_disk_pool_new(1, &f->d), 0);
    j = jobs_submit(f, 500, job_work);
    tarn_loop_run(f->l);
    for (unsigned i = 0; i < 500; i++)
        assert_int_equal(j[i].io.rc, i);
    free(j);
}

static void test_free_while_busy(void **state)
{
    struct fix *f = *state;
    struct job *j = jobs_submit(f, 60, job_slow_work);

    tarn_disk_free(&f->d);
    assert_int_equal(atomic_load(&jobs_run), 60); /* all were done */
    assert_int_equal(f->left, 60);                /* and wait on the loop */
    tarn_loop_run(f->l);
    assert_int_equal(f->left, 0);
    free(j);
}

/* A callback submits the same request again; the loop is freed with nothing under way. */
static void again_cb(struct tarn_disk_io *io)
{
    struct fix *f = io->arg;

    assert_int_equal(io->rc, f->order);
    if (++f->order < 100)
        tarn_disk_submit(f->d, io);
    else
        tarn_loop_stop(f->l);
}

static void test_submit_again_in_the_callback(void **state)
{
    struct fix *f = *state;
    struct job j = {.io = io_of(f, TARN_DISK_CALL, NULL, 0, 0)};

    atomic_store(&jobs_run, 0);
    j.io.work = job_work;
    j.io.cb = again_cb;
    tarn_disk_submit(f->d, &j.io);
    tarn_loop_run(f->l);
    assert_int_equal(f->order, 100);
}

/* Several threads submit at once: the tests' stand-ins for FUSE threads. */
struct submitter {
    struct fix *f;             /* whose pool */
    struct tarn_disk_io w[50]; /* its writes */
    uint8_t data[50];          /* one byte each */
    uint64_t base;             /* offset of the first */
};

static void *submitter_thread(void *arg)
{
    struct submitter *s = arg;

    for (unsigned i = 0; i < 50; i++) {
        s->data[i] = (uint8_t)(s->base + i);
        s->w[i] = io_of(s->f, TARN_DISK_WRITE, &s->data[i], 1, s->base + i);
        tarn_disk_submit(s->f->d, &s->w[i]);
    }
    return NULL;
}

static void test_many_submitters(void **state)
{
    struct fix *f = *state;
    struct submitter *s = tarn_xcalloc(4, sizeof(*s));
    pthread_t t[4];
    uint8_t all[200];

    f->left = 200;
    for (unsigned i = 0; i < 4; i++) {
        s[i].f = f;
        s[i].base = 50 * i;
        assert_int_equal(pthread_create(&t[i], NULL, submitter_thread, &s[i]), 0);
    }
    tarn_loop_run(f->l);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(pthread_join(t[i], NULL), 0);
    assert_int_equal(run_op(f, TARN_DISK_READ, all, 200, 0), 200);
    for (unsigned i = 0; i < 200; i++)
        assert_int_equal(all[i], i);
    free(s);
}

/* ---- the simulated disk ---------------------------------------------------------------------- */

static void test_sim_fails_and_tears(void **state)
{
    const struct tarn_disk_sim_args args = {.seed = 8, .eio_per_mille = 1000};
    struct fix *f = *state;
    bool none = false, part = false;
    uint8_t data[100], got[100];

    tarn_disk_free(&f->d);
    f->d = tarn_disk_sim_new(f->l, &args);
    memset(data, 'x', sizeof(data));
    assert_int_equal(run_op(f, TARN_DISK_READ, got, 100, 0), -EIO);
    assert_int_equal(run_op(f, TARN_DISK_SYNC, NULL, 0, 0), -EIO);
    for (int i = 0; i < 300 && !(none && part); i++) {
        ssize_t n;

        assert_int_equal(ftruncate(f->fd, 0), 0);
        assert_int_equal(run_op(f, TARN_DISK_WRITE, data, 100, 0), -EIO);
        n = pread(f->fd, got, sizeof(got), 0);
        assert_in_range(n, 0, 100);
        assert_memory_equal(got, data, (size_t)n);
        none = none || n == 0;
        part = part || (n > 0 && n < 100);
    }
    assert_true(none && part);
}

static void sim_order(uint64_t seed, unsigned eio, int64_t ret[200])
{
    const struct tarn_disk_sim_args args = {
        .seed = seed, .delay_ns_max = 1000, .eio_per_mille = eio};
    struct fix *f = fix_new(true);
    struct tarn_disk_io sync[100];
    struct job *j;

    f->l = tarn_loop_sim_new(1);
    f->d = tarn_disk_sim_new(f->l, &args);
    j = jobs_submit(f, 100, job_work);
    f->left += 100;
    for (unsigned i = 0; i < 100; i++) {
        sync[i] = io_of(f, TARN_DISK_SYNC, NULL, 0, 0);
        tarn_disk_submit(f->d, &sync[i]);
    }
    tarn_loop_run(f->l);
    assert_int_equal(f->left, 0);
    for (unsigned i = 0; i < 100; i++) {
        ret[i] = j[i].io.rc;
        ret[100 + i] = sync[i].rc;
    }
    free(j);
    assert_int_equal(teardown((void **)&f), 0);
}

static void test_sim_follows_its_seed(void **state)
{
    int64_t a[200], b[200], c[200];
    unsigned failed = 0;

    (void)state;
    sim_order(1, 500, a);
    sim_order(1, 500, b);
    sim_order(2, 500, c);
    assert_memory_equal(a, b, sizeof(a));
    assert_memory_not_equal(a, c, sizeof(a));
    for (unsigned i = 100; i < 200; i++)
        failed += a[i] == -EIO;
    assert_in_range(failed, 20, 80);
}

/* A probe finds what realpath(3) finds. */
static void test_probe_realpath(void **state)
{
    char dir[] = "/tmp/tarn-probe-XXXXXX", path[64], want[PATH_MAX], got[PATH_MAX];
    static const char *const names[] = {"",        "/link", "/link/link/../.", "/file", "/gone",
                                        "/file/x", "/loop"};

    (void)state;
    assert_non_null(mkdtemp(dir));
    (void)snprintf(path, sizeof(path), "%s/link", dir);
    assert_int_equal(symlink(".", path), 0);
    (void)snprintf(path, sizeof(path), "%s/loop", dir);
    assert_int_equal(symlink("loop", path), 0);
    (void)snprintf(path, sizeof(path), "%s/file", dir);
    assert_int_equal(close(open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600)), 0);
    for (size_t i = 0; i < TARN_ARRAY_LEN(names); i++) {
        int rc;

        (void)snprintf(path, sizeof(path), "%s%s", dir, names[i]);
        (void)snprintf(got, sizeof(got), "as it was");
        rc = realpath(path, want) ? 0 : -errno;
        assert_int_equal(tarn_probe_realpath(path, got), rc);
        assert_string_equal(got, rc == 0 ? want : "as it was");
    }
    assert_int_equal(tarn_probe_realpath("/", got), 0);
    assert_string_equal(got, "/");
    for (size_t i = 1; i < TARN_ARRAY_LEN(names); i++) {
        (void)snprintf(path, sizeof(path), "%s%s", dir, names[i]);
        (void)unlink(path); /* most of them are not there */
    }
    assert_int_equal(rmdir(dir), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_BOTH(test_write_sync_read),
        TEST_BOTH(test_errors),
        TEST_BOTH(test_faults),
        TEST_BOTH(test_calls),
        TEST_POOL(test_one_thread_is_first_in_first_out),
        TEST_BOTH(test_free_while_busy),
        TEST_BOTH(test_submit_again_in_the_callback),
        TEST_POOL(test_many_submitters),
        TEST_SIM(test_sim_fails_and_tears),
        cmocka_unit_test(test_sim_follows_its_seed),
        cmocka_unit_test(test_probe_realpath),
    };

    return cmocka_run_group_tests_name("disk", tests, NULL, NULL);
}
