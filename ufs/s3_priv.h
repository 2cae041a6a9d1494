/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ufs/s3_priv.h — the parts of the S3 back end: URL encoding, signing, XML, pages of a listing.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/base/err.h"
#include "lib/base/limits.h"
#include "lib/base/str.h"
#include "ufs/credentials_priv.h"

struct tarn_ufs_list;

/* ---- s3_url.c: pure ------------------------------------------------------------------------- */

/* Appends `n` bytes, all but A-Z a-z 0-9 - . _ ~ (and '/' when `keep_slash`) as %XX. */
void tarn_s3_url_encode(struct tarn_str *out, const char *p, size_t n, bool keep_slash);
/* Appends "name=value" to a query, with '&' between; names must be added in ascending order. */
void tarn_s3_url_query(struct tarn_str *query, const char *name, const char *value);
/* Undoes encoding-type=url in place ('+' is a space); returns the new length, or -TARN_E_UFS_PROTO.
 */
int64_t tarn_s3_url_decode(char *p, size_t n);

/* An endpoint, as the user wrote it or as it follows from the region. */
struct tarn_s3_endpoint {
    bool https;     /* scheme */
    char host[256]; /* lower case; an IPv6 address in brackets */
    uint16_t port;  /* never 0 */
};
/* "https://host[:port][/]", "host[:port]" (https). Errors: CONFIG */
int tarn_s3_endpoint_parse(const char *text, struct tarn_s3_endpoint *ret, struct tarn_errbuf *err);
bool tarn_s3_endpoint_is_aws(const struct tarn_s3_endpoint *e);
/* host, and the port unless it is the scheme's own: what the Host header says. */
void tarn_s3_endpoint_authority(const struct tarn_s3_endpoint *e, const char *bucket,
                                struct tarn_str *out);
/* "bucket/prefix" -> both, the prefix ending with '/' unless empty. Errors: CONFIG */
int tarn_s3_uri_parse(const char *rest, char **ret_bucket, char **ret_prefix,
                      struct tarn_errbuf *err);

/* ---- s3_sign.c: AWS Signature Version 4 ----------------------------------------------------- */

#define TARN_S3_EMPTY_SHA256 "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

struct tarn_s3_header {
    const char *name;  /* lower case */
    const char *value; /* without white space at its ends */
};

/* What is signed. Borrowed. */
struct tarn_s3_sign_args {
    const char *method;                   /* "GET" */
    const char *path;                     /* encoded */
    const char *query;                    /* encoded, sorted by name; "" for none */
    const struct tarn_s3_header *headers; /* n_headers, sorted by name; host, x-amz-date, … */
    size_t n_headers;                     /* signed headers */
    const char *payload_sha256;           /* hex */
    const char *amz_date;                 /* "20130524T000000Z", as in the header x-amz-date */
    const char *region;                   /* "us-east-1" */
    const char *access_key;               /* id */
    const char *secret_key;               /* never in the result */
};
/* The value of the header Authorization. */
void tarn_s3_sign(const struct tarn_s3_sign_args *a, struct tarn_str *ret_authorization);
/* "20130524T000000Z"; returns buf. */
const char *tarn_s3_amz_date(int64_t real_ns, char buf[20]);

/* ---- s3_xml.c: answers ---------------------------------------------------------------------- */

/* A key of a listing; texts are offsets into the arena. */
struct tarn_s3_key {
    size_t key_off, key_len;   /* decoded */
    size_t etag_off, etag_len; /* without quotes */
    uint64_t size_bytes;       /* of an object */
    int64_t mtime_ns;          /* in whole seconds; 0 where absent */
    bool prefix;               /* a common prefix, not an object */
};

/* ListBucketResult. Fed piece by piece; reads what it knows and leaves the rest out. */
struct tarn_s3_list_xml;
struct tarn_s3_list_xml *tarn_s3_list_xml_new(unsigned max_keys);
void tarn_s3_list_xml_free(struct tarn_s3_list_xml **x);
/* Errors: UFS_PROTO (malformed, too deep, too long, a DTD), UFS_LIED (more keys than asked),
 * NO_MEMORY */
int tarn_s3_list_xml_feed(struct tarn_s3_list_xml *x, const void *p, size_t n);
/* After the last piece: UFS_PROTO when it is not a complete listing. */
int tarn_s3_list_xml_end(struct tarn_s3_list_xml *x);

/* The result; valid until the parser is freed. */
struct tarn_s3_listing {
    const char *arena;        /* texts */
    struct tarn_s3_key *keys; /* count, in the order of the answer */
    size_t count;             /* keys and common prefixes */
    bool truncated;           /* more follows */
    const char *token;        /* NextContinuationToken, "" when absent */
};
void tarn_s3_list_xml_result(struct tarn_s3_list_xml *x, struct tarn_s3_listing *ret);

/* A name without its namespace prefix. */
const char *tarn_s3_xml_local(const char *name);
/* "2009-10-12T17:50:30.000Z" -> ns of the whole second; 0 when malformed. */
int64_t tarn_s3_xml_date(const char *s);

/* ---- s3_error.c -------------------------------------------------------------------------- */

