/* SPDX-License-Identifier: Apache-2.0 */
/* The listener, spoken to over a plain socket. */
#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cmocka.h>

#include "lib/base/err.h"
#include "lib/http/http.h"
#include "lib/stat/stat.h"

static const struct tarn_stat_row rows[] = {{TARN_STAT_COUNTER, "hits", "", "calls", "Hits."}};
static const struct tarn_stat_table table = TARN_STAT_TABLE("Test", rows);

/* The listener under test. */
struct server {
    struct tarn_http *h;       /* itself */
    struct tarn_stat_reg *reg; /* what /metrics shows */
    struct tarn_stats *stats;  /* one counter */
    _Atomic int ready;         /* what /readyz says */
    _Atomic unsigned calls;    /* of /echo */
};

static int server_ready(void *arg, struct tarn_errbuf *e)
{
    struct server *s = arg;

    return s->ready ? 0 : tarn_err_set(e, -TARN_E_BUSY, "still listing");
}

static void server_echo(void *arg, const struct tarn_http_req *req, struct tarn_http_reply *reply)
{
    struct server *s = arg;
    const char *token = tarn_http_header(req, "X-Token"), *q = tarn_http_query(req, "q");

    s->calls++;
    reply->status = 201;
    tarn_str_addf(&reply->body, "method=%d path=%s rest=%s token=%s q=%s body=%s", (int)req->method,
                  req->path, req->rest, token ? token : "none", q ? q : "none", req->body);
}

static int setup(void **state)
{
    struct server *s = calloc(1, sizeof(*s));
    const struct tarn_http_route routes[] = {
        {"/echo", false, TARN_HTTP_GET | TARN_HTTP_POST, 16, server_echo, s},
        {"/api/", true, TARN_HTTP_GET | TARN_HTTP_DELETE, 0, server_echo, s},
        {"/api/v1/", true, TARN_HTTP_GET, 0, server_echo, s},
    };
    struct tarn_http_args args = {.addr = "127.0.0.1:0",
                                  .threads = 2,
                                  .routes = routes,
                                  .n_routes = 3,
                                  .version = "1.2.3",
                                  .commit = "abc",
                                  .ready = server_ready};

    assert_non_null(s);
    s->reg = tarn_stat_reg_new();
    s->stats = tarn_stats_new(&table, "");
    tarn_stat_reg_add(s->reg, s->stats);
    args.reg = s->reg;
    args.check_arg = s;
    assert_int_equal(tarn_http_start(&args, &s->h, NULL), 0);
    *state = s;
    return 0;
}

static int teardown(void **state)
{
    struct server *s = *state;

    tarn_http_stop(&s->h);
    assert_null(s->h);
    tarn_http_stop(&s->h);
    tarn_stat_reg_free(&s->reg);
    tarn_stats_free(&s->stats);
    free(s);
    return 0;
}

static int dial(const struct server *s)
{
    struct sockaddr_in in = {.sin_family = AF_INET};
    const struct timeval limit = {.tv_sec = 30};
    const char *colon = strrchr(tarn_http_addr(s->h), ':');
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    assert_non_null(colon);
    in.sin_port = htons((uint16_t)strtoul(colon + 1, NULL, 10));
    in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)), 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&in, sizeof(in)), 0);
    return fd;
}

/* Sends `request` and reads to the end of the connection. The answer is the caller's. */
static char *talk(const struct server *s, const char *request)
{
    struct tarn_str answer = {0};
    int fd = dial(s);
    ssize_t n;

    assert_int_equal(send(fd, request, strlen(request), MSG_NOSIGNAL), (ssize_t)strlen(request));
    while ((n = recv(fd, tarn_str_room(&answer, 4096), 4096, 0)) > 0) {
        answer.len += (size_t)n;
        answer.p[answer.len] = 0;
    }
    assert_true(n == 0 || errno == ECONNRESET); /* a refused body may be cut off */
    assert_int_equal(close(fd), 0);
    return tarn_str_detach(&answer);
}

