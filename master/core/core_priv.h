/* SPDX-License-Identifier: Apache-2.0 */
/*
 * master/core/core_priv.h — keys, values and the state of one apply, shared by the core's files.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/err.h"
#include "lib/base/limits.h"
#include "lib/base/name.h"
#include "lib/base/str.h"
#include "master/core/core.h"

#define CORE_FORMAT 1u /* first byte of a value, and the store's format at first */
/* A store with attachments elsewhere than at "/", or where something was detached: a version that
 * knows one attachment would take paths for keys. */
#define CORE_FORMAT_MANY 2u

#define CORE_TYPE_FILE    1u
#define CORE_TYPE_DIR     2u
#define CORE_TYPE_SYMLINK 3u

#define CORE_WORKER_LIVE    1u /* as in tarn.wire.WorkerInfo */
#define CORE_WORKER_LOST    3u
#define CORE_WORKER_REMOVED 4u

#define CORE_INO_END (1ull << 48) /* the upper 16 bits are reserved for shards */

/* ---- keys
 * ------------------------------------------------------------------------------------------ */

#define CORE_TAG_ATTACHMENT 'a'
#define CORE_TAG_COUNTS     'c'
#define CORE_TAG_DENTRY     'd'
#define CORE_TAG_ORDER      'e'
#define CORE_TAG_GARBAGE    'g'
#define CORE_TAG_INODE      'i'
#define CORE_TAG_JOB        'j'
#define CORE_TAG_DIR        'l'
#define CORE_TAG_LINE       'm'
#define CORE_TAG_ITEM       'n'
#define CORE_TAG_SKIPPED    's'
#define CORE_TAG_WORKER     'w'
#define CORE_TAG_SINGLE     'x'

#define CORE_X_APPLIED     "applied"
#define CORE_X_ATTACHED    "attached" /* index of the last attach or detach */
#define CORE_X_NEXT_ATT    "next_att" /* smallest id of a new attachment */
#define CORE_X_CLUSTER     "cluster"
#define CORE_X_FORMAT      "format"
#define CORE_X_NEXT_INO    "next_ino"
#define CORE_X_NEXT_WORKER "next_worker"
#define CORE_X_PLACEMENT   "placement"
#define CORE_X_CAP_KEY     "cap_key"
#define CORE_X_CHANGE      "change"
#define CORE_X_UNTOLD      "untold"

/* A key on the stack. */
struct core_key {
    size_t n;                         /* bytes used */
    uint8_t b[1 + 8 + TARN_NAME_MAX]; /* tag, id, rest */
};

static inline void core_be64(uint8_t *p, uint64_t v)
{
    v = __builtin_bswap64(v);
    memcpy(p, &v, sizeof(v));
}

static inline uint64_t core_get_be64(const uint8_t *p)
{
    uint64_t v;

    memcpy(&v, p, sizeof(v));
    return __builtin_bswap64(v);
}

static inline struct tarn_kv_slice core_slice(const struct core_key *k)
{
    return tarn_kv_slice(k->b, k->n);
}

/* Tag and id: inodes, directory states, jobs, and the prefix of what belongs to one. */
static inline void core_key_id(struct core_key *k, char tag, uint64_t id)
{
    k->b[0] = (uint8_t)tag;
    core_be64(k->b + 1, id);
    k->n = 9;
}

static inline void core_key_id2(struct core_key *k, char tag, uint64_t id, uint64_t second)
{
    core_key_id(k, tag, id);
    core_be64(k->b + 9, second);
    k->n = 17;
}

static inline void core_key_name(struct core_key *k, uint64_t parent, const void *name, size_t len)
{
    TARN_ASSERT(len <= TARN_NAME_MAX);
    core_key_id(k, CORE_TAG_DENTRY, parent);
    if (len)
        memcpy(k->b + 9, name, len);
    k->n = 9 + len;
}

