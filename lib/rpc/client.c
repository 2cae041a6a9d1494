/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests. A request is encoded when it starts and keeps its message until it ends; header and
 * meta are made each time it is sent, so that a second try carries the newest capability and the
 * time that is left.
 *
 * Another try, always within the deadline and never with no_retry:
 *
 *     what happened                       idempotent             not idempotent
 *     not sent yet                        sent when connected    the same
 *     connection lost after it was sent   sent again, once       CONN_LOST
 *     answer: BUSY, SHUTDOWN              after a pause          the same: it was not begun
 *     answer: NOT_LEADER                  next address           the same: it was not begun
 *     answer: another BACKOFF error,      after a pause          given to the caller
 *             but not a store's
 *     answer: CAP_EXPIRED                 once, if the capability changed meanwhile
 *     any other answer                    given to the caller
 *
 * Callbacks run from the loop: at once for what the loop brought, through a task for what a call of
 * the user caused. So no list is walked while a callback runs.
 */
#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/buf.h"
#include "lib/base/env.h"
#include "lib/base/hash.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/base/sm.h"
#include "lib/rpc/client_priv.h"

#define CLIENT_CONNECT_NS (5 * TARN_NS_PER_S)
#define CLIENT_TIMEOUT_NS (30 * TARN_NS_PER_S)

enum {
#define REQ_STATE(name, next) REQ_##name,
#include "lib/rpc/req_state.def"
#undef REQ_STATE
    REQ_STATES
};

#define REQ_BIT(name) TARN_SM_BIT(REQ_##name)
static const struct tarn_sm_state req_states[REQ_STATES] = {
#define REQ_STATE(name, next) {#name, (next)},
#include "lib/rpc/req_state.def"
#undef REQ_STATE
};

static void req_move(struct tarn_rpc_req *req, unsigned to)
{
    tarn_sm_move(req_states, &req->state, to);
}

/* ---- the end of a request
 * ------------------------------------------------------------------------ */

static void req_drop_answer(struct tarn_rpc_req *req)
{
    if (req->resp)
        protobuf_c_message_free_unpacked(req->resp, NULL);
    req->resp = NULL;
    tarn_buf_unref(&req->resp_payload);
}

void tarn_rpc_req_fini(struct tarn_rpc_req *req)
{
    TARN_ASSERT(req->state == REQ_IDLE);
    req_drop_answer(req);
    if (req->client && req->client->delivering == req)
        req->client->delivering = NULL;
    req->client = NULL;
}

/* Takes a request out of whatever it waits in. */
static void req_detach(struct tarn_rpc_req *req)
{
    if (req->state == REQ_SENT)
        tarn_htab_remove(&req->client->sent, &req->hnode);
    tarn_list_del(&req->node);
    tarn_timer_stop(&req->timer);
}

/* Runs the callback. `req` may be gone, or under way again, afterwards. */
static void req_deliver(struct tarn_rpc_req *req)
{
    struct tarn_rpc_client *c = req->client;
    struct tarn_rpc_req *outer = c->delivering;

    TARN_ASSERT(req->state == REQ_ENDED && tarn_list_empty(&req->node));
    tarn_str_fini(&req->frame);
    tarn_buf_unref(&req->sent_payload);
    req_move(req, REQ_IDLE);
    c->delivering = req;
    req->cb(req, req->rc);
    if (c->delivering == req) {
        req_drop_answer(req);
        req->client = NULL;
    }
    c->delivering = outer;
    TARN_ASSERT(c->reqs > 0);
    c->reqs--;
    tarn_client_settle(c);
}

static void req_task_cb(struct tarn_task *t)
{
    req_deliver(TARN_CONTAINER(t, struct tarn_rpc_req, task));
}

static void req_end_now(struct tarn_rpc_req *req, int rc)
{
    req_detach(req);
    req_move(req, REQ_ENDED);
    req->rc = rc;
    req_deliver(req);
}

static void req_end_later(struct tarn_rpc_req *req, int rc)
{
    req_detach(req);
    req_move(req, REQ_ENDED);
    req->rc = rc;
    tarn_loop_post(req->client->loop, &req->task, req_task_cb);
}

/* ---- waiting and sending
 * ------------------------------------------------------------------------- */

static void req_timer_cb(struct tarn_timer *t, void *arg);

