/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lib/disk/mountinfo.h — the kernel's table of mounts, /proc/self/mountinfo (proc(5)).
 *
 * It is read and not asked: no file system is touched, so nothing here waits for one. Pure but for
 * tarn_mountinfo_load() and the watch. Any thread.
 */
#pragma once

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include "lib/base/mtx.h"
#include "lib/base/str.h"

#define TARN_MOUNT_TYPE "fuse.tarncache" /* of our mounts */

struct tarn_mountinfo {
    unsigned id, parent;
    unsigned major, minor; /* of st_dev */
    char root[PATH_MAX];   /* of what is mounted, which directory: "/", but of a bind mount */
    char mountpoint[PATH_MAX];
    char type[64];
    char source[PATH_MAX]; /* "" where it is too long */
};

int tarn_mountinfo_load(struct tarn_str *ret); /* errno class */
/* Takes the next line of *p; false at the end. Lines that cannot be read are left out. */
bool tarn_mountinfo_next(const char **p, struct tarn_mountinfo *ret);
/* What is on top at exactly `path` (absolute, canonical). */
bool tarn_mountinfo_at(const char *table, const char *path, struct tarn_mountinfo *ret);
/* The mount that `path` lies in, as a walk from the root meets it. */
bool tarn_mountinfo_over(const char *table, const char *path, struct tarn_mountinfo *ret);

/* Whether the table changed, for the price of a poll(2). */
struct tarn_mountwatch {
    int fd; /* < 0: nothing is known */
    struct tarn_mtx mtx;
    uint64_t changes; /* mtx */
};

void tarn_mountwatch_init(struct tarn_mountwatch *w);
void tarn_mountwatch_fini(struct tarn_mountwatch *w);
/* A number that grows with each change; 0: nothing is known. Ask before the table is read: what is
 * kept beside the number is right as long as that is the same. */
uint64_t tarn_mountwatch_changes(struct tarn_mountwatch *w);
