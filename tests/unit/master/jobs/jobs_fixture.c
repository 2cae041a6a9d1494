/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/master/jobs/jobs_fixture.h"

#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/mem.h"

static const uint8_t jfx_key[32] = "a key of thirty-two bytes, no le";

/* ---- the worker's books
 * ------------------------------------------------------------------------- */

static struct jfx_file *book_find(struct jfx *fx, const ProtobufCBinaryData *cid)
{
    assert_int_equal(cid->len, sizeof(tarn_cid_t));
    for (size_t i = 0; i < fx->file_count; i++)
        if (memcmp(fx->files[i].cid.b, cid->data, sizeof(tarn_cid_t)) == 0)
            return &fx->files[i];
    return NULL;
}

static struct jfx_file *book_get(struct jfx *fx, const Tarn__Wire__Locator *l)
{
    struct jfx_file *f = book_find(fx, &l->cid);

    if (!f) {
        assert_true(fx->file_count < JFX_FILES_MAX);
        f = &fx->files[fx->file_count++];
        memcpy(f->cid.b, l->cid.data, sizeof(f->cid.b));
        (void)snprintf(f->key, sizeof(f->key), "%.*s", (int)l->key.len, (const char *)l->key.data);
        f->size = l->ufs->size;
        f->cached = 0;
        f->damaged = false;
    }
    return f;
}

/* Makes room for a file that has come. */
static void book_forget(struct jfx *fx, const struct jfx_file *keep)
{
    size_t n = 0;

    for (size_t i = 0; i < fx->file_count; i++)
        n += fx->files[i].cached > 0;
    for (; fx->files_max && n > fx->files_max; fx->next_forgotten++) {
        struct jfx_file *f = &fx->files[fx->next_forgotten % fx->file_count];

        if (f == keep || f->cached == 0)
            continue;
        f->cached = 0;
        n--;
    }
}

void jfx_damage(struct jfx *fx)
{
    for (size_t i = 0; i < fx->file_count; i++)
        fx->files[i].damaged = fx->files[i].cached > 0;
}

size_t jfx_damaged(const struct jfx *fx)
{
    size_t n = 0;

    for (size_t i = 0; i < fx->file_count; i++)
        n += fx->files[i].damaged;
    return n;
}

static uint32_t book_status(struct jfx *fx, const ProtobufCBinaryData *key)
{
    for (size_t i = 0; i < fx->rule_count; i++) {
        struct jfx_rule *r = &fx->rules[i];

        if (strlen(r->key) != key->len || memcmp(r->key, key->data, key->len) != 0)
            continue;
        if (r->times && r->used >= r->times)
            return 0;
        r->used++;
        return r->status;
    }
    return 0;
}

static void fill_one(struct jfx *fx, const Tarn__Wire__FillRequest *req,
                     const Tarn__Wire__Locator *l, Tarn__Wire__FillResult *res)
{
    struct jfx_file *f = book_get(fx, l);
    uint64_t want = req->length ? TARN_MIN(req->length, f->size - req->offset) : f->size;

    res->status = book_status(fx, &l->key);
    if (fx->evicted && fx->evict_status)
        res->status = (uint32_t)-fx->evict_status;
    res->bytes = f->size;
    if (res->status) {
        res->error_text = (char *)(uintptr_t) "as the test wants";
        return;
    }
    fx->filled_files++;
    if (f->damaged)
        f->cached = 0;
    f->damaged = false;
    if (f->cached + want <= f->size) {
        f->cached += want;
        res->fetched = want;
        fx->fetched += want;
        book_forget(fx, f);
    }
    res->cached = f->cached;
    res->level = TARN_VERIFIED_ETAG;
}

