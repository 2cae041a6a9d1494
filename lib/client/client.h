/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lib/client/client.h — what fuse/, tools/ and benchmarks/ need of a cluster: names, attributes,
 * bytes.
 *
 * A client lives on one loop and talks to a master (and workers) through RPC; in `tarn local` the
 * connection is a socketpair in the same process. Names and attributes are kept in a bounded,
 * sharded cache that any thread reads; only a miss is posted to the loop. What the master pushes
 * (Invalidate) drops entries before the callback is told.
 *
 * Bytes of files that the local worker holds are read in place through `struct tarn_local_ops`,
 * which the composing program fills; without it, and for the rest, bytes come by RPC from the
 * workers that own them, granule by granule with their checksums, verified here.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "lib/base/buf.h"
#include "lib/base/err.h"
#include "lib/base/ids.h"
#include "lib/base/name.h"
#include "lib/net/net.h"
#include "lib/rpc/rpc.h"

struct tarn_client;

enum tarn_file_type { TARN_TYPE_FILE = 1, TARN_TYPE_DIR = 2, TARN_TYPE_SYMLINK = 3 };

/* Attributes of one inode in one version. */
struct tarn_attr {
    tarn_ino_t ino;
    tarn_ino_t parent;
    uint64_t version; /* of content and kind */
    tarn_cid_t cid;   /* none for directories and files of 0 bytes */
    uint64_t size_bytes;
    int64_t mtime_ns, ctime_ns;
    uint32_t type; /* enum tarn_file_type */
    uint32_t mode; /* permission bits */
    uint32_t uid, gid;
    uint32_t nlink;
    uint64_t trust_until_ns; /* monotonic; UINT64_MAX: for ever */
};

/* ---- cached answers: any thread, never wait
 * ------------------------------------------------------------- */

enum tarn_cached { TARN_CACHED_MISS, TARN_CACHED_HIT, TARN_CACHED_NEGATIVE };
/* What `name` in `parent` is, if that is known and still trusted. *ret_until_ns: how long (negative
 * answers too). */
enum tarn_cached tarn_client_cached(struct tarn_client *c, tarn_ino_t parent, const char *name,
                                    size_t len, struct tarn_attr *ret_attr, uint64_t *ret_until_ns);

/* ---- calls: may be started on any thread; cb runs once on the client's loop, never inside start
 * ------------ */

struct tarn_client_op;
typedef void tarn_client_fn(struct tarn_client_op *op, int rc);

enum tarn_client_kind {
    TARN_CLIENT_LOOKUP,   /* ino (the parent), name -> attr; NO_ENTRY with until_ns */
    TARN_CLIENT_GETATTR,  /* ino -> attr; `fresh` asks the store where the policy is `always` */
    TARN_CLIENT_READDIR,  /* ino, cookie, max -> resp (ReaddirResponse); fills the cache */
    TARN_CLIENT_READLINK, /* ino -> resp (ReadlinkResponse) */
    TARN_CLIENT_RESOLVE,  /* name (a path) -> attr */
    TARN_CLIENT_LOCATE,   /* ino, version -> resp (LocateResponse) */
    TARN_CLIENT_WHERE     /* ino, version -> resp (WhereResponse) */
};

/* Embedded by the caller, valid until cb, which may free it. */
struct tarn_client_op {
    enum tarn_client_kind kind; /* in */
    tarn_ino_t ino;             /* in */
    uint64_t version;           /* in: LOCATE, WHERE */
    uint64_t cookie;            /* in: READDIR */
    uint32_t max;               /* in: READDIR, entries */
    bool fresh;                 /* in: GETATTR, LOOKUP */
    const char *name;           /* in: borrowed until cb */
    size_t name_len;            /* in */
    struct tarn_attr attr;      /* out */
    uint64_t until_ns;          /* out: of a negative answer, monotonic */
    ProtobufCMessage *resp;  /* out, given to cb: free with protobuf_c_message_free_unpacked(resp,
                                NULL); may be NULL */
    tarn_client_fn *cb;      /* in */
    void *arg;               /* in */
    struct tarn_task task;   /* the client's */
    struct tarn_rpc_req rpc; /* the client's */
    struct tarn_client *client; /* the client's */
    bool sent;                  /* the client's: rpc is in use */
    uint64_t sent_ns;           /* the client's: since when; monotonic */
    bool cancelled;             /* the client's */
};
void tarn_client_start(struct tarn_client *c, struct tarn_client_op *op);
/* Loop's thread. */
void tarn_client_cancel(struct tarn_client_op *op);
/* Attributes out of a wire message; trust counts from `now_ns`. -TARN_E_MSG_BAD. */
int tarn_client_attr_decode(const Tarn__Wire__Attr *w, uint64_t now_ns, struct tarn_attr *ret);

/* ---- bytes
 * ------------------------------------------------------------------------------------------------
 */

struct tarn_handle; /* an open file version */

/* Opens a version for reading; costs no call. The attributes are copied. Any thread. */
struct tarn_handle *tarn_handle_open(struct tarn_client *c, const struct tarn_attr *attr);
void tarn_handle_close(struct tarn_handle **h); /* any thread; reads under way must have ended */

