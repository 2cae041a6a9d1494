/* SPDX-License-Identifier: Apache-2.0 */
/* Hash table, list, buffers, state machines. */
#include "tests/unit/lib/base/base_tests.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/assert.h"
#include "lib/base/buf.h"
#include "lib/base/env.h"
#include "lib/base/err.h"
#include "lib/base/fault.h"
#include "lib/base/hash.h"
#include "lib/base/htab.h"
#include "lib/base/list.h"
#include "lib/base/mem.h"
#include "lib/base/sm.h"

struct entry {
    struct tarn_hnode node; /* in the table */
    uint64_t key;           /* of the entry */
    bool in;                /* the model: it is in the table */
};

static struct entry *entry_find(const struct tarn_htab *t, uint64_t key, uint64_t hash)
{
    for (struct tarn_hnode *n = tarn_htab_first(t, hash); n; n = tarn_htab_next(n, hash)) {
        struct entry *e = TARN_CONTAINER(n, struct entry, node);

        if (e->key == key)
            return e;
    }
    return NULL;
}

static void check_walk(const struct tarn_htab *t, const struct entry *all, size_t n)
{
    size_t slot = 0, seen = 0, expected = 0;

    for (struct tarn_hnode *node = tarn_htab_walk(t, &slot, NULL); node;
         node = tarn_htab_walk(t, &slot, node)) {
        assert_true(TARN_CONTAINER(node, struct entry, node)->in);
        seen++;
    }
    for (size_t i = 0; i < n; i++)
        expected += all[i].in;
    assert_int_equal(seen, expected);
    assert_int_equal(t->count, expected);
}

static void test_htab_empty(void **state)
{
    struct tarn_htab t = {0};
    size_t slot = 0;

    (void)state;
    assert_null(tarn_htab_first(&t, 5));
    assert_null(tarn_htab_any(&t));
    assert_null(tarn_htab_walk(&t, &slot, NULL));
    tarn_htab_fini(&t);
}

/* Random inserts and removals against flags, with hashes that collide a lot. */
static void test_htab_random(void **state)
{
    enum { KEYS = 3000, STEPS = 30000 };
    struct entry *all = tarn_xcalloc(KEYS, sizeof(*all));
    struct tarn_htab t = {0};
    struct tarn_rng_seeded rng;

    (void)state;
    tarn_rng_seeded_init(&rng, 7);
    for (size_t step = 0; step < STEPS; step++) {
        uint64_t k = tarn_rng_below(&rng.base, KEYS);
        uint64_t hash = tarn_hash_u64(k / 3); /* three keys share a hash */
        struct entry *e = entry_find(&t, k, hash);

        assert_true((e != NULL) == all[k].in);
        assert_true(!e || e == &all[k]);
        if (e)
            tarn_htab_remove(&t, &e->node);
        else
            tarn_htab_insert(&t, &all[k].node, hash);
        all[k].key = k;
        all[k].in = !all[k].in;
        if (step % 5000 == 0)
            check_walk(&t, all, KEYS);
    }
    check_walk(&t, all, KEYS);
    for (struct tarn_hnode *n; (n = tarn_htab_any(&t)) != NULL;) {
        TARN_CONTAINER(n, struct entry, node)->in = false;
        tarn_htab_remove(&t, n);
    }
    check_walk(&t, all, KEYS);
    tarn_htab_fini(&t);
    free(all);
}

/* Emptying by `any` is linear: with a scan from the start each time this would take minutes. */
static void test_htab_any_linear(void **state)
{
    enum { KEYS = 300000 };
    struct tarn_hnode *nodes = tarn_xcalloc(KEYS, sizeof(*nodes));
    struct tarn_htab t = {0};
    struct tarn_hnode *n;
    size_t left = KEYS;
    bool back = false;

    (void)state;
    for (size_t i = 0; i < KEYS; i++)
        tarn_htab_insert(&t, &nodes[i], tarn_hash_u64(i));
    while ((n = tarn_htab_any(&t)) != NULL) {
        tarn_htab_remove(&t, n);
        left--;
        if (left % 100000 == 50000 && !back) { /* one that comes back before the remembered place */
            tarn_htab_insert(&t, n, 0);
            assert_non_null(tarn_htab_first(&t, 0));
            left++;
            back = true;
        }
    }
    assert_int_equal(left, 0);
    assert_int_equal(t.count, 0);
    tarn_htab_fini(&t);
    free(nodes);
}

