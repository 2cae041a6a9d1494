/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a handle has read ahead from workers: chunks of 1 MiB in front of a sequential reader, or a
 * small file as a whole.
 *
 *     asked (a fetch is under way)
 *       -> there (any thread takes out of it) -> read to its end: dropped
 *       -> failed: those that wait for it are told; nobody else is
 *
 * A window starts with the second read that continues the one before (or one that is large), is
 * one chunk deep, and twice as deep with each chunk that the reader enters, up to
 * CLIENT_WINDOW_MAX. It ends with the first read elsewhere, and begins anew after a failure. All
 * windows of a client share `ahead_max` bytes: each gets an equal part of them, and one that nobody
 * has touched for a while gives its own back when another is in need.
 *
 * Threads: the loop adds chunks, asks for them, and answers who waits for one. Readers on other
 * threads only look under the lock and take references. A chunk that is read to
 * its end is dropped by whoever took the last of it; that is never one with a fetch or waiters.
 */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"
#include "lib/base/limits.h"
#include "lib/client/client_priv.h"

#define WINDOW_SLICES  3u /* chunks that one read of TARN_READ_MAX can touch */
#define WINDOW_IDLE_NS TARN_NS_PER_S
#define WINDOW_SCAN    32u /* windows that are looked at for one that is idle */
#define WINDOW_LARGE   (CLIENT_CHUNK_BYTES / 2) /* a first read as large will go on */
#define WINDOW_BEHIND  (8 * CLIENT_CHUNK_BYTES) /* kept of what a reader has not taken */

_Static_assert(TARN_SEGMENT_BYTES % CLIENT_CHUNK_BYTES == 0, "a chunk is in one segment");
_Static_assert(TARN_READ_MAX <= CLIENT_CHUNK_BYTES, "WINDOW_SLICES");
_Static_assert(WINDOW_SLICES <= TARN_SLICES_MAX, "a read's slices");

struct client_chunk {
    struct tarn_list node;      /* window's lock; unlinked: nobody finds it any more */
    struct tarn_client *client; /* whose memory it counts in */
    struct tarn_handle *handle;
    uint64_t off_bytes;
    uint32_t len_bytes;
    /* Set by the loop under the window's lock, then only read: */
    bool ready;
    struct tarn_buf *buf; /* with bytes from buf_off on */
    size_t buf_off;
    enum client_source source;
    uint32_t served; /* window's lock: bytes taken out */
    /* The loop: */
    struct client_fetch *fetch; /* while it is asked for */
    struct tarn_list waiters;   /* struct client_waiter */
};

static struct client_chunk *chunk_of(struct tarn_list *n)
{
    return TARN_LIST_ENTRY(n, struct client_chunk, node);
}

static void chunk_free(struct client_chunk *k)
{
    TARN_ASSERT(tarn_list_empty(&k->node) && tarn_list_empty(&k->waiters) && !k->fetch);
    atomic_fetch_sub_explicit(&k->client->ahead_bytes, k->len_bytes, memory_order_relaxed);
    tarn_buf_unref(&k->buf);
    free(k);
}

/* With the lock. */
static void chunk_unlink(struct client_window *w, struct client_chunk *k)
{
    tarn_list_del(&k->node);
    atomic_fetch_sub(&w->count, 1);
}

void client_window_init(struct tarn_handle *h)
{
    struct client_window *w = &h->win;

    tarn_mtx_init(&w->mtx, TARN_RANK_CLIENT_WINDOW);
    tarn_list_init(&w->chunks);
    tarn_list_init(&w->node);
    w->grown_off = UINT64_MAX;
}

void client_window_fini(struct tarn_handle *h)
{
    struct client_window *w = &h->win;

    TARN_ASSERT(tarn_list_empty(&w->chunks) && tarn_list_empty(&w->node) &&
                !atomic_load(&w->task_posted));
    tarn_mtx_fini(&w->mtx);
}

static void window_touch(struct client_window *w)
{
    atomic_store_explicit(&w->touched_ns, tarn_now_ns(), memory_order_relaxed);
}

/* ---- taking bytes out: any thread ------------------------------------------------------------ */

