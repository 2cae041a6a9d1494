/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whole-store checker. Each kind of key is walked once and asks for what it implies; since each
 * reachable inode has exactly one dentry and one order key, and both name it, equal numbers mean
 * that nothing is orphaned. Counts are added up anew.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "lib/base/mem.h"
#include "master/core/core_priv.h"

struct check_counts {
    struct check_counts *next;
    uint32_t id;          /* attachment */
    Tarn__Core__Counts c; /* added up */
    bool seen;            /* a stored one was compared */
};

struct check {
    struct core_src src;                /* committed state */
    struct tarn_errbuf *err;            /* the caller's */
    struct check_counts *counts;        /* of each attachment that an inode names */
    uint64_t reachable;                 /* inodes with a name */
    uint64_t detached;                  /* inodes without */
    uint64_t dentries, orders, garbage; /* keys */
    uint64_t ino_max;                   /* greatest id */
    Tarn__Core__Attachment *attachments[TARN_ATTACHMENTS_MAX]; /* decoded */
    size_t attachment_count;                                   /* of them */
    uint64_t applied;                                          /* index */
    uint64_t workers;                                          /* known ones */
};

#define CHECK_FAIL(c, ...) tarn_err_set((c)->err, -TARN_E_KV_CORRUPT, __VA_ARGS__)

typedef int check_fn(struct check *c, struct tarn_kv_slice key, struct tarn_kv_slice value);

static int check_walk(struct check *c, unsigned cf, char tag, check_fn *fn)
{
    struct tarn_kv_iter *it = tarn_kv_iter_new(c->src.kv, NULL, cf, tarn_kv_slice(&tag, 1));
    int rc;

    while ((rc = tarn_kv_iter_next(it)) == 1) {
        rc = fn(c, tarn_kv_iter_key(it), tarn_kv_iter_value(it));
        if (rc < 0)
            break;
    }
    tarn_kv_iter_free(&it);
    return rc;
}

static uint64_t check_id(struct tarn_kv_slice key, size_t at)
{
    return core_get_be64((const uint8_t *)key.p + at);
}

/* True when there is a key of this tag and id. */
static bool check_has(struct check *c, unsigned cf, const struct core_key *k)
{
    struct tarn_str v = {0};
    int rc = core_get(&c->src, cf, k, &v);

    tarn_str_fini(&v);
    return rc == 0;
}

static bool check_has_id(struct check *c, unsigned cf, char tag, uint64_t id)
{
    struct core_key k;

    core_key_id(&k, tag, id);
    return check_has(c, cf, &k);
}

static struct check_counts *check_counts_of(struct check *c, uint32_t id)
{
    struct check_counts *n;

    for (n = c->counts; n; n = n->next)
        if (n->id == id)
            return n;
    n = tarn_xnew(struct check_counts);
    n->id = id;
    tarn__core__counts__init(&n->c);
    n->next = c->counts;
    c->counts = n;
    return n;
}

/* ---- inodes
 * --------------------------------------------------------------------------------------------- */

static int check_count_inode(struct check *c, uint64_t ino, const Tarn__Core__Inode *i)
{
    struct check_counts *n = check_counts_of(c, i->attachment);
    Tarn__Core__DirState *st;
    int rc;

    if (i->type == CORE_TYPE_FILE) {
        n->c.files++;
        n->c.bytes += i->ufs ? i->ufs->size : 0;
    } else if (i->type == CORE_TYPE_SYMLINK) {
        n->c.symlinks++;
    } else {
        n->c.dirs++;
        rc = tarn_core_dir_state(c->src.kv, (tarn_ino_t){ino}, &st);
        if (rc < 0)
            return rc;
        n->c.dirs_listed += st->listed_ns != 0;
        tarn__core__dir_state__free_unpacked(st, NULL);
    }
    return 0;
}

static int check_form(struct check *c, uint64_t ino, const Tarn__Core__Inode *i)
{
    uint64_t size = i->ufs ? i->ufs->size : 0;

    if (i->type < CORE_TYPE_FILE || i->type > CORE_TYPE_SYMLINK)
        return CHECK_FAIL(c, "inode %" PRIu64 ": type %u", ino, i->type);
    if (i->version > i->changed || i->changed > c->applied || i->version == 0)
        return CHECK_FAIL(c, "inode %" PRIu64 ": version %" PRIu64 " changed %" PRIu64, ino,
                          i->version, i->changed);
    if (i->cid.len != (i->type == CORE_TYPE_FILE && size > 0 ? sizeof(tarn_cid_t) : 0))
        return CHECK_FAIL(c, "inode %" PRIu64 ": cid of %zu bytes", ino, i->cid.len);
    if (i->detached && i->type != CORE_TYPE_DIR)
        return CHECK_FAIL(c, "inode %" PRIu64 ": detached and no directory", ino);
    return 0;
}

