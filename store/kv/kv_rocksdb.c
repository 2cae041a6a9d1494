/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The store on RocksDB; the only file that includes rocksdb/c.h.
 *
 * Durability: every write goes to RocksDB's log; a synced one syncs it and all logs before it.
 * After a crash the log is replayed up to its first damaged record, so a torn tail costs only what
 * was not synced. Families stay consistent with each other, because RocksDB syncs the log before it
 * flushes one of several families.
 *
 * Space: RocksDB does not resume after ENOSPC, so rocks_reopen() closes and opens it again. Opening
 * needs room for the replayed log; the ballast file is kept for that, and so that deletions can be
 * written that make more room. It is made when the file system has plenty (rocks_ballast_make),
 * never right after it was given up in a full one.
 *
 * A write never waits inside RocksDB: when a flush has failed, RocksDB stalls writes until it finds
 * room, which may be never. It is told to refuse instead (no_slowdown), and rocks_write_patiently()
 * tries again while flushes are only behind.
 *
 * RocksDB's info log stays empty: it lies in the same full file system, and RocksDB as Debian
 * builds it (with assertions) aborts when it writes to that file again after an error.
 *
 * Errors: the C API gives texts only. The directory's path is cut out of a text before it is
 * searched, so that a path with "lock" in it is not an error about locks.
 *
 * Traps of the C API: an iterator refers to the read options and to the bound's bytes, which are
 * freed after it; a batch has no delete_range; an iterator over a batch does not obey the bound, so
 * kv.c checks the prefix; moving an iterator that is not valid is undefined.
 */
#include "store/kv/kv_priv.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <rocksdb/c.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "lib/base/assert.h"
#include "lib/base/env.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"

#define BALLAST_NAME   "BALLAST"
#define BALLAST_BYTES  (4 << 20)
#define BALLAST_MARGIN 4    /* ballasts of free space below which none is made */
#define BALLAST_TRIES  1024 /* writes between two attempts to make a missing one */

#define BLOOM_BITS     10.0       /* per key: 1 % false positives */
#define OPEN_FILES     256        /* RocksDB's table files */
#define WAL_MIN        (16 << 20) /* bytes of logs before memtables are flushed, at least */
#define INFO_LOG_FATAL 4          /* RocksDB's level: nothing is that bad */
#define CHECKSUM_XXH3  4          /* RocksDB's number */
#define CACHE_BYTES    (8 << 20)  /* block cache where the caller gives none */

#define STALL_STEP_NS   (2 * TARN_NS_PER_MS)   /* between two tries of a stalled write */
#define STALL_FAILED_NS (200 * TARN_NS_PER_MS) /* it fails after that, when flushes fail */
#define STALL_MAX_NS    (30 * TARN_NS_PER_S)   /* and after that in any case */
#define STALL_ROOM      (16u << 20)            /* free bytes below which that is for want of room */

/* Immutable while open, but for the counter. */
struct rocks {
    struct tarn_kv kv;                                       /* first */
    char *path;                                              /* the directory, absolute */
    char *cf_names[TARN_KV_CF_MAX];                          /* as given */
    rocksdb_options_t *options;                              /* of the store and of each family */
    rocksdb_cache_t *cache;                                  /* blocks of all families */
    rocksdb_readoptions_t *read;                             /* of gets */
    rocksdb_writeoptions_t *write_synced;                    /* fsync before it returns */
    rocksdb_writeoptions_t *write_unsynced;                  /* leaves it to the kernel */
    rocksdb_t *db;                                           /* NULL after a failed reopen */
    rocksdb_column_family_handle_t *handles[TARN_KV_CF_MAX]; /* by family, while db is set */
    _Atomic unsigned ballast_tries;                          /* writes until a missing one is tried;
                                                                0: there is one */
};

struct rocks_batch {
    struct tarn_kv_batch b;      /* first */
    rocksdb_writebatch_wi_t *wi; /* operations with an index */
    bool incomplete;             /* was filled while the store was not open: cannot be written */
};

