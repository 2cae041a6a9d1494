/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/unit/worker/cluster_rig.h — several real workers in one process, on one loop: each with a
 * tier of its own, a listener, connections to the others, and the same scripted object store, which
 * counts what it is asked.
 */
#pragma once

#include "tests/unit/worker/worker_rig.h"

#include "lib/client/peers.h"

#define NODES_MAX    4
#define CL_LINGER_NS (200 * TARN_NS_PER_MS)
#define CL_OBJECTS   16
#define CL_SIZE_MAX  (9 * MIB)

struct node {
    struct rig rig;
    struct tarn_rpc_server *server;
    const char *addr; /* of its listener; may be replaced before a topology is made */
    struct tarn_peers *peers;
    struct tarn_move *move;
    /* What the next topology says of it. */
    uint32_t state; /* enum tarn_worker_state; 0: not there */
    bool dead;      /* not alive */
    bool was;       /* in the membership of the past */
};

struct cluster {
    struct tarn_loop *loop;
    struct tarn_disk *disk;
    struct srv *srv;
    struct srv_object objects[CL_OBJECTS]; /* "k00"..., all of the same bytes */
    char keys[CL_OBJECTS][8], etags[CL_OBJECTS][16];
    uint8_t *body;
    struct node nodes[NODES_MAX]; /* ids 1.. */
    unsigned n;
    uint64_t fetch_max; /* of each; cl_init_with() */
    uint64_t version;   /* of the last topology */
    unsigned ended;
};

/* `size` bytes each object; `quota` of each tier (0: 256 MiB). */
void cl_init(struct cluster *c, unsigned n, uint64_t size, uint64_t quota);
/* The same with so many bytes of fetch units. */
void cl_init_with(struct cluster *c, unsigned n, uint64_t size, uint64_t quota, uint64_t fetch_max);
void cl_fini(struct cluster *c);
/* After a restart of its worker, when its server was stopped. */
void cl_node_serve(struct cluster *c, unsigned i);
void cl_stop_server(struct cluster *c, unsigned i); /* nodes[i] does not answer any more */
/* What nodes[] says, as the next version, to nodes [first, last]. */
void cl_topology(struct cluster *c, unsigned first, unsigned last);
/* All n live, nothing of the past, to all. */
void cl_settled(struct cluster *c);
/* The k-th object whose owner by the topology of nodes[0] is nodes[owner]. */
void cl_object(struct cluster *c, unsigned owner, unsigned k, struct obj *o);
unsigned cl_gets(struct cluster *c); /* the store's GETs of bytes since the last cl_forget() */
void cl_forget(struct cluster *c);
uint64_t cl_cached(struct cluster *c, unsigned i, struct obj *o); /* bytes in that tier */
void cl_stored(struct cluster *c);                                /* nothing is fetched or stored */
/* Tops: a call to nodes[to] with the capability of a worker (or of a client). */
struct cl_call {
    struct tarn_rpc_req req;
    struct tarn_rpc_client *client;
    unsigned done, gone;
    int rc;
};
int cl_call(struct cluster *c, struct cl_call *call, unsigned to, const char *principal,
            uint32_t method, const ProtobufCMessage *msg, struct tarn_buf *payload);
void cl_call_fini(struct cluster *c, struct cl_call *call);
