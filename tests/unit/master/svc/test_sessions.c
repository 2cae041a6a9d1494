/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sessions of a cluster: who is told of a change, what waits until it is acknowledged, what a lease
 * ends, and what a client that comes back has missed.
 */
#include "tests/unit/master/svc/peers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ROOT TARN_INO_ROOT.v

static void test_only_holders_hear(void **state)
{
    const char *addr;
    struct mfx *fx = peers_start(&addr);
    struct peer a = {0}, b = {0}, c = {0};
    uint64_t ino;

    (void)state;
    peer_connect(fx, &a, addr);
    peer_connect(fx, &b, addr);
    peer_connect(fx, &c, addr);
    peer_open(&a);
    peer_open(&b);
    peer_open(&c);
    assert_int_equal(peer_lookup(&a, ROOT, "f", &ino), 10);
    assert_int_equal(peer_lookup(&b, ROOT, "g", NULL), 11);
    peers_change(fx, ino, peers_version(fx, ino));
    peer_until_told(&a, 1);
    assert_int_equal(a.inos[0], ino);
    assert_true(a.ack_wanted);
    assert_int_equal(peer_renew(&b), 0); /* whatever was sent before has arrived */
    assert_int_equal(peer_renew(&c), 0);
    assert_int_equal(b.items + c.items + b.seq + c.seq, 0);
    peer_cut(&a);
    peer_cut(&b);
    peer_cut(&c);
    mfx_free(&fx);
}

/* Who listed a directory hears of all its entries; who looked up many by name, too. */
static void test_directories_are_promised_whole(void **state)
{
    struct srv_object many[40];
    char keys[40][16];
    Tarn__Wire__ReaddirRequest list = TARN__WIRE__READDIR_REQUEST__INIT;
    const char *addr;
    struct mfx *fx;
    struct peer a = {0}, b = {0};
    uint64_t dir, ino = 0, last;
    struct mfx_attr attr;
    struct mfx_op op;

    (void)state;
    for (unsigned i = 0; i < 40; i++) {
        (void)snprintf(keys[i], sizeof(keys[i]), "d/%02u", i);
        many[i] = (struct srv_object){keys[i], "e", NULL, peers_body, 7};
    }
    fx = mfx_new(many, 40);
    fx->cluster = true;
    fx->ttl_ns = TARN_TTL_FOREVER;
    mfx_start(fx);
    mfx_script(fx, SRV_OK, 0);
    addr = peers_listen(fx);
    peer_connect(fx, &a, addr);
    peer_connect(fx, &b, addr);
    peer_open(&a);
    peer_open(&b);
    (void)peer_lookup(&a, ROOT, "d", &dir);
    list.ino = dir;
    list.max_entries = 1000;
    peer_begin(&a, &op, TARN_RPC_readdir, &list.base);
    assert_int_equal(mfx_end(&op), 0);
    mfx_op_fini(&op);
    for (unsigned i = 0; i < 30; i++)
        (void)peer_lookup(&b, dir, keys[i] + 2, i == 0 ? &ino : NULL);
    assert_int_equal(peers_session(fx, a.session)->promise_count, 2); /* "/" and "d" */
    assert_int_equal(peers_session(fx, b.session)->promise_count, 1);
    assert_int_equal(mfx_lookup(fx, dir, keys[39] + 2, &attr), 0);
    last = attr.ino;
    many[39].etag = "other";
    many[39].size = 9;
    srv_objects(fx->srv, many, 40);
    assert_int_equal(mfx_report(fx, last, peers_version(fx, last)), 0);
    peer_until_told(&a, 1);
    peer_until_told(&b, 1); /* it never asked for this one */
    assert_int_equal(a.inos[0], last);
    assert_int_equal(b.inos[0], last);
    assert_int_not_equal(ino, last);
    peer_cut(&a);
    peer_cut(&b);
    mfx_free(&fx);
}

