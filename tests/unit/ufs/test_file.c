/* SPDX-License-Identifier: Apache-2.0 */
/* The file store: names, order, pages, symlinks that lead away, files that change while they are
 * read. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
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

#include "lib/base/env.h"
#include "lib/base/mem.h"
#include "tests/unit/ufs/fixture.h"
#include "ufs/file_pool_priv.h"
#include "ufs/file_priv.h"

struct env {
    char *dir;    /* served */
    char *out;    /* beside it, not served */
    struct fx fx; /* store */
};

static void env_open(struct env *e)
{
    char *uri = tarn_xasprintf("file://%s", e->dir);

    assert_int_equal(fx_open(&e->fx, uri, ""), 0);
    free(uri);
}

static int setup(void **state)
{
    struct env *e = tarn_xnew(struct env);

    e->dir = fx_tmp();
    e->out = fx_tmp();
    *state = e;
    env_open(e);
    return 0;
}

static int teardown(void **state)
{
    struct env *e = *state;

    fx_close(&e->fx);
    fx_tmp_fini(e->dir);
    fx_tmp_fini(e->out);
    free(e);
    return 0;
}

static char *in_dir(struct env *e, const char *name)
{
    static char path[4][4096];
    static unsigned turn;

    turn = (turn + 1) % 4;
    (void)snprintf(path[turn], sizeof(path[turn]), "%s/%s", e->dir, name); /* fits */
    return path[turn];
}

static void make_dir(struct env *e, const char *name)
{
    assert_int_equal(mkdir(in_dir(e, name), 0755), 0);
}

static void make_file(struct env *e, const char *name, const char *text)
{
    fx_write(e->dir, name, text, strlen(text));
}

/* Long enough for a timestamp to be another one. */
static void pass_grain(void)
{
    (void)usleep(40000); /* a signal may cut it short: nothing sends one */
}

static void check_list(struct env *e, const char *dir, unsigned max, const char *want)
{
    struct fx_listing l = {0};

    assert_int_equal(fx_list(&e->fx, dir, max, &l), 0);
    assert_string_equal(tarn_str_z(&l.out), want);
    fx_listing_fini(&l);
}

static void test_check(void **state)
{
    struct env *e = *state;
    struct fx f;

    assert_int_equal(fx_check(&e->fx), 0); /* an empty root is fine */
    assert_int_equal(fx_open(&f, "file:///absent/somewhere", ""), 0);
    assert_int_equal(fx_check(&f), -TARN_E_UFS_NO_BUCKET);
    assert_non_null(strstr(f.err.text, "file:///absent/somewhere: no such directory"));
    assert_int_equal(fx_stat(&f, "x"), -TARN_E_UFS_NO_BUCKET);
    fx_close(&f);
}

static void test_stat(void **state)
{
    struct env *e = *state;
    struct stat st;

    make_file(e, "f", "12345");
    make_dir(e, "d");
    assert_int_equal(symlink("f", in_dir(e, "ln")), 0);
    assert_int_equal(mkfifo(in_dir(e, "pipe"), 0600), 0);
    assert_int_equal(stat(in_dir(e, "f"), &st), 0);
    assert_int_equal(fx_stat(&e->fx, "f"), 0);
    assert_int_equal(e->fx.attr.type, TARN_UFS_FILE);
    assert_int_equal(e->fx.attr.version.size_bytes, 5);
    assert_int_equal(e->fx.attr.version.mtime_ns,
                     st.st_mtim.tv_sec * 1000000000L + st.st_mtim.tv_nsec);
    assert_int_equal(e->fx.attr.version.ctime_ns,
                     st.st_ctim.tv_sec * 1000000000L + st.st_ctim.tv_nsec);
    assert_true(e->fx.attr.version.file_id != 0);
    assert_true(e->fx.attr.has_owner);
    assert_int_equal(e->fx.attr.uid, st.st_uid);
    assert_int_equal(e->fx.attr.mode, st.st_mode & 07777);
    assert_int_equal(fx_stat(&e->fx, "d"), 0);
    assert_int_equal(e->fx.attr.type, TARN_UFS_DIR);
    assert_int_equal(fx_stat(&e->fx, ""), 0);
    assert_int_equal(e->fx.attr.type, TARN_UFS_DIR);
    assert_int_equal(fx_stat(&e->fx, "ln"), 0);
    assert_int_equal(e->fx.attr.type, TARN_UFS_SYMLINK);
    assert_string_equal(e->fx.target, "f");
    assert_int_equal(fx_stat(&e->fx, "pipe"), -TARN_E_UFS_NOT_FOUND);
    assert_int_equal(fx_stat(&e->fx, "nope"), -TARN_E_UFS_NOT_FOUND);
    assert_int_equal(fx_stat(&e->fx, "f/x"), -TARN_E_UFS_NOT_FOUND);
    assert_int_equal(fx_stat_file(&e->fx, "d"), -TARN_E_UFS_NOT_FOUND);
}

