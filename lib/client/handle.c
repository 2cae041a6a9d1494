/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Open file versions. tarn_handle_try_read() reads the local worker's cache file on the caller's
 * thread, tarn_handle_try_slices() has what was read ahead from other workers (window.c); whatever
 * is not there goes to the loop:
 *
 *     tarn_handle_read -> (the first time) LOCATE: where the bytes come from; while the master does
 *                         not answer, by cid: what workers have of it
 *                      -> the local worker's read (in process)
 *                      -> or pieces: from the window, or a fetch of its own (fetch.c)
 *
 * A handle keeps its version. Once the store or the master says that the object is another one,
 * `stale` is set: ranges that are cached go on, others are EIO. Sequential readers fetch ahead:
 * each read that continues the last one doubles the number of units that the store is asked for, up
 * to CLIENT_AHEAD_MAX, and lets the window grow.
 */
#include "lib/client/client_priv.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"
#include "lib/base/limits.h"

#define LOCATE_LATE_NS TARN_NS_PER_S /* then what workers have is read without */
#define READ_PIECES    TARN_SLICES_MAX

/*
 * How far a sequential reader may be out of order: bytes, or lengths of a read. The kernel has two
 * windows of read-ahead under way, each of twice the size after POSIX_FADV_SEQUENTIAL.
 */
#define SEQUENTIAL_SLACK (1ull << 20)
#define SEQUENTIAL_READS 8u

/* A part of a read that one answer brings. */
struct read_piece {
    struct read_state *state;
    struct client_fetch *fetch; /* its own, under way; or */
    struct client_waiter wait;  /* for the window */
    bool running;
    enum client_source source;
};

struct read_state {
    struct tarn_read *read;
    struct tarn_local_read local;
    uint64_t deadline_ns; /* loop time */
    struct read_piece pieces[READ_PIECES];
    unsigned piece_count, pending; /* one more while they are started */
    bool remote;                   /* pieces are under way */
    bool bare;                     /* they were asked for by their cid alone */
    bool waits;                    /* in the handle's list */
    bool local_running;
};

struct tarn_handle *tarn_handle_open(struct tarn_client *c, const struct tarn_attr *attr)
{
    struct tarn_handle *h = tarn_xnew(struct tarn_handle);

    TARN_ASSERT(attr->type == TARN_TYPE_FILE);
    h->magic = CLIENT_HANDLE_MAGIC;
    h->client = c;
    h->attr = *attr;
    tarn_list_init(&h->waiting);
    client_window_init(h);
    if (c->local.open && attr->size_bytes > 0)
        h->file = c->local.open(c->local.ctx, &attr->cid, attr->size_bytes);
    return h;
}

bool tarn_handle_remote(const struct tarn_handle *h)
{
    return !h->file && h->attr.size_bytes > 0;
}

void tarn_handle_share(struct tarn_handle *h, struct tarn_object *o)
{
    TARN_ASSERT(!h->object && !atomic_load(&h->used_loop));
    h->object = tarn_object_ref(o);
}

static void handle_free(struct tarn_handle *h)
{
    client_window_fini(h);
    if (h->file)
        h->client->local.close(h->client->local.ctx, h->file);
    if (h->located)
        tarn__wire__locate_response__free_unpacked(h->located, NULL);
    tarn_object_unref(&h->object);
    h->magic = 0;
    free(h);
}

static void handle_close_task(struct tarn_task *t)
{
    struct tarn_handle *h = TARN_CONTAINER(t, struct tarn_handle, close_task);

    TARN_ASSERT(tarn_list_empty(&h->waiting));
    client_window_drop(h);
    tarn_timer_stop(&h->bare_timer);
    if (h->locating)
        h->magic = 0; /* freed by handle_located */
    else
        handle_free(h);
}

void tarn_handle_close(struct tarn_handle **ph)
{
    struct tarn_handle *h = *ph;

    *ph = NULL;
    if (!h)
        return;
    TARN_ASSERT(h->magic == CLIENT_HANDLE_MAGIC);
    if (!atomic_load(&h->used_loop)) { /* only read in place: nothing of it is on the loop */
        handle_free(h);
        return;
    }
    tarn_loop_post(h->client->args.loop, &h->close_task, handle_close_task);
}

const struct tarn_attr *tarn_handle_attr(const struct tarn_handle *h)
{
    return &h->attr;
}

bool tarn_handle_stale(const struct tarn_handle *h)
{
    return atomic_load(&h->stale);
}

