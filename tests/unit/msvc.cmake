# SPDX-License-Identifier: Apache-2.0
set(msvc_dir ${CMAKE_CURRENT_LIST_DIR}/master/svc)
foreach(name names listing reports sessions stop told attach)
  tarn_unit_test(test_msvc_${name}
    SOURCES ${msvc_dir}/test_${name}.c ${msvc_dir}/msvc_fixture.c ufs/fixture.c ufs/server.c
    DEPS tarn_master tarn_rpc tarn_kv tarn_ufs tarn_disk tarn_base)
endforeach()
foreach(name sessions told)
  target_sources(test_msvc_${name} PRIVATE ${msvc_dir}/peers.c)
endforeach()
