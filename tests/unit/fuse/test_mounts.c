/* SPDX-License-Identifier: Apache-2.0 */
/* Mounts that are dead, hung or another's, made with a raw /dev/fuse. Skipped without the right. */
#include "tests/unit/fuse/test_fuse.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fuse.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fuse/fuse.h"
#include "fuse/mount_priv.h"
#include "lib/base/env.h"
#include "lib/base/mem.h"
#include "lib/disk/probe.h"

/* A server in this process: it answers INIT and, unless `mute`, statfs. */
struct raw {
    char dir[PATH_MAX];
    int fd;
    pthread_t thread;
    _Atomic bool mute, stop;
    _Atomic unsigned taken; /* statfs calls */
};

/* The mountpoint; skips the test where mounting is not permitted. */
static void raw_dir(char dir[PATH_MAX])
{
    (void)snprintf(dir, PATH_MAX, "/tmp/tarn-test-XXXXXX");
    assert_non_null(mkdtemp(dir));
}

static int raw_mount(const char *dir)
{
    int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    char opts[128];

    if (fd < 0)
        return -1;
    (void)snprintf(opts, sizeof(opts), "fd=%d,rootmode=40000,user_id=0,group_id=0", fd);
    if (mount("test", dir, "fuse.tarncache", MS_NOSUID | MS_NODEV, opts) == 0)
        return fd;
    (void)close(fd);
    return -1;
}

static void raw_reply(int fd, uint64_t unique, int error, const void *body, size_t len)
{
    struct {
        struct fuse_out_header head;
        uint8_t body[128];
    } m = {.head = {.len = (uint32_t)(sizeof(m.head) + len), .error = error, .unique = unique}};

    assert_true(len <= sizeof(m.body));
    if (len)
        memcpy(m.body, body, len);
    (void)!write(fd, &m, m.head.len); /* who asked may be gone */
}

static void raw_answer(struct raw *r, const struct fuse_in_header *in)
{
    const struct fuse_init_out init = {
        .major = FUSE_KERNEL_VERSION, .minor = 31, .max_write = 4096};
    const struct fuse_statfs_out st = {.st = {.bsize = 4096, .frsize = 4096, .namelen = 255}};

    if (in->opcode == FUSE_INIT) {
        raw_reply(r->fd, in->unique, 0, &init, sizeof(init));
    } else if (in->opcode == FUSE_STATFS) {
        atomic_fetch_add(&r->taken, 1);
        if (!atomic_load(&r->mute))
            raw_reply(r->fd, in->unique, 0, &st, sizeof(st));
    } else if (in->opcode == FUSE_LOOKUP && atomic_load(&r->mute)) {
        atomic_fetch_add(&r->taken, 1);
    } else if (in->opcode != FUSE_FORGET && in->opcode != FUSE_INTERRUPT &&
               in->opcode != FUSE_BATCH_FORGET) {
        raw_reply(r->fd, in->unique, -ENOSYS, NULL, 0);
    }
}

static void *raw_run(void *arg)
{
    static _Thread_local uint64_t buf[FUSE_MIN_READ_BUFFER * 4 / sizeof(uint64_t)];
    struct raw *r = arg;

    while (!atomic_load(&r->stop)) {
        struct pollfd p = {.fd = r->fd, .events = POLLIN};

        if (poll(&p, 1, 10) > 0 && read(r->fd, buf, sizeof(buf)) > 0)
            raw_answer(r, (const struct fuse_in_header *)buf);
        else if (p.revents & POLLERR)
            break; /* unmounted */
    }
    return NULL;
}

static void raw_start(struct raw *r, const char *dir, bool mute)
{
    *r = (struct raw){.mute = mute};
    (void)snprintf(r->dir, sizeof(r->dir), "%s", dir);
    r->fd = raw_mount(dir);
    assert_true(r->fd >= 0);
    assert_int_equal(pthread_create(&r->thread, NULL, raw_run, r), 0);
}

/* Its mount is dead then, unless it was taken away. */
static void raw_end(struct raw *r)
{
    atomic_store(&r->stop, true);
    assert_int_equal(pthread_join(r->thread, NULL), 0);
    assert_int_equal(close(r->fd), 0);
}

static unsigned mounts_at(const char *dir)
{
    struct tarn_str table = {0};
    const char *p;
    struct tarn_mountinfo m;
    unsigned n = 0;

    assert_int_equal(tarn_mountinfo_load(&table), 0);
    p = tarn_str_z(&table);
    while (tarn_mountinfo_next(&p, &m))
        n += strcmp(m.mountpoint, dir) == 0;
    tarn_str_fini(&table);
    return n;
}

static void raw_clean(const char *dir)
{
    while (mounts_at(dir) > 0)
        assert_int_equal(umount2(dir, MNT_DETACH), 0);
    assert_int_equal(rmdir(dir), 0);
}

/* A dead mount at dir, or skip. */
static void raw_dead(const char *dir)
{
    int fd = raw_mount(dir);

    if (fd < 0) {
        raw_clean(dir);
        skip();
    }
    assert_int_equal(close(fd), 0);
}

