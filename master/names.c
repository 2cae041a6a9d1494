/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Names: when what the core knows may be believed, and how the store is asked for one name.
 *
 * - Only here and in listing.c a store is asked for names. One question per (directory, name) at a
 * time (struct mask), all who want it wait for the same answer.
 * - The answer is compared with the committed state and becomes a journal entry only where it
 * differs; when it was given is remembered in `asked`, a bounded table that a restart forgets (then
 * one more question is asked).
 * - A question about a name that is known keeps nobody waiting longer than MASTER_REFRESH_WAIT_NS;
 * a store that does not answer leaves the old metadata in force at once, counted. That a name was
 * absent from a listing that expired is not such metadata: the name may be new.
 * - What a listing that still runs has found is believed like the rest: up to its last committed
 * key, from the time at which it began.
 * - Absence is believed only from a complete listing or from a 404 and an empty LIST; an error is
 * never a negative.
 */
#include "master/master_priv.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"
#include "lib/base/hash.h"
#include "lib/base/name.h"

#define ASKED_MAX         TARN_NEGATIVE_MAX
#define NEGATIVE_TRUST_NS (60 * TARN_NS_PER_S)
#define LOOK_NS           TARN_NS_PER_S /* whether a store answers again */
#define LOOKS_MAX         60u           /* then a probe has ended for certain */

/* What the store said about a name, lately. */
struct asked_row {
    struct tarn_hnode hnode;
    struct tarn_list fifo;
    tarn_ino_t parent;
    int64_t at_ns; /* real time */
    bool found;
    bool distrusted; /* a worker saw another object: what is committed is not to be believed */
    size_t len;
    char name[];
};

/* A question under way. */
struct mask {
    struct tarn_hnode hnode;
    struct tarn_master *master;
    struct mdir *dir; /* referenced */
    struct tarn_ufs_stat stat;
    struct mproposal proposal;
    struct tarn_list waiters; /* struct mname_req */
    uint64_t asked_index;
    int64_t asked_ns; /* real time */
    bool asking;      /* the store has not answered yet */
    bool found;
    bool note; /* the answer is what is committed now */
    size_t len;
    char name[];
};

static uint64_t name_hash(tarn_ino_t parent, const char *name, size_t len)
{
    return tarn_xxh3_seed(name, len, parent.v);
}

/* ---- what was answered lately
 * ---------------------------------------------------------------------------------- */

static struct asked_row *asked_find(struct tarn_master *m, tarn_ino_t parent, const char *name,
                                    size_t len)
{
    uint64_t h = name_hash(parent, name, len);

    for (struct tarn_hnode *n = tarn_htab_first(&m->asked, h); n; n = tarn_htab_next(n, h)) {
        struct asked_row *row = TARN_CONTAINER(n, struct asked_row, hnode);

        if (row->parent.v == parent.v && row->len == len && memcmp(row->name, name, len) == 0)
            return row;
    }
    return NULL;
}

static void asked_drop(struct tarn_master *m, struct asked_row *row)
{
    tarn_htab_remove(&m->asked, &row->hnode);
    tarn_list_del(&row->fifo);
    free(row);
}

static struct asked_row *asked_row(struct tarn_master *m, tarn_ino_t parent, const char *name,
                                   size_t len)
{
    struct asked_row *row = asked_find(m, parent, name, len);

    if (!row) {
        while (m->asked.count >= ASKED_MAX)
            asked_drop(m, TARN_LIST_ENTRY(m->asked_fifo.next, struct asked_row, fifo));
        row = tarn_xcalloc(1, sizeof(*row) + len + 1);
        row->parent = parent;
        row->len = len;
        memcpy(row->name, name, len);
        tarn_list_init(&row->fifo);
        tarn_htab_insert(&m->asked, &row->hnode, name_hash(parent, name, len));
    }
    tarn_list_del(&row->fifo);
    tarn_list_push(&m->asked_fifo, &row->fifo);
    return row;
}

static void asked_note(struct tarn_master *m, const struct mask *a)
{
    struct asked_row *row = asked_row(m, a->dir->ino, a->name, a->len);

    if (row->distrusted && row->at_ns > a->asked_ns)
        return; /* asked before that was known */
    row->at_ns = a->asked_ns;
    row->found = a->found;
    row->distrusted = false;
}

