/* SPDX-License-Identifier: Apache-2.0 */
/*
 * master/master_priv.h — how the files of master/ (svc and jobs) see each other. Owner: the
 * master's loop.
 *
 * Nothing here waits: what needs a store or the journal goes on in a callback. Committed state is
 * read from the key-value store at any time (master/core/core.h); what is kept in memory beside it
 * is bounded and may be forgotten.
 */
#pragma once

#include "lib/base/htab.h"
#include "lib/base/list.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"
#include "lib/client/peers.h"
#include "lib/disk/disk.h"
#include "master/core/core.h"
#include "master/core/journal.h"
#include "master/master.h"
#include "ufs/ufs.h"

#define MASTER_REFRESH_WAIT_NS (1000 * TARN_NS_PER_MS) /* a refresh keeps nobody waiting longer */
#define MASTER_PROBE_NS        (5 * TARN_NS_PER_S) /* a store that failed is tried again this often */
#define MASTER_ASKS_LIST       8u     /* single names asked in a directory that start its listing */
#define MASTER_DIRS_MAX        16384u /* directories remembered in memory */
#define MASTER_LISTINGS_MAX    4096u  /* listings under way that clients may start */
#define MASTER_LONE_WORKER     1u     /* id of the worker in a process that is all three */

struct mlisting;

/* ---- attachments (attach.c)
 * ------------------------------------------------------------------------------- */

/*
 * A store at a place of the name space, or (id 0) the directories of no store. Referenced by the
 * master's table, by directories in memory and by calls. After a detach it is in the table no more
 * and `gone`; its store is closed when the last reference goes.
 */
struct mattach {
    struct tarn_list node; /* in master->attachments, or in master->gone_attachments */
    struct tarn_master *master;
    unsigned refs;
    bool gone; /* detached */
    uint32_t id;
    tarn_ino_t root;
    Tarn__Core__Attachment *rec;        /* as committed; secrets are wiped with it. NULL: id 0 */
    const char *path, *uri, *isolation; /* in rec */
    struct tarn_ufs *ufs; /* NULL: it could not be opened (open_err), or the master stops */
    struct tarn_errbuf open_err;
    uint64_t ttl_ns; /* TARN_TTL_* or a duration */
    uint32_t uid, gid, file_mode, dir_mode;
    bool down;         /* the last question failed without an answer; probed in the background */
    bool asked_again;  /* since it went down, by a probe; false once a name was answered, or when it
                         goes down after it was up for long */
    bool probe_failed; /* the last one of this outage */
    uint64_t up_since_ns;   /* loop time */
    uint64_t late_until_ns; /* loop time: a refresh was not answered in time; until then, or until
                               an answer, old metadata is in force at once */
    int64_t since_ns;       /* real time of the first attach, journalled: mtime of directories that
                               have none */
    uint64_t stale_answers;
    struct tarn_ufs_check check;
    const struct tarn_ufs *checked; /* by it; only compared */
    bool checking;
    struct tarn_timer probe; /* or, without a store, the next try to open it */
};
struct mattach *mattach_ref(struct mattach *a);
void mattach_unref(struct mattach **a);
/* The attachment whose root that is, or NULL. */
struct mattach *mattach_by_root(struct tarn_master *m, tarn_ino_t ino);
struct mattach *mattach_by_path(struct tarn_master *m, const char *path);
/* One that lies below `path`, or NULL. */
struct mattach *mattach_below(struct tarn_master *m, const char *path);
/* What was detached: asks no more. Drops the table's reference. */
void mattach_drop(struct mattach *a);

/*
 * What workers and direct clients are told: all attachments, or those that mounts may read
 * themselves, with their secrets. `version` grows with each change, also over restarts.
 */
struct mattach_list {
    Tarn__Wire__AttachmentList msg;
    Tarn__Wire__AttachmentInfo *rows, **ptrs; /* texts are the attachments': valid until the loop
                                                 goes on */
};
void mattach_list(struct tarn_master *m, bool only_direct, struct mattach_list *ret);
void mattach_list_fini(struct mattach_list *l);
/* What was attached, changed or detached by entry `index` is in the table: runs m->on_attachments.
 */
void mattach_changed(struct tarn_master *m, uint64_t index);

/* An attach under way, or an update. */
struct mattach_op;
typedef void mattach_op_fn(void *arg, int rc, uint32_t id, const struct tarn_errbuf *err);
struct mattach_want {
    const Tarn__Core__Attachment *rec; /* as it is to be; id 0: a new one. Copied */
    const struct tarn_ufs_opts *opts;  /* copied; NULL: an update that leaves the store as it is */
    bool resolve;                      /* off the loop */
    const Tarn__Core__Attachment *known; /* what is attached: the same store. NULL: nothing */
    bool own_dir;                        /* for tarn_master_attach() */
    bool check;                          /* ask it first, within: */
    uint64_t check_timeout_ns;
};
/*
 * Opens the store, asks it, commits. fn runs once, never inside this call, when the entry is
 * durable and the attachment in use, or when it failed: `err` then tells why. The op is gone
 * afterwards.
 */
