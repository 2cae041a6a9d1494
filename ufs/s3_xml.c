/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Listings of S3 stores, by expat. What a store sends is not trusted: a document type ends the
 * parse (so there are no entities but the five of XML), depth and the length of texts are bounded,
 * and only known elements at known places are looked at. The whole answer's length is bounded by
 * the caller.
 *
 * Keys arrive percent-encoded, since XML 1.0 cannot hold every byte that a key can; they are
 * decoded at the end, because a store may say EncodingType after the keys, or not have heard of it.
 */
#include <expat.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"
#include "lib/base/mem.h"
#include "lib/base/units.h"
#include "ufs/http_priv.h"
#include "ufs/s3_priv.h"

#define XML_DEPTH_MAX 16u
#define XML_TEXT_MAX  4096u /* a key of 1024 bytes, percent-encoded, and a token */
#define XML_MAGIC     0x78736c73u

/* What the text of the current element is for. */
enum xml_field {
    XML_NONE,
    XML_KEY,
    XML_MTIME,
    XML_ETAG,
    XML_SIZE,
    XML_PREFIX,
    XML_TRUNCATED,
    XML_TOKEN,
    XML_ENCODING
};

/* Owner: caller. */
struct tarn_s3_list_xml {
    uint32_t magic;           /* XML_MAGIC */
    XML_Parser parser;        /* expat's */
    unsigned depth;           /* open elements */
    bool in_contents;         /* inside Contents or CommonPrefixes, which one: */
    bool in_prefixes;         /* the other */
    enum xml_field field;     /* of the element that is open */
    char text[XML_TEXT_MAX];  /* its text so far, not terminated */
    size_t text_len;          /* bytes of it */
    struct tarn_s3_key key;   /* of the Contents or CommonPrefixes that is open */
    bool has_key, has_size;   /* what it had so far */
    bool root;                /* ListBucketResult was there */
    bool has_truncated;       /* IsTruncated was there */
    bool truncated, encoded;  /* IsTruncated; EncodingType url */
    struct tarn_str arena;    /* texts */
    struct tarn_str token;    /* NextContinuationToken */
    struct tarn_s3_key *keys; /* count of cap */
    size_t count, cap;        /* keys */
    unsigned max_keys;        /* asked for */
    int rc;                   /* first error */
};

const char *tarn_s3_xml_local(const char *name)
{
    const char *colon = strchr(name, ':');

    return colon ? colon + 1 : name;
}

static void list_fail(struct tarn_s3_list_xml *x, int rc)
{
    if (x->rc == 0)
        x->rc = rc;
    (void)XML_StopParser(x->parser, XML_FALSE); /* fails only when it has stopped already */
}

static void list_doctype(void *arg, const XML_Char *name, const XML_Char *sysid,
                         const XML_Char *pubid, int internal)
{
    (void)name;
    (void)sysid;
    (void)pubid;
    (void)internal;
    list_fail(arg, -TARN_E_UFS_PROTO);
}

static enum xml_field list_field(const struct tarn_s3_list_xml *x, const char *name)
{
    if (x->depth == 2) {
        if (strcmp(name, "IsTruncated") == 0)
            return XML_TRUNCATED;
        if (strcmp(name, "NextContinuationToken") == 0)
            return XML_TOKEN;
        return strcmp(name, "EncodingType") == 0 ? XML_ENCODING : XML_NONE;
    }
    if (x->depth != 3)
        return XML_NONE;
    if (x->in_prefixes)
        return strcmp(name, "Prefix") == 0 ? XML_PREFIX : XML_NONE;
    if (!x->in_contents)
        return XML_NONE;
    switch (name[0]) {
    case 'K':
        return strcmp(name, "Key") == 0 ? XML_KEY : XML_NONE;
    case 'L':
        return strcmp(name, "LastModified") == 0 ? XML_MTIME : XML_NONE;
    case 'E':
        return strcmp(name, "ETag") == 0 ? XML_ETAG : XML_NONE;
    case 'S':
        return strcmp(name, "Size") == 0 ? XML_SIZE : XML_NONE;
    default:
        return XML_NONE;
    }
}

