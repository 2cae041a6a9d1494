/* SPDX-License-Identifier: Apache-2.0 */
/* Stores that stall, change and disagree with themselves: who waits, for how long, for what. */
#include "tests/unit/worker/worker_rig.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define BIG (12 * MIB)

/* Takes connections and never answers. */
static int dead_open(struct rig *r, unsigned slot, const char *timeout)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(a);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    char opts[256];

    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(listen(fd, 1024), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &len), 0);
    (void)snprintf(opts, sizeof(opts),
                   "endpoint=http://127.0.0.1:%u,credentials=anonymous,retries=0,timeout=%s",
                   ntohs(a.sin_port), timeout);
    rig_open_uri(r, slot, "s3://bkt", opts);
    return fd;
}

static void dead_obj(struct rig *r, struct obj *o, unsigned slot)
{
    struct tarn_ufs_version v = {.size_bytes = 4ull << 30, .mtime_ns = 5, .etag = "e"};

    rig_obj(r, o, slot, "x", 0, &v);
}

/* 500 readers of a store that is dead: all fail in one timeout, though few fetches run at a time;
 * meanwhile what is cached, and another store, are served. */
static void dead_store_and_others(void **state)
{
    enum { N = 500 };
    struct rig r;
    struct obj cached, fresh, dead;
    struct op *ops = tarn_xcalloc(N, sizeof(*ops));
    uint64_t start, slowest = 0;
    int fd;

    (void)state;
    rig_init(&r, &(struct rig_args){.quota = 512 * MIB, .fetch_max = 32 * MIB});
    rig_open_dir(&r, 0);
    rig_put(&r, "cached", 1, 4 * MIB);
    rig_put(&r, "fresh", 2, 20 * MIB);
    rig_find(&r, &cached, 0, "cached", 1);
    rig_find(&r, &fresh, 0, "fresh", 2);
    rig_read_all(&r, &cached, 1 << 20);
    fd = dead_open(&r, 1, "6s");
    dead_obj(&r, &dead, 1);
    start = tarn_loop_now_ns(r.loop);
    for (unsigned i = 0; i < N; i++)
        op_start(&ops[i], &r, &dead, (uint64_t)i * 4 * MIB, 1000, 2);
    rig_run_for(&r, 20 * TARN_NS_PER_MS);
    rig_read_all(&r, &cached, 1 << 20);
    rig_read_all(&r, &fresh, 1 << 20);
    for (unsigned i = 0; i < N; i++)
        assert_int_equal(ops[i].done, 0); /* the others did not wait for these */
    assert_in_range(r.worker->fetch_bytes, 4 * MIB, 32 * MIB);
    for (unsigned i = 0; i < N; i++) {
        rig_until(&r, &ops[i].done, 1);
        assert_int_equal(ops[i].rc, -TARN_E_UFS_STALLED);
        slowest = TARN_MAX(slowest, ops[i].end_ns - start);
    }
    assert_in_range(slowest, 5900 * TARN_NS_PER_MS, 11500 * TARN_NS_PER_MS);
    free(ops);
    rig_fini(&r);
    close(fd);
}

/* One that came later and started when the first ones had failed does not get a second timeout. */
static void late_in_the_queue(void **state)
{
    struct rig r;
    struct obj dead;
    struct op a, b;
    uint64_t start;
    int fd;

    (void)state;
    rig_init(&r, &(struct rig_args){.quota = 128 * MIB, .fetch_max = 4 * MIB});
    fd = dead_open(&r, 0, "4s");
    dead_obj(&r, &dead, 0);
    op_start(&a, &r, &dead, 0, 1000, 0);
    rig_run_for(&r, 2000 * TARN_NS_PER_MS);
    start = tarn_loop_now_ns(r.loop);
    op_start(&b, &r, &dead, 4 * MIB, 1000, 0);
    rig_until(&r, &b.done, 1);
    assert_int_equal(a.rc, -TARN_E_UFS_STALLED);
    assert_int_equal(b.rc, -TARN_E_UFS_STALLED);
    assert_in_range(b.end_ns - start, 3900 * TARN_NS_PER_MS, 5900 * TARN_NS_PER_MS);
    assert_int_equal(r.worker->counts.fetches, 2);
    rig_fini(&r);
    close(fd);
}

/* A stalled fetch ends with the worker. */
static void stop_while_stalled(void **state)
{
    struct rig r;
    struct obj dead;
    struct op ops[10];
    int fd;

    (void)state;
    rig_init(&r, &(struct rig_args){.quota = 128 * MIB, .fetch_max = 8 * MIB});
    fd = dead_open(&r, 0, "30s");
    dead_obj(&r, &dead, 0);
    for (unsigned i = 0; i < 10; i++)
        op_start(&ops[i], &r, &dead, i * 4 * MIB, 1000, 0);
    rig_run_for(&r, 20 * TARN_NS_PER_MS);
    rig_fini(&r);
    for (unsigned i = 0; i < 10; i++)
        assert_int_equal(ops[i].rc, -TARN_E_SHUTDOWN);
    close(fd);
}

