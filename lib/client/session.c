/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The session: opened at the start and after each reconnect, renewed three times per lease (with
 * what was read since it began, for reports). What the cluster promised holds while the lease does:
 *
 *     connected            renewals move the end of the lease
 *     connection lost      everything is believed on until the lease ends; a session that is opened
 *                          again says up to which index of the journal it has heard of every
 *                          change, and goes on where the master can tell it the rest
 *     lease over           cut off: on-partition says what is believed on, and whatever must be
 *                          asked fails at once, or after a lease without any master. Nothing is
 *                          dropped: the kernel was never allowed to believe beyond the lease, and
 *                          who comes back may have missed nothing
 *
 * A lease counts from the time at which its renewal was sent, so it ends here before it does there,
 * and goes on while the host sleeps. What the kernel was allowed to believe does not: after a sleep
 * it is told, within WATCH_NS, to ask again.
 * Inside one process there is no lease. A gap in the numbers of the invalidations is a loss, too.
 * A stop says, where it is connected, what was read since the last renewal and that the session is
 * over; without that, as after a kill, changes wait for the end of its lease.
 */
#include "lib/client/client_priv.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"
#include "lib/base/log.h"

#define LAST_WORD_NS TARN_NS_PER_S
#define WATCH_NS     (250 * TARN_NS_PER_MS)
#define SLEPT_MIN_NS (100 * TARN_NS_PER_MS) /* less is forgotten: the master waits longer */

static void session_ask_again(struct tarn_client *c)
{
    Tarn__Wire__Invalidate inv = TARN__WIRE__INVALIDATE__INIT;

    inv.everything = true;
    if (c->args.on_invalidate)
        c->args.on_invalidate(c->args.ctx, &inv);
}

static void session_everything(struct tarn_client *c)
{
    client_cache_clear(c->cache);
    session_ask_again(c);
}

static void session_renew_now(struct tarn_client *c);
static void session_lease(struct tarn_client *c, uint64_t sent_ns);

static void session_invalidated(struct tarn_client *c, const Tarn__Wire__Invalidate *inv)
{
    bool missed = c->have_seq && inv->seq != c->seq + 1;

    if (missed)
        tarn_warn("client",
                  "invalidations were missed (seq=%llu after %llu): everything is asked again",
                  (unsigned long long)inv->seq, (unsigned long long)c->seq);
    else if (inv->everything)
        tarn_info("client", "anything may have changed: everything is asked again");
    if (missed || inv->everything)
        session_everything(c);
    c->have_seq = true;
    c->seq = inv->seq;
    for (size_t i = 0; i < inv->n_items; i++) {
        const Tarn__Wire__InvalItem *it = inv->items[i];

        if (it->name.len > 0 && it->name.len <= TARN_NAME_MAX)
            client_cache_drop(c->cache, (tarn_ino_t){it->parent}, (const char *)it->name.data,
                              it->name.len);
    }
    if (c->args.on_invalidate)
        c->args.on_invalidate(c->args.ctx, inv);
    if (inv->index)
        c->seen = inv->index;
    if (c->resumed_ns && c->seen >= c->resumed_index) { /* all that was missed is known by now */
        session_lease(c, c->resumed_ns);
        c->resumed_ns = 0;
    }
    if (inv->ack) /* our tables are switched; the kernel is told by the notifier */
        session_renew_now(c);
}

static void session_cluster(struct tarn_client *c, const Tarn__Wire__Topology *topology,
                            const Tarn__Wire__AttachmentList *attachments)
{
    if (topology)
        client_topology(c, topology);
    if (!attachments)
        return;
    c->attachments = attachments->version;
    if (c->args.on_attachments)
        c->args.on_attachments(c->args.ctx, attachments);
}

void client_notice(void *ctx, uint32_t method, const ProtobufCMessage *msg)
{
    struct tarn_client *c = ctx;

    if (method == TARN_RPC_invalidate)
        session_invalidated(c, (const Tarn__Wire__Invalidate *)msg);
    else if (method == TARN_RPC_topology)
        session_cluster(c, (const Tarn__Wire__Topology *)msg, NULL);
    else if (method == TARN_RPC_attachments)
        session_cluster(c, NULL, (const Tarn__Wire__AttachmentList *)msg);
}

