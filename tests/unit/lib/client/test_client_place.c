/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Topologies: the order of docs/formats/placement.md by its vectors, owners on hosts of their own,
 * who had what before, how little moves, and what is refused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/client/place.h"

#define VECTORS  "tests/unit/lib/base/rendezvous_vectors.txt"
#define MAX      32u
#define SEGMENTS 4000u

/* A topology to be changed at will, and what is made of it. */
struct topo {
    Tarn__Wire__Topology t;
    Tarn__Wire__WorkerInfo w[MAX], *workers[MAX];
    char host[MAX][16];
    Tarn__Wire__Membership past[4], *pasts[4];
    uint64_t past_ids[4][MAX];
    uint32_t past_weights[4][MAX];
};

static void topo_init(struct topo *p, unsigned n)
{
    memset(p, 0, sizeof(*p));
    tarn__wire__topology__init(&p->t);
    p->t.version = 1;
    p->t.n_workers = n;
    p->t.workers = p->workers;
    p->t.past = p->pasts;
    for (unsigned i = 0; i < n; i++) {
        Tarn__Wire__WorkerInfo *w = &p->w[i];

        tarn__wire__worker_info__init(w);
        (void)snprintf(p->host[i], sizeof(p->host[i]), "h%u", i);
        w->id = i + 1;
        w->weight = 100;
        w->state = TARN_WORKER_LIVE;
        w->alive = true;
        w->host = p->host[i];
        p->workers[i] = w;
    }
}

/* The workers of `mask` owned everything before; called oldest first. */
static void topo_past(struct topo *p, uint32_t mask)
{
    size_t k = p->t.n_past++;
    Tarn__Wire__Membership *m = &p->past[k];

    tarn__wire__membership__init(m);
    for (unsigned i = 0; i < MAX; i++)
        if (mask & (1u << i)) {
            p->past_ids[k][m->n_ids] = i + 1;
            p->past_weights[k][m->n_ids++] = 100;
        }
    m->n_weights = m->n_ids;
    m->ids = p->past_ids[k];
    m->weights = p->past_weights[k];
    p->pasts[k] = m;
}

static struct tarn_place *make(const struct topo *p)
{
    struct tarn_place *place = NULL;

    assert_int_equal(tarn_place_new(&p->t, &place), 0);
    return place;
}

static tarn_cid_t cid_of(unsigned i)
{
    tarn_cid_t cid;

    for (unsigned k = 0; k < sizeof(cid.b); k++)
        cid.b[k] = (uint8_t)(i * 31 + k * 7 + (i >> 8));
    return cid;
}

static uint64_t owner_of(const struct tarn_place *p, unsigned i)
{
    const struct tarn_place_worker *w[TARN_PLACE_PICK_MAX];
    tarn_cid_t cid = cid_of(i);

    return tarn_place_owners(p, &cid, i % 5, 1, w) ? w[0]->id : 0;
}

/* ---- order ----------------------------------------------------------------------------------- */

static void check_pick(const char *cid_text, const char *rest)
{
    const struct tarn_place_worker *order[TARN_PLACE_PICK_MAX];
    char members[1024], want[256], got[256] = "", *save = NULL;
    struct topo *p = tarn_xnew(struct topo);
    struct tarn_place *place;
    uint32_t segment;
    unsigned k, n;
    size_t len = 0;
    tarn_cid_t cid;

    assert_int_equal(sscanf(rest, "%" SCNu32 " %u %1023s %255s", &segment, &k, members, want), 4);
    assert_int_equal(tarn_cid_parse(cid_text, &cid), 0);
    topo_init(p, 0);
    for (char *m = strtok_r(members, ",", &save); m; m = strtok_r(NULL, ",", &save)) {
        Tarn__Wire__WorkerInfo *w = &p->w[p->t.n_workers];

        assert_true(p->t.n_workers < MAX);
        tarn__wire__worker_info__init(w);
        assert_int_equal(sscanf(m, "%" SCNu64 ":%" SCNu32, &w->id, &w->weight), 2);
        w->state = TARN_WORKER_LIVE; /* alive or not has no influence on the order */
        w->alive = p->t.n_workers % 2;
        p->workers[p->t.n_workers++] = w;
    }
    place = make(p);
    n = tarn_place_order(place, &cid, segment, k, order);
    for (unsigned i = 0; i < n; i++)
        len += (size_t)snprintf(got + len, sizeof(got) - len, "%s%" PRIu64, i ? "," : "",
                                order[i]->id);
    assert_string_equal(n ? got : "-", want);
    tarn_place_unref(&place);
    free(p);
}