void mname_distrust(struct tarn_master *m, tarn_ino_t parent, const char *name, size_t len)
{
    struct asked_row *row = asked_row(m, parent, name, len);

    row->at_ns = master_real_ns(m);
    row->distrusted = true;
}

/* Real time until which the committed state of a name is believed; type 0: it is not there. */
static int64_t name_trust_until(struct tarn_master *m, struct mdir *d, const char *name, size_t len,
                                uint32_t type)
{
    struct asked_row *row = asked_find(m, d->ino, name, len);
    int64_t listed = d->listed_ns, until;
    bool known = type != 0;

    if (d->at == &m->own)
        return INT64_MAX; /* no store has a say in it */
    if (known && d->run_ns > listed && mdir_run_covers(d, name, len, type))
        listed = d->run_ns;
    until = mattach_trust_until(d->at, listed);
    if (row && row->distrusted && listed <= row->at_ns)
        return 0;
    if (row && row->found == known) {
        int64_t asked = mattach_trust_until(d->at, row->at_ns);

        if (!known) /* a negative answer expires, whatever the policy */
            asked = TARN_MIN(asked, row->at_ns + (int64_t)NEGATIVE_TRUST_NS);
        until = TARN_MAX(until, asked);
    }
    if (known && d->at->ttl_ns == TARN_TTL_FOREVER)
        until = INT64_MAX;
    return until;
}

static uint64_t trust_ms(struct tarn_master *m, int64_t until)
{
    int64_t now = master_real_ns(m);

    if (until == INT64_MAX)
        return UINT64_MAX;
    return until > now ? (uint64_t)(until - now) / TARN_NS_PER_MS : 0;
}

uint64_t mname_negative_trust_ms(struct tarn_master *m, tarn_ino_t parent, const char *name,
                                 size_t len)
{
    struct mdir *d;
    uint64_t ms;

    if (mdir_get(m, parent, &d) < 0)
        return 0;
    /* What no store has may be attached at any time, and new names are told to nobody. */
    ms = d->at == &m->own ? 0 : trust_ms(m, name_trust_until(m, d, name, len, 0));
    mdir_put(&d);
    return TARN_MIN(ms, NEGATIVE_TRUST_NS / TARN_NS_PER_MS);
}

bool mname_shown(struct mdir *d, const Tarn__Core__Inode *inode)
{
    const char *name = (const char *)inode->name.data;

    return inode->held || (d->listing && mdir_run_covers(d, name, inode->name.len, inode->type)) ||
           name_trust_until(d->master, d, name, inode->name.len, inode->type) >
               master_real_ns(d->master);
}

void mname_attr(struct tarn_master *m, tarn_ino_t ino, const Tarn__Core__Inode *inode,
                Tarn__Wire__Attr *ret)
{
    struct mattach *at = mattach_by_id(m, inode->attachment);
    bool is_dir = inode->type == TARN_UFS_DIR;
    struct mdir *d = NULL;

    tarn__wire__attr__init(ret);
    ret->ino = ino.v;
    ret->parent = inode->parent ? inode->parent : ino.v;
    ret->version = inode->version;
    ret->type = inode->type;
    ret->size = inode->ufs && !is_dir ? inode->ufs->size : 0;
    ret->mtime_ns = inode->ufs ? inode->ufs->mtime_ns : 0;
    ret->cid = inode->cid;
    ret->nlink = is_dir ? 2 : 1;
    ret->mode = inode->has_owner ? inode->mode : 0755;
    if (at) {
        ret->uid = inode->has_owner ? inode->uid : at->uid;
        ret->gid = inode->has_owner ? inode->gid : at->gid;
        if (!inode->has_owner)
            ret->mode = is_dir ? at->dir_mode : at->file_mode;
        if (ret->mtime_ns == 0 &&
            !inode->has_owner) /* a store with owners has times: 1970 is one */
            ret->mtime_ns = at->since_ns;
    }
    if (inode->type == TARN_UFS_SYMLINK) {
        ret->mode = 0777;
        ret->size = inode->target.len;
    }
    ret->ctime_ns = inode->ufs && inode->ufs->ctime_ns ? inode->ufs->ctime_ns : ret->mtime_ns;
    if (ino.v == TARN_INO_ROOT.v || (at && at->root.v == ino.v)) {
        ret->trust_ms = UINT64_MAX;
    } else if (mdir_get(m, (tarn_ino_t){inode->parent}, &d) == 0) {
        ret->trust_ms = trust_ms(m, name_trust_until(m, d, (const char *)inode->name.data,
                                                     inode->name.len, inode->type));
        mdir_put(&d);
    }
}

