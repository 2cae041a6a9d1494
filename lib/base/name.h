/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lib/base/name.h — names and paths of the name space: one parser for everything that checks or
 * uses them. A name is 1 to 255 bytes without '/' and NUL, and is neither "." nor "..". Other bytes
 * are the user's business. A path is absolute, in normal form: "/" or "/a/b" (no empty part, no "."
 * or "..").
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#define TARN_NAME_MAX 255
#define TARN_PATH_MAX 4096

bool tarn_name_ok(const char *name, size_t len);
/*
 * Brings `in` to normal form: "//" and trailing "/" go, a missing leading "/" is added, "." goes.
 * Refuses ".." (-TARN_E_NAME_BAD), a long name (-TARN_E_NAME_TOO_LONG) and a long path. `ret` has
 * TARN_PATH_MAX bytes.
 */
int tarn_path_normalize(const char *in, char *ret);
/*
 * Takes the next name of a normal path: *p points at or behind a '/'; returns NULL at the end.
 */
const char *tarn_path_next(const char **p, size_t *ret_len);
