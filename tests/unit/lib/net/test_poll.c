/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/lib/net/net_test.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct watch {
    struct tarn_loop *l; /* stopped by an event */
    struct tarn_poll *p; /* the watch */
    int fd;              /* expected */
    unsigned events;     /* seen last */
    unsigned calls;      /* of the callback */
    bool stop_it;        /* stop the watch in the callback */
};

static void watch_cb(void *arg, int fd, unsigned events)
{
    struct watch *w = arg;

    assert_int_equal(fd, w->fd);
    w->events = events;
    w->calls++;
    if (w->stop_it)
        tarn_poll_stop(&w->p);
    tarn_loop_stop(w->l);
}

static void test_events_change(void **state)
{
    struct watch w = {.l = *state};
    int fd[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
    w.fd = fd[0];
    assert_int_equal(
        tarn_poll_start(w.l, w.fd, TARN_POLL_READ | TARN_POLL_WRITE, watch_cb, &w, &w.p), 0);
    net_run(w.l);
    assert_int_equal(w.events, TARN_POLL_WRITE);

    assert_int_equal(tarn_poll_start(w.l, w.fd, TARN_POLL_READ, watch_cb, &w, &w.p), 0);
    w.calls = 0;
    net_run_for(w.l, 3 * NET_MS);
    assert_int_equal(w.calls, 0);
    assert_int_equal(write(fd[1], "x", 1), 1);
    net_run(w.l);
    assert_int_equal(w.events, TARN_POLL_READ);

    assert_int_equal(tarn_poll_start(w.l, w.fd, 0, watch_cb, &w, &w.p), 0); /* nothing */
    w.calls = 0;
    net_run_for(w.l, 3 * NET_MS);
    assert_int_equal(w.calls, 0);

    assert_int_equal(tarn_poll_start(w.l, w.fd, TARN_POLL_READ, watch_cb, &w, &w.p), 0);
    w.stop_it = true;
    net_run(w.l);
    assert_null(w.p);
    assert_int_equal(w.calls, 1);
    net_run_for(w.l, 3 * NET_MS);
    assert_int_equal(w.calls, 1);
    tarn_poll_stop(&w.p); /* nothing to stop */
    assert_int_equal(close(fd[0]), 0);
    assert_int_equal(close(fd[1]), 0);
}

/* curl closes a socket right after it told us, and the next one may get the same number at once. */
static void test_a_number_comes_back_at_once(void **state)
{
    struct watch w = {.l = *state};
    int fd[2];

    for (int i = 0; i < 20; i++) {
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
        w.fd = fd[0];
        assert_int_equal(tarn_poll_start(w.l, w.fd, TARN_POLL_WRITE, watch_cb, &w, &w.p), 0);
        if (i % 2)
            net_run(w.l);
        tarn_poll_stop(&w.p);
        assert_int_equal(close(fd[0]), 0);
        assert_int_equal(close(fd[1]), 0);
    }
}

static void test_the_end_of_the_peer_is_readable(void **state)
{
    struct watch w = {.l = *state};
    int fd[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
    w.fd = fd[0];
    assert_int_equal(tarn_poll_start(w.l, w.fd, TARN_POLL_READ, watch_cb, &w, &w.p), 0);
    assert_int_equal(close(fd[1]), 0);
    net_run(w.l);
    assert_true(w.events & TARN_POLL_READ);
    tarn_poll_stop(&w.p);
    assert_int_equal(close(fd[0]), 0);
}

static void test_a_file_cannot_be_watched(void **state)
{
    struct watch w = {.l = *state};
    int fd = open("/proc/self/exe", O_RDONLY);

    assert_true(fd >= 0);
    assert_int_equal(tarn_poll_start(w.l, fd, TARN_POLL_READ, watch_cb, &w, &w.p), -EPERM);
    assert_null(w.p);
    assert_int_equal(close(fd), 0);
}

static void test_sim_has_none(void **state)
{
    struct tarn_poll *p = NULL;

    assert_int_equal(tarn_poll_start(*state, 0, TARN_POLL_READ, watch_cb, NULL, &p),
                     -TARN_E_UNSUPPORTED);
}

int net_test_poll(void)
{
    const struct CMUnitTest tests[] = {
        NET_TEST_UV(test_events_change),
        NET_TEST_UV(test_a_number_comes_back_at_once),
        NET_TEST_UV(test_the_end_of_the_peer_is_readable),
        NET_TEST_UV(test_a_file_cannot_be_watched),
        NET_TEST_SIM(test_sim_has_none),
    };

    return cmocka_run_group_tests_name("descriptors", tests, NULL, NULL);
}
