/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The S3 back end. An attempt of a request is one or two HTTP requests ("sides"):
 *
 *   list, check   LIST                                     -> page
 *   stat          HEAD key and LIST key/ in parallel       -> a directory if LIST has anything, else
 *                                                             HEAD's
 *   get           GET range, If-Match                      -> bytes
 *                 412 or another ETag: HEAD, then perhaps GET again with what HEAD said (s3_get.c)
 *
 * Each side collects its status, headers and the body (a listing goes to the XML parser as it
 * arrives, an error is kept); when the sides that matter are in, s3_step() decides. Keys that come
 * from files are read again when the store rejects them, at most every few seconds, so that rotated
 * keys need no restart.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/hash.h"
#include "lib/base/mem.h"
#include "lib/base/units.h"
#include "ufs/credentials_priv.h"
#include "ufs/http_priv.h"
#include "ufs/s3_priv.h"
#include "ufs/ufs_priv.h"

#define S3_MAGIC           0x73336131u
#define S3_ERROR_BODY_MAX  (64u << 10)
#define S3_EMPTY_PAGES_MAX 8u
#define S3_RELOAD_NS       TARN_NS_PER_S /* between two looks at files of keys */

enum s3_verb { S3_HEAD, S3_LIST, S3_GET };

struct s3_attempt;

/* One HTTP request of an attempt. */
struct s3_side {
    struct s3_attempt *attempt;     /* it belongs to */
    enum s3_verb verb;              /* what it asks */
    struct tarn_ufs_http_req *http; /* under way, or NULL */
    struct tarn_ufs_http_head head; /* status 0 before an answer */
    struct tarn_s3_list_xml *list;  /* of a LIST that succeeds */
    size_t body_bytes;              /* of a listing */
    struct tarn_str error;          /* body of an error answer */
    struct tarn_errbuf text;        /* of rc, from the transport or from a check */
    int rc;                         /* result when done: 0, or why there is no usable answer */
    bool done;                      /* the result is known */
};

/* Owner: loop. */
struct s3_attempt {
    uint32_t magic;         /* S3_MAGIC */
    struct tarn_ufs *u;     /* store */
    struct tarn_ufs_req *r; /* request */
    struct s3_side side[2]; /* n_sides */
    unsigned n_sides;       /* in use */
    enum tarn_s3_fit fit;   /* get: of the last GET answer */
    bool asked;             /* get: HEAD was asked */
    bool plain;             /* get: without conditions */
    unsigned creds_nr;      /* the keys that it was begun with */
    unsigned empty_pages;   /* list: pages without progress in a row */
};

static void s3_begin(struct s3_attempt *a);

/* ---- error texts ---------------------------------------------------------------------------- */

/* "s3://bucket/key at host:port", printable. */
static void s3_object_text(const struct s3_attempt *a, char *buf, size_t size)
{
    const struct tarn_s3_store *s = a->u->store;
    struct tarn_ufs_req *r = a->r;
    const char *key = "";

    if (r->kind == UFS_KIND_STAT)
        key = ufs_req_stat(r)->key;
    else if (r->kind == UFS_KIND_GET)
        key = ufs_req_get(r)->key;
    else
        key = ufs_req_list(r)->dir;
    (void)snprintf(buf, size, "s3://%s/%s%.200s%s", s->site.bucket, a->u->prefix, key,
                   a->u->where); /* cut is fine */
    for (; *buf; buf++)
        if ((unsigned char)*buf < 0x20 || *buf == 0x7f)
            *buf = '?';
}

static int s3_fail(struct s3_attempt *a, int rc, const char *why)
{
    char object[400];

    s3_object_text(a, object, sizeof(object));
    return tarn_err_set(&a->r->err, rc, "%s: %s", object, why);
}

