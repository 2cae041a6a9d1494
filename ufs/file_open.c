/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Resolving keys below the served directory. openat2(2) does it in the kernel, so that nothing can
 * be swapped between a check and its use; where it is missing (or a sandbox forbids it) each
 * component is opened with O_NOFOLLOW from the one before. The root is opened anew each time: a
 * file system that was unmounted and mounted again is found, and none is kept busy. The empty
 * directory that an unmounted one leaves behind is not taken for it.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"
#include "lib/base/hash.h"
#include "lib/base/mem.h"
#include "lib/base/name.h"
#include "lib/base/str.h"
#include "ufs/file_priv.h"
#include "ufs/ufs.h"

#define FILE_OPEN_TRIES       16                    /* renames may disturb openat2 */
#define FILE_GRAIN_NS         (20 * TARN_NS_PER_MS) /* timestamps of local file systems */
#define FILE_GRAIN_UNKNOWN_NS TARN_NS_PER_S
#define FILE_GRAIN_FAT_NS     (2 * TARN_NS_PER_S)

static int file_openat2(int root_fd, const char *rel, int flags)
{
    struct open_how how = {.flags = (uint64_t)(unsigned)flags,
                           .resolve =
                               RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS};
    long fd = -1;

    for (int i = 0; i < FILE_OPEN_TRIES; i++) {
        fd = syscall(SYS_openat2, root_fd, rel, &how, sizeof(how));
        if (fd >= 0 || (errno != EAGAIN && errno != EINTR))
            break;
    }
    return fd >= 0 ? (int)fd : -errno;
}

/* The same by hand. `rel` is not empty. */
static int file_open_walk(int root_fd, const char *rel, int flags)
{
    TARN_AUTO_FD int at = fcntl(root_fd, F_DUPFD_CLOEXEC, 0);
    char name[TARN_NAME_MAX + 1];
    const char *p = rel, *part;
    size_t n;
    int fd;

    if (at < 0)
        return -errno;
    while ((part = tarn_path_next(&p, &n)) != NULL) {
        TARN_ASSERT(n <= TARN_NAME_MAX); /* file_rel_check */
        memcpy(name, part, n);
        name[n] = 0;
        if (!*p)
            break;
        fd = openat(at, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0)
            return -errno;
        (void)close(at); /* O_PATH: nothing to lose */
        at = fd;
    }
    TARN_ASSERT(part != NULL);
    fd = openat(at, name, flags);
    return fd >= 0 ? fd : -errno;
}

/* One spelling per file: no empty part, no "." and "..". */
static int file_rel_check(const char *rel)
{
    for (;;) {
        size_t n = strcspn(rel, "/");

        if (n > TARN_NAME_MAX)
            return -ENAMETOOLONG;
        if (!tarn_name_ok(rel, n))
            return -ENOENT;
        if (!rel[n])
            return 0;
        rel += n + 1;
    }
}

static bool file_of_cluster(const struct tarn_mountinfo *m)
{
    return strcmp(m->type, TARN_MOUNT_TYPE) == 0 && tarn_starts_with(m->source, "tarn://");
}

/*
 * Whether a mount of a cluster lies over the root: what it shows may be what is asked for, for
 * ever. (One of tarn local has another source, and may be served.) The table of mounts says so,
 * which is read anew when it has changed; the mount is not asked.
 */
static bool file_root_covered(struct tarn_file_root *root)
{
    uint64_t changes = tarn_mountwatch_changes(&root->mounts);
    uint64_t seen = atomic_load_explicit(&root->covered, memory_order_relaxed);
    struct tarn_str table = {0};
    struct tarn_mountinfo m;
    bool covered = seen & 1;

    if (changes && seen >> 1 == changes)
        return covered;
    atomic_store_explicit(&root->dev, 0, memory_order_relaxed); /* numbers are given again */
    if (tarn_mountinfo_load(&table) == 0) {
        covered = tarn_mountinfo_over(tarn_str_z(&table), root->path, &m) && file_of_cluster(&m);
        atomic_store_explicit(&root->covered, changes << 1 | covered, memory_order_relaxed);
    }
    tarn_str_fini(&table);
    return covered;
}

