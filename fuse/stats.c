/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How long the kernel's requests take. A request is timed from the moment its thread has it: to the
 * end of its handling when it was answered there, else to the reply on the loop.
 */
#include <linux/fuse.h>

#include "fuse/fuse_priv.h"
#include "lib/stat/stat.h"

enum fuse_stat {
#define TARN_STAT(kind, name, labels, unit, help) FUSE_STAT_##name,
#include "fuse/fuse_stats.def"
#undef TARN_STAT
};

static const struct tarn_stat_row fuse_stat_rows[] = {
#define TARN_STAT TARN_STAT_ROW
#include "fuse/fuse_stats.def"
#undef TARN_STAT
};
static const struct tarn_stat_table fuse_stat_table = TARN_STAT_TABLE("A mount", fuse_stat_rows);

/* Places in the label's list. */
enum {
    OP_LOOKUP,
    OP_GETATTR,
    OP_OPEN,
    OP_READ,
    OP_RELEASE,
    OP_OPENDIR,
    OP_READDIR,
    OP_FORGET,
    OP_STATFS,
    OP_XATTR,
    OP_OTHER
};

unsigned fstats_op(const void *request)
{
    const struct fuse_in_header *in = request;

    switch (in->opcode) {
    case FUSE_LOOKUP:
        return OP_LOOKUP;
    case FUSE_GETATTR:
        return OP_GETATTR;
    case FUSE_OPEN:
        return OP_OPEN;
    case FUSE_READ:
        return OP_READ;
    case FUSE_RELEASE:
        return OP_RELEASE;
    case FUSE_OPENDIR:
        return OP_OPENDIR;
    case FUSE_READDIR:
    case FUSE_READDIRPLUS:
        return OP_READDIR;
    case FUSE_FORGET:
    case FUSE_BATCH_FORGET:
        return OP_FORGET;
    case FUSE_STATFS:
        return OP_STATFS;
    case FUSE_GETXATTR:
    case FUSE_LISTXATTR:
        return OP_XATTR;
    default:
        return OP_OTHER;
    }
}

struct tarn_stats *fstats_new(void)
{
    return tarn_stats_new(&fuse_stat_table, "");
}

void fstats_took(struct tarn_fuse *f, unsigned op, uint64_t ns)
{
    tarn_stats_observe_ns(f->stats, FUSE_STAT_fuse_op_seconds, op, ns);
}

void fstats_opened(struct tarn_fuse *f, bool passthrough)
{
    tarn_stats_add(f->stats, FUSE_STAT_fuse_opens, passthrough, 1);
}

struct tarn_stats *tarn_fuse_stats(struct tarn_fuse *f)
{
    return f->stats;
}
