/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tools/report.h — parts of what `tarn status` reports that other commands report too. The keys of
 * JSON documents are a contract: add, never rename.
 */
#pragma once

#include <stdint.h>

#include "lib/wire/tarn.pb-c.h"

struct json_t;

/* "forever", "always", "60s": as --meta-ttl takes it; returns buf. */
const char *report_ttl(uint64_t ttl_ns, char buf[32]);
/* What is attached; workers. Arrays, new references. `addr`: of a worker that tells none. */
struct json_t *report_mounts(const Tarn__Wire__StatusResponse *st);
struct json_t *report_workers(const Tarn__Wire__StatusResponse *st, const char *addr);
/* Its state for people: one that drains and has handed over all is "drained". */
const char *report_worker_state(const Tarn__Wire__WorkerStatus *w);
