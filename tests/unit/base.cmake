# SPDX-License-Identifier: Apache-2.0
set(base_dir ${CMAKE_CURRENT_LIST_DIR}/lib/base)
tarn_unit_test(test_base
  SOURCES ${base_dir}/test_base.c ${base_dir}/test_err.c ${base_dir}/test_units.c
          ${base_dir}/test_text.c ${base_dir}/test_containers.c ${base_dir}/test_hash.c
          ${base_dir}/test_env.c ${base_dir}/test_mtx.c ${base_dir}/test_fault.c
          ${base_dir}/test_log.c ${base_dir}/test_rendezvous.c
  DEPS tarn_base)
