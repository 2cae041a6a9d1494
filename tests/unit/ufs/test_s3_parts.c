/* SPDX-License-Identifier: Apache-2.0 */
/* Pure parts of the S3 back end: signatures, URLs, XML, pages, headers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "lib/base/env.h"
#include "lib/base/mem.h"
#include "ufs/http_priv.h"
#include "ufs/s3_priv.h"
#include "ufs/ufs_priv.h"

/* ---- signatures: the examples of "Signature Calculations for the Authorization Header", Amazon S3
 */

static void check_signature(const char *method, const char *path, const char *query,
                            const struct tarn_s3_header *headers, size_t n, const char *payload,
                            const char *names, const char *signature)
{
    struct tarn_str got = {0};
    char *want =
        tarn_xasprintf("AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/"
                       "aws4_request,SignedHeaders=%s,Signature=%s",
                       names, signature);

    tarn_s3_sign(
        &(struct tarn_s3_sign_args){.method = method,
                                    .path = path,
                                    .query = query,
                                    .headers = headers,
                                    .n_headers = n,
                                    .payload_sha256 = payload,
                                    .amz_date = "20130524T000000Z",
                                    .region = "us-east-1",
                                    .access_key = "AKIAIOSFODNN7EXAMPLE",
                                    .secret_key = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"},
        &got);
    assert_string_equal(tarn_str_z(&got), want);
    tarn_str_fini(&got);
    free(want);
}

#define HOST                                                                                       \
    {                                                                                              \
        "host", "examplebucket.s3.amazonaws.com"                                                   \
    }
#define HASH                                                                                       \
    {                                                                                              \
        "x-amz-content-sha256", TARN_S3_EMPTY_SHA256                                               \
    }
#define DATE                                                                                       \
    {                                                                                              \
        "x-amz-date", "20130524T000000Z"                                                           \
    }

static void test_sign_get_object(void **state)
{
    const struct tarn_s3_header h[] = {HOST, {"range", "bytes=0-9"}, HASH, DATE};

    (void)state;
    check_signature("GET", "/test.txt", "", h, 4, TARN_S3_EMPTY_SHA256,
                    "host;range;x-amz-content-sha256;x-amz-date",
                    "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41");
}

static void test_sign_put_object(void **state)
{
    static const char sha[] = "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072";
    const struct tarn_s3_header h[] = {{"date", "Fri, 24 May 2013 00:00:00 GMT"},
                                       HOST,
                                       {"x-amz-content-sha256", sha},
                                       DATE,
                                       {"x-amz-storage-class", "REDUCED_REDUNDANCY"}};

    (void)state;
    check_signature("PUT", "/test%24file.text", "", h, 5, sha,
                    "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class",
                    "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd");
}

static void test_sign_get_lifecycle(void **state)
{
    const struct tarn_s3_header h[] = {HOST, HASH, DATE};

    (void)state;
    check_signature("GET", "/", "lifecycle=", h, 3, TARN_S3_EMPTY_SHA256,
                    "host;x-amz-content-sha256;x-amz-date",
                    "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543");
}

static void test_sign_list_objects(void **state)
{
    const struct tarn_s3_header h[] = {HOST, HASH, DATE};

    (void)state;
    check_signature("GET", "/", "max-keys=2&prefix=J", h, 3, TARN_S3_EMPTY_SHA256,
                    "host;x-amz-content-sha256;x-amz-date",
                    "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7");
}

static void test_calls(void **state)
{
    char region[] = "us-east-1", base[] = "https://examplebucket.s3.amazonaws.com";
    char authority[] = "examplebucket.s3.amazonaws.com", path[] = "", path2[] = "/examplebucket";
    char ak[] = "AKIAIOSFODNN7EXAMPLE", sk[] = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
    struct tarn_s3_site site = {.region = region,
                                .base = base,
                                .authority = authority,
                                .path = path,
                                .access_key = ak,
                                .secret_key = sk};
    struct tarn_ufs_version v = {.size_bytes = 10, .etag = "abc"};
    int64_t when = 1369353600LL * 1000000000LL; /* 2013-05-24 */
    struct tarn_s3_call c = {0};

    (void)state;
    tarn_s3_call_get(&site, "test.txt", 0, 9, &v, when, &c);
    assert_string_equal(tarn_str_z(&c.url), "https://examplebucket.s3.amazonaws.com/test.txt");
    assert_int_equal(c.n_headers, 5);
    assert_string_equal(c.headers[0], "Range: bytes=0-9");
    assert_string_equal(c.headers[1], "If-Match: \"abc\"");
    assert_non_null(
        strstr(c.headers[4], "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"));
    tarn_s3_call_fini(&c);

    v = (struct tarn_ufs_version){.size_bytes = 10,
                                  .etag = "W/abc"}; /* a weak tag never matches If-Match */
    tarn_s3_call_get(&site, "k", 0, 9, &v, when, &c);
    assert_int_equal(c.n_headers, 4);
    tarn_s3_call_fini(&c);

    v = (struct tarn_ufs_version){.size_bytes = 10, .etag = "a\r\nx: y"}; /* no second line */
    tarn_s3_call_get(&site, "k", 0, 9, &v, when, &c);
    assert_int_equal(c.n_headers, 4);
    tarn_s3_call_fini(&c);

    v = (struct tarn_ufs_version){.size_bytes = 10, .mtime_ns = 784111777LL * 1000000000LL};
    tarn_s3_call_get(&site, "k", 0, 9, &v, when, &c);
    assert_string_equal(c.headers[1], "If-Unmodified-Since: Sun, 06 Nov 1994 08:49:37 GMT");
    tarn_s3_call_fini(&c);

    site.path = path2;
    site.access_key = NULL;
    tarn_s3_call_list(
        &site,
        &(struct tarn_s3_list_args){
            .prefix = "a b/", .delimiter = true, .max_keys = 7, .start_after = "a b/+"},
        when, &c);
    assert_string_equal(tarn_str_z(&c.url),
                        "https://examplebucket.s3.amazonaws.com/examplebucket?delimiter=%2F&"
                        "encoding-type=url&list-type=2&max-keys=7&prefix=a%20b%2F&"
                        "start-after=a%20b%2F%2B");
    assert_int_equal(c.n_headers, 0);
    tarn_s3_call_fini(&c);
}

/* ---- URLs ----------------------------------------------------------------------------------- */

static void test_url_encode(void **state)
{
    struct tarn_str s = {0};

    (void)state;
    tarn_s3_url_encode(&s, "aZ09-._~/ +%\xc3\xa9\x01", 15, true);
    assert_string_equal(s.p, "aZ09-._~/%20%2B%25%C3%A9%01");
    tarn_str_reset(&s);
    tarn_s3_url_encode(&s, "a/b", 3, false);
    assert_string_equal(s.p, "a%2Fb");
    tarn_str_fini(&s);
}

static void check_decode(const char *in, int64_t want_n, const char *want)
{
    char *copy = tarn_xstrdup(in);
    int64_t got = tarn_s3_url_decode(copy, strlen(copy));

    assert_int_equal(got, want_n);
    if (want)
        assert_memory_equal(copy, want, (size_t)want_n);
    free(copy);
}

static void test_url_decode(void **state)
{
    (void)state;
    check_decode("a+b%2Bc%20d%c3%A9", 9, "a b+c d\xc3\xa9");
    check_decode("", 0, "");
    check_decode("%00", 1, "\0");
    check_decode("%", -TARN_E_UFS_PROTO, NULL);
    check_decode("%4", -TARN_E_UFS_PROTO, NULL);
    check_decode("a%4g", -TARN_E_UFS_PROTO, NULL);
}

static void check_endpoint(const char *text, bool https, const char *host, unsigned port)
{
    struct tarn_s3_endpoint e = {0};
    struct tarn_errbuf err;

    if (!host) {
        assert_int_equal(tarn_s3_endpoint_parse(text, &e, &err), -TARN_E_CONFIG);
        assert_non_null(strstr(err.text, "endpoint"));
        return;
    }
    assert_int_equal(tarn_s3_endpoint_parse(text, &e, &err), 0);
    assert_int_equal(e.https, https);
    assert_string_equal(e.host, host);
    assert_int_equal(e.port, port);
}

static void test_endpoint(void **state)
{
    (void)state;
    check_endpoint("https://S3.Example.org", true, "s3.example.org", 443);
    check_endpoint("http://127.0.0.1:9000/", false, "127.0.0.1", 9000);
    check_endpoint("minio:9000", true, "minio", 9000);
    check_endpoint("http://[::1]:9000", false, "[::1]", 9000);
    check_endpoint("ftp://x", false, NULL, 0);
    check_endpoint("http://x/path", false, NULL, 0);
    check_endpoint("http://u:p@x", false, NULL, 0);
    check_endpoint("http://x:0", false, NULL, 0);
    check_endpoint("http://x:65536", false, NULL, 0);
    check_endpoint("http://", false, NULL, 0);
    check_endpoint("http://a b", false, NULL, 0);
    check_endpoint("http://a\r\nb", false, NULL, 0);
    check_endpoint("http://[::1", false, NULL, 0);
}

static void check_uri(const char *rest, const char *bucket, const char *prefix)
{
    char *b = NULL, *p = NULL;
    struct tarn_errbuf err = {0};
    int rc = tarn_s3_uri_parse(rest, &b, &p, &err);

    if (!bucket) {
        assert_int_equal(rc, -TARN_E_CONFIG);
        assert_null(strstr(err.text, "sekrit"));
        return;
    }
    assert_int_equal(rc, 0);
    assert_string_equal(b, bucket);
    assert_string_equal(p, prefix);
    free(b);
    free(p);
}

static void test_uri(void **state)
{
    (void)state;
    check_uri("bkt", "bkt", "");
    check_uri("bkt/", "bkt", "");
    check_uri("bkt/p", "bkt", "p/");
    check_uri("bkt/p/", "bkt", "p/");
    check_uri("bkt/p q/%41", "bkt", "p q/%41/");
    check_uri("", NULL, NULL);
    check_uri("/p", NULL, NULL);
    check_uri("ak:sekrit@bkt/p", NULL, NULL);
    check_uri("b\nkt", NULL, NULL);
}

/* ---- listings ------------------------------------------------------------------------------- */

static int parse_list(const char *xml, unsigned max, struct tarn_s3_list_xml **x)
{
    int rc = 0;

    *x = tarn_s3_list_xml_new(max);
    for (const char *p = xml; rc == 0 && *p; p++) /* byte by byte: any split must do */
        rc = tarn_s3_list_xml_feed(*x, p, 1);
    return rc == 0 ? tarn_s3_list_xml_end(*x) : rc;
}

static const char aws_list[] =
    "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
    "<ListBucketResult "
    "xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>quotes</Name><Prefix>p/</Prefix>"
    "<NextContinuationToken>1ueGcxLPRx1Tr/XYExHnhbYLgveDs2J/wm36Hy4vbOwM=</NextContinuationToken>"
    "<KeyCount>4</KeyCount><MaxKeys>4</MaxKeys><Delimiter>%2F</Delimiter><EncodingType>url</"
    "EncodingType>"
    "<IsTruncated>true</IsTruncated>"
    "<Contents><Key>p/</Key><LastModified>2009-10-12T17:50:30.000Z</LastModified>"
    "<ETag>&quot;d41d8cd98f00b204e9800998ecf8427e&quot;</ETag><Size>0</"
    "Size><StorageClass>STANDARD</StorageClass>"
    "</Contents><Contents><Key>p/a+b%2B</Key><LastModified>2009-10-12T17:50:30.123Z</LastModified>"
    "<ETag>&quot;fba9dede5f27731c9771645a39863328&quot;</ETag><ChecksumAlgorithm>CRC32C</"
    "ChecksumAlgorithm>"
    "<Size>434234</Size><StorageClass>STANDARD</StorageClass><Owner><ID>x</ID><DisplayName>Key</"
    "DisplayName></Owner>"
    "</Contents>"
    "<CommonPrefixes><Prefix>p/a/</Prefix></CommonPrefixes><CommonPrefixes><Prefix>p/b%0A/</"
    "Prefix></CommonPrefixes>"
    "</ListBucketResult>";

static void test_list_aws(void **state)
{
    struct tarn_s3_list_xml *x;
    struct tarn_s3_listing r;

    (void)state;
    assert_int_equal(parse_list(aws_list, 4, &x), 0);
    tarn_s3_list_xml_result(x, &r);
    assert_int_equal(r.count, 4);
    assert_true(r.truncated);
    assert_string_equal(r.token, "1ueGcxLPRx1Tr/XYExHnhbYLgveDs2J/wm36Hy4vbOwM=");
    assert_string_equal(r.arena + r.keys[1].key_off, "p/a b+");
    assert_int_equal(r.keys[1].size_bytes, 434234);
    assert_int_equal(r.keys[1].mtime_ns, 1255369830LL * 1000000000LL);
    assert_int_equal(r.keys[1].etag_len, 32);
    assert_false(r.keys[1].prefix);
    assert_true(r.keys[2].prefix);
    assert_string_equal(r.arena + r.keys[3].key_off, "p/b\n/");
    tarn_s3_list_xml_free(&x);
}

/* Swift's s3api: single quotes, EncodingType behind the keys would do too, no KeyCount for V1. */
static void test_list_swift(void **state)
{
    static const char xml[] =
        "<?xml version='1.0' encoding='UTF-8'?>\n"
        "<ListBucketResult "
        "xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>bkt</Name><Prefix/><KeyCount>1"
        "</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>false</"
        "IsTruncated><Contents><Key>uni-%C3%A9</Key>"
        "<LastModified>2026-11-22T02:23:09.000Z</"
        "LastModified><ETag>\"c0349ff0f24664d4628a41ccb35757c9-3\"</ETag>"
        "<Size>10485860</Size><StorageClass>STANDARD</StorageClass></Contents><EncodingType>url</"
        "EncodingType>"
        "</ListBucketResult>";
    struct tarn_s3_list_xml *x;
    struct tarn_s3_listing r;

    (void)state;
    assert_int_equal(parse_list(xml, 1000, &x), 0);
    tarn_s3_list_xml_result(x, &r);
    assert_int_equal(r.count, 1);
    assert_false(r.truncated);
    assert_string_equal(r.token, "");
    assert_string_equal(r.arena + r.keys[0].key_off, "uni-\xc3\xa9");
    assert_memory_equal(r.arena + r.keys[0].etag_off, "c0349ff0f24664d4628a41ccb35757c9-3", 34);
    tarn_s3_list_xml_free(&x);
}

/* RGW: a Marker element, keys not encoded although asked, owner inside, a type nobody asked for. */
static void test_list_rgw(void **state)
{
    static const char xml[] =
        "<ListBucketResult "
        "xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>bkt</Name><Prefix></Prefix>"
        "<MaxKeys>2</MaxKeys><Marker></Marker><NextContinuationToken>a%25/b</NextContinuationToken>"
        "<IsTruncated>true</IsTruncated>"
        "<CommonPrefixes><Prefix>d&amp;1/</Prefix><Prefix>e/</Prefix></CommonPrefixes>"
        "<Contents><Key>a+%41</Key><LastModified>2026-11-22T02:23:09.999Z</"
        "LastModified><ETag>&#34;e&#34;</ETag>"
        "<Size>5</Size><StorageClass>STANDARD</StorageClass><Owner><ID>t</ID><DisplayName>t</"
        "DisplayName></Owner>"
        "<Type>Normal</Type></Contents></ListBucketResult>";
    struct tarn_s3_list_xml *x;
    struct tarn_s3_listing r;

    (void)state;
    assert_int_equal(parse_list(xml, 3, &x), 0);
    tarn_s3_list_xml_result(x, &r);
    assert_int_equal(r.count, 3);
    assert_string_equal(r.arena + r.keys[0].key_off, "d&1/");
    assert_string_equal(r.arena + r.keys[1].key_off, "e/");
    assert_string_equal(r.arena + r.keys[2].key_off, "a+%41");
    assert_memory_equal(r.arena + r.keys[2].etag_off, "e", 2);
    assert_string_equal(r.token, "a%25/b");
    tarn_s3_list_xml_free(&x);
}

static void check_list_bad(const char *xml, unsigned max, int want)
{
    struct tarn_s3_list_xml *x;

    assert_int_equal(parse_list(xml, max, &x), want);
    tarn_s3_list_xml_free(&x);
}

#define L(body) "<ListBucketResult>" body "</ListBucketResult>"
#define K(key)  "<Contents><Key>" key "</Key><Size>1</Size></Contents>"

static void test_list_garbage(void **state)
{
    struct tarn_str deep = {0}, text = {0};

    (void)state;
    check_list_bad("", 9, -TARN_E_UFS_PROTO);
    check_list_bad("not xml", 9, -TARN_E_UFS_PROTO);
    check_list_bad("<html></html>", 9, -TARN_E_UFS_PROTO);
    check_list_bad("<Error><Code>NoSuchBucket</Code></Error>", 9, -TARN_E_UFS_PROTO);
    check_list_bad("<ListBucketResult><Contents>", 9, -TARN_E_UFS_PROTO);
    check_list_bad(L("") L(""), 9, -TARN_E_UFS_PROTO);
    check_list_bad(L("<Contents><Size>1</Size></Contents>"), 9, -TARN_E_UFS_PROTO);
    check_list_bad(L("<Contents><Key>a</Key></Contents>"), 9, -TARN_E_UFS_PROTO);
    check_list_bad(L("<Contents><Key>a</Key><Size>-1</Size></Contents>"), 9, -TARN_E_UFS_PROTO);
    check_list_bad(L("<Contents><Key>a</Key><Size>99999999999999999999</Size></Contents>"), 9,
                   -TARN_E_UFS_PROTO);
    check_list_bad(L("<EncodingType>url</EncodingType>" K("%4")), 9, -TARN_E_UFS_PROTO);
    check_list_bad(L(K("a") K("b") K("c")), 2, -TARN_E_UFS_LIED);
    check_list_bad("<!DOCTYPE l [<!ENTITY a \"aaaa\"><!ENTITY b \"&a;&a;\">]>" L(K("&b;")), 9,
                   -TARN_E_UFS_PROTO);
    check_list_bad("<!DOCTYPE l SYSTEM \"file:///etc/passwd\">" L(K("a")), 9, -TARN_E_UFS_PROTO);
    check_list_bad(L(K("a\x01")), 9, -TARN_E_UFS_PROTO);
    check_list_bad(L("<IsTruncated>True</IsTruncated>" K("a")), 9, -TARN_E_UFS_PROTO);
    check_list_bad(L("<IsTruncated></IsTruncated>" K("a")), 9, -TARN_E_UFS_PROTO);
    check_list_bad(L("<NextContinuationToken>t</NextContinuationToken>" K("a")), 9,
                   -TARN_E_UFS_PROTO);
    check_list_bad(L(K("a") K("b")), 2, -TARN_E_UFS_PROTO); /* full, and silent about the rest */
    for (int i = 0; i < 40; i++)
        tarn_str_adds(&deep, i ? "<x>" : "<ListBucketResult>");
    check_list_bad(deep.p, 9, -TARN_E_UFS_PROTO);
    tarn_str_adds(&text, "<ListBucketResult><Contents><Key>");
    for (int i = 0; i < 5000; i++)
        tarn_str_addc(&text, 'a');
    check_list_bad(text.p, 9, -TARN_E_UFS_PROTO);
    tarn_str_fini(&deep);
    tarn_str_fini(&text);
}

/* An ETag that no header line can hold is none. */
static void test_list_etag(void **state)
{
    static const char *const bad[] = {"a&#10;b", "a&#13;&#10;x: y", "a&#9;", "a\x7f"};
    struct tarn_s3_list_xml *x;
    struct tarn_s3_listing r;

    (void)state;
    for (size_t i = 0; i < TARN_ARRAY_LEN(bad); i++) {
        char *xml = tarn_xasprintf(
            L("<Contents><Key>k</Key><ETag>\"%s\"</ETag><Size>1</Size></Contents>"), bad[i]);

        assert_int_equal(parse_list(xml, 9, &x), 0);
        tarn_s3_list_xml_result(x, &r);
        assert_int_equal(r.count, 1);
        assert_int_equal(r.keys[0].etag_len, 0);
        tarn_s3_list_xml_free(&x);
        free(xml);
    }
}

/* ---- pages ---------------------------------------------------------------------------------- */

/* Parses `xml` and makes a page of `dir`; the entries as "name|name/|" in `out`. */
static int make_page(struct tarn_ufs_list *l, const char *dir, const char *xml,
                     struct tarn_str *out)
{
    struct tarn_s3_list_xml *x;
    struct tarn_s3_listing r;
    int rc = parse_list(xml, 1000, &x);

    assert_int_equal(rc, 0);
    tarn_s3_list_xml_result(x, &r);
    tarn_ufs_list_clear(l);
    rc = tarn_s3_page(l, dir, &r, l->token != NULL, NULL);
    tarn_str_reset(out);
    for (size_t i = 0; i < l->count; i++)
        tarn_str_addf(out, "%s%s|", l->entries[i].name,
                      l->entries[i].attr.type == TARN_UFS_DIR ? "/" : "");
    tarn_s3_list_xml_free(&x);
    return rc;
}

#define D(prefix) "<CommonPrefixes><Prefix>" prefix "</Prefix></CommonPrefixes>"

static void test_page(void **state)
{
    struct tarn_ufs_list l = {.from_key = tarn_xstrdup(""), .max_entries = 1000};
    struct tarn_str out = {0};

    (void)state;
    /* order over both lists, the directory wins, the marker is silent, bad names are counted */
    assert_int_equal(make_page(&l, "p/",
                               L(K("p/") K("p/a") K("p/a-b") K("p/b") K("p/..") K("p/z") D("p/a/")
                                     D("p//") D("p/./")),
                               &out),
                     0);
    assert_string_equal(out.p, "a-b|a/|b|z|");
    assert_int_equal(l.skipped, 3);
    assert_string_equal(l.skipped_names.p, "..\n/\n./\n");
    assert_true(l.complete);
    assert_null(l.to_key);

    /* truncated: the position is the last key, also one that is left out */
    assert_int_equal(
        make_page(
            &l, "",
            L("<IsTruncated>true</IsTruncated><NextContinuationToken>t1</NextContinuationToken>" K(
                "a") K("b") D("b//")),
            &out),
        -TARN_E_UFS_LIED);
    assert_int_equal(
        make_page(
            &l, "",
            L("<IsTruncated>true</IsTruncated><NextContinuationToken>t1</NextContinuationToken>" K(
                "a") K("b") D("b0/")),
            &out),
        0);
    assert_string_equal(out.p, "a|b|b0/|");
    assert_string_equal(l.to_key, "b0/");
    assert_string_equal(l.token, "t1");

    /* resumed behind a directory: its repetition is dropped */
    free(l.from_key);
    l.from_key = tarn_xstrdup("b0/");
    assert_int_equal(make_page(&l, "", L(K("c") D("b0/") D("d/")), &out), 0);
    assert_string_equal(out.p, "c|d/|");
    assert_true(l.complete);
    assert_null(l.token);

    /* a continuation that goes back: dropping `a-b` would hide it */
    l.token = tarn_xstrdup("t2");
    assert_int_equal(make_page(&l, "", L(K("a-b") K("c")), &out), -TARN_E_UFS_LIED);
    assert_int_equal(make_page(&l, "", L(D("b0/") K("c")), &out), 0);
    assert_string_equal(out.p, "c|");
    assert_null(l.token);
    assert_int_equal(make_page(&l, "", L(K("a-b") K("c")), &out), 0); /* start-after is ignored */
    assert_string_equal(out.p, "c|");

    /* no progress */
    assert_int_equal(make_page(&l, "", L("<IsTruncated>true</IsTruncated>" K("a")), &out),
                     -TARN_E_UFS_LIED);
    /* outside of what was asked */
    assert_int_equal(make_page(&l, "p/", L(K("q/c")), &out), -TARN_E_UFS_LIED);
    assert_int_equal(make_page(&l, "", L(K("c/d")), &out), -TARN_E_UFS_LIED);
    assert_int_equal(make_page(&l, "", L(D("c")), &out), -TARN_E_UFS_LIED);
    tarn_str_fini(&out);
    tarn_ufs_list_fini(&l);
}

/* ---- errors, dates, headers ----------------------------------------------------------------- */

static void test_error_xml(void **state)
{
    static const char xml[] =
        "<?xml version=\"1.0\"?><Error><Code>SignatureDoesNotMatch</Code><Message>no\nway"
        "</Message><AWSAccessKeyId>AK</AWSAccessKeyId><StringToSign>S</StringToSign>"
        "<Region>eu-west-1</Region><Detail><Code>inner</Code></Detail></Error>";
    struct tarn_s3_error e;

    (void)state;
    tarn_s3_error_xml(xml, sizeof(xml) - 1, &e);
    assert_string_equal(e.code, "SignatureDoesNotMatch");
    assert_string_equal(e.message, "no way");
    assert_string_equal(e.region, "eu-west-1");
    tarn_s3_error_xml("<html><Code>x</Code>", 20, &e);
    assert_string_equal(e.code, "");
    tarn_s3_error_xml("", 0, &e);
    assert_string_equal(e.code, "");
    tarn_s3_error_xml("<!DOCTYPE a [<!ENTITY b \"c\">]><Error><Code>&b;</Code></Error>", 62, &e);
    assert_string_equal(e.code, "");
    assert_int_equal(tarn_s3_error_code("NoSuchBucket", 404), -TARN_E_UFS_NO_BUCKET);
    assert_int_equal(tarn_s3_error_code("", 404), -TARN_E_UFS_NOT_FOUND);
    assert_int_equal(tarn_s3_error_code("", 403), -TARN_E_UFS_DENIED);
    assert_int_equal(tarn_s3_error_code("SlowDown", 503), -TARN_E_UFS_THROTTLED);
    assert_int_equal(tarn_s3_error_code("Weird", 502), -TARN_E_UFS_SERVER);
    assert_int_equal(tarn_s3_error_code("Weird", 418), -TARN_E_UFS_PROTO);
    assert_int_equal(tarn_s3_error_code("", 304), -TARN_E_UFS_PROTO);
    assert_int_equal(tarn_err_exit(tarn_s3_error_code("InvalidAccessKeyId", 403)),
                     TARN_EXIT_DENIED);
}

static void test_dates(void **state)
{
    int64_t ns;

    (void)state;
    assert_int_equal(tarn_s3_xml_date("2009-10-12T17:50:30.000Z"), 1255369830LL * 1000000000LL);
    assert_int_equal(tarn_s3_xml_date("2009-10-12T17:50:30Z"), 1255369830LL * 1000000000LL);
    assert_int_equal(tarn_s3_xml_date("2009-13-12T17:50:30Z"), 0);
    assert_int_equal(tarn_s3_xml_date("soon"), 0);
    assert_int_equal(tarn_s3_xml_date("2609-10-12T17:50:30Z"), 0); /* does not fit nanoseconds */
    assert_false(tarn_ufs_http_date("Sun, 06 Nov 9994 08:49:37 GMT", &ns));
    assert_true(tarn_ufs_http_date("Sun, 06 Nov 1994 08:49:37 GMT", &ns));
    assert_int_equal(ns, 784111777LL * 1000000000LL);
    assert_true(tarn_ufs_http_date("Thu, 29 Feb 2024 23:59:59 GMT", &ns));
    assert_int_equal(ns, 1709251199LL * 1000000000LL);
    assert_false(tarn_ufs_http_date("Sunday, 06-Nov-94 08:49:37 GMT", &ns));
    assert_false(tarn_ufs_http_date("Sun, 06 Noo 1994 08:49:37 GMT", &ns));
    assert_false(tarn_ufs_http_date("", &ns));
}

static void head_line(struct tarn_ufs_http_head *h, const char *line)
{
    tarn_ufs_http_head_line(h, line, strlen(line));
}

static void test_head_lines(void **state)
{
    struct tarn_ufs_http_head h = {0};
    char *longest = tarn_xcalloc(1, 300);

    (void)state;
    head_line(&h, "CONTENT-LENGTH:  42 \r\n");
    assert_true(h.has_length);
    assert_int_equal(h.length_bytes, 42);
    head_line(&h, "Content-Length: 42, 43\r\n");
    assert_false(h.has_length);
    head_line(&h, "Content-Length: 99999999999999999999999\r\n");
    assert_false(h.has_length);
    head_line(&h, "ETag: W/\"abc\"\r\n");
    assert_string_equal(h.etag, "W/abc");
    memset(longest, 'x', 299);
    memcpy(longest, "etag: ", 6);
    head_line(&h, longest);
    assert_string_equal(h.etag, "");
    head_line(&h, "Content-Range: bytes 5-9/100\r\n");
    assert_true(h.has_range && h.has_total);
    assert_int_equal(h.range_first, 5);
    assert_int_equal(h.range_last, 9);
    assert_int_equal(h.total_bytes, 100);
    h = (struct tarn_ufs_http_head){0};
    head_line(&h, "Content-Range: bytes 5-9/*\r\n");
    assert_true(h.has_range && !h.has_total);
    head_line(&h, "Content-Range: bytes 9-666\r\n"); /* takes the earlier one away */
    assert_false(h.has_range || h.has_total);
    head_line(&h, "Content-Range: bytes 9-5/100\r\n");
    head_line(&h, "Content-Range: bytes */100\r\n");
    head_line(&h, "no colon");
    head_line(&h, ":");
    assert_false(h.has_range);
    head_line(&h, "Retry-After: 3");
    assert_int_equal(h.retry_after_ns, 3 * TARN_NS_PER_S);
    free(longest);
}

static void check_fit(uint64_t off, uint64_t len, const struct tarn_ufs_http_head *h,
                      enum tarn_s3_fit want)
{
    struct tarn_ufs_get g = {.off_bytes = off, .len_bytes = len};
    const char *why;

    g.version = (struct tarn_ufs_version){.size_bytes = 100, .mtime_ns = 1000, .etag = "e"};
    assert_int_equal(tarn_s3_get_fit(&g, h, &why), want);
}

static void test_get_fit(void **state)
{
    struct tarn_ufs_http_head good = {.status = 206,
                                      .has_range = true,
                                      .range_first = 10,
                                      .range_last = 19,
                                      .has_total = true,
                                      .total_bytes = 100,
                                      .has_length = true,
                                      .length_bytes = 10,
                                      .mtime_ns = 1000,
                                      .etag = "e"},
                              h = good;

    (void)state;
    check_fit(10, 10, &h, TARN_S3_FIT_OK);
    check_fit(10, 11, &h, TARN_S3_FIT_LIED);
    h.total_bytes = 101;
    check_fit(10, 10, &h, TARN_S3_FIT_CHANGED);
    h = good;
    h.has_range = false;
    check_fit(10, 10, &h, TARN_S3_FIT_LIED);
    h = good;
    h.length_bytes = 9;
    check_fit(10, 10, &h, TARN_S3_FIT_LIED);
    h = good;
    h.etag[0] = 'f';
    check_fit(10, 10, &h, TARN_S3_FIT_ASK);
    h = good;
    h.etag[0] = 0;
    check_fit(10, 10, &h, TARN_S3_FIT_OK); /* Last-Modified still agrees */
    h.mtime_ns = 2000;
    check_fit(10, 10, &h, TARN_S3_FIT_CHANGED);
    h.mtime_ns = 0;
    check_fit(10, 10, &h, TARN_S3_FIT_LIED);
    h = (struct tarn_ufs_http_head){
        .status = 200, .has_length = true, .length_bytes = 100, .etag = "e"};
    check_fit(0, 100, &h, TARN_S3_FIT_OK);
    check_fit(10, 10, &h, TARN_S3_FIT_LIED);
    h.length_bytes = 101;
    check_fit(0, 100, &h, TARN_S3_FIT_CHANGED);
    h.status = 412;
    check_fit(0, 100, &h, TARN_S3_FIT_ASK);
    h.status = 404;
    check_fit(0, 100, &h, TARN_S3_FIT_ERROR);
}

/* A listing as large as a store sends, to see that parsing is not what listing waits for. */
static void test_list_speed(void **state)
{
    struct tarn_str xml = {0};
    uint64_t t0;
    unsigned rounds = 20;

    (void)state;
    tarn_str_adds(&xml, "<ListBucketResult><EncodingType>url</EncodingType>");
    for (int i = 0; i < 1000; i++)
        tarn_str_addf(&xml,
                      "<Contents><Key>train/images/part-%04d/%08d.jpg</"
                      "Key><LastModified>2026-11-22T01:02:03.000Z"
                      "</LastModified><ETag>&quot;d41d8cd98f00b204e9800998ecf8427e&quot;</"
                      "ETag><Size>%d</Size>"
                      "<StorageClass>STANDARD</StorageClass></Contents>",
                      1, i, i);
    tarn_str_adds(&xml, "<IsTruncated>false</IsTruncated></ListBucketResult>");
    t0 = tarn_now_ns();
    for (unsigned i = 0; i < rounds; i++) {
        struct tarn_ufs_list l = {.from_key = tarn_xstrdup(""), .max_entries = 1000};
        struct tarn_s3_list_xml *x = tarn_s3_list_xml_new(1000);
        struct tarn_s3_listing r;

        assert_int_equal(tarn_s3_list_xml_feed(x, xml.p, xml.len), 0);
        assert_int_equal(tarn_s3_list_xml_end(x), 0);
        tarn_s3_list_xml_result(x, &r);
        assert_int_equal(tarn_s3_page(&l, "train/images/part-0001/", &r, false, NULL), 0);
        assert_int_equal(l.count, 1000);
        tarn_s3_list_xml_free(&x);
        tarn_ufs_list_fini(&l);
    }
    print_message("listing: %.0f entries/s\n",
                  (double)rounds * 1000 * 1e9 / (double)(tarn_now_ns() - t0));
    tarn_str_fini(&xml);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sign_get_object),
        cmocka_unit_test(test_sign_put_object),
        cmocka_unit_test(test_sign_get_lifecycle),
        cmocka_unit_test(test_sign_list_objects),
        cmocka_unit_test(test_calls),
        cmocka_unit_test(test_url_encode),
        cmocka_unit_test(test_url_decode),
        cmocka_unit_test(test_endpoint),
        cmocka_unit_test(test_uri),
        cmocka_unit_test(test_list_aws),
        cmocka_unit_test(test_list_swift),
        cmocka_unit_test(test_list_rgw),
        cmocka_unit_test(test_list_garbage),
        cmocka_unit_test(test_list_etag),
        cmocka_unit_test(test_page),
        cmocka_unit_test(test_error_xml),
        cmocka_unit_test(test_dates),
        cmocka_unit_test(test_head_lines),
        cmocka_unit_test(test_get_fit),
        cmocka_unit_test(test_list_speed),
    };

    return cmocka_run_group_tests_name("ufs s3 parts", tests, NULL, NULL);
}
