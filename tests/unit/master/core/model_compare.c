/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The model against the store: each thing that can be read, and nothing but what the model has.
 */
#include "tests/unit/master/core/model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

static void compare_dir(const struct model_inode *d, struct tarn_kv *kv, tarn_ino_t ino)
{
    Tarn__Core__DirState *st;
    struct tarn_str s = {0};
    unsigned lines = 0;

    assert_int_equal(tarn_core_dir_state(kv, ino, &st), 0);
    assert_int_equal(st->listed_ns, d->listed_ns);
    assert_int_equal(st->started_ns, d->started_ns);
    assert_int_equal(st->listed_index, d->listed_index);
    assert_int_equal(st->asked_index, d->asked_index);
    assert_int_equal(st->running, d->running);
    assert_int_equal(st->dir_removed, d->dir_removed);
    assert_int_equal(st->skipped, d->skipped);
    assert_int_equal(st->skipped_total, d->skipped_total);
    assert_int_equal(st->removed_index, d->removed_index);
    assert_int_equal(st->upto_key.len, d->upto_len);
    if (d->upto_len)
        assert_memory_equal(st->upto_key.data, d->upto, d->upto_len);
    tarn__core__dir_state__free_unpacked(st, NULL);
    if (tarn_core_skipped_names(kv, ino, &s) == 0)
        for (size_t i = 0; i < s.len; i++)
            lines += s.p[i] == '\n';
    assert_int_equal(lines, d->skipped_lines);
    tarn_str_fini(&s);
}

static void compare_inode(const struct model_inode *m, const Tarn__Core__Inode *i)
{
    assert_int_equal(i->type, m->type);
    assert_int_equal(i->parent, m->parent);
    assert_int_equal(i->version, m->version);
    assert_int_equal(i->changed, m->changed);
    assert_int_equal(i->detached, m->detached);
    assert_int_equal(i->held, m->held);
    assert_int_equal(i->attachment, m->attachment);
    assert_int_equal(i->name.len, m->len);
    if (m->len)
        assert_memory_equal(i->name.data, m->name, m->len);
    assert_int_equal(i->has_owner, m->has_owner);
    assert_int_equal(i->mode, m->mode);
    assert_int_equal(i->uid, m->uid);
    assert_int_equal(i->gid, m->gid);
    assert_int_equal(i->ufs ? i->ufs->size : 0, m->size);
    assert_int_equal(i->ufs ? i->ufs->mtime_ns : 0, m->mtime_ns);
    assert_string_equal(i->ufs ? i->ufs->etag : "", m->etag);
    assert_int_equal(i->cid.len, m->has_cid ? 16 : 0);
    if (m->has_cid)
        assert_memory_equal(i->cid.data, m->cid, 16);
    assert_int_equal(i->target.len, strlen(m->target));
    if (i->target.len)
        assert_memory_equal(i->target.data, m->target, i->target.len);
}

static int count_children(void *arg, tarn_ino_t ino, const Tarn__Core__Inode *inode)
{
    uint64_t *n = arg;

    (void)inode;
    assert_true(ino.v > n[1]);
    n[0]++;
    n[1] = ino.v;
    return 0;
}

static void compare_children(const struct model *m, struct tarn_kv *kv, uint64_t dir)
{
    uint64_t n[2] = {0, 0}, children = 0;
    bool hidden = dir == 1 && m->inodes[1].detached;

    for (uint64_t c = hidden ? 0 : m->inodes[dir].children; c; c = m->inodes[c].next) {
        tarn_ino_t ino = {0};
        uint32_t type = 0;

        assert_int_equal(tarn_core_dentry(kv, (tarn_ino_t){dir}, m->inodes[c].name,
                                          m->inodes[c].len, &ino, &type),
                         0);
        assert_int_equal(ino.v, c);
        assert_int_equal(type, m->inodes[c].type);
        children++;
    }
    assert_int_equal(tarn_core_readdir(kv, (tarn_ino_t){dir}, 0, count_children, n), 0);
    assert_int_equal(n[0], children);
}

static void compare_counts(const struct model *m, struct tarn_kv *kv, uint32_t id)
{
    uint64_t files = 0, dirs = 0, bytes = 0, symlinks = 0, listed = 0;
    Tarn__Core__Counts *c = NULL;
    int rc;

    for (uint64_t i = 1; i < m->next_ino; i++) {
        const struct model_inode *n = &m->inodes[i];

        if (!n->exists || n->detached || n->attachment != id)
            continue;
        files += n->type == 1;
        dirs += n->type == 2;
        symlinks += n->type == 3;
        bytes += n->size;
        listed += n->listed_ns != 0;
    }
    rc = tarn_core_counts(kv, id, &c);
    assert_int_equal(rc, files + dirs + symlinks ? 0 : -TARN_E_NO_ENTRY);
    if (rc < 0)
        return;
    assert_int_equal(c->files, files);
    assert_int_equal(c->dirs, dirs);
    assert_int_equal(c->bytes, bytes);
    assert_int_equal(c->symlinks, symlinks);
    assert_int_equal(c->dirs_listed, listed);
    tarn__core__counts__free_unpacked(c, NULL);
}

