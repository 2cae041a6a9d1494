/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tools/doctor.h — what `tarn doctor` finds: one finding per check, with what mends it.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum doctor_state { DOCTOR_OK, DOCTOR_WARN, DOCTOR_FAIL };

struct doctor_finding {
    const char *check;       /* "fuse-device": a key that stays */
    enum doctor_state state; /* how it is */
    char text[384];          /* what was seen */
    char mend[256];          /* what to do; "" when all is well */
};

#define DOCTOR_FINDINGS_MAX 64u

struct doctor {
    struct doctor_finding findings[DOCTOR_FINDINGS_MAX]; /* n of them */
    size_t n;
};

/* Adds one; those beyond DOCTOR_FINDINGS_MAX are dropped. `mend` may be "". */
void doctor_add(struct doctor *d, const char *check, enum doctor_state state, const char *mend,
                const char *fmt, ...) __attribute__((format(printf, 5, 6)));

/* What the host gives (doctor_host.c). */
void doctor_fuse(struct doctor *d);
void doctor_io_uring(struct doctor *d);
void doctor_limits(struct doctor *d);
void doctor_clock(struct doctor *d);
/* Room below `dir`, or below its nearest directory that exists. */
void doctor_room(struct doctor *d, const char *dir);
/* Passthrough, by registering a file with a mount that nobody else sees (doctor_passthrough.c). */
void doctor_passthrough(struct doctor *d);