static void list_start(void *arg, const XML_Char *name, const XML_Char **attrs)
{
    struct tarn_s3_list_xml *x;

    TARN_CAST(x, arg, XML_MAGIC);
    (void)attrs;
    if (x->rc < 0)
        return;
    name = tarn_s3_xml_local(name);
    if (++x->depth > XML_DEPTH_MAX) {
        list_fail(x, -TARN_E_UFS_PROTO);
        return;
    }
    if (x->depth == 1) {
        x->root = strcmp(name, "ListBucketResult") == 0;
        if (!x->root)
            list_fail(x, -TARN_E_UFS_PROTO);
        return;
    }
    if (x->depth == 2) {
        x->in_contents = strcmp(name, "Contents") == 0;
        x->in_prefixes = strcmp(name, "CommonPrefixes") == 0;
        x->has_key = false;
        x->has_size = false;
        x->key = (struct tarn_s3_key){.prefix = x->in_prefixes};
    }
    x->field = list_field(x, name);
    x->text_len = 0;
}

static void list_text(void *arg, const XML_Char *p, int n)
{
    struct tarn_s3_list_xml *x;

    TARN_CAST(x, arg, XML_MAGIC);
    if (x->field == XML_NONE || x->rc < 0)
        return;
    if ((size_t)n >= XML_TEXT_MAX - x->text_len) { /* keeps room for a NUL */
        list_fail(x, -TARN_E_UFS_PROTO);
        return;
    }
    memcpy(x->text + x->text_len, p, (size_t)n);
    x->text_len += (size_t)n;
}

static size_t list_keep(struct tarn_s3_list_xml *x, const char *p, size_t n)
{
    size_t off = x->arena.len;

    tarn_str_add(&x->arena, p, n);
    tarn_str_addc(&x->arena, 0);
    return off;
}

static void list_keep_etag(struct tarn_s3_list_xml *x)
{
    char clean[TARN_ETAG_MAX];
    size_t n = 0;

    for (size_t i = 0; i < x->text_len; i++) {
        if (x->text[i] == '"')
            continue;
        if (n == sizeof(clean) || (unsigned char)x->text[i] < 0x20 || x->text[i] == 0x7f)
            return; /* too long to be kept, or no header line could hold it: no ETag */
        clean[n++] = x->text[i];
    }
    x->key.etag_off = list_keep(x, clean, n);
    x->key.etag_len = n;
}

/* The element with the text closes. */
static void list_value(struct tarn_s3_list_xml *x)
{
    x->text[x->text_len] = 0;
    switch (x->field) {
    case XML_KEY:
    case XML_PREFIX:
        x->key.key_off = list_keep(x, x->text, x->text_len);
        x->key.key_len = x->text_len;
        x->has_key = true;
        break;
    case XML_MTIME:
        x->key.mtime_ns = tarn_s3_xml_date(x->text);
        break;
    case XML_ETAG:
        list_keep_etag(x);
        break;
    case XML_SIZE:
        x->has_size =
            tarn_parse_u64(x->text, &x->key.size_bytes) == 0 && x->key.size_bytes <= TARN_FILE_MAX;
        break;
    case XML_TRUNCATED:
        x->has_truncated = true;
        x->truncated = strcmp(x->text, "true") == 0;
        if (!x->truncated && strcmp(x->text, "false") != 0)
            list_fail(x, -TARN_E_UFS_PROTO); /* a guess could hide what follows */
        break;
    case XML_TOKEN:
        tarn_str_reset(&x->token);
        tarn_str_add(&x->token, x->text, x->text_len);
        break;
    case XML_ENCODING:
        x->encoded = strcmp(x->text, "url") == 0;
        break;
    case XML_NONE:
    default:
        break;
    }
    x->field = XML_NONE;
}

/* A Contents or CommonPrefixes closes. One CommonPrefixes may hold several Prefix elements. */
static void list_add(struct tarn_s3_list_xml *x)
{
    if (!x->has_key || (x->in_contents && !x->has_size)) {
        list_fail(x, -TARN_E_UFS_PROTO);
        return;
    }
    if (x->count == x->max_keys) {
        list_fail(x, -TARN_E_UFS_LIED);
        return;
    }
    if (x->count == x->cap) {
        x->cap = x->cap ? 2 * x->cap : 64;
        x->keys = tarn_xrealloc(x->keys, x->cap * sizeof(*x->keys)); /* bounded by max_keys */
    }
    x->keys[x->count++] = x->key;
    x->has_key = false;
}

static void list_close(void *arg, const XML_Char *name)
{
    struct tarn_s3_list_xml *x;

    TARN_CAST(x, arg, XML_MAGIC);
    (void)name;
    if (x->rc < 0)
        return;
    TARN_ASSERT(x->depth > 0);
    if (x->field != XML_NONE) {
        list_value(x);
        if (x->depth == 3 && x->in_prefixes)
            list_add(x);
    }
    if (x->depth == 2) {
        if (x->in_contents)
            list_add(x);
        x->in_contents = false;
        x->in_prefixes = false;
    }
    x->depth--;
}

