/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A reference model of the core: the rules of core.h once more, on plain structures, name by name
 * and with whole keys compared. It shares no code with the core but the entries' types.
 */
#pragma once

#include "lib/base/ids.h"
#include "master/core/core.h"

#define MODEL_NAME_MAX 255
#define MODEL_JOBS     4
#define MODEL_LINES    64

/* An inode, and a directory's listing. */
struct model_inode {
    bool exists;   /* not yet collected or removed */
    bool detached; /* a directory without a name */
    bool held;     /* on the way to an attachment, or its root */
    uint32_t attachment;
    uint32_t type; /* as in core.proto */
    uint64_t parent;
    uint64_t version, changed;
    uint64_t children;   /* first child; 0: none */
    uint64_t next, prev; /* siblings */
    size_t len;          /* of name */
    char name[MODEL_NAME_MAX + 1];
    uint64_t size; /* files */
    int64_t mtime_ns;
    char etag[8];
    uint8_t cid[16];
    bool has_cid, has_owner;
    uint32_t mode, uid, gid;
    char target[16];
    /* directories */
    int64_t listed_ns, started_ns;
    uint64_t listed_index, asked_index, skipped, skipped_total, removed_index;
    bool running, dir_removed;
    size_t upto_len;
    char upto[MODEL_NAME_MAX + 2];
    unsigned skipped_lines; /* names left out that are kept */
};

#define MODEL_ATTACHMENTS 6

struct model_attachment {
    uint32_t id; /* 0: none */
    char path[32], store_id[4], ttl[16];
    int64_t since_ns;
    uint64_t root;
};

struct model_job {
    bool exists;
    uint64_t files_done, line_first, line_next, item_first, item_next;
};

#define MODEL_UUIDS   6
#define MODEL_WORKERS 64
#define MODEL_SETS    256

struct model_worker {
    unsigned uuid; /* 0: none */
    uint32_t weight, state;
    int64_t since_ns;
};

/* Weights by id; 0: no owner. */
struct model_set {
    uint32_t weights[MODEL_WORKERS + 1];
    uint64_t index;
};

struct model {
    struct model_inode *inodes; /* by id */
    uint64_t next_ino, cap;
    bool inited;
    struct model_attachment attached[MODEL_ATTACHMENTS];
    uint32_t next_attachment;
    uint64_t attached_index;
    uint64_t change; /* index of the last entry that changed a known name */
    uint64_t untold; /* index from which on changes are not told; 0: all are */
    struct model_job jobs[MODEL_JOBS + 1];
    struct model_worker workers[MODEL_WORKERS + 1]; /* by id */
    uint64_t next_worker;
    struct model_set *past; /* all that ever ended, oldest first; those dropped have index 0 */
    size_t past_n;
    bool has_key;
    uint8_t key; /* its first byte */
};

struct model_change {
    uint64_t ino, parent, version;
};

/* What tarn_core_apply is to answer. */
struct model_result {
    int rc;
    uint64_t ino, worker;
    uint32_t created, updated, removed;
    bool more;
    struct model_change *changes;
    size_t change_count, change_cap;
};

void model_init(struct model *m);
void model_fini(struct model *m);
void model_result_fini(struct model_result *r);
/* `r` is zeroed by the caller. */
void model_apply(struct model *m, uint64_t index, const Tarn__Core__Entry *e,
                 struct model_result *r);
/* The child of that name; 0: none. */
uint64_t model_child(const struct model *m, uint64_t dir, const void *name, size_t len);
/* The attachment of that id; NULL. 0: a place for a new one. */
struct model_attachment *model_attachment(const struct model *m, uint32_t id);
bool model_set_same(const struct model_set *a, const struct model_set *b);
/* Compares everything that can be read; fails the test where they differ. */
void model_compare(const struct model *m, struct tarn_kv *kv, uint64_t applied);
