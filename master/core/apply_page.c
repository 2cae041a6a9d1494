/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A page of a listing against what is known.
 *
 * Keys and names. A page is in the order of the store's keys, in which a directory is `name/`; the
 * names of a directory are in the order of their bytes. The two differ: `a-b` < `a/`, but `a` <
 * `a-b`. A name n concerns the page if one of its two keys, n or n/, lies in (from, to]. Those are:
 * the names in the range [from, to] of names; and the names D before it for which D/ > from. D <
 * from and D/ > from means that D is a proper prefix of from and that from goes on with a byte
 * below '/'. So they are gathered by one range scan and by one get for each such prefix.
 *
 * The page is then joined with them by name. What the page does not have is removed only when its
 * very own key is inside (from, to]: the directory `a` is not removed by a page that ends before
 * `a/`.
 *
 * A removed directory `a` may have hidden an object `a`. If the key `a` is in the same page, the
 * page tells; if it came earlier, nobody knows (and a page asked before the name became a file
 * cannot say either): the listing then sets dir_removed and is not believed.
 *
 * A page scans at most TARN_CORE_SCAN_MAX known names. Where there are more, it is cut to end at
 * the last one that was seen: everything in front of that key has been seen, so the rules hold for
 * the part. The result says `more`, and upto_key says where to go on.
 */
#include <stdlib.h>

#include "lib/base/mem.h"
#include "master/core/core_priv.h"

#define NONE SIZE_MAX

/* What is to be done with an object of the page. */
struct page_object {
    const Tarn__Core__Object *o; /* the entry's */
    size_t known;                /* place in page.known, or NONE */
    bool shadowed;               /* a directory of that name is in the same page */
};

/* What the page says about a known name. */
struct page_name {
    bool in_range; /* its own key is in (from, to] */
    bool has_file; /* the page has an object of that name that is not a directory */
    bool has_dir;  /* it has a directory */
    bool gone;     /* removed by this page */
};

struct page {
    struct core_tx *tx;               /* the apply */
    const Tarn__Core__ListPage *m;    /* the entry */
    tarn_ino_t dir;                   /* listed */
    Tarn__Core__Inode *dir_inode;     /* its inode */
    Tarn__Core__DirState *st;         /* its run */
    ProtobufCBinaryData from, to;     /* the range; `to` as cut */
    bool complete;                    /* no upper end; false when cut */
    struct core_scan known;           /* names that concern the page, ascending */
    struct page_name *said;           /* one for each of those */
    struct page_object *objects;      /* in page order */
    size_t object_count;              /* those up to `to` */
    const Tarn__Core__Object **fresh; /* those that get an inode, in page order */
    size_t fresh_count;               /* of them */
    bool distrust;                    /* names are unknown that an earlier page covered */
};

/* Compares the key of (name, type) with `key`. */
static int page_compare_key(const void *name, size_t len, bool is_dir, ProtobufCBinaryData key)
{
    size_t n = TARN_MIN(len, key.len);
    int c = n ? memcmp(name, key.data, n) : 0;

    if (c || len > key.len)
        return c ? c : 1;
    if (!is_dir)
        return len < key.len ? -1 : 0;
    if (len == key.len)
        return 1;
    if (key.data[len] != '/')
        return '/' < key.data[len] ? -1 : 1;
    return len + 1 < key.len ? -1 : 0;
}

static bool page_in_range(const struct page *p, const void *name, size_t len, bool is_dir)
{
    return page_compare_key(name, len, is_dir, p->from) > 0 &&
           (p->complete || page_compare_key(name, len, is_dir, p->to) <= 0);
}

static bool page_object_in_range(const struct page *p, const Tarn__Core__Object *o)
{
    return page_in_range(p, o->name.data, o->name.len, o->type == CORE_TYPE_DIR);
}

/* ---- checks
 * ------------------------------------------------------------------------------------------ */

