/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tier's directory before anything is cached: whose it is, the lock, FORMAT, and what is
 * missing.
 *
 * A directory is ours when it has our FORMAT, or our LOCK beside a damaged FORMAT (then it is a
 * damaged cache, and index and data go), or when it is empty. Anything else is left alone, unless
 * the caller knows better (args->ours): then it too is a damaged cache.
 */
#include "store/tier/tier_priv.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/assert.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"

#define LOCK_TEXT "tarn tier\n"

/* What the directory holds before we touch it. */
struct dir_found {
    bool any;                  /* something besides what mkfs makes */
    bool lock;                 /* LOCK is ours */
    bool format;               /* FORMAT is there, whole and of our version */
    bool data;                 /* data/ */
    struct tarn_tier_format f; /* with format */
};

static int dir_fail(const struct tarn_tier *t, struct tarn_errbuf *err, int rc, const char *what)
{
    return tarn_err_set(err, rc, "%s: %s: %s", t->path, what, tarn_strerror(rc));
}

/* Others could put files of theirs where we read: not even then wrong bytes, but not our cache any
 * more. */
static int dir_check_owner(const struct tarn_tier *t, struct tarn_errbuf *err)
{
    struct stat st;

    if (lstat(t->path, &st) < 0)
        return dir_fail(t, err, -errno, "lstat");
    if (S_ISLNK(st.st_mode) && st.st_uid != geteuid() && st.st_uid != 0)
        return tarn_err_set(err, -TARN_E_DIR_FOREIGN, "%s: a symbolic link of uid %u", t->path,
                            st.st_uid);
    if (fstat(t->dir_fd, &st) < 0)
        return dir_fail(t, err, -errno, "fstat");
    if ((st.st_mode & 022) || (st.st_uid != geteuid() && st.st_uid != 0))
        return tarn_err_set(
            err, -TARN_E_DIR_FOREIGN,
            "%s: others may write there (uid %u, mode %04o); use a directory of your own, "
            "mode 0700",
            t->path, st.st_uid, st.st_mode & 07777);
    return 0;
}

