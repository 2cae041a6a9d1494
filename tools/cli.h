/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tools/cli.h — what the commands of `tarn` share: flags and configuration, the connection to a running server, output.
 * A command is a row of commands.def and a function int cmd_<noun>(struct cli *c), which returns 0 or a negative code after
 * it has set c->err; main() prints it and turns it into the exit code.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "lib/base/err.h"
#include "lib/base/str.h"
#include "lib/client/client.h"
#include "lib/conf/conf.h"
#include "lib/conf/flags.h"

struct json_t;

struct cli_common {
#define TARN_PARAM TARN_CONF_FIELD
#include "tools/common_params.def"
#undef TARN_PARAM
};
struct cli_remote {
#define TARN_PARAM TARN_CONF_FIELD
#include "tools/remote_params.def"
#undef TARN_PARAM
};
extern const struct tarn_conf_table cli_common_table, cli_remote_table, cli_daemon_table, cli_local_table;
/* Every table whose keys may stand in a configuration file; NULL-terminated. */
extern const struct tarn_conf_table *const cli_all_tables[];

struct cli;
struct cli_command {
    const char *name;
    const struct tarn_flags_spec *spec;
    int (*run)(struct cli *c);
    const struct tarn_conf_table *own; /* the command's own parameters, NULL: none */
    size_t own_size;                   /* bytes of its struct */
    bool remote;                       /* it talks to a running server */
};
const struct cli_command *cli_find(const char *name);
const struct cli_command *cli_at(size_t i); /* NULL behind the last */

/* One run of the program. */
struct cli {
    const struct cli_command *cmd;
    struct tarn_flags *flags;
    struct tarn_conf *conf;
    struct cli_common common;
    struct cli_remote remote;
    void *own;                         /* the command's own struct */
    const char *const *args;           /* positionals */
    size_t n_args;
    int *argc;                         /* as main() got them: `tarn local` hides nothing there */
    char **argv;
    struct tarn_errbuf err;            /* why it failed */
    bool failed_quietly;               /* the command has said already what failed */
    /* after cli_connect(): */
    struct tarn_loop *loop;
    struct tarn_client *client;
    int exit_code;                     /* when not negative: the exit code, whatever run returned */
};

/* Connects to the master and opens a session. Sets c->err. */
int cli_connect(struct cli *c);
void cli_disconnect(struct cli *c);
/* One call; the answer is in req->resp until cli_call_fini. Sets c->err to "WHAT: reason". */
int cli_call(struct cli *c, struct tarn_rpc_req *req, uint32_t method, const ProtobufCMessage *msg, const char *what);

/* A path of the name space from an argument: normal form, or UNDER_MOUNT for a path below a mountpoint, with the one to type. */
int cli_path(struct cli *c, const char *arg, char *ret /* TARN_PATH_MAX */);
/* Prints one JSON document and takes the reference. */
void cli_json(struct json_t *doc);
/* A text that is safe on a terminal: control characters escaped. */
void cli_put_name(FILE *out, const char *name, size_t len);

/* ---- tokens (token.c) --------------------------------------------------------------------------------------------------- */

/* The directory of this user's token files: /run/tarn, or below the runtime directory. */
void cli_token_dir(struct tarn_str *ret);
/* Makes PORT.token (mode 0600) with 32 random bytes in hex, or reads `path` when given. Text without newline. */
int cli_token_make(const char *path, unsigned port, struct tarn_str *ret_token, struct tarn_str *ret_path, struct tarn_errbuf *err);
int cli_token_read(const char *path, struct tarn_str *ret_token, struct tarn_errbuf *err);
/* "HOST:PORT" -> PORT; 0 when there is none. */
unsigned cli_port(const char *addr);
