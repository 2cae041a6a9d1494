/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The role keeps one side's proof from being sent back as the other's, the nonces keep it from
 * being used again, and the offered versions keep someone in between from forcing an old one.
 */
#include "lib/rpc/handshake_priv.h"

#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/hash.h"
#include "lib/base/mem.h"
#include "lib/wire/frame_format.h"

#define HANDSHAKE_ROLE 11u /* bytes of the role */

uint32_t tarn_handshake_pick(uint32_t version_min, uint32_t version_max)
{
    uint32_t v = TARN_MIN(version_max, TARN_FRAME_VERSION);

    return v >= TARN_FRAME_VERSION_MIN && v >= version_min ? v : 0;
}

void tarn_handshake_mac(const struct tarn_handshake *h, bool server, const void *token, size_t len,
                        uint8_t ret_mac[TARN_HANDSHAKE_MAC])
{
    const uint32_t versions[3] = {h->version_min, h->version_max, h->version};
    uint8_t text[HANDSHAKE_ROLE + 2 * TARN_HANDSHAKE_NONCE + sizeof(versions)], *p = text;

    memcpy(p, server ? "tarn-server" : "tarn-client", HANDSHAKE_ROLE);
    p += HANDSHAKE_ROLE;
    memcpy(p, h->nonce_client, TARN_HANDSHAKE_NONCE);
    p += TARN_HANDSHAKE_NONCE;
    memcpy(p, h->nonce_server, TARN_HANDSHAKE_NONCE);
    p += TARN_HANDSHAKE_NONCE;
    for (size_t i = 0; i < TARN_ARRAY_LEN(versions); i++)
        for (unsigned shift = 0; shift < 32; shift += 8)
            *p++ = (uint8_t)(versions[i] >> shift);
    TARN_ASSERT(p == text + sizeof(text));
    tarn_hmac_sha256(token, len, text, sizeof(text), ret_mac);
}

bool tarn_handshake_check(const struct tarn_handshake *h, bool server, const void *token,
                          size_t len, const ProtobufCBinaryData *mac)
{
    uint8_t want[TARN_HANDSHAKE_MAC];
    bool same;

    tarn_handshake_mac(h, server, token, len, want);
    same = mac->len == sizeof(want) && tarn_mem_equal_ct(mac->data, want, sizeof(want));
    tarn_wipe(want, sizeof(want));
    return same;
}
