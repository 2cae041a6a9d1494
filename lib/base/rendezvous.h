/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lib/base/rendezvous.h — weighted rendezvous hashing: which nodes own a segment. Integer
 * arithmetic only, so that every host and every language agrees; docs/formats/placement.md is the
 * definition and has test vectors. Pure functions, any thread.
 */
#pragma once

#include <stdint.h>

#include "lib/base/ids.h"

#define TARN_RENDEZVOUS_PICK_MAX 8 /* owners and replicas of one segment */

struct tarn_rendezvous_node {
    uint64_t id;     /* distinct among the nodes of one call */
    uint32_t weight; /* share of the segments; 0 is never picked */
};

/*
 * Writes the ids of the first `k` nodes (at most TARN_RENDEZVOUS_PICK_MAX) for a segment, the owner
 * first. Returns how many there are: fewer than `k` when fewer nodes have a weight. The order of
 * `nodes` does not matter.
 */
unsigned tarn_rendezvous_pick(const struct tarn_rendezvous_node *nodes, unsigned n,
                              const tarn_cid_t *cid, uint32_t segment, unsigned k,
                              uint64_t *ret_ids);

/* -log2((h + 1) / 2^64) with 32 fraction bits: 0 for the greatest h, 2^38 for 0. */
uint64_t tarn_rendezvous_neglog2(uint64_t h);
