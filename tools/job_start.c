/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Starting a job. A list is read as a stream and sent in parts of PART_BYTES; the last part, which
 * may be empty, says that the list is complete, and only then the job begins. Many paths on the
 * command line are sent as a list too: a specification is small.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/assert.h"
#include "lib/base/mem.h"
#include "lib/base/name.h"
#include "tools/job.h"
#include "tools/load_list.h"
#include "tools/stream.h"

#define PART_BYTES  (256u << 10) /* of a list, in one call */
#define PATHS_BYTES (8u << 10)   /* of paths that go into the specification */
#define ITEM_BYTES  48u          /* of an entry beside its path, at most */
#define READ_BYTES  (64u << 10)
#define GLOB_MAX    1024u /* bytes of a filter */

/* A job being made. */
struct start {
    struct cli *c;
    const struct job_request *r;
    Tarn__Wire__LoadSpec spec;   /* what is sent; its lists are ours */
    Tarn__Wire__LoadItem *items; /* n_items entries, cap allocated; their paths are owned */
    Tarn__Wire__LoadItem **ptrs; /* the same, as the message wants it */
    size_t n_items, cap;         /* of the part at hand */
    size_t bytes;                /* of that part */
    uint64_t id;                 /* of the job; 0: not made yet */
    struct load_list list;       /* being read */
    bool checked;                /* the first path was looked at, whether it is below a mount */
    Tarn__Wire__StatusResponse *status; /* of the server, while a list is read: its mounts */
};

/* ---- calls ---------------------------------------------------------------------------------- */

static int start_call(struct start *s, bool more)
{
    Tarn__Wire__JobCreateRequest msg = TARN__WIRE__JOB_CREATE_REQUEST__INIT;
    struct tarn_rpc_req req;
    int rc;

    s->spec.n_items = s->n_items;
    s->spec.items = s->ptrs;
    s->spec.more_items = more;
    s->spec.id = s->id;
    msg.kind = tarn_wire_text(s->r->kind);
    msg.spec = &s->spec;
    for (size_t i = 0; i < s->n_items; i++)
        s->ptrs[i] = &s->items[i];
    rc = cli_call(s->c, &req, TARN_RPC_job_create, &msg.base, "start the job");
    if (rc == 0)
        s->id = ((const Tarn__Wire__Job *)req.resp)->id;
    tarn_rpc_req_fini(&req);
    return rc;
}

static void start_drop_items(struct start *s)
{
    for (size_t i = 0; i < s->n_items; i++)
        free(s->items[i].path.data);
    s->n_items = 0;
    s->bytes = 0;
}

static int start_item(void *arg, const struct load_list_item *item)
{
    struct start *s = arg;
    size_t len = strlen(item->path);
    Tarn__Wire__LoadItem *it;

    if (s->n_items > 0 && s->bytes + len + ITEM_BYTES > PART_BYTES) {
        int rc = start_call(s, true);

        if (rc < 0)
            return rc;
        start_drop_items(s);
    }
    if (s->n_items == s->cap) {
        s->cap = s->cap ? s->cap * 2 : 256;
        s->items = tarn_xrealloc(s->items, s->cap * sizeof(*s->items));
        s->ptrs = tarn_xrealloc(s->ptrs, s->cap * sizeof(Tarn__Wire__LoadItem *));
    }
    it = &s->items[s->n_items++];
    tarn__wire__load_item__init(it);
    it->path = tarn_wire_bytes(tarn_xstrdup(item->path), len);
    it->offset = item->offset;
    it->length = item->length;
    it->line = item->line;
    s->bytes += len + ITEM_BYTES;
    return 0;
}

/* ---- lists ------------------------------------------------------------------------------------
 */

static int start_feed(void *arg, const void *p, size_t n)
{
    struct start *s = arg;

    return load_list_feed(&s->list, p, n, &s->c->err);
}

/* A file of the name space. With one read in flight the sink may make calls. */
static int start_remote_list(struct start *s, const char *arg)
{
    char path[TARN_PATH_MAX];
    struct tarn_attr attr;
    int rc = cli_path(s->c, arg, path);

    if (rc == 0)
        rc = cli_resolve(s->c, path, &attr);
    if (rc < 0)
        return rc;
    if (attr.type != TARN_TYPE_FILE)
        return tarn_err_set(&s->c->err, -TARN_E_USAGE, "-f %s: is not a file", arg);
    return cli_stream_file(s->c, &attr, 1, arg, start_feed, s);
}

