/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One connection of a server: the handshake, then frames.
 *
 * A peer gets TARN_HANDSHAKE_MS to prove itself, and until then may send the two handshake messages
 * only; anything else cuts it. A peer that is refused is told why in a welcome with a status; it
 * then closes, or the same timer closes it (closing at once would drop the word that is still
 * queued).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/assert.h"
#include "lib/base/buf.h"
#include "lib/base/env.h"
#include "lib/base/hash.h"
#include "lib/base/limits.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/base/sm.h"
#include "lib/rpc/server_priv.h"

#define SESSION_MAGIC   0x73657373u
#define SESSION_TICK_NS (10 * TARN_NS_PER_S)

enum {
#define SESSION_STATE(name, next) SESSION_##name,
#include "lib/rpc/session_state.def"
#undef SESSION_STATE
    SESSION_STATES
};

#define SESSION_BIT(name) TARN_SM_BIT(SESSION_##name)
static const struct tarn_sm_state session_states[SESSION_STATES] = {
#define SESSION_STATE(name, next) {#name, (next)},
#include "lib/rpc/session_state.def"
#undef SESSION_STATE
};

static void session_move(struct tarn_rpc_session *s, unsigned to)
{
    tarn_sm_move(session_states, &s->state, to);
}

static struct tarn_rpc_session *session_of(struct tarn_link *l)
{
    struct tarn_rpc_session *s = TARN_CONTAINER(l, struct tarn_rpc_session, link);

    TARN_ASSERT(s->magic == SESSION_MAGIC);
    return s;
}

void tarn_session_cut(struct tarn_rpc_session *s, int rc)
{
    tarn_link_cut(&s->link, rc);
}

/* ---- handshake ----------------------------------------------------------------------------------
 */

static void session_timeout_cb(struct tarn_timer *t, void *arg)
{
    struct tarn_rpc_session *s;

    (void)t; /* the session's */
    TARN_CAST(s, arg, SESSION_MAGIC);
    if (s->state != SESSION_REFUSED)
        tarn_warn_limited("rpc", "peer=%s has not proved itself in time; cut",
                          tarn_conn_peer(s->link.conn));
    tarn_link_cut(&s->link, -TARN_E_DEADLINE);
}

/* Says why not. */
static void session_refuse(struct tarn_rpc_session *s, int rc)
{
    struct tarn_frame f = {.type = TARN_FRAME_WELCOME, .status = (uint32_t)-rc};

    tarn_warn_limited("rpc", "peer=%s refused: %s", tarn_conn_peer(s->link.conn),
                      tarn_strerror(rc));
    (void)tarn_link_send(&s->link, &f, NULL, NULL, 0, 0); /* a full queue cuts it anyway */
    session_move(s, SESSION_REFUSED);
    tarn_link_deafen(&s->link);
}

static int session_hello(struct tarn_rpc_session *s, const struct tarn_frame *f,
                         const uint8_t *body)
{
    Tarn__Wire__Challenge challenge = TARN__WIRE__CHALLENGE__INIT;
    struct tarn_frame out = {.type = TARN_FRAME_CHALLENGE};
    Tarn__Wire__Hello *hello;

    hello = (Tarn__Wire__Hello *)tarn_msg_decode(&tarn__wire__hello__descriptor, body, f->body_len);
    if (!hello || hello->nonce.len != TARN_HANDSHAKE_NONCE) {
        if (hello)
            protobuf_c_message_free_unpacked(&hello->base, NULL);
        return -TARN_E_MSG_BAD;
    }
    memcpy(s->shake.nonce_client, hello->nonce.data, TARN_HANDSHAKE_NONCE);
    s->shake.version_min = hello->version_min;
    s->shake.version_max = hello->version_max;
    s->shake.version = tarn_handshake_pick(hello->version_min, hello->version_max);
    protobuf_c_message_free_unpacked(&hello->base, NULL);
    if (s->shake.version == 0) {
        session_refuse(s, -TARN_E_FRAME_VERSION);
        return 0;
    }
    s->server->rng->fill(s->server->rng, s->shake.nonce_server, TARN_HANDSHAKE_NONCE);
    challenge.version = s->shake.version;
    challenge.nonce = (ProtobufCBinaryData){TARN_HANDSHAKE_NONCE, s->shake.nonce_server};
    challenge.auth = s->server->token && !s->trusted;
    session_move(s, SESSION_PROOF);
    (void)tarn_link_send(&s->link, &out, &challenge.base, NULL, 0, 0); /* a full queue cuts it */
    return 0;
}

