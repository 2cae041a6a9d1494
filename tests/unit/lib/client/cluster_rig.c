/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/lib/client/cluster_rig.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/base/hash.h"
#include "lib/base/limits.h"
#include "tests/unit/turns.h"

/* A read that was not answered yet. */
struct ccall {
    struct tarn_list node; /* worker's calls */
    struct cworker *w;
    struct tarn_rpc_call *call;
    struct tarn_timer timer;
    enum fault fault;
    bool cancelled;
};

static void ccall_free(struct ccall *cc)
{
    tarn_timer_stop(&cc->timer);
    tarn_list_del(&cc->node);
    cc->w->in_flight--;
    cc->w->cluster->in_flight--;
    free(cc);
}

/* The file's granules that the request touches, damaged as it was asked for. */
static void ccall_reply(struct ccall *cc)
{
    const Tarn__Wire__ReadRequest *req = (const Tarn__Wire__ReadRequest *)cc->call->request;
    Tarn__Wire__ReadResponse resp = TARN__WIRE__READ_RESPONSE__INIT;
    uint64_t size = cc->w->cluster->rig.size, sums[32];
    uint64_t off = req->offset / TARN_GRANULE_BYTES * TARN_GRANULE_BYTES;
    uint64_t end = TARN_MIN(
        tarn_div_up(req->offset + req->length, TARN_GRANULE_BYTES) * TARN_GRANULE_BYTES, size);
    size_t n = (size_t)(end - off);
    struct tarn_buf *b = tarn_buf_new(n);

    rig_fill(off + (cc->fault == SHIFTED ? 12345 : 0), b->p, n);
    if (cc->fault == TRUNCATED)
        n -= TARN_MIN(n, (size_t)TARN_GRANULE_BYTES);
    for (size_t at = 0; at < n; at += TARN_GRANULE_BYTES)
        sums[resp.n_sums++] = tarn_xxh3(b->p + at, TARN_MIN((size_t)TARN_GRANULE_BYTES, n - at));
    if (cc->fault == SUMS)
        b->p[n / 2] ^= 4;
    resp.offset = off + (cc->fault == SHIFTED ? TARN_GRANULE_BYTES : 0);
    resp.sums = sums;
    resp.source = tarn_wire_text(cc->w->source);
    resp.tag = cc->w->tag;
    tarn_rpc_reply(cc->call, 0, &resp.base, cc->fault == EMPTY ? NULL : b, 0,
                   cc->fault == EMPTY ? 0 : n);
    tarn_buf_unref(&b);
    ccall_free(cc);
}

/* By cid alone, and it is not here. */
static bool ccall_missing(const struct ccall *cc)
{
    const Tarn__Wire__ReadRequest *req = (const Tarn__Wire__ReadRequest *)cc->call->request;

    return req->cached_only && cc->w->uncached;
}

static void ccall_answer(struct ccall *cc)
{
    if (!ccall_missing(cc)) {
        ccall_reply(cc);
        return;
    }
    tarn_rpc_reply(cc->call, -TARN_E_NOT_CACHED, NULL, NULL, 0, 0);
    ccall_free(cc);
}

static void ccall_due(struct tarn_timer *t, void *arg)
{
    (void)t;
    ccall_answer(arg);
}

static void ccall_cancelled(struct tarn_rpc_call *call)
{
    struct ccall *cc = call->state;

    cc->w->cancels++;
    cc->cancelled = true;
    if (cc->fault != HANG) { /* as a worker does; one that hangs does not hear it */
        tarn_rpc_reply(call, -TARN_E_CANCELLED, NULL, NULL, 0, 0);
        ccall_free(cc);
    }
}

static struct ccall *ccall_new(struct cworker *w, struct tarn_rpc_call *call)
{
    struct ccall *cc = tarn_xnew(struct ccall);

    cc->w = w;
    cc->call = call;
    cc->fault = w->faults > 0 ? w->fault : GOOD;
    w->faults -= w->faults > 0;
    tarn_list_push(&w->calls, &cc->node);
    call->state = cc;
    call->on_cancel = ccall_cancelled;
    w->in_flight++;
    w->most_in_flight = TARN_MAX(w->most_in_flight, w->in_flight);
    w->cluster->in_flight++;
    w->cluster->most_in_flight = TARN_MAX(w->cluster->most_in_flight, w->cluster->in_flight);
    return cc;
}

