/* SPDX-License-Identifier: Apache-2.0 */
/* The rules of apply, one story each. */
#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "lib/base/env.h"
#include "lib/base/limits.h"
#include "lib/base/mem.h"
#include "tests/unit/master/core/core_fixture.h"

#define ROOT 1

static void init_and_attach(void **state)
{
    struct core_fx fx;
    Tarn__Core__Attachment *a;
    char id[37];

    (void)state;
    fx_open(&fx);
    assert_int_equal(tarn_core_cluster_id(fx.kv, id), -TARN_E_NO_ENTRY);
    assert_int_equal(fx_attach(&fx, 1, "/", "s", "60s"), -TARN_E_ENTRY_BAD); /* before Init */
    assert_int_equal(fx_init(&fx, ""), -TARN_E_ENTRY_BAD);
    assert_int_equal(fx_init(&fx, "two words"), -TARN_E_ENTRY_BAD);
    assert_int_equal(fx_init(&fx, "0123456789012345678901234567890123456"), -TARN_E_ENTRY_BAD);
    assert_int_equal(fx_init(&fx, "012345678901234567890123456789012345"), 0);
    assert_int_equal(fx_init(&fx, "c2"), -TARN_E_EXISTS);
    assert_int_equal(tarn_core_cluster_id(fx.kv, id), 0);
    assert_string_equal(id, "012345678901234567890123456789012345");

    assert_int_equal(fx_begin(&fx, ROOT, 1, false), -TARN_E_NO_ATTACH);
    assert_int_equal(fx_attach(&fx, 0, "/", "s", "60s"), -TARN_E_ENTRY_BAD);
    assert_int_equal(fx_attach(&fx, 1, "/a/", "s", "60s"), -TARN_E_ENTRY_BAD);
    assert_int_equal(fx_attach(&fx, 1, "a", "s", "60s"), -TARN_E_ENTRY_BAD);
    assert_int_equal(fx_attach(&fx, 1, "/a/../b", "s", "60s"), -TARN_E_ENTRY_BAD);
    assert_int_equal(fx_attach(&fx, 1, "/", "s", "60s"), 0);
    assert_int_equal(fx.res.ino.v, ROOT);
    assert_string_equal(fx_counts(&fx), "0 1 0 0 0");
    fx_list(&fx, ROOT, "a b=2");
    assert_int_equal(fx_attach(&fx, 2, "/", "s", "60s"), -TARN_E_EXISTS);
    assert_int_equal(fx_attach(&fx, 1, "/", "other", "60s"), -TARN_E_EXISTS);
    assert_int_equal(fx_attach(&fx, 1, "/", "s", "forever"), 0);
    assert_string_equal(fx_counts(&fx), "2 1 3 0 1");
    assert_int_equal(tarn_core_attachment(fx.kv, 1, &a), 0);
    assert_string_equal(a->ttl, "forever");
    assert_int_equal(a->root, ROOT);
    tarn__core__attachment__free_unpacked(a, NULL);
    assert_int_equal(tarn_core_attachment(fx.kv, 2, &a), -TARN_E_NO_ENTRY);
    fx_close(&fx);
}

static void malformed_entries(void **state)
{
    Tarn__Core__Entry e = TARN__CORE__ENTRY__INIT;
    Tarn__Core__Gone gone = TARN__CORE__GONE__INIT;
    Tarn__Core__Collect collect = TARN__CORE__COLLECT__INIT;
    struct core_fx fx;
    char *big = tarn_xcalloc(1, TARN_JOURNAL_ENTRY_MAX + 1);

    (void)state;
    fx_open_attached(&fx);
    assert_int_equal(fx_apply(&fx, &e), -TARN_E_ENTRY_BAD); /* nothing in it */
    e.gone = &gone;
    e.collect = &collect;
    assert_int_equal(fx_apply(&fx, &e), -TARN_E_ENTRY_BAD); /* two in it */
    assert_int_equal(fx_apply_bytes(&fx, "\xff\xff\xff", 3), -TARN_E_ENTRY_BAD);
    assert_int_equal(fx_apply_bytes(&fx, big, TARN_JOURNAL_ENTRY_MAX + 1), -TARN_E_ENTRY_BAD);
    free(big);
    assert_int_equal(fx_gone(&fx, ROOT, fx.index, ".."), -TARN_E_ENTRY_BAD);
    assert_int_equal(fx_gone(&fx, ROOT, fx.index, "a/b"), -TARN_E_ENTRY_BAD);
    assert_int_equal(fx_gone(&fx, ROOT, fx.index + 1, "a"),
                     -TARN_E_ENTRY_BAD); /* asked in the future */
    assert_int_equal(fx_begin(&fx, ROOT, fx.index + 1, false), -TARN_E_ENTRY_BAD);
    assert_int_equal(fx_collect(&fx, ROOT, 0), -TARN_E_ENTRY_BAD);
    assert_int_equal(fx_collect(&fx, ROOT, 10), -TARN_E_INVALID); /* not detached */
    assert_int_equal(fx_collect(&fx, 99, 10), -TARN_E_NO_ENTRY);
    fx_close(&fx);
}

