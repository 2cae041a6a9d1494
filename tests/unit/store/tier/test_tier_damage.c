/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Damage: flipped bytes anywhere in the directory, and processes killed while they store. Whatever
 * it was, no wrong byte is ever served, and the tier opens and works again.
 *
 * TARN_DAMAGE_ROUNDS sets the rounds of the random tests; a failure prints its seed (TARN_SEED
 * repeats it).
 */
#include "tests/unit/store/tier/rig.h"

#include <fcntl.h>
#include <fts.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/base/hash.h"

#include "lib/base/log.h"
#include "lib/base/str.h"
#include "lib/base/units.h"
#include "store/kv/kv.h"
#include "store/tier/tier_format.h"

#define FILES 12u
#define QUOTA (64 * MIB)

static uint64_t env_u64(const char *name, uint64_t fallback)
{
    const char *s = getenv(name);
    uint64_t v;

    return s && tarn_parse_u64(s, &v) == 0 ? v : fallback;
}

/* Some of one granule, some of several, one of two groups. */
static uint64_t length_of(unsigned nr)
{
    return nr == 0 ? 5 * MIB : nr % 3 == 0 ? 200 * KIB : nr % 3 == 1 ? 64 * KIB : 3333;
}

/* ---- flips ------------------------------------------------------------------------------ */

/* One file of the directory, chosen among those whose path contains `part`. */
static bool pick_file(const struct rig *r, struct tarn_rng *rng, const char *part, char *path,
                      size_t n)
{
    char *const roots[] = {tarn_xstrdup(r->dir), NULL};
    FTS *fts = fts_open(roots, FTS_PHYSICAL | FTS_NOCHDIR, NULL);
    uint64_t seen = 0;
    FTSENT *e;

    while ((e = fts_read(fts)) != NULL)
        if (e->fts_info == FTS_F && e->fts_statp->st_size > 0 && strstr(e->fts_path, part) &&
            !strstr(e->fts_path, "BALLAST") && tarn_rng_below(rng, ++seen) == 0)
            (void)snprintf(path, n, "%s", e->fts_path);
    (void)fts_close(fts);
    free(roots[0]);
    return seen > 0;
}

static void flip_byte(const char *path, uint64_t off, uint8_t mask)
{
    int fd = open(path, O_RDWR);
    uint8_t b;

    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &b, 1, (off_t)off), 1);
    b ^= mask;
    assert_int_equal(pwrite(fd, &b, 1, (off_t)off), 1);
    assert_int_equal(close(fd), 0);
}

static void flip_random(const char *path, struct tarn_rng *rng)
{
    uint8_t mask = (uint8_t)(1u << tarn_rng_below(rng, 8));
    struct stat st;

    assert_int_equal(stat(path, &st), 0);
    flip_byte(path, tarn_rng_below(rng, (uint64_t)st.st_size), mask);
}

static void refill(struct rig *r)
{
    for (unsigned nr = 0; nr < FILES; nr++)
        assert_int_equal(rig_fill(r, nr, length_of(nr)), 0);
}

static uint64_t check_all(struct rig *r)
{
    uint64_t served = 0;

    for (unsigned nr = 0; nr < FILES; nr++) {
        struct rig_found found = rig_check(r, nr, length_of(nr));

        assert_int_equal(found.wrong, 0);
        served += found.served;
    }
    return served;
}

/* Flips bytes in files that contain `part`, reopens, checks, and repairs by filling again. */
static void flip_rounds(struct rig *r, const char *part, unsigned rounds, unsigned per_round)
{
    uint64_t seed = env_u64("TARN_SEED", 42);
    struct tarn_rng_seeded rng;
    char path[512];

    tarn_rng_seeded_init(&rng, seed);
    print_message("seed %llu\n", (unsigned long long)seed);
    rig_must_open(r, QUOTA);
    refill(r);
    rig_close(r);
    for (unsigned round = 0; round < rounds; round++) {
        for (unsigned i = 0; i < per_round; i++)
            if (pick_file(r, &rng.base, part, path, sizeof(path)))
                flip_random(path, &rng.base);
        rig_must_open(r, QUOTA);
        (void)check_all(r);
        refill(r);
        assert_int_equal(check_all(r), 5 * MIB + 3 * 200 * KIB + 4 * 64 * KIB + 4 * 3333);
        tarn_tier_check(r->tier);
        rig_close(r);
    }
}

