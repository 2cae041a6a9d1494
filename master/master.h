/* SPDX-License-Identifier: Apache-2.0 */
/*
 * master/master.h — the metadata master: inode tree, attachments, jobs, sessions. One loop; the
 * journal has its own thread.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "lib/base/err.h"
#include "lib/base/ids.h"
#include "lib/conf/conf.h"
#include "lib/rpc/rpc.h"

struct tarn_clock;
struct tarn_kv;
struct tarn_master;
struct tarn_ufs;
struct tarn_ufs_counts;
struct tarn_ufs_opts;

struct tarn_master_args {
    struct tarn_loop *loop;
    struct tarn_clock *clock;
    struct tarn_rng *rng;
    struct tarn_kv *kv; /* open, with the families of tarn_core_cf_names; stays the caller's */
    /* 32 bytes: makes capabilities. NULL: the store's own, made once, so that they outlive us. */
    const uint8_t *cap_key;
    /* A cluster: workers register, clients are told of them. Else tarn_master_set_worker(). */
    bool cluster;
    const void *token; /* of the workers' listeners; copied */
    size_t token_len;
    uint64_t worker_lost_ns; /* absent for so long: no member any more; 0: 10 min */
    uint64_t lease_ns;       /* of sessions and workers; 0: 10 s */
    /* The journal on the loop's own thread: tests on a simulated loop. */
    bool journal_inline;
    uint64_t move_rate; /* bytes per second and worker handed over to new owners; 0: no limit */
};
/* Makes the cluster id when the store is empty (one synced entry). */
int tarn_master_new(const struct tarn_master_args *args, struct tarn_errbuf *err,
                    struct tarn_master **ret);
const char *tarn_master_cluster_id(const struct tarn_master *m);

struct tarn_master_attach {
    const char *path; /* "/" */
    const char *uri;
    const struct tarn_ufs_opts *opts;
    uint64_t ttl_ns; /* TARN_TTL_*, or how long names are trusted */
    bool check;      /* ask the store first */
    uint64_t check_timeout_ns;
};
/*
 * For a process of its own directory: opens the store and attaches it (or takes up the attachment
 * that the directory already has), then opens the others that were attached since. cb on the loop.
 */
void tarn_master_attach(struct tarn_master *m, const struct tarn_master_attach *a,
                        void (*cb)(void *arg, int rc, const struct tarn_errbuf *err), void *arg);
/* What the directory was used for before: URI and store identity of attachment `path`;
 * -TARN_E_NO_ATTACH. */
int tarn_master_attached(struct tarn_master *m, const char *path, struct tarn_str *ret_uri,
                         struct tarn_str *ret_store_id);
/*
 * Opens the stores of all attachments that the journal has, without asking them: once, at the start
 * of a cluster's master. One that cannot be opened is logged and tried again every 5 s; calls below
 * it fail meanwhile unless what they ask is known.
 */
void tarn_master_open_attachments(struct tarn_master *m);
/* NULL where nothing is attached under that id, or its store is not open. */
struct tarn_ufs *tarn_master_ufs(struct tarn_master *m, uint32_t attachment,
                                 const char **ret_isolation);
/* Jobs need a worker; goes on with jobs that were running. */
void tarn_master_set_worker(struct tarn_master *m, struct tarn_rpc_client *worker);
void tarn_master_serve(struct tarn_master *m, struct tarn_rpc_server *s);
/* For on_gone of the RPC server: ends the session of that connection. */
void tarn_master_session_gone(struct tarn_master *m, struct tarn_rpc_session *s);
void tarn_master_stop(struct tarn_master *m, void (*done)(void *arg), void *arg);
void tarn_master_free(struct tarn_master **m);

struct tarn_master_counts {
    uint64_t inodes;                   /* of all attachments */
    uint64_t stale_answers;            /* given from old metadata while a store did not answer */
    uint64_t listings, listed_entries; /* pages' entries committed */
    uint64_t asks;                     /* names asked one by one */
    uint64_t jobs_running, jobs_failed;
    uint64_t job_files_done, job_files_failed, job_files_waiting;
    uint64_t sessions;
    uint64_t workers, workers_alive; /* live or draining; those of them that are heard of */
};
/* What was asked of all stores, also of those that are closed; `running` and `queued` now. */
void tarn_master_ufs_counts(struct tarn_master *m, struct tarn_ufs_counts *ret);
void tarn_master_counts(struct tarn_master *m, struct tarn_master_counts *ret);
/* Files and their bytes, as far as their names are known, for the mount in its process; of a
 * cluster 0: it would be summed up over all attachments after each entry. Any thread. */
void tarn_master_space(struct tarn_master *m, uint64_t *ret_files, uint64_t *ret_bytes);
