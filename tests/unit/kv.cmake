# SPDX-License-Identifier: Apache-2.0
set(kv_dir ${CMAKE_CURRENT_LIST_DIR}/store/kv)
tarn_unit_test(test_kv
  SOURCES ${kv_dir}/test_kv.c ${kv_dir}/kv_backend.c ${kv_dir}/test_calls.c ${kv_dir}/test_model.c
          ${kv_dir}/test_mem.c ${kv_dir}/test_rocksdb.c ${kv_dir}/test_damage.c
  DEPS tarn_kv tarn_base COST 15 BUSY)
tarn_unit_test(test_kv_space
  SOURCES ${kv_dir}/test_space.c ${kv_dir}/kv_backend.c
  DEPS tarn_kv tarn_base COST 15 BUSY)
