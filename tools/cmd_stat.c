/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stat, du: one path, and the sum of what is below one. Keys of the JSON documents are a contract:
 * add, never rename.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "lib/base/mem.h"
#include "lib/base/name.h"
#include "lib/base/units.h"
#include "tools/cli.h"

#define U(x) ((json_int_t)(x))

/* ---- du ---------------------------------------------------------------------------------------
 */

/* The caller frees it, also after a failure (NULL). */
static int du_call(struct cli *c, const char *path, Tarn__Wire__DuResponse **ret)
{
    Tarn__Wire__DuRequest msg = TARN__WIRE__DU_REQUEST__INIT;
    struct tarn_rpc_req req;
    int rc;

    msg.path = tarn_wire_bytes(path, strlen(path));
    rc = cli_call(c, &req, TARN_RPC_du, &msg.base, path);
    if (rc == 0) {
        *ret = (Tarn__Wire__DuResponse *)req.resp;
        req.resp = NULL;
    }
    tarn_rpc_req_fini(&req);
    return rc;
}

static void du_json(const char *path, const Tarn__Wire__DuResponse *du)
{
    json_t *j = json_object();

    cli_json_set(j, "path", path, strlen(path));
    (void)json_object_update_new(
        j, json_pack("{s:I, s:I, s:I, s:o, s:o, s:b, s:b, s:I, s:o}", "files", U(du->files), "dirs",
                     U(du->dirs), "bytes", U(du->bytes), "cached_bytes",
                     cli_json_count(du->cached_bytes, !du->partial), "cached_files",
                     cli_json_count(du->cached_files, !du->partial), "complete", du->complete,
                     "partial", du->partial, "cached_bytes_min", U(du->cached_bytes), "reason",
                     cli_json_reason(du->partial, du->reason)));
    cli_json(j);
}

static void du_text(struct cli *c, const char *path, const Tarn__Wire__DuResponse *du)
{
    char a[32], b[32];

    cli_print_name(c, path, strlen(path));
    (void)printf(": %" PRIu64 " files, %" PRIu64 " directories, %s; cached: %s%" PRIu64
                 " files, %s%s",
                 du->files, du->dirs, tarn_format_size(du->bytes, a),
                 du->partial ? "unknown, at least " : "", du->cached_files,
                 tarn_format_size(du->cached_bytes, b),
                 du->complete ? "" : " (not everything below was listed yet)");
    if (du->partial)
        (void)printf(" (%s)", du->reason);
    (void)fputc('\n', stdout); /* main() checks the stream */
}

static int du_run(struct cli *c)
{
    Tarn__Wire__DuResponse *du = NULL;
    char path[TARN_PATH_MAX];
    int rc = cli_path(c, c->n_args ? c->args[0] : "/", path);

    if (rc == 0)
        rc = cli_connect(c);
    if (rc == 0)
        rc = du_call(c, path, &du);
    if (rc == 0 && c->common.json)
        du_json(path, du);
    else if (rc == 0)
        du_text(c, path, du);
    tarn__wire__du_response__free_unpacked(du, NULL);
    return rc;
}

/* ---- stat --------------------------------------------------------------------------------------
 */

#define STAT_WORKERS_MAX 1024u /* of a cluster */

/* How much of a path is cached, and where. What is missing is known exactly where nothing is. */
struct stat_cache {
    uint64_t size;   /* bytes of the file, or of all files below the directory */
    uint64_t cached; /* bytes of them that are cached, at least */
    bool listed;     /* all below it was */
    bool partial;    /* a worker was not reached: there may be more, and more replicas */
    char reason[256];
    uint32_t replicas;
    uint64_t workers[STAT_WORKERS_MAX]; /* that have any of a file */
    size_t n_workers;
};

static int stat_file_cached(struct cli *c, const char *path, const struct tarn_attr *attr,
                            struct stat_cache *ret)
{
    Tarn__Wire__WhereRequest msg = TARN__WIRE__WHERE_REQUEST__INIT;
    const Tarn__Wire__WhereResponse *resp;
    struct tarn_rpc_req req;
    int rc;