/* Of an error answer: the code for it, and what to tell people. */
static int s3_answer_error(struct s3_attempt *a, struct s3_side *side)
{
    const struct tarn_s3_store *s = a->u->store;
    unsigned status = side->head.status;
    struct tarn_s3_error e;
    char why[640], hint[200] = "";
    const char *region;
    int rc;

    tarn_s3_error_xml(tarn_str_z(&side->error), side->error.len, &e);
    rc = tarn_s3_error_code(e.code, status);
    region = *e.region ? e.region : side->head.region;
    if (*region && strcmp(region, s->site.region) != 0 &&
        (status == 301 || status == 307 || status == 400 || status == 403)) {
        rc = -TARN_E_CONFIG;
        (void)snprintf(hint, sizeof(hint), "; the bucket is in region %s: give region=%s", region,
                       region); /* cut */
    } else if (strcmp(e.code, "RequestTimeTooSkewed") == 0) {
        struct tarn_clock *c = tarn_clock_system();
        int64_t off = (c->real_ns(c) - side->head.date_ns) / (int64_t)TARN_NS_PER_S;

        if (side->head.date_ns)
            (void)snprintf(hint, sizeof(hint),
                           "; this host's clock is %" PRId64 " s %s the store's",
                           off < 0 ? -off : off, off < 0 ? "behind" : "ahead of"); /* fits */
    } else if (status >= 300 && status < 400 && status != 304) {
        (void)snprintf(hint, sizeof(hint), "; redirected to %.80s: check endpoint and region",
                       *side->head.location ? side->head.location
                                            : "another place"); /* cut is fine */
    } else if (status == 412 && side->verb == S3_LIST) {
        rc = -TARN_E_UFS_DENIED; /* how Swift answers those who did not sign */
    } else if (rc == -TARN_E_UFS_NOT_FOUND && side->verb == S3_LIST) {
        rc = -TARN_E_UFS_NO_BUCKET;
    }
    (void)snprintf(why, sizeof(why), "%u %s%s%s%s", status, *e.code ? e.code : tarn_strerror(rc),
                   *e.message ? ": " : "", e.message, hint); /* cut is fine */
    side->head.retry_after_ns = TARN_MIN(side->head.retry_after_ns, a->u->opts.timeout);
    a->r->retry_after_ns = TARN_MAX(a->r->retry_after_ns, side->head.retry_after_ns);
    return s3_fail(a, rc, why);
}

/* ---- sides ---------------------------------------------------------------------------------- */

static void s3_side_reset(struct s3_side *side)
{
    tarn_ufs_http_cancel(&side->http);
    tarn_s3_list_xml_free(&side->list);
    tarn_str_fini(&side->error);
    *side = (struct s3_side){0};
}

static void s3_free(struct s3_attempt *a)
{
    TARN_ASSERT(a->magic == S3_MAGIC);
    for (unsigned i = 0; i < TARN_ARRAY_LEN(a->side); i++)
        s3_side_reset(&a->side[i]);
    a->magic = 0;
    free(a);
}

static void s3_finish(struct s3_attempt *a, int rc)
{
    struct tarn_ufs_req *r = a->r;

    TARN_ASSERT(r->back_end == a);
    tarn_ufs_policy_done(
        r, rc); /* the caller's callback may run in here; listings still borrow from us */
    s3_free(a);
}