static void session_name_principal(struct tarn_rpc_session *s)
{
    struct tarn_principal *p = &s->principal;
    const char *name = "anonymous";

    p->uid = tarn_conn_peer_uid(s->link.conn);
    p->trusted = s->trusted;
    if (s->trusted || p->uid == (int64_t)geteuid())
        name = "local";
    else if (s->server->token)
        name = "token";
    (void)snprintf(p->name, sizeof(p->name), "%s", name); /* they are short */
}

static int session_welcome(struct tarn_rpc_session *s, bool auth)
{
    Tarn__Wire__Welcome welcome = TARN__WIRE__WELCOME__INIT;
    struct tarn_frame out = {.type = TARN_FRAME_WELCOME};
    uint8_t mac[TARN_HANDSHAKE_MAC];

    session_name_principal(s);
    welcome.cluster_id = s->server->cluster_id;
    welcome.principal = s->principal.name;
    welcome.worker = s->server->worker;
    if (auth) {
        tarn_handshake_mac(&s->shake, true, s->server->token, s->server->token_len, mac);
        welcome.mac = (ProtobufCBinaryData){sizeof(mac), mac};
    }
    tarn_timer_stop(&s->timer);
    session_move(s, SESSION_OPEN);
    (void)tarn_link_send(&s->link, &out, &welcome.base, NULL, 0, 0); /* a full queue cuts it */
    tarn_link_open(&s->link, (uint8_t)s->shake.version, s->trusted ? 0 : SESSION_TICK_NS);
    s->announced = true;
    if (s->server->on_session)
        s->server->on_session(s->server->ctx, s);
    return 0;
}

static int session_proof(struct tarn_rpc_session *s, const struct tarn_frame *f,
                         const uint8_t *body)
{
    const struct tarn_rpc_server *server = s->server;
    bool auth = server->token && !s->trusted;
    Tarn__Wire__Proof *proof;
    int rc = 0;

    proof = (Tarn__Wire__Proof *)tarn_msg_decode(&tarn__wire__proof__descriptor, body, f->body_len);
    if (!proof)
        return -TARN_E_MSG_BAD;
    if (auth && proof->mac.len == 0)
        rc = -TARN_E_AUTH_REQUIRED;
    else if (auth &&
             !tarn_handshake_check(&s->shake, false, server->token, server->token_len, &proof->mac))
        rc = -TARN_E_AUTH_BAD;
    protobuf_c_message_free_unpacked(&proof->base, NULL);
    if (rc == 0)
        return session_welcome(s, auth);
    session_refuse(s, rc);
    return 0;
}

/* ---- frames -------------------------------------------------------------------------------------
 */

static int session_request(struct tarn_rpc_session *s, const struct tarn_frame *f,
                           const uint8_t *meta, const uint8_t *body, struct tarn_buf **payload)
{
    struct tarn_frame out = {.type = TARN_FRAME_RESPONSE};
    int rc;

    if (f->type == TARN_FRAME_REQUEST && tarn_server_call_find(s, f->request_id))
        return -TARN_E_FRAME_BAD; /* the answers could not be told apart */
    rc = tarn_server_dispatch(s->server, s, f, meta, body, payload);
    if (rc == 0 || f->type == TARN_FRAME_NOTICE)
        return 0;
    out.request_id = f->request_id;
    out.method = f->method;
    out.trace_id = f->trace_id;
    out.status = (uint32_t)-rc;
    (void)tarn_link_send(&s->link, &out, NULL, NULL, 0, 0); /* a full queue cuts it */
    return 0;
}

static int session_cancel(struct tarn_rpc_session *s, const struct tarn_frame *f)
{
    struct server_call *call = tarn_server_call_find(s, f->request_id);

    if (call)
        tarn_server_call_cancel(call);
    return 0; /* else it was answered meanwhile */
}