static inline void core_key_id32(struct core_key *k, char tag, uint32_t id)
{
    uint32_t be = __builtin_bswap32(id);

    k->b[0] = (uint8_t)tag;
    memcpy(k->b + 1, &be, sizeof(be));
    k->n = 5;
}

static inline void core_key_single(struct core_key *k, const char *name)
{
    size_t len = strlen(name);

    k->b[0] = CORE_TAG_SINGLE;
    memcpy(k->b + 1, name, len);
    k->n = 1 + len;
}

/* ---- memory of one apply
 * ----------------------------------------------------------------------------- */

/* Bump allocator: freed as a whole. Zeroed is empty. */
struct core_arena {
    struct core_block *blocks; /* newest first */
    size_t used;               /* bytes of the newest */
};
void *core_arena_alloc(struct core_arena *a, size_t n); /* 16-byte aligned, not zeroed */
void core_arena_fini(struct core_arena *a);
/* For protobuf-c's unpack; what it gives is never freed singly. `a` must outlive it. */
ProtobufCAllocator core_arena_allocator(struct core_arena *a);

/* ---- values
 * ------------------------------------------------------------------------------------------ */

/* Where to read: committed state, or a batch above it. */
struct core_src {
    struct tarn_kv *kv;      /* the store */
    struct tarn_kv_batch *b; /* NULL: committed state only */
};

/* -TARN_E_NO_ENTRY when absent; else 0 or the store's error. `ret` holds the value with its format
 * byte. */
int core_get(const struct core_src *s, unsigned cf, const struct core_key *k, struct tarn_str *ret);
/* Checks the format byte and decodes what follows. -TARN_E_KV_CORRUPT. `al` NULL: the heap. */
int core_decode(const ProtobufCMessageDescriptor *d, struct tarn_kv_slice value,
                ProtobufCAllocator *al, void **ret);
/* Both in one: -TARN_E_NO_ENTRY, -TARN_E_KV_CORRUPT. */
int core_get_message(const struct core_src *s, unsigned cf, const struct core_key *k,
                     const ProtobufCMessageDescriptor *d, ProtobufCAllocator *al, void **ret);
int core_get_u64(const struct core_src *s, const char *single, uint64_t *ret);
/* -TARN_E_KV_CORRUPT also when the numbers cannot be. `al` is for what is needed meanwhile. */
int core_dentry_decode(struct tarn_kv_slice value, ProtobufCAllocator *al, tarn_ino_t *ret_ino,
                       uint32_t *ret_type);
int core_get_dentry(const struct core_src *s, uint64_t parent, const void *name, size_t len,
                    ProtobufCAllocator *al, tarn_ino_t *ret_ino, uint32_t *ret_type);

/* Reads inodes; steps through the store's order while ids follow each other, seeks otherwise. */
struct core_inodes {
    struct tarn_kv_iter *it; /* over all inodes */
    uint64_t at;             /* id where it stands; 0: nowhere */
};
void core_inodes_init(struct core_inodes *c, const struct core_src *s);
void core_inodes_fini(struct core_inodes *c);
int core_inodes_get(struct core_inodes *c, tarn_ino_t ino, ProtobufCAllocator *al,
                    Tarn__Core__Inode **ret);

/* True for a failure of the store, as opposed to a refusal of an entry. */
static inline bool core_store_failed(int rc)
{
    return rc < 0 && (rc > -1000 || rc == -TARN_E_KV || rc == -TARN_E_KV_CORRUPT ||
                      rc == -TARN_E_KV_NO_SPACE);
}

/* Order of names and keys: bytewise, a prefix before what it begins. */
int core_compare(const void *a, size_t a_n, const void *b, size_t b_n);

/* ---- one apply
 * --------------------------------------------------------------------------------------- */