static void req_timer_until(struct tarn_rpc_req *req, uint64_t due_ns)
{
    uint64_t now = tarn_loop_now_ns(req->client->loop);

    due_ns = TARN_MIN(due_ns, req->deadline_ns);
    if (due_ns != UINT64_MAX)
        tarn_timer_start(req->client->loop, &req->timer, due_ns > now ? due_ns - now : 0,
                         req_timer_cb, req);
}

static void req_queue(struct tarn_rpc_req *req)
{
    req_move(req, REQ_QUEUED);
    tarn_list_push(&req->client->queued, &req->node);
}

static void req_timer_cb(struct tarn_timer *t, void *arg)
{
    struct tarn_rpc_req *req = arg;
    struct tarn_rpc_client *c = req->client;
    int rc = -TARN_E_DEADLINE;

    TARN_ASSERT(t == &req->timer && req->state != REQ_IDLE && req->state != REQ_ENDED);
    if (tarn_loop_now_ns(c->loop) < req->deadline_ns && req->state == REQ_DELAYED) {
        tarn_list_del(&req->node);
        req_queue(req);
        req_timer_until(req, UINT64_MAX);
        tarn_client_send_queued(c);
        return;
    }
    if (req->state != REQ_SENT && req->rc < 0)
        rc = req->rc; /* the last answer says more than that the time is up */
    else if (req->state == REQ_QUEUED && c->round_rc < 0)
        rc = c->round_rc;
    req_end_now(req, rc);
}

static uint32_t req_remaining_ms(const struct tarn_rpc_req *req, uint64_t now)
{
    uint64_t ms;

    if (req->deadline_ns == UINT64_MAX)
        return 0;
    ms = req->deadline_ns > now ? tarn_div_up(req->deadline_ns - now, TARN_NS_PER_MS) : 1;
    return (uint32_t)TARN_MIN(ms, UINT32_MAX);
}

/* False when the connection does not take it now. */
static bool req_send(struct tarn_rpc_req *req)
{
    struct tarn_rpc_client *c = req->client;
    struct tarn_frame f = {.type = TARN_FRAME_REQUEST, .method = req->method};

    if (!tarn_client_writable(c) || c->sent.count >= TARN_CONN_CALLS_MAX)
        return false;
    f.request_id = ++c->next_id;
    f.trace_id = c->trace + f.request_id;
    f.remaining_ms = req_remaining_ms(req, tarn_loop_now_ns(c->loop));
    if (tarn_link_send_packed(&c->link, &f, &c->meta, &req->frame, req->sent_payload) < 0)
        return false; /* the connection is being cut */
    tarn_list_del(&req->node);
    req_move(req, REQ_SENT);
    req->id = f.request_id;
    req->meta_gen = c->meta_gen;
    tarn_htab_insert(&c->sent, &req->hnode, tarn_hash_u64(req->id));
    return true;
}

void tarn_client_send_queued(struct tarn_rpc_client *c)
{
    while (!tarn_list_empty(&c->queued))
        if (!req_send(TARN_LIST_ENTRY(c->queued.next, struct tarn_rpc_req, node)))
            break;
}

static uint64_t req_deadline(const struct tarn_rpc_client *c, const struct tarn_rpc_req *req)
{
    uint64_t now = tarn_loop_now_ns(c->loop);
    uint64_t timeout = req->timeout_ns ? req->timeout_ns : c->default_timeout_ns;

    return timeout < UINT64_MAX - now ? now + timeout : UINT64_MAX;
}

static void req_encode(struct tarn_rpc_req *req)
{
    size_t len = protobuf_c_message_get_packed_size(req->msg);

    if (len <= TARN_FRAME_BODY_MAX)
        protobuf_c_message_pack(req->msg, (uint8_t *)tarn_str_room(&req->frame, len));
    req->frame.len = len; /* one that is too long is refused by its length */
}

/* Why a request cannot even be queued. */
static int req_admit(const struct tarn_rpc_client *c, const struct tarn_rpc_req *req)
{
    if (c->state == CLIENT_STOPPING)
        return -TARN_E_SHUTDOWN;
    if (c->reqs > TARN_CLIENT_REQS_MAX)
        return -TARN_E_BUSY;
    if (req->frame.len > TARN_FRAME_BODY_MAX ||
        (req->payload && req->payload->len > TARN_FRAME_PAYLOAD_MAX))
        return -TARN_E_FRAME_TOO_BIG;
    if (c->state == CLIENT_IDLE && c->addrs_n == 0)
        return c->round_rc < 0 ? c->round_rc : -TARN_E_CONN_LOST;
    return 0;
}

