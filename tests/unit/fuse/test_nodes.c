/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/fuse/test_fuse.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "fuse/nodes_priv.h"
#include "lib/base/env.h"
#include "lib/base/mem.h"

#define FOREVER UINT64_MAX

static struct tarn_attr file_attr(uint64_t ino, uint64_t version)
{
    return (struct tarn_attr){.ino = {ino},
                              .parent = {1},
                              .version = version,
                              .cid = {{(uint8_t)ino, (uint8_t)version, 3}},
                              .size_bytes = ino * 1000 + version,
                              .mtime_ns = -5,
                              .ctime_ns = 7,
                              .type = TARN_TYPE_FILE,
                              .mode = 0640,
                              .uid = 11,
                              .gid = 12,
                              .nlink = 1,
                              .trust_until_ns = FOREVER};
}

static struct tarn_attr dir_attr(uint64_t ino, uint64_t version)
{
    struct tarn_attr a = file_attr(ino, version);

    a.type = TARN_TYPE_DIR;
    a.cid = (tarn_cid_t){{0}};
    return a;
}

static void a_new_table_has_the_root(void **state)
{
    struct tarn_fnodes *t = fnodes_new(TARN_INO_ROOT);
    struct tarn_attr a;
    bool outdated = true;

    (void)state;
    assert_int_equal(fnodes_count(t), 1);
    assert_true(fnode_get(t, FNODE_ROOT, &a, &outdated));
    assert_false(outdated);
    assert_int_equal(a.ino.v, 1);
    assert_int_equal(a.type, TARN_TYPE_DIR);
    assert_int_equal(a.trust_until_ns, 0);
    fnode_forget(t, FNODE_ROOT, 1000); /* the kernel forgets it at umount: it stays */
    assert_true(fnode_get(t, FNODE_ROOT, &a, &outdated));
    a = dir_attr(1, 9);
    assert_int_equal(fnode_ref(t, &a, fnodes_gen(t)), FNODE_ROOT);
    assert_true(fnode_get(t, FNODE_ROOT, &a, &outdated));
    assert_int_equal(a.version, 9);
    fnodes_invalidate(t, TARN_INO_ROOT, 0);
    assert_true(fnode_get(t, FNODE_ROOT, &a, &outdated));
    assert_false(outdated); /* the root never goes */
    fnodes_free(&t);
    assert_null(t);
    fnodes_free(&t);
}

static void attributes_come_back(void **state)
{
    struct tarn_fnodes *t = fnodes_new(TARN_INO_ROOT);
    struct tarn_attr a = file_attr(77, 4), b = {0};
    uint64_t id = fnode_ref(t, &a, fnodes_gen(t));
    bool outdated = true;

    (void)state;
    assert_true(id > FNODE_ROOT);
    assert_true(fnode_get(t, id, &b, &outdated));
    assert_false(outdated);
    assert_int_equal(b.ino.v, a.ino.v);
    assert_int_equal(b.parent.v, a.parent.v);
    assert_int_equal(b.version, a.version);
    assert_memory_equal(&b.cid, &a.cid, sizeof(a.cid));
    assert_int_equal(b.size_bytes, a.size_bytes);
    assert_int_equal(b.mtime_ns, a.mtime_ns);
    assert_int_equal(b.ctime_ns, a.ctime_ns);
    assert_int_equal(b.type, a.type);
    assert_int_equal(b.mode, a.mode);
    assert_int_equal(b.uid, a.uid);
    assert_int_equal(b.gid, a.gid);
    assert_int_equal(b.nlink, a.nlink);
    assert_true(b.trust_until_ns == FOREVER);
    fnodes_free(&t);
}

static void lookups_are_counted(void **state)
{
    struct tarn_fnodes *t = fnodes_new(TARN_INO_ROOT);
    struct tarn_attr a = file_attr(5, 1), b;
    uint64_t id = fnode_ref(t, &a, 0), again;
    bool outdated;

    (void)state;
    assert_int_equal(fnode_ref(t, &a, 0), id);
    assert_int_equal(fnode_ref(t, &a, 0), id);
    assert_int_equal(fnodes_count(t), 2);
    fnode_forget(t, id, 2);
    assert_true(fnode_get(t, id, &b, &outdated));
    fnode_forget(t, id, 1);
    assert_false(fnode_get(t, id, &b, &outdated));
    assert_int_equal(fnodes_count(t), 1);
    fnode_forget(t, id, 1); /* unknown: nothing */
    fnode_forget(t, 12345, 1);
    /* The slot is used again, the id is not. */
    again = fnode_ref(t, &a, 0);
    assert_true(again != id);
    assert_false(fnode_get(t, id, &b, &outdated));
    fnode_forget(t, id, 1);
    assert_true(fnode_get(t, again, &b, &outdated));
    fnode_forget(t, again, 99); /* more than were counted */
    assert_int_equal(fnodes_count(t), 1);
    fnodes_free(&t);
}

