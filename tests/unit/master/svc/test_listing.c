/* SPDX-License-Identifier: Apache-2.0 */
/* Listings: streamed, resumed, never short, compared with what is known. */
#include "tests/unit/master/svc/msvc_fixture.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define ROOT   TARN_INO_ROOT.v
#define MANY   2500u
#define MINUTE (61 * TARN_NS_PER_S)

static uint8_t body[64];
static char many_keys[MANY][24];
static struct srv_object many[MANY];

static int setup(void **state)
{
    (void)state;
    for (unsigned i = 0; i < MANY; i++) {
        (void)snprintf(many_keys[i], sizeof(many_keys[i]), "n%06u", i);
        many[i] = (struct srv_object){many_keys[i], "e", NULL, body, 1 + i % 50};
    }
    return 0;
}

static struct mfx *start(const struct srv_object *objects, size_t n, uint64_t ttl_ns)
{
    struct mfx *fx = mfx_new(objects, n);

    fx->ttl_ns = ttl_ns;
    mfx_start(fx);
    mfx_script(fx, SRV_OK, 0);
    return fx;
}

static struct mfx *start_many(uint64_t ttl_ns)
{
    return start(many, MANY, ttl_ns);
}

static void settle(struct mfx *fx)
{
    for (unsigned i = 0; i < 2000 && fx->master->busy; i++)
        mfx_run_ms(fx, 5);
    assert_int_equal(fx->master->busy, 0);
}

/* Lists, and checks the number of names. */
static void expect_count(struct mfx *fx, uint64_t ino, size_t count)
{
    struct mfx_dir dir;

    assert_int_equal(mfx_readdir(fx, ino, 1000, &dir), 0);
    assert_int_equal(dir.count, count);
    mfx_dir_fini(&dir);
}

static void test_a_listing_is_asked_once(void **state)
{
    struct mfx *fx = start_many(60 * TARN_NS_PER_S);
    struct mfx_dir dir;
    char name[24];

    (void)state;
    assert_int_equal(mfx_readdir(fx, ROOT, 100, &dir), 0);
    assert_int_equal(dir.count, MANY);
    assert_true(dir.pages >= 25);
    assert_int_equal(mfx_requests(fx), 3);
    for (size_t i = 0; i < dir.count; i++) {
        (void)snprintf(name, sizeof(name), "n%06zu", i);
        assert_string_equal(dir.names[i], name);
        assert_int_equal(dir.trust_ms[i], 60000); /* also while the listing goes on */
    }
    assert_int_equal(mfx_getattr(fx, dir.inos[0], true, NULL), 0);
    mfx_dir_fini(&dir);
    expect_count(fx, ROOT, MANY);
    assert_int_equal(mfx_lookup(fx, ROOT, "n000003", NULL), 0);
    assert_int_equal(mfx_lookup(fx, ROOT, "m", NULL), -TARN_E_NO_ENTRY);
    assert_int_equal(mfx_requests(fx), 3);
    tarn_clock_fake_advance(&fx->clock, MINUTE);
    expect_count(fx, ROOT, MANY);
    assert_int_equal(mfx_requests(fx), 6);
    assert_int_equal(mfx_stale(fx), 0);
    mfx_free(&fx);
}

static void test_readdir_streams(void **state)
{
    static const enum srv_action script[] = {SRV_OK, SRV_STALL};
    Tarn__Wire__ReaddirRequest msg = TARN__WIRE__READDIR_REQUEST__INIT;
    const Tarn__Wire__ReaddirResponse *resp;
    struct mfx *fx = start_many(60 * TARN_NS_PER_S);
    struct mfx_op op;

    (void)state;
    srv_script(fx->srv, script, 2);
    msg.ino = ROOT;
    msg.max_entries = 100;
    mfx_begin(fx, &op, TARN_RPC_readdir, &msg.base, 20000);
    assert_int_equal(mfx_end(&op), 0);
    resp = (const void *)op.req.resp;
    assert_int_equal(resp->n_entries, 100);
    assert_false(resp->eof);
    assert_int_equal(resp->entries[0]->attr->trust_ms, 60000); /* just heard of */
    mfx_op_fini(&op);
    assert_int_equal(mfx_lookup(fx, ROOT, "n000007", NULL), 0); /* and not asked again */
    assert_true(mfx_requests(fx) <= 2);
    mfx_free(&fx);
}

