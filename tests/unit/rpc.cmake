# SPDX-License-Identifier: Apache-2.0
set(rpc_dir ${CMAKE_CURRENT_LIST_DIR}/lib/rpc)
tarn_unit_test(test_rpc_cap
  SOURCES ${rpc_dir}/test_cap.c
  DEPS tarn_rpc tarn_base)
foreach(name calls retry peer server faults uv)
  tarn_unit_test(test_rpc_${name}
    SOURCES ${rpc_dir}/test_${name}.c ${rpc_dir}/rpc_fixture.c ${rpc_dir}/raw_peer.c
    DEPS tarn_rpc tarn_base)
endforeach()
