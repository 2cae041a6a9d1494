/* SPDX-License-Identifier: Apache-2.0 */
/* tools/tier_spec.h — the text of --tier: MEDIUM:PATH:QUOTA[:HIGH:LOW]. */
#pragma once

#include <stdint.h>

#include "lib/base/err.h"
#include "store/tier/tier.h"

#define TIER_QUOTA_MIN (16ull << 20)

struct tier_spec {
    enum tarn_medium medium;
    char *path; /* the caller's to free */
    uint64_t quota_bytes;
    uint32_t high_bp, low_bp; /* parts per 10,000 of the quota */
};
/* A path may hold colons. CONFIG, with a text that says what is allowed. */
int tier_spec_parse(const char *text, struct tier_spec *ret, struct tarn_errbuf *err);
