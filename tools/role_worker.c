/* SPDX-License-Identifier: Apache-2.0 */
/* The worker's part of a server: a tier, or none, and the worker upon it. */
#include "tools/roles.h"

#include "lib/base/env.h"

int role_worker_open_tier(struct serve *s, struct role_worker *w, struct tarn_tier_args *args)
{
    args->loop = s->loop;
    args->disk = s->disk;
    args->clock = tarn_clock_system();
    args->disk_free_bp = s->cli->cache.disk_free;
    args->fds_max = serve_open_files(s->cli);
    return tarn_tier_open(args, s->err, &w->tier);
}

int role_worker_open(struct serve *s, struct role_worker *w, struct tarn_worker_args *args)
{
    args->loop = s->loop;
    args->disk = s->disk;
    args->clock = tarn_clock_system();
    args->tier = w->tier;
    args->fetch_bytes_max = s->cli->cache.fetch_memory;
    return tarn_worker_new(args, &w->worker);
}

void role_worker_stop(struct serve *s, struct role_worker *w)
{
    struct serve_step st = {.serve = s};

    if (!w->worker)
        return;
    tarn_worker_stop(w->worker, serve_done, &st);
    (void)serve_wait(&st);
}

void role_worker_close(struct role_worker *w)
{
    tarn_worker_free(&w->worker);
    if (w->tier)
        tarn_tier_close(&w->tier);
}

void role_rpc_stop(struct serve *s, struct tarn_rpc_client **c)
{
    struct serve_step st = {.serve = s};

    if (!*c)
        return;
    tarn_rpc_client_stop(*c, serve_done, &st);
    (void)serve_wait(&st);
    tarn_rpc_client_free(c);
}
