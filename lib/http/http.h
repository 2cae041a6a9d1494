/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lib/http/http.h — the small HTTP listener of every daemon: /metrics, /healthz, /readyz, /version
 * and the caller's routes. It has threads of its own, apart from the loops; callbacks run on them
 * and must return soon.
 *
 * Bounds: TARN_HTTP_CONNS_MAX connections, 10 s without progress, 32 KiB of request head; a request
 * body is refused (413) but where a route takes one. GET routes answer HEAD too. Nothing is
 * authenticated here: a route that changes something checks its caller (tarn_http_header).
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "lib/base/str.h"

struct tarn_errbuf;
struct tarn_stat_reg;
struct tarn_http;

#define TARN_HTTP_CONNS_MAX    256u
#define TARN_HTTP_TIMEOUT_S    10u
#define TARN_HTTP_REQ_BODY_MAX (1u << 20)  /* largest body_max of a route */
#define TARN_HTTP_BODIES_MAX   (16u << 20) /* bytes of all bodies being received; beyond it 503 */

enum tarn_http_method {
    TARN_HTTP_GET = 1, /* and HEAD */
    TARN_HTTP_POST = 2,
    TARN_HTTP_PUT = 4,
    TARN_HTTP_DELETE = 8
};

/* A request; everything is valid during the callback. */
struct tarn_http_req {
    enum tarn_http_method method; /* HEAD is shown as GET */
    const char *path;             /* with %XX resolved, without the query */
    const char *rest;             /* of a prefix route: what is behind the prefix; else "" */
    const char *body;             /* body_len bytes, NUL-terminated */
    size_t body_len;              /* 0 without a body */
    void *conn;                   /* for the two functions below */
};
/* A header of the request, or NULL. */
const char *tarn_http_header(const struct tarn_http_req *req, const char *name);
/* A parameter of the query ("" for "?name"), or NULL. */
const char *tarn_http_query(const struct tarn_http_req *req, const char *name);

/* What the callback fills; preset to 200, text/plain and an empty body. */
struct tarn_http_reply {
    unsigned status;          /* 200 to 599 */
    const char *content_type; /* a constant */
    struct tarn_str body;     /* the listener frees it */
};

/* Thread: one of the listener's, several at a time. */
typedef void tarn_http_fn(void *arg, const struct tarn_http_req *req,
                          struct tarn_http_reply *reply);

struct tarn_http_route {
    const char *path; /* exact ("/api/v1/status"), or with `prefix` what it begins with */
    bool prefix;      /* the longest prefix wins; an exact path wins over all */
    unsigned methods; /* of enum tarn_http_method; others get 405 */
    size_t body_max;  /* bytes of a body that are taken; 0: none */
    tarn_http_fn *fn; /* fills the reply */
    void *arg;        /* its first argument; borrowed until stop */
};

/* 0, or a negative code with the reason, which the client is told. Any thread. */
typedef int tarn_http_check_fn(void *arg, struct tarn_errbuf *e);

/* Brings figures up to date. Thread: one of the listener's; returns soon. */
typedef void tarn_http_refresh_fn(void *arg);

struct tarn_http_args {
    const char *addr;                     /* "HOST:PORT" or "[v6]:PORT"; port 0 picks one */
    unsigned threads;                     /* 1 or 2 */
    const struct tarn_http_route *routes; /* n_routes; copied, the paths are constants */
    size_t n_routes;                      /* routes beyond the built-in ones */
    struct tarn_stat_reg *reg;     /* for /metrics; NULL: no such route; borrowed until stop */
    const char *version;           /* for /version; a constant */
    const char *commit;            /* the same, or NULL */
    tarn_http_check_fn *alive;     /* for /healthz (200 or 503); NULL: always */
    tarn_http_check_fn *ready;     /* for /readyz (200 or 503); NULL: always */
    void *check_arg;               /* their first argument */
    tarn_http_refresh_fn *refresh; /* runs before each answer of /metrics; may be NULL */
    void *refresh_arg;             /* its argument; borrowed until stop */
};

/*
 * Starts to listen. Thread: any.
 *
 * Errors: ADDR_IN_USE, INVALID (not an address, or the host does not resolve), errno class of
 * bind(2)
 */
int tarn_http_start(const struct tarn_http_args *args, struct tarn_http **ret_http,
                    struct tarn_errbuf *e);
/* The address with the port that was chosen: "127.0.0.1:7101". */
const char *tarn_http_addr(const struct tarn_http *h);
/* Returns when no callback runs any more. Accepts NULL inside, sets it to NULL. */
void tarn_http_stop(struct tarn_http **h);
