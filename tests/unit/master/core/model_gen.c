/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/master/core/model_gen.h"

#include <stdio.h>
#include <stdlib.h>

#include "lib/base/mem.h"

#define LONG_N "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn"
#define LONG_255                                                                                   \
    LONG_N LONG_N LONG_N "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn"

/* Names around '/' (0x2f): below it ! - . and blank, above it digits and letters; prefixes of each
 * other. */
static const char *const gen_names[] = {
    "a",  "a-", "a-b",  "a-b-c", "a-b.c",      "a.",         "a.b", "a!",
    "a ", "a0", "a0-",  "ab",    "abc",        "b",          "b-1", "-",
    "--", "c",  "\xff", "a\xff", LONG_255 "-", LONG_255 "0", "n",   "\x01",
};

static uint64_t pick(struct tarn_rng *rng, uint64_t n)
{
    return tarn_rng_below(rng, n);
}

static bool chance(struct tarn_rng *rng, unsigned percent)
{
    return pick(rng, 100) < percent;
}

static ProtobufCBinaryData gen_bytes(const char *z)
{
    return (ProtobufCBinaryData){strlen(z), (uint8_t *)(uintptr_t)z};
}

static const char *gen_name(struct tarn_rng *rng)
{
    return gen_names[pick(rng, chance(rng, 60) ? 10 : TARN_ARRAY_LEN(gen_names))];
}

/* A directory that exists, often one that is being listed; sometimes any number. */
static uint64_t gen_dir(const struct model *m, struct tarn_rng *rng, bool running)
{
    if (chance(rng, 3))
        return pick(rng, m->next_ino + 1);
    for (unsigned i = 0; i < 12; i++) {
        uint64_t ino = 1 + pick(rng, m->next_ino - 1);
        const struct model_inode *d = &m->inodes[ino];

        if (d->exists && d->type == 2 && !d->detached && (!running || d->running))
            return ino;
    }
    return 1;
}

static void gen_object(struct gen_entry *g, size_t i, struct tarn_rng *rng, const char *name,
                       uint32_t type)
{
    unsigned variant = chance(rng, 75) ? 0 : (unsigned)pick(rng, 4);
    Tarn__Core__Object *o = &g->o[i];
    Tarn__Core__Version *v = &g->v[i];

    tarn__core__object__init(o);
    tarn__core__version__init(v);
    g->p[i] = o;
    o->name = gen_bytes(name);
    o->type = type;
    o->has_owner = chance(rng, 5);
    o->mode = 0640;
    o->uid = variant;
    if (type != 1) {
        v->mtime_ns = variant * 7;
        o->ufs = chance(rng, 50) ? NULL : v;
        if (type == 3 && chance(rng, 60))
            o->target = gen_bytes(variant & 1 ? "x" : "../y");
        return;
    }
    v->size = variant == 3 ? 0 : 10 + variant;
    v->mtime_ns = 5;
    snprintf(g->etags[i], sizeof(g->etags[i]), "e%u", variant);
    v->etag = g->etags[i];
    o->ufs = v;
    memset(g->cids[i], (int)variant + 1, sizeof(g->cids[i]));
    o->cid = (ProtobufCBinaryData){16, g->cids[i]}; /* also for an empty file: the core drops it */
}

static uint64_t gen_asked(struct tarn_rng *rng, uint64_t index, uint64_t from)
{
    if (chance(rng, 2))
        return index + pick(rng, 3); /* of the future */
    if (chance(rng, 10))
        return pick(rng, index);
    return from >= index ? index - 1 : from + pick(rng, index - from);
}

/* ---- pages
 * ---------------------------------------------------------------------------------------------- */

static size_t gen_key(const Tarn__Core__Object *o, char *key)
{
    memcpy(key, o->name.data, o->name.len);
    if (o->type == 2)
        key[o->name.len] = '/';
    return o->name.len + (o->type == 2);
}

static int key_order(const char *a, size_t an, const char *b, size_t bn)
{
    int c = memcmp(a, b, TARN_MIN(an, bn));

    return c ? c : (an > bn) - (an < bn);
}

