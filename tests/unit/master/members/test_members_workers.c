/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The master and real workers, on one loop over TCP: they register, hand over what others own, are
 * drained, removed and started anew, and the master goes and comes back; meanwhile the store is
 * asked for nothing that one of them has.
 */
#include "tests/unit/worker/cluster_rig.h"

#include <stdio.h>
#include <string.h>

#include "master/members_priv.h"
#include "worker/member.h"
#include "worker/stores.h"

#define SIDES   3u
#define SIZE    (5 * MIB)
#define TURN_NS (10 * TARN_NS_PER_MS)
#define TURNS   3000u

/* A worker's side. */
struct side {
    struct tarn_rpc_client *client;
    struct tarn_stores *stores;
    struct tarn_member *member; /* NULL: stopped */
    unsigned first, refused;
    int rc, refused_rc;
};

struct both {
    struct cluster c;
    struct tarn_kv_mem_disk disk;
    struct tarn_kv *kv;
    struct tarn_master *master;
    struct tarn_rpc_server *server;
    char addr[64]; /* of the server, kept over its restart */
    struct side s[SIDES];
};

#define UNTIL(b, cond)                                                                             \
    do {                                                                                           \
        for (unsigned turn_ = 0; !(cond); turn_++) {                                               \
            if (turn_ == TURNS)                                                                    \
                fail_msg("never: %s", #cond);                                                      \
            turns_for((b)->c.loop, TURN_NS);                                                       \
        }                                                                                          \
    } while (0)

static void ended(void *arg)
{
    ++*(unsigned *)arg;
}

/* ---- the master ------------------------------------------------------------------------------ */

static void master_gone(void *ctx, struct tarn_rpc_session *s)
{
    struct both *b = ctx;

    if (b->master)
        tarn_master_session_gone(b->master, s);
}

/* The rig's workers belong to a cluster of that name. */
static void master_init_kv(struct both *b)
{
    Tarn__Core__Entry e = TARN__CORE__ENTRY__INIT;
    Tarn__Core__Init init;
    struct tarn_kv_batch *batch = tarn_kv_batch_new(b->kv);
    struct tarn_core_result result = {0};
    struct tarn_str entry = {0};

    tarn__core__init__init(&init);
    init.cluster_id = tarn_wire_text(RIG_TEXT);
    e.init = &init;
    assert_int_equal(tarn_core_entry_encode(&e, &entry), 0);
    assert_int_equal(tarn_core_apply(b->kv, batch, 1, (const uint8_t *)entry.p, entry.len, &result),
                     0);
    assert_int_equal(result.rc, 0);
    assert_int_equal(tarn_kv_write(b->kv, batch, true), 0);
    tarn_kv_batch_free(&batch);
    tarn_core_result_fini(&result);
    tarn_str_fini(&entry);
}

static void master_start(struct both *b)
{
    struct tarn_master_args args = {.loop = b->c.loop,
                                    .clock = tarn_clock_system(),
                                    .rng = tarn_rng_system(),
                                    .cluster = true,
                                    .lease_ns = 3 * TARN_NS_PER_S};
    struct tarn_rpc_server_args sargs = {.loop = b->c.loop,
                                         .rng = tarn_rng_system(),
                                         .cluster_id = RIG_TEXT,
                                         .ctx = b,
                                         .on_gone = master_gone};
    struct tarn_errbuf err = {0};
    uint64_t applied = 0;
    const char *addr;

    b->kv = tarn_kv_mem_open(&b->disk, TARN_CF_COUNT);
    assert_int_equal(tarn_core_applied_index(b->kv, &applied), 0);
    if (applied == 0)
        master_init_kv(b);
    args.kv = b->kv;
    assert_int_equal(tarn_master_new(&args, &err, &b->master), 0);
    assert_int_equal(tarn_rpc_server_new(&sargs, &b->server), 0);
    tarn_master_serve(b->master, b->server);
    assert_int_equal(tarn_rpc_server_listen(b->server, b->addr[0] ? b->addr : "127.0.0.1:0", &addr),
                     0);
    (void)snprintf(b->addr, sizeof(b->addr), "%s", addr);
}

static void master_stop(struct both *b)
{
    unsigned done = 0;

    tarn_master_stop(b->master, ended, &done);
    turns_until(b->c.loop, &done, 1);
    tarn_rpc_server_stop(b->server, ended, &done);
    turns_until(b->c.loop, &done, 2);
    tarn_rpc_server_free(&b->server);
    tarn_master_free(&b->master);
    tarn_kv_close(&b->kv);
}

/* ---- workers --------------------------------------------------------------------------------- */

static void side_notice(void *ctx, uint32_t method, const ProtobufCMessage *msg)
{
    struct side *s = ctx;

    if (s->member)
        tarn_member_notice(s->member, method, msg);
}

static void side_state(void *ctx, bool connected, int rc)
{
    struct side *s = ctx;

    if (s->member)
        tarn_member_state(s->member, connected, rc);
}

static void side_first(void *arg, int rc, const struct tarn_errbuf *err)
{
    struct side *s = arg;

    (void)err;
    s->rc = rc;
    s->first++;
}

static void side_refused(void *ctx, int rc, const struct tarn_errbuf *err)
{
    struct side *s = ctx;

    (void)err;
    s->refused_rc = rc;
    s->refused++;
}

static void side_start(struct both *b, unsigned i)
{
    struct side *s = &b->s[i];
    struct node *n = &b->c.nodes[i];
    struct tarn_rpc_client_args cargs = {.loop = b->c.loop,
                                         .rng = tarn_rng_system(),
                                         .ctx = s,
                                         .addrs = b->addr,
                                         .on_notice = side_notice,
                                         .on_state = side_state};
    struct tarn_member_args args = {.loop = b->c.loop,
                                    .rng = tarn_rng_system(),
                                    .worker = n->rig.worker,
                                    .tier = n->rig.tier,
                                    .peers = n->peers,
                                    .addr = n->addr,
                                    .host = "here",
                                    .ctx = s,
                                    .on_refused = side_refused};

    *s = (struct side){0};
    assert_int_equal(tarn_rpc_client_new(&cargs, &s->client), 0);
    s->stores = tarn_stores_new(b->c.loop, b->c.disk);
    args.master = s->client;
    args.stores = s->stores;
    s->member = tarn_member_new(&args);
    tarn_member_start(s->member, side_first, s);
    turns_until(b->c.loop, &s->first, 1);
    assert_int_equal(s->rc, 0);
    assert_int_equal(tarn_member_id(s->member), i + 1);
}

static void side_stop(struct both *b, unsigned i)
{
    struct side *s = &b->s[i];
    unsigned done = 0;

    tarn_member_stop(s->member, ended, &done);
    turns_until(b->c.loop, &done, 1);
    tarn_member_free(&s->member);
    tarn_stores_stop(s->stores, ended, &done);
    turns_until(b->c.loop, &done, 2);
    tarn_stores_free(&s->stores);
    tarn_rpc_client_stop(s->client, ended, &done);
    turns_until(b->c.loop, &done, 3);
    tarn_rpc_client_free(&s->client);
}

static const struct tarn_place *placed(struct both *b)
{
    return tarn_peers_place(b->master->peers);
}

/* Nothing is left to be handed over, and everybody knows. */
static bool settled(struct both *b)
{
    for (unsigned i = 0; i < SIDES; i++)
        if (b->s[i].member && tarn_place_version(tarn_peers_place(b->c.nodes[i].peers)) !=
                                  tarn_place_version(placed(b)))
            return false;
    return tarn_place_settled(placed(b));
}

static bool alive(struct both *b, uint64_t id)
{
    const struct tarn_place_worker *w = tarn_place_find(placed(b), id);

    return w && w->alive;
}

/* ---- calls ----------------------------------------------------------------------------------- */

struct admin {
    struct tarn_rpc_req req;
    unsigned done;
    int rc;
    uint64_t left_bytes;
};

static void admin_done(struct tarn_rpc_req *req, int rc)
{
    struct admin *a = req->arg;
    const Tarn__Wire__WorkerAdminResponse *resp =
        (const Tarn__Wire__WorkerAdminResponse *)req->resp;

    a->rc = rc;
    a->left_bytes = resp ? resp->left_bytes : 0;
    a->done = 1;
}

static int admin(struct both *b, uint32_t method, uint64_t id, uint64_t *ret_left)
{
    Tarn__Wire__WorkerAdmin msg = TARN__WIRE__WORKER_ADMIN__INIT;
    struct admin a = {.req = {.method = method, .msg = &msg.base, .cb = admin_done}};

    msg.id = id;
    a.req.arg = &a;
    tarn_rpc_start(b->s[0].client, &a.req);
    turns_until(b->c.loop, &a.done, 1);
    if (ret_left)
        *ret_left = a.left_bytes;
    return a.rc;
}

/* ---- stories --------------------------------------------------------------------------------- */

static void both_start(struct both *b)
{
    memset(b, 0, sizeof(*b));
    cl_init(&b->c, SIDES, SIZE, 0);
    master_start(b);
    for (unsigned i = 0; i < SIDES; i++)
        side_start(b, i);
    UNTIL(b, settled(b));
}

static void both_stop(struct both *b)
{
    for (unsigned i = 0; i < SIDES; i++)
        side_stop(b, i);
    master_stop(b);
    cl_fini(&b->c);
    tarn_kv_mem_disk_fini(&b->disk);
}

/* One object per worker, each in its owner's tier. */
static void fill(struct both *b, struct obj o[SIDES])
{
    for (unsigned i = 0; i < SIDES; i++) {
        cl_object(&b->c, i, 0, &o[i]);
        rig_read_all(&b->c.nodes[i].rig, &o[i], MIB);
    }
    cl_stored(&b->c);
    for (unsigned i = 0; i < SIDES; i++)
        assert_int_equal(cl_cached(&b->c, i, &o[i]), SIZE);
    cl_forget(&b->c);
}

static void test_drained_and_anew(void **state)
{
    static struct both b;
    struct obj o[SIDES];
    uint64_t left = 0;

    (void)state;
    both_start(&b);
    fill(&b, o);
    UNTIL(&b, admin(&b, TARN_RPC_worker_remove, 3, &left) == -TARN_E_NOT_DRAINED && left == SIZE);
    assert_int_equal(admin(&b, TARN_RPC_worker_drain, 3, NULL), 0);
    UNTIL(&b, admin(&b, TARN_RPC_worker_remove, 3, NULL) == 0);
    assert_int_equal(cl_cached(&b.c, 0, &o[2]) + cl_cached(&b.c, 1, &o[2]), SIZE);
    UNTIL(&b, b.s[2].refused == 1); /* it is told that it may end */
    assert_int_equal(b.s[2].refused_rc, -TARN_E_UNKNOWN_WORKER);
    side_stop(&b, 2);
    UNTIL(&b, settled(&b) && !tarn_place_find(placed(&b), 3));
    side_start(&b, 2); /* it owns what it did, and has it, or asks those who took it */
    assert_int_equal(tarn_place_find(placed(&b), 3)->state, TARN_WORKER_LIVE);
    for (unsigned i = 0; i < SIDES; i++)
        rig_read_all(&b.c.nodes[i].rig, &o[i], MIB);
    UNTIL(&b, settled(&b));
    for (unsigned i = 0; i < SIDES; i++)
        rig_read_all(&b.c.nodes[i].rig, &o[i], MIB);
    assert_int_equal(cl_gets(&b.c), 0);
    both_stop(&b);
}

static void test_restarts(void **state)
{
    static struct both b;
    struct obj o[SIDES];

    (void)state;
    both_start(&b);
    fill(&b, o);
    master_stop(&b);
    turns_for(b.c.loop, 300 * TARN_NS_PER_MS);
    for (unsigned i = 0; i < SIDES; i++)
        rig_read_all(&b.c.nodes[i].rig, &o[i], MIB); /* nobody needs a master for that */
    master_start(&b);
    for (uint64_t id = 1; id <= SIDES; id++)
        UNTIL(&b, alive(&b, id)); /* by themselves */
    UNTIL(&b, settled(&b));
    side_stop(&b, 1);
    UNTIL(&b, !alive(&b, 2));
    side_start(&b, 1);
    assert_true(alive(&b, 2));
    UNTIL(&b, settled(&b));
    for (unsigned i = 0; i < SIDES; i++)
        rig_read_all(&b.c.nodes[i].rig, &o[i], MIB);
    assert_int_equal(cl_gets(&b.c), 0);
    both_stop(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_drained_and_anew),
        cmocka_unit_test(test_restarts),
    };

    return cmocka_run_group_tests_name("members and workers", tests, NULL, NULL);
}