/* Nobody sees the new version while somebody believes the old one. */
static void test_answers_wait_for_the_acknowledgement(void **state)
{
    const char *addr;
    struct mfx *fx = peers_start(&addr);
    struct peer a = {0}, b = {0};
    struct mfx_op op;
    uint64_t ino;

    (void)state;
    fx->master->args.lease_ns = 20 * TARN_NS_PER_S;
    peer_connect(fx, &a, addr);
    peer_connect(fx, &b, addr);
    peer_open(&a);
    peer_open(&b);
    assert_int_equal(peer_lookup(&a, ROOT, "f", &ino), 10);
    peers_change(fx, ino, peers_version(fx, ino));
    peer_until_told(&a, 1);
    peer_begin_lookup(&b, &op, ROOT, "f");
    mfx_run_ms(fx, 300);
    assert_false(op.done);
    assert_int_equal(peer_lookup(&b, ROOT, "g", NULL), 11); /* others do not wait */
    assert_int_equal(peer_renew(&a), 0);
    assert_int_equal(peer_lookup_end(&op, NULL), 20);
    assert_int_equal(peer_lookup(&a, ROOT, "f", NULL), 20);
    peer_cut(&a);
    peer_cut(&b);
    mfx_free(&fx);
}

/* A client that does not answer delays others no longer than its lease; then it is cut off. */
static void test_the_lease_ends_the_wait(void **state)
{
    const char *addr;
    struct mfx *fx = peers_start(&addr);
    struct peer a = {0}, b = {0};
    struct mfx_op op;
    uint64_t ino, begun;

    (void)state;
    peer_connect(fx, &a, addr);
    peer_connect(fx, &b, addr);
    peer_open(&a);
    peer_open(&b);
    assert_int_equal(peer_lookup(&a, ROOT, "f", &ino), 10);
    peers_change(fx, ino, peers_version(fx, ino));
    peer_until_told(&a, 1);
    begun = tarn_now_ns();
    peer_begin_lookup(&b, &op, ROOT, "f");
    /* b does not renew either, but nothing needs it */
    assert_int_equal(peer_lookup_end(&op, NULL), 20);
    assert_true(tarn_now_ns() - begun > PEERS_LEASE / 4);
    assert_int_equal(peers_session(fx, a.session)->state, MSESSION_CUT_OFF);
    assert_int_equal(peer_renew(&a), -TARN_E_STALE);
    a.seq = 0;
    peer_open(&a);
    assert_true(a.resumed); /* all that changed is known still; what it was promised is not */
    assert_true(peers_session(fx, a.session)->all);
    peer_cut(&a);
    peer_cut(&b);
    mfx_free(&fx);
}

/* The master stood still for longer than a lease: what waits to be read then counts. */
static void test_a_renewal_that_waits_is_read_first(void **state)
{
    Tarn__Wire__RenewRequest msg = TARN__WIRE__RENEW_REQUEST__INIT;
    const char *addr;
    struct mfx *fx = peers_start(&addr);
    struct peer a = {0};
    struct mfx_op op;

    (void)state;
    peer_connect(fx, &a, addr);
    peer_open(&a);
    msg.session = a.session;
    peer_begin(&a, &op, TARN_RPC_session_renew, &msg.base);
    usleep(2 * PEERS_LEASE / 1000);
    assert_int_equal(mfx_end(&op), 0);
    mfx_op_fini(&op);
    assert_int_equal(peers_session(fx, a.session)->state, MSESSION_LIVE);
    peer_cut(&a);
    mfx_free(&fx);
}

/* Of a session, and of those of the process before. */
static void test_a_lease_outlasts_the_clients(void **state)
{
    const char *addr;
    struct mfx *fx = peers_start(&addr);
    struct peer a = {0};
    uint64_t begun;

    (void)state;
    peer_connect(fx, &a, addr);
    peer_open(&a);
    begun = tarn_now_ns();
    assert_int_equal(peer_renew(&a), 0);
    assert_true(peers_session(fx, a.session)->lease_until_ns >=
                begun + PEERS_LEASE + PEERS_LEASE / 10);
    peer_cut(&a);
    mfx_stop(fx);
    begun = tarn_now_ns();
    mfx_start(fx);
    assert_true(fx->master->grace_until_ns >= begun + PEERS_LEASE + PEERS_LEASE / 10);
    mfx_free(&fx);
}

