/* SPDX-License-Identifier: Apache-2.0 */
/* The master is stopped at every moment: it ends, soon, and leaves nothing behind. */
#include "tests/unit/master/svc/msvc_fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define ROOT TARN_INO_ROOT.v
#define OPS  26u

static uint8_t body[64];
static char many_keys[1500][24];
static struct srv_object many[1502];

static int setup(void **state)
{
    (void)state;
    many[0] = (struct srv_object){"d/e/f", "e", NULL, body, 1};
    many[1] = (struct srv_object){"f", "e", NULL, body, 1};
    for (unsigned i = 0; i < 1500; i++) {
        (void)snprintf(many_keys[i], sizeof(many_keys[i]), "n%06u", i);
        many[i + 2] = (struct srv_object){many_keys[i], "e", NULL, body, 1 + i % 50};
    }
    return 0;
}

static void begin_path(struct mfx *fx, struct mfx_op *op, uint32_t method, const char *path)
{
    Tarn__Wire__ResolveRequest resolve = TARN__WIRE__RESOLVE_REQUEST__INIT;
    Tarn__Wire__DuRequest du = TARN__WIRE__DU_REQUEST__INIT;

    resolve.path = du.path = tarn_wire_bytes(path, strlen(path));
    mfx_begin(fx, op, method, method == TARN_RPC_du ? &du.base : &resolve.base, 20000);
}

static void begin_readdir(struct mfx *fx, struct mfx_op *op, unsigned timeout_ms)
{
    Tarn__Wire__ReaddirRequest msg = TARN__WIRE__READDIR_REQUEST__INIT;

    msg.ino = ROOT;
    msg.max_entries = 1000;
    mfx_begin(fx, op, TARN_RPC_readdir, &msg.base, timeout_ms);
}

/* Everything that can wait. */
static void begin_all(struct mfx *fx, struct mfx_op *ops)
{
    Tarn__Wire__Empty empty = TARN__WIRE__EMPTY__INIT;
    Tarn__Wire__SessionRequest session = TARN__WIRE__SESSION_REQUEST__INIT;
    Tarn__Wire__StoreAskRequest ask = TARN__WIRE__STORE_ASK_REQUEST__INIT;
    unsigned n = 0;

    ask.id = 1;
    ask.wait_ms = 20000;
    mfx_begin(fx, &ops[n++], TARN_RPC_session_open, &session.base, 20000);
    begin_readdir(fx, &ops[n++], 20000);
    begin_readdir(fx, &ops[n++], 4);
    for (unsigned i = 0; i < 10; i++) {
        char name[16];

        (void)snprintf(name, sizeof(name), i % 2 ? "nope%u" : "n%06u", i);
        mfx_begin_lookup(fx, &ops[n++], ROOT, name, i == 3 ? 3 : 20000);
    }
    begin_path(fx, &ops[n++], TARN_RPC_resolve, "/d/e/f");
    begin_path(fx, &ops[n++], TARN_RPC_resolve, "/d/e/nope");
    begin_path(fx, &ops[n++], TARN_RPC_du, "/");
    begin_path(fx, &ops[n++], TARN_RPC_du, "/d/e/f");
    begin_path(fx, &ops[n++], TARN_RPC_du, "/n000001");
    for (unsigned i = 0; i < 5; i++) /* these wait for their turn */
        begin_path(fx, &ops[n++], TARN_RPC_du, i % 2 ? "/" : i == 4 ? "/n000003" : "/d");
    mfx_begin(fx, &ops[n++], TARN_RPC_status, &empty.base, 20000);
    mfx_begin(fx, &ops[n++], TARN_RPC_store_ask, &ask.base, 20000);
    begin_readdir(fx, &ops[n++], 20000);
    assert_int_equal(n, OPS);
}

static void halt_soon(struct mfx *fx)
{
    uint64_t begun = tarn_now_ns();

    mfx_halt(fx);
    assert_true(tarn_now_ns() - begun < 5 * TARN_NS_PER_S);
}

static void end_all(struct mfx *fx, struct mfx_op *ops)
{
    for (unsigned i = 0; i < OPS; i++)
        if (ops[i].done)
            mfx_op_fini(&ops[i]);
    mfx_close(fx); /* ends the rest */
    for (unsigned i = 0; i < OPS; i++) {
        assert_true(ops[i].done);
        mfx_op_fini(&ops[i]);
    }
}

static void run_us(struct mfx *fx, unsigned us)
{
    uint64_t until = tarn_now_ns() + us * 1000ull;

    while (tarn_now_ns() < until)
        mfx_run_ms(fx, 0);
}