static void versions_are_nodes_of_files(void **state)
{
    struct tarn_fnodes *t = fnodes_new(TARN_INO_ROOT);
    struct tarn_attr v1 = file_attr(5, 1), v2 = file_attr(5, 2), got;
    uint64_t id1 = fnode_ref(t, &v1, 0), id2 = fnode_ref(t, &v2, 0), ids[FNODE_IDS_MAX];
    bool outdated = true;

    (void)state;
    assert_true(id1 != id2);
    assert_true(fnode_get(t, id1, &got, &outdated));
    assert_true(outdated);
    assert_int_equal(got.size_bytes, v1.size_bytes); /* what it was does not change */
    assert_true(fnode_get(t, id2, &got, &outdated));
    assert_false(outdated);
    assert_true(fnode_is_outdated(t, &v1));
    assert_false(fnode_is_outdated(t, &v2));
    assert_int_equal(fnodes_ids_of(t, (tarn_ino_t){5}, ids), 2);
    assert_int_equal(fnodes_ids_of(t, (tarn_ino_t){6}, ids), 0);
    /* An older one that comes in late is outdated at once. */
    fnode_forget(t, id1, 1);
    id1 = fnode_ref(t, &v1, 0);
    assert_true(fnode_get(t, id1, &got, &outdated));
    assert_true(outdated);
    fnodes_free(&t);
}

static void a_directory_is_one_node(void **state)
{
    struct tarn_fnodes *t = fnodes_new(TARN_INO_ROOT);
    struct tarn_attr v1 = dir_attr(5, 1), v2 = dir_attr(5, 2), file = file_attr(5, 3), got;
    uint64_t id = fnode_ref(t, &v1, 0);
    bool outdated = true;

    (void)state;
    assert_int_equal(fnode_ref(t, &v2, 0), id);
    assert_true(fnode_get(t, id, &got, &outdated));
    assert_false(outdated);
    assert_int_equal(got.version, 2);
    assert_true(tarn_cid_none(&got.cid));
    assert_true(fnode_ref(t, &file, 0) != id); /* it became a file */
    assert_true(fnode_get(t, id, &got, &outdated));
    assert_true(outdated);
    fnodes_free(&t);
}

static void fresh_attributes_tell_versions_apart(void **state)
{
    struct tarn_fnodes *t = fnodes_new(TARN_INO_ROOT);
    struct tarn_attr v1 = file_attr(5, 1), v2 = file_attr(5, 2), got;
    uint64_t id = fnode_ref(t, &v1, 0);
    bool outdated = true;

    (void)state;
    v1.mode = 0444;
    assert_true(fnode_refresh(t, id, &v1));
    assert_true(fnode_get(t, id, &got, &outdated));
    assert_int_equal(got.mode, 0444);
    assert_false(outdated);
    assert_false(fnode_refresh(t, id, &v2));
    assert_true(fnode_get(t, id, &got, &outdated));
    assert_true(outdated);
    assert_int_equal(got.version, 1);
    assert_false(fnode_refresh(t, id + (1ull << 40), &v1)); /* no such node */
    fnodes_free(&t);
}

