/* SPDX-License-Identifier: Apache-2.0 */
/* Values, bounds, precedence, options, secrets and what is printed of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "lib/base/str.h"
#include "tests/unit/lib/conf/conf_fixture.h"

#define GIB (1ULL << 30)
#define SEC 1000000000ULL

static void test_defaults(void **state)
{
    struct tarn_conf_input in = {0};
    struct conf_fixture f;

    (void)state;
    assert_int_equal(fixture_load(&f, &in), 0);
    assert_false(f.p.read_only);
    assert_int_equal(f.p.threads, 4);
    assert_int_equal(f.p.cache_size, 10 * GIB);
    assert_int_equal(f.p.mem_size, 0);
    assert_int_equal(f.p.timeout, 30 * SEC);
    assert_int_equal(f.p.bandwidth, 0);
    assert_int_equal(f.p.high, 9800);
    assert_int_equal(f.p.low, 9500);
    assert_string_equal(f.p.region, "local");
    assert_string_equal(f.p.endpoint, "");
    assert_int_equal(f.p.log_level, 1);
    assert_int_equal(f.p.strict, 0);
    assert_int_equal(f.p.tier.n, 2);
    assert_string_equal(f.p.tier.v[0], "MEM:/m:1G");
    assert_string_equal(f.p.tier.v[1], "a,b");
    assert_int_equal(f.p.option.n, 0);
    assert_int_equal(f.p.meta_ttl, 60 * SEC);
    assert_true(f.m.path_style);
    assert_true(tarn_conf_is_set(f.c, "cache-size"));
    assert_false(tarn_conf_is_set(f.c, "mem_size"));
    assert_string_equal(tarn_conf_source(f.c, "cache_size"), "default");
    tarn_conf_free(&f.c);
    assert_null(f.c);
    tarn_conf_free(&f.c);
}

/* key, text, expected error ("" = accepted) */
static const struct {
    const char *key, *value, *error;
} values[] = {
    {"cache-size", "10X", "--cache-size: \"10X\" is not a size (like 64KiB, 10GiB, 1.5G)"},
    {"cache-size", "", "--cache-size: \"\" is not a size (like 64KiB, 10GiB, 1.5G)"},
    {"cache-size", "1MiB", "--cache-size: \"1MiB\" is below the minimum 64MiB"},
    {"cache-size", "2TiB", "--cache-size: \"2TiB\" is above the maximum 1TiB"},
    {"cache-size", "64MiB", ""},
    {"cache-size", "1TiB", ""},
    {"cache_size", "1.5G", ""},
    {"threads", "0", "--threads: \"0\" is below the minimum 1"},
    {"threads", "-1", "--threads: \"-1\" is not a number (decimal digits)"},
    {"threads", "65", "--threads: \"65\" is above the maximum 64"},
    {"timeout", "30", "--timeout: \"30\" is not a duration (like 500ms, 30s, 2h)"},
    {"timeout", "500us", "--timeout: \"500us\" is below the minimum 1ms"},
    {"bandwidth", "200MiB", "--bandwidth: \"200MiB\" is not a rate (like 200MiB/s)"},
    {"bandwidth", "200MiB/s", ""},
    {"high", "95", "--high: \"95\" is not a percentage (like 95% or 0.95)"},
    {"high", "99.5%", "--high: \"99.5%\" is above the maximum 99%"},
    {"high", "0.96", ""},
    {"high", "60%", "low is above high"},
    {"read-only", "maybe", "--read-only: \"maybe\" is not a switch (true or false)"},
    {"region", "", "--region: the value has 0 bytes, fewer than the minimum 1"},
    {"region", "aaaaaaaaaaaaaaaaaaaaa",
     "--region: the value has 21 bytes, more than the maximum 20"},
    {"region", "a\nb", "--region: the value has a control character (byte 2)"},
    {"log-level", "trace", "--log-level: \"trace\" is none of debug, info, warn, error"},
    {"log-level", "inof",
     "--log-level: \"inof\" is none of debug, info, warn, error; did you mean \"info\"?"},
    {"meta-ttl", "forever", ""},
    {"meta-ttl", "always", ""},
    {"meta-ttl", "500ms", "--meta-ttl: \"500ms\" is below the minimum 1s"},
    {"meta-ttl", "ever",
     "--meta-ttl: \"ever\" is not a time to trust (a duration like 60s, or forever, or always)"},
    {"cache-size", "1\t2\x01", "--cache-size: \"1?2?\" is not a size (like 64KiB, 10GiB, 1.5G)"},
};

