/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Metadata handlers: lookup, getattr, readdir, readlink, locate, report_changed. Each refreshes
 * what the policy says must be asked, then answers from the committed state; a call that waits is a
 * struct svc_call, which owns its requests. Whatever an answer lets its caller believe is a promise
 * (promise.c), and what others still believe otherwise is not answered yet.
 */
#include "master/master_priv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"
#include "lib/base/name.h"

struct svc_call {
    struct tarn_master *master;
    struct tarn_rpc_call *call;
    struct mname_req name;
    struct mlist_wait list;
    struct mdir *dir;         /* readdir: referenced */
    struct tarn_timer timer;  /* readdir: a refresh does not wait longer */
    Tarn__Core__Inode *inode; /* whose name is asked; owns name.name */
    bool waiting_list;
    bool held; /* readdir: what is behind the cookie waits for the listing */
    bool late; /* readdir: names that are not believed are shown */
    struct mhold hold;
    bool holding;
    void (*after)(struct svc_call *c, int rc);
};

static struct svc_call *svc_new(struct tarn_master *m, struct tarn_rpc_call *call)
{
    struct svc_call *c = tarn_xnew(struct svc_call);

    master_busy(m);
    c->master = m;
    c->call = call;
    return c;
}

static void svc_free(struct svc_call *c)
{
    struct tarn_master *m = c->master;

    tarn_timer_stop(&c->timer);
    mdir_put(&c->dir);
    tarn__core__inode__free_unpacked(c->inode, NULL);
    free(c);
    master_idle(m);
}

static void svc_reply(struct svc_call *c, int rc, const ProtobufCMessage *resp)
{
    tarn_rpc_reply(c->call, rc, resp, NULL, 0, 0);
    svc_free(c);
}

/* The deadline passed or the peer went: stop waiting. */
static void svc_cancel(struct tarn_rpc_call *call)
{
    struct svc_call *c = call->state;

    if (c->holding)
        mhold_forget(&c->hold);
    else if (c->waiting_list)
        mlist_forget(&c->list);
    else
        mname_cancel(&c->name);
    svc_reply(c, -TARN_E_DEADLINE, NULL);
}

static void svc_hold_over(struct mhold *w)
{
    struct svc_call *c = TARN_CONTAINER(w, struct svc_call, hold);

    c->holding = false;
    c->call->on_cancel = NULL;
    if (c->master->stopping) /* others still believe otherwise */
        svc_reply(c, -TARN_E_SHUTDOWN, NULL);
    else
        c->after(c, 0);
}

/* The answer waits until `ino` (last changed by the entry `changed`; 0: a name) is not held any
 * more; then after(c, 0). */
static void svc_hold(struct svc_call *c, tarn_ino_t ino, uint64_t changed,
                     void (*after)(struct svc_call *c, int rc))
{
    c->after = after;
    c->hold = (struct mhold){.fn = svc_hold_over};
    c->holding = true;
    c->call->state = c;
    c->call->on_cancel = svc_cancel;
    mhold_start(c->master, &c->hold, ino, changed);
}

/* True when the answer must wait; `after` runs again then. */
static bool svc_held(struct svc_call *c, tarn_ino_t ino, const Tarn__Core__Inode *inode,
                     void (*after)(struct svc_call *c, int rc))
{
    if (!mhold_wanted(c->master, ino, inode->changed))
        return false;
    svc_hold(c, ino, inode->changed, after);
    return true;
}

static void svc_name_done(struct mname_req *r, int rc)
{
    struct svc_call *c = r->arg;

    c->call->on_cancel = NULL;
    c->after(c, rc);
}

/* Refreshes (parent, name), then after(c, rc). */
static void svc_refresh(struct svc_call *c, tarn_ino_t parent, const char *name, size_t len,
                        bool fresh, void (*after)(struct svc_call *c, int rc))
{
    int rc;

    c->after = after;
    c->name = (struct mname_req){
        .parent = parent, .name = name, .len = len, .fresh = fresh, .fn = svc_name_done, .arg = c};
    rc = mname_refresh(c->master, &c->name);
    if (rc != 0) {
        after(c, rc > 0 ? 0 : rc);
        return;
    }
    c->call->state = c;
    c->call->on_cancel = svc_cancel;
}

