# SPDX-License-Identifier: Apache-2.0
foreach(name names handles session)
  tarn_unit_test(test_client_${name}
    SOURCES lib/client/test_client_${name}.c lib/client/client_rig.c turns.c
    DEPS tarn_client tarn_rpc tarn_base)
endforeach()