    if (attr->size_bytes == 0)
        return 0;
    msg.path = tarn_wire_bytes(path, strlen(path));
    rc = cli_call(c, &req, TARN_RPC_where, &msg.base, "ask where it is cached");
    resp = (const Tarn__Wire__WhereResponse *)req.resp;
    if (rc == 0) {
        ret->cached = TARN_MIN(resp->cached_bytes, attr->size_bytes);
        ret->replicas = resp->replicas;
        ret->partial = resp->partial;
        (void)snprintf(ret->reason, sizeof(ret->reason), "%s", resp->reason); /* may be cut */
        ret->n_workers = TARN_MIN(resp->n_workers, (size_t)STAT_WORKERS_MAX);
        for (size_t i = 0; i < ret->n_workers; i++)
            ret->workers[i] = resp->workers[i];
    }
    tarn_rpc_req_fini(&req);
    return rc;
}

static int stat_cached(struct cli *c, const char *path, const struct tarn_attr *attr,
                       struct stat_cache *ret)
{
    Tarn__Wire__DuResponse *du = NULL;
    int rc;

    ret->size = attr->size_bytes;
    ret->listed = true;
    if (attr->type == TARN_TYPE_FILE)
        return stat_file_cached(c, path, attr, ret);
    if (attr->type != TARN_TYPE_DIR)
        return 0;
    rc = du_call(c, path, &du);
    if (rc == 0) {
        ret->size = du->bytes;
        ret->cached = du->cached_bytes;
        ret->listed = du->complete;
        ret->partial = du->partial;
        (void)snprintf(ret->reason, sizeof(ret->reason), "%s", du->reason); /* may be cut */
    }
    tarn__wire__du_response__free_unpacked(du, NULL);
    return rc;
}

/* The bytes are all that is cached. */
static bool stat_exact(const struct stat_cache *k)
{
    return !k->partial || k->cached == k->size;
}

static double stat_ratio(const struct stat_cache *k)
{
    return k->size > 0 ? (double)k->cached / (double)k->size : 1.0; /* nothing of it is missing */
}

static const char *const stat_types[] = {"", "file", "directory", "symlink"};

static void stat_json(const char *path, const struct tarn_attr *a, const struct stat_cache *k)
{
    json_t *j = json_object(), *workers = json_array(), *replicas = json_null();
    bool known = stat_exact(k) && k->listed && a->type != TARN_TYPE_SYMLINK;
    bool loaded = known && k->cached == k->size;
    char time[32], mode[8];

    (void)snprintf(mode, sizeof(mode), "%04o", a->mode & 07777u); /* fits */
    for (size_t i = 0; i < k->n_workers; i++)
        (void)json_array_append_new(workers, json_integer(U(k->workers[i]))); /* out of memory */
    if (a->type == TARN_TYPE_FILE) /* of what is below a directory it differs */
        replicas = cli_json_count(k->replicas, !k->partial);
    cli_json_set(j, "path", path, strlen(path));
    (void)json_object_update_new(
        j, json_pack(
               "{s:I, s:s, s:I, s:s, s:I, s:I, s:s, s:I, s:o, s:o, s:o, s:b, s:o, s:o, s:I, s:o}",
               "ino", U(a->ino.v), "type", stat_types[a->type], "size", U(a->size_bytes), "mode",
               mode, "uid", U(a->uid), "gid", U(a->gid), "mtime",
               tarn_format_time(a->mtime_ns, time), "version", U(a->version), "cached_bytes",
               cli_json_count(k->cached, stat_exact(k)), "cached_ratio",
               known ? json_real(stat_ratio(k)) : json_null(), "replicas", replicas, "pinned", 0,
               "loaded", stat_exact(k) ? json_boolean(loaded) : json_null(), "workers", workers,
               "cached_bytes_min", U(k->cached), "reason", cli_json_reason(k->partial, k->reason)));
    cli_json(j);
}

