/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Credentials: options and the files they name, AWS_* variables, the AWS credentials file. What is
 * read is checked to be printable ASCII, since it goes into header lines. Buffers are overwritten
 * before they are freed. Files are small: more than 64 KiB is refused.
 */
#include "ufs/credentials_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/assert.h"
#include "lib/base/hash.h"
#include "lib/base/mem.h"
#include "ufs/ufs_opts.h"

#define CRED_FILE_MAX (64u << 10)

static void cred_free(char **s)
{
    if (*s)
        tarn_wipe(*s, strlen(*s));
    free(*s);
    *s = NULL;
}

void tarn_ufs_credentials_fini(struct tarn_ufs_credentials_set *c)
{
    cred_free(&c->access_key);
    cred_free(&c->secret_key);
    cred_free(&c->token);
    free(c->source);
    *c = (struct tarn_ufs_credentials_set){0};
}

static bool cred_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* Cuts white space off both ends, in place; returns the start. */
static char *cred_trim(char *s)
{
    size_t n;

    while (cred_space(*s))
        s++;
    n = strlen(s);
    while (n && cred_space(s[n - 1]))
        s[--n] = 0;
    return s;
}

static bool cred_clean(const char *s)
{
    for (; *s; s++)
        if (*s <= 0x20 || *s >= 0x7f)
            return false;
    return true;
}

/* The text of a small file, NUL-terminated, in memory that the caller wipes and frees. */
static int cred_read(const char *path, char **ret_text)
{
    TARN_AUTO_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    struct stat st;
    size_t got = 0;
    ssize_t n = 1;
    char *text;

    if (fd < 0 || fstat(fd, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode))
        return -TARN_E_INVALID;
    if (st.st_size > CRED_FILE_MAX)
        return -TARN_E_TOO_BIG;
    text = tarn_xcalloc(1, CRED_FILE_MAX + 1);
    while (got < CRED_FILE_MAX && (n = read(fd, text + got, CRED_FILE_MAX - got)) > 0)
        got += (size_t)n;
    if (n < 0) {
        int rc = -errno;

        tarn_wipe(text, got);
        free(text);
        return rc;
    }
    *ret_text = text;
    return 0;
}

/* A value given as `inline_text`, or as the file `path`, or neither (NULL). */
static int cred_value(const char *inline_text, const char *path, const char *option,
                      struct tarn_errbuf *err, char **ret)
{
    char *text = NULL, *value;
    int rc;

    *ret = NULL;
    if (*inline_text) {
        *ret = tarn_xstrdup(inline_text);
    } else if (*path) {
        rc = cred_read(path, &text);
        if (rc < 0)
            return tarn_err_set(err, -TARN_E_CONFIG, "%s: %s: %s", option, path, tarn_strerror(rc));
        TARN_ASSERT(text != NULL);
        value = cred_trim(text);
        if (!*value) {
            free(text);
            return tarn_err_set(err, -TARN_E_CONFIG, "%s: %s: the file is empty", option, path);
        }
        *ret = tarn_xstrdup(value);
        tarn_wipe(text, CRED_FILE_MAX);
        free(text);
    }
    if (*ret && !cred_clean(*ret)) {
        cred_free(ret);
        return tarn_err_set(err, -TARN_E_CONFIG, "%s: the value has characters that no key has",
                            option);
    }
    return 0;
}

/* 1 when found, 0 when not given. */
static int cred_static(const struct tarn_ufs_opts *o, struct tarn_errbuf *err,
                       struct tarn_ufs_credentials_set *c)
{
    int rc = cred_value(o->access_key, o->key_file, "key-file", err, &c->access_key);

    if (rc == 0)
        rc = cred_value(o->secret_key, o->secret_file, "secret-file", err, &c->secret_key);
    if (rc == 0)
        rc = cred_value(o->session_token, o->token_file, "token-file", err, &c->token);
    if (rc < 0)
        return rc;
    if (!c->access_key && !c->secret_key && !c->token)
        return 0;
    if (!c->access_key)
        return tarn_err_set(err, -TARN_E_UFS_CREDENTIALS,
                            "an access key is missing: give key-file or access-key");
    if (!c->secret_key)
        return tarn_err_set(
            err, -TARN_E_UFS_CREDENTIALS,
            "a secret key is missing: give secret-file (or secret-key in a config file)");
    c->source = tarn_xstrdup("options");
    c->reloadable = *o->key_file || *o->secret_file || *o->token_file;
    return 1;
}

static int cred_env(struct tarn_errbuf *err, struct tarn_ufs_credentials_set *c)
{
    const char *key = getenv("AWS_ACCESS_KEY_ID");
    const char *secret = getenv("AWS_SECRET_ACCESS_KEY");
    const char *token = getenv("AWS_SESSION_TOKEN");

    if (!key || !*key || !secret || !*secret)
        return 0;
    if (!cred_clean(key) || !cred_clean(secret) || (token && !cred_clean(token)))
        return tarn_err_set(
            err, -TARN_E_CONFIG,
            "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY or AWS_SESSION_TOKEN: the value has "
            "characters that no key has");
    c->access_key = tarn_xstrdup(key);
    c->secret_key = tarn_xstrdup(secret);
    c->token = token && *token ? tarn_xstrdup(token) : NULL;
    c->source = tarn_xstrdup("environment");
    return 1;
}

