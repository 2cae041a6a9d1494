/* SPDX-License-Identifier: Apache-2.0 */
/* The S3 back end and the policy against a server that misbehaves: retries, deadlines, limits,
 * lies. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "lib/base/env.h"
#include "lib/base/mem.h"
#include "tests/unit/ufs/fixture.h"
#include "tests/unit/ufs/server.h"
#include "ufs/ufs_priv.h"

#define BIG_BYTES (300u << 10)

static uint8_t big[BIG_BYTES];
static const struct srv_object objects[] = {
    {"a", "ea", NULL, big, 6},
    {"a-b", "eab", NULL, big, 2},
    {"a/b", "eb", NULL, big, 5},
    {"big", "ebig", NULL, big, BIG_BYTES},
    {"d/", "ed", NULL, big, 0},
    {"d/one", "e1", NULL, big, 1},
    {"d/two", "e2", NULL, big, 2},
    {"odd/../x", "eo", NULL, big, 1},
    {"odd//x", "eo", NULL, big, 1},
    {"odd/a b+c%d", "eo", NULL, big, 3},
    {"odd/ctl\x01z", "eo", NULL, big, 4},
    {"odd/uni-\xc3\xa9", "eo", NULL, big, 5},
    {"swift", "elist", "ehead", big, 1000},
};

struct env {
    struct srv *srv; /* server */
    struct fx fx;    /* store */
};

/* Opens the bucket with `extra` options ("" or ",K=V"). */
static void env_open(struct env *e, const char *uri, const char *extra)
{
    char opts[512];

    (void)snprintf(opts, sizeof(opts),
                   "endpoint=http://127.0.0.1:%u,access-key=ak,secret-key=sekrit-canary%s",
                   srv_port(e->srv), extra); /* fits */
    assert_int_equal(fx_open(&e->fx, uri, opts), 0);
}

static int setup(void **state)
{
    struct env *e = tarn_xnew(struct env);

    for (size_t i = 0; i < sizeof(big); i++)
        big[i] = (uint8_t)(i * 7 + (i >> 8));
    e->srv = srv_start(objects, TARN_ARRAY_LEN(objects));
    *state = e;
    return 0;
}

static int teardown(void **state)
{
    struct env *e = *state;

    if (e->fx.ufs)
        fx_close(&e->fx);
    srv_stop(&e->srv);
    free(e);
    return 0;
}

static void script(struct env *e, enum srv_action a, size_t times)
{
    enum srv_action actions[64];

    for (size_t i = 0; i < times; i++)
        actions[i] = a;
    srv_script(e->srv, actions, times);
}

static unsigned requests(struct env *e)
{
    struct srv_counts c;

    srv_counts(e->srv, &c);
    return c.requests;
}

static struct tarn_ufs_version version_of(const char *key)
{
    struct tarn_ufs_version v = {.mtime_ns = 1795309323LL * 1000000000LL};

    for (size_t i = 0; i < TARN_ARRAY_LEN(objects); i++) {
        if (strcmp(objects[i].key, key) == 0) {
            v.size_bytes = objects[i].size;
            (void)snprintf(v.etag, sizeof(v.etag), "%s", objects[i].etag); /* fits */
        }
    }
    return v;
}

static int get(struct env *e, const char *key, uint64_t off, uint64_t len)
{
    struct tarn_ufs_version v = version_of(key);
    uint8_t *buf = tarn_xcalloc(1, len);
    size_t n = 0;
    int rc = fx_get(&e->fx, key, &v, off, len, buf, &n);

    if (rc == 0) {
        assert_int_equal(n, len);
        assert_memory_equal(buf, big + off, len);
    }
    free(buf);
    return rc;
}

/* ---- what works ----------------------------------------------------------------------------- */

