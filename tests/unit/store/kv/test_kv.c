/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/store/kv/kv_tests.h"

int main(void)
{
    int failed = 0;

    failed += kv_run_calls();
    failed += kv_run_model();
    failed += kv_run_mem();
    failed += kv_run_rocksdb();
    failed += kv_run_damage();
    return failed > 0;
}
