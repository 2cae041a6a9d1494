/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ufs/ufs.h — under file systems: the stores that Tarn stands in front of (s3, file; later oss,
 * hdfs, http).
 *
 * A store is opened from a URI and options and lives on one loop; every call is made on that loop,
 * every callback runs on it, exactly once and never inside the submitting call. Requests are
 * embedded by the caller and valid until their callback. Strings handed in are copied; strings in
 * results are valid during the callback only.
 *
 * One policy for all stores lives in ufs.c, above the back ends: at most `max-connections` requests
 * at a time (FIFO per class, foreground before background), retries with exponential backoff and
 * jitter for errors of class BACKOFF (`retries` times), a deadline that means "no progress for
 * `timeout`", and a bandwidth limit.
 *
 * Keys are relative to the URI's prefix, never start with '/', and are at most TARN_KEY_MAX bytes.
 * A directory's key ends with '/', the root's is "".
 */
#pragma once

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include "lib/base/err.h"
#include "lib/base/ids.h"
#include "lib/base/limits.h"
#include "lib/base/list.h"
#include "lib/base/name.h"
#include "lib/base/str.h"
#include "lib/net/net.h"

struct tarn_ufs;
struct tarn_ufs_opts; /* ufs/ufs_opts.h: the options of INTERFACE.md (endpoint, region, key-file, …)
                       */

enum tarn_ufs_type { TARN_UFS_FILE = 1, TARN_UFS_DIR = 2, TARN_UFS_SYMLINK = 3 };

/* What makes an object's bytes what they are. Two equal versions have equal bytes. */
struct tarn_ufs_version {
    uint64_t size_bytes;          /* length */
    int64_t mtime_ns;             /* Last-Modified or st_mtim, ns since 1970 */
    int64_t ctime_ns;             /* st_ctim; 0 where the store has none */
    uint64_t file_id;             /* st_ino mixed with st_dev; 0 where the store has none */
    char etag[TARN_ETAG_MAX + 1]; /* without quotes, `W/` kept; "" where the store has none */
};

struct tarn_ufs_attr {
    enum tarn_ufs_type type;
    struct tarn_ufs_version version; /* of a FILE; of others only mtime */
    bool has_owner;                  /* the three below come from the store */
    uint32_t mode;                   /* permission bits */
    uint32_t uid, gid;
};

enum tarn_ufs_class { TARN_UFS_FOREGROUND, TARN_UFS_BACKGROUND };

/* What a version's check against the store's answer amounted to; stored with cached bytes. */
enum tarn_verified {
    TARN_VERIFIED_NONE,
    TARN_VERIFIED_LENGTH,
    TARN_VERIFIED_ETAG,
    TARN_VERIFIED_STORE_CHECKSUM
};

/* ---- open ----------------------------------------------------------------------------------- */

struct tarn_ufs_args {
    struct tarn_loop *loop;           /* where it lives */
    const char *uri;                  /* s3://bucket/prefix, file:///dir */
    const struct tarn_ufs_opts *opts; /* copied */
    const char *resolved;             /* what tarn_ufs_resolve() gave; NULL: found out at open */
};

/*
 * What may block of an open: of file:// the canonical path, for which a dead file server is waited
 * for 3 s; "" of other stores. Any thread. CONFIG, errno class. A path that cannot be resolved now,
 * but perhaps later, is given as it is.
 */
int tarn_ufs_resolve(const char *uri, char ret[PATH_MAX], struct tarn_errbuf *err);
/* The normalized path of a file:// URI; false: another store's, or malformed. */
bool tarn_ufs_file_path(const char *uri, char ret[TARN_PATH_MAX]);
/* Whether opening goes on without the canonical path, after this errno of the probe. */
bool tarn_ufs_file_later(int err);

/* Checks the URI and options and finds credentials; does not ask the store. CONFIG,
 * UFS_CREDENTIALS, UNSUPPORTED. */