static void test_stat(void **state)
{
    struct env *e = *state;
    struct srv_counts c;

    env_open(e, "s3://bkt", "");
    assert_int_equal(fx_check(&e->fx), 0);
    assert_int_equal(fx_stat(&e->fx, "big"), 0);
    assert_int_equal(e->fx.attr.type, TARN_UFS_FILE);
    assert_int_equal(e->fx.attr.version.size_bytes, BIG_BYTES);
    assert_string_equal(e->fx.attr.version.etag, "ebig");
    assert_int_equal(e->fx.attr.version.mtime_ns, 1795309323LL * 1000000000LL);
    assert_false(e->fx.attr.has_owner);
    assert_int_equal(fx_stat(&e->fx, "a"), 0); /* beside a/b: the directory wins */
    assert_int_equal(e->fx.attr.type, TARN_UFS_DIR);
    assert_int_equal(fx_stat_file(&e->fx, "a"), 0);
    assert_int_equal(e->fx.attr.type, TARN_UFS_FILE);
    assert_int_equal(fx_stat(&e->fx, "d"), 0);
    assert_int_equal(e->fx.attr.type, TARN_UFS_DIR);
    assert_int_equal(fx_stat(&e->fx, ""), 0);
    assert_int_equal(e->fx.attr.type, TARN_UFS_DIR);
    assert_int_equal(fx_stat(&e->fx, "nope"), -TARN_E_UFS_NOT_FOUND);
    assert_non_null(strstr(e->fx.err.text, "s3://bkt/nope at 127.0.0.1:"));
    assert_int_equal(fx_stat(&e->fx, "/x"), -TARN_E_INVALID);
    srv_counts(e->srv, &c);
    assert_int_equal(c.bad_auth, 0);
    assert_true(c.connections <= 2); /* reused */
}

static void test_list(void **state)
{
    struct env *e = *state;
    struct fx_listing l;

    env_open(e, "s3://bkt", "");
    for (unsigned max = 1; max < 8; max++) {
        for (int restart = 0; restart < 2; restart++) {
            l = (struct fx_listing){.restart = restart};
            assert_int_equal(fx_list(&e->fx, "", max, &l), 0);
            if (max >
                1) /* `a` is on an earlier page than `a/`: the caller lets the directory win */
                assert_non_null(strstr(l.out.p, "a-b 2\na/\nbig 307200\nd/\nodd/\nswift 1000\n"));
            assert_true(l.entries == 6 || l.entries == 7);
            fx_listing_fini(&l);
        }
    }
    l = (struct fx_listing){0};
    assert_int_equal(fx_list(&e->fx, "d/", 1000, &l), 0);
    assert_string_equal(l.out.p, "one 1\ntwo 2\n");
    assert_int_equal(l.skipped, 0);
    fx_listing_fini(&l);
    assert_int_equal(fx_list(&e->fx, "odd/", 2, &l), 0);
    assert_string_equal(l.out.p, "a b+c%d 3\nctl\x01z 4\nuni-\xc3\xa9 5\n");
    assert_int_equal(l.skipped, 2);
    assert_string_equal(l.skipped_names.p, "../\n/\n");
    fx_listing_fini(&l);
    assert_int_equal(fx_list(&e->fx, "none/", 10, &l), 0);
    assert_int_equal(l.entries, 0);
    fx_listing_fini(&l);
}

static void test_get(void **state)
{
    struct env *e = *state;

    env_open(e, "s3://bkt", "");
    assert_int_equal(get(e, "big", 0, BIG_BYTES), 0);
    assert_int_equal(e->fx.verified, TARN_VERIFIED_ETAG);
    assert_int_equal(get(e, "big", 1, 1), 0);
    assert_int_equal(get(e, "big", BIG_BYTES - 1, 1), 0);
    assert_int_equal(get(e, "odd/a b+c%d", 0, 3), 0);
    script(e, SRV_CHUNKED, 1);
    assert_int_equal(get(e, "big", 100, 5000), 0);
    script(e, SRV_NO_ETAG, 1);
    assert_int_equal(get(e, "big", 100, 5000), 0);
    assert_int_equal(e->fx.verified, TARN_VERIFIED_LENGTH);
    script(e, SRV_IGNORE_RANGE, 1); /* harmless where everything is wanted */
    assert_int_equal(get(e, "big", 0, BIG_BYTES), 0);
    assert_int_equal(requests(e), 1);
}