/* ---- the lease --------------------------------------------------------------------------------
 */

uint64_t client_lease_clock(void)
{
    struct timespec t;

    if (clock_gettime(CLOCK_BOOTTIME, &t) < 0)
        return tarn_now_ns();
    return (uint64_t)t.tv_sec * TARN_NS_PER_S + (uint64_t)t.tv_nsec;
}

uint64_t client_slept_ns(void)
{
    uint64_t all = client_lease_clock(), awake = tarn_now_ns(); /* in this order: rather less */

    return all > awake ? all - awake : 0;
}

bool tarn_client_cut_off(const struct tarn_client *c)
{
    /* A process that slept is late with its timer. */
    return atomic_load(&c->cut_off) || client_lease_clock() >= atomic_load(&c->lease_until_ns);
}

bool tarn_client_trusts(const struct tarn_client *c, uint64_t until_ns)
{
    if (!tarn_client_cut_off(c))
        return until_ns > tarn_now_ns();
    return c->args.on_partition == TARN_PARTITION_STALE ||
           (c->args.on_partition == TARN_PARTITION_AUTO && until_ns == UINT64_MAX);
}

/* The kernel's clock stood still meanwhile; names here are believed by the lease's. */
static void session_slept(struct tarn_client *c)
{
    uint64_t slept = client_slept_ns();
    int64_t since = (int64_t)(slept - c->slept_ns);

    if (since <= (int64_t)SLEPT_MIN_NS)
        return;
    tarn_info("client", "the host slept for %lld ms: the kernel asks for names again",
              (long long)since / (long long)TARN_NS_PER_MS);
    c->slept_ns = slept;
    session_ask_again(c);
}

static void session_lease_watch(struct tarn_timer *t, void *arg)
{
    static const char *const names[] = {
        "auto: only what is trusted for ever is believed on, other names fail until it answers",
        "fail: nothing is believed, names fail until it answers",
        "stale: what is known is believed on"};
    struct tarn_client *c = arg;
    uint64_t until = atomic_load(&c->lease_until_ns), now = client_lease_clock();

    session_slept(c);
    if (until > now) {
        tarn_timer_start(c->args.loop, t, TARN_MIN(until - now, WATCH_NS), session_lease_watch, c);
        return;
    }
    tarn_warn("client", "cut off from the master for longer than the lease: on-partition=%s",
              names[c->args.on_partition]);
    atomic_store(&c->cut_off, true);
}

/* The master heard of us after `sent_ns`. */
static void session_lease(struct tarn_client *c, uint64_t sent_ns)
{
    uint64_t lease = c->lease_ms * TARN_NS_PER_MS, now = client_lease_clock();

    if (!c->leased)
        return;
    atomic_store(&c->lease_until_ns, sent_ns + lease);
    if (sent_ns + lease <= now) /* the answer came too late: the next renewal is under way soon */
        return;
    if (atomic_exchange(&c->cut_off, false))
        tarn_info("client", "the master answers again");
    if (!tarn_timer_running(&c->lease_timer) && !c->stopping)
        tarn_timer_start(c->args.loop, &c->lease_timer, TARN_MIN(sent_ns + lease - now, WATCH_NS),
                         session_lease_watch, c);
}

static void session_renew_later(struct tarn_client *c);
static void session_end(struct tarn_client *c);

static void session_renewed(struct tarn_rpc_req *req, int rc)
{
    struct tarn_client *c = req->arg;
    const Tarn__Wire__RenewResponse *resp = (const Tarn__Wire__RenewResponse *)req->resp;

    c->session_busy = false;
    if (rc == 0)
        memcpy(c->told, c->telling, sizeof(c->told));
    if (c->stopping) {
        session_end(c);
        return;
    }
    if (rc == 0) {
        c->resumed_ns = 0; /* what was pushed before this answer has come before it */
        session_lease(c, c->renew_sent_ns);
        client_meta(c, resp->capability);
        session_cluster(c, resp->topology, resp->attachments);
        c->seen = TARN_MAX(c->seen, resp->index);
        if (c->have_seq && resp->seq > c->seq) { /* the connection keeps order: a gap is a loss */
            session_everything(c);
            c->seq = resp->seq;
        }
        if (!c->have_seq) { /* none came yet: from here on none may be missing */
            c->have_seq = true;
            c->seq = resp->seq;
        }
        session_renew_later(c);
    } else if (rc == -TARN_E_STALE || rc == -TARN_E_CAP_EXPIRED) {
        client_session_start(c); /* whether anything was missed is in the answer */
    } else {
        session_renew_later(c);
    }
    if (c->renew_again && !c->session_busy) {
        c->renew_again = false;
        session_renew_now(c);
    }
}