uint64_t tarn_handle_cached(struct tarn_handle *h)
{
    if (!h->client->local.cached)
        return UINT64_MAX;
    return h->file ? h->client->local.cached(h->client->local.ctx, h->file) : 0;
}

int tarn_handle_lend(struct tarn_handle *h, void **ret_loan)
{
    const struct tarn_local_ops *local = &h->client->local;

    return h->file && local->lend ? local->lend(local->ctx, h->file, ret_loan) : -TARN_E_NOT_CACHED;
}

bool tarn_handle_loan_bad(struct tarn_handle *h, void *loan)
{
    return h->client->local.loan_bad(h->client->local.ctx, h->file, loan);
}

void tarn_handle_give_back(struct tarn_handle *h, void *loan)
{
    h->client->local.give_back(h->client->local.ctx, h->file, loan);
}

void tarn_handle_lent(struct tarn_handle *h)
{
    atomic_fetch_add_explicit(&h->client->lent_opens, 1, memory_order_relaxed);
}

/*
 * Whether [off, end) continues what was read before. The kernel reads ahead with several requests
 * at a time, so the order is only roughly kept. Hits count too: only misses come to the loop.
 */
static bool handle_goes_on(struct tarn_handle *h, uint64_t off, uint64_t end)
{
    uint64_t next = atomic_load_explicit(&h->next_off, memory_order_relaxed);
    uint64_t slack = TARN_MAX(SEQUENTIAL_SLACK, SEQUENTIAL_READS * (end - off));
    bool near = off == next || (off < next + slack && next < off + slack && next > 0 && off > 0);

    atomic_store_explicit(&h->next_off, near ? TARN_MAX(next, end) : end, memory_order_relaxed);
    return near;
}

int64_t tarn_handle_try_read(struct tarn_handle *h, uint64_t off, uint32_t len, void *dst)
{
    int64_t n;

    if (off >= h->attr.size_bytes || len == 0)
        return 0;
    len = (uint32_t)TARN_MIN((uint64_t)TARN_MIN(len, TARN_READ_MAX), h->attr.size_bytes - off);
    if (!h->file)
        return -TARN_E_NOT_CACHED;
    n = h->client->local.try_read(h->client->local.ctx, h->file, off, len, dst);
    if (n > 0) {
        handle_goes_on(h, off, off + (uint64_t)n);
        atomic_fetch_add_explicit(&h->client->local_bytes, (uint64_t)n, memory_order_relaxed);
        atomic_fetch_add_explicit(&h->client->local_reads, 1, memory_order_relaxed);
    }
    return n;
}

unsigned tarn_handle_try_slices(struct tarn_handle *h, uint64_t off, uint32_t len,
                                struct tarn_slice slices[TARN_SLICES_MAX])
{
    unsigned n;

    TARN_ASSERT(len > 0 && len <= TARN_READ_MAX && off + len <= h->attr.size_bytes);
    n = h->file ? 0 : client_window_try(h, off, len, slices);
    if (n > 0)
        handle_goes_on(h, off, off + len);
    return n;
}

/* ---- reads that go to the loop ---------------------------------------------------------------
 */

static void read_end(struct tarn_read *r, int rc)
{
    struct tarn_slice slices[TARN_SLICES_MAX];
    unsigned n = r->slice_count;

    free(r->state);
    r->state = NULL;
    memcpy(slices, r->slices, sizeof(slices));
    if (rc == -TARN_E_UFS_CHANGED || rc == -TARN_E_UFS_NOT_FOUND || rc == -TARN_E_STALE)
        atomic_store(&r->handle->stale, true);
    r->cb(r, r->cancelled && rc < 0 ? -TARN_E_CANCELLED : rc);
    for (unsigned i = 0; i < n; i++)
        tarn_buf_unref(&slices[i].buf);
}

static void read_local_done(struct tarn_local_read *lr, int rc)
{
    struct read_state *s = lr->arg;
    struct tarn_read *r = s->read;
    struct tarn_client *c = r->handle->client;

    s->local_running = false;
    r->slice_count = rc == 0 ? lr->slice_count : 0;
    r->got_bytes = 0;
    for (unsigned i = 0; i < r->slice_count; i++) {
        r->slices[i] = lr->slices[i];
        r->got_bytes += (uint32_t)lr->slices[i].len;
    }
    if (rc == 0 && lr->source != 2)
        atomic_fetch_add_explicit(&c->local_reads, 1, memory_order_relaxed);
    client_count(c, lr->source == 2 ? CLIENT_UFS : CLIENT_LOCAL, r->got_bytes);
    read_end(r, rc);
}