static void test_prefix(void **state)
{
    struct env *e = *state;
    struct fx_listing l = {0};

    env_open(e, "s3://bkt/d", "");
    assert_string_equal(tarn_ufs_uri(e->fx.ufs), "s3://bkt/d/");
    assert_string_equal(tarn_ufs_prefix(e->fx.ufs), "d/");
    assert_int_equal(fx_check(&e->fx), 0);
    assert_int_equal(fx_list(&e->fx, "", 10, &l), 0);
    assert_string_equal(l.out.p, "one 1\ntwo 2\n");
    fx_listing_fini(&l);
    assert_int_equal(fx_stat(&e->fx, "two"), 0);
    assert_int_equal(e->fx.attr.version.size_bytes, 2);
    fx_close(&e->fx);
    env_open(e, "s3://bkt/absent", "");
    assert_int_equal(fx_check(&e->fx), -TARN_E_UFS_NO_BUCKET);
    assert_non_null(strstr(e->fx.err.text, "prefix"));
}

/* LIST and HEAD disagree about the ETag: what HEAD says is adopted when size and time agree. */
static void test_adopt(void **state)
{
    struct env *e = *state;
    struct tarn_ufs_version v;

    env_open(e, "s3://bkt", "");
    assert_int_equal(get(e, "swift", 10, 20), 0);
    assert_true(e->fx.adopted);
    assert_string_equal(e->fx.version.etag, "ehead");
    assert_int_equal(requests(e), 3); /* GET 412, HEAD, GET */
    v = version_of("swift");
    v.mtime_ns = 1000000000;
    assert_int_equal(fx_get(&e->fx, "swift", &v, 0, 10, NULL, NULL), -TARN_E_UFS_CHANGED);
    v = version_of("swift");
    v.size_bytes = 999;
    assert_int_equal(fx_get(&e->fx, "swift", &v, 0, 10, NULL, NULL), -TARN_E_UFS_CHANGED);
    assert_int_equal(fx_get(&e->fx, "gone", &v, 0, 10, NULL, NULL), -TARN_E_UFS_NOT_FOUND);
}

/* HEAD and LIST of a stat do with one connection. */
static void test_one_connection(void **state)
{
    struct env *e = *state;
    struct srv_counts c;

    env_open(e, "s3://bkt", ",max-connections=1");
    assert_int_equal(fx_stat(&e->fx, "big"), 0);
    assert_int_equal(fx_stat(&e->fx, "d"), 0);
    assert_int_equal(get(e, "big", 0, 1000), 0);
    srv_counts(e->srv, &c);
    assert_int_equal(c.running_max, 1);
    assert_int_equal(c.connections, 1);
}

/* ---- lies ----------------------------------------------------------------------------------- */

static void check_lie(struct env *e, enum srv_action a, int want)
{
    script(e, a, 64);
    assert_int_equal(get(e, "big", 1000, 5000), want);
    assert_non_null(strstr(e->fx.err.text, "s3://bkt/big at 127.0.0.1:"));
    script(e, a, 1); /* once: a retry, or HEAD, finds the truth where the error is a passing one */
    assert_int_equal(get(e, "big", 1000, 5000),
                     tarn_err_retry(want) == TARN_RETRY_BACKOFF ? 0 : want);
}

static void test_lies(void **state)
{
    struct env *e = *state;

    env_open(e, "s3://bkt", ",retries=1");
    check_lie(e, SRV_WRONG_RANGE, -TARN_E_UFS_LIED);
    check_lie(e, SRV_IGNORE_RANGE, -TARN_E_UFS_LIED);
    check_lie(e, SRV_WRONG_TOTAL, -TARN_E_UFS_CHANGED);
    check_lie(e, SRV_GARBAGE, -TARN_E_UFS_TLS);
    assert_non_null(strstr(e->fx.err.text, "https://"));
    check_lie(e, SRV_LONG_HEADERS, -TARN_E_UFS_PROTO);
    check_lie(e, SRV_CLOSE, -TARN_E_UFS_CONN);
    check_lie(e, SRV_CUT_BODY, -TARN_E_UFS_SHORT);
    script(e, SRV_WRONG_ETAG, 64); /* GET and HEAD agree on another ETag, size and time fit */
    assert_int_equal(get(e, "big", 1000, 5000), 0);
    assert_true(e->fx.adopted);
    script(e, SRV_WRONG_ETAG, 1); /* HEAD says ours: asked again */
    assert_int_equal(get(e, "big", 1000, 5000), 0);
    assert_false(e->fx.adopted);
}