void tarn_rpc_start(struct tarn_rpc_client *c, struct tarn_rpc_req *req)
{
    const struct tarn_rpc_method *m = tarn_rpc_method(req->method);
    int rc;

    TARN_ASSERT(c->magic == CLIENT_MAGIC && req->state == REQ_IDLE && req->cb);
    TARN_ASSERT(m && m->response && req->msg && req->msg->descriptor == m->request);
    tarn_loop_assert_mine(c->loop);
    tarn_rpc_req_fini(req); /* what an earlier answer left, also when its callback runs */
    req->client = c;
    req->sent_payload = req->payload ? tarn_buf_ref(req->payload) : NULL;
    req->frame = (struct tarn_str){0};
    req->attempt = 0;
    req->lost = 0;
    req->rc = 0;
    req->timer = (struct tarn_timer){0};
    tarn_list_init(&req->node);
    req->deadline_ns = req_deadline(c, req);
    c->reqs++;
    req_encode(req);
    rc = req_admit(c, req);
    if (rc < 0) {
        req->frame.len = 0;
        req_end_later(req, rc);
        return;
    }
    req_queue(req);
    req_timer_until(req, UINT64_MAX);
    tarn_client_kick(c);
    tarn_client_send_queued(c);
}

void tarn_rpc_cancel(struct tarn_rpc_req *req)
{
    struct tarn_frame f = {.type = TARN_FRAME_CANCEL, .request_id = req->id};
    struct tarn_rpc_client *c = req->client;

    if (req->state == REQ_IDLE || req->state == REQ_ENDED)
        return;
    TARN_ASSERT(c->magic == CLIENT_MAGIC);
    tarn_loop_assert_mine(c->loop);
    if (req->state == REQ_SENT && c->state == CLIENT_READY)
        (void)tarn_link_send(&c->link, &f, NULL, NULL, 0, 0); /* a full queue cuts it */
    req_end_later(req, -TARN_E_CANCELLED);
}

uint64_t tarn_rpc_received(const struct tarn_rpc_req *req)
{
    TARN_ASSERT(req->client && req->client->magic == CLIENT_MAGIC);
    return req->client->link.received;
}

/* ---- answers
 * ------------------------------------------------------------------------------------- */

/* Whether an answer leads to another try, and after which pause. */
static bool req_again(struct tarn_rpc_req *req, int rc, uint64_t *ret_pause_ns)
{
    struct tarn_rpc_client *c = req->client;
    bool idempotent = tarn_rpc_method(req->method)->idempotent;
    bool not_begun = rc == -TARN_E_BUSY || rc == -TARN_E_SHUTDOWN;

    if (rc == 0 || req->no_retry)
        return false;
    *ret_pause_ns = tarn_client_pause_ns(c, req->attempt);
    switch (tarn_err_retry(rc)) {
    case TARN_RETRY_SAME:
        return rc == -TARN_E_CAP_EXPIRED && req->attempt == 0 && req->meta_gen != c->meta_gen;
    case TARN_RETRY_BACKOFF:
        /* A store's failure was tried again where the store is asked: not once more from here. */
        return not_begun || (idempotent && !tarn_err_of_store(rc));
    case TARN_RETRY_LEADER:
        return c->addrs_n > 0;
    case TARN_RETRY_NEVER:
    case TARN_RETRY_REPLICA:
    default:
        return false;
    }
}

static bool req_retry(struct tarn_rpc_req *req, int rc)
{
    struct tarn_rpc_client *c = req->client;
    uint64_t now = tarn_loop_now_ns(c->loop), pause;

    if (!req_again(req, rc, &pause))
        return false;
    if (req->deadline_ns <= now || pause >= req->deadline_ns - now)
        return false; /* it would end with the same answer, later */
    tarn_htab_remove(&c->sent, &req->hnode);
    req_move(req, REQ_DELAYED);
    tarn_list_push(&c->delayed, &req->node);
    req->rc = rc;
    req->attempt++;
    req_timer_until(req, now + pause);
    return true;
}

static struct tarn_rpc_req *client_find(const struct tarn_rpc_client *c, uint64_t id)
{
    uint64_t h = tarn_hash_u64(id);
    struct tarn_hnode *n;

    for (n = tarn_htab_first(&c->sent, h); n; n = tarn_htab_next(n, h)) {
        struct tarn_rpc_req *req = TARN_CONTAINER(n, struct tarn_rpc_req, hnode);

        if (req->id == id)
            return req;
    }
    return NULL;
}

