/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/lib/client/client_rig.h"

#include <string.h>

#include "lib/base/hash.h"
#include "lib/base/limits.h"
#include "tests/unit/turns.h"

/* ---- handlers ----------------------------------------------------------------------------------
 */

static void held_cancelled(struct tarn_rpc_call *call)
{
    struct rig *r = call->state;

    r->cancels++;
}

static void hold(struct rig *r, struct tarn_rpc_call *call)
{
    assert_in_range(r->held_n, 0, TARN_ARRAY_LEN(r->held) - 1);
    call->state = r;
    call->on_cancel = held_cancelled;
    r->held[r->held_n++] = call;
}

static void attr_fill(Tarn__Wire__Attr *a, const struct rig *r, uint64_t ino)
{
    static uint8_t cid[16] = {5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5};

    tarn__wire__attr__init(a);
    a->ino = ino;
    a->parent = 1;
    a->type = TARN_TYPE_FILE;
    a->size = r->size;
    a->cid = (ProtobufCBinaryData){sizeof(cid), cid};
    a->trust_ms = r->trust_ms;
}

static void lookup_reply(struct rig *r, struct tarn_rpc_call *call)
{
    Tarn__Wire__LookupResponse resp = TARN__WIRE__LOOKUP_RESPONSE__INIT;
    Tarn__Wire__Attr attr;

    attr_fill(&attr, r, r->lookup_ino);
    resp.negative_trust_ms = r->trust_ms;
    if (r->lookup_rc == 0)
        resp.attr = &attr;
    tarn_rpc_reply(call, r->lookup_rc, &resp.base, NULL, 0, 0);
}

static void on_lookup(void *ctx, struct tarn_rpc_call *call)
{
    struct rig *r = ctx;

    r->lookups++;
    if (r->hold_lookup)
        hold(r, call);
    else
        lookup_reply(r, call);
}

static void locate_reply(struct rig *r, struct tarn_rpc_call *call)
{
    Tarn__Wire__LocateResponse resp = TARN__WIRE__LOCATE_RESPONSE__INIT;
    Tarn__Wire__Locator loc = TARN__WIRE__LOCATOR__INIT;
    Tarn__Wire__UfsVersion v = TARN__WIRE__UFS_VERSION__INIT;
    Tarn__Wire__Attr attr;
    uint8_t cid[16];

    attr_fill(&attr, r, 10);
    memset(cid, r->locate_cid, sizeof(cid));
    v.size = r->size;
    loc.ino = 10;
    loc.cid = (ProtobufCBinaryData){sizeof(cid), cid};
    loc.key = tarn_wire_bytes("k", 1);
    loc.ufs = &v;
    resp.locator = &loc;
    resp.attr = &attr;
    tarn_rpc_reply(call, r->locate_rc, r->locate_rc < 0 ? NULL : &resp.base, NULL, 0, 0);
}

static void on_locate(void *ctx, struct tarn_rpc_call *call)
{
    struct rig *r = ctx;

    r->locates++;
    if (r->hold_locate)
        hold(r, call);
    else
        locate_reply(r, call);
}

static void on_read(void *ctx, struct tarn_rpc_call *call)
{
    const Tarn__Wire__ReadRequest *req = (const Tarn__Wire__ReadRequest *)call->request;
    Tarn__Wire__ReadResponse resp = TARN__WIRE__READ_RESPONSE__INIT;
    uint64_t off = req->offset / TARN_GRANULE_BYTES * TARN_GRANULE_BYTES, sums[32];
    uint64_t end = TARN_MIN(
        tarn_div_up(req->offset + req->length, TARN_GRANULE_BYTES) * TARN_GRANULE_BYTES, RIG_SIZE);
    struct tarn_buf *b = tarn_buf_new(end - off);
    struct rig *r = ctx;

    r->reads++;
    rig_fill(off, b->p, (size_t)(end - off));
    for (uint64_t at = 0; at < end - off; at += TARN_GRANULE_BYTES)
        sums[resp.n_sums++] =
            tarn_xxh3(b->p + at, TARN_MIN((uint64_t)TARN_GRANULE_BYTES, end - off - at));
    resp.offset = off;
    resp.sums = sums;
    if (r->spoil > 0) {
        r->spoil--;
        b->p[(end - off) / 2] ^= 4;
    }
    tarn_rpc_reply(call, 0, &resp.base, b, 0, end - off);
    tarn_buf_unref(&b);
}

