/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/lib/net/net_test.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/buf.h"
#include "lib/base/limits.h"

/* ---- echo ------------------------------------------------------------------------------------ */

#define ECHO_BYTES   (6u << 20) /* sent, and to come back */
#define ECHO_AHEAD   (1u << 20) /* most bytes queued by the sender */
#define ECHO_PIECE   20000u     /* most bytes of one write */
#define ECHO_PAYLOAD (300u << 10)
#define ECHO_ROOM    100000u

struct echo {
    struct tarn_loop *l;            /* stopped at the end */
    struct tarn_conn *client;       /* NULL after its close */
    struct tarn_conn *server;       /* likewise */
    struct tarn_listener *listener; /* of the server, or NULL */
    struct tarn_buf *payload;       /* the pattern, by reference */
    struct tarn_rng_seeded rng;     /* sizes of pieces */
    size_t total;                   /* to be sent */
    size_t sent;                    /* by the client */
    size_t served;                  /* by the server */
    size_t got;                     /* back at the client */
    unsigned closes;                /* on_close calls */
    uint8_t room[ECHO_ROOM];        /* for some of what comes back */
    size_t room_bytes;              /* that may come there next; 0: elsewhere */
    unsigned rooms;                 /* on_data calls for it */
};

static uint8_t echo_byte(size_t i) /* repeats with a period that no buffer size divides */
{
    return (uint8_t)(i % 251);
}

static void echo_send(struct echo *e)
{
    uint8_t piece[ECHO_PIECE];

    while (e->sent < e->total && tarn_conn_queued(e->client) < ECHO_AHEAD) {
        size_t left = e->total - e->sent;
        size_t n = tarn_rng_below(&e->rng.base, ECHO_PIECE + 1);
        size_t len = tarn_rng_below(&e->rng.base, ECHO_PAYLOAD), off;

        n = TARN_MIN(left, n);
        len = TARN_MIN(left - n, len);
        off = (e->sent + n) % 251;
        if (tarn_rng_below(&e->rng.base, 2))
            len = 0; /* every other write is small */
        for (size_t i = 0; i < n; i++)
            piece[i] = echo_byte(e->sent + i);
        assert_int_equal(
            tarn_conn_write(e->client, piece, n, len ? e->payload : NULL, len ? off : 0, len), 0);
        e->sent += n + len;
    }
}

static void echo_client_data(struct tarn_conn *c, void *arg, const uint8_t *p, size_t n)
{
    struct echo *e = arg;

    assert_ptr_equal(c, e->client);
    assert_int_equal(p == e->room, e->room_bytes > 0);
    assert_true(e->room_bytes == 0 || n <= e->room_bytes);
    e->rooms += e->room_bytes > 0;
    e->room_bytes = 0;
    for (size_t i = 0; i < n; i++)
        if (p[i] != echo_byte(e->got + i))
            fail_msg("byte %zu is wrong", e->got + i);
    e->got += n;
    assert_true(e->got <= e->sent);
    echo_send(e);
    if (e->got == e->total)
        tarn_conn_close(c);
}

static uint8_t *echo_room(struct tarn_conn *c, void *arg, size_t *ret_n)
{
    struct echo *e = arg;

    assert_ptr_equal(c, e->client);
    *ret_n = e->room_bytes = tarn_rng_below(&e->rng.base, 2) * /* every other time */
                             (1 + tarn_rng_below(&e->rng.base, ECHO_ROOM));
    return e->room_bytes ? e->room : NULL;
}

static void echo_drain(struct tarn_conn *c, void *arg)
{
    (void)c;
    echo_send(arg);
}

static void echo_server_data(struct tarn_conn *c, void *arg, const uint8_t *p, size_t n)
{
    struct echo *e = arg;

    assert_int_equal(tarn_conn_write(c, p, n, NULL, 0, 0), 0);
    e->served += n;
    if (tarn_conn_queued(c) > ECHO_AHEAD)
        tarn_conn_pause(c, true); /* until it is drained */
}

static void echo_server_drain(struct tarn_conn *c, void *arg)
{
    (void)arg;
    tarn_conn_pause(c, false);
}

static void echo_close(struct tarn_conn *c, void *arg, int rc)
{
    struct echo *e = arg;

    assert_int_equal(rc, 0);
    assert_true(c == e->client || c == e->server);
    if (++e->closes == 2)
        tarn_loop_stop(e->l);
}

static const struct tarn_conn_ops echo_client_ops = {
    .on_data = echo_client_data, .room = echo_room, .on_drain = echo_drain, .on_close = echo_close};
