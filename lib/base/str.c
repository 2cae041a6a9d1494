/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/base/str.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/mem.h"

void tarn_str_fini(struct tarn_str *s)
{
    free(s->p);
    *s = (struct tarn_str){0};
}

void tarn_str_reset(struct tarn_str *s)
{
    s->len = 0;
    if (s->p)
        s->p[0] = 0;
}

char *tarn_str_room(struct tarn_str *s, size_t n)
{
    size_t need = s->len + n + 1;

    TARN_ASSERT(need > n && need <= SIZE_MAX / 2);
    if (need > s->cap) {
        size_t cap = s->cap ? s->cap : 64;

        while (cap < need)
            cap *= 2;
        s->p = tarn_xrealloc(s->p, cap);
        s->cap = cap;
    }
    s->p[s->len] = 0;
    return s->p + s->len;
}

void tarn_str_add(struct tarn_str *s, const void *p, size_t n)
{
    char *dst = tarn_str_room(s, n);

    if (n)
        memcpy(dst, p, n);
    s->len += n;
    s->p[s->len] = 0;
}

void tarn_str_addc(struct tarn_str *s, char c)
{
    tarn_str_add(s, &c, 1);
}

void tarn_str_adds(struct tarn_str *s, const char *z)
{
    tarn_str_add(s, z, strlen(z));
}

void tarn_str_vaddf(struct tarn_str *s, const char *fmt, va_list ap)
{
    va_list again;
    int n;

    va_copy(again, ap);
    n = vsnprintf(NULL, 0, fmt, again);
    va_end(again);
    TARN_ASSERT(n >= 0);
    (void)tarn_str_room(s, (size_t)n);
    (void)vsnprintf(s->p + s->len, (size_t)n + 1, fmt, ap); /* fits: measured above */
    s->len += (size_t)n;
}

void tarn_str_addf(struct tarn_str *s, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    tarn_str_vaddf(s, fmt, ap);
    va_end(ap);
}

const char *tarn_str_z(const struct tarn_str *s)
{
    return s->p ? s->p : "";
}

char *tarn_str_detach(struct tarn_str *s)
{
    char *p;

    (void)tarn_str_room(s, 0);
    p = s->p;
    *s = (struct tarn_str){0};
    return p;
}

bool tarn_starts_with(const char *s, const char *prefix)
{
    return strncmp(s, prefix, strlen(prefix)) == 0;
}

bool tarn_ends_with(const char *s, const char *suffix)
{
    size_t n = strlen(s), m = strlen(suffix);

    return n >= m && memcmp(s + n - m, suffix, m) == 0;
}
