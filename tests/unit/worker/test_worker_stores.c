/* SPDX-License-Identifier: Apache-2.0 */
/* The stores of published attachments: opened, opened anew, closed, tried again. */
#include "tests/unit/worker/worker_rig.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/ufs/fixture.h"
#include "worker/stores.h"

struct fix {
    struct tarn_loop *loop;
    struct tarn_disk *disk;
    struct tarn_stores *stores;
    struct tarn_timer watchdog;
    char *dir;
    uint64_t version;
};

static void fix_init(struct fix *f)
{
    *f = (struct fix){.dir = fx_tmp()};
    assert_int_equal(tarn_loop_new(&f->loop), 0);
    assert_int_equal(tarn_disk_pool_new(2, &f->disk), 0);
    turns_guard(f->loop, &f->watchdog, 40 * TARN_NS_PER_S);
    f->stores = tarn_stores_new(f->loop, f->disk);
}

static void count(void *arg)
{
    ++*(unsigned *)arg;
}

static void fix_fini(struct fix *f)
{
    unsigned done = 0;

    tarn_stores_stop(f->stores, count, &done);
    assert_int_equal(done, 0); /* never inside */
    turns_until(f->loop, &done, 1);
    tarn_stores_free(&f->stores);
    tarn_timer_stop(&f->watchdog);
    tarn_disk_free(&f->disk);
    tarn_loop_free(&f->loop);
    fx_tmp_fini(f->dir);
}

/* One attachment, or none (uri NULL), as the next version; what the master opened, or NULL. */
static void publish_as(struct fix *f, uint32_t id, const char *uri, const char *option,
                       const char *secret, const char *store_id)
{
    Tarn__Wire__AttachmentList l = TARN__WIRE__ATTACHMENT_LIST__INIT;
    Tarn__Wire__AttachmentInfo a = TARN__WIRE__ATTACHMENT_INFO__INIT, *all[] = {&a};
    char *options[] = {tarn_wire_text(option)}, *secrets[] = {tarn_wire_text(secret)};

    a.id = id;
    a.uri = tarn_wire_text(uri);
    a.options = options;
    a.n_options = option != NULL;
    a.secrets = secrets;
    a.n_secrets = secret != NULL;
    a.store_id = tarn_wire_text(store_id ? store_id : "");
    l.version = ++f->version;
    l.attachments = all;
    l.n_attachments = uri != NULL;
    tarn_stores_apply(f->stores, &l);
    assert_int_equal(tarn_stores_version(f->stores), f->version);
}

static void publish(struct fix *f, uint32_t id, const char *uri, const char *option,
                    const char *secret)
{
    publish_as(f, id, uri, option, secret, NULL);
}

static struct tarn_ufs *wait_for(struct fix *f, uint32_t id)
{
    const char *isolation = NULL;
    struct tarn_ufs *u;

    while ((u = tarn_stores_of(f->stores, id, &isolation)) == NULL)
        turns_for(f->loop, TARN_NS_PER_MS);
    assert_non_null(isolation);
    return u;
}

static void follows_the_list(void **state)
{
    const char *isolation = NULL;
    struct tarn_ufs *first, *second;
    struct fix f;
    char *uri;

    (void)state;
    fix_init(&f);
    uri = tarn_xasprintf("file://%s", f.dir);
    publish(&f, 3, uri, "isolation=a", NULL);
    assert_null(tarn_stores_of(f.stores, 3, &isolation)); /* asked for on a thread */
    first = wait_for(&f, 3);
    assert_int_equal((tarn_stores_of(f.stores, 3, &isolation), strcmp(isolation, "a")), 0);
    assert_string_equal(tarn_ufs_store_id(first), f.dir);
    assert_null(tarn_stores_of(f.stores, 4, &isolation));
    publish(&f, 3, uri, "isolation=a", NULL); /* nothing changed */
    turns_for(f.loop, 20 * TARN_NS_PER_MS);
    assert_ptr_equal(tarn_stores_of(f.stores, 3, &isolation), first);
    publish(&f, 3, uri, "isolation=b", NULL);
    assert_ptr_equal(tarn_stores_of(f.stores, 3, &isolation),
                     first); /* until the new one is open */
    do {
        turns_for(f.loop, TARN_NS_PER_MS);
        second = tarn_stores_of(f.stores, 3, &isolation);
        assert_non_null(second);
    } while (strcmp(isolation, "b") != 0);
    f.version--; /* what is not newer changes nothing */
    f.version--;
    {
        Tarn__Wire__AttachmentList l = TARN__WIRE__ATTACHMENT_LIST__INIT;

        l.version = f.version + 2;
        tarn_stores_apply(f.stores, &l);
        f.version += 2;
    }
    assert_ptr_equal(tarn_stores_of(f.stores, 3, &isolation), second);
    publish(&f, 0, NULL, NULL, NULL);
    assert_null(tarn_stores_of(f.stores, 3, &isolation));
    free(uri);
    fix_fini(&f);
}

