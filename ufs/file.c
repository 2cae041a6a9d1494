/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The file:// back end: a directory of this host or of a mounted file system. Everything that may
 * block runs on threads of its own (file_pool.c). An operation has its own copy of what it was
 * asked, so that a request can end (cancelled, stalled) while a thread is still stuck in a dead NFS
 * server: the operation then goes on as an orphan and frees itself. Closing the back end waits for
 * no thread: an orphan that comes back later touches only what is its own, and the root.
 *
 *   stat    one call
 *   list    one call per page; the sorted names are kept in the store between pages, found by the
 *           token
 *   get     one call per chunk: open once, fstat, pread, fstat; the bytes are handed out on the loop
 *
 * A file whose ctime is younger than its file system's timestamp grain may be changed again without
 * a sign, so a get waits until that cannot be before it reads.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/buf.h"
#include "lib/base/mem.h"
#include "lib/base/name.h"
#include "lib/base/units.h"
#include "lib/disk/probe.h"
#include "ufs/file_pool_priv.h"
#include "ufs/file_priv.h"
#include "ufs/ufs_priv.h"

#define FILE_OP_MAGIC    0x666f7031u
#define FILE_CHUNK_BYTES (1u << 20)
#define FILE_THREADS     8u
#define FILE_SPARE_MAX   8u                   /* chunk buffers kept */
#define FILE_SNAPS_MAX   8u                   /* listings kept between pages */
#define FILE_SNAP_NS     (60 * TARN_NS_PER_S) /* and how long */

/* A listing between two of its pages. */
struct file_kept {
    struct tarn_list node;       /* in store->kept, the oldest first */
    uint64_t id;                 /* in the token */
    uint64_t since_ns;           /* loop time */
    struct tarn_file_snap *snap; /* names */
};

/* Outlives the store for as long as a thread uses it. Immutable but for the counter and flags. */
struct file_root {
    struct tarn_file_root base; /* first */
    _Atomic unsigned refs;      /* the store, and each operation */
};

/* Owner: loop. */
struct file_store {
    struct file_root *root;                 /* served directory; a reference */
    struct tarn_file_pool *pool;            /* threads; NULL once closing */
    struct tarn_list kept;                  /* listings between pages */
    unsigned n_kept;                        /* of them */
    uint64_t last_id;                       /* of a token */
    struct tarn_timer expire;               /* drops listings that nobody asks for */
    struct tarn_buf *spare[FILE_SPARE_MAX]; /* chunk buffers */
    unsigned n_spare;                       /* of them */
    unsigned n_ops;                         /* operations, orphans included */
    bool closing; /* freed when n_ops is 0; orphans on threads do not count */
};

/* One attempt. The loop's, but between submit and callback the pool thread's (atomics: both). */
struct file_op {
    uint32_t magic;                  /* FILE_OP_MAGIC */
    struct tarn_ufs *u;              /* store */
    struct tarn_ufs_req *r;          /* NULL: an orphan */
    struct file_store *store;        /* of u */
    struct tarn_file_job job;        /* work under way */
    struct file_root *root;          /* a reference */
    struct tarn_timer timer;         /* wait for a young file */
    bool submitted;                  /* a pool thread has it */
    _Atomic bool stop;               /* the result is not wanted */
    _Atomic uint64_t beats;          /* signs of life */
    uint64_t beats_seen;             /* when they were asked for last */
    char *key;                       /* copy */
    struct tarn_ufs_attr attr;       /* stat: out */
    char *target;                    /* stat: out */
    struct tarn_ufs_version version; /* get: wanted */
    uint64_t off_bytes;              /* get: of the next chunk */
    struct tarn_buf *buf;            /* get: chunk; len is what to read, then what was read */
    int fd;                          /* get: open file, or -1 */
    uint64_t young_ns;               /* get: out: wait so long, nothing was read */
    bool waited;                     /* get: it was waited for */
    char *from_key;                  /* list: copy */
    unsigned max_entries;            /* list: of a page */
    struct tarn_file_snap *snap;     /* list: names, or NULL */
    struct tarn_file_page page;      /* list: out */
};

