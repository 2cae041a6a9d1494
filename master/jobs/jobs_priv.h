/* SPDX-License-Identifier: Apache-2.0 */
/*
 * master/jobs/jobs_priv.h — how the files of master/jobs see each other. Owner: the master's loop,
 * all of it.
 *
 *     jobs.c     the table: states, start, end, retention      svc.c     handlers, waiting calls
 *     create.c   new jobs and their lists                      run.c     one run: phases, its end
 *     window.c   entries in walk order and their commit        pass.c    one pass over all files
 *     load.c     what a load does in each phase                free.c    the same for a free
 *     fill.c     fill requests                                 file.c    files of them, --force
 *     query.c    cached and free requests                      room.c    room at each worker
 *     set.c      sets of numbers                               glob.c    filters
 */
#pragma once

#include "lib/base/sm.h"
#include "master/master_priv.h"

#define JOBS_RUNNING_MAX 4u          /* jobs that run at a time */
#define JOBS_WAITING_MAX 256u        /* jobs that have not ended */
#define JOB_SPEC_MAX     (16u << 10) /* bytes of a specification without its list */
#define JOB_ITEMS_MAX    (16u << 20) /* entries of a list */
#define JOB_GLOBS_MAX    64u         /* filters of a job */
#define JOB_OPEN_NS                                                                                \
    (600 * TARN_NS_PER_S) /* a list whose next part does not come by then is given up */
#define JOB_TICK_NS      (200 * TARN_NS_PER_MS) /* progress is shown this often */
#define JOB_WINDOW       4096u                  /* entries of a run that are not committed */
#define JOB_COMMIT_LINES 256u                   /* manifest lines of one entry of the journal */
#define JOB_COMMIT_BYTES (36u << 10)            /* bytes of them; the record comes on top */
#define JOB_COMMIT_NS    (500 * TARN_NS_PER_MS) /* finished entries wait this long for others */
#define JOB_ERROR_TEXT   300u                   /* bytes of a cause in the manifest */
#define JOB_FAILED_PATH  1024u                  /* bytes of the first path that failed */
#define JOB_RECORD_BYTES 1024u                  /* of a record and its cursor beside their texts */
#define ROOM_BLOCK       4096u                  /* a file takes whole blocks of the cache's disk */
#define JOB_SET_MAX      (1u << 20) /* inodes remembered to leave out what comes twice */

struct ment;
struct mjob;
struct mrun;

enum mjob_state {
#define MJOB_STATE(name, text, next) MJOB_##name,
#include "master/jobs/job_states.def"
#undef MJOB_STATE
    MJOB_STATES
};

enum mrun_phase {
#define MRUN_PHASE(name, next) MRUN_##name,
#include "master/jobs/job_phases.def"
#undef MRUN_PHASE
    MRUN_PHASES
};

/* ---- the table (jobs.c)
 * -------------------------------------------------------------------------------------- */

struct mjob_counts {
    uint64_t files_total, bytes_total; /* selected; a path that fails counts as a file */
    uint64_t files_done, bytes_done;   /* present and verified, listed, or freed */
    uint64_t files_failed;             /* lines of the manifest that failed */
    uint64_t files_skipped;            /* keys that cannot be names */
};

/* A job that the table remembers. */
struct mjob {
    struct tarn_list node;      /* mjobs.all, oldest first */
    struct mjobs *jobs;         /* whose it is */
    uint64_t id;                /* time-ordered */
    bool is_free;               /* kind `free`, else `load` */
    unsigned state;             /* job_states.def */
    struct mjob_counts live;    /* as shown */
    struct mjob_counts durable; /* as committed, or being committed */
    int64_t started_ns;         /* real time; 0: not yet */
    int64_t finished_ns;        /* real time; 0: not yet */
    int error;                  /* why it failed: a positive number, 0: none */
    char *error_text;           /* NULL: none */
    char *waits_for;            /* what keeps a running one from going on; NULL: nothing */
    Tarn__Wire__LoadSpec *spec; /* without items */
    struct tarn_str spec_bytes; /* the same, encoded */
    struct tarn_str cursor;     /* encoded JobCursor: where a restart goes on */
    uint64_t items;             /* entries of the list; 0: the paths count */
    bool open;                  /* more entries of the list are to come */
    unsigned creating;          /* calls whose entries are being committed */
    bool cancel;                /* is to be cancelled */
    bool dropping;              /* is being forgotten */
    uint64_t seq;               /* grows with what is shown */
    struct tarn_timer tick;     /* until the next growth, while running; of an open list */
    struct tarn_list waiters;   /* struct job_waiter of svc.c */
    bool holds_slot;            /* counts in mjobs.running */
    struct mrun *run;           /* while it runs */
    struct mproposal proposal;  /* of its record, outside a run */
    bool putting;               /* that is under way */
    bool ending;                /* what follows is decided, but not committed */
    unsigned end_state;         /* the state that it gets */
    int end_rc;                 /* 0 or negative */
    char *end_text;             /* NULL: none */
    int64_t end_ns;             /* real time */
    struct tarn_timer retry;    /* of a commit that failed */
};

