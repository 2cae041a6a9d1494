/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/lib/clockshift.c — loaded into a program with LD_PRELOAD, it moves the wall clock by
 * TARN_CLOCK_SHIFT seconds (may be negative). Clocks that measure durations stay as they are: on a
 * host whose clock is wrong they are right too.
 */
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

typedef int clock_fn(clockid_t, struct timespec *);

static clock_fn *real_clock;
static time_t shift;

__attribute__((constructor)) static void read_shift(void)
{
    const char *text = getenv("TARN_CLOCK_SHIFT");
    shift = text != NULL ? (time_t)strtol(text, NULL, 10) : 0;
}

int clock_gettime(clockid_t id, struct timespec *ret)
{
    clock_fn *fn = __atomic_load_n(&real_clock, __ATOMIC_RELAXED);
    if (fn == NULL) {
        fn = (clock_fn *)dlsym(RTLD_NEXT, "clock_gettime");
        __atomic_store_n(&real_clock, fn, __ATOMIC_RELAXED);
    }
    int rc = fn(id, ret);
    if (rc == 0 && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE))
        ret->tv_sec += shift;
    return rc;
}

int gettimeofday(struct timeval *restrict ret, void *restrict zone)
{
    struct timespec t;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &t);
    ret->tv_sec = t.tv_sec;
    ret->tv_usec = t.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *ret)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    if (ret != NULL)
        *ret = t.tv_sec;
    return t.tv_sec;
}
