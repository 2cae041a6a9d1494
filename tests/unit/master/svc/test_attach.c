/* SPDX-License-Identifier: Apache-2.0 */
/* Several stores in one name space: two directories of this host, and an object store that stalls.
 */
#include "tests/unit/master/svc/msvc_fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/mem.h"

#define ROOT   TARN_INO_ROOT.v
#define SECRET "secret-of-nobody-else"

static const uint8_t body[64] = "bytes";
static const struct srv_object objects[] = {
    {"d/one", "e1", NULL, body, 10},
    {"f", "ef", NULL, body, 10},
};

/* A directory as "/" and another one, not attached. */
struct two {
    struct mfx *fx;
    char *dir;
    char uri[128];
    int rc;          /* of the last call */
    char text[1024]; /* its error text */
    uint32_t id;
};

static struct two two_new(void)
{
    struct two t = {.fx = mfx_new(NULL, 0), .dir = fx_tmp()};

    (void)snprintf(t.uri, sizeof(t.uri), "file://%s", t.dir);
    fx_write(t.fx->dir, "outer", body, 5);
    fx_write(t.dir, "inner", body, 7);
    mfx_start(t.fx);
    return t;
}

static void two_free(struct two *t)
{
    mfx_free(&t->fx);
    fx_tmp_fini(t->dir);
}

static void make_dir(const char *dir, const char *name)
{
    TARN_AUTO_FREE char *path = tarn_xasprintf("%s/%s", dir, name);

    assert_int_equal(mkdir(path, 0755), 0);
}

/* The rest of the request is the caller's. */
static int attach_ask(struct two *t, Tarn__Wire__AttachRequest *msg, const char *path,
                      const char *uri)
{
    const Tarn__Wire__AttachResponse *resp;
    struct mfx_op op;

    msg->path = tarn_wire_text(path);
    msg->uri = tarn_wire_text(uri);
    mfx_begin(t->fx, &op, TARN_RPC_attach, &msg->base, 20000);
    t->rc = mfx_end(&op);
    resp = (const void *)op.req.resp;
    t->id = resp ? resp->id : 0;
    (void)snprintf(t->text, sizeof(t->text), "%s", resp ? resp->error_text : "");
    mfx_op_fini(&op);
    assert_true(t->rc == 0 ? t->id > 0 && !t->text[0] : t->text[0] != 0);
    return t->rc;
}

static int attach(struct two *t, const char *path, const char *uri)
{
    Tarn__Wire__AttachRequest msg = TARN__WIRE__ATTACH_REQUEST__INIT;

    msg.check = true;
    return attach_ask(t, &msg, path, uri);
}

static int attach_with(struct two *t, const char *path, const char *uri, const char *option,
                       const char *secret, bool update)
{
    Tarn__Wire__AttachRequest msg = TARN__WIRE__ATTACH_REQUEST__INIT;
    char *options[] = {tarn_wire_text(option)}, *secrets[] = {tarn_wire_text(secret)};

    msg.n_options = option != NULL;
    msg.options = options;
    msg.n_secrets = secret != NULL;
    msg.secrets = secrets;
    msg.update = update;
    return attach_ask(t, &msg, path, uri);
}

static void begin_detach(struct two *t, struct mfx_op *op, const char *path)
{
    Tarn__Wire__DetachRequest msg = TARN__WIRE__DETACH_REQUEST__INIT;

    msg.path = tarn_wire_text(path);
    mfx_begin(t->fx, op, TARN_RPC_detach, &msg.base, 20000);
}

static int end_detach(struct two *t, struct mfx_op *op)
{
    const Tarn__Wire__DetachResponse *resp;

    t->rc = mfx_end(op);
    resp = (const void *)op->req.resp;
    (void)snprintf(t->text, sizeof(t->text), "%s", resp ? resp->error_text : "");
    mfx_op_fini(op);
    assert_true((t->rc == 0) == !t->text[0]);
    return t->rc;
}

static int detach(struct two *t, const char *path)
{
    struct mfx_op op;

    begin_detach(t, &op, path);
    return end_detach(t, &op);
}

