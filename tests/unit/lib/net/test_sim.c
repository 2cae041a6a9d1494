/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/lib/net/net_test.h"

#include <stdlib.h>
#include <string.h>

#include "lib/base/hash.h"
#include "lib/base/limits.h"
#include "lib/base/str.h"

/* ---- the same seed gives the same run -------------------------------------------------------- */

#define TALKERS 8

struct trace;
struct talker {
    struct trace *tr;       /* whose */
    struct tarn_conn *c;    /* NULL after its close */
    struct tarn_timer tick; /* when it says something */
    unsigned nr;            /* who */
    unsigned left;          /* things to say */
};

struct trace {
    struct tarn_loop *l;            /* simulated */
    struct tarn_listener *listener; /* the hub's */
    struct tarn_str text;           /* everything that happened */
    struct talker t[2 * TALKERS];   /* callers, then the hub's ends */
    unsigned accepted;              /* hub's ends */
};

static void trace_data(struct tarn_conn *c, void *arg, const uint8_t *p, size_t n)
{
    struct talker *t = arg;

    tarn_str_addf(&t->tr->text, "%llu %u data %zu %016llx\n",
                  (unsigned long long)tarn_loop_now_ns(t->tr->l), t->nr, n,
                  (unsigned long long)tarn_xxh3(p, n));
    if (t->nr >= TALKERS && n % 3 == 0)
        assert_int_equal(tarn_conn_write(c, p, n / 3, NULL, 0, 0), 0);
}

static void trace_drain(struct tarn_conn *c, void *arg)
{
    struct talker *t = arg;

    (void)c;
    tarn_str_addf(&t->tr->text, "%u drain\n", t->nr);
}

static void trace_close(struct tarn_conn *c, void *arg, int rc)
{
    struct talker *t = arg;

    (void)c;
    t->c = NULL;
    tarn_timer_stop(&t->tick);
    tarn_str_addf(&t->tr->text, "%u close %d\n", t->nr, rc);
}

static const struct tarn_conn_ops trace_ops = {
    .on_data = trace_data, .on_drain = trace_drain, .on_close = trace_close};

static void trace_say(struct tarn_timer *tm, void *arg)
{
    struct talker *t = arg;
    char words[700];

    memset(words, 'a' + (int)t->nr, sizeof(words));
    if (t->left-- == 0) {
        tarn_conn_close(t->c);
        return;
    }
    assert_int_equal(tarn_conn_write(t->c, words, 100 + t->left, NULL, 0, 0), 0);
    tarn_timer_start(t->tr->l, tm, 300000, trace_say, t);
}

static void trace_accept(void *arg, struct tarn_conn *c)
{
    struct trace *tr = arg;
    struct talker *t = &tr->t[TALKERS + tr->accepted++];

    t->c = c;
    tarn_conn_start(c, &trace_ops, t);
}

static void trace_connected(void *arg, int rc, struct tarn_conn *c)
{
    struct talker *t = arg;

    assert_int_equal(rc, 0);
    t->c = c;
    tarn_conn_start(c, &trace_ops, t);
    tarn_timer_start(t->tr->l, &t->tick, 0, trace_say, t);
}

static char *trace_run(uint64_t seed, uint32_t drops)
{
    struct trace *tr = tarn_xnew(struct trace);
    char *text;

    tr->l = tarn_loop_sim_new(1000);
    tarn_loop_sim_faults(tr->l, seed, 50, 2 * NET_MS, drops);
    assert_int_equal(tarn_listen(tr->l, "hub:1", trace_accept, tr, &tr->listener), 0);
    for (unsigned i = 0; i < 2 * TALKERS; i++) {
        tr->t[i].tr = tr;
        tr->t[i].nr = i;
        tr->t[i].left = 20;
        if (i < TALKERS)
            tarn_connect(tr->l, "hub:1", TARN_NS_PER_S, trace_connected, &tr->t[i]);
    }
    tarn_loop_run(tr->l);
    tarn_listener_close(&tr->listener);
    for (unsigned i = 0; i < 2 * TALKERS; i++)
        assert_null(tr->t[i].c);
    tarn_loop_free(&tr->l);
    text = tarn_str_detach(&tr->text);
    free(tr);
    return text;
}

