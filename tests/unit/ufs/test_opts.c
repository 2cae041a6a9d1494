/* SPDX-License-Identifier: Apache-2.0 */
/* Options, credentials, opening stores, content ids. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "lib/base/mem.h"
#include "tests/unit/ufs/fixture.h"
#include "ufs/credentials_priv.h"
#include "ufs/ufs_opts.h"

static int clean_env(void **state)
{
    static const char *const names[] = {"AWS_ACCESS_KEY_ID",           "AWS_SECRET_ACCESS_KEY",
                                        "AWS_SESSION_TOKEN",           "AWS_PROFILE",
                                        "AWS_SHARED_CREDENTIALS_FILE", "AWS_REGION",
                                        "AWS_DEFAULT_REGION",          "AWS_ENDPOINT_URL",
                                        "AWS_ENDPOINT_URL_S3"};

    for (size_t i = 0; i < TARN_ARRAY_LEN(names); i++)
        assert_int_equal(unsetenv(names[i]), 0);
    *state = fx_tmp();
    assert_int_equal(setenv("HOME", *state, 1), 0);
    return 0;
}

static int remove_tmp(void **state)
{
    fx_tmp_fini(*state);
    return 0;
}

/* ---- options -------------------------------------------------------------------------------- */

static void check_bad(const char *text, bool trusted, int want, const char *part)
{
    const char *const texts[] = {text};
    struct tarn_ufs_opts o;
    struct tarn_conf *conf = NULL;
    struct tarn_errbuf err = {0};

    assert_int_equal(tarn_ufs_opts_parse(texts, 1, trusted, &o, &conf, &err), want);
    if (!strstr(err.text, part))
        fail_msg("\"%s\" does not say \"%s\"", err.text, part);
    assert_null(strstr(err.text, "sekrit"));
}

static void test_options(void **state)
{
    const char *const texts[] = {"endpoint=http://x:1,timeout=5s",
                                 "max-connections=7,path-style=false"};
    struct tarn_ufs_opts o, copy;
    struct tarn_conf *conf;

    (void)state;
    tarn_conf_table_check(&tarn_ufs_opts_table);
    assert_int_equal(tarn_ufs_opts_parse(texts, 2, false, &o, &conf, NULL), 0);
    tarn_ufs_opts_copy(&o, &copy);
    tarn_conf_free(&conf);
    assert_string_equal(copy.endpoint, "http://x:1");
    assert_int_equal(copy.timeout, 5000000000ULL);
    assert_int_equal(copy.max_connections, 7);
    assert_int_equal(copy.path_style, TARN_UFS_PATH_FALSE);
    assert_int_equal(copy.credentials, TARN_UFS_CRED_AUTO);
    assert_true(copy.tls_verify);
    assert_int_equal(copy.uid, TARN_UFS_OWNER_UNSET);
    assert_int_equal(tarn_ufs_opts_mode(copy.file_mode), 0644);
    tarn_ufs_opts_fini(&copy);

    check_bad("regio=x", false, -TARN_E_CONFIG, "region");
    check_bad("credentials=imds", false, -TARN_E_CONFIG, "anonymous");
    check_bad("timeout=5", false, -TARN_E_CONFIG, "timeout");
    check_bad("max-connections=0", false, -TARN_E_CONFIG, "max-connections");
    check_bad("file-mode=0888", false, -TARN_E_CONFIG, "file-mode");
    check_bad("dir-mode=7777", false, -TARN_E_CONFIG, "dir-mode");
    check_bad("secret-key=sekrit", false, -TARN_E_SECRET_ARGV, "secret-key");
    check_bad("secret-key=sekrit,secret-file=/x", true, -TARN_E_CONFIG, "secret-file");
    check_bad("access-key=a,key-file=/x", true, -TARN_E_CONFIG, "key-file");
}

