/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/base/units.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "lib/base/err.h"
#include "lib/base/mem.h"

/*
 * A decimal: its whole part and billionths (places behind the ninth are dropped). Integers, no
 * floating point, so that "1.5G" is exact and every host agrees. *ret_end points behind the digits.
 */
static int units_decimal(const char *s, const char **ret_end, uint64_t *ret_whole,
                         uint64_t *ret_nano)
{
    uint64_t whole = 0, nano = 0, place = 100000000;
    const char *p = s;

    if (*p < '0' || *p > '9')
        return -TARN_E_INVALID;
    for (; *p >= '0' && *p <= '9'; p++) {
        if (__builtin_mul_overflow(whole, 10, &whole) ||
            __builtin_add_overflow(whole, (uint64_t)(*p - '0'), &whole))
            return -TARN_E_TOO_BIG;
    }
    if (*p == '.') {
        p++;
        if (*p < '0' || *p > '9')
            return -TARN_E_INVALID;
        for (; *p >= '0' && *p <= '9'; p++, place /= 10)
            nano += (uint64_t)(*p - '0') * place;
    }
    *ret_end = p;
    *ret_whole = whole;
    *ret_nano = nano;
    return 0;
}

static int units_scale(uint64_t whole, uint64_t nano, uint64_t unit, uint64_t *ret_v)
{
    unsigned __int128 v =
        (unsigned __int128)whole * unit + (unsigned __int128)nano * unit / 1000000000;

    if (v > UINT64_MAX)
        return -TARN_E_TOO_BIG;
    *ret_v = (uint64_t)v;
    return 0;
}

struct unit_row {
    const char *suffix; /* compared without case for sizes, exactly for durations */
    uint64_t unit;      /* bytes or ns */
};

static int size_parse(const char *s, const char *tail, uint64_t *ret_bytes)
{
    static const struct unit_row rows[] = {
        {"", 1},
        {"b", 1},
        {"k", 1ULL << 10},
        {"kib", 1ULL << 10},
        {"m", 1ULL << 20},
        {"mib", 1ULL << 20},
        {"g", 1ULL << 30},
        {"gib", 1ULL << 30},
        {"t", 1ULL << 40},
        {"tib", 1ULL << 40},
        {"p", 1ULL << 50},
        {"pib", 1ULL << 50},
        {"kb", 1000ULL},
        {"mb", 1000000ULL},
        {"gb", 1000000000ULL},
        {"tb", 1000000000000ULL},
        {"pb", 1000000000000000ULL},
    };
    uint64_t whole, nano;
    const char *end;
    char unit[8];
    size_t n;
    int rc = units_decimal(s, &end, &whole, &nano);

    if (rc < 0)
        return rc;
    while (*end == ' ')
        end++;
    n = strlen(end);
    if (n < strlen(tail) || strcmp(end + n - strlen(tail), tail) != 0)
        return -TARN_E_INVALID;
    n -= strlen(tail);
    if (n >= sizeof(unit))
        return -TARN_E_INVALID;
    memcpy(unit, end, n);
    unit[n] = 0;
    for (size_t i = 0; i < TARN_ARRAY_LEN(rows); i++)
        if (strcasecmp(unit, rows[i].suffix) == 0)
            return rows[i].unit == 1 && nano ? -TARN_E_INVALID
                                             : units_scale(whole, nano, rows[i].unit, ret_bytes);
    return -TARN_E_INVALID;
}

int tarn_parse_size(const char *s, uint64_t *ret_bytes)
{
    return size_parse(s, "", ret_bytes);
}

int tarn_parse_rate(const char *s, uint64_t *ret_bytes_per_s)
{
    return size_parse(s, "/s", ret_bytes_per_s);
}