struct mattach_op *mattach_start(struct tarn_master *m, const struct mattach_want *w,
                                 mattach_op_fn *fn, void *arg);
/* Before the entry is proposed: fn follows, with CANCELLED. Later: it goes on. */
void mattach_cancel(struct mattach_op *op);
/* Opens the stores of all attachments that are committed and not in the table yet. */
void mattach_open_all(struct tarn_master *m);
/* A store answered (rc 0, or an answer such as 404) or did not: starts or ends the state `down`. */
void mattach_note(struct mattach *a, int rc, const struct tarn_errbuf *err);
/* Somebody waited for a refresh as long as one may. */
void mattach_late(struct mattach *a);
/* What is known is given without waiting for the store, which does not answer. */
bool mattach_in_force(const struct mattach *a);
/* Until when (real ns) something learnt at `at_ns` is believed; 0 for never learnt. */
int64_t mattach_trust_until(const struct mattach *a, int64_t at_ns);
struct mattach *mattach_by_id(struct tarn_master *m, uint32_t id);

/* ---- directories in memory (dirs.c)
 * ------------------------------------------------------------------------ */

/* What is kept of a directory in use. Found by ino; forgotten when unused and old. */
struct mdir {
    struct tarn_hnode hnode;
    struct tarn_list lru;
    struct tarn_master *master;
    tarn_ino_t ino;
    unsigned refs;
    struct mattach *at;
    char *key;         /* "" or "a/b/" */
    int64_t listed_ns; /* real time of the last complete listing's begin; 0: never (or no longer
                          good) */
    bool run_before;   /* a listing was interrupted, or runs: its place is in the store */
    int64_t run_ns;    /* real time at which that listing began */
    char *run_upto;    /* last key that it covered; run_upto_len bytes */
    size_t run_upto_len;
    bool gone;                /* no name leads here any more */
    struct mlisting *listing; /* under way */
    unsigned asks;            /* single names asked since it was listed */
};
/* A reference. -TARN_E_NO_ENTRY, NOT_DIR, NO_ATTACH, KV…. */
int mdir_get(struct tarn_master *m, tarn_ino_t ino, struct mdir **ret);
void mdir_put(struct mdir **d);
bool mdir_listed_trusted(struct mdir *d); /* listed, and that is still believed */
void mdir_refresh(struct mdir *d); /* what the core says of its listing now; an error: no change */
/* The run that is not over is no older than names are believed. */
bool mdir_run_trusted(struct mdir *d);
/* That listing has passed the key of this name. */
bool mdir_run_covers(const struct mdir *d, const void *name, size_t len, uint32_t type);
void mdir_gone(struct tarn_master *m, tarn_ino_t ino); /* a directory lost its name */
/* Its inode changed: one that belongs to another store now is read anew by the next who asks. */
void mdir_changed(struct tarn_master *m, tarn_ino_t ino);
/* The listing of a directory is not what it was, for another reason than a listing. */
void mdir_reload(struct tarn_master *m, tarn_ino_t ino);
void mdirs_drop_of(struct mattach *a); /* a detached attachment's are gone */
/* Where it is, for messages: "s3://bucket/a/b/"; the caller frees it. */
char *mdir_text(const struct mdir *d);
/* The store has no such directory: asks for its name, so that the parent forgets it (names.c). */
void mdir_vanished(struct mdir *d);

/* ---- names (names.c)
 * --------------------------------------------------------------------------------------------- */

struct mname_req;
typedef void mname_fn(struct mname_req *r, int rc);
/*
 * Brings what the core knows of one name up to date, as the attachment's policy wants. Embedded;
 * valid until fn. rc 0: the committed state is the truth now (the name may be there or not).
 * Negative: it could not be found out and nothing is known. When old metadata is in force (the
 * store does not answer in time) rc is 0 and `stale` is true.
 */
struct mname_req {
    tarn_ino_t parent;      /* in */
    const char *name;       /* in: borrowed until fn */
    size_t len;             /* in */
    bool fresh;             /* in: with the policy `always`, ask */
    bool patient;           /* in: old metadata is in force only while the store is down, not while
                               it is slow, nor, once, before a store that went down was probed */
    mname_fn *fn;           /* in */
    void *arg;              /* in */
    bool stale;             /* out */
    struct tarn_errbuf err; /* out */
    struct mdir *dir;       /* from here on: names.c's */
    struct tarn_list node;
    struct tarn_timer timer;
    struct tarn_task task;
    bool known;     /* there is old metadata, in force when the store does not answer */
    bool waiting;   /* a patient one, for a store that is down */
    bool waited;    /* it has, since its own question failed: not again */
    unsigned looks; /* how often it waited for LOOK_NS */
    struct mask *ask;
};
/* 1: nothing to ask, the committed state is good as it is (fn is not called); 0: fn follows;
 * negative: refused. */
