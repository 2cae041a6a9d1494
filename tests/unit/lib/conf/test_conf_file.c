/* SPDX-License-Identifier: Apache-2.0 */
/* The YAML file: forms, errors, sections, secrets and bounds. */
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

#include "tests/unit/lib/conf/conf_fixture.h"

static void test_forms(void **state)
{
    struct conf_fixture f;

    (void)state;
    assert_int_equal(fixture_load_file(&f,
                                       "# a comment\n---\n"
                                       "read_only: yes\n"
                                       "cache-size: 1.5G\n"
                                       "region: \"eu: 1\"\n"
                                       "endpoint: 'http://127.0.0.1:9000'\n"
                                       "tier:\n  - MEM:/a:1G\n  - SSD:/b,c:2G\n"
                                       "test:\n  meta_ttl: forever\n  strict: true\n"
                                       "path-style: false\n",
                                       0644),
                     0);
    assert_true(f.p.read_only);
    assert_int_equal(f.p.cache_size, 3ULL << 29);
    assert_string_equal(f.p.region, "eu: 1");
    assert_string_equal(f.p.endpoint, "http://127.0.0.1:9000");
    assert_int_equal(f.p.tier.n, 2);
    assert_string_equal(f.p.tier.v[1], "SSD:/b,c:2G");
    assert_true(f.p.meta_ttl == TARN_TTL_FOREVER);
    assert_int_equal(f.p.strict, 1);
    assert_false(f.m.path_style);
    tarn_conf_free(&f.c);

    assert_int_equal(fixture_load_file(&f, "", 0644), 0);
    tarn_conf_free(&f.c);
    assert_int_equal(fixture_load_file(&f, "# nothing\n", 0644), 0);
    tarn_conf_free(&f.c);
    assert_int_equal(fixture_load_file(&f, "tier: [\"a\", b]\n", 0644), 0);
    assert_int_equal(f.p.tier.n, 2);
    tarn_conf_free(&f.c);
}

/* The second table is called like one of its keys: both meanings are understood. */
static void test_section_named_like_a_key(void **state)
{
    struct conf_fixture f;

    (void)state;
    assert_int_equal(fixture_load_file(&f, "worker: here:1\n", 0644), 0);
    assert_string_equal(f.m.worker, "here:1");
    tarn_conf_free(&f.c);
    assert_int_equal(fixture_load_file(&f, "worker:\n  worker: there:1\n  retries: 7\n", 0644), 0);
    assert_string_equal(f.m.worker, "there:1");
    assert_int_equal(f.m.retries, 7);
    tarn_conf_free(&f.c);
    assert_int_equal(fixture_load_file(&f, "worker:\n  retries: 70\n", 0644), -TARN_E_CONFIG);
    assert_non_null(strstr(f.e.text, ": worker.retries: \"70\" is above the maximum 10"));
    assert_int_equal(fixture_load_file(&f, "worker:\n  retires: 7\n", 0644), -TARN_E_CONFIG);
    assert_non_null(strstr(
        f.e.text, ": there is no key \"worker.retires\"; did you mean \"retries\"? (line 2)"));
}

