/* SPDX-License-Identifier: Apache-2.0 */
/*
 * worker/worker_priv.h — fetch units, range reads and fills: how the files of worker/ see each
 * other. Owner: the worker's loop, all of it.
 */
#pragma once

#include "lib/base/htab.h"
#include "lib/base/list.h"
#include "lib/base/sm.h"
#include "store/tier/tier.h"
#include "ufs/ufs.h"
#include "worker/worker.h"

#define WUNIT_MAGIC 0x57554e49u /* "WUNI" */

/* Where a file version comes from: a Locator, checked and copied. */
struct wloc {
    uint32_t refs;
    uint64_t ino, version;
    uint32_t attachment;
    tarn_cid_t cid;
    char *key;                   /* relative to the attachment's prefix */
    struct tarn_ufs_version ufs; /* what the bytes must be of */
    struct tarn_tier_file *file; /* referenced; NULL without a tier */
};

/* Checks that the cid is what the store, key and version give, so that nobody can plant bytes under
 * another's cid. */
int wloc_new(struct tarn_worker *w, const Tarn__Wire__Locator *l, struct wloc **ret);
struct wloc *wloc_ref(struct wloc *l);
/* The store as it is attached now; NULL when there is none that gives these bytes any more. */
struct tarn_ufs *wloc_store(struct tarn_worker *w, const struct wloc *l);
void wloc_unref(struct tarn_worker *w, struct wloc **l);

/* ---- fetch units (fetch.c)
 * ------------------------------------------------------------------------------ */

enum wunit_state {
#define WUNIT_STATE(name, next) WUNIT_##name,
#include "worker/unit_states.def"
#undef WUNIT_STATE
};

/* What the units of one attachment share; there is one while there are units of it. */
struct wstore {
    struct tarn_list node; /* in worker->stores; the first one starts next */
    uint32_t attachment;
    uint32_t units;            /* in any state */
    struct tarn_list queue[2]; /* QUEUED units by class */
    uint64_t bytes;            /* of units past QUEUED */
};

struct wunit {
    uint32_t magic;
    struct tarn_hnode hnode; /* in worker->units */
    struct tarn_list node;   /* in a queue while QUEUED, in worker->lingering while LINGERING */
    struct tarn_worker *worker;
    struct wstore *store;
    struct wloc *loc; /* referenced */
    uint32_t group;
    uint64_t off_bytes; /* in the file */
    uint32_t len_bytes;
    unsigned state; /* enum wunit_state */
    enum tarn_ufs_class cls;
    bool background;          /* counts in worker->background_bytes */
    bool keep;                /* there is room: bytes go to the tier */
    bool expired;             /* ended by `timer` */
    int kept_rc;              /* why the bytes are not in the tier, or 0 */
    uint64_t queued_ns;       /* loop time */
    struct tarn_timer timer;  /* of one that had to queue: no progress */
    struct tarn_errbuf err;   /* why it failed */
    struct tarn_buf *buf;     /* len_bytes, filled from the front */
    uint32_t arrived;         /* bytes valid in buf */
    struct tarn_list waiters; /* struct wwait */
    struct tarn_tier_op tier_op;
    struct tarn_ufs_get get;
};

/* Someone who needs the first `need` bytes of a unit. Embedded; valid until fn, which runs once. */
struct wwait {
    struct tarn_list node;
    struct wunit *unit; /* that it waits for */
    uint32_t need;
    bool whole; /* wants the unit kept (or known not to be), not just arrived */
    void (*fn)(struct wwait *wait, struct wunit *u, int rc);
    void *arg;
};

/* Joins or starts the fetch of a group. wait may be NULL (ahead of need). */
void wfetch(struct tarn_worker *w, struct wloc *loc, uint32_t group, enum tarn_ufs_class cls,
            struct wwait *wait);
/* A fetch goes on; one that is still queued and that nobody else waits for is dropped. */
void wfetch_forget(struct wwait *wait);
struct wunit *wfetch_find(struct tarn_worker *w, const tarn_cid_t *cid, uint32_t group);
void wfetch_pump(struct tarn_worker *w);
static inline uint32_t wgroup_of(uint64_t off)
{
    return (uint32_t)(off / TARN_UNIT_BYTES);
}
static inline uint32_t wgroup_len(uint64_t size, uint32_t group)
{
    return (uint32_t)TARN_MIN((uint64_t)TARN_UNIT_BYTES, size - (uint64_t)group * TARN_UNIT_BYTES);
}
static inline uint32_t wgroup_count(uint64_t size)
{
    return (uint32_t)tarn_div_up(size, TARN_UNIT_BYTES);
}

