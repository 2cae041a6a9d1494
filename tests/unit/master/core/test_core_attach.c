/* SPDX-License-Identifier: Apache-2.0 */
/* Attachments at any place, nested, and their end: one story each. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "lib/base/mem.h"
#include "tests/unit/master/core/core_fixture.h"

#define ROOT 1

static int detach(struct core_fx *fx, uint32_t id)
{
    Tarn__Core__Entry e = TARN__CORE__ENTRY__INIT;
    Tarn__Core__Detach m = TARN__CORE__DETACH__INIT;

    m.id = id;
    e.detach = &m;
    return fx_apply(fx, &e);
}

static void check(struct core_fx *fx)
{
    struct tarn_errbuf err = {0};

    if (tarn_core_check(fx->kv, &err) < 0)
        fail_msg("check: %s", err.text);
}

/* Everything that waits, until nothing does. */
static void collect_all(struct core_fx *fx, uint32_t max)
{
    tarn_ino_t ino;

    for (;;) {
        assert_int_equal(tarn_core_garbage(fx->kv, &ino), 0);
        if (!ino.v)
            return;
        assert_int_equal(fx_collect(fx, ino.v, max), 0);
        check(fx);
    }
}

static uint64_t at(struct core_fx *fx, const char *path)
{
    uint64_t ino = ROOT;

    for (const char *p = path + 1; *p && ino; p += strspn(p, "/")) {
        char name[64];
        size_t n = strcspn(p, "/");

        (void)snprintf(name, sizeof(name), "%.*s", (int)n, p);
        ino = fx_ino(fx, ino, name);
        p += n;
    }
    return ino;
}

static uint32_t store_of(struct core_fx *fx, const char *path)
{
    Tarn__Core__Inode *i = fx_inode(fx, at(fx, path));
    uint32_t id = i->attachment;

    tarn__core__inode__free_unpacked(i, NULL);
    return id;
}

static bool listed(struct core_fx *fx, const char *path)
{
    Tarn__Core__DirState *st = fx_dir(fx, at(fx, path));
    bool is = st->listed_ns != 0;

    tarn__core__dir_state__free_unpacked(st, NULL);
    return is;
}

static bool has_counts(struct core_fx *fx, uint32_t id)
{
    Tarn__Core__Counts *c;

    if (tarn_core_counts(fx->kv, id, &c) < 0)
        return false;
    tarn__core__counts__free_unpacked(c, NULL);
    return true;
}

static const char *key_of(struct core_fx *fx, const char *path)
{
    assert_int_equal(tarn_core_key(fx->kv, (tarn_ino_t){at(fx, path)}, &fx->text), 0);
    return tarn_str_z(&fx->text);
}

static void nothing_at_the_root(void **state)
{
    struct core_fx fx;
    uint64_t a;

    (void)state;
    fx_open(&fx);
    assert_int_equal(fx_init(&fx, "c"), 0);
    assert_int_equal(fx_attach(&fx, 1, "/a/b/c", "s1", "60s"), 0);
    assert_string_equal(fx_changes(&fx), "a v2, b v2, c v2");
    assert_int_equal(fx.res.created, 3);
    assert_int_equal(fx.res.ino.v, at(&fx, "/a/b/c"));
    check(&fx);
    assert_int_equal(store_of(&fx, "/a/b"), 0);
    assert_int_equal(store_of(&fx, "/a/b/c"), 1);
    a = at(&fx, "/a");
    assert_int_equal(fx_found(&fx, a, fx.index, "x"), -TARN_E_NO_ATTACH); /* of no store */
    assert_int_equal(fx_begin(&fx, a, fx.index, false), -TARN_E_NO_ATTACH);
    fx_list(&fx, at(&fx, "/a/b/c"), "d/ f=5");
    fx_list(&fx, at(&fx, "/a/b/c/d"), "g=7");
    assert_string_equal(key_of(&fx, "/a/b/c"), "");
    assert_string_equal(key_of(&fx, "/a/b/c/d/g"), "d/g");
    assert_string_equal(fx_counts(&fx), "2 2 12 0 2");

    /* A second one beside it, then both go: what was there for them goes with the last. */
    assert_int_equal(fx_attach(&fx, 2, "/a/x", "s1", "60s"), 0);
    assert_int_equal(at(&fx, "/a"), a);
    check(&fx);
    assert_int_equal(detach(&fx, 3), -TARN_E_NO_ATTACH);
    assert_int_equal(detach(&fx, 1), 0);
    assert_string_equal(fx_changes(&fx), "c gone, b gone");
    check(&fx);
    assert_string_equal(fx_ls(&fx, a), "x/");
    assert_true(has_counts(&fx, 1)); /* of what waits for Collect */
    collect_all(&fx, 1);
    assert_false(has_counts(&fx, 1));
    assert_int_equal(detach(&fx, 2), 0);
    assert_string_equal(fx_ls(&fx, ROOT), "");
    collect_all(&fx, 10);
    assert_false(has_counts(&fx, 2));

    /* Ids are not given twice. */
    assert_int_equal(fx_attach(&fx, 2, "/a", "s1", "60s"), -TARN_E_ENTRY_STALE);
    assert_int_equal(fx_attach(&fx, 3, "/a", "s1", "60s"), 0);
    fx_close(&fx);
}

