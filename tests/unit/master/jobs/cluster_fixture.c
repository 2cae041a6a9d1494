/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/master/jobs/cluster_fixture.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/turns.h"
#include "tests/unit/ufs/fixture.h"

static const uint8_t cfx_key[32] = "a key of thirty-two bytes, no le";

/* ---- turning the loop
 * --------------------------------------------------------------------------- */

static void cfx_done(void *arg)
{
    struct cfx *fx = arg;

    fx->done++;
}

static void cfx_wait_done(struct cfx *fx)
{
    turns_until(fx->loop, &fx->done, 1);
    fx->done = 0;
}

void cfx_run_ms(struct cfx *fx, unsigned ms)
{
    turns_for(fx->loop, ms * TARN_NS_PER_MS);
}

void cfx_until(struct cfx *fx, bool (*cond)(struct cfx *fx, void *arg), void *arg)
{
    for (unsigned i = 0; !cond(fx, arg); i++) {
        assert_true(i < 3000);
        cfx_run_ms(fx, 10);
    }
}

/* ---- workers
 * ------------------------------------------------------------------------------------ */

static struct tarn_ufs *cfx_ufs_of(void *ctx, uint32_t attachment, const char **ret_isolation)
{
    struct cfx_worker *w = ctx;

    (void)attachment; /* there is one */
    *ret_isolation = "";
    return w->ufs;
}

static void worker_new(struct cfx *fx, unsigned i)
{
    struct cfx_worker *w = &fx->workers[i];
    struct tarn_errbuf err = {0};
    char *path = tarn_xasprintf("%s/tier%u", fx->dir, i);
    struct tarn_tier_args t = {.loop = fx->loop,
                               .disk = fx->disk,
                               .clock = tarn_clock_system(),
                               .path = path,
                               .owner_id = tarn_master_cluster_id(fx->master),
                               .medium = TARN_MEDIUM_SSD,
                               .quota_bytes = w->quota,
                               .high_bp = 9500,
                               .low_bp = 9000,
                               .fds_max = 64};
    struct tarn_ufs_args u = {.loop = fx->loop, .uri = fx->uri, .opts = &fx->opts};
    struct tarn_worker_args args = {.loop = fx->loop,
                                    .disk = fx->disk,
                                    .clock = tarn_clock_system(),
                                    .id = w->id,
                                    .cluster_id = tarn_master_cluster_id(fx->master),
                                    .cap_key = cfx_key,
                                    .ctx = w,
                                    .ufs_of = cfx_ufs_of};

    assert_int_equal(tarn_tier_open(&t, &err, &w->tier), 0);
    assert_int_equal(tarn_ufs_open(&u, &err, &w->ufs), 0);
    args.tier = w->tier;
    assert_int_equal(tarn_worker_new(&args, &w->worker), 0);
    free(path);
}

static void fill_given_up(struct tarn_rpc_call *call)
{
    struct cfx_worker *w = call->state;

    w->held--;
    tarn_rpc_reply(call, -TARN_E_CANCELLED, NULL, NULL, 0, 0);
}

static void fill_hangs(void *ctx, struct tarn_rpc_call *call)
{
    struct cfx_worker *w = ctx;

    w->held++;
    call->state = w;
    call->on_cancel = fill_given_up;
}

void cfx_back(struct cfx *fx, unsigned worker)
{
    struct cfx_worker *w = &fx->workers[worker];
    struct tarn_rpc_server_args args = {.loop = fx->loop,
                                        .rng = tarn_rng_system(),
                                        .cluster_id = tarn_master_cluster_id(fx->master)};
    const char *addr = NULL;

    assert_null(w->server);
    assert_int_equal(tarn_rpc_server_new(&args, &w->server), 0);
    tarn_worker_serve(w->worker, w->server);
    if (w->hangs)
        tarn_rpc_server_handle(w->server, TARN_RPC_fill, fill_hangs, w);
    assert_int_equal(tarn_rpc_server_listen(w->server, w->addr[0] ? w->addr : "127.0.0.1:0", &addr),
                     0);
    (void)snprintf(w->addr, sizeof(w->addr), "%s", addr);
}

void cfx_cut(struct cfx *fx, unsigned worker)
{
    struct cfx_worker *w = &fx->workers[worker];

    tarn_rpc_server_stop(w->server, cfx_done, fx);
    cfx_wait_done(fx);
    tarn_rpc_server_free(&w->server);
}