static void stop_after(struct mfx *fx, unsigned us)
{
    struct mfx_op ops[OPS];

    begin_all(fx, ops);
    run_us(fx, us);
    halt_soon(fx);
    end_all(fx, ops);
}

static void test_stop_with_an_object_store(void **state)
{
    (void)state;
    for (unsigned k = 0; k < 40; k++) {
        struct mfx *fx = mfx_new(many, TARN_ARRAY_LEN(many));

        mfx_start(fx);
        srv_delay_ms(fx->srv, k % 4);
        fx->hold = k % 3 == 0;
        stop_after(fx, k * 500);
        mfx_free(&fx);
    }
}

static void test_stop_with_a_failing_store(void **state)
{
    static const enum srv_action actions[] = {SRV_STALL, SRV_ERROR_500, SRV_CLOSE, SRV_BAD_XML};

    (void)state;
    for (unsigned k = 0; k < 16; k++) {
        struct mfx *fx = mfx_new(many, TARN_ARRAY_LEN(many));

        fx->probe_ns = TARN_NS_PER_MS;
        mfx_start(fx);
        mfx_script(fx, actions[k % 4], 64);
        stop_after(fx, k * 1000);
        mfx_free(&fx);
    }
}

static void test_stop_with_old_metadata(void **state)
{
    (void)state;
    for (unsigned k = 0; k < 16; k++) {
        struct mfx *fx = mfx_new(many, TARN_ARRAY_LEN(many));
        struct mfx_dir dir;

        fx->probe_ns = TARN_NS_PER_MS;
        fx->refresh_wait_ns = 3 * TARN_NS_PER_MS;
        mfx_start(fx);
        assert_int_equal(mfx_readdir(fx, ROOT, 1000, &dir), 0);
        mfx_dir_fini(&dir);
        tarn_clock_fake_advance(&fx->clock, 61 * TARN_NS_PER_S);
        mfx_script(fx, k % 2 ? SRV_STALL : SRV_OK, 64);
        stop_after(fx, k * 500);
        mfx_free(&fx);
    }
}

static void test_stop_with_a_directory(void **state)
{
    (void)state;
    for (unsigned k = 0; k < 20; k++) {
        struct mfx *fx = mfx_new(NULL, 0);
        char path[256];

        (void)snprintf(path, sizeof(path), "%s/d", fx->dir);
        assert_int_equal(mkdir(path, 0755), 0);
        for (unsigned i = 0; i < 30; i++) {
            char name[16];

            (void)snprintf(name, sizeof(name), "n%06u", i);
            fx_write(fx->dir, name, "x", 1);
        }
        mfx_start(fx);
        stop_after(fx, k * 100);
        mfx_free(&fx);
    }
}

/* The client goes first, and the master is stopped without anybody who listens. */
static void test_stop_without_clients(void **state)
{
    (void)state;
    for (unsigned k = 0; k < 10; k++) {
        struct mfx *fx = mfx_new(many, TARN_ARRAY_LEN(many));
        struct mfx_op ops[OPS];

        mfx_start(fx);
        srv_delay_ms(fx->srv, 2);
        begin_all(fx, ops);
        run_us(fx, k * 1000);
        if (fx->session)
            tarn_rpc_session_close(fx->session);
        run_us(fx, k % 3 * 1000);
        halt_soon(fx);
        end_all(fx, ops);
        mfx_free(&fx);
    }
}

/* ---- reports that end when they are told to -------------------------------------------------- */

struct ending {
    struct mreport report;
    struct tarn_rpc_call call;
    struct ending *with; /* ends with it; NULL: none */
    unsigned *ended;
};

static void ending_end(struct ending *e)
{
    tarn_list_del(&e->report.node);
    (*e->ended)++;
    free(e);
}

static void ending_cancel(struct mreport *r)
{
    struct ending *e = TARN_CONTAINER(r, struct ending, report);

    assert_true(r->cancelled);
    assert_null(e->call.on_cancel);
    if (e->with)
        ending_end(e->with);
    ending_end(e);
}

static struct ending *ending_new(struct mfx *fx, unsigned *ended)
{
    struct ending *e = tarn_xnew(struct ending);

    e->report = (struct mreport){.master = fx->master, .call = &e->call, .cancel = ending_cancel};
    e->ended = ended;
    tarn_list_push(&fx->master->reports, &e->report.node);
    return e;
}

