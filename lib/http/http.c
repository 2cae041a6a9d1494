/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The listener over libmicrohttpd's internal polling threads. The library calls http_request for
 * each request: once with its head, then with pieces of its body, then once more at the end. What
 * stands in the way of a request (no route, method, body) is answered at the first call, whereupon
 * the library closes the connection if a body would follow; a route's callback runs at the last
 * one.
 *
 * The bytes of bodies that are being received are counted over all connections, so that clients
 * cannot make the process grow.
 */
#include "lib/http/http.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <microhttpd.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"
#include "lib/base/err.h"
#include "lib/base/list.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/base/mtx.h"
#include "lib/base/units.h"
#include "lib/http/http_priv.h"
#include "lib/stat/stat.h"

#define HTTP_MAGIC      0x48545450u
#define HTTP_CALL_MAGIC 0x4843414cu
#define HTTP_HEAD_BYTES (32u << 10)
#define HTTP_BUILTIN    4
#define HTTP_STOP_NS    (2 * TARN_NS_PER_S) /* for connections to end */

/* Immutable after start, but for `bodies` and what `mtx` protects. */
struct tarn_http {
    uint32_t magic;                 /* HTTP_MAGIC */
    struct MHD_Daemon *daemon;      /* the library's */
    struct tarn_http_route *routes; /* n_routes, the built-in ones first */
    size_t n_routes;                /* routes */
    struct tarn_http_args args;     /* as given; addr and routes are not used after start */
    char addr[128];                 /* bound address */
    _Atomic size_t bodies;          /* bytes of bodies being received */
    struct tarn_mtx mtx;
    struct tarn_list conns; /* mtx; struct http_conn */
    unsigned coming;        /* mtx; taken, and not in conns yet */
    bool stopping;          /* mtx */
    struct tarn_cond empty; /* conns may be, and it stops */
};

/* An open connection. */
struct http_conn {
    struct tarn_list node; /* http->conns */
    int fd;
};

/* One request, from its head to its end. Owner: the connection's thread. */
struct http_call {
    uint32_t magic;                      /* HTTP_CALL_MAGIC */
    struct tarn_http *http;              /* the listener */
    const struct tarn_http_route *route; /* where it goes */
    enum tarn_http_method method;        /* HEAD is GET */
    struct tarn_str body;                /* so far */
    size_t charged;                      /* bytes counted in http->bodies */
};

const char *tarn_http_header(const struct tarn_http_req *req, const char *name)
{
    return MHD_lookup_connection_value(req->conn, MHD_HEADER_KIND, name);
}

/* One lookup in the query. */
struct http_query {
    const char *name;  /* wanted */
    const char *value; /* found: "" where the parameter has none */
};

static enum MHD_Result http_query_pick(void *cls, enum MHD_ValueKind kind, const char *key,
                                       const char *value)
{
    struct http_query *q = cls;

    (void)kind;
    if (strcmp(key, q->name) != 0)
        return MHD_YES;
    q->value = value ? value : "";
    return MHD_NO;
}

const char *tarn_http_query(const struct tarn_http_req *req, const char *name)
{
    struct http_query q = {name, NULL};

    (void)MHD_get_connection_values(req->conn, MHD_GET_ARGUMENT_KIND, http_query_pick,
                                    &q); /* a count */
    return q.value;
}

static void http_metrics(void *arg, const struct tarn_http_req *req, struct tarn_http_reply *reply)
{
    struct tarn_http *h;

    (void)req;
    TARN_CAST(h, arg, HTTP_MAGIC);
    if (h->args.refresh)
        h->args.refresh(h->args.refresh_arg);
    reply->content_type = "text/plain; version=0.0.4; charset=utf-8";
    tarn_stat_reg_scrape(h->args.reg, &reply->body);
}

static void http_check(const struct tarn_http *h, tarn_http_check_fn *check,
                       struct tarn_http_reply *reply)
{
    struct tarn_errbuf e = {{0}};
    int rc = check ? check(h->args.check_arg, &e) : 0;

