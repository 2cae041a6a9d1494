/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tools/cache_format.h — whose a cache directory is, and which version wrote it: its file FORMAT.
 * docs/formats/cache-dir.md.
 */
#pragma once

#include <stdbool.h>

#include "lib/base/err.h"

/*
 * Looks at FORMAT below dir_fd, and writes it where it is missing, damaged or of an older form.
 * `path` is for messages. `had_lock`: LOCK was there before we came. Errors: FORMAT_NEWER,
 * DIR_FOREIGN (somebody else's files; nothing was written), errno class.
 */
int cache_format_check(int dir_fd, const char *path, bool had_lock, struct tarn_errbuf *err);
