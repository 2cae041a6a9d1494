/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tools/dir_format.h — whose a directory of ours is, and which version wrote it: its file FORMAT.
 * docs/formats/cache-dir.md, docs/formats/master-dir.md.
 */
#pragma once

#include <stdbool.h>

#include "lib/base/err.h"

/* A kind of directory. Immutable. */
struct dir_kind {
    const char *what;         /* for messages: "cache directory" */
    const char *advice;       /* to whom finds it locked */
    const char *head;         /* FORMAT's line up to the version: "tarn cache " */
    const char *no_sum;       /* the line of the first versions, without a sum; NULL: none */
    const char *const *names; /* what else may lie there; NULL-terminated */
    const char *const *ours;  /* those of them that our data is in; directories but for files */
    const char *const *files; /* those of `ours` that are files */
    bool strict; /* a FORMAT that is not to be read, beside names of others, is theirs */
};
extern const struct dir_kind dir_cache, dir_master;

/*
 * Looks at FORMAT below dir_fd, and writes it where it is missing, damaged or of an older form.
 * `path` is for messages. `had_lock`: LOCK was there before we came. Errors: FORMAT_NEWER,
 * DIR_FOREIGN (somebody else's files, or another kind; nothing was written), errno class.
 */
int dir_format_check(const struct dir_kind *kind, int dir_fd, const char *path, bool had_lock,
                     struct tarn_errbuf *err);
