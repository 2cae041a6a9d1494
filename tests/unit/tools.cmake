# SPDX-License-Identifier: Apache-2.0
set(tools_dir ${CMAKE_CURRENT_LIST_DIR}/tools)
foreach(name dir_format load_list progress tier_spec)
  tarn_unit_test(test_${name}
    SOURCES ${tools_dir}/test_${name}.c
    DEPS tarn_cli tarn_base)
endforeach()