static void test_readers_share_a_listing(void **state)
{
    struct mfx *fx = start_many(60 * TARN_NS_PER_S);
    Tarn__Wire__ReaddirRequest msg = TARN__WIRE__READDIR_REQUEST__INIT;
    struct mfx_op ops[6];
    struct mdir *d;

    (void)state;
    msg.ino = ROOT;
    msg.max_entries = 1000;
    assert_int_equal(mdir_get(fx->master, TARN_INO_ROOT, &d), 0);
    mlist_start(d, TARN_UFS_BACKGROUND, false);
    for (unsigned i = 0; i < 6; i++)
        mfx_begin(fx, &ops[i], TARN_RPC_readdir, &msg.base, i == 2 ? 1 : 20000);
    for (unsigned i = 0; i < 6; i++) {
        assert_true(mfx_end(&ops[i]) == 0 || i == 2);
        mfx_op_fini(&ops[i]);
    }
    mdir_put(&d);
    settle(fx);
    expect_count(fx, ROOT, MANY);
    assert_int_equal(mfx_requests(fx), 3);
    fx->master->listing_count = MASTER_LISTINGS_MAX;
    tarn_clock_fake_advance(&fx->clock, MINUTE);
    mfx_begin(fx, &ops[0], TARN_RPC_readdir, &msg.base, 20000);
    assert_int_equal(mfx_end(&ops[0]), -TARN_E_BUSY);
    mfx_op_fini(&ops[0]);
    fx->master->listing_count = 0;
    mfx_free(&fx);
}

static void test_a_page_has_its_bounds(void **state)
{
    struct mfx *fx = start_many(60 * TARN_NS_PER_S);
    Tarn__Wire__ReaddirRequest msg = TARN__WIRE__READDIR_REQUEST__INIT;
    const Tarn__Wire__ReaddirResponse *resp;
    struct mfx_op op;

    (void)state;
    expect_count(fx, ROOT, MANY);
    msg.ino = ROOT;
    msg.max_entries = UINT32_MAX;
    mfx_begin(fx, &op, TARN_RPC_readdir, &msg.base, 20000);
    assert_int_equal(mfx_end(&op), 0);
    resp = (const void *)op.req.resp;
    assert_int_equal(resp->n_entries, TARN_READDIR_ENTRIES);
    assert_false(resp->eof);
    mfx_op_fini(&op);
    mfx_free(&fx);
}

static void test_a_failure_is_no_short_directory(void **state)
{
    static const enum srv_action actions[] = {SRV_ERROR_500, SRV_GARBAGE, SRV_BAD_XML};

    (void)state;
    for (size_t i = 0; i < TARN_ARRAY_LEN(actions); i++) {
        struct mfx *fx = start_many(TARN_TTL_FOREVER);
        enum srv_action script[8];
        struct mfx_dir dir;

        script[0] = SRV_OK;
        for (size_t k = 1; k < TARN_ARRAY_LEN(script); k++)
            script[k] = actions[i];
        srv_script(fx->srv, script, TARN_ARRAY_LEN(script));
        assert_int_equal(mfx_readdir(fx, ROOT, 1000, &dir), -TARN_E_LISTING);
        assert_true(dir.count <= 1000);
        mfx_dir_fini(&dir);
        settle(fx);
        mfx_script(fx, SRV_OK, 0);
        expect_count(fx, ROOT, MANY);
        assert_int_equal(mfx_requests(fx), 2); /* went on behind the first page */
        assert_non_null(strstr(srv_line(fx->srv, 0), "start-after=n000999"));
        mfx_free(&fx);
    }
}

static void test_a_restart_in_the_middle_goes_on(void **state)
{
    static const enum srv_action script[] = {SRV_OK, SRV_STALL};
    struct mfx *fx = start_many(60 * TARN_NS_PER_S);
    Tarn__Wire__ReaddirRequest msg = TARN__WIRE__READDIR_REQUEST__INIT;
    struct mfx_op op;

    (void)state;
    srv_script(fx->srv, script, 2);
    msg.ino = ROOT;
    msg.max_entries = 1000;
    mfx_begin(fx, &op, TARN_RPC_readdir, &msg.base, 20000);
    assert_int_equal(mfx_end(&op), 0);
    mfx_op_fini(&op);
    mfx_stop(fx);
    tarn_clock_fake_advance(&fx->clock, 10 * TARN_NS_PER_S);
    mfx_start(fx);
    mfx_script(fx, SRV_OK, 0);
    expect_count(fx, ROOT, MANY);
    assert_int_equal(mfx_requests(fx), 2);
    assert_int_equal(mfx_lookup(fx, ROOT, "n002499", NULL), 0);
    assert_int_equal(mfx_requests(fx), 2);
    mfx_free(&fx);
}

