/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "lib/base/mem.h"
#include "lib/disk/mountinfo.h"

static const char table[] =
    "22 27 0:21 / /proc rw,relatime - proc proc rw\n"
    "27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw\n"
    "60 27 0:57 / /mnt/a ro,nosuid shared:7 master:2 - fuse.tarncache s3://b/x\\040y ro,user_id=0\n"
    "61 27 0:58 / /mnt/with\\040space\\134and\\011tab rw - fuse.other src rw\n"
    "nonsense\n"
    "62 27 broken / /mnt/x rw - ext4 none rw\n"
    "63 27 0:70 / /mnt/no-dash rw ext4 none rw\n"
    "64 60 0:59 / /mnt/a rw - tmpfs tmpfs rw\n"
    "65 64 0:60 / /mnt/a/deep rw - fuse.tarncache file:///d rw\n";

static void lines_are_read(void **state)
{
    const char *p = table;
    struct tarn_mountinfo m;

    (void)state;
    assert_true(tarn_mountinfo_next(&p, &m));
    assert_string_equal(m.mountpoint, "/proc");
    assert_string_equal(m.type, "proc");
    assert_int_equal(m.major, 0);
    assert_int_equal(m.minor, 21);
    assert_true(tarn_mountinfo_next(&p, &m));
    assert_string_equal(m.mountpoint, "/");
    assert_int_equal(m.major, 254);
    assert_true(tarn_mountinfo_next(&p, &m));
    assert_string_equal(m.type, "fuse.tarncache"); /* behind optional fields */
    assert_true(tarn_mountinfo_next(&p, &m));
    assert_string_equal(m.mountpoint, "/mnt/with space\\and\ttab");
    assert_true(tarn_mountinfo_next(&p, &m)); /* what cannot be read is left out */
    assert_string_equal(m.mountpoint, "/mnt/a");
    assert_string_equal(m.type, "tmpfs");
    assert_true(tarn_mountinfo_next(&p, &m));
    assert_string_equal(m.mountpoint, "/mnt/a/deep");
    assert_false(tarn_mountinfo_next(&p, &m));
    assert_false(tarn_mountinfo_next(&p, &m));
}

static void the_last_one_is_on_top(void **state)
{
    struct tarn_mountinfo m;

    (void)state;
    assert_true(tarn_mountinfo_at(table, "/mnt/a", &m));
    assert_string_equal(m.type, "tmpfs");
    assert_int_equal(m.minor, 59);
    assert_false(tarn_mountinfo_at(table, "/mnt", &m));
    assert_false(tarn_mountinfo_at("", "/mnt", &m));
}

static void the_deepest_one_holds_the_path(void **state)
{
    struct tarn_mountinfo m;

    (void)state;
    assert_true(tarn_mountinfo_over(table, "/mnt/a/deep/x/y", &m));
    assert_int_equal(m.minor, 60);
    assert_true(tarn_mountinfo_over(table, "/mnt/a/deeper", &m)); /* not a part of the name */
    assert_int_equal(m.minor, 59);
    assert_true(tarn_mountinfo_over(table, "/mnt/b", &m));
    assert_string_equal(m.mountpoint, "/");
    assert_true(tarn_mountinfo_over(table, "/", &m));
    assert_string_equal(m.mountpoint, "/");
    assert_false(tarn_mountinfo_over("", "/x", &m));
}

static void a_mountpoint_too_long_is_left_out(void **state)
{
    char line[PATH_MAX + 128];
    const char *p = line;
    struct tarn_mountinfo m;
    int at = snprintf(line, sizeof(line), "1 2 0:3 / /");

    (void)state;
    memset(line + at, 'x', PATH_MAX);
    (void)snprintf(line + at + PATH_MAX, sizeof(line) - (size_t)at - PATH_MAX,
                   " rw - ext4 none rw\n");
    assert_false(tarn_mountinfo_next(&p, &m));
}

