/* SPDX-License-Identifier: Apache-2.0 */
/* status, du, stat: reports of a running server. Keys of the JSON documents are a contract: add,
 * never rename. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "lib/base/env.h"
#include "lib/base/mem.h"
#include "lib/base/name.h"
#include "lib/base/units.h"
#include "tools/cli.h"

#define U(x) ((json_int_t)(x))

/* ---- status ---------------------------------------------------------------------------------- */

struct status_sums {
    uint64_t capacity, used, data;
    uint64_t local, remote, ufs;
};

static void status_sum(const Tarn__Wire__StatusResponse *st, struct status_sums *s)
{
    for (size_t i = 0; i < st->n_workers; i++) {
        for (size_t t = 0; t < st->workers[i]->n_tiers; t++) {
            s->capacity += st->workers[i]->tiers[t]->capacity;
            s->used += st->workers[i]->tiers[t]->used;
            s->data += st->workers[i]->tiers[t]->data;
        }
    }
    for (size_t i = 0; i < st->n_reads; i++) {
        const Tarn__Wire__ReadCount *r = st->reads[i];

        *(strcmp(r->source, "local") == 0    ? &s->local
          : strcmp(r->source, "remote") == 0 ? &s->remote
                                             : &s->ufs) += r->bytes;
    }
}

static json_t *status_workers(const Tarn__Wire__StatusResponse *st, const char *addr)
{
    json_t *list = json_array();

    for (size_t i = 0; i < st->n_workers; i++) {
        const Tarn__Wire__WorkerStatus *w = st->workers[i];
        json_t *tiers = json_array();

        for (size_t t = 0; t < w->n_tiers; t++) {
            const Tarn__Wire__Tier *tier = w->tiers[t];

            (void)json_array_append_new(
                tiers,
                json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:b}", "medium", tier->medium,
                          "path", tier->path, "capacity_bytes", U(tier->capacity), "used_bytes",
                          U(tier->used), "data_bytes", U(tier->data), "files", U(tier->files),
                          "evicted_bytes", U(tier->evicted), "checksum_errors",
                          U(tier->checksum_errors), "offline", tier->offline));
        }
        (void)json_array_append_new(list, json_pack("{s:I, s:s, s:s, s:o}", "id", U(w->id), "addr",
                                                    w->addr[0] ? w->addr : addr, "state", w->state,
                                                    "tiers", tiers));
    }
    return list;
}

static json_t *status_json(const Tarn__Wire__StatusResponse *st, const char *addr)
{
    struct status_sums s = {0};
    json_t *masters = json_array(), *mounts = json_array(), *sessions = json_array(), *hit;

    status_sum(st, &s);
    for (size_t i = 0; i < st->n_masters; i++)
        (void)json_array_append_new(
            masters, json_pack("{s:s, s:s, s:b}", "addr",
                               st->masters[i]->addr[0] ? st->masters[i]->addr : addr, "role",
                               st->masters[i]->role, "healthy", st->masters[i]->healthy));
    for (size_t i = 0; i < st->n_mounts; i++) {
        const Tarn__Wire__MountStatus *m = st->mounts[i];

        (void)json_array_append_new(
            mounts,
            json_pack("{s:s, s:s, s:I, s:I, s:b, s:s, s:s, s:I, s:I, s:I}", "path", m->path, "ufs",
                      m->ufs, "files", U(m->files), "bytes", U(m->bytes), "complete", m->complete,
                      "state", m->state, "error", m->error, "stale_answers", U(m->stale_answers),
                      "ufs_requests", U(m->ufs_requests), "ufs_read_bytes", U(m->ufs_read_bytes)));
    }
    for (size_t i = 0; i < st->n_sessions; i++)
        (void)json_array_append_new(
            sessions, json_pack("{s:s, s:s, s:s, s:I}", "kind", st->sessions[i]->kind, "mountpoint",
                                st->sessions[i]->mountpoint, "host", st->sessions[i]->host, "pid",
                                U(st->sessions[i]->pid)));
    hit = s.local + s.remote + s.ufs
              ? json_real((double)(s.local + s.remote) / (double)(s.local + s.remote + s.ufs))
              : json_null();
    return json_pack("{s:s, s:o, s:o, s:o, s:{s:I, s:I, s:I}, s:{s:I, s:I, s:I, s:o}, s:{s:i, "
                     "s:i}, s:o, s:s, s:I}",
                     "cluster_id", st->cluster_id, "masters", masters, "workers",
                     status_workers(st, addr), "mounts", mounts, "cache", "capacity_bytes",
                     U(s.capacity), "used_bytes", U(s.used), "data_bytes", U(s.data), "reads",
                     "local_bytes", U(s.local), "remote_bytes", U(s.remote), "ufs_bytes", U(s.ufs),
                     "hit_ratio", hit, "jobs", "running", (int)st->jobs_running, "failed",
                     (int)st->jobs_failed, "sessions", sessions, "version", st->software,
                     "uptime_ms", U(st->uptime_ms));
}