static void bad_objects(void **state)
{
    Tarn__Core__Entry e = TARN__CORE__ENTRY__INIT;
    Tarn__Core__Found m = TARN__CORE__FOUND__INIT;
    struct fx_objects o;
    struct core_fx fx;
    char etag[TARN_ETAG_MAX + 2];

    (void)state;
    fx_open_attached(&fx);
    m.parent = ROOT;
    e.found = &m;
    assert_int_equal(fx_apply(&fx, &e), -TARN_E_ENTRY_BAD); /* no object */
    fx_objects_parse(&o, "a=5");
    m.object = o.p[0];
    o.o[0].cid.len = 15;
    assert_int_equal(fx_apply(&fx, &e), -TARN_E_ENTRY_BAD);
    o.o[0].cid.len = 16;
    o.o[0].type = 4;
    assert_int_equal(fx_apply(&fx, &e), -TARN_E_ENTRY_BAD);
    o.o[0].type = 1;
    o.v[0].size = TARN_FILE_MAX + 1;
    assert_int_equal(fx_apply(&fx, &e), -TARN_E_ENTRY_BAD);
    o.v[0].size = TARN_FILE_MAX;
    o.o[0].has_owner = true;
    o.o[0].mode = 010000;
    assert_int_equal(fx_apply(&fx, &e), -TARN_E_ENTRY_BAD);
    o.o[0].mode = 0644;
    memset(etag, 'e', sizeof(etag) - 1);
    etag[sizeof(etag) - 1] = 0;
    o.v[0].etag = etag;
    assert_int_equal(fx_apply(&fx, &e), -TARN_E_ENTRY_BAD);
    etag[TARN_ETAG_MAX] = 0;
    o.o[0].ufs = NULL;
    assert_int_equal(fx_apply(&fx, &e), -TARN_E_ENTRY_BAD);
    o.o[0].ufs = &o.v[0];
    assert_int_equal(fx_apply(&fx, &e), 0);
    assert_string_equal(fx_ls(&fx, ROOT), "a");
    fx_close(&fx);
}

static void first_listing(void **state)
{
    struct core_fx fx;
    Tarn__Core__DirState *st;
    Tarn__Core__Inode *i;

    (void)state;
    fx_open_attached(&fx);
    fx_list(&fx, ROOT, "a=0 a-b=7 a/ b@ c");
    assert_int_equal(fx.res.change_count, 0); /* new names are not listed */
    assert_int_equal(fx.res.created, 4);      /* the directory a hides the object a */
    assert_string_equal(fx_ls(&fx, ROOT), "a-b a/ b@ c");
    assert_string_equal(fx_counts(&fx), "2 2 8 1 1");
    for (uint64_t n = 0; n < 4; n++) { /* contiguous, in page order */
        static const char *const names[] = {"a-b", "a", "b", "c"};

        assert_int_equal(fx_ino(&fx, ROOT, names[n]), 2 + n);
    }
    st = fx_dir(&fx, ROOT);
    assert_false(st->running);
    assert_int_equal(st->listed_ns, 1020); /* the time of ListBegin */
    assert_int_equal(st->listed_index, 4);
    assert_int_equal(st->upto_key.len, 0);
    tarn__core__dir_state__free_unpacked(st, NULL);
    i = fx_inode(&fx, 2);
    assert_int_equal(i->version, 4);
    assert_int_equal(i->changed, 4);
    assert_int_equal(i->attachment, 1);
    assert_int_equal(i->cid.len, 16);
    assert_string_equal(i->ufs->etag, "e7");
    tarn__core__inode__free_unpacked(i, NULL);

    fx_list(&fx, ROOT, "a=0 a-b=7 a/ b@ c"); /* the same again writes nothing */
    assert_int_equal(fx.res.created + fx.res.updated + fx.res.removed, 0);
    i = fx_inode(&fx, 2);
    assert_int_equal(i->changed, 4);
    tarn__core__inode__free_unpacked(i, NULL);
    fx_close(&fx);
}

static void relisting_changes(void **state)
{
    struct core_fx fx;
    Tarn__Core__Inode *i;

    (void)state;
    fx_open_attached(&fx);
    fx_list(&fx, ROOT, "a b c=3 d@"); /* index 4: inodes 2 to 5 */
    fx_list(&fx, ROOT, "a b=2 d e");  /* index 6 */
    assert_string_equal(fx_changes(&fx), "c gone, b v6, d gone");
    assert_int_equal(fx.res.created, 2);
    assert_int_equal(fx.res.updated, 1);
    assert_int_equal(fx.res.removed, 2);
    assert_string_equal(fx_ls(&fx, ROOT), "a b d e");
    assert_int_equal(fx_ino(&fx, ROOT, "b"), 3); /* a new version keeps the inode */
    assert_int_equal(fx_ino(&fx, ROOT, "d"), 6); /* another type does not */
    assert_string_equal(fx_counts(&fx), "4 1 5 0 1");

    fx_list(&fx, ROOT, "a=0 b=2 d e"); /* a file that became empty has no cid */
    i = fx_inode(&fx, 2);
    assert_int_equal(i->cid.len, 0);
    assert_int_equal(i->version, 8);
    tarn__core__inode__free_unpacked(i, NULL);
    assert_string_equal(fx_counts(&fx), "4 1 4 0 1");
    fx_close(&fx);
}

static void owner_alone_keeps_version(void **state)
{
    Tarn__Core__Entry e = TARN__CORE__ENTRY__INIT;
    Tarn__Core__Found m = TARN__CORE__FOUND__INIT;
    struct fx_objects o;
    struct core_fx fx;
    Tarn__Core__Inode *i;

    (void)state;
    fx_open_attached(&fx);
    fx_list(&fx, ROOT, "a d/");
    fx_objects_parse(&o, "a d/");
    m.parent = ROOT;
    m.object = o.p[0];
    m.asked_index = fx.index;
    o.o[0].has_owner = true;
    o.o[0].mode = 0600;
    e.found = &m;
    assert_int_equal(fx_apply(&fx, &e), 0); /* index 5 */
    assert_string_equal(fx_changes(&fx), "a v4");
    i = fx_inode(&fx, fx.res.ino.v);
    assert_int_equal(i->version, 4);
    assert_int_equal(i->changed, 5);
    assert_int_equal(i->mode, 0600);
    tarn__core__inode__free_unpacked(i, NULL);

    m.object = o.p[1]; /* a directory's time: attributes, not content */
    o.o[1].ufs = &o.v[1];
    o.v[1].mtime_ns = 77;
    o.v[1].size = 4096;
    m.asked_index = fx.index;
    assert_int_equal(fx_apply(&fx, &e), 0);
    assert_string_equal(fx_changes(&fx), "d v4");
    i = fx_inode(&fx, fx.res.ino.v);
    assert_int_equal(i->ufs->mtime_ns, 77);
    assert_int_equal(i->ufs->size, 0);
    tarn__core__inode__free_unpacked(i, NULL);
    o.v[1].mtime_ns = 0; /* not told: what is known stays */
    assert_int_equal(fx_apply(&fx, &e), 0);
    assert_int_equal(fx.res.updated, 0);
    fx_close(&fx);
}