static void vectors(void **state)
{
    FILE *f = fopen(VECTORS, "r");
    unsigned picks = 0;
    char line[2048];

    (void)state;
    assert_non_null(f);
    while (fgets(line, sizeof(line), f)) {
        char cid[64];
        int at = 0;

        if (sscanf(line, "pick %63s %n", cid, &at) != 1)
            continue;
        check_pick(cid, line + at);
        picks++;
    }
    (void)fclose(f);
    assert_int_equal(picks, 50);
}

static void only_live_ones_own(void **state)
{
    struct topo p;
    struct tarn_place *place;
    const struct tarn_place_worker *w[TARN_PLACE_PICK_MAX];
    tarn_cid_t cid = cid_of(1);

    (void)state;
    topo_init(&p, 6);
    p.w[1].state = TARN_WORKER_DRAINING;
    p.w[2].state = TARN_WORKER_LOST;
    p.w[3].state = TARN_WORKER_REMOVED;
    p.w[4].weight = 0;
    p.w[5].alive = false; /* still an owner */
    place = make(&p);
    assert_int_equal(tarn_place_count(place), 6);
    for (unsigned i = 0; i < 200; i++)
        assert_true(owner_of(place, i) == 1 || owner_of(place, i) == 6);
    assert_int_equal(tarn_place_order(place, &cid, 0, 8, w), 2);
    assert_int_equal(tarn_place_order(place, &cid, 0, 100, w), 2);
    assert_int_equal(tarn_place_owners(place, &cid, 0, 5, w), 2);
    tarn_place_unref(&place);
    for (unsigned i = 0; i < 6; i++)
        p.w[i].state = TARN_WORKER_DRAINING;
    place = make(&p);
    assert_int_equal(tarn_place_order(place, &cid, 0, 8, w), 0);
    assert_int_equal(tarn_place_owners(place, &cid, 0, 1, w), 0);
    tarn_place_unref(&place);
    topo_init(&p, 0);
    place = make(&p);
    assert_int_equal(tarn_place_count(place), 0);
    assert_null(tarn_place_find(place, 1));
    assert_null(tarn_place_at(place, 0));
    tarn_place_unref(&place);
}

/* Replicas are on hosts of their own as long as there are enough; the owner is the same. */
static void hosts_of_their_own(void **state)
{
    const struct tarn_place_worker *w[TARN_PLACE_PICK_MAX], *order[TARN_PLACE_PICK_MAX];
    struct tarn_place *place;
    struct topo p;

    (void)state;
    topo_init(&p, 6);
    for (unsigned i = 0; i < 6; i++)
        (void)snprintf(p.host[i], sizeof(p.host[i]), "h%u", i / 2); /* three hosts of two */
    place = make(&p);
    for (unsigned i = 0; i < 300; i++) {
        tarn_cid_t cid = cid_of(i);

        (void)tarn_place_order(place, &cid, 0, 8, order);
        for (uint32_t r = 0; r <= 9; r++) {
            unsigned n = tarn_place_owners(place, &cid, 0, r, w), hosts = 0, owning = 0;

            assert_int_equal(n, r == 0 ? 1 : TARN_MIN(r, 6u));
            assert_ptr_equal(w[0], order[0]);
            for (unsigned a = 0; a < n; a++) {
                bool first = true;

                for (unsigned b = 0; b < a; b++) {
                    assert_ptr_not_equal(w[a], w[b]);
                    first &= strcmp(w[a]->host, w[b]->host) != 0;
                }
                hosts += first;
            }
            assert_int_equal(hosts, TARN_MIN(n, 3u));
            for (uint64_t id = 1; id <= 6; id++)
                owning += tarn_place_owns(place, &cid, 0, r, id);
            assert_int_equal(owning, n);
        }
    }
    tarn_place_unref(&place);
    for (unsigned i = 0; i < 6; i++)
        p.host[i][0] = 0; /* hosts that are not known are not the same one */
    place = make(&p);
    for (unsigned i = 0; i < 50; i++) {
        tarn_cid_t cid = cid_of(i);

        assert_int_equal(tarn_place_owners(place, &cid, 0, 3, w), 3);
        assert_int_equal(tarn_place_order(place, &cid, 0, 3, order), 3);
        assert_memory_equal(w, order, 3 * sizeof(w[0]));
    }
    tarn_place_unref(&place);
}

