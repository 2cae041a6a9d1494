/* SPDX-License-Identifier: Apache-2.0 */
/* Opening: what is made, what is refused, and with which code and text. */
#include "tests/unit/store/kv/kv_tests.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/mem.h"

static char dir[64];

static int setup(void **state)
{
    (void)state;
    kv_dir_make(dir);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    kv_dir_remove(dir);
    return 0;
}

static struct tarn_kv *open_ok(const struct tarn_kv_args *args)
{
    struct tarn_errbuf err = {{0}};
    struct tarn_kv *kv = NULL;

    if (tarn_kv_rocksdb_open(args, &err, &kv) < 0)
        fail_msg("%s", err.text);
    return kv;
}

static void open_fails(const struct tarn_kv_args *args, int code, const char *text)
{
    struct tarn_kv *kv = (struct tarn_kv *)(void *)&dir; /* must not be touched */
    struct tarn_errbuf err = {{0}};
    int rc = tarn_kv_rocksdb_open(args, &err, &kv);

    if (rc != -code)
        fail_msg("rc=%d, expected %d: %s", rc, -code, err.text);
    assert_ptr_equal(kv, &dir);
    if (!strstr(err.text, text))
        fail_msg("no \"%s\" in: %s", text, err.text);
    assert_int_equal(tarn_kv_rocksdb_open(args, NULL, &kv), -code);
}

