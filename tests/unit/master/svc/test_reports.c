/* SPDX-License-Identifier: Apache-2.0 */
/* Sessions and their invalidations, du, status, resolve. */
#include "tests/unit/master/svc/msvc_fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROOT   TARN_INO_ROOT.v
#define MINUTE (61 * TARN_NS_PER_S)

static uint8_t body[4096];
static const struct srv_object objects[] = {
    {"d/empty", "e0", NULL, body, 0},
    {"d/one", "e1", NULL, body, 100},
    {"d/sub/two", "e2", NULL, body, 200},
    {"f", "ef", NULL, body, 10},
};
static const struct srv_object changed[] = {
    {"d/one", "e1x", NULL, body, 101},
    {"d/sub/two", "e2", NULL, body, 200},
    {"f", "ef", NULL, body, 10},
};

static struct mfx *start(void)
{
    struct mfx *fx = mfx_new(objects, TARN_ARRAY_LEN(objects));

    mfx_start(fx);
    mfx_script(fx, SRV_OK, 0);
    return fx;
}

static int session_open(struct mfx *fx, uint64_t *ret_id)
{
    Tarn__Wire__SessionRequest msg = TARN__WIRE__SESSION_REQUEST__INIT;
    const Tarn__Wire__SessionResponse *resp;
    struct mfx_op op;
    int rc;

    msg.kind = tarn_wire_text("mount");
    msg.mountpoint = tarn_wire_text("/mnt/x");
    msg.host = tarn_wire_text("h");
    mfx_begin(fx, &op, TARN_RPC_session_open, &msg.base, 20000);
    rc = mfx_end(&op);
    if (rc == 0) {
        resp = (const void *)op.req.resp;
        *ret_id = resp->session;
        assert_true(resp->lease_ms > 0);
        assert_string_equal(resp->cluster_id, tarn_master_cluster_id(fx->master));
        assert_int_equal(tarn_cap_check((const uint8_t *)"a key of thirty-two bytes, no le",
                                        resp->cluster_id, fx->clock.real, 1, false,
                                        &resp->capability),
                         0);
    }
    mfx_op_fini(&op);
    return rc;
}

static int session_renew(struct mfx *fx, uint64_t id, uint64_t *ret_seq)
{
    Tarn__Wire__RenewRequest msg = TARN__WIRE__RENEW_REQUEST__INIT;
    Tarn__Wire__ReadCount row = TARN__WIRE__READ_COUNT__INIT, *rows[] = {&row};
    struct mfx_op op;
    int rc;

    row.source = tarn_wire_text("local");
    row.bytes = 4711;
    msg.session = id;
    msg.n_reads = 1;
    msg.reads = rows;
    mfx_begin(fx, &op, TARN_RPC_session_renew, &msg.base, 20000);
    rc = mfx_end(&op);
    if (rc == 0)
        *ret_seq = ((const Tarn__Wire__RenewResponse *)op.req.resp)->seq;
    mfx_op_fini(&op);
    return rc;
}

static void list_all(struct mfx *fx)
{
    struct mfx_attr d;
    struct mfx_dir dir;
    static const char *const paths[] = {"/", "/d", "/d/sub"};

    for (size_t i = 0; i < TARN_ARRAY_LEN(paths); i++) {
        assert_int_equal(mfx_resolve(fx, paths[i], &d), 0);
        assert_int_equal(mfx_readdir(fx, d.ino, 100, &dir), 0);
        mfx_dir_fini(&dir);
    }
}

static void test_changes_reach_a_session(void **state)
{
    struct mfx *fx = start();
    uint64_t id = 0, again = 0, seq = 0;
    struct mfx_attr one, gone;

    (void)state;
    list_all(fx);
    assert_int_equal(fx->notices, 0); /* no session yet */
    assert_int_equal(session_open(fx, &id), 0);
    assert_int_equal(session_open(fx, &again), 0);
    assert_int_equal(again, id);
    assert_int_equal(mfx_resolve(fx, "/d/one", &one), 0);
    assert_int_equal(mfx_resolve(fx, "/d/empty", &gone), 0);
    srv_objects(fx->srv, changed, TARN_ARRAY_LEN(changed));
    tarn_clock_fake_advance(&fx->clock, MINUTE);
    assert_int_equal(mfx_resolve(fx, "/d/one", NULL), 0);
    assert_int_equal(fx->items, 1);
    assert_int_equal(fx->inval_ino, one.ino);
    assert_string_equal(fx->inval_name, "one");
    assert_int_equal(mfx_resolve(fx, "/d/empty", NULL), -TARN_E_NO_ENTRY);
    assert_int_equal(fx->items, 2);
    assert_int_equal(fx->inval_ino, gone.ino);
    assert_int_equal(session_renew(fx, id, &seq), 0);
    assert_int_equal(seq, fx->last_seq);
    assert_int_equal(session_renew(fx, id + 1, &seq), -TARN_E_STALE);
    mfx_free(&fx);
}

