/* SPDX-License-Identifier: Apache-2.0 */
/* Filters and sets of jobs. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <setjmp.h>

#include <cmocka.h>
#include <string.h>

#include "lib/base/hash.h"
#include "master/jobs/jobs_priv.h"

static bool match(const char *glob, const char *text)
{
    return mglob_match(glob, strlen(glob), text, strlen(text));
}

static void test_matches(void **state)
{
    (void)state;
    assert_true(match("", ""));
    assert_false(match("", "a"));
    assert_true(match("*", ""));
    assert_true(match("*", "a/b"));
    assert_true(match("*.jpg", "x.jpg"));
    assert_false(match("*.jpg", "x.jpeg"));
    assert_true(match("a*b*c", "a--b--b--c"));
    assert_false(match("a*b*c", "a--c--b"));
    assert_true(match("?x", "ax"));
    assert_false(match("?x", "x"));
    assert_true(match("[a-c]1", "b1"));
    assert_false(match("[a-c]1", "d1"));
    assert_true(match("[!a-c]1", "d1"));
    assert_true(match("[]]", "]"));
    assert_true(match("[a-]", "-"));
    assert_true(match("[ab", "[ab"));
    assert_true(match("\\*", "*"));
    assert_false(match("\\*", "x"));
    assert_true(match("a\\", "a\\"));
    assert_true(match("train/*/[0-9]?.tar", "train/part/3a.tar"));
}

/* What makes backtracking matchers take years. */
static void test_is_not_exponential(void **state)
{
    char text[4096];

    (void)state;
    memset(text, 'a', sizeof(text) - 1);
    text[sizeof(text) - 1] = 0;
    assert_false(match("*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*b", text));
}

/* Each of these would be looked for its end, to the end of the pattern, at each place of the text.
 */
static void test_open_brackets_cost_nothing(void **state)
{
    char glob[1024], text[4096];

    (void)state;
    memset(glob, '[', sizeof(glob));
    glob[0] = '*';
    memset(text, '[', sizeof(text));
    text[sizeof(text) - 1] = 'x';
    for (unsigned i = 0; i < 20; i++)
        assert_false(mglob_match(glob, sizeof(glob), text, sizeof(text)));
    text[sizeof(text) - 1] = '[';
    assert_true(mglob_match(glob, sizeof(glob), text, sizeof(text)));
    assert_true(match("[]a]", "a"));
    assert_true(match("x]y[z", "x]y[z"));
}

static bool selects(const char *filter, const char *exclude, const char *rel)
{
    Tarn__Wire__LoadSpec s;
    ProtobufCBinaryData f = tarn_wire_bytes(filter, filter ? strlen(filter) : 0);
    ProtobufCBinaryData e = tarn_wire_bytes(exclude, exclude ? strlen(exclude) : 0);

    tarn__wire__load_spec__init(&s);
    s.n_filter = filter != NULL;
    s.filter = &f;
    s.n_exclude = exclude != NULL;
    s.exclude = &e;
    return mglob_selects(&s, rel);
}

static void test_selects(void **state)
{
    (void)state;
    assert_true(selects(NULL, NULL, "a/b"));
    assert_true(selects("*.bin", NULL, "a/b.bin"));
    assert_true(selects("b.*", NULL, "a/b.bin"));
    assert_true(selects("a/*", NULL, "a/b.bin"));
    assert_false(selects("c/*", NULL, "a/b.bin"));
    assert_false(selects("*.bin", "b*", "a/b.bin"));
    assert_false(selects(NULL, "tmp", "x/tmp/y/z"));
    assert_false(selects(NULL, "x/tmp", "x/tmp/y/z"));
    assert_true(selects(NULL, "tmp", "x/tmpy/z"));
    assert_true(selects(NULL, "tmp", "x/y"));
}

static void test_set(void **state)
{
    struct mset s = {0};

    (void)state;
    for (uint64_t i = 1; i <= 5000; i++)
        assert_true(mset_add(&s, tarn_hash_u64(i) | 1));
    for (uint64_t i = 1; i <= 5000; i++)
        assert_false(mset_add(&s, tarn_hash_u64(i) | 1));
    assert_int_equal(s.count, 5000);
    mset_fini(&s);
}

static void test_set_is_bounded(void **state)
{
    struct mset s = {0};

    (void)state;
    for (uint64_t i = 1; i <= JOB_SET_MAX; i++)
        assert_true(mset_add(&s, i));
    assert_false(mset_add(&s, 5));
    assert_true(mset_add(&s, JOB_SET_MAX + 1));
    assert_true(mset_add(&s, JOB_SET_MAX + 1)); /* not remembered */
    assert_int_equal(s.count, JOB_SET_MAX);
    mset_fini(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_matches),
                                       cmocka_unit_test(test_is_not_exponential),
                                       cmocka_unit_test(test_open_brackets_cost_nothing),
                                       cmocka_unit_test(test_selects),
                                       cmocka_unit_test(test_set),
                                       cmocka_unit_test(test_set_is_bounded)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
