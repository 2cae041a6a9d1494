/* SPDX-License-Identifier: Apache-2.0 */
/* The bytes on the disk: round trips, every flipped bit is noticed, and the fixtures are read for
 * ever. */
#include "tests/unit/store/tier/rig.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/hash.h"
#include "store/tier/tier_format.h"

#define FIXTURES "docs/formats/fixtures/tier-1"

static void format_round_trip(void **state)
{
    struct tarn_tier_format in = {.created_s = 1700000000, .owner = "cluster-0123456789", .id = 9},
                            out = {0};
    uint8_t b[TARN_TIER_FORMAT_BYTES];

    (void)state;
    tarn_tier_format_encode(&in, b);
    assert_int_equal(tarn_tier_format_decode(b, sizeof(b), &out), 0);
    assert_int_equal(out.id, 9);
    assert_int_equal(out.created_s, in.created_s);
    assert_string_equal(out.owner, in.owner);
    for (size_t n = 0; n < sizeof(b); n++)
        assert_int_equal(tarn_tier_format_decode(b, n, &out), -TARN_E_FORMAT_BAD);
}

static void format_flips(void **state)
{
    struct tarn_tier_format in = {.created_s = 5, .owner = "o"}, out;
    uint8_t b[TARN_TIER_FORMAT_BYTES];

    (void)state;
    tarn_tier_format_encode(&in, b);
    for (size_t bit = 0; bit < sizeof(b) * 8; bit++) {
        b[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_equal(tarn_tier_format_decode(b, sizeof(b), &out), -TARN_E_FORMAT_BAD);
        b[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
}

/* A later version may be longer; its head and its sum are where ours are. */
static void format_newer(void **state)
{
    struct tarn_tier_format in = {.owner = "o"}, out;
    uint8_t b[200] = {0};
    uint64_t sum;

    (void)state;
    tarn_tier_format_encode(&in, b);
    b[8] = 2;
    b[12] = sizeof(b);
    sum = tarn_xxh3(b, sizeof(b) - 8);
    memcpy(b + sizeof(b) - 8, &sum, 8); /* tests run on little-endian hosts */
    assert_int_equal(tarn_tier_format_decode(b, sizeof(b), &out), -TARN_E_FORMAT_NEWER);
    b[100] ^= 1;
    assert_int_equal(tarn_tier_format_decode(b, sizeof(b), &out), -TARN_E_FORMAT_BAD);
}

static struct tarn_tier_record some_record(uint64_t length, uint64_t present)
{
    struct tarn_tier_record r = {.flags = TARN_TIER_RECORD_PINNED,
                                 .level = 3,
                                 .atime_s = 1700000001,
                                 .length = length,
                                 .present = present};

    for (unsigned i = 0; i < TARN_GROUP_GRANULES; i++)
        r.sums[i] = present & (1ull << i) ? tarn_hash_u64(i) : 0;
    return r;
}

static void record_round_trip(void **state)
{
    const uint64_t masks[] = {1, 3, 1ull << 63, ~0ull, 0xf0f0};
    uint8_t key[TARN_TIER_KEY_BYTES], b[TARN_TIER_RECORD_MAX];
    tarn_cid_t cid = rig_cid(1);

    (void)state;
    tarn_tier_key_encode(&cid, 1, key);
    for (size_t i = 0; i < 2 * TARN_ARRAY_LEN(masks); i++) { /* without a tag, with one */
        struct tarn_tier_record in = some_record(100 * MIB, masks[i / 2]), out;
        size_t n;

        in.tag = i % 2 ? 0x0123456789abcdef : 0;
        in.replicas = (uint8_t)(i % (TARN_TIER_REPLICAS_MAX + 1));
        n = tarn_tier_record_encode(key, &in, b);
        memset(&out, 0xff, sizeof(out));
        assert_int_equal(b[0], 1 + i % 2);
        assert_int_equal(n, 32 + 8 * (i % 2) + 8 * __builtin_popcountll(masks[i / 2]));
        assert_int_equal(tarn_tier_record_decode(key, b, n, &out), 0);
        assert_int_equal(out.flags, in.flags);
        assert_int_equal(out.replicas, in.replicas);
        assert_int_equal(out.level, in.level);
        assert_int_equal(out.atime_s, in.atime_s);
        assert_int_equal(out.length, in.length);
        assert_int_equal(out.present, in.present);
        assert_int_equal(out.tag, in.tag);
        assert_memory_equal(out.sums, in.sums, sizeof(in.sums));
    }
}

static void flip_record(uint64_t tag)
{
    uint8_t key[TARN_TIER_KEY_BYTES], b[TARN_TIER_RECORD_MAX];
    struct tarn_tier_record in = some_record(5 * MIB, 0xffff), out;
    tarn_cid_t cid = rig_cid(2);
    size_t n;

    in.tag = tag;
    tarn_tier_key_encode(&cid, 1, key);
    n = tarn_tier_record_encode(key, &in, b);
    for (size_t bit = 0; bit < n * 8; bit++) {
        b[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_equal(tarn_tier_record_decode(key, b, n, &out), -TARN_E_INDEX_CORRUPT);
        b[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    for (size_t bit = 0; bit < sizeof(key) * 8; bit++) {
        key[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_equal(tarn_tier_record_decode(key, b, n, &out), -TARN_E_INDEX_CORRUPT);
        key[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    for (size_t k = 0; k < n; k++)
        assert_int_equal(tarn_tier_record_decode(key, b, k, &out), -TARN_E_INDEX_CORRUPT);
    assert_int_equal(tarn_tier_record_decode(key, b, n, &out), 0);
}

static void record_flips(void **state)
{
    (void)state;
    flip_record(0);
    flip_record(77);
}

/* Whole by its sum, yet not possible: what only a bug or a hand could have written. */
static void record_impossible(void **state)
{
    struct tarn_tier_record cases[] = {
        some_record(5 * MIB, 1ull << 20),       /* granule behind the end */
        some_record(MIB, 1),                    /* group behind the end */
        some_record(TARN_TIER_FILE_MAX + 1, 1), /* too long */
    };
    uint8_t key[TARN_TIER_KEY_BYTES], b[TARN_TIER_RECORD_MAX];
    struct tarn_tier_record out;
    tarn_cid_t cid = rig_cid(3);
    uint64_t sum;
    size_t n;

    (void)state;
    tarn_tier_key_encode(&cid, 1, key);
    for (size_t i = 0; i < TARN_ARRAY_LEN(cases); i++) {
        n = tarn_tier_record_encode(key, &cases[i], b);
        assert_int_equal(tarn_tier_record_decode(key, b, n, &out), -TARN_E_INDEX_CORRUPT);
    }
    cases[0] = some_record(MIB, 1); /* a tag that says that there is none */
    cases[0].tag = 1;
    tarn_tier_key_encode(&cid, 0, key);
    n = tarn_tier_record_encode(key, &cases[0], b);
    assert_int_equal(tarn_tier_record_decode(key, b, n, &out), 0);
    b[TARN_TIER_RECORD_HEAD] = 0;
    sum = tarn_xxh3_seed(b, n - 8, tarn_xxh3(key, sizeof(key)));
    memcpy(b + n - 8, &sum, 8);
    assert_int_equal(tarn_tier_record_decode(key, b, n, &out), -TARN_E_INDEX_CORRUPT);
}

static void geometry(void **state)
{
    (void)state;
    assert_int_equal(tarn_tier_groups(0), 0);
    assert_int_equal(tarn_tier_groups(1), 1);
    assert_int_equal(tarn_tier_groups(TARN_UNIT_BYTES), 1);
    assert_int_equal(tarn_tier_groups(TARN_UNIT_BYTES + 1), 2);
    assert_int_equal(tarn_tier_group_bytes(TARN_UNIT_BYTES + 1, 1), 1);
    assert_int_equal(tarn_tier_group_mask(TARN_UNIT_BYTES, 0), ~0ull);
    assert_int_equal(tarn_tier_group_mask(TARN_GRANULE_BYTES + 1, 0), 3);
    assert_int_equal(tarn_tier_mask_bytes(TARN_GRANULE_BYTES + 1, 0, 3), TARN_GRANULE_BYTES + 1);
    assert_int_equal(tarn_tier_mask_bytes(TARN_GRANULE_BYTES + 1, 0, 1), TARN_GRANULE_BYTES);
    assert_int_equal(tarn_tier_mask_bytes(TARN_GRANULE_BYTES + 1, 0, 2), 1);
    assert_int_equal(tarn_tier_mask_bytes(TARN_UNIT_BYTES, 0, ~0ull), TARN_UNIT_BYTES);
    assert_int_equal(tarn_tier_mask_bytes(TARN_UNIT_BYTES * 3ull, 2, 1ull << 63),
                     TARN_GRANULE_BYTES);
}

static size_t fixture_read(const char *name, uint8_t *dst, size_t cap)
{
    char path[128];
    FILE *f;
    size_t n;

    (void)snprintf(path, sizeof(path), FIXTURES "/%s", name);
    f = fopen(path, "rb");
    if (!f)
        fail_msg("%s is missing", path);
    n = fread(dst, 1, cap, f);
    (void)fclose(f);
    return n;
}

/* The same record with a tag. */
static void fixture_tagged(void)
{
    uint8_t buf[1024];
    struct tarn_tier_record r;
    size_t n = fixture_read("record-0-tagged", buf, sizeof(buf));

    assert_int_equal(
        tarn_tier_record_decode(buf, buf + TARN_TIER_KEY_BYTES, n - TARN_TIER_KEY_BYTES, &r), 0);
    assert_int_equal(r.tag, 0x7a67);
    assert_int_equal(r.length, 150000);
    assert_int_equal(r.present, 7);
}

/* Version 1 as it was written once: file 7 of 150,000 bytes, all granules present, pinned. */
static void fixtures(void **state)
{
    static uint8_t data[200000], buf[1024];
    struct tarn_tier_format f;
    struct tarn_tier_record r;
    tarn_cid_t cid, want = rig_cid(7);
    uint32_t group;
    size_t n = fixture_read("FORMAT", buf, sizeof(buf));

    (void)state;
    assert_int_equal(tarn_tier_format_decode(buf, n, &f), 0);
    assert_string_equal(f.owner, "c-fixture");
    assert_int_equal(f.created_s, 1700000000);
    assert_int_equal(f.id, 0);                      /* there was none */
    n = fixture_read("record-0", buf, sizeof(buf)); /* key, then record */
    assert_int_equal(tarn_tier_key_decode(buf, TARN_TIER_KEY_BYTES, &cid, &group), 0);
    assert_true(tarn_cid_eq(&cid, &want));
    assert_int_equal(group, 0);
    assert_int_equal(
        tarn_tier_record_decode(buf, buf + TARN_TIER_KEY_BYTES, n - TARN_TIER_KEY_BYTES, &r), 0);
    assert_int_equal(r.length, 150000);
    assert_int_equal(r.present, 7);
    assert_int_equal(r.level, 2);
    assert_int_equal(r.flags, TARN_TIER_RECORD_PINNED);
    assert_int_equal(r.atime_s, 1700000123);
    assert_int_equal(r.tag, 0);
    fixture_tagged();
    n = fixture_read("data", data, sizeof(data));
    assert_int_equal(n, 150000);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(tarn_xxh3(data + i * TARN_GRANULE_BYTES,
                                   TARN_MIN(TARN_GRANULE_BYTES, n - i * TARN_GRANULE_BYTES)),
                         r.sums[i]);
}

/* With TARN_WRITE_FIXTURES set: writes them (once per version). */
static void fixtures_write(void)
{
    static uint8_t data[150000];
    struct tarn_tier_format f = {.created_s = 1700000000, .owner = "c-fixture"};
    struct tarn_tier_record r = {.flags = TARN_TIER_RECORD_PINNED,
                                 .level = 2,
                                 .atime_s = 1700000123,
                                 .length = 150000,
                                 .present = 7};
    uint8_t b[TARN_TIER_KEY_BYTES + TARN_TIER_RECORD_MAX], fb[TARN_TIER_FORMAT_BYTES];
    tarn_cid_t cid = rig_cid(7);
    FILE *out;
    size_t n;

    rig_bytes(7, 0, data, sizeof(data));
    for (unsigned i = 0; i < 3; i++)
        r.sums[i] = tarn_xxh3(data + i * TARN_GRANULE_BYTES,
                              TARN_MIN(TARN_GRANULE_BYTES, sizeof(data) - i * TARN_GRANULE_BYTES));
    tarn_tier_format_encode(&f, fb);
    tarn_tier_key_encode(&cid, 0, b);
    n = TARN_TIER_KEY_BYTES + tarn_tier_record_encode(b, &r, b + TARN_TIER_KEY_BYTES);
    if ((out = fopen(FIXTURES "/FORMAT", "wbx")) && fwrite(fb, sizeof(fb), 1, out) == 1)
        (void)fclose(out);
    if ((out = fopen(FIXTURES "/record-0", "wbx")) && fwrite(b, n, 1, out) == 1)
        (void)fclose(out);
    r.tag = 0x7a67;
    n = TARN_TIER_KEY_BYTES + tarn_tier_record_encode(b, &r, b + TARN_TIER_KEY_BYTES);
    if ((out = fopen(FIXTURES "/record-0-tagged", "wbx")) && fwrite(b, n, 1, out) == 1)
        (void)fclose(out);
    if ((out = fopen(FIXTURES "/data", "wbx")) && fwrite(data, sizeof(data), 1, out) == 1)
        (void)fclose(out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(format_round_trip), cmocka_unit_test(format_flips),
        cmocka_unit_test(format_newer),      cmocka_unit_test(record_round_trip),
        cmocka_unit_test(record_flips),      cmocka_unit_test(record_impossible),
        cmocka_unit_test(geometry),          cmocka_unit_test(fixtures),
    };

    if (getenv("TARN_WRITE_FIXTURES"))
        fixtures_write();
    return cmocka_run_group_tests_name("tier_format", tests, NULL, NULL);
}
