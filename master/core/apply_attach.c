/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Attachments: Attach and Detach.
 *
 * The way to an attachment is the chain of directories from the root of the name space to its own
 * root. What the way lacks is made: directories of no store (attachment 0). All of the way below
 * the root of the name space is *held*: no answer of a store removes or replaces it
 * (core_name_covered). The root of an attachment covers what a store has under that name; a
 * directory on the way is the store's where the store has one, and the cluster's own else.
 *
 *     /            attachment 1's root
 *     /a           held: a directory of attachment 1, on the way to 2
 *     /a/b         held: no store has it
 *     /a/b/c       held: attachment 2's root
 *
 * A detach takes the root's name, and then from below what was there for its sake alone: empty
 * directories of no store go, directories of stores are held no longer. What a store has under such
 * a name nobody knows, so the listing of the directory that it is in is not believed any more.
 *
 * The root of the name space cannot go: it is marked detached, shows nothing, and when Collect has
 * emptied it, it is as before. Until then nothing can be attached.
 */
#include "lib/base/mem.h"
#include "master/core/core_priv.h"

/* All attachments, as they were before the entry. In the arena. */
struct attach_set {
    Tarn__Core__Attachment **all; /* ascending by id */
    size_t n;                     /* of them */
    uint64_t next;                /* smallest id of a new one */
};

struct way_step {
    const char *name;         /* in the path; "" for the root */
    size_t len;               /* of it */
    size_t path_len;          /* of the path up to here; 1 for the root */
    tarn_ino_t ino;           /* 0: not there */
    Tarn__Core__Inode *inode; /* the same */
};

struct way {
    const char *path;       /* borrowed */
    struct way_step *steps; /* from the root of the name space; in the arena */
    size_t n;               /* at least 1 */
};

/* ---- what is attached ----------------------------------------------------------------------- */

static int set_scan(struct core_tx *tx, struct attach_set *set)
{
    const char tag = CORE_TAG_ATTACHMENT;
    struct tarn_kv_iter *it =
        tarn_kv_iter_new(tx->src.kv, tx->src.b, TARN_CF_META, tarn_kv_slice(&tag, 1));
    void *m;
    int rc;

    while ((rc = tarn_kv_iter_next(it)) == 1) {
        rc = core_decode(&tarn__core__attachment__descriptor, tarn_kv_iter_value(it), &tx->al, &m);
        if (rc == 0 && set->n == TARN_ATTACHMENTS_MAX)
            rc = -TARN_E_KV_CORRUPT;
        if (rc < 0)
            break;
        set->all[set->n++] = m;
    }
    tarn_kv_iter_free(&it);
    return rc < 0 ? rc : 0;
}

static int set_load(struct core_tx *tx, struct attach_set *set)
{
    int rc;

    set->n = 0;
    set->all =
        core_arena_alloc(&tx->arena, TARN_ATTACHMENTS_MAX * sizeof(Tarn__Core__Attachment *));
    rc = set_scan(tx, set);
    if (rc < 0)
        return rc;
    rc = core_get_u64(&tx->src, CORE_X_NEXT_ATT, &set->next);
    if (rc == -TARN_E_NO_ENTRY) { /* nothing was ever detached here */
        set->next = set->n ? set->all[set->n - 1]->id + 1ull : 1;
        rc = 0;
    }
    return rc;
}

static Tarn__Core__Attachment *set_by_id(const struct attach_set *set, uint32_t id)
{
    for (size_t i = 0; i < set->n; i++)
        if (set->all[i]->id == id)
            return set->all[i];
    return NULL;
}

static Tarn__Core__Attachment *set_at(const struct attach_set *set, const char *path, size_t len)
{
    for (size_t i = 0; i < set->n; i++)
        if (strlen(set->all[i]->path) == len && memcmp(set->all[i]->path, path, len) == 0)
            return set->all[i];
    return NULL;
}

bool tarn_core_path_below(const char *path, const char *dir, size_t dir_len)
{
    if (dir_len == 1)
        return path[1] != 0;
    return strncmp(path, dir, dir_len) == 0 && path[dir_len] == '/';
}