struct rocks_iter {
    struct tarn_kv_iter it;      /* first */
    rocksdb_iterator_t *ri;      /* NULL while the store is not open */
    rocksdb_readoptions_t *read; /* with the bound */
    struct tarn_str bound;       /* first key behind the prefix, empty when there is none */
    struct tarn_str start;       /* where to seek at the next call of next */
    bool seek;                   /* `start` counts */
};

/* `text` without the path; that one is absolute, so nothing else is cut. */
static void rocks_text_clean(char *text, const char *path)
{
    size_t n = strlen(path);
    char *at;

    while (n > 0 && (at = strstr(text, path)) != NULL)
        memmove(at, at + n, strlen(at + n) + 1);
}

/* The code for a text of RocksDB's. */
static int rocks_text_code(const char *text, bool opening)
{
    if (tarn_starts_with(text, "Corruption"))
        return -TARN_E_KV_CORRUPT;
    if (strstr(text, "No space") || strstr(text, "ENOSPC") || strstr(text, "no space"))
        return -TARN_E_KV_NO_SPACE;
    if (strstr(text, "does not exist (create_if_missing is false)"))
        return -ENOENT;
    if (!opening)
        return -TARN_E_KV;
    if (strstr(text, "Column families not opened") || strstr(text, "unknown column famil"))
        return -TARN_E_FORMAT_NEWER;
    if (strstr(text, "lock file") || strstr(text, "lock hold") || strstr(text, "LOCK"))
        return -TARN_E_DIR_LOCKED;
    if (strstr(text, "Permission denied"))
        return -EACCES;
    if (strstr(text, "Read-only file system"))
        return -EROFS;
    if (strstr(text, "No such file")) /* CURRENT or the manifest names a file that is not there */
        return -TARN_E_KV_CORRUPT;
    return -TARN_E_KV;
}

/* Frees RocksDB's `text` and returns its code; 0 when it is NULL. */
static int rocks_error(const struct rocks *r, char *text, bool opening, struct tarn_errbuf *err)
{
    int rc;

    if (!text)
        return 0;
    rocks_text_clean(text, r->path);
    rc = rocks_text_code(text, opening);
    if (opening)
        (void)tarn_err_set(err, rc, "%s: %s", r->path, text); /* returns what it is given */
    tarn_debug("kv", "path=%s rc=%s: %s", r->path, tarn_err_name(rc), text);
    rocksdb_free(text);
    return rc;
}

static char *rocks_file(const struct rocks *r, const char *name)
{
    return tarn_xasprintf("%s/%s", r->path, name);
}

/* Makes the ballast where there is none and much room. Not having one is no error. */
static bool rocks_ballast_make(const struct rocks *r)
{
    TARN_AUTO_FREE char *path = rocks_file(r, BALLAST_NAME);
    struct statvfs vfs;
    struct stat st;
    int fd, rc;

    if (stat(path, &st) == 0 && st.st_size >= BALLAST_BYTES)
        return true;
    if (statvfs(r->path, &vfs) < 0 ||
        (uint64_t)vfs.f_bavail * vfs.f_frsize < (uint64_t)BALLAST_MARGIN * BALLAST_BYTES)
        return false;
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return false;
    rc = posix_fallocate(fd, 0, BALLAST_BYTES);
    if (close(fd) < 0 || rc != 0) {
        (void)unlink(path); /* what there is of it is of no use */
        return false;
    }
    return true;
}

static void rocks_ballast_drop(const struct rocks *r)
{
    TARN_AUTO_FREE char *path = rocks_file(r, BALLAST_NAME);

    (void)unlink(path); /* it may be gone already */
}

static void rocks_ballast_keep(struct rocks *r)
{
    atomic_store(&r->ballast_tries, rocks_ballast_make(r) ? 0 : BALLAST_TRIES);
}

