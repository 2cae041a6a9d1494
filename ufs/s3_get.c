/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Judging the answer to a ranged, conditional GET. Servers that ignore If-Match, ignore Range,
 * answer for another object or for another range exist; so what an answer says of itself is
 * compared with the version that the caller wants, before the first byte is taken.
 */
#include <string.h>

#include "lib/base/assert.h"
#include "ufs/http_priv.h"
#include "ufs/s3_priv.h"
#include "ufs/ufs.h"

/* The range is the one still wanted, or the whole object where that is what is wanted. */
static enum tarn_s3_fit get_fit_range(const struct tarn_ufs_get *g,
                                      const struct tarn_ufs_http_head *h, const char **ret_why)
{
    uint64_t first = g->off_bytes + g->done_bytes, last = g->off_bytes + g->len_bytes - 1;
    uint64_t size = g->version.size_bytes;

    *ret_why = "the object has another length now";
    if (h->status == 206) {
        if (h->has_range && h->has_total && h->total_bytes != size)
            return TARN_S3_FIT_CHANGED;
        *ret_why = "the answer is for another range";
        if (!h->has_range || h->range_first != first || h->range_last != last)
            return TARN_S3_FIT_LIED;
        return h->has_length && h->length_bytes != last - first + 1 ? TARN_S3_FIT_LIED
                                                                    : TARN_S3_FIT_OK;
    }
    if (h->has_length && h->length_bytes != size)
        return TARN_S3_FIT_CHANGED;
    *ret_why = "the store ignores Range and sends the whole object";
    return first == 0 && last == size - 1 ? TARN_S3_FIT_OK : TARN_S3_FIT_LIED;
}

enum tarn_s3_fit tarn_s3_get_fit(struct tarn_ufs_get *g, const struct tarn_ufs_http_head *head,
                                 const char **ret_why)
{
    const struct tarn_ufs_version *v = &g->version;
    enum tarn_s3_fit fit;

    *ret_why = "";
    if (head->status == 412)
        return TARN_S3_FIT_ASK;
    if (head->status != 200 && head->status != 206)
        return TARN_S3_FIT_ERROR;
    fit = get_fit_range(g, head, ret_why);
    if (fit != TARN_S3_FIT_OK)
        return fit;
    if (*v->etag && *head->etag) {
        *ret_why = "the ETag differs";
        if (strcmp(v->etag, head->etag) != 0)
            return TARN_S3_FIT_ASK;
        g->verified = TARN_VERIFIED_ETAG;
        return TARN_S3_FIT_OK;
    }
    *ret_why = "the object was modified";
    if (head->mtime_ns && v->mtime_ns && head->mtime_ns != v->mtime_ns)
        return TARN_S3_FIT_CHANGED;
    *ret_why = "the answer has neither ETag nor Last-Modified";
    if (*v->etag && !head->mtime_ns)
        return TARN_S3_FIT_LIED;
    g->verified = TARN_VERIFIED_LENGTH;
    return TARN_S3_FIT_OK;
}

enum tarn_s3_fit tarn_s3_get_adopt(struct tarn_ufs_get *g, const struct tarn_ufs_http_head *head,
                                   bool *ret_plain)
{
    struct tarn_ufs_version *v = &g->version;

    *ret_plain = false;
    if (head->status != 200)
        return TARN_S3_FIT_ERROR;
    if (!head->has_length || head->length_bytes != v->size_bytes)
        return TARN_S3_FIT_CHANGED;
    if (!*v->etag && (!head->mtime_ns || head->mtime_ns != v->mtime_ns))
        return TARN_S3_FIT_CHANGED;
    if (!*v->etag || strcmp(head->etag, v->etag) == 0) {
        *ret_plain =
            true; /* HEAD agrees with us: it is the condition that the store does not understand */
        return TARN_S3_FIT_OK;
    }
    if (g->adopted || !*head->etag || !head->mtime_ns || head->mtime_ns != v->mtime_ns)
        return TARN_S3_FIT_CHANGED;
    if (g->done_bytes)
        return TARN_S3_FIT_CHANGED; /* bytes of the other ETag were handed out already */
    TARN_ASSERT(strlen(head->etag) <= TARN_ETAG_MAX);
    memcpy(v->etag, head->etag, strlen(head->etag) + 1);
    g->adopted = true;
    return TARN_S3_FIT_OK;
}