static void test_values(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
        struct conf_fixture f;
        int rc = fixture_load_flag(&f, values[i].key, values[i].value);

        assert_string_equal(f.e.text, values[i].error);
        assert_int_equal(rc, values[i].error[0] ? -TARN_E_CONFIG : 0);
        if (rc < 0) {
            assert_null(f.c);
            assert_null(f.p.region); /* zeroed */
        } else {
            assert_string_equal(tarn_conf_source(f.c, values[i].key) + 0,
                                strcmp(values[i].key, "cache_size") == 0
                                    ? "flag --cache-size"
                                    : tarn_conf_source(f.c, values[i].key));
        }
        tarn_conf_free(&f.c);
    }
}

static void test_ttl_and_bare(void **state)
{
    struct conf_fixture f;

    (void)state;
    assert_int_equal(fixture_load_flag(&f, "meta-ttl", "forever"), 0);
    assert_true(f.p.meta_ttl == TARN_TTL_FOREVER);
    tarn_conf_free(&f.c);
    assert_int_equal(fixture_load_flag(&f, "meta-ttl", "always"), 0);
    assert_true(f.p.meta_ttl == TARN_TTL_ALWAYS);
    tarn_conf_free(&f.c);
    assert_int_equal(fixture_load_flag(&f, "strict", "true"), 0);
    assert_int_equal(f.p.strict, 1);
    tarn_conf_free(&f.c);
    assert_int_equal(fixture_load_flag(&f, "strict", "eacces"), 0);
    assert_int_equal(f.p.strict, 2);
    tarn_conf_free(&f.c);
    assert_int_equal(fixture_load_flag(&f, "strict", "no"), 0);
    assert_int_equal(f.p.strict, 0);
    tarn_conf_free(&f.c);
}

static const char *write_file(const char *text)
{
    static char path[64];
    int fd;

    (void)snprintf(path, sizeof(path), "/tmp/tarn_conf_XXXXXX");
    fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    assert_int_equal(close(fd), 0);
    return path;
}

/* Each source in turn wins over the weaker ones. */
static void test_precedence(void **state)
{
    static const struct tarn_conf_arg args[] = {{"cache-size", "3GiB", "--cache-size"},
                                                {"cache-size", "4GiB", "--cache-size"}};
    const char *path = write_file("cache-size: 1GiB\nworker:\n  retries: 5\n");
    char config[80], where[96];
    const char *env[] = {"HOME=/",         config, "TARN_CACHE_SIZE=2GiB", "TARN_CACHE_SIZES=9GiB",
                         "TARN_RETRIES=9", NULL};
    const char *const opts[] = {"retries=6"};
    struct tarn_conf_input in = {.file_key = "config"};
    struct conf_fixture f;

    (void)state;
    (void)snprintf(config, sizeof(config), "TARN_CONFIG=%s", path);
    in.file = path;
    assert_int_equal(fixture_load(&f, &in), 0);
    assert_int_equal(f.p.cache_size, 1 * GIB);
    (void)snprintf(where, sizeof(where), "file %s:cache-size", path);
    assert_string_equal(tarn_conf_source(f.c, "cache-size"), where);
    tarn_conf_free(&f.c);

    in.file = NULL; /* found through the environment */
    in.env = env;
    assert_int_equal(fixture_load(&f, &in), 0);
    assert_int_equal(f.p.cache_size, 2 * GIB);
    assert_string_equal(tarn_conf_source(f.c, "cache-size"), "env TARN_CACHE_SIZE");
    assert_int_equal(f.m.retries, 5); /* the table does not take the environment */
    (void)snprintf(where, sizeof(where), "file %s:worker.retries", path);
    assert_string_equal(tarn_conf_source(f.c, "retries"), where);
    tarn_conf_free(&f.c);

    in.opts = opts;
    in.n_opts = 1;
    in.args = args;
    in.n_args = 2;
    assert_int_equal(fixture_load(&f, &in), 0);
    assert_int_equal(f.p.cache_size, 4 * GIB);
    assert_string_equal(tarn_conf_source(f.c, "cache-size"), "flag --cache-size");
    assert_int_equal(f.m.retries, 6);
    assert_string_equal(tarn_conf_source(f.c, "retries"), "option retries");
    tarn_conf_free(&f.c);
    assert_int_equal(unlink(path), 0);
}

