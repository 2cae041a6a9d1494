/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/fuse/test_fuse.h"

#include <stdio.h>
#include <string.h>

#include "fuse/dirpage_priv.h"
#include "lib/base/env.h"
#include "lib/base/limits.h"

#define ENTRIES 5u
#define NOW     (100 * TARN_NS_PER_S)

/* An answer with entries "n10", "n20", ... whose ids are 10, 20, ... */
struct answer {
    Tarn__Wire__ReaddirResponse resp;
    Tarn__Wire__Dirent rows[ENTRIES], *ptrs[ENTRIES];
    Tarn__Wire__Attr attrs[ENTRIES];
    char names[ENTRIES][8];
};

static void answer_init(struct answer *a, size_t n, bool eof)
{
    tarn__wire__readdir_response__init(&a->resp);
    for (size_t i = 0; i < n; i++) {
        Tarn__Wire__Dirent *d = &a->rows[i];

        tarn__wire__dirent__init(d);
        tarn__wire__attr__init(&a->attrs[i]);
        a->ptrs[i] = d;
        d->cookie = (i + 1) * 10;
        d->attr = &a->attrs[i];
        d->attr->ino = d->cookie;
        d->attr->type = 2;
        d->attr->trust_ms = 5000 - i;
        d->name.len = (size_t)snprintf(a->names[i], sizeof(a->names[i]), "n%zu", (i + 1) * 10);
        d->name.data = (uint8_t *)a->names[i];
    }
    a->resp.n_entries = n;
    a->resp.entries = a->ptrs;
    a->resp.eof = eof;
    a->resp.parent = 1;
}

static void offsets_and_cookies(void **state)
{
    (void)state;
    assert_int_equal(fpage_cookie(0), 0);
    assert_int_equal(fpage_cookie(1), 0); /* "." was told */
    assert_int_equal(fpage_cookie(2), 0); /* ".." too */
    assert_true(fpage_offset(2) > 2);     /* the first id below the root's */
    for (uint64_t ino = 2; ino < 100; ino++)
        assert_int_equal(fpage_cookie(fpage_offset(ino)), ino);
}

static void a_page_keeps_what_came(void **state)
{
    struct fpage *p = NULL, *second;
    struct answer a;

    (void)state;
    answer_init(&a, ENTRIES, false);
    assert_int_equal(fpage_new(&a.resp, 0, NOW, 7, &p), 0);
    assert_int_equal(p->count, ENTRIES);
    assert_int_equal(p->gen, 7);
    assert_int_equal(p->parent.v, 1);
    assert_int_equal(p->until_ns, NOW + (5000 - ENTRIES + 1) * TARN_NS_PER_MS); /* the shortest */
    for (size_t i = 0; i < ENTRIES; i++) {
        assert_string_equal(p->names + p->entries[i].name_off, a.names[i]);
        assert_int_equal(p->entries[i].attr.ino.v, (i + 1) * 10);
    }
    second = fpage_ref(p);
    assert_ptr_equal(second, p);
    fpage_put(&p);
    assert_null(p);
    fpage_put(&p);
    assert_string_equal(second->names, "n10"); /* there is still a reference */
    fpage_put(&second);
}

/* No name's trust bounds how long new ones are missed. */
static void an_empty_directory_is_not_kept(void **state)
{
    struct fpage *p = NULL;
    struct answer a;

    (void)state;
    answer_init(&a, 0, true);
    assert_int_equal(fpage_new(&a.resp, 0, NOW, 0, &p), 0);
    assert_true(p->until_ns <= NOW);
    fpage_put(&p);
    assert_int_equal(fpage_new(&a.resp, 7, NOW, 0, &p), 0); /* the end of one that has names */
    assert_true(p->until_ns == UINT64_MAX);
    fpage_put(&p);
}

