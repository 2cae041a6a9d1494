/* SPDX-License-Identifier: Apache-2.0 */
/* The master's part of a server: the store of names, and the master upon it. */
#include "tools/roles.h"

#include "lib/base/env.h"
#include "lib/base/mem.h"
#include "store/kv/kv.h"

#define META_CACHE_BYTES (32ull << 20)

int role_master_open(struct serve *s, struct role_master *m, const char *dir,
                     uint64_t write_buffer_bytes, const struct tarn_master_args *args)
{
    TARN_AUTO_FREE char *path = tarn_xasprintf("%s/meta", dir);
    extern const char *const tarn_core_cf_names[];
    struct tarn_kv_args kv = {.path = path,
                              .cfs = tarn_core_cf_names,
                              .cf_count = 3,
                              .cache_bytes = META_CACHE_BYTES,
                              .write_buffer_bytes = write_buffer_bytes};
    struct tarn_master_args own = *args;
    int rc = tarn_kv_rocksdb_open(&kv, s->err, &m->kv);

    if (rc < 0)
        return rc;
    own.loop = s->loop;
    own.clock = tarn_clock_system();
    own.rng = tarn_rng_system();
    own.kv = m->kv;
    return tarn_master_new(&own, s->err, &m->master);
}

void role_master_gone(void *role_master, struct tarn_rpc_session *session)
{
    struct role_master *m = role_master;

    if (m->master)
        tarn_master_session_gone(m->master, session);
}

void role_master_stop(struct serve *s, struct role_master *m)
{
    struct serve_step st = {.serve = s};

    if (!m->master)
        return;
    tarn_master_stop(m->master, serve_done, &st);
    (void)serve_wait(&st);
}

void role_master_close(struct role_master *m)
{
    tarn_master_free(&m->master);
    tarn_kv_close(&m->kv);
}