/* A connection that breaks and comes back: what was missed is told, the rest is believed on. */
static void test_resumes_within_the_lease(void **state)
{
    const char *addr;
    struct mfx *fx = peers_start(&addr);
    struct peer a = {0};
    uint64_t f, session;

    (void)state;
    fx->master->args.lease_ns = 30 * TARN_NS_PER_S;
    peer_connect(fx, &a, addr);
    peer_open(&a);
    session = a.session;
    assert_int_equal(peer_lookup(&a, ROOT, "f", &f), 10);
    assert_int_equal(peer_lookup(&a, ROOT, "g", NULL), 11);
    assert_int_equal(peer_renew(&a), 0);
    peer_cut(&a);
    for (unsigned i = 0; i < 500 && peers_session(fx, session)->state != MSESSION_AWAY; i++)
        mfx_run_ms(fx, 10);
    assert_int_equal(peers_session(fx, session)->state, MSESSION_AWAY);
    peers_change(fx, f, peers_version(fx, f));
    a.index = fx->master->told_index - 1; /* as a client that renewed right before */
    a.seq = peers_session(fx, session)->seq;
    peer_connect(fx, &a, addr);
    peer_open(&a);
    assert_true(a.resumed);
    assert_int_equal(a.session, session);
    peer_until_told(&a, 1);
    assert_int_equal(a.inos[0], f);
    assert_int_equal(peer_renew(&a), 0);
    assert_int_equal(peer_lookup(&a, ROOT, "f", NULL), 20); /* not held any more */
    peer_cut(&a);
    mfx_free(&fx);
}

/* Who was to forget everything while it was away begins anew, within its lease and after it: the
 * changes that it has not heard of are not all that it missed. */
static void test_forgets_what_it_missed(void **state)
{
    const char *addr;
    struct mfx *fx = peers_start(&addr);
    struct peer a = {0};

    (void)state;
    for (unsigned late = 0; late < 2; late++) {
        enum msession_state until = late ? MSESSION_CUT_OFF : MSESSION_AWAY;
        struct msession *s;

        peer_connect(fx, &a, addr);
        peer_open(&a);
        s = peers_session(fx, a.session);
        assert_int_equal(peer_lookup(&a, ROOT, "f", NULL), 10);
        assert_int_equal(peer_renew(&a), 0);
        peer_cut(&a);
        for (unsigned i = 0; i < 500 && s->state != MSESSION_AWAY; i++)
            mfx_run_ms(fx, 10);
        mpromise_epoch(fx->master, s);
        assert_int_equal(s->promise_count, 0);
        for (unsigned i = 0; i < 500 && s->state != until; i++)
            mfx_run_ms(fx, 10);
        a.index = fx->master->told_index; /* it heard of all changes */
        a.seq = late ? 0 : s->seq;
        peer_connect(fx, &a, addr);
        peer_open(&a);
        assert_false(a.resumed);
        assert_int_equal(peer_renew(&a), 0);
        assert_int_equal(a.everything, 1); /* its new session has nothing to forget */
        assert_false(peers_session(fx, a.session)->forgets);
        assert_int_equal(fx->master->sessions_all, 0);
        peer_cut(&a);
        a = (struct peer){.everything = 1};
    }
    mfx_free(&fx);
}

/* Over a restart of the master: nothing changed since, so nothing was missed. */
static void test_resumes_over_a_restart(void **state)
{
    const char *addr;
    struct mfx *fx = peers_start(&addr);
    struct peer a = {0}, b = {0};
    struct mfx_op op;
    uint64_t f, begun;

    (void)state;
    peer_connect(fx, &a, addr);
    peer_open(&a);
    assert_int_equal(peer_lookup(&a, ROOT, "f", &f), 10);
    a.index = fx->master->told_index;
    peer_cut(&a);
    mfx_stop(fx);
    mfx_start(fx);
    addr = peers_listen(fx);
    a.seq = 0;
    peer_connect(fx, &a, addr);
    peer_open(&a);
    assert_true(a.resumed);
    /* What it believes is not known to the new process: it hears of everything, and what changes
     * within a lease of the start is held for those that have not come back. */
    peer_connect(fx, &b, addr);
    peer_open(&b);
    begun = tarn_now_ns();
    peers_change(fx, f, peers_version(fx, f));
    peer_until_told(&a, 1);
    assert_int_equal(peer_renew(&a), 0);
    peer_begin_lookup(&b, &op, ROOT, "f");
    mfx_run_ms(fx, 100);
    assert_int_equal(op.done, tarn_now_ns() - begun > PEERS_LEASE);
    assert_int_equal(peer_lookup_end(&op, NULL), 20);
    peer_cut(&a);
    peer_cut(&b);
    mfx_free(&fx);
}

