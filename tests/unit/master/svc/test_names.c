/* SPDX-License-Identifier: Apache-2.0 */
/* One name: when it is asked, how often, what is believed, and what a failing store may not do. */
#include "tests/unit/master/svc/msvc_fixture.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define ROOT   TARN_INO_ROOT.v
#define MINUTE (61 * TARN_NS_PER_S)

static uint8_t body[4096];
#define LONG                                                                                       \
    "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890"  \
    "12345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012" \
    "3"                                                                                            \
    "45678901234567890123456789"
static const struct srv_object objects[] = {
    {LONG "/" LONG "/" LONG "/" LONG "/x", "el", NULL, body, 1},
    {"a", "ea", NULL, body, 6},
    {"a/b", "eb", NULL, body, 5},
    {"d/one", "e1", NULL, body, 1},
    {"d/two", "e2", NULL, body, 2},
    {"f", "ef", NULL, body, 10},
    {"g", "eg", NULL, body, 11},
};
static const struct srv_object changed[] = {
    {"a", "ea", NULL, body, 6},   {"d/one", "e1", NULL, body, 1}, {"d/two", "e2", NULL, body, 2},
    {"f", "ef2", NULL, body, 20}, {"g", "eg", NULL, body, 11},
};

static struct mfx *start(uint64_t ttl_ns)
{
    struct mfx *fx = mfx_new(objects, TARN_ARRAY_LEN(objects));

    fx->ttl_ns = ttl_ns;
    mfx_start(fx);
    mfx_script(fx, SRV_OK, 0);
    return fx;
}

static uint64_t now_ms(void)
{
    return tarn_now_ns() / TARN_NS_PER_MS;
}

static void test_asked_once_until_it_expires(void **state)
{
    struct mfx *fx = start(60 * TARN_NS_PER_S);
    struct mfx_attr a, b;

    (void)state;
    assert_int_equal(mfx_lookup(fx, ROOT, "f", &a), 0);
    assert_int_equal(a.size, 10);
    assert_int_equal(a.trust_ms, 60000);
    assert_int_equal(mfx_requests(fx), 2);
    assert_int_equal(mfx_lookup(fx, ROOT, "f", &b), 0);
    assert_int_equal(mfx_getattr(fx, a.ino, true, NULL), 0);
    assert_int_equal(mfx_requests(fx), 2);
    tarn_clock_fake_advance(&fx->clock, 59 * TARN_NS_PER_S);
    assert_int_equal(mfx_lookup(fx, ROOT, "f", &b), 0);
    assert_int_equal(b.trust_ms, 1000);
    assert_int_equal(mfx_requests(fx), 2);
    tarn_clock_fake_advance(&fx->clock, TARN_NS_PER_S);
    assert_int_equal(mfx_lookup(fx, ROOT, "f", &b), 0);
    assert_int_equal(mfx_requests(fx), 4);
    assert_int_equal(b.ino, a.ino);
    assert_int_equal(b.version, a.version);
    mfx_free(&fx);
}

static void test_negative_is_remembered_and_expires(void **state)
{
    struct mfx *fx = start(TARN_TTL_FOREVER);
    struct mfx_attr a;

    (void)state;
    assert_int_equal(mfx_lookup(fx, ROOT, "nope", &a), -TARN_E_NO_ENTRY);
    assert_int_equal(a.negative_ms, 60000);
    assert_int_equal(mfx_lookup(fx, ROOT, "nope", &a), -TARN_E_NO_ENTRY);
    assert_int_equal(mfx_requests(fx), 2);
    tarn_clock_fake_advance(&fx->clock, MINUTE);
    assert_int_equal(mfx_lookup(fx, ROOT, "nope", &a), -TARN_E_NO_ENTRY);
    assert_int_equal(mfx_requests(fx), 4);
    mfx_free(&fx);
}

static void test_forever_asks_known_names_never_again(void **state)
{
    struct mfx *fx = start(TARN_TTL_FOREVER);
    struct mfx_dir dir;
    struct mfx_attr a;

    (void)state;
    assert_int_equal(mfx_readdir(fx, ROOT, 100, &dir), 0);
    mfx_dir_fini(&dir);
    mfx_script(fx, SRV_ERROR_500, 64);
    tarn_clock_fake_advance(&fx->clock, 1000 * MINUTE);
    assert_int_equal(mfx_lookup(fx, ROOT, "f", &a), 0);
    assert_int_equal(a.trust_ms, UINT64_MAX);
    /* Known from the listing; a client asks again all the same, since nobody tells it of new names.
     */
    assert_int_equal(mfx_lookup(fx, ROOT, "nope", &a), -TARN_E_NO_ENTRY);
    assert_int_equal(a.negative_ms, 60000);
    assert_int_equal(mfx_requests(fx), 0);
    mfx_free(&fx);
}

