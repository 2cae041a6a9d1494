/* SPDX-License-Identifier: Apache-2.0 */
/*
 * attach and detach.
 *
 * What is asked is checked here first, so that a refusal says why in a user's words; the core
 * refuses again what must not be (attach_op.c, core/apply_attach.c). Options arrive and are kept as
 * K=V texts; secrets apart from them, and no answer, log line or error shows one.
 *
 * An attach below another store's directory walks there first: directories on the way that the
 * store has are then known as its own. If that cannot be found out now, they become so when the
 * store tells.
 */
#include "master/master_priv.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"
#include "lib/base/hash.h"
#include "lib/base/name.h"
#include "lib/base/units.h"
#include "master/attach_priv.h"

#define CHECK_DEFAULT_MS 8000u
#define CHECK_MAX_MS     60000u
#define TTL_DEFAULT_NS   (60 * TARN_NS_PER_S)
#define REPLICAS_MAX     16u
#define DEPTH_MAX        64u  /* names of a path: walks have a bound, too (MWALK_DEPTH_MAX) */
#define TEXTS_MAX        128u /* options, or secrets, of one attachment */

/* ---- options -------------------------------------------------------------------------------- */

/* Texts "key=value", one option each, that can be parsed again. */
struct texts {
    char *v[TEXTS_MAX];
    size_t n;
    bool secret;           /* secrets are wanted here, else what is none */
    struct texts *secrets; /* those beside what is none */
    struct tarn_errbuf *err;
};

static void texts_fini(struct texts *t)
{
    while (t->n > 0) {
        char *p = t->v[--t->n];

        tarn_wipe(p, strlen(p));
        free(p);
    }
}

static const struct tarn_conf_param *option_find(const char *key, size_t len)
{
    const struct tarn_conf_table *table = &tarn_ufs_opts_table;
    char name[64];

    for (size_t i = 0; i < table->n; i++) {
        const char *k = tarn_conf_key(&table->params[i], name);
        bool same = strlen(k) == len;

        for (size_t c = 0; c < len && same; c++)
            same = k[c] == (key[c] == '_' ? '-' : key[c]);
        if (same)
            return &table->params[i];
    }
    return NULL;
}

static int option_unknown(const char *key, size_t len, struct tarn_errbuf *err)
{
    const struct tarn_conf_table *table = &tarn_ufs_opts_table;
    struct tarn_str all = {0};
    char name[64];
    int rc;

    for (size_t i = 0; i < table->n; i++)
        tarn_str_addf(&all, "%s%s", i ? ", " : "", tarn_conf_key(&table->params[i], name));
    rc = tarn_err_set(err, -TARN_E_CONFIG, "option %.*s: there is none of that name; there are: %s",
                      (int)TARN_MIN(len, 64), key, tarn_str_z(&all));
    tarn_str_fini(&all);
    return rc;
}

/* Replaces an earlier value of the same option. */
static void texts_put(struct texts *t, const char *key, const char *value)
{
    struct tarn_str s = {0};
    size_t i = 0, len = strlen(key);

    tarn_str_addf(&s, "%s=", key);
    for (const char *p = value; *p; p++) {
        if (*p == ',' || *p == '\\')
            tarn_str_addc(&s, '\\');
        tarn_str_addc(&s, *p);
    }
    while (i < t->n && (strncmp(t->v[i], key, len) != 0 || t->v[i][len] != '='))
        i++;
    if (i < t->n) {
        tarn_wipe(t->v[i], strlen(t->v[i]));
        free(t->v[i]);
    } else {
        t->n++;
    }
    t->v[i] = tarn_str_detach(&s);
}

static void texts_drop(struct texts *t, const char *key)
{
    size_t i = 0, len = strlen(key);

    while (i < t->n && (strncmp(t->v[i], key, len) != 0 || t->v[i][len] != '='))
        i++;
    if (i == t->n)
        return;
    tarn_wipe(t->v[i], strlen(t->v[i]));
    free(t->v[i]);
    memmove(&t->v[i], &t->v[i + 1], (--t->n - i) * sizeof(t->v[0]));
}

