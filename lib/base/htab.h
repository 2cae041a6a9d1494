/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lib/base/htab.h — intrusive chained hash table that grows by doubling. The user embeds a
 * `struct tarn_hnode`, hashes the key (tarn_hash_*), and compares while walking a chain.
 * Lock: the user's. Zeroed is a valid empty table.
 *
 *     for (n = tarn_htab_first(&t, h); n; n = tarn_htab_next(n, h)) {
 *         entry = TARN_CONTAINER(n, …);
 *         if (equal) …
 *     }
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct tarn_hnode {
    struct tarn_hnode *next; /* chain */
    uint64_t hash;           /* of the key, kept so that growing needs no key */
};

struct tarn_htab {
    struct tarn_hnode **slots; /* 2^n chains, or NULL while empty */
    size_t mask;               /* slots - 1 */
    size_t count;              /* nodes */
    size_t low;                /* no chain before this one has nodes */
};

void tarn_htab_fini(struct tarn_htab *t); /* frees the slots, not the nodes */
void tarn_htab_insert(struct tarn_htab *t, struct tarn_hnode *n, uint64_t hash);
void tarn_htab_remove(struct tarn_htab *t, struct tarn_hnode *n); /* must be in the table */
struct tarn_hnode *tarn_htab_first(const struct tarn_htab *t, uint64_t hash);
struct tarn_hnode *tarn_htab_next(const struct tarn_hnode *n, uint64_t hash);
/* Any node, to empty a table: NULL when none is left. */
struct tarn_hnode *tarn_htab_any(struct tarn_htab *t);
/* Walks all nodes: start with slot = 0 and n = NULL; the table must not change meanwhile. */
struct tarn_hnode *tarn_htab_walk(const struct tarn_htab *t, size_t *slot, struct tarn_hnode *n);
