/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Journal entries: the input is cut into entries of the length that their first byte says. Each is
 * applied as it came, and, if it decodes, once more with the numbers put right that a fuzzer cannot
 * guess (which directory, where its listing stands, when it was asked). Whatever comes, the store
 * stays consistent, and an entry that is applied again changes nothing.
 */
#include <string.h>

#include "lib/base/assert.h"
#include "master/core/core.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define ENTRIES_MAX 32

struct fuzz {
    struct tarn_kv *kv;
    uint64_t index; /* of the last entry */
};

static void fuzz_apply(struct fuzz *f, const uint8_t *p, size_t n)
{
    struct tarn_kv_batch *b = tarn_kv_batch_new(f->kv);
    struct tarn_core_result r = {0};

    TARN_ASSERT(tarn_core_apply(f->kv, b, ++f->index, p, n, &r) == 0);
    TARN_ASSERT(r.rc <= 0);
    TARN_ASSERT(r.rc == 0 || (r.change_count == 0 && r.created + r.updated + r.removed == 0));
    TARN_ASSERT(tarn_kv_write(f->kv, b, false) == 0);
    tarn_core_result_fini(&r);
    TARN_ASSERT(tarn_core_apply(f->kv, b, f->index, p, n, &r) == 0);
    TARN_ASSERT(tarn_kv_batch_count(b) == 0);
    tarn_core_result_fini(&r);
    tarn_kv_batch_free(&b);
}

static void fuzz_apply_entry(struct fuzz *f, Tarn__Core__Entry *e)
{
    struct tarn_str bytes = {0};

    if (tarn_core_entry_encode(e, &bytes) == 0)
        fuzz_apply(f, (uint8_t *)bytes.p, bytes.len);
    tarn_str_fini(&bytes);
}

static void fuzz_begin(struct fuzz *f)
{
    Tarn__Core__Entry e = TARN__CORE__ENTRY__INIT;
    Tarn__Core__ListBegin begin = TARN__CORE__LIST_BEGIN__INIT;

    begin.dir = TARN_INO_ROOT.v;
    begin.asked_index = f->index;
    e.time_ns = 1;
    e.list_begin = &begin;
    fuzz_apply_entry(f, &e);
}

static void fuzz_setup(struct fuzz *f)
{
    Tarn__Core__Entry e = TARN__CORE__ENTRY__INIT;
    Tarn__Core__Attachment attach;
    Tarn__Core__Init init;

    tarn__core__init__init(&init);
    init.cluster_id = (char *)(uintptr_t) "fuzz";
    e.init = &init;
    fuzz_apply_entry(f, &e);
    e.init = NULL;
    tarn__core__attachment__init(&attach);
    attach.id = 1;
    attach.path = (char *)(uintptr_t) "/";
    e.attach = &attach;
    fuzz_apply_entry(f, &e);
    fuzz_begin(f);
}

/* Points a page at the run of the root. */
static void fuzz_fix_page(struct fuzz *f, Tarn__Core__Entry *e)
{
    ProtobufCBinaryData from = e->list_page->from_key;
    Tarn__Core__DirState *st;

    TARN_ASSERT(tarn_core_dir_state(f->kv, TARN_INO_ROOT, &st) == 0);
    if (!st->running)
        fuzz_begin(f);
    e->list_page->dir = TARN_INO_ROOT.v;
    e->list_page->asked_index = f->index;
    e->list_page->from_key = st->running ? st->upto_key : (ProtobufCBinaryData){0};
    fuzz_apply_entry(f, e);
    e->list_page->from_key = from;
    tarn__core__dir_state__free_unpacked(st, NULL);
}

static void fuzz_fixed(struct fuzz *f, const uint8_t *p, size_t n)
{
    Tarn__Core__Entry *e = tarn__core__entry__unpack(NULL, n, p);
    tarn_ino_t garbage;
    uint32_t next;

    if (!e)
        return;
    TARN_ASSERT(tarn_core_garbage(f->kv, &garbage) == 0);
    TARN_ASSERT(!(e->list_page && !e->init && !e->attach && !e->detach && !e->job_put &&
                  !e->job_lines && !e->job_items) ||
                !tarn_core_entry_needs_sync(e));
    if (e->list_page)
        fuzz_fix_page(f, e);
    if (e->found) {
        e->found->parent = TARN_INO_ROOT.v;
        e->found->asked_index = f->index;
    } else if (e->gone) {
        e->gone->parent = TARN_INO_ROOT.v;
        e->gone->asked_index = f->index;
    } else if (e->collect) {
        e->collect->ino = garbage.v;
    }
    if (e->attach) { /* a new one, wherever it says */
        TARN_ASSERT(tarn_core_next_attachment(f->kv, &next) == 0);
        e->attach->id = next;
    } else if (e->detach) {
        e->detach->id = 1 + e->detach->id % 4;
    }
    if (e->found || e->gone || e->collect || e->attach || e->detach)
        fuzz_apply_entry(f, e);
    tarn__core__entry__free_unpacked(e, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct tarn_kv_mem_disk disk = {0};
    struct fuzz f = {.kv = tarn_kv_mem_open(&disk, TARN_CF_COUNT)};
    struct tarn_errbuf err = {0};

    fuzz_setup(&f);
    for (unsigned i = 0; i < ENTRIES_MAX && size > 0; i++) {
        size_t n = data[0] < size - 1 ? data[0] : size - 1;

        fuzz_apply(&f, data + 1, n);
        fuzz_fixed(&f, data + 1, n);
        data += 1 + n;
        size -= 1 + n;
    }
    TARN_ASSERT(tarn_core_check(f.kv, &err) == 0);
    tarn_kv_close(&f.kv);
    tarn_kv_mem_disk_fini(&disk);
    return 0;
}