static const struct tarn_conn_ops echo_server_ops = {
    .on_data = echo_server_data, .on_drain = echo_server_drain, .on_close = echo_close};

static void echo_accepted(void *arg, struct tarn_conn *c)
{
    struct echo *e = arg;

    assert_null(e->server);
    e->server = c;
    tarn_conn_start(c, &echo_server_ops, e);
}

static void echo_connected(void *arg, int rc, struct tarn_conn *c)
{
    struct echo *e = arg;

    assert_int_equal(rc, 0);
    e->client = c;
    tarn_conn_start(c, &echo_client_ops, e);
    echo_send(e);
}

static void echo_init(struct echo *e, struct tarn_loop *l)
{
    *e = (struct echo){.l = l, .total = net_is_sim(l) ? ECHO_BYTES / 4 : ECHO_BYTES};
    e->payload = tarn_buf_new(ECHO_PAYLOAD + 251);
    assert_non_null(e->payload);
    for (size_t i = 0; i < e->payload->cap; i++)
        e->payload->p[i] = echo_byte(i);
    tarn_rng_seeded_init(&e->rng, 11);
}

static void echo_check(struct echo *e)
{
    assert_int_equal(e->got, e->total);
    assert_int_equal(e->served, e->total);
    assert_true(e->rooms > 0);
    assert_int_equal(e->payload->refs, 1); /* no reference is left */
    tarn_buf_unref(&e->payload);
}

static void echo_over(struct tarn_loop *l, const char *addr)
{
    struct echo e;

    echo_init(&e, l);
    assert_int_equal(tarn_listen(l, addr, echo_accepted, &e, &e.listener), 0);
    assert_non_null(
        tarn_connect(l, tarn_listener_addr(e.listener), 10 * TARN_NS_PER_S, echo_connected, &e));
    net_run(l);
    tarn_listener_close(&e.listener);
    echo_check(&e);
}

static void test_echo_tcp(void **state)
{
    echo_over(*state, "127.0.0.1:0");
}

static void test_echo_tcp6(void **state)
{
    echo_over(*state, "[::1]:0");
}

static void test_echo_unix(void **state)
{
    char path[64];

    echo_over(*state, net_path(path));
    net_path_gone(path);
}

static void test_echo_pair(void **state)
{
    struct tarn_conn *a = NULL, *b = NULL;
    struct echo e;

    echo_init(&e, *state);
    assert_int_equal(tarn_conn_pair(e.l, &a, &b), 0);
    echo_accepted(&e, a);
    echo_connected(&e, 0, b);
    net_run(e.l);
    echo_check(&e);
}

/* ---- back pressure --------------------------------------------------------------------------- */

static void test_a_full_queue_is_busy(void **state)
{
    struct net_end a = {0}, b = {.stop_at = 1};
    struct tarn_buf *big = tarn_buf_new(1u << 20);
    size_t taken = 0;
    int rc;

    assert_non_null(big);
    memset(big->p, 'x', big->cap);
    net_link(*state, &a, &b);
    tarn_conn_pause(b.c, true);
    while ((rc = tarn_conn_write(a.c, "0123456789", 10, big, 0, big->cap)) == 0)
        taken += big->cap + 10;
    assert_int_equal(rc, -TARN_E_BUSY);
    assert_true(tarn_conn_queued(a.c) <= TARN_CONN_WRITE_MAX);
    assert_true(tarn_conn_queued(a.c) > TARN_CONN_WRITE_MAX - (2u << 20));
    net_run_for(*state, 5 * NET_MS);
    assert_int_equal(b.got, 0); /* paused */
    assert_int_equal(a.drains, 0);
    assert_true(big->refs > 1);

    tarn_conn_pause(b.c, false);
    b.stop_at = taken;
    a.stop_on_drain = true;
    while (b.got < taken || a.drains == 0)
        net_run(*state);
    assert_int_equal(b.got, taken);
    assert_int_equal(tarn_conn_queued(a.c), 0);
    assert_int_equal(big->refs, 1);

    assert_int_equal(tarn_conn_write(a.c, "!", 1, NULL, 0, 0), 0); /* room again */
    b.stop_at = taken + 1;
    a.stop_on_drain = false;
    net_run(*state);
    tarn_conn_close(a.c);
    b.stop_on_close = true;
    net_run(*state);
    tarn_buf_unref(&big);
}

