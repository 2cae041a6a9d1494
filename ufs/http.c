/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libcurl's multi interface on a tarn_loop. curl tells which sockets and which timer to watch;
 * events go to curl_multi_socket_action, which runs the transfers' callbacks; finished transfers
 * are taken out afterwards, outside of curl, and told.
 *
 * curl must not be entered from its own callbacks, so a cancelled request is only cut off from its
 * owner (ops = NULL) and put on `dead`; a posted task takes it out of curl. Easy handles are kept
 * for reuse with their common options set. Redirects are not followed: a signature is made for one
 * host and path.
 *
 * A transfer that was cut off in the middle must not hand its connection to another one:
 * FORBID_REUSE.
 */
#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"
#include "lib/base/list.h"
#include "lib/base/mem.h"
#include "lib/net/net.h"
#include "ufs/http_priv.h"

#define HTTP_RECV_BYTES (512L << 10) /* curl's receive buffer of a transfer */
#define HTTP_SPARE_MAX  64u          /* easy handles kept */
#define HTTP_REQ_MAGIC  0x68747271u

/*
 * A socket that curl wants watched. It is watched by a descriptor of our own: curl may close its
 * own before it says that watching is over, and the number may be another thread's by then.
 */
struct http_socket {
    struct tarn_list node;      /* in client->sockets */
    struct tarn_poll *poll;     /* the loop's */
    struct tarn_ufs_http *http; /* whose */
    curl_socket_t fd;           /* curl's */
    int watched;                /* ours: the same socket */
};

/* Owner: loop. */
struct tarn_ufs_http {
    struct tarn_loop *loop;      /* where it lives */
    CURLM *multi;                /* all transfers */
    CURLSH *share;               /* TLS sessions */
    struct tarn_timer timer;     /* curl's */
    struct tarn_list sockets;    /* watched */
    struct tarn_list live;       /* requests in curl */
    struct tarn_list dead;       /* cancelled, still in curl */
    struct tarn_task reap;       /* takes the dead out */
    bool reap_posted;            /* it is on its way */
    bool freed;                  /* tarn_ufs_http_free came before it */
    CURL *spare[HTTP_SPARE_MAX]; /* easy handles for reuse */
    unsigned n_spare;            /* handles in it */
    char *tls_ca;                /* "" is the system's */
    bool tls_ca_dir;             /* it is a directory */
    bool tls_verify;             /* check certificates */
    char *proxy;                 /* "", "env" or a URL */
    uint64_t connect_ns;         /* limit of the connect phase */
    uint64_t max_rate;           /* per transfer */
};

/* A transfer. Owner: loop. */
struct tarn_ufs_http_req {
    uint32_t magic;                      /* HTTP_REQ_MAGIC */
    struct tarn_ufs_http *http;          /* its client */
    struct tarn_list node;               /* live or dead */
    CURL *easy;                          /* curl's handle */
    struct curl_slist *lines;            /* request headers */
    const struct tarn_ufs_http_ops *ops; /* NULL once cancelled */
    void *arg;                           /* for ops */
    struct tarn_ufs_http_head head;      /* of the answer so far */
    size_t head_bytes;                   /* header bytes so far */
    bool head_told;                      /* on_head was called */
    int rc;                              /* code of a callback that stopped it */
    bool https;                          /* scheme of the URL, for error texts */
    char error[CURL_ERROR_SIZE];         /* curl's text */
};

static void http_drain(struct tarn_ufs_http *h);

/* ---- the loop ------------------------------------------------------------------------------- */

static void http_action(struct tarn_ufs_http *h, curl_socket_t fd, int events)
{
    int running;

    (void)curl_multi_socket_action(h->multi, fd, events,
                                   &running); /* failures show in the transfers */
    http_drain(h);
}

static void http_poll_cb(void *arg, int fd, unsigned events)
{
    struct http_socket *s = arg;
    int bits = (events & TARN_POLL_READ ? CURL_CSELECT_IN : 0) |
               (events & TARN_POLL_WRITE ? CURL_CSELECT_OUT : 0);

    (void)fd; /* ours; curl knows its own */
    http_action(s->http, s->fd, bits);
}

static void http_timer_cb(struct tarn_timer *t, void *arg)
{
    (void)t;
    http_action(arg, CURL_SOCKET_TIMEOUT, 0);
}