static void rocks_options_table(struct rocks *r)
{
    rocksdb_block_based_table_options_t *t = rocksdb_block_based_options_create();

    rocksdb_block_based_options_set_block_cache(t, r->cache);
    rocksdb_block_based_options_set_cache_index_and_filter_blocks(t, 1);
    rocksdb_block_based_options_set_pin_l0_filter_and_index_blocks_in_cache(t, 1);
    rocksdb_block_based_options_set_filter_policy(
        t, rocksdb_filterpolicy_create_bloom_full(BLOOM_BITS)); /* t owns it */
    rocksdb_block_based_options_set_checksum(t, CHECKSUM_XXH3);
    rocksdb_options_set_block_based_table_factory(r->options, t); /* copies */
    rocksdb_block_based_options_destroy(t);
}

/* RocksDB reserves 4 MiB for a manifest and a write buffer's size for a log: more than all data of
 * a small cache. The C API has no call for it. */
static void rocks_options_no_reserve(struct rocks *r)
{
    rocksdb_options_t *changed = rocksdb_options_create();
    char *text = NULL;

    rocksdb_get_options_from_string(r->options, "allow_fallocate=false", changed, &text);
    if (text) { /* unknown to this version: more room is taken, no more */
        rocksdb_free(text);
        rocksdb_options_destroy(changed);
        return;
    }
    rocksdb_options_destroy(r->options);
    r->options = changed;
}

static void rocks_options(struct rocks *r, const struct tarn_kv_args *args)
{
    rocksdb_options_t *o = r->options = rocksdb_options_create();
    uint64_t buffers = args->write_buffer_bytes * args->cf_count;

    r->cache = rocksdb_cache_create_lru(args->cache_bytes ? args->cache_bytes : CACHE_BYTES);
    r->read = rocksdb_readoptions_create();
    rocksdb_readoptions_set_verify_checksums(r->read, 1);
    r->write_synced = rocksdb_writeoptions_create();
    rocksdb_writeoptions_set_sync(r->write_synced, 1);
    r->write_unsynced = rocksdb_writeoptions_create();
    /* Else a write waits, without end, for a flush that a full disk does not let happen. */
    rocksdb_writeoptions_set_no_slowdown(r->write_synced, 1);
    rocksdb_writeoptions_set_no_slowdown(r->write_unsynced, 1);

    rocksdb_options_set_create_if_missing(o, !args->read_only_if_exists);
    rocksdb_options_set_create_missing_column_families(o, 1);
    rocksdb_options_set_paranoid_checks(o, 1);
    rocksdb_options_set_wal_recovery_mode(o, rocksdb_point_in_time_recovery);
    rocksdb_options_set_max_open_files(o, OPEN_FILES);
    rocksdb_options_set_max_background_jobs(o, 2);
    if (args->write_buffer_bytes)
        rocksdb_options_set_write_buffer_size(o, args->write_buffer_bytes);
    rocksdb_options_set_max_total_wal_size(o, buffers > WAL_MIN ? buffers : WAL_MIN);
    rocksdb_options_set_skip_stats_update_on_db_open(o, 1);
    rocksdb_options_set_stats_dump_period_sec(o, 0);
    rocksdb_options_set_info_log_level(o, INFO_LOG_FATAL);
    rocksdb_options_set_keep_log_file_num(o, 2);
    rocks_options_no_reserve(r);
    rocks_options_table(r);
}

/* One attempt with the options as they are; sets db and handles on success. */
static char *rocks_open_once(struct rocks *r)
{
    const rocksdb_options_t *cf_options[TARN_KV_CF_MAX];
    const char *names[TARN_KV_CF_MAX];
    char *text = NULL;

    for (unsigned i = 0; i < r->kv.cf_count; i++) {
        cf_options[i] = r->options;
        names[i] = r->cf_names[i];
    }
    r->db = rocksdb_open_column_families(r->options, r->path, (int)r->kv.cf_count, names,
                                         cf_options, r->handles, &text);
    TARN_ASSERT((r->db == NULL) == (text != NULL));
    return text;
}

