/* SPDX-License-Identifier: Apache-2.0 */
/* Documents about attachments and workers. */
#include "tools/report.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "lib/base/env.h"
#include "tools/cli.h"

#define U(x) ((json_int_t)(x))
#define T(z) cli_json_text(z)

const char *report_ttl(uint64_t ttl_ns, char buf[32])
{
    if (ttl_ns == TARN_TTL_ALWAYS || ttl_ns == TARN_TTL_FOREVER)
        (void)snprintf(buf, 32, "%s", ttl_ns ? "forever" : "always"); /* fits, as all of these */
    else if (ttl_ns % TARN_NS_PER_S == 0)
        (void)snprintf(buf, 32, "%" PRIu64 "s", (uint64_t)(ttl_ns / TARN_NS_PER_S));
    else
        (void)snprintf(buf, 32, "%" PRIu64 "ns", ttl_ns);
    return buf;
}

json_t *report_workers(const Tarn__Wire__StatusResponse *st, const char *addr)
{
    json_t *list = json_array();

    for (size_t i = 0; i < st->n_workers; i++) {
        const Tarn__Wire__WorkerStatus *w = st->workers[i];
        json_t *tiers = json_array();

        for (size_t t = 0; t < w->n_tiers; t++) {
            const Tarn__Wire__Tier *tier = w->tiers[t];

            (void)json_array_append_new(
                tiers,
                json_pack("{s:o, s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:b}", "medium",
                          T(tier->medium), "path", T(tier->path), "capacity_bytes",
                          U(tier->capacity), "used_bytes", U(tier->used), "data_bytes",
                          U(tier->data), "files", U(tier->files), "evicted_bytes", U(tier->evicted),
                          "checksum_errors", U(tier->checksum_errors), "offline", tier->offline));
        }
        (void)json_array_append_new(
            list,
            json_pack("{s:I, s:o, s:o, s:o, s:b, s:o, s:I, s:I, s:I, s:I, s:b, s:I, s:I, s:b}",
                      "id", U(w->id), "addr", T(w->addr[0] ? w->addr : addr), "state", T(w->state),
                      "tiers", tiers, "alive", w->alive, "host", T(w->host), "weight", U(w->weight),
                      "left_bytes", U(w->left_bytes), "refused_bytes", U(w->refused_bytes),
                      "refused_by", U(w->refused_by), "settled", w->settled, "moved_bytes",
                      U(w->moved_bytes), "peer_bytes", U(w->peer_bytes), "unreached",
                      w->unreached));
    }
    return list;
}

const char *report_worker_state(const Tarn__Wire__WorkerStatus *w)
{
    bool done = strcmp(w->state, "draining") == 0 && w->settled && w->left_bytes == 0;

    return done ? "drained" : w->state;
}

static json_t *report_options(const Tarn__Wire__MountStatus *m)
{
    json_t *list = json_array();

    for (size_t i = 0; i < m->n_options; i++)
        (void)json_array_append_new(list, T(m->options[i])); /* out of memory only */
    return list;
}

json_t *report_mounts(const Tarn__Wire__StatusResponse *st)
{
    json_t *mounts = json_array();

    for (size_t i = 0; i < st->n_mounts; i++) {
        const Tarn__Wire__MountStatus *m = st->mounts[i];
        bool up = strcmp(m->state, "up") == 0;
        char ttl[32];

        (void)json_array_append_new(
            mounts,
            json_pack("{s:o, s:o, s:I, s:I, s:b, s:o, s:o, s:o, s:I, s:I, s:I, s:s, s:b, s:I, s:b, "
                      "s:o}",
                      "path", T(m->path), "ufs", T(m->ufs), "files", U(m->files), "bytes",
                      U(m->bytes), "complete", m->complete, "state", T(m->state), "error",
                      m->error[0] ? T(m->error) : json_null(), "down_ms",
                      up ? json_null() : json_integer(U(m->down_ms)), "stale_answers",
                      U(m->stale_answers), "ufs_requests", U(m->ufs_requests), "ufs_read_bytes",
                      U(m->ufs_read_bytes), "meta_ttl", report_ttl(m->ttl_ns, ttl), "read_only",
                      m->read_only, "replicas", U(m->replicas ? m->replicas : 1), "direct",
                      m->direct, "options", report_options(m)));
    }
    return mounts;
}
