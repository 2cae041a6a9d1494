/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files of a tier in memory: the sharded table, their groups, and the cache of open descriptors.
 *
 * Life: a file lives while it has users (references of callers, requests under way), something
 * present, or a pin. All three are counted under its shard's lock, so whoever takes the last one
 * away sees it. While there are users the descriptor stays; a file without users but with a
 * descriptor is in fd_idle, whose oldest are closed when more than fds_max are open.
 *
 * Groups hang in a radix tree of 64-fold nodes over leaves of 64 groups, made when first needed and
 * freed with the file; so a reader walks it without a lock, and a huge sparse file costs what is
 * cached of it.
 */
#include "store/tier/tier_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/assert.h"
#include "lib/base/fault.h"
#include "lib/base/mem.h"

#define RADIX_BITS 6

/* ---- groups ----------------------------------------------------------------------------- */

static unsigned radix_height(const struct tarn_tier_file *f)
{
    uint64_t leaves = (tarn_tier_groups(f->length) + TIER_LEAF - 1) / TIER_LEAF;
    unsigned h = 0;

    while (leaves > 1) {
        leaves = (leaves + TIER_LEAF - 1) / TIER_LEAF;
        h++;
    }
    return h;
}

static unsigned radix_slot(uint64_t group, unsigned height)
{
    return (unsigned)(group >> (RADIX_BITS * height)) & (TIER_LEAF - 1);
}

static void leaf_init(struct tier_leaf *leaf, struct tarn_tier_file *f, uint64_t base, uint64_t n)
{
    leaf->file = f;
    leaf->base = base;
    for (unsigned i = 0; i < n; i++) {
        leaf->groups[i].slot = (uint8_t)i;
        tarn_list_init(&leaf->groups[i].lru);
    }
}

struct tier_group *tarn_tier_group(const struct tarn_tier_file *f, uint64_t group)
{
    void *p = atomic_load_explicit(&f->root, memory_order_acquire);
    struct tier_leaf *leaf;

    if (group >= tarn_tier_groups(f->length))
        return NULL;
    for (unsigned h = radix_height(f); p && h > 0; h--) {
        struct tier_node *node = p;

        p = atomic_load_explicit(&node->slots[radix_slot(group, h)], memory_order_acquire);
    }
    leaf = p;
    return leaf ? &leaf->groups[radix_slot(group, 0)] : NULL;
}

struct tier_group *tarn_tier_group_make(struct tarn_tier_file *f, uint64_t group)
{
    uint64_t count = tarn_tier_groups(f->length), base = group - group % TIER_LEAF;
    uint64_t n = TARN_MIN(count - base, TIER_LEAF);
    void *_Atomic *at = &f->root;
    struct tier_leaf *leaf;

    TARN_ASSERT(group < count);
    for (unsigned h = radix_height(f); h > 0; h--) {
        struct tier_node *node = atomic_load_explicit(at, memory_order_relaxed);

        if (!node) {
            node = tarn_xnew(struct tier_node);
            atomic_store_explicit(at, node, memory_order_release);
        }
        at = &node->slots[radix_slot(group, h)];
    }
    leaf = atomic_load_explicit(at, memory_order_relaxed);
    if (!leaf) {
        leaf = tarn_xcalloc(1, sizeof(*leaf) + n * sizeof(leaf->groups[0]));
        leaf_init(leaf, f, base, n);
        atomic_store_explicit(at, leaf, memory_order_release);
    }
    return &leaf->groups[radix_slot(group, 0)];
}

struct tarn_tier_file *tarn_tier_group_file(const struct tier_group *g, uint32_t *ret_group)
{
    const struct tier_leaf *leaf =
        (const void *)((const char *)(g - g->slot) - offsetof(struct tier_leaf, groups));

    *ret_group = (uint32_t)(leaf->base + g->slot);
    return leaf->file;
}

/* The first leaf at or behind *group below `p`; where there is none, *group is set behind `p`. */
static struct tier_leaf *radix_from(void *p, unsigned h, uint64_t *group)
{
    struct tier_node *node = p;

    if (!p) {
        *group = ((*group >> (RADIX_BITS * (h + 1))) + 1) << (RADIX_BITS * (h + 1));
        return NULL;
    }
    if (h == 0)
        return p;
    do {
        struct tier_leaf *leaf = radix_from(node->slots[radix_slot(*group, h)], h - 1, group);

        if (leaf)
            return leaf;
    } while (radix_slot(*group, h) != 0);
    return NULL;
}

struct tier_group *tarn_tier_group_next(const struct tarn_tier_file *f, uint64_t *group)
{
    uint64_t count = tarn_tier_groups(f->length);
    struct tier_leaf *leaf;

