/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Block I/O on a simulated loop: each request waits for a virtual time drawn from the seed, is then
 * done at once, and answered. A READ or SYNC that is to fail does nothing; a WRITE that is to fail
 * is torn: a part of it, from none to all, is written.
 */
#include <errno.h>
#include <stdlib.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"
#include "lib/base/list.h"
#include "lib/base/mem.h"
#include "lib/disk/disk_priv.h"

/* Owner: the loop. */
struct disk_sim {
    struct tarn_disk base;          /* first */
    struct tarn_loop *loop;         /* whose time it uses */
    struct tarn_disk_sim_args args; /* as given */
    struct tarn_rng_seeded rng;     /* every choice */
    struct tarn_list waiting;       /* requests under way */
};

/* A request under way. */
struct sim_io {
    struct tarn_list node;   /* waiting */
    struct disk_sim *disk;   /* whose */
    struct tarn_timer timer; /* when it is done */
    struct tarn_disk_io *io; /* the caller's */
};

static struct disk_sim *sim_of(struct tarn_disk *d)
{
    return TARN_CONTAINER(d, struct disk_sim, base);
}

static void sim_fail(struct disk_sim *d, struct tarn_disk_io *io)
{
    if (io->op == TARN_DISK_WRITE) {
        uint32_t len = io->len_bytes;

        io->len_bytes = (uint32_t)tarn_rng_below(&d->rng.base, (uint64_t)len + 1);
        tarn_disk_do(io);
        io->len_bytes = len;
    }
    io->rc = -EIO;
}

static void sim_finish(struct sim_io *w)
{
    struct disk_sim *d = w->disk;
    struct tarn_disk_io *io = w->io;

    tarn_timer_stop(&w->timer);
    tarn_list_del(&w->node);
    free(w);
    if (io->op != TARN_DISK_CALL && tarn_rng_below(&d->rng.base, 1000) < d->args.eio_per_mille)
        sim_fail(d, io);
    else
        tarn_disk_do(io);
    tarn_disk_complete(io);
}

static void sim_due(struct tarn_timer *t, void *arg)
{
    (void)t;
    sim_finish(arg);
}

static void sim_submit(struct tarn_disk *base, struct tarn_disk_io *io)
{
    struct disk_sim *d = sim_of(base);
    struct sim_io *w = tarn_xnew(struct sim_io);

    w->disk = d;
    w->io = io;
    tarn_list_push(&d->waiting, &w->node);
    tarn_timer_start(d->loop, &w->timer, tarn_rng_below(&d->rng.base, d->args.delay_ns_max + 1),
                     sim_due, w);
}

static void sim_free(struct tarn_disk *base)
{
    struct disk_sim *d = sim_of(base);
    TARN_LIST_FOREACH_SAFE(it, &d->waiting)
    {
        sim_finish(TARN_LIST_ENTRY(it, struct sim_io, node));
    }
    TARN_ASSERT(tarn_list_empty(&d->waiting));
    base->magic = 0;
    free(d);
}

static const struct tarn_disk_ops sim_ops = {.submit = sim_submit, .free = sim_free};

struct tarn_disk *tarn_disk_sim_new(struct tarn_loop *l, const struct tarn_disk_sim_args *args)
{
    struct disk_sim *d = tarn_xnew(struct disk_sim);

    TARN_ASSERT(l && args->delay_ns_max < UINT64_MAX && args->eio_per_mille <= 1000);
    d->base.magic = TARN_DISK_MAGIC;
    d->base.ops = &sim_ops;
    d->loop = l;
    d->args = *args;
    tarn_rng_seeded_init(&d->rng, args->seed);
    tarn_list_init(&d->waiting);
    return &d->base;
}
