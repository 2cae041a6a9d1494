/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Range reads. A range is cut into parts, one per group; each part is served from the tier
 * (verified first where it was not since the start), from a fetch under way, or by a new fetch:
 *
 *     part_start -> present in the tier? -> load (verify) -> read on the disk pool -> done
 *                -> else wfetch -> done as soon as its bytes have arrived
 *
 * What was evicted between two steps starts over, at most PART_TRIES times; then it is fetched
 * without looking at the tier. A part's callback may run inside wread_start(); the read's own
 * callback is a posted task, so it never does.
 */
#include "worker/worker_priv.h"

#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/hash.h"
#include "lib/base/mem.h"

#define PART_TRIES      3
#define PIPE_BYTES_MIN  (512u << 10)   /* a pipe costs more than copying less */
#define PIPES_BYTES_MAX (64ull << 20)  /* in answers: each pipe takes two descriptors */
#define SERVE_BYTES_MAX (256ull << 20) /* of answers to peers in memory; more are BUSY */

static void part_start(struct wpart *p);

static void read_end(struct tarn_task *t)
{
    struct wread *r = TARN_CONTAINER(t, struct wread, task);
    struct tarn_worker *w = r->worker;

    r->cb(r, r->cancelled ? -TARN_E_CANCELLED : r->rc);
    worker_idle(w);
}

static void part_done(struct wpart *p, int rc)
{
    struct wread *r = p->read;

    if (rc < 0 && r->rc == 0)
        r->rc = rc;
    TARN_ASSERT(r->pending > 0);
    if (--r->pending == 0 && !r->done) {
        r->done = true;
        tarn_loop_post(r->worker->args.loop, &r->task, read_end);
    }
}

static uint64_t *part_sums(struct wpart *p)
{
    return p->read->sum + (p->off_bytes - p->read->off_bytes) / TARN_GRANULE_BYTES;
}

static void part_fetched(struct wwait *wait, struct wunit *u, int rc)
{
    struct wpart *p = wait->arg;

    p->waiting = false;
    if (rc < 0) {
        part_done(p, rc);
        return;
    }
    p->source = u->source;
    p->level = u->level; /* 0 while bytes arrive: who keeps what he gets waits for the end */
    p->tag = u->tag;
    p->buf_off = (size_t)(p->off_bytes - u->off_bytes);
    if (p->read->part_count == 1) {
        p->buf = tarn_buf_ref(u->buf);
    } else { /* the other parts may take long, and the unit's memory is counted only while it is
                fetched */
        p->buf = tarn_buf_new(p->len_bytes);
        if (!p->buf) {
            part_done(p, -TARN_E_NO_MEMORY);
            return;
        }
        memcpy(p->buf->p, u->buf->p + p->buf_off, p->len_bytes);
        p->buf_off = 0;
    }
    if (p->read->sums) {
        const uint8_t *bytes = p->buf->p + p->buf_off;

        for (uint32_t at = 0, i = 0; at < p->len_bytes; at += TARN_GRANULE_BYTES, i++)
            part_sums(p)[i] =
                tarn_xxh3(bytes + at, TARN_MIN(TARN_GRANULE_BYTES, p->len_bytes - at));
    }
    part_done(p, 0);
}

static void part_fetch(struct wpart *p)
{
    struct wread *r = p->read;
    uint64_t start = (uint64_t)p->group * TARN_UNIT_BYTES;

    if (r->cached_only) {
        part_done(p, -TARN_E_NOT_CACHED);
        return;
    }
    p->waiting = true;
    p->wait = (struct wwait){.need = (uint32_t)(p->off_bytes + p->len_bytes - start),
                             .end = r->own,
                             .ahead = r->ahead_units,
                             .fn = part_fetched,
                             .arg = p};
    wfetch(r->worker, r->loc, p->group, r->cls, r->own, &p->wait);
}

static void part_drop(struct wpart *p)
{
    tarn_buf_unref(&p->buf);
}

static void part_again(struct wpart *p)
{
    part_drop(p);
    if (p->read->cancelled)
        part_done(p, -TARN_E_CANCELLED);
    else if (++p->tries < PART_TRIES)
        part_start(p);
    else
        part_fetch(p);
}

