/* SPDX-License-Identifier: Apache-2.0 */
/* status: a report of a running server. The keys of its JSON document are a contract: add, never
 * rename. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "lib/base/env.h"
#include "lib/base/mem.h"
#include "lib/base/name.h"
#include "lib/base/units.h"
#include "tools/cli.h"
#include "tools/report.h"

#define U(x) ((json_int_t)(x))
#define T(z) cli_json_text(z)

/* ---- status ---------------------------------------------------------------------------------- */

struct status_sums {
    uint64_t capacity, used, data;
    uint64_t local, remote, ufs;
    const Tarn__Wire__WorkerStatus
        *missed; /* the first whose cache is not known now; NULL: all are */
    unsigned n_missed;
};

/* One that is lost or was removed has nothing. */
static bool status_is_member(const Tarn__Wire__WorkerStatus *w)
{
    return strcmp(w->state, "live") == 0 || strcmp(w->state, "draining") == 0;
}

static void status_sum_worker(const Tarn__Wire__WorkerStatus *w, struct status_sums *s)
{
    if (!status_is_member(w))
        return;
    if (!w->alive || w->n_tiers == 0) {
        s->missed = s->missed ? s->missed : w;
        s->n_missed++;
        return;
    }
    for (size_t t = 0; t < w->n_tiers; t++) {
        s->capacity += w->tiers[t]->capacity;
        s->used += w->tiers[t]->used;
        s->data += w->tiers[t]->data;
    }
}

static void status_sum(const Tarn__Wire__StatusResponse *st, struct status_sums *s)
{
    for (size_t i = 0; i < st->n_workers; i++)
        status_sum_worker(st->workers[i], s);
    for (size_t i = 0; i < st->n_reads; i++) {
        const Tarn__Wire__ReadCount *r = st->reads[i];

        *(strcmp(r->source, "local") == 0    ? &s->local
          : strcmp(r->source, "remote") == 0 ? &s->remote
                                             : &s->ufs) += r->bytes;
    }
}

#define STATUS_REASON 320

static void status_reason(const struct status_sums *s, char ret[STATUS_REASON])
{
    char more[32] = "";

    ret[0] = 0;
    if (!s->missed)
        return;
    if (s->n_missed > 1)
        (void)snprintf(more, sizeof(more), ", and %u more", s->n_missed - 1); /* it fits */
    (void)snprintf(ret, STATUS_REASON, "worker %" PRIu64 " (%.200s) is away%s", s->missed->id,
                   s->missed->addr, more);
}

static json_t *status_session(const Tarn__Wire__SessionStatus *s)
{
    return json_pack("{s:o, s:o, s:o, s:I, s:o, s:I, s:b, s:I, s:I}", "kind", T(s->kind),
                     "mountpoint", T(s->mountpoint), "host", T(s->host), "pid", U(s->pid), "state",
                     T(s->state), "heard_ms", U(s->heard_ms), "on_partition_stale",
                     s->on_partition_stale, "promises", U(s->promises), "passthrough_opens",
                     U(s->passthrough_opens));
}

static json_t *status_json(const Tarn__Wire__StatusResponse *st, const char *addr)
{
    struct status_sums s = {0};
    json_t *masters = json_array(), *sessions = json_array(), *hit;
    char reason[STATUS_REASON];
    bool known;

    status_sum(st, &s);
    known = s.n_missed == 0;
    status_reason(&s, reason);
    for (size_t i = 0; i < st->n_masters; i++)
        (void)json_array_append_new(
            masters, json_pack("{s:o, s:o, s:b}", "addr",
                               T(st->masters[i]->addr[0] ? st->masters[i]->addr : addr), "role",
                               T(st->masters[i]->role), "healthy", st->masters[i]->healthy));
    for (size_t i = 0; i < st->n_sessions; i++)
        (void)json_array_append_new(sessions, status_session(st->sessions[i]));
    hit = s.local + s.remote + s.ufs
              ? json_real((double)(s.local + s.remote) / (double)(s.local + s.remote + s.ufs))
              : json_null();
    return json_pack(
        "{s:o, s:o, s:o, s:o, s:{s:o, s:o, s:o, s:I, s:o}, s:{s:I, s:I, s:I, s:o}, s:{s:i, "
        "s:i}, s:o, s:o, s:I}",
        "cluster_id", T(st->cluster_id), "masters", masters, "workers", report_workers(st, addr),
        "mounts", report_mounts(st), "cache", "capacity_bytes", cli_json_count(s.capacity, known),
        "used_bytes", cli_json_count(s.used, known), "data_bytes", cli_json_count(s.data, known),
        "used_bytes_min", U(s.used), "reason", cli_json_reason(!known, reason), "reads",
        "local_bytes", U(s.local), "remote_bytes", U(s.remote), "ufs_bytes", U(s.ufs), "hit_ratio",
        hit, "jobs", "running", (int)st->jobs_running, "failed", (int)st->jobs_failed, "sessions",
        sessions, "version", T(st->software), "uptime_ms", U(st->uptime_ms));
}