static char *get(const struct server *s, const char *path)
{
    char request[256];

    (void)snprintf(request, sizeof(request),
                   "GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", path);
    return talk(s, request);
}

/* Asserts the status and what the answer ends in. */
static void expect(char *answer, const char *status, const char *end)
{
    size_t n = strlen(answer), m = strlen(end);

    if (!tarn_starts_with(answer, "HTTP/1.1 ") || strncmp(answer + 9, status, 3) != 0 || n < m ||
        strcmp(answer + n - m, end) != 0)
        fail_msg("wanted %s … %s, got %s", status, end, answer);
    free(answer);
}

static void test_builtin(void **state)
{
    struct server *s = *state;
    char *answer;

    assert_true(tarn_starts_with(tarn_http_addr(s->h), "127.0.0.1:"));
    tarn_stats_add(s->stats, 0, 0, 42);
    answer = get(s, "/metrics");
    assert_non_null(strstr(answer, "Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n"));
    expect(answer, "200", "# TYPE tarn_hits_total counter\ntarn_hits_total 42\n");
    expect(get(s, "/healthz"), "200", "\r\n\r\nok\n");
    expect(get(s, "/readyz"), "503", "\r\n\r\nstill listing\n");
    s->ready = 1;
    expect(get(s, "/readyz"), "200", "\r\n\r\nok\n");
    answer = get(s, "/version?x=y");
    assert_non_null(strstr(answer, "Content-Type: application/json\r\n"));
    expect(answer, "200", "\r\n\r\n{\"version\":\"1.2.3\",\"commit\":\"abc\"}\n");
    expect(get(s, "/nothing"), "404", "not found\n");
    expect(get(s, "/healthz/"), "404", "not found\n");
}

static void test_routes(void **state)
{
    struct server *s = *state;

    expect(get(s, "/echo?q=a%20b&x=1"), "201", "method=1 path=/echo rest= token=none q=a b body=");
    expect(get(s, "/echo?q"), "201", "q= body=");
    expect(talk(s, "GET /echo HTTP/1.1\r\nHost: x\r\nx-token: t\r\nConnection: close\r\n\r\n"),
           "201", "token=t q=none body=");
    expect(get(s, "/api/x/y"), "201", "rest=x/y token=none q=none body=");
    expect(get(s, "/api/v1/"), "201", "rest= token=none q=none body="); /* the longer prefix */
    expect(get(s, "/api"), "404", "not found\n");
}

static void test_head(void **state)
{
    struct server *s = *state;
    char *answer = talk(s, "HEAD /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");

    assert_non_null(strstr(answer, "Content-Length: 35\r\n"));
    expect(answer, "200", "\r\n\r\n");
    assert_int_equal(s->calls, 0);
}

static void test_methods(void **state)
{
    struct server *s = *state;
    char *answer = talk(s, "DELETE /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");

    assert_non_null(strstr(answer, "Allow: GET, HEAD, POST\r\n"));
    expect(answer, "405", "method not allowed\n");
    expect(talk(s, "BREW /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"), "405",
           "not allowed\n");
    expect(talk(s, "DELETE /api/j HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"), "201",
           "method=8 path=/api/j rest=j token=none q=none body=");
    assert_int_equal(s->calls, 1);
}

