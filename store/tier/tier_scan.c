/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The index at the start and at the end: opening it, making the files that it names, and saving
 * when they were used last.
 *
 * A record that does not decode is deleted and counted; its bytes are then nobody's. A store that
 * cannot be read as such is deleted whole and the cache starts empty: the walk (tier_walk.c)
 * removes the data.
 */
#include "store/tier/tier_priv.h"

#include <errno.h>
#include <stdlib.h>

#include "lib/base/assert.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/base/str.h"
#include "store/kv/kv.h"

#define INDEX_DIR       "index"
#define INDEX_SHARE     16u /* part of the quota that is the index's */
#define INDEX_SHARE_MAX (64ull << 20)
#define CACHE_BYTES     (8ull << 20)
#define SAVE_BATCH      1000u

/* ---- at the start ----------------------------------------------------------------------- */

/* What reading the whole index gathers. */
struct index_scan {
    struct tier_group **groups; /* all present, unordered */
    size_t count, cap;
    struct tarn_str bad; /* keys of damaged records */
};

static uint64_t record_disk_bytes(const struct tarn_tier_record *rec, uint32_t group)
{
    uint64_t bytes = tarn_tier_mask_bytes(rec->length, group, rec->present);

    return tarn_tier_disk_bytes(tarn_div_up(bytes, TIER_BLOCK) * TIER_BLOCK);
}

static void scan_take(struct tarn_tier *t, struct index_scan *scan, struct tarn_tier_file *f,
                      uint32_t group, const struct tarn_tier_record *rec)
{
    struct tier_group *g = tarn_tier_group_make(f, group);

    if (rec->flags & TARN_TIER_RECORD_PINNED)
        f->pins = 1;
    f->replicas = TARN_MAX(f->replicas, rec->replicas);
    f->tag = rec->tag;
    tarn_tier_group_set(f, group, rec->present, 0);
    tarn_tier_file_note_level(f, rec->level);
    atomic_store(&g->atime_s, rec->atime_s);
    atomic_store(&f->on_disk, true);
    tarn_tier_account_bytes(f, f->disk_bytes + record_disk_bytes(rec, group));
    if (scan->count == scan->cap) {
        scan->cap = scan->cap ? scan->cap * 2 : 1024;
        scan->groups = tarn_xrealloc(scan->groups, scan->cap * sizeof(struct tier_group *));
    }
    scan->groups[scan->count++] = g;
    (void)t; /* the file knows it */
}

static void scan_record(struct tarn_tier *t, struct index_scan *scan, struct tarn_kv_slice k,
                        struct tarn_kv_slice v)
{
    struct tarn_tier_record rec;
    struct tarn_tier_file *f = NULL;
    tarn_cid_t cid;
    uint64_t tag;
    uint32_t group;
    int rc = tarn_tier_key_decode(k.p, k.n, &cid, &group);

    if (rc == 0)
        rc = tarn_tier_record_decode(k.p, v.p, v.n, &rec);
    if (rc == 0)
        f = tarn_tier_file_get(t, &cid, rec.length);
    if (f && tarn_tier_file_tag(f, &tag) && tag != rec.tag)
        tarn_tier_file_put(&f);
    /* NULL: its records disagree about the length, or about whose bytes they are */
    if (f) {
        scan_take(t, scan, f, group, &rec);
        tarn_tier_file_put(&f);
        return;
    }
    atomic_fetch_add(&t->checksum_errors, 1);
    if (k.n == TARN_TIER_KEY_BYTES)
        tarn_str_add(&scan->bad, k.p, k.n);
}

static int scan_order(const void *a, const void *b)
{
    const struct tier_group *x = *(struct tier_group *const *)a,
                            *y = *(struct tier_group *const *)b;
    uint32_t s = atomic_load_explicit(&x->atime_s, memory_order_relaxed);
    uint32_t u = atomic_load_explicit(&y->atime_s, memory_order_relaxed);

    return (s > u) - (s < u);
}