int tarn_ufs_open(const struct tarn_ufs_args *args, struct tarn_errbuf *err,
                  struct tarn_ufs **ret_ufs);
/* Requests in flight end with -TARN_E_CANCELLED; `closed` runs when none is left, then the store is
 * gone. */
void tarn_ufs_close(struct tarn_ufs **u, void (*closed)(void *arg), void *arg);
const char *tarn_ufs_uri(const struct tarn_ufs *u); /* without user info */
/* S3: endpoint host:port + bucket; file: canonical path; or the option store-id. Part of every cid.
 */
const char *tarn_ufs_store_id(const struct tarn_ufs *u);
const char *tarn_ufs_prefix(const struct tarn_ufs *u); /* "" or "a/b/": what a key is relative to */

/*
 * The content id of `key` (relative) in `version`: SHA-256 over length-prefixed fields (isolation
 * domain, store identity, full key, ETag + size, or file id + mtime + ctime + size where there is
 * no ETag, or size + mtime), cut to 128 bits; docs/formats/cid.md. Pure.
 */
tarn_cid_t tarn_ufs_cid(const char *isolation, const char *store_id, const char *full_key,
                        const struct tarn_ufs_version *version);
/* The same for a store and a relative key. */
tarn_cid_t tarn_ufs_cid_of(const struct tarn_ufs *u, const char *isolation, const char *key,
                           const struct tarn_ufs_version *version);
bool tarn_ufs_version_eq(const struct tarn_ufs_version *a, const struct tarn_ufs_version *b);

/* ---- requests ------------------------------------------------------------------------------- */

struct tarn_ufs_req; /* the policy's part, first in each request */

/* Private to ufs/, but embedded by callers, so its size must be known. Zeroed is idle. */
struct tarn_ufs_req {
    struct tarn_list node;   /* queue or running list */
    struct tarn_ufs *ufs;    /* the store */
    int kind;                /* which of the structs below this is */
    unsigned state;          /* ufs/req_states.def */
    enum tarn_ufs_class cls; /* in */
    unsigned attempt;        /* tries so far */
    unsigned cost;           /* connections that an attempt takes */
    struct tarn_timer timer; /* backoff or no progress */
    uint64_t progress_ns;    /* loop time of the last byte */
    uint64_t charged_bytes;  /* taken from the bandwidth limit, not received yet */
    uint64_t attempt_bytes;  /* received by the attempt under way */
    uint64_t retry_after_ns; /* what the store asked for with its last refusal */
    void *back_end;          /* the attempt under way */
    bool cancelled;          /* by the caller */
    bool in_data;            /* on_data is running */
    bool stopped;            /* on_data asked for the end: not to be tried again */
    int last_rc;             /* of the attempt before */
    struct tarn_task task;   /* delivers results that are ready at once */
    struct tarn_errbuf err;  /* out: text for people: store, object, reason */
};

struct tarn_ufs_stat;
typedef void tarn_ufs_stat_fn(struct tarn_ufs_stat *s, int rc);

/*
 * What is `key` (no trailing slash; "" is the root)? On an object store HEAD `key` and LIST `key/`
 * (max-keys 1) run in parallel: the directory wins. -TARN_E_UFS_NOT_FOUND only from a 404 and an
 * empty LIST.
 */
struct tarn_ufs_stat {
    struct tarn_ufs_req req;
    char *key;                 /* copy, freed by ufs */
    bool file_only;            /* in: HEAD alone: has this object still that version? */
    struct tarn_ufs_attr attr; /* out */
    char *target;              /* out: of a SYMLINK; valid during the callback, freed by ufs */
    tarn_ufs_stat_fn *cb;      /* in */
    void *arg;                 /* in: the caller's */
};
void tarn_ufs_stat(struct tarn_ufs *u, struct tarn_ufs_stat *s, const char *key);

