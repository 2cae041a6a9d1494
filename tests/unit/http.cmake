# SPDX-License-Identifier: Apache-2.0
tarn_unit_test(test_http
  SOURCES ${CMAKE_CURRENT_LIST_DIR}/lib/http/test_http.c
  DEPS tarn_http tarn_stat tarn_base)