    if (rc < 0)
        reply->status = MHD_HTTP_SERVICE_UNAVAILABLE;
    tarn_str_addf(&reply->body, "%s\n", rc < 0 ? tarn_err_text(&e, rc) : "ok");
}

static void http_healthz(void *arg, const struct tarn_http_req *req, struct tarn_http_reply *reply)
{
    struct tarn_http *h;

    (void)req;
    TARN_CAST(h, arg, HTTP_MAGIC);
    http_check(h, h->args.alive, reply);
}

static void http_readyz(void *arg, const struct tarn_http_req *req, struct tarn_http_reply *reply)
{
    struct tarn_http *h;

    (void)req;
    TARN_CAST(h, arg, HTTP_MAGIC);
    http_check(h, h->args.ready, reply);
}

static void http_version(void *arg, const struct tarn_http_req *req, struct tarn_http_reply *reply)
{
    struct tarn_http *h;

    (void)req;
    TARN_CAST(h, arg, HTTP_MAGIC);
    reply->content_type = "application/json";
    tarn_str_addf(&reply->body, "{\"version\":\"%s\"", h->args.version);
    if (h->args.commit)
        tarn_str_addf(&reply->body, ",\"commit\":\"%s\"", h->args.commit);
    tarn_str_adds(&reply->body, "}\n");
}

static const struct tarn_http_route *http_find_route(const struct tarn_http *h, const char *path)
{
    const struct tarn_http_route *best = NULL;

    for (size_t i = 0; i < h->n_routes; i++) {
        const struct tarn_http_route *r = &h->routes[i];

        if (!r->prefix && strcmp(r->path, path) == 0)
            return r;
        if (r->prefix && tarn_starts_with(path, r->path) &&
            (!best || strlen(r->path) > strlen(best->path)))
            best = r;
    }
    return best;
}

/* 0 for a method that no route can take. */
static unsigned http_method(const char *text)
{
    static const struct {
        const char *text;
        enum tarn_http_method method;
    } rows[] = {{"GET", TARN_HTTP_GET},
                {"HEAD", TARN_HTTP_GET},
                {"POST", TARN_HTTP_POST},
                {"PUT", TARN_HTTP_PUT},
                {"DELETE", TARN_HTTP_DELETE}};

    for (size_t i = 0; i < TARN_ARRAY_LEN(rows); i++)
        if (strcmp(rows[i].text, text) == 0)
            return rows[i].method;
    return 0;
}

/* "GET, HEAD, POST" */
static void http_allow(unsigned methods, char buf[48])
{
    (void)snprintf(buf, 48, "%s%s%s%s", methods & TARN_HTTP_GET ? ", GET, HEAD" : "",
                   methods & TARN_HTTP_POST ? ", POST" : "", methods & TARN_HTTP_PUT ? ", PUT" : "",
                   methods & TARN_HTTP_DELETE ? ", DELETE" : ""); /* fits */
    memmove(buf, buf + 2, strlen(buf + 2) + 1);
}

/* Queues the reply and frees its body. `allow` (or NULL) is the value of an Allow header. */
static enum MHD_Result http_send(struct MHD_Connection *conn, struct tarn_http_reply *reply,
                                 const char *allow)
{
    size_t len = reply->body.len;
    struct MHD_Response *r =
        MHD_create_response_from_buffer(len, tarn_str_detach(&reply->body), MHD_RESPMEM_MUST_FREE);
    enum MHD_Result res = MHD_NO;

    TARN_ASSERT(reply->status >= 200 && reply->status <= 599);
    if (!r)
        return MHD_NO; /* out of memory: the connection is closed */
    if (MHD_add_response_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, reply->content_type) == MHD_YES &&
        MHD_add_response_header(r, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store") == MHD_YES &&
        MHD_add_response_header(r, "X-Content-Type-Options", "nosniff") == MHD_YES &&
        (!allow || MHD_add_response_header(r, MHD_HTTP_HEADER_ALLOW, allow) == MHD_YES))
        res = MHD_queue_response(conn, reply->status, r);
    MHD_destroy_response(r);
    return res;
}

