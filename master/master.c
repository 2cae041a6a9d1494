/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The master's life: cluster id, journal, clean-up of detached directories, stop. Everything that
 * waits for a store or the journal counts in `busy`; the stop cancels listings, lets the journal
 * drain and ends when nothing is under way.
 */
#include "master/master_priv.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"
#include "lib/base/hash.h"

#define GC_EVERY_NS (2 * TARN_NS_PER_S)
#define GC_STEP     512u

/* More than a process gives between two writes that are synced. */
#define START_INOS    (1ull << 24)
#define START_INDEXES (1ull << 32)

uint64_t master_applied(struct tarn_master *m)
{
    uint64_t index = 0;

    (void)tarn_core_applied_index(m->args.kv, &index); /* an error shows at the next proposal */
    return index;
}

int64_t master_real_ns(struct tarn_master *m)
{
    return m->args.clock->real_ns(m->args.clock);
}

void master_busy(struct tarn_master *m)
{
    m->busy++;
}

static void master_stop_run(struct tarn_task *t)
{
    struct tarn_master *m = TARN_CONTAINER(t, struct tarn_master, stop_task);

    m->stop_posted = false;
    if (m->busy == 0 && m->stopped) {
        void (*stopped)(void *) = m->stopped;

        m->stopped = NULL;
        stopped(m->stopped_arg);
    }
}

void master_idle(struct tarn_master *m)
{
    TARN_ASSERT(m->busy > 0);
    if (--m->busy > 0 || !m->stopped || m->stop_posted)
        return; /* a call may come and go while the task is on its way */
    m->stop_posted = true;
    tarn_loop_post(m->args.loop, &m->stop_task, master_stop_run);
}

/* ---- proposals
 * ---------------------------------------------------------------------------------------------- */

int mproposal_rc(const struct mproposal *p)
{
    return p->p.rc < 0 ? p->p.rc : p->p.result.rc;
}

/* Of all attachments. */
static void master_sum(struct tarn_master *m, Tarn__Core__Counts *ret)
{
    tarn__core__counts__init(ret);
    TARN_LIST_FOREACH(n, &m->attachments)
    {
        struct mattach *a = TARN_LIST_ENTRY(n, struct mattach, node);
        Tarn__Core__Counts *c = NULL;

        if (tarn_core_counts(m->args.kv, a->id, &c) == 0) {
            ret->files += c->files;
            ret->dirs += c->dirs;
            ret->symlinks += c->symlinks;
            ret->bytes += c->bytes;
        }
        tarn__core__counts__free_unpacked(c, NULL);
    }
}

void master_space(struct tarn_master *m)
{
    Tarn__Core__Counts c;

    if (m->args.cluster)
        return;
    master_sum(m, &c);
    atomic_store_explicit(&m->space_files, c.files + c.symlinks, memory_order_relaxed);
    atomic_store_explicit(&m->space_bytes, c.bytes, memory_order_relaxed);
}

static void proposal_done(struct tarn_proposal *p)
{
    struct mproposal *mp = TARN_CONTAINER(p, struct mproposal, p);
    struct tarn_master *m = mp->master;

    for (size_t i = 0; p->rc == 0 && i < p->result.change_count; i++)
        if (p->result.changes[i].version == 0)
            mdir_gone(m, p->result.changes[i].ino);
        else
            mdir_changed(m, p->result.changes[i].ino);
    if (p->rc == 0 && p->result.index > m->told_index)
        m->told_index = p->result.index;
    if (p->rc == 0 && p->result.change_count > 0) {
        mtold_changed(m, p->result.index);
        msession_invalidate(m, p->result.index, p->result.changes, p->result.change_count);
    }
    if (p->rc == 0) {
        master_space(m);
        mhold_told(m);
    }
    mp->fn(mp);
    master_idle(m);
}

int mpropose(struct tarn_master *m, struct mproposal *mp, Tarn__Core__Entry *e, mproposal_fn *fn,
             void *arg)
{
    int rc;

    memset(mp, 0, sizeof(*mp));
    mp->master = m;
    mp->fn = fn;
    mp->arg = arg;
    e->time_ns = master_real_ns(m);
    rc = tarn_core_entry_encode(e, &mp->p.entry);
    if (rc < 0)
        return rc;
    mp->p.sync = tarn_core_entry_needs_sync(e);
    mp->p.cb = proposal_done;
    master_busy(m);
    tarn_journal_propose(m->journal, &mp->p);
    return 0;
}