    if (*group >= count)
        return NULL;
    leaf = radix_from(atomic_load(&f->root), radix_height(f), group);
    return leaf && *group < count ? &leaf->groups[radix_slot(*group, 0)] : NULL;
}

static void radix_free(void *p, unsigned h)
{
    struct tier_node *node = p;

    for (unsigned i = 0; p && h > 0 && i < TIER_LEAF; i++)
        radix_free(atomic_load(&node->slots[i]), h - 1);
    free(p);
}

/* ---- the table -------------------------------------------------------------------------- */

struct tier_shard *tarn_tier_shard(struct tarn_tier *t, const tarn_cid_t *cid)
{
    return &t->shards[cid->b[sizeof(cid->b) - 1] %
                      TIER_SHARDS]; /* not a byte of the table's hash */
}

static struct tarn_tier_file *shard_lookup_locked(struct tier_shard *s, const tarn_cid_t *cid)
{
    uint64_t h = tarn_cid_hash(cid);

    tarn_mtx_assert_held(&s->mtx);
    for (struct tarn_hnode *n = tarn_htab_first(&s->files, h); n; n = tarn_htab_next(n, h)) {
        struct tarn_tier_file *f = TARN_CONTAINER(n, struct tarn_tier_file, node);

        if (tarn_cid_eq(&f->cid, cid))
            return f;
    }
    return NULL;
}

static struct tarn_tier_file *file_new(struct tarn_tier *t, const tarn_cid_t *cid, uint64_t length)
{
    bool single = tarn_tier_groups(length) == 1;
    size_t more = single ? sizeof(struct tier_leaf) + sizeof(struct tier_group) : 0;
    struct tarn_tier_file *f = tarn_xcalloc(1, sizeof(*f) + more);

    f->cid = *cid;
    f->length = length;
    f->tier = t;
    atomic_init(&f->fd, -1);
    tarn_list_init(&f->idle);
    if (single) {
        leaf_init((struct tier_leaf *)(f + 1), f, 0, 1);
        atomic_init(&f->root, f + 1);
    }
    return f;
}

static void file_use_locked(struct tarn_tier_file *f)
{
    struct tarn_tier *t = f->tier;

    if (f->users++ == 0) {
        TARN_GUARD(&t->fd_mtx);
        tarn_list_del(&f->idle);
    }
}

struct tarn_tier_file *tarn_tier_file_get(struct tarn_tier *t, const tarn_cid_t *cid,
                                          uint64_t length)
{
    struct tier_shard *s = tarn_tier_shard(t, cid);
    struct tarn_tier_file *f;

    if (length > TARN_TIER_FILE_MAX)
        return NULL;
    TARN_GUARD(&s->mtx);
    f = shard_lookup_locked(s, cid);
    if (f && f->length != length)
        return NULL;
    if (!f) {
        f = file_new(t, cid, length);
        tarn_htab_insert(&s->files, &f->node, tarn_cid_hash(cid));
    }
    file_use_locked(f);
    return f;
}

struct tarn_tier_file *tarn_tier_file_find(struct tarn_tier *t, const tarn_cid_t *cid)
{
    struct tier_shard *s = tarn_tier_shard(t, cid);
    struct tarn_tier_file *f;

    TARN_GUARD(&s->mtx);
    f = shard_lookup_locked(s, cid);
    if (!f || f->present_n == 0)
        return NULL;
    file_use_locked(f);
    return f;
}

void tarn_tier_file_use(struct tarn_tier_file *f)
{
    TARN_GUARD(&tarn_tier_shard(f->tier, &f->cid)->mtx);
    file_use_locked(f);
}

static void file_free(struct tarn_tier_file *f)
{
    TARN_ASSERT(f->busy == NULL);
    tarn_tier_lend_unlinked(f); /* forgets that it was lent; nobody has it */
    tarn_tier_file_close(f);
    if (tarn_tier_groups(f->length) > 1)
        radix_free(atomic_load(&f->root), radix_height(f));
    free(f);
}

void tarn_tier_file_put(struct tarn_tier_file **pf)
{
    struct tarn_tier_file *f = *pf;
    struct tarn_tier *t;
    struct tier_shard *s;
    bool dead = false;

    *pf = NULL;
    if (!f)
        return;
    t = f->tier;
    s = tarn_tier_shard(t, &f->cid);
    tarn_mtx_lock(&s->mtx);
    TARN_ASSERT(f->users > 0);
    if (--f->users == 0) {
        dead = f->present_n == 0 && f->pins == 0;
        if (dead) {
            tarn_htab_remove(&s->files, &f->node);
        } else if (atomic_load(&f->fd) >= 0) {
            TARN_GUARD(&t->fd_mtx);
            tarn_list_push(&t->fd_idle, &f->idle);
        }
    }
    tarn_mtx_unlock(&s->mtx);
    if (dead)
        file_free(f);
    else
        tarn_tier_fd_trim(t, t->fds_max);
}

