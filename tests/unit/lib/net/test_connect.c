/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/lib/net/net_test.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "lib/base/mtx.h"

#define PATIENCE (10 * TARN_NS_PER_S)

/* A bound TCP socket; nobody listens there until listen(2) is called. */
static int raw_bound(char addr[64])
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof(in);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&in, n), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&in, &n), 0);
    snprintf(addr, 64, "127.0.0.1:%u", (unsigned)ntohs(in.sin_port));
    return fd;
}

static void expect(struct tarn_loop *l, const char *addr, uint64_t timeout_ns, int rc)
{
    struct net_end e = {.l = l, .stop_on_connect = true, .rc = 1};

    e.try = tarn_connect(l, addr, timeout_ns, net_end_connected, &e);
    assert_non_null(e.try);
    assert_int_equal(e.connects, 0); /* never inside */
    net_run(l);
    assert_int_equal(e.connects, 1);
    assert_int_equal(e.rc, rc);
}

static void test_refused(void **state)
{
    char addr[64] = "127.0.0.1:9", path[64];
    int fd = net_is_sim(*state) ? -1 : raw_bound(addr);

    expect(*state, addr, PATIENCE, -TARN_E_CONN_REFUSED);
    expect(*state, net_path(path), PATIENCE, -ENOENT);
    net_path_gone(path);
    if (fd >= 0)
        assert_int_equal(close(fd), 0);
}

static void test_bad_addresses(void **state)
{
    static const char *const bad[] = {
        "",          "127.0.0.1",      "127.0.0.1:",      ":80",      "127.0.0.1:65536",
        "host:-1",   "host:8o",        "[::1]",           "[::1",     "[::1]80",
        "[host]:80", "[127.0.0.1]:80", "unix:",           "unix:rel", "a b:80",
        "a/b:80",    "::1:80",         "127.0.0.1:80:90", "host:",    "\xff:1",
    };

    for (size_t i = 0; i < TARN_ARRAY_LEN(bad); i++) {
        struct tarn_listener *s = NULL;

        expect(*state, bad[i], PATIENCE, -TARN_E_INVALID);
        assert_int_equal(tarn_listen(*state, bad[i], net_end_accept, NULL, &s), -TARN_E_INVALID);
        assert_null(s);
    }
}

static void test_long_path(void **state)
{
    char addr[256] = "unix:/";

    memset(addr + strlen(addr), 'x', sizeof(addr) - strlen(addr) - 1);
    expect(*state, addr, PATIENCE, -ENAMETOOLONG);
}

static void test_cancel_at_once(void **state)
{
    struct net_end e = {.l = *state, .stop_on_connect = true}, server = {.l = *state};
    struct tarn_listener *s = NULL;

    assert_int_equal(tarn_listen(*state, "127.0.0.1:0", net_end_accept, &server, &s), 0);
    e.try = tarn_connect(*state, tarn_listener_addr(s), PATIENCE, net_end_connected, &e);
    tarn_connect_cancel(e.try);
    tarn_connect_cancel(e.try);
    assert_int_equal(e.connects, 0);
    net_run(*state);
    assert_int_equal(e.rc, -TARN_E_CANCELLED);
    assert_null(e.c);
    net_run_for(*state, 3 * NET_MS);
    assert_int_equal(e.connects, 1);
    while (server.c) /* never came, or goes again */
        net_run_for(*state, NET_MS);
    tarn_listener_close(&s);
}

/* A unix connection is up inside tarn_connect(); a cancel before fn still wins. */
static void test_cancel_when_it_is_up(void **state)
{
    struct net_end e = {.l = *state, .stop_on_connect = true}, server = {.l = *state};
    struct tarn_listener *s = NULL;
    char path[64];

    assert_int_equal(tarn_listen(*state, net_path(path), net_end_accept, &server, &s), 0);
    e.try = tarn_connect(*state, path, PATIENCE, net_end_connected, &e);
    tarn_connect_cancel(e.try);
    net_run(*state);
    assert_int_equal(e.rc, -TARN_E_CANCELLED);
    assert_null(e.c);
    if (server.c == NULL && server.closes == 0)
        net_run_for(*state, 5 * NET_MS);
    if (server.c) {
        server.stop_on_close = true;
        net_run(*state);
    }
    tarn_listener_close(&s);
    net_path_gone(path);
}

