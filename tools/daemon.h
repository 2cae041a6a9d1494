/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tools/daemon.h — servers in the background (-d) and their pid files. The process forks before it
 * has threads; the parent returns when the child says that it serves, or why it does not.
 */
#pragma once

#include <stdbool.h>

#include "lib/base/err.h"

struct tarn_str;

struct daemon {
    int fd; /* tells the parent; -1: nobody waits */
};

/*
 * 1 in the parent, once the child has told: *ret_rc is its code, with its text in *ret_said, or in
 * `err` when it failed. 0 in the child, which has a session of its own and no standard streams.
 * The parent says on stderr, unless `quiet`, which process serves and where its log is
 * (daemon_tell_log); the latter already while a start takes long.
 * Errors: errno class
 */
int daemon_fork(struct daemon *d, bool quiet, struct tarn_str *ret_said, int *ret_rc,
                struct tarn_errbuf *err);
/* In the child: where its log is. */
void daemon_tell_log(const struct daemon *d, const char *path);
/*
 * In the child: how the start went. False when the parent went away meanwhile: whoever interrupts
 * the command does not want the server. Where nobody waits (any more): true.
 */
bool daemon_tell(struct daemon *d, int rc, const char *text);

/* The code for a path of the command line that cannot be opened: CONFIG where it is the path. */
int daemon_path_code(int err);
/* Writes our process id. An empty path: nothing. Errors: CONFIG, errno class, with a text */
int daemon_pid_write(const char *path, struct tarn_errbuf *err);
/* Removes the file, but not when it has the id of another process. */
void daemon_pid_remove(const char *path);
