/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lib/client/peers.h — connections to workers: one RPC client per worker, made when first needed,
 * with a memory of who does not answer. Shared by readers, by workers (for each other) and by the
 * master. Owner: one loop, all calls on it.
 *
 * A worker on this host is reached by its unix socket first. Who failed is not asked for a while
 * (1 s, doubled up to 30 s, until it answers or the topology tells of a new address), nor is one
 * whose connection is lost before there is another, unless nobody else is left.
 */
#pragma once

#include "lib/client/place.h"
#include "lib/rpc/rpc.h"

struct tarn_peers;

struct tarn_peers_args {
    struct tarn_loop *loop;
    struct tarn_rng *rng;
    const void *token; /* copied; NULL: none */
    size_t token_len;
    uint64_t timeout_ns;    /* of calls; 0: 30 s */
    const char *cluster_id; /* copied; workers of another one are not used; NULL: any */
    const char *host;       /* ours, as workers here have it; copied; NULL, "": the host's name */
};
struct tarn_peers *tarn_peers_new(const struct tarn_peers_args *args);
/* Where it became known later; copied. Of connections that are made from now on. */
void tarn_peers_set_cluster(struct tarn_peers *p, const char *cluster_id);
/* Calls end with SHUTDOWN; `done` when no connection is left. Then free. */
void tarn_peers_stop(struct tarn_peers *p, void (*done)(void *arg), void *arg);
void tarn_peers_free(struct tarn_peers **p);

/* The connection of worker `id`, which stays the caller's: a pair inside this process. */
void tarn_peers_preset(struct tarn_peers *p, uint64_t id, struct tarn_rpc_client *rpc);
/* Another topology (referenced). Connections to workers that went or moved end: their calls end
 * with CONN_LOST or CANCELLED. */
void tarn_peers_set_place(struct tarn_peers *p, struct tarn_place *place);
/* As it is now, borrowed; NULL before the first. */
struct tarn_place *tarn_peers_place(const struct tarn_peers *p);
/* Sent beside each call, as tarn_rpc_client_set_meta(). */
void tarn_peers_set_meta(struct tarn_peers *p, const Tarn__Wire__CallMeta *meta);
/* NULL: no such worker, or no address of it. Valid until the next set_place. */
struct tarn_rpc_client *tarn_peers_get(struct tarn_peers *p, uint64_t id);
/* Alive as far as the topology and our own calls tell. */
bool tarn_peers_usable(const struct tarn_peers *p, uint64_t id);
/* Who answers at its address refuses us, for what does not pass by itself (tarn_rpc_refused()). */
bool tarn_peers_refused(const struct tarn_peers *p, uint64_t id);
/* How a call ended: remembers who does not answer. Any rc. */
void tarn_peers_note(struct tarn_peers *p, uint64_t id, int rc);
/* rc says that the worker could not be reached or did not answer, not what it answered. */
bool tarn_peers_unreached(int rc);

/*
 * For readers that ask another one when an answer is late: it answered after `ns`; it did not, and
 * another one's answer came to a call that was sent at `sent_ns` (loop time). The latter finds out
 * who answers nothing at all.
 */
void tarn_peers_took(struct tarn_peers *p, uint64_t id, uint64_t ns);
void tarn_peers_overtaken(struct tarn_peers *p, uint64_t id, uint64_t sent_ns);
/* How long an answer may take before somebody else is asked too: four times the recent answers',
 * within TARN_PEERS_PATIENCE_MIN_NS and _MAX_NS; the latter while none is known. */
uint64_t tarn_peers_patience_ns(const struct tarn_peers *p, uint64_t id);
#define TARN_PEERS_PATIENCE_MIN_NS 100000000ull
#define TARN_PEERS_PATIENCE_MAX_NS 800000000ull
/* Loop time of its last answer to anything; 0: none yet. */
uint64_t tarn_peers_heard_ns(const struct tarn_peers *p, uint64_t id);

/* On this host. */
bool tarn_peers_at_home(const struct tarn_peers *p, uint64_t id);
/* The worker on this host that keeps copies for its readers, if it is usable; else 0. Of several
 * it is the one that comes first for this segment among them. */
uint64_t tarn_peers_home(const struct tarn_peers *p, const tarn_cid_t *cid, uint32_t segment);
/*
 * Whom to ask for a segment, best first: owners that are usable, then whoever stands in for them,
 * then owners that are not, then the others in the order. At most `k`; where no worker owns
 * anything (all are draining), those that are there. 0 when there is no worker.
 */
unsigned tarn_peers_readers(const struct tarn_peers *p, const tarn_cid_t *cid, uint32_t segment,
                            uint32_t replicas, unsigned k, uint64_t *ret_ids);