static void flips_in_data(void **state)
{
    flip_rounds(*state, "/data/", (unsigned)env_u64("TARN_DAMAGE_ROUNDS", 6), 200);
}

static void flips_in_tables(void **state)
{
    flip_rounds(*state, ".sst", (unsigned)env_u64("TARN_DAMAGE_ROUNDS", 12), 1);
}

static void flips_in_logs(void **state)
{
    flip_rounds(*state, ".log", (unsigned)env_u64("TARN_DAMAGE_ROUNDS", 12), 1);
}

static void flips_in_manifest(void **state)
{
    flip_rounds(*state, "/index/", (unsigned)env_u64("TARN_DAMAGE_ROUNDS", 12), 1);
}

static void flips_in_format(void **state)
{
    flip_rounds(*state, "FORMAT", (unsigned)env_u64("TARN_DAMAGE_ROUNDS", 6), 1);
}

/* Each single flipped granule is found, counted, dropped alone, and the rest of its group still
 * served. */
static void one_granule(void **state)
{
    struct rig *r = *state;
    struct tarn_tier_info info;
    struct rig_found found;
    char path[512];

    rig_must_open(r, QUOTA);
    assert_int_equal(rig_fill(r, 1, 5 * MIB), 0);
    rig_close(r);
    rig_data_path(r, 1, path, sizeof(path));
    flip_byte(path, 4 * MIB + 70000, 1); /* second granule of the second group */
    rig_must_open(r, QUOTA);
    found = rig_check(r, 1, 5 * MIB);
    assert_int_equal(found.absent, TARN_GRANULE_BYTES);
    assert_int_equal(found.wrong, 0);
    tarn_tier_info(r->tier, &info);
    assert_int_equal(info.checksum_errors, 1);
    assert_int_equal(info.data_bytes, 5 * MIB - TARN_GRANULE_BYTES);
    rig_settle(r);
    tarn_tier_check(r->tier);
    rig_close(r);
    rig_must_open(r, QUOTA); /* the record knows */
    found = rig_check(r, 1, 5 * MIB);
    assert_int_equal(found.absent, TARN_GRANULE_BYTES);
    tarn_tier_info(r->tier, &info);
    assert_int_equal(info.checksum_errors, 0);
    assert_int_equal(rig_fill(r, 1, 5 * MIB), 0); /* the missing one is filled again */
    assert_int_equal(rig_check(r, 1, 5 * MIB).served, 5 * MIB);
}

/* A read, not a load, meets the bad granule first: it is not delivered. */
static void read_finds_it(void **state)
{
    struct tarn_buf *buf = tarn_buf_new(TARN_UNIT_BYTES);
    struct rig *r = *state;
    struct tarn_tier_file *f;
    struct tarn_tier_op op;
    char path[512];

    rig_must_open(r, QUOTA);
    assert_int_equal(rig_fill(r, 1, 5 * MIB), 0);
    rig_close(r);
    rig_data_path(r, 1, path, sizeof(path));
    flip_byte(path, 70000, 0x80);
    rig_must_open(r, QUOTA);
    f = rig_file(r, 1, 5 * MIB);
    assert_int_equal(rig_read(r, f, 0, 7, &op, buf), 0);
    assert_int_equal(op.granules, 5);
    assert_int_equal(op.sums[1], 0);
    assert_false(tarn_tier_file_has(f, 70000, 1));
    tarn_tier_file_put(&f);
    tarn_buf_unref(&buf);
    rig_settle(r);
    tarn_tier_check(r->tier);
}

/* Also what was verified before: who asks with checksums must not be told the same again and again.
 */
