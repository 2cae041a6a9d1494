/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/store/kv/kv_tests.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/fault.h"
#include "lib/base/mem.h"

static const char *const cf_names[KV_TEST_CFS] = {"default", "meta", "jobs"};

struct tarn_kv_args kv_args(const char *dir)
{
    return (struct tarn_kv_args){.path = dir,
                                 .cfs = cf_names,
                                 .cf_count = KV_TEST_CFS,
                                 .cache_bytes = 1 << 20,
                                 .write_buffer_bytes = 1 << 20};
}

static void backend_open(struct kv_backend *b)
{
    if (strcmp(b->name, "mem") == 0) {
        b->kv = tarn_kv_mem_open(&b->disk, KV_TEST_CFS);
    } else {
        struct tarn_kv_args args = kv_args(b->dir);
        struct tarn_errbuf err = {{0}};

        if (tarn_kv_rocksdb_open(&args, &err, &b->kv) < 0)
            fail_msg("%s", err.text);
    }
}

void kv_backend_start(struct kv_backend *b, const char *name)
{
    *b = (struct kv_backend){.name = name};
    if (strcmp(name, "rocksdb") == 0)
        kv_dir_make(b->dir);
    backend_open(b);
}

void kv_backend_restart(struct kv_backend *b)
{
    tarn_kv_close(&b->kv);
    backend_open(b);
}

void kv_backend_stop(struct kv_backend *b)
{
    tarn_kv_close(&b->kv);
    tarn_kv_mem_disk_fini(&b->disk);
    if (b->dir[0])
        kv_dir_remove(b->dir);
}

static int setup(void **state, const char *name)
{
    struct kv_backend *b = tarn_xnew(struct kv_backend);

    kv_backend_start(b, name);
    *state = b;
    return 0;
}

int kv_setup_mem(void **state)
{
    return setup(state, "mem");
}

int kv_setup_rocksdb(void **state)
{
    return setup(state, "rocksdb");
}

int kv_teardown(void **state)
{
    tarn_fault_reset();
    kv_backend_stop(*state);
    free(*state);
    return 0;
}

void kv_dir_make(char dir[64])
{
    bool shm = access("/dev/shm", W_OK) == 0; /* a sync costs nothing there */

    (void)snprintf(dir, 64, "%s/tarn-test-kv-XXXXXX", shm ? "/dev/shm" : "/tmp");
    assert_non_null(mkdtemp(dir));
}

/* Calls fn with the path of each file in `dir`. */
static void dir_each(const char *dir, void (*fn)(const char *path, const char *name, void *arg),
                     void *arg)
{
    DIR *d = opendir(dir);
    struct dirent *e;

    assert_non_null(d);
    while ((e = readdir(d)) != NULL) {
        TARN_AUTO_FREE char *path = tarn_xasprintf("%s/%s", dir, e->d_name);
        struct stat st;

        if (lstat(path, &st) == 0 && S_ISREG(st.st_mode))
            fn(path, e->d_name, arg);
    }
    (void)closedir(d);
}

static void file_remove(const char *path, const char *name, void *arg)
{
    (void)name;
    (void)arg;
    assert_int_equal(unlink(path), 0);
}

void kv_dir_remove(const char *dir)
{
    dir_each(dir, file_remove, NULL);
    assert_int_equal(rmdir(dir), 0);
}

static void file_copy(const char *path, const char *name, void *arg)
{
    TARN_AUTO_FREE char *to = tarn_xasprintf("%s/%s", (const char *)arg, name);
    TARN_AUTO_FREE char *buf = tarn_xcalloc(1, 1 << 16);
    FILE *in, *out;
    size_t n;

    if (strcmp(name, "BALLAST") == 0)
        return;
    in = fopen(path, "rb");
    out = fopen(to, "wb");
    assert_true(in && out);
    while ((n = fread(buf, 1, 1 << 16, in)) > 0)
        assert_int_equal(fwrite(buf, 1, n, out), n);
    assert_int_equal(fclose(in) | fclose(out), 0);
}

void kv_dir_copy(const char *from, const char *to)
{
    TARN_AUTO_FREE char *arg = tarn_xstrdup(to);

    assert_true(mkdir(to, 0700) == 0 || errno == EEXIST);
    dir_each(from, file_copy, arg);
}

struct tarn_kv_slice kv_z(const char *z)
{
    return tarn_kv_slice(z, strlen(z));
}

void kv_put(struct tarn_kv *kv, unsigned cf, const char *key, const char *value)
{
    struct tarn_kv_batch *b = tarn_kv_batch_new(kv);

    tarn_kv_batch_put(b, cf, kv_z(key), kv_z(value));
    assert_int_equal(tarn_kv_write(kv, b, false), 0);
    tarn_kv_batch_free(&b);
}

void kv_assert_get(struct tarn_kv *kv, unsigned cf, const char *key, const char *value)
{
    struct tarn_str got = {0};
    int rc = tarn_kv_get(kv, cf, kv_z(key), &got);

    if (value) {
        assert_int_equal(rc, 0);
        assert_string_equal(tarn_str_z(&got), value);
        assert_int_equal(got.len, strlen(value));
    } else {
        assert_int_equal(rc, -ENOENT);
    }
    tarn_str_fini(&got);
}

void kv_assert_scan(struct tarn_kv *kv, struct tarn_kv_batch *b, unsigned cf, const char *prefix,
                    const char *expected)
{
    struct tarn_kv_iter *it = tarn_kv_iter_new(kv, b, cf, kv_z(prefix));
    struct tarn_str got = {0};
    int rc;

    while ((rc = tarn_kv_iter_next(it)) == 1) {
        struct tarn_kv_slice k = tarn_kv_iter_key(it), v = tarn_kv_iter_value(it);

        if (got.len)
            tarn_str_addc(&got, ' ');
        tarn_str_add(&got, k.p, k.n);
        tarn_str_addc(&got, '=');
        tarn_str_add(&got, v.p, v.n);
    }
    assert_int_equal(rc, 0);
    assert_int_equal(tarn_kv_iter_next(it), 0); /* the end stays */
    tarn_kv_iter_free(&it);
    assert_null(it);
    assert_string_equal(tarn_str_z(&got), expected);
    tarn_str_fini(&got);
}