static bool set_below(const struct attach_set *set, const char *dir, size_t len)
{
    for (size_t i = 0; i < set->n; i++)
        if (tarn_core_path_below(set->all[i]->path, dir, len))
            return true;
    return false;
}

static void set_drop(struct attach_set *set, const Tarn__Core__Attachment *a)
{
    size_t kept = 0;

    for (size_t i = 0; i < set->n; i++)
        if (set->all[i] != a)
            set->all[kept++] = set->all[i];
    set->n = kept;
}

/* `many`: this is more than one store at the root of the name space, and always the same. */
static void attach_put_index(struct core_tx *tx, uint64_t next, bool many)
{
    if (many)
        core_tx_put_u64(tx, CORE_X_FORMAT, CORE_FORMAT_MANY);
    core_tx_put_u64(tx, CORE_X_NEXT_ATT, next);
    core_tx_put_u64(tx, CORE_X_ATTACHED, tx->index);
}

/* ---- the way -------------------------------------------------------------------------------- */

static bool path_is_normal(const char *path)
{
    char normal[TARN_PATH_MAX];

    return tarn_path_normalize(path, normal) == 0 && strcmp(path, normal) == 0;
}

/* What there is of a normal path. */
static int way_walk(struct core_tx *tx, const char *path, struct way *w)
{
    const char *at = path, *name;
    size_t len, max = 2;
    int rc;

    for (const char *p = path; *p; p++)
        max += *p == '/';
    *w = (struct way){.path = path, .n = 1};
    w->steps = core_arena_alloc(&tx->arena, max * sizeof(*w->steps));
    w->steps[0] = (struct way_step){.name = "", .path_len = 1, .ino = TARN_INO_ROOT};
    rc = core_tx_inode(tx, TARN_INO_ROOT, &w->steps[0].inode);
    while (rc == 0 && (name = tarn_path_next(&at, &len)) != NULL) {
        const struct way_step *above = &w->steps[w->n - 1];
        struct way_step *s = &w->steps[w->n++];
        uint32_t type;

        *s = (struct way_step){
            .name = name, .len = len, .path_len = (size_t)(name - path) + len, .ino = {0}};
        if (!above->ino.v || above->inode->type != CORE_TYPE_DIR)
            continue;
        rc = core_get_dentry(&tx->src, above->ino.v, name, len, &tx->al, &s->ino, &type);
        if (rc == 0)
            rc = core_tx_inode(tx, s->ino, &s->inode);
        if (rc == -TARN_E_NO_ENTRY)
            rc = s->ino.v ? -TARN_E_KV_CORRUPT : 0;
    }
    return rc;
}

static struct core_name way_name(const struct way_step *s)
{
    return (struct core_name){.name = s->name, .len = s->len, .ino = s->ino, .inode = s->inode};
}

/* A held directory at step i, which has none; the step above is there. */
static void way_create(struct core_tx *tx, struct way *w, size_t i, uint32_t attachment)
{
    struct way_step *s = &w->steps[i];
    tarn_ino_t parent = w->steps[i - 1].ino;
    Tarn__Core__Inode *inode = core_arena_alloc(&tx->arena, sizeof(*inode));
    Tarn__Core__Version made;

    tarn__core__inode__init(inode);
    tarn__core__version__init(&made);
    made.mtime_ns = tx->time_ns;
    inode->type = CORE_TYPE_DIR;
    inode->parent = parent.v;
    inode->name = (ProtobufCBinaryData){s->len, (uint8_t *)(uintptr_t)s->name};
    inode->version = inode->changed = tx->index;
    inode->attachment = attachment;
    inode->held = true;
    s->ino.v = tx->next_ino++;
    s->inode = inode;
    tx->next_ino_dirty = true;
    tx->res->created++;
    core_name_put(tx, parent, s->name, s->len, s->ino, CORE_TYPE_DIR);
    if (attachment == 0)
        inode->ufs = &made;
    core_tx_put_inode(tx, s->ino, inode);
    inode->ufs = NULL;
    core_tx_change(tx, s->ino, parent, inode->version, s->name, s->len);
}