static void htab_remove_absent(void)
{
    struct tarn_hnode a = {0}, b = {0};
    struct tarn_htab t = {0};

    tarn_htab_insert(&t, &a, 1);
    b.hash = 1;
    tarn_htab_remove(&t, &b);
}

static void test_htab_remove_absent(void **state)
{
    (void)state;
    assert_true(base_dies(htab_remove_absent));
}

struct item {
    struct tarn_list link; /* in a list */
    int v;                 /* value */
};

static void check_list(const struct tarn_list *l, const char *expected)
{
    const struct tarn_list *prev = l;
    size_t i = 0;

    TARN_LIST_FOREACH(it, l)
    {
        assert_ptr_equal(it->prev, prev);
        assert_int_equal(TARN_LIST_ENTRY(it, struct item, link)->v, expected[i]);
        prev = it;
        i++;
    }
    assert_ptr_equal(l->prev, prev);
    assert_int_equal(expected[i], 0);
    assert_int_equal(tarn_list_empty(l), i == 0);
}

static void test_list(void **state)
{
    struct item items[6];
    struct tarn_list l, m;

    (void)state;
    tarn_list_init(&l);
    tarn_list_init(&m);
    assert_null(tarn_list_pop(&l));
    for (int i = 0; i < 6; i++)
        items[i].v = 'a' + i;
    tarn_list_push(&l, &items[1].link);
    tarn_list_push(&l, &items[2].link);
    tarn_list_push_front(&l, &items[0].link);
    check_list(&l, "abc");
    tarn_list_splice(&l, &m);
    check_list(&l, "abc");
    tarn_list_push(&m, &items[3].link);
    tarn_list_push(&m, &items[4].link);
    tarn_list_splice(&l, &m);
    check_list(&l, "abcde");
    check_list(&m, "");
    tarn_list_splice(&m, &l);
    check_list(&m, "abcde");
    tarn_list_del(&items[2].link);
    tarn_list_del(&items[2].link); /* an unlinked node may be unlinked again */
    check_list(&m, "abde");
    assert_ptr_equal(tarn_list_pop(&m), &items[0].link);
    assert_true(tarn_list_empty(&items[0].link));
    TARN_LIST_FOREACH_SAFE(it, &m)
    if (TARN_LIST_ENTRY(it, struct item, link)->v != 'd')
        tarn_list_del(it);
    check_list(&m, "d");
}

/* Counted until the last reference goes, in the account and in the one above; once each. */
static void test_buf_account(void **state)
{
    struct tarn_buf_account *all = tarn_buf_account_new(NULL), *one = tarn_buf_account_new(all);
    struct tarn_buf_account *two = tarn_buf_account_new(all);
    struct tarn_buf_pool *pool = tarn_buf_pool_new(5000, 2);
    struct tarn_buf *a = tarn_buf_new(100), *b = tarn_buf_pool_get(pool), *other;

    (void)state;
    tarn_buf_charge(a, one);
    tarn_buf_charge(b, two);
    tarn_buf_charge(b, one); /* counts already */
    assert_int_equal(tarn_buf_account_bytes(one), 100);
    assert_int_equal(tarn_buf_account_bytes(two), 5000);
    assert_int_equal(tarn_buf_account_bytes(all), 5100);
    other = tarn_buf_ref(a);
    tarn_buf_unref(&a);
    assert_int_equal(tarn_buf_account_bytes(one), 100);
    tarn_buf_unref(&other);
    assert_int_equal(tarn_buf_account_bytes(one), 0);
    tarn_buf_unref(&b);
    assert_int_equal(tarn_buf_account_bytes(all), 0);
    b = tarn_buf_pool_get(pool); /* one that was used counts nowhere */
    tarn_buf_charge(b, one);
    tarn_buf_account_unref(&all);
    tarn_buf_account_unref(&one); /* lives on with the buffer */
    tarn_buf_unref(&b);
    tarn_buf_account_unref(&two);
    tarn_buf_account_unref(&two); /* NULL is accepted */
    tarn_buf_pool_free(&pool);
}