static void test_list_lies(void **state)
{
    static const struct {
        enum srv_action action;
        int rc;
    } rows[] = {{SRV_BAD_XML, -TARN_E_UFS_PROTO},
                {SRV_TOO_MANY, -TARN_E_UFS_LIED},
                {SRV_LOOP, 0},
                {SRV_ERROR_500, -TARN_E_UFS_SERVER},
                {SRV_DENY, -TARN_E_UFS_DENIED},
                {SRV_REDIRECT, -TARN_E_CONFIG},
                {SRV_SKEWED, -TARN_E_UFS_SIGNATURE}};
    struct env *e = *state;
    struct fx_listing l = {0};

    env_open(e, "s3://bkt", ",retries=1");
    for (size_t i = 0; i < TARN_ARRAY_LEN(rows); i++) {
        script(e, rows[i].action, 64);
        if (rows[i].action == SRV_LOOP)
            assert_int_equal(fx_list(&e->fx, "d/", 1000, &l), -TARN_E_UFS_LIED);
        else
            assert_int_equal(fx_list(&e->fx, "", 3, &l), rows[i].rc);
        assert_non_null(strstr(e->fx.err.text, "s3://bkt/"));
        assert_null(strstr(e->fx.err.text, "canary"));
        assert_null(strstr(e->fx.err.text, "CANARY"));
        fx_listing_fini(&l);
    }
    script(e, SRV_REDIRECT, 1);
    assert_int_equal(fx_check(&e->fx), -TARN_E_CONFIG);
    assert_non_null(strstr(e->fx.err.text, "region=eu-west-9"));
    script(e, SRV_SKEWED, 1);
    assert_int_equal(fx_check(&e->fx), -TARN_E_UFS_SIGNATURE);
    assert_non_null(strstr(e->fx.err.text, "ahead of the store's"));
    script(e, SRV_DENY, 2);
    assert_int_equal(fx_stat(&e->fx, "nope"),
                     -TARN_E_UFS_DENIED); /* an error is never a negative */
}

/* A store that does not look at the prefix would make every name a directory. */
static void test_list_of_another_prefix(void **state)
{
    struct env *e = *state;

    env_open(e, "s3://bkt/d", ",retries=1");
    script(e, SRV_ANY_PREFIX, 64);
    assert_int_equal(fx_check(&e->fx), -TARN_E_UFS_LIED);
    assert_int_equal(fx_stat(&e->fx, "one"), -TARN_E_UFS_LIED);
    assert_int_equal(fx_stat(&e->fx, "nope"), -TARN_E_UFS_LIED);
}

/* A token that the store has forgotten: the listing goes on from the last key. */
static void test_list_bad_token(void **state)
{
    static const enum srv_action actions[] = {SRV_OK, SRV_BAD_TOKEN, SRV_OK};
    struct env *e = *state;
    struct fx_listing l = {0};

    env_open(e, "s3://bkt", "");
    srv_script(e->srv, actions, 3);
    assert_int_equal(fx_list(&e->fx, "", 4, &l), 0);
    assert_string_equal(l.out.p, "a-b 2\na/\nbig 307200\nd/\nodd/\nswift 1000\n");
    assert_int_equal(requests(e), 3);
    assert_non_null(strstr(srv_line(e->srv, 2), "start-after=big"));
    fx_listing_fini(&l);
}

/* ---- retries and deadlines ------------------------------------------------------------------ */

static void test_retries(void **state)
{
    struct env *e = *state;
    struct tarn_ufs_counts c;

    env_open(e, "s3://bkt", ",retries=2");
    script(e, SRV_ERROR_500, 2);
    assert_int_equal(get(e, "big", 0, 1000), 0);
    assert_int_equal(requests(e), 3);
    script(e, SRV_ERROR_500, 64);
    assert_int_equal(get(e, "big", 0, 1000), -TARN_E_UFS_SERVER);
    assert_int_equal(requests(e), 3);
    assert_non_null(strstr(e->fx.err.text, "(3 tries)"));
    script(e, SRV_SLOW_DOWN, 1);
    assert_int_equal(get(e, "big", 0, 1000), 0);
    script(e, SRV_DENY, 64);
    assert_int_equal(get(e, "big", 0, 1000), -TARN_E_UFS_DENIED);
    assert_int_equal(requests(e), 1); /* not tried again */
    tarn_ufs_counts(e->fx.ufs, &c);
    assert_int_equal(c.retries, 2 + 2 + 1);
    assert_int_equal(c.failures, 2);
    assert_int_equal(c.running, 0);
    assert_int_equal(c.queued, 0);
}