static void fill_answer(struct jfx *fx, struct tarn_rpc_call *call)
{
    const Tarn__Wire__FillRequest *req = (const void *)call->request;
    Tarn__Wire__FillResponse resp = TARN__WIRE__FILL_RESPONSE__INIT;
    Tarn__Wire__FillResult *rows = calloc(req->n_locators, sizeof(*rows));
    Tarn__Wire__FillResult **ptrs = calloc(req->n_locators, sizeof(Tarn__Wire__FillResult *));

    assert_non_null(rows);
    assert_non_null(ptrs);
    for (size_t i = 0; i < req->n_locators; i++) {
        tarn__wire__fill_result__init(&rows[i]);
        ptrs[i] = &rows[i];
        fill_one(fx, req, req->locators[i], &rows[i]);
    }
    resp.n_results = req->n_locators;
    resp.results = ptrs;
    fx->fills++;
    fx->in_flight--;
    tarn_rpc_reply(call, 0, &resp.base, NULL, 0, 0);
    free(ptrs);
    free(rows);
}

static void fill_cancelled(struct tarn_rpc_call *call)
{
    struct jfx *fx = call->state;

    for (size_t i = 0; i < fx->held_count; i++)
        if (fx->held[i] == call) {
            fx->held[i] = fx->held[--fx->held_count];
            break;
        }
    fx->in_flight--;
    tarn_rpc_reply(call, -TARN_E_CANCELLED, NULL, NULL, 0, 0);
}

static void jfx_fill(void *ctx, struct tarn_rpc_call *call)
{
    const Tarn__Wire__FillRequest *req = (const void *)call->request;
    struct jfx *fx = ctx;

    fx->largest_batch = (unsigned)TARN_MAX(fx->largest_batch, req->n_locators);
    fx->verified |= req->verify;
    fx->ranged |= req->length != 0;
    if (fx->fail_fills) {
        fx->fail_fills--;
        tarn_rpc_reply(call, -TARN_E_BUSY, NULL, NULL, 0, 0);
        return;
    }
    fx->most_in_flight = TARN_MAX(fx->most_in_flight, ++fx->in_flight);
    if (fx->fills < fx->hold_after) {
        fill_answer(fx, call);
        return;
    }
    assert_true(fx->held_count < 64);
    call->state = fx;
    call->on_cancel = fill_cancelled;
    fx->held[fx->held_count++] = call;
}

static void free_answer(struct jfx *fx, struct tarn_rpc_call *call);

void jfx_release(struct jfx *fx)
{
    fx->hold_after = UINT32_MAX;
    while (fx->held_count) {
        struct tarn_rpc_call *call = fx->held[--fx->held_count];

        call->on_cancel = NULL;
        fill_answer(fx, call);
    }
    fx->hold_frees = false;
    while (fx->held_free_count) {
        struct tarn_rpc_call *call = fx->held_frees[--fx->held_free_count];

        call->on_cancel = NULL;
        free_answer(fx, call);
    }
}

static void jfx_cached(void *ctx, struct tarn_rpc_call *call)
{
    const Tarn__Wire__CachedRequest *req = (const void *)call->request;
    Tarn__Wire__CachedResponse resp = TARN__WIRE__CACHED_RESPONSE__INIT;
    uint64_t *bytes = calloc(req->n_cids, sizeof(*bytes));
    struct jfx *fx = ctx;

    assert_non_null(bytes);
    if (fx->fail_queries) {
        fx->fail_queries--;
        free(bytes);
        tarn_rpc_reply(call, -TARN_E_BUSY, NULL, NULL, 0, 0);
        return;
    }
    if (++fx->queries == fx->evict_at_query) {
        fx->file_count = 0;
        fx->evicted = true;
    }
    for (size_t i = 0; i < req->n_cids; i++) {
        struct jfx_file *f = book_find(fx, &req->cids[i]);

        bytes[i] = f ? f->cached : 0;
    }
    resp.n_bytes = req->n_cids;
    resp.bytes = bytes;
    tarn_rpc_reply(call, 0, &resp.base, NULL, 0, 0);
    free(bytes);
}