static void an_invalidation_outdates(void **state)
{
    struct tarn_fnodes *t = fnodes_new(TARN_INO_ROOT);
    struct tarn_attr f = file_attr(5, 1), d = dir_attr(6, 1), got;
    uint64_t fid = fnode_ref(t, &f, 0), did = fnode_ref(t, &d, 0), gen = fnodes_gen(t);
    bool outdated = true;

    (void)state;
    fnodes_invalidate(t, f.ino, 1); /* its attributes changed, not its content */
    assert_true(fnodes_gen(t) > gen);
    assert_true(fnode_get(t, fid, &got, &outdated));
    assert_false(outdated);
    assert_int_equal(got.trust_until_ns, 0);
    fnodes_invalidate(t, f.ino, 2);
    assert_true(fnode_get(t, fid, &got, &outdated));
    assert_true(outdated);
    fnodes_invalidate(t, d.ino, 7);
    assert_true(fnode_get(t, did, &got, &outdated));
    assert_false(outdated);
    fnodes_invalidate(t, d.ino, 0);
    assert_true(fnode_get(t, did, &got, &outdated));
    assert_true(outdated);
    /* Found again under a name, it is back. */
    assert_int_equal(fnode_ref(t, &d, fnodes_gen(t)), did);
    assert_true(fnode_get(t, did, &got, &outdated));
    assert_false(outdated);
    fnodes_invalidate(t, (tarn_ino_t){4711}, 0); /* unknown: nothing */
    fnodes_free(&t);
}

/* The same version gets another node, which the retired one does not disturb. */
static void a_retired_node_is_not_found(void **state)
{
    struct tarn_fnodes *t = fnodes_new(TARN_INO_ROOT);
    struct tarn_attr v1 = file_attr(5, 1), v2 = file_attr(5, 2), got;
    uint64_t old = fnode_ref(t, &v1, fnodes_gen(t)), young;
    uint64_t ids[FNODE_IDS_MAX];
    bool outdated = false;

    (void)state;
    fnode_retire(t, old);
    assert_true(fnode_get(t, old, &got, &outdated));
    assert_true(outdated);
    assert_false(fnode_is_outdated(t, &v1)); /* the version is as good as before */
    assert_false(fnode_refresh(t, old, &v1));
    young = fnode_ref(t, &v1, fnodes_gen(t));
    assert_true(young != old);
    assert_true(fnode_get(t, young, &got, &outdated));
    assert_false(outdated);
    assert_int_equal(got.ino.v, 5);
    assert_true(fnode_refresh(t, young, &v1));
    assert_int_equal(fnode_ref(t, &v1, fnodes_gen(t)), young);
    assert_int_equal(fnodes_ids_of(t, v1.ino, ids), 2);
    fnode_retire(t, young); /* again and again */
    assert_true(fnode_ref(t, &v1, fnodes_gen(t)) != young);
    fnode_forget(t, old, 1);
    assert_false(fnode_get(t, old, &got, &outdated));
    (void)fnode_ref(t, &v2, fnodes_gen(t));
    assert_true(fnode_is_outdated(t, &v1));
    fnode_retire(t, FNODE_ROOT); /* never */
    assert_true(fnode_get(t, FNODE_ROOT, &got, &outdated));
    assert_false(outdated);
    fnode_retire(t, old); /* unknown: nothing */
    fnodes_free(&t);
}

/* What all opens of a node share is gone with it, and another node begins anew. */
static void a_node_is_of_one_object(void **state)
{
    struct tarn_fnodes *t = fnodes_new(TARN_INO_ROOT);
    struct tarn_attr file = file_attr(5, 1), dir = dir_attr(6, 1);
    uint64_t id = fnode_ref(t, &file, fnodes_gen(t)), young;
    struct tarn_object *first = fnode_object(t, id), *again = fnode_object(t, id), *other;

    (void)state;
    assert_non_null(first);
    assert_ptr_equal(first, again);
    assert_null(fnode_object(t, fnode_ref(t, &dir, fnodes_gen(t))));
    fnode_retire(t, id);
    young = fnode_ref(t, &file, fnodes_gen(t));
    other = fnode_object(t, young);
    assert_ptr_not_equal(other, first);
    fnode_forget(t, id, 1);
    assert_null(fnode_object(t, id));
    assert_false(tarn_object_mixed(first)); /* it is still there for who has it */
    tarn_object_unref(&first);
    tarn_object_unref(&again);
    tarn_object_unref(&other);
    fnodes_free(&t); /* with the node that has one */
}