/* "a b c", in the order of readdir; the directory must be listed without an error. */
static void expect_ls(struct two *t, uint64_t ino, const char *names)
{
    struct tarn_str s = {0};
    struct mfx_dir d;

    assert_int_equal(mfx_readdir(t->fx, ino, 100, &d), 0);
    for (size_t i = 0; i < d.count; i++)
        tarn_str_addf(&s, "%s%s", i ? " " : "", d.names[i]);
    assert_string_equal(tarn_str_z(&s), names);
    tarn_str_fini(&s);
    mfx_dir_fini(&d);
}

static uint64_t ino_of(struct two *t, const char *path)
{
    struct mfx_attr a = {0};

    return mfx_resolve(t->fx, path, &a) == 0 ? a.ino : 0;
}

static Tarn__Wire__StatusResponse *status(struct two *t)
{
    Tarn__Wire__Empty msg = TARN__WIRE__EMPTY__INIT;
    struct mfx_op op;

    mfx_begin(t->fx, &op, TARN_RPC_status, &msg.base, 20000);
    assert_int_equal(mfx_end(&op), 0);
    return (Tarn__Wire__StatusResponse *)(void *)op.req.resp;
}

static void status_free(Tarn__Wire__StatusResponse *s)
{
    protobuf_c_message_free_unpacked(&s->base, NULL);
}

static bool locate(struct two *t, uint64_t ino, char *key, size_t n, uint32_t *ret_attachment,
                   uint32_t *ret_replicas)
{
    Tarn__Wire__LocateRequest msg = TARN__WIRE__LOCATE_REQUEST__INIT;
    const Tarn__Wire__LocateResponse *resp;
    struct mfx_op op;
    int rc;

    msg.ino = ino;
    mfx_begin(t->fx, &op, TARN_RPC_locate, &msg.base, 20000);
    rc = mfx_end(&op);
    resp = (const void *)op.req.resp;
    if (rc == 0) {
        (void)snprintf(key, n, "%.*s", (int)resp->locator->key.len,
                       (const char *)resp->locator->key.data);
        *ret_attachment = resp->locator->attachment;
        *ret_replicas = resp->locator->replicas;
    }
    mfx_op_fini(&op);
    return rc == 0;
}

static void cid_of(struct two *t, uint64_t ino, uint8_t ret[16])
{
    Tarn__Wire__LocateRequest msg = TARN__WIRE__LOCATE_REQUEST__INIT;
    const Tarn__Wire__LocateResponse *resp;
    struct mfx_op op;

    msg.ino = ino;
    mfx_begin(t->fx, &op, TARN_RPC_locate, &msg.base, 20000);
    assert_int_equal(mfx_end(&op), 0);
    resp = (const void *)op.req.resp;
    assert_int_equal(resp->locator->cid.len, 16);
    memcpy(ret, resp->locator->cid.data, 16);
    mfx_op_fini(&op);
}

static uint64_t list_version(struct two *t)
{
    struct mattach_list l;
    uint64_t v;

    mattach_list(t->fx->master, false, &l);
    v = l.msg.version;
    mattach_list_fini(&l);
    return v;
}

static unsigned told; /* of changes */

static void on_attachments(struct tarn_master *m)
{
    (void)m;
    told++;
}

/* ---- nested --------------------------------------------------------------------------------- */

