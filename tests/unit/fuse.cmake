# SPDX-License-Identifier: Apache-2.0
set(fuse_dir ${CMAKE_CURRENT_LIST_DIR}/fuse)
tarn_unit_test(test_fuse
  SOURCES ${fuse_dir}/test_fuse.c ${fuse_dir}/test_nodes.c ${fuse_dir}/test_dirpage.c
          ${fuse_dir}/test_mountpoint.c ${fuse_dir}/test_mounts.c
  DEPS tarn_fuse tarn_client tarn_base)