/* A cut transfer goes on where it stopped, and progress renews the budget of retries. */
static void test_resume(void **state)
{
    struct env *e = *state;

    env_open(e, "s3://bkt", ",retries=1");
    script(e, SRV_CUT_BODY, 2); /* 300 KiB: half, then half of the rest; each more than 64 KiB */
    assert_int_equal(get(e, "big", 0, BIG_BYTES), 0);
    assert_int_equal(requests(e), 3);
}

static void test_stall(void **state)
{
    struct env *e = *state;
    uint64_t t0 = tarn_now_ns(), took;

    env_open(e, "s3://bkt", ",timeout=300ms");
    script(e, SRV_STALL, 64);
    assert_int_equal(get(e, "big", 0, 1000), -TARN_E_UFS_STALLED);
    took = tarn_now_ns() - t0;
    assert_true(took >= 300 * TARN_NS_PER_MS);
    assert_true(took < 20 * TARN_NS_PER_S);
    assert_non_null(strstr(e->fx.err.text, "no progress for"));
    script(e, SRV_STALL_BODY, 64);
    assert_int_equal(get(e, "big", 0, 1000), -TARN_E_UFS_STALLED);
    script(e, SRV_OK, 0);
    assert_int_equal(get(e, "big", 0, 1000), 0);
}

static uint64_t ended(struct env *e, enum tarn_ufs_op op, enum tarn_ufs_status status)
{
    struct tarn_ufs_counts c;

    tarn_ufs_counts(e->fx.ufs, &c);
    return c.ended[op][status];
}

static void count_down(void *arg)
{
    (*(unsigned *)arg)++;
}

/* The last request that tells of the store decides, a get like any other; each is counted. */
static void test_health(void **state)
{
    struct env *e = *state;
    const struct tarn_ufs_health *h;
    unsigned downs = 0;
    uint64_t since;

    env_open(e, "s3://bkt", ",timeout=1s,retries=0"); /* a busy machine answers sooner */
    h = tarn_ufs_health(e->fx.ufs);
    tarn_ufs_watch(e->fx.ufs, count_down, &downs);
    assert_int_equal(h->rc, 0);
    assert_int_equal(h->heard_ns, 0);
    script(e, SRV_STALL, 64);
    assert_int_equal(get(e, "big", 0, 1000), -TARN_E_UFS_STALLED);
    assert_int_equal(ended(e, TARN_UFS_OP_GET, TARN_UFS_STATUS_NONE), 1);
    assert_int_equal(h->rc, -TARN_E_UFS_STALLED);
    assert_non_null(strstr(h->err.text, "no progress for"));
    since = h->down_since_ns;
    script(e, SRV_STALL_BODY, 64);
    assert_int_equal(get(e, "big", 0, 1000), -TARN_E_UFS_STALLED);
    assert_int_equal(ended(e, TARN_UFS_OP_GET, TARN_UFS_STATUS_NONE), 2);
    assert_int_equal(h->down_since_ns, since);
    assert_true(h->heard_ns > since); /* half of a body is no answer, but a sign of life */
    assert_int_equal(fx_stat(&e->fx, ""), 0);
    assert_int_equal(h->rc, -TARN_E_UFS_STALLED); /* for that nobody was asked */
    assert_int_equal(downs, 1);
    script(e, SRV_OK, 0);
    assert_int_equal(get(e, "big", 0, 1000), 0);
    assert_int_equal(h->rc, 0);
    script(e, SRV_WRONG_RANGE, 64);
    assert_int_equal(get(e, "big", 0, 1000), -TARN_E_UFS_LIED);
    assert_int_equal(h->rc, 0); /* that is about one object */
    script(e, SRV_STALL, 64);
    assert_int_equal(fx_check(&e->fx), -TARN_E_UFS_STALLED);
    assert_int_equal(ended(e, TARN_UFS_OP_LIST, TARN_UFS_STATUS_NONE), 1);
    assert_true(h->rc < 0);
    script(e, SRV_DENY, 64);
    assert_int_equal(fx_check(&e->fx), -TARN_E_UFS_DENIED);
    assert_int_equal(h->rc, 0); /* a refusal is an answer */
    srv_stop(&e->srv);
    e->srv = srv_start(objects, TARN_ARRAY_LEN(objects)); /* at another port */
    assert_true(get(e, "big", 0, 1000) < 0);
    assert_true(h->rc < 0);
    assert_int_equal(downs, 3);
}