/* ---- movement -------------------------------------------------------------------------------- */

static void little_moves(void **state)
{
    struct tarn_place *before, *after;
    unsigned moved = 0, share[9] = {0};
    struct topo p;

    (void)state;
    topo_init(&p, 8);
    before = make(&p);
    p.w[3].state = TARN_WORKER_DRAINING; /* one leaves */
    after = make(&p);
    for (unsigned i = 0; i < SEGMENTS; i++) {
        share[owner_of(before, i)]++;
        if (owner_of(before, i) != 4)
            assert_int_equal(owner_of(after, i), owner_of(before, i));
        else
            assert_int_not_equal(owner_of(after, i), 4);
    }
    for (unsigned id = 1; id <= 8; id++)
        assert_in_range(share[id], SEGMENTS / 8 * 3 / 4, SEGMENTS / 8 * 5 / 4);
    tarn_place_unref(&before);
    before = after;
    p.w[3].state = TARN_WORKER_LIVE; /* it comes back: it gets its own, and nothing else moves */
    p.w[6].weight = 200;             /* and one is twice as large */
    after = make(&p);
    for (unsigned i = 0; i < SEGMENTS; i++)
        if (owner_of(after, i) != owner_of(before, i)) {
            assert_true(owner_of(after, i) == 4 || owner_of(after, i) == 7);
            moved++;
        }
    assert_in_range(moved, SEGMENTS / 9, SEGMENTS / 3);
    tarn_place_unref(&before);
    tarn_place_unref(&after);
}

/* ---- before ---------------------------------------------------------------------------------- */

static bool among(uint64_t id, const struct tarn_place_worker **w, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        if (w[i]->id == id)
            return true;
    return false;
}

static void who_had_it(void **state)
{
    const struct tarn_place_worker *w[TARN_PLACE_PICK_MAX];
    struct tarn_place *now, *older, *newer;
    struct topo p, past;

    (void)state;
    topo_init(&past, 3); /* workers 1-3, then 1-4, now 1-5, where 2 is not alive */
    older = make(&past);
    topo_init(&past, 4);
    newer = make(&past);
    topo_init(&p, 5);
    p.w[1].alive = false;
    topo_past(&p, 0x7);
    topo_past(&p, 0xf);
    now = make(&p);
    assert_false(tarn_place_settled(now));
    for (unsigned i = 0; i < 500; i++) {
        tarn_cid_t cid = cid_of(i);
        uint64_t self = owner_of(now, i), a = owner_of(newer, i), b = owner_of(older, i);
        unsigned n = tarn_place_before(now, &cid, i % 5, 1, self, w);

        assert_false(among(self, w, n));
        assert_false(among(2, w, n));
        assert_int_equal(among(a, w, n), a != self && a != 2);
        assert_int_equal(among(b, w, n), b != self && b != 2);
        if (n > 1 && a != self && a != 2 && b != self && b != 2 && b != a)
            assert_int_equal(w[0]->id, a); /* the newest knowledge first */
        if (self != 2 && a != 2 && b != 2)
            assert_true(n <= 2);
        n = tarn_place_before(now, &cid, i % 5, 1, 77, w); /* somebody else asks the owner first */
        if (self != 2)
            assert_int_equal(w[0]->id, self);
        else
            assert_true(n > 0); /* whoever stands in for it */
        for (unsigned x = 0; x < n; x++)
            for (unsigned y = 0; y < x; y++)
                assert_ptr_not_equal(w[x], w[y]);
    }
    tarn_place_unref(&now);
    tarn_place_unref(&older);
    tarn_place_unref(&newer);
}