/* One line "name = value" of the wanted section. */
static void cred_ini_line(char *line, struct tarn_ufs_credentials_set *ret)
{
    char *eq = strchr(line, '='), *name, *value, **field = NULL;

    if (!eq)
        return;
    *eq = 0;
    name = cred_trim(line);
    value = cred_trim(eq + 1);
    if (strcmp(name, "aws_access_key_id") == 0)
        field = &ret->access_key;
    else if (strcmp(name, "aws_secret_access_key") == 0)
        field = &ret->secret_key;
    else if (strcmp(name, "aws_session_token") == 0)
        field = &ret->token;
    if (!field || !*value || !cred_clean(value))
        return;
    cred_free(field);
    *field = tarn_xstrdup(value);
}

bool tarn_ufs_credentials_ini(char *text, const char *profile, struct tarn_ufs_credentials_set *ret)
{
    bool mine = false;
    char *next;

    for (char *line = text; line; line = next) {
        size_t n;

        next = strchr(line, '\n');
        if (next)
            *next++ = 0;
        line = cred_trim(line);
        n = strlen(line);
        if (*line == '#' || *line == ';')
            continue;
        if (*line == '[' && line[n - 1] == ']') {
            line[n - 1] = 0;
            mine = strcmp(cred_trim(line + 1), profile) == 0;
        } else if (mine) {
            cred_ini_line(line, ret);
        }
    }
    return ret->access_key && ret->secret_key;
}

static int cred_file(const struct tarn_ufs_opts *o, struct tarn_errbuf *err,
                     struct tarn_ufs_credentials_set *c)
{
    const char *env = getenv("AWS_SHARED_CREDENTIALS_FILE"), *home = getenv("HOME"),
               *profile = o->profile;
    char *path = NULL, *text = NULL;
    bool found;
    int rc;

    if (!*profile)
        profile = getenv("AWS_PROFILE");
    if (!profile || !*profile)
        profile = "default";
    if (env && *env)
        path = tarn_xstrdup(env);
    else if (home && *home)
        path = tarn_xasprintf("%s/.aws/credentials", home);
    if (!path)
        return 0;
    rc = cred_read(path, &text);
    if (rc < 0) {
        if (rc != -ENOENT && rc != -ENOTDIR)
            (void)tarn_err_set(err, -TARN_E_CONFIG, "%s: %s", path,
                               tarn_strerror(rc)); /* returned below */
        free(path);
        return rc == -ENOENT || rc == -ENOTDIR ? 0 : -TARN_E_CONFIG;
    }
    found = tarn_ufs_credentials_ini(text, profile, c);
    tarn_wipe(text, CRED_FILE_MAX);
    free(text);
    if (found) {
        c->source = tarn_xasprintf("%s [%s]", path, profile);
        c->reloadable = true;
    }
    free(path);
    return found;
}

static int cred_missing(unsigned kind, struct tarn_errbuf *err)
{
    static const char *const looked[] = {
        [TARN_UFS_CRED_AUTO] =
            "no credentials in options (key-file, secret-file), in AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or in ~/.aws/credentials; credentials=anonymous goes "
            "without",
        [TARN_UFS_CRED_STATIC] = "credentials=static needs key-file and secret-file",
        [TARN_UFS_CRED_ENV] = "credentials=env needs AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        [TARN_UFS_CRED_FILE] =
            "credentials=file: no such profile, with both keys, in the AWS credentials file",
    };

    return tarn_err_set(err, -TARN_E_UFS_CREDENTIALS, "%s", looked[kind]);
}

int tarn_ufs_credentials_find(const struct tarn_ufs_opts *opts, struct tarn_errbuf *err,
                              struct tarn_ufs_credentials_set *ret)
{
    struct tarn_ufs_credentials_set c = {0};
    unsigned kind = opts->credentials;
    int rc = 0;

    if (kind == TARN_UFS_CRED_ANONYMOUS) {
        c.source = tarn_xstrdup("anonymous");
        *ret = c;
        return 0;
    }
    if (kind == TARN_UFS_CRED_AUTO || kind == TARN_UFS_CRED_STATIC)
        rc = cred_static(opts, err, &c);
    if (rc == 0 && (kind == TARN_UFS_CRED_AUTO || kind == TARN_UFS_CRED_ENV))
        rc = cred_env(err, &c);
    if (rc == 0 && (kind == TARN_UFS_CRED_AUTO || kind == TARN_UFS_CRED_FILE))
        rc = cred_file(opts, err, &c);
    if (rc == 0)
        rc = cred_missing(kind, err);
    if (rc < 0) {
        tarn_ufs_credentials_fini(&c);
        return rc;
    }
    *ret = c;
    return 0;
}
