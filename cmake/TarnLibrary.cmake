# SPDX-License-Identifier: Apache-2.0
# tarn_library(NAME SOURCES ... [DEPS ...] [PRIVATE_DEPS ...])
# One folder is one static library. DEPS are the folders (and packages) it may use: the linker sees
# nothing else. Includes are relative to the root, so that each file shows its edges.
function(tarn_library NAME)
  cmake_parse_arguments(A "" "" "SOURCES;DEPS;PRIVATE_DEPS" ${ARGN})
  add_library(${NAME} STATIC ${A_SOURCES})
  target_include_directories(${NAME} PUBLIC ${CMAKE_SOURCE_DIR})
  # System: the initialisers that protobuf-c generates drop const.
  target_include_directories(${NAME} SYSTEM PUBLIC ${CMAKE_BINARY_DIR}/gen)
  target_link_libraries(${NAME} PUBLIC ${A_DEPS} PRIVATE ${A_PRIVATE_DEPS} Threads::Threads)
endfunction()

# tarn_unit_test(NAME SOURCES ... DEPS ... [TIMEOUT s] [COST s] [BUSY]): one cmocka program, run by
# ctest, which starts those of the greatest cost first. BUSY: it computes more than it waits, so that
# under ThreadSanitizer, where that takes long, it is not to share its processor with another.
function(tarn_unit_test NAME)
  cmake_parse_arguments(A "BUSY" "TIMEOUT;COST" "SOURCES;DEPS" ${ARGN})
  add_executable(${NAME} ${A_SOURCES} ${CMAKE_SOURCE_DIR}/tests/unit/tsan.c)
  target_include_directories(${NAME} PRIVATE ${CMAKE_SOURCE_DIR})
  target_include_directories(${NAME} SYSTEM PRIVATE ${CMAKE_BINARY_DIR}/gen)
  target_link_libraries(${NAME} PRIVATE ${A_DEPS} PkgConfig::CMOCKA Threads::Threads)
  add_test(NAME ${NAME} COMMAND ${NAME} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  if(NOT A_TIMEOUT)
    set(A_TIMEOUT 120)
  endif()
  set_tests_properties(${NAME} PROPERTIES TIMEOUT ${A_TIMEOUT})
  if(A_COST)
    set_tests_properties(${NAME} PROPERTIES COST ${A_COST})
  endif()
  if(A_BUSY AND TARN_SANITIZE MATCHES thread)
    set_tests_properties(${NAME} PROPERTIES PROCESSORS 2) # of two for each: tools/run-tests
  endif()
endfunction()
