/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tools/load_list.h — lists of paths for `load -f` and `free -f`. A line is
 *
 *     PATH                       absolute in the name space, or relative to a base
 *     PATH\tOFFSET\tLENGTH       a range of its bytes, LENGTH > 0
 *     # a comment                where '#' is the first character
 *
 * Empty lines are skipped, and a carriage return before the newline is no part of the line. A path
 * with a tab, a newline, or '#' at its start (but "./#x" is one) cannot be written. Pure: no I/O.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "lib/base/err.h"
#include "lib/base/str.h"

/* One entry; borrowed during the call. */
struct load_list_item {
    const char *path; /* normal form, NUL-terminated */
    uint64_t offset;  /* of the range */
    uint64_t length;  /* of the range; 0: the whole file */
    uint32_t line;    /* from 1 */
};
/* Negative ends the list with that code. */
typedef int load_list_fn(void *arg, const struct load_list_item *item);

/* A list being read. Owner: one thread. */
struct load_list {
    const char *name;     /* for errors: "epoch1.txt" */
    const char *base;     /* what relative paths are below, normal form */
    load_list_fn *fn;     /* gets the entries, in order */
    void *arg;            /* for fn */
    struct tarn_str part; /* of a line that is not complete */
    uint32_t line;        /* lines read */
    uint64_t items;       /* entries given to fn */
};

void load_list_init(struct load_list *l, const char *name, const char *base, load_list_fn *fn,
                    void *arg);
/*
 * The next bytes of the list, cut anywhere. Errors: USAGE with "NAME:LINE: what is wrong", or what
 * fn returned.
 */
int load_list_feed(struct load_list *l, const void *p, size_t n, struct tarn_errbuf *err);
/* Behind the last byte. Errors: as above; USAGE when there was no entry at all. */
int load_list_end(struct load_list *l, struct tarn_errbuf *err);
void load_list_fini(struct load_list *l);
