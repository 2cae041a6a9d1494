# SPDX-License-Identifier: Apache-2.0
tarn_unit_test(test_ufs_s3_parts SOURCES ufs/test_s3_parts.c DEPS tarn_ufs)
tarn_unit_test(test_ufs_s3_http SOURCES ufs/test_s3_http.c ufs/fixture.c ufs/server.c DEPS tarn_ufs COST 12)
tarn_unit_test(test_ufs_opts SOURCES ufs/test_opts.c ufs/fixture.c DEPS tarn_ufs)
tarn_unit_test(test_ufs_file SOURCES ufs/test_file.c ufs/fixture.c DEPS tarn_ufs)
add_executable(ufs_try ufs/ufs_try.c ufs/fixture.c)
target_link_libraries(ufs_try PRIVATE tarn_ufs)
