/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The cache directory of `tarn local`: where it is (dir.c holds it), how much it may hold and
 * holds.
 */
#include "tools/cache_dir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "lib/base/hash.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/base/units.h"
#include "tools/dir.h"

#define CACHE_SIZE_MAX (100ull << 30)
#define CACHE_SIZE_MIN (16ull << 20)

int cache_dir_default(const char *uri, struct tarn_str *ret, struct tarn_errbuf *err)
{
    const char *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    uint8_t digest[32];
    char hex[65];

    tarn_sha256_of(uri, strlen(uri), digest);
    tarn_hex(digest, 8, hex);
    tarn_str_reset(ret);
    if (getuid() == 0)
        tarn_str_addf(ret, "/var/cache/tarn/%s", hex);
    else if (xdg && xdg[0] == '/')
        tarn_str_addf(ret, "%s/tarn/%s", xdg, hex);
    else if (home && home[0] == '/')
        tarn_str_addf(ret, "%s/.cache/tarn/%s", home, hex);
    else /* not below /tmp, where others may make the directories above it */
        return tarn_err_set(err, -TARN_E_USAGE,
                            "--cache-dir is needed: neither HOME nor XDG_CACHE_HOME is set");
    return 0;
}

/* Of everything below, but for a directory `skip` at the top and what lies in directories "data".
 */
static uint64_t dir_bytes(const char *path, const char *skip)
{
    uint64_t n = 0;
    DIR *d = opendir(path);
    struct dirent *e;

    while (d && (e = readdir(d)) != NULL) {
        TARN_AUTO_FREE char *sub = tarn_xasprintf("%s/%s", path, e->d_name);
        struct stat st;

        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 ||
            strcmp(e->d_name, skip) == 0 || lstat(sub, &st) < 0)
            continue;
        n += (uint64_t)st.st_blocks * 512;
        if (S_ISDIR(st.st_mode) && strcmp(e->d_name, "data") != 0)
            n += dir_bytes(sub, "");
    }
    if (d)
        (void)closedir(d);
    return n;
}

uint64_t cache_dir_other_bytes(const struct dir *d)
{
    return dir_bytes(d->path, "tier0");
}

/* What the last start used; 0: nothing that can be used. */
static uint64_t cache_size_last(const struct dir *d)
{
    TARN_AUTO_FREE char *path = tarn_xasprintf("%s/SIZE", d->path);
    TARN_AUTO_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    char buf[32] = "";
    uint64_t size;

    if (fd < 0 || read(fd, buf, sizeof(buf) - 1) <= 0)
        return 0;
    buf[strcspn(buf, "\n")] = 0;
    if (tarn_parse_u64(buf, &size) < 0 || size < CACHE_SIZE_MIN)
        return 0;
    return size;
}

/* Half of what is free, in whole MiB. */
static uint64_t cache_size_choose(const struct dir *d)
{
    struct statvfs v;
    uint64_t size;

    if (statvfs(d->path, &v) < 0)
        return 1ull << 30;
    size = (uint64_t)v.f_bavail * v.f_frsize + dir_bytes(d->path, "");
    return TARN_MAX(TARN_MIN(size / 2, CACHE_SIZE_MAX) >> 20 << 20, CACHE_SIZE_MIN);
}

uint64_t cache_dir_size(const struct dir *d, uint64_t asked)
{
    TARN_AUTO_FREE char *path = tarn_xasprintf("%s/SIZE", d->path);
    uint64_t last = cache_size_last(d), size = asked ? asked : last;
    int fd;

    if (!size)
        size = cache_size_choose(d);
    if (size == last)
        return size;
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0 || fchmod(fd, 0600) < 0 || dprintf(fd, "%" PRIu64 "\n", size) < 0)
        tarn_warn("cache", "cannot remember the cache's size: path=%s: %s", path,
                  strerrordesc_np(errno));
    if (fd >= 0)
        (void)close(fd); /* chosen again where it is lost */
    return size;
}

uint64_t cache_dir_fits(const struct dir *d, uint64_t size, uint32_t disk_free_bp)
{
    struct statvfs v;
    uint64_t most;

    if (statvfs(d->path, &v) < 0 || v.f_blocks == 0)
        return size;
    most = (uint64_t)v.f_blocks * v.f_frsize / 10000 * (10000 - disk_free_bp);
    return TARN_MAX(TARN_MIN(size, most), CACHE_SIZE_MIN);
}

static int remove_tree(const char *path)
{
    DIR *d = opendir(path);
    struct dirent *e;

    while (d && (e = readdir(d)) != NULL) {
        TARN_AUTO_FREE char *sub = tarn_xasprintf("%s/%s", path, e->d_name);

        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        if (unlink(sub) < 0 && errno == EISDIR)
            (void)remove_tree(sub); /* the rmdir below tells */
    }
    if (d)
        (void)closedir(d);
    return rmdir(path) < 0 && errno != ENOENT ? -errno : 0;
}

int cache_dir_set_meta_aside(const struct dir *d, struct tarn_errbuf *err)
{
    TARN_AUTO_FREE char *from = tarn_xasprintf("%s/meta", d->path);
    TARN_AUTO_FREE char *to = tarn_xasprintf("%s/meta.damaged", d->path);
    int rc = remove_tree(to);

    if (rc == 0 && rename(from, to) < 0)
        rc = -errno;
    return rc < 0 ? tarn_err_set(err, rc, "move %s aside: %s", from, tarn_strerror(rc)) : 0;
}