static void sweep_respects_key_order(void **state)
{
    struct core_fx fx;
    Tarn__Core__DirState *st;
    uint64_t asked;

    (void)state;
    fx_open_attached(&fx);
    fx_list(&fx, ROOT, "a-b a/ a0 b");
    asked = fx.index;
    assert_int_equal(fx_begin(&fx, ROOT, asked, false), 0);
    /* Covers the name a, but not the key a/. */
    assert_int_equal(fx_page(&fx, ROOT, "", "a-b", asked, "a-b"), 0);
    assert_string_equal(fx_changes(&fx), "");
    st = fx_dir(&fx, ROOT);
    assert_true(st->running);
    assert_memory_equal(st->upto_key.data, "a-b", 3);
    assert_int_equal(st->listed_ns, 1020); /* the last complete one stays in force */
    tarn__core__dir_state__free_unpacked(st, NULL);
    /* Covers a/, though the name a is before its beginning. */
    assert_int_equal(fx_page(&fx, ROOT, "a-b", "a0", asked, "a0"), 0);
    assert_string_equal(fx_changes(&fx), "a gone");
    /* A directory went whose object, if any, was in an earlier page: the listing is not believed.
     */
    st = fx_dir(&fx, ROOT);
    assert_true(st->dir_removed);
    assert_int_equal(st->listed_ns, 0);
    tarn__core__dir_state__free_unpacked(st, NULL);
    assert_int_equal(fx_page(&fx, ROOT, "a0", NULL, asked, "b"), 0);
    st = fx_dir(&fx, ROOT);
    assert_false(st->running);
    assert_int_equal(st->listed_ns, 0);
    tarn__core__dir_state__free_unpacked(st, NULL);
    assert_string_equal(fx_counts(&fx), "3 1 3 0 0");
    fx_list(&fx, ROOT, "a-b a0 b");
    assert_string_equal(fx_counts(&fx), "3 1 3 0 1");
    fx_close(&fx);
}

static void directory_wins(void **state)
{
    struct core_fx fx;
    Tarn__Core__DirState *st;
    uint64_t asked;

    (void)state;
    fx_open_attached(&fx);
    fx_list(&fx, ROOT, "a b");
    fx_list(&fx, ROOT, "a a/ b"); /* a directory replaces a file */
    assert_string_equal(fx_changes(&fx), "a gone");
    assert_string_equal(fx_ls(&fx, ROOT), "b a/");
    /* A page with the object, but without the directory's key, changes nothing. */
    asked = fx.index;
    assert_int_equal(fx_begin(&fx, ROOT, asked, false), 0);
    assert_int_equal(fx_page(&fx, ROOT, "", "a!", asked, "a"), 0);
    assert_string_equal(fx_changes(&fx), "");
    assert_int_equal(fx_page(&fx, ROOT, "a!", NULL, asked, "a/ b"), 0);
    assert_string_equal(fx_ls(&fx, ROOT), "b a/");
    /* Both keys in one page: the page tells that the directory went and what it hid. */
    fx_list(&fx, ROOT, "a b");
    assert_string_equal(fx_changes(&fx), "a gone");
    assert_string_equal(fx_ls(&fx, ROOT), "b a");
    st = fx_dir(&fx, ROOT);
    assert_false(st->dir_removed);
    assert_true(st->listed_ns > 0);
    tarn__core__dir_state__free_unpacked(st, NULL);

    /* The object came in an earlier page of this very run: it counts as newer, so the listing is
     * not believed. */
    fx_list(&fx, ROOT, "");
    asked = fx.index;
    assert_int_equal(fx_begin(&fx, ROOT, asked, false), 0);
    assert_int_equal(fx_page(&fx, ROOT, "", "a", asked, "a"), 0);
    assert_int_equal(fx_page(&fx, ROOT, "a", NULL, asked, "a/"), 0);
    assert_string_equal(fx_ls(&fx, ROOT), "a");
    st = fx_dir(&fx, ROOT);
    assert_int_equal(st->listed_ns, 0);
    tarn__core__dir_state__free_unpacked(st, NULL);
    fx_list(&fx, ROOT, "a a/");
    assert_string_equal(fx_ls(&fx, ROOT), "a/");
    fx_close(&fx);
}

static void newer_is_not_touched(void **state)
{
    struct core_fx fx;
    uint64_t asked;

    (void)state;
    fx_open_attached(&fx);
    fx_list(&fx, ROOT, "a b");
    asked = fx.index;
    assert_int_equal(fx_begin(&fx, ROOT, asked, false), 0);
    assert_int_equal(fx_found(&fx, ROOT, fx.index, "a=9"), 0);
    assert_int_equal(fx_found(&fx, ROOT, fx.index, "c"), 0);
    assert_int_equal(fx_found(&fx, ROOT, fx.index, "d/"), 0);
    /* Asked before those three: neither the old a, nor the missing c and d are news. */
    assert_int_equal(fx_page(&fx, ROOT, "", NULL, asked, "a=5 b=2"), 0);
    assert_string_equal(fx_changes(&fx), "b v9");
    assert_string_equal(fx_ls(&fx, ROOT), "a b c d/");
    assert_string_equal(fx_counts(&fx), "3 2 12 0 1");
    fx_close(&fx);
}

