/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store/tier/tier_priv.h — what the files of this folder share. tier.c explains how they work
 * together.
 */
#pragma once

#include <stdatomic.h>

#include "lib/base/env.h"
#include "lib/base/htab.h"
#include "lib/base/list.h"
#include "lib/base/mtx.h"
#include "store/tier/tier.h"
#include "store/tier/tier_format.h"

struct tarn_kv;
struct tarn_kv_batch;
struct stat;

#define TIER_MAGIC      0x74696572u         /* "tier" */
#define TIER_SHARDS     64u                 /* of the table of files */
#define TIER_BUCKETS    256u                /* directories below data/ */
#define TIER_LEAF       64u                 /* groups of one leaf, slots of one node */
#define TIER_BLOCK      4096u               /* what room is counted in */
#define TIER_NAME_MAX   40u                 /* "ab/" and 32 hex digits */
#define TIER_BATCH_MAX  128u                /* requests of one index write */
#define TIER_EVICT_MAX  128u                /* evictions under way */
#define TIER_EIO_STREAK 3u                  /* failures in a row that take a tier offline */
#define TIER_PIN_WANT   (1u << 31)          /* in group.pins: somebody waits for 0 */
#define TIER_WALK_NS    (2 * TARN_NS_PER_S) /* how long reservations wait for the walk */

/* What a request is; those behind TIER_DROP are the tier's own, on the heap. */
enum tier_kind {
    TIER_RESERVE,
    TIER_STORE,
    TIER_LOAD,
    TIER_READ,
    TIER_DROP,
    TIER_EVICT, /* one group */
    TIER_LOST,  /* a whole file that cannot be read */
    TIER_CLEAN, /* a file without groups */
    TIER_FIX,   /* bad granules leave the record */
    TIER_PIN,   /* the records' flag is written anew */
    TIER_WALK,
    TIER_REOPEN
};
#define TIER_OP_EVICTED 1u  /* op.flags, TIER_EVICT: counts as evicted, not as lost */
#define TIER_OP_PINNED  2u  /* op.flags, TIER_STORE and TIER_PIN: for the record */
#define TIER_OP_MADE    4u  /* op.flags, TIER_STORE: makes the file */
#define TIER_OP_UNLINK  8u  /* op.flags, TIER_EVICT: the last group, the whole file goes */
#define TIER_OP_ROOM    16u /* op.flags: counted in evicting_bytes */
#define TIER_OP_LENT    32u /* op.flags, TIER_EVICT: not punched, since the file was lent */
#define TIER_OP_COPY    64u /* op.flags, TIER_STORE: the group is another worker's */

/*
 * 4 MiB of a file. Presence is changed on the loop alone, in any order of bits; readers pin, look,
 * read, unpin (tier.c, "Readers and the evictor").
 */
struct tier_group {
    _Atomic uint64_t present;  /* granules that can be read */
    _Atomic uint64_t verified; /* of those: compared with their sum since the start */
    struct tarn_list lru;  /* loop: in tier.lru while present, not busy and not pinned by users */
    _Atomic uint32_t pins; /* readers under way, and TIER_PIN_WANT */
    _Atomic uint32_t atime_s; /* seconds since 1970 of the last use */
    _Atomic bool touched;     /* used since the evictor last looked */
    _Atomic bool lost;        /* a failure was reported to the loop */
    bool busy;                /* loop: a store or a removal is under way */
    bool copy;                /* loop: another worker's; goes before what is ours */
    uint8_t slot;             /* place in its leaf; immutable */
};

/* Up to TIER_LEAF groups in a row. Made on demand, freed with the file. */
struct tier_leaf {
    struct tarn_tier_file *file; /* whose */
    uint64_t base;               /* number of the first group */
    struct tier_group groups[];
};

struct tier_node {
    void *_Atomic slots[TIER_LEAF]; /* nodes or leaves */
};

/* Requests that change a file, while there are any. Owner: loop. */
struct tier_busy {
    struct tarn_list waiting; /* requests, first come first served */
    uint32_t active;          /* under way */
    bool exclusive;           /* the one under way removes the file */
};

