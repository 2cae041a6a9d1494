/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The short circuit for a client in the same process: lib/client's vtable of local reads. What is
 * cached and verified is read on the client's thread, the rest on the worker's loop (read.c).
 */
#include <stdlib.h>

#include "lib/base/assert.h"
#include "lib/base/mem.h"
#include "worker/worker_priv.h"

#define LOCAL_FILE_MAGIC 0x574c4f43u /* "WLOC" */

/* What a client's handle holds: the tier's file and, after the first read that needed one, the
 * locator. */
struct local_file {
    uint32_t magic;
    struct tarn_worker *worker;
    struct tarn_tier_file *file;
};

struct local_read {
    struct wread read;
    struct wloc *loc;
    struct tarn_local_read *user;
    struct tarn_task task; /* an error found at once */
    int rc;
};

static void *local_open(void *ctx, const tarn_cid_t *cid, uint64_t length)
{
    struct tarn_worker *w = ctx;
    struct local_file *lf = tarn_xnew(struct local_file);

    lf->magic = LOCAL_FILE_MAGIC;
    lf->worker = w;
    if (w->args.tier)
        lf->file = tarn_tier_file_get(w->args.tier, cid, length);
    return lf;
}

static void local_close(void *ctx, void *file)
{
    struct local_file *lf;

    (void)ctx; /* in the file */
    TARN_CAST(lf, file, LOCAL_FILE_MAGIC);
    if (lf->file)
        tarn_tier_file_put(&lf->file);
    lf->magic = 0;
    free(lf);
}

static int64_t local_try_read(void *ctx, void *file, uint64_t off, uint32_t len, void *dst)
{
    struct local_file *lf;

    (void)ctx; /* in the file */
    TARN_CAST(lf, file, LOCAL_FILE_MAGIC);
    return lf->file ? tarn_tier_try_read(lf->file, off, len, dst) : -TARN_E_NOT_CACHED;
}

static uint64_t local_cached(void *ctx, void *file)
{
    struct local_file *lf;

    (void)ctx; /* in the file */
    TARN_CAST(lf, file, LOCAL_FILE_MAGIC);
    return lf->file ? tarn_tier_file_cached(lf->file) : 0;
}

static int local_lend(void *ctx, void *file, void **ret_loan)
{
    struct local_file *lf;
    struct tarn_tier_loan *loan;
    int fd;

    (void)ctx; /* in the file */
    TARN_CAST(lf, file, LOCAL_FILE_MAGIC);
    fd = lf->file ? tarn_tier_lend(lf->file, &loan) : -TARN_E_NOT_CACHED;
    if (fd >= 0)
        *ret_loan = loan;
    return fd;
}

static bool local_loan_bad(void *ctx, void *file, void *loan)
{
    (void)ctx;
    (void)file; /* both in the loan */
    return tarn_tier_loan_bad(loan);
}

static void local_give_back(void *ctx, void *file, void *loan)
{
    struct local_file *lf;
    struct tarn_tier_loan *l = loan;

    (void)ctx; /* in the file */
    TARN_CAST(lf, file, LOCAL_FILE_MAGIC);
    tarn_tier_give_back(lf->file, &l);
}

static void local_read_done(struct wread *r, int rc)
{
    struct local_read *lr = r->arg;
    struct tarn_local_read *user = lr->user;
    struct tarn_worker *w = r->worker;

    user->slice_count = 0;
    user->source = 0;
    for (unsigned i = 0; rc == 0 && i < r->part_count; i++) {
        struct wpart *p = &r->parts[i];

        user->slices[user->slice_count++] = (struct tarn_slice){
            .buf = tarn_buf_ref(p->buf), .off = p->buf_off, .len = p->len_bytes};
        user->source = TARN_MAX(user->source, (uint32_t)p->source);
        user->tag = p->tag; /* of one file: the same for all */
        worker_count_source(w, p);
    }
    wread_fini(r);
    wloc_unref(w, &lr->loc);
    free(lr);
    user->state = NULL;
    user->cb(user, rc);
}

static void local_read_failed(struct tarn_task *t)
{
    struct local_read *lr = TARN_CONTAINER(t, struct local_read, task);
    struct tarn_local_read *user = lr->user;
    int rc = lr->rc;

    free(lr);
    user->state = NULL;
    user->slice_count = 0;
    user->cb(user, rc);
}

static void local_read(void *ctx, struct tarn_local_read *user)
{
    struct tarn_worker *w = ctx;
    struct local_read *lr = tarn_xnew(struct local_read);

    TARN_ASSERT(user->len_bytes > 0 && user->len_bytes <= TARN_READ_MAX);
    lr->user = user;
    user->state = lr;
    lr->rc = w->stopping ? -TARN_E_SHUTDOWN : wloc_new(w, user->locator, &lr->loc);
    if (lr->rc == 0 && user->off_bytes + user->len_bytes > lr->loc->ufs.size_bytes) {
        wloc_unref(w, &lr->loc);
        lr->rc = -TARN_E_INVALID;
    }
    if (lr->rc < 0) {
        tarn_loop_post(w->args.loop, &lr->task, local_read_failed);
        return;
    }
    lr->read.loc = lr->loc;
    lr->read.off_bytes = user->off_bytes;
    lr->read.len_bytes = user->len_bytes;
    lr->read.ahead_units = user->ahead_units;
    lr->read.cls = TARN_UFS_FOREGROUND;
    lr->read.cb = local_read_done;
    lr->read.arg = lr;
    wread_start(w, &lr->read);
}

static void local_cancel(void *ctx, struct tarn_local_read *user)
{
    struct local_read *lr = user->state;

    (void)ctx; /* in the read */
    if (lr && lr->loc)
        wread_cancel(&lr->read);
}

void tarn_worker_local_ops(struct tarn_worker *w, struct tarn_local_ops *ret)
{
    *ret = (struct tarn_local_ops){.ctx = w,
                                   .open = local_open,
                                   .close = local_close,
                                   .try_read = local_try_read,
                                   .cached = local_cached,
                                   .lend = local_lend,
                                   .loan_bad = local_loan_bad,
                                   .give_back = local_give_back,
                                   .read = local_read,
                                   .cancel = local_cancel};
}
