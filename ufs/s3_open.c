/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opening an S3 store: endpoint, region, addressing style and credentials from options, environment
 * and defaults. The store is not asked.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/mem.h"
#include "ufs/http_priv.h"
#include "ufs/s3_priv.h"
#include "ufs/ufs_priv.h"

#define S3_CONNECT_NS (10 * TARN_NS_PER_S)

static const char *s3_env(const char *option, const char *env, const char *env2)
{
    const char *v = option;

    if (!*v && (v = getenv(env)) == NULL)
        v = "";
    if (!*v && env2 && (v = getenv(env2)) == NULL)
        v = "";
    return v;
}

static bool s3_region_ok(const char *s)
{
    size_t n = strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.");

    return n && n < 64 && !s[n];
}

static bool s3_path_style(const struct tarn_ufs_opts *o, const struct tarn_s3_endpoint *e,
                          const char *bucket)
{
    if (o->path_style != TARN_UFS_PATH_AUTO)
        return o->path_style == TARN_UFS_PATH_TRUE;
    if (e->https && strchr(bucket, '.'))
        return true; /* a wildcard certificate does not cover two labels */
    return !tarn_s3_endpoint_is_aws(e);
}

static void s3_site_set(struct tarn_ufs *u, struct tarn_s3_store *s,
                        const struct tarn_s3_endpoint *e)
{
    bool path = s3_path_style(&u->opts, e, s->site.bucket);
    struct tarn_str host = {0};

    tarn_s3_endpoint_authority(e, path ? NULL : s->site.bucket, &host);
    s->site.authority = tarn_str_detach(&host);
    s->site.base = tarn_xasprintf("%s://%s", e->https ? "https" : "http", s->site.authority);
    s->site.path = path ? tarn_xasprintf("/%s", s->site.bucket) : tarn_xstrdup("");
    s->site.access_key = s->creds.access_key;
    s->site.secret_key = s->creds.secret_key;
    s->site.token = s->creds.token;
    u->where = tarn_xasprintf(" at %s:%u", e->host, (unsigned)e->port);
    u->store_id = tarn_xasprintf("%s:%u/%s", e->host, (unsigned)e->port, s->site.bucket);
    u->uri = tarn_xasprintf("s3://%s%s%s", s->site.bucket, *u->prefix ? "/" : "", u->prefix);
}

void tarn_s3_store_free(struct tarn_s3_store *s)
{
    tarn_ufs_http_free(&s->http);
    tarn_ufs_credentials_fini(&s->creds);
    free(s->site.bucket);
    free(s->site.region);
    free(s->site.base);
    free(s->site.authority);
    free(s->site.path);
    free(s);
}

static int s3_endpoint(const struct tarn_ufs_opts *o, const char *region,
                       struct tarn_s3_endpoint *ret, struct tarn_errbuf *err)
{
    const char *text = s3_env(o->endpoint, "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL");
    char *aws;
    int rc;

    if (*text)
        return tarn_s3_endpoint_parse(text, ret, err);
    aws = tarn_xasprintf("https://s3.%s.amazonaws.com%s", region,
                         tarn_starts_with(region, "cn-") ? ".cn" : "");
    rc = tarn_s3_endpoint_parse(aws, ret, err);
    free(aws);
    return rc;
}

int tarn_s3_open(struct tarn_ufs *u, const char *rest, struct tarn_errbuf *err)
{
    struct tarn_s3_store *s = tarn_xnew(struct tarn_s3_store);
    struct tarn_s3_endpoint e = {0};
    const char *region = s3_env(u->opts.region, "AWS_REGION", "AWS_DEFAULT_REGION");
    int rc;

    if (!*region)
        region = "us-east-1";
    rc = s3_region_ok(region)
             ? 0
             : tarn_err_set(err, -TARN_E_CONFIG, "region: \"%.64s\" is not a region", region);
    if (rc == 0)
        rc = s3_endpoint(&u->opts, region, &e, err);
    if (rc == 0)
        rc = tarn_s3_uri_parse(rest, &s->site.bucket, &u->prefix, err);
    if (rc == 0)
        rc = tarn_ufs_credentials_find(&u->opts, err, &s->creds);
    if (rc == 0)
        rc = tarn_ufs_http_new(
            &(struct tarn_ufs_http_args){.loop = u->loop,
                                         .max_connections = (unsigned)u->opts.max_connections,
                                         .connect_ns = TARN_MIN(u->opts.timeout, S3_CONNECT_NS),
                                         .tls_ca = u->opts.tls_ca,
                                         .tls_verify = u->opts.tls_verify,
                                         .proxy = u->opts.proxy,
                                         .max_rate = u->opts.max_bandwidth},
            err, &s->http);
    if (rc < 0) {
        tarn_s3_store_free(s);
        return rc;
    }
    s->site.region = tarn_xstrdup(region);
    s->creds_ns = tarn_loop_now_ns(u->loop);
    s3_site_set(u, s, &e);
    u->store = s;
    return 0;
}
