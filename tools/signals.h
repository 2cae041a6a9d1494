/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tools/signals.h — signals as events: one thread waits for them, so that nothing runs inside a
 * signal handler.
 */
#pragma once

struct signals;

/* Runs on the thread that waits: it posts to a loop or sets atomics. */
typedef void signals_fn(void *arg, int sig);

/* From now on these (0-terminated) do not end the process; for this thread and those it makes. */
void signals_block(const int *sigs);
/* Blocks them and calls `fn` for each that comes. Errors: of pthread_create(3) */
int signals_start(const int *sigs, signals_fn *fn, void *arg, struct signals **ret);
/* `fn` does not run any more. Accepts NULL inside, sets it to NULL; the signals stay blocked. */
void signals_stop(struct signals **s);