static void test_buf(void **state)
{
    static const size_t caps[] = {0, 1, 4095, 4096, 4097, 1 << 20};

    (void)state;
    for (size_t i = 0; i < TARN_ARRAY_LEN(caps); i++) {
        struct tarn_buf *b = tarn_buf_new(caps[i]), *other;

        assert_non_null(b);
        assert_int_equal((uintptr_t)b->p % 4096, 0);
        assert_int_equal(b->cap, caps[i]);
        assert_int_equal(b->len, 0);
        memset(b->p, 0xaa, caps[i]);
        other = tarn_buf_ref(b);
        tarn_buf_unref(&b);
        assert_null(b);
        assert_true(caps[i] == 0 || other->p[caps[i] - 1] == 0xaa);
        tarn_buf_unref(&other);
        tarn_buf_unref(&other); /* NULL is accepted */
    }
    assert_null(tarn_buf_new(SIZE_MAX));
    assert_null(tarn_buf_new(SIZE_MAX - 4095));
}

static void test_buf_pool(void **state)
{
    enum { CAP = 2 << 20, SPARE = 2 };
    struct tarn_buf_pool *pool = tarn_buf_pool_new(CAP, SPARE);
    struct tarn_buf *b[SPARE + 1];
    uint8_t *first;

    (void)state;
    assert_true(tarn_buf_pool_trim(pool));
    b[0] = tarn_buf_pool_get(pool);
    assert_non_null(b[0]);
    assert_int_equal(b[0]->cap, CAP);
    b[0]->len = CAP;
    memset(b[0]->p, 0xaa, CAP);
    first = b[0]->p;
    tarn_buf_unref(&b[0]);
    assert_false(tarn_buf_pool_trim(pool)); /* used since the last time */
    for (int i = 0; i <= SPARE; i++) {
        b[i] = tarn_buf_pool_get(pool);
        assert_int_equal(b[i]->len, 0);
        assert_true((b[i]->p == first) == (i == 0));
    }
    assert_false(tarn_buf_pool_trim(pool));
    for (int i = 0; i <= SPARE; i++) /* the last one is more than the pool keeps */
        tarn_buf_unref(&b[i]);
    assert_true(tarn_buf_pool_trim(pool));
    b[0] = tarn_buf_pool_get(pool);
    tarn_buf_pool_free(&pool);
    assert_null(pool);
    memset(b[0]->p, 0x55, CAP); /* still good */
    tarn_buf_unref(&b[0]);
    tarn_buf_pool_free(&pool); /* NULL is accepted */
}

static void test_buf_pipe(void **state)
{
    enum { LEN = 1 << 20 };
    uint8_t *in = malloc(LEN), *out = malloc(LEN);
    FILE *f = tmpfile();
    struct tarn_buf *b;

    (void)state;
    assert_null(tarn_buf_pipe(0));
    assert_null(tarn_buf_pipe(LEN + 1)); /* more than a pipe may be */
    for (size_t i = 0; i < LEN; i++)
        in[i] = (uint8_t)(i * 7 + i / 4096);
    assert_int_equal(fwrite(in, 1, LEN, f), LEN);
    assert_int_equal(fflush(f), 0);
    b = tarn_buf_pipe(LEN);
    assert_non_null(b);
    assert_null(b->p);
    assert_int_equal(tarn_buf_splice(b, fileno(f), 0, 4096), 0);
    assert_int_equal(tarn_buf_splice(b, fileno(f), 4096, LEN - 4096), 0);
    assert_int_equal(b->len, LEN);
    for (size_t got = 0; got < LEN;) {
        ssize_t n = read(b->pipe[0], out + got, LEN - got);

        assert_true(n > 0);
        got += (size_t)n;
    }
    assert_memory_equal(in, out, LEN);
    tarn_buf_unref(&b);
    b = tarn_buf_pipe(LEN);
    assert_int_equal(tarn_buf_splice(b, fileno(f), LEN - 5, 6), -TARN_E_EOF);
    assert_int_equal(tarn_buf_splice(b, -1, 0, 6), -EBADF);
    tarn_buf_unref(&b); /* with bytes in it */
    (void)fclose(f);
    free(in);
    free(out);
}