static void read_finds_what_rots_later(void **state)
{
    struct tarn_buf *buf = tarn_buf_new(TARN_UNIT_BYTES);
    struct rig *r = *state;
    struct tarn_tier_file *f;
    struct tarn_tier_op op;
    char path[512];

    assert_non_null(buf);
    rig_must_open(r, QUOTA);
    assert_int_equal(rig_fill(r, 1, MIB), 0);
    rig_data_path(r, 1, path, sizeof(path));
    flip_byte(path, 70000, 1);
    f = rig_file(r, 1, MIB);
    assert_int_equal(rig_read(r, f, 0, 7, &op, buf), 0);
    assert_int_equal(op.granules, 5);
    assert_false(tarn_tier_file_has(f, 70000, 1));
    tarn_tier_file_put(&f);
    tarn_buf_unref(&buf);
    assert_int_equal(rig_fill(r, 1, MIB), 0);
    rig_assert_whole(r, 1, MIB);
}

/* Pages for a peer: they go out whole or not at all. */
static void pages_are_compared(void **state)
{
    struct rig *r = *state;
    struct tarn_buf *buf = tarn_buf_pipe(3 * TARN_GRANULE_BYTES);
    uint8_t *bytes = malloc(3 * TARN_GRANULE_BYTES);
    struct tarn_tier_file *f;
    struct tarn_tier_op op;
    char path[512];

    rig_must_open(r, QUOTA);
    assert_int_equal(rig_fill(r, 1, MIB), 0);
    rig_data_path(r, 1, path, sizeof(path));
    f = rig_file(r, 1, MIB);
    assert_int_equal(rig_read(r, f, 0, 0x38, &op, buf), 0);
    assert_int_equal(op.granules, 0x38);
    assert_int_equal(buf->len, 3 * TARN_GRANULE_BYTES);
    assert_int_equal(read(buf->pipe[0], bytes, 3 * TARN_GRANULE_BYTES), 3 * TARN_GRANULE_BYTES);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(op.sums[3 + i],
                         tarn_xxh3(bytes + i * TARN_GRANULE_BYTES, TARN_GRANULE_BYTES));
    tarn_buf_unref(&buf);
    flip_byte(path, 5 * TARN_GRANULE_BYTES + 7, 1);
    buf = tarn_buf_pipe(3 * TARN_GRANULE_BYTES);
    assert_int_equal(rig_read(r, f, 0, 0x38, &op, buf), 0);
    assert_int_equal(op.granules, 0x18);
    assert_int_equal(buf->len, 0);
    assert_false(tarn_tier_file_has(f, 5 * TARN_GRANULE_BYTES, 1));
    tarn_tier_file_put(&f);
    tarn_buf_unref(&buf);
    free(bytes);
}

/* Who compares by himself gets what was verified since the start as it is now, and nothing else. */
static void unchecked_is_what_was_verified(void **state)
{
    struct tarn_buf *buf = tarn_buf_new(TARN_UNIT_BYTES);
    struct tarn_buf *pages = tarn_buf_pipe(3 * TARN_GRANULE_BYTES);
    struct rig *r = *state;
    struct tarn_tier_file *f;
    struct tarn_tier_op op;
    char path[512];

    rig_must_open(r, QUOTA);
    assert_int_equal(rig_fill(r, 1, MIB), 0);
    rig_data_path(r, 1, path, sizeof(path));
    flip_byte(path, 70000, 1);
    f = rig_file(r, 1, MIB);
    assert_int_equal(rig_read_unchecked(r, f, 7, &op, buf), 0);
    assert_int_equal(op.granules, 7);
    assert_int_equal(op.sums[0], tarn_xxh3(buf->p, TARN_GRANULE_BYTES));
    assert_int_not_equal(op.sums[1], tarn_xxh3(buf->p + TARN_GRANULE_BYTES, TARN_GRANULE_BYTES));
    assert_int_equal(rig_read_unchecked(r, f, 7, &op, pages), 0);
    assert_int_equal(op.granules, 7);
    assert_int_equal(pages->len, 3 * TARN_GRANULE_BYTES);
    assert_true(tarn_tier_file_has(f, 70000, 1));
    tarn_tier_file_put(&f);
    rig_close(r);

    rig_must_open(r, QUOTA); /* what a process before has compared was before */
    f = rig_file(r, 1, MIB);
    assert_int_equal(rig_read_unchecked(r, f, 7, &op, buf), 0);
    assert_int_equal(op.granules, 5);
    assert_false(tarn_tier_file_has(f, 70000, 1));
    tarn_tier_file_put(&f);
    tarn_buf_unref(&pages);
    tarn_buf_unref(&buf);
}

