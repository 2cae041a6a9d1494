/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tools/dir.h — a directory of ours that a process holds: LOCK (flock) and FORMAT around what is in
 * it. docs/formats/cache-dir.md, docs/formats/master-dir.md.
 */
#pragma once

#include "lib/base/err.h"
#include "tools/dir_format.h"

struct dir {
    char *path;  /* canonical */
    int lock_fd; /* holds LOCK; -1 when closed */
};

/*
 * Makes it when missing (mode 0700), locks it, checks FORMAT. DIR_LOCKED, FORMAT_NEWER, DIR_FOREIGN
 * (something else lives there), DENIED (others may write to it), errno class.
 */
int dir_open(const struct dir_kind *kind, const char *path, struct dir *ret,
             struct tarn_errbuf *err);
void dir_close(struct dir *d); /* also of one that was never opened */
