/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Changes of which a master that ended had not told everybody: the next one waits on, for one
 * lease, and no longer. What all had acknowledged it answers at once.
 */
#include "tests/unit/master/svc/peers.h"

#include <stdlib.h>
#include <string.h>

#include "lib/base/fault.h"

#define ROOT TARN_INO_ROOT.v
/* A slow machine, and the time between two looks at leases; no call's deadline. */
#define SLACK (5 * TARN_NS_PER_S)

/* What the attach changed is told. */
static struct mfx *start(struct peer *a, struct peer *b)
{
    const char *addr;
    struct mfx *fx = peers_start(&addr);

    peers_until_all_told(fx);
    peer_connect(fx, a, addr);
    peer_open(a);
    if (b) {
        peer_connect(fx, b, addr);
        peer_open(b);
    }
    return fx;
}

/* Another process on the same store, with `b` as a client of it: a mount that was not there before.
 */
static uint64_t restart(struct mfx *fx, struct peer *b)
{
    uint64_t begun;

    mfx_stop(fx);
    begun = tarn_now_ns();
    mfx_start(fx);
    *b = (struct peer){0};
    peer_connect(fx, b, peers_listen(fx));
    peer_open(b);
    return begun;
}

/* `f` changed, and `a` believes the old one, without a connection. */
static uint64_t change_unheard(struct mfx *fx, struct peer *a)
{
    uint64_t ino;

    assert_int_equal(peer_lookup(a, ROOT, "g", NULL), 11);
    assert_int_equal(peer_lookup(a, ROOT, "f", &ino), 10);
    peers_change(fx, ino, peers_version(fx, ino));
    peer_until_told(a, 1);
    peer_cut(a);
    assert_true(peers_untold(fx) > 0);
    return ino;
}

/* The answer comes when the grace is over, not before, and long before its deadline. */
static void assert_grace(uint64_t begun)
{
    uint64_t took = tarn_now_ns() - begun;

    assert_true(took >= PEERS_LEASE);
    assert_true(took < PEERS_LEASE + SLACK);
}

/* One entry tells of a change that was acknowledged; then nothing is written any more. */
static void test_told_when_acknowledged(void **state)
{
    struct peer a = {0};
    struct mfx *fx = start(&a, NULL);
    uint64_t ino, changed, applied;

    (void)state;
    assert_int_equal(peer_lookup(&a, ROOT, "f", &ino), 10);
    peers_change(fx, ino, peers_version(fx, ino));
    changed = peers_version(fx, ino);
    peer_until_told(&a, 1);
    applied = master_applied(fx->master);
    assert_int_equal(peers_untold(fx), changed);
    for (unsigned i = 0; i < 3; i++) { /* it is alive, and acknowledges nothing */
        uint64_t seq = a.seq;

        a.seq = 0;
        assert_int_equal(peer_renew(&a), 0);
        a.seq = seq;
        mfx_run_ms(fx, 200);
    }
    assert_int_equal(peers_untold(fx), changed);
    assert_int_equal(master_applied(fx->master), applied);
    assert_int_equal(peer_renew(&a), 0);
    peers_until_all_told(fx);
    assert_int_equal(master_applied(fx->master), applied + 1);
    mfx_run_ms(fx, 600);
    assert_int_equal(master_applied(fx->master), applied + 1);
    peer_cut(&a);
    mfx_free(&fx);
}

/* What could not be journalled is proposed again. */
static void test_told_when_it_can_be_written(void **state)
{
    struct peer a = {0};
    struct mfx *fx = start(&a, NULL);
    uint64_t ino, changed;

    (void)state;
    assert_int_equal(peer_lookup(&a, ROOT, "f", &ino), 10);
    peers_change(fx, ino, peers_version(fx, ino));
    changed = peers_version(fx, ino);
    peer_until_told(&a, 1);
    tarn_fault_arm(TARN_FAULT_kv_write, 0, 1000, -TARN_E_KV);
    assert_int_equal(peer_renew(&a), 0);
    mfx_run_ms(fx, 400);
    assert_int_equal(peers_untold(fx), changed);
    assert_int_equal(fx->master->untold, changed);
    tarn_fault_reset();
    peers_until_all_told(fx);
    peer_cut(&a);
    mfx_free(&fx);
}

/* Nobody waits for one whose lease is over: that tells as well. */
static void test_told_when_the_lease_ends(void **state)
{
    struct peer a = {0};
    struct mfx *fx = start(&a, NULL);

    (void)state;
    (void)change_unheard(fx, &a);
    peers_until_all_told(fx);
    assert_int_equal(peers_session(fx, a.session)->state, MSESSION_CUT_OFF);
    mfx_free(&fx);
}