/* Files that turned out pinned when some of their groups were counted already; and the list, oldest
 * first. */
static void scan_finish(struct tarn_tier *t, struct index_scan *scan)
{
    t->pinned_bytes = 0;
    if (scan->count > 0)
        qsort(scan->groups, scan->count, sizeof(struct tier_group *), scan_order);
    for (size_t i = 0; i < scan->count; i++) {
        uint32_t group;
        struct tarn_tier_file *f = tarn_tier_group_file(scan->groups[i], &group);

        if (f->pins)
            t->pinned_bytes +=
                tarn_tier_mask_bytes(f->length, group, atomic_load(&scan->groups[i]->present));
        else
            tarn_tier_lru_add(t, scan->groups[i]);
    }
}

static int index_scan(struct tarn_tier *t, struct index_scan *scan)
{
    struct tarn_kv_iter *it = tarn_kv_iter_new(t->kv, NULL, 0, tarn_kv_slice("", 0));
    int rc;

    while ((rc = tarn_kv_iter_next(it)) > 0)
        scan_record(t, scan, tarn_kv_iter_key(it), tarn_kv_iter_value(it));
    tarn_kv_iter_free(&it);
    return rc;
}

static int index_drop_bad(struct tarn_tier *t, const struct tarn_str *keys)
{
    struct tarn_kv_batch *b;
    int rc;

    if (keys->len == 0)
        return 0;
    tarn_warn("tier", "path=%s: %zu damaged records dropped", t->path,
              keys->len / TARN_TIER_KEY_BYTES);
    b = tarn_kv_batch_new(t->kv);
    for (size_t i = 0; i < keys->len; i += TARN_TIER_KEY_BYTES)
        tarn_kv_batch_delete(b, 0, tarn_kv_slice(keys->p + i, TARN_TIER_KEY_BYTES));
    rc = tarn_kv_write(t->kv, b, false);
    tarn_kv_batch_free(&b);
    return rc == -TARN_E_KV_NO_SPACE ? 0 : rc; /* they stay damaged, and are dropped again */
}

static int index_open_kv(struct tarn_tier *t, struct tarn_errbuf *err)
{
    static const char *const cfs[] = {"default"};
    TARN_AUTO_FREE char *path = tarn_xasprintf("%s/%s", t->path, INDEX_DIR);
    struct tarn_kv_args args = {.path = path,
                                .cfs = cfs,
                                .cf_count = 1,
                                .cache_bytes = CACHE_BYTES,
                                .write_buffer_bytes = tarn_tier_index_buffer(t)};

    return tarn_kv_rocksdb_open(&args, err, &t->kv);
}

static int index_open_scan(struct tarn_tier *t, struct tarn_errbuf *err)
{
    struct index_scan scan = {0};
    int rc = index_open_kv(t, err);

    if (rc < 0)
        return rc;
    rc = index_scan(t, &scan);
    if (rc < 0)
        (void)tarn_err_set(err, rc, "%s/%s: %s", t->path, INDEX_DIR, tarn_strerror(rc));
    if (rc == 0)
        rc = index_drop_bad(t, &scan.bad);
    if (rc == 0)
        scan_finish(t, &scan);
    else
        tarn_kv_close(&t->kv);
    free(scan.groups);
    tarn_str_fini(&scan.bad);
    return rc;
}

/* Forgets what a scan found before it failed. */
static void index_forget(struct tarn_tier *t)
{
    tarn_tier_files_free(t);
    atomic_store(&t->data_bytes, 0);
    atomic_store(&t->files, 0);
    atomic_store(&t->data_bytes_disk, 0);
    t->pinned_bytes = 0;
}

/* Errors that mean: what is there cannot be read, and never will be. */
static bool index_damaged(int rc)
{
    return rc == -TARN_E_KV_CORRUPT || rc == -TARN_E_KV || rc == -TARN_E_FORMAT_NEWER ||
           rc == -ENOTDIR || rc == -ENOENT || rc == -ELOOP;
}