static void test_always_asks_each_time(void **state)
{
    struct mfx *fx = start(TARN_TTL_ALWAYS);
    struct tarn_master_counts counts;
    struct mfx_attr a;

    (void)state;
    for (unsigned i = 1; i <= 20; i++) {
        assert_int_equal(mfx_lookup(fx, ROOT, "f", &a), 0);
        assert_int_equal(a.trust_ms, 0);
        assert_int_equal(mfx_requests(fx), 2 * i);
    }
    assert_int_equal(mfx_getattr(fx, a.ino, true, &a), 0);
    assert_int_equal(mfx_requests(fx), 42);
    for (unsigned i = 0; i < 10; i++)
        assert_int_equal(mfx_lookup(fx, ROOT, "nope", &a), -TARN_E_NO_ENTRY);
    assert_int_equal(a.negative_ms, 0);
    assert_int_equal(mfx_requests(fx), 62);
    tarn_master_counts(fx->master, &counts);
    assert_int_equal(counts.listings, 0); /* nothing of it would be believed */
    mfx_free(&fx);
}

static void test_one_question_for_all_waiters(void **state)
{
    struct mfx *fx = start(60 * TARN_NS_PER_S);
    struct mfx_op ops[30];

    (void)state;
    srv_delay_ms(fx->srv, 50);
    for (size_t i = 0; i < 30; i++)
        mfx_begin_lookup(fx, &ops[i], ROOT, "f", i == 7 ? 5 : 20000);
    for (size_t i = 0; i < 30; i++) {
        assert_int_equal(mfx_end(&ops[i]), i == 7 ? -TARN_E_DEADLINE : 0);
        mfx_op_fini(&ops[i]);
    }
    assert_int_equal(mfx_requests(fx), 2);
    assert_int_equal(fx->master->name_waiters, 0);
    mfx_free(&fx);
}

static void test_eight_unknown_names_start_one_listing(void **state)
{
    struct mfx *fx = start(60 * TARN_NS_PER_S);
    struct tarn_master_counts counts;

    (void)state;
    for (unsigned i = 0; i < 20; i++) {
        char name[16];

        (void)snprintf(name, sizeof(name), "no-%u", i);
        assert_int_equal(mfx_lookup(fx, ROOT, name, NULL), -TARN_E_NO_ENTRY);
        if (i == 7)
            for (unsigned k = 0; k < 300 && !tarn_list_empty(&fx->master->listings); k++)
                mfx_run_ms(fx, 10);
    }
    tarn_master_counts(fx->master, &counts);
    assert_int_equal(counts.listings, 1);
    assert_int_equal(counts.asks, 8);
    mfx_free(&fx);
}

static void test_an_error_is_not_a_negative(void **state)
{
    static const struct {
        enum srv_action action;
        int error;
    } cases[] = {{SRV_ERROR_500, EIO}, {SRV_GARBAGE, EIO}, {SRV_CLOSE, EIO},
                 {SRV_DENY, EACCES},   {SRV_BAD_XML, 0},   {SRV_SLOW_DOWN, EIO}};

    (void)state;
    for (size_t i = 0; i < TARN_ARRAY_LEN(cases); i++) {
        struct mfx *fx = start(60 * TARN_NS_PER_S);
        struct mfx_attr a;
        int rc;

        mfx_script(fx, cases[i].action, 10);
        rc = mfx_lookup(fx, ROOT, cases[i].error ? "f" : "nope", &a);
        assert_true(rc < 0 && rc != -TARN_E_NO_ENTRY && tarn_err_errno(rc) != ENOENT);
        if (cases[i].error == EACCES)
            assert_int_equal(tarn_err_errno(rc), EACCES);
        mfx_script(fx, SRV_OK, 0);
        assert_int_equal(mfx_lookup(fx, ROOT, "f", &a), 0);
        assert_true(mfx_requests(fx) >= 2);
        assert_int_equal(mfx_lookup(fx, ROOT, "nope", &a), -TARN_E_NO_ENTRY);
        mfx_free(&fx);
    }
}

