/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/turns.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "lib/base/env.h"
#include "lib/base/hash.h"
#include "lib/base/mem.h"

static void turns_end(struct tarn_timer *t, void *arg)
{
    (void)t;
    tarn_loop_stop(arg);
}

void turns_for(struct tarn_loop *l, uint64_t ns)
{
    struct tarn_timer timer = {0};

    tarn_timer_start(l, &timer, ns, turns_end, l);
    tarn_loop_run(l);
    tarn_timer_stop(&timer);
}

void turns_until(struct tarn_loop *l, const unsigned *flag, unsigned n)
{
    while (*flag < n)
        turns_for(l, TARN_NS_PER_MS);
}

static void turns_hang(struct tarn_timer *t, void *arg)
{
    (void)t;
    (void)arg;
    fail_msg("the test hangs");
}

void turns_guard(struct tarn_loop *l, struct tarn_timer *t, uint64_t ns)
{
    tarn_timer_start(l, t, ns, turns_hang, NULL);
}

void pattern_fill(unsigned seed, uint64_t off, void *dst, size_t n)
{
    uint8_t *p = dst;

    while (n > 0) {
        uint64_t word = tarn_hash_u64(((uint64_t)seed << 40) ^ (off / 8));
        size_t k = TARN_MIN(n, 8 - off % 8);

        memcpy(p, (const uint8_t *)&word + off % 8, k);
        p += k;
        off += k;
        n -= k;
    }
}

bool pattern_same(unsigned seed, uint64_t off, const void *p, size_t n)
{
    uint8_t want[4096];

    for (size_t at = 0; at < n; at += sizeof(want)) {
        size_t k = TARN_MIN(n - at, sizeof(want));

        pattern_fill(seed, off + at, want, k);
        if (memcmp(want, (const uint8_t *)p + at, k) != 0)
            return false;
    }
    return true;
}