static const Tarn__Core__Attachment *check_attachment_of(const struct check *c, uint32_t id)
{
    for (size_t i = 0; i < c->attachment_count; i++)
        if (c->attachments[i]->id == id)
            return c->attachments[i];
    return NULL;
}

/* The root of an attachment, or a directory on the way to one; of no store only there. */
static int check_held(struct check *c, uint64_t ino, const Tarn__Core__Inode *i)
{
    const Tarn__Core__Attachment *a = check_attachment_of(c, i->attachment);
    struct tarn_str path = {0};
    bool needed = a && a->root == ino;
    int rc;

    if (!i->held)
        return i->attachment != 0
                   ? 0
                   : CHECK_FAIL(c, "inode %" PRIu64 ": of no store, and not held", ino);
    if (i->type != CORE_TYPE_DIR || (i->attachment != 0 && !a))
        return CHECK_FAIL(c, "inode %" PRIu64 ": held and not fit for it", ino);
    rc = tarn_core_path(c->src.kv, (tarn_ino_t){ino}, &path);
    for (size_t k = 0; k < c->attachment_count && rc == 0; k++)
        needed |= tarn_core_path_below(c->attachments[k]->path, path.p, path.len);
    if (rc < 0 || !needed)
        rc = CHECK_FAIL(c, "inode %" PRIu64 ": held for nothing (%s)", ino, tarn_strerror(rc));
    tarn_str_fini(&path);
    return rc;
}

/* Names in a directory of a store are the store's, or held; those of the cluster are held. */
static bool check_fits(const Tarn__Core__Inode *i, const Tarn__Core__Inode *parent)
{
    if (parent->type != CORE_TYPE_DIR)
        return false;
    if (!i->held)
        return i->attachment != 0 && parent->attachment == i->attachment;
    return parent->held || i->parent == TARN_INO_ROOT.v;
}

/* A name leads to it, in a directory that may have it. */
static int check_reachable(struct check *c, uint64_t ino, const Tarn__Core__Inode *i)
{
    Tarn__Core__Inode *parent;
    tarn_ino_t named = {0};
    struct core_key k;
    uint32_t type = 0;
    int rc;

    rc = core_get_dentry(&c->src, i->parent, i->name.data, i->name.len, NULL, &named, &type);
    if (rc < 0 || named.v != ino || type != i->type)
        return CHECK_FAIL(c, "inode %" PRIu64 ": its name leads to %" PRIu64 " (%s)", ino, named.v,
                          tarn_strerror(rc));
    core_key_id2(&k, CORE_TAG_ORDER, i->parent, ino);
    if (!check_has(c, TARN_CF_META, &k))
        return CHECK_FAIL(c, "inode %" PRIu64 ": not in the order of its directory", ino);
    rc = tarn_core_inode(c->src.kv, (tarn_ino_t){i->parent}, &parent);
    if (rc < 0)
        return CHECK_FAIL(c, "inode %" PRIu64 ": parent %" PRIu64 ": %s", ino, i->parent,
                          tarn_strerror(rc));
    if (!check_fits(i, parent))
        rc = CHECK_FAIL(c, "inode %" PRIu64 ": parent %" PRIu64 " is not fit for it", ino,
                        i->parent);
    tarn__core__inode__free_unpacked(parent, NULL);
    return rc;
}

static int check_inode_decoded(struct check *c, uint64_t ino, const Tarn__Core__Inode *i)
{
    int rc;

    rc = check_form(c, ino, i);
    if (rc < 0)
        return rc;
    if (i->detached) {
        c->detached++;
        if (!check_has_id(c, TARN_CF_META, CORE_TAG_GARBAGE, ino))
            return CHECK_FAIL(c, "inode %" PRIu64 ": detached and forgotten", ino);
        return 0;
    }
    if (ino != TARN_INO_ROOT.v) {
        c->reachable++;
        rc = check_reachable(c, ino, i);
        if (rc == 0)
            rc = check_held(c, ino, i);
    } else if (i->type != CORE_TYPE_DIR || i->name.len != 0 || i->held) {
        rc = CHECK_FAIL(c, "the root is damaged");
    }
    if (rc == 0 && i->attachment != 0)
        rc = check_count_inode(c, ino, i);
    return rc;
}

