/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Jobs over three workers while workers die, hang, come back, join and leave, jobs are cancelled
 * and the master is stopped. A run is its seed. What must hold: nothing crashes or hangs, a job
 * that has succeeded has each file in its manifest once, and when all is quiet again a load that
 * succeeds means that every file is at its owners.
 */
#include "tests/unit/master/jobs/cluster_fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SEEDS    4u
#define STEPS    40u
#define FILES    30u
#define JOBS_MAX 12u

struct soak {
    struct cfx *fx;
    uint64_t rnd;
    uint64_t jobs[JOBS_MAX];
    unsigned job_count, restarts, ended_well;
};

static unsigned pick(struct soak *s, unsigned n)
{
    s->rnd = s->rnd * 6364136223846793005ull + 1442695040888963407ull;
    return (unsigned)(s->rnd >> 33) % n;
}

static void start_job(struct soak *s)
{
    bool is_free = pick(s, 4) == 0;
    Tarn__Wire__LoadSpec spec;
    ProtobufCBinaryData p;

    if (s->job_count == JOBS_MAX)
        return;
    cfx_spec(&spec, &p, pick(s, 2) ? "/" : "/d");
    spec.meta = !is_free;
    spec.force = !is_free && pick(s, 4) == 0;
    spec.allow_partial = !is_free && pick(s, 4) == 0;
    spec.replicas = is_free ? 0 : pick(s, 3);
    spec.bandwidth = pick(s, 2) ? 16 * MIB : 0;
    spec.dry_run = pick(s, 6) == 0;
    s->jobs[s->job_count++] = cfx_create(s->fx, is_free ? "free" : "load", &spec);
}

static void cancel_job(struct soak *s)
{
    Tarn__Wire__JobRequest msg = TARN__WIRE__JOB_REQUEST__INIT;
    ProtobufCMessage *resp = NULL;

    if (s->job_count == 0)
        return;
    msg.id = s->jobs[pick(s, s->job_count)];
    assert_int_equal(cfx_call(s->fx, TARN_RPC_job_cancel, &msg.base, &resp), 0);
    protobuf_c_message_free_unpacked(resp, NULL);
}

static void change_worker(struct soak *s)
{
    unsigned i = pick(s, CFX_WORKERS);
    struct cfx_worker *w = &s->fx->workers[i];

    if (w->server)
        cfx_cut(s->fx, i);
    w->hangs = pick(s, 3) == 0;
    if (pick(s, 2))
        cfx_back(s->fx, i);
}

static void change_topology(struct soak *s)
{
    struct cfx_worker *w = &s->fx->workers[pick(s, CFX_WORKERS)];

    if (pick(s, 3) == 0)
        w->member = !w->member;
    w->alive = w->server && !w->hangs;
    cfx_publish(s->fx);
}

static void step(struct soak *s)
{
    switch (pick(s, 8)) {
    case 0:
    case 1:
        start_job(s);
        break;
    case 2:
        cancel_job(s);
        break;
    case 3:
        change_worker(s);
        break;
    case 4:
    case 5:
        change_topology(s);
        break;
    case 6:
        if (pick(s, 3) == 0) {
            cfx_stop_master(s->fx);
            cfx_start_master(s->fx);
            s->restarts++;
        }
        break;
    default:
        cfx_put(s->fx, pick(s, 2) ? "/d/changes" : "/more/x", 1000 + pick(s, 1000));
        break;
    }
    cfx_run_ms(s->fx, pick(s, 60));
}

/* Everybody is there, and what runs comes to its end. */
static void quiet(struct soak *s)
{
    for (unsigned i = 0; i < CFX_WORKERS; i++) {
        struct cfx_worker *w = &s->fx->workers[i];

        if (w->server && w->hangs)
            cfx_cut(s->fx, i);
        w->hangs = false;
        if (!w->server)
            cfx_back(s->fx, i);
        w->alive = w->member = true;
    }
    cfx_publish(s->fx);
    for (unsigned i = 0; i < s->job_count; i++) {
        Tarn__Wire__Job *job = cfx_wait(s->fx, s->jobs[i]);

        s->ended_well += strcmp(job->state, "succeeded") == 0;
        tarn__wire__job__free_unpacked(job, NULL);
    }
}

static void soak_one(uint64_t seed, unsigned *ended_well, unsigned *restarts)
{
    struct soak s = {.fx = cfx_new(256 * MIB), .rnd = seed};
    Tarn__Wire__LoadSpec spec;
    ProtobufCBinaryData p;

    cfx_put_many(s.fx, "/d", FILES, 100000);
    cfx_put(s.fx, "/big", 66 * MIB);
    for (unsigned i = 0; i < STEPS; i++)
        step(&s);
    quiet(&s);
    cfx_spec(&spec, &p, "/");
    spec.replicas = 1 + pick(&s, 3);
    {
        Tarn__Wire__Job *job = cfx_wait(s.fx, cfx_create(s.fx, "load", &spec));

        if (strcmp(job->state, "succeeded") != 0)
            fail_msg("seed %u: %s", (unsigned)seed, job->error_text);
        tarn__wire__job__free_unpacked(job, NULL);
    }
    for (unsigned i = 0; i <= FILES; i++) {
        const struct tarn_place *place = tarn_peers_place(s.fx->master->peers);
        char path[64] = "/big";
        tarn_cid_t cid;
        uint64_t size;

        if (i < FILES)
            cfx_name(path, "/d", i);
        size = cfx_file(s.fx, path, &cid);
        for (uint32_t g = 0; g < mspread_segments(size); g++)
            for (unsigned w = 0; w < CFX_WORKERS; w++)
                if (tarn_place_owns(place, &cid, g, spec.replicas, s.fx->workers[w].id) &&
                    !cfx_has(s.fx, w, path, g))
                    fail_msg("seed %u: %s is not at worker %u", (unsigned)seed, path, w);
    }
    *ended_well += s.ended_well;
    *restarts += s.restarts;
    cfx_free(&s.fx);
}

static void test_soak(void **state)
{
    const char *seed = *state;
    unsigned ended_well = 0, restarts = 0;

    if (seed) {
        soak_one(strtoull(seed, NULL, 10), &ended_well, &restarts);
        return;
    }
    for (uint64_t i = 1; i <= SEEDS; i++)
        soak_one(i, &ended_well, &restarts);
    assert_true(ended_well > 0);
    assert_true(restarts > 0);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(test_soak, argc > 1 ? argv[1] : NULL), /* one seed */
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
