/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The quota is a promise: on ext4, xfs and tmpfs, while twice the quota is stored by many requests
 * at a time, what the directory takes is looked at all the time. Also real full disks, and bytes
 * that rot below the page cache. Needs root for mounts; without it these tests are skipped, but for
 * the one on the file system at hand.
 */
#include "tests/unit/store/tier/rig.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "lib/base/log.h"

#define QUOTA   (48 * MIB)
#define STREAMS 6u

struct mounted {
    struct rig rig;
    char base[128]; /* a directory with the image and the mountpoint */
    char mnt[160];
};

/* Makes and mounts a file system of `mib`; false where that is not allowed. */
static bool mount_new(struct mounted *m, const char *fs, unsigned mib)
{
    const char *tmp = getenv("TMPDIR");

    (void)snprintf(m->base, sizeof(m->base), "%s/tarn-tier-fs-XXXXXX", tmp ? tmp : "/tmp");
    assert_non_null(mkdtemp(m->base));
    (void)snprintf(m->mnt, sizeof(m->mnt), "%s/mnt", m->base);
    if (geteuid() == 0 && strcmp(fs, "tmpfs") == 0 &&
        rig_shell("mkdir '%s' && mount -t tmpfs -o size=%um none '%s' 2>/dev/null", m->mnt, mib,
                  m->mnt) == 0)
        return true;
    if (geteuid() == 0 && strcmp(fs, "tmpfs") != 0 &&
        rig_shell(
            "mkdir '%s' && truncate -s %uM '%s/img' && mkfs.%s -q %s '%s/img' >/dev/null 2>&1 && "
            "mount -o loop '%s/img' '%s' 2>/dev/null",
            m->mnt, mib, m->base, fs, strcmp(fs, "ext4") == 0 ? "-F" : "", m->base, m->base,
            m->mnt) == 0)
        return true;
    (void)rig_shell("rm -rf '%s'", m->base);
    m->base[0] = '\0';
    return false;
}

static void mount_end(struct mounted *m)
{
    rig_fini(&m->rig);
    assert_int_equal(rig_shell("umount '%s' && rm -rf '%s'", m->mnt, m->base), 0);
    m->base[0] = '\0';
}

static int set_up(void **state)
{
    *state = calloc(1, sizeof(struct mounted));
    return *state ? 0 : -1;
}

/* A test that failed leaves its file system mounted. */
static int tear_down(void **state)
{
    struct mounted *m = *state;

    if (m->base[0])
        (void)rig_shell("umount -l '%s'; rm -rf '%s'", m->mnt, m->base);
    free(m);
    return 0;
}

/* ---- twice the quota -------------------------------------------------------------------- */

/* Stores file after file, one request at a time; several of them run at once. */
struct stream {
    struct tarn_tier_op op;
    struct crowd *crowd;
    unsigned nr;     /* of the file */
    uint32_t group;  /* being stored */
    uint64_t length; /* of the file */
};

struct crowd {
    struct rig *r;
    struct stream streams[STREAMS];
    unsigned next_nr, active, full;
    uint64_t stored, goal;
};

static void stream_next(struct stream *s);

static uint64_t stream_bytes(const struct stream *s)
{
    return TARN_MIN(s->length - s->group * (uint64_t)TARN_UNIT_BYTES, TARN_UNIT_BYTES);
}

static void stream_file_done(struct stream *s)
{
    tarn_tier_file_put(&s->op.file);
    stream_next(s);
}

static void stream_stored(struct tarn_tier_op *op, int rc)
{
    struct stream *s = op->arg;

    assert_int_equal(rc, 0);
    s->crowd->stored += op->buf->len;
    tarn_buf_unref(&op->buf);
    stream_file_done(s);
}

static void stream_reserved(struct tarn_tier_op *op, int rc)
{
    struct stream *s = op->arg;

    if (rc < 0) {
        assert_int_equal(rc, -TARN_E_TIER_FULL);
        s->crowd->full++;
        s->crowd->stored += 4 * KIB; /* so that it ends */
        stream_file_done(s);
        return;
    }
    op->buf = tarn_buf_new(op->reserved_bytes);
    assert_non_null(op->buf);
    op->buf->len = op->reserved_bytes;
    rig_bytes(s->nr, s->group * (uint64_t)TARN_UNIT_BYTES, op->buf->p, op->buf->len);
    op->cb = stream_stored;
    tarn_tier_store(s->crowd->r->tier, op);
}

