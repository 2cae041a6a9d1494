/* SPDX-License-Identifier: Apache-2.0 */
/* The command line: every spelling, what is refused, and what reaches the loader. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "lib/base/str.h"
#include "lib/conf/flags.h"
#include "lib/conf/suggest.h"
#include "tests/unit/lib/conf/conf_fixture.h"

static const struct tarn_conf_table *const tables[] = {&test_params_table, NULL};
static const struct tarn_conf_table *const opt_tables[] = {&test_more_table, NULL};
static const struct tarn_flags_short shorts[] = {
    {'r', "read-only"}, {'n', "threads"}, {'o', "option"}, {'s', "strict"}};
static const struct tarn_flags_spec spec = {
    .command = "tarn test",
    .args = "URI MOUNTPOINT",
    .summary = "Tests flags.",
    .tables = tables,
    .shorts = shorts,
    .n_shorts = 4,
    .opt_key = "option",
    .opt_tables = opt_tables,
    .min_args = 0,
    .max_args = 2,
};

#define LINE_MAX_ARGS 12

/* A parsed line; argv is writable, as main's is. */
struct line {
    char text[512];            /* the words */
    char *argv[LINE_MAX_ARGS]; /* into text */
    int argc;                  /* words */
    int used;                  /* read by the parser */
    struct tarn_flags *f;      /* result */
    struct tarn_errbuf e;      /* error */
};

/* Parses the words of `text`, which are separated by single spaces. */
static int parse_as(struct line *l, const struct tarn_flags_spec *s, const char *text)
{
    char *save = NULL;

    memset(l, 0, sizeof(*l));
    (void)snprintf(l->text, sizeof(l->text), "%s", text);
    for (char *w = strtok_r(l->text, " ", &save); w; w = strtok_r(NULL, " ", &save)) {
        assert_true(l->argc < LINE_MAX_ARGS);
        l->argv[l->argc++] = w;
    }
    l->f = tarn_flags_new();
    return tarn_flags_parse(l->f, s, l->argc, l->argv, &l->used, &l->e);
}

static int parse(struct line *l, const char *text)
{
    return parse_as(l, &spec, text);
}

/* One line, one key, its value; NULL: not on the line. */
static const struct {
    const char *line, *key, *value;
} good[] = {
    {"--cache-size 1GiB", "cache-size", "1GiB"},
    {"--cache-size=1GiB", "cache_size", "1GiB"},
    {"--cache_size=1GiB", "cache-size", "1GiB"},
    {"--cache-size=", "cache-size", ""},
    {"--cache-size 1 --cache-size 2", "cache-size", "2"},
    {"--read-only", "read-only", "true"},
    {"--no-read-only", "read-only", "false"},
    {"--read-only=off", "read-only", "off"},
    {"--strict", "strict", "true"},
    {"--strict=eacces", "strict", "eacces"},
    {"--no-strict", "strict", "false"},
    {"--strict /data", "strict", "true"},
    {"-r", "read-only", "true"},
    {"-rn5", "threads", "5"},
    {"-rn 5", "threads", "5"},
    {"-rsn 5", "strict", "true"},
    {"-oa=b,c=d", "option", "a=b,c=d"},
    {"-o a=b", "option", "a=b"},
    {"-n -", "threads", "-"},
    {"--region -x", "region", "-x"},
    {"-- --read-only", "read-only", NULL},
    {"a --threads=3 b", "threads", "3"},
};

static void test_spellings(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        struct line l;
        const char *value;

        if (parse(&l, good[i].line) < 0)
            fail_msg("%s: %s", good[i].line, l.e.text);
        value = tarn_flags_get(l.f, good[i].key);
        if ((!value) != (!good[i].value) || (value && strcmp(value, good[i].value) != 0))
            fail_msg("%s: %s is %s", good[i].line, good[i].key, value ? value : "absent");
        assert_int_equal(l.used, l.argc);
        tarn_flags_free(&l.f);
        assert_null(l.f);
    }
}