/* A weaker source's bad value is an error too, and an empty variable is unset. */
static void test_environment(void **state)
{
    const char *bad[] = {"TARN_TIMEOUT=soon", NULL}, *empty[] = {"TARN_TIMEOUT=", NULL},
               *list[] = {"TARN_TIER=a:b,,c\\,d", NULL};
    struct tarn_conf_input in = {.env = bad};
    struct conf_fixture f;

    (void)state;
    assert_int_equal(fixture_load(&f, &in), -TARN_E_CONFIG);
    assert_string_equal(f.e.text, "TARN_TIMEOUT: \"soon\" is not a duration (like 500ms, 30s, 2h)");
    in.env = empty;
    assert_int_equal(fixture_load(&f, &in), 0);
    assert_int_equal(f.p.timeout, 30 * SEC);
    tarn_conf_free(&f.c);
    in.env = list;
    assert_int_equal(fixture_load(&f, &in), 0);
    assert_int_equal(f.p.tier.n, 2);
    assert_string_equal(f.p.tier.v[1], "c,d");
    tarn_conf_free(&f.c);
}

static void test_lists(void **state)
{
    struct tarn_conf_arg args[5] = {0};
    struct tarn_conf_input in = {.args = args, .n_args = 3};
    struct conf_fixture f;

    (void)state;
    for (int i = 0; i < 5; i++)
        args[i] = (struct tarn_conf_arg){"tier", i % 2 ? "SSD:/b,c:1G" : "MEM:/a:1G", "--tier"};
    assert_int_equal(fixture_load(&f, &in), 0);
    assert_int_equal(f.p.tier.n, 3); /* the default is replaced, commas stay */
    assert_string_equal(f.p.tier.v[1], "SSD:/b,c:1G");
    tarn_conf_free(&f.c);
    in.n_args = 5;
    assert_int_equal(fixture_load(&f, &in), -TARN_E_CONFIG);
    assert_string_equal(f.e.text, "--tier: given 5 times, but 1 to 4 are allowed");
}

static int load_opt(struct conf_fixture *f, const char *text, bool trusted)
{
    struct tarn_conf_input in = {.opts = &text, .n_opts = 1, .opts_trusted = trusted};

    return fixture_load(f, &in);
}

static void test_options(void **state)
{
    struct conf_fixture f;

    (void)state;
    assert_int_equal(load_opt(&f, "worker=a\\,b\\\\c,retries=1,no-path-style", false), 0);
    assert_string_equal(f.m.worker, "a,b\\c");
    assert_int_equal(f.m.retries, 1);
    assert_false(f.m.path_style);
    tarn_conf_free(&f.c);
    assert_int_equal(load_opt(&f, "path_style=off,path-style,", false), 0);
    assert_true(f.m.path_style);
    tarn_conf_free(&f.c);
    assert_int_equal(load_opt(&f, "worker=", false), 0);
    assert_string_equal(tarn_conf_source(f.c, "worker"), "option worker");
    tarn_conf_free(&f.c);
    assert_int_equal(load_opt(&f, "retires=1", false), -TARN_E_CONFIG);
    assert_string_equal(f.e.text, "-o retires: there is no such option; did you mean retries?");
    assert_int_equal(load_opt(&f, "retries", false), -TARN_E_CONFIG);
    assert_string_equal(f.e.text, "-o retries: needs a value (retries=N)");
    assert_int_equal(load_opt(&f, "retries=11", false), -TARN_E_CONFIG);
    assert_string_equal(f.e.text, "-o retries: \"11\" is above the maximum 10");
    assert_int_equal(load_opt(&f, "no-retries", false), -TARN_E_CONFIG);
    assert_int_equal(load_opt(&f, "threads=2", false), -TARN_E_CONFIG); /* of the other table */
    assert_int_equal(load_opt(&f, "=x", false), -TARN_E_CONFIG);
}