struct mjobs {
    struct tarn_master *master; /* whose they are */
    struct tarn_list all;       /* struct mjob, oldest first */
    uint64_t last_id;           /* given */
    unsigned running;           /* jobs between their start and the commit of their end */
    bool ready;                 /* jobs may start */
    bool stopping;              /* nothing new starts */
    bool dropping;              /* a JobDrop is under way */
    struct mproposal drop;      /* that one */
    struct tarn_task pump;      /* starts what may run */
    bool pump_posted;           /* it is under way */
};

/* NULL when there is none (any more). */
struct mjob *mjob_find(struct mjobs *j, uint64_t id);
/* A new one in the table, planned. Takes `spec` (unpacked on the heap). */
struct mjob *mjob_new(struct mjobs *j, uint64_t id, bool is_free, Tarn__Wire__LoadSpec *spec);
/* Forgets it in memory. */
void mjob_free(struct mjob *job);
bool mjob_ended(const struct mjob *job);
const char *mjob_state_name(unsigned state);
/* Its record as it would be committed now; borrows from the job. */
void mjob_record(struct mjob *job, Tarn__Core__JobRecord *ret);
/* What a running job waits for, shown as its text; NULL: it goes on. */
void mjob_waits(struct mjob *job, const char *text);
/* Something that is shown has changed: told soon, or at once. */
void mjob_changed(struct mjob *job, bool now);
/*
 * Commits the end of a job without a run, or whose run has nothing under way any more (the run is
 * freed then). The state changes once that is committed; tried again until it is, or the master
 * stops.
 */
void mjob_finish(struct mjob *job, unsigned state, int rc, const char *text);
/* Frees the run of a job that goes on after a restart, or has ended. */
void mjob_release(struct mjob *job);
/* Starts what may run, as a task. */
void mjobs_pump(struct mjobs *j);
/* Removes a job and its lines from the store and the table. */
void mjob_drop(struct mjob *job);

/* ---- handlers (svc.c, create.c)
 * ------------------------------------------------------------------------------- */

/* Fills an answer, which borrows from the job; without its specification for lists of jobs. */
void mjob_message(const struct mjob *job, bool with_spec, Tarn__Wire__Job *ret);
/* Answers the calls that wait for a change; `all`: also those that saw this one. */
void mjob_wake(struct mjob *job, bool all);
void mjob_create_handler(void *ctx, struct tarn_rpc_call *call);

/* ---- sets of numbers (set.c) and filters (glob.c)
 * ------------------------------------------------------------- */

/* Numbers but 0; zeroed is empty. */
struct mset {
    uint64_t *slots; /* 0: free */
    size_t mask;     /* slots - 1 */
    size_t count;    /* numbers in it */
};
/* True when it was not in the set. Over JOB_SET_MAX: always true, not remembered. */
bool mset_add(struct mset *s, uint64_t v);
bool mset_has(const struct mset *s, uint64_t v);
void mset_fini(struct mset *s);

/* `*` (also '/'), `?`, `[a-z]` `[!a-z]`, `\x`. O(pattern x text). */
bool mglob_match(const char *glob, size_t glob_len, const char *text, size_t len);
/*
 * Whether a file is selected: one of the filters (if there are any) matches its path below the
 * loaded one or its name, and no exclusion matches these or a directory on the way.
 */