static void worker_free(struct cfx *fx, struct cfx_worker *w)
{
    tarn_worker_stop(w->worker, cfx_done, fx);
    cfx_wait_done(fx);
    tarn_worker_free(&w->worker);
    tarn_tier_close(&w->tier);
    tarn_ufs_close(&w->ufs, cfx_done, fx);
    cfx_wait_done(fx);
}

void cfx_publish(struct cfx *fx)
{
    Tarn__Wire__Topology t = TARN__WIRE__TOPOLOGY__INIT;
    Tarn__Wire__WorkerInfo rows[CFX_WORKERS], *ptrs[CFX_WORKERS];
    struct tarn_place *place = NULL;

    for (unsigned i = 0; i < CFX_WORKERS; i++) {
        struct cfx_worker *w = &fx->workers[i];

        if (!w->member)
            continue;
        tarn__wire__worker_info__init(&rows[t.n_workers]);
        ptrs[t.n_workers] = &rows[t.n_workers];
        rows[t.n_workers].id = w->id;
        rows[t.n_workers].addr = w->addr;
        rows[t.n_workers].host = tarn_wire_text(w->addr); /* each its own */
        rows[t.n_workers].weight = 1;
        rows[t.n_workers].state = w->lost     ? TARN_WORKER_LOST
                                  : w->drains ? TARN_WORKER_DRAINING
                                              : TARN_WORKER_LIVE;
        rows[t.n_workers].alive = w->alive;
        t.n_workers++;
    }
    t.version = ++fx->version;
    t.workers = ptrs;
    assert_int_equal(tarn_place_new(&t, &place), 0);
    tarn_peers_set_place(fx->master->peers, place);
    tarn_place_unref(&place);
}

/* ---- the master
 * --------------------------------------------------------------------------------- */

static void cfx_attached(void *arg, int rc, const struct tarn_errbuf *err)
{
    struct cfx *fx = arg;

    if (rc < 0)
        (void)fprintf(stderr, "attach: %s\n", tarn_err_text(err, rc));
    fx->rc = rc;
    fx->done++;
}

void cfx_start_master(struct cfx *fx)
{
    struct tarn_master_args args = {.loop = fx->loop,
                                    .clock = tarn_clock_system(),
                                    .rng = tarn_rng_system(),
                                    .cap_key = cfx_key,
                                    .cluster = true};
    struct tarn_master_attach at = {.path = "/",
                                    .uri = fx->uri,
                                    .opts = &fx->opts,
                                    .ttl_ns = TARN_TTL_FOREVER,
                                    .check = true,
                                    .check_timeout_ns = 8 * TARN_NS_PER_S};
    struct tarn_rpc_server_args server = {.loop = fx->loop, .rng = tarn_rng_system()};
    struct tarn_rpc_client_args client = {.loop = fx->loop, .rng = tarn_rng_system()};
    struct tarn_errbuf err = {0};
    struct tarn_conn *end;

    fx->kv = tarn_kv_mem_open(&fx->kv_disk, TARN_CF_COUNT);
    args.kv = fx->kv;
    assert_int_equal(tarn_master_new(&args, &err, &fx->master), 0);
    tarn_master_attach(fx->master, &at, cfx_attached, fx);
    cfx_wait_done(fx);
    assert_int_equal(fx->rc, 0);
    server.cluster_id = tarn_master_cluster_id(fx->master);
    assert_int_equal(tarn_rpc_server_new(&server, &fx->server), 0);
    tarn_master_serve(fx->master, fx->server);
    assert_int_equal(tarn_conn_pair(fx->loop, &client.conn, &end), 0);
    tarn_rpc_server_serve(fx->server, end, true);
    assert_int_equal(tarn_rpc_client_new(&client, &fx->client), 0);
    if (fx->version)
        cfx_publish(fx);
}

void cfx_stop_master(struct cfx *fx)
{
    struct tarn_errbuf err = {0};

    tarn_master_stop(fx->master, cfx_done, fx);
    cfx_wait_done(fx);
    tarn_rpc_client_stop(fx->client, cfx_done, fx);
    cfx_wait_done(fx);
    tarn_rpc_server_stop(fx->server, cfx_done, fx);
    cfx_wait_done(fx);
    tarn_rpc_client_free(&fx->client);
    tarn_rpc_server_free(&fx->server);
    tarn_master_free(&fx->master);
    if (tarn_core_check(fx->kv, &err) != 0)
        fail_msg("%s", err.text);
    tarn_kv_close(&fx->kv);
}