static void test_nested(void **state)
{
    struct two t = two_new();
    uint32_t attachment = 0, replicas = 0;
    uint64_t ino, file, version = list_version(&t);
    Tarn__Wire__StatusResponse *s;
    char key[64];

    (void)state;
    make_dir(t.fx->dir, "d");
    fx_write(t.fx->dir, "d/known", body, 3);
    fx_write(t.fx->dir, "d/n", body, 3); /* a file that is covered */
    t.fx->master->on_attachments = on_attachments;
    told = 0;
    assert_int_equal(attach(&t, "/d/n/", t.uri), 0);
    assert_int_equal(t.id, 2);
    assert_int_equal(told, 1);
    assert_true(list_version(&t) > version);
    expect_ls(&t, ROOT, "d outer");
    expect_ls(&t, ino_of(&t, "/d"), "n known");
    ino = ino_of(&t, "/d/n");
    expect_ls(&t, ino, "inner");
    file = ino_of(&t, "/d/n/inner");
    assert_true(locate(&t, file, key, sizeof(key), &attachment, &replicas));
    assert_string_equal(key, "inner");
    assert_int_equal(attachment, 2);
    assert_int_equal(replicas, 1);
    assert_int_equal(mfx_getattr(t.fx, ino, true, NULL), 0);

    /* Below names that no store has, too. */
    assert_int_equal(attach(&t, "/x/y/z", t.uri), 0);
    expect_ls(&t, ino_of(&t, "/x"), "y");
    expect_ls(&t, ino_of(&t, "/x/y/z"), "inner");
    assert_int_equal(mfx_resolve(t.fx, "/x/nothing", NULL), -TARN_E_NO_ENTRY);
    s = status(&t);
    assert_int_equal(s->n_mounts, 3);
    assert_string_equal(s->mounts[1]->path, "/d/n");
    assert_string_equal(s->mounts[1]->ufs, t.uri);
    assert_string_equal(s->mounts[1]->state, "up");
    assert_int_equal(s->mounts[1]->ttl_ns, 60 * TARN_NS_PER_S);
    assert_int_equal(s->mounts[1]->replicas, 1);
    assert_true(s->mounts[1]->direct && !s->mounts[0]->direct);
    assert_int_equal(s->mounts[1]->files, 1);
    assert_true(s->inodes >= 7);
    status_free(s);

    /* They go; the store's own file shows, and the directories of no store do not. */
    assert_int_equal(detach(&t, "/d/n"), 0);
    assert_int_equal(detach(&t, "/x/y/z"), 0);
    expect_ls(&t, ino_of(&t, "/d"), "known n");
    assert_int_equal(ino_of(&t, "/x"), 0);
    assert_false(locate(&t, file, key, sizeof(key), &attachment, &replicas));
    assert_int_equal(detach(&t, "/d/n"), -TARN_E_NO_ATTACH);
    assert_int_equal(told, 4);
    two_free(&t);
}

/* The bytes that are cached of it are found again, wherever it is attached. */
static void test_cids_stay(void **state)
{
    struct two t = two_new();
    uint8_t first[16], again[16], elsewhere[16];

    (void)state;
    assert_int_equal(attach(&t, "/a", t.uri), 0);
    cid_of(&t, ino_of(&t, "/a/inner"), first);
    assert_int_equal(detach(&t, "/a"), 0);
    assert_int_equal(attach(&t, "/a", t.uri), 0);
    assert_int_equal(attach(&t, "/b/c", t.uri), 0);
    cid_of(&t, ino_of(&t, "/a/inner"), again);
    cid_of(&t, ino_of(&t, "/b/c/inner"), elsewhere);
    assert_memory_equal(first, again, 16);
    assert_memory_equal(first, elsewhere, 16);
    two_free(&t);
}

static void test_sessions_are_told(void **state)
{
    Tarn__Wire__SessionRequest msg = TARN__WIRE__SESSION_REQUEST__INIT;
    struct two t = two_new();
    struct mfx_op op;
    unsigned items;

    (void)state;
    mfx_begin(t.fx, &op, TARN_RPC_session_open, &msg.base, 20000);
    assert_int_equal(mfx_end(&op), 0);
    mfx_op_fini(&op);
    assert_int_equal(ino_of(&t, "/n"), 0); /* a client may believe that */
    items = t.fx->items;
    assert_int_equal(attach(&t, "/n", t.uri), 0);
    mfx_run_ms(t.fx, 20);
    assert_int_equal(t.fx->items, items + 1);
    assert_string_equal(t.fx->inval_name, "n");
    assert_int_equal(t.fx->inval_ino, ino_of(&t, "/n"));
    assert_int_equal(detach(&t, "/n"), 0);
    mfx_run_ms(t.fx, 20);
    assert_int_equal(t.fx->items, items + 2);
    assert_int_equal(t.fx->everything, 0);
    assert_int_equal(detach(&t, "/"), 0);
    mfx_run_ms(t.fx, 20);
    assert_int_equal(t.fx->everything, 1);
    assert_int_equal(attach(&t, "/", t.fx->uri), 0);
    mfx_run_ms(t.fx, 20);
    assert_int_equal(t.fx->everything, 2);
    two_free(&t);
}

