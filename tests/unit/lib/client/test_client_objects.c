/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whose bytes a version's are: workers that have those of different objects under one cid.
 */
#include "tests/unit/lib/client/cluster_rig.h"

#include "lib/base/limits.h"

#define LEN 4096u

/* Offsets in segments that two workers own. */
static struct cworker *two_owners(struct cluster *c, uint64_t *ret_other_off)
{
    struct cworker *first = cluster_owner(c, 0, 0);

    for (*ret_other_off = TARN_SEGMENT_BYTES; cluster_owner(c, *ret_other_off, 0) == first;)
        *ret_other_off += TARN_SEGMENT_BYTES;
    return cluster_owner(c, *ret_other_off, 0);
}

/* Bytes that came under another ETag are of another object, whichever worker has them. */
static void another_tag(void **state)
{
    struct tarn_handle *h;
    struct cworker *other;
    struct cluster c;
    uint64_t off;

    (void)state;
    cluster_init(&c, 2, NULL);
    h = cluster_open(&c);
    other = two_owners(&c, &off);
    cluster_owner(&c, 0, 0)->tag = 7;
    other->tag = 7;
    assert_int_equal(cluster_read(&c, h, 0, LEN), 0);
    assert_int_equal(cluster_read(&c, h, off, LEN), 0);
    other->tag = 8;
    assert_int_equal(cluster_read(&c, h, off + 9 * MIB, LEN), -TARN_E_UFS_CHANGED);
    assert_true(tarn_handle_stale(h));
    assert_int_equal(cluster_read(&c, h, 9 * MIB, LEN), 0); /* what it knows goes on */
    tarn_handle_close(&h);
    cluster_fini(&c);
}

/* Nor are they given to whoever opens the version later, beside pages that a kernel has kept. */
static void another_tag_of_a_version(void **state)
{
    struct tarn_object *object = tarn_object_new();
    struct tarn_handle *h;
    struct cluster c;
    uint64_t off;

    (void)state;
    cluster_init(&c, 2, NULL);
    two_owners(&c, &off)->tag = 8;
    h = cluster_open(&c);
    tarn_handle_share(h, object);
    assert_int_equal(cluster_read(&c, h, 0, LEN), 0);
    tarn_handle_close(&h);
    h = cluster_open(&c);
    tarn_handle_share(h, object);
    assert_false(tarn_object_mixed(object));
    assert_int_equal(cluster_read(&c, h, off, LEN), -TARN_E_UFS_CHANGED);
    assert_true(tarn_object_mixed(object));
    rig_until(&c.rig, &c.rig.changed, 1); /* the master is told */
    tarn_handle_close(&h);
    tarn_object_unref(&object);
    h = cluster_open(&c); /* nobody has pages of the other one any more */
    assert_int_equal(cluster_read(&c, h, off, LEN), 0);
    tarn_handle_close(&h);
    assert_int_equal(c.rig.changed, 1);
    cluster_fini(&c);
}

/* The client ends while the master is being told. */
static void stopped_while_telling(void **state)
{
    struct tarn_handle *h;
    struct cluster c;
    uint64_t off;

    (void)state;
    cluster_init(&c, 2, NULL);
    two_owners(&c, &off)->tag = 8;
    c.rig.hold_changed = true;
    h = cluster_open(&c);
    assert_int_equal(cluster_read(&c, h, 0, LEN), 0);
    assert_int_equal(cluster_read(&c, h, off, LEN), -TARN_E_UFS_CHANGED);
    rig_until(&c.rig, &c.rig.changed, 1);
    assert_int_equal(cluster_read(&c, h, off + 9 * MIB, LEN), -TARN_E_UFS_CHANGED);
    assert_int_equal(c.rig.client->report_count, 1); /* once is enough */
    cluster_stop_client(&c);
    assert_int_equal(c.rig.client->report_count, 0);
    tarn_handle_close(&h);
    cluster_fini(&c);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(another_tag),
        cmocka_unit_test(another_tag_of_a_version),
        cmocka_unit_test(stopped_while_telling),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