/* With the lock: the chunk in which `off` is. */
static struct client_chunk *window_find(const struct client_window *w, uint64_t off)
{
    TARN_LIST_FOREACH(n, &w->chunks)
    {
        struct client_chunk *k = chunk_of(n);

        if (off >= k->off_bytes && off < k->off_bytes + k->len_bytes)
            return k;
    }
    return NULL;
}

/* With the lock: bytes of it went to a reader. True: it is the caller's to free, being used up. */
static bool chunk_served(struct client_window *w, struct client_chunk *k, uint32_t len)
{
    k->served += TARN_MIN(len, k->len_bytes - k->served);
    if (k->served < k->len_bytes || tarn_list_empty(&k->node))
        return false;
    chunk_unlink(w, k);
    return true;
}

/* What is taken out of one chunk. */
struct window_take {
    enum client_source source;
    struct client_chunk *used_up; /* to be freed, or NULL */
};

/* With the lock: slices of [off, end), 0 unless all of it is there. */
static unsigned window_slices(struct client_window *w, uint64_t off, uint64_t end,
                              struct tarn_slice *slices, struct window_take *takes)
{
    struct client_chunk *k[WINDOW_SLICES];
    unsigned n = 0;

    for (uint64_t at = off; at < end; at = k[n - 1]->off_bytes + k[n - 1]->len_bytes) {
        struct client_chunk *next = n < WINDOW_SLICES ? window_find(w, at) : NULL;

        if (!next || !next->ready)
            return 0;
        k[n++] = next;
    }
    for (unsigned i = 0; i < n; i++) {
        uint64_t from = TARN_MAX(off, k[i]->off_bytes);
        uint64_t to = TARN_MIN(end, k[i]->off_bytes + k[i]->len_bytes);

        slices[i] = (struct tarn_slice){.buf = tarn_buf_ref(k[i]->buf),
                                        .off = k[i]->buf_off + (size_t)(from - k[i]->off_bytes),
                                        .len = (size_t)(to - from)};
        takes[i] = (struct window_take){.source = k[i]->source};
        if (chunk_served(w, k[i], (uint32_t)(to - from)))
            takes[i].used_up = k[i];
    }
    return n;
}

static void window_task(struct tarn_task *t);

unsigned client_window_try(struct tarn_handle *h, uint64_t off, uint32_t len,
                           struct tarn_slice slices[TARN_SLICES_MAX])
{
    struct client_window *w = &h->win;
    struct tarn_client *c = h->client;
    struct window_take takes[WINDOW_SLICES];
    bool store = false, used_up = false;
    uint64_t before;
    unsigned n;

    if (atomic_load_explicit(&w->count, memory_order_relaxed) == 0)
        return 0;
    tarn_mtx_lock(&w->mtx);
    n = window_slices(w, off, off + len, slices, takes);
    tarn_mtx_unlock(&w->mtx);
    if (n == 0)
        return 0;
    for (unsigned i = 0; i < n; i++) {
        client_count(c, takes[i].source, slices[i].len);
        store |= takes[i].source == CLIENT_UFS;
        if (takes[i].used_up) {
            chunk_free(takes[i].used_up);
            used_up = true;
        }
    }
    if (!store)
        atomic_fetch_add_explicit(&c->local_reads, 1, memory_order_relaxed);
    window_touch(w);
    before = atomic_exchange(&w->pos, off + len);
    /* Another chunk: more may be wanted ahead. */
    if ((used_up || before / CLIENT_CHUNK_BYTES != (off + len) / CLIENT_CHUNK_BYTES) &&
        !atomic_exchange(&w->task_posted, true))
        tarn_loop_post(c->args.loop, &w->task, window_task);
    return n;
}

/* ---- chunks: the loop ----------------------------------------------------------------------- */

static void window_leave(struct tarn_client *c, struct client_window *w)
{
    if (tarn_list_empty(&w->node))
        return;
    tarn_list_del(&w->node);
    TARN_ASSERT(c->window_count > 0);
    c->window_count--;
}