static const struct {
    const char *text, *error; /* the part behind the path */
} bad[] = {
    {"cache-size: 10X\n", ": cache-size: \"10X\" is not a size (like 64KiB, 10GiB, 1.5G)"},
    {"cache_size:\n", ": cache_size: \"\" is not a size (like 64KiB, 10GiB, 1.5G)"},
    {"cach-size: 1G\n", ": there is no key \"cach-size\"; did you mean \"cache-size\"?"},
    {"quite-different: 1\n", ": there is no key \"quite-different\" (line 1)"},
    {"test:\n  regoin: x\n",
     ": there is no key \"test.regoin\"; did you mean \"region\"? (line 2)"},
    {"cache-size: 1G\ncache_size: 2G\n", ": cache_size is given twice"},
    {"cache-size: 1G\ntest:\n  cache-size: 2G\n", ": test.cache-size is given twice"},
    {"once: true\n", ": there is no key \"once\""},
    {"threads: [1, 2]\n", ": threads: takes one value, not a list or a map (line 1)"},
    {"tier: MEM:/a:1G\n", ": tier: takes a list (lines of \"- value\") (line 1)"},
    {"threads: {a: b}\n", ": threads: takes one value, not a list or a map (line 1)"},
    {"- a\n- b\n", ": must be a map of keys"},
    {"just text\n", ": must be a map of keys"},
    {"threads: \"4\n", ": not YAML: libyaml: found unexpected end of stream near threads"},
    {"\tthreads: 4\n", ": not YAML: "},
    {"threads: &x 4\nretries: *x\n", ": anchors and aliases are not taken"},
    {"region: |\n  text\n", ": region: the value has a control character"},
    {"threads: 3\nthreads: 5\n", ": threads: is given twice"},
    {"threads: 3\n---\nthreads: 5\n", ": holds more than one document"},
    {"tier: [a, b, c, d, e]\n", ": tier: given 5 times, but 1 to 4 are allowed"},
};

static void test_errors(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct conf_fixture f;

        assert_int_equal(fixture_load_file(&f, bad[i].text, 0644), -TARN_E_CONFIG);
        assert_int_equal(strncmp(f.e.text, fixture_path(), strlen(fixture_path())), 0);
        if (!strstr(f.e.text + strlen(fixture_path()), bad[i].error))
            fail_msg("row %zu: %s", i, f.e.text);
        assert_null(f.c);
    }
}

static void test_secret_modes(void **state)
{
    static const mode_t refused[] = {0644, 0640, 0604, 0660, 0700};
    struct conf_fixture f;

    (void)state;
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        assert_int_equal(fixture_load_file(&f, "worker:\n  token: canary-123\n", refused[i]),
                         -TARN_E_CONFIG);
        assert_non_null(strstr(f.e.text, "it must be 0600"));
        assert_null(strstr(f.e.text, "canary"));
    }
    assert_int_equal(
        fixture_load_file(&f, "worker:\n  token: canary-123\nsecret_key: canary-4\n", 0600), 0);
    assert_string_equal(f.m.token, "canary-123");
    assert_string_equal(f.p.secret_key, "canary-4");
    tarn_conf_free(&f.c);
    assert_int_equal(fixture_load_file(&f, "token: short\n", 0600), -TARN_E_CONFIG);
    assert_null(strstr(f.e.text, "short"));
    assert_int_equal(fixture_load_file(&f, "token: [canary-123]\n", 0600), -TARN_E_CONFIG);
    assert_null(strstr(f.e.text, "canary"));
    assert_int_equal(fixture_load_file(&f, "token: \"canary-123\n", 0600), -TARN_E_CONFIG);
    assert_null(strstr(f.e.text, "canary"));
}

/* Keys of other commands are accepted and ignored; the mode counts for their secrets too. */
static void test_other_tables(void **state)
{
    static const struct tarn_conf_table *const others[] = {&test_more_table, NULL};
    struct test_params p;
    const struct tarn_conf_bind bind = {&test_params_table, &p, TARN_CONF_FROM_COMMAND};
    char path[] = "/tmp/tarn_conf_XXXXXX";
    struct tarn_conf_input in = {.file = path, .others = others};
    static const char text[] = "retries: nonsense\nworker: {token: x}\nthreads: 9\n";
    struct tarn_conf *c = NULL;
    struct tarn_errbuf e = {{0}};
    int fd = mkstemp(path);

    (void)state;
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, sizeof(text) - 1), (ssize_t)sizeof(text) - 1);
    assert_int_equal(close(fd), 0);
    assert_int_equal(tarn_conf_load(&bind, 1, &in, &c, &e), 0);
    assert_int_equal(p.threads, 9);
    tarn_conf_free(&c);
    assert_int_equal(chmod(path, 0644), 0);
    assert_int_equal(tarn_conf_load(&bind, 1, &in, &c, &e), -TARN_E_CONFIG);
    in.others = NULL;
    assert_int_equal(tarn_conf_load(&bind, 1, &in, &c, &e), -TARN_E_CONFIG);
    assert_non_null(strstr(e.text, "there is no key \"retries\""));
    assert_int_equal(unlink(path), 0);
}

