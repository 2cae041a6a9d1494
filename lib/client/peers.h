/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lib/client/peers.h — connections to workers: one RPC client per worker, made when first needed,
 * with a memory of who does not answer. Shared by readers, by workers (for each other) and by the
 * master. Owner: one loop, all calls on it.
 *
 * A worker on this host is reached by its unix socket first. Who failed is not tried for a while
 * (1 s, doubled up to 30 s, until it answers or the topology tells of a new address), unless
 * nobody else is left.
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
};
struct tarn_peers *tarn_peers_new(const struct tarn_peers_args *args);
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
/* How a call ended: remembers who does not answer. Any rc. */
void tarn_peers_note(struct tarn_peers *p, uint64_t id, int rc);
/* rc says that the worker could not be reached or did not answer, not what it answered. */
bool tarn_peers_unreached(int rc);
/*
 * Whom to ask for a segment, best first: owners that are usable, then whoever stands in for them,
 * then owners that are not. At most `k`; 0 when there is no worker.
 */
unsigned tarn_peers_readers(const struct tarn_peers *p, const tarn_cid_t *cid, uint32_t segment,
                            uint32_t replicas, unsigned k, uint64_t *ret_ids);