static void free_answer(struct jfx *fx, struct tarn_rpc_call *call)
{
    const Tarn__Wire__FreeRequest *req = (const void *)call->request;
    Tarn__Wire__FreeResponse resp = TARN__WIRE__FREE_RESPONSE__INIT;
    uint64_t *bytes = calloc(req->n_cids, sizeof(*bytes));

    assert_non_null(bytes);
    fx->frees++;
    for (size_t i = 0; i < req->n_cids; i++) {
        struct jfx_file *f = book_find(fx, &req->cids[i]);

        bytes[i] = f ? f->cached : 0;
        if (f)
            f->cached = 0;
    }
    resp.n_bytes = req->n_cids;
    resp.bytes = bytes;
    tarn_rpc_reply(call, 0, &resp.base, NULL, 0, 0);
    free(bytes);
}

static void free_cancelled(struct tarn_rpc_call *call)
{
    struct jfx *fx = call->state;

    for (size_t i = 0; i < fx->held_free_count; i++)
        if (fx->held_frees[i] == call) {
            fx->held_frees[i] = fx->held_frees[--fx->held_free_count];
            break;
        }
    tarn_rpc_reply(call, -TARN_E_CANCELLED, NULL, NULL, 0, 0);
}

static void jfx_free_cids(void *ctx, struct tarn_rpc_call *call)
{
    struct jfx *fx = ctx;

    if (!fx->hold_frees) {
        free_answer(fx, call);
        return;
    }
    assert_true(fx->held_free_count < 64);
    call->state = fx;
    call->on_cancel = free_cancelled;
    fx->held_frees[fx->held_free_count++] = call;
}

static void jfx_status(void *ctx, struct tarn_rpc_call *call)
{
    Tarn__Wire__WorkerStatus resp = TARN__WIRE__WORKER_STATUS__INIT;
    Tarn__Wire__Tier tier, *tiers[1] = {&tier};
    struct jfx *fx = ctx;

    tarn__wire__tier__init(&tier);
    tier.capacity = fx->capacity;
    resp.id = 1;
    resp.n_tiers = 1;
    resp.tiers = tiers;
    tarn_rpc_reply(call, 0, &resp.base, NULL, 0, 0);
}

void jfx_rule(struct jfx *fx, const char *key, int status, unsigned times)
{
    struct jfx_rule *r = &fx->rules[fx->rule_count++];

    assert_true(fx->rule_count <= JFX_RULES_MAX);
    (void)snprintf(r->key, sizeof(r->key), "%s", key);
    r->status = (uint32_t)-status;
    r->times = times;
    r->used = 0;
}

/* ---- the store
 * ---------------------------------------------------------------------------------- */

void jfx_put(struct jfx *fx, const char *path, size_t size)
{
    char full[4096];
    int fd;

    (void)snprintf(full, sizeof(full), "%s%s", fx->dir, path);
    for (char *slash = strchr(full + strlen(fx->dir) + 1, '/'); slash;
         slash = strchr(slash + 1, '/')) {
        *slash = 0;
        (void)mkdir(full, 0755); /* may be there */
        *slash = '/';
    }
    if (path[strlen(path) - 1] == '/')
        return;
    fd = open(full, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)size), 0);
    assert_int_equal(close(fd), 0);
}

void jfx_unlink(struct jfx *fx, const char *path)
{
    char full[512];

    (void)snprintf(full, sizeof(full), "%s%s", fx->dir, path);
    assert_int_equal(unlink(full), 0);
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st;
    (void)flag;
    (void)ftw;
    return remove(path);
}

/* ---- life
 * --------------------------------------------------------------------------------------- */

static void jfx_done(void *arg)
{
    struct jfx *fx = arg;

    fx->done = true;
    tarn_loop_stop(fx->loop);
}

static void jfx_attached(void *arg, int rc, const struct tarn_errbuf *err)
{
    struct jfx *fx = arg;

    if (rc < 0)
        (void)fprintf(stderr, "attach: %s\n", tarn_err_text(err, rc));
    fx->rc = rc;
    jfx_done(arg);
}

static void jfx_wait_done(struct jfx *fx)
{
    while (!fx->done)
        tarn_loop_run(fx->loop);
    fx->done = false;
}