static void test_a_later_outer_store(void **state)
{
    struct two t = two_new();

    (void)state;
    assert_int_equal(detach(&t, "/"), 0);
    expect_ls(&t, ROOT, "");
    make_dir(t.fx->dir, "a");
    fx_write(t.fx->dir, "a/mine", body, 3);
    assert_int_equal(attach(&t, "/a/b/c", t.uri), 0); /* as soon as the old one is collected */
    expect_ls(&t, ROOT, "a");
    expect_ls(&t, ino_of(&t, "/a"), "b");
    assert_int_equal(attach(&t, "/", t.fx->uri), 0);
    expect_ls(&t, ROOT, "a outer");
    expect_ls(&t, ino_of(&t, "/a"), "b mine"); /* the store has an /a of its own */
    expect_ls(&t, ino_of(&t, "/a/b"), "c");
    expect_ls(&t, ino_of(&t, "/a/b/c"), "inner");
    assert_int_equal(detach(&t, "/"), -TARN_E_EXISTS);
    assert_non_null(strstr(t.text, "/a/b/c"));
    assert_int_equal(detach(&t, "/a/b/c"), 0);
    expect_ls(&t, ino_of(&t, "/a"), "mine");
    two_free(&t);
}

/* ---- refusals ------------------------------------------------------------------------------- */

static void test_refusals(void **state)
{
    struct two t = two_new();
    TARN_AUTO_FREE char *none = tarn_xasprintf("file://%s/none", t.dir);
    char deep[256];
    uint64_t version;

    (void)state;
    fx_write(t.fx->dir, "file", body, 3);
    version = list_version(&t);
    assert_int_equal(attach(&t, "a", t.uri), -TARN_E_NAME_BAD);
    assert_int_equal(attach(&t, "/a/../b", t.uri), -TARN_E_NAME_BAD);
    assert_int_equal(attach(&t, "/a", ""), -TARN_E_CONFIG);
    for (size_t i = 0; i < 65; i++)
        memcpy(deep + 2 * i, "/d", 3);
    assert_int_equal(attach(&t, deep, t.uri), -TARN_E_NAME_TOO_LONG);
    assert_int_equal(attach(&t, "/a", "what://x"), -TARN_E_CONFIG);
    assert_int_equal(attach(&t, "/a", none), -TARN_E_UFS_NO_BUCKET);
    assert_int_equal(attach(&t, "/file/x", t.uri), -TARN_E_NOT_DIR);
    assert_int_equal(attach(&t, "/", t.uri), -TARN_E_EXISTS);
    assert_non_null(strstr(t.text, t.fx->uri));
    assert_int_equal(attach_with(&t, "/a", t.uri, "timeoutt=3s", NULL, false), -TARN_E_CONFIG);
    assert_non_null(strstr(t.text, "timeoutt"));
    assert_non_null(strstr(t.text, "max-bandwidth"));
    assert_int_equal(attach_with(&t, "/a", t.uri, "timeout=never", NULL, false), -TARN_E_CONFIG);
    assert_int_equal(attach_with(&t, "/a", t.uri, "secret-key=" SECRET, NULL, false),
                     -TARN_E_CONFIG);
    assert_null(strstr(t.text, SECRET));
    assert_int_equal(attach_with(&t, "/a", t.uri, "proxy=http://me:" SECRET "@p:1", NULL, false),
                     -TARN_E_CONFIG); /* it would be shown */
    assert_null(strstr(t.text, SECRET));
    assert_int_equal(attach_with(&t, "/a", t.uri, NULL, "timeout=3s", false), -TARN_E_CONFIG);
    assert_int_equal(attach_with(&t, "/a", t.uri, "timeout=3s", NULL, true), -TARN_E_NO_ATTACH);
    assert_int_equal(detach(&t, "/a"), -TARN_E_NO_ATTACH);
    assert_int_equal(detach(&t, "a"), -TARN_E_NAME_BAD);
    assert_int_equal(list_version(&t), version); /* none of them left anything */
    assert_int_equal(attach(&t, "/a", t.uri), 0);
    assert_int_equal(attach(&t, "/a", t.uri), -TARN_E_EXISTS);
    two_free(&t);
}

