/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stores by scheme, and the requests as callers see them: a public call copies what it was given,
 * hands the request to the policy (policy.c), which runs attempts of a back end (s3.c, file.c), and
 * tarn_ufs_req_end() gives the result to the caller.
 *
 * Closing: every request ends first, then the back end frees what it has (a thread that is stuck in
 * a dead file server is left to itself), then the store object goes and `closed` runs.
 */
#include "ufs/ufs.h"

#include <stdlib.h>
#include <string.h>

#include "lib/base/hash.h"
#include "lib/base/mem.h"
#include "ufs/ufs_priv.h"

#define UFS_SKIPPED_MAX (64u << 10) /* bytes of the names left out of a page */

static const struct tarn_ufs_ops *const ufs_back_ends[] = {&tarn_ufs_s3_ops, &tarn_ufs_file_ops};

/* ---- open and close ------------------------------------------------------------------------- */

/* The URI for messages, but where it may hold a secret: s3://KEY:SECRET@bucket. A secret may hold
 * slashes, so any '@' counts, but in a path of this machine. */
static const char *ufs_shown(const char *uri)
{
    return strchr(uri, '@') && strncmp(uri, "file://", 7) != 0 ? "the URI" : uri;
}

static int ufs_find_back_end(const char *uri, const struct tarn_ufs_ops **ret_ops,
                             const char **ret_rest, struct tarn_errbuf *err)
{
    const char *colon = strstr(uri, "://");

    if (!colon || colon == uri)
        return tarn_err_set(
            err, -TARN_E_CONFIG,
            "%s: not a store's URI: it has the form s3://bucket/prefix or file:///directory",
            ufs_shown(uri));
    for (size_t i = 0; i < TARN_ARRAY_LEN(ufs_back_ends); i++) {
        const char *scheme = ufs_back_ends[i]->scheme;

        if (strlen(scheme) == (size_t)(colon - uri) && memcmp(scheme, uri, strlen(scheme)) == 0) {
            *ret_ops = ufs_back_ends[i];
            *ret_rest = colon + 3;
            return 0;
        }
    }
    return tarn_err_set(err, -TARN_E_CONFIG,
                        "%s: stores of this kind are not supported (known: s3://, file://)",
                        ufs_shown(uri));
}

static void ufs_free(struct tarn_ufs *u)
{
    tarn_ufs_opts_fini(&u->opts);
    free(u->uri);
    free(u->store_id);
    free(u->prefix);
    free(u->where);
    u->magic = 0;
    free(u);
}

int tarn_ufs_resolve(const char *uri, char ret[PATH_MAX], struct tarn_errbuf *err)
{
    const struct tarn_ufs_ops *ops = NULL;
    const char *rest = NULL;
    int rc = ufs_find_back_end(uri, &ops, &rest, err);

    ret[0] = 0;
    return rc == 0 && ops->resolve ? ops->resolve(rest, ret, err) : rc;
}

int tarn_ufs_open(const struct tarn_ufs_args *args, struct tarn_errbuf *err,
                  struct tarn_ufs **ret_ufs)
{
    const struct tarn_ufs_ops *ops = NULL;
    const char *rest = NULL;
    struct tarn_ufs *u;
    int rc;

    TARN_ASSERT(args->loop && args->uri && args->opts && ret_ufs);
    rc = ufs_find_back_end(args->uri, &ops, &rest, err);
    if (rc < 0)
        return rc;
    TARN_ASSERT(ops != NULL && rest != NULL);
    u = tarn_xnew(struct tarn_ufs);
    u->magic = UFS_MAGIC;
    u->ops = ops;
    u->loop = args->loop;
    tarn_ufs_opts_copy(args->opts, &u->opts);
    tarn_ufs_policy_init(u);
    u->resolved = args->resolved && *args->resolved ? args->resolved : NULL;
    rc = ops->open(u, rest, err);
    u->resolved = NULL;
    if (rc < 0) {
        ufs_free(u);
        if (!err || strstr(err->text, args->uri))
            return rc;
        return tarn_err_wrap(err, rc, "%s", ufs_shown(args->uri));
    }
    TARN_ASSERT(u->store && u->uri && u->store_id && u->prefix && u->where);
    if (*u->opts.store_id) {
        free(u->store_id);
        u->store_id = tarn_xstrdup(u->opts.store_id);
    }
    *ret_ufs = u;
    return 0;
}

