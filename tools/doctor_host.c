/* SPDX-License-Identifier: Apache-2.0 */
/* What the host gives: FUSE, io_uring, limits, the clock, room on the disk. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/timex.h>
#include <time.h>
#include <unistd.h>

#include "lib/base/mem.h"
#include "lib/base/units.h"
#include "tools/doctor.h"

#define FDS_LOW   1024u
#define FDS_GOOD  16384u
#define ROOM_LOW  (64ull << 20)
#define ROOM_GOOD (1ull << 30)
#define CLOCK_MIN 1700000000 /* before this program was written */

void doctor_add(struct doctor *d, const char *check, enum doctor_state state, const char *mend,
                const char *fmt, ...)
{
    struct doctor_finding *f;
    va_list ap;

    if (d->n == DOCTOR_FINDINGS_MAX)
        return;
    f = &d->findings[d->n++];
    f->check = check;
    f->state = state;
    (void)snprintf(f->mend, sizeof(f->mend), "%s", mend); /* cut is fine, here and below */
    va_start(ap, fmt);
    (void)vsnprintf(f->text, sizeof(f->text), fmt, ap);
    va_end(ap);
}

static void doctor_fusermount(struct doctor *d)
{
    static const char *const places[] = {"/usr/bin/fusermount3", "/bin/fusermount3",
                                         "/usr/local/bin/fusermount3"};
    struct stat st;

    if (geteuid() == 0) {
        doctor_add(d, "fusermount3", DOCTOR_OK, "", "not needed: this is root");
        return;
    }
    for (size_t i = 0; i < TARN_ARRAY_LEN(places); i++) {
        if (stat(places[i], &st) < 0)
            continue;
        if ((st.st_mode & S_ISUID) && st.st_uid == 0)
            doctor_add(d, "fusermount3", DOCTOR_OK, "", "%s", places[i]);
        else
            doctor_add(d, "fusermount3", DOCTOR_FAIL,
                       "chown root and chmod u+s it, or install the package fuse3 again",
                       "%s is not set-user-id root: this user cannot mount", places[i]);
        return;
    }
    doctor_add(d, "fusermount3", DOCTOR_FAIL, "install the package fuse3",
               "not found: only root can mount without it");
}

void doctor_fuse(struct doctor *d)
{
    TARN_AUTO_FD int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    int err = fd < 0 ? errno : 0;

    if (fd >= 0)
        doctor_add(d, "fuse-device", DOCTOR_OK, "", "/dev/fuse can be opened");
    else if (err == ENOENT)
        doctor_add(d, "fuse-device", DOCTOR_FAIL,
                   "modprobe fuse; in a container: --device /dev/fuse", "/dev/fuse does not exist");
    else if (err == ENODEV || err == ENXIO)
        doctor_add(d, "fuse-device", DOCTOR_FAIL, "modprobe fuse",
                   "/dev/fuse: the kernel has no FUSE loaded");
    else
        doctor_add(d, "fuse-device", DOCTOR_FAIL,
                   "run as root, or let this user open /dev/fuse (mode 0666 is usual)",
                   "/dev/fuse: %s", strerrordesc_np(err));
    doctor_fusermount(d);
}

void doctor_io_uring(struct doctor *d)
{
    uint64_t params[32] = {0}; /* struct io_uring_params has 120 bytes */
    TARN_AUTO_FD int fd = (int)syscall(SYS_io_uring_setup, 4, params);

    if (fd >= 0)
        doctor_add(d, "io_uring", DOCTOR_OK, "", "allowed");
    else if (errno == ENOSYS)
        doctor_add(d, "io_uring", DOCTOR_WARN, "use a kernel with io_uring",
                   "not in this kernel: disk I/O runs on a thread pool");
    else
        doctor_add(
            d, "io_uring", DOCTOR_WARN,
            "sysctl kernel.io_uring_disabled=0; in a container, a seccomp profile that allows it",
            "refused (%s): disk I/O runs on a thread pool", strerrordesc_np(errno));
}

void doctor_limits(struct doctor *d)
{
    struct rlimit r;

    if (getrlimit(RLIMIT_NOFILE, &r) < 0)
        doctor_add(d, "open-files", DOCTOR_WARN, "", "unknown: %s", strerrordesc_np(errno));
    else if (r.rlim_max < FDS_LOW)
        doctor_add(d, "open-files", DOCTOR_FAIL,
                   "raise the hard limit: ulimit -Hn, LimitNOFILE= in systemd",
                   "at most %" PRIu64 " open files", (uint64_t)r.rlim_max);
    else if (r.rlim_max < FDS_GOOD)
        doctor_add(d, "open-files", DOCTOR_WARN,
                   "raise the hard limit: ulimit -Hn, LimitNOFILE= in systemd",
                   "at most %" PRIu64 " open files: fewer cache files stay open",
                   (uint64_t)r.rlim_max);
    else
        doctor_add(d, "open-files", DOCTOR_OK, "", "up to %" PRIu64, (uint64_t)r.rlim_max);
}

void doctor_clock(struct doctor *d)
{
    static const char mend[] = "run chrony, systemd-timesyncd or another NTP client";
    struct timex t = {0};
    int state = adjtimex(&t);
    char now[32];

    (void)tarn_format_time((int64_t)time(NULL) * 1000000000, now);
    if (time(NULL) < CLOCK_MIN)
        doctor_add(d, "clock", DOCTOR_FAIL, mend,
                   "says %s: stores refuse requests that are signed with a wrong time", now);
    else if (state == TIME_ERROR && (t.status & STA_UNSYNC))
        doctor_add(
            d, "clock", DOCTOR_WARN, mend,
            "says %s and nothing synchronises it: S3 refuses requests when it is off by 15 minutes",
            now);
    else
        doctor_add(d, "clock", DOCTOR_OK, "", "synchronised, %s", now);
}

void doctor_room(struct doctor *d, const char *dir)
{
    static const char mend[] = "free some space, or choose another --cache-dir";
    TARN_AUTO_FREE char *path = tarn_xstrdup(dir);
    struct statvfs v;
    uint64_t room;
    char size[32];

    while (statvfs(path, &v) < 0) {
        char *slash = strrchr(path, '/');

        if (errno != ENOENT || !slash) {
            doctor_add(d, "cache-room", DOCTOR_FAIL, "choose another --cache-dir", "%s: %s", dir,
                       strerrordesc_np(errno));
            return;
        }
        slash[slash == path ? 1 : 0] = 0;
    }
    room = (uint64_t)v.f_bavail * v.f_frsize;
    (void)tarn_format_size(room, size);
    if (room < ROOM_LOW)
        doctor_add(d, "cache-room", DOCTOR_FAIL, mend, "%s: %s free", dir, size);
    else if (room < ROOM_GOOD || v.f_bavail < v.f_blocks / 20)
        doctor_add(d, "cache-room", DOCTOR_WARN, mend,
                   "%s: %s free, of which 5 %% of the disk stay free", dir, size);
    else if ((v.f_flag & ST_RDONLY) != 0)
        doctor_add(d, "cache-room", DOCTOR_FAIL, "choose another --cache-dir",
                   "%s: on a read-only file system", dir);
    else
        doctor_add(d, "cache-room", DOCTOR_OK, "", "%s: %s free", dir, size);
}