/* What an interrupted listing said long ago is not today's directory. */
static void test_an_expired_run_is_not_taken_up_by_ls(void **state)
{
    static const enum srv_action script[] = {SRV_OK, SRV_ERROR_500, SRV_ERROR_500, SRV_ERROR_500};
    struct mfx *fx = start_many(60 * TARN_NS_PER_S);
    struct mfx_dir dir;

    (void)state;
    srv_script(fx->srv, script, TARN_ARRAY_LEN(script));
    assert_int_equal(mfx_readdir(fx, ROOT, 1000, &dir), -TARN_E_LISTING);
    mfx_dir_fini(&dir);
    settle(fx);
    tarn_clock_fake_advance(&fx->clock, MINUTE);
    mfx_script(fx, SRV_OK, 0);
    srv_objects(fx->srv, many + 5, MANY - 5); /* five of the first page are gone */
    expect_count(fx, ROOT, MANY - 5);
    assert_int_equal(mfx_requests(fx), 3);
    mfx_free(&fx);
}

/* Names that single questions told of, before the directory is listed for the first time. */
static void test_expired_names_wait_for_the_listing(void **state)
{
    static const struct srv_object before[] = {
        {"a", "ea", NULL, body, 1}, {"b", "eb", NULL, body, 1}, {"c", "ec", NULL, body, 1}};
    struct mfx *fx = start(before, 3, 60 * TARN_NS_PER_S);
    struct mfx_dir dir;

    (void)state;
    assert_int_equal(mfx_lookup(fx, ROOT, "a", NULL), 0);
    assert_int_equal(mfx_lookup(fx, ROOT, "c", NULL), 0);
    tarn_clock_fake_advance(&fx->clock, MINUTE);
    srv_objects(fx->srv, before + 1, 2);
    assert_int_equal(mfx_readdir(fx, ROOT, 1000, &dir), 0);
    assert_int_equal(dir.count, 2);
    assert_false(mfx_dir_has(&dir, "a"));
    mfx_dir_fini(&dir);
    mfx_free(&fx);
}

static void test_expired_names_do_not_wait_for_ever(void **state)
{
    static const struct srv_object before[] = {{"a", "ea", NULL, body, 1}};
    Tarn__Wire__ReaddirRequest msg = TARN__WIRE__READDIR_REQUEST__INIT;
    struct mfx *fx = start(before, 1, 60 * TARN_NS_PER_S);
    struct mfx_op op;

    (void)state;
    fx->master->refresh_wait_ns = 100 * TARN_NS_PER_MS;
    assert_int_equal(mfx_lookup(fx, ROOT, "a", NULL), 0);
    tarn_clock_fake_advance(&fx->clock, MINUTE);
    mfx_script(fx, SRV_STALL, 4);
    msg.ino = ROOT;
    msg.max_entries = 10;
    mfx_begin(fx, &op, TARN_RPC_readdir, &msg.base, 5000);
    assert_int_equal(mfx_end(&op), 0);
    assert_int_equal(((const Tarn__Wire__ReaddirResponse *)op.req.resp)->n_entries, 1);
    assert_false(((const Tarn__Wire__ReaddirResponse *)op.req.resp)->eof);
    mfx_op_fini(&op);
    assert_int_equal(mfx_stale(fx), 1);
    mfx_free(&fx);
}