static enum MHD_Result http_refuse(struct MHD_Connection *conn, unsigned status, const char *text,
                                   const char *allow)
{
    struct tarn_http_reply reply = {status, "text/plain; charset=utf-8", {0}};

    tarn_str_addf(&reply.body, "%s\n", text);
    return http_send(conn, &reply, allow);
}

/* Bytes that the head announces; SIZE_MAX for a chunked body, whose length is not known. */
static size_t http_announced(struct MHD_Connection *conn)
{
    const char *len =
        MHD_lookup_connection_value(conn, MHD_HEADER_KIND, MHD_HTTP_HEADER_CONTENT_LENGTH);
    uint64_t n;

    if (MHD_lookup_connection_value(conn, MHD_HEADER_KIND, MHD_HTTP_HEADER_TRANSFER_ENCODING))
        return SIZE_MAX;
    if (!len)
        return 0;
    return tarn_parse_u64(len, &n) == 0 ? (size_t)n : SIZE_MAX;
}

/* Room for `n` more bytes of a body in the count of all of them. */
static bool http_charge(struct http_call *call, size_t n)
{
    if (atomic_fetch_add(&call->http->bodies, n) + n > TARN_HTTP_BODIES_MAX) {
        atomic_fetch_sub(&call->http->bodies, n);
        return false;
    }
    call->charged += n;
    return true;
}

/* The head of a request is in. */
static enum MHD_Result http_begin(struct tarn_http *h, struct MHD_Connection *conn,
                                  const char *path, const char *method_text, void **ret_call)
{
    const struct tarn_http_route *route = http_find_route(h, path);
    unsigned method = http_method(method_text);
    size_t announced = http_announced(conn);
    struct http_call *call;
    char allow[48];

    if (!route)
        return http_refuse(conn, MHD_HTTP_NOT_FOUND, "not found", NULL);
    if (!(method & route->methods)) {
        http_allow(route->methods, allow);
        return http_refuse(conn, MHD_HTTP_METHOD_NOT_ALLOWED, "method not allowed", allow);
    }
    if (announced > 0 && announced != SIZE_MAX && announced > route->body_max)
        return http_refuse(conn, MHD_HTTP_CONTENT_TOO_LARGE,
                           "the body is larger than is taken here", NULL);
    if (announced == SIZE_MAX && route->body_max == 0)
        return http_refuse(conn, MHD_HTTP_CONTENT_TOO_LARGE, "no body is taken here", NULL);
    call = calloc(1, sizeof(*call));
    if (!call)
        return MHD_NO;
    *call = (struct http_call){.magic = HTTP_CALL_MAGIC,
                               .http = h,
                               .route = route,
                               .method = (enum tarn_http_method)method};
    if (announced != SIZE_MAX && !http_charge(call, announced)) {
        free(call);
        return http_refuse(conn, MHD_HTTP_SERVICE_UNAVAILABLE, "too many requests at once", NULL);
    }
    *ret_call = call;
    return MHD_YES;
}

/* A piece of the body. A refusal in the middle can only be the end of the connection. */
static enum MHD_Result http_more(struct http_call *call, const char *piece, size_t n)
{
    size_t have = call->body.len;

    if (n > call->route->body_max - have)
        return MHD_NO;
    if (have + n > call->charged && !http_charge(call, have + n - call->charged))
        return MHD_NO;
    tarn_str_add(&call->body, piece, n);
    return MHD_YES;
}

static enum MHD_Result http_finish(struct http_call *call, struct MHD_Connection *conn,
                                   const char *path)
{
    struct tarn_http_reply reply = {MHD_HTTP_OK, "text/plain; charset=utf-8", {0}};
    const struct tarn_http_req req = {.method = call->method,
                                      .path = path,
                                      .rest = call->route->prefix ? path + strlen(call->route->path)
                                                                  : "",
                                      .body = tarn_str_z(&call->body),
                                      .body_len = call->body.len,
                                      .conn = conn};

    call->route->fn(call->route->arg, &req, &reply);
    return http_send(conn, &reply, NULL);
}

