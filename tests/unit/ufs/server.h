/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tests/unit/ufs/server.h — a small object store over HTTP on a thread, which misbehaves on demand:
 * the n-th request gets the n-th action of a script, later ones are answered well. It knows HEAD,
 * ranged and conditional GET, and ListObjectsV2 with prefix, delimiter, max-keys, start-after and
 * tokens.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum srv_action {
    SRV_OK,           /* the right answer */
    SRV_SLOW_DOWN,    /* 503 SlowDown */
    SRV_ERROR_500,    /* 500, HTML body */
    SRV_DENY,         /* 403 AccessDenied */
    SRV_STALL,        /* no answer */
    SRV_STALL_BODY,   /* half of the body, then nothing */
    SRV_CUT_BODY,     /* half of the body, then closed */
    SRV_CLOSE,        /* closed without an answer */
    SRV_IGNORE_RANGE, /* 200 with everything */
    SRV_WRONG_RANGE,  /* 206 of another range */
    SRV_WRONG_TOTAL,  /* 206 with another total length */
    SRV_WRONG_ETAG,   /* an ETag that nobody knows, If-Match not looked at */
    SRV_NO_ETAG,      /* no ETag header */
    SRV_GARBAGE,      /* not HTTP */
    SRV_LONG_HEADERS, /* headers without end */
    SRV_REDIRECT,     /* 301 to another region */
    SRV_CHUNKED,      /* the right answer without Content-Length */
    SRV_BAD_XML,      /* 200 with half a listing */
    SRV_TOO_MANY,     /* a listing with more keys than asked */
    SRV_LOOP,         /* a truncated listing that never advances */
    SRV_SKEWED,       /* 403 RequestTimeTooSkewed with a Date of 2001 */
    SRV_BAD_KEY,      /* 403 SignatureDoesNotMatch */
    SRV_CHECK_KEY,    /* 403 SignatureDoesNotMatch unless the key is `ak` */
    SRV_CHECK_DENY,   /* 403 AccessDenied unless the key is `ak` */
    SRV_ANY_PREFIX,   /* a listing that does not look at the prefix */
    SRV_BAD_TOKEN     /* 400 InvalidArgument */
};

struct srv_object {
    const char *key;       /* full */
    const char *etag;      /* as LIST says it */
    const char *head_etag; /* as HEAD and GET say it; NULL: the same */
    const uint8_t *body;   /* size bytes */
    size_t size;           /* bytes */
};

struct srv;

/* Objects are borrowed and sorted by key; they may not change while requests run. */
struct srv *srv_start(const struct srv_object *objects, size_t n);
void srv_stop(struct srv **s);
unsigned srv_port(const struct srv *s);
/* Replaces the script and resets the counters. */
void srv_script(struct srv *s, const enum srv_action *actions, size_t n);
void srv_objects(struct srv *s, const struct srv_object *objects, size_t n);
/* Every answer waits so long. */
void srv_delay_ms(struct srv *s, unsigned ms);

struct srv_counts {
    unsigned requests;    /* since the last script */
    unsigned connections; /* accepted, since the start */
    unsigned running_max; /* requests at the same time */
    unsigned bad_auth;    /* requests without the headers of a signed one */
};
void srv_counts(struct srv *s, struct srv_counts *ret);
/* The n-th request line since the last script; "" if there was none. Valid until the next script.
 */
const char *srv_line(struct srv *s, unsigned n);