static void a_root_covers_what_the_store_has(void **state)
{
    struct core_fx fx;
    uint64_t root, old;

    (void)state;
    fx_open_attached(&fx);
    fx_list(&fx, ROOT, "a/ b=3 z=1");
    fx_list(&fx, at(&fx, "/a"), "m=1 n=4");
    old = at(&fx, "/a");
    assert_int_equal(fx_attach(&fx, 2, "/a", "s2", "60s"), 0);
    assert_string_equal(fx_changes(&fx), "a gone, a v7");
    assert_int_equal(fx_attach(&fx, 3, "/b", "s3", "60s"), 0); /* a file is covered, too */
    assert_string_equal(fx_changes(&fx), "b gone, b v8");
    check(&fx);
    root = at(&fx, "/a");
    assert_true(root != old && store_of(&fx, "/a") == 2);
    collect_all(&fx, 1);
    assert_string_equal(fx_counts(&fx), "1 1 1 0 1");

    /* No answer of the store changes the name. */
    assert_int_equal(fx_gone(&fx, ROOT, fx.index, "a"), 0);
    assert_int_equal(fx.res.ino.v, root);
    assert_int_equal(fx_found(&fx, ROOT, fx.index, "a/"), 0);
    assert_int_equal(fx_found(&fx, ROOT, fx.index, "a=9"), 0);
    assert_int_equal(fx_found(&fx, ROOT, fx.index, "b=9"), 0);
    assert_int_equal(fx.res.change_count + fx.res.created + fx.res.removed, 0);
    fx_list(&fx, ROOT, "a=5 a/ c z=1");
    fx_list(&fx, ROOT, "");
    assert_string_equal(fx_ls(&fx, ROOT), "a/ b/");
    fx_list(&fx, ROOT, "a/ b=3");
    assert_int_equal(at(&fx, "/a"), root);
    assert_int_equal(store_of(&fx, "/b"), 3);
    assert_string_equal(fx_counts(&fx), "0 1 0 0 1");
    assert_true(listed(&fx, "/"));

    /* Below it the other store's names live, whatever the first says. */
    fx_list(&fx, root, "n=8");
    assert_string_equal(key_of(&fx, "/a/n"), "n");

    /* After the detach the store's own shows at the next question. */
    assert_int_equal(detach(&fx, 2), 0);
    assert_string_equal(fx_changes(&fx), "a gone");
    assert_false(listed(&fx, "/"));
    assert_string_equal(fx_ls(&fx, ROOT), "b/");
    assert_int_equal(fx_found(&fx, ROOT, fx.index, "a/"), 0);
    assert_string_equal(fx_ls(&fx, ROOT), "b/ a/");
    assert_int_equal(store_of(&fx, "/a"), 1);
    collect_all(&fx, 1);
    assert_false(has_counts(&fx, 2));
    fx_close(&fx);
}