void tarn_tier_files_free(struct tarn_tier *t)
{
    for (unsigned i = 0; i < TIER_SHARDS; i++) {
        struct tier_shard *s = &t->shards[i];
        struct tarn_hnode *n;

        while ((n = tarn_htab_any(&s->files)) != NULL) {
            struct tarn_tier_file *f = TARN_CONTAINER(n, struct tarn_tier_file, node);

            tarn_htab_remove(&s->files, n);
            while (f->busy && !tarn_list_empty(&f->busy->waiting))
                free(TARN_LIST_ENTRY(tarn_list_pop(&f->busy->waiting), struct tarn_tier_op, node));
            free(f->busy);
            f->busy = NULL;
            tarn_list_del(&f->idle);
            file_free(f);
        }
        tarn_htab_fini(&s->files);
    }
}

const tarn_cid_t *tarn_tier_file_cid(const struct tarn_tier_file *f)
{
    return &f->cid;
}

uint64_t tarn_tier_file_length(const struct tarn_tier_file *f)
{
    return f->length;
}

uint64_t tarn_tier_file_cached(struct tarn_tier_file *f)
{
    return tarn_tier_offline(f->tier) ? 0 : atomic_load_explicit(&f->cached, memory_order_relaxed);
}

/* Whether all granules of [off, off + len) are present (and verified); what is behind the end is
 * not asked. */
static bool file_covers(const struct tarn_tier_file *f, uint64_t off, uint64_t len, bool verified)
{
    uint64_t end = len < f->length - TARN_MIN(off, f->length) ? off + len : f->length;

    while (off < end) {
        uint64_t group = off / TARN_UNIT_BYTES, first = off % TARN_UNIT_BYTES;
        uint64_t stop = TARN_MIN(end - group * TARN_UNIT_BYTES, TARN_UNIT_BYTES);
        const struct tier_group *g = tarn_tier_group(f, group);
        uint64_t want, have;

        want = ~0ull >> (63 - (stop - 1) / TARN_GRANULE_BYTES);
        want &= ~0ull << (first / TARN_GRANULE_BYTES);
        have = g ? atomic_load(&g->present) : 0;
        if (g && verified)
            have &= atomic_load(&g->verified);
        if (want & ~have)
            return false;
        off = (group + 1) * TARN_UNIT_BYTES;
    }
    return true;
}

bool tarn_tier_file_has(struct tarn_tier_file *f, uint64_t off, uint64_t len)
{
    return !tarn_tier_offline(f->tier) && file_covers(f, off, len, false);
}

uint64_t tarn_tier_file_cached_in(struct tarn_tier_file *f, uint64_t off, uint64_t len)
{
    uint64_t end = tarn_div_up(off + len, TARN_UNIT_BYTES), bytes = 0;
    const struct tier_group *g;

    TARN_ASSERT(off % TARN_UNIT_BYTES == 0 && off + len <= f->length);
    TARN_ASSERT((off + len) % TARN_UNIT_BYTES == 0 || off + len == f->length);
    for (uint64_t i = off / TARN_UNIT_BYTES; (g = tarn_tier_group_next(f, &i)) && i < end; i++)
        bytes += tarn_tier_mask_bytes(f->length, (uint32_t)i, atomic_load(&g->present));
    return tarn_tier_offline(f->tier) ? 0 : bytes;
}

bool tarn_tier_file_verified(struct tarn_tier_file *f, uint64_t off, uint64_t len)
{
    return !tarn_tier_offline(f->tier) && file_covers(f, off, len, true);
}

void tarn_tier_file_note_level(struct tarn_tier_file *f, uint32_t level)
{
    uint8_t have = atomic_load(&f->level);

    if (have == 0 || level < have)
        atomic_store(&f->level, (uint8_t)level);
}

uint32_t tarn_tier_file_level(struct tarn_tier_file *f)
{
    return atomic_load(&f->cached) ? atomic_load(&f->level) : 0;
}

bool tarn_tier_file_tag(const struct tarn_tier_file *f, uint64_t *ret_tag)
{
    if (f->present_n == 0 && !(f->busy && f->busy->active > 0))
        return false;
    *ret_tag = f->tag;
    return true;
}

uint32_t tarn_tier_file_replicas(const struct tarn_tier_file *f)
{
    return f->replicas;
}

