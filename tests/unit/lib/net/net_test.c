/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/lib/net/net_test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define WATCHDOG_NS (40 * TARN_NS_PER_S)

int net_setup_uv(void **state)
{
    struct tarn_loop *l = NULL;

    assert_int_equal(tarn_loop_new(&l), 0);
    *state = l;
    return 0;
}

int net_setup_sim(void **state)
{
    *state = tarn_loop_sim_new(1);
    return 0;
}

int net_setup_sim_faults(void **state)
{
    struct tarn_loop *l = tarn_loop_sim_new(1);

    tarn_loop_sim_faults(l, 7, 1000, NET_MS, 0);
    *state = l;
    return 0;
}

int net_teardown(void **state)
{
    struct tarn_loop *l = *state;

    tarn_loop_free(&l);
    assert_null(l);
    return 0;
}

bool net_is_sim(struct tarn_loop *l)
{
    return tarn_loop_now_ns(l) < TARN_NS_PER_S; /* no test runs for so long in virtual time */
}

static void net_watchdog_cb(struct tarn_timer *t, void *arg)
{
    (void)t;
    (void)arg;
    fprintf(stderr, "the loop was not stopped\n");
    abort();
}

void net_run(struct tarn_loop *l)
{
    struct tarn_timer dog = {0};

    tarn_timer_start(l, &dog, WATCHDOG_NS, net_watchdog_cb, NULL);
    tarn_loop_run(l);
    tarn_timer_stop(&dog);
}

static void net_stop_cb(struct tarn_timer *t, void *arg)
{
    (void)t;
    tarn_loop_stop(arg);
}

void net_run_for(struct tarn_loop *l, uint64_t ns)
{
    struct tarn_timer t = {0};

    tarn_timer_start(l, &t, ns, net_stop_cb, l);
    while (tarn_timer_running(&t)) /* others stop it too */
        tarn_loop_run(l);
}

static void end_data(struct tarn_conn *c, void *arg, const uint8_t *p, size_t n)
{
    struct net_end *e = arg;

    assert_ptr_equal(c, e->c);
    assert_true(n > 0);
    for (size_t i = 0; i < n && e->got + i < sizeof(e->text) - 1; i++)
        e->text[e->got + i] = (char)p[i];
    e->got += n;
    if (e->close_in_data)
        tarn_conn_close(c);
    if (e->stop_at && e->got >= e->stop_at)
        tarn_loop_stop(e->l);
}

static void end_drain(struct tarn_conn *c, void *arg)
{
    struct net_end *e = arg;

    assert_int_equal(tarn_conn_queued(c), 0);
    e->drains++;
    if (e->say_in_drain > 0) {
        e->say_in_drain--;
        assert_int_equal(tarn_conn_write(c, "x", 1, NULL, 0, 0), 0);
        return;
    }
    if (e->close_in_drain)
        tarn_conn_close(c);
    if (e->stop_on_drain)
        tarn_loop_stop(e->l);
}

static void end_close(struct tarn_conn *c, void *arg, int rc)
{
    struct net_end *e = arg;

    assert_ptr_equal(c, e->c);
    e->c = NULL;
    e->rc = rc;
    e->closes++;
    if (e->stop_on_close)
        tarn_loop_stop(e->l);
}

const struct tarn_conn_ops net_end_ops = {
    .on_data = end_data, .on_drain = end_drain, .on_close = end_close};

void net_end_start(struct net_end *e, struct tarn_conn *c)
{
    e->c = c;
    tarn_conn_start(c, &net_end_ops, e);
}

void net_end_accept(void *arg, struct tarn_conn *c)
{
    struct net_end *e = arg;

    net_end_start(e, c);
    if (e->close_in_open)
        tarn_conn_close(c);
}

void net_end_connected(void *arg, int rc, struct tarn_conn *c)
{
    struct net_end *e = arg;

    assert_int_equal(rc == 0, c != NULL);
    e->try = NULL;
    e->rc = rc;
    e->connects++;
    if (c)
        net_end_accept(e, c);
    if (e->stop_on_connect)
        tarn_loop_stop(e->l);
}

void net_close(struct net_end *e)
{
    if (!e->c)
        return;
    e->stop_on_close = true;
    tarn_conn_close(e->c);
    while (e->c)
        net_run(e->l);
}

void net_link(struct tarn_loop *l, struct net_end *a, struct net_end *b)
{
    struct tarn_conn *ca = NULL, *cb = NULL;

    a->l = b->l = l;
    assert_int_equal(tarn_conn_pair(l, &ca, &cb), 0);
    net_end_start(a, ca);
    net_end_start(b, cb);
}

const char *net_path(char buf[64])
{
    char dir[] = "/tmp/tarn-net-XXXXXX";

    assert_non_null(mkdtemp(dir));
    snprintf(buf, 64, "unix:%s/sock", dir);
    return buf;
}

void net_path_gone(const char *addr)
{
    char dir[64];

    snprintf(dir, sizeof(dir), "%s", addr + strlen("unix:"));
    (void)unlink(dir);
    *strrchr(dir, '/') = '\0';
    assert_int_equal(rmdir(dir), 0);
}
