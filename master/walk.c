/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tree walks for reports and jobs. The stack holds (directory, last id visited); since ids only
 * grow and are never reused, it stays good while the tree changes, and as bytes it is the cursor of
 * a job that survives a restart.
 *
 *     step: the directory on top is listed (if asked for) -> its next entries are visited
 *           -> a directory among them is pushed
 *           -> at the end popped
 */
#include "master/master_priv.h"

#include <string.h>

#include "lib/base/assert.h"

#define WALK_SLICE 1024u /* entries visited in one turn of the loop */
#define WALK_AHEAD 16u   /* listings of siblings started ahead */
#define WALK_TRIES 3u    /* listings of one directory */
#define WALK_PEEK  256u  /* entries looked at to find them */

static void walk_run(struct tarn_task *t);

/* Listed lately enough: names are believed, or the listing began in the time of this walk. */
static bool walk_is_listed(const struct mwalk *w, struct mdir *d)
{
    return mdir_listed_trusted(d) || (d->listed_ns && d->listed_ns >= w->since_ns);
}

/* What an interrupted listing found is taken up only if it would do as part of a new one. */
static void walk_list(const struct mwalk *w, struct mdir *d)
{
    mlist_start(d, TARN_UFS_BACKGROUND, d->run_ns < w->since_ns);
}

static void walk_post(struct mwalk *w)
{
    if (w->posted)
        return;
    w->posted = true;
    tarn_loop_post(w->master->args.loop, &w->task, walk_run);
}

static void walk_end(struct mwalk *w, int rc)
{
    struct tarn_master *m = w->master;

    mdir_put(&w->dir);
    w->ops->end(w, rc);
    master_idle(m);
}

/* ---- one directory
 * -------------------------------------------------------------------------------------------------
 */

static int walk_entry(void *arg, tarn_ino_t ino, const Tarn__Core__Inode *inode)
{
    struct mwalk *w = arg;
    struct mwalk_frame *f = &w->stack[w->depth - 1];

    if (w->budget == 0)
        return 2;
    w->budget--;
    tarn_str_reset(&w->entry_path);
    if (w->path.len > 1)
        tarn_str_add(&w->entry_path, w->path.p, w->path.len);
    tarn_str_addc(&w->entry_path, '/');
    tarn_str_add(&w->entry_path, inode->name.data, inode->name.len);
    f->cookie = ino.v;
    w->visit_rc = w->ops->visit(w, ino, inode, tarn_str_z(&w->entry_path));
    if (inode->type == TARN_UFS_DIR && w->recursive) {
        w->descend = ino;
        return 1;
    }
    return w->visit_rc ? 3 : 0;
}

struct walk_peek {
    struct mwalk *walk;
    unsigned seen, started;
};

static int walk_peek_entry(void *arg, tarn_ino_t ino, const Tarn__Core__Inode *inode)
{
    struct walk_peek *p = arg;
    struct mdir *d;

    if (++p->seen > WALK_PEEK || p->started >= WALK_AHEAD)
        return 1;
    if (inode->type != TARN_UFS_DIR)
        return 0;
    p->started++;
    if (mdir_get(p->walk->master, ino, &d) < 0)
        return 0;
    if (!walk_is_listed(p->walk, d))
        walk_list(p->walk, d);
    mdir_put(&d);
    return 0;
}

/* Starts the listings of the next directories beside the one that is entered. */
static void walk_ahead(struct mwalk *w)
{
    struct mwalk_frame *f = &w->stack[w->depth - 1];
    struct walk_peek p = {.walk = w};

    if (w->list && w->recursive)
        (void)tarn_core_readdir(w->master->args.kv, f->ino, f->cookie, walk_peek_entry,
                                &p); /* only a hint */
}

static int walk_push(struct mwalk *w, tarn_ino_t ino)
{
    if (w->depth == MWALK_DEPTH_MAX)
        return -TARN_E_TOO_BIG;
    tarn_str_reset(&w->path);
    tarn_str_add(&w->path, w->entry_path.p, w->entry_path.len);
    w->stack[w->depth++] = (struct mwalk_frame){.ino = ino, .path_len = w->path.len};
    return 0;
}

