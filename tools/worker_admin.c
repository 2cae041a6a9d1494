/* SPDX-License-Identifier: Apache-2.0 */
/* worker ls, drain, remove: the members of a cluster, as the master knows them. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "lib/base/env.h"
#include "lib/base/mem.h"
#include "lib/base/units.h"
#include "tools/progress.h"
#include "tools/report.h"
#include "tools/worker_server.h"

#define LOOK_NS     (500 * TARN_NS_PER_MS) /* between two looks of --wait */
#define STUCK_NS    (20 * TARN_NS_PER_S)   /* nothing was handed over */
#define STUCK_BEATS 3u /* the same: what the worker tells may be older than that */

#define U(x) ((json_int_t)(x))

/* ---- ls ---------------------------------------------------------------------------------------
 */

/* The sums of its tiers. True: one failed. */
static bool worker_room(const Tarn__Wire__WorkerStatus *w, uint64_t *ret_used, uint64_t *ret_room)
{
    bool offline = false;

    *ret_used = *ret_room = 0;
    for (size_t i = 0; i < w->n_tiers; i++) {
        *ret_used += w->tiers[i]->used;
        *ret_room += w->tiers[i]->capacity;
        offline |= w->tiers[i]->offline;
    }
    return offline;
}

static void ls_text(const Tarn__Wire__StatusResponse *st)
{
    if (st->n_workers > 0)
        (void)printf("%-20s %-22s %-16s %-9s %-9s %6s %22s %10s\n", "ID", "ADDRESS", "HOST",
                     "STATE", "ALIVE", "WEIGHT", "USED", "LEFT");
    for (size_t i = 0; i < st->n_workers; i++) {
        const Tarn__Wire__WorkerStatus *w = st->workers[i];
        uint64_t used, room;
        char a[32], b[32], both[72];

        if (worker_room(w, &used, &room))
            (void)snprintf(both, sizeof(both), "OFFLINE"); /* fits, as below */
        else
            (void)snprintf(both, sizeof(both), "%s/%s", tarn_format_size(used, a),
                           tarn_format_size(room, b));
        (void)printf("%-20" PRIu64 " ", w->id);
        cli_put_name(stdout, w->addr, strlen(w->addr)); /* what a peer told may hold anything */
        (void)printf("%*s ", (int)(strlen(w->addr) < 22 ? 22 - strlen(w->addr) : 0), "");
        cli_put_name(stdout, w->host, strlen(w->host));
        (void)printf("%*s ", (int)(strlen(w->host) < 16 ? 16 - strlen(w->host) : 0), "");
        (void)printf("%-9s %-9s %6u %22s %10s\n", report_worker_state(w),
                     !w->alive      ? "no"
                     : w->unreached ? "unreached"
                                    : "yes",
                     w->weight, both, tarn_format_size(w->left_bytes, a));
    }
}

static json_t *ls_json(const Tarn__Wire__StatusResponse *st)
{
    json_t *list = json_array();

    for (size_t i = 0; i < st->n_workers; i++) {
        const Tarn__Wire__WorkerStatus *w = st->workers[i];
        uint64_t used, room;
        bool offline = worker_room(w, &used, &room);

        (void)json_array_append_new(/* out of memory only */
                                    list,
                                    json_pack("{s:I, s:o, s:o, s:o, s:b, s:I, s:I, s:I, s:I, s:I, "
                                              "s:I, s:b, s:I, s:b, s:b}",
                                              "id", U(w->id), "addr", cli_json_text(w->addr),
                                              "host", cli_json_text(w->host), "state",
                                              cli_json_text(w->state), "alive", w->alive, "weight",
                                              U(w->weight), "used_bytes", U(used), "capacity_bytes",
                                              U(room), "left_bytes", U(w->left_bytes),
                                              "refused_bytes", U(w->refused_bytes), "refused_by",
                                              U(w->refused_by), "settled", w->settled, "heard_ms",
                                              U(w->heard_ms), "offline", offline, "unreached",
                                              w->unreached));
    }
    return list;
}

int worker_ls(struct cli *c)
{
    Tarn__Wire__StatusResponse *st;
    int rc = cli_connect(c);

    if (rc == 0)
        rc = cli_status(c, &st);
    if (rc < 0)
        return rc;
    if (c->common.json)
        cli_json(ls_json(st));
    else
        ls_text(st);
    tarn__wire__status_response__free_unpacked(st, NULL);
    return 0;
}

