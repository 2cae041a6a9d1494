/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The thread is ended by a SIGUSR2 of ours. One that comes from elsewhere does nothing: it must not
 * make the process deaf to the others.
 */
#include "tools/signals.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "lib/base/assert.h"
#include "lib/base/mem.h"
#include "lib/base/mtx.h"

#define SIGNALS_END SIGUSR2

/* Immutable after start, but for the flag. */
struct signals {
    pthread_t thread;    /* waits */
    sigset_t set;        /* what it waits for, and SIGNALS_END */
    signals_fn *fn;      /* gets them */
    void *arg;           /* for fn */
    _Atomic bool ending; /* SIGNALS_END counts */
};

static void signals_set(const int *sigs, sigset_t *ret)
{
    (void)sigemptyset(ret); /* cannot fail, nor the next ones */
    (void)sigaddset(ret, SIGNALS_END);
    for (; *sigs; sigs++)
        (void)sigaddset(ret, *sigs);
}

void signals_block(const int *sigs)
{
    sigset_t set;

    signals_set(sigs, &set);
    TARN_ASSERT(pthread_sigmask(SIG_BLOCK, &set, NULL) == 0);
}

static void *signals_run(void *arg)
{
    struct signals *s = arg;
    int sig;

    while (sigwait(&s->set, &sig) == 0) {
        if (sig != SIGNALS_END)
            s->fn(s->arg, sig);
        else if (atomic_load(&s->ending))
            break;
    }
    return NULL;
}

int signals_start(const int *sigs, signals_fn *fn, void *arg, struct signals **ret)
{
    struct signals *s = tarn_xnew(struct signals);
    int rc;

    s->fn = fn;
    s->arg = arg;
    signals_set(sigs, &s->set);
    signals_block(sigs);
    rc = tarn_thread_start(&s->thread, "signals", signals_run, s);
    if (rc == 0)
        *ret = s;
    else
        free(s);
    return rc;
}

void signals_stop(struct signals **ps)
{
    struct signals *s = *ps;

    if (!s)
        return;
    atomic_store(&s->ending, true);
    (void)pthread_kill(s->thread, SIGNALS_END); /* it runs until it gets this */
    (void)pthread_join(s->thread, NULL);
    free(s);
    *ps = NULL;
}