static void test_update(void **state)
{
    Tarn__Wire__AttachRequest msg = TARN__WIRE__ATTACH_REQUEST__INIT;
    struct two t = two_new();
    struct tarn_ufs *before;
    Tarn__Wire__StatusResponse *s;
    struct mattach_list l;
    uint64_t ino;

    (void)state;
    assert_int_equal(attach_with(&t, "/a", t.uri, "timeout=3s,retries=2", NULL, false), 0);
    ino = ino_of(&t, "/a/inner");
    before = mattach_by_id(t.fx->master, 2)->ufs;
    msg.update = true;
    msg.has_ttl = true;
    msg.ttl_ns = TARN_NS_PER_S;
    msg.replicas = 2;
    msg.direct = 1;
    assert_int_equal(attach_ask(&t, &msg, "/a", ""), 0);
    assert_int_equal(t.id, 2);
    assert_ptr_equal(mattach_by_id(t.fx->master, 2)->ufs, before); /* the store is left alone */
    s = status(&t);
    assert_int_equal(s->mounts[1]->ttl_ns, TARN_NS_PER_S);
    assert_int_equal(s->mounts[1]->replicas, 2);
    assert_false(s->mounts[1]->direct);
    assert_int_equal(s->mounts[1]->n_options, 2);
    status_free(s);

    assert_int_equal(attach_with(&t, "/a", "", "retries=4", NULL, true), 0);
    assert_true(mattach_by_id(t.fx->master, 2)->ufs != before);
    s = status(&t);
    assert_int_equal(s->mounts[1]->n_options, 2);
    assert_string_equal(s->mounts[1]->options[0], "timeout=3s");
    assert_string_equal(s->mounts[1]->options[1], "retries=4");
    assert_int_equal(s->mounts[1]->ttl_ns, TARN_NS_PER_S);
    status_free(s);
    assert_int_equal(ino_of(&t, "/a/inner"), ino);
    tarn_clock_fake_advance(&t.fx->clock, 2 * TARN_NS_PER_S); /* believed no more: asked anew */
    fx_write(t.dir, "more", body, 1);
    expect_ls(&t, ino_of(&t, "/a"), "inner more");

    mattach_list(t.fx->master, true, &l);
    assert_int_equal(l.msg.n_attachments, 0);
    mattach_list_fini(&l);
    mattach_list(t.fx->master, false, &l);
    assert_int_equal(l.msg.n_attachments, 2);
    assert_int_equal(l.msg.attachments[1]->n_options, 2);
    mattach_list_fini(&l);

    /* What makes it another store is no update. */
    assert_int_equal(attach_with(&t, "/a", "", "isolation=x", NULL, true), -TARN_E_EXISTS);
    assert_non_null(strstr(t.text, "detach"));
    assert_int_equal(attach_with(&t, "/a", "", "store-id=x", NULL, true), -TARN_E_EXISTS);
    assert_non_null(strstr(t.text, "detach"));
    assert_int_equal(attach_with(&t, "/a", t.fx->uri, NULL, NULL, true), -TARN_E_EXISTS);
    expect_ls(&t, ino_of(&t, "/a"), "inner more");
    mfx_run_ms(t.fx, 1200); /* the store that was replaced is closed by now */
    assert_true(tarn_list_empty(&t.fx->master->retired));
    two_free(&t);
}

/* ---- an object store ------------------------------------------------------------------------ */

static void s3_option(const struct srv *srv, char *ret, size_t n)
{
    (void)snprintf(ret, n, "endpoint=http://127.0.0.1:%u,access-key=ak,timeout=10s,retries=0",
                   srv_port(srv));
}

static bool packed_has(const Tarn__Wire__StatusResponse *s, const char *text)
{
    size_t n = tarn__wire__status_response__get_packed_size(s);
    uint8_t *p = tarn_xcalloc(1, n + 1);
    bool has;

    (void)tarn__wire__status_response__pack(s, p);
    has = memmem(p, n, text, strlen(text)) != NULL;
    free(p);
    return has;
}