static int s3_on_head(void *arg, const struct tarn_ufs_http_head *head)
{
    struct s3_side *side = arg;
    struct s3_attempt *a = side->attempt;
    const char *why = "";

    TARN_ASSERT(a->magic == S3_MAGIC);
    side->head = *head;
    tarn_ufs_policy_progress(a->r, 0);
    if (side->verb == S3_LIST && head->status == 200) {
        unsigned max = a->r->kind == UFS_KIND_LIST ? ufs_req_list(a->r)->max_entries : 1;

        side->list = tarn_s3_list_xml_new(max);
    }
    if (side->verb != S3_GET)
        return 0;
    a->fit = tarn_s3_get_fit(ufs_req_get(a->r), head, &why);
    switch (a->fit) {
    case TARN_S3_FIT_CHANGED:
        return tarn_err_set(&side->text, -TARN_E_UFS_CHANGED, "%s", why);
    case TARN_S3_FIT_LIED:
        return tarn_err_set(&side->text, -TARN_E_UFS_LIED, "%s", why);
    case TARN_S3_FIT_ASK:
        return head->status == 412 ? 0 : tarn_err_set(&side->text, -TARN_E_UFS_CHANGED, "%s", why);
    case TARN_S3_FIT_OK:
    case TARN_S3_FIT_ERROR:
    default:
        return 0;
    }
}

static int s3_on_get_body(struct s3_side *side, const uint8_t *p, size_t n)
{
    struct tarn_ufs_get *g = ufs_req_get(side->attempt->r);

    if (n > g->len_bytes - g->done_bytes)
        return tarn_err_set(&side->text, -TARN_E_UFS_LIED, "more bytes came than were asked for");
    return tarn_ufs_policy_data(g, p, n);
}

static int s3_on_body(void *arg, const uint8_t *p, size_t n)
{
    struct s3_side *side = arg;
    struct s3_attempt *a = side->attempt;
    int rc;

    TARN_ASSERT(a->magic == S3_MAGIC);
    tarn_ufs_policy_progress(a->r, n);
    if (side->verb == S3_GET && a->fit == TARN_S3_FIT_OK)
        return s3_on_get_body(side, p, n);
    side->body_bytes += n;
    if (side->list) {
        if (side->body_bytes > TARN_HTTP_BODY_MAX)
            return tarn_err_set(&side->text, -TARN_E_UFS_PROTO,
                                "the listing is longer than %u bytes", TARN_HTTP_BODY_MAX);
        rc = tarn_s3_list_xml_feed(side->list, p, n);
        if (rc < 0)
            return tarn_err_set(&side->text, rc, "the answer is no listing of an S3 store: %s",
                                tarn_strerror(rc));
        return 0;
    }
    if (side->error.len < S3_ERROR_BODY_MAX)
        tarn_str_add(&side->error, p, TARN_MIN(n, S3_ERROR_BODY_MAX - side->error.len));
    if (side->body_bytes > TARN_HTTP_BODY_MAX)
        return tarn_err_set(&side->text, -TARN_E_UFS_PROTO,
                            "the error answer is longer than %u bytes", TARN_HTTP_BODY_MAX);
    return 0;
}

static void s3_step(struct s3_attempt *a);

static enum tarn_ufs_status s3_status(int rc, unsigned status)
{
    if (rc < 0 || status == 0)
        return TARN_UFS_STATUS_NONE;
    if (status < 300)
        return TARN_UFS_STATUS_OK;
    if (status == 404)
        return TARN_UFS_STATUS_NOT_FOUND;
    if (status == 401 || status == 403)
        return TARN_UFS_STATUS_DENIED;
    if (status == 429 || status == 503)
        return TARN_UFS_STATUS_THROTTLED;
    return status < 500 ? TARN_UFS_STATUS_REFUSED : TARN_UFS_STATUS_SERVER;
}

static void s3_count(struct s3_side *side, int rc)
{
    enum tarn_ufs_op op = side->verb == S3_HEAD   ? TARN_UFS_OP_STAT
                          : side->verb == S3_LIST ? TARN_UFS_OP_LIST
                                                  : TARN_UFS_OP_GET;

    side->attempt->u->counts.ended[op][s3_status(rc, side->head.status)]++;
}

