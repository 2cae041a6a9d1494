/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files that are lent out: read by somebody whose reads we do not see (the kernel, which reads the
 * cache file itself under FUSE passthrough; it may keep pages mapped after everybody has closed).
 *
 * A hole that is punched below such a reader would read as zeros. So what was lent once goes only
 * as a whole, by unlink, which leaves the bytes to those who have them: evict, drop and the repair
 * of a bad granule ask tarn_tier_lent(). The evictor passes over files that are lent just now,
 * since unlinking them would free nothing. The walk after a start looks only once before it
 * punches, so until it is done only files of one group are lent, in which it never does.
 *
 * Such a reader may outlive this process: the kernel goes on reading for who has the file open when
 * the mount ends, or dies. So the inode is marked (TIER_MODE_LENT) before its descriptor goes out,
 * and what opens or counts the file after the next start knows it again.
 *
 * A loan is of the inode and not of the file: when the name goes while it is out, its bytes count
 * as used until it comes back.
 */
#include "store/tier/tier_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/assert.h"
#include "lib/base/fault.h"
#include "lib/base/mem.h"

/* One per inode that was ever lent. Lock: tier.acct_mtx */
struct tarn_tier_loan {
    struct tarn_tier *tier;
    uint32_t out;   /* borrowers */
    bool bad;       /* it has a bad granule; the file is about to be unlinked, or was */
    bool unlinked;  /* the file has another inode by now, or none */
    uint64_t bytes; /* what it takes, once unlinked */
};

enum tier_lent tarn_tier_lent(struct tarn_tier_file *f)
{
    TARN_GUARD(&f->tier->acct_mtx);
    if (!f->loan)
        return TIER_LENT_NEVER;
    return f->loan->out ? TIER_LENT_NOW : TIER_LENT_BEFORE;
}

static void loan_make_locked(struct tarn_tier_file *f)
{
    tarn_mtx_assert_held(&f->tier->acct_mtx);
    if (f->loan)
        return;
    f->loan = tarn_xnew(struct tarn_tier_loan);
    f->loan->tier = f->tier;
}

static struct tarn_tier_loan *loan_take(struct tarn_tier_file *f)
{
    TARN_GUARD(&f->tier->acct_mtx);
    loan_make_locked(f);
    f->loan->out++;
    return f->loan;
}

void tarn_tier_lend_seen(struct tarn_tier_file *f, const struct stat *st)
{
    if (!(st->st_mode & TIER_MODE_LENT))
        return;
    TARN_GUARD(&f->tier->acct_mtx);
    loan_make_locked(f);
}

/* A descriptor of its own, for reading: a file system that has shut down refuses it. */
static int loan_open(struct tarn_tier_file *f)
{
    int fd = tarn_tier_file_open(f), lent;
    char name[32];
    struct stat st;

    if (fd < 0)
        return fd;
    (void)snprintf(name, sizeof(name), "/proc/self/fd/%d", fd); /* fits */
    lent = TARN_FAULT(disk_open);
    if (lent == 0)
        lent = open(name, O_RDONLY | O_CLOEXEC);
    if (lent == -1) /* the file is there, whatever its names are: it is /proc that is not */
        return errno == ENOENT ? -TARN_E_NOT_CACHED : -errno;
    if (lent >= 0 && (fstat(lent, &st) < 0 || (uint64_t)st.st_size != f->length)) {
        (void)close(lent); /* only opened */
        return -TARN_E_INDEX_CORRUPT;
    }
    if (lent >= 0 && !(st.st_mode & TIER_MODE_LENT) && fchmod(lent, 0600 | TIER_MODE_LENT) < 0) {
        int rc = -errno;

        (void)close(lent); /* only opened */
        return rc;
    }
    return lent;
}

static void pin_all(struct tarn_tier_file *f, bool pin)
{
    struct tier_group *g;

    for (uint64_t i = 0; (g = tarn_tier_group_next(f, &i)) != NULL; i++) {
        if (pin)
            tarn_tier_group_pin(g);
        else
            tarn_tier_group_unpin(f->tier, g);
    }
}

int tarn_tier_lend(struct tarn_tier_file *f, struct tarn_tier_loan **ret_loan)
{
    int fd = -TARN_E_NOT_CACHED;

    if (tarn_tier_offline(f->tier))
        return -TARN_E_TIER_OFFLINE;
    if (f->length == 0 || !tarn_tier_file_verified(f, 0, f->length))
        return -TARN_E_NOT_CACHED;
    if (tarn_tier_groups(f->length) > 1 && atomic_load(&f->tier->walking))
        return -TARN_E_NOT_CACHED;
    pin_all(f,
            true); /* every group exists; a removal that begins now waits, and then sees the loan */
    if (tarn_tier_file_verified(f, 0, f->length))
        fd = loan_open(f);
    if (fd >= 0)
        *ret_loan = loan_take(f);
    pin_all(f, false);
    if (fd < 0 && fd != -TARN_E_NOT_CACHED) {
        (void)tarn_tier_note(f->tier, fd); /* the report follows for any failure */
        tarn_tier_report(f, 0, fd);
    }
    return fd;
}

void tarn_tier_lend_bad(struct tarn_tier_file *f)
{
    TARN_GUARD(&f->tier->acct_mtx);
    if (f->loan)
        f->loan->bad = true;
}

bool tarn_tier_loan_bad(struct tarn_tier_loan *loan)
{
    TARN_GUARD(&loan->tier->acct_mtx);
    return loan->bad;
}

void tarn_tier_give_back(struct tarn_tier_file *f, struct tarn_tier_loan **ploan)
{
    struct tarn_tier_loan *loan = *ploan;
    struct tarn_tier *t = f->tier;
    struct tier_group *g;

    *ploan = NULL;
    for (uint64_t i = 0; (g = tarn_tier_group_next(f, &i)) != NULL; i++)
        if (atomic_load(&g->present))
            tarn_tier_group_touch(t, g);
    TARN_GUARD(&t->acct_mtx);
    TARN_ASSERT(loan->tier == t && loan->out > 0);
    if (--loan->out > 0 || !loan->unlinked)
        return;
    atomic_fetch_sub(&t->lent_bytes, loan->bytes);
    atomic_fetch_add(&t->fs_delta, -(int64_t)loan->bytes);
    free(loan);
}

void tarn_tier_lend_unlinked(struct tarn_tier_file *f)
{
    struct tarn_tier *t = f->tier;
    struct tarn_tier_loan *loan;
    TARN_GUARD(&t->acct_mtx);

    loan = f->loan;
    f->loan = NULL;
    if (!loan)
        return;
    if (loan->out == 0) {
        free(loan);
        return;
    }
    loan->unlinked = true;
    loan->bytes = f->disk_bytes;
    atomic_fetch_add(&t->lent_bytes, loan->bytes);
    atomic_fetch_add(&t->fs_delta, (int64_t)loan->bytes); /* the file's will be taken off */
}