static void file_submit(struct file_op *op, tarn_file_job_fn *work);

static struct file_root *file_root_ref(struct file_root *root)
{
    atomic_fetch_add_explicit(&root->refs, 1, memory_order_relaxed);
    return root;
}

/* Any thread. */
static void file_root_unref(struct file_root *root)
{
    if (atomic_fetch_sub_explicit(&root->refs, 1, memory_order_acq_rel) > 1)
        return;
    tarn_mountwatch_fini(&root->base.mounts);
    free(root->base.path);
    free(root);
}

static struct file_op *file_op_of(struct tarn_file_job *job)
{
    struct file_op *op = TARN_CONTAINER(job, struct file_op, job);

    TARN_ASSERT(op->magic == FILE_OP_MAGIC);
    return op;
}

/* ---- on pool threads ------------------------------------------------------------------------ */

static int64_t file_real_ns(void)
{
    struct tarn_clock *c = tarn_clock_system();

    return c->real_ns(c);
}

static int file_stat(struct file_op *op)
{
    TARN_AUTO_FD int fd = -1;
    char target[PATH_MAX];
    struct stat st;
    int rc = tarn_file_open(&op->root->base, op->key, O_PATH, &fd);

    if (rc < 0)
        return rc;
    if (fstat(fd, &st) < 0)
        return -errno;
    if (!tarn_file_attr(&st, &op->attr))
        return -ENOENT; /* special files are not shown */
    if (op->attr.type == TARN_UFS_SYMLINK) {
        ssize_t n = readlinkat(fd, "", target, sizeof(target));

        if (n < 0)
            return -errno;
        if (n == (ssize_t)sizeof(target))
            return -ENAMETOOLONG;
        op->target = tarn_xasprintf("%.*s", (int)n, target);
    }
    return 0;
}

static void file_stat_work(struct tarn_file_job *job)
{
    job->rc = file_stat(file_op_of(job));
}

/* 0 while the open file is the wanted version; *ret_st is how it is now. */
static int file_same(struct file_op *op, struct stat *ret_st)
{
    struct tarn_ufs_attr now;

    if (fstat(op->fd, ret_st) < 0)
        return -errno;
    if (!tarn_file_attr(ret_st, &now) || now.type != TARN_UFS_FILE ||
        !tarn_ufs_version_eq(&now.version, &op->version))
        return -TARN_E_UFS_CHANGED;
    return 0;
}

static int file_read(struct file_op *op)
{
    size_t want = op->buf->len, got = 0;
    struct stat st;
    int rc;

    if (op->fd < 0) {
        rc = tarn_file_open(&op->root->base, op->key, O_RDONLY | O_NONBLOCK | O_NOCTTY, &op->fd);
        if (rc < 0)
            return rc;
    }
    rc = file_same(op, &st);
    if (rc < 0)
        return rc;
    op->young_ns = op->waited ? 0 : tarn_file_young_ns(op->fd, &st, file_real_ns());
    if (op->young_ns)
        return 0;
    while (got < want && !atomic_load_explicit(&op->stop, memory_order_relaxed)) {
        ssize_t n = pread(op->fd, op->buf->p + got, want - got, (off_t)(op->off_bytes + got));

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        got += (size_t)n;
    }
    rc = file_same(op, &st);
    if (rc < 0)
        return rc;
    return got == want ? 0 : -TARN_E_UFS_SHORT;
}

static void file_read_work(struct tarn_file_job *job)
{
    job->rc = file_read(file_op_of(job));
}

static void file_list_work(struct tarn_file_job *job)
{
    struct file_op *op = file_op_of(job);

    job->rc = tarn_file_list(&(struct tarn_file_list_args){.root = &op->root->base,
                                                           .dir = op->key,
                                                           .from_key = op->from_key,
                                                           .max_entries = op->max_entries,
                                                           .max_bytes = TARN_FILE_SNAP_BYTES,
                                                           .beats = &op->beats,
                                                           .stop = &op->stop},
                             &op->snap, &op->page);
}

/* ---- listings between pages ----------------------------------------------------------------- */