/* ---- lookup
 * -----------------------------------------------------------------------------------------------------
 */

static void lookup_answer(struct svc_call *c, int rc)
{
    struct tarn_master *m = c->master;
    const Tarn__Wire__LookupRequest *req = (const Tarn__Wire__LookupRequest *)c->call->request;
    Tarn__Wire__LookupResponse resp = TARN__WIRE__LOOKUP_RESPONSE__INIT;
    Tarn__Wire__Attr attr;
    Tarn__Core__Inode *inode = NULL;
    const char *name = (const char *)req->name.data;
    uint64_t removed = 0;
    tarn_ino_t ino;
    uint32_t type;

    if ((rc == 0 || rc == -TARN_E_NO_ENTRY || rc == -TARN_E_UFS_NOT_FOUND) &&
        mhold_name_wanted(m, (tarn_ino_t){req->parent}, name, req->name.len)) {
        svc_hold(c, mhold_name((tarn_ino_t){req->parent}, name, req->name.len), 0, lookup_answer);
        return;
    }
    if (rc == 0)
        rc = tarn_core_dentry(m->args.kv, (tarn_ino_t){req->parent}, name, req->name.len, &ino,
                              &type);
    if (rc == 0)
        rc = tarn_core_inode(m->args.kv, ino, &inode);
    if (rc == 0 && svc_held(c, ino, inode, lookup_answer)) {
        tarn__core__inode__free_unpacked(inode, NULL);
        return;
    }
    if (rc == -TARN_E_NO_ENTRY || rc == -TARN_E_UFS_NOT_FOUND)
        removed = mhold_removed(m, (tarn_ino_t){req->parent});
    if (removed) {
        svc_hold(c, mhold_name((tarn_ino_t){req->parent}, name, req->name.len), removed,
                 lookup_answer);
        return;
    }
    if ((rc == 0 || rc == -TARN_E_NO_ENTRY || rc == -TARN_E_UFS_NOT_FOUND) &&
        mtold_name_wanted(m, (tarn_ino_t){req->parent}, inode ? inode->changed : 0)) {
        tarn__core__inode__free_unpacked(inode, NULL);
        svc_hold(c, (tarn_ino_t){0}, 0, lookup_answer);
        return;
    }
    if (rc == 0) {
        mname_attr(m, ino, inode, &attr);
        resp.attr = &attr;
        attr.trust_ms = mpromise_grant(m, c->call, req->parent, ino.v, attr.trust_ms);
    } else if (rc == -TARN_E_NO_ENTRY || rc == -TARN_E_UFS_NOT_FOUND) {
        rc = -TARN_E_NO_ENTRY;
        resp.negative_trust_ms =
            mpromise_nobody(m, c->call)
                ? 0
                : mname_negative_trust_ms(m, (tarn_ino_t){req->parent}, name, req->name.len);
    }
    tarn_rpc_reply(c->call, rc, &resp.base, NULL, 0, 0);
    tarn__core__inode__free_unpacked(inode, NULL);
    svc_free(c);
}

static void svc_lookup(void *ctx, struct tarn_rpc_call *call)
{
    const Tarn__Wire__LookupRequest *req = (const Tarn__Wire__LookupRequest *)call->request;

    svc_refresh(svc_new(ctx, call), (tarn_ino_t){req->parent}, (const char *)req->name.data,
                req->name.len, req->fresh, lookup_answer);
}

/* ---- getattr
 * ----------------------------------------------------------------------------------------------------
 */

