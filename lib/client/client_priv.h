/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lib/client/client_priv.h — the parts of a client: name cache, session, handles, fetches from
 * workers and the windows of what is read ahead.
 */
#pragma once

#include "lib/base/env.h"
#include "lib/base/htab.h"
#include "lib/base/list.h"
#include "lib/base/mtx.h"
#include "lib/client/client.h"
#include "lib/client/peers.h"

/* ---- name cache (cache.c): any thread
 * ---------------------------------------------------------------------------- */

struct tarn_name_cache;
struct tarn_name_cache *client_cache_new(size_t entries);
void client_cache_free(struct tarn_name_cache **c);
/* attr NULL: a negative answer until `until_ns`. `gen`: client_cache_gen() from before the question
 * was sent. */
void client_cache_put(struct tarn_name_cache *c, tarn_ino_t parent, const char *name, size_t len,
                      const struct tarn_attr *attr, uint64_t until_ns, uint64_t gen);
enum tarn_cached client_cache_get(struct tarn_name_cache *c, tarn_ino_t parent, const char *name,
                                  size_t len, uint64_t now_ns, struct tarn_attr *ret_attr,
                                  uint64_t *ret_until_ns);
void client_cache_drop(struct tarn_name_cache *c, tarn_ino_t parent, const char *name, size_t len);
void client_cache_clear(struct tarn_name_cache *c);
/*
 * Grows with every drop: an answer that was asked for before a drop may be older than what caused
 * it, so it is used but not kept.
 */
uint64_t client_cache_gen(struct tarn_name_cache *c);

/* ---- the client
 * ------------------------------------------------------------------------------------------------------
 */

#define CLIENT_HANDLE_MAGIC 0x43484e44u /* "CHND" */
#define CLIENT_SOURCES      3u          /* local, remote, ufs */
enum client_source { CLIENT_LOCAL, CLIENT_REMOTE, CLIENT_UFS };

struct tarn_client {
    struct tarn_client_args args;
    struct tarn_local_ops local;  /* local.open NULL: none */
    struct tarn_local_ops direct; /* the same */
    char *kind, *mountpoint;
    struct tarn_rpc_client *rpc;
    struct tarn_peers *peers; /* workers; without a place while no topology has come */
    uint64_t place_session;   /* whose topology it is */
    unsigned meta_gen;        /* capabilities that came */
    struct tarn_list fetches; /* struct client_fetch whose answer is wanted */
    unsigned fetching;        /* of them */
    unsigned fetch_count;     /* all, those that only wait for their end too */
    unsigned hedging;         /* of `fetching`, those that ask two workers */
    _Atomic uint64_t hedges;  /* since the start */
    struct tarn_list reports; /* struct object_report (object.c) */
    unsigned report_count;    /* of them */
    struct tarn_list
        windows; /* struct client_window with chunks; those to be looked at for idle ones first */
    unsigned window_count;        /* of them */
    size_t ahead_max;             /* bytes of all windows */
    _Atomic uint64_t ahead_bytes; /* the same, now */
    bool rpc_stopped, peers_stopped;
    void (*user_stopped)(void *arg);
    void *user_stopped_arg;
    struct tarn_task stop_task;
    bool stop_posted;
    struct tarn_name_cache *cache;
    uint64_t session;
    uint64_t lease_ms;
    uint64_t connect_timeout_ns; /* of each try to open the session */
    _Atomic uint64_t kernel_trust_ns;
    uint64_t seq; /* of the last Invalidate */
    bool have_seq;
    uint64_t seen;        /* index of the journal up to which every change was heard of */
    uint64_t attachments; /* version of the list that on_attachments got */
    uint64_t renew_sent_ns;
    uint64_t resumed_ns,
        resumed_index;               /* a session that goes on has not heard of all yet; 0: not so
                                      */
    bool renew_again;                /* an Invalidate wants to be acknowledged */
    bool leased;                     /* what is believed ends with the lease */
    _Atomic uint64_t lease_until_ns; /* of client_lease_clock(); UINT64_MAX: no lease */
    _Atomic bool cut_off;            /* it is over */
    uint64_t slept_ns;               /* client_slept_ns() that the kernel knows of */
    struct tarn_timer lease_timer;
    struct tarn_timer renew_timer;
    struct tarn_rpc_req session_req;
    bool session_busy, connected_once, stopping;
    void (*connect_cb)(void *arg, int rc);
    void *connect_arg;
    _Atomic uint64_t local_bytes, remote_bytes, ufs_bytes, local_reads;
    _Atomic uint64_t lent_opens;      /* tarn_handle_lent() */
    uint64_t told[CLIENT_SOURCES];    /* bytes by origin that the master has confirmed */
    uint64_t telling[CLIENT_SOURCES]; /* in the renewal under way */
    uint64_t base[CLIENT_SOURCES];    /* told in earlier sessions */
    bool connected;                   /* a connection is there, with this session */
    bool last_told;                   /* the last renewal of a stop was sent */
    bool disconnecting;               /* the last step of a stop */
    void (*stopped)(void *arg);
    void *stopped_arg;
};

