/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Jobs, their manifests and their lists. The core gives manifest lines and list items their
 * numbers: `manifest_next` and `items_next` of a stored record are its own, whatever an entry says.
 * What a job's states mean is the business of master/jobs.
 */
#include "master/core/core_priv.h"

#define DROP_MAX 4096u /* lines and items of one entry: bounds its batch */

/* `ret` NULL inside when there is none. */
static int job_load(struct core_tx *tx, uint64_t id, Tarn__Core__JobRecord **ret)
{
    struct core_key k;
    void *m = NULL;
    int rc;

    core_key_id(&k, CORE_TAG_JOB, id);
    rc = core_get_message(&tx->src, TARN_CF_JOBS, &k, &tarn__core__job_record__descriptor, &tx->al,
                          &m);
    if (rc < 0 && rc != -TARN_E_NO_ENTRY)
        return rc;
    *ret = m;
    return 0;
}

static void job_store(struct core_tx *tx, const Tarn__Core__JobRecord *job, uint64_t manifest_next,
                      uint64_t items_next)
{
    Tarn__Core__JobRecord r = *job;
    struct core_key k;

    r.manifest_next = manifest_next;
    r.items_next = items_next;
    core_key_id(&k, CORE_TAG_JOB, r.id);
    core_tx_put(tx, TARN_CF_JOBS, &k, &r.base);
}

int core_apply_job_put(struct core_tx *tx, const Tarn__Core__JobPut *m)
{
    Tarn__Core__JobRecord *old;
    int rc;

    if (!m->job || m->job->id == 0)
        return -TARN_E_ENTRY_BAD;
    rc = job_load(tx, m->job->id, &old);
    if (rc < 0)
        return rc;
    job_store(tx, m->job, old ? old->manifest_next : 0, old ? old->items_next : 0);
    return 0;
}

int core_apply_job_lines(struct core_tx *tx, const Tarn__Core__JobLines *m)
{
    Tarn__Core__JobRecord *old;
    struct core_key k;
    uint64_t next;
    int rc;

    if (!m->job || m->job->id == 0)
        return -TARN_E_ENTRY_BAD;
    rc = job_load(tx, m->job->id, &old);
    if (rc < 0)
        return rc;
    if (!old)
        return -TARN_E_NO_JOB;
    next = old->manifest_next;
    for (size_t i = 0; i < m->n_lines; i++) {
        core_key_id2(&k, CORE_TAG_LINE, old->id, next++);
        core_tx_put(tx, TARN_CF_JOBS, &k, &m->lines[i]->base);
    }
    job_store(tx, m->job, next, old->items_next);
    return 0;
}

int core_apply_job_items(struct core_tx *tx, const Tarn__Core__JobItems *m)
{
    Tarn__Core__JobRecord *old;
    struct core_key k;
    uint64_t next;
    int rc;

    if (m->id == 0 || m->n_items == 0)
        return -TARN_E_ENTRY_BAD;
    rc = job_load(tx, m->id, &old);
    if (rc < 0)
        return rc;
    if (!old)
        return -TARN_E_NO_JOB;
    next = old->items_next;
    for (size_t i = 0; i < m->n_items; i++) {
        core_key_id2(&k, CORE_TAG_ITEM, old->id, next++);
        core_tx_put(tx, TARN_CF_JOBS, &k, &m->items[i]->base);
    }
    job_store(tx, old, old->manifest_next, next);
    return 0;
}

/* Gathers the numbers of at most `max` lines or items; *ret_more when there are others. */
static int job_gather(struct core_tx *tx, char tag, uint64_t id, uint64_t *seqs, uint32_t max,
                      uint32_t *ret_n, bool *ret_more)
{
    struct tarn_kv_iter *it;
    struct core_key k;
    uint32_t n = 0;
    int rc;

    core_key_id(&k, tag, id);
    it = tarn_kv_iter_new(tx->src.kv, tx->src.b, TARN_CF_JOBS, core_slice(&k));
    while ((rc = tarn_kv_iter_next(it)) == 1 && n < max) {
        struct tarn_kv_slice key = tarn_kv_iter_key(it);

        if (key.n != 17) {
            rc = -TARN_E_KV_CORRUPT;
            break;
        }
        seqs[n++] = core_get_be64((const uint8_t *)key.p + 9);
    }
    tarn_kv_iter_free(&it);
    if (rc < 0)
        return rc;
    *ret_n = n;
    *ret_more = rc == 1;
    return 0;
}

/* Deletes at most *max of them and takes their number from it. */
static int job_delete(struct core_tx *tx, char tag, uint64_t id, uint32_t *max, bool *ret_more)
{
    uint64_t *seqs = core_arena_alloc(&tx->arena, *max * sizeof(*seqs));
    struct core_key k;
    uint32_t n;
    int rc;

    rc = job_gather(tx, tag, id, seqs, *max, &n, ret_more);
    if (rc < 0)
        return rc;
    for (uint32_t i = 0; i < n; i++) {
        core_key_id2(&k, tag, id, seqs[i]);
        core_tx_delete(tx, TARN_CF_JOBS, &k);
    }
    *max -= n;
    return 0;
}

int core_apply_job_drop(struct core_tx *tx, const Tarn__Core__JobDrop *m)
{
    uint32_t max = m->max < DROP_MAX ? m->max : DROP_MAX;
    Tarn__Core__JobRecord *old;
    struct core_key k;
    bool more;
    int rc;

    if (m->id == 0 || max == 0)
        return -TARN_E_ENTRY_BAD;
    rc = job_load(tx, m->id, &old);
    if (rc < 0)
        return rc;
    if (!old)
        return -TARN_E_NO_JOB;
    rc = job_delete(tx, CORE_TAG_LINE, m->id, &max, &more);
    if (rc == 0 && !more)
        rc = job_delete(tx, CORE_TAG_ITEM, m->id, &max, &more);
    if (rc < 0)
        return rc;
    if (!more) {
        core_key_id(&k, CORE_TAG_JOB, m->id);
        core_tx_delete(tx, TARN_CF_JOBS, &k);
    }
    tx->res->more = more;
    return 0;
}