static void s3_on_done(void *arg, int rc, const char *text)
{
    struct s3_side *side = arg;

    TARN_ASSERT(side->attempt->magic == S3_MAGIC);
    side->http = NULL;
    side->done = true;
    s3_count(side, rc);
    if (rc == 0 && side->list) {
        rc = tarn_s3_list_xml_end(side->list);
        if (rc < 0)
            (void)tarn_err_set(&side->text, rc,
                               "the listing is cut off or damaged"); /* rc is known */
    }
    side->rc = rc;
    if (rc < 0 && !*side->text.text)
        (void)tarn_err_set(&side->text, rc, "%s", text); /* rc is known */
    s3_step(side->attempt);
}

static const struct tarn_ufs_http_ops s3_http_ops = {s3_on_head, s3_on_body, s3_on_done};

/* Sends `call` as one side; a failure to start is told like any other, by a later turn's step. */
static void s3_send(struct s3_attempt *a, enum s3_verb verb, struct tarn_s3_call *call)
{
    const struct tarn_s3_store *s = a->u->store;
    struct s3_side *side = &a->side[a->n_sides++];
    struct tarn_ufs_http_call request = {.head = verb == S3_HEAD,
                                         .fresh = a->r->last_rc == -TARN_E_UFS_STALLED,
                                         .url = tarn_str_z(&call->url),
                                         .headers = call->headers,
                                         .n_headers = call->n_headers,
                                         .ops = &s3_http_ops,
                                         .arg = side};

    TARN_ASSERT(a->n_sides <= TARN_ARRAY_LEN(a->side));
    *side = (struct s3_side){.attempt = a, .verb = verb};
    a->u->counts.requests++;
    side->rc = tarn_ufs_http_start(s->http, &request, &side->http);
    TARN_ASSERT(side->rc == 0); /* only a few small allocations and options that are known */
    tarn_s3_call_fini(call);
}

static int64_t s3_real_ns(void)
{
    struct tarn_clock *c = tarn_clock_system();

    return c->real_ns(c);
}

static char *s3_full_key(const struct s3_attempt *a, const char *key, const char *tail)
{
    return tarn_xasprintf("%s%s%s", a->u->prefix, key, tail);
}

static void s3_send_head(struct s3_attempt *a, const char *key)
{
    struct tarn_s3_call call = {0};
    struct tarn_s3_store *s = a->u->store;
    char *full = s3_full_key(a, key, "");

    tarn_s3_call_head(&s->site, full, s3_real_ns(), &call);
    s3_send(a, S3_HEAD, &call);
    free(full);
}

static void s3_send_get(struct s3_attempt *a)
{
    struct tarn_ufs_get *g = ufs_req_get(a->r);
    struct tarn_s3_call call = {0};
    struct tarn_s3_store *s = a->u->store;
    char *full = s3_full_key(a, g->key, "");

    tarn_s3_call_get(&s->site, full, g->off_bytes + g->done_bytes, g->off_bytes + g->len_bytes - 1,
                     a->plain ? NULL : &g->version, s3_real_ns(), &call);
    s3_send(a, S3_GET, &call);
    free(full);
}

static void s3_send_list(struct s3_attempt *a, const struct tarn_s3_list_args *args)
{
    struct tarn_s3_call call = {0};
    struct tarn_s3_store *s = a->u->store;

    tarn_s3_call_list(&s->site, args, s3_real_ns(), &call);
    s3_send(a, S3_LIST, &call);
}

/* ---- steps ---------------------------------------------------------------------------------- */

/* The keys may be why. An answer to HEAD has no body that tells, and some stores deny access to
 * whoever has a bad key. */
static bool s3_rejected(const struct s3_side *side, int rc)
{
    return rc == -TARN_E_UFS_SIGNATURE || rc == -TARN_E_UFS_DENIED ||
           (side->verb == S3_HEAD && side->rc == 0 && side->head.status == 400);
}

/* True when keys that the store rejected were replaced by newer ones from their files, now or while
 * the attempt was under way. */