static void test_free_after_cancel(void **state)
{
    struct net_end e = {0};

    (void)state;
    assert_int_equal(net_setup_uv((void **)&e.l), 0);
    e.try = tarn_connect(e.l, "localhost:9", PATIENCE, net_end_connected, &e);
    tarn_connect_cancel(e.try);
    tarn_loop_free(&e.l);
    assert_int_equal(e.connects, 1);
    assert_int_equal(e.rc, -TARN_E_CANCELLED);
}

static void test_a_name(void **state)
{
    struct net_end e = {.l = *state, .stop_on_connect = true}, server = {.l = *state};
    struct tarn_listener *s = NULL;
    char addr[64];

    assert_int_equal(tarn_listen(*state, "127.0.0.1:0", net_end_accept, &server, &s), 0);
    snprintf(addr, sizeof(addr), "localhost:%s", strrchr(tarn_listener_addr(s), ':') + 1);
    tarn_connect(*state, addr, PATIENCE, net_end_connected, &e);
    net_run(*state);
    assert_int_equal(e.rc, 0);
    assert_string_equal(tarn_conn_peer(e.c), tarn_listener_addr(s));
    assert_int_equal(tarn_conn_peer_uid(e.c), -1);
    tarn_listener_close(&s);
    net_close(&e);
    net_close(&server);
}

static void test_a_name_that_is_none(void **state)
{
    expect(*state, "a..b:1", PATIENCE, -TARN_E_DNS);
}

static void test_a_peer_that_says_nothing(void **state)
{
    char addr[64];
    int fd = raw_bound(addr), fill[4];
    struct sockaddr_in to;
    struct pollfd full = {.fd = fd, .events = POLLIN};
    socklen_t n = sizeof(to);

    assert_int_equal(getsockname(fd, (struct sockaddr *)&to, &n), 0);
    assert_int_equal(listen(fd, 0), 0);
    for (size_t i = 0; i < TARN_ARRAY_LEN(fill); i++) { /* fill its backlog */
        fill[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        assert_true(fill[i] >= 0);
        (void)connect(fill[i], (struct sockaddr *)&to, n);
    }
    assert_int_equal(poll(&full, 1, -1), 1); /* one is there, and it holds no more */
    expect(*state, addr, 30 * NET_MS, -TARN_E_DEADLINE);
    for (size_t i = 0; i < TARN_ARRAY_LEN(fill); i++)
        assert_int_equal(close(fill[i]), 0);
    assert_int_equal(close(fd), 0);
}

static void accept_one(struct tarn_timer *t, void *arg)
{
    int fd = accept(*(const int *)arg, NULL, NULL);

    (void)t;
    assert_true(fd >= 0);
    assert_int_equal(close(fd), 0);
}

static void test_a_full_unix_backlog_is_tried_again(void **state)
{
    char addr[64];
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    struct tarn_timer t = {0};
    struct net_end e = {.l = *state, .stop_on_connect = true};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0), fill[16], filled = 0;

    snprintf(to.sun_path, sizeof(to.sun_path), "%s", net_path(addr) + strlen("unix:"));
    assert_int_equal(bind(fd, (struct sockaddr *)&to, sizeof(to)), 0);
    assert_int_equal(listen(fd, 0), 0);
    for (;; filled++) {
        assert_true(filled < (int)TARN_ARRAY_LEN(fill));
        fill[filled] = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
        assert_true(fill[filled] >= 0);
        if (connect(fill[filled], (struct sockaddr *)&to, sizeof(to)) < 0)
            break;
    }
    assert_int_equal(errno, EAGAIN);
    expect(*state, addr, 20 * NET_MS, -TARN_E_DEADLINE);
    tarn_timer_start(*state, &t, 12 * NET_MS, accept_one, &fd);
    tarn_connect(*state, addr, PATIENCE, net_end_connected, &e);
    net_run(*state);
    assert_int_equal(e.rc, 0);
    assert_false(tarn_timer_running(&t));
    net_close(&e);
    for (int i = 0; i <= filled; i++)
        assert_int_equal(close(fill[i]), 0);
    assert_int_equal(close(fd), 0);
    net_path_gone(addr);
}

static void test_close_in_the_connect_callback(void **state)
{
    struct net_end e = {.l = *state, .close_in_open = true, .stop_on_close = true};
    struct net_end server = {.l = *state, .stop_on_close = true};
    struct tarn_listener *s = NULL;

    assert_int_equal(tarn_listen(*state, "127.0.0.1:0", net_end_accept, &server, &s), 0);
    tarn_connect(*state, tarn_listener_addr(s), PATIENCE, net_end_connected, &e);
    while (e.closes + server.closes < 2)
        net_run(*state);
    assert_int_equal(e.rc, 0);
    assert_int_equal(server.rc, 0);
    tarn_listener_close(&s);
}