/* What was in a file of another host has been sent along: only there may the two stand together. */
static void test_a_key_and_where_it_is_from(void **state)
{
    const char *const texts[] = {"key-file=/nowhere/key", "timeout=5s", "access-key=id"};
    struct tarn_ufs_opts o;
    struct tarn_conf *conf = NULL;
    struct tarn_errbuf err = {0};

    (void)state;
    assert_int_equal(tarn_ufs_opts_parse(texts, 3, true, &o, &conf, &err), 0);
    assert_string_equal(o.access_key, "id");
    assert_string_equal(o.key_file, "");
    assert_int_equal(o.timeout, 5000000000ULL);
    tarn_conf_free(&conf);
    assert_int_equal(tarn_ufs_opts_parse(texts, 2, true, &o, &conf, &err), 0);
    assert_string_equal(o.key_file, "/nowhere/key"); /* of this host */
    tarn_conf_free(&conf);
    assert_int_equal(tarn_ufs_opts_parse(texts, 3, false, &o, &conf, &err), -TARN_E_CONFIG);
}

/* ---- credentials ---------------------------------------------------------------------------- */

static int find(const char *text, struct tarn_ufs_credentials_set *c, struct tarn_errbuf *err)
{
    const char *const texts[] = {text};
    struct tarn_ufs_opts o;
    struct tarn_conf *conf;
    int rc;

    assert_int_equal(tarn_ufs_opts_parse(texts, *text ? 1 : 0, true, &o, &conf, NULL), 0);
    rc = tarn_ufs_credentials_find(&o, err, c);
    tarn_conf_free(&conf);
    return rc;
}

static void check_found(const char *opts, const char *key, const char *secret, const char *token,
                        const char *source)
{
    struct tarn_ufs_credentials_set c;
    struct tarn_errbuf err = {0};
    int rc = find(opts, &c, &err);

    if (rc < 0)
        fail_msg("%s", err.text);
    assert_string_equal(c.access_key, key);
    assert_string_equal(c.secret_key, secret);
    if (token)
        assert_string_equal(c.token, token);
    else
        assert_null(c.token);
    assert_non_null(strstr(c.source, source));
    tarn_ufs_credentials_fini(&c);
}

static void check_lost(const char *opts, int want, const char *part)
{
    struct tarn_ufs_credentials_set c;
    struct tarn_errbuf err = {0};

    assert_int_equal(find(opts, &c, &err), want);
    if (!strstr(err.text, part))
        fail_msg("\"%s\" does not say \"%s\"", err.text, part);
    assert_null(strstr(err.text, "sekrit"));
}

static void test_credentials_static(void **state)
{
    const char *dir = *state;
    char opts[1024];

    fx_write(dir, "ak", "  AKID\n", 7);
    fx_write(dir, "sk", "sekrit\r\n", 8);
    fx_write(dir, "tok", "token", 5);
    fx_write(dir, "bad", "sekrit with space\n", 18);
    fx_write(dir, "empty", "\n", 1);
    (void)snprintf(opts, sizeof(opts), "key-file=%s/ak,secret-file=%s/sk,token-file=%s/tok", dir,
                   dir, dir); /* fits */
    check_found(opts, "AKID", "sekrit", "token", "options");
    check_found("access-key=a,secret-key=b", "a", "b", NULL, "options");
    (void)snprintf(opts, sizeof(opts), "access-key=a,secret-file=%s/absent", dir); /* fits */
    check_lost(opts, -TARN_E_CONFIG, "secret-file");
    (void)snprintf(opts, sizeof(opts), "access-key=a,secret-file=%s/bad", dir); /* fits */
    check_lost(opts, -TARN_E_CONFIG, "secret-file");
    (void)snprintf(opts, sizeof(opts), "access-key=a,secret-file=%s/empty", dir); /* fits */
    check_lost(opts, -TARN_E_CONFIG, "empty");
    (void)snprintf(opts, sizeof(opts), "access-key=a,secret-file=%s", dir); /* fits */
    check_lost(opts, -TARN_E_CONFIG, "secret-file");
    check_lost("access-key=a", -TARN_E_UFS_CREDENTIALS, "secret-file");
    check_lost("secret-key=sekrit", -TARN_E_UFS_CREDENTIALS, "key-file");
    check_lost("credentials=static", -TARN_E_UFS_CREDENTIALS, "key-file");
}