static void test_list_order(void **state)
{
    static const char want[] =
        "A 0\na-b 0\na.b 0\na/\na0 0\nb 0\nln -> ../../etc/passwd\nz z 0\n\xc3\xa9 0\n\xff 0\n";
    struct env *e = *state;
    static const char *const files[] = {"a-b", "a.b", "a0", "b", "A", "z z", "\xc3\xa9", "\xff"};

    for (size_t i = 0; i < TARN_ARRAY_LEN(files); i++)
        make_file(e, files[i], "");
    make_dir(e, "a");
    make_file(e, "a/x", "1");
    assert_int_equal(symlink("../../etc/passwd", in_dir(e, "ln")), 0);
    for (unsigned max = 1; max < 12; max++)
        check_list(e, "", max, want);
    check_list(e, "a/", 10, "x 1\n");
}

static void test_list_restart(void **state)
{
    struct env *e = *state;
    struct fx_listing l = {.restart = true};
    char name[32];

    for (int i = 0; i < 50; i++) {
        (void)snprintf(name, sizeof(name), "f%02d", i); /* fits */
        make_file(e, name, "");
    }
    make_dir(e, "f10x");
    assert_int_equal(fx_list(&e->fx, "", 7, &l), 0);
    assert_int_equal(l.entries, 51);
    assert_int_equal(l.pages, 8);
    fx_listing_fini(&l);
}

static void test_list_skips(void **state)
{
    struct env *e = *state;
    struct fx_listing l = {0};

    make_file(e, "ok", "");
    assert_int_equal(mkfifo(in_dir(e, "pipe\n"), 0600), 0);
    assert_int_equal(fx_list(&e->fx, "", 10, &l), 0);
    assert_string_equal(l.out.p, "ok 0\n");
    assert_int_equal(l.skipped, 1);
    assert_string_equal(l.skipped_names.p, "pipe\\x0a\n");
    fx_listing_fini(&l);
    assert_int_equal(fx_list(&e->fx, "nope/", 10, &l), -TARN_E_UFS_NOT_FOUND);
    assert_int_equal(fx_list(&e->fx, "ok/", 10, &l), -TARN_E_UFS_NOT_FOUND);
    fx_listing_fini(&l);
}

