/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ufs/http_priv.h — HTTP requests on an event loop, for back ends whose store speaks HTTP.
 *
 * A client holds the connections to one store. All calls and callbacks are on its loop; callbacks
 * come never inside a call of this file. Header lines given in are never logged.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/base/err.h"
#include "lib/base/limits.h"

struct tarn_loop;
struct tarn_ufs_http;
struct tarn_ufs_http_req;

#define TARN_UFS_HTTP_HEAD_MAX (64u << 10) /* bytes of the headers of one answer */

struct tarn_ufs_http_args {
    struct tarn_loop *loop;   /* where it lives */
    unsigned max_connections; /* open at a time */
    uint64_t connect_ns;      /* for name resolution, connect and TLS together */
    const char *tls_ca;       /* file or directory; "" is the system's */
    bool tls_verify;          /* false: take any certificate */
    const char *proxy;        /* URL, "env", or "" for none */
    uint64_t max_rate;        /* bytes per second of one transfer; 0: no limit */
};

/* Errors: CONFIG (tls_ca), NO_MEMORY */
int tarn_ufs_http_new(const struct tarn_ufs_http_args *args, struct tarn_errbuf *err,
                      struct tarn_ufs_http **ret_http);
/* Requests under way end without a callback. Not inside a callback of a request. */
void tarn_ufs_http_free(struct tarn_ufs_http **h);

/* What the headers of an answer say. Texts are "" where a header is absent; cut when too long. */
struct tarn_ufs_http_head {
    unsigned status;              /* 200 */
    bool has_length;              /* Content-Length was there */
    uint64_t length_bytes;        /* Content-Length */
    bool has_range;               /* a well-formed Content-Range was there */
    uint64_t range_first;         /* its first byte */
    uint64_t range_last;          /* its last byte, inclusive */
    bool has_total;               /* its total was not "*" */
    uint64_t total_bytes;         /* its total */
    int64_t mtime_ns;             /* Last-Modified; 0 where absent */
    int64_t date_ns;              /* Date; 0 where absent */
    uint64_t retry_after_ns;      /* Retry-After in seconds; 0 where absent */
    char etag[TARN_ETAG_MAX + 1]; /* without quotes, `W/` kept */
    char region[64];              /* x-amz-bucket-region */
    char location[256];           /* Location, of redirects */
};

struct tarn_ufs_http_ops {
    /* The headers of the final answer are in. Negative: stop with that code. */
    int (*on_head)(void *arg, const struct tarn_ufs_http_head *head);
    /* The next bytes of the body; not called for HEAD. Negative: stop with that code. */
    int (*on_body)(void *arg, const uint8_t *p, size_t n);
    /*
     * The last call; `req` is gone. 0: the whole answer arrived, whatever its status. Else a code
     * of a callback, or of the transport, with the reason in `text` ("connection refused").
     */
    void (*on_done)(void *arg, int rc, const char *text);
};

struct tarn_ufs_http_call {
    bool head;                           /* HEAD; else GET */
    bool fresh;                          /* on a new connection */
    const char *url;                     /* "https://host:port/path?query", encoded; copied */
    const char *const *headers;          /* n_headers lines "name: value"; copied */
    size_t n_headers;                    /* lines */
    const struct tarn_ufs_http_ops *ops; /* callbacks */
    void *arg;                           /* for them */
};

/* Errors: NO_MEMORY */
int tarn_ufs_http_start(struct tarn_ufs_http *h, const struct tarn_ufs_http_call *call,
                        struct tarn_ufs_http_req **ret_req);
/* No callback after this; NULL inside is accepted; sets NULL. Also inside callbacks. */
void tarn_ufs_http_cancel(struct tarn_ufs_http_req **r);
/* True while no byte of an answer came and the connection had been used before. */
bool tarn_ufs_http_suspect(const struct tarn_ufs_http_req *r);

/* "Sun, 06 Nov 1994 08:49:37 GMT" -> ns since 1970; false when malformed. Pure. */
bool tarn_ufs_http_date(const char *s, int64_t *ret_ns);
/* Days since 1970-01-01 of a civil date (proleptic Gregorian). Pure. */
int64_t tarn_ufs_http_days(int64_t year, unsigned month, unsigned day);
/* One header line without its end, as the parser sees them. Pure. */
void tarn_ufs_http_head_line(struct tarn_ufs_http_head *head, const char *line, size_t n);
