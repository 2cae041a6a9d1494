/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lib/base/mem.h — allocation. The x-variants abort when memory is out: for small allocations whose
 * size we choose. Whatever a peer, a user or a file sizes goes through calloc and returns an error.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

void *tarn_xcalloc(size_t n, size_t size) __attribute__((malloc, returns_nonnull));
void *tarn_xrealloc(void *p, size_t size) __attribute__((returns_nonnull));
char *tarn_xstrdup(const char *s) __attribute__((malloc, returns_nonnull));
char *tarn_xasprintf(const char *fmt, ...) __attribute__((format(printf, 1, 2), returns_nonnull));
#define tarn_xnew(type) ((type *)tarn_xcalloc(1, sizeof(type)))

void tarn_cleanup_free(void *pp);
void tarn_cleanup_fd(const int *fd);
#define TARN_AUTO_FREE __attribute__((cleanup(tarn_cleanup_free)))
#define TARN_AUTO_FD   __attribute__((cleanup(tarn_cleanup_fd)))

#define TARN_ARRAY_LEN(a)                 (sizeof(a) / sizeof((a)[0]))
#define TARN_MIN(a, b)                    ((a) < (b) ? (a) : (b))
#define TARN_MAX(a, b)                    ((a) > (b) ? (a) : (b))
#define TARN_CONTAINER(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

static inline uint64_t tarn_div_up(uint64_t a, uint64_t b)
{
    return a / b + (a % b != 0);
}