size_t tarn_tier_list(struct tarn_tier *t, unsigned part, tarn_cid_t **ret)
{
    struct tier_shard *s = &t->shards[part];
    struct tarn_hnode *n = NULL;
    size_t slot = 0, count = 0;

    _Static_assert(TARN_TIER_LISTS == TIER_SHARDS, "a part is a shard");
    TARN_ASSERT(part < TIER_SHARDS);
    TARN_GUARD(&s->mtx);
    *ret = tarn_xcalloc(s->files.count + 1, sizeof(**ret));
    while ((n = tarn_htab_walk(&s->files, &slot, n)) != NULL) {
        const struct tarn_tier_file *f = TARN_CONTAINER(n, struct tarn_tier_file, node);

        if (f->present_n > 0)
            (*ret)[count++] = f->cid;
    }
    return count;
}

bool tarn_tier_next_group(struct tarn_tier_file *f, uint32_t *group, bool *ret_whole)
{
    const struct tier_group *g;
    uint64_t i = *group;

    for (; (g = tarn_tier_group_next(f, &i)) != NULL; i++) {
        uint64_t present = atomic_load(&g->present);

        if (present == 0)
            continue;
        *group = (uint32_t)i;
        *ret_whole = present == tarn_tier_group_mask(f->length, (uint32_t)i);
        return true;
    }
    return false;
}

bool tarn_tier_file_used(const struct tarn_tier_file *f)
{
    return f->used;
}

/* ---- readers' pins ---------------------------------------------------------------------- */

void tarn_tier_group_pin(struct tier_group *g)
{
    uint32_t old = atomic_fetch_add(&g->pins, 1);

    TARN_ASSERT((old & ~TIER_PIN_WANT) < TIER_PIN_WANT - 1);
}

void tarn_tier_group_unpin(struct tarn_tier *t, struct tier_group *g)
{
    uint32_t now = atomic_fetch_sub(&g->pins, 1) - 1;

    if (now != TIER_PIN_WANT || !atomic_compare_exchange_strong(&g->pins, &now, 0))
        return;
    if (atomic_exchange(&t->unpin_posted, true))
        return;
    tarn_tier_ref(t);
    tarn_loop_post(t->loop, &t->unpin_task, tarn_tier_unpin_wake);
}

bool tarn_tier_group_quiet(struct tier_group *g)
{
    TARN_ASSERT(atomic_load(&g->present) == 0);
    if (atomic_fetch_or(&g->pins, TIER_PIN_WANT) & ~TIER_PIN_WANT)
        return false;
    (void)atomic_fetch_and(&g->pins,
                           ~TIER_PIN_WANT); /* a reader that came since finds nothing present */
    return true;
}

/* ---- descriptors ------------------------------------------------------------------------ */

void tarn_tier_file_name(const struct tarn_tier_file *f, char ret[TIER_NAME_MAX])
{
    char hex[TARN_CID_HEX];

    (void)tarn_cid_text(&f->cid, hex);
    (void)snprintf(ret, TIER_NAME_MAX, "%.2s/%s", hex, hex); /* fits: 35 of 40 bytes */
}

void tarn_tier_fd_trim(struct tarn_tier *t, uint32_t max)
{
    while (atomic_load_explicit(&t->fds, memory_order_relaxed) > max) {
        struct tarn_list *n;
        int fd = -1;

        tarn_mtx_lock(&t->fd_mtx);
        n = tarn_list_pop(&t->fd_idle);
        if (n) {
            struct tarn_tier_file *f = TARN_LIST_ENTRY(n, struct tarn_tier_file, idle);

            fd = atomic_exchange(&f->fd, -1);
            TARN_ASSERT(fd >= 0);
            atomic_fetch_sub(&t->fds, 1);
        }
        tarn_mtx_unlock(&t->fd_mtx);
        if (fd < 0)
            return;
        (void)close(
            fd); /* what it wrote was checked by the index; a power cut is caught by the sums */
    }
}

void tarn_tier_file_close(struct tarn_tier_file *f)
{
    int fd = atomic_exchange(&f->fd, -1);

    if (fd < 0)
        return;
    atomic_fetch_sub(&f->tier->fds, 1);
    (void)close(fd); /* as above */
}

/* Makes `fd` the file's; where another thread was faster, its descriptor is the file's. */
static int file_publish(struct tarn_tier_file *f, int fd)
{
    int other = -1;

    if (!atomic_compare_exchange_strong(&f->fd, &other, fd)) {
        (void)close(fd); /* nothing was written to it */
        return other;
    }
    atomic_fetch_add(&f->tier->fds, 1);
    tarn_tier_fd_trim(f->tier, f->tier->fds_max);
    return fd;
}