static int http_curl_timer_cb(CURLM *multi, long timeout_ms, void *arg)
{
    struct tarn_ufs_http *h = arg;

    (void)multi;
    if (timeout_ms < 0)
        tarn_timer_stop(&h->timer);
    else
        tarn_timer_start(h->loop, &h->timer, (uint64_t)timeout_ms * TARN_NS_PER_MS, http_timer_cb,
                         h);
    return 0;
}

static void http_socket_free(struct http_socket *s)
{
    tarn_poll_stop(&s->poll);
    (void)close(s->watched); /* the socket itself is curl's */
    tarn_list_del(&s->node);
    free(s);
}

static int http_curl_socket_cb(CURL *easy, curl_socket_t fd, int what, void *arg, void *socket_arg)
{
    struct tarn_ufs_http *h = arg;
    struct http_socket *s = socket_arg;
    unsigned events = 0;

    (void)easy;
    if (what == CURL_POLL_REMOVE) {
        if (s) {
            (void)curl_multi_assign(h->multi, fd, NULL); /* fails only for unknown sockets */
            http_socket_free(s);
        }
        return 0;
    }
    if (!s) {
        int watched = fcntl(fd, F_DUPFD_CLOEXEC, 0);

        if (watched < 0)
            return -1;
        s = tarn_xnew(struct http_socket);
        s->http = h;
        s->fd = fd;
        s->watched = watched;
        tarn_list_push(&h->sockets, &s->node);
        (void)curl_multi_assign(h->multi, fd, s); /* as above */
    }
    if (what == CURL_POLL_IN || what == CURL_POLL_INOUT)
        events |= TARN_POLL_READ;
    if (what == CURL_POLL_OUT || what == CURL_POLL_INOUT)
        events |= TARN_POLL_WRITE;
    return tarn_poll_start(h->loop, s->watched, events, http_poll_cb, s, &s->poll) < 0 ? -1 : 0;
}

/* ---- the answer ----------------------------------------------------------------------------- */

static bool http_stop(struct tarn_ufs_http_req *r, int rc)
{
    if (rc < 0 && r->rc == 0)
        r->rc = rc;
    return rc < 0;
}

/* Tells the head once; true to go on. */
static bool http_tell_head(struct tarn_ufs_http_req *r)
{
    if (r->head_told)
        return true;
    r->head_told = true;
    return !http_stop(r, r->ops->on_head(r->arg, &r->head));
}

/* "HTTP/1.1 206 ..." */
static bool http_status_line(const char *p, size_t n, unsigned *ret_status)
{
    const char *space;
    unsigned status = 0;

    if (n < 12 || strncasecmp(p, "HTTP/", 5) != 0)
        return false;
    space = memchr(p, ' ', n);
    if (!space || (size_t)(space - p) + 4 > n)
        return false;
    for (int i = 1; i <= 3; i++) {
        if (space[i] < '0' || space[i] > '9')
            return false;
        status = status * 10 + (unsigned)(space[i] - '0');
    }
    *ret_status = status;
    return true;
}

static size_t http_header_cb(char *p, size_t size, size_t n, void *arg)
{
    struct tarn_ufs_http_req *r;
    unsigned status;

    TARN_CAST(r, arg, HTTP_REQ_MAGIC);
    n *= size;
    if (!r->ops)
        return 0;
    r->head_bytes += n;
    if (r->head_bytes > TARN_UFS_HTTP_HEAD_MAX) {
        (void)snprintf(r->error, sizeof(r->error), "more than %u bytes of headers",
                       TARN_UFS_HTTP_HEAD_MAX);
        (void)http_stop(r, -TARN_E_UFS_PROTO); /* returning 0 stops */
        return 0;
    }
    if (http_status_line(p, n, &status)) {
        r->head = (struct tarn_ufs_http_head){0}; /* 1xx answers come before the final one */
        r->head.status = status;
    } else if (n <= 2 && (p[0] == '\r' || p[0] == '\n')) {
        if (r->head.status >= 200 && !http_tell_head(r))
            return 0;
    } else if (!r->head_told) {
        tarn_ufs_http_head_line(&r->head, p, n);
    }
    return n;
}

