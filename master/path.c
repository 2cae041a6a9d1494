/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Path walks: one name after the other, each refreshed as its attachment's policy wants. And
 * locators: where the bytes of a file's current version come from.
 */
#include "master/master_priv.h"

#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/name.h"

static void path_step(struct mpath_req *r);

static void path_done(struct tarn_task *t)
{
    struct mpath_req *r = TARN_CONTAINER(t, struct mpath_req, task);
    struct tarn_master *m = r->master;

    r->fn(r, r->rc);
    master_idle(m);
}

static void path_end(struct mpath_req *r, int rc)
{
    r->rc = rc;
    tarn_loop_post(r->master->args.loop, &r->task, path_done);
}

/* The committed state is good for this name: goes down. */
static int path_down(struct mpath_req *r)
{
    uint32_t type;

    return tarn_core_dentry(r->master->args.kv, r->ino, r->name.name, r->name.len, &r->ino, &type);
}

static void path_refreshed(struct mname_req *name, int rc)
{
    struct mpath_req *r = name->arg;

    r->stale |= name->stale;
    if (rc == 0)
        rc = path_down(r);
    else
        r->err = name->err;
    if (rc < 0)
        path_end(r, rc);
    else
        path_step(r);
}

static void path_step(struct mpath_req *r)
{
    const char *name;
    size_t len;
    int rc;

    while ((name = tarn_path_next(&r->at, &len)) != NULL) {
        r->name = (struct mname_req){.parent = r->ino,
                                     .name = name,
                                     .len = len,
                                     .fresh = true,
                                     .fn = path_refreshed,
                                     .arg = r};
        rc = mname_refresh(r->master, &r->name);
        if (rc == 0)
            return;
        r->stale |= r->name.stale;
        if (rc > 0)
            rc = path_down(r);
        if (rc < 0) {
            path_end(r, rc);
            return;
        }
    }
    path_end(r, 0);
}

void mpath_start_in(struct tarn_master *m, struct mpath_req *r, tarn_ino_t dir, const char *at)
{
    master_busy(m);
    r->master = m;
    r->at = at;
    r->ino = dir;
    r->stale = false;
    r->err.text[0] = 0;
    path_step(r);
}

void mpath_start(struct tarn_master *m, struct mpath_req *r)
{
    mpath_start_in(m, r, TARN_INO_ROOT, r->path);
}

void mpath_cancel(struct mpath_req *r)
{
    if (!r->name.ask)
        return; /* fn is on its way */
    mname_cancel(&r->name);
    path_end(r, -TARN_E_CANCELLED);
}

/* The store's key of a file: that of its directory, which is in memory as a rule, and its name. */
static int locator_key(struct tarn_master *m, const Tarn__Core__Inode *inode, struct tarn_str *ret,
                       uint32_t *ret_replicas)
{
    struct mdir *d;
    int rc = mdir_get(m, (tarn_ino_t){inode->parent}, &d);

    if (rc < 0)
        return rc;
    *ret_replicas = d->at->rec ? d->at->rec->replicas : 0;
    tarn_str_adds(ret, d->key);
    tarn_str_add(ret, inode->name.data, inode->name.len);
    mdir_put(&d);
    return 0;
}

int mlocator_fill(struct tarn_master *m, tarn_ino_t ino, struct mlocator *ret)
{
    Tarn__Core__Inode *inode;
    int rc;

    memset(ret, 0, sizeof(*ret));
    tarn__wire__locator__init(&ret->loc);
    tarn__wire__ufs_version__init(&ret->ufs);
    rc = tarn_core_inode(m->args.kv, ino, &ret->inode);
    if (rc < 0)
        return rc;
    inode = ret->inode;
    if (inode->type != TARN_UFS_FILE)
        rc = inode->type == TARN_UFS_DIR ? -TARN_E_IS_DIR : -TARN_E_INVALID;
    if (rc == 0)
        rc = locator_key(m, inode, &ret->key, &ret->loc.replicas);
    if (rc < 0) {
        mlocator_fini(ret);
        return rc;
    }
    TARN_ASSERT(inode->ufs != NULL);
    ret->ufs.size = inode->ufs->size;
    ret->ufs.mtime_ns = inode->ufs->mtime_ns;
    ret->ufs.ctime_ns = inode->ufs->ctime_ns;
    ret->ufs.file_id = inode->ufs->file_id;
    ret->ufs.etag = inode->ufs->etag;
    ret->loc.ino = ino.v;
    ret->loc.version = inode->version;
    ret->loc.cid = inode->cid;
    ret->loc.attachment = inode->attachment;
    ret->loc.key = (ProtobufCBinaryData){ret->key.len, (uint8_t *)ret->key.p};
    ret->loc.ufs = &ret->ufs;
    return 0;
}

void mlocator_fini(struct mlocator *l)
{
    tarn__core__inode__free_unpacked(l->inode, NULL);
    l->inode = NULL;
    tarn_str_fini(&l->key);
}
