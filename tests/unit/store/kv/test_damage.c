/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Flipped bytes. A store is written by batches that each leave a mark; a copy of its directory gets
 * one byte changed and is opened and read completely. What reads give must be the state after some
 * batch: after the last one, or, when the damage is in the log, after an earlier one that is not
 * older than what had left the log. An error is fine, anything else is a wrong value.
 *
 * TARN_KV_DAMAGE_STEP=1 tries every byte; the default is a sample that takes about a second.
 */
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

#define BATCHES 40
#define FLUSHED 25 /* batches in tables; the rest is in the log */
#define KEYS    10

static char dir[64];
static char copy[96];

/* The value of key k after `n` batches: batch i (1..n) sets key i % KEYS to i. */
static unsigned expected(unsigned k, unsigned n)
{
    unsigned last = n / KEYS * KEYS + k;

    return last > n ? (last >= KEYS ? last - KEYS : 0) : last;
}

static void write_batch(struct tarn_kv *kv, unsigned i)
{
    struct tarn_kv_batch *b = tarn_kv_batch_new(kv);
    char key[16], value[64];

    (void)snprintf(key, sizeof(key), "key-%u", i % KEYS);
    (void)snprintf(value, sizeof(value), "%u padded to some length, so that blocks fill", i);
    tarn_kv_batch_put(b, 1, kv_z(key), kv_z(value));
    tarn_kv_batch_put(b, 2, kv_z("mark"), kv_z(value));
    assert_int_equal(tarn_kv_write(kv, b, i % 5 == 0 || i == BATCHES), 0);
    tarn_kv_batch_free(&b);
}

static int setup(void **state)
{
    struct tarn_kv_args args;
    struct tarn_kv *kv;

    (void)state;
    kv_dir_make(dir);
    (void)snprintf(copy, sizeof(copy), "%s/copy", dir);
    args = kv_args(dir);
    for (unsigned i = 1; i <= BATCHES; i++) {
        if (i == 1 || i == 11 || i == FLUSHED + 1)
            assert_int_equal(tarn_kv_rocksdb_open(&args, NULL, &kv), 0);
        write_batch(kv, i);
        if (i == 10 || i == FLUSHED || i == BATCHES)
            tarn_kv_close(&kv);
    }
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    kv_dir_remove(dir);
    return 0;
}

/* The number at the start of a value; 0 when absent; negative error. */
static int read_number(struct tarn_kv *kv, unsigned cf, const char *key)
{
    struct tarn_str got = {0};
    int rc = tarn_kv_get(kv, cf, kv_z(key), &got);

    if (rc == 0)
        rc = (int)strtol(tarn_str_z(&got), NULL, 10);
    else if (rc == -ENOENT)
        rc = 0;
    tarn_str_fini(&got);
    return rc;
}

/* Every number that an iterator gives is what gets would give: checked through `numbers`. */
static int scan_numbers(struct tarn_kv *kv, int numbers[KEYS])
{
    struct tarn_kv_iter *it = tarn_kv_iter_new(kv, NULL, 1, kv_z("key-"));
    int rc;

    memset(numbers, 0, KEYS * sizeof(numbers[0]));
    while ((rc = tarn_kv_iter_next(it)) == 1) {
        struct tarn_kv_slice k = tarn_kv_iter_key(it), v = tarn_kv_iter_value(it);
        char text[16] = "";

        assert_int_equal(k.n, 5);
        memcpy(text, v.p, TARN_MIN(v.n, sizeof(text) - 1));
        numbers[((const char *)k.p)[4] - '0'] = (int)strtol(text, NULL, 10);
    }
    tarn_kv_iter_free(&it);
    return rc;
}

/* Opens the copy: 0 an error was given, else the number of batches that the state shows. */
static int check_copy(unsigned oldest, const char *what)
{
    struct tarn_kv_args args = kv_args(copy);
    struct tarn_errbuf err = {{0}};
    int mark, numbers[KEYS], rc;
    struct tarn_kv *kv = NULL;
    bool error = false;

    rc = tarn_kv_rocksdb_open(&args, &err, &kv);
    if (rc < 0) {
        if (rc != -TARN_E_KV_CORRUPT && rc != -TARN_E_FORMAT_NEWER && rc != -TARN_E_KV)
            fail_msg("%s: rc=%d: %s", what, rc, err.text);
        return 0;
    }
    mark = read_number(kv, 2, "mark");
    if (mark >= 0 && (mark < (int)oldest || mark > BATCHES))
        fail_msg("%s: state after batch %d, allowed from %u", what, mark, oldest);
    for (unsigned k = 0; k < KEYS; k++) {
        char key[16];
        int v;

        (void)snprintf(key, sizeof(key), "key-%u", k);
        v = read_number(kv, 1, key);
        error |= v < 0;
        if (v >= 0 && mark >= 0 && v != (int)expected(k, (unsigned)mark))
            fail_msg("%s: key %u is %d after batch %d", what, k, v, mark);
    }
    rc = scan_numbers(kv, numbers);
    for (unsigned k = 0; rc == 0 && mark >= 0 && k < KEYS; k++)
        if (numbers[k] != (int)expected(k, (unsigned)mark))
            fail_msg("%s: a scan gives %d for key %u after batch %d", what, numbers[k], k, mark);
    tarn_kv_close(&kv);
    return error || mark < 0 || rc < 0 ? 0 : mark;
}

