/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Listings: one run per directory at a time. Pages are asked one after the other; while a page is
 * being committed the next is under way, with at most PAGES_AHEAD uncommitted. A page becomes
 * journal entries of at most TARN_JOURNAL_ENTRY_MAX bytes, each with the key range that it covers,
 * so that a run that was interrupted goes on behind the last committed key.
 *
 *     mlist_start -> ListBegin committed -> page -> ListPage… -> page -> … -> ListPage(complete)
 *         -> end
 *
 * Readers see committed entries as they come. A run that fails leaves what it committed and says
 * why; the next start resumes it.
 */
#include "master/master_priv.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"

#define LISTING_MAGIC 0x4d4c5354u /* "MLST" */
#define PAGES_AHEAD   8u          /* entries proposed and not committed */
#define ENTRY_TARGET  (TARN_JOURNAL_ENTRY_MAX - 8192u)

struct mlisting {
    uint32_t magic;
    struct tarn_list node; /* in master->listings */
    struct tarn_master *master;
    struct mdir *dir; /* referenced */
    struct tarn_ufs_list list;
    struct mproposal begin;
    struct tarn_list waiters; /* struct mlist_wait */
    uint64_t asked_index;
    char *from_key;    /* last key proposed */
    unsigned proposed; /* entries under way */
    bool asking;       /* a page is asked for */
    bool more;         /* an entry reached its bound: go on behind what was committed */
    bool complete;     /* the last page was proposed */
    bool cancelled;
    int rc;
    struct tarn_errbuf err;
};

struct list_entry {
    struct mproposal proposal;
    struct mlisting *listing;
};

static void listing_ask(struct mlisting *l);
static void listing_begin(struct mlisting *l, bool resume);

static void listing_wake(struct mlisting *l, bool done, int rc)
{
    struct tarn_list ready;

    tarn_list_init(&ready);
    TARN_LIST_FOREACH_SAFE(n, &l->waiters)
    {
        struct mlist_wait *w = TARN_LIST_ENTRY(n, struct mlist_wait, node);

        if (done || !w->until_end) {
            tarn_list_del(n);
            tarn_list_push(&ready, n);
        }
    }
    for (struct tarn_list *n = tarn_list_pop(&ready); n; n = tarn_list_pop(&ready)) {
        struct mlist_wait *w = TARN_LIST_ENTRY(n, struct mlist_wait, node);

        w->done = done;
        w->err = l->err;
        w->fn(w, rc);
    }
}

static void listing_end(struct mlisting *l)
{
    struct tarn_master *m = l->master;
    struct mdir *d = l->dir;

    TARN_ASSERT(!l->asking && l->proposed == 0);
    if (l->rc < 0 && l->rc != -TARN_E_CANCELLED && !d->at->gone) {
        TARN_AUTO_FREE char *dir = mdir_text(d);

        tarn_warn_limited("listing", "dir=%s failed: %s", dir, tarn_err_text(&l->err, l->rc));
    }
    tarn_list_del(&l->node);
    m->listing_count--;
    d->listing = NULL;
    d->asks = 0;
    mdir_refresh(d);
    listing_wake(l, true, l->rc);
    tarn_ufs_list_fini(&l->list);
    free(l->from_key);
    l->magic = 0;
    free(l);
    mdir_put(&d);
    master_idle(m);
}

/* Moves on where possible: asks, resumes, or ends. */
static void listing_step(struct mlisting *l)
{
    if (l->asking)
        return;
    if (l->more && l->rc == 0 && !l->cancelled && !l->master->stopping) {
        if (l->proposed == 0)
            listing_begin(l, true); /* behind what the bounded entry reached */
        return;
    }
    if (l->rc < 0 || l->complete || l->cancelled || l->master->stopping) {
        if (l->proposed > 0)
            return;
        if (!l->complete && l->dir->at->gone)
            l->rc = -TARN_E_NO_ATTACH;
        else if (l->rc == 0 && !l->complete)
            l->rc = -TARN_E_CANCELLED;
        listing_end(l);
        return;
    }
    if (l->proposed < PAGES_AHEAD)
        listing_ask(l);
}