/* Over a restart, and something changed that it has not heard of. */
static void test_missed_over_a_restart(void **state)
{
    const char *addr;
    struct mfx *fx = peers_start(&addr);
    struct peer a = {0};
    uint64_t f;

    (void)state;
    peer_connect(fx, &a, addr);
    peer_open(&a);
    assert_int_equal(peer_lookup(&a, ROOT, "f", &f), 10);
    peer_cut(&a);
    peers_change(fx, f, peers_version(fx, f));
    mfx_stop(fx);
    mfx_start(fx);
    peer_connect(fx, &a, peers_listen(fx));
    a.seq = 0;
    peer_open(&a);
    assert_false(a.resumed);
    peer_cut(&a);
    mfx_free(&fx);
}

/* A command is told of nothing, and nobody waits for it. */
static void test_commands_hold_nothing(void **state)
{
    Tarn__Wire__SessionRequest msg = TARN__WIRE__SESSION_REQUEST__INIT;
    const char *addr;
    struct mfx *fx = peers_start(&addr);
    struct peer a = {0};
    struct mfx_op op;
    uint64_t f;

    (void)state;
    peer_connect(fx, &a, addr);
    msg.kind = tarn_wire_text("cli");
    msg.transient = true;
    peer_begin(&a, &op, TARN_RPC_session_open, &msg.base);
    assert_int_equal(mfx_end(&op), 0);
    mfx_op_fini(&op);
    assert_int_equal(peer_lookup(&a, ROOT, "f", &f), 10);
    peers_change(fx, f, peers_version(fx, f));
    assert_int_equal(mfx_lookup(fx, ROOT, "f", NULL), 0);
    assert_int_equal(fx->master->promise_pairs.count, 0);
    assert_int_equal(a.items, 0);
    peer_cut(&a);
    mfx_free(&fx);
}

/* A stop with answers that are held, of names and of paths: each is answered. */
static void test_stop_while_held(void **state)
{
    const char *addr;
    struct mfx *fx = peers_start(&addr);
    struct peer a = {0}, b = {0};
    struct mfx_op op, paths[3];
    uint64_t ino;

    (void)state;
    fx->master->args.lease_ns = 60 * TARN_NS_PER_S;
    peer_connect(fx, &a, addr);
    peer_connect(fx, &b, addr);
    peer_open(&a);
    peer_open(&b);
    assert_int_equal(peer_lookup(&a, ROOT, "f", &ino), 10);
    peers_change(fx, ino, peers_version(fx, ino));
    peer_until_told(&a, 1);
    peer_begin_lookup(&b, &op, ROOT, "f");
    for (size_t i = 0; i < TARN_ARRAY_LEN(paths); i++)
        peer_begin_resolve(&b, &paths[i], "/f");
    mfx_run_ms(fx, 100);
    assert_false(op.done);
    mfx_halt(fx);
    for (size_t i = 0; i < TARN_ARRAY_LEN(paths); i++) {
        assert_int_equal(mfx_end(&paths[i]), -TARN_E_SHUTDOWN);
        mfx_op_fini(&paths[i]);
    }
    assert_int_equal(mfx_end(&op), -TARN_E_SHUTDOWN); /* not the new version: a believes the old */
    mfx_op_fini(&op);
    peer_cut(&a);
    peer_cut(&b);
    mfx_close(fx);
    mfx_free(&fx);
}

/* A held answer whose caller goes away, and a cancelled one, leave nothing behind. */
static void test_cancel_while_held(void **state)
{
    const char *addr;
    struct mfx *fx = peers_start(&addr);
    struct peer a = {0}, b = {0};
    struct mfx_op op;
    uint64_t ino;

    (void)state;
    fx->master->args.lease_ns = 60 * TARN_NS_PER_S;
    peer_connect(fx, &a, addr);
    peer_connect(fx, &b, addr);
    peer_open(&a);
    peer_open(&b);
    assert_int_equal(peer_lookup(&a, ROOT, "f", &ino), 10);
    peers_change(fx, ino, peers_version(fx, ino));
    peer_until_told(&a, 1);
    peer_begin_lookup(&b, &op, ROOT, "f");
    mfx_run_ms(fx, 100);
    tarn_rpc_cancel(&op.req);
    assert_int_equal(mfx_end(&op), -TARN_E_CANCELLED);
    mfx_op_fini(&op);
    peer_begin_lookup(&b, &op, ROOT, "f");
    mfx_run_ms(fx, 100);
    assert_false(op.done);
    peer_cut(&b);
    (void)mfx_end(&op);
    mfx_op_fini(&op);
    assert_int_equal(peer_renew(&a), 0);
    assert_int_equal(fx->master->held.count, 0);
    peer_cut(&a);
    mfx_free(&fx);
}