static void test_list_paging_sees_changes(void **state)
{
    struct env *e = *state;
    struct tarn_file_root root = {.path = e->dir, .mounts.fd = -1};
    struct tarn_file_snap *snap = NULL;
    _Atomic uint64_t beats = 0;
    _Atomic bool stop = false;
    struct tarn_file_page page;
    struct tarn_file_list_args a = {.root = &root,
                                    .dir = "",
                                    .from_key = "",
                                    .max_entries = 2,
                                    .max_bytes = TARN_FILE_SNAP_BYTES,
                                    .beats = &beats,
                                    .stop = &stop};

    make_file(e, "a", "");
    make_file(e, "b", "");
    make_file(e, "c", "");
    make_file(e, "d", "");
    assert_int_equal(tarn_file_list(&a, &snap, &page), 0);
    assert_int_equal(page.count, 2);
    assert_string_equal(page.to_key, "b");
    tarn_file_page_fini(&page);
    assert_int_equal(unlink(in_dir(e, "c")), 0); /* vanished */
    assert_int_equal(unlink(in_dir(e, "d")), 0); /* another kind now */
    make_dir(e, "d");
    a.from_key = "b";
    assert_int_equal(tarn_file_list(&a, &snap, &page), 0);
    assert_int_equal(page.count, 0);
    assert_null(page.to_key);
    assert_null(snap);
    tarn_file_page_fini(&page);
}

/* A directory that does not fit the memory of a listing is read several times, and shown whole. */
static void test_list_bounded(void **state)
{
    struct env *e = *state;
    struct tarn_file_root root = {.path = e->dir, .mounts.fd = -1};
    struct tarn_file_snap *snap = NULL;
    _Atomic uint64_t beats = 0;
    _Atomic bool stop = false;
    struct tarn_file_page page;
    struct tarn_file_list_args a = {.root = &root,
                                    .dir = "",
                                    .max_entries = 100,
                                    .max_bytes = 4096,
                                    .beats = &beats,
                                    .stop = &stop};
    char *from = tarn_xstrdup(""), *last = tarn_xstrdup(""), name[32];
    size_t seen = 0;

    for (int i = 0; i < 2000; i++) {
        (void)snprintf(name, sizeof(name), "%u", (unsigned)i * 2654435761u); /* fits */
        make_file(e, name, "");
    }
    do {
        a.from_key = from;
        assert_int_equal(tarn_file_list(&a, &snap, &page), 0);
        for (size_t i = 0; i < page.count; i++, seen++) {
            assert_true(strcmp(last, page.entries[i].name) < 0);
            free(last);
            last = tarn_xstrdup(page.entries[i].name);
        }
        free(from);
        from = page.to_key;
        page.to_key = NULL;
        tarn_file_page_fini(&page);
    } while (from);
    assert_int_equal(seen, 2000);
    assert_null(snap);
    assert_true(beats > 0);
    free(last);
}

static void test_list_large(void **state)
{
    struct env *e = *state;
    struct fx_listing l = {.quiet = true};
    int dir = open(e->dir, O_RDONLY | O_DIRECTORY);
    char name[32];
    uint64_t t0;

    for (int i = 0; i < 4000; i++) {
        (void)snprintf(name, sizeof(name), "file-%08x", (unsigned)i * 2654435761u); /* fits */
        int fd = openat(dir, name, O_CREAT | O_WRONLY, 0644);

        assert_true(fd >= 0);
        (void)close(fd); /* empty */
    }
    (void)close(dir); /* read only */
    t0 = tarn_now_ns();
    assert_int_equal(fx_list(&e->fx, "", 1000, &l), 0);
    assert_int_equal(l.entries, 4000);
    assert_int_equal(l.pages, 4);
    print_message("directory: %.0f entries/s\n", 4000 * 1e9 / (double)(tarn_now_ns() - t0));
    fx_listing_fini(&l);
}

/* ---- leading away --------------------------------------------------------------------------- */

static void check_escape(struct env *e, const char *key)
{
    struct tarn_ufs_version v = {.size_bytes = 6, .file_id = 1};
    char data[6] = {0};

    assert_int_equal(fx_stat(&e->fx, key), -TARN_E_UFS_NOT_FOUND);
    assert_int_equal(fx_get(&e->fx, key, &v, 0, 6, data, NULL), -TARN_E_UFS_NOT_FOUND);
    assert_string_equal(data, "");
}