/* The id of a key, or the file that it is from, takes the place of both. */
static void texts_key(struct texts *t, const char *key)
{
    if (!t->secrets || (strcmp(key, "access-key") != 0 && strcmp(key, "key-file") != 0))
        return;
    texts_drop(t, "access-key");
    texts_drop(t, "key-file");
    texts_drop(t->secrets, "access-key");
}

static int texts_add(void *arg, char *part)
{
    struct texts *t = arg;
    char *value = strchr(part, '='), key[64];
    size_t len = value ? (size_t)(value - part) : strlen(part);
    const struct tarn_conf_param *p = option_find(part, len);
    const char *text = value ? value + 1 : "true";

    if (!len && !value)
        return 0;
    if (!p && !value && strncmp(part, "no-", 3) == 0) {
        p = option_find(part + 3, len - 3);
        text = "false";
    }
    if (!p)
        return option_unknown(part, len, t->err);
    (void)tarn_conf_key(p, key);
    if (!value && p->type != TARN_CONF_T_BOOL)
        return tarn_err_set(t->err, -TARN_E_CONFIG, "option %s: needs a value", key);
    if (t->secret != !!(p->flags & TARN_CONF_F_SECRET) &&
        !(t->secret && (strcmp(p->name, "proxy") == 0 ||  /* it may hold a password */
                        strcmp(key, "access-key") == 0))) /* of a file, which is shown instead */
        return tarn_err_set(t->err, -TARN_E_CONFIG,
                            t->secret ? "option %s: is no secret"
                                      : "option %s: is a secret, and "
                                        "not given as an option",
                            key);
    if (!t->secret && strcmp(p->name, "proxy") == 0 && strchr(text, '@'))
        return tarn_err_set(t->err, -TARN_E_CONFIG,
                            "option proxy: one with a password is a secret, and not given as an "
                            "option");
    texts_key(t, key);
    if (t->n == TEXTS_MAX)
        return tarn_err_set(t->err, -TARN_E_TOO_BIG, "more than %u options", TEXTS_MAX);
    texts_put(t, key, text);
    return 0;
}

/* Adds to what is there. */
static int texts_read(struct texts *t, char *const *v, size_t n)
{
    int rc = 0;

    for (size_t i = 0; i < n && rc == 0; i++)
        rc = tarn_conf_split(v[i], texts_add, t);
    return rc;
}

/* ---- attach --------------------------------------------------------------------------------- */

struct attach_call {
    struct mreport report;
    struct tarn_master *master;
    char path[TARN_PATH_MAX];
    char above[TARN_PATH_MAX]; /* the directory that it is put into */
    struct mpath_req walk;
    struct tarn_timer timer; /* of the walk */
    bool walking;
    struct texts options, secrets;
    Tarn__Core__Attachment rec; /* texts are borrowed: of the request, of `known`, of the above */
    Tarn__Core__Attachment *known; /* a copy of what is attached there; NULL: nothing */
    char ttl[32];
    struct tarn_conf *conf;
    struct tarn_ufs_opts opts;
    bool open; /* the store is opened, anew for an update */
    bool check;
    uint64_t check_ns;
    struct mattach_op *op;
    struct tarn_errbuf err;
};

static void attach_reply(struct attach_call *c, int rc, uint32_t id)
{
    struct tarn_master *m = c->master;
    Tarn__Wire__AttachResponse resp = TARN__WIRE__ATTACH_RESPONSE__INIT;

    tarn_timer_stop(&c->timer);
    resp.id = rc == 0 ? id : 0;
    if (rc < 0)
        resp.error_text = tarn_wire_text(tarn_err_text(&c->err, rc));
    mreport_reply(&c->report, rc, &resp.base);
    texts_fini(&c->options);
    texts_fini(&c->secrets);
    mattach_rec_free(c->known);
    tarn_conf_free(&c->conf);
    free(c);
    master_idle(m);
}

