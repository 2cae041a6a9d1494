/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ufs/ufs_priv.h — what the files of ufs/ share: the store object, the back ends' vtable, the
 * policy.
 */
#pragma once

#include "lib/base/assert.h"
#include "lib/base/env.h"
#include "ufs/ufs.h"
#include "ufs/ufs_opts.h"

enum ufs_kind { UFS_KIND_STAT = 1, UFS_KIND_LIST, UFS_KIND_GET, UFS_KIND_CHECK };

enum ufs_req_state {
#define TARN_UFS_STATE(name, next) UFS_REQ_##name,
#include "ufs/req_states.def"
#undef TARN_UFS_STATE
};

/*
 * A back end. All calls on the store's loop. It runs one attempt of a request at a time and knows
 * nothing of queues, retries and deadlines. Immutable.
 */
struct tarn_ufs_ops {
    const char *scheme; /* of the URI: "s3" */
    bool root_is_dir;   /* the root needs no asking */
    /*
     * Checks `rest` (the URI behind "scheme://") and u->opts, sets u->store, u->uri, u->store_id,
     * u->prefix and u->where. May read local files, does not ask the store.
     */
    int (*open)(struct tarn_ufs *u, const char *rest, struct tarn_errbuf *err);
    /* What of an open may block, or NULL: tarn_ufs_resolve(). */
    int (*resolve)(const char *rest, char ret[PATH_MAX], struct tarn_errbuf *err);
    /*
     * Begins an attempt and sets r->back_end; ends with tarn_ufs_policy_done(r, rc), never inside
     * this call, having set r->err when rc < 0.
     */
    void (*start)(struct tarn_ufs *u, struct tarn_ufs_req *r);
    /* Gives the attempt up: r is not touched after this call, tarn_ufs_policy_done not called. */
    void (*abort)(struct tarn_ufs *u, struct tarn_ufs_req *r);
    /* True if the attempt has moved since it was asked last (work off the loop); NULL: never. */
    bool (*moved)(struct tarn_ufs_req *r);
    /* True if the attempt waits for its first byte on a connection that was used before; NULL:
     * never. */
    bool (*suspect)(struct tarn_ufs_req *r);
    /* Frees u->store; no attempt runs. Calls tarn_ufs_closed(u), then or later. NULL store is
     * accepted. */
    void (*close)(struct tarn_ufs *u);
};

extern const struct tarn_ufs_ops tarn_ufs_s3_ops;
extern const struct tarn_ufs_ops tarn_ufs_file_ops;

#define UFS_MAGIC 0x75667331u

/* A store. Owner: loop. */
struct tarn_ufs {
    uint32_t magic;                 /* UFS_MAGIC */
    const struct tarn_ufs_ops *ops; /* back end */
    struct tarn_loop *loop;         /* where it lives */
    struct tarn_ufs_opts opts;      /* owned copy */
    char *uri;                      /* without user info, for people */
    char *store_id;                 /* part of every cid */
    char *prefix;                   /* "" or "a/b/" */
    char *where;                    /* " at host:port", or "": for error texts */
    void *store;                    /* the back end's */
    const char *resolved;           /* during open: of tarn_ufs_resolve(), or NULL */

    struct tarn_list queued[2];    /* by class: requests that wait for a slot */
    struct tarn_list running;      /* attempts under way */
    struct tarn_list waiting;      /* backoff */
    struct tarn_list done;         /* results whose delivery is posted */
    unsigned n_queued;             /* requests in both */
    unsigned running_cost;         /* connections in use */
    uint64_t progress_ns;          /* loop time of the last sign of life of the store */
    uint64_t alive_ns;             /* the same, but not moved by the first request after a pause */
    struct tarn_task pump;         /* starts what may start; frees when closing */
    bool pump_posted;              /* it is on its way */
    struct tarn_timer bandwidth;   /* runs while the limit holds requests back */
    int64_t tokens_bytes;          /* what the limit allows now; negative: overdrawn */
    uint64_t tokens_ns;            /* loop time of the last refill */
    struct tarn_rng_seeded jitter; /* of backoffs */
    bool closing;                  /* tarn_ufs_close was called */
    bool back_end_closing;         /* ops->close was called */
    void (*closed)(void *arg);     /* runs when it is gone */
    void *closed_arg;              /* for closed */
    struct tarn_ufs_counts counts; /* running and queued are lengths of the lists */
    struct tarn_ufs_health health; /* health.c */
    void (*went_down)(void *arg);  /* or NULL */
    void *went_down_arg;           /* for went_down */
};

/* ---- policy.c: queue, concurrency, retries, deadlines, bandwidth ---------------------------- */

void tarn_ufs_policy_init(struct tarn_ufs *u);
/* Takes an idle request in; `kind` and the in-fields are set. The result comes by
 * tarn_ufs_req_end(). */
void tarn_ufs_policy_submit(struct tarn_ufs *u, struct tarn_ufs_req *r);
/* Ends a request with `rc` at the next loop turn, without asking the store. */
void tarn_ufs_policy_answer(struct tarn_ufs *u, struct tarn_ufs_req *r, int rc);
void tarn_ufs_policy_cancel(struct tarn_ufs_req *r);
/* Cancels everything and, once nothing is left, closes the back end. */
void tarn_ufs_policy_close(struct tarn_ufs *u);
/* From back ends: `n` bytes arrived for r (0: another sign of life). */
void tarn_ufs_policy_progress(struct tarn_ufs_req *r, size_t n);
/* From back ends: hands bytes to the caller of a get. Negative: stop the attempt with that code. */
int tarn_ufs_policy_data(struct tarn_ufs_get *g, const uint8_t *p, size_t n);
/* From back ends: the attempt is over. May call the caller back; r may be gone afterwards. */
void tarn_ufs_policy_done(struct tarn_ufs_req *r, int rc);

/* ---- health.c ------------------------------------------------------------------------------- */

/* A request of `kind` ended. */
void tarn_ufs_health_note(struct tarn_ufs *u, int kind, int rc, const struct tarn_errbuf *err);

/* ---- ufs.c ---------------------------------------------------------------------------------- */

/* Delivers the result of r; the caller's callback runs inside. */
void tarn_ufs_req_end(struct tarn_ufs_req *r, int rc);
/* Counts a name that is left out of the page, and notes it, escaped. */
void tarn_ufs_list_skip(struct tarn_ufs_list *l, const char *name, size_t n);
/* Forgets the page that an attempt was making. */
void tarn_ufs_list_clear(struct tarn_ufs_list *l);
/* From a back end's close: the store is gone, free the rest and tell. */
void tarn_ufs_closed(struct tarn_ufs *u);

static inline struct tarn_ufs_stat *ufs_req_stat(struct tarn_ufs_req *r)
{
    TARN_ASSERT(r->kind == UFS_KIND_STAT);
    return TARN_CONTAINER(r, struct tarn_ufs_stat, req);
}

static inline struct tarn_ufs_list *ufs_req_list(struct tarn_ufs_req *r)
{
    TARN_ASSERT(r->kind == UFS_KIND_LIST || r->kind == UFS_KIND_CHECK);
    return TARN_CONTAINER(r, struct tarn_ufs_list, req);
}

static inline struct tarn_ufs_get *ufs_req_get(struct tarn_ufs_req *r)
{
    TARN_ASSERT(r->kind == UFS_KIND_GET);
    return TARN_CONTAINER(r, struct tarn_ufs_get, req);
}