/* ---- drain, remove ----------------------------------------------------------------------------
 */

/* Asks; *ret_left: bytes that it still has to hand over. */
static int admin_call(struct cli *c, uint32_t method, const char *id, uint64_t *ret_id,
                      uint64_t *ret_left)
{
    const struct cli_worker *p = c->own;
    Tarn__Wire__WorkerAdmin msg = TARN__WIRE__WORKER_ADMIN__INIT;
    const Tarn__Wire__WorkerAdminResponse *resp;
    TARN_AUTO_FREE char *what = tarn_xasprintf("worker %s", id);
    struct tarn_rpc_req req;
    int rc;

    if (tarn_parse_u64(id, ret_id) < 0 || *ret_id == 0)
        return tarn_err_set(&c->err, -TARN_E_USAGE,
                            "\"%s\": the id of a worker is a number; `tarn worker ls` shows them",
                            id);
    rc = cli_connect(c);
    if (rc < 0)
        return rc;
    msg.id = *ret_id;
    msg.undo = p->undo;
    msg.force = p->force;
    rc = cli_call(c, &req, method, &msg.base, what);
    resp = (const Tarn__Wire__WorkerAdminResponse *)req.resp;
    if (resp)
        *ret_left = resp->left_bytes;
    if (rc < 0 && resp)
        rc = cli_told(c, rc, resp->error_text); /* it names the worker */
    tarn_rpc_req_fini(&req);
    return rc;
}

/* A worker that is waited for. */
struct drain {
    uint64_t id, left, least, moved, refused, refused_by;
    bool alive, settled;
    bool offline;         /* its cache failed */
    unsigned owners;      /* other workers that own anything, alive or not */
    uint64_t dead;        /* one of them that is not alive; 0: none */
    uint64_t stuck_ns;    /* since when nothing was handed over, and something is in the way */
    unsigned stuck_beats; /* that said so */
    uint64_t heard_ms;
};

static void drain_row(struct drain *d, const Tarn__Wire__WorkerStatus *w)
{
    bool full = w->refused_bytes > 0 && w->refused_bytes >= w->left_bytes;
    bool same = d->moved == w->moved_bytes && d->refused == w->refused_bytes;
    uint64_t used, room;

    if (w->left_bytes > 0 && w->left_bytes < d->least) { /* others may have had it already */
        d->least = w->left_bytes;
        same = false;
    }
    d->offline = worker_room(w, &used, &room);
    if ((w->alive && !d->dead && !full && d->owners > 0) || !same) {
        d->stuck_ns = tarn_now_ns();
        d->stuck_beats = 0;
    }
    d->stuck_beats += w->heard_ms < d->heard_ms || !w->alive;
    d->heard_ms = w->heard_ms;
    d->alive = w->alive;
    d->left = w->left_bytes;
    d->moved = w->moved_bytes;
    d->refused = w->refused_bytes;
    d->refused_by = w->refused_by;
    d->settled = w->settled && w->left_bytes == 0;
}

/* UNKNOWN_WORKER, JOB_STATE: it is no longer draining. */
static int drain_look(struct cli *c, struct drain *d)
{
    const Tarn__Wire__WorkerStatus *self = NULL;
    Tarn__Wire__StatusResponse *st;
    int rc = cli_status(c, &st);

    if (rc < 0)
        return rc;
    d->dead = 0;
    d->owners = 0;
    for (size_t i = 0; i < st->n_workers; i++) {
        const Tarn__Wire__WorkerStatus *w = st->workers[i];

        if (w->id == d->id)
            self = w;
        if (w->id == d->id || w->weight == 0 || strcmp(w->state, "live") != 0)
            continue;
        d->owners++;
        if (!w->alive)
            d->dead = w->id;
    }
    if (self)
        drain_row(d, self);
    if (!self)
        rc = tarn_err_set(&c->err, -TARN_E_UNKNOWN_WORKER,
                          "worker %" PRIu64 ": is no member of the cluster any more", d->id);
    else if (strcmp(self->state, "draining") != 0)
        rc = tarn_err_set(&c->err, -TARN_E_JOB_STATE,
                          "worker %" PRIu64 ": is %s now, and does not drain", d->id, self->state);
    tarn__wire__status_response__free_unpacked(st, NULL);
    return rc;
}

static bool drain_is_stuck(const struct drain *d)
{
    return d->offline || (d->stuck_beats >= STUCK_BEATS && tarn_now_ns() - d->stuck_ns > STUCK_NS);
}

