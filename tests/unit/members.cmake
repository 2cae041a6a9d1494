# SPDX-License-Identifier: Apache-2.0
set(members_dir ${CMAKE_CURRENT_LIST_DIR}/master/members)
foreach(name members members_model members_tcp)
  tarn_unit_test(test_${name}
    SOURCES ${members_dir}/test_${name}.c ${members_dir}/mbx.c
    DEPS tarn_master tarn_client tarn_rpc tarn_kv tarn_base
    TIMEOUT 180)
endforeach()