static void getattr_answer(struct svc_call *c, int rc)
{
    struct tarn_master *m = c->master;
    const Tarn__Wire__GetattrRequest *req = (const Tarn__Wire__GetattrRequest *)c->call->request;
    Tarn__Wire__GetattrResponse resp = TARN__WIRE__GETATTR_RESPONSE__INIT;
    Tarn__Wire__Attr attr;

    tarn__core__inode__free_unpacked(c->inode, NULL);
    c->inode = NULL;
    if (rc == 0)
        rc = tarn_core_inode(m->args.kv, (tarn_ino_t){req->ino}, &c->inode);
    if (rc == -TARN_E_NO_ENTRY || (rc == 0 && c->inode->detached && req->ino != TARN_INO_ROOT.v))
        rc = -TARN_E_STALE;
    if (rc == 0 && svc_held(c, (tarn_ino_t){req->ino}, c->inode, getattr_answer))
        return;
    if (rc == 0) {
        mname_attr(m, (tarn_ino_t){req->ino}, c->inode, &attr);
        resp.attr = &attr;
        attr.trust_ms = mpromise_grant(m, c->call, attr.parent, req->ino, attr.trust_ms);
    }
    svc_reply(c, rc, &resp.base);
}

static void svc_getattr(void *ctx, struct tarn_rpc_call *call)
{
    struct tarn_master *m = ctx;
    const Tarn__Wire__GetattrRequest *req = (const Tarn__Wire__GetattrRequest *)call->request;
    struct svc_call *c = svc_new(m, call);
    int rc = tarn_core_inode(m->args.kv, (tarn_ino_t){req->ino}, &c->inode);

    if (rc < 0)
        svc_reply(c, rc == -TARN_E_NO_ENTRY ? -TARN_E_STALE : rc, NULL);
    else if (req->ino == TARN_INO_ROOT.v)
        getattr_answer(c, 0);
    else
        svc_refresh(c, (tarn_ino_t){c->inode->parent}, (const char *)c->inode->name.data,
                    c->inode->name.len, req->fresh, getattr_answer);
}

/* ---- readdir
 * ------------------------------------------------------------------------------------------------------
 */

#define READDIR_BYTES_MAX (TARN_FRAME_BODY_MAX / 2)

struct readdir_page {
    struct svc_call *call;
    Tarn__Wire__Dirent *rows, **ptrs;
    Tarn__Wire__Attr *attrs;
    struct tarn_str bytes; /* names and cids, by offset until the end */
    size_t *name_off;
    size_t count, max, size;
    bool held; /* an entry is not believed: it waits for the listing */
    bool stop; /* an entry is held: the page ends before it */
    tarn_ino_t stop_ino;
    uint64_t stop_changed;
    bool lost;         /* the directory lost names of which not all know: others may have theirs */
    uint64_t trust_ms; /* the longest */
    bool nobody;       /* no session: nothing can be promised */
};

static int readdir_entry(void *arg, tarn_ino_t ino, const Tarn__Core__Inode *inode)
{
    struct readdir_page *p = arg;
    Tarn__Wire__Dirent *d;

    if (p->count == p->max || p->size + inode->name.len + 160 > READDIR_BYTES_MAX)
        return 1;
    if (p->call->dir->listed_ns == 0 && !p->call->late && !mname_shown(p->call->dir, inode)) {
        p->held = true;
        return 1;
    }
    if (mhold_wanted(p->call->master, ino, inode->changed)) {
        p->stop = true;
        p->stop_ino = ino;
        p->stop_changed = inode->changed;
        return 1;
    }
    if (p->lost && inode->changed >= p->call->master->untold) {
        p->stop = true;
        return 1;
    }
    if (mhold_name_wanted(p->call->master, p->call->dir->ino, (const char *)inode->name.data,
                          inode->name.len)) {
        p->stop = true;
        p->stop_ino =
            mhold_name(p->call->dir->ino, (const char *)inode->name.data, inode->name.len);
        return 1;
    }
    d = &p->rows[p->count];
    tarn__wire__dirent__init(d);
    p->ptrs[p->count] = d;
    mname_attr(p->call->master, ino, inode, &p->attrs[p->count]);
    if (p->nobody)
        p->attrs[p->count].trust_ms = 0;
    p->trust_ms = TARN_MAX(p->trust_ms, p->attrs[p->count].trust_ms);
    d->attr = &p->attrs[p->count];
    d->cookie = ino.v;
    d->name.len = inode->name.len;
    p->name_off[p->count] = p->bytes.len;
    tarn_str_add(&p->bytes, inode->name.data, inode->name.len);
    if (inode->cid.len)
        tarn_str_add(&p->bytes, inode->cid.data, inode->cid.len);
    p->size += inode->name.len + 160;
    p->count++;
    return 0;
}

