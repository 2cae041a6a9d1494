/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/master/core/model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "lib/base/limits.h"
#include "lib/base/mem.h"

/* ---- the tree
 * ------------------------------------------------------------------------------------------ */

void model_init(struct model *m)
{
    memset(m, 0, sizeof(*m));
    m->cap = 64;
    m->inodes = tarn_xcalloc(m->cap, sizeof(*m->inodes));
    m->next_ino = 2;
    m->next_attachment = 1;
    m->next_worker = 1;
    m->past = tarn_xcalloc(MODEL_SETS, sizeof(*m->past));
}

void model_fini(struct model *m)
{
    free(m->inodes);
    free(m->past);
    memset(m, 0, sizeof(*m));
}

void model_result_fini(struct model_result *r)
{
    free(r->changes);
    memset(r, 0, sizeof(*r));
}

uint64_t model_child(const struct model *m, uint64_t dir, const void *name, size_t len)
{
    for (uint64_t c = m->inodes[dir].children; c; c = m->inodes[c].next)
        if (m->inodes[c].len == len && memcmp(m->inodes[c].name, name, len) == 0)
            return c;
    return 0;
}

static void model_changed(struct model_result *r, uint64_t ino, uint64_t parent, uint64_t version)
{
    if (r->change_count == r->change_cap) {
        r->change_cap = r->change_cap ? 2 * r->change_cap : 8;
        r->changes = tarn_xrealloc(r->changes, r->change_cap * sizeof(*r->changes));
    }
    r->changes[r->change_count++] = (struct model_change){ino, parent, version};
}

static void model_fill(struct model_inode *i, const Tarn__Core__Object *o)
{
    i->has_owner = o->has_owner;
    i->mode = o->has_owner ? o->mode : 0;
    i->uid = o->has_owner ? o->uid : 0;
    i->gid = o->has_owner ? o->gid : 0;
    if (o->type == 2) {
        if (o->ufs && o->ufs->mtime_ns)
            i->mtime_ns = o->ufs->mtime_ns;
        return;
    }
    if (o->type == 3) {
        int64_t mtime = o->ufs ? o->ufs->mtime_ns : 0;

        if (o->target.len || mtime != i->mtime_ns)
            snprintf(i->target, sizeof(i->target), "%.*s", (int)o->target.len,
                     (const char *)o->target.data);
        i->mtime_ns = mtime;
        return;
    }
    i->size = o->ufs->size;
    i->mtime_ns = o->ufs->mtime_ns;
    snprintf(i->etag, sizeof(i->etag), "%s", o->ufs->etag);
    i->has_cid = i->size > 0;
    memset(i->cid, 0, sizeof(i->cid));
    if (i->has_cid)
        memcpy(i->cid, o->cid.data, sizeof(i->cid));
}

static void model_link(struct model *m, uint64_t dir, uint64_t ino)
{
    struct model_inode *i = &m->inodes[ino];

    i->parent = dir;
    i->next = m->inodes[dir].children;
    if (i->next)
        m->inodes[i->next].prev = ino;
    m->inodes[dir].children = ino;
}

/* The first of `n` ids. */
static uint64_t model_take_inos(struct model *m, uint64_t n)
{
    uint64_t ino = m->next_ino;

    m->next_ino += n;
    while (m->next_ino > m->cap) {
        m->inodes = tarn_xrealloc(m->inodes, 2 * m->cap * sizeof(*m->inodes));
        memset(m->inodes + m->cap, 0, m->cap * sizeof(*m->inodes));
        m->cap *= 2;
    }
    return ino;
}

/* An inode with a name in `dir`. */
static uint64_t model_make(struct model *m, uint64_t index, uint64_t dir, const char *name,
                           size_t len, uint32_t type, struct model_result *r)
{
    uint64_t ino = model_take_inos(m, 1);
    struct model_inode *i;

    i = &m->inodes[ino];
    i->exists = true;
    i->type = type;
    i->version = i->changed = index;
    i->attachment = m->inodes[dir].attachment;
    i->len = len;
    memcpy(i->name, name, len);
    model_link(m, dir, ino);
    r->created++;
    return ino;
}

static void model_distrust(struct model_inode *d)
{
    if (!d->running && !d->listed_ns)
        return;
    d->dir_removed = true;
    d->listed_ns = 0;
}

