/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A core on a store in memory, and entries written as text: a listing "a b=3 c/ d@" is a file of
 * 1 byte, one of 3 bytes, a directory and a symlink.
 */
#pragma once

#include "master/core/core.h"

#define FX_OBJECTS_MAX 64

/* Lives in a test. */
struct core_fx {
    struct tarn_kv_mem_disk disk; /* of kv */
    struct tarn_kv *kv;           /* the store */
    uint64_t index;               /* of the last entry */
    int64_t now_ns;               /* time of the next entry; grows by 10 per entry */
    struct tarn_core_result res;  /* of the last entry */
    struct tarn_str text;         /* what fx_ls and fx_changes gave last */
};

/* Objects of a page or a Found, with what they point at. */
struct fx_objects {
    Tarn__Core__Object o[FX_OBJECTS_MAX];
    Tarn__Core__Object *p[FX_OBJECTS_MAX];
    Tarn__Core__Version v[FX_OBJECTS_MAX];
    char names[FX_OBJECTS_MAX][256];
    char etags[FX_OBJECTS_MAX][16];
    size_t n;
};
ProtobufCBinaryData fx_bytes(const char *z);
void fx_objects_parse(struct fx_objects *s, const char *text);

void fx_open(struct core_fx *fx);          /* a fresh store */
void fx_open_attached(struct core_fx *fx); /* with Init and attachment 1 at "/": index 2 */
void fx_close(struct core_fx *fx);         /* runs the checker first */
/* Applies and commits; returns the entry's rc. */
int fx_apply(struct core_fx *fx, Tarn__Core__Entry *e);
int fx_apply_bytes(struct core_fx *fx, const void *p, size_t n);

int fx_init(struct core_fx *fx, const char *cluster_id);
int fx_attach(struct core_fx *fx, uint32_t id, const char *path, const char *store_id,
              const char *ttl);
int fx_begin(struct core_fx *fx, uint64_t dir, uint64_t asked, bool resume);
/* `to` NULL: complete. */
int fx_page(struct core_fx *fx, uint64_t dir, const char *from, const char *to, uint64_t asked,
            const char *objects);
/* Begin and one complete page, asked now. */
void fx_list(struct core_fx *fx, uint64_t dir, const char *objects);
int fx_found(struct core_fx *fx, uint64_t parent, uint64_t asked, const char *object);
int fx_gone(struct core_fx *fx, uint64_t parent, uint64_t asked, const char *name);
int fx_collect(struct core_fx *fx, uint64_t ino, uint32_t max);

uint64_t fx_ino(struct core_fx *fx, uint64_t parent, const char *name); /* 0: none */
/* Names in the order of readdir: "a b/ c@". */
const char *fx_ls(struct core_fx *fx, uint64_t dir);
/* What the last entry listed as changed: "a v3", "b gone", in its order. */
const char *fx_changes(struct core_fx *fx);
/* "files dirs bytes symlinks dirs_listed" of attachment 1. */
const char *fx_counts(struct core_fx *fx);
/* The caller frees them. */
Tarn__Core__DirState *fx_dir(struct core_fx *fx, uint64_t dir);
Tarn__Core__Inode *fx_inode(struct core_fx *fx, uint64_t ino);
