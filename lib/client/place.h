/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lib/client/place.h — which workers own what: the published topology as an immutable snapshot,
 * and the questions that readers, workers and the master ask of it. The owner of a segment (64 MiB
 * of a cid) is the first in the order of lib/base/rendezvous.h among the live workers; the next
 * ones hold replicas, and serve reads while the owner is not alive. docs/formats/placement.md.
 *
 * A snapshot never changes once it is made; any thread may read it, references are counted.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "lib/base/ids.h"
#include "lib/wire/tarn.pb-c.h"

#define TARN_PLACE_PICK_MAX    8u    /* workers of one answer */
#define TARN_PLACE_WORKERS_MAX 1024u /* of a cluster */
#define TARN_PLACE_PAST_MAX    64u   /* memberships remembered */

enum tarn_worker_state { /* of WorkerInfo */
                         TARN_WORKER_LIVE = 1,
                         TARN_WORKER_DRAINING = 2,
                         TARN_WORKER_LOST = 3,
                         TARN_WORKER_REMOVED = 4
};
const char *tarn_worker_state_name(uint32_t state); /* "live" "draining" "lost" "removed" */

struct tarn_place_worker {
    uint64_t id;
    char *addr, *host, *socket; /* never NULL */
    uint32_t weight;
    uint32_t state; /* enum tarn_worker_state */
    bool alive;
    uint32_t copies; /* what it keeps for readers on its host: 0 nothing, 1 read twice, 2 all */
};

struct tarn_place;
/* -TARN_E_MSG_BAD: ids twice, unknown states, too many. The first reference is the caller's. */
int tarn_place_new(const Tarn__Wire__Topology *t, struct tarn_place **ret);
/* A cluster of one worker that is always alive: one process. */
struct tarn_place *tarn_place_single(uint64_t id);
struct tarn_place *tarn_place_ref(struct tarn_place *p);
void tarn_place_unref(struct tarn_place **p); /* NULL is good */

uint64_t tarn_place_version(const struct tarn_place *p);
unsigned tarn_place_count(const struct tarn_place *p); /* workers of any state */
const struct tarn_place_worker *tarn_place_at(const struct tarn_place *p, unsigned i);
const struct tarn_place_worker *tarn_place_find(const struct tarn_place *p, uint64_t id);

/*
 * The first `k` workers in the order of a segment, alive or not; the owner first. Returns how many
 * there are (fewer than k in a small cluster; 0 without any live worker). k <= TARN_PLACE_PICK_MAX.
 */
unsigned tarn_place_order(const struct tarn_place *p, const tarn_cid_t *cid, uint32_t segment,
                          unsigned k, const struct tarn_place_worker **ret);
/*
 * Those that hold `replicas` copies of a segment (0 counts as 1), the owner first: the first in
 * the order, but on distinct hosts as far as there are enough.
 */
unsigned tarn_place_owners(const struct tarn_place *p, const tarn_cid_t *cid, uint32_t segment,
                           uint32_t replicas, const struct tarn_place_worker **ret);
/*
 * Workers that may have bytes of a segment which `self` lacks: alive, not `self`, owners of it now
 * or in a past membership, or the one that stands in for an owner; those asked first come first.
 * At most TARN_PLACE_PICK_MAX.
 */
unsigned tarn_place_before(const struct tarn_place *p, const tarn_cid_t *cid, uint32_t segment,
                           uint32_t replicas, uint64_t self, const struct tarn_place_worker **ret);
/*
 * The worker that owned a segment, is draining and alive, and may not have handed all of it over:
 * readers ask it for what it has before the owner, so that reading moves nothing. NULL: none.
 */
const struct tarn_place_worker *tarn_place_leaver(const struct tarn_place *p, const tarn_cid_t *cid,
                                                  uint32_t segment);
/* `id` is one of tarn_place_owners(). */
bool tarn_place_owns(const struct tarn_place *p, const tarn_cid_t *cid, uint32_t segment,
                     uint32_t replicas, uint64_t id);
/* Whether anything of the past is left to be asked or moved. */
bool tarn_place_settled(const struct tarn_place *p);
static inline uint32_t tarn_segment_of(uint64_t off_bytes)
{
    return (uint32_t)(off_bytes / (64ull << 20));
}
