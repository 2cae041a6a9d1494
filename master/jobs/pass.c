/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One pass over the files of a job: the paths, or the entries of its list, one after the other in
 * their order, each either a file or a tree that is walked in the order of ids. Some targets ahead
 * are resolved at the same time, since the store may have to be asked.
 *
 *     step: resolve ahead -> the target at hand: failed -> told
 *                                                file -> told
 *                                                directory -> walk -> next
 *
 * It pauses while the run has too many entries that are not committed; that, and that it keeps
 * nothing but a place in the tree, bounds the memory of a job of any size. A path inside another is
 * only resolved, since it may not exist; where that is not enough (lists, walks of one level) a set
 * of inodes is kept. After a restart that set is made again by walking what is done already,
 * quietly.
 */
#include "master/jobs/jobs_priv.h"

#include <inttypes.h>
#include <stdlib.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"
#include "lib/base/hash.h"
#include "lib/base/name.h"

#define PASS_SLICE  256u          /* targets of one turn of the loop */
#define PASS_DIR_NS TARN_NS_PER_S /* the way to a directory is good for as long */
#define RANGE_BIT   (1ull << 63)  /* ranges and inodes in one set: ids are below it */

static void pass_step(struct tarn_task *t);

static void pass_post(struct mpass *p)
{
    if (p->posted || !p->active)
        return;
    p->posted = true;
    tarn_loop_post(p->run->master->args.loop, &p->task, pass_step);
}

static bool pass_quiet(const struct mpass *p)
{
    return p->at < p->from;
}

void mpass_place(const struct mpass *p, uint64_t *ret_target, struct tarn_str *ret_walk)
{
    if (p->walking) {
        *ret_target = p->at;
        mwalk_cursor(&p->walk, ret_walk);
    } else {
        *ret_target = p->at + 1;
        tarn_str_reset(ret_walk);
    }
}

/* ---- files
 * ---------------------------------------------------------------------------------------------------
 */

static bool pass_seen(struct mpass *p, const struct mpass_file *f)
{
    uint64_t key = f->ino.v;

    if (!p->dedupe)
        return false;
    if (f->ranged)
        key = RANGE_BIT | tarn_hash_u64(f->ino.v ^ tarn_hash_u64(f->off ^ tarn_hash_u64(f->len)));
    return !mset_add(&p->seen, key);
}

static void pass_file(struct mpass *p, tarn_ino_t ino, const Tarn__Core__Inode *inode,
                      const char *path, const char *rel, uint64_t off, uint64_t len)
{
    struct mpass_file f = {.ino = ino, .inode = inode, .path = path};
    uint64_t size = inode->type == TARN_UFS_FILE && inode->ufs ? inode->ufs->size : 0;

    if (!mglob_selects(p->run->job->spec, rel))
        return;
    if (off > 0 && off >= size && !p->run->job->is_free) { /* a free takes whole files */
        if (!pass_quiet(p))
            p->ops->target_failed(p->run, path, -TARN_E_JOB_LIST_BAD,
                                  "the range begins behind the end of the file");
        return;
    }
    f.off = TARN_MIN(off, size);
    f.len = len ? TARN_MIN(len, size - f.off) : size - f.off;
    f.ranged = f.len != size;
    if (pass_seen(p, &f) || pass_quiet(p))
        return;
    p->ops->file(p->run, &f);
    if (p->run->entries >= JOB_WINDOW)
        p->paused = true;
}

static int pass_visit(struct mwalk *w, tarn_ino_t ino, const Tarn__Core__Inode *inode,
                      const char *path)
{
    struct mpass *p = w->arg;

    if (inode->type != TARN_UFS_DIR)
        pass_file(p, ino, inode, path, path + p->root_len, 0, 0);
    if (p->paused)
        mrun_poke(p->run); /* requests that are not full are sent */
    return p->paused;
}

/* What a walk says about a directory: each thing once, also after a restart in the middle of it. */
static bool pass_note_dir(struct mpass *p, const struct mwalk *w, unsigned what)
{
    tarn_ino_t dir = w->stack[w->depth - 1].ino;

    if (pass_quiet(p))
        return false;
    if (p->noted.ino.v != dir.v)
        p->noted = (struct mnoted){.ino = dir};
    if (p->noted.what & what)
        return false;
    p->noted.what |= what;
    p->run->noted = p->noted;
    return true;
}