bool mglob_selects(const Tarn__Wire__LoadSpec *spec, const char *rel);

/* ---- one pass over all files (pass.c)
 * ------------------------------------------------------------------------- */

struct mpass_file {
    tarn_ino_t ino;
    const Tarn__Core__Inode *inode;
    const char *path;
    uint64_t off, len; /* the range to be loaded; symlinks: 0, 0 */
    bool ranged;       /* not the whole file */
};
struct mpass_ops {
    /* A file or symlink that is selected. */
    void (*file)(struct mrun *r, const struct mpass_file *f);
    /* A path or list entry that cannot be used. */
    void (*target_failed)(struct mrun *r, const char *path, int rc, const char *text);
    /* A directory whose listing failed. */
    void (*dir_failed)(struct mrun *r, const char *path, int rc, const char *text);
    /* A directory with keys that cannot be names. */
    void (*skipped)(struct mrun *r, tarn_ino_t dir, const char *path, uint64_t count);
};

#define MPASS_AHEAD 32u /* paths resolved at a time */

#define MNOTED_SKIPPED 1u
#define MNOTED_FAILED  2u

/* What the manifest says already about the directory at hand. */
struct mnoted {
    tarn_ino_t ino; /* 0: none */
    unsigned what;  /* MNOTED_*, as stored */
};

struct mpass_slot {
    struct mpass *pass;     /* whose it is */
    struct mpath_req req;   /* under way while `asking` */
    char *path;             /* normal form, or as written when it has none */
    uint64_t off, len;      /* the range; len 0: all */
    bool asking;            /* req is under way */
    int rc;                 /* outcome */
    struct tarn_errbuf err; /* why */
    tarn_ino_t ino;         /* outcome */
};

struct mpass {
    struct mrun *run;                     /* whose it is */
    const struct mpass_ops *ops;          /* for the phase */
    bool list;                            /* ask the store for names */
    bool known_only;                      /* resolve from what is known */
    bool active;                          /* between start and end */
    bool walking, paused, cancelled;      /* a tree is walked; nothing goes on; ends soon */
    bool posted;                          /* task is under way */
    bool dedupe;                          /* leave out what was seen */
    struct mset seen;                     /* that */
    char **targets;                       /* the paths, unless there is a list */
    uint64_t count;                       /* of targets */
    uint64_t at;                          /* target at work */
    uint64_t next;                        /* target to be resolved next */
    uint64_t from;                        /* those before are done since before a restart */
    unsigned asking;                      /* slots that are being resolved */
    int rc;                               /* 0, or why it ended early */
    char *base;                           /* what entries of a list are relative to */
    size_t root_len;                      /* of the walked path with its '/' */
    struct mnoted noted;                  /* directory that is in the manifest already */
    struct tarn_str walk_from;            /* where target `from` goes on */
    struct tarn_str dir_path;             /* of the directory of the last target */
    tarn_ino_t dir;                       /* that one */
    uint64_t dir_ns;                      /* loop time at which it was */
    struct mpass_slot slots[MPASS_AHEAD]; /* target n in slot n % MPASS_AHEAD */
    struct mwalk walk;                    /* while walking */
    struct tarn_task task;                /* the next step */
};
/* Starts at the place of run->cursor. */
void mpass_start(struct mrun *r, const struct mpass_ops *ops, bool list, bool known_only);
void mpass_resume(struct mrun *r); /* if it is paused, and there is room again */
void mpass_cancel(struct mrun *r);
void mpass_fini(struct mpass *p);
/* The place behind the file or line at hand. */
void mpass_place(const struct mpass *p, uint64_t *ret_target, struct tarn_str *ret_walk);

/* ---- entries in walk order and their commit (window.c)
 * ------------------------------------------------------------ */

/*
 * A file, or a line about something else. In the window until it is done and all before it are;
 * then it is committed: its line (if any), what it counts, and the place behind it.
 */
