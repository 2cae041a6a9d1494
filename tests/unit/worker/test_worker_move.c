/* SPDX-License-Identifier: Apache-2.0 */
/* Handing over: what take accepts, and the walk that offers what others own. */
#include "tests/unit/worker/cluster_rig.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/fault.h"
#include "lib/base/hash.h"

#define FIVE (5 * MIB) /* two groups */

static void node_fill(struct cluster *c, unsigned i, struct obj *o)
{
    for (uint64_t off = 0; off < o->version.size; off += 4 * MIB)
        assert_int_equal(rig_read(&c->nodes[i].rig, o, off, MIB), 0);
    rig_stored(&c->nodes[i].rig);
    assert_int_equal(cl_cached(c, i, o), o->version.size);
}

/* ---- take -------------------------------------------------------------------------------------
 */

struct offer {
    Tarn__Wire__TakeRequest msg;
    uint64_t sums[TARN_GROUP_GRANULES];
    struct tarn_buf *buf;
};

/* Group `group` of an object of five MiB. */
static void offer_init(struct offer *f, struct obj *o, uint32_t group)
{
    uint32_t len = wgroup_len(o->version.size, group), n = 0;

    *f = (struct offer){.buf = tarn_buf_new(len)};
    tarn__wire__take_request__init(&f->msg);
    pattern_fill(1, (uint64_t)group * TARN_UNIT_BYTES, f->buf->p, len);
    f->buf->len = len;
    for (uint32_t at = 0; at < len; at += TARN_GRANULE_BYTES)
        f->sums[n++] = tarn_xxh3(f->buf->p + at, TARN_MIN(TARN_GRANULE_BYTES, len - at));
    f->msg.cid = tarn_wire_bytes(o->cid.b, sizeof(o->cid.b));
    f->msg.length = o->version.size;
    f->msg.group = group;
    f->msg.granules = ~0ull >> (64 - n);
    f->msg.n_sums = n;
    f->msg.sums = f->sums;
    f->msg.level = TARN_VERIFIED_ETAG;
}

/* The code, or 'k'ept, 'h'ad, 'u'seless, '-'. */
static int offer(struct cluster *c, unsigned to, const char *principal, struct offer *f, bool bytes)
{
    struct cl_call call;
    int rc = cl_call(c, &call, to, principal, TARN_RPC_take, &f->msg.base, bytes ? f->buf : NULL);
    const Tarn__Wire__TakeResponse *resp = (const Tarn__Wire__TakeResponse *)call.req.resp;

    if (rc == 0)
        rc = resp->kept ? 'k' : resp->had ? 'h' : resp->useless ? 'u' : '-';
    cl_call_fini(c, &call);
    return rc;
}

static void take_refuses(void **state)
{
    struct cluster c;
    struct offer f;
    struct obj o;

    (void)state;
    cl_init(&c, 1, FIVE, 0);
    cl_settled(&c);
    cl_object(&c, 0, 0, &o);
    cl_forget(&c);
    offer_init(&f, &o, 1);
    assert_int_equal(offer(&c, 0, "client", &f, true), -TARN_E_CAP_BAD); /* it could plant bytes */
    f.sums[3] ^= 1;
    assert_int_equal(offer(&c, 0, "worker", &f, true), -TARN_E_GRANULE_SUM);
    f.sums[3] ^= 1;
    f.buf->p[70000] ^= 1;
    assert_int_equal(offer(&c, 0, "worker", &f, true), -TARN_E_GRANULE_SUM);
    f.buf->p[70000] ^= 1;
    f.buf->len--;
    assert_int_equal(offer(&c, 0, "worker", &f, true), -TARN_E_MSG_BAD);
    f.buf->len++;
    f.msg.granules >>= 1;
    assert_int_equal(offer(&c, 0, "worker", &f, true), -TARN_E_MSG_BAD);
    f.msg.granules = f.msg.granules << 1 | 1;
    f.msg.group = 2;
    assert_int_equal(offer(&c, 0, "worker", &f, true), -TARN_E_MSG_BAD);
    f.msg.group = 1;
    f.msg.level = 9;
    assert_int_equal(offer(&c, 0, "worker", &f, true), -TARN_E_MSG_BAD);
    f.msg.level = TARN_VERIFIED_ETAG;
    f.msg.length = 0;
    assert_int_equal(offer(&c, 0, "worker", &f, true), -TARN_E_MSG_BAD);
    f.msg.length = UINT64_MAX;
    assert_int_equal(offer(&c, 0, "worker", &f, false), -TARN_E_MSG_BAD);
    f.msg.length = o.version.size;
    assert_int_equal(cl_cached(&c, 0, &o), 0);
    assert_int_equal(offer(&c, 0, "worker", &f, false), '-'); /* it is wanted */
    assert_int_equal(offer(&c, 0, "worker", &f, true), 'k');
    assert_int_equal(cl_cached(&c, 0, &o), MIB);
    assert_int_equal(offer(&c, 0, "worker", &f, true), 'h');
    assert_int_equal(offer(&c, 0, "worker", &f, false), 'h');
    f.msg.tag = 77; /* of the bytes under another ETag */
    assert_int_equal(offer(&c, 0, "worker", &f, false), 'h');
    f.msg.group = 0;
    assert_int_equal(offer(&c, 0, "worker", &f, false), 'u');
    assert_int_equal(rig_read(&c.nodes[0].rig, &o, 4 * MIB, MIB), 0);
    assert_int_equal(cl_gets(&c), 0);
    tarn_buf_unref(&f.buf);
    cl_fini(&c);
}

