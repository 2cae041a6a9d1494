/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/base/fault.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/err.h"
#include "lib/base/mem.h"
#include "lib/base/units.h"

struct fault_row {
    _Atomic unsigned skip;  /* passes still to let through */
    _Atomic unsigned count; /* passes still to fail */
    _Atomic int rc;         /* negative code */
};

static struct fault_row fault_rows[TARN_FAULT_COUNT];

static const char *const fault_names[] = {
#define TARN_FAULT_POINT(name, help) #name,
#include "lib/base/fault.def"
#undef TARN_FAULT_POINT
};

void tarn_fault_arm(enum tarn_fault_point point, unsigned skip, unsigned count, int rc)
{
    struct fault_row *row = &fault_rows[point];

    atomic_store(&row->count, 0);
    atomic_store(&row->skip, skip);
    atomic_store(&row->rc, rc);
    atomic_store(&row->count, count);
}

void tarn_fault_reset(void)
{
    for (int i = 0; i < TARN_FAULT_COUNT; i++)
        tarn_fault_arm((enum tarn_fault_point)i, 0, 0, 0);
}

static int fault_take(_Atomic unsigned *n)
{
    unsigned v = atomic_load(n);

    while (v > 0)
        if (atomic_compare_exchange_weak(n, &v, v - 1))
            return 1;
    return 0;
}

int tarn_fault_pass(enum tarn_fault_point point)
{
    struct fault_row *row = &fault_rows[point];

    if (atomic_load_explicit(&row->count, memory_order_relaxed) == 0 || fault_take(&row->skip))
        return 0;
    return fault_take(&row->count) ? atomic_load(&row->rc) : 0;
}

static int fault_parse_one(char *item)
{
    char *save = NULL;
    const char *name = strtok_r(item, ":", &save);
    const char *parts[3];
    uint64_t v[3];

    for (int i = 0; i < 3; i++) {
        parts[i] = strtok_r(NULL, ":", &save);
        if (!parts[i] || tarn_parse_u64(parts[i], &v[i]) < 0 || v[i] > 1000000)
            return -TARN_E_INVALID;
    }
    if (strtok_r(NULL, ":", &save) || !tarn_err_known((int)v[2]))
        return -TARN_E_INVALID;
    for (int i = 0; name && i < TARN_FAULT_COUNT; i++) {
        if (strcmp(fault_names[i], name) == 0) {
            tarn_fault_arm((enum tarn_fault_point)i, (unsigned)v[0], (unsigned)v[1], -(int)v[2]);
            return 0;
        }
    }
    return -TARN_E_INVALID;
}

int tarn_fault_parse(const char *spec)
{
    TARN_AUTO_FREE char *copy = tarn_xstrdup(spec);
    char *save = NULL;

    for (char *item = strtok_r(copy, ",", &save); item; item = strtok_r(NULL, ",", &save)) {
        int rc = fault_parse_one(item);

        if (rc < 0)
            return rc;
    }
    return 0;
}