static void compare_attachment(const struct model *m, struct tarn_kv *kv, uint32_t id)
{
    const struct model_attachment *a = model_attachment(m, id);
    Tarn__Core__Attachment *got;
    int rc = tarn_core_attachment(kv, id, &got);

    assert_int_equal(rc, a ? 0 : -TARN_E_NO_ENTRY);
    compare_counts(m, kv, id);
    if (rc < 0)
        return;
    assert_string_equal(got->path, a->path);
    assert_string_equal(got->store_id, a->store_id);
    assert_string_equal(got->ttl, a->ttl);
    assert_int_equal(got->root, a->root);
    assert_int_equal(got->since_ns, a->since_ns);
    tarn__core__attachment__free_unpacked(got, NULL);
}

static int count_lines(void *arg, uint64_t seq, const Tarn__Core__JobLine *line)
{
    uint64_t *next = arg;

    (void)line;
    assert_int_equal(seq, *next);
    (*next)++;
    return 0;
}

static int count_items(void *arg, uint64_t seq, const Tarn__Core__JobItem *item)
{
    uint64_t *next = arg;

    (void)item;
    assert_int_equal(seq, *next);
    (*next)++;
    return 0;
}

static void compare_job(const struct model_job *m, struct tarn_kv *kv, uint64_t id)
{
    uint64_t next = m->line_first, item = m->item_first;
    Tarn__Core__JobRecord *j;
    int rc = tarn_core_job(kv, id, &j);

    assert_int_equal(rc, m->exists ? 0 : -TARN_E_NO_ENTRY);
    if (rc < 0)
        return;
    assert_int_equal(j->files_done, m->files_done);
    assert_int_equal(j->manifest_next, m->line_next);
    assert_int_equal(j->items_next, m->item_next);
    tarn__core__job_record__free_unpacked(j, NULL);
    assert_int_equal(tarn_core_manifest(kv, id, 0, count_lines, &next), 0);
    assert_int_equal(next, m->line_next);
    assert_int_equal(tarn_core_job_items(kv, id, 0, count_items, &item), 0);
    assert_int_equal(item, m->item_next);
}

static int compare_worker(void *arg, const Tarn__Core__Worker *w)
{
    const struct model *const *at = arg;
    const struct model *m = *at;
    char uuid[16];

    assert_true(w->id > 0 && w->id < m->next_worker);
    snprintf(uuid, sizeof(uuid), "worker-%u", m->workers[w->id].uuid);
    assert_string_equal(w->uuid, uuid);
    assert_int_equal(w->weight, m->workers[w->id].weight);
    assert_int_equal(w->state, m->workers[w->id].state);
    assert_int_equal(w->since_ns, m->workers[w->id].since_ns);
    return 0;
}

static void compare_past(const struct model *m, const Tarn__Core__Placement *p)
{
    size_t at = 0;

    for (size_t i = 0; i < m->past_n; i++) {
        struct model_set got = {0};

        if (m->past[i].index == 0)
            continue;
        assert_true(at < p->n_past);
        for (size_t k = 0; k < p->past[at]->n_ids; k++)
            got.weights[p->past[at]->ids[k]] = p->past[at]->weights[k];
        assert_true(model_set_same(&got, &m->past[i]));
        assert_int_equal(p->past[at++]->index, m->past[i].index);
    }
    assert_int_equal(at, p->n_past);
}

static void compare_members(const struct model *m, struct tarn_kv *kv)
{
    Tarn__Core__Placement *p;
    uint8_t key[32];

    assert_int_equal(tarn_core_workers(kv, compare_worker, &m), 0);
    for (uint64_t id = 1; id < m->next_worker; id++) {
        Tarn__Core__Worker *w;

        assert_int_equal(tarn_core_worker(kv, id, &w), 0);
        tarn__core__worker__free_unpacked(w, NULL);
    }
    assert_int_equal(tarn_core_placement(kv, &p), 0);
    compare_past(m, p);
    tarn__core__placement__free_unpacked(p, NULL);
    assert_int_equal(tarn_core_cap_key(kv, key), m->has_key ? 0 : -TARN_E_NO_ENTRY);
    if (m->has_key)
        assert_int_equal(key[0], m->key);
}

void model_compare(const struct model *m, struct tarn_kv *kv, uint64_t applied)
{
    uint32_t next;
    uint64_t at;

    assert_int_equal(tarn_core_applied_index(kv, &at), 0);
    assert_int_equal(at, applied);
    for (uint64_t n = 1; n < m->next_ino; n++) {
        const struct model_inode *i = &m->inodes[n];
        Tarn__Core__Inode *c;
        int rc = tarn_core_inode(kv, (tarn_ino_t){n}, &c);

        assert_int_equal(rc, i->exists ? 0 : -TARN_E_NO_ENTRY);
        if (rc < 0)
            continue;
        compare_inode(i, c);
        tarn__core__inode__free_unpacked(c, NULL);
        if (i->type == 2) {
            compare_dir(i, kv, (tarn_ino_t){n});
            compare_children(m, kv, n);
        }
    }
    assert_int_equal(tarn_core_next_attachment(kv, &next), 0);
    assert_int_equal(next, m->next_attachment);
    assert_int_equal(tarn_core_attached_index(kv, &at), 0);
    assert_int_equal(at, m->attached_index);
    assert_int_equal(tarn_core_last_change(kv, &at), 0);
    assert_int_equal(at, m->change);
    assert_int_equal(tarn_core_untold(kv, &at), 0);
    assert_int_equal(at, m->untold);
    for (uint32_t id = 1; id < m->next_attachment; id++)
        compare_attachment(m, kv, id);
    compare_members(m, kv);
    for (uint64_t id = 1; id <= MODEL_JOBS; id++)
        compare_job(&m->jobs[id], kv, id);
}
