/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A ring of reads of TARN_READ_MAX bytes. Their callbacks only keep what came and stop the loop;
 * the sink runs between two runs of the loop, so it may take its time: a pipe whose reader sleeps
 * stops us. When that lasts longer than our capability lives, the next reads are refused until the
 * session was renewed: they are tried again.
 */
#include "tools/stream.h"

#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"
#include "lib/base/limits.h"
#include "lib/base/mem.h"
#include "tools/cli.h"

#define STREAM_TRIES    5u
#define STREAM_PAUSE_NS (500 * TARN_NS_PER_MS)

struct stream;

/* One read of the ring. */
struct stream_slot {
    struct stream *s;                          /* whose it is */
    struct tarn_read read;                     /* under way while `running` */
    struct tarn_slice slices[TARN_SLICES_MAX]; /* what came, referenced */
    unsigned n;                                /* slices */
    uint32_t want;                             /* bytes asked for */
    uint32_t got;                              /* bytes in the slices */
    int rc;                                    /* how it ended */
    bool running;                              /* its callback has not run */
};

/* Owner: the caller of cli_stream_file(). */
struct stream {
    struct cli *c;
    struct tarn_handle *handle;
    struct stream_slot slots[CLI_STREAM_DEPTH];
    unsigned depth;    /* slots used */
    unsigned head;     /* the slot whose bytes come next */
    unsigned queued;   /* slots from head on that were started */
    unsigned running;  /* callbacks that are due */
    uint64_t next_off; /* of the next read to start */
    uint64_t size;     /* of the file */
};

static void slot_drop(struct stream_slot *slot)
{
    for (unsigned i = 0; i < slot->n; i++)
        tarn_buf_unref(&slot->slices[i].buf);
    slot->n = 0;
}

static void slot_read_cb(struct tarn_read *r, int rc)
{
    struct stream_slot *slot = r->arg;

    slot->n = rc == 0 ? r->slice_count : 0;
    slot->got = rc == 0 ? r->got_bytes : 0;
    slot->rc = rc;
    for (unsigned i = 0; i < slot->n; i++) {
        slot->slices[i] = r->slices[i];
        slot->slices[i].buf = tarn_buf_ref(r->slices[i].buf); /* the client drops its own */
    }
    slot->running = false;
    slot->s->running--;
    tarn_loop_stop(slot->s->c->loop);
}

static void slot_start(struct stream *s, struct stream_slot *slot, uint64_t off, uint32_t want)
{
    TARN_ASSERT(!slot->running && slot->n == 0 && want > 0);
    slot->s = s;
    slot->want = want;
    slot->running = true;
    slot->read = (struct tarn_read){
        .handle = s->handle, .off_bytes = off, .len_bytes = want, .cb = slot_read_cb, .arg = slot};
    s->running++;
    tarn_handle_read(&slot->read);
}

static void stream_fill(struct stream *s)
{
    while (s->queued < s->depth && s->next_off < s->size) {
        struct stream_slot *slot = &s->slots[(s->head + s->queued) % s->depth];
        uint32_t want = (uint32_t)TARN_MIN(s->size - s->next_off, (uint64_t)TARN_READ_MAX);

        slot_start(s, slot, s->next_off, want);
        s->next_off += want;
        s->queued++;
    }
}

/* Waits for the read at the head; tries it again where that may help. */
static int stream_wait_head(struct stream *s)
{
    struct stream_slot *slot = &s->slots[s->head];

    for (unsigned tries = 0;; tries++) {
        while (slot->running && cli_interrupts(s->c) == 0)
            tarn_loop_run(s->c->loop);
        if (slot->running || cli_interrupts(s->c))
            return -TARN_E_CANCELLED;
        if (slot->rc != -TARN_E_CAP_EXPIRED || tries == STREAM_TRIES)
            break;
        cli_sleep(s->c, STREAM_PAUSE_NS);
        slot_start(s, slot, slot->read.off_bytes, slot->want);
    }
    if (slot->rc == 0 && slot->got != slot->want)
        return -TARN_E_EOF;
    return slot->rc;
}

static int stream_give_head(struct stream *s, cli_sink_fn *sink, void *arg)
{
    struct stream_slot *slot = &s->slots[s->head];
    int rc = 0;

    for (unsigned i = 0; i < slot->n && rc >= 0; i++)
        rc = sink(arg, slot->slices[i].buf->p + slot->slices[i].off, slot->slices[i].len);
    slot_drop(slot);
    s->head = (s->head + 1) % s->depth;
    s->queued--;
    return rc < 0 ? rc : 0;
}

static void stream_end(struct stream *s)
{
    for (unsigned i = 0; i < s->depth; i++)
        if (s->slots[i].running)
            tarn_handle_cancel(&s->slots[i].read);
    while (s->running > 0)
        tarn_loop_run(s->c->loop);
    for (unsigned i = 0; i < s->depth; i++)
        slot_drop(&s->slots[i]);
    tarn_handle_close(&s->handle);
}

int cli_stream_file(struct cli *c, const struct tarn_attr *attr, unsigned depth, const char *what,
                    cli_sink_fn *sink, void *arg)
{
    struct stream *s = tarn_xnew(struct stream);
    uint64_t given = 0;
    int rc = 0;

    TARN_ASSERT(attr->type == TARN_TYPE_FILE && depth >= 1 && depth <= CLI_STREAM_DEPTH);
    s->c = c;
    s->depth = depth;
    s->size = attr->size_bytes;
    s->handle = tarn_handle_open(c->client, attr);
    while (rc == 0 && given < s->size) {
        stream_fill(s);
        rc = stream_wait_head(s);
        if (rc == 0) {
            given += s->slots[s->head].got;
            rc = stream_give_head(s, sink, arg);
        }
    }
    stream_end(s);
    free(s);
    return rc < 0 ? cli_failed(c, rc, what) : 0;
}