/* Nothing moves, and what is in the way does not go by itself. */
static int drain_stuck(struct cli *c, const struct drain *d)
{
    char left[32];

    if (d->offline)
        return tarn_err_set(&c->err, -TARN_E_NOT_DRAINED,
                            "worker %" PRIu64 ": its cache failed: nothing of it can be handed "
                            "over (`tarn worker remove %" PRIu64 " --force` gives it up)",
                            d->id, d->id);
    if (!d->alive)
        return tarn_err_set(&c->err, -TARN_E_NOT_DRAINED,
                            "worker %" PRIu64 ": is not alive, and goes on when it is back; `tarn "
                            "worker remove %" PRIu64 " --force` gives up what it has",
                            d->id, d->id);
    if (d->owners == 0)
        return tarn_err_set(&c->err, -TARN_E_NOT_DRAINED,
                            "worker %" PRIu64 ": has %s left, and no other worker owns anything; "
                            "it goes on when one is started",
                            d->id, tarn_format_size(d->left, left));
    if (d->dead)
        return tarn_err_set(&c->err, -TARN_E_NOT_DRAINED,
                            "worker %" PRIu64 ": has %s left, of which worker %" PRIu64
                            ", which is not alive, owns a share now; it goes on when that is back, "
                            "lost or removed (`tarn worker remove %" PRIu64 " --force`)",
                            d->id, tarn_format_size(d->left, left), d->dead, d->dead);
    return tarn_err_set(&c->err, -TARN_E_NOT_DRAINED,
                        "worker %" PRIu64 ": has %s left, for which others have no room, worker "
                        "%" PRIu64 " among them; it goes on when there is room, or `tarn worker "
                        "remove %" PRIu64 " --force` gives the rest up",
                        d->id, tarn_format_size(d->refused, left), d->refused_by, d->id);
}

/* Until nothing is left there; an interrupt ends the wait, not the draining. */
static int drain_wait(struct cli *c, uint64_t id)
{
    struct drain d = {.id = id, .least = UINT64_MAX, .stuck_ns = tarn_now_ns()};
    struct progress_at at = {0};
    struct progress progress;
    uint64_t most = 0;
    int rc = cli_catch_interrupts(c);

    progress_init(&progress, "drain", c->common.quiet, tarn_now_ns());
    while (rc == 0) {
        rc = drain_look(c, &d);
        if (rc < 0 || d.settled)
            break;
        if (drain_is_stuck(&d))
            rc = drain_stuck(c, &d);
        most = TARN_MAX(most, d.left);
        at.bytes = most - d.left;
        at.bytes_total = most;
        progress_show(&progress, &at, tarn_now_ns());
        if (rc == 0)
            cli_sleep(c, LOOK_NS);
        if (rc == 0 && cli_interrupts(c) > 0)
            rc = tarn_err_set(&c->err, -TARN_E_CANCELLED,
                              "interrupted; worker %" PRIu64 " goes on draining", id);
    }
    progress_clear(&progress);
    return rc;
}

static void admin_say(struct cli *c, uint64_t id, const char *state, uint64_t left)
{
    char size[32];

    if (c->common.json) {
        cli_json(json_pack("{s:I, s:s, s:I}", "id", U(id), "state", state, "left_bytes", U(left)));
        return;
    }
    (void)printf("worker %" PRIu64 ": %s", id, state); /* main() checks the stream */
    if (left)
        (void)printf(", %s to hand over", tarn_format_size(left, size));
    (void)putchar('\n');
}

int worker_drain(struct cli *c, const char *id)
{
    const struct cli_worker *p = c->own;
    uint64_t number = 0, left = 0;
    int rc;

    if (p->undo && p->wait)
        return tarn_err_set(&c->err, -TARN_E_USAGE, "--undo: there is nothing to --wait for");
    rc = admin_call(c, TARN_RPC_worker_drain, id, &number, &left);
    if (rc == 0 && p->wait) {
        rc = drain_wait(c, number);
        left = 0;
    }
    if (rc == 0)
        admin_say(c, number,
                  p->undo   ? "live"
                  : p->wait ? "drained"
                            : "draining",
                  p->undo ? 0 : left);
    return rc;
}

int worker_remove(struct cli *c, const char *id)
{
    uint64_t number = 0, left = 0;
    int rc = admin_call(c, TARN_RPC_worker_remove, id, &number, &left);

    if (rc == 0)
        admin_say(c, number, "removed", left);
    return rc;
}