/* Pages of a file that somebody cut: nothing of it goes out, and who looks again finds why. */
static void unchecked_is_cut(void **state)
{
    struct tarn_buf *buf = tarn_buf_new(TARN_UNIT_BYTES);
    struct tarn_buf *pages = tarn_buf_pipe(3 * TARN_GRANULE_BYTES);
    struct rig *r = *state;
    struct tarn_tier_file *f;
    struct tarn_tier_op op;
    char path[512];

    rig_must_open(r, QUOTA);
    assert_int_equal(rig_fill(r, 1, MIB), 0);
    rig_data_path(r, 1, path, sizeof(path));
    assert_int_equal(truncate(path, TARN_GRANULE_BYTES), 0);
    f = rig_file(r, 1, MIB);
    assert_int_equal(rig_read_unchecked(r, f, 7, &op, pages), 0);
    assert_int_equal(op.granules, 0);
    assert_int_equal(rig_read(r, f, 0, 7, &op, buf), 0);
    assert_int_equal(op.granules, 1);
    assert_false(tarn_tier_file_has(f, 70000, 1));
    tarn_tier_file_put(&f);
    tarn_buf_unref(&pages);
    tarn_buf_unref(&buf);
}

/* A manual swap of two files' bytes, and of two records: sums are bound to their place by the
 * record's key. */
static void swapped_files(void **state)
{
    struct rig *r = *state;
    char a[512], b[512];

    rig_must_open(r, QUOTA);
    assert_int_equal(rig_fill(r, 1, MIB), 0);
    assert_int_equal(rig_fill(r, 2, MIB), 0);
    rig_close(r);
    rig_data_path(r, 1, a, sizeof(a));
    rig_data_path(r, 2, b, sizeof(b));
    assert_int_equal(
        rig_shell("mv '%s' '%s.x' && mv '%s' '%s' && mv '%s.x' '%s'", a, r->dir, b, a, r->dir, b),
        0);
    rig_must_open(r, QUOTA);
    assert_int_equal(rig_check(r, 1, MIB).served, 0);
    assert_int_equal(rig_check(r, 2, MIB).served, 0);
    rig_settle(r);
    tarn_tier_check(r->tier);
}

/* Two records of one file that say of different sources: never both, whichever it is. */
static void mixed_tags(void **state)
{
    static const char *const cfs[] = {"default"};
    struct rig *r = *state;
    TARN_AUTO_FREE char *path = tarn_xasprintf("%s/index", r->dir);
    struct tarn_kv_args args = {.path = path, .cfs = cfs, .cf_count = 1, .cache_bytes = MIB};
    uint8_t key[TARN_TIER_KEY_BYTES], b[TARN_TIER_RECORD_MAX];
    tarn_cid_t cid = rig_cid(1);
    struct tarn_str value = {0};
    struct tarn_tier_record rec;
    struct tarn_kv_batch *batch;
    struct rig_found found;
    struct tarn_kv *kv;

    rig_must_open(r, QUOTA);
    assert_int_equal(rig_fill(r, 1, 9 * MIB), 0);
    rig_close(r);
    assert_int_equal(tarn_kv_rocksdb_open(&args, &r->err, &kv), 0);
    tarn_tier_key_encode(&cid, 1, key);
    assert_int_equal(tarn_kv_get(kv, 0, tarn_kv_slice(key, sizeof(key)), &value), 0);
    assert_int_equal(tarn_tier_record_decode(key, value.p, value.len, &rec), 0);
    rec.tag = 9;
    batch = tarn_kv_batch_new(kv);
    tarn_kv_batch_put(batch, 0, tarn_kv_slice(key, sizeof(key)),
                      tarn_kv_slice(b, tarn_tier_record_encode(key, &rec, b)));
    assert_int_equal(tarn_kv_write(kv, batch, true), 0);
    tarn_kv_batch_free(&batch);
    tarn_kv_close(&kv);
    tarn_str_fini(&value);
    rig_must_open(r, QUOTA);
    rig_settle(r);
    found = rig_check(r, 1, 9 * MIB);
    assert_int_equal(found.wrong, 0);
    assert_int_equal(found.absent, 4 * MIB);
    tarn_tier_check(r->tier);
}