int mname_refresh(struct tarn_master *m, struct mname_req *r);
void mname_cancel(struct mname_req *r); /* fn is not called */

void mnames_stop_of(struct mattach *at); /* questions to a detached one's store: NO_ATTACH */

/* What is committed of a name is not to be believed until the store was asked again. */
void mname_distrust(struct tarn_master *m, tarn_ino_t parent, const char *name, size_t len);
/* The attributes of an inode with how long they may be believed. */
void mname_attr(struct tarn_master *m, tarn_ino_t ino, const Tarn__Core__Inode *inode,
                Tarn__Wire__Attr *ret);
/* True when the entry may be shown: it is believed, or the listing under way has passed it. */
bool mname_shown(struct mdir *d, const Tarn__Core__Inode *inode);
/* How long a name's absence may be believed by a client, ms: bounded, since nobody tells it of new
 * names. */
uint64_t mname_negative_trust_ms(struct tarn_master *m, tarn_ino_t parent, const char *name,
                                 size_t len);

/* ---- listings (listing.c)
 * ---------------------------------------------------------------------------------------------- */

struct mlist_wait;
typedef void mlist_fn(struct mlist_wait *w, int rc);
/* Waits for progress of a directory's listing. Embedded; fn runs once: more was committed, or it
 * ended (rc, done). */
struct mlist_wait {
    struct tarn_list node;
    bool until_end;         /* in: only the end counts */
    mlist_fn *fn;           /* in */
    void *arg;              /* in */
    bool done;              /* out: the listing has ended (well, if rc is 0) */
    struct tarn_errbuf err; /* out */
};
/*
 * Starts a listing unless one runs; resumes one that was interrupted. `now`: who asks wants the
 * directory as it is, so what an interrupted one found is taken up only while it is believed. One
 * that runs in the background goes on in the foreground when that is asked for.
 */
void mlist_start(struct mdir *d, enum tarn_ufs_class cls, bool now);
void mlist_wait(struct mdir *d, struct mlist_wait *w); /* a listing must run */
void mlist_forget(struct mlist_wait *w);
void mlist_stop_all(struct tarn_master *m); /* cancels; they end soon */
void mlist_stop_of(struct mattach *a);      /* those of a detached attachment: NO_ATTACH */

/* ---- the journal (master.c)
 * ---------------------------------------------------------------------------------------------- */

struct mproposal;
typedef void mproposal_fn(struct mproposal *p);
/* A proposal of the master's. Embedded; valid until fn, which may free it. */
struct mproposal {
    struct tarn_proposal p; /* p.rc, p.result: valid during fn */
    struct tarn_master *master;
    mproposal_fn *fn;
    void *arg; /* the caller's */
};
/* 0 when the entry was committed and not refused. */
int mproposal_rc(const struct mproposal *p);
/*
 * Proposes an entry, whose time it sets; fn runs on the loop once, never inside this call, after
 * names that changed have been pushed to the sessions. -TARN_E_TOO_BIG: nothing was proposed, fn is
 * not called.
 */
int mpropose(struct tarn_master *m, struct mproposal *p, Tarn__Core__Entry *e, mproposal_fn *fn,
             void *arg);
uint64_t master_applied(struct tarn_master *m);
int64_t master_real_ns(struct tarn_master *m);
void master_busy(struct tarn_master *m);
void master_idle(struct tarn_master *m); /* may end the stop, as a task */

/* ---- sessions (session.c)
 * --------------------------------------------------------------------------------------------------
 */

enum msession_state {
    MSESSION_LIVE,   /* connected, its lease runs */
    MSESSION_AWAY,   /* the connection broke: it may come back while its lease runs */
    MSESSION_CUT_OFF /* the lease is over: it was told nothing since, and believes nothing */
};

