/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A call lives from its frame to its answer, which its handler gives now or later. It belongs to
 * the server, not to the session: when the connection goes, the call is told (on_cancel), goes on
 * without a session, and its answer is dropped. So a stop is over when neither sessions nor calls
 * are left.
 *
 * What a peer can make us hold is bounded per connection by the number of calls and by the memory
 * of their requests; beyond that it is told BUSY.
 */
#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/buf.h"
#include "lib/base/env.h"
#include "lib/base/hash.h"
#include "lib/base/limits.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/rpc/server_priv.h"

#define SERVER_MAGIC 0x73727672u
#define CALL_MAGIC   0x63616c6cu

struct server_listener {
    struct tarn_list node;          /* tarn_rpc_server.listeners */
    struct tarn_listener *listener; /* accepts for the server */
};

/* ---- calls --------------------------------------------------------------------------------------
 */

static struct server_call *server_call_of(struct tarn_rpc_call *pub)
{
    struct server_call *call = TARN_CONTAINER(pub, struct server_call, pub);

    TARN_ASSERT(call->magic == CALL_MAGIC);
    return call;
}

struct server_call *tarn_server_call_find(const struct tarn_rpc_session *session, uint64_t id)
{
    uint64_t h = tarn_hash_u64(id);
    struct tarn_hnode *n;

    for (n = tarn_htab_first(&session->calls, h); n; n = tarn_htab_next(n, h)) {
        struct server_call *call = TARN_CONTAINER(n, struct server_call, hnode);

        if (call->id == id)
            return call;
    }
    return NULL;
}

static void server_call_free(struct server_call *call)
{
    TARN_ASSERT(!tarn_timer_running(&call->timer));
    if (call->request)
        protobuf_c_message_free_unpacked(call->request, NULL);
    if (call->meta)
        protobuf_c_message_free_unpacked(call->meta, NULL);
    tarn_buf_unref(&call->pub.payload);
    call->magic = 0;
    free(call);
}

/* The answer has been given, or there is none. */
static void server_call_end(struct server_call *call)
{
    struct tarn_rpc_session *session = call->pub.session;
    struct tarn_rpc_server *s = call->server;

    call->replied = true;
    tarn_timer_stop(&call->timer);
    if (session) {
        tarn_htab_remove(&session->calls, &call->hnode);
        TARN_ASSERT(session->call_bytes >= call->bytes);
        session->call_bytes -= call->bytes;
        call->pub.session = NULL;
    }
    TARN_ASSERT(s->calls > 0);
    s->calls--;
    if (!call->dispatching)
        server_call_free(call);
    tarn_server_settle(s);
}

void tarn_server_call_cancel(struct server_call *call)
{
    void (*fn)(struct tarn_rpc_call *) = call->pub.on_cancel;

    tarn_timer_stop(&call->timer);
    call->pub.on_cancel = NULL;
    if (fn)
        fn(&call->pub); /* may answer, which frees the call */
}

static void server_call_deadline_cb(struct tarn_timer *t, void *arg)
{
    struct server_call *call;

    (void)t; /* the call's */
    TARN_CAST(call, arg, CALL_MAGIC);
    tarn_server_call_cancel(call);
}

void tarn_server_orphan_calls(struct tarn_rpc_session *session)
{
    struct tarn_hnode *n;

    while ((n = tarn_htab_any(&session->calls))) {
        struct server_call *call = TARN_CONTAINER(n, struct server_call, hnode);

        tarn_htab_remove(&session->calls, n);
        call->pub.session = NULL;
        tarn_server_call_cancel(call);
    }
}

/* Decodes meta and body into `call`. */
static int server_call_decode(struct server_call *call, const struct tarn_frame *f,
                              const uint8_t *meta, const uint8_t *body)
{
    size_t bytes = 0;
    int rc;

    rc =
        tarn_msg_decode_sized(call->pub.method->request, body, f->body_len, &call->request, &bytes);
    if (rc < 0)
        return rc;
    call->bytes = bytes + f->payload_len;
    call->pub.request = call->request;
    if (f->meta_len == 0)
        return 0;
    rc = tarn_msg_decode_sized(&tarn__wire__call_meta__descriptor, meta, f->meta_len, &call->meta,
                               &bytes);
    if (rc < 0)
        return rc;
    call->bytes += bytes;
    call->pub.meta = (const Tarn__Wire__CallMeta *)call->meta;
    return 0;
}

