# SPDX-License-Identifier: Apache-2.0
set(core_dir ${CMAKE_CURRENT_LIST_DIR}/master/core)
tarn_unit_test(test_core
  SOURCES ${core_dir}/test_core.c ${core_dir}/core_fixture.c
  DEPS tarn_core tarn_kv tarn_base)
tarn_unit_test(test_core_members
  SOURCES ${core_dir}/test_core_members.c ${core_dir}/core_fixture.c
  DEPS tarn_core tarn_kv tarn_base)
tarn_unit_test(test_core_attach
  SOURCES ${core_dir}/test_core_attach.c ${core_dir}/core_fixture.c
  DEPS tarn_core tarn_kv tarn_base)
tarn_unit_test(test_core_model
  SOURCES ${core_dir}/test_core_model.c ${core_dir}/model.c ${core_dir}/model_compare.c ${core_dir}/model_gen.c
  DEPS tarn_core tarn_kv tarn_base
  TIMEOUT 300 COST 50 BUSY)
tarn_unit_test(test_journal
  SOURCES ${core_dir}/test_journal.c ${core_dir}/core_fixture.c
  DEPS tarn_core tarn_net tarn_kv tarn_base)

# Not a test: how fast directories are listed into RocksDB.
add_executable(bench_core ${core_dir}/bench_core.c)
target_include_directories(bench_core PRIVATE ${CMAKE_SOURCE_DIR} ${CMAKE_BINARY_DIR}/gen)
target_link_libraries(bench_core PRIVATE tarn_core tarn_kv tarn_base Threads::Threads)
