/* SPDX-License-Identifier: Apache-2.0 */
/*
 * FORMAT is one line: "tarn cache N" (or "tarn master N"), and the XXH3-64 of that in hex, so that
 * damage is no newer version. A newer version's is refused, nothing is touched. What is damaged is
 * taken for ours and written anew: what lies beside it has checksums of its own, and a cache that
 * does not start helps nobody. The first versions wrote the line without a sum.
 *
 * A directory without FORMAT is taken when it is empty, so that nobody's files are mixed with ours,
 * or when all that is in it bears our names: a power cut may have taken FORMAT alone.
 */
#include "tools/dir_format.h"

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

static const char *const cache_names[] = {"SIZE",         "tarn.log", "meta",
                                          "meta.damaged", "tier0",    NULL};
static const char *const cache_ours[] = {"meta", "tier0", "SIZE", NULL};
static const char *const cache_files[] = {"SIZE", NULL};
const struct dir_kind dir_cache = {.what = "cache directory",
                                   .advice = "end that with `tarn umount`, or give this one a "
                                             "directory of its own with --cache-dir",
                                   .head = "tarn cache ",
                                   .no_sum = "tarn cache 1\n",
                                   .names = cache_names,
                                   .ours = cache_ours,
                                   .files = cache_files};

static const char *const master_names[] = {"tarn.log", "meta", "token", NULL};
static const char *const master_ours[] = {"meta", "token", NULL};
static const char *const master_files[] = {"token", NULL};
const struct dir_kind dir_master = {.what = "master directory",
                                    .advice = "a cluster has one master",
                                    .head = "tarn master ",
                                    .names = master_names,
                                    .ours = master_ours,
                                    .files = master_files,
                                    .strict = true};

static bool format_in(const char *const *list, const char *name)
{
    for (; *list; list++)
        if (strcmp(*list, name) == 0)
            return true;
    return false;
}

static int format_fail(struct tarn_errbuf *err, int rc, const struct dir_kind *kind,
                       const char *path, const char *what)
{
    return tarn_err_set(err, rc, "%s %s: %s: %s", kind->what, path, what, tarn_strerror(rc));
}

/* The line's number: what stands between the head and the next blank. 0: damaged. */
static uint64_t format_version(const struct dir_kind *kind, char *line)
{
    char *sum = strrchr(line, ' '), want[17], *end;
    uint64_t version;

    if (!sum || !tarn_starts_with(line, kind->head))
        return 0;
    (void)snprintf(want, sizeof(want), "%016" PRIx64, tarn_xxh3(line, (size_t)(sum - line)));
    if (strcmp(sum + 1, want) != 0)
        return 0;
    *sum = '\0';
    end = strchr(line + strlen(kind->head), ' '); /* later versions may say more */
    if (end)
        *end = '\0';
    return tarn_parse_u64(line + strlen(kind->head), &version) < 0 ? 0 : version;
}

/* Whole or not at all. */
static int format_write(const struct dir_kind *kind, int dir_fd)
{
    char line[FORMAT_MAX];
    int n = snprintf(line, sizeof(line), "%s%d", kind->head, FORMAT_VERSION); /* fits */
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

static int format_look(const struct dir_kind *kind, int dir_fd, struct format_found *ret)
{
    static const char *const always[] = {".",          "..",         "LOCK", "FORMAT",
                                         "FORMAT.tmp", "lost+found", NULL};
    int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    struct dirent *e;

    if (!d)
        return -errno;
    while ((e = readdir(d)) != NULL) {
        struct stat st;

        ret->others |= !format_in(always, e->d_name) && !format_in(kind->names, e->d_name);
        if (!format_in(kind->ours, e->d_name))
            continue;
        ret->ours = true;
        if (!format_in(kind->files, e->d_name) &&
            (fstatat(dir_fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISDIR(st.st_mode)))
            ret->others = true;
    }
    (void)closedir(d); /* only read */
    return 0;
}

static int format_missing(const struct dir_kind *kind, int dir_fd, const char *path, bool had_lock,
                          struct tarn_errbuf *err)
{
    struct format_found found = {0};
    int rc = format_look(kind, dir_fd, &found);

    if (rc < 0)
        return format_fail(err, rc, kind, path, "read");
    if (found.others || (found.ours && !had_lock))
        return tarn_err_set(err, -TARN_E_DIR_FOREIGN, "%s %s: not empty, and not a %s of tarn",
                            kind->what, path, kind->what);
    if (found.ours)
        tarn_warn("cache", "FORMAT is missing and is written anew: path=%s", path);
    rc = format_write(kind, dir_fd);
    return rc < 0 ? format_fail(err, rc, kind, path, "write FORMAT") : 0;
}

/* The line of another kind of directory of ours, or of what is none. */
static bool format_of_others(const struct dir_kind *kind, const char *line)
{
    static const char *const heads[] = {"tarn cache ", "tarn master ", "tarn tier "};

    for (size_t i = 0; i < TARN_ARRAY_LEN(heads); i++)
        if (strcmp(heads[i], kind->head) != 0 && tarn_starts_with(line, heads[i]))
            return true;
    return false;
}

/* A line that says nothing: damage of ours, or somebody else's file of that name. */
static int format_damaged(const struct dir_kind *kind, int dir_fd, const char *path,
                          struct tarn_errbuf *err)
{
    struct format_found found = {0};
    int rc = kind->strict ? format_look(kind, dir_fd, &found) : 0;

    if (rc < 0)
        return format_fail(err, rc, kind, path, "read");
    if (found.others)
        return tarn_err_set(err, -TARN_E_DIR_FOREIGN, "%s %s: FORMAT is not one of tarn",
                            kind->what, path);
    tarn_warn("cache", "FORMAT is damaged and is written anew: path=%s", path);
    return 0;
}

int dir_format_check(const struct dir_kind *kind, int dir_fd, const char *path, bool had_lock,
                     struct tarn_errbuf *err)
{
    TARN_AUTO_FD int fd = openat(dir_fd, "FORMAT", O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    char line[FORMAT_MAX + 1] = "";
    uint64_t version;
    ssize_t n;
    bool old;
    int rc;

    if (fd < 0 && errno == ENOENT)
        return format_missing(kind, dir_fd, path, had_lock, err);
    n = fd < 0 ? -1 : read(fd, line, FORMAT_MAX);
    if (n < 0)
        return format_fail(err, -errno, kind, path, "read FORMAT");
    if (format_of_others(kind, line))
        return tarn_err_set(err, -TARN_E_DIR_FOREIGN, "%s %s: is another kind of directory: %.32s",
                            kind->what, path, line);
    old = kind->no_sum && strcmp(line, kind->no_sum) == 0;
    line[strcspn(line, "\n")] = '\0';
    version = format_version(kind, line);
    if (version > FORMAT_VERSION)
        return tarn_err_set(err, -TARN_E_FORMAT_NEWER,
                            "%s %s: written by a newer tarn (format %" PRIu64 ", known is %d)",
                            kind->what, path, version, FORMAT_VERSION);
    if (version == FORMAT_VERSION)
        return 0;
    rc = old ? 0 : format_damaged(kind, dir_fd, path, err);
    if (rc < 0)
        return rc;
    rc = format_write(kind, dir_fd);
    if (rc < 0) /* a full disk: the next start tries again */
        tarn_warn("cache", "FORMAT cannot be written: path=%s: %s", path, tarn_strerror(rc));
    return 0;
}