/* Of one that has no chunk any more. */
static void window_tidy(struct tarn_handle *h)
{
    if (atomic_load(&h->win.count) == 0)
        window_leave(h->client, &h->win);
}

/*
 * Drops chunks that end at `upto` or before; `idle_only`: no fetch is given up. One that somebody
 * waits for is only not found any more, and goes when it came, or with the last of those.
 */
static void window_drop(struct tarn_handle *h, uint64_t upto, bool idle_only)
{
    struct client_window *w = &h->win;
    struct client_chunk *k;

    do {
        k = NULL;
        tarn_mtx_lock(&w->mtx);
        TARN_LIST_FOREACH(n, &w->chunks)
        {
            struct client_chunk *at = chunk_of(n);

            if (at->off_bytes + at->len_bytes > upto || (idle_only && !at->ready))
                continue;
            k = at;
            chunk_unlink(w, k); /* else a reader might take it, and free it, before we do */
            break;
        }
        tarn_mtx_unlock(&w->mtx);
        if (k && tarn_list_empty(&k->waiters)) {
            client_fetch_drop(&k->fetch);
            chunk_free(k);
        }
    } while (k);
    window_tidy(h);
}

void client_window_drop(struct tarn_handle *h)
{
    h->win.depth = 0;
    h->win.grown_off = UINT64_MAX;
    window_drop(h, UINT64_MAX, false);
    window_leave(h->client, &h->win);
}

/* With the lock: takes up the answer. False: nobody else will find it. */
static bool chunk_arrived(struct client_window *w, struct client_chunk *k, int rc,
                          const struct client_bytes *bytes, const struct tarn_list *waiters)
{
    bool linked = !tarn_list_empty(&k->node);

    if (rc < 0) {
        if (linked)
            chunk_unlink(w, k);
        return false;
    }
    k->buf = tarn_buf_ref(bytes->buf);
    k->buf_off = bytes->off;
    k->source = bytes->source;
    k->ready = true;
    TARN_LIST_FOREACH(n, waiters)
    {
        struct client_waiter *wait = TARN_LIST_ENTRY(n, struct client_waiter, node);

        if (linked && chunk_served(w, k, wait->len_bytes))
            linked = false;
    }
    return linked;
}

static void chunk_fetched(void *arg, int rc, const struct client_bytes *bytes)
{
    struct client_chunk *k = arg;
    struct tarn_handle *h = k->handle;
    uint64_t off = k->off_bytes;
    struct tarn_list waiters;
    bool linked;

    k->fetch = NULL;
    if (rc < 0) { /* the reader is to find out by itself, not by asking for all that once more */
        h->win.depth = 0;
        h->win.run = 0;
    }
    tarn_list_init(&waiters);
    tarn_list_splice(&waiters, &k->waiters);
    TARN_LIST_FOREACH(n, &waiters)
    {
        TARN_LIST_ENTRY(n, struct client_waiter, node)->chunk = NULL;
    }
    tarn_mtx_lock(&h->win.mtx);
    linked = chunk_arrived(&h->win, k, rc, bytes, &waiters);
    tarn_mtx_unlock(&h->win.mtx);
    if (!linked) /* else a reader may take it, and free it, from here on */
        chunk_free(k);
    window_tidy(h);
    for (struct tarn_list *n = tarn_list_pop(&waiters); n; n = tarn_list_pop(&waiters)) {
        struct client_waiter *wait = TARN_LIST_ENTRY(n, struct client_waiter, node);
        struct client_bytes part = rc == 0 ? *bytes : (struct client_bytes){0};

        part.off += (size_t)(wait->off_bytes - off);
        wait->fn(wait, rc, rc == 0 ? &part : NULL);
    }
}

void client_window_forget(struct client_waiter *wait)
{
    struct client_chunk *k = wait->chunk;
    bool linked;

    tarn_list_del(&wait->node);
    wait->chunk = NULL;
    if (!k || !tarn_list_empty(&k->waiters))
        return;
    tarn_mtx_lock(&k->handle->win.mtx);
    linked = !tarn_list_empty(&k->node);
    tarn_mtx_unlock(&k->handle->win.mtx);
    if (!linked) {
        client_fetch_drop(&k->fetch);
        chunk_free(k);
    }
}