/* Whoever owned it in the youngest past, as long as it drains and is alive, and somebody owns it.
 */
static void who_leaves(void **state)
{
    struct tarn_place *place, *before;
    struct topo p;

    (void)state;
    topo_init(&p, 3);
    before = make(&p);
    p.w[1].state = TARN_WORKER_DRAINING;
    topo_past(&p, 0x7);
    place = make(&p);
    for (unsigned i = 0; i < 100; i++) {
        tarn_cid_t cid = cid_of(i);
        const struct tarn_place_worker *w = tarn_place_leaver(place, &cid, i % 5);

        assert_null(tarn_place_leaver(before, &cid, i % 5));
        assert_int_equal(w ? w->id : 0, owner_of(before, i) == 2 ? 2 : 0);
    }
    tarn_place_unref(&place);
    tarn_place_unref(&before);
    p.w[1].alive = false;
    place = make(&p);
    for (unsigned i = 0; i < 100; i++) {
        tarn_cid_t cid = cid_of(i);

        assert_null(tarn_place_leaver(place, &cid, i % 5));
    }
    tarn_place_unref(&place);
    p.w[1].alive = true;
    p.w[0].state = p.w[2].state = TARN_WORKER_LOST;
    place = make(&p);
    for (unsigned i = 0; i < 100; i++) {
        tarn_cid_t cid = cid_of(i);

        assert_null(tarn_place_leaver(place, &cid, i % 5));
    }
    tarn_place_unref(&place);
}

/* While the owner is not alive, the next in order may have fetched what others ask for. */
static void stand_ins(void **state)
{
    const struct tarn_place_worker *w[TARN_PLACE_PICK_MAX], *order[TARN_PLACE_PICK_MAX];
    struct tarn_place *place;
    tarn_cid_t cid = cid_of(3);
    uint64_t ids[4];
    struct topo p;

    (void)state;
    topo_init(&p, 4);
    place = make(&p);
    assert_int_equal(tarn_place_order(place, &cid, 0, 4, order), 4);
    for (unsigned i = 0; i < 4; i++)
        ids[i] = order[i]->id;
    assert_int_equal(tarn_place_before(place, &cid, 0, 1, ids[0], w), 0);
    assert_true(tarn_place_settled(place));
    tarn_place_unref(&place);
    p.w[ids[0] - 1].alive = false;
    place = make(&p);
    assert_int_equal(tarn_place_before(place, &cid, 0, 1, ids[0], w), 1);
    assert_int_equal(w[0]->id, ids[1]);
    assert_int_equal(tarn_place_before(place, &cid, 0, 1, ids[1], w), 0); /* it stands in itself */
    assert_int_equal(tarn_place_before(place, &cid, 0, 2, ids[3], w), 2);
    assert_int_equal(w[0]->id, ids[1]);
    assert_int_equal(w[1]->id, ids[2]);
    tarn_place_unref(&place);
}

/* Workers of the past that are known no more are passed over; ever so many memberships fit. */
static void forgotten_workers(void **state)
{
    const struct tarn_place_worker *w[TARN_PLACE_PICK_MAX];
    struct tarn_place *place;
    struct topo p;

    (void)state;
    topo_init(&p, 2);
    topo_past(&p, 0xfffffff0u); /* ids 5 and more */
    topo_past(&p, 0xfffffff3u);
    place = make(&p);
    for (unsigned i = 0; i < 200; i++) {
        tarn_cid_t cid = cid_of(i);
        unsigned n = tarn_place_before(place, &cid, 0, 3, 1, w);

        assert_int_equal(n, 1);
        assert_int_equal(w[0]->id, 2);
    }
    tarn_place_unref(&place);
}

