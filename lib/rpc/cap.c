/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Capabilities: the body is encoded once and MAC-ed as bytes, so that a checker never depends on
 * how another version would encode it.
 */
#include <string.h>

#include "lib/base/hash.h"
#include "lib/base/mem.h"
#include "lib/rpc/rpc.h"

#define CAP_LABEL "tarn-capability" /* before the body, under the MAC; without its NUL */
#define CAP_MAC   32u

static void cap_mac(const uint8_t key[32], const void *body, size_t len, uint8_t ret_mac[CAP_MAC])
{
    struct tarn_str text = {0};

    tarn_str_adds(&text, CAP_LABEL);
    tarn_str_add(&text, body, len);
    tarn_hmac_sha256(key, 32, text.p, text.len, ret_mac);
    tarn_str_fini(&text);
}

void tarn_cap_make(const uint8_t key[32], const Tarn__Wire__CapabilityBody *body,
                   struct tarn_str *ret)
{
    Tarn__Wire__Capability cap = TARN__WIRE__CAPABILITY__INIT;
    struct tarn_str inner = {0}, outer = {0};
    uint8_t mac[CAP_MAC];

    inner.len = protobuf_c_message_pack(
        &body->base,
        (uint8_t *)tarn_str_room(&inner, protobuf_c_message_get_packed_size(&body->base)));
    cap_mac(key, inner.p, inner.len, mac);
    cap.body = (ProtobufCBinaryData){.len = inner.len, .data = (uint8_t *)inner.p};
    cap.mac = (ProtobufCBinaryData){.len = sizeof(mac), .data = mac};
    outer.len = protobuf_c_message_pack(
        &cap.base, (uint8_t *)tarn_str_room(&outer, protobuf_c_message_get_packed_size(&cap.base)));
    tarn_str_fini(&inner);
    *ret = outer;
}

static bool cap_covers(const Tarn__Wire__CapabilityBody *b, uint32_t attachment, bool write)
{
    if (write && !b->write)
        return false;
    for (size_t i = 0; i < b->n_attachments; i++)
        if (b->attachments[i] == attachment)
            return true;
    return b->n_attachments == 0;
}

static int cap_check_body(const ProtobufCBinaryData *bytes, const char *cluster_id, int64_t real_ns,
                          uint32_t attachment, bool write)
{
    Tarn__Wire__CapabilityBody *b = (Tarn__Wire__CapabilityBody *)tarn_msg_decode(
        &tarn__wire__capability_body__descriptor, bytes->data, bytes->len);
    int rc = 0;

    if (!b)
        return -TARN_E_CAP_BAD;
    if (strcmp(b->cluster_id, cluster_id) != 0 || !cap_covers(b, attachment, write))
        rc = -TARN_E_CAP_BAD;
    else if (real_ns >= b->expires_ns)
        rc = -TARN_E_CAP_EXPIRED;
    protobuf_c_message_free_unpacked(&b->base, NULL);
    return rc;
}

int tarn_cap_check(const uint8_t key[32], const char *cluster_id, int64_t real_ns,
                   uint32_t attachment, bool write, const ProtobufCBinaryData *cap)
{
    Tarn__Wire__Capability *c;
    uint8_t mac[CAP_MAC];
    int rc = -TARN_E_CAP_BAD;

    if (!cap || cap->len == 0 || cap->len > TARN_FRAME_META_MAX)
        return -TARN_E_CAP_BAD;
    c = (Tarn__Wire__Capability *)tarn_msg_decode(&tarn__wire__capability__descriptor, cap->data,
                                                  cap->len);
    if (!c)
        return -TARN_E_CAP_BAD;
    cap_mac(key, c->body.data, c->body.len, mac);
    if (c->mac.len == CAP_MAC && tarn_mem_equal_ct(c->mac.data, mac, CAP_MAC))
        rc = cap_check_body(&c->body, cluster_id, real_ns, attachment, write);
    protobuf_c_message_free_unpacked(&c->base, NULL);
    return rc;
}

bool tarn_cap_is(const ProtobufCBinaryData *cap, const char *principal)
{
    Tarn__Wire__Capability *c = (Tarn__Wire__Capability *)tarn_msg_decode(
        &tarn__wire__capability__descriptor, cap->data, cap->len);
    Tarn__Wire__CapabilityBody *b =
        c ? (Tarn__Wire__CapabilityBody *)tarn_msg_decode(&tarn__wire__capability_body__descriptor,
                                                          c->body.data, c->body.len)
          : NULL;
    bool is = b && strcmp(b->principal, principal) == 0;

    if (b)
        protobuf_c_message_free_unpacked(&b->base, NULL);
    if (c)
        protobuf_c_message_free_unpacked(&c->base, NULL);
    return is;
}
