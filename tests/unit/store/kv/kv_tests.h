/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/unit/store/kv/kv_tests.h — the groups of this program and the back ends that they run on.
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "store/kv/kv.h"

#define KV_TEST_CFS 3

/* A store of one of the two kinds that can be closed and opened again. */
struct kv_backend {
    const char *name;             /* "mem" or "rocksdb" */
    struct tarn_kv *kv;           /* open between start and stop */
    char dir[64];                 /* rocksdb: the directory */
    struct tarn_kv_mem_disk disk; /* mem: what survives */
};

void kv_backend_start(struct kv_backend *b, const char *name); /* empty and open */
void kv_backend_restart(struct kv_backend *b);                 /* close, open */
void kv_backend_stop(struct kv_backend *b);                    /* removes everything */

/* Setup and teardown of cmocka for one back end; *state is the struct kv_backend. */
int kv_setup_mem(void **state);
int kv_setup_rocksdb(void **state);
int kv_teardown(void **state);

/* A test on every back end. */
#define KV_TEST(f)                                                                                 \
    {#f " (mem)", f, kv_setup_mem, kv_teardown, NULL},                                             \
    {                                                                                              \
#f " (rocksdb)", f, kv_setup_rocksdb, kv_teardown, NULL                                    \
    }

/* Directories of tests. */
void kv_dir_make(char dir[64]);                     /* a new one */
void kv_dir_remove(const char *dir);                /* with its files */
void kv_dir_copy(const char *from, const char *to); /* files only; `to` is made */

/* The arguments for a store with the families of the tests. */
struct tarn_kv_args kv_args(const char *dir);

/* Keys and values from text. */
struct tarn_kv_slice kv_z(const char *z);
void kv_put(struct tarn_kv *kv, unsigned cf, const char *key, const char *value); /* one batch */
void kv_assert_get(struct tarn_kv *kv, unsigned cf, const char *key,
                   const char *value); /* NULL: absent */
/* The keys with the prefix as "k=v k=v", through an iterator; with a batch when given. */
void kv_assert_scan(struct tarn_kv *kv, struct tarn_kv_batch *b, unsigned cf, const char *prefix,
                    const char *expected);

int kv_run_calls(void);
int kv_run_model(void);
int kv_run_mem(void);
int kv_run_rocksdb(void);
int kv_run_damage(void);