static void attach_cancel(struct mreport *report)
{
    struct attach_call *c = TARN_CONTAINER(report, struct attach_call, report);

    if (c->walking)
        mpath_cancel(&c->walk);
    else if (c->op)
        mattach_cancel(c->op);
}

static void attach_ended(void *arg, int rc, uint32_t id, const struct tarn_errbuf *err)
{
    struct attach_call *c = arg;

    c->op = NULL;
    c->err = *err;
    if (rc == -TARN_E_NOT_DIR)
        (void)tarn_err_set(&c->err, rc, "%s: a file is on the way there", c->path);
    if (rc == 0) /* of the table: what was asked may have said who the user is */
        tarn_info("attach", "%s path=%s uri=%s id=%u", c->known ? "changed" : "attached", c->path,
                  mattach_by_id(c->master, id)->uri, id);
    if (rc == 0 && c->known) /* what was believed by the policy before */
        msession_everything(c->master);
    attach_reply(c, rc, id);
}

static void attach_go(struct attach_call *c)
{
    struct mattach_want w = {.rec = &c->rec,
                             .opts = c->open ? &c->opts : NULL,
                             .resolve = true,
                             .known = c->known,
                             .check = c->check,
                             .check_timeout_ns = c->check_ns};

    c->op = mattach_start(c->master, &w, attach_ended, c);
}

static void attach_walked(struct mpath_req *r, int rc)
{
    struct attach_call *c = r->arg;

    c->walking = false;
    tarn_timer_stop(&c->timer);
    if (c->report.cancelled || c->master->stopping) {
        attach_reply(c, -TARN_E_CANCELLED, 0);
        return;
    }
    if (rc == -TARN_E_NOT_DIR) {
        attach_reply(c, tarn_err_set(&c->err, rc, "%s: a file is on the way there", c->path), 0);
        return;
    }
    attach_go(c); /* whatever else the way is like: what is missing is made */
}

static void attach_walk_late(struct tarn_timer *t, void *arg)
{
    struct attach_call *c = arg;

    (void)t; /* c's */
    mpath_cancel(&c->walk);
}

static void attach_walk(struct attach_call *c)
{
    char *slash;

    memcpy(c->above, c->path, sizeof(c->above));
    slash = strrchr(c->above, '/');
    slash[slash == c->above] = 0;
    c->walking = true;
    c->walk = (struct mpath_req){.path = c->above, .fn = attach_walked, .arg = c};
    tarn_timer_start(c->master->args.loop, &c->timer, c->check_ns, attach_walk_late, c);
    mpath_start(c->master, &c->walk);
}

static int request_path(const char *in, char *ret, struct tarn_errbuf *err)
{
    int rc = in[0] == '/' ? tarn_path_normalize(in, ret) : -TARN_E_NAME_BAD;

    if (rc < 0)
        return tarn_err_set(err, rc, "%.256s: not a path of the name space: it has the form /a/b",
                            in);
    return 0;
}

/* What is there already, and what is asked, fit each other. */
static int attach_known(struct attach_call *c, const Tarn__Wire__AttachRequest *req)
{
    struct mattach *a = mattach_by_path(c->master, c->path);
    unsigned depth = 0;

    if (a && !req->update)
        return tarn_err_set(&c->err, -TARN_E_EXISTS,
                            "%s: %s is attached there already; --update changes its options, "
                            "detach takes it away",
                            c->path, a->uri);
    if (!a && req->update)
        return tarn_err_set(&c->err, -TARN_E_NO_ATTACH, "%s: nothing is attached there", c->path);
    if (!a && !*req->uri)
        return tarn_err_set(&c->err, -TARN_E_CONFIG, "%s: the store's URI is missing", c->path);
    if (a)
        c->known = mattach_rec_copy(a->rec);
    for (const char *p = c->path; *p; p++)
        depth += *p == '/';
    if (depth > DEPTH_MAX)
        return tarn_err_set(&c->err, -TARN_E_NAME_TOO_LONG, "%.256s…: more than %u names", c->path,
                            DEPTH_MAX);
    return 0;
}