void jfx_run_until(struct jfx *fx, bool (*cond)(struct jfx *fx))
{
    for (unsigned i = 0; !cond(fx); i++) {
        assert_true(i < 2000);
        jfx_run_ms(fx, 5);
    }
}

static void jfx_tick(struct tarn_timer *t, void *arg)
{
    (void)t;
    tarn_loop_stop(arg);
}

void jfx_run_ms(struct jfx *fx, unsigned ms)
{
    struct tarn_timer t = {0};

    tarn_timer_start(fx->loop, &t, ms * TARN_NS_PER_MS, jfx_tick, fx->loop);
    tarn_loop_run(fx->loop);
    tarn_timer_stop(&t);
}

struct jfx *jfx_new(void)
{
    struct jfx *fx = tarn_xnew(struct jfx);
    struct tarn_errbuf err = {0};

    fx->capacity = 1ull << 40;
    fx->hold_after = UINT32_MAX;
    fx->ttl_ns = TARN_TTL_FOREVER;
    (void)snprintf(fx->dir, sizeof(fx->dir), "/tmp/tarn-jobs-XXXXXX");
    assert_non_null(mkdtemp(fx->dir));
    (void)snprintf(fx->uri, sizeof(fx->uri), "file://%s", fx->dir);
    assert_int_equal(tarn_loop_new(&fx->loop), 0);
    assert_int_equal(tarn_ufs_opts_parse(NULL, 0, true, &fx->opts, &fx->conf, &err), 0);
    return fx;
}

static struct tarn_rpc_client *jfx_pair(struct jfx *fx, struct tarn_rpc_server *s)
{
    struct tarn_rpc_client_args args = {.loop = fx->loop, .rng = tarn_rng_system()};
    struct tarn_rpc_client *c = NULL;
    struct tarn_conn *end;

    assert_int_equal(tarn_conn_pair(fx->loop, &args.conn, &end), 0);
    tarn_rpc_server_serve(s, end, true);
    assert_int_equal(tarn_rpc_client_new(&args, &c), 0);
    return c;
}

void jfx_start(struct jfx *fx)
{
    struct tarn_master_args args = {.loop = fx->loop,
                                    .clock = tarn_clock_system(),
                                    .rng = tarn_rng_system(),
                                    .cap_key = jfx_key};
    struct tarn_master_attach at = {.path = "/",
                                    .uri = fx->uri,
                                    .opts = &fx->opts,
                                    .ttl_ns = fx->ttl_ns,
                                    .check = true,
                                    .check_timeout_ns = 8 * TARN_NS_PER_S};
    struct tarn_rpc_server_args server = {.loop = fx->loop, .rng = tarn_rng_system()};
    struct tarn_errbuf err = {0};

    fx->kv = tarn_kv_mem_open(&fx->kv_disk, TARN_CF_COUNT);
    args.kv = fx->kv;
    assert_int_equal(tarn_master_new(&args, &err, &fx->master), 0);
    tarn_master_attach(fx->master, &at, jfx_attached, fx);
    jfx_wait_done(fx);
    assert_int_equal(fx->rc, 0);
    server.cluster_id = tarn_master_cluster_id(fx->master);
    assert_int_equal(tarn_rpc_server_new(&server, &fx->server), 0);
    assert_int_equal(tarn_rpc_server_new(&server, &fx->worker_server), 0);
    tarn_master_serve(fx->master, fx->server);
    tarn_rpc_server_handle(fx->worker_server, TARN_RPC_fill, jfx_fill, fx);
    tarn_rpc_server_handle(fx->worker_server, TARN_RPC_free, jfx_free_cids, fx);
    tarn_rpc_server_handle(fx->worker_server, TARN_RPC_cached, jfx_cached, fx);
    tarn_rpc_server_handle(fx->worker_server, TARN_RPC_worker_status, jfx_status, fx);
    fx->client = jfx_pair(fx, fx->server);
    fx->to_worker = jfx_pair(fx, fx->worker_server);
    tarn_master_set_worker(fx->master, fx->to_worker);
}