struct tarn_ufs_entry {
    const char *name; /* one component; not NUL-free-checked names never get here */
    size_t name_len;
    struct tarn_ufs_attr attr;
    const char *target; /* of a SYMLINK, else NULL */
};

struct tarn_ufs_list;
typedef void tarn_ufs_list_fn(struct tarn_ufs_list *l, int rc);

/*
 * One page of the directory `dir` ("" or "a/b/"), in ascending key order, where a directory's key
 * ends with '/' (so `a-b` sorts before `a/`). A page says which range of keys it covers: everything
 * after `from_key` up to and including `to_key`; the last page covers the rest. Names that cannot
 * be names ("", ".", "..", too long, with NUL, a key `dir//x`) are left out and counted; the marker
 * object `dir/` is the directory itself and left out silently; of `a` and `a/` the directory is
 * kept (they may be on different pages: the caller lets the directory win). file://: sorted by the
 * same order; special files are skipped and counted; symlinks are entries.
 */
struct tarn_ufs_list {
    struct tarn_ufs_req req;
    char *dir;      /* copy, freed by ufs */
    char *from_key; /* in/out copy: key order position, relative to dir; "" = start. To resume after
                       a restart give the last to_key */
    char *token;    /* in/out: the store's continuation, NULL at the start or after a restart */
    unsigned max_entries;           /* in: at most TARN_LIST_PAGE_ENTRIES */
    struct tarn_ufs_entry *entries; /* out: valid during the callback */
    size_t count;                   /* out */
    char *
        to_key; /* out: last key covered (relative, with '/' for directories); NULL when complete */
    bool complete;                 /* out: nothing comes after this page */
    uint64_t skipped;              /* out: names left out of this page */
    struct tarn_str skipped_names; /* out: those names, one per line, escaped, at most 64 KiB */
    tarn_ufs_list_fn *cb;          /* in */
    void *arg;                     /* in */
};
/* First page: l->from_key, l->token NULL. Next page: call again with the same struct from the
 * callback or later. */
void tarn_ufs_list(struct tarn_ufs *u, struct tarn_ufs_list *l, const char *dir);
/* Frees what the struct holds; not while a call is under way. */
void tarn_ufs_list_fini(struct tarn_ufs_list *l);

struct tarn_ufs_get;
typedef void tarn_ufs_get_fn(struct tarn_ufs_get *g, int rc);
/*
 * The next `n` bytes of the range, in order, without gap or repetition (a retry goes on where the
 * last attempt stopped). Negative: stop; the request ends with that code.
 */
typedef int tarn_ufs_data_fn(struct tarn_ufs_get *g, const uint8_t *p, size_t n);

/*
 * Bytes [off, off + len) of `key`, exactly of `version`: conditional (If-Match,
 * If-Unmodified-Since), and every answer's ETag, total length and range are compared too, since
 * some servers ignore conditions; file:// compares (id, mtime, ctime, size) before and after. On
 * 412, or a differing ETag with equal size and mtime in seconds, HEAD once: LIST and HEAD may
 * disagree on the ETag (then `adopted` tells the store's own). Errors: -TARN_E_UFS_CHANGED when the
 * object is another one now (also when it is gone: UFS_NOT_FOUND), UFS_SHORT, UFS_LIED,
 * UFS_STALLED, UFS_DENIED, UFS_SERVER, …
 */
struct tarn_ufs_get {
    struct tarn_ufs_req req;
    char *key;                       /* copy, freed by ufs */
    struct tarn_ufs_version version; /* copy of in */
    uint64_t off_bytes, len_bytes;   /* in: within the version's size, len > 0 */
    uint64_t done_bytes;             /* out so far */
    enum tarn_verified verified;     /* out */
    bool adopted;                    /* out: version.etag was replaced by what HEAD says */
    tarn_ufs_data_fn *on_data;       /* in */
    tarn_ufs_get_fn *cb;             /* in */
    void *arg;                       /* in */
};
void tarn_ufs_get(struct tarn_ufs *u, struct tarn_ufs_get *g, const char *key,
                  const struct tarn_ufs_version *version);