static int client_status(const struct tarn_frame *f)
{
    if (f->status == 0)
        return 0;
    return f->status <= INT32_MAX && tarn_err_known((int)f->status) ? -(int)f->status
                                                                    : -TARN_E_INTERNAL;
}

int tarn_client_response(struct tarn_rpc_client *c, const struct tarn_frame *f, const uint8_t *body,
                         struct tarn_buf **payload)
{
    struct tarn_rpc_req *req = client_find(c, f->request_id);
    int rc = client_status(f);
    size_t bytes;

    if (!req)
        return 0; /* cancelled, or too late */
    if (req->method != f->method)
        return -TARN_E_FRAME_BAD;
    c->backoff = 0; /* somebody is at home */
    if (req_retry(req, rc)) {
        if (tarn_err_retry(rc) == TARN_RETRY_LEADER && c->addrs_n > 1)
            tarn_client_leave(c);
        return 0;
    }
    if (rc == 0 || f->body_len > 0)
        TARN_KEEP(rc, tarn_msg_decode_sized(tarn_rpc_method(req->method)->response, body,
                                            f->body_len, &req->resp, &bytes));
    req->resp_payload = *payload;
    *payload = NULL;
    req_end_now(req, rc);
    if (c->leaving)
        tarn_client_leave(c);
    tarn_client_send_queued(c);
    return 0;
}

void tarn_client_lost(struct tarn_rpc_client *c, bool left)
{
    struct tarn_hnode *n;

    while ((n = tarn_htab_any(&c->sent))) {
        struct tarn_rpc_req *req = TARN_CONTAINER(n, struct tarn_rpc_req, hnode);

        if (!tarn_rpc_method(req->method)->idempotent || req->no_retry || c->addrs_n == 0 ||
            (req->lost > 0 && !left)) {
            req_end_later(req, -TARN_E_CONN_LOST);
            continue;
        }
        req->lost += !left;
        tarn_htab_remove(&c->sent, n);
        req_queue(req);
    }
}

void tarn_client_fail_queued(struct tarn_rpc_client *c, int rc, bool only_no_retry)
{
    TARN_LIST_FOREACH_SAFE(it, &c->queued)
    {
        struct tarn_rpc_req *req = TARN_LIST_ENTRY(it, struct tarn_rpc_req, node);

        if (!only_no_retry || req->no_retry)
            req_end_later(req, rc);
    }
}

/* ---- life
 * ---------------------------------------------------------------------------------------- */

static int client_split_addrs(struct tarn_rpc_client *c, const char *addrs)
{
    while (*addrs) {
        size_t n = strcspn(addrs, ",");

        if (n == 0 || c->addrs_n == TARN_CLIENT_ADDRS_MAX)
            return -TARN_E_INVALID;
        c->addrs[c->addrs_n++] = tarn_xasprintf("%.*s", (int)n, addrs);
        addrs += n;
        addrs += *addrs == ',';
    }
    return c->addrs_n > 0 ? 0 : -TARN_E_INVALID;
}

int tarn_rpc_client_new(const struct tarn_rpc_client_args *args, struct tarn_rpc_client **ret)
{
    struct tarn_rpc_client *c;

    TARN_ASSERT(args->loop && args->rng && (!args->addrs != !args->conn));
    TARN_ASSERT(!args->token || args->token_len > 0);
    c = tarn_xnew(struct tarn_rpc_client);
    c->magic = CLIENT_MAGIC;
    c->loop = args->loop;
    c->rng = args->rng;
    c->connect_timeout_ns = args->connect_timeout_ns ? args->connect_timeout_ns : CLIENT_CONNECT_NS;
    c->default_timeout_ns = args->default_timeout_ns ? args->default_timeout_ns : CLIENT_TIMEOUT_NS;
    c->lost_timeout_ns = args->lost_timeout_ns;
    c->lost_ns = tarn_loop_now_ns(c->loop);
    c->ctx = args->ctx;
    c->on_notice = args->on_notice;
    c->on_state = args->on_state;
    c->cluster_id = tarn_xstrdup("");
    c->wanted_cluster = tarn_xstrdup(args->cluster_id ? args->cluster_id : "");
    c->wanted_worker = args->worker;
    c->trace = tarn_rng_u64(args->rng);
    tarn_list_init(&c->queued);
    tarn_list_init(&c->delayed);
    if (args->addrs && client_split_addrs(c, args->addrs) < 0) {
        tarn_rpc_client_free(&c);
        return -TARN_E_INVALID;
    }
    if (args->token) {
        c->token = tarn_xcalloc(1, args->token_len);
        memcpy(c->token, args->token, args->token_len);
        c->token_len = args->token_len;
    }
    if (args->conn)
        tarn_client_adopt(c, args->conn);
    else
        tarn_client_kick(c);
    *ret = c;
    return 0;
}