/* Whether `len` bytes more may be held, if need be in place of what nobody reads. */
static bool window_room(struct tarn_client *c, const struct client_window *self, size_t len)
{
    uint64_t now = tarn_now_ns();

    for (unsigned i = 0; i < WINDOW_SCAN && i < c->window_count; i++) {
        struct client_window *w = TARN_LIST_ENTRY(c->windows.next, struct client_window, node);

        if (atomic_load(&c->ahead_bytes) + len <= c->ahead_max)
            return true;
        tarn_list_del(&w->node); /* the next time others are looked at */
        tarn_list_push(&c->windows, &w->node);
        if (w != self && now >= atomic_load(&w->touched_ns) + WINDOW_IDLE_NS)
            window_drop(TARN_CONTAINER(w, struct tarn_handle, win), UINT64_MAX, true);
    }
    return atomic_load(&c->ahead_bytes) + len <= c->ahead_max;
}

/*
 * Whether a window may have one chunk more: as many as it can use while half of the memory is free,
 * and its equal part of all of it later on.
 */
static bool window_share(const struct tarn_client *c, struct client_window *w, size_t len)
{
    unsigned count = atomic_load(&w->count);
    unsigned windows = c->window_count + tarn_list_empty(&w->node);
    size_t share = TARN_MAX(c->ahead_max / CLIENT_CHUNK_BYTES / windows, (size_t)1);

    return count <= CLIENT_WINDOW_MAX &&
           (count < share || atomic_load(&c->ahead_bytes) + len <= c->ahead_max / 2);
}

/* Asks for the chunk that begins at `off`. NULL: there is no room for it. */
static struct client_chunk *chunk_add(struct tarn_handle *h, uint64_t off)
{
    struct client_window *w = &h->win;
    struct tarn_client *c = h->client;
    uint64_t end =
        TARN_MIN((off / CLIENT_CHUNK_BYTES + 1) * CLIENT_CHUNK_BYTES, h->attr.size_bytes);
    struct client_fetch_args args = {.handle = h,
                                     .off_bytes = off,
                                     .len_bytes = (uint32_t)(end - off),
                                     .deadline_ns =
                                         tarn_loop_now_ns(c->args.loop) + client_read_timeout_ns(c),
                                     .fn = chunk_fetched};
    struct client_chunk *k;

    if (!window_share(c, w, args.len_bytes) || !window_room(c, w, args.len_bytes))
        return NULL;
    k = tarn_xnew(struct client_chunk);
    k->client = c;
    k->handle = h;
    k->off_bytes = off;
    k->len_bytes = args.len_bytes;
    tarn_list_init(&k->node);
    tarn_list_init(&k->waiters);
    atomic_fetch_add_explicit(&c->ahead_bytes, k->len_bytes, memory_order_relaxed);
    args.arg = k;
    k->fetch = client_fetch_start(&args);
    window_touch(w);
    tarn_mtx_lock(&w->mtx);
    tarn_list_push(&w->chunks, &k->node);
    atomic_fetch_add(&w->count, 1);
    tarn_mtx_unlock(&w->mtx);
    window_leave(c, w);
    tarn_list_push(&c->windows, &w->node);
    c->window_count++;
    return k;
}

/* Where the next chunk would begin: behind the last one. 0: there is none. */
static uint64_t window_front(struct client_window *w)
{
    const struct client_chunk *last;
    uint64_t front = 0;

    tarn_mtx_lock(&w->mtx);
    if (!tarn_list_empty(&w->chunks)) {
        last = chunk_of(w->chunks.prev);
        front = last->off_bytes + last->len_bytes;
    }
    tarn_mtx_unlock(&w->mtx);
    return front;
}

static bool window_small(const struct tarn_handle *h)
{
    return h->attr.size_bytes <= CLIENT_CHUNK_BYTES;
}

static void window_grow(struct tarn_handle *h)
{
    h->win.depth = TARN_MIN(h->win.depth * 2, CLIENT_WINDOW_MAX);
    h->ahead = TARN_MIN(h->ahead ? h->ahead * 2 : 1u, CLIENT_AHEAD_MAX);
}