static int object_order(const void *va, const void *vb)
{
    const Tarn__Core__Object *a = *(Tarn__Core__Object *const *)va,
                             *b = *(Tarn__Core__Object *const *)vb;
    char ka[MODEL_NAME_MAX + 1], kb[MODEL_NAME_MAX + 1];
    size_t an = gen_key(a, ka), bn = gen_key(b, kb);

    return key_order(ka, an, kb, bn);
}

static void gen_to(struct gen_entry *g, struct tarn_rng *rng)
{
    for (unsigned i = 0; i < 4; i++) {
        snprintf(g->to, sizeof(g->to), "%s%s", gen_name(rng), chance(rng, 35) ? "/" : "");
        if (strcmp(g->to, g->from) >= 0)
            return;
    }
    if (chance(rng, 95))
        g->page.complete = true;
}

/* Names with keys in (from, to], now and then one outside. */
static void gen_page_objects(struct gen_entry *g, struct tarn_rng *rng)
{
    unsigned density = (unsigned)pick(rng, 50);
    size_t n = 0, kept = 0;

    for (size_t i = 0; i < TARN_ARRAY_LEN(gen_names); i++) {
        bool both = chance(rng, 15);

        if (!chance(rng, density))
            continue;
        if (both || chance(rng, 60))
            gen_object(g, n++, rng, gen_names[i], chance(rng, 85) ? 1 : 3);
        else
            both = true;
        if (both)
            gen_object(g, n++, rng, gen_names[i], 2);
    }
    for (size_t i = 0; i < n; i++) {
        char key[MODEL_NAME_MAX + 1];
        size_t len = gen_key(&g->o[i], key);
        bool in = key_order(key, len, g->from, strlen(g->from)) > 0 &&
                  (g->page.complete || key_order(key, len, g->to, strlen(g->to)) <= 0);

        if (in || pick(rng, 500) == 0)
            g->p[kept++] = &g->o[i];
    }
    qsort(g->p, kept, sizeof(g->p[0]), object_order);
    if (kept > 1 && pick(rng, 200) == 0) {
        Tarn__Core__Object *o = g->p[0];

        g->p[0] = g->p[1];
        g->p[1] = o;
    }
    g->page.n_objects = kept;
    g->page.objects = g->p;
}

static void gen_page(struct gen_entry *g, const struct model *m, struct tarn_rng *rng,
                     uint64_t index)
{
    const struct model_inode *d = NULL;

    tarn__core__list_page__init(&g->page);
    g->page.dir = gen_dir(m, rng, true);
    g->from[0] = 0;
    if (g->page.dir < m->next_ino)
        d = &m->inodes[g->page.dir];
    if (d && chance(rng, 95)) {
        memcpy(g->from, d->upto, d->upto_len);
        g->from[d->upto_len] = 0;
    } else {
        snprintf(g->from, sizeof(g->from), "%s", gen_name(rng));
    }
    g->page.complete = chance(rng, 30);
    g->to[0] = 0;
    if (!g->page.complete)
        gen_to(g, rng);
    g->page.asked_index =
        d && chance(rng, 60) ? d->asked_index : gen_asked(rng, index, d ? d->asked_index : 0);
    g->page.from_key = gen_bytes(g->from);
    if (!g->page.complete)
        g->page.to_key = gen_bytes(g->to);
    gen_page_objects(g, rng);
    if (chance(rng, 5)) {
        g->page.skipped = pick(rng, 3);
        g->page.skipped_names = gen_bytes(chance(rng, 50) ? ".." : "..\n");
    }
    g->e.list_page = &g->page;
}

/* ---- the others
 * ------------------------------------------------------------------------------------------- */

static void gen_begin(struct gen_entry *g, const struct model *m, struct tarn_rng *rng,
                      uint64_t index)
{
    tarn__core__list_begin__init(&g->begin);
    g->begin.dir = gen_dir(m, rng, false);
    g->begin.asked_index = chance(rng, 70) ? index - 1 : gen_asked(rng, index, index / 2);
    g->begin.resume = chance(rng, 30);
    g->e.list_begin = &g->begin;
}

