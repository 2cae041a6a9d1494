/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ufs/file_priv.h — the parts of the file:// back end that run on pool threads: resolving a key
 * below the root, attributes, sorted listings. They know nothing of loops and requests; any thread.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include "lib/base/err.h"
#include "lib/base/str.h"
#include "lib/disk/mountinfo.h"

struct tarn_ufs_attr;
struct tarn_ufs_entry;
struct tarn_ufs_version;

#define TARN_FILE_SNAP_BYTES (64u << 20) /* of one sorted listing in memory */

/* ---- file_open.c ---------------------------------------------------------------------------- */

/* The directory that is served. Immutable but for the flags. */
struct tarn_file_root {
    char *path;              /* canonical, absolute */
    _Atomic bool no_openat2; /* the kernel or a sandbox has refused it */
    _Atomic bool mounted;    /* a file system was, on the directory itself */
    _Atomic uint64_t dev;    /* (major << 32 | minor) + 1 of what was opened last; 0: nothing */
    struct tarn_mountwatch mounts;
    _Atomic uint64_t covered; /* changes of `mounts` << 1 | a mount of a cluster was over it */
};

/*
 * Opens `rel` ("" is the root, no trailing slash) below the root with open(2) `flags` (O_CLOEXEC
 * and O_NOFOLLOW are added), following no symlink and leaving by no "..": *ret_fd. A symlink itself
 * can be had with O_PATH. Negative errno, EDEADLK where a mount of a cluster lies over the root;
 * -TARN_E_UFS_NO_BUCKET when the root is not there,
 * -TARN_E_UFS_DOWN when it was a mounted file system and is none now.
 */
int tarn_file_open(struct tarn_file_root *root, const char *rel, int flags, int *ret_fd);
/* Our code for a negative errno of a file's operation. */
int tarn_file_code(int rc);
/* False for what is neither file, directory nor symlink. */
bool tarn_file_attr(const struct stat *st, struct tarn_ufs_attr *ret);
/* 0, or how long the file's bytes must not be trusted yet since its ctime may hide another change;
 * ns. */
uint64_t tarn_file_young_ns(int fd, const struct stat *st, int64_t real_ns);

/* ---- file_list.c ---------------------------------------------------------------------------- */

/*
 * The names of one directory in key order, as far as they fit `max_bytes`: all names behind a
 * position, or the smallest of them. Owner: whoever holds the pointer.
 */
struct tarn_file_snap;
void tarn_file_snap_free(struct tarn_file_snap **s);

/* One page; as in struct tarn_ufs_list, in memory of its own. */
struct tarn_file_page {
    struct tarn_ufs_entry *entries; /* one block with the names and targets; free() */
    size_t count;                   /* entries */
    char *to_key;                   /* last key covered; NULL when complete */
    struct tarn_str skipped;        /* names left out, each with a NUL */
};
void tarn_file_page_fini(struct tarn_file_page *p);

struct tarn_file_list_args {
    struct tarn_file_root *root; /* served directory */
    const char *dir;             /* "" or "a/b/" */
    const char *from_key;        /* names behind it */
    unsigned max_entries;        /* of the page */
    size_t max_bytes;            /* of a snap; TARN_FILE_SNAP_BYTES but in tests */
    _Atomic uint64_t *beats;     /* grows while work is done */
    const _Atomic bool *stop;    /* true: end with -TARN_E_CANCELLED */
};
/* Makes the next page; *snap (NULL inside at first) is kept between pages, NULL again when
 * complete. */
int tarn_file_list(const struct tarn_file_list_args *a, struct tarn_file_snap **snap,
                   struct tarn_file_page *ret);
