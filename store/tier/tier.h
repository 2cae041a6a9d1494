/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store/tier/tier.h — one storage tier: a directory of cache files with a byte budget.
 *
 * One sparse file per file version (cid), offsets equal to the file's own, length equal to the
 * version's. Presence, checksums, eviction and fetching count in groups of TARN_GROUP_GRANULES
 * granules (4 MiB, the last one of a file shorter): a group is present granule by granule, is
 * filled by one store call and evicted whole. Each granule of 64 KiB has an XXH3-64 kept in the
 * index (RocksDB through store/kv); bytes are served only when they were verified since the start
 * (a fill verifies, later ones are read back and compared once). docs/formats/tier.md has the bytes
 * on the disk.
 *
 * Threads: tarn_tier_try_read(), file_get/put/query and the counters: any thread, they never wait
 * for another process and take only short locks. Everything with a callback: the tier's loop; disk
 * work runs on its pool.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "lib/base/err.h"
#include "lib/base/ids.h"
#include "lib/base/limits.h"
#include "lib/disk/disk.h"
#include "lib/net/net.h"

struct tarn_buf;
struct tarn_clock;
struct tarn_tier;
struct tarn_tier_file;
struct tarn_tier_loan;

enum tarn_medium { TARN_MEDIUM_MEM, TARN_MEDIUM_SSD, TARN_MEDIUM_HDD };
const char *tarn_medium_name(enum tarn_medium m); /* "MEM" "SSD" "HDD" */

struct tarn_tier_args {
    struct tarn_loop *loop;
    struct tarn_disk *disk;
    struct tarn_clock *clock;
    const char *path;     /* directory; made when missing, mode 0700 */
    const char *owner_id; /* cluster id; a directory of another one is refused unless `replace` */
    bool replace;         /* adopt a directory of another owner */
    bool ours; /* what lies around it says that it is a tier: damage never makes it somebody else's
                */
    enum tarn_medium medium;
    uint64_t
        quota_bytes;  /* everything below path counts: data, index, unlinked but open files. More
                              than the file system can hold counts as that, with a warning */
    uint32_t high_bp; /* start evicting above this share of the quota, parts per 10,000 */
    uint32_t low_bp;  /* evict down to this */
    uint32_t disk_free_bp; /* share of the file system that stays free */
    uint32_t fds_max;      /* cache of open files */
};

/*
 * Opens the directory: LOCK (flock), FORMAT, index, and reads which groups are there (100,000
 * files: well below 1 s). An unreadable index is dropped with the data. A quota below what is used:
 * opens at once, admits nothing until eviction (in the background) has brought it to low. Files
 * without record and records without file go. Errors: DIR_LOCKED, FORMAT_NEWER (nothing was
 * changed), DIR_FOREIGN (another owner's, or not empty and neither LOCK nor FORMAT is one of ours),
 * errno class; `err` names path and cause.
 */
int tarn_tier_open(const struct tarn_tier_args *args, struct tarn_errbuf *err,
                   struct tarn_tier **ret_tier);
/*
 * All requests must have ended and all files be put. Saves access times; waits for background work
 * that is under way, but not for the turns of the loop that would tell of it: let the loop turn
 * once more, if it lives on, so that the memory of that is freed. Loop's thread.
 */
void tarn_tier_close(struct tarn_tier **t);

/* ---- files ------------------------------------------------------------------------------ */

/*
 * A reference to the file of `cid`, whose version is `length` bytes long; made in memory when
 * unknown (nothing touches the disk). While referenced its descriptor, once open, stays open. Any
 * thread. NULL when the cid is known with another length, or the length is more than a tier can
 * hold (2^54): a peer may have made it up.
 */
struct tarn_tier_file *tarn_tier_file_get(struct tarn_tier *t, const tarn_cid_t *cid,
                                          uint64_t length);
/* NULL when nothing of it is cached. */
struct tarn_tier_file *tarn_tier_file_find(struct tarn_tier *t, const tarn_cid_t *cid);
void tarn_tier_file_put(struct tarn_tier_file **f);
const tarn_cid_t *tarn_tier_file_cid(const struct tarn_tier_file *f);
uint64_t tarn_tier_file_length(const struct tarn_tier_file *f);
/* Bytes of the file that are present (verified or not yet). Nothing is while the tier is offline.
 */
uint64_t tarn_tier_file_cached(struct tarn_tier_file *f);
/* The same of [off, off + len), which begins with a group and ends with one; a look at each. */
uint64_t tarn_tier_file_cached_in(struct tarn_tier_file *f, uint64_t off, uint64_t len);
/* True when every byte of [off, off + len) is present. */
bool tarn_tier_file_has(struct tarn_tier_file *f, uint64_t off, uint64_t len);
/* True when, besides, all of it was verified since the start. */
bool tarn_tier_file_verified(struct tarn_tier_file *f, uint64_t off, uint64_t len);
/* The weakest check (enum tarn_verified, as given to store) of the groups that are present; 0 when
 * none is. */
