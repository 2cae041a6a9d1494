/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Read from both ends, since a path may hold colons: the medium in front; behind the path a quota,
 * or a quota and two percentages. Which of the two it is, the last three fields tell.
 */
#include "tools/tier_spec.h"

#include <stdlib.h>
#include <string.h>

#include "lib/base/mem.h"
#include "lib/base/str.h"
#include "lib/base/units.h"

#define TIER_HIGH_BP 9800u
#define TIER_LOW_BP  9500u

static const char form[] = "must be MEDIUM:PATH:QUOTA[:HIGH:LOW], like SSD:/data/tier:100GiB:98:95";

static int spec_medium(const char *text, size_t n, enum tarn_medium *ret)
{
    static const struct {
        const char *name;
        enum tarn_medium medium;
    } media[] = {{"MEM", TARN_MEDIUM_MEM}, {"SSD", TARN_MEDIUM_SSD}, {"HDD", TARN_MEDIUM_HDD}};

    for (size_t i = 0; i < TARN_ARRAY_LEN(media); i++)
        if (strlen(media[i].name) == n && strncmp(media[i].name, text, n) == 0) {
            *ret = media[i].medium;
            return 0;
        }
    return -TARN_E_INVALID;
}

/* "98", "98%" or "0.98". */
static int spec_mark(const char *text, uint32_t *ret)
{
    uint64_t whole;

    if (tarn_parse_u64(text, &whole) == 0 && whole > 1) {
        *ret = (uint32_t)(TARN_MIN(whole, (uint64_t)101) * 100);
        return whole <= 100 ? 0 : -TARN_E_INVALID;
    }
    return tarn_parse_percent(text, ret);
}

/* Cuts the last field off; NULL: there is none. */
static char *spec_cut(char *text)
{
    char *colon = strrchr(text, ':');

    if (!colon)
        return NULL;
    *colon = 0;
    return colon + 1;
}

/* "PATH:QUOTA:HIGH:LOW" into its parts; `text` is changed. False: it does not end like that. */
static bool spec_with_marks(char *text, struct tier_spec *ret)
{
    char *low = spec_cut(text), *high = low ? spec_cut(text) : NULL;
    char *quota = high ? spec_cut(text) : NULL;

    return quota && tarn_parse_size(quota, &ret->quota_bytes) == 0 &&
           spec_mark(high, &ret->high_bp) == 0 && spec_mark(low, &ret->low_bp) == 0;
}

static bool spec_without_marks(char *text, struct tier_spec *ret)
{
    char *quota = spec_cut(text);

    ret->high_bp = TIER_HIGH_BP;
    ret->low_bp = TIER_LOW_BP;
    return quota && tarn_parse_size(quota, &ret->quota_bytes) == 0;
}

int tier_spec_parse(const char *text, struct tier_spec *ret, struct tarn_errbuf *err)
{
    const char *rest = strchr(text, ':');
    TARN_AUTO_FREE char *marked = NULL, *plain = NULL;
    struct tier_spec spec = {0};
    const char *path;

    if (!rest || spec_medium(text, (size_t)(rest - text), &spec.medium) < 0)
        return tarn_err_set(err, -TARN_E_CONFIG, "--tier %s: %s; MEDIUM is MEM, SSD or HDD", text,
                            form);
    marked = tarn_xstrdup(rest + 1);
    plain = tarn_xstrdup(rest + 1);
    path = spec_with_marks(marked, &spec)     ? marked
           : spec_without_marks(plain, &spec) ? plain
                                              : NULL;
    if (!path || !path[0])
        return tarn_err_set(err, -TARN_E_CONFIG, "--tier %s: %s", text, form);
    if (spec.quota_bytes < TIER_QUOTA_MIN)
        return tarn_err_set(err, -TARN_E_CONFIG, "--tier %s: QUOTA must be at least 16 MiB", text);
    if (spec.low_bp > spec.high_bp || spec.high_bp < 1000 || spec.low_bp < 500)
        return tarn_err_set(err, -TARN_E_CONFIG,
                            "--tier %s: HIGH must be from 10 to 100 percent, LOW from 5 to HIGH",
                            text);
    *ret = spec;
    ret->path = tarn_xstrdup(path);
    return 0;
}
