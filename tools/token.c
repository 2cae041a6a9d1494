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
int cli_dir_check(const char *dir, struct tarn_errbuf *err)
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
        rc = cli_dir_check(tarn_str_z(&dirs[i]), err);
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

void cli_token_new(struct tarn_str *ret_token)
{
    uint8_t raw[TOKEN_BYTES];
    char hex[2 * TOKEN_BYTES + 1];

    tarn_rng_system()->fill(tarn_rng_system(), raw, sizeof(raw));
    tarn_hex(raw, sizeof(raw), hex);
    tarn_str_reset(ret_token);
    tarn_str_add(ret_token, hex, 2 * TOKEN_BYTES);
    tarn_wipe(raw, sizeof(raw));
    tarn_wipe(hex, sizeof(hex));
}

int cli_write_file(const char *path, const void *p, size_t len, struct tarn_errbuf *err)
{
    TARN_AUTO_FREE char *tmp = tarn_xasprintf("%s.%d", path, (int)getpid());
    int fd, rc;

    (void)unlink(tmp); /* of a process that had our number once */
    fd = open(tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return tarn_err_set(err, -errno, "%s: %s", tmp, strerrordesc_np(errno));
    rc = write(fd, p, len) == (ssize_t)len ? 0 : -EIO;
    TARN_KEEP(rc, close(fd) < 0 ? -errno : 0);
    TARN_KEEP(rc, rename(tmp, path) < 0 ? -errno : 0);
    if (rc < 0)
        (void)unlink(tmp); /* the first error is the one to tell */
    return rc < 0 ? tarn_err_set(err, rc, "%s: %s", path, tarn_strerror(rc)) : 0;
}

static int token_write(const char *path, const struct tarn_str *token, struct tarn_errbuf *err)
{
    struct tarn_str line = {0};
    int rc;

    tarn_str_add(&line, token->p, token->len);
    tarn_str_addc(&line, '\n');
    rc = cli_write_file(path, line.p, line.len, err);
    tarn_wipe(line.p, line.cap);
    tarn_str_fini(&line);
    return rc;
}

int cli_run_dir(struct tarn_str *ret, struct tarn_errbuf *err)
{
    struct tarn_str dirs[CLI_TOKEN_DIRS] = {0};
    unsigned n = cli_token_dirs(dirs);

    tarn_str_reset(ret);
    tarn_str_adds(ret, tarn_str_z(&dirs[0]));
    for (unsigned i = 0; i < n; i++)
        tarn_str_fini(&dirs[i]);
    if (mkdir(tarn_str_z(ret), 0700) < 0 && errno != EEXIST)
        return tarn_err_set(err, -errno, "%s: %s", tarn_str_z(ret), strerrordesc_np(errno));
    return cli_dir_check(tarn_str_z(ret), err);
}

int cli_token_place(unsigned port, const struct tarn_str *token, struct tarn_str *ret_path,
                    struct tarn_errbuf *err)
{
    int rc = cli_run_dir(ret_path, err);

    if (rc == 0) {
        tarn_str_addf(ret_path, "/%u.token", port);
        rc = token_write(tarn_str_z(ret_path), token, err);
    }
    if (rc < 0)
        tarn_str_reset(ret_path);
    return rc;
}

int cli_token_keep(const char *path, struct tarn_str *ret_token, struct tarn_errbuf *err)
{
    int rc = cli_token_read(path, ret_token, err);

    if (rc != -ENOENT)
        return rc;
    cli_token_new(ret_token);
    return token_write(path, ret_token, err);
}