static void walk_pop(struct mwalk *w)
{
    mdir_put(&w->dir);
    w->depth--;
    if (w->depth > 0) {
        w->path.len = w->stack[w->depth - 1].path_len;
        w->path.p[w->path.len] = 0;
    }
}

static void walk_skipped(struct mwalk *w)
{
    struct mwalk_frame *f = &w->stack[w->depth - 1];
    Tarn__Core__DirState *state = NULL;

    if (!w->ops->skipped || tarn_core_dir_state(w->master->args.kv, f->ino, &state) < 0)
        return;
    if (state->skipped_total)
        w->ops->skipped(w, f->ino, tarn_str_z(&w->path), state->skipped_total);
    tarn__core__dir_state__free_unpacked(state, NULL);
}

static void walk_listed(struct mlist_wait *wait, int rc)
{
    struct mwalk *w = wait->arg;
    struct mwalk_frame *f = &w->stack[w->depth - 1];

    w->waiting = false;
    /* One that ended well and does not do met a change, or was begun before this walk by somebody
     * else: once more, but not for ever. */
    f->listed = rc < 0 || walk_is_listed(w, w->dir) || ++f->tries >= WALK_TRIES;
    if (rc == 0 && f->listed && w->dir->listed_ns == 0)
        rc = tarn_err_set(&wait->err, -TARN_E_LISTING, "names change while it is listed");
    f->gone = rc == -TARN_E_NO_ENTRY && w->depth > 1; /* it was there when the walk began */
    if (rc < 0 && rc != -TARN_E_CANCELLED && !f->gone && w->ops->dir_failed)
        w->ops->dir_failed(w, tarn_str_z(&w->path), rc, &wait->err);
    if (rc == 0 && f->listed && f->cookie == 0)
        walk_skipped(w);
    walk_post(w);
}

/* It cannot be listed now: what is known of it is walked all the same. */
static int walk_unlisted(struct mwalk *w)
{
    const struct mattach *at = w->dir->at;
    struct tarn_errbuf err = at->open_err;

    if (at->gone)
        return -TARN_E_NO_ENTRY;
    w->stack[w->depth - 1].listed = true;
    if (w->ops->dir_failed)
        w->ops->dir_failed(w, tarn_str_z(&w->path), -TARN_E_UFS_DOWN, &err);
    return 1;
}

/* 1: entries may be visited; 0: waits for the listing; negative: not a directory any more. */
static int walk_ready(struct mwalk *w)
{
    struct mwalk_frame *f = &w->stack[w->depth - 1];
    int rc;

    if (f->gone)
        return -TARN_E_NO_ENTRY;
    if (!w->dir) {
        rc = mdir_get(w->master, f->ino, &w->dir);
        if (rc < 0)
            return rc;
    }
    if (!w->list || f->listed)
        return 1;
    if (!walk_is_listed(w, w->dir)) {
        walk_list(w, w->dir);
        if (!w->dir->listing)
            return w->master->stopping ? -TARN_E_SHUTDOWN : walk_unlisted(w);
        w->wait = (struct mlist_wait){.until_end = true, .fn = walk_listed, .arg = w};
        mlist_wait(w->dir, &w->wait);
        w->waiting = true;
        return 0;
    }
    f->listed = true;
    if (f->cookie == 0)
        walk_skipped(w);
    return 1;
}

/* ---- the walk
 * --------------------------------------------------------------------------------------------------------
 */