static void file_kept_free(struct file_store *s, struct file_kept *k)
{
    tarn_list_del(&k->node);
    s->n_kept--;
    tarn_file_snap_free(&k->snap);
    free(k);
}

static void file_expire_cb(struct tarn_timer *t, void *arg)
{
    struct tarn_ufs *u = arg;
    struct file_store *s = u->store;
    uint64_t now = tarn_loop_now_ns(u->loop);

    TARN_LIST_FOREACH_SAFE(n, &s->kept)
    {
        struct file_kept *k = TARN_LIST_ENTRY(n, struct file_kept, node);

        if (now - k->since_ns >= FILE_SNAP_NS)
            file_kept_free(s, k);
    }
    if (!tarn_list_empty(&s->kept))
        tarn_timer_start(u->loop, t, FILE_SNAP_NS / 2, file_expire_cb, u);
}

/* Keeps op's names for the next page and returns the token. */
static char *file_keep(struct file_op *op)
{
    struct file_store *s = op->store;
    struct file_kept *k = tarn_xnew(struct file_kept);

    if (s->n_kept == FILE_SNAPS_MAX)
        file_kept_free(s, TARN_LIST_ENTRY(s->kept.next, struct file_kept, node));
    k->id = ++s->last_id;
    k->since_ns = tarn_loop_now_ns(op->u->loop);
    k->snap = op->snap;
    op->snap = NULL;
    tarn_list_push(&s->kept, &k->node);
    s->n_kept++;
    if (!tarn_timer_running(&s->expire))
        tarn_timer_start(op->u->loop, &s->expire, FILE_SNAP_NS / 2, file_expire_cb, op->u);
    return tarn_xasprintf("%" PRIu64, k->id);
}

/* The names behind `token`, taken out; NULL when they are gone: the directory is read again then.
 */
static struct tarn_file_snap *file_unkeep(struct file_store *s, const char *token)
{
    uint64_t id;

    if (!token || tarn_parse_u64(token, &id) < 0)
        return NULL;
    TARN_LIST_FOREACH_SAFE(n, &s->kept)
    {
        struct file_kept *k = TARN_LIST_ENTRY(n, struct file_kept, node);

        if (k->id == id) {
            struct tarn_file_snap *snap = k->snap;

            k->snap = NULL;
            file_kept_free(s, k);
            return snap;
        }
    }
    return NULL;
}

/* ---- results -------------------------------------------------------------------------------- */

static struct tarn_buf *file_buf_get(struct file_store *s)
{
    return s->n_spare ? s->spare[--s->n_spare] : tarn_buf_new(FILE_CHUNK_BYTES);
}

static void file_store_free(struct tarn_ufs *u)
{
    struct file_store *s = u->store;

    TARN_ASSERT(s->n_ops == 0);
    TARN_LIST_FOREACH_SAFE(n, &s->kept)
    {
        file_kept_free(s, TARN_LIST_ENTRY(n, struct file_kept, node));
    }
    while (s->n_spare)
        tarn_buf_unref(&s->spare[--s->n_spare]);
    tarn_timer_stop(&s->expire);
    file_root_unref(s->root);
    free(s);
    u->store = NULL;
    tarn_ufs_closed(u);
}

/* Frees what is op's own; any thread. */
static void file_op_release(struct file_op *op)
{
    if (op->fd >= 0)
        (void)close(op->fd); /* read only */
    tarn_buf_unref(&op->buf);
    tarn_file_snap_free(&op->snap);
    tarn_file_page_fini(&op->page);
    file_root_unref(op->root);
    free(op->key);
    free(op->from_key);
    free(op->target);
    op->magic = 0;
    free(op);
}

/* The thread came back when the store was closed. */
static void file_op_drop(struct tarn_file_job *job)
{
    file_op_release(file_op_of(job));
}