struct tarn_s3_list_xml *tarn_s3_list_xml_new(unsigned max_keys)
{
    struct tarn_s3_list_xml *x = tarn_xnew(struct tarn_s3_list_xml);

    x->magic = XML_MAGIC;
    x->max_keys = max_keys;
    x->parser = XML_ParserCreate("UTF-8");
    TARN_ASSERT(x->parser != NULL);
    XML_SetUserData(x->parser, x);
    XML_SetElementHandler(x->parser, list_start, list_close);
    XML_SetCharacterDataHandler(x->parser, list_text);
    XML_SetStartDoctypeDeclHandler(x->parser, list_doctype);
    return x;
}

void tarn_s3_list_xml_free(struct tarn_s3_list_xml **xp)
{
    struct tarn_s3_list_xml *x = *xp;

    *xp = NULL;
    if (!x)
        return;
    TARN_ASSERT(x->magic == XML_MAGIC);
    XML_ParserFree(x->parser);
    tarn_str_fini(&x->arena);
    tarn_str_fini(&x->token);
    free(x->keys);
    x->magic = 0;
    free(x);
}

static int list_parse(struct tarn_s3_list_xml *x, const char *p, size_t n, int final)
{
    if (x->rc < 0)
        return x->rc;
    TARN_ASSERT(n <= INT32_MAX);
    if (XML_Parse(x->parser, p, (int)n, final) != XML_STATUS_OK && x->rc == 0)
        x->rc = XML_GetErrorCode(x->parser) == XML_ERROR_NO_MEMORY ? -TARN_E_NO_MEMORY
                                                                   : -TARN_E_UFS_PROTO;
    return x->rc;
}

int tarn_s3_list_xml_feed(struct tarn_s3_list_xml *x, const void *p, size_t n)
{
    return list_parse(x, p, n, 0);
}

int tarn_s3_list_xml_end(struct tarn_s3_list_xml *x)
{
    int rc = list_parse(x, "", 0, 1);

    if (rc == 0 && !x->has_truncated && (x->token.len || x->count == x->max_keys))
        x->rc = rc = -TARN_E_UFS_PROTO; /* it may go on, and does not say so */
    if (rc < 0 || !x->encoded)
        return rc;
    for (size_t i = 0; i < x->count; i++) {
        struct tarn_s3_key *k = &x->keys[i];
        int64_t n = tarn_s3_url_decode(x->arena.p + k->key_off, k->key_len);

        if (n < 0) {
            x->rc = (int)n;
            return x->rc;
        }
        k->key_len = (size_t)n;
        x->arena.p[k->key_off + (size_t)n] = 0;
    }
    return 0;
}

void tarn_s3_list_xml_result(struct tarn_s3_list_xml *x, struct tarn_s3_listing *ret)
{
    TARN_ASSERT(x->rc == 0 && x->root && x->depth == 0);
    *ret = (struct tarn_s3_listing){.arena = tarn_str_z(&x->arena),
                                    .keys = x->keys,
                                    .count = x->count,
                                    .truncated = x->truncated,
                                    .token = tarn_str_z(&x->token)};
}

static bool xml_digits(const char *s, unsigned n, unsigned *ret_v)
{
    unsigned v = 0;

    for (unsigned i = 0; i < n; i++) {
        if (s[i] < '0' || s[i] > '9')
            return false;
        v = v * 10 + (unsigned)(s[i] - '0');
    }
    *ret_v = v;
    return true;
}

int64_t tarn_s3_xml_date(const char *s)
{
    unsigned year, month, day, hour, min, sec;

    if (strlen(s) < 19 || s[4] != '-' || s[7] != '-' || s[10] != 'T' || s[13] != ':' ||
        s[16] != ':')
        return 0;
    if (!xml_digits(s, 4, &year) || !xml_digits(s + 5, 2, &month) || !xml_digits(s + 8, 2, &day) ||
        !xml_digits(s + 11, 2, &hour) || !xml_digits(s + 14, 2, &min) ||
        !xml_digits(s + 17, 2, &sec))
        return 0;
    if (year < 1970 || year > 2200 || month < 1 || month > 12 || day < 1 || day > 31 || hour > 23 ||
        min > 59 || sec > 60)
        return 0;
    return (tarn_ufs_http_days((int64_t)year, month, day) * 86400 + (int64_t)hour * 3600 +
            (int64_t)min * 60 + (int64_t)sec) *
           (int64_t)TARN_NS_PER_S;
}