static void pass_dir_failed(struct mwalk *w, const char *path, int rc,
                            const struct tarn_errbuf *err)
{
    struct mpass *p = w->arg;

    if (pass_note_dir(p, w, MNOTED_FAILED))
        p->ops->dir_failed(p->run, path, rc, tarn_err_text(err, rc));
}

static void pass_skipped(struct mwalk *w, tarn_ino_t dir, const char *path, uint64_t count)
{
    struct mpass *p = w->arg;

    if (pass_note_dir(p, w, MNOTED_SKIPPED))
        p->ops->skipped(p->run, dir, path, count);
}

static void pass_next(struct mpass *p)
{
    if (!pass_quiet(p))
        p->noted = (struct mnoted){0};
    p->at++;
    pass_post(p);
}

static void pass_walked(struct mwalk *w, int rc)
{
    struct mpass *p = w->arg;
    const struct mpass_slot *slot = &p->slots[p->at % MPASS_AHEAD];

    p->walking = false;
    p->paused = p->paused && rc == 0 && p->run->entries >= JOB_WINDOW;
    if (rc < 0 && !p->cancelled && !p->run->master->stopping && !pass_quiet(p))
        p->ops->dir_failed(p->run, slot->path, rc, tarn_strerror(rc));
    pass_next(p);
}

static const struct mwalk_ops pass_walk_ops = {.visit = pass_visit,
                                               .dir_failed = pass_dir_failed,
                                               .skipped = pass_skipped,
                                               .end = pass_walked};

static void pass_walk(struct mpass *p, const struct mpass_slot *slot)
{
    struct mwalk *w = &p->walk;
    bool here = p->at == p->from && p->walk_from.len > 0;

    p->walking = true;
    p->root_len = strlen(slot->path) + (slot->path[1] != 0);
    w->master = p->run->master;
    w->ops = &pass_walk_ops;
    w->list = p->list && !pass_quiet(p);
    w->recursive = p->run->job->spec->recursive;
    w->since_ns = p->run->job->started_ns;
    w->arg = p;
    mwalk_start(w, slot->ino, slot->path, here ? p->walk_from.p : NULL,
                here ? p->walk_from.len : 0);
}

/* ---- targets
 * -------------------------------------------------------------------------------------------------
 */

static void pass_resolved(struct mpath_req *req, int rc)
{
    struct mpass_slot *slot = req->arg;
    struct mpass *p = slot->pass;

    slot->asking = false;
    p->asking--;
    slot->rc = rc == -TARN_E_UFS_NOT_FOUND ? -TARN_E_NO_ENTRY : rc;
    slot->err = req->err;
    slot->ino = req->ino;
    pass_post(p);
}

/* Lists are sorted as a rule: the directory of the target at hand is that of the next ones. */
static void pass_remember_dir(struct mpass *p, const char *path, tarn_ino_t dir)
{
    const char *slash = strrchr(path, '/');

    p->dir_ns = tarn_loop_now_ns(p->run->master->args.loop);
    p->dir = dir;
    tarn_str_reset(&p->dir_path);
    tarn_str_add(&p->dir_path, path, (size_t)(slash - path));
}

/* Where to begin with a path: the rest of it below *ret. */
static const char *pass_begin(const struct mpass *p, const char *path, tarn_ino_t *ret)
{
    size_t n = p->dir_path.len;
    uint64_t now = tarn_loop_now_ns(p->run->master->args.loop);

    *ret = TARN_INO_ROOT;
    if (n == 0 || now - p->dir_ns > PASS_DIR_NS || strncmp(path, p->dir_path.p, n) != 0 ||
        path[n] != '/' || strchr(path + n + 1, '/'))
        return path;
    *ret = p->dir;
    return path + n;
}

/* Resolves from what is known, without asking anyone. */
static int pass_resolve_known(struct mpass *p, const char *path, tarn_ino_t *ret)
{
    tarn_ino_t ino;
    const char *at = pass_begin(p, path, &ino), *name;
    size_t len;
    int rc = 0;

    while (rc == 0 && (name = tarn_path_next(&at, &len)) != NULL) {
        uint32_t type;

        rc = tarn_core_dentry(p->run->master->args.kv, ino, name, len, &ino, &type);
    }
    if (rc == 0)
        *ret = ino;
    return rc;
}