static void dead_mounts_are_known(void **state)
{
    struct tarn_errbuf err = {0};
    char dir[PATH_MAX], got[PATH_MAX];

    (void)state;
    raw_dir(dir);
    assert_int_equal(tarn_probe_statfs(dir), 0); /* not mounted */
    raw_dead(dir);
    assert_true(fmount_is_dead(tarn_probe_statfs(dir)));
    assert_false(tarn_fuse_find_mount(dir, got, NULL));
    /* Usable, and still there: another one takes its place, or nothing. */
    assert_int_equal(tarn_fuse_mountpoint_prepare(dir, &err), 0);
    assert_int_equal(mounts_at(dir), 1);
    raw_clean(dir);
}

/* The children of who ignores SIGCHLD leave no exit status. */
static void dead_mounts_are_known_without_sigchld(void **state)
{
    char dir[PATH_MAX];
    int e;

    (void)state;
    raw_dir(dir);
    raw_dead(dir);
    assert_true(signal(SIGCHLD, SIG_IGN) != SIG_ERR);
    e = tarn_probe_statfs(dir);
    assert_true(signal(SIGCHLD, SIG_DFL) != SIG_ERR);
    assert_true(fmount_is_dead(e));
    raw_clean(dir);
}

static void dead_mounts_are_replaced(void **state)
{
    struct tarn_errbuf err = {0};
    struct fmount_args args = {.source = "a,b\\c", .max_read = 65536};
    struct fmount m;
    char dir[PATH_MAX];
    int fd = -1;

    (void)state;
    raw_dir(dir);
    for (int i = 0; i < 3; i++)
        raw_dead(dir); /* upon each other */
    args.path = dir;
    assert_int_equal(fmount_start(&args, &err, &m, &fd), 0);
    assert_int_equal(mounts_at(dir), 1);
    assert_string_equal(m.path, dir);
    assert_int_equal(close(fd), 0);
    assert_true(fmount_is_dead(tarn_probe_statfs(dir)));
    assert_int_equal(fmount_detach(&m, true), 0); /* dead, and where ours was */
    assert_int_equal(mounts_at(dir), 0);
    assert_int_equal(fmount_detach(&m, false), 0); /* gone already */
    raw_clean(dir);
}

static void live_mounts_are_not_touched(void **state)
{
    struct tarn_errbuf err = {0};
    struct fmount_args args = {.source = "x", .max_read = 65536};
    struct fmount m = {.path = ""};
    struct tarn_mountinfo top;
    char dir[PATH_MAX], got[PATH_MAX];
    struct raw r;
    int fd = -1;

    (void)state;
    raw_dir(dir);
    raw_dead(dir);
    assert_int_equal(umount2(dir, MNT_DETACH), 0);
    raw_start(&r, dir, false);
    assert_int_equal(tarn_probe_statfs(dir), 0);
    assert_true(tarn_fuse_find_mount(dir, got, NULL));
    args.path = dir;
    assert_int_equal(fmount_start(&args, &err, &m, &fd), -TARN_E_MOUNTPOINT);
    assert_non_null(strstr(err.text, "in use"));
    assert_int_equal(tarn_fuse_mountpoint_prepare(dir, &err), -TARN_E_MOUNTPOINT);
    /* Numbers of devices are used again: this may be another one than that which ended. */
    assert_true(fmount_fuse_at(dir, &top));
    (void)snprintf(m.path, sizeof(m.path), "%s", dir);
    m.major = top.major;
    m.minor = top.minor;
    assert_int_equal(fmount_detach(&m, true), 0);
    assert_int_equal(mounts_at(dir), 1);
    assert_int_equal(fmount_detach(&m, false), 0);
    assert_int_equal(mounts_at(dir), 0);
    raw_end(&r);
    raw_clean(dir);
}

/* Its server has the request and says nothing: who waits for it cannot be killed. */
static void hung_mounts_do_not_hang_us(void **state)
{
    struct tarn_errbuf err = {0};
    uint64_t begun;
    char dir[PATH_MAX], below[PATH_MAX + 2], real[PATH_MAX] = "as it was";
    struct raw r;

    (void)state;
    raw_dir(dir);
    raw_dead(dir);
    assert_int_equal(umount2(dir, MNT_DETACH), 0);
    raw_start(&r, dir, true);
    begun = tarn_now_ns();
    assert_int_equal(tarn_fuse_mountpoint_prepare(dir, &err), -TARN_E_MOUNTPOINT);
    assert_in_range(tarn_now_ns() - begun, TARN_NS_PER_S, 20 * TARN_NS_PER_S);
    assert_non_null(strstr(err.text, "does not answer"));
    assert_int_equal(atomic_load(&r.taken), 1);
    (void)snprintf(below, sizeof(below), "%s/x", dir);
    begun = tarn_now_ns();
    assert_int_equal(tarn_probe_realpath(below, real), -ETIMEDOUT);
    assert_in_range(tarn_now_ns() - begun, TARN_NS_PER_S, 20 * TARN_NS_PER_S);
    assert_string_equal(real, "as it was");
    assert_int_equal(atomic_load(&r.taken), 2);
    assert_int_equal(umount2(dir, MNT_DETACH), 0);
    raw_end(&r);
    raw_clean(dir);
}

int test_mounts(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dead_mounts_are_known),
        cmocka_unit_test(dead_mounts_are_known_without_sigchld),
        cmocka_unit_test(dead_mounts_are_replaced),
        cmocka_unit_test(live_mounts_are_not_touched),
        cmocka_unit_test(hung_mounts_do_not_hang_us),
    };

    return cmocka_run_group_tests_name("mounts", tests, NULL, NULL);
}