int tarn_parse_duration(const char *s, uint64_t *ret_ns)
{
    static const struct unit_row rows[] = {
        {"ns", 1},
        {"us", 1000},
        {"ms", 1000000},
        {"s", 1000000000ULL},
        {"m", 60 * 1000000000ULL},
        {"min", 60 * 1000000000ULL},
        {"h", 3600 * 1000000000ULL},
        {"d", 86400 * 1000000000ULL},
    };
    uint64_t whole, nano;
    const char *end;
    int rc = units_decimal(s, &end, &whole, &nano);

    if (rc < 0)
        return rc;
    if (strcmp(s, "0") == 0) {
        *ret_ns = 0;
        return 0;
    }
    for (size_t i = 0; i < TARN_ARRAY_LEN(rows); i++)
        if (strcmp(end, rows[i].suffix) == 0)
            return units_scale(whole, nano, rows[i].unit, ret_ns);
    return -TARN_E_INVALID;
}

int tarn_parse_percent(const char *s, uint32_t *ret_bp)
{
    uint64_t whole, nano, bp;
    const char *end;
    int rc = units_decimal(s, &end, &whole, &nano);

    if (rc < 0)
        return rc;
    if (strcmp(end, "%") != 0 && *end)
        return -TARN_E_INVALID;
    rc = units_scale(whole, nano, *end ? 100 : 10000, &bp);
    if (rc < 0 || bp > 10000)
        return -TARN_E_INVALID;
    *ret_bp = (uint32_t)bp;
    return 0;
}

int tarn_parse_u64(const char *s, uint64_t *ret_v)
{
    uint64_t whole, nano;
    const char *end;
    int rc = units_decimal(s, &end, &whole, &nano);

    if (rc < 0)
        return rc;
    if (*end || memchr(s, '.', (size_t)(end - s)))
        return -TARN_E_INVALID;
    *ret_v = whole;
    return 0;
}

int tarn_parse_bool(const char *s, int *ret_v)
{
    static const char *const yes[] = {"true", "yes", "on", "1"}, *const no[] = {"false", "no",
                                                                                "off", "0"};

    for (size_t i = 0; i < TARN_ARRAY_LEN(yes); i++) {
        if (strcasecmp(s, yes[i]) == 0 || strcasecmp(s, no[i]) == 0) {
            *ret_v = strcasecmp(s, yes[i]) == 0;
            return 0;
        }
    }
    return -TARN_E_INVALID;
}

const char *tarn_format_size(uint64_t bytes, char buf[32])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    uint64_t tenths = bytes;
    int u = 0;

    if (bytes < 1024) {
        (void)snprintf(buf, 32, "%" PRIu64 " B", bytes); /* fits */
        return buf;
    }
    while (tenths >= 1024 * 1024 && u < 5) {
        tenths /= 1024;
        u++;
    }
    tenths = (tenths * 10 + 512) / 1024;
    u++;
    if (tenths >= 10240 && u < 6) {
        tenths = 10;
        u++;
    }
    (void)snprintf(buf, 32, "%" PRIu64 ".%" PRIu64 " %s", tenths / 10, tenths % 10,
                   units[u]); /* fits */
    return buf;
}

const char *tarn_format_duration(uint64_t ns, char buf[32])
{
    uint64_t ms = ns / 1000000, s = ms / 1000;

    if (ms < 1000)
        (void)snprintf(buf, 32, "%" PRIu64 "ms", ms); /* all of these fit */
    else if (s < 60)
        (void)snprintf(buf, 32, "%" PRIu64 ".%" PRIu64 "s", s, ms % 1000 / 100);
    else if (s < 3600)
        (void)snprintf(buf, 32, "%" PRIu64 "m%02" PRIu64 "s", s / 60, s % 60);
    else
        (void)snprintf(buf, 32, "%" PRIu64 "h%02" PRIu64 "m", s / 3600, s % 3600 / 60);
    return buf;
}

const char *tarn_format_time(int64_t real_ns, char buf[32])
{
    time_t t = (time_t)(real_ns / 1000000000 - (real_ns % 1000000000 < 0));
    struct tm tm;

    if (!gmtime_r(&t, &tm) || strftime(buf, 32, "%Y-%m-%dT%H:%M:%SZ", &tm) == 0)
        (void)snprintf(buf, 32, "%" PRId64, real_ns); /* fits */
    return buf;
}