static void page_committed(struct mproposal *p)
{
    struct list_entry *le = p->arg;
    struct mlisting *l = le->listing;
    int rc = mproposal_rc(p);

    l->more |= p->p.rc == 0 && p->p.result.more;
    free(le);
    l->proposed--;
    if (rc == -TARN_E_ENTRY_STALE && l->more)
        rc = 0; /* proposed behind an entry that went only part of its way: asked again */
    if (rc < 0 && l->rc == 0) {
        TARN_AUTO_FREE char *dir = mdir_text(l->dir);

        l->rc = rc;
        (void)tarn_err_set(&l->err, rc, "listing %s: %s", dir, tarn_strerror(rc));
    }
    if (rc == 0) {
        mdir_refresh(l->dir);
        if (!l->complete || l->more || l->proposed > 0) /* the end tells, too */
            listing_wake(l, false, 0);
    }
    listing_step(l);
}

/* ---- a page into entries
 * -------------------------------------------------------------------------------------------- */

struct page_part {
    Tarn__Core__ListPage page;
    Tarn__Core__Object *objects[TARN_LIST_PAGE_ENTRIES];
    Tarn__Core__Object rows[TARN_LIST_PAGE_ENTRIES];
    Tarn__Core__Version versions[TARN_LIST_PAGE_ENTRIES];
    tarn_cid_t cids[TARN_LIST_PAGE_ENTRIES];
    size_t bytes; /* estimate of the encoded size */
};

static void part_add(struct mlisting *l, struct page_part *part, struct tarn_ufs_entry *e,
                     struct tarn_str *key)
{
    size_t i = part->page.n_objects++;
    Tarn__Core__Object *o = &part->rows[i];
    Tarn__Core__Version *v = &part->versions[i];

    tarn__core__object__init(o);
    tarn__core__version__init(v);
    part->objects[i] = o;
    o->name = (ProtobufCBinaryData){e->name_len, (uint8_t *)(uintptr_t)e->name};
    o->type = (uint32_t)e->attr.type;
    v->size = e->attr.version.size_bytes;
    v->mtime_ns = e->attr.version.mtime_ns;
    v->ctime_ns = e->attr.version.ctime_ns;
    v->file_id = e->attr.version.file_id;
    v->etag = e->attr.version.etag;
    o->ufs = v;
    o->has_owner = e->attr.has_owner;
    o->mode = e->attr.mode;
    o->uid = e->attr.uid;
    o->gid = e->attr.gid;
    if (e->attr.type == TARN_UFS_SYMLINK && e->target)
        o->target = (ProtobufCBinaryData){strlen(e->target), (uint8_t *)(uintptr_t)e->target};
    if (e->attr.type == TARN_UFS_FILE && v->size > 0) {
        tarn_str_reset(key);
        tarn_str_adds(key, l->dir->key);
        tarn_str_add(key, e->name, e->name_len);
        part->cids[i] = tarn_ufs_cid_of(l->dir->at->ufs, l->dir->at->isolation, tarn_str_z(key),
                                        &e->attr.version);
        o->cid = (ProtobufCBinaryData){sizeof(tarn_cid_t), part->cids[i].b};
    }
    part->bytes += e->name_len + strlen(v->etag) + o->target.len + 96;
}

