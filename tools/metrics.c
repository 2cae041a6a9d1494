/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/metrics.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"
#include "lib/base/mem.h"
#include "lib/base/mtx.h"
#include "lib/http/http.h"
#include "tools/serve.h"

#define METRICS_PORTS 100u                   /* how many are tried */
#define COPY_WAIT_NS  (500 * TARN_NS_PER_MS) /* a loop that is busy longer: the last figures */

enum process_stat {
#define TARN_STAT(kind, name, labels, unit, help) PROCESS_STAT_##name,
#include "tools/process_stats.def"
#undef TARN_STAT
};
static const struct tarn_stat_row process_rows[] = {
#define TARN_STAT TARN_STAT_ROW
#include "tools/process_stats.def"
#undef TARN_STAT
};
static const struct tarn_stat_table process_table = TARN_STAT_TABLE("Every server", process_rows);

struct metrics {
    struct metrics_args args;
    struct tarn_stats *stats[METRICS_PARTS + 1]; /* of the process, then of the parts */
    struct tarn_stat_reg *reg;
    struct tarn_http *http;
    char addr[280];
    const char *_Atomic not_ready; /* as the loop last said */
    struct tarn_task task;         /* copies; the loop's while `posted` */
    struct tarn_mtx mtx;           /* LEAF: over the four below */
    struct tarn_cond copied;
    bool posted;   /* the loop has the task */
    bool stopping; /* nobody waits for the loop any more: it waits for them */
    bool stopped;  /* the task frees this */
};