static enum MHD_Result http_request(void *cls, struct MHD_Connection *conn, const char *path,
                                    const char *method, const char *version, const char *piece,
                                    size_t *piece_len, void **call_slot)
{
    struct tarn_http *h;
    struct http_call *call;
    enum MHD_Result res;

    (void)version;
    TARN_CAST(h, cls, HTTP_MAGIC);
    if (!*call_slot)
        return http_begin(h, conn, path, method, call_slot);
    TARN_CAST(call, *call_slot, HTTP_CALL_MAGIC);
    if (*piece_len == 0)
        return http_finish(call, conn, path);
    res = http_more(call, piece, *piece_len);
    *piece_len = 0;
    return res;
}

static void http_done(void *cls, struct MHD_Connection *conn, void **call_slot,
                      enum MHD_RequestTerminationCode how)
{
    struct http_call *call;

    (void)cls;
    (void)conn;
    (void)how;
    if (!*call_slot)
        return;
    TARN_CAST(call, *call_slot, HTTP_CALL_MAGIC);
    atomic_fetch_sub(&call->http->bodies, call->charged);
    tarn_str_fini(&call->body);
    free(call);
    *call_slot = NULL;
}

/* Whether a connection is taken. */
static enum MHD_Result http_accept(void *cls, const struct sockaddr *addr, socklen_t len)
{
    struct tarn_http *h = cls;

    (void)addr;
    (void)len;
    TARN_GUARD(&h->mtx);
    if (h->stopping)
        return MHD_NO;
    h->coming++;
    return MHD_YES;
}

/* A connection begins, or has ended and is about to be closed. */
static void http_notice(void *cls, struct MHD_Connection *conn, void **slot,
                        enum MHD_ConnectionNotificationCode what)
{
    struct tarn_http *h = cls;
    struct http_conn *c = *slot;

    TARN_GUARD(&h->mtx);
    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
        c = tarn_xnew(struct http_conn);
        c->fd = MHD_get_connection_info(conn, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
        tarn_list_push(&h->conns, &c->node);
        *slot = c;
        h->coming--;
        if (h->stopping)
            (void)shutdown(c->fd, SHUT_RDWR);
    } else {
        tarn_list_del(&c->node);
        free(c);
        *slot = NULL;
        if (h->stopping)
            tarn_cond_signal(&h->empty);
    }
}

/*
 * No connection is taken any more, and none is left: libmicrohttpd before 0.9.76 crashes when it
 * answers a request that is none while it is being stopped. (MHD_quiesce_daemon() is no help: with
 * epoll it aborts where its thread looks at the listener at the same time.)
 */
static void http_quiesce(struct tarn_http *h)
{
    TARN_GUARD(&h->mtx);
    h->stopping = true;
    TARN_LIST_FOREACH(n, &h->conns)
    {
        (void)shutdown(TARN_LIST_ENTRY(n, struct http_conn, node)->fd, SHUT_RDWR);
    }
    while (h->coming > 0 || !tarn_list_empty(&h->conns))
        if (!tarn_cond_wait_ns(&h->empty, &h->mtx, HTTP_STOP_NS))
            break; /* one is being answered by us, or was given up by the library */
}

static void http_log(void *cls, const char *fmt, va_list ap) __attribute__((format(printf, 2, 0)));

static void http_log(void *cls, const char *fmt, va_list ap)
{
    char text[256];

    (void)cls;
    (void)vsnprintf(text, sizeof(text), fmt, ap); /* cut is fine */
    tarn_debug("http", "%s", text);
}

static void http_add_routes(struct tarn_http *h, const struct tarn_http_args *args)
{
    const struct tarn_http_route builtin[HTTP_BUILTIN] = {
        {"/healthz", false, TARN_HTTP_GET, 0, http_healthz, h},
        {"/readyz", false, TARN_HTTP_GET, 0, http_readyz, h},
        {"/version", false, TARN_HTTP_GET, 0, http_version, h},
        {"/metrics", false, TARN_HTTP_GET, 0, http_metrics, h},
    };

    h->n_routes = args->reg ? HTTP_BUILTIN : HTTP_BUILTIN - 1;
    h->routes = tarn_xcalloc(h->n_routes + args->n_routes, sizeof(*h->routes));
    memcpy(h->routes, builtin, h->n_routes * sizeof(builtin[0]));
    for (size_t i = 0; i < args->n_routes; i++) {
        TARN_ASSERT(args->routes[i].path[0] == '/' && args->routes[i].fn &&
                    args->routes[i].methods);
        TARN_ASSERT(args->routes[i].body_max <= TARN_HTTP_REQ_BODY_MAX);
        h->routes[h->n_routes++] = args->routes[i];
    }
}

