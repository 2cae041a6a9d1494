/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files that are lent: whoever reads their descriptor or maps them sees the file's bytes, whatever
 * the tier does meanwhile, never the zeros of a hole; and what they take stays counted.
 */
#include "tests/unit/store/tier/rig.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define LENGTH (9 * MIB) /* three groups */
#define QUOTA  (64 * MIB)

static int set_up(void **state)
{
    struct rig *r = calloc(1, sizeof(*r));

    assert_non_null(r);
    rig_init(r, 2, NULL);
    rig_must_open(r, QUOTA);
    *state = r;
    return 0;
}

static int tear_down(void **state)
{
    rig_fini(*state);
    free(*state);
    return 0;
}

/* All bytes of file `nr` at p. */
static bool is_file(unsigned nr, const uint8_t *p)
{
    uint8_t want[4096];

    for (uint64_t off = 0; off < LENGTH; off += sizeof(want)) {
        rig_bytes(nr, off, want, sizeof(want));
        if (memcmp(p + off, want, sizeof(want)) != 0)
            return false;
    }
    return true;
}

static const uint8_t *map(int fd)
{
    void *p = mmap(NULL, LENGTH, PROT_READ, MAP_SHARED, fd, 0);

    assert_ptr_not_equal(p, MAP_FAILED);
    return p;
}

static void unmap(const uint8_t *p)
{
    assert_int_equal(munmap((void *)(uintptr_t)p, LENGTH), 0);
}

static uint64_t used(struct rig *r)
{
    struct tarn_tier_info info;

    tarn_tier_info(r->tier, &info);
    return info.used_bytes;
}

static int lend(struct rig *r, unsigned nr, struct tarn_tier_file **ret_file,
                struct tarn_tier_loan **ret_loan)
{
    *ret_file = rig_file(r, nr, LENGTH);
    return tarn_tier_lend(*ret_file, ret_loan);
}

static void give_back(int fd, struct tarn_tier_file **f, struct tarn_tier_loan **loan)
{
    assert_int_equal(close(fd), 0);
    tarn_tier_give_back(*f, loan);
    assert_null(*loan);
    tarn_tier_file_put(f);
}

static void test_only_what_is_whole(void **state)
{
    struct rig *r = *state;
    struct tarn_tier_file *f = rig_file(r, 1, LENGTH);
    struct tarn_tier_loan *loan = NULL;
    const uint8_t *p;
    uint8_t byte;
    int fd;

    assert_int_equal(tarn_tier_lend(f, &loan), -TARN_E_NOT_CACHED);
    assert_int_equal(rig_store(r, f, 1, 0), 0);
    assert_int_equal(rig_store(r, f, 1, 1), 0);
    assert_int_equal(tarn_tier_lend(f, &loan), -TARN_E_NOT_CACHED);
    assert_int_equal(rig_store(r, f, 1, 2), 0);
    fd = tarn_tier_lend(f, &loan);
    assert_true(fd >= 0);
    p = map(fd);
    assert_true(is_file(1, p));
    unmap(p);
    assert_int_equal(pwrite(fd, "x", 1, 0), -1); /* for reading only */
    assert_int_equal(pread(fd, &byte, 1, LENGTH), 0);
    give_back(fd, &f, &loan);
    tarn_tier_check(r->tier);
}

static void test_not_before_it_is_verified(void **state)
{
    struct rig *r = *state;
    struct tarn_tier_file *f;
    struct tarn_tier_loan *loan = NULL;
    uint64_t good;
    int fd;

    assert_int_equal(rig_fill(r, 1, LENGTH), 0);
    rig_close(r);
    rig_must_open(r, QUOTA);
    assert_int_equal(lend(r, 1, &f, &loan), -TARN_E_NOT_CACHED);
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(rig_load(r, f, i, false, &good), 0);
    rig_settle(r);
    fd = tarn_tier_lend(f, &loan);
    assert_true(fd >= 0);
    give_back(fd, &f, &loan);
}

/* The walk after a start may be about to punch what it found to be nobody's. */
static void test_not_while_it_is_looked_through(void **state)
{
    struct tarn_tier_file *f;
    struct tarn_tier_loan *loan = NULL;
    struct rig one;
    int fd;

    (void)state;
    rig_init(&one, 1, NULL); /* the loads come before most of the walk's 256 steps */
    rig_must_open(&one, QUOTA);
    assert_int_equal(rig_fill(&one, 1, LENGTH), 0);
    assert_int_equal(rig_fill(&one, 2, 1000), 0);
    rig_close(&one);
    rig_must_open(&one, QUOTA);
    f = rig_file(&one, 2, 1000);
    assert_int_equal(rig_load(&one, f, 0, false, NULL), 0);
    fd = tarn_tier_lend(f, &loan); /* it has no holes */
    assert_true(fd >= 0);
    give_back(fd, &f, &loan);
    f = rig_file(&one, 1, LENGTH);
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(rig_load(&one, f, i, false, NULL), 0);
    assert_int_equal(tarn_tier_lend(f, &loan), -TARN_E_NOT_CACHED);
    rig_settle(&one);
    fd = tarn_tier_lend(f, &loan);
    assert_true(fd >= 0);
    give_back(fd, &f, &loan);
    rig_fini(&one);
}

