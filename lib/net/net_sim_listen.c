/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Listeners and connection attempts of the simulated loop: names of the loop's own, compared as
 * text. A connection comes up after one delay, if somebody listens there then.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/mem.h"
#include "lib/base/str.h"
#include "lib/net/net_sim_priv.h"

struct sim_listener {
    struct tarn_listener base; /* first */
    struct tarn_list node;     /* the loop's listeners */
};

struct sim_connect {
    struct tarn_connect base;      /* first */
    char addr[TARN_ADDR_TEXT_MAX]; /* where to */
    int rc;                        /* known to fail with, or 0 */
};

static struct sim_listener *sim_find(struct tarn_sim_loop *s, const char *addr)
{
    TARN_LIST_FOREACH(it, &s->listeners)
    {
        struct sim_listener *ls = TARN_LIST_ENTRY(it, struct sim_listener, node);

        if (strcmp(ls->base.addr, addr) == 0)
            return ls;
    }
    return NULL;
}

/* ---- listening ------------------------------------------------------------------------------- */

int tarn_sim_listen(struct tarn_loop *l, const char *addr, tarn_accept_fn *fn, void *arg,
                    struct tarn_listener **ret)
{
    struct tarn_sim_loop *s = tarn_sim_of(l);
    char text[TARN_ADDR_TEXT_MAX];
    struct sim_listener *ls;
    struct tarn_addr a;
    int rc = tarn_addr_parse(addr, &a);

    if (rc < 0)
        return rc;
    (void)snprintf(text, sizeof(text), "%s", addr); /* fits: it was parsed */
    if (strcmp(a.port, "0") == 0)
        (void)snprintf(text, sizeof(text), strchr(a.host, ':') ? "[%s]:%u" : "%s:%u", a.host,
                       s->next_port++);
    if (sim_find(s, text))
        return -TARN_E_ADDR_IN_USE;
    ls = tarn_xnew(struct sim_listener);
    tarn_listener_init(&ls->base, l, fn, arg);
    memcpy(ls->base.addr, text, sizeof(text));
    tarn_list_push(&s->listeners, &ls->node);
    *ret = &ls->base;
    return 0;
}

void tarn_sim_listener_close(struct tarn_listener *base)
{
    struct sim_listener *ls = TARN_CONTAINER(base, struct sim_listener, base);

    tarn_list_del(&ls->node);
    tarn_listener_fini(base);
    free(ls);
}

/* ---- connecting ------------------------------------------------------------------------------ */

static int sim_connect_open(struct tarn_sim_loop *s, const struct sim_connect *a,
                            struct tarn_conn **ret)
{
    struct tarn_conn *here, *there;
    struct sim_listener *ls;

    if (a->rc < 0)
        return a->rc;
    ls = sim_find(s, a->addr);
    if (!ls)
        return tarn_starts_with(a->addr, "unix:") ? -ENOENT : -TARN_E_CONN_REFUSED;
    tarn_sim_conn_link(s, a->addr, "sim", &here, &there);
    if (tarn_listener_full(&ls->base))
        tarn_conn_close(there);
    else
        tarn_listener_accept(&ls->base, there);
    *ret = here;
    return 0;
}

static void sim_connect_due(struct tarn_sim_loop *s, void *arg)
{
    struct sim_connect *a = arg;
    struct tarn_conn *c = NULL;
    int rc = a->base.cancelled ? -TARN_E_CANCELLED : sim_connect_open(s, a, &c);

    tarn_connect_tell(&a->base, rc, c);
    free(a);
}

struct tarn_connect *tarn_sim_connect(struct tarn_loop *l, const char *addr, uint64_t timeout_ns,
                                      tarn_connect_fn *fn, void *arg)
{
    struct tarn_sim_loop *s = tarn_sim_of(l);
    struct sim_connect *a = tarn_xnew(struct sim_connect);
    uint64_t delay = tarn_sim_delay(s);
    struct tarn_addr parsed;

    tarn_connect_init(&a->base, l, fn, arg);
    a->rc = tarn_addr_parse(addr, &parsed);
    if (a->rc < 0) {
        delay = 0;
    } else if (delay > timeout_ns) {
        delay = timeout_ns;
        a->rc = -TARN_E_DEADLINE;
    }
    (void)snprintf(a->addr, sizeof(a->addr), "%s", addr); /* fits when it was parsed */
    tarn_sim_event(s, delay, sim_connect_due, a);
    return &a->base;
}

void tarn_sim_connect_cancel(struct tarn_connect *a)
{
    (void)a; /* the event that is due sees it */
}