static void test_buf_fault(void **state)
{
    (void)state;
#ifdef TARN_FAULTS
    tarn_fault_arm(TARN_FAULT_buf_alloc, 0, 1, -12);
    assert_null(tarn_buf_new(10));
    struct tarn_buf *b = tarn_buf_new(10);
    assert_non_null(b);
    tarn_buf_unref(&b);
#else
    skip();
#endif
}

static void *buf_churn(void *arg)
{
    struct tarn_buf *b = arg;

    for (int i = 0; i < 20000; i++) {
        struct tarn_buf *mine = tarn_buf_ref(b);

        tarn_buf_unref(&mine);
    }
    tarn_buf_unref(&b);
    return NULL;
}

static void test_buf_threads(void **state)
{
    struct tarn_buf *b = tarn_buf_new(100);
    pthread_t threads[3];

    (void)state;
    for (size_t i = 0; i < TARN_ARRAY_LEN(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, buf_churn, tarn_buf_ref(b)), 0);
    tarn_buf_unref(&b);
    for (size_t i = 0; i < TARN_ARRAY_LEN(threads); i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
}

enum lamp { LAMP_OFF, LAMP_ON, LAMP_BROKEN };

static const struct tarn_sm_state lamp_states[] = {
    [LAMP_OFF] = {"off", TARN_SM_BIT(LAMP_ON) | TARN_SM_BIT(LAMP_BROKEN)},
    [LAMP_ON] = {"on", TARN_SM_BIT(LAMP_OFF) | TARN_SM_BIT(LAMP_BROKEN)},
    [LAMP_BROKEN] = {"broken", 0},
};

static void sm_repair(void)
{
    unsigned lamp = LAMP_BROKEN;

    tarn_sm_move(lamp_states, &lamp, LAMP_ON);
}

static void sm_far(void)
{
    unsigned lamp = LAMP_OFF;

    tarn_sm_move(lamp_states, &lamp, 64);
}

static void test_sm(void **state)
{
    unsigned lamp = LAMP_OFF;

    (void)state;
    tarn_sm_move(lamp_states, &lamp, LAMP_ON);
    tarn_sm_move(lamp_states, &lamp, LAMP_OFF);
    tarn_sm_move(lamp_states, &lamp, LAMP_BROKEN);
    assert_int_equal(lamp, LAMP_BROKEN);
    assert_true(base_dies(sm_repair));
    assert_true(base_dies(sm_far));
}

struct magic_thing {
    uint32_t magic; /* MAGIC_THING */
};
#define MAGIC_THING 0x7468696eu

static void cast_wrong(void)
{
    struct magic_thing t = {.magic = MAGIC_THING + 1};
    struct magic_thing *back;
    void *p = &t;

    TARN_CAST(back, p, MAGIC_THING);
}

static void test_cast(void **state)
{
    struct magic_thing t = {.magic = MAGIC_THING};
    struct magic_thing *back;
    void *p = &t;

    (void)state;
    TARN_CAST(back, p, MAGIC_THING);
    assert_ptr_equal(back, &t);
    assert_true(base_dies(cast_wrong));
}

int base_run_containers(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_htab_empty),
        cmocka_unit_test(test_htab_random),
        cmocka_unit_test(test_htab_any_linear),
        cmocka_unit_test(test_htab_remove_absent),
        cmocka_unit_test(test_list),
        cmocka_unit_test(test_buf),
        cmocka_unit_test(test_buf_account),
        cmocka_unit_test(test_buf_pool),
        cmocka_unit_test(test_buf_pipe),
        cmocka_unit_test(test_buf_fault),
        cmocka_unit_test(test_buf_threads),
        cmocka_unit_test(test_sm),
        cmocka_unit_test(test_cast),
    };

    return cmocka_run_group_tests_name("base/containers", tests, NULL, NULL);
}
