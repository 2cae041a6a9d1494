/* SPDX-License-Identifier: Apache-2.0 */
/*
 * wait: returns when enough of a path is cached. The figure is that of `tarn du`: the workers' own,
 * asked again after a pause that grows with what the question costs. Where a worker is missed it is
 * what the others have, at least: enough is enough then, too little means that the wait goes on. A
 * server that is away for a while does not end the wait.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "lib/base/env.h"
#include "lib/base/mem.h"
#include "lib/base/name.h"
#include "lib/base/units.h"
#include "tools/cli.h"
#include "tools/progress.h"

#define PAUSE_NS     (250 * TARN_NS_PER_MS)
#define PAUSE_MAX_NS (10 * TARN_NS_PER_S)
#define CALL_MIN_NS  TARN_NS_PER_S
#define CALL_MAX_NS  (600 * TARN_NS_PER_S)
#define AWAY_NS      (60 * TARN_NS_PER_S) /* without an answer, when no --timeout was given */

struct cli_wait_params {
#define TARN_PARAM TARN_CONF_FIELD
#include "tools/wait_params.def"
#undef TARN_PARAM
};
#define TARN_CONF_STRUCT struct cli_wait_params
static const struct tarn_conf_param wait_rows[] = {
#define TARN_PARAM TARN_CONF_ROW
#include "tools/wait_params.def"
#undef TARN_PARAM
};
const struct tarn_conf_table cli_wait_table = TARN_CONF_TABLE("wait", "tarn wait", wait_rows);

struct waiting {
    struct cli *c;
    char path[TARN_PATH_MAX];
    uint32_t until_bp; /* parts per 10,000 */
    uint64_t begun_ns, heard_ns;
    uint64_t limit_ns; /* 0: none */
    struct progress progress;
    Tarn__Wire__DuResponse *du; /* the last; NULL: none yet */
    bool silent;                /* nobody answered since */
    char doubt[512];            /* why what is known may be too little; "": it is not */
};

static int wait_parse(struct waiting *w, const char *until)
{
    static const char cached[] = "cached>=";

    if (strncmp(until, cached, sizeof(cached) - 1) != 0 ||
        tarn_parse_percent(until + sizeof(cached) - 1, &w->until_bp) < 0)
        return tarn_err_set(&w->c->err, -TARN_E_USAGE,
                            "--until %s: must be cached>=PERCENT, like cached>=95%%", until);
    return 0;
}

static bool wait_over(const struct waiting *w)
{
    const Tarn__Wire__DuResponse *d = w->du;

    return d->complete && (double)d->cached_bytes * 10000 >= (double)d->bytes * w->until_bp;
}

/* A call may take what is left of --timeout; without one it takes what a large tree needs: whether
 * the master is there at all, its connection finds out by itself. */
static void wait_limit(struct waiting *w)
{
    uint64_t gone = tarn_now_ns() - w->begun_ns;
    uint64_t *call = &w->c->remote.timeout;

    if (!w->limit_ns)
        *call = TARN_MAX(*call, CALL_MAX_NS);
    else
        *call = gone < w->limit_ns ? TARN_MAX(w->limit_ns - gone, CALL_MIN_NS) : CALL_MIN_NS;
}

/* `rc` of the last question. */
static void wait_doubt(struct waiting *w, int rc)
{
    const char *before = w->du && w->du->partial ? w->du->reason : "";

    w->silent = rc < 0;
    if (!w->silent)
        (void)snprintf(w->doubt, sizeof(w->doubt), "%s", before); /* may be cut, as below */
    else
        (void)snprintf(w->doubt, sizeof(w->doubt), "%s%s%s", tarn_err_text(&w->c->err, rc),
                       before[0] ? "; before that, " : "", before);
}

/* 1: not yet; 0: over. */
static int wait_look(struct waiting *w)
{
    Tarn__Wire__DuRequest msg = TARN__WIRE__DU_REQUEST__INIT;
    struct progress_at at;
    struct tarn_rpc_req req;
    int rc;

    wait_limit(w);
    msg.path = tarn_wire_bytes(w->path, strlen(w->path));
    rc = cli_call(w->c, &req, TARN_RPC_du, &msg.base, w->path);
    if (rc == 0) {
        tarn__wire__du_response__free_unpacked(w->du, NULL);
        w->du = (Tarn__Wire__DuResponse *)req.resp;
        req.resp = NULL;
    }
    tarn_rpc_req_fini(&req);
    wait_doubt(w, rc);
    if (rc < 0)
        return rc;
    w->heard_ns = tarn_now_ns();
    at = (struct progress_at){.files = w->du->cached_files,
                              .files_total = w->du->files,
                              .bytes = w->du->cached_bytes,
                              .bytes_total = w->du->bytes};
    progress_show(&w->progress, &at, w->heard_ns);
    return wait_over(w) ? 0 : 1;
}

