/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuse/mount_priv.h — the mount itself: the kernel's table of mounts, and mounting.
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

#define FUSE_FSTYPE "fuse.tarncache"

/* ---- /proc/self/mountinfo (mountinfo.c), pure but for fmi_load ------------------------------- */

struct fmi {
    unsigned major, minor; /* of st_dev */
    char root[PATH_MAX];   /* of what is mounted, which directory: "/", but of a bind mount */
    char mountpoint[PATH_MAX];
    char type[64];
    char source[PATH_MAX]; /* "" where it is too long */
};

int fmi_load(struct tarn_str *ret); /* errno class */
/* Takes the next line of *p; false at the end. Lines that cannot be read are left out. */
bool fmi_next(const char **p, struct fmi *ret);
/* What is on top at exactly `path` (absolute, canonical). */
bool fmi_at(const char *table, const char *path, struct fmi *ret);
/* The mount that `path` lies in. */
bool fmi_over(const char *table, const char *path, struct fmi *ret);

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
bool fmount_fuse_at(const char *path, struct fmi *ret);
/* -TARN_E_MOUNTPOINT if a mount that was probed (`e`, on top of `path`) is in the way. */
int fmount_refuse(const char *path, const struct fmi *top, int e, struct tarn_errbuf *err);
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