static void gen_found(struct gen_entry *g, const struct model *m, struct tarn_rng *rng,
                      uint64_t index)
{
    tarn__core__found__init(&g->found);
    g->found.parent = gen_dir(m, rng, false);
    g->found.asked_index = gen_asked(rng, index, index / 2);
    gen_object(g, 0, rng, gen_name(rng), 1 + (uint32_t)pick(rng, 3));
    g->found.object = &g->o[0];
    g->e.found = &g->found;
}

static void gen_gone(struct gen_entry *g, const struct model *m, struct tarn_rng *rng,
                     uint64_t index)
{
    tarn__core__gone__init(&g->gone);
    g->gone.parent = gen_dir(m, rng, false);
    g->gone.asked_index = gen_asked(rng, index, index / 2);
    g->gone.name = gen_bytes(gen_name(rng));
    g->e.gone = &g->gone;
}

static void gen_collect(struct gen_entry *g, const struct model *m, struct tarn_rng *rng)
{
    tarn__core__collect__init(&g->collect);
    g->collect.ino = pick(rng, m->next_ino + 1);
    for (uint64_t i = 1; i < m->next_ino && chance(rng, 98); i++)
        if (m->inodes[i].exists && m->inodes[i].detached) {
            g->collect.ino = i;
            break;
        }
    g->collect.max = (uint32_t)pick(rng, 5);
    g->e.collect = &g->collect;
}

static void gen_job(struct gen_entry *g, struct tarn_rng *rng)
{
    unsigned kind = (unsigned)pick(rng, 4);

    tarn__core__job_record__init(&g->job);
    g->job.id = 1 + pick(rng, MODEL_JOBS);
    g->job.files_done = pick(rng, 100);
    if (kind == 0) {
        tarn__core__job_put__init(&g->put);
        g->put.job = &g->job;
        g->e.job_put = &g->put;
    } else if (kind == 1) {
        tarn__core__job_lines__init(&g->lines);
        tarn__core__job_line__init(&g->line);
        g->lines.job = &g->job;
        g->lines.n_lines = pick(rng, TARN_ARRAY_LEN(g->line_p));
        for (size_t i = 0; i < g->lines.n_lines; i++)
            g->line_p[i] = &g->line;
        g->lines.lines = g->line_p;
        g->e.job_lines = &g->lines;
    } else if (kind == 2) {
        tarn__core__job_items__init(&g->items);
        tarn__core__job_item__init(&g->item);
        g->items.id = g->job.id;
        g->items.n_items = pick(rng, TARN_ARRAY_LEN(g->item_p));
        for (size_t i = 0; i < g->items.n_items; i++)
            g->item_p[i] = &g->item;
        g->items.items = g->item_p;
        g->e.job_items = &g->items;
    } else {
        tarn__core__job_drop__init(&g->drop);
        g->drop.id = g->job.id;
        g->drop.max = 1 + (uint32_t)pick(rng, 8);
        g->e.job_drop = &g->drop;
    }
}

static void gen_worker(struct gen_entry *g, const struct model *m, struct tarn_rng *rng)
{
    uint64_t id = 1 + pick(rng, m->next_worker + 1);
    unsigned uuid = 1 + (unsigned)pick(rng, MODEL_UUIDS);

    tarn__core__worker__init(&g->worker);
    if (chance(rng, 60)) {
        g->worker.id = id;
        if (id < m->next_worker && chance(rng, 95))
            uuid = m->workers[id].uuid;
    }
    snprintf(g->uuid, sizeof(g->uuid), "worker-%u", uuid);
    g->worker.uuid = g->uuid;
    g->worker.addr = (char *)(uintptr_t)(chance(rng, 97) ? "h:1" : "");
    g->worker.weight = chance(rng, 90) ? 1 + (uint32_t)pick(rng, 2) : 0;
    g->worker.state = chance(rng, 60) ? 1 : (uint32_t)pick(rng, 6);
    g->e.worker_put = &g->worker;
}

