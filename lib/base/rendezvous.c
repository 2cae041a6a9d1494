/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A node's hash for a segment is uniform, so -log2 of it is exponentially distributed; divided by
 * the node's weight, its rate is the weight, and the node with the smallest of such values is each
 * node with a probability proportional to its weight. A node's value depends on no other node: when
 * one leaves, only its own segments move.
 *
 * The quotients are never formed: a is before b when weight_a * L_b > weight_b * L_a. Weights have
 * 32 bits and L at most 39, so that the products fit in 128 bits with room to spare.
 */
#include "lib/base/rendezvous.h"

#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/hash.h"

#define FRACTION_BITS 32

struct candidate {
    uint64_t id;     /* of the node */
    uint32_t weight; /* of the node, > 0 */
    uint64_t l;      /* -log2 of its hash */
};

uint64_t tarn_rendezvous_neglog2(uint64_t h)
{
    uint64_t m, log;
    unsigned top;

    if (h == UINT64_MAX)
        return 0;
    top = 63 - (unsigned)__builtin_clzll(h + 1);
    m = (h + 1) << (63 - top); /* in [1, 2) with 63 fraction bits */
    log = top;
    for (int i = 0; i < FRACTION_BITS; i++) {
        unsigned __int128 square = (unsigned __int128)m * m;
        unsigned bit = (unsigned)(square >> 127);

        m = (uint64_t)(square >> (63 + bit));
        log = log << 1 | bit;
    }
    return (64ULL << FRACTION_BITS) - log;
}

static uint64_t candidate_hash(const tarn_cid_t *cid, uint32_t segment, uint64_t id)
{
    uint8_t key[28];

    memcpy(key, cid->b, 16);
    for (int i = 0; i < 4; i++)
        key[16 + i] = (uint8_t)(segment >> (8 * i));
    for (int i = 0; i < 8; i++)
        key[20 + i] = (uint8_t)(id >> (8 * i));
    return tarn_xxh3(key, sizeof(key));
}

static bool candidate_before(const struct candidate *a, const struct candidate *b)
{
    unsigned __int128 left = (unsigned __int128)a->weight * b->l;
    unsigned __int128 right = (unsigned __int128)b->weight * a->l;

    return left != right ? left > right : a->id < b->id;
}

unsigned tarn_rendezvous_pick(const struct tarn_rendezvous_node *nodes, unsigned n,
                              const tarn_cid_t *cid, uint32_t segment, unsigned k,
                              uint64_t *ret_ids)
{
    struct candidate best[TARN_RENDEZVOUS_PICK_MAX + 1];
    unsigned count = 0;

    TARN_ASSERT(k <= TARN_RENDEZVOUS_PICK_MAX);
    for (unsigned i = 0; i < n; i++) {
        struct candidate c = {.id = nodes[i].id, .weight = nodes[i].weight};
        unsigned at = count;

        if (c.weight == 0)
            continue;
        c.l = tarn_rendezvous_neglog2(candidate_hash(cid, segment, c.id));
        for (; at > 0 && candidate_before(&c, &best[at - 1]); at--)
            best[at] = best[at - 1];
        best[at] = c;
        if (count < k)
            count++;
    }
    for (unsigned i = 0; i < count; i++)
        ret_ids[i] = best[i].id;
    return count;
}
