/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ETag under which the bytes of a cid come. LIST and HEAD may disagree on it, so ufs adopts
 * what HEAD says when size and modification second agree (ufs/s3_get.c). But each group is a
 * request of its own, and an object that was replaced by one of the same size within a second looks
 * just like that: some groups of one file would be of the old object and some of the new one. So
 * the first answer decides for the whole cid, and another ETag means that the object changed.
 *
 * Bounded: the oldest are forgotten. What is cached then still counts as fetched under the ETag
 * that the cid was made of, and nothing else is adopted.
 */
#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/hash.h"
#include "lib/base/mem.h"
#include "worker/worker_priv.h"

struct wetag {
    struct tarn_hnode hnode; /* in worker->etags */
    struct tarn_list node;   /* in worker->etags_fifo */
    tarn_cid_t cid;
    char etag[];
};

static struct wetag *wetag_find(struct tarn_worker *w, const tarn_cid_t *cid)
{
    uint64_t h = tarn_cid_hash(cid);

    for (struct tarn_hnode *n = tarn_htab_first(&w->etags, h); n; n = tarn_htab_next(n, h)) {
        struct wetag *e = TARN_CONTAINER(n, struct wetag, hnode);

        if (tarn_cid_eq(&e->cid, cid))
            return e;
    }
    return NULL;
}

static void wetag_drop(struct tarn_worker *w, struct wetag *e)
{
    tarn_htab_remove(&w->etags, &e->hnode);
    tarn_list_del(&e->node);
    free(e);
}

const char *wetag_of(struct tarn_worker *w, const struct wloc *loc)
{
    struct wetag *e = wetag_find(w, &loc->cid);

    return e ? e->etag : loc->ufs.etag;
}

int wetag_check(struct tarn_worker *w, const struct wloc *loc, const struct tarn_ufs_get *g)
{
    size_t n = strlen(g->version.etag);
    struct wetag *e;

    if (n == 0)
        return 0;
    e = wetag_find(w, &loc->cid);
    if (e)
        return strcmp(e->etag, g->version.etag) == 0 ? 0 : -TARN_E_UFS_CHANGED;
    if (g->adopted && loc->file && tarn_tier_file_cached(loc->file) > 0)
        return -TARN_E_UFS_CHANGED;
    while (w->etags.count >= TARN_WORKER_ETAGS_MAX)
        wetag_drop(w, TARN_LIST_ENTRY(w->etags_fifo.next, struct wetag, node));
    e = tarn_xcalloc(1, sizeof(*e) + n + 1);
    e->cid = loc->cid;
    memcpy(e->etag, g->version.etag, n + 1);
    tarn_list_init(&e->node);
    tarn_list_push(&w->etags_fifo, &e->node);
    tarn_htab_insert(&w->etags, &e->hnode, tarn_cid_hash(&loc->cid));
    return 0;
}

void wetags_fini(struct tarn_worker *w)
{
    while (!tarn_list_empty(&w->etags_fifo))
        wetag_drop(w, TARN_LIST_ENTRY(w->etags_fifo.next, struct wetag, node));
    tarn_htab_fini(&w->etags);
}