/* The record, as it is to be. */
static int attach_fill(struct attach_call *c, const Tarn__Wire__AttachRequest *req)
{
    uint64_t ttl_ns = req->has_ttl ? req->ttl_ns : TTL_DEFAULT_NS;

    tarn__core__attachment__init(&c->rec);
    if (c->known)
        c->rec = *c->known;
    else
        c->rec.since_ns = master_real_ns(c->master);
    c->rec.path = c->path;
    if (*req->uri)
        c->rec.uri = req->uri;
    if (req->has_ttl || !c->known) {
        (void)snprintf(c->ttl, sizeof(c->ttl), "%" PRIu64 "ns", ttl_ns); /* fits */
        c->rec.ttl = c->ttl;
    }
    c->rec.read_only |= req->read_only;
    if (req->replicas > REPLICAS_MAX)
        return tarn_err_set(&c->err, -TARN_E_CONFIG, "replicas: %u: at most %u", req->replicas,
                            REPLICAS_MAX);
    if (req->replicas || !c->known)
        c->rec.replicas = TARN_MAX(req->replicas, 1u);
    if (req->direct || !c->known)
        c->rec.direct = req->direct != 1;
    return 0;
}

static int attach_options(struct attach_call *c, const Tarn__Wire__AttachRequest *req)
{
    int rc = 0;

    c->options.err = c->secrets.err = &c->err;
    c->secrets.secret = true;
    c->options.secrets = &c->secrets;
    if (c->known) {
        rc = texts_read(&c->options, c->known->options, c->known->n_options);
        if (rc == 0)
            rc = texts_read(&c->secrets, c->known->secrets, c->known->n_secrets);
    }
    if (rc == 0)
        rc = texts_read(&c->options, req->options, req->n_options);
    if (rc == 0)
        rc = texts_read(&c->secrets, req->secrets, req->n_secrets);
    if (rc < 0)
        return rc;
    c->rec.n_options = c->options.n;
    c->rec.options = c->options.v;
    c->rec.n_secrets = c->secrets.n;
    c->rec.secrets = c->secrets.v;
    rc = mattach_parse(&c->rec, &c->opts, &c->conf, &c->err);
    if (rc < 0)
        return rc;
    if (c->known && strcmp(c->known->isolation, c->opts.isolation) != 0)
        return tarn_err_set(&c->err, -TARN_E_EXISTS,
                            "%s: another isolation domain is another attachment: detach it, then "
                            "attach it anew",
                            c->path);
    c->rec.isolation = (char *)(uintptr_t)c->opts.isolation;
    return 0;
}

static void svc_attach(void *ctx, struct tarn_rpc_call *call)
{
    const Tarn__Wire__AttachRequest *req = (const Tarn__Wire__AttachRequest *)call->request;
    struct attach_call *c = tarn_xnew(struct attach_call);
    uint32_t ms = req->check_ms ? req->check_ms : CHECK_DEFAULT_MS;
    int rc;

    c->master = ctx;
    mreport_begin(&c->report, c->master, call, attach_cancel);
    rc = c->master->stopping ? -TARN_E_SHUTDOWN : request_path(req->path, c->path, &c->err);
    if (rc == 0)
        rc = attach_known(c, req);
    if (rc == 0)
        rc = attach_fill(c, req);
    if (rc == 0)
        rc = attach_options(c, req);
    if (rc < 0) {
        attach_reply(c, rc, 0);
        return;
    }
    c->open = !c->known || *req->uri || req->n_options || req->n_secrets;
    c->check = req->check && c->open;
    c->check_ns = TARN_MIN(ms, CHECK_MAX_MS) * TARN_NS_PER_MS;
    if (c->known)
        attach_go(c);
    else
        attach_walk(c);
}