static size_t http_write_cb(char *p, size_t size, size_t n, void *arg)
{
    struct tarn_ufs_http_req *r;

    TARN_CAST(r, arg, HTTP_REQ_MAGIC);
    n *= size;
    if (!r->ops || r->rc < 0 || !http_tell_head(r) || !r->ops)
        return n + 1; /* anything but n stops */
    if (n && http_stop(r, r->ops->on_body(r->arg, (const uint8_t *)p, n)))
        return n + 1;
    return n;
}

/* ---- what went wrong, for people ------------------------------------------------------------ */

/* Which of the many ways TLS fails; curl's own text where no better one is known. */
static const char *http_tls_text(struct tarn_ufs_http_req *r)
{
    long verify = 0;

    if (strstr(r->error, "wrong version number") || strstr(r->error, "packet length too long") ||
        strstr(r->error, "http request"))
        return "the endpoint speaks plain HTTP, not TLS (write http:// in endpoint)";
    if (strstr(r->error, "subject name matches") || strstr(r->error, "does not match"))
        return "the certificate is for another host name";
    (void)curl_easy_getinfo(r->easy, CURLINFO_SSL_VERIFYRESULT,
                            &verify); /* stays 0 when it fails */
    switch (verify) {
    case 9: /* X509_V_ERR_CERT_NOT_YET_VALID */
        return "the certificate is not yet valid (or this host's clock is wrong)";
    case 10: /* X509_V_ERR_CERT_HAS_EXPIRED */
        return "the certificate has expired (or this host's clock is wrong)";
    case 18: /* X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT */
    case 19: /* X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN */
        return "the certificate is self-signed (give its authority with tls-ca)";
    case 20: /* X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY */
    case 21: /* X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE */
        return "the certificate's authority is not trusted (give it with tls-ca)";
    default:
        return NULL;
    }
}

static int http_connect_code(struct tarn_ufs_http_req *r, const char **ret_text)
{
    long err = 0;

    (void)curl_easy_getinfo(r->easy, CURLINFO_OS_ERRNO, &err); /* stays 0 when it fails */
    *ret_text = err ? strerrordesc_np((int)err) : NULL;
    return err == 0 || err == ECONNREFUSED ? -TARN_E_UFS_REFUSED : -TARN_E_UFS_CONN;
}

/* Our code for curl's; *ret_text is NULL where curl's own text is best. */
static int http_curl_code(struct tarn_ufs_http_req *r, CURLcode code, const char **ret_text)
{
    *ret_text = NULL;
    switch ((int)code) { /* int: only some of the many are named */
    case CURLE_OK:
        return 0;
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
        return -TARN_E_UFS_DNS;
    case CURLE_COULDNT_CONNECT:
        return http_connect_code(r, ret_text);
    case CURLE_OPERATION_TIMEDOUT:
        if (strstr(r->error, "Resolving timed out")) {
            *ret_text = "the name servers do not answer";
            return -TARN_E_UFS_DNS;
        }
        *ret_text = "no connection within the time allowed";
        return -TARN_E_UFS_STALLED;
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CIPHER:
    case CURLE_SSL_ISSUER_ERROR:
    case CURLE_SSL_INVALIDCERTSTATUS:
        *ret_text = http_tls_text(r);
        return -TARN_E_UFS_TLS;
    case CURLE_SSL_CACERT_BADFILE:
        *ret_text = "tls-ca cannot be read";
        return -TARN_E_CONFIG;
    case CURLE_UNSUPPORTED_PROTOCOL: /* the answer does not start with HTTP/ */
    case CURLE_WEIRD_SERVER_REPLY:
        *ret_text =
            r->https
                ? "the answer is not HTTP"
                : "the answer is not HTTP; if the endpoint speaks TLS, write https:// in endpoint";
        return r->https ? -TARN_E_UFS_PROTO : -TARN_E_UFS_TLS;
    case CURLE_GOT_NOTHING:
        *ret_text = r->https
                        ? "the connection was closed without an answer"
                        : "the connection was closed without an answer; if the endpoint speaks "
                          "TLS, write https:// in endpoint";
        return -TARN_E_UFS_CONN;
    case CURLE_PARTIAL_FILE:
        return -TARN_E_UFS_SHORT;
    case CURLE_SEND_ERROR:
    case CURLE_RECV_ERROR:
    case CURLE_PROXY:
        return -TARN_E_UFS_CONN;
    case CURLE_OUT_OF_MEMORY:
        return -TARN_E_NO_MEMORY;
    default:
        return -TARN_E_UFS_PROTO;
    }
}

