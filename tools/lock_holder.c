/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A line of /proc/locks is "N: FLOCK ADVISORY WRITE PID MAJOR:MINOR:INODE START END", the device in
 * hex. Processes that are not of our pid namespace are 0 there, or their locks are left out.
 */
#include "tools/lock_holder.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "lib/base/mem.h"

pid_t lock_holder(int fd)
{
    TARN_AUTO_FREE char *line = NULL;
    FILE *f = fopen("/proc/locks", "re");
    size_t cap = 0;
    struct stat st;
    pid_t found = 0;

    if (f && fstat(fd, &st) == 0)
        while (found <= 0 && getline(&line, &cap, f) > 0) {
            unsigned dev_major, dev_minor;
            uint64_t inode;
            int pid;

            if (sscanf(line, "%*[0-9]: FLOCK %*s %*s %d %x:%x:%" SCNu64, &pid, &dev_major,
                       &dev_minor, &inode) == 4 &&
                dev_major == major(st.st_dev) && dev_minor == minor(st.st_dev) &&
                inode == st.st_ino)
                found = (pid_t)pid;
        }
    if (f)
        (void)fclose(f); /* only read from */
    return found > 0 ? found : 0;
}
