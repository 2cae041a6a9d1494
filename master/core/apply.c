/* SPDX-License-Identifier: Apache-2.0 */
/*
 * apply: one journal entry becomes writes of a batch.
 *
 * An entry passes through three steps: it is decoded and checked, what it touches is read (from the
 * batch above the store), then everything is written. A refusal can only come from the first two,
 * so that a refused entry leaves no trace but the applied index; tarn_core_apply() asserts it. What
 * an entry reads from the store is bounded (TARN_CORE_SCAN_MAX names), so a batch is, too.
 *
 * Failures of the store (KV, KV_CORRUPT) may come at any time and leave a half-written batch, which
 * the caller throws away.
 */
#include <stdlib.h>

#include "lib/base/mem.h"
#include "master/core/core_priv.h"

const char *const tarn_core_cf_names[TARN_CF_COUNT] = {"default", "jobs", "soft"};

/* ---- writing
 * ----------------------------------------------------------------------------------------- */

void core_tx_put(struct core_tx *tx, unsigned cf, const struct core_key *k,
                 const ProtobufCMessage *m)
{
    size_t n = protobuf_c_message_get_packed_size(m);
    uint8_t *p;

    tarn_str_reset(&tx->out);
    p = (uint8_t *)tarn_str_room(&tx->out, n + 1);
    p[0] = CORE_FORMAT;
    TARN_ASSERT(protobuf_c_message_pack(m, p + 1) == n);
    tarn_kv_batch_put(tx->src.b, cf, core_slice(k), tarn_kv_slice(p, n + 1));
}

void core_tx_put_bytes(struct core_tx *tx, const struct core_key *k, const void *p, size_t n)
{
    tarn_str_reset(&tx->out);
    tarn_str_addc(&tx->out, (char)CORE_FORMAT);
    tarn_str_add(&tx->out, p, n);
    tarn_kv_batch_put(tx->src.b, TARN_CF_META, core_slice(k),
                      tarn_kv_slice(tx->out.p, tx->out.len));
}

void core_tx_put_u64(struct core_tx *tx, const char *single, uint64_t v)
{
    struct core_key k;
    uint8_t be[8];

    core_key_single(&k, single);
    core_be64(be, v);
    core_tx_put_bytes(tx, &k, be, sizeof(be));
}

void core_tx_delete(struct core_tx *tx, unsigned cf, const struct core_key *k)
{
    tarn_kv_batch_delete(tx->src.b, cf, core_slice(k));
}

void core_tx_put_inode(struct core_tx *tx, tarn_ino_t ino, const Tarn__Core__Inode *inode)
{
    struct core_key k;

    core_key_id(&k, CORE_TAG_INODE, ino.v);
    core_tx_put(tx, TARN_CF_META, &k, &inode->base);
}

void core_tx_change(struct core_tx *tx, tarn_ino_t ino, tarn_ino_t parent, uint64_t version,
                    const void *name, size_t len)
{
    struct tarn_core_result *r = tx->res;
    char *copy = tarn_xcalloc(1, len + 1);

    if (r->change_count == tx->change_cap) {
        tx->change_cap = tx->change_cap ? 2 * tx->change_cap : 16;
        r->changes = tarn_xrealloc(r->changes, tx->change_cap * sizeof(*r->changes));
    }
    if (len)
        memcpy(copy, name, len);
    r->changes[r->change_count++] =
        (struct tarn_core_change){.ino = ino, .parent = parent, .version = version, .name = copy};
}

/* ---- reading
 * ----------------------------------------------------------------------------------------- */

int core_tx_inode(struct core_tx *tx, tarn_ino_t ino, Tarn__Core__Inode **ret)
{
    struct core_key k;
    void *m;
    int rc;

    core_key_id(&k, CORE_TAG_INODE, ino.v);
    rc = core_get_message(&tx->src, TARN_CF_META, &k, &tarn__core__inode__descriptor, &tx->al, &m);
    if (rc == 0)
        *ret = m;
    return rc;
}

int core_tx_dir_state(struct core_tx *tx, tarn_ino_t dir, Tarn__Core__DirState **ret)
{
    struct core_key k;
    void *m;
    int rc;

    core_key_id(&k, CORE_TAG_DIR, dir.v);
    rc = core_get_message(&tx->src, TARN_CF_META, &k, &tarn__core__dir_state__descriptor, &tx->al,
                          &m);
    if (rc == -TARN_E_NO_ENTRY) {
        m = core_arena_alloc(&tx->arena, sizeof(**ret));
        tarn__core__dir_state__init(m);
        rc = 0;
    }
    if (rc == 0)
        *ret = m;
    return rc;
}