struct msession {
    struct tarn_list node;    /* in m->sessions */
    struct tarn_hnode by_id;  /* in m->sessions_by_id */
    struct tarn_hnode by_rpc; /* in m->sessions_by_rpc, while rpc is not NULL */
    uint64_t id;
    struct tarn_rpc_session *rpc; /* NULL: away */
    enum msession_state state;
    bool trusted;   /* inside this process: nothing can be cut off */
    bool transient; /* a command, or it said that it ends: not waited for without a connection */
    bool direct;    /* wants the attachments that it may read by itself */
    bool on_partition_stale;
    char *kind, *mountpoint, *host;
    uint64_t pid;
    uint64_t lease_until_ns;                       /* loop time; UINT64_MAX: for ever */
    uint64_t heard_ns;                             /* loop time */
    bool overdue;                                  /* its lease was over at the last look */
    uint64_t seq;                                  /* of the last invalidation sent */
    uint64_t local_bytes, remote_bytes, ufs_bytes; /* delivered to applications, as last reported */
    uint64_t passthrough_opens;                    /* the same */
    /* promise.c: */
    struct tarn_list promises; /* struct mpromise */
    uint64_t promise_count;
    bool all;                 /* what it was promised is not known: it hears of everything */
    struct tarn_list unacked; /* struct munacked */
    size_t unacked_inos;
    uint64_t epoch_seq; /* it was told to forget everything, and hears of everything until it has;
                           0: not */
    bool forgets; /* the same, also when nobody waits for that any more: what it missed is more than
                     the changes that it has not heard of */
    uint32_t *hear; /* changes of the commit at hand */
    size_t hear_n, hear_cap;
};
const char *msession_state_name(enum msession_state s); /* as in SessionStatus */
/* The session of the connection that a call came by; NULL: none. */
struct msession *msession_of(const struct tarn_master *m, const struct tarn_rpc_call *call);
/* Sends a numbered Invalidate; one that is away misses it (and learns so from the index). */
void msession_send(struct msession *s, Tarn__Wire__Invalidate *inv);
/* Sends a notice to every session that is connected; `direct`: to those that want attachments. */
void msession_notify_all(struct tarn_master *m, uint32_t method, const ProtobufCMessage *msg,
                         bool direct);
void msession_everything(struct tarn_master *m); /* sessions forget all that they believe */
void msession_handlers(struct tarn_master *m, struct tarn_rpc_server *s);
/*
 * What a peer has not got yet: its version of the topology and of the attachments, UINT64_MAX: it
 * wants none. Members of the view are NULL where there is nothing new.
 */
struct mcluster_view {
    Tarn__Wire__Topology *topology;
    Tarn__Wire__AttachmentList *attachments;
    struct mattach_list list; /* what `attachments` is of */
};
void mcluster_view(struct tarn_master *m, uint64_t topology, uint64_t attachments,
                   struct mcluster_view *ret);
void mcluster_view_fini(struct mcluster_view *v);
void mcluster_start(struct tarn_master *m); /* pushes changes to sessions from now on */
uint64_t master_lease_ns(const struct tarn_master *m);
/* For how long others wait for a session: the lease that it has counted from before it asked for
 * it, and a tenth, since its clock may be slower than ours. */
uint64_t msession_lease_ns(const struct tarn_master *m);
void msession_start(struct tarn_master *m); /* leases are looked at from now on */
void msession_stop(struct tarn_master *m);
void msession_free_all(struct tarn_master *m);

/* ---- promises (promise.c) -------------------------------------------------------------------- */

/* Names that changed in the entry `index`: who was promised otherwise hears of it. */
void msession_invalidate(struct tarn_master *m, uint64_t index,
                         const struct tarn_core_change *changes, size_t n);
/*
 * The caller is about to be told of `ino` in `dir` (ino 0: of all entries), to be believed for
 * `trust_ms`. Returns for how long it may: 0 without a session, which nobody could tell otherwise.
 */
uint64_t mpromise_grant(struct tarn_master *m, const struct tarn_rpc_call *call, uint64_t dir,
                        uint64_t ino, uint64_t trust_ms);
bool mpromise_nobody(const struct tarn_master *m, const struct tarn_rpc_call *call);
/* It forgets everything, and begins anew. */
void mpromise_epoch(struct tarn_master *m, struct msession *s);
void mpromise_drop_all(struct tarn_master *m, struct msession *s);
void mpromise_sweep(struct tarn_master *m, struct msession *s); /* expired ones, some at a time */
void mpromise_acked(struct tarn_master *m, struct msession *s, uint64_t seq);
/* Index up to which all changes are known to whom this process promised otherwise. */
uint64_t mpromise_acked_upto(const struct tarn_master *m);
void mpromise_forget_recent(struct tarn_master *m); /* who is away now has missed too much */
/* All changes behind index `seen` are remembered; then mpromise_replay() tells them. */
bool mpromise_replayable(const struct tarn_master *m, uint64_t seen);
void mpromise_replay(struct tarn_master *m, struct msession *s, uint64_t seen);
/* Else it is told to forget everything; until it has, it is waited for as before. */
void mpromise_start_over(struct tarn_master *m, struct msession *s);
void mpromise_init(struct tarn_master *m);
void mpromise_stop(struct tarn_master *m); /* who waits may answer */
void mpromise_grace_end(struct tarn_master *m);
void mpromise_fini(struct tarn_master *m);