/* Everything above the last step is there and held afterwards. */
static void way_hold(struct core_tx *tx, struct way *w)
{
    for (size_t i = 1; i + 1 < w->n; i++) {
        struct way_step *s = &w->steps[i];

        if (!s->ino.v) {
            way_create(tx, w, i, 0);
        } else if (!s->inode->held) {
            s->inode->held = true;
            s->inode->changed = tx->index;
            core_tx_put_inode(tx, s->ino, s->inode);
        }
    }
}

static void way_remove_own(struct core_tx *tx, const struct way *w, size_t i)
{
    const struct way_step *s = &w->steps[i];
    struct core_key k;

    core_name_delete(tx, w->steps[i - 1].ino, s->name, s->len, s->ino);
    core_key_id(&k, CORE_TAG_INODE, s->ino.v);
    core_tx_delete(tx, TARN_CF_META, &k);
    core_key_id(&k, CORE_TAG_DIR, s->ino.v); /* it has one where it lost a name */
    core_tx_delete(tx, TARN_CF_META, &k);
    core_tx_change(tx, s->ino, w->steps[i - 1].ino, 0, s->name, s->len);
    tx->res->removed++;
}

static void way_unhold(struct core_tx *tx, const struct way *w, size_t i)
{
    const struct way_step *s = &w->steps[i];

    s->inode->held = false;
    s->inode->changed = tx->index;
    core_tx_put_inode(tx, s->ino, s->inode);
    core_tx_change(tx, s->ino, w->steps[i - 1].ino, s->inode->version, s->name, s->len);
}

/* The name of the last step is free again: lets go of what was held for it alone. */
static int way_release(struct core_tx *tx, const struct way *w, const struct attach_set *left)
{
    for (size_t i = w->n - 1; i-- > 0;) {
        const struct way_step *s = &w->steps[i];
        int rc;

        if (s->inode->attachment != 0) {
            rc = core_dir_distrust(tx, s->ino, s->inode->attachment);
            if (rc < 0)
                return rc;
        }
        if (i == 0 || set_at(left, w->path, s->path_len) || set_below(left, w->path, s->path_len))
            return 0;
        if (s->inode->attachment == 0) {
            way_remove_own(tx, w, i);
            continue;
        }
        way_unhold(tx, w, i);
    }
    return 0;
}

/* ---- attach --------------------------------------------------------------------------------- */

static void attach_store(struct core_tx *tx, const Tarn__Core__Attachment *a)
{
    struct core_key k;

    core_key_id32(&k, CORE_TAG_ATTACHMENT, a->id);
    core_tx_put(tx, TARN_CF_META, &k, &a->base);
    tx->res->ino.v = a->root;
}

/* What is attached already: the store and the isolation domain must be the same. */
static int attach_again(struct core_tx *tx, const struct attach_set *set,
                        const Tarn__Core__Attachment *old, Tarn__Core__Attachment *a)
{
    if (strcmp(old->path, a->path) != 0 || strcmp(old->store_id, a->store_id) != 0 ||
        strcmp(old->isolation, a->isolation) != 0)
        return -TARN_E_EXISTS;
    a->root = old->root;
    if (old->since_ns)
        a->since_ns = old->since_ns;
    attach_store(tx, a);
    attach_put_index(tx, set->next, false);
    return 0;
}

static int attach_check_way(const struct way *w)
{
    if (w->steps[0].inode->detached)
        return -TARN_E_BUSY; /* what was attached there is being collected */
    for (size_t i = 0; i + 1 < w->n; i++)
        if (w->steps[i].ino.v && w->steps[i].inode->type != CORE_TYPE_DIR)
            return -TARN_E_NOT_DIR;
    return 0;
}

/*
 * A directory of a store, on the way to others, becomes the root of an attachment: those others
 * lose their names below it first, and get them anew below the root that takes its place.
 */
