# SPDX-License-Identifier: Apache-2.0
foreach(t test_tier test_tier_damage test_tier_dir test_tier_evict test_tier_faults test_tier_format test_tier_lend test_tier_life
          test_tier_quota test_tier_threads)
  tarn_unit_test(${t}
    SOURCES ${CMAKE_CURRENT_LIST_DIR}/store/tier/${t}.c ${CMAKE_CURRENT_LIST_DIR}/store/tier/rig.c
            ${CMAKE_CURRENT_LIST_DIR}/turns.c
    DEPS tarn_tier TIMEOUT 180 COST 20 BUSY)
endforeach()