/* ---- what is refused, what is kept ----------------------------------------------------------- */

static void refused(const struct topo *p)
{
    struct tarn_place *place = NULL;

    assert_int_equal(tarn_place_new(&p->t, &place), -TARN_E_MSG_BAD);
    assert_null(place);
}

static void malformed(void **state)
{
    static Tarn__Wire__WorkerInfo *many[TARN_PLACE_WORKERS_MAX + 1];
    static Tarn__Wire__Membership *pasts[TARN_PLACE_PAST_MAX + 1];
    struct tarn_place *place = NULL;
    struct topo p;

    (void)state;
    assert_int_equal(tarn_place_new(NULL, &place), -TARN_E_MSG_BAD);
    topo_init(&p, 3);
    p.w[2].id = 1;
    refused(&p);
    topo_init(&p, 3);
    p.w[1].id = 0;
    refused(&p);
    topo_init(&p, 3);
    p.w[1].state = 0;
    refused(&p);
    p.w[1].state = 5;
    refused(&p);
    topo_init(&p, 3);
    topo_past(&p, 0x7);
    p.past[0].n_weights = 2;
    refused(&p);
    topo_init(&p, 3);
    topo_past(&p, 0x7);
    p.past_ids[0][2] = 1; /* twice */
    refused(&p);
    p.past_ids[0][2] = 0;
    refused(&p);
    topo_init(&p, 3);
    for (unsigned i = 0; i < TARN_ARRAY_LEN(many); i++)
        many[i] = &p.w[0];
    p.t.workers = many;
    p.t.n_workers = TARN_ARRAY_LEN(many);
    refused(&p);
    topo_init(&p, 3);
    topo_past(&p, 0x7);
    for (unsigned i = 0; i < TARN_ARRAY_LEN(pasts); i++)
        pasts[i] = &p.past[0];
    p.t.past = pasts;
    p.t.n_past = TARN_ARRAY_LEN(pasts);
    refused(&p);
    p.t.n_past--;
    tarn_place_unref(&(struct tarn_place *){make(&p)});
}

static void a_snapshot_stays(void **state)
{
    const struct tarn_place_worker *w;
    struct tarn_place *place, *second;
    char addr[] = "host:1";
    struct topo p;

    (void)state;
    topo_init(&p, 3);
    p.t.version = 42;
    p.w[1].addr = addr;
    p.w[1].copies = 2;
    place = make(&p);
    memset(addr, 'x', 4);
    memset(&p, 0x5a, sizeof(p));
    second = tarn_place_ref(place);
    tarn_place_unref(&place);
    assert_null(place);
    assert_int_equal(tarn_place_version(second), 42);
    w = tarn_place_find(second, 2);
    assert_non_null(w);
    assert_string_equal(w->addr, "host:1");
    assert_string_equal(w->host, "h1");
    assert_string_equal(w->socket, "");
    assert_int_equal(w->copies, 2);
    assert_ptr_equal(tarn_place_at(second, 1), w);
    assert_null(tarn_place_find(second, 4));
    tarn_place_unref(&second);
    tarn_place_unref(&second); /* NULL is good */
    place = tarn_place_single(9);
    assert_int_equal(owner_of(place, 5), 9);
    assert_true(tarn_place_settled(place));
    tarn_place_unref(&place);
    assert_string_equal(tarn_worker_state_name(TARN_WORKER_LIVE), "live");
    assert_string_equal(tarn_worker_state_name(TARN_WORKER_REMOVED), "removed");
    assert_string_equal(tarn_worker_state_name(99), "unknown");
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vectors),
        cmocka_unit_test(only_live_ones_own),
        cmocka_unit_test(hosts_of_their_own),
        cmocka_unit_test(little_moves),
        cmocka_unit_test(who_had_it),
        cmocka_unit_test(who_leaves),
        cmocka_unit_test(stand_ins),
        cmocka_unit_test(forgotten_workers),
        cmocka_unit_test(malformed),
        cmocka_unit_test(a_snapshot_stays),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