void tarn_ufs_close(struct tarn_ufs **u, void (*closed)(void *arg), void *arg)
{
    struct tarn_ufs *gone = *u;

    *u = NULL;
    TARN_ASSERT(gone && closed);
    gone->closed = closed;
    gone->closed_arg = arg;
    tarn_ufs_policy_close(gone);
}

void tarn_ufs_closed(struct tarn_ufs *u)
{
    void (*closed)(void *arg) = u->closed;
    void *arg = u->closed_arg;

    TARN_ASSERT(u->back_end_closing && !u->pump_posted);
    ufs_free(u);
    closed(arg);
}

const char *tarn_ufs_uri(const struct tarn_ufs *u)
{
    return u->uri;
}

const char *tarn_ufs_store_id(const struct tarn_ufs *u)
{
    return u->store_id;
}

const char *tarn_ufs_prefix(const struct tarn_ufs *u)
{
    return u->prefix;
}

void tarn_ufs_counts(const struct tarn_ufs *u, struct tarn_ufs_counts *ret)
{
    uint64_t running = 0;

    TARN_LIST_FOREACH(n, &u->running)
    {
        running++;
    }
    *ret = u->counts;
    ret->running = running;
    ret->queued = u->n_queued;
}

/* ---- content ids ---------------------------------------------------------------------------- */

/* One field: its length, so that no two sequences of fields give the same bytes, then its bytes. */
static void cid_field(struct tarn_sha256 *s, const void *p, size_t n)
{
    uint8_t len[4] = {(uint8_t)n, (uint8_t)(n >> 8), (uint8_t)(n >> 16), (uint8_t)(n >> 24)};

    TARN_ASSERT(n <= UINT32_MAX);
    tarn_sha256_add(s, len, sizeof(len));
    tarn_sha256_add(s, p, n);
}

static void cid_number(struct tarn_sha256 *s, uint64_t v)
{
    uint8_t le[8];

    for (int i = 0; i < 8; i++)
        le[i] = (uint8_t)(v >> (8 * i));
    cid_field(s, le, sizeof(le));
}

tarn_cid_t tarn_ufs_cid(const char *isolation, const char *store_id, const char *full_key,
                        const struct tarn_ufs_version *version)
{
    static const char tag[] = "tarn cid 1";
    struct tarn_sha256 *s = tarn_sha256_new();
    uint8_t digest[32];
    tarn_cid_t cid;

    cid_field(s, tag, sizeof(tag) - 1);
    cid_field(s, isolation, strlen(isolation));
    cid_field(s, store_id, strlen(store_id));
    cid_field(s, full_key, strlen(full_key));
    if (*version->etag) {
        cid_field(s, "etag", 4);
        cid_field(s, version->etag, strlen(version->etag));
    } else if (version->file_id) {
        cid_field(s, "file", 4);
        cid_number(s, version->file_id);
        cid_number(s, (uint64_t)version->mtime_ns);
        cid_number(s, (uint64_t)version->ctime_ns);
    } else {
        cid_field(s, "time", 4);
        cid_number(s, (uint64_t)version->mtime_ns);
    }
    cid_number(s, version->size_bytes);
    tarn_sha256_end(&s, digest);
    memcpy(cid.b, digest, sizeof(cid.b));
    return cid;
}

tarn_cid_t tarn_ufs_cid_of(const struct tarn_ufs *u, const char *isolation, const char *key,
                           const struct tarn_ufs_version *version)
{
    char *full = tarn_xasprintf("%s%s", u->prefix, key);
    tarn_cid_t cid = tarn_ufs_cid(isolation, u->store_id, full, version);

    free(full);
    return cid;
}