static void read_local(struct tarn_read *r)
{
    struct tarn_handle *h = r->handle;
    struct read_state *s = r->state;

    s->local = (struct tarn_local_read){.file = h->file,
                                        .locator = h->located->locator,
                                        .off_bytes = r->off_bytes,
                                        .len_bytes = r->len_bytes,
                                        .ahead_units = h->ahead,
                                        .cb = read_local_done,
                                        .arg = s};
    s->local_running = true;
    h->client->local.read(h->client->local.ctx, &s->local);
}

/* ---- from workers ---------------------------------------------------------------------------- */

/* Gives up what is under way for a read, and what came. */
static void pieces_drop(struct read_state *s)
{
    for (unsigned i = 0; i < s->piece_count; i++) {
        struct read_piece *p = &s->pieces[i];

        client_fetch_drop(&p->fetch);
        client_window_forget(&p->wait);
        p->running = false;
        tarn_buf_unref(&s->read->slices[i].buf);
    }
    s->piece_count = 0;
    s->remote = false;
}

static void read_remote_end(struct read_state *s)
{
    struct tarn_read *r = s->read;
    struct tarn_client *c = r->handle->client;
    bool store = false;

    r->slice_count = s->piece_count;
    r->got_bytes = 0;
    for (unsigned i = 0; i < s->piece_count; i++) {
        client_count(c, s->pieces[i].source, r->slices[i].len);
        r->got_bytes += (uint32_t)r->slices[i].len;
        store |= s->pieces[i].source == CLIENT_UFS;
    }
    if (!store)
        atomic_fetch_add_explicit(&c->local_reads, 1, memory_order_relaxed);
    TARN_ASSERT(r->got_bytes == r->len_bytes);
    read_end(r, 0);
}

/* One piece has ended, or all were started. */
static void read_settle(struct read_state *s)
{
    TARN_ASSERT(s->pending > 0);
    if (--s->pending == 0)
        read_remote_end(s);
}

static void read_wait(struct tarn_read *r);
static void read_send(struct tarn_read *r);

/* Workers do not have it all, and where it comes from has to be asked of the master. */
static void read_bare_failed(struct tarn_read *r)
{
    struct tarn_handle *h = r->handle;

    memset(r->slices, 0, sizeof(r->slices));
    if (h->located)
        read_send(r);
    else if (h->locating)
        read_wait(r);
    else
        read_end(r, h->locate_rc);
}

static void piece_done(struct read_piece *p, int rc, const struct client_bytes *bytes)
{
    struct read_state *s = p->state;
    struct tarn_read *r = s->read;
    struct tarn_slice *slice = &r->slices[p - s->pieces];

    TARN_ASSERT(p->running);
    p->running = false;
    if (rc < 0) {
        pieces_drop(s);
        if (s->bare && (rc == -TARN_E_NOT_CACHED || rc == -TARN_E_NO_WORKER))
            read_bare_failed(r);
        else
            read_end(r, rc);
        return;
    }
    *slice = (struct tarn_slice){
        .buf = tarn_buf_ref(bytes->buf), .off = bytes->off, .len = p->wait.len_bytes};
    p->source = bytes->source;
    read_settle(s);
}

static void piece_fetched(void *arg, int rc, const struct client_bytes *bytes)
{
    struct read_piece *p = arg;

    p->fetch = NULL;
    piece_done(p, rc, bytes);
}

static void piece_waited(struct client_waiter *w, int rc, const struct client_bytes *bytes)
{
    piece_done(TARN_CONTAINER(w, struct read_piece, wait), rc, bytes);
}

/* Starts what brings the bytes from `off` on; returns how far it goes. */
static uint64_t piece_start(struct read_state *s, uint64_t off, uint64_t end)
{
    struct tarn_handle *h = s->read->handle;
    struct read_piece *p = &s->pieces[s->piece_count];
    uint64_t until, got, segment_end = ((uint64_t)tarn_segment_of(off) + 1) * TARN_SEGMENT_BYTES;
    struct client_fetch_args args = {.handle = h,
                                     .off_bytes = off,
                                     .deadline_ns = s->deadline_ns,
                                     .fn = piece_fetched,
                                     .arg = p};

    TARN_ASSERT(s->piece_count < READ_PIECES);
    s->piece_count++;
    s->pending++;
    *p = (struct read_piece){.state = s, .running = true, .wait = {.fn = piece_waited}};
    tarn_list_init(&p->wait.node);
    got = client_window_take(h, off, end, &p->wait, &until);
    if (got)
        return got;
    end = TARN_MIN(TARN_MIN(end, until), segment_end);
    args.len_bytes = p->wait.len_bytes = (uint32_t)(end - off);
    p->fetch = client_fetch_start(&args);
    return end;
}