/* A kept connection that no longer answers costs a third of the timeout, not the request. */
static void test_stall_on_reused(void **state)
{
    struct env *e = *state;

    env_open(e, "s3://bkt", ",timeout=3s");
    assert_int_equal(get(e, "big", 0, 1000), 0);
    script(e, SRV_STALL, 1);
    assert_int_equal(get(e, "big", 0, 1000), 0);
    assert_int_equal(requests(e), 2);
}

static void test_refused(void **state)
{
    struct env *e = *state;
    struct fx f;

    (void)e;
    assert_int_equal(
        fx_open(&f, "s3://bkt", "endpoint=http://127.0.0.1:1,credentials=anonymous,retries=1"), 0);
    assert_int_equal(fx_check(&f), -TARN_E_UFS_REFUSED);
    assert_non_null(strstr(f.err.text, "s3://bkt/ at 127.0.0.1:1: "));
    fx_close(&f);
}

/* Keys in files are read again once the store rejects them. */
static void test_rotated_keys(void **state)
{
    struct env *e = *state;
    char opts[1024], *dir = fx_tmp();
    struct srv_counts c;

    fx_write(dir, "key", "old", 3);
    fx_write(dir, "secret", "s", 1);
    (void)snprintf(opts, sizeof(opts),
                   "endpoint=http://127.0.0.1:%u,key-file=%s/key,secret-file=%s/secret",
                   srv_port(e->srv), dir, dir); /* fits */
    assert_int_equal(fx_open(&e->fx, "s3://bkt", opts), 0);
    script(e, SRV_BAD_KEY, 64);
    assert_int_equal(get(e, "big", 0, 100), -TARN_E_UFS_SIGNATURE);
    assert_int_equal(requests(e), 1); /* read a moment ago: not worth another try */
    fx_write(dir, "key", "ak", 2);
    (void)usleep(1100000); /* they are not looked at more often than once a second */
    script(e, SRV_BAD_KEY, 1);
    assert_int_equal(get(e, "big", 0, 100), 0);
    srv_counts(e->srv, &c);
    assert_int_equal(c.requests, 2);
    assert_int_equal(c.bad_auth, 1);
    fx_tmp_fini(dir);
}

static void old_key_open(struct env *e, const char *dir, const char *extra)
{
    char opts[1024];

    fx_write(dir, "key", "old", 3);
    fx_write(dir, "secret", "s", 1);
    (void)snprintf(opts, sizeof(opts),
                   "endpoint=http://127.0.0.1:%u,key-file=%s/key,secret-file=%s/secret%s",
                   srv_port(e->srv), dir, dir, extra); /* fits */
    assert_int_equal(fx_open(&e->fx, "s3://bkt", opts), 0);
    fx_write(dir, "key", "ak", 2);
    (void)usleep(1100000); /* they are not looked at more often than once a second */
}

/* An answer to HEAD does not say that the key is why, and some stores never do. */
static void test_rotated_keys_without_a_reason(void **state)
{
    struct env *e = *state;
    char *dir = fx_tmp();

    old_key_open(e, dir, "");
    script(e, SRV_CHECK_KEY, 64);
    assert_int_equal(fx_stat_file(&e->fx, "big"), 0);
    assert_int_equal(requests(e), 2);
    fx_close(&e->fx);
    old_key_open(e, dir, "");
    script(e, SRV_CHECK_DENY, 64);
    assert_int_equal(get(e, "big", 0, 100), 0);
    assert_int_equal(requests(e), 2);
    fx_tmp_fini(dir);
}

