/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which changes may not be known to all who were promised otherwise: those from `x untold` on,
 * which is the first behind the last Told. A process that finds it in the store does not know who
 * was waited for, only for what. A name that went leaves nothing behind but the number of that
 * entry with its directory.
 */
#include "master/core/core_priv.h"

int core_apply_told(struct core_tx *tx, const Tarn__Core__Told *m)
{
    uint64_t untold, change;
    struct core_key k;
    int rc;

    if (m->upto >= tx->index)
        return -TARN_E_ENTRY_BAD;
    rc = core_get_u64(&tx->src, CORE_X_UNTOLD, &untold);
    if (rc == -TARN_E_NO_ENTRY || (rc == 0 && untold > m->upto))
        return 0;
    if (rc == 0)
        rc = core_get_u64(&tx->src, CORE_X_CHANGE, &change);
    if (rc < 0)
        return rc == -TARN_E_NO_ENTRY ? -TARN_E_KV_CORRUPT : rc;
    if (change > m->upto) {
        core_tx_put_u64(tx, CORE_X_UNTOLD, m->upto + 1);
        return 0;
    }
    core_key_single(&k, CORE_X_UNTOLD);
    core_tx_delete(tx, TARN_CF_META, &k);
    return 0;
}

/* A directory that is there still has lost a name. */
static int tell_removed(struct core_tx *tx, tarn_ino_t dir)
{
    Tarn__Core__DirState *st;
    Tarn__Core__Inode *inode;
    struct core_key k;
    int rc;

    rc = core_tx_inode(tx, dir, &inode);
    if (rc == -TARN_E_NO_ENTRY || (rc == 0 && inode->detached))
        return 0;
    if (rc == 0)
        rc = core_tx_dir_state(tx, dir, &st);
    if (rc < 0)
        return rc;
    st->removed_index = tx->index;
    core_key_id(&k, CORE_TAG_DIR, dir.v);
    core_tx_put(tx, TARN_CF_META, &k, &st->base);
    return 0;
}

int core_tell(struct core_tx *tx)
{
    const struct tarn_core_result *r = tx->res;
    tarn_ino_t last = {0};
    uint64_t untold;
    int rc;

    TARN_ASSERT(r->change_count > 0);
    core_tx_put_u64(tx, CORE_X_CHANGE, tx->index);
    rc = core_get_u64(&tx->src, CORE_X_UNTOLD, &untold);
    if (rc == -TARN_E_NO_ENTRY) {
        core_tx_put_u64(tx, CORE_X_UNTOLD, tx->index);
        rc = 0;
    }
    for (size_t i = 0; i < r->change_count && rc == 0; i++) {
        if (r->changes[i].version != 0 || r->changes[i].parent.v == last.v)
            continue;
        last = r->changes[i].parent;
        rc = tell_removed(tx, last);
    }
    return rc;
}