/* ---- questions
 * ---------------------------------------------------------------------------------------------------
 */

/* A patient request waits for a store that may only have hiccuped, until it was asked again. Once:
 * one that answers a probe and no names fails them. */
static bool name_waits(const struct mname_req *r)
{
    const struct mattach *at = r->dir->at;

    return r->known && r->patient && at->down && !at->asked_again && !at->gone &&
           r->looks < LOOKS_MAX;
}

static void name_looked(struct tarn_timer *t, void *arg)
{
    struct mname_req *r = arg;
    struct tarn_master *m = r->dir->master;
    int rc;

    (void)t; /* r's */
    r->waiting = false;
    m->name_waiters--;
    mdir_put(&r->dir);
    rc = mname_refresh(m, r);
    if (rc != 0)
        r->fn(r, TARN_MIN(rc, 0));
}

static void name_wait(struct tarn_master *m, struct mname_req *r)
{
    r->waiting = true;
    r->looks++;
    tarn_timer_start(m->args.loop, &r->timer, LOOK_NS, name_looked, r);
}

static void ask_wake(struct mask *a, int rc)
{
    struct tarn_list all;

    tarn_list_init(&all);
    tarn_list_splice(&all, &a->waiters);
    for (struct tarn_list *n = tarn_list_pop(&all); n; n = tarn_list_pop(&all)) {
        struct mname_req *r = TARN_LIST_ENTRY(n, struct mname_req, node);

        tarn_timer_stop(&r->timer);
        r->ask = NULL;
        if (tarn_ufs_no_answer(rc) && !r->waited && name_waits(r)) {
            r->waited = true;
            name_wait(a->master, r);
            continue;
        }
        mdir_put(&r->dir);
        a->master->name_waiters--;
        r->err = a->stat.req.err;
        r->stale = rc < 0 && r->known && tarn_ufs_no_answer(rc);
        if (r->stale) {
            a->dir->at->stale_answers++;
            r->fn(r, 0);
        } else {
            r->fn(r, rc);
        }
    }
}

static void ask_end(struct mask *a, int rc)
{
    struct tarn_master *m = a->master;

    if (rc == 0 && a->note)
        asked_note(m, a);
    if (rc == -TARN_E_CANCELLED)
        rc = a->dir->at->gone ? -TARN_E_NO_ATTACH : -TARN_E_SHUTDOWN;
    tarn_htab_remove(&m->asks, &a->hnode);
    ask_wake(a, rc);
    mdir_put(&a->dir);
    free(a);
    master_idle(m);
}

static void ask_committed(struct mproposal *p)
{
    struct mask *a = p->arg;
    int rc = mproposal_rc(p);

    /* Refused as stale: something was committed meanwhile. That is an answer for those who wait,
     * but it may be older than this one (a page that was asked before), so it is not remembered. */
    a->note = rc == 0;
    ask_end(a, rc == -TARN_E_ENTRY_STALE ? 0 : rc);
}

static bool object_equal(const Tarn__Core__Inode *inode, uint32_t attachment,
                         const struct tarn_ufs_attr *attr)
{
    const struct tarn_ufs_version *v = &attr->version;

    if (inode->type != (uint32_t)attr->type || inode->detached || inode->attachment != attachment)
        return false;
    if (attr->type == TARN_UFS_DIR)
        return true;
    return inode->ufs && inode->ufs->size == v->size_bytes && inode->ufs->mtime_ns == v->mtime_ns &&
           inode->ufs->ctime_ns == v->ctime_ns && inode->ufs->file_id == v->file_id &&
           strcmp(inode->ufs->etag, v->etag) == 0 &&
           (!attr->has_owner ||
            (inode->mode == attr->mode && inode->uid == attr->uid && inode->gid == attr->gid));
}