/* Not while a pool thread has it. */
static void file_op_free(struct file_op *op)
{
    struct file_store *s = op->store;
    struct tarn_ufs *u = op->u;

    TARN_ASSERT(op->magic == FILE_OP_MAGIC && !op->submitted);
    tarn_timer_stop(&op->timer);
    if (op->buf && s->n_spare < FILE_SPARE_MAX) {
        s->spare[s->n_spare++] = op->buf;
        op->buf = NULL;
    }
    file_op_release(op);
    s->n_ops--;
    if (s->closing && s->n_ops == 0)
        file_store_free(u);
}

static void file_finish(struct file_op *op, int64_t rc)
{
    struct tarn_ufs_req *r = op->r;
    int code = (int)rc;
    bool missing = code == -TARN_E_UFS_NO_BUCKET;

    if (code < 0) {
        const char *why = tarn_strerror(code);

        if (code == -TARN_E_UFS_DOWN)
            why = "the file system that was mounted there is gone";
        if (code == -EDEADLK)
            why = "a mount of tarn lies over the store: unmount it";
        code = tarn_file_code(code);
        (void)tarn_err_set(&r->err, code, "%s%s%.300s: %s", op->u->uri,
                           missing || !*op->key || !op->root->base.path[1] ? "" : "/",
                           missing ? "" : op->key,
                           missing ? "no such directory" : why); /* code is known */
        for (char *p = r->err.text; *p; p++)
            if ((unsigned char)*p < 0x20 || *p == 0x7f)
                *p = '?'; /* a name may hold anything */
    }
    tarn_ufs_policy_done(r, code); /* the caller's callback may run in here */
    file_op_free(op);
}

static void file_stat_done(struct file_op *op)
{
    int64_t rc = op->job.rc;

    if (op->r->kind == UFS_KIND_CHECK) {
        if (rc == 0 && op->attr.type != TARN_UFS_DIR)
            rc = -TARN_E_UFS_NO_BUCKET;
        ufs_req_list(op->r)->complete = true;
    } else if (rc == 0) {
        ufs_req_stat(op->r)->attr = op->attr;
        ufs_req_stat(op->r)->target = op->target;
        op->target = NULL;
        if (ufs_req_stat(op->r)->file_only && op->attr.type != TARN_UFS_FILE)
            rc = -ENOENT;
    }
    file_finish(op, rc);
}

static void file_list_done(struct file_op *op)
{
    struct tarn_ufs_list *l = ufs_req_list(op->r);
    const char *name;

    if (op->job.rc < 0) {
        file_finish(op, op->job.rc);
        return;
    }
    tarn_ufs_list_clear(l);
    l->entries = op->page.entries;
    l->count = op->page.count;
    l->to_key = op->page.to_key;
    op->page.entries = NULL;
    op->page.to_key = NULL;
    l->complete = !l->to_key;
    name = tarn_str_z(&op->page.skipped);
    for (size_t at = 0; at < op->page.skipped.len; at += strlen(name + at) + 1)
        tarn_ufs_list_skip(l, name + at, strlen(name + at));
    free(l->token);
    l->token = op->snap ? file_keep(op) : NULL;
    file_finish(op, 0);
}

static void file_timer_cb(struct tarn_timer *t, void *arg)
{
    (void)t;
    file_submit(arg, file_read_work);
}

static void file_next_chunk(struct file_op *op)
{
    struct tarn_ufs_get *g = ufs_req_get(op->r);

    op->off_bytes = g->off_bytes + g->done_bytes;
    op->buf->len = (size_t)TARN_MIN(g->len_bytes - g->done_bytes, (uint64_t)FILE_CHUNK_BYTES);
    file_submit(op, file_read_work);
}

static void file_read_done(struct file_op *op)
{
    struct tarn_ufs_get *g = ufs_req_get(op->r);
    int rc;

    if (op->job.rc < 0) {
        file_finish(op, op->job.rc);
        return;
    }
    tarn_ufs_policy_progress(op->r, op->young_ns ? 0 : op->buf->len);
    if (op->young_ns) {
        op->waited = true;
        tarn_timer_start(op->u->loop, &op->timer, op->young_ns, file_timer_cb, op);
        return;
    }
    rc = tarn_ufs_policy_data(g, op->buf->p, op->buf->len);
    if (rc < 0) {
        file_finish(op, rc);
    } else if (g->done_bytes == g->len_bytes) {
        g->verified = TARN_VERIFIED_LENGTH;
        file_finish(op, 0);
    } else {
        file_next_chunk(op);
    }
}

