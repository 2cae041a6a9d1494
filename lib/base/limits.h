/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lib/base/limits.h — the bound of every queue, map and input that a peer, a store or a user can
 * fill.
 */
#pragma once

#define TARN_GRANULE_BYTES  (64u << 10) /* unit of a checksum (cluster constant) */
#define TARN_GROUP_GRANULES 64u         /* granules of one index record */
#define TARN_UNIT_BYTES                                                                            \
    (TARN_GRANULE_BYTES * TARN_GROUP_GRANULES) /* 4 MiB: unit of a fetch and of eviction */
#define TARN_SEGMENT_BYTES (64ull << 20)       /* unit of placement (cluster constant) */
#define TARN_FILE_MAX      (1ull << 60)        /* bytes of a file */

#define TARN_FRAME_BODY_MAX     (1u << 20)  /* bytes of a message */
#define TARN_FRAME_PAYLOAD_MAX  (8u << 20)  /* bytes of a payload */
#define TARN_CONN_CALLS_MAX     4096u       /* calls in flight on one connection */
#define TARN_CONN_WRITE_MAX     (64u << 20) /* bytes queued to one peer before it is cut */
#define TARN_LISTENER_CONNS_MAX 16384u      /* connections of one listener */
#define TARN_HANDSHAKE_MS       5000u       /* a peer that has not proved itself by then is cut */
#define TARN_FRAME_RECV_MS                                                                         \
    30000u /* a frame whose first byte came is whole by then, or its sender is cut */
#define TARN_CONN_CALL_BYTES_MAX (64u << 20) /* bytes of requests in flight on one connection */
#define TARN_CLIENT_REQS_MAX     65536u      /* requests of one client that have not ended */
#define TARN_CLIENT_ADDRS_MAX    16u         /* addresses of one client */

#define TARN_JOURNAL_ENTRY_MAX  (64u << 10) /* bytes of a journal entry */
#define TARN_JOURNAL_QUEUE_MAX  (64u << 20) /* bytes of proposals that wait */
#define TARN_LIST_PAGE_ENTRIES  1000u       /* names of one listing page */
#define TARN_READDIR_ENTRIES    1024u       /* names of one readdir reply */
#define TARN_NEGATIVE_MAX       65536u      /* remembered negative answers per master */
#define TARN_WAITERS_MAX        65536u      /* calls that wait for the store in one master */
#define TARN_KEY_MAX            1024u       /* bytes of an object key (S3) */
#define TARN_ETAG_MAX           128u        /* bytes of an ETag */
#define TARN_LOAD_LIST_LINE_MAX 8192u       /* bytes of a line in a load list */
#define TARN_JOBS_KEPT          256u        /* finished jobs remembered */

#define TARN_CORE_WORKERS_MAX 1024u /* workers known, of any state */
/* Of a worker's texts, so that all workers fit a message. */
#define TARN_WORKER_UUID_MIN   8u
#define TARN_WORKER_UUID_MAX   64u
#define TARN_WORKER_ADDR_MAX   200u
#define TARN_WORKER_HOST_MAX   128u
#define TARN_WORKER_SOCKET_MAX 107u
#define TARN_CORE_PAST_MAX     64u    /* earlier sets of owners kept */
#define TARN_CORE_PAST_IDS_MAX 24576u /* workers in them, all together: they fit a message */

#define TARN_CORE_SCAN_MAX    16384u      /* known names that one listing entry looks at */
#define TARN_CORE_SKIPPED_MAX (64u << 10) /* bytes of left-out names kept per directory */

#define TARN_READ_MAX      (1u << 20)  /* bytes of one read from the kernel */
#define TARN_HTTP_BODY_MAX (16u << 20) /* bytes of a listing or error answer of a store */
#define TARN_UFS_QUEUE_MAX 65536u      /* requests that wait for one store */

#define TARN_WORKER_ETAGS_MAX 16384u /* files whose ETag a worker remembers */

#define TARN_FUSE_NOTES_MAX 65536u /* invalidations that wait for the kernel */