static void test_pause_before_start_and_again(void **state)
{
    struct tarn_conn *ca = NULL, *cb = NULL;
    struct net_end a = {.l = *state}, b = {.l = *state, .stop_at = 5};

    assert_int_equal(tarn_conn_pair(*state, &ca, &cb), 0);
    tarn_conn_pause(cb, true);
    net_end_start(&a, ca);
    net_end_start(&b, cb);
    assert_int_equal(tarn_conn_write(ca, "hello", 5, NULL, 0, 0), 0);
    net_run_for(*state, 3 * NET_MS);
    assert_int_equal(b.got, 0);
    tarn_conn_pause(cb, false);
    net_run(*state);
    assert_string_equal(b.text, "hello");
    tarn_conn_pause(cb, true);
    tarn_conn_close(ca);
    net_run_for(*state, 3 * NET_MS);
    assert_int_equal(a.closes, 1);
    assert_int_equal(b.closes, 0); /* who does not read does not see the end */
    tarn_conn_pause(cb, false);
    b.stop_on_close = true;
    net_run(*state);
    assert_int_equal(b.rc, 0);
}

/* ---- closing --------------------------------------------------------------------------------- */

static void test_close_is_told_once(void **state)
{
    struct net_end a = {.stop_on_close = true}, b = {.stop_on_close = true};

    net_link(*state, &a, &b);
    tarn_conn_close(a.c);
    tarn_conn_close(a.c);
    assert_int_equal(a.closes, 0);                                 /* never inside */
    assert_int_equal(tarn_conn_write(a.c, "x", 1, NULL, 0, 0), 0); /* dropped */
    while (a.closes + b.closes < 2)
        net_run(*state);
    assert_int_equal(a.rc, 0);
    assert_int_equal(b.rc, 0);
    net_run_for(*state, 3 * NET_MS);
    assert_int_equal(a.closes, 1);
    assert_int_equal(b.closes, 1);
    assert_int_equal(b.got, 0);
}

static void test_close_in_data(void **state)
{
    struct net_end a = {.stop_on_close = true}, b = {.close_in_data = true, .stop_on_close = true};

    net_link(*state, &a, &b);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(tarn_conn_write(a.c, "0123456789", 10, NULL, 0, 0), 0);
    while (a.closes + b.closes < 2)
        net_run(*state);
    assert_int_equal(b.rc, 0);
    assert_true(b.got > 0);
}

static void test_close_in_drain(void **state)
{
    struct net_end a = {.close_in_drain = true}, b = {.stop_on_close = true};

    net_link(*state, &a, &b);
    assert_int_equal(tarn_conn_write(a.c, "last words", 10, NULL, 0, 0), 0);
    while (b.closes == 0)
        net_run(*state);
    assert_int_equal(a.drains, 1);
    assert_int_equal(a.closes, 1);
    assert_string_equal(b.text, "last words"); /* a drained queue is with the peer */
}

static void say_and_close(struct tarn_timer *t, void *arg)
{
    struct net_end *e = arg;

    (void)t;
    assert_int_equal(tarn_conn_write(e->c, "good", 4, NULL, 0, 0), 0);
    assert_int_equal(tarn_conn_write(e->c, "bye", 3, NULL, 0, 0), 0);
    tarn_conn_close(e->c);
}

static void test_close_after_write_keeps_what_fits(void **state)
{
    struct net_end a = {0}, b = {.stop_on_close = true};
    struct tarn_timer t = {0};

    net_link(*state, &a, &b);
    tarn_timer_start(*state, &t, 0, say_and_close, &a);
    net_run(*state);
    assert_string_equal(b.text, "goodbye");
    assert_int_equal(b.rc, 0);
    assert_int_equal(a.closes, 1);
}

static void test_close_with_a_full_queue_drops_it(void **state)
{
    struct net_end a = {.stop_on_close = true}, b = {0};
    struct tarn_buf *big = tarn_buf_new(8u << 20);

    assert_non_null(big);
    memset(big->p, 'x', big->cap);
    net_link(*state, &a, &b);
    tarn_conn_pause(b.c, true);
    assert_int_equal(tarn_conn_write(a.c, "x", 1, big, 0, big->cap), 0);
    net_run_for(*state, 3 * NET_MS);
    assert_true(big->refs > 1);
    tarn_conn_close(a.c);
    net_run(*state);
    if (!net_is_sim(*state))
        assert_int_equal(big->refs, 1);
    tarn_conn_pause(b.c, false);
    b.stop_on_close = true;
    net_run(*state);
    assert_int_equal(b.rc, 0);
    assert_true(b.got > 0 && b.got < big->cap);
    assert_int_equal(big->refs, 1);
    tarn_buf_unref(&big);
}