/* <Error>. Texts are cut and printable. */
struct tarn_s3_error {
    char code[64];     /* "NoSuchKey"; "" when the answer says none */
    char message[256]; /* for people */
    char region[64];   /* of AuthorizationHeaderMalformed, PermanentRedirect */
};
/* Never fails: what cannot be read is left empty. */
void tarn_s3_error_xml(const char *p, size_t n, struct tarn_s3_error *ret);
/* Our code for the store's, or for the status where the code is unknown. */
int tarn_s3_error_code(const char *code, unsigned status);

/* ---- s3_page.c ------------------------------------------------------------------------------ */

/*
 * Makes the page of `l` from a listing: `full_dir` is the store's prefix of the directory;
 * `follows` when it is the continuation, by a token, of the page that ended at l->from_key. Fills
 * entries, count, to_key, complete, skipped, skipped_names and token. Errors: UFS_LIED (a key
 * outside full_dir, one before the page, an endless answer), NO_MEMORY
 */
int tarn_s3_page(struct tarn_ufs_list *l, const char *full_dir, const struct tarn_s3_listing *x,
                 bool follows, struct tarn_errbuf *err);
/* True when every key begins with `prefix`. */
bool tarn_s3_listing_has_prefix(const struct tarn_s3_listing *x, const char *prefix);

/* ---- s3_call.c: one signed request ---------------------------------------------------------- */

struct tarn_ufs_http;
struct tarn_ufs_http_call;
struct tarn_ufs_http_head;
struct tarn_ufs_version;

/* Where and as whom. Owner: loop. */
struct tarn_s3_site {
    char *bucket;     /* name */
    char *region;     /* requests are signed for it */
    char *base;       /* "https://host:port", of every URL */
    char *authority;  /* the Host header */
    char *path;       /* "/bucket", or "" where the bucket is in the host */
    char *access_key; /* NULL: not signed */
    char *secret_key; /* beside it */
    char *token;      /* or NULL */
};

/* A request, ready for tarn_ufs_http_start. Zeroed is empty. */
struct tarn_s3_call {
    struct tarn_str url;    /* whole */
    struct tarn_str lines;  /* header lines, each with a NUL */
    const char *headers[8]; /* into lines */
    size_t n_headers;       /* lines */
};

/* HEAD of an object. `full_key` is the store's key. */
void tarn_s3_call_head(const struct tarn_s3_site *s, const char *full_key, int64_t real_ns,
                       struct tarn_s3_call *ret);
/* GET of bytes first..last, if `version` is still there (NULL: of any version). */
void tarn_s3_call_get(const struct tarn_s3_site *s, const char *full_key, uint64_t first,
                      uint64_t last, const struct tarn_ufs_version *version, int64_t real_ns,
                      struct tarn_s3_call *ret);

struct tarn_s3_list_args {
    const char *prefix;      /* the store's */
    bool delimiter;          /* group at '/' */
    unsigned max_keys;       /* of one answer */
    const char *token;       /* continuation, or NULL */
    const char *start_after; /* the store's key, or NULL */
};
void tarn_s3_call_list(const struct tarn_s3_site *s, const struct tarn_s3_list_args *a,
                       int64_t real_ns, struct tarn_s3_call *ret);
/* Overwrites what was secret. */
void tarn_s3_call_fini(struct tarn_s3_call *c);

/* ---- s3_get.c: does an answer fit the version? ---------------------------------------------- */

struct tarn_ufs_get;

enum tarn_s3_fit {
    TARN_S3_FIT_OK,      /* take the body */
    TARN_S3_FIT_ASK,     /* another ETag, or 412: ask HEAD */
    TARN_S3_FIT_CHANGED, /* another object */
    TARN_S3_FIT_LIED,    /* contradicts the request */
    TARN_S3_FIT_ERROR    /* an error status: read the body for the reason */
};
/* Of an answer to a ranged GET; *ret_why is for people. Sets g->verified when it fits. Pure but for
 * that. */
enum tarn_s3_fit tarn_s3_get_fit(struct tarn_ufs_get *g, const struct tarn_ufs_http_head *head,
                                 const char **ret_why);
/*
 * What HEAD said after ASK: OK when the GET may go on, with *ret_plain set when the store's
 * If-Match cannot be used; g->version.etag is replaced where LIST and HEAD disagree on the ETag
 * alone.
 */
enum tarn_s3_fit tarn_s3_get_adopt(struct tarn_ufs_get *g, const struct tarn_ufs_http_head *head,
                                   bool *ret_plain);

/* ---- s3_open.c --------------------------------------------------------------------------- */

struct tarn_ufs;

/* Owner: loop. */
struct tarn_s3_store {
    struct tarn_s3_site site;              /* borrows from creds and below */
    struct tarn_ufs_http *http;            /* connections */
    struct tarn_ufs_credentials_set creds; /* keys */
    uint64_t creds_ns;                     /* loop time when they were read */
    unsigned creds_nr;                     /* counts the keys that were in force */
};

/* The back end's `open`. */
int tarn_s3_open(struct tarn_ufs *u, const char *rest, struct tarn_errbuf *err);
void tarn_s3_store_free(struct tarn_s3_store *s);
