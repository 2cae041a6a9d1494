/* SPDX-License-Identifier: Apache-2.0 */
#include "fuse/dirpage_priv.h"

#include <stdlib.h>
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/limits.h"
#include "lib/base/mem.h"
#include "lib/base/name.h"

static int fpage_fill(struct fpage *p, const Tarn__Wire__ReaddirResponse *resp, uint64_t now_ns)
{
    uint64_t last = p->from;
    size_t at = 0;

    for (size_t i = 0; i < resp->n_entries; i++) {
        const Tarn__Wire__Dirent *d = resp->entries[i];
        struct fpage_entry *e = &p->entries[i];
        int rc;

        if (!tarn_name_ok((const char *)d->name.data, d->name.len) || d->cookie <= last ||
            d->cookie >= (uint64_t)INT64_MAX)
            return -TARN_E_MSG_BAD;
        rc = tarn_client_attr_decode(d->attr, now_ns, &e->attr);
        if (rc < 0)
            return rc;
        e->cookie = last = d->cookie;
        e->name_off = (uint32_t)at;
        e->len = (uint8_t)d->name.len;
        memcpy(p->names + at, d->name.data, d->name.len);
        at += d->name.len + 1; /* the rest is zeroed */
        p->until_ns = TARN_MIN(p->until_ns, e->attr.trust_until_ns);
    }
    p->count = resp->n_entries;
    return 0;
}

int fpage_new(const Tarn__Wire__ReaddirResponse *resp, uint64_t from, uint64_t now_ns, uint64_t gen,
              struct fpage **ret)
{
    struct fpage *p;
    size_t bytes = 1;
    int rc;

    if (resp->n_entries > TARN_READDIR_ENTRIES || (resp->n_entries == 0 && !resp->eof) ||
        resp->parent == 0)
        return -TARN_E_MSG_BAD;
    for (size_t i = 0; i < resp->n_entries; i++)
        bytes += TARN_MIN(resp->entries[i]->name.len, (size_t)TARN_NAME_MAX) + 1;
    p = tarn_xnew(struct fpage);
    atomic_init(&p->refs, 1);
    p->gen = gen;
    p->from = from;
    p->until_ns = resp->n_entries == 0 && from == 0 ? now_ns : UINT64_MAX;
    p->parent = (tarn_ino_t){resp->parent};
    p->eof = resp->eof;
    p->entries = tarn_xcalloc(resp->n_entries + 1, sizeof(*p->entries));
    p->names = tarn_xcalloc(1, bytes);
    rc = fpage_fill(p, resp, now_ns);
    if (rc < 0)
        fpage_put(&p);
    else
        *ret = p;
    return rc;
}

struct fpage *fpage_ref(struct fpage *p)
{
    uint32_t before = atomic_fetch_add_explicit(&p->refs, 1, memory_order_relaxed);

    TARN_ASSERT(before > 0);
    return p;
}

void fpage_put(struct fpage **pp)
{
    struct fpage *p = *pp;

    *pp = NULL;
    if (!p || atomic_fetch_sub(&p->refs, 1) > 1)
        return;
    free(p->entries);
    free(p->names);
    free(p);
}

bool fpage_covers(const struct fpage *p, uint64_t cookie)
{
    if (cookie < p->from)
        return false;
    return p->eof || cookie < p->entries[p->count - 1].cookie;
}

size_t fpage_after(const struct fpage *p, uint64_t cookie)
{
    size_t lo = 0, hi = p->count;

    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;

        if (p->entries[mid].cookie <= cookie)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}