/* The peer says why and goes, while we write: its words are read before on_close. */
static void test_last_words_of_a_peer(void **state)
{
    struct net_end a = {.stop_on_close = true}, b = {.stop_on_close = true};

    net_link(*state, &a, &b);
    tarn_conn_pause(a.c, true);
    b.stop_on_drain = true;
    assert_int_equal(tarn_conn_write(b.c, "go away", 7, NULL, 0, 0), 0);
    net_run(*state);
    tarn_conn_close(b.c);
    net_run(*state);
    assert_int_equal(b.closes, 1);
    tarn_conn_pause(a.c, false);
    assert_int_equal(tarn_conn_write(a.c, "more", 4, NULL, 0, 0), 0);
    while (a.closes == 0)
        net_run(*state);
    assert_string_equal(a.text, "go away");
}

/* Half of the ends close while both write: each is told once, nothing is lost track of. */
static void test_free_finishes_closes(void **state)
{
    struct net_end a = {0}, b = {0};
    struct tarn_loop *l = NULL;

    assert_int_equal(net_is_sim(*state) ? net_setup_sim((void **)&l) : net_setup_uv((void **)&l),
                     0);
    net_link(l, &a, &b);
    assert_int_equal(tarn_conn_write(a.c, "x", 1, NULL, 0, 0), 0);
    tarn_conn_close(a.c);
    tarn_conn_close(b.c);
    tarn_loop_free(&l);
    assert_int_equal(a.closes, 1);
    assert_int_equal(b.closes, 1);
}

struct relay {
    struct net_end end; /* the other side */
    unsigned left;      /* writes to do in on_drain */
};

static void relay_data(struct tarn_conn *c, void *arg, const uint8_t *p, size_t n)
{
    (void)c, (void)arg, (void)p, (void)n;
    fail();
}

static void relay_drain(struct tarn_conn *c, void *arg)
{
    struct relay *r = arg;

    if (r->left == 0) {
        tarn_conn_close(c);
        return;
    }
    r->left--;
    assert_int_equal(tarn_conn_write(c, "x", 1, NULL, 0, 0), 0);
}

static void relay_close(struct tarn_conn *c, void *arg, int rc)
{
    (void)c, (void)arg;
    assert_int_equal(rc, 0);
}

static void test_a_write_in_drain_goes_on(void **state)
{
    static const struct tarn_conn_ops ops = {
        .on_data = relay_data, .on_drain = relay_drain, .on_close = relay_close};
    struct relay r = {.end = {.l = *state, .stop_on_close = true}, .left = 1000};
    struct tarn_conn *a = NULL, *b = NULL;

    assert_int_equal(tarn_conn_pair(*state, &a, &b), 0);
    tarn_conn_start(a, &ops, &r);
    net_end_start(&r.end, b);
    assert_int_equal(tarn_conn_write(a, "x", 1, NULL, 0, 0), 0);
    net_run(*state);
    assert_int_equal(r.end.got, 1001);
}

static void test_names(void **state)
{
    struct net_end a = {0}, b = {0};

    net_link(*state, &a, &b);
    assert_string_equal(tarn_conn_peer(a.c), "pair");
    assert_int_equal(tarn_conn_peer_uid(a.c), net_is_sim(*state) ? -1 : (int64_t)getuid());
    net_close(&a);
    net_close(&b);
}

static void test_restart_tells_others(void **state)
{
    struct net_end a = {0}, b = {.stop_at = 1}, later = {.l = *state, .stop_at = 3};

    net_link(*state, &a, &b);
    assert_int_equal(tarn_conn_write(a.c, "1", 1, NULL, 0, 0), 0);
    net_run(*state);
    net_end_start(&later, b.c);
    assert_int_equal(tarn_conn_write(a.c, "234", 3, NULL, 0, 0), 0);
    net_run(*state);
    assert_string_equal(b.text, "1");
    assert_string_equal(later.text, "234");
    net_close(&a);
    net_close(&later);
}

/* ---- payloads in a pipe ---------------------------------------------------------------------- */

#define PIPE_BYTES (512u << 10)
#define PIPES      16u

struct pipes {
    struct net_end end; /* what receives */
    size_t got;
    unsigned wrong;
};

/* A word, then what the n-th pipe has. */
static uint8_t pipes_byte(size_t at)
{
    size_t in = at % (PIPE_BYTES + 4);

    return in < 4 ? (uint8_t) "word"[in] : echo_byte(in - 4 + at / (PIPE_BYTES + 4));
}

