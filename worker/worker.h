/* SPDX-License-Identifier: Apache-2.0 */
/*
 * worker/worker.h — a cache worker: bytes of stores, fetched once, kept in tiers, served verified.
 *
 * Everything runs on one loop but `cached` reads of tiers. A fetch unit is one group (4 MiB) of one
 * cid: whoever asks first starts it, later ones wait for the bytes that they need and get them as
 * they arrive (single flight).
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "lib/base/err.h"
#include "lib/base/ids.h"
#include "lib/client/client.h"
#include "lib/rpc/rpc.h"

struct tarn_clock;
struct tarn_disk;
struct tarn_peers;
struct tarn_tier;
struct tarn_ufs;
struct tarn_worker;

struct tarn_worker_args {
    struct tarn_loop *loop;
    struct tarn_disk *disk;
    struct tarn_clock *clock;
    struct tarn_tier *tier; /* may be NULL: nothing is cached */
    uint64_t id;            /* worker id; 0: none before tarn_worker_set_identity() */
    const char *cluster_id;
    const uint8_t *cap_key;         /* 32 bytes: checks capabilities; NULL without an id */
    uint64_t fetch_bytes_max;       /* bytes of fetch units in memory at a time; 0: 64 MiB */
    struct tarn_rpc_client *master; /* for reports; set later by tarn_worker_set_master() */
    void *ctx;
    /* The store of an attachment, NULL when there is none (any more), and its isolation domain. */
    struct tarn_ufs *(*ufs_of)(void *ctx, uint32_t attachment, const char **ret_isolation);
};
int tarn_worker_new(const struct tarn_worker_args *args, struct tarn_worker **ret);
/* A member of a cluster: its number, the key of capabilities (32 bytes, copied). Before that every
 * call is refused with BUSY. */
void tarn_worker_set_identity(struct tarn_worker *w, uint64_t id, const uint8_t *cap_key);
/*
 * Connections to the other workers, whose topology says who may have what is missing here: they are
 * asked before the store. Stays the caller's; NULL: nobody is.
 */
void tarn_worker_set_peers(struct tarn_worker *w, struct tarn_peers *peers);
/* What it keeps of segments that others own: 0 nothing, 1 what is asked for twice, 2 all; at most
 * `max_bytes` (0: a tenth of the tier). */
void tarn_worker_set_copies(struct tarn_worker *w, uint32_t copies, uint64_t max_bytes);
void tarn_worker_set_master(struct tarn_worker *w, struct tarn_rpc_client *master);
/* Registers read, fill, free, cached, take, worker_status; the server says which worker it is. It
 * stays the caller's, and is there until the worker's stop. */
void tarn_worker_serve(struct tarn_worker *w, struct tarn_rpc_server *s);
/* The short circuit for a client on the same loop. */
void tarn_worker_local_ops(struct tarn_worker *w, struct tarn_local_ops *ret);
/* Fetches end (cancelled); `done` when none is left. Then free. */
void tarn_worker_stop(struct tarn_worker *w, void (*done)(void *arg), void *arg);
void tarn_worker_free(struct tarn_worker **w);

struct tarn_worker_counts {
    uint64_t local_bytes, ufs_bytes; /* delivered, by origin */
    uint64_t fetched_bytes, fetches; /* from stores */
    uint64_t fetch_errors;
    uint64_t uncached_bytes; /* served without keeping them: no room */
    uint64_t fetching;       /* units in memory now */
    uint64_t peer_bytes;     /* fetched from other workers */
    uint64_t remote_bytes;   /* delivered, of those */
    uint64_t served_bytes;   /* to other workers; in none of the origins */
    uint64_t peer_asks;      /* calls to other workers for bytes */
    uint64_t peer_bad;       /* answers that could not be used: wrong checksums */
    uint64_t taken_bytes;    /* kept, that other workers handed over */
};
void tarn_worker_counts(const struct tarn_worker *w, struct tarn_worker_counts *ret);
