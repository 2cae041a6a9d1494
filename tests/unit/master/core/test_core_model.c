/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The core against the model: random sequences of entries, with restarts and power cuts between.
 * Each sequence has its own seed; TARN_MODEL_SEED and TARN_MODEL_SEQS run others, and the seed of a
 * failure is printed.
 */
#include <inttypes.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "lib/base/mem.h"
#include "tests/unit/master/core/model_gen.h"

#define OPS        200
#define ROCKS_SEQS 50
#define SEED       20261
#define ALL_CFS    7u

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define DEFAULT_SEQS 1000
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define DEFAULT_SEQS 1000
#endif
#endif
#ifndef DEFAULT_SEQS
#define DEFAULT_SEQS 10000
#endif

/* One sequence. */
struct seq {
    struct tarn_rng_seeded rng;
    bool rocks;                   /* on RocksDB, else in memory */
    char dir[64];                 /* of RocksDB */
    struct tarn_kv_mem_disk disk; /* else */
    struct tarn_kv *kv;
    struct tarn_kv_batch *b; /* what was applied and not yet written */
    struct model model;
    struct tarn_str journal[OPS + 1]; /* by index */
    uint64_t n;                       /* last index */
};

static uint64_t seq_seed; /* of the sequence that runs, for the report of a failure */

static uint64_t seq_pick(struct seq *s, uint64_t n)
{
    return tarn_rng_below(&s->rng.base, n);
}

/* ---- stores
 * --------------------------------------------------------------------------------------------- */

static struct tarn_kv *rocks_open(const char *dir)
{
    struct tarn_kv_args args = {.path = dir,
                                .cfs = tarn_core_cf_names,
                                .cf_count = TARN_CF_COUNT,
                                .cache_bytes = 8 << 20,
                                .write_buffer_bytes = 4 << 20};
    struct tarn_errbuf err = {0};
    struct tarn_kv *kv;

    if (tarn_kv_rocksdb_open(&args, &err, &kv) < 0)
        fail_msg("%s", err.text);
    return kv;
}

static void rocks_remove(const char *dir)
{
    TARN_AUTO_FREE char *cmd = tarn_xasprintf("rm -rf '%s'", dir);

    assert_int_equal(system(cmd), 0);
}

static void seq_open(struct seq *s)
{
    s->kv = s->rocks ? rocks_open(s->dir) : tarn_kv_mem_open(&s->disk, TARN_CF_COUNT);
    s->b = tarn_kv_batch_new(s->kv);
}

static void seq_commit(struct seq *s, bool sync)
{
    assert_int_equal(tarn_kv_write(s->kv, s->b, sync), 0);
}

static void seq_check(struct seq *s)
{
    struct tarn_errbuf err = {0};

    if (tarn_core_check(s->kv, &err) < 0)
        fail_msg("check: %s", err.text);
}

/* ---- steps
 * ---------------------------------------------------------------------------------------------- */

static int change_order(const void *va, const void *vb)
{
    const struct model_change *a = va, *b = vb;

    return a->ino < b->ino ? -1 : a->ino > b->ino;
}

static void compare_result(const struct tarn_core_result *got, struct model_result *want)
{
    struct model_change *g = tarn_xcalloc(got->change_count + 1, sizeof(*g));

    assert_int_equal(got->rc, want->rc);
    assert_int_equal(got->ino.v, want->ino);
    assert_int_equal(got->worker, want->worker);
    assert_int_equal(got->created, want->created);
    assert_int_equal(got->updated, want->updated);
    assert_int_equal(got->removed, want->removed);
    assert_int_equal(got->more, want->more);
    assert_int_equal(got->change_count, want->change_count);
    for (size_t i = 0; i < got->change_count; i++)
        g[i] = (struct model_change){got->changes[i].ino.v, got->changes[i].parent.v,
                                     got->changes[i].version};
    if (got->change_count) {
        qsort(g, got->change_count, sizeof(*g), change_order);
        qsort(want->changes, want->change_count, sizeof(*g), change_order);
        assert_memory_equal(g, want->changes, got->change_count * sizeof(*g));
    }
    free(g);
}

/* Ids are given in page order by both, so the results agree to the last number. */
static void seq_step(struct seq *s)
{
    static struct gen_entry g;
    struct tarn_core_result got = {0};
    struct model_result want = {0};
    struct tarn_str *bytes = &s->journal[++s->n];

    if (seq_pick(s, 100) == 0) {
        tarn_str_adds(bytes, "\xff\xff\xff no message");
        want.rc = -TARN_E_ENTRY_BAD;
    } else {
        gen_entry(&g, &s->model, &s->rng.base, s->n);
        assert_int_equal(tarn_core_entry_encode(&g.e, bytes), 0);
        model_apply(&s->model, s->n, &g.e, &want);
    }
    assert_int_equal(tarn_core_apply(s->kv, s->b, s->n, (uint8_t *)bytes->p, bytes->len, &got), 0);
    compare_result(&got, &want);
    tarn_core_result_fini(&got);
    model_result_fini(&want);
}

static void apply_again(struct tarn_kv *kv, struct tarn_kv_batch *b, const struct tarn_str *journal,
                        uint64_t from, uint64_t to)
{
    for (uint64_t i = from; i <= to; i++) {
        struct tarn_core_result r = {0};

        assert_int_equal(tarn_core_apply(kv, b, i, (uint8_t *)journal[i].p, journal[i].len, &r), 0);
        tarn_core_result_fini(&r);
    }
}

