/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table of mounts, proc(5): "ID PARENT MAJOR:MINOR ROOT MOUNTPOINT OPTIONS [TAG...] - TYPE
 * SOURCE SUPER". White space and backslashes inside a field are octal escapes.
 */
#include "fuse/mount_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/mem.h"

int fmi_load(struct tarn_str *ret)
{
    TARN_AUTO_FD int fd = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return -errno;
    for (;;) {
        ssize_t n = read(fd, tarn_str_room(ret, 16384), 16384);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            return 0;
        ret->len += (size_t)n;
        ret->p[ret->len] = 0;
    }
}

static bool octal(char c)
{
    return c >= '0' && c <= '7';
}

/* Copies a field without its escapes; false when it does not fit. */
static bool fmi_field(const char *p, size_t n, char *dst, size_t size)
{
    size_t at = 0;

    for (size_t i = 0; i < n; at++) {
        if (at + 1 >= size)
            return false;
        if (p[i] == '\\' && i + 3 < n && octal(p[i + 1]) && octal(p[i + 2]) && octal(p[i + 3])) {
            dst[at] = (char)((p[i + 1] - '0') * 64 + (p[i + 2] - '0') * 8 + (p[i + 3] - '0'));
            i += 4;
        } else {
            dst[at] = p[i++];
        }
    }
    dst[at] = 0;
    return true;
}

/* Takes the next field of the line that ends at `end`; NULL at its end. */
static const char *fmi_take(const char **p, const char *end, size_t *ret_len)
{
    const char *start = *p;
    const char *stop;

    if (start >= end)
        return NULL;
    stop = memchr(start, ' ', (size_t)(end - start));
    if (!stop)
        stop = end;
    *p = stop < end ? stop + 1 : end;
    *ret_len = (size_t)(stop - start);
    return start;
}

static bool fmi_parse(const char *p, const char *end, struct fmi *ret)
{
    const char *field;
    size_t len = 0;

    for (unsigned i = 0; i < 5; i++) {
        field = fmi_take(&p, end, &len);
        if (!field)
            return false;
        if (i == 2 && (len >= 32 || sscanf(field, "%u:%u", &ret->major, &ret->minor) != 2))
            return false;
        if (i == 3 && !fmi_field(field, len, ret->root, sizeof(ret->root)))
            return false;
        if (i == 4 && !fmi_field(field, len, ret->mountpoint, sizeof(ret->mountpoint)))
            return false;
    }
    do {
        field = fmi_take(&p, end, &len);
    } while (field && !(len == 1 && field[0] == '-'));
    field = field ? fmi_take(&p, end, &len) : NULL;
    if (!field || !fmi_field(field, len, ret->type, sizeof(ret->type)))
        return false;
    field = fmi_take(&p, end, &len);
    if (!field || !fmi_field(field, len, ret->source, sizeof(ret->source)))
        ret->source[0] = 0;
    return true;
}

bool fmi_next(const char **p, struct fmi *ret)
{
    while (**p) {
        const char *line = *p;
        const char *end = strchrnul(line, '\n');

        *p = *end ? end + 1 : end;
        if (fmi_parse(line, end, ret))
            return true;
    }
    return false;
}

bool fmi_at(const char *table, const char *path, struct fmi *ret)
{
    struct fmi m;
    bool found = false;

    while (fmi_next(&table, &m)) {
        if (strcmp(m.mountpoint, path) != 0)
            continue;
        *ret = m; /* a later one lies on top */
        found = true;
    }
    return found;
}

static bool fmi_contains(const char *mountpoint, const char *path)
{
    size_t n = strlen(mountpoint);

    return n == 1 || (strncmp(mountpoint, path, n) == 0 && (path[n] == 0 || path[n] == '/'));
}

bool fmi_over(const char *table, const char *path, struct fmi *ret)
{
    struct fmi m;
    size_t best = 0;

    while (fmi_next(&table, &m)) {
        size_t n = strlen(m.mountpoint);

        if (n < best || !fmi_contains(m.mountpoint, path))
            continue;
        *ret = m;
        best = n;
    }
    return best > 0;
}