/* Two changes, of which one is acknowledged by all. */
static void test_told_in_part(void **state)
{
    struct peer a = {0}, b = {0}, c = {0};
    struct mfx *fx = start(&a, &b);
    struct mfx_op op;
    uint64_t f, dir, two, begun;

    (void)state;
    fx->master->args.lease_ns = 60 * TARN_NS_PER_S;
    assert_int_equal(peer_lookup(&a, ROOT, "f", &f), 10);
    (void)peer_lookup(&b, ROOT, "d", &dir);
    assert_int_equal(peer_lookup(&b, dir, "two", &two), 2);
    peers_change(fx, f, peers_version(fx, f));
    peers_change(fx, two, peers_version(fx, two));
    peer_until_told(&a, 1);
    peer_until_told(&b, 1);
    assert_int_equal(peer_renew(&a), 0);
    peer_cut(&a);
    peer_cut(&b);
    begun = restart(fx, &c); /* a stop tells what is known */
    assert_int_equal(peers_untold(fx), peers_version(fx, two));
    assert_int_equal(peer_lookup(&c, ROOT, "f", NULL), 20);
    peer_begin_lookup(&c, &op, dir, "two");
    assert_true(tarn_now_ns() - begun < PEERS_LEASE);
    assert_int_equal(peer_lookup_end(&op, NULL), 22);
    assert_grace(begun);
    peer_cut(&c);
    mfx_free(&fx);
}

/* The holder has not acknowledged when the master ends: the next one shows nobody the new version
 * for a lease, then everybody, and what did not change at once. */
static void test_untold_waits_for_the_grace(void **state)
{
    struct peer a = {0}, b = {0};
    struct mfx *fx = start(&a, NULL);
    struct mfx_op lookup, attr, resolve;
    Tarn__Wire__GetattrRequest getattr = TARN__WIRE__GETATTR_REQUEST__INIT;
    Tarn__Wire__ResolveRequest path = TARN__WIRE__RESOLVE_REQUEST__INIT;
    uint64_t begun;

    (void)state;
    getattr.ino = change_unheard(fx, &a);
    begun = restart(fx, &b);
    path.path = (ProtobufCBinaryData){2, (uint8_t *)(uintptr_t) "/f"};
    peer_begin_lookup(&b, &lookup, ROOT, "f");
    peer_begin(&b, &attr, TARN_RPC_getattr, &getattr.base);
    peer_begin(&b, &resolve, TARN_RPC_resolve, &path.base);
    assert_int_equal(peer_lookup(&b, ROOT, "g", NULL), 11);
    assert_true(tarn_now_ns() - begun < PEERS_LEASE);
    assert_false(lookup.done || attr.done || resolve.done);
    assert_int_equal(peer_lookup_end(&lookup, NULL), 20);
    assert_grace(begun);
    assert_int_equal(mfx_end(&attr), 0);
    assert_int_equal(mfx_end(&resolve), 0);
    assert_grace(begun);
    mfx_op_fini(&attr);
    mfx_op_fini(&resolve);
    peers_until_all_told(fx); /* nobody believes the old one any more */
    peer_cut(&b);
    begun = restart(fx, &b);
    assert_int_equal(peer_lookup(&b, ROOT, "f", NULL), 20);
    assert_true(tarn_now_ns() - begun < PEERS_LEASE);
    peer_cut(&b);
    mfx_free(&fx);
}

/* Who comes back, and is told what it missed, has acknowledged none of it yet. */
static void test_who_comes_back_is_waited_for(void **state)
{
    struct peer a = {0}, b = {0};
    struct mfx *fx = start(&a, NULL);
    uint64_t f, dir, two, first;

    (void)state;
    assert_int_equal(peer_lookup(&a, ROOT, "f", &f), 10);
    (void)peer_lookup(&a, ROOT, "d", &dir);
    assert_int_equal(peer_lookup(&a, dir, "two", &two), 2);
    assert_int_equal(peer_renew(&a), 0);
    a.index = master_applied(fx->master);
    peer_cut(&a);
    (void)restart(fx, &b);
    peers_change(fx, f, peers_version(fx, f));
    first = peers_version(fx, f);
    peers_change(fx, two, peers_version(fx, two));
    a.seq = 0;
    peer_connect(fx, &a, peers_listen(fx));
    peer_open(&a);
    assert_true(a.resumed);
    peer_until_told(&a, 2);
    while (fx->master->grace_until_ns) { /* it is alive, and acknowledges nothing */
        uint64_t seq = a.seq;

        a.seq = 0;
        assert_int_equal(peer_renew(&a), 0);
        a.seq = seq;
        mfx_run_ms(fx, 100);
    }
    mfx_run_ms(fx, 400);
    assert_int_equal(peers_untold(fx), first);
    assert_int_equal(peer_renew(&a), 0);
    peers_until_all_told(fx);
    peer_cut(&a);
    peer_cut(&b);
    mfx_free(&fx);
}