static void runs(void **state)
{
    struct core_fx fx;
    Tarn__Core__DirState *st;

    (void)state;
    fx_open_attached(&fx);
    assert_int_equal(fx_page(&fx, ROOT, "", NULL, 1, "a"), -TARN_E_ENTRY_STALE); /* no run */
    assert_int_equal(fx_begin(&fx, 99, 1, false), -TARN_E_NO_ENTRY);
    assert_int_equal(fx_begin(&fx, ROOT, fx.index, false), 0); /* index 5, time 1040, asked 4 */
    assert_int_equal(fx_page(&fx, ROOT, "", "m", 3, "a"),
                     -TARN_E_ENTRY_STALE); /* asked in an older run */
    assert_int_equal(fx_page(&fx, ROOT, "a", "m", 4, "b"),
                     -TARN_E_ENTRY_STALE); /* not where it stands */
    assert_int_equal(fx_page(&fx, ROOT, "", "m", 4, "b z"), -TARN_E_ENTRY_BAD); /* z is outside */
    assert_int_equal(fx_page(&fx, ROOT, "", "m", 4, "b b"), -TARN_E_ENTRY_BAD);
    assert_int_equal(fx_page(&fx, ROOT, "", "m", 4, "a/ a-b"),
                     -TARN_E_ENTRY_BAD); /* order of names, not of keys */
    assert_int_equal(fx_page(&fx, ROOT, "", "m", 4, "m/"), -TARN_E_ENTRY_BAD); /* m < m/ */
    assert_int_equal(fx_page(&fx, ROOT, "", "m", 4, "b"), 0);
    assert_int_equal(fx_page(&fx, ROOT, "", "m", 4, "b"), -TARN_E_ENTRY_STALE); /* again */
    assert_int_equal(fx_page(&fx, ROOT, "m", "a", 4, ""), -TARN_E_ENTRY_BAD);   /* backwards */

    assert_int_equal(fx_begin(&fx, ROOT, fx.index, true), 0); /* goes on */
    st = fx_dir(&fx, ROOT);
    assert_int_equal(st->started_ns, 1040);
    assert_int_equal(st->asked_index, fx.index - 1);
    assert_memory_equal(st->upto_key.data, "m", 1);
    tarn__core__dir_state__free_unpacked(st, NULL);
    assert_int_equal(fx_page(&fx, ROOT, "m", "n", 4, ""),
                     -TARN_E_ENTRY_STALE); /* of before the resume */
    assert_int_equal(fx_page(&fx, ROOT, "m", NULL, fx.index, "z"), 0);
    st = fx_dir(&fx, ROOT);
    assert_int_equal(st->listed_ns, 1040); /* as old as its beginning */
    tarn__core__dir_state__free_unpacked(st, NULL);
    assert_string_equal(fx_ls(&fx, ROOT), "b z");

    assert_int_equal(fx_begin(&fx, ROOT, fx.index, true), 0); /* nothing to resume: a new one */
    assert_int_equal(fx_page(&fx, ROOT, "", "c", fx.index, ""), 0);
    assert_int_equal(fx_begin(&fx, ROOT, fx.index, false), 0); /* starts anew */
    st = fx_dir(&fx, ROOT);
    assert_int_equal(st->upto_key.len, 0);
    tarn__core__dir_state__free_unpacked(st, NULL);
    assert_int_equal(fx_begin(&fx, fx_ino(&fx, ROOT, "z"), 1, false), -TARN_E_NOT_DIR);
    fx_close(&fx);
}

static void skipped_names(void **state)
{
    Tarn__Core__Entry e = TARN__CORE__ENTRY__INIT;
    Tarn__Core__ListPage m = TARN__CORE__LIST_PAGE__INIT;
    struct core_fx fx;
    struct tarn_str s = {0};
    Tarn__Core__DirState *st;

    (void)state;
    fx_open_attached(&fx);
    assert_int_equal(tarn_core_skipped_names(fx.kv, TARN_INO_ROOT, &s), -TARN_E_NO_ENTRY);
    assert_int_equal(fx_begin(&fx, ROOT, fx.index, false), 0);
    m.dir = ROOT;
    m.asked_index = fx.index;
    m.to_key = fx_bytes("m");
    m.skipped = 2;
    m.skipped_names = fx_bytes("..\n//");
    e.list_page = &m;
    assert_int_equal(fx_apply(&fx, &e), 0);
    m.from_key = m.to_key;
    m.complete = true;
    m.skipped = 1;
    m.skipped_names = fx_bytes(".\n");
    assert_int_equal(fx_apply(&fx, &e), 0);
    assert_int_equal(tarn_core_skipped_names(fx.kv, TARN_INO_ROOT, &s), 0);
    assert_string_equal(s.p, "..\n//\n.\n");
    st = fx_dir(&fx, ROOT);
    assert_int_equal(st->skipped_total, 3);
    tarn__core__dir_state__free_unpacked(st, NULL);
    fx_list(&fx, ROOT, "a");
    assert_int_equal(tarn_core_skipped_names(fx.kv, TARN_INO_ROOT, &s), -TARN_E_NO_ENTRY);
    tarn_str_fini(&s);
    fx_close(&fx);
}

