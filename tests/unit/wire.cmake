# SPDX-License-Identifier: Apache-2.0
set(wire_dir ${CMAKE_CURRENT_LIST_DIR}/lib/wire)
tarn_unit_test(test_wire
  SOURCES ${wire_dir}/test_wire.c
  DEPS tarn_wire tarn_base)