/* ---- detached directories
 * ------------------------------------------------------------------------------------- */

struct gc_step {
    struct mproposal proposal;
};

static void gc_run(struct tarn_timer *t, void *arg);

static void gc_done(struct mproposal *p)
{
    struct tarn_master *m = p->master;

    m->gc_running = false;
    if (!m->stopping)
        tarn_timer_start(m->args.loop, &m->gc_timer, mproposal_rc(p) == 0 ? 1 : GC_EVERY_NS, gc_run,
                         m);
    free(TARN_CONTAINER(p, struct gc_step, proposal));
}

static void gc_run(struct tarn_timer *t, void *arg)
{
    struct tarn_master *m = arg;
    Tarn__Core__Entry e = TARN__CORE__ENTRY__INIT;
    Tarn__Core__Collect collect = TARN__CORE__COLLECT__INIT;
    struct gc_step *step;
    tarn_ino_t ino = {0};

    if (tarn_core_garbage(m->args.kv, &ino) < 0 || ino.v == 0) {
        tarn_timer_start(m->args.loop, t, GC_EVERY_NS, gc_run, m);
        return;
    }
    step = tarn_xnew(struct gc_step);
    collect.ino = ino.v;
    collect.max = GC_STEP;
    e.collect = &collect;
    m->gc_running = true;
    TARN_ASSERT(mpropose(m, &step->proposal, &e, gc_done, step) == 0); /* a Collect is small */
}

/* ---- life
 * -------------------------------------------------------------------------------------------------------
 */

/* Before the journal runs: one entry, applied here and synced, `ahead` of the last one. */
static int master_apply_now(struct tarn_master *m, Tarn__Core__Entry *e, uint64_t ahead)
{
    struct tarn_core_result result = {0};
    struct tarn_str entry = {0};
    struct tarn_kv_batch *b;
    int rc;

    e->time_ns = master_real_ns(m);
    rc = tarn_core_entry_encode(e, &entry);
    TARN_ASSERT(rc == 0);
    b = tarn_kv_batch_new(m->args.kv);
    rc = tarn_core_apply(m->args.kv, b, master_applied(m) + ahead, (const uint8_t *)entry.p,
                         entry.len, &result);
    TARN_KEEP(rc, result.rc);
    if (rc == 0)
        rc = tarn_kv_write(m->args.kv, b, true);
    tarn_kv_batch_free(&b);
    tarn_core_result_fini(&result);
    tarn_wipe(entry.p, entry.len);
    tarn_str_fini(&entry);
    return rc;
}

/* A fresh store gets a cluster id before anything else. */
static int master_init_store(struct tarn_master *m, struct tarn_errbuf *err)
{
    Tarn__Core__Entry e = TARN__CORE__ENTRY__INIT;
    Tarn__Core__Init init;
    uint8_t r[16];
    char id[37], hex[33];
    int rc;

    m->args.rng->fill(m->args.rng, r, sizeof(r));
    tarn_hex(r, sizeof(r), hex);
    (void)snprintf(id, sizeof(id), "%.8s-%.4s-%.4s-%.4s-%.12s", hex, hex + 8, hex + 12, hex + 16,
                   hex + 20); /* fits */
    tarn__core__init__init(&init);
    init.cluster_id = id;
    e.init = &init;
    rc = master_apply_now(m, &e, 1);
    return rc < 0 ? tarn_err_wrap(err, rc, "write the cluster id") : 0;
}

/* The key of capabilities: the caller's, or the store's own. */
static int master_cap_key(struct tarn_master *m, struct tarn_errbuf *err)
{
    Tarn__Core__Entry e = TARN__CORE__ENTRY__INIT;
    Tarn__Core__CapKey key = TARN__CORE__CAP_KEY__INIT;
    int rc;

    if (m->args.cap_key) {
        memcpy(m->cap_key, m->args.cap_key, sizeof(m->cap_key));
        return 0;
    }
    rc = tarn_core_cap_key(m->args.kv, m->cap_key);
    if (rc != -TARN_E_NO_ENTRY)
        return rc < 0 ? tarn_err_wrap(err, rc, "read the key of capabilities") : 0;
    m->args.rng->fill(m->args.rng, m->cap_key, sizeof(m->cap_key));
    key.key = (ProtobufCBinaryData){sizeof(m->cap_key), m->cap_key};
    e.cap_key = &key;
    rc = master_apply_now(m, &e, 1);
    return rc < 0 ? tarn_err_wrap(err, rc, "write the key of capabilities") : 0;
}