static void check_escapes(struct env *e)
{
    struct tarn_ufs_version v = {.size_bytes = 6, .file_id = 1};
    struct fx_listing l = {0};

    check_escape(e, "away/secret");
    check_escape(e, "inner/secret");
    check_escape(e, "../secret");
    check_escape(e, "d/../../secret");
    check_escape(e, "d/./x");
    assert_int_equal(fx_get(&e->fx, "leaf", &v, 0, 6, NULL, NULL), -TARN_E_UFS_NOT_FOUND);
    assert_int_equal(fx_list(&e->fx, "away/", 10, &l), -TARN_E_UFS_NOT_FOUND);
    assert_int_equal(fx_list(&e->fx, "../", 10, &l), -TARN_E_UFS_NOT_FOUND);
    assert_int_equal(fx_stat(&e->fx, "leaf"), 0);
    assert_int_equal(e->fx.attr.type, TARN_UFS_SYMLINK);
}

static void test_symlinks_lead_nowhere(void **state)
{
    struct env *e = *state;
    char *secret = tarn_xasprintf("%s/secret", e->out);

    fx_write(e->out, "secret", "canary", 6);
    make_dir(e, "d");
    make_file(e, "d/x", "1");
    fx_write(e->dir, "secret", "canary", 6);
    assert_int_equal(symlink(e->out, in_dir(e, "away")), 0);
    assert_int_equal(symlink(".", in_dir(e, "inner")), 0);
    assert_int_equal(symlink(secret, in_dir(e, "leaf")), 0);
    check_escapes(e);
    free(secret);
}

/* The way without openat2 gives the same answers. */
static void test_walk_by_hand(void **state)
{
    struct env *e = *state;
    struct tarn_file_root root = {.path = e->dir, .mounts.fd = -1, .no_openat2 = true};
    int fd = -1;

    make_dir(e, "d");
    make_dir(e, "d/e");
    make_file(e, "d/e/f", "1");
    assert_int_equal(symlink(e->out, in_dir(e, "away")), 0);
    assert_int_equal(symlink("e", in_dir(e, "d/ln")), 0);
    fx_write(e->out, "secret", "canary", 6);
    assert_int_equal(tarn_file_open(&root, "d/e/f", O_RDONLY, &fd), 0);
    (void)close(fd); /* read only */
    assert_int_equal(tarn_file_open(&root, "d", O_RDONLY | O_DIRECTORY, &fd), 0);
    (void)close(fd); /* read only */
    assert_int_equal(tarn_file_open(&root, "away", O_PATH, &fd), 0);
    (void)close(fd); /* read only */
    assert_int_equal(tarn_file_open(&root, "away/secret", O_RDONLY, &fd), -ENOTDIR);
    assert_int_equal(tarn_file_open(&root, "d/ln/f", O_RDONLY, &fd), -ENOTDIR);
    assert_int_equal(tarn_file_open(&root, "away", O_RDONLY, &fd), -ELOOP);
    assert_int_equal(tarn_file_open(&root, "../secret", O_RDONLY, &fd), -ENOENT);
    assert_int_equal(tarn_file_open(&root, "d/../d/e", O_RDONLY, &fd), -ENOENT);
}

struct swapper {
    struct env *e;     /* tree */
    _Atomic bool stop; /* leave */
};

/* Swaps the directory `d` with a symlink that leads away, as fast as it can. */
static void *swap_thread(void *arg)
{
    struct swapper *s = arg;
    char dir[512], hold[512], link[512];

    (void)snprintf(dir, sizeof(dir), "%s/d", s->e->dir);   /* fits */
    (void)snprintf(hold, sizeof(hold), "%s/h", s->e->dir); /* fits */
    (void)snprintf(link, sizeof(link), "%s/l", s->e->dir); /* fits */
    while (!s->stop) {
        assert_int_equal(rename(dir, hold), 0);
        assert_int_equal(rename(link, dir), 0);
        assert_int_equal(rename(dir, link), 0);
        assert_int_equal(rename(hold, dir), 0);
    }
    return NULL;
}