/* Whoever has no session could not be told of a change: nothing is to be believed. */
static void test_no_session_no_trust(void **state)
{
    const Tarn__Wire__LookupResponse *resp;
    const char *addr;
    struct mfx *fx = peers_start(&addr);
    struct peer a = {0};
    struct mfx_op op;

    (void)state;
    peer_connect(fx, &a, addr);
    peer_begin_lookup(&a, &op, ROOT, "f");
    assert_int_equal(mfx_end(&op), 0);
    resp = (const void *)op.req.resp;
    assert_int_equal(resp->attr->trust_ms, 0);
    mfx_op_fini(&op);
    peer_begin_lookup(&a, &op, ROOT, "nope");
    assert_int_equal(mfx_end(&op), -TARN_E_NO_ENTRY);
    resp = (const void *)op.req.resp;
    assert_true(!resp || resp->negative_trust_ms == 0);
    mfx_op_fini(&op);
    peer_cut(&a);
    mfx_free(&fx);
}

/* That a name went is not answered either while somebody believes that it is there. */
static void test_a_removed_name_is_held(void **state)
{
    static const struct srv_object without[] = {{"g", "eg", NULL, peers_body, 11}};
    const char *addr;
    struct mfx *fx = peers_start(&addr);
    struct peer a = {0}, b = {0};
    struct mfx_op op;
    uint64_t ino;

    (void)state;
    fx->master->args.lease_ns = 60 * TARN_NS_PER_S;
    peer_connect(fx, &a, addr);
    peer_connect(fx, &b, addr);
    peer_open(&a);
    peer_open(&b);
    assert_int_equal(peer_lookup(&a, ROOT, "f", &ino), 10);
    srv_objects(fx->srv, without, 1);
    assert_int_equal(mfx_report(fx, ino, peers_version(fx, ino)), 0);
    peer_until_told(&a, 1);
    peer_begin_lookup(&b, &op, ROOT, "f");
    mfx_run_ms(fx, 200);
    assert_false(op.done);
    assert_int_equal(peer_renew(&a), 0);
    assert_int_equal(mfx_end(&op), -TARN_E_NO_ENTRY);
    mfx_op_fini(&op);
    assert_int_equal(fx->master->held.count, 0);
    peer_cut(&a);
    peer_cut(&b);
    mfx_free(&fx);
}

/* Nor is it between the commit that takes the name and the push, or while everything is held. */
static void test_absence_waits_for_the_push(void **state)
{
    static const struct srv_object without[] = {{"g", "eg", NULL, peers_body, 11}};
    const char *addr;
    struct mfx *fx = peers_start(&addr);
    struct mfx_attr attr;
    struct mfx_op op;
    uint64_t told, gone;

    (void)state;
    assert_int_equal(mfx_lookup(fx, ROOT, "f", &attr), 0);
    srv_objects(fx->srv, without, 1);
    assert_int_equal(mfx_report(fx, attr.ino, attr.version), 0);
    assert_int_equal(mfx_lookup(fx, ROOT, "f", &attr), -TARN_E_NO_ENTRY);
    peers_until_all_told(fx); /* nothing is journalled from here on */
    assert_int_equal(tarn_core_last_change(fx->kv, &gone), 0);
    for (unsigned all = 0; all < 2; all++) {
        told = fx->master->told_index;
        if (all)
            fx->master->held_all++; /* somebody has too much to acknowledge */
        else
            fx->master->told_index = gone - 1; /* the journal has it, the loop not yet */
        mfx_begin_lookup(fx, &op, ROOT, "f", 20000);
        mfx_run_ms(fx, 100);
        assert_false(op.done);
        fx->master->held_all = 0;
        fx->master->told_index = told;
        mhold_told(fx->master);
        assert_int_equal(mfx_end(&op), -TARN_E_NO_ENTRY);
        mfx_op_fini(&op);
    }
    assert_int_equal(mfx_lookup(fx, ROOT, "g", &attr), 0);
    mfx_free(&fx);
}