static bool etag_is_md5(const char *etag)
{
    return strlen(etag) == 32 && strspn(etag, "0123456789abcdef") == 32;
}

/*
 * LIST and HEAD may disagree on the ETag of one object (composed uploads on some servers). Where
 * not both are plain MD5s, equal size and modification second mean the same bytes; a fetch compares
 * again, with the ETag that GET reports.
 */
static bool object_same_listed(const Tarn__Core__Inode *inode, const struct tarn_ufs_attr *attr)
{
    const struct tarn_ufs_version *v = &attr->version;

    return attr->type == TARN_UFS_FILE && inode->type == TARN_UFS_FILE && inode->ufs &&
           v->file_id == 0 && inode->ufs->size == v->size_bytes && v->etag[0] &&
           inode->ufs->etag[0] &&
           inode->ufs->mtime_ns / (int64_t)TARN_NS_PER_S == v->mtime_ns / (int64_t)TARN_NS_PER_S &&
           !(etag_is_md5(v->etag) && etag_is_md5(inode->ufs->etag));
}

static int ask_current(struct mask *a, Tarn__Core__Inode **ret)
{
    tarn_ino_t ino;
    uint32_t type;
    int rc = tarn_core_dentry(a->master->args.kv, a->dir->ino, a->name, a->len, &ino, &type);

    return rc < 0 ? rc : tarn_core_inode(a->master->args.kv, ino, ret);
}

static int ask_propose_found(struct mask *a, const struct tarn_ufs_attr *attr)
{
    Tarn__Core__Entry e = TARN__CORE__ENTRY__INIT;
    Tarn__Core__Found found = TARN__CORE__FOUND__INIT;
    Tarn__Core__Object obj = TARN__CORE__OBJECT__INIT;
    Tarn__Core__Version v;
    char etag[TARN_ETAG_MAX + 1];
    tarn_cid_t cid;

    memcpy(etag, attr->version.etag, sizeof(etag));
    tarn__core__version__init(&v);
    v.size = attr->version.size_bytes;
    v.mtime_ns = attr->version.mtime_ns;
    v.ctime_ns = attr->version.ctime_ns;
    v.file_id = attr->version.file_id;
    v.etag = etag;
    obj.name = (ProtobufCBinaryData){a->len, (uint8_t *)a->name};
    obj.type = (uint32_t)attr->type;
    obj.ufs = &v;
    obj.has_owner = attr->has_owner;
    obj.mode = attr->mode;
    obj.uid = attr->uid;
    obj.gid = attr->gid;
    if (attr->type == TARN_UFS_SYMLINK && a->stat.target)
        obj.target = (ProtobufCBinaryData){strlen(a->stat.target), (uint8_t *)a->stat.target};
    if (attr->type == TARN_UFS_FILE && v.size > 0) {
        TARN_AUTO_FREE char *key = tarn_xasprintf("%s%s", a->dir->key, a->name);

        cid = tarn_ufs_cid_of(a->dir->at->ufs, a->dir->at->isolation, key, &attr->version);
        obj.cid = (ProtobufCBinaryData){sizeof(cid.b), cid.b};
    }
    found.parent = a->dir->ino.v;
    found.asked_index = a->asked_index;
    found.object = &obj;
    e.found = &found;
    return mpropose(a->master, &a->proposal, &e, ask_committed, a);
}

static int ask_propose_gone(struct mask *a)
{
    Tarn__Core__Entry e = TARN__CORE__ENTRY__INIT;
    Tarn__Core__Gone gone = TARN__CORE__GONE__INIT;

    gone.parent = a->dir->ino.v;
    gone.name = (ProtobufCBinaryData){a->len, (uint8_t *)a->name};
    gone.asked_index = a->asked_index;
    e.gone = &gone;
    return mpropose(a->master, &a->proposal, &e, ask_committed, a);
}

