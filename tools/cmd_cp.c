/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cp, get: from the name space to local files. A file is written under a temporary name in its
 * directory, synced, and takes its name only when it is complete: whoever looks sees the old file
 * or the whole new one. Local directories are walked by descriptors and without following symlinks,
 * so that names of a store cannot lead anywhere else.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"
#include "lib/base/mem.h"
#include "lib/base/name.h"
#include "lib/base/units.h"
#include "tools/cli.h"
#include "tools/progress.h"
#include "tools/stream.h"

#define LOCAL_PREFIX "file:"

struct cli_cp {
#define TARN_PARAM TARN_CONF_FIELD
#include "tools/cp_params.def"
#undef TARN_PARAM
};
#define TARN_CONF_STRUCT struct cli_cp
static const struct tarn_conf_param cp_rows[] = {
#define TARN_PARAM TARN_CONF_ROW
#include "tools/cp_params.def"
#undef TARN_PARAM
};
const struct tarn_conf_table cli_cp_table = TARN_CONF_TABLE("cp", "tarn cp, tarn get", cp_rows);

/* One copy, of a file or a tree. */
struct cp {
    struct cli *c;
    struct tarn_str path; /* of the name space, what is being copied now */
    mode_t umask;         /* the process's */
    int fd;               /* that the sink writes to */
    const char *name;     /* of that file, for errors */
    struct progress progress;
    struct progress_at at;
    uint64_t dirs; /* made or found */
};

static int cp_sink(void *arg, const void *p, size_t n)
{
    struct cp *cp = arg;
    const char *at = p;

    while (n > 0) {
        ssize_t done = write(cp->fd, at, n);

        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return tarn_err_set(&cp->c->err, -errno, "write %s: %s", cp->name,
                                strerrordesc_np(errno));
        at += done;
        n -= (size_t)done;
        cp->at.bytes += (uint64_t)done;
    }
    progress_show(&cp->progress, &cp->at, tarn_now_ns());
    return 0;
}

/* A local failure: "NAME: reason". */
static int cp_local_error(struct cp *cp, const char *name, int rc)
{
    return tarn_err_set(&cp->c->err, rc, "%s: %s", name, tarn_strerror(rc));
}

static int cp_stream(struct cp *cp, const struct tarn_attr *attr, int fd, const char *name)
{
    uint64_t before = cp->at.bytes;
    int rc;

    cp->fd = fd;
    cp->name = name;
    rc = cli_stream_file(cp->c, attr, CLI_STREAM_DEPTH, tarn_str_z(&cp->path), cp_sink, cp);
    if (rc < 0)
        cp->at.bytes = before; /* part of a file is no file */
    return rc;
}

static void cp_temporary(char buf[32])
{
    (void)snprintf(buf, 32, ".tarn-%016" PRIx64, tarn_rng_u64(tarn_rng_system())); /* fits */
}

