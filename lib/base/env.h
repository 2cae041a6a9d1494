/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lib/base/env.h — time and randomness behind pointers, so that tests replace them. The network's
 * counterpart is `struct tarn_loop` (lib/net/net.h), the disk's `struct tarn_disk`
 * (lib/disk/disk.h).
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define TARN_NS_PER_MS 1000000ULL
#define TARN_NS_PER_S  1000000000ULL

/* Thread: any. */
struct tarn_clock {
    uint64_t (*mono_ns)(struct tarn_clock *c); /* monotonic: deadlines, intervals */
    int64_t (*real_ns)(struct tarn_clock *c);  /* since 1970: what is stored and shown */
};

/* Thread: any. */
struct tarn_rng {
    void (*fill)(struct tarn_rng *r, void *dst, size_t n); /* never fails */
};

struct tarn_clock *tarn_clock_system(void); /* the kernel's clocks */
struct tarn_rng *tarn_rng_system(void);     /* getrandom(2): fit for keys */

/* A clock that stands still until it is advanced. Lock: none, one thread. */
struct tarn_clock_fake {
    struct tarn_clock base; /* first, so that it can be passed as a clock */
    uint64_t mono;          /* ns */
    int64_t real;           /* ns since 1970 */
};
void tarn_clock_fake_init(struct tarn_clock_fake *c, int64_t real_ns);
void tarn_clock_fake_advance(struct tarn_clock_fake *c, uint64_t ns);

/* xoshiro256** (Blackman, Vigna 2018), for tests and jitter: repeatable from its seed. One thread.
 */
struct tarn_rng_seeded {
    struct tarn_rng base; /* first */
    uint64_t s[4];        /* state, never all zero */
};
void tarn_rng_seeded_init(struct tarn_rng_seeded *r, uint64_t seed);
uint64_t tarn_rng_u64(struct tarn_rng *r);
uint64_t tarn_rng_below(struct tarn_rng *r, uint64_t n); /* uniform in [0, n), n > 0 */

static inline uint64_t tarn_now_ns(void) /* the system's monotonic clock */
{
    struct tarn_clock *c = tarn_clock_system();

    return c->mono_ns(c);
}
