/* SPDX-License-Identifier: Apache-2.0 */
/* cat: files of the name space on standard output, one after the other. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/name.h"
#include "tools/cli.h"
#include "tools/stream.h"

#define CAT_ARGS_MAX 100000u

static int cat_sink(void *arg, const void *p, size_t n)
{
    struct cli *c = arg;
    const char *at = p;

    while (n > 0) {
        ssize_t done = write(STDOUT_FILENO, at, n);

        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return tarn_err_set(&c->err, -errno, "standard output: %s", strerrordesc_np(errno));
        at += done;
        n -= (size_t)done;
    }
    return 0;
}

static int cat_one(struct cli *c, const char *path)
{
    struct tarn_attr attr;
    int rc = cli_resolve(c, path, &attr);

    if (rc < 0)
        return rc;
    if (attr.type == TARN_TYPE_DIR)
        return tarn_err_set(&c->err, -TARN_E_IS_DIR, "%s: is a directory", path);
    if (attr.type != TARN_TYPE_FILE)
        return tarn_err_set(&c->err, -TARN_E_UNSUPPORTED,
                            "%s: is a symlink of the store, and those are not followed", path);
    return cli_stream_file(c, &attr, CLI_STREAM_DEPTH, path, cat_sink, c);
}

static int cat_run(struct cli *c)
{
    char path[TARN_PATH_MAX];
    int rc = 0;

    for (size_t i = 0; i < c->n_args && rc == 0; i++) /* a wrong one is said before any byte */
        rc = cli_path(c, c->args[i], path);
    if (rc == 0)
        rc = cli_connect(c);
    for (size_t i = 0; i < c->n_args && rc == 0; i++) {
        rc = cli_path(c, c->args[i], path);
        if (rc == 0)
            rc = cat_one(c, path);
    }
    return rc;
}

static const struct tarn_conf_table *const cat_tables[] = {&cli_remote_table, &cli_common_table,
                                                           NULL};
static const struct tarn_flags_spec cat_spec = {
    .command = "tarn cat",
    .args = "PATH...",
    .summary = "Write files of the name space to standard output.",
    .text = "Every byte is compared with its checksum before it is written.",
    .tables = cat_tables,
    .min_args = 1,
    .max_args = CAT_ARGS_MAX};
const struct cli_command cmd_cat_command = {.name = "cat", .spec = &cat_spec, .run = cat_run};
