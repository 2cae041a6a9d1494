/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/unit/lib/client/cluster_rig.h — workers beside the rig's server: real RPC servers on
 * loopback, on the same loop, that serve `read` of the rig's file with checksums, or fail in the
 * way that a test asks for.
 */
#pragma once

#include "lib/client/peers.h"
#include "lib/client/place.h"
#include "tests/unit/lib/client/client_rig.h"

#define MIB          (1024ull * KIB)
#define CLUSTER_MAX  8u
#define SERVED_MAX   4096u
#define CLUSTER_SIZE (1000 * MIB + 4711) /* of the file: 16 segments */

enum fault {
    GOOD,
    HANG,      /* no answer until the test lets calls go */
    SUMS,      /* one wrong byte */
    TRUNCATED, /* a granule is missing at the end */
    EMPTY,     /* no bytes at all */
    SHIFTED,   /* from another place */
    CUT,       /* the connection ends instead */
    FAIL       /* `rc` */
};

struct cworker {
    struct cluster *cluster;
    uint64_t id;
    struct tarn_rpc_server *server; /* NULL: stopped, nobody listens */
    char addr[64];
    int deaf_fd;      /* listens and never accepts; -1: none */
    unsigned stops;   /* of the server, that have ended */
    uint32_t state;   /* of the topology */
    bool absent;      /* not in the topology */
    bool not_alive;   /* of the topology */
    bool at_home;     /* the topology names our host */
    uint32_t copies;  /* of the topology */
    enum fault fault; /* of the next `faults` reads */
    unsigned faults;
    int rc;
    uint64_t delay_ns;     /* before each answer */
    const char *source;    /* of answers; "local" */
    uint64_t tag;          /* of answers */
    bool uncached;         /* questions by cid alone find nothing */
    unsigned bare;         /* questions by cid alone */
    unsigned held_only;    /* for what it has, though it could ask the store */
    const uint8_t *wanted; /* the only capability that is taken, if not NULL: one byte */
    unsigned reads, cancels, in_flight, most_in_flight;
    uint64_t bytes;         /* asked for */
    uint32_t ahead;         /* of the last read */
    struct tarn_list calls; /* struct ccall, not answered */
};

struct cluster {
    struct rig rig;
    struct cworker w[CLUSTER_MAX];
    unsigned n;
    uint64_t version; /* of the last topology */
    bool all_owned;   /* before, by the topology */
    unsigned in_flight, most_in_flight;
    bool client_stopped;
    uint64_t served[SERVED_MAX]; /* offsets of all reads, in order */
    unsigned served_n;
};

/* A client with `n` workers, ids from 1, all alive; they are published. */
void cluster_init(struct cluster *c, unsigned n,
                  void (*tweak)(struct rig *r, struct tarn_client_args *args));
/* The client goes first, with whatever is under way. Handles must be closed by the end. */
void cluster_fini(struct cluster *c);
/* Only the client, before that: its reads have ended then. */
void cluster_stop_client(struct cluster *c);
/* Gives the client a newer topology, as the workers say. */
void cluster_publish(struct cluster *c);
/* The server goes, and its port with it; or comes back at the same address. */
void cworker_stop(struct cworker *w);
void cworker_start(struct cworker *w);
/* The port stays open, but nobody is behind it any more. */
void cworker_deafen(struct cworker *w);
/* Answers what HANG holds. */
void cworker_release(struct cworker *w);
/* Who owns the segment in which `off` is; the k-th in the order. */
struct cworker *cluster_owner(struct cluster *c, uint64_t off, unsigned k);
unsigned cluster_reads(const struct cluster *c);

struct tarn_attr cluster_attr(const struct cluster *c);
struct tarn_handle *cluster_open(struct cluster *c);
/* A read from start to end; its bytes are checked. */
int cluster_read(struct cluster *c, struct tarn_handle *h, uint64_t off, uint32_t len);
/* With a handle of its own: no read continues another. */
int read_once(struct cluster *c, uint64_t off, uint32_t len);
struct tarn_client_counts counts_of(struct cluster *c);
uint64_t now_ms(void);
/* Offsets that no reader would call sequential: each is far from the one before. */
uint64_t scattered(unsigned i);
/* For cluster_init: without any worker a read ends soon. */
void soon(struct rig *r, struct tarn_client_args *args);