struct cfx *cfx_new(uint64_t quota)
{
    struct cfx *fx = tarn_xnew(struct cfx);
    struct tarn_errbuf err = {0};
    char *store;

    fx->dir = fx_tmp();
    store = tarn_xasprintf("%s/store", fx->dir);
    assert_int_equal(mkdir(store, 0700), 0);
    fx->uri = tarn_xasprintf("file://%s", store);
    free(store);
    assert_int_equal(tarn_loop_new(&fx->loop), 0);
    assert_int_equal(tarn_disk_pool_new(2, &fx->disk), 0);
    turns_guard(fx->loop, &fx->watchdog, 120 * TARN_NS_PER_S);
    assert_int_equal(tarn_ufs_opts_parse(NULL, 0, true, &fx->opts, &fx->conf, &err), 0);
    cfx_start_master(fx);
    for (unsigned i = 0; i < CFX_WORKERS; i++) {
        struct cfx_worker *w = &fx->workers[i];

        *w = (struct cfx_worker){
            .fx = fx, .id = 101 + i, .quota = quota, .member = true, .alive = true};
        worker_new(fx, i);
        cfx_back(fx, i);
    }
    cfx_publish(fx);
    return fx;
}

void cfx_free(struct cfx **pfx)
{
    struct cfx *fx = *pfx;

    cfx_stop_master(fx);
    for (unsigned i = 0; i < CFX_WORKERS; i++) {
        if (fx->workers[i].server)
            cfx_cut(fx, i);
        worker_free(fx, &fx->workers[i]);
    }
    cfx_run_ms(fx, 2);
    tarn_timer_stop(&fx->watchdog);
    tarn_disk_free(&fx->disk);
    tarn_loop_free(&fx->loop);
    tarn_kv_mem_disk_fini(&fx->kv_disk);
    tarn_conf_free(&fx->conf);
    fx_tmp_fini(fx->dir);
    free(fx->uri);
    free(fx);
    *pfx = NULL;
}

void cfx_put(struct cfx *fx, const char *path, size_t size)
{
    char *full = tarn_xasprintf("%s/store%s", fx->dir, path);
    int fd;

    for (char *at = strchr(full + strlen(fx->dir) + 7, '/'); at; at = strchr(at + 1, '/')) {
        *at = 0;
        (void)mkdir(full, 0755); /* may be there */
        *at = '/';
    }
    fd = open(full, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)size), 0);
    assert_int_equal(close(fd), 0);
    free(full);
}

/* ---- calls
 * -------------------------------------------------------------------------------------- */

int cfx_call(struct cfx *fx, uint32_t method, const ProtobufCMessage *msg,
             ProtobufCMessage **ret_resp)
{
    struct tarn_rpc_req req = {.method = method, .msg = msg, .timeout_ns = 30 * TARN_NS_PER_S};
    int rc = tarn_rpc_call_sync(fx->client, &req);

    *ret_resp = req.resp;
    req.resp = NULL;
    tarn_rpc_req_fini(&req);
    return rc;
}

void cfx_spec(Tarn__Wire__LoadSpec *s, ProtobufCBinaryData *path, const char *z)
{
    tarn__wire__load_spec__init(s);
    *path = tarn_wire_bytes(z, strlen(z));
    s->paths = path;
    s->n_paths = 1;
    s->meta = s->data = s->recursive = true;
}

uint64_t cfx_create(struct cfx *fx, const char *kind, Tarn__Wire__LoadSpec *spec)
{
    Tarn__Wire__JobCreateRequest msg = TARN__WIRE__JOB_CREATE_REQUEST__INIT;
    ProtobufCMessage *resp = NULL;
    uint64_t id;

    msg.kind = tarn_wire_text(kind);
    msg.spec = spec;
    assert_int_equal(cfx_call(fx, TARN_RPC_job_create, &msg.base, &resp), 0);
    id = ((Tarn__Wire__Job *)resp)->id;
    protobuf_c_message_free_unpacked(resp, NULL);
    return id;
}