static int session_frame_cb(struct tarn_link *l, const struct tarn_frame *f, const uint8_t *meta,
                            const uint8_t *body, struct tarn_buf **payload)
{
    struct tarn_rpc_session *s = session_of(l);

    if (s->state == SESSION_HELLO && f->type == TARN_FRAME_HELLO)
        return session_hello(s, f, body);
    if (s->state == SESSION_PROOF && f->type == TARN_FRAME_PROOF)
        return session_proof(s, f, body);
    if (s->state != SESSION_OPEN)
        return -TARN_E_AUTH_REQUIRED;
    if (f->type == TARN_FRAME_REQUEST || f->type == TARN_FRAME_NOTICE)
        return session_request(s, f, meta, body, payload);
    if (f->type == TARN_FRAME_CANCEL)
        return session_cancel(s, f);
    return -TARN_E_FRAME_BAD;
}

static void session_bad_cb(struct tarn_link *l, int rc)
{
    struct tarn_rpc_session *s = session_of(l);

    if (rc == -TARN_E_FRAME_VERSION && s->state == SESSION_HELLO)
        session_refuse(s, rc);
}

static void session_close_cb(struct tarn_link *l, int rc)
{
    struct tarn_rpc_session *s = session_of(l);
    struct tarn_rpc_server *server = s->server;

    if (rc < 0 && !s->announced)
        tarn_debug("rpc", "a peer left in the handshake: %s", tarn_strerror(rc));
    session_move(s, SESSION_GONE);
    tarn_timer_stop(&s->timer);
    tarn_list_del(&s->node);
    tarn_server_orphan_calls(s);
    if (s->announced && server->on_gone)
        server->on_gone(server->ctx, s);
    tarn_link_fini(&s->link);
    tarn_htab_fini(&s->calls);
    tarn_buf_account_unref(&s->account);
    s->magic = 0;
    free(s);
    tarn_server_settle(server);
}

static const struct tarn_link_ops session_link_ops = {
    .on_frame = session_frame_cb,
    .on_bad = session_bad_cb,
    .on_close = session_close_cb,
};

void tarn_session_new(struct tarn_rpc_server *server, struct tarn_conn *conn, bool trusted)
{
    struct tarn_rpc_session *s = tarn_xnew(struct tarn_rpc_session);

    s->magic = SESSION_MAGIC;
    s->server = server;
    s->trusted = trusted;
    tarn_list_push(&server->sessions, &s->node);
    tarn_link_init(&s->link, server->loop, conn, true, &session_link_ops);
    tarn_timer_start(server->loop, &s->timer, TARN_HANDSHAKE_MS * TARN_NS_PER_MS,
                     session_timeout_cb, s);
}

/* ---- for the user -------------------------------------------------------------------------------
 */

int tarn_rpc_notify(struct tarn_rpc_session *s, uint32_t method, const ProtobufCMessage *msg)
{
    const struct tarn_rpc_method *m = tarn_rpc_method(method);
    struct tarn_frame f = {.type = TARN_FRAME_NOTICE, .method = method};

    TARN_ASSERT(s->magic == SESSION_MAGIC);
    TARN_ASSERT(m && !m->response && msg->descriptor == m->request);
    tarn_loop_assert_mine(s->server->loop);
    if (s->state != SESSION_OPEN || s->link.closing)
        return -TARN_E_CONN_LOST;
    if (tarn_link_queued(&s->link) > TARN_CONN_WRITE_MAX) {
        tarn_warn_limited("rpc", "peer=%s does not read its notices; cut",
                          tarn_conn_peer(s->link.conn));
        tarn_link_cut(&s->link, -TARN_E_BUSY);
        return -TARN_E_BUSY;
    }
    return tarn_link_send(&s->link, &f, msg, NULL, 0, 0);
}

struct tarn_buf_account *tarn_rpc_session_account(struct tarn_rpc_session *s,
                                                  struct tarn_buf_account *parent)
{
    TARN_ASSERT(s->magic == SESSION_MAGIC);
    tarn_loop_assert_mine(s->server->loop);
    if (!s->account)
        s->account = tarn_buf_account_new(parent);
    return s->account;
}

void *tarn_rpc_session_ctx(struct tarn_rpc_session *s)
{
    TARN_ASSERT(s->magic == SESSION_MAGIC);
    return s->ctx;
}

void tarn_rpc_session_set_ctx(struct tarn_rpc_session *s, void *ctx)
{
    TARN_ASSERT(s->magic == SESSION_MAGIC);
    s->ctx = ctx;
}

void tarn_rpc_session_close(struct tarn_rpc_session *s)
{
    TARN_ASSERT(s->magic == SESSION_MAGIC);
    tarn_loop_assert_mine(s->server->loop);
    tarn_link_cut(&s->link, 0);
}
