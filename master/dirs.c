/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Directories in memory: where the store has them, and how far their listing is. All of it is a
 * copy of committed state; those in use are referenced, of the others the latest are kept.
 */
#include "master/master_priv.h"

#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/hash.h"

static struct mdir *mdir_find(struct tarn_master *m, tarn_ino_t ino)
{
    uint64_t h = tarn_hash_u64(ino.v);

    for (struct tarn_hnode *n = tarn_htab_first(&m->dirs, h); n; n = tarn_htab_next(n, h)) {
        struct mdir *d = TARN_CONTAINER(n, struct mdir, hnode);

        if (d->ino.v == ino.v)
            return d;
    }
    return NULL;
}

static void mdir_forget(struct mdir *d)
{
    TARN_ASSERT(d->refs == 0 && !d->listing);
    tarn_list_del(&d->lru);
    if (!d->gone)
        tarn_htab_remove(&d->master->dirs, &d->hnode);
    mattach_unref(&d->at);
    free(d->key);
    free(d->run_upto);
    free(d);
}

static void mdir_set_state(struct mdir *d, const Tarn__Core__DirState *state)
{
    /* What no store has is known. */
    d->listed_ns = d->at == &d->master->own ? 1 : state->listed_ns;
    d->run_before = state->running;
    d->run_ns = state->started_ns;
    free(d->run_upto);
    d->run_upto_len = state->upto_key.len;
    d->run_upto = NULL;
    if (d->run_upto_len) {
        d->run_upto = tarn_xcalloc(1, d->run_upto_len);
        memcpy(d->run_upto, state->upto_key.data, d->run_upto_len);
    }
}

void mdir_refresh(struct mdir *d)
{
    Tarn__Core__DirState *state = NULL;

    if (tarn_core_dir_state(d->master->args.kv, d->ino, &state) < 0)
        return;
    mdir_set_state(d, state);
    tarn__core__dir_state__free_unpacked(state, NULL);
}

static int mdir_load(struct tarn_master *m, tarn_ino_t ino, struct mdir **ret)
{
    Tarn__Core__DirState *state = NULL;
    Tarn__Core__Inode *inode = NULL;
    struct tarn_str key = {0};
    struct mdir *d;
    struct mattach *at;
    int rc = tarn_core_inode(m->args.kv, ino, &inode);

    if (rc < 0)
        return rc;
    at = inode->attachment ? mattach_by_id(m, inode->attachment) : &m->own;
    if (inode->type != TARN_UFS_DIR)
        rc = -TARN_E_NOT_DIR;
    else if (inode->detached && ino.v == TARN_INO_ROOT.v)
        at = &m->own; /* empty, until it is collected */
    else if (inode->detached)
        rc = -TARN_E_NO_ENTRY;
    else if (!at)
        rc = -TARN_E_NO_ATTACH;
    if (rc == 0)
        rc = at == &m->own ? 0 : tarn_core_key(m->args.kv, ino, &key);
    if (rc == 0)
        rc = tarn_core_dir_state(m->args.kv, ino, &state);
    tarn__core__inode__free_unpacked(inode, NULL);
    if (rc < 0) {
        tarn_str_fini(&key);
        return rc;
    }
    d = tarn_xnew(struct mdir);
    d->master = m;
    d->ino = ino;
    d->at = mattach_ref(at);
    if (key.len)
        tarn_str_addc(&key, '/');
    d->key = tarn_str_detach(&key);
    mdir_set_state(d, state);
    tarn__core__dir_state__free_unpacked(state, NULL);
    tarn_list_init(&d->lru);
    tarn_htab_insert(&m->dirs, &d->hnode, tarn_hash_u64(ino.v));
    *ret = d;
    return 0;
}

int mdir_get(struct tarn_master *m, tarn_ino_t ino, struct mdir **ret)
{
    struct mdir *d = mdir_find(m, ino);
    int rc;

    if (!d) {
        rc = mdir_load(m, ino, &d);
        if (rc < 0)
            return rc;
        while (m->dirs.count > MASTER_DIRS_MAX && !tarn_list_empty(&m->dirs_lru))
            mdir_forget(TARN_LIST_ENTRY(m->dirs_lru.next, struct mdir, lru));
    }
    if (d->refs++ == 0)
        tarn_list_del(&d->lru);
    *ret = d;
    return 0;
}