static int start_local_list(struct start *s, const char *path)
{
    bool is_stdin = strcmp(path, "-") == 0;
    TARN_AUTO_FREE char *buf = tarn_xcalloc(1, READ_BYTES);
    int fd = is_stdin ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC), rc = 0;
    ssize_t n = 1;

    if (fd < 0)
        return tarn_err_set(&s->c->err, -TARN_E_USAGE, "-f %s: %s", path, strerrordesc_np(errno));
    while (n > 0 && rc == 0) {
        n = read(fd, buf, READ_BYTES);
        if (n < 0 && errno == EINTR)
            n = 1; /* again */
        else if (n < 0)
            rc = tarn_err_set(&s->c->err, errno == EISDIR ? -TARN_E_USAGE : -errno, "-f %s: %s",
                              path, strerrordesc_np(errno));
        else
            rc = start_feed(s, buf, (size_t)n);
    }
    if (!is_stdin)
        (void)close(fd); /* only read from */
    return rc;
}

/* Cancels a job that will never be complete; the first error is the one to tell. */
static void start_give_up(struct start *s)
{
    struct tarn_errbuf err = s->c->err;
    Tarn__Wire__Job *job = NULL;

    if (s->id != 0 && job_cancel(s->c, s->id, &job) == 0)
        tarn__wire__job__free_unpacked(job, NULL);
    s->c->err = err;
}

/* True when a mount of the server is at or above the path, as far as names tell. */
static bool start_below_mount(const struct start *s, const char *path)
{
    for (size_t i = 0; i < s->status->n_sessions; i++) {
        const char *mnt = s->status->sessions[i]->mountpoint;
        size_t n = strlen(mnt);

        if (n > 1 && strncmp(path, mnt, n) == 0 && (path[n] == 0 || path[n] == '/'))
            return true;
    }
    return false;
}

/*
 * A path of a mount is refused, with the one to write. The first one is asked about however it is
 * spelt, since a list is mostly of one kind; of the others, which are many, only what begins as a
 * mountpoint of the server does.
 */
static int start_list_item(void *arg, const struct load_list_item *item)
{
    struct start *s = arg;
    char path[TARN_PATH_MAX];

    if (!s->checked || start_below_mount(s, item->path)) {
        int rc = cli_path(s->c, item->path, path);

        if (rc < 0)
            return tarn_err_wrap(&s->c->err, rc, "%s:%" PRIu32, s->list.name, item->line);
        s->checked = true;
    }
    return start_item(s, item);
}

static int start_from_list(struct start *s)
{
    const char *list = s->r->list;
    char base[TARN_PATH_MAX] = "/";
    int rc = 0;

    if (s->c->n_args > 1)
        return tarn_err_set(&s->c->err, -TARN_E_USAGE,
                            "%s: with -f there is at most one PATH, which the list is relative to",
                            s->c->args[1]);
    if (s->c->n_args == 1)
        rc = cli_path(s->c, s->c->args[0], base);
    if (rc == 0)
        rc = cli_status(s->c, &s->status);
    if (rc < 0)
        return rc;
    load_list_init(&s->list, strcmp(list, "-") == 0 ? "(standard input)" : list, base,
                   start_list_item, s);
    rc = tarn_starts_with(list, "tarn:") ? start_remote_list(s, list) : start_local_list(s, list);
    if (rc == 0)
        rc = load_list_end(&s->list, &s->c->err);
    load_list_fini(&s->list);
    tarn__wire__status_response__free_unpacked(s->status, NULL);
    s->status = NULL;
    if (rc == 0)
        rc = start_call(s, false);
    if (rc < 0)
        start_give_up(s);
    return rc;
}

/* ---- paths -------------------------------------------------------------------------------------
 */

