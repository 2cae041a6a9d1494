/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/ufs/server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/base/assert.h"
#include "lib/base/mem.h"
#include "lib/base/mtx.h"
#include "lib/base/str.h"
#include "lib/base/units.h"

#define SRV_CONNS_MAX 256
#define SRV_LINES_MAX 4096
static const char srv_mtime[] = "Sun, 22 Nov 2026 01:02:03 GMT";

struct srv {
    pthread_t thread;                 /* accepts */
    int listener;                     /* socket */
    unsigned port;                    /* of it */
    struct tarn_mtx mtx;              /* all below */
    pthread_t conns[SRV_CONNS_MAX];   /* one thread each */
    int fds[SRV_CONNS_MAX];           /* their sockets */
    unsigned n_conns;                 /* so far */
    const struct srv_object *objects; /* n_objects */
    size_t n_objects;                 /* objects */
    enum srv_action script[64];       /* n_script */
    size_t n_script;                  /* actions */
    unsigned delay_ms;                /* of every answer */
    unsigned running;                 /* requests being answered */
    struct srv_counts counts;         /* for tests */
    char *lines[SRV_LINES_MAX];       /* request lines */
    bool stop;                        /* leave */
};

struct srv_conn {
    struct srv *s; /* server */
    int fd;        /* socket */
};

struct srv_request {
    struct srv *s;          /* server */
    int fd;                 /* where the answer goes */
    enum srv_action action; /* how */
    bool head;              /* HEAD */
    bool good_key;          /* signed with the key `ak` */
    char path[2048];        /* decoded, without the bucket */
    char query[4096];       /* raw */
    char if_match[160];     /* without quotes, or "" */
    bool has_range;         /* Range was there */
    size_t first, last;     /* of it */
};

static void srv_send(int fd, const void *p, size_t n)
{
    const char *c = p;

    while (n) {
        ssize_t m = send(fd, c, n, MSG_NOSIGNAL);

        if (m <= 0)
            return; /* the client has left */
        c += m;
        n -= (size_t)m;
    }
}

static void srv_reply(struct srv_request *q, const char *status, const char *headers,
                      const char *body)
{
    struct tarn_str out = {0};

    tarn_str_addf(&out, "HTTP/1.1 %s\r\n%sContent-Length: %zu\r\n\r\n", status, headers,
                  strlen(body));
    if (!q->head)
        tarn_str_adds(&out, body);
    srv_send(q->fd, out.p, out.len);
    tarn_str_fini(&out);
}

static void srv_error(struct srv_request *q, const char *status, const char *headers,
                      const char *code, const char *message)
{
    char *body = tarn_xasprintf(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>%s</Code><Message>%s"
        "</Message><StringToSign>CANARY</StringToSign></Error>",
        code, message);

    srv_reply(q, status, headers, body);
    free(body);
}

/* ---- objects -------------------------------------------------------------------------------- */

static const struct srv_object *srv_find(struct srv *s, const char *key)
{
    for (size_t i = 0; i < s->n_objects; i++)
        if (strcmp(s->objects[i].key, key) == 0)
            return &s->objects[i];
    return NULL;
}

static void srv_body(struct srv_request *q, const uint8_t *p, size_t n)
{
    if (q->head)
        return;
    if (q->action == SRV_CHUNKED) {
        char line[32];

        (void)snprintf(line, sizeof(line), "%zx\r\n", n); /* fits */
        srv_send(q->fd, line, strlen(line));
        srv_send(q->fd, p, n);
        srv_send(q->fd, "\r\n0\r\n\r\n", 7);
    } else if (q->action == SRV_CUT_BODY || q->action == SRV_STALL_BODY) {
        srv_send(q->fd, p, n / 2);
    } else {
        srv_send(q->fd, p, n);
    }
}