static void test_secrets(void **state)
{
    const char *env[] = {"TARN_SECRET_KEY=canary-1", NULL};
    struct tarn_conf_input in = {.env = env};
    struct tarn_str out = {0};
    struct conf_fixture f;

    (void)state;
    assert_int_equal(fixture_load_flag(&f, "secret-key", "canary-2"), -TARN_E_SECRET_ARGV);
    assert_int_equal(tarn_err_exit(-TARN_E_SECRET_ARGV), TARN_EXIT_USAGE);
    assert_string_equal(
        f.e.text, "--secret-key: secrets are not taken on the command line, where others can read "
                  "them; use secret-file=FILE, the environment variable TARN_SECRET_KEY, or "
                  "\"secret-key:\" in a config file of mode 0600");
    assert_int_equal(load_opt(&f, "token=canary-345", false), -TARN_E_SECRET_ARGV);
    assert_null(strstr(f.e.text, "canary"));
    assert_int_equal(load_opt(&f, "token=canary", true),
                     -TARN_E_CONFIG); /* too short, and not shown */
    assert_null(strstr(f.e.text, "canary"));
    assert_int_equal(load_opt(&f, "token=canary-345", true), 0);
    assert_string_equal(f.m.token, "canary-345");
    tarn_conf_free(&f.c);

    assert_int_equal(fixture_load(&f, &in), 0);
    assert_string_equal(f.p.secret_key, "canary-1");
    tarn_conf_print_text(f.c, &out);
    tarn_conf_print_json(f.c, &out);
    assert_non_null(strstr(tarn_str_z(&out), "secret-key: (set)  # env TARN_SECRET_KEY"));
    assert_non_null(strstr(tarn_str_z(&out), "\"value\":\"(set)\""));
    assert_null(strstr(tarn_str_z(&out), "canary"));
    tarn_conf_free(&f.c);

    /* Inside a list of store options, also of a table that is not bound. */
    env[0] =
        "TARN_OPTION=region=x\\,token=canary-3\\,session-token=canary-4\\,secret-file=/f,plain";
    assert_int_equal(fixture_load(&f, &in), 0);
    tarn_str_reset(&out);
    tarn_conf_print_text(f.c, &out);
    tarn_conf_print_json(f.c, &out);
    assert_null(strstr(tarn_str_z(&out), "canary"));
    assert_non_null(
        strstr(tarn_str_z(&out),
               "option: region=x,token=(set),session-token=(set),secret-file=/f, plain  # env"));
    tarn_str_fini(&out);
    tarn_conf_free(&f.c);
}

/* A table may keep out of the environment. */
static void test_no_environment(void **state)
{
    const char *env[] = {"TARN_SECRET_KEY=canary-1", "TARN_THREADS=7", NULL};
    struct tarn_conf_arg arg = {"secret-key", "canary-2", "--secret-key"};
    struct tarn_conf_input in = {.env = env};
    struct tarn_conf_table table = test_params_table;
    struct tarn_errbuf e = {{0}};
    struct tarn_str out = {0};
    struct tarn_conf *c = NULL;
    struct test_params p;
    const struct tarn_conf_bind bind = {&table, &p, TARN_CONF_FROM_COMMAND};

    (void)state;
    table.no_env = true;
    assert_int_equal(tarn_conf_load(&bind, 1, &in, &c, &e), 0);
    assert_string_equal(p.secret_key, "");
    assert_int_equal(p.threads, 4);
    tarn_conf_free(&c);
    in.args = &arg;
    in.n_args = 1;
    assert_int_equal(tarn_conf_load(&bind, 1, &in, &c, &e), -TARN_E_SECRET_ARGV);
    assert_null(strstr(e.text, "TARN_"));
    tarn_conf_markdown(&table, &out);
    assert_null(strstr(tarn_str_z(&out), "TARN_"));
    assert_non_null(strstr(tarn_str_z(&out), "| `threads` |  | uint | "));
    tarn_str_fini(&out);
}

