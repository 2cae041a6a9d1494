/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/master/core/core_fixture.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

void fx_objects_parse(struct fx_objects *s, const char *text)
{
    static uint8_t cid[16] = {1, 2, 3};

    memset(s, 0, sizeof(*s));
    while (*text) {
        size_t i = s->n++, len = strcspn(text, " ="), size = 1;
        Tarn__Core__Object *o = &s->o[i];

        assert_true(i < FX_OBJECTS_MAX && len > 0 && len < sizeof(s->names[i]));
        tarn__core__object__init(o);
        tarn__core__version__init(&s->v[i]);
        memcpy(s->names[i], text, len);
        text += len;
        if (*text == '=')
            size = strtoul(text + 1, (char **)(uintptr_t)&text, 10);
        text += *text == ' ';
        o->type = s->names[i][len - 1] == '/' ? 2 : s->names[i][len - 1] == '@' ? 3 : 1;
        o->name = (ProtobufCBinaryData){len - (o->type != 1), (uint8_t *)s->names[i]};
        s->p[i] = o;
        if (o->type == 1) {
            snprintf(s->etags[i], sizeof(s->etags[i]), "e%zu", size);
            s->v[i].size = size;
            s->v[i].etag = s->etags[i];
            s->v[i].mtime_ns = 1000;
            o->ufs = &s->v[i];
            o->cid = size ? (ProtobufCBinaryData){16, cid} : (ProtobufCBinaryData){0};
        }
    }
}

void fx_open(struct core_fx *fx)
{
    memset(fx, 0, sizeof(*fx));
    fx->kv = tarn_kv_mem_open(&fx->disk, TARN_CF_COUNT);
    fx->now_ns = 1000;
}

void fx_open_attached(struct core_fx *fx)
{
    fx_open(fx);
    assert_int_equal(fx_init(fx, "c1"), 0);
    assert_int_equal(fx_attach(fx, 1, "/", "s3://h/b", "60s"), 0);
    assert_int_equal(fx->index, 2);
}

void fx_close(struct core_fx *fx)
{
    struct tarn_errbuf err = {0};

    if (tarn_core_check(fx->kv, &err) < 0)
        fail_msg("check: %s", err.text);
    tarn_core_result_fini(&fx->res);
    tarn_str_fini(&fx->text);
    tarn_kv_close(&fx->kv);
    tarn_kv_mem_disk_fini(&fx->disk);
}

int fx_apply_bytes(struct core_fx *fx, const void *p, size_t n)
{
    struct tarn_kv_batch *b = tarn_kv_batch_new(fx->kv);
    uint64_t applied;

    tarn_core_result_fini(&fx->res);
    assert_int_equal(tarn_core_apply(fx->kv, b, ++fx->index, p, n, &fx->res), 0);
    assert_int_equal(fx->res.index, fx->index);
    assert_int_equal(tarn_kv_write(fx->kv, b, false), 0);
    tarn_kv_batch_free(&b);
    assert_int_equal(tarn_core_applied_index(fx->kv, &applied), 0);
    assert_int_equal(applied, fx->index);
    return fx->res.rc;
}

int fx_apply(struct core_fx *fx, Tarn__Core__Entry *e)
{
    struct tarn_str bytes = {0};
    int rc;

    e->time_ns = fx->now_ns;
    fx->now_ns += 10;
    assert_int_equal(tarn_core_entry_encode(e, &bytes), 0);
    rc = fx_apply_bytes(fx, bytes.p, bytes.len);
    tarn_str_fini(&bytes);
    return rc;
}

int fx_init(struct core_fx *fx, const char *cluster_id)
{
    Tarn__Core__Entry e = TARN__CORE__ENTRY__INIT;
    Tarn__Core__Init m;

    tarn__core__init__init(&m);
    m.cluster_id = (char *)(uintptr_t)cluster_id;
    e.init = &m;
    return fx_apply(fx, &e);
}

int fx_attach(struct core_fx *fx, uint32_t id, const char *path, const char *store_id,
              const char *ttl)
{
    Tarn__Core__Entry e = TARN__CORE__ENTRY__INIT;
    Tarn__Core__Attachment m;

    tarn__core__attachment__init(&m);
    m.id = id;
    m.path = (char *)(uintptr_t)path;
    m.uri = m.path;
    m.store_id = (char *)(uintptr_t)store_id;
    m.ttl = (char *)(uintptr_t)ttl;
    e.attach = &m;
    return fx_apply(fx, &e);
}

int fx_begin(struct core_fx *fx, uint64_t dir, uint64_t asked, bool resume)
{
    Tarn__Core__Entry e = TARN__CORE__ENTRY__INIT;
    Tarn__Core__ListBegin m = TARN__CORE__LIST_BEGIN__INIT;

    m.dir = dir;
    m.asked_index = asked;
    m.resume = resume;
    e.list_begin = &m;
    return fx_apply(fx, &e);
}

ProtobufCBinaryData fx_bytes(const char *z)
{
    return (ProtobufCBinaryData){strlen(z), (uint8_t *)(uintptr_t)z};
}