static void test_swap_during_walk(void **state)
{
    struct env *e = *state;
    struct swapper s = {.e = e};
    pthread_t thread;
    unsigned found = 0;

    make_dir(e, "d");
    make_file(e, "d/x", "inside");
    fx_write(e->out, "x", "outside-outside", 15);
    assert_int_equal(symlink(e->out, in_dir(e, "l")), 0);
    assert_int_equal(pthread_create(&thread, NULL, swap_thread, &s), 0);
    for (int i = 0; i < 300; i++) {
        int rc = fx_stat(&e->fx, "d/x");

        assert_true(rc == 0 || rc == -TARN_E_UFS_NOT_FOUND);
        if (rc == 0) {
            assert_int_equal(e->fx.attr.version.size_bytes, 6);
            found++;
        }
    }
    s.stop = true;
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(fx_stat(&e->fx, "d/x"), 0);
    print_message("swap: found %u of 300\n", found);
}

/* ---- bytes ---------------------------------------------------------------------------------- */

static void test_get(void **state)
{
    struct env *e = *state;
    size_t size = (3u << 20) + 17, n;
    uint8_t *want = tarn_xcalloc(1, size), *got = tarn_xcalloc(1, size);
    struct tarn_ufs_version v;

    for (size_t i = 0; i < size; i++)
        want[i] = (uint8_t)(i * 31 + (i >> 11));
    fx_write(e->dir, "f", want, size);
    assert_int_equal(fx_stat(&e->fx, "f"), 0);
    v = e->fx.attr.version;
    assert_int_equal(fx_get(&e->fx, "f", &v, 0, size, got, &n), 0);
    assert_int_equal(n, size);
    assert_memory_equal(got, want, size);
    assert_int_equal(e->fx.verified, TARN_VERIFIED_LENGTH);
    assert_int_equal(fx_get(&e->fx, "f", &v, size - 5, 5, got, &n), 0);
    assert_memory_equal(got, want + size - 5, 5);
    v.size_bytes++;
    assert_int_equal(fx_get(&e->fx, "f", &v, 0, 5, got, &n), -TARN_E_UFS_CHANGED);
    assert_int_equal(n, 0);
    free(want);
    free(got);
}

static void test_get_changed(void **state)
{
    struct env *e = *state;
    struct tarn_ufs_version v;
    struct tarn_errbuf err;
    int fd;

    make_file(e, "f", "12345");
    pass_grain();
    assert_int_equal(fx_stat(&e->fx, "f"), 0);
    v = e->fx.attr.version;
    fd = open(in_dir(e, "f"), O_WRONLY);
    assert_int_equal(pwrite(fd, "x", 1, 0), 1); /* the same length */
    (void)close(fd);                            /* written */
    assert_int_equal(fx_get(&e->fx, "f", &v, 0, 5, NULL, NULL), -TARN_E_UFS_CHANGED);
    err = e->fx.err;
    assert_non_null(strstr(err.text, "/f: "));
    assert_int_equal(unlink(in_dir(e, "f")), 0);
    assert_int_equal(fx_get(&e->fx, "f", &v, 0, 5, NULL, NULL), -TARN_E_UFS_NOT_FOUND);
}

struct changing {
    struct env *e; /* tree */
    int rc;        /* result */
    uint64_t n;    /* bytes handed out */
};

static int changing_data(struct tarn_ufs_get *g, const uint8_t *p, size_t n)
{
    struct changing *c = g->arg;
    int fd;

    (void)p;
    c->n += n;
    fd = open(in_dir(c->e, "f"), O_WRONLY);
    assert_int_equal(pwrite(fd, "x", 1, 3 << 20), 1);
    (void)close(fd); /* written */
    return 0;
}