static bool s3_renew_keys(struct s3_attempt *a, const struct s3_side *side, int rc)
{
    struct tarn_s3_store *s = a->u->store;
    struct tarn_ufs_credentials_set fresh = {0};
    bool other;

    if (!s3_rejected(side, rc) || !s->creds.reloadable)
        return false;
    if (a->creds_nr != s->creds_nr)
        return true;
    if (tarn_loop_now_ns(a->u->loop) - s->creds_ns < S3_RELOAD_NS)
        return false;
    s->creds_ns = tarn_loop_now_ns(a->u->loop);
    if (tarn_ufs_credentials_find(&a->u->opts, NULL, &fresh) < 0)
        return false;
    other = !fresh.access_key || strcmp(fresh.access_key, s->creds.access_key) != 0 ||
            strcmp(fresh.secret_key, s->creds.secret_key) != 0 || !fresh.token != !s->creds.token ||
            (fresh.token && strcmp(fresh.token, s->creds.token) != 0);
    tarn_ufs_credentials_fini(&s->creds);
    s->creds = fresh;
    s->site.access_key = fresh.access_key;
    s->site.secret_key = fresh.secret_key;
    s->site.token = fresh.token;
    s->creds_nr += other;
    return other;
}

/* The error of a side that has no usable answer; r->err is set. */
static int s3_side_error(struct s3_attempt *a, struct s3_side *side)
{
    if (side->rc < 0)
        return s3_fail(a, side->rc, tarn_err_text(&side->text, side->rc));
    return s3_answer_error(a, side);
}

/* Ends the attempt with the error of a side, or begins it again with newer keys. */
static void s3_end_error(struct s3_attempt *a, struct s3_side *side)
{
    int rc = s3_side_error(a, side);

    TARN_ASSERT(rc < 0);
    if (s3_renew_keys(a, side, rc))
        s3_begin(a);
    else
        s3_finish(a, rc);
}

static bool s3_side_ok(const struct s3_side *side)
{
    return side->done && side->rc == 0 && side->head.status == 200;
}

static void s3_step_list(struct s3_attempt *a)
{
    struct tarn_ufs_list *l = ufs_req_list(a->r);
    struct s3_side *side = &a->side[0];
    struct tarn_s3_listing x = {0};
    char *full;
    int rc;

    if (!s3_side_ok(side)) {
        if (side->rc == 0 && side->head.status == 400 && l->token) {
            free(l->token); /* expired: go on from the last key instead */
            l->token = NULL;
            s3_begin(a);
            return;
        }
        s3_end_error(a, side);
        return;
    }
    tarn_s3_list_xml_result(side->list, &x);
    if (a->r->kind == UFS_KIND_CHECK && !tarn_s3_listing_has_prefix(&x, a->u->prefix)) {
        l->complete = true;
        s3_finish(a, s3_fail(a, -TARN_E_UFS_LIED, "the listing has keys that were not asked for"));
        return;
    }
    if (a->r->kind == UFS_KIND_CHECK) {
        rc = x.count || x.truncated || !*a->u->prefix
                 ? 0
                 : s3_fail(a, -TARN_E_UFS_NO_BUCKET,
                           "the bucket is there, but no object has this prefix");
        l->complete = true;
        s3_finish(a, rc);
        return;
    }
    tarn_ufs_list_clear(l);
    full = s3_full_key(a, l->dir, "");
    rc = tarn_s3_page(l, full, &x, l->token && !a->empty_pages, &side->text);
    free(full);
    if (rc < 0)
        (void)s3_fail(a, rc, tarn_err_text(&side->text, rc)); /* rc is known */
    if (rc == 0 && !l->complete && !l->count && l->token && strcmp(l->to_key, l->from_key) == 0) {
        /* Nothing but the repetition of from_key: the token leads on. */
        if (++a->empty_pages <= S3_EMPTY_PAGES_MAX) {
            s3_begin(a);
            return;
        }
        rc = s3_fail(a, -TARN_E_UFS_LIED, "the listing does not advance");
    }
    s3_finish(a, rc);
}

