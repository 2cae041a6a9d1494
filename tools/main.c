/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The binary `tarn`: finds the command, reads its flags, environment and configuration file, runs
 * it and turns its code into the exit code (docs/errors.md). What fails is said once, here: "tarn
 * CMD: text".
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "lib/base/assert.h"
#include "lib/base/fault.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/conf/suggest.h"
#include "tools/cli.h"

#define MAIN_TABLES_MAX 8u /* of a command */

#define CLI_COMMAND(name) extern const struct cli_command cmd_##name##_command;
#include "tools/commands.def"
#undef CLI_COMMAND

static const struct cli_command *const cli_table[] = {
#define CLI_COMMAND(name) &cmd_##name##_command,
#include "tools/commands.def"
#undef CLI_COMMAND
};

const struct cli_command *cli_find(const char *name)
{
    for (size_t i = 0; i < TARN_ARRAY_LEN(cli_table); i++)
        if (strcmp(cli_table[i]->name, name) == 0)
            return cli_table[i];
    return NULL;
}

const struct cli_command *cli_at(size_t i)
{
    return i < TARN_ARRAY_LEN(cli_table) ? cli_table[i] : NULL;
}

/*
 * A standard stream that is closed would become the number of a file of ours, and what is said
 * would go there. It stays of no use: reading and writing fail as before.
 */
static void main_hold_streams(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0 && errno == EBADF)
            (void)!open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY); /* takes that */
}

/* Secrets of a store may be in this process: no core dumps, and no other process of the user looks
 * in. */
static void main_harden(void)
{
    struct rlimit none = {0, 0};

    (void)setrlimit(RLIMIT_CORE, &none); /* where it fails the next call still holds */
    (void)prctl(PR_SET_DUMPABLE, 0);
}

static int main_fail(struct cli *c, int rc)
{
    const char *text = tarn_err_text(&c->err, rc);

    if (c->failed_quietly)
        return (int)tarn_err_exit(rc);
    if (!tarn_starts_with(text, c->cmd->spec->command)) /* the parser of the line names it itself */
        (void)fprintf(stderr, "tarn %s: ", c->cmd->name); /* there is nowhere else to say it */
    cli_put_name(stderr, text, strlen(text));             /* it may hold names of a store */
    (void)fputc('\n', stderr);
    return (int)tarn_err_exit(rc);
}

/* Where the values of a table go. */
static void *main_dst(struct cli *c, const struct tarn_conf_table *table)
{
    const struct {
        const struct tarn_conf_table *table;
        void *dst;
    } shared[] = {{&cli_common_table, &c->common}, {&cli_remote_table, &c->remote},
                  {&cli_server_table, &c->server}, {&cli_listen_table, &c->listen},
                  {&cli_cache_table, &c->cache},   {&cli_fuse_table, &c->fuse},
                  {&cli_store_table, &c->store}};

    for (size_t i = 0; i < TARN_ARRAY_LEN(shared); i++)
        if (table == shared[i].table)
            return shared[i].dst;
    TARN_ASSERT(table == c->cmd->own && !c->own);
    c->own = tarn_xcalloc(1, c->cmd->own->size);
    return c->own;
}

static int main_load(struct cli *c)
{
    struct tarn_conf_bind binds[MAIN_TABLES_MAX];
    struct tarn_conf_input in = {0};
    size_t n = 0;

    for (; c->cmd->spec->tables[n]; n++) {
        const struct tarn_conf_table *table = c->cmd->spec->tables[n];

        TARN_ASSERT(n < MAIN_TABLES_MAX);
        binds[n] = (struct tarn_conf_bind){table, main_dst(c, table), TARN_CONF_FROM_COMMAND};
    }
    in.args = tarn_flags_conf(c->flags, &in.n_args);
    in.env = (const char *const *)environ;
    in.file_key = "config";
    in.others = cli_all_tables;
    return tarn_conf_load(binds, n, &in, &c->conf, &c->err);
}