/* Each is told once, and those that it takes along are not told at all. */
static void test_stop_ends_reports_at_once(void **state)
{
    struct mfx *fx = mfx_new(many, 2);
    struct ending *e[6];
    unsigned ended = 0;

    (void)state;
    mfx_start(fx);
    for (size_t i = 0; i < TARN_ARRAY_LEN(e); i++)
        e[i] = ending_new(fx, &ended);
    e[0]->with = e[1];
    e[3]->with = e[5];
    mreport_stop_all(fx->master);
    assert_int_equal(ended, TARN_ARRAY_LEN(e));
    assert_true(tarn_list_empty(&fx->master->reports));
    mfx_free(&fx);
}

/* ---- attach
 * ------------------------------------------------------------------------------------ */

struct attaching {
    struct mfx *fx;
    bool attached, stopped;
    int rc;
};

static void attach_cb(void *arg, int rc, const struct tarn_errbuf *err)
{
    struct attaching *a = arg;

    (void)err;
    assert_false(a->stopped);
    a->attached = true;
    a->rc = rc;
}

static void stop_cb(void *arg)
{
    struct attaching *a = arg;

    a->stopped = true;
    mfx_done(a->fx);
}

static void test_stop_while_attaching(void **state)
{
    (void)state;
    for (unsigned k = 0; k < 30; k++) {
        struct mfx *fx = mfx_new(many, TARN_ARRAY_LEN(many));
        struct tarn_master_attach at = {.path = "/",
                                        .uri = fx->uri,
                                        .opts = &fx->opts,
                                        .ttl_ns = fx->ttl_ns,
                                        .check = k % 5 != 0,
                                        .check_timeout_ns = 8 * TARN_NS_PER_S};
        struct attaching a = {.fx = fx};
        uint64_t begun;

        if (k % 3 == 0)
            mfx_script(fx, SRV_STALL, 64);
        mfx_open(fx);
        tarn_master_attach(fx->master, &at, attach_cb, &a);
        run_us(fx, k * 200);
        begun = tarn_now_ns();
        tarn_master_stop(fx->master, stop_cb, &a);
        mfx_wait(fx);
        assert_true(a.attached && a.stopped);
        assert_true(tarn_now_ns() - begun < 5 * TARN_NS_PER_S);
        mfx_close(fx);
        mfx_free(&fx);
    }
}

static void test_an_attach_that_fails(void **state)
{
    struct mfx *fx = mfx_new(many, TARN_ARRAY_LEN(many));

    (void)state;
    mfx_open(fx);
    mfx_script(fx, SRV_STALL, 64);
    assert_int_equal(mfx_attach(fx, true, 50 * TARN_NS_PER_MS), -TARN_E_UFS_STALLED);
    mfx_script(fx, SRV_BAD_KEY, 64);
    assert_int_equal(mfx_attach(fx, true, 8 * TARN_NS_PER_S), -TARN_E_UFS_SIGNATURE);
    mfx_script(fx, SRV_OK, 0);
    assert_int_equal(mfx_attach(fx, true, 8 * TARN_NS_PER_S), 0);
    mfx_halt(fx);
    mfx_close(fx);
    (void)snprintf(fx->uri, sizeof(fx->uri), "s3://other");
    mfx_open(fx);
    assert_int_equal(mfx_attach(fx, true, 8 * TARN_NS_PER_S), -TARN_E_DIR_FOREIGN);
    mfx_free(&fx);
}

/* What a directory without a time of its own shows is no other time after a restart. */
static void test_an_attach_keeps_its_first_time(void **state)
{
    struct mfx *fx = mfx_new(many, TARN_ARRAY_LEN(many));
    int64_t since_ns;

    (void)state;
    mfx_start(fx);
    since_ns = mattach_by_id(fx->master, 1)->since_ns;
    assert_int_equal(since_ns, fx->clock.real);
    for (int i = 0; i < 2; i++) {
        mfx_stop(fx);
        tarn_clock_fake_advance(&fx->clock, 3600 * TARN_NS_PER_S);
        mfx_start(fx);
        assert_int_equal(mattach_by_id(fx->master, 1)->since_ns, since_ns);
    }
    mfx_stop(fx);
    mfx_free(&fx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stop_with_an_object_store),
        cmocka_unit_test(test_stop_with_a_failing_store),
        cmocka_unit_test(test_stop_with_old_metadata),
        cmocka_unit_test(test_stop_with_a_directory),
        cmocka_unit_test(test_stop_without_clients),
        cmocka_unit_test(test_stop_ends_reports_at_once),
        cmocka_unit_test(test_stop_while_attaching),
        cmocka_unit_test(test_an_attach_that_fails),
        cmocka_unit_test(test_an_attach_keeps_its_first_time),
    };

    return cmocka_run_group_tests(tests, setup, NULL);
}
