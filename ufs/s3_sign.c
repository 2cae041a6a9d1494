/* SPDX-License-Identifier: Apache-2.0 */
/*
 * AWS Signature Version 4. Source: "Authenticating Requests (AWS Signature Version 4)" and its
 * "Signature Calculations for the Authorization Header", Amazon S3 API Reference, API version
 * 2006-03-01. Pure functions; intermediate keys are overwritten.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"
#include "lib/base/hash.h"
#include "ufs/s3_priv.h"

static const char sign_algorithm[] = "AWS4-HMAC-SHA256";

const char *tarn_s3_amz_date(int64_t real_ns, char buf[20])
{
    time_t t = (time_t)(real_ns / (int64_t)TARN_NS_PER_S);
    struct tm tm;

    TARN_ASSERT(gmtime_r(&t, &tm) != NULL);
    TARN_ASSERT(strftime(buf, 20, "%Y%m%dT%H%M%SZ", &tm) == 16);
    return buf;
}

static void sign_header_names(const struct tarn_s3_sign_args *a, struct tarn_str *out)
{
    for (size_t i = 0; i < a->n_headers; i++) {
        TARN_ASSERT(i == 0 || strcmp(a->headers[i - 1].name, a->headers[i].name) < 0);
        tarn_str_addf(out, "%s%s", i ? ";" : "", a->headers[i].name);
    }
}

/* Hash of the canonical request, in hex. */
static void sign_request_hash(const struct tarn_s3_sign_args *a, char ret_hex[65])
{
    struct tarn_str s = {0};
    uint8_t digest[32];

    tarn_str_addf(&s, "%s\n%s\n%s\n", a->method, a->path, a->query);
    for (size_t i = 0; i < a->n_headers; i++)
        tarn_str_addf(&s, "%s:%s\n", a->headers[i].name, a->headers[i].value);
    tarn_str_addc(&s, '\n');
    sign_header_names(a, &s);
    tarn_str_addf(&s, "\n%s", a->payload_sha256);
    tarn_sha256_of(s.p, s.len, digest);
    tarn_hex(digest, sizeof(digest), ret_hex);
    tarn_wipe(s.p, s.len); /* a session token is among the headers */
    tarn_str_fini(&s);
}

static void sign_key(const struct tarn_s3_sign_args *a, uint8_t ret_key[32])
{
    const char *const parts[] = {a->region, "s3", "aws4_request"};
    char *first = NULL;
    uint8_t key[32];
    size_t n;

    TARN_ASSERT(asprintf(&first, "AWS4%s", a->secret_key) >= 0);
    n = strlen(first);
    tarn_hmac_sha256(first, n, a->amz_date, 8, key);
    tarn_wipe(first, n);
    free(first);
    for (size_t i = 0; i < 3; i++)
        tarn_hmac_sha256(key, sizeof(key), parts[i], strlen(parts[i]), key);
    memcpy(ret_key, key, sizeof(key));
    tarn_wipe(key, sizeof(key));
}

void tarn_s3_sign(const struct tarn_s3_sign_args *a, struct tarn_str *ret_authorization)
{
    struct tarn_str scope = {0}, text = {0};
    char hex[65];
    uint8_t key[32], mac[32];

    TARN_ASSERT(strlen(a->amz_date) == 16);
    tarn_str_addf(&scope, "%.8s/%s/s3/aws4_request", a->amz_date, a->region);
    sign_request_hash(a, hex);
    tarn_str_addf(&text, "%s\n%s\n%s\n%s", sign_algorithm, a->amz_date, tarn_str_z(&scope), hex);
    sign_key(a, key);
    tarn_hmac_sha256(key, sizeof(key), text.p, text.len, mac);
    tarn_wipe(key, sizeof(key));
    tarn_hex(mac, sizeof(mac), hex);
    tarn_str_addf(ret_authorization, "%s Credential=%s/%s,SignedHeaders=", sign_algorithm,
                  a->access_key, tarn_str_z(&scope));
    sign_header_names(a, ret_authorization);
    tarn_str_addf(ret_authorization, ",Signature=%s", hex);
    tarn_str_fini(&scope);
    tarn_str_fini(&text);
}
