/* SPDX-License-Identifier: Apache-2.0 */
/*
 * New jobs. A list may come in several calls; what a call brings is committed as entries of at most
 * TARN_JOURNAL_ENTRY_MAX bytes, all proposed at once (the journal keeps their order), and the call
 * is answered when all of them are. The last call commits that the list is complete; only then may
 * the job start.
 *
 *     JobPut(open) -> JobItems ... -> JobItems -> JobPut       without a list: JobPut
 */
#include <stdlib.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"
#include "lib/base/name.h"
#include "master/jobs/jobs_priv.h"

#define PART_BYTES   (40u << 10) /* items of one entry */
#define GLOB_MAX     1024u       /* bytes of a filter */
#define PARALLEL_MAX 64u         /* requests of one job */

struct create_call {
    struct tarn_rpc_call *call; /* to be answered */
    struct mjob *job;           /* made, or added to */
    bool is_new;                /* made by this call */
    bool closes;                /* the list is complete with it */
    unsigned parts;             /* entries that are not committed */
    uint64_t items;             /* that it adds */
    int rc;                     /* the first failure */
};

struct create_part {
    struct mproposal proposal; /* one entry */
    struct create_call *c;     /* whose it is */
};

/* ---- what is asked for
 * -------------------------------------------------------------------------------------- */

static int spec_globs(const ProtobufCBinaryData *globs, size_t n)
{
    if (n > JOB_GLOBS_MAX)
        return -TARN_E_TOO_BIG;
    for (size_t i = 0; i < n; i++)
        if (globs[i].len == 0 || globs[i].len > GLOB_MAX)
            return -TARN_E_INVALID;
    return 0;
}

static int spec_check(const Tarn__Wire__LoadSpec *spec, bool is_free)
{
    int rc;

    if (spec->n_paths == 0 && spec->n_items == 0 && !spec->more_items)
        return -TARN_E_INVALID;
    if (spec->replicas > TARN_PLACE_PICK_MAX)
        return -TARN_E_INVALID;
    if (spec->older_than_ms || (is_free && spec->meta))
        return -TARN_E_UNSUPPORTED; /* times of access and names are not kept to be dropped */
    if (spec->pin)
        return -TARN_E_UNSUPPORTED; /* nothing could take the pins away again */
    rc = spec_globs(spec->filter, spec->n_filter);
    if (rc == 0)
        rc = spec_globs(spec->exclude, spec->n_exclude);
    return rc;
}

/* A path as bytes in normal form; the caller frees ret->data. */
static int spec_path(const ProtobufCBinaryData *in, ProtobufCBinaryData *ret)
{
    TARN_AUTO_FREE char *z = NULL;
    char norm[TARN_PATH_MAX];
    int rc;

    if (in->len >= TARN_PATH_MAX)
        return -TARN_E_NAME_TOO_LONG;
    if (in->len && memchr(in->data, 0, in->len))
        return -TARN_E_NAME_BAD;
    z = tarn_xcalloc(1, in->len + 1);
    if (in->len)
        memcpy(z, in->data, in->len);
    rc = tarn_path_normalize(z, norm);
    if (rc < 0)
        return rc;
    ret->data = (uint8_t *)tarn_xstrdup(norm);
    ret->len = strlen(norm);
    return 0;
}

/* A copy of what is kept of a specification: normal paths, no list. */
static int spec_copy(const Tarn__Wire__LoadSpec *in, bool is_free, Tarn__Wire__LoadSpec **ret)
{
    Tarn__Wire__LoadSpec s = *in;
    ProtobufCBinaryData *paths;
    struct tarn_str bytes = {0};
    size_t n = 0, size;
    int rc = 0;

    if (in->n_paths > JOB_SPEC_MAX / 4)
        return -TARN_E_TOO_BIG;
    paths = tarn_xcalloc(in->n_paths, sizeof(*paths));
    for (; n < in->n_paths && rc == 0; n++)
        rc = spec_path(&in->paths[n], &paths[n]);
    s.paths = paths;
    s.n_items = 0;
    s.more_items = false;
    s.id = 0;
    s.parallel = TARN_MIN(in->parallel, PARALLEL_MAX);
    if (is_free || (!in->meta && !in->data))
        s.data = true;
    size = rc == 0 ? tarn__wire__load_spec__get_packed_size(&s) : 0;
    if (size > JOB_SPEC_MAX)
        rc = -TARN_E_TOO_BIG;
    if (rc == 0) {
        tarn__wire__load_spec__pack(&s, (uint8_t *)tarn_str_room(&bytes, size));
        *ret = tarn__wire__load_spec__unpack(NULL, size, (uint8_t *)bytes.p);
        rc = *ret ? 0 : -TARN_E_NO_MEMORY;
    }
    tarn_str_fini(&bytes);
    for (size_t i = 0; i < n; i++)
        free(paths[i].data);
    free(paths);
    return rc;
}