/*
 * What is not synced is lost when this machine loses its power, and mounts elsewhere live on: they
 * may know ids and versions (which are indexes) that the store does not. None of those is given
 * once more, for something else.
 */
static int master_leave_out(struct tarn_master *m, struct tarn_errbuf *err)
{
    Tarn__Core__Entry e = TARN__CORE__ENTRY__INIT;
    Tarn__Core__Start start = TARN__CORE__START__INIT;
    int rc;

    start.inos = START_INOS;
    e.start = &start;
    rc = master_apply_now(m, &e, START_INDEXES);
    if (rc == 0)
        rc = tarn_core_applied_index(m->args.kv, &m->told_index);
    return rc < 0 ? tarn_err_wrap(err, rc, "write that the master starts") : 0;
}

static int master_journal(struct tarn_master *m)
{
    if (!m->args.journal_inline)
        return tarn_journal_local_new(m->args.loop, m->args.kv, &m->journal);
    m->journal = tarn_journal_local_inline_new(m->args.loop, m->args.kv);
    return 0;
}

int tarn_master_new(const struct tarn_master_args *args, struct tarn_errbuf *err,
                    struct tarn_master **ret)
{
    struct tarn_master *m = tarn_xnew(struct tarn_master);
    uint64_t applied;
    int rc;

    m->args = *args;
    tarn_list_init(&m->dirs_lru);
    tarn_list_init(&m->asked_fifo);
    tarn_list_init(&m->listings);
    tarn_list_init(&m->sessions);
    mpromise_init(m);
    tarn_list_init(&m->reports);
    tarn_list_init(&m->dus);
    tarn_list_init(&m->attachments);
    tarn_list_init(&m->gone_attachments);
    tarn_list_init(&m->attach_ops);
    tarn_list_init(&m->retired);
    m->own = (struct mattach){.master = m,
                              .refs = 1,
                              .path = "/",
                              .uri = "",
                              .isolation = "",
                              .ttl_ns = TARN_TTL_FOREVER};
    tarn_list_init(&m->downs);
    m->started_ns = args->clock->mono_ns(args->clock);
    m->refresh_wait_ns = MASTER_REFRESH_WAIT_NS;
    m->probe_ns = MASTER_PROBE_NS;
    rc = tarn_core_applied_index(args->kv, &applied);
    if (rc == 0 && applied == 0)
        rc = master_init_store(m, err);
    if (rc == 0)
        rc = tarn_core_last_change(args->kv, &m->recent_base);
    if (rc == 0)
        rc = tarn_core_applied_index(args->kv, &m->told_index);
    if (rc == 0)
        rc = mtold_init(m);
    m->start_index = m->told_index;
    if (rc == 0)
        rc = tarn_core_cluster_id(args->kv, m->cluster_id);
    if (rc == 0)
        rc = master_cap_key(m, err);
    if (rc == 0 && applied > 0 && args->cluster)
        rc = master_leave_out(m, err);
    if (rc == 0)
        rc = master_journal(m);
    if (rc < 0) {
        free(m);
        return err && err->text[0] ? rc : tarn_err_set(err, rc, "master: %s", tarn_strerror(rc));
    }
    m->peers = tarn_peers_new(&(struct tarn_peers_args){.loop = args->loop,
                                                        .rng = args->rng,
                                                        .token = args->token,
                                                        .token_len = args->token_len,
                                                        .cluster_id = m->cluster_id});
    m->args.token = NULL; /* the peers have a copy */
    m->jobs = mjobs_new(m);
    rc = mmembers_new(m);
    if (rc < 0) {
        tarn_master_free(&m);
        return tarn_err_set(err, rc, "master: workers: %s", tarn_strerror(rc));
    }
    if (applied > 0 && args->cluster)
        m->grace_until_ns = tarn_loop_read_now_ns(args->loop) + msession_lease_ns(m);
    if (m->grace_until_ns && m->untold)
        tarn_info("session", "not known whether all were told: changes=%" PRIu64 "-%" PRIu64,
                  m->untold, m->start_index);
    msession_start(m);
    mcluster_start(m);
    tarn_timer_start(args->loop, &m->gc_timer, GC_EVERY_NS, gc_run, m);
    *ret = m;
    return 0;
}