/* ---- detach --------------------------------------------------------------------------------- */

struct detach_call {
    struct mreport report;
    struct tarn_master *master;
    char path[TARN_PATH_MAX];
    uint32_t id;
    struct mproposal proposal;
    struct tarn_errbuf err;
};

static void detach_reply(struct detach_call *c, int rc)
{
    struct tarn_master *m = c->master;
    Tarn__Wire__DetachResponse resp = TARN__WIRE__DETACH_RESPONSE__INIT;

    if (rc < 0)
        resp.error_text = tarn_wire_text(tarn_err_text(&c->err, rc));
    mreport_reply(&c->report, rc, &resp.base);
    free(c);
    master_idle(m);
}

static void detach_cancel(struct mreport *report)
{
    (void)report; /* it is proposed, and soon done */
}

/* What a store has under the names that are free now has to be asked. */
static void detach_distrust(struct tarn_master *m, const struct tarn_core_result *r)
{
    bool all = false;

    for (size_t i = 0; i < r->change_count; i++) {
        const struct tarn_core_change *ch = &r->changes[i];

        all |= ch->ino.v == TARN_INO_ROOT.v;
        mname_distrust(m, ch->parent, ch->name, strlen(ch->name));
        mdir_reload(m, ch->parent);
    }
    if (all) /* the root keeps its number, so its names are told of together */
        msession_everything(m);
}

static void detach_committed(struct mproposal *p)
{
    struct detach_call *c = p->arg;
    struct tarn_master *m = c->master;
    struct mattach *a = mattach_by_id(m, c->id);
    int rc = mproposal_rc(p);

    if (rc < 0) {
        detach_reply(c, tarn_err_set(&c->err, rc, "detach %s: %s", c->path, tarn_strerror(rc)));
        return;
    }
    tarn_info("attach", "detached path=%s id=%u", c->path, c->id);
    if (a)
        mattach_drop(a);
    detach_distrust(m, &p->p.result);
    mattach_changed(m, p->p.result.index);
    detach_reply(c, 0);
}

static int detach_find(struct detach_call *c)
{
    const struct mattach *a = mattach_by_path(c->master, c->path), *below;

    if (!a)
        return tarn_err_set(&c->err, -TARN_E_NO_ATTACH, "%s: nothing is attached there", c->path);
    below = mattach_below(c->master, c->path);
    if (below)
        return tarn_err_set(&c->err, -TARN_E_EXISTS,
                            "%s: %s is attached below it, at %s: detach that first", c->path,
                            below->uri, below->path);
    c->id = a->id;
    return 0;
}

static void svc_detach(void *ctx, struct tarn_rpc_call *call)
{
    const Tarn__Wire__DetachRequest *req = (const Tarn__Wire__DetachRequest *)call->request;
    struct detach_call *c = tarn_xnew(struct detach_call);
    Tarn__Core__Entry e = TARN__CORE__ENTRY__INIT;
    Tarn__Core__Detach detach = TARN__CORE__DETACH__INIT;
    int rc;

    c->master = ctx;
    mreport_begin(&c->report, c->master, call, detach_cancel);
    rc = c->master->stopping ? -TARN_E_SHUTDOWN : request_path(req->path, c->path, &c->err);
    if (rc == 0)
        rc = detach_find(c);
    if (rc < 0) {
        detach_reply(c, rc);
        return;
    }
    detach.id = c->id;
    e.detach = &detach;
    rc = mpropose(c->master, &c->proposal, &e, detach_committed, c);
    TARN_ASSERT(rc == 0); /* a Detach is small */
}

void msvc_attach_handlers(struct tarn_master *m, struct tarn_rpc_server *s)
{
    tarn_rpc_server_handle(s, TARN_RPC_attach, svc_attach, m);
    tarn_rpc_server_handle(s, TARN_RPC_detach, svc_detach, m);
}