static void srv_object_answer(struct srv_request *q, const struct srv_object *o)
{
    const char *etag = o->head_etag ? o->head_etag : o->etag;
    size_t first = 0, last = o->size - 1, total = o->size;
    bool partial = q->has_range && q->action != SRV_IGNORE_RANGE;
    struct tarn_str out = {0};

    if (*q->if_match && q->action != SRV_WRONG_ETAG && strcmp(q->if_match, etag) != 0) {
        srv_error(q, "412 Precondition Failed", "", "PreconditionFailed", "no");
        return;
    }
    if (partial) {
        first = q->first;
        last = TARN_MIN(q->last, o->size - 1);
    }
    tarn_str_addf(&out, "HTTP/1.1 %s\r\nLast-Modified: %s\r\n",
                  partial ? "206 Partial Content" : "200 OK", srv_mtime);
    if (q->action != SRV_NO_ETAG)
        tarn_str_addf(&out, "ETag: \"%s\"\r\n", q->action == SRV_WRONG_ETAG ? "other" : etag);
    if (partial)
        tarn_str_addf(&out, "Content-Range: bytes %zu-%zu/%zu\r\n",
                      first + (q->action == SRV_WRONG_RANGE), last + (q->action == SRV_WRONG_RANGE),
                      total + (q->action == SRV_WRONG_TOTAL));
    if (q->action == SRV_CHUNKED)
        tarn_str_adds(&out, "Transfer-Encoding: chunked\r\n\r\n");
    else
        tarn_str_addf(&out, "Content-Length: %zu\r\n\r\n", last - first + 1);
    srv_send(q->fd, out.p, out.len);
    tarn_str_fini(&out);
    srv_body(q, o->body + first, last - first + 1);
}

/* ---- listings ------------------------------------------------------------------------------- */

static int srv_hex(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : (c | 32) - 'a' + 10;
}

static void srv_decode(char *s)
{
    char *out = s;

    for (; *s; s++) {
        if (*s == '%' && s[1] && s[2]) {
            *out++ = (char)(srv_hex(s[1]) << 4 | srv_hex(s[2]));
            s += 2;
        } else {
            *out++ = *s;
        }
    }
    *out = 0;
}

/* The decoded value of a query's name, or "". */
static void srv_param(const struct srv_request *q, const char *name, char *dst, size_t size)
{
    char *copy = tarn_xstrdup(q->query), *save = NULL;
    size_t n = strlen(name);

    *dst = 0;
    for (char *p = strtok_r(copy, "&", &save); p; p = strtok_r(NULL, "&", &save)) {
        if (strncmp(p, name, n) == 0 && p[n] == '=')
            (void)snprintf(dst, size, "%s", p + n + 1); /* fits in the tests */
    }
    free(copy);
    srv_decode(dst);
}

static void srv_encode(struct tarn_str *out, const char *s)
{
    for (; *s; s++) {
        if (strchr("/-._~", *s) || (*s >= '0' && *s <= '9') ||
            ((*s | 32) >= 'a' && (*s | 32) <= 'z'))
            tarn_str_addc(out, *s);
        else
            tarn_str_addf(out, "%%%02X", (unsigned)(unsigned char)*s);
    }
}

struct srv_listing {
    char prefix[1100], after[1100], delimiter[4], max[16]; /* of the query */
    struct tarn_str out;                                   /* XML */
    char last[1100];                                       /* key or common prefix shown last */
    unsigned count;                                        /* shown */
    bool truncated;                                        /* more follows */
};

/* False when the listing is full. */
static bool srv_list_key(struct srv_listing *l, const struct srv_object *o)
{
    const char *slash = *l->delimiter ? strchr(o->key + strlen(l->prefix), '/') : NULL;
    char group[1100];
    uint64_t max;

    if (slash) {
        (void)snprintf(group, sizeof(group), "%.*s", (int)(slash - o->key + 1), o->key); /* fits */
        if (strcmp(group, l->last) == 0)
            return true;
    }
    if (tarn_parse_u64(l->max, &max) == 0 && l->count == max) {
        l->truncated = true;
        return false;
    }
    l->count++;
    (void)snprintf(l->last, sizeof(l->last), "%s", slash ? group : o->key); /* fits */
    if (slash) {
        tarn_str_adds(&l->out, "<CommonPrefixes><Prefix>");
        srv_encode(&l->out, group);
        tarn_str_adds(&l->out, "</Prefix></CommonPrefixes>");
    } else {
        tarn_str_adds(&l->out, "<Contents><Key>");
        srv_encode(&l->out, o->key);
        tarn_str_addf(
            &l->out,
            "</Key><LastModified>2026-11-22T01:02:03.000Z</LastModified><ETag>&quot;%s&quot;</ETag>"
            "<Size>%zu</Size><StorageClass>STANDARD</StorageClass></Contents>",
            o->etag, o->size);
    }
    return true;
}

