/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Mounting and unmounting. With the privilege by mount(2); without it fusermount3, which is setuid
 * root, mounts and passes the descriptor over a socket (its protocol: _FUSE_COMMFD names the
 * socket, one byte comes with the descriptor).
 */
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fuse/mount_priv.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/base/units.h"
#include "lib/disk/probe.h"

#define FUSERMOUNT "fusermount3"
#define DEAD_MAX   16u /* dead mounts upon each other that are taken away */

extern char **environ;

int fmount_fd_of(const char *path)
{
    uint64_t fd;

    if (!tarn_starts_with(path, "/dev/fd/") || tarn_parse_u64(path + 8, &fd) < 0 || fd > INT_MAX)
        return -1;
    return (int)fd;
}

int fmount_canonical(const char *path, char ret[PATH_MAX])
{
    TARN_AUTO_FREE char *copy = NULL;
    char parent[PATH_MAX];
    char *slash;
    int n;

    if (realpath(path, ret))
        return 0;
    if (errno != ENOTCONN && errno != EIO && errno != EACCES)
        return -errno;
    /* What is mounted there does not answer: only what is above it is asked. */
    copy = tarn_xstrdup(path);
    for (size_t len = strlen(copy); len > 1 && copy[len - 1] == '/'; len--)
        copy[len - 1] = 0;
    slash = strrchr(copy, '/');
    if (slash)
        *slash = 0;
    if (!realpath(!slash ? "." : slash == copy ? "/" : copy, parent))
        return -errno;
    n = snprintf(ret, PATH_MAX, "%s/%s", strcmp(parent, "/") == 0 ? "" : parent,
                 slash ? slash + 1 : copy);
    return n >= PATH_MAX ? -ENAMETOOLONG : 0;
}

/* ---- fusermount3 ----------------------------------------------------------------------------- */

/* Reads what a child writes until it closes the pipe, one line of it at most. */
static void spawn_read_text(int fd, char *ret, size_t size)
{
    size_t got = 0;
    char drop[256];
    ssize_t n;

    while ((n = read(fd, got + 1 < size ? ret + got : drop,
                     got + 1 < size ? size - 1 - got : sizeof(drop))) != 0) {
        if (n < 0 && errno != EINTR)
            break;
        if (n > 0 && got + 1 < size)
            got += (size_t)n;
    }
    ret[got] = 0;
    ret[strcspn(ret, "\n")] = 0;
}

/* Runs fusermount3 with `argv`, its end of the socket (or -1) as descriptor 3; waits. Returns 0
 * when it did; text: what it said, which is nothing when it did. */
static int spawn_fusermount(char *const argv[], int comm_fd, char *text, size_t size)
{
    TARN_AUTO_FREE char **env = NULL;
    posix_spawn_file_actions_t fa;
    int fds[2], rc, status = 0;
    size_t n = 0;
    pid_t pid, got;

    if (pipe2(fds, O_CLOEXEC) < 0)
        return -errno;
    while (environ[n])
        n++;
    env = tarn_xcalloc(n + 2, sizeof(char *));
    memcpy(env, environ, n * sizeof(char *));
    env[n] = (char[]){"_FUSE_COMMFD=3"};
    rc = posix_spawn_file_actions_init(&fa);
    if (rc == 0) /* first: the other one may overwrite it */
        rc = posix_spawn_file_actions_adddup2(&fa, fds[1], STDERR_FILENO);
    if (rc == 0 && comm_fd >= 0)
        rc = posix_spawn_file_actions_adddup2(&fa, comm_fd, 3);
    if (rc == 0)
        rc = posix_spawnp(&pid, FUSERMOUNT, &fa, NULL, argv, env);
    (void)posix_spawn_file_actions_destroy(&fa); /* frees memory only */
    (void)close(fds[1]);                         /* the child's end */
    if (rc == 0) {
        spawn_read_text(fds[0], text, size);
        while ((got = waitpid(pid, &status, 0)) < 0 && errno == EINTR)
            ;
        if (got < 0) /* where SIGCHLD is ignored, only its words tell */
            rc = text[0] ? EPERM : 0;
        else
            rc = WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : EPERM;
    } else {
        (void)snprintf(text, size, "%s: %s", FUSERMOUNT, strerrordesc_np(rc)); /* cut is fine */
    }
    (void)close(fds[0]); /* only read from */
    return -rc;
}

static int receive_fd(int sock)
{
    union {
        char buf[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control;
    char byte;
    struct iovec iov = {.iov_base = &byte, .iov_len = 1};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = control.buf,
                         .msg_controllen = sizeof(control.buf)};
    const struct cmsghdr *c;
    ssize_t n;
    int fd;

    do {
        n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC);
    } while (n < 0 && errno == EINTR);
    c = n > 0 ? CMSG_FIRSTHDR(&msg) : NULL;
    if (!c || c->cmsg_type != SCM_RIGHTS || c->cmsg_len != CMSG_LEN(sizeof(int)))
        return -EPROTO;
    memcpy(&fd, CMSG_DATA(c), sizeof(fd));
    return fd;
}