static void status_text(const Tarn__Wire__StatusResponse *st)
{
    struct status_sums s = {0};
    char a[32], b[32];

    status_sum(st, &s);
    (void)printf("cluster   %s, up %s\n", st->cluster_id,
                 tarn_format_duration(st->uptime_ms * TARN_NS_PER_MS, a));
    for (size_t i = 0; i < st->n_mounts; i++) {
        const Tarn__Wire__MountStatus *m = st->mounts[i];

        (void)printf("attached  %s at %s: %" PRIu64 " files, %s%s\n", m->ufs, m->path, m->files,
                     tarn_format_size(m->bytes, a),
                     m->complete ? ", all listed" : ", listed in part");
        if (strcmp(m->state, "up") != 0)
            (void)printf("          the store does not answer: %s (%" PRIu64
                         " answers from older metadata)\n",
                         m->error, m->stale_answers);
    }
    for (size_t i = 0; i < st->n_workers; i++)
        for (size_t t = 0; t < st->workers[i]->n_tiers; t++) {
            const Tarn__Wire__Tier *tier = st->workers[i]->tiers[t];

            (void)printf("tier      %s %s: %s of %s used, %" PRIu64 " files%s\n", tier->medium,
                         tier->path, tarn_format_size(tier->used, a),
                         tarn_format_size(tier->capacity, b), tier->files,
                         tier->offline ? ", OFFLINE" : "");
        }
    (void)printf("read      %s from the cache, %s from the store",
                 tarn_format_size(s.local + s.remote, a), tarn_format_size(s.ufs, b));
    if (s.local + s.remote + s.ufs)
        (void)printf(" (hit ratio %.1f %%)",
                     100.0 * (double)(s.local + s.remote) / (double)(s.local + s.remote + s.ufs));
    (void)printf("\njobs      %u running, %u failed\n", st->jobs_running, st->jobs_failed);
    for (size_t i = 0; i < st->n_sessions; i++)
        if (st->sessions[i]->mountpoint[0])
            (void)printf("mount     %s on %s (pid %" PRIu64 ")\n", st->sessions[i]->mountpoint,
                         st->sessions[i]->host, st->sessions[i]->pid);
}

static int status_run(struct cli *c)
{
    Tarn__Wire__Empty msg = TARN__WIRE__EMPTY__INIT;
    struct tarn_rpc_req req;
    int rc = cli_connect(c);

    if (rc < 0)
        return rc;
    rc = cli_call(c, &req, TARN_RPC_status, &msg.base, "status");
    if (rc == 0 && c->common.json)
        cli_json(status_json((const Tarn__Wire__StatusResponse *)req.resp, c->remote.master));
    else if (rc == 0)
        status_text((const Tarn__Wire__StatusResponse *)req.resp);
    tarn_rpc_req_fini(&req);
    return rc;
}

/* ---- du -------------------------------------------------------------------------------------- */

static int du_run(struct cli *c)
{
    Tarn__Wire__DuRequest msg = TARN__WIRE__DU_REQUEST__INIT;
    const Tarn__Wire__DuResponse *du;
    struct tarn_rpc_req req;
    char path[TARN_PATH_MAX], a[32], b[32];
    int rc = cli_path(c, c->n_args ? c->args[0] : "/", path);

    if (rc == 0)
        rc = cli_connect(c);
    if (rc < 0)
        return rc;
    msg.path = tarn_wire_bytes(path, strlen(path));
    rc = cli_call(c, &req, TARN_RPC_du, &msg.base, path);
    du = (const Tarn__Wire__DuResponse *)req.resp;
    if (rc == 0 && c->common.json)
        cli_json(json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:b}", "path", path, "files",
                           U(du->files), "dirs", U(du->dirs), "bytes", U(du->bytes), "cached_bytes",
                           U(du->cached_bytes), "cached_files", U(du->cached_files), "complete",
                           du->complete));
    else if (rc == 0)
        (void)printf("%s: %" PRIu64 " files, %" PRIu64 " directories, %s; cached: %" PRIu64
                     " files, %s%s\n",
                     path, du->files, du->dirs, tarn_format_size(du->bytes, a), du->cached_files,
                     tarn_format_size(du->cached_bytes, b),
                     du->complete ? "" : " (not everything below was listed yet)");
    tarn_rpc_req_fini(&req);
    return rc;
}

/* ---- stat ------------------------------------------------------------------------------------ */