uint32_t tarn_tier_file_level(struct tarn_tier_file *f);

/* True when bytes of the file are present or being stored; *ret_tag is the tag of all of them.
 * Loop's thread. */
bool tarn_tier_file_tag(const struct tarn_tier_file *f, uint64_t *ret_tag);
/* False when nothing of the file can have been read since the start. Loop's thread. */
bool tarn_tier_file_used(const struct tarn_tier_file *f);

/*
 * Reads up to TARN_READ_MAX bytes of [off, off + len) into dst, if all are present and verified.
 * Any thread; costs a pread. Returns bytes (short only at the end of the file) or
 * -TARN_E_NOT_CACHED (also: not verified yet; use tarn_tier_load), -TARN_E_TIER_OFFLINE after a
 * read error (the group is dropped).
 */
int64_t tarn_tier_try_read(struct tarn_tier_file *f, uint64_t off, uint32_t len, void *dst);

/*
 * Lends the file to somebody whose reads we do not see (FUSE passthrough): a descriptor for
 * reading, the caller's to close. Its bytes are neither changed nor punched from then on; the file
 * goes only as a whole, and is not evicted while it is lent. What was unlinked meanwhile (a drop, a
 * bad granule) counts as used until all loans of it came back. Any thread; costs an open and some
 * atomics per 4 MiB. Errors: NOT_CACHED (not whole, not all verified since the start, or the
 * directory is still looked through after a start),
 * TIER_OFFLINE, errno class.
 */
int tarn_tier_lend(struct tarn_tier_file *f, struct tarn_tier_loan **ret_loan);
/* A bad granule was found in what is lent: others are to borrow anew. Any thread. */
bool tarn_tier_loan_bad(struct tarn_tier_loan *loan);
/* Sets it to NULL; counts as a use of the whole file. f is the one that it was taken of. */
void tarn_tier_give_back(struct tarn_tier_file *f, struct tarn_tier_loan **loan);

/* ---- requests: embedded by the caller, valid until `cb`, which runs once on the tier's loop ----
 */

struct tarn_tier_op;
typedef void tarn_tier_fn(struct tarn_tier_op *op, int rc);
typedef void tarn_tier_step_fn(struct tarn_tier_op *op);

struct tarn_tier_op {
    struct tarn_tier_file *file; /* in: referenced by the caller until cb */
    uint32_t group;              /* in: which group of the file */
    struct tarn_buf *buf; /* store: the group's bytes (len = its length); read: where they go */
    uint64_t sums[TARN_GROUP_GRANULES]; /* read: out, per granule asked for, 0 where not present */
    uint64_t granules; /* read: in, bit set of granules wanted; out, those delivered. load: out,
                          verified */
    uint32_t level;    /* store: in, enum tarn_verified, kept in the index */
    uint64_t tag; /* store: in, which of several sources of the version the bytes came from; kept
                     in the index. 0: there is one */
    bool medium;  /* load: in, read the medium, not the page cache (--verify) */
    uint64_t reserved_bytes; /* reserve: in; store: in, what was reserved for it */
    bool spare;     /* reserve: in, room that is free, or that copies take: nothing else is evicted,
                       now or at the high watermark */
    bool unchecked; /* read: in, what was verified since the start is not compared again: who gets
                       the bytes does that */
    bool copy;      /* store: in, another worker's group: see tarn_tier_group_copy() */
    tarn_tier_fn *cb;        /* in */
    void *arg;               /* in */
    struct tarn_disk_io io;  /* the tier's */
    struct tarn_list node;   /* the tier's */
    struct tarn_tier *tier;  /* the tier's */
    int rc;                  /* the tier's */
    uint32_t generation;     /* the tier's: a fill that was overtaken by a free is dropped */
    uint8_t kind;            /* the tier's: what was asked for */
    uint8_t first;           /* the tier's: read: the first granule asked for */
    uint8_t flags;           /* the tier's */
    uint8_t replicas;        /* the tier's: of the file, for the record */
    uint32_t atime_s;        /* the tier's: seconds since 1970, for the record */
    uint64_t bad;            /* the tier's: granules whose checksum did not match */
    tarn_tier_step_fn *work; /* the tier's: runs on the disk's pool */
    tarn_tier_step_fn *done; /* the tier's: runs on the loop afterwards */
};

/*
 * Reserves room for `reserved_bytes` (rounded to blocks, and something for what a file costs
 * besides), evicting by LRU when needed. TIER_FULL when the quota or the free share of the disk
 * does not allow it: serve without caching. A reservation is given back whole, by one store or one
 * unreserve with the same number, or in parts of whole units (TARN_UNIT_BYTES). While the directory
 * is looked through after a start it waits, at most 2 s; then TIER_FULL until that is done.
 */
