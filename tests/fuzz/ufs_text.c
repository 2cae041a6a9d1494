/* SPDX-License-Identifier: Apache-2.0 */
/* The small decoders of ufs/: header lines, dates, endpoints, URIs, percent-encoding, credentials
 * files. */
#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/mem.h"
#include "ufs/credentials_priv.h"
#include "ufs/http_priv.h"
#include "ufs/s3_priv.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

static void one_head(const char *s, size_t n)
{
    struct tarn_ufs_http_head h = {0};

    for (const char *end = s + n; s < end;) {
        const char *nl = memchr(s, '\n', (size_t)(end - s));
        size_t len = nl ? (size_t)(nl + 1 - s) : (size_t)(end - s);

        tarn_ufs_http_head_line(&h, s, len);
        s += len;
    }
    TARN_ASSERT(!h.has_range || h.range_first <= h.range_last);
    TARN_ASSERT(strnlen(h.etag, sizeof(h.etag)) < sizeof(h.etag));
}

/* What is encoded decodes to the same. */
static void one_url(const char *s, size_t n)
{
    struct tarn_str out = {0};

    tarn_s3_url_encode(&out, s, n, true);
    TARN_ASSERT(tarn_s3_url_decode(out.p, out.len) == (int64_t)n);
    TARN_ASSERT(memcmp(out.p, s, n) == 0);
    tarn_str_fini(&out);
}

static void one_text(const char *s)
{
    struct tarn_s3_endpoint e;
    struct tarn_ufs_credentials_set c = {0};
    char *bucket, *prefix, *copy = tarn_xstrdup(s);
    int64_t ns;

    if (tarn_s3_endpoint_parse(s, &e, NULL) == 0)
        TARN_ASSERT(e.port && *e.host && !strpbrk(e.host, "/@\r\n "));
    if (tarn_s3_uri_parse(s, &bucket, &prefix, NULL) == 0) {
        TARN_ASSERT(*bucket && !strpbrk(bucket, "/@:") && strlen(prefix) < TARN_KEY_MAX);
        TARN_ASSERT(!*prefix || prefix[strlen(prefix) - 1] == '/');
        free(bucket);
        free(prefix);
    }
    (void)tarn_ufs_http_date(s, &ns);             /* true or false, both fine */
    (void)tarn_s3_xml_date(s);                    /* 0 when malformed */
    (void)tarn_s3_url_decode(copy, strlen(copy)); /* length or an error */
    free(copy);
    copy = tarn_xstrdup(s);
    if (tarn_ufs_credentials_ini(copy, "default", &c))
        TARN_ASSERT(!strpbrk(c.access_key, " \r\n") && !strpbrk(c.secret_key, " \r\n"));
    tarn_ufs_credentials_fini(&c);
    free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    char *z;

    if (n > 4096)
        return 0;
    z = tarn_xcalloc(1, n + 1);
    memcpy(z, p, n);
    one_head(z, n);
    one_url(z, n);
    one_text(z);
    free(z);
    return 0;
}