/* Somebody whose answer is about a held inode. Embedded; fn runs when it may be asked again. */
struct mhold {
    struct tarn_list node; /* tarn_list_init'ed while it does not wait */
    void (*fn)(struct mhold *w);
};
/* An answer about `ino`, last changed by the entry `changed`, must wait. */
bool mhold_wanted(const struct tarn_master *m, tarn_ino_t ino, uint64_t changed);
/* The same of a name that went, or leads to another inode now; mhold_name() is what it waits for.
 */
bool mhold_name_wanted(const struct tarn_master *m, tarn_ino_t parent, const char *name,
                       size_t len);
tarn_ino_t mhold_name(tarn_ino_t parent, const char *name, size_t len);
/*
 * An absent name may be one that an entry has just taken from the directory, of which nobody was
 * told yet: the index of that entry, and the answer must wait; else 0.
 */
uint64_t mhold_removed(const struct tarn_master *m, tarn_ino_t parent);
/* `changed`: as it was given to mhold_wanted(), or from mhold_removed(); 0 of a name. */
void mhold_start(struct tarn_master *m, struct mhold *w, tarn_ino_t ino, uint64_t changed);
void mhold_forget(struct mhold *w);
void mhold_told(struct tarn_master *m); /* m->told_index grew */

/* ---- what the process before us had told (told.c) -------------------------------------------- */

int mtold_init(struct tarn_master *m);                     /* -TARN_E_KV… */
void mtold_changed(struct tarn_master *m, uint64_t index); /* names changed in the entry `index` */
/* Journals how far all have acknowledged, if that has moved on and tells of a change. */
void mtold_tick(struct tarn_master *m);
/* In the grace: whether sessions that have not come back know of the entry `changed`, is not known.
 */
bool mtold_wanted(const struct tarn_master *m, uint64_t changed);
/*
 * The same of a name of `parent` that is absent (0), or leads to an inode that `changed` made or
 * changed: the directory lost names, and this may be one of them.
 */
bool mtold_name_wanted(const struct tarn_master *m, tarn_ino_t parent, uint64_t changed);

void mnames_fini(struct tarn_master *m);
void mdirs_fini(struct tarn_master *m);
void mattach_free_all(struct tarn_master *m); /* after everything that may have a reference */

/* ---- reports and jobs
 * -------------------------------------------------------------------------------------------------------
 */

void msvc_meta_handlers(struct tarn_master *m, struct tarn_rpc_server *s); /* svc_meta.c */
void msvc_report_handlers(struct tarn_master *m,
                          struct tarn_rpc_server *s); /* svc_report.c: status, where, resolve */
void msvc_du_handlers(struct tarn_master *m, struct tarn_rpc_server *s);     /* svc_du.c */
void msvc_attach_handlers(struct tarn_master *m, struct tarn_rpc_server *s); /* svc_attach.c */

/* A report that waits for the worker or for names: a stop, or the end of its caller, cuts it short.
 */
struct mreport {
    struct tarn_list node; /* in master->reports */
    struct tarn_master *master;
    struct tarn_rpc_call *call;
    void (*cancel)(struct mreport *r); /* asks no more; the report ends, now or later */
    bool cancelled;
};
void mreport_stop_all(struct tarn_master *m);
void mreport_begin(struct mreport *r, struct tarn_master *m, struct tarn_rpc_call *call,
                   void (*cancel)(struct mreport *r));
/* Answers; the report may be freed before master_idle(). */
void mreport_reply(struct mreport *r, int rc, const ProtobufCMessage *resp);
/* The path of a request, normalized; `ret` has room for TARN_PATH_MAX. */
int mreport_path(const ProtobufCBinaryData *in, char *ret);
/* Attaches under way fail, probes end, stores are closed. */
void mattach_stop(struct tarn_master *m);

/* ---- members (members.c, members_topology.c, members_admin.c)
 * ---------------------------------------------------------------------------------- */

struct mmembers;
/* Takes up the journal's workers; nothing unless args.cluster. -TARN_E_KV…: free follows. */
int mmembers_new(struct tarn_master *m);
void mmembers_handlers(struct tarn_master *m, struct tarn_rpc_server *s);
void mmembers_session_gone(struct tarn_master *m, struct tarn_rpc_session *s);
void mmembers_stop(struct tarn_master *m); /* nothing is published any more */
void mmembers_free(struct tarn_master *m);
/* What is published now; valid until the next one (on_topology). NULL: no cluster. */
const Tarn__Wire__Topology *mmembers_topology(const struct tarn_master *m);
/* A client has that version; one that is greater than ours makes ours grow. */
void mmembers_seen(struct tarn_master *m, uint64_t version);
/* The list of attachments changed: to all workers. */
void mmembers_push_attachments(struct tarn_master *m);
/* Since a worker was heard of; of one that was not since our start: since that, at least. */
uint64_t mmembers_silent_ns(const struct tarn_master *m, uint64_t id);
/* Rows of status; free() them. They point into what is known of the workers: use them at once. */
Tarn__Wire__WorkerStatus **mmembers_status(struct tarn_master *m, size_t *ret_n);
void mmembers_counts(const struct tarn_master *m, uint64_t *ret_alive, uint64_t *ret_registered);