/* What is handed over takes room from nothing that is there. */
static void take_without_room(void **state)
{
    struct tarn_tier_info info;
    struct cluster c;
    struct offer f;
    struct obj o;
    unsigned kept = 0;

    (void)state;
    cl_init(&c, 1, FIVE, 64 * MIB);
    cl_settled(&c);
    cl_object(&c, 0, 0, &o);
    node_fill(&c, 0, &o);
    for (unsigned i = 1; i < CL_OBJECTS; i++) {
        struct obj p;
        int rc;

        cl_object(&c, 0, i, &p);
        offer_init(&f, &p, 0);
        rc = offer(&c, 0, "worker", &f, true);
        assert_true(rc == 'k' || rc == '-');
        assert_true(rc == '-' || kept == i - 1); /* from some moment on there is none */
        kept += rc == 'k';
        tarn_buf_unref(&f.buf);
    }
    assert_in_range(kept, 8, 14);
    assert_int_equal(cl_cached(&c, 0, &o), FIVE);
    tarn_tier_info(c.nodes[0].rig.tier, &info);
    assert_int_equal(info.evicted_bytes, 0);
    assert_true(info.used_bytes <= info.capacity_bytes / 100 * 95);
    cl_fini(&c);
}

/* ---- the walk ---------------------------------------------------------------------------------
 */

static void until_settled(struct cluster *c, unsigned i)
{
    struct tarn_move_counts counts;

    for (;;) {
        tarn_move_counts(c->nodes[i].move, &counts);
        if (counts.settled)
            return;
        turns_for(c->loop, 5 * TARN_NS_PER_MS);
    }
}

/* A second worker comes: it gets its share, and the first one drops it. */
static void share(void **state)
{
    const uint64_t linger = 1500 * TARN_NS_PER_MS; /* longer than a busy machine takes to look */
    struct tarn_move_counts counts;
    struct cluster c;
    struct obj mine, yours;

    (void)state;
    cl_init(&c, 2, FIVE, 0);
    tarn_move_set_linger(c.nodes[0].move, linger);
    cl_settled(&c);
    cl_object(&c, 0, 0, &mine);
    cl_object(&c, 1, 0, &yours);
    c.nodes[1].state = 0;
    cl_topology(&c, 0, 1);
    node_fill(&c, 0, &mine);
    node_fill(&c, 0, &yours);
    cl_forget(&c);
    c.nodes[1].state = TARN_WORKER_LIVE;
    c.nodes[0].was = true;
    cl_topology(&c, 0, 1);
    tarn_move_topology(c.nodes[0].move);
    tarn_move_topology(c.nodes[1].move);
    tarn_move_counts(c.nodes[0].move, &counts);
    assert_false(counts.settled);
    until_settled(&c, 0);
    until_settled(&c, 1);
    tarn_move_counts(c.nodes[0].move, &counts);
    assert_int_equal(counts.version, c.version);
    assert_int_equal(counts.moved_bytes, FIVE);
    assert_int_equal(counts.left_bytes, 0);
    assert_int_equal(cl_cached(&c, 0, &yours), FIVE); /* for those that have not heard of it */
    rig_run_for(&c.nodes[0].rig, linger + 50 * TARN_NS_PER_MS);
    assert_int_equal(cl_cached(&c, 0, &yours), 0);
    assert_int_equal(cl_cached(&c, 0, &mine), FIVE);
    assert_int_equal(cl_cached(&c, 1, &yours), FIVE);
    assert_int_equal(rig_read(&c.nodes[1].rig, &yours, 0, MIB), 0);
    assert_int_equal(rig_read(&c.nodes[1].rig, &yours, 4 * MIB, MIB), 0);
    assert_int_equal(cl_gets(&c), 0);
    cl_fini(&c);
}

