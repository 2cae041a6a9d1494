/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/worker/worker_rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/hash.h"
#include "tests/unit/ufs/fixture.h"
#include "ufs/ufs_opts.h"

static struct tarn_ufs *rig_ufs_of(void *ctx, uint32_t attachment, const char **ret_isolation)
{
    struct rig *r = ctx;

    *ret_isolation = "";
    return attachment >= 1 && attachment <= RIG_STORES ? r->store[attachment - 1] : NULL;
}

static void rig_start(struct rig *r)
{
    struct tarn_errbuf err = {0};

    if (r->args.quota) {
        char *path = tarn_xasprintf("%s/tier", r->dir);
        struct tarn_tier_args t = {.loop = r->loop,
                                   .disk = r->disk,
                                   .clock = tarn_clock_system(),
                                   .path = path,
                                   .owner_id = RIG_TEXT,
                                   .medium = TARN_MEDIUM_SSD,
                                   .quota_bytes = r->args.quota,
                                   .high_bp = 9500,
                                   .low_bp = 9000,
                                   .fds_max = 64};
        assert_int_equal(tarn_tier_open(&t, &err, &r->tier), 0);
        free(path);
    }
    struct tarn_worker_args w = {.loop = r->loop,
                                 .disk = r->disk,
                                 .clock = tarn_clock_system(),
                                 .tier = r->tier,
                                 .id = r->args.unnamed ? 0
                                       : r->args.id    ? r->args.id
                                                       : 1,
                                 .cluster_id = RIG_TEXT,
                                 .cap_key = r->cap_key,
                                 .fetch_bytes_max = r->args.fetch_max,
                                 .ctx = r,
                                 .ufs_of = rig_ufs_of};
    assert_int_equal(tarn_worker_new(&w, &r->worker), 0);
    tarn_worker_local_ops(r->worker, &r->ops);
}

void rig_init(struct rig *r, const struct rig_args *args)
{
    char *path;

    *r = (struct rig){.args = *args, .dir = fx_tmp()};
    r->loop = args->loop;
    r->disk = args->disk;
    if (!args->loop) {
        assert_int_equal(tarn_loop_new(&r->loop), 0);
        assert_int_equal(tarn_disk_pool_new(4, &r->disk), 0);
    }
    turns_guard(r->loop, &r->watchdog, 40 * TARN_NS_PER_S);
    memset(r->cap_key, 7, sizeof(r->cap_key));
    path = tarn_xasprintf("%s/store", r->dir);
    assert_int_equal(mkdir(path, 0700), 0);
    free(path);
    rig_start(r);
}

static void rig_stopped(void *arg)
{
    struct rig *r = arg;

    r->stopped++;
}

static void rig_stop(struct rig *r)
{
    if (!r->worker->stopping)
        tarn_worker_stop(r->worker, rig_stopped, r);
    rig_until(r, &r->stopped, 1);
    rig_run_for(r, 2 * TARN_NS_PER_MS);
    assert_int_equal(r->stopped, 1);
    assert_int_equal(r->worker->fetch_bytes, 0);
    assert_int_equal(r->worker->units.count, 0);
    tarn_worker_free(&r->worker);
    if (r->tier)
        tarn_tier_close(&r->tier);
    rig_run_for(r, 2 * TARN_NS_PER_MS);
    r->stopped = 0;
}

void rig_restart(struct rig *r)
{
    rig_stop(r);
    rig_start(r);
}

void rig_fini(struct rig *r)
{
    rig_stop(r);
    for (unsigned i = 0; i < RIG_STORES; i++)
        if (r->store[i])
            rig_close_store(r, i);
    rig_run_for(r, 2 * TARN_NS_PER_MS);
    tarn_timer_stop(&r->watchdog);
    if (!r->args.loop) {
        tarn_disk_free(&r->disk);
        tarn_loop_free(&r->loop);
    }
    fx_tmp_fini(r->dir);
}

void rig_open_uri(struct rig *r, unsigned slot, const char *uri, const char *opts)
{
    struct tarn_ufs_opts o;
    struct tarn_conf *conf;
    struct tarn_errbuf err = {0};
    struct tarn_ufs_args args = {.loop = r->loop, .uri = uri, .opts = &o};

    assert_int_equal(tarn_ufs_opts_parse(&opts, *opts ? 1 : 0, true, &o, &conf, &err), 0);
    assert_int_equal(tarn_ufs_open(&args, &err, &r->store[slot]), 0);
    tarn_conf_free(&conf);
}

void rig_open_dir(struct rig *r, unsigned slot)
{
    char *uri = tarn_xasprintf("file://%s/store", r->dir);

    rig_open_uri(r, slot, uri, "");
    free(uri);
}

void rig_open_s3(struct rig *r, unsigned slot, struct srv *s, const char *opts)
{
    char *all = tarn_xasprintf("endpoint=http://127.0.0.1:%u,access-key=ak,secret-key=sk%s",
                               srv_port(s), opts);

    rig_open_uri(r, slot, "s3://bkt", all);
    free(all);
}