static int items_check(const Tarn__Wire__LoadSpec *spec)
{
    for (size_t i = 0; i < spec->n_items; i++) {
        const Tarn__Wire__LoadItem *it = spec->items[i];

        if (it->path.len == 0 || it->path.len > TARN_LOAD_LIST_LINE_MAX ||
            memchr(it->path.data, 0, it->path.len) || it->length > TARN_FILE_MAX ||
            it->offset > TARN_FILE_MAX)
            return -TARN_E_JOB_LIST_BAD;
    }
    return 0;
}

/* ---- commit
 * --------------------------------------------------------------------------------------------------
 */

static void create_list_late(struct tarn_timer *t, void *arg)
{
    struct mjob *job = arg;

    (void)t; /* the job's */
    if (!job->open || job->creating || job->ending || job->putting)
        return;
    mjob_finish(job, MJOB_FAILED, -TARN_E_DEADLINE, "the rest of the list did not come");
}

static void create_failed(struct create_call *c)
{
    struct mjob *job = c->job;

    if (c->is_new)
        mjob_drop(job);
    else if (!mjob_ended(job) && !job->ending && !job->putting)
        mjob_finish(job, MJOB_FAILED, c->rc, NULL);
}

static void create_done(struct create_call *c)
{
    struct mjob *job = c->job;
    struct mjobs *j = job->jobs;
    Tarn__Wire__Job resp;

    job->creating--;
    if (c->rc == 0 && j->stopping)
        c->rc = -TARN_E_SHUTDOWN;
    if (c->rc == 0) {
        job->items += c->items;
        if (c->closes)
            job->open = false;
        if (job->open)
            tarn_timer_start(j->master->args.loop, &job->tick, JOB_OPEN_NS, create_list_late, job);
        else
            tarn_timer_stop(&job->tick);
        mjob_changed(job, true);
        mjobs_pump(j);
    }
    mjob_message(job, false, &resp);
    tarn_rpc_reply(c->call, c->rc, c->rc < 0 ? NULL : &resp.base, NULL, 0, 0);
    if (c->rc < 0 && !j->stopping)
        create_failed(c);
    free(c);
}

static void create_committed(struct mproposal *p)
{
    struct create_part *part = p->arg;
    struct create_call *c = part->c;

    TARN_KEEP(c->rc, mproposal_rc(p));
    free(part);
    if (--c->parts == 0)
        create_done(c);
}

static void create_propose(struct create_call *c, Tarn__Core__Entry *e)
{
    struct create_part *part = tarn_xnew(struct create_part);

    part->c = c;
    c->parts++;
    /* Every part was made to fit. */
    TARN_ASSERT(mpropose(c->job->jobs->master, &part->proposal, e, create_committed, part) == 0);
}

static void create_propose_record(struct create_call *c, bool open)
{
    Tarn__Core__Entry e = TARN__CORE__ENTRY__INIT;
    Tarn__Core__JobPut put = TARN__CORE__JOB_PUT__INIT;
    Tarn__Core__JobRecord rec;

    mjob_record(c->job, &rec);
    rec.open = open;
    put.job = &rec;
    e.job_put = &put;
    create_propose(c, &e);
}

static void create_propose_items(struct create_call *c, const Tarn__Wire__LoadSpec *spec)
{
    Tarn__Core__JobItem *rows = tarn_xcalloc(spec->n_items, sizeof(*rows));
    Tarn__Core__JobItem **ptrs = tarn_xcalloc(spec->n_items, sizeof(Tarn__Core__JobItem *));

    for (size_t at = 0; at < spec->n_items;) {
        Tarn__Core__Entry e = TARN__CORE__ENTRY__INIT;
        Tarn__Core__JobItems items = TARN__CORE__JOB_ITEMS__INIT;
        size_t first = at, bytes = 0;

        while (at < spec->n_items && (at == first || bytes < PART_BYTES)) {
            const Tarn__Wire__LoadItem *in = spec->items[at];

            tarn__core__job_item__init(&rows[at]);
            ptrs[at] = &rows[at];
            rows[at].path = in->path;
            rows[at].offset = in->offset;
            rows[at].length = in->length;
            rows[at].line = in->line;
            bytes += in->path.len + 48;
            at++;
        }
        items.id = c->job->id;
        items.n_items = at - first;
        items.items = ptrs + first;
        e.job_items = &items;
        create_propose(c, &e);
    }
    free(ptrs);
    free(rows);
}