/* Cancelled readers of a stalled store are told at once; the fetch under way goes on. */
static void cancel_while_stalled(void **state)
{
    struct rig r;
    struct obj dead;
    struct op op;
    int fd;

    (void)state;
    rig_init(&r, &(struct rig_args){.quota = 128 * MIB});
    fd = dead_open(&r, 0, "30s");
    dead_obj(&r, &dead, 0);
    op_start(&op, &r, &dead, 4 * MIB - 10, 20, 0);
    rig_run_for(&r, 20 * TARN_NS_PER_MS);
    r.ops.cancel(r.ops.ctx, &op.read);
    assert_int_equal(op.done, 0);
    rig_until(&r, &op.done, 1);
    assert_int_equal(op.rc, -TARN_E_CANCELLED);
    assert_int_equal(r.worker->units.count, 2);
    rig_fini(&r);
    close(fd);
}

/* Loads leave room for readers, also when all they ask for hangs. */
static void loads_leave_room(void **state)
{
    struct rig r;
    struct obj dead, o;
    struct wloc *loc = NULL;
    int fd;

    (void)state;
    rig_init(&r, &(struct rig_args){.quota = 256 * MIB, .fetch_max = 16 * MIB});
    fd = dead_open(&r, 0, "30s");
    dead_obj(&r, &dead, 0);
    rig_open_dir(&r, 1);
    rig_put(&r, "f", 1, 9 * MIB);
    rig_find(&r, &o, 1, "f", 1);
    assert_int_equal(wloc_new(r.worker, &dead.msg, &loc), 0);
    for (unsigned i = 0; i < 30; i++)
        wfetch(r.worker, loc, i, TARN_UFS_BACKGROUND, false, NULL);
    rig_run_for(&r, 20 * TARN_NS_PER_MS);
    assert_int_equal(r.worker->background_bytes, 12 * MIB);
    rig_read_all(&r, &o, 1 << 20);
    wloc_unref(r.worker, &loc);
    rig_fini(&r);
    close(fd);
}

/* ---- the scripted store ------------------------------------------------------------------------
 */

static uint8_t *body, *other_body; /* of seeds 3 and 4 */

static void count_lines(struct srv *s, unsigned *gets, unsigned *heads)
{
    struct srv_counts c;

    *gets = *heads = 0;
    srv_counts(s, &c);
    for (unsigned i = 0; i < c.requests; i++) {
        *gets += strncmp(srv_line(s, i), "GET ", 4) == 0;
        *heads += strncmp(srv_line(s, i), "HEAD ", 5) == 0;
    }
}

static struct tarn_ufs_version listed(const char *etag)
{
    struct tarn_ufs_version v = {.size_bytes = BIG, .mtime_ns = 1795309323000000000};

    (void)snprintf(v.etag, sizeof(v.etag), "%s", etag);
    return v;
}

/* LIST and HEAD disagree: one HEAD for the file, not one for each unit. */
static void adopted_once(void **state)
{
    const struct srv_object objs[] = {{"f", "elist", "ehead", body, BIG}};
    struct tarn_ufs_version v = listed("elist");
    struct srv *s = srv_start(objs, 1);
    unsigned gets, heads;
    struct rig r;
    struct obj o;

    (void)state;
    rig_init(&r, &(struct rig_args){.quota = 128 * MIB});
    rig_open_s3(&r, 0, s, "");
    rig_obj(&r, &o, 0, "f", 3, &v);
    assert_int_equal(rig_read(&r, &o, 0, 1000), 0);
    rig_stored(&r);
    srv_script(s, NULL, 0);
    rig_read_all(&r, &o, 1 << 20);
    count_lines(s, &gets, &heads);
    assert_int_equal(heads, 0);
    assert_int_equal(gets, 2);
    rig_fini(&r);
    srv_stop(&s);
}