static int stat_cached(struct cli *c, const struct tarn_attr *attr, uint64_t *ret)
{
    Tarn__Wire__CachedRequest msg = TARN__WIRE__CACHED_REQUEST__INIT;
    ProtobufCBinaryData cid = tarn_wire_bytes(attr->cid.b, sizeof(attr->cid.b));
    struct tarn_rpc_req req;
    int rc;

    *ret = 0;
    if (attr->type != TARN_TYPE_FILE || attr->size_bytes == 0)
        return 0;
    msg.n_cids = 1;
    msg.cids = &cid;
    rc = cli_call(c, &req, TARN_RPC_cached, &msg.base, "ask the worker");
    if (rc == 0 && ((const Tarn__Wire__CachedResponse *)req.resp)->n_bytes == 1)
        *ret = ((const Tarn__Wire__CachedResponse *)req.resp)->bytes[0];
    tarn_rpc_req_fini(&req);
    return rc;
}

static void stat_print(struct cli *c, const char *path, const struct tarn_attr *a, uint64_t cached)
{
    static const char *const types[] = {"", "file", "directory", "symlink"};
    bool is_file = a->type == TARN_TYPE_FILE;
    double ratio = a->size_bytes ? (double)cached / (double)a->size_bytes : 1.0;
    char size[32], time[32], mode[8];
    json_t *workers;

    (void)snprintf(mode, sizeof(mode), "%04o", a->mode & 07777u); /* fits */
    if (c->common.json) {
        workers = json_array();
        if (cached)
            (void)json_array_append_new(workers, json_integer(1));
        cli_json(json_pack(
            "{s:s, s:I, s:s, s:I, s:s, s:i, s:i, s:s, s:I, s:I, s:o, s:i, s:b, s:b, s:o}", "path",
            path, "ino", U(a->ino.v), "type", types[a->type], "size", U(a->size_bytes), "mode",
            mode, "uid", (int)a->uid, "gid", (int)a->gid, "mtime",
            tarn_format_time(a->mtime_ns, time), "version", U(a->version), "cached_bytes",
            U(cached), "cached_ratio", is_file ? json_real(ratio) : json_null(), "replicas",
            cached ? 1 : 0, "pinned", 0, "loaded", is_file && cached == a->size_bytes, "workers",
            workers));
        return;
    }
    (void)printf("path     %s\ntype     %s\nino      %" PRIu64 "\nversion  %" PRIu64
                 "\nsize     %" PRIu64 " (%s)\nmode     %s  uid %u  gid %u\nmtime    %s\n",
                 path, types[a->type], a->ino.v, a->version, a->size_bytes,
                 tarn_format_size(a->size_bytes, size), mode, a->uid, a->gid,
                 tarn_format_time(a->mtime_ns, time));
    if (is_file)
        (void)printf("cached   %" PRIu64 " bytes (%.1f %%)\n", cached, 100.0 * ratio);
}

static int stat_run(struct cli *c)
{
    struct tarn_client_op op = {.kind = TARN_CLIENT_RESOLVE};
    char path[TARN_PATH_MAX];
    uint64_t cached;
    int rc = cli_path(c, c->args[0], path);

    if (rc == 0)
        rc = cli_connect(c);
    if (rc < 0)
        return rc;
    op.name = path;
    op.name_len = strlen(path);
    rc = tarn_client_sync(c->client, &op);
    if (rc < 0)
        return tarn_err_set(&c->err, rc, "%s: %s", path, tarn_strerror(rc));
    rc = stat_cached(c, &op.attr, &cached);
    if (rc == 0)
        stat_print(c, path, &op.attr, cached);
    return rc;
}

static const struct tarn_conf_table *const tables[] = {&cli_remote_table, &cli_common_table, NULL};
static const struct tarn_flags_spec status_spec = {
    .command = "tarn status",
    .args = "",
    .summary = "Show what is attached, cached, read and running.",
    .tables = tables};
static const struct tarn_flags_spec du_spec = {
    .command = "tarn du",
    .args = "[PATH]",
    .summary = "Sum up files, bytes and cached bytes below a path.",
    .tables = tables,
    .max_args = 1};
static const struct tarn_flags_spec stat_spec = {
    .command = "tarn stat",
    .args = "PATH",
    .summary = "Show one path: attributes, version, cached bytes.",
    .tables = tables,
    .min_args = 1,
    .max_args = 1};
const struct cli_command cmd_status_command = {
    .name = "status", .spec = &status_spec, .run = status_run, .remote = true};
const struct cli_command cmd_du_command = {
    .name = "du", .spec = &du_spec, .run = du_run, .remote = true};
const struct cli_command cmd_stat_command = {
    .name = "stat", .spec = &stat_spec, .run = stat_run, .remote = true};