static void test_close_in_the_accept_callback(void **state)
{
    struct net_end e = {.l = *state, .stop_on_close = true};
    struct net_end server = {.l = *state, .close_in_open = true, .stop_on_close = true};
    struct tarn_listener *s = NULL;

    assert_int_equal(tarn_listen(*state, "127.0.0.1:0", net_end_accept, &server, &s), 0);
    tarn_connect(*state, tarn_listener_addr(s), PATIENCE, net_end_connected, &e);
    while (e.closes + server.closes < 2)
        net_run(*state);
    assert_int_equal(e.rc, 0);
    assert_int_equal(server.rc, 0);
    tarn_listener_close(&s);
}

/* ---- a loop on a thread of its own ----------------------------------------------------------- */

struct far {
    struct tarn_loop *l;     /* run by the thread */
    struct tarn_task task;   /* starts or ends things there */
    struct tarn_listener *s; /* its listener */
    struct tarn_conn *c[8];  /* accepted and open */
};

static void far_data(struct tarn_conn *c, void *arg, const uint8_t *p, size_t n)
{
    (void)arg;
    assert_int_equal(tarn_conn_write(c, p, n, NULL, 0, 0), 0);
}

static void far_close(struct tarn_conn *c, void *arg, int rc)
{
    struct far *f = arg;

    (void)rc;
    for (size_t i = 0; i < TARN_ARRAY_LEN(f->c); i++)
        if (f->c[i] == c)
            f->c[i] = NULL;
}

static void far_accept(void *arg, struct tarn_conn *c)
{
    static const struct tarn_conn_ops ops = {
        .on_data = far_data, .on_drain = NULL, .on_close = far_close};
    struct far *f = arg;

    for (size_t i = 0; i < TARN_ARRAY_LEN(f->c); i++)
        if (!f->c[i]) {
            f->c[i] = c;
            break;
        }
    tarn_conn_start(c, &ops, f);
}

static void far_end(struct tarn_task *t)
{
    struct far *f = TARN_CONTAINER(t, struct far, task);

    tarn_listener_close(&f->s);
    for (size_t i = 0; i < TARN_ARRAY_LEN(f->c); i++)
        if (f->c[i])
            tarn_conn_close(f->c[i]);
    tarn_loop_stop(f->l);
}

static void *far_thread(void *arg)
{
    tarn_loop_run(((struct far *)arg)->l);
    return NULL;
}

static void test_two_loops(void **state)
{
    struct net_end e = {.l = *state, .stop_on_connect = true};
    struct far f = {0};
    pthread_t t;

    assert_int_equal(net_setup_uv((void **)&f.l), 0);
    assert_int_equal(tarn_listen(f.l, "127.0.0.1:0", far_accept, &f, &f.s), 0);
    tarn_connect(*state, tarn_listener_addr(f.s), PATIENCE, net_end_connected, &e);
    assert_int_equal(tarn_thread_start(&t, "far", far_thread, &f), 0);
    net_run(*state);
    assert_int_equal(e.rc, 0);
    for (int i = 0; i < 100; i++) {
        e.stop_at = e.got + 1000;
        for (int j = 0; j < 10; j++)
            assert_int_equal(tarn_conn_write(e.c, &(char[100]){0}, 100, NULL, 0, 0), 0);
        net_run(*state);
    }
    assert_int_equal(e.got, 100000);
    e.stop_on_close = true;
    tarn_loop_post(f.l, &f.task, far_end);
    net_run(*state);
    assert_int_equal(pthread_join(t, NULL), 0);
    tarn_loop_free(&f.l);
}

int net_test_connect(void)
{
    const struct CMUnitTest tests[] = {
        NET_TEST_BOTH(test_refused),
        NET_TEST_BOTH(test_bad_addresses),
        NET_TEST_BOTH(test_long_path),
        NET_TEST_BOTH(test_cancel_at_once),
        NET_TEST_BOTH(test_cancel_when_it_is_up),
        cmocka_unit_test(test_free_after_cancel),
        NET_TEST_UV(test_a_name),
        NET_TEST_UV(test_a_name_that_is_none),
        NET_TEST_UV(test_a_peer_that_says_nothing),
        NET_TEST_UV(test_a_full_unix_backlog_is_tried_again),
        NET_TEST_BOTH(test_close_in_the_connect_callback),
        NET_TEST_BOTH(test_close_in_the_accept_callback),
        NET_TEST_UV(test_two_loops),
    };

    return cmocka_run_group_tests_name("connecting", tests, NULL, NULL);
}