/* Until a session has forgotten everything it is told of everything, and waited for. */
static void test_forget_everything_is_waited_for(void **state)
{
    const char *addr;
    struct mfx *fx = peers_start(&addr);
    struct peer a = {0}, b = {0};
    struct mfx_op op;
    uint64_t ino;

    (void)state;
    fx->master->args.lease_ns = 60 * TARN_NS_PER_S;
    peer_connect(fx, &a, addr);
    peer_connect(fx, &b, addr);
    peer_open(&a);
    peer_open(&b);
    assert_int_equal(peer_lookup(&a, ROOT, "f", &ino), 10);
    assert_int_equal(peer_renew(&b), 0);
    msession_everything(fx->master);
    assert_int_equal(peers_session(fx, a.session)->promise_count, 0);
    peers_change(fx, ino, peers_version(fx, ino));
    peer_until_told(&a, 1);
    assert_int_equal(a.everything, 1);
    assert_true(a.ack_wanted);
    assert_int_equal(peer_renew(&b), 0); /* it has forgotten, and hears of nothing more */
    peer_begin_lookup(&b, &op, ROOT, "f");
    mfx_run_ms(fx, 200);
    assert_false(op.done);
    assert_int_equal(peer_renew(&a), 0);
    assert_int_equal(peer_lookup_end(&op, NULL), 20);
    assert_int_equal(fx->master->sessions_all, 0);
    peer_cut(&a);
    peer_cut(&b);
    mfx_free(&fx);
}

/* The sum over all attachments is made where a mount reads it, not after each entry of a cluster.
 */
static void test_space_is_for_a_mount_in_the_process(void **state)
{
    (void)state;
    for (unsigned cluster = 0; cluster < 2; cluster++) {
        struct mfx *fx = mfx_new(peers_before, PEERS_OBJECTS);
        struct tarn_master_counts counts;
        uint64_t files = 1, bytes = 1;
        struct mfx_attr attr;

        fx->cluster = cluster;
        mfx_start(fx);
        mfx_script(fx, SRV_OK, 0);
        assert_int_equal(mfx_lookup(fx, ROOT, "f", &attr), 0);
        tarn_master_space(fx->master, &files, &bytes);
        assert_int_equal(files, cluster ? 0 : 1);
        assert_int_equal(bytes, cluster ? 0 : 10);
        tarn_master_counts(fx->master, &counts);
        assert_int_equal(counts.inodes, 2); /* "/", too */
        mfx_free(&fx);
    }
}

/* A journal that lost its end cannot tell what a client has missed. */
static void test_ahead_of_the_journal(void **state)
{
    const char *addr;
    struct mfx *fx = peers_start(&addr);
    struct peer a = {0};
    uint64_t f;

    (void)state;
    peer_connect(fx, &a, addr);
    peer_open(&a);
    assert_int_equal(peer_lookup(&a, ROOT, "f", &f), 10);
    peers_until_all_told(fx);
    a.index = fx->master->told_index + 1; /* of an entry that is gone */
    peer_cut(&a);
    mfx_stop(fx);
    mfx_start(fx);
    addr = peers_listen(fx);
    peers_change(fx, f, peers_version(fx, f)); /* another entry has its index now */
    assert_true(fx->master->told_index >= a.index);
    a.seq = 0;
    peer_connect(fx, &a, addr);
    peer_open(&a);
    assert_false(a.resumed);
    peer_cut(&a);
    mfx_free(&fx);
}

/* The journal lost its end, a mount lives on: what it knows by an id and a version is nothing else
 * now. */
static void test_a_lost_end_is_not_given_again(void **state)
{
    const char *addr;
    struct mfx *fx = peers_start(&addr);
    uint64_t f, g, last, seen;
    struct mfx_attr attr;

    (void)state;
    assert_int_equal(mfx_lookup(fx, ROOT, "f", &attr), 0);
    f = attr.ino;
    last = peers_version(fx, f);
    assert_int_equal(mfx_lookup(fx, ROOT, "g", &attr), 0);
    g = attr.ino;
    peers_change(fx, f, last);
    seen = peers_version(fx, f);
    assert_true(g > f && seen > last);
    mfx_stop(fx);
    assert_true(tarn_kv_mem_power_cut(&fx->kv_disk, 0) > 0);
    mfx_start(fx);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(mfx_lookup(fx, ROOT, i ? "f" : "g", &attr), 0);
        assert_true(attr.ino > g + 1000);
        assert_true(attr.version > seen + 1000);
        assert_true(attr.ino < 1ull << 48);
    }
    assert_true(fx->master->start_index < seen); /* whoever has seen it is not resumed */
    mfx_free(&fx);
}