static void srv_list_answer(struct srv_request *q)
{
    struct srv_listing l = {0};
    struct srv *s = q->s;
    struct tarn_str tail = {0};
    char token[1100];

    srv_param(q, "prefix", l.prefix, sizeof(l.prefix));
    srv_param(q, "delimiter", l.delimiter, sizeof(l.delimiter));
    srv_param(q, "max-keys", l.max, sizeof(l.max));
    srv_param(q, "start-after", l.after, sizeof(l.after));
    srv_param(q, "continuation-token", token, sizeof(token));
    srv_decode(token);
    if (*token) {
        (void)snprintf(l.after, sizeof(l.after), "%s", token + 2); /* fits; "t:" is in front */
        (void)snprintf(l.last, sizeof(l.last), "%s",
                       l.after); /* a token does not repeat a prefix */
    }
    tarn_str_adds(&l.out, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<ListBucketResult "
                          "xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>bkt</Name>"
                          "<EncodingType>url</EncodingType>");
    if (q->action == SRV_ANY_PREFIX)
        l.prefix[0] = 0;
    if (q->action == SRV_TOO_MANY)
        (void)snprintf(l.max, sizeof(l.max), "100000"); /* fits */
    for (size_t i = 0; i < s->n_objects; i++) {
        const struct srv_object *o = &s->objects[i];

        if (strncmp(o->key, l.prefix, strlen(l.prefix)) != 0 || strcmp(o->key, l.after) <= 0)
            continue;
        if (!srv_list_key(&l, o))
            break;
    }
    if (q->action == SRV_LOOP)
        l.truncated = true;
    tarn_str_addf(&l.out, "<IsTruncated>%s</IsTruncated>", l.truncated ? "true" : "false");
    if (l.truncated && q->action != SRV_LOOP) {
        tarn_str_adds(&l.out, "<NextContinuationToken>t:");
        srv_encode(&l.out, l.last);
        tarn_str_adds(&l.out, "</NextContinuationToken>");
    }
    if (q->action != SRV_BAD_XML)
        tarn_str_adds(&l.out, "</ListBucketResult>");
    srv_reply(q, "200 OK", "Content-Type: application/xml\r\n", tarn_str_z(&l.out));
    tarn_str_fini(&tail);
    tarn_str_fini(&l.out);
}

/* ---- requests ------------------------------------------------------------------------------- */

static void srv_sleep_until_gone(struct srv_request *q)
{
    struct pollfd p = {.fd = q->fd, .events = POLLIN};

    (void)poll(&p, 1, 20000); /* the client leaves, or the server stops */
}

/* False when the connection is over. */
static bool srv_misbehave(struct srv_request *q)
{
    switch (q->action) {
    case SRV_SLOW_DOWN:
        srv_error(q, "503 Slow Down", "", "SlowDown", "Please reduce your request rate.");
        return true;
    case SRV_ERROR_500:
        srv_reply(q, "500 Internal Server Error", "", "<html>oops &nbsp;</html>");
        return true;
    case SRV_DENY:
        srv_error(q, "403 Forbidden", "", "AccessDenied", "Access Denied");
        return true;
    case SRV_REDIRECT:
        srv_error(q, "301 Moved Permanently", "x-amz-bucket-region: eu-west-9\r\n",
                  "PermanentRedirect", "elsewhere");
        return true;
    case SRV_SKEWED:
        srv_error(q, "403 Forbidden", "Date: Mon, 01 Jan 2001 00:00:00 GMT\r\n",
                  "RequestTimeTooSkewed", "skewed");
        return true;
    case SRV_BAD_KEY:
        srv_error(q, "403 Forbidden", "", "SignatureDoesNotMatch", "no");
        return true;
    case SRV_CHECK_KEY:
    case SRV_CHECK_DENY:
        srv_error(q, "403 Forbidden", "",
                  q->action == SRV_CHECK_KEY ? "SignatureDoesNotMatch" : "AccessDenied", "no");
        return true;
    case SRV_BAD_TOKEN:
        srv_error(q, "400 Bad Request", "", "InvalidArgument",
                  "The continuation token is incorrect");
        return true;
    case SRV_STALL:
        srv_sleep_until_gone(q);
        return false;
    case SRV_GARBAGE:
        srv_send(q->fd, "\x15\x03\x01\x00\x02\x02\x46 what?\r\n\r\n", 18);
        return false;
    case SRV_LONG_HEADERS:
        srv_send(q->fd, "HTTP/1.1 200 OK\r\n", 17);
        for (int i = 0; i < 5000; i++)
            srv_send(q->fd, "x-filler: 0123456789012345678901234567890123456789\r\n", 52);
        return false;
    case SRV_CLOSE:
    default:
        return false;
    }
}