/* ---- the call
 * ------------------------------------------------------------------------------------------------
 */

static size_t jobs_waiting(const struct mjobs *j)
{
    size_t n = 0;

    TARN_LIST_FOREACH(node, &j->all)
    {
        n += !mjob_ended(TARN_LIST_ENTRY(node, struct mjob, node));
    }
    return n;
}

static int create_new(struct mjobs *j, const Tarn__Wire__JobCreateRequest *req, struct mjob **ret)
{
    bool is_free = strcmp(req->kind, "free") == 0;
    uint64_t now_ms = (uint64_t)(master_real_ns(j->master) / (int64_t)TARN_NS_PER_MS);
    Tarn__Wire__LoadSpec *spec = NULL;
    int rc;

    if (!is_free && strcmp(req->kind, "load") != 0)
        return -TARN_E_UNSUPPORTED;
    rc = spec_check(req->spec, is_free);
    if (rc == 0 && !is_free && tarn_list_empty(&j->master->attachments))
        rc = -TARN_E_NO_ATTACH; /* nothing that it names will ever come */
    if (rc == 0 && jobs_waiting(j) >= JOBS_WAITING_MAX)
        rc = -TARN_E_BUSY;
    if (rc == 0)
        rc = spec_copy(req->spec, is_free, &spec);
    if (rc < 0)
        return rc;
    *ret = mjob_new(j, TARN_MAX(now_ms, j->last_id + 1), is_free, spec);
    return 0;
}

/* A list that ends without an entry is no list: its job would be one of the paths. */
static bool create_empty(const struct mjob *job, const Tarn__Wire__LoadSpec *spec)
{
    return !spec->more_items && job->items + spec->n_items == 0 && !job->creating;
}

static int create_find(struct mjobs *j, const Tarn__Wire__LoadSpec *spec, struct mjob **ret)
{
    struct mjob *job = mjob_find(j, spec->id);

    if (!job)
        return -TARN_E_NO_JOB;
    if (mjob_ended(job) || !job->open || job->ending || job->putting || job->cancel)
        return -TARN_E_JOB_STATE;
    if (job->items + spec->n_items > JOB_ITEMS_MAX)
        return -TARN_E_TOO_BIG;
    if (create_empty(job, spec)) {
        mjob_finish(job, MJOB_FAILED, -TARN_E_JOB_LIST_BAD, "the list is empty");
        return -TARN_E_JOB_LIST_BAD;
    }
    *ret = job;
    return 0;
}

void mjob_create_handler(void *ctx, struct tarn_rpc_call *call)
{
    struct mjobs *j = ctx;
    const Tarn__Wire__JobCreateRequest *req = (const Tarn__Wire__JobCreateRequest *)call->request;
    const Tarn__Wire__LoadSpec *spec = req->spec;
    bool is_new = spec && spec->id == 0, list;
    struct mjob *job = NULL;
    struct create_call *c;
    int rc = j->stopping ? -TARN_E_SHUTDOWN : spec ? items_check(spec) : -TARN_E_INVALID;

    if (rc == 0)
        rc = is_new ? create_new(j, req, &job) : create_find(j, spec, &job);
    if (rc < 0) {
        tarn_rpc_reply(call, rc, NULL, NULL, 0, 0);
        return;
    }
    list = !is_new || spec->n_items > 0 || spec->more_items;
    c = tarn_xnew(struct create_call);
    c->call = call;
    c->job = job;
    c->is_new = is_new;
    c->closes = !spec->more_items;
    c->items = spec->n_items;
    job->creating++;
    job->open = list;
    tarn_timer_stop(&job->tick);
    if (is_new)
        create_propose_record(c, list);
    create_propose_items(c, spec);
    if (list && c->closes)
        create_propose_record(c, false);
    if (c->parts == 0) { /* an empty part of a list */
        create_propose_record(c, true);
    }
}