static void the_right_page_is_known(void **state)
{
    struct fpage *p = NULL, *last = NULL, *empty = NULL;
    struct answer a;

    (void)state;
    answer_init(&a, ENTRIES, false);
    assert_int_equal(fpage_new(&a.resp, 5, NOW, 0, &p), 0);
    assert_false(fpage_covers(p, 4)); /* before it */
    assert_true(fpage_covers(p, 5));
    assert_true(fpage_covers(p, 49));
    assert_false(fpage_covers(p, 50)); /* behind its last entry is another page */
    answer_init(&a, ENTRIES, true);
    assert_int_equal(fpage_new(&a.resp, 5, NOW, 0, &last), 0);
    assert_true(fpage_covers(last, 50)); /* nothing follows, and that is known */
    assert_true(fpage_covers(last, 1000));
    answer_init(&a, 0, true);
    assert_int_equal(fpage_new(&a.resp, 5, NOW, 0, &empty), 0);
    assert_true(fpage_covers(empty, 5));
    assert_false(fpage_covers(empty, 4));
    assert_int_equal(fpage_after(empty, 5), 0);
    fpage_put(&p);
    fpage_put(&last);
    fpage_put(&empty);
}

static void what_follows_is_found(void **state)
{
    struct fpage *p = NULL;
    struct answer a;

    (void)state;
    answer_init(&a, ENTRIES, true);
    assert_int_equal(fpage_new(&a.resp, 0, NOW, 0, &p), 0);
    assert_int_equal(fpage_after(p, 0), 0);
    assert_int_equal(fpage_after(p, 9), 0);
    assert_int_equal(fpage_after(p, 10), 1);
    assert_int_equal(fpage_after(p, 11), 1); /* an entry that went meanwhile */
    assert_int_equal(fpage_after(p, 49), 4);
    assert_int_equal(fpage_after(p, 50), ENTRIES);
    fpage_put(&p);
}

static void bad_answers_are_refused(void **state)
{
    struct fpage *p = NULL;
    struct answer a;

    (void)state;
    answer_init(&a, 0, false); /* neither an entry nor the end: would be a short directory */
    assert_int_equal(fpage_new(&a.resp, 0, NOW, 0, &p), -TARN_E_MSG_BAD);
    answer_init(&a, ENTRIES, true); /* at or before what was asked for */
    assert_int_equal(fpage_new(&a.resp, 10, NOW, 0, &p), -TARN_E_MSG_BAD);
    a.rows[2].cookie = a.rows[1].cookie; /* no order */
    assert_int_equal(fpage_new(&a.resp, 0, NOW, 0, &p), -TARN_E_MSG_BAD);
    answer_init(&a, ENTRIES, true);
    a.rows[4].cookie = UINT64_MAX; /* no offset of a file */
    assert_int_equal(fpage_new(&a.resp, 0, NOW, 0, &p), -TARN_E_MSG_BAD);
    answer_init(&a, ENTRIES, true);
    a.rows[3].name.data = (uint8_t *)(uintptr_t) "..";
    a.rows[3].name.len = 2;
    assert_int_equal(fpage_new(&a.resp, 0, NOW, 0, &p), -TARN_E_MSG_BAD);
    answer_init(&a, ENTRIES, true);
    a.rows[3].name.len = 0;
    assert_int_equal(fpage_new(&a.resp, 0, NOW, 0, &p), -TARN_E_MSG_BAD);
    answer_init(&a, ENTRIES, true);
    a.rows[0].attr = NULL;
    assert_int_equal(fpage_new(&a.resp, 0, NOW, 0, &p), -TARN_E_MSG_BAD);
    answer_init(&a, ENTRIES, true);
    a.resp.parent = 0;
    assert_int_equal(fpage_new(&a.resp, 0, NOW, 0, &p), -TARN_E_MSG_BAD);
    answer_init(&a, ENTRIES, true);
    a.resp.n_entries = TARN_READDIR_ENTRIES + 1;
    assert_int_equal(fpage_new(&a.resp, 0, NOW, 0, &p), -TARN_E_MSG_BAD);
    assert_null(p);
}

int test_dirpage(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(offsets_and_cookies),
        cmocka_unit_test(a_page_keeps_what_came),
        cmocka_unit_test(an_empty_directory_is_not_kept),
        cmocka_unit_test(the_right_page_is_known),
        cmocka_unit_test(what_follows_is_found),
        cmocka_unit_test(bad_answers_are_refused),
    };

    return cmocka_run_group_tests_name("dirpage", tests, NULL, NULL);
}