/* Small files, big ones, and groups out of the middle of big ones. */
static void stream_next(struct stream *s)
{
    static const uint64_t lengths[] = {100,     4 * KIB,     70 * KIB, 900 * KIB,
                                       4 * MIB, 9 * MIB + 5, 40 * MIB};
    struct crowd *c = s->crowd;

    if (c->stored >= c->goal) {
        if (--c->active == 0)
            tarn_loop_stop(c->r->loop);
        return;
    }
    s->nr = c->next_nr++;
    s->length = lengths[s->nr % TARN_ARRAY_LEN(lengths)];
    s->group = (uint32_t)(s->nr % ((s->length - 1) / TARN_UNIT_BYTES + 1));
    s->op = (struct tarn_tier_op){
        .file = rig_file(c->r, s->nr, s->length), .group = s->group, .arg = s};
    s->op.reserved_bytes = stream_bytes(s);
    s->op.cb = stream_reserved;
    tarn_tier_reserve(c->r->tier, &s->op);
}

static unsigned crowd_run(struct rig *r, uint64_t goal)
{
    struct crowd c = {.r = r, .active = STREAMS, .goal = goal};

    for (unsigned i = 0; i < STREAMS; i++) {
        c.streams[i].crowd = &c;
        stream_next(&c.streams[i]);
    }
    tarn_loop_run(r->loop);
    return c.full;
}

/* ---- who watches ------------------------------------------------------------------------ */

struct watch {
    const char *path; /* the tier, or the mount */
    uint64_t base;    /* taken before it began */
    uint64_t most;    /* seen */
    unsigned looks;
    _Atomic bool stop;
};

static uint64_t fs_used(const char *path)
{
    struct statvfs v;

    assert_int_equal(statvfs(path, &v), 0);
    return (uint64_t)(v.f_blocks - v.f_bfree) * v.f_frsize;
}

/* One call says it for the whole file system: no race with what goes on. */
static void *watch_fs(void *arg)
{
    struct watch *w = arg;

    while (!atomic_load(&w->stop)) {
        uint64_t used = fs_used(w->path);

        w->most = TARN_MAX(w->most, used > w->base ? used - w->base : 0);
        w->looks++;
        (void)usleep(200);
    }
    return NULL;
}

static void quota_by_statvfs(struct mounted *m, const char *fs)
{
    struct tarn_tier_info info;
    struct watch w = {0};
    pthread_t thread;

    if (!mount_new(m, fs, 512))
        skip();
    w.path = m->mnt;
    w.base = fs_used(m->mnt);
    rig_init(&m->rig, 3, m->mnt);
    m->rig.args.high_bp = m->rig.args.low_bp = 10000; /* nothing goes before it must */
    rig_must_open(&m->rig, QUOTA);
    assert_int_equal(pthread_create(&thread, NULL, watch_fs, &w), 0);
    (void)crowd_run(&m->rig, 3 * QUOTA);
    sync();
    rig_settle(&m->rig);
    atomic_store(&w.stop, true);
    assert_int_equal(pthread_join(thread, NULL), 0);
    tarn_tier_info(m->rig.tier, &info);
    print_message("%s: most %llu KiB of %llu, %u looks, %llu KiB of data at the end\n", fs,
                  (unsigned long long)(w.most / KIB), (unsigned long long)(QUOTA / KIB), w.looks,
                  (unsigned long long)(info.data_bytes / KIB));
    assert_true(w.most <= QUOTA);
    assert_true(w.looks > 20);
    assert_true(info.data_bytes > QUOTA / 3); /* it caches, too */
    assert_true(info.evicted_bytes > QUOTA);
    tarn_tier_check(m->rig.tier);
    mount_end(m);
}

/* With one pool thread a walk on that thread sees the directory stand still. */
struct snapshot {
    struct tarn_disk_io io;
    struct rig *r;
    uint64_t most, most_used;
    unsigned looks;
    bool stop;
};

static void snapshot_work(struct tarn_disk_io *io)
{
    struct snapshot *s = io->arg;
    uint64_t du;

    if (s->looks % 16 == 15) /* delayed allocations are made: st_blocks may grow */
        sync();
    du = rig_du(s->r->dir);
    s->most = TARN_MAX(s->most, du);
    s->looks++;
}

static void snapshot_done(struct tarn_disk_io *io)
{
    struct snapshot *s = io->arg;

    if (s->stop)
        tarn_loop_stop(s->r->loop);
    else
        tarn_disk_submit(s->r->disk, &s->io);
}