static void file_count(struct file_op *op, int64_t rc)
{
    enum tarn_ufs_op what = op->r->kind == UFS_KIND_GET    ? TARN_UFS_OP_GET
                            : op->r->kind == UFS_KIND_LIST ? TARN_UFS_OP_LIST
                                                           : TARN_UFS_OP_STAT;
    enum tarn_ufs_status status = TARN_UFS_STATUS_SERVER;

    if (rc >= 0)
        status = TARN_UFS_STATUS_OK;
    else if (rc == -ENOENT || rc == -TARN_E_UFS_NOT_FOUND)
        status = TARN_UFS_STATUS_NOT_FOUND;
    else if (rc == -EACCES || rc == -EPERM || rc == -TARN_E_UFS_DENIED)
        status = TARN_UFS_STATUS_DENIED;
    else if (rc == -TARN_E_CANCELLED)
        status = TARN_UFS_STATUS_NONE;
    op->u->counts.ended[what][status]++;
}

static void file_job_done(struct tarn_file_job *job)
{
    struct file_op *op = file_op_of(job);

    op->submitted = false;
    if (!op->r) {
        file_op_free(op);
        return;
    }
    file_count(op, job->rc);
    switch ((enum ufs_kind)op->r->kind) {
    case UFS_KIND_STAT:
    case UFS_KIND_CHECK:
        file_stat_done(op);
        break;
    case UFS_KIND_LIST:
        file_list_done(op);
        break;
    case UFS_KIND_GET:
        file_read_done(op);
        break;
    default:
        TARN_UNREACHABLE("request kind");
    }
}

/* ---- attempts ------------------------------------------------------------------------------- */

static void file_submit(struct file_op *op, tarn_file_job_fn *work)
{
    op->job = (struct tarn_file_job){.work = work, .done = file_job_done, .drop = file_op_drop};
    op->submitted = true;
    op->u->counts.requests++;
    tarn_file_pool_submit(op->store->pool, &op->job);
}

/* Delivers an error of the start like one of the work. */
static void file_failed_work(struct tarn_file_job *job)
{
    job->rc = -TARN_E_NO_MEMORY;
}

static void file_start_get(struct file_op *op, struct tarn_ufs_get *g)
{
    op->key = tarn_xstrdup(g->key);
    op->version = g->version;
    op->buf = file_buf_get(op->store);
    if (op->buf)
        file_next_chunk(op);
    else
        file_submit(op, file_failed_work);
}

static void file_start_list(struct file_op *op, struct tarn_ufs_list *l)
{
    op->key = tarn_xstrdup(l->dir);
    op->from_key = tarn_xstrdup(l->from_key);
    op->max_entries = l->max_entries;
    op->snap = file_unkeep(op->store, l->token);
    file_submit(op, file_list_work);
}

static void file_start(struct tarn_ufs *u, struct tarn_ufs_req *r)
{
    struct file_op *op = tarn_xnew(struct file_op);

    op->magic = FILE_OP_MAGIC;
    op->u = u;
    op->r = r;
    op->store = u->store;
    op->root = file_root_ref(op->store->root);
    op->fd = -1;
    r->back_end = op;
    op->store->n_ops++;
    switch ((enum ufs_kind)r->kind) {
    case UFS_KIND_STAT:
        op->key = tarn_xstrdup(ufs_req_stat(r)->key);
        file_submit(op, file_stat_work);
        break;
    case UFS_KIND_CHECK:
        op->key = tarn_xstrdup("");
        file_submit(op, file_stat_work);
        break;
    case UFS_KIND_LIST:
        file_start_list(op, ufs_req_list(r));
        break;
    case UFS_KIND_GET:
        file_start_get(op, ufs_req_get(r));
        break;
    default:
        TARN_UNREACHABLE("request kind");
    }
}