/* True when the key of `a` is before that of `b`. */
static bool page_before(const Tarn__Core__Object *a, const Tarn__Core__Object *b)
{
    uint8_t key[TARN_NAME_MAX + 1];
    size_t n = b->name.len;

    memcpy(key, b->name.data, n);
    if (b->type == CORE_TYPE_DIR)
        key[n++] = '/';
    return page_compare_key(a->name.data, a->name.len, a->type == CORE_TYPE_DIR,
                            (ProtobufCBinaryData){n, key}) < 0;
}

static int page_check_form(const struct page *p)
{
    const Tarn__Core__ListPage *m = p->m;

    if (m->from_key.len > TARN_KEY_MAX || m->to_key.len > TARN_KEY_MAX ||
        !core_asked_ok(p->tx, m->asked_index))
        return -TARN_E_ENTRY_BAD;
    if (!m->complete && core_compare(p->to.data, p->to.len, p->from.data, p->from.len) < 0)
        return -TARN_E_ENTRY_BAD;
    for (size_t i = 0; i < m->n_objects; i++) {
        if (core_object_check(m->objects[i]) < 0 || !page_object_in_range(p, m->objects[i]))
            return -TARN_E_ENTRY_BAD;
        if (i > 0 && !page_before(m->objects[i - 1], m->objects[i]))
            return -TARN_E_ENTRY_BAD;
    }
    return 0;
}

static int page_check_run(struct page *p)
{
    const Tarn__Core__DirState *st;
    Tarn__Core__Inode *inode;
    int rc;

    rc = core_tx_dir(p->tx, p->dir, &inode);
    if (rc < 0)
        return rc;
    rc = core_tx_dir_state(p->tx, p->dir, &p->st);
    if (rc < 0)
        return rc;
    st = p->st;
    if (!st->running || p->m->asked_index < st->asked_index ||
        core_compare(p->from.data, p->from.len, st->upto_key.data, st->upto_key.len) != 0)
        return -TARN_E_ENTRY_STALE;
    return 0;
}

/* ---- what is known
 * ------------------------------------------------------------------------------------- */

/* The known names before `from` whose directory key would be behind it. */
static int page_gather_prefixes(struct page *p)
{
    struct core_tx *tx = p->tx;
    size_t max = TARN_MIN(p->from.len, (size_t)TARN_NAME_MAX + 1);

    for (size_t n = 1; n < p->from.len && n <= TARN_NAME_MAX; n++) {
        tarn_ino_t ino;
        uint32_t type;
        int rc;

        if (p->from.data[n] >= '/')
            continue;
        rc = core_get_dentry(&tx->src, p->dir.v, p->from.data, n, &tx->al, &ino, &type);
        if (rc == 0)
            core_scan_add(tx, &p->known, p->from.data, n, ino);
        else if (rc != -TARN_E_NO_ENTRY)
            return rc;
    }
    TARN_ASSERT(p->known.count <= max);
    return 0;
}

static int page_gather(struct page *p)
{
    int rc;

    rc = page_gather_prefixes(p);
    if (rc == 0)
        rc = core_scan_range(p->tx, &p->known, p->dir, p->from, p->complete ? NULL : &p->to,
                             TARN_CORE_SCAN_MAX);
    if (rc < 0)
        return rc;
    if (p->known.cut) {
        const struct core_name *last = &p->known.names[p->known.count - 1];

        p->complete = false;
        p->to = (ProtobufCBinaryData){last->len, core_arena_alloc(&p->tx->arena, last->len)};
        memcpy(p->to.data, last->name, last->len);
        TARN_ASSERT(core_compare(p->to.data, p->to.len, p->from.data, p->from.len) > 0);
    }
    return core_scan_inodes(p->tx, &p->known, p->dir);
}

/* ---- join by name
 * -------------------------------------------------------------------------------------- */

/* By name; of one name the directory last. */
static int page_by_name(const void *va, const void *vb)
{
    const struct page_object *a = *(struct page_object *const *)va,
                             *b = *(struct page_object *const *)vb;
    int c = core_compare(a->o->name.data, a->o->name.len, b->o->name.data, b->o->name.len);

    return c ? c : (a->o->type == CORE_TYPE_DIR) - (b->o->type == CORE_TYPE_DIR);
}