static void server_call_run(struct server_call *call, const struct server_handler *h, bool notice)
{
    const struct tarn_rpc_call *pub = &call->pub;
    uint64_t now = tarn_loop_now_ns(call->server->loop);

    call->dispatching = true;
    h->fn(h->ctx, &call->pub);
    call->dispatching = false;
    if (call->replied) {
        TARN_ASSERT(!notice);
        server_call_free(call);
    } else if (notice) {
        server_call_end(call);
    } else if (pub->on_cancel && pub->deadline_ns != UINT64_MAX) {
        tarn_timer_start(call->server->loop, &call->timer,
                         pub->deadline_ns > now ? pub->deadline_ns - now : 0,
                         server_call_deadline_cb, call);
    }
}

int tarn_server_dispatch(struct tarn_rpc_server *s, struct tarn_rpc_session *session,
                         const struct tarn_frame *f, const uint8_t *meta, const uint8_t *body,
                         struct tarn_buf **payload)
{
    const struct tarn_rpc_method *m = tarn_rpc_method(f->method);
    bool notice = f->type == TARN_FRAME_NOTICE;
    struct server_call *call;
    int rc;

    if (!m || notice != (m->response == NULL) || !s->handlers[m->nr].fn)
        return -TARN_E_NO_SUCH_RPC;
    if (session->calls.count >= TARN_CONN_CALLS_MAX ||
        session->call_bytes >= TARN_CONN_CALL_BYTES_MAX)
        return -TARN_E_BUSY;
    call = tarn_xnew(struct server_call);
    call->magic = CALL_MAGIC;
    call->server = s;
    call->id = f->request_id;
    call->pub.method = m;
    rc = server_call_decode(call, f, meta, body);
    if (rc < 0) {
        server_call_free(call);
        return rc;
    }
    call->pub.payload = *payload;
    *payload = NULL;
    call->pub.principal = session->principal;
    call->pub.trace_id = f->trace_id;
    call->pub.session = session;
    call->pub.deadline_ns = UINT64_MAX;
    if (f->remaining_ms)
        call->pub.deadline_ns = tarn_loop_now_ns(s->loop) + f->remaining_ms * TARN_NS_PER_MS;
    tarn_htab_insert(&session->calls, &call->hnode, tarn_hash_u64(call->id));
    session->call_bytes += call->bytes;
    s->calls++;
    server_call_run(call, &s->handlers[m->nr], notice);
    return 0;
}

/* Sends the answer; if it cannot be sent, at least why. */
static void server_call_answer(struct server_call *call, int rc, const ProtobufCMessage *resp,
                               struct tarn_buf *buf, size_t off, size_t len)
{
    const struct tarn_rpc_call *pub = &call->pub;
    struct tarn_link *l = &pub->session->link;
    struct tarn_frame f = {.type = TARN_FRAME_RESPONSE,
                           .request_id = call->id,
                           .method = pub->method->nr,
                           .trace_id = pub->trace_id,
                           .status = (uint32_t)-rc};
    int failed = tarn_link_send(l, &f, resp, buf, off, len);

    if (failed == 0)
        return;
    if (failed == -TARN_E_FRAME_TOO_BIG)
        tarn_warn_limited("rpc", "call=%s: the answer is larger than a frame", pub->method->name);
    f.status = (uint32_t)-failed;
    (void)tarn_link_send(l, &f, NULL, NULL, 0, 0); /* a full queue cuts it */
}

void tarn_rpc_reply(struct tarn_rpc_call *pub, int rc, const ProtobufCMessage *resp,
                    struct tarn_buf *buf, size_t off, size_t len)
{
    struct server_call *call = server_call_of(pub);

    tarn_loop_assert_mine(call->server->loop);
    TARN_ASSERT(!call->replied && pub->method->response && rc <= 0);
    TARN_ASSERT(!resp || resp->descriptor == pub->method->response);
    TARN_ASSERT(len == 0 || (buf && off <= buf->cap && len <= buf->cap - off));
    if (pub->session)
        server_call_answer(call, rc, resp, buf, off, len);
    server_call_end(call);
}

/* ---- server -------------------------------------------------------------------------------------
 */

int tarn_rpc_server_new(const struct tarn_rpc_server_args *args, struct tarn_rpc_server **ret)
{
    struct tarn_rpc_server *s;

    TARN_ASSERT(args->loop && args->rng && (!args->token || args->token_len > 0));
    s = tarn_xnew(struct tarn_rpc_server);
    s->magic = SERVER_MAGIC;
    s->loop = args->loop;
    s->rng = args->rng;
    s->cluster_id = tarn_xstrdup(args->cluster_id ? args->cluster_id : "");
    s->ctx = args->ctx;
    s->on_session = args->on_session;
    s->on_gone = args->on_gone;
    if (args->token) {
        s->token = tarn_xcalloc(1, args->token_len);
        memcpy(s->token, args->token, args->token_len);
        s->token_len = args->token_len;
    }
    tarn_list_init(&s->listeners);
    tarn_list_init(&s->sessions);
    *ret = s;
    return 0;
}

