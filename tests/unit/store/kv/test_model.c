/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random operations on both back ends against arrays indexed by the key's number. Keys are few and
 * share prefixes, so that overwrites, deletions and neighbours meet.
 */
#include "tests/unit/store/kv/kv_tests.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "lib/base/env.h"
#include "lib/base/mem.h"

#define KEYS  120
#define STEPS 1500

/* Values are numbers; 0 is absent. */
struct model {
    unsigned v[KV_TEST_CFS][KEYS];
};

struct run {
    struct kv_backend *be;      /* under test */
    struct tarn_rng_seeded rng; /* decides */
    struct model committed;     /* what the store holds */
    struct model pending;       /* with the batch's operations */
    struct tarn_kv_batch *b;    /* open batch */
    unsigned next_value;        /* makes values distinct */
};

/* Key i: three letters, so that prefixes of one and two letters have several keys, in order of i.
 */
static struct tarn_kv_slice key_of(unsigned i, char buf[8])
{
    buf[0] = (char)('a' + i / 30);
    buf[1] = i / 6 % 5 == 4 ? (char)0xff : (char)('a' + i / 6 % 5);
    buf[2] = (char)(i % 6);
    return tarn_kv_slice(buf, i % 6 == 0 ? 2 : 3); /* some keys begin others */
}

static unsigned pick(struct run *r, unsigned n)
{
    return (unsigned)tarn_rng_below(&r->rng.base, n);
}

static void check_value(int rc, const struct tarn_str *got, unsigned expected)
{
    char want[32];

    if (expected == 0) {
        assert_int_equal(rc, -ENOENT);
        return;
    }
    assert_int_equal(rc, 0);
    (void)snprintf(want, sizeof(want), "value-%u", expected);
    assert_string_equal(tarn_str_z(got), want);
}

static void step_change(struct run *r)
{
    unsigned cf = pick(r, KV_TEST_CFS), i = pick(r, KEYS);
    char key[8], value[32];

    if (pick(r, 3) == 0) {
        tarn_kv_batch_delete(r->b, cf, key_of(i, key));
        r->pending.v[cf][i] = 0;
        return;
    }
    r->pending.v[cf][i] = ++r->next_value;
    (void)snprintf(value, sizeof(value), "value-%u", r->next_value);
    tarn_kv_batch_put(r->b, cf, key_of(i, key), kv_z(value));
}

static void step_get(struct run *r)
{
    unsigned cf = pick(r, KV_TEST_CFS), i = pick(r, KEYS);
    struct tarn_str got = {0};
    char key[8];

    check_value(tarn_kv_get(r->be->kv, cf, key_of(i, key), &got), &got, r->committed.v[cf][i]);
    check_value(tarn_kv_batch_get(r->b, cf, key_of(i, key), &got), &got, r->pending.v[cf][i]);
    tarn_str_fini(&got);
}

static bool begins(struct tarn_kv_slice s, struct tarn_kv_slice prefix)
{
    return s.n >= prefix.n && memcmp(s.p, prefix.p, prefix.n) == 0;
}

/* Scans a random prefix, perhaps from a random key, over the store or over batch and store. */
static void step_scan(struct run *r)
{
    unsigned cf = pick(r, KV_TEST_CFS), from = 0, rc;
    bool batch = pick(r, 2);
    const unsigned *model = batch ? r->pending.v[cf] : r->committed.v[cf];
    char pbuf[8], kbuf[8];
    struct tarn_kv_slice prefix = key_of(pick(r, KEYS), pbuf);
    struct tarn_kv_iter *it;

    prefix.n = pick(r, 4) % (unsigned)(prefix.n + 1);
    it = tarn_kv_iter_new(r->be->kv, batch ? r->b : NULL, cf, prefix);
    if (pick(r, 2)) {
        from = pick(r, KEYS);
        tarn_kv_iter_seek(it, key_of(from, kbuf));
    }
    for (unsigned i = from; i < KEYS; i++) {
        struct tarn_kv_slice want = key_of(i, kbuf);
        struct tarn_str got = {0};

        if (!model[i] || !begins(want, prefix))
            continue;
        assert_int_equal(tarn_kv_iter_next(it), 1);
        assert_int_equal(tarn_kv_iter_key(it).n, want.n);
        assert_memory_equal(tarn_kv_iter_key(it).p, want.p, want.n);
        tarn_str_add(&got, tarn_kv_iter_value(it).p, tarn_kv_iter_value(it).n);
        check_value(0, &got, model[i]);
        tarn_str_fini(&got);
    }
    rc = (unsigned)tarn_kv_iter_next(it);
    assert_int_equal(rc, 0);
    tarn_kv_iter_free(&it);
}

static void step_write(struct run *r)
{
    assert_int_equal(tarn_kv_write(r->be->kv, r->b, pick(r, 10) == 0), 0);
    r->committed = r->pending;
}

static void step_drop(struct run *r)
{
    tarn_kv_batch_free(&r->b);
    if (pick(r, 4) == 0)
        kv_backend_restart(r->be);
    else if (pick(r, 4) == 0)
        assert_int_equal(tarn_kv_reopen(r->be->kv, NULL), 0);
    r->b = tarn_kv_batch_new(r->be->kv);
    r->pending = r->committed;
}

static void run_steps(struct run *r, uint64_t seed)
{
    tarn_rng_seeded_init(&r->rng, seed);
    r->b = tarn_kv_batch_new(r->be->kv);
    for (unsigned i = 0; i < STEPS; i++) {
        unsigned what = pick(r, 200);

        if (what < 110)
            step_change(r);
        else if (what < 150)
            step_get(r);
        else if (what < 180)
            step_scan(r);
        else if (what < 198)
            step_write(r);
        else
            step_drop(r);
    }
    step_write(r);
    tarn_kv_batch_free(&r->b);
}

static void test_random(void **state)
{
    for (uint64_t seed = 1; seed <= 3; seed++) {
        struct kv_backend be;
        struct run r = {.be = &be};

        kv_backend_start(&be, ((struct kv_backend *)*state)->name);
        run_steps(&r, seed);
        kv_backend_stop(&be);
    }
}

/* The same operations leave the same contents in both, also after a restart. */
static void test_dump_equal(void **state)
{
    static const char *const names[] = {"mem", "rocksdb"};
    uint64_t hash[2], again[2];
    struct kv_backend be[2];

    (void)state;
    for (int i = 0; i < 2; i++) {
        struct run r = {.be = &be[i]};

        kv_backend_start(&be[i], names[i]);
        run_steps(&r, 99);
        assert_int_equal(tarn_kv_dump_hash(be[i].kv, ~0u, &hash[i]), 0);
        kv_backend_restart(&be[i]);
        assert_int_equal(tarn_kv_dump_hash(be[i].kv, ~0u, &again[i]), 0);
    }
    assert_int_equal(hash[0], hash[1]);
    assert_int_equal(again[0], hash[0]);
    assert_int_equal(again[1], hash[0]);
    kv_put(be[0].kv, 1, "one more", "");
    assert_int_equal(tarn_kv_dump_hash(be[0].kv, ~0u, &hash[0]), 0);
    assert_true(hash[0] != hash[1]);
    kv_backend_stop(&be[0]);
    kv_backend_stop(&be[1]);
}

int kv_run_model(void)
{
    const struct CMUnitTest tests[] = {
        KV_TEST(test_random),
        cmocka_unit_test(test_dump_equal),
    };

    return cmocka_run_group_tests_name("kv/model", tests, NULL, NULL);
}