static void changed_reply(struct tarn_rpc_call *call)
{
    Tarn__Wire__Empty resp = TARN__WIRE__EMPTY__INIT;

    tarn_rpc_reply(call, 0, &resp.base, NULL, 0, 0);
}

static void on_changed(void *ctx, struct tarn_rpc_call *call)
{
    const Tarn__Wire__ChangedRequest *req = (const Tarn__Wire__ChangedRequest *)call->request;
    struct rig *r = ctx;

    assert_int_equal(req->ino, 10);
    assert_int_equal(req->version, 3);
    r->changed++;
    if (r->hold_changed)
        hold(r, call);
    else
        changed_reply(call);
}

static void open_reply(struct rig *r, struct tarn_rpc_call *call)
{
    Tarn__Wire__SessionResponse resp = TARN__WIRE__SESSION_RESPONSE__INIT;

    r->session = call->session;
    r->seq = 0;
    resp.session = r->opened;
    resp.lease_ms = 600;
    resp.kernel_trust_ms = 1000;
    resp.resumed = r->resumed;
    resp.index = r->index;
    tarn_rpc_reply(call, 0, &resp.base, NULL, 0, 0);
}

static void on_open(void *ctx, struct tarn_rpc_call *call)
{
    const Tarn__Wire__SessionRequest *req = (const Tarn__Wire__SessionRequest *)call->request;
    struct rig *r = ctx;

    r->resume = req->resume;
    r->seen = req->seen;
    r->opened++;
    if (r->hold_open)
        hold(r, call);
    else
        open_reply(r, call);
}

static void renew_reply(struct rig *r, struct tarn_rpc_call *call)
{
    Tarn__Wire__RenewResponse resp = TARN__WIRE__RENEW_RESPONSE__INIT;

    resp.seq = r->seq;
    resp.index = r->index;
    tarn_rpc_reply(call, 0, &resp.base, NULL, 0, 0);
}

static void on_renew(void *ctx, struct tarn_rpc_call *call)
{
    const Tarn__Wire__RenewRequest *req = (const Tarn__Wire__RenewRequest *)call->request;
    struct rig *r = ctx;

    r->renewed++;
    assert_true(req->session < 8);
    r->told[req->session] = 0;
    for (size_t i = 0; i < req->n_reads; i++)
        r->told[req->session] += req->reads[i]->bytes;
    if (r->hold_renew || r->mute_renew) {
        r->hold_renew = false; /* one */
        hold(r, call);
        return;
    }
    r->renew_seq = req->seq;
    renew_reply(r, call);
}

void rig_release(struct rig *r)
{
    unsigned n = r->held_n;

    r->held_n = 0;
    r->hold_lookup = r->hold_locate = r->hold_open = false;
    for (unsigned i = 0; i < n; i++) {
        if (r->held[i]->method->nr == TARN_RPC_lookup)
            lookup_reply(r, r->held[i]);
        else if (r->held[i]->method->nr == TARN_RPC_locate)
            locate_reply(r, r->held[i]);
        else if (r->held[i]->method->nr == TARN_RPC_session_renew)
            renew_reply(r, r->held[i]);
        else if (r->held[i]->method->nr == TARN_RPC_report_changed)
            changed_reply(r->held[i]);
        else
            open_reply(r, r->held[i]);
    }
}

/* ---- life --------------------------------------------------------------------------------------
 */

static void on_invalidate(void *ctx, const Tarn__Wire__Invalidate *inv)
{
    struct rig *r = ctx;

    if (inv->everything)
        r->everything++;
    else
        r->invalidated++;
}

static void on_connected(void *arg, int rc)
{
    struct rig *r = arg;

    assert_int_equal(rc, 0);
    r->flag++;
}

static void on_gone(void *ctx, struct tarn_rpc_session *s)
{
    struct rig *r = ctx;

    if (r->session == s)
        r->session = NULL;
}

void rig_init(struct rig *r, const struct tarn_local_ops *local)
{
    *r = (struct rig){0};
    rig_init_with(r, local, NULL);
}

