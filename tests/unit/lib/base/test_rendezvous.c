/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/lib/base/base_tests.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/hash.h"
#include "lib/base/mem.h"
#include "lib/base/rendezvous.h"

#define VECTORS "tests/unit/lib/base/rendezvous_vectors.txt"
#define KEYS    100000u

/* "1:100,2:0" -> nodes; returns how many. */
static unsigned parse_nodes(char *text, struct tarn_rendezvous_node *nodes, unsigned max)
{
    unsigned n = 0;
    char *save = NULL;

    for (char *item = strtok_r(text, ",", &save); item; item = strtok_r(NULL, ",", &save)) {
        assert_true(n < max);
        assert_int_equal(sscanf(item, "%" SCNu64 ":%" SCNu32, &nodes[n].id, &nodes[n].weight), 2);
        n++;
    }
    return n;
}

static void check_pick(const char *cid_text, char *rest)
{
    struct tarn_rendezvous_node nodes[32];
    uint64_t ids[TARN_RENDEZVOUS_PICK_MAX];
    char members[1024], want[256], got[256] = "";
    uint32_t segment;
    tarn_cid_t cid;
    unsigned n, k, count;
    size_t len = 0;

    assert_int_equal(sscanf(rest, "%" SCNu32 " %u %1023s %255s", &segment, &k, members, want), 4);
    assert_int_equal(tarn_cid_parse(cid_text, &cid), 0);
    n = parse_nodes(members, nodes, TARN_ARRAY_LEN(nodes));
    count = tarn_rendezvous_pick(nodes, n, &cid, segment, k, ids);
    for (unsigned i = 0; i < count; i++)
        len += (size_t)snprintf(got + len, sizeof(got) - len, "%s%" PRIu64, i ? "," : "", ids[i]);
    assert_string_equal(count ? got : "-", want);
}

static void check_hash(const char *cid_text, const char *rest)
{
    uint8_t key[28];
    uint32_t segment;
    uint64_t id, want;
    tarn_cid_t cid;

    assert_int_equal(sscanf(rest, "%" SCNu32 " %" SCNu64 " %" SCNx64, &segment, &id, &want), 3);
    assert_int_equal(tarn_cid_parse(cid_text, &cid), 0);
    memcpy(key, cid.b, 16); /* the vectors are little endian, as this host is */
    memcpy(key + 16, &segment, 4);
    memcpy(key + 20, &id, 8);
    assert_int_equal(tarn_xxh3(key, sizeof(key)), want);
}

static void test_vectors(void **state)
{
    FILE *f = fopen(VECTORS, "r");
    unsigned logs = 0, hashes = 0, picks = 0;
    char line[4096], kind[8], first[64];
    int at;

    (void)state;
    if (!f)
        fail_msg("%s: run this from the root of the tree", VECTORS);
    while (fgets(line, sizeof(line), f)) {
        if (line[0] == '#')
            continue;
        assert_int_equal(sscanf(line, "%7s %63s %n", kind, first, &at), 2);
        if (strcmp(kind, "log") == 0) {
            assert_int_equal(tarn_rendezvous_neglog2(strtoull(first, NULL, 16)),
                             strtoull(line + at, NULL, 10));
            logs++;
        } else if (strcmp(kind, "hash") == 0) {
            check_hash(first, line + at);
            hashes++;
        } else {
            assert_string_equal(kind, "pick");
            check_pick(first, line + at);
            picks++;
        }
    }
    (void)fclose(f);
    assert_int_equal(logs, 32);
    assert_int_equal(hashes, 8);
    assert_int_equal(picks, 50);
}

/* Monotonic over the whole range, also where the fraction wraps. */
static void test_neglog2_monotonic(void **state)
{
    uint64_t last = UINT64_MAX;

    (void)state;
    for (unsigned top = 0; top < 64; top++) {
        for (uint64_t low = 0; low < 64; low++) {
            uint64_t l = tarn_rendezvous_neglog2(
                (1ULL << top) + (uint64_t)(((unsigned __int128)low << top) / 64) - 1);

            assert_true(l <= last);
            last = l;
        }
    }
    assert_int_equal(tarn_rendezvous_neglog2(0), 1ULL << 38);
    assert_int_equal(tarn_rendezvous_neglog2(UINT64_MAX), 0);
}

static tarn_cid_t key_cid(unsigned key)
{
    tarn_cid_t cid;
    uint64_t a = tarn_hash_u64(key / 4), b = tarn_hash_u64(a);

    memcpy(cid.b, &a, 8);
    memcpy(cid.b + 8, &b, 8);
    return cid;
}

static uint64_t owner(const struct tarn_rendezvous_node *nodes, unsigned n, unsigned key)
{
    tarn_cid_t cid = key_cid(key);
    uint64_t id = 0;

    assert_int_equal(tarn_rendezvous_pick(nodes, n, &cid, key % 4, 1, &id), 1);
    return id;
}