static void readdir_page_fini(struct readdir_page *p)
{
    free(p->rows);
    free(p->ptrs);
    free(p->attrs);
    free(p->name_off);
    tarn_str_fini(&p->bytes);
}

static bool readdir_answer(struct svc_call *c);
static void readdir_wait(struct svc_call *c, bool until_end, bool now);

static void readdir_again(struct svc_call *c, int rc)
{
    (void)rc; /* 0: what held it is over */
    if (!readdir_answer(c))
        readdir_wait(c, false, false);
}

/* Answers with the entries behind the cookie; false when there is none yet and the listing goes on.
 */
static bool readdir_answer(struct svc_call *c)
{
    struct tarn_master *m = c->master;
    const Tarn__Wire__ReaddirRequest *req = (const Tarn__Wire__ReaddirRequest *)c->call->request;
    Tarn__Wire__ReaddirResponse resp = TARN__WIRE__READDIR_RESPONSE__INIT;
    struct readdir_page p = {
        .call = c, .max = TARN_MIN(req->max_entries ? req->max_entries : 1u, TARN_READDIR_ENTRIES)};
    /* Read before the walk: what a listing commits after it is behind the page, never lost at its
     * end. */
    bool complete = c->dir->listed_ns != 0;
    bool wait;
    int rc;

    p.nobody = mpromise_nobody(m, c->call);
    p.lost = mtold_name_wanted(m, c->dir->ino, 0);
    p.rows = tarn_xcalloc(p.max, sizeof(*p.rows));
    p.ptrs = tarn_xcalloc(p.max, sizeof(Tarn__Wire__Dirent *));
    p.attrs = tarn_xcalloc(p.max, sizeof(*p.attrs));
    p.name_off = tarn_xcalloc(p.max, sizeof(*p.name_off));
    rc = tarn_core_readdir(m->args.kv, c->dir->ino, req->cookie, readdir_entry, &p);
    if (p.stop && p.count == 0) {
        tarn_timer_stop(&c->timer);
        svc_hold(c, p.stop_ino, p.stop_changed, readdir_again);
        readdir_page_fini(&p);
        return true; /* it answers when that is over */
    }
    wait = (rc == 0 || p.held) && p.count == 0 && !complete;
    c->held = p.held;
    if (!wait) {
        for (size_t i = 0; i < p.count; i++) {
            p.rows[i].name.data = (uint8_t *)p.bytes.p + p.name_off[i];
            if (p.attrs[i].cid.len)
                p.attrs[i].cid.data = p.rows[i].name.data + p.rows[i].name.len;
        }
        resp.n_entries = p.count;
        resp.entries = p.ptrs;
        resp.eof = rc == 0 && complete;
        resp.parent = c->inode->parent ? c->inode->parent : req->ino;
        (void)mpromise_grant(m, c->call, c->dir->ino.v, 0, p.trust_ms);
        tarn_rpc_reply(c->call, rc < 0 ? rc : 0, &resp.base, NULL, 0, 0);
    }
    readdir_page_fini(&p);
    if (!wait)
        svc_free(c);
    return !wait;
}

static void readdir_progress(struct mlist_wait *w, int rc)
{
    struct svc_call *c = w->arg;

    c->waiting_list = false;
    c->call->on_cancel = NULL;
    if (rc < 0 && c->master->stopping) {
        svc_reply(c, -TARN_E_SHUTDOWN, NULL);
        return;
    }
    if (rc < 0 && (c->dir->listed_ns == 0 || !tarn_ufs_no_answer(rc))) {
        /* A listing that broke off: what is behind the cookie is still good, its end is not known.
         */
        bool told = rc == -TARN_E_NO_ENTRY || rc == -TARN_E_NO_ATTACH;

        svc_reply(c, told || tarn_err_errno(rc) == EACCES ? rc : -TARN_E_LISTING, NULL);
        return;
    }
    if (rc < 0)
        c->dir->at->stale_answers++; /* what was listed before is in force */
    if (!readdir_answer(c))
        readdir_wait(c, false, false);
}

