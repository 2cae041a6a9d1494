/* SPDX-License-Identifier: Apache-2.0 */
/*
 * master/attach_priv.h — between attach.c (attachments in memory) and attach_op.c (attaching).
 * Owner: the master's loop.
 */
#pragma once

#include "master/master_priv.h"
#include "ufs/ufs_opts.h"

/* A record of our own; its secrets are overwritten at its end. */
Tarn__Core__Attachment *mattach_rec_copy(const Tarn__Core__Attachment *rec);
void mattach_rec_free(Tarn__Core__Attachment *rec); /* NULL is accepted */
/* Options and secrets of a record; texts live until tarn_conf_free(). CONFIG. */
int mattach_parse(const Tarn__Core__Attachment *rec, struct tarn_ufs_opts *ret,
                  struct tarn_conf **ret_conf, struct tarn_errbuf *err);

/* Into the table, without a store. Takes rec; `opts` NULL leaves owner and modes. */
struct mattach *mattach_new(struct tarn_master *m, Tarn__Core__Attachment *rec,
                            const struct tarn_ufs_opts *opts);
void mattach_fill(struct mattach *a, Tarn__Core__Attachment *rec, const struct tarn_ufs_opts *opts);
/* Takes an open store; the one before is closed when it has nothing to do. */
void mattach_use(struct mattach *a, struct tarn_ufs *ufs);
void mattach_retire(struct mattach *a);
void mattach_close(struct mattach *a, void (*closed)(void *arg), void *arg);

/* io->work and io->cb are set: runs on a thread of the master's. */
void mattach_resolve(struct tarn_master *m, struct tarn_disk_io *io);
void mattach_ops_stop(struct tarn_master *m); /* those under way fail */
