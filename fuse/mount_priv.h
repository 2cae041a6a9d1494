/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuse/mount_priv.h — the mount itself.
 *
 * We mount ourselves (mount(2), or fusermount3 without the privilege) and hand libfuse the
 * descriptor: so errors have their cause, and nothing is unmounted but what we mounted.
 */
#pragma once

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>

#include "lib/base/err.h"
#include "lib/base/str.h"
#include "lib/disk/mountinfo.h"

/* Of the errno of a question: there is a FUSE mount whose server is gone. */
bool fmount_is_dead(int e);

/* ---- mounting (kmount.c) --------------------------------------------------------------------- */

struct fmount {
    char path[PATH_MAX]; /* canonical; "" when somebody else mounted (/dev/fd/N) */
    unsigned major, minor;
};

struct fmount_args {
    const char *path; /* as given */
    const char *source;
    bool allow_other;
    size_t max_read;
};

/* The descriptor number of "/dev/fd/N", or -1. */
int fmount_fd_of(const char *path);
/* `path` in the form that the mount table has; does not touch what is mounted there. errno class.
 */
int fmount_canonical(const char *path, char ret[PATH_MAX]);
/* What lies on top of `path` (canonical), if that is a FUSE mount. */
bool fmount_fuse_at(const char *path, struct tarn_mountinfo *ret);
/* -TARN_E_MOUNTPOINT if a mount that was probed (`e`, on top of `path`) is in the way. */
int fmount_refuse(const char *path, const struct tarn_mountinfo *top, int e,
                  struct tarn_errbuf *err);
/*
 * Mounts; *ret_fd is the descriptor to serve. Dead FUSE mounts there are detached, and the new one
 * follows at once. -TARN_E_FUSE, -TARN_E_MOUNTPOINT.
 */
int fmount_start(const struct fmount_args *args, struct tarn_errbuf *err, struct fmount *ret,
                 int *ret_fd);
/*
 * Detaches it lazily if it is still there. `ended`: the kernel has ended it; then device numbers
 * may be another mount's by now, and only a dead mount can be ours. errno class.
 */
int fmount_detach(const struct fmount *m, bool ended);
/* Unmounts what is at `path`, with fusermount3 when not permitted: `err` (may be NULL) then has its
 * words. errno class. */
int fmount_umount(const char *path, bool lazy, struct tarn_errbuf *err);
/* Lets the kernel read ahead as much as one request can carry, where that is permitted. */
void fmount_set_read_ahead(const struct fmount *m, unsigned kib);
