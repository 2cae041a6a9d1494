/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lib/base/sm.h — state machines as tables: each state has a name and the set of states that may
 * follow. A table comes from a .def file; moving along an edge that is not in it is a bug of ours.
 */
#pragma once

#include <stdint.h>

struct tarn_sm_state {
    const char *name; /* as shown in reports */
    uint64_t next;    /* bit set of the states allowed next */
};

#define TARN_SM_BIT(s) (1ULL << (unsigned)(s))

/* Asserts that `to` may follow *state, then moves. `table` has at least max(state, to) + 1 rows. */
void tarn_sm_move(const struct tarn_sm_state *table, unsigned *state, unsigned to);
