/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whether a FUSE mount answers. It may be dead (its server is gone: ENOTCONN), live, or hung.
 * Asking a hung one would hang too, so a child asks, and is given PROBE_MS.
 *
 * The child tells by a pipe, since its exit status is lost where SIGCHLD is ignored. It holds none
 * of our descriptors: when the server has taken its request and does not answer, it cannot even be
 * killed, and outlives us with what it has (locks, ports).
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "fuse/mount_priv.h"

#define PROBE_MS  3000
#define REAP_MS   100
#define REAP_STEP 5 /* ms */

/* Only calls that are safe after fork. */
static _Noreturn void probe_child(const char *path, int fd)
{
    struct statfs st;
    int e;

    if (dup2(fd, 0) < 0 || close_range(1, UINT_MAX, 0) < 0)
        _exit(1);
    e = statfs(path, &st) == 0 ? 0 : errno;
    _exit(write(0, &e, sizeof(e)) == (ssize_t)sizeof(e) ? 0 : 1);
}

/* One that was killed and does not end is left to itself. */
static void probe_reap(pid_t pid, bool killed)
{
    const struct timespec step = {.tv_nsec = REAP_STEP * 1000000L};

    while (!killed && waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
    if (!killed)
        return;
    for (int ms = 0; ms < REAP_MS; ms += REAP_STEP) {
        if (waitpid(pid, NULL, WNOHANG) != 0)
            return;                   /* reaped, or the kernel does it */
        (void)nanosleep(&step, NULL); /* less is fine */
    }
}

int fmount_probe(const char *path)
{
    int fds[2], e = ETIMEDOUT;
    struct pollfd p;
    pid_t pid;

    if (pipe2(fds, O_CLOEXEC) < 0)
        return errno;
    pid = fork();
    if (pid == 0)
        probe_child(path, fds[1]);
    if (pid < 0)
        e = errno;
    (void)close(fds[1]); /* the child's end */
    p = (struct pollfd){.fd = fds[0], .events = POLLIN};
    while (pid > 0 && poll(&p, 1, PROBE_MS) < 0 && errno == EINTR)
        ;
    if (pid > 0 && p.revents == 0)
        (void)kill(pid, SIGKILL); /* it has not ended: it is still ours */
    else if (pid > 0 && read(fds[0], &e, sizeof(e)) != (ssize_t)sizeof(e))
        e = EIO;         /* it ended without a word */
    (void)close(fds[0]); /* only read from */
    if (pid > 0)
        probe_reap(pid, e == ETIMEDOUT);
    return e;
}

bool fmount_is_dead(int e)
{
    return e == ENOTCONN || e == ECONNABORTED;
}