/* ---- range reads (read.c)
 * ----------------------------------------------------------------------------- */

#define WREAD_PARTS_MAX 3

struct wread;
struct wpart {
    struct wread *read;
    uint32_t group;
    uint64_t off_bytes; /* in the file */
    uint32_t len_bytes;
    struct tarn_buf *buf; /* result */
    size_t buf_off;       /* where in it off_bytes is */
    uint32_t served;      /* bytes in worker->serve_bytes */
    unsigned tries;       /* evicted meanwhile: again */
    bool from_store;
    bool waiting; /* wait is on a unit */
    struct wwait wait;
    struct tarn_tier_op op;
    struct tarn_disk_io io;
};

typedef void wread_fn(struct wread *r, int rc);
/* Bytes [off, off + len) of loc. Embedded or heap; valid until cb. */
struct wread {
    struct tarn_worker *worker;
    struct wloc *loc; /* borrowed until cb */
    uint64_t off_bytes;
    uint32_t len_bytes;
    uint32_t ahead_units;
    bool sums; /* off and end are granule-aligned: parts come with granule checksums */
    enum tarn_ufs_class cls;
    struct wpart parts[WREAD_PARTS_MAX];
    unsigned part_count, pending;
    uint64_t *sum; /* out when `sums`: one per granule of the range; the caller's array */
    bool cancelled, done;
    int rc;
    struct tarn_task task;
    wread_fn *cb;
    void *arg;
};
void wread_start(struct tarn_worker *w, struct wread *r);
void wread_cancel(struct wread *r); /* cb follows with CANCELLED once nothing of it is under way */
void wread_fini(struct wread *r);   /* drops the buffers, after cb */

/* ---- ETags (etags.c) ------------------------------------------------------------------------- */

/* The ETag to ask for bytes of `loc` with. */
const char *wetag_of(struct tarn_worker *w, const struct wloc *loc);
/* The tag under which the tier keeps what `g` brought. */
uint64_t wetag_tag(const struct wloc *loc, const struct tarn_ufs_get *g);
/* Before the first byte of an answer is taken: -TARN_E_UFS_CHANGED unless its ETag is that of the
 * cid's other bytes, or nobody has seen any of those. */
int wetag_check(struct tarn_worker *w, const struct wloc *loc, const struct tarn_ufs_get *g);
void wetags_fini(struct tarn_worker *w);

/* ---- the worker
 * --------------------------------------------------------------------------------------- */

struct tarn_worker {
    struct tarn_worker_args args;
    char *cluster_id;
    uint8_t cap_key[32];
    struct tarn_htab units;      /* struct wunit by (cid, group) */
    struct tarn_list stores;     /* struct wstore */
    struct tarn_list lingering;  /* LINGERING units, oldest first */
    struct tarn_buf_pool *bufs;  /* of whole units */
    struct tarn_timer trim;      /* runs while bufs has spare memory */
    struct tarn_htab etags;      /* by cid (etags.c) */
    struct tarn_list etags_fifo; /* the same, oldest first */
    uint64_t fetch_bytes;        /* of units past QUEUED */
    uint64_t background_bytes;   /* of those, of loads */
    uint64_t progress_ns;        /* loop time at which bytes came last, of any store */
    uint64_t serve_bytes;        /* of reads for peers, in memory */
    struct tarn_list reports;    /* struct changed_report under way */
    unsigned report_count;
    uint64_t busy; /* units, reads, fills and reports under way */
    bool pumping;
    bool stopping;
    bool stop_posted;
    void (*stopped)(void *arg);
    void *stopped_arg;
    struct tarn_task stop_task;
    struct tarn_worker_counts counts;
};
void worker_busy(struct tarn_worker *w);
void worker_idle(struct tarn_worker *w); /* may run `stopped`, as a task */
/* Tells the master that an object is another one now. */
void worker_report_changed(struct tarn_worker *w, const struct wloc *loc, int rc);
int worker_check_cap(struct tarn_worker *w, const struct tarn_rpc_call *call, uint32_t attachment,
                     bool write);
void worker_fill_handler(void *ctx, struct tarn_rpc_call *call); /* fill.c */