/* The same as a list of one entry per path. */
static int start_paths_as_list(struct start *s)
{
    char path[TARN_PATH_MAX];
    int rc = 0;

    for (size_t i = 0; i < s->c->n_args && rc == 0; i++) {
        struct load_list_item item = {.path = path, .line = (uint32_t)i + 1};

        rc = cli_path(s->c, s->c->args[i], path);
        if (rc == 0)
            rc = start_item(s, &item);
    }
    if (rc == 0)
        rc = start_call(s, false);
    if (rc < 0)
        start_give_up(s);
    return rc;
}

static int start_from_paths(struct start *s)
{
    ProtobufCBinaryData *paths = tarn_xcalloc(s->c->n_args, sizeof(*paths));
    char path[TARN_PATH_MAX];
    size_t n = 0, bytes = 0;
    int rc = 0;

    for (; n < s->c->n_args && rc == 0; n++) {
        rc = cli_path(s->c, s->c->args[n], path);
        paths[n] = tarn_wire_bytes(tarn_xstrdup(path), strlen(path));
        bytes += strlen(path) + ITEM_BYTES;
    }
    if (rc == 0 && bytes > PATHS_BYTES) {
        rc = start_paths_as_list(s);
    } else if (rc == 0) {
        s->spec.paths = paths;
        s->spec.n_paths = n;
        rc = start_call(s, false);
    }
    for (size_t i = 0; i < n; i++)
        free(paths[i].data);
    free(paths);
    return rc;
}

/* ---- the request
 * ---------------------------------------------------------------------------------- */

static int start_check_globs(struct cli *c, const char *flag, const struct tarn_conf_list *l)
{
    for (size_t i = 0; i < l->n; i++)
        if (!l->v[i][0] || strlen(l->v[i]) > GLOB_MAX)
            return tarn_err_set(&c->err, -TARN_E_USAGE, "%s: a glob has 1 to %u bytes", flag,
                                GLOB_MAX);
    return 0;
}

static ProtobufCBinaryData *start_globs(const struct tarn_conf_list *l)
{
    ProtobufCBinaryData *globs = tarn_xcalloc(l->n, sizeof(*globs));

    for (size_t i = 0; i < l->n; i++)
        globs[i] = tarn_wire_bytes(l->v[i], strlen(l->v[i]));
    return globs;
}

int job_start(struct cli *c, const struct job_request *r, uint64_t *ret_id)
{
    struct start s = {.c = c, .r = r, .spec = *r->spec};
    int rc;

    if (!r->list[0] && c->n_args == 0)
        return tarn_err_set(&c->err, -TARN_E_USAGE, "PATH is missing (or -f LIST)");
    rc = start_check_globs(c, "--filter", r->filter);
    if (rc == 0)
        rc = start_check_globs(c, "--exclude", r->exclude);
    if (rc < 0)
        return rc;
    s.spec.filter = start_globs(r->filter);
    s.spec.n_filter = r->filter->n;
    s.spec.exclude = start_globs(r->exclude);
    s.spec.n_exclude = r->exclude->n;
    rc = r->list[0] ? start_from_list(&s) : start_from_paths(&s);
    start_drop_items(&s);
    free(s.items);
    free(s.ptrs);
    free(s.spec.filter);
    free(s.spec.exclude);
    if (rc == 0)
        *ret_id = s.id;
    return rc;
}

int job_repeat(struct cli *c, const Tarn__Wire__Job *job, uint64_t *ret_id)
{
    Tarn__Wire__JobCreateRequest msg = TARN__WIRE__JOB_CREATE_REQUEST__INIT;
    struct tarn_rpc_req req;
    int rc;

    if (!job_ended(job))
        return tarn_err_set(&c->err, -TARN_E_JOB_STATE,
                            "job %" PRIu64 " has not ended (it is %s); `tarn job wait` awaits it",
                            job->id, job->state);
    if (!job->spec || job->spec->n_paths == 0)
        return tarn_err_set(&c->err, -TARN_E_UNSUPPORTED,
                            "job %" PRIu64
                            " was made from a list, which is not kept: give `tarn %s -f` the list "
                            "again; what is done already is left out",
                            job->id, job->kind);
    msg.kind = job->kind;
    msg.spec = job->spec;
    rc = cli_call(c, &req, TARN_RPC_job_create, &msg.base, "start the job");
    if (rc == 0)
        *ret_id = ((const Tarn__Wire__Job *)req.resp)->id;
    tarn_rpc_req_fini(&req);
    return rc;
}
