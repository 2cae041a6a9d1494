/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/unit/worker/worker_rig.h — a worker with a real tier and real stores on one libuv loop:
 * directories (file://) and the scripted object store of tests/unit/ufs. Files hold bytes that
 * follow from a seed and the offset, so that any byte can be checked anywhere.
 */
#pragma once

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <setjmp.h>

#include <cmocka.h>

#include "lib/base/buf.h"
#include "lib/base/env.h"
#include "lib/base/mem.h"
#include "lib/disk/disk.h"
#include "tests/unit/turns.h"
#include "tests/unit/ufs/server.h"
#include "worker/worker_priv.h"

#define KIB        1024ull
#define MIB        (1024ull * KIB)
#define RIG_STORES 3
#define RIG_TEXT   "cluster-1"

struct rig_args {
    uint64_t quota;         /* of the tier; 0: no tier */
    uint64_t fetch_max;     /* bytes of fetch units; 0: the default */
    struct tarn_loop *loop; /* of several workers; NULL: one of its own, as the disk's pool */
    struct tarn_disk *disk;
    uint64_t id;  /* of the worker; 0: 1 */
    bool unnamed; /* no id and no key yet */
};

struct rig {
    struct rig_args args;
    struct tarn_loop *loop;
    struct tarn_disk *disk;
    struct tarn_tier *tier;
    struct tarn_ufs *store[RIG_STORES]; /* by attachment - 1; NULL: none */
    struct tarn_worker *worker;
    struct tarn_local_ops ops;
    char *dir;           /* scratch: tier/, store/ */
    uint8_t cap_key[32]; /* of capabilities */
    struct tarn_timer watchdog;
    unsigned stopped; /* callbacks of stop */
};

void rig_init(struct rig *r, const struct rig_args *args);
/* Stops the worker and looks that nothing is left behind. */
void rig_fini(struct rig *r);
void rig_restart(struct rig *r);                 /* the worker and its tier; the stores go on */
void rig_open_dir(struct rig *r, unsigned slot); /* file://…/store */
void rig_open_s3(struct rig *r, unsigned slot, struct srv *s, const char *opts);
void rig_open_uri(struct rig *r, unsigned slot, const char *uri, const char *opts);
void rig_close_store(struct rig *r, unsigned slot);
void rig_run_for(struct rig *r, uint64_t ns);
/* Turns the loop until *flag is at least `n`. */
void rig_until(struct rig *r, const unsigned *flag, unsigned n);
/* Turns the loop until nothing is fetched or stored any more. */
void rig_stored(struct rig *r);

void rig_put(struct rig *r, const char *name, unsigned seed, uint64_t size);

/* An object as the master would tell of it. */
struct obj {
    char key[64];
    unsigned seed;
    tarn_cid_t cid;
    Tarn__Wire__UfsVersion version;
    Tarn__Wire__Locator msg;
    char etag[TARN_ETAG_MAX + 1];
};
void rig_obj(struct rig *r, struct obj *o, unsigned slot, const char *key, unsigned seed,
             const struct tarn_ufs_version *v);
/* Asks the store for its version. */
void rig_find(struct rig *r, struct obj *o, unsigned slot, const char *key, unsigned seed);

/* A read by the short circuit. */
struct op {
    struct tarn_local_read read;
    struct rig *rig;
    struct obj *obj;
    void *file;
    unsigned done; /* callbacks */
    int rc;
    bool wrong; /* bytes that are not the object's */
    uint64_t got;
    uint64_t end_ns; /* when */
};
void op_start(struct op *op, struct rig *r, struct obj *o, uint64_t off, uint32_t len,
              uint32_t ahead);
/* 0 if the bytes came and are right. */
int rig_read(struct rig *r, struct obj *o, uint64_t off, uint32_t len);
/* Reads all of it in pieces of `len`. */
void rig_read_all(struct rig *r, struct obj *o, uint32_t len);
