/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the tier's tests share: a loop (the test's own thread runs it), a pool, a scratch directory,
 * and files whose bytes follow from their number, so that any byte can be checked anywhere.
 */
#pragma once

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <setjmp.h>

#include <cmocka.h>

#include "lib/base/buf.h"
#include "lib/base/env.h"
#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "store/tier/tier.h"

#define KIB 1024ull
#define MIB (1024ull * KIB)

struct rig {
    struct tarn_loop *loop;
    struct tarn_disk *disk;
    struct tarn_tier *tier;
    char dir[256];              /* the tier's */
    struct tarn_tier_args args; /* of the last open */
    struct tarn_errbuf err;
    bool spare;       /* of rig_reserve() */
    unsigned waiting; /* requests whose callback stops the loop when it is the last */
};

/* A loop, a pool of `threads` and a fresh directory (in $TMPDIR or /tmp, unless `parent`); no tier
 * yet. */
void rig_init(struct rig *r, unsigned threads, const char *parent);
void rig_fini(struct rig *r); /* deletes the directory */
/* A rig of three threads for each test. */
int rig_set_up(void **state);
int rig_tear_down(void **state);
#define RIG_TEST(fn) cmocka_unit_test_setup_teardown(fn, rig_set_up, rig_tear_down)
int rig_open(struct rig *r); /* with r->args */
void rig_must_open(struct rig *r, uint64_t quota);
void rig_close(struct rig *r);
void rig_run_for(struct rig *r, uint64_t ns); /* turns the loop */
void rig_settle(struct rig *r);               /* until nothing is evicted or walked any more */

tarn_cid_t rig_cid(unsigned nr);
void rig_bytes(unsigned nr, uint64_t off, void *dst, size_t n); /* what file `nr` holds */
struct tarn_tier_file *rig_file(struct rig *r, unsigned nr, uint64_t length);

struct tarn_tier_info rig_info(struct rig *r);

/* Synchronous requests. */
int rig_reserve(struct rig *r, uint64_t bytes);
int rig_store(struct rig *r, struct tarn_tier_file *f, unsigned nr,
              uint32_t group); /* reserves and stores */
int rig_submit_store(struct rig *r,
                     struct tarn_tier_op *op); /* stores what op says, room is reserved */
int rig_fill(struct rig *r, unsigned nr, uint64_t length); /* all groups; the first error */
int rig_load(struct rig *r, struct tarn_tier_file *f, uint32_t group, bool medium,
             uint64_t *ret_granules);
int rig_read(struct rig *r, struct tarn_tier_file *f, uint32_t group, uint64_t granules,
             struct tarn_tier_op *op, struct tarn_buf *buf);
int rig_read_unchecked(struct rig *r, struct tarn_tier_file *f, uint64_t granules,
                       struct tarn_tier_op *op, struct tarn_buf *buf); /* of group 0 */
int rig_drop(struct rig *r, unsigned nr, uint64_t length);

/* What a look at a file found. */
struct rig_found {
    uint64_t served; /* bytes */
    uint64_t wrong;  /* of those: not the file's */
    uint64_t absent; /* bytes */
};
/* Loads and reads all of the file and compares. */
struct rig_found rig_check(struct rig *r, unsigned nr, uint64_t length);
/* As rig_check, and all of it is there and right. */
void rig_assert_whole(struct rig *r, unsigned nr, uint64_t length);
/* Only tarn_tier_try_read. */
struct rig_found rig_check_warm(struct rig *r, unsigned nr, uint64_t length);

uint64_t rig_du(const char *path); /* st_blocks of all below, each inode once */
int rig_shell(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void rig_data_path(const struct rig *r, unsigned nr, char *dst, size_t n);