/* Opens with the best compression that the library has. */
static int rocks_open_db(struct rocks *r, struct tarn_errbuf *err)
{
    static const int kinds[] = {rocksdb_zstd_compression, rocksdb_lz4_compression,
                                rocksdb_no_compression};
    char *text = NULL;

    for (size_t i = 0; i < TARN_ARRAY_LEN(kinds); i++) {
        rocksdb_options_set_compression(r->options, kinds[i]);
        text = rocks_open_once(r);
        if (!text || !strstr(text, "not linked with the binary"))
            break;
        if (i + 1 < TARN_ARRAY_LEN(kinds))
            rocksdb_free(text);
    }
    return rocks_error(r, text, true, err);
}

static void rocks_close_db(struct rocks *r)
{
    if (!r->db)
        return;
    for (unsigned i = 0; i < r->kv.cf_count; i++)
        rocksdb_column_family_handle_destroy(r->handles[i]);
    rocksdb_close(r->db);
    r->db = NULL;
}

static void rocks_free(struct rocks *r)
{
    rocks_close_db(r);
    rocksdb_writeoptions_destroy(r->write_unsynced);
    rocksdb_writeoptions_destroy(r->write_synced);
    rocksdb_readoptions_destroy(r->read);
    rocksdb_options_destroy(r->options);
    rocksdb_cache_destroy(r->cache);
    for (unsigned i = 0; i < r->kv.cf_count; i++)
        free(r->cf_names[i]);
    free(r->path);
    free(r);
}

static void rocks_close(struct tarn_kv *kv)
{
    rocks_free(TARN_CONTAINER(kv, struct rocks, kv));
}

/*
 * Looks into the directory before RocksDB does. RocksDB would make an empty store where CURRENT is
 * missing, even beside the tables of an old one: that is damage, too. Sets *ret_exists.
 */
static int rocks_dir_look(const char *path, bool *ret_exists)
{
    bool current = false, data = false;
    struct dirent *e;
    DIR *d = opendir(path);

    if (!d)
        return -errno;
    while ((e = readdir(d)) != NULL) {
        current |= strcmp(e->d_name, "CURRENT") == 0;
        data |= tarn_ends_with(e->d_name, ".sst") || tarn_ends_with(e->d_name, ".log");
    }
    (void)closedir(d); /* only read */
    *ret_exists = current;
    return data && !current ? -TARN_E_KV_CORRUPT : 0;
}

static int rocks_dir_prepare(const struct tarn_kv_args *args, struct tarn_errbuf *err)
{
    bool exists = false;
    int rc;

    if (!args->read_only_if_exists && mkdir(args->path, 0700) < 0 && errno != EEXIST)
        return tarn_err_set(err, -errno, "%s: %s", args->path, tarn_strerror(errno));
    rc = rocks_dir_look(args->path, &exists);
    if (rc == -TARN_E_KV_CORRUPT)
        return tarn_err_set(err, rc, "%s: Corruption: CURRENT is missing beside data", args->path);
    if (rc == 0 && !exists && args->read_only_if_exists)
        rc = -ENOENT;
    if (rc < 0)
        return tarn_err_set(err, rc, "%s: %s", args->path, tarn_strerror(rc));
    return 0;
}

static int rocks_get(struct tarn_kv *kv, unsigned cf, struct tarn_kv_slice key,
                     struct tarn_str *ret)
{
    struct rocks *r = TARN_CONTAINER(kv, struct rocks, kv);
    rocksdb_pinnableslice_t *pin;
    const char *value;
    char *text = NULL;
    size_t n;
    int rc;

    if (!r->db)
        return -TARN_E_KV_NO_SPACE;
    pin = rocksdb_get_pinned_cf(r->db, r->read, r->handles[cf], key.p, key.n, &text);
    rc = rocks_error(r, text, false, NULL);
    if (rc == 0 && !pin)
        rc = -ENOENT;
    if (rc == 0) {
        value = rocksdb_pinnableslice_value(pin, &n);
        tarn_str_add(ret, value, n);
    }
    rocksdb_pinnableslice_destroy(pin); /* NULL is accepted */
    return rc;
}

