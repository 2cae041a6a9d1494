/* SPDX-License-Identifier: Apache-2.0 */
/*
 * URLs of an S3 store: encoding of keys and queries, endpoints, attachment URIs. Pure functions.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/mem.h"
#include "lib/base/units.h"
#include "ufs/s3_priv.h"

static bool url_unreserved(char c)
{
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '.' || c == '_' || c == '~';
}

void tarn_s3_url_encode(struct tarn_str *out, const char *p, size_t n, bool keep_slash)
{
    static const char digits[] = "0123456789ABCDEF";
    char *dst;

    TARN_ASSERT(n <= SIZE_MAX / 4);
    dst = tarn_str_room(out, 3 * n);
    for (size_t i = 0; i < n; i++) {
        if (url_unreserved(p[i]) || (p[i] == '/' && keep_slash)) {
            *dst++ = p[i];
            out->len++;
        } else {
            *dst++ = '%';
            *dst++ = digits[(uint8_t)p[i] >> 4];
            *dst++ = digits[(uint8_t)p[i] & 15];
            out->len += 3;
        }
    }
    *dst = 0;
}

void tarn_s3_url_query(struct tarn_str *query, const char *name, const char *value)
{
    if (query->len)
        tarn_str_addc(query, '&');
    tarn_str_adds(query, name);
    tarn_str_addc(query, '=');
    tarn_s3_url_encode(query, value, strlen(value), false);
}

static int url_hex(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

int64_t tarn_s3_url_decode(char *p, size_t n)
{
    size_t out = 0;

    for (size_t i = 0; i < n; i++) {
        if (p[i] == '%') {
            bool whole = n - i > 2; /* both digits are inside */
            int hi = whole ? url_hex(p[i + 1]) : -1;
            int lo = whole ? url_hex(p[i + 2]) : -1;

            if (hi < 0 || lo < 0)
                return -TARN_E_UFS_PROTO;
            p[out++] = (char)(hi << 4 | lo);
            i += 2;
        } else {
            p[out++] = p[i] == '+' ? ' ' : p[i];
        }
    }
    return (int64_t)out;
}

/* ---- endpoints ------------------------------------------------------------------------------ */

static int endpoint_bad(struct tarn_errbuf *err, const char *why)
{
    return tarn_err_set(err, -TARN_E_CONFIG, "endpoint: %s (it has the form https://host:port)",
                        why);
}

static bool endpoint_host_ok(const char *host)
{
    const char *s = host;

    if (*s == '[') {
        size_t n = strspn(s + 1, "0123456789abcdefABCDEF:.");

        return n >= 2 && s[n + 1] == ']' && !s[n + 2];
    }
    for (; *s; s++)
        if (!url_unreserved(*s) || *s == '~')
            return false;
    return *host != 0 && *host != '.' && *host != '-';
}

/* Splits ":port" off `host`, in place; the port is 0 when there is none, -1 when it is none. */
static long endpoint_port(char *host)
{
    char *end = *host == '[' ? strchr(host, ']') : host, *colon = end ? strchr(end, ':') : NULL;
    uint64_t port;

    if (!colon)
        return 0;
    if (tarn_parse_u64(colon + 1, &port) < 0 || port == 0 || port > UINT16_MAX)
        return -1;
    *colon = 0;
    return (long)port;
}

int tarn_s3_endpoint_parse(const char *text, struct tarn_s3_endpoint *ret, struct tarn_errbuf *err)
{
    struct tarn_s3_endpoint e = {.https = true};
    const char *host = text, *scheme = strstr(text, "://");
    size_t n;
    long port;

    if (scheme) {
        e.https = tarn_starts_with(text, "https://");
        if (!e.https && !tarn_starts_with(text, "http://"))
            return endpoint_bad(err, "the scheme is neither http nor https");
        host = scheme + 3;
    }
    n = strcspn(host, "/?#");
    if (host[n] && strcmp(host + n, "/") != 0)
        return endpoint_bad(err, "a path behind the host is not supported");
    if (memchr(host, '@', n))
        return endpoint_bad(err, "user names and passwords do not belong here");
    if (n >= sizeof(e.host))
        return endpoint_bad(err, "the host name is too long");
    for (size_t i = 0; i < n; i++)
        e.host[i] = (char)(host[i] >= 'A' && host[i] <= 'Z' ? host[i] + 32 : host[i]);
    port = endpoint_port(e.host);
    if (port < 0)
        return endpoint_bad(err, "the port is not a number from 1 to 65535");
    if (!endpoint_host_ok(e.host))
        return endpoint_bad(err, "there is no valid host name");
    e.port = (uint16_t)(port ? port : e.https ? 443 : 80);
    *ret = e;
    return 0;
}

bool tarn_s3_endpoint_is_aws(const struct tarn_s3_endpoint *e)
{
    return tarn_ends_with(e->host, ".amazonaws.com") ||
           tarn_ends_with(e->host, ".amazonaws.com.cn");
}

void tarn_s3_endpoint_authority(const struct tarn_s3_endpoint *e, const char *bucket,
                                struct tarn_str *out)
{
    if (bucket)
        tarn_str_addf(out, "%s.", bucket);
    tarn_str_adds(out, e->host);
    if (e->port != (e->https ? 443 : 80))
        tarn_str_addf(out, ":%u", (unsigned)e->port);
}

static bool uri_bucket_ok(const char *p, size_t n)
{
    if (n < 1 || n > 255 || p[0] == '.' || p[0] == '-')
        return false;
    for (size_t i = 0; i < n; i++)
        if (!url_unreserved(p[i]) || p[i] == '~')
            return false;
    return true;
}

int tarn_s3_uri_parse(const char *rest, char **ret_bucket, char **ret_prefix,
                      struct tarn_errbuf *err)
{
    size_t n = strcspn(rest, "/"), m;

    if (!uri_bucket_ok(rest, n) && strchr(rest, '@')) /* also behind a '/' in the secret */
        return tarn_err_set(
            err, -TARN_E_CONFIG,
            "keys do not belong into a URI: use key-file and secret-file (s3://bucket/prefix)");
    if (!uri_bucket_ok(rest, n))
        return tarn_err_set(err, -TARN_E_CONFIG,
                            "s3://%.64s: no valid bucket name (s3://bucket/prefix)", rest);
    m = rest[n] ? strlen(rest + n + 1) : 0;
    if (m > TARN_KEY_MAX - 2)
        return tarn_err_set(err, -TARN_E_CONFIG, "s3://%.64s: the prefix is longer than a key",
                            rest);
    *ret_bucket = tarn_xasprintf("%.*s", (int)n, rest);
    *ret_prefix = tarn_xasprintf("%s%s", m ? rest + n + 1 : "", m && rest[n + m] != '/' ? "/" : "");
    return 0;
}