/* What was handed over to and fro, and must then go to a third that does not answer, stays. */
static void back_and_forth(void **state)
{
    struct cluster c;
    struct obj o;

    (void)state;
    cl_init(&c, 3, FIVE, 0);
    c.nodes[2].dead = true;
    cl_topology(&c, 0, 1);
    cl_object(&c, 0, 0, &o);
    node_fill(&c, 0, &o);
    cl_forget(&c);
    for (unsigned step = 0; step < 3; step++) {
        c.nodes[0].state = step == 1 ? TARN_WORKER_LIVE : TARN_WORKER_DRAINING;
        c.nodes[1].state = step == 0 ? TARN_WORKER_LIVE : TARN_WORKER_DRAINING;
        c.nodes[2].state = step == 2 ? TARN_WORKER_LIVE : TARN_WORKER_DRAINING;
        cl_topology(&c, 0, 1);
        for (unsigned i = 0; i < 2; i++)
            tarn_move_topology(c.nodes[i].move);
        if (step == 2)
            turns_for(c.loop, 3 * CL_LINGER_NS);
        else
            until_settled(&c, step);
    }
    assert_true(cl_cached(&c, 0, &o) == FIVE || cl_cached(&c, 1, &o) == FIVE);
    assert_int_equal(cl_gets(&c), 0);
    cl_fini(&c);
}

/* One that drains hands over everything, at the rate, and keeps what is not taken. */
static void drains(void **state)
{
    struct tarn_move_counts counts;
    struct cluster c;
    struct obj o[2];
    uint64_t before;

    (void)state;
    cl_init(&c, 2, FIVE, 0);
    cl_settled(&c);
    for (unsigned i = 0; i < 2; i++) {
        cl_object(&c, 0, i, &o[i]);
        node_fill(&c, 0, &o[i]);
    }
    tarn_worker_set_copies(c.nodes[0].rig.worker, 2, 0); /* not of one that goes */
    c.nodes[0].state = TARN_WORKER_DRAINING;
    c.nodes[1].dead = true;
    cl_topology(&c, 0, 1);
    tarn_move_set_rate(c.nodes[0].move, 8 * MIB);
    tarn_move_topology(c.nodes[0].move);
    turns_for(c.loop, 100 * TARN_NS_PER_MS);
    tarn_move_counts(c.nodes[0].move, &counts);
    assert_false(counts.settled);
    assert_int_equal(counts.left_bytes, 2 * FIVE);
    assert_int_equal(cl_cached(&c, 0, &o[0]), FIVE);
    c.nodes[1].dead = false;
    cl_topology(&c, 0, 1);
    cl_forget(&c);
    before = tarn_now_ns();
    tarn_move_topology(c.nodes[0].move);
    until_settled(&c, 0);
    /* Ten MiB at eight a second, of which the last two groups need not be waited for. */
    assert_true(tarn_now_ns() - before > 200 * TARN_NS_PER_MS);
    tarn_move_counts(c.nodes[0].move, &counts);
    assert_int_equal(counts.moved_bytes, 2 * FIVE);
    rig_run_for(&c.nodes[0].rig, CL_LINGER_NS + 50 * TARN_NS_PER_MS);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(cl_cached(&c, 0, &o[i]), 0);
        assert_int_equal(cl_cached(&c, 1, &o[i]), FIVE);
        assert_int_equal(rig_read(&c.nodes[1].rig, &o[i], 0, MIB), 0);
    }
    assert_int_equal(cl_gets(&c), 0);
    cl_fini(&c);
}