static void test_changes_are_seen(void **state)
{
    static const struct srv_object before[] = {
        {"change", "e1", NULL, body, 1}, {"dir/x", "ex", NULL, body, 1},
        {"file", "ef", NULL, body, 1},   {"gone", "eg", NULL, body, 1},
        {"same", "es", NULL, body, 1},
    };
    static const struct srv_object after[] = {
        {"change", "e2", NULL, body, 2}, {"dir", "ed", NULL, body, 1},
        {"file/y", "ey", NULL, body, 1}, {"new", "en", NULL, body, 1},
        {"same", "es", NULL, body, 1},
    };
    struct mfx *fx = start(before, 5, 60 * TARN_NS_PER_S);
    struct mfx_attr change, same, dir_a, file, a;
    struct mfx_dir dir;

    (void)state;
    expect_count(fx, ROOT, 5);
    assert_int_equal(mfx_lookup(fx, ROOT, "change", &change), 0);
    assert_int_equal(mfx_lookup(fx, ROOT, "same", &same), 0);
    assert_int_equal(mfx_lookup(fx, ROOT, "dir", &dir_a), 0);
    assert_int_equal(mfx_lookup(fx, ROOT, "file", &file), 0);
    expect_count(fx, dir_a.ino, 1);
    srv_objects(fx->srv, after, 5);
    tarn_clock_fake_advance(&fx->clock, MINUTE);
    for (unsigned i = 0; i < 3; i++) { /* a listing that met a change may be asked again */
        assert_int_equal(mfx_readdir(fx, ROOT, 1000, &dir), 0);
        if (i < 2)
            mfx_dir_fini(&dir);
    }
    assert_int_equal(dir.count, 5);
    assert_true(mfx_dir_has(&dir, "new"));
    assert_false(mfx_dir_has(&dir, "gone"));
    mfx_dir_fini(&dir);
    assert_int_equal(mfx_lookup(fx, ROOT, "change", &a), 0);
    assert_int_equal(a.ino, change.ino);
    assert_true(a.version > change.version);
    assert_int_equal(mfx_lookup(fx, ROOT, "same", &a), 0);
    assert_int_equal(a.version, same.version);
    assert_int_equal(mfx_lookup(fx, ROOT, "dir", &a), 0);
    assert_int_equal(a.type, TARN_UFS_FILE);
    assert_true(a.ino != dir_a.ino);
    assert_int_equal(mfx_lookup(fx, ROOT, "file", &a), 0);
    assert_int_equal(a.type, TARN_UFS_DIR);
    assert_true(a.ino != file.ino);
    assert_int_equal(mfx_getattr(fx, file.ino, true, NULL), -TARN_E_STALE);
    mfx_free(&fx);
}

static void test_odd_keys(void **state)
{
    static const struct srv_object odd[] = {
        {"a", "ea", NULL, body, 6},      {"a-b", "eab", NULL, body, 2},
        {"a/b", "eb", NULL, body, 5},    {"d/", "ed", NULL, body, 0},
        {"d/../x", "eo", NULL, body, 1}, {"d//x", "eo", NULL, body, 1},
        {"d/one", "e1", NULL, body, 1},
    };
    struct mfx *fx = start(odd, TARN_ARRAY_LEN(odd), 60 * TARN_NS_PER_S);
    Tarn__Core__DirState *st = NULL;
    struct mfx_attr a;
    struct mfx_dir dir;

    (void)state;
    assert_int_equal(mfx_readdir(fx, ROOT, 2, &dir), 0);
    assert_int_equal(dir.count, 3);
    assert_true(mfx_dir_has(&dir, "a"));
    assert_true(mfx_dir_has(&dir, "a-b"));
    mfx_dir_fini(&dir);
    assert_int_equal(mfx_lookup(fx, ROOT, "a", &a), 0);
    assert_int_equal(a.type, TARN_UFS_DIR);
    expect_count(fx, a.ino, 1);
    assert_int_equal(mfx_lookup(fx, ROOT, "d", &a), 0);
    expect_count(fx, a.ino, 1);
    assert_int_equal(tarn_core_dir_state(fx->kv, (tarn_ino_t){a.ino}, &st), 0);
    assert_int_equal(st->skipped_total, 2);
    tarn__core__dir_state__free_unpacked(st, NULL);
    tarn_clock_fake_advance(&fx->clock, MINUTE);
    expect_count(fx, ROOT, 3);
    assert_int_equal(mfx_stale(fx), 0);
    mfx_free(&fx);
}

/* What messages say of a directory names it, whether the store's URI ends with '/' or not. */
static void test_messages_say_where(void **state)
{
    static const struct srv_object objects[] = {{"a/b/c", "e", NULL, body, 5}};
    struct mfx *fx = start(objects, 1, 60 * TARN_NS_PER_S);
    struct mfx_attr a;
    struct mdir *d;

    (void)state;
    assert_int_equal(mfx_resolve(fx, "/a/b", &a), 0);
    for (unsigned i = 0; i < 2; i++) {
        TARN_AUTO_FREE char *text = NULL, *wanted = NULL;
        tarn_ino_t ino = i ? TARN_INO_ROOT : (tarn_ino_t){a.ino};

        assert_int_equal(mdir_get(fx->master, ino, &d), 0);
        text = mdir_text(d);
        wanted = tarn_xasprintf("%s%s%s", d->at->uri, tarn_ends_with(d->at->uri, "/") ? "" : "/",
                                i ? "" : "a/b/");
        assert_string_equal(text, wanted);
        mdir_put(&d);
    }
    mfx_free(&fx);
}

