/* SPDX-License-Identifier: Apache-2.0 */
/* Listings of an S3 store, in pieces as they may arrive, and the page made of them. */
#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/mem.h"
#include "ufs/s3_priv.h"
#include "ufs/ufs_priv.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

static void check_page(const struct tarn_ufs_list *l)
{
    TARN_ASSERT(l->complete == !l->to_key);
    for (size_t i = 0; i < l->count; i++) {
        const struct tarn_ufs_entry *e = &l->entries[i];

        TARN_ASSERT(e->name_len > 0 && e->name_len <= 255 && strlen(e->name) == e->name_len);
        TARN_ASSERT(!strchr(e->name, '/') && strcmp(e->name, ".") != 0 &&
                    strcmp(e->name, "..") != 0);
    }
}

/* The first byte picks the size of the pieces, the second where the listing starts. */
int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    static const char *const from[] = {"", "a", "a/", "b\x01"};
    static const char *const dirs[] = {"", "p/", "a/"};
    struct tarn_s3_list_xml *x;
    struct tarn_ufs_list l = {.max_entries = 50};
    struct tarn_s3_listing r;
    size_t piece;
    int rc = 0;

    if (n < 2)
        return 0;
    piece = p[0] + 1u;
    l.from_key = tarn_xstrdup(from[p[1] % 4]);
    x = tarn_s3_list_xml_new(50);
    for (size_t at = 2; rc == 0 && at < n; at += piece)
        rc = tarn_s3_list_xml_feed(x, p + at, TARN_MIN(piece, n - at));
    if (rc == 0)
        rc = tarn_s3_list_xml_end(x);
    if (rc == 0) {
        tarn_s3_list_xml_result(x, &r);
        TARN_ASSERT(r.count <= 50);
        if (tarn_s3_page(&l, dirs[p[1] / 4 % 3], &r, p[1] >> 7, NULL) == 0)
            check_page(&l);
    }
    tarn_s3_list_xml_free(&x);
    tarn_ufs_list_fini(&l);
    return 0;
}