uint64_t cfx_load(struct cfx *fx, const char *path)
{
    Tarn__Wire__LoadSpec spec;
    ProtobufCBinaryData p;

    cfx_spec(&spec, &p, path);
    return cfx_create(fx, "load", &spec);
}

Tarn__Wire__Job *cfx_show(struct cfx *fx, uint64_t id)
{
    Tarn__Wire__JobRequest msg = TARN__WIRE__JOB_REQUEST__INIT;
    ProtobufCMessage *resp = NULL;

    msg.id = id;
    assert_int_equal(cfx_call(fx, TARN_RPC_job_show, &msg.base, &resp), 0);
    return (Tarn__Wire__Job *)resp;
}

Tarn__Wire__Job *cfx_wait(struct cfx *fx, uint64_t id)
{
    for (;;) {
        Tarn__Wire__Job *job = cfx_show(fx, id);

        if (job->finished_ns)
            return job;
        tarn__wire__job__free_unpacked(job, NULL);
        cfx_run_ms(fx, 10);
    }
}

void cfx_expect(struct cfx *fx, uint64_t id, const char *state, uint64_t done, uint64_t failed)
{
    Tarn__Wire__Job *job = cfx_wait(fx, id);

    if (strcmp(job->state, state) != 0)
        (void)fprintf(stderr, "job: %s\n", job->error_text);
    assert_string_equal(job->state, state);
    assert_int_equal(job->files_done, done);
    assert_int_equal(job->files_failed, failed);
    tarn__wire__job__free_unpacked(job, NULL);
}

void cfx_cancel(struct cfx *fx, uint64_t id)
{
    Tarn__Wire__JobRequest msg = TARN__WIRE__JOB_REQUEST__INIT;
    ProtobufCMessage *resp = NULL;
    uint64_t began = tarn_now_ns();

    msg.id = id;
    assert_int_equal(cfx_call(fx, TARN_RPC_job_cancel, &msg.base, &resp), 0);
    assert_string_equal(((Tarn__Wire__Job *)resp)->state, "cancelled");
    assert_true(tarn_now_ns() - began < 2 * TARN_NS_PER_S);
    protobuf_c_message_free_unpacked(resp, NULL);
}

Tarn__Wire__DuResponse cfx_du(struct cfx *fx, const char *path)
{
    Tarn__Wire__DuRequest msg = TARN__WIRE__DU_REQUEST__INIT;
    Tarn__Wire__DuResponse ret;
    ProtobufCMessage *resp = NULL;

    msg.path = tarn_wire_bytes(path, strlen(path));
    assert_int_equal(cfx_call(fx, TARN_RPC_du, &msg.base, &resp), 0);
    ret = *(Tarn__Wire__DuResponse *)resp;
    (void)snprintf(fx->reason, sizeof(fx->reason), "%s", ret.reason); /* may be cut */
    ret.reason = fx->reason;
    protobuf_c_message_free_unpacked(resp, NULL);
    return ret;
}

Tarn__Wire__WhereResponse *cfx_where(struct cfx *fx, const char *path)
{
    Tarn__Wire__WhereRequest msg = TARN__WIRE__WHERE_REQUEST__INIT;
    ProtobufCMessage *resp = NULL;

    msg.path = tarn_wire_bytes(path, strlen(path));
    assert_int_equal(cfx_call(fx, TARN_RPC_where, &msg.base, &resp), 0);
    return (Tarn__Wire__WhereResponse *)resp;
}

const Tarn__Wire__ManifestLine *cfx_line(struct cfx *fx, uint64_t id, const char *path,
                                         Tarn__Wire__ManifestResponse **ret_resp)
{
    Tarn__Wire__ManifestRequest msg = TARN__WIRE__MANIFEST_REQUEST__INIT;
    ProtobufCMessage *resp = NULL;

    msg.id = id;
    msg.max_lines = 1000;
    assert_int_equal(cfx_call(fx, TARN_RPC_job_manifest, &msg.base, &resp), 0);
    *ret_resp = (Tarn__Wire__ManifestResponse *)resp;
    for (size_t i = 0; i < (*ret_resp)->n_lines; i++) {
        const Tarn__Wire__ManifestLine *l = (*ret_resp)->lines[i];

        if (l->path.len == strlen(path) && memcmp(l->path.data, path, l->path.len) == 0)
            return l;
    }
    return NULL;
}

