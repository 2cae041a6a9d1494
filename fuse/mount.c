/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Mountpoints as people give them: is it usable, whose is it, away with it.
 *
 * A FUSE mount may be dead (its server is gone: ENOTCONN), live, or hung. Asking a hung one would
 * hang too, so a child asks, and is given PROBE_MS.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fuse/fuse.h"
#include "fuse/mount_priv.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"

#define PROBE_MS 3000

static bool is_fuse(const char *type)
{
    return strcmp(type, "fuse") == 0 || tarn_starts_with(type, "fuse.");
}

/* The errno of statfs(2) on `path`, 0, or ETIMEDOUT. */
static int mount_probe(const char *path)
{
    int fds[2], status = 0, e = ETIMEDOUT;
    struct pollfd p;
    pid_t pid;

    if (pipe2(fds, O_CLOEXEC) < 0)
        return errno;
    pid = fork();
    if (pid == 0) { /* only calls that are safe after fork */
        struct statfs st;

        _exit(statfs(path, &st) == 0 ? 0 : errno < 256 ? errno : EIO);
    }
    (void)close(fds[1]); /* the child's end closes with it */
    if (pid < 0) {
        e = errno;
        (void)close(fds[0]); /* never used */
        return e;
    }
    p = (struct pollfd){.fd = fds[0], .events = POLLIN};
    while (poll(&p, 1, PROBE_MS) < 0 && errno == EINTR)
        ;
    if (p.revents == 0)
        (void)kill(pid, SIGKILL); /* waiting for FUSE can be killed */
    (void)close(fds[0]);          /* never read */
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (WIFEXITED(status))
        e = WEXITSTATUS(status);
    return e;
}

/* What lies on top of `path`, if that is a FUSE mount. */
static bool mount_fuse_at(const char *path, struct fmi *ret)
{
    struct tarn_str table = {0};
    bool found =
        fmi_load(&table) == 0 && fmi_at(tarn_str_z(&table), path, ret) && is_fuse(ret->type);

    tarn_str_fini(&table);
    return found;
}

static int prepare_fd(int fd, const char *path, struct tarn_errbuf *err)
{
    if (fcntl(fd, F_GETFD) < 0)
        return tarn_err_set(err, -TARN_E_MOUNTPOINT, "mountpoint %s: no such descriptor: %s", path,
                            strerrordesc_np(errno));
    return 0;
}

/* Dead: detached. Live and ours: refused. Anything else may be mounted upon. */
static int prepare_mounted(const char *path, struct tarn_errbuf *err)
{
    struct fmi top;
    int e, rc;

    if (!mount_fuse_at(path, &top))
        return 0;
    e = mount_probe(path);
    if (e == ENOTCONN || e == ECONNABORTED) {
        rc = fmount_umount(path, true);
        if (rc < 0)
            return tarn_err_set(
                err, -TARN_E_MOUNTPOINT,
                "mountpoint %s: a dead FUSE mount is there and cannot be detached: %s", path,
                strerrordesc_np(-rc));
        tarn_warn("fuse", "mountpoint %s: a dead mount was detached", path);
        if (!mount_fuse_at(path, &top))
            return 0;
        e = mount_probe(path);
    }
    if (e == ENOTCONN || e == ECONNABORTED)
        return tarn_err_set(err, -TARN_E_MOUNTPOINT,
                            "mountpoint %s: dead FUSE mounts lie upon each other", path);
    if (e == ETIMEDOUT)
        return tarn_err_set(err, -TARN_E_MOUNTPOINT,
                            "mountpoint %s: in use by a %s mount that does not answer", path,
                            top.type);
    if (strcmp(top.type, FUSE_FSTYPE) == 0)
        return tarn_err_set(err, -TARN_E_MOUNTPOINT,
                            "mountpoint %s: in use: tarn is mounted there already (tarn umount %s)",
                            path, path);
    return 0;
}