static void part_pool_read(struct tarn_disk_io *io)
{
    struct wpart *p = io->arg;

    io->rc = tarn_tier_try_read(p->read->loc->file, p->off_bytes, p->len_bytes, p->buf->p);
}

static void part_pool_done(struct tarn_disk_io *io)
{
    struct wpart *p = io->arg;

    if (io->rc == (int64_t)p->len_bytes) {
        p->buf_off = 0;
        part_done(p, 0);
    } else {
        part_again(p);
    }
}

/* Bit set of the granules of a group that [off, off + len) touches. */
static uint64_t part_granules(const struct wpart *p)
{
    uint64_t start = (uint64_t)p->group * TARN_UNIT_BYTES;
    uint32_t first = (uint32_t)((p->off_bytes - start) / TARN_GRANULE_BYTES);
    uint32_t last = (uint32_t)((p->off_bytes + p->len_bytes - 1 - start) / TARN_GRANULE_BYTES);
    uint64_t upto = last == 63 ? UINT64_MAX : (1ull << (last + 1)) - 1;

    return upto & ~((1ull << first) - 1);
}

static void part_summed(struct tarn_tier_op *op, int rc)
{
    struct wpart *p = op->arg;
    uint64_t start = (uint64_t)p->group * TARN_UNIT_BYTES;
    uint32_t first = (uint32_t)((p->off_bytes - start) / TARN_GRANULE_BYTES);

    if (rc < 0 || op->granules != part_granules(p)) {
        part_again(p);
        return;
    }
    p->buf_off = 0;
    for (uint32_t i = 0; i * TARN_GRANULE_BYTES < p->len_bytes; i++)
        part_sums(p)[i] = op->sums[first + i];
    p->level = tarn_tier_file_level(op->file);
    (void)tarn_tier_file_tag(op->file, &p->tag); /* it has one: the granules are present */
    part_done(p, 0);
}

/*
 * Whether there is memory for an answer. It is taken until the peer has read it, so one peer gets
 * as much as is left for the others; and each gets one answer at a time, so that those who do not
 * read stop nobody.
 */
static bool part_admit(const struct wpart *p)
{
    struct wread *r = p->read;
    size_t mine = tarn_buf_account_bytes(r->account);

    if (!r->admitted)
        r->admitted =
            mine == 0 ||
            tarn_buf_account_bytes(r->worker->serving) + mine + r->len_bytes <= SERVE_BYTES_MAX;
    return r->admitted;
}

/* Pages of the cache file where they can go to the peer as they are. */
static struct tarn_buf *part_buf(struct tarn_worker *w, const struct wpart *p)
{
    struct tarn_buf *b = NULL;

    if (p->read->part_count == 1 && p->len_bytes >= PIPE_BYTES_MIN && p->tries == 0 &&
        tarn_buf_account_bytes(w->serving) < PIPES_BYTES_MAX)
        b = tarn_buf_pipe(p->len_bytes);
    return b ? b : worker_buf(w, p->len_bytes);
}

static void part_tier_read(struct wpart *p)
{
    struct wread *r = p->read;
    struct tarn_worker *w = r->worker;

    if (r->cancelled) {
        part_done(p, -TARN_E_CANCELLED);
        return;
    }
    if (p->read->sums) {
        if (!part_admit(p)) {
            part_done(p, -TARN_E_BUSY);
            return;
        }
        p->buf = part_buf(w, p);
        if (p->buf)
            tarn_buf_charge(p->buf, r->account);
        p->op = (struct tarn_tier_op){.file = p->read->loc->file,
                                      .group = p->group,
                                      .buf = p->buf,
                                      .granules = part_granules(p),
                                      .unchecked = r->unchecked && p->tries == 0,
                                      .cb = part_summed,
                                      .arg = p};
    } else {
        p->buf = tarn_buf_new(p->len_bytes);
    }
    if (!p->buf) {
        part_done(p, -TARN_E_NO_MEMORY);
        return;
    }
    if (p->read->sums) {
        tarn_tier_read(w->args.tier, &p->op);
        return;
    }
    p->io = (struct tarn_disk_io){.loop = w->args.loop,
                                  .op = TARN_DISK_CALL,
                                  .work = part_pool_read,
                                  .cb = part_pool_done,
                                  .arg = p};
    tarn_disk_submit(w->args.disk, &p->io);
}

