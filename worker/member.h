/* SPDX-License-Identifier: Apache-2.0 */
/*
 * worker/member.h — a worker as a member of a cluster: registers with the master, beats, takes up
 * topologies and attachments, and hands over what others own now (move.c).
 *
 * The identity of a worker is the uuid of its tier directory: with the directory, its share of the
 * segments moves to another process or host. Without any master it goes on serving; it registers
 * again as soon as one answers. Owner: the worker's loop.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "lib/base/err.h"
#include "lib/wire/tarn.pb-c.h"

struct tarn_loop;
struct tarn_member;
struct tarn_peers;
struct tarn_rng;
struct tarn_rpc_client;
struct tarn_stores;
struct tarn_tier;
struct tarn_worker;

struct tarn_member_args {
    struct tarn_loop *loop;
    struct tarn_rng *rng;
    struct tarn_rpc_client *master; /* its notices come to tarn_member_notice() */
    struct tarn_worker *worker;     /* gets id, key of capabilities, topology */
    struct tarn_tier *tier;
    struct tarn_stores *stores;
    struct tarn_peers *peers;
    const char *addr, *host, *socket; /* where it is reached; copied; socket "": none */
    uint32_t weight;                  /* 0: by capacity */
    uint32_t copies;                  /* as in tarn.wire.WorkerInfo */
    uint64_t copies_bytes;            /* at most, of the tier; 0: a tenth of it */
    void *ctx;
    /* Refused for good (another worker with this directory is alive, another cluster), or removed
     * by `tarn worker remove`: the process is to end with this. */
    void (*on_refused)(void *ctx, int rc, const struct tarn_errbuf *err);
};
struct tarn_member *tarn_member_new(const struct tarn_member_args *args);
/* Registers; cb once, when the first registration was taken or refused (on_refused follows). */
void tarn_member_start(struct tarn_member *m,
                       void (*cb)(void *arg, int rc, const struct tarn_errbuf *err), void *arg);
/* From the RPC client's on_notice and on_state. */
void tarn_member_notice(struct tarn_member *m, uint32_t method, const ProtobufCMessage *msg);
void tarn_member_state(struct tarn_member *m, bool connected, int rc);
bool tarn_member_registered(const struct tarn_member *m); /* for /readyz */
uint64_t tarn_member_id(const struct tarn_member *m);     /* 0: not yet */
/* Tells the master that it leaves for a while (a second at most), hands over nothing more. */
void tarn_member_stop(struct tarn_member *m, void (*done)(void *arg), void *arg);
void tarn_member_free(struct tarn_member **m);

struct tarn_member_counts {
    uint64_t left_bytes, moved_bytes; /* to be handed over; handed over since the start */
    uint64_t refused_bytes;           /* of these, what owners had no room for */
    uint64_t topology;                /* version */
    bool settled;
};
void tarn_member_counts(const struct tarn_member *m, struct tarn_member_counts *ret);