int tarn_tier_index_open(struct tarn_tier *t, struct tarn_errbuf *err)
{
    struct tarn_errbuf why = {0};
    int rc = index_open_scan(t, &why);

    if (index_damaged(rc)) {
        tarn_warn("tier", "path=%s: the index cannot be read; the cache starts empty: %s", t->path,
                  tarn_err_text(&why, rc));
        index_forget(t);
        rc = tarn_tier_dir_wipe(t, INDEX_DIR);
        if (rc < 0)
            return tarn_err_set(err, rc, "%s/%s: %s", t->path, INDEX_DIR, tarn_strerror(rc));
        why.text[0] = '\0';
        rc = index_open_scan(t, &why);
    }
    if (rc < 0)
        return tarn_err_set(err, rc, "%s", tarn_err_text(&why, rc));
    t->index_floor = TARN_MIN(t->quota_bytes / INDEX_SHARE, INDEX_SHARE_MAX);
    tarn_tier_index_measure(t);
    return 0;
}

/* ---- at the end ------------------------------------------------------------------------- */

/* Writes the records whose group was used since. */
static int save_record(struct tarn_tier *t, struct tarn_kv_batch *b, struct tarn_kv_slice k,
                       struct tarn_kv_slice v)
{
    struct tarn_tier_record rec;
    struct tarn_tier_file *f;
    struct tier_group *g;
    tarn_cid_t cid;
    uint32_t group, atime = 0;

    if (tarn_tier_key_decode(k.p, k.n, &cid, &group) < 0 ||
        tarn_tier_record_decode(k.p, v.p, v.n, &rec) < 0)
        return 0;
    f = tarn_tier_file_find(t, &cid);
    g = f ? tarn_tier_group(f, group) : NULL;
    if (g && atomic_load(&g->present))
        atime = atomic_load(&g->atime_s);
    tarn_tier_file_put(&f);
    if (atime == 0 || atime == rec.atime_s)
        return 0;
    rec.atime_s = atime;
    tarn_tier_index_put(b, k.p, &rec);
    return tarn_kv_batch_count(b) < SAVE_BATCH ? 0 : tarn_kv_write(t->kv, b, false);
}

static void index_save(struct tarn_tier *t)
{
    struct tarn_kv_batch *b = tarn_kv_batch_new(t->kv);
    struct tarn_kv_iter *it = tarn_kv_iter_new(t->kv, NULL, 0, tarn_kv_slice("", 0));
    int rc;

    while ((rc = tarn_kv_iter_next(it)) > 0 &&
           (rc = save_record(t, b, tarn_kv_iter_key(it), tarn_kv_iter_value(it))) == 0)
        continue;
    tarn_kv_iter_free(&it);
    if (rc == 0 && tarn_kv_batch_count(b) > 0)
        rc = tarn_kv_write(t->kv, b, false);
    tarn_kv_batch_free(&b);
    if (rc < 0)
        tarn_warn("tier", "path=%s: access times not saved: %s", t->path, tarn_strerror(rc));
}

void tarn_tier_index_close(struct tarn_tier *t)
{
    if (!t->kv)
        return;
    if (t->kv_state == TIER_KV_OPEN && !tarn_tier_offline(t)) {
        /* Evictions not yet written are forgotten: their bytes are still there. Repairs and pins
         * count. */
        TARN_LIST_FOREACH_SAFE(n, &t->index_queue)
        {
            struct tarn_tier_op *op = TARN_LIST_ENTRY(n, struct tarn_tier_op, node);

            tarn_list_del(n);
            if (op->kind == TIER_FIX || op->kind == TIER_PIN)
                tarn_list_push(&t->index_batch, n);
            else
                free(op);
        }
        tarn_tier_index_write(t);
        index_save(t);
    }
    tarn_list_splice(&t->index_batch, &t->index_queue);
    while (!tarn_list_empty(&t->index_batch))
        free(TARN_LIST_ENTRY(tarn_list_pop(&t->index_batch), struct tarn_tier_op, node));
    tarn_kv_close(&t->kv);
}