/*
 * The same of what was opened, by its device: a link may lead into such a mount. (One that leads
 * below its mountpoint has asked it by then: the walk did.) 1, 0; negative: not known.
 */
static int file_dev_is_cluster(unsigned major, unsigned minor)
{
    struct tarn_str table = {0};
    struct tarn_mountinfo m;
    const char *p;
    int rc = tarn_mountinfo_load(&table);

    if (rc == 0)
        for (p = tarn_str_z(&table); rc == 0 && tarn_mountinfo_next(&p, &m);)
            rc = m.major == major && m.minor == minor && file_of_cluster(&m);
    tarn_str_fini(&table);
    return rc;
}

/* UFS_DOWN when a file system was mounted at the root and is no more, EDEADLK as said. */
static int file_root_check(struct tarn_file_root *root, int root_fd)
{
    struct statx st;
    uint64_t dev;
    bool mounted;

    if (statx(root_fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, 0, &st) < 0)
        return 0; /* nothing is known */
    dev = ((uint64_t)st.stx_dev_major << 32 | st.stx_dev_minor) + 1;
    if (dev != atomic_load_explicit(&root->dev, memory_order_relaxed)) {
        int cluster = file_dev_is_cluster(st.stx_dev_major, st.stx_dev_minor);

        if (cluster > 0)
            return -EDEADLK;
        if (cluster == 0)
            atomic_store_explicit(&root->dev, dev, memory_order_relaxed);
    }
    if (!(st.stx_attributes_mask & STATX_ATTR_MOUNT_ROOT))
        return 0;
    mounted = st.stx_attributes & STATX_ATTR_MOUNT_ROOT;
    if (!mounted && atomic_load_explicit(&root->mounted, memory_order_relaxed))
        return -TARN_E_UFS_DOWN;
    if (mounted)
        atomic_store_explicit(&root->mounted, true, memory_order_relaxed);
    return 0;
}