static void test_drop_while_lent(void **state)
{
    struct rig *r = *state;
    struct tarn_tier_file *f, *again;
    struct tarn_tier_loan *loan, *second;
    uint64_t before, empty = used(r);
    const uint8_t *p;
    int fd, fd2;

    assert_int_equal(rig_fill(r, 1, LENGTH), 0);
    fd = lend(r, 1, &f, &loan);
    assert_true(fd >= 0);
    p = map(fd);
    before = used(r);
    assert_int_equal(rig_drop(r, 1, LENGTH), 0); /* does not wait for the loan */
    rig_settle(r);
    assert_int_equal(tarn_tier_file_cached(f), 0);
    assert_true(used(r) + MIB > before); /* the directory may have shrunk */
    assert_true(is_file(1, p));
    assert_int_equal(rig_fill(r, 1, LENGTH), 0); /* the same version once more: another inode */
    assert_true(used(r) > before + LENGTH - MIB);
    fd2 = lend(r, 1, &again, &second);
    assert_true(fd2 >= 0);
    give_back(fd, &f, &loan);
    assert_true(used(r) < before + MIB);
    tarn_tier_check(r->tier);
    assert_true(is_file(1, p)); /* who mapped it has it still */
    unmap(p);
    give_back(fd2, &again, &second);
    assert_int_equal(rig_drop(r, 1, LENGTH), 0);
    rig_settle(r);
    assert_true(used(r) < empty + MIB);
}

static void test_eviction(void **state)
{
    struct rig *r = *state;
    struct tarn_tier_file *f;
    struct tarn_tier_loan *loan;
    const uint8_t *p;
    int fd;

    assert_int_equal(rig_fill(r, 1, LENGTH), 0);
    fd = lend(r, 1, &f, &loan);
    assert_true(fd >= 0);
    p = map(fd);
    for (unsigned nr = 2; nr < 20; nr++) {
        assert_int_equal(rig_fill(r, nr, LENGTH), 0);
        assert_true(used(r) <= QUOTA);
    }
    assert_int_equal(tarn_tier_file_cached(f), LENGTH);
    give_back(fd, &f, &loan);
    for (unsigned nr = 20; nr < 40; nr++) {
        struct tarn_tier_file *one = rig_file(r, 1, LENGTH);
        uint64_t cached = tarn_tier_file_cached(one);

        assert_true(cached == 0 || cached == LENGTH); /* never a part of it */
        tarn_tier_file_put(&one);
        assert_int_equal(rig_fill(r, nr, LENGTH), 0);
        assert_true(used(r) <= QUOTA);
    }
    rig_settle(r);
    f = rig_file(r, 1, LENGTH);
    assert_int_equal(tarn_tier_file_cached(f), 0);
    tarn_tier_file_put(&f);
    assert_true(is_file(1, p)); /* unlinked, not punched */
    unmap(p);
    tarn_tier_check(r->tier);
}

/* The kernel reads on for who has the file open, also when the process that lent it is gone. */
static void lent_before_the_start(struct rig *r, uint64_t quota)
{
    struct tarn_tier_file *f;
    struct tarn_tier_loan *loan;
    const uint8_t *p;
    int fd;

    for (unsigned nr = 0; nr < 5; nr++)
        assert_int_equal(rig_fill(r, nr, LENGTH), 0);
    fd = lend(r, 1, &f, &loan);
    assert_true(fd >= 0);
    p = map(fd);
    give_back(fd, &f, &loan);
    rig_close(r);
    rig_must_open(r, quota);
    for (unsigned nr = 5; nr < 20; nr++)
        (void)rig_fill(r, nr, LENGTH); /* full for a moment, perhaps */
    rig_settle(r);
    f = rig_file(r, 1, LENGTH);
    assert_int_equal(tarn_tier_file_cached(f), 0);
    tarn_tier_file_put(&f);
    assert_true(is_file(1, p)); /* unlinked, not punched */
    unmap(p);
    tarn_tier_check(r->tier);
}

static void test_lent_before_the_start(void **state)
{
    lent_before_the_start(*state, QUOTA);
}

/* Evicted at once, before the walk has seen the files. */
static void test_lent_before_a_start_with_less(void **state)
{
    lent_before_the_start(*state, QUOTA / 3);
}

/* A cache that is lent altogether loses none of it and keeps its quota, and nobody waits. */
static void test_all_is_lent(void **state)
{
    enum { FILES = 6 };
    struct rig *r = *state;
    struct tarn_tier_file *f[FILES];
    struct tarn_tier_loan *loan[FILES];
    int fd[FILES];

    for (unsigned i = 0; i < FILES; i++) {
        assert_int_equal(rig_fill(r, i, LENGTH), 0);
        fd[i] = lend(r, i, &f[i], &loan[i]);
        assert_true(fd[i] >= 0);
    }
    for (unsigned nr = FILES; nr < 3 * FILES; nr++) {
        int rc = rig_fill(r, nr, LENGTH); /* 0: its own first groups made room for its last */

        assert_true(rc == 0 || rc == -TARN_E_TIER_FULL);
        assert_true(used(r) <= QUOTA);
    }
    for (unsigned i = 0; i < FILES; i++) {
        assert_int_equal(tarn_tier_file_cached(f[i]), LENGTH);
        give_back(fd[i], &f[i], &loan[i]);
    }
    assert_int_equal(rig_fill(r, FILES, LENGTH), 0);
}