static void test_a_refusal_is_obeyed(void **state)
{
    struct mfx *fx = start(60 * TARN_NS_PER_S);

    (void)state;
    assert_int_equal(mfx_lookup(fx, ROOT, "f", NULL), 0);
    tarn_clock_fake_advance(&fx->clock, MINUTE);
    mfx_script(fx, SRV_DENY, 2);
    assert_int_equal(mfx_lookup(fx, ROOT, "f", NULL), -TARN_E_UFS_DENIED);
    assert_false(mattach_by_id(fx->master, 1)->down);
    assert_int_equal(mfx_stale(fx), 0);
    assert_int_equal(mfx_lookup(fx, ROOT, "f", NULL), 0);
    mfx_free(&fx);
}

static void test_slow_is_found_out_once(void **state)
{
    struct mfx *fx = start(60 * TARN_NS_PER_S);
    uint64_t begun;

    (void)state;
    assert_int_equal(mfx_lookup(fx, ROOT, "f", NULL), 0);
    assert_int_equal(mfx_lookup(fx, ROOT, "g", NULL), 0);
    tarn_clock_fake_advance(&fx->clock, MINUTE);
    mfx_script(fx, SRV_STALL, 64);
    begun = now_ms();
    assert_int_equal(mfx_lookup(fx, ROOT, "f", NULL), 0);
    assert_true(now_ms() - begun >= 990);
    assert_true(now_ms() - begun < 3000);
    begun = now_ms(); /* the next do not wait one after the other */
    assert_int_equal(mfx_lookup(fx, ROOT, "g", NULL), 0);
    assert_int_equal(mfx_lookup(fx, ROOT, "f", NULL), 0);
    assert_true(now_ms() - begun < 900);
    assert_int_equal(mfx_stale(fx), 3);
    mfx_free(&fx);
}

/* A name may be new since a listing that has expired. */
static void test_absence_from_an_old_listing_is_no_answer(void **state)
{
    struct mfx *fx = start(60 * TARN_NS_PER_S);
    struct mfx_dir dir;
    int rc;

    (void)state;
    assert_int_equal(mfx_readdir(fx, ROOT, 100, &dir), 0);
    mfx_dir_fini(&dir);
    mfx_script(fx, SRV_ERROR_500, 64);
    assert_int_equal(mfx_lookup(fx, ROOT, "nope", NULL), -TARN_E_NO_ENTRY);
    tarn_clock_fake_advance(&fx->clock, MINUTE);
    for (unsigned i = 0; i < 2; i++) { /* before and after the store is known to be down */
        rc = mfx_lookup(fx, ROOT, "nope", NULL);
        assert_int_equal(tarn_err_errno(rc), EIO);
    }
    assert_int_equal(mfx_stale(fx), 0);
    mfx_free(&fx);
}

static bool is_up(struct mfx *fx)
{
    return !mattach_by_id(fx->master, 1)->down;
}

static void test_a_store_that_is_down_is_probed_until_it_answers(void **state)
{
    struct mfx *fx = mfx_new(objects, TARN_ARRAY_LEN(objects));
    struct mfx_attr a;

    (void)state;
    fx->probe_ns = 50 * TARN_NS_PER_MS;
    mfx_start(fx);
    assert_int_equal(mfx_lookup(fx, ROOT, "f", &a), 0);
    tarn_clock_fake_advance(&fx->clock, MINUTE);
    mfx_script(fx, SRV_ERROR_500, 64);
    assert_int_equal(mfx_lookup(fx, ROOT, "f", &a), 0); /* old, at once */
    assert_false(is_up(fx));
    assert_int_equal(mfx_stale(fx), 1);
    assert_int_equal(mfx_lookup(fx, ROOT, "f", &a), 0);
    assert_int_equal(mfx_stale(fx), 2);
    srv_delay_ms(fx->srv, 120); /* a probe lasts longer than the time between two */
    mfx_run_ms(fx, 600);
    assert_false(is_up(fx));
    srv_delay_ms(fx->srv, 0);
    mfx_script(fx, SRV_OK, 0);
    for (unsigned i = 0; i < 300 && !is_up(fx); i++)
        mfx_run_ms(fx, 10);
    assert_true(is_up(fx));
    srv_objects(fx->srv, changed, TARN_ARRAY_LEN(changed));
    assert_int_equal(mfx_lookup(fx, ROOT, "f", &a), 0);
    assert_int_equal(a.size, 20);
    assert_int_equal(mfx_stale(fx), 2);
    mfx_free(&fx);
}

static void test_a_key_too_long_is_not_a_store_down(void **state)
{
    struct mfx *fx = start(60 * TARN_NS_PER_S);
    char name[256];
    struct mfx_attr a;

    (void)state;
    memset(name, 'n', 255);
    name[255] = 0;
    assert_int_equal(mfx_resolve(fx, "/" LONG "/" LONG "/" LONG "/" LONG, &a), 0);
    assert_int_equal(mfx_lookup(fx, a.ino, name, NULL), -TARN_E_NAME_TOO_LONG);
    assert_false(mattach_by_id(fx->master, 1)->down);
    mfx_free(&fx);
}

