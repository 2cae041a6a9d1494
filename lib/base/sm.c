/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/base/sm.h"

#include "lib/base/assert.h"

void tarn_sm_move(const struct tarn_sm_state *table, unsigned *state, unsigned to)
{
    TARN_ASSERT(to < 64);
    TARN_ASSERT((table[*state].next & TARN_SM_BIT(to)) != 0);
    *state = to;
}