/* Takes `path`. */
static void pass_resolve(struct mpass *p, char *path, int rc, uint64_t off, uint64_t len)
{
    struct mpass_slot *slot = &p->slots[p->next++ % MPASS_AHEAD];
    tarn_ino_t dir;
    const char *at;

    TARN_ASSERT(!slot->asking);
    free(slot->path);
    slot->pass = p;
    slot->path = path;
    slot->off = off;
    slot->len = len;
    slot->err.text[0] = 0;
    slot->rc = rc;
    if (rc == 0 && (p->known_only || p->next <= p->from)) {
        slot->rc = pass_resolve_known(p, path, &slot->ino);
    } else if (rc == 0) {
        slot->asking = true;
        p->asking++;
        slot->req = (struct mpath_req){.path = path, .fn = pass_resolved, .arg = slot};
        at = pass_begin(p, path, &dir);
        mpath_start_in(p->run->master, &slot->req, dir, at);
    }
}

static int pass_item(void *arg, uint64_t seq, const Tarn__Core__JobItem *item)
{
    struct mpass *p = arg;
    TARN_AUTO_FREE char *raw = NULL;
    char norm[TARN_PATH_MAX];
    bool absolute = item->path.len && item->path.data[0] == '/';
    int rc;

    if (seq != p->next || p->next - p->at >= MPASS_AHEAD)
        return 1;
    raw = tarn_xasprintf("%s%s%.*s", absolute ? "" : p->base, absolute ? "" : "/",
                         (int)item->path.len, (const char *)item->path.data);
    rc = tarn_path_normalize(raw, norm);
    if (rc < 0)
        pass_resolve(p, tarn_xstrdup(raw), rc, 0, 0);
    else
        pass_resolve(p, tarn_xstrdup(norm), 0, item->offset, item->length);
    return 0;
}

static void pass_ahead(struct mpass *p)
{
    struct mjob *job = p->run->job;
    int rc = 0;

    if (p->next - p->at > MPASS_AHEAD / 2 || p->next == p->count)
        return;
    if (job->items)
        rc = tarn_core_job_items(p->run->master->args.kv, job->id, p->next, pass_item, p);
    while (!job->items && p->next < p->count && p->next - p->at < MPASS_AHEAD)
        pass_resolve(p, tarn_xstrdup(p->targets[p->next]), 0, 0, 0);
    if (rc >= 0 && p->next == p->at)
        rc = -TARN_E_KV_CORRUPT; /* a list with a hole */
    if (rc < 0)
        p->rc = rc;
}

static bool path_inside(const char *path, const char *dir)
{
    size_t n = strlen(dir);

    return n == 1 || (strncmp(path, dir, n) == 0 && path[n] == '/');
}

/* The target at hand is walked with another one. */
static bool pass_nested(const struct mpass *p)
{
    if (!p->targets || !p->run->job->spec->recursive)
        return false;
    for (uint64_t i = 0; i < p->at; i++)
        if (path_inside(p->targets[p->at], p->targets[i]))
            return true;
    return false;
}

static void pass_target(struct mpass *p, struct mpass_slot *slot)
{
    Tarn__Core__Inode *inode = NULL;
    const char *slash = strrchr(slot->path, '/');
    int rc = slot->rc;

    if (rc == 0)
        rc = tarn_core_inode(p->run->master->args.kv, slot->ino, &inode);
    if (rc == 0 && slot->len > 0 && inode->type == TARN_UFS_DIR)
        rc = -TARN_E_IS_DIR; /* there is no such range */
    if (rc < 0) {
        if (!pass_quiet(p))
            p->ops->target_failed(p->run, slot->path, rc, tarn_err_text(&slot->err, rc));
        tarn__core__inode__free_unpacked(inode, NULL);
        pass_next(p);
        return;
    }
    pass_remember_dir(p, slot->path, (tarn_ino_t){inode->parent});
    if (pass_nested(p)) {
        pass_next(p);
    } else if (inode->type == TARN_UFS_DIR) {
        pass_walk(p, slot);
    } else {
        pass_file(p, slot->ino, inode, slot->path, slash ? slash + 1 : slot->path, slot->off,
                  slot->len);
        pass_next(p);
    }
    tarn__core__inode__free_unpacked(inode, NULL);
}

static void pass_end(struct mpass *p)
{
    p->active = false;
    mset_fini(&p->seen);
    mrun_poke(p->run);
}