static void test_credentials_env_and_file(void **state)
{
    static const char ini[] =
        "# comment\n[default]\naws_access_key_id = DK\naws_secret_access_key=DS\n\n"
        "[ two ]\r\naws_access_key_id=TK\r\naws_secret_access_key = TS==\r\n"
        "aws_session_token = TT\r\n[half]\naws_access_key_id=x\n";
    const char *dir = *state;
    struct tarn_ufs_credentials_set c;
    char path[512];

    check_lost("", -TARN_E_UFS_CREDENTIALS, "credentials=anonymous");
    check_lost("credentials=env", -TARN_E_UFS_CREDENTIALS, "AWS_ACCESS_KEY_ID");
    check_lost("credentials=file", -TARN_E_UFS_CREDENTIALS, "profile");
    assert_int_equal(find("credentials=anonymous", &c, NULL), 0);
    assert_null(c.access_key);
    tarn_ufs_credentials_fini(&c);

    (void)snprintf(path, sizeof(path), "%s/.aws", dir); /* fits */
    assert_int_equal(mkdir(path, 0700), 0);
    fx_write(path, "credentials", ini, sizeof(ini) - 1);
    check_found("", "DK", "DS", NULL, "[default]");
    check_found("profile=two", "TK", "TS==", "TT", "[two]");
    check_lost("profile=half", -TARN_E_UFS_CREDENTIALS, "credentials");
    assert_int_equal(setenv("AWS_PROFILE", "two", 1), 0);
    check_found("credentials=file", "TK", "TS==", "TT", "[two]");
    assert_int_equal(setenv("AWS_ACCESS_KEY_ID", "EK", 1), 0);
    check_found("", "TK", "TS==", "TT", "[two]"); /* half an environment is none */
    assert_int_equal(setenv("AWS_SECRET_ACCESS_KEY", "ES", 1), 0);
    check_found("", "EK", "ES", NULL, "environment");
    assert_int_equal(setenv("AWS_SESSION_TOKEN", "ET", 1), 0);
    check_found("", "EK", "ES", "ET", "environment");
    assert_int_equal(setenv("AWS_SECRET_ACCESS_KEY", "sekrit\r\nX-Evil: 1", 1), 0);
    check_lost("", -TARN_E_CONFIG, "AWS_SECRET_ACCESS_KEY");
}

/* ---- opening -------------------------------------------------------------------------------- */

static void check_open(const char *uri, const char *opts, const char *want_uri, const char *want_id)
{
    struct fx f;
    int rc = fx_open(&f, uri, opts);

    if (rc < 0)
        fail_msg("%s: %s", uri, f.err.text);
    assert_string_equal(tarn_ufs_uri(f.ufs), want_uri);
    assert_string_equal(tarn_ufs_store_id(f.ufs), want_id);
    fx_close(&f);
}

static void check_refused(const char *uri, const char *opts, int want, const char *part)
{
    struct fx f;

    assert_int_equal(fx_open(&f, uri, opts), want);
    if (!strstr(f.err.text, part))
        fail_msg("\"%s\" does not say \"%s\"", f.err.text, part);
    assert_null(strstr(f.err.text, "sekrit"));
}

