/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A record is three lines: the pid name space and start time of the process, then its mountpoint.
 * A number that another process has by now, or that is of another name space, says nothing. A
 * record whose process is gone is removed by whoever meets it.
 */
#include "tools/mount_record.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/base/units.h"
#include "tools/cli.h"

#define RECORD_SUFFIX ".mount"

/* When a process started, in ticks since the boot; 0: there is none. Field 22 of proc(5)'s stat. */
static uint64_t record_start(pid_t pid)
{
    TARN_AUTO_FREE char *path = tarn_xasprintf("/proc/%d/stat", (int)pid);
    FILE *f = fopen(path, "re");
    char line[1024] = "", *p;
    uint64_t start = 0;

    if (!f)
        return 0;
    (void)!fread(line, 1, sizeof(line) - 1, f); /* "" is no process */
    (void)fclose(f);                            /* only read from */
    p = strrchr(line, ')');                     /* behind its name, which may hold anything */
    for (unsigned field = 2; p && field < 22; field++)
        p = strchr(p + 1, ' ');
    if (p &&
        sscanf(p, " %" SCNu64, &start) != 1) /* NOLINT(cert-err34-c): the kernel's own format */
        start = 0;
    return start;
}

static void record_namespace(char ret[64])
{
    ssize_t n = readlink("/proc/self/ns/pid", ret, 63);

    ret[n > 0 ? n : 0] = 0;
}

void mount_record_write(const char *mountpoint, struct tarn_str *ret_path)
{
    struct tarn_errbuf err = {{0}};
    TARN_AUTO_FREE char *text = NULL;
    char ns[64];
    int rc;

    if (tarn_starts_with(mountpoint, "/dev/fd/")) /* it has no place */
        return;
    record_namespace(ns);
    text = tarn_xasprintf("%s\n%" PRIu64 "\n%s\n", ns, record_start(getpid()), mountpoint);
    rc = cli_run_dir(ret_path, &err);
    if (rc == 0) {
        tarn_str_addf(ret_path, "/%d" RECORD_SUFFIX, (int)getpid());
        rc = cli_write_file(tarn_str_z(ret_path), text, strlen(text), &err);
    }
    if (rc == 0)
        return;
    tarn_warn("mount", "`tarn umount` will not wait for this process: %s", tarn_err_text(&err, rc));
    tarn_str_reset(ret_path);
}

/* True when the record is of a process that runs; one whose process is gone is removed. */
static bool record_read(const char *path, pid_t pid, char ret_mountpoint[PATH_MAX])
{
    FILE *f = fopen(path, "re");
    char ns[64], ours[64], start[32];
    bool whole, runs = false;

    if (!f)
        return false;
    whole = fgets(ns, sizeof(ns), f) && fgets(start, sizeof(start), f) &&
            fgets(ret_mountpoint, PATH_MAX, f);
    (void)fclose(f); /* only read from */
    record_namespace(ours);
    if (!whole)
        return false;
    ns[strcspn(ns, "\n")] = 0;
    ret_mountpoint[strcspn(ret_mountpoint, "\n")] = 0;
    if (strcmp(ns, ours) != 0)
        return false;
    runs = record_start(pid) > 0 && record_start(pid) == strtoull(start, NULL, 10);
    if (!runs)
        (void)unlink(path); /* ignored where it stays */
    return runs;
}

static int record_find(const char *dir, const char *mountpoint)
{
    char found[PATH_MAX];
    const struct dirent *e;
    struct tarn_errbuf err;
    DIR *d = cli_dir_check(dir, &err) == 0 ? opendir(dir) : NULL; /* else anybody's */
    int fd = -1;

    while (d && fd < 0 && (e = readdir(d)) != NULL) {
        TARN_AUTO_FREE char *path = tarn_xasprintf("%s/%s", dir, e->d_name);
        TARN_AUTO_FREE char *number = tarn_xstrdup(e->d_name);
        uint64_t pid;

        if (!tarn_ends_with(number, RECORD_SUFFIX))
            continue;
        *strrchr(number, '.') = 0;
        if (tarn_parse_u64(number, &pid) == 0 && pid > 0 && pid < INT_MAX &&
            record_read(path, (pid_t)pid, found) && strcmp(found, mountpoint) == 0)
            fd = (int)syscall(SYS_pidfd_open, (pid_t)pid, 0);
    }
    if (d)
        (void)closedir(d);
    return fd;
}

int mount_record_open(const char *mountpoint)
{
    struct tarn_str dirs[CLI_TOKEN_DIRS] = {0};
    unsigned n = cli_token_dirs(dirs);
    int fd = -1;

    for (unsigned i = 0; i < n; i++) {
        if (fd < 0)
            fd = record_find(tarn_str_z(&dirs[i]), mountpoint);
        tarn_str_fini(&dirs[i]);
    }
    return fd;
}