static uint64_t model_create(struct model *m, uint64_t index, uint64_t dir,
                             const Tarn__Core__Object *o, struct model_result *r)
{
    uint64_t ino = model_make(m, index, dir, (char *)o->name.data, o->name.len, o->type, r);

    model_fill(&m->inodes[ino], o);
    return ino;
}

static void model_unlink(struct model *m, uint64_t ino)
{
    struct model_inode *i = &m->inodes[ino];

    if (i->prev)
        m->inodes[i->prev].next = i->next;
    else
        m->inodes[i->parent].children = i->next;
    if (i->next)
        m->inodes[i->next].prev = i->prev;
    i->next = i->prev = 0;
}

static void model_remove(struct model *m, uint64_t index, uint64_t ino, struct model_result *r)
{
    struct model_inode *i = &m->inodes[ino];

    model_unlink(m, ino);
    if (i->type == 2) {
        i->detached = true;
        i->held = false;
        i->changed = index;
    } else {
        i->exists = false;
    }
    model_changed(r, ino, i->parent, 0);
    r->removed++;
}

/* Brings an inode to what the object of the same type says; false when it says so already. */
static bool model_differs(const struct model_inode *i, const Tarn__Core__Object *o,
                          struct model_inode *ret)
{
    *ret = *i;
    model_fill(ret, o);
    if (o->type == 3 && ret->mtime_ns == i->mtime_ns && o->target.len == 0)
        memcpy(ret->target, i->target, sizeof(ret->target));
    return memcmp(ret, i, sizeof(*i)) != 0;
}

static void model_update(struct model *m, uint64_t index, uint64_t ino,
                         const struct model_inode *to, struct model_result *r)
{
    struct model_inode *i = &m->inodes[ino], old = *i;

    *i = *to;
    i->changed = index;
    i->attachment = m->inodes[i->parent].attachment;
    if (i->type != 2 &&
        (old.size != i->size || old.mtime_ns != i->mtime_ns || strcmp(old.etag, i->etag) != 0 ||
         memcmp(old.cid, i->cid, 16) != 0 || strcmp(old.target, i->target) != 0))
        i->version = index;
    model_changed(r, ino, i->parent, i->version);
    r->updated++;
}

/* A directory into which names may be put. */
static int model_dir(const struct model *m, uint64_t dir)
{
    if (dir == 0 || dir >= m->next_ino || !m->inodes[dir].exists || m->inodes[dir].detached)
        return -TARN_E_NO_ENTRY;
    if (m->inodes[dir].type != 2)
        return -TARN_E_NOT_DIR;
    return m->inodes[dir].attachment ? 0 : -TARN_E_NO_ATTACH;
}

/* A held name takes nothing from its directory's store but that it has such a directory, unless it
 * is the root of an attachment. */
static bool model_deaf(const struct model *m, uint64_t ino, const Tarn__Core__Object *o)
{
    const struct model_inode *i = &m->inodes[ino];

    if (!i->held)
        return false;
    if (i->attachment && model_attachment(m, i->attachment)->root == ino)
        return true;
    return !o || o->type != 2;
}

static bool model_adopts(const struct model *m, uint64_t ino)
{
    return m->inodes[ino].attachment != m->inodes[m->inodes[ino].parent].attachment;
}

/* ---- keys
 * ---------------------------------------------------------------------------------------------- */

static int key_compare(const char *a, size_t an, const char *b, size_t bn)
{
    for (size_t i = 0; i < an && i < bn; i++)
        if ((unsigned char)a[i] != (unsigned char)b[i])
            return (unsigned char)a[i] < (unsigned char)b[i] ? -1 : 1;
    return an < bn ? -1 : an > bn;
}

static bool key_in(const Tarn__Core__ListPage *p, const char *name, size_t len, bool dir)
{
    char key[MODEL_NAME_MAX + 1];

    memcpy(key, name, len);
    if (dir)
        key[len++] = '/';
    return key_compare(key, len, (char *)p->from_key.data, p->from_key.len) > 0 &&
           (p->complete || key_compare(key, len, (char *)p->to_key.data, p->to_key.len) <= 0);
}