/* The callback still comes, with -TARN_E_CANCELLED unless the request was ending anyway. Any of the
 * three. */
void tarn_ufs_cancel(struct tarn_ufs_req *r);

/*
 * Does the store answer at all? For attach: name resolution, TLS, credentials, bucket, prefix, in
 * this order, so that the error says which. An empty prefix that no object has is UFS_NO_BUCKET
 * unless it is the bucket's root.
 */
struct tarn_ufs_check;
typedef void tarn_ufs_check_fn(struct tarn_ufs_check *c, int rc);
struct tarn_ufs_check {
    struct tarn_ufs_list list; /* ufs's */
    tarn_ufs_check_fn *cb;     /* in */
    void *arg;                 /* in */
};
void tarn_ufs_check(struct tarn_ufs *u, struct tarn_ufs_check *c);

/* What was asked of a store, and how an attempt ended: labels of tarn_ufs_requests_total. */
enum tarn_ufs_op { TARN_UFS_OP_STAT, TARN_UFS_OP_LIST, TARN_UFS_OP_GET, TARN_UFS_OP_COUNT };
enum tarn_ufs_status {
    TARN_UFS_STATUS_OK,
    TARN_UFS_STATUS_NOT_FOUND,
    TARN_UFS_STATUS_DENIED,
    TARN_UFS_STATUS_THROTTLED,
    TARN_UFS_STATUS_REFUSED, /* another answer that is the asker's fault: 4xx */
    TARN_UFS_STATUS_SERVER,  /* 5xx */
    TARN_UFS_STATUS_NONE,    /* no whole answer: connection, TLS, stall, cancelled */
    TARN_UFS_STATUS_COUNT
};

/* Counters of one store, for reports; read on its loop. */
struct tarn_ufs_counts {
    /* Attempts, by how they ended; also requests that stalled before their first one. */
    uint64_t ended[TARN_UFS_OP_COUNT][TARN_UFS_STATUS_COUNT];
    uint64_t requests;   /* sent to the store, retries included */
    uint64_t read_bytes; /* bodies received */
    uint64_t retries;
    uint64_t failures; /* requests that ended with an error other than not found */
    uint64_t running, queued;
};
void tarn_ufs_counts(const struct tarn_ufs *u, struct tarn_ufs_counts *ret);

bool tarn_ufs_idle(const struct tarn_ufs *u); /* no request is under way or waits */

/* Whether the store answers, as the last request of any kind found that tells. */
struct tarn_ufs_health {
    int rc;                 /* 0: it does, or was not asked yet; else why not */
    struct tarn_errbuf err; /* text for people, when rc < 0 */
    uint64_t down_since_ns; /* loop time of the first failure since the last answer */
    uint64_t heard_ns;      /* loop time of the last byte or answer; 0: none yet */
};
const struct tarn_ufs_health *tarn_ufs_health(const struct tarn_ufs *u);
/* `went_down` runs when a request finds the store down that was not; it must not ask at once. */
void tarn_ufs_watch(struct tarn_ufs *u, void (*went_down)(void *arg), void *arg);
/* A caller lost its patience with a question: counts as a failure if nothing else failed. */
void tarn_ufs_unanswered(struct tarn_ufs *u, int rc, const struct tarn_errbuf *err);
/* The store itself said something: success, or a refusal such as 404 or 403. */
bool tarn_ufs_answer(int rc);
/* Errors of questions (not of gets) that say nothing about the name: the store is down, slow,
 * broken. */
bool tarn_ufs_no_answer(int rc);

/* The option `timeout`, and the loop time of the store's last sign of life (also: of our own
 * bandwidth limit holding requests back). For those who queue in front of it. */
uint64_t tarn_ufs_timeout_ns(const struct tarn_ufs *u);
uint64_t tarn_ufs_alive_ns(const struct tarn_ufs *u);