static void found_and_gone(void **state)
{
    struct core_fx fx;
    uint64_t a, d;

    (void)state;
    fx_open_attached(&fx);
    assert_int_equal(fx_found(&fx, 7, 2, "a"), -TARN_E_NO_ENTRY);
    assert_int_equal(fx_found(&fx, ROOT, 2, "a"), 0);
    a = fx.res.ino.v;
    assert_int_equal(a, fx_ino(&fx, ROOT, "a"));
    assert_int_equal(fx_found(&fx, a, 2, "b"), -TARN_E_NOT_DIR);
    assert_int_equal(fx_found(&fx, ROOT, 2, "a"), 0); /* what is known already is no conflict */
    assert_int_equal(fx.res.ino.v, a);
    assert_int_equal(fx_found(&fx, ROOT, 2, "a=2"), -TARN_E_ENTRY_STALE);
    assert_int_equal(fx.res.ino.v, a);
    assert_int_equal(fx_gone(&fx, ROOT, 2, "a"), -TARN_E_ENTRY_STALE);
    assert_int_equal(fx.res.ino.v, a);
    assert_int_equal(fx_found(&fx, ROOT, fx.index, "a=2"), 0);
    assert_int_equal(fx.res.ino.v, a);
    assert_int_equal(fx.res.updated, 1);
    assert_int_equal(fx_found(&fx, ROOT, fx.index, "a/"), 0); /* another kind: another inode */
    d = fx.res.ino.v;
    assert_int_not_equal(d, a);
    assert_string_equal(fx_changes(&fx), "a gone");
    assert_int_equal(fx_found(&fx, d, fx.index, "below"), 0);
    assert_int_equal(fx_found(&fx, ROOT, fx.index, "a"),
                     0); /* and back: what was below waits for Collect */
    assert_string_equal(fx_changes(&fx), "a gone");
    assert_string_equal(fx_counts(&fx), "2 1 2 0 0");
    assert_int_equal(fx_found(&fx, d, fx.index, "late"), -TARN_E_NO_ENTRY); /* detached */
    assert_int_equal(fx_begin(&fx, d, fx.index, false), -TARN_E_NO_ENTRY);
    assert_int_equal(fx_gone(&fx, ROOT, fx.index, "a"), 0);
    assert_int_equal(fx.res.ino.v, 0);
    assert_int_equal(fx_gone(&fx, ROOT, fx.index, "a"), 0); /* gone already */
    assert_int_equal(fx.res.removed, 0);
    fx_close(&fx);
}

static int fx_told(struct core_fx *fx, uint64_t upto)
{
    Tarn__Core__Entry e = TARN__CORE__ENTRY__INIT;
    Tarn__Core__Told m = TARN__CORE__TOLD__INIT;

    m.upto = upto;
    e.told = &m;
    return fx_apply(fx, &e);
}

static int fx_start(struct core_fx *fx, uint64_t inos)
{
    Tarn__Core__Entry e = TARN__CORE__ENTRY__INIT;
    Tarn__Core__Start m = TARN__CORE__START__INIT;

    m.inos = inos;
    e.start = &m;
    assert_true(tarn_core_entry_needs_sync(&e));
    return fx_apply(fx, &e);
}

/* A start leaves ids out, never to the last one. */
static void starting(void **state)
{
    struct core_fx fx;
    uint64_t a;

    (void)state;
    fx_open_attached(&fx);
    assert_int_equal(fx_found(&fx, ROOT, fx.index, "a"), 0);
    a = fx_ino(&fx, ROOT, "a");
    assert_int_equal(fx_start(&fx, 1000), 0);
    assert_int_equal(fx_found(&fx, ROOT, fx.index, "b"), 0);
    assert_int_equal(fx_ino(&fx, ROOT, "b"), a + 1001);
    assert_int_equal(fx_start(&fx, UINT64_MAX), -TARN_E_ENTRY_BAD);
    assert_int_equal(fx_start(&fx, (1ull << 48) - 1), -TARN_E_TOO_BIG);
    assert_int_equal(fx_found(&fx, ROOT, fx.index, "c"), 0);
    assert_int_equal(fx_ino(&fx, ROOT, "c"), a + 1002);
    fx_close(&fx);
}

static uint64_t untold(struct core_fx *fx)
{
    uint64_t at;

    assert_int_equal(tarn_core_untold(fx->kv, &at), 0);
    return at;
}

static uint64_t removed_index(struct core_fx *fx, uint64_t dir)
{
    Tarn__Core__DirState *st = fx_dir(fx, dir);
    uint64_t at = st->removed_index;

    tarn__core__dir_state__free_unpacked(st, NULL);
    return at;
}

/* What is not told begins with the first change behind what was; new names tell nobody. */
static void telling(void **state)
{
    struct core_fx fx;
    uint64_t first, second, told, d;

    (void)state;
    fx_open_attached(&fx);
    assert_int_equal(fx_told(&fx, fx.index), 0);
    fx_list(&fx, ROOT, "a=1 b=1 d/ e/");
    d = fx_ino(&fx, ROOT, "d");
    fx_list(&fx, d, "x");
    assert_int_equal(untold(&fx), 0);
    assert_int_equal(fx_found(&fx, ROOT, fx.index, "a=2"), 0);
    first = fx.index;
    assert_int_equal(untold(&fx), first);
    assert_int_equal(fx_found(&fx, ROOT, fx.index, "new"), 0);
    assert_int_equal(fx_found(&fx, ROOT, fx.index, "b=2"), 0);
    second = fx.index;
    assert_int_equal(untold(&fx), first);
    assert_int_equal(removed_index(&fx, ROOT), 0);

    assert_int_equal(fx_told(&fx, fx.index + 1), -TARN_E_ENTRY_BAD); /* itself */
    assert_int_equal(fx_told(&fx, first - 1), 0);                    /* known already */
    assert_int_equal(untold(&fx), first);
    assert_int_equal(fx_told(&fx, first), 0);
    assert_int_equal(untold(&fx), first + 1);
    assert_int_equal(fx_told(&fx, second - 1), 0);
    assert_int_equal(untold(&fx), second);
    assert_int_equal(fx_told(&fx, first), 0); /* never back */
    assert_int_equal(untold(&fx), second);
    told = fx.index;
    assert_int_equal(fx_told(&fx, told), 0);
    assert_int_equal(untold(&fx), 0);

    assert_int_equal(fx_gone(&fx, ROOT, fx.index, "b"), 0);
    assert_int_equal(untold(&fx), fx.index);
    assert_int_equal(removed_index(&fx, ROOT), fx.index);
    assert_int_equal(removed_index(&fx, d), 0);
    fx_list(&fx, ROOT, "a=2 e/"); /* `d` loses its name, and what is below it */
    assert_int_equal(removed_index(&fx, ROOT), fx.index);
    assert_int_equal(fx_collect(&fx, d, 10), 0);
    assert_int_equal(fx_found(&fx, ROOT, fx.index, "e"), 0); /* another kind */
    assert_int_equal(removed_index(&fx, ROOT), fx.index);
    fx_close(&fx);
}

