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

#define WORKER_PRINCIPAL "worker" /* in the capability of a worker's calls to others */

#define WUNIT_MAGIC 0x57554e49u /* "WUNI" */

/* Where a file version comes from: a Locator, checked and copied. */
struct wloc {
    uint32_t refs;
    uint64_t ino, version;
    uint32_t attachment;
    tarn_cid_t cid;
    char *key;                   /* relative to the attachment's prefix */
    struct tarn_ufs_version ufs; /* what the bytes must be of */
    uint32_t replicas;           /* workers that are to hold it; 0: one */
    struct tarn_tier_file *file; /* referenced; NULL without a tier */
};

/* Checks that the cid is what the store, key and version give, so that nobody can plant bytes under
 * another's cid. */
int wloc_new(struct tarn_worker *w, const Tarn__Wire__Locator *l, struct wloc **ret);
/*
 * By cid and length alone, for what is in the tier: a reader that cannot ask where else the bytes
 * come from. NOT_CACHED when nothing of it is.
 */
int wloc_cached(struct tarn_worker *w, const Tarn__Wire__Locator *l, struct wloc **ret);
struct wloc *wloc_ref(struct wloc *l);
/* The store as it is attached now; NULL when there is none that gives these bytes any more. */
struct tarn_ufs *wloc_store(struct tarn_worker *w, const struct wloc *l);
void wloc_unref(struct tarn_worker *w, struct wloc **l);
/* As a message; *ret and *ret_version borrow from l. */
void wloc_tell(const struct wloc *l, Tarn__Wire__Locator *ret, Tarn__Wire__UfsVersion *ret_version);

/* ---- fetch units (fetch.c)
 * ------------------------------------------------------------------------------ */

enum wunit_state {
#define WUNIT_STATE(name, next) WUNIT_##name,
#include "worker/unit_states.def"
#undef WUNIT_STATE
};

/* Where bytes that are delivered came from; the numbers are those of tarn_local_read.source. */
enum wsource { WSOURCE_LOCAL, WSOURCE_REMOTE, WSOURCE_UFS };

/* What units wait for memory in; the first two are the classes of the store's requests. */
enum wqueue { WQUEUE_FOREGROUND, WQUEUE_BACKGROUND, WQUEUE_FORWARD, WQUEUES };

/* What the units of one attachment share; there is one while there are units of it. */
struct wstore {
    struct tarn_list node; /* in worker->stores; the first one starts next */
    uint32_t attachment;
    uint32_t units;                  /* in any state */
    struct tarn_list queue[WQUEUES]; /* QUEUED units, by enum wqueue */
    uint64_t bytes;                  /* of units past QUEUED, but for those of WQUEUE_FORWARD */
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
    enum wqueue queue;        /* where it waits, or waited */
    bool background;          /* counts in worker->background_bytes */
    bool keep;                /* there is room: bytes go to the tier */
    bool copy;                /* with keep: as a copy of what others own */
    bool forward;             /* a reader here wants it: an owner may be asked to fetch it */
    bool wanted;              /* somebody wants it kept although it is not ours */
    bool expired;             /* ended by `timer` */
    bool late;                /* who may have it was given up because it was busy, or silent */
    int kept_rc;              /* why the bytes are not in the tier, or 0 */
    uint64_t queued_ns;       /* loop time */
    struct tarn_timer timer;  /* of one that had to queue: no progress */
    struct tarn_errbuf err;   /* why it failed */
    struct tarn_buf *buf;     /* len_bytes, filled from the front */
    uint32_t arrived;         /* bytes valid in buf */
    enum wsource source;      /* of them */
    bool complete;            /* all are there */
    uint32_t level;           /* of them, once all are there: enum tarn_verified */
    uint64_t tag;             /* the same: as the tier keeps it */
    struct wask *ask;         /* while ASKING (ask.c) */
    struct tarn_list waiters; /* struct wwait */
    struct tarn_tier_op tier_op;
    struct tarn_ufs *ufs; /* that is asked */
    bool checked;         /* the answer to `get` is of the right object */
    struct tarn_ufs_get get;
};

