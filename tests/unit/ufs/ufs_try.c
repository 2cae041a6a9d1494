/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Asks a store by hand or from a script:
 *
 *   ufs_try URI OPTS check | stat KEY | ls DIR [PAGE [restart]] | cat KEY [OFF LEN] | bench KEY
 * UNIT COUNT PARALLEL
 *
 * OPTS is "K=V,K=V" or "". Exits with the error's class; prints the error's text.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"
#include "lib/base/mem.h"
#include "tests/unit/ufs/fixture.h"

static uint64_t arg_number(int argc, char **argv, int i, uint64_t def)
{
    return i < argc ? strtoull(argv[i], NULL, 10) : def;
}

static int try_stat(struct fx *f, const char *key)
{
    static const char *const types[] = {"?", "file", "dir", "symlink"};
    int rc = fx_stat(f, key);

    if (rc == 0)
        printf("%s size=%" PRIu64 " mtime_ns=%" PRId64 " ctime_ns=%" PRId64 " etag=%s target=%s\n",
               types[f->attr.type], f->attr.version.size_bytes, f->attr.version.mtime_ns,
               f->attr.version.ctime_ns, f->attr.version.etag, f->target ? f->target : "");
    return rc;
}

static int try_ls(struct fx *f, int argc, char **argv)
{
    struct fx_listing l = {.restart = argc > 6};
    uint64_t t0 = tarn_now_ns();
    int rc = fx_list(f, argv[4], (unsigned)arg_number(argc, argv, 5, 1000), &l);

    fputs(tarn_str_z(&l.out), stdout);
    fprintf(stderr, "%zu entries, %zu pages, %" PRIu64 " skipped, %.3f s\n%s", l.entries, l.pages,
            l.skipped, (double)(tarn_now_ns() - t0) / 1e9, tarn_str_z(&l.skipped_names));
    fx_listing_fini(&l);
    return rc;
}

static int try_cat(struct fx *f, int argc, char **argv)
{
    int rc = fx_stat(f, argv[4]);
    struct tarn_ufs_version v = f->attr.version;
    uint64_t off, len;
    uint8_t *buf;
    size_t n;

    if (rc < 0)
        return rc;
    off = arg_number(argc, argv, 5, 0);
    len = arg_number(argc, argv, 6, v.size_bytes - off);
    buf = malloc(len + 1);
    TARN_ASSERT(buf != NULL);
    rc = fx_get(f, argv[4], &v, off, len, buf, &n);
    if (rc == 0)
        (void)fwrite(buf, 1, n, stdout); /* a short write shows */
    fprintf(stderr, "verified=%u adopted=%d\n", (unsigned)f->verified, f->adopted);
    free(buf);
    return rc;
}

struct bench {
    struct fx *f;               /* store */
    const char *key;            /* object */
    struct tarn_ufs_version v;  /* of it */
    uint64_t unit, left, bytes; /* length of a get; gets to start; received */
    unsigned running;           /* gets */
    int rc;                     /* first error */
};

static int bench_data(struct tarn_ufs_get *g, const uint8_t *p, size_t n)
{
    struct bench *b = g->arg;

    (void)p;
    b->bytes += n;
    return 0;
}

static void bench_next(struct bench *b, struct tarn_ufs_get *g)
{
    uint64_t units = b->v.size_bytes / b->unit;

    b->left--;
    g->off_bytes = (b->left % units) * b->unit;
    g->len_bytes = b->unit;
    tarn_ufs_get(b->f->ufs, g, b->key, &b->v);
}

static void bench_cb(struct tarn_ufs_get *g, int rc)
{
    struct bench *b = g->arg;

    if (rc < 0 && b->rc == 0) {
        b->rc = rc;
        b->f->err = g->req.err;
    }
    if (b->left && b->rc == 0)
        bench_next(b, g);
    else if (--b->running == 0)
        tarn_loop_stop(b->f->loop);
}

static int try_bench(struct fx *f, int argc, char **argv)
{
    struct bench b = {.f = f, .key = argv[4]};
    struct tarn_ufs_get *gets;
    uint64_t t0;
    double s;

    b.rc = fx_stat(f, argv[4]);
    if (b.rc < 0)
        return b.rc;
    b.v = f->attr.version;
    b.unit = arg_number(argc, argv, 5, 4u << 20);
    b.left = arg_number(argc, argv, 6, 100);
    b.running = (unsigned)TARN_MIN(arg_number(argc, argv, 7, 8), b.left);
    TARN_ASSERT(b.unit && b.unit <= b.v.size_bytes && b.running);
    gets = tarn_xcalloc(b.running, sizeof(*gets));
    t0 = tarn_now_ns();
    for (unsigned i = 0; i < b.running; i++) {
        gets[i] = (struct tarn_ufs_get){.on_data = bench_data, .cb = bench_cb, .arg = &b};
        bench_next(&b, &gets[i]);
    }
    tarn_loop_run(f->loop);
    s = (double)(tarn_now_ns() - t0) / 1e9;
    printf("%.1f MiB in %.3f s: %.1f MiB/s\n", (double)b.bytes / 1048576, s,
           (double)b.bytes / 1048576 / s);
    free(gets);
    return b.rc;
}

static int try_command(struct fx *f, int argc, char **argv)
{
    if (strcmp(argv[3], "check") == 0)
        return fx_check(f);
    if (argc > 4 && strcmp(argv[3], "stat") == 0)
        return try_stat(f, argv[4]);
    if (argc > 4 && strcmp(argv[3], "ls") == 0)
        return try_ls(f, argc, argv);
    if (argc > 4 && strcmp(argv[3], "cat") == 0)
        return try_cat(f, argc, argv);
    if (argc > 4 && strcmp(argv[3], "bench") == 0)
        return try_bench(f, argc, argv);
    return -TARN_E_USAGE;
}

int main(int argc, char **argv)
{
    struct fx f;
    int rc;

    if (argc < 4) {
        fprintf(stderr, "usage: ufs_try URI OPTS check|stat|ls|cat|bench ...\n");
        return 2;
    }
    rc = fx_open(&f, argv[1], argv[2]);
    if (rc == 0)
        rc = try_command(&f, argc, argv);
    if (rc < 0)
        fprintf(stderr, "%s: %s\n", tarn_err_name(rc), tarn_err_text(&f.err, rc));
    if (f.ufs)
        fx_close(&f);
    return (int)tarn_err_exit(rc);
}
