/* SPDX-License-Identifier: Apache-2.0 */
/*
 * master/core/core.h — the deterministic metadata core. apply() turns one journal entry into writes
 * of one batch: no clock, no network, no randomness, no I/O but the key-value store. The batch also
 * stores the applied index, so a replayed entry is skipped. The other functions read committed
 * state, from any thread.
 *
 * Keys of the family META:
 *     d parent(be64) name       -> Dentry
 *     e parent(be64) ino(be64)  -> "" (the order of readdir: ids only grow and are never reused, so
 *                                  a cookie is an id and stays good whatever changes)
 *     i ino                     -> Inode
 *     l ino                     -> DirState
 *     s ino                     -> names left out
 *     a id(be32)                -> Attachment
 *     c id                      -> Counts
 *     w id(be64)                -> Worker
 *     g ino                     -> "" (detached directories that wait for Collect)
 *     x name                    -> singletons (applied index, next ino, next worker, cluster id,
 *                                  format, placement, key of capabilities, what is not told)
 * Family JOBS:
 *     j id(be64)                -> JobRecord
 *     m id(be64) seq(be64)      -> JobLine
 *     n id(be64) seq(be64)      -> JobItem
 * Family SOFT: rebuilt when lost, never journalled.
 *
 * Rules of apply (docs/formats/master.md):
 * - an entry is checked whole before anything is written; a refused one changes nothing but the
 * applied index;
 * - ListPage removes only names inside its key range that it does not have, and neither removes nor
 * updates an inode whose `changed` is greater than asked_index; an object equal to what is known
 * writes nothing;
 * - a changed version keeps the inode and raises `version`; another type gets a new inode;
 * - in a listing a file never replaces a directory (the directory wins; `dir_removed` makes the
 * listing distrusted when one went and the key of the object that it may have hidden is not in the
 * same page); Found does, it asked for both;
 * - a removed directory is detached: its name goes at once, what is below goes by Collect;
 * - a name that is held for an attachment (its root, a directory on the way to it) is neither
 * removed nor replaced by any answer of a store (apply_attach.c).
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "lib/base/ids.h"
#include "master/core/core.pb-c.h"
#include "store/kv/kv.h"

#define TARN_ATTACHMENTS_MAX 256u /* at a time */

enum tarn_core_cf { TARN_CF_META, TARN_CF_JOBS, TARN_CF_SOFT, TARN_CF_COUNT };
extern const char *const tarn_core_cf_names[TARN_CF_COUNT]; /* "default" "jobs" "soft" */

/* A name whose meaning changed: what sessions must forget. */
struct tarn_core_change {
    tarn_ino_t ino; /* the inode that changed or lost its name */
    tarn_ino_t parent;
    uint64_t version; /* its new version; 0: it is gone */
    char *name;       /* NUL-terminated copy */
};

/* What an entry did. Zeroed before apply; freed with tarn_core_result_fini. */
struct tarn_core_result {
    int rc;         /* 0, or why the entry was refused (it changed nothing) */
    uint64_t index; /* the entry's */
    struct tarn_core_change
        *changes; /* known names that changed or went; new names are not listed */
    size_t change_count;
    tarn_ino_t ino;  /* Found, Gone: the inode the name has now, also when refused as newer
                        (ENTRY_STALE); 0: none. Init, Attach: the root */
    uint64_t worker; /* Worker: its id */
    uint32_t created, updated, removed; /* inodes; a detached directory counts as removed */
    bool more; /* Collect, JobDrop: there is more to remove. ListPage: applied only up to
                  DirState.upto_key, since too many known names lie in its range; list on from there
                */
};
void tarn_core_result_fini(struct tarn_core_result *r);

/*
 * Applies `entry` (an encoded Entry of at most TARN_JOURNAL_ENTRY_MAX bytes) as number `index` into
 * `b`. Returns 0 also for a refused entry (ret->rc); negative only when the store failed (KV,
 * KV_CORRUPT): the batch must then be thrown away. An index at or below the applied one is skipped
 * (ret->rc = 0, no writes).
 */
int tarn_core_apply(struct tarn_kv *kv, struct tarn_kv_batch *b, uint64_t index,
                    const uint8_t *entry, size_t len, struct tarn_core_result *ret);

/* Encodes an entry. -TARN_E_TOO_BIG over TARN_JOURNAL_ENTRY_MAX. The caller frees *ret. */
int tarn_core_entry_encode(const Tarn__Core__Entry *e, struct tarn_str *ret);
/* True when losing the entry in a power cut would break a promise (jobs, attachments, members, what
 * a start left out); names of a store are learnt again. */
bool tarn_core_entry_needs_sync(const Tarn__Core__Entry *e);

/* ---- reads: -TARN_E_NO_ENTRY when absent, -TARN_E_KV…, 0
 * ----------------------------------------------- */

