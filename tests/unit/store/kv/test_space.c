/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A full disk: a small tmpfs, so it needs the right to mount and is left out without. A program of
 * its own, because RocksDB waits a second before it closes a store whose flush failed.
 */
#include "tests/unit/store/kv/kv_tests.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "lib/base/env.h"
#include "lib/base/mem.h"

static char dir[64];
static char store[96];
static bool mounted;

static int setup(void **state)
{
    (void)state;
    kv_dir_make(dir);
    (void)snprintf(store, sizeof(store), "%s/store", dir);
    mounted = geteuid() == 0 && mount("tarn-test", dir, "tmpfs", 0, "size=24m,mode=0700") == 0;
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    if (mounted)
        assert_int_equal(umount(dir), 0);
    mounted = false;
    return rmdir(dir);
}

static struct tarn_kv *open_store(void)
{
    struct tarn_kv_args args = kv_args(store);
    struct tarn_errbuf err = {{0}};
    struct tarn_kv *kv = NULL;

    if (tarn_kv_rocksdb_open(&args, &err, &kv) < 0)
        fail_msg("%s", err.text);
    return kv;
}

/* Takes all room of the file system but about `leave` bytes. */
static void fill(size_t leave)
{
    TARN_AUTO_FREE char *path = tarn_xasprintf("%s/filler", dir);
    TARN_AUTO_FD int fd = open(path, O_CREAT | O_RDWR, 0600);
    TARN_AUTO_FREE char *block = tarn_xcalloc(1, 4096);
    off_t size = 0;

    assert_true(fd >= 0);
    while (write(fd, block, 4096) == 4096)
        size += 4096;
    assert_int_equal(errno, ENOSPC);
    assert_int_equal(ftruncate(fd, size > (off_t)leave ? size - (off_t)leave : 0), 0);
}

static int write_key(struct tarn_kv *kv, unsigned i, const char *pad)
{
    struct tarn_kv_batch *b = tarn_kv_batch_new(kv);
    char key[16];
    int rc;

    (void)snprintf(key, sizeof(key), "key-%06u", i);
    tarn_kv_batch_put(b, 1, kv_z(key), kv_z(pad));
    tarn_kv_batch_put(b, 2, kv_z(key), kv_z("there"));
    rc = tarn_kv_write(kv, b, true);
    tarn_kv_batch_free(&b);
    return rc;
}

/* Writes until one fails; returns how many were acknowledged. */
static unsigned write_until_full(struct tarn_kv *kv, unsigned from)
{
    char pad[2001];
    unsigned i = from;
    int rc;

    for (size_t k = 0; k < sizeof(pad) - 1; k++) /* zstd shall not make nothing of it */
        pad[k] = (char)('!' + (k * k * k + 31 * k) % 89);
    pad[sizeof(pad) - 1] = 0;
    while ((rc = write_key(kv, i, pad)) == 0)
        if (++i > 100000)
            fail_msg("the disk does not get full");
    assert_int_equal(rc, -TARN_E_KV_NO_SPACE);
    assert_int_equal(write_key(kv, i, pad), -TARN_E_KV_NO_SPACE); /* it stays so */
    return i;
}

/* All acknowledged keys are in both families, and a key is in both or in none. */
static void check_keys(struct tarn_kv *kv, unsigned n)
{
    struct tarn_str got = {0};

    for (unsigned i = 0; i < n + 3; i++) {
        char key[16];
        int a, b;

        (void)snprintf(key, sizeof(key), "key-%06u", i);
        a = tarn_kv_get(kv, 1, kv_z(key), &got);
        b = tarn_kv_get(kv, 2, kv_z(key), &got);
        assert_int_equal(a, b);
        assert_true(a == 0 || (a == -ENOENT && i >= n));
    }
    tarn_str_fini(&got);
}

static int delete_all(struct tarn_kv *kv, unsigned n)
{
    struct tarn_kv_batch *b = tarn_kv_batch_new(kv);
    int rc;

    for (unsigned i = 0; i < n + 3; i++) {
        char key[16];

        (void)snprintf(key, sizeof(key), "key-%06u", i);
        tarn_kv_batch_delete(b, 1, kv_z(key));
        tarn_kv_batch_delete(b, 2, kv_z(key));
    }
    rc = tarn_kv_write(kv, b, true);
    tarn_kv_batch_free(&b);
    return rc;
}

static bool have_ballast(void)
{
    TARN_AUTO_FREE char *path = tarn_xasprintf("%s/BALLAST", store);

    return access(path, F_OK) == 0;
}

