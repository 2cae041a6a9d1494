/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Error answers of S3 stores: what the XML says, and our code for it. An answer that is no XML, or
 * only half of it, still has a status. Document types end the parse, as in listings (s3_xml.c).
 */
#include <expat.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/mem.h"
#include "ufs/s3_priv.h"

#define ERROR_DEPTH_MAX 16u

/* What the text of the current element is for. */
enum error_field { ERROR_NONE, ERROR_CODE, ERROR_MESSAGE, ERROR_REGION };

struct error_xml {
    XML_Parser parser;         /* expat's */
    unsigned depth;            /* open elements */
    enum error_field field;    /* of the open element */
    struct tarn_s3_error *out; /* result */
};

static void error_doctype(void *arg, const XML_Char *name, const XML_Char *sysid,
                          const XML_Char *pubid, int internal)
{
    struct error_xml *x = arg;

    (void)name;
    (void)sysid;
    (void)pubid;
    (void)internal;
    (void)XML_StopParser(x->parser, XML_FALSE); /* fails only when it has stopped already */
}

static void error_start(void *arg, const XML_Char *name, const XML_Char **attrs)
{
    struct error_xml *x = arg;

    (void)attrs;
    name = tarn_s3_xml_local(name);
    x->field = ERROR_NONE;
    if (++x->depth > ERROR_DEPTH_MAX || (x->depth == 1 && strcmp(name, "Error") != 0))
        (void)XML_StopParser(x->parser, XML_FALSE); /* as above */
    else if (x->depth == 2 && strcmp(name, "Code") == 0)
        x->field = ERROR_CODE;
    else if (x->depth == 2 && strcmp(name, "Message") == 0)
        x->field = ERROR_MESSAGE;
    else if (x->depth == 2 && strcmp(name, "Region") == 0)
        x->field = ERROR_REGION;
}

static void error_append(char *dst, size_t size, const char *p, int n)
{
    size_t used = strlen(dst);

    for (int i = 0; i < n && used + 1 < size; i++)
        dst[used++] = (char)((unsigned char)p[i] < 0x20 || p[i] == 0x7f ? ' ' : p[i]);
    dst[used] = 0;
}

static void error_text(void *arg, const XML_Char *p, int n)
{
    struct error_xml *x = arg;

    if (x->field == ERROR_CODE)
        error_append(x->out->code, sizeof(x->out->code), p, n);
    else if (x->field == ERROR_MESSAGE)
        error_append(x->out->message, sizeof(x->out->message), p, n);
    else if (x->field == ERROR_REGION)
        error_append(x->out->region, sizeof(x->out->region), p, n);
}

static void error_close(void *arg, const XML_Char *name)
{
    struct error_xml *x = arg;

    (void)name;
    x->depth--;
    x->field = ERROR_NONE;
}

void tarn_s3_error_xml(const char *p, size_t n, struct tarn_s3_error *ret)
{
    struct error_xml x = {.parser = XML_ParserCreate("UTF-8"), .out = ret};

    *ret = (struct tarn_s3_error){0};
    TARN_ASSERT(n <= INT32_MAX);
    if (!x.parser)
        return;
    XML_SetUserData(x.parser, &x);
    XML_SetElementHandler(x.parser, error_start, error_close);
    XML_SetCharacterDataHandler(x.parser, error_text);
    XML_SetStartDoctypeDeclHandler(x.parser, error_doctype);
    (void)XML_Parse(x.parser, p, (int)n, 1); /* what was read until an error stays */
    XML_ParserFree(x.parser);
}

int tarn_s3_error_code(const char *code, unsigned status)
{
    static const struct {
        const char *code; /* the store's */
        int rc;           /* ours, positive */
    } rows[] = {
        {"NoSuchBucket", TARN_E_UFS_NO_BUCKET},
        {"InvalidBucketName", TARN_E_UFS_NO_BUCKET},
        {"NoSuchKey", TARN_E_UFS_NOT_FOUND},
        {"NoSuchVersion", TARN_E_UFS_NOT_FOUND},
        {"AccessDenied", TARN_E_UFS_DENIED},
        {"AllAccessDisabled", TARN_E_UFS_DENIED},
        {"AccountProblem", TARN_E_UFS_DENIED},
        {"InvalidObjectState", TARN_E_UFS_DENIED},
        {"SignatureDoesNotMatch", TARN_E_UFS_SIGNATURE},
        {"InvalidAccessKeyId", TARN_E_UFS_SIGNATURE},
        {"RequestTimeTooSkewed", TARN_E_UFS_SIGNATURE},
        {"ExpiredToken", TARN_E_UFS_SIGNATURE},
        {"InvalidToken", TARN_E_UFS_SIGNATURE},
        {"TokenRefreshRequired", TARN_E_UFS_SIGNATURE},
        {"InvalidSecurity", TARN_E_UFS_SIGNATURE},
        {"XAmzContentSHA256Mismatch", TARN_E_UFS_SIGNATURE},
        {"AuthorizationHeaderMalformed", TARN_E_CONFIG},
        {"PermanentRedirect", TARN_E_CONFIG},
        {"TemporaryRedirect", TARN_E_CONFIG},
        {"IllegalLocationConstraintException", TARN_E_CONFIG},
        {"SlowDown", TARN_E_UFS_THROTTLED},
        {"ServiceUnavailable", TARN_E_UFS_THROTTLED},
        {"RequestLimitExceeded", TARN_E_UFS_THROTTLED},
        {"Throttling", TARN_E_UFS_THROTTLED},
        {"ThrottlingException", TARN_E_UFS_THROTTLED},
        {"TooManyRequests", TARN_E_UFS_THROTTLED},
        {"BandwidthLimitExceeded", TARN_E_UFS_THROTTLED},
        {"InternalError", TARN_E_UFS_SERVER},
        {"RequestTimeout", TARN_E_UFS_STALLED},
        {"PreconditionFailed", TARN_E_UFS_CHANGED},
        {"InvalidRange", TARN_E_UFS_CHANGED},
        {"MethodNotAllowed", TARN_E_UNSUPPORTED},
        {"NotImplemented", TARN_E_UNSUPPORTED},
    };

    for (size_t i = 0; i < TARN_ARRAY_LEN(rows); i++)
        if (strcmp(code, rows[i].code) == 0)
            return -rows[i].rc;
    switch (status) {
    case 401:
    case 403:
        return -TARN_E_UFS_DENIED;
    case 304: /* not asked for */
        return -TARN_E_UFS_PROTO;
    case 404:
    case 410:
        return -TARN_E_UFS_NOT_FOUND;
    case 408:
        return -TARN_E_UFS_STALLED;
    case 412:
    case 416:
        return -TARN_E_UFS_CHANGED;
    case 429:
    case 503:
    case 509:
        return -TARN_E_UFS_THROTTLED;
    case 501:
    case 505:
        return -TARN_E_UNSUPPORTED;
    default:
        break;
    }
    if (status >= 300 && status < 400)
        return -TARN_E_CONFIG;
    return status >= 500 ? -TARN_E_UFS_SERVER : -TARN_E_UFS_PROTO;
}