static void test_bodies(void **state)
{
    struct server *s = *state;

    expect(talk(s,
                "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 16\r\nConnection: close\r\n\r\n"
                "0123456789abcdef"),
           "201", "body=0123456789abcdef");
    expect(talk(s, "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: "
                   "close\r\n\r\n"
                   "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"),
           "201", "body=abcde");
    assert_int_equal(s->calls, 2);
    expect(talk(s, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 17\r\n\r\n"), "413",
           "the body is larger than is taken here\n");
    expect(talk(s, "GET /version HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n"), "413",
           "the body is larger than is taken here\n");
    expect(talk(s, "GET /version HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"), "413",
           "no body is taken here\n");
    free(talk(s, "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
                 "11\r\n0123456789abcdefg\r\n0\r\n\r\n")); /* too long: cut off, never called */
    assert_int_equal(s->calls, 2);
    expect(get(s, "/healthz"), "200", "ok\n");
}

static void test_garbage(void **state)
{
    static const char *const requests[] = {
        "\r\n\r\n\r\n", "GET\r\n\r\n", "GET / HTTP/9.9\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        "POST /echo HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n"};
    struct server *s = *state;

    for (size_t i = 0; i < sizeof(requests) / sizeof(requests[0]); i++) {
        int fd = dial(s);

        assert_true(send(fd, requests[i], strlen(requests[i]), MSG_NOSIGNAL) > 0);
        assert_int_equal(close(fd), 0);
    }
    assert_int_equal(s->calls, 0);
    expect(get(s, "/healthz"), "200", "ok\n");
}

/* A listener ends while requests that are none come in. */
static void test_stop_beside_garbage(void **state)
{
    for (unsigned round = 0; round < 60; round++) {
        struct server *s = *state;
        int fds[8];

        for (size_t i = 0; i < 8; i++)
            fds[i] = dial(s);
        for (size_t i = 0; i < 8; i++)
            assert_true(send(fds[i], "GET / HTTP/9.9\r\n\r\n", 18, MSG_NOSIGNAL) == 18);
        assert_int_equal(teardown(state), 0);
        for (size_t i = 0; i < 8; i++)
            assert_int_equal(close(fds[i]), 0);
        assert_int_equal(setup(state), 0);
    }
}

/* Stopping cuts connections that are open and idle. */
static void test_stop_with_clients(void **state)
{
    struct server *s = *state;
    int fds[20];
    char byte;

    for (size_t i = 0; i < 20; i++) {
        fds[i] = dial(s);
        assert_true(send(fds[i], "GET /ver", 8, MSG_NOSIGNAL) == 8);
    }
    tarn_http_stop(&s->h);
    for (size_t i = 0; i < 20; i++) {
        assert_true(recv(fds[i], &byte, 1, 0) <= 0);
        assert_int_equal(close(fds[i]), 0);
    }
}

static void *client_main(void *arg)
{
    for (int i = 0; i < 20; i++)
        expect(get(arg, i % 2 ? "/echo" : "/metrics"), i % 2 ? "201" : "200", "");
    return NULL;
}

static void test_many_clients(void **state)
{
    struct server *s = *state;
    pthread_t threads[4];

    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, client_main, s), 0);
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    assert_int_equal(s->calls, 40);
}

static void test_addresses(void **state)
{
    static const char *const bad[] = {
        "",       "127.0.0.1", ":80",  "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:x",
        "::1:80", "[::1]80",   "[::1", "[]:80"};
    struct server *s = *state;
    struct tarn_http_args args = {.threads = 1, .version = "1"};
    struct tarn_errbuf e = {{0}};
    struct tarn_http *h = NULL;

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        args.addr = bad[i];
        assert_int_equal(tarn_http_start(&args, &h, &e), -TARN_E_INVALID);
        assert_non_null(strstr(e.text, "HOST:PORT"));
    }
    args.addr = tarn_http_addr(s->h);
    assert_int_equal(tarn_http_start(&args, &h, &e), -TARN_E_ADDR_IN_USE);
    assert_true(tarn_starts_with(e.text, tarn_http_addr(s->h)));
    args.addr = "192.0.2.1:0"; /* not ours */
    assert_int_equal(tarn_http_start(&args, &h, &e), -EADDRNOTAVAIL);
    args.addr = "localhost:0";
    assert_int_equal(tarn_http_start(&args, &h, &e), 0);
    tarn_http_stop(&h);
    assert_null(h);
}

#define HTTP_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        HTTP_TEST(test_builtin),
        HTTP_TEST(test_routes),
        HTTP_TEST(test_head),
        HTTP_TEST(test_methods),
        HTTP_TEST(test_bodies),
        HTTP_TEST(test_garbage),
        HTTP_TEST(test_stop_beside_garbage),
        HTTP_TEST(test_stop_with_clients),
        HTTP_TEST(test_many_clients),
        HTTP_TEST(test_addresses),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
