/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ETag under which the bytes of a cid come. LIST and HEAD may disagree on it, so ufs adopts
 * what HEAD says when size and modification second agree (ufs/s3_get.c). But each group is a
 * request of its own, and an object that was replaced by one of the same size within a second looks
 * just like that: some groups of one file would be of the old object and some of the new one. So
 * the first answer decides for the whole cid, and another ETag means that the object changed.
 *
 * What another worker had comes with the tag of its ETag (0: that of the cid): it decides in the
 * same way, and the first answer of the store must have an ETag of that tag.
 *
 * Bounded: the oldest are forgotten. For what is cached the tier keeps a tag, also over restarts: 0
 * where the ETag is that which the cid was made of, else its hash. An answer of another tag means
 * that the object changed since those bytes were fetched. Nothing can be fetched any more that goes
 * with them; so they are dropped and the file begins anew, unless somebody may have read of them
 * since the start: who has half of the old object must not get half of the new one.
 */
#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/hash.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "worker/worker_priv.h"

struct wetag {
    struct tarn_hnode hnode; /* in worker->etags */
    struct tarn_list node;   /* in worker->etags_fifo */
    tarn_cid_t cid;
    uint64_t tag; /* of it, as the tier keeps it */
    bool named;   /* etag is known; else only its tag, from another worker */
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

    return e && e->named ? e->etag : loc->ufs.etag;
}

uint64_t wetag_tag(const struct wloc *loc, const struct tarn_ufs_get *g)
{
    const char *etag = g->version.etag;
    uint64_t tag;

    if (!*etag || strcmp(etag, loc->ufs.etag) == 0)
        return 0;
    tag = tarn_xxh3(etag, strlen(etag));
    return tag ? tag : 1;
}

/* Bytes of an object that is no more, on their way out. */
struct wetag_outdated {
    struct tarn_tier_op op;
    struct tarn_worker *worker;
};

static void outdated_dropped(struct tarn_tier_op *op, int rc)
{
    struct wetag_outdated *o = op->arg;
    struct tarn_worker *w = o->worker;

    (void)rc; /* they are not present any more, whatever became of the room */
    tarn_tier_file_put(&op->file);
    free(o);
    worker_idle(w);
}

static void outdated_drop(struct tarn_worker *w, const struct wloc *loc)
{
    struct wetag_outdated *o = tarn_xnew(struct wetag_outdated);

    tarn_info("worker", "another object came in place of what is cached, which is dropped: key=%s",
              loc->key);
    worker_busy(w);
    o->worker = w;
    o->op = (struct tarn_tier_op){
        .file = tarn_tier_file_get(w->args.tier, &loc->cid, loc->ufs.size_bytes),
        .cb = outdated_dropped,
        .arg = o};
    TARN_ASSERT(o->op.file != NULL); /* loc has it */
    tarn_tier_drop(w->args.tier, &o->op);
}

/* etag NULL: its name is not known. */
static void wetag_add(struct tarn_worker *w, const struct wloc *loc, uint64_t tag, const char *etag)
{
    size_t n = etag ? strlen(etag) + 1 : 1;
    struct wetag *e = tarn_xcalloc(1, sizeof(*e) + n);

    while (w->etags.count >= TARN_WORKER_ETAGS_MAX)
        wetag_drop(w, TARN_LIST_ENTRY(w->etags_fifo.next, struct wetag, node));
    e->cid = loc->cid;
    e->tag = tag;
    e->named = etag != NULL;
    if (etag)
        memcpy(e->etag, etag, n);
    tarn_list_init(&e->node);
    tarn_list_push(&w->etags_fifo, &e->node);
    tarn_htab_insert(&w->etags, &e->hnode, tarn_cid_hash(&loc->cid));
}

int wetag_check(struct tarn_worker *w, const struct wloc *loc, const struct tarn_ufs_get *g)
{
    size_t n = strlen(g->version.etag);
    struct wetag *e;
    uint64_t tag;

    if (n == 0)
        return 0;
    e = wetag_find(w, &loc->cid);
    if (e && e->named)
        return strcmp(e->etag, g->version.etag) == 0 ? 0 : -TARN_E_UFS_CHANGED;
    if (e && e->tag != wetag_tag(loc, g))
        return -TARN_E_UFS_CHANGED;
    if (e)
        wetag_drop(w, e);
    if (loc->file && tarn_tier_file_tag(loc->file, &tag) && tag != wetag_tag(loc, g)) {
        if (tarn_tier_file_used(loc->file))
            return -TARN_E_UFS_CHANGED;
        outdated_drop(w, loc);
    }
    wetag_add(w, loc, wetag_tag(loc, g), g->version.etag);
    return 0;
}

bool wetag_fits(struct tarn_worker *w, const tarn_cid_t *cid, const struct tarn_tier_file *file,
                uint64_t tag)
{
    struct wetag *e = wetag_find(w, cid);
    uint64_t have;

    if (e)
        return e->tag == tag;
    return !file || !tarn_tier_file_tag(file, &have) || have == tag;
}

int wetag_check_tag(struct tarn_worker *w, const struct wloc *loc, uint64_t tag)
{
    if (!wetag_fits(w, &loc->cid, loc->file, tag))
        return -TARN_E_UFS_CHANGED;
    if (!wetag_find(w, &loc->cid))
        wetag_add(w, loc, tag, NULL);
    return 0;
}

void wetags_fini(struct tarn_worker *w)
{
    while (!tarn_list_empty(&w->etags_fifo))
        wetag_drop(w, TARN_LIST_ENTRY(w->etags_fifo.next, struct wetag, node));
    tarn_htab_fini(&w->etags);
}
