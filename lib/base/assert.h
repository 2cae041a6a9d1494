/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lib/base/assert.h — assertions that stay in production. For our own bugs, never for input, I/O or
 * peers.
 */
#pragma once

_Noreturn void tarn_assert_fail(const char *file, int line, const char *func, const char *what);

#define TARN_ASSERT(cond)                                                                          \
    do {                                                                                           \
        if (__builtin_expect(!(cond), 0))                                                          \
            tarn_assert_fail(__FILE__, __LINE__, __func__, #cond);                                 \
    } while (0)

/* For checks that cost more than O(1): only in builds without NDEBUG. */
#ifdef NDEBUG
#define TARN_DEBUG_ASSERT(cond)                                                                    \
    do {                                                                                           \
    } while (0)
#else
#define TARN_DEBUG_ASSERT(cond) TARN_ASSERT(cond)
#endif

#define TARN_UNREACHABLE(why) tarn_assert_fail(__FILE__, __LINE__, __func__, "unreachable: " why)

/*
 * The only way back from `void *`: `to` is a struct pointer variable whose struct has `magic`.
 * tools/dev/check_deps.py proves that magics are unique.
 */
#define TARN_CAST(to, from, magic_value)                                                           \
    do {                                                                                           \
        (to) = (from);                                                                             \
        TARN_ASSERT((to) != NULL);                                                                 \
        TARN_ASSERT((to)->magic == (magic_value));                                                 \
    } while (0)