void metrics_copy(const struct tarn_stat_table *t, struct tarn_stats *stats, unsigned id,
                  unsigned series, uint64_t v)
{
    TARN_ASSERT(id < t->n);
    if (t->rows[id].kind == TARN_STAT_GAUGE) {
        tarn_stats_set(stats, id, series, (int64_t)v);
    } else {
        uint64_t have = tarn_stats_get(stats, id, series);

        if (v > have)
            tarn_stats_add(stats, id, series, v - have);
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

static void copy_all(struct metrics *m)
{
    metrics_copy(&process_table, m->stats[0], PROCESS_STAT_process_resident_bytes, 0,
                 resident_bytes());
    for (unsigned i = 0; i < METRICS_PARTS && m->args.parts[i].table; i++)
        m->args.parts[i].copy(m->stats[i + 1], m->args.parts[i].arg);
    atomic_store(&m->not_ready, m->args.not_ready ? m->args.not_ready(m->args.ready_arg) : NULL);
}

static void metrics_fini(struct metrics *m)
{
    tarn_cond_fini(&m->copied);
    tarn_mtx_fini(&m->mtx);
    free(m);
}

static void copy_cb(struct tarn_task *t)
{
    struct metrics *m = TARN_CONTAINER(t, struct metrics, task);

    if (m->stopped) {
        metrics_fini(m);
        return;
    }
    copy_all(m);
    tarn_mtx_lock(&m->mtx);
    m->posted = false;
    tarn_cond_broadcast(&m->copied);
    tarn_mtx_unlock(&m->mtx);
}

/* Thread: the listener's. Has the loop copy, and waits for it, not for long. */
static void refresh_cb(void *arg)
{
    struct metrics *m = arg;

    tarn_mtx_lock(&m->mtx);
    if (!m->posted) {
        m->posted = true;
        tarn_loop_post(m->args.serve->loop, &m->task, copy_cb);
    }
    while (m->posted && !m->stopping && tarn_cond_wait_ns(&m->copied, &m->mtx, COPY_WAIT_NS))
        continue;
    tarn_mtx_unlock(&m->mtx);
}

static int ready_cb(void *arg, struct tarn_errbuf *e)
{
    struct metrics *m = arg;
    const char *why;

    refresh_cb(m);
    why = atomic_load(&m->not_ready);
    return why ? tarn_err_set(e, -TARN_E_ABSENT_DAEMON, "%s", why) : 0;
}

static int metrics_listen(struct metrics *m)
{
    struct tarn_errbuf *err = m->args.serve->err;
    const char *asked = m->args.serve->cli->server.http_listen;
    struct tarn_http_args args = {.threads = 1,
                                  .reg = m->reg,
                                  .version = TARN_VERSION,
                                  .ready = ready_cb,
                                  .check_arg = m,
                                  .refresh = refresh_cb,
                                  .refresh_arg = m};
    struct tarn_errbuf why = {{0}};
    char addr[32];
    int rc = -TARN_E_ADDR_IN_USE;

    if (asked[0]) {
        args.addr = asked;
        rc = tarn_http_start(&args, &m->http, &why);
        if (rc < 0)
            return tarn_err_set(err, rc == -TARN_E_ADDR_IN_USE ? rc : -TARN_E_CONFIG,
                                "--http-listen: %s", tarn_err_text(&why, rc));
    }
    for (unsigned i = 0; !m->http && i < METRICS_PORTS && rc == -TARN_E_ADDR_IN_USE; i++) {
        (void)snprintf(addr, sizeof(addr), "127.0.0.1:%u", m->args.port + i); /* fits */
        args.addr = addr;
        rc = tarn_http_start(&args, &m->http, &why);
    }
    if (rc < 0)
        return tarn_err_set(err, rc, "no free port for metrics from %u on: %s", m->args.port,
                            tarn_err_text(&why, rc));
    (void)snprintf(m->addr, sizeof(m->addr), "%s",
                   tarn_http_addr(m->http)); /* an address is short */
    return 0;
}

static void metrics_add(struct metrics *m, unsigned i, const struct tarn_stat_table *table)
{
    m->stats[i] = tarn_stats_new(table, "");
    tarn_stat_reg_add(m->reg, m->stats[i]);
}

int metrics_start(const struct metrics_args *args, struct metrics **ret)
{
    struct metrics *m = tarn_xnew(struct metrics);
    struct tarn_clock *clock = tarn_clock_system();
    int rc = 0;

    m->args = *args;
    atomic_init(&m->not_ready, "starting");
    tarn_mtx_init(&m->mtx, TARN_RANK_LEAF);
    tarn_cond_init(&m->copied);
    m->reg = tarn_stat_reg_new();
    metrics_add(m, 0, &process_table);
    for (unsigned i = 0; i < METRICS_PARTS && args->parts[i].table; i++)
        metrics_add(m, i + 1, args->parts[i].table);
    if (args->own)
        tarn_stat_reg_add(m->reg, args->own);
    metrics_copy(&process_table, m->stats[0], PROCESS_STAT_start_time_seconds, 0,
                 (uint64_t)clock->real_ns(clock) / TARN_NS_PER_S);
    (void)snprintf(m->addr, sizeof(m->addr), "none"); /* fits */
    if (strcmp(args->serve->cli->server.http_listen, "none") != 0)
        rc = metrics_listen(m);
    copy_all(m);
    *ret = m;
    if (rc < 0)
        metrics_stop(ret);
    return rc;
}

const char *metrics_addr(const struct metrics *m)
{
    return m->addr;
}

void metrics_stop(struct metrics **pm)
{
    struct metrics *m = *pm;

    if (!m)
        return;
    tarn_mtx_lock(&m->mtx);
    m->stopping = true;
    tarn_cond_broadcast(&m->copied);
    tarn_mtx_unlock(&m->mtx);
    if (m->http)
        tarn_http_stop(&m->http);
    if (m->args.own)
        tarn_stat_reg_remove(m->reg, m->args.own);
    for (unsigned i = 0; i < METRICS_PARTS + 1 && m->stats[i]; i++) {
        tarn_stat_reg_remove(m->reg, m->stats[i]);
        tarn_stats_free(&m->stats[i]);
    }
    tarn_stat_reg_free(&m->reg);
    m->stopped = true; /* the loop reads it on this thread */
    if (!m->posted)
        metrics_fini(m);
    *pm = NULL;
}
