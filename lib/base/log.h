/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lib/base/log.h — one line per event: time, level, subsystem, key=value text. Thread-safe.
 *
 * The sink is process-wide (one of the two allowed globals). Secrets never come here.
 */
#pragma once

#include "lib/base/err.h"

enum tarn_log_level { TARN_LOG_DEBUG, TARN_LOG_INFO, TARN_LOG_WARN, TARN_LOG_ERROR };
enum tarn_log_format { TARN_LOG_TEXT, TARN_LOG_JSON };

/* Writes to `path` (appended, mode 0600) or, when NULL, to stderr. Errors: errno class of open(2).
 */
int tarn_log_open(const char *path, enum tarn_log_level level, enum tarn_log_format format);
/* Reopens the file, after rotation. */
void tarn_log_reopen(void);
void tarn_log_set_level(enum tarn_log_level level);
/* "debug" "info" "warn" "error" -> level; -TARN_E_INVALID otherwise. */
int tarn_log_level_parse(const char *s, enum tarn_log_level *ret_level);
int tarn_log_enabled(enum tarn_log_level level);
void tarn_log(enum tarn_log_level level, const char *subsys, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#define tarn_debug(subsys, ...)                                                                    \
    do {                                                                                           \
        if (tarn_log_enabled(TARN_LOG_DEBUG))                                                      \
            tarn_log(TARN_LOG_DEBUG, subsys, __VA_ARGS__);                                         \
    } while (0)
#define tarn_info(subsys, ...)  tarn_log(TARN_LOG_INFO, subsys, __VA_ARGS__)
#define tarn_warn(subsys, ...)  tarn_log(TARN_LOG_WARN, subsys, __VA_ARGS__)
#define tarn_error(subsys, ...) tarn_log(TARN_LOG_ERROR, subsys, __VA_ARGS__)

/*
 * At most one line per second and call site; the number left out is written with the next one.
 * For whatever a peer or a store can cause.
 */
struct tarn_log_limit {
    _Atomic unsigned long last_s;  /* monotonic second of the last line */
    _Atomic unsigned long dropped; /* lines left out since */
};
int tarn_log_limited(struct tarn_log_limit *lim, unsigned long *ret_dropped);
#define tarn_warn_limited(subsys, fmt, ...)                                                        \
    do {                                                                                           \
        static struct tarn_log_limit log_limit_;                                                   \
        unsigned long log_dropped_;                                                                \
        if (!tarn_log_limited(&log_limit_, &log_dropped_))                                         \
            ;                                                                                      \
        else if (log_dropped_ > 0)                                                                 \
            tarn_log(TARN_LOG_WARN, subsys, fmt " left_out=%lu", ##__VA_ARGS__, log_dropped_);     \
        else                                                                                       \
            tarn_log(TARN_LOG_WARN, subsys, fmt, ##__VA_ARGS__);                                   \
    } while (0)