/* ---- starting and ending -------------------------------------------------------------------- */

static void http_setup(struct tarn_ufs_http *h, CURL *e)
{
    long verify = h->tls_verify ? 1L : 0L;

    /* Options that this libcurl knows fail only when memory is out; the transfer then fails too. */
    (void)curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
    (void)curl_easy_setopt(e, CURLOPT_QUICK_EXIT, 1L);
    (void)curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https");
    (void)curl_easy_setopt(e, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    (void)curl_easy_setopt(e, CURLOPT_FOLLOWLOCATION, 0L);
    (void)curl_easy_setopt(e, CURLOPT_USERAGENT, "tarn/" TARN_VERSION);
    (void)curl_easy_setopt(e, CURLOPT_PATH_AS_IS, 1L);
    (void)curl_easy_setopt(e, CURLOPT_BUFFERSIZE, HTTP_RECV_BYTES);
    (void)curl_easy_setopt(e, CURLOPT_TCP_KEEPALIVE, 1L);
    (void)curl_easy_setopt(e, CURLOPT_TCP_KEEPIDLE, 15L);
    (void)curl_easy_setopt(e, CURLOPT_TCP_KEEPINTVL, 5L);
    (void)curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT_MS, (long)(h->connect_ns / TARN_NS_PER_MS));
    (void)curl_easy_setopt(e, CURLOPT_MAX_RECV_SPEED_LARGE, (curl_off_t)h->max_rate);
    (void)curl_easy_setopt(e, CURLOPT_SHARE, h->share);
    (void)curl_easy_setopt(e, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    (void)curl_easy_setopt(e, CURLOPT_SSL_VERIFYPEER, verify);
    (void)curl_easy_setopt(e, CURLOPT_SSL_VERIFYHOST, 2 * verify);
    if (*h->tls_ca)
        (void)curl_easy_setopt(e, h->tls_ca_dir ? CURLOPT_CAPATH : CURLOPT_CAINFO, h->tls_ca);
    if (strcmp(h->proxy, "env") != 0)
        (void)curl_easy_setopt(e, CURLOPT_PROXY, h->proxy); /* "" also ignores the environment */
    (void)curl_easy_setopt(e, CURLOPT_SUPPRESS_CONNECT_HEADERS,
                           1L); /* a proxy's, not the store's */
    (void)curl_easy_setopt(e, CURLOPT_HEADERFUNCTION, http_header_cb);
    (void)curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, http_write_cb);
}

static CURL *http_easy_get(struct tarn_ufs_http *h)
{
    CURL *e;

    if (h->n_spare)
        return h->spare[--h->n_spare];
    e = curl_easy_init();
    if (e)
        http_setup(h, e);
    return e;
}

/* Takes the transfer out of curl and frees it. Not inside curl. */
static void http_req_free(struct tarn_ufs_http_req *r, bool keep_easy)
{
    struct tarn_ufs_http *h = r->http;

    TARN_ASSERT(r->magic == HTTP_REQ_MAGIC);
    if (!keep_easy)
        (void)curl_easy_setopt(r->easy, CURLOPT_FORBID_REUSE, 1L); /* known to this libcurl */
    (void)curl_multi_remove_handle(h->multi, r->easy);             /* it was added */
    tarn_list_del(&r->node);
    curl_slist_free_all(r->lines);
    if (keep_easy && h->n_spare < HTTP_SPARE_MAX)
        h->spare[h->n_spare++] = r->easy;
    else
        curl_easy_cleanup(r->easy);
    r->magic = 0;
    free(r);
}

static void http_finished(struct tarn_ufs_http *h, struct tarn_ufs_http_req *r, CURLcode code)
{
    const struct tarn_ufs_http_ops *ops = r->ops;
    void *arg = r->arg;
    const char *text = NULL;
    char copy[CURL_ERROR_SIZE];
    int rc = r->rc;

    (void)h;
    if (ops && code == CURLE_OK && rc == 0)
        (void)http_tell_head(r); /* its code is in r->rc */
    if (r->rc < 0)
        rc = r->rc;
    else
        rc = http_curl_code(r, code, &text);
    (void)snprintf(copy, sizeof(copy), "%s",
                   text        ? text
                   : *r->error ? r->error
                               : curl_easy_strerror(code));
    ops = r->ops;
    http_req_free(r, code == CURLE_OK && rc == 0);
    if (ops)
        ops->on_done(arg, rc, copy);
}