/* The objects in the order of names. They are nearly so already: often nothing is to be sorted. */
static struct page_object **page_sort(struct page *p)
{
    struct page_object **by_name =
        core_arena_alloc(&p->tx->arena, (p->object_count + 1) * sizeof(*by_name));
    bool sorted = true;

    for (size_t i = 0; i < p->object_count; i++) {
        by_name[i] = &p->objects[i];
        if (i > 0 && page_by_name(&by_name[i - 1], &by_name[i]) > 0)
            sorted = false;
    }
    if (!sorted)
        qsort(by_name, p->object_count, sizeof(struct page_object *), page_by_name);
    return by_name;
}

static void page_join(struct page *p)
{
    struct page_object **by_name = page_sort(p);
    size_t k = 0;

    for (size_t i = 0; i < p->object_count; i++) {
        const Tarn__Core__Object *o = by_name[i]->o;
        int c = -1;

        if (i > 0 && core_compare(by_name[i - 1]->o->name.data, by_name[i - 1]->o->name.len,
                                  o->name.data, o->name.len) == 0)
            by_name[i - 1]->shadowed = true;
        while (k < p->known.count &&
               (c = core_compare(p->known.names[k].name, p->known.names[k].len, o->name.data,
                                 o->name.len)) < 0)
            k++;
        if (k == p->known.count || c != 0)
            continue;
        by_name[i]->known = k;
        if (o->type == CORE_TYPE_DIR)
            p->said[k].has_dir = true;
        else
            p->said[k].has_file = true;
    }
}

static int page_plan(struct page *p)
{
    struct core_tx *tx = p->tx;
    int rc;

    rc = page_gather(p);
    if (rc < 0)
        return rc;
    p->said = core_arena_alloc(&tx->arena, (p->known.count + 1) * sizeof(*p->said));
    for (size_t i = 0; i < p->known.count; i++) {
        const struct core_name *n = &p->known.names[i];

        p->said[i] = (struct page_name){0};
        p->said[i].in_range = page_in_range(p, n->name, n->len, n->inode->type == CORE_TYPE_DIR);
    }
    p->objects = core_arena_alloc(&tx->arena, (p->m->n_objects + 1) * sizeof(*p->objects));
    for (size_t i = 0; i < p->m->n_objects && page_object_in_range(p, p->m->objects[i]); i++) {
        p->objects[i] = (struct page_object){.o = p->m->objects[i], .known = NONE};
        p->object_count++;
    }
    p->fresh = core_arena_alloc(&tx->arena, (p->m->n_objects + 1) * sizeof(*p->fresh));
    page_join(p);
    return core_tx_reserve_inos(tx, p->object_count);
}

/* ---- writing
 * ------------------------------------------------------------------------------------------- */

static bool page_newer(const struct page *p, const struct core_name *n)
{
    return n->inode->changed > p->m->asked_index;
}

/* Removes the known names whose key the page covers and does not have. */
static int page_sweep(struct page *p)
{
    const struct core_name **gone =
        core_arena_alloc(&p->tx->arena, (p->known.count + 1) * sizeof(struct core_name *));
    size_t count = 0;

    for (size_t i = 0; i < p->known.count; i++) {
        const struct core_name *n = &p->known.names[i];
        struct page_name *said = &p->said[i];
        bool is_dir = n->inode->type == CORE_TYPE_DIR;

        if (!said->in_range || said->has_dir || (!is_dir && said->has_file) || page_newer(p, n))
            continue;
        if (core_name_covered(p->tx, n->inode, NULL))
            continue;
        if (is_dir && !page_in_range(p, n->name, n->len, false))
            p->distrust = true; /* it may have hidden an object of the same name */
        said->gone = true;
        gone[count++] = n;
    }
    return core_names_remove(p->tx, gone, count);
}

