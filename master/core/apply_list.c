/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The run of a listing.
 *
 *     ListBegin ---> running, upto_key "" --ListPage--> upto_key = its to_key --...--> complete
 *                        ^                                     |
 *                        +------ ListBegin resume -------------+
 *
 * A run that was given up is started anew by the next ListBegin, or taken up by one with `resume`:
 * what it covered already stays as old as its beginning, so started_ns stays, too.
 */
#include "master/core/core_priv.h"

static void list_begin_fresh(struct core_tx *tx, tarn_ino_t dir, Tarn__Core__DirState *st)
{
    struct core_key k;

    st->running = true;
    st->started_ns = tx->time_ns;
    st->upto_key = (ProtobufCBinaryData){0};
    st->dir_removed = false;
    st->skipped = 0;
    core_key_id(&k, CORE_TAG_SKIPPED, dir.v);
    core_tx_delete(tx, TARN_CF_META, &k);
}

int core_apply_list_begin(struct core_tx *tx, const Tarn__Core__ListBegin *m)
{
    tarn_ino_t dir = {m->dir};
    Tarn__Core__DirState *st;
    Tarn__Core__Inode *inode;
    struct core_key k;
    int rc;

    if (!core_asked_ok(tx, m->asked_index))
        return -TARN_E_ENTRY_BAD;
    rc = core_tx_dir(tx, dir, &inode);
    if (rc < 0)
        return rc;
    rc = core_tx_dir_state(tx, dir, &st);
    if (rc < 0)
        return rc;
    if (!m->resume || !st->running)
        list_begin_fresh(tx, dir, st);
    st->asked_index = m->asked_index;
    core_key_id(&k, CORE_TAG_DIR, dir.v);
    core_tx_put(tx, TARN_CF_META, &k, &st->base);
    return 0;
}

int core_dir_distrust(struct core_tx *tx, tarn_ino_t dir, uint32_t attachment)
{
    Tarn__Core__DirState *st;
    struct core_key k;
    int rc;

    rc = core_tx_open_counts(tx, attachment);
    if (rc == 0)
        rc = core_tx_dir_state(tx, dir, &st);
    if (rc < 0 || (!st->running && st->listed_ns == 0))
        return rc;
    st->dir_removed = true;
    core_dir_set_listed(tx, st, 0);
    core_key_id(&k, CORE_TAG_DIR, dir.v);
    core_tx_put(tx, TARN_CF_META, &k, &st->base);
    return 0;
}

void core_dir_set_listed(struct core_tx *tx, Tarn__Core__DirState *st, int64_t listed_ns)
{
    if (!st->listed_ns == !listed_ns) {
        st->listed_ns = listed_ns;
        return;
    }
    st->listed_ns = listed_ns;
    tx->counts.dirs_listed += listed_ns ? 1 : -1ull;
    tx->counts_dirty = true;
}