static void ask_answered(struct tarn_ufs_stat *s, int rc)
{
    struct mask *a = s->arg;
    Tarn__Core__Inode *inode = NULL;
    int known;

    a->asking = false;
    mattach_note(a->dir->at, rc, &s->req.err);
    if (tarn_ufs_answer(rc))
        a->dir->at->asked_again = false;
    if (a->master->stopping)
        rc = -TARN_E_SHUTDOWN; /* the store is closed: there is no more to learn */
    if (rc < 0 && rc != -TARN_E_UFS_NOT_FOUND) {
        ask_end(a, rc);
        return;
    }
    a->found = rc == 0;
    a->note = true;
    known = ask_current(a, &inode);
    if (known < 0 && known != -TARN_E_NO_ENTRY)
        rc = known;
    else if (a->found && known == 0 &&
             (object_equal(inode, a->dir->at->id, &s->attr) || object_same_listed(inode, &s->attr)))
        rc = 1; /* nothing new */
    else if (known == 0 && inode->held && (!a->found || s->attr.type != TARN_UFS_DIR)) {
        a->found = true; /* it is there for an attachment, whatever the store has */
        rc = 1;
    } else if (a->found)
        rc = ask_propose_found(a, &s->attr);
    else
        rc = known == 0 ? ask_propose_gone(a) : 1;
    tarn__core__inode__free_unpacked(inode, NULL);
    if (rc != 0)
        ask_end(a, rc > 0 ? 0 : rc);
}

static struct mask *ask_find(struct tarn_master *m, tarn_ino_t parent, const char *name, size_t len)
{
    uint64_t h = name_hash(parent, name, len);

    for (struct tarn_hnode *n = tarn_htab_first(&m->asks, h); n; n = tarn_htab_next(n, h)) {
        struct mask *a = TARN_CONTAINER(n, struct mask, hnode);

        if (a->dir->ino.v == parent.v && a->len == len && memcmp(a->name, name, len) == 0)
            return a;
    }
    return NULL;
}

static struct mask *ask_start(struct tarn_master *m, struct mdir *d, const char *name, size_t len)
{
    struct mask *a = tarn_xcalloc(1, sizeof(*a) + len + 1);
    TARN_AUTO_FREE char *key = NULL;

    master_busy(m);
    a->master = m;
    d->refs++;
    a->dir = d;
    a->len = len;
    memcpy(a->name, name, len);
    a->asked_index = master_applied(m);
    a->asked_ns = master_real_ns(m);
    tarn_list_init(&a->waiters);
    tarn_htab_insert(&m->asks, &a->hnode, name_hash(d->ino, name, len));
    m->counts.asks++;
    key = tarn_xasprintf("%s%s", d->key, a->name);
    a->stat.cb = ask_answered;
    a->stat.arg = a;
    a->stat.req.cls = TARN_UFS_FOREGROUND;
    a->asking = true;
    tarn_ufs_stat(d->at->ufs, &a->stat, key);
    /* With the policy `always` nothing that a listing says would save a question. */
    if (++d->asks >= MASTER_ASKS_LIST && !d->listing && d->at->ttl_ns != TARN_TTL_ALWAYS &&
        m->listing_count < MASTER_LISTINGS_MAX)
        mlist_start(d, TARN_UFS_BACKGROUND, false);
    return a;
}

void mnames_stop_of(struct mattach *at)
{
    struct tarn_hnode *n = NULL;
    size_t slot = 0;

    while ((n = tarn_htab_walk(&at->master->asks, &slot, n)) != NULL) { /* they end later */
        struct mask *a = TARN_CONTAINER(n, struct mask, hnode);

        if (a->dir->at == at && a->asking)
            tarn_ufs_cancel(&a->stat.req);
    }
}

void mdir_vanished(struct mdir *d)
{
    struct tarn_master *m = d->master;
    Tarn__Core__Inode *inode = NULL;
    struct mdir *parent = NULL;
    const char *name;

    if (m->stopping || d->ino.v == d->at->root.v || m->asks.count >= TARN_WAITERS_MAX ||
        tarn_core_inode(m->args.kv, d->ino, &inode) < 0)
        return;
    name = (const char *)inode->name.data;
    if (mdir_get(m, (tarn_ino_t){inode->parent}, &parent) == 0 && parent->at->ufs) {
        mname_distrust(m, parent->ino, name, inode->name.len);
        if (!ask_find(m, parent->ino, name, inode->name.len))
            (void)ask_start(m, parent, name, inode->name.len); /* goes on by itself */
    }
    mdir_put(&parent);
    tarn__core__inode__free_unpacked(inode, NULL);
}