/* A single-group file is one allocation of 208 bytes: the leaf follows the struct. */
struct tarn_tier_file {
    struct tarn_hnode node;      /* Lock: shard */
    tarn_cid_t cid;              /* immutable */
    uint64_t length;             /* immutable */
    struct tarn_tier *tier;      /* immutable */
    void *_Atomic root;          /* leaf or node, by the number of groups; NULL until needed */
    _Atomic uint64_t cached;     /* bytes present; changed on the loop */
    uint64_t disk_bytes;         /* Lock: tier.acct_mtx. Counted in tier.data_bytes_disk */
    uint64_t tag;                /* Owner: loop. Of all that is present or being stored */
    struct tarn_tier_loan *loan; /* Lock: tier.acct_mtx. NULL: its inode was never lent */
    struct tarn_list idle;       /* Lock: tier.fd_mtx. In tier.fd_idle while open and unused */
    struct tier_busy *busy;      /* Owner: loop */
    _Atomic int fd;              /* -1: not open */
    uint32_t users;              /* Lock: shard. References; they keep fd open and the file alive */
    uint32_t present_n;    /* Lock: shard, written on the loop. Groups with something present */
    uint32_t pins;         /* as present_n: tarn_tier_pin() */
    uint32_t generation;   /* Owner: loop. Changes with each drop */
    _Atomic bool on_disk;  /* there is a file; changed on the loop */
    _Atomic bool seen;     /* the walk after the start met it */
    _Atomic uint8_t level; /* weakest enum tarn_verified of its groups; 0: unknown */
    bool used;             /* Owner: loop. Some of it was verified since the start */
    uint8_t replicas;      /* Owner: loop. As the user said; 0: nobody did. Kept in the index */
};
_Static_assert(sizeof(struct tarn_tier_file) + sizeof(struct tier_leaf) +
                       sizeof(struct tier_group) <=
                   208,
               "a hundred thousand small files fit 25 MB");

struct tier_shard {
    struct tarn_mtx mtx;     /* TARN_RANK_TIER */
    struct tarn_htab files;  /* Lock: mtx */
    _Atomic uint64_t hits;   /* reads served from files of this shard */
    _Atomic uint64_t misses; /* reads not served */
} __attribute__((aligned(64)));

enum tier_kv_state {
    TIER_KV_OPEN,
    TIER_KV_DRAIN,  /* must be reopened; readers of it end first */
    TIER_KV_REOPEN, /* a pool thread reopens it */
    TIER_KV_DOWN    /* that failed or was just done; tried again by timer */
};

/* Owner: loop, unless a member says otherwise. */
struct tarn_tier {
    uint32_t magic;
    struct tarn_loop *loop;   /* borrowed */
    struct tarn_disk *disk;   /* borrowed */
    struct tarn_clock *clock; /* borrowed */
    char *path;               /* immutable */
    char *owner;              /* immutable: cluster id */
    uint64_t id;              /* immutable: of the directory; 0: none could be written */
    enum tarn_medium medium;
    uint64_t quota_bytes, high_bytes, low_bytes; /* immutable */
    uint32_t disk_free_bp, fds_max;              /* immutable */
    int dir_fd, lock_fd, data_fd;                /* immutable */

    struct tier_shard shards[TIER_SHARDS];
    struct tarn_mtx fd_mtx;   /* TARN_RANK_TIER_FD */
    struct tarn_list fd_idle; /* Lock: fd_mtx. Files open and unused, oldest first */
    _Atomic uint32_t fds;     /* data files open */

    /* What the directory takes. Lock: acct_mtx for changes; read by any thread. */
    struct tarn_mtx acct_mtx;            /* TARN_RANK_LEAF */
    uint32_t bucket_bytes[TIER_BUCKETS]; /* Lock: acct_mtx. Of the directories */
    _Atomic uint64_t data_bytes_disk;    /* sum over files of disk_bytes */
    _Atomic uint64_t dir_bytes_disk;     /* sum of bucket_bytes */
    _Atomic uint64_t lent_bytes;         /* unlinked, but lent */
    _Atomic uint64_t reserved_bytes;     /* charges of reservations */
    _Atomic uint64_t index_bytes;        /* the index's share */
    _Atomic uint64_t foreign_bytes;      /* tarn_tier_set_foreign() */
    _Atomic int64_t fs_delta;            /* bytes we wrote, less freed, since fs_free was asked */
    uint64_t index_floor;                /* immutable: the least share of the index */
    uint64_t fs_free, fs_total, fs_time; /* statvfs's answer and when (monotonic ns) */

    /* Reports. Atomic. */
    _Atomic uint64_t data_bytes, files, evicted_bytes, checksum_errors;
    _Atomic uint32_t eio_streak; /* failures in a row */
    _Atomic bool offline;