/* Someone who needs the first `need` bytes of a unit. Embedded; valid until fn, which runs once. */
struct wwait {
    struct tarn_list node;
    struct wunit *unit; /* that it waits for */
    uint32_t need;
    bool whole;     /* wants the unit kept (or known not to be), not just arrived */
    bool end;       /* wants to know level and tag, which the end of the bytes tells */
    uint32_t ahead; /* groups behind it that an owner who fetches it may fetch too */
    void (*fn)(struct wwait *wait, struct wunit *u, int rc);
    void *arg;
};

/*
 * Joins or starts the fetch of a group. wait may be NULL (ahead of need). `own`: it is to be kept
 * here and asked of no owner (a load, or another worker's request).
 */
void wfetch(struct tarn_worker *w, struct wloc *loc, uint32_t group, enum tarn_ufs_class cls,
            bool own, struct wwait *wait);
/* A fetch goes on; one that is still queued and that nobody else waits for is dropped. */
void wfetch_forget(struct wwait *wait);
struct wunit *wfetch_find(struct tarn_worker *w, const tarn_cid_t *cid, uint32_t group);
void wfetch_pump(struct tarn_worker *w);
/* A unit under way will be kept here although another worker owns it. */
bool wfetch_strays(struct tarn_worker *w);
/* From ask.c: it asks others; all bytes are there; it failed; the store is to be asked. */
void wunit_asking(struct wunit *u);
void wunit_arrived(struct wunit *u);
void wunit_failed(struct wunit *u, int rc);
void wunit_from_store(struct wunit *u);
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

/* ---- other workers (ask.c) --------------------------------------------------------------------
 */

/* Begins to ask; false when there is nobody to ask. The unit may be gone afterwards. */
bool wask_start(struct wunit *u);
/* What is being asked ends; the unit fails as stopping, or goes on with the next. */
void wask_cancel(struct wunit *u);
/* The unit is not to wait for an owner (any more). */
void wask_keep_here(struct wunit *u);
/* Whether the group's segment is ours; true without a topology. */
bool wask_owns(const struct tarn_worker *w, const struct wloc *loc, uint32_t group);
bool wask_owner_usable(const struct tarn_worker *w, const struct wloc *loc, uint32_t group);
/* Whether the group was asked for before, as far as 65,536 places tell; remembers that it was. */
bool wrecent_seen(struct tarn_worker *w, const tarn_cid_t *cid, uint32_t group);

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
    unsigned tries;       /* evicted meanwhile: again */
    enum wsource source;
    uint32_t level; /* of the bytes: enum tarn_verified */
    uint64_t tag;   /* the same: as the tier keeps it */
    bool waiting;   /* wait is on a unit */
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
    bool sums;        /* off and end are granule-aligned: parts come with granule checksums */
    bool unchecked;   /* with `sums`: who gets the bytes compares them */
    bool cached_only; /* what is in the tier, or NOT_CACHED */
    bool own;         /* for another worker: as wfetch() */
    struct tarn_buf_account *account; /* of the peer that it is for, with `sums`; referenced */
    bool admitted;                    /* there was room for it */
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

/* ---- handing over (move.c): owner the worker's loop -------------------------------------------
 */

struct tarn_move;
/* `settled` runs when a walk left nothing; may be NULL. */
struct tarn_move *tarn_move_new(struct tarn_worker *w, void (*settled)(void *arg), void *arg);
/* The topology of the worker's peers is another one: begins anew. */
void tarn_move_topology(struct tarn_move *m);
void tarn_move_set_rate(struct tarn_move *m, uint64_t bytes_per_s); /* 0: no limit */
/* How long what was handed over stays, for those that have not heard of it (10 s by default). */
void tarn_move_set_linger(struct tarn_move *m, uint64_t ns);
/* Something came that another worker owns, behind the walk: it has not settled after all. */
void tarn_move_stray(struct tarn_move *m);
/* Nothing is handed over any more; `done` as a task when nothing is under way. Then free. */
void tarn_move_stop(struct tarn_move *m, void (*done)(void *arg), void *arg);
void tarn_move_free(struct tarn_move **m);
struct tarn_move_counts {
    uint64_t left_bytes;    /* that others own and may lack */
    uint64_t moved_bytes;   /* that others kept, since the start */
    uint64_t version;       /* of the topology that it works for; 0: none yet */
    bool settled;           /* a whole walk for that version left nothing */
    uint64_t refused_bytes; /* of the last walk: that an owner had no room for */
    uint64_t refused_by;    /* one of these owners */
};
void tarn_move_counts(const struct tarn_move *m, struct tarn_move_counts *ret);