/* Replaced within the second by one of the same length: not half of each. */
static void replaced_after_adoption(void **state)
{
    const struct srv_object first[] = {{"f", "elist", "ehead", body, BIG}};
    const struct srv_object second[] = {{"f", "elist2", "ehead2", body, BIG}};
    struct tarn_ufs_version v = listed("elist");
    struct srv *s = srv_start(first, 1);
    struct rig r;
    struct obj o;

    (void)state;
    rig_init(&r, &(struct rig_args){.quota = 128 * MIB});
    rig_open_s3(&r, 0, s, "");
    rig_obj(&r, &o, 0, "f", 3, &v);
    assert_int_equal(rig_read(&r, &o, 0, 1000), 0);
    rig_stored(&r);
    srv_objects(s, second, 1);
    assert_int_equal(rig_read(&r, &o, 5 * MIB, 1000), -TARN_E_UFS_CHANGED);
    assert_int_equal(rig_read(&r, &o, 2 * MIB, 1000), 0); /* cached: goes on */
    rig_fini(&r);
    srv_stop(&s);
}

/* What is cached under an adopted ETag says so itself: after a restart the rest comes as before. */
static void adopted_outlives_restart(void **state)
{
    const struct srv_object objs[] = {{"f", "elist", "ehead", body, BIG}};
    struct tarn_ufs_version v = listed("elist");
    struct srv *s = srv_start(objs, 1);
    unsigned gets, heads;
    struct rig r;
    struct obj o;

    (void)state;
    rig_init(&r, &(struct rig_args){.quota = 128 * MIB});
    rig_open_s3(&r, 0, s, "");
    rig_obj(&r, &o, 0, "f", 3, &v);
    assert_int_equal(rig_read(&r, &o, 0, 1000), 0);
    rig_stored(&r);
    rig_restart(&r);
    srv_script(s, NULL, 0);
    rig_read_all(&r, &o, 1 << 20);
    count_lines(s, &gets, &heads);
    assert_int_equal(heads, 1);
    assert_int_equal(gets, 3); /* one of them was refused; what was cached was not asked for */
    rig_fini(&r);
    srv_stop(&s);
}

/* The object was replaced while nobody looked: who has read the old bytes gets no new ones; before
 * anybody has, the old ones go. */
static void replaced_over_restart(void **state)
{
    const struct srv_object first[] = {{"f", "elist", "ehead", body, BIG}};
    const struct srv_object second[] = {{"f", "elist2", "ehead2", other_body, BIG}};
    struct tarn_ufs_version v = listed("elist");
    struct srv *s = srv_start(first, 1);
    struct obj o, n;
    struct rig r;

    (void)state;
    rig_init(&r, &(struct rig_args){.quota = 128 * MIB});
    rig_open_s3(&r, 0, s, "");
    rig_obj(&r, &o, 0, "f", 3, &v);
    rig_obj(&r, &n, 0, "f", 4, &v);
    assert_int_equal(rig_read(&r, &o, 0, 1000), 0);
    rig_stored(&r);
    srv_objects(s, second, 1);
    rig_restart(&r);
    assert_int_equal(rig_read(&r, &o, 1000, 1000), 0); /* somebody has */
    assert_int_equal(rig_read(&r, &o, 5 * MIB, 1000), -TARN_E_UFS_CHANGED);
    assert_int_equal(rig_read(&r, &o, 3 * MIB, 1000), 0);
    rig_restart(&r);
    assert_int_equal(rig_read(&r, &n, 5 * MIB, 1000), 0); /* nobody has yet */
    rig_read_all(&r, &n, 1 << 20);
    rig_restart(&r);
    rig_read_all(&r, &n, 1 << 20);
    rig_fini(&r);
    srv_stop(&s);
}

static void closed(void *arg)
{
    ++*(unsigned *)arg;
}

/* Replaced while half of a group had come, and its store was opened anew: not half of each. */
static void replaced_under_way(void **state)
{
    static const enum srv_action stall[] = {SRV_STALL_BODY};
    const struct srv_object first[] = {{"f", "elist", NULL, body, BIG}};
    const struct srv_object second[] = {{"f", "elist2", "ehead2", other_body, BIG}};
    struct tarn_ufs_version v = listed("elist");
    struct srv *s = srv_start(first, 1);
    unsigned gone = 0;
    struct tarn_ufs *old;
    struct rig r;
    struct obj o;
    struct op op;

    (void)state;
    rig_init(&r, &(struct rig_args){.quota = 128 * MIB});
    rig_open_s3(&r, 0, s, ",store-id=rig");
    rig_obj(&r, &o, 0, "f", 3, &v);
    srv_script(s, stall, 1);
    op_start(&op, &r, &o, 0, 1000, 0);
    turns_until(r.loop, &op.done, 1);
    assert_true(op.rc == 0 && !op.wrong);
    op_start(&op, &r, &o, 3 * MIB, MIB, 0); /* in the half that does not come */
    rig_run_for(&r, 50 * TARN_NS_PER_MS);
    assert_int_equal(op.done, 0);
    srv_objects(s, second, 1);
    old = r.store[0];
    rig_open_s3(&r, 0, s, ",timeout=6s,store-id=rig");
    tarn_ufs_close(&old, closed, &gone);
    turns_until(r.loop, &op.done, 1);
    assert_int_equal(op.rc, -TARN_E_UFS_CHANGED);
    turns_until(r.loop, &gone, 1);
    rig_stored(&r);
    assert_null(tarn_tier_file_find(r.tier, &o.cid));
    rig_fini(&r);
    srv_stop(&s);
}