/* Commands report by themselves: what lower parts remark is for servers, unless it is asked for. */
static enum tarn_log_level main_log_level(const struct cli *c)
{
    bool asked = strcmp(tarn_conf_source(c->conf, "log-level"), "default") != 0;

    bool serves = c->cmd->server && !(c->cmd->words && c->n_args);

    return !serves && !asked ? TARN_LOG_ERROR : (enum tarn_log_level)c->common.log_level;
}

static int main_run(struct cli *c, int argc, char **argv)
{
    struct tarn_str usage = {0};
    int used = 0, rc;

    if (c->cmd->as)
        c->cmd = c->cmd->as(argc, argv);
    c->flags = tarn_flags_new();
    rc = tarn_flags_parse(c->flags, c->cmd->spec, argc, argv, &used, &c->err);
    if (rc == 0 && tarn_flags_help_wanted(c->flags)) {
        tarn_flags_usage(c->cmd->spec, &usage);
        (void)fputs(tarn_str_z(&usage), stdout);
        tarn_str_fini(&usage);
        return 0;
    }
    if (rc == 0)
        rc = main_load(c);
    if (rc == 0) {
        c->args = tarn_flags_args(c->flags, &c->n_args);
        rc = tarn_log_open(NULL, main_log_level(c), (enum tarn_log_format)c->common.log_format);
    }
    if (rc == 0)
        rc = c->cmd->run(c);
    return rc;
}

static void main_unknown(const char *name)
{
    struct tarn_suggest near = {.word = name};

    for (size_t i = 0; i < TARN_ARRAY_LEN(cli_table); i++)
        tarn_suggest_offer(&near, cli_table[i]->name);
    (void)fputs("tarn: \"", stderr);
    cli_put_name(stderr, name, strlen(name));
    (void)fprintf(stderr, "\" is not a command%s%s%s (`tarn help` lists them)\n",
                  near.best[0] ? "; did you mean `" : "", near.best, near.best[0] ? "`?" : "");
}

/* Where nobody reads standard output any more we end as other programs do, without a word. */
static void main_end_by_pipe(void)
{
    struct pollfd p = {.fd = STDOUT_FILENO, .events = POLLOUT};

    if (poll(&p, 1, 0) != 1 || !(p.revents & POLLERR))
        return;
    (void)signal(SIGPIPE, SIG_DFL); /* neither can fail */
    (void)raise(SIGPIPE);
}

int main(int argc, char **argv)
{
    struct cli c = {
        .argv = argv, .argc = &argc, .exit_code = -1, .terminal = isatty(STDOUT_FILENO)};
    const char *name = argc > 1 ? argv[1] : NULL;
    bool failed;
    int rc;

    main_hold_streams();
    main_harden();
#ifdef TARN_FAULTS
    if (getenv("TARN_FAULTS") && tarn_fault_parse(getenv("TARN_FAULTS")) < 0) {
        (void)fprintf(stderr, "tarn: TARN_FAULTS is malformed\n");
        return TARN_EXIT_USAGE;
    }
#endif
    if (!name || strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) {
        cli_usage(name ? stdout : stderr);
        return name ? TARN_EXIT_DONE : TARN_EXIT_USAGE;
    }
    if (strcmp(name, "--version") == 0)
        name = "version";
    c.cmd = cli_find(name);
    if (!c.cmd) {
        main_unknown(name);
        return TARN_EXIT_USAGE;
    }
    rc = main_run(&c, argc - 2, argv + 2);
    cli_disconnect(&c);
    tarn_conf_free(&c.conf);
    tarn_flags_free(&c.flags);
    free(c.own);
    failed = fflush(stdout) != 0 || ferror(stdout);
    if (failed || rc == -EPIPE)
        main_end_by_pipe();
    if (rc < 0)
        return main_fail(&c, rc);
    if (failed) {
        (void)fprintf(stderr, "tarn %s: standard output: write failed\n", name);
        return TARN_EXIT_FAIL;
    }
    return c.exit_code >= 0 ? c.exit_code : TARN_EXIT_DONE;
}
