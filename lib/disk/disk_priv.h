/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lib/disk/disk_priv.h — the vtable, and the system calls that both implementations make.
 */
#pragma once

#include "lib/disk/disk.h"

#define TARN_DISK_MAGIC 0x6469736bu

struct tarn_disk_ops {
    void (*submit)(struct tarn_disk *d, struct tarn_disk_io *io); /* any thread */
    void (*free)(struct tarn_disk *d);
};

/* The head of both implementations. Immutable after init. */
struct tarn_disk {
    uint32_t magic;                  /* TARN_DISK_MAGIC */
    const struct tarn_disk_ops *ops; /* the implementation */
};

/* Does what `io` asks for, blocking, and sets io->rc. */
void tarn_disk_do(struct tarn_disk_io *io);
/* Runs io's callback on its loop. */
void tarn_disk_complete(struct tarn_disk_io *io);