static int page_take_object(struct page *p, const struct page_object *po)
{
    const Tarn__Core__Object *o = po->o;
    const struct core_name *n;
    bool is_dir = o->type == CORE_TYPE_DIR;

    if (po->shadowed)
        return 0;
    if (po->known == NONE || p->said[po->known].gone) {
        p->fresh[p->fresh_count++] = o;
        return 0;
    }
    n = &p->known.names[po->known];
    if (core_name_covered(p->tx, n->inode, o))
        return 0;
    if (n->inode->type == o->type) {
        if (core_object_same(p->tx, n->inode, o))
            return 0;
        if (!page_newer(p, n))
            core_name_update(p->tx, n, o);
        else if (n->inode->attachment != p->tx->attachment)
            p->distrust = true; /* on the way to an attachment since the store was asked */
        return 0;
    }
    if (n->inode->type == CORE_TYPE_DIR)
        return 0; /* a file never replaces a directory */
    if (page_newer(p, n)) {
        p->distrust |= is_dir; /* the directory wins, but not by an answer older than the file */
        return 0;
    }
    p->fresh[p->fresh_count++] = o;
    return core_name_remove(p->tx, n);
}

/* Appends whole lines while there is room. */
static int page_add_skipped(struct page *p)
{
    const ProtobufCBinaryData *add = &p->m->skipped_names;
    struct core_tx *tx = p->tx;
    struct core_key k;
    int rc;

    if (add->len == 0)
        return 0;
    core_key_id(&k, CORE_TAG_SKIPPED, p->dir.v);
    rc = core_get(&tx->src, TARN_CF_META, &k, &tx->in);
    if (rc < 0 && rc != -TARN_E_NO_ENTRY)
        return rc;
    if (rc == -TARN_E_NO_ENTRY)
        tarn_str_addc(&tx->in, (char)CORE_FORMAT);
    if (tx->in.len + add->len + 1 > TARN_CORE_SKIPPED_MAX)
        return 0;
    tarn_str_add(&tx->in, add->data, add->len);
    if (add->data[add->len - 1] != '\n')
        tarn_str_addc(&tx->in, '\n');
    core_tx_put_bytes(tx, &k, tx->in.p + 1, tx->in.len - 1);
    return 0;
}

static void page_end(struct page *p)
{
    Tarn__Core__DirState *st = p->st;
    struct core_key k;

    if (!p->known.cut)
        st->skipped += p->m->skipped;
    if (p->distrust) {
        st->dir_removed = true;
        core_dir_set_listed(p->tx, st, 0);
    }
    if (p->complete) {
        core_dir_set_listed(p->tx, st, st->dir_removed ? 0 : st->started_ns);
        st->listed_index = p->tx->index;
        st->skipped_total = st->skipped;
        st->running = false;
        st->started_ns = 0;
        st->asked_index = 0;
        st->upto_key = (ProtobufCBinaryData){0};
    } else {
        st->upto_key = p->to;
    }
    core_key_id(&k, CORE_TAG_DIR, p->dir.v);
    core_tx_put(p->tx, TARN_CF_META, &k, &st->base);
    p->tx->res->more = p->known.cut;
}

int core_apply_list_page(struct core_tx *tx, const Tarn__Core__ListPage *m)
{
    struct page p = {.tx = tx, .m = m, .dir = {m->dir}, .from = m->from_key, .to = m->to_key};
    int rc;

    p.complete = m->complete;
    rc = page_check_form(&p);
    if (rc == 0)
        rc = page_check_run(&p);
    if (rc == 0)
        rc = page_plan(&p);
    if (rc < 0)
        return rc;

    rc = page_sweep(&p);
    for (size_t i = 0; i < p.object_count && rc == 0; i++)
        rc = page_take_object(&p, &p.objects[i]);
    (void)core_names_create(tx, p.dir, p.fresh, p.fresh_count); /* in page order */
    if (rc == 0 && !p.known.cut)
        rc = page_add_skipped(&p);
    if (rc < 0)
        return rc;
    page_end(&p);
    return 0;
}
