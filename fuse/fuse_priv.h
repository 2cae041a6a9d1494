/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuse/fuse_priv.h — how the files of fuse/ see each other.
 *
 * A request is answered on the FUSE thread that received it, or becomes a `struct fop`: started on
 * the client's loop, answered from there, exactly once.
 */
#pragma once

#define FUSE_USE_VERSION 317
#include <fuse_lowlevel.h>
#include <pthread.h>
#include <stdatomic.h>

#include "fuse/dirpage_priv.h"
#include "fuse/fuse.h"
#include "fuse/mount_priv.h"
#include "fuse/nodes_priv.h"
#include "lib/base/env.h"
#include "lib/base/limits.h"
#include "lib/base/list.h"
#include "lib/base/mem.h"
#include "lib/base/mtx.h"
#include "lib/client/client.h"

#define FUSE_MAGIC  0x46555345u /* "FUSE" */
#define FOP_MAGIC   0x464f5020u /* "FOP " */
#define FFILE_MAGIC 0x4646494cu /* "FFIL" */
#define FDIR_MAGIC  0x46444952u /* "FDIR" */

/* One FUSE thread. Owner: itself; the counters are read by others. */
struct fworker {
    struct tarn_fuse *f;       /* whose */
    unsigned index;            /* of it, from 0 */
    pthread_t thread;          /* joined by stop */
    bool started;              /* thread is valid */
    uint8_t *data;             /* TARN_READ_MAX bytes, page-aligned: cached reads, listings */
    struct fuse_buf buf;       /* the request; libfuse allocates it */
    bool went_async;           /* the request at hand became a fop */
    unsigned op;               /* what it is: fstats_op() */
    uint64_t start_ns;         /* when it was taken */
    _Atomic uint64_t requests; /* received */
    _Atomic uint64_t sync;     /* of them answered here */
};

struct fnotify; /* notify.c */
struct fpass;   /* pass.c */

#define FUSE_OPEN_LISTS 16u

#define FUSE_EPOCH_MINOR 44u /* the protocol, 7.x, that has FUSE_NOTIFY_INC_EPOCH */

/*
 * What the kernel has open. Freed with its last reference: the kernel's, and one per request under
 * way. A kernel whose connection ends releases nothing: what is open then is in the lists.
 */
struct fopen_list {
    struct tarn_mtx mtx;
    struct tarn_list files, dirs; /* Lock: mtx */
};

struct tarn_fuse {
    uint32_t magic;
    struct tarn_fuse_args args; /* copied; the texts too */
    char *source, *mountpoint;
    struct fuse_session *se; /* NULL once stopped */
    struct fmount mount;
    struct tarn_fnodes *nodes;
    struct fnotify *notify;
    struct fpass *pass;
    struct tarn_stats *stats;
    struct fworker *workers;
    unsigned worker_count;
    uint64_t entry_cap_ns; /* names are not trusted longer by the kernel; set by INIT */
    unsigned proto_minor;  /* set by INIT */

    /* Lock: mtx. */
    struct tarn_mtx mtx;
    struct tarn_cond cond; /* under_way became 0, or INIT came, or a worker ended */
    struct tarn_list ops;  /* struct fop under way */
    size_t under_way;
    bool inited;
    bool stopping; /* nothing new goes to the loop */
    bool failed;   /* a worker ended before INIT */

    struct fopen_list opens[FUSE_OPEN_LISTS]; /* by the thread that opened */

    _Atomic bool ended;        /* on_end was called, or never will be */
    _Atomic bool kernel_ended; /* a worker found that the session is over */
    _Atomic uint64_t open_files;

    /* Owner: loop. */
    struct tarn_timer sweep;
    struct tarn_task stop_task, cancel_task;
    pthread_t stopper;
    bool stopper_started;
    void (*stop_done)(void *arg);
    void *stop_arg;
};

/* The worker whose thread this is; NULL on the loop. */
struct fworker *fworker_self(void);

/* ---- requests that need the loop (fop.c) ----------------------------------------------------- */

/* How an error is told to the kernel. */
enum fop_class {
    FOP_NAME,  /* lookup, getattr, open: ENOENT, ESTALE, EACCES ... are told apart */
    FOP_DIR,   /* listings: EIO, EACCES. ENOENT would look like the end to readdir(3) */
    FOP_READ,  /* EIO */
    FOP_EXACT, /* xattrs and refusals: the errno of the code */
};

/* An open file. */
struct ffile {
    uint32_t magic;
    _Atomic uint32_t refs;
    struct tarn_fuse *f;
    struct fopen_list *list;
    struct tarn_list node; /* in list->files */
    struct tarn_handle *handle;
    uint64_t pass_id; /* pass.c: node whose open files it counts in; 0: none */
};

/* An open directory with the page of it that was fetched last. */
struct fdir {
    uint32_t magic;
    _Atomic uint32_t refs;
    struct fopen_list *list;
    struct tarn_list node; /* in list->dirs */
    tarn_ino_t ino;
    uint64_t id;         /* the node's */
    bool cached;         /* the kernel keeps what it reads */
    struct tarn_mtx mtx; /* of the next one */
    struct fpage *page;  /* NULL: none yet */
};

struct fop;
typedef void fop_fn(struct fop *o, int rc);

/*
 * A request under way on the loop. Owner: the FUSE thread until it is started, then the loop; the
 * atomics are any thread's. It ends on the loop: fn replies, then it is freed.
 */