struct mjobs;
struct mjobs *mjobs_new(struct tarn_master *m);
void mjobs_resume(struct mjobs *j); /* jobs may start: goes on with what was running. Workers need
                                       not be there: jobs wait for them. */
void mjobs_handlers(struct mjobs *j, struct tarn_rpc_server *s);
void mjobs_stop(struct mjobs *j); /* holds the master busy until nothing runs; states stay as they
                                     are in the journal */
void mjobs_free(struct mjobs **j);
/* Files of the jobs that are remembered; waiting: of those that run. */
void mjobs_files(struct mjobs *j, uint64_t *ret_done, uint64_t *ret_failed, uint64_t *ret_waiting);
void mjobs_counts(struct mjobs *j, uint32_t *ret_running, uint32_t *ret_failed);

/*
 * Path walk for commands and jobs: refreshes every name on the way. Embedded; fn once, never inside
 * start.
 */
struct mpath_req;
typedef void mpath_fn(struct mpath_req *r, int rc);
struct mpath_req {
    const char *path;           /* in: normal form, borrowed until fn */
    mpath_fn *fn;               /* in */
    void *arg;                  /* in */
    tarn_ino_t ino;             /* out */
    bool stale;                 /* out: old metadata was in force somewhere */
    struct tarn_errbuf err;     /* out */
    struct tarn_master *master; /* from here on: path.c's */
    const char *at;
    struct mname_req name;
    struct tarn_task task;
    int rc;
};
void mpath_start(struct tarn_master *m, struct mpath_req *r);
/* The same from a directory on the way; `at`: what is left of r->path below it. */
void mpath_start_in(struct tarn_master *m, struct mpath_req *r, tarn_ino_t dir, const char *at);
/* Asks no more; fn follows, with CANCELLED unless it was on its way. */
void mpath_cancel(struct mpath_req *r);

/*
 * Depth-first walk of a subtree in the order of ids, in slices, so that the loop is never held for
 * long. With `list` every directory is listed to its end first (those that are not, or whose
 * listing is no longer believed), several at a time. Embedded.
 */
#define MWALK_DEPTH_MAX 256
struct mwalk;
struct mwalk_ops {
    /* A file, symlink or directory (before what is in it). `path` is absolute, valid during the
     * call. 0: go on; 1: pause. */
    int (*visit)(struct mwalk *w, tarn_ino_t ino, const Tarn__Core__Inode *inode, const char *path);
    /* A directory whose listing failed; what is known of it is walked all the same. May be NULL. */
    void (*dir_failed)(struct mwalk *w, const char *path, int rc, const struct tarn_errbuf *err);
    /* A directory whose complete listing left names out. May be NULL. */
    void (*skipped)(struct mwalk *w, tarn_ino_t dir, const char *path, uint64_t count);
    /* The end; never inside start or resume. rc < 0: cancelled or the store of the metadata failed.
     */
    void (*end)(struct mwalk *w, int rc);
};
struct mwalk_frame {
    tarn_ino_t ino;
    uint64_t cookie; /* the last entry visited */
    size_t path_len; /* of the path of ino */
    bool listed;     /* the listing was waited for */
    unsigned tries;  /* listings waited for */
    bool gone;       /* the store has it no longer */
};
struct mwalk {
    struct tarn_master *master;  /* in */
    const struct mwalk_ops *ops; /* in */
    bool list;                   /* in */
    bool recursive;              /* in: else only the entries of the root */
    int64_t since_ns; /* in: real time; listings begun since then do. 0, or later than now: now */
    void *arg;        /* in: the caller's */
    struct mwalk_frame stack[MWALK_DEPTH_MAX]; /* from here on: walk.c's */
    unsigned depth;
    struct tarn_str path;
    struct mdir *dir;
    struct mlist_wait wait;
    struct tarn_task task;
    bool waiting, paused, posted, cancelled;
    int rc; /* why it cannot go on from its cursor */
    struct tarn_str entry_path;
    int visit_rc;
    unsigned budget;
    tarn_ino_t descend;
};
/* Walks what is below `ino` (a directory), whose path is `path`. `cursor`: where an earlier walk
 * was (may be empty). */
void mwalk_start(struct mwalk *w, tarn_ino_t ino, const char *path, const void *cursor,
                 size_t cursor_len);
