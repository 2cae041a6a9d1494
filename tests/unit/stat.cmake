# SPDX-License-Identifier: Apache-2.0
tarn_unit_test(test_stat
  SOURCES ${CMAKE_CURRENT_LIST_DIR}/lib/stat/test_stat.c
  DEPS tarn_stat tarn_base)