/* What comes from stores and other sessions may hold anything. */
static void put(const char *text)
{
    cli_put_name(stdout, text, strlen(text)); /* main() checks the stream at the end */
}

static void status_text_mount(const Tarn__Wire__MountStatus *m)
{
    char size[32], since[32];

    (void)fputs("attached  ", stdout); /* as above, and below */
    put(m->ufs);
    (void)fputs(" at ", stdout);
    put(m->path);
    (void)printf(": %" PRIu64 " files, %s%s\n", m->files, tarn_format_size(m->bytes, size),
                 m->complete ? ", all listed" : ", listed in part");
    if (strcmp(m->state, "up") == 0)
        return;
    (void)fputs("          the store does not answer: ", stdout);
    put(m->error);
    (void)printf(" (for %s, %" PRIu64 " answers from older metadata)\n",
                 tarn_format_duration(m->down_ms * TARN_NS_PER_MS, since), m->stale_answers);
}

static void status_text_worker(const Tarn__Wire__WorkerStatus *w)
{
    char a[32], b[32];

    if (w->addr[0]) { /* one of a cluster, not a part of the server itself */
        (void)printf("worker    %" PRIu64 " at ", w->id);
        put(w->addr);
        (void)fputs(" on ", stdout); /* main() checks the stream, here and below */
        put(w->host);
        (void)printf(": %s%s", report_worker_state(w),
                     !w->alive      ? ", NOT ALIVE"
                     : w->unreached ? ", NOT REACHED by the master at that address (--advertise)"
                                    : "");
        if (w->left_bytes)
            (void)printf(", %s to hand over", tarn_format_size(w->left_bytes, a));
        if (w->refused_bytes)
            (void)printf(", for %s of it others have no room, worker %" PRIu64 " among them",
                         tarn_format_size(w->refused_bytes, a), w->refused_by);
        (void)putchar('\n');
    }
    for (size_t t = 0; t < w->n_tiers; t++) {
        const Tarn__Wire__Tier *tier = w->tiers[t];

        (void)printf("tier      %s %s: %s of %s used, %" PRIu64 " files%s%s\n", tier->medium,
                     tier->path, tarn_format_size(tier->used, a),
                     tarn_format_size(tier->capacity, b), tier->files,
                     tier->offline ? ", OFFLINE: the directory failed" : "",
                     w->alive ? "" : ", when last heard of");
    }
}

static void status_text_session(const Tarn__Wire__SessionStatus *s)
{
    char since[32];

    (void)fputs("mount     ", stdout);
    put(s->mountpoint);
    (void)fputs(" on ", stdout);
    put(s->host);
    (void)printf(" (pid %" PRIu64 ")", s->pid);
    if (strcmp(s->state, "live") != 0)
        (void)printf(": %s, heard of %s ago%s", s->state,
                     tarn_format_duration(s->heard_ms * TARN_NS_PER_MS, since),
                     s->on_partition_stale ? ", goes on with what it knew" : "");
    (void)putchar('\n');
    if (s->passthrough_opens)
        (void)printf("          %" PRIu64
                     " large files opened that the kernel read itself, not counted above\n",
                     s->passthrough_opens);
}

static void status_text(const Tarn__Wire__StatusResponse *st)
{
    struct status_sums s = {0};
    char a[32], b[32];

    status_sum(st, &s);
    (void)printf("cluster   %s, up %s\n", st->cluster_id,
                 tarn_format_duration(st->uptime_ms * TARN_NS_PER_MS, a));
    for (size_t i = 0; i < st->n_mounts; i++)
        status_text_mount(st->mounts[i]);
    for (size_t i = 0; i < st->n_workers; i++)
        status_text_worker(st->workers[i]);
    (void)printf("read      %s from the cache, %s from the store",
                 tarn_format_size(s.local + s.remote, a), tarn_format_size(s.ufs, b));
    if (s.local + s.remote + s.ufs)
        (void)printf(" (hit ratio %.1f %%)",
                     100.0 * (double)(s.local + s.remote) / (double)(s.local + s.remote + s.ufs));
    (void)printf("\njobs      %u running, %u failed\n", st->jobs_running, st->jobs_failed);
    for (size_t i = 0; i < st->n_sessions; i++)
        if (st->sessions[i]->mountpoint[0])
            status_text_session(st->sessions[i]);
}

static int status_run(struct cli *c)
{
    Tarn__Wire__StatusResponse *st;
    int rc = cli_connect(c);

    if (rc == 0)
        rc = cli_status(c, &st);
    if (rc < 0)
        return rc;
    if (c->common.json)
        cli_json(status_json(st, tarn_rpc_client_addr(tarn_client_rpc(c->client))));
    else
        status_text(st);
    tarn__wire__status_response__free_unpacked(st, NULL);
    return 0;
}

static const struct tarn_conf_table *const tables[] = {&cli_remote_table, &cli_common_table, NULL};
static const struct tarn_flags_spec status_spec = {
    .command = "tarn status",
    .args = "",
    .summary = "Show what is attached, cached, read and running.",
    .tables = tables};
const struct cli_command cmd_status_command = {
    .name = "status", .spec = &status_spec, .run = status_run};