static bool page_malformed(const Tarn__Core__ListPage *p)
{
    char before[MODEL_NAME_MAX + 1], key[MODEL_NAME_MAX + 1];
    size_t before_len = 0;

    if (!p->complete && key_compare((char *)p->to_key.data, p->to_key.len, (char *)p->from_key.data,
                                    p->from_key.len) < 0)
        return true;
    for (size_t i = 0; i < p->n_objects; i++) {
        const Tarn__Core__Object *o = p->objects[i];
        size_t len = o->name.len;

        if (!key_in(p, (char *)o->name.data, len, o->type == 2))
            return true;
        memcpy(key, o->name.data, len);
        if (o->type == 2)
            key[len++] = '/';
        if (i > 0 && key_compare(before, before_len, key, len) >= 0)
            return true;
        memcpy(before, key, len);
        before_len = len;
    }
    return false;
}

/* ---- entries
 * --------------------------------------------------------------------------------------------- */

static void model_list_begin(struct model *m, uint64_t index, int64_t now,
                             const Tarn__Core__ListBegin *b, struct model_result *r)
{
    struct model_inode *d;

    r->rc = b->asked_index >= index ? -TARN_E_ENTRY_BAD : model_dir(m, b->dir);
    if (r->rc < 0)
        return;
    d = &m->inodes[b->dir];
    if (!(b->resume && d->running)) {
        d->running = true;
        d->started_ns = now;
        d->upto_len = 0;
        d->dir_removed = false;
        d->skipped = 0;
        d->skipped_lines = 0;
    }
    d->asked_index = b->asked_index;
}

static const Tarn__Core__Object *page_find(const Tarn__Core__ListPage *p, const char *name,
                                           size_t len, bool dir)
{
    for (size_t i = 0; i < p->n_objects; i++)
        if (p->objects[i]->name.len == len && memcmp(p->objects[i]->name.data, name, len) == 0 &&
            (p->objects[i]->type == 2) == dir)
            return p->objects[i];
    return NULL;
}

/* What becomes of a known name. True when the name is free afterwards (its object may be created).
 */
static bool page_known(struct model *m, uint64_t index, const Tarn__Core__ListPage *p, uint64_t ino,
                       bool *distrust, struct model_result *r)
{
    struct model_inode i = m->inodes[ino], to;
    const Tarn__Core__Object *file = page_find(p, i.name, i.len, false);
    const Tarn__Core__Object *dir = page_find(p, i.name, i.len, true);
    const Tarn__Core__Object *o = dir ? dir : file;
    bool newer = i.changed > p->asked_index;

    if (model_deaf(m, ino, dir ? dir : file))
        return false;
    if (o && o->type == i.type) {
        bool differs = model_differs(&m->inodes[ino], o, &to);

        if (!newer && (differs || model_adopts(m, ino)))
            model_update(m, index, ino, &to, r);
        *distrust |= newer && model_adopts(m, ino);
        return false;
    }
    if (o && i.type != 2) { /* of another type, and a directory is not in its way */
        if (newer)
            *distrust |= o->type == 2;
        else
            model_remove(m, index, ino, r);
        return !newer;
    }
    /* Its own key was not in the page. */
    if (newer || !key_in(p, i.name, i.len, i.type == 2))
        return false;
    if (i.type == 2 && !key_in(p, i.name, i.len, false))
        *distrust = true;
    model_remove(m, index, ino, r);
    return true;
}

static void page_names(struct model *m, uint64_t index, const Tarn__Core__ListPage *p,
                       bool *distrust, struct model_result *r)
{
    bool blocked[64] = {false};
    uint64_t next;

    assert_true(p->n_objects <= 64);
    for (uint64_t c = m->inodes[p->dir].children; c; c = next) {
        const struct model_inode *i = &m->inodes[c];

        next = i->next;
        if (page_known(m, index, p, c, distrust, r))
            continue;
        for (size_t k = 0; k < p->n_objects; k++)
            if (p->objects[k]->name.len == i->len &&
                memcmp(p->objects[k]->name.data, i->name, i->len) == 0)
                blocked[k] = true;
    }
    for (size_t k = 0; k < p->n_objects; k++) {
        const Tarn__Core__Object *o = p->objects[k];

        if (!blocked[k] && !(o->type != 2 && page_find(p, (char *)o->name.data, o->name.len, true)))
            model_create(m, index, p->dir, o, r);
    }
}

static void model_list_page(struct model *m, uint64_t index, const Tarn__Core__ListPage *p,
                            struct model_result *r)
{
    struct model_inode *d;
    bool distrust = false;