void rig_init_with(struct rig *r, const struct tarn_local_ops *local,
                   void (*tweak)(struct rig *r, struct tarn_client_args *args))
{
    uint8_t first;
    struct tarn_rpc_server_args s = {
        .rng = tarn_rng_system(), .cluster_id = "c", .ctx = r, .on_gone = on_gone};
    struct tarn_client_args c = {.rng = tarn_rng_system(),
                                 .kind = "test",
                                 .local = local,
                                 .timeout_ns = 20 * TARN_NS_PER_S,
                                 .ctx = r,
                                 .on_partition = r->on_partition,
                                 .on_invalidate = on_invalidate};

    r->trust_ms = 60000;
    r->lookup_ino = 10;
    r->locate_cid = 5;
    r->size = RIG_SIZE;
    rig_fill(0, &first, 1); /* before there are threads */
    assert_int_equal(tarn_loop_new(&r->loop), 0);
    turns_guard(r->loop, &r->watchdog, 30 * TARN_NS_PER_S);
    s.loop = c.loop = r->loop;
    assert_int_equal(tarn_rpc_server_new(&s, &r->server), 0);
    tarn_rpc_server_handle(r->server, TARN_RPC_session_open, on_open, r);
    tarn_rpc_server_handle(r->server, TARN_RPC_session_renew, on_renew, r);
    tarn_rpc_server_handle(r->server, TARN_RPC_lookup, on_lookup, r);
    tarn_rpc_server_handle(r->server, TARN_RPC_locate, on_locate, r);
    tarn_rpc_server_handle(r->server, TARN_RPC_read, on_read, r);
    tarn_rpc_server_handle(r->server, TARN_RPC_report_changed, on_changed, r);
    assert_int_equal(tarn_rpc_server_listen(r->server, "127.0.0.1:0", &r->addr), 0);
    c.addrs = r->addr;
    if (tweak)
        tweak(r, &c);
    assert_int_equal(tarn_client_new(&c, &r->client), 0);
    tarn_client_connect(r->client, 5 * TARN_NS_PER_S, on_connected, r);
    rig_until(r, &r->flag, 1);
}

static void on_stopped(void *arg)
{
    ++*(unsigned *)arg;
}

void rig_fini(struct rig *r)
{
    unsigned stopped = 0;

    tarn_client_stop(r->client, on_stopped, &stopped);
    rig_until(r, &stopped, 1);
    rig_run_for(r, 2 * TARN_NS_PER_MS); /* closed handles go */
    rig_fini_stopped(r);
}

void rig_fini_stopped(struct rig *r)
{
    unsigned stopped = 0;

    tarn_client_free(&r->client);
    rig_release(r);
    tarn_rpc_server_stop(r->server, on_stopped, &stopped);
    rig_until(r, &stopped, 1);
    tarn_rpc_server_free(&r->server);
    tarn_timer_stop(&r->watchdog);
    tarn_loop_free(&r->loop);
}

void rig_run_for(struct rig *r, uint64_t ns)
{
    turns_for(r->loop, ns);
}

void rig_until(struct rig *r, const unsigned *flag, unsigned n)
{
    turns_until(r->loop, flag, n);
}

static void push(struct rig *r, const char *name, unsigned skip, bool ack)
{
    Tarn__Wire__Invalidate inv = TARN__WIRE__INVALIDATE__INIT;
    Tarn__Wire__InvalItem item = TARN__WIRE__INVAL_ITEM__INIT, *items[1] = {&item};
    unsigned before = r->invalidated;

    r->seq += 1 + skip;
    inv.seq = r->seq;
    inv.index = r->index;
    inv.ack = ack;
    item.parent = 1;
    item.name = tarn_wire_bytes(name, strlen(name));
    inv.n_items = 1;
    inv.items = items;
    assert_int_equal(tarn_rpc_notify(r->session, TARN_RPC_invalidate, &inv.base), 0);
    rig_until(r, &r->invalidated, before + 1);
}

void rig_push(struct rig *r, const char *name, unsigned skip)
{
    push(r, name, skip, false);
}

void rig_push_ack(struct rig *r, const char *name)
{
    push(r, name, 0, true);
}

/* ---- calls -------------------------------------------------------------------------------------
 */

static void op_done(struct tarn_client_op *c, int rc)
{
    struct op *op = c->arg;

    op->done++;
    op->rc = rc;
    if (c->resp)
        protobuf_c_message_free_unpacked(c->resp, NULL);
}

