/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Jobs while everything moves: files come, change and go, bytes are evicted and lost, jobs are
 * cancelled, the master is stopped anywhere and loses what was not synced. A run is its seed. What
 * must hold: a job that succeeded has each path once in its manifest, and when all is quiet again a
 * load that succeeds means that the worker has every file of the store as it is now.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/master/jobs/jobs_fixture.h"

#define SEEDS    12u
#define STEPS    60u
#define FILES    90u
#define JOBS_MAX 24u

struct soak {
    struct jfx *fx;
    uint64_t rnd;
    uint64_t jobs[JOBS_MAX];
    unsigned job_count;
    unsigned restarts, changes, ended_well;
};

static unsigned pick(struct soak *s, unsigned n)
{
    s->rnd = s->rnd * 6364136223846793005ull + 1442695040888963407ull;
    return (unsigned)(s->rnd >> 33) % n;
}

static void path_of(unsigned i, char ret[32])
{
    if (i % 3 == 0)
        (void)snprintf(ret, 32, "/d%u/e%u/f%u", i % 4, i % 5, i);
    else
        (void)snprintf(ret, 32, "/d%u/f%u", i % 4, i);
}

static void change_file(struct soak *s)
{
    char path[32], full[128];
    unsigned i = pick(s, FILES);

    path_of(i, path);
    (void)snprintf(full, sizeof(full), "%s%s", s->fx->dir, path);
    if (pick(s, 4) == 0)
        (void)unlink(full); /* it may not be there */
    else
        jfx_put(s->fx, path, pick(s, 3) ? 1 + pick(s, 5000) : 0);
    s->changes++;
}

static void start_job(struct soak *s)
{
    Tarn__Wire__LoadSpec spec;
    ProtobufCBinaryData path;
    Tarn__Wire__LoadItem rows[8], *items[8];
    char dir[16] = "/", texts[8][32];
    bool is_free = pick(s, 4) == 0;

    if (s->job_count == JOBS_MAX)
        return;
    if (pick(s, 2))
        (void)snprintf(dir, sizeof(dir), "/d%u", pick(s, 4));
    jfx_spec(&spec, &path, dir);
    spec.meta = !is_free;
    spec.force = !is_free && pick(s, 5) == 0;
    if (pick(s, 3) == 0) {
        for (unsigned i = 0; i < 8; i++) {
            path_of(pick(s, FILES), texts[i]);
            tarn__wire__load_item__init(&rows[i]);
            rows[i].path = tarn_wire_bytes(texts[i], strlen(texts[i]));
            items[i] = &rows[i];
        }
        spec.n_items = 8;
        spec.items = items;
    }
    assert_int_equal(jfx_create(s->fx, is_free ? "free" : "load", &spec, &s->jobs[s->job_count]),
                     0);
    s->job_count++;
}

static void cancel_job(struct soak *s)
{
    Tarn__Wire__JobRequest msg = TARN__WIRE__JOB_REQUEST__INIT;
    ProtobufCMessage *resp = NULL;

    if (s->job_count == 0)
        return;
    msg.id = s->jobs[pick(s, s->job_count)];
    assert_int_equal(jfx_call(s->fx, TARN_RPC_job_cancel, &msg.base, &resp), 0);
    protobuf_c_message_free_unpacked(resp, NULL);
}

static void restart(struct soak *s)
{
    struct jfx *fx = s->fx;

    jfx_stop(fx);
    if (pick(s, 3) == 0) {
        (void)tarn_kv_mem_power_cut(&fx->kv_disk, pick(s, 20));
        jfx_damage(fx);
    }
    jfx_start(fx);
    s->restarts++;
}

static void lose_bytes(struct soak *s)
{
    if (s->fx->file_count)
        s->fx->files[pick(s, (unsigned)s->fx->file_count)].cached = 0;
}

static void step(struct soak *s)
{
    switch (pick(s, 10)) {
    case 0:
    case 1:
    case 2:
        change_file(s);
        break;
    case 3:
    case 4:
        start_job(s);
        break;
    case 5:
        restart(s);
        break;
    case 6:
        lose_bytes(s);
        break;
    case 7:
        s->fx->hold_after = s->fx->fills + pick(s, 3);
        s->fx->hold_frees = pick(s, 2) == 0;
        break;
    case 8:
        jfx_release(s->fx);
        if (pick(s, 3) == 0)
            cancel_job(s);
        break;
    default:
        jfx_run_ms(s->fx, 1 + pick(s, 8));
        break;
    }
}

static int by_path(const void *a, const void *b)
{
    return strcmp(((const struct jfx_line *)a)->path, ((const struct jfx_line *)b)->path);
}

