/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/lib/rpc/raw_peer.h"

#include <stdlib.h>
#include <string.h>

#include "lib/base/hash.h"

#define RAW_KEEP (1u << 20) /* bytes taken: make room */

static void raw_data_cb(struct tarn_conn *c, void *arg, const uint8_t *p, size_t n)
{
    struct raw *r = arg;

    (void)c;
    tarn_str_add(&r->in, p, n);
}

static void raw_close_cb(struct tarn_conn *c, void *arg, int rc)
{
    struct raw *r = arg;

    (void)rc;
    if (c != r->conn)
        return;
    r->conn = NULL;
    r->closed = true;
    r->closed_ns = tarn_loop_now_ns(r->loop);
}

static const struct tarn_conn_ops raw_ops = {.on_data = raw_data_cb, .on_close = raw_close_cb};

static void raw_connected_cb(void *arg, int rc, struct tarn_conn *c)
{
    struct raw *r = arg;

    assert_int_equal(rc, 0);
    r->conn = c;
    tarn_conn_start(c, &raw_ops, r);
}

void raw_connect(struct raw *r, struct fx *fx)
{
    *r = (struct raw){.loop = fx->loop};
    (void)tarn_connect(fx->loop, fx->addr, TARN_NS_PER_S, raw_connected_cb, r);
    fx_run(fx, TARN_NS_PER_MS);
    assert_non_null(r->conn);
}

static void raw_accept_cb(void *arg, struct tarn_conn *c)
{
    struct raw *r = arg;

    r->accepted++;
    r->conn = c;
    r->closed = false;
    r->taken = 0;
    tarn_str_reset(&r->in);
    tarn_conn_start(c, &raw_ops, r);
}

const char *raw_listen(struct raw *r, struct fx *fx)
{
    *r = (struct raw){.loop = fx->loop};
    assert_int_equal(tarn_listen(fx->loop, "127.0.0.1:0", raw_accept_cb, r, &r->listener), 0);
    return tarn_listener_addr(r->listener);
}

void raw_fini(struct raw *r, struct fx *fx)
{
    if (r->listener)
        tarn_listener_close(&r->listener);
    if (r->conn)
        tarn_conn_close(r->conn);
    fx_run(fx, TARN_NS_PER_MS);
    tarn_str_fini(&r->in);
    tarn_str_fini(&r->body);
}

void raw_send_bytes(struct raw *r, const void *p, size_t n)
{
    assert_non_null(r->conn);
    assert_int_equal(tarn_conn_write(r->conn, p, n, NULL, 0, 0), 0);
}

void raw_send(struct raw *r, struct tarn_frame f, const ProtobufCMessage *msg)
{
    struct tarn_str out = {0};

    if (f.version == 0)
        f.version = 1;
    assert_int_equal(tarn_frame_build(&f, NULL, msg, &out), 0);
    raw_send_bytes(r, out.p, out.len);
    tarn_str_fini(&out);
}

bool raw_next(struct raw *r)
{
    const uint8_t *p = (const uint8_t *)tarn_str_z(&r->in) + r->taken;
    size_t have = r->in.len - r->taken, n;

    if (have < TARN_FRAME_HDR_BYTES)
        return false;
    assert_int_equal(tarn_frame_decode(p, &r->f), 0);
    n = (size_t)TARN_FRAME_HDR_BYTES + r->f.meta_len + r->f.body_len + r->f.payload_len;
    if (have < n)
        return false;
    tarn_str_reset(&r->body);
    tarn_str_add(&r->body, p + TARN_FRAME_HDR_BYTES + r->f.meta_len, r->f.body_len);
    r->taken += n;
    if (r->taken == r->in.len || r->taken > RAW_KEEP) {
        memmove(r->in.p, r->in.p + r->taken, r->in.len - r->taken);
        r->in.len -= r->taken;
        r->taken = 0;
    }
    return true;
}

void raw_hello(struct raw *r, uint32_t min, uint32_t max)
{
    Tarn__Wire__Hello hello = TARN__WIRE__HELLO__INIT;

    memset(r->nonce_client, 0x5a, sizeof(r->nonce_client));
    r->min = min;
    r->max = max;
    hello.version_min = min;
    hello.version_max = max;
    hello.nonce = (ProtobufCBinaryData){sizeof(r->nonce_client), r->nonce_client};
    raw_send(r, (struct tarn_frame){.type = TARN_FRAME_HELLO}, &hello.base);
}

void raw_challenge(struct raw *r, bool want_auth)
{
    Tarn__Wire__Challenge *m;

    assert_true(raw_next(r));
    assert_int_equal(r->f.type, TARN_FRAME_CHALLENGE);
    m = (Tarn__Wire__Challenge *)tarn_msg_decode(&tarn__wire__challenge__descriptor,
                                                 (const uint8_t *)r->body.p, r->body.len);
    assert_non_null(m);
    assert_int_equal(m->nonce.len, sizeof(r->nonce_server));
    assert_int_equal(m->auth, want_auth);
    memcpy(r->nonce_server, m->nonce.data, sizeof(r->nonce_server));
    r->version = m->version;
    protobuf_c_message_free_unpacked(&m->base, NULL);
}

void raw_mac(const struct raw *r, const char *role, const char *token, uint8_t mac[32])
{
    struct tarn_str text = {0};

    tarn_str_adds(&text, role);
    tarn_str_add(&text, r->nonce_client, 32);
    tarn_str_add(&text, r->nonce_server, 32);
    tarn_str_add(&text, &r->min, 4); /* little-endian hosts only, as this test */
    tarn_str_add(&text, &r->max, 4);
    tarn_str_add(&text, &r->version, 4);
    tarn_hmac_sha256(token, strlen(token), text.p, text.len, mac);
    tarn_str_fini(&text);
}

void raw_proof(struct raw *r, const void *mac, size_t n)
{
    Tarn__Wire__Proof proof = TARN__WIRE__PROOF__INIT;
    uint8_t copy[64];

    memcpy(copy, mac, n);
    proof.mac = (ProtobufCBinaryData){n, copy};
    raw_send(r, (struct tarn_frame){.type = TARN_FRAME_PROOF}, &proof.base);
}

void raw_login(struct raw *r, struct fx *fx, const char *token)
{
    uint8_t mac[32];

    raw_hello(r, 1, 1);
    fx_run(fx, TARN_NS_PER_MS);
    raw_challenge(r, token != NULL);
    raw_mac(r, "tarn-client", token ? token : "", mac);
    raw_proof(r, mac, token ? sizeof(mac) : 0);
    fx_run(fx, TARN_NS_PER_MS);
    assert_true(raw_next(r));
    assert_int_equal(r->f.type, TARN_FRAME_WELCOME);
    assert_int_equal(r->f.status, 0);
}