static void quota_by_du(struct mounted *m, const char *fs)
{
    struct snapshot s = {0};

    if (fs && !mount_new(m, fs, 512))
        skip();
    rig_init(&m->rig, 1, fs ? m->mnt : NULL);
    m->rig.args.high_bp = m->rig.args.low_bp = 10000; /* nothing goes before it must */
    rig_must_open(&m->rig, QUOTA);
    s.r = &m->rig;
    s.io = (struct tarn_disk_io){.loop = m->rig.loop,
                                 .op = TARN_DISK_CALL,
                                 .work = snapshot_work,
                                 .cb = snapshot_done,
                                 .arg = &s};
    tarn_disk_submit(m->rig.disk, &s.io);
    (void)crowd_run(&m->rig, 2 * QUOTA);
    s.stop = true;
    tarn_loop_run(m->rig.loop);
    rig_settle(&m->rig);
    print_message("%s: most %llu KiB of %llu, %u looks\n", fs ? fs : "here",
                  (unsigned long long)(s.most / KIB), (unsigned long long)(QUOTA / KIB), s.looks);
    assert_in_range(s.most, QUOTA / 2, QUOTA);
    assert_true(s.looks > 20);
    tarn_tier_check(m->rig.tier);
    if (fs)
        mount_end(m);
    else
        rig_fini(&m->rig);
}

static void quota_here(void **state)
{
    quota_by_du(*state, NULL);
}

static void quota_ext4(void **state)
{
    quota_by_statvfs(*state, "ext4");
    quota_by_du(*state, "ext4");
}

static void quota_xfs(void **state)
{
    quota_by_du(*state, "xfs"); /* xfs frees unlinked blocks late, so its statvfs says too much */
}

static void quota_tmpfs(void **state)
{
    quota_by_statvfs(*state, "tmpfs");
    quota_by_du(*state, "tmpfs");
}

/* ---- full disks ------------------------------------------------------------------------- */

static void full_disk(void **state)
{
    struct mounted *m = *state;
    struct tarn_tier_info info;
    struct tarn_tier_op op = {0};
    int rc, failed = 0;

    if (!mount_new(m, "ext4", 96))
        skip();
    rig_init(&m->rig, 2, m->mnt);
    rig_must_open(&m->rig, 1024 * MIB); /* the disk, not the quota, is the limit */
    for (unsigned nr = 0; nr < 40; nr++)
        assert_int_equal(rig_fill(&m->rig, nr, 4 * MIB), 0); /* evicts when the disk is short */
    tarn_tier_info(m->rig.tier, &info);
    assert_true(info.evicted_bytes > 0);
    /* Room was reserved, then somebody else takes the disk. */
    op.file = rig_file(&m->rig, 100, 4 * MIB);
    assert_int_equal(rig_drop(&m->rig, 39, 4 * MIB), 0);
    assert_int_equal(rig_reserve(&m->rig, 4 * MIB), 0);
    (void)rig_shell("dd if=/dev/zero of='%s/fat' bs=64k status=none 2>/dev/null", m->mnt);
    for (unsigned nr = 200; nr < 260; nr++) {
        rc = rig_fill(&m->rig, nr, 100 * KIB);
        assert_true(rc == 0 || rc == -TARN_E_TIER_FULL);
        failed += rc != 0;
    }
    tarn_tier_unreserve(m->rig.tier, 4 * MIB);
    assert_int_equal(rig_shell("rm '%s/fat'", m->mnt), 0);
    rig_run_for(&m->rig, 1200 * TARN_NS_PER_MS); /* statvfs is asked again; the index tries again */
    assert_int_equal(rig_store(&m->rig, op.file, 100, 0), 0);
    assert_int_equal(rig_check(&m->rig, 100, 4 * MIB).served, 4 * MIB);
    tarn_tier_file_put(&op.file);
    for (unsigned nr = 0; nr < 260; nr++)
        assert_int_equal(rig_check(&m->rig, nr, nr < 200 ? 4 * MIB : 100 * KIB).wrong, 0);
    rig_settle(&m->rig);
    tarn_tier_check(m->rig.tier);
    tarn_tier_info(m->rig.tier, &info);
    assert_false(info.offline);
    print_message("full disk: %d of 60 stores not cached\n", failed);
    mount_end(m);
}

/* Writes fail with ENOSPC although room was promised: a quota of the file system's that statvfs
 * does not show. */