void mwalk_resume(struct mwalk *w); /* after a pause */
void mwalk_cancel(struct mwalk *w); /* end follows */
/* Where the walk is now: what was visited before is not visited again from there. */
void mwalk_cursor(const struct mwalk *w, struct tarn_str *ret);
void mwalk_fini(struct mwalk *w);

/* Fills a Locator for a file's current version; strings live in `hold` (released with
 * tarn_str_fini). */
struct mlocator {
    Tarn__Wire__Locator loc;
    Tarn__Wire__UfsVersion ufs;
    struct tarn_str key;
    Tarn__Core__Inode *inode;
};
int mlocator_fill(struct tarn_master *m, tarn_ino_t ino, struct mlocator *ret);
void mlocator_fini(struct mlocator *l);

/* ---- workers (spread.c)
 * --------------------------------------------------------------------------------------------- */

#define MSPREAD_SEGMENTS_MAX 65536u /* of a file whose segments are told apart */

/* The connection of a worker, with a capability for all that a master asks; NULL: no such worker,
 * or no address of it. Valid until the topology changes: take it for each call. */
struct tarn_rpc_client *mworker_rpc(struct tarn_master *m, uint64_t id);
/* How a call to it ended. */
void mworker_note(struct tarn_master *m, uint64_t id, int rc);
/* Alive, and it answers, or has failed to for no longer than one waits for it. */
bool mworker_serves(const struct tarn_master *m, uint64_t id);
/* A call to it failed, and nothing says that it would not again. */
bool mworker_unreached(const struct tarn_master *m, uint64_t id);
bool mworkers_any(const struct tarn_master *m);      /* one that serves */
unsigned mworkers_live(const struct tarn_master *m); /* that own segments, alive or not */
/* The worker of a process that is all three, of which its user need not know. */
bool mworker_lone(const struct tarn_master *m, uint64_t id);
/* "worker 3 (addr)", of a lone one "the cache"; to be freed. */
char *mworker_text(const struct tarn_master *m, uint64_t id);
void mworkers_fini(struct tarn_master *m);
/*
 * Who is to have a segment now: its owners, or who stands in for those that do not serve; 0 where
 * nobody can. Returns how many owners there are (at most `replicas`; 0 without a live worker).
 * ret_ids has room for TARN_PLACE_PICK_MAX.
 */
unsigned mtargets(const struct tarn_master *m, const tarn_cid_t *cid, uint32_t segment,
                  uint32_t replicas, uint64_t *ret_ids);

struct mspread_item {
    tarn_cid_t cid;    /* in */
    uint64_t size;     /* in: bytes of the file; 0 where only `bytes` is wanted of a free */
    uint32_t replicas; /* in: with `owners` */
    uint64_t bytes;  /* out: that are there, each once; of a free: that were dropped, all copies */
    uint32_t copies; /* out: workers that have all of a segment: the fewest over its segments */
    uint64_t worker; /* out: one that has some of it; 0: none */
    bool sure;       /* out: everybody who was to be asked has answered */
};
/* Workers that were not reached, each once; zeroed at first. */
struct mspread_away {
    size_t n;
    struct {
        uint64_t id;
        int rc; /* why; NO_WORKER: it is not alive */
    } * who;
};
void mspread_away_fini(struct mspread_away *a);
/* Why an answer is not all of it, for people: "worker 3 (addr) did not answer (...)". To be freed.
 */
char *mspread_reason(const struct tarn_master *m, const struct mspread_away *a);
/* Asks workers about files, or has them dropped. Zeroed but for what is in; valid until fn. */
struct mspread {
    struct tarn_master *master; /* in */
    struct mspread_item *items; /* in: the caller's */
    size_t count;               /* in: at least 1 */
    bool free;                  /* in: drop the bytes, else ask for them */
    bool owners;                /* in: of each segment only who is to have it, else everybody */
    bool patient;               /* in: ask again whoever does not answer, for a few seconds */
    /* in: whoever is in it is not asked; whoever is not reached is added. May be NULL. */
    struct mspread_away *away;
    /* in: a worker has bytes of an item; may be NULL */
    void (*holds)(struct mspread *s, size_t item, uint64_t worker);
    /* in: once, never inside start. rc < 0: CANCELLED, or a worker answered with an error. */
    void (*fn)(struct mspread *s, int rc);
    void *arg;            /* in */
    uint64_t missed;      /* out: a worker that may have bytes, but was not reached; 0: none */
    int missed_rc;        /* out: why */
    struct tarn_list ops; /* from here on: spread.c's */
    size_t pending, early;
    struct tarn_htab table;  /* ops by worker, until all items are dealt out */
    size_t dealt;            /* items before this one are */
    uint64_t dealt_segments; /* and so many segments of it */
    bool dealing;            /* that is not over; nothing was sent */
    uint64_t *best;          /* bytes of each segment of all items */
    uint8_t *whole;          /* workers that have all of it */
    size_t *first;           /* where those of an item begin */
    bool cancelled;
    int rc;
    struct tarn_task task;
};
void mspread_start(struct mspread *s);
void mspread_cancel(struct mspread *s); /* fn follows */
uint64_t mspread_segments(uint64_t size);

