/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tools/mount_record.h — which process serves a mountpoint: a file PID.mount beside the token
 * files, written by each mount and read by `tarn umount`.
 */
#pragma once

struct tarn_str;

/* Where it cannot be written `tarn umount` only does not wait: that is logged. ret_path: the file,
 * to be removed at the end; "" where there is none. */
void mount_record_write(const char *mountpoint, struct tarn_str *ret_path);
/* A descriptor (pidfd_open(2)) of the process that serves `mountpoint`, canonical; -1: not known.
 */
int mount_record_open(const char *mountpoint);