/* A row may be of the command line alone. */
static void test_of_the_line_alone(void **state)
{
    const char *env[] = {"TARN_ONCE=true", NULL};
    const struct tarn_conf_arg arg = {"once", "true", "--once"};
    struct tarn_conf_input in = {.env = env};
    struct tarn_errbuf e = {{0}};
    struct tarn_str out = {0};
    struct tarn_conf *c = NULL;
    struct test_params p;
    const struct tarn_conf_bind bind = {&test_params_table, &p, TARN_CONF_FROM_COMMAND};

    (void)state;
    assert_int_equal(tarn_conf_load(&bind, 1, &in, &c, &e), 0);
    assert_false(p.once);
    tarn_conf_free(&c);
    in.args = &arg;
    in.n_args = 1;
    assert_int_equal(tarn_conf_load(&bind, 1, &in, &c, &e), 0);
    assert_true(p.once);
    tarn_conf_free(&c);
    tarn_conf_markdown(&test_params_table, &out);
    assert_null(strstr(tarn_str_z(&out), "TARN_ONCE"));
    assert_non_null(strstr(tarn_str_z(&out), "| `once` |  | bool | `false` |  |  | on the command "
                                             "line alone | Of this run alone. |"));
    tarn_str_fini(&out);
}

/* What stands in front of the '@' of a URL is for nobody's eyes. */
static void test_urls(void **state)
{
    static const struct {
        const char *text, *shown;
    } urls[] = {{"http://user:canary@h:1/x", "http://(set)@h:1/x"},
                {"http://us/er:ca@nary/@h", "http://(set)@h"},
                {"http://h:1/x", "http://h:1/x"},
                {"file:///a@b", "file:///a@b"},
                {"me@h", "me@h"}};
    struct tarn_str out = {0};
    struct conf_fixture f;

    (void)state;
    for (size_t i = 0; i < sizeof(urls) / sizeof(urls[0]); i++) {
        char option[64], wanted[64];
        const struct tarn_conf_arg args[] = {{"endpoint", urls[i].text, "--endpoint"},
                                             {"option", option, "-o"}};
        struct tarn_conf_input in = {.args = args, .n_args = 2};

        (void)snprintf(option, sizeof(option), "proxy=%s", urls[i].text);
        assert_int_equal(fixture_load(&f, &in), 0);
        tarn_str_reset(&out);
        tarn_conf_print_text(f.c, &out);
        tarn_conf_print_json(f.c, &out);
        assert_null(strstr(tarn_str_z(&out), "canary"));
        (void)snprintf(wanted, sizeof(wanted), "endpoint: %s  #", urls[i].shown);
        assert_non_null(strstr(tarn_str_z(&out), wanted));
        (void)snprintf(wanted, sizeof(wanted), "\"proxy=%s\"", urls[i].shown);
        assert_non_null(strstr(tarn_str_z(&out), wanted));
        tarn_conf_free(&f.c);
    }
    tarn_str_fini(&out);
}

static void test_manual_page(void **state)
{
    struct tarn_str out = {0};

    (void)state;
    tarn_conf_man_text(".so x\n'y a-b\\", &out);
    assert_string_equal(tarn_str_z(&out), "\\&.so x\n\\&'y a\\-b\\e");
    tarn_str_reset(&out);
    tarn_conf_man(&test_params_table, NULL, NULL, &out);
    assert_non_null(strstr(tarn_str_z(&out), ".TP\n\\fB\\-\\-cache\\-size\\fR \\fISIZE\\fR\n"));
    assert_null(strstr(tarn_str_z(&out), "-secret\\-key"));
    tarn_str_fini(&out);
}

