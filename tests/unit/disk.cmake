# SPDX-License-Identifier: Apache-2.0
tarn_unit_test(test_disk
  SOURCES ${CMAKE_CURRENT_LIST_DIR}/lib/disk/test_disk.c
  DEPS tarn_disk)
tarn_unit_test(test_mountinfo
  SOURCES ${CMAKE_CURRENT_LIST_DIR}/lib/disk/test_mountinfo.c
  DEPS tarn_disk)
