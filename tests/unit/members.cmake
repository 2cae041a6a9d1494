# SPDX-License-Identifier: Apache-2.0
set(members_dir ${CMAKE_CURRENT_LIST_DIR}/master/members)
foreach(name members members_model members_tcp)
  tarn_unit_test(test_${name}
    SOURCES ${members_dir}/test_${name}.c ${members_dir}/mbx.c
    DEPS tarn_master tarn_client tarn_rpc tarn_kv tarn_base
    TIMEOUT 180 COST 15 BUSY)
endforeach()
# With real workers, as soon as the tree has the member's side.
if(EXISTS ${CMAKE_SOURCE_DIR}/tests/unit/worker/cluster_rig.c)
  tarn_unit_test(test_members_workers
    SOURCES ${members_dir}/test_members_workers.c worker/cluster_rig.c worker/worker_rig.c turns.c ufs/fixture.c ufs/server.c
    DEPS tarn_master tarn_worker tarn_client tarn_tier tarn_ufs tarn_rpc tarn_disk tarn_base
    TIMEOUT 120 COST 8 BUSY)
endif()