static void no_space_in_write(void **state)
{
    struct mounted *m = *state;
    struct tarn_tier_op op = {.reserved_bytes = 4 * MIB, .group = 1};
    uint64_t before;

    if (!mount_new(m, "tmpfs", 40))
        skip();
    rig_init(&m->rig, 1, m->mnt);
    rig_must_open(&m->rig, 32 * MIB);
    op.file = rig_file(&m->rig, 2, 8 * MIB);
    op.buf = tarn_buf_new(4 * MIB);
    op.buf->len = 4 * MIB;
    rig_bytes(2, 4 * MIB, op.buf->p, 4 * MIB);
    assert_int_equal(rig_fill(&m->rig, 1, 4 * MIB), 0);
    assert_int_equal(rig_store(&m->rig, op.file, 2, 0), 0);
    assert_int_equal(rig_reserve(&m->rig, 4 * MIB), 0);
    before = rig_du(m->rig.dir);
    (void)rig_shell(
        "dd if=/dev/zero of='%s/fat' bs=64k status=none 2>/dev/null; truncate -s -1M '%s/fat'",
        m->mnt, m->mnt);
    assert_int_equal(rig_submit_store(&m->rig, &op),
                     -TARN_E_TIER_FULL); /* after a part was written */
    assert_false(tarn_tier_file_has(op.file, 4 * MIB, 1));
    rig_settle(&m->rig);
    assert_true(rig_du(m->rig.dir) <= before + 64 * KIB); /* nothing of it stayed */
    tarn_tier_check(m->rig.tier);
    assert_int_equal(rig_check(&m->rig, 1, 4 * MIB).served, 4 * MIB);
    assert_int_equal(rig_check(&m->rig, 2, 8 * MIB).served, 4 * MIB);
    assert_int_equal(rig_shell("rm '%s/fat'", m->mnt), 0);
    rig_run_for(&m->rig, 1200 * TARN_NS_PER_MS);
    assert_int_equal(rig_reserve(&m->rig, 4 * MIB), 0);
    assert_int_equal(rig_submit_store(&m->rig, &op), 0);
    assert_int_equal(rig_check(&m->rig, 2, 8 * MIB).served, 8 * MIB);
    tarn_tier_file_put(&op.file);
    tarn_buf_unref(&op.buf);
    mount_end(m);
}

/* ---- rot below the page cache ----------------------------------------------------------- */

/* Finds `n` bytes in the image; a fresh file system, so the first match is the file's. */
static int64_t image_find(const char *path, const void *what, size_t n)
{
    int fd = open(path, O_RDONLY);
    uint8_t *p = malloc(MIB + 4096);
    int64_t found = -1;
    ssize_t got;

    assert_true(fd >= 0 && p);
    for (off_t off = 0; found < 0 && (got = pread(fd, p, MIB + 4096, off)) > 0; off += (off_t)MIB) {
        const uint8_t *at = memmem(p, (size_t)got, what, n);

        found = at ? off + (at - p) : -1;
    }
    free(p);
    (void)close(fd);
    return found;
}

static void medium_rot(struct mounted *m, const char *fs)
{
    struct tarn_tier_file *f;
    uint8_t want[64], byte;
    uint64_t good = 0;
    char image[160];
    int64_t at;
    int fd;

    if (!mount_new(m, fs, 512))
        skip();
    rig_init(&m->rig, 2, m->mnt);
    rig_must_open(&m->rig, 128 * MIB);
    assert_int_equal(rig_fill(&m->rig, 1, 4 * MIB - 777), 0);
    f = rig_file(&m->rig, 1, 4 * MIB - 777);
    assert_int_equal(rig_load(&m->rig, f, 0, true, &good), 0); /* all is well */
    assert_int_equal(good, ~0ull);
    sync();
    (void)snprintf(image, sizeof(image), "%s/img", m->base);
    rig_bytes(1, 5 * TARN_GRANULE_BYTES, want, sizeof(want));
    at = image_find(image, want, sizeof(want));
    assert_true(at > 0);
    fd = open(image, O_RDWR);
    byte = (uint8_t)(want[3] ^ 0x10);
    assert_int_equal(pwrite(fd, &byte, 1, at + 3), 1);
    assert_int_equal(close(fd), 0);
    assert_int_equal(rig_load(&m->rig, f, 0, false, &good),
                     0); /* known to be good since the start */
    assert_int_equal(good, ~0ull);
    assert_int_equal(rig_load(&m->rig, f, 0, true, &good), 0);
    assert_int_equal(good, ~0ull & ~(1ull << 5));
    assert_false(tarn_tier_file_has(f, 5 * TARN_GRANULE_BYTES, 1));
    tarn_tier_file_put(&f);
    rig_settle(&m->rig);
    tarn_tier_check(m->rig.tier);
    mount_end(m);
}

static void medium_rot_ext4(void **state)
{
    medium_rot(*state, "ext4");
}

static void medium_rot_xfs(void **state)
{
    medium_rot(*state, "xfs");
}

#define TIER_TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TIER_TEST(quota_here),      TIER_TEST(quota_ext4),     TIER_TEST(quota_xfs),
        TIER_TEST(quota_tmpfs),     TIER_TEST(full_disk),      TIER_TEST(no_space_in_write),
        TIER_TEST(medium_rot_ext4), TIER_TEST(medium_rot_xfs),
    };

    tarn_log_set_level(TARN_LOG_ERROR);
    return cmocka_run_group_tests_name("tier_quota", tests, NULL, NULL);
}