int tarn_file_open(struct tarn_file_root *root, const char *rel, int flags, int *ret_fd)
{
    TARN_AUTO_FD int root_fd = -1;
    int fd = *rel ? file_rel_check(rel) : 0, rc;

    if (fd < 0)
        return fd;
    if (file_root_covered(root))
        return -EDEADLK;
    root_fd = open(root->path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    fd = -ENOSYS;
    flags |= O_CLOEXEC | O_NOFOLLOW;
    if (root_fd < 0)
        return errno == ENOENT || errno == ENOTDIR ? -TARN_E_UFS_NO_BUCKET : -errno;
    rc = file_root_check(root, root_fd);
    if (rc < 0)
        return rc;
    if (!*rel) {
        fd = openat(root_fd, ".", flags);
        if (fd < 0)
            return -errno;
    } else {
        if (!atomic_load_explicit(&root->no_openat2, memory_order_relaxed))
            fd = file_openat2(root_fd, rel, flags);
        if (fd == -ENOSYS || fd == -EPERM || fd == -EXDEV || fd == -EAGAIN) {
            if (fd == -ENOSYS)
                atomic_store_explicit(&root->no_openat2, true, memory_order_relaxed);
            fd = file_open_walk(root_fd, rel, flags);
        }
    }
    if (fd < 0)
        return fd;
    *ret_fd = fd;
    return 0;
}

int tarn_file_code(int rc)
{
    switch (-rc) {
    case ENOENT:
    case ENOTDIR:
    case ELOOP:
        return -TARN_E_UFS_NOT_FOUND;
    case EACCES:
    case EPERM:
        return -TARN_E_UFS_DENIED;
    case EDEADLK: /* see file_root_covered() */
        return -TARN_E_UFS_DOWN;
    case ESTALE:
    case ETIMEDOUT:
    case EAGAIN:
    case EHOSTDOWN:
    case ENOTCONN:
        return -TARN_E_UFS_CONN; /* a network file system's; worth another try */
    case ENAMETOOLONG:
        return -TARN_E_NAME_TOO_LONG;
    case ENOMEM:
        return -TARN_E_NO_MEMORY;
    default:
        return rc;
    }
}

/*
 * Device and inode. File systems without a block device (NFS, overlays) get a device number that is
 * another one after each mount: it would make every cached byte useless, so the inode alone counts.
 */
static uint64_t file_id(const struct stat *st)
{
    uint64_t id = tarn_hash_u64(st->st_ino);

    if (major(st->st_dev) != 0)
        id = tarn_hash_u64(id ^ st->st_dev);
    return id ? id : 1;
}

/* Times that 64 bits of nanoseconds cannot hold (outside of 1678 to 2262) become the nearest. */
static int64_t file_time_ns(const struct timespec *t)
{
    int64_t ns;

    if (__builtin_mul_overflow((int64_t)t->tv_sec, (int64_t)TARN_NS_PER_S, &ns) ||
        __builtin_add_overflow(ns, (int64_t)t->tv_nsec, &ns))
        return t->tv_sec < 0 ? INT64_MIN : INT64_MAX;
    return ns;
}

bool tarn_file_attr(const struct stat *st, struct tarn_ufs_attr *ret)
{
    struct tarn_ufs_attr a = {
        .has_owner = true, .mode = st->st_mode & 07777, .uid = st->st_uid, .gid = st->st_gid};

    a.version.mtime_ns = file_time_ns(&st->st_mtim);
    if (S_ISREG(st->st_mode)) {
        a.type = TARN_UFS_FILE;
        a.version.size_bytes = (uint64_t)st->st_size;
        a.version.ctime_ns = file_time_ns(&st->st_ctim);
        a.version.file_id = file_id(st);
    } else if (S_ISDIR(st->st_mode)) {
        a.type = TARN_UFS_DIR;
    } else if (S_ISLNK(st->st_mode)) {
        a.type = TARN_UFS_SYMLINK;
    } else {
        return false;
    }
    *ret = a;
    return true;
}

/* ext4 with small inodes keeps whole seconds: a time without a fraction may be one of those. */
static uint64_t file_grain_ns(int fd, const struct stat *st)
{
    struct statfs fs;
    unsigned long type;

    if (fstatfs(fd, &fs) < 0)
        return FILE_GRAIN_UNKNOWN_NS;
    type = (unsigned long)fs.f_type;
    if (type == MSDOS_SUPER_MAGIC)
        return FILE_GRAIN_FAT_NS;
    if (st->st_ctim.tv_nsec != 0 &&
        (type == EXT4_SUPER_MAGIC || type == XFS_SUPER_MAGIC || type == BTRFS_SUPER_MAGIC ||
         type == TMPFS_MAGIC || type == OVERLAYFS_SUPER_MAGIC))
        return FILE_GRAIN_NS;
    return FILE_GRAIN_UNKNOWN_NS;
}

uint64_t tarn_file_young_ns(int fd, const struct stat *st, int64_t real_ns)
{
    int64_t age_ns;
    uint64_t grain_ns;

    if (__builtin_sub_overflow(real_ns, file_time_ns(&st->st_ctim), &age_ns))
        age_ns = st->st_ctim.tv_sec < 0 ? INT64_MAX : -1;
    if (age_ns >= (int64_t)FILE_GRAIN_FAT_NS)
        return 0;
    grain_ns = file_grain_ns(fd, st);
    if (age_ns >= (int64_t)grain_ns)
        return 0;
    if (age_ns < 0)
        return grain_ns; /* another host's clock: a grain from now is all that can be said */
    return grain_ns - (uint64_t)age_ns;
}
