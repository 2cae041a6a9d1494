/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Headers of an HTTP answer: the few that stores need, from lines that a store may have made up.
 * Pure functions; a line that is not understood is left out.
 */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "lib/base/env.h"
#include "lib/base/mem.h"
#include "ufs/http_priv.h"

int64_t tarn_ufs_http_days(int64_t year, unsigned month, unsigned day)
{
    int64_t y = year - (month <= 2);
    int64_t era = (y >= 0 ? y : y - 399) / 400;
    unsigned yoe = (unsigned)(y - era * 400);
    unsigned doy = (153 * (month + (month > 2 ? -3u : 9u)) + 2) / 5 + day - 1;
    unsigned doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;

    return era * 146097 + (int64_t)doe - 719468; /* Hinnant, days_from_civil */
}

/* `n` digits at `s`. */
static bool date_digits(const char *s, unsigned n, unsigned *ret_v)
{
    *ret_v = 0;
    for (unsigned i = 0; i < n; i++) {
        if (s[i] < '0' || s[i] > '9')
            return false;
        *ret_v = *ret_v * 10 + (unsigned)(s[i] - '0');
    }
    return true;
}

/* The month's number from its three letters at `s`; 0 when there is none. */
static unsigned date_month(const char *s)
{
    static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";

    for (unsigned i = 0; i < 12; i++)
        if (memcmp(s, months + 3 * (size_t)i, 3) == 0)
            return i + 1;
    return 0;
}

bool tarn_ufs_http_date(const char *s, int64_t *ret_ns)
{
    unsigned day, month, year, hour, min, sec;

    if (strlen(s) != 29 || s[3] != ',' || s[4] != ' ' || s[7] != ' ' || s[11] != ' ' ||
        s[16] != ' ' || s[19] != ':' || s[22] != ':' || strcmp(s + 25, " GMT") != 0)
        return false;
    month = date_month(s + 8);
    if (!month || !date_digits(s + 5, 2, &day) || !date_digits(s + 12, 4, &year) ||
        !date_digits(s + 17, 2, &hour) || !date_digits(s + 20, 2, &min) ||
        !date_digits(s + 23, 2, &sec))
        return false;
    if (day < 1 || day > 31 || hour > 23 || min > 59 || sec > 60 || year < 1970 || year > 2200)
        return false;
    *ret_ns = (tarn_ufs_http_days((int64_t)year, month, day) * 86400 + (int64_t)hour * 3600 +
               (int64_t)min * 60 + (int64_t)sec) *
              (int64_t)TARN_NS_PER_S;
    return true;
}

/* Decimal digits at *p, moved behind them; false when there are none or too many. */
static bool head_number(const char **p, uint64_t *ret_v)
{
    const char *s = *p;
    uint64_t v = 0;

    for (; *s >= '0' && *s <= '9'; s++) {
        if (v > (UINT64_MAX - 9) / 10)
            return false;
        v = v * 10 + (uint64_t)(*s - '0');
    }
    if (s == *p)
        return false;
    *p = s;
    *ret_v = v;
    return true;
}

static void head_length(struct tarn_ufs_http_head *h, const char *v)
{
    h->has_length = head_number(&v, &h->length_bytes) && !*v;
}

/* What the last such line says counts; one that makes no sense takes an earlier one away. */
static void head_range(struct tarn_ufs_http_head *h, const char *v)
{
    uint64_t first, last, total = 0;
    bool has_total;

    h->has_range = h->has_total = false;
    if (strncasecmp(v, "bytes ", 6) != 0)
        return;
    v += 6;
    if (!head_number(&v, &first) || *v++ != '-' || !head_number(&v, &last) || *v++ != '/')
        return;
    has_total = strcmp(v, "*") != 0;
    if (has_total && (!head_number(&v, &total) || *v || last >= total))
        return;
    if (last < first || last == UINT64_MAX)
        return;
    h->has_range = true;
    h->range_first = first;
    h->range_last = last;
    h->has_total = has_total;
    h->total_bytes = total;
}

/* Quotes go, `W/` stays: W/"x" -> W/x. A tag that is too long is no tag. */
static void head_etag(struct tarn_ufs_http_head *h, const char *v)
{
    size_t n = 0;

    h->etag[0] = 0;
    for (; *v; v++) {
        if (*v == '"')
            continue;
        if (n == TARN_ETAG_MAX) {
            h->etag[0] = 0;
            return;
        }
        h->etag[n++] = *v;
    }
    h->etag[n] = 0;
}

static void head_mtime(struct tarn_ufs_http_head *h, const char *v)
{
    if (!tarn_ufs_http_date(v, &h->mtime_ns))
        h->mtime_ns = 0;
}

static void head_date(struct tarn_ufs_http_head *h, const char *v)
{
    if (!tarn_ufs_http_date(v, &h->date_ns))
        h->date_ns = 0;
}

static void head_retry_after(struct tarn_ufs_http_head *h, const char *v)
{
    uint64_t s;

    if (head_number(&v, &s) && !*v && s <= 3600)
        h->retry_after_ns = s * TARN_NS_PER_S;
}

static void head_region(struct tarn_ufs_http_head *h, const char *v)
{
    (void)snprintf(h->region, sizeof(h->region), "%s", v); /* cut is fine */
}

static void head_location(struct tarn_ufs_http_head *h, const char *v)
{
    (void)snprintf(h->location, sizeof(h->location), "%s", v); /* cut is fine */
}

void tarn_ufs_http_head_line(struct tarn_ufs_http_head *head, const char *line, size_t n)
{
    static const struct {
        const char *name; /* lower case */
        void (*fn)(struct tarn_ufs_http_head *h, const char *value);
    } rows[] = {
        {"content-length", head_length},
        {"content-range", head_range},
        {"etag", head_etag},
        {"last-modified", head_mtime},
        {"date", head_date},
        {"retry-after", head_retry_after},
        {"location", head_location},
        {"x-amz-bucket-region", head_region},
    };
    const char *colon = memchr(line, ':', n);
    char value[512];
    size_t len;

    if (!colon)
        return;
    for (size_t i = 0; i < TARN_ARRAY_LEN(rows); i++) {
        size_t m = strlen(rows[i].name);

        if (m != (size_t)(colon - line) || strncasecmp(line, rows[i].name, m) != 0)
            continue;
        n -= m + 1;
        for (line = colon + 1; n && (*line == ' ' || *line == '\t'); line++)
            n--;
        while (n && (line[n - 1] == ' ' || line[n - 1] == '\t' || line[n - 1] == '\r' ||
                     line[n - 1] == '\n'))
            n--;
        len = TARN_MIN(n, sizeof(value) - 1);
        for (size_t k = 0; k < len; k++)
            value[k] = (char)((unsigned char)line[k] < 0x20 || line[k] == 0x7f ? '?' : line[k]);
        value[len] = 0;
        rows[i].fn(head, value);
        return;
    }
}