static void below_gather(struct core_tx *tx, const struct attach_set *set, const char *path,
                         struct attach_set *ret)
{
    ret->all = core_arena_alloc(&tx->arena, (set->n + 1) * sizeof(Tarn__Core__Attachment *));
    for (size_t i = 0; i < set->n; i++) {
        const char *p = set->all[i]->path;
        bool deeper = false; /* it moves with the one that it lies in */

        if (!tarn_core_path_below(p, path, strlen(path)))
            continue;
        for (size_t k = 0; k < set->n; k++)
            deeper |= tarn_core_path_below(p, set->all[k]->path, strlen(set->all[k]->path)) &&
                      tarn_core_path_below(set->all[k]->path, path, strlen(path));
        if (!deeper)
            ret->all[ret->n++] = set->all[i];
    }
}

static int below_unlink(struct core_tx *tx, const struct attach_set *below)
{
    for (size_t k = 0; k < below->n; k++) {
        const struct way_step *last;
        struct way q;
        int rc = way_walk(tx, below->all[k]->path, &q);

        if (rc < 0)
            return rc;
        last = &q.steps[q.n - 1];
        if (last->ino.v != below->all[k]->root)
            return -TARN_E_KV_CORRUPT;
        core_name_delete(tx, q.steps[q.n - 2].ino, last->name, last->len, last->ino);
    }
    return 0;
}

/* Directories of no store on those ways, below step `top`, go; those of the store go later, with
 * what they are in. */
static int below_let_go(struct core_tx *tx, const struct attach_set *below, size_t top)
{
    for (size_t k = 0; k < below->n; k++) {
        const struct attach_set later = {.all = below->all + k + 1, .n = below->n - k - 1};
        struct way q;
        int rc = way_walk(tx, below->all[k]->path, &q);

        if (rc < 0)
            return rc;
        for (size_t i = q.n - 2; i > top; i--) {
            if (!q.steps[i].ino.v || set_below(&later, q.path, q.steps[i].path_len))
                continue;
            if (q.steps[i].inode->attachment == 0)
                way_remove_own(tx, &q, i);
            else
                way_unhold(tx, &q, i);
        }
    }
    return 0;
}

static int below_link(struct core_tx *tx, const struct attach_set *below)
{
    for (size_t k = 0; k < below->n; k++) {
        struct way_step *last;
        struct way q;
        int rc = way_walk(tx, below->all[k]->path, &q);

        if (rc < 0)
            return rc;
        last = &q.steps[q.n - 1];
        last->ino.v = below->all[k]->root;
        rc = core_tx_inode(tx, last->ino, &last->inode);
        if (rc < 0)
            return rc == -TARN_E_NO_ENTRY ? -TARN_E_KV_CORRUPT : rc;
        way_hold(tx, &q);
        last->inode->parent = q.steps[q.n - 2].ino.v;
        last->inode->changed = tx->index;
        core_name_put(tx, q.steps[q.n - 2].ino, last->name, last->len, last->ino, CORE_TYPE_DIR);
        core_tx_put_inode(tx, last->ino, last->inode);
        core_tx_change(tx, last->ino, q.steps[q.n - 2].ino, last->inode->version, last->name,
                       last->len);
    }
    return 0;
}

/* The last step has an object of a store: it goes, and a root comes in its place. */
static int attach_replace(struct core_tx *tx, const struct attach_set *set, struct way *w,
                          uint32_t id)
{
    struct way_step *s = &w->steps[w->n - 1];
    struct core_name old = way_name(s);
    struct attach_set below = {.n = 0};
    int rc;

    below_gather(tx, set, w->path, &below);
    rc = below_unlink(tx, &below);
    if (rc == 0)
        rc = below_let_go(tx, &below, w->n - 1);
    if (rc == 0)
        rc = core_tx_open_counts(tx, old.inode->attachment);
    if (rc == 0)
        rc = core_name_remove(tx, &old);
    if (rc < 0)
        return rc;
    way_create(tx, w, w->n - 1, id);
    return below_link(tx, &below);
}