static int dir_open_path(struct tarn_tier *t, struct tarn_errbuf *err)
{
    if (mkdir(t->path, 0700) < 0 && errno != EEXIST)
        return errno == ENOENT
                   ? tarn_err_set(err, -errno, "%s: the directory that it is to be in is not there",
                                  t->path)
                   : dir_fail(t, err, -errno, "mkdir");
    t->dir_fd = open(t->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (t->dir_fd < 0)
        return dir_fail(t, err, -errno, "open");
    return dir_check_owner(t, err);
}

/* Reads a small file; bytes, or negative. */
static int dir_read(const struct tarn_tier *t, const char *name, void *dst, size_t cap)
{
    TARN_AUTO_FD int fd = openat(t->dir_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    ssize_t n;

    if (fd < 0)
        return -errno;
    n = read(fd, dst, cap);
    return n < 0 ? -errno : (int)n;
}

static int dir_look_format(const struct tarn_tier *t, struct dir_found *d)
{
    uint8_t buf[TARN_TIER_FORMAT_MAX + 1];
    int n = dir_read(t, "FORMAT", buf, sizeof(buf));
    int rc = n < 0 ? n : tarn_tier_format_decode(buf, (size_t)n, &d->f);

    d->format = rc == 0;
    return rc == -TARN_E_FORMAT_NEWER ? rc : 0;
}

static int dir_look(struct tarn_tier *t, struct dir_found *d, bool ours, struct tarn_errbuf *err)
{
    char lock[sizeof(LOCK_TEXT)];
    int fd = openat(t->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *e;
    int n;

    if (!dir)
        return dir_fail(t, err, -errno, "opendir");
    while ((e = readdir(dir)) != NULL) {
        d->data |= strcmp(e->d_name, "data") == 0;
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0 &&
            strcmp(e->d_name, "lost+found") != 0 && strcmp(e->d_name, "LOCK") != 0)
            d->any = true;
    }
    (void)closedir(dir); /* only read */
    n = dir_read(t, "LOCK", lock, sizeof(lock));
    d->lock =
        n == (int)sizeof(LOCK_TEXT) - 1 && memcmp(lock, LOCK_TEXT, sizeof(LOCK_TEXT) - 1) == 0;
    d->any |= !d->lock && n != 0 && n != -ENOENT; /* somebody else's LOCK */
    if (dir_look_format(t, d) < 0)
        return tarn_err_set(err, -TARN_E_FORMAT_NEWER, "%s/FORMAT: %s", t->path,
                            tarn_strerror(TARN_E_FORMAT_NEWER));
    if (d->any && !d->lock && !d->format && !ours)
        return tarn_err_set(err, -TARN_E_DIR_FOREIGN, "%s: not empty and not a tier of tarn",
                            t->path);
    return 0;
}

static int dir_lock(struct tarn_tier *t, struct tarn_errbuf *err)
{
    char text[sizeof(LOCK_TEXT)];

    t->lock_fd = openat(t->dir_fd, "LOCK", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (t->lock_fd < 0)
        return dir_fail(t, err, -errno, "LOCK");
    if (flock(t->lock_fd, LOCK_EX | LOCK_NB) < 0)
        return errno == EWOULDBLOCK
                   ? tarn_err_set(err, -TARN_E_DIR_LOCKED, "%s: another process uses it", t->path)
                   : dir_fail(t, err, -errno, "flock");
    if (pread(t->lock_fd, text, sizeof(text), 0) == sizeof(LOCK_TEXT) - 1 &&
        memcmp(text, LOCK_TEXT, sizeof(LOCK_TEXT) - 1) == 0)
        return 0;
    if (ftruncate(t->lock_fd, 0) < 0 ||
        pwrite(t->lock_fd, LOCK_TEXT, sizeof(LOCK_TEXT) - 1, 0) != sizeof(LOCK_TEXT) - 1)
        return dir_fail(t, err, errno ? -errno : -EIO, "LOCK");
    return 0;
}

/* Whole or not at all. */
static int dir_write_format(const struct tarn_tier *t, const struct tarn_tier_format *f)
{
    uint8_t buf[TARN_TIER_FORMAT_BYTES];
    int fd, rc;

    tarn_tier_format_encode(f, buf);
    (void)tarn_tier_dir_wipe(t, "FORMAT.tmp"); /* of an attempt that was cut off */
    fd =
        openat(t->dir_fd, "FORMAT.tmp", O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    rc = tarn_tier_pwrite(fd, buf, sizeof(buf), 0);
    if (rc == 0 && fsync(fd) < 0)
        rc = -errno;
    if (close(fd) < 0 && rc == 0)
        rc = -errno;
    if (rc == 0 && renameat(t->dir_fd, "FORMAT.tmp", t->dir_fd, "FORMAT") < 0)
        rc = -errno;
    if (rc == 0 && fsync(t->dir_fd) < 0)
        rc = -errno;
    return rc;
}

static int dir_format(struct tarn_tier *t, struct dir_found *d, bool replace,
                      struct tarn_errbuf *err)
{
    struct tarn_tier_format f = {.created_s = tarn_tier_now_s(t)};
    bool ours = d->format && strcmp(d->f.owner, t->owner) == 0;
    int rc;

    if (ours && d->f.id) {
        t->id = d->f.id;
        return 0;
    }
    if (d->format && !ours && !replace)
        return tarn_err_set(err, -TARN_E_DIR_FOREIGN, "%s: belongs to cluster %s, not to %s",
                            t->path, d->f.owner, t->owner);
    if (!d->format && d->any)
        tarn_warn("tier", "path=%s: FORMAT is damaged; the cache starts empty", t->path);
    if (d->format)
        f = d->f;
    while (f.id == 0)
        f.id = tarn_rng_u64(tarn_rng_system());
    (void)snprintf(f.owner, sizeof(f.owner), "%s", t->owner); /* its length was checked */
    if (!d->format) {
        (void)tarn_tier_dir_wipe(t, "FORMAT"); /* whatever it is */
        rc = tarn_tier_dir_wipe(t, "index");
        if (rc < 0)
            return dir_fail(t, err, rc, "index"); /* data/ without records goes in the background */
    }
    rc = dir_write_format(t, &f);
    if (rc < 0 && ours) { /* made before directories had an id; it serves without one */
        tarn_warn("tier", "path=%s: FORMAT cannot be written anew: %s", t->path, tarn_strerror(rc));
        return 0;
    }
    t->id = f.id;
    return rc < 0 ? dir_fail(t, err, rc, "FORMAT") : 0;
}

static int dir_data(struct tarn_tier *t, struct tarn_errbuf *err)
{
    const int how = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;

    if (mkdirat(t->dir_fd, "data", 0700) < 0 && errno != EEXIST)
        return dir_fail(t, err, -errno, "data");
    t->data_fd = openat(t->dir_fd, "data", how);
    if (t->data_fd < 0 && (errno == ENOTDIR || errno == ELOOP) &&
        unlinkat(t->dir_fd, "data", 0) == 0 && mkdirat(t->dir_fd, "data", 0700) == 0)
        t->data_fd = openat(t->dir_fd, "data", how); /* something else bore its name */
    if (t->data_fd < 0)
        return dir_fail(t, err, -errno, "data");
    return 0;
}

int tarn_tier_dir_open(struct tarn_tier *t, const struct tarn_tier_args *args,
                       struct tarn_errbuf *err, bool *ret_fresh)
{
    struct dir_found d = {0};
    int rc = dir_open_path(t, err);

    if (rc == 0)
        rc = dir_look(t, &d, args->ours, err);
    if (rc == 0)
        rc = dir_lock(t, err);
    if (rc == 0)
        rc = dir_format(t, &d, args->replace, err);
    if (rc == 0)
        rc = dir_data(t, err);
    *ret_fresh = !d.data;
    return rc; /* what was opened is closed by tarn_tier_dir_close() */
}

void tarn_tier_dir_close(struct tarn_tier *t)
{
    int *fds[] = {&t->data_fd, &t->dir_fd, &t->lock_fd};

    for (size_t i = 0; i < TARN_ARRAY_LEN(fds); i++) {
        if (*fds[i] >= 0)
            (void)close(*fds[i]); /* directories, and a lock that ends with it */
        *fds[i] = -1;
    }
}

/* Deletes the entries of a directory; goes down `depth` levels. */
static int wipe_entries(int fd, int depth)
{
    DIR *dir = fdopendir(fd);
    struct dirent *e;
    int rc = 0;

    if (!dir) {
        rc = -errno;
        (void)close(fd); /* only read */
        return rc;
    }
    while ((e = readdir(dir)) != NULL) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        if (unlinkat(dirfd(dir), e->d_name, 0) == 0)
            continue;
        if (errno == EISDIR && depth > 0) {
            int sub =
                openat(dirfd(dir), e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

            TARN_KEEP(rc, sub < 0 ? -errno : wipe_entries(sub, depth - 1));
            if (unlinkat(dirfd(dir), e->d_name, AT_REMOVEDIR) == 0)
                continue;
        }
        TARN_KEEP(rc, -errno);
    }
    (void)closedir(dir); /* only read */
    return rc;
}

int tarn_tier_dir_wipe(const struct tarn_tier *t, const char *name)
{
    int fd = openat(t->dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    int rc;

    if (fd < 0 && errno == ENOENT)
        return 0;
    if (fd < 0) { /* a file or a link in its place */
        return unlinkat(t->dir_fd, name, 0) < 0 ? -errno : 0;
    }
    rc = wipe_entries(fd, 2);
    if (unlinkat(t->dir_fd, name, AT_REMOVEDIR) < 0)
        TARN_KEEP(rc, -errno);
    return rc;
}
