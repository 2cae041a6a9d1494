/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The client's connection. It is kept up whether or not there are requests, since notices arrive on
 * it.
 *
 * A round tries each address once, without a pause between them; after a round that failed there is
 * a pause that doubles up to CONN_PAUSE_MAX_NS, and is random so that the clients of a dead master
 * do not all come back at once. After a loss the same address is tried first.
 *
 * When a peer says that trying is of no use (wrong token, another protocol) and no other address
 * took us, the requests that wait end with that answer and the client goes idle: only a new request
 * makes it try again, and not before the longest pause has passed.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/base/sm.h"
#include "lib/rpc/client_priv.h"

#define CONN_PAUSE_NS     (20 * TARN_NS_PER_MS)
#define CONN_PAUSE_MAX_NS TARN_NS_PER_S
#define CONN_STEADY_NS    TARN_NS_PER_S /* a connection that lasted as long was a good one */
#define CONN_LEAVE_NS     TARN_NS_PER_S /* calls under way may end before we leave */
#define CONN_TICK_NS      (3 * TARN_NS_PER_S)
#define CONN_QUEUE_BYTES  (16u << 20) /* unwritten: further requests wait */

#define CLIENT_BIT(name) TARN_SM_BIT(CLIENT_##name)
static const struct tarn_sm_state client_states[CLIENT_STATES] = {
#define CLIENT_STATE(name, next) {#name, (next)},
#include "lib/rpc/client_state.def"
#undef CLIENT_STATE
};

static void conn_connect(struct tarn_rpc_client *c);

static void conn_move(struct tarn_rpc_client *c, unsigned to)
{
    tarn_sm_move(client_states, &c->state, to);
}

static struct tarn_rpc_client *conn_client(struct tarn_link *l)
{
    struct tarn_rpc_client *c = TARN_CONTAINER(l, struct tarn_rpc_client, link);

    TARN_ASSERT(c->magic == CLIENT_MAGIC);
    return c;
}

bool tarn_client_writable(const struct tarn_rpc_client *c)
{
    return c->state == CLIENT_READY && !c->leaving && !c->link.closing &&
           tarn_link_queued(&c->link) < CONN_QUEUE_BYTES;
}

uint64_t tarn_client_pause_ns(struct tarn_rpc_client *c, unsigned n)
{
    uint64_t most = n < 6 ? CONN_PAUSE_NS << n : CONN_PAUSE_MAX_NS;

    most = TARN_MIN(most, CONN_PAUSE_MAX_NS);
    return most / 2 + tarn_rng_below(c->rng, most / 2);
}

/* ---- rounds
 * -------------------------------------------------------------------------------------- */

bool tarn_rpc_refused(int rc)
{
    switch (-rc) {
    case TARN_E_AUTH_REQUIRED:
    case TARN_E_AUTH_BAD:
    case TARN_E_FRAME_VERSION:
    case TARN_E_FRAME_BAD:
    case TARN_E_MSG_BAD:
    case TARN_E_INVALID:
    case TARN_E_OTHER_CLUSTER:
    case TARN_E_OTHER_WORKER:
        return true;
    default:
        return false;
    }
}

static void conn_wait_cb(struct tarn_timer *t, void *arg)
{
    struct tarn_rpc_client *c;

    (void)t; /* the client's */
    TARN_CAST(c, arg, CLIENT_MAGIC);
    conn_connect(c);
}

static void conn_wait(struct tarn_rpc_client *c, uint64_t ns)
{
    conn_move(c, CLIENT_WAITING);
    tarn_timer_start(c->loop, &c->timer, ns, conn_wait_cb, c);
}

/* True when nobody has answered for longer than requests may wait. */
static bool conn_given_up(const struct tarn_rpc_client *c)
{
    return c->lost_timeout_ns && tarn_loop_now_ns(c->loop) - c->lost_ns >= c->lost_timeout_ns;
}

/* Every address has failed. */
static void conn_round_over(struct tarn_rpc_client *c)
{
    int refused = c->refused_rc, rc = refused < 0 ? refused : c->round_rc;

    c->tried = 0;
    c->refused_rc = 0;
    if (refused < 0) {
        tarn_warn_limited("rpc", "%s refuses us: %s", c->addrs_n ? c->addrs[0] : "the peer",
                          tarn_strerror(refused));
        conn_move(c, CLIENT_IDLE);
        c->not_before_ns = tarn_loop_now_ns(c->loop) + CONN_PAUSE_MAX_NS;
        tarn_client_fail_queued(c, rc, false);
    } else if (c->addrs_n == 0) {
        conn_move(c, CLIENT_IDLE);
        tarn_client_fail_queued(c, rc, false);
    } else {
        conn_wait(c, tarn_client_pause_ns(c, c->backoff));
        c->backoff++;
        tarn_client_fail_queued(c, rc, !conn_given_up(c));
    }
    if (c->on_state)
        c->on_state(c->ctx, false, rc);
}

