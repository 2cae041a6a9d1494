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

int test_mountpoint(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(descriptors_are_mountpoints),
        cmocka_unit_test(mountpoints_are_canonical),
        cmocka_unit_test(bad_mountpoints_are_explained),
    };

    return cmocka_run_group_tests_name("mountpoint", tests, NULL, NULL);
}
