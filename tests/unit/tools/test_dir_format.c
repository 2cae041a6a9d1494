/* SPDX-License-Identifier: Apache-2.0 */
/* FORMAT of a cache directory: damage is never a newer version, and never refused for ever. */
#include <fcntl.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "lib/base/hash.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "tools/dir_format.h"

struct dir {
    char path[256];
    int fd;
};

static int set_up(void **state)
{
    const char *tmp = getenv("TMPDIR");
    struct dir *d = tarn_xnew(struct dir);

    (void)snprintf(d->path, sizeof(d->path), "%s/tarn-cache-XXXXXX", tmp ? tmp : "/tmp");
    assert_non_null(mkdtemp(d->path));
    d->fd = open(d->path, O_RDONLY | O_DIRECTORY);
    assert_true(d->fd >= 0);
    *state = d;
    return 0;
}

static int tear_down(void **state)
{
    struct dir *d = *state;
    char *cmd = tarn_xasprintf("rm -rf '%s'", d->path);

    (void)close(d->fd);
    assert_int_equal(system(cmd), 0);
    free(cmd);
    free(d);
    return 0;
}

static void put(const struct dir *d, const char *name, const void *p, size_t n)
{
    int fd = openat(d->fd, name, O_WRONLY | O_CREAT | O_TRUNC, 0600);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, p, n), n);
    assert_int_equal(close(fd), 0);
}

static size_t get(const struct dir *d, char buf[512])
{
    int fd = openat(d->fd, "FORMAT", O_RDONLY);
    ssize_t n = fd < 0 ? 0 : read(fd, buf, 511);

    assert_true(n >= 0);
    buf[n] = '\0';
    if (fd >= 0)
        assert_int_equal(close(fd), 0);
    return (size_t)n;
}

static int check(const struct dir *d, bool had_lock)
{
    struct tarn_errbuf err = {0};
    int rc = dir_format_check(&dir_cache, d->fd, d->path, had_lock, &err);

    if (rc < 0)
        assert_non_null(strstr(err.text, d->path));
    return rc;
}

static void fresh(void **state)
{
    struct dir *d = *state;
    char first[512], second[512];

    put(d, "LOCK", "", 0);
    put(d, "tarn.log", "x", 1);
    assert_int_equal(check(d, false), 0);
    assert_int_equal(get(d, first), strlen("tarn cache 1 0123456789abcdef\n"));
    assert_int_equal(strncmp(first, "tarn cache 1 ", 13), 0);
    assert_int_equal(check(d, true), 0);
    (void)get(d, second);
    assert_string_equal(first, second);
}

/* Any bit: it starts, and the line is whole again. */
static void flips(void **state)
{
    struct dir *d = *state;
    char right[512], now[512];
    size_t n;

    assert_int_equal(check(d, false), 0);
    n = get(d, right);
    for (size_t bit = 0; bit < n * 8; bit++) {
        memcpy(now, right, n);
        now[bit / 8] = (char)(now[bit / 8] ^ (1 << bit % 8));
        put(d, "FORMAT", now, n);
        assert_int_equal(check(d, true), 0);
        assert_int_equal(get(d, now), n);
        if (bit / 8 < n - 1) /* behind the sum nothing counts */
            assert_string_equal(now, right);
    }
    for (size_t cut = 0; cut < n - 1; cut++) {
        put(d, "FORMAT", right, cut);
        assert_int_equal(check(d, true), 0);
        (void)get(d, now);
        assert_string_equal(now, right);
    }
}

/* As versions before the sum wrote it, with any digit: only a sum makes it a newer one. */
static void without_a_sum(void **state)
{
    struct dir *d = *state;
    char now[512];

    for (unsigned version = 0; version < 1000; version += version < 12 ? 1 : 247) {
        char *line = tarn_xasprintf("tarn cache %u\n", version);

        put(d, "FORMAT", line, strlen(line));
        assert_int_equal(check(d, true), 0);
        (void)get(d, now);
        assert_int_equal(strncmp(now, "tarn cache 1 ", 13), 0);
        free(line);
    }
}

static void newer(void **state)
{
    static const char *const heads[] = {"tarn cache 2", "tarn cache 999", "tarn cache 3 and more"};
    struct dir *d = *state;
    char now[512];

    for (size_t i = 0; i < TARN_ARRAY_LEN(heads); i++) {
        char *line =
            tarn_xasprintf("%s %016" PRIx64 "\n", heads[i], tarn_xxh3(heads[i], strlen(heads[i])));

        put(d, "FORMAT", line, strlen(line));
        assert_int_equal(check(d, true), -TARN_E_FORMAT_NEWER);
        (void)get(d, now);
        assert_string_equal(now, line); /* nothing was touched */
        line[strlen("tarn cache ")] ^= 1;
        put(d, "FORMAT", line, strlen(line));
        assert_int_equal(check(d, true), 0);
        free(line);
    }
}

/* FORMAT is gone, and the rest is there. */
static void missing(void **state)
{
    struct dir *d = *state;
    char now[512];

    assert_int_equal(mkdirat(d->fd, "meta", 0700), 0);
    assert_int_equal(mkdirat(d->fd, "tier0", 0700), 0);
    put(d, "SIZE", "5", 1);
    assert_int_equal(check(d, false), -TARN_E_DIR_FOREIGN); /* not even LOCK is ours */
    assert_int_equal(get(d, now), 0);
    assert_int_equal(check(d, true), 0);
    assert_true(get(d, now) > 0);
}

static void foreign(void **state)
{
    struct dir *d = *state;
    char now[512];

    put(d, "thesis.txt", "x", 1);
    assert_int_equal(check(d, false), -TARN_E_DIR_FOREIGN);
    assert_int_equal(mkdirat(d->fd, "meta", 0700), 0);
    assert_int_equal(check(d, true), -TARN_E_DIR_FOREIGN);
    assert_int_equal(unlinkat(d->fd, "thesis.txt", 0), 0);
    assert_int_equal(unlinkat(d->fd, "meta", AT_REMOVEDIR), 0);
    put(d, "meta", "x", 1); /* what we make is a directory */
    assert_int_equal(check(d, true), -TARN_E_DIR_FOREIGN);
    assert_int_equal(get(d, now), 0);
}

#define FORMAT_TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        FORMAT_TEST(fresh), FORMAT_TEST(flips),   FORMAT_TEST(without_a_sum),
        FORMAT_TEST(newer), FORMAT_TEST(missing), FORMAT_TEST(foreign),
    };

    tarn_log_set_level(TARN_LOG_ERROR);
    return cmocka_run_group_tests_name("dir_format", tests, NULL, NULL);
}