static void rig_count(void *arg)
{
    ++*(unsigned *)arg;
}

void rig_close_store(struct rig *r, unsigned slot)
{
    unsigned closed = 0;
    struct tarn_ufs *gone = r->store[slot];

    r->store[slot] = NULL;
    tarn_ufs_close(&gone, rig_count, &closed);
    rig_until(r, &closed, 1);
}

void rig_run_for(struct rig *r, uint64_t ns)
{
    turns_for(r->loop, ns);
}

void rig_until(struct rig *r, const unsigned *flag, unsigned n)
{
    turns_until(r->loop, flag, n);
}

void rig_stored(struct rig *r)
{
    while (r->worker->units.count > 0)
        rig_run_for(r, TARN_NS_PER_MS);
}

void rig_put(struct rig *r, const char *name, unsigned seed, uint64_t size)
{
    uint8_t *bytes = tarn_xcalloc(1, size ? size : 1);
    char *dir = tarn_xasprintf("%s/store", r->dir);

    pattern_fill(seed, 0, bytes, size);
    fx_write(dir, name, bytes, size);
    free(dir);
    free(bytes);
}

void rig_obj(struct rig *r, struct obj *o, unsigned slot, const char *key, unsigned seed,
             const struct tarn_ufs_version *v)
{
    *o = (struct obj){.seed = seed};
    (void)snprintf(o->key, sizeof(o->key), "%s", key);
    (void)snprintf(o->etag, sizeof(o->etag), "%s", v->etag);
    o->cid = tarn_ufs_cid_of(r->store[slot], "", key, v);
    tarn__wire__ufs_version__init(&o->version);
    o->version.size = v->size_bytes;
    o->version.mtime_ns = v->mtime_ns;
    o->version.ctime_ns = v->ctime_ns;
    o->version.file_id = v->file_id;
    o->version.etag = o->etag;
    tarn__wire__locator__init(&o->msg);
    o->msg.ino = 77;
    o->msg.version = 1;
    o->msg.attachment = slot + 1;
    o->msg.cid = (ProtobufCBinaryData){sizeof(o->cid.b), o->cid.b};
    o->msg.key = (ProtobufCBinaryData){strlen(o->key), (uint8_t *)o->key};
    o->msg.ufs = &o->version;
}

struct find {
    struct tarn_ufs_stat stat;
    unsigned done;
    int rc;
};

static void find_done(struct tarn_ufs_stat *s, int rc)
{
    struct find *f = s->arg;

    f->rc = rc;
    f->done++;
}

void rig_find(struct rig *r, struct obj *o, unsigned slot, const char *key, unsigned seed)
{
    struct find f = {.stat = {.file_only = true, .cb = find_done, .arg = &f}};

    tarn_ufs_stat(r->store[slot], &f.stat, key);
    rig_until(r, &f.done, 1);
    assert_int_equal(f.rc, 0);
    rig_obj(r, o, slot, key, seed, &f.stat.attr.version);
}

/* ---- reads ---------------------------------------------------------------------------------- */

static void op_done(struct tarn_local_read *lr, int rc)
{
    struct op *op = lr->arg;
    uint64_t at = lr->off_bytes;

    op->done++;
    op->rc = rc;
    op->end_ns = tarn_loop_now_ns(op->rig->loop);
    for (unsigned i = 0; i < lr->slice_count; i++) {
        struct tarn_slice *s = &lr->slices[i];

        op->wrong |= !pattern_same(op->obj->seed, at, s->buf->p + s->off, s->len);
        at += s->len;
        tarn_buf_unref(&s->buf);
    }
    op->got = at - lr->off_bytes;
    op->rig->ops.close(op->rig->ops.ctx, op->file);
}

void op_start(struct op *op, struct rig *r, struct obj *o, uint64_t off, uint32_t len,
              uint32_t ahead)
{
    *op = (struct op){.rig = r, .obj = o};
    op->file = r->ops.open(r->ops.ctx, &o->cid, o->version.size);
    op->read = (struct tarn_local_read){.file = op->file,
                                        .locator = &o->msg,
                                        .off_bytes = off,
                                        .len_bytes = len,
                                        .ahead_units = ahead,
                                        .cb = op_done,
                                        .arg = op};
    r->ops.read(r->ops.ctx, &op->read);
    assert_int_equal(op->done, 0); /* never inside */
}

int rig_read(struct rig *r, struct obj *o, uint64_t off, uint32_t len)
{
    struct op op;

    op_start(&op, r, o, off, len, 0);
    rig_until(r, &op.done, 1);
    assert_false(op.wrong);
    if (op.rc == 0)
        assert_int_equal(op.got, len);
    return op.rc;
}

void rig_read_all(struct rig *r, struct obj *o, uint32_t len)
{
    for (uint64_t off = 0; off < o->version.size; off += len)
        assert_int_equal(
            rig_read(r, o, off, (uint32_t)TARN_MIN((uint64_t)len, o->version.size - off)), 0);
}
