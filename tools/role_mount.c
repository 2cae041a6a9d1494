/* SPDX-License-Identifier: Apache-2.0 */
/* The mount's part of a server: the client of a cluster, and the file system upon it. */
#include "tools/roles.h"

#include <unistd.h>

#include "lib/base/env.h"
#include "lib/client/client.h"
#include "tools/mount_record.h"
#include "worker/stores.h"

#define FUSE_TIMEOUT_NS (30 * TARN_NS_PER_S)

static void mount_invalidate(void *ctx, const Tarn__Wire__Invalidate *inv)
{
    struct role_mount *m = ctx;

    if (m->fuse)
        tarn_fuse_invalidate(m->fuse, inv);
}

static bool mount_direct_ok(void *ctx, uint32_t attachment)
{
    struct role_mount *m = ctx;
    const char *isolation;

    return m->stores && tarn_stores_of(m->stores, attachment, &isolation) != NULL;
}

static void mount_attachments(void *ctx, const Tarn__Wire__AttachmentList *list)
{
    struct role_mount *m = ctx;

    if (m->stores)
        tarn_stores_apply(m->stores, list);
}

static void mount_ended(void *ctx, int rc)
{
    struct role_mount *m = ctx;

    (void)rc; /* the mount is gone either way */
    atomic_store(&m->serve->ended, true);
    serve_want_stop(m->serve);
}

static void mount_statfs(void *ctx, struct tarn_fuse_space *ret)
{
    struct role_mount *m = ctx;

    if (m->space)
        m->space(m->owner, ret);
}

int role_mount_connect(struct serve *s, struct role_mount *m, struct tarn_client_args *args,
                       uint64_t timeout_ns)
{
    struct serve_step st = {.serve = s};
    int rc;

    m->serve = s;
    args->loop = s->loop;
    args->rng = tarn_rng_system();
    args->kind = "mount";
    args->ctx = m;
    args->direct_ok = mount_direct_ok;
    args->on_attachments = mount_attachments;
    args->on_invalidate = mount_invalidate;
    rc = tarn_client_new(args, &m->client);
    if (rc < 0)
        return rc;
    tarn_client_connect(m->client, timeout_ns, serve_done_rc, &st);
    return serve_wait(&st);
}

int role_mount_open(struct role_mount *m, struct tarn_fuse_args *args)
{
    const struct cli_fuse *p = &m->serve->cli->fuse;
    int rc;

    args->client = m->client;
    args->loop = m->serve->loop;
    args->allow_other |= p->allow_other;
    args->threads = (unsigned)p->fuse_threads;
    args->timeout_ns = FUSE_TIMEOUT_NS;
    args->passthrough = p->passthrough;
    args->ctx = m;
    args->on_end = mount_ended;
    args->statfs = mount_statfs;
    rc = tarn_fuse_start(args, m->serve->err, &m->fuse);
    if (rc == 0)
        mount_record_write(args->mountpoint, &m->record);
    return rc;
}

void role_mount_stop(struct role_mount *m)
{
    struct serve_step end = {.serve = m->serve}, bye = {.serve = m->serve};

    if (m->fuse) {
        tarn_fuse_stop(m->fuse, serve_done, &end);
        (void)serve_wait(&end);
        tarn_fuse_free(&m->fuse);
    }
    if (m->client) {
        tarn_client_stop(m->client, serve_done, &bye);
        (void)serve_wait(&bye);
        tarn_client_free(&m->client);
    }
    if (m->record.len)
        (void)unlink(tarn_str_z(&m->record)); /* a stale one is ignored */
    tarn_str_fini(&m->record);
}