void client_window_fill(struct tarn_handle *h)
{
    struct client_window *w = &h->win;
    uint64_t pos = atomic_load(&w->pos), next, upto;

    if (w->depth == 0 || window_small(h))
        return;
    if (w->grown_off != pos / CLIENT_CHUNK_BYTES) {
        if (w->grown_off != UINT64_MAX)
            window_grow(h);
        w->grown_off = pos / CLIENT_CHUNK_BYTES;
    }
    /* A read that was passed by others may still be under way. */
    if (pos > WINDOW_BEHIND)
        window_drop(h, pos - WINDOW_BEHIND, true);
    upto = (pos / CLIENT_CHUNK_BYTES + 1 + w->depth) * CLIENT_CHUNK_BYTES;
    next = window_front(w);
    if (next < pos)
        next = tarn_div_up(pos, CLIENT_CHUNK_BYTES) * CLIENT_CHUNK_BYTES;
    while (next < TARN_MIN(upto, h->attr.size_bytes) && chunk_add(h, next))
        next = (next / CLIENT_CHUNK_BYTES + 1) * CLIENT_CHUNK_BYTES;
}

static void window_task(struct tarn_task *t)
{
    struct tarn_handle *h = TARN_CONTAINER(t, struct tarn_handle, win.task);

    atomic_store(&h->win.task_posted, false);
    if (!h->client->stopping && h->located)
        client_window_fill(h);
    window_tidy(h);
}

void client_window_read(struct tarn_handle *h, uint64_t off, uint32_t len, bool goes_on)
{
    struct client_window *w = &h->win;

    window_touch(w);
    atomic_store(&w->pos, off + len);
    if (window_small(h))
        return;
    if (!goes_on) {
        w->run = 0;
        client_window_drop(h);
        return;
    }
    w->run++;
    if (w->depth == 0 && (w->run > 1 || len >= WINDOW_LARGE)) {
        w->depth = 1;
        w->grown_off = UINT64_MAX;
    }
}

uint64_t client_window_take(struct tarn_handle *h, uint64_t off, uint64_t end,
                            struct client_waiter *wait, uint64_t *ret_until)
{
    struct client_window *w = &h->win;
    struct client_bytes bytes = {0};
    struct client_chunk *k, *used_up = NULL;
    uint64_t front = window_front(w), start;

    *ret_until = UINT64_MAX;
    if ((w->depth > 0 || window_small(h)) && off >= front) {
        start = window_small(h) ? 0 : off / TARN_GRANULE_BYTES * TARN_GRANULE_BYTES;
        (void)chunk_add(h, TARN_MAX(start, front)); /* without room it is not found below */
    }
    tarn_mtx_lock(&w->mtx);
    k = window_find(w, off);
    if (!k) {
        TARN_LIST_FOREACH(n, &w->chunks)
        {
            if (chunk_of(n)->off_bytes > off)
                *ret_until = TARN_MIN(*ret_until, chunk_of(n)->off_bytes);
        }
        tarn_mtx_unlock(&w->mtx);
        return 0;
    }
    end = TARN_MIN(end, k->off_bytes + k->len_bytes);
    wait->off_bytes = off;
    wait->len_bytes = (uint32_t)(end - off);
    tarn_list_init(&wait->node);
    wait->chunk = NULL;
    if (k->ready) {
        bytes = (struct client_bytes){.buf = tarn_buf_ref(k->buf),
                                      .off = k->buf_off + (size_t)(off - k->off_bytes),
                                      .source = k->source};
        if (chunk_served(w, k, wait->len_bytes))
            used_up = k;
    } else {
        tarn_list_push(&k->waiters, &wait->node);
        wait->chunk = k;
    }
    tarn_mtx_unlock(&w->mtx);
    if (used_up)
        chunk_free(used_up);
    window_tidy(h);
    if (bytes.buf)
        wait->fn(wait, 0, &bytes);
    tarn_buf_unref(&bytes.buf);
    return end;
}