/* No room there: it stays, and is left. */
static void no_room(void **state)
{
    struct tarn_move_counts counts;
    struct cluster c;
    struct obj o;

    (void)state;
    cl_init(&c, 2, FIVE, 0);
    cl_settled(&c);
    cl_object(&c, 0, 0, &o);
    node_fill(&c, 0, &o);
    tarn_tier_set_foreign(c.nodes[1].rig.tier, 255 * MIB);
    c.nodes[0].state = TARN_WORKER_DRAINING;
    cl_topology(&c, 0, 1);
    tarn_move_topology(c.nodes[0].move);
    turns_for(c.loop, 300 * TARN_NS_PER_MS);
    tarn_move_counts(c.nodes[0].move, &counts);
    assert_false(counts.settled);
    assert_int_equal(counts.left_bytes, FIVE);
    assert_int_equal(counts.moved_bytes, 0);
    assert_int_equal(cl_cached(&c, 0, &o), FIVE);
    tarn_tier_set_foreign(c.nodes[1].rig.tier, 0);
    until_settled(&c, 0); /* tried again by itself */
    assert_int_equal(cl_cached(&c, 1, &o), FIVE);
    cl_fini(&c);
}

/* A locator said two: who is the second keeps its copy, after a restart too, whatever one says who
 * only reads. Where nobody said so, the owner is given one, and the second keeps its own all the
 * same. */
static void replicas(void **state)
{
    struct tarn_tier_info info;
    struct cluster c;
    struct obj o, p;
    struct offer f;

    (void)state;
    cl_init(&c, 2, FIVE, 0);
    cl_settled(&c);
    cl_object(&c, 1, 0, &o);
    o.msg.replicas = 2;
    node_fill(&c, 0, &o);
    tarn_move_topology(c.nodes[0].move);
    until_settled(&c, 0);
    assert_int_equal(cl_cached(&c, 0, &o), FIVE);
    assert_int_equal(cl_cached(&c, 1, &o), 0);
    tarn_move_free(&c.nodes[0].move);
    cl_stop_server(&c, 0);
    rig_restart(&c.nodes[0].rig);
    cl_node_serve(&c, 0);
    cl_object(&c, 1, 1, &p);
    c.nodes[1].state = 0;
    cl_topology(&c, 0, 1);
    for (unsigned i = 0; i < 2; i++) {
        offer_init(&f, &p, i);
        assert_int_equal(offer(&c, 0, "worker", &f, true), 'k');
        tarn_buf_unref(&f.buf);
    }
    o.msg.replicas = p.msg.replicas = 1;
    assert_int_equal(rig_read(&c.nodes[0].rig, &o, 0, MIB), 0);
    assert_int_equal(rig_read(&c.nodes[0].rig, &p, 0, MIB), 0);
    cl_settled(&c);
    tarn_move_topology(c.nodes[0].move);
    until_settled(&c, 0);
    turns_for(c.loop, 2 * CL_LINGER_NS);
    assert_int_equal(cl_cached(&c, 0, &o), FIVE);
    assert_int_equal(cl_cached(&c, 1, &o), 0);
    assert_int_equal(cl_cached(&c, 0, &p), FIVE);
    assert_int_equal(cl_cached(&c, 1, &p), FIVE);
    tarn_tier_info(c.nodes[0].rig.tier, &info);
    assert_int_equal(info.copy_bytes, FIVE); /* of p alone */
    cl_fini(&c);
}

/* What was damaged on the disk is not handed over, and the rest of its file is. */
static void damaged(void **state)
{
    char hex[TARN_CID_HEX], *path;
    struct cluster c;
    struct obj o;
    int fd;

    (void)state;
    cl_init(&c, 2, FIVE, 0);
    cl_settled(&c);
    cl_object(&c, 0, 0, &o);
    node_fill(&c, 0, &o);
    (void)tarn_cid_text(&o.cid, hex);
    path = tarn_xasprintf("%s/tier/data/%.2s/%s", c.nodes[0].rig.dir, hex, hex);
    fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0 && pwrite(fd, "x", 1, 70000) == 1 && close(fd) == 0);
    free(path);
    c.nodes[0].state = TARN_WORKER_DRAINING;
    cl_topology(&c, 0, 1);
    tarn_move_topology(c.nodes[0].move);
    until_settled(&c, 0);
    assert_int_equal(cl_cached(&c, 1, &o), MIB);
    assert_int_equal(rig_read(&c.nodes[1].rig, &o, 0, MIB), 0);
    cl_fini(&c);
}