/* Visits entries until something stops it. True: go on in this turn. */
static bool walk_dir(struct mwalk *w)
{
    struct mwalk_frame *f = &w->stack[w->depth - 1];
    int rc;

    w->visit_rc = 0;
    rc = tarn_core_readdir(w->master->args.kv, f->ino, f->cookie, walk_entry, w);
    if (rc < 0) {
        walk_end(w, rc);
        return false;
    }
    switch (rc) {
    case 0:
        walk_pop(w);
        break;
    case 1:
        mdir_put(&w->dir);
        walk_ahead(w);
        rc = walk_push(w, w->descend);
        if (rc < 0) {
            walk_end(w, rc);
            return false;
        }
        break;
    default:
        break;
    }
    if (w->visit_rc) {
        w->paused = true;
        return false;
    }
    if (w->budget == 0) {
        walk_post(w);
        return false;
    }
    return true;
}

static void walk_run(struct tarn_task *t)
{
    struct mwalk *w = TARN_CONTAINER(t, struct mwalk, task);
    int rc;

    w->posted = false;
    w->budget = WALK_SLICE;
    for (;;) {
        if (w->cancelled || w->master->stopping) {
            walk_end(w, -TARN_E_CANCELLED);
            return;
        }
        if (w->depth == 0 || w->rc < 0) {
            walk_end(w, w->rc);
            return;
        }
        rc = walk_ready(w);
        if (rc == 0)
            return;
        if (rc == -TARN_E_NO_ENTRY || rc == -TARN_E_NOT_DIR) {
            walk_pop(w); /* removed meanwhile */
            continue;
        }
        if (rc < 0) {
            walk_end(w, rc);
            return;
        }
        if (!walk_dir(w))
            return;
    }
}

void mwalk_start(struct mwalk *w, tarn_ino_t ino, const char *path, const void *cursor,
                 size_t cursor_len)
{
    const uint8_t *c = cursor;
    int64_t now = master_real_ns(w->master);

    master_busy(w->master);
    w->depth = 0;
    w->dir = NULL;
    w->since_ns = w->since_ns ? TARN_MIN(w->since_ns, now) : now;
    w->rc = 0;
    w->waiting = w->paused = w->posted = w->cancelled = false;
    tarn_str_reset(&w->path);
    tarn_str_adds(&w->path, path);
    w->stack[w->depth++] = (struct mwalk_frame){.ino = ino, .path_len = w->path.len};
    for (size_t at = 0; at + 16 <= cursor_len; at += 16) {
        struct mwalk_frame f = {0};
        struct tarn_str p = {0};

        memcpy(&f.ino.v, c + at, 8);
        memcpy(&f.cookie, c + at + 8, 8);
        if (at == 0 && f.ino.v != ino.v)
            break; /* of another walk */
        if (at == 0) {
            w->stack[0].cookie = f.cookie;
            continue;
        }
        w->rc = tarn_core_path(w->master->args.kv, f.ino, &p);
        if (w->depth == MWALK_DEPTH_MAX || w->rc < 0) {
            tarn_str_fini(&p);
            w->rc = w->rc == -TARN_E_NO_ENTRY ? 0 : w->rc;
            break; /* that directory is gone: go on behind it */
        }
        tarn_str_reset(&w->path);
        tarn_str_adds(&w->path, tarn_str_z(&p));
        tarn_str_fini(&p);
        f.path_len = w->path.len;
        w->stack[w->depth++] = f;
    }
    walk_post(w);
}

void mwalk_resume(struct mwalk *w)
{
    TARN_ASSERT(w->paused);
    w->paused = false;
    walk_post(w);
}

void mwalk_cancel(struct mwalk *w)
{
    w->cancelled = true;
    if (w->waiting) {
        mlist_forget(&w->wait);
        w->waiting = false;
    }
    w->paused = false;
    walk_post(w);
}

void mwalk_cursor(const struct mwalk *w, struct tarn_str *ret)
{
    tarn_str_reset(ret);
    for (unsigned i = 0; i < w->depth; i++) {
        tarn_str_add(ret, &w->stack[i].ino.v, 8);
        tarn_str_add(ret, &w->stack[i].cookie, 8);
    }
}

void mwalk_fini(struct mwalk *w)
{
    tarn_str_fini(&w->path);
    tarn_str_fini(&w->entry_path);
}