/* ---- kill -9 ---------------------------------------------------------------------------- */

/* Stores, drops and reads for ever; the quota makes it evict, too. */
static _Noreturn void victim(const char *dir, unsigned round)
{
    struct tarn_rng_seeded rng;
    char parent[256];
    struct rig r;

    tarn_rng_seeded_init(&rng, round);
    (void)snprintf(parent, sizeof(parent), "%.*s", (int)(strrchr(dir, '/') - dir), dir);
    rig_init(&r, 2, parent); /* what it makes there is deleted with the test's */
    (void)snprintf(r.dir, sizeof(r.dir), "%s", dir);
    rig_must_open(&r, QUOTA);
    for (;;) {
        unsigned nr = (unsigned)tarn_rng_below(&rng.base, 40);

        if (tarn_rng_below(&rng.base, 10) == 0)
            (void)rig_drop(&r, nr, 6 * MIB);
        else
            (void)rig_fill(&r, nr, 6 * MIB);
    }
}

/* A process of its own, not a copy of one with threads. */
static _Noreturn void victim_exec(const char *dir, unsigned round)
{
    char nr[16];

    (void)snprintf(nr, sizeof(nr), "%u", round);
    (void)execl("/proc/self/exe", "test_tier_damage", "victim", dir, nr, (char *)NULL);
    _exit(1);
}

static void killed_while_storing(void **state)
{
    struct rig *r = *state;
    unsigned rounds = (unsigned)env_u64("TARN_KILL_ROUNDS", 10);
    uint64_t served = 0;

    /* A busy machine gets nowhere in these times: it gets longer ones. */
    for (unsigned round = 0; round < rounds || (served == 0 && round < 5 * rounds); round++) {
        pid_t pid = fork();
        int status;

        assert_true(pid >= 0);
        if (pid == 0)
            victim_exec(r->dir, round);
        (void)usleep(60000 + (round * 7919) % 60 * 5000 + round / rounds * 500000);
        assert_int_equal(kill(pid, SIGKILL), 0);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status));
        rig_must_open(r, QUOTA);
        for (unsigned nr = 0; nr < 40; nr++) {
            struct rig_found found = rig_check(r, nr, 6 * MIB);

            assert_int_equal(found.wrong, 0);
            served += found.served;
        }
        rig_settle(r);
        tarn_tier_check(r->tier);
        assert_true(rig_du(r->dir) <= QUOTA);
        assert_int_equal(rig_fill(r, 99, MIB), 0);
        rig_close(r);
    }
    print_message("served after kills: %llu MiB\n", (unsigned long long)(served / MIB));
    assert_true(served > 0); /* else it proved nothing */
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        RIG_TEST(killed_while_storing), RIG_TEST(one_granule),
        RIG_TEST(read_finds_it),        RIG_TEST(read_finds_what_rots_later),
        RIG_TEST(pages_are_compared),   RIG_TEST(unchecked_is_what_was_verified),
        RIG_TEST(unchecked_is_cut),     RIG_TEST(swapped_files),
        RIG_TEST(mixed_tags),           RIG_TEST(flips_in_data),
        RIG_TEST(flips_in_tables),      RIG_TEST(flips_in_logs),
        RIG_TEST(flips_in_manifest),    RIG_TEST(flips_in_format),
    };

    tarn_log_set_level(TARN_LOG_ERROR);
    if (argc == 4)
        victim(argv[2], (unsigned)strtoul(argv[3], NULL, 10));
    return cmocka_run_group_tests_name("tier_damage", tests, NULL, NULL);
}