static void test_a_seed_is_a_run(void **state)
{
    char *first = trace_run(5, 3000), *again = trace_run(5, 3000), *other = trace_run(6, 3000);

    (void)state;
    assert_string_equal(first, again);
    assert_string_not_equal(first, other);
    assert_non_null(strstr(first, "data"));
    assert_non_null(strstr(first, "-1055")); /* some were cut */
    free(first);
    free(again);
    free(other);
}

static void test_without_drops_nothing_is_cut(void **state)
{
    char *text = trace_run(9, 0);

    (void)state;
    assert_null(strstr(text, "-1055"));
    free(text);
}

static void test_every_delivery_cut(void **state)
{
    struct net_end a = {0}, b = {0};

    tarn_loop_sim_faults(*state, 1, 0, 0, 1000000);
    net_link(*state, &a, &b);
    assert_int_equal(tarn_conn_write(a.c, "x", 1, NULL, 0, 0), 0);
    tarn_loop_run(*state);
    assert_int_equal(a.rc, -TARN_E_CONN_LOST);
    assert_int_equal(b.rc, -TARN_E_CONN_LOST);
    assert_int_equal(b.got, 0);
    assert_int_equal(a.closes + b.closes, 2);
}

static void test_chunks_have_a_bound(void **state)
{
    struct net_end a = {0}, b = {.stop_at = 1};
    uint8_t data[1000] = {0};

    tarn_loop_sim_faults(*state, 1, 10, 0, 0);
    net_link(*state, &a, &b);
    assert_int_equal(tarn_conn_write(a.c, data, sizeof(data), NULL, 0, 0), 0);
    tarn_loop_run(*state);
    assert_in_range(b.got, 1, 10);
    b.stop_at = sizeof(data);
    tarn_loop_run(*state);
    assert_int_equal(b.got, sizeof(data));
    net_close(&a);
    net_close(&b);
}

/* ---- time ------------------------------------------------------------------------------------ */

static void sim_note(struct tarn_timer *t, void *arg)
{
    unsigned *n = arg;

    (void)t;
    ++*n;
}

static void test_run_to_a_time_and_step(void **state)
{
    struct tarn_loop *l = *state;
    struct tarn_timer t[3] = {{0}};
    unsigned n = 0;

    for (unsigned i = 0; i < 3; i++)
        tarn_timer_start(l, &t[i], 10 * (i + 1), sim_note, &n);
    tarn_loop_sim_run(l, 1 + 9);
    assert_int_equal(n, 0);
    assert_int_equal(tarn_loop_now_ns(l), 10);
    tarn_loop_sim_run(l, 1 + 10); /* due by it */
    assert_int_equal(n, 1);
    assert_true(tarn_loop_sim_step(l));
    assert_int_equal(n, 2);
    assert_int_equal(tarn_loop_now_ns(l), 21);
    tarn_loop_sim_run(l, 1000000);
    assert_int_equal(n, 3);
    assert_int_equal(tarn_loop_now_ns(l), 1000000);
    assert_false(tarn_loop_sim_step(l));
    tarn_loop_sim_run(l, 5); /* time does not go back */
    assert_int_equal(tarn_loop_now_ns(l), 1000000);
}

struct mixed {
    struct tarn_timer tm;   /* made second */
    struct tarn_task ta[2]; /* made first and third */
    char order[4];          /* what ran */
    unsigned n;             /* of order */
};

static void mixed_first(struct tarn_task *t)
{
    struct mixed *m = TARN_CONTAINER(t, struct mixed, ta[0]);

    m->order[m->n++] = '1';
}