static bool srv_answers_well(enum srv_action a)
{
    return a == SRV_OK || a == SRV_STALL_BODY || a == SRV_CUT_BODY || a == SRV_IGNORE_RANGE ||
           a == SRV_WRONG_RANGE || a == SRV_WRONG_TOTAL || a == SRV_WRONG_ETAG ||
           a == SRV_NO_ETAG || a == SRV_CHUNKED || a == SRV_BAD_XML || a == SRV_TOO_MANY ||
           a == SRV_LOOP || a == SRV_ANY_PREFIX;
}

/* False when the connection is over. */
static bool srv_answer(struct srv_request *q)
{
    const struct srv_object *o;

    if (!srv_answers_well(q->action))
        return srv_misbehave(q);
    if (!*q->path) {
        srv_list_answer(q);
        return true;
    }
    o = srv_find(q->s, q->path);
    if (o)
        srv_object_answer(q, o);
    else
        srv_error(q, "404 Not Found", "", "NoSuchKey", "The specified key does not exist.");
    if (q->action == SRV_STALL_BODY)
        srv_sleep_until_gone(q);
    return q->action != SRV_STALL_BODY && q->action != SRV_CUT_BODY;
}

static void srv_header(const char *head, const char *name, char *dst, size_t size)
{
    const char *p = strcasestr(head, name), *end;

    *dst = 0;
    if (!p)
        return;
    p += strlen(name);
    end = strstr(p, "\r\n");
    (void)snprintf(dst, size, "%.*s", (int)(end - p), p); /* fits in the tests */
}

/* Takes the head of a request apart and picks the action. */
static void srv_parse(struct srv_request *q, const char *head)
{
    char target[4096] = "", value[256], auth[1024], *mark;
    struct srv *s = q->s;

    q->head = strncmp(head, "HEAD ", 5) == 0;
    (void)sscanf(head, "%*s %4095s", target); /* checked by what follows */
    mark = strchr(target, '?');
    if (mark) {
        *mark = 0;
        (void)snprintf(q->query, sizeof(q->query), "%s", mark + 1); /* fits */
    }
    srv_decode(target);
    TARN_ASSERT(strncmp(target, "/bkt", 4) == 0);
    (void)snprintf(q->path, sizeof(q->path), "%.2000s", target[4] ? target + 5 : ""); /* fits */
    srv_header(head, "\r\nIf-Match: \"", q->if_match, sizeof(q->if_match));
    q->if_match[strcspn(q->if_match, "\"")] = 0;
    srv_header(head, "\r\nRange: ", value, sizeof(value));
    q->has_range = sscanf(value, "bytes=%zu-%zu", &q->first, &q->last) == 2;
    srv_header(head, "\r\nAuthorization: AWS4-HMAC-SHA256 ", auth, sizeof(auth));
    srv_header(head, "\r\nx-amz-date: ", value, sizeof(value));
    tarn_mtx_lock(&s->mtx);
    q->good_key = strstr(auth, "Credential=ak/") != NULL;
    if (!q->good_key || strlen(value) != 16)
        s->counts.bad_auth++;
    q->action = s->counts.requests < s->n_script ? s->script[s->counts.requests] : SRV_OK;
    if (q->good_key && (q->action == SRV_CHECK_KEY || q->action == SRV_CHECK_DENY))
        q->action = SRV_OK;
    if (s->counts.requests < SRV_LINES_MAX)
        s->lines[s->counts.requests] = tarn_xasprintf("%.*s", (int)strcspn(head, "\r"), head);
    s->counts.requests++;
    s->running++;
    s->counts.running_max = TARN_MAX(s->counts.running_max, s->running);
    tarn_mtx_unlock(&s->mtx);
}

static void *srv_conn_thread(void *arg)
{
    struct srv_conn c = *(struct srv_conn *)arg;
    char head[16384];
    size_t n = 0;
    unsigned delay_ms;
    bool more = true;

    free(arg);
    while (more) {
        ssize_t m = recv(c.fd, head + n, sizeof(head) - 1 - n, 0);
        struct srv_request q = {.s = c.s, .fd = c.fd};

        if (m <= 0)
            break;
        n += (size_t)m;
        head[n] = 0;
        if (!strstr(head, "\r\n\r\n"))
            continue;
        srv_parse(&q, head);
        n = 0;
        tarn_mtx_lock(&c.s->mtx);
        delay_ms = c.s->delay_ms;
        tarn_mtx_unlock(&c.s->mtx);
        if (delay_ms)
            (void)usleep(1000 * delay_ms); /* a signal may cut it short */
        more = srv_answer(&q);
        tarn_mtx_lock(&c.s->mtx);
        c.s->running--;
        tarn_mtx_unlock(&c.s->mtx);
    }
    (void)shutdown(c.fd, SHUT_RDWR); /* closed by srv_stop */
    return NULL;
}