void tarn_tier_reserve(struct tarn_tier *t, struct tarn_tier_op *op);
void tarn_tier_unreserve(struct tarn_tier *t, uint64_t reserved_bytes);
/*
 * Writes a group: computes the checksums, writes the data, then the index record; afterwards the
 * group is present and verified. Uses up the reservation, also on failure. ENOSPC and EIO class
 * errors leave nothing behind; TIER_FULL: no space on the disk or in the index; CANCELLED:
 * overtaken by tarn_tier_drop(), or the file holds bytes of another tag (never both).
 */
void tarn_tier_store(struct tarn_tier *t, struct tarn_tier_op *op);
/*
 * Reads a group back and compares every present granule with its checksum; bad ones are dropped
 * from the index (and counted) and the rest becomes verified. rc 0 even when some were bad: look at
 * `granules`. NOT_CACHED when nothing of it is present; TIER_OFFLINE or the errno class when it
 * could not be read.
 */
void tarn_tier_load(struct tarn_tier *t, struct tarn_tier_op *op);
/*
 * Reads the granules of `granules` that are present into buf, which begins with the first one asked
 * for, each at its distance from that; with their stored checksums. They are compared on the way
 * (see op->unchecked), bad ones are dropped and not delivered. A buffer that is a pipe gets the
 * pages of the file, if all granules asked for are delivered. Errors as load's.
 */
void tarn_tier_read(struct tarn_tier *t, struct tarn_tier_op *op);
/*
 * Drops one group, record first. False when it cannot be now: nothing of it is here, something is
 * under way on it, or the file was ever lent (it goes as a whole).
 */
bool tarn_tier_drop_group(struct tarn_tier *t, struct tarn_tier_file *f, uint32_t group);
/* Drops the file's bytes: record first, then the data once readers are done. op->group is ignored.
 */
void tarn_tier_drop(struct tarn_tier *t, struct tarn_tier_op *op);

/*
 * Bytes that count as used although they are not below `path`: where the quota is that of something
 * larger. Above the high watermark it evicts at once. Loop's thread.
 */
void tarn_tier_set_foreign(struct tarn_tier *t, uint64_t bytes);

/* ---- a directory among others: loop's thread --------------------------------------------- */

#define TARN_TIER_UUID_TEXT 20u /* bytes of its text, with the NUL */
/*
 * Who the directory is, also in another process or on another host; a copy of it (cp -a) is the
 * same. "" where it has no id and none could be written. Any thread.
 */
const char *tarn_tier_uuid(const struct tarn_tier *t, char ret[TARN_TIER_UUID_TEXT]);

/*
 * Groups that belong to another worker are copies: they are the first to be evicted, and together
 * take at most `max_bytes` (a tenth of the quota by default). Known in memory alone: after a start
 * nothing is a copy.
 */
void tarn_tier_set_copies_max(struct tarn_tier *t, uint64_t max_bytes);
void tarn_tier_group_copy(struct tarn_tier *t, struct tarn_tier_file *f, uint32_t group, bool copy);
/* How many workers are to hold the file, as far as somebody said, 8 at most; kept in the index with
 * what is present of it. Loop's thread. */
void tarn_tier_file_set_replicas(struct tarn_tier_file *f, uint32_t replicas);
uint32_t tarn_tier_file_replicas(const struct tarn_tier_file *f); /* 0: unknown */

#define TARN_TIER_LISTS 64u
/* The cids of one part (0 .. TARN_TIER_LISTS - 1) of the files with something present, in no order;
 * the caller frees *ret. */
size_t tarn_tier_list(struct tarn_tier *t, unsigned part, tarn_cid_t **ret);
/* The first group at or behind *group of which something is present; *ret_whole: all of it. False:
 * none. */
bool tarn_tier_next_group(struct tarn_tier_file *f, uint32_t *group, bool *ret_whole);

/* ---- reports: any thread ---------------------------------------------------------------- */

struct tarn_tier_info {
    enum tarn_medium medium;
    const char *path;         /* valid while the tier is */
    uint64_t capacity_bytes;  /* the quota */
    uint64_t used_bytes;      /* st_blocks of data + index + reserved */
    uint64_t data_bytes;      /* present bytes */
    uint64_t files;           /* with at least one present granule */
    uint64_t evicted_bytes;   /* since the start */
    uint64_t copy_bytes;      /* present bytes of copies */
    uint64_t checksum_errors; /* since the start */
    uint64_t hits, misses;    /* try_read */
    uint64_t fds;             /* open now */
    bool offline;             /* its directory failed */
};
/* Looks whether the directory is still there: a tier that was removed is offline from then on. */
void tarn_tier_info(struct tarn_tier *t, struct tarn_tier_info *ret);
/* Pins: no group of a pinned file is evicted. Counted; kept in the index. -TARN_E_TIER_FULL when
 * more than 90 % of the quota would be pinned. Loop's thread. */
int tarn_tier_pin(struct tarn_tier *t, struct tarn_tier_file *f, bool pin);
/* Whole-object check for tests: asserts that lists, counters and index agree. Loop's thread. */
void tarn_tier_check(struct tarn_tier *t);
