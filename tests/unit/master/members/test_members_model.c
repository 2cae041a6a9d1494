/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random changes of three workers against a small model: who owned a segment, or served it in the
 * owner's place, since all had handed over is found by tarn_place_before() as long as it is alive;
 * and nobody is forgotten before all have handed over.
 *
 * TARN_MEMBERS_SEED and TARN_MEMBERS_RUNS run others.
 */
#include "tests/unit/master/members/mbx.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WORKERS  3u
#define SEGMENTS 24u
#define CHANGES  50u
#define RUNS     30u
#define SEED     7100u

struct model {
    struct mbx fx;
    struct mbw w[WORKERS];
    struct tarn_rng_seeded rng;
    tarn_cid_t cids[SEGMENTS];
    unsigned holders[SEGMENTS]; /* bits of ids: may have bytes that its owner lacks */
    unsigned latest[SEGMENTS];  /* those of the last topology */
    unsigned live, serving;     /* bits of ids, as published last */
    unsigned members;           /* the same: live or draining */
    uint64_t young;             /* version that last changed one of them */
    unsigned sets;              /* past of the last topology: bit n is the set of the bits n */
    unsigned found, forgotten, topologies;
    uint64_t seed;
};

static unsigned bit(const struct tarn_place_worker *w)
{
    return 1u << w->id;
}

/* ---- what is published ----------------------------------------------------------------------- */

static unsigned watch_past(const Tarn__Wire__Topology *t)
{
    unsigned sets = 0;

    for (size_t i = 0; i < t->n_past; i++) {
        unsigned bits = 0;

        for (size_t k = 0; k < t->past[i]->n_ids; k++)
            bits |= 1u << t->past[i]->ids[k];
        sets |= 1u << bits;
    }
    return sets;
}

static unsigned watch_live(const struct tarn_place *p)
{
    unsigned live = 0;

    for (unsigned i = 0; i < tarn_place_count(p); i++)
        if (tarn_place_at(p, i)->state == TARN_WORKER_LIVE)
            live |= bit(tarn_place_at(p, i));
    return live;
}

static void watch_sets(struct model *m, const struct tarn_place *p)
{
    unsigned live = 0, serving = 0, members = 0;

    for (unsigned i = 0; i < tarn_place_count(p); i++) {
        const struct tarn_place_worker *w = tarn_place_at(p, i);

        if (w->state == TARN_WORKER_LIVE || w->state == TARN_WORKER_DRAINING)
            members |= bit(w);
        if (w->state != TARN_WORKER_LIVE)
            continue;
        live |= bit(w);
        serving |= w->alive ? bit(w) : 0;
    }
    if (live != m->live || serving != m->serving)
        m->young = tarn_place_version(p);
    m->live = live;
    m->members = members;
    m->serving = serving;
}

/* The past is gone: everybody who is a member has said that it may. */
static void watch_forgotten(struct model *m, const struct tarn_place *p)
{
    for (unsigned i = 0; i < tarn_place_count(p); i++) {
        const struct tarn_place_worker *w = tarn_place_at(p, i);

        if (!(m->members & bit(w)) ||
            (w->state != TARN_WORKER_LIVE && w->state != TARN_WORKER_DRAINING))
            continue; /* one that was lost when the others settled came back just now */
        for (unsigned k = 0; k < WORKERS; k++)
            if (m->w[k].id == w->id && m->w[k].sent_settled < m->young)
                fail_msg("seed %" PRIu64 ": worker %" PRIu64 " settled at %" PRIu64
                         ", the last change is %" PRIu64,
                         m->seed, w->id, m->w[k].sent_settled, m->young);
    }
    memcpy(m->holders, m->latest, sizeof(m->holders));
    m->forgotten++;
}

static bool has(const struct tarn_place_worker **list, unsigned n, uint64_t id)
{
    for (unsigned i = 0; i < n; i++)
        if (list[i]->id == id)
            return true;
    return false;
}

/* Whoever reads segment s at `self` finds all others that hold some of it. */
static void watch_find(struct model *m, struct tarn_place *p, unsigned s, uint64_t self)
{
    const struct tarn_place_worker *before[TARN_PLACE_PICK_MAX];
    unsigned n = tarn_place_before(p, &m->cids[s], s, 1, self, before);

    for (uint64_t id = 1; id <= WORKERS; id++) {
        const struct tarn_place_worker *w = tarn_place_find(p, id);

        if (id == self || !(m->holders[s] & 1u << id) || !w || !w->alive)
            continue;
        if (!has(before, n, id))
            fail_msg("seed %" PRIu64 ": segment %u: worker %" PRIu64 " does not find %" PRIu64
                     " in version %" PRIu64,
                     m->seed, s, self, id, tarn_place_version(p));
        m->found++;
    }
}

