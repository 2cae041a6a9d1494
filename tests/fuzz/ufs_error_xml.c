/* SPDX-License-Identifier: Apache-2.0 */
/* Error answers of an S3 store: what goes into a text for people is short and printable. */
#include <string.h>

#include "lib/base/assert.h"
#include "ufs/s3_priv.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

static void check_text(const char *s, size_t size)
{
    TARN_ASSERT(strnlen(s, size) < size);
    for (; *s; s++)
        TARN_ASSERT((unsigned char)*s >= 0x20 && *s != 0x7f);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    struct tarn_s3_error e;

    tarn_s3_error_xml((const char *)p, n, &e);
    check_text(e.code, sizeof(e.code));
    check_text(e.message, sizeof(e.message));
    check_text(e.region, sizeof(e.region));
    TARN_ASSERT(tarn_s3_error_code(e.code, n ? p[0] * 4u : 0) < 0);
    return 0;
}