/* Lives during one tarn_core_apply. Lock: none. */
struct core_tx {
    struct core_src src;          /* reads see the batch */
    uint64_t index;               /* of the entry */
    int64_t time_ns;              /* the proposer's */
    struct tarn_core_result *res; /* the caller's */
    struct core_arena arena;      /* decoded values, plans */
    ProtobufCAllocator al;        /* on the arena */
    struct tarn_str in;           /* scratch: a value read */
    struct tarn_str out;          /* scratch: a value written */
    size_t change_cap;            /* room in res->changes */
    uint64_t next_ino;            /* 0: not read yet */
    bool next_ino_dirty;          /* to be written */
    uint32_t attachment;          /* whose counts are below; 0: none read yet */
    Tarn__Core__Counts counts;    /* of that attachment */
    bool counts_dirty;            /* to be written */
};

void core_tx_put(struct core_tx *tx, unsigned cf, const struct core_key *k,
                 const ProtobufCMessage *m);
void core_tx_put_bytes(struct core_tx *tx, const struct core_key *k, const void *p, size_t n);
void core_tx_put_u64(struct core_tx *tx, const char *single, uint64_t v);
void core_tx_delete(struct core_tx *tx, unsigned cf, const struct core_key *k);
int core_tx_inode(struct core_tx *tx, tarn_ino_t ino,
                  Tarn__Core__Inode **ret); /* -TARN_E_NO_ENTRY */
void core_tx_put_inode(struct core_tx *tx, tarn_ino_t ino, const Tarn__Core__Inode *inode);
/* The state of a directory; a zero one when there is none. */
int core_tx_dir_state(struct core_tx *tx, tarn_ino_t dir, Tarn__Core__DirState **ret);
/*
 * Reads what creating and removing inodes of `attachment` needs; zeroes when it has none. What was
 * open before is written first if it changed, so after the first write only the store can fail.
 */
int core_tx_open_counts(struct core_tx *tx, uint32_t attachment);
/* The same for one that is new: its root. */
void core_tx_new_counts(struct core_tx *tx, uint32_t attachment);
/* Counts of nothing are removed: the attachment is gone, and all that it had. */
void core_tx_flush_counts(struct core_tx *tx);
/* Room for `n` more inodes? -TARN_E_TOO_BIG. */
int core_tx_reserve_inos(struct core_tx *tx, size_t n);
void core_tx_change(struct core_tx *tx, tarn_ino_t ino, tarn_ino_t parent, uint64_t version,
                    const void *name, size_t len);

/*
 * A directory into which names may be written, with its counts opened: NO_ENTRY (also when
 * detached), NOT_DIR, NO_ATTACH.
 */
int core_tx_dir(struct core_tx *tx, tarn_ino_t dir, Tarn__Core__Inode **ret);
/* An asked_index lies before the entry itself. */
static inline bool core_asked_ok(const struct core_tx *tx, uint64_t asked)
{
    return asked < tx->index;
}

/* What an object says, checked: ENTRY_BAD. */
int core_object_check(const Tarn__Core__Object *o);

/* A name and the inode that it has. */
struct core_name {
    const void *name;         /* borrowed */
    size_t len;               /* at most TARN_NAME_MAX */
    tarn_ino_t ino;           /* 0: none */
    Tarn__Core__Inode *inode; /* NULL: none; changed in place */
};

/* True when `inode` already says what `o` says (same type), and belongs to the store that says so.
 */
bool core_object_same(const struct core_tx *tx, const Tarn__Core__Inode *inode,
                      const Tarn__Core__Object *o);
/*
 * True when an answer (NULL: there is no such object) has nothing to say about the name: it is held
 * for an attachment. But a directory on the way is the store's where the store has one.
 */
bool core_name_covered(const struct core_tx *tx, const Tarn__Core__Inode *inode,
                       const Tarn__Core__Object *o);
/*
 * Makes inodes with contiguous ids, and their names, in the order given; the caller has reserved
 * the ids and opened the directory. Returns the first id; 0 when there is none.
 */
tarn_ino_t core_names_create(struct core_tx *tx, tarn_ino_t dir,
                             const Tarn__Core__Object *const *objects, size_t n);
