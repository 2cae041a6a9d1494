/* SPDX-License-Identifier: Apache-2.0 */
/*
 * raw_peer.h — one end of a connection that sends whatever a test wants and keeps what it gets. It
 * knows the formats by itself, so that it disagrees with a mistake in lib/rpc.
 */
#pragma once

#include "lib/base/str.h"
#include "tests/unit/lib/rpc/rpc_fixture.h"

struct raw {
    struct tarn_conn *conn; /* NULL once closed */
    struct tarn_connect *attempt;
    struct tarn_listener *listener; /* of raw_listen() */
    struct tarn_str in;             /* bytes received */
    size_t taken;                   /* of them by raw_next() */
    bool closed;                    /* on_close was called */
    uint64_t closed_ns;             /* when */
    unsigned accepted;              /* connections */
    struct tarn_loop *loop;
    uint8_t nonce_client[32], nonce_server[32];
    uint32_t min, max, version; /* of the handshake */
    struct tarn_frame f;        /* the last frame of raw_next() */
    struct tarn_str body;       /* its body */
};

/* Connects to fx->addr. */
void raw_connect(struct raw *r, struct fx *fx);
/* Accepts connections; the last one is r->conn. */
const char *raw_listen(struct raw *r, struct fx *fx);
void raw_fini(struct raw *r, struct fx *fx);

void raw_send_bytes(struct raw *r, const void *p, size_t n);
void raw_send(struct raw *r, struct tarn_frame f, const ProtobufCMessage *msg);
/* Takes the next whole frame; false when there is none. */
bool raw_next(struct raw *r);

void raw_hello(struct raw *r, uint32_t min, uint32_t max);
/* Reads the challenge. */
void raw_challenge(struct raw *r, bool want_auth);
void raw_mac(const struct raw *r, const char *role, const char *token, uint8_t mac[32]);
void raw_proof(struct raw *r, const void *mac, size_t n);
/* The whole handshake, as the rightful client. */
void raw_login(struct raw *r, struct fx *fx, const char *token);