/* The source as a mount option: commas end options. */
static void add_escaped(struct tarn_str *s, const char *text)
{
    for (; *text; text++) {
        if (*text == ',' || *text == '\\')
            tarn_str_addc(s, '\\');
        tarn_str_addc(s, *text);
    }
}

static int mount_by_helper(const struct fmount_args *a, const char *path, struct tarn_errbuf *err,
                           int *ret_fd)
{
    struct tarn_str opts = {0};
    char text[256] = "";
    char prog[] = FUSERMOUNT, dash_o[] = "-o", end[] = "--";
    TARN_AUTO_FREE char *target = tarn_xstrdup(path);
    char *argv[] = {prog, dash_o, NULL, end, target, NULL};
    int socks[2], rc;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, socks) < 0)
        return tarn_err_set(err, -TARN_E_FUSE, "socketpair: %s", strerrordesc_np(errno));
    tarn_str_addf(
        &opts,
        "ro,nosuid,nodev,noatime,default_permissions,%smax_read=%zu,subtype=tarncache,fsname=",
        a->allow_other ? "allow_other," : "", a->max_read);
    add_escaped(&opts, a->source);
    argv[2] = opts.p;
    rc = spawn_fusermount(argv, socks[1], text, sizeof(text));
    (void)close(socks[1]); /* the child's end */
    if (rc == 0)
        rc = receive_fd(socks[0]);
    (void)close(socks[0]); /* nothing more comes */
    tarn_str_fini(&opts);
    if (rc < 0)
        return tarn_err_set(err, -TARN_E_FUSE, "mount on %s: %s", path,
                            text[0] ? text : strerrordesc_np(-rc));
    *ret_fd = rc;
    return 0;
}

/* ---- mount(2) -------------------------------------------------------------------------------- */

/* *ret_fd -1: not permitted, the helper may be. */
static int open_device(struct tarn_errbuf *err, int *ret_fd)
{
    *ret_fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    if (*ret_fd >= 0 || errno == EACCES || errno == EPERM)
        return 0;
    if (errno == ENOENT || errno == ENODEV || errno == ENXIO)
        return tarn_err_set(
            err, -TARN_E_FUSE,
            "/dev/fuse: %s: load the kernel module fuse (modprobe fuse), or give the "
            "container the device (--device /dev/fuse)",
            strerrordesc_np(errno));
    return tarn_err_set(err, -TARN_E_FUSE, "/dev/fuse: %s", strerrordesc_np(errno));
}

/* As open_device; takes `fd`, which it returned. */
static int mount_direct(const struct fmount_args *a, const char *path, int fd,
                        struct tarn_errbuf *err, int *ret_fd)
{
    char data[256];
    int e;

    *ret_fd = fd;
    if (fd < 0)
        return 0;
    (void)snprintf(data, sizeof(data),
                   "fd=%d,rootmode=40000,user_id=%u,group_id=%u,default_permissions,%smax_read=%zu",
                   fd, (unsigned)getuid(), (unsigned)getgid(), a->allow_other ? "allow_other," : "",
                   a->max_read); /* it fits */
    if (mount(a->source, path, TARN_MOUNT_TYPE, MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOATIME,
              data) == 0)
        return 0;
    e = errno;
    (void)close(fd); /* nothing was served on it */
    *ret_fd = -1;
    if (e == EPERM)
        return 0;
    return tarn_err_set(err, -TARN_E_FUSE, "mount on %s: %s", path, strerrordesc_np(e));
}

bool fmount_is_dead(int e)
{
    return e == ENOTCONN || e == ECONNABORTED;
}

bool fmount_fuse_at(const char *path, struct tarn_mountinfo *ret)
{
    struct tarn_str table = {0};
    bool found = tarn_mountinfo_load(&table) == 0 &&
                 tarn_mountinfo_at(tarn_str_z(&table), path, ret) &&
                 (strcmp(ret->type, "fuse") == 0 || tarn_starts_with(ret->type, "fuse."));

    tarn_str_fini(&table);
    return found;
}

int fmount_refuse(const char *path, const struct tarn_mountinfo *top, int e,
                  struct tarn_errbuf *err)
{
    if (e == ETIMEDOUT)
        return tarn_err_set(err, -TARN_E_MOUNTPOINT,
                            "mountpoint %s: in use by a %s mount that does not answer", path,
                            top->type);
    if (strcmp(top->type, TARN_MOUNT_TYPE) == 0)
        return tarn_err_set(err, -TARN_E_MOUNTPOINT,
                            "mountpoint %s: in use: tarn is mounted there already (tarn umount %s)",
                            path, path);
    return 0; /* anything else may be mounted upon */
}

