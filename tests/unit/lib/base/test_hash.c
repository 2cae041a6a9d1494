/* SPDX-License-Identifier: Apache-2.0 */
/* Known vectors: FIPS 180-4 examples, RFC 4231, xxHash's own sanity checks. */
#include "tests/unit/lib/base/base_tests.h"

#include <string.h>

#include "lib/base/err.h"
#include "lib/base/hash.h"
#include "lib/base/ids.h"
#include "lib/base/mem.h"

static void assert_hex(const uint8_t *p, size_t n, const char *hex)
{
    char text[129];

    tarn_hex(p, n, text);
    assert_string_equal(text, hex);
}

static void test_sha256(void **state)
{
    static const struct {
        const char *text;
        const char *hex;
    } rows[] = {
        {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
         "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
    };
    uint8_t digest[32];

    (void)state;
    for (size_t i = 0; i < TARN_ARRAY_LEN(rows); i++) {
        tarn_sha256_of(rows[i].text, strlen(rows[i].text), digest);
        assert_hex(digest, 32, rows[i].hex);
    }
}

static void test_sha256_parts(void **state)
{
    struct tarn_sha256 *s = tarn_sha256_new();
    char block[1000];
    uint8_t digest[32];

    (void)state;
    memset(block, 'a', sizeof(block));
    for (int i = 0; i < 1000; i++) {
        tarn_sha256_add(s, block, (size_t)i);
        tarn_sha256_add(s, block, sizeof(block) - (size_t)i);
    }
    tarn_sha256_end(&s, digest);
    assert_null(s);
    assert_hex(digest, 32, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    s = tarn_sha256_new();
    tarn_sha256_end(&s, digest);
    assert_hex(digest, 32, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

static void test_hmac(void **state)
{
    uint8_t key[131], mac[32];

    (void)state;
    memset(key, 0x0b, 20);
    tarn_hmac_sha256(key, 20, "Hi There", 8, mac);
    assert_hex(mac, 32, "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
    tarn_hmac_sha256("Jefe", 4, "what do ya want for nothing?", 28, mac);
    assert_hex(mac, 32, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    memset(key, 0xaa, sizeof(key));
    tarn_hmac_sha256(key, sizeof(key), "Test Using Larger Than Block-Size Key - Hash Key First", 54,
                     mac);
    assert_hex(mac, 32, "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
    tarn_hmac_sha256(NULL, 0, "", 0, mac);
    assert_hex(mac, 32, "b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad");
}

static void test_xxh3(void **state)
{
    static const struct {
        size_t n;
        uint64_t hash;
    } rows[] = {
        {0, 0x2D06800538D394C2},    {1, 0xC44BDFF4074EECDB},    {6, 0x27B56A84CD2D7325},
        {12, 0xA713DAF0DFBB77E7},   {24, 0xA3FE70BF9D3510EB},   {48, 0x397DA259ECBA1F11},
        {80, 0xBCDEFBBB2C47C90A},   {195, 0xCD94217EE362EC3A},  {403, 0xCDEB804D65C6DEA4},
        {512, 0x617E49599013CB6B},  {2048, 0xDD59E2C3A5F038E0}, {2240, 0x6E73A90539CF2948},
        {2367, 0xCB37AEB9E5D361ED},
    };
    uint8_t data[2367];
    uint64_t gen = 2654435761u;

    (void)state;
    for (size_t i = 0; i < sizeof(data); i++) {
        data[i] = (uint8_t)(gen >> 56);
        gen *= 11400714785074694797ULL;
    }
    for (size_t i = 0; i < TARN_ARRAY_LEN(rows); i++) {
        assert_int_equal(tarn_xxh3(data, rows[i].n), rows[i].hash);
        assert_int_equal(tarn_xxh3_seed(data, rows[i].n, 0), rows[i].hash);
    }
    assert_int_equal(tarn_xxh3_seed(data, 0, 11400714785074694797ULL), 0xA8A6B918B2F0364AULL);
    assert_true(tarn_xxh3_seed(data, 100, 1) != tarn_xxh3_seed(data, 100, 2));
}

static void test_hash_u64(void **state)
{
    (void)state;
    /* The first outputs of splitmix64 seeded with 1234567. */
    assert_int_equal(tarn_hash_u64(1234567), 6457827717110365317ULL);
    assert_int_equal(tarn_hash_u64(1234567 + 0x9e3779b97f4a7c15ULL), 3203168211198807973ULL);
}

static void test_equal_and_wipe(void **state)
{
    char secret[] = "secret";

    (void)state;
    assert_true(tarn_mem_equal_ct("abc", "abc", 3));
    assert_false(tarn_mem_equal_ct("abc", "abd", 3));
    assert_false(tarn_mem_equal_ct("xbc", "abc", 3));
    assert_true(tarn_mem_equal_ct("a", "b", 0));
    tarn_wipe(secret, sizeof(secret));
    for (size_t i = 0; i < sizeof(secret); i++)
        assert_int_equal(secret[i], 0);
}

static void test_cid(void **state)
{
    static const char *const bad[] = {
        "",
        "0",
        "0123456789abcdef0123456789abcde",
        "0123456789abcdef0123456789abcdef0",
        "0123456789ABCDEF0123456789abcdef",
        "0123456789abcdeg0123456789abcdef",
        " 123456789abcdef0123456789abcdef",
    };
    char text[TARN_CID_HEX];
    tarn_cid_t cid, none = {{0}};

    (void)state;
    assert_int_equal(tarn_cid_parse("0123456789abcdef0123456789abcdef", &cid), 0);
    assert_int_equal(cid.b[0], 0x01);
    assert_int_equal(cid.b[15], 0xef);
    assert_string_equal(tarn_cid_text(&cid, text), "0123456789abcdef0123456789abcdef");
    assert_false(tarn_cid_none(&cid));
    assert_true(tarn_cid_none(&none));
    for (size_t i = 0; i < TARN_ARRAY_LEN(bad); i++) {
        tarn_cid_t kept = cid;

        assert_int_equal(tarn_cid_parse(bad[i], &kept), -TARN_E_INVALID);
        assert_true(tarn_cid_eq(&kept, &cid));
    }
}

int base_run_hash(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sha256),   cmocka_unit_test(test_sha256_parts),
        cmocka_unit_test(test_hmac),     cmocka_unit_test(test_xxh3),
        cmocka_unit_test(test_hash_u64), cmocka_unit_test(test_equal_and_wipe),
        cmocka_unit_test(test_cid),
    };

    return cmocka_run_group_tests_name("base/hash", tests, NULL, NULL);
}
