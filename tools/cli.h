/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tools/cli.h — what the commands of `tarn` share: flags and configuration, the connection to a
 * running server, output. A command is a row of commands.def and a function int cmd_<noun>(struct
 * cli *c), which returns 0 or a negative code after it has set c->err; main() prints it and turns
 * it into the exit code.
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
struct cli_server {
#define TARN_PARAM TARN_CONF_FIELD
#include "tools/server_params.def"
#undef TARN_PARAM
};
struct cli_listen {
#define TARN_PARAM TARN_CONF_FIELD
#include "tools/listen_params.def"
#undef TARN_PARAM
};
struct cli_cache {
#define TARN_PARAM TARN_CONF_FIELD
#include "tools/cache_params.def"
#undef TARN_PARAM
};
struct cli_fuse {
#define TARN_PARAM TARN_CONF_FIELD
#include "tools/fuse_params.def"
#undef TARN_PARAM
};
struct cli_store {
#define TARN_PARAM TARN_CONF_FIELD
#include "tools/store_params.def"
#undef TARN_PARAM
};
/* Flags that several commands share: a command has those whose tables its spec names. */
extern const struct tarn_conf_table cli_common_table, cli_remote_table, cli_server_table,
    cli_listen_table, cli_cache_table, cli_fuse_table, cli_store_table;
/* Flags of commands, which a configuration file may set in a section of that name. */
extern const struct tarn_conf_table cli_local_table, cli_master_table, cli_worker_table,
    cli_mount_table, cli_attach_table, cli_load_table, cli_free_table, cli_ls_table, cli_cp_table,
    cli_umount_table, cli_wait_table;
/* Every table whose keys may stand in a configuration file; NULL-terminated. */
extern const struct tarn_conf_table *const cli_all_tables[];

struct cli;
struct cli_command {
    const char *name;
    const struct tarn_flags_spec *spec;
    int (*run)(struct cli *c);
    const struct tarn_conf_table *own; /* the command's own parameters, NULL: none */
    bool server;                       /* it serves: what it remarks is logged */
    bool words;                        /* it serves only without a positional */
    /* Where what the line says decides on the flags: the row that has them. NULL: this one. */
    const struct cli_command *(*as)(int argc, char **argv);
};
const struct cli_command *cli_find(const char *name);
const struct cli_command *cli_at(size_t i); /* NULL behind the last */

/* One run of the program. */
struct cli {
    const struct cli_command *cmd;
    struct tarn_flags *flags;
    struct tarn_conf *conf;
    struct cli_common common; /* shared flags; those of no table of the command are zero */
    struct cli_remote remote;
    struct cli_server server;
    struct cli_listen listen;
    struct cli_cache cache;
    struct cli_fuse fuse;
    struct cli_store store;
    void *own;               /* the command's own struct */
    const char *const *args; /* positionals */
    size_t n_args;
    int *argc; /* as main() got them: `tarn local` hides nothing there */
    char **argv;
    struct tarn_errbuf err; /* why it failed */
    bool failed_quietly;    /* the command has said already what failed */
    /* after cli_connect(): */
    struct tarn_loop *loop;
    struct tarn_client *client;
    struct cli_signals *signals; /* after cli_catch_interrupts() */
    bool terminal;               /* standard output is one */
    int exit_code;               /* when not negative: the exit code, whatever run returned */
};

/*
 * Connects to the master and opens a session. Sets c->err. Tries as long as --timeout says, but at
 * most 10 s; fails at once when nobody listens.
 */
int cli_connect(struct cli *c);
void cli_disconnect(struct cli *c);
/* Why there is no session, in words that say what to do, as c->err and as the code. */
int cli_connect_error(struct cli *c, int rc);
/*
 * One call; the answer is in req->resp until cli_call_fini. Sets c->err to "WHAT: reason".
 * `wait_ns` is how long the server may hold the call on purpose, beyond --timeout.
 */
int cli_call(struct cli *c, struct tarn_rpc_req *req, uint32_t method, const ProtobufCMessage *msg,
             const char *what);
int cli_call_waiting(struct cli *c, struct tarn_rpc_req *req, uint32_t method,
                     const ProtobufCMessage *msg, uint64_t wait_ns, const char *what);
/* Whether a flag, a variable or a file gave `key`, and not its default. */
bool cli_given(const struct cli *c, const char *key);
/* CONFIG with "--KEY: WHY" when the hidden flag `key` was given. */
int cli_refuse(struct cli *c, const char *key, const char *why);
/*
 * USAGE when the line has a flag that is none of a command which talks to a master, and none of
 * `keys` (NULL-terminated; NULL: no more). For words of commands that serve without one.
 */
int cli_only_flags(struct cli *c, const char *word, const char *const *keys);
/* The token for the masters of --master: that of --token-file, else this user's for the port; none
 * there is none. */