static void s3_stat_file(struct s3_attempt *a, const struct tarn_ufs_http_head *h)
{
    struct tarn_ufs_stat *s = ufs_req_stat(a->r);

    if (!h->has_length || h->length_bytes > TARN_FILE_MAX) {
        s3_finish(a,
                  s3_fail(a, -TARN_E_UFS_PROTO, "the answer to HEAD has no usable Content-Length"));
        return;
    }
    s->attr = (struct tarn_ufs_attr){.type = TARN_UFS_FILE};
    s->attr.version.size_bytes = h->length_bytes;
    s->attr.version.mtime_ns = h->mtime_ns;
    memcpy(s->attr.version.etag, h->etag, sizeof(h->etag));
    s3_finish(a, 0);
}

static void s3_step_stat(struct s3_attempt *a)
{
    struct s3_side *head = &a->side[0], *list = a->n_sides > 1 ? &a->side[1] : NULL;
    struct tarn_s3_listing x = {0};
    bool denied;

    if (!head->done || (list && !list->done))
        return; /* giving the slower one up would cost its connection */
    if (list && s3_side_ok(list)) {
        char *dir = s3_full_key(a, ufs_req_stat(a->r)->key, "/");
        bool lied;

        tarn_s3_list_xml_result(list->list, &x);
        lied = !tarn_s3_listing_has_prefix(&x, dir);
        free(dir);
        if (lied) {
            s3_finish(a,
                      s3_fail(a, -TARN_E_UFS_LIED, "the listing has keys that were not asked for"));
            return;
        }
        if (x.count || x.truncated) {
            ufs_req_stat(a->r)->attr = (struct tarn_ufs_attr){.type = TARN_UFS_DIR};
            s3_finish(a, 0);
            return;
        }
    }
    denied = list && list->rc == 0 && list->head.status == 403;
    if (list && !s3_side_ok(list) && !(denied && s3_side_ok(head))) {
        s3_end_error(a, list);
        return;
    }
    if (s3_side_ok(head))
        s3_stat_file(a, &head->head);
    else
        s3_end_error(a, head);
}

/* After HEAD, which was asked because the GET's ETag did not fit. */
static void s3_step_asked(struct s3_attempt *a, struct s3_side *side)
{
    enum tarn_s3_fit fit = TARN_S3_FIT_ERROR;

    if (side->rc == 0)
        fit = tarn_s3_get_adopt(ufs_req_get(a->r), &side->head, &a->plain);
    if (fit == TARN_S3_FIT_ERROR) {
        s3_end_error(a, side);
    } else if (fit == TARN_S3_FIT_OK) {
        s3_side_reset(side);
        a->n_sides = 0;
        s3_send_get(a);
    } else {
        s3_finish(a, s3_fail(a, -TARN_E_UFS_CHANGED, "the object is another one now"));
    }
}

static void s3_step_get(struct s3_attempt *a)
{
    struct tarn_ufs_get *g = ufs_req_get(a->r);
    struct s3_side *side = &a->side[0];
    bool answered = side->head.status != 0;

    if (side->verb == S3_HEAD) {
        s3_step_asked(a, side);
    } else if (answered && a->fit == TARN_S3_FIT_ASK && !a->asked) {
        a->asked = true;
        s3_side_reset(side);
        a->n_sides = 0;
        s3_send_head(a, g->key);
    } else if (answered && a->fit == TARN_S3_FIT_ASK) {
        s3_finish(a, s3_fail(a, -TARN_E_UFS_LIED, "GET and HEAD disagree about the object's ETag"));
    } else if (side->rc < 0 || a->fit != TARN_S3_FIT_OK) {
        s3_end_error(a, side);
    } else if (g->done_bytes < g->len_bytes) {
        s3_finish(a, s3_fail(a, -TARN_E_UFS_SHORT, tarn_strerror(TARN_E_UFS_SHORT)));
    } else {
        s3_finish(a, 0);
    }
}