static void test_an_old_listing_is_in_force(void **state)
{
    struct mfx *fx = start_many(60 * TARN_NS_PER_S);

    (void)state;
    expect_count(fx, ROOT, MANY);
    tarn_clock_fake_advance(&fx->clock, MINUTE);
    fx->master->refresh_wait_ns = 100 * TARN_NS_PER_MS;
    mfx_script(fx, SRV_STALL, 64);
    expect_count(fx, ROOT, MANY); /* waited for 100 ms */
    assert_int_equal(mfx_stale(fx), 1);
    mfx_free(&fx);

    fx = start_many(60 * TARN_NS_PER_S);
    expect_count(fx, ROOT, MANY);
    tarn_clock_fake_advance(&fx->clock, MINUTE);
    mfx_script(fx, SRV_ERROR_500, 64);
    expect_count(fx, ROOT, MANY);
    assert_int_equal(mfx_stale(fx), 1);
    assert_true(mattach_by_id(fx->master, 1)->down);
    assert_int_equal(mfx_requests(fx), 1);
    expect_count(fx, ROOT, MANY); /* at once */
    assert_int_equal(mfx_requests(fx), 1);
    assert_int_equal(mfx_stale(fx), 2);
    mfx_free(&fx);
}

static void test_a_refusal_is_obeyed(void **state)
{
    struct mfx *fx = start_many(60 * TARN_NS_PER_S);
    struct mfx_dir dir;

    (void)state;
    mfx_script(fx, SRV_DENY, 1);
    assert_int_equal(tarn_err_errno(mfx_readdir(fx, ROOT, 1000, &dir)), EACCES);
    expect_count(fx, ROOT, MANY);
    tarn_clock_fake_advance(&fx->clock, MINUTE);
    mfx_script(fx, SRV_DENY, 1);
    assert_int_equal(tarn_err_errno(mfx_readdir(fx, ROOT, 1000, &dir)), EACCES);
    assert_int_equal(mfx_stale(fx), 0);
    mfx_free(&fx);
}

static void test_a_directory_that_vanished(void **state)
{
    struct mfx *fx = mfx_new(NULL, 0);
    struct mfx_attr d;
    struct mfx_dir dir;
    char path[256];

    (void)state;
    (void)snprintf(path, sizeof(path), "%s/d", fx->dir);
    assert_int_equal(mkdir(path, 0755), 0);
    mfx_start(fx);
    expect_count(fx, ROOT, 1);
    assert_int_equal(mfx_lookup(fx, ROOT, "d", &d), 0);
    expect_count(fx, d.ino, 0);
    assert_int_equal(rmdir(path), 0);
    tarn_clock_fake_advance(&fx->clock, MINUTE);
    assert_int_equal(mfx_readdir(fx, d.ino, 10, &dir), -TARN_E_NO_ENTRY);
    settle(fx);
    assert_int_equal(mfx_getattr(fx, d.ino, false, NULL), -TARN_E_STALE); /* its name went, too */
    assert_int_equal(mfx_lookup(fx, ROOT, "d", NULL), -TARN_E_NO_ENTRY);
    expect_count(fx, ROOT, 0);
    mfx_free(&fx);
}

static void test_a_local_tree(void **state)
{
    struct mfx *fx = mfx_new(NULL, 0);
    struct mfx_attr d, a;
    char path[256];

    (void)state;
    (void)snprintf(path, sizeof(path), "%s/d", fx->dir);
    assert_int_equal(mkdir(path, 0755), 0);
    for (unsigned i = 0; i < 1500; i++) {
        char name[16];

        (void)snprintf(name, sizeof(name), "f%u", i);
        fx_write(path, name, "x", 1);
    }
    fx_write(fx->dir, "s", "abc", 3);
    mfx_start(fx);
    expect_count(fx, ROOT, 2);
    assert_int_equal(mfx_lookup(fx, ROOT, "d", &d), 0);
    expect_count(fx, d.ino, 1500);
    assert_int_equal(mfx_resolve(fx, "/d/f1499", &a), 0);
    fx_write(path, "f1499", "xyz", 3);
    tarn_clock_fake_advance(&fx->clock, MINUTE);
    expect_count(fx, d.ino, 1500);
    assert_int_equal(mfx_resolve(fx, "/d/f1499", &a), 0);
    assert_int_equal(a.size, 3);
    mfx_free(&fx);
}

