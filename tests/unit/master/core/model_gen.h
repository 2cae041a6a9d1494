/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random entries that make sense in the state that the model is in, most of the time.
 */
#pragma once

#include "lib/base/env.h"
#include "tests/unit/master/core/model.h"

#define GEN_OBJECTS_MAX 48

/* An entry with all that it points at; must not be moved. */
struct gen_entry {
    Tarn__Core__Entry e;
    Tarn__Core__Init init;
    Tarn__Core__Attachment attach;
    Tarn__Core__Detach detach;
    Tarn__Core__ListBegin begin;
    Tarn__Core__ListPage page;
    Tarn__Core__Found found;
    Tarn__Core__Gone gone;
    Tarn__Core__Collect collect;
    Tarn__Core__JobPut put;
    Tarn__Core__JobLines lines;
    Tarn__Core__JobDrop drop;
    Tarn__Core__JobRecord job;
    Tarn__Core__JobLine line, *line_p[8];
    Tarn__Core__JobItems items;
    Tarn__Core__JobItem item, *item_p[8];
    Tarn__Core__Worker worker;
    Tarn__Core__PastDrop past_drop;
    Tarn__Core__CapKey cap_key;
    Tarn__Core__Told told;
    Tarn__Core__Start start;
    uint8_t key[33];
    char uuid[16];
    Tarn__Core__Object o[GEN_OBJECTS_MAX], *p[GEN_OBJECTS_MAX];
    Tarn__Core__Version v[GEN_OBJECTS_MAX];
    char etags[GEN_OBJECTS_MAX][8];
    uint8_t cids[GEN_OBJECTS_MAX][16];
    char from[MODEL_NAME_MAX + 2], to[MODEL_NAME_MAX + 2];
};

/* The entry with number `index`. */
void gen_entry(struct gen_entry *g, const struct model *m, struct tarn_rng *rng, uint64_t index);
