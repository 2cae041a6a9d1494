/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lib/base/fault.h — fault points, compiled into test builds only (TARN_FAULTS). A point is a row
 * of fault.def; a test arms it: after `skip` passes, the next `count` passes return `rc`. The table
 * is the second of the two allowed globals. Thread-safe.
 *
 *     rc = TARN_FAULT(disk_write);   0 unless armed
 */
#pragma once

enum tarn_fault_point {
#define TARN_FAULT_POINT(name, help) TARN_FAULT_##name,
#include "lib/base/fault.def"
#undef TARN_FAULT_POINT
    TARN_FAULT_COUNT
};

/* Arms `point`; rc is negative. count 0 disarms. */
void tarn_fault_arm(enum tarn_fault_point point, unsigned skip, unsigned count, int rc);
void tarn_fault_reset(void);
int tarn_fault_pass(enum tarn_fault_point point);
/*
 * Arms points from a text "name:skip:count:errno-or-code[,...]", as in the environment variable
 * TARN_FAULTS of test builds. -TARN_E_INVALID when malformed.
 */
int tarn_fault_parse(const char *spec);

#ifdef TARN_FAULTS
#define TARN_FAULT(name) tarn_fault_pass(TARN_FAULT_##name)
#else
#define TARN_FAULT(name) 0
#endif