static void test_a_session_ends_with_its_connection(void **state)
{
    struct mfx *fx = start();
    uint64_t id = 0;

    (void)state;
    assert_int_equal(session_open(fx, &id), 0);
    assert_false(tarn_list_empty(&fx->master->sessions));
    tarn_rpc_session_close(fx->session);
    for (unsigned i = 0; i < 200 && fx->session; i++)
        mfx_run_ms(fx, 5);
    assert_true(tarn_list_empty(&fx->master->sessions));
    mfx_free(&fx);
}

static void test_du_counts(void **state)
{
    struct mfx *fx = start();
    Tarn__Wire__DuResponse du;

    (void)state;
    fx->cached = 150;
    assert_int_equal(mfx_du(fx, "/", &du), 0);
    assert_false(du.complete); /* nothing was listed */
    list_all(fx);
    mfx_script(fx, SRV_OK, 0);
    assert_int_equal(mfx_du(fx, "/", &du), 0);
    assert_int_equal(mfx_requests(fx), 0);
    assert_int_equal(du.files, 4);
    assert_int_equal(du.dirs, 2);
    assert_int_equal(du.bytes, 310);
    assert_int_equal(du.cached_bytes, 260); /* 100 + 150 + 10 */
    assert_int_equal(du.cached_files, 3);   /* empty, one, f */
    assert_true(du.complete);
    assert_int_equal(mfx_du(fx, "/d/empty", &du), 0);
    assert_int_equal(du.files, 1);
    assert_int_equal(du.cached_files, 1);
    assert_int_equal(mfx_du(fx, "/d/one/", &du), 0);
    assert_int_equal(du.cached_bytes, 100);
    assert_int_equal(mfx_du(fx, "/nope", &du), -TARN_E_NO_ENTRY);
    mfx_free(&fx);
}

static void test_du_ends_when_its_caller_has_gone(void **state)
{
    struct mfx *fx = start();
    Tarn__Wire__DuRequest msg = TARN__WIRE__DU_REQUEST__INIT;
    struct mfx_op op;

    (void)state;
    list_all(fx);
    fx->hold = true;
    msg.path = tarn_wire_bytes("/", 1);
    mfx_begin(fx, &op, TARN_RPC_du, &msg.base, 200);
    assert_int_equal(mfx_end(&op), -TARN_E_DEADLINE);
    mfx_op_fini(&op);
    for (unsigned i = 0; i < 400 && (fx->held || fx->master->busy); i++)
        mfx_run_ms(fx, 5);
    assert_null(fx->held); /* the worker was told, too */
    assert_int_equal(fx->master->busy, 0);
    mfx_free(&fx);
}

static void du_begin(struct mfx *fx, struct mfx_op *op, const char *path, unsigned ms)
{
    Tarn__Wire__DuRequest msg = TARN__WIRE__DU_REQUEST__INIT;

    msg.path = tarn_wire_bytes(path, strlen(path));
    mfx_begin(fx, op, TARN_RPC_du, &msg.base, ms);
}

static void until_held(struct mfx *fx)
{
    for (unsigned i = 0; i < 400 && !fx->held; i++)
        mfx_run_ms(fx, 5);
    assert_non_null(fx->held);
}

/* The question that is held is answered with `each` for every file. */
static void release(struct mfx *fx, uint64_t each)
{
    struct tarn_rpc_call *call = fx->held;
    const Tarn__Wire__CachedRequest *req = (const void *)call->request;
    Tarn__Wire__CachedResponse resp = TARN__WIRE__CACHED_RESPONSE__INIT;
    uint64_t bytes[8];

    assert_true(req->n_cids <= TARN_ARRAY_LEN(bytes));
    for (size_t i = 0; i < req->n_cids; i++)
        bytes[i] = each;
    resp.n_bytes = req->n_cids;
    resp.bytes = bytes;
    fx->held = NULL;
    call->on_cancel = NULL;
    tarn_rpc_reply(call, 0, &resp.base, NULL, 0, 0);
}