/* ---- bytes from workers (fetch.c): the client's loop
 * ------------------------------------------------------------------------------ */

/* Verified bytes of a fetch; the buffer is borrowed. */
struct client_bytes {
    struct tarn_buf *buf;
    size_t off; /* in it */
    enum client_source source;
};

/*
 * A range inside one segment of a handle that was located, got from whichever worker answers. fn
 * runs once, never inside start, unless it is dropped before; bytes is NULL with rc < 0.
 */
struct client_fetch;
typedef void client_fetch_fn(void *arg, int rc, const struct client_bytes *bytes);
struct client_fetch_args {
    struct tarn_handle *handle;
    uint64_t off_bytes;
    uint32_t len_bytes;   /* > 0, inside the file */
    uint64_t deadline_ns; /* loop time */
    client_fetch_fn *fn;
    void *arg;
};
struct client_fetch *client_fetch_start(const struct client_fetch_args *args);
/* No callback follows, and the handle is not used any more. NULL inside is accepted. */
void client_fetch_drop(struct client_fetch **f);
/* Of a stop: what is wanted ends with SHUTDOWN. */
void client_fetch_end_all(struct tarn_client *c);
/* A fetch is gone: a stop may have waited for it. */
void client_stop_settle(struct tarn_client *c);

/* ---- what is read ahead (window.c)
 * ------------------------------------------------------------------------------ */

#define CLIENT_CHUNK_BYTES (1ull << 20) /* unit of reading ahead; divides a segment */
#define CLIENT_WINDOW_MAX  16u          /* chunks ahead of a reader */
#define CLIENT_AHEAD_MAX   8u           /* units that the store is asked for ahead of one */

/*
 * Chunks that were asked for ahead of a sequential reader, or a whole small file. Only the loop
 * adds; any thread takes bytes out, and the one that takes the last of a chunk drops it.
 */
struct client_chunk;
struct client_window {
    struct tarn_mtx mtx;         /* TARN_RANK_CLIENT_WINDOW: chunks, and in them what says so */
    struct tarn_list chunks;     /* struct client_chunk, in the order of the file */
    _Atomic unsigned count;      /* of chunks; 0: nobody need look */
    _Atomic bool task_posted;    /* a reader went on without the loop */
    _Atomic uint64_t pos;        /* where the reader is */
    _Atomic uint64_t touched_ns; /* monotonic */
    struct tarn_task task;       /* while task_posted */
    /* The loop: */
    struct tarn_list node; /* in client->windows, or unlinked */
    unsigned depth;        /* chunks to have ahead */
    unsigned run;          /* reads that continued the one before */
    uint64_t grown_off;    /* chunk at which depth grew */
};

/* A part of a read that waits for a chunk. */
struct client_waiter {
    struct tarn_list node;      /* the chunk's; unlinked when it does not wait */
    struct client_chunk *chunk; /* that it waits for, or NULL */
    uint64_t off_bytes;
    uint32_t len_bytes;
    void (*fn)(struct client_waiter *w, int rc, const struct client_bytes *bytes);
};

