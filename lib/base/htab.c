/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/base/htab.h"

#include <stdlib.h>

#include "lib/base/assert.h"
#include "lib/base/mem.h"

#define HTAB_MIN 16

void tarn_htab_fini(struct tarn_htab *t)
{
    free(t->slots);
    t->slots = NULL;
    t->mask = 0;
    t->count = 0;
    t->low = 0;
}

static void htab_grow(struct tarn_htab *t)
{
    size_t n = t->slots ? (t->mask + 1) * 2 : HTAB_MIN;
    struct tarn_hnode **slots = tarn_xcalloc(n, sizeof(*slots));

    for (size_t i = 0; t->slots && i <= t->mask; i++) {
        struct tarn_hnode *node = t->slots[i];

        while (node) {
            struct tarn_hnode *next = node->next;
            struct tarn_hnode **slot = &slots[node->hash & (n - 1)];

            node->next = *slot;
            *slot = node;
            node = next;
        }
    }
    free(t->slots);
    t->slots = slots;
    t->mask = n - 1;
    t->low = 0;
}

void tarn_htab_insert(struct tarn_htab *t, struct tarn_hnode *n, uint64_t hash)
{
    struct tarn_hnode **slot;

    if (!t->slots || t->count > t->mask)
        htab_grow(t);
    n->hash = hash;
    slot = &t->slots[hash & t->mask];
    n->next = *slot;
    *slot = n;
    t->count++;
    t->low = TARN_MIN(t->low, hash & t->mask);
}

void tarn_htab_remove(struct tarn_htab *t, struct tarn_hnode *n)
{
    struct tarn_hnode **p;

    TARN_ASSERT(t->slots != NULL && t->count > 0);
    for (p = &t->slots[n->hash & t->mask]; *p != n; p = &(*p)->next)
        TARN_ASSERT(*p != NULL);
    *p = n->next;
    n->next = NULL;
    t->count--;
}

static struct tarn_hnode *htab_skip(struct tarn_hnode *n, uint64_t hash)
{
    while (n && n->hash != hash)
        n = n->next;
    return n;
}

struct tarn_hnode *tarn_htab_first(const struct tarn_htab *t, uint64_t hash)
{
    return t->slots ? htab_skip(t->slots[hash & t->mask], hash) : NULL;
}

struct tarn_hnode *tarn_htab_next(const struct tarn_hnode *n, uint64_t hash)
{
    return htab_skip(n->next, hash);
}

struct tarn_hnode *tarn_htab_any(struct tarn_htab *t)
{
    /* The slots found empty are remembered: else emptying a table would take quadratic time. */
    return tarn_htab_walk(t, &t->low, NULL);
}

struct tarn_hnode *tarn_htab_walk(const struct tarn_htab *t, size_t *slot, struct tarn_hnode *n)
{
    if (n && n->next)
        return n->next;
    if (n)
        (*slot)++;
    for (; t->slots && *slot <= t->mask; (*slot)++)
        if (t->slots[*slot])
            return t->slots[*slot];
    return NULL;
}