static struct tarn_kv_batch *rocks_batch_new(struct tarn_kv *kv)
{
    struct rocks_batch *rb = tarn_xnew(struct rocks_batch);

    (void)kv; /* the batch learns of families when it is filled */
    rb->wi = rocksdb_writebatch_wi_create(0, 1);
    return &rb->b;
}

static void rocks_batch_free(struct tarn_kv_batch *b)
{
    struct rocks_batch *rb = TARN_CONTAINER(b, struct rocks_batch, b);

    rocksdb_writebatch_wi_destroy(rb->wi);
    free(rb);
}

static struct rocks *rocks_of(const struct tarn_kv_batch *b)
{
    return TARN_CONTAINER(b->kv, struct rocks, kv);
}

static void rocks_batch_put(struct tarn_kv_batch *b, unsigned cf, struct tarn_kv_slice key,
                            struct tarn_kv_slice value)
{
    struct rocks_batch *rb = TARN_CONTAINER(b, struct rocks_batch, b);

    if (rocks_of(b)->db)
        rocksdb_writebatch_wi_put_cf(rb->wi, rocks_of(b)->handles[cf], key.p, key.n, value.p,
                                     value.n);
    else
        rb->incomplete = true;
}

static void rocks_batch_delete(struct tarn_kv_batch *b, unsigned cf, struct tarn_kv_slice key)
{
    struct rocks_batch *rb = TARN_CONTAINER(b, struct rocks_batch, b);

    if (rocks_of(b)->db)
        rocksdb_writebatch_wi_delete_cf(rb->wi, rocks_of(b)->handles[cf], key.p, key.n);
    else
        rb->incomplete = true;
}

static int rocks_batch_get(struct tarn_kv_batch *b, unsigned cf, struct tarn_kv_slice key,
                           struct tarn_str *ret)
{
    struct rocks_batch *rb = TARN_CONTAINER(b, struct rocks_batch, b);
    struct rocks *r = rocks_of(b);
    char *value, *text = NULL;
    size_t n = 0;
    int rc;

    if (!r->db)
        return -TARN_E_KV_NO_SPACE;
    value = rocksdb_writebatch_wi_get_from_batch_and_db_cf(rb->wi, r->db, r->read, r->handles[cf],
                                                           key.p, key.n, &n, &text);
    rc = rocks_error(r, text, false, NULL);
    if (rc == 0 && !value)
        rc = -ENOENT;
    if (rc == 0)
        tarn_str_add(ret, value, n);
    rocksdb_free(value);
    return rc;
}

/* Counts down to the next attempt to make a missing ballast. */
static void rocks_ballast_tick(struct rocks *r)
{
    unsigned left = atomic_load_explicit(&r->ballast_tries, memory_order_relaxed);

    if (left == 0)
        return;
    if (atomic_compare_exchange_strong(&r->ballast_tries, &left, left - 1) && left == 1)
        rocks_ballast_keep(r);
}

/* Why writes are stalled: 0 while flushes and compactions are only behind. */
static int rocks_stall_cause(const struct rocks *r)
{
    struct statvfs v;
    uint64_t errors = 0;

    if (rocksdb_property_int(r->db, "rocksdb.background-errors", &errors) != 0 || errors == 0)
        return 0;
    if (statvfs(r->path, &v) == 0 && (uint64_t)v.f_bavail * v.f_frsize < STALL_ROOM)
        return -TARN_E_KV_NO_SPACE;
    return -TARN_E_KV;
}

/* Writes, and waits while RocksDB cannot keep up, but not for what does not come. */
static int rocks_write_patiently(struct rocks *r, const rocksdb_writeoptions_t *options,
                                 struct rocks_batch *rb)
{
    uint64_t begun = tarn_now_ns(), waited = 0;
    struct timespec step = {.tv_nsec = STALL_STEP_NS};
    char *text = NULL;
    int rc, cause;

