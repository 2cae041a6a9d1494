/* SPDX-License-Identifier: Apache-2.0 */
/* Which figures the parts of a server have, and where they are taken from. */
#include <stdlib.h>

#include "lib/base/mem.h"
#include "lib/client/client.h"
#include "tools/metrics.h"
#include "tools/roles.h"
#include "ufs/ufs.h"
#include "worker/member.h"
#include "worker/stores.h"

/* ---- stores -----------------------------------------------------------------------------------
 */

enum store_stat {
#define TARN_STAT(kind, name, labels, unit, help) STORE_STAT_##name,
#include "tools/store_stats.def"
#undef TARN_STAT
};
static const struct tarn_stat_row store_rows[] = {
#define TARN_STAT TARN_STAT_ROW
#include "tools/store_stats.def"
#undef TARN_STAT
};
static const struct tarn_stat_table store_table =
    TARN_STAT_TABLE("A server that asks stores (tarn local, master, worker, mount)", store_rows);

struct metrics_store {
    uint32_t attachment;
    struct tarn_ufs_counts last; /* as they were at the last look */
};

/* One look at all stores. */
struct store_look {
    struct metrics_stores *stores;
    struct tarn_stats *stats;
    uint64_t running;
};

static struct metrics_store *store_seen(struct metrics_stores *s, uint32_t attachment)
{
    for (uint32_t i = 0; i < s->n_seen; i++)
        if (s->seen[i].attachment == attachment)
            return &s->seen[i];
    s->seen = tarn_xrealloc(s->seen, (s->n_seen + 1) * sizeof(*s->seen));
    s->seen[s->n_seen] = (struct metrics_store){.attachment = attachment};
    return &s->seen[s->n_seen++];
}

/* What came since the last look; a store that was opened anew began at 0. */
static void store_add(struct tarn_stats *stats, unsigned id, unsigned series, uint64_t last,
                      uint64_t now)
{
    tarn_stats_add(stats, id, series, now >= last ? now - last : now);
}

static void store_figures(struct tarn_stats *st, const struct tarn_ufs_counts *last,
                          const struct tarn_ufs_counts *now)
{
    store_add(st, STORE_STAT_ufs_read_bytes, 0, last->read_bytes, now->read_bytes);
    store_add(st, STORE_STAT_ufs_requests_sent, 0, last->requests, now->requests);
    store_add(st, STORE_STAT_ufs_retries, 0, last->retries, now->retries);
    store_add(st, STORE_STAT_ufs_failures, 0, last->failures, now->failures);
    for (unsigned op = 0; op < TARN_UFS_OP_COUNT; op++)
        for (unsigned s = 0; s < TARN_UFS_STATUS_COUNT; s++)
            store_add(st, STORE_STAT_ufs_requests,
                      tarn_stats_series(st, STORE_STAT_ufs_requests, op, s, 0), last->ended[op][s],
                      now->ended[op][s]);
}

static void store_take(struct store_look *look, uint32_t attachment,
                       const struct tarn_ufs_counts *now)
{
    struct metrics_store *seen = store_seen(look->stores, attachment);

    look->running += now->running;
    store_figures(look->stats, &seen->last, now);
    seen->last = *now;
}

static void store_look(void *arg, uint32_t attachment, struct tarn_ufs *ufs)
{
    struct tarn_ufs_counts now;

    tarn_ufs_counts(ufs, &now);
    store_take(arg, attachment, &now);
}

static void copy_stores(struct tarn_stats *stats, void *arg)
{
    struct metrics_stores *s = arg;
    struct store_look look = {.stores = s, .stats = stats};
    struct tarn_ufs_counts all;

    if (s->stores)
        tarn_stores_each(s->stores, store_look, &look);
    if (s->master) { /* it sums them up itself */
        tarn_master_ufs_counts(s->master->master, &all);
        store_take(&look, 0, &all);
    }
    metrics_copy(&store_table, stats, STORE_STAT_ufs_requests_running, 0, look.running);
}

struct metrics_part metrics_of_stores(struct metrics_stores *s)
{
    return (struct metrics_part){&store_table, copy_stores, s};
}

