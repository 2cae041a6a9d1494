# SPDX-License-Identifier: Apache-2.0
foreach(name read faults rpc)
  tarn_unit_test(test_worker_${name}
    SOURCES worker/test_worker_${name}.c worker/worker_rig.c turns.c ufs/fixture.c ufs/server.c
    DEPS tarn_worker tarn_tier tarn_ufs tarn_rpc tarn_disk tarn_base COST 10 BUSY)
endforeach()
foreach(name peers move member stores)
  tarn_unit_test(test_worker_${name}
    SOURCES worker/test_worker_${name}.c worker/cluster_rig.c worker/worker_rig.c turns.c ufs/fixture.c ufs/server.c
    DEPS tarn_worker tarn_client tarn_tier tarn_ufs tarn_rpc tarn_disk tarn_base TIMEOUT 120 COST 10 BUSY)
endforeach()