void jfx_stop(struct jfx *fx)
{
    tarn_master_stop(fx->master, jfx_done, fx);
    jfx_wait_done(fx);
    tarn_rpc_client_stop(fx->to_worker, jfx_done, fx);
    jfx_wait_done(fx);
    tarn_rpc_client_stop(fx->client, jfx_done, fx);
    jfx_wait_done(fx);
    tarn_rpc_server_stop(fx->server, jfx_done, fx);
    jfx_wait_done(fx);
    tarn_rpc_server_stop(fx->worker_server, jfx_done, fx);
    jfx_wait_done(fx);
    assert_int_equal(fx->held_count + fx->held_free_count, 0);
    tarn_rpc_client_free(&fx->to_worker);
    tarn_rpc_client_free(&fx->client);
    tarn_rpc_server_free(&fx->server);
    tarn_rpc_server_free(&fx->worker_server);
    tarn_master_free(&fx->master);
    {
        struct tarn_errbuf err = {0};

        if (tarn_core_check(fx->kv, &err) != 0)
            fail_msg("%s", err.text);
    }
    tarn_kv_close(&fx->kv);
}

void jfx_apply(struct jfx *fx, Tarn__Core__Entry *e)
{
    struct tarn_kv *kv = tarn_kv_mem_open(&fx->kv_disk, TARN_CF_COUNT);
    struct tarn_kv_batch *b = tarn_kv_batch_new(kv);
    struct tarn_core_result result = {0};
    struct tarn_str entry = {0};
    uint64_t applied = 0;

    assert_int_equal(tarn_core_applied_index(kv, &applied), 0);
    assert_int_equal(tarn_core_entry_encode(e, &entry), 0);
    assert_int_equal(
        tarn_core_apply(kv, b, applied + 1, (const uint8_t *)entry.p, entry.len, &result), 0);
    assert_int_equal(result.rc, 0);
    assert_int_equal(tarn_kv_write(kv, b, true), 0);
    tarn_core_result_fini(&result);
    tarn_kv_batch_free(&b);
    tarn_str_fini(&entry);
    tarn_kv_close(&kv);
}