static void session_reads(struct tarn_client *c, uint64_t ret[CLIENT_SOURCES])
{
    ret[0] = atomic_load(&c->local_bytes);
    ret[1] = atomic_load(&c->remote_bytes);
    ret[2] = atomic_load(&c->ufs_bytes);
}

static void session_tell(struct tarn_client *c, uint64_t timeout_ns, bool no_retry)
{
    Tarn__Wire__RenewRequest msg = TARN__WIRE__RENEW_REQUEST__INIT;
    static const char *const names[CLIENT_SOURCES] = {"local", "remote", "ufs"};
    Tarn__Wire__ReadCount rows[CLIENT_SOURCES], *reads[CLIENT_SOURCES];

    session_reads(c, c->telling);
    for (unsigned i = 0; i < CLIENT_SOURCES; i++) {
        tarn__wire__read_count__init(&rows[i]);
        rows[i].source = tarn_wire_text(names[i]);
        rows[i].bytes = c->telling[i] - c->base[i];
        reads[i] = &rows[i];
    }
    msg.session = c->session;
    msg.seq = c->seq;
    msg.topology = client_topology_version(c);
    msg.attachments = c->attachments;
    c->renew_sent_ns = client_lease_clock();
    msg.n_reads = CLIENT_SOURCES;
    msg.reads = reads;
    msg.passthrough_opens = atomic_load(&c->lent_opens);
    msg.last = c->last_told;
    c->session_busy = true;
    tarn_rpc_req_fini(&c->session_req); /* this may be its callback */
    c->session_req = (struct tarn_rpc_req){.method = TARN_RPC_session_renew,
                                           .msg = &msg.base,
                                           .cb = session_renewed,
                                           .arg = c,
                                           .timeout_ns = timeout_ns,
                                           .no_retry = no_retry};
    tarn_rpc_start(c->rpc, &c->session_req);
}

static void session_renew(struct tarn_timer *t, void *arg)
{
    struct tarn_client *c = arg;

    (void)t; /* c's */
    if (!c->session_busy && !c->stopping)
        session_tell(c, c->lease_ms * TARN_NS_PER_MS, false);
}

static void session_renew_now(struct tarn_client *c)
{
    if (c->session_busy || !c->connected) {
        c->renew_again = c->session_busy;
        return;
    }
    tarn_timer_stop(&c->renew_timer);
    session_renew(&c->renew_timer, c);
}

static void session_renew_later(struct tarn_client *c)
{
    /* Often enough that `status` is a second old at most inside one process; a third of the lease
     * elsewhere. */
    uint64_t every = c->local.open ? TARN_NS_PER_S : c->lease_ms * TARN_NS_PER_MS / 3;

    if (c->leased && c->connected && client_lease_clock() - c->renew_sent_ns > every)
        every = 1; /* the last answer took long: most of the lease is gone */
    tarn_timer_start(c->args.loop, &c->renew_timer, every, session_renew, c);
}