/* A store of a version that knew no Told. */
static void told_by_nobody(void **state)
{
    struct core_fx fx;
    struct tarn_kv_batch *b;

    (void)state;
    fx_open_attached(&fx);
    fx_list(&fx, ROOT, "a=1 b=1");
    assert_int_equal(fx_found(&fx, ROOT, fx.index, "a=2"), 0);
    b = tarn_kv_batch_new(fx.kv);
    tarn_kv_batch_delete(b, TARN_CF_META, tarn_kv_slice("xuntold", 7));
    assert_int_equal(tarn_kv_write(fx.kv, b, true), 0);
    tarn_kv_batch_free(&b);
    assert_int_equal(untold(&fx), 0);
    assert_int_equal(fx_told(&fx, fx.index), 0);
    assert_int_equal(untold(&fx), 0);
    assert_int_equal(fx_found(&fx, ROOT, fx.index, "b=2"), 0);
    assert_int_equal(untold(&fx), fx.index);
    fx_close(&fx);
}

static void collecting(void **state)
{
    struct core_fx fx;
    struct tarn_str s = {0};
    tarn_ino_t g;
    uint64_t d, sub, f;

    (void)state;
    fx_open_attached(&fx);
    fx_list(&fx, ROOT, "d/");
    d = fx_ino(&fx, ROOT, "d");
    fx_list(&fx, d, "1 2 3 4 sub/");
    sub = fx_ino(&fx, d, "sub");
    fx_list(&fx, sub, "x=10");
    f = fx_ino(&fx, sub, "x");
    assert_int_equal(tarn_core_path(fx.kv, (tarn_ino_t){f}, &s), 0);
    assert_string_equal(s.p, "/d/sub/x");
    assert_int_equal(tarn_core_key(fx.kv, (tarn_ino_t){f}, &s), 0);
    assert_string_equal(s.p, "d/sub/x");
    assert_int_equal(tarn_core_path(fx.kv, TARN_INO_ROOT, &s), 0);
    assert_string_equal(s.p, "/");
    assert_int_equal(tarn_core_key(fx.kv, TARN_INO_ROOT, &s), 0);
    assert_string_equal(tarn_str_z(&s), "");
    assert_string_equal(fx_counts(&fx), "5 3 14 0 3");
    assert_int_equal(tarn_core_garbage(fx.kv, &g), 0);
    assert_int_equal(g.v, 0);

    fx_list(&fx, ROOT, "");
    assert_string_equal(fx_counts(&fx), "5 2 14 0 2"); /* below is counted until it is collected */
    assert_int_equal(tarn_core_path(fx.kv, (tarn_ino_t){f}, &s), -TARN_E_NO_ENTRY);
    assert_int_equal(tarn_core_garbage(fx.kv, &g), 0);
    assert_int_equal(g.v, d);
    assert_int_equal(fx_collect(&fx, d, 3), 0);
    assert_true(fx.res.more);
    assert_int_equal(fx.res.removed, 3);
    assert_string_equal(fx_changes(&fx), "1 gone, 2 gone, 3 gone");
    assert_int_equal(fx_collect(&fx, d, 3), 0);
    assert_false(fx.res.more);
    assert_string_equal(fx_changes(&fx), "4 gone, sub gone");
    assert_int_equal(fx_collect(&fx, d, 3), -TARN_E_NO_ENTRY);
    assert_int_equal(tarn_core_garbage(fx.kv, &g), 0);
    assert_int_equal(g.v, sub);
    assert_int_equal(fx_collect(&fx, sub, 1), 0);
    assert_false(fx.res.more);
    assert_int_equal(tarn_core_garbage(fx.kv, &g), 0);
    assert_int_equal(g.v, 0);
    assert_string_equal(fx_counts(&fx), "0 1 0 0 1");
    tarn_str_fini(&s);
    fx_close(&fx);
}

static int fx_job(struct core_fx *fx, uint64_t id, uint64_t done, size_t lines)
{
    Tarn__Core__Entry e = TARN__CORE__ENTRY__INIT;
    Tarn__Core__JobLines m = TARN__CORE__JOB_LINES__INIT;
    Tarn__Core__JobPut put = TARN__CORE__JOB_PUT__INIT;
    Tarn__Core__JobRecord job;
    Tarn__Core__JobLine line, *list[16];

    tarn__core__job_record__init(&job);
    tarn__core__job_line__init(&line);
    job.id = id;
    job.files_done = done;
    job.manifest_next = 1000; /* not the entry's to say */
    for (size_t i = 0; i < lines; i++)
        list[i] = &line;
    m.job = &job;
    m.n_lines = lines;
    m.lines = list;
    put.job = &job;
    if (lines)
        e.job_lines = &m;
    else
        e.job_put = &put;
    return fx_apply(fx, &e);
}

static int fx_items(struct core_fx *fx, uint64_t id, size_t n)
{
    Tarn__Core__Entry e = TARN__CORE__ENTRY__INIT;
    Tarn__Core__JobItems m = TARN__CORE__JOB_ITEMS__INIT;
    Tarn__Core__JobItem item = TARN__CORE__JOB_ITEM__INIT, *list[16];

    for (size_t i = 0; i < n; i++)
        list[i] = &item;
    m.id = id;
    m.n_items = n;
    m.items = list;
    e.job_items = &m;
    return fx_apply(fx, &e);
}

