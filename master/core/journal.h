/* SPDX-License-Identifier: Apache-2.0 */
/*
 * master/core/journal.h — the journal below the core, behind a vtable: *local* (the entry's effect
 * in one synced batch, many operations per sync) now, *raft* later. Proposals come from the
 * master's loop and end there.
 */
#pragma once

#include "lib/net/net.h"
#include "master/core/core.h"

struct tarn_journal;
struct tarn_proposal;
typedef void tarn_proposal_fn(struct tarn_proposal *p);

/* Embedded by the caller, valid until cb, which runs once on the loop, never inside propose. */
struct tarn_proposal {
    struct tarn_list node; /* the journal's */
    struct tarn_str entry; /* in: encoded; freed by the journal before cb */
    bool sync;             /* in: see tarn_core_entry_needs_sync() */
    int rc;                /* out: 0 committed (look at result.rc too), or why it could not be */
    struct tarn_core_result result; /* out; freed by the journal after cb */
    tarn_proposal_fn *cb;           /* in */
    void *arg;                      /* in */
};

struct tarn_journal_ops {
    void (*propose)(struct tarn_journal *j, struct tarn_proposal *p);
    void (*stop)(
        struct tarn_journal *j); /* finishes what was proposed; callbacks still come; then free */
    void (*free)(struct tarn_journal *j);
};
struct tarn_journal {
    const struct tarn_journal_ops *ops;
};

/*
 * The local journal: its own thread ("journal") takes all proposals that wait (at most 256 entries
 * or 4 MiB of batch), applies them in order into one batch and writes it, synced if any of them
 * asks for it: group commit. On KV_NO_SPACE the proposals of that batch fail and the store is
 * re-opened before the next, on the loop (the only thread that may read meanwhile). In a test
 * without threads: tarn_journal_local_inline_new().
 */
int tarn_journal_local_new(struct tarn_loop *loop, struct tarn_kv *kv, struct tarn_journal **ret);
/* The same on the loop's own thread, as a posted task per group: for deterministic tests. */
struct tarn_journal *tarn_journal_local_inline_new(struct tarn_loop *loop, struct tarn_kv *kv);

/* cb with -TARN_E_BUSY when TARN_JOURNAL_QUEUE_MAX bytes wait already, with -TARN_E_SHUTDOWN after
 * stop. */
static inline void tarn_journal_propose(struct tarn_journal *j, struct tarn_proposal *p)
{
    j->ops->propose(j, p);
}