void jfx_free(struct jfx **pfx)
{
    struct jfx *fx = *pfx;

    if (fx->master)
        jfx_stop(fx);
    tarn_loop_free(&fx->loop);
    tarn_kv_mem_disk_fini(&fx->kv_disk);
    tarn_conf_free(&fx->conf);
    (void)nftw(fx->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    free(fx);
    *pfx = NULL;
}

/* ---- calls
 * -------------------------------------------------------------------------------------- */

int jfx_call(struct jfx *fx, uint32_t method, const ProtobufCMessage *msg,
             ProtobufCMessage **ret_resp)
{
    struct tarn_rpc_req req = {.method = method, .msg = msg, .timeout_ns = 30 * TARN_NS_PER_S};
    int rc = tarn_rpc_call_sync(fx->client, &req);

    *ret_resp = req.resp;
    req.resp = NULL;
    tarn_rpc_req_fini(&req);
    return rc;
}

void jfx_spec(Tarn__Wire__LoadSpec *s, ProtobufCBinaryData *path, const char *z)
{
    tarn__wire__load_spec__init(s);
    *path = tarn_wire_bytes(z, strlen(z));
    s->paths = path;
    s->n_paths = 1;
    s->meta = s->data = s->recursive = true;
}

int jfx_create(struct jfx *fx, const char *kind, Tarn__Wire__LoadSpec *spec, uint64_t *ret_id)
{
    Tarn__Wire__JobCreateRequest msg = TARN__WIRE__JOB_CREATE_REQUEST__INIT;
    ProtobufCMessage *resp = NULL;
    int rc;

    msg.kind = tarn_wire_text(kind);
    msg.spec = spec;
    rc = jfx_call(fx, TARN_RPC_job_create, &msg.base, &resp);
    if (rc == 0)
        *ret_id = ((Tarn__Wire__Job *)resp)->id;
    if (resp)
        protobuf_c_message_free_unpacked(resp, NULL);
    return rc;
}

uint64_t jfx_load(struct jfx *fx, const char *path)
{
    Tarn__Wire__LoadSpec spec;
    ProtobufCBinaryData p;
    uint64_t id = 0;

    jfx_spec(&spec, &p, path);
    assert_int_equal(jfx_create(fx, "load", &spec, &id), 0);
    return id;
}

Tarn__Wire__Job *jfx_wait(struct jfx *fx, uint64_t id)
{
    uint64_t seen = 0;

    for (;;) {
        Tarn__Wire__JobWaitRequest msg = TARN__WIRE__JOB_WAIT_REQUEST__INIT;
        ProtobufCMessage *resp = NULL;
        Tarn__Wire__Job *job;

        msg.id = id;
        msg.seen_seq = seen;
        msg.max_wait_ms = 10000;
        assert_int_equal(jfx_call(fx, TARN_RPC_job_wait, &msg.base, &resp), 0);
        job = (Tarn__Wire__Job *)resp;
        if (job->finished_ns)
            return job;
        assert_true(job->seq > seen || seen == 0);
        seen = job->seq;
        tarn__wire__job__free_unpacked(job, NULL);
    }
}

void jfx_expect(struct jfx *fx, uint64_t id, const char *state, uint64_t done, uint64_t failed)
{
    Tarn__Wire__Job *job = jfx_wait(fx, id);

    if (strcmp(job->state, state) != 0)
        (void)fprintf(stderr, "job: %s\n", job->error_text);
    assert_string_equal(job->state, state);
    assert_int_equal(job->files_done, done);
    assert_int_equal(job->files_failed, failed);
    tarn__wire__job__free_unpacked(job, NULL);
}

static void line_text(char *dst, size_t size, const void *p, size_t n)
{
    assert_true(n < size);
    memcpy(dst, p, n);
    dst[n] = 0;
}

size_t jfx_manifest(struct jfx *fx, uint64_t id, uint32_t page, struct jfx_line **ret)
{
    struct jfx_line *all = NULL;
    uint64_t from = 0;
    size_t count = 0;
    bool eof = false;

    while (!eof) {
        Tarn__Wire__ManifestRequest msg = TARN__WIRE__MANIFEST_REQUEST__INIT;
        Tarn__Wire__ManifestResponse *resp;
        ProtobufCMessage *m = NULL;

        msg.id = id;
        msg.from = from;
        msg.max_lines = page;
        assert_int_equal(jfx_call(fx, TARN_RPC_job_manifest, &msg.base, &m), 0);
        resp = (Tarn__Wire__ManifestResponse *)m;
        assert_true(page == 0 || resp->n_lines <= page);
        all = tarn_xrealloc(all, (count + resp->n_lines + 1) * sizeof(*all));
        for (size_t i = 0; i < resp->n_lines; i++) {
            const Tarn__Wire__ManifestLine *in = resp->lines[i];
            struct jfx_line *l = &all[count++];

            assert_int_equal(in->seq, count - 1);
            line_text(l->path, sizeof(l->path), in->path.data, in->path.len);
            line_text(l->state, sizeof(l->state), in->state, strlen(in->state));
            line_text(l->checksum, sizeof(l->checksum), in->checksum, strlen(in->checksum));
            line_text(l->error, sizeof(l->error), in->error_text, strlen(in->error_text));
            l->bytes = in->bytes;
            l->worker = in->worker;
            l->code = in->error;
            l->replicas = in->replicas;
        }
        from = resp->next;
        eof = resp->eof;
        assert_true(eof || resp->n_lines > 0);
        protobuf_c_message_free_unpacked(m, NULL);
    }
    *ret = all;
    return count;
}

const struct jfx_line *jfx_find(const struct jfx_line *l, size_t n, const char *path)
{
    const struct jfx_line *found = NULL;

    for (size_t i = 0; i < n; i++)
        if (strcmp(l[i].path, path) == 0) {
            if (found)
                fail_msg("%s is in the manifest twice", path);
            found = &l[i];
        }
    if (!found)
        fail_msg("%s is not in the manifest", path);
    return found;
}
