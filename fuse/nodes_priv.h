/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuse/nodes_priv.h — what the kernel holds: a node per inode version that it looked up and has not
 * forgotten. Any thread; sharded.
 *
 * A file's or symlink's node stands for (inode, version), so that its pages and its length never
 * change; a directory's stands for the inode alone. The kernel's number of a node (its id) is never
 * used again for another one; the root's is 1.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/client/client.h"

struct tarn_fnodes;

#define FNODE_ROOT 1u /* the kernel's number of the root */

/* With the inode that is the root, which is not trusted yet. */
struct tarn_fnodes *fnodes_new(tarn_ino_t root);
void fnodes_free(struct tarn_fnodes **t);
uint64_t fnodes_count(const struct tarn_fnodes *t); /* the root included */

/*
 * Grows with every invalidation, and with every node that becomes outdated, before nodes change:
 * whoever read attributes from a cache passes the value from before that, and attributes that may
 * be older than an invalidation are not trusted.
 */
uint64_t fnodes_gen(const struct tarn_fnodes *t);

/*
 * One lookup of the kernel more; makes the node where there is none. Returns its id. An outdated
 * node is a good one again when its version is the greatest that is known and `gen` is current.
 */
uint64_t fnode_ref(struct tarn_fnodes *t, const struct tarn_attr *attr, uint64_t gen);
/* `n` lookups less; an unknown id is ignored. */
void fnode_forget(struct tarn_fnodes *t, uint64_t id, uint64_t n);

/*
 * The attributes of a node; false when the kernel does not hold it. *ret_outdated: another version
 * is the current one by now. ret->cid is none for directories.
 */
bool fnode_get(struct tarn_fnodes *t, uint64_t id, struct tarn_attr *ret, bool *ret_outdated);
/* True when it is known that this version is not the current one. */
bool fnode_is_outdated(struct tarn_fnodes *t, const struct tarn_attr *attr);
/*
 * The current attributes of the inode of node `id` came in: taken over if they are of the node's
 * version (true), else the node is outdated (false).
 */
bool fnode_refresh(struct tarn_fnodes *t, uint64_t id, const struct tarn_attr *attr);
void fnode_outdate(struct tarn_fnodes *t, uint64_t id);
/* Outdated for good: the next lookup makes another node, also of the same version. */
void fnode_retire(struct tarn_fnodes *t, uint64_t id);

/*
 * Whose bytes the kernel's pages of a file's node are, for all that opens it; the caller's
 * reference. NULL: no such node, or no file's.
 */
struct tarn_object *fnode_object(struct tarn_fnodes *t, uint64_t id);

/*
 * The master says that inode `ino` changed; version 0: it is gone. An answer may have told of a
 * later version before.
 */
void fnodes_invalidate(struct tarn_fnodes *t, tarn_ino_t ino, uint64_t version);
/* Names in directory `ino` changed: a listing that the kernel keeps is void. */
void fnodes_invalidate_listing(struct tarn_fnodes *t, tarn_ino_t ino);
/* Nothing is trusted any longer. */
void fnodes_distrust_all(struct tarn_fnodes *t);

#define FNODE_IDS_MAX 16u
/* Ids of the nodes of `ino` (at most FNODE_IDS_MAX); returns how many. */
unsigned fnodes_ids_of(struct tarn_fnodes *t, tarn_ino_t ino, uint64_t ret_ids[FNODE_IDS_MAX]);
/* Every id once, some thousand per call: start with *pos = 0; returns how many, 0 at the end. */
size_t fnodes_walk(struct tarn_fnodes *t, uint64_t *pos, uint64_t *ret_ids, size_t max);

/*
 * Until when the listing that the kernel keeps of directory `id` is good (0: it has none). set:
 * `first` begins a listing, else the time can only become shorter.
 */
uint64_t fnode_list_until(struct tarn_fnodes *t, uint64_t id);
void fnode_set_list_until(struct tarn_fnodes *t, uint64_t id, uint64_t until_ns, bool first,
                          uint64_t gen);