    /* Reserving and evicting. */
    struct tarn_list lru;    /* groups, coldest first */
    struct tarn_list copies; /* those of others */
    uint64_t lru_len;        /* of both */
    uint64_t copies_len;
    _Atomic uint64_t copy_bytes; /* present bytes of copies; changed on the loop */
    uint64_t copies_max;         /* and how many there may be */
    uint64_t lru_scanned;        /* looked at since one was found */
    struct tarn_list reservers;  /* requests that wait for room */
    uint64_t waiting_bytes;      /* their charges */
    uint64_t evicting_bytes;     /* what evictions under way will free */
    uint32_t evicting;           /* evictions under way */
    uint64_t pinned_bytes;       /* present bytes of pinned files */
    bool to_low;                 /* above high: evict to low */
    bool shrinking;              /* began above the quota: admits nothing until low */
    bool pumping;                /* tarn_tier_pump() is on the stack */
    bool pump_posted;
    struct tarn_task pump_task;

    /* Removals and rewrites that wait for readers. */
    struct tarn_list pin_wait;
    _Atomic bool unpin_posted;
    struct tarn_task unpin_task;

    /* The index. */
    struct tarn_kv *kv; /* any thread, see kv_state */
    enum tier_kv_state kv_state;
    uint32_t kv_users;            /* requests under way that read it */
    struct tarn_list kv_wait;     /* requests that wait for TIER_KV_OPEN */
    struct tarn_list index_queue; /* requests whose records wait to be written */
    struct tarn_list index_batch; /* those being written: the pool thread's meanwhile */
    struct tarn_disk_io index_io;
    bool index_writing;
    int index_rc;                  /* of the write under way */
    uint64_t index_reopened_ns;    /* when it was last opened again */
    struct tarn_timer index_timer; /* retries that */

    /* The walk after the start. */
    _Atomic bool walking; /* changed on the loop */
    bool walk_late;       /* it takes longer than reservations may wait */
    unsigned walk_bucket;
    struct tarn_timer walk_timer;

    /* Life. */
    struct tarn_mtx job_mtx; /* TARN_RANK_LEAF */
    struct tarn_cond job_cond;
    uint32_t jobs;         /* Lock: job_mtx. Pool threads at work for this tier */
    bool closed;           /* Lock: job_mtx; the loop reads it freely */
    _Atomic uint32_t refs; /* 1 while open, and 1 for each task or request that the loop will see */
};

/* Lowers the file's level to that of one more of its groups. Loop's thread. */
void tarn_tier_file_note_level(struct tarn_tier_file *f, uint32_t level);

/* ---- tier.c: requests and their steps --------------------------------------------------- */

/* Runs op->work on the pool, then op->done on the loop. */
void tarn_tier_submit(struct tarn_tier_op *op, tarn_tier_step_fn *work, tarn_tier_step_fn *done);
/* Runs op->done on the loop, later. */
void tarn_tier_post(struct tarn_tier_op *op, tarn_tier_step_fn *done);
/* Ends a user's request inside a callback; or from the submitting call (later). */
void tarn_tier_end(struct tarn_tier_op *op, int rc);
void tarn_tier_end_later(struct tarn_tier_op *op, int rc);
struct tarn_tier_op *tarn_tier_op_new(struct tarn_tier *t, enum tier_kind kind,
                                      struct tarn_tier_file *f, uint32_t group);
void tarn_tier_op_free(struct tarn_tier_op *op); /* puts the file */
void tarn_tier_ref(struct tarn_tier *t);
void tarn_tier_unref(struct tarn_tier *t);
/* False once the tier is closed. Pool threads. */
bool tarn_tier_job_begin(struct tarn_tier *t);
void tarn_tier_job_end(struct tarn_tier *t);
/* Counts a failure of the directory (errno class) or, with 0, a success. True for failures that
 * count. Any thread. */
bool tarn_tier_note(struct tarn_tier *t, int rc);
bool tarn_tier_offline(const struct tarn_tier *t);
/* The same, with a look at whether its data/ was removed meanwhile, which no error of a disk tells.
 * Any thread; an fstat. */
bool tarn_tier_gone(struct tarn_tier *t);
uint32_t tarn_tier_now_s(const struct tarn_tier *t);

/* ---- tier_dir.c: the directory itself --------------------------------------------------- */

