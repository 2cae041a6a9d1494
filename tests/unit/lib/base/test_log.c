/* SPDX-License-Identifier: Apache-2.0 */
/* The sink is process-wide: each test opens its own file and the group ends on stderr again. */
#include "tests/unit/lib/base/base_tests.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/base/assert.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/base/mtx.h"

static char dir[64];
static char path[96];

static int setup(void **state)
{
    (void)state;
    (void)snprintf(dir, sizeof(dir), "/tmp/tarn-test-log-XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    (void)snprintf(path, sizeof(path), "%s/log", dir);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    (void)tarn_log_open(NULL, TARN_LOG_INFO, TARN_LOG_TEXT);
    (void)unlink(path);
    return rmdir(dir);
}

static int clear(void **state)
{
    (void)state;
    (void)unlink(path);
    return 0;
}

/* The file's text; free it. */
static char *slurp(const char *file)
{
    char *text = tarn_xcalloc(1, 1 << 20);
    FILE *f = fopen(file, "r");

    assert_non_null(f);
    (void)!fread(text, 1, (1 << 20) - 1, f);
    (void)fclose(f);
    return text;
}

static void test_text_line(void **state)
{
    struct stat st;

    (void)state;
    assert_int_equal(tarn_log_open(path, TARN_LOG_INFO, TARN_LOG_TEXT), 0);
    errno = EXDEV;
    tarn_info("evict", "file=%s n=%d", "a", 3);
    assert_int_equal(errno, EXDEV);
    tarn_debug("evict", "hidden");

    TARN_AUTO_FREE char *text = slurp(path);
    assert_int_equal(text[4], '-');
    assert_int_equal(text[10], 'T');
    assert_int_equal(text[23], 'Z');
    assert_memory_equal(text + 24, " info  ", 7);
    assert_non_null(strstr(text, " evict: file=a n=3\n"));
    assert_null(strstr(text, "hidden"));
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
}

static void test_levels(void **state)
{
    static const char *const names[] = {"debug", "info", "warn", "error"};
    enum tarn_log_level level = TARN_LOG_ERROR;

    (void)state;
    for (int i = 0; i < 4; i++) {
        assert_int_equal(tarn_log_level_parse(names[i], &level), 0);
        assert_int_equal(level, i);
    }
    assert_int_equal(tarn_log_level_parse("WARN", &level), -TARN_E_INVALID);
    assert_int_equal(tarn_log_level_parse("", &level), -TARN_E_INVALID);
    assert_int_equal(tarn_log_open(path, TARN_LOG_WARN, TARN_LOG_TEXT), 0);
    assert_false(tarn_log_enabled(TARN_LOG_INFO));
    assert_true(tarn_log_enabled(TARN_LOG_WARN));
    tarn_info("a", "hidden");
    tarn_error("a", "shown");
    tarn_log_set_level(TARN_LOG_DEBUG);
    tarn_debug("a", "detail");

    TARN_AUTO_FREE char *text = slurp(path);
    assert_null(strstr(text, "hidden"));
    assert_non_null(strstr(text, "error"));
    assert_non_null(strstr(text, "a: shown\n"));
    assert_non_null(strstr(text, "a: detail\n"));
}

/* Each input in both formats: what the line holds. */
static void test_escaping(void **state)
{
    static const struct {
        const char *in;
        const char *text;
        const char *json;
    } rows[] = {
        {"plain", "plain", "plain"},
        {"a\nb", "a\\x0ab", "a\\u000ab"},
        {"a\r\t\x01", "a\\x0d\\x09\\x01", "a\\u000d\\u0009\\u0001"},
        {"\x1b[31m", "\\x1b[31m", "\\u001b[31m"},
        {"\x7f", "\\x7f", "\\u007f"},
        {"q\"q", "q\"q", "q\\\"q"},
        {"b\\b", "b\\b", "b\\\\b"},
        {"caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80", "caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80",
         "caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80"},
        {"\xff", "\\xff", "\\u00ff"},                                 /* never in UTF-8 */
        {"\xc3(", "\\xc3(", "\\u00c3("},                              /* cut */
        {"\xc3", "\\xc3", "\\u00c3"},                                 /* cut by the end */
        {"\xc0\xaf", "\\xc0\\xaf", "\\u00c0\\u00af"},                 /* overlong '/' */
        {"\xed\xa0\x80", "\\xed\\xa0\\x80", "\\u00ed\\u00a0\\u0080"}, /* surrogate */
        {"\xf4\x90\x80\x80", "\\xf4\\x90\\x80\\x80", "\\u00f4\\u0090\\u0080\\u0080"},
        {"\xc2\x9b", "\\xc2\\x9b", "\\u00c2\\u009b"}, /* C1 control: CSI */
    };

    (void)state;
    for (size_t i = 0; i < 2 * TARN_ARRAY_LEN(rows); i++) {
        int json = i & 1;
        char want[128];

        (void)unlink(path);
        assert_int_equal(tarn_log_open(path, TARN_LOG_INFO, json ? TARN_LOG_JSON : TARN_LOG_TEXT),
                         0);
        tarn_info("t", "<%s>", rows[i / 2].in);
        TARN_AUTO_FREE char *text = slurp(path);
        (void)snprintf(want, sizeof(want), "<%s>", json ? rows[i / 2].json : rows[i / 2].text);
        if (!strstr(text, want))
            fail_msg("wanted %s in %s", want, text);
        assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1); /* one line */
    }
}

