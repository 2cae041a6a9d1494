# SPDX-License-Identifier: Apache-2.0
set(jobs_dir ${CMAKE_CURRENT_LIST_DIR}/master/jobs)
tarn_unit_test(test_jobs_glob
  SOURCES ${jobs_dir}/test_glob.c
  DEPS tarn_master tarn_base)
foreach(name load resume list free soak)
  tarn_unit_test(test_jobs_${name}
    SOURCES ${jobs_dir}/test_${name}.c ${jobs_dir}/jobs_fixture.c
    DEPS tarn_master tarn_rpc tarn_kv tarn_ufs tarn_disk tarn_base)
endforeach()
foreach(name cluster cluster_faults cluster_soak)
  tarn_unit_test(test_jobs_${name}
    SOURCES ${jobs_dir}/test_${name}.c ${jobs_dir}/cluster_fixture.c turns.c ufs/fixture.c ufs/server.c
    DEPS tarn_master tarn_worker tarn_tier tarn_rpc tarn_kv tarn_ufs tarn_disk tarn_base COST 20)
endforeach()