/*
 * At most four pieces: a read touches two chunks of the file at most, one of which may begin in the
 * middle, behind the place where the window began; only the window's first does.
 */
static void read_remote(struct tarn_read *r, bool goes_on)
{
    struct tarn_handle *h = r->handle;
    struct read_state *s = r->state;
    uint64_t end = r->off_bytes + r->len_bytes;

    memset(r->slices, 0, sizeof(r->slices));
    s->remote = true;
    s->bare = !h->located;
    s->pending = 1;
    client_window_read(h, r->off_bytes, r->len_bytes, goes_on);
    for (uint64_t at = r->off_bytes; at < end;)
        at = piece_start(s, at, end);
    client_window_fill(h);
    read_settle(s);
}

static void read_send(struct tarn_read *r)
{
    struct tarn_handle *h = r->handle;
    bool goes_on = handle_goes_on(h, r->off_bytes, r->off_bytes + r->len_bytes);

    h->ahead = goes_on ? TARN_MIN(h->ahead ? h->ahead * 2 : 1u, CLIENT_AHEAD_MAX) : 0;
    if (h->file)
        read_local(r);
    else
        read_remote(r, goes_on);
}

/* 0 if the answer tells where the bytes of this very version are. */
static int located_check(const struct tarn_handle *h)
{
    const Tarn__Wire__Locator *l = h->located->locator;

    if (!l || !l->ufs || l->cid.len != sizeof(h->attr.cid.b))
        return -TARN_E_MSG_BAD;
    if (memcmp(l->cid.data, h->attr.cid.b, l->cid.len) != 0 || l->ufs->size != h->attr.size_bytes)
        return -TARN_E_STALE;
    return 0;
}

const Tarn__Wire__Locator *client_bare_locator(const struct tarn_handle *h,
                                               struct client_locator *hold)
{
    tarn__wire__locator__init(&hold->loc);
    tarn__wire__ufs_version__init(&hold->ufs);
    hold->ufs.size = h->attr.size_bytes;
    hold->loc.ino = h->attr.ino.v;
    hold->loc.version = h->attr.version;
    hold->loc.cid = tarn_wire_bytes(h->attr.cid.b, sizeof(h->attr.cid.b));
    hold->loc.ufs = &hold->ufs;
    return &hold->loc;
}

/* ---- where the bytes come from ---------------------------------------------------------------
 */

static void read_wait(struct tarn_read *r)
{
    struct read_state *s = r->state;

    s->waits = true;
    tarn_list_push(&r->handle->waiting, &r->task.node);
}

/* The reads that wait, once each; those that asked by cid already only when that is over. */
static void handle_wake(struct tarn_handle *h, int rc)
{
    struct tarn_list all;

    tarn_list_init(&all);
    tarn_list_splice(&all, &h->waiting);
    for (struct tarn_list *n = tarn_list_pop(&all); n; n = tarn_list_pop(&all)) {
        struct tarn_read *r = TARN_CONTAINER(n, struct tarn_read, task.node);
        struct read_state *s = r->state;

        s->waits = false;
        if (r->cancelled)
            read_end(r, -TARN_E_CANCELLED);
        else if (h->located || (h->bare && !s->bare))
            read_send(r);
        else if (h->locating)
            read_wait(r);
        else
            read_end(r, rc);
    }
}

/* Nobody can tell where the bytes come from, for now: what workers have is found by its cid. */
static void handle_go_bare(struct tarn_handle *h)
{
    if (h->file || h->located || h->bare || !tarn_peers_place(h->client->peers))
        return;
    h->bare = true;
    handle_wake(h, -TARN_E_LEASE_ENDED);
}

static void handle_late(struct tarn_timer *t, void *arg)
{
    (void)t; /* the handle's */
    handle_go_bare(arg);
}