static int sum_item(void *arg, uint64_t seq, const Tarn__Core__JobItem *item)
{
    (void)item;
    *(uint64_t *)arg = *(uint64_t *)arg * 10 + seq;
    return 0;
}

static int fx_drop(struct core_fx *fx, uint64_t id, uint32_t max)
{
    Tarn__Core__Entry e = TARN__CORE__ENTRY__INIT;
    Tarn__Core__JobDrop m = TARN__CORE__JOB_DROP__INIT;

    m.id = id;
    m.max = max;
    e.job_drop = &m;
    return fx_apply(fx, &e);
}

static int sum_seq(void *arg, uint64_t seq, const Tarn__Core__JobLine *line)
{
    (void)line;
    *(uint64_t *)arg = *(uint64_t *)arg * 10 + seq;
    return 0;
}

static int stop_at_second(void *arg, const Tarn__Core__JobRecord *job)
{
    *(uint64_t *)arg = job->id;
    return job->id == 2 ? 7 : 0;
}

static void jobs(void **state)
{
    struct core_fx fx;
    Tarn__Core__JobRecord *job;
    uint64_t seqs = 0, id = 0;

    (void)state;
    fx_open_attached(&fx);
    assert_int_equal(fx_job(&fx, 1, 0, 2), -TARN_E_NO_JOB);
    assert_int_equal(fx_job(&fx, 0, 0, 0), -TARN_E_ENTRY_BAD);
    assert_int_equal(fx_job(&fx, 3, 0, 0), 0);
    assert_int_equal(fx_job(&fx, 2, 0, 0), 0);
    assert_int_equal(fx_job(&fx, 2, 2, 2), 0);
    assert_int_equal(fx_job(&fx, 2, 5, 3), 0);
    assert_int_equal(fx_job(&fx, 2, 6, 0), 0);
    assert_int_equal(tarn_core_job(fx.kv, 2, &job), 0);
    assert_int_equal(job->files_done, 6);
    assert_int_equal(job->manifest_next, 5);
    tarn__core__job_record__free_unpacked(job, NULL);
    assert_int_equal(tarn_core_manifest(fx.kv, 2, 1, sum_seq, &seqs), 0);
    assert_int_equal(seqs, 1234);
    assert_int_equal(tarn_core_jobs(fx.kv, stop_at_second, &id), 7);
    assert_int_equal(fx_drop(&fx, 2, 0), -TARN_E_ENTRY_BAD);
    assert_int_equal(fx_drop(&fx, 4, 1), -TARN_E_NO_JOB);
    assert_int_equal(fx_items(&fx, 4, 1), -TARN_E_NO_JOB);
    assert_int_equal(fx_items(&fx, 2, 0), -TARN_E_ENTRY_BAD);
    assert_int_equal(fx_items(&fx, 2, 2), 0);
    assert_int_equal(fx_items(&fx, 2, 1), 0);
    assert_int_equal(fx_job(&fx, 2, 7, 0), 0); /* a record does not move the numbers */
    seqs = 0;
    assert_int_equal(tarn_core_job_items(fx.kv, 2, 1, sum_item, &seqs), 0);
    assert_int_equal(seqs, 12);
    assert_int_equal(fx_drop(&fx, 2, 4), 0); /* 5 lines, 3 items */
    assert_true(fx.res.more);
    assert_int_equal(fx_drop(&fx, 2, 1), 0);
    assert_true(fx.res.more);
    assert_int_equal(fx_drop(&fx, 2, 4), 0);
    assert_false(fx.res.more);
    assert_int_equal(tarn_core_job(fx.kv, 2, &job), -TARN_E_NO_ENTRY);
    fx_close(&fx);
}

static void replay_is_skipped(void **state)
{
    Tarn__Core__Entry e = TARN__CORE__ENTRY__INIT;
    Tarn__Core__Gone m = TARN__CORE__GONE__INIT;
    struct core_fx fx;
    uint64_t before, after;

    (void)state;
    fx_open_attached(&fx);
    fx_list(&fx, ROOT, "a");
    assert_int_equal(tarn_kv_dump_hash(fx.kv, 7, &before), 0);
    m.parent = ROOT;
    m.name = fx_bytes("a");
    m.asked_index = 0;
    e.gone = &m;
    for (uint64_t index = 1; index <= fx.index; index++) {
        struct tarn_kv_batch *b = tarn_kv_batch_new(fx.kv);
        struct tarn_core_result r = {0};
        struct tarn_str bytes = {0};

        assert_int_equal(tarn_core_entry_encode(&e, &bytes), 0);
        assert_int_equal(tarn_core_apply(fx.kv, b, index, (uint8_t *)bytes.p, bytes.len, &r), 0);
        assert_int_equal(r.rc, 0);
        assert_int_equal(tarn_kv_batch_count(b), 0);
        tarn_str_fini(&bytes);
        tarn_kv_batch_free(&b);
    }
    assert_int_equal(tarn_kv_dump_hash(fx.kv, 7, &after), 0);
    assert_true(before == after);
    fx_close(&fx);
}

static void entries_over_the_limit(void **state)
{
    Tarn__Core__Entry e = TARN__CORE__ENTRY__INIT;
    Tarn__Core__ListPage m = TARN__CORE__LIST_PAGE__INIT;
    struct tarn_str out = {0};
    char *big = tarn_xcalloc(1, TARN_JOURNAL_ENTRY_MAX);

    (void)state;
    m.skipped_names = (ProtobufCBinaryData){TARN_JOURNAL_ENTRY_MAX, (uint8_t *)big};
    e.list_page = &m;
    assert_int_equal(tarn_core_entry_encode(&e, &out), -TARN_E_TOO_BIG);
    assert_false(tarn_core_entry_needs_sync(&e));
    m.skipped_names.len -= 64;
    assert_int_equal(tarn_core_entry_encode(&e, &out), 0);
    assert_true(out.len <= TARN_JOURNAL_ENTRY_MAX);
    tarn_str_fini(&out);
    free(big);
}