static void test_secrets(void **state)
{
    struct srv *srv = srv_start(objects, TARN_ARRAY_LEN(objects));
    struct two t = two_new();
    static const enum srv_action deny[] = {SRV_DENY, SRV_DENY};
    Tarn__Wire__AttachRequest msg = TARN__WIRE__ATTACH_REQUEST__INIT;
    char option[256], *options[] = {option};
    char *secrets[] = {tarn_wire_text("secret-key=" SECRET "\\,x")};
    Tarn__Wire__StatusResponse *s;
    struct mattach_list l;

    (void)state;
    s3_option(srv, option, sizeof(option));
    msg.n_options = msg.n_secrets = 1;
    msg.options = options;
    msg.secrets = secrets;
    msg.check = true;
    srv_script(srv, deny, 2);
    assert_int_equal(attach_ask(&t, &msg, "/s3", "s3://bkt"), -TARN_E_UFS_DENIED);
    assert_null(strstr(t.text, SECRET));
    srv_script(srv, NULL, 0);
    assert_int_equal(attach_ask(&t, &msg, "/s3", "s3://bkt"), 0);
    expect_ls(&t, ino_of(&t, "/s3"), "d f");
    s = status(&t);
    assert_true(packed_has(s, "access-key=ak"));
    assert_false(packed_has(s, SECRET));
    status_free(s);
    mattach_list(t.fx->master, true, &l);
    assert_int_equal(l.msg.n_attachments, 1);
    assert_int_equal(l.msg.attachments[0]->n_secrets, 1);
    assert_string_equal(l.msg.attachments[0]->secrets[0], "secret-key=" SECRET "\\,x");
    mattach_list_fini(&l);
    two_free(&t);
    srv_stop(&srv);
}

static void begin_readdir(struct two *t, struct mfx_op *op, uint64_t ino)
{
    Tarn__Wire__ReaddirRequest msg = TARN__WIRE__READDIR_REQUEST__INIT;

    msg.ino = ino;
    msg.max_entries = 1000;
    mfx_begin(t->fx, op, TARN_RPC_readdir, &msg.base, 20000);
}

/* Whatever waits for the store ends, and soon. */
static void test_detach_while_it_is_asked(void **state)
{
    static const enum srv_action stall[] = {SRV_STALL, SRV_STALL, SRV_STALL, SRV_STALL,
                                            SRV_STALL, SRV_STALL, SRV_STALL, SRV_STALL};
    struct srv *srv = srv_start(objects, TARN_ARRAY_LEN(objects));
    struct two t = two_new();
    struct mfx_op list, look, du, gone;
    struct srv_counts counts = {0};
    Tarn__Wire__DuRequest du_msg = TARN__WIRE__DU_REQUEST__INIT;
    char option[256];
    uint64_t begun, ino;

    (void)state;
    s3_option(srv, option, sizeof(option));
    assert_int_equal(attach_with(&t, "/s3", "s3://bkt", option, "secret-key=sk", false), 0);
    ino = ino_of(&t, "/s3");
    srv_script(srv, stall, TARN_ARRAY_LEN(stall));
    begin_readdir(&t, &list, ino);
    mfx_begin_lookup(t.fx, &look, ino, "f", 20000);
    du_msg.path = tarn_wire_bytes("/s3/d", 5);
    mfx_begin(t.fx, &du, TARN_RPC_du, &du_msg.base, 20000);
    while (counts.requests < 3) {
        mfx_run_ms(t.fx, 5);
        srv_counts(srv, &counts);
    }
    assert_false(list.done || look.done || du.done);
    begun = tarn_now_ns();
    begin_detach(&t, &gone, "/s3");
    assert_int_equal(end_detach(&t, &gone), 0);
    assert_int_equal(mfx_end(&list), -TARN_E_NO_ATTACH);
    assert_int_equal(ino_of(&t, "/s3"), 0);
    assert_true(mfx_end(&look) < 0);
    assert_true(mfx_end(&du) < 0);
    assert_true(tarn_now_ns() - begun < 5 * TARN_NS_PER_S);
    mfx_op_fini(&list);
    mfx_op_fini(&look);
    mfx_op_fini(&du);
    mfx_run_ms(t.fx, 50);
    assert_true(tarn_list_empty(&t.fx->master->gone_attachments)); /* and its store is closed */
    two_free(&t);
    srv_stop(&srv);
}