/* ---- ETags (etags.c) ------------------------------------------------------------------------- */

/* The ETag to ask for bytes of `loc` with. */
const char *wetag_of(struct tarn_worker *w, const struct wloc *loc);
/* Whether bytes of `tag` go with what is known of the cid. file may be NULL. */
bool wetag_fits(struct tarn_worker *w, const tarn_cid_t *cid, const struct tarn_tier_file *file,
                uint64_t tag);
/* As wetag_check(), for bytes that another worker had under `tag`. */
int wetag_check_tag(struct tarn_worker *w, const struct wloc *loc, uint64_t tag);
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
    struct tarn_rpc_server *server; /* says who this is; NULL: not served, or stopped */
    bool ready;                     /* cap_key and args.id are known */
    struct tarn_peers *peers;       /* borrowed; NULL: nobody is asked */
    struct tarn_timer renew;        /* of the capability that other workers are shown */
    uint32_t copies;                /* what is kept of what others own: 0, 1 or 2 */
    uint64_t *recent;               /* wrecent_seen(); NULL: not needed yet */
    struct tarn_move *move;         /* of a member; NULL: none. Not owned */
    void (*changed)(void *arg);     /* a load or a free changed what is cached; may be NULL */
    void *changed_arg;
    struct tarn_htab units;           /* struct wunit by (cid, group) */
    struct tarn_list stores;          /* struct wstore */
    struct tarn_list lingering;       /* LINGERING units, oldest first */
    struct tarn_buf_pool *bufs;       /* of whole units */
    struct tarn_buf_pool *reads;      /* of TARN_READ_MAX, for what goes to others */
    struct tarn_timer trim;           /* runs while one of them has spare memory */
    struct tarn_htab etags;           /* by cid (etags.c) */
    struct tarn_list etags_fifo;      /* the same, oldest first */
    uint64_t fetch_bytes;             /* of units past QUEUED */
    uint64_t background_bytes;        /* of those, of loads */
    uint64_t forward_bytes;           /* of those, of WQUEUE_FORWARD */
    uint64_t progress_ns;             /* loop time at which bytes came last, of any store */
    struct tarn_buf_account *serving; /* answers to reads, until they are sent */
    uint64_t take_bytes;              /* of groups that others hand over, in memory */
    struct tarn_list reports;         /* struct changed_report under way */
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
/* Room for `len` bytes, maybe some that was used before. NULL: no memory. */
struct tarn_buf *worker_buf(struct tarn_worker *w, size_t len);
/* Stopping, or without an identity: why no call is taken; else 0. */
int worker_refuses(const struct tarn_worker *w);
/* Tells the master that an object is another one now. */
void worker_report_changed(struct tarn_worker *w, const struct wloc *loc, int rc);
int worker_check_cap(struct tarn_worker *w, const struct tarn_rpc_call *call, uint32_t attachment,
                     bool write);
/* Counts delivered bytes by origin. */
void worker_count_source(struct tarn_worker *w, const struct wpart *p);
/* As messages; *ret borrows from info, rows and ptrs from the worker. */
void worker_tell_tier(const struct tarn_tier_info *info, Tarn__Wire__Tier *ret);
void worker_tell_reads(const struct tarn_worker *w, Tarn__Wire__ReadCount rows[3],
                       Tarn__Wire__ReadCount *ptrs[3]);
void worker_fill_handler(void *ctx, struct tarn_rpc_call *call); /* fill.c */
void worker_take_handler(void *ctx, struct tarn_rpc_call *call); /* take.c */
