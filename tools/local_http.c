/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/local_http.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fuse/fuse.h"
#include "lib/base/env.h"
#include "lib/base/mem.h"
#include "lib/base/mtx.h"
#include "lib/client/client.h"
#include "lib/http/http.h"
#include "lib/net/net.h"
#include "lib/stat/stat.h"
#include "master/master.h"
#include "store/tier/tier.h"
#include "ufs/ufs.h"
#include "worker/worker.h"

#define COPY_WAIT_NS (500 * TARN_NS_PER_MS) /* a loop that is busy longer: the last figures */

enum local_stat {
#define TARN_STAT(kind, name, labels, unit, help) LOCAL_STAT_##name,
#include "tools/local_stats.def"
#undef TARN_STAT
    LOCAL_STAT_COUNT
};

static const struct tarn_stat_row local_stat_rows[] = {
#define TARN_STAT TARN_STAT_ROW
#include "tools/local_stats.def"
#undef TARN_STAT
};
static const struct tarn_stat_table local_stat_table =
    TARN_STAT_TABLE("One machine (tarn local)", local_stat_rows);

struct local_http {
    struct local_http_args args;
    struct tarn_stats *stats;
    struct tarn_stat_reg *reg;
    struct tarn_http *http;
    char addr[280];
    struct tarn_task task; /* copies; the loop's while `posted` */
    struct tarn_mtx mtx;   /* LEAF: over the three below */
    struct tarn_cond copied;
    bool posted;  /* the loop has the task */
    bool stopped; /* the task frees this */
};

/* Counters only grow: adds what is new. Gauges are set. */
static void copy(struct local_http *h, enum local_stat id, unsigned series, uint64_t v)
{
    if (local_stat_rows[id].kind == TARN_STAT_GAUGE) {
        tarn_stats_set(h->stats, id, series, (int64_t)v);
    } else {
        uint64_t have = tarn_stats_get(h->stats, id, series);

        if (v > have)
            tarn_stats_add(h->stats, id, series, v - have);
    }
}