static uint64_t du_cached(struct mfx_op *op)
{
    uint64_t bytes;

    assert_int_equal(mfx_end(op), 0);
    bytes = ((const Tarn__Wire__DuResponse *)op->req.resp)->cached_bytes;
    mfx_op_fini(op);
    return bytes;
}

/* Who asks while a sum is made gets the next one, together with everybody else who waits: not what
 * was asked of the workers before the question. */
static void test_du_is_shared_by_those_who_wait(void **state)
{
    struct mfx *fx = start();
    struct mfx_op first, others[5], below;

    (void)state;
    list_all(fx);
    fx->hold = true;
    du_begin(fx, &first, "/", 20000);
    until_held(fx);
    fx->cached = 10; /* of each of three files */
    for (unsigned i = 0; i < TARN_ARRAY_LEN(others); i++)
        du_begin(fx, &others[i], i % 2 ? "/" : "//", 20000);
    du_begin(fx, &below, "/d/sub", 20000); /* another path waits for nobody */
    assert_int_equal(du_cached(&below), 10);
    assert_int_equal(fx->asked, 2);
    release(fx, 0);
    assert_int_equal(du_cached(&first), 0);
    for (unsigned i = 0; i < TARN_ARRAY_LEN(others); i++)
        assert_int_equal(du_cached(&others[i]), 30);
    assert_int_equal(fx->asked, 3);
    assert_true(tarn_list_empty(&fx->master->dus));
    mfx_free(&fx);
}

/* One of several callers leaves: the sum goes on for the rest. All that wait leave: it is not made.
 */
static void test_du_whose_callers_leave(void **state)
{
    struct mfx *fx = start();
    struct mfx_op first, early[3], late;

    (void)state;
    list_all(fx);
    fx->hold = true;
    du_begin(fx, &first, "/", 20000);
    until_held(fx);
    for (unsigned i = 0; i < TARN_ARRAY_LEN(early); i++)
        du_begin(fx, &early[i], "/", 100);
    for (unsigned i = 0; i < TARN_ARRAY_LEN(early); i++) {
        assert_int_equal(mfx_end(&early[i]), -TARN_E_DEADLINE);
        mfx_op_fini(&early[i]);
    }
    for (unsigned i = 0; i < 400 && fx->master->dus.next->next != &fx->master->dus; i++)
        mfx_run_ms(fx, 5);
    assert_ptr_equal(fx->master->dus.next->next, &fx->master->dus); /* the one under way */
    du_begin(fx, &early[0], "/", 100);
    du_begin(fx, &late, "/", 20000);
    assert_int_equal(mfx_end(&early[0]), -TARN_E_DEADLINE);
    mfx_op_fini(&early[0]);
    release(fx, 1);
    assert_int_equal(du_cached(&first), 3);
    assert_int_equal(du_cached(&late), 0);
    assert_int_equal(fx->asked, 2);
    assert_true(tarn_list_empty(&fx->master->dus));
    mfx_free(&fx);
}

/* More paths than sums are made at a time: the others wait for their turn, and all end. */
static void test_du_of_many_paths(void **state)
{
    static const char *const paths[] = {"/",          "/d", "/d/sub",  "/d/one",
                                        "/d/sub/two", "/f", "/d/empty"};
    static const uint64_t cached[] = {30, 20, 10, 10, 10, 10, 0};
    struct mfx *fx = start();
    struct mfx_op ops[TARN_ARRAY_LEN(paths)];

    (void)state;
    list_all(fx);
    fx->cached = 10;
    for (unsigned i = 0; i < TARN_ARRAY_LEN(paths); i++)
        du_begin(fx, &ops[i], paths[i], 20000);
    for (unsigned i = 0; i < TARN_ARRAY_LEN(paths); i++)
        assert_int_equal(du_cached(&ops[i]), cached[i]);
    assert_true(tarn_list_empty(&fx->master->dus));
    mfx_free(&fx);
}

static void test_resolve_ends_when_its_caller_has_gone(void **state)
{
    struct mfx *fx = start();
    Tarn__Wire__ResolveRequest msg = TARN__WIRE__RESOLVE_REQUEST__INIT;
    struct mfx_op op;

    (void)state;
    mfx_script(fx, SRV_STALL, 64);
    msg.path = tarn_wire_bytes("/d/one", 6);
    mfx_begin(fx, &op, TARN_RPC_resolve, &msg.base, 500);
    assert_int_equal(mfx_end(&op), -TARN_E_DEADLINE);
    mfx_op_fini(&op);
    for (unsigned i = 0; i < 400 && fx->master->busy > 1; i++)
        mfx_run_ms(fx, 5);
    assert_int_equal(fx->master->busy, 1); /* the question goes on */
    assert_int_equal(fx->master->name_waiters, 0);
    mfx_free(&fx);
}