static void gen_member(struct gen_entry *g, const struct model *m, struct tarn_rng *rng,
                       uint64_t index)
{
    uint64_t kind = pick(rng, 100);

    if (kind < 50) {
        gen_worker(g, m, rng);
    } else if (kind < 80) {
        tarn__core__told__init(&g->told);
        g->told.upto = chance(rng, 50) ? index - 1 : pick(rng, index + 1);
        g->e.told = &g->told;
    } else if (kind < 85) {
        tarn__core__start__init(&g->start);
        g->start.inos = pick(rng, 4);
        g->e.start = &g->start;
    } else if (kind < 93) {
        tarn__core__past_drop__init(&g->past_drop);
        g->past_drop.upto = pick(rng, index + 1);
        g->e.past_drop = &g->past_drop;
    } else {
        tarn__core__cap_key__init(&g->cap_key);
        g->key[0] = (uint8_t)pick(rng, 256);
        g->cap_key.key =
            (ProtobufCBinaryData){chance(rng, 70) ? 32 : 31 + 2 * pick(rng, 2), g->key};
        g->e.cap_key = &g->cap_key;
    }
}

/* Paths among the names of objects, so that they meet them. */
static void gen_attach(struct gen_entry *g, const struct model *m, struct tarn_rng *rng)
{
    static const char *const paths[] = {"/",        "/a",     "/a/b",   "/a/b/a-b", "/a/b/c",
                                        "/a/a-/ab", "/a-b/c", "/a-b-c", "/a/b/a"};
    const struct model_attachment *old = &m->attached[pick(rng, MODEL_ATTACHMENTS)];
    bool full = !model_attachment(m, 0);

    tarn__core__attachment__init(&g->attach);
    if (old->id && (full || chance(rng, 30))) {
        g->attach.id = old->id;
        g->attach.path = (char *)(uintptr_t)(chance(rng, 95) ? old->path : "/b");
        g->attach.store_id = (char *)(uintptr_t)(chance(rng, 95) ? old->store_id : "s2");
    } else if (full) { /* no place in the model */
        g->attach.id = 0;
        g->attach.path = (char *)(uintptr_t) "/";
    } else {
        g->attach.id =
            (uint32_t)pick(rng, 10) == 0 ? 1 : m->next_attachment + (uint32_t)pick(rng, 2);
        g->attach.path = (char *)(uintptr_t)paths[pick(rng, TARN_ARRAY_LEN(paths))];
        g->attach.store_id = (char *)(uintptr_t)(chance(rng, 50) ? "s1" : "s");
        if (m->attached[0].id == 0 && m->next_attachment == 1 && chance(rng, 60))
            g->attach.path = (char *)(uintptr_t) "/";
    }
    g->attach.since_ns = (int64_t)pick(rng, 3);
    g->attach.ttl = (char *)(uintptr_t)(chance(rng, 50) ? "60s" : "always");
    g->e.attach = &g->attach;
}

static void gen_detach(struct gen_entry *g, const struct model *m, struct tarn_rng *rng)
{
    tarn__core__detach__init(&g->detach);
    g->detach.id = m->attached[pick(rng, MODEL_ATTACHMENTS)].id;
    g->e.detach = &g->detach;
}

void gen_entry(struct gen_entry *g, const struct model *m, struct tarn_rng *rng, uint64_t index)
{
    uint64_t kind = pick(rng, 100);

    tarn__core__entry__init(&g->e);
    g->e.time_ns = (int64_t)index * 10 + 1;
    if (!m->inited || kind == 0) {
        tarn__core__init__init(&g->init);
        g->init.cluster_id = (char *)(uintptr_t) "cluster";
        g->e.init = &g->init;
    } else if (kind < 4 || (m->next_attachment == 1 && kind < 50)) {
        gen_attach(g, m, rng);
    } else if (kind < 6) {
        gen_detach(g, m, rng);
    } else if (kind < 18) {
        gen_begin(g, m, rng, index);
    } else if (kind < 58) {
        gen_page(g, m, rng, index);
    } else if (kind < 72) {
        gen_found(g, m, rng, index);
    } else if (kind < 80) {
        gen_gone(g, m, rng, index);
    } else if (kind < 86) {
        gen_collect(g, m, rng);
    } else if (kind < 94) {
        gen_member(g, m, rng, index);
    } else {
        gen_job(g, rng);
    }
}
