/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tokens: loopback is not a permission. A server makes a secret in a file that only its user can
 * read; that user's commands find it by the port. Others get "authentication failed".
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/env.h"
#include "lib/base/hash.h"
#include "lib/base/mem.h"
#include "lib/base/units.h"
#include "tools/cli.h"

#define TOKEN_BYTES 32

unsigned cli_token_dirs(struct tarn_str ret[CLI_TOKEN_DIRS])
{
    const char *run = getenv("XDG_RUNTIME_DIR");
    unsigned n = 0;

    if (getuid() == 0) {
        tarn_str_adds(&ret[n++], "/run/tarn");
        return n;
    }
    if (run && run[0] == '/')
        tarn_str_addf(&ret[n++], "%s/tarn", run);
    tarn_str_addf(&ret[n++], "/tmp/tarn-%u", (unsigned)getuid());
    return n;
}

unsigned cli_port(const char *addr)
{
    const char *colon = strrchr(addr, ':');
    uint64_t port = 0;

    return colon && tarn_parse_u64(colon + 1, &port) == 0 && port < 65536 ? (unsigned)port : 0;
}

/* A directory of ours that nobody else may write to: /tmp is everybody's. */
static int token_dir_check(const char *dir, struct tarn_errbuf *err)
{
    struct stat st;

    if (lstat(dir, &st) < 0)
        return tarn_err_set(err, -errno, "%s: %s", dir, strerrordesc_np(errno));
    if (!S_ISDIR(st.st_mode) || st.st_uid != getuid() || (st.st_mode & 022))
        return tarn_err_set(err, -TARN_E_DENIED,
                            "%s: must be a directory of this user that others cannot write to",
                            dir);
    return 0;
}

int cli_token_find(unsigned port, struct tarn_str *ret_token, struct tarn_errbuf *err)
{
    struct tarn_str dirs[CLI_TOKEN_DIRS] = {0}, path = {0};
    unsigned n = cli_token_dirs(dirs);
    int rc = -ENOENT;

    for (unsigned i = 0; i < n && rc == -ENOENT; i++) {
        rc = token_dir_check(tarn_str_z(&dirs[i]), err);
        tarn_str_reset(&path);
        tarn_str_addf(&path, "%s/%u.token", tarn_str_z(&dirs[i]), port);
        if (rc == 0)
            rc = cli_token_read(tarn_str_z(&path), ret_token, err);
        else if (i > 0) /* somebody else's: as good as none */
            rc = -ENOENT;
    }
    tarn_str_fini(&path);
    for (unsigned i = 0; i < n; i++)
        tarn_str_fini(&dirs[i]);
    return rc;
}

int cli_token_read(const char *path, struct tarn_str *ret_token, struct tarn_errbuf *err)
{
    char buf[512];
    TARN_AUTO_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    ssize_t n;

    if (fd < 0)
        return tarn_err_set(err, errno == ENOENT ? -ENOENT : -TARN_E_DENIED, "token file %s: %s",
                            path, strerrordesc_np(errno));
    if (fstat(fd, &st) < 0 || (st.st_mode & 077))
        return tarn_err_set(err, -TARN_E_CONFIG, "token file %s: must have mode 0600", path);
    n = read(fd, buf, sizeof(buf));
    while (n > 0 && (buf[n - 1] == '\n' || buf[n - 1] == ' '))
        n--;
    if (n < 16)
        return tarn_err_set(err, -TARN_E_CONFIG, "token file %s: needs at least 16 characters",
                            path);
    tarn_str_reset(ret_token);
    tarn_str_add(ret_token, buf, (size_t)n);
    tarn_wipe(buf, sizeof(buf));
    return 0;
}

int cli_token_make(const char *path, unsigned port, struct tarn_str *ret_token,
                   struct tarn_str *ret_path, struct tarn_errbuf *err)
{
    uint8_t raw[TOKEN_BYTES];
    char hex[2 * TOKEN_BYTES + 2];
    struct tarn_str dirs[CLI_TOKEN_DIRS] = {0};
    TARN_AUTO_FREE char *tmp = NULL;
    const char *dir;
    unsigned n;
    int fd, rc = 0;

    if (path && path[0]) {
        tarn_str_reset(ret_path);
        return cli_token_read(path, ret_token, err);
    }
    n = cli_token_dirs(dirs);
    dir = tarn_str_z(&dirs[0]);
    if (mkdir(dir, 0700) < 0 && errno != EEXIST)
        rc = tarn_err_set(err, -errno, "%s: %s", dir, strerrordesc_np(errno));
    if (rc == 0)
        rc = token_dir_check(dir, err);
    tarn_str_reset(ret_path);
    tarn_str_addf(ret_path, "%s/%u.token", dir, port);
    for (unsigned i = 0; i < n; i++)
        tarn_str_fini(&dirs[i]);
    if (rc < 0)
        return rc;
    tarn_rng_system()->fill(tarn_rng_system(), raw, sizeof(raw));
    tarn_hex(raw, sizeof(raw), hex);
    tmp = tarn_xasprintf("%s.%d", tarn_str_z(ret_path), (int)getpid());
    (void)unlink(tmp); /* of a process that had our number once */
    fd = open(tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return tarn_err_set(err, -errno, "%s: %s", tmp, strerrordesc_np(errno));
    hex[2 * TOKEN_BYTES] = '\n';
    rc = write(fd, hex, sizeof(hex) - 1) == (ssize_t)(sizeof(hex) - 1) ? 0 : -EIO;
    TARN_KEEP(rc, close(fd) < 0 ? -errno : 0);
    TARN_KEEP(rc, rename(tmp, tarn_str_z(ret_path)) < 0 ? -errno : 0);
    if (rc < 0)
        (void)unlink(tmp); /* the first error is the one to tell */
    tarn_str_reset(ret_token);
    tarn_str_add(ret_token, hex, 2 * TOKEN_BYTES);
    tarn_wipe(hex, sizeof(hex));
    return rc < 0 ? tarn_err_set(err, rc, "%s: %s", tarn_str_z(ret_path), tarn_strerror(rc)) : 0;
}