struct fop {
    uint32_t magic;
    struct tarn_fuse *f;
    fuse_req_t req;
    enum fop_class cls;
    fop_fn *fn;
    struct tarn_list node; /* in f->ops */
    unsigned op_kind;      /* fstats_op() of the request */
    uint64_t start_ns;     /* when it was taken */
    uint64_t deadline_ns;  /* UINT64_MAX: reads have their own */
    _Atomic uint32_t refs; /* the call's, its starter's, the cancel task's */
    _Atomic int why;       /* code with which it was cancelled; 0: it was not */
    _Atomic bool posted;   /* the client has it */
    bool passed;           /* the cancel task saw `posted` before: the client began */
    bool done;             /* ended */
    bool is_read;          /* `read` and not `op` is used */
    struct tarn_task cancel_task;
    struct tarn_client_op op;
    struct tarn_read read;
    uint64_t id;                  /* node of the request */
    uint64_t off;                 /* readdir: kernel's offset */
    size_t size;                  /* of the answer */
    bool plus;                    /* readdirplus */
    struct fuse_file_info fi;     /* open */
    struct ffile *file;           /* read; referenced */
    struct fdir *dir;             /* readdir; referenced */
    char name[TARN_NAME_MAX + 1]; /* lookup, getxattr */
};

/* ---- times (stats.c) ----------------------------------------------------------------------- */

struct tarn_stats;
struct tarn_stats *fstats_new(void);
unsigned fstats_op(const void *request); /* of a request as the kernel wrote it */
void fstats_took(struct tarn_fuse *f, unsigned op, uint64_t ns);
void fstats_opened(struct tarn_fuse *f, bool passthrough);

/* The only way to an errno: answers `req` with the error `rc` (negative). */
void fop_reply_err(fuse_req_t req, enum fop_class cls, int rc);
/*
 * A request for the loop; NULL when the session is stopping (the request was answered). The caller
 * fills in what the call needs and starts it; fn replies on the loop.
 */
struct fop *fop_new(fuse_req_t req, enum fop_class cls, fop_fn *fn);
void fop_start_op(struct fop *o);
void fop_start_read(struct fop *o);
/* Loop. Cancels everything under way; each is answered with `rc`. */
void fop_cancel_all(struct tarn_fuse *f, int rc);
/* Loop. Cancels what is past its deadline. */
void fop_sweep(struct tarn_fuse *f, uint64_t now_ns);

/* ---- operations ------------------------------------------------------------------------------ */

struct tarn_fuse *fuse_of(fuse_req_t req);
/* Seconds that the kernel may believe what is trusted until `until_ns`. */
double fuse_timeout(const struct tarn_fuse *f, uint64_t until_ns);
void fuse_stat(const struct tarn_attr *a, struct stat *ret);
/* An entry for the kernel, with its lookup counted: undo with fnode_forget if it does not go out.
 */
void fuse_entry(struct tarn_fuse *f, const struct tarn_attr *a, uint64_t gen,
                struct fuse_entry_param *ret);

void fuse_ops_meta(struct fuse_lowlevel_ops *ops);
void fuse_ops_dir(struct fuse_lowlevel_ops *ops);
void fuse_ops_file(struct fuse_lowlevel_ops *ops);
void fuse_ops_xattr(struct fuse_lowlevel_ops *ops);
/*
 * Opens the file of node `id` and answers `req`. It may wait for the disk where the file is large:
 * on the loop fpass_open_later() instead.
 */
void ffile_open(struct tarn_fuse *f, fuse_req_t req, uint64_t id, const struct tarn_attr *attr,
                struct fuse_file_info *fi);
void ffile_put(struct ffile *file);
void fdir_put(struct fdir *dir);
/* The list for what this thread opens. */
struct fopen_list *fopen_list_mine(struct tarn_fuse *f);
/* Closes what the kernel has not released; nothing is under way. */
void fopen_close_all(struct tarn_fuse *f);

/* ---- passthrough (pass.c) -------------------------------------------------------------------- */

int fpass_new(struct tarn_fuse *f, struct fpass **ret); /* with its thread. errno class */
void fpass_stop(struct fpass *p);  /* ends the thread; nothing comes from the loop any more */
void fpass_free(struct fpass **p); /* nothing is open */
/* ffile_open(), on a thread that may wait for a disk. Loop. */
void fpass_open_later(struct tarn_fuse *f, fuse_req_t req, uint64_t id,
                      const struct tarn_attr *attr, const struct fuse_file_info *fi);
void fpass_offer(struct fpass *p, bool usable); /* INIT: whether the kernel has it */
/*
 * Decides how `file` of node `id`, being opened, is read, and says so in `fi`. False: what the node
 * reads is not to be opened any more.
 */
bool fpass_open(struct ffile *file, uint64_t id, struct fuse_file_info *fi);
/* The kernel has released it, or will not open it. A second call does nothing. */
void fpass_release(struct ffile *file);

/* ---- the notifier (notify.c) ----------------------------------------------------------------- */

int fnotify_new(struct tarn_fuse *f, struct fnotify **ret); /* with its thread. errno class */
/* Ends the thread; waits for a call into the kernel. Later pushes are dropped. */
void fnotify_stop(struct fnotify *n);
void fnotify_free(struct fnotify **n);
/* Any thread. Node tables have been switched before. */
void fnotify_push(struct fnotify *n, tarn_ino_t parent, const char *name, size_t len,
                  tarn_ino_t ino, bool gone);
void fnotify_everything(struct fnotify *n);

/* ---- the session's end (stop.c) -------------------------------------------------------------- */

/* Ends and joins the FUSE threads, and the session. The mount is detached, nothing is under way. */
void fuse_threads_end(struct tarn_fuse *f);