    for (;;) {
        rocksdb_write_writebatch_wi(r->db, options, rb->wi, &text);
        if (!text || !tarn_starts_with(text, "Result incomplete"))
            return rocks_error(r, text, false, NULL);
        cause = rocks_stall_cause(r);
        waited = tarn_now_ns() - begun;
        rc = cause && waited > STALL_FAILED_NS ? cause : waited > STALL_MAX_NS ? -TARN_E_KV : 0;
        if (rc < 0) {
            tarn_warn("kv", "path=%s: stalled for %llu ms: %s", r->path,
                      (unsigned long long)(waited / TARN_NS_PER_MS), text);
            rocksdb_free(text);
            return rc;
        }
        rocksdb_free(text);
        text = NULL;
        (void)nanosleep(&step, NULL); /* less is fine */
    }
}

static int rocks_write(struct tarn_kv *kv, struct tarn_kv_batch *b, bool sync)
{
    struct rocks *r = TARN_CONTAINER(kv, struct rocks, kv);
    struct rocks_batch *rb = TARN_CONTAINER(b, struct rocks_batch, b);
    int rc;

    if (!r->db || rb->incomplete)
        return -TARN_E_KV_NO_SPACE;
    rc = rocks_write_patiently(r, sync ? r->write_synced : r->write_unsynced, rb);
    if (rc < 0)
        return rc;
    rocksdb_writebatch_wi_clear(rb->wi);
    rocks_ballast_tick(r);
    return 0;
}

/* The smallest key greater than every key with the prefix; empty when there is none. */
static void rocks_bound(struct tarn_kv_slice prefix, struct tarn_str *ret)
{
    const uint8_t *p = prefix.p;
    size_t n = prefix.n;

    while (n > 0 && p[n - 1] == 0xff)
        n--;
    if (n == 0)
        return;
    tarn_str_add(ret, p, n);
    ret->p[n - 1] = (char)(p[n - 1] + 1);
}

static struct tarn_kv_iter *rocks_iter_new(struct tarn_kv *kv, struct tarn_kv_batch *b, unsigned cf,
                                           struct tarn_kv_slice prefix)
{
    struct rocks *r = TARN_CONTAINER(kv, struct rocks, kv);
    struct rocks_iter *ri = tarn_xnew(struct rocks_iter);

    ri->read = rocksdb_readoptions_create();
    rocksdb_readoptions_set_verify_checksums(ri->read, 1);
    rocks_bound(prefix, &ri->bound);
    if (ri->bound.len)
        rocksdb_readoptions_set_iterate_upper_bound(ri->read, ri->bound.p, ri->bound.len);
    if (!r->db)
        return &ri->it;
    ri->ri = rocksdb_create_iterator_cf(r->db, ri->read, r->handles[cf]);
    if (b) /* takes the iterator below */
        ri->ri = rocksdb_writebatch_wi_create_iterator_with_base_cf(
            TARN_CONTAINER(b, struct rocks_batch, b)->wi, ri->ri, r->handles[cf]);
    return &ri->it;
}

static void rocks_iter_free(struct tarn_kv_iter *it)
{
    struct rocks_iter *ri = TARN_CONTAINER(it, struct rocks_iter, it);

    if (ri->ri)
        rocksdb_iter_destroy(ri->ri);
    rocksdb_readoptions_destroy(ri->read);
    tarn_str_fini(&ri->bound);
    tarn_str_fini(&ri->start);
    free(ri);
}

static void rocks_iter_seek(struct tarn_kv_iter *it, struct tarn_kv_slice key)
{
    struct rocks_iter *ri = TARN_CONTAINER(it, struct rocks_iter, it);

    tarn_str_reset(&ri->start);
    tarn_str_add(&ri->start, key.p, key.n);
    ri->seek = true;
}