/* A directory of no store, or the root of the name space, becomes the root of an attachment. */
static void attach_take(struct core_tx *tx, const struct way *w, uint32_t id)
{
    const struct way_step *s = &w->steps[w->n - 1];

    s->inode->attachment = id;
    s->inode->changed = tx->index;
    s->inode->ufs = NULL;
    core_tx_put_inode(tx, s->ino, s->inode);
    core_tx_change(tx, s->ino, (tarn_ino_t){s->inode->parent}, s->inode->version, s->name, s->len);
}

static int attach_new(struct core_tx *tx, const struct attach_set *set, Tarn__Core__Attachment *a)
{
    struct way_step *last;
    struct way w;
    int rc;

    if (set_at(set, a->path, strlen(a->path)))
        return -TARN_E_EXISTS;
    if (a->id < set->next)
        return -TARN_E_ENTRY_STALE;
    if (set->n == TARN_ATTACHMENTS_MAX)
        return -TARN_E_TOO_BIG;
    rc = way_walk(tx, a->path, &w);
    if (rc == 0)
        rc = attach_check_way(&w);
    if (rc == 0)
        rc = core_tx_reserve_inos(tx, (set->n + 1) * TARN_PATH_MAX);
    if (rc < 0)
        return rc;

    way_hold(tx, &w);
    last = &w.steps[w.n - 1];
    if (!last->ino.v)
        way_create(tx, &w, w.n - 1, a->id);
    else if (last->inode->attachment == 0)
        attach_take(tx, &w, a->id);
    else
        rc = attach_replace(tx, set, &w, a->id);
    if (rc < 0)
        return rc;
    core_tx_new_counts(tx, a->id);
    a->root = last->ino.v;
    attach_store(tx, a);
    attach_put_index(tx, a->id + 1ull, w.n > 1);
    return 0;
}

int core_apply_attach(struct core_tx *tx, const Tarn__Core__Attachment *m)
{
    const Tarn__Core__Attachment *old;
    Tarn__Core__Attachment a = *m;
    struct attach_set set;
    int rc;

    if (a.id == 0 || !path_is_normal(a.path))
        return -TARN_E_ENTRY_BAD;
    rc = set_load(tx, &set);
    if (rc < 0)
        return rc;
    old = set_by_id(&set, a.id);
    return old ? attach_again(tx, &set, old, &a) : attach_new(tx, &set, &a);
}

/* ---- detach --------------------------------------------------------------------------------- */

static int detach_root(struct core_tx *tx, struct way_step *root)
{
    int rc = core_dir_detach(tx, root->ino, root->inode);

    tx->counts.dirs--;
    tx->counts_dirty = true;
    tx->res->removed++;
    core_tx_change(tx, root->ino, root->ino, root->inode->version, "", 0); /* it stays */
    return rc;
}

int core_apply_detach(struct core_tx *tx, const Tarn__Core__Detach *m)
{
    const Tarn__Core__Attachment *a;
    struct core_name name;
    struct attach_set set;
    struct core_key k;
    struct way w;
    int rc;

    rc = set_load(tx, &set);
    if (rc < 0)
        return rc;
    a = set_by_id(&set, m->id);
    if (!a)
        return -TARN_E_NO_ATTACH;
    if (set_below(&set, a->path, strlen(a->path)))
        return -TARN_E_EXISTS;
    rc = way_walk(tx, a->path, &w);
    if (rc == 0 && w.steps[w.n - 1].ino.v != a->root)
        rc = -TARN_E_KV_CORRUPT;
    if (rc == 0)
        rc = core_tx_open_counts(tx, a->id);
    if (rc < 0)
        return rc;

    core_key_id32(&k, CORE_TAG_ATTACHMENT, a->id);
    core_tx_delete(tx, TARN_CF_META, &k);
    attach_put_index(tx, set.next, true);
    set_drop(&set, a);
    name = way_name(&w.steps[w.n - 1]);
    rc = w.n == 1 ? detach_root(tx, &w.steps[0]) : core_name_remove(tx, &name);
    return rc < 0 ? rc : way_release(tx, &w, &set);
}