static void cworker_read(void *ctx, struct tarn_rpc_call *call)
{
    const Tarn__Wire__ReadRequest *req = (const Tarn__Wire__ReadRequest *)call->request;
    struct cworker *w = ctx;
    struct cluster *c = w->cluster;
    struct ccall *cc;

    assert_int_equal(req->locator->cid.len, 16);
    assert_int_equal(req->locator->cid.data[7], 5);
    assert_true(req->length > 0 && req->offset + req->length <= c->rig.size);
    assert_int_equal(tarn_segment_of(req->offset), tarn_segment_of(req->offset + req->length - 1));
    w->reads++;
    if (req->locator->key.len == 0) {
        w->bare++;
        assert_true(req->cached_only);
    } else {
        w->held_only += req->cached_only;
    }
    w->bytes += req->length;
    w->ahead = req->ahead;
    if (c->served_n < SERVED_MAX)
        c->served[c->served_n++] = req->offset;
    if (w->wanted && (!call->meta || call->meta->capability.len != 1 ||
                      call->meta->capability.data[0] != *w->wanted)) {
        tarn_rpc_reply(call, -TARN_E_CAP_EXPIRED, NULL, NULL, 0, 0);
        return;
    }
    cc = ccall_new(w, call);
    if (cc->fault == FAIL) {
        tarn_rpc_reply(call, w->rc, NULL, NULL, 0, 0);
        ccall_free(cc);
    } else if (cc->fault == CUT) {
        cc->fault = HANG;
        tarn_rpc_session_close(call->session);
    } else if (cc->fault != HANG && w->delay_ns) {
        tarn_timer_start(c->rig.loop, &cc->timer, w->delay_ns, ccall_due, cc);
    } else if (cc->fault != HANG) {
        ccall_answer(cc);
    }
}

void cworker_release(struct cworker *w)
{
    w->faults = 0;
    TARN_LIST_FOREACH_SAFE(n, &w->calls)
    {
        struct ccall *cc = TARN_LIST_ENTRY(n, struct ccall, node);

        if (!tarn_timer_running(&cc->timer)) {
            cc->fault = GOOD;
            ccall_reply(cc);
        }
    }
}

/* ---- life ------------------------------------------------------------------------------------ */

void cworker_start(struct cworker *w)
{
    struct tarn_rpc_server_args s = {
        .loop = w->cluster->rig.loop, .rng = tarn_rng_system(), .cluster_id = "c"};
    const char *addr;

    if (w->deaf_fd >= 0)
        (void)close(w->deaf_fd);
    w->deaf_fd = -1;
    assert_int_equal(tarn_rpc_server_new(&s, &w->server), 0);
    tarn_rpc_server_set_worker(w->server, w->id);
    tarn_rpc_server_handle(w->server, TARN_RPC_read, cworker_read, w);
    assert_int_equal(tarn_rpc_server_listen(w->server, w->addr[0] ? w->addr : "127.0.0.1:0", &addr),
                     0);
    (void)snprintf(w->addr, sizeof(w->addr), "%s", addr);
}

static void cworker_stopped(void *arg)
{
    ++*(unsigned *)arg;
}

void cworker_stop(struct cworker *w)
{
    unsigned before = w->stops;

    if (!w->server)
        return;
    tarn_rpc_server_stop(w->server, cworker_stopped, &w->stops);
    /* Calls that hang are answered by the end, or the server would wait for them. */
    TARN_LIST_FOREACH_SAFE(n, &w->calls)
    {
        struct ccall *cc = TARN_LIST_ENTRY(n, struct ccall, node);

        tarn_rpc_reply(cc->call, -TARN_E_SHUTDOWN, NULL, NULL, 0, 0);
        ccall_free(cc);
    }
    rig_until(&w->cluster->rig, &w->stops, before + 1);
    tarn_rpc_server_free(&w->server);
}