static int check_inode(struct check *c, struct tarn_kv_slice key, struct tarn_kv_slice value)
{
    Tarn__Core__Inode *i;
    uint64_t ino;
    void *m;
    int rc;

    if (key.n != 9)
        return CHECK_FAIL(c, "an inode's key of %zu bytes", key.n);
    ino = check_id(key, 1);
    rc = core_decode(&tarn__core__inode__descriptor, value, NULL, &m);
    if (rc < 0)
        return CHECK_FAIL(c, "inode %" PRIu64 ": unreadable", ino);
    i = m;
    c->ino_max = ino;
    rc = check_inode_decoded(c, ino, i);
    tarn__core__inode__free_unpacked(i, NULL);
    return rc;
}

/* ---- the keys beside them
 * --------------------------------------------------------------------------------- */

static int check_dentry(struct check *c, struct tarn_kv_slice key, struct tarn_kv_slice value)
{
    const char *name = (const char *)key.p + 9;
    Tarn__Core__Inode *i;
    tarn_ino_t ino;
    uint32_t type;
    int rc;

    c->dentries++;
    if (key.n < 9 || !tarn_name_ok(name, key.n - 9))
        return CHECK_FAIL(c, "a bad name's key");
    rc = core_dentry_decode(value, NULL, &ino, &type);
    if (rc == 0)
        rc = tarn_core_inode(c->src.kv, ino, &i);
    if (rc < 0)
        return CHECK_FAIL(c, "name %.*s: %s", (int)(key.n - 9), name, tarn_strerror(rc));
    if (i->parent != check_id(key, 1) || i->type != type || i->detached ||
        core_compare(i->name.data, i->name.len, name, key.n - 9) != 0)
        rc = CHECK_FAIL(c, "name %.*s: inode %" PRIu64 " knows nothing of it", (int)(key.n - 9),
                        name, ino.v);
    tarn__core__inode__free_unpacked(i, NULL);
    return rc;
}

static int check_order(struct check *c, struct tarn_kv_slice key, struct tarn_kv_slice value)
{
    Tarn__Core__Inode *i;
    int rc;

    c->orders++;
    if (key.n != 17 || value.n != 0)
        return CHECK_FAIL(c, "a bad order key");
    rc = tarn_core_inode(c->src.kv, (tarn_ino_t){check_id(key, 9)}, &i);
    if (rc < 0)
        return CHECK_FAIL(c, "order key of inode %" PRIu64 ": %s", check_id(key, 9),
                          tarn_strerror(rc));
    if (i->parent != check_id(key, 1) || i->detached)
        rc = CHECK_FAIL(c, "order key of inode %" PRIu64 ": not of this directory",
                        check_id(key, 9));
    tarn__core__inode__free_unpacked(i, NULL);
    return rc;
}

static int check_garbage(struct check *c, struct tarn_kv_slice key, struct tarn_kv_slice value)
{
    c->garbage++;
    if (key.n != 9 || value.n != 0)
        return CHECK_FAIL(c, "a bad garbage key");
    return 0; /* as many as detached inodes, which each have one */
}

static int check_dir_state(struct check *c, struct tarn_kv_slice key, struct tarn_kv_slice value)
{
    Tarn__Core__DirState *st;
    Tarn__Core__Inode *i;
    void *m;
    int rc;

    rc = key.n == 9 ? core_decode(&tarn__core__dir_state__descriptor, value, NULL, &m)
                    : -TARN_E_KV_CORRUPT;
    if (rc < 0)
        return CHECK_FAIL(c, "an unreadable directory state");
    st = m;
    if (!st->running && (st->upto_key.len || st->asked_index || st->started_ns))
        rc = CHECK_FAIL(c, "directory %" PRIu64 ": leftovers of a run", check_id(key, 1));
    if (st->listed_index > c->applied || st->asked_index > c->applied ||
        st->removed_index > c->applied)
        rc = CHECK_FAIL(c, "directory %" PRIu64 ": an index of the future", check_id(key, 1));
    tarn__core__dir_state__free_unpacked(st, NULL);
    if (rc < 0)
        return rc;
    rc = tarn_core_inode(c->src.kv, (tarn_ino_t){check_id(key, 1)}, &i);
    if (rc < 0)
        return CHECK_FAIL(c, "directory state of %" PRIu64 ": %s", check_id(key, 1),
                          tarn_strerror(rc));
    if (i->type != CORE_TYPE_DIR)
        rc = CHECK_FAIL(c, "directory state of %" PRIu64 ": not a directory", check_id(key, 1));
    tarn__core__inode__free_unpacked(i, NULL);
    return rc;
}