static void test_full_and_back(void **state)
{
    TARN_AUTO_FREE char *filler = tarn_xasprintf("%s/filler", dir);
    struct tarn_errbuf err = {{0}};
    struct tarn_kv *kv;
    unsigned n;

    (void)state;
    if (!mounted)
        skip();
    kv = open_store();
    assert_true(have_ballast());
    fill(2 << 20);
    n = write_until_full(kv, 0);
    assert_true(n > 0);
    check_keys(kv, n); /* reads go on */

    /* The ballast makes room: what was acknowledged is there and deletions can be written. */
    if (tarn_kv_reopen(kv, &err) < 0)
        fail_msg("%s", err.text);
    assert_false(have_ballast()); /* not taken again at once */
    check_keys(kv, n);
    assert_int_equal(delete_all(kv, n), 0);
    kv_assert_scan(kv, NULL, 2, "", "");

    /* With room again the next reopen restores the ballast, and it all works once more. */
    assert_int_equal(unlink(filler), 0);
    assert_int_equal(tarn_kv_reopen(kv, &err), 0);
    assert_true(have_ballast());
    kv_assert_scan(kv, NULL, 1, "", "");
    fill(1 << 20);
    n = write_until_full(kv, 0);
    assert_int_equal(tarn_kv_reopen(kv, &err), 0);
    check_keys(kv, n);
    tarn_kv_close(&kv);
    kv = open_store();
    check_keys(kv, n);
    tarn_kv_close(&kv);
    assert_int_equal(unlink(filler), 0);
    kv_dir_remove(store);
}

/* The disk gets full under a flush rather than under the log: writes fail as well, they do not wait
 * for room. */
static void test_full_under_a_flush(void **state)
{
    TARN_AUTO_FREE char *filler = tarn_xasprintf("%s/filler", dir);
    struct tarn_kv_args args = kv_args(store);
    struct tarn_errbuf err = {{0}};
    struct tarn_kv *kv = NULL;
    unsigned n = 0;

    (void)state;
    if (!mounted)
        skip();
    args.write_buffer_bytes = 64 << 10;
    assert_int_equal(tarn_kv_rocksdb_open(&args, &err, &kv), 0);
    for (size_t leave = 100 << 10; leave < 1 << 20; leave += 90 << 10) {
        uint64_t begun = tarn_now_ns();

        fill(leave);
        n = write_until_full(kv, n);
        assert_true(tarn_now_ns() - begun < 20 * TARN_NS_PER_S);
        assert_int_equal(unlink(filler), 0);
        if (tarn_kv_reopen(kv, &err) < 0)
            fail_msg("%s", err.text);
        check_keys(kv, n);
    }
    tarn_kv_close(&kv);
    kv_dir_remove(store);
}

/* Without any room left even a reopen fails, with the right code, and loses nothing. */
static void test_full_without_help(void **state)
{
    TARN_AUTO_FREE char *filler = tarn_xasprintf("%s/filler", dir);
    struct tarn_errbuf err = {{0}};
    struct tarn_kv *kv;
    unsigned n;
    int rc = 0;

    (void)state;
    if (!mounted)
        skip();
    kv = open_store();
    fill(1 << 20);
    n = write_until_full(kv, 0);
    for (int i = 0; i < 20 && rc == 0; i++) { /* closing frees a little, again and again */
        rc = tarn_kv_reopen(kv, &err);
        if (rc == 0)
            n = write_until_full(kv, n);
        fill(0);
    }
    assert_int_equal(rc, -TARN_E_KV_NO_SPACE);
    assert_non_null(strstr(err.text, store));
    assert_int_equal(write_key(kv, n, ""), -TARN_E_KV_NO_SPACE);
    assert_int_equal(unlink(filler), 0);
    if (tarn_kv_reopen(kv, &err) < 0)
        fail_msg("%s", err.text);
    check_keys(kv, n);
    assert_int_equal(write_key(kv, n, ""), 0);
    check_keys(kv, n + 1);
    tarn_kv_close(&kv);
    kv_dir_remove(store);
}

static void test_open_on_full_disk(void **state)
{
    struct tarn_kv_args args = kv_args(store);
    TARN_AUTO_FREE char *filler = tarn_xasprintf("%s/filler", dir);
    struct tarn_errbuf err = {{0}};
    struct tarn_kv *kv = NULL;

    (void)state;
    if (!mounted)
        skip();
    fill(0);
    assert_int_equal(tarn_kv_rocksdb_open(&args, &err, &kv), -TARN_E_KV_NO_SPACE);
    assert_non_null(strstr(err.text, store));
    assert_int_equal(unlink(filler), 0);
    kv = open_store(); /* what the attempt left is no hindrance */
    kv_put(kv, 0, "a", "1");
    tarn_kv_close(&kv);
    kv_dir_remove(store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_full_and_back, setup, teardown),
        cmocka_unit_test_setup_teardown(test_full_under_a_flush, setup, teardown),
        cmocka_unit_test_setup_teardown(test_full_without_help, setup, teardown),
        cmocka_unit_test_setup_teardown(test_open_on_full_disk, setup, teardown),
    };

    return cmocka_run_group_tests_name("kv/space", tests, NULL, NULL);
}
