/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tools/cache_dir.h — the cache directory of `tarn local`: a directory of ours (dir.h) with meta/
 * (the master's store), tier0/ and SIZE. docs/formats/cache-dir.md.
 */
#pragma once

#include <stdint.h>

#include "lib/base/err.h"
#include "lib/base/str.h"

struct dir;

/* /var/cache/tarn/HASH, or below the user's cache directory. USAGE: there is no home to have one.
 */
int cache_dir_default(const char *uri, struct tarn_str *ret, struct tarn_errbuf *err);
/*
 * Bytes that the cache may use: `asked`, or with 0 what the last start used, or at the first one
 * min(half of what is free, 100 GiB). Remembered in SIZE, so that a cache keeps what it holds when
 * it is started without saying how large it is.
 */
uint64_t cache_dir_size(const struct dir *d, uint64_t asked);
/* `size`, or what the file system can hold of it if `disk_free_bp` / 10,000 of it stay free. */
uint64_t cache_dir_fits(const struct dir *d, uint64_t size, uint32_t disk_free_bp);
/* Bytes on the disk of everything but the tier. */
uint64_t cache_dir_other_bytes(const struct dir *d);
/* Moves a damaged meta/ aside (meta.damaged; an older one goes). */
int cache_dir_set_meta_aside(const struct dir *d, struct tarn_errbuf *err);