static void readdir_late(struct tarn_timer *t, void *arg)
{
    struct svc_call *c = arg;

    (void)t; /* c's */
    mlist_forget(&c->list);
    c->waiting_list = false;
    c->call->on_cancel = NULL;
    c->late = true;
    c->dir->at->stale_answers++;
    if (!readdir_answer(c)) /* not listed any more, since the listing met a change */
        readdir_wait(c, false, false);
}

/* Why there is no listing. */
static int readdir_refusal(const struct svc_call *c)
{
    if (c->master->stopping)
        return -TARN_E_SHUTDOWN;
    if (c->dir->at->gone)
        return -TARN_E_NO_ATTACH;
    return c->dir->at->ufs ? -TARN_E_BUSY : -TARN_E_UFS_DOWN;
}

/* `now`: the directory is being opened. */
static void readdir_wait(struct svc_call *c, bool until_end, bool now)
{
    if (c->dir->listing || c->master->listing_count < MASTER_LISTINGS_MAX)
        mlist_start(c->dir, TARN_UFS_FOREGROUND, now);
    if (!c->dir->listing) {
        svc_reply(c, readdir_refusal(c), NULL);
        return;
    }
    c->list = (struct mlist_wait){.until_end = until_end, .fn = readdir_progress, .arg = c};
    mlist_wait(c->dir, &c->list);
    c->waiting_list = true;
    c->call->state = c;
    c->call->on_cancel = svc_cancel;
    if ((c->dir->listed_ns || c->held) && !c->late && !tarn_timer_running(&c->timer))
        tarn_timer_start(c->master->args.loop, &c->timer, c->master->refresh_wait_ns, readdir_late,
                         c);
    else if (!c->dir->listed_ns && !c->held)
        tarn_timer_stop(&c->timer); /* the first listing takes its time */
}

static void svc_readdir(void *ctx, struct tarn_rpc_call *call)
{
    struct tarn_master *m = ctx;
    const Tarn__Wire__ReaddirRequest *req = (const Tarn__Wire__ReaddirRequest *)call->request;
    struct svc_call *c = svc_new(m, call);
    int rc = m->stopping ? -TARN_E_SHUTDOWN : mdir_get(m, (tarn_ino_t){req->ino}, &c->dir);

    if (rc == 0)
        rc = tarn_core_inode(m->args.kv, (tarn_ino_t){req->ino}, &c->inode);
    if (rc < 0) {
        svc_reply(c, rc, NULL);
        return;
    }
    if (c->dir->listed_ns == 0) {
        if (c->dir->listing || m->listing_count < MASTER_LISTINGS_MAX)
            mlist_start(c->dir, TARN_UFS_FOREGROUND, req->cookie == 0);
        if (!readdir_answer(c))
            readdir_wait(c, false, false);
        return;
    }
    if (req->cookie == 0 && !mdir_listed_trusted(c->dir)) {
        if (!mattach_in_force(c->dir->at)) {
            readdir_wait(c, true, true);
            return;
        }
        c->dir->at->stale_answers++;
    }
    TARN_ASSERT(readdir_answer(c)); /* it was listed: always an answer */
}

/* ---- readlink, locate, report_changed
 * ------------------------------------------------------------------------------ */

static void readlink_answer(struct svc_call *c, int held_rc)
{
    struct tarn_master *m = c->master;
    const Tarn__Wire__ReadlinkRequest *req = (const Tarn__Wire__ReadlinkRequest *)c->call->request;
    Tarn__Wire__ReadlinkResponse resp = TARN__WIRE__READLINK_RESPONSE__INIT;
    int rc;

    (void)held_rc; /* what held it is over */
    tarn__core__inode__free_unpacked(c->inode, NULL);
    c->inode = NULL;
    rc = m->stopping ? -TARN_E_SHUTDOWN
                     : tarn_core_inode(m->args.kv, (tarn_ino_t){req->ino}, &c->inode);
    if (rc == 0 && c->inode->type != TARN_UFS_SYMLINK)
        rc = -TARN_E_INVALID;
    if (rc == 0 && svc_held(c, (tarn_ino_t){req->ino}, c->inode, readlink_answer))
        return;
    if (rc == 0)
        resp.target = c->inode->target;
    svc_reply(c, rc, &resp.base);
}

