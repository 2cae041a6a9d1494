/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whether the kernel reads cached files by itself. What its version says is not enough: the
 * privilege and the file system below have a say too. So a child process mounts a FUSE file system
 * in a mount namespace of its own, agrees on passthrough, and registers a file. Everything is gone
 * with the child. The messages are few enough to be spoken here; the kernel's header of the build
 * machine may be older than the running kernel, so the newer constants are written out
 * (include/uapi/linux/fuse.h of Linux 6.9).
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/fuse.h>

#include "lib/base/mem.h"
#include "lib/base/str.h"
#include "tools/doctor.h"

#define PASS_INIT_EXT    (1u << 30)
#define PASS_PASSTHROUGH (1u << (37 - 32)) /* in flags2 */
#define PASS_WAIT_MS     3000

struct pass_backing {
    int32_t fd;
    uint32_t flags;
    uint64_t padding;
};
#define PASS_BACKING_OPEN _IOW(229, 1, struct pass_backing)

/* The answer to FUSE_INIT, up to what passthrough needs. */
struct pass_init_out {
    uint32_t major, minor, max_readahead, flags;
    uint16_t max_background, congestion_threshold;
    uint32_t max_write, time_gran;
    uint16_t max_pages, map_alignment;
    uint32_t flags2, max_stack_depth;
    uint32_t unused[6];
};
_Static_assert(sizeof(struct pass_init_out) == 64, "the kernel checks the length");

/* Answers INIT. 0, or why there is no passthrough: -EOPNOTSUPP when the kernel does not offer it.
 */
static int pass_init(int fd)
{
    union {
        struct {
            struct fuse_in_header head;
            struct fuse_init_in init;
        } in;
        char room[FUSE_MIN_READ_BUFFER + 8192];
    } req;
    struct {
        struct fuse_out_header head;
        struct pass_init_out init;
    } resp;
    struct pollfd p = {.fd = fd, .events = POLLIN};

    memset(&req, 0, sizeof(req));
    memset(&resp, 0, sizeof(resp));
    if (poll(&p, 1, PASS_WAIT_MS) != 1)
        return -ETIMEDOUT;
    if (read(fd, &req, sizeof(req)) < (ssize_t)sizeof(req.in.head) ||
        req.in.head.opcode != FUSE_INIT)
        return -EPROTO;
    resp.head.len = sizeof(resp);
    resp.head.unique = req.in.head.unique;
    resp.init.major = FUSE_KERNEL_VERSION;
    resp.init.minor = TARN_MIN(req.in.init.minor, 40u); /* 7.40 brought passthrough */
    resp.init.max_write = 4096;
    resp.init.time_gran = 1;
    resp.init.flags = PASS_INIT_EXT;
    resp.init.flags2 = PASS_PASSTHROUGH;
    resp.init.max_stack_depth = 1;
    if (!(req.in.init.flags & PASS_INIT_EXT))
        return -EOPNOTSUPP;
    if (write(fd, &resp, sizeof(resp)) != (ssize_t)sizeof(resp))
        return -errno;
    return 0;
}

/* In the child. */
static int pass_try(const char *dir)
{
    char opts[128];
    struct pass_backing backing = {0};
    TARN_AUTO_FD int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    TARN_AUTO_FD int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    int rc;

    if (fd < 0 || file < 0)
        return -errno;
    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        return -errno;
    (void)snprintf(opts, sizeof(opts), "fd=%d,rootmode=40000,user_id=%u,group_id=%u", fd,
                   (unsigned)getuid(), (unsigned)getgid()); /* fits */
    if (mount("tarn-doctor", dir, "fuse.tarn-doctor", MS_NOSUID | MS_NODEV | MS_RDONLY, opts) < 0)
        return -errno;
    rc = pass_init(fd);
    backing.fd = file;
    if (rc == 0 && ioctl(fd, PASS_BACKING_OPEN, &backing) < 0)
        rc = errno == ENOTTY || errno == EINVAL ? -EOPNOTSUPP : -errno;
    (void)umount2(dir, MNT_DETACH); /* the namespace ends with us anyway */
    return rc;
}

/* 0, or a negative errno: why not. */
static int pass_probe(void)
{
    char dir[] = "/tmp/tarn-doctor-XXXXXX";
    int status = 0;
    pid_t pid;

    if (!mkdtemp(dir))
        return -errno;
    pid = fork();
    if (pid == 0)
        _exit(-pass_try(dir) & 0xff);
    if (pid < 0 || waitpid(pid, &status, 0) != pid)
        status = EIO << 8;
    (void)rmdir(dir); /* made above, empty */
    return WIFEXITED(status) ? -WEXITSTATUS(status) : -EIO;
}

static bool pass_kernel(struct utsname *u)
{
    unsigned major = 0, minor = 0;

    if (uname(u) < 0 || sscanf(u->release, "%u.%u", &major, &minor) != 2) /* NOLINT(cert-err34-c) */
        return false;
    return major > 6 || (major == 6 && minor >= 9);
}

void doctor_passthrough(struct doctor *d)
{
    static const char slower[] =
        "reads of cached files take the ordinary path, which is correct but slower";
    struct utsname u = {0};
    int rc;

    if (!pass_kernel(&u)) {
        doctor_add(d, "passthrough", DOCTOR_WARN, "use Linux 6.9 or newer",
                   "Linux %s is older than 6.9: %s", u.release, slower);
        return;
    }
    rc = pass_probe();
    if (rc == 0)
        doctor_add(d, "passthrough", DOCTOR_OK, "", "Linux %s, and a file could be registered",
                   u.release);
    else if (rc == -EPERM || rc == -EACCES)
        doctor_add(d, "passthrough", DOCTOR_WARN, "run as root, or with CAP_SYS_ADMIN",
                   "Linux %s has it, but this process may not use it: %s", u.release, slower);
    else if (rc == -EOPNOTSUPP)
        doctor_add(d, "passthrough", DOCTOR_WARN, "use a kernel with CONFIG_FUSE_PASSTHROUGH",
                   "Linux %s does not offer it: %s", u.release, slower);
    else
        doctor_add(d, "passthrough", DOCTOR_WARN, "see the check of /dev/fuse",
                   "unknown: a file system for the test could not be mounted (%s)",
                   strerrordesc_np(-rc));
}
