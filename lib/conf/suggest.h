/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lib/conf/suggest.h — "did you mean": the nearest of a set of words. Pure, any thread.
 */
#pragma once

#include <stddef.h>

/* The best candidate so far. Zero it but for `word`. */
struct tarn_suggest {
    const char *word; /* what was written */
    char best[64];    /* the nearest so far; "" when none is near enough */
    size_t distance;  /* edits between them, swaps of neighbours count as one */
};

/* Offers a candidate ('-' and '_' count as equal). */
void tarn_suggest_offer(struct tarn_suggest *s, const char *candidate);