/* openat below data/; when descriptors are short, the cache gives some back first. */
static int file_openat(struct tarn_tier *t, const char *name, int flags)
{
    int rc = TARN_FAULT(disk_open);
    int fd;

    if (rc < 0)
        return rc;
    fd = openat(t->data_fd, name, flags | O_RDWR | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0 && (errno == EMFILE || errno == ENFILE)) {
        tarn_tier_fd_trim(t, atomic_load(&t->fds) / 2);
        fd = openat(t->data_fd, name, flags | O_RDWR | O_NOFOLLOW | O_CLOEXEC, 0600);
    }
    return fd < 0 ? -errno : fd;
}

int tarn_tier_file_open(struct tarn_tier_file *f)
{
    char name[TIER_NAME_MAX];
    struct stat st;
    int fd = atomic_load_explicit(&f->fd, memory_order_acquire);

    if (fd >= 0)
        return fd;
    tarn_tier_file_name(f, name);
    fd = file_openat(f->tier, name, 0);
    if (fd == -ENOENT || fd == -ELOOP || fd == -ENOTDIR || fd == -EISDIR || fd == -ENXIO)
        return -TARN_E_INDEX_CORRUPT;
    if (fd < 0)
        return fd;
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || (uint64_t)st.st_size != f->length) {
        (void)close(fd); /* not ours, or not whole */
        return -TARN_E_INDEX_CORRUPT;
    }
    tarn_tier_lend_seen(f, &st);
    return file_publish(f, fd);
}

/* Whatever bears the name of a file that we do not know goes. */
static int file_create(struct tarn_tier *t, const char *name)
{
    int fd = file_openat(t, name, O_CREAT | O_EXCL);

    if (fd == -EEXIST && unlinkat(t->data_fd, name, 0) == 0)
        fd = file_openat(t, name, O_CREAT | O_EXCL);
    return fd;
}

int tarn_tier_file_make(struct tarn_tier_file *f)
{
    struct tarn_tier *t = f->tier;
    char name[TIER_NAME_MAX], dir[3];
    int fd, rc;

    TARN_ASSERT(!atomic_load(&f->on_disk) && atomic_load(&f->fd) < 0);
    tarn_tier_file_name(f, name);
    fd = file_create(t, name);
    if (fd == -ENOENT) {
        (void)snprintf(dir, sizeof(dir), "%.2s", name); /* two digits */
        if (mkdirat(t->data_fd, dir, 0700) < 0 && errno != EEXIST)
            return errno == ENOENT ? -EIO : -errno; /* data/ itself was removed */
        fd = file_create(t, name);
    }
    if (fd < 0)
        return fd;
    if (ftruncate(fd, (off_t)f->length) < 0) {
        rc = -errno;
        (void)close(fd);                     /* empty */
        (void)unlinkat(t->data_fd, name, 0); /* else the next attempt does it */
        return rc;
    }
    return file_publish(f, fd);
}

/* ---- failures seen by readers ----------------------------------------------------------- */

struct tier_report {
    struct tarn_task task;
    struct tarn_tier *tier;
    struct tarn_tier_file *file; /* referenced; gone when the tier is closed */
    uint32_t group;
    bool whole; /* the file, not the group */
};

static void report_arrived(struct tarn_task *task)
{
    struct tier_report *r = TARN_CONTAINER(task, struct tier_report, task);
    struct tarn_tier *t = r->tier;

    if (!t->closed) {
        struct tier_group *g = tarn_tier_group(r->file, r->group);

        if (r->whole)
            tarn_tier_lose_file(r->file);
        else
            (void)tarn_tier_evict(r->file, r->group, false); /* else something removes it already */
        if (g)
            atomic_store(&g->lost, false);
        tarn_tier_file_put(&r->file);
    }
    free(r);
    tarn_tier_unref(t);
}

void tarn_tier_report(struct tarn_tier_file *f, uint32_t group, int rc)
{
    struct tier_group *g = tarn_tier_group(f, group);
    struct tier_report *r;

    if (rc == -EMFILE || rc == -ENFILE || rc == -ENOMEM || (g && atomic_exchange(&g->lost, true)))
        return;
    r = tarn_xnew(struct tier_report);
    tarn_tier_file_use(f);
    r->tier = f->tier;
    r->file = f;
    r->group = group;
    r->whole = rc == -TARN_E_INDEX_CORRUPT;
    tarn_tier_ref(f->tier);
    tarn_loop_post(f->tier->loop, &r->task, report_arrived);
}