/* Checks, locks and makes what is missing: dir_fd, lock_fd, data_fd. *ret_fresh: there was no data.
 */
int tarn_tier_dir_open(struct tarn_tier *t, const struct tarn_tier_args *args,
                       struct tarn_errbuf *err, bool *ret_fresh);
void tarn_tier_dir_close(struct tarn_tier *t);
/* Deletes a directory below dir_fd with all that is in it (two levels). */
int tarn_tier_dir_wipe(const struct tarn_tier *t, const char *name);
/* pread and pwrite of all, with fault points. Negative code or bytes. */
int64_t tarn_tier_pread(int fd, void *dst, size_t n, uint64_t off);
int tarn_tier_pwrite(int fd, const void *src, size_t n, uint64_t off);

/* ---- tier_file.c: files, groups, descriptors -------------------------------------------- */

struct tier_shard *tarn_tier_shard(struct tarn_tier *t, const tarn_cid_t *cid);
void tarn_tier_file_use(
    struct tarn_tier_file *f); /* one more reference; there is one, or the file is cached */
struct tier_group *tarn_tier_group(const struct tarn_tier_file *f,
                                   uint64_t group); /* NULL: never needed yet */
struct tier_group *tarn_tier_group_make(struct tarn_tier_file *f, uint64_t group);
struct tarn_tier_file *tarn_tier_group_file(const struct tier_group *g, uint32_t *ret_group);
/* Walks the groups that exist: start with 0; NULL at the end. */
struct tier_group *tarn_tier_group_next(const struct tarn_tier_file *f, uint64_t *group);
/* The descriptor, opened where needed; the caller holds a reference and either a pinned present
 * group or a request under way. -TARN_E_INDEX_CORRUPT: there is no such file or it is not what the
 * index says. */
int tarn_tier_file_open(struct tarn_tier_file *f);
int tarn_tier_file_make(struct tarn_tier_file *f);   /* a new file */
void tarn_tier_file_close(struct tarn_tier_file *f); /* nobody uses the descriptor */
void tarn_tier_file_name(const struct tarn_tier_file *f, char ret[TIER_NAME_MAX]);
void tarn_tier_fd_trim(struct tarn_tier *t, uint32_t max);
/* Closes and frees everything; nobody may hold a file. */
void tarn_tier_files_free(struct tarn_tier *t);
void tarn_tier_group_pin(struct tier_group *g);
void tarn_tier_group_unpin(struct tarn_tier *t, struct tier_group *g);
/* True when no reader is in; else the last one will have pin_wait looked at. Presence must be off.
 */
bool tarn_tier_group_quiet(struct tier_group *g);
/* Any thread, the caller holds a reference: tells the loop that a group (or the file) cannot be
 * read. */
void tarn_tier_report(struct tarn_tier_file *f, uint32_t group, int rc);

/* ---- tier_lend.c ------------------------------------------------------------------------ */

#define TIER_MODE_LENT S_ISVTX /* in the mode of a data file: its inode was lent */

enum tier_lent { TIER_LENT_NEVER, TIER_LENT_BEFORE, TIER_LENT_NOW };
/* Anything but NEVER: the file's bytes may be looked at by others, and go only by unlink. */
enum tier_lent tarn_tier_lent(struct tarn_tier_file *f);
/* The inode as it is on disk: it may have been lent before the start. Any thread. */
void tarn_tier_lend_seen(struct tarn_tier_file *f, const struct stat *st);
/* A bad granule was found: no loan of it is for others. Any thread. */
void tarn_tier_lend_bad(struct tarn_tier_file *f);
/* Its name is gone, or taken by another inode; before the file's bytes are taken off the sum. */
void tarn_tier_lend_unlinked(struct tarn_tier_file *f);
/* A use: keeps the group from the evictor for a while. */
void tarn_tier_group_touch(const struct tarn_tier *t, struct tier_group *g);

/* ---- tier_op.c: requests that change a file, in turn; stores ---------------------------- */

void tarn_tier_group_set(struct tarn_tier_file *f, uint32_t group, uint64_t present,
                         uint64_t verified);
void tarn_tier_group_clear(struct tarn_tier_file *f, uint32_t group, uint64_t mask);
/* A request has begun; with `g` it has the group, with `exclusive` the file for itself. */
void tarn_tier_turn_begin(struct tarn_tier_file *f, struct tier_group *g, bool exclusive);
/* It has ended. The caller holds a reference; afterwards others may have begun, or an empty file's
 * removal. */