static int part_propose(struct mlisting *l, struct page_part *part, const char *to_key,
                        bool complete)
{
    Tarn__Core__Entry e = TARN__CORE__ENTRY__INIT;
    struct list_entry *le;
    int rc;

    part->page.dir = l->dir->ino.v;
    part->page.asked_index = l->asked_index;
    part->page.from_key = (ProtobufCBinaryData){strlen(l->from_key), (uint8_t *)l->from_key};
    if (!complete)
        part->page.to_key = (ProtobufCBinaryData){strlen(to_key), (uint8_t *)(uintptr_t)to_key};
    part->page.complete = complete;
    part->page.objects = part->objects;
    e.list_page = &part->page;
    le = tarn_xnew(struct list_entry);
    le->listing = l;
    rc = mpropose(l->master, &le->proposal, &e, page_committed, le);
    if (rc < 0) {
        free(le);
        return rc;
    }
    l->proposed++;
    l->master->counts.listed_entries += part->page.n_objects;
    if (!complete) {
        char *next = tarn_xstrdup(to_key);

        free(l->from_key);
        l->from_key = next;
    }
    tarn__core__list_page__init(&part->page);
    part->bytes = 0;
    return 0;
}

static char *entry_key(const struct tarn_ufs_entry *e)
{
    return tarn_xasprintf("%.*s%s", (int)e->name_len, e->name,
                          e->attr.type == TARN_UFS_DIR ? "/" : "");
}

static int page_propose(struct mlisting *l, struct tarn_ufs_list *list)
{
    struct page_part *part = tarn_xnew(struct page_part);
    struct tarn_str key = {0};
    int rc = 0;

    tarn__core__list_page__init(&part->page);
    part->page.skipped = list->skipped;
    part->page.skipped_names =
        (ProtobufCBinaryData){list->skipped_names.len, (uint8_t *)list->skipped_names.p};
    part->bytes = list->skipped_names.len;
    for (size_t i = 0; i < list->count && rc == 0; i++) {
        struct tarn_ufs_entry *e = &list->entries[i];

        if (part->page.n_objects > 0 &&
            part->bytes + e->name_len + (e->target ? strlen(e->target) : 0) + 256 > ENTRY_TARGET) {
            TARN_AUTO_FREE char *upto = entry_key(&list->entries[i - 1]);

            rc = part_propose(l, part, upto, false);
        }
        if (rc == 0)
            part_add(l, part, e, &key);
    }
    if (rc == 0)
        rc = part_propose(l, part, list->to_key, list->complete);
    tarn_str_fini(&key);
    free(part);
    return rc;
}

/* The store has no such directory, but it leads to an attachment: nothing else is in it. */
static bool listing_held(const struct mlisting *l)
{
    Tarn__Core__Inode *inode = NULL;
    bool held = tarn_core_inode(l->master->args.kv, l->dir->ino, &inode) == 0 && inode->held &&
                l->dir->ino.v != l->dir->at->root.v;

    tarn__core__inode__free_unpacked(inode, NULL);
    return held;
}

static void listing_page(struct tarn_ufs_list *list, int rc)
{
    struct mlisting *l;

    TARN_CAST(l, list->arg, LISTING_MAGIC);
    l->asking = false;
    mattach_note(l->dir->at, rc, &list->req.err);
    if (rc == -TARN_E_UFS_NOT_FOUND)
        rc = -TARN_E_NO_ENTRY;
    if (rc == -TARN_E_NO_ENTRY && listing_held(l)) {
        list->count = 0;
        list->skipped = 0;
        list->complete = true;
        tarn_str_reset(&list->skipped_names);
        rc = 0;
    } else if (rc == -TARN_E_NO_ENTRY) {
        mdir_vanished(l->dir);
    }
    if (rc < 0)
        l->err = list->req.err;
    else if (!l->cancelled && !l->master->stopping)
        rc = page_propose(l, list);
    if (rc < 0 && l->rc == 0)
        l->rc = rc;
    if (rc == 0 && list->complete)
        l->complete = !l->cancelled && !l->master->stopping;
    listing_step(l);
}

static void listing_ask(struct mlisting *l)
{
    l->asking = true;
    l->asked_index = master_applied(l->master);
    l->master->counts.listings++;
    l->list.max_entries = TARN_LIST_PAGE_ENTRIES;
    l->list.cb = listing_page;
    l->list.arg = l;
    tarn_ufs_list(l->dir->at->ufs, &l->list, l->dir->key);
}