int cli_token(struct cli *c, struct tarn_str *ret);
/* What `tarn status` shows. The caller frees it: tarn__wire__status_response__free_unpacked(). */
int cli_status(struct cli *c, Tarn__Wire__StatusResponse **ret);
/* What a call failed of, as c->err ("WHAT: reason", unless a text is there) and as the code. */
int cli_failed(struct cli *c, int rc, const char *what);
/* A server's own text for why a call failed, which names what it is about, as c->err if there is
 * one; returns rc. */
int cli_told(struct cli *c, int rc, const char *text);
/* One metadata call. Sets c->err to "WHAT: reason". */
int cli_op(struct cli *c, struct tarn_client_op *op, const char *what);
/* Attributes of a path in normal form. */
int cli_resolve(struct cli *c, const char *path, struct tarn_attr *ret);
/*
 * Calls `fn` for each entry of a directory, in the order of the server, outside of callbacks, until
 * it returns non-zero, which is returned.
 */
typedef int cli_entry_fn(void *arg, const char *name, size_t len, const struct tarn_attr *attr);
int cli_each_entry(struct cli *c, tarn_ino_t dir, const char *what, cli_entry_fn *fn, void *arg);
/* Runs the loop for a while. */
void cli_sleep(struct cli *c, uint64_t ns);

/*
 * From now on SIGINT and SIGTERM do not end the process: they are counted, and a call under way
 * ends with -TARN_E_CANCELLED. After cli_connect().
 */
int cli_catch_interrupts(struct cli *c);
unsigned cli_interrupts(const struct cli *c);

/* A path of the name space from an argument: normal form, or UNDER_MOUNT for a path below a
 * mountpoint, with the one to type, also where the working directory is below one. */
int cli_path(struct cli *c, const char *arg, char *ret /* TARN_PATH_MAX */);
/* Prints one JSON document and takes the reference. */
void cli_json(struct json_t *doc);
/* A JSON text of bytes that need not be UTF-8: what is not becomes U+FFFD. New reference. */
struct json_t *cli_json_text(const char *z);
struct json_t *cli_json_bytes(const void *p, size_t len);
/* A number that may be unknown: null then. */
struct json_t *cli_json_count(uint64_t n, bool known);
/* Why it is; null where nothing is unknown. */
struct json_t *cli_json_reason(bool unknown, const char *reason);
/* Sets `key`, and KEY_hex too where the bytes are not UTF-8. */
void cli_json_set(struct json_t *object, const char *key, const void *p, size_t len);
/* A name that is safe on a terminal: control characters and what is not UTF-8 as \xNN. */
void cli_put_name(FILE *out, const char *name, size_t len);
/* The same, but the bytes as they are when standard output is no terminal. */
void cli_print_name(const struct cli *c, const char *name, size_t len);
/* For streams: an error once standard output does not take more. */
int cli_out_check(struct cli *c);
/* The commands, for `tarn --help` and `tarn help`. */
void cli_usage(FILE *out);

/* ---- tokens (token.c) ------------------------------------------------------------------------ */

#define CLI_TOKEN_DIRS 2u
/*
 * Where this user's token files are: /run/tarn, or below the runtime directory and below /tmp
 * (a service may run without the former). New ones go into the first. Returns how many.
 */
unsigned cli_token_dirs(struct tarn_str ret[CLI_TOKEN_DIRS]);
/* The token of this user's server at a port. ENOENT: there is none; else as cli_token_read(). */
int cli_token_find(unsigned port, struct tarn_str *ret_token, struct tarn_errbuf *err);
/* A new one: 32 random bytes in hex. */
void cli_token_new(struct tarn_str *ret_token);
/* Where this user's commands look for the token of a server at a port: PORT.token, mode 0600. */
int cli_token_place(unsigned port, const struct tarn_str *token, struct tarn_str *ret_path,
                    struct tarn_errbuf *err);
/* The token in the file `path`; one is made there when it is missing. */
int cli_token_keep(const char *path, struct tarn_str *ret_token, struct tarn_errbuf *err);
/* Text without newline. */
int cli_token_read(const char *path, struct tarn_str *ret_token, struct tarn_errbuf *err);
/* A directory of this user that nobody else may write to: DENIED, errno class. */
int cli_dir_check(const char *dir, struct tarn_errbuf *err);
/* The first of cli_token_dirs(), made when it is missing. Errors: DENIED, errno class. */
int cli_run_dir(struct tarn_str *ret, struct tarn_errbuf *err);
/* A file of ours in one step, mode 0600: never seen half written. Errors: errno class */
int cli_write_file(const char *path, const void *p, size_t len, struct tarn_errbuf *err);
/* "HOST:PORT" -> PORT; 0 when there is none. */
unsigned cli_port(const char *addr);
