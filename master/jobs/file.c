/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files of a fill (fill.c cuts them into pieces): their beginning, their end, and when one is tried
 * again. A worker or tier that is busy is waited for; of an object that is another one, or gone, the
 * store is asked for the name, once.
 *
 *     --force: todo -> asked: its name -> todo -> dropped at all workers, several at a time -> todo
 *
 * What is cached stays where the store does not answer, or has the file no more.
 */
#include "master/jobs/jobs_priv.h"

#include <stdlib.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"

#define FILE_WAITS   4u /* times that a busy worker, or store, is waited for, per file */
#define FILE_WAIT_NS (500 * TARN_NS_PER_MS)
#define FORCE_FILES  64u /* of one request to drop bytes */
#define FORCES_MAX   4u  /* of these at a time */
#define NAMES_MAX    64u /* files whose names are asked before their bytes are dropped */

/* Files whose bytes are dropped at all workers before they are filled. */
struct force {
    struct tarn_list node; /* fill->forces */
    struct mrun *run;
    struct mspread spread;
    struct mspread_item items[FORCE_FILES];
    struct ment *files[FORCE_FILES];
};

static void file_reset(struct ment *e)
{
    e->next = e->off;
    e->version = 0;
    e->fill_rc = 0;
    free(e->fill_text);
    e->fill_text = NULL;
    e->run->job->live.bytes_done -= e->shown;
    e->shown = 0;
}

void mfill_add(struct ment *e)
{
    TARN_ASSERT(e->len > 0);
    file_reset(e);
    tarn_list_push(&e->run->fill.todo, &e->work);
    mfill_poke(e->run);
}

/* ---- the end of a file
 * --------------------------------------------------------------------------------------- */

static void file_again(struct ment *e)
{
    file_reset(e);
    tarn_list_push_front(&e->run->fill.todo, &e->work);
    mfill_poke(e->run);
}

/* Fills the version that its name has now. */
static void file_changed(struct ment *e, tarn_ino_t ino, const Tarn__Core__Inode *inode)
{
    uint64_t size = inode->ufs ? inode->ufs->size : 0;

    e->ino = ino;
    if (inode->cid.len == sizeof(e->cid.b))
        memcpy(e->cid.b, inode->cid.data, sizeof(e->cid.b));
    if (e->ranged && e->off >= size) {
        e->run->ops->filled(e, -TARN_E_UFS_CHANGED, "the file ends before the range now");
        return;
    }
    e->len = e->ranged ? TARN_MIN(e->len, size - e->off) : size;
    if (e->len == 0)
        e->run->ops->filled(e, 0, NULL);
    else
        file_again(e);
}

/* What the store says about its name now. */
static void file_renamed(struct ment *e)
{
    struct tarn_kv *kv = e->run->master->args.kv;
    Tarn__Core__Inode *inode = NULL;
    tarn_ino_t ino;
    uint32_t type;
    int rc = tarn_core_dentry(kv, e->name.parent, e->name.name, e->name.len, &ino, &type);

    if (rc == 0)
        rc = tarn_core_inode(kv, ino, &inode);
    if (rc == 0 && inode->type != TARN_UFS_FILE)
        rc = -TARN_E_UFS_CHANGED;
    if (rc < 0) {
        e->run->ops->filled(e, rc,
                            rc == -TARN_E_NO_ENTRY ? "removed from the store meanwhile" : NULL);
    } else {
        file_changed(e, ino, inode);
    }
    tarn__core__inode__free_unpacked(inode, NULL);
}

/* The worker, or the store, could not just now. */
static bool file_may_wait(struct ment *e, int rc)
{
    struct mrun *r = e->run;
    unsigned max = FILE_WAITS;

    switch (-rc) {
    case TARN_E_TIER_FULL: /* what is in use may be evicted a moment later */
        max = 1;
        break;
    case TARN_E_CANCELLED:
    case TARN_E_SHUTDOWN:
    case TARN_E_BUSY:
    case TARN_E_CONN_LOST:
    case TARN_E_CAP_EXPIRED:
    case TARN_E_NO_ATTACH: /* it has not heard of the attachment yet */
        break;
    default:
        return false;
    }
    if (e->waits >= max)
        return false;
    r->fill.not_before_ns = tarn_loop_now_ns(r->master->args.loop) + (FILE_WAIT_NS << e->waits++);
    return true;
}

static void file_named(struct mname_req *name, int rc)
{
    struct ment *e = name->arg;
    struct mrun *r = e->run;

    tarn_list_del(&e->work);
    r->fill.naming_count--;
    if (rc < 0)
        r->ops->filled(e, rc, tarn_err_text(&name->err, rc));
    else if (!name->stale)
        file_renamed(e);
    else if (e->fill_rc < 0)
        r->ops->filled(e, e->fill_rc, e->fill_text);
    else
        r->ops->filled(e, -TARN_E_UFS_DOWN,
                       "the store does not answer: what is cached of it stays");
    mfill_poke(r);
    mrun_poke(r);
}