static void conn_attempt_failed(struct tarn_rpc_client *c, int rc)
{
    TARN_ASSERT(rc < 0);
    tarn_timer_stop(&c->timer);
    tarn_debug("rpc", "addr=%s: %s", c->addrs_n ? c->addrs[c->addr] : "pair", tarn_strerror(rc));
    c->round_rc = rc;
    if (tarn_rpc_refused(rc))
        c->refused_rc = rc;
    c->tried++;
    if (c->addrs_n)
        c->addr = (c->addr + 1) % c->addrs_n;
    if (c->tried < c->addrs_n)
        conn_connect(c);
    else
        conn_round_over(c);
}

/* ---- handshake
 * ----------------------------------------------------------------------------------- */

static void conn_handshake_late_cb(struct tarn_timer *t, void *arg)
{
    struct tarn_rpc_client *c;

    (void)t; /* the client's */
    TARN_CAST(c, arg, CLIENT_MAGIC);
    tarn_link_cut(&c->link, -TARN_E_DEADLINE);
}

static int conn_send(struct tarn_rpc_client *c, enum tarn_frame_type type,
                     const ProtobufCMessage *msg)
{
    struct tarn_frame f = {.type = (uint8_t)type};

    return tarn_link_send(&c->link, &f, msg, NULL, 0, 0);
}

static int conn_prove(struct tarn_rpc_client *c, bool auth)
{
    Tarn__Wire__Proof proof = TARN__WIRE__PROOF__INIT;
    uint8_t mac[TARN_HANDSHAKE_MAC];

    proof.uid = (uint32_t)geteuid();
    if (auth) {
        tarn_handshake_mac(&c->shake, false, c->token, c->token_len, mac);
        proof.mac = (ProtobufCBinaryData){sizeof(mac), mac};
    }
    conn_move(c, CLIENT_PROOF);
    return conn_send(c, TARN_FRAME_PROOF, &proof.base);
}

/* Negative: the connection is cut with it. */
static int conn_challenge(struct tarn_rpc_client *c, const struct tarn_frame *f,
                          const uint8_t *body)
{
    Tarn__Wire__Challenge *m;
    int rc = 0;
    bool auth;

    m = (Tarn__Wire__Challenge *)tarn_msg_decode(&tarn__wire__challenge__descriptor, body,
                                                 f->body_len);
    if (!m)
        return -TARN_E_MSG_BAD;
    auth = m->auth;
    c->shake.version = m->version;
    if (m->nonce.len != TARN_HANDSHAKE_NONCE)
        rc = -TARN_E_MSG_BAD;
    else if (m->version < TARN_FRAME_VERSION_MIN || m->version > TARN_FRAME_VERSION)
        rc = -TARN_E_FRAME_VERSION;
    else if (auth && !c->token)
        rc = -TARN_E_AUTH_REQUIRED;
    else if (!auth && c->token && c->addrs_n)
        rc = -TARN_E_AUTH_BAD; /* whoever answers there does not prove that it is ours */
    else
        memcpy(c->shake.nonce_server, m->nonce.data, TARN_HANDSHAKE_NONCE);
    protobuf_c_message_free_unpacked(&m->base, NULL);
    return rc < 0 ? rc : conn_prove(c, auth);
}

static int conn_refused_status(const struct tarn_frame *f)
{
    return f->status <= INT32_MAX && tarn_err_known((int)f->status) ? -(int)f->status
                                                                    : -TARN_E_INTERNAL;
}

static void conn_ready(struct tarn_rpc_client *c, const char *cluster_id)
{
    free(c->cluster_id);
    c->cluster_id = tarn_xstrdup(cluster_id);
    tarn_timer_stop(&c->timer);
    tarn_link_open(&c->link, (uint8_t)c->shake.version, c->addrs_n ? CONN_TICK_NS : 0);
    conn_move(c, CLIENT_READY);
    c->ready_ns = tarn_loop_now_ns(c->loop);
    c->tried = 0;
    c->round_rc = 0;
    c->refused_rc = 0;
    tarn_client_send_queued(c);
    if (c->on_state)
        c->on_state(c->ctx, true, 0);
}