static void changing_cb(struct tarn_ufs_get *g, int rc)
{
    struct changing *c = g->arg;

    c->rc = rc;
    tarn_loop_stop(c->e->fx.loop);
}

static void test_get_changes_meanwhile(void **state)
{
    struct env *e = *state;
    struct changing c = {e, 1, 0};
    size_t size = 4u << 20;
    uint8_t *zeros = tarn_xcalloc(1, size);
    struct tarn_ufs_get g = {
        .len_bytes = size, .on_data = changing_data, .cb = changing_cb, .arg = &c};

    fx_write(e->dir, "f", zeros, size);
    pass_grain();
    assert_int_equal(fx_stat(&e->fx, "f"), 0);
    tarn_ufs_get(e->fx.ufs, &g, "f", &e->fx.attr.version);
    tarn_loop_run(e->fx.loop);
    assert_int_equal(c.rc, -TARN_E_UFS_CHANGED);
    assert_true(c.n < size);
    free(zeros);
}

/* Whoever reads a file in the instant it was written may not miss a second write in the same
 * instant. */
static void test_get_young(void **state)
{
    struct env *e = *state;
    uint64_t t0 = tarn_now_ns(); /* not later than the file */

    make_file(e, "f", "12345");
    assert_int_equal(fx_stat(&e->fx, "f"), 0);
    assert_int_equal(fx_get(&e->fx, "f", &e->fx.attr.version, 0, 5, NULL, NULL), 0);
    assert_true(tarn_now_ns() - t0 >= 15 * TARN_NS_PER_MS);
}

static void test_young_rule(void **state)
{
    struct env *e = *state;
    struct stat st;
    int64_t ctime_ns;
    int fd;

    make_file(e, "f", "12345");
    fd = open(in_dir(e, "f"), O_RDONLY);
    assert_int_equal(fstat(fd, &st), 0);
    ctime_ns = st.st_ctim.tv_sec * 1000000000L + st.st_ctim.tv_nsec;
    assert_int_equal(tarn_file_young_ns(fd, &st, ctime_ns + 2000000000), 0);
    assert_true(tarn_file_young_ns(fd, &st, ctime_ns) > 0);
    assert_true(tarn_file_young_ns(fd, &st, ctime_ns - 5000000000) > 0); /* a clock ahead of ours */
    st.st_ctim.tv_nsec = 1;
    ctime_ns = st.st_ctim.tv_sec * 1000000000L;
    assert_int_equal(tarn_file_young_ns(fd, &st, ctime_ns + 500000000), 0);
    st.st_ctim.tv_nsec = 0; /* perhaps a file system that keeps whole seconds */
    assert_int_equal(tarn_file_young_ns(fd, &st, ctime_ns + 600000000), 400000000);
    assert_int_equal(tarn_file_young_ns(fd, &st, ctime_ns + 1000000000), 0);
    (void)close(fd); /* read only */
}

#define CROWD 100

struct crowd {
    struct env *e;                   /* store */
    struct tarn_ufs_get gets[CROWD]; /* the first half in the background */
    unsigned ended;                  /* so far */
    unsigned background_ended;       /* of them */
    unsigned overtaken;              /* ended in the background while foreground waited */
    uint64_t running_max;            /* at the same time */
};

static int crowd_data(struct tarn_ufs_get *g, const uint8_t *p, size_t n)
{
    struct crowd *c = g->arg;
    struct tarn_ufs_counts counts;

    (void)p;
    (void)n;
    tarn_ufs_counts(c->e->fx.ufs, &counts);
    c->running_max = TARN_MAX(c->running_max, counts.running);
    return 0;
}

static void crowd_cb(struct tarn_ufs_get *g, int rc)
{
    struct crowd *c = g->arg;

    assert_int_equal(rc, 0);
    c->background_ended += g->req.cls == TARN_UFS_BACKGROUND;
    if (++c->ended - c->background_ended < CROWD / 2)
        c->overtaken = c->background_ended;
    if (c->ended == CROWD)
        tarn_loop_stop(c->e->fx.loop);
}

