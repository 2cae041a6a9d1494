/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lib/base/units.h — sizes, durations, rates and percentages as people write them.
 * Parsers: 0 or -TARN_E_INVALID (not in the grammar) or -TARN_E_TOO_BIG; pure functions.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* "4096" "64KiB" "10GiB" "1.5G": K M G T P (and KiB..PiB) are powers of 1024, KB..PB of 1000.
 * Bytes. */
int tarn_parse_size(const char *s, uint64_t *ret_bytes);
/* "500ms" "30s" "5m" "2h" "1d"; a bare number is refused ("0" is not). Nanoseconds. */
int tarn_parse_duration(const char *s, uint64_t *ret_ns);
/* "200MiB/s": a size and "/s". Bytes per second. */
int tarn_parse_rate(const char *s, uint64_t *ret_bytes_per_s);
/* "95%" or "0.95", 0 to 100 %. Parts per 10,000. */
int tarn_parse_percent(const char *s, uint32_t *ret_bp);
/* Decimal digits only. */
int tarn_parse_u64(const char *s, uint64_t *ret_v);
/* "true false yes no on off 1 0". */
int tarn_parse_bool(const char *s, int *ret_v);

/* "1.5 GiB"; returns buf. */
const char *tarn_format_size(uint64_t bytes, char buf[32]);
/* "1.2s" "35ms" "2h10m"; returns buf. */
const char *tarn_format_duration(uint64_t ns, char buf[32]);
/* "2026-11-22T01:23:45Z"; returns buf. */
const char *tarn_format_time(int64_t real_ns, char buf[32]);