static void watch(struct mbx *fx)
{
    struct model *m = fx->watch_arg;
    struct tarn_place *p = tarn_peers_place(fx->master->peers);
    const struct tarn_place_worker *order[TARN_PLACE_PICK_MAX];
    unsigned sets = watch_past(mmembers_topology(fx->master)), gone = m->sets & ~sets;

    m->topologies++;
    if (gone & ~(1u << watch_live(p))) /* the set that owns now is no past */
        watch_forgotten(m, p);
    m->sets = sets;
    watch_sets(m, p);
    for (unsigned s = 0; s < SEGMENTS; s++) {
        unsigned n = tarn_place_order(p, &m->cids[s], s, TARN_PLACE_PICK_MAX, order), server = 0;

        if (n == 0)
            continue;
        while (server < n && !order[server]->alive)
            server++;
        if (server < n) /* else nobody reads */
            watch_find(m, p, s, order[server]->id);
        m->latest[s] = bit(order[0]) | (server < n ? bit(order[server]) : 0);
        m->holders[s] |= m->latest[s];
    }
}

/* ---- changes --------------------------------------------------------------------------------- */

static uint64_t pick(struct model *m, uint64_t n)
{
    return tarn_rng_below(&m->rng.base, n);
}

static void settle(struct model *m, struct mbw *w)
{
    if (!w->client || w->mute)
        return;
    w->settle = MBX_SETTLE;
    (void)mbw_beat(w); /* refused when it was removed */
    if (pick(m, 2))
        w->settle = 0;
}

static void change_process(struct model *m, struct mbw *w)
{
    if (!w->client) {
        w->mute = false;
        w->settle = 0;
        assert_int_equal(mbw_start(w), 0);
    } else if (pick(m, 3) == 0) {
        w->mute = true; /* hangs until it is killed */
        mbx_run(&m->fx, 11 * MBX_S);
    } else if (pick(m, 2) && !w->mute) {
        int rc = mbw_leave(w);

        assert_true(rc == 0 || rc == -TARN_E_UNKNOWN_WORKER);
    } else {
        mbw_kill(w);
    }
}

static void change_admin(struct model *m, const struct mbw *w)
{
    uint32_t method = pick(m, 4) ? TARN_RPC_worker_drain : TARN_RPC_worker_remove;
    int rc = mbx_admin(&m->fx, method, w->id, pick(m, 2), pick(m, 3) == 0, NULL, NULL);

    assert_true(rc == 0 || rc == -TARN_E_NOT_DRAINED || rc == -TARN_E_INVALID);
}

static void change(struct model *m)
{
    struct mbw *w = &m->w[pick(m, WORKERS)];
    uint64_t kind = pick(m, 100);

    if (kind < 40) {
        change_process(m, w);
    } else if (kind < 55) {
        change_admin(m, w);
    } else if (kind < 65) {
        settle(m, w);
    } else if (kind < 97) {
        for (unsigned i = 0; i < WORKERS; i++)
            settle(m, &m->w[i]);
    } else {
        mbx_run(&m->fx, 620 * MBX_S);
    }
    mbx_run(&m->fx, pick(m, 3) ? pick(m, 3) * MBX_S : pick(m, 5) * MBX_MS);
}

static void run(uint64_t seed, unsigned *found, unsigned *forgotten, unsigned *topologies)
{
    static struct model model;
    struct model *m = &model;

    memset(m, 0, sizeof(*m));
    m->seed = seed;
    tarn_rng_seeded_init(&m->rng, seed);
    m->rng.base.fill(&m->rng.base, m->cids, sizeof(m->cids));
    mbx_init(&m->fx, false);
    m->fx.watch = watch;
    m->fx.watch_arg = m;
    mbx_start(&m->fx);
    for (unsigned i = 0; i < WORKERS; i++) {
        char uuid[32], addr[32];

        (void)snprintf(uuid, sizeof(uuid), "tier-uuid-%u", i + 1);
        (void)snprintf(addr, sizeof(addr), "10.0.0.%u:7110", i + 1);
        mbw_init(&m->fx, &m->w[i], uuid, addr);
        assert_int_equal(mbw_start(&m->w[i]), 0);
    }
    for (unsigned i = 0; i < CHANGES; i++)
        change(m);
    *found += m->found;
    *forgotten += m->forgotten;
    *topologies += m->topologies;
    for (unsigned i = 0; i < WORKERS; i++)
        mbw_fini(&m->w[i]);
    mbx_fini(&m->fx);
}

static uint64_t env_u64(const char *name, uint64_t otherwise)
{
    const char *v = getenv(name);

    return v ? strtoull(v, NULL, 10) : otherwise;
}

static void test_nobody_is_forgotten(void **state)
{
    uint64_t seed = env_u64("TARN_MEMBERS_SEED", SEED), runs = env_u64("TARN_MEMBERS_RUNS", RUNS);
    unsigned found = 0, forgotten = 0, topologies = 0;

    (void)state;
    for (uint64_t i = 0; i < runs; i++)
        run(seed + i, &found, &forgotten, &topologies);
    print_message("%u topologies, %u found, %u times forgotten\n", topologies, found, forgotten);
    assert_true(topologies > 10 * runs && found > 50 * runs && forgotten > runs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_nobody_is_forgotten)};

    return cmocka_run_group_tests_name("members model", tests, NULL, NULL);
}
