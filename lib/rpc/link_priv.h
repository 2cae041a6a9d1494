/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lib/rpc/link_priv.h — frames over one connection, the same for both ends: puts frames together
 * from bytes, checks them, bounds what is kept of an unfinished one, queues what is sent, and finds
 * out when the peer is gone.
 *
 * Owner: the connection's loop. Embedded; after on_close the owner calls tarn_link_fini().
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "lib/base/list.h"
#include "lib/base/str.h"
#include "lib/net/net.h"
#include "lib/wire/wire.h"

struct tarn_buf;
struct tarn_link;

struct tarn_link_ops {
    /*
     * A whole frame, its checksum verified. `meta` and `body` are valid during the call; *payload
     * (NULL when there is none) may be taken by setting it to NULL. Negative: the connection is
     * cut.
     */
    int (*on_frame)(struct tarn_link *l, const struct tarn_frame *f, const uint8_t *meta,
                    const uint8_t *body, struct tarn_buf **payload);
    /* The peer sent what is not a frame; the link is cut after this unless made deaf. May be NULL.
     */
    void (*on_bad)(struct tarn_link *l, int rc);
    void (*on_drain)(struct tarn_link *l); /* all that was queued is written; may be NULL */
    void (*on_close)(struct tarn_link *l, int rc);
};

struct tarn_link {
    uint32_t magic;                  /* LINK_MAGIC */
    struct tarn_loop *loop;          /* whose thread owns all this */
    struct tarn_conn *conn;          /* NULL after on_close */
    const struct tarn_link_ops *ops; /* who is told */
    bool server;                     /* stops reading while its peer does not read */
    bool open;                       /* the handshake is over: all kinds and sizes of frames */
    bool deaf;                       /* input is dropped */
    bool closing;                    /* cut; on_close follows */
    bool paused;                     /* reading is stopped */
    uint8_t version;                 /* of the frames that are sent */
    int close_rc;                    /* why it was cut */
    /* the frame that is being received */
    struct tarn_frame f;               /* its header, once complete */
    uint8_t hdr[TARN_FRAME_HDR_BYTES]; /* bytes of its header */
    uint32_t hdr_have;                 /* valid ones in hdr */
    uint8_t *head;                     /* its meta and body, once the header is known to be good */
    uint32_t head_have;                /* valid bytes in head */
    struct tarn_buf *payload;          /* its payload; len: valid bytes */
    struct tarn_timer frame_timer;     /* runs while one is incomplete */
    struct tarn_str rest;              /* arrived, but not looked at while paused */
    /* what is sent */
    struct tarn_str out;   /* scratch: the frame that is being written */
    struct tarn_list held; /* frames that the connection's queue had no room for */
    size_t held_bytes;     /* in `held` */
    uint64_t sent;         /* bytes ever given to the connection */
    /* is the peer there? */
    struct tarn_timer tick; /* looks every tick_ns */
    uint64_t tick_ns;       /* 0: never */
    uint64_t received;      /* bytes ever received */
    uint64_t tick_received; /* `received` at the last tick */
    uint64_t tick_written;  /* bytes ever written, at the last tick */
    unsigned quiet;         /* ticks without progress */
};

/* Takes `conn` and starts it. Only small handshake frames are let through until tarn_link_open().
 */
void tarn_link_init(struct tarn_link *l, struct tarn_loop *loop, struct tarn_conn *conn,
                    bool server, const struct tarn_link_ops *ops);
/* Frees what the link holds; the connection must be gone. */
void tarn_link_fini(struct tarn_link *l);
/* The handshake is over. tick_ns: how often to look whether the peer is there; 0: not. */
void tarn_link_open(struct tarn_link *l, uint8_t version, uint64_t tick_ns);
/* Drops all further input. */
void tarn_link_deafen(struct tarn_link *l);
/* Closes; on_close(rc) follows from the loop. Repeated calls do nothing. */
void tarn_link_cut(struct tarn_link *l, int rc);
/*
 * Sends a frame; the payload is referenced. FRAME_TOO_BIG: a part is over its limit, nothing was
 * sent. BUSY: too much waits for this peer, which is cut.
 */
int tarn_link_send(struct tarn_link *l, struct tarn_frame *f, const ProtobufCMessage *msg,
                   struct tarn_buf *payload, size_t off, size_t len);
/* The same from encoded meta and body, with the payload's valid bytes. */
int tarn_link_send_packed(struct tarn_link *l, struct tarn_frame *f, const struct tarn_str *meta,
                          const struct tarn_str *body, struct tarn_buf *payload);
/* Bytes not yet written. */
size_t tarn_link_queued(const struct tarn_link *l);