/* All had acknowledged, and the master ends before it has journalled that: it does so at its end.
 */
static void test_told_is_answered_at_once(void **state)
{
    struct peer a = {0}, b = {0};
    struct mfx *fx = start(&a, NULL);
    uint64_t ino, begun;

    (void)state;
    assert_int_equal(peer_lookup(&a, ROOT, "f", &ino), 10);
    peers_change(fx, ino, peers_version(fx, ino));
    peer_until_told(&a, 1);
    assert_int_equal(peer_renew(&a), 0);
    peer_cut(&a);
    begun = restart(fx, &b);
    assert_int_equal(peers_untold(fx), 0);
    assert_int_equal(peer_lookup(&b, ROOT, "f", NULL), 20);
    assert_true(tarn_now_ns() - begun < PEERS_LEASE);
    peer_cut(&b);
    mfx_free(&fx);
}

/* Killed once more in the grace: those of the first process may still have a lease. */
static void test_killed_in_the_grace(void **state)
{
    struct peer a = {0}, b = {0};
    struct mfx *fx = start(&a, NULL);
    struct mfx_op op;
    uint64_t begun;

    (void)state;
    (void)change_unheard(fx, &a);
    (void)restart(fx, &b);
    assert_int_equal(peer_lookup(&b, ROOT, "g", NULL), 11);
    assert_int_equal(peer_renew(&b), 0);
    peer_cut(&b);
    begun = restart(fx, &b);
    assert_true(peers_untold(fx) > 0);
    peer_begin_lookup(&b, &op, ROOT, "f");
    assert_int_equal(peer_lookup_end(&op, NULL), 20);
    assert_grace(begun);
    peer_cut(&b);
    mfx_free(&fx);
}

/* A name that went, also if there is another one by now; elsewhere absent names do not wait. */
static void test_a_removed_name_waits(void **state)
{
    static const struct srv_object without[] = {{"d/one", "e1", NULL, peers_body, 1},
                                                {"g", "eg", NULL, peers_body, 11}};
    struct peer a = {0}, b = {0};
    struct mfx *fx = start(&a, NULL);
    struct mfx_op gone, back;
    struct mfx_dir d;
    uint64_t f, dir, begun;

    (void)state;
    (void)peer_lookup(&a, ROOT, "d", &dir);
    (void)peer_lookup(&a, dir, "one", NULL);
    assert_int_equal(peer_lookup(&a, ROOT, "g", NULL), 11);
    assert_int_equal(peer_lookup(&a, ROOT, "f", &f), 10);
    srv_objects(fx->srv, without, TARN_ARRAY_LEN(without));
    assert_int_equal(mfx_report(fx, f, peers_version(fx, f)), 0);
    peer_until_told(&a, 1);
    peer_cut(&a);
    begun = restart(fx, &b);
    peer_begin_lookup(&b, &gone, ROOT, "f");
    mfx_run_ms(fx, 100);
    srv_objects(fx->srv, peers_after, PEERS_OBJECTS);
    peer_begin_lookup(&b, &back, ROOT, "new");
    assert_int_equal(peer_lookup(&b, dir, "one", NULL), 1);
    assert_int_equal(mfx_lookup(fx, dir, "none", &(struct mfx_attr){0}), -TARN_E_NO_ENTRY);
    assert_true(tarn_now_ns() - begun < PEERS_LEASE);
    assert_false(gone.done || back.done);
    assert_int_equal(mfx_readdir(fx, ROOT, 100, &d), 0); /* shows the new `f` */
    assert_grace(begun);
    assert_true(mfx_dir_has(&d, "f"));
    mfx_dir_fini(&d);
    (void)mfx_end(&gone);
    assert_int_equal(mfx_end(&back), -TARN_E_NO_ENTRY);
    assert_grace(begun);
    mfx_op_fini(&gone);
    mfx_op_fini(&back);
    peer_cut(&b);
    mfx_free(&fx);
}

