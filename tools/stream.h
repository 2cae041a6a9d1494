/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tools/stream.h — reading a whole file of the name space, in order, with several reads in flight.
 */
#pragma once

#include <stddef.h>

#include "lib/client/client.h"

struct cli;

#define CLI_STREAM_DEPTH 8u /* reads in flight, at most */

/* Takes the next bytes of the file; negative ends the stream with that code. */
typedef int cli_sink_fn(void *arg, const void *p, size_t n);

/*
 * Reads the version that `attr` names from its start to its end; bytes that came over the network
 * were compared with their checksums. `depth`: reads in flight, 1 to CLI_STREAM_DEPTH; with 1 none
 * is under way while `sink` runs, so that it may make calls of its own. Sets c->err to
 * "WHAT: reason".
 *
 * Errors: STALE, UFS_CHANGED (the object is another one now), EOF (it ended early), CANCELLED (an
 *         interrupt), those of the store, those of `sink`
 */
int cli_stream_file(struct cli *c, const struct tarn_attr *attr, unsigned depth, const char *what,
                    cli_sink_fn *sink, void *arg);