void tarn_rpc_server_set_token(struct tarn_rpc_server *s, const void *token, size_t len)
{
    TARN_ASSERT(token && len > 0);
    if (s->token)
        tarn_wipe(s->token, s->token_len);
    free(s->token);
    s->token = tarn_xcalloc(1, len);
    memcpy(s->token, token, len);
    s->token_len = len;
}

void tarn_rpc_server_set_worker(struct tarn_rpc_server *s, uint64_t id)
{
    TARN_ASSERT(s->magic == SERVER_MAGIC);
    tarn_loop_assert_mine(s->loop);
    s->worker = id;
}

void tarn_rpc_server_handle(struct tarn_rpc_server *s, uint32_t method, tarn_rpc_handler_fn *fn,
                            void *ctx)
{
    TARN_ASSERT(s->magic == SERVER_MAGIC && tarn_rpc_method(method) && fn);
    s->handlers[method] = (struct server_handler){fn, ctx};
}

static void server_accept_cb(void *arg, struct tarn_conn *c)
{
    struct tarn_rpc_server *s;

    TARN_CAST(s, arg, SERVER_MAGIC);
    tarn_rpc_server_serve(s, c, false);
}

int tarn_rpc_server_listen(struct tarn_rpc_server *s, const char *addr, const char **ret_addr)
{
    struct tarn_listener *listener;
    struct server_listener *l;
    int rc;

    TARN_ASSERT(s->magic == SERVER_MAGIC && !s->stopping);
    tarn_loop_assert_mine(s->loop);
    rc = tarn_listen(s->loop, addr, server_accept_cb, s, &listener);
    if (rc < 0)
        return rc;
    l = tarn_xnew(struct server_listener);
    l->listener = listener;
    tarn_list_push(&s->listeners, &l->node);
    if (ret_addr)
        *ret_addr = tarn_listener_addr(listener);
    return 0;
}

void tarn_rpc_server_serve(struct tarn_rpc_server *s, struct tarn_conn *c, bool trusted)
{
    TARN_ASSERT(s->magic == SERVER_MAGIC);
    tarn_loop_assert_mine(s->loop);
    if (s->stopping)
        tarn_conn_close(c);
    else
        tarn_session_new(s, c, trusted);
}

static void server_close_listeners(struct tarn_rpc_server *s)
{
    struct tarn_list *n;

    while ((n = tarn_list_pop(&s->listeners))) {
        struct server_listener *l = TARN_LIST_ENTRY(n, struct server_listener, node);

        tarn_listener_close(&l->listener);
        free(l);
    }
}

static void server_done_cb(struct tarn_task *t)
{
    struct tarn_rpc_server *s = TARN_CONTAINER(t, struct tarn_rpc_server, done_task);

    TARN_ASSERT(s->magic == SERVER_MAGIC && s->calls == 0 && tarn_list_empty(&s->sessions));
    s->done(s->done_arg); /* may free the server */
}

void tarn_server_settle(struct tarn_rpc_server *s)
{
    if (!s->stopping || s->done_posted || s->calls > 0 || !tarn_list_empty(&s->sessions))
        return;
    s->done_posted = true;
    tarn_loop_post(s->loop, &s->done_task, server_done_cb);
}

void tarn_rpc_server_stop(struct tarn_rpc_server *s, void (*done)(void *arg), void *arg)
{
    TARN_ASSERT(s->magic == SERVER_MAGIC && !s->stopping && done);
    tarn_loop_assert_mine(s->loop);
    s->stopping = true;
    s->done = done;
    s->done_arg = arg;
    server_close_listeners(s);
    TARN_LIST_FOREACH(it, &s->sessions)
    {
        tarn_session_cut(TARN_LIST_ENTRY(it, struct tarn_rpc_session, node), 0);
    }
    tarn_server_settle(s);
}

void tarn_rpc_server_free(struct tarn_rpc_server **ps)
{
    struct tarn_rpc_server *s = *ps;

    *ps = NULL;
    if (!s)
        return;
    TARN_ASSERT(s->magic == SERVER_MAGIC && s->calls == 0 && tarn_list_empty(&s->sessions));
    server_close_listeners(s);
    if (s->token)
        tarn_wipe(s->token, s->token_len);
    free(s->token);
    free(s->cluster_id);
    s->magic = 0;
    free(s);
}
