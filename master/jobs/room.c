/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Room for a load, per worker: what it plans for each, against what the worker can hold. A load
 * that goes ahead reserves what it has planned until it ends, so that of two that do not fit
 * together the second one is told before it starts; a file that both want counts once, and so does
 * one that has two names. The figures are in memory only: a run that goes on after a restart plans
 * once more (phase ROOM) before anybody else's room is settled.
 */
#include "master/jobs/jobs_priv.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/env.h"
#include "lib/base/hash.h"
#include "lib/base/units.h"

#define ROOM_PERCENT     97u   /* of the capacity: the rest is the index's and the evictor's */
#define ROOM_EXACT_MAX   4096u /* segments of a file that are planned one by one */
#define ROOM_REPLICAS(n) TARN_MAX((n), 1u)

void mroom_clear(struct mrun *r)
{
    free(r->room.rows);
    mset_fini(&r->room.files);
    r->room = (struct mroom){0};
}

void mroom_clear_rows(struct mrun *r)
{
    bool rebuilding = r->room.rebuilding;

    mroom_clear(r);
    r->room.rebuilding = rebuilding;
}

static struct mroom_row *room_find(const struct mrun *r, uint64_t id)
{
    for (size_t i = 0; i < r->room.n; i++)
        if (r->room.rows[i].id == id)
            return &r->room.rows[i];
    return NULL;
}

static struct mroom_row *room_row(struct mrun *r, uint64_t id)
{
    struct mroom_row *row = room_find(r, id);

    if (row)
        return row;
    r->room.rows = tarn_xrealloc(r->room.rows, (r->room.n + 1) * sizeof(*row));
    row = &r->room.rows[r->room.n++];
    *row = (struct mroom_row){.id = id};
    return row;
}

void mroom_capacity(struct mrun *r, uint64_t id, uint64_t capacity)
{
    struct mroom_row *row = room_row(r, id);

    row->known = true;
    row->room = capacity / 100 * ROOM_PERCENT;
}

static uint64_t room_blocks(uint64_t bytes)
{
    return tarn_div_up(bytes, ROOM_BLOCK) * ROOM_BLOCK;
}

/* What a file wants of each worker, into `want`; a file of many segments spreads as weights say. */
static void room_spread_even(struct mrun *r, const struct mroom_file *f)
{
    const struct tarn_place *place = tarn_peers_place(r->master->peers);
    uint64_t weights = 0;

    for (unsigned i = 0; i < tarn_place_count(place); i++) {
        const struct tarn_place_worker *w = tarn_place_at(place, i);

        weights += w->state == TARN_WORKER_LIVE ? w->weight : 0;
    }
    for (unsigned i = 0; i < tarn_place_count(place); i++) {
        const struct tarn_place_worker *w = tarn_place_at(place, i);
        uint64_t share = f->len / TARN_MAX(weights, (uint64_t)1);

        if (w->state == TARN_WORKER_LIVE)
            room_row(r, w->id)->want = room_blocks(share * w->weight * ROOM_REPLICAS(f->replicas));
    }
}

static void room_want(struct mrun *r, const struct mroom_file *f)
{
    uint64_t ids[TARN_PLACE_PICK_MAX], end = f->off + f->len;

    for (size_t i = 0; i < r->room.n; i++)
        r->room.rows[i].want = 0;
    if (!tarn_peers_place(r->master->peers))
        return;
    if (mspread_segments(f->len) > ROOM_EXACT_MAX) {
        room_spread_even(r, f);
        return;
    }
    for (uint64_t off = f->off, stop; off < end; off = stop) {
        unsigned n = mtargets(r->master, &f->cid, tarn_segment_of(off), f->replicas, ids);

        stop = TARN_MIN(end, (off / TARN_SEGMENT_BYTES + 1) * TARN_SEGMENT_BYTES);
        for (unsigned i = 0; i < n; i++)
            if (ids[i] != 0)
                room_row(r, ids[i])->want += room_blocks(stop - off);
    }
}

/* Names a range of a file version, with its replicas; 0: it has no name. */
static uint64_t room_key(const struct mroom_file *f)
{
    uint64_t cid[2], key;

    memcpy(cid, f->cid.b, sizeof(cid));
    if (cid[0] == 0 && cid[1] == 0)
        return 0;
    key = tarn_hash_u64(tarn_hash_u64(cid[0]) ^ cid[1]);
    key = tarn_hash_u64(tarn_hash_u64(key ^ f->off) ^ f->len);
    return TARN_MAX(tarn_hash_u64(key ^ f->replicas), (uint64_t)1);
}

static void row_share(struct mroom_row *row, uint64_t job, uint64_t bytes)
{
    size_t i = 0;

    while (i < JOBS_RUNNING_MAX && row->shared[i].job != job && row->shared[i].job != 0)
        i++;
    if (i == JOBS_RUNNING_MAX)
        return; /* others have come and gone: it counts twice */
    row->shared[i].job = job;
    row->shared[i].bytes += bytes;
}