static void expect_each_path_once(struct soak *s, uint64_t id)
{
    Tarn__Wire__Job *job = jfx_wait(s->fx, id);
    struct jfx_line *l;
    size_t n = jfx_manifest(s->fx, id, 0, &l);

    if (strcmp(job->state, "succeeded") == 0) {
        qsort(l, n, sizeof(*l), by_path);
        for (size_t i = 1; i < n; i++)
            if (strcmp(l[i].path, l[i - 1].path) == 0)
                fail_msg("job %llu: %s is in the manifest twice", (unsigned long long)id,
                         l[i].path);
        assert_int_equal(job->files_failed, 0);
        if (strcmp(job->kind, "load") == 0) {
            assert_int_equal(job->files_done, n);
            assert_int_equal(job->files_total, n);
        }
        s->ended_well++;
    }
    assert_true(job->bytes_done < 1ull << 32); /* no counter went below 0 */
    assert_true(job->files_done <= FILES && job->files_failed <= FILES);
    tarn__wire__job__free_unpacked(job, NULL);
    free(l);
}

static void expect_all_there(struct jfx *fx)
{
    for (unsigned i = 0; i < FILES; i++) {
        char path[32], full[128];
        bool there = false;
        struct stat st;

        path_of(i, path);
        (void)snprintf(full, sizeof(full), "%s%s", fx->dir, path);
        if (stat(full, &st) < 0 || st.st_size == 0)
            continue;
        for (size_t k = 0; k < fx->file_count; k++)
            there |= strcmp(fx->files[k].key, path + 1) == 0 &&
                     fx->files[k].size == (uint64_t)st.st_size &&
                     fx->files[k].cached == fx->files[k].size && !fx->files[k].damaged;
        if (!there)
            fail_msg("%s is not there", path);
    }
}

static bool has_ended(struct soak *s, uint64_t id)
{
    Tarn__Wire__JobRequest msg = TARN__WIRE__JOB_REQUEST__INIT;
    ProtobufCMessage *resp = NULL;
    bool ended;

    msg.id = id;
    assert_int_equal(jfx_call(s->fx, TARN_RPC_job_show, &msg.base, &resp), 0);
    ended = ((Tarn__Wire__Job *)resp)->finished_ns != 0;
    protobuf_c_message_free_unpacked(resp, NULL);
    return ended;
}

/* The store is quiet; the master and the worker's disk are not. */
static void last_load(struct soak *s)
{
    uint64_t id = jfx_load(s->fx, "/");
    Tarn__Wire__Job *job;

    for (unsigned n = pick(s, 4); n > 0; n--) {
        s->fx->hold_after = s->fx->fills + pick(s, 4);
        jfx_run_ms(s->fx, 1 + pick(s, 30));
        if (!has_ended(s, id))
            restart(s);
        if (has_ended(s, id)) /* what was lost behind its end is not its fault */
            id = jfx_load(s->fx, "/");
    }
    jfx_release(s->fx);
    job = jfx_wait(s->fx, id);
    assert_string_equal(job->state, "succeeded");
    tarn__wire__job__free_unpacked(job, NULL);
    expect_each_path_once(s, id);
}

static void soak_seed(uint64_t seed, unsigned *ret_restarts, unsigned *ret_ended_well)
{
    struct soak s = {.fx = jfx_new(), .rnd = seed * 7919};

    print_message("seed %llu\n", (unsigned long long)seed);
    s.fx->ttl_ns = seed % 3 ? TARN_TTL_ALWAYS : TARN_NS_PER_S / 50;
    for (unsigned i = 0; i < FILES; i += 2) {
        char path[32];

        path_of(i, path);
        jfx_put(s.fx, path, 1 + i * 10);
    }
    jfx_start(s.fx);
    for (unsigned i = 0; i < STEPS; i++)
        step(&s);
    jfx_release(s.fx);
    for (unsigned i = 0; i < s.job_count; i++)
        expect_each_path_once(&s, s.jobs[i]);
    jfx_run_ms(s.fx, 25); /* names of before are not believed any more */
    last_load(&s);
    expect_all_there(s.fx);
    *ret_restarts += s.restarts;
    *ret_ended_well += s.ended_well;
    jfx_free(&s.fx);
}

static void test_soak(void **state)
{
    const char *only = getenv("TARN_TEST_SEED");
    unsigned restarts = 0, ended_well = 0;

    (void)state;
    if (only) {
        soak_seed(strtoull(only, NULL, 10), &restarts, &ended_well);
        return;
    }
    for (uint64_t seed = 1; seed <= SEEDS; seed++)
        soak_seed(seed, &restarts, &ended_well);
    assert_true(restarts > SEEDS && ended_well > 2 * SEEDS); /* else it shows nothing */
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_soak)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