/* ---- many at a time ------------------------------------------------------------------------- */

#define MANY 60

struct many {
    struct env *e;                  /* store */
    struct tarn_ufs_get gets[MANY]; /* requests */
    int rc[MANY];                   /* 1 until it ended */
    unsigned order[MANY];           /* in which they ended */
    unsigned ended;                 /* so far */
    unsigned cancel_at;             /* when so many ended, cancel the rest; 0: never */
    bool close_in_data;             /* close the store from on_data */
    uint64_t bytes;                 /* received */
};

static void many_cb(struct tarn_ufs_get *g, int rc)
{
    struct many *m = g->arg;
    size_t i = (size_t)(g - m->gets);

    assert_int_equal(m->rc[i], 1); /* exactly once */
    m->rc[i] = rc;
    m->order[m->ended++] = (unsigned)i;
    if (m->cancel_at && m->ended == m->cancel_at) {
        for (size_t k = 0; k < MANY; k++)
            tarn_ufs_cancel(&m->gets[k].req);
    }
    if (m->ended == MANY && !m->close_in_data)
        tarn_loop_stop(m->e->fx.loop);
}

static void many_closed(void *arg)
{
    struct many *m = arg;

    assert_int_equal(m->ended, MANY);
    tarn_loop_stop(m->e->fx.loop);
}

static int many_data(struct tarn_ufs_get *g, const uint8_t *p, size_t n)
{
    struct many *m = g->arg;

    (void)p;
    m->bytes += n;
    if (m->close_in_data && m->e->fx.ufs)
        tarn_ufs_close(&m->e->fx.ufs, many_closed, m);
    return 0;
}

static struct many *many_start(struct env *e, uint64_t len)
{
    struct many *m = tarn_xnew(struct many);
    struct tarn_ufs_version v = version_of("big");

    m->e = e;
    for (size_t i = 0; i < MANY; i++) {
        m->rc[i] = 1;
        m->gets[i] = (struct tarn_ufs_get){.req.cls = i < MANY / 2 ? TARN_UFS_BACKGROUND
                                                                   : TARN_UFS_FOREGROUND,
                                           .off_bytes = i * 10,
                                           .len_bytes = len,
                                           .on_data = many_data,
                                           .cb = many_cb,
                                           .arg = m};
        tarn_ufs_get(e->fx.ufs, &m->gets[i], "big", &v);
        assert_int_equal(m->rc[i], 1); /* never inside the call */
    }
    return m;
}

static void test_concurrency(void **state)
{
    struct env *e = *state;
    struct srv_counts c;
    struct many *m;

    srv_delay_ms(e->srv, 2);
    env_open(e, "s3://bkt", ",max-connections=4");
    m = many_start(e, 1000);
    tarn_loop_run(e->fx.loop);
    srv_counts(e->srv, &c);
    assert_int_equal(c.requests, MANY);
    assert_true(c.running_max <= 4);
    assert_true(c.running_max >= 2);
    assert_true(c.connections <= 4);
    for (unsigned i = 0; i < MANY; i++) {
        assert_int_equal(m->rc[i], 0);
        if (i < MANY / 2 - 4)
            assert_true(m->order[i] >= MANY / 2); /* foreground first, though it came last */
    }
    srv_delay_ms(e->srv, 0);
    free(m);
}

/* Requests that were under way with the old keys are sent again with the new ones, all of them. */
static void test_rotated_keys_of_many(void **state)
{
    struct env *e = *state;
    char *dir = fx_tmp();
    struct srv_counts c;
    struct many *m;

    old_key_open(e, dir, ",max-connections=8");
    script(e, SRV_CHECK_KEY, 64);
    srv_delay_ms(e->srv, 5);
    m = many_start(e, 1000);
    tarn_loop_run(e->fx.loop);
    for (unsigned i = 0; i < MANY; i++)
        assert_int_equal(m->rc[i], 0);
    srv_counts(e->srv, &c);
    assert_true(c.bad_auth >= 2); /* more than the one that looks at the files */
    assert_true(c.bad_auth <= 8);
    free(m);
    fx_tmp_fini(dir);
}

