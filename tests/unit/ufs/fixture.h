/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/unit/ufs/fixture.h — a store on a loop of its own, asked one thing at a time: each call
 * runs the loop until the answer is there. Also what the tests share: temporary trees, option
 * texts.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/base/str.h"
#include "ufs/ufs.h"

struct tarn_conf;

struct fx {
    struct tarn_loop *loop;          /* run by the calls below */
    struct tarn_ufs *ufs;            /* the store under test */
    struct tarn_errbuf err;          /* of the last call */
    struct tarn_ufs_attr attr;       /* fx_stat */
    char *target;                    /* fx_stat, of a symlink; owned */
    enum tarn_verified verified;     /* fx_get */
    bool adopted;                    /* fx_get */
    struct tarn_ufs_version version; /* fx_get: as it ended */
};

/* `opts` is "K=V,K=V" or "". Returns the store's code; on failure there is no store. */
int fx_open(struct fx *f, const char *uri, const char *opts);
void fx_close(struct fx *f);

int fx_check(struct fx *f);
int fx_stat(struct fx *f, const char *key);
int fx_stat_file(struct fx *f, const char *key);

/* One line per entry in `out`: "name SIZE\n", "name/\n", "name -> target\n". */
struct fx_listing {
    struct tarn_str out;           /* entries */
    size_t entries;                /* of all pages */
    size_t pages;                  /* asked for */
    uint64_t skipped;              /* names */
    struct tarn_str skipped_names; /* names */
    bool restart;                  /* in: drop the token after each page */
    bool quiet;                    /* in: do not write `out` */
};
/* All pages of `max` entries, checking that they are in order and cover the keys. */
int fx_list(struct fx *f, const char *dir, unsigned max, struct fx_listing *ret);
void fx_listing_fini(struct fx_listing *l);

/* Bytes go to `dst` (NULL: counted only); *ret_n is how many came. */
int fx_get(struct fx *f, const char *key, const struct tarn_ufs_version *v, uint64_t off,
           uint64_t len, void *dst, size_t *ret_n);

/* A temporary directory, removed with all below it by fx_tmp_fini. */
char *fx_tmp(void);
void fx_tmp_fini(char *dir);
void fx_write(const char *dir, const char *name, const void *p, size_t n);