/*
 * Whose bytes were given out of a version: those of another object in its place, which some worker
 * may have, are UFS_CHANGED to the same handle, and to all that share this. Any thread.
 */
struct tarn_object;
struct tarn_object *tarn_object_new(void); /* the first reference is the caller's */
struct tarn_object *tarn_object_ref(struct tarn_object *o);
void tarn_object_unref(struct tarn_object **o);      /* NULL inside is good */
bool tarn_object_mixed(const struct tarn_object *o); /* that has happened */
/* The bytes come from workers. */
bool tarn_handle_remote(const struct tarn_handle *h);
/* Before the first read; the handle takes a reference of its own. */
void tarn_handle_share(struct tarn_handle *h, struct tarn_object *o);
const struct tarn_attr *tarn_handle_attr(const struct tarn_handle *h);
/* True once a read found that the object is another one now: uncached ranges of this handle are
 * EIO. */
bool tarn_handle_stale(const struct tarn_handle *h);

/*
 * Reads what the local cache has, verified: any thread, at most TARN_READ_MAX bytes, costs a pread.
 * Bytes, or -TARN_E_NOT_CACHED: try tarn_handle_try_slices. Never more than the version's length.
 */
int64_t tarn_handle_try_read(struct tarn_handle *h, uint64_t off, uint32_t len, void *dst);

#define TARN_SLICES_MAX 4
struct tarn_slice {
    struct tarn_buf *buf; /* referenced */
    size_t off, len;      /* bytes in it */
};
/*
 * The bytes of [off, off + len), which is in the file and at most TARN_READ_MAX long, where all of
 * them were read ahead from workers: any thread, costs no copy. Returns how many slices, referenced
 * for the caller; 0: not all is there, use tarn_handle_read.
 */
unsigned tarn_handle_try_slices(struct tarn_handle *h, uint64_t off, uint32_t len,
                                struct tarn_slice slices[TARN_SLICES_MAX]);
struct tarn_read;
/*
 * Where the whole file is cached on this machine, and was verified since the start: a descriptor
 * for reading it in place, the caller's to close; whoever reads it is seen by nobody. The bytes
 * stay until the loan is given back, by a handle of the same attributes. NOT_CACHED otherwise; the
 * errno class. Any thread.
 */
int tarn_handle_lend(struct tarn_handle *h, void **ret_loan);
/* Bytes of it were found to be bad: nobody else is to read it. Any thread. */
bool tarn_handle_loan_bad(struct tarn_handle *h, void *loan);
void tarn_handle_give_back(struct tarn_handle *h, void *loan);
/* Counts, for reports, that a file was opened which is read through a loan. Any thread. */
void tarn_handle_lent(struct tarn_handle *h);

typedef void tarn_read_fn(struct tarn_read *r, int rc);
/* Embedded by the caller, valid until cb (on the client's loop). */
struct tarn_read {
    struct tarn_handle *handle; /* in */
    uint64_t off_bytes;         /* in */
    uint32_t len_bytes;         /* in: at most TARN_READ_MAX; 0: nothing comes */
    struct tarn_slice
        slices[TARN_SLICES_MAX]; /* out: the bytes in order; unref'd by the client after cb */
    unsigned slice_count;        /* out */
    uint32_t got_bytes;          /* out: short only at the end of the file */
    tarn_read_fn *cb;            /* in */
    void *arg;                   /* in */
    struct tarn_task task;       /* the client's */
    void *state;                 /* the client's */
    bool cancelled;              /* the client's */
};
void tarn_handle_read(struct tarn_read *r);   /* any thread */
void tarn_handle_cancel(struct tarn_read *r); /* loop's thread; cb follows with CANCELLED */

/* ---- the local worker's data, short-circuited (filled by the program that composes both)
 * -------------------- */

struct tarn_local_read;
typedef void tarn_local_fn(struct tarn_local_read *r, int rc);
struct tarn_local_read {
    void *file;                                /* in: from open */
    const Tarn__Wire__Locator *locator;        /* in: borrowed until cb */
    uint64_t off_bytes;                        /* in */
    uint32_t len_bytes;                        /* in */
    uint32_t ahead_units;                      /* in: fetch that many units behind this range too */
    struct tarn_slice slices[TARN_SLICES_MAX]; /* out, referenced for the caller */
    unsigned slice_count;                      /* out */
    uint32_t source;                           /* out: 0 local cache, 1 a worker, 2 store */
    uint64_t tag;                              /* out: as in ReadResponse */
    tarn_local_fn *cb;                         /* in */
    void *arg;                                 /* in */
    void *state;                               /* the worker's */
};
struct tarn_local_ops {
    void *ctx;
    /* Any thread; never NULL. */
    void *(*open)(void *ctx, const tarn_cid_t *cid, uint64_t length);
    void (*close)(void *ctx, void *file);
    int64_t (*try_read)(void *ctx, void *file, uint64_t off, uint32_t len, void *dst);
    uint64_t (*cached)(void *ctx, void *file); /* bytes present */
    /* tarn_handle_lend() to its end; NULL: nothing is ever lent. */
    int (*lend)(void *ctx, void *file, void **ret_loan);
    bool (*loan_bad)(void *ctx, void *file, void *loan);
    void (*give_back)(void *ctx, void *file, void *loan);
    /* The client's loop, which is the worker's. */
    void (*read)(void *ctx, struct tarn_local_read *r);
    void (*cancel)(void *ctx, struct tarn_local_read *r);
};

