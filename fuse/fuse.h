/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuse/fuse.h — a mount: the kernel's requests answered from a client. Read-only (changes: EROFS).
 *
 * Threads: the FUSE threads (named "fuse-N"), which never wait for another process: what is known
 * here is answered on them, the rest is started on the client's loop and answered from there; one
 * notifier
 * ("notify") that holds no lock while it calls the kernel.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "lib/base/err.h"
#include "lib/base/ids.h"

struct tarn_client;
struct tarn_fuse;
struct tarn_loop;
struct tarn_str;

/*
 * What statfs(2) tells. Used is what the files take, as far as their names are known; free is what
 * the cache can hold beyond that: none where not all of it fits.
 */
struct tarn_fuse_space {
    uint64_t capacity_bytes; /* of the cache */
    uint64_t bytes, files;   /* of the name space */
};

struct tarn_fuse_args {
    struct tarn_client *client;
    struct tarn_loop *loop;  /* the client's */
    const char *mountpoint;  /* a directory, or "/dev/fd/N" */
    tarn_ino_t root;         /* directory that is mounted; none: the root of the name space */
    const char *source;      /* shown as the device: the store's URI, no user info */
    bool allow_other;        /* with default_permissions, always */
    unsigned threads;        /* 0: min(16, 2 * processors) + 2 */
    uint64_t timeout_ns;     /* deadline of a call that needs the master or the store's names */
    uint64_t capacity_bytes; /* tarn_fuse_space's, where there is no `statfs` */
    bool always_fresh;       /* --meta-ttl always: open asks */
    bool passthrough;        /* the kernel may read large cached files itself, where it can */
    void *ctx;
    void (*on_end)(void *ctx,
                   int rc); /* the kernel ended the session (umount): called once, on any thread */
    /* Any thread, no waiting; changes *ret, which is preset. May be NULL. */
    void (*statfs)(void *ctx, struct tarn_fuse_space *ret);
};

/*
 * What is at a mountpoint, for commands: -TARN_E_MOUNTPOINT with a text naming path and cause (not
 * a directory, missing, in use, not empty is fine). A dead FUSE mount there (ENOTCONN) is fine too:
 * tarn_fuse_start() puts the new one into its place, not upon it.
 */
int tarn_fuse_mountpoint_prepare(const char *path, struct tarn_errbuf *err);
/* True when path (or one above it) is a live mount of ours: its mountpoint in ret (PATH_MAX bytes).
 * ret_shows, if not NULL, is added the path of the name space that lies there ("": all of it). */
bool tarn_fuse_find_mount(const char *path, char *ret_mountpoint, struct tarn_str *ret_shows);

/* Mounts and starts the threads. When it returns 0 the mountpoint answers. Errors: FUSE,
 * MOUNTPOINT. */
int tarn_fuse_start(const struct tarn_fuse_args *args, struct tarn_errbuf *err,
                    struct tarn_fuse **ret);
/* Detaches the mountpoint lazily and ends the session; requests under way are answered or fail.
 * `done` on the loop. */
void tarn_fuse_stop(struct tarn_fuse *f, void (*done)(void *arg), void *arg);
void tarn_fuse_free(struct tarn_fuse **f);
/* Unmounts a mountpoint from outside (tarn umount): fusermount3 when not root. lazy: detach at
 * once. */
int tarn_fuse_umount(const char *mountpoint, bool lazy, struct tarn_errbuf *err);

struct tarn_fuse_info {
    uint64_t requests, nodes, open_files;
    uint64_t sync_replies; /* answered on a FUSE thread */
};
/* Times of requests, for a registry; the mount's, until tarn_fuse_free(). */
struct tarn_stats;
struct tarn_stats *tarn_fuse_stats(struct tarn_fuse *f);
void tarn_fuse_info(struct tarn_fuse *f, struct tarn_fuse_info *ret);
/* From Invalidate of the client; on the loop. */
struct Tarn__Wire__Invalidate;
void tarn_fuse_invalidate(struct tarn_fuse *f, const struct Tarn__Wire__Invalidate *inv);