/* Of what `other` has planned at a worker, what this one has planned, too. */
static uint64_t row_shared(const struct mroom_row *row, uint64_t job)
{
    for (size_t i = 0; row && i < JOBS_RUNNING_MAX; i++)
        if (row->shared[i].job == job)
            return row->shared[i].bytes;
    return 0;
}

/* Both have planned the file at hand. */
static void room_share(struct mrun *r, struct mrun *other)
{
    for (size_t i = 0; i < r->room.n; i++) {
        struct mroom_row *row = &r->room.rows[i];

        if (row->want == 0)
            continue;
        row_share(row, other->job->id, row->want);
        row_share(room_row(other, row->id), r->job->id, row->want);
    }
}

void mroom_plan(struct mrun *r, const struct mroom_file *f)
{
    uint64_t key = room_key(f);

    r->room.most_replicas = TARN_MAX(r->room.most_replicas, ROOM_REPLICAS(f->replicas));
    if (key && !mset_add(&r->room.files, key))
        return; /* it has another name, too */
    room_want(r, f);
    for (size_t i = 0; i < r->room.n; i++)
        r->room.rows[i].planned += r->room.rows[i].want;
    TARN_LIST_FOREACH(n, &r->job->jobs->all)
    {
        struct mrun *other = TARN_LIST_ENTRY(n, struct mjob, node)->run;

        if (key && other && other != r && mset_has(&other->room.files, key))
            room_share(r, other);
    }
}

/* What other jobs have planned for a worker, but this one not. */
static uint64_t room_taken(const struct mrun *r, uint64_t id)
{
    const struct mroom_row *mine = room_find(r, id);
    uint64_t taken = 0;

    TARN_LIST_FOREACH(n, &r->job->jobs->all)
    {
        const struct mrun *other = TARN_LIST_ENTRY(n, struct mjob, node)->run;
        const struct mroom_row *row =
            other && other != r && other->room.reserved ? room_find(other, id) : NULL;
        uint64_t planned;

        if (!row)
            continue;
        planned = row->known ? TARN_MIN(row->planned, row->room) : row->planned;
        taken += planned - TARN_MIN(planned, row_shared(mine, other->job->id));
    }
    return taken;
}

bool mroom_admit(struct mrun *r, const struct mroom_file *f)
{
    room_want(r, f);
    for (size_t i = 0; i < r->room.n; i++) {
        const struct mroom_row *row = &r->room.rows[i];
        uint64_t used = row->admitted + room_taken(r, row->id);

        if (row->known && row->want > 0 && row->want > row->room - TARN_MIN(row->room, used))
            return false;
    }
    for (size_t i = 0; i < r->room.n; i++)
        r->room.rows[i].admitted += r->room.rows[i].want;
    return true;
}

bool mroom_pending(const struct mrun *r)
{
    TARN_LIST_FOREACH(n, &r->job->jobs->all)
    {
        const struct mrun *other = TARN_LIST_ENTRY(n, struct mjob, node)->run;

        if (other && other != r && other->room.rebuilding && !other->ended)
            return true;
    }
    return false;
}

char *mroom_missing(const struct mrun *r)
{
    const struct mroom_row *worst = NULL;
    uint64_t missing = 0, taken = 0, all = 0;
    char need[32], holds[32], others[32], lacks[32];
    TARN_AUTO_FREE char *at = NULL, *by_others = NULL, *more = NULL;
    size_t short_of = 0;

    for (size_t i = 0; i < r->room.n; i++) {
        const struct mroom_row *row = &r->room.rows[i];
        uint64_t used = room_taken(r, row->id), left = row->room - TARN_MIN(row->room, used);

        if (!row->known || row->planned <= left)
            continue;
        short_of++;
        all += row->planned - left;
        if (row->planned - left <= missing)
            continue;
        worst = row;
        missing = row->planned - left;
        taken = used;
    }
    if (!worst)
        return NULL;
    if (mworker_lone(r->master, worst->id)) {
        at = tarn_xstrdup(", the cache");
    } else {
        TARN_AUTO_FREE char *name = mworker_text(r->master, worst->id);

        at = tarn_xasprintf(" at %s, its cache", name);
    }
    by_others =
        taken ? tarn_xasprintf(", of which other jobs need %s", tarn_format_size(taken, others))
              : tarn_xstrdup("");
    more = short_of > 1 ? tarn_xasprintf(" (%zu workers lack room, %s in all)", short_of,
                                         tarn_format_size(all, others))
                        : tarn_xstrdup("");
    return tarn_xasprintf(
        "needs %s%s holds %s%s: %s missing%s", tarn_format_size(worst->planned, need), at,
        tarn_format_size(worst->room, holds), by_others, tarn_format_size(missing, lacks), more);
}

char *mroom_few(const struct mrun *r, uint32_t replicas)
{
    unsigned live = mworkers_live(r->master);

    if (replicas <= live || live == 0)
        return NULL;
    return tarn_xasprintf("%u replicas need as many workers, there %s %u", replicas,
                          live == 1 ? "is" : "are", live);
}