void cworker_deafen(struct cworker *w)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    const char *port = strrchr(w->addr, ':');
    int one = 1;

    cworker_stop(w);
    assert_non_null(port);
    a.sin_port = htons((uint16_t)strtoul(port + 1, NULL, 10));
    w->deaf_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(w->deaf_fd >= 0);
    assert_int_equal(setsockopt(w->deaf_fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)), 0);
    assert_int_equal(bind(w->deaf_fd, (struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(listen(w->deaf_fd, 64), 0);
}

void cluster_publish(struct cluster *c)
{
    Tarn__Wire__Topology t = TARN__WIRE__TOPOLOGY__INIT;
    Tarn__Wire__WorkerInfo info[CLUSTER_MAX], *infos[CLUSTER_MAX];
    Tarn__Wire__Membership past = TARN__WIRE__MEMBERSHIP__INIT, *pasts[] = {&past};
    uint64_t ids[CLUSTER_MAX];
    uint32_t weights[CLUSTER_MAX];
    char host[256] = "";

    (void)gethostname(host, sizeof(host) - 1);
    for (unsigned i = 0; i < c->n; i++) {
        const struct cworker *w = &c->w[i];
        Tarn__Wire__WorkerInfo *in = &info[t.n_workers];

        if (w->absent)
            continue;
        tarn__wire__worker_info__init(in);
        in->id = w->id;
        in->addr = tarn_wire_text(w->addr);
        in->host = tarn_wire_text(w->at_home ? host : "elsewhere");
        in->weight = 100;
        in->state = w->state;
        in->alive = !w->not_alive;
        in->copies = w->copies;
        ids[t.n_workers] = w->id;
        weights[t.n_workers] = in->weight;
        infos[t.n_workers++] = in;
    }
    past.n_ids = past.n_weights = t.n_workers;
    past.ids = ids;
    past.weights = weights;
    t.past = pasts;
    t.n_past = c->all_owned;
    t.version = ++c->version;
    t.workers = infos;
    client_topology(c->rig.client, &t);
}

void cluster_init(struct cluster *c, unsigned n,
                  void (*tweak)(struct rig *r, struct tarn_client_args *args))
{
    memset(c, 0, sizeof(*c));
    rig_init_with(&c->rig, NULL, tweak);
    c->rig.size = CLUSTER_SIZE;
    c->n = n;
    for (unsigned i = 0; i < n; i++) {
        c->w[i] = (struct cworker){
            .cluster = c, .id = i + 1, .deaf_fd = -1, .state = TARN_WORKER_LIVE, .source = "local"};
        tarn_list_init(&c->w[i].calls);
        cworker_start(&c->w[i]);
    }
    cluster_publish(c);
}

static void cluster_client_stopped(void *arg)
{
    ++*(unsigned *)arg;
}

void cluster_stop_client(struct cluster *c)
{
    unsigned stopped = 0;

    tarn_client_stop(c->rig.client, cluster_client_stopped, &stopped);
    rig_until(&c->rig, &stopped, 1);
    assert_int_equal(c->rig.client->fetch_count, 0);
    c->client_stopped = true;
}

void cluster_fini(struct cluster *c)
{
    struct tarn_client_counts counts;

    if (!c->client_stopped)
        cluster_stop_client(c);
    rig_run_for(&c->rig, 2 * TARN_NS_PER_MS); /* closed handles go */
    tarn_client_counts(c->rig.client, &counts);
    assert_int_equal(counts.ahead_bytes, 0);
    for (unsigned i = 0; i < c->n; i++) {
        cworker_stop(&c->w[i]);
        if (c->w[i].deaf_fd >= 0)
            (void)close(c->w[i].deaf_fd);
    }
    rig_fini_stopped(&c->rig);
}

struct cworker *cluster_owner(struct cluster *c, uint64_t off, unsigned k)
{
    const struct tarn_place_worker *order[TARN_PLACE_PICK_MAX];
    struct tarn_attr a = cluster_attr(c);
    unsigned n = tarn_place_order(tarn_peers_place(c->rig.client->peers), &a.cid,
                                  tarn_segment_of(off), TARN_PLACE_PICK_MAX, order);

    assert_true(k < n);
    return &c->w[order[k]->id - 1];
}

unsigned cluster_reads(const struct cluster *c)
{
    unsigned n = 0;

    for (unsigned i = 0; i < c->n; i++)
        n += c->w[i].reads;
    return n;
}

struct tarn_attr cluster_attr(const struct cluster *c)
{
    struct tarn_attr a = rig_attr();

    a.size_bytes = c->rig.size;
    return a;
}

struct tarn_handle *cluster_open(struct cluster *c)
{
    struct tarn_attr a = cluster_attr(c);

    return tarn_handle_open(c->rig.client, &a);
}

int cluster_read(struct cluster *c, struct tarn_handle *h, uint64_t off, uint32_t len)
{
    struct rd rd;
    int rc;

    rd_start(&rd, &c->rig, h, off, len);
    rc = rd_wait(&rd);
    if (rc == 0)
        assert_int_equal(rd.read.got_bytes, TARN_MIN((uint64_t)len, c->rig.size - off));
    return rc;
}

uint64_t now_ms(void)
{
    return tarn_now_ns() / TARN_NS_PER_MS;
}

uint64_t scattered(unsigned i)
{
    return (uint64_t)(i * 7919 % 997) * MIB + i % 1000 * 17;
}

struct tarn_client_counts counts_of(struct cluster *c)
{
    struct tarn_client_counts n;

    tarn_client_counts(c->rig.client, &n);
    return n;
}

int read_once(struct cluster *c, uint64_t off, uint32_t len)
{
    struct tarn_handle *h = cluster_open(c);
    int rc = cluster_read(c, h, off, len);

    tarn_handle_close(&h);
    return rc;
}

void soon(struct rig *r, struct tarn_client_args *args)
{
    (void)r;
    args->no_worker_ns = 300 * TARN_NS_PER_MS;
}