/* What cannot be read now is not handed over, and stays until it can. */
static void unreadable(void **state)
{
    static const int why[] = {-EMFILE, -TARN_E_NO_MEMORY};
    struct tarn_move_counts counts;
    struct cluster c;
    struct obj o;

    (void)state;
    for (unsigned i = 0; i < TARN_ARRAY_LEN(why); i++) {
        cl_init(&c, 2, FIVE, 0);
        cl_settled(&c);
        cl_object(&c, 0, 0, &o);
        node_fill(&c, 0, &o);
        tarn_fault_arm(TARN_FAULT_disk_read, 0, 2, why[i]);
        c.nodes[0].state = TARN_WORKER_DRAINING;
        cl_topology(&c, 0, 1);
        tarn_move_topology(c.nodes[0].move);
        turns_for(c.loop, 2 * CL_LINGER_NS);
        tarn_move_counts(c.nodes[0].move, &counts);
        assert_false(counts.settled);
        assert_int_equal(counts.left_bytes, FIVE);
        assert_int_equal(cl_cached(&c, 0, &o), FIVE);
        if (i == 0)
            until_settled(&c, 0); /* tried again by itself */
        assert_int_equal(cl_cached(&c, 1, &o), i == 0 ? FIVE : 0);
        tarn_fault_reset();
        cl_fini(&c);
    }
}

struct taker {
    unsigned asked, got; /* questions; groups with their bytes */
    uint64_t tag[2];     /* of those */
    uint32_t level[2];
};

static void taker_take(void *ctx, struct tarn_rpc_call *call)
{
    const Tarn__Wire__TakeRequest *req = (const Tarn__Wire__TakeRequest *)call->request;
    Tarn__Wire__TakeResponse resp = TARN__WIRE__TAKE_RESPONSE__INIT;
    struct taker *t = ctx;

    t->asked += !call->payload;
    if (call->payload) {
        assert_in_range(t->got, 0, 1);
        t->tag[t->got] = req->tag;
        t->level[t->got++] = req->level;
        resp.kept = true;
    }
    tarn_rpc_reply(call, 0, &resp.base, NULL, 0, 0);
}

static void dropped(struct tarn_tier_op *op, int rc)
{
    assert_int_equal(rc, 0);
    ++*(unsigned *)op->arg;
}

static void drop(struct cluster *c, unsigned i, struct obj *o)
{
    unsigned done = 0;
    struct tarn_tier_op op = {
        .file = tarn_tier_file_find(c->nodes[i].rig.tier, &o->cid), .cb = dropped, .arg = &done};

    assert_non_null(op.file);
    tarn_tier_drop(c->nodes[i].rig.tier, &op);
    turns_until(c->loop, &done, 1);
    tarn_tier_file_put(&op.file);
}

static void stopped(void *arg)
{
    ++*(unsigned *)arg;
}

/* Bytes go under the tag and the level that they had when they were read, whatever became of their
 * file while they waited for their turn. */
static void tag_of_the_bytes(void **state)
{
    struct tarn_rpc_server_args args = {.rng = tarn_rng_system(), .cluster_id = RIG_TEXT};
    struct tarn_rpc_server *server;
    struct taker t = {0};
    struct offer f[2];
    struct cluster c;
    unsigned gone = 0;
    const char *addr;
    struct obj o;

    (void)state;
    cl_init(&c, 2, FIVE, 0);
    cl_settled(&c);
    cl_object(&c, 0, 0, &o);
    for (uint32_t i = 0; i < 2; i++) {
        offer_init(&f[i], &o, i);
        f[i].msg.tag = 77;
        assert_int_equal(offer(&c, 0, "worker", &f[i], true), 'k');
        tarn_buf_unref(&f[i].buf);
    }
    args.loop = c.loop;
    assert_int_equal(tarn_rpc_server_new(&args, &server), 0);
    tarn_rpc_server_handle(server, TARN_RPC_take, taker_take, &t);
    tarn_rpc_server_set_worker(server, 2);
    addr = c.nodes[1].addr;
    assert_int_equal(tarn_rpc_server_listen(server, "127.0.0.1:0", &c.nodes[1].addr), 0);
    c.nodes[0].state = TARN_WORKER_DRAINING;
    cl_topology(&c, 0, 1);
    tarn_move_set_rate(c.nodes[0].move, 4 * MIB); /* the second group waits for the first */
    tarn_move_topology(c.nodes[0].move);
    turns_until(c.loop, &t.got, 1);
    turns_for(c.loop, 50 * TARN_NS_PER_MS);
    assert_int_equal(t.asked, 2);
    drop(&c, 0, &o);
    turns_until(c.loop, &t.got, 2);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(t.tag[i], 77);
        assert_int_equal(t.level[i], TARN_VERIFIED_ETAG);
    }
    c.nodes[1].addr = addr;
    cl_topology(&c, 0, 1);
    tarn_rpc_server_stop(server, stopped, &gone);
    turns_until(c.loop, &gone, 1);
    tarn_rpc_server_free(&server);
    cl_fini(&c);
}