/* ---- many names
 * ---------------------------------------------------------------------------------------- */

#define PAGE 400

/* Lists names "f%08u" from `first` up to `end`, in pages like the lister's; the last one is
 * complete. */
static void list_many(struct core_fx *fx, uint64_t dir, unsigned first, unsigned end)
{
    static Tarn__Core__Object o[PAGE], *p[PAGE];
    static Tarn__Core__Version v[PAGE];
    static char names[PAGE][16];
    static uint8_t cid[16] = {9};
    char upto[16] = "";
    uint64_t asked = fx->index;

    assert_int_equal(fx_begin(fx, dir, asked, false), 0);
    while (first < end) {
        Tarn__Core__Entry e = TARN__CORE__ENTRY__INIT;
        Tarn__Core__ListPage m = TARN__CORE__LIST_PAGE__INIT;
        size_t n = 0;

        for (; first < end && n < PAGE; n++, first++) {
            tarn__core__object__init(&o[n]);
            tarn__core__version__init(&v[n]);
            snprintf(names[n], sizeof(names[n]), "f%08u", first);
            o[n].name = (ProtobufCBinaryData){strlen(names[n]), (uint8_t *)names[n]};
            o[n].type = 1;
            o[n].ufs = &v[n];
            o[n].cid = (ProtobufCBinaryData){16, cid};
            v[n].size = 110000;
            v[n].mtime_ns = 1700000000000000000;
            v[n].etag = (char *)(uintptr_t) "d41d8cd98f00b204e9800998ecf8427e";
            p[n] = &o[n];
        }
        m.dir = dir;
        m.asked_index = asked;
        m.from_key = (ProtobufCBinaryData){strlen(upto), (uint8_t *)upto};
        m.to_key = o[n - 1].name;
        m.complete = first == end;
        m.n_objects = n;
        m.objects = p;
        e.list_page = &m;
        assert_int_equal(fx_apply(fx, &e), 0);
        memcpy(upto, names[n - 1], sizeof(upto));
    }
}

static int count_entry(void *arg, tarn_ino_t ino, const Tarn__Core__Inode *inode)
{
    uint64_t *n = arg;

    (void)inode;
    n[0]++;
    n[1] = ino.v;
    return n[0] == n[2] ? 1 : 0;
}

static void readdir_continues(void **state)
{
    struct core_fx fx;
    uint64_t n[3] = {0, 0, 100}, total = 0;
    int rc;

    (void)state;
    fx_open_attached(&fx);
    list_many(&fx, ROOT, 0, 1000);
    do {
        n[0] = 0;
        rc = tarn_core_readdir(fx.kv, TARN_INO_ROOT, n[1], count_entry, n);
        total += n[0];
        if (total == 500) { /* what changes behind and before the cookie does not disturb it */
            assert_int_equal(fx_gone(&fx, ROOT, fx.index, "f00000003"), 0);
            assert_int_equal(fx_gone(&fx, ROOT, fx.index, "f00000900"), 0);
            assert_int_equal(fx_found(&fx, ROOT, fx.index, "a"), 0);
        }
    } while (rc == 1);
    assert_int_equal(rc, 0);
    assert_int_equal(total, 1000);
    n[0] = 0;
    assert_int_equal(tarn_core_readdir(fx.kv, TARN_INO_ROOT, UINT64_MAX, count_entry, n), 0);
    assert_int_equal(n[0], 0);
    fx_close(&fx);
}

static void a_sweep_is_bounded(void **state)
{
    struct core_fx fx;
    Tarn__Core__DirState *st;
    uint64_t asked;
    unsigned names = TARN_CORE_SCAN_MAX + TARN_CORE_SCAN_MAX / 2;

    (void)state;
    fx_open_attached(&fx);
    list_many(&fx, ROOT, 0, names);
    asked = fx.index;
    assert_int_equal(fx_begin(&fx, ROOT, asked, false), 0);
    assert_int_equal(fx_page(&fx, ROOT, "", NULL, asked, "a z"), 0);
    assert_true(fx.res.more);
    assert_int_equal(fx.res.removed, TARN_CORE_SCAN_MAX);
    assert_int_equal(fx.res.created, 1); /* a; z is behind the cut */
    st = fx_dir(&fx, ROOT);
    assert_true(st->running);
    assert_int_equal(st->upto_key.len, 9);
    assert_int_equal(fx_page(&fx, ROOT, "f00016383", NULL, asked, "z"), 0);
    assert_false(fx.res.more);
    tarn__core__dir_state__free_unpacked(st, NULL);
    assert_string_equal(fx_ls(&fx, ROOT), "a z");
    assert_string_equal(fx_counts(&fx), "2 1 2 0 1");
    fx_close(&fx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(init_and_attach),
        cmocka_unit_test(malformed_entries),
        cmocka_unit_test(bad_objects),
        cmocka_unit_test(first_listing),
        cmocka_unit_test(relisting_changes),
        cmocka_unit_test(owner_alone_keeps_version),
        cmocka_unit_test(sweep_respects_key_order),
        cmocka_unit_test(directory_wins),
        cmocka_unit_test(newer_is_not_touched),
        cmocka_unit_test(runs),
        cmocka_unit_test(skipped_names),
        cmocka_unit_test(found_and_gone),
        cmocka_unit_test(starting),
        cmocka_unit_test(telling),
        cmocka_unit_test(told_by_nobody),
        cmocka_unit_test(collecting),
        cmocka_unit_test(jobs),
        cmocka_unit_test(replay_is_skipped),
        cmocka_unit_test(entries_over_the_limit),
        cmocka_unit_test(readdir_continues),
        cmocka_unit_test(a_sweep_is_bounded),
    };

    return cmocka_run_group_tests_name("core", tests, NULL, NULL);
}