/* Attributes read before an invalidation and put in after it are not trusted. */
static void old_attributes_are_not_trusted(void **state)
{
    struct tarn_fnodes *t = fnodes_new(TARN_INO_ROOT);
    struct tarn_attr a = file_attr(5, 1), got;
    uint64_t gen = fnodes_gen(t), id;
    bool outdated;

    (void)state;
    fnodes_invalidate(t, (tarn_ino_t){99}, 3);
    id = fnode_ref(t, &a, gen);
    assert_true(fnode_get(t, id, &got, &outdated));
    assert_int_equal(got.trust_until_ns, 0);
    (void)fnode_ref(t, &a, fnodes_gen(t));
    assert_true(fnode_get(t, id, &got, &outdated));
    assert_true(got.trust_until_ns == FOREVER);
    fnodes_distrust_all(t);
    assert_true(fnode_get(t, id, &got, &outdated));
    assert_int_equal(got.trust_until_ns, 0);
    assert_false(outdated);
    fnodes_free(&t);
}

/* An answer may be newer than an invalidation that was on its way. */
static void old_invalidations_do_not_outdate(void **state)
{
    struct tarn_fnodes *t = fnodes_new(TARN_INO_ROOT);
    struct tarn_attr a = file_attr(5, 3), got;
    uint64_t id = fnode_ref(t, &a, fnodes_gen(t));
    bool outdated = true;

    (void)state;
    fnodes_invalidate(t, a.ino, 2);
    assert_true(fnode_get(t, id, &got, &outdated));
    assert_false(outdated);
    assert_int_equal(got.trust_until_ns, 0);
    fnodes_invalidate(t, a.ino, 3);
    assert_true(fnode_get(t, id, &got, &outdated));
    assert_false(outdated);
    fnodes_invalidate(t, a.ino, 4);
    assert_true(fnode_get(t, id, &got, &outdated));
    assert_true(outdated);
    fnodes_free(&t);
}

/* Else opening it would be ESTALE for as long as the kernel holds the node. */
static void what_is_found_is_not_outdated(void **state)
{
    struct tarn_fnodes *t = fnodes_new(TARN_INO_ROOT);
    struct tarn_attr v1 = file_attr(5, 1), v2 = file_attr(5, 2), got;
    uint64_t id = fnode_ref(t, &v1, fnodes_gen(t)), before = fnodes_gen(t), id2;
    bool outdated = true;

    (void)state;
    fnode_outdate(t, id); /* an answer said that it is gone */
    assert_true(fnode_is_outdated(t, &v1));
    assert_int_equal(fnode_ref(t, &v1, before), id); /* read before that */
    assert_true(fnode_is_outdated(t, &v1));
    assert_int_equal(fnode_ref(t, &v1, fnodes_gen(t)), id);
    assert_false(fnode_is_outdated(t, &v1));
    assert_false(fnode_refresh(t, id, &v2));
    assert_true(fnode_is_outdated(t, &v1));
    assert_true(fnode_refresh(t, id, &v1));
    assert_true(fnode_get(t, id, &got, &outdated));
    assert_false(outdated);
    id2 = fnode_ref(t, &v2, fnodes_gen(t));
    assert_int_equal(fnode_ref(t, &v1, fnodes_gen(t)), id); /* a later one is known */
    assert_true(fnode_is_outdated(t, &v1));
    assert_true(fnode_get(t, id2, &got, &outdated));
    assert_false(outdated);
    fnodes_free(&t);
}

static void listings_have_an_end(void **state)
{
    struct tarn_fnodes *t = fnodes_new(TARN_INO_ROOT);
    struct tarn_attr d = dir_attr(6, 1), f = file_attr(7, 1);
    uint64_t did = fnode_ref(t, &d, 0), fid = fnode_ref(t, &f, 0), gen = fnodes_gen(t);

    (void)state;
    assert_int_equal(fnode_list_until(t, did), 0);
    fnode_set_list_until(t, did, 100, true, gen);
    fnode_set_list_until(t, did, 200, false, gen); /* a later page: the shortest counts */
    assert_int_equal(fnode_list_until(t, did), 100);
    fnode_set_list_until(t, did, 50, false, gen);
    assert_int_equal(fnode_list_until(t, did), 50);
    fnode_set_list_until(t, did, 300, true, gen);
    assert_int_equal(fnode_list_until(t, did), 300);
    fnodes_invalidate_listing(t, d.ino);
    assert_int_equal(fnode_list_until(t, did), 0);
    fnode_set_list_until(t, did, 300, true, gen); /* the page is from before */
    assert_int_equal(fnode_list_until(t, did), 0);
    fnode_set_list_until(t, fid, 300, true, fnodes_gen(t)); /* not a directory */
    assert_int_equal(fnode_list_until(t, fid), 0);
    fnodes_free(&t);
}