const char *tarn_master_cluster_id(const struct tarn_master *m)
{
    return m->cluster_id;
}

void tarn_master_serve(struct tarn_master *m, struct tarn_rpc_server *s)
{
    msvc_meta_handlers(m, s);
    msvc_report_handlers(m, s);
    msvc_du_handlers(m, s);
    msession_handlers(m, s);
    msvc_attach_handlers(m, s);
    mjobs_handlers(m->jobs, s);
    mmembers_handlers(m, s);
    if (m->args.cluster)
        mjobs_resume(m->jobs); /* jobs wait for workers by themselves */
}

void tarn_master_set_worker(struct tarn_master *m, struct tarn_rpc_client *worker)
{
    struct tarn_place *alone = tarn_place_single(MASTER_LONE_WORKER);

    m->worker = worker;
    tarn_peers_set_place(m->peers, alone);
    tarn_peers_preset(m->peers, MASTER_LONE_WORKER, worker);
    tarn_place_unref(&alone);
    mjobs_resume(m->jobs);
}

static void master_part_closed(void *arg)
{
    master_idle(arg);
}

void tarn_master_stop(struct tarn_master *m, void (*done)(void *arg), void *arg)
{
    TARN_ASSERT(!m->stopping);
    m->stopping = true;
    m->stopped = done;
    m->stopped_arg = arg;
    master_busy(m);
    tarn_timer_stop(&m->gc_timer);
    msession_stop(m);
    mjobs_stop(m->jobs);
    mlist_stop_all(m);
    mreport_stop_all(m);
    mattach_stop(m);
    mmembers_stop(m);
    master_busy(m);
    tarn_peers_stop(m->peers, master_part_closed, m);
    master_idle(m);
}

void tarn_master_free(struct tarn_master **pm)
{
    struct tarn_master *m = *pm;

    if (!m)
        return;
    TARN_ASSERT(m->busy == 0 && !m->stop_posted && tarn_list_empty(&m->attach_ops) &&
                tarn_list_empty(&m->reports) && tarn_list_empty(&m->dus));
    tarn_timer_stop(&m->gc_timer);
    m->journal->ops->stop(m->journal);
    m->journal->ops->free(m->journal);
    mjobs_free(&m->jobs);
    mmembers_free(m);
    msession_free_all(m);
    mpromise_fini(m);
    mnames_fini(m);
    mattach_free_all(m);
    tarn_disk_free(&m->opener);
    mworkers_fini(m);
    tarn_peers_free(&m->peers);
    tarn_wipe(m->cap_key, sizeof(m->cap_key));
    free(m);
    *pm = NULL;
}

void tarn_master_counts(struct tarn_master *m, struct tarn_master_counts *ret)
{
    Tarn__Core__Counts sum;
    uint32_t running = 0, failed = 0;

    *ret = m->counts;
    TARN_LIST_FOREACH(n, &m->attachments)
    ret->stale_answers += TARN_LIST_ENTRY(n, struct mattach, node)->stale_answers;
    master_sum(m, &sum);
    ret->inodes = sum.files + sum.dirs + sum.symlinks;
    mjobs_counts(m->jobs, &running, &failed);
    ret->jobs_running = running;
    ret->jobs_failed = failed;
    mjobs_files(m->jobs, &ret->job_files_done, &ret->job_files_failed, &ret->job_files_waiting);
    mmembers_counts(m, &ret->workers_alive, &ret->workers);
}

void tarn_master_space(struct tarn_master *m, uint64_t *ret_files, uint64_t *ret_bytes)
{
    *ret_files = atomic_load_explicit(&m->space_files, memory_order_relaxed);
    *ret_bytes = atomic_load_explicit(&m->space_bytes, memory_order_relaxed);
}
