/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/fuse/test_fuse.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fuse/fuse.h"
#include "fuse/mount_priv.h"
#include "lib/base/mem.h"

static const char table[] =
    "22 27 0:21 / /proc rw,relatime - proc proc rw\n"
    "27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw\n"
    "60 27 0:57 / /mnt/a ro,nosuid shared:7 master:2 - fuse.tarncache s3://b/x\\040y ro,user_id=0\n"
    "61 27 0:58 / /mnt/with\\040space\\134and\\011tab rw - fuse.other src rw\n"
    "nonsense\n"
    "62 27 broken / /mnt/x rw - ext4 none rw\n"
    "63 27 0:70 / /mnt/no-dash rw ext4 none rw\n"
    "64 60 0:59 / /mnt/a rw - tmpfs tmpfs rw\n"
    "65 60 0:60 / /mnt/a/deep rw - fuse.tarncache file:///d rw\n";

static void lines_are_read(void **state)
{
    const char *p = table;
    struct fmi m;

    (void)state;
    assert_true(fmi_next(&p, &m));
    assert_string_equal(m.mountpoint, "/proc");
    assert_string_equal(m.type, "proc");
    assert_int_equal(m.major, 0);
    assert_int_equal(m.minor, 21);
    assert_true(fmi_next(&p, &m));
    assert_string_equal(m.mountpoint, "/");
    assert_int_equal(m.major, 254);
    assert_true(fmi_next(&p, &m));
    assert_string_equal(m.type, "fuse.tarncache"); /* behind optional fields */
    assert_true(fmi_next(&p, &m));
    assert_string_equal(m.mountpoint, "/mnt/with space\\and\ttab");
    assert_true(fmi_next(&p, &m)); /* what cannot be read is left out */
    assert_string_equal(m.mountpoint, "/mnt/a");
    assert_string_equal(m.type, "tmpfs");
    assert_true(fmi_next(&p, &m));
    assert_string_equal(m.mountpoint, "/mnt/a/deep");
    assert_false(fmi_next(&p, &m));
    assert_false(fmi_next(&p, &m));
}

static void the_last_one_is_on_top(void **state)
{
    struct fmi m;

    (void)state;
    assert_true(fmi_at(table, "/mnt/a", &m));
    assert_string_equal(m.type, "tmpfs");
    assert_int_equal(m.minor, 59);
    assert_false(fmi_at(table, "/mnt", &m));
    assert_false(fmi_at("", "/mnt", &m));
}

static void the_deepest_one_holds_the_path(void **state)
{
    struct fmi m;

    (void)state;
    assert_true(fmi_over(table, "/mnt/a/deep/x/y", &m));
    assert_int_equal(m.minor, 60);
    assert_true(fmi_over(table, "/mnt/a/deeper", &m)); /* not a part of the name */
    assert_int_equal(m.minor, 59);
    assert_true(fmi_over(table, "/mnt/b", &m));
    assert_string_equal(m.mountpoint, "/");
    assert_true(fmi_over(table, "/", &m));
    assert_string_equal(m.mountpoint, "/");
    assert_false(fmi_over("", "/x", &m));
}

static void a_mountpoint_too_long_is_left_out(void **state)
{
    char line[PATH_MAX + 128];
    const char *p = line;
    struct fmi m;
    int at = snprintf(line, sizeof(line), "1 2 0:3 / /");

    (void)state;
    memset(line + at, 'x', PATH_MAX);
    (void)snprintf(line + at + PATH_MAX, sizeof(line) - (size_t)at - PATH_MAX,
                   " rw - ext4 none rw\n");
    assert_false(fmi_next(&p, &m));
}

static void the_real_table_is_read(void **state)
{
    struct tarn_str s = {0};
    struct fmi m;

    (void)state;
    assert_int_equal(fmi_load(&s), 0);
    assert_true(fmi_at(tarn_str_z(&s), "/proc", &m)); /* it was read from there */
    assert_string_equal(m.type, "proc");
    tarn_str_fini(&s);
}

static void descriptors_are_mountpoints(void **state)
{
    (void)state;
    assert_int_equal(fmount_fd_of("/dev/fd/0"), 0);
    assert_int_equal(fmount_fd_of("/dev/fd/123"), 123);
    assert_int_equal(fmount_fd_of("/dev/fd/"), -1);
    assert_int_equal(fmount_fd_of("/dev/fd/1x"), -1);
    assert_int_equal(fmount_fd_of("/dev/fd/-1"), -1);
    assert_int_equal(fmount_fd_of("/dev/fd/99999999999"), -1);
    assert_int_equal(fmount_fd_of("/mnt"), -1);
}

static void mountpoints_are_canonical(void **state)
{
    char dir[] = "/tmp/tarn-test-XXXXXX", got[PATH_MAX];
    TARN_AUTO_FREE char *odd = NULL;

    (void)state;
    assert_non_null(mkdtemp(dir));
    odd = tarn_xasprintf("%s/./", dir);
    assert_int_equal(fmount_canonical(odd, got), 0);
    assert_string_equal(got, dir);
    assert_int_equal(rmdir(dir), 0);
    assert_int_equal(fmount_canonical(dir, got), -ENOENT);
}

static void bad_mountpoints_are_explained(void **state)
{
    char file[] = "/tmp/tarn-test-XXXXXX", got[PATH_MAX];
    struct tarn_errbuf err = {0};
    int fd = mkstemp(file);

    (void)state;
    assert_true(fd >= 0);
    assert_int_equal(close(fd), 0);
    assert_int_equal(tarn_fuse_mountpoint_prepare(file, &err), -TARN_E_MOUNTPOINT);
    assert_non_null(strstr(err.text, file));
    assert_non_null(strstr(err.text, "not a directory"));
    assert_int_equal(unlink(file), 0);
    assert_int_equal(tarn_fuse_mountpoint_prepare(file, &err), -TARN_E_MOUNTPOINT);
    assert_non_null(strstr(err.text, file));
    assert_non_null(strstr(err.text, "does not exist"));
    assert_int_equal(tarn_fuse_mountpoint_prepare("/dev/fd/987654", &err), -TARN_E_MOUNTPOINT);
    assert_int_equal(tarn_fuse_mountpoint_prepare("/tmp", &err), 0); /* not empty is fine */
    assert_int_equal(tarn_fuse_umount("/tmp", false, &err), -TARN_E_MOUNTPOINT);
    assert_non_null(strstr(err.text, "not mounted"));
    assert_false(tarn_fuse_find_mount("/tmp", got, NULL));
    assert_false(tarn_fuse_find_mount("/proc/self/nothing", got, NULL));
}

int test_mountinfo(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines_are_read),
        cmocka_unit_test(the_last_one_is_on_top),
        cmocka_unit_test(the_deepest_one_holds_the_path),
        cmocka_unit_test(a_mountpoint_too_long_is_left_out),
        cmocka_unit_test(the_real_table_is_read),
        cmocka_unit_test(descriptors_are_mountpoints),
        cmocka_unit_test(mountpoints_are_canonical),
        cmocka_unit_test(bad_mountpoints_are_explained),
    };

    return cmocka_run_group_tests_name("mountinfo", tests, NULL, NULL);
}
