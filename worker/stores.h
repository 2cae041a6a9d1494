/* SPDX-License-Identifier: Apache-2.0 */
/*
 * worker/stores.h — the stores of the attachments, as the master publishes them. Opened when an
 * attachment appears, opened anew when its options change, closed when it goes; requests under way
 * in a store that closes end with CANCELLED. Owner: one loop, all calls on it.
 */
#pragma once

#include <stdint.h>

#include "lib/wire/tarn.pb-c.h"

struct tarn_disk;
struct tarn_loop;
struct tarn_stores;
struct tarn_ufs;

struct tarn_stores *tarn_stores_new(struct tarn_loop *loop, struct tarn_disk *disk);
/*
 * The list as it is now. A list that is not newer than the last one changes nothing. A store that
 * cannot be opened is logged and has no ufs until the next list, or until it is tried again in 5 s.
 * Opening never blocks the loop: a path of a file server is asked for on `disk`.
 */
void tarn_stores_apply(struct tarn_stores *s, const Tarn__Wire__AttachmentList *l);
uint64_t tarn_stores_version(const struct tarn_stores *s); /* of the last list; 0: none */
/* For tarn_worker_args.ufs_of; ctx is the tarn_stores. NULL while there is none. */
struct tarn_ufs *tarn_stores_of(void *ctx, uint32_t attachment, const char **ret_isolation);
/* Calls fn for each store that is open. */
void tarn_stores_each(struct tarn_stores *s, void (*fn)(void *arg, uint32_t id, struct tarn_ufs *u),
                      void *arg);
void tarn_stores_stop(struct tarn_stores *s, void (*done)(void *arg), void *arg);
void tarn_stores_free(struct tarn_stores **s);