/* A listing ends before what waits, and goes on when it may. */
static void test_a_listing_waits(void **state)
{
    struct peer a = {0}, b = {0};
    struct mfx *fx = start(&a, NULL);
    struct mfx_dir d;
    uint64_t begun;

    (void)state;
    assert_int_equal(mfx_readdir(fx, ROOT, 100, &d), 0);
    mfx_dir_fini(&d);
    (void)change_unheard(fx, &a);
    begun = restart(fx, &b);
    assert_int_equal(mfx_readdir(fx, ROOT, 100, &d), 0);
    assert_grace(begun);
    assert_int_equal(d.count, 3);
    mfx_dir_fini(&d);
    peer_cut(&b);
    mfx_free(&fx);
}

/* Whoever waits for the grace can be cancelled, gives up at its deadline, and ends with the master.
 */
static void test_ends_of_the_wait(void **state)
{
    struct peer a = {0}, b = {0};
    struct mfx *fx = start(&a, NULL);
    struct mfx_op cancelled, late, stopped;

    (void)state;
    (void)change_unheard(fx, &a);
    (void)restart(fx, &b);
    peer_begin_lookup(&b, &cancelled, ROOT, "f");
    mfx_begin_lookup(fx, &late, ROOT, "f", 200);
    peer_begin_lookup(&b, &stopped, ROOT, "f");
    mfx_run_ms(fx, 50);
    tarn_rpc_cancel(&cancelled.req);
    assert_int_equal(mfx_end(&cancelled), -TARN_E_CANCELLED);
    assert_int_equal(mfx_end(&late), -TARN_E_DEADLINE);
    assert_false(stopped.done);
    mfx_halt(fx);
    assert_int_equal(mfx_end(&stopped), -TARN_E_SHUTDOWN);
    mfx_op_fini(&cancelled);
    mfx_op_fini(&late);
    mfx_op_fini(&stopped);
    peer_cut(&b);
    mfx_close(fx);
    mfx_free(&fx);
}

/* 0: there is none. */
static uint64_t size_of(struct mfx *fx, const char *name)
{
    Tarn__Core__Inode *inode = NULL;
    uint64_t size = 0;
    tarn_ino_t ino;
    uint32_t type;

    if (tarn_core_dentry(fx->kv, TARN_INO_ROOT, name, strlen(name), &ino, &type) == 0) {
        assert_int_equal(tarn_core_inode(fx->kv, ino, &inode), 0);
        size = inode->ufs->size;
        tarn__core__inode__free_unpacked(inode, NULL);
    }
    return size;
}

/* After a power cut: the change alone may be left of change and Told, never the Told alone. */
static void test_power_cuts(void **state)
{
    bool waited = false, at_once = false;

    (void)state;
    for (unsigned keep = 0; !at_once; keep++) {
        struct peer a = {0}, b = {0};
        struct mfx *fx = start(&a, NULL);
        uint64_t ino, begun, size;
        unsigned could;
        bool waits;

        assert_true(keep < 20);
        assert_int_equal(peer_lookup(&a, ROOT, "f", &ino), 10);
        peers_change(fx, ino, peers_version(fx, ino));
        peer_until_told(&a, 1);
        assert_int_equal(peer_renew(&a), 0);
        peers_until_all_told(fx);
        peer_cut(&a);
        mfx_stop(fx);
        could = tarn_kv_mem_power_cut(&fx->kv_disk, keep);
        begun = tarn_now_ns();
        mfx_start(fx);
        waits = peers_untold(fx) && size_of(fx, "f") == 20;
        peer_connect(fx, &b, peers_listen(fx));
        peer_open(&b);
        size = peer_lookup(&b, ROOT, "f", NULL);
        if (waits)
            assert_grace(begun);
        else
            assert_true(tarn_now_ns() - begun < PEERS_LEASE);
        waited |= waits;
        at_once = keep >= could;
        assert_true(!at_once || (!waits && size == 20));
        peer_cut(&b);
        mfx_free(&fx);
    }
    assert_true(waited);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_told_when_acknowledged),
        cmocka_unit_test(test_told_when_it_can_be_written),
        cmocka_unit_test(test_told_when_the_lease_ends),
        cmocka_unit_test(test_told_in_part),
        cmocka_unit_test(test_untold_waits_for_the_grace),
        cmocka_unit_test(test_who_comes_back_is_waited_for),
        cmocka_unit_test(test_told_is_answered_at_once),
        cmocka_unit_test(test_killed_in_the_grace),
        cmocka_unit_test(test_a_removed_name_waits),
        cmocka_unit_test(test_a_listing_waits),
        cmocka_unit_test(test_ends_of_the_wait),
        cmocka_unit_test(test_power_cuts),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
