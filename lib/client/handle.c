/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Open file versions. tarn_handle_try_read() reads the local worker's cache file on the caller's
 * thread; whatever is not there goes to the loop:
 *
 *     tarn_handle_read -> (the first time) LOCATE: where the bytes come from -> the local worker's
 * read (in process)
 *                                                                           -> or READ by RPC,
 * checksums compared here
 *
 * A handle keeps its version. Once the store or the master says that the object is another one,
 * `stale` is set: ranges that are cached go on, others are EIO. Sequential readers fetch ahead:
 * each read that continues the last one doubles the number of units, up to AHEAD_MAX.
 */
#include "lib/client/client_priv.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"
#include "lib/base/hash.h"
#include "lib/base/limits.h"
#include "lib/base/log.h"

#define AHEAD_MAX       8u
#define READ_TIMEOUT_NS (60 * TARN_NS_PER_S)

#define SEQUENTIAL_SLACK (1ull << 20) /* bytes that a sequential reader may be out of order */

struct read_state {
    struct tarn_read *read;
    struct tarn_local_read local;
    struct tarn_rpc_req rpc;
    bool rpc_running, local_running;
    bool again; /* asked a second time, since the first answer was damaged */
};

struct tarn_handle *tarn_handle_open(struct tarn_client *c, const struct tarn_attr *attr)
{
    struct tarn_handle *h = tarn_xnew(struct tarn_handle);

    TARN_ASSERT(attr->type == TARN_TYPE_FILE);
    h->magic = CLIENT_HANDLE_MAGIC;
    h->client = c;
    h->attr = *attr;
    tarn_list_init(&h->waiting);
    if (c->local.open && attr->size_bytes > 0)
        h->file = c->local.open(c->local.ctx, &attr->cid, attr->size_bytes);
    return h;
}

static void handle_free(struct tarn_handle *h)
{
    if (h->file)
        h->client->local.close(h->client->local.ctx, h->file);
    if (h->located)
        tarn__wire__locate_response__free_unpacked(h->located, NULL);
    h->magic = 0;
    free(h);
}

static void handle_close_task(struct tarn_task *t)
{
    struct tarn_handle *h = TARN_CONTAINER(t, struct tarn_handle, close_task);

    TARN_ASSERT(tarn_list_empty(&h->waiting));
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
    bool near = off == next || (off < next + SEQUENTIAL_SLACK && next < off + SEQUENTIAL_SLACK &&
                                next > 0 && off > 0);

    atomic_store_explicit(&h->next_off, near ? TARN_MAX(next, end) : end, memory_order_relaxed);
    return near;
}

int64_t tarn_handle_try_read(struct tarn_handle *h, uint64_t off, uint32_t len, void *dst)
{
    int64_t n;

    if (off >= h->attr.size_bytes || len == 0)
        return 0;
    if (!h->file)
        return -TARN_E_NOT_CACHED;
    len = (uint32_t)TARN_MIN((uint64_t)len, h->attr.size_bytes - off);
    n = h->client->local.try_read(h->client->local.ctx, h->file, off, TARN_MIN(len, TARN_READ_MAX),
                                  dst);
    if (n > 0) {
        handle_goes_on(h, off, off + (uint64_t)n);
        atomic_fetch_add_explicit(&h->client->local_bytes, (uint64_t)n, memory_order_relaxed);
        atomic_fetch_add_explicit(&h->client->local_reads, 1, memory_order_relaxed);
    }
    return n;
}

/* ---- reads that go to the loop
 * ------------------------------------------------------------------------------------ */

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
    atomic_fetch_add_explicit(lr->source == 2 ? &c->ufs_bytes : &c->local_bytes, r->got_bytes,
                              memory_order_relaxed);
    read_end(r, rc);
}

/* Compares the granules of a worker's answer with their checksums; the wanted range becomes the
 * slice. */
