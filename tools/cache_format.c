/* SPDX-License-Identifier: Apache-2.0 */
/*
 * FORMAT is one line: "tarn cache N", and the XXH3-64 of that in hex, so that damage is no newer
 * version. A newer version's is refused, nothing is touched. What is damaged is taken for ours and
 * written anew: what lies beside it has checksums of its own, and a cache that does not start helps
 * nobody. The first versions wrote the line without a sum.
 *
 * A directory without FORMAT is taken when it is empty, so that nobody's files are mixed with ours,
 * or when all that is in it bears our names: a power cut may have taken FORMAT alone.
 */
#include "tools/cache_format.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/hash.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/base/str.h"
#include "lib/base/units.h"

#define FORMAT_VERSION 1
#define FORMAT_MAX     256u /* bytes of the line in any version */
#define FORMAT_HEAD    "tarn cache "
#define FORMAT_NO_SUM  "tarn cache 1\n"

static int format_fail(struct tarn_errbuf *err, int rc, const char *path, const char *what)
{
    return tarn_err_set(err, rc, "cache directory %s: %s: %s", path, what, tarn_strerror(rc));
}

/* The line's number: what stands between the head and the next blank. 0: damaged. */
static uint64_t format_version(char *line)
{
    char *sum = strrchr(line, ' '), want[17], *end;
    uint64_t version;

    if (!sum || strncmp(line, FORMAT_HEAD, strlen(FORMAT_HEAD)) != 0)
        return 0;
    (void)snprintf(want, sizeof(want), "%016" PRIx64, tarn_xxh3(line, (size_t)(sum - line)));
    if (strcmp(sum + 1, want) != 0)
        return 0;
    *sum = '\0';
    end = strchr(line + strlen(FORMAT_HEAD), ' '); /* later versions may say more */
    if (end)
        *end = '\0';
    return tarn_parse_u64(line + strlen(FORMAT_HEAD), &version) < 0 ? 0 : version;
}

/* Whole or not at all. */
static int format_write(int dir_fd)
{
    char line[FORMAT_MAX];
    int n = snprintf(line, sizeof(line), FORMAT_HEAD "%d", FORMAT_VERSION); /* fits */
    int fd, rc = 0;

    n += snprintf(line + n, sizeof(line) - (size_t)n, " %016" PRIx64 "\n",
                  tarn_xxh3(line, (size_t)n));
    (void)unlinkat(dir_fd, "FORMAT.tmp", 0); /* of an attempt that was cut off */
    fd = openat(dir_fd, "FORMAT.tmp", O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    errno = EIO; /* of a short write */
    if (write(fd, line, (size_t)n) != n || fsync(fd) < 0)
        rc = -errno;
    if (close(fd) < 0)
        TARN_KEEP(rc, -errno);
    if (rc == 0 && (renameat(dir_fd, "FORMAT.tmp", dir_fd, "FORMAT") < 0 || fsync(dir_fd) < 0))
        rc = -errno;
    return rc;
}

/* What is in a directory without FORMAT. */
struct format_found {
    bool others; /* names that we do not make */
    bool ours;   /* what we keep our data in */
};

static int format_look(int dir_fd, struct format_found *ret)
{
    static const char *const names[] = {".",     "..",        "LOCK", "FORMAT.tmp",
                                        "SIZE",  "tarn.log",  "meta", "meta.damaged",
                                        "tier0", "lost+found"};
    int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    struct dirent *e;

    if (!d)
        return -errno;
    while ((e = readdir(d)) != NULL) {
        struct stat st;
        bool known = false;

        for (size_t i = 0; i < TARN_ARRAY_LEN(names); i++)
            known |= strcmp(e->d_name, names[i]) == 0;
        ret->others |= !known;
        if ((strcmp(e->d_name, "meta") == 0 || strcmp(e->d_name, "tier0") == 0 ||
             strcmp(e->d_name, "SIZE") == 0)) {
            ret->ours = true;
            if (strcmp(e->d_name, "SIZE") != 0 &&
                (fstatat(dir_fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISDIR(st.st_mode)))
                ret->others = true;
        }
    }
    (void)closedir(d); /* only read */
    return 0;
}

static int format_missing(int dir_fd, const char *path, bool had_lock, struct tarn_errbuf *err)
{
    struct format_found found = {0};
    int rc = format_look(dir_fd, &found);

    if (rc < 0)
        return format_fail(err, rc, path, "read");
    if (found.others || (found.ours && !had_lock))
        return tarn_err_set(err, -TARN_E_DIR_FOREIGN,
                            "cache directory %s: not empty, and not a cache of tarn", path);
    if (found.ours)
        tarn_warn("cache", "FORMAT is missing and is written anew: path=%s", path);
    rc = format_write(dir_fd);
    return rc < 0 ? format_fail(err, rc, path, "write FORMAT") : 0;
}

int cache_format_check(int dir_fd, const char *path, bool had_lock, struct tarn_errbuf *err)
{
    TARN_AUTO_FD int fd = openat(dir_fd, "FORMAT", O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    char line[FORMAT_MAX + 1] = "";
    uint64_t version;
    ssize_t n;
    bool old;
    int rc;

    if (fd < 0 && errno == ENOENT)
        return format_missing(dir_fd, path, had_lock, err);
    n = fd < 0 ? -1 : read(fd, line, FORMAT_MAX);
    if (n < 0)
        return format_fail(err, -errno, path, "read FORMAT");
    old = strcmp(line, FORMAT_NO_SUM) == 0;
    line[strcspn(line, "\n")] = '\0';
    version = format_version(line);
    if (version > FORMAT_VERSION)
        return tarn_err_set(err, -TARN_E_FORMAT_NEWER,
                            "cache directory %s: written by a newer tarn (format %" PRIu64
                            ", known is %d)",
                            path, version, FORMAT_VERSION);
    if (version == FORMAT_VERSION)
        return 0;
    if (!old)
        tarn_warn("cache", "FORMAT is damaged and is written anew: path=%s", path);
    rc = format_write(dir_fd);
    if (rc < 0) /* a full disk: the next start tries again */
        tarn_warn("cache", "FORMAT cannot be written: path=%s: %s", path, tarn_strerror(rc));
    return 0;
}