struct ment {
    struct tarn_list node;    /* run->window, ready or sending */
    struct tarn_list work;    /* in a queue of fill.c or query.c */
    struct mrun *run;         /* whose it is */
    tarn_ino_t ino;           /* the file; 0: none */
    char *path;               /* as shown */
    uint64_t off, len;        /* the range to be loaded */
    bool ranged;              /* not the whole file */
    tarn_cid_t cid;           /* of the file; zero: none */
    bool whole;               /* all of the file is meant, so that query.c can ask for it */
    uint32_t replicas;        /* workers that are to have it */
    bool done;                /* the fields from here to `level` hold */
    const char *state;        /* of the line; NULL: no line */
    uint64_t bytes;           /* of the line */
    int rc;                   /* of the line: 0 or negative */
    char *error_text;         /* of the line; NULL: none */
    uint32_t level;           /* enum tarn_verified; 0: none */
    uint32_t copies;          /* of the line: workers that have it */
    uint64_t worker;          /* of the line: the first of them; 0: none */
    int d_done, d_failed;     /* what it adds to the counters */
    int64_t d_bytes;          /* the same for bytes_done */
    uint64_t d_skipped;       /* the same for files_skipped */
    uint64_t total_files;     /* counters when it was made */
    uint64_t total_bytes;     /* the same */
    uint64_t target;          /* the place behind it */
    struct tarn_str walk;     /* the same */
    struct mnoted noted;      /* the same */
    uint64_t admitted;        /* the same */
    uint64_t version;         /* fill: of the file, of its first piece */
    uint64_t next;            /* fill: where the next piece begins */
    int fill_rc;              /* fill: the first failure of a piece */
    char *fill_text;          /* fill: its cause; NULL: none */
    unsigned pending;         /* fill: pieces queued or under way */
    unsigned tries, waits;    /* fill: of a changed file; of a busy worker */
    uint64_t fetched;         /* fill: bytes from the store */
    uint64_t shown;           /* bytes shown before it is done */
    bool asked;               /* fill: --force has asked the store for its name */
    bool freed;               /* fill: --force dropped what was there */
    bool missing;             /* CHECK: it was not where it is to be */
    struct mname_req name;    /* fill: its name is being asked */
    Tarn__Core__Inode *inode; /* fill: holds that name */
};
struct ment *ment_new(struct mrun *r, const char *path);
/* It is done; `state` NULL: nothing is written about it. `text` may be NULL. */
void ment_end(struct ment *e, const char *state, uint64_t bytes, int rc, const char *text);
/* Shows bytes of a file that is not done yet. */
void ment_show(struct ment *e, uint64_t bytes);
/* Commits what is done, soon; `flush`: now. */
void mwindow_poke(struct mrun *r, bool flush);
/* What is done behind something that is not counts too: the run will never go on from there. */
void mwindow_take_done(struct mrun *r);
/* Commits the record with nothing under way, and the cursor at the beginning of `phase`. */
void mwindow_put_phase(struct mrun *r, unsigned phase);
void mwindow_clear(struct mrun *r);
/* The file's name is worth a note for the final text. */
void mrun_note_failure(struct mrun *r, const char *path, int rc, const char *text);

/* ---- requests to workers (fill.c, query.c)
 * --------------------------------------------------------------------- */

struct mfill {
    struct tarn_list todo;     /* ment.work: files that have pieces to be cut */
    struct tarn_list homeless; /* struct fill_part: nobody can take them now */
    struct tarn_list lanes;    /* struct fill_lane: a queue for each worker */
    size_t queued;             /* pieces in homeless and lanes */
    uint64_t queued_bytes;     /* of them */
    unsigned ops_count;        /* requests under way */
    struct tarn_list forces;   /* struct force: files whose bytes are being dropped first */
    unsigned forces_count;     /* of them */
    struct tarn_list naming;   /* ment.work: their names are being asked */
    unsigned naming_count;     /* of them */
    uint64_t place_version;    /* of the topology for which the pieces are queued */
    uint64_t not_before_ns;    /* loop time: a worker or its tier wants a pause */
    int64_t tokens;            /* bytes that may be fetched now */
    uint64_t tokens_ns;        /* loop time of that */
    struct tarn_timer timer;   /* until one of these */
    struct tarn_task task;     /* starts requests */
    bool posted;               /* it is under way */
};
void mfill_init(struct mrun *r);
/* Queues a file; ops->filled says how it went. */
void mfill_add(struct ment *e);
/* Some time has passed: looks who serves, and gives queued pieces to others where that changed. */
void mfill_tick(struct mrun *r);
/* What keeps it from going on, to be freed; NULL: nothing. */
char *mfill_waits_for(const struct mrun *r);
void mfill_cancel(struct mrun *r);
bool mfill_idle(const struct mrun *r);
void mfill_fini(struct mrun *r);
/* Looks soon what can be started. */
void mfill_poke(struct mrun *r);

