/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/lib/net/net_test.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "lib/base/str.h"
#include "lib/base/units.h"

#define PATIENCE (10 * TARN_NS_PER_S)

static void test_port_zero_and_in_use(void **state)
{
    struct tarn_listener *a = NULL, *b = NULL, *c = NULL;

    assert_int_equal(tarn_listen(*state, "127.0.0.1:0", net_end_accept, NULL, &a), 0);
    assert_int_equal(tarn_listen(*state, "127.0.0.1:0", net_end_accept, NULL, &b), 0);
    assert_true(tarn_starts_with(tarn_listener_addr(a), "127.0.0.1:"));
    assert_false(tarn_ends_with(tarn_listener_addr(a), ":0"));
    assert_string_not_equal(tarn_listener_addr(a), tarn_listener_addr(b));
    assert_int_equal(tarn_listen(*state, tarn_listener_addr(a), net_end_accept, NULL, &c),
                     -TARN_E_ADDR_IN_USE);
    assert_null(c);
    tarn_listener_close(&a);
    assert_null(a);
    tarn_listener_close(&a);
    tarn_listener_close(&b);
}

static void test_a_port_is_free_again(void **state)
{
    struct tarn_listener *s = NULL;
    struct net_end e = {.l = *state, .stop_on_connect = true}, server = {.l = *state};
    char addr[64];

    assert_int_equal(tarn_listen(*state, "127.0.0.1:0", net_end_accept, &server, &s), 0);
    snprintf(addr, sizeof(addr), "%s", tarn_listener_addr(s));
    tarn_connect(*state, addr, PATIENCE, net_end_connected, &e);
    while (!e.c || !server.c)
        net_run_for(*state, NET_MS);
    tarn_listener_close(&s);
    assert_int_equal(tarn_conn_write(e.c, "x", 1, NULL, 0, 0), 0); /* its connections stay */
    server.stop_at = 1;
    net_run(*state);
    server.stop_on_close = true;
    tarn_conn_close(server.c); /* this side remembers the connection in the kernel */
    net_run(*state);
    assert_int_equal(tarn_listen(*state, addr, net_end_accept, &server, &s), 0);
    tarn_listener_close(&s);
    net_close(&e);
}

static const char *file_of(const char *addr)
{
    return addr + strlen("unix:");
}

static void test_unix_mode_and_peer(void **state)
{
    struct net_end e = {.l = *state, .stop_on_connect = true}, server = {.l = *state};
    struct tarn_listener *s = NULL;
    mode_t old = umask(0);
    struct stat st;
    char path[64], who[64];

    assert_int_equal(tarn_listen(*state, net_path(path), net_end_accept, &server, &s), 0);
    (void)umask(old);
    assert_int_equal(lstat(file_of(path), &st), 0);
    assert_int_equal(st.st_mode, S_IFSOCK | S_IRUSR | S_IWUSR);
    assert_string_equal(tarn_listener_addr(s), path);
    tarn_connect(*state, path, PATIENCE, net_end_connected, &e);
    while (!e.c || !server.c)
        net_run_for(*state, NET_MS);
    snprintf(who, sizeof(who), "unix:uid=%u", (unsigned)getuid());
    assert_string_equal(tarn_conn_peer(server.c), who);
    assert_int_equal(tarn_conn_peer_uid(server.c), getuid());
    assert_int_equal(tarn_conn_peer_uid(e.c), getuid());
    net_close(&e);
    net_close(&server);
    tarn_listener_close(&s);
    assert_int_not_equal(lstat(file_of(path), &st), 0); /* removed */
    net_path_gone(path);
}

static void test_unix_file_in_the_way(void **state)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    struct tarn_listener *s = NULL, *t = NULL;
    struct stat st;
    char path[64];
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    snprintf(un.sun_path, sizeof(un.sun_path), "%s", file_of(net_path(path)));
    assert_int_equal(bind(fd, (struct sockaddr *)&un, sizeof(un)), 0);
    assert_int_equal(close(fd), 0); /* a socket that nobody serves any more */
    assert_int_equal(tarn_listen(*state, path, net_end_accept, NULL, &s), 0);
    assert_int_equal(tarn_listen(*state, path, net_end_accept, NULL, &t), -TARN_E_ADDR_IN_USE);
    assert_int_equal(lstat(file_of(path), &st), 0); /* the one in use stays */

    assert_int_equal(unlink(file_of(path)), 0); /* somebody puts a file there */
    fd = open(file_of(path), O_CREAT | O_WRONLY, 0600);
    assert_true(fd >= 0);
    assert_int_equal(close(fd), 0);
    tarn_listener_close(&s);
    assert_int_equal(lstat(file_of(path), &st), 0); /* which is not ours to remove */
    assert_int_equal(tarn_listen(*state, path, net_end_accept, NULL, &s), -TARN_E_ADDR_IN_USE);
    net_path_gone(path);
}

static void test_not_our_address(void **state)
{
    struct tarn_listener *s = NULL;

    assert_int_equal(tarn_listen(*state, "192.0.2.1:0", net_end_accept, NULL, &s), -EADDRNOTAVAIL);
    assert_int_equal(tarn_listen(*state, "unix:/nowhere/x", net_end_accept, NULL, &s), -ENOENT);
    assert_null(s);
}