    r->rc = p->asked_index >= index || page_malformed(p) ? -TARN_E_ENTRY_BAD : model_dir(m, p->dir);
    if (r->rc < 0)
        return;
    d = &m->inodes[p->dir];
    if (!d->running || p->asked_index < d->asked_index || p->from_key.len != d->upto_len ||
        memcmp(p->from_key.data ? (char *)p->from_key.data : "", d->upto, d->upto_len) != 0) {
        r->rc = -TARN_E_ENTRY_STALE;
        return;
    }
    page_names(m, index, p, &distrust, r);
    d = &m->inodes[p->dir];
    d->skipped += p->skipped;
    d->skipped_lines += p->skipped_names.len > 0;
    if (distrust) {
        d->dir_removed = true;
        d->listed_ns = 0;
    }
    if (!p->complete) {
        d->upto_len = p->to_key.len;
        if (d->upto_len)
            memcpy(d->upto, p->to_key.data, d->upto_len);
        return;
    }
    d->listed_ns = d->dir_removed ? 0 : d->started_ns;
    d->listed_index = index;
    d->skipped_total = d->skipped;
    d->running = false;
    d->started_ns = 0;
    d->asked_index = 0;
    d->upto_len = 0;
}

static void model_found(struct model *m, uint64_t index, const Tarn__Core__Found *f,
                        struct model_result *r)
{
    const Tarn__Core__Object *o = f->object;
    struct model_inode to;
    uint64_t c;

    r->rc = f->asked_index >= index ? -TARN_E_ENTRY_BAD : model_dir(m, f->parent);
    if (r->rc < 0)
        return;
    c = model_child(m, f->parent, o->name.data, o->name.len);
    r->ino = c;
    if (c && (model_deaf(m, c, o) || (m->inodes[c].type == o->type && !model_adopts(m, c) &&
                                      !model_differs(&m->inodes[c], o, &to))))
        return;
    if (c && m->inodes[c].type == o->type)
        (void)model_differs(&m->inodes[c], o, &to);
    if (c && m->inodes[c].changed > f->asked_index) {
        r->rc = -TARN_E_ENTRY_STALE;
        return;
    }
    if (c && m->inodes[c].type == o->type) {
        model_update(m, index, c, &to, r);
        return;
    }
    if (c)
        model_remove(m, index, c, r);
    r->ino = model_create(m, index, f->parent, o, r);
}

static void model_gone(struct model *m, uint64_t index, const Tarn__Core__Gone *g,
                       struct model_result *r)
{
    uint64_t c;

    r->rc = g->asked_index >= index ? -TARN_E_ENTRY_BAD : model_dir(m, g->parent);
    if (r->rc < 0)
        return;
    c = model_child(m, g->parent, g->name.data, g->name.len);
    if (c && model_deaf(m, c, NULL)) {
        r->ino = c;
    } else if (c && m->inodes[c].changed > g->asked_index) {
        r->rc = -TARN_E_ENTRY_STALE;
        r->ino = c;
    } else if (c) {
        model_remove(m, index, c, r);
    }
}

/* The core collects in the order of names. */
static uint64_t model_first_child(const struct model *m, uint64_t dir)
{
    uint64_t first = m->inodes[dir].children;

    for (uint64_t c = first; c; c = m->inodes[c].next)
        if (key_compare(m->inodes[c].name, m->inodes[c].len, m->inodes[first].name,
                        m->inodes[first].len) < 0)
            first = c;
    return first;
}

static void model_collect(struct model *m, uint64_t index, const Tarn__Core__Collect *c,
                          struct model_result *r)
{
    if (c->max == 0)
        r->rc = -TARN_E_ENTRY_BAD;
    else if (c->ino == 0 || c->ino >= m->next_ino || !m->inodes[c->ino].exists)
        r->rc = -TARN_E_NO_ENTRY;
    else if (!m->inodes[c->ino].detached)
        r->rc = -TARN_E_INVALID;
    if (r->rc < 0)
        return;
    for (uint32_t n = 0; n < c->max && m->inodes[c->ino].children; n++)
        model_remove(m, index, model_first_child(m, c->ino), r);
    r->more = m->inodes[c->ino].children != 0;
    if (r->more)
        return;
    if (c->ino == 1) {
        m->inodes[1] = (struct model_inode){
            .exists = true, .type = 2, .parent = 1, .version = index, .changed = index};
        model_changed(r, 1, 1, index);
        return;
    }
    m->inodes[c->ino].exists = false;
}