static void part_loaded(struct tarn_tier_op *op, int rc)
{
    struct wpart *p = op->arg;

    if (rc < 0 || (op->granules & part_granules(p)) != part_granules(p))
        part_again(p);
    else
        part_tier_read(p);
}

static void part_start(struct wpart *p)
{
    struct wread *r = p->read;
    struct tarn_tier_file *file = r->loc->file;

    if (r->worker->stopping) {
        part_done(p, -TARN_E_SHUTDOWN);
    } else if (!file || !tarn_tier_file_has(file, p->off_bytes, p->len_bytes)) {
        part_fetch(p);
    } else if (!tarn_tier_file_verified(file, p->off_bytes, p->len_bytes)) {
        p->op = (struct tarn_tier_op){.file = file, .group = p->group, .cb = part_loaded, .arg = p};
        tarn_tier_load(r->worker->args.tier, &p->op);
    } else {
        part_tier_read(p);
    }
}

/* Fetches ahead of a sequential reader, with at most three quarters of the memory for fetch units.
 */
static void read_ahead(struct wread *r)
{
    struct tarn_worker *w = r->worker;
    uint32_t first = wgroup_of(r->off_bytes + r->len_bytes - 1) + 1;
    uint32_t end = wgroup_count(r->loc->ufs.size_bytes);

    for (uint32_t i = 0; i < r->ahead_units && first + i < end; i++) {
        uint64_t off = (uint64_t)(first + i) * TARN_UNIT_BYTES;
        uint32_t len = wgroup_len(r->loc->ufs.size_bytes, first + i);

        if (w->fetch_bytes + len > w->args.fetch_bytes_max / 4 * 3)
            return;
        if (!r->loc->file || tarn_tier_file_has(r->loc->file, off, len) ||
            wfetch_find(w, &r->loc->cid, first + i))
            continue;
        wfetch(w, r->loc, first + i, r->cls, r->own, NULL);
    }
}

void wread_start(struct tarn_worker *w, struct wread *r)
{
    uint64_t off = r->off_bytes, end = r->off_bytes + r->len_bytes;

    TARN_ASSERT(r->len_bytes > 0 && end <= r->loc->ufs.size_bytes);
    worker_busy(w);
    r->worker = w;
    r->part_count = 0;
    r->rc = 0;
    r->done = false;
    r->cancelled = false;
    r->admitted = false;
    while (off < end) {
        struct wpart *p = &r->parts[r->part_count++];
        uint32_t group = wgroup_of(off);
        uint64_t group_end = ((uint64_t)group + 1) * TARN_UNIT_BYTES;

        TARN_ASSERT(r->part_count <= WREAD_PARTS_MAX);
        memset(p, 0, sizeof(*p));
        p->read = r;
        p->group = group;
        p->off_bytes = off;
        p->len_bytes = (uint32_t)(TARN_MIN(end, group_end) - off);
        off += p->len_bytes;
    }
    r->pending = r->part_count + 1; /* one for this function: parts may end inside it */
    for (unsigned i = 0; i < r->part_count; i++)
        part_start(&r->parts[i]);
    if (r->ahead_units && !w->stopping)
        read_ahead(r);
    part_done(&r->parts[0], 0);
}

void wread_cancel(struct wread *r)
{
    if (r->done)
        return;
    r->cancelled = true;
    for (unsigned i = 0; i < r->part_count; i++) {
        struct wpart *p = &r->parts[i];

        if (p->waiting) {
            p->waiting = false;
            wfetch_forget(&p->wait);
            part_done(p, -TARN_E_CANCELLED);
        }
    }
}

void wread_fini(struct wread *r)
{
    for (unsigned i = 0; i < r->part_count; i++)
        part_drop(&r->parts[i]);
    tarn_buf_account_unref(&r->account);
}