static void test_a_report_is_checked_at_the_store(void **state)
{
    struct mfx *fx = start(TARN_TTL_FOREVER);
    struct mfx_attr a, b;

    (void)state;
    assert_int_equal(mfx_lookup(fx, ROOT, "f", &a), 0);
    assert_int_equal(mfx_report(fx, a.ino, a.version), 0); /* it was wrong */
    assert_int_equal(mfx_getattr(fx, a.ino, false, &b), 0);
    assert_int_equal(b.version, a.version);
    srv_objects(fx->srv, changed, TARN_ARRAY_LEN(changed));
    mfx_script(fx, SRV_OK, 0);
    assert_int_equal(mfx_lookup(fx, ROOT, "f", &b), 0);
    assert_int_equal(mfx_requests(fx), 0);
    assert_int_equal(mfx_report(fx, a.ino, a.version), 0);
    assert_int_equal(mfx_requests(fx), 2);
    assert_int_equal(mfx_lookup(fx, ROOT, "f", &b), 0);
    assert_int_equal(b.size, 20);
    assert_true(b.version > a.version);
    assert_int_equal(b.ino, a.ino);
    assert_int_equal(mfx_report(fx, a.ino, a.version), 0); /* of an old version: no question */
    assert_int_equal(mfx_requests(fx), 2);
    mfx_free(&fx);
}

/* The question under way was asked before anybody saw the new object. */
static void test_a_report_outlives_an_older_question(void **state)
{
    struct mfx *fx = start(60 * TARN_NS_PER_S);
    struct mfx_op op;
    struct mfx_attr a;

    (void)state;
    assert_int_equal(mfx_lookup(fx, ROOT, "f", &a), 0);
    tarn_clock_fake_advance(&fx->clock, MINUTE);
    mfx_script(fx, SRV_OK, 0);
    srv_delay_ms(fx->srv, 500); /* a lookup waits 1 s at most */
    mfx_begin_lookup(fx, &op, ROOT, "f", 20000);
    while (mfx_requests(fx) == 0)
        mfx_run_ms(fx, 1);
    tarn_clock_fake_advance(&fx->clock, TARN_NS_PER_MS);
    assert_int_equal(mfx_report(fx, a.ino, a.version), 0);
    assert_int_equal(mfx_end(&op), 0);
    mfx_op_fini(&op);
    srv_delay_ms(fx->srv, 0);
    assert_int_equal(mfx_requests(fx), 2); /* both had that answer */
    assert_int_equal(mfx_lookup(fx, ROOT, "f", &a), 0);
    assert_int_equal(mfx_requests(fx), 4); /* which is not enough */
    assert_int_equal(mfx_lookup(fx, ROOT, "f", &a), 0);
    assert_int_equal(mfx_requests(fx), 4);
    mfx_free(&fx);
}

static void test_questions_are_bounded(void **state)
{
    struct mfx *fx = start(60 * TARN_NS_PER_S);
    struct mfx_op op;

    (void)state;
    fx->master->name_waiters = TARN_WAITERS_MAX;
    mfx_begin_lookup(fx, &op, ROOT, "f", 20000);
    assert_int_equal(mfx_end(&op), -TARN_E_BUSY);
    mfx_op_fini(&op);
    fx->master->name_waiters = 0;
    assert_int_equal(mfx_lookup(fx, ROOT, "f", NULL), 0);
    mfx_free(&fx);
}

static void test_a_report_while_the_store_is_down_is_kept(void **state)
{
    struct mfx *fx = start(TARN_TTL_FOREVER);
    struct mfx_attr a, b;

    (void)state;
    assert_int_equal(mfx_lookup(fx, ROOT, "f", &a), 0);
    srv_objects(fx->srv, changed, TARN_ARRAY_LEN(changed));
    mfx_script(fx, SRV_ERROR_500, 2);
    (void)mfx_report(fx, a.ino, a.version);
    assert_true(mattach_by_id(fx->master, 1)->down);
    assert_int_equal(mfx_lookup(fx, ROOT, "zzz", NULL), -TARN_E_NO_ENTRY); /* the store is back */
    assert_false(mattach_by_id(fx->master, 1)->down);
    assert_int_equal(mfx_lookup(fx, ROOT, "f", &b), 0);
    assert_int_equal(b.size, 20);
    mfx_free(&fx);
}