static void a_detach_during_a_listing(void **state)
{
    struct core_fx fx;
    uint64_t asked;

    (void)state;
    fx_open_attached(&fx);
    assert_int_equal(fx_attach(&fx, 2, "/m", "s2", "60s"), 0);
    asked = fx.index;
    assert_int_equal(fx_begin(&fx, ROOT, asked, false), 0);
    assert_int_equal(fx_page(&fx, ROOT, "", "n", asked, "a m=5 n"), 0); /* m is covered */
    assert_int_equal(detach(&fx, 2), 0);
    assert_int_equal(fx_page(&fx, ROOT, "n", NULL, asked, "z"), 0);
    assert_false(listed(&fx, "/")); /* m is unknown */
    fx_list(&fx, ROOT, "a m=5 n z");
    assert_true(listed(&fx, "/"));
    assert_true(at(&fx, "/m") != 0);
    collect_all(&fx, 5);
    fx_close(&fx);
}

static void a_way_through_a_store(void **state)
{
    struct core_fx fx;
    uint64_t d, e;

    (void)state;
    fx_open_attached(&fx);
    fx_list(&fx, ROOT, "d/ f=2");
    assert_int_equal(fx_attach(&fx, 2, "/f/x", "s2", "60s"), -TARN_E_NOT_DIR);
    d = at(&fx, "/d");
    assert_int_equal(fx_attach(&fx, 2, "/d/e/x", "s2", "60s"), 0);
    assert_string_equal(fx_changes(&fx), "e v6, x v6");
    check(&fx);
    assert_int_equal(at(&fx, "/d"), d);
    assert_int_equal(store_of(&fx, "/d"), 1); /* the store's */
    assert_int_equal(store_of(&fx, "/d/e"), 0);
    e = at(&fx, "/d/e");

    /* The store has lost d: it stays, as the way. */
    assert_int_equal(fx_gone(&fx, ROOT, fx.index, "d"), 0);
    fx_list(&fx, ROOT, "f=2");
    fx_list(&fx, ROOT, "d=3 f=2");
    assert_string_equal(fx_ls(&fx, ROOT), "d/ f");
    fx_list(&fx, d, "y=1");
    assert_string_equal(fx_ls(&fx, d), "e/ y");
    fx_list(&fx, d, "");
    assert_string_equal(fx_ls(&fx, d), "e/");

    /* It has an e as well: the directory is the store's from then on, with what is in it. */
    assert_int_equal(fx_found(&fx, d, fx.index, "e=4"), 0);
    assert_int_equal(store_of(&fx, "/d/e"), 0);
    assert_int_equal(fx_found(&fx, d, fx.index, "e/"), 0);
    assert_int_equal(fx.res.ino.v, e);
    assert_int_equal(store_of(&fx, "/d/e"), 1);
    check(&fx);
    fx_list(&fx, e, "x=9 y=3");
    assert_string_equal(fx_ls(&fx, e), "x/ y");
    assert_string_equal(key_of(&fx, "/d/e/y"), "d/e/y");
    assert_int_equal(store_of(&fx, "/d/e/x"), 2);

    /* It goes: both directories are the store's alone again, which may not have them. */
    assert_int_equal(detach(&fx, 2), 0);
    check(&fx);
    assert_false(listed(&fx, "/d/e"));
    assert_false(listed(&fx, "/d"));
    assert_false(listed(&fx, "/"));
    fx_list(&fx, ROOT, "f=2");
    assert_string_equal(fx_ls(&fx, ROOT), "f");
    collect_all(&fx, 1);
    assert_string_equal(fx_counts(&fx), "1 1 2 0 1");
    fx_close(&fx);
}

