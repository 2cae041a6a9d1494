/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Encoding of journal entries, and which of them a power cut must not take.
 */
#include "master/core/core_priv.h"

int tarn_core_entry_encode(const Tarn__Core__Entry *e, struct tarn_str *ret)
{
    size_t n = tarn__core__entry__get_packed_size(e);

    if (n > TARN_JOURNAL_ENTRY_MAX)
        return -TARN_E_TOO_BIG;
    tarn_str_reset(ret);
    ret->len = tarn__core__entry__pack(e, (uint8_t *)tarn_str_room(ret, n + 1));
    ret->p[ret->len] = '\0';
    TARN_ASSERT(ret->len == n);
    return 0;
}

bool tarn_core_entry_needs_sync(const Tarn__Core__Entry *e)
{
    return e->init || e->attach || e->detach || e->job_put || e->job_lines || e->job_items ||
           e->worker_put || e->past_drop || e->cap_key || e->start;
}