/* Few requests are with the threads, where there is no first and no second class. */
static void test_crowd(void **state)
{
    struct env *e = *state;
    struct crowd *c = tarn_xnew(struct crowd);

    make_file(e, "f", "12345");
    pass_grain();
    assert_int_equal(fx_stat(&e->fx, "f"), 0);
    c->e = e;
    for (int i = 0; i < CROWD; i++) {
        c->gets[i] = (struct tarn_ufs_get){.req.cls = i < CROWD / 2 ? TARN_UFS_BACKGROUND
                                                                    : TARN_UFS_FOREGROUND,
                                           .len_bytes = 5,
                                           .on_data = crowd_data,
                                           .cb = crowd_cb,
                                           .arg = c};
        tarn_ufs_get(e->fx.ufs, &c->gets[i], "f", &e->fx.attr.version);
    }
    tarn_loop_run(e->fx.loop);
    assert_true(c->running_max >= 2);
    assert_true(c->running_max <= 16);
    assert_true(c->overtaken <= 16);
    free(c);
}

static int64_t mtime_of(time_t sec, long nsec)
{
    struct stat st = {.st_mode = S_IFREG, .st_mtim = {sec, nsec}, .st_ctim = {sec, nsec}};
    struct tarn_ufs_attr attr;

    assert_true(tarn_file_attr(&st, &attr));
    (void)tarn_file_young_ns(-1, &st, INT64_MAX); /* nothing overflows */
    (void)tarn_file_young_ns(-1, &st, INT64_MIN); /* as above */
    return attr.version.mtime_ns;
}

/* A file may have any time. */
static void test_times(void **state)
{
    (void)state;
    assert_int_equal(mtime_of(0, 0), 0);
    assert_int_equal(mtime_of(-2, 500000000), -1500000000);
    assert_true(mtime_of((time_t)1 << 40, 1) == INT64_MAX);
    assert_true(mtime_of(-((time_t)1 << 40), 1) == INT64_MIN);
    assert_true(mtime_of(9223372036, 999999999) == INT64_MAX);
    assert_true(mtime_of(INT64_MIN, 0) == INT64_MIN);
}

static void closed_cb(void *arg)
{
    tarn_loop_stop(arg);
}

static void late_cb(struct tarn_ufs_get *g, int rc)
{
    *(int *)g->arg = rc;
}

static int any_data(struct tarn_ufs_get *g, const uint8_t *p, size_t n)
{
    (void)g;
    (void)p;
    (void)n;
    return 0;
}

/* Closing while pool threads are at work. */
static void test_close_under_way(void **state)
{
    struct env *e = *state;
    struct tarn_ufs_get gets[8];
    int rc[8];
    size_t size = 4u << 20;
    uint8_t *zeros = tarn_xcalloc(1, size);

    fx_write(e->dir, "f", zeros, size);
    assert_int_equal(fx_stat(&e->fx, "f"), 0);
    for (int i = 0; i < 8; i++) {
        rc[i] = 1;
        gets[i] = (struct tarn_ufs_get){
            .len_bytes = size, .on_data = any_data, .cb = late_cb, .arg = &rc[i]};
        tarn_ufs_get(e->fx.ufs, &gets[i], "f", &e->fx.attr.version);
    }
    assert_int_equal(fx_stat(&e->fx, "f"), 0); /* lets them start */
    tarn_ufs_close(&e->fx.ufs, closed_cb, e->fx.loop);
    tarn_loop_run(e->fx.loop);
    for (int i = 0; i < 8; i++)
        assert_true(rc[i] == 0 || rc[i] == -TARN_E_CANCELLED);
    free(zeros);
}

/* ---- threads -------------------------------------------------------------------------------- */

#define STUCK_JOBS 6

