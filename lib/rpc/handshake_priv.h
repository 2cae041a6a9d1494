/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lib/rpc/handshake_priv.h — what both ends of the handshake compute. docs/formats/frame.md has the
 * definition.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <protobuf-c/protobuf-c.h>

#define TARN_HANDSHAKE_NONCE 32u
#define TARN_HANDSHAKE_MAC   32u

/* What both ends know after the challenge. */
struct tarn_handshake {
    uint8_t nonce_client[TARN_HANDSHAKE_NONCE]; /* made by the client */
    uint8_t nonce_server[TARN_HANDSHAKE_NONCE]; /* made by the server */
    uint32_t version_min;                       /* offered by the client */
    uint32_t version_max;                       /* offered by the client */
    uint32_t version;                           /* chosen by the server */
};

/* The newest version that both speak; 0: none. */
uint32_t tarn_handshake_pick(uint32_t version_min, uint32_t version_max);
/* The proof of one side that it knows the token. */
void tarn_handshake_mac(const struct tarn_handshake *h, bool server, const void *token, size_t len,
                        uint8_t ret_mac[TARN_HANDSHAKE_MAC]);
/* True if `mac` is that proof; the time taken does not depend on its bytes. */
bool tarn_handshake_check(const struct tarn_handshake *h, bool server, const void *token,
                          size_t len, const ProtobufCBinaryData *mac);