/* Asks the store for its name: the object is another one, or gone, or is to be fetched anew. */
static void file_ask(struct ment *e)
{
    struct tarn_master *m = e->run->master;
    int rc;

    tarn__core__inode__free_unpacked(e->inode, NULL);
    e->inode = NULL;
    rc = tarn_core_inode(m->args.kv, e->ino, &e->inode);
    if (rc < 0) {
        e->run->ops->filled(e, rc,
                            rc == -TARN_E_NO_ENTRY ? "removed from the store meanwhile" : NULL);
        return;
    }
    e->name = (struct mname_req){.parent = {e->inode->parent},
                                 .name = (const char *)e->inode->name.data,
                                 .len = e->inode->name.len,
                                 .fresh = true,
                                 .patient = true,
                                 .fn = file_named,
                                 .arg = e};
    mname_distrust(m, e->name.parent, e->name.name, e->name.len);
    tarn_list_push(&e->run->fill.naming, &e->work);
    e->run->fill.naming_count++;
    rc = mname_refresh(m, &e->name);
    if (rc != 0)
        file_named(&e->name, rc < 0 ? rc : 0);
}

void mfile_done(struct ment *e)
{
    int rc = e->fill_rc;

    if (!tarn_list_empty(&e->work))
        tarn_list_del(&e->work);
    if (e->run->aborting)
        return; /* it is done after the next start, or never */
    if (rc < 0 && file_may_wait(e, rc))
        file_again(e);
    else if ((rc == -TARN_E_UFS_CHANGED || rc == -TARN_E_UFS_NOT_FOUND) && e->tries++ == 0)
        file_ask(e);
    else
        e->run->ops->filled(e, rc, e->fill_text);
}

/* ---- --force
 * -------------------------------------------------------------------------------------------------
 */

static void force_ended(struct mspread *s, int rc)
{
    struct force *force = s->arg;
    struct mrun *r = force->run;

    tarn_list_del(&force->node);
    r->fill.forces_count--;
    for (size_t i = 0; i < s->count && !r->aborting; i++) {
        struct ment *e = force->files[i];

        e->freed = true;
        if (rc < 0)
            r->ops->filled(e, rc, NULL);
        else /* copies of a worker that was not reached are not read while it is gone */
            tarn_list_push(&r->fill.todo, &e->work);
    }
    free(force);
    mfill_poke(r);
    mrun_poke(r);
}

bool mfile_wants_force(const struct ment *e)
{
    return e->run->job->spec->force && e->run->phase == MRUN_DATA && !e->freed;
}

static void force_start(struct mrun *r)
{
    struct mfill *f = &r->fill;
    struct force *force = tarn_xnew(struct force);
    size_t n = 0;

    while (n < FORCE_FILES && !tarn_list_empty(&f->todo)) {
        struct ment *e = TARN_LIST_ENTRY(f->todo.next, struct ment, work);

        if (!mfile_wants_force(e) || !e->asked)
            break;
        tarn_list_del(&e->work);
        force->files[n] = e;
        force->items[n++].cid = e->cid;
    }
    force->run = r;
    tarn_list_push(&f->forces, &force->node);
    f->forces_count++;
    force->spread = (struct mspread){.master = r->master,
                                     .items = force->items,
                                     .count = n,
                                     .free = true,
                                     .patient = true,
                                     .fn = force_ended,
                                     .arg = force};
    mspread_start(&force->spread);
}

bool mfile_force_next(struct mrun *r)
{
    struct ment *e = TARN_LIST_ENTRY(r->fill.todo.next, struct ment, work);

    if (e->asked && (r->fill.forces_count >= FORCES_MAX || !mworkers_any(r->master)))
        return false;
    if (!e->asked && r->fill.naming_count >= NAMES_MAX)
        return false;
    if (e->asked) {
        force_start(r);
    } else {
        tarn_list_del(&e->work);
        e->asked = true;
        file_ask(e);
    }
    return true;
}

void mfile_cancel(struct mrun *r)
{
    struct mfill *f = &r->fill;

    while (!tarn_list_empty(&f->naming)) {
        struct ment *e = TARN_LIST_ENTRY(f->naming.next, struct ment, work);

        mname_cancel(&e->name);
        tarn_list_del(&e->work);
    }
    f->naming_count = 0;
    TARN_LIST_FOREACH_SAFE(n, &f->forces)
    {
        mspread_cancel(&TARN_LIST_ENTRY(n, struct force, node)->spread);
    }
}