static int read_take_rpc(struct tarn_read *r, struct tarn_rpc_req *req)
{
    const Tarn__Wire__ReadResponse *resp = (const Tarn__Wire__ReadResponse *)req->resp;
    struct tarn_buf *buf = req->resp_payload;
    uint64_t want_end = TARN_MIN(r->off_bytes + r->len_bytes, r->handle->attr.size_bytes);

    if (!resp || !buf || resp->offset > r->off_bytes || resp->offset % TARN_GRANULE_BYTES ||
        resp->offset + buf->len < want_end ||
        resp->n_sums != tarn_div_up(buf->len, TARN_GRANULE_BYTES))
        return -TARN_E_MSG_BAD;
    for (size_t i = 0; i < resp->n_sums; i++) {
        size_t at = i * TARN_GRANULE_BYTES;

        if (tarn_xxh3(buf->p + at, TARN_MIN(buf->len - at, (size_t)TARN_GRANULE_BYTES)) !=
            resp->sums[i])
            return -TARN_E_GRANULE_SUM;
    }
    r->slices[0] = (struct tarn_slice){.buf = tarn_buf_ref(buf),
                                       .off = (size_t)(r->off_bytes - resp->offset),
                                       .len = (size_t)(want_end - r->off_bytes)};
    r->slice_count = 1;
    r->got_bytes = (uint32_t)(want_end - r->off_bytes);
    atomic_fetch_add_explicit(resp->source && strcmp(resp->source, "ufs") == 0
                                  ? &r->handle->client->ufs_bytes
                                  : &r->handle->client->remote_bytes,
                              r->got_bytes, memory_order_relaxed);
    return 0;
}

static void read_rpc(struct tarn_read *r);

static void read_rpc_done(struct tarn_rpc_req *req, int rc)
{
    struct read_state *s = req->arg;
    struct tarn_read *r = s->read;

    s->rpc_running = false;
    r->slice_count = 0;
    if (rc == 0)
        rc = read_take_rpc(r, req);
    tarn_rpc_req_fini(req);
    if (rc == -TARN_E_GRANULE_SUM && !s->again && !r->cancelled) {
        s->again = true;
        read_rpc(r);
        return;
    }
    read_end(r, rc);
}

static void read_rpc(struct tarn_read *r)
{
    struct tarn_client *c = r->handle->client;
    struct read_state *s = r->state;
    Tarn__Wire__ReadRequest msg = TARN__WIRE__READ_REQUEST__INIT;

    msg.locator = r->handle->located->locator;
    msg.offset = r->off_bytes;
    msg.length = r->len_bytes;
    s->rpc = (struct tarn_rpc_req){.method = TARN_RPC_read,
                                   .msg = &msg.base,
                                   .timeout_ns =
                                       c->args.timeout_ns ? c->args.timeout_ns : READ_TIMEOUT_NS,
                                   .cb = read_rpc_done,
                                   .arg = s};
    s->rpc_running = true;
    tarn_rpc_start(c->rpc, &s->rpc);
}

static void read_send(struct tarn_read *r)
{
    struct tarn_handle *h = r->handle;
    struct tarn_client *c = h->client;
    struct read_state *s = r->state;

    if (handle_goes_on(h, r->off_bytes, r->off_bytes + r->len_bytes))
        h->ahead = TARN_MIN(h->ahead ? h->ahead * 2 : 1u, AHEAD_MAX);
    else
        h->ahead = 0;
    if (h->file) {
        s->local = (struct tarn_local_read){.file = h->file,
                                            .locator = h->located->locator,
                                            .off_bytes = r->off_bytes,
                                            .len_bytes = r->len_bytes,
                                            .ahead_units = h->ahead,
                                            .cb = read_local_done,
                                            .arg = s};
        s->local_running = true;
        c->local.read(c->local.ctx, &s->local);
    } else {
        read_rpc(r);
    }
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

static void handle_located(struct tarn_client_op *op, int rc)
{
    struct tarn_handle *h = op->arg;
    struct tarn_list all;

    h->locating = false;
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
    tarn_list_init(&all);
    tarn_list_splice(&all, &h->waiting);
    for (struct tarn_list *n = tarn_list_pop(&all); n; n = tarn_list_pop(&all)) {
        struct tarn_read *r = TARN_CONTAINER(n, struct tarn_read, task.node);

        if (rc < 0 || r->cancelled)
            read_end(r, rc < 0 ? rc : -TARN_E_CANCELLED);
        else
            read_send(r);
    }
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
    if (r->cancelled) { /* before it began */
        read_end(r, -TARN_E_CANCELLED);
        return;
    }
    if (r->off_bytes >= h->attr.size_bytes || r->len_bytes == 0) {
        read_end(r, 0);
        return;
    }
    r->len_bytes = (uint32_t)TARN_MIN((uint64_t)r->len_bytes, h->attr.size_bytes - r->off_bytes);
    if (h->located) {
        read_send(r);
        return;
    }
    tarn_list_push(&h->waiting, &r->task.node);
    if (h->locating)
        return;
    h->locating = true;
    h->locate_op = (struct tarn_client_op){.kind = TARN_CLIENT_LOCATE,
                                           .ino = h->attr.ino,
                                           .version = h->attr.version,
                                           .cb = handle_located,
                                           .arg = h};
    tarn_client_start(h->client, &h->locate_op);
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
    } else if (s->rpc_running) {
        tarn_rpc_cancel(&s->rpc);
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
