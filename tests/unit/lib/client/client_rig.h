/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/unit/lib/client/client_rig.h — a client of a server on the same libuv loop, whose handlers
 * answer as the test says, or hold calls until the test lets them go.
 */
#pragma once

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <setjmp.h>

#include <cmocka.h>

#include "lib/base/env.h"
#include "lib/base/mem.h"
#include "lib/client/client_priv.h"

#define KIB      1024ull
#define RIG_SIZE (3000 * KIB) /* of the file that reads are of, unless a test says otherwise */

struct rig {
    struct tarn_loop *loop;
    struct tarn_rpc_server *server;
    struct tarn_client *client;
    const char *addr;
    struct tarn_timer watchdog;
    struct tarn_rpc_session *session; /* the last that opened */
    unsigned opened;                  /* session_open calls */
    unsigned renewed;                 /* session_renew calls */
    uint64_t told[8];                 /* bytes read, as the last of them said, by session */
    uint64_t seq;                     /* of the last notice */
    unsigned lookups, locates, reads; /* calls */
    unsigned changed;                 /* report_changed calls, of the file */
    bool hold_lookup, hold_locate, hold_open, hold_renew, hold_changed;
    bool mute_renew; /* renewals are not answered until rig_release() */
    struct tarn_rpc_call *held[64];
    unsigned held_n;
    unsigned cancels;    /* on_cancel of held calls */
    int lookup_rc;       /* NO_ENTRY: negative */
    uint64_t lookup_ino; /* of answers */
    uint64_t trust_ms;   /* of answers */
    uint64_t size;       /* of the file; RIG_SIZE */
    int locate_rc;
    uint8_t locate_cid;                  /* each byte of the locator's cid */
    unsigned spoil;                      /* answers of read to be damaged */
    unsigned everything;                 /* on_invalidate with everything */
    unsigned invalidated;                /* on_invalidate with names */
    unsigned flag;                       /* for rig_until */
    enum tarn_on_partition on_partition; /* in, of rig_init_with */
    bool resumed;                        /* of answers to session_open */
    uint64_t index;                      /* of answers and notices; 0: as an older master */
    uint64_t resume, seen;               /* of the last session_open */
    uint64_t renew_seq;                  /* of the last session_renew */
};

void rig_init(struct rig *r, const struct tarn_local_ops *local);
/* The same with what r says already (zeroed but for `on_partition`, `resumed`, `index`); `tweak`
 * may change the client's arguments. */
void rig_init_with(struct rig *r, const struct tarn_local_ops *local,
                   void (*tweak)(struct rig *r, struct tarn_client_args *args));
void rig_fini(struct rig *r);
/* The same, of a client that was stopped. */
void rig_fini_stopped(struct rig *r);
void rig_run_for(struct rig *r, uint64_t ns);
void rig_until(struct rig *r, const unsigned *flag, unsigned n);
/* Answers the calls that are held. */
void rig_release(struct rig *r);
/* Pushes an invalidation of `name` in inode 1 with the next number, or `skip` later. */
void rig_push(struct rig *r, const char *name, unsigned skip);
/* The same, to be acknowledged. */
void rig_push_ack(struct rig *r, const char *name);
/* The byte at `off` of the file; no two pages of it are the same. */
uint8_t rig_byte(uint64_t off);
/* Many of them, and whether they are. */
void rig_fill(uint64_t off, uint8_t *dst, size_t n);
bool rig_same(uint64_t off, const uint8_t *p, size_t n);
/* The attributes of the file. */
struct tarn_attr rig_attr(void);

struct op {
    struct tarn_client_op op;
    struct rig *rig;
    unsigned done;
    int rc;
};
void op_start(struct op *op, struct rig *r, enum tarn_client_kind kind, const char *name);
int op_wait(struct op *op);
int lookup(struct rig *r, const char *name);
enum tarn_cached cached(struct rig *r, const char *name);

struct rd {
    struct tarn_read read;
    struct rig *rig;
    unsigned done;
    int rc;
    bool wrong;
};
void rd_start(struct rd *rd, struct rig *r, struct tarn_handle *h, uint64_t off, uint32_t len);
int rd_wait(struct rd *rd);
