/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lib/disk/probe.h — questions to a file system that may never answer: a dead file server, a FUSE
 * mount whose server is stopped. Each ends within some seconds. Any thread.
 */
#pragma once

#include <limits.h>

/* The errno of statfs(2) on `path`, 0, or ETIMEDOUT. */
int tarn_probe_statfs(const char *path);
/* realpath(3). -ETIMEDOUT, or the errno negated; `ret` is untouched then. */
int tarn_probe_realpath(const char *path, char ret[PATH_MAX]);
