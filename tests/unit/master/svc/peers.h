/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Clients of the master of a cluster: connections over TCP, with sessions, since one inside the
 * process has no lease.
 */
#pragma once

#include "tests/unit/master/svc/msvc_fixture.h"

#define PEERS_LEASE   (1500 * TARN_NS_PER_MS)
#define PEERS_ITEMS   64
#define PEERS_OBJECTS 4

extern uint8_t peers_body[64];
extern const struct srv_object peers_before[PEERS_OBJECTS], peers_after[PEERS_OBJECTS];

/* A client of the master. */
struct peer {
    struct mfx *fx;
    struct tarn_rpc_client *rpc;
    uint64_t session, seq, index;
    bool resumed;    /* by the last peer_open() */
    bool ack_wanted; /* since the last renewal */
    unsigned items, everything;
    uint64_t inos[PEERS_ITEMS]; /* that it was told of, a ring */
};

/* A master of a cluster whose store has peers_before, and the address at which it listens. */
struct mfx *peers_start(const char **ret_addr);
const char *peers_listen(struct mfx *fx); /* after a restart */
/* The session of that id; NULL: none. */
struct msession *peers_session(struct mfx *fx, uint64_t id);
/* The store's objects become peers_after, and the master finds out about `ino`. */
void peers_change(struct mfx *fx, uint64_t ino, uint64_t version);
uint64_t peers_version(struct mfx *fx, uint64_t ino); /* as it is committed */
uint64_t peers_untold(struct mfx *fx); /* index from which on changes are not told; 0: all are */
void peers_until_all_told(struct mfx *fx); /* then a stop journals nothing */

void peer_connect(struct mfx *fx, struct peer *p, const char *addr);
void peer_cut(struct peer *p);  /* its connection ends */
void peer_open(struct peer *p); /* its session, or goes on with the one that it had */
int peer_renew(struct peer *p); /* and acknowledges all that it was told */
void peer_until_told(struct peer *p, unsigned items); /* of so many in all */
void peer_begin(struct peer *p, struct mfx_op *op, uint32_t method, const ProtobufCMessage *msg);
void peer_begin_lookup(struct peer *p, struct mfx_op *op, uint64_t parent, const char *name);
void peer_begin_resolve(struct peer *p, struct mfx_op *op, const char *path);
/* Size and inode of a name. */
uint64_t peer_lookup_end(struct mfx_op *op, uint64_t *ret_ino);
uint64_t peer_lookup(struct peer *p, uint64_t parent, const char *name, uint64_t *ret_ino);