/* Topologies that come and go, of which some see the one and some the other, while everybody reads
 * and hands over: each byte is right, and in the end everything is where it belongs. */
static void storm(void **state)
{
    enum { STEPS = 60, OPS = 2 * STEPS };
    struct op *ops = tarn_xcalloc(OPS, sizeof(*ops));
    struct obj *o = tarn_xcalloc(CL_OBJECTS, sizeof(*o));
    struct tarn_rng_seeded seeded;
    struct tarn_rng *rng = &seeded.base;
    const char *seed = getenv("TARN_SEED");
    struct cluster c;

    (void)state;
    tarn_rng_seeded_init(&seeded, seed ? strtoull(seed, NULL, 0) : 7);
    cl_init(&c, 3, FIVE, 0);
    cl_settled(&c);
    for (unsigned i = 0; i < CL_OBJECTS; i++) {
        rig_find(&c.nodes[0].rig, &o[i], 0, c.keys[i], 1);
        o[i].msg.replicas = (uint32_t)tarn_rng_below(rng, 3);
    }
    for (unsigned step = 0; step < STEPS; step++) {
        unsigned live = (unsigned)tarn_rng_below(rng, 3), first = (unsigned)tarn_rng_below(rng, 3);

        for (unsigned i = 0; i < 3; i++) {
            c.nodes[i].state =
                i == live || tarn_rng_below(rng, 3) ? TARN_WORKER_LIVE : TARN_WORKER_DRAINING;
            c.nodes[i].dead = tarn_rng_below(rng, 4) == 0;
            c.nodes[i].was = tarn_rng_below(rng, 2) == 0;
        }
        cl_topology(&c, first, first + (unsigned)tarn_rng_below(rng, 3 - first));
        for (unsigned i = 0; i < 3; i++)
            tarn_move_topology(c.nodes[i].move);
        for (unsigned i = 0; i < 2; i++)
            op_start(&ops[2 * step + i], &c.nodes[tarn_rng_below(rng, 3)].rig,
                     &o[tarn_rng_below(rng, CL_OBJECTS)], tarn_rng_below(rng, 2) * 4 * MIB, MIB, 2);
        turns_for(c.loop, tarn_rng_below(rng, 30) * TARN_NS_PER_MS);
    }
    for (unsigned i = 0; i < OPS; i++) {
        turns_until(c.loop, &ops[i].done, 1);
        assert_int_equal(ops[i].rc, 0);
        assert_false(ops[i].wrong);
    }
    for (unsigned i = 0; i < 3; i++)
        c.nodes[i].dead = false;
    cl_stored(&c);
    cl_settled(&c);
    for (unsigned i = 0; i < 3; i++)
        tarn_move_topology(c.nodes[i].move);
    for (unsigned i = 0; i < 3; i++)
        until_settled(&c, i);
    turns_for(c.loop, CL_LINGER_NS + 50 * TARN_NS_PER_MS);
    for (unsigned i = 0; i < CL_OBJECTS; i++)
        for (unsigned k = 0; k < 3; k++)
            assert_true(cl_cached(&c, k, &o[i]) == 0 ||
                        tarn_place_owns(tarn_peers_place(c.nodes[k].peers), &o[i].cid, 0,
                                        TARN_MAX(o[i].msg.replicas, 1u), k + 1));
    cl_fini(&c);
    free(ops);
    free(o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(take_refuses),   cmocka_unit_test(take_without_room),
        cmocka_unit_test(share),          cmocka_unit_test(drains),
        cmocka_unit_test(back_and_forth), cmocka_unit_test(no_room),
        cmocka_unit_test(replicas),       cmocka_unit_test(damaged),
        cmocka_unit_test(unreadable),     cmocka_unit_test(tag_of_the_bytes),
        cmocka_unit_test(storm),
    };

    return cmocka_run_group_tests_name("worker_move", tests, NULL, NULL);
}
