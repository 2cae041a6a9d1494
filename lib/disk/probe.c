/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A child asks, and is given PROBE_MS. It tells by a pipe, since its exit status is lost where
 * SIGCHLD is ignored. It holds none of our descriptors: when a server has taken its request and
 * does not answer, it cannot even be killed, and outlives us with what it has (locks, ports).
 */
#include "lib/disk/probe.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PROBE_MS  3000
#define REAP_MS   100
#define REAP_STEP 5 /* ms */

struct probe_answer {
    int e; /* errno */
    char path[PATH_MAX];
};
/* What the child does. Only calls that are safe after fork. It has no descriptors but fd 0. */
typedef void probe_fn(const char *path, struct probe_answer *a);

static _Noreturn void probe_child(probe_fn *fn, const char *path, int fd)
{
    struct probe_answer a = {.e = 0};

    if (dup2(fd, 0) < 0 || close_range(1, UINT_MAX, 0) < 0)
        _exit(1);
    fn(path, &a);
    _exit(write(0, &a, sizeof(a)) == (ssize_t)sizeof(a) ? 0 : 1);
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

/* What a child says that has begun to speak, so that it waits for nobody but us. */
static int probe_hear(int fd, struct probe_answer *a)
{
    size_t got = 0;
    ssize_t n;

    while (got < sizeof(*a)) {
        n = read(fd, (char *)a + got, sizeof(*a) - got);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return EIO;
        got += (size_t)n;
    }
    return a->e;
}

/* The answer's errno, or ETIMEDOUT. */
static int probe(probe_fn *fn, const char *path, struct probe_answer *a)
{
    int fds[2], e = 0;
    struct pollfd p;
    pid_t pid;

    if (pipe2(fds, O_CLOEXEC) < 0)
        return errno;
    pid = fork();
    if (pid == 0)
        probe_child(fn, path, fds[1]);
    if (pid < 0)
        e = errno;
    (void)close(fds[1]); /* the child's end */
    p = (struct pollfd){.fd = fds[0], .events = POLLIN};
    while (pid > 0 && poll(&p, 1, PROBE_MS) < 0 && errno == EINTR)
        ;
    if (pid > 0 && p.revents == 0) {
        (void)kill(pid, SIGKILL); /* it has not ended: it is still ours */
        e = ETIMEDOUT;
    } else if (pid > 0) {
        e = probe_hear(fds[0], a);
    }
    (void)close(fds[0]); /* only read from */
    if (pid > 0)
        probe_reap(pid, e == ETIMEDOUT && p.revents == 0);
    return e;
}

static void probe_statfs(const char *path, struct probe_answer *a)
{
    struct statfs st;

    a->e = statfs(path, &st) == 0 ? 0 : errno;
}

int tarn_probe_statfs(const char *path)
{
    struct probe_answer a;

    return probe(probe_statfs, path, &a);
}

/* realpath(3) may allocate, which a child of a process with threads must not: the kernel knows the
 * path of a descriptor. */
static void probe_real(const char *path, struct probe_answer *a)
{
    int fd = open(path, O_PATH | O_CLOEXEC);
    ssize_t n = fd == 1 ? readlink("/proc/self/fd/1", a->path, sizeof(a->path) - 1) : -1;

    if (fd < 0 || n < 0)
        a->e = errno ? errno : EIO;
}

int tarn_probe_realpath(const char *path, char ret[PATH_MAX])
{
    struct probe_answer a;
    int e = probe(probe_real, path, &a);

    if (e)
        return -e;
    memcpy(ret, a.path, sizeof(a.path));
    return 0;
}