static void test_json_shape(void **state)
{
    (void)state;
    assert_int_equal(tarn_log_open(path, TARN_LOG_INFO, TARN_LOG_JSON), 0);
    tarn_warn("net", "peer=%s", "x");

    TARN_AUTO_FREE char *text = slurp(path);
    assert_memory_equal(text, "{\"time\":\"", 9);
    assert_non_null(strstr(text, "\"level\":\"warn\",\"thread\":"));
    assert_non_null(strstr(text, ",\"subsys\":\"net\",\"msg\":\"peer=x\"}\n"));
}

/* However long and however much it grows by escaping: one whole line. */
static void test_long_lines(void **state)
{
    static const char fill[] = {'x', '\n', '"', '\xff'};
    char big[9000];

    (void)state;
    for (size_t i = 0; i < sizeof(fill); i++) {
        (void)unlink(path);
        assert_int_equal(tarn_log_open(path, TARN_LOG_INFO, TARN_LOG_JSON), 0);
        memset(big, fill[i], sizeof(big) - 1);
        big[sizeof(big) - 1] = 0;
        tarn_info("t", "%s", big);
        TARN_AUTO_FREE char *text = slurp(path);
        assert_in_range(strlen(text), 1500, 5000);
        assert_string_equal(text + strlen(text) - 3, "\"}\n");
        assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1);
    }
}

static void test_open_errors_and_reopen(void **state)
{
    char moved[128], big[5000];

    (void)state;
    assert_int_equal(tarn_log_open("/nonexistent/x", TARN_LOG_INFO, TARN_LOG_TEXT), -ENOENT);
    memset(big, 'x', sizeof(big) - 1);
    big[sizeof(big) - 1] = 0;
    assert_int_equal(tarn_log_open(big, TARN_LOG_INFO, TARN_LOG_TEXT), -ENAMETOOLONG);
    assert_int_equal(tarn_log_open(path, TARN_LOG_INFO, TARN_LOG_TEXT), 0);
    tarn_info("t", "first");
    (void)snprintf(moved, sizeof(moved), "%s.1", path);
    assert_int_equal(rename(path, moved), 0);
    tarn_info("t", "second");
    tarn_log_reopen();
    tarn_info("t", "third");

    TARN_AUTO_FREE char *old = slurp(moved);
    TARN_AUTO_FREE char *new = slurp(path);
    (void)unlink(moved);
    assert_non_null(strstr(old, "first"));
    assert_non_null(strstr(old, "second"));
    assert_null(strstr(old, "third"));
    assert_non_null(strstr(new, "third"));
}

static void test_limited(void **state)
{
    struct tarn_log_limit lim = {0};
    unsigned long dropped = 99, shown = 0, left_out = 0;

    (void)state;
    assert_true(tarn_log_limited(&lim, &dropped));
    assert_int_equal(dropped, 0);
    for (int i = 0; i < 10; i++) { /* a second may begin in between */
        if (tarn_log_limited(&lim, &dropped)) {
            shown++;
            left_out += dropped;
        }
    }
    assert_true(shown <= 2);
    lim.last_s = 1; /* long ago */
    assert_true(tarn_log_limited(&lim, &dropped));
    assert_int_equal(left_out + dropped + shown, 10);
}

static void *log_many(void *arg)
{
    for (int i = 0; i < 200; i++)
        tarn_info("thr", "<%s %d>", (const char *)arg, i);
    return NULL;
}

static void test_threads(void **state)
{
    static char a[] = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", b[] = "bbbbbbbbbbbbbbbbbbbbbbbbbbb";
    pthread_t ta, tb;
    size_t lines = 0;

    (void)state;
    assert_int_equal(tarn_log_open(path, TARN_LOG_INFO, TARN_LOG_TEXT), 0);
    assert_int_equal(tarn_thread_start(&ta, "log-a", log_many, a), 0);
    assert_int_equal(tarn_thread_start(&tb, "log-b", log_many, b), 0);
    assert_int_equal(pthread_join(ta, NULL), 0);
    assert_int_equal(pthread_join(tb, NULL), 0);

    TARN_AUTO_FREE char *text = slurp(path);
    for (char *p = text, *end; (end = strchr(p, '\n')) != NULL; p = end + 1) {
        assert_int_equal(end[-1], '>');
        lines++;
    }
    assert_int_equal(lines, 400);
}

static void assertion(void)
{
    TARN_ASSERT(1 + 1 == 3);
}

static void unreachable(void)
{
    TARN_UNREACHABLE("no such state");
}

static void test_assert_line(void **state)
{
    (void)state;
    assert_int_equal(tarn_log_open(path, TARN_LOG_INFO, TARN_LOG_TEXT), 0);
    assert_true(base_dies(assertion));
    assert_true(base_dies(unreachable));

    TARN_AUTO_FREE char *text = slurp(path);
    assert_non_null(strstr(text, "assertion(): 1 + 1 == 3"));
    assert_non_null(strstr(text, "test_log.c:"));
    assert_non_null(strstr(text, "unreachable: no such state"));
}

int base_run_log(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_text_line, clear),
        cmocka_unit_test_teardown(test_levels, clear),
        cmocka_unit_test_teardown(test_escaping, clear),
        cmocka_unit_test_teardown(test_json_shape, clear),
        cmocka_unit_test_teardown(test_long_lines, clear),
        cmocka_unit_test_teardown(test_open_errors_and_reopen, clear),
        cmocka_unit_test_teardown(test_limited, clear),
        cmocka_unit_test_teardown(test_threads, clear),
        cmocka_unit_test_teardown(test_assert_line, clear),
    };

    return cmocka_run_group_tests_name("base/log", tests, setup, teardown);
}