static uint64_t model_job_id(const Tarn__Core__Entry *e)
{
    if (e->job_put)
        return e->job_put->job->id;
    if (e->job_lines)
        return e->job_lines->job->id;
    return e->job_items ? e->job_items->id : e->job_drop->id;
}

/* Lines first, then items, then the job itself. */
static void model_job_drop(struct model_job *j, uint64_t max, struct model_result *r)
{
    while (max > 0 && j->line_first < j->line_next) {
        j->line_first++;
        max--;
    }
    while (max > 0 && j->item_first < j->item_next) {
        j->item_first++;
        max--;
    }
    r->more = j->line_first < j->line_next || j->item_first < j->item_next;
    j->exists = r->more;
}

static void model_job(struct model *m, const Tarn__Core__Entry *e, struct model_result *r)
{
    uint64_t id = model_job_id(e);
    struct model_job *j = &m->jobs[id];

    assert_true(id >= 1 && id <= MODEL_JOBS);
    if (e->job_items && e->job_items->n_items == 0) {
        r->rc = -TARN_E_ENTRY_BAD;
    } else if (e->job_put) {
        if (!j->exists)
            *j = (struct model_job){.exists = true};
        j->files_done = e->job_put->job->files_done;
    } else if (!j->exists) {
        r->rc = -TARN_E_NO_JOB;
    } else if (e->job_lines) {
        j->files_done = e->job_lines->job->files_done;
        j->line_next += e->job_lines->n_lines;
    } else if (e->job_items) {
        j->item_next += e->job_items->n_items;
    } else {
        model_job_drop(j, e->job_drop->max, r);
    }
}

/* ---- attachments
 * ----------------------------------------------------------------------------------------- */

struct model_attachment *model_attachment(const struct model *m, uint32_t id)
{
    for (size_t i = 0; i < MODEL_ATTACHMENTS; i++)
        if (m->attached[i].id == id)
            return (struct model_attachment *)(uintptr_t)&m->attached[i];
    return NULL;
}

static bool path_below(const char *path, const char *dir)
{
    size_t n = strcmp(dir, "/") == 0 ? 0 : strlen(dir);

    return strlen(path) > n + 1 && memcmp(path, dir, n) == 0 && path[n] == '/';
}

static bool model_needed(const struct model *m, const char *path)
{
    for (size_t i = 0; i < MODEL_ATTACHMENTS; i++)
        if (m->attached[i].id &&
            (strcmp(m->attached[i].path, path) == 0 || path_below(m->attached[i].path, path)))
            return true;
    return false;
}

/* The inode at a path, as far as there is one; `upto`: only so many names. 0: none. */
static uint64_t model_at(const struct model *m, const char *path, size_t upto)
{
    uint64_t ino = 1;

    for (const char *p = path + 1; *p && ino && upto > 0; upto--) {
        size_t n = strcspn(p, "/");

        ino = m->inodes[ino].type == 2 ? model_child(m, ino, p, n) : 0;
        p += n + (p[n] == '/');
    }
    return ino;
}

static size_t path_depth(const char *path)
{
    size_t n = 0;

    for (const char *p = path; *p; p++)
        n += *p == '/' && p[1];
    return n;
}

/* The name number k (from 1) of a path, and the path that ends with it. */
static const char *path_name(const char *path, size_t k, size_t *ret_len, char *ret_upto)
{
    const char *p = path;

    while (k-- > 0)
        p = strchr(p, '/') + 1;
    *ret_len = strcspn(p, "/");
    memcpy(ret_upto, path, (size_t)(p - path) + *ret_len);
    ret_upto[(size_t)(p - path) + *ret_len] = 0;
    return p;
}

/* Directories that are not there, and the flag of all on the way to `path`. */
static void model_hold(struct model *m, uint64_t index, int64_t now, const char *path,
                       struct model_result *r)
{
    uint64_t dir = 1;

    for (size_t k = 1; k < path_depth(path); k++) {
        char upto[64];
        size_t len;
        const char *name = path_name(path, k, &len, upto);
        uint64_t ino = model_child(m, dir, name, len);

        if (!ino) {
            ino = model_make(m, index, dir, name, len, 2, r);
            m->inodes[ino].attachment = 0;
            m->inodes[ino].mtime_ns = now;
            model_changed(r, ino, dir, index);
        } else if (!m->inodes[ino].held) {
            m->inodes[ino].changed = index;
        }
        m->inodes[ino].held = true;
        dir = ino;
    }
}