static void test_makes_directory(void **state)
{
    TARN_AUTO_FREE char *sub = tarn_xasprintf("%s/new", dir);
    struct tarn_kv_args args = kv_args(sub);
    struct tarn_kv *kv;
    struct stat st;

    (void)state;
    args.read_only_if_exists = true;
    open_fails(&args, ENOENT, sub);
    assert_int_equal(access(sub, F_OK), -1);
    args.read_only_if_exists = false;
    kv = open_ok(&args);
    kv_put(kv, 1, "a", "1");
    tarn_kv_close(&kv);
    assert_int_equal(stat(sub, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    args.read_only_if_exists = true;
    kv = open_ok(&args);
    kv_assert_get(kv, 1, "a", "1");
    tarn_kv_close(&kv);
    kv_dir_remove(sub);
}

static void test_bad_paths(void **state)
{
    TARN_AUTO_FREE char *file = tarn_xasprintf("%s/file", dir);
    TARN_AUTO_FREE char *deep = tarn_xasprintf("%s/no/such", dir);
    struct tarn_kv_args args = kv_args(file);
    int fd = open(file, O_CREAT | O_WRONLY, 0600);

    (void)state;
    assert_true(fd >= 0);
    (void)close(fd);
    open_fails(&args, ENOTDIR, file);
    args.path = deep;
    open_fails(&args, ENOENT, deep);
    args = kv_args(dir); /* exists, but has no store */
    args.read_only_if_exists = true;
    open_fails(&args, ENOENT, dir);
}

/* The directory's own name must not be taken for the cause. */
static void test_locked(void **state)
{
    TARN_AUTO_FREE char *sub = tarn_xasprintf("%s/No space LOCK Corruption lock file", dir);
    struct tarn_kv_args args = kv_args(sub);
    struct tarn_kv *kv = open_ok(&args);
    static const char *const other[] = {"default"};

    (void)state;
    open_fails(&args, TARN_E_DIR_LOCKED, sub);
    kv_put(kv, 0, "a", "1"); /* the first user is not disturbed */
    tarn_kv_close(&kv);
    args.cfs = other;
    args.cf_count = 1;
    open_fails(&args, TARN_E_FORMAT_NEWER, sub);
    kv_dir_remove(sub);
}

static void test_column_families(void **state)
{
    static const char *const more[] = {"default", "meta", "jobs", "soft", "later"};
    static const char *const fewer[] = {"default", "jobs"};
    static const char *const swapped[] = {"default", "soft", "later", "meta", "jobs"};
    struct tarn_kv_args args = kv_args(dir);
    struct tarn_kv *kv = open_ok(&args);

    (void)state;
    kv_put(kv, 1, "k", "in meta");
    kv_put(kv, 2, "k", "in jobs");
    tarn_kv_close(&kv);
    args.cfs = more;
    args.cf_count = 5;
    kv = open_ok(&args);
    kv_assert_get(kv, 1, "k", "in meta");
    kv_assert_get(kv, 4, "k", NULL);
    kv_put(kv, 4, "k", "in later");
    tarn_kv_close(&kv);
    args.cfs = fewer;
    args.cf_count = 2;
    open_fails(&args, TARN_E_FORMAT_NEWER, "later");
    args.cfs = swapped; /* families are found by name */
    args.cf_count = 5;
    kv = open_ok(&args);
    kv_assert_get(kv, 2, "k", "in later");
    kv_assert_get(kv, 3, "k", "in meta");
    kv_assert_get(kv, 4, "k", "in jobs");
    tarn_kv_close(&kv);
}

static void remove_suffix(const char *suffix)
{
    DIR *d = opendir(dir);
    struct dirent *e;
    unsigned n = 0;

    assert_non_null(d);
    while ((e = readdir(d)) != NULL) {
        if (strstr(e->d_name, suffix)) {
            assert_int_equal(unlinkat(dirfd(d), e->d_name, 0), 0);
            n++;
        }
    }
    (void)closedir(d);
    assert_true(n > 0);
}

/* A file that is gone is damage; above all, no empty store is made in its place. */
static void test_missing_files(void **state)
{
    static const char *const suffixes[] = {".sst", "MANIFEST", "CURRENT"};

    (void)state;
    for (size_t i = 0; i < TARN_ARRAY_LEN(suffixes); i++) {
        struct tarn_kv_args args = kv_args(dir);
        struct tarn_kv *kv = open_ok(&args);

        kv_put(kv, 0, "a", "1");
        tarn_kv_close(&kv);
        kv = open_ok(&args); /* the log becomes a table */
        tarn_kv_close(&kv);
        remove_suffix(suffixes[i]);
        open_fails(&args, TARN_E_KV_CORRUPT, dir);
        open_fails(&args, TARN_E_KV_CORRUPT, dir);
        kv_dir_remove(dir);
        assert_int_equal(mkdir(dir, 0700), 0);
    }
}

static void test_reopen_after_loss(void **state)
{
    struct tarn_kv_args args = kv_args(dir);
    struct tarn_kv *kv = open_ok(&args);
    struct tarn_kv_batch *b;
    struct tarn_kv_iter *it;
    struct tarn_errbuf err = {{0}};
    struct tarn_str got = {0};

    (void)state;
    kv_put(kv, 0, "a", "1");
    remove_suffix("CURRENT");
    assert_true(tarn_kv_reopen(kv, &err) < 0);
    assert_non_null(strstr(err.text, dir));

    /* Now it is not open: every call says so and none crashes. */
    assert_true(tarn_kv_get(kv, 0, kv_z("a"), &got) < 0);
    it = tarn_kv_iter_new(kv, NULL, 0, kv_z(""));
    assert_true(tarn_kv_iter_next(it) < 0);
    tarn_kv_iter_free(&it);
    b = tarn_kv_batch_new(kv);
    tarn_kv_batch_put(b, 0, kv_z("a"), kv_z("1"));
    tarn_kv_batch_delete(b, 0, kv_z("b"));
    assert_true(tarn_kv_batch_get(b, 0, kv_z("a"), &got) < 0);
    assert_true(tarn_kv_write(kv, b, true) < 0);
    tarn_kv_batch_free(&b);
    tarn_kv_close(&kv);
    tarn_str_fini(&got);
}

static void test_files_are_few_and_small(void **state)
{
    struct tarn_kv_args args = kv_args(dir);
    struct tarn_kv *kv = NULL;
    struct stat st;
    TARN_AUTO_FREE char *ballast = tarn_xasprintf("%s/BALLAST", dir);
    unsigned n = 0;

    (void)state;
    for (int i = 0; i < 6; i++) {
        kv = open_ok(&args);
        kv_put(kv, 0, "a", "1");
        if (i < 5)
            tarn_kv_close(&kv);
    }
    assert_true(tarn_kv_disk_bytes(kv) >= 4 << 20);
    assert_true(tarn_kv_disk_bytes(kv) < 16 << 20);
    tarn_kv_close(&kv);
    assert_int_equal(stat(ballast, &st), 0);
    assert_int_equal(st.st_size, 4 << 20);
    assert_true(st.st_blocks * 512 >= 4 << 20); /* it holds its place */

    DIR *d = opendir(dir);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d)) != NULL;)
        n += strncmp(e->d_name, "LOG", 3) == 0;
    (void)closedir(d);
    assert_in_range(n, 1, 2);
}

int kv_run_rocksdb(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_makes_directory, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bad_paths, setup, teardown),
        cmocka_unit_test_setup_teardown(test_locked, setup, teardown),
        cmocka_unit_test_setup_teardown(test_column_families, setup, teardown),
        cmocka_unit_test_setup_teardown(test_missing_files, setup, teardown),
        cmocka_unit_test_setup_teardown(test_reopen_after_loss, setup, teardown),
        cmocka_unit_test_setup_teardown(test_files_are_few_and_small, setup, teardown),
    };

    return cmocka_run_group_tests_name("kv/rocksdb", tests, NULL, NULL);
}