/* Tells finished transfers. The owners may start and cancel others meanwhile. */
static void http_drain(struct tarn_ufs_http *h)
{
    CURLMsg *msg;
    int left;

    while ((msg = curl_multi_info_read(h->multi, &left)) != NULL) {
        struct tarn_ufs_http_req *r = NULL;
        char *private = NULL;
        CURLcode code = msg->data.result;

        if (msg->msg != CURLMSG_DONE)
            continue;
        (void)curl_easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE, &private); /* we set it */
        TARN_CAST(r, (void *)private, HTTP_REQ_MAGIC);
        http_finished(h, r, code);
    }
}

int tarn_ufs_http_start(struct tarn_ufs_http *h, const struct tarn_ufs_http_call *call,
                        struct tarn_ufs_http_req **ret_req)
{
    struct tarn_ufs_http_req *r = tarn_xnew(struct tarn_ufs_http_req);

    tarn_loop_assert_mine(h->loop);
    r->magic = HTTP_REQ_MAGIC;
    r->http = h;
    r->ops = call->ops;
    r->arg = call->arg;
    r->https = strncmp(call->url, "https:", 6) == 0;
    tarn_list_init(&r->node);
    for (size_t i = 0; i < call->n_headers; i++) {
        struct curl_slist *more = curl_slist_append(r->lines, call->headers[i]);

        if (!more)
            goto err;
        r->lines = more;
    }
    r->easy = http_easy_get(h);
    if (!r->easy)
        goto err;
    if (curl_easy_setopt(r->easy, CURLOPT_URL, call->url) != CURLE_OK)
        goto err;
    (void)curl_easy_setopt(r->easy, CURLOPT_HTTPGET, 1L); /* these store what they are given */
    (void)curl_easy_setopt(r->easy, CURLOPT_NOBODY, call->head ? 1L : 0L);
    (void)curl_easy_setopt(r->easy, CURLOPT_HTTPHEADER, r->lines);
    (void)curl_easy_setopt(r->easy, CURLOPT_FRESH_CONNECT, call->fresh ? 1L : 0L);
    (void)curl_easy_setopt(r->easy, CURLOPT_FORBID_REUSE, 0L);
    (void)curl_easy_setopt(r->easy, CURLOPT_ERRORBUFFER, r->error);
    (void)curl_easy_setopt(r->easy, CURLOPT_HEADERDATA, r);
    (void)curl_easy_setopt(r->easy, CURLOPT_WRITEDATA, r);
    (void)curl_easy_setopt(r->easy, CURLOPT_PRIVATE, r);
    if (curl_multi_add_handle(h->multi, r->easy) != CURLM_OK)
        goto err;
    tarn_list_push(&h->live, &r->node);
    *ret_req = r;
    return 0;

err:
    curl_slist_free_all(r->lines);
    if (r->easy)
        curl_easy_cleanup(r->easy);
    free(r);
    return -TARN_E_NO_MEMORY;
}

static void http_reap(struct tarn_ufs_http *h)
{
    TARN_LIST_FOREACH_SAFE(n, &h->dead)
    {
        http_req_free(TARN_LIST_ENTRY(n, struct tarn_ufs_http_req, node), false);
    }
}

static void http_reap_cb(struct tarn_task *t)
{
    struct tarn_ufs_http *h = TARN_CONTAINER(t, struct tarn_ufs_http, reap);

    h->reap_posted = false;
    if (h->freed)
        free(h);
    else
        http_reap(h);
}

void tarn_ufs_http_cancel(struct tarn_ufs_http_req **r)
{
    struct tarn_ufs_http_req *req = *r;

    *r = NULL;
    if (!req)
        return;
    TARN_ASSERT(req->magic == HTTP_REQ_MAGIC && req->ops);
    req->ops = NULL;
    tarn_list_del(&req->node);
    tarn_list_push(&req->http->dead, &req->node);
    if (!req->http->reap_posted) {
        req->http->reap_posted = true;
        tarn_loop_post(req->http->loop, &req->http->reap, http_reap_cb);
    }
}

bool tarn_ufs_http_suspect(const struct tarn_ufs_http_req *r)
{
    long connects = 1;

    if (r->head_bytes)
        return false;
    (void)curl_easy_getinfo(r->easy, CURLINFO_NUM_CONNECTS, &connects); /* stays 1 when it fails */
    return connects == 0;
}