static void test_print(void **state)
{
    static const struct tarn_conf_arg args[] = {{"region", "a\"b\\c\xc3\xa9\xff", "--region"},
                                                {"tier", "x", "--tier"}};
    struct tarn_conf_input in = {.args = args, .n_args = 2};
    struct tarn_str out = {0};
    struct conf_fixture f;

    (void)state;
    assert_int_equal(fixture_load(&f, &in), 0);
    tarn_conf_print_text(f.c, &out);
    assert_non_null(strstr(tarn_str_z(&out), "# Test parameters\nread-only: false  # default\n"));
    assert_non_null(strstr(tarn_str_z(&out), "tier: x  # flag --tier\n"));
    assert_non_null(strstr(tarn_str_z(&out), "mem-size:  # default\n"));
    assert_null(strstr(tarn_str_z(&out), "debug-knob"));
    tarn_str_reset(&out);
    tarn_conf_print_json(f.c, &out);
    assert_true(tarn_starts_with(tarn_str_z(&out),
                                 "{\"parameters\":[{\"key\":\"read-only\",\"table\":\"test\","
                                 "\"value\":false,\"source\":\"default\"}"));
    assert_non_null(strstr(tarn_str_z(&out), "\"value\":\"a\\\"b\\\\c\xc3\xa9\\ufffd\""));
    assert_non_null(
        strstr(tarn_str_z(&out), "\"key\":\"threads\",\"table\":\"test\",\"value\":4,"));
    assert_non_null(
        strstr(tarn_str_z(&out), "\"key\":\"mem-size\",\"table\":\"test\",\"value\":null,"));
    assert_non_null(
        strstr(tarn_str_z(&out), "\"key\":\"tier\",\"table\":\"test\",\"value\":[\"x\"],"));
    tarn_str_fini(&out);
    tarn_conf_free(&f.c);
}

static void test_runtime(void **state)
{
    struct tarn_conf_input in = {0};
    struct tarn_errbuf e;
    struct conf_fixture f;

    (void)state;
    assert_int_equal(fixture_load(&f, &in), 0);
    assert_int_equal(tarn_conf_set(f.c, "cache-size", "1GiB", &e), 0);
    assert_int_equal(f.p.cache_size, GIB);
    assert_string_equal(tarn_conf_source(f.c, "cache-size"), "set");
    assert_int_equal(tarn_conf_set(f.c, "cache-size", "1", &e), -TARN_E_CONFIG);
    assert_int_equal(tarn_conf_set(f.c, "high", "90%", &e),
                     -TARN_E_CONFIG); /* below low: put back */
    assert_int_equal(f.p.high, 9800);
    assert_int_equal(tarn_conf_set(f.c, "region", "x", &e), -TARN_E_CONFIG);
    assert_int_equal(tarn_conf_set(f.c, "nothing", "x", &e), -TARN_E_CONFIG);
    assert_int_equal(f.p.cache_size, GIB);
    assert_int_equal(tarn_conf_set(f.c, "bandwidth", "2MiB/s", &e), 0);
    assert_int_equal(f.p.bandwidth, 2 << 20);
    tarn_conf_free(&f.c);
}

/* The same rows as tools/dev/gen_docs.py: tests/proc/test_dev_tools.py compares with this file. */
static void test_markdown(void **state)
{
    struct tarn_str out = {0};

    (void)state;
    tarn_conf_markdown(&test_params_table, &out);
    assert_non_null(
        strstr(tarn_str_z(&out),
               "| `cache-size` | `TARN_CACHE_SIZE` | size | `10GiB` | from 64MiB to 1TiB | bytes | "
               "changeable while running | Bytes that the cache may use. |\n"));
    assert_non_null(strstr(tarn_str_z(&out), "| enum | `off` | off\\|enoent\\|eacces |"));
    assert_non_null(strstr(tarn_str_z(&out), "with \\| in it."));
    assert_null(strstr(tarn_str_z(&out), "debug-knob"));
    if (getenv("TARN_TEST_MARKDOWN"))
        (void)!write(STDOUT_FILENO, out.p, out.len);
    tarn_str_fini(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_ttl_and_bare),
        cmocka_unit_test(test_precedence),
        cmocka_unit_test(test_environment),
        cmocka_unit_test(test_lists),
        cmocka_unit_test(test_options),
        cmocka_unit_test(test_secrets),
        cmocka_unit_test(test_print),
        cmocka_unit_test(test_runtime),
        cmocka_unit_test(test_markdown),
        cmocka_unit_test(test_no_environment),
        cmocka_unit_test(test_of_the_line_alone),
        cmocka_unit_test(test_urls),
        cmocka_unit_test(test_manual_page),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