static const struct {
    const char *line, *error;
} bad[] = {
    {"--cach-size 1", "tarn test: there is no flag --cach-size; did you mean --cache-size?"},
    {"--cache-szie=1", "tarn test: there is no flag --cache-szie; did you mean --cache-size?"},
    {"--zzzzzz", "tarn test: there is no flag --zzzzzz"},
    {"--no-threads", "tarn test: there is no flag --no-threads; did you mean --threads?"},
    {"--debug-knbo",
     "tarn test: there is no flag --debug-knbo"}, /* hidden ones are not suggested */
    {"-x", "tarn test: there is no flag -x"},
    {"-rx", "tarn test: there is no flag -x"},
    {"--threads", "--threads: needs a value (--threads N)"},
    {"--threads --read-only", "--threads: needs a value (--threads N)"},
    {"-n", "-n: needs a value (-n N)"},
    {"--no-read-only=1", "--no-read-only: takes no value"},
    {"a b c", "tarn test: unexpected argument \"c\" (usage: tarn test [flags] URI MOUNTPOINT)"},
    {"-- a b --c",
     "tarn test: unexpected argument \"--c\" (usage: tarn test [flags] URI MOUNTPOINT)"},
};

static void test_errors(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct line l;

        assert_int_equal(parse(&l, bad[i].line), -TARN_E_USAGE);
        assert_string_equal(l.e.text, bad[i].error);
        tarn_flags_free(&l.f);
    }
}

static void test_positionals(void **state)
{
    struct tarn_flags_spec two = spec;
    struct line l;
    const char *const *args;
    size_t n;

    (void)state;
    two.min_args = 2;
    assert_int_equal(parse_as(&l, &two, "s3://b"), -TARN_E_USAGE);
    assert_string_equal(
        l.e.text, "tarn test: MOUNTPOINT is missing (usage: tarn test [flags] URI MOUNTPOINT)");
    tarn_flags_free(&l.f);
    assert_int_equal(parse_as(&l, &two, "s3://b --help"), 0);
    assert_true(tarn_flags_help_wanted(l.f));
    tarn_flags_free(&l.f);
    assert_int_equal(parse_as(&l, &two, "-rh"), 0);
    assert_true(tarn_flags_help_wanted(l.f));
    tarn_flags_free(&l.f);
    assert_int_equal(parse_as(&l, &two, "- -r -- -x"), 0);
    args = tarn_flags_args(l.f, &n);
    assert_int_equal(n, 2);
    assert_string_equal(args[0], "-");
    assert_string_equal(args[1], "-x");
    tarn_flags_free(&l.f);
}

/* Global flags, then a command with its own spec, into one result. */
static void test_two_stages(void **state)
{
    struct tarn_flags_spec global = spec;
    const char *const *args;
    struct line l;
    size_t n;
    int used;

    (void)state;
    global.stop_at_first = true;
    assert_int_equal(parse_as(&l, &global, "--log-level debug local --threads 2 a"), 0);
    assert_int_equal(l.used, 2);
    assert_string_equal(l.argv[l.used], "local");
    assert_int_equal(tarn_flags_parse(l.f, &spec, l.argc - 3, l.argv + 3, &used, &l.e), 0);
    assert_int_equal(used, 3);
    assert_string_equal(tarn_flags_get(l.f, "log-level"), "debug");
    assert_string_equal(tarn_flags_get(l.f, "threads"), "2");
    args = tarn_flags_args(l.f, &n);
    assert_int_equal(n, 1);
    assert_string_equal(args[0], "a");
    tarn_flags_free(&l.f);
}

static void test_secrets(void **state)
{
    static const char *const lines[] = {"--secret-key=canary", "--secret-key canary",
                                        "-o worker=x,token=canary", "-otoken=canary",
                                        "--option token=canary"};

    (void)state;
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        struct line l;

        assert_int_equal(parse(&l, lines[i]), -TARN_E_SECRET_ARGV);
        assert_non_null(strstr(l.e.text, "config file of mode 0600"));
        assert_null(strstr(l.e.text, "canary"));
        for (int k = 0; k < l.argc; k++)
            assert_null(strstr(l.argv[k], "canary")); /* gone from /proc/PID/cmdline as well */
        tarn_flags_free(&l.f);
    }
}