static void model_drop_own(struct model *m, uint64_t ino, struct model_result *r)
{
    model_unlink(m, ino);
    m->inodes[ino].exists = false;
    model_changed(r, ino, m->inodes[ino].parent, 0);
    r->removed++;
}

/* Every held directory below `ino` that leads nowhere goes, or is held no longer. */
static void model_sweep(struct model *m, uint64_t index, uint64_t ino, const char *path,
                        bool distrust, struct model_result *r)
{
    uint64_t next;

    for (uint64_t c = m->inodes[ino].children; c; c = next) {
        struct model_inode *i = &m->inodes[c];
        char below[512];

        next = i->next;
        if (!i->held)
            continue;
        snprintf(below, sizeof(below), "%s/%.*s", strcmp(path, "/") == 0 ? "" : path, (int)i->len,
                 i->name);
        model_sweep(m, index, c, below, distrust, r);
        if (model_needed(m, below))
            continue;
        if (i->attachment == 0) {
            model_drop_own(m, c, r);
        } else {
            i->held = false;
            i->changed = index;
            model_changed(r, c, ino, i->version);
        }
        if (distrust && m->inodes[ino].attachment)
            model_distrust(&m->inodes[ino]);
    }
}

static int attachment_order(const void *a, const void *b)
{
    uint32_t x = ((const struct model_attachment *)a)->id,
             y = ((const struct model_attachment *)b)->id;

    return (x > y) - (x < y);
}

/* What is attached below a directory of a store, which makes room for a root. */
static void model_replace(struct model *m, uint64_t index, int64_t now, const char *path,
                          uint64_t old, uint64_t *ret, struct model_result *r)
{
    struct model_attachment below[MODEL_ATTACHMENTS];
    uint64_t dir = m->inodes[old].parent;
    char name[MODEL_NAME_MAX + 1];
    size_t len = m->inodes[old].len;

    memcpy(name, m->inodes[old].name, len);
    memcpy(below, m->attached, sizeof(below));
    for (size_t i = 0; i < MODEL_ATTACHMENTS; i++) {
        bool moves = below[i].id && path_below(below[i].path, path);

        for (size_t k = 0; k < MODEL_ATTACHMENTS && moves; k++) /* not with another one */
            moves = !m->attached[k].id || !path_below(m->attached[k].path, path) ||
                    !path_below(below[i].path, m->attached[k].path);
        below[i].id = moves ? below[i].id : 0;
    }
    for (size_t i = 0; i < MODEL_ATTACHMENTS; i++) {
        if (!below[i].id)
            continue;
        model_unlink(m, below[i].root);
        m->attached[i].id = 0;
    }
    model_sweep(m, index, old, path, false, r);
    model_remove(m, index, old, r);
    *ret = model_make(m, index, dir, name, len, 2, r);
    model_changed(r, *ret, dir, index);
    m->inodes[*ret].held = true;
    qsort(below, MODEL_ATTACHMENTS, sizeof(below[0]), attachment_order); /* ids of new inodes */
    for (size_t i = 0; i < MODEL_ATTACHMENTS; i++) {
        if (!below[i].id)
            continue;
        *model_attachment(m, 0) = below[i];
        model_hold(m, index, now, below[i].path, r);
        model_link(m, model_at(m, below[i].path, path_depth(below[i].path) - 1), below[i].root);
        m->inodes[below[i].root].changed = index;
        model_changed(r, below[i].root, m->inodes[below[i].root].parent,
                      m->inodes[below[i].root].version);
    }
}