static void the_deepest_wins(void **state)
{
    struct core_fx fx;
    uint64_t c;

    (void)state;
    fx_open(&fx);
    assert_int_equal(fx_init(&fx, "c"), 0);
    assert_int_equal(fx_attach(&fx, 1, "/a/b/c", "s1", "60s"), 0);
    c = at(&fx, "/a/b/c");
    fx_list(&fx, c, "deep=1");
    /* The root and /a come later; what was of no store becomes theirs. */
    assert_int_equal(fx_attach(&fx, 2, "/", "s2", "60s"), 0);
    assert_int_equal(fx.res.ino.v, ROOT);
    check(&fx);
    fx_list(&fx, ROOT, "a/ o=1");
    assert_int_equal(store_of(&fx, "/a"), 2);
    fx_list(&fx, at(&fx, "/a"), "b/ p=2");
    assert_int_equal(store_of(&fx, "/a/b"), 2);
    check(&fx);
    assert_int_equal(fx_attach(&fx, 3, "/a", "s3", "60s"), 0); /* a directory of 2, on the way */
    check(&fx);
    assert_int_equal(at(&fx, "/a/b/c"), c);
    assert_int_equal(store_of(&fx, "/a/b"), 0); /* the store's b went with its a */
    assert_string_equal(fx_ls(&fx, at(&fx, "/a")), "b/");
    assert_string_equal(fx_ls(&fx, c), "deep");
    assert_string_equal(key_of(&fx, "/a/b/c/deep"), "deep");
    collect_all(&fx, 1);
    fx_list(&fx, at(&fx, "/a"), "q=3");
    assert_string_equal(key_of(&fx, "/a/q"), "q");

    /* What has others below it stays. */
    assert_int_equal(detach(&fx, 2), -TARN_E_EXISTS);
    assert_int_equal(detach(&fx, 3), -TARN_E_EXISTS);
    assert_int_equal(fx.res.change_count, 0);
    assert_int_equal(fx_attach(&fx, 4, "/a", "s3", "60s"), -TARN_E_EXISTS);
    assert_int_equal(detach(&fx, 1), 0);
    assert_int_equal(detach(&fx, 3), 0);
    assert_int_equal(detach(&fx, 2), 0);
    collect_all(&fx, 2);
    assert_int_equal(fx_attach(&fx, 4, "/", "s1", "60s"), 0);
    fx_close(&fx);
}

static void the_root_is_detached(void **state)
{
    Tarn__Core__Inode *i;
    struct core_fx fx;
    uint64_t f, index;
    tarn_ino_t garbage;

    (void)state;
    fx_open_attached(&fx);
    fx_list(&fx, ROOT, "d/ f=2 g=3");
    fx_list(&fx, at(&fx, "/d"), "x=5");
    f = at(&fx, "/f");
    assert_int_equal(detach(&fx, 1), 0);
    assert_string_equal(fx_changes(&fx), " v1"); /* it stays, and is another one */
    check(&fx);
    assert_string_equal(fx_ls(&fx, ROOT), ""); /* at once */
    assert_int_equal(at(&fx, "/f"), 0);
    assert_int_equal(tarn_core_path(fx.kv, (tarn_ino_t){f}, &fx.text), -TARN_E_NO_ENTRY);
    assert_int_equal(tarn_core_path(fx.kv, TARN_INO_ROOT, &fx.text), 0);
    assert_int_equal(fx_found(&fx, ROOT, fx.index, "n"), -TARN_E_NO_ENTRY);
    assert_int_equal(fx_attach(&fx, 2, "/", "s2", "60s"), -TARN_E_BUSY);
    assert_int_equal(fx_attach(&fx, 2, "/a", "s2", "60s"), -TARN_E_BUSY);
    assert_int_equal(tarn_core_garbage(fx.kv, &garbage), 0);
    assert_int_equal(garbage.v, ROOT);
    collect_all(&fx, 1);
    assert_false(has_counts(&fx, 1));
    i = fx_inode(&fx, ROOT);
    assert_int_equal(i->attachment, 0);
    assert_false(i->detached);
    tarn__core__inode__free_unpacked(i, NULL);
    assert_int_equal(fx_attach(&fx, 2, "/", "s2", "60s"), 0);
    assert_int_equal(tarn_core_attached_index(fx.kv, &index), 0);
    assert_int_equal(index, fx.index);
    assert_false(listed(&fx, "/"));
    fx_list(&fx, ROOT, "other=1");
    assert_string_equal(fx_ls(&fx, ROOT), "other");
    fx_close(&fx);
}

