/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Filters. The matcher remembers only the last `*`, and where the last `]` is, so that a pattern
 * costs at most pattern x text steps whatever it is: it comes from users and runs on the master's
 * loop.
 */
#include <string.h>

#include "master/jobs/jobs_priv.h"

/*
 * The end of the bracket expression at `p` (behind its '['); NULL when it is not closed, which is
 * seen at once when the last ']' of the pattern, `close`, is before it.
 */
static const char *glob_bracket_end(const char *p, const char *end, const char *close)
{
    if (!close || p > close)
        return NULL;
    if (p < end && (*p == '!' || *p == '^'))
        p++;
    if (p < end && *p == ']') /* the first one stands for itself */
        p++;
    while (p < end && *p != ']')
        p++;
    return p < end ? p : NULL;
}

static bool glob_bracket(const char *p, const char *end, unsigned char c)
{
    bool invert = p < end && (*p == '!' || *p == '^');
    bool hit = false;

    p += invert;
    for (bool first = true; p < end; first = false) {
        unsigned char lo = (unsigned char)*p++, hi = lo;

        if (lo == ']' && !first)
            break;
        if (p + 1 < end && *p == '-') {
            hi = (unsigned char)p[1];
            p += 2;
        }
        hit |= c >= lo && c <= hi;
    }
    return hit != invert;
}

/* Matches one character but `*`; *ret_next is where the pattern goes on. `last`: its last ']'. */
static bool glob_one(const char *p, const char *end, const char *last, char c,
                     const char **ret_next)
{
    const char *close;

    *ret_next = p + 1;
    switch (*p) {
    case '?':
        return true;
    case '[':
        close = glob_bracket_end(p + 1, end, last);
        if (!close)
            return c == '[';
        *ret_next = close + 1;
        return glob_bracket(p + 1, close, (unsigned char)c);
    case '\\':
        if (p + 1 < end) {
            *ret_next = p + 2;
            return p[1] == c;
        }
        return c == '\\';
    default:
        return *p == c;
    }
}

bool mglob_match(const char *glob, size_t glob_len, const char *text, size_t len)
{
    const char *p = glob, *p_end = glob + glob_len;
    const char *t = text, *t_end = text + len;
    const char *star = NULL, *star_t = NULL; /* behind the last '*'; what it leaves over */
    const char *close = glob_len ? memrchr(glob, ']', glob_len) : NULL;

    while (t < t_end) {
        const char *next;

        if (p < p_end && *p == '*') {
            star = ++p;
            star_t = t;
        } else if (p < p_end && glob_one(p, p_end, close, *t, &next)) {
            p = next;
            t++;
        } else if (star) {
            p = star;
            t = ++star_t;
        } else {
            return false;
        }
    }
    while (p < p_end && *p == '*')
        p++;
    return p == p_end;
}

/* Matches the path or its last name. */
static bool glob_path(const ProtobufCBinaryData *g, const char *path, size_t len)
{
    const char *slash = len ? memrchr(path, '/', len) : NULL;
    const char *name = slash ? slash + 1 : path;

    return mglob_match((const char *)g->data, g->len, path, len) ||
           (slash && mglob_match((const char *)g->data, g->len, name, len - (size_t)(name - path)));
}

static bool glob_excludes(const ProtobufCBinaryData *g, const char *rel)
{
    for (const char *slash = strchr(rel, '/'); slash; slash = strchr(slash + 1, '/'))
        if (glob_path(g, rel, (size_t)(slash - rel)))
            return true;
    return glob_path(g, rel, strlen(rel));
}

bool mglob_selects(const Tarn__Wire__LoadSpec *spec, const char *rel)
{
    bool selected = spec->n_filter == 0;

    for (size_t i = 0; i < spec->n_exclude; i++)
        if (glob_excludes(&spec->exclude[i], rel))
            return false;
    for (size_t i = 0; i < spec->n_filter && !selected; i++)
        selected = glob_path(&spec->filter[i], rel, strlen(rel));
    return selected;
}