int fx_page(struct core_fx *fx, uint64_t dir, const char *from, const char *to, uint64_t asked,
            const char *objects)
{
    Tarn__Core__Entry e = TARN__CORE__ENTRY__INIT;
    Tarn__Core__ListPage m = TARN__CORE__LIST_PAGE__INIT;
    struct fx_objects o;

    fx_objects_parse(&o, objects);
    m.dir = dir;
    m.from_key = fx_bytes(from);
    if (to)
        m.to_key = fx_bytes(to);
    m.complete = !to;
    m.asked_index = asked;
    m.n_objects = o.n;
    m.objects = o.p;
    e.list_page = &m;
    return fx_apply(fx, &e);
}

void fx_list(struct core_fx *fx, uint64_t dir, const char *objects)
{
    uint64_t asked = fx->index;

    assert_int_equal(fx_begin(fx, dir, asked, false), 0);
    assert_int_equal(fx_page(fx, dir, "", NULL, asked, objects), 0);
}

int fx_found(struct core_fx *fx, uint64_t parent, uint64_t asked, const char *object)
{
    Tarn__Core__Entry e = TARN__CORE__ENTRY__INIT;
    Tarn__Core__Found m = TARN__CORE__FOUND__INIT;
    struct fx_objects o;

    fx_objects_parse(&o, object);
    m.parent = parent;
    m.asked_index = asked;
    m.object = o.p[0];
    e.found = &m;
    return fx_apply(fx, &e);
}

int fx_gone(struct core_fx *fx, uint64_t parent, uint64_t asked, const char *name)
{
    Tarn__Core__Entry e = TARN__CORE__ENTRY__INIT;
    Tarn__Core__Gone m = TARN__CORE__GONE__INIT;

    m.parent = parent;
    m.asked_index = asked;
    m.name = fx_bytes(name);
    e.gone = &m;
    return fx_apply(fx, &e);
}

int fx_collect(struct core_fx *fx, uint64_t ino, uint32_t max)
{
    Tarn__Core__Entry e = TARN__CORE__ENTRY__INIT;
    Tarn__Core__Collect m = TARN__CORE__COLLECT__INIT;

    m.ino = ino;
    m.max = max;
    e.collect = &m;
    return fx_apply(fx, &e);
}

uint64_t fx_ino(struct core_fx *fx, uint64_t parent, const char *name)
{
    tarn_ino_t ino = {0};
    uint32_t type;
    int rc = tarn_core_dentry(fx->kv, (tarn_ino_t){parent}, name, strlen(name), &ino, &type);

    assert_true(rc == 0 || rc == -TARN_E_NO_ENTRY);
    return ino.v;
}

static int fx_ls_entry(void *arg, tarn_ino_t ino, const Tarn__Core__Inode *inode)
{
    struct core_fx *fx = arg;

    (void)ino;
    if (fx->text.len)
        tarn_str_addc(&fx->text, ' ');
    tarn_str_add(&fx->text, inode->name.data, inode->name.len);
    tarn_str_adds(&fx->text, inode->type == 2 ? "/" : inode->type == 3 ? "@" : "");
    return 0;
}

const char *fx_ls(struct core_fx *fx, uint64_t dir)
{
    tarn_str_reset(&fx->text);
    assert_int_equal(tarn_core_readdir(fx->kv, (tarn_ino_t){dir}, 0, fx_ls_entry, fx), 0);
    return tarn_str_z(&fx->text);
}

const char *fx_changes(struct core_fx *fx)
{
    tarn_str_reset(&fx->text);
    for (size_t i = 0; i < fx->res.change_count; i++) {
        const struct tarn_core_change *c = &fx->res.changes[i];

        if (i)
            tarn_str_adds(&fx->text, ", ");
        if (c->version)
            tarn_str_addf(&fx->text, "%s v%" PRIu64, c->name, c->version);
        else
            tarn_str_addf(&fx->text, "%s gone", c->name);
    }
    return tarn_str_z(&fx->text);
}

const char *fx_counts(struct core_fx *fx)
{
    Tarn__Core__Counts *c;

    assert_int_equal(tarn_core_counts(fx->kv, 1, &c), 0);
    tarn_str_reset(&fx->text);
    tarn_str_addf(&fx->text, "%" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64, c->files,
                  c->dirs, c->bytes, c->symlinks, c->dirs_listed);
    tarn__core__counts__free_unpacked(c, NULL);
    return tarn_str_z(&fx->text);
}

Tarn__Core__DirState *fx_dir(struct core_fx *fx, uint64_t dir)
{
    Tarn__Core__DirState *st;

    assert_int_equal(tarn_core_dir_state(fx->kv, (tarn_ino_t){dir}, &st), 0);
    return st;
}

Tarn__Core__Inode *fx_inode(struct core_fx *fx, uint64_t ino)
{
    Tarn__Core__Inode *i;

    assert_int_equal(tarn_core_inode(fx->kv, (tarn_ino_t){ino}, &i), 0);
    return i;
}