static void flip(const char *name, off_t at, unsigned mask)
{
    TARN_AUTO_FREE char *path = tarn_xasprintf("%s/%s", copy, name);
    TARN_AUTO_FD int fd = open(path, O_RDWR);
    uint8_t c;

    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &c, 1, at), 1);
    c ^= (uint8_t)mask;
    assert_int_equal(pwrite(fd, &c, 1, at), 1);
}

/* Flips bytes of each file whose name holds `part`; at least one flip must be noticed. */
static void damage(const char *part, unsigned oldest, unsigned samples)
{
    const char *step_text = getenv("TARN_KV_DAMAGE_STEP");
    unsigned files = 0, noticed = 0;
    DIR *d = opendir(dir);
    struct dirent *e;
    struct stat st;

    assert_non_null(d);
    while ((e = readdir(d)) != NULL) {
        off_t step;

        if (!strstr(e->d_name, part) || fstatat(dirfd(d), e->d_name, &st, 0) < 0 || !st.st_size)
            continue;
        files++;
        step = step_text ? strtol(step_text, NULL, 10) : st.st_size / samples + 1;
        for (off_t at = step / 2; at < st.st_size; at += step) {
            TARN_AUTO_FREE char *what =
                tarn_xasprintf("%s byte %ld of %ld", e->d_name, (long)at, (long)st.st_size);

            kv_dir_copy(dir, copy);
            flip(e->d_name, at, 1u << at % 8);
            noticed += check_copy(oldest, what) < BATCHES;
            kv_dir_remove(copy);
        }
    }
    (void)closedir(d);
    assert_true(files > 0);
    assert_true(noticed > 0);
}

static void test_undamaged(void **state)
{
    (void)state;
    kv_dir_copy(dir, copy);
    assert_int_equal(check_copy(BATCHES, "copy"), BATCHES);
    kv_dir_remove(copy);
}

static void test_tables(void **state)
{
    (void)state;
    damage(".sst", BATCHES, 12);
}

static void test_manifest(void **state)
{
    (void)state;
    damage("MANIFEST", BATCHES, 20);
}

static void test_current(void **state)
{
    (void)state;
    damage("CURRENT", BATCHES, 16);
}

static void test_log(void **state)
{
    (void)state;
    damage(".log", FLUSHED, 30);
}

/* A log cut anywhere, as by a crash: a whole state, and every byte more gives at least as much. */
static void test_torn_log(void **state)
{
    DIR *d = opendir(dir);
    struct dirent *e;
    struct stat st = {0};
    int last = 0;

    (void)state;
    assert_non_null(d);
    do
        e = readdir(d);
    while (e && (!tarn_ends_with(e->d_name, ".log") || fstatat(dirfd(d), e->d_name, &st, 0) < 0 ||
                 st.st_size == 0));
    assert_non_null(e);
    for (off_t at = 0; at <= st.st_size; at += TARN_MAX(st.st_size / 20, 1)) {
        TARN_AUTO_FREE char *path = tarn_xasprintf("%s/%s", copy, e->d_name);
        int n;

        kv_dir_copy(dir, copy);
        assert_int_equal(truncate(path, at), 0);
        n = check_copy(FLUSHED, "torn log");
        assert_true(n >= FLUSHED && n >= last);
        last = n;
        kv_dir_remove(copy);
    }
    (void)closedir(d);
    assert_true(last > FLUSHED);
}

int kv_run_damage(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_undamaged), cmocka_unit_test(test_tables),
        cmocka_unit_test(test_manifest),  cmocka_unit_test(test_current),
        cmocka_unit_test(test_log),       cmocka_unit_test(test_torn_log),
    };

    return cmocka_run_group_tests_name("kv/damage", tests, setup, teardown);
}