/* Writes what differs; same type. A directory of the cluster's own becomes the store's. */
void core_name_update(struct core_tx *tx, const struct core_name *n, const Tarn__Core__Object *o);
/* Removes names; a directory is detached. */
int core_name_remove(struct core_tx *tx, const struct core_name *n);
int core_names_remove(struct core_tx *tx, const struct core_name *const *names, size_t n);
/* A directory without a name: what is below waits for Collect. */
int core_dir_detach(struct core_tx *tx, tarn_ino_t ino, Tarn__Core__Inode *inode);
void core_name_put(struct core_tx *tx, tarn_ino_t dir, const void *name, size_t len, tarn_ino_t ino,
                   uint32_t type);
void core_name_delete(struct core_tx *tx, tarn_ino_t dir, const void *name, size_t len,
                      tarn_ino_t ino);

/* Names of a directory, ascending by bytes (not by key). Zeroed is empty; lives in the arena. */
struct core_scan {
    struct core_name *names; /* with their inodes */
    size_t count;            /* of names */
    size_t cap;              /* room there */
    bool cut;                /* there are more names behind the last one */
};
void core_scan_add(struct core_tx *tx, struct core_scan *s, const void *name, size_t len,
                   tarn_ino_t ino);
/*
 * Adds the names from `from` (included) to `to` (included; NULL: the end), and stops with `cut`
 * before the name after the first `limit` in the scan.
 */
int core_scan_range(struct core_tx *tx, struct core_scan *s, tarn_ino_t dir,
                    ProtobufCBinaryData from, const ProtobufCBinaryData *to, size_t limit);
/* Reads the inodes of all names; they must belong to `dir` and to the attachment that is open. */
int core_scan_inodes(struct core_tx *tx, struct core_scan *s, tarn_ino_t dir);
/* A name with its inode; ino 0 when there is none. */
int core_scan_one(struct core_tx *tx, tarn_ino_t dir, ProtobufCBinaryData name,
                  struct core_name *ret);

int core_apply_attach(struct core_tx *tx, const Tarn__Core__Attachment *m);
int core_apply_detach(struct core_tx *tx, const Tarn__Core__Detach *m);
int core_apply_list_begin(struct core_tx *tx, const Tarn__Core__ListBegin *m);
int core_apply_list_page(struct core_tx *tx, const Tarn__Core__ListPage *m);
int core_apply_found(struct core_tx *tx, const Tarn__Core__Found *m);
int core_apply_gone(struct core_tx *tx, const Tarn__Core__Gone *m);
int core_apply_collect(struct core_tx *tx, const Tarn__Core__Collect *m);
int core_apply_job_put(struct core_tx *tx, const Tarn__Core__JobPut *m);
int core_apply_job_lines(struct core_tx *tx, const Tarn__Core__JobLines *m);
int core_apply_job_items(struct core_tx *tx, const Tarn__Core__JobItems *m);
int core_apply_job_drop(struct core_tx *tx, const Tarn__Core__JobDrop *m);
int core_apply_worker_put(struct core_tx *tx, const Tarn__Core__Worker *m);
int core_apply_past_drop(struct core_tx *tx, const Tarn__Core__PastDrop *m);
int core_apply_cap_key(struct core_tx *tx, const Tarn__Core__CapKey *m);
int core_apply_told(struct core_tx *tx, const Tarn__Core__Told *m);
/* Of an entry that changed known names, before its end: it is the last one that did, those who
 * believe otherwise are not told yet, and directories that lost names know it. */
int core_tell(struct core_tx *tx);
/* Marks the listing of a directory as not to be believed, or as complete; keeps dirs_listed right.
 */
void core_dir_set_listed(struct core_tx *tx, Tarn__Core__DirState *st, int64_t listed_ns);
/* A name that its listing covered is unknown from now on: neither it nor one that runs is believed.
 */
int core_dir_distrust(struct core_tx *tx, tarn_ino_t dir, uint32_t attachment);