/* ---- begin
 * -------------------------------------------------------------------------------------------------------------
 */

static void listing_begun(struct mproposal *p)
{
    struct mlisting *l;
    Tarn__Core__DirState *state = NULL;
    int rc = mproposal_rc(p);

    TARN_CAST(l, p->arg, LISTING_MAGIC);
    l->asking = false;
    if (rc == 0)
        rc = tarn_core_dir_state(l->master->args.kv, l->dir->ino, &state);
    if (rc == 0) {
        free(l->from_key);
        l->from_key = tarn_xcalloc(1, state->upto_key.len + 1);
        if (state->upto_key.len)
            memcpy(l->from_key, state->upto_key.data, state->upto_key.len);
        if (l->from_key[0])
            l->list.from_key = tarn_xstrdup(l->from_key);
        tarn__core__dir_state__free_unpacked(state, NULL);
        mdir_refresh(l->dir);
    } else {
        l->rc = rc;
    }
    listing_step(l);
}

static void listing_begin(struct mlisting *l, bool resume)
{
    Tarn__Core__Entry e = TARN__CORE__ENTRY__INIT;
    Tarn__Core__ListBegin begin = TARN__CORE__LIST_BEGIN__INIT;
    enum tarn_ufs_class cls = l->list.req.cls;
    int rc;

    l->more = false;
    l->complete = false;
    if (!resume) { /* what the last one covered says nothing now */
        l->dir->run_before = false;
        l->dir->run_ns = 0;
    }
    tarn_ufs_list_fini(&l->list);
    l->list = (struct tarn_ufs_list){.req = {.cls = cls}};
    begin.dir = l->dir->ino.v;
    begin.asked_index = master_applied(l->master);
    begin.resume = resume;
    e.list_begin = &begin;
    l->asking = true;
    rc = mpropose(l->master, &l->begin, &e, listing_begun, l);
    TARN_ASSERT(rc == 0); /* a ListBegin is small */
}

void mlist_start(struct mdir *d, enum tarn_ufs_class cls, bool now)
{
    struct tarn_master *m = d->master;
    struct mlisting *l;

    if (d->listing && cls == TARN_UFS_FOREGROUND)
        d->listing->list.req.cls = cls; /* from its next page on */
    if (d->listing || m->stopping || d->at->gone || !d->at->ufs)
        return;
    master_busy(m);
    l = tarn_xnew(struct mlisting);
    l->magic = LISTING_MAGIC;
    l->master = m;
    d->refs++;
    l->dir = d;
    d->listing = l;
    tarn_list_init(&l->waiters);
    tarn_list_push(&m->listings, &l->node);
    m->listing_count++;
    l->list.req.cls = cls;
    listing_begin(l, d->run_before && (!now || mdir_run_trusted(d)));
}

void mlist_wait(struct mdir *d, struct mlist_wait *w)
{
    TARN_ASSERT(d->listing != NULL);
    w->done = false;
    w->err.text[0] = 0;
    tarn_list_push(&d->listing->waiters, &w->node);
}

void mlist_forget(struct mlist_wait *w)
{
    tarn_list_del(&w->node);
}

static void listing_cancel(struct mlisting *l)
{
    l->cancelled = true;
    if (l->asking && l->list.req.ufs)
        tarn_ufs_cancel(&l->list.req);
}

void mlist_stop_all(struct tarn_master *m)
{
    TARN_LIST_FOREACH(n, &m->listings)
    listing_cancel(TARN_LIST_ENTRY(n, struct mlisting, node));
}

void mlist_stop_of(struct mattach *a)
{
    TARN_LIST_FOREACH(n, &a->master->listings) /* they end later, from the loop */
    {
        struct mlisting *l = TARN_LIST_ENTRY(n, struct mlisting, node);

        if (l->dir->at == a)
            listing_cancel(l);
    }
}