static void test_open(void **state)
{
    char *uri = tarn_xasprintf("file://%s//./", (char *)*state),
         *want = tarn_xasprintf("file://%s", (char *)*state);

    check_open("s3://bkt/p", "credentials=anonymous", "s3://bkt/p/",
               "s3.us-east-1.amazonaws.com:443/bkt");
    check_open("s3://bkt", "credentials=anonymous,region=cn-north-1", "s3://bkt",
               "s3.cn-north-1.amazonaws.com.cn:443/bkt");
    check_open("s3://bkt", "credentials=anonymous,endpoint=http://H:81", "s3://bkt", "h:81/bkt");
    check_open("s3://bkt", "credentials=anonymous,endpoint=http://H:81,store-id=me", "s3://bkt",
               "me");
    assert_int_equal(setenv("AWS_REGION", "eu-west-1", 1), 0);
    check_open("s3://bkt", "credentials=anonymous", "s3://bkt",
               "s3.eu-west-1.amazonaws.com:443/bkt");
    assert_int_equal(setenv("AWS_ENDPOINT_URL", "http://e:1", 1), 0);
    check_open("s3://bkt", "credentials=anonymous", "s3://bkt", "e:1/bkt");
    assert_int_equal(setenv("AWS_ENDPOINT_URL_S3", "http://e:2", 1), 0);
    check_open("s3://bkt", "credentials=anonymous", "s3://bkt", "e:2/bkt");
    check_open(uri, "", want, want + 7);
    check_refused("s3://ak:sekrit@bkt/x", "credentials=anonymous", -TARN_E_CONFIG, "key-file");
    check_refused("s3://ak:sek/sekrit@bkt", "credentials=anonymous", -TARN_E_CONFIG, "key-file");
    check_refused("s4://ak:sekrit@bkt", "", -TARN_E_CONFIG, "s3://, file://");
    check_refused("ak:sekrit@bkt", "", -TARN_E_CONFIG, "s3://bucket/prefix");
    check_refused("s3://", "credentials=anonymous", -TARN_E_CONFIG, "bucket");
    check_refused("s3://bkt", "", -TARN_E_UFS_CREDENTIALS, "credentials");
    check_refused("s3://bkt", "credentials=anonymous,region=a b", -TARN_E_CONFIG, "region");
    check_refused("s3://bkt", "credentials=anonymous,tls-ca=/absent/ca.pem", -TARN_E_CONFIG,
                  "tls-ca");
    check_refused("ftp://bkt", "", -TARN_E_CONFIG, "s3://, file://");
    check_refused("bkt", "", -TARN_E_CONFIG, "s3://bucket/prefix");
    check_refused("file://host/x", "", -TARN_E_CONFIG, "file:///");
    check_refused("file:///a/../b", "", -TARN_E_CONFIG, "file:///");
    free(uri);
    free(want);
}

/* ---- content ids: the vectors of docs/formats/cid.md ---------------------------------------- */

static void check_cid(const char *isolation, const char *store, const char *key,
                      const struct tarn_ufs_version *v, const char *want)
{
    char text[TARN_CID_HEX];
    tarn_cid_t cid = tarn_ufs_cid(isolation, store, key, v);

    assert_string_equal(tarn_cid_text(&cid, text), want);
}

static void test_cid(void **state)
{
    struct tarn_ufs_version etag = {.size_bytes = 1048576,
                                    .etag = "9dd4e461268c8034f5c8564e155c67a6"};
    struct tarn_ufs_version file = {.size_bytes = 5,
                                    .mtime_ns = 1700000000123456789,
                                    .ctime_ns = 1700000001000000000,
                                    .file_id = 0x1122334455667788};
    struct tarn_ufs_version when = {.size_bytes = 7, .mtime_ns = 1700000000000000000};
    struct tarn_ufs_version other;

    (void)state;
    check_cid("", "s3.example.org:443/bkt", "a/b.bin", &etag, "d80f3b627c4a8439995eeda759c0df3f");
    check_cid("team", "s3.example.org:443/bkt", "a/b.bin", &etag,
              "1c39d630c2b199522b7dc5e31c9ff7e5");
    check_cid("", "/data/set", "x", &file, "71c14c3f6f82f7a82a605f8e06d661cf");
    check_cid("", "h:80/b", "k", &when, "ab6563b9fb669c1563475d053ff215f4");
    other = etag;
    other.mtime_ns =
        5; /* LIST and HEAD may round it differently: no part of a version with an ETag */
    check_cid("", "s3.example.org:443/bkt", "a/b.bin", &other, "d80f3b627c4a8439995eeda759c0df3f");

    assert_true(tarn_ufs_version_eq(&etag, &other));
    other.size_bytes++;
    assert_false(tarn_ufs_version_eq(&etag, &other));
    other = file;
    other.ctime_ns++;
    assert_false(tarn_ufs_version_eq(&file, &other));
    assert_true(tarn_ufs_version_eq(&file, &file));
    assert_false(tarn_ufs_version_eq(&file, &when));
    other = when;
    other.etag[0] = 'e';
    assert_false(tarn_ufs_version_eq(&when, &other));
}

#define T(name) cmocka_unit_test_setup_teardown(name, clean_env, remove_tmp)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_options),
        T(test_a_key_and_where_it_is_from),
        T(test_credentials_static),
        T(test_credentials_env_and_file),
        T(test_open),
        T(test_cid),
    };

    return cmocka_run_group_tests_name("ufs options", tests, NULL, NULL);
}