void core_tx_flush_counts(struct core_tx *tx)
{
    const Tarn__Core__Counts *c = &tx->counts;
    struct core_key k;

    if (!tx->counts_dirty)
        return;
    tx->counts_dirty = false;
    core_key_id32(&k, CORE_TAG_COUNTS, tx->attachment);
    if (c->files || c->dirs || c->symlinks || c->bytes || c->dirs_listed)
        core_tx_put(tx, TARN_CF_META, &k, &c->base);
    else
        core_tx_delete(tx, TARN_CF_META, &k);
}

int core_tx_open_counts(struct core_tx *tx, uint32_t attachment)
{
    struct core_key k;
    void *m;
    int rc;

    if (tx->attachment == attachment)
        return 0;
    core_tx_flush_counts(tx);
    core_key_id32(&k, CORE_TAG_COUNTS, attachment);
    rc = core_get_message(&tx->src, TARN_CF_META, &k, &tarn__core__counts__descriptor, &tx->al, &m);
    if (rc < 0 && rc != -TARN_E_NO_ENTRY)
        return rc;
    if (rc == 0)
        tx->counts = *(Tarn__Core__Counts *)m;
    else
        tarn__core__counts__init(&tx->counts);
    tx->attachment = attachment;
    return 0;
}

void core_tx_new_counts(struct core_tx *tx, uint32_t attachment)
{
    core_tx_flush_counts(tx);
    tarn__core__counts__init(&tx->counts);
    tx->counts.dirs = 1;
    tx->counts_dirty = true;
    tx->attachment = attachment;
}

int core_tx_reserve_inos(struct core_tx *tx, size_t n)
{
    int rc;

    if (!tx->next_ino) {
        rc = core_get_u64(&tx->src, CORE_X_NEXT_INO, &tx->next_ino);
        if (rc < 0)
            return rc == -TARN_E_NO_ENTRY ? -TARN_E_KV_CORRUPT : rc;
    }
    return tx->next_ino > CORE_INO_END - n ? -TARN_E_TOO_BIG : 0;
}

int core_tx_dir(struct core_tx *tx, tarn_ino_t dir, Tarn__Core__Inode **ret)
{
    Tarn__Core__Inode *inode;
    int rc;

    rc = core_tx_inode(tx, dir, &inode);
    if (rc < 0)
        return rc;
    if (inode->detached)
        return -TARN_E_NO_ENTRY;
    if (inode->type != CORE_TYPE_DIR)
        return -TARN_E_NOT_DIR;
    if (inode->attachment == 0)
        return -TARN_E_NO_ATTACH;
    rc = core_tx_open_counts(tx, inode->attachment);
    if (rc == 0 && tx->counts.dirs == 0) /* at least this one */
        rc = -TARN_E_KV_CORRUPT;
    if (rc == 0)
        *ret = inode;
    return rc;
}

/* ---- init
 * ---------------------------------------------------------------------------------------------- */

static bool apply_cluster_id_ok(const char *id)
{
    size_t n = strlen(id);

    for (size_t i = 0; i < n; i++)
        if (id[i] <= ' ' || id[i] > '~')
            return false;
    return n >= 1 && n <= 36;
}

static int apply_init(struct core_tx *tx, const Tarn__Core__Init *m)
{
    Tarn__Core__Inode root = TARN__CORE__INODE__INIT;
    struct core_key k;
    uint64_t format;
    int rc;

    rc = core_get_u64(&tx->src, CORE_X_FORMAT, &format);
    if (rc == 0)
        return -TARN_E_EXISTS;
    if (rc != -TARN_E_NO_ENTRY)
        return rc;
    if (!apply_cluster_id_ok(m->cluster_id))
        return -TARN_E_ENTRY_BAD;

    core_tx_put_u64(tx, CORE_X_FORMAT, CORE_FORMAT);
    core_key_single(&k, CORE_X_CLUSTER);
    core_tx_put_bytes(tx, &k, m->cluster_id, strlen(m->cluster_id));
    core_tx_put_u64(tx, CORE_X_NEXT_INO, TARN_INO_ROOT.v + 1);
    root.type = CORE_TYPE_DIR;
    root.parent = TARN_INO_ROOT.v;
    root.version = tx->index;
    root.changed = tx->index;
    core_tx_put_inode(tx, TARN_INO_ROOT, &root);
    tx->res->created = 1;
    tx->res->ino = TARN_INO_ROOT;
    return 0;
}

/* ---- start
 * --------------------------------------------------------------------------------------------- */

static int apply_start(struct core_tx *tx, const Tarn__Core__Start *m)
{
    int rc = m->inos < CORE_INO_END ? core_tx_reserve_inos(tx, m->inos) : -TARN_E_ENTRY_BAD;

    if (rc < 0)
        return rc;
    tx->next_ino += m->inos;
    tx->next_ino_dirty = true;
    return 0;
}