/* ---- their files (file.c) ---- */

/* The last piece of a file has ended: fill_rc says how. */
void mfile_done(struct ment *e);
/* Whether its bytes are to be dropped before it is filled. */
bool mfile_wants_force(const struct ment *e);
/* The next step of that for the first file of `todo`, which wants it; false: not now. */
bool mfile_force_next(struct mrun *r);
/* Ends the questions for names, and what is being dropped. */
void mfile_cancel(struct mrun *r);

struct mquery {
    bool free;              /* drops the bytes, else asks for them */
    struct tarn_list batch; /* ment.work: the next request */
    size_t batch_count;     /* of entries */
    uint64_t batch_segs;    /* segments of them */
    struct tarn_list ops;   /* requests */
    unsigned ops_count;     /* of them */
};
void mquery_init(struct mrun *r);
/* Queues a file; ops->answered says what the workers have (or had). */
void mquery_add(struct ment *e);
void mquery_flush(struct mrun *r);
void mquery_cancel(struct mrun *r);
bool mquery_idle(const struct mrun *r);
void mquery_flush_stuck(struct mrun *r); /* what waits for a worker, if one is there */
/* It cannot ask anybody. */
bool mquery_stuck(const struct mrun *r);

/* ---- room (room.c)
 * -------------------------------------------------------------------------------------------- */

struct mroom_row {
    uint64_t id;       /* the worker */
    bool known;        /* it has told how much it holds */
    uint64_t room;     /* bytes that jobs may have in it */
    uint64_t planned;  /* bytes that this one wants there */
    uint64_t admitted; /* --allow-partial: bytes that were given room */
    uint64_t want;     /* of the file at hand */
    /* Bytes of `planned` that another job has planned, too: of the same files. */
    struct {
        uint64_t job, bytes;
    } shared[JOBS_RUNNING_MAX];
};
struct mroom {
    struct mroom_row *rows;
    size_t n;
    struct mset files;      /* ranges of file versions that are planned, hashed */
    uint32_t most_replicas; /* of a file */
    bool reserved;          /* `planned` counts for others */
    bool rebuilding;        /* it did before a restart, and will again */
    uint64_t seen;          /* ROOM: as ment.admitted, of the files so far */
};
struct mroom_file {
    tarn_cid_t cid;
    uint64_t off, len;
    uint32_t replicas;
};
void mroom_clear(struct mrun *r);
void mroom_clear_rows(struct mrun *r); /* what was learnt of the workers */
void mroom_capacity(struct mrun *r, uint64_t id, uint64_t capacity);
void mroom_plan(struct mrun *r, const struct mroom_file *f);
/* True, and the room is given, when the file fits every worker that is to have some of it. */
bool mroom_admit(struct mrun *r, const struct mroom_file *f);
/* A job whose reservations are not known yet is about to tell them. */
bool mroom_pending(const struct mrun *r);
/* Why what is planned does not fit, to be freed; NULL: it does. */
char *mroom_missing(const struct mrun *r);
/* Why a file cannot have so many replicas, to be freed; NULL: it can. */
char *mroom_few(const struct mrun *r, uint32_t replicas);

/* Another try is of use; ret_ns: after how long. */
bool mrun_retry(int rc, unsigned tries, uint64_t *ret_ns);

/* ---- one run (run.c)
 * ------------------------------------------------------------------------------------------- */

