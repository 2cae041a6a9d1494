/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The log sink and the assertion failure path. A line is formatted on the stack and leaves with one
 * write(2), so lines of several threads and of a forked child never mix. Control characters in a
 * line are replaced, and so are bytes that are not UTF-8: names from a store cannot forge a line,
 * steer a terminal or break the JSON.
 */
#include "lib/base/log.h"

#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "lib/base/assert.h"

#define LOG_LINE_MAX 4096

static _Atomic int log_fd = STDERR_FILENO;
static _Atomic int log_level = TARN_LOG_INFO;
static _Atomic int log_format = TARN_LOG_TEXT;
static char log_path[4096];

int tarn_log_open(const char *path, enum tarn_log_level level, enum tarn_log_format format)
{
    int fd = STDERR_FILENO;

    if (path) {
        if (strlen(path) >= sizeof(log_path))
            return -ENAMETOOLONG;
        fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        if (fd < 0)
            return -errno;
        (void)snprintf(log_path, sizeof(log_path), "%s", path); /* length checked above */
    }
    atomic_store(&log_level, (int)level);
    atomic_store(&log_format, (int)format);
    atomic_store(&log_fd, fd);
    return 0;
}

void tarn_log_reopen(void)
{
    int fd;
    int cur = atomic_load(&log_fd);

    if (!log_path[0] || cur == STDERR_FILENO)
        return;
    fd = open(log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0)
        return;
    /* dup2 keeps the number, so that a writer in another thread never sees a closed one. */
    (void)dup3(fd, cur, O_CLOEXEC);
    (void)close(fd);
}

void tarn_log_set_level(enum tarn_log_level level)
{
    atomic_store(&log_level, (int)level);
}

int tarn_log_level_parse(const char *s, enum tarn_log_level *ret_level)
{
    static const char *const names[] = {"debug", "info", "warn", "error"};

    for (int i = 0; i < 4; i++) {
        if (strcmp(s, names[i]) == 0) {
            *ret_level = (enum tarn_log_level)i;
            return 0;
        }
    }
    return -TARN_E_INVALID;
}

int tarn_log_enabled(enum tarn_log_level level)
{
    return (int)level >= atomic_load_explicit(&log_level, memory_order_relaxed);
}

/* Bytes of the printable UTF-8 character at `s`; 0 for a control character or no UTF-8. */
static size_t log_char_len(const unsigned char *s)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t len = s[0] < 0x80   ? 1
                 : s[0] < 0xc0 ? 0
                 : s[0] < 0xe0 ? 2
                 : s[0] < 0xf0 ? 3
                 : s[0] < 0xf8 ? 4
                               : 0;
    uint32_t c;

    if (len <= 1)
        return s[0] >= 0x20 && s[0] != 0x7f ? len : 0;
    c = s[0] & (0x7fu >> len);
    for (size_t i = 1; i < len; i++) {
        if ((s[i] & 0xc0) != 0x80)
            return 0; /* also the terminating NUL */
        c = c << 6 | (s[i] & 0x3fu);
    }
    if (c < least[len] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000) || c < 0xa0)
        return 0;
    return len;
}

static size_t log_clean(char *dst, size_t cap, const char *src, int json)
{
    size_t n = 0;

    while (*src && n + 7 < cap) {
        unsigned char c = (unsigned char)*src;
        size_t len = log_char_len((const unsigned char *)src);

        if (len == 0)
            n += (size_t)snprintf(dst + n, cap - n, json ? "\\u%04x" : "\\x%02x", c);
        else if (json && (c == '"' || c == '\\'))
            dst[n++] = '\\';
        memcpy(dst + n, src, len);
        n += len;
        src += len ? len : 1;
    }
    dst[n] = 0;
    return n;
}

void tarn_log(enum tarn_log_level level, const char *subsys, const char *fmt, ...)
{
    static const char *const names[] = {"debug", "info", "warn", "error"};
    char body[LOG_LINE_MAX / 2], clean[LOG_LINE_MAX / 2 + 64], line[LOG_LINE_MAX + 128];
    struct timespec ts;
    struct tm tm;
    va_list ap;
    int n;
    int saved = errno;

    if (!tarn_log_enabled(level))
        return;
    va_start(ap, fmt);
    n = vsnprintf(body, sizeof(body), fmt, ap);
    va_end(ap);
    if (n < 0)
        return;
    int json = atomic_load(&log_format) == TARN_LOG_JSON;
    (void)log_clean(clean, sizeof(clean), body, json);
    (void)clock_gettime(CLOCK_REALTIME, &ts); /* cannot fail for this clock */
    (void)gmtime_r(&ts.tv_sec, &tm);
    n = snprintf(
        line, sizeof(line),
        json ? "{\"time\":\"%04d-%02d-%02dT%02d:%02d:%02d.%03ldZ\",\"level\":\"%s\",\"thread\":%ld,"
               "\"subsys\":\"%s\",\"msg\":\"%s\"}\n"
             : "%04d-%02d-%02dT%02d:%02d:%02d.%03ldZ %-5s %ld %s: %s\n",
        tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec,
        ts.tv_nsec / 1000000, names[level], (long)syscall(SYS_gettid), subsys, clean);
    if (n > 0)
        (void)!write(atomic_load(&log_fd), line,
                     n < (int)sizeof(line) ? (size_t)n : sizeof(line) - 1);
    errno = saved;
}

int tarn_log_limited(struct tarn_log_limit *lim, unsigned long *ret_dropped)
{
    struct timespec ts;
    unsigned long now, last;

    (void)clock_gettime(CLOCK_MONOTONIC, &ts); /* cannot fail for this clock */
    now = (unsigned long)ts.tv_sec + 1;
    last = atomic_load(&lim->last_s);
    if (last == now || !atomic_compare_exchange_strong(&lim->last_s, &last, now)) {
        atomic_fetch_add(&lim->dropped, 1);
        return 0;
    }
    *ret_dropped = atomic_exchange(&lim->dropped, 0);
    return 1;
}

void tarn_assert_fail(const char *file, int line, const char *func, const char *what)
{
    void *frames[48];
    int n;
    int fd = atomic_load(&log_fd);

    tarn_log(TARN_LOG_ERROR, "assert", "version=%s %s:%d %s(): %s", TARN_VERSION, file, line, func,
             what);
    n = backtrace(frames, 48);
    backtrace_symbols_fd(frames, n, fd);
    abort();
}