static uint64_t resident_bytes(void)
{
    unsigned long long pages = 0;
    FILE *f = fopen("/proc/self/statm", "re");

    if (f) {
        if (fscanf(f, "%*u %llu", &pages) != 1) /* NOLINT(cert-err34-c): the kernel's own format */
            pages = 0;
        (void)fclose(f); /* only read from */
    }
    return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

static void copy_store(struct local_http *h)
{
    struct tarn_ufs_counts u;

    tarn_master_ufs_counts(h->args.master, &u);
    copy(h, LOCAL_STAT_ufs_read_bytes, 0, u.read_bytes);
    copy(h, LOCAL_STAT_ufs_requests_sent, 0, u.requests);
    copy(h, LOCAL_STAT_ufs_retries, 0, u.retries);
    copy(h, LOCAL_STAT_ufs_failures, 0, u.failures);
    copy(h, LOCAL_STAT_ufs_requests_running, 0, u.running);
    for (unsigned op = 0; op < TARN_UFS_OP_COUNT; op++)
        for (unsigned st = 0; st < TARN_UFS_STATUS_COUNT; st++)
            copy(h, LOCAL_STAT_ufs_requests,
                 tarn_stats_series(h->stats, LOCAL_STAT_ufs_requests, op, st, 0), u.ended[op][st]);
}

static void copy_cache(struct local_http *h)
{
    struct tarn_tier_info t;
    struct tarn_worker_counts w;

    tarn_tier_info(h->args.tier, &t);
    tarn_worker_counts(h->args.worker, &w);
    copy(h, LOCAL_STAT_cache_used_bytes, t.medium, t.used_bytes);
    copy(h, LOCAL_STAT_cache_capacity_bytes, t.medium, t.capacity_bytes);
    copy(h, LOCAL_STAT_cache_data_bytes, t.medium, t.data_bytes);
    copy(h, LOCAL_STAT_cache_files, 0, t.files);
    copy(h, LOCAL_STAT_cache_evicted_bytes, t.medium, t.evicted_bytes);
    copy(h, LOCAL_STAT_cache_open_files, 0, t.fds);
    copy(h, LOCAL_STAT_checksum_errors, 0, t.checksum_errors);
    copy(h, LOCAL_STAT_cache_uncached_bytes, 0, w.uncached_bytes);
    copy(h, LOCAL_STAT_fetch_errors, 0, w.fetch_errors);
}

static void copy_names(struct local_http *h)
{
    struct tarn_master_counts m;
    struct tarn_client_counts c;
    struct tarn_fuse_info f;

    tarn_master_counts(h->args.master, &m);
    copy(h, LOCAL_STAT_raft_leader, 0, 1); /* the only one */
    copy(h, LOCAL_STAT_master_inodes, 0, m.inodes);
    copy(h, LOCAL_STAT_master_listed_entries, 0, m.listed_entries);
    copy(h, LOCAL_STAT_master_asks, 0, m.asks);
    copy(h, LOCAL_STAT_stale_answers, 0, m.stale_answers);
    copy(h, LOCAL_STAT_jobs_running, 0, m.jobs_running);
    copy(h, LOCAL_STAT_job_files, 0, m.job_files_done);
    copy(h, LOCAL_STAT_job_files, 1, m.job_files_failed);
    copy(h, LOCAL_STAT_job_files, 2, m.job_files_waiting);
    copy(h, LOCAL_STAT_sessions, 0, m.sessions);
    tarn_client_counts(h->args.client, &c);
    copy(h, LOCAL_STAT_read_bytes, 0, c.local_bytes);
    copy(h, LOCAL_STAT_read_bytes, 1, c.remote_bytes);
    copy(h, LOCAL_STAT_ufs_saved_requests, 0, c.local_reads);
    copy(h, LOCAL_STAT_ufs_saved_bytes, 0, c.local_bytes + c.remote_bytes);
    copy(h, LOCAL_STAT_read_bytes, 2, c.ufs_bytes);
    tarn_fuse_info(h->args.fuse, &f);
    copy(h, LOCAL_STAT_fuse_requests, 0, f.requests);
    copy(h, LOCAL_STAT_fuse_answered_at_once, 0, f.sync_replies);
    copy(h, LOCAL_STAT_fuse_nodes, 0, f.nodes);
    copy(h, LOCAL_STAT_fuse_open_files, 0, f.open_files);
}

static void copy_all(struct local_http *h)
{
    copy_store(h);
    copy_cache(h);
    copy_names(h);
    copy(h, LOCAL_STAT_process_resident_bytes, 0, resident_bytes());
}

static void http_fini(struct local_http *h)
{
    tarn_cond_fini(&h->copied);
    tarn_mtx_fini(&h->mtx);
    free(h);
}

static void copy_cb(struct tarn_task *t)
{
    struct local_http *h = TARN_CONTAINER(t, struct local_http, task);

    if (h->stopped) {
        http_fini(h);
        return;
    }
    copy_all(h);
    tarn_mtx_lock(&h->mtx);
    h->posted = false;
    tarn_cond_broadcast(&h->copied);
    tarn_mtx_unlock(&h->mtx);
}

/* Thread: the listener's. Has the loop copy, and waits for it, not for long. */
static void refresh_cb(void *arg)
{
    struct local_http *h = arg;

    tarn_mtx_lock(&h->mtx);
    if (!h->posted) {
        h->posted = true;
        tarn_loop_post(h->args.loop, &h->task, copy_cb);
    }
    while (h->posted && tarn_cond_wait_ns(&h->copied, &h->mtx, COPY_WAIT_NS))
        continue;
    tarn_mtx_unlock(&h->mtx);
}

static int http_listen(struct local_http *h, struct tarn_errbuf *err)
{
    struct tarn_http_args args = {.threads = 1,
                                  .reg = h->reg,
                                  .version = TARN_VERSION,
                                  .refresh = refresh_cb,
                                  .refresh_arg = h};
    struct tarn_errbuf why = {{0}};
    char addr[32];
    int rc = -TARN_E_ADDR_IN_USE;

    if (h->args.addr[0]) {
        args.addr = h->args.addr;
        rc = tarn_http_start(&args, &h->http, &why);
        if (rc < 0)
            return tarn_err_set(err, rc == -TARN_E_ADDR_IN_USE ? rc : -TARN_E_CONFIG,
                                "--http-listen %s: %s", h->args.addr, tarn_err_text(&why, rc));
    }
    for (unsigned i = 0; !h->http && i < h->args.ports && rc == -TARN_E_ADDR_IN_USE; i++) {
        (void)snprintf(addr, sizeof(addr), "127.0.0.1:%u", h->args.first_port + i); /* fits */
        args.addr = addr;
        rc = tarn_http_start(&args, &h->http, &why);
    }
    if (rc < 0)
        return tarn_err_set(err, rc, "no free port for metrics from %u on: %s", h->args.first_port,
                            tarn_err_text(&why, rc));
    (void)snprintf(h->addr, sizeof(h->addr), "%s",
                   tarn_http_addr(h->http)); /* an address is short */
    return 0;
}

int local_http_start(const struct local_http_args *args, struct tarn_errbuf *err,
                     struct local_http **ret)
{
    struct local_http *h = tarn_xnew(struct local_http);
    struct tarn_clock *clock = tarn_clock_system();
    int rc = 0;

    h->args = *args;
    tarn_mtx_init(&h->mtx, TARN_RANK_LEAF);
    tarn_cond_init(&h->copied);
    h->stats = tarn_stats_new(&local_stat_table, "");
    h->reg = tarn_stat_reg_new();
    tarn_stat_reg_add(h->reg, h->stats);
    tarn_stat_reg_add(h->reg, tarn_fuse_stats(args->fuse));
    copy(h, LOCAL_STAT_start_time_seconds, 0, (uint64_t)clock->real_ns(clock) / TARN_NS_PER_S);
    (void)snprintf(h->addr, sizeof(h->addr), "none"); /* fits */
    if (strcmp(args->addr, "none") != 0)
        rc = http_listen(h, err);
    copy_all(h);
    *ret = h;
    if (rc < 0)
        local_http_stop(ret);
    return rc;
}

const char *local_http_addr(const struct local_http *h)
{
    return h->addr;
}

void local_http_stop(struct local_http **ph)
{
    struct local_http *h = *ph;

    if (h->http)
        tarn_http_stop(&h->http);
    tarn_stat_reg_remove(h->reg, tarn_fuse_stats(h->args.fuse));
    tarn_stat_reg_remove(h->reg, h->stats);
    tarn_stat_reg_free(&h->reg);
    tarn_stats_free(&h->stats);
    h->stopped = true; /* the loop reads it on this thread */
    if (!h->posted)
        http_fini(h);
    *ph = NULL;
}