void metrics_stores_fini(struct metrics_stores *s)
{
    free(s->seen);
    s->seen = NULL;
    s->n_seen = 0;
}

/* ---- cache ------------------------------------------------------------------------------------
 */

enum cache_stat {
#define TARN_STAT(kind, name, labels, unit, help) CACHE_STAT_##name,
#include "tools/cache_stats.def"
#undef TARN_STAT
};
static const struct tarn_stat_row cache_rows[] = {
#define TARN_STAT TARN_STAT_ROW
#include "tools/cache_stats.def"
#undef TARN_STAT
};
static const struct tarn_stat_table cache_table =
    TARN_STAT_TABLE("A server that keeps bytes (tarn local, worker)", cache_rows);

static void copy_worker(struct tarn_stats *stats, void *arg)
{
    const struct role_worker *role = arg;
    struct tarn_tier_info t;
    struct tarn_worker_counts w;

    tarn_tier_info(role->tier, &t);
    tarn_worker_counts(role->worker, &w);
    metrics_copy(&cache_table, stats, CACHE_STAT_cache_used_bytes, t.medium, t.used_bytes);
    metrics_copy(&cache_table, stats, CACHE_STAT_cache_capacity_bytes, t.medium, t.capacity_bytes);
    metrics_copy(&cache_table, stats, CACHE_STAT_cache_data_bytes, t.medium, t.data_bytes);
    metrics_copy(&cache_table, stats, CACHE_STAT_cache_files, 0, t.files);
    metrics_copy(&cache_table, stats, CACHE_STAT_cache_evicted_bytes, t.medium, t.evicted_bytes);
    metrics_copy(&cache_table, stats, CACHE_STAT_cache_open_files, 0, t.fds);
    metrics_copy(&cache_table, stats, CACHE_STAT_checksum_errors, 0, t.checksum_errors);
    metrics_copy(&cache_table, stats, CACHE_STAT_cache_uncached_bytes, 0, w.uncached_bytes);
    metrics_copy(&cache_table, stats, CACHE_STAT_fetch_errors, 0, w.fetch_errors);
}

struct metrics_part metrics_of_worker(struct role_worker *w)
{
    return (struct metrics_part){&cache_table, copy_worker, w};
}

/* ---- master -----------------------------------------------------------------------------------
 */

enum master_stat {
#define TARN_STAT(kind, name, labels, unit, help) MASTER_STAT_##name,
#include "tools/master_stats.def"
#undef TARN_STAT
};
static const struct tarn_stat_row master_rows[] = {
#define TARN_STAT TARN_STAT_ROW
#include "tools/master_stats.def"
#undef TARN_STAT
};
static const struct tarn_stat_table master_table =
    TARN_STAT_TABLE("A master (tarn local, master)", master_rows);

static void copy_master(struct tarn_stats *stats, void *arg)
{
    const struct role_master *role = arg;
    struct tarn_master_counts m;

    tarn_master_counts(role->master, &m);
    metrics_copy(&master_table, stats, MASTER_STAT_raft_leader, 0, 1); /* the only one */
    metrics_copy(&master_table, stats, MASTER_STAT_master_inodes, 0, m.inodes);
    metrics_copy(&master_table, stats, MASTER_STAT_master_listed_entries, 0, m.listed_entries);
    metrics_copy(&master_table, stats, MASTER_STAT_master_asks, 0, m.asks);
    metrics_copy(&master_table, stats, MASTER_STAT_stale_answers, 0, m.stale_answers);
    metrics_copy(&master_table, stats, MASTER_STAT_jobs_running, 0, m.jobs_running);
    metrics_copy(&master_table, stats, MASTER_STAT_job_files, 0, m.job_files_done);
    metrics_copy(&master_table, stats, MASTER_STAT_job_files, 1, m.job_files_failed);
    metrics_copy(&master_table, stats, MASTER_STAT_job_files, 2, m.job_files_waiting);
    metrics_copy(&master_table, stats, MASTER_STAT_sessions, 0, m.sessions);
}