/* ---- the client
 * --------------------------------------------------------------------------------------------- */

struct tarn_client_counts { /* bytes delivered since the start, by origin */
    uint64_t local_bytes, remote_bytes, ufs_bytes;
    uint64_t local_reads; /* reads that asked no store */
    uint64_t ahead_bytes; /* now held for what is read ahead from workers */
    uint64_t hedges;      /* parts that a second worker was asked for, since the first was late */
};

/* What is worth what is known, once the lease is over and no master was reached since. */
enum tarn_on_partition {
    TARN_PARTITION_AUTO, /* what is trusted for ever goes on, the rest fails */
    TARN_PARTITION_FAIL, /* nothing: what must be asked fails at once */
    TARN_PARTITION_STALE /* as much as before, beyond its own time too */
};

struct tarn_client_args {
    struct tarn_loop *loop;
    struct tarn_rng *rng;
    const char *addrs;      /* masters; or NULL with conn */
    struct tarn_conn *conn; /* taken: an in-process pair */
    const void *token;
    size_t token_len;
    const char *kind;                   /* "mount", "cli": for reports */
    const char *mountpoint;             /* may be NULL */
    const char *host;                   /* as in tarn_peers_args */
    const struct tarn_local_ops *local; /* copied; may be NULL */
    /* A worker inside this process that keeps nothing and reads stores itself, for when no other
     * can be reached; copied; may be NULL. open, close, read and cancel are used. */
    const struct tarn_local_ops *direct;
    size_t cache_entries;     /* names kept; 0: 262,144 */
    size_t readahead_bytes;   /* read ahead from workers, all handles together; 0: 64 MiB */
    uint64_t timeout_ns;      /* of calls and reads; 0: 30 s, reads 60 s */
    uint64_t lost_timeout_ns; /* without any master; 0: calls wait for their deadlines. With a
                                 lease: that is it */
    uint64_t no_worker_ns;    /* a read waits so long for a worker to come back; 0: 5 s */
    bool transient; /* a command: believes nothing for long, is told of no changes, has no lease */
    enum tarn_on_partition on_partition;
    void *ctx;
    /* Whether `direct` may read this attachment; NULL: none. On the loop. */
    bool (*direct_ok)(void *ctx, uint32_t attachment);
    /* Names or inodes that sessions must forget; on the loop, after the cache dropped them. May be
     * NULL. */
    void (*on_invalidate)(void *ctx, const Tarn__Wire__Invalidate *inv);
    /* The attachments whose stores may be read directly, whenever they change. May be NULL: they
     * are not asked for. On the loop. */
    void (*on_attachments)(void *ctx, const Tarn__Wire__AttachmentList *l);
};
int tarn_client_new(const struct tarn_client_args *args, struct tarn_client **ret);
/*
 * Opens the session (capability, lease); cb(arg, rc) on the loop. Must succeed before anything
 * else. Fails as soon as no address answers.
 */
void tarn_client_connect(struct tarn_client *c, uint64_t timeout_ns, void (*cb)(void *arg, int rc),
                         void *arg);
/*
 * Without a local worker the master is told first, for a second at most and if it is connected, what
 * was read last and that the session is over.
 */
void tarn_client_stop(struct tarn_client *c, void (*done)(void *arg), void *arg);
void tarn_client_free(struct tarn_client **c);
struct tarn_rpc_client *
tarn_client_rpc(struct tarn_client *c); /* for calls that have no wrapper: jobs, status */
struct tarn_loop *tarn_client_loop(struct tarn_client *c);
/* Upper bound of kernel cache times, ns: never beyond the lease. Any thread. */
uint64_t tarn_client_kernel_trust_ns(const struct tarn_client *c);
/* The lease is over, and no master was reached since. Any thread. */
bool tarn_client_cut_off(const struct tarn_client *c);
/* Something that is to be believed until `until_ns` is believed now. Any thread. */
bool tarn_client_trusts(const struct tarn_client *c, uint64_t until_ns);
void tarn_client_counts(struct tarn_client *c, struct tarn_client_counts *ret);
/* Bytes of the file that the local worker has; UINT64_MAX when there is no local worker. Any
 * thread. */
uint64_t tarn_handle_cached(struct tarn_handle *h);
/* For commands: starts op and runs the loop until it is done. */
int tarn_client_sync(struct tarn_client *c, struct tarn_client_op *op);
/* The slices stay the caller's: tarn_buf_unref each. */
int tarn_read_sync(struct tarn_read *r);