bool tarn_ufs_version_eq(const struct tarn_ufs_version *a, const struct tarn_ufs_version *b)
{
    if (a->size_bytes != b->size_bytes)
        return false;
    if (*a->etag || *b->etag)
        return strcmp(a->etag, b->etag) == 0;
    return a->mtime_ns == b->mtime_ns && a->ctime_ns == b->ctime_ns && a->file_id == b->file_id;
}

/* ---- requests ------------------------------------------------------------------------------- */

/* 0 if `key` may be asked for; else the code, with r->err set. */
static int ufs_key_check(struct tarn_ufs *u, struct tarn_ufs_req *r, const char *key)
{
    if (key[0] == '/')
        return tarn_err_set(&r->err, -TARN_E_INVALID, "%s%s: a key does not start with '/'", u->uri,
                            u->where);
    if (strlen(u->prefix) + strlen(key) > TARN_KEY_MAX)
        return tarn_err_set(&r->err, -TARN_E_NAME_TOO_LONG, "%s%s: a key has at most %u bytes",
                            u->uri, u->where, TARN_KEY_MAX);
    return 0;
}

static void ufs_submit(struct tarn_ufs *u, struct tarn_ufs_req *r, int rc)
{
    if (rc < 0)
        tarn_ufs_policy_answer(u, r, rc);
    else
        tarn_ufs_policy_submit(u, r);
}

void tarn_ufs_stat(struct tarn_ufs *u, struct tarn_ufs_stat *s, const char *key)
{
    TARN_ASSERT(s->cb && s->req.state == UFS_REQ_IDLE);
    s->req.kind = UFS_KIND_STAT;
    s->key = tarn_xstrdup(key);
    s->attr = (struct tarn_ufs_attr){0};
    s->target = NULL;
    if (!*key && u->ops->root_is_dir) {
        s->attr.type = TARN_UFS_DIR;
        tarn_ufs_policy_answer(u, &s->req, 0);
        return;
    }
    ufs_submit(u, &s->req, ufs_key_check(u, &s->req, key));
}

void tarn_ufs_list_clear(struct tarn_ufs_list *l)
{
    free(l->entries);
    free(l->to_key);
    l->entries = NULL;
    l->count = 0;
    l->to_key = NULL;
    l->complete = false;
    l->skipped = 0;
    tarn_str_reset(&l->skipped_names);
}

void tarn_ufs_list_skip(struct tarn_ufs_list *l, const char *name, size_t n)
{
    struct tarn_str *s = &l->skipped_names;

    l->skipped++;
    if (s->len + 4 * n + 1 > UFS_SKIPPED_MAX)
        return; /* counted all the same */
    for (size_t i = 0; i < n; i++) {
        if ((unsigned char)name[i] < 0x20 || name[i] == 0x7f)
            tarn_str_addf(s, "\\x%02x", (unsigned)(unsigned char)name[i]);
        else if (name[i] == '\\')
            tarn_str_adds(s, "\\\\");
        else
            tarn_str_addc(s, name[i]);
    }
    tarn_str_addc(s, '\n');
}

void tarn_ufs_list(struct tarn_ufs *u, struct tarn_ufs_list *l, const char *dir)
{
    char *copy = tarn_xstrdup(dir); /* may be l->dir */
    size_t n = strlen(copy);

    TARN_ASSERT(l->cb && l->req.state == UFS_REQ_IDLE);
    TARN_ASSERT(n == 0 || copy[n - 1] == '/');
    TARN_ASSERT(l->max_entries > 0 && l->max_entries <= TARN_LIST_PAGE_ENTRIES);
    tarn_ufs_list_clear(l);
    free(l->dir);
    l->dir = copy;
    l->req.kind = UFS_KIND_LIST;
    if (!l->from_key)
        l->from_key = tarn_xstrdup("");
    ufs_submit(u, &l->req, ufs_key_check(u, &l->req, copy));
}