static void model_attach_new(struct model *m, uint64_t index, int64_t now,
                             const Tarn__Core__Attachment *a, struct model_result *r)
{
    struct model_attachment *to;
    size_t depth = path_depth(a->path), len;
    uint64_t ino, dir;
    char upto[64];
    const char *name;

    for (size_t i = 0; i < MODEL_ATTACHMENTS; i++)
        if (m->attached[i].id && strcmp(m->attached[i].path, a->path) == 0)
            r->rc = -TARN_E_EXISTS;
    if (r->rc == 0 && a->id < m->next_attachment)
        r->rc = -TARN_E_ENTRY_STALE;
    if (r->rc == 0 && m->inodes[1].detached)
        r->rc = -TARN_E_BUSY;
    for (size_t k = 1; k < depth && r->rc == 0; k++)
        if (model_at(m, a->path, k) && m->inodes[model_at(m, a->path, k)].type != 2)
            r->rc = -TARN_E_NOT_DIR;
    if (r->rc < 0)
        return;
    assert_non_null(model_attachment(m, 0));
    model_hold(m, index, now, a->path, r);
    ino = model_at(m, a->path, depth);
    if (!ino) {
        dir = model_at(m, a->path, depth - 1);
        name = path_name(a->path, depth, &len, upto);
        ino = model_make(m, index, dir, name, len, 2, r);
        model_changed(r, ino, dir, index);
    } else if (m->inodes[ino].attachment == 0) {
        m->inodes[ino].changed = index;
        m->inodes[ino].mtime_ns = 0;
        model_changed(r, ino, m->inodes[ino].parent, m->inodes[ino].version);
    } else {
        model_replace(m, index, now, a->path, ino, &ino, r);
    }
    m->inodes[ino].attachment = a->id;
    m->inodes[ino].held = ino != 1;
    to = model_attachment(m, 0);
    *to = (struct model_attachment){.id = a->id, .root = ino, .since_ns = a->since_ns};
    snprintf(to->path, sizeof(to->path), "%s", a->path);
    snprintf(to->store_id, sizeof(to->store_id), "%s", a->store_id);
    snprintf(to->ttl, sizeof(to->ttl), "%s", a->ttl);
    m->next_attachment = a->id + 1;
    m->attached_index = index;
    r->ino = ino;
}

static void model_attach(struct model *m, uint64_t index, int64_t now,
                         const Tarn__Core__Attachment *a, struct model_result *r)
{
    struct model_attachment *old = a->id ? model_attachment(m, a->id) : NULL;

    if (a->id == 0) {
        r->rc = -TARN_E_ENTRY_BAD;
    } else if (!old) {
        model_attach_new(m, index, now, a, r);
    } else if (strcmp(old->path, a->path) != 0 || strcmp(old->store_id, a->store_id) != 0) {
        r->rc = -TARN_E_EXISTS;
    } else {
        snprintf(old->ttl, sizeof(old->ttl), "%s", a->ttl);
        if (!old->since_ns)
            old->since_ns = a->since_ns;
        m->attached_index = index;
        r->ino = old->root;
    }
}

static void model_detach(struct model *m, uint64_t index, uint32_t id, struct model_result *r)
{
    struct model_attachment *a = id ? model_attachment(m, id) : NULL;
    uint64_t parent;

    if (!a)
        r->rc = -TARN_E_NO_ATTACH;
    for (size_t i = 0; a && i < MODEL_ATTACHMENTS; i++)
        if (m->attached[i].id && path_below(m->attached[i].path, a->path))
            r->rc = -TARN_E_EXISTS;
    if (r->rc < 0)
        return;
    a->id = 0;
    m->attached_index = index;
    parent = m->inodes[a->root].parent;
    if (a->root == 1) {
        m->inodes[1].detached = true;
        m->inodes[1].changed = index;
        model_changed(r, 1, 1, m->inodes[1].version);
        r->removed++;
        return;
    }
    model_remove(m, index, a->root, r);
    if (m->inodes[parent].attachment)
        model_distrust(&m->inodes[parent]);
    model_sweep(m, index, 1, "/", true, r);
}

/* ---- members
 * ------------------------------------------------------------------------------------------ */

static struct model_set model_owners(const struct model *m)
{
    struct model_set s = {0};

    for (uint64_t id = 1; id < m->next_worker; id++)
        if (m->workers[id].state == 1)
            s.weights[id] = m->workers[id].weight;
    return s;
}

bool model_set_same(const struct model_set *a, const struct model_set *b)
{
    return memcmp(a->weights, b->weights, sizeof(a->weights)) == 0;
}

/* Every set that ended; one that is here already is the same set, ended later. */
static void model_ended(struct model *m, const struct model_set *before, uint64_t index)
{
    static const struct model_set none;
    struct model_set now = model_owners(m);
    unsigned kept = 0;

    if (model_set_same(before, &now) || model_set_same(before, &none))
        return;
    assert_true(m->past_n < MODEL_SETS);
    for (size_t i = 0; i < m->past_n; i++)
        if (model_set_same(&m->past[i], before))
            m->past[i].index = 0;
    m->past[m->past_n] = *before;
    m->past[m->past_n++].index = index;
    for (size_t i = m->past_n; i > 0; i--)
        if (m->past[i - 1].index && ++kept > TARN_CORE_PAST_MAX)
            m->past[i - 1].index = 0;
}