struct metrics_part metrics_of_master(struct role_master *m)
{
    return (struct metrics_part){&master_table, copy_master, m};
}

/* ---- mount ------------------------------------------------------------------------------------
 */

enum mount_stat {
#define TARN_STAT(kind, name, labels, unit, help) MOUNT_STAT_##name,
#include "tools/mount_stats.def"
#undef TARN_STAT
};
static const struct tarn_stat_row mount_rows[] = {
#define TARN_STAT TARN_STAT_ROW
#include "tools/mount_stats.def"
#undef TARN_STAT
};
static const struct tarn_stat_table mount_table =
    TARN_STAT_TABLE("A mount (tarn local, mount)", mount_rows);

static void copy_mount(struct tarn_stats *stats, void *arg)
{
    const struct role_mount *role = arg;
    struct tarn_client_counts c;
    struct tarn_fuse_info f;

    tarn_client_counts(role->client, &c);
    metrics_copy(&mount_table, stats, MOUNT_STAT_read_bytes, 0, c.local_bytes);
    metrics_copy(&mount_table, stats, MOUNT_STAT_read_bytes, 1, c.remote_bytes);
    metrics_copy(&mount_table, stats, MOUNT_STAT_read_bytes, 2, c.ufs_bytes);
    metrics_copy(&mount_table, stats, MOUNT_STAT_ufs_saved_requests, 0, c.local_reads);
    metrics_copy(&mount_table, stats, MOUNT_STAT_ufs_saved_bytes, 0,
                 c.local_bytes + c.remote_bytes);
    tarn_fuse_info(role->fuse, &f);
    metrics_copy(&mount_table, stats, MOUNT_STAT_fuse_requests, 0, f.requests);
    metrics_copy(&mount_table, stats, MOUNT_STAT_fuse_answered_at_once, 0, f.sync_replies);
    metrics_copy(&mount_table, stats, MOUNT_STAT_fuse_nodes, 0, f.nodes);
    metrics_copy(&mount_table, stats, MOUNT_STAT_fuse_open_files, 0, f.open_files);
}

struct metrics_part metrics_of_mount(struct role_mount *m)
{
    return (struct metrics_part){&mount_table, copy_mount, m};
}

/* ---- worker of a cluster ----------------------------------------------------------------------
 */

enum member_stat {
#define TARN_STAT(kind, name, labels, unit, help) MEMBER_STAT_##name,
#include "tools/member_stats.def"
#undef TARN_STAT
};
static const struct tarn_stat_row member_rows[] = {
#define TARN_STAT TARN_STAT_ROW
#include "tools/member_stats.def"
#undef TARN_STAT
};
static const struct tarn_stat_table member_table =
    TARN_STAT_TABLE("A worker of a cluster (tarn worker)", member_rows);

static void copy_member(struct tarn_stats *stats, void *arg)
{
    const struct metrics_member *role = arg;
    struct tarn_member_counts m;
    struct tarn_worker_counts w;

    if (!role->member) /* not yet */
        return;
    tarn_worker_counts(role->worker->worker, &w);
    tarn_member_counts(role->member, &m);
    metrics_copy(&member_table, stats, MEMBER_STAT_worker_sent_bytes, 0, w.local_bytes);
    metrics_copy(&member_table, stats, MEMBER_STAT_worker_sent_bytes, 1, w.ufs_bytes);
    metrics_copy(&member_table, stats, MEMBER_STAT_worker_peer_bytes, 0, w.peer_bytes);
    metrics_copy(&member_table, stats, MEMBER_STAT_worker_moved_bytes, 0, m.moved_bytes);
    metrics_copy(&member_table, stats, MEMBER_STAT_worker_left_bytes, 0, m.left_bytes);
    metrics_copy(&member_table, stats, MEMBER_STAT_worker_refused_bytes, 0, m.refused_bytes);
    metrics_copy(&member_table, stats, MEMBER_STAT_worker_settled, 0, m.settled);
}

struct metrics_part metrics_of_member(struct metrics_member *m)
{
    return (struct metrics_part){&member_table, copy_member, m};
}