static void test_cancel(void **state)
{
    struct env *e = *state;
    unsigned done = 0;
    struct many *m;

    env_open(e, "s3://bkt", ",max-connections=4");
    m = many_start(e, BIG_BYTES - 1000);
    m->cancel_at = 5;
    tarn_loop_run(e->fx.loop);
    for (unsigned i = 0; i < MANY; i++) {
        assert_true(m->rc[i] == 0 || m->rc[i] == -TARN_E_CANCELLED);
        done += m->rc[i] == 0;
    }
    assert_true(done >= 5 && done <= 9);
    assert_int_equal(get(e, "big", 0, 100), 0); /* the store goes on */
    free(m);
}

static void test_close_in_data(void **state)
{
    struct env *e = *state;
    struct many *m;

    env_open(e, "s3://bkt", ",max-connections=4");
    m = many_start(e, BIG_BYTES - 1000);
    m->close_in_data = true;
    tarn_loop_run(e->fx.loop);
    assert_int_equal(m->ended, MANY);
    fx_close(&e->fx);
    free(m);
}

static int stop_data(struct tarn_ufs_get *g, const uint8_t *p, size_t n)
{
    (void)g;
    (void)p;
    (void)n;
    return -TARN_E_BUSY; /* of a retried class, but ours */
}

static void stop_cb(struct tarn_ufs_get *g, int rc)
{
    *(int *)g->arg = rc;
    tarn_loop_stop(g->req.ufs->loop); /* private, but at hand */
}

static void test_data_stops(void **state)
{
    struct env *e = *state;
    int rc = 1;
    struct tarn_ufs_version v = version_of("big");
    struct tarn_ufs_get g = {.len_bytes = 1000, .on_data = stop_data, .cb = stop_cb, .arg = &rc};

    env_open(e, "s3://bkt", "");
    tarn_ufs_get(e->fx.ufs, &g, "big", &v);
    tarn_loop_run(e->fx.loop);
    assert_int_equal(rc, -TARN_E_BUSY);
    assert_int_equal(requests(e), 1);
}

static void test_bandwidth(void **state)
{
    struct env *e = *state;
    uint64_t t0, took;
    struct many *m;

    env_open(e, "s3://bkt", ",max-bandwidth=2MiB/s");
    t0 = tarn_now_ns();
    m = many_start(
        e, 16u << 10); /* 960 KiB: nearly half a second, less what the bucket holds at first */
    tarn_loop_run(e->fx.loop);
    took = tarn_now_ns() - t0;
    for (unsigned i = 0; i < MANY; i++)
        assert_int_equal(m->rc[i], 0);
    assert_true(took >= 200 * TARN_NS_PER_MS);
    free(m);
}

/* Requests that wait for a slot behind dead ones end with them. */
static void test_queue_deadline(void **state)
{
    struct env *e = *state;
    uint64_t t0 = tarn_now_ns();
    struct many *m;

    env_open(e, "s3://bkt", ",max-connections=1,timeout=300ms");
    script(e, SRV_STALL, 64);
    m = many_start(e, 1000);
    tarn_loop_run(e->fx.loop);
    for (unsigned i = 0; i < MANY; i++)
        assert_int_equal(m->rc[i], -TARN_E_UFS_STALLED);
    assert_true(tarn_now_ns() - t0 < 10 * TARN_NS_PER_S); /* not 60 timeouts */
    free(m);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_stat),
        T(test_list),
        T(test_get),
        T(test_prefix),
        T(test_adopt),
        T(test_one_connection),
        T(test_lies),
        T(test_list_lies),
        T(test_list_of_another_prefix),
        T(test_list_bad_token),
        T(test_retries),
        T(test_resume),
        T(test_stall),
        T(test_health),
        T(test_stall_on_reused),
        T(test_refused),
        T(test_rotated_keys),
        T(test_rotated_keys_without_a_reason),
        T(test_rotated_keys_of_many),
        T(test_concurrency),
        T(test_cancel),
        T(test_close_in_data),
        T(test_data_stops),
        T(test_bandwidth),
        T(test_queue_deadline),
    };

    return cmocka_run_group_tests_name("ufs s3 over http", tests, NULL, NULL);
}