/* Starts the library's threads with every signal blocked, as all ours are. */
static struct MHD_Daemon *http_daemon(struct tarn_http *h, int fd, unsigned threads)
{
    struct MHD_OptionItem options[] = {
        {MHD_OPTION_LISTEN_SOCKET, fd, NULL},
        {MHD_OPTION_CONNECTION_LIMIT, TARN_HTTP_CONNS_MAX, NULL},
        {MHD_OPTION_CONNECTION_TIMEOUT, TARN_HTTP_TIMEOUT_S, NULL},
        {MHD_OPTION_CONNECTION_MEMORY_LIMIT, HTTP_HEAD_BYTES, NULL},
        {MHD_OPTION_PER_IP_CONNECTION_LIMIT, 0, NULL},
        {threads > 1 ? MHD_OPTION_THREAD_POOL_SIZE : MHD_OPTION_END, threads, NULL},
        {MHD_OPTION_END, 0, NULL},
    };
    struct MHD_Daemon *d;
    sigset_t all, before;

    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before); /* cannot fail for a valid set */
    d = MHD_start_daemon(MHD_USE_EPOLL_INTERNAL_THREAD | MHD_USE_ERROR_LOG, 0, http_accept, h,
                         http_request, h, MHD_OPTION_EXTERNAL_LOGGER, http_log, NULL,
                         MHD_OPTION_NOTIFY_COMPLETED, http_done, NULL, MHD_OPTION_NOTIFY_CONNECTION,
                         http_notice, h, MHD_OPTION_ARRAY, options, MHD_OPTION_END);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    return d;
}

static void http_free(struct tarn_http *h)
{
    tarn_cond_fini(&h->empty);
    tarn_mtx_fini(&h->mtx);
    free(h->routes);
    free(h);
}

int tarn_http_start(const struct tarn_http_args *args, struct tarn_http **ret_http,
                    struct tarn_errbuf *e)
{
    struct tarn_http *h = tarn_xnew(struct tarn_http);
    int fd = -1, rc;

    TARN_ASSERT(args->threads == 1 || args->threads == 2);
    TARN_ASSERT(args->version != NULL);
    h->magic = HTTP_MAGIC;
    h->args = *args;
    tarn_mtx_init(&h->mtx, TARN_RANK_LEAF);
    tarn_cond_init(&h->empty);
    tarn_list_init(&h->conns);
    rc = tarn_http_listen(args->addr, &fd, h->addr, sizeof(h->addr), e);
    if (rc < 0)
        goto err_free;
    http_add_routes(h, args);
    h->daemon = http_daemon(h, fd, args->threads);
    if (!h->daemon) {
        rc = tarn_err_set(e, errno ? -errno : -TARN_E_INTERNAL, "%s: the HTTP threads do not start",
                          args->addr);
        goto err_free;
    }
    *ret_http = h;
    return 0;

err_free:
    TARN_ASSERT(rc < 0);
    /* What the library had stays open: it closes it in most of its failures, not in all. */
    http_free(h);
    return rc;
}

const char *tarn_http_addr(const struct tarn_http *h)
{
    return h->addr;
}

void tarn_http_stop(struct tarn_http **http)
{
    struct tarn_http *h = *http;

    if (!h)
        return;
    http_quiesce(h);
    MHD_stop_daemon(h->daemon); /* closes the socket and joins the threads */
    TARN_ASSERT(atomic_load(&h->bodies) == 0 && tarn_list_empty(&h->conns));
    http_free(h);
    *http = NULL;
}
