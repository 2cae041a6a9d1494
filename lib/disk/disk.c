/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The part of block I/O that does not depend on who runs it: checks, and the system calls with
 * their short transfers and interruptions.
 */
#include <errno.h>
#include <unistd.h>

#include "lib/base/assert.h"
#include "lib/base/fault.h"
#include "lib/disk/disk_priv.h"

static int64_t disk_read(const struct tarn_disk_io *io)
{
    uint8_t *p = io->data;
    uint32_t got = 0;
    int fault = TARN_FAULT(disk_read);

    if (fault < 0)
        return fault;
    while (got < io->len_bytes) {
        ssize_t n = pread(io->fd, p + got, io->len_bytes - got, (off_t)(io->off_bytes + got));

        if (n == 0)
            break;
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n > 0)
            got += (uint32_t)n;
    }
    return got;
}

static int64_t disk_write(const struct tarn_disk_io *io)
{
    const uint8_t *p = io->data;
    uint32_t done = 0;
    int fault = TARN_FAULT(disk_write);

    if (fault < 0)
        return fault;
    while (done < io->len_bytes) {
        ssize_t n = pwrite(io->fd, p + done, io->len_bytes - done, (off_t)(io->off_bytes + done));

        if (n == 0)
            return -EIO; /* a regular file never takes nothing */
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n > 0)
            done += (uint32_t)n;
    }
    return 0;
}

static int64_t disk_sync(const struct tarn_disk_io *io)
{
    int fault = TARN_FAULT(disk_sync);
    int rc;

    if (fault < 0)
        return fault;
    do
        rc = fdatasync(io->fd);
    while (rc < 0 && errno == EINTR);
    return rc < 0 ? -errno : 0;
}

void tarn_disk_do(struct tarn_disk_io *io)
{
    switch (io->op) {
    case TARN_DISK_READ:
        io->rc = disk_read(io);
        return;
    case TARN_DISK_WRITE:
        io->rc = disk_write(io);
        return;
    case TARN_DISK_SYNC:
        io->rc = disk_sync(io);
        return;
    case TARN_DISK_CALL:
        io->work(io);
        return;
    }
    TARN_UNREACHABLE("submit has checked the operation");
}

static void disk_tell(struct tarn_task *t)
{
    struct tarn_disk_io *io = TARN_CONTAINER(t, struct tarn_disk_io, task);

    io->cb(io);
}

void tarn_disk_complete(struct tarn_disk_io *io)
{
    tarn_loop_post(io->loop, &io->task, disk_tell);
}

void tarn_disk_submit(struct tarn_disk *d, struct tarn_disk_io *io)
{
    TARN_ASSERT(d->magic == TARN_DISK_MAGIC);
    TARN_ASSERT(io->loop && io->cb);
    TARN_ASSERT(io->op <= TARN_DISK_CALL);
    TARN_ASSERT(io->op != TARN_DISK_CALL || io->work);
    TARN_ASSERT(io->op > TARN_DISK_WRITE || io->data || io->len_bytes == 0);
    TARN_ASSERT(io->op > TARN_DISK_WRITE || io->off_bytes <= (uint64_t)INT64_MAX - io->len_bytes);
    io->rc = 0;
    d->ops->submit(d, io);
}

void tarn_disk_free(struct tarn_disk **pd)
{
    struct tarn_disk *d = *pd;

    if (!d)
        return;
    TARN_ASSERT(d->magic == TARN_DISK_MAGIC);
    *pd = NULL;
    d->ops->free(d);
}