/* Decoded values are freed with tarn__core__…__free_unpacked(v, NULL). */
int tarn_core_inode(struct tarn_kv *kv, tarn_ino_t ino, Tarn__Core__Inode **ret);
int tarn_core_dentry(struct tarn_kv *kv, tarn_ino_t parent, const char *name, size_t len,
                     tarn_ino_t *ret_ino, uint32_t *ret_type);
int tarn_core_dir_state(struct tarn_kv *kv, tarn_ino_t dir,
                        Tarn__Core__DirState **ret); /* absent: a zero one */
int tarn_core_skipped_names(struct tarn_kv *kv, tarn_ino_t dir,
                            struct tarn_str *ret); /* one per line */
int tarn_core_attachment(struct tarn_kv *kv, uint32_t id, Tarn__Core__Attachment **ret);
typedef int tarn_core_attachment_fn(void *arg, const Tarn__Core__Attachment *a);
int tarn_core_attachments(struct tarn_kv *kv, tarn_core_attachment_fn *fn, void *arg); /* by id */
/* The smallest id that a new attachment may have: ids are never given twice. */
int tarn_core_next_attachment(struct tarn_kv *kv, uint32_t *ret);
/* Index of the entry that attached or detached last, so that it grows; 0: none since the store is
 * one of a version without it. */
int tarn_core_attached_index(struct tarn_kv *kv, uint64_t *ret);
/* True when a normal path lies below another one, whose first `dir_len` bytes are given. Pure. */
bool tarn_core_path_below(const char *path, const char *dir, size_t dir_len);
int tarn_core_counts(struct tarn_kv *kv, uint32_t attachment, Tarn__Core__Counts **ret);
int tarn_core_cluster_id(struct tarn_kv *kv, char ret[37]);
int tarn_core_applied_index(struct tarn_kv *kv, uint64_t *ret); /* 0 for an empty store */
/* Index of the last entry that changed a known name (struct tarn_core_change); 0: none did. */
int tarn_core_last_change(struct tarn_kv *kv, uint64_t *ret);
/* Index from which on changes of known names may not be known to all who were promised otherwise;
 * 0: all know of all. */
int tarn_core_untold(struct tarn_kv *kv, uint64_t *ret);
/* The store's key of an inode relative to its attachment's root ("" for the root, no trailing '/');
 * of a directory of no store: "". */
int tarn_core_key(struct tarn_kv *kv, tarn_ino_t ino, struct tarn_str *ret_key);
/* The path in the name space ("/a/b"). */
int tarn_core_path(struct tarn_kv *kv, tarn_ino_t ino, struct tarn_str *ret_path);

/* Called per entry in id order; returning non-zero ends the walk with that value. The inode is
 * valid during the call. */
typedef int tarn_core_dirent_fn(void *arg, tarn_ino_t ino, const Tarn__Core__Inode *inode);
/*
 * Walks the entries of `dir` whose id is greater than `cookie`: two range scans, since ids of one
 * page are contiguous. Returns 0 at the end, fn's value, or an error.
 */
int tarn_core_readdir(struct tarn_kv *kv, tarn_ino_t dir, uint64_t cookie, tarn_core_dirent_fn *fn,
                      void *arg);

int tarn_core_job(struct tarn_kv *kv, uint64_t id, Tarn__Core__JobRecord **ret);
typedef int tarn_core_job_fn(void *arg, const Tarn__Core__JobRecord *job);
int tarn_core_jobs(struct tarn_kv *kv, tarn_core_job_fn *fn, void *arg); /* oldest first */
typedef int tarn_core_line_fn(void *arg, uint64_t seq, const Tarn__Core__JobLine *line);
int tarn_core_manifest(struct tarn_kv *kv, uint64_t id, uint64_t from_seq, tarn_core_line_fn *fn,
                       void *arg);
typedef int tarn_core_item_fn(void *arg, uint64_t seq, const Tarn__Core__JobItem *item);
int tarn_core_job_items(struct tarn_kv *kv, uint64_t id, uint64_t from_seq, tarn_core_item_fn *fn,
                        void *arg);

#define TARN_CORE_CAP_KEY_BYTES 32u
int tarn_core_worker(struct tarn_kv *kv, uint64_t id, Tarn__Core__Worker **ret);
typedef int tarn_core_worker_fn(void *arg, const Tarn__Core__Worker *w);
/* By id; non-zero from fn ends the walk with that value. */
int tarn_core_workers(struct tarn_kv *kv, tarn_core_worker_fn *fn, void *arg);
int tarn_core_placement(struct tarn_kv *kv, Tarn__Core__Placement **ret); /* absent: an empty one */
int tarn_core_cap_key(struct tarn_kv *kv, uint8_t ret[TARN_CORE_CAP_KEY_BYTES]);
/* A detached directory that waits for Collect, or 0. */
int tarn_core_garbage(struct tarn_kv *kv, tarn_ino_t *ret_ino);
/* Whole-store checker for tests: d, e, i, l, c and g agree, nothing is orphaned. */
int tarn_core_check(struct tarn_kv *kv, struct tarn_errbuf *err);