void op_start(struct op *op, struct rig *r, enum tarn_client_kind kind, const char *name)
{
    memset(op, 0x5a, sizeof(*op)); /* the client does not rely on zeroes that are its own */
    op->op = (struct tarn_client_op){.kind = kind,
                                     .ino = {1},
                                     .name = name,
                                     .name_len = name ? strlen(name) : 0,
                                     .max = 100,
                                     .cb = op_done,
                                     .arg = op};
    op->rig = r;
    op->done = 0;
    tarn_client_start(r->client, &op->op);
    assert_int_equal(op->done, 0);
}

int op_wait(struct op *op)
{
    rig_until(op->rig, &op->done, 1);
    assert_int_equal(op->done, 1);
    return op->rc;
}

int lookup(struct rig *r, const char *name)
{
    struct op op;

    op_start(&op, r, TARN_CLIENT_LOOKUP, name);
    return op_wait(&op);
}

enum tarn_cached cached(struct rig *r, const char *name)
{
    struct tarn_attr attr;
    uint64_t until;

    return tarn_client_cached(r->client, (tarn_ino_t){1}, name, strlen(name), &attr, &until);
}

/* ---- reads -------------------------------------------------------------------------------------
 */

#define RIG_PAGE  4096u
#define RIG_STAMP 8u /* bytes at the beginning of a page that say which it is */

static uint64_t rig_stamp(uint64_t off)
{
    return tarn_hash_u64(off / RIG_PAGE);
}

uint8_t rig_byte(uint64_t off)
{
    if (off % RIG_PAGE < RIG_STAMP)
        return (uint8_t)(rig_stamp(off) >> (8 * (off % RIG_PAGE)));
    return (uint8_t)(off % RIG_PAGE * 31 + (off % RIG_PAGE >> 7));
}

void rig_fill(uint64_t off, uint8_t *dst, size_t n)
{
    static uint8_t page[RIG_PAGE];

    if (page[RIG_STAMP] == 0)
        for (unsigned i = RIG_STAMP; i < RIG_PAGE; i++)
            page[i] = rig_byte(i);
    while (n > 0) {
        size_t at = (size_t)(off % RIG_PAGE), k = TARN_MIN(n, RIG_PAGE - at);

        memcpy(dst, page + at, k);
        for (size_t i = at; i < RIG_STAMP && i < at + k; i++)
            dst[i - at] = rig_byte(off + i - at);
        off += k;
        dst += k;
        n -= k;
    }
}

bool rig_same(uint64_t off, const uint8_t *p, size_t n)
{
    uint8_t want[RIG_PAGE];

    for (size_t at = 0; at < n; at += sizeof(want)) {
        size_t k = TARN_MIN(n - at, sizeof(want));

        rig_fill(off + at, want, k);
        if (memcmp(want, p + at, k) != 0)
            return false;
    }
    return true;
}

struct tarn_attr rig_attr(void)
{
    struct tarn_attr a = {
        .ino = {10}, .version = 3, .size_bytes = RIG_SIZE, .type = TARN_TYPE_FILE, .nlink = 1};

    memset(a.cid.b, 5, sizeof(a.cid.b));
    return a;
}

static void rd_done(struct tarn_read *read, int rc)
{
    struct rd *rd = read->arg;
    uint64_t at = read->off_bytes;

    rd->done++;
    rd->rc = rc;
    for (unsigned i = 0; i < read->slice_count; i++) {
        const struct tarn_slice *s = &read->slices[i];

        rd->wrong |= !rig_same(at, s->buf->p + s->off, s->len);
        at += s->len;
    }
    assert_int_equal(at - read->off_bytes, read->got_bytes);
}

void rd_start(struct rd *rd, struct rig *r, struct tarn_handle *h, uint64_t off, uint32_t len)
{
    *rd = (struct rd){.rig = r};
    rd->read = (struct tarn_read){
        .handle = h, .off_bytes = off, .len_bytes = len, .cb = rd_done, .arg = rd};
    tarn_handle_read(&rd->read);
    assert_int_equal(rd->done, 0);
}

int rd_wait(struct rd *rd)
{
    rig_until(rd->rig, &rd->done, 1);
    assert_int_equal(rd->done, 1);
    assert_false(rd->wrong);
    return rd->rc;
}