/* ---- dispatch
 * ------------------------------------------------------------------------------------------ */

static bool apply_one_kind(const Tarn__Core__Entry *e)
{
    return !!e->init + !!e->attach + !!e->detach + !!e->list_begin + !!e->list_page + !!e->found +
               !!e->gone + !!e->collect + !!e->job_put + !!e->job_lines + !!e->job_drop +
               !!e->job_items + !!e->worker_put + !!e->past_drop + !!e->cap_key + !!e->told +
               !!e->start ==
           1;
}

static int apply_dispatch(struct core_tx *tx, const Tarn__Core__Entry *e)
{
    uint64_t format;
    int rc;

    if (!apply_one_kind(e))
        return -TARN_E_ENTRY_BAD;
    if (e->init)
        return apply_init(tx, e->init);
    rc = core_get_u64(&tx->src, CORE_X_FORMAT, &format);
    if (rc < 0) /* nothing comes before Init */
        return rc == -TARN_E_NO_ENTRY ? -TARN_E_ENTRY_BAD : rc;
    if (e->attach)
        return core_apply_attach(tx, e->attach);
    if (e->detach)
        return core_apply_detach(tx, e->detach);
    if (e->list_begin)
        return core_apply_list_begin(tx, e->list_begin);
    if (e->list_page)
        return core_apply_list_page(tx, e->list_page);
    if (e->found)
        return core_apply_found(tx, e->found);
    if (e->gone)
        return core_apply_gone(tx, e->gone);
    if (e->collect)
        return core_apply_collect(tx, e->collect);
    if (e->job_put)
        return core_apply_job_put(tx, e->job_put);
    if (e->job_lines)
        return core_apply_job_lines(tx, e->job_lines);
    if (e->job_items)
        return core_apply_job_items(tx, e->job_items);
    if (e->worker_put)
        return core_apply_worker_put(tx, e->worker_put);
    if (e->past_drop)
        return core_apply_past_drop(tx, e->past_drop);
    if (e->cap_key)
        return core_apply_cap_key(tx, e->cap_key);
    if (e->told)
        return core_apply_told(tx, e->told);
    if (e->start)
        return apply_start(tx, e->start);
    return core_apply_job_drop(tx, e->job_drop);
}

static int apply_end(struct core_tx *tx)
{
    if (tx->next_ino_dirty)
        core_tx_put_u64(tx, CORE_X_NEXT_INO, tx->next_ino);
    core_tx_flush_counts(tx);
    return tx->res->change_count > 0 ? core_tell(tx) : 0;
}

static int apply_entry(struct core_tx *tx, const uint8_t *entry, size_t len)
{
    unsigned before = tarn_kv_batch_count(tx->src.b);
    Tarn__Core__Entry *e = NULL;
    int rc = -TARN_E_ENTRY_BAD;

    if (len <= TARN_JOURNAL_ENTRY_MAX)
        e = tarn__core__entry__unpack(&tx->al, len, entry);
    if (e) {
        tx->time_ns = e->time_ns;
        rc = apply_dispatch(tx, e);
    }
    if (core_store_failed(rc))
        return rc;
    if (rc < 0) {
        TARN_ASSERT(tarn_kv_batch_count(tx->src.b) == before && tx->res->change_count == 0);
    } else {
        int end_rc = apply_end(tx); /* nothing is refused any more */

        if (end_rc < 0)
            return end_rc;
    }
    tx->res->rc = rc;
    core_tx_put_u64(tx, CORE_X_APPLIED, tx->index);
    return 0;
}

int tarn_core_apply(struct tarn_kv *kv, struct tarn_kv_batch *b, uint64_t index,
                    const uint8_t *entry, size_t len, struct tarn_core_result *ret)
{
    struct core_tx tx = {.src = {kv, b}, .index = index, .res = ret};
    uint64_t applied = 0;
    int rc;

    TARN_ASSERT(index > 0 && ret->changes == NULL);
    ret->index = index;
    rc = core_get_u64(&tx.src, CORE_X_APPLIED, &applied);
    if (rc < 0 && rc != -TARN_E_NO_ENTRY)
        return rc;
    if (index <= applied)
        return 0;
    tx.al = core_arena_allocator(&tx.arena);
    rc = apply_entry(&tx, entry, len);
    core_arena_fini(&tx.arena);
    tarn_str_fini(&tx.in);
    tarn_str_fini(&tx.out);
    return rc;
}

void tarn_core_result_fini(struct tarn_core_result *r)
{
    for (size_t i = 0; i < r->change_count; i++)
        free(r->changes[i].name);
    free(r->changes);
    *r = (struct tarn_core_result){0};
}