char *mdir_text(const struct mdir *d)
{
    size_t n = strlen(d->at->uri);

    return tarn_xasprintf("%s%s%s", d->at->uri, n > 0 && d->at->uri[n - 1] == '/' ? "" : "/",
                          d->key);
}

/* Nobody finds it any more; it goes with its last user. */
static void mdir_drop(struct mdir *d)
{
    tarn_htab_remove(&d->master->dirs, &d->hnode);
    d->gone = true;
    if (d->refs == 0)
        mdir_forget(d);
}

void mdir_gone(struct tarn_master *m, tarn_ino_t ino)
{
    struct mdir *d = mdir_find(m, ino);

    if (d)
        mdir_drop(d);
}

void mdir_changed(struct tarn_master *m, tarn_ino_t ino)
{
    struct mdir *d = mdir_find(m, ino);
    Tarn__Core__Inode *inode = NULL;

    if (d && (tarn_core_inode(m->args.kv, ino, &inode) < 0 || inode->attachment != d->at->id ||
              inode->detached))
        mdir_drop(d);
    tarn__core__inode__free_unpacked(inode, NULL);
}

void mdir_reload(struct tarn_master *m, tarn_ino_t ino)
{
    struct mdir *d = mdir_find(m, ino);

    if (d)
        mdir_refresh(d);
}

void mdirs_drop_of(struct mattach *a)
{
    struct tarn_master *m = a->master;
    struct mdir **all = tarn_xcalloc(m->dirs.count + 1, sizeof(*all));
    struct tarn_hnode *n = NULL;
    size_t count = 0, slot = 0;

    while ((n = tarn_htab_walk(&m->dirs, &slot, n)) != NULL)
        if (TARN_CONTAINER(n, struct mdir, hnode)->at == a)
            all[count++] = TARN_CONTAINER(n, struct mdir, hnode);
    while (count > 0)
        mdir_drop(all[--count]);
    free(all);
}

void mdir_put(struct mdir **pd)
{
    struct mdir *d = *pd;

    *pd = NULL;
    if (!d)
        return;
    TARN_ASSERT(d->refs > 0);
    if (--d->refs > 0)
        return;
    if (d->gone)
        mdir_forget(d);
    else
        tarn_list_push(&d->master->dirs_lru, &d->lru);
}

int64_t mattach_trust_until(const struct mattach *at, int64_t at_ns)
{
    if (at_ns == 0)
        return 0;
    if (at->ttl_ns == TARN_TTL_FOREVER)
        return INT64_MAX;
    return at->ttl_ns >= (uint64_t)(INT64_MAX - at_ns) ? INT64_MAX : at_ns + (int64_t)at->ttl_ns;
}

bool mdir_listed_trusted(struct mdir *d)
{
    return d->listed_ns && mattach_trust_until(d->at, d->listed_ns) > master_real_ns(d->master);
}

bool mdir_run_trusted(struct mdir *d)
{
    return d->run_before && mattach_trust_until(d->at, d->run_ns) > master_real_ns(d->master);
}

bool mdir_run_covers(const struct mdir *d, const void *name, size_t len, uint32_t type)
{
    size_t n = TARN_MIN(len, d->run_upto_len);
    int c = n ? memcmp(name, d->run_upto, n) : 0;

    if (!d->run_before || c != 0)
        return d->run_before && c < 0;
    if (len >= d->run_upto_len)
        return len == d->run_upto_len && type != TARN_UFS_DIR;
    return type != TARN_UFS_DIR || (unsigned char)d->run_upto[len] >= '/';
}

void mdirs_fini(struct tarn_master *m)
{
    while (!tarn_list_empty(&m->dirs_lru))
        mdir_forget(TARN_LIST_ENTRY(m->dirs_lru.next, struct mdir, lru));
    tarn_htab_fini(&m->dirs);
}