static void model_worker(struct model *m, uint64_t index, const Tarn__Core__Entry *e,
                         struct model_result *r)
{
    const Tarn__Core__Worker *w = e->worker_put;
    struct model_set before = model_owners(m);
    unsigned uuid = (unsigned)(w->uuid[strlen("worker-")] - '0');
    uint64_t id = w->id;

    if (w->state < 1 || w->state > 4 || !*w->addr) {
        r->rc = -TARN_E_ENTRY_BAD;
        return;
    }
    for (uint64_t i = 1; i < m->next_worker && id == 0; i++)
        if (m->workers[i].uuid == uuid)
            id = i;
    if (id >= m->next_worker) {
        r->rc = -TARN_E_UNKNOWN_WORKER;
        return;
    }
    if (id && m->workers[id].uuid != uuid) {
        r->rc = -TARN_E_ENTRY_BAD;
        return;
    }
    if (!id)
        id = m->next_worker++;
    assert_true(id <= MODEL_WORKERS);
    if (m->workers[id].state != w->state)
        m->workers[id].since_ns = e->time_ns;
    m->workers[id].uuid = uuid;
    m->workers[id].weight = w->weight;
    m->workers[id].state = w->state;
    r->worker = id;
    model_ended(m, &before, index);
}

static void model_told(struct model *m, uint64_t index, uint64_t upto, struct model_result *r)
{
    if (upto >= index)
        r->rc = -TARN_E_ENTRY_BAD;
    else if (m->untold && m->untold <= upto)
        m->untold = m->change > upto ? upto + 1 : 0;
}

static void model_member(struct model *m, uint64_t index, const Tarn__Core__Entry *e,
                         struct model_result *r)
{
    if (e->worker_put) {
        model_worker(m, index, e, r);
    } else if (e->past_drop) {
        if (e->past_drop->upto >= index)
            r->rc = -TARN_E_ENTRY_BAD;
        for (size_t i = 0; i < m->past_n && r->rc == 0; i++)
            if (m->past[i].index <= e->past_drop->upto)
                m->past[i].index = 0;
    } else if (e->told) {
        model_told(m, index, e->told->upto, r);
    } else if (e->cap_key->key.len != 32) {
        r->rc = -TARN_E_ENTRY_BAD;
    } else if (m->has_key) {
        r->rc = -TARN_E_EXISTS;
    } else {
        m->has_key = true;
        m->key = e->cap_key->key.data[0];
    }
}

static void model_tell(struct model *m, uint64_t index, const struct model_result *r)
{
    if (r->change_count == 0)
        return;
    m->change = index;
    if (!m->untold)
        m->untold = index;
    for (size_t i = 0; i < r->change_count; i++) {
        struct model_inode *dir = &m->inodes[r->changes[i].parent];

        if (r->changes[i].version == 0 && dir->exists && !dir->detached)
            dir->removed_index = index;
    }
}

void model_apply(struct model *m, uint64_t index, const Tarn__Core__Entry *e,
                 struct model_result *r)
{
    if (e->init) {
        if (m->inited) {
            r->rc = -TARN_E_EXISTS;
            return;
        }
        m->inited = true;
        m->inodes[1] = (struct model_inode){
            .exists = true, .type = 2, .parent = 1, .version = index, .changed = index};
        r->ino = 1;
        r->created = 1;
    } else if (e->attach) {
        model_attach(m, index, e->time_ns, e->attach, r);
    } else if (e->detach) {
        model_detach(m, index, e->detach->id, r);
    } else if (e->list_begin) {
        model_list_begin(m, index, e->time_ns, e->list_begin, r);
    } else if (e->list_page) {
        model_list_page(m, index, e->list_page, r);
    } else if (e->found) {
        model_found(m, index, e->found, r);
    } else if (e->gone) {
        model_gone(m, index, e->gone, r);
    } else if (e->collect) {
        model_collect(m, index, e->collect, r);
    } else if (e->start) {
        (void)model_take_inos(m, e->start->inos);
    } else if (e->worker_put || e->past_drop || e->cap_key || e->told) {
        model_member(m, index, e, r);
    } else {
        model_job(m, e, r);
    }
    model_tell(m, index, r);
}
