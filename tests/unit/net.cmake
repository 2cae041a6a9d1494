# SPDX-License-Identifier: Apache-2.0
set(net_dir ${CMAKE_CURRENT_LIST_DIR}/lib/net)
tarn_unit_test(test_net
  SOURCES ${net_dir}/test_main.c ${net_dir}/net_test.c ${net_dir}/test_timers.c
          ${net_dir}/test_tasks.c ${net_dir}/test_conn.c ${net_dir}/test_connect.c
          ${net_dir}/test_listen.c ${net_dir}/test_poll.c ${net_dir}/test_sim.c
  DEPS tarn_net)
