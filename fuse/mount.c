/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Mountpoints as people give them: is it usable, whose is it, away with it.
 *
 * A dead mount is usable, and stays until another one takes its place (kmount.c): until then, and
 * when the start fails, users get errors and not the empty directory below it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fuse/fuse.h"
#include "fuse/mount_priv.h"
#include "lib/base/mem.h"
#include "lib/disk/probe.h"

static int prepare_fd(int fd, const char *path, struct tarn_errbuf *err)
{
    if (fcntl(fd, F_GETFD) < 0)
        return tarn_err_set(err, -TARN_E_MOUNTPOINT, "mountpoint %s: no such descriptor: %s", path,
                            strerrordesc_np(errno));
    return 0;
}

/* 1: a dead mount, which can be replaced. */
static int prepare_mounted(const char *path, struct tarn_errbuf *err)
{
    struct tarn_mountinfo top;
    int e;

    if (!fmount_fuse_at(path, &top))
        return 0;
    e = tarn_probe_statfs(path);
    return fmount_is_dead(e) ? 1 : fmount_refuse(path, &top, e, err);
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
    if (rc != 0)
        return TARN_MIN(rc, 0);
    if (stat(real, &st) < 0)
        return tarn_err_set(err, -TARN_E_MOUNTPOINT, "mountpoint %s: %s", path,
                            strerrordesc_np(errno));
    if (!S_ISDIR(st.st_mode))
        return tarn_err_set(err, -TARN_E_MOUNTPOINT, "mountpoint %s: not a directory", path);
    return 0;
}

/* ---- finding ours ---------------------------------------------------------------------------- */

static bool mount_ours_over(const char *path, struct tarn_mountinfo *ret)
{
    struct tarn_str table = {0};
    bool found = tarn_mountinfo_load(&table) == 0 &&
                 tarn_mountinfo_over(tarn_str_z(&table), path, ret) &&
                 strcmp(ret->type, TARN_MOUNT_TYPE) == 0;

    tarn_str_fini(&table);
    return found;
}

/* Of "tarn://MASTERS/PATH", with the directory that is shown of it, if that is a part. */
static void mount_shows(const struct tarn_mountinfo *m, struct tarn_str *ret)
{
    const char *masters = tarn_starts_with(m->source, "tarn://") ? m->source + 7 : "";
    const char *path = strchr(masters, '/');

    if (path && path[1])
        tarn_str_adds(ret, path);
    if (m->root[1])
        tarn_str_adds(ret, m->root);
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

bool tarn_fuse_find_mount(const char *path, char *ret_mountpoint, struct tarn_str *ret_shows)
{
    char abs[PATH_MAX];
    struct tarn_mountinfo m;

    if (!(mount_absolute(path, abs) && mount_ours_over(abs, &m)) &&
        !(realpath(path, abs) && mount_ours_over(abs, &m)))
        return false;
    if (fmount_is_dead(tarn_probe_statfs(m.mountpoint)))
        return false;
    memcpy(ret_mountpoint, m.mountpoint, sizeof(m.mountpoint));
    if (ret_shows)
        mount_shows(&m, ret_shows);
    return true;
}

int tarn_fuse_umount(const char *mountpoint, bool lazy, struct tarn_errbuf *err)
{
    char real[PATH_MAX];
    struct tarn_errbuf why = {{0}};
    struct tarn_mountinfo top;
    int rc = fmount_canonical(mountpoint, real);

    if (rc < 0)
        return tarn_err_set(err, -TARN_E_MOUNTPOINT, "%s: %s", mountpoint, strerrordesc_np(-rc));
    if (!fmount_fuse_at(real, &top) || strcmp(top.type, TARN_MOUNT_TYPE) != 0)
        return tarn_err_set(err, -TARN_E_MOUNTPOINT, "%s: tarn is not mounted there", mountpoint);
    rc = fmount_umount(real, lazy, &why);
    if (rc == -EBUSY)
        return tarn_err_set(err, -TARN_E_MOUNTPOINT,
                            "%s: in use: a process has a file open or its working directory there "
                            "(--lazy detaches at once)",
                            mountpoint);
    if (rc < 0)
        return tarn_err_set(err, -TARN_E_MOUNTPOINT, "%s: cannot unmount: %s", mountpoint,
                            why.text[0] ? why.text : strerrordesc_np(-rc));
    return 0;
}
