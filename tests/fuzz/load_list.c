/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Load lists: the first byte says how the rest is cut into pieces. However it is cut, the same
 * entries and the same outcome come of it, and every path is in normal form.
 */
#include <string.h>

#include "lib/base/assert.h"
#include "lib/base/limits.h"
#include "lib/base/mem.h"
#include "lib/base/name.h"
#include "tools/load_list.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int fuzz_item(void *arg, const struct load_list_item *item)
{
    struct tarn_str *got = arg;
    char path[TARN_PATH_MAX];

    TARN_ASSERT(tarn_path_normalize(item->path, path) == 0 && strcmp(path, item->path) == 0);
    TARN_ASSERT(item->line > 0 && item->offset <= TARN_FILE_MAX && item->length <= TARN_FILE_MAX);
    tarn_str_add(got, &item->line, sizeof(item->line));
    tarn_str_add(got, &item->offset, sizeof(item->offset));
    tarn_str_add(got, &item->length, sizeof(item->length));
    tarn_str_add(got, item->path, strlen(item->path) + 1);
    return 0;
}

static int fuzz_read(const uint8_t *p, size_t n, size_t piece, struct tarn_str *got,
                     struct tarn_errbuf *err)
{
    struct load_list l;
    int rc = 0;

    load_list_init(&l, "LIST", "/base", fuzz_item, got);
    for (size_t at = 0; at < n && rc == 0; at += piece)
        rc = load_list_feed(&l, p + at, TARN_MIN(piece, n - at), err);
    if (rc == 0)
        rc = load_list_end(&l, err);
    load_list_fini(&l);
    return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct tarn_str whole = {0}, cut = {0};
    struct tarn_errbuf err_whole = {{0}}, err_cut = {{0}};
    int rc;

    if (size == 0)
        return 0;
    rc = fuzz_read(data + 1, size - 1, size, &whole, &err_whole);
    TARN_ASSERT(rc == 0 || (rc == -TARN_E_USAGE && err_whole.text[0]));
    TARN_ASSERT(fuzz_read(data + 1, size - 1, 1u + data[0], &cut, &err_cut) == rc);
    TARN_ASSERT(strcmp(err_whole.text, err_cut.text) == 0 && whole.len == cut.len);
    TARN_ASSERT(whole.len == 0 || memcmp(whole.p, cut.p, whole.len) == 0);
    tarn_str_fini(&whole);
    tarn_str_fini(&cut);
    return 0;
}
