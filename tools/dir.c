/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Directories that one process at a time holds: made when they are missing, locked, and looked at
 * by dir_format.c.
 */
#include "tools/dir.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/mem.h"
#include "tools/lock_holder.h"

static int dir_mkdirs(const struct dir_kind *kind, const char *path, struct tarn_errbuf *err)
{
    TARN_AUTO_FREE char *p = tarn_xstrdup(path);

    for (char *at = p + 1; *at; at++) {
        if (*at != '/')
            continue;
        *at = 0;
        if (mkdir(p, 0755) < 0 && errno != EEXIST)
            return tarn_err_set(err, -errno, "%s %s: make %s: %s", kind->what, path, p,
                                strerrordesc_np(errno));
        *at = '/';
    }
    if (mkdir(p, 0700) < 0 && errno != EEXIST)
        return tarn_err_set(err, -errno, "%s %s: %s", kind->what, path, strerrordesc_np(errno));
    return 0;
}

static int dir_locked(const struct dir_kind *kind, int lock_fd, const char *path,
                      struct tarn_errbuf *err)
{
    pid_t pid = lock_holder(lock_fd);
    char who[32] = "";

    if (pid)
        (void)snprintf(who, sizeof(who), " (pid %d)", (int)pid); /* fits */
    return tarn_err_set(err, -TARN_E_DIR_LOCKED, "%s %s: another tarn%s uses it; %s", kind->what,
                        path, who, kind->advice);
}

int dir_open(const struct dir_kind *kind, const char *path, struct dir *ret,
             struct tarn_errbuf *err)
{
    char real[PATH_MAX];
    struct stat st;
    bool had_lock;
    int dir_fd, rc;

    rc = dir_mkdirs(kind, path, err);
    if (rc < 0)
        return rc;
    if (!realpath(path, real))
        return tarn_err_set(err, -errno, "%s %s: %s", kind->what, path, strerrordesc_np(errno));
    dir_fd = open(real, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir_fd < 0 || fstat(dir_fd, &st) < 0) {
        rc = tarn_err_set(err, -errno, "%s %s: %s", kind->what, real, strerrordesc_np(errno));
        goto out;
    }
    if (st.st_uid != geteuid() || (st.st_mode & 022)) {
        rc = tarn_err_set(err, -TARN_E_DENIED,
                          "%s %s: must belong to this user, and others must not be able to "
                          "write to it",
                          kind->what, real);
        goto out;
    }
    had_lock = faccessat(dir_fd, "LOCK", F_OK, AT_SYMLINK_NOFOLLOW) == 0;
    ret->lock_fd = openat(dir_fd, "LOCK", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (ret->lock_fd < 0) {
        rc = tarn_err_set(err, -errno, "%s %s: LOCK: %s", kind->what, real, strerrordesc_np(errno));
        goto out;
    }
    if (flock(ret->lock_fd, LOCK_EX | LOCK_NB) < 0)
        rc = dir_locked(kind, ret->lock_fd, real, err);
    if (rc == 0)
        rc = dir_format_check(kind, dir_fd, real, had_lock, err);
    if (rc == -TARN_E_DIR_FOREIGN && !had_lock)
        (void)unlinkat(dir_fd, "LOCK", 0); /* an empty file of ours, which says nothing */
    if (rc < 0)
        (void)close(ret->lock_fd); /* nothing was written through it */
    else
        ret->path = tarn_xstrdup(real);
out:
    if (dir_fd >= 0)
        (void)close(dir_fd); /* only read from */
    return rc;
}

void dir_close(struct dir *d)
{
    if (!d->path)
        return;
    (void)close(d->lock_fd); /* gives the lock up */
    free(d->path);
    d->path = NULL;
}
