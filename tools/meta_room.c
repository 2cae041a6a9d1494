/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Names cannot be evicted, bytes can: so the names' store grows as it must, and the tier counts
 * what it takes, with a slack for what may come until the next look, as used. A look is a stat of
 * about a dozen files. RocksDB writes a table of a write buffer's size before it removes the log of
 * it.
 */
#include "tools/meta_room.h"

#include "lib/base/env.h"
#include "store/tier/tier.h"
#include "tools/cache_dir.h"

#define LOOK_EVERY_NS (100 * TARN_NS_PER_MS)
#define BUFFER_MIN    (256ull << 10)
#define BUFFER_MAX    (8ull << 20)
#define GROWTH_BYTES  (512ull << 10) /* of the log between two looks, besides a table */

uint64_t meta_room_write_buffer(uint64_t cache_bytes)
{
    return TARN_MAX(BUFFER_MIN, TARN_MIN(cache_bytes / 128, BUFFER_MAX));
}

static void meta_room_look(struct tarn_timer *t, void *arg)
{
    struct meta_room *m = arg;

    tarn_tier_set_foreign(m->tier, cache_dir_other_bytes(m->dir) + m->slack_bytes);
    tarn_timer_start(m->loop, t, LOOK_EVERY_NS, meta_room_look, m);
}

void meta_room_start(struct meta_room *m, struct tarn_loop *loop, struct tarn_tier *tier,
                     const struct dir *dir, uint64_t cache_bytes)
{
    m->loop = loop;
    m->tier = tier;
    m->dir = dir;
    m->slack_bytes = GROWTH_BYTES + 2 * meta_room_write_buffer(cache_bytes);
    meta_room_look(&m->timer, m);
}

void meta_room_stop(struct meta_room *m)
{
    if (m->loop)
        tarn_timer_stop(&m->timer);
}