/* Detaches what is dead at `path`, and refuses what is live and ours. */
static int mount_replace_dead(const char *path, struct tarn_errbuf *err)
{
    struct tarn_mountinfo top;
    int rc;

    for (unsigned i = 0; fmount_fuse_at(path, &top); i++) {
        int e = tarn_probe_statfs(path);

        if (!fmount_is_dead(e))
            return fmount_refuse(path, &top, e, err);
        rc = i < DEAD_MAX ? fmount_umount(path, true, NULL) : -ELOOP;
        if (rc < 0)
            return tarn_err_set(
                err, -TARN_E_MOUNTPOINT,
                "mountpoint %s: a dead FUSE mount is there and cannot be detached: %s", path,
                strerrordesc_np(-rc));
        tarn_warn("fuse", "mountpoint %s: a dead mount was detached", path);
    }
    return 0;
}

int fmount_start(const struct fmount_args *args, struct tarn_errbuf *err, struct fmount *ret,
                 int *ret_fd)
{
    struct fmount m = {.path = ""};
    struct tarn_str table = {0};
    struct tarn_mountinfo top;
    int fd, rc = fmount_canonical(args->path, m.path);

    if (rc < 0)
        return tarn_err_set(err, -TARN_E_MOUNTPOINT, "mountpoint %s: %s", args->path,
                            strerrordesc_np(-rc));
    rc = open_device(err, &fd);
    if (rc < 0)
        return rc;
    rc = mount_replace_dead(m.path, err); /* as late as can be: see mount.c */
    if (rc == 0)
        rc = mount_direct(args, m.path, fd, err, ret_fd);
    else if (fd >= 0)
        (void)close(fd); /* nothing was served on it */
    if (rc == 0 && *ret_fd < 0)
        rc = mount_by_helper(args, m.path, err, ret_fd);
    if (rc < 0)
        return rc;
    /* Its device number tells it from what others mount there. */
    if (tarn_mountinfo_load(&table) == 0 && tarn_mountinfo_at(tarn_str_z(&table), m.path, &top) &&
        strcmp(top.type, TARN_MOUNT_TYPE) == 0) {
        m.major = top.major;
        m.minor = top.minor;
    }
    tarn_str_fini(&table);
    *ret = m;
    return 0;
}

int fmount_umount(const char *path, bool lazy, struct tarn_errbuf *err)
{
    char prog[] = FUSERMOUNT, u[] = "-u", z[] = "-z", end[] = "--";
    TARN_AUTO_FREE char *target = tarn_xstrdup(path);
    char *argv[] = {prog, u, lazy ? z : end, lazy ? end : target, lazy ? target : NULL, NULL};
    char text[256] = "";
    int rc;

    if (umount2(path, UMOUNT_NOFOLLOW | (lazy ? MNT_DETACH : 0)) == 0)
        return 0;
    if (errno != EPERM)
        return -errno;
    rc = spawn_fusermount(argv, -1, text, sizeof(text));
    if (rc < 0 && strstr(text, strerrordesc_np(EBUSY)))
        return -EBUSY;
    return rc < 0 && text[0] ? tarn_err_set(err, rc, "%s", text) : rc;
}

int fmount_detach(const struct fmount *m, bool ended)
{
    struct tarn_str table = {0};
    struct tarn_mountinfo top;
    int rc;

    if (!m->path[0])
        return 0;
    rc = tarn_mountinfo_load(&table);
    if (rc == 0 && tarn_mountinfo_at(tarn_str_z(&table), m->path, &top) && top.major == m->major &&
        top.minor == m->minor && (!ended || fmount_is_dead(tarn_probe_statfs(m->path))))
        rc = fmount_umount(m->path, true, NULL);
    tarn_str_fini(&table);
    return rc;
}

void fmount_set_read_ahead(const struct fmount *m, unsigned kib)
{
    char path[96], text[16];
    int n = snprintf(text, sizeof(text), "%u", kib);
    int fd;

    (void)snprintf(path, sizeof(path), "/sys/class/bdi/%u:%u/read_ahead_kb", m->major, m->minor);
    fd = m->path[0] ? open(path, O_WRONLY | O_CLOEXEC) : -1;
    if (fd < 0 || write(fd, text, (size_t)n) != n)
        tarn_debug("fuse", "%s: %s: buffered reads stay small", path, strerrordesc_np(errno));
    if (fd >= 0)
        (void)close(fd); /* a failed write was told */
}