/* ---- requests
 * -------------------------------------------------------------------------------------------------------
 */

static void name_waited(struct tarn_timer *t, void *arg)
{
    struct mname_req *r = arg;

    (void)t; /* r's */
    tarn_list_del(&r->node);
    r->dir->at->stale_answers++;
    mattach_late(r->dir->at);
    r->dir->master->name_waiters--;
    mdir_put(&r->dir);
    r->ask = NULL;
    r->stale = true;
    r->fn(r, 0);
}

/* Whether the committed state may be used as it is. */
static int name_good(struct tarn_master *m, struct mname_req *r)
{
    int64_t now = master_real_ns(m);
    tarn_ino_t ino;
    uint32_t type = 0;
    int rc = tarn_core_dentry(m->args.kv, r->dir->ino, r->name, r->len, &ino, &type);

    if (rc < 0 && rc != -TARN_E_NO_ENTRY)
        return rc;
    if (rc < 0)
        type = 0;
    r->known = type != 0;
    if (type == TARN_UFS_DIR && mattach_by_root(m, ino))
        return 1; /* no store is asked for it */
    if (r->dir->at->ttl_ns == TARN_TTL_ALWAYS && type && !r->fresh)
        return 1;
    if (name_trust_until(m, r->dir, r->name, r->len, type) > now)
        return 1;
    if (name_waits(r))
        return 0;
    if (r->known &&
        (r->patient ? r->dir->at->down && (r->dir->at->probe_failed || r->waited ||
                                           r->looks >= LOOKS_MAX || !r->dir->at->ufs)
                    : mattach_in_force(r->dir->at))) { /* a question asks in the background */
        r->dir->at->stale_answers++;
        r->stale = true;
        return 1;
    }
    return 0;
}

int mname_refresh(struct tarn_master *m, struct mname_req *r)
{
    int rc;

    r->stale = false;
    r->ask = NULL;
    r->err.text[0] = 0;
    r->timer = (struct tarn_timer){0};
    if (!tarn_name_ok(r->name, r->len))
        return r->len > TARN_NAME_MAX ? -TARN_E_NAME_TOO_LONG : -TARN_E_NAME_BAD;
    if (m->stopping)
        return -TARN_E_SHUTDOWN;
    rc = mdir_get(m, r->parent, &r->dir);
    if (rc < 0)
        return rc;
    rc = name_good(m, r);
    if (rc == 0 && !r->dir->at->ufs && !name_waits(r)) /* and nothing is known */
        rc = tarn_err_set(&r->err, -TARN_E_UFS_DOWN, "%s is not open: %s", r->dir->at->uri,
                          tarn_err_text(&r->dir->at->open_err, -TARN_E_UFS_DOWN));
    if (rc == 0 && (m->name_waiters >= TARN_WAITERS_MAX || m->asks.count >= TARN_WAITERS_MAX))
        rc = -TARN_E_BUSY;
    if (rc != 0) {
        mdir_put(&r->dir);
        return rc;
    }
    if (name_waits(r)) {
        m->name_waiters++;
        name_wait(m, r);
        return 0;
    }
    r->ask = ask_find(m, r->dir->ino, r->name, r->len);
    if (!r->ask)
        r->ask = ask_start(m, r->dir, r->name, r->len);
    tarn_list_push(&r->ask->waiters, &r->node);
    m->name_waiters++;
    if (r->known && !r->patient)
        tarn_timer_start(m->args.loop, &r->timer, m->refresh_wait_ns, name_waited, r);
    return 0;
}

void mname_cancel(struct mname_req *r)
{
    if (!r->ask && !r->waiting)
        return;
    if (r->ask)
        tarn_list_del(&r->node);
    r->waiting = false;
    tarn_timer_stop(&r->timer);
    r->dir->master->name_waiters--;
    mdir_put(&r->dir);
    r->ask = NULL;
}

void mnames_fini(struct tarn_master *m)
{
    TARN_ASSERT(m->asks.count == 0);
    while (m->asked.count)
        asked_drop(m, TARN_LIST_ENTRY(m->asked_fifo.next, struct asked_row, fifo));
    tarn_htab_fini(&m->asks);
    tarn_htab_fini(&m->asked);
    mdirs_fini(m);
}