static int rocks_iter_next(struct tarn_kv_iter *it)
{
    struct rocks_iter *ri = TARN_CONTAINER(it, struct rocks_iter, it);
    char *text = NULL;

    if (!ri->ri)
        return -TARN_E_KV_NO_SPACE;
    if (ri->seek)
        rocksdb_iter_seek(ri->ri, ri->start.p, ri->start.len);
    else
        rocksdb_iter_next(ri->ri);
    ri->seek = false;
    if (rocksdb_iter_valid(ri->ri)) {
        it->key.p = rocksdb_iter_key(ri->ri, &it->key.n);
        it->value.p = rocksdb_iter_value(ri->ri, &it->value.n);
        return 1;
    }
    rocksdb_iter_get_error(ri->ri, &text);
    return rocks_error(TARN_CONTAINER(it->kv, struct rocks, kv), text, false, NULL);
}

/* Proves that the log takes a record: a synced batch without operations. */
static int rocks_probe(struct rocks *r, struct tarn_errbuf *err)
{
    rocksdb_writebatch_t *empty = rocksdb_writebatch_create();
    char *text = NULL;

    rocksdb_write(r->db, r->write_synced, empty, &text);
    rocksdb_writebatch_destroy(empty);
    return rocks_error(r, text, true, err);
}

static int rocks_reopen(struct tarn_kv *kv, struct tarn_errbuf *err)
{
    struct rocks *r = TARN_CONTAINER(kv, struct rocks, kv);
    int rc;

    rocks_close_db(r);
    rocks_ballast_drop(r);
    rc = rocks_open_db(r, err);
    if (rc < 0)
        return rc;
    rc = rocks_probe(r, err);
    rocks_ballast_keep(r);
    return rc;
}

static uint64_t rocks_disk_bytes(struct tarn_kv *kv)
{
    struct rocks *r = TARN_CONTAINER(kv, struct rocks, kv);
    DIR *d = opendir(r->path);
    uint64_t sum = 0;
    struct dirent *e;
    struct stat st;

    if (!d)
        return 0;
    while ((e = readdir(d)) != NULL)
        if (fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode))
            sum += (uint64_t)st.st_blocks * 512;
    (void)closedir(d); /* only read */
    return sum;
}

static const struct kv_ops rocks_ops = {
    .close = rocks_close,
    .get = rocks_get,
    .batch_new = rocks_batch_new,
    .batch_free = rocks_batch_free,
    .batch_put = rocks_batch_put,
    .batch_delete = rocks_batch_delete,
    .batch_get = rocks_batch_get,
    .write = rocks_write,
    .iter_new = rocks_iter_new,
    .iter_free = rocks_iter_free,
    .iter_seek = rocks_iter_seek,
    .iter_next = rocks_iter_next,
    .reopen = rocks_reopen,
    .disk_bytes = rocks_disk_bytes,
};

int tarn_kv_rocksdb_open(const struct tarn_kv_args *args, struct tarn_errbuf *err,
                         struct tarn_kv **ret_kv)
{
    struct rocks *r;
    char *path;
    int rc;

    TARN_ASSERT(args->cf_count >= 1 && args->cf_count <= TARN_KV_CF_MAX);
    TARN_ASSERT(strcmp(args->cfs[0], "default") == 0);
    rc = rocks_dir_prepare(args, err);
    if (rc < 0)
        return rc;
    path = realpath(args->path, NULL);
    if (!path)
        return tarn_err_set(err, -errno, "%s: %s", args->path, tarn_strerror(errno));
    r = tarn_xnew(struct rocks);
    kv_init(&r->kv, &rocks_ops, args->cf_count);
    r->path = path;
    for (unsigned i = 0; i < args->cf_count; i++)
        r->cf_names[i] = tarn_xstrdup(args->cfs[i]);
    rocks_options(r, args);
    rc = rocks_open_db(r, err);
    if (rc < 0) {
        rocks_free(r);
        return rc;
    }
    rocksdb_options_set_create_if_missing(r->options, 0); /* a reopen finds it or fails */
    rocks_ballast_keep(r);
    *ret_kv = &r->kv;
    return 0;
}