void client_window_init(struct tarn_handle *h);
void client_window_fini(struct tarn_handle *h); /* after client_window_drop() */
/* Any thread: tarn_handle_try_slices(). */
unsigned client_window_try(struct tarn_handle *h, uint64_t off, uint32_t len,
                           struct tarn_slice slices[TARN_SLICES_MAX]);
/* The loop: a read came; whether it goes on from the one before. Starts and grows the window. */
void client_window_read(struct tarn_handle *h, uint64_t off, uint32_t len, bool goes_on);
/*
 * The loop: the chunk in which `off` is, or one that is asked for now, if the reader is sequential
 * or the file is small. Returns the end of what can be had from there: then `w` is answered, at
 * once or later. 0: no chunk; *ret_until is then where one begins (or UINT64_MAX).
 */
uint64_t client_window_take(struct tarn_handle *h, uint64_t off, uint64_t end,
                            struct client_waiter *w, uint64_t *ret_until);
/* The loop: `w` does not wait any more, if it did. */
void client_window_forget(struct client_waiter *w);
/* The loop: asks for what is missing ahead. */
void client_window_fill(struct tarn_handle *h);
/* The loop: drops what nobody waits for. */
void client_window_drop(struct tarn_handle *h);

/* ---- handles -------------------------------------------------------------------------------- */

struct tarn_handle {
    uint32_t magic;
    struct tarn_client *client;
    struct tarn_attr attr;
    void *file; /* the local worker's; NULL without one */
    _Atomic bool stale;
    _Atomic bool used_loop;    /* a read went to the loop: closing goes there too */
    _Atomic uint64_t next_off; /* where a sequential reader would go on */
    struct client_window win;  /* without `file` */
    /* The client's loop: */
    Tarn__Wire__LocateResponse *located; /* once known */
    bool bare;                  /* reads go on without it: what workers have is found by its cid */
    bool detached;              /* its attachment was waited for in vain: not again for each read */
    int locate_rc;              /* how the last question ended */
    struct tarn_object *object; /* whose bytes were given out; NULL: none yet */
    struct tarn_timer bare_timer;
    struct tarn_list waiting; /* struct tarn_read that wait for it */
    struct tarn_client_op locate_op;
    bool locating;
    uint32_t ahead; /* units to fetch ahead, grows with a sequential reader */
    struct tarn_task close_task;
};

/* The loop: bytes of `h` came under `tag`. UFS_CHANGED: others of another object were given out;
 * the master is told. */
int client_object_take(struct tarn_handle *h, uint64_t tag);

/* What the bytes of a handle are, without where they come from: enough to find them cached. */
struct client_locator {
    Tarn__Wire__Locator loc;
    Tarn__Wire__UfsVersion ufs;
};
const Tarn__Wire__Locator *client_bare_locator(const struct tarn_handle *h,
                                               struct client_locator *hold);
static inline uint64_t client_read_timeout_ns(const struct tarn_client *c)
{
    return c->args.timeout_ns ? c->args.timeout_ns : 60 * TARN_NS_PER_S;
}
/* Bytes that were delivered, by origin. Any thread. */
void client_count(struct tarn_client *c, enum client_source source, uint64_t bytes);

/* The loop: another capability, for the master and for workers. */
void client_meta(struct tarn_client *c, ProtobufCBinaryData capability);
/* The loop: a topology of the cluster, from whichever answer or notice; one that is older than what
 * this session gave is left out. */
void client_topology(struct tarn_client *c, const Tarn__Wire__Topology *t);
uint64_t client_topology_version(const struct tarn_client *c); /* 0: none yet */

/* The clock of leases, ns: it goes on while the host sleeps. Any thread. */
uint64_t client_lease_clock(void);
/* How long the host has slept since it started. */
uint64_t client_slept_ns(void);
void client_session_start(struct tarn_client *c);
/* Ends the session, then the connection; then `stopped` runs. */
void client_session_stop(struct tarn_client *c);
void client_notice(void *ctx, uint32_t method, const ProtobufCMessage *msg);
void client_state(void *ctx, bool connected, int rc);
