/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "lib/base/limits.h"
#include "lib/base/mem.h"
#include "tools/load_list.h"

/* What a list gave, as text: "PATH@LINE" or "PATH@LINE+OFFSET:LENGTH", one per line. */
struct got {
    struct tarn_str text;
    int fail_at; /* entry that the callback refuses, 0: none */
    int n;
};

static int take(void *arg, const struct load_list_item *item)
{
    struct got *g = arg;

    if (++g->n == g->fail_at)
        return -TARN_E_BUSY;
    tarn_str_addf(&g->text, "%s@%" PRIu32, item->path, item->line);
    if (item->length)
        tarn_str_addf(&g->text, "+%" PRIu64 ":%" PRIu64, item->offset, item->length);
    tarn_str_addc(&g->text, '\n');
    return 0;
}

/* Reads `text` in pieces of `piece` bytes. */
static int read_list(const char *base, const void *text, size_t len, size_t piece, struct got *g,
                     struct tarn_errbuf *err)
{
    struct load_list l;
    int rc = 0;

    load_list_init(&l, "LIST", base, take, g);
    for (size_t at = 0; at < len && rc == 0; at += piece)
        rc = load_list_feed(&l, (const char *)text + at, TARN_MIN(piece, len - at), err);
    if (rc == 0)
        rc = load_list_end(&l, err);
    load_list_fini(&l);
    return rc;
}

static void expect(const char *base, const char *text, const char *want)
{
    for (size_t piece = 1; piece <= strlen(text) + 1; piece++) {
        struct tarn_errbuf err = {{0}};
        struct got g = {0};

        assert_int_equal(read_list(base, text, strlen(text), piece, &g, &err), 0);
        assert_string_equal(tarn_str_z(&g.text), want);
        tarn_str_fini(&g.text);
    }
}

static void expect_bad(const void *text, size_t len, const char *want)
{
    for (size_t piece = 1; piece <= len + 1; piece += piece < 64 ? 1 : 997) {
        struct tarn_errbuf err = {{0}};
        struct got g = {0};

        assert_int_equal(read_list("/", text, len, piece, &g, &err), -TARN_E_USAGE);
        assert_string_equal(err.text, want);
        tarn_str_fini(&g.text);
    }
}

static void test_paths(void **state)
{
    (void)state;
    expect("/", "a\n/b/c\n", "/a@1\n/b/c@2\n");
    expect("/train", "a\n/b/c\n./d//e/", "/train/a@1\n/b/c@2\n/train/d/e@3\n");
    expect("/", "last line has no newline", "/last line has no newline@1\n");
    expect("/", " a \n", "/ a @1\n"); /* blanks are part of a name */
    expect("/", "\303\244\377\n", "/\303\244\377@1\n");
    expect("/", "/\n", "/@1\n");
}

static void test_what_is_skipped(void **state)
{
    (void)state;
    expect("/", "# comment\n\n \t \na\n#b\n./#b\nc#d\n", "/a@4\n/#b@6\n/c#d@7\n");
    expect("/", "a\r\nb\r\n\r\n", "/a@1\n/b@2\n");
}

static void test_ranges(void **state)
{
    (void)state;
    expect("/", "a\t0\t1\nb\t4096\t1048576\n", "/a@1+0:1\n/b@2+4096:1048576\n");
    expect_bad("a\t1\n", 4, "LIST:1: must be PATH, or PATH<tab>OFFSET<tab>LENGTH");
    expect_bad("ok\na\tx\t1\n", 9, "LIST:2: the offset must be a number of bytes");
    expect_bad("a\t-1\t1\n", 7, "LIST:1: the offset must be a number of bytes");
    expect_bad("a\t0\t1k\n", 7, "LIST:1: the length must be a number of bytes");
    expect_bad("a\t0\t1\t2\n", 8, "LIST:1: the length must be a number of bytes");
    expect_bad("a\t0\t0\n", 6, "LIST:1: the length must not be 0");
    expect_bad("\t0\t1\n", 5, "LIST:1: the path is missing");
    expect_bad("a\t9999999999999999999\t1\n", 24, "LIST:1: the offset must be a number of bytes");
}

static void test_bad_paths(void **state)
{
    char *text = tarn_xcalloc(1, TARN_LOAD_LIST_LINE_MAX + 8);

    (void)state;
    expect_bad("a\n\n../b\n", 8, "LIST:3: the path must not contain \"..\"");
    expect_bad("a\0b\n", 4, "LIST:1: a NUL byte: this is no list of paths");
    memset(text, 'x', 300);
    text[300] = '\n';
    expect_bad(text, 301, "LIST:1: the name is too long");
    memset(text, 'x', TARN_LOAD_LIST_LINE_MAX + 1);
    expect_bad(text, TARN_LOAD_LIST_LINE_MAX + 1, "LIST:1: the line is too long");
    for (size_t i = 0; i < 5000; i += 2)
        memcpy(text + i, "a/", 2);
    text[5000] = '\n';
    expect_bad(text, 5001, "LIST:1: the name is too long");
    free(text);
}

static void test_nothing_in_it(void **state)
{
    (void)state;
    expect_bad("", 0, "LIST: there is no path in it");
    expect_bad("# only\n\n", 8, "LIST: there is no path in it");
}

static void test_callback_ends_it(void **state)
{
    struct tarn_errbuf err = {{0}};
    struct got g = {.fail_at = 2};

    (void)state;
    assert_int_equal(read_list("/", "a\nb\nc\n", 6, 6, &g, &err), -TARN_E_BUSY);
    assert_string_equal(tarn_str_z(&g.text), "/a@1\n");
    assert_int_equal(g.n, 2);
    tarn_str_fini(&g.text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_paths),         cmocka_unit_test(test_what_is_skipped),
        cmocka_unit_test(test_ranges),        cmocka_unit_test(test_bad_paths),
        cmocka_unit_test(test_nothing_in_it), cmocka_unit_test(test_callback_ends_it),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