static void the_real_table_is_read(void **state)
{
    struct tarn_str s = {0};
    struct tarn_mountinfo m;

    (void)state;
    assert_int_equal(tarn_mountinfo_load(&s), 0);
    assert_true(tarn_mountinfo_at(tarn_str_z(&s), "/proc", &m)); /* it was read from there */
    assert_string_equal(m.type, "proc");
    tarn_str_fini(&s);
}

/* What was mounted earlier is hidden by what is mounted above it. */
static void a_mount_above_hides_those_below(void **state)
{
    static const char hidden[] = "27 1 254:0 / / rw - ext4 /dev/root rw\n"
                                 "40 27 254:1 / /mnt/data rw - ext4 /dev/b rw\n"
                                 "41 27 0:70 / /mnt rw - fuse.tarncache tarn://m:1/ rw\n"
                                 "42 41 0:71 / /mnt/other rw - tmpfs tmpfs rw\n"
                                 "43 40 0:72 / /mnt/data rw - tmpfs tmpfs rw\n";
    static const char chroot[] = "60 59 0:5 / /dev rw - devtmpfs udev rw\n"
                                 "61 60 0:6 / /dev/shm rw - tmpfs tmpfs rw\n";
    struct tarn_mountinfo m;

    (void)state;
    assert_true(tarn_mountinfo_over(hidden, "/mnt/data/x", &m));
    assert_int_equal(m.id, 41);
    assert_true(tarn_mountinfo_over(hidden, "/mnt/other", &m));
    assert_int_equal(m.id, 42);
    assert_true(tarn_mountinfo_over(hidden, "/srv", &m));
    assert_int_equal(m.id, 27);
    assert_true(tarn_mountinfo_over(chroot, "/dev/shm/x", &m));
    assert_int_equal(m.id, 61);
    assert_false(tarn_mountinfo_over(chroot, "/srv", &m));
    assert_false(tarn_mountinfo_over("7 7 0:1 / /a rw - x x rw\n", "/b", &m));
    assert_true(tarn_mountinfo_over("7 7 0:1 / / rw - x x rw\n", "/b", &m));
    /* A table that leads in circles ends. */
    (void)tarn_mountinfo_over("1 3 0:1 / / rw - x x rw\n2 1 0:1 / / rw - x x rw\n"
                              "3 2 0:1 / / rw - x x rw\n",
                              "/b", &m);
}

static void changes_are_seen(void **state)
{
    char dir[] = "/tmp/tarn-test-XXXXXX";
    struct tarn_str s = {0};
    struct tarn_mountwatch w;
    struct tarn_mountinfo m;
    uint64_t before;

    (void)state;
    if (unshare(CLONE_NEWNS) < 0)
        skip(); /* mounting is root's */
    assert_int_equal(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
    assert_non_null(mkdtemp(dir));
    tarn_mountwatch_init(&w);
    before = tarn_mountwatch_changes(&w);
    assert_true(before > 0);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(tarn_mountwatch_changes(&w), before);
    assert_int_equal(mount("none", dir, "tmpfs", 0, NULL), 0);
    assert_true(tarn_mountwatch_changes(&w) > before);
    before = tarn_mountwatch_changes(&w);
    assert_int_equal(tarn_mountinfo_load(&s), 0);
    assert_true(tarn_mountinfo_over(tarn_str_z(&s), dir, &m));
    assert_string_equal(m.type, "tmpfs");
    assert_int_equal(umount2(dir, 0), 0);
    assert_true(tarn_mountwatch_changes(&w) > before);
    tarn_mountwatch_fini(&w);
    tarn_str_fini(&s);
    assert_int_equal(rmdir(dir), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines_are_read),
        cmocka_unit_test(the_last_one_is_on_top),
        cmocka_unit_test(the_deepest_one_holds_the_path),
        cmocka_unit_test(a_mountpoint_too_long_is_left_out),
        cmocka_unit_test(the_real_table_is_read),
        cmocka_unit_test(a_mount_above_hides_those_below),
        cmocka_unit_test(changes_are_seen),
    };

    return cmocka_run_group_tests_name("mountinfo", tests, NULL, NULL);
}