/* What a kind of job does. */
struct mrun_ops {
    void (*start)(struct mrun *r);      /* enters the phase of the cursor */
    void (*phase)(struct mrun *r);      /* run->phase has begun */
    void (*phase_done)(struct mrun *r); /* its pass has ended, and all is committed */
    void (*filled)(struct ment *e, int rc, const char *text);
    /* rc < 0: not everybody has answered; what `it` says is the least that is there. */
    void (*answered)(struct ment *e, int rc, const struct mspread_item *it);
};

/* A question for its capacity to one worker. */
struct mhello {
    struct tarn_list node; /* run->hellos */
    struct mrun *run;
    uint64_t worker;
    struct tarn_rpc_req req;
};

/* From `running` to the end, or to a restart. */
struct mrun {
    struct mjob *job;                /* whose it is */
    struct tarn_master *master;      /* whose job it is */
    const struct mrun_ops *ops;      /* of the kind */
    unsigned phase;                  /* job_phases.def */
    unsigned resume;                 /* phase of the cursor at the start */
    bool rebuild;                    /* load: something was planned before a restart */
    Tarn__Core__JobCursor *cursor;   /* where it begins; owned */
    bool aborting;                   /* cancel or stop: ends soon */
    bool ended;                      /* nothing but the commit of its end is left */
    struct tarn_list window;         /* ment.node: not done, or behind one that is not */
    struct tarn_list ready;          /* done, all before them too */
    struct tarn_list sending;        /* being committed */
    size_t entries;                  /* in all three */
    size_t ready_count;              /* entries in ready */
    size_t ready_lines, ready_bytes; /* of ready */
    bool committing;                 /* proposal is under way, or its next try */
    unsigned put_phase;              /* it begins that phase; MRUN_NONE: it carries lines */
    struct mproposal proposal;       /* of lines and cursor */
    struct tarn_timer commit_timer;  /* JOB_COMMIT_NS, or the next try */
    bool commit_retry;               /* the latter */
    struct mpass pass;               /* over the files */
    struct mfill fill;               /* requests */
    struct mquery query;             /* requests */
    struct tarn_list hellos;         /* struct mhello under way */
    unsigned hellos_count;           /* of them */
    unsigned hellos_good;            /* of the round at hand: those that were answered */
    bool greeting;                   /* some are under way, or the next try */
    unsigned greetings;              /* tries */
    uint64_t hello_failed;           /* a worker that did not answer; 0: none */
    int hello_rc;                    /* why */
    struct tarn_timer hello_timer;   /* the next try */
    struct mroom room;               /* at each worker */
    struct tarn_timer tick;          /* runs while the run does */
    uint32_t attachment, replicas;   /* asked last: what that attachment wants */
    uint64_t admitted;               /* bytes for which room is wanted, or was given (DATA) */
    bool restarted;                  /* load: bytes of it came before a restart of the worker */
    unsigned checks;                 /* load: passes of CHECK that found something missing */
    unsigned moves;                  /* load: passes during which the topology changed */
    uint64_t place_version;          /* load: of the topology when the pass began */
    uint64_t refilled;               /* load: files filled again in this one */
    struct mnoted noted;             /* last directory of which the manifest tells */
    char *first_failed, *first_text; /* the first failure */
    struct tarn_task task;           /* looks whether the phase is over */
    bool posted;                     /* it is under way */
};
/* The record says `running`; the master is busy until it ends. */
void mrun_start(struct mjob *job);
/* Cancels what is under way; then the job is cancelled, or (stop) left as it is. */
void mrun_abort(struct mrun *r);
/* Something ended: the phase may be over. */
void mrun_poke(struct mrun *r);
/* Asks all workers for their room; then the phase of the cursor, or the end. */
void mrun_greet(struct mrun *r);
/* Commits that `phase` begins, then enters it. */
void mrun_next(struct mrun *r, unsigned phase);
/* Enters a phase now. */
void mrun_enter(struct mrun *r, unsigned phase);
/* Ends the job by its counters, or with `rc` when that is negative. */
void mrun_end(struct mrun *r, int rc, const char *text);
void mrun_free(struct mrun *r);
/* Workers that are to hold a file of that attachment. */
uint32_t mrun_replicas(struct mrun *r, tarn_ino_t ino, uint32_t attachment);
uint64_t mrun_place_version(const struct mrun *r);

extern const struct mrun_ops mload_ops, mfree_ops;