/* ---- clients -------------------------------------------------------------------------------- */

static int http_open_curl(struct tarn_ufs_http *h, unsigned max_connections)
{
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
        return -TARN_E_NO_MEMORY;
    h->multi = curl_multi_init();
    h->share = curl_share_init();
    if (!h->multi || !h->share)
        return -TARN_E_NO_MEMORY;
    (void)curl_share_setopt(h->share, CURLSHOPT_SHARE,
                            CURL_LOCK_DATA_SSL_SESSION); /* one thread: no locks */
    (void)curl_multi_setopt(h->multi, CURLMOPT_SOCKETFUNCTION, http_curl_socket_cb);
    (void)curl_multi_setopt(h->multi, CURLMOPT_SOCKETDATA, h);
    (void)curl_multi_setopt(h->multi, CURLMOPT_TIMERFUNCTION, http_curl_timer_cb);
    (void)curl_multi_setopt(h->multi, CURLMOPT_TIMERDATA, h);
    (void)curl_multi_setopt(h->multi, CURLMOPT_PIPELINING, (long)CURLPIPE_NOTHING);
    (void)curl_multi_setopt(h->multi, CURLMOPT_MAX_TOTAL_CONNECTIONS, (long)max_connections);
    (void)curl_multi_setopt(h->multi, CURLMOPT_MAXCONNECTS, (long)max_connections);
    return 0;
}

static int http_check_ca(struct tarn_ufs_http *h, struct tarn_errbuf *err)
{
    struct stat st;

    if (!*h->tls_ca)
        return 0;
    if (stat(h->tls_ca, &st) < 0)
        return tarn_err_set(err, -TARN_E_CONFIG, "tls-ca: %s: %s", h->tls_ca,
                            tarn_strerror(-errno));
    h->tls_ca_dir = S_ISDIR(st.st_mode);
    return 0;
}

int tarn_ufs_http_new(const struct tarn_ufs_http_args *args, struct tarn_errbuf *err,
                      struct tarn_ufs_http **ret_http)
{
    struct tarn_ufs_http *h = tarn_xnew(struct tarn_ufs_http);
    int rc;

    h->loop = args->loop;
    tarn_list_init(&h->sockets);
    tarn_list_init(&h->live);
    tarn_list_init(&h->dead);
    h->tls_ca = tarn_xstrdup(args->tls_ca);
    h->proxy = tarn_xstrdup(args->proxy);
    h->tls_verify = args->tls_verify;
    h->connect_ns = args->connect_ns;
    h->max_rate = args->max_rate;
    rc = http_check_ca(h, err);
    if (rc == 0) {
        rc = http_open_curl(h, args->max_connections);
        if (rc < 0)
            (void)tarn_err_set(err, rc, "libcurl did not start: %s",
                               tarn_strerror(rc)); /* rc is known */
    }
    if (rc < 0) {
        tarn_ufs_http_free(&h);
        return rc;
    }
    *ret_http = h;
    return 0;
}

void tarn_ufs_http_free(struct tarn_ufs_http **hp)
{
    struct tarn_ufs_http *h = *hp;

    *hp = NULL;
    if (!h)
        return;
    TARN_LIST_FOREACH_SAFE(n, &h->live)
    {
        http_req_free(TARN_LIST_ENTRY(n, struct tarn_ufs_http_req, node), false);
    }
    http_reap(h);
    while (h->n_spare)
        curl_easy_cleanup(h->spare[--h->n_spare]);
    /* Before the clean-up closes sockets without telling: their numbers may be others' then. */
    if (h->multi)
        (void)curl_multi_setopt(h->multi, CURLMOPT_SOCKETFUNCTION, NULL);
    TARN_LIST_FOREACH_SAFE(n, &h->sockets)
    {
        http_socket_free(TARN_LIST_ENTRY(n, struct http_socket, node));
    }
    if (h->multi)
        (void)curl_multi_cleanup(h->multi); /* no easy handle is left in it */
    if (h->share)
        (void)curl_share_cleanup(h->share); /* no easy handle uses it */
    tarn_timer_stop(&h->timer);
    curl_global_cleanup();
    free(h->tls_ca);
    free(h->proxy);
    h->freed = true;
    if (!h->reap_posted)
        free(h);
}