void tarn_tier_turn_end(struct tarn_tier_file *f, struct tier_group *g);
/* A store or a drop begins when it is its turn: now or later. */
void tarn_tier_turn_take(struct tarn_tier_op *op);
/* A store that waited for readers goes on. */
void tarn_tier_store_go(struct tarn_tier_op *op);

/* ---- tier_remove.c: what takes bytes away ----------------------------------------------- */

/* Starts removing a group; false when it is busy or not there. `counted`: as evicted. */
bool tarn_tier_evict(struct tarn_tier_file *f, uint32_t group, bool counted);
void tarn_tier_lose_file(struct tarn_tier_file *f); /* starts removing all of it */
void tarn_tier_drop_begin(struct tarn_tier_op *op); /* it is the turn of a TIER_DROP or TIER_LOST */
void tarn_tier_clean(struct tarn_tier_file *f); /* starts removing a file with nothing present */
void tarn_tier_fix(struct tarn_tier_file *f, uint32_t group, uint64_t bad); /* bad granules go */
void tarn_tier_unpin_wake(struct tarn_task *task);

/* ---- tier_index.c: the index while it is used ------------------------------------------- */

/* Has op's record written (or deleted); op->done runs on the loop with op->rc. */
void tarn_tier_index_enqueue(struct tarn_tier_op *op, tarn_tier_step_fn *done);
/* Loads and reads: true when they may start; else op->done runs again when they may. */
bool tarn_tier_index_enter(struct tarn_tier_op *op, tarn_tier_step_fn *done);
void tarn_tier_index_leave(struct tarn_tier *t);
/* Pool threads: the record of op's group. -ENOENT, -TARN_E_INDEX_CORRUPT, -TARN_E_KV*. */
int tarn_tier_index_get(const struct tarn_tier_op *op, struct tarn_tier_record *ret);
void tarn_tier_index_put(struct tarn_kv_batch *b, const uint8_t *key,
                         const struct tarn_tier_record *rec);
void tarn_tier_index_write(struct tarn_tier *t); /* writes index_batch, sets index_rc; one thread */
void tarn_tier_index_measure(struct tarn_tier *t); /* sets index_bytes; one thread */
uint64_t
tarn_tier_index_buffer(const struct tarn_tier *t); /* RocksDB's write buffer, by the quota */

/* ---- tier_scan.c: the index at the start and at the end --------------------------------- */

/* Opens it and makes the files that it names; a damaged one is deleted. */
int tarn_tier_index_open(struct tarn_tier *t, struct tarn_errbuf *err);
void tarn_tier_index_close(struct tarn_tier *t); /* saves access times */

/* ---- tier_quota.c ----------------------------------------------------------------------- */

uint64_t tarn_tier_charge(uint64_t bytes); /* what a reservation of `bytes` counts */
uint64_t tarn_tier_used(struct tarn_tier *t);
/* Counts what the file (its directory) really takes now. Any thread. */
void tarn_tier_account(struct tarn_tier_file *f, int fd);
void tarn_tier_account_stat(struct tarn_tier_file *f, const struct stat *st);
void tarn_tier_account_bytes(struct tarn_tier_file *f, uint64_t disk_bytes);
void tarn_tier_account_bucket(struct tarn_tier *t, unsigned bucket);
uint64_t tarn_tier_disk_bytes(uint64_t blocks_bytes); /* with what the file system needs besides */
void tarn_tier_release(struct tarn_tier *t, uint64_t charge);
/* Grants reservations and evicts, as far as possible now. */
void tarn_tier_pump(struct tarn_tier *t);
void tarn_tier_lru_add(struct tarn_tier *t, struct tier_group *g);
void tarn_tier_lru_del(struct tarn_tier *t, struct tier_group *g);
/* Marks a group as another's or as ours. */
void tarn_tier_copy_mark(struct tarn_tier_file *f, uint32_t group, struct tier_group *g, bool copy);
/* Evicts copies down to what they may take. */
void tarn_tier_copies_trim(struct tarn_tier *t);
uint64_t tarn_tier_free_bytes(struct tarn_tier *t); /* what may still be written without eviction */

/* ---- tier_walk.c ------------------------------------------------------------------------ */

void tarn_tier_walk_start(struct tarn_tier *t);