/* What was lost never happened: the model goes through the rest of the journal again. */
static void seq_forget(struct seq *s, uint64_t applied)
{
    model_fini(&s->model);
    model_init(&s->model);
    for (uint64_t i = 1; i <= s->n; i++) {
        Tarn__Core__Entry *e = NULL;
        struct model_result r = {0};

        if (i <= applied)
            e = tarn__core__entry__unpack(NULL, s->journal[i].len, (uint8_t *)s->journal[i].p);
        else
            tarn_str_reset(&s->journal[i]);
        if (e)
            model_apply(&s->model, i, e, &r);
        if (e)
            tarn__core__entry__free_unpacked(e, NULL);
        model_result_fini(&r);
    }
    s->n = applied;
}

static void seq_restart(struct seq *s)
{
    uint64_t applied;

    tarn_kv_batch_free(&s->b); /* what was not written is lost */
    tarn_kv_close(&s->kv);
    if (!s->rocks && seq_pick(s, 2))
        (void)tarn_kv_mem_power_cut(&s->disk, (unsigned)seq_pick(s, 20));
    seq_open(s);
    assert_int_equal(tarn_core_applied_index(s->kv, &applied), 0);
    assert_true(applied <= s->n);
    if (seq_pick(s, 2)) {
        seq_forget(s, applied);
        if (s->model.inited)
            model_compare(&s->model, s->kv, applied);
    } else {
        apply_again(s->kv, s->b, s->journal, 1 + seq_pick(s, applied + 1), s->n);
    }
}

/* The same journal, in batches of `per_batch` entries, gives the same store to the last byte. */
static void seq_twin(const struct seq *s, struct tarn_kv *twin, uint64_t per_batch)
{
    struct tarn_kv_batch *b = tarn_kv_batch_new(twin);
    uint64_t h1, h2;

    for (uint64_t i = 1; i <= s->n; i += per_batch) {
        apply_again(twin, b, s->journal, i, TARN_MIN(s->n, i + per_batch - 1));
        assert_int_equal(tarn_kv_write(twin, b, false), 0);
    }
    apply_again(twin, b, s->journal, 1, s->n);
    assert_int_equal(tarn_kv_batch_count(b), 0);
    tarn_kv_batch_free(&b);
    assert_int_equal(tarn_kv_dump_hash(s->kv, ALL_CFS, &h1), 0);
    assert_int_equal(tarn_kv_dump_hash(twin, ALL_CFS, &h2), 0);
    assert_true(h1 == h2);
}

static void seq_end(struct seq *s)
{
    seq_commit(s, false);
    seq_check(s);
    if (s->model.inited)
        model_compare(&s->model, s->kv, s->n);
    if (s->rocks || seq_pick(s, 10) == 0) {
        struct tarn_kv_mem_disk disk = {0};
        struct tarn_kv *twin = tarn_kv_mem_open(&disk, TARN_CF_COUNT);

        seq_twin(s, twin, 1 + seq_pick(s, 20));
        tarn_kv_close(&twin);
        tarn_kv_mem_disk_fini(&disk);
    }
    tarn_kv_batch_free(&s->b);
    tarn_kv_close(&s->kv);
    tarn_kv_mem_disk_fini(&s->disk);
    model_fini(&s->model);
    for (unsigned i = 0; i <= OPS; i++)
        tarn_str_fini(&s->journal[i]);
}

static void seq_run(uint64_t seed, bool rocks)
{
    static struct seq seq;
    struct seq *s = &seq;

    seq_seed = seed;
    memset(s, 0, sizeof(*s));
    tarn_rng_seeded_init(&s->rng, seed);
    model_init(&s->model);
    s->rocks = rocks;
    if (rocks) {
        snprintf(s->dir, sizeof(s->dir), "/tmp/tarn-model-XXXXXX");
        assert_non_null(mkdtemp(s->dir));
    }
    seq_open(s);
    while (s->n < OPS) {
        seq_step(s);
        if (seq_pick(s, 3) == 0)
            seq_commit(s, seq_pick(s, 4) == 0);
        if (seq_pick(s, rocks ? 300 : 60) == 0)
            seq_restart(s);
    }
    seq_end(s);
    if (rocks)
        rocks_remove(s->dir);
}

/* ---- tests
 * ---------------------------------------------------------------------------------------------- */

static uint64_t env_u64(const char *name, uint64_t otherwise)
{
    const char *v = getenv(name);

    return v ? strtoull(v, NULL, 10) : otherwise;
}

static void in_memory(void **state)
{
    uint64_t seed = env_u64("TARN_MODEL_SEED", SEED), n = env_u64("TARN_MODEL_SEQS", DEFAULT_SEQS);

    (void)state;
    for (uint64_t i = 0; i < n; i++)
        seq_run(seed + i, false);
    seq_seed = 0;
}

static void on_rocksdb(void **state)
{
    uint64_t seed = env_u64("TARN_MODEL_SEED", SEED), n = env_u64("TARN_MODEL_SEQS", ROCKS_SEQS);

    (void)state;
    for (uint64_t i = 0; i < TARN_MIN(n, (uint64_t)ROCKS_SEQS); i++)
        seq_run(seed + i, true);
    seq_seed = 0;
}

static void tell_seed(int sig)
{
    char line[64];
    int n =
        snprintf(line, sizeof(line), "TARN_MODEL_SEED=%" PRIu64 " TARN_MODEL_SEQS=1\n", seq_seed);

    (void)!write(STDERR_FILENO, line, (size_t)n); /* best effort */
    if (sig)
        (void)signal(sig, SIG_DFL);
}

static int tell_failed(void **state)
{
    (void)state;
    if (seq_seed)
        tell_seed(0);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(in_memory, tell_failed),
        cmocka_unit_test_teardown(on_rocksdb, tell_failed),
    };

    (void)signal(SIGABRT, tell_seed);
    return cmocka_run_group_tests_name("core model", tests, NULL, NULL);
}
