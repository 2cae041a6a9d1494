/* SPDX-License-Identifier: Apache-2.0 */
/* Workers, sets of owners and the key of capabilities: one story each. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "lib/base/limits.h"
#include "tests/unit/master/core/core_fixture.h"

enum { LIVE = 1, DRAINING, LOST, REMOVED };

static int put(struct core_fx *fx, uint64_t id, const char *uuid, uint32_t weight, uint32_t state)
{
    Tarn__Core__Entry e = TARN__CORE__ENTRY__INIT;
    Tarn__Core__Worker w = TARN__CORE__WORKER__INIT;

    w.id = id;
    w.uuid = (char *)(uintptr_t)uuid;
    w.addr = (char *)(uintptr_t) "host:1";
    w.weight = weight;
    w.state = state;
    e.worker_put = &w;
    return fx_apply(fx, &e);
}

static int drop(struct core_fx *fx, uint64_t upto)
{
    Tarn__Core__Entry e = TARN__CORE__ENTRY__INIT;
    Tarn__Core__PastDrop d = TARN__CORE__PAST_DROP__INIT;

    d.upto = upto;
    e.past_drop = &d;
    return fx_apply(fx, &e);
}

/* "1,2@7 1@9": the sets of the past. */
static const char *past(struct core_fx *fx)
{
    Tarn__Core__Placement *p;

    tarn_str_reset(&fx->text);
    assert_int_equal(tarn_core_placement(fx->kv, &p), 0);
    for (size_t i = 0; i < p->n_past; i++) {
        tarn_str_adds(&fx->text, i ? " " : "");
        for (size_t k = 0; k < p->past[i]->n_ids; k++)
            tarn_str_addf(&fx->text, "%s%u", k ? "," : "", (unsigned)p->past[i]->ids[k]);
        tarn_str_addf(&fx->text, "@%u", (unsigned)p->past[i]->index);
    }
    tarn__core__placement__free_unpacked(p, NULL);
    return tarn_str_z(&fx->text);
}

static int count(void *arg, const Tarn__Core__Worker *w)
{
    (void)w;
    ++*(unsigned *)arg;
    return 0;
}

static void ids_and_sets(void **state)
{
    struct core_fx fx;
    Tarn__Core__Worker *w;

    (void)state;
    fx_open(&fx);
    assert_int_equal(put(&fx, 0, "uuid-aaaa", 1, LIVE), -TARN_E_ENTRY_BAD); /* before Init: 1 */
    assert_int_equal(fx_init(&fx, "c"), 0);                                 /* 2 */
    assert_int_equal(put(&fx, 0, "uuid-aaaa", 1, LIVE), 0);                 /* 3 */
    assert_int_equal(fx.res.worker, 1);
    assert_string_equal(past(&fx), "");                     /* nobody owned anything before */
    assert_int_equal(put(&fx, 0, "uuid-bbbb", 1, LIVE), 0); /* 4 */
    assert_int_equal(fx.res.worker, 2);
    assert_string_equal(past(&fx), "1@4");
    assert_int_equal(put(&fx, 0, "uuid-aaaa", 1, LIVE), 0); /* 5: known */
    assert_int_equal(fx.res.worker, 1);
    assert_string_equal(past(&fx), "1@4");
    assert_int_equal(put(&fx, 2, "uuid-bbbb", 1, DRAINING), 0); /* 6 */
    assert_string_equal(past(&fx), "1@4 1,2@6");
    assert_int_equal(put(&fx, 2, "uuid-bbbb", 1, LIVE), 0); /* 7: the first set ended again */
    assert_string_equal(past(&fx), "1,2@6 1@7");
    assert_int_equal(put(&fx, 2, "uuid-bbbb", 3, LIVE), 0); /* 8: a weight is a change, too */
    assert_string_equal(past(&fx), "1@7 1,2@8");
    assert_int_equal(put(&fx, 3, "uuid-cccc", 1, LIVE), -TARN_E_UNKNOWN_WORKER); /* 9 */
    assert_int_equal(put(&fx, 2, "uuid-cccc", 1, LIVE), -TARN_E_ENTRY_BAD);      /* 10 */
    assert_int_equal(put(&fx, 0, "short", 1, LIVE), -TARN_E_ENTRY_BAD);          /* 11 */
    assert_int_equal(put(&fx, 0, "two words", 1, LIVE), -TARN_E_ENTRY_BAD);      /* 12 */
    assert_int_equal(drop(&fx, 13), -TARN_E_ENTRY_BAD);                          /* the future */
    assert_int_equal(drop(&fx, 7), 0);                                           /* 14 */
    assert_string_equal(past(&fx), "1,2@8");
    assert_int_equal(drop(&fx, 14), 0); /* 15 */
    assert_string_equal(past(&fx), "");
    assert_int_equal(put(&fx, 1, "uuid-aaaa", 1, LOST), 0); /* 16 */
    assert_string_equal(past(&fx), "1,2@16");
    assert_int_equal(tarn_core_worker(fx.kv, 1, &w), 0);
    assert_int_equal(w->state, LOST);
    assert_int_equal(w->since_ns, fx.now_ns - 10);
    tarn__core__worker__free_unpacked(w, NULL);
    assert_int_equal(tarn_core_worker(fx.kv, 3, &w), -TARN_E_NO_ENTRY);
    fx_close(&fx);
}