/* The same where the store agreed with its listing at first, and the other way round. */
static void replaced_by_a_store_that_agrees(void **state)
{
    const struct srv_object agrees[] = {{"f", "elist", NULL, body, BIG}};
    const struct srv_object differs[] = {{"f", "elist", "ehead", other_body, BIG}};
    struct tarn_ufs_version v = listed("elist");
    struct srv *s = srv_start(agrees, 1);
    struct obj o[2];
    struct rig r;

    (void)state;
    rig_init(&r, &(struct rig_args){.quota = 128 * MIB});
    rig_open_s3(&r, 0, s, "");
    rig_obj(&r, &o[0], 0, "f", 3, &v);
    rig_obj(&r, &o[1], 0, "f", 4, &v);
    assert_int_equal(rig_read(&r, &o[0], 0, 1000), 0);
    for (unsigned turn = 1; turn < 4; turn++) {
        rig_stored(&r);
        srv_objects(s, turn % 2 ? differs : agrees, 1);
        rig_restart(&r);
        assert_int_equal(rig_read(&r, &o[turn % 2], (turn % 2 ? 5 : 9) * MIB, 1000), 0); /* cold */
        assert_int_equal(rig_read(&r, &o[turn % 2], 0, 1000), 0);
    }
    rig_fini(&r);
    srv_stop(&s);
}

/* A failure reaches all who wait and is not remembered. */
static void failures_are_not_kept(void **state)
{
    static const enum srv_action bad[] = {SRV_DENY};
    const struct srv_object objs[] = {{"f", "e", NULL, body, BIG}};
    struct tarn_ufs_version v = listed("e");
    struct srv *s = srv_start(objs, 1);
    struct op ops[5];
    struct rig r;
    struct obj o;

    (void)state;
    rig_init(&r, &(struct rig_args){.quota = 128 * MIB});
    rig_open_s3(&r, 0, s, "");
    rig_obj(&r, &o, 0, "f", 3, &v);
    srv_script(s, bad, 1);
    for (unsigned i = 0; i < 5; i++)
        op_start(&ops[i], &r, &o, i * 1000, 1000, 0);
    for (unsigned i = 0; i < 5; i++) {
        rig_until(&r, &ops[i].done, 1);
        assert_int_equal(ops[i].rc, -TARN_E_UFS_DENIED);
    }
    assert_int_equal(rig_read(&r, &o, 0, 5000), 0);
    rig_fini(&r);
    srv_stop(&s);
}

/* A body that ends early is asked for again from where it stopped; readers see no seam. */
static void cut_bodies(void **state)
{
    static const enum srv_action bad[] = {SRV_CUT_BODY, SRV_CUT_BODY, SRV_OK, SRV_CUT_BODY};
    const struct srv_object objs[] = {{"f", "e", NULL, body, BIG}};
    struct tarn_ufs_version v = listed("e");
    struct srv *s = srv_start(objs, 1);
    struct rig r;
    struct obj o;

    (void)state;
    rig_init(&r, &(struct rig_args){.quota = 128 * MIB});
    rig_open_s3(&r, 0, s, "");
    rig_obj(&r, &o, 0, "f", 3, &v);
    srv_script(s, bad, 4);
    rig_read_all(&r, &o, 1 << 20);
    rig_stored(&r);
    rig_read_all(&r, &o, 777777);
    rig_fini(&r);
    srv_stop(&s);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dead_store_and_others),
        cmocka_unit_test(late_in_the_queue),
        cmocka_unit_test(stop_while_stalled),
        cmocka_unit_test(cancel_while_stalled),
        cmocka_unit_test(loads_leave_room),
        cmocka_unit_test(adopted_once),
        cmocka_unit_test(replaced_after_adoption),
        cmocka_unit_test(adopted_outlives_restart),
        cmocka_unit_test(replaced_over_restart),
        cmocka_unit_test(replaced_under_way),
        cmocka_unit_test(replaced_by_a_store_that_agrees),
        cmocka_unit_test(failures_are_not_kept),
        cmocka_unit_test(cut_bodies),
    };
    int failed;

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    body = tarn_xcalloc(1, BIG);
    other_body = tarn_xcalloc(1, BIG);
    pattern_fill(3, 0, body, BIG);
    pattern_fill(4, 0, other_body, BIG);
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    free(body);
    free(other_body);
    return failed;
}