/* Is it who we want? An address may be told by several, or be another's by now. */
static int conn_wanted(const struct tarn_rpc_client *c, const Tarn__Wire__Welcome *m)
{
    if (c->wanted_cluster[0] && strcmp(m->cluster_id, c->wanted_cluster) != 0)
        return -TARN_E_OTHER_CLUSTER;
    if (c->wanted_worker == 0 || m->worker == c->wanted_worker)
        return 0;
    return m->worker ? -TARN_E_OTHER_WORKER : -TARN_E_CONN_REFUSED; /* it is about to register */
}

static int conn_welcome(struct tarn_rpc_client *c, const struct tarn_frame *f, const uint8_t *body)
{
    bool auth = c->token && c->addrs_n;
    Tarn__Wire__Welcome *m;
    int rc;

    if (f->status)
        return conn_refused_status(f);
    m = (Tarn__Wire__Welcome *)tarn_msg_decode(&tarn__wire__welcome__descriptor, body, f->body_len);
    if (!m)
        return -TARN_E_MSG_BAD;
    if ((auth || m->mac.len > 0) &&
        (!c->token || !tarn_handshake_check(&c->shake, true, c->token, c->token_len, &m->mac))) {
        protobuf_c_message_free_unpacked(&m->base, NULL);
        return -TARN_E_AUTH_BAD;
    }
    rc = conn_wanted(c, m);
    if (rc == 0)
        conn_ready(c, m->cluster_id);
    protobuf_c_message_free_unpacked(&m->base, NULL);
    return rc;
}

/* ---- frames
 * -------------------------------------------------------------------------------------- */

static int conn_notice(struct tarn_rpc_client *c, const struct tarn_frame *f, const uint8_t *body)
{
    const struct tarn_rpc_method *m = tarn_rpc_method(f->method);
    ProtobufCMessage *msg;

    if (!m || m->response || !c->on_notice)
        return 0; /* of a newer peer, or not wanted */
    msg = tarn_msg_decode(m->request, body, f->body_len);
    if (!msg)
        return -TARN_E_MSG_BAD;
    c->on_notice(c->ctx, m->nr, msg);
    protobuf_c_message_free_unpacked(msg, NULL);
    return 0;
}

static int conn_frame_cb(struct tarn_link *l, const struct tarn_frame *f, const uint8_t *meta,
                         const uint8_t *body, struct tarn_buf **payload)
{
    struct tarn_rpc_client *c = conn_client(l);

    (void)meta; /* answers have none */
    if (c->state == CLIENT_HELLO && f->type == TARN_FRAME_CHALLENGE)
        return conn_challenge(c, f, body);
    if (c->state == CLIENT_HELLO && f->type == TARN_FRAME_WELCOME && f->status)
        return conn_refused_status(f);
    if (c->state == CLIENT_PROOF && f->type == TARN_FRAME_WELCOME)
        return conn_welcome(c, f, body);
    if (c->state != CLIENT_READY)
        return -TARN_E_FRAME_BAD;
    if (f->type == TARN_FRAME_RESPONSE)
        return tarn_client_response(c, f, body, payload);
    if (f->type == TARN_FRAME_NOTICE)
        return conn_notice(c, f, body);
    return -TARN_E_FRAME_BAD;
}

static void conn_drain_cb(struct tarn_link *l)
{
    struct tarn_rpc_client *c = conn_client(l);

    if (c->state == CLIENT_READY)
        tarn_client_send_queued(c);
}

static void conn_lost(struct tarn_rpc_client *c, int rc)
{
    bool left = c->leaving;
    uint64_t pause;

    tarn_timer_stop(&c->timer);
    if (tarn_loop_now_ns(c->loop) - c->ready_ns >= CONN_STEADY_NS)
        c->backoff = 0;
    c->leaving = false;
    c->round_rc = rc;
    c->lost_ns = tarn_loop_now_ns(c->loop);
    if (c->addrs_n) {
        pause = c->backoff ? tarn_client_pause_ns(c, c->backoff)
                           : tarn_rng_below(c->rng, CONN_PAUSE_NS / 2);
        c->backoff++;
        conn_wait(c, pause);
    } else {
        conn_move(c, CLIENT_IDLE);
    }
    tarn_client_lost(c, left);
    if (!c->addrs_n)
        tarn_client_fail_queued(c, rc, false);
    if (c->on_state)
        c->on_state(c->ctx, false, rc);
}