static void file_abort(struct tarn_ufs *u, struct tarn_ufs_req *r)
{
    struct file_op *op = r->back_end;

    (void)u; /* the attempt's */
    TARN_ASSERT(op->magic == FILE_OP_MAGIC);
    if (op->submitted)
        file_count(op, -TARN_E_CANCELLED);
    op->r = NULL;
    atomic_store_explicit(&op->stop, true, memory_order_relaxed);
    if (op->submitted && tarn_file_pool_recall(op->store->pool, &op->job))
        op->submitted = false; /* an orphan would wait for a thread, and keep its memory */
    if (!op->submitted)
        file_op_free(op);
}

static bool file_moved(struct tarn_ufs_req *r)
{
    struct file_op *op = r->back_end;
    uint64_t beats = atomic_load_explicit(&op->beats, memory_order_relaxed);
    bool moved = beats != op->beats_seen;

    op->beats_seen = beats;
    return moved;
}

static int file_uri_bad(struct tarn_errbuf *err)
{
    return tarn_err_set(err, -TARN_E_CONFIG,
                        "a directory's URI has the form file:///absolute/path");
}

/* The directory may be mounted later, or its file server answer again: what is known of it can be
 * used meanwhile. */
bool tarn_ufs_file_later(int err)
{
    switch (err) {
    case ENOENT:
    case ENOTDIR:
    case ENOTCONN:
    case ESTALE:
    case EIO:
    case ETIMEDOUT:
    case EHOSTDOWN:
    case EHOSTUNREACH:
        return true;
    default:
        return false;
    }
}

bool tarn_ufs_file_path(const char *uri, char ret[TARN_PATH_MAX])
{
    const char *rest = strncmp(uri, "file://", 7) == 0 ? uri + 7 : "";

    return rest[0] == '/' && tarn_path_normalize(rest, ret) >= 0;
}

/* Any thread; may block. */
static int file_resolve(const char *rest, char ret[PATH_MAX], struct tarn_errbuf *err)
{
    char path[TARN_PATH_MAX];
    int rc;

    if (rest[0] != '/' || tarn_path_normalize(rest, path) < 0)
        return file_uri_bad(err);
    rc = tarn_probe_realpath(path, ret);
    if (rc < 0) {
        if (!tarn_ufs_file_later(-rc))
            return tarn_err_set(err, rc, "file://%s: %s", path, strerrordesc_np(-rc));
        memcpy(ret, path, strlen(path) + 1);
    }
    return 0;
}

static int file_open_store(struct tarn_ufs *u, const char *rest, struct tarn_errbuf *err)
{
    char found[PATH_MAX];
    const char *real = u->resolved;
    struct file_store *s;
    int rc;

    if (!real) {
        rc = file_resolve(rest, found, err);
        if (rc < 0)
            return rc;
        real = found;
    }
    s = tarn_xnew(struct file_store);
    s->root = tarn_xnew(struct file_root);
    s->root->base.path = tarn_xstrdup(real);
    tarn_mountwatch_init(&s->root->base.mounts);
    atomic_init(&s->root->refs, 1);
    s->pool = tarn_file_pool_new(u->loop, FILE_THREADS);
    tarn_list_init(&s->kept);
    u->uri = tarn_xasprintf("file://%s", real);
    u->store_id = tarn_xstrdup(real);
    u->prefix = tarn_xstrdup("");
    u->where = tarn_xstrdup("");
    u->store = s;
    /* The rest waits where foreground goes first, and where it counts that the store moves. */
    u->opts.max_connections = TARN_MIN(u->opts.max_connections, 2u * FILE_THREADS);
    return 0;
}

static void file_close(struct tarn_ufs *u)
{
    struct file_store *s = u->store;

    s->closing = true;
    s->n_ops -= tarn_file_pool_close(&s->pool); /* theirs are the threads' from now on */
    if (s->n_ops == 0)
        file_store_free(u);
}

const struct tarn_ufs_ops tarn_ufs_file_ops = {
    .scheme = "file",
    .resolve = file_resolve,
    .open = file_open_store,
    .start = file_start,
    .abort = file_abort,
    .moved = file_moved,
    .close = file_close,
};