static void test_a_stop_with_many(void **state)
{
    static const enum srv_action stall[] = {SRV_STALL, SRV_STALL, SRV_STALL, SRV_STALL,
                                            SRV_STALL, SRV_STALL, SRV_STALL, SRV_STALL};

    (void)state;
    for (unsigned k = 0; k < 20; k++) {
        struct srv *srv = srv_start(objects, TARN_ARRAY_LEN(objects));
        Tarn__Wire__AttachRequest msg = TARN__WIRE__ATTACH_REQUEST__INIT;
        struct two t = two_new();
        struct mfx_op ops[4];
        char option[256], *options[] = {option};
        char *secrets[] = {tarn_wire_text("secret-key=sk")};

        s3_option(srv, option, sizeof(option));
        assert_int_equal(attach_with(&t, "/s3", "s3://bkt", option, "secret-key=sk", false), 0);
        srv_script(srv, stall, TARN_ARRAY_LEN(stall));
        begin_readdir(&t, &ops[0], ino_of(&t, "/s3"));
        msg.path = tarn_wire_text("/other");
        msg.uri = tarn_wire_text("s3://bkt");
        msg.n_options = msg.n_secrets = 1;
        msg.options = options;
        msg.secrets = secrets;
        msg.check = true;
        mfx_begin(t.fx, &ops[1], TARN_RPC_attach, &msg.base, 20000);
        msg.path = tarn_wire_text("/s3/d/e");
        msg.uri = tarn_wire_text(t.uri);
        mfx_begin(t.fx, &ops[2], TARN_RPC_attach, &msg.base, 20000);
        begin_detach(&t, &ops[3], k % 2 ? "/s3" : "/");
        mfx_run_ms(t.fx, k);
        mfx_halt(t.fx);
        mfx_close(t.fx);
        for (size_t i = 0; i < TARN_ARRAY_LEN(ops); i++) {
            assert_true(ops[i].done);
            mfx_op_fini(&ops[i]);
        }
        two_free(&t);
        srv_stop(&srv);
    }
}

/* ---- a restart ------------------------------------------------------------------------------ */

static void reopen(struct two *t)
{
    mfx_stop(t->fx);
    mfx_open(t->fx);
    tarn_master_open_attachments(t->fx->master);
    mfx_serve(t->fx);
}

static bool is_open(struct two *t, uint32_t id)
{
    return mattach_by_id(t->fx->master, id)->ufs != NULL;
}

static void wait_open(struct two *t, uint32_t id)
{
    for (unsigned i = 0; i < 1000 && !is_open(t, id); i++)
        mfx_run_ms(t->fx, 10);
    assert_true(is_open(t, id));
}

static void test_a_restart(void **state)
{
    struct two t = two_new();
    TARN_AUTO_FREE char *file = tarn_xasprintf("%s/key", t.dir);
    TARN_AUTO_FREE char *option = tarn_xasprintf("key-file=%s", file);
    uint64_t ino, version;
    Tarn__Wire__StatusResponse *s;

    (void)state;
    t.fx->probe_ns = 100 * TARN_NS_PER_MS;
    fx_write(t.dir, "key", body, 5);
    assert_int_equal(attach(&t, "/a", t.uri), 0);
    assert_int_equal(attach_with(&t, "/s3", "s3://bkt", option, "secret-key=sk", false), 0);
    ino = ino_of(&t, "/a/inner");
    version = list_version(&t);
    assert_int_equal(unlink(file), 0);
    reopen(&t);
    assert_int_equal(list_version(&t), version);
    assert_int_equal(ino_of(&t, "/a/inner"), ino); /* the names are known, open or not */
    wait_open(&t, 1);
    wait_open(&t, 2);
    expect_ls(&t, ROOT, "a s3 outer");
    mfx_run_ms(t.fx, 300);
    assert_false(is_open(&t, 3)); /* its key is not there */
    assert_int_equal(mfx_resolve(t.fx, "/s3/x", NULL), -TARN_E_UFS_DOWN);
    s = status(&t);
    assert_int_equal(s->n_mounts, 3);
    assert_string_equal(s->mounts[2]->state, "down");
    assert_non_null(strstr(s->mounts[2]->error, "key"));
    status_free(s);
    fx_write(t.dir, "key", body, 5);
    wait_open(&t, 3);
    assert_int_equal(attach(&t, "/b", t.uri), 0);
    assert_true(list_version(&t) > version);
    assert_int_equal(t.id, 4);
    assert_int_equal(detach(&t, "/b"), 0);
    reopen(&t);
    assert_int_equal(attach(&t, "/c", t.uri), 0);
    assert_int_equal(t.id, 5);
    two_free(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nested),
        cmocka_unit_test(test_cids_stay),
        cmocka_unit_test(test_sessions_are_told),
        cmocka_unit_test(test_a_later_outer_store),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_update),
        cmocka_unit_test(test_secrets),
        cmocka_unit_test(test_detach_while_it_is_asked),
        cmocka_unit_test(test_a_stop_with_many),
        cmocka_unit_test(test_a_restart),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