static void the_same_again(void **state)
{
    Tarn__Core__Attachment *a;
    struct core_fx fx;
    uint64_t before, after;
    uint32_t next;

    (void)state;
    fx_open_attached(&fx);
    assert_int_equal(fx_attach(&fx, 2, "/a", "s2", "60s"), 0);
    assert_int_equal(tarn_core_attached_index(fx.kv, &before), 0);
    assert_int_equal(fx_attach(&fx, 2, "/b", "s2", "60s"), -TARN_E_EXISTS);
    assert_int_equal(fx_attach(&fx, 2, "/a", "s3", "60s"), -TARN_E_EXISTS);
    assert_int_equal(fx_attach(&fx, 3, "/a", "s2", "60s"), -TARN_E_EXISTS);
    assert_int_equal(tarn_core_attached_index(fx.kv, &after), 0);
    assert_int_equal(before, after);
    assert_int_equal(fx_attach(&fx, 2, "/a", "s2", "1ns"), 0);
    assert_int_equal(fx.res.created + fx.res.change_count, 0);
    assert_int_equal(tarn_core_attached_index(fx.kv, &after), 0);
    assert_true(after > before);
    assert_int_equal(tarn_core_attachment(fx.kv, 2, &a), 0);
    assert_string_equal(a->ttl, "1ns");
    assert_int_equal(a->root, at(&fx, "/a"));
    tarn__core__attachment__free_unpacked(a, NULL);
    assert_int_equal(tarn_core_next_attachment(fx.kv, &next), 0);
    assert_int_equal(next, 3);
    fx_close(&fx);
}

/* A store that was written before there was more than one attachment. */
static void a_store_of_before(void **state)
{
    static const char *const keys[] = {"xnext_att", "xattached"};
    struct tarn_kv_batch *b;
    struct core_fx fx;
    uint32_t next;
    uint64_t index;

    (void)state;
    fx_open_attached(&fx);
    b = tarn_kv_batch_new(fx.kv);
    for (size_t i = 0; i < TARN_ARRAY_LEN(keys); i++)
        tarn_kv_batch_delete(b, TARN_CF_META, tarn_kv_slice(keys[i], strlen(keys[i])));
    assert_int_equal(tarn_kv_write(fx.kv, b, true), 0);
    tarn_kv_batch_free(&b);
    check(&fx);
    assert_int_equal(tarn_core_next_attachment(fx.kv, &next), 0);
    assert_int_equal(next, 2);
    assert_int_equal(tarn_core_attached_index(fx.kv, &index), 0);
    assert_int_equal(index, 0);
    fx_list(&fx, ROOT, "a/");
    assert_int_equal(detach(&fx, 1), 0);
    assert_int_equal(tarn_core_next_attachment(fx.kv, &next), 0);
    assert_int_equal(next, 2);
    collect_all(&fx, 8);
    assert_int_equal(fx_attach(&fx, 1, "/", "s", "60s"), -TARN_E_ENTRY_STALE);
    fx_close(&fx);
}

static void not_too_many(void **state)
{
    struct core_fx fx;
    char path[32];

    (void)state;
    fx_open(&fx);
    assert_int_equal(fx_init(&fx, "c"), 0);
    for (uint32_t id = 1; id <= TARN_ATTACHMENTS_MAX; id++) {
        (void)snprintf(path, sizeof(path), "/a/%u", id);
        assert_int_equal(fx_attach(&fx, id, path, "s", "60s"), 0);
    }
    assert_int_equal(fx_attach(&fx, TARN_ATTACHMENTS_MAX + 1, "/b", "s", "60s"), -TARN_E_TOO_BIG);
    assert_int_equal(detach(&fx, 7), 0);
    assert_int_equal(fx_attach(&fx, TARN_ATTACHMENTS_MAX + 1, "/b", "s", "60s"), 0);
    collect_all(&fx, 8);
    fx_close(&fx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_at_the_root),
        cmocka_unit_test(a_root_covers_what_the_store_has),
        cmocka_unit_test(a_detach_during_a_listing),
        cmocka_unit_test(a_way_through_a_store),
        cmocka_unit_test(the_deepest_wins),
        cmocka_unit_test(the_root_is_detached),
        cmocka_unit_test(the_same_again),
        cmocka_unit_test(a_store_of_before),
        cmocka_unit_test(not_too_many),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
