/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sets of numbers: open addressing, grown by doubling, never more than half full. Bounded, because
 * users decide how long their lists are: beyond JOB_SET_MAX numbers nothing is left out any more.
 */
#include <stdlib.h>

#include "lib/base/assert.h"
#include "lib/base/hash.h"
#include "master/jobs/jobs_priv.h"

static bool set_insert(uint64_t *slots, size_t mask, uint64_t v)
{
    size_t i = tarn_hash_u64(v) & mask;

    for (; slots[i]; i = (i + 1) & mask)
        if (slots[i] == v)
            return false;
    slots[i] = v;
    return true;
}

static void set_grow(struct mset *s)
{
    size_t mask = s->slots ? 2 * s->mask + 1 : 255;
    uint64_t *slots = tarn_xcalloc(mask + 1, sizeof(*slots));

    for (size_t i = 0; s->slots && i <= s->mask; i++)
        if (s->slots[i])
            (void)set_insert(slots, mask, s->slots[i]); /* numbers of a set differ */
    free(s->slots);
    s->slots = slots;
    s->mask = mask;
}

bool mset_has(const struct mset *s, uint64_t v)
{
    if (!s->slots)
        return false;
    for (size_t i = tarn_hash_u64(v) & s->mask; s->slots[i]; i = (i + 1) & s->mask)
        if (s->slots[i] == v)
            return true;
    return false;
}

bool mset_add(struct mset *s, uint64_t v)
{
    TARN_ASSERT(v != 0);
    if (s->count >= JOB_SET_MAX)
        return !mset_has(s, v);
    if (!s->slots || s->count * 2 > s->mask)
        set_grow(s);
    if (!set_insert(s->slots, s->mask, v))
        return false;
    s->count++;
    return true;
}

void mset_fini(struct mset *s)
{
    free(s->slots);
    *s = (struct mset){0};
}