static void mixed_second(struct tarn_timer *t, void *arg)
{
    struct mixed *m = arg;

    (void)t;
    m->order[m->n++] = '2';
}

static void mixed_third(struct tarn_task *t)
{
    struct mixed *m = TARN_CONTAINER(t, struct mixed, ta[1]);

    m->order[m->n++] = '3';
}

static void test_one_time_in_order_of_making(void **state)
{
    struct mixed m = {.n = 0};

    tarn_loop_post(*state, &m.ta[0], mixed_first);
    tarn_timer_start(*state, &m.tm, 0, mixed_second, &m);
    tarn_loop_post(*state, &m.ta[1], mixed_third);
    tarn_loop_run(*state);
    assert_string_equal(m.order, "123");
}

/* ---- bounds ---------------------------------------------------------------------------------- */

struct crowd {
    unsigned in;          /* accepted */
    unsigned closed;      /* callers whose connection ended */
    struct tarn_conn **c; /* accepted ones */
};

static void crowd_data(struct tarn_conn *c, void *arg, const uint8_t *p, size_t n)
{
    (void)c, (void)arg, (void)p, (void)n;
}

static void crowd_close(struct tarn_conn *c, void *arg, int rc)
{
    (void)c, (void)rc;
    ((struct crowd *)arg)->closed++;
}

static const struct tarn_conn_ops crowd_ops = {
    .on_data = crowd_data, .on_drain = NULL, .on_close = crowd_close};

static void crowd_accept(void *arg, struct tarn_conn *c)
{
    struct crowd *w = arg;

    w->c[w->in++] = c;
    tarn_conn_start(c, &crowd_ops, w);
}

static void crowd_connected(void *arg, int rc, struct tarn_conn *c)
{
    assert_int_equal(rc, 0);
    tarn_conn_start(c, &crowd_ops, arg);
}

static void test_a_listener_has_a_bound(void **state)
{
    struct crowd w = {.c = tarn_xcalloc(TARN_LISTENER_CONNS_MAX + 1, sizeof(struct tarn_conn *))};
    struct tarn_listener *s = NULL;

    assert_int_equal(tarn_listen(*state, "here:1", crowd_accept, &w, &s), 0);
    for (unsigned i = 0; i < TARN_LISTENER_CONNS_MAX + 3; i++)
        tarn_connect(*state, "here:1", TARN_NS_PER_S, crowd_connected, &w);
    tarn_loop_run(*state);
    assert_int_equal(w.in, TARN_LISTENER_CONNS_MAX);
    assert_int_equal(w.closed, 3);

    tarn_conn_close(w.c[0]); /* makes room for one */
    tarn_loop_run(*state);
    w.in = 0;
    tarn_connect(*state, "here:1", TARN_NS_PER_S, crowd_connected, &w);
    tarn_loop_run(*state);
    assert_int_equal(w.in, 1);
    tarn_listener_close(&s); /* its connections stay */
    tarn_loop_run(*state);
    assert_int_equal(w.closed, 5);
    for (unsigned i = 0; i < TARN_LISTENER_CONNS_MAX; i++)
        tarn_conn_close(w.c[i]);
    tarn_loop_run(*state);
    assert_int_equal(w.closed, 2 * TARN_LISTENER_CONNS_MAX + 5);
    free(w.c);
}

int net_test_sim(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_seed_is_a_run),
        cmocka_unit_test(test_without_drops_nothing_is_cut),
        NET_TEST_SIM(test_every_delivery_cut),
        NET_TEST_SIM(test_chunks_have_a_bound),
        NET_TEST_SIM(test_run_to_a_time_and_step),
        NET_TEST_SIM(test_one_time_in_order_of_making),
        NET_TEST_SIM(test_a_listener_has_a_bound),
    };

    return cmocka_run_group_tests_name("simulation", tests, NULL, NULL);
}