/* ---- the master
 * -----------------------------------------------------------------------------------------------------------------
 */

struct tarn_master {
    struct tarn_master_args args;
    char cluster_id[37];
    uint8_t cap_key[32];
    struct tarn_journal *journal;
    struct tarn_list attachments;      /* struct mattach, by id */
    struct tarn_list gone_attachments; /* detached, and still in use by somebody */
    struct mattach own;                /* of directories that no store has: id 0 */
    struct tarn_list attach_ops;       /* struct mattach_op */
    struct tarn_list retired;          /* stores that an update replaced, and that are in use */
    struct tarn_disk *opener;          /* threads for tarn_ufs_resolve(); NULL until needed */
    uint64_t attach_version;           /* of the table: 1 + index of its last entry; 0: not read */
    bool attached;                     /* what the journal has is in the table: jobs may go on */
    void (*on_attachments)(struct tarn_master *m); /* may be NULL; mattach_changed() */
    struct tarn_ufs_counts ufs_gone;               /* of stores that are closed */
    struct tarn_list reports;                      /* struct mreport */
    struct tarn_list dus;                          /* struct du_run, in the order they came */
    struct tarn_rpc_client *worker;                /* in one process: for its status */
    struct tarn_list downs;   /* struct mdown of spread.c: workers that do not answer */
    struct tarn_peers *peers; /* connections to workers; its place is the published topology */
    struct mmembers *members; /* of a cluster; NULL: one process */
    void (*on_topology)(struct tarn_master *m); /* there is another topology; NULL: nobody asks */
    struct tarn_htab dirs;                      /* struct mdir by ino */
    struct tarn_list dirs_lru;                  /* unused ones, oldest first */
    struct tarn_htab asks;  /* struct mask by (parent, name): questions under way */
    struct tarn_htab asked; /* what was answered lately, by (parent, name); bounded */
    int64_t cap_until_ns;   /* real time until which the peers' capability is good */
    struct tarn_list asked_fifo;
    size_t name_waiters;       /* struct mname_req that wait */
    struct tarn_list listings; /* under way */
    size_t listing_count;
    struct tarn_list sessions; /* struct msession */
    struct tarn_htab sessions_by_id, sessions_by_rpc;
    size_t sessions_all; /* that hear of everything */
    size_t sessions_cut; /* CUT_OFF, kept for reports */
    uint64_t session_next;
    struct tarn_timer session_timer;
    struct tarn_htab promise_pairs, promise_dirs; /* struct mpromise */
    struct tarn_htab held;                        /* struct mheld */
    struct tarn_list held_waiters;  /* struct mhold that wait for all, or for m->told_index */
    struct tarn_list grace_waiters; /* struct mhold that wait for the end of the grace alone */
    uint32_t held_all;              /* pushes that hold every inode */
    struct tarn_list recent;        /* struct mrecent: changes of late */
    size_t recent_n;
    uint64_t recent_base;    /* index: changes up to it are not remembered */
    uint64_t told_index;     /* of the last entry whose changes were pushed */
    uint64_t start_index;    /* of the last entry of the processes before */
    uint64_t grace_until_ns; /* loop time: sessions of the process before us may still believe; 0:
                                over */
    struct tarn_list grace;  /* struct munacked: held for them */
    uint64_t untold;         /* index: changes from it on are not journalled as told; 0: all are */
    bool telling;            /* a Told is under way: told_proposal */
    struct mproposal told_proposal;
    uint64_t gone_reads[3]; /* bytes that ended sessions delivered: local, remote, ufs */
    struct mjobs *jobs;
    struct tarn_timer gc_timer;
    bool gc_running;
    uint64_t busy;
    bool stopping;
    void (*stopped)(void *arg);
    void *stopped_arg;
    struct tarn_task stop_task;
    bool stop_posted;
    uint64_t started_ns;      /* monotonic */
    uint64_t refresh_wait_ns; /* MASTER_REFRESH_WAIT_NS; tests are less patient */
    uint64_t probe_ns;        /* MASTER_PROBE_NS; the same */
    struct tarn_master_counts counts;
    _Atomic uint64_t space_files, space_bytes; /* tarn_master_space(); changed on the loop */
};

/* Brings those up to date: the store of names is the loop's, and may be opened anew. */
void master_space(struct tarn_master *m);