void tarn_ufs_list_fini(struct tarn_ufs_list *l)
{
    TARN_ASSERT(l->req.state == UFS_REQ_IDLE);
    tarn_ufs_list_clear(l);
    tarn_str_fini(&l->skipped_names);
    free(l->dir);
    free(l->from_key);
    free(l->token);
    l->dir = NULL;
    l->from_key = NULL;
    l->token = NULL;
}

void tarn_ufs_get(struct tarn_ufs *u, struct tarn_ufs_get *g, const char *key,
                  const struct tarn_ufs_version *version)
{
    TARN_ASSERT(g->cb && g->on_data && g->req.state == UFS_REQ_IDLE);
    TARN_ASSERT(g->len_bytes > 0 && g->off_bytes <= version->size_bytes &&
                g->len_bytes <= version->size_bytes - g->off_bytes);
    g->req.kind = UFS_KIND_GET;
    g->key = tarn_xstrdup(key);
    g->version = *version;
    g->done_bytes = 0;
    g->verified = TARN_VERIFIED_NONE;
    g->adopted = false;
    ufs_submit(u, &g->req, ufs_key_check(u, &g->req, key));
}

void tarn_ufs_check(struct tarn_ufs *u, struct tarn_ufs_check *c)
{
    TARN_ASSERT(c->cb && c->list.req.state == UFS_REQ_IDLE);
    c->list = (struct tarn_ufs_list){.req.cls = c->list.req.cls, .max_entries = 1};
    c->list.req.kind = UFS_KIND_CHECK;
    c->list.dir = tarn_xstrdup("");
    c->list.from_key = tarn_xstrdup("");
    tarn_ufs_policy_submit(u, &c->list.req);
}

void tarn_ufs_cancel(struct tarn_ufs_req *r)
{
    tarn_ufs_policy_cancel(r);
}

/* ---- results -------------------------------------------------------------------------------- */

static void ufs_stat_end(struct tarn_ufs_stat *s, int rc)
{
    char *target = s->target;

    free(s->key);
    s->key = NULL;
    s->cb(s, rc); /* s may be gone or in use again */
    free(target);
}

/* What the caller gives back for the next page is put in place before it is told. */
static void ufs_list_end(struct tarn_ufs_list *l, int rc)
{
    if (rc >= 0 && l->to_key) {
        free(l->from_key);
        l->from_key = tarn_xstrdup(l->to_key);
    }
    if (rc < 0 || l->complete) {
        free(l->token);
        l->token = NULL;
    }
    TARN_ASSERT(rc < 0 || l->complete == !l->to_key);
    l->cb(l, rc);
}

static void ufs_get_end(struct tarn_ufs_get *g, int rc)
{
    TARN_ASSERT(rc < 0 || g->done_bytes == g->len_bytes);
    free(g->key);
    g->key = NULL;
    g->cb(g, rc);
}

static void ufs_check_end(struct tarn_ufs_list *l, int rc)
{
    struct tarn_ufs_check *c = TARN_CONTAINER(l, struct tarn_ufs_check, list);

    tarn_ufs_list_fini(l);
    c->cb(c, rc);
}

void tarn_ufs_req_end(struct tarn_ufs_req *r, int rc)
{
    TARN_ASSERT(r->state == UFS_REQ_IDLE && rc <= 0);
    switch ((enum ufs_kind)r->kind) {
    case UFS_KIND_STAT:
        ufs_stat_end(ufs_req_stat(r), rc);
        break;
    case UFS_KIND_LIST:
        ufs_list_end(ufs_req_list(r), rc);
        break;
    case UFS_KIND_GET:
        ufs_get_end(ufs_req_get(r), rc);
        break;
    case UFS_KIND_CHECK:
        ufs_check_end(ufs_req_list(r), rc);
        break;
    default:
        TARN_UNREACHABLE("request kind");
    }
}
