/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/base/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/assert.h"

void *tarn_xcalloc(size_t n, size_t size)
{
    void *p = calloc(n ? n : 1, size ? size : 1);

    TARN_ASSERT(p != NULL);
    return p;
}

void *tarn_xrealloc(void *p, size_t size)
{
    void *q = realloc(p, size ? size : 1);

    TARN_ASSERT(q != NULL);
    return q;
}

char *tarn_xstrdup(const char *s)
{
    char *p = strdup(s);

    TARN_ASSERT(p != NULL);
    return p;
}

char *tarn_xasprintf(const char *fmt, ...)
{
    va_list ap;
    char *s;
    int n;

    va_start(ap, fmt);
    n = vasprintf(&s, fmt, ap);
    va_end(ap);
    TARN_ASSERT(n >= 0);
    return s;
}

void tarn_cleanup_free(void *pp)
{
    void **p = pp;

    free(*p);
}

void tarn_cleanup_fd(const int *fd)
{
    if (*fd >= 0)
        (void)close(*fd); /* only for descriptors that were read from */
}
