/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table of mounts, proc(5): "ID PARENT MAJOR:MINOR ROOT MOUNTPOINT OPTIONS [TAG...] - TYPE
 * SOURCE SUPER". White space and backslashes inside a field are octal escapes.
 */
#include "lib/disk/mountinfo.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/mem.h"

int tarn_mountinfo_load(struct tarn_str *ret)
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
static bool mountinfo_field(const char *p, size_t n, char *dst, size_t size)
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
static const char *mountinfo_take(const char **p, const char *end, size_t *ret_len)
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

static bool mountinfo_number(const char *p, size_t n, unsigned *ret)
{
    return n > 0 && n < 16 && sscanf(p, "%u", ret) == 1;
}

static bool mountinfo_parse(const char *p, const char *end, struct tarn_mountinfo *ret)
{
    const char *field;
    size_t len = 0;

    for (unsigned i = 0; i < 5; i++) {
        field = mountinfo_take(&p, end, &len);
        if (!field)
            return false;
        if ((i == 0 && !mountinfo_number(field, len, &ret->id)) ||
            (i == 1 && !mountinfo_number(field, len, &ret->parent)))
            return false;
        if (i == 2 && (len >= 32 || sscanf(field, "%u:%u", &ret->major, &ret->minor) != 2))
            return false;
        if (i == 3 && !mountinfo_field(field, len, ret->root, sizeof(ret->root)))
            return false;
        if (i == 4 && !mountinfo_field(field, len, ret->mountpoint, sizeof(ret->mountpoint)))
            return false;
    }
    do {
        field = mountinfo_take(&p, end, &len);
    } while (field && !(len == 1 && field[0] == '-'));
    field = field ? mountinfo_take(&p, end, &len) : NULL;
    if (!field || !mountinfo_field(field, len, ret->type, sizeof(ret->type)))
        return false;
    field = mountinfo_take(&p, end, &len);
    if (!field || !mountinfo_field(field, len, ret->source, sizeof(ret->source)))
        ret->source[0] = 0;
    return true;
}

bool tarn_mountinfo_next(const char **p, struct tarn_mountinfo *ret)
{
    while (**p) {
        const char *line = *p;
        const char *end = strchrnul(line, '\n');

        *p = *end ? end + 1 : end;
        if (mountinfo_parse(line, end, ret))
            return true;
    }
    return false;
}

bool tarn_mountinfo_at(const char *table, const char *path, struct tarn_mountinfo *ret)
{
    struct tarn_mountinfo m;
    bool found = false;

    while (tarn_mountinfo_next(&table, &m)) {
        if (strcmp(m.mountpoint, path) != 0)
            continue;
        *ret = m; /* a later one lies on top */
        found = true;
    }
    return found;
}

static bool mountinfo_contains(const char *mountpoint, const char *path)
{
    size_t n = strlen(mountpoint);

    return n == 1 || (strncmp(mountpoint, path, n) == 0 && (path[n] == 0 || path[n] == '/'));
}

static bool mountinfo_has(const char *table, unsigned id)
{
    struct tarn_mountinfo m;

    while (tarn_mountinfo_next(&table, &m))
        if (m.id == id)
            return true;
    return false;
}

/*
 * The one that a walk to `path` meets first behind `from`: of those mounted on it, the one nearest
 * to the root hides the others. NULL: behind nothing, so one whose parent is not in the table.
 */
static bool mountinfo_step(const char *table, const char *path, const struct tarn_mountinfo *from,
                           struct tarn_mountinfo *ret)
{
    const char *p = table;
    struct tarn_mountinfo m;
    bool found = false;

    while (tarn_mountinfo_next(&p, &m)) {
        if ((from && (m.parent != from->id || m.id == from->id)) ||
            !mountinfo_contains(m.mountpoint, path) ||
            (found && strlen(m.mountpoint) >= strlen(ret->mountpoint)))
            continue;
        if (!from && m.parent != m.id && mountinfo_has(table, m.parent))
            continue;
        *ret = m;
        found = true;
    }
    return found;
}

bool tarn_mountinfo_over(const char *table, const char *path, struct tarn_mountinfo *ret)
{
    struct tarn_mountinfo next;
    unsigned steps = 0;

    if (!mountinfo_step(table, path, NULL, ret))
        return false;
    while (steps++ < PATH_MAX && mountinfo_step(table, path, ret, &next))
        *ret = next;
    return true;
}

void tarn_mountwatch_init(struct tarn_mountwatch *w)
{
    w->fd = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC);
    tarn_mtx_init(&w->mtx, TARN_RANK_LEAF);
    w->changes = w->fd >= 0;
}

void tarn_mountwatch_fini(struct tarn_mountwatch *w)
{
    if (w->fd >= 0)
        (void)close(w->fd); /* only polled */
    w->fd = -1;
    tarn_mtx_fini(&w->mtx);
}

uint64_t tarn_mountwatch_changes(struct tarn_mountwatch *w)
{
    struct pollfd p = {.fd = w->fd, .events = POLLPRI};

    if (w->fd < 0)
        return 0;
    TARN_GUARD(&w->mtx); /* one poll(2) is told of each change, once */
    if (poll(&p, 1, 0) > 0 && (p.revents & (POLLPRI | POLLERR)))
        w->changes++;
    return w->changes;
}
