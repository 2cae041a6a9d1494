/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lib/base/str.h — growable byte string, always NUL-terminated. Zeroed is empty and valid.
 * Growth aborts when memory is out; callers bound what peers can append.
 */
#pragma once

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tarn_str {
    char *p;    /* NULL while nothing was appended */
    size_t len; /* bytes, without the NUL */
    size_t cap; /* bytes allocated */
};

void tarn_str_fini(struct tarn_str *s);
void tarn_str_reset(struct tarn_str *s); /* keeps the memory */
void tarn_str_add(struct tarn_str *s, const void *p, size_t n);
void tarn_str_addc(struct tarn_str *s, char c);
void tarn_str_adds(struct tarn_str *s, const char *z);
void tarn_str_addf(struct tarn_str *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void tarn_str_vaddf(struct tarn_str *s, const char *fmt, va_list ap)
    __attribute__((format(printf, 2, 0)));
/* Makes room for `n` more bytes and returns where they go; the caller then adds to `len`. */
char *tarn_str_room(struct tarn_str *s, size_t n);
/* The text, never NULL. */
const char *tarn_str_z(const struct tarn_str *s);
/* Hands the memory to the caller (free), never NULL; `s` is empty afterwards. */
char *tarn_str_detach(struct tarn_str *s);

bool tarn_starts_with(const char *s, const char *prefix);
bool tarn_ends_with(const char *s, const char *suffix);