#define MANY 100000u

static void many_nodes_are_found(void **state)
{
    struct tarn_fnodes *t = fnodes_new(TARN_INO_ROOT);
    uint64_t *ids = tarn_xcalloc(MANY, sizeof(*ids));
    size_t seen = 0, n;
    uint64_t pos = 0, some[1000];

    (void)state;
    for (uint64_t i = 0; i < MANY; i++) {
        struct tarn_attr a = file_attr(i + 2, 1);

        ids[i] = fnode_ref(t, &a, 0);
    }
    assert_int_equal(fnodes_count(t), MANY + 1);
    for (uint64_t i = 0; i < MANY; i++) {
        struct tarn_attr a;
        bool outdated;

        assert_true(fnode_get(t, ids[i], &a, &outdated));
        assert_int_equal(a.ino.v, i + 2);
    }
    while ((n = fnodes_walk(t, &pos, some, TARN_ARRAY_LEN(some))) > 0)
        seen += n;
    assert_int_equal(seen, MANY + 1);
    for (uint64_t i = 0; i < MANY; i += 2)
        fnode_forget(t, ids[i], 1);
    assert_int_equal(fnodes_count(t), MANY / 2 + 1);
    for (uint64_t i = 1; i < MANY; i += 2) {
        struct tarn_attr a;
        bool outdated;

        assert_true(fnode_get(t, ids[i], &a, &outdated));
        assert_int_equal(a.ino.v, i + 2);
        assert_false(fnode_get(t, ids[i - 1], &a, &outdated));
    }
    free(ids);
    fnodes_free(&t);
}

/* What threads do at a time: the table stays whole, and ends as it began. */
struct worker {
    struct tarn_fnodes *t;
    uint64_t seed;
    _Atomic uint64_t *wrong;
};

static void *worker_run(void *arg)
{
    struct worker *w = arg;
    struct tarn_rng_seeded rng;

    tarn_rng_seeded_init(&rng, w->seed);
    for (unsigned i = 0; i < 20000; i++) {
        struct tarn_attr a = file_attr(2 + tarn_rng_below(&rng.base, 300),
                                       1 + tarn_rng_below(&rng.base, 3)),
                         got;
        uint64_t id = fnode_ref(w->t, &a, fnodes_gen(w->t));
        bool outdated;

        if (!fnode_get(w->t, id, &got, &outdated) || got.ino.v != a.ino.v ||
            got.version != a.version || got.size_bytes != a.size_bytes)
            atomic_fetch_add(w->wrong, 1);
        if (i % 64 == 0)
            fnodes_invalidate(w->t, a.ino, a.version);
        fnode_forget(w->t, id, 1);
    }
    return NULL;
}

static void threads_share_the_table(void **state)
{
    struct tarn_fnodes *t = fnodes_new(TARN_INO_ROOT);
    _Atomic uint64_t wrong = 0;
    struct worker w[4];
    pthread_t threads[4];

    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        w[i] = (struct worker){.t = t, .seed = i + 1, .wrong = &wrong};
        assert_int_equal(pthread_create(&threads[i], NULL, worker_run, &w[i]), 0);
    }
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    assert_int_equal(wrong, 0);
    assert_int_equal(fnodes_count(t), 1);
    fnodes_free(&t);
}

int test_nodes(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_new_table_has_the_root),
        cmocka_unit_test(attributes_come_back),
        cmocka_unit_test(lookups_are_counted),
        cmocka_unit_test(versions_are_nodes_of_files),
        cmocka_unit_test(a_directory_is_one_node),
        cmocka_unit_test(fresh_attributes_tell_versions_apart),
        cmocka_unit_test(an_invalidation_outdates),
        cmocka_unit_test(a_retired_node_is_not_found),
        cmocka_unit_test(a_node_is_of_one_object),
        cmocka_unit_test(old_attributes_are_not_trusted),
        cmocka_unit_test(old_invalidations_do_not_outdate),
        cmocka_unit_test(what_is_found_is_not_outdated),
        cmocka_unit_test(listings_have_an_end),
        cmocka_unit_test(many_nodes_are_found),
        cmocka_unit_test(threads_share_the_table),
    };

    return cmocka_run_group_tests_name("nodes", tests, NULL, NULL);
}
