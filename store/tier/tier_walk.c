/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The walk after a start: compares data/ with the index, one of its 256 directories per step on the
 * pool.
 *
 * Files without a record are unlinked, records without a file (or with one of another length) are
 * dropped, and every file is counted by what it takes. Until it is done no reservation is granted,
 * hence nothing is written and no file made: so a name that the index did not know is nobody's.
 * Reads and loads go on; nothing that may have holes punched is lent. A crash between a record's
 * deletion and the punching of its hole leaves blocks that belong to no group: a file that takes
 * more than its records say has its other groups punched, unless it was ever lent: then it goes
 * altogether.
 */
#include "store/tier/tier_priv.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/assert.h"
#include "lib/base/log.h"
#include "lib/base/mem.h"

/* The known file of that name, referenced; NULL: nobody's. */
static struct tarn_tier_file *walk_find(struct tarn_tier *t, const char *name)
{
    struct tarn_tier_file *f;
    tarn_cid_t cid;

    if (tarn_cid_parse(name, &cid) < 0 || cid.b[0] != t->walk_bucket)
        return NULL;
    f = tarn_tier_file_find(t, &cid);
    if (f && !atomic_load(&f->on_disk))
        tarn_tier_file_put(&f);
    return f;
}

/* Frees the blocks of groups that are not present. */
static void walk_punch(struct tarn_tier_file *f, int dir_fd, const char *name)
{
    TARN_AUTO_FD int fd = openat(dir_fd, name, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
    uint64_t groups = tarn_tier_groups(f->length), next = 0;

    if (fd < 0)
        return;
    for (uint64_t i = 0; next < groups; i++) {
        struct tier_group *g = tarn_tier_group_next(f, &i);
        uint64_t end = g ? i : groups;

        if (g && atomic_load(&g->present) == 0 && (atomic_load(&g->pins) & ~TIER_PIN_WANT) == 0)
            continue; /* in this order: a reader pins first, then looks whether it is present */
        if (end > next &&
            fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                      (off_t)(next * TARN_UNIT_BYTES), (off_t)((end - next) * TARN_UNIT_BYTES)) < 0)
            return; /* they stay counted */
        next = end + 1;
    }
    tarn_tier_account(f, fd);
}

/* Counts a file; an eviction may have unlinked it meanwhile, then it takes nothing (see
 * removal_end). */
static void walk_count(struct tarn_tier_file *f, int dir_fd, const char *name,
                       const struct stat *st)
{
    uint64_t cached = tarn_tier_disk_bytes(atomic_load(&f->cached));

    tarn_tier_account_stat(f, st);
    if (tarn_tier_groups(f->length) > 1 &&
        (uint64_t)st->st_blocks * 512 > cached + TARN_GRANULE_BYTES) {
        if (tarn_tier_lent(f))
            atomic_store(&f->seen, false); /* it goes as a whole */
        else
            walk_punch(f, dir_fd, name);
    }
    if (!atomic_load(&f->on_disk))
        tarn_tier_account_bytes(f, 0);
}

static void walk_file(struct tarn_tier *t, int dir_fd, const char *name)
{
    struct tarn_tier_file *f = walk_find(t, name);
    struct stat st;

    if (!f) {
        (void)unlinkat(dir_fd, name,
                       0); /* a directory is not ours to judge; the next start tries again */
        return;
    }
    if (fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode) &&
        (uint64_t)st.st_size == f->length) {
        tarn_tier_lend_seen(f, &st);
        atomic_store(&f->seen, true);
        walk_count(f, dir_fd, name, &st);
    }
    tarn_tier_file_put(&f);
}

static void walk_work(struct tarn_tier_op *op)
{
    struct tarn_tier *t = op->tier;
    char name[3] = {"0123456789abcdef"[t->walk_bucket >> 4],
                    "0123456789abcdef"[t->walk_bucket & 15], 0};
    struct dirent *e;
    DIR *dir;
    int fd;

    if (!tarn_tier_job_begin(t))
        return;
    fd = openat(t->data_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 && (errno == ENOTDIR || errno == ELOOP))
        (void)unlinkat(t->data_fd, name, 0); /* planted; mkdir would fail for ever */
    dir = fd < 0 ? NULL : fdopendir(fd);
    while (dir && (e = readdir(dir)) != NULL)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            walk_file(t, dirfd(dir), e->d_name);
    if (dir) {
        (void)closedir(dir); /* only read */
        tarn_tier_account_bucket(t, t->walk_bucket);
    }
    tarn_tier_job_end(t);
}

/* Drops the records whose files the walk did not meet. */
static void walk_lost(struct tarn_tier *t)
{
    uint64_t lost = 0;

    for (unsigned i = 0; i < TIER_SHARDS; i++) {
        struct tier_shard *s = &t->shards[i];
        struct tarn_tier_file **files;
        struct tarn_hnode *n = NULL;
        size_t slot = 0, count = 0;

        tarn_mtx_lock(&s->mtx);
        files = tarn_xcalloc(s->files.count, sizeof(struct tarn_tier_file *));
        while ((n = tarn_htab_walk(&s->files, &slot, n)) != NULL) {
            struct tarn_tier_file *f = TARN_CONTAINER(n, struct tarn_tier_file, node);

            if (f->present_n > 0 && !atomic_load(&f->seen))
                files[count++] = f; /* alive: only the loop takes presence away */
        }
        tarn_mtx_unlock(&s->mtx);
        lost += count;
        for (size_t k = 0; k < count; k++)
            tarn_tier_lose_file(files[k]);
        free(files);
    }
    if (lost)
        tarn_warn("tier", "path=%s: %llu cached files are missing or cut; dropped", t->path,
                  (unsigned long long)lost);
}

static void walk_done(struct tarn_tier_op *op)
{
    struct tarn_tier *t = op->tier;

    if (++t->walk_bucket < TIER_BUCKETS) {
        tarn_tier_submit(op, walk_work, walk_done);
        return;
    }
    tarn_tier_op_free(op);
    tarn_timer_stop(&t->walk_timer);
    walk_lost(t);
    t->walking = false;
    tarn_tier_pump(t);
}

static void walk_late(struct tarn_timer *timer, void *arg)
{
    struct tarn_tier *t = arg;

    (void)timer; /* t->walk_timer */
    t->walk_late = true;
    tarn_tier_pump(t);
}

void tarn_tier_walk_start(struct tarn_tier *t)
{
    t->walking = true;
    tarn_timer_start(t->loop, &t->walk_timer, TIER_WALK_NS, walk_late, t);
    tarn_tier_submit(tarn_tier_op_new(t, TIER_WALK, NULL, 0), walk_work, walk_done);
}