static void handle_located(struct tarn_client_op *op, int rc)
{
    struct tarn_handle *h = op->arg;

    h->locating = false;
    tarn_timer_stop(&h->bare_timer);
    if (rc == 0) {
        h->located = (Tarn__Wire__LocateResponse *)op->resp;
        rc = located_check(h);
    }
    if (rc < 0 && h->located) {
        tarn__wire__locate_response__free_unpacked(h->located, NULL);
        h->located = NULL;
    }
    if (h->magic == 0) { /* closed meanwhile */
        handle_free(h);
        return;
    }
    h->locate_rc = rc;
    if (rc < 0 && !h->file && tarn_peers_place(h->client->peers) &&
        (rc == -TARN_E_LEASE_ENDED || rc == -TARN_E_STALE || tarn_peers_unreached(rc)))
        h->bare = true;     /* what is cached of it can be read all the same */
    if (rc == 0 && h->bare) /* what was asked for by cid alone is not for later reads */
        client_window_drop(h);
    handle_wake(h, rc);
    if (!h->located)
        h->bare = false; /* the next read asks again */
}

static void handle_locate(struct tarn_handle *h)
{
    struct tarn_client *c = h->client;

    h->locating = true;
    h->locate_rc = -TARN_E_LEASE_ENDED;
    h->locate_op = (struct tarn_client_op){.kind = TARN_CLIENT_LOCATE,
                                           .ino = h->attr.ino,
                                           .version = h->attr.version,
                                           .cb = handle_located,
                                           .arg = h};
    tarn_client_start(c, &h->locate_op);
    tarn_timer_start(c->args.loop, &h->bare_timer, c->connected ? LOCATE_LATE_NS : 1, handle_late,
                     h);
}

static void read_run(struct tarn_task *t)
{
    struct tarn_read *r = TARN_CONTAINER(t, struct tarn_read, task);
    struct tarn_handle *h = r->handle;
    struct read_state *s = tarn_xnew(struct read_state);

    r->slice_count = 0;
    r->got_bytes = 0;
    r->state = s;
    s->read = r;
    s->deadline_ns = tarn_loop_now_ns(h->client->args.loop) + client_read_timeout_ns(h->client);
    if (r->cancelled) { /* before it began */
        read_end(r, -TARN_E_CANCELLED);
        return;
    }
    if (r->off_bytes >= h->attr.size_bytes || r->len_bytes == 0) {
        read_end(r, 0);
        return;
    }
    r->len_bytes = (uint32_t)TARN_MIN((uint64_t)r->len_bytes, h->attr.size_bytes - r->off_bytes);
    if (h->located || h->bare) {
        read_send(r);
        return;
    }
    read_wait(r);
    if (!h->locating)
        handle_locate(h);
}

void tarn_handle_read(struct tarn_read *r)
{
    TARN_ASSERT(r->len_bytes <= TARN_READ_MAX);
    r->cancelled = false;
    r->state = NULL;
    atomic_store(&r->handle->used_loop, true);
    tarn_loop_post(r->handle->client->args.loop, &r->task, read_run);
}

static void read_cancelled(struct tarn_task *t)
{
    read_end(TARN_CONTAINER(t, struct tarn_read, task), -TARN_E_CANCELLED);
}

void tarn_handle_cancel(struct tarn_read *r)
{
    struct tarn_client *c = r->handle->client;
    struct read_state *s = r->state;

    if (r->cancelled)
        return;
    r->cancelled = true;
    if (!s)
        return; /* read_run sees it */
    if (s->local_running) {
        c->local.cancel(c->local.ctx, &s->local);
    } else if (s->remote) {
        pieces_drop(s);
        tarn_loop_post(c->args.loop, &r->task, read_cancelled);
    } else { /* it waits to learn where the bytes are, which others may wait for too */
        tarn_list_del(&r->task.node);
        tarn_loop_post(c->args.loop, &r->task, read_cancelled);
    }
}

struct read_sync {
    struct tarn_loop *loop;
    struct tarn_slice slices[TARN_SLICES_MAX];
    bool done;
    int rc;
};

static void read_sync_done(struct tarn_read *r, int rc)
{
    struct read_sync *s = r->arg;

    for (unsigned i = 0; i < r->slice_count; i++) {
        r->slices[i].buf =
            tarn_buf_ref(r->slices[i].buf); /* kept for the caller of tarn_read_sync */
    }
    s->done = true;
    s->rc = rc;
    tarn_loop_stop(s->loop);
}

int tarn_read_sync(struct tarn_read *r)
{
    struct read_sync s = {.loop = r->handle->client->args.loop};

    r->cb = read_sync_done;
    r->arg = &s;
    tarn_handle_read(r);
    while (!s.done)
        tarn_loop_run(s.loop);
    return s.rc;
}