static void test_a_directory_wins_and_bad_names_are_refused(void **state)
{
    struct mfx *fx = start(60 * TARN_NS_PER_S);
    struct mfx_attr a;

    (void)state;
    assert_int_equal(mfx_lookup(fx, ROOT, "a", &a), 0);
    assert_int_equal(a.type, TARN_UFS_DIR);
    assert_true(mfx_lookup(fx, ROOT, "..", NULL) < 0);
    assert_true(mfx_lookup(fx, ROOT, "x/y", NULL) < 0);
    assert_true(mfx_lookup(fx, ROOT, "", NULL) < 0);
    assert_int_equal(mfx_requests(fx), 2);
    assert_int_equal(mfx_resolve(fx, "/f/x", NULL), -TARN_E_NOT_DIR);
    assert_int_equal(mfx_lookup(fx, 4711, "x", NULL), -TARN_E_NO_ENTRY);
    assert_int_equal(mfx_getattr(fx, 4711, true, NULL), -TARN_E_STALE);
    mfx_free(&fx);
}

static void test_names_below_a_directory_that_went(void **state)
{
    struct mfx *fx = mfx_new(NULL, 0);
    struct tarn_master_counts before, after;
    struct mfx_attr d, x;
    char path[256], file[260];

    (void)state;
    (void)snprintf(path, sizeof(path), "%s/d", fx->dir);
    (void)snprintf(file, sizeof(file), "%s/x", path);
    assert_int_equal(mkdir(path, 0755), 0);
    fx_write(path, "x", "abc", 3);
    mfx_start(fx);
    assert_int_equal(mfx_lookup(fx, ROOT, "d", &d), 0);
    assert_int_equal(mfx_lookup(fx, d.ino, "x", &x), 0);
    assert_int_equal(unlink(file), 0);
    assert_int_equal(rmdir(path), 0);
    tarn_clock_fake_advance(&fx->clock, MINUTE);
    assert_int_equal(mfx_lookup(fx, ROOT, "d", NULL), -TARN_E_NO_ENTRY);
    tarn_master_counts(fx->master, &before);
    assert_int_equal(mfx_lookup(fx, d.ino, "x", NULL), -TARN_E_NO_ENTRY);
    assert_int_equal(mfx_lookup(fx, d.ino, "new", NULL), -TARN_E_NO_ENTRY);
    assert_int_equal(mfx_getattr(fx, d.ino, true, NULL), -TARN_E_STALE);
    assert_int_equal(mfx_getattr(fx, x.ino, true, NULL), -TARN_E_STALE);
    tarn_master_counts(fx->master, &after);
    assert_int_equal(after.asks, before.asks);
    mfx_free(&fx);
}

static void test_a_restart_knows_what_was_known(void **state)
{
    struct mfx *fx = start(TARN_TTL_FOREVER);
    struct mfx_attr a, b;

    (void)state;
    assert_int_equal(mfx_lookup(fx, ROOT, "f", &a), 0);
    mfx_stop(fx);
    mfx_script(fx, SRV_ERROR_500, 64);
    mfx_start(fx); /* without the store */
    assert_int_equal(mfx_lookup(fx, ROOT, "f", &b), 0);
    assert_int_equal(b.ino, a.ino);
    assert_int_equal(b.version, a.version);
    assert_int_equal(mfx_requests(fx), 0);
    mfx_free(&fx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_asked_once_until_it_expires),
        cmocka_unit_test(test_negative_is_remembered_and_expires),
        cmocka_unit_test(test_forever_asks_known_names_never_again),
        cmocka_unit_test(test_always_asks_each_time),
        cmocka_unit_test(test_one_question_for_all_waiters),
        cmocka_unit_test(test_eight_unknown_names_start_one_listing),
        cmocka_unit_test(test_an_error_is_not_a_negative),
        cmocka_unit_test(test_a_refusal_is_obeyed),
        cmocka_unit_test(test_slow_is_found_out_once),
        cmocka_unit_test(test_absence_from_an_old_listing_is_no_answer),
        cmocka_unit_test(test_a_store_that_is_down_is_probed_until_it_answers),
        cmocka_unit_test(test_a_key_too_long_is_not_a_store_down),
        cmocka_unit_test(test_a_report_is_checked_at_the_store),
        cmocka_unit_test(test_a_report_outlives_an_older_question),
        cmocka_unit_test(test_questions_are_bounded),
        cmocka_unit_test(test_a_report_while_the_store_is_down_is_kept),
        cmocka_unit_test(test_a_directory_wins_and_bad_names_are_refused),
        cmocka_unit_test(test_names_below_a_directory_that_went),
        cmocka_unit_test(test_a_restart_knows_what_was_known),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
