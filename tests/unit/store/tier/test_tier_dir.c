/* SPDX-License-Identifier: Apache-2.0 */
/* Whose the directory is, what lies in it that is not ours, and what changes behind our back. */
#include "tests/unit/store/tier/rig.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/hash.h"
#include "store/tier/tier_format.h"

static void write_file(const char *dir, const char *name, const void *p, size_t n)
{
    char path[512];
    FILE *f;

    (void)snprintf(path, sizeof(path), "%s/%s", dir, name);
    f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(p, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static void two_opens(void **state)
{
    struct rig *r = *state;
    struct tarn_tier *other = NULL;
    struct tarn_errbuf err = {0};

    rig_must_open(r, 256 * MIB);
    assert_int_equal(tarn_tier_open(&r->args, &err, &other), -TARN_E_DIR_LOCKED);
    assert_null(other);
    assert_non_null(strstr(err.text, r->dir));
    assert_int_equal(rig_fill(r, 1, MIB), 0);
}

static void other_owner(void **state)
{
    struct rig *r = *state;

    rig_must_open(r, 256 * MIB);
    assert_int_equal(rig_fill(r, 1, MIB), 0);
    rig_close(r);
    r->args.owner_id = "c-other";
    assert_int_equal(rig_open(r), -TARN_E_DIR_FOREIGN);
    assert_non_null(strstr(r->err.text, "c-test"));
    r->args.replace = true;
    rig_must_open(r, 256 * MIB);
    rig_assert_whole(r, 1, MIB); /* a cid says the same in every cluster */
    rig_close(r);
    r->args.replace = false;
    rig_must_open(r, 256 * MIB);
    rig_close(r);
    r->args.owner_id =
        "an-owner-id-that-is-much-longer-than-any-cluster-id-has-a-reason-to-be-and-does-not-fit";
    assert_int_equal(rig_open(r), -TARN_E_INVALID);
}

/* The directory's id stays with it: over restarts, for another cluster, in a copy. */
static void id_of_directory(void **state)
{
    char id[TARN_TIER_UUID_TEXT], again[TARN_TIER_UUID_TEXT], copy[300];
    struct rig *r = *state;

    rig_must_open(r, 256 * MIB);
    assert_int_equal(strlen(tarn_tier_uuid(r->tier, id)), 16);
    assert_string_not_equal(id, "0000000000000000");
    assert_int_equal(rig_fill(r, 1, MIB), 0);
    rig_close(r);
    (void)snprintf(copy, sizeof(copy), "%s-copy", r->dir);
    assert_int_equal(rig_shell("cp -a '%s' '%s'", r->dir, copy), 0);
    rig_must_open(r, 256 * MIB);
    assert_string_equal(tarn_tier_uuid(r->tier, again), id);
    rig_close(r);
    r->args.owner_id = "c-other";
    r->args.replace = true;
    rig_must_open(r, 256 * MIB);
    assert_string_equal(tarn_tier_uuid(r->tier, again), id);
    rig_close(r);
    r->args.replace = false;
    assert_int_equal(rig_shell("rm -rf '%s' && mv '%s' '%s'", r->dir, copy, r->dir), 0);
    r->args.owner_id = "c-test";
    rig_must_open(r, 256 * MIB);
    assert_string_equal(tarn_tier_uuid(r->tier, again), id);
    rig_assert_whole(r, 1, MIB);
    rig_close(r);
    assert_int_equal(rig_shell("printf x > '%s/FORMAT'", r->dir), 0); /* nothing is left of it */
    rig_must_open(r, 256 * MIB);
    assert_string_not_equal(tarn_tier_uuid(r->tier, again), id);
    rig_close(r);
}

/* Made by a version that knew of no id: read, kept, and given one, once. */
static void id_of_old_directory(void **state)
{
    struct tarn_tier_format f = {.created_s = 1700000000, .owner = "c-test"}, now;
    char id[TARN_TIER_UUID_TEXT], again[TARN_TIER_UUID_TEXT], path[300];
    uint8_t b[TARN_TIER_FORMAT_BYTES];
    struct rig *r = *state;
    FILE *in;

    rig_must_open(r, 256 * MIB);
    assert_int_equal(rig_fill(r, 1, MIB), 0);
    rig_close(r);
    tarn_tier_format_encode(&f, b);
    write_file(r->dir, "FORMAT", b, sizeof(b));
    rig_must_open(r, 256 * MIB);
    rig_assert_whole(r, 1, MIB);
    assert_int_equal(strlen(tarn_tier_uuid(r->tier, id)), 16);
    rig_close(r);
    rig_must_open(r, 256 * MIB);
    assert_string_equal(tarn_tier_uuid(r->tier, again), id);
    rig_assert_whole(r, 1, MIB);
    rig_close(r);
    (void)snprintf(path, sizeof(path), "%s/FORMAT", r->dir);
    in = fopen(path, "rbe");
    assert_true(in && fread(b, sizeof(b), 1, in) == 1 && fclose(in) == 0);
    assert_int_equal(tarn_tier_format_decode(b, sizeof(b), &now), 0);
    assert_int_equal(now.created_s, f.created_s);
    assert_string_equal(now.owner, f.owner);
    write_file(r->dir, "FORMAT", b, sizeof(b));
}

static void newer_format(void **state)
{
    struct rig *r = *state;
    uint8_t b[136] = {0};
    struct tarn_tier_format f = {.owner = "c-test"};
    uint64_t sum;
    char before[64], cmd[600];
    FILE *p;

    rig_must_open(r, 256 * MIB);
    assert_int_equal(rig_fill(r, 1, MIB), 0);
    rig_close(r);
    tarn_tier_format_encode(&f, b);
    b[8] = 2;
    b[12] = sizeof(b);
    sum = tarn_xxh3(b, sizeof(b) - 8);
    memcpy(b + sizeof(b) - 8, &sum, 8);
    write_file(r->dir, "FORMAT", b, sizeof(b));
    (void)snprintf(cmd, sizeof(cmd), "cd %s && find . -type f | sort | xargs sha256sum | sha256sum",
                   r->dir);
    p = popen(cmd, "r");
    assert_true(p && fgets(before, sizeof(before), p));
    (void)pclose(p);
    assert_int_equal(rig_open(r), -TARN_E_FORMAT_NEWER);
    p = popen(cmd, "r");
    assert_true(p && fgets((char *)b, 65, p));
    (void)pclose(p);
    assert_memory_equal(b, before, 60); /* nothing was touched */
}

/* LOCK and FORMAT both: nobody can tell whose it is, but for one who knows. */
static void damaged_lock_and_format(void **state)
{
    static const char *const damage[] = {
        "printf tarm > LOCK; printf x > FORMAT",
        ": > LOCK; : > FORMAT",
        "rm LOCK FORMAT",
        "rm LOCK; printf x > FORMAT",
        "printf x > LOCK; rm FORMAT; mkdir -p FORMAT/a FORMAT.tmp/b",
        "printf x > LOCK; printf x > FORMAT; rm -rf data; printf x > data",
        "printf x > LOCK; printf x > FORMAT; rm -rf index; ln -s / index",
        "printf x > LOCK; printf x > FORMAT; rm -rf data; ln -s .. data",
    };
    struct rig *r = *state;

    for (size_t i = 0; i < TARN_ARRAY_LEN(damage); i++) {
        r->args.ours = false;
        rig_must_open(r, 256 * MIB);
        assert_int_equal(rig_fill(r, 1, MIB), 0);
        rig_close(r);
        assert_int_equal(rig_shell("cd '%s' && { %s; }", r->dir, damage[i]), 0);
        assert_int_equal(rig_open(r), -TARN_E_DIR_FOREIGN);
        r->args.ours = true;
        rig_must_open(r, 256 * MIB);
        rig_settle(r);
        assert_int_equal(rig_info(r).files, 0);
        assert_int_equal(rig_check(r, 1, MIB).served, 0);
        assert_int_equal(rig_fill(r, 1, MIB), 0);
        rig_assert_whole(r, 1, MIB);
        tarn_tier_check(r->tier);
        rig_close(r);
        assert_int_equal(
            rig_shell("cd '%s' && test -f LOCK && test -f FORMAT && test -d data", r->dir), 0);
    }
}

static void foreign_directory(void **state)
{
    struct rig *r = *state;
    char other[300];

    assert_int_equal(mkdir(r->dir, 0700), 0);
    write_file(r->dir, "thesis.txt", "x", 1);
    assert_int_equal(rig_open(r), -TARN_E_DIR_FOREIGN);
    write_file(r->dir, "LOCK", "", 0); /* as RocksDB's */
    assert_int_equal(rig_open(r), -TARN_E_DIR_FOREIGN);
    assert_int_equal(
        rig_shell("cd '%s' && test -f thesis.txt && test ! -e FORMAT && rm -f *", r->dir), 0);
    assert_int_equal(chmod(r->dir, 0777), 0);
    assert_int_equal(rig_open(r), -TARN_E_DIR_FOREIGN); /* others may write there */
    assert_int_equal(chmod(r->dir, 0700), 0);
    (void)snprintf(other, sizeof(other), "%s-link", r->dir);
    assert_int_equal(symlink(r->dir, other), 0);
    r->args.path = other;
    rig_must_open(r, 256 * MIB); /* our own link is fine */
    rig_close(r);
    if (geteuid() == 0) {
        assert_int_equal(lchown(other, 65534, 65534), 0);
        assert_int_equal(rig_open(r), -TARN_E_DIR_FOREIGN);
        assert_int_equal(lchown(r->dir, 65534, 65534), 0);
        r->args.path = r->dir;
        assert_int_equal(rig_open(r), -TARN_E_DIR_FOREIGN);
    }
}

static void modes(void **state)
{
    struct rig *r = *state;

    rig_must_open(r, 256 * MIB);
    assert_int_equal(rig_fill(r, 1, MIB), 0);
    assert_int_equal(
        rig_shell("test -z \"$(find '%s' -maxdepth 0 -perm /077; find '%s/data' -perm /077)\"",
                  r->dir, r->dir),
        0);
}

/* A link with a cache file's name, planted before its first use and in place of a cached file. */
static void planted_links(void **state)
{
    struct rig *r = *state;
    char path[512], victim[512];
    uint8_t *precious = malloc(MIB);

    (void)snprintf(victim, sizeof(victim), "%s-victim", r->dir);
    r->args.fds_max = 0; /* every read opens */
    rig_must_open(r, 256 * MIB);
    memset(precious, 'x', MIB);
    write_file("/", victim + 1, precious, MIB); /* as long as the cache file */
    for (int round = 0; round < 3; round++) {   /* never cached, before a start, while it runs */
        rig_data_path(r, 1, path, sizeof(path));
        if (round == 0)
            assert_int_equal(rig_shell("mkdir -p \"$(dirname '%s')\"", path), 0);
        else
            assert_int_equal(unlink(path), 0);
        assert_int_equal(symlink(victim, path), 0);
        if (round == 1) {
            rig_close(r);
            rig_must_open(r, 256 * MIB);
            assert_int_equal(rig_check(r, 1, MIB).served, 0);
            rig_settle(r);
        }
        if (round == 2) {
            assert_int_equal(rig_check(r, 1, MIB).served, 0);
            rig_settle(r);
        }
        assert_int_equal(rig_fill(r, 1, MIB), 0);
        rig_assert_whole(r, 1, MIB);
    }
    assert_int_equal(rig_shell("test \"$(tr -d x < '%s' | wc -c)\" = 0", victim), 0);
    free(precious);
}

/* ---- the directory changes behind our back ---------------------------------------------- */

static void orphans_and_lost_files(void **state)
{
    struct rig *r = *state;
    char path[512], orphan[512];

    rig_must_open(r, 256 * MIB);
    for (unsigned nr = 1; nr <= 4; nr++)
        assert_int_equal(rig_fill(r, nr, 5 * MIB), 0);
    rig_close(r);
    rig_data_path(r, 77, orphan, sizeof(orphan));
    assert_int_equal(rig_shell("mkdir -p \"$(dirname '%s')\" && head -c 3000000 /dev/zero > '%s'",
                               orphan, orphan),
                     0);
    rig_data_path(r, 1, path, sizeof(path));
    assert_int_equal(unlink(path), 0);
    rig_data_path(r, 2, path, sizeof(path));
    assert_int_equal(truncate(path, 4 * MIB), 0);
    rig_must_open(r, 256 * MIB);
    rig_settle(r);
    assert_int_equal(access(orphan, F_OK), -1);
    assert_int_equal(rig_info(r).files, 2);
    assert_int_equal(rig_check(r, 1, 5 * MIB).served, 0);
    assert_int_equal(rig_check(r, 2, 5 * MIB).served, 0);
    rig_assert_whole(r, 3, 5 * MIB);
    tarn_tier_check(r->tier);
    for (unsigned nr = 1; nr <= 2; nr++)
        assert_int_equal(rig_fill(r, nr, 5 * MIB), 0);
    rig_assert_whole(r, 1, 5 * MIB);
    /* while it runs: a file vanishes, another is cut */
    rig_close(r);
    rig_must_open(r, 256 * MIB);
    rig_settle(r);
    rig_data_path(r, 3, path, sizeof(path));
    assert_int_equal(unlink(path), 0);
    rig_data_path(r, 4, path, sizeof(path));
    assert_int_equal(truncate(path, 100), 0);
    assert_int_equal(rig_check(r, 3, 5 * MIB).served, 0);
    assert_int_equal(rig_check(r, 4, 5 * MIB).served, 0);
    rig_settle(r);
    tarn_tier_check(r->tier);
    assert_int_equal(rig_fill(r, 3, 5 * MIB), 0);
    rig_assert_whole(r, 3, 5 * MIB);
    rig_assert_whole(r, 1, 5 * MIB);
}

static void directory_removed(void **state)
{
    struct rig *r = *state;
    int rc = 0;

    rig_must_open(r, 256 * MIB);
    assert_int_equal(rig_fill(r, 1, MIB), 0);
    assert_int_equal(rig_shell("rm -rf '%s'", r->dir), 0);
    for (unsigned nr = 2; nr < 10; nr++)
        rc = rig_fill(r, nr, MIB);
    assert_int_equal(rc, -TARN_E_TIER_OFFLINE);
    assert_true(rig_info(r).offline);
    assert_int_equal(rig_reserve(r, 1), -TARN_E_TIER_OFFLINE);
    assert_int_equal(rig_check(r, 1, MIB).wrong, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        RIG_TEST(two_opens),         RIG_TEST(other_owner),
        RIG_TEST(id_of_directory),   RIG_TEST(id_of_old_directory),
        RIG_TEST(newer_format),      RIG_TEST(damaged_lock_and_format),
        RIG_TEST(foreign_directory), RIG_TEST(modes),
        RIG_TEST(planted_links),     RIG_TEST(orphans_and_lost_files),
        RIG_TEST(directory_removed),
    };

    return cmocka_run_group_tests_name("tier_dir", tests, NULL, NULL);
}