static int check_skipped(struct check *c, struct tarn_kv_slice key, struct tarn_kv_slice value)
{
    if (key.n != 9 || value.n < 2 || value.n > TARN_CORE_SKIPPED_MAX ||
        !check_has_id(c, TARN_CF_META, CORE_TAG_DIR, check_id(key, 1)))
        return CHECK_FAIL(c, "names left out of no listing");
    return 0;
}

static int check_stored_counts(struct check *c, struct tarn_kv_slice key,
                               struct tarn_kv_slice value)
{
    const Tarn__Core__Counts *s;
    struct check_counts *n;
    uint32_t id;
    void *m;
    int rc = 0;

    if (key.n != 5 || core_decode(&tarn__core__counts__descriptor, value, NULL, &m) < 0)
        return CHECK_FAIL(c, "unreadable counts");
    memcpy(&id, (const uint8_t *)key.p + 1, sizeof(id));
    n = check_counts_of(c, __builtin_bswap32(id));
    n->seen = true;
    s = m;
    if (s->dirs == 0 && s->files == 0 && s->symlinks == 0)
        rc = CHECK_FAIL(c, "attachment %u: counts of nothing", n->id);
    else if (s->files != n->c.files || s->dirs != n->c.dirs || s->bytes != n->c.bytes ||
             s->symlinks != n->c.symlinks || s->dirs_listed != n->c.dirs_listed)
        rc = CHECK_FAIL(c,
                        "attachment %u: files %" PRIu64 "/%" PRIu64 " dirs %" PRIu64 "/%" PRIu64
                        " bytes %" PRIu64 "/%" PRIu64 " symlinks %" PRIu64 "/%" PRIu64
                        " listed %" PRIu64 "/%" PRIu64,
                        n->id, s->files, n->c.files, s->dirs, n->c.dirs, s->bytes, n->c.bytes,
                        s->symlinks, n->c.symlinks, s->dirs_listed, n->c.dirs_listed);
    tarn__core__counts__free_unpacked(m, NULL);
    return rc;
}

/* Its root is where its path leads, and has no other store. */
static int check_attachment_root(struct check *c, const Tarn__Core__Attachment *a)
{
    Tarn__Core__Inode *root = NULL;
    struct tarn_str path = {0};
    int rc;

    rc = tarn_core_inode(c->src.kv, (tarn_ino_t){a->root}, &root);
    if (rc == 0)
        rc = tarn_core_path(c->src.kv, (tarn_ino_t){a->root}, &path);
    if (rc < 0 || root->attachment != a->id || root->detached ||
        strcmp(tarn_str_z(&path), a->path) != 0)
        rc = CHECK_FAIL(c, "attachment %u at %s: its root %" PRIu64 " is not there (%s)", a->id,
                        a->path, a->root, tarn_strerror(rc));
    tarn__core__inode__free_unpacked(root, NULL);
    tarn_str_fini(&path);
    return rc;
}

static int check_attachment(struct check *c, struct tarn_kv_slice key, struct tarn_kv_slice value)
{
    Tarn__Core__Attachment *a;
    struct core_key k;
    uint32_t next;
    void *m;
    int rc;

    if (c->attachment_count == TARN_ATTACHMENTS_MAX ||
        core_decode(&tarn__core__attachment__descriptor, value, NULL, &m) < 0)
        return CHECK_FAIL(c, "an unreadable attachment, or one too many");
    a = m;
    c->attachments[c->attachment_count++] = a;
    core_key_id32(&k, CORE_TAG_ATTACHMENT, a->id);
    if (core_compare(key.p, key.n, k.b, k.n) != 0)
        return CHECK_FAIL(c, "attachment %u is damaged", a->id);
    for (size_t i = 0; i + 1 < c->attachment_count; i++)
        if (strcmp(c->attachments[i]->path, a->path) == 0)
            return CHECK_FAIL(c, "two attachments at %s", a->path);
    core_key_id32(&k, CORE_TAG_COUNTS, a->id);
    if (!check_has(c, TARN_CF_META, &k))
        return CHECK_FAIL(c, "attachment %u has no counts", a->id);
    rc = tarn_core_next_attachment(c->src.kv, &next);
    if (rc == 0 && next <= a->id)
        rc = CHECK_FAIL(c, "attachment %u exists, next is %u", a->id, next);
    return rc < 0 ? rc : check_attachment_root(c, a);
}