static void session_opened(struct tarn_rpc_req *req, int rc)
{
    struct tarn_client *c = req->arg;
    const Tarn__Wire__SessionResponse *resp = (const Tarn__Wire__SessionResponse *)req->resp;
    void (*cb)(void *, int) = c->connect_cb;

    c->session_busy = false;
    if (rc == 0) {
        c->connected = true;
        if (c->session != resp->session) /* its figures begin anew */
            memcpy(c->base, c->told, sizeof(c->base));
        c->session = resp->session;
        c->lease_ms = TARN_MAX(resp->lease_ms, (uint64_t)100);
        c->leased = resp->kernel_trust_ms != UINT64_MAX && !c->args.transient;
        if (c->leased)
            tarn_rpc_client_set_lost_timeout(c->rpc, c->lease_ms * TARN_NS_PER_MS);
        c->have_seq = resp->index != 0; /* an older master does not tell */
        c->seq = resp->seq;
        if (c->connected_once && !resp->resumed) /* nobody would tell the end of what is known */
            session_everything(c);
        if (!c->connected_once || !resp->resumed) /* else what was missed is pushed next */
            c->seen = resp->index;
        c->resumed_ns = c->connected_once && resp->resumed ? c->renew_sent_ns : 0;
        c->resumed_index = resp->index;
        c->connected_once = true;
        if (!c->resumed_ns)
            session_lease(c, c->renew_sent_ns);
        session_cluster(c, resp->topology, resp->attachments);
        atomic_store(&c->kernel_trust_ns, resp->kernel_trust_ms >= UINT64_MAX / TARN_NS_PER_MS
                                              ? UINT64_MAX
                                              : resp->kernel_trust_ms * TARN_NS_PER_MS);
        client_meta(c, resp->capability);
        if (!c->stopping)
            session_renew_later(c);
    } else if (!cb && !c->stopping) {
        tarn_warn_limited("client", "no session: %s", tarn_strerror(rc));
        session_renew_later(c);
    }
    c->connect_cb = NULL;
    if (cb)
        cb(c->connect_arg, rc);
    if (c->stopping)
        session_end(c);
}

void client_session_start(struct tarn_client *c)
{
    Tarn__Wire__SessionRequest msg = TARN__WIRE__SESSION_REQUEST__INIT;
    char host[256] = "";

    if (c->session_busy || c->stopping)
        return;
    (void)gethostname(host, sizeof(host) - 1); /* only shown */
    if (c->args.host && c->args.host[0])
        (void)snprintf(host, sizeof(host), "%s", c->args.host); /* the same */
    msg.kind = c->kind;
    msg.transient = c->args.transient;
    msg.direct = c->args.on_attachments != NULL;
    msg.on_partition_stale = c->args.on_partition == TARN_PARTITION_STALE;
    if (c->connected_once) {
        msg.resume = c->session;
        msg.seen = c->seen;
    }
    c->renew_sent_ns = client_lease_clock();
    msg.mountpoint = c->mountpoint;
    msg.host = host;
    msg.pid = (uint64_t)getpid();
    c->session_busy = true;
    tarn_rpc_req_fini(&c->session_req); /* this may be its callback */
    c->session_req = (struct tarn_rpc_req){
        .method = TARN_RPC_session_open, .msg = &msg.base, .cb = session_opened, .arg = c};
    if (c->connect_cb) { /* somebody waits to hear whether there is a server at all */
        c->session_req.timeout_ns = c->connect_timeout_ns;
        c->session_req.no_retry = true;
    }
    tarn_rpc_start(c->rpc, &c->session_req);
}

/*
 * Of a stop, once no call of the session is under way: tells what is untold, and that it is over,
 * so that nobody waits for what it believed; then disconnects.
 */
static void session_end(struct tarn_client *c)
{
    uint64_t reads[CLIENT_SOURCES];
    bool untold;

    if (c->disconnecting)
        return;
    session_reads(c, reads);
    untold = memcmp(reads, c->told, sizeof(reads)) != 0 || (c->leased && !c->args.transient);
    if (c->connected && !c->last_told && !c->local.open && untold) {
        c->last_told = true;
        session_tell(c, LAST_WORD_NS, true);
        return;
    }
    c->disconnecting = true;
    tarn_rpc_client_stop(c->rpc, c->stopped, c->stopped_arg);
}

void client_session_stop(struct tarn_client *c)
{
    tarn_timer_stop(&c->renew_timer);
    tarn_timer_stop(&c->lease_timer);
    if (c->session_busy && c->connected && !c->local.open)
        tarn_rpc_cancel(&c->session_req); /* its callback goes on from here */
    else
        session_end(c);
}

void client_state(void *ctx, bool connected, int rc)
{
    struct tarn_client *c = ctx;

    (void)rc; /* the requests' own callbacks report it */
    if (!c->connected_once || c->stopping)
        return;
    c->connected = false; /* until the next session */
    if (connected)
        client_session_start(c);
    else if (!c->leased)
        session_everything(c);
}