static void test_always_lists_at_each_opening(void **state)
{
    struct mfx *fx = start_many(TARN_TTL_ALWAYS);
    struct mfx_dir dir;

    (void)state;
    for (unsigned i = 1; i <= 3; i++) {
        assert_int_equal(mfx_readdir(fx, ROOT, 1000, &dir), 0);
        assert_int_equal(dir.count, MANY);
        assert_int_equal(dir.trust_ms[0], 0);
        mfx_dir_fini(&dir);
        assert_int_equal(mfx_requests(fx), 3 * i);
    }
    mfx_free(&fx);
}

struct walked {
    struct mfx *fx;
    unsigned visited, failed;
    int rc;
};

static int walk_visit(struct mwalk *w, tarn_ino_t ino, const Tarn__Core__Inode *inode,
                      const char *path)
{
    struct walked *seen = w->arg;

    (void)ino;
    (void)inode;
    (void)path;
    seen->visited++;
    return 0;
}

static void walk_failed(struct mwalk *w, const char *path, int rc, const struct tarn_errbuf *err)
{
    (void)path;
    (void)rc;
    (void)err;
    ((struct walked *)w->arg)->failed++;
}

static void walk_end(struct mwalk *w, int rc)
{
    struct walked *seen = w->arg;

    seen->rc = rc;
    mfx_done(seen->fx);
}

/* Whatever the policy: a walk lists each directory once. */
static void test_a_walk_lists_each_directory_once(void **state)
{
    static const struct mwalk_ops ops = {
        .visit = walk_visit, .dir_failed = walk_failed, .end = walk_end};
    static char keys[30][16];
    static struct srv_object dirs[30];
    struct tarn_master_counts counts;
    struct walked seen = {0};
    struct mwalk *w = tarn_xnew(struct mwalk);
    struct mfx *fx;

    (void)state;
    for (unsigned i = 0; i < 30; i++) {
        (void)snprintf(keys[i], sizeof(keys[i]), "d%02u/x", i);
        dirs[i] = (struct srv_object){keys[i], "e", NULL, body, 1};
    }
    fx = start(dirs, 30, TARN_TTL_ALWAYS);
    seen.fx = fx;
    *w = (struct mwalk){
        .master = fx->master, .ops = &ops, .list = true, .recursive = true, .arg = &seen};
    mwalk_start(w, TARN_INO_ROOT, "/", NULL, 0);
    mfx_wait(fx);
    assert_int_equal(seen.rc, 0);
    assert_int_equal(seen.visited, 60);
    assert_int_equal(seen.failed, 0);
    tarn_master_counts(fx->master, &counts);
    assert_int_equal(counts.listings, 31);
    mwalk_fini(w);
    free(w);
    mfx_free(&fx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_listing_is_asked_once),
        cmocka_unit_test(test_readdir_streams),
        cmocka_unit_test(test_readers_share_a_listing),
        cmocka_unit_test(test_a_page_has_its_bounds),
        cmocka_unit_test(test_a_failure_is_no_short_directory),
        cmocka_unit_test(test_a_restart_in_the_middle_goes_on),
        cmocka_unit_test(test_an_expired_run_is_not_taken_up_by_ls),
        cmocka_unit_test(test_expired_names_wait_for_the_listing),
        cmocka_unit_test(test_expired_names_do_not_wait_for_ever),
        cmocka_unit_test(test_changes_are_seen),
        cmocka_unit_test(test_odd_keys),
        cmocka_unit_test(test_messages_say_where),
        cmocka_unit_test(test_an_old_listing_is_in_force),
        cmocka_unit_test(test_a_refusal_is_obeyed),
        cmocka_unit_test(test_a_directory_that_vanished),
        cmocka_unit_test(test_a_local_tree),
        cmocka_unit_test(test_always_lists_at_each_opening),
        cmocka_unit_test(test_a_walk_lists_each_directory_once),
    };

    return cmocka_run_group_tests(tests, setup, NULL);
}
