/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who is waited for is known in memory alone (promise.c); for which changes nobody is waited for
 * any more, is journalled. So a master that was killed while it waited is followed by one that
 * waits on:
 *
 *     change 7  pushed to A, B        `untold` is 7 (with the change)
 *     change 9  pushed to B
 *     A, B acknowledged 7             Told{8}: `untold` is 9
 *     killed, started anew            answers about what changed from 9 on wait for one lease
 *
 * A Told says how far everybody has acknowledged or is past its lease; it is proposed when leases
 * are looked at, at most one at a time, and only if there is a change that it tells of: a master to
 * which nothing happens writes nothing. One that is lost makes others wait, no more than that. In
 * the grace none is written, since nobody knows what those that have not come back believe.
 *
 * An inode carries the index of its change; a name that went leaves it with its directory, where
 * names are held that are absent, or younger than that.
 */
#include "lib/base/assert.h"
#include "lib/base/log.h"
#include "master/master_priv.h"

int mtold_init(struct tarn_master *m)
{
    return tarn_core_untold(m->args.kv, &m->untold);
}

void mtold_changed(struct tarn_master *m, uint64_t index)
{
    if (m->untold)
        return;
    m->untold = index;
    tarn_debug("told", "a change is not known to all: index=%llu", (unsigned long long)index);
}

static void told_done(struct mproposal *p)
{
    struct tarn_master *m = p->master;
    uint64_t untold;

    m->telling = false;
    /* The store may be ahead of what was pushed: then nothing is told before that is. */
    if (mproposal_rc(p) == 0 && tarn_core_untold(m->args.kv, &untold) == 0)
        m->untold = untold;
    if (!m->untold)
        tarn_debug("told", "every change is known to all");
}

void mtold_tick(struct tarn_master *m)
{
    Tarn__Core__Entry e = TARN__CORE__ENTRY__INIT;
    Tarn__Core__Told told = TARN__CORE__TOLD__INIT;

    if (!m->args.cluster || !m->untold || m->telling || m->grace_until_ns)
        return;
    told.upto = mpromise_acked_upto(m);
    if (told.upto < m->untold)
        return;
    e.told = &told;
    m->telling = true;
    TARN_ASSERT(mpropose(m, &m->told_proposal, &e, told_done, NULL) == 0); /* it is small */
}

bool mtold_wanted(const struct tarn_master *m, uint64_t changed)
{
    return m->grace_until_ns && m->untold && changed >= m->untold && changed <= m->start_index;
}

bool mtold_name_wanted(const struct tarn_master *m, tarn_ino_t parent, uint64_t changed)
{
    Tarn__Core__DirState *st = NULL;
    bool wanted;

    if (!m->args.cluster || m->stopping || !mtold_wanted(m, m->untold) ||
        (changed && changed < m->untold))
        return false;
    wanted = tarn_core_dir_state(m->args.kv, parent, &st) == 0 && st->removed_index >= m->untold;
    tarn__core__dir_state__free_unpacked(st, NULL);
    return wanted;
}
