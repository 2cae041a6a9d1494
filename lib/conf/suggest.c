/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Optimal string alignment distance (Levenshtein with swaps of neighbours; Damerau, "A technique
 * for computer detection and correction of spelling errors", CACM 7(3), 1964) over at most 63
 * bytes. A candidate is near enough up to a third of the word's length, and always at one edit.
 */
#include "lib/conf/suggest.h"

#include <stdio.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/mem.h"

#define SUGGEST_MAX 63

static char suggest_fold(char c)
{
    if (c == '_')
        return '-';
    return (char)(c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c);
}

static size_t suggest_distance(const char *a, size_t n, const char *b, size_t m)
{
    size_t rows[3][SUGGEST_MAX + 1];
    size_t *before = rows[0], *prev = rows[1], *cur = rows[2];

    TARN_ASSERT(n <= SUGGEST_MAX && m <= SUGGEST_MAX);
    for (size_t j = 0; j <= m; j++) {
        prev[j] = j;
        before[j] = 0;
    }
    for (size_t i = 1; i <= n; i++) {
        size_t *old = before;

        cur[0] = i;
        for (size_t j = 1; j <= m; j++) {
            char x = suggest_fold(a[i - 1]), y = suggest_fold(b[j - 1]);
            size_t d = prev[j - 1] + (x != y);

            d = TARN_MIN(d, prev[j] + 1);
            d = TARN_MIN(d, cur[j - 1] + 1);
            if (i > 1 && j > 1 && x == suggest_fold(b[j - 2]) && y == suggest_fold(a[i - 2]))
                d = TARN_MIN(d, before[j - 2] + 1);
            cur[j] = d;
        }
        before = prev;
        prev = cur;
        cur = old;
    }
    return prev[m];
}

void tarn_suggest_offer(struct tarn_suggest *s, const char *candidate)
{
    size_t n = strlen(s->word), m = strlen(candidate), d;

    if (n > SUGGEST_MAX || m > SUGGEST_MAX || n == 0)
        return;
    d = suggest_distance(s->word, n, candidate, m);
    if (d > TARN_MAX(n / 3, 1u) || d >= n)
        return;
    if (s->best[0] && d >= s->distance)
        return;
    (void)snprintf(s->best, sizeof(s->best), "%s", candidate); /* at most SUGGEST_MAX bytes */
    s->distance = d;
}
