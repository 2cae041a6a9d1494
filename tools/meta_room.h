/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tools/meta_room.h — the cache's size holds for the whole cache directory of `tarn local`: what
 * the names take is measured, and the tier gets the rest.
 */
#pragma once

#include <stdint.h>

#include "lib/net/net.h"

struct dir;
struct tarn_tier;

struct meta_room {
    struct tarn_loop *loop;
    struct tarn_tier *tier;
    const struct dir *dir;
    uint64_t slack_bytes;    /* how much the names may grow between two looks */
    struct tarn_timer timer; /* looks again */
};

/* The write buffer of the names' store: small caches get a small one. */
uint64_t meta_room_write_buffer(uint64_t cache_bytes);
/* Measures at once and from then on. Loop's thread, as the rest. */
void meta_room_start(struct meta_room *m, struct tarn_loop *loop, struct tarn_tier *tier,
                     const struct dir *dir, uint64_t cache_bytes);
void meta_room_stop(struct meta_room *m); /* also of one that was never started */