static void test_into_the_loader(void **state)
{
    struct tarn_conf_input in = {0};
    struct conf_fixture f;
    struct line l;
    const char **opts;

    (void)state;
    assert_int_equal(
        parse(&l, "-r --strict -n8 --tier a,b --tier c -o retries=2,no-path-style -o worker=w"), 0);
    in.args = tarn_flags_conf(l.f, &in.n_args);
    opts = tarn_flags_values(l.f, "option", &in.n_opts);
    in.opts = opts;
    assert_int_equal(in.n_opts, 2);
    assert_int_equal(fixture_load(&f, &in), 0);
    assert_true(f.p.read_only);
    assert_int_equal(f.p.strict, 1);
    assert_int_equal(f.p.threads, 8);
    assert_int_equal(f.p.tier.n, 2);
    assert_string_equal(f.p.tier.v[0], "a,b");
    assert_int_equal(f.m.retries, 2);
    assert_false(f.m.path_style);
    assert_string_equal(f.m.worker, "w");
    assert_string_equal(tarn_conf_source(f.c, "threads"), "flag --threads");
    tarn_conf_free(&f.c);
    free(opts);
    tarn_flags_free(&l.f);
    assert_int_equal(parse(&l, "-n 99"), 0);
    in = (struct tarn_conf_input){0};
    in.args = tarn_flags_conf(l.f, &in.n_args);
    assert_int_equal(fixture_load(&f, &in), -TARN_E_CONFIG);
    assert_string_equal(f.e.text, "-n: \"99\" is above the maximum 64");
    tarn_flags_free(&l.f);
}

static void test_usage(void **state)
{
    struct tarn_str out = {0};
    const char *line;

    (void)state;
    tarn_flags_usage(&spec, &out);
    line = tarn_str_z(&out);
    assert_true(tarn_starts_with(
        line, "Usage: tarn test [flags] URI MOUNTPOINT\n\nTests flags.\n\nTest parameters:\n"));
    assert_non_null(strstr(line, "  -r, --read-only                 Refuse every change.\n"));
    assert_non_null(strstr(
        line,
        "      --cache-size SIZE           Bytes that the cache may use. [default: 10GiB]\n"));
    assert_non_null(strstr(
        line, "  -s, --strict[=off|enoent|eacces]\n                                  Only names"));
    assert_non_null(strstr(line, "May be repeated."));
    assert_null(strstr(line, "debug-knob"));
    assert_null(strstr(line, "--secret-key"));
    while (*line) {
        size_t n = strcspn(line, "\n");

        assert_true(n <= 100);
        line += n + (line[n] == '\n');
    }
    tarn_str_fini(&out);
}

static void test_suggest(void **state)
{
    static const struct {
        const char *word, *candidate;
        bool near;
    } rows[] = {
        {"oload", "load", true},   {"oad", "load", true},
        {"load", "load", true},    {"x", "y", false},
        {"ls", "rm", false},       {"cache_size", "cache-size", true},
        {"mount", "umount", true}, {"meta-tll", "meta-ttl", true},
        {"quota", "load", false},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct tarn_suggest s = {.word = rows[i].word};

        tarn_suggest_offer(&s, rows[i].candidate);
        if ((s.best[0] != 0) != rows[i].near)
            fail_msg("%s for %s", rows[i].candidate, rows[i].word);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_spellings),   cmocka_unit_test(test_errors),
        cmocka_unit_test(test_positionals), cmocka_unit_test(test_two_stages),
        cmocka_unit_test(test_secrets),     cmocka_unit_test(test_into_the_loader),
        cmocka_unit_test(test_usage),       cmocka_unit_test(test_suggest),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