static int check_line(struct check *c, struct tarn_kv_slice key, struct tarn_kv_slice value)
{
    Tarn__Core__JobRecord *job;
    void *m;
    int rc;

    if (key.n != 17 || core_decode(&tarn__core__job_line__descriptor, value, NULL, &m) < 0)
        return CHECK_FAIL(c, "an unreadable manifest line");
    tarn__core__job_line__free_unpacked(m, NULL);
    rc = tarn_core_job(c->src.kv, check_id(key, 1), &job);
    if (rc < 0)
        return CHECK_FAIL(c, "a manifest line of job %" PRIu64 ": %s", check_id(key, 1),
                          tarn_strerror(rc));
    if (check_id(key, 9) >= job->manifest_next)
        rc = CHECK_FAIL(c, "job %" PRIu64 ": a manifest line of the future", check_id(key, 1));
    tarn__core__job_record__free_unpacked(job, NULL);
    return rc;
}

static int check_item(struct check *c, struct tarn_kv_slice key, struct tarn_kv_slice value)
{
    Tarn__Core__JobRecord *job;
    void *m;
    int rc;

    if (key.n != 17 || core_decode(&tarn__core__job_item__descriptor, value, NULL, &m) < 0)
        return CHECK_FAIL(c, "an unreadable list item");
    tarn__core__job_item__free_unpacked(m, NULL);
    rc = tarn_core_job(c->src.kv, check_id(key, 1), &job);
    if (rc < 0)
        return CHECK_FAIL(c, "a list item of job %" PRIu64 ": %s", check_id(key, 1),
                          tarn_strerror(rc));
    if (check_id(key, 9) >= job->items_next)
        rc = CHECK_FAIL(c, "job %" PRIu64 ": a list item of the future", check_id(key, 1));
    tarn__core__job_record__free_unpacked(job, NULL);
    return rc;
}

static int check_job(struct check *c, struct tarn_kv_slice key, struct tarn_kv_slice value)
{
    Tarn__Core__JobRecord *job;
    void *m;
    int rc = 0;

    if (key.n != 9 || core_decode(&tarn__core__job_record__descriptor, value, NULL, &m) < 0)
        return CHECK_FAIL(c, "an unreadable job");
    job = m;
    if (job->id != check_id(key, 1))
        rc = CHECK_FAIL(c, "job %" PRIu64 " is stored as another", job->id);
    tarn__core__job_record__free_unpacked(job, NULL);
    return rc;
}

/* ---- members
 * --------------------------------------------------------------------------------------------- */

static int check_worker(struct check *c, struct tarn_kv_slice key, struct tarn_kv_slice value)
{
    Tarn__Core__Worker *w;
    uint64_t next = 0;
    void *m;
    int rc;

    if (key.n != 9 || core_decode(&tarn__core__worker__descriptor, value, NULL, &m) < 0)
        return CHECK_FAIL(c, "an unreadable worker");
    w = m;
    rc = core_get_u64(&c->src, CORE_X_NEXT_WORKER, &next);
    if (rc < 0 || w->id == 0 || w->id != check_id(key, 1) || w->id >= next)
        rc = CHECK_FAIL(c, "worker %" PRIu64 ": next is %" PRIu64, w->id, next);
    else if (w->state < CORE_WORKER_LIVE || w->state > CORE_WORKER_REMOVED || !*w->uuid ||
             !*w->addr)
        rc = CHECK_FAIL(c, "worker %" PRIu64 ": state %u", w->id, w->state);
    if (++c->workers > TARN_CORE_WORKERS_MAX)
        rc = CHECK_FAIL(c, "more workers than there may be");
    tarn__core__worker__free_unpacked(w, NULL);
    return rc;
}

static bool check_set_ok(const Tarn__Core__Members *s, uint64_t index_min, uint64_t index_max)
{
    if (s->n_ids == 0 || s->n_ids != s->n_weights || s->index < index_min || s->index > index_max)
        return false;
    for (size_t i = 0; i < s->n_ids; i++)
        if (s->weights[i] == 0 || s->ids[i] <= (i ? s->ids[i - 1] : 0))
            return false;
    return true;
}