static void *srv_thread(void *arg)
{
    struct srv *s = arg;

    for (;;) {
        int fd = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC);
        struct srv_conn *c;
        int on = 1;

        if (fd < 0)
            return NULL;
        TARN_ASSERT(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) == 0);
        c = tarn_xnew(struct srv_conn);
        *c = (struct srv_conn){s, fd};
        tarn_mtx_lock(&s->mtx);
        TARN_ASSERT(s->n_conns < SRV_CONNS_MAX);
        s->fds[s->n_conns] = fd;
        TARN_ASSERT(pthread_create(&s->conns[s->n_conns], NULL, srv_conn_thread, c) == 0);
        s->n_conns++;
        s->counts.connections++;
        tarn_mtx_unlock(&s->mtx);
    }
}

struct srv *srv_start(const struct srv_object *objects, size_t n)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(a);
    struct srv *s = tarn_xnew(struct srv);

    s->objects = objects;
    s->n_objects = n;
    tarn_mtx_init(&s->mtx, TARN_RANK_LEAF);
    s->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    TARN_ASSERT(s->listener >= 0 && bind(s->listener, (struct sockaddr *)&a, sizeof(a)) == 0);
    TARN_ASSERT(listen(s->listener, 128) == 0 &&
                getsockname(s->listener, (struct sockaddr *)&a, &len) == 0);
    s->port = ntohs(a.sin_port);
    TARN_ASSERT(pthread_create(&s->thread, NULL, srv_thread, s) == 0);
    return s;
}

void srv_stop(struct srv **sp)
{
    struct srv *s = *sp;

    *sp = NULL;
    (void)shutdown(s->listener, SHUT_RDWR); /* wakes accept */
    (void)pthread_join(s->thread, NULL);    /* it ends then */
    for (unsigned i = 0; i < s->n_conns; i++) {
        (void)shutdown(s->fds[i], SHUT_RDWR);  /* wakes recv and poll */
        (void)pthread_join(s->conns[i], NULL); /* it ends then */
        (void)close(s->fds[i]);
    }
    (void)close(s->listener);
    for (unsigned i = 0; i < SRV_LINES_MAX; i++)
        free(s->lines[i]);
    tarn_mtx_fini(&s->mtx);
    free(s);
}

unsigned srv_port(const struct srv *s)
{
    return s->port;
}

void srv_script(struct srv *s, const enum srv_action *actions, size_t n)
{
    unsigned connections;

    tarn_mtx_lock(&s->mtx);
    TARN_ASSERT(n <= TARN_ARRAY_LEN(s->script));
    if (n)
        memcpy(s->script, actions, n * sizeof(*actions));
    s->n_script = n;
    connections = s->counts.connections;
    s->counts = (struct srv_counts){.connections = connections};
    for (unsigned i = 0; i < SRV_LINES_MAX && s->lines[i]; i++) {
        free(s->lines[i]);
        s->lines[i] = NULL;
    }
    tarn_mtx_unlock(&s->mtx);
}

void srv_objects(struct srv *s, const struct srv_object *objects, size_t n)
{
    tarn_mtx_lock(&s->mtx);
    s->objects = objects;
    s->n_objects = n;
    tarn_mtx_unlock(&s->mtx);
}

void srv_delay_ms(struct srv *s, unsigned ms)
{
    tarn_mtx_lock(&s->mtx);
    s->delay_ms = ms;
    tarn_mtx_unlock(&s->mtx);
}

void srv_counts(struct srv *s, struct srv_counts *ret)
{
    tarn_mtx_lock(&s->mtx);
    *ret = s->counts;
    tarn_mtx_unlock(&s->mtx);
}

const char *srv_line(struct srv *s, unsigned n)
{
    const char *line;

    tarn_mtx_lock(&s->mtx);
    line = n < SRV_LINES_MAX && s->lines[n] ? s->lines[n] : "";
    tarn_mtx_unlock(&s->mtx);
    return line;
}