struct gate {
    struct tarn_listener *s; /* closed by the first accept */
    struct net_end end;      /* gets it */
};

static void gate_accept(void *arg, struct tarn_conn *c)
{
    struct gate *g = arg;

    tarn_listener_close(&g->s);
    net_end_accept(&g->end, c);
    tarn_loop_stop(g->end.l);
}

static void test_close_the_listener_in_accept(void **state)
{
    struct net_end a = {.l = *state}, b = {.l = *state};
    struct gate g = {.end.l = *state};
    char addr[64];

    assert_int_equal(tarn_listen(*state, "127.0.0.1:0", gate_accept, &g, &g.s), 0);
    snprintf(addr, sizeof(addr), "%s", tarn_listener_addr(g.s));
    tarn_connect(*state, addr, PATIENCE, net_end_connected, &a);
    tarn_connect(*state, addr, PATIENCE, net_end_connected, &b);
    net_run(*state);
    while (a.connects + b.connects < 2)
        net_run_for(*state, NET_MS);
    assert_non_null(g.end.c);
    net_close(&a);
    net_close(&b);
    net_close(&g.end);
}

static int raw_connect(const char *addr)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    uint64_t port;

    assert_int_equal(tarn_parse_u64(strrchr(addr, ':') + 1, &port), 0);
    in.sin_port = htons((uint16_t)port);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&in, sizeof(in)), 0);
    return fd;
}

static void test_a_reset_is_a_lost_connection(void **state)
{
    const struct linger hard = {.l_onoff = 1};
    struct net_end server = {.l = *state, .stop_at = 1, .stop_on_close = true};
    struct tarn_listener *s = NULL;
    int fd;

    assert_int_equal(tarn_listen(*state, "127.0.0.1:0", net_end_accept, &server, &s), 0);
    fd = raw_connect(tarn_listener_addr(s));
    assert_int_equal(write(fd, "x", 1), 1);
    net_run(*state);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard)), 0);
    assert_int_equal(close(fd), 0);
    net_run(*state);
    assert_int_equal(server.rc, -TARN_E_CONN_LOST);
    tarn_listener_close(&s);
}

/* The peer does nothing that would wake the loop: writes of on_drain leave all the same. */
static void test_writes_in_drain_need_no_event(void **state)
{
    struct net_end server = {.l = *state, .stop_at = 1};
    struct tarn_listener *s = NULL;
    char got[101];
    int fd;

    assert_int_equal(tarn_listen(*state, "127.0.0.1:0", net_end_accept, &server, &s), 0);
    fd = raw_connect(tarn_listener_addr(s));
    assert_int_equal(write(fd, "x", 1), 1);
    net_run(*state);
    server.say_in_drain = 100;
    server.stop_on_drain = true;
    assert_int_equal(tarn_conn_write(server.c, "x", 1, NULL, 0, 0), 0);
    net_run(*state);
    assert_int_equal(server.drains, 101);
    assert_int_equal(recv(fd, got, sizeof(got), MSG_WAITALL), sizeof(got));
    net_close(&server);
    assert_int_equal(close(fd), 0);
    tarn_listener_close(&s);
}

static uint64_t cpu_ns(void)
{
    struct timespec ts;

    assert_int_equal(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts), 0);
    return (uint64_t)ts.tv_sec * TARN_NS_PER_S + (uint64_t)ts.tv_nsec;
}

/* Without a free descriptor accepting rests instead of spinning, and goes on when there is one. */
static void test_no_descriptors(void **state)
{
    struct net_end server = {.l = *state, .stop_at = 1};
    struct tarn_listener *s = NULL;
    struct rlimit old, tight;
    uint64_t cpu;
    int fd;

    assert_int_equal(tarn_listen(*state, "127.0.0.1:0", net_end_accept, &server, &s), 0);
    net_run_for(*state, NET_MS);
    fd = raw_connect(tarn_listener_addr(s));
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
    tight = old;
    tight.rlim_cur = (rlim_t)fd; /* numbers below it are all taken: fd was the lowest free one */
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &tight), 0);
    cpu = cpu_ns();
    net_run_for(*state, 250 * NET_MS);
    cpu = cpu_ns() - cpu;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
    assert_null(server.c);
    assert_true(cpu < 100 * NET_MS);
    assert_int_equal(write(fd, "x", 1), 1);
    net_run(*state);
    assert_non_null(server.c);
    net_close(&server);
    assert_int_equal(close(fd), 0);
    tarn_listener_close(&s);
}

int net_test_listen(void)
{
    const struct CMUnitTest tests[] = {
        NET_TEST_BOTH(test_port_zero_and_in_use),
        NET_TEST_BOTH(test_a_port_is_free_again),
        NET_TEST_UV(test_unix_mode_and_peer),
        NET_TEST_UV(test_unix_file_in_the_way),
        NET_TEST_UV(test_not_our_address),
        NET_TEST_BOTH(test_close_the_listener_in_accept),
        NET_TEST_UV(test_a_reset_is_a_lost_connection),
        NET_TEST_UV(test_writes_in_drain_need_no_event),
        NET_TEST_UV(test_no_descriptors),
    };

    return cmocka_run_group_tests_name("listening", tests, NULL, NULL);
}