void tarn_rpc_client_set_lost_timeout(struct tarn_rpc_client *c, uint64_t ns)
{
    c->lost_timeout_ns = ns;
}

void tarn_rpc_client_set_meta(struct tarn_rpc_client *c, const Tarn__Wire__CallMeta *meta)
{
    Tarn__Wire__CallMeta m = *meta;
    size_t len;

    TARN_ASSERT(c->magic == CLIENT_MAGIC);
    tarn_loop_assert_mine(c->loop);
    while ((len = protobuf_c_message_get_packed_size(&m.base)) > TARN_FRAME_META_MAX && m.n_groups)
        m.n_groups /= 2; /* fewer groups may do less, never more */
    tarn_str_reset(&c->meta);
    c->meta_gen++;
    if (len > TARN_FRAME_META_MAX) {
        tarn_warn_limited("rpc", "a capability of %zu bytes is not sent", m.capability.len);
        return;
    }
    protobuf_c_message_pack(&m.base, (uint8_t *)tarn_str_room(&c->meta, len));
    c->meta.len = len;
}

const char *tarn_rpc_client_peer(const struct tarn_rpc_client *c)
{
    return c->linked ? tarn_conn_peer(c->link.conn) : "";
}

const char *tarn_rpc_client_cluster_id(const struct tarn_rpc_client *c)
{
    return c->cluster_id;
}

const char *tarn_rpc_client_addr(const struct tarn_rpc_client *c)
{
    return c->addrs_n ? c->addrs[c->addr] : "";
}

static void client_done_cb(struct tarn_task *t)
{
    struct tarn_rpc_client *c = TARN_CONTAINER(t, struct tarn_rpc_client, done_task);

    TARN_ASSERT(c->magic == CLIENT_MAGIC);
    c->done_posted = false;
    if (c->reqs > 0)
        return;           /* started meanwhile; its end comes back here */
    c->done(c->done_arg); /* may free the client */
}

void tarn_client_settle(struct tarn_rpc_client *c)
{
    if (c->state != CLIENT_STOPPING || c->done_posted || c->reqs > 0 || c->linked || c->attempt)
        return;
    c->done_posted = true;
    tarn_loop_post(c->loop, &c->done_task, client_done_cb);
}

void tarn_rpc_client_stop(struct tarn_rpc_client *c, void (*done)(void *arg), void *arg)
{
    struct tarn_hnode *n;

    TARN_ASSERT(c->magic == CLIENT_MAGIC && c->state != CLIENT_STOPPING && done);
    tarn_loop_assert_mine(c->loop);
    c->done = done;
    c->done_arg = arg;
    tarn_client_shut(c);
    tarn_client_fail_queued(c, -TARN_E_SHUTDOWN, false);
    TARN_LIST_FOREACH_SAFE(it, &c->delayed)
    {
        req_end_later(TARN_LIST_ENTRY(it, struct tarn_rpc_req, node), -TARN_E_SHUTDOWN);
    }
    while ((n = tarn_htab_any(&c->sent)))
        req_end_later(TARN_CONTAINER(n, struct tarn_rpc_req, hnode), -TARN_E_SHUTDOWN);
    tarn_client_settle(c);
}

void tarn_rpc_client_free(struct tarn_rpc_client **pc)
{
    struct tarn_rpc_client *c = *pc;

    *pc = NULL;
    if (!c)
        return;
    TARN_ASSERT(c->magic == CLIENT_MAGIC && !c->linked && !c->attempt && c->reqs == 0);
    TARN_ASSERT(!tarn_timer_running(&c->timer));
    for (unsigned i = 0; i < c->addrs_n; i++)
        free(c->addrs[i]);
    if (c->token)
        tarn_wipe(c->token, c->token_len);
    free(c->token);
    free(c->cluster_id);
    free(c->wanted_cluster);
    tarn_str_fini(&c->meta);
    tarn_htab_fini(&c->sent);
    c->magic = 0;
    free(c);
}