static void test_status_tells(void **state)
{
    struct mfx *fx = start();
    Tarn__Wire__Empty msg = TARN__WIRE__EMPTY__INIT;
    const Tarn__Wire__StatusResponse *s;
    uint64_t id = 0, seq = 0;
    struct mfx_op op;

    (void)state;
    list_all(fx);
    assert_int_equal(session_open(fx, &id), 0);
    assert_int_equal(session_renew(fx, id, &seq), 0);
    mfx_script(fx, SRV_ERROR_500, 2);
    assert_true(mfx_resolve(fx, "/d/sub/two/x", NULL) < 0);
    tarn_clock_fake_advance(&fx->clock, MINUTE);
    assert_int_equal(mfx_resolve(fx, "/f", NULL), 0);
    mfx_begin(fx, &op, TARN_RPC_status, &msg.base, 20000);
    assert_int_equal(mfx_end(&op), 0);
    s = (const void *)op.req.resp;
    assert_int_equal(s->n_mounts, 1);
    assert_int_equal(s->mounts[0]->files, 4);
    assert_int_equal(s->mounts[0]->bytes, 310);
    assert_true(s->mounts[0]->complete);
    assert_string_equal(s->mounts[0]->ufs, "s3://bkt");
    assert_string_equal(s->mounts[0]->state, "down");
    assert_true(s->mounts[0]->error[0] != 0);
    assert_int_equal(s->mounts[0]->stale_answers, 1);
    assert_int_equal(s->n_workers, 1);
    assert_int_equal(s->workers[0]->id, 7);
    assert_int_equal(s->n_sessions, 1);
    assert_int_equal(s->n_reads, 3);
    assert_int_equal(s->reads[0]->bytes, 4711);
    mfx_op_fini(&op);
    mfx_free(&fx);
}

static int ask(struct mfx *fx, unsigned wait_ms, char *ret_text, size_t max)
{
    Tarn__Wire__StoreAskRequest msg = TARN__WIRE__STORE_ASK_REQUEST__INIT;
    struct mfx_op op;
    int rc;

    msg.id = 1;
    msg.wait_ms = wait_ms;
    mfx_begin(fx, &op, TARN_RPC_store_ask, &msg.base, 20000);
    rc = mfx_end(&op);
    ret_text[0] = 0;
    if (rc == 0)
        (void)snprintf(ret_text, max, "%s",
                       ((const Tarn__Wire__StoreAskResponse *)op.req.resp)->error_text);
    mfx_op_fini(&op);
    return rc;
}

static void test_the_store_is_asked_at_once(void **state)
{
    struct mfx *fx = start();
    char text[512];

    (void)state;
    assert_int_equal(ask(fx, 20000, text, sizeof(text)), 0);
    assert_string_equal(text, "");
    assert_int_equal(mfx_requests(fx), 1);
    mfx_script(fx, SRV_STALL, 64);
    assert_int_equal(ask(fx, 50, text, sizeof(text)), 0);
    assert_non_null(strstr(text, "no answer within 50ms"));
    assert_true(tarn_ufs_health(mattach_by_id(fx->master, 1)->ufs)->rc < 0);
    mfx_script(fx, SRV_DENY, 64);
    assert_int_equal(ask(fx, 20000, text, sizeof(text)), 0);
    assert_non_null(strstr(text, "403"));
    mfx_script(fx, SRV_OK, 0);
    assert_int_equal(ask(fx, 20000, text, sizeof(text)), 0);
    assert_string_equal(text, "");
    assert_int_equal(tarn_ufs_health(mattach_by_id(fx->master, 1)->ufs)->rc, 0);
    mfx_free(&fx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_changes_reach_a_session),
        cmocka_unit_test(test_a_session_ends_with_its_connection),
        cmocka_unit_test(test_du_counts),
        cmocka_unit_test(test_du_ends_when_its_caller_has_gone),
        cmocka_unit_test(test_du_is_shared_by_those_who_wait),
        cmocka_unit_test(test_du_whose_callers_leave),
        cmocka_unit_test(test_du_of_many_paths),
        cmocka_unit_test(test_resolve_ends_when_its_caller_has_gone),
        cmocka_unit_test(test_status_tells),
        cmocka_unit_test(test_the_store_is_asked_at_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