/* A side is done: goes on, or ends the attempt. */
static void s3_step(struct s3_attempt *a)
{
    switch ((enum ufs_kind)a->r->kind) {
    case UFS_KIND_STAT:
        s3_step_stat(a);
        break;
    case UFS_KIND_GET:
        s3_step_get(a);
        break;
    case UFS_KIND_LIST:
    case UFS_KIND_CHECK:
        s3_step_list(a);
        break;
    default:
        TARN_UNREACHABLE("request kind");
    }
}

static void s3_begin_list(struct s3_attempt *a)
{
    struct tarn_ufs_list *l = ufs_req_list(a->r);
    struct tarn_s3_list_args args = {.delimiter = a->r->kind == UFS_KIND_LIST,
                                     .max_keys = l->max_entries};
    char *dir = s3_full_key(a, l->dir, ""), *after = NULL;

    if (l->token)
        args.token = l->token;
    else if (*l->from_key)
        args.start_after = after = s3_full_key(a, l->dir, l->from_key);
    args.prefix = dir;
    s3_send_list(a, &args);
    free(dir);
    free(after);
}

static void s3_begin_stat(struct s3_attempt *a)
{
    struct tarn_ufs_stat *s = ufs_req_stat(a->r);
    char *dir;

    s3_send_head(a, s->key);
    if (s->file_only)
        return;
    dir = s3_full_key(a, s->key, "/");
    s3_send_list(a, &(struct tarn_s3_list_args){.prefix = dir, .max_keys = 1});
    free(dir);
}

static void s3_begin(struct s3_attempt *a)
{
    const struct tarn_s3_store *s = a->u->store;

    for (unsigned i = 0; i < a->n_sides; i++)
        s3_side_reset(&a->side[i]);
    a->n_sides = 0;
    a->asked = false;
    a->plain = false;
    a->creds_nr = s->creds_nr;
    switch ((enum ufs_kind)a->r->kind) {
    case UFS_KIND_STAT:
        s3_begin_stat(a);
        break;
    case UFS_KIND_GET:
        s3_send_get(a);
        break;
    case UFS_KIND_LIST:
    case UFS_KIND_CHECK:
        s3_begin_list(a);
        break;
    default:
        TARN_UNREACHABLE("request kind");
    }
}

static void s3_start(struct tarn_ufs *u, struct tarn_ufs_req *r)
{
    struct s3_attempt *a = tarn_xnew(struct s3_attempt);

    a->magic = S3_MAGIC;
    a->u = u;
    a->r = r;
    r->back_end = a;
    s3_begin(a);
}

static void s3_abort(struct tarn_ufs *u, struct tarn_ufs_req *r)
{
    struct s3_attempt *a = r->back_end;

    (void)u; /* the attempt's */
    for (unsigned i = 0; i < a->n_sides; i++)
        if (!a->side[i].done)
            s3_count(&a->side[i], -TARN_E_CANCELLED);
    s3_free(a);
}

static bool s3_suspect(struct tarn_ufs_req *r)
{
    const struct s3_attempt *a = r->back_end;
    bool suspect = false;

    TARN_ASSERT(a->magic == S3_MAGIC);
    for (unsigned i = 0; i < a->n_sides; i++)
        suspect = suspect || (a->side[i].http && tarn_ufs_http_suspect(a->side[i].http));
    return suspect;
}

static void s3_close(struct tarn_ufs *u)
{
    tarn_s3_store_free(u->store);
    u->store = NULL;
    tarn_ufs_closed(u);
}

const struct tarn_ufs_ops tarn_ufs_s3_ops = {
    .scheme = "s3",
    .root_is_dir = true,
    .open = tarn_s3_open,
    .start = s3_start,
    .abort = s3_abort,
    .suspect = s3_suspect,
    .close = s3_close,
};
