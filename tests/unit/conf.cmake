# SPDX-License-Identifier: Apache-2.0
set(conf_dir ${CMAKE_CURRENT_LIST_DIR}/lib/conf)
foreach(name conf conf_file flags)
  tarn_unit_test(test_${name}
    SOURCES ${conf_dir}/test_${name}.c ${conf_dir}/conf_fixture.c
    DEPS tarn_conf tarn_base)
endforeach()