static void svc_readlink(void *ctx, struct tarn_rpc_call *call)
{
    readlink_answer(svc_new(ctx, call), 0);
}

static void locate_answer(struct svc_call *c, int held_rc)
{
    struct tarn_master *m = c->master;
    const Tarn__Wire__LocateRequest *req = (const Tarn__Wire__LocateRequest *)c->call->request;
    Tarn__Wire__LocateResponse resp = TARN__WIRE__LOCATE_RESPONSE__INIT;
    Tarn__Wire__Attr attr;
    struct mlocator l;
    int rc = m->stopping ? -TARN_E_SHUTDOWN : mlocator_fill(m, (tarn_ino_t){req->ino}, &l);

    (void)held_rc; /* what held it is over */
    if (rc < 0) {
        svc_reply(c, rc == -TARN_E_NO_ENTRY ? -TARN_E_STALE : rc, NULL);
        return;
    }
    if (svc_held(c, (tarn_ino_t){req->ino}, l.inode, locate_answer)) {
        mlocator_fini(&l);
        return;
    }
    if (req->version && req->version != l.loc.version) {
        rc = -TARN_E_STALE;
    } else {
        mname_attr(m, (tarn_ino_t){req->ino}, l.inode, &attr);
        resp.attr = &attr;
        resp.locator = &l.loc;
    }
    tarn_rpc_reply(c->call, rc, &resp.base, NULL, 0, 0);
    mlocator_fini(&l);
    svc_free(c);
}

static void svc_locate(void *ctx, struct tarn_rpc_call *call)
{
    locate_answer(svc_new(ctx, call), 0);
}

/* A worker saw another object than the core knows: ask the store, unless that is known by now. */
static void changed_answer(struct svc_call *c, int rc)
{
    Tarn__Wire__Empty resp = TARN__WIRE__EMPTY__INIT;

    svc_reply(c, rc, &resp.base);
}

static void svc_report_changed(void *ctx, struct tarn_rpc_call *call)
{
    struct tarn_master *m = ctx;
    const Tarn__Wire__ChangedRequest *req = (const Tarn__Wire__ChangedRequest *)call->request;
    Tarn__Wire__Empty resp = TARN__WIRE__EMPTY__INIT;
    struct svc_call *c = svc_new(m, call);
    int rc = tarn_core_inode(m->args.kv, (tarn_ino_t){req->ino}, &c->inode);

    if (rc < 0 || c->inode->version != req->version || req->ino == TARN_INO_ROOT.v) {
        svc_reply(c, rc == -TARN_E_NO_ENTRY ? 0 : rc, &resp.base);
        return;
    }
    mname_distrust(m, (tarn_ino_t){c->inode->parent}, (const char *)c->inode->name.data,
                   c->inode->name.len);
    svc_refresh(c, (tarn_ino_t){c->inode->parent}, (const char *)c->inode->name.data,
                c->inode->name.len, true, changed_answer);
}

void msvc_meta_handlers(struct tarn_master *m, struct tarn_rpc_server *s)
{
    tarn_rpc_server_handle(s, TARN_RPC_lookup, svc_lookup, m);
    tarn_rpc_server_handle(s, TARN_RPC_getattr, svc_getattr, m);
    tarn_rpc_server_handle(s, TARN_RPC_readdir, svc_readdir, m);
    tarn_rpc_server_handle(s, TARN_RPC_readlink, svc_readlink, m);
    tarn_rpc_server_handle(s, TARN_RPC_locate, svc_locate, m);
    tarn_rpc_server_handle(s, TARN_RPC_report_changed, svc_report_changed, m);
}