static void pass_step(struct tarn_task *t)
{
    struct mpass *p = TARN_CONTAINER(t, struct mpass, task);

    p->posted = false;
    for (unsigned n = 0; !p->walking && !p->paused; n++) {
        struct mpass_slot *slot;

        if (!p->cancelled && p->rc == 0)
            pass_ahead(p);
        if (p->cancelled || p->rc < 0 || p->at == p->count) {
            if (p->asking == 0)
                pass_end(p);
            return;
        }
        slot = &p->slots[p->at % MPASS_AHEAD];
        if (slot->asking)
            return;
        if (n == PASS_SLICE) {
            pass_post(p);
            return;
        }
        pass_target(p, slot);
    }
    if (p->paused)
        mrun_poke(p->run);
}

void mpass_resume(struct mrun *r)
{
    struct mpass *p = &r->pass;

    if (!p->active || !p->paused || r->entries > JOB_WINDOW / 2)
        return;
    p->paused = false;
    if (p->walking)
        mwalk_resume(&p->walk);
    else
        pass_post(p);
}

void mpass_cancel(struct mrun *r)
{
    struct mpass *p = &r->pass;

    if (!p->active || p->cancelled)
        return;
    p->cancelled = true;
    p->paused = false;
    if (p->walking)
        mwalk_cancel(&p->walk);
    for (unsigned i = 0; i < MPASS_AHEAD; i++)
        if (p->slots[i].asking)
            mpath_cancel(&p->slots[i].req);
    pass_post(p);
}

/* ---- start
 * ---------------------------------------------------------------------------------------------------
 */

static int path_compare(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The paths, each once; sorted, so that a directory comes before what is in it. */
static void pass_paths(struct mpass *p)
{
    const Tarn__Wire__LoadSpec *spec = p->run->job->spec;
    size_t kept = 0;

    p->targets = tarn_xcalloc(spec->n_paths, sizeof(char *));
    for (size_t i = 0; i < spec->n_paths; i++)
        p->targets[i] =
            tarn_xasprintf("%.*s", (int)spec->paths[i].len, (const char *)spec->paths[i].data);
    if (spec->n_paths > 1)
        qsort(p->targets, spec->n_paths, sizeof(char *), path_compare);
    for (size_t i = 0; i < spec->n_paths; i++) {
        if (kept > 0 && strcmp(p->targets[i], p->targets[kept - 1]) == 0)
            free(p->targets[i]);
        else
            p->targets[kept++] = p->targets[i];
    }
    p->count = kept;
}

void mpass_start(struct mrun *r, const struct mpass_ops *ops, bool list, bool known_only)
{
    struct mpass *p = &r->pass;
    const Tarn__Wire__LoadSpec *spec = r->job->spec;

    TARN_ASSERT(!p->active && !p->posted && p->asking == 0);
    mpass_fini(p);
    p->run = r;
    p->ops = ops;
    p->list = list;
    p->known_only = known_only;
    p->active = true;
    p->walking = p->paused = p->cancelled = false;
    p->rc = 0;
    p->at = p->next = 0;
    p->from = r->cursor->target;
    tarn_str_add(&p->walk_from, r->cursor->walk.data, r->cursor->walk.len);
    p->noted = r->noted;
    if (spec->n_paths)
        p->base =
            tarn_xasprintf("%.*s", (int)spec->paths[0].len, (const char *)spec->paths[0].data);
    else
        p->base = tarn_xstrdup("/");
    if (r->job->items)
        p->count = r->job->items;
    else
        pass_paths(p);
    p->dedupe = p->count > 1 && (r->job->items > 0 || !spec->recursive);
    p->from = TARN_MIN(p->from, p->count);
    if (!p->dedupe)
        p->at = p->next = p->from;
    pass_post(p);
}

void mpass_fini(struct mpass *p)
{
    TARN_ASSERT(!p->active && !p->posted);
    for (uint64_t i = 0; p->targets && i < p->count; i++)
        free(p->targets[i]);
    free(p->targets);
    p->targets = NULL;
    free(p->base);
    p->base = NULL;
    tarn_str_fini(&p->walk_from);
    tarn_str_fini(&p->dir_path);
    mset_fini(&p->seen);
    mwalk_fini(&p->walk);
    for (unsigned i = 0; i < MPASS_AHEAD; i++) {
        free(p->slots[i].path);
        p->slots[i].path = NULL;
    }
}
