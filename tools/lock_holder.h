/* SPDX-License-Identifier: Apache-2.0 */
/* tools/lock_holder.h — who holds a flock(2) that could not be had; only for messages. */
#pragma once

#include <sys/types.h>

/* The process that holds a lock on the file that `fd` is, or 0 where the kernel does not tell. */
pid_t lock_holder(int fd);