/* Whether what the last question ended with is the end of the wait. */
static bool wait_ends(const struct waiting *w, int rc)
{
    enum tarn_exit why = tarn_err_exit(rc);

    if (rc >= 0)
        return rc == 0;
    if (why != TARN_EXIT_UNREACH && why != TARN_EXIT_TIMEOUT)
        return true;
    return !w->limit_ns && tarn_now_ns() - w->heard_ns >= AWAY_NS; /* else it may pass */
}

static int wait_late(struct waiting *w, int rc)
{
    const char *known = w->silent ? "when last heard of, at least " : "at least ";
    char limit[32];

    if (!w->du)
        return rc; /* nobody ever answered */
    return tarn_err_set(&w->c->err, -TARN_E_DEADLINE,
                        "%s: %s%" PRIu64 " of %" PRIu64 " bytes cached%s after %s%s%s", w->path,
                        w->doubt[0] ? known : "", w->du->cached_bytes, w->du->bytes,
                        w->du->complete ? "" : ", and not everything below it was listed",
                        tarn_format_duration(w->limit_ns, limit), w->doubt[0] ? ": " : "",
                        w->doubt);
}

static int wait_turns(struct waiting *w)
{
    uint64_t pause, asked;
    int rc;

    for (;;) {
        asked = tarn_now_ns();
        rc = wait_look(w);
        if (wait_ends(w, rc))
            return rc;
        if (w->limit_ns && tarn_now_ns() - w->begun_ns >= w->limit_ns)
            return wait_late(w, rc);
        w->c->err.text[0] = 0;
        pause = TARN_MIN(TARN_MAX(4 * (tarn_now_ns() - asked), PAUSE_NS), PAUSE_MAX_NS);
        if (w->limit_ns)
            pause = TARN_MIN(pause, w->begun_ns + w->limit_ns - tarn_now_ns() + TARN_NS_PER_MS);
        cli_sleep(w->c, pause);
        if (cli_interrupts(w->c) > 0)
            return -TARN_E_CANCELLED;
    }
}

static void wait_json(const struct waiting *w, bool reached)
{
    const Tarn__Wire__DuResponse *d = w->du;
    bool known = !w->doubt[0];
    json_t *j = json_pack("{s:I, s:o, s:b, s:b, s:I, s:o}", "bytes", (json_int_t)d->bytes,
                          "cached_bytes", cli_json_count(d->cached_bytes, known), "complete",
                          d->complete, "reached", reached, "cached_bytes_min",
                          (json_int_t)d->cached_bytes, "reason", cli_json_reason(!known, w->doubt));

    cli_json_set(j, "path", w->path, strlen(w->path));
    cli_json(j);
}

static int wait_run(struct cli *c)
{
    const struct cli_wait_params *p = c->own;
    struct waiting w = {.c = c};
    int rc = cli_path(c, c->args[0], w.path);

    if (rc == 0)
        rc = wait_parse(&w, p->until);
    if (rc == 0)
        rc = cli_connect(c);
    if (rc == 0)
        rc = cli_catch_interrupts(c);
    if (rc < 0)
        return rc;
    if (strcmp(tarn_conf_source(c->conf, "timeout"), "default") != 0)
        w.limit_ns = c->remote.timeout;
    w.begun_ns = w.heard_ns = tarn_now_ns();
    progress_init(&w.progress, "wait", c->common.quiet || c->common.json, w.begun_ns);
    rc = wait_turns(&w);
    progress_clear(&w.progress);
    if (c->common.json && w.du)
        wait_json(&w, rc == 0);
    tarn__wire__du_response__free_unpacked(w.du, NULL);
    return rc;
}

static const struct tarn_conf_table *const wait_tables[] = {&cli_wait_table, &cli_remote_table,
                                                            &cli_common_table, NULL};
static const struct tarn_flags_spec wait_spec = {
    .command = "tarn wait",
    .args = "PATH",
    .summary = "Return when enough of a path is cached.",
    .text =
        "Waits as long as it takes, or as long as --timeout says (exit code 4 then), also while "
        "workers\n"
        "or the master are away (without --timeout: a master for 60 s). What a worker has that "
        "does\n"
        "not answer does not count: it ends only when the others have enough. With --json,\n"
        "cached_bytes is null if a worker was missed or nobody answered any more, and\n"
        "cached_bytes_min what is known all the same.\n\n"
        "  tarn wait /imagenet --until 'cached>=95%' --timeout 2h",
    .tables = wait_tables,
    .min_args = 1,
    .max_args = 1};
const struct cli_command cmd_wait_command = {
    .name = "wait", .spec = &wait_spec, .run = wait_run, .own = &cli_wait_table};
