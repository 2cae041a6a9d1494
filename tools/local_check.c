/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What `tarn local` refuses before it makes anything. Paths are compared in canonical form; of one
 * that does not exist yet, what exists of it is resolved.
 *
 * A file of ours below the mountpoint would be reached through our own mount, from threads that the
 * mount waits for: nothing would ever answer. One inside the served directory would be served, and
 * cached, and grow by that.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fuse/fuse.h"
#include "lib/base/mem.h"
#include "lib/disk/probe.h"
#include "tools/local.h"

#define FD_PREFIX "/dev/fd/" /* a mount that was made for us: it has no place */

/* ---- places -----------------------------------------------------------------------------------
 */

/* True when `path` is `dir` or below it. Both canonical. */
static bool path_inside(const char *path, const char *dir)
{
    size_t n = strlen(dir);

    return strncmp(path, dir, n) == 0 && (path[n] == 0 || path[n] == '/' || n == 1);
}

/* The canonical form of `path`, of which the end need not exist. "" when it is too long. */
static void path_settle(const char *path, char ret[PATH_MAX])
{
    TARN_AUTO_FREE char *head = tarn_xasprintf("%s%s", path[0] == '/' ? "" : "./", path);
    TARN_AUTO_FREE char *whole = tarn_xstrdup(head);
    const char *rest;
    size_t n;

    while (!realpath(head, ret)) {
        char *slash = strrchr(head, '/');

        if (!slash) { /* the working directory is gone */
            ret[0] = 0;
            return;
        }
        slash[slash == head ? 1 : 0] = 0;
        if (slash == head)
            (void)snprintf(ret, PATH_MAX, "/"); /* fits */
        if (slash == head)
            break;
    }
    rest = whole + strlen(head);
    rest += strspn(rest, "/");
    n = strlen(ret);
    if (rest[0] && n + strlen(rest) + 2 > PATH_MAX)
        ret[0] = 0;
    else if (rest[0])
        (void)snprintf(ret + n, PATH_MAX - n, "%s%s", n > 1 ? "/" : "", rest); /* fits */
}

static int check_cache_dir(struct local *l, const char *cache_dir, const char *served,
                           const char *mountpoint)
{
    char real[PATH_MAX];

    path_settle(cache_dir, real);
    if (served[0] && path_inside(real, served))
        return tarn_err_set(l->serve.err, -TARN_E_CONFIG,
                            "--cache-dir %s: lies inside the served directory %s", cache_dir,
                            served);
    if (mountpoint[0] && (path_inside(real, mountpoint) || path_inside(mountpoint, real)))
        return tarn_err_set(l->serve.err, -TARN_E_CONFIG,
                            "--cache-dir %s: lies below the mountpoint %s (or around it)",
                            cache_dir, mountpoint);
    return 0;
}

static int check_file(struct local *l, const char *flag, const char *path, const char *mountpoint)
{
    char real[PATH_MAX];

    if (!path[0] || !mountpoint[0])
        return 0;
    path_settle(path, real);
    if (!path_inside(real, mountpoint))
        return 0;
    return tarn_err_set(l->serve.err, -TARN_E_CONFIG, "%s %s: lies below the mountpoint %s", flag,
                        path, mountpoint);
}

/* The file of AWS credentials, where it may be needed; it is read again when keys change. */
static int check_aws_file(struct local *l, const char *mountpoint)
{
    const char *path = getenv("AWS_SHARED_CREDENTIALS_FILE"), *home = getenv("HOME");
    TARN_AUTO_FREE char *own = NULL;
    bool wanted = l->opts.credentials == TARN_UFS_CRED_FILE ||
                  (l->opts.credentials == TARN_UFS_CRED_AUTO && !l->opts.access_key[0] &&
                   !l->opts.key_file[0] && !getenv("AWS_ACCESS_KEY_ID"));

    if (!wanted || !tarn_starts_with(l->uri, "s3://"))
        return 0;
    if ((!path || !path[0]) && home && home[0])
        path = own = tarn_xasprintf("%s/.aws/credentials", home);
    return path ? check_file(l, "the credentials file", path, mountpoint) : 0;
}

/* Files that are written, or read more than once. */
static int check_files(struct local *l, const char *mountpoint)
{
    const struct {
        const char *flag, *path;
    } files[] = {{"--pid-file", l->serve.cli->server.pid_file},
                 {"--log-file", l->serve.cli->server.log_file},
                 {"-o key-file", l->opts.key_file},
                 {"-o secret-file", l->opts.secret_file},
                 {"-o token-file", l->opts.token_file},
                 {"-o tls-ca", l->opts.tls_ca}};
    int rc = 0;

    for (size_t i = 0; i < TARN_ARRAY_LEN(files) && rc == 0; i++)
        rc = check_file(l, files[i].flag, files[i].path, mountpoint);
    return rc < 0 ? rc : check_aws_file(l, mountpoint);
}

int local_check_places(struct local *l, const char *cache_dir)
{
    char served[PATH_MAX] = "", mountpoint[PATH_MAX] = "";
    int rc;

    if (tarn_starts_with(l->uri, "file://") && tarn_probe_realpath(l->uri + 7, served) < 0)
        served[0] = 0; /* the store's own check says what is wrong with it */
    if (!tarn_starts_with(l->mountpoint, FD_PREFIX) && !realpath(l->mountpoint, mountpoint))
        mountpoint[0] = 0;
    if (served[0] && mountpoint[0] &&
        (path_inside(mountpoint, served) || path_inside(served, mountpoint)))
        return tarn_err_set(l->serve.err, -TARN_E_MOUNTPOINT,
                            "mountpoint %s: lies inside the served directory %s (or around it)",
                            mountpoint, served);
    rc = check_cache_dir(l, cache_dir, served, mountpoint);
    return rc < 0 ? rc : check_files(l, mountpoint);
}

/* ---- all ------------------------------------------------------------------------------------- */

int local_check(struct local *l, const char *cache_dir)
{
    char real[PATH_MAX];
    int rc = serve_check_addrs(l->serve.cli, false);

    if (rc == 0 && !l->serve.cli->fuse.read_only)
        rc = tarn_err_set(l->serve.err, -TARN_E_CONFIG,
                          "--no-read-only: there is no mount that takes changes yet");
    if (rc == 0)
        rc = tarn_fuse_mountpoint_prepare(l->mountpoint, l->serve.err);
    if (rc == 0 && !tarn_starts_with(l->mountpoint, FD_PREFIX) && realpath(l->mountpoint, real))
        memcpy(l->mountpoint, real, strlen(real) + 1);
    return rc < 0 ? rc : local_check_places(l, cache_dir);
}