/* The same URI leads elsewhere on this host: bytes of it would be another file's. */
static void another_store(void **state)
{
    const char *isolation = NULL;
    struct fix f;
    char *uri;

    (void)state;
    fix_init(&f);
    uri = tarn_xasprintf("file://%s", f.dir);
    publish_as(&f, 3, uri, NULL, NULL, f.dir);
    (void)wait_for(&f, 3);
    publish_as(&f, 3, uri, NULL, NULL, "/elsewhere");
    while (tarn_stores_of(f.stores, 3, &isolation) != NULL)
        turns_for(f.loop, TARN_NS_PER_MS);
    turns_for(f.loop, 50 * TARN_NS_PER_MS);
    assert_null(tarn_stores_of(f.stores, 3, &isolation));
    publish_as(&f, 3, uri, NULL, NULL, f.dir);
    (void)wait_for(&f, 3);
    free(uri);
    fix_fini(&f);
}

/* Options that cannot be, then ones that can; secrets count too. */
static void options_and_secrets(void **state)
{
    const char *isolation = NULL;
    struct tarn_ufs *first;
    struct fix f;

    (void)state;
    fix_init(&f);
    publish(&f, 1, "s3://bkt", "no-such-option=1", NULL);
    turns_for(f.loop, 10 * TARN_NS_PER_MS);
    assert_null(tarn_stores_of(f.stores, 1, &isolation));
    publish(&f, 1, "s3://bkt", "endpoint=http://127.0.0.1:9,access-key=ak", "secret-key=one");
    first = wait_for(&f, 1);
    publish(&f, 1, "s3://bkt", "endpoint=http://127.0.0.1:9,access-key=ak", "secret-key=two");
    assert_ptr_not_equal(wait_for(&f, 1), first);
    fix_fini(&f);
}

/* A directory that is there later: served by the path as it stands, and asked for again. */
static void path_later(void **state)
{
    const char *isolation = NULL;
    char *uri, *to, *from;
    struct tarn_ufs *u;
    struct fix f;

    (void)state;
    fix_init(&f);
    from = tarn_xasprintf("%s/link", f.dir);
    to = tarn_xasprintf("%s/there", f.dir);
    uri = tarn_xasprintf("file://%s", from);
    publish(&f, 1, uri, NULL, NULL);
    u = wait_for(&f, 1);
    assert_string_equal(tarn_ufs_store_id(u), from);
    assert_int_equal(mkdir(to, 0700), 0);
    assert_int_equal(symlink(to, from), 0);
    while (strcmp(tarn_ufs_store_id(wait_for(&f, 1)), to) != 0)
        turns_for(f.loop, 20 * TARN_NS_PER_MS);
    assert_non_null(tarn_stores_of(f.stores, 1, &isolation));
    free(uri);
    free(to);
    free(from);
    fix_fini(&f);
}

/* Stopped while a path is asked for. */
static void stop_early(void **state)
{
    struct fix f;
    char *uri;

    (void)state;
    fix_init(&f);
    uri = tarn_xasprintf("file://%s", f.dir);
    publish(&f, 1, uri, NULL, NULL);
    publish(&f, 1, uri, "isolation=c", NULL);
    free(uri);
    fix_fini(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(follows_the_list),    cmocka_unit_test(another_store),
        cmocka_unit_test(options_and_secrets), cmocka_unit_test(path_later),
        cmocka_unit_test(stop_early),
    };

    return cmocka_run_group_tests_name("worker_stores", tests, NULL, NULL);
}