static void pipes_data(struct tarn_conn *c, void *arg, const uint8_t *p, size_t n)
{
    struct pipes *r = arg;

    (void)c;
    for (size_t i = 0; i < n; i++)
        r->wrong += p[i] != pipes_byte(r->got + i);
    r->got += n;
    if (r->got == (PIPE_BYTES + 4) * (size_t)PIPES)
        tarn_loop_stop(r->end.l);
}

static void pipes_close(struct tarn_conn *c, void *arg, int rc)
{
    struct pipes *r = arg;

    (void)c, (void)rc;
    r->end.c = NULL;
}

static unsigned descriptors(void)
{
    unsigned n = 0;

    for (int fd = 0; fd < 1024; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

/* Bytes that echo_byte() repeats, so that each pipe can begin elsewhere. */
static FILE *pipes_file(void)
{
    FILE *f = tmpfile();

    assert_non_null(f);
    for (size_t i = 0; i < 251 * 4096 * 2; i++)
        (void)fputc(echo_byte(i / 4096 % 251 + i % 4096), f);
    assert_int_equal(fflush(f), 0);
    return f;
}

static void pipes_write(struct tarn_conn *c, FILE *f, unsigned nr)
{
    struct tarn_buf *b = tarn_buf_pipe(PIPE_BYTES);

    assert_non_null(b);
    for (size_t at = 0; at < PIPE_BYTES; at += 4096) /* the page that begins with this byte */
        assert_int_equal(tarn_buf_splice(b, fileno(f), (at + nr) % 251 * 4096, 4096), 0);
    assert_int_equal(tarn_conn_write(c, "word", 4, b, 0, PIPE_BYTES), 0);
    tarn_buf_unref(&b);
}

static void pipes_run(struct tarn_loop *l)
{
    static const struct tarn_conn_ops ops = {.on_data = pipes_data, .on_close = pipes_close};
    struct pipes r = {.end = {.l = l}};
    struct tarn_conn *ca = NULL, *cb = NULL;
    FILE *f = pipes_file();
    struct net_end a = {.l = l};

    assert_int_equal(tarn_conn_pair(l, &ca, &cb), 0);
    net_end_start(&a, ca);
    r.end.c = cb;
    tarn_conn_start(cb, &ops, &r);
    tarn_conn_pause(cb, true);
    for (unsigned i = 0; i < PIPES / 2; i++)
        pipes_write(ca, f, i);
    net_run_for(l, 20 * NET_MS); /* the socket is full */
    tarn_conn_pause(cb, false);
    for (unsigned i = PIPES / 2; i < PIPES; i++)
        pipes_write(ca, f, i);
    net_run(l);
    assert_int_equal(r.wrong, 0);
    tarn_conn_pause(cb, true);
    pipes_write(ca, f, 0); /* and one that does not go out whole */
    pipes_write(ca, f, 0);
    net_run_for(l, 20 * NET_MS);
    net_close(&a);
    if (r.end.c)
        tarn_conn_close(r.end.c);
    net_run_for(l, 20 * NET_MS);
    (void)fclose(f);
}

static void test_payloads_in_pipes(void **state)
{
    unsigned before;

    pipes_run(*state);
    before = descriptors();
    pipes_run(*state);
    assert_int_equal(descriptors(), before);
}

int net_test_conn(void)
{
    const struct CMUnitTest tests[] = {
        NET_TEST_BOTH(test_echo_tcp),
        NET_TEST_UV(test_echo_tcp6),
        NET_TEST_BOTH(test_echo_unix),
        NET_TEST_BOTH(test_echo_pair),
        NET_TEST_UV(test_a_full_queue_is_busy),
        NET_TEST_SIM(test_a_full_queue_is_busy),
        NET_TEST_BOTH(test_pause_before_start_and_again),
        NET_TEST_BOTH(test_close_is_told_once),
        NET_TEST_BOTH(test_close_in_data),
        NET_TEST_BOTH(test_close_in_drain),
        NET_TEST_BOTH(test_close_after_write_keeps_what_fits),
        NET_TEST_UV(test_close_with_a_full_queue_drops_it),
        NET_TEST_SIM(test_close_with_a_full_queue_drops_it),
        NET_TEST_BOTH(test_last_words_of_a_peer),
        NET_TEST_BOTH(test_free_finishes_closes),
        NET_TEST_BOTH(test_a_write_in_drain_goes_on),
        NET_TEST_BOTH(test_names),
        NET_TEST_BOTH(test_restart_tells_others),
        NET_TEST_UV(test_payloads_in_pipes),
        NET_TEST_SIM(test_payloads_in_pipes),
    };

    return cmocka_run_group_tests_name("connections", tests, NULL, NULL);
}