/* Who missed too much is waited for until it has said that it forgot what it believed. */
static void test_starts_over_while_held(void **state)
{
    const char *addr;
    struct mfx *fx = peers_start(&addr);
    struct peer a = {0}, b = {0};
    struct mfx_op op;
    uint64_t f;

    (void)state;
    fx->master->args.lease_ns = 60 * TARN_NS_PER_S;
    peer_connect(fx, &a, addr);
    peer_connect(fx, &b, addr);
    peer_open(&a);
    peer_open(&b);
    assert_int_equal(peer_lookup(&a, ROOT, "f", &f), 10);
    peer_cut(&a);
    peers_change(fx, f, peers_version(fx, f));
    peer_begin_lookup(&b, &op, ROOT, "f");
    a.index = 0;
    a.seq = peers_session(fx, a.session)->seq;
    peer_connect(fx, &a, addr);
    peer_open(&a); /* its answer might be lost */
    assert_false(a.resumed);
    mfx_run_ms(fx, 100);
    assert_false(op.done);
    assert_int_equal(peer_renew(&a), 0);
    assert_int_equal(peer_lookup_end(&op, NULL), 20);
    assert_int_equal(fx->master->held.count, 0);
    assert_int_equal(fx->master->sessions_all, 0);
    peer_cut(&a);
    peer_cut(&b);
    mfx_free(&fx);
}

/* A session that is replaced while an answer to itself waits for itself. */
static void test_replaced_while_held(void **state)
{
    const char *addr;
    struct mfx *fx = peers_start(&addr);
    struct peer a = {0}, again = {0};
    struct mfx_op op;
    uint64_t ino;

    (void)state;
    fx->master->args.lease_ns = 60 * TARN_NS_PER_S;
    peer_connect(fx, &a, addr);
    peer_open(&a);
    assert_int_equal(peer_lookup(&a, ROOT, "f", &ino), 10);
    peers_change(fx, ino, peers_version(fx, ino));
    peer_until_told(&a, 1);
    peer_begin_lookup(&a, &op, ROOT, "f");
    mfx_run_ms(fx, 100);
    assert_false(op.done);
    again.session = a.session;
    again.seq = a.seq; /* it comes by another connection, and knows nothing any more */
    peer_connect(fx, &again, addr);
    peer_open(&again);
    assert_false(again.resumed);
    mfx_run_ms(fx, 100);
    assert_false(op.done);
    assert_int_equal(again.everything, 1);
    assert_int_equal(peer_renew(&again), 0);
    assert_int_equal(peer_lookup_end(&op, NULL), 20);
    assert_int_equal(fx->master->promise_pairs.count, 0);
    srv_objects(fx->srv, peers_before, PEERS_OBJECTS);
    /* nobody is there to be told */
    assert_int_equal(mfx_report(fx, ino, peers_version(fx, ino)), 0);
    peer_cut(&a);
    peer_cut(&again);
    mfx_free(&fx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_only_holders_hear),
        cmocka_unit_test(test_directories_are_promised_whole),
        cmocka_unit_test(test_answers_wait_for_the_acknowledgement),
        cmocka_unit_test(test_the_lease_ends_the_wait),
        cmocka_unit_test(test_a_renewal_that_waits_is_read_first),
        cmocka_unit_test(test_a_lease_outlasts_the_clients),
        cmocka_unit_test(test_resumes_within_the_lease),
        cmocka_unit_test(test_forgets_what_it_missed),
        cmocka_unit_test(test_resumes_over_a_restart),
        cmocka_unit_test(test_missed_over_a_restart),
        cmocka_unit_test(test_commands_hold_nothing),
        cmocka_unit_test(test_stop_while_held),
        cmocka_unit_test(test_cancel_while_held),
        cmocka_unit_test(test_no_session_no_trust),
        cmocka_unit_test(test_a_removed_name_is_held),
        cmocka_unit_test(test_absence_waits_for_the_push),
        cmocka_unit_test(test_forget_everything_is_waited_for),
        cmocka_unit_test(test_space_is_for_a_mount_in_the_process),
        cmocka_unit_test(test_ahead_of_the_journal),
        cmocka_unit_test(test_a_lost_end_is_not_given_again),
        cmocka_unit_test(test_starts_over_while_held),
        cmocka_unit_test(test_replaced_while_held),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