/* Copies one file to `name` in `dir_fd`. */
static int cp_file(struct cp *cp, const struct tarn_attr *attr, int dir_fd, const char *name)
{
    char tmp[32];
    int fd, rc;

    cp_temporary(tmp);
    fd = openat(dir_fd, tmp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return cp_local_error(cp, name, -errno);
    rc = cp_stream(cp, attr, fd, name);
    if (rc == 0 && fchmod(fd, attr->mode & 0777u & ~cp->umask) < 0)
        rc = cp_local_error(cp, name, -errno);
    if (rc == 0 && fsync(fd) < 0)
        rc = cp_local_error(cp, name, -errno);
    if (close(fd) < 0 && rc == 0)
        rc = cp_local_error(cp, name, -errno);
    if (rc == 0 && renameat(dir_fd, tmp, dir_fd, name) < 0)
        rc = cp_local_error(cp, name, -errno);
    if (rc < 0)
        (void)unlinkat(dir_fd, tmp, 0); /* the first error is the one to tell */
    cp->at.files += rc == 0;
    return rc;
}

static int cp_symlink(struct cp *cp, const struct tarn_attr *attr, int dir_fd, const char *name)
{
    struct tarn_client_op op = {.kind = TARN_CLIENT_READLINK, .ino = attr->ino};
    const Tarn__Wire__ReadlinkResponse *resp;
    TARN_AUTO_FREE char *target = NULL;
    char tmp[32];
    int rc = cli_op(cp->c, &op, tarn_str_z(&cp->path));

    if (rc < 0)
        return rc;
    resp = (const Tarn__Wire__ReadlinkResponse *)op.resp;
    target = tarn_xasprintf("%.*s", (int)resp->target.len, (const char *)resp->target.data);
    protobuf_c_message_free_unpacked(op.resp, NULL);
    cp_temporary(tmp);
    if (symlinkat(target, dir_fd, tmp) < 0)
        return cp_local_error(cp, name, -errno);
    if (renameat(dir_fd, tmp, dir_fd, name) == 0) {
        cp->at.files++;
        return 0;
    }
    rc = cp_local_error(cp, name, -errno);
    (void)unlinkat(dir_fd, tmp, 0); /* the first error is the one to tell */
    return rc;
}

/* ---- trees -------------------------------------------------------------------------------- */

static int cp_tree(struct cp *cp, tarn_ino_t ino, int dir_fd);

static int cp_subdir(struct cp *cp, const struct tarn_attr *attr, int dir_fd, const char *name)
{
    TARN_AUTO_FD int fd = -1;

    if (mkdirat(dir_fd, name, (attr->mode & 0777u & ~cp->umask) | 0700u) < 0 && errno != EEXIST)
        return cp_local_error(cp, name, -errno);
    fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return cp_local_error(cp, name, -errno);
    return cp_tree(cp, attr->ino, fd);
}

struct cp_level {
    struct cp *cp;
    int fd; /* the local directory */
};

/* What failed is said at once and counted; the others are still copied. */
static int cp_failed(struct cp *cp, int rc)
{
    if (rc == -TARN_E_CANCELLED || rc == -TARN_E_CONN_LOST || rc == -TARN_E_CONN_REFUSED ||
        rc == -TARN_E_SHUTDOWN || rc == -ENOSPC || rc == -EDQUOT || rc == -EROFS)
        return rc; /* the others would fail too */
    progress_clear(&cp->progress);
    (void)fputs("tarn: ", stderr); /* there is nowhere else to say it */
    cli_put_name(stderr, cp->c->err.text, strlen(cp->c->err.text));
    (void)fputc('\n', stderr);
    cp->c->err.text[0] = 0;
    cp->at.failed++;
    return 0;
}

static int cp_entry(void *arg, const char *name, size_t len, const struct tarn_attr *attr)
{
    struct cp_level *l = arg;
    struct cp *cp = l->cp;
    size_t path_len = cp->path.len;
    char z[TARN_NAME_MAX + 1];
    int rc;

    if (!tarn_name_ok(name, len))
        return -TARN_E_MSG_BAD;
    if (cli_interrupts(cp->c) > 0)
        return -TARN_E_CANCELLED;
    memcpy(z, name, len);
    z[len] = 0;
    if (path_len > 1)
        tarn_str_addc(&cp->path, '/');
    tarn_str_add(&cp->path, name, len);
    if (attr->type == TARN_TYPE_DIR)
        rc = cp_subdir(cp, attr, l->fd, z);
    else if (attr->type == TARN_TYPE_SYMLINK)
        rc = cp_symlink(cp, attr, l->fd, z);
    else
        rc = cp_file(cp, attr, l->fd, z);
    if (rc < 0)
        rc = cp_failed(cp, rc);
    cp->path.len = path_len;
    cp->path.p[path_len] = 0;
    return rc;
}

static int cp_tree(struct cp *cp, tarn_ino_t ino, int dir_fd)
{
    struct cp_level l = {.cp = cp, .fd = dir_fd};
    int rc = cli_each_entry(cp->c, ino, tarn_str_z(&cp->path), cp_entry, &l);

    cp->dirs++;
    if (rc == 0 && fsync(dir_fd) < 0)
        rc = cp_local_error(cp, tarn_str_z(&cp->path), -errno);
    return rc;
}

/* ---- where to ------------------------------------------------------------------------------- */

/* The last name of a path; "" for the root. */
static const char *path_base(const char *path)
{
    return strrchr(path, '/') + 1;
}

/*
 * Splits a local path into an open directory and a name in it. A directory that exists, or a
 * trailing slash, means: `base` in it. A symlink is followed: what it points at is replaced.
 */
static int cp_open_parent(struct cp *cp, const char *local, const char *base, int *ret_fd,
                          char name[TARN_NAME_MAX + 1])
{
    char real[PATH_MAX];
    TARN_AUTO_FREE char *dir = NULL;
    const char *slash, *last;
    struct stat st;
    bool is_dir = stat(local, &st) == 0 && S_ISDIR(st.st_mode);

    if (!is_dir && lstat(local, &st) == 0 && S_ISLNK(st.st_mode) && realpath(local, real))
        local = real;
    slash = strrchr(local, '/');
    if (is_dir || (slash && !slash[1])) {
        dir = tarn_xstrdup(local);
        last = base;
    } else {
        dir = slash == local ? tarn_xstrdup("/")
              : slash        ? tarn_xasprintf("%.*s", (int)(slash - local), local)
                             : tarn_xstrdup(".");
        last = slash ? slash + 1 : local;
    }
    if (!tarn_name_ok(last, strlen(last)))
        return tarn_err_set(&cp->c->err, -TARN_E_USAGE, "%s: is not the name of a file", local);
    *ret_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (*ret_fd < 0)
        return cp_local_error(cp, dir, -errno);
    memcpy(name, last, strlen(last) + 1);
    return 0;
}

/* Devices, pipes and sockets are written to, not replaced. */
static bool cp_is_special(const char *local)
{
    struct stat st;

    return stat(local, &st) == 0 && !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode);
}