int tarn_fuse_mountpoint_prepare(const char *path, struct tarn_errbuf *err)
{
    char real[PATH_MAX];
    struct stat st;
    int rc;

    if (fmount_fd_of(path) >= 0)
        return prepare_fd(fmount_fd_of(path), path, err);
    rc = fmount_canonical(path, real);
    if (rc == -ENOENT)
        return tarn_err_set(err, -TARN_E_MOUNTPOINT, "mountpoint %s: does not exist", path);
    if (rc < 0)
        return tarn_err_set(err, -TARN_E_MOUNTPOINT, "mountpoint %s: %s", path,
                            strerrordesc_np(-rc));
    rc = prepare_mounted(real, err);
    if (rc < 0)
        return rc;
    if (stat(real, &st) < 0)
        return tarn_err_set(err, -TARN_E_MOUNTPOINT, "mountpoint %s: %s", path,
                            strerrordesc_np(errno));
    if (!S_ISDIR(st.st_mode))
        return tarn_err_set(err, -TARN_E_MOUNTPOINT, "mountpoint %s: not a directory", path);
    return 0;
}

/* ---- finding ours ---------------------------------------------------------------------------- */

static bool mount_ours_over(const char *path, char *ret_mountpoint)
{
    struct tarn_str table = {0};
    struct fmi m;
    bool found = fmi_load(&table) == 0 && fmi_over(tarn_str_z(&table), path, &m) &&
                 strcmp(m.type, FUSE_FSTYPE) == 0;

    tarn_str_fini(&table);
    if (found)
        memcpy(ret_mountpoint, m.mountpoint, sizeof(m.mountpoint));
    return found;
}

/* Absolute, without asking the file system: a dead mount answers nothing. */
static bool mount_absolute(const char *path, char ret[PATH_MAX])
{
    TARN_AUTO_FREE char *joined = NULL;
    char cwd[PATH_MAX];
    size_t len;

    if (path[0] != '/') {
        if (!getcwd(cwd, sizeof(cwd)))
            return false;
        joined = tarn_xasprintf("%s/%s", cwd, path);
        path = joined;
    }
    len = strlen(path);
    while (len > 1 && path[len - 1] == '/')
        len--;
    if (len >= PATH_MAX)
        return false;
    memcpy(ret, path, len);
    ret[len] = 0;
    return true;
}

bool tarn_fuse_find_mount(const char *path, char *ret_mountpoint)
{
    char abs[PATH_MAX], mountpoint[PATH_MAX];
    int e;

    if (!(mount_absolute(path, abs) && mount_ours_over(abs, mountpoint)) &&
        !(realpath(path, abs) && mount_ours_over(abs, mountpoint)))
        return false;
    e = mount_probe(mountpoint);
    if (e == ENOTCONN || e == ECONNABORTED)
        return false;
    memcpy(ret_mountpoint, mountpoint, sizeof(mountpoint));
    return true;
}

int tarn_fuse_umount(const char *mountpoint, bool lazy, struct tarn_errbuf *err)
{
    char real[PATH_MAX];
    struct fmi top;
    int rc = fmount_canonical(mountpoint, real);

    if (rc < 0)
        return tarn_err_set(err, -TARN_E_MOUNTPOINT, "%s: %s", mountpoint, strerrordesc_np(-rc));
    if (!mount_fuse_at(real, &top) || strcmp(top.type, FUSE_FSTYPE) != 0)
        return tarn_err_set(err, -TARN_E_MOUNTPOINT, "%s: tarn is not mounted there", mountpoint);
    rc = fmount_umount(real, lazy);
    if (rc == -EBUSY)
        return tarn_err_set(err, -TARN_E_MOUNTPOINT,
                            "%s: in use: a process has a file open or its working directory there "
                            "(--lazy detaches at once)",
                            mountpoint);
    if (rc < 0)
        return tarn_err_set(err, -TARN_E_MOUNTPOINT, "%s: cannot unmount: %s", mountpoint,
                            strerrordesc_np(-rc));
    return 0;
}