/* ---- what is where
 * ------------------------------------------------------------------------------ */

uint64_t cfx_fetched(const struct cfx *fx, unsigned worker)
{
    struct tarn_worker_counts c;

    tarn_worker_counts(fx->workers[worker].worker, &c);
    return c.fetched_bytes;
}

uint64_t cfx_fetched_all(const struct cfx *fx)
{
    uint64_t n = 0;

    for (unsigned i = 0; i < CFX_WORKERS; i++)
        n += cfx_fetched(fx, i);
    return n;
}

uint64_t cfx_file(struct cfx *fx, const char *path, tarn_cid_t *ret_cid)
{
    Tarn__Wire__ResolveRequest msg = TARN__WIRE__RESOLVE_REQUEST__INIT;
    ProtobufCMessage *resp = NULL;
    const Tarn__Wire__Attr *attr;
    uint64_t size;

    msg.path = tarn_wire_bytes(path, strlen(path));
    assert_int_equal(cfx_call(fx, TARN_RPC_resolve, &msg.base, &resp), 0);
    attr = ((Tarn__Wire__ResolveResponse *)resp)->attr;
    assert_int_equal(attr->cid.len, sizeof(ret_cid->b));
    memcpy(ret_cid->b, attr->cid.data, sizeof(ret_cid->b));
    size = attr->size;
    protobuf_c_message_free_unpacked(resp, NULL);
    return size;
}

bool cfx_has(struct cfx *fx, unsigned worker, const char *path, uint32_t segment)
{
    tarn_cid_t cid;
    uint64_t size = cfx_file(fx, path, &cid), off = segment * TARN_SEGMENT_BYTES;
    struct tarn_tier_file *f = tarn_tier_file_find(fx->workers[worker].tier, &cid);
    bool ret;

    if (!f)
        return false;
    ret = tarn_tier_file_verified(f, off, TARN_MIN(TARN_SEGMENT_BYTES, size - off));
    tarn_tier_file_put(&f);
    return ret;
}

void cfx_expect_placed(struct cfx *fx, const char *path, uint32_t replicas)
{
    const struct tarn_place *place = tarn_peers_place(fx->master->peers);
    tarn_cid_t cid;
    uint64_t size = cfx_file(fx, path, &cid);

    for (uint32_t g = 0; g < mspread_segments(size); g++)
        for (unsigned i = 0; i < CFX_WORKERS; i++)
            if (cfx_has(fx, i, path, g) !=
                tarn_place_owns(place, &cid, g, replicas, fx->workers[i].id))
                fail_msg("%s, segment %u: worker %u has %s", path, g, i,
                         cfx_has(fx, i, path, g) ? "it, but does not own it" : "it not");
}

void cfx_name(char ret[64], const char *dir, unsigned i)
{
    (void)snprintf(ret, 64, "%s/f%u", dir, i);
}

void cfx_put_many(struct cfx *fx, const char *dir, unsigned n, size_t size)
{
    for (unsigned i = 0; i < n; i++) {
        char path[64];

        cfx_name(path, dir, i);
        cfx_put(fx, path, size);
    }
}

uint64_t cfx_load_slowly(struct cfx *fx, const char *path)
{
    Tarn__Wire__LoadSpec spec;
    ProtobufCBinaryData p;

    cfx_spec(&spec, &p, path);
    spec.bandwidth = 16 * MIB;
    return cfx_create(fx, "load", &spec);
}

bool cfx_a_fourth_is_done(struct cfx *fx, void *arg)
{
    const uint64_t *id = arg;
    Tarn__Wire__Job *job = cfx_show(fx, *id);
    bool ret = job->bytes_total > 0 && job->bytes_done >= job->bytes_total / 4;

    assert_int_equal(job->finished_ns, 0);
    tarn__wire__job__free_unpacked(job, NULL);
    return ret;
}

void cfx_expect_text(struct cfx *fx, uint64_t id, int error, const char *a, const char *b)
{
    Tarn__Wire__Job *job = cfx_wait(fx, id);

    assert_string_equal(job->state, "failed");
    assert_int_equal(job->error, error);
    if (!strstr(job->error_text, a) || !strstr(job->error_text, b))
        fail_msg("\"%s\" lacks \"%s\" or \"%s\"", job->error_text, a, b);
    tarn__wire__job__free_unpacked(job, NULL);
}