static int cp_to_special(struct cp *cp, const struct tarn_attr *attr, const char *local)
{
    TARN_AUTO_FD int fd = open(local, O_WRONLY | O_CLOEXEC);
    int rc;

    if (fd < 0)
        return cp_local_error(cp, local, -errno);
    rc = cp_stream(cp, attr, fd, local);
    cp->at.files += rc == 0;
    return rc;
}

static int cp_one(struct cp *cp, const struct tarn_attr *attr, const char *local)
{
    char name[TARN_NAME_MAX + 1];
    TARN_AUTO_FD int fd = -1;
    int rc;

    cp->at.files_total = 1;
    cp->at.bytes_total = attr->size_bytes;
    if (cp_is_special(local))
        return cp_to_special(cp, attr, local);
    rc = cp_open_parent(cp, local, path_base(tarn_str_z(&cp->path)), &fd, name);
    if (rc == 0)
        rc = cp_file(cp, attr, fd, name);
    if (rc == 0 && fsync(fd) < 0)
        rc = cp_local_error(cp, local, -errno);
    return rc;
}

static int cp_all(struct cp *cp, const struct tarn_attr *attr, const char *local)
{
    const char *base = path_base(tarn_str_z(&cp->path));
    char name[TARN_NAME_MAX + 1];
    TARN_AUTO_FD int fd = -1;
    struct stat st;
    int rc;

    if (!base[0] && stat(local, &st) == 0 && S_ISDIR(st.st_mode)) { /* the root: into it */
        fd = open(local, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        return fd < 0 ? cp_local_error(cp, local, -errno) : cp_tree(cp, attr->ino, fd);
    }
    rc = cp_open_parent(cp, local, base, &fd, name);
    return rc < 0 ? rc : cp_subdir(cp, attr, fd, name);
}

/* ---- the commands --------------------------------------------------------------------------- */

static void cp_report(struct cp *cp)
{
    char size[32], time[32];
    uint64_t ns = tarn_now_ns() - cp->progress.start_ns;

    progress_clear(&cp->progress);
    if (cp->c->common.json)
        cli_json(json_pack("{s:I, s:I, s:I, s:I}", "files", (json_int_t)cp->at.files, "dirs",
                           (json_int_t)cp->dirs, "bytes", (json_int_t)cp->at.bytes, "failed",
                           (json_int_t)cp->at.failed));
    else if (!cp->c->common.quiet)
        (void)fprintf(stderr, "%" PRIu64 " file%s, %s in %s\n", cp->at.files,
                      cp->at.files == 1 ? "" : "s", tarn_format_size(cp->at.bytes, size),
                      tarn_format_duration(ns, time)); /* only a report */
}

static int cp_dispatch(struct cp *cp, const struct tarn_attr *attr, const char *local)
{
    const struct cli_cp *p = cp->c->own;
    const char *path = tarn_str_z(&cp->path);
    bool to_stdout = strcmp(local, "-") == 0;

    if (attr->type == TARN_TYPE_DIR && !p->recursive)
        return tarn_err_set(&cp->c->err, -TARN_E_IS_DIR, "%s: is a directory (-R copies it)", path);
    if (attr->type == TARN_TYPE_DIR && to_stdout)
        return tarn_err_set(&cp->c->err, -TARN_E_USAGE, "%s: a directory does not go to \"-\"",
                            path);
    if (attr->type == TARN_TYPE_DIR)
        return cp_all(cp, attr, local);
    if (attr->type != TARN_TYPE_FILE)
        return tarn_err_set(&cp->c->err, -TARN_E_UNSUPPORTED,
                            "%s: is a symlink of the store, and those are not followed", path);
    return to_stdout ? cp_stream(cp, attr, STDOUT_FILENO, "standard output")
                     : cp_one(cp, attr, local);
}

/* `local` is a path, or "-". */
static int cp_fetch(struct cli *c, const char *path, const char *local)
{
    struct cp cp = {.c = c, .fd = -1};
    struct tarn_attr attr;
    bool to_stdout = strcmp(local, "-") == 0;
    int rc = cli_connect(c);

    if (rc == 0)
        rc = cli_resolve(c, path, &attr);
    /* To be tidied up after an interrupt; who waits for a pipe's reader has made nothing. */
    if (rc == 0 && !to_stdout && !cp_is_special(local))
        rc = cli_catch_interrupts(c);
    if (rc < 0)
        return rc;
    cp.umask = umask(0);
    (void)umask(cp.umask); /* only to learn it */
    tarn_str_adds(&cp.path, path);
    progress_init(&cp.progress, c->cmd->name, c->common.quiet || to_stdout, tarn_now_ns());
    rc = cp_dispatch(&cp, &attr, local);
    progress_clear(&cp.progress);
    if (rc == 0 && !to_stdout)
        cp_report(&cp);
    if (rc == 0 && cp.at.failed > 0)
        rc = tarn_err_set(&c->err, -TARN_E_JOB_PARTIAL,
                          "%" PRIu64 " of %" PRIu64 " entries were not copied", cp.at.failed,
                          cp.at.failed + cp.at.files);
    tarn_str_fini(&cp.path);
    return rc;
}

static const char *local_path(const char *arg)
{
    if (strcmp(arg, "-") == 0)
        return arg;
    if (!tarn_starts_with(arg, LOCAL_PREFIX))
        return NULL;
    arg += strlen(LOCAL_PREFIX);
    return tarn_starts_with(arg, "///") ? arg + 2 : arg; /* file:///a is file:/a */
}

static int cp_run(struct cli *c)
{
    const char *from = local_path(c->args[0]), *to = local_path(c->args[1]);
    char path[TARN_PATH_MAX];
    int rc;

    if (from && to)
        return tarn_err_set(&c->err, -TARN_E_USAGE, "%s: both are local; cp(1) copies those",
                            c->args[0]);
    if (!to && from)
        return tarn_err_set(&c->err, -TARN_E_READ_ONLY,
                            "%s: the name space is read-only in this version", c->args[1]);
    if (!to)
        return tarn_err_set(&c->err, -TARN_E_READ_ONLY,
                            "%s: means the name space, which is read-only in this version; to copy "
                            "to this machine: tarn get %s %s (or tarn cp %s file:%s)",
                            c->args[1], c->args[0], c->args[1], c->args[0], c->args[1]);
    rc = cli_path(c, c->args[0], path);
    return rc < 0 ? rc : cp_fetch(c, path, to);
}

static int get_run(struct cli *c)
{
    const char *to = c->n_args > 1 ? c->args[1] : ".";
    char path[TARN_PATH_MAX];
    int rc = cli_path(c, c->args[0], path);

    if (rc < 0)
        return rc;
    return cp_fetch(c, path, local_path(to) ? local_path(to) : to);
}

static const struct tarn_conf_table *const cp_tables[] = {&cli_cp_table, &cli_remote_table,
                                                          &cli_common_table, NULL};
static const struct tarn_flags_short cp_shorts[] = {{'R', "recursive"}, {'r', "recursive"}};
static const struct tarn_flags_spec cp_spec = {
    .command = "tarn cp",
    .args = "SRC DST",
    .summary = "Copy, with local paths written file:PATH (today only out of the name space).",
    .text = "Local files are file:PATH, or - for standard output; other paths are of the name "
            "space.\n\n"
            "  tarn cp /train/labels.json file:/tmp/labels.json\n"
            "  tarn cp -R /train file:/scratch/train",
    .tables = cp_tables,
    .shorts = cp_shorts,
    .n_shorts = TARN_ARRAY_LEN(cp_shorts),
    .min_args = 2,
    .max_args = 2};
static const struct tarn_flags_spec get_spec = {
    .command = "tarn get",
    .args = "PATH [LOCAL]",
    .summary = "Fetch a file or a directory of the name space to a local path.",
    .text = "LOCAL is a file, a directory, or - for standard output; the current directory without "
            "it.\n"
            "A file takes its name when it is complete; every byte is compared with its checksum.",
    .tables = cp_tables,
    .shorts = cp_shorts,
    .n_shorts = TARN_ARRAY_LEN(cp_shorts),
    .min_args = 1,
    .max_args = 2};
const struct cli_command cmd_cp_command = {
    .name = "cp", .spec = &cp_spec, .run = cp_run, .own = &cli_cp_table};
const struct cli_command cmd_get_command = {
    .name = "get", .spec = &get_spec, .run = get_run, .own = &cli_cp_table};