static void sets_are_bounded(void **state)
{
    struct core_fx fx;
    Tarn__Core__Placement *p;

    (void)state;
    fx_open(&fx);
    assert_int_equal(fx_init(&fx, "c"), 0);
    for (uint32_t i = 1; i <= TARN_CORE_PAST_MAX + 10; i++)
        assert_int_equal(put(&fx, 0, "uuid-aaaa", i, LIVE), 0);
    assert_int_equal(tarn_core_placement(fx.kv, &p), 0);
    assert_int_equal(p->n_past, TARN_CORE_PAST_MAX);
    assert_int_equal(p->past[0]->weights[0], 10); /* the oldest went */
    assert_int_equal(p->past[p->n_past - 1]->weights[0], TARN_CORE_PAST_MAX + 9);
    tarn__core__placement__free_unpacked(p, NULL);
    fx_close(&fx);
}

static void workers_are_bounded(void **state)
{
    struct core_fx fx;
    Tarn__Core__Placement *p;
    Tarn__Core__Worker *w;
    char uuid[32];
    size_t ids = 0;
    unsigned n = 0;

    (void)state;
    fx_open(&fx);
    assert_int_equal(fx_init(&fx, "c"), 0);
    for (unsigned i = 1; i <= TARN_CORE_WORKERS_MAX; i++) {
        (void)snprintf(uuid, sizeof(uuid), "uuid-%05u", i);
        assert_int_equal(put(&fx, 0, uuid, 1, LIVE), 0);
    }
    assert_int_equal(put(&fx, 0, "uuid-one-more", 1, LIVE), -TARN_E_TOO_BIG);
    assert_int_equal(tarn_core_placement(fx.kv, &p), 0);
    for (size_t i = 0; i < p->n_past; i++)
        ids += p->past[i]->n_ids;
    assert_true(ids <= TARN_CORE_PAST_IDS_MAX && p->n_past < TARN_CORE_PAST_MAX);
    tarn__core__placement__free_unpacked(p, NULL);
    assert_int_equal(put(&fx, 7, "uuid-00007", 1, LOST), 0);
    assert_int_equal(put(&fx, 9, "uuid-00009", 1, REMOVED), 0);
    assert_int_equal(put(&fx, 0, "uuid-one-more", 1, LIVE), 0); /* for the removed one */
    assert_int_equal(fx.res.worker, TARN_CORE_WORKERS_MAX + 1); /* no id comes twice */
    assert_int_equal(tarn_core_worker(fx.kv, 9, &w), -TARN_E_NO_ENTRY);
    assert_int_equal(put(&fx, 0, "uuid-another", 1, LIVE), 0); /* for the lost one */
    assert_int_equal(tarn_core_worker(fx.kv, 7, &w), -TARN_E_NO_ENTRY);
    assert_int_equal(put(&fx, 0, "uuid-the-last", 1, LIVE), -TARN_E_TOO_BIG);
    assert_int_equal(tarn_core_workers(fx.kv, count, &n), 0);
    assert_int_equal(n, TARN_CORE_WORKERS_MAX);
    fx_close(&fx);
}

static int put_key(struct core_fx *fx, const uint8_t *key, size_t n)
{
    Tarn__Core__Entry e = TARN__CORE__ENTRY__INIT;
    Tarn__Core__CapKey k = TARN__CORE__CAP_KEY__INIT;

    k.key = (ProtobufCBinaryData){n, (uint8_t *)(uintptr_t)key};
    e.cap_key = &k;
    assert_true(tarn_core_entry_needs_sync(&e));
    return fx_apply(fx, &e);
}

static void one_key(void **state)
{
    static const uint8_t a[33] = {0, 1, 2}, b[32] = {3};
    struct core_fx fx;
    uint8_t key[32];

    (void)state;
    fx_open(&fx);
    assert_int_equal(fx_init(&fx, "c"), 0);
    assert_int_equal(tarn_core_cap_key(fx.kv, key), -TARN_E_NO_ENTRY);
    assert_int_equal(put_key(&fx, a, 31), -TARN_E_ENTRY_BAD);
    assert_int_equal(put_key(&fx, a, 33), -TARN_E_ENTRY_BAD);
    assert_int_equal(put_key(&fx, a, 32), 0);
    assert_int_equal(put_key(&fx, b, 32), -TARN_E_EXISTS);
    assert_int_equal(tarn_core_cap_key(fx.kv, key), 0);
    assert_memory_equal(key, a, 32);
    fx_close(&fx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_and_sets),
        cmocka_unit_test(sets_are_bounded),
        cmocka_unit_test(workers_are_bounded),
        cmocka_unit_test(one_key),
    };

    return cmocka_run_group_tests_name("core members", tests, NULL, NULL);
}
