/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How fast a directory is listed into RocksDB for the first time, listed again without a change and
 * with every file changed, walked, and removed; through the steps of the local journal: groups of
 * at most 4 MiB, unsynced.
 *
 *     bench_core [NAMES]
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"
#include "lib/base/mem.h"
#include "master/core/core.h"

#define PAGE        400u
#define GROUP_BYTES (4u << 20)

struct bench {
    struct tarn_kv *kv;
    struct tarn_kv_batch *b;
    uint64_t index;
    bool more; /* of the last entry */
};

static void bench_write(struct bench *b)
{
    TARN_ASSERT(tarn_kv_write(b->kv, b->b, false) == 0);
}

static void bench_apply(struct bench *b, Tarn__Core__Entry *e)
{
    struct tarn_core_result r = {0};
    struct tarn_str bytes = {0};

    e->time_ns = 1;
    TARN_ASSERT(tarn_core_entry_encode(e, &bytes) == 0);
    TARN_ASSERT(tarn_core_apply(b->kv, b->b, ++b->index, (uint8_t *)bytes.p, bytes.len, &r) == 0);
    TARN_ASSERT(r.rc == 0);
    b->more = r.more;
    tarn_core_result_fini(&r);
    tarn_str_fini(&bytes);
    if (tarn_kv_batch_bytes(b->b) >= GROUP_BYTES)
        bench_write(b);
}

static void bench_setup(struct bench *b)
{
    Tarn__Core__Entry e = TARN__CORE__ENTRY__INIT;
    Tarn__Core__Attachment attach;
    Tarn__Core__Init init;

    tarn__core__init__init(&init);
    init.cluster_id = (char *)(uintptr_t) "bench";
    e.init = &init;
    bench_apply(b, &e);
    e.init = NULL;
    tarn__core__attachment__init(&attach);
    attach.id = 1;
    attach.path = (char *)(uintptr_t) "/";
    e.attach = &attach;
    bench_apply(b, &e);
}

/* One run over `names` files of a size; none: all that is known goes. */
static void bench_list(struct bench *b, unsigned names, uint64_t size)
{
    static Tarn__Core__Object o[PAGE], *p[PAGE];
    static Tarn__Core__Version v[PAGE];
    static char text[PAGE][32];
    static uint8_t cid[PAGE][16];
    Tarn__Core__Entry e = TARN__CORE__ENTRY__INIT;
    Tarn__Core__ListBegin begin = TARN__CORE__LIST_BEGIN__INIT;
    Tarn__Core__ListPage m = TARN__CORE__LIST_PAGE__INIT;
    uint64_t asked = b->index;
    char upto[32] = "";
    unsigned at = 0;

    begin.dir = 1;
    begin.asked_index = asked;
    e.list_begin = &begin;
    bench_apply(b, &e);
    e.list_begin = NULL;
    e.list_page = &m;
    m.dir = 1;
    m.asked_index = asked;
    do {
        size_t n = 0;

        for (; at < names && n < PAGE; n++, at++) {
            tarn__core__object__init(&o[n]);
            tarn__core__version__init(&v[n]);
            snprintf(text[n], sizeof(text[n]), "img-%08u.jpeg", at);
            o[n].name = (ProtobufCBinaryData){strlen(text[n]), (uint8_t *)text[n]};
            o[n].type = 1;
            o[n].ufs = &v[n];
            memcpy(cid[n], &at, sizeof(at));
            o[n].cid = (ProtobufCBinaryData){16, cid[n]};
            v[n].size = size + at % 1000;
            v[n].mtime_ns = 1700000000000000000;
            v[n].etag = (char *)(uintptr_t) "d41d8cd98f00b204e9800998ecf8427e";
            p[n] = &o[n];
        }
        m.from_key = (ProtobufCBinaryData){strlen(upto), (uint8_t *)upto};
        m.complete = at == names;
        m.to_key = n ? o[n - 1].name : (ProtobufCBinaryData){0};
        m.n_objects = n;
        m.objects = p;
        bench_apply(b, &e);
        if (b->more) {
            Tarn__Core__DirState *st;

            bench_write(b);
            TARN_ASSERT(tarn_core_dir_state(b->kv, TARN_INO_ROOT, &st) == 0);
            snprintf(upto, sizeof(upto), "%.*s", (int)st->upto_key.len, (char *)st->upto_key.data);
            tarn__core__dir_state__free_unpacked(st, NULL);
        } else if (n) {
            snprintf(upto, sizeof(upto), "%s", text[n - 1]);
        }
    } while (!m.complete || b->more);
    bench_write(b);
}

static int bench_entry(void *arg, tarn_ino_t ino, const Tarn__Core__Inode *inode)
{
    (void)ino;
    (void)inode;
    ++*(uint64_t *)arg;
    return 0;
}

static uint64_t bench_cpu_ns(void)
{
    struct timespec ts;

    TARN_ASSERT(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts) == 0);
    return (uint64_t)ts.tv_sec * TARN_NS_PER_S + (uint64_t)ts.tv_nsec;
}

/* Both by the clock on the wall and by this thread's, which others on the machine disturb less. */
static void bench_report(const char *what, uint64_t names, uint64_t start[2])
{
    uint64_t wall = tarn_now_ns() - start[0], cpu = bench_cpu_ns() - start[1];

    printf("%-12s %10.0f names/s %10.0f per cpu second\n", what, (double)names * 1e9 / (double)wall,
           (double)names * 1e9 / (double)cpu);
    start[0] = tarn_now_ns();
    start[1] = bench_cpu_ns();
}

int main(int argc, char **argv)
{
    unsigned names = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : 1000000;
    char dir[] = "/tmp/tarn-bench-XXXXXX";
    struct tarn_kv_args args = {.path = mkdtemp(dir),
                                .cfs = tarn_core_cf_names,
                                .cf_count = TARN_CF_COUNT,
                                .cache_bytes = 64 << 20,
                                .write_buffer_bytes = 64 << 20};
    TARN_AUTO_FREE char *clean = tarn_xasprintf("rm -rf '%s'", dir);
    struct tarn_errbuf err = {0};
    struct bench b = {0};
    uint64_t start[2], seen = 0;

    TARN_ASSERT(tarn_kv_rocksdb_open(&args, &err, &b.kv) == 0);
    b.b = tarn_kv_batch_new(b.kv);
    bench_setup(&b);
    start[0] = tarn_now_ns();
    start[1] = bench_cpu_ns();
    bench_list(&b, names, 110000);
    bench_report("first", names, start);
    bench_list(&b, names, 110000);
    bench_report("again", names, start);
    bench_list(&b, names, 120000);
    bench_report("changed", names, start);
    TARN_ASSERT(tarn_core_readdir(b.kv, TARN_INO_ROOT, 0, bench_entry, &seen) == 0 &&
                seen == names);
    bench_report("readdir", names, start);
    bench_list(&b, 0, 0);
    bench_report("remove", names, start);
    tarn_kv_batch_free(&b.b);
    tarn_kv_close(&b.kv);
    return system(clean);
}