/* A job that a dead file server keeps until the test lets it go. */
struct stuck {
    struct tarn_file_job job;
    struct tarn_loop *loop;    /* of the test */
    sem_t *begun, *go, *ended; /* the thread says, is told, says */
    unsigned *done;            /* counts */
};

static struct stuck *stuck_of(struct tarn_file_job *job)
{
    return TARN_CONTAINER(job, struct stuck, job);
}

static void stuck_work(struct tarn_file_job *job)
{
    assert_int_equal(sem_post(stuck_of(job)->begun), 0);
    while (sem_wait(stuck_of(job)->go) < 0)
        assert_int_equal(errno, EINTR);
    job->rc = 7;
}

static void stuck_done(struct tarn_file_job *job)
{
    assert_int_equal(job->rc, 7);
    ++*stuck_of(job)->done;
    tarn_loop_stop(stuck_of(job)->loop);
}

static void stuck_drop(struct tarn_file_job *job)
{
    sem_t *ended = stuck_of(job)->ended;

    job->rc = 8; /* still ours */
    assert_int_equal(sem_post(ended), 0);
}

/* A store whose file server is dead is closed at once, though its threads come back much later. */
static void test_stuck_threads(void **state)
{
    struct tarn_file_pool *pool;
    struct tarn_loop *loop;
    struct stuck jobs[STUCK_JOBS];
    sem_t begun, go, ended;
    unsigned done = 0;

    (void)state;
    assert_int_equal(sem_init(&begun, 0, 0) + sem_init(&go, 0, 0) + sem_init(&ended, 0, 0), 0);
    assert_int_equal(tarn_loop_new(&loop), 0);
    pool = tarn_file_pool_new(loop, 3);
    for (size_t i = 0; i < STUCK_JOBS; i++) {
        jobs[i] = (struct stuck){{.work = stuck_work, .done = stuck_done, .drop = stuck_drop},
                                 loop,
                                 &begun,
                                 &go,
                                 &ended,
                                 &done};
        tarn_file_pool_submit(pool, &jobs[i].job);
    }
    for (int i = 0; i < 3; i++)
        assert_int_equal(sem_wait(&begun), 0);
    assert_false(tarn_file_pool_recall(pool, &jobs[0].job)); /* a thread has it */
    assert_true(tarn_file_pool_recall(pool, &jobs[5].job));
    assert_int_equal(sem_post(&go), 0); /* one comes back, and takes the next */
    tarn_loop_run(loop);
    assert_int_equal(done, 1);
    assert_int_equal(sem_wait(&begun), 0);
    assert_true(tarn_file_pool_recall(pool, &jobs[4].job));
    assert_int_equal(tarn_file_pool_close(&pool), 3);
    assert_null(pool);
    tarn_loop_free(&loop);
    for (int i = 0; i < 3; i++)
        assert_int_equal(sem_post(&go), 0);
    for (int i = 0; i < 3; i++)
        assert_int_equal(sem_wait(&ended), 0);
    assert_int_equal(done, 1);
    assert_int_equal(jobs[4].job.rc + jobs[5].job.rc, 0);
    (void)usleep(20000); /* they leave the pool behind */
    (void)(sem_destroy(&begun) + sem_destroy(&go) + sem_destroy(&ended)); /* nobody waits */
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_check),
        T(test_stat),
        T(test_list_order),
        T(test_list_restart),
        T(test_list_skips),
        T(test_list_paging_sees_changes),
        T(test_list_bounded),
        T(test_list_large),
        T(test_symlinks_lead_nowhere),
        T(test_walk_by_hand),
        T(test_swap_during_walk),
        T(test_get),
        T(test_get_changed),
        T(test_get_changes_meanwhile),
        T(test_get_young),
        T(test_young_rule),
        T(test_crowd),
        T(test_times),
        T(test_close_under_way),
        T(test_stuck_threads),
    };

    return cmocka_run_group_tests_name("ufs file", tests, NULL, NULL);
}