static void conn_close_cb(struct tarn_link *l, int rc)
{
    struct tarn_rpc_client *c = conn_client(l);

    (void)rc; /* ours is in the link; the system's says no more than "lost" */
    tarn_link_fini(&c->link);
    c->linked = false;
    if (c->state == CLIENT_STOPPING)
        tarn_client_settle(c);
    else if (c->state == CLIENT_READY)
        conn_lost(c, -TARN_E_CONN_LOST);
    else
        conn_attempt_failed(c, c->link.close_rc < 0 ? c->link.close_rc : -TARN_E_CONN_LOST);
}

static const struct tarn_link_ops conn_link_ops = {
    .on_frame = conn_frame_cb,
    .on_drain = conn_drain_cb,
    .on_close = conn_close_cb,
};

/* ---- connecting
 * ---------------------------------------------------------------------------------- */

void tarn_client_adopt(struct tarn_rpc_client *c, struct tarn_conn *conn)
{
    Tarn__Wire__Hello hello = TARN__WIRE__HELLO__INIT;
    char software[] = "tarn " TARN_VERSION;

    TARN_ASSERT(!c->linked);
    c->linked = true;
    tarn_link_init(&c->link, c->loop, conn, false, &conn_link_ops);
    c->rng->fill(c->rng, c->shake.nonce_client, TARN_HANDSHAKE_NONCE);
    c->shake.version_min = TARN_FRAME_VERSION_MIN;
    c->shake.version_max = TARN_FRAME_VERSION;
    hello.version_min = c->shake.version_min;
    hello.version_max = c->shake.version_max;
    hello.software = software;
    hello.nonce = (ProtobufCBinaryData){TARN_HANDSHAKE_NONCE, c->shake.nonce_client};
    conn_move(c, CLIENT_HELLO);
    tarn_timer_start(c->loop, &c->timer, TARN_HANDSHAKE_MS * TARN_NS_PER_MS, conn_handshake_late_cb,
                     c);
    (void)conn_send(c, TARN_FRAME_HELLO, &hello.base); /* a full queue cuts it */
}

static void conn_connected_cb(void *arg, int rc, struct tarn_conn *conn)
{
    struct tarn_rpc_client *c;

    TARN_CAST(c, arg, CLIENT_MAGIC);
    c->attempt = NULL;
    if (c->state == CLIENT_STOPPING) {
        if (conn)
            tarn_conn_close(conn);
        tarn_client_settle(c);
    } else if (rc < 0) {
        conn_attempt_failed(c, rc);
    } else {
        tarn_client_adopt(c, conn);
    }
}

static void conn_connect(struct tarn_rpc_client *c)
{
    TARN_ASSERT(!c->linked && !c->attempt && c->addrs_n > 0);
    conn_move(c, CLIENT_CONNECTING);
    c->attempt =
        tarn_connect(c->loop, c->addrs[c->addr], c->connect_timeout_ns, conn_connected_cb, c);
}

void tarn_client_kick(struct tarn_rpc_client *c)
{
    uint64_t now = tarn_loop_now_ns(c->loop);

    if (c->state != CLIENT_IDLE || c->addrs_n == 0)
        return;
    if (now < c->not_before_ns)
        conn_wait(c, c->not_before_ns - now);
    else
        conn_connect(c);
}

void tarn_rpc_client_hurry(struct tarn_rpc_client *c)
{
    TARN_ASSERT(c->magic == CLIENT_MAGIC);
    tarn_loop_assert_mine(c->loop);
    if (c->state != CLIENT_WAITING || tarn_loop_now_ns(c->loop) < c->not_before_ns)
        return;
    tarn_timer_stop(&c->timer);
    c->backoff = 0;
    conn_connect(c);
}

static void conn_leave_cb(struct tarn_timer *t, void *arg)
{
    struct tarn_rpc_client *c;

    (void)t; /* the client's */
    TARN_CAST(c, arg, CLIENT_MAGIC);
    tarn_link_cut(&c->link, -TARN_E_CONN_LOST);
}

void tarn_client_leave(struct tarn_rpc_client *c)
{
    if (c->state != CLIENT_READY || c->link.closing)
        return;
    if (!c->leaving) {
        c->leaving = true;
        c->addr = (c->addr + 1) % c->addrs_n;
        tarn_timer_start(c->loop, &c->timer, CONN_LEAVE_NS, conn_leave_cb, c);
    }
    if (c->sent.count == 0)
        tarn_link_cut(&c->link, -TARN_E_CONN_LOST);
}

void tarn_client_shut(struct tarn_rpc_client *c)
{
    conn_move(c, CLIENT_STOPPING);
    tarn_timer_stop(&c->timer);
    if (c->attempt)
        tarn_connect_cancel(c->attempt);
    if (c->linked)
        tarn_link_cut(&c->link, 0);
}