/* A key of two tables says nothing at the top, whichever of them is asked for. */
static void test_keys_of_several_tables(void **state)
{
    static const struct tarn_conf_param rows[] = {{.name = "timeout",
                                                   .type = TARN_CONF_T_DURATION,
                                                   .def = "9s",
                                                   .min = "",
                                                   .max = "",
                                                   .unit = "ns",
                                                   .help = "Of the twin."}};
    static const struct tarn_conf_table twin = {
        .name = "twin", .title = "A twin", .params = rows, .n = 1, .size = sizeof(uint64_t)};
    static const struct tarn_conf_table *const others[] = {&test_params_table, &twin, NULL};
    static const struct {
        const char *text;
        uint64_t params_s, twin_s; /* 0: refused */
    } files[] = {
        {"timeout: 3s\n", 0, 0},
        {"threads: 3\n", 30, 9},
        {"test: {timeout: 3s}\n", 3, 9},
        {"test: {timeout: 3s}\ntwin: {timeout: 4s}\n", 3, 4},
        {"test: {timeout: 3s}\ntimeout: 4s\n", 0, 0},
    };
    struct test_params p;
    uint64_t timeout;
    const struct tarn_conf_bind binds[] = {{&test_params_table, &p, TARN_CONF_FROM_COMMAND},
                                           {&twin, &timeout, TARN_CONF_FROM_COMMAND}};

    (void)state;
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        char path[] = "/tmp/tarn_conf_XXXXXX";
        struct tarn_conf_input in = {.file = path, .others = others};
        int fd = mkstemp(path), want = files[i].params_s ? 0 : -TARN_E_CONFIG;
        size_t len = strlen(files[i].text);

        assert_true(fd >= 0);
        assert_int_equal(write(fd, files[i].text, len), (ssize_t)len);
        assert_int_equal(close(fd), 0);
        for (size_t b = 0; b < 2; b++) {
            struct tarn_errbuf e = {{0}};
            struct tarn_conf *c = NULL;

            assert_int_equal(tarn_conf_load(&binds[b], 1, &in, &c, &e), want);
            if (want < 0)
                assert_non_null(strstr(e.text, ": timeout: means several things: write it in the "
                                               "section that is meant, one of t"));
            else
                assert_int_equal(b == 0 ? p.timeout : timeout,
                                 (b == 0 ? files[i].params_s : files[i].twin_s) * 1000000000);
            tarn_conf_free(&c);
        }
        assert_int_equal(unlink(path), 0);
    }
}

static void test_not_a_file(void **state)
{
    struct tarn_conf_input in = {.file = "/nonexistent/tarn.yaml"};
    char *big = calloc(1, TARN_CONF_FILE_MAX + 2);
    struct conf_fixture f;

    (void)state;
    assert_non_null(big);
    assert_int_equal(fixture_load(&f, &in), -TARN_E_CONFIG);
    assert_string_equal(f.e.text, "/nonexistent/tarn.yaml: No such file or directory");
    in.file = "/tmp";
    assert_int_equal(fixture_load(&f, &in), -TARN_E_CONFIG);
    in.file = "/dev/zero";
    assert_int_equal(fixture_load(&f, &in), -TARN_E_CONFIG);
    memset(big, '#', TARN_CONF_FILE_MAX);
    assert_int_equal(fixture_load_file(&f, big, 0644), 0);
    tarn_conf_free(&f.c);
    memset(big, '#', TARN_CONF_FILE_MAX + 1);
    assert_int_equal(fixture_load_file(&f, big, 0644), -TARN_E_TOO_BIG);
    free(big);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forms),
        cmocka_unit_test(test_section_named_like_a_key),
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_secret_modes),
        cmocka_unit_test(test_other_tables),
        cmocka_unit_test(test_not_a_file),
        cmocka_unit_test(test_keys_of_several_tables),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
