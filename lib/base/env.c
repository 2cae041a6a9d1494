/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/base/env.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "lib/base/assert.h"
#include "lib/base/hash.h"
#include "lib/base/mem.h"

static uint64_t clock_read(clockid_t id)
{
    struct timespec ts;

    TARN_ASSERT(clock_gettime(id, &ts) == 0);
    return (uint64_t)ts.tv_sec * TARN_NS_PER_S + (uint64_t)ts.tv_nsec;
}

static uint64_t clock_system_mono(struct tarn_clock *c)
{
    (void)c; /* stateless */
    return clock_read(CLOCK_MONOTONIC);
}

static int64_t clock_system_real(struct tarn_clock *c)
{
    (void)c; /* stateless */
    return (int64_t)clock_read(CLOCK_REALTIME);
}

struct tarn_clock *tarn_clock_system(void)
{
    static struct tarn_clock clock = {clock_system_mono, clock_system_real};

    return &clock;
}

static void rng_system_fill(struct tarn_rng *r, void *dst, size_t n)
{
    uint8_t *p = dst;

    (void)r; /* stateless */
    while (n > 0) {
        ssize_t got = getrandom(p, n, 0);

        TARN_ASSERT(got > 0 || errno == EINTR);
        if (got > 0) {
            p += got;
            n -= (size_t)got;
        }
    }
}

struct tarn_rng *tarn_rng_system(void)
{
    static struct tarn_rng rng = {rng_system_fill};

    return &rng;
}

static uint64_t clock_fake_mono(struct tarn_clock *c)
{
    return TARN_CONTAINER(c, struct tarn_clock_fake, base)->mono;
}

static int64_t clock_fake_real(struct tarn_clock *c)
{
    return TARN_CONTAINER(c, struct tarn_clock_fake, base)->real;
}

void tarn_clock_fake_init(struct tarn_clock_fake *c, int64_t real_ns)
{
    *c = (struct tarn_clock_fake){
        .base = {clock_fake_mono, clock_fake_real}, .mono = 1, .real = real_ns};
}

void tarn_clock_fake_advance(struct tarn_clock_fake *c, uint64_t ns)
{
    c->mono += ns;
    c->real += (int64_t)ns;
}

static uint64_t rng_next(struct tarn_rng_seeded *r)
{
    uint64_t *s = r->s;
    uint64_t x = s[1] * 5, t = s[1] << 17;

    x = (x << 7 | x >> 57) * 9;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = s[3] << 45 | s[3] >> 19;
    return x;
}

static void rng_seeded_fill(struct tarn_rng *base, void *dst, size_t n)
{
    struct tarn_rng_seeded *r = TARN_CONTAINER(base, struct tarn_rng_seeded, base);
    uint8_t *p = dst;

    while (n > 0) {
        uint64_t x = rng_next(r);
        size_t k = TARN_MIN(n, sizeof(x));

        memcpy(p, &x, k);
        p += k;
        n -= k;
    }
}

void tarn_rng_seeded_init(struct tarn_rng_seeded *r, uint64_t seed)
{
    r->base.fill = rng_seeded_fill;
    for (uint64_t i = 0; i < 4; i++)
        r->s[i] = tarn_hash_u64(seed + i * 0x9e3779b97f4a7c15ULL) | (i == 0);
}

uint64_t tarn_rng_u64(struct tarn_rng *r)
{
    uint64_t x;

    r->fill(r, &x, sizeof(x));
    return x;
}

uint64_t tarn_rng_below(struct tarn_rng *r, uint64_t n)
{
    uint64_t x, limit;

    TARN_ASSERT(n > 0);
    limit = UINT64_MAX - UINT64_MAX % n;
    do
        x = tarn_rng_u64(r);
    while (x >= limit);
    return x % n;
}
