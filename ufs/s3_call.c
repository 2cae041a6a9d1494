/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Builds signed requests. The host, the x-amz-* headers and the range are signed; conditions are
 * not, since a proxy may take them out and the answer is checked all the same.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"
#include "lib/base/hash.h"
#include "lib/base/mem.h"
#include "ufs/s3_priv.h"
#include "ufs/ufs.h"

static void call_line(struct tarn_s3_call *c, const char *name, const char *value)
{
    TARN_ASSERT(c->n_headers < TARN_ARRAY_LEN(c->headers));
    TARN_ASSERT(!strpbrk(value, "\r\n"));
    tarn_str_addf(&c->lines, "%s: %s", name, value);
    tarn_str_addc(&c->lines, 0);
    c->n_headers++;
}

/* The lines stay where they are from now on. */
static void call_finish(struct tarn_s3_call *c)
{
    const char *p = c->lines.p;

    for (size_t i = 0; i < c->n_headers; i++, p += strlen(p) + 1)
        c->headers[i] = p;
}

static void call_sign(const struct tarn_s3_site *s, const char *method, const char *path,
                      const char *query, const char *range, int64_t real_ns, struct tarn_s3_call *c)
{
    struct tarn_s3_header h[5];
    struct tarn_str auth = {0};
    char date[20];
    size_t n = 0;

    if (!s->access_key)
        return;
    (void)tarn_s3_amz_date(real_ns, date); /* returns date */
    h[n++] = (struct tarn_s3_header){"host", s->authority};
    if (range)
        h[n++] = (struct tarn_s3_header){"range", range};
    h[n++] = (struct tarn_s3_header){"x-amz-content-sha256", TARN_S3_EMPTY_SHA256};
    h[n++] = (struct tarn_s3_header){"x-amz-date", date};
    if (s->token)
        h[n++] = (struct tarn_s3_header){"x-amz-security-token", s->token};
    tarn_s3_sign(&(struct tarn_s3_sign_args){.method = method,
                                             .path = path,
                                             .query = query,
                                             .headers = h,
                                             .n_headers = n,
                                             .payload_sha256 = TARN_S3_EMPTY_SHA256,
                                             .amz_date = date,
                                             .region = s->region,
                                             .access_key = s->access_key,
                                             .secret_key = s->secret_key},
                 &auth);
    for (size_t i = range ? 2 : 1; i < n; i++) /* host is curl's, range is there */
        call_line(c, h[i].name, h[i].value);
    call_line(c, "Authorization", tarn_str_z(&auth));
    tarn_str_fini(&auth);
}

static void call_build(const struct tarn_s3_site *s, const char *method, const char *full_key,
                       const char *query, const char *range, int64_t real_ns,
                       struct tarn_s3_call *c)
{
    struct tarn_str path = {0};

    tarn_str_adds(&path, s->path);
    if (full_key) {
        tarn_str_addc(&path, '/');
        tarn_s3_url_encode(&path, full_key, strlen(full_key), true);
    } else if (!path.len) {
        tarn_str_addc(&path, '/');
    }
    tarn_str_addf(&c->url, "%s%s%s%s", s->base, tarn_str_z(&path), *query ? "?" : "", query);
    call_sign(s, method, tarn_str_z(&path), query, range, real_ns, c);
    tarn_str_fini(&path);
    call_finish(c);
}

void tarn_s3_call_head(const struct tarn_s3_site *s, const char *full_key, int64_t real_ns,
                       struct tarn_s3_call *ret)
{
    TARN_ASSERT(ret->n_headers == 0 && *full_key);
    call_build(s, "HEAD", full_key, "", NULL, real_ns, ret);
}

/* RFC 9110's IMF-fixdate. */
static const char *call_http_date(int64_t ns, char buf[40])
{
    time_t t = (time_t)(ns / (int64_t)TARN_NS_PER_S);
    struct tm tm;

    if (!gmtime_r(&t, &tm) || strftime(buf, 40, "%a, %d %b %Y %H:%M:%S GMT", &tm) == 0)
        buf[0] = 0;
    return buf;
}

void tarn_s3_call_get(const struct tarn_s3_site *s, const char *full_key, uint64_t first,
                      uint64_t last, const struct tarn_ufs_version *version, int64_t real_ns,
                      struct tarn_s3_call *ret)
{
    char range[64], condition[TARN_ETAG_MAX + 3];

    TARN_ASSERT(ret->n_headers == 0 && *full_key && first <= last);
    (void)snprintf(range, sizeof(range), "bytes=%" PRIu64 "-%" PRIu64, first, last); /* fits */
    call_line(ret, "Range", range);
    if (version && *version->etag && strncmp(version->etag, "W/", 2) != 0 &&
        !strpbrk(version->etag, "\r\n")) {
        (void)snprintf(condition, sizeof(condition), "\"%s\"", version->etag); /* fits */
        call_line(ret, "If-Match", condition);
    } else if (version && !*version->etag && version->mtime_ns > 0) {
        call_line(ret, "If-Unmodified-Since", call_http_date(version->mtime_ns, condition));
    }
    call_build(s, "GET", full_key, "", range, real_ns, ret);
}

void tarn_s3_call_list(const struct tarn_s3_site *s, const struct tarn_s3_list_args *a,
                       int64_t real_ns, struct tarn_s3_call *ret)
{
    struct tarn_str query = {0};
    char max_keys[16];

    TARN_ASSERT(ret->n_headers == 0 && a->max_keys > 0);
    (void)snprintf(max_keys, sizeof(max_keys), "%u", a->max_keys); /* fits */
    if (a->token)
        tarn_s3_url_query(&query, "continuation-token", a->token);
    if (a->delimiter)
        tarn_s3_url_query(&query, "delimiter", "/");
    tarn_s3_url_query(&query, "encoding-type", "url");
    tarn_s3_url_query(&query, "list-type", "2");
    tarn_s3_url_query(&query, "max-keys", max_keys);
    tarn_s3_url_query(&query, "prefix", a->prefix);
    if (a->start_after && !a->token)
        tarn_s3_url_query(&query, "start-after", a->start_after);
    call_build(s, "GET", NULL, tarn_str_z(&query), NULL, real_ns, ret);
    tarn_str_fini(&query);
}

void tarn_s3_call_fini(struct tarn_s3_call *c)
{
    if (c->lines.p)
        tarn_wipe(c->lines.p, c->lines.len);
    tarn_str_fini(&c->lines);
    tarn_str_fini(&c->url);
    *c = (struct tarn_s3_call){0};
}
