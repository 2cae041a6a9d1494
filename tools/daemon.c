/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Parent and child share a pipe. The child writes a struct daemon_word, after one that names its
 * log if it has one; a pipe that ends without it is a child that died.
 */
#include "tools/daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "lib/base/mem.h"
#include "lib/base/str.h"
#include "lib/base/units.h"
#include "tools/cli.h"

#define DAEMON_LOG       1    /* the text is the path of the log */
#define DAEMON_LONG_MS   3000 /* a start that takes longer is worth a word */
#define DAEMON_END_LOOKS 1000 /* of 5 ms: for a child to exit */

struct daemon_word {
    int32_t rc;      /* how the start went, or DAEMON_LOG */
    char text[2048]; /* what is to be said of it */
};

/* A whole word; false: the child is gone. `log`, where it is not empty, is said after a while. */
static bool daemon_hear(int fd, struct daemon_word *ret, const char *log)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    size_t got = 0;
    ssize_t n;

    if (log[0] && poll(&p, 1, DAEMON_LONG_MS) == 0) {
        cli_put_name(stderr, log, strlen(log));              /* it may hold anything */
        (void)fputs(": its log, while it starts\n", stderr); /* there is nowhere else to say it */
    }
    while (got < sizeof(*ret) && (n = read(fd, (char *)ret + got, sizeof(*ret) - got)) != 0) {
        if (n < 0 && errno != EINTR)
            break;
        got += n > 0 ? (size_t)n : 0;
    }
    ret->text[sizeof(ret->text) - 1] = 0;
    return got == sizeof(*ret);
}

/* It has failed, has let go of all, and has only to exit: nobody finds it running who was told. */
static void daemon_await_end(pid_t child)
{
    const struct timespec pause = {.tv_nsec = 5 * 1000 * 1000};
    int status;

    for (int i = 0; i < DAEMON_END_LOOKS && waitpid(child, &status, WNOHANG) == 0; i++)
        (void)nanosleep(&pause, NULL); /* cut short is fine */
}

/* In the parent. Returns what the child said. */
static int daemon_wait(int fd, pid_t child, bool quiet, struct tarn_str *ret_said,
                       struct tarn_errbuf *err)
{
    struct daemon_word word, log = {0};
    bool heard = daemon_hear(fd, &word, "");

    if (heard && word.rc == DAEMON_LOG) {
        log = word;
        heard = daemon_hear(fd, &word, quiet ? "" : log.text);
    }
    if (!heard) {
        int status = 0;

        (void)waitpid(child, &status, 0); /* for the message only */
        return tarn_err_set(err, -TARN_E_INTERNAL,
                            "the background process ended while starting (wait status %d)%s%s",
                            status, log.text[0] ? "; its log is " : "", log.text);
    }
    if (word.rc < 0) {
        daemon_await_end(child);
        return tarn_err_set(err, word.rc, "%s", word.text);
    }
    tarn_str_reset(ret_said);
    tarn_str_adds(ret_said, word.text);
    if (!quiet) {
        (void)fprintf(stderr, "pid %d%s", (int)child, log.text[0] ? ", log " : ""); /* as above */
        cli_put_name(stderr, log.text, strlen(log.text));
        (void)fputc('\n', stderr);
    }
    return 0;
}

static void daemon_detach(void)
{
    int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

    (void)setsid(); /* a fresh child is no group leader: cannot fail */
    if (fd < 0)
        return;
    for (int i = STDIN_FILENO; i <= STDERR_FILENO; i++)
        (void)dup2(fd, i); /* one of them stays as it was at worst */
    (void)close(fd);       /* three others are open */
}

int daemon_fork(struct daemon *d, bool quiet, struct tarn_str *ret_said, int *ret_rc,
                struct tarn_errbuf *err)
{
    int fds[2];
    pid_t pid;

    if (pipe2(fds, O_CLOEXEC) < 0)
        return tarn_err_set(err, -errno, "pipe: %s", strerrordesc_np(errno));
    pid = fork();
    if (pid < 0) {
        int rc = tarn_err_set(err, -errno, "fork: %s", strerrordesc_np(errno));

        (void)close(fds[0]); /* never used, both of them */
        (void)close(fds[1]);
        return rc;
    }
    if (pid > 0) {
        (void)close(fds[1]); /* the child's end */
        *ret_rc = daemon_wait(fds[0], pid, quiet, ret_said, err);
        (void)close(fds[0]); /* only read from */
        return 1;
    }
    (void)close(fds[0]);            /* the parent's end */
    (void)signal(SIGPIPE, SIG_IGN); /* a parent that is gone is an error, not our end */
    d->fd = fds[1];
    daemon_detach();
    return 0;
}

void daemon_tell_log(const struct daemon *d, const char *path)
{
    struct daemon_word word = {.rc = DAEMON_LOG};

    if (d->fd < 0)
        return;
    (void)snprintf(word.text, sizeof(word.text), "%s", path); /* cut is fine */
    (void)!write(d->fd, &word, sizeof(word)); /* a parent that is gone is seen later */
}

bool daemon_tell(struct daemon *d, int rc, const char *text)
{
    struct daemon_word word = {.rc = rc};
    bool heard;

    if (d->fd < 0)
        return true;
    (void)snprintf(word.text, sizeof(word.text), "%s", text); /* cut is fine */
    heard = write(d->fd, &word, sizeof(word)) == (ssize_t)sizeof(word);
    (void)close(d->fd); /* a pipe */
    d->fd = -1;
    return heard;
}

int daemon_path_code(int err)
{
    return err == ENOENT || err == ENOTDIR || err == EISDIR || err == ENAMETOOLONG ? -TARN_E_CONFIG
                                                                                   : -err;
}

/* ---- pid files ------------------------------------------------------------------------------- */

int daemon_pid_write(const char *path, struct tarn_errbuf *err)
{
    TARN_AUTO_FD int fd = -1;
    char text[24];
    int n;

    if (!path[0])
        return 0;
    n = snprintf(text, sizeof(text), "%d\n", (int)getpid()); /* fits */
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0)
        return tarn_err_set(err, daemon_path_code(errno), "--pid-file %s: %s", path,
                            strerrordesc_np(errno));
    if (write(fd, text, (size_t)n) != n)
        return tarn_err_set(err, -EIO, "--pid-file %s: cannot be written", path);
    return 0;
}

void daemon_pid_remove(const char *path)
{
    TARN_AUTO_FD int fd = path[0] ? open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK) : -1;
    char text[24] = "";
    uint64_t pid = 0;

    if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0)
        return;
    text[strcspn(text, "\n")] = 0;
    if (tarn_parse_u64(text, &pid) == 0 && pid == (uint64_t)getpid())
        (void)unlink(path); /* one that is left names a process that is gone */
}
