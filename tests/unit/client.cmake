# SPDX-License-Identifier: Apache-2.0
foreach(name names handles session)
  tarn_unit_test(test_client_${name}
    SOURCES lib/client/test_client_${name}.c lib/client/client_rig.c turns.c
    DEPS tarn_client tarn_rpc tarn_base)
endforeach()
foreach(name cluster nobody window)
  tarn_unit_test(test_client_${name}
    SOURCES lib/client/test_client_${name}.c lib/client/cluster_rig.c lib/client/client_rig.c turns.c
    TIMEOUT 180 COST 15
    DEPS tarn_client tarn_rpc tarn_base)
endforeach()
tarn_unit_test(test_client_objects
  SOURCES lib/client/test_client_objects.c lib/client/cluster_rig.c lib/client/client_rig.c turns.c
  DEPS tarn_client tarn_rpc tarn_base)
tarn_unit_test(test_client_peers
  SOURCES lib/client/test_client_peers.c lib/client/cluster_rig.c lib/client/client_rig.c turns.c
  DEPS tarn_client tarn_rpc tarn_base COST 12)
tarn_unit_test(test_client_place
  SOURCES lib/client/test_client_place.c
  DEPS tarn_client tarn_base)
