/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tools/progress.h — how far something is: a bar on a terminal, a line every 10 s elsewhere, on
 * standard error. Figures and texts are pure functions of what they are given.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/base/str.h"

/* What is done of what. */
struct progress_at {
    uint64_t files, files_total; /* total 0: not known yet */
    uint64_t bytes, bytes_total; /* total 0: not known yet */
    uint64_t failed;             /* files */
    const char *waits;           /* for what, until it goes on; NULL: for nothing */
};

/* Owner: one thread. */
struct progress {
    const char *what;    /* "load", shown in front */
    bool terminal;       /* a bar that is written over */
    bool quiet;          /* nothing at all */
    bool drawn;          /* a bar stands on the terminal's last line */
    uint64_t start_ns;   /* monotonic */
    uint64_t shown_ns;   /* when something was written last */
    uint64_t rate_ns;    /* when `rate` was computed last */
    uint64_t rate_bytes; /* bytes then */
    double rate;         /* bytes per second, smoothed */
};

void progress_init(struct progress *p, const char *what, bool quiet, uint64_t now_ns);
/* Takes the figures of `now_ns` into the rate. */
void progress_feed(struct progress *p, const struct progress_at *at, uint64_t now_ns);
/* "load  12/100 files  1.0 GiB of 8.0 GiB  250.0 MiB/s  ETA 28.0s", with a bar if `width` > 0. */
void progress_text(const struct progress *p, const struct progress_at *at, unsigned width,
                   uint64_t now_ns, struct tarn_str *out);
/* Feeds, and writes when it is time. */
void progress_show(struct progress *p, const struct progress_at *at, uint64_t now_ns);
/* Takes the bar off the terminal, so that other lines may be written. */
void progress_clear(struct progress *p);