/* Each node's share of the keys is within 5 % of weight / sum. */
static void check_balance(const struct tarn_rendezvous_node *nodes, unsigned n)
{
    unsigned hits[16] = {0};
    uint64_t sum = 0;

    for (unsigned i = 0; i < n; i++)
        sum += nodes[i].weight;
    for (unsigned key = 0; key < KEYS; key++)
        hits[owner(nodes, n, key) - 1]++;
    for (unsigned i = 0; i < n; i++) {
        double expected = (double)KEYS * nodes[i].weight / (double)sum;

        if (hits[i] < 0.95 * expected || hits[i] > 1.05 * expected)
            fail_msg("node %u: %u keys, expected %.0f", i + 1, hits[i], expected);
    }
}

static void test_balance(void **state)
{
    static const struct tarn_rendezvous_node equal[] = {{1, 100}, {2, 100}, {3, 100}, {4, 100},
                                                        {5, 100}, {6, 100}, {7, 100}, {8, 100}};
    static const struct tarn_rendezvous_node unequal[] = {{1, 1000}, {2, 2000}, {3, 4000},
                                                          {4, 500},  {5, 0},    {6, 1500}};
    static const struct tarn_rendezvous_node huge[] = {{1, UINT32_MAX}, {2, UINT32_MAX / 3}};

    (void)state;
    check_balance(equal, TARN_ARRAY_LEN(equal));
    check_balance(unequal, TARN_ARRAY_LEN(unequal));
    check_balance(huge, TARN_ARRAY_LEN(huge));
}

/* Only the removed node's keys move; an added node takes its share and nothing else moves. */
static void test_minimal_movement(void **state)
{
    struct tarn_rendezvous_node five[] = {{1, 100}, {2, 200}, {3, 100}, {4, 300}, {5, 100}};
    struct tarn_rendezvous_node four[] = {{4, 300}, {1, 100}, {5, 100}, {3, 100}};
    unsigned moved = 0;

    (void)state;
    for (unsigned key = 0; key < KEYS; key++) {
        uint64_t with = owner(five, 5, key), without = owner(four, 4, key);

        if (with == 2)
            moved++;
        else
            assert_int_equal(with, without);
    }
    assert_in_range(moved, KEYS / 4 * 95 / 100, KEYS / 4 * 105 / 100);
}

static void test_weight_change(void **state)
{
    struct tarn_rendezvous_node before[] = {{1, 100}, {2, 100}, {3, 100}};
    struct tarn_rendezvous_node after[] = {{1, 100}, {2, 150}, {3, 100}};

    (void)state;
    for (unsigned key = 0; key < 20000; key++) {
        uint64_t a = owner(before, 3, key), b = owner(after, 3, key);

        assert_true(a == b || b == 2);
    }
}

/* The list of k is a prefix of the list of 8; removing its first moves the others up. */
static void test_order(void **state)
{
    struct tarn_rendezvous_node nodes[12], fewer[12];
    uint64_t all[8], some[8];

    (void)state;
    for (unsigned i = 0; i < 12; i++)
        nodes[i] = (struct tarn_rendezvous_node){.id = 1000 - i, .weight = 1 + i};
    for (unsigned key = 0; key < 500; key++) {
        tarn_cid_t cid = key_cid(key);
        unsigned n = 0;

        assert_int_equal(tarn_rendezvous_pick(nodes, 12, &cid, 7, 8, all), 8);
        for (unsigned k = 0; k < 8; k++) {
            assert_int_equal(tarn_rendezvous_pick(nodes, 12, &cid, 7, k, some), k);
            assert_memory_equal(all, some, k * sizeof(all[0]));
        }
        for (unsigned i = 0; i < 12; i++)
            if (nodes[i].id != all[0])
                fewer[n++] = nodes[i];
        assert_int_equal(tarn_rendezvous_pick(fewer, n, &cid, 7, 7, some), 7);
        assert_memory_equal(all + 1, some, 7 * sizeof(all[0]));
    }
}

static void pick_too_many(void)
{
    struct tarn_rendezvous_node node = {1, 1};
    tarn_cid_t cid = {{0}};
    uint64_t ids[16];

    (void)tarn_rendezvous_pick(&node, 1, &cid, 0, TARN_RENDEZVOUS_PICK_MAX + 1, ids);
}

static void test_edges(void **state)
{
    struct tarn_rendezvous_node nodes[] = {{1, 0}, {2, 5}, {3, 0}};
    tarn_cid_t cid = {{0}};
    uint64_t ids[8] = {0};

    (void)state;
    assert_int_equal(tarn_rendezvous_pick(NULL, 0, &cid, 0, 8, ids), 0);
    assert_int_equal(tarn_rendezvous_pick(nodes, 1, &cid, 0, 8, ids), 0);
    assert_int_equal(tarn_rendezvous_pick(nodes, 3, &cid, 0, 8, ids), 1);
    assert_int_equal(ids[0], 2);
    assert_true(base_dies(pick_too_many));
}

int base_run_rendezvous(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors),       cmocka_unit_test(test_neglog2_monotonic),
        cmocka_unit_test(test_balance),       cmocka_unit_test(test_minimal_movement),
        cmocka_unit_test(test_weight_change), cmocka_unit_test(test_order),
        cmocka_unit_test(test_edges),
    };

    return cmocka_run_group_tests_name("base/rendezvous", tests, NULL, NULL);
}