static void test_bad_granule(void **state)
{
    struct rig *r = *state;
    struct tarn_tier_file *f, *other;
    struct tarn_tier_loan *loan, *other_loan;
    const uint8_t *p;
    char path[512];
    uint64_t good;
    uint8_t page[4096];
    int fd, other_fd, raw;

    assert_int_equal(rig_fill(r, 1, LENGTH), 0);
    fd = lend(r, 1, &f, &loan);
    assert_true(fd >= 0);
    rig_data_path(r, 1, path, sizeof(path));
    raw = open(path, O_WRONLY | O_CLOEXEC);
    assert_true(raw >= 0);
    assert_int_equal(pwrite(raw, "damaged", 7, 5 * MIB), 7);
    assert_int_equal(fsync(raw), 0);
    assert_int_equal(close(raw), 0);
    assert_false(tarn_tier_loan_bad(loan));
    assert_int_equal(rig_load(r, f, 1, true, &good), 0);
    assert_true(good != ~0ull);
    assert_true(tarn_tier_loan_bad(loan));
    rig_settle(r);
    assert_int_equal(tarn_tier_file_cached(f), 0); /* all of it, a new file will be built */
    assert_int_equal(pread(fd, page, sizeof(page), 6 * MIB), sizeof(page));
    assert_true(page[0] || page[1] || page[2] || page[3]); /* no hole */
    assert_int_equal(access(path, F_OK), -1);
    /* The mended file is lent beside it. */
    assert_int_equal(rig_fill(r, 1, LENGTH), 0);
    other_fd = lend(r, 1, &other, &other_loan);
    assert_true(other_fd >= 0);
    assert_false(tarn_tier_loan_bad(other_loan));
    assert_true(tarn_tier_loan_bad(loan));
    p = map(other_fd);
    assert_true(is_file(1, p));
    unmap(p);
    give_back(other_fd, &other, &other_loan);
    give_back(fd, &f, &loan);
    tarn_tier_check(r->tier);
}

/* ---- all at once ------------------------------------------------------------------------ */

struct borrower {
    struct rig *r;
    _Atomic bool stop;
    _Atomic uint64_t lent, refused, wrong;
    unsigned seed;
};

static void borrow(struct borrower *b, unsigned nr)
{
    uint8_t got[4096], want[4096];
    struct tarn_tier_loan *loan;
    struct tarn_tier_file *f;
    int fd = lend(b->r, nr, &f, &loan);

    if (fd < 0) {
        atomic_fetch_add(fd == -TARN_E_NOT_CACHED ? &b->refused : &b->wrong, 1);
        tarn_tier_file_put(&f);
        return;
    }
    atomic_fetch_add(&b->lent, 1);
    for (uint64_t off = 0; off < LENGTH; off += MIB + 8192) {
        rig_bytes(nr, off, want, sizeof(want));
        if (pread(fd, got, sizeof(got), (off_t)off) != sizeof(got) ||
            memcmp(got, want, sizeof(got)) != 0)
            atomic_fetch_add(&b->wrong, 1);
    }
    (void)close(fd); /* only read */
    tarn_tier_give_back(f, &loan);
    tarn_tier_file_put(&f);
}

static void *borrower_run(void *arg)
{
    struct borrower *b = arg;

    while (!atomic_load(&b->stop))
        borrow(b, b->seed++ % 8);
    return NULL;
}

static void test_lend_while_things_go(void **state)
{
    struct rig *r = *state;
    struct borrower b[2] = {{.r = r}, {.r = r, .seed = 4}};
    pthread_t threads[2];

    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, borrower_run, &b[i]), 0);
    for (unsigned round = 0; round < 60; round++) {
        int rc = rig_fill(r, round % 8, LENGTH);

        assert_true(rc == 0 || rc == -TARN_E_TIER_FULL);
        assert_true(used(r) <= QUOTA);
        if (round % 5 == 4)
            assert_int_equal(rig_drop(r, (round + 3) % 8, LENGTH), 0);
    }
    for (unsigned i = 0; i < 2; i++) {
        atomic_store(&b[i].stop, true);
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_int_equal(atomic_load(&b[i].wrong), 0);
    }
    assert_true(atomic_load(&b[0].lent) + atomic_load(&b[1].lent) > 0);
    rig_settle(r);
    tarn_tier_check(r->tier);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_only_what_is_whole, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_not_before_it_is_verified, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_not_while_it_is_looked_through, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_drop_while_lent, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_eviction, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_lent_before_the_start, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_lent_before_a_start_with_less, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_all_is_lent, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_bad_granule, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_lend_while_things_go, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