static int check_placement(struct check *c)
{
    Tarn__Core__Placement *p;
    size_t ids = 0;
    int rc;

    rc = tarn_core_placement(c->src.kv, &p);
    if (rc < 0)
        return CHECK_FAIL(c, "the placement is unreadable");
    for (size_t i = 0; i < p->n_past && rc == 0; i++) {
        ids += p->past[i]->n_ids;
        if (!check_set_ok(p->past[i], i ? p->past[i - 1]->index + 1 : 1, c->applied))
            rc = CHECK_FAIL(c, "set of owners %zu of %zu is damaged", i, p->n_past);
    }
    if (rc == 0 && (p->n_past > TARN_CORE_PAST_MAX || ids > TARN_CORE_PAST_IDS_MAX))
        rc = CHECK_FAIL(c, "%zu sets of owners with %zu workers", p->n_past, ids);
    tarn__core__placement__free_unpacked(p, NULL);
    return rc;
}

/* What is not told yet begins with a change, and the last change is none of the future. */
static int check_untold(struct check *c)
{
    uint64_t untold, change;
    int rc = tarn_core_last_change(c->src.kv, &change);

    if (rc == 0)
        rc = tarn_core_untold(c->src.kv, &untold);
    if (rc == 0 && (untold > change || change > c->applied))
        return CHECK_FAIL(c, "changed %" PRIu64 ", not told from %" PRIu64, change, untold);
    return rc;
}

static int check_totals(struct check *c)
{
    uint64_t next_ino;
    int rc;

    if (c->dentries != c->reachable || c->orders != c->reachable)
        return CHECK_FAIL(c, "%" PRIu64 " inodes, %" PRIu64 " names, %" PRIu64 " order keys",
                          c->reachable, c->dentries, c->orders);
    if (c->garbage != c->detached)
        return CHECK_FAIL(c, "%" PRIu64 " detached, %" PRIu64 " remembered", c->detached,
                          c->garbage);
    for (const struct check_counts *n = c->counts; n; n = n->next)
        if (!n->seen)
            return CHECK_FAIL(c, "attachment %u: no counts", n->id);
    rc = check_untold(c);
    if (rc < 0)
        return rc;
    rc = core_get_u64(&c->src, CORE_X_NEXT_INO, &next_ino);
    if (rc == -TARN_E_NO_ENTRY)
        return c->ino_max == 0 ? 0 : CHECK_FAIL(c, "inodes without an Init");
    if (rc == 0 && next_ino <= c->ino_max)
        return CHECK_FAIL(c, "inode %" PRIu64 " exists, next is %" PRIu64, c->ino_max, next_ino);
    return rc;
}

int tarn_core_check(struct tarn_kv *kv, struct tarn_errbuf *err)
{
    static const struct {
        unsigned cf;
        char tag;
        check_fn *fn;
    } walks[] = {
        {TARN_CF_META, CORE_TAG_ATTACHMENT, check_attachment}, /* first: inodes are held for them */
        {TARN_CF_META, CORE_TAG_INODE, check_inode},           /* adds up what the others compare */
        {TARN_CF_META, CORE_TAG_DENTRY, check_dentry},
        {TARN_CF_META, CORE_TAG_ORDER, check_order},
        {TARN_CF_META, CORE_TAG_GARBAGE, check_garbage},
        {TARN_CF_META, CORE_TAG_DIR, check_dir_state},
        {TARN_CF_META, CORE_TAG_SKIPPED, check_skipped},
        {TARN_CF_META, CORE_TAG_COUNTS, check_stored_counts},
        {TARN_CF_META, CORE_TAG_WORKER, check_worker},
        {TARN_CF_JOBS, CORE_TAG_JOB, check_job},
        {TARN_CF_JOBS, CORE_TAG_LINE, check_line},
        {TARN_CF_JOBS, CORE_TAG_ITEM, check_item},
    };
    struct check c = {.src = {kv, NULL}, .err = err};
    int rc;

    rc = tarn_core_applied_index(kv, &c.applied);
    for (size_t i = 0; i < TARN_ARRAY_LEN(walks) && rc == 0; i++)
        rc = check_walk(&c, walks[i].cf, walks[i].tag, walks[i].fn);
    if (rc == 0)
        rc = check_placement(&c);
    if (rc == 0)
        rc = check_totals(&c);
    while (c.counts) {
        struct check_counts *n = c.counts;

        c.counts = n->next;
        free(n);
    }
    while (c.attachment_count > 0)
        tarn__core__attachment__free_unpacked(c.attachments[--c.attachment_count], NULL);
    return rc;
}