static void stat_text_cached(const struct tarn_attr *a, const struct stat_cache *k)
{
    bool exact = stat_exact(k);
    char size[32];

    (void)printf("cached   %s", exact ? "" : "unknown, at least "); /* main() checks the stream */
    if (a->type == TARN_TYPE_FILE)
        (void)printf("%" PRIu64 " bytes", k->cached);
    else
        (void)printf("%s below it", tarn_format_size(k->cached, size));
    if (exact && k->listed)
        (void)printf(" (%.1f %%)", 100.0 * stat_ratio(k));
    (void)printf("%s%s%s\n", k->listed ? "" : " (not everything was listed yet)",
                 k->partial ? ": " : "", k->partial ? k->reason : "");
}

static void stat_text(struct cli *c, const char *path, const struct tarn_attr *a,
                      const struct stat_cache *k)
{
    char size[32], time[32];

    (void)fputs("path     ", stdout); /* main() checks the stream, here and below */
    cli_print_name(c, path, strlen(path));
    (void)printf("\ntype     %s\nino      %" PRIu64 "\nversion  %" PRIu64 "\nsize     %" PRIu64
                 " (%s)\n",
                 stat_types[a->type], a->ino.v, a->version, a->size_bytes,
                 tarn_format_size(a->size_bytes, size));
    (void)printf("mode     %04o  uid %u  gid %u\nmtime    %s\n", a->mode & 07777u, a->uid, a->gid,
                 tarn_format_time(a->mtime_ns, time));
    if (a->type != TARN_TYPE_SYMLINK)
        stat_text_cached(a, k);
    if (k->n_workers > 1 || k->replicas > 1) {
        (void)printf("workers ");
        for (size_t i = 0; i < k->n_workers; i++)
            (void)printf(" %" PRIu64, k->workers[i]);
        (void)printf(" (%s%u whole cop%s)\n", k->partial ? "at least " : "", k->replicas,
                     k->replicas == 1 ? "y" : "ies");
    }
}

static int stat_run(struct cli *c)
{
    struct stat_cache cache = {0};
    struct tarn_attr attr;
    char path[TARN_PATH_MAX];
    int rc = cli_path(c, c->args[0], path);

    if (rc == 0)
        rc = cli_connect(c);
    if (rc == 0)
        rc = cli_resolve(c, path, &attr);
    if (rc == 0)
        rc = stat_cached(c, path, &attr, &cache);
    if (rc < 0)
        return rc;
    if (c->common.json)
        stat_json(path, &attr, &cache);
    else
        stat_text(c, path, &attr, &cache);
    return 0;
}

/* Of --help. */
#define UNKNOWN_TEXT                                                                               \
    "What is cached is asked of the workers. While one that may have bytes is away or does not\n"  \
    "answer (it is waited for up to 3 s) it is unknown: null with --json, beside the reason and\n" \
    "cached_bytes_min, what the others have. A worker that is lost or was removed has nothing.\n"  \
    "Bytes count once, however many workers have them; two paths of one object count both."

static const struct tarn_conf_table *const tables[] = {&cli_remote_table, &cli_common_table, NULL};
static const struct tarn_flags_spec du_spec = {
    .command = "tarn du",
    .args = "[PATH]",
    .summary = "Sum up files, bytes and cached bytes below a path.",
    .text = UNKNOWN_TEXT,
    .tables = tables,
    .max_args = 1};
static const struct tarn_flags_spec stat_spec = {
    .command = "tarn stat",
    .args = "PATH",
    .summary = "Show one path: attributes, version, cached bytes.",
    .text = UNKNOWN_TEXT,
    .tables = tables,
    .min_args = 1,
    .max_args = 1};
const struct cli_command cmd_du_command = {.name = "du", .spec = &du_spec, .run = du_run};
const struct cli_command cmd_stat_command = {.name = "stat", .spec = &stat_spec, .run = stat_run};
